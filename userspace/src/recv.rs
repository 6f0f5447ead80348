use crate::error::{Action, Error, ErrorKind, Result};
use crate::handle::{CanReceive, Handle};
use crate::object::{Inner, Ref, Subject};
use crate::process::Home;
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Who sent a message, or is at the other end of a link, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Identity {
    /// The process, as the pid namespace that the receiving handle was opened in numbers it; 0: not
    /// visible there.
    pub pid: u32,
    /// The thread, likewise.
    pub tid: u32,
    /// The effective user, as the receiver's user namespace numbers it.
    pub uid: u32,
    /// The effective group, likewise.
    pub gid: u32,
    /// The inode number of the process's pidfds, which is not used again as pids are.
    pub pidfd_ino: u64,
}

impl Identity {
    pub(crate) fn of(args: &sys::postbox_recv) -> Self {
        Identity {
            pid: args.pid,
            tid: args.tid,
            uid: args.uid,
            gid: args.gid,
            pidfd_ino: args.pidfd_ino,
        }
    }

    pub(crate) fn of_peer(args: &sys::postbox_peer) -> Self {
        Identity {
            pid: args.pid,
            tid: args.tid,
            uid: args.uid,
            gid: args.gid,
            pidfd_ino: args.pidfd_ino,
        }
    }

    /// A pidfd of the very process that sent: not of a later one that got its number.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone): the process is no longer there, or not visible from here.
    pub fn open_pidfd(&self) -> Result<OwnedFd> {
        open_pidfd(self.pid, self.pidfd_ino)
            .map_err(|errno| Error::new(Action::Identify, &Subject::none(), errno))
    }

    /// Whether the process that sent is still there, and its pid still its own.
    ///
    /// # Errors
    /// As [`open_pidfd`](Self::open_pidfd).
    pub fn verify(&self) -> Result<()> {
        self.open_pidfd().map(drop)
    }
}

/// A received message. It derefs to its payload.
#[derive(Debug)]
#[non_exhaustive]
pub struct Message {
    /// The bytes; a message may be empty.
    pub payload: Vec<u8>,
    /// The priority that it was sent with.
    pub priority: u32,
    /// Who sent it.
    pub sender: Identity,
    /// Whether it was taken before, by somebody who did not acknowledge it.
    pub redelivered: bool,
    /// Whether it is a request: its sender called and waits for a reply. Only
    /// [`recv_request`](Handle::recv_request) and its like can give one.
    pub call: bool,
    /// The files that came with it, close-on-exec, in the order in which they were attached. A
    /// handle of this crate is made of one by `try_from`.
    pub files: Vec<OwnedFd>,
    /// Files came with it and are lost: nobody had the persistent mailbox open for a while.
    pub files_lost: bool,
}

impl Message {
    pub(crate) fn new(
        payload: Vec<u8>,
        files: Vec<raw::ReceivedFd>,
        args: &sys::postbox_recv,
    ) -> Self {
        let Received {
            priority,
            sender,
            redelivered,
            call,
            files,
            files_lost,
            ..
        } = Received::new(payload.len(), files, args);
        Message {
            payload,
            priority,
            sender,
            redelivered,
            call,
            files,
            files_lost,
        }
    }
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.payload
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Message> for Vec<u8> {
    fn from(message: Message) -> Self {
        message.payload
    }
}

/// What is known of a message that was received into a buffer of the caller's.
#[derive(Debug)]
#[non_exhaustive]
pub struct Received {
    /// Bytes of the message; a message may be empty.
    pub len: usize,
    /// The priority that it was sent with.
    pub priority: u32,
    /// Who sent it.
    pub sender: Identity,
    /// Whether it was taken before, by somebody who did not acknowledge it.
    pub redelivered: bool,
    /// Whether it is a request: its sender called and waits for a reply.
    pub call: bool,
    /// The files that came with it, close-on-exec.
    pub files: Vec<OwnedFd>,
    /// Files came with it and are lost: nobody had the persistent mailbox open for a while.
    pub files_lost: bool,
}

impl Received {
    fn new(len: usize, files: Vec<raw::ReceivedFd>, args: &sys::postbox_recv) -> Self {
        Received {
            len,
            priority: args.priority,
            sender: Identity::of(args),
            redelivered: args.msg_flags & sys::POSTBOX_MSG_REDELIVERED != 0,
            call: is_call(args),
            files: files.into_iter().map(|file| file.fd).collect(),
            files_lost: args.msg_flags & sys::POSTBOX_MSG_FILES_LOST != 0,
        }
    }
}

pub(crate) fn is_call(args: &sys::postbox_recv) -> bool {
    args.msg_flags & sys::POSTBOX_MSG_CALL != 0
}

/// A process whose messages are wanted: by its number, or by its [`Identity`], which no later
/// process can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    pid: u32,
    pidfd_ino: u64,
}

impl Process {
    /// A pidfd of it.
    #[cfg(not(loom))]
    pub(crate) fn open_pidfd(self) -> Result<OwnedFd> {
        open_pidfd(self.pid, self.pidfd_ino)
            .map_err(|errno| Error::new(Action::Identify, &Subject::none(), errno))
    }
}

/// A pidfd of that process; of no other one, if `ino` is not 0.
fn open_pidfd(pid: u32, ino: u64) -> rustix::io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let fd = pidfd_open(pid.ok_or(Errno::SRCH)?, PidfdFlags::empty())?;
    if ino != 0 && rustix::fs::fstat(&fd)?.st_ino != ino {
        return Err(Errno::SRCH);
    }
    Ok(fd)
}

impl From<u32> for Process {
    fn from(pid: u32) -> Self {
        Process { pid, pidfd_ino: 0 }
    }
}

impl From<Identity> for Process {
    fn from(Identity { pid, pidfd_ino, .. }: Identity) -> Self {
        Process { pid, pidfd_ino }
    }
}

impl From<&Identity> for Process {
    fn from(identity: &Identity) -> Self {
        (*identity).into()
    }
}

/// Messages up to this size are received on the stack and then put into a vector of their own size.
const STACK: usize = 4096;

/// As much memory as one batch is received into, if one message does not need more, and the least
/// of a message's share. Larger memory would come fresh from the kernel each time.
const ARENA: usize = 64 * 1024;
const SHARE: usize = 256;

impl Inner {
    /// Receives a message of any size, with the token to settle or to answer it; `from` may say
    /// from whom.
    pub(crate) fn recv(
        &self,
        flags: u32,
        from: Option<Process>,
        wait: Wait,
    ) -> Result<(Message, u64)> {
        let (wait, timeout_ns) = wait.flags();
        let mut files = Vec::new();
        loop {
            let mut args = sys::postbox_recv {
                flags: flags | wait,
                timeout_ns,
                fd_max: sys::POSTBOX_FILES_MAX,
                ..Default::default()
            };
            if let Some(Process { pid, pidfd_ino }) = from {
                args.flags |= sys::POSTBOX_RECV_FROM;
                args.pid = pid;
                args.pidfd_ino = pidfd_ino;
            }
            match self.fill(|buf| raw::recv_files(&self.fd, buf, &mut files, &mut args)) {
                Ok(payload) => return Ok((Message::new(payload, files, &args), args.token)),
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE) if args.msg_len > args.len => self.expect(args.msg_len),
                Err(errno) => return Err(self.refused(Action::Receive, errno, &args)),
            }
        }
    }

    /// Why a message, or a reply, was not received that has room.
    pub(crate) fn refused(&self, action: Action, errno: Errno, args: &sys::postbox_recv) -> Error {
        if errno == Errno::MSGSIZE && args.msg_flags & sys::POSTBOX_MSG_LEASES != 0 {
            return self.error_of_kind(action, ErrorKind::HasBuffers);
        }
        self.error(action, errno)
    }

    /// As `recv`, for who cannot answer requests.
    fn recv_plain(&self, from: Option<Process>, wait: Wait) -> Result<Message> {
        let (message, token) = self.recv(0, from, wait)?;
        if message.call {
            self.drop_request(token);
        }
        Ok(message)
    }

    /// Has `receive` write a payload into a buffer of the expected size.
    pub(crate) fn fill(
        &self,
        receive: impl for<'b> FnOnce(&'b mut [MaybeUninit<u8>]) -> rustix::io::Result<&'b mut [u8]>,
    ) -> rustix::io::Result<Vec<u8>> {
        let expected = self.expected.load(Relaxed);
        let mut payload = if expected <= STACK {
            let mut stack = [MaybeUninit::uninit(); STACK];
            receive(&mut stack)?.to_vec()
        } else {
            let mut payload = Vec::new();
            payload
                .try_reserve_exact(expected)
                .map_err(|_| Errno::NOMEM)?;
            let len = receive(payload.spare_capacity_mut())?.len();
            // SAFETY: the raw functions initialise the buffer's beginning and return that.
            unsafe { payload.set_len(len) };
            payload
        };
        self.learn(expected, payload.len());
        payload.shrink_to_fit();
        Ok(payload)
    }

    /// Small messages after a large one bring the expectation down again.
    pub(crate) fn learn(&self, expected: usize, seen: usize) {
        if seen < expected {
            self.expected.store(seen.max(expected / 2), Relaxed);
        }
    }

    /// The message at the head has so many bytes.
    pub(crate) fn expect(&self, len: u64) {
        self.expected
            .store(usize::try_from(len).unwrap_or(usize::MAX), Relaxed);
    }

    /// Receives up to `limit` messages and passes each on with its token; returns how many.
    fn recv_many(
        &self,
        limit: usize,
        flags: u32,
        wait: Wait,
        mut each: impl FnMut(Message, u64),
    ) -> Result<usize> {
        if limit == 0 {
            return Ok(0);
        }
        let (how, timeout_ns) = wait.flags();
        loop {
            let expected = self.expected.load(Relaxed);
            let size = expected.max(SHARE);
            let count = limit.min(self.batch_max).min(ARENA / size).max(1);
            let mut arena = Vec::<u8>::new();
            if arena.try_reserve_exact(count.saturating_mul(size)).is_err() {
                return Err(self.error(Action::Receive, Errno::NOMEM));
            }
            let mut entries: Vec<_> = arena
                .spare_capacity_mut()
                .chunks_exact_mut(size)
                .take(count)
                .map(raw::RecvEntry::new)
                .collect();
            match raw::recv_batch(&self.fd, &mut entries, flags | how, timeout_ns) {
                Ok(received) => {
                    let payloads = entries[..received].iter().map(raw::RecvEntry::payload);
                    self.learn(expected, payloads.map(<[u8]>::len).max().unwrap_or(0));
                    for entry in &entries[..received] {
                        let payload = entry.payload().to_vec();
                        let message = Message::new(payload, Vec::new(), entry.args());
                        each(message, entry.args().token);
                    }
                    return Ok(received);
                }
                Err(Errno::INTR) => {}
                // Files have no room in a batch: such a message comes alone.
                Err(Errno::MSGSIZE) if entries[0].args().fd_count > 0 => {
                    let (message, token) = self.recv(flags, None, wait)?;
                    each(message, token);
                    return Ok(1);
                }
                Err(errno) => {
                    let first = entries[0].args();
                    if errno != Errno::MSGSIZE || first.msg_len <= first.len {
                        return Err(self.refused(Action::Receive, errno, first));
                    }
                    self.expect(first.msg_len);
                }
            }
        }
    }
}

/// Each read is one message, and waits for one, as [`Handle::recv_into`] does, but does not say who
/// sent it. Where the buffer is too small the message stays, and the read fails. At the end, and for
/// an empty message, it reads nothing.
impl<A: CanReceive> io::Read for &Handle<A> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = retry_on_intr(|| rustix::io::read(&self.inner.fd, &mut *buffer));
        Ok(read.map_err(|errno| self.inner.error(Action::Receive, errno))?)
    }
}

/// # Receiving
///
/// Each message goes to exactly one receiver: the highest priority first, and in the order of
/// sending within it.
///
/// What can fail: [`Disconnected`](ErrorKind::Disconnected) (the last sender is gone and nothing is
/// left; not if the mailbox is persistent); [`Empty`](ErrorKind::Empty) where the call does not
/// wait; [`Timeout`](ErrorKind::Timeout) where it has a limit. A failed receive has taken nothing.
///
/// Who waits for a message gets it in the order of arrival. A signal handler does not end a wait:
/// see [`Wait`].
///
/// A request, of which the sender waits for a reply, is received like a message; but the sender is
/// told at once that it was [`Dropped`](ErrorKind::Dropped), as nobody is going to answer it. Who
/// does answer uses [`recv_request`](Self::recv_request).
impl<A: CanReceive> Handle<A> {
    /// Receives a message of whatever size, and waits for one.
    ///
    /// ```
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let jobs = postbox::Mailbox::bounded("doc/recv", 16)?;
    /// jobs.send("build")?;
    /// let job = jobs.recv()?;
    /// assert_eq!(&*job, b"build");
    /// assert_eq!(job.sender.pid, std::process::id());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [Receiving](#receiving).
    pub fn recv(&self) -> Result<Message> {
        self.recv_with(Wait::Forever)
    }

    /// Receives a message if there is one now.
    ///
    /// # Errors
    /// [`Empty`](ErrorKind::Empty), and see [Receiving](#receiving).
    pub fn try_recv(&self) -> Result<Message> {
        self.recv_with(Wait::Never)
    }

    /// Receives a message, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Receiving](#receiving).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Message> {
        self.recv_with(Wait::Timeout(timeout))
    }

    /// Receives a message, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Receiving](#receiving).
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Message> {
        self.recv_with(Wait::Deadline(deadline))
    }

    /// Receives a message, and waits as `wait` says.
    ///
    /// # Errors
    /// See [Receiving](#receiving).
    pub fn recv_with(&self, wait: Wait) -> Result<Message> {
        self.inner.recv_plain(None, wait)
    }

    /// Receives the next message of that process alone, and waits for one; those of others stay
    /// where they are, in their order. For mailboxes and [`Endpoint`](crate::Endpoint)s.
    ///
    /// ```
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let jobs = postbox::Mailbox::options().anonymous()?;
    /// jobs.send("to myself")?;
    /// assert_eq!(&*jobs.recv_from(std::process::id())?, b"to myself");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Disconnected`](ErrorKind::Disconnected): that process is gone, and nothing of it is left.
    /// [`Gone`](ErrorKind::Gone): there is none of that number. And see [Receiving](#receiving).
    pub fn recv_from(&self, process: impl Into<Process>) -> Result<Message> {
        self.recv_from_with(process, Wait::Forever)
    }

    /// Receives a message of that process if there is one now.
    ///
    /// # Errors
    /// [`Empty`](ErrorKind::Empty), and as [`recv_from`](Self::recv_from).
    pub fn try_recv_from(&self, process: impl Into<Process>) -> Result<Message> {
        self.recv_from_with(process, Wait::Never)
    }

    /// Receives a message of that process, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`recv_from`](Self::recv_from).
    pub fn recv_from_timeout(
        &self,
        process: impl Into<Process>,
        timeout: Duration,
    ) -> Result<Message> {
        self.recv_from_with(process, Wait::Timeout(timeout))
    }

    /// Receives a message of that process, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`recv_from`](Self::recv_from).
    pub fn recv_from_deadline(
        &self,
        process: impl Into<Process>,
        deadline: Instant,
    ) -> Result<Message> {
        self.recv_from_with(process, Wait::Deadline(deadline))
    }

    /// Receives a message of that process, and waits as `wait` says.
    ///
    /// # Errors
    /// As [`recv_from`](Self::recv_from).
    pub fn recv_from_with(&self, process: impl Into<Process>, wait: Wait) -> Result<Message> {
        self.inner.recv_plain(Some(process.into()), wait)
    }

    /// Receives a message into `buf`, and waits for one.
    ///
    /// ```
    /// use postbox::{ErrorKind, Mailbox};
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let samples = Mailbox::unbounded("doc/recv_into")?;
    /// samples.send([7; 100])?;
    /// let error = samples.recv_into(&mut [0; 10]).unwrap_err();
    /// assert_eq!(error.kind, ErrorKind::TooLarge { len: 100, limit: 10 });
    /// let mut buf = [0; 512];
    /// let received = samples.recv_into(&mut buf)?;
    /// assert_eq!(buf[..received.len], [7; 100]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TooLarge`](ErrorKind::TooLarge) says which size is needed; the message stays at the head.
    /// And see [Receiving](#receiving).
    pub fn recv_into(&self, buf: &mut [u8]) -> Result<Received> {
        self.recv_into_with(buf, Wait::Forever)
    }

    /// Receives a message into `buf` if there is one now.
    ///
    /// # Errors
    /// [`Empty`](ErrorKind::Empty), and as [`recv_into`](Self::recv_into).
    pub fn try_recv_into(&self, buf: &mut [u8]) -> Result<Received> {
        self.recv_into_with(buf, Wait::Never)
    }

    /// Receives a message into `buf`, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`recv_into`](Self::recv_into).
    pub fn recv_into_timeout(&self, buf: &mut [u8], timeout: Duration) -> Result<Received> {
        self.recv_into_with(buf, Wait::Timeout(timeout))
    }

    /// Receives a message into `buf`, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`recv_into`](Self::recv_into).
    pub fn recv_into_deadline(&self, buf: &mut [u8], deadline: Instant) -> Result<Received> {
        self.recv_into_with(buf, Wait::Deadline(deadline))
    }

    fn recv_into_with(&self, buf: &mut [u8], wait: Wait) -> Result<Received> {
        let (flags, timeout_ns) = wait.flags();
        let mut args = sys::postbox_recv {
            flags,
            timeout_ns,
            fd_max: sys::POSTBOX_FILES_MAX,
            ..Default::default()
        };
        // SAFETY: the memory is lent to the kernel alone, which leaves none of it uninitialised.
        let uninit = unsafe {
            std::slice::from_raw_parts_mut(buf.as_mut_ptr().cast::<MaybeUninit<u8>>(), buf.len())
        };
        let mut files = Vec::new();
        let received = retry_on_intr(|| {
            raw::recv_files(self, uninit, &mut files, &mut args).map(|payload| payload.len())
        });
        match received {
            Ok(len) => {
                if is_call(&args) {
                    self.inner.drop_request(args.token);
                }
                Ok(Received::new(len, files, &args))
            }
            Err(errno) => {
                let mut error = self.inner.refused(Action::Receive, errno, &args);
                if errno == Errno::MSGSIZE && args.msg_len > args.len {
                    error.kind = ErrorKind::TooLarge {
                        len: args.msg_len,
                        limit: buf.len() as u64,
                    };
                }
                Err(error)
            }
        }
    }

    /// Receives up to `limit` messages in one call to the kernel and appends them to `messages`;
    /// returns how many. `wait` is for the first of them: the call then takes what else is there.
    /// It may take less than there is.
    ///
    /// # Errors
    /// See [Receiving](#receiving).
    pub fn recv_many(
        &self,
        messages: &mut Vec<Message>,
        limit: usize,
        wait: Wait,
    ) -> Result<usize> {
        self.inner.recv_many(limit, 0, wait, |message, token| {
            if message.call {
                self.inner.drop_request(token);
            }
            messages.push(message);
        })
    }

    /// Receives a message that is to be acknowledged, and waits for one.
    ///
    /// It is done with when [`Delivery::ack`] says so. If this process dies before, or the delivery
    /// is dropped, the message goes back to the head and to the next receiver, marked as
    /// redelivered.
    ///
    /// ```
    /// # fn build(job: &[u8]) -> bool { job == b"build" }
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let jobs = postbox::Mailbox::bounded("doc/take", 16)?;
    /// jobs.send("build")?;
    /// drop(jobs.take()?); // not done
    ///
    /// let job = jobs.take()?;
    /// assert!(job.redelivered);
    /// if build(&job) {
    ///     job.ack()?;
    /// }
    /// assert!(jobs.try_take().is_err_and(|error| error.is_empty()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Quota`](ErrorKind::Quota): the handle has too many unsettled messages. And see
    /// [Receiving](#receiving).
    pub fn take(&self) -> Result<Delivery<'_>> {
        self.take_with(Wait::Forever)
    }

    /// Takes a message if there is one now.
    ///
    /// # Errors
    /// [`Empty`](ErrorKind::Empty), and as [`take`](Self::take).
    pub fn try_take(&self) -> Result<Delivery<'_>> {
        self.take_with(Wait::Never)
    }

    /// Takes a message, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`take`](Self::take).
    pub fn take_timeout(&self, timeout: Duration) -> Result<Delivery<'_>> {
        self.take_with(Wait::Timeout(timeout))
    }

    /// Takes a message, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`take`](Self::take).
    pub fn take_deadline(&self, deadline: Instant) -> Result<Delivery<'_>> {
        self.take_with(Wait::Deadline(deadline))
    }

    /// Takes a message, and waits as `wait` says.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_with(&self, wait: Wait) -> Result<Delivery<'_>> {
        let taken = self.inner.recv(sys::POSTBOX_RECV_ACK, None, wait)?;
        Ok(Delivery::new(&self.inner, taken))
    }

    /// Takes up to `limit` messages in one call to the kernel, as [`recv_many`](Self::recv_many)
    /// receives them.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_many(&self, limit: usize, wait: Wait) -> Result<Vec<Delivery<'_>>> {
        let mut deliveries = Vec::new();
        self.inner
            .recv_many(limit, sys::POSTBOX_RECV_ACK, wait, |message, token| {
                deliveries.push(Delivery::new(&self.inner, (message, token)));
            })?;
        Ok(deliveries)
    }

    /// Receives message after message, and waits for each. It ends when the last sender is gone and
    /// nothing is left.
    ///
    /// ```
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let (sender, jobs) = postbox::Mailbox::unbounded("doc/iter")?.split()?;
    /// sender.send_many(&["configure", "build"], 0, postbox::Wait::Forever)?;
    /// drop(sender);
    /// for job in jobs.iter() {
    ///     println!("{} bytes", job?.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn iter(&self) -> Iter<'_> {
        Iter {
            inner: &self.inner,
            wait: Wait::Forever,
        }
    }

    /// Receives the messages that are there now. It ends when there is none.
    pub fn try_iter(&self) -> Iter<'_> {
        Iter {
            inner: &self.inner,
            wait: Wait::Never,
        }
    }
}

fn next(inner: &Inner, wait: Wait) -> Option<Result<Message>> {
    match inner.recv_plain(None, wait) {
        Ok(message) => Some(Ok(message)),
        Err(error) if error.is_disconnected() || (error.is_empty() && wait == Wait::Never) => None,
        Err(error) => Some(Err(error)),
    }
}

/// The iterator of [`Handle::iter`] and [`Handle::try_iter`].
pub struct Iter<'a> {
    inner: &'a Inner,
    wait: Wait,
}

impl Iterator for Iter<'_> {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        next(self.inner, self.wait)
    }
}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter")
            .field("name", &self.inner.subject.name)
            .field("wait", &self.wait)
            .finish()
    }
}

impl<'a, A: CanReceive> IntoIterator for &'a Handle<A> {
    type Item = Result<Message>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The iterator of a [`Receiver`](crate::Receiver) or [`Mailbox`](crate::Mailbox) that it owns; as
/// [`Handle::iter`].
#[derive(Debug)]
pub struct IntoIter<A: CanReceive>(Handle<A>);

impl<A: CanReceive> Iterator for IntoIter<A> {
    type Item = Result<Message>;

    fn next(&mut self) -> Option<Self::Item> {
        next(&self.0.inner, Wait::Forever)
    }
}

impl<A: CanReceive> IntoIterator for Handle<A> {
    type Item = Result<Message>;
    type IntoIter = IntoIter<A>;

    fn into_iter(self) -> IntoIter<A> {
        IntoIter(self)
    }
}

/// A message that was taken and is to be settled: by [`ack`](Self::ack) or
/// [`requeue`](Self::requeue). It derefs to the message.
///
/// Dropping it, and the end of the process, put the message back to the head of its priority,
/// marked as redelivered. In a child made by `fork` it is the parent's: dropping it there does nothing. A request (see
/// [`Handle::recv_request`]) is not settled but dropped, however this ends.
#[must_use = "dropping it puts the message back"]
pub struct Delivery<'a> {
    message: Message,
    claim: Claim<'a>,
}

impl<'a> Delivery<'a> {
    pub(crate) fn new(inner: impl Into<Ref<'a, Inner>>, (message, token): (Message, u64)) -> Self {
        let open = if message.call {
            Open::Request
        } else {
            Open::Message
        };
        Delivery {
            message,
            claim: Claim {
                inner: inner.into(),
                token,
                open,
                home: Home::here(),
            },
        }
    }

    /// The message is done with. Returns it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): it is not this process's to settle any more.
    pub fn ack(self) -> Result<Message> {
        self.claim.settle(0)?;
        Ok(self.message)
    }

    /// The message is not done: back to the head with it.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn requeue(self) -> Result<()> {
        self.claim.settle(sys::POSTBOX_ACK_REQUEUE)
    }
}

impl Deref for Delivery<'_> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl AsRef<[u8]> for Delivery<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Delivery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("token", &self.claim.token)
            .field("message", &self.message)
            .finish()
    }
}

/// The duty to settle a message.
struct Claim<'a> {
    inner: Ref<'a, Inner>,
    token: u64,
    open: Open,
    home: Home,
}

/// What is still to be done with it.
enum Open {
    Message,
    /// A request is not acknowledged but answered.
    Request,
    Settled,
}

impl Claim<'_> {
    fn settle(mut self, flags: u32) -> Result<()> {
        if matches!(self.open, Open::Request) {
            return Ok(());
        }
        self.open = Open::Settled;
        raw::ack(&self.inner.fd, self.token, flags)
            .map_err(|errno| self.inner.error(Action::Settle, errno))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // A copy that a fork has made: the message is the parent's.
        if !self.home.is_here() {
            return;
        }
        match self.open {
            // If it is not ours any more, it has gone back already.
            Open::Message => drop(raw::ack(
                &self.inner.fd,
                self.token,
                sys::POSTBOX_ACK_REQUEUE,
            )),
            Open::Request => self.inner.drop_request(self.token),
            Open::Settled => {}
        }
    }
}
