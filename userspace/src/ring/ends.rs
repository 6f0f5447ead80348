//! The types of rings: what is opened, and its two sides.

use super::bell;
use super::bell::{FutexDoorbell, KernelDoorbell};
use super::core::{self, Area, Doorbell, Found, RingCalls, Run, Rx, Side as RingSide, Stop, Tx};
use super::index::Geometry;
use super::memory::{self, copy_in, copy_out};
use crate::error::{Action, Error, ErrorKind, Result};
use crate::handle::{Access, Handle, Rights, access};
use crate::object::{Inner, Kind, Subject};
use crate::trust::{Copying, Trust, Trusting};
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, Immutable, IntoBytes};

access! {
    /// Sends through a ring: the access of a [`RingSender`].
    RingSending = Rights::SEND, "RingSender", [Ring];
    /// Receives from a ring: the access of a [`RingReceiver`].
    RingReceiving = Rights::RECEIVE, "RingReceiver", [Ring];
}

/// The ends of a ring.
pub trait RingEnd: Access {}

impl RingEnd for RingSending {}
impl RingEnd for RingReceiving {}

/// A handle to a ring, of who sends: what [`Producer`]s come from.
pub type RingSender = Handle<RingSending>;

/// A handle to a ring, of who receives: what a [`Consumer`] comes from.
pub type RingReceiver = Handle<RingReceiving>;

/// A channel of records in shared memory, from one producer or many to one consumer. It costs no
/// system call while both sides are busy: the kernel maps the memory, lets who finds it empty or
/// full sleep, and tells either side when the other one is gone. This is where its ends come from.
///
/// A record is written where it will be read, whatever its size, up to half of the ring.
///
/// ```
/// use postbox::Ring;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let (sender, receiver) = Ring::options().capacity(1 << 20).pair()?;
/// let mut producer = sender.attach()?;
/// let mut consumer = receiver.attach()?;
///
/// producer.send(b"a record")?;
/// let mut slot = producer.reserve(100_000)?;
/// slot.write_at(99_992, b"the last");
/// slot.commit();
///
/// assert_eq!(consumer.recv()?.to_vec(), b"a record");
/// let record = consumer.recv()?;
/// let mut last = [0; 8];
/// record.read_at(99_992, &mut last);
/// assert_eq!(&last, b"the last");
/// drop(record); // its room is free again
///
/// drop(producer);
/// assert!(consumer.recv().is_err_and(|error| error.is_disconnected()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Ring {}

impl Ring {
    /// How a ring is to be opened or made.
    pub fn options() -> RingOptions {
        RingOptions::new()
    }
}

/// How a ring is to be opened or made.
///
/// ```
/// use postbox::Ring;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let log = Ring::options().create(true).many(true).open_receiver("doc/ring")?;
/// let mut consumer = log.attach()?;
/// let sender = Ring::options().open_sender("doc/ring")?;
/// let mut first = sender.attach()?;
/// let mut second = first.try_clone()?;
/// first.send(b"one")?;
/// second.send(b"two")?;
/// assert_eq!(consumer.recv()?.to_vec(), b"one");
/// assert_eq!(consumer.recv()?.to_vec(), b"two");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RingOptions {
    args: sys::postbox_open,
    admin: bool,
}

impl Default for RingOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl RingOptions {
    /// To open what exists. What is made otherwise holds 65,536 bytes, has one producer, is for its
    /// owner alone (mode 0600), and goes with the last handle.
    pub fn new() -> Self {
        let args = sys::postbox_open {
            mode: 0o600,
            ..Default::default()
        };
        RingOptions { args, admin: false }
    }

    /// How many bytes it holds, at least: the number is rounded up to a power of two. Each record
    /// takes eight bytes more than it has (328 where it has more than 4,096), and is rounded up to
    /// eight. 0: as many as usual.
    pub fn capacity(&mut self, bytes: u64) -> &mut Self {
        self.args.capacity_bytes = bytes;
        self
    }

    /// Whether it can have many producers, up to 64, which costs each record an atomic operation or
    /// two more.
    pub fn many(&mut self, many: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_MANY, many)
    }

    /// Permission bits as of a file: w to send, r to receive. The umask is not applied.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.args.mode = mode;
        self
    }

    /// Make it if there is none.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_CREATE, create)
    }

    /// Make it, and fail if there is one.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_EXCL, create_new)
    }

    /// When made, it stays until its name is removed, and is never over: who receives waits for
    /// another producer, and who sends for another consumer, which goes on where the last one was.
    pub fn persist(&mut self, persist: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_PERSIST, persist)
    }

    /// Ask for [`Rights::ADMIN`], too: it allows [`Handle::set_mode`] and [`Handle::chown`].
    pub fn admin(&mut self, admin: bool) -> &mut Self {
        self.admin = admin;
        self
    }

    fn flag(&mut self, flag: u32, on: bool) -> &mut Self {
        if on {
            self.args.flags |= flag;
        } else {
            self.args.flags &= !flag;
        }
        self
    }

    /// Opens or makes it, to send.
    ///
    /// # Errors
    /// As [`Options::open`](crate::Options::open);
    /// [`Unsupported`](crate::ErrorKind::Unsupported): the name is not that of a ring; the capacity
    /// is larger than the module allows ([`Os`](crate::ErrorKind::Os), `EINVAL`).
    pub fn open_sender(&self, name: &str) -> Result<RingSender> {
        self.open(Some(name), Rights::SEND).map(Handle::from_inner)
    }

    /// Opens or makes it, to receive.
    ///
    /// # Errors
    /// As [`RingOptions::open_sender`].
    pub fn open_receiver(&self, name: &str) -> Result<RingReceiver> {
        self.open(Some(name), Rights::RECEIVE)
            .map(Handle::from_inner)
    }

    /// Makes a ring without a name, and both its ends.
    ///
    /// # Errors
    /// [`Quota`](crate::ErrorKind::Quota), [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
    /// [`Incompatible`](crate::ErrorKind::Incompatible), and a capacity larger than the module
    /// allows ([`Os`](crate::ErrorKind::Os), `EINVAL`).
    pub fn pair(&self) -> Result<(RingSender, RingReceiver)> {
        let both = self.open(None, Rights::RECEIVE | Rights::SEND)?;
        let admin = both.rights & Rights::ADMIN;
        let sender = both.dup(Rights::SEND | admin)?;
        let receiver = both.dup(Rights::RECEIVE | admin)?;
        Ok((Handle::from_inner(sender), Handle::from_inner(receiver)))
    }

    fn open(&self, name: Option<&str>, rights: Rights) -> Result<Inner> {
        let mut args = self.args;
        if name.is_none() {
            args.flags = sys::POSTBOX_O_CREATE | (args.flags & sys::POSTBOX_O_MANY);
        } else if args.flags & sys::POSTBOX_O_EXCL != 0 {
            args.flags |= sys::POSTBOX_O_CREATE;
        }
        let admin = if self.admin {
            Rights::ADMIN
        } else {
            Rights::empty()
        };
        let (inner, _) = Inner::open(Subject::new(Kind::Ring, name), rights | admin, args)?;
        Ok(inner)
    }

    /// Makes a ring without the kernel module, for threads of this process and children that it
    /// forks: what they sleep and wake by is a futex. Only capacity and [`many`](Self::many) are
    /// looked at. That a side was dropped is noticed, that its process was killed is not.
    ///
    /// ```
    /// use postbox::Ring;
    ///
    /// # fn main() -> postbox::Result<()> {
    /// let (mut producer, mut consumer) = Ring::options().local()?;
    /// let thread = std::thread::spawn(move || producer.send(b"from a thread"));
    /// assert_eq!(consumer.recv()?.to_vec(), b"from a thread");
    /// thread.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os): no memory, or a capacity that is too large (`EINVAL`).
    pub fn local(&self) -> Result<LocalPair> {
        let subject = Subject::new(Kind::Ring, None);
        let error = |errno| Error::new(Action::Open, &subject, errno);
        let capacity = match self.args.capacity_bytes {
            0 => 65_536,
            bytes => bytes.max(4096).checked_next_power_of_two().unwrap_or(0),
        };
        let geometry = Geometry::new(capacity).ok_or_else(|| error(Errno::INVAL))?;
        let many = self.args.flags & sys::POSTBOX_O_MANY != 0;
        let area = memory::local(geometry, many).map_err(error)?;
        let id = bell::enrol(area.status(), many).ok_or_else(|| error(Errno::BUSY))?;
        let (tx, rx) = (FutexDoorbell(()), FutexDoorbell(()));
        Ok((
            Producer::new(Tx::new(area.clone(), tx, id, spin()), subject.clone()),
            Consumer::new(Rx::new(area, rx, spin()), subject),
        ))
    }
}

/// Both sides of a ring without the kernel module.
pub type LocalPair = (
    Producer<Copying, FutexDoorbell>,
    Consumer<Copying, FutexDoorbell>,
);

/// How often a side looks before it sleeps, unless it is told otherwise. On one CPU there is nobody
/// to wait for that could do something meanwhile.
fn spin() -> u32 {
    static SPIN: OnceLock<u32> = OnceLock::new();
    *SPIN.get_or_init(|| match std::thread::available_parallelism() {
        Ok(cpus) if cpus.get() > 1 => 4096,
        _ => 0,
    })
}

/// Attaches to a ring as one side, and maps it.
fn attach(inner: &Inner, side: RingSide) -> Result<(Area, KernelDoorbell, u32)> {
    let error = |errno| inner.error(Action::Attach, errno);
    // The same handle to the kernel, which this side keeps open.
    let fd = inner.fd.try_clone().map_err(|io| {
        let errno = Errno::from_io_error(&io);
        error(errno.unwrap_or(Errno::IO))
    })?;
    let flag = match side {
        RingSide::Consumer => sys::POSTBOX_RING_CONSUMER,
        RingSide::Producer => sys::POSTBOX_RING_PRODUCER,
    };
    let attached = raw::ring_attach(&fd, flag).map_err(error)?;
    match memory::map(fd.as_fd(), side, &attached) {
        Ok(area) => {
            let nonblocking = AtomicBool::new(false);
            Ok((area, KernelDoorbell::new(fd, nonblocking), attached.id))
        }
        Err(errno) => {
            // There is nobody behind it.
            let _ = raw::ring_detach(&fd, flag);
            Err(error(errno))
        }
    }
}

/// # Sending through a ring
impl RingSender {
    /// Becomes a producer. The ring has one, or up to 64 where it was made for
    /// [`many`](RingOptions::many), of whom each has a handle of its own ([`Producer::try_clone`]).
    ///
    /// The process leaves when the producer is dropped. When it exits without that, or is killed,
    /// the consumer is told that it died.
    ///
    /// # Errors
    /// [`Busy`](crate::ErrorKind::Busy): it has its producers, or this handle is attached already;
    /// [`Disconnected`](crate::ErrorKind::Disconnected): the ring is over; no memory
    /// ([`Os`](crate::ErrorKind::Os)) or descriptor
    /// ([`NoDescriptors`](crate::ErrorKind::NoDescriptors)).
    pub fn attach(&self) -> Result<Producer> {
        let (area, bell, id) = attach(&self.inner, RingSide::Producer)?;
        let subject = self.inner.subject.clone();
        Ok(Producer::new(Tx::new(area, bell, id, spin()), subject))
    }
}

/// # Receiving from a ring
impl RingReceiver {
    /// Becomes the consumer.
    ///
    /// The process leaves when the consumer is dropped. When it exits without that, or is killed,
    /// producers are told that it died.
    ///
    /// # Errors
    /// As [`RingSender::attach`].
    pub fn attach(&self) -> Result<Consumer> {
        let (area, bell, _) = attach(&self.inner, RingSide::Consumer)?;
        let subject = self.inner.subject.clone();
        Ok(Consumer::new(Rx::new(area, bell, spin()), subject))
    }
}

/// The sending side of a ring.
///
/// A record is sent whole ([`send`](Self::send)), or reserved, written in its place, and
/// committed ([`reserve`](Self::reserve)). Several that are published together
/// ([`batch`](Self::batch)) cost one barrier, and wake the consumer once at most.
///
/// A producer that finds the ring full waits until half of it is free, so that the consumer need
/// not wake it for every record.
pub struct Producer<T = Copying, D: Doorbell = KernelDoorbell> {
    pub(super) tx: Tx<D>,
    subject: Subject,
    trust: PhantomData<T>,
}

/// The receiving side of a ring.
///
/// A record is read where it is, and its room is free again when the [`Record`] is dropped.
/// Several that are released together ([`batch`](Self::batch)) cost one barrier. At the end, when
/// the producers are gone and all is received, a receive says so:
/// [`Disconnected`](crate::ErrorKind::Disconnected) where the last one left,
/// [`OwnerDied`](crate::ErrorKind::OwnerDied) where it died.
pub struct Consumer<T = Copying, D: Doorbell = KernelDoorbell> {
    pub(super) rx: Rx<D>,
    subject: Subject,
    trust: PhantomData<T>,
}

/// What a call came to, with the object's name.
fn error(subject: &Subject, action: Action, stop: Stop, len: usize, limit: usize) -> Error {
    let kind = match stop {
        Stop::NotNow | Stop::Contended => {
            let errno = Errno::AGAIN;
            return Error::new(action, subject, errno);
        }
        Stop::Timeout => ErrorKind::Timeout,
        Stop::Closed => ErrorKind::Disconnected,
        Stop::Died => ErrorKind::OwnerDied,
        Stop::Corrupt => ErrorKind::Corrupt,
        Stop::TooLong => ErrorKind::TooLarge {
            len: len as u64,
            limit: limit as u64,
        },
        Stop::Os(errno) => return Error::new(action, subject, errno),
    };
    Error::of_kind(action, subject, kind)
}

impl<T: Trust, D: Doorbell> Producer<T, D> {
    fn new(tx: Tx<D>, subject: Subject) -> Self {
        Producer {
            tx,
            subject,
            trust: PhantomData,
        }
    }

    /// Bytes of the longest record, which takes half of the ring.
    pub fn longest(&self) -> usize {
        self.tx.area.geometry.longest() as usize
    }

    /// Bytes of the ring.
    pub fn capacity(&self) -> usize {
        self.tx.area.geometry.bytes()
    }

    /// How often this side has called the kernel so far.
    pub fn calls(&self) -> RingCalls {
        self.tx.calls
    }

    /// How often at most it looks for room before it sleeps; 0: it sleeps at once. Where looking is
    /// in vain, it looks less.
    pub fn set_spin(&mut self, looks: u32) {
        self.tx.spin = core::Spin::new(looks);
    }

    /// Reserves a record of `len` bytes, which is to be written and [committed](Slot::commit), and
    /// waits for room.
    ///
    /// # Errors
    /// [`Disconnected`](crate::ErrorKind::Disconnected): the consumer has left;
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied): it died;
    /// [`TooLarge`](crate::ErrorKind::TooLarge): no record is so [long](Self::longest);
    /// [`Corrupt`](crate::ErrorKind::Corrupt): a peer has spoilt the ring.
    pub fn reserve(&mut self, len: usize) -> Result<Slot<'_, T, D>> {
        self.reserve_with(len, Wait::Forever)
    }

    /// Reserves a record if there is room now.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full), and as [`reserve`](Self::reserve).
    pub fn try_reserve(&mut self, len: usize) -> Result<Slot<'_, T, D>> {
        self.reserve_with(len, Wait::Never)
    }

    /// Reserves a record, and waits as `wait` says.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full), [`Timeout`](crate::ErrorKind::Timeout), and as
    /// [`reserve`](Self::reserve).
    #[inline]
    pub fn reserve_with(&mut self, len: usize, wait: Wait) -> Result<Slot<'_, T, D>> {
        let position = self.position(len, wait)?;
        Ok(self.slot(position, len, true))
    }

    #[inline(always)]
    fn position(&mut self, len: usize, wait: Wait) -> Result<u32> {
        match self.tx.reserve_quickly(len) {
            Some(position) => Ok(position),
            None => self.reserve_slowly(len, wait),
        }
    }

    #[inline(never)]
    fn reserve_slowly(&mut self, len: usize, wait: Wait) -> Result<u32> {
        let reserved = self.tx.reserve(len, wait);
        reserved.map_err(|stop| error(&self.subject, Action::Send, stop, len, self.longest()))
    }

    /// Sends what the consumer will see when it is published.
    #[inline(always)]
    fn put(&mut self, data: &[u8], wait: Wait) -> Result<()> {
        let Some(position) = self.tx.reserve_quickly(data.len()) else {
            return self.put_slowly(data, wait);
        };
        // SAFETY: so many bytes are reserved there.
        unsafe { copy_in::<T>(data, self.tx.area.payload(position), 0) };
        self.tx.commit_next(data.len() as u32);
        Ok(())
    }

    #[inline(never)]
    fn put_slowly(&mut self, data: &[u8], wait: Wait) -> Result<()> {
        let position = self.reserve_slowly(data.len(), wait)?;
        // SAFETY: as above.
        unsafe { copy_in::<T>(data, self.tx.area.payload(position), 0) };
        self.tx.commit(position, data.len() as u32);
        Ok(())
    }

    /// Sends a record, and waits for room.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    #[inline]
    pub fn send(&mut self, data: &[u8]) -> Result<()> {
        self.send_with(data, Wait::Forever)
    }

    /// Sends a record if there is room now.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full), and as [`reserve`](Self::reserve).
    pub fn try_send(&mut self, data: &[u8]) -> Result<()> {
        self.send_with(data, Wait::Never)
    }

    /// Sends a record, and waits at most `timeout` for room.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`reserve`](Self::reserve).
    pub fn send_timeout(&mut self, data: &[u8], timeout: Duration) -> Result<()> {
        self.send_with(data, Wait::Timeout(timeout))
    }

    /// Sends a record, and waits until `deadline` at the latest for room.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`reserve`](Self::reserve).
    pub fn send_deadline(&mut self, data: &[u8], deadline: Instant) -> Result<()> {
        self.send_with(data, Wait::Deadline(deadline))
    }

    /// Sends a record, and waits as `wait` says.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full), [`Timeout`](crate::ErrorKind::Timeout), and as
    /// [`reserve`](Self::reserve).
    #[inline]
    pub fn send_with(&mut self, data: &[u8], wait: Wait) -> Result<()> {
        self.put(data, wait)?;
        self.tx.publish();
        Ok(())
    }

    /// Sends a value as its bytes, and waits for room. [`Record::value`] makes it again.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn send_value<V: IntoBytes + Immutable>(&mut self, value: &V) -> Result<()> {
        self.send(value.as_bytes())
    }

    /// Records that the consumer sees together, when the batch is dropped; or sooner, where the
    /// ring is full, or has many producers. What is left is then published as usual.
    pub fn batch(&mut self) -> SendBatch<'_, T, D> {
        SendBatch { producer: self }
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Reserves a record, as [`reserve_with`](Self::reserve_with), of which [`slot`](Self::slot)
    /// has to be made.
    pub(crate) fn try_position(&mut self, len: usize) -> Result<u32> {
        self.position(len, Wait::Never)
    }

    /// The record that was reserved there.
    #[inline(always)]
    pub(crate) fn slot(&mut self, position: u32, len: usize, publish: bool) -> Slot<'_, T, D> {
        Slot {
            tx: &mut self.tx,
            position,
            len,
            publish,
            trust: PhantomData,
        }
    }

    /// The same producer, whose reserved records are slices.
    ///
    /// # Safety
    /// As long as there is a [`Slot`], nobody else writes to its record: other producers keep to the
    /// protocol, and so does whoever has any other writable mapping of this ring. This process does
    /// not detach its side by [`raw`](crate::raw), after which there may be another producer.
    pub unsafe fn trusting(self) -> Producer<Trusting, D> {
        Producer::new(self.tx, self.subject)
    }
}

impl<T: Trust> Producer<T, KernelDoorbell> {
    /// Makes what would wait return at once with [`Full`](crate::ErrorKind::Full). For use with an
    /// event loop: after that, even an edge-triggered one is told when half of the ring is free.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        set_nonblocking(&self.tx.bell, &self.subject, nonblocking)
    }

    /// An event loop is told of room from now on; but what waits still does.
    pub(crate) fn watch(&self, on: bool) {
        self.tx.bell.nonblocking.store(on, Relaxed);
    }
}

impl<T: Trust> Producer<T, KernelDoorbell> {
    /// One more producer of a ring for [`many`](RingOptions::many), with a handle of its own.
    ///
    /// # Errors
    /// As [`RingSender::attach`]; no descriptor is left.
    pub fn try_clone(&self) -> Result<Producer> {
        let failed = |errno| Error::new(Action::Clone, &self.subject, errno);
        let fd = raw::dup(&self.tx.bell.fd, Rights::SEND.bits()).map_err(failed)?;
        let inner = Inner::new(fd, self.subject.clone(), Rights::SEND, 0);
        RingSender::from_inner(inner).attach()
    }
}

impl<T: Trust> Producer<T, FutexDoorbell> {
    /// One more producer of a ring for [`many`](RingOptions::many).
    ///
    /// # Errors
    /// [`Busy`](crate::ErrorKind::Busy): it has its producers.
    pub fn try_clone(&self) -> Result<Producer<Copying, FutexDoorbell>> {
        let area = self.tx.area.clone();
        let id = bell::enrol(area.status(), area.many);
        let id = id.ok_or_else(|| Error::new(Action::Attach, &self.subject, Errno::BUSY))?;
        let tx = Tx::new(area, FutexDoorbell(()), id, spin());
        Ok(Producer::new(tx, self.subject.clone()))
    }
}

fn set_nonblocking(bell: &KernelDoorbell, subject: &Subject, nonblocking: bool) -> Result<()> {
    let set = || {
        let mut flags = rustix::fs::fcntl_getfl(&bell.fd)?;
        flags.set(rustix::fs::OFlags::NONBLOCK, nonblocking);
        rustix::fs::fcntl_setfl(&bell.fd, flags)
    };
    bell.nonblocking.store(nonblocking, Relaxed);
    set().map_err(|errno| Error::new(Action::Poll, subject, errno))
}

/// A record that is reserved, to be written and [committed](Self::commit). When it is dropped
/// instead, it is as if it had never been.
#[must_use = "a slot that is dropped is not sent"]
pub struct Slot<'a, T: Trust = Copying, D: Doorbell = KernelDoorbell> {
    tx: &'a mut Tx<D>,
    position: u32,
    len: usize,
    publish: bool,
    trust: PhantomData<T>,
}

impl<T: Trust, D: Doorbell> Slot<'_, T, D> {
    /// Its bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first byte, aligned to eight. What it has not been written to, it has from before.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.tx.area.payload(self.position).as_ptr()
    }

    /// Writes `data` to its beginning.
    ///
    /// # Panics
    /// If that is longer than the record.
    pub fn write(&mut self, data: &[u8]) {
        self.write_at(0, data);
    }

    /// Writes `data` to `offset`.
    ///
    /// # Panics
    /// If that is beyond the record.
    pub fn write_at(&mut self, offset: usize, data: &[u8]) {
        let end = offset.checked_add(data.len());
        assert!(
            end.is_some_and(|end| end <= self.len),
            "{} bytes at {offset} of a record of {}",
            data.len(),
            self.len
        );
        // SAFETY: they are within the record, which is reserved.
        unsafe { copy_in::<T>(data, self.tx.area.payload(self.position), offset) };
    }

    /// Sends it.
    #[inline]
    pub fn commit(self) {
        let slot = ManuallyDrop::new(self);
        // SAFETY: the slot is not used again, nor dropped.
        let tx = unsafe { std::ptr::read(&slot.tx) };
        tx.commit(slot.position, slot.len as u32);
        if slot.publish {
            tx.publish();
        }
    }
}

impl<T: Trust, D: Doorbell> Drop for Slot<'_, T, D> {
    fn drop(&mut self) {
        self.tx.abort(self.position, self.len as u32);
    }
}

impl<D: Doorbell> Deref for Slot<'_, Trusting, D> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let at = self.tx.area.payload(self.position);
        // SAFETY: so many bytes are reserved there, and initialised from the beginning. That nobody
        // else writes to them is what `trusting` was promised.
        unsafe { std::slice::from_raw_parts(at.as_ptr(), self.len) }
    }
}

impl<D: Doorbell> DerefMut for Slot<'_, Trusting, D> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let at = self.tx.area.payload(self.position);
        // SAFETY: as above; the slot is mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(at.as_ptr(), self.len) }
    }
}

/// Records that are published together: see [`Producer::batch`].
pub struct SendBatch<'a, T: Trust = Copying, D: Doorbell = KernelDoorbell> {
    producer: &'a mut Producer<T, D>,
}

impl<T: Trust, D: Doorbell> SendBatch<'_, T, D> {
    /// As [`Producer::send`].
    ///
    /// # Errors
    /// As there. What was sent before stays sent.
    #[inline]
    pub fn send(&mut self, data: &[u8]) -> Result<()> {
        self.producer.put(data, Wait::Forever)
    }

    /// As [`Producer::send_value`].
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[inline]
    pub fn send_value<V: IntoBytes + Immutable>(&mut self, value: &V) -> Result<()> {
        self.send(value.as_bytes())
    }

    /// As [`Producer::reserve_with`].
    ///
    /// # Errors
    /// As there. What was sent before stays sent.
    #[inline]
    pub fn reserve_with(&mut self, len: usize, wait: Wait) -> Result<Slot<'_, T, D>> {
        let position = self.producer.position(len, wait)?;
        Ok(self.producer.slot(position, len, false))
    }
}

impl<T: Trust, D: Doorbell> Drop for SendBatch<'_, T, D> {
    fn drop(&mut self) {
        // A copy that a fork has made is the parent's to publish.
        if self.producer.tx.bell.is_here() {
            self.producer.tx.publish();
        }
    }
}

#[cold]
fn failed(subject: &Subject, stop: Stop) -> Error {
    error(subject, Action::Receive, stop, 0, 0)
}

impl<T: Trust, D: Doorbell> Consumer<T, D> {
    fn new(rx: Rx<D>, subject: Subject) -> Self {
        Consumer {
            rx,
            subject,
            trust: PhantomData,
        }
    }

    /// Bytes of the ring.
    pub fn capacity(&self) -> usize {
        self.rx.area.geometry.bytes()
    }

    /// How often this side has called the kernel so far.
    pub fn calls(&self) -> RingCalls {
        self.rx.calls
    }

    /// How often at most it looks for a record before it sleeps; 0: it sleeps at once. Where looking
    /// is in vain, it looks less.
    pub fn set_spin(&mut self, looks: u32) {
        self.rx.spin = core::Spin::new(looks);
    }

    /// Receives a record, and waits for it.
    ///
    /// # Errors
    /// [`Disconnected`](crate::ErrorKind::Disconnected): the last producer has left, and everything
    /// is received; [`OwnerDied`](crate::ErrorKind::OwnerDied): it died, likewise;
    /// [`Corrupt`](crate::ErrorKind::Corrupt): a peer has spoilt the ring.
    #[inline]
    pub fn recv(&mut self) -> Result<Record<'_, T, D>> {
        self.recv_with(Wait::Forever)
    }

    /// Receives a record if there is one now.
    ///
    /// # Errors
    /// [`Empty`](crate::ErrorKind::Empty), and as [`recv`](Self::recv).
    pub fn try_recv(&mut self) -> Result<Record<'_, T, D>> {
        self.recv_with(Wait::Never)
    }

    /// Receives a record, and waits at most `timeout` for it.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Record<'_, T, D>> {
        self.recv_with(Wait::Timeout(timeout))
    }

    /// Receives a record, and waits until `deadline` at the latest for it.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`recv`](Self::recv).
    pub fn recv_deadline(&mut self, deadline: Instant) -> Result<Record<'_, T, D>> {
        self.recv_with(Wait::Deadline(deadline))
    }

    /// Receives a record, and waits as `wait` says.
    ///
    /// # Errors
    /// [`Empty`](crate::ErrorKind::Empty), [`Timeout`](crate::ErrorKind::Timeout), and as
    /// [`recv`](Self::recv).
    #[inline]
    pub fn recv_with(&mut self, wait: Wait) -> Result<Record<'_, T, D>> {
        let found = self.found(wait)?;
        Ok(self.record(found))
    }

    /// Finds the next record, which [`record`](Self::record) makes, without taking it.
    pub(crate) fn try_found(&mut self) -> Result<Found> {
        self.found(Wait::Never)
    }

    /// The record that was found last.
    pub(crate) fn record(&mut self, found: Found) -> Record<'_, T, D> {
        Record {
            rx: &mut self.rx,
            found,
            publish: true,
            trust: PhantomData,
        }
    }

    pub(crate) fn subject(&self) -> &Subject {
        &self.subject
    }

    #[inline(always)]
    fn found(&mut self, wait: Wait) -> Result<Found> {
        match self.rx.next(wait) {
            Ok(found) => Ok(found),
            Err(stop) => Err(failed(&self.subject, stop)),
        }
    }

    /// Records whose room is given back together, when the batch is dropped, or before it waits.
    ///
    /// What streams is received so, [as many](RecvBatch::records) as there are at a time:
    ///
    /// ```
    /// use postbox::Ring;
    ///
    /// # fn main() -> postbox::Result<()> {
    /// let (mut producer, mut consumer) = Ring::options().local()?;
    /// let thread = std::thread::spawn(move || {
    ///     let mut batch = producer.batch();
    ///     (0..100u64).try_for_each(|number| batch.send_value(&number))
    /// });
    /// let mut sum = 0;
    /// let error = loop {
    ///     match consumer.batch().records() {
    ///         Ok(records) => sum += records.flat_map(|record| record.value::<u64>()).sum::<u64>(),
    ///         Err(error) => break error,
    ///     }
    /// };
    /// assert!(error.is_disconnected());
    /// assert_eq!(sum, 4950);
    /// thread.join().unwrap()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(&mut self) -> RecvBatch<'_, T, D> {
        RecvBatch { consumer: self }
    }

    /// The same consumer, whose records are slices.
    ///
    /// # Safety
    /// As long as there is a [`Record`], nobody writes to it: producers keep to the protocol, and so
    /// does whoever has any other writable mapping of this ring. This process does not detach its
    /// side by [`raw`](crate::raw), after which there may be another consumer.
    pub unsafe fn trusting(self) -> Consumer<Trusting, D> {
        Consumer::new(self.rx, self.subject)
    }
}

impl<T: Trust> Consumer<T, KernelDoorbell> {
    /// Makes what would wait return at once with [`Empty`](crate::ErrorKind::Empty). For use with
    /// an event loop: after that, even an edge-triggered one is told of the next record.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        set_nonblocking(&self.rx.bell, &self.subject, nonblocking)
    }

    /// An event loop is told of records from now on; but what waits still does.
    pub(crate) fn watch(&self, on: bool) {
        self.rx.bell.nonblocking.store(on, Relaxed);
    }
}

/// A record that is received, where it is in the ring. When it is dropped, its room is free again.
/// One that is [forgotten](std::mem::forget) stays the next to be received.
pub struct Record<'a, T: Trust = Copying, D: Doorbell = KernelDoorbell> {
    rx: &'a mut Rx<D>,
    found: Found,
    publish: bool,
    trust: PhantomData<T>,
}

impl<T: Trust, D: Doorbell> Drop for Record<'_, T, D> {
    #[inline]
    fn drop(&mut self) {
        self.rx.release(self.found);
        if self.publish {
            self.rx.publish();
        }
    }
}

/// A record of a [batch](RecvBatch::records), where it is in the ring. Its room is free again when the
/// batch is dropped.
pub struct BatchRecord<'a, T: Trust = Copying> {
    at: NonNull<u8>,
    len: u32,
    trust: PhantomData<(&'a (), T)>,
}

// SAFETY: what can be done with it is done with shared memory by anybody, or, where peers are
// trusted, is reading.
unsafe impl<T: Trust> Send for BatchRecord<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Trust> Sync for BatchRecord<'_, T> {}

/// What can be done with the contents of a record. For the others there, `at` is where they are.
macro_rules! contents {
    ($([$($generic:tt)*] $name:ident<$life:lifetime, $($arg:ident),*>, $self:ident: $at:expr, $len:expr;)*) => {$(
        impl<T: Trust, $($generic)*> $name<$life, T, $($arg),*> {
            /// Its bytes.
            #[inline]
            pub fn len(&$self) -> usize {
                $len as usize
            }

            /// Whether it has none.
            #[inline]
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Its first byte, aligned to eight. Producers may write to it at any moment.
            #[inline]
            pub fn as_ptr(&$self) -> *const u8 {
                $at.as_ptr()
            }

            /// Copies what is at `offset`.
            ///
            /// # Panics
            /// If that is beyond the record.
            #[inline]
            pub fn read_at(&$self, offset: usize, buf: &mut [u8]) {
                let end = offset.checked_add(buf.len());
                assert!(
                    end.is_some_and(|end| end <= $len as usize),
                    "{} bytes at {offset} of a record of {}",
                    buf.len(),
                    $len
                );
                // SAFETY: they are within the record, whose length was checked against the ring.
                unsafe { copy_out::<T>($at, offset, buf) };
            }

            /// Copies as much of it as the buffer takes, and says how much that is.
            #[inline]
            pub fn copy_to(&self, buf: &mut [u8]) -> usize {
                let len = self.len().min(buf.len());
                self.read_at(0, &mut buf[..len]);
                len
            }

            /// The value that was sent; `None`: it has not as many bytes as that.
            #[inline]
            pub fn value<V: FromBytes + IntoBytes>(&self) -> Option<V> {
                if self.len() != size_of::<V>() {
                    return None;
                }
                let mut value = V::new_zeroed();
                self.read_at(0, value.as_mut_bytes());
                Some(value)
            }

            /// A copy of it.
            pub fn to_vec(&self) -> Vec<u8> {
                let mut bytes = vec![0; self.len()];
                self.read_at(0, &mut bytes);
                bytes
            }
        }

        impl<$($generic)*> Deref for $name<$life, Trusting, $($arg),*> {
            type Target = [u8];

            #[inline]
            fn deref(&self) -> &[u8] {
                // SAFETY: so many bytes are there, whose length was checked against the ring. That
                // nobody writes to them is what `trusting` was promised.
                unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
            }
        }
    )*};
}

contents! {
    [D: Doorbell] Record<'_, D>, self: self.rx.area.payload(self.found.position), self.found.len;
    [] BatchRecord<'_,>, self: self.at, self.len;
}

/// Records whose room is given back together: see [`Consumer::batch`].
pub struct RecvBatch<'a, T: Trust = Copying, D: Doorbell = KernelDoorbell> {
    consumer: &'a mut Consumer<T, D>,
}

impl<T: Trust, D: Doorbell> RecvBatch<'_, T, D> {
    /// Waits for a record, and gives those that are there then, one after the other: up to half of the
    /// ring, so that a producer has room meanwhile. Those that are taken are received; all of them can be
    /// looked at until the batch is used for something else.
    ///
    /// # Errors
    /// As [`Consumer::recv`].
    #[inline]
    pub fn records(&mut self) -> Result<Records<'_, T, D>> {
        self.records_with(Wait::Forever)
    }

    /// The same, and waits as `wait` says.
    ///
    /// # Errors
    /// As [`Consumer::recv_with`].
    pub fn records_with(&mut self, wait: Wait) -> Result<Records<'_, T, D>> {
        let Consumer { rx, subject, .. } = &mut *self.consumer;
        match rx.run(wait) {
            Ok(run) => Ok(Records {
                run,
                trust: PhantomData,
            }),
            Err(stop) => Err(failed(subject, stop)),
        }
    }

    /// As [`Consumer::recv_with`].
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn recv_with(&mut self, wait: Wait) -> Result<Record<'_, T, D>> {
        let found = self.consumer.found(wait)?;
        Ok(Record {
            rx: &mut self.consumer.rx,
            found,
            publish: false,
            trust: PhantomData,
        })
    }

    /// The next record that is there now; `None`: there is none, or an error that the next receive
    /// will say.
    #[inline]
    pub fn try_next(&mut self) -> Option<Record<'_, T, D>> {
        let rx = &mut self.consumer.rx;
        let found = match rx.at_hand() {
            Some(found) => found,
            None => rx.peek_slowly().ok().flatten()?,
        };
        Some(Record {
            rx,
            found,
            publish: false,
            trust: PhantomData,
        })
    }
}

impl<T: Trust, D: Doorbell> Drop for RecvBatch<'_, T, D> {
    fn drop(&mut self) {
        // A copy that a fork has made is the parent's to publish.
        if self.consumer.rx.bell.is_here() {
            self.consumer.rx.publish();
        }
    }
}

/// Records that are there: see [`RecvBatch::records`].
pub struct Records<'a, T: Trust = Copying, D: Doorbell = KernelDoorbell> {
    run: Run<'a, D>,
    trust: PhantomData<T>,
}

impl<'a, T: Trust, D: Doorbell> Iterator for Records<'a, T, D> {
    type Item = BatchRecord<'a, T>;

    #[inline(always)]
    fn next(&mut self) -> Option<BatchRecord<'a, T>> {
        let found = self.run.next()?;
        Some(BatchRecord {
            at: self.run.rx.area.payload(found.position),
            len: found.len,
            trust: PhantomData,
        })
    }
}

macro_rules! sides {
    ($($name:ident $half:ident;)*) => {$(
        impl<T: Trust> AsFd for $name<T, KernelDoorbell> {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.$half.bell.fd.as_fd()
            }
        }

        impl<T: Trust, D: Doorbell> fmt::Debug for $name<T, D> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("name", &self.subject.name)
                    .field("capacity", &self.capacity())
                    .field("calls", &self.calls())
                    .finish_non_exhaustive()
            }
        }
    )*};
}

sides! {
    Producer tx;
    Consumer rx;
}

impl<T: Trust, D: Doorbell> fmt::Debug for Slot<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("len", &self.len).finish()
    }
}

impl<T: Trust, D: Doorbell> fmt::Debug for Record<'_, T, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record").field("len", &self.len()).finish()
    }
}

impl<T: Trust> fmt::Debug for BatchRecord<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchRecord")
            .field("len", &self.len())
            .finish()
    }
}
