use super::buffers::{Buffers, FixedBuffer, FixedBuffers, FixedFile, Registered as Numbers};
use super::core::{Op, Settings, Shared};
use super::error::{SetupError, Unavailable};
use super::ops::{self, *};
use super::stream::{Deliveries, Links, Messages, Requests};
use super::task::{Hold, Stash};
use crate::error::{Action, ErrorKind, Result, SendError};
use crate::handle::{Access, CanReceive, CanSend, Handle, Rights};
use crate::link::Link;
use crate::object::{Inner, Kind, Subject, device};
use crate::recv::Message;
use crate::ring::RingSide;
use crate::wait::Wait;
use crate::{BarrierAccess, LatchAccess, Listens, PipeReading, PipeWriting, SemaphoreAccess, sys};
use io_uring::IoUring;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a [`Driver`] is to be.
///
/// ```
/// use postbox::uring::Driver;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let driver = match Driver::options().entries(1024).build() {
///     Ok(driver) => driver,
///     Err(error) => {
///         eprintln!("{error}"); // and use the calls of the handles
///         return Ok(());
///     }
/// };
/// assert_eq!(driver.pending(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DriverOptions {
    entries: u32,
    completions: u32,
    sqpoll: Option<u32>,
    single_issuer: bool,
    always_async: bool,
    room: usize,
    files: u32,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl DriverOptions {
    /// 256 entries for submissions and 4,096 for completions.
    pub fn new() -> Self {
        DriverOptions {
            entries: 256,
            completions: 4096,
            sqpoll: None,
            single_issuer: false,
            always_async: false,
            room: 512,
            files: 0,
        }
    }

    /// How many operations are submitted by one call to the kernel, at most; a power of two. More can be
    /// under way.
    pub fn entries(&mut self, entries: u32) -> &mut Self {
        self.entries = entries;
        self
    }

    /// How many completions fit into the queue; at least as many as [`entries`](Self::entries). More
    /// than that wait in the kernel, which costs some time; but a stream is ended, and begun anew.
    pub fn completions(&mut self, completions: u32) -> &mut Self {
        self.completions = completions;
        self
    }

    /// A thread of the kernel takes submissions, without a system call, and sleeps when there was none
    /// for so long. It makes the driver faster, and takes a processor.
    pub fn sqpoll(&mut self, idle: Duration) -> &mut Self {
        self.sqpoll = Some(u32::try_from(idle.as_millis()).unwrap_or(u32::MAX).max(1));
        self
    }

    /// Only the thread that makes the driver submits and waits (`IORING_SETUP_SINGLE_ISSUER`), and what
    /// comes is dealt with when it does so (`IORING_SETUP_DEFER_TASKRUN`): it is not interrupted. What
    /// other threads begin wakes it where it waits, for the driver or its descriptor, and is submitted when it
    /// does so next otherwise. When it has ended, operations fail as
    /// [`Unsupported`](ErrorKind::Unsupported); but those that it had submitted never end, as the kernel
    /// says nothing more of them.
    ///
    /// Where the driver ends in another thread with operations under way, their memory is leaked. A
    /// [registered](Driver::attach_fixed) handle that another thread drops last is closed by this one, when it
    /// submits next. With [`sqpoll`](Self::sqpoll) all threads can submit and wait.
    pub fn single_issuer(&mut self, single_issuer: bool) -> &mut Self {
        self.single_issuer = single_issuer;
        self
    }

    /// All commands go through worker threads of the kernel (`IOSQE_ASYNC`): submitting is never slow,
    /// everything else is. For tests.
    pub fn always_async(&mut self, always_async: bool) -> &mut Self {
        self.always_async = always_async;
        self
    }

    /// Bytes of memory for each receive, until a handle has seen larger messages. One that does not fit
    /// costs a second command.
    pub fn room(&mut self, bytes: usize) -> &mut Self {
        self.room = bytes;
        self
    }

    /// How many handles can be [registered](Driver::attach_fixed) with the ring.
    pub fn fixed_files(&mut self, files: u32) -> &mut Self {
        self.files = files;
        self
    }

    /// Makes the driver.
    ///
    /// # Errors
    /// Its [`why`](SetupError::why) says what is in the way, and its text what to do.
    pub fn build(&self) -> Result<Driver, SetupError> {
        let (_, version) = device()?;
        if version.features & u64::from(sys::POSTBOX_FEATURE_URING) == 0 {
            return Err(SetupError::of(Unavailable::Module));
        }
        let mut builder = IoUring::builder();
        builder.setup_submit_all().setup_cqsize(self.completions);
        if let Some(idle) = self.sqpoll {
            builder.setup_sqpoll(idle);
        }
        if self.single_issuer {
            builder.setup_single_issuer();
            if self.sqpoll.is_none() {
                builder.setup_defer_taskrun().setup_taskrun_flag();
            }
        }
        let ring = builder
            .build(self.entries)
            .map_err(|error| SetupError::setup(&error))?;
        let params = ring.params();
        if !params.is_feature_nodrop()
            || !params.is_feature_ext_arg()
            || !params.is_feature_submit_stable()
        {
            return Err(SetupError::of(Unavailable::Kernel));
        }
        if self.files > 0 {
            ring.submitter().register_files_sparse(self.files)?;
        }
        let settings = Settings {
            always_async: self.always_async,
            room: self.room,
            sqpoll: self.sqpoll.is_some(),
            single_issuer: self.single_issuer,
        };
        let shared = Shared::new(ring, settings, Numbers::new(self.files))?;
        Ok(Driver {
            shared: Arc::new(shared),
        })
    }
}

/// An io_uring, and all that is under way in it. See [the module](crate::uring).
///
/// It can be cloned, which gives the same driver, and shared between threads. It is there as long as one
/// of its clones, of its [`Attached`] handles, operations or streams. At its end everything is cancelled
/// and waited for.
///
/// A child made by `fork` cannot use it: operations fail there as [`Unsupported`](ErrorKind::Unsupported), also
/// those that its parent has begun.
#[derive(Clone)]
pub struct Driver {
    pub(super) shared: Arc<Shared>,
}

impl Driver {
    /// One with the usual [options](DriverOptions::new).
    ///
    /// # Errors
    /// As [`DriverOptions::build`].
    pub fn new() -> Result<Driver, SetupError> {
        DriverOptions::new().build()
    }

    /// How a driver is to be.
    pub fn options() -> DriverOptions {
        DriverOptions::new()
    }

    /// Takes a handle, for operations on it. It is closed when nothing of this is left and no operation
    /// on it is under way.
    pub fn attach<A: Access>(&self, handle: Handle<A>) -> Attached<A> {
        Attached {
            shared: self.shared.clone(),
            target: Arc::new(Target {
                handle,
                fixed: None,
                stash: Stash::default(),
            }),
        }
    }

    /// As [`attach`](Self::attach), and registers it with the ring, which saves the kernel a look-up
    /// in each operation.
    ///
    /// # Errors
    /// `ENFILE`: there is no room for it; [`DriverOptions::fixed_files`] makes it.
    pub fn attach_fixed<A: Access>(&self, handle: Handle<A>) -> Result<Attached<A>> {
        let fixed = FixedFile::new(&self.shared, handle.as_raw_fd());
        let fixed = fixed.map_err(|error| {
            let errno = rustix::io::Errno::from_io_error(&error);
            handle
                .inner
                .error(Action::Submit, errno.unwrap_or(rustix::io::Errno::INVAL))
        })?;
        Ok(Attached {
            shared: self.shared.clone(),
            target: Arc::new(Target {
                handle,
                fixed: Some(fixed),
                stash: Stash::default(),
            }),
        })
    }

    /// Makes a group of `count` buffers (rounded up to a power of two, 32,768 at most), each for a message
    /// of `size` bytes, for streams. A larger message is received on its own.
    ///
    /// # Errors
    /// No memory, or the numbers are not valid.
    pub fn buffers(&self, count: u16, size: usize) -> Result<Buffers, SetupError> {
        Buffers::new(&self.shared, count, size)
    }

    /// Registers `count` buffers of `size` bytes with the ring; once for each driver.
    ///
    /// # Errors
    /// `EBUSY`: there are some already. No memory: they count against what may be locked
    /// (`ulimit -l`).
    pub fn register_buffers(&self, count: u16, size: usize) -> Result<FixedBuffers, SetupError> {
        FixedBuffers::new(&self.shared, count, size)
    }

    /// Submits what was begun, in one call to the kernel, and does not wait for it. Waiting for one of
    /// the operations does that, too.
    ///
    /// # Errors
    /// What the kernel says of the ring; the operations stay in the queue.
    pub fn submit(&self) -> io::Result<()> {
        self.shared.drive()
    }

    /// Submits what was begun, and waits as `wait` says until something is completed; returns how many
    /// completions there were. It wakes whoever waits for them.
    ///
    /// # Errors
    /// What the kernel says of the ring. That the time is up is none.
    pub fn turn(&self, wait: Wait) -> io::Result<usize> {
        let deadline = match wait.fixed() {
            Wait::Forever => None,
            Wait::Deadline(deadline) => Some(deadline),
            other => other.left().map(|left| Instant::now() + left),
        };
        let mut core = self.shared.lock();
        let before = Shared::completions(&core);
        loop {
            self.shared.advance(&mut core)?;
            let count = (Shared::completions(&core) - before) as usize;
            let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if count > 0 || late {
                return Ok(count);
            }
            self.shared.park(core, deadline)?;
            core = self.shared.lock();
        }
    }

    /// Runs a future to its end. The thread waits in the kernel in between, for completions and to be
    /// woken by other threads. Several threads can do this at once.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.shared.block_on(future)
    }

    /// How many operations and streams are in the kernel's hands.
    pub fn pending(&self) -> usize {
        self.shared.busy()
    }

    /// Connects to a listener, by its name, and waits as `wait` says; the order of arrival does not count
    /// here. [`attach`](Self::attach) takes the link.
    ///
    /// # Cancel safety
    ///
    /// When the operation is dropped, there is no connection, or one that is closed at once.
    ///
    /// # Errors
    /// As [`Link::connect`], now where the device cannot be opened, and otherwise from the
    /// operation.
    pub fn connect(&self, name: &str, wait: Wait) -> Result<Op<Result<Link>>> {
        self.connect_to(Subject::new(Kind::Listener, Some(name)), name, 0, wait)
    }

    /// Connects to whoever listens on a port.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_port(&self, port: u16, wait: Wait) -> Result<Op<Result<Link>>> {
        let subject = Subject::numbered(Kind::Listener, port.into());
        if port == 0 {
            let kind = ErrorKind::InvalidName;
            return Err(crate::Error::of_kind(Action::Connect, &subject, kind));
        }
        self.connect_to(subject, "", port, wait)
    }

    fn connect_to(
        &self,
        subject: Subject,
        name: &str,
        port: u16,
        wait: Wait,
    ) -> Result<Op<Result<Link>>> {
        let (fd, version) = device()?;
        let inner = Inner::new(fd, subject, Rights::empty(), version.batch_max as usize);
        let on = self.hold(inner);
        let connect = Connect::new(name, wait);
        let args = connect.args(port);
        Ok(self.shared.start(on.clone(), Ask::new(on, connect, args)))
    }

    fn hold(&self, inner: Inner) -> Arc<dyn Hold> {
        Arc::new(Raw {
            inner,
            stash: Stash::default(),
        })
    }

    /// Waits as a side of a ring: a consumer until a record is there, a producer until half of the ring is
    /// free, either until the other side has left. `end` is that side's: a
    /// [`Producer`](crate::Producer) or [`Consumer`](crate::Consumer). It may be over without a reason.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    ///
    /// # Errors
    /// [`NoDescriptors`](ErrorKind::NoDescriptors) now; [`Timeout`](ErrorKind::Timeout) and
    /// [`NotYet`](ErrorKind::NotYet) from the operation.
    pub fn ring_wait(&self, end: impl AsFd, side: RingSide, wait: Wait) -> Result<Op<Result<()>>> {
        let subject = Subject::new(Kind::Ring, None);
        let fd = rustix::io::fcntl_dupfd_cloexec(end, 0)
            .map_err(|errno| crate::Error::new(Action::Wait, &subject, errno))?;
        let on = self.hold(Inner::new(fd, subject, Rights::empty(), 1));
        let flag = match side {
            RingSide::Producer => sys::POSTBOX_RING_PRODUCER,
            RingSide::Consumer => sys::POSTBOX_RING_CONSUMER,
        };
        let args = ring_args(flag, wait.fixed().flags());
        Ok(self.shared.start(on.clone(), Ask::new(on, RingWait, args)))
    }

    /// The future that drives the driver with tokio: it completes the operations as they are done, and
    /// wakes whoever waits for them. Spawn it, once; it ends with the driver. It does not keep the
    /// driver.
    ///
    /// Call it in the runtime. It works on current-thread and multi-thread runtimes; but a driver for a
    /// [single issuer](DriverOptions::single_issuer) works on a current-thread runtime in that thread alone.
    ///
    /// ```
    /// use postbox::{Mailbox, uring::Driver};
    ///
    /// # #[cfg(feature = "tokio")]
    /// async fn echo(driver: &Driver) -> Result<(), Box<dyn std::error::Error>> {
    ///     tokio::spawn(driver.background()?);
    ///     let jobs = driver.attach(Mailbox::options().anonymous()?);
    ///     jobs.send("build").await?;
    ///     assert_eq!(&*jobs.recv().await?, b"build");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// No descriptor is left, or what tokio says. [`Unsupported`](io::ErrorKind::Unsupported): the driver has a
    /// single issuer, which is another thread, or could be.
    ///
    /// # Panics
    /// Outside of a runtime with I/O, as tokio does.
    #[cfg(feature = "tokio")]
    pub fn background(&self) -> io::Result<super::background::Background> {
        super::background::Background::new(&self.shared)
    }
}

/// The ring's descriptor is readable when something is completed: for an event loop that calls
/// [`turn`](Driver::turn) then, with [`Wait::Never`].
impl AsFd for Driver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: The ring is open as long as this is there.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }
}

impl AsRawFd for Driver {
    fn as_raw_fd(&self) -> RawFd {
        self.shared.ring().as_raw_fd()
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

/// What moves bytes gives the memory back, with how many there were.
pub type BufResult<B> = (Result<usize>, B);

/// A send under way. Its error gives back what was not sent.
pub type Sending<T> = Op<Result<(), SendError<T>>>;

/// A handle that a driver has: its operations are begun here. It can be cloned, which gives the same
/// handle.
///
/// Each method begins an operation and returns it; it is submitted with others later: see [`Op`].
/// What can fail is what can fail in the call of the same name of [`Handle`], and
/// [`Cancelled`](ErrorKind::Cancelled); and [`OtherOwner`](ErrorKind::OtherOwner) for what belongs to another
/// driver (buffers) or handle (what is to be acknowledged or answered; a clone of this is no other).
pub struct Attached<A> {
    shared: Arc<Shared>,
    target: Arc<Target<A>>,
}

impl<A> Clone for Attached<A> {
    fn clone(&self) -> Self {
        Attached {
            shared: self.shared.clone(),
            target: self.target.clone(),
        }
    }
}

impl<A: Access> Attached<A> {
    /// The handle itself, for all that is no operation.
    pub fn handle(&self) -> &Handle<A> {
        &self.target.handle
    }

    /// The driver that has it.
    pub fn driver(&self) -> Driver {
        Driver {
            shared: self.shared.clone(),
        }
    }

    /// Cancels all operations and streams on it that are under way.
    pub fn cancel_all(&self) {
        self.shared.cancel_all(&self.on());
    }

    /// Waits until somebody has, or had, opened the other side: [`Handle::wait_peer`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub fn wait_peer(&self, wait: Wait) -> Op<Result<()>> {
        self.ask(WaitPeer, wait_peer_args(wait.fixed().flags()))
    }

    fn on(&self) -> Arc<dyn Hold> {
        self.target.clone()
    }

    fn ask<Q: Asking>(&self, asking: Q, args: Q::Args) -> Op<Result<Q::Output>> {
        let ask = Ask::new(self.on(), asking, args);
        self.shared.start(self.on(), ask)
    }
}

/// # Sending
///
/// The payload is the driver's until the operation ends, and comes back with an error.
///
/// # Cancel safety
///
/// When a send is dropped, its message was sent, or not; which, nobody knows, and the payload is
/// gone. Where that matters, [`reserve`](Self::reserve) room first, or [`cancel`](Op::cancel) it and wait.
impl<A: CanSend> Attached<A> {
    /// Sends a message, and waits for room, or, on a rendezvous mailbox, until a receiver has the bytes.
    pub fn send(&self, payload: impl Into<Vec<u8>>) -> Sending<Vec<u8>> {
        self.send_with(payload, 0, Wait::Forever)
    }

    /// Sends a message with a priority, and waits as `wait` says.
    pub fn send_with(
        &self,
        payload: impl Into<Vec<u8>>,
        priority: u32,
        wait: Wait,
    ) -> Sending<Vec<u8>> {
        let send = SendOne::new(payload.into(), priority, wait.fixed().flags());
        self.shared.start(self.on(), send)
    }

    /// Sends a message with files, which are closed when it is sent.
    pub fn send_files(
        &self,
        payload: impl Into<Vec<u8>>,
        files: Vec<OwnedFd>,
        priority: u32,
        wait: Wait,
    ) -> Sending<(Vec<u8>, Vec<OwnedFd>)> {
        let send = SendFiles::new(payload.into(), files, priority, wait.fixed().flags());
        self.shared.start(self.on(), send)
    }

    /// Sends many messages, in their order and with few commands. The error has those that were not
    /// sent.
    pub fn send_many(
        &self,
        payloads: Vec<Vec<u8>>,
        priority: u32,
        wait: Wait,
    ) -> Sending<Vec<Vec<u8>>> {
        let send = SendMany::new(payloads, priority, wait.fixed().flags());
        self.shared.start(self.on(), send)
    }

    /// Sends the first `len` bytes of a registered buffer.
    pub fn send_fixed(
        &self,
        buffer: FixedBuffer,
        len: usize,
        priority: u32,
        wait: Wait,
    ) -> Op<BufResult<FixedBuffer>> {
        let place = Registered::<false>::new(&self.shared, buffer, len);
        let send = Direct::new(sys::POSTBOX_SEND, place, priority, wait.fixed().flags());
        self.shared.start(self.on(), send)
    }

    /// Gets room for one message of at most `len` bytes. Sending it then does not wait.
    ///
    /// # Cancel safety
    /// Nothing is lost: room that was got is given back.
    pub fn reserve(&self, len: usize, wait: Wait) -> Op<Result<Reserved>> {
        self.ask(ops::Reserve, reserve_args(len as u64, wait.fixed().flags()))
    }

    /// Sends a request, and waits for its reply.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, or ends as [`Cancelled`](ErrorKind::Cancelled), the request was taken back if
    /// nobody had taken it; otherwise a server may still work on it, and the reply reaches
    /// nobody.
    pub fn call(&self, request: impl Into<Vec<u8>>) -> Op<Result<Message>> {
        self.call_with(request, 0, Wait::Forever)
    }

    /// As [`call`](Self::call), with a priority, and waits as `wait` says. A call always waits:
    /// [`Wait::Never`] is not valid.
    pub fn call_with(
        &self,
        request: impl Into<Vec<u8>>,
        priority: u32,
        wait: Wait,
    ) -> Op<Result<Message>> {
        let call = Call::new(
            request.into(),
            priority,
            wait.fixed().flags(),
            least(&self.shared),
        );
        self.shared.start(self.on(), call)
    }
}

/// # Receiving
///
/// # Cancel safety
///
/// A receive that is dropped loses no message. Where the message came before it could be cancelled,
/// it is handed to the receive that waits longest with this [`Attached`] or a clone of it, or kept for the
/// next one. It goes with the last of the clones: where it must survive that, and the process,
/// [`take`](Self::take) it. It was received for good, so that no `take` or [`deliveries`](Self::deliveries) gets it,
/// which would promise more: do not mix the two on one handle. A request that was taken so waits, and its
/// caller with it, for the next receive.
impl<A: CanReceive> Attached<A> {
    /// Receives a message of whatever size.
    pub fn recv(&self) -> Op<Result<Message>> {
        self.recv_with(Wait::Forever)
    }

    /// Receives a message, and waits as `wait` says.
    pub fn recv_with(&self, wait: Wait) -> Op<Result<Message>> {
        self.receive::<Plain>(wait)
    }

    /// Receives up to `limit` messages (at least one) with one command: what is there, and it waits for
    /// the first.
    pub fn recv_many(&self, limit: usize, wait: Wait) -> Op<Result<Vec<Message>>> {
        let recv = RecvMany::new(self.on(), wait.fixed().flags(), limit);
        self.shared.start(self.on(), recv)
    }

    /// Receives a message into a vector, as far as its capacity reaches, and nothing but its bytes: not who
    /// sent it, and no files. It is the shortest way.
    ///
    /// # Cancel safety
    /// What comes too late to be cancelled is kept for the next operation of this kind.
    pub fn recv_into(&self, buf: Vec<u8>, wait: Wait) -> Op<BufResult<Vec<u8>>> {
        let recv = Direct::new(sys::POSTBOX_RECV, Empty::new(buf), 0, wait.fixed().flags());
        self.shared.start(self.on(), recv)
    }

    /// As [`recv_into`](Self::recv_into), into a registered buffer.
    ///
    /// # Cancel safety
    /// As [`recv_into`](Self::recv_into).
    pub fn recv_fixed(&self, buffer: FixedBuffer, wait: Wait) -> Op<BufResult<FixedBuffer>> {
        let len = buffer.len();
        let place = Registered::<true>::new(&self.shared, buffer, len);
        let recv = Direct::new(sys::POSTBOX_RECV, place, 0, wait.fixed().flags());
        self.shared.start(self.on(), recv)
    }

    /// Takes a message that is to be acknowledged: [`Handle::take`].
    ///
    /// # Cancel safety
    /// What comes too late to be cancelled goes back to the head.
    pub fn take(&self) -> Op<Result<Delivery>> {
        self.take_with(Wait::Forever)
    }

    /// Takes a message, and waits as `wait` says.
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    pub fn take_with(&self, wait: Wait) -> Op<Result<Delivery>> {
        self.receive::<Acknowledged>(wait)
    }

    /// The message is done with, which is one of this handle. [`Delivery::ack`] is a call that does the
    /// same. Where it fails, the message goes back to the head.
    ///
    /// # Cancel safety
    /// When it is dropped, the message was acknowledged, or goes back to the head.
    pub fn ack(&self, delivery: Delivery) -> Op<Result<Message>> {
        self.shared.start(self.on(), Settle::new(delivery))
    }

    /// Receives a request: [`Handle::recv_request`]. Messages that nobody waits for are received, too.
    pub fn recv_request(&self) -> Op<Result<Request>> {
        self.recv_request_with(Wait::Forever)
    }

    /// Receives a request, and waits as `wait` says.
    pub fn recv_request_with(&self, wait: Wait) -> Op<Result<Request>> {
        self.receive::<Asked>(wait)
    }

    /// Answers a request of this handle. It never waits.
    ///
    /// # Cancel safety
    /// When it is dropped, the caller gets the reply, or is told that there is none.
    pub fn reply(
        &self,
        request: Request,
        payload: impl Into<Vec<u8>>,
    ) -> Op<Result<(), ReplyError>> {
        self.shared
            .start(self.on(), Reply::new(request, payload.into()))
    }

    /// Answers a request and receives the next, in one command. Where nothing [is
    /// open](Request::is_open) it only receives.
    ///
    /// # Cancel safety
    /// When it is dropped, the caller gets the reply, or is told that there is none; a request that had
    /// come is kept for the next receive.
    pub fn reply_recv(
        &self,
        request: Request,
        payload: impl Into<Vec<u8>>,
    ) -> Op<Result<Request, ReplyError>> {
        self.reply_recv_with(request, payload, Wait::Forever)
    }

    /// As [`reply_recv`](Self::reply_recv), and waits as `wait` says.
    ///
    /// # Cancel safety
    /// As [`reply_recv`](Self::reply_recv).
    pub fn reply_recv_with(
        &self,
        request: Request,
        payload: impl Into<Vec<u8>>,
        wait: Wait,
    ) -> Op<Result<Request, ReplyError>> {
        let (how, least) = (wait.fixed().flags(), least(&self.shared));
        let op = ReplyRecv::new(self.on(), request, payload.into(), how, least);
        self.shared.start(self.on(), op)
    }

    /// Messages as they come, by one command that goes on, into buffers of the group.
    pub fn messages(&self, buffers: &Buffers) -> Messages {
        Messages::new(&self.shared, self.on(), buffers)
    }

    /// The same with messages that are to be acknowledged.
    pub fn deliveries(&self, buffers: &Buffers) -> Deliveries {
        Deliveries::new(&self.shared, self.on(), buffers)
    }

    /// The same with requests that are to be answered.
    pub fn requests(&self, buffers: &Buffers) -> Requests {
        Requests::new(&self.shared, self.on(), buffers)
    }

    fn receive<W: Want>(&self, wait: Wait) -> Op<Result<W::Item>> {
        let recv = Recv::<W>::new(self.on(), wait.fixed().flags(), least(&self.shared));
        self.shared.start(self.on(), recv)
    }
}

/// # Accepting
///
/// # Cancel safety
///
/// An accept that is dropped loses no connection: what came too late to be cancelled is kept for the next
/// accept with this [`Attached`] or a clone of it.
impl Attached<Listens> {
    /// Takes a connection. [`Driver::attach`] takes the link.
    pub fn accept(&self) -> Op<Result<Link>> {
        self.accept_with(Wait::Forever)
    }

    /// Takes a connection, and waits as `wait` says.
    pub fn accept_with(&self, wait: Wait) -> Op<Result<Link>> {
        self.ask(ops::Accept, accept_args(wait.fixed().flags()))
    }

    /// Connections as they come, by one command that goes on. The buffers need have no room for
    /// anything.
    pub fn links(&self, buffers: &Buffers) -> Links {
        Links::new(&self.shared, self.on(), buffers)
    }
}

/// # Reading from a pipe
impl Attached<PipeReading> {
    /// Reads into a vector, as far as its capacity reaches; 0 bytes: the last writer is gone.
    ///
    /// # Cancel safety
    /// What was read too late to be cancelled is kept for the next read with room for it.
    pub fn read(&self, buf: Vec<u8>, wait: Wait) -> Op<BufResult<Vec<u8>>> {
        let read = Direct::new(sys::POSTBOX_READ, Empty::new(buf), 0, wait.fixed().flags());
        self.shared.start(self.on(), read)
    }

    /// Reads into a registered buffer.
    ///
    /// # Cancel safety
    /// As [`read`](Self::read).
    pub fn read_fixed(&self, buffer: FixedBuffer, wait: Wait) -> Op<BufResult<FixedBuffer>> {
        let len = buffer.len();
        let place = Registered::<true>::new(&self.shared, buffer, len);
        let read = Direct::new(sys::POSTBOX_READ, place, 0, wait.fixed().flags());
        self.shared.start(self.on(), read)
    }
}

/// # Writing to a pipe
///
/// # Cancel safety
///
/// When a write is dropped, some of its bytes were written, or none, or all.
impl Attached<PipeWriting> {
    /// Writes all of it; fewer bytes only where something ended it after a part.
    pub fn write(&self, data: impl Into<Vec<u8>>, wait: Wait) -> Op<BufResult<Vec<u8>>> {
        let write = Direct::new(
            sys::POSTBOX_WRITE,
            Full(data.into()),
            0,
            wait.fixed().flags(),
        );
        self.shared.start(self.on(), write)
    }

    /// Writes the first `len` bytes of a registered buffer.
    pub fn write_fixed(
        &self,
        buffer: FixedBuffer,
        len: usize,
        wait: Wait,
    ) -> Op<BufResult<FixedBuffer>> {
        let place = Registered::<false>::new(&self.shared, buffer, len);
        let write = Direct::new(sys::POSTBOX_WRITE, place, 0, wait.fixed().flags());
        self.shared.start(self.on(), write)
    }
}

/// # Semaphores
impl Attached<SemaphoreAccess> {
    /// Takes one from it, until what is returned is dropped.
    ///
    /// # Cancel safety
    /// Nothing is lost: what was acquired is released.
    pub fn acquire(&self) -> Op<Result<Acquired>> {
        self.acquire_many(1, Wait::Forever)
    }

    /// Takes so many, all at once, and waits as `wait` says.
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    pub fn acquire_many(&self, count: u64, wait: Wait) -> Op<Result<Acquired>> {
        let (how, time) = wait.fixed().flags();
        let args = sync_args((how | sys::POSTBOX_SYNC_UNDO, time), count);
        self.ask(Acquire, args)
    }

    /// Adds so many, whoever took them. It does not wait.
    ///
    /// # Cancel safety
    /// When it is dropped, they were added, or not.
    pub fn post(&self, count: u64) -> Op<Result<()>> {
        self.ask(Release, sync_args((0, 0), count))
    }
}

/// # Latches
impl Attached<LatchAccess> {
    /// Waits until it is open.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub fn wait_open(&self, wait: Wait) -> Op<Result<()>> {
        self.ask(LatchWait, sync_args(wait.fixed().flags(), 1))
    }

    /// Counts it down. It does not wait.
    ///
    /// # Cancel safety
    /// When it is dropped, it was counted down, or not.
    pub fn count_down(&self, count: u64) -> Op<Result<()>> {
        self.ask(CountDown, sync_args((0, 0), count))
    }
}

/// # Barriers
impl Attached<BarrierAccess> {
    /// Waits until all are there.
    ///
    /// # Cancel safety
    /// When it is dropped, it was one of those who were there, if all were; or it was not there.
    pub fn wait_all(&self, wait: Wait) -> Op<Result<crate::BarrierWaitResult>> {
        self.ask(BarrierWait, sync_args(wait.fixed().flags(), 1))
    }
}

impl<A: Access> AsFd for Attached<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle().as_fd()
    }
}

impl<A: Access> fmt::Debug for Attached<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attached").field(self.handle()).finish()
    }
}
