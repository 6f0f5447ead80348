use crate::object::{Kind, Subject};
use crate::raw::DEVICE;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The result of what can fail in this crate.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// What went wrong, with which object, and (in its text) what can be done about it.
///
/// The fields are public, so that patterns can name them:
///
/// ```
/// use postbox::{Error, ErrorKind, Mailbox};
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let jobs = Mailbox::options().anonymous()?;
/// match jobs.try_recv() {
///     Ok(job) => println!("{} bytes", job.len()),
///     Err(Error { kind: ErrorKind::Empty, .. }) => println!("nothing to do"),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
///
/// Its `Debug` form begins with its text, so that `fn main() -> postbox::Result<()>` ends with a sentence.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    /// The cause.
    pub kind: ErrorKind,
    /// The name of the object, if it has one.
    pub object: Option<Arc<str>>,
    /// The kernel's error number, if the error came from there.
    pub errno: Option<Errno>,
    action: Action,
    what: Kind,
    number: u32,
    /// What it said that this comes from, if it was not the kernel.
    detail: Option<Arc<String>>,
}

/// The cause of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no room now, or (rendezvous) no receiver waits: `EAGAIN` of a send, a reservation,
    /// a write or a connect.
    Full,
    /// There is nothing now: `EAGAIN` of a receive, a read or an accept.
    Empty,
    /// It is not so far: `EAGAIN` of what waits for a semaphore, latch, barrier or peer.
    NotYet,
    /// The time is up: `ETIMEDOUT`. Nothing was sent or taken, but a call's request may have been.
    Timeout,
    /// A signal handler ended a call: `EINTR`. It is not repeated, as its request may have been
    /// taken. Nothing else ends so.
    Interrupted,
    /// The last receiver is gone; or the last sender is, and nothing is left to receive: `EPIPE`.
    Disconnected,
    /// The message does not fit: `EMSGSIZE`. A message that was to be received stays in the
    /// mailbox.
    TooLarge {
        /// Bytes of the message.
        len: u64,
        /// Bytes that the mailbox (send) or the buffer (receive) can take.
        limit: u64,
    },
    /// Call: the process that took the request died, or closed its handle: `EOWNERDEAD`.
    ServerDied,
    /// Call: who took the request dropped it: `ECANCELED`.
    Dropped,
    /// Call: it was answered, and the reply is lost: `ENODATA`. What was asked for was done. The user
    /// has no quota for the reply, or the handle no room for one more that did not fit; or, through
    /// io_uring, the thread had ended that submitted the call.
    ReplyLost,
    /// An operation through io_uring was cancelled: `ECANCELED`. Nothing was sent or taken; but a call's
    /// request may have been.
    Cancelled,
    /// A stream through io_uring: all of its buffers have messages that are not dropped yet: `ENOBUFS`.
    /// No message was taken.
    NoBuffers,
    /// Reply: the caller has given up: `ESTALE`.
    Stale,
    /// Wait: a process died before it did its part: `EOWNERDEAD`. Ring: the other side died.
    OwnerDied,
    /// Another process has written to a ring what makes no sense there.
    Corrupt,
    /// The reactor of the runtime is not there (any more), or the runtime is going.
    Reactor,
    /// The value cannot be encoded: [`typed::Encode`](crate::typed::Encode).
    Encode,
    /// The message is not a value of the type: [`typed::RecvError`](crate::typed::RecvError).
    Decode,
    /// The port has both its ends, or somebody listens on it: `EADDRINUSE`.
    AddressInUse,
    /// The other end has not come yet: `ENOTCONN`.
    NotConnected,
    /// Nobody could ever receive the handle that was to be sent: `ELOOP`.
    Loop,
    /// This process has no free descriptors: `EMFILE`, `ENFILE`. A message that was to be received
    /// stays.
    NoDescriptors,
    /// The semaphore would pass its maximum, or the latch zero: `EOVERFLOW`.
    Overflow,
    /// There is no such place in what is mapped of a segment.
    OutOfBounds {
        /// Where the access would have ended.
        end: u64,
        /// The bytes that are mapped.
        len: u64,
    },
    /// What is accessed in one piece has to be aligned.
    Misaligned {
        /// What its place must be a multiple of.
        align: usize,
    },
    /// A process died that had the lock, and who had it next did not put right what it guards.
    Unrecoverable,
    /// The message has buffers of a pool, and is received with them only:
    /// [`recv_buffers`](crate::Handle::recv_buffers).
    HasBuffers,
    /// The buffers are of another pool than the one that was given: `EXDEV`.
    OtherPool {
        /// The number of that pool: [`Info::id`](crate::Info::id).
        pool: u64,
    },
    /// Buffers, a message to acknowledge, or a request to answer were given to another handle or driver of
    /// io_uring than the one they belong to. Nothing was sent, settled or received.
    OtherOwner,
    /// The pipe holds more, or is being used; the ring has its consumer or producers: `EBUSY`.
    Busy,
    /// A message carries 64 files at most.
    TooManyFiles,
    /// A quota of the user or a limit of the handle is used up: `EDQUOT`.
    Quota,
    /// The object's mode, its owner, the handle's rights or the device's group forbid it: `EACCES`,
    /// `EPERM`.
    Denied,
    /// There is no object of that name, nobody listens there, or the message or request is not
    /// there to be settled any more: `ENOENT`.
    NotFound,
    /// The name is taken: `EEXIST`.
    Exists,
    /// No object can have that name, or there is no port of that number: `EINVAL`, `ENAMETOOLONG`.
    InvalidName,
    /// The object is of another kind, or cannot do this: `EOPNOTSUPP`.
    Unsupported,
    /// The descriptor is not of an object, or its rights are not those, of the type that it should
    /// become.
    WrongHandle,
    /// There is no such process (any more): `ESRCH`.
    Gone,
    /// The module is not loaded: there is no device.
    ModuleMissing,
    /// The module and this crate do not understand each other.
    Incompatible {
        /// The module's ABI.
        module: u32,
        /// The ABI that this crate was built for.
        library: u32,
    },
    /// Anything else: [`Error::errno`] says what.
    Os,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Device,
    Open,
    Unlink,
    Clone,
    Attributes,
    Inspect,
    List,
    Usage,
    Poll,
    Send,
    Reserve,
    SendReserved,
    Receive,
    Settle,
    Convert,
    Identify,
    Call,
    Reply,
    Connect,
    Accept,
    Peer,
    WaitPeer,
    Shutdown,
    Read,
    Write,
    Resize,
    Acquire,
    Release,
    CountDown,
    Wait,
    Join,
    Leave,
    Grant,
    Revoke,
    MakeMemory,
    Attach,
    MapFrozen,
    Access,
    Lock,
    Borrow,
    Decode,
    #[cfg_attr(not(feature = "uring"), allow(dead_code))]
    Submit,
}

impl Error {
    pub(crate) fn new(action: Action, subject: &Subject, errno: Errno) -> Self {
        let kind = match errno {
            Errno::AGAIN => match action {
                Action::Send | Action::Reserve | Action::Write | Action::Connect => ErrorKind::Full,
                Action::Receive | Action::Read | Action::Accept => ErrorKind::Empty,
                _ => ErrorKind::NotYet,
            },
            Errno::TIMEDOUT => ErrorKind::Timeout,
            Errno::INTR => ErrorKind::Interrupted,
            Errno::PIPE => ErrorKind::Disconnected,
            Errno::OWNERDEAD if action == Action::Call => ErrorKind::ServerDied,
            Errno::OWNERDEAD => ErrorKind::OwnerDied,
            Errno::CANCELED => ErrorKind::Dropped,
            Errno::NODATA if action == Action::Call => ErrorKind::ReplyLost,
            Errno::STALE => ErrorKind::Stale,
            Errno::ADDRINUSE => ErrorKind::AddressInUse,
            Errno::NOTCONN => ErrorKind::NotConnected,
            Errno::LOOP => ErrorKind::Loop,
            Errno::MFILE | Errno::NFILE => ErrorKind::NoDescriptors,
            Errno::OVERFLOW => ErrorKind::Overflow,
            Errno::BUSY => ErrorKind::Busy,
            Errno::DQUOT => ErrorKind::Quota,
            Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
            Errno::NOENT | Errno::NXIO | Errno::NODEV if action == Action::Device => {
                ErrorKind::ModuleMissing
            }
            Errno::NOENT => ErrorKind::NotFound,
            Errno::EXIST if subject.is_port() => ErrorKind::AddressInUse,
            Errno::EXIST => ErrorKind::Exists,
            Errno::NAMETOOLONG => ErrorKind::InvalidName,
            Errno::INVAL
                if matches!(action, Action::Open | Action::Unlink | Action::Connect)
                    && !is_name(subject.name.as_deref()) =>
            {
                ErrorKind::InvalidName
            }
            Errno::OPNOTSUPP => ErrorKind::Unsupported,
            Errno::SRCH => ErrorKind::Gone,
            _ => ErrorKind::Os,
        };
        Error {
            errno: Some(errno),
            ..Self::of_kind(action, subject, kind)
        }
    }

    pub(crate) fn of_kind(action: Action, subject: &Subject, kind: ErrorKind) -> Self {
        Error {
            kind,
            object: subject.name.clone(),
            errno: None,
            action,
            what: subject.kind,
            number: subject.number,
            detail: None,
        }
    }

    /// One that says in its text what it comes from.
    #[cfg(not(loom))]
    pub(crate) fn because(
        action: Action,
        subject: &Subject,
        kind: ErrorKind,
        cause: &dyn fmt::Display,
    ) -> Self {
        Error {
            detail: Some(Arc::new(cause.to_string())),
            ..Self::of_kind(action, subject, kind)
        }
    }

    /// One of an event loop.
    #[cfg(not(loom))]
    pub(crate) fn of_reactor(subject: &Subject, error: &std::io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(errno) => Self::new(Action::Poll, subject, errno),
            None => Self::because(Action::Poll, subject, ErrorKind::Reactor, error),
        }
    }

    /// Whether there was no room: [`ErrorKind::Full`].
    pub fn is_full(&self) -> bool {
        self.kind == ErrorKind::Full
    }

    /// Whether there was no message: [`ErrorKind::Empty`].
    pub fn is_empty(&self) -> bool {
        self.kind == ErrorKind::Empty
    }

    /// Whether the time was up: [`ErrorKind::Timeout`].
    pub fn is_timeout(&self) -> bool {
        self.kind == ErrorKind::Timeout
    }

    /// Whether the other side is gone: [`ErrorKind::Disconnected`].
    pub fn is_disconnected(&self) -> bool {
        self.kind == ErrorKind::Disconnected
    }

    /// Whether there was no object of that name: [`ErrorKind::NotFound`].
    pub fn is_not_found(&self) -> bool {
        self.kind == ErrorKind::NotFound
    }

    /// Whether a non-blocking call would have had to wait: [`ErrorKind::Full`],
    /// [`ErrorKind::Empty`] or [`ErrorKind::NotYet`].
    pub fn would_wait(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Full | ErrorKind::Empty | ErrorKind::NotYet
        )
    }

    /// Whether it was forbidden: [`ErrorKind::Denied`].
    pub fn is_denied(&self) -> bool {
        self.kind == ErrorKind::Denied
    }
}

/// The kernel's rule for names; `None`, an object without a name, passes.
fn is_name(name: Option<&str>) -> bool {
    name.is_none_or(|name| {
        name.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
            && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Device | Action::Open => "open",
            Action::Unlink => "remove",
            Action::Clone => "make another handle of",
            Action::Attributes => "change the attributes of",
            Action::Inspect => "inspect",
            Action::List => "list",
            Action::Usage => "read the usage of",
            Action::Poll | Action::Wait => "wait for",
            Action::Send | Action::SendReserved => "send to",
            Action::Reserve => "reserve room in",
            Action::Receive => "receive from",
            Action::Settle => "settle a message of",
            Action::Convert => "use this descriptor as",
            Action::Identify => "identify",
            Action::Call => "call",
            Action::Reply => "answer a request of",
            Action::Connect => "connect to",
            Action::Accept => "accept a connection of",
            Action::Peer => "identify the peer of",
            Action::WaitPeer => "wait for the peer of",
            Action::Shutdown => "close a direction of",
            Action::Read => "read from",
            Action::Write => "write to",
            Action::Resize => "resize",
            Action::Acquire => "acquire",
            Action::Release => "release",
            Action::CountDown => "count down",
            Action::Join => "join",
            Action::Leave => "leave",
            Action::Grant => "grant access to",
            Action::Revoke => "take back access to",
            Action::MakeMemory => "make the memory of",
            Action::Attach => "map",
            Action::MapFrozen => "map as frozen",
            Action::Access => "access the memory of",
            Action::Lock => "take a lock in",
            Action::Borrow => "borrow a block of",
            Action::Decode => "decode",
            Action::Submit => "submit to",
        };
        write!(f, "cannot {action} ")?;
        match self.action {
            Action::Device => f.write_str(DEVICE),
            Action::List => f.write_str("the objects"),
            Action::Usage => f.write_str("this user"),
            Action::Identify => f.write_str("the sender of the message"),
            Action::Convert => f.write_str("a handle of this type"),
            Action::Decode => f.write_str("the message"),
            Action::Submit => f.write_str("io_uring"),
            _ => self.subject().fmt(f),
        }?;
        write!(f, ": {}", self.cause())
    }
}

/// The text, the kind, and the kernel's error number.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({:?}", self.kind)?;
        if let Some(errno) = self.errno {
            write!(f, ", error number {}", errno.raw_os_error())?;
        }
        f.write_str(")")
    }
}

impl Error {
    fn subject(&self) -> Subject {
        Subject {
            kind: self.what,
            name: self.object.clone(),
            number: self.number,
        }
    }

    /// What was wrong, and what can be done about it.
    fn cause(&self) -> Cow<'static, str> {
        let text = match (self.kind, self.action) {
            (ErrorKind::Full, Action::Connect) => {
                "as many connections as it lets wait are waiting; wait for room"
            }
            (ErrorKind::Full, _) if self.what == Kind::Ring => {
                "it has no room now; receive from it, or wait for room"
            }
            (ErrorKind::Empty, _) if self.what == Kind::Ring => {
                "no record is there now; wait for one"
            }
            (ErrorKind::Full, Action::Write) => {
                "it has no room now; read from it, or wait for room"
            }
            (ErrorKind::Full, _) => {
                "it has no room now, or (rendezvous) no receiver waits; \
                 receive from it, or wait for room"
            }
            (ErrorKind::Empty, Action::Accept) => "nobody has connected now; wait for one",
            (ErrorKind::Empty, Action::Read) => "there is nothing to read now; wait for some",
            (ErrorKind::Empty, _) => "no message is there now; wait for one",
            (ErrorKind::NotYet, Action::Acquire) => "it does not have that many now; wait for them",
            (ErrorKind::NotYet, Action::WaitPeer) => "nobody is there yet; wait for them",
            (ErrorKind::NotYet, Action::Borrow) => {
                "no block is free now, or others wait for one; wait for one, drop buffers, or make it \
                 with more blocks"
            }
            (ErrorKind::NotYet, Action::Lock) => "somebody has it; wait for it",
            (ErrorKind::NotYet, _) => "it is not so far; wait for it",
            (ErrorKind::Timeout, Action::Call) => {
                "the time is up; a server that has taken the request may still work on it"
            }
            (ErrorKind::Timeout, Action::Send | Action::Reserve | Action::Receive) => {
                "the time is up; nothing was sent or taken"
            }
            (ErrorKind::Timeout, _) => "the time is up",
            (ErrorKind::Interrupted, _) => {
                "a signal handler ran; a server that has taken the request may still work on it, so \
                 call again only if doing it twice does no harm"
            }
            (ErrorKind::Disconnected, Action::Receive) => match self.what {
                Kind::Link => "the other end sends no more and every message has been received",
                Kind::Ring => "the last producer has left and every record has been received",
                _ => "the last sender is gone and every message has been received",
            },
            (ErrorKind::Disconnected, Action::Write) => "the last reader is gone",
            (ErrorKind::Disconnected, _) => match self.what {
                Kind::Link | Kind::Listener => "the other end is gone; connect again",
                Kind::Endpoint => "its process is gone",
                Kind::Ring => "its consumer, or the last producer, has left; make a new one",
                _ => "the last receiver is gone; open one, or make the mailbox persistent",
            },
            (ErrorKind::ServerDied, _) => {
                "the server died with the request, or closed its handle; whether it did any of it is \
                 not known"
            }
            (ErrorKind::Dropped, _) => {
                "the server dropped the request; it may not answer requests (Handle::recv_request \
                 is for those)"
            }
            (ErrorKind::ReplyLost, _) => {
                "the server has answered, but the reply is lost: there is no quota for it, or the thread \
                 had ended that submitted the call"
            }
            (ErrorKind::Cancelled, Action::Call) => {
                "it was cancelled; a server that has taken the request may still work on it"
            }
            (ErrorKind::Cancelled, _) => "it was cancelled; nothing was sent or taken",
            (ErrorKind::NoBuffers, _) => {
                "all buffers of the group have messages that are not dropped yet; drop some, or make the \
                 group larger"
            }
            (ErrorKind::Stale, _) => "the caller has given up; nobody waits for the reply",
            (ErrorKind::OwnerDied, Action::Receive) => {
                "the producer died; what it had committed has been received"
            }
            (ErrorKind::OwnerDied, Action::Send) => "the consumer died; make a new ring",
            (ErrorKind::Corrupt, _) => {
                "another process wrote to it what makes no sense; let only those attach whom you \
                 trust with that, and make a new one"
            }
            (ErrorKind::Reactor | ErrorKind::Encode | ErrorKind::Decode, _) => {
                return match &self.detail {
                    Some(detail) => detail.to_string().into(),
                    None => "unknown error".into(),
                };
            }
            (ErrorKind::OwnerDied, _) => {
                "a process that was to take part died before it did; make a new one and start over"
            }
            (ErrorKind::AddressInUse, _) => {
                "it has both its ends, or somebody listens on it; use another port, or connect \
                 (Port::connect) where somebody listens"
            }
            (ErrorKind::NotConnected, _) => "nobody has opened the other end yet; wait for them",
            (ErrorKind::Loop, _) => {
                "it would hold a handle that nobody but its own receiver can take out again; send \
                 one with fewer rights, or another way"
            }
            (ErrorKind::NoDescriptors, _) => {
                "this process has no free descriptors; close some or raise its limit (`ulimit -n`). \
                 A message that was to be received stays"
            }
            (ErrorKind::Overflow, _) => match self.what {
                Kind::Latch => "its count is smaller than that",
                _ => "it would pass its maximum; release no more than was acquired",
            },
            (ErrorKind::OutOfBounds { end, len }, _) => {
                return format!("it would end at byte {end}, and {len} bytes are mapped").into();
            }
            (ErrorKind::Misaligned { align }, _) => {
                return format!("its place must be a multiple of {align}").into();
            }
            (ErrorKind::Unrecoverable, _) => {
                "a process died that had it, and what it guards was not put right; make the segment \
                 anew (MutexGuard::mark_consistent says that it was)"
            }
            (ErrorKind::HasBuffers, _) => {
                "the message has buffers of a pool; open that, and receive with recv_buffers"
            }
            (ErrorKind::OtherPool { pool }, Action::Send | Action::Reply | Action::Call) => {
                return format!(
                    "one of the buffers is of pool number {pool}; those of one message are of one pool"
                )
                .into();
            }
            (ErrorKind::OtherPool { pool }, _) => {
                return format!(
                    "its buffers are of pool number {pool} (`postbox ls` tells which that is); \
                     receive with that pool"
                )
                .into();
            }
            (ErrorKind::OtherOwner, _) => {
                "what was given to it belongs to another handle or driver; use it with the one that it \
                 came from"
            }
            (ErrorKind::Busy, Action::Attach) => {
                "it has its consumer, or as many producers as it can have; RingOptions::many makes \
                 one for many, and each needs a handle of its own (try_clone)"
            }
            (ErrorKind::Busy, _) => {
                "it holds more bytes than that, or is being used; read from it, then try again"
            }
            (ErrorKind::TooLarge { len, limit }, Action::Borrow) => {
                return format!("{len} bytes are wanted, and a block has {limit}").into();
            }
            (ErrorKind::TooLarge { len, limit }, action) => {
                let text = match action {
                    Action::Receive => {
                        format!("the buffer has {limit}; the message stays, use a larger buffer")
                    }
                    Action::Reply => format!("the module takes {limit}; send it in parts"),
                    Action::SendReserved => {
                        format!("{limit} were reserved; reserve as many as it may have")
                    }
                    _ if self.what == Kind::Ring => {
                        format!("a record has {limit} at most; make the ring larger")
                    }
                    _ => format!(
                        "the {} takes {limit}; \
                         make it with a larger message_max or capacity_bytes",
                        self.what
                    ),
                };
                return format!("the message has {len} bytes and {text}").into();
            }
            (ErrorKind::TooManyFiles, _) => {
                "a message carries 64 files at most; send the others in another one"
            }
            (ErrorKind::Unsupported, Action::Submit) => {
                "it cannot be used here (uring::SetupError says why); use the calls of the handles"
            }
            (ErrorKind::Unsupported, Action::MapFrozen) => {
                "its contents can still change: it was not made with SegmentOptions::freeze; use view()"
            }
            (ErrorKind::Unsupported, Action::Call) => {
                "it cannot be called; and a call always waits (with a time-out, if need be)"
            }
            (ErrorKind::Exists, Action::Poll) => {
                "it is in the set already; modify changes what is waited for"
            }
            (ErrorKind::NotFound, Action::Poll) => "it is not in the set; add it first",
            (ErrorKind::Denied, Action::Poll) => {
                "ordinary files cannot be waited for: they are always ready"
            }
            (ErrorKind::Quota, Action::Grant) => {
                "it has as many grants as an object can have; grant it to a group"
            }
            (ErrorKind::Quota, _) => {
                "a quota is used up (`postbox limits` shows most of them); receive, acknowledge or \
                 answer messages, remove objects, or raise the module's parameters"
            }
            (ErrorKind::Denied, Action::Device) => {
                "permission denied; add this user to its group (`sudo usermod -aG postbox $USER`) \
                 and log in again"
            }
            (ErrorKind::Denied, _) if self.errno == Some(Errno::PERM) => {
                "only its owner and root may do this"
            }
            (ErrorKind::Denied, Action::Open) if self.what == Kind::Segment => {
                "its mode forbids it (r: map, w: and write), or it is frozen (open it to read only); \
                 its owner can change the mode with `postbox chmod`, or grant it with `postbox grant`"
            }
            (ErrorKind::Denied, Action::Open | Action::Connect) => {
                "its mode forbids it (w: send, connect; r: receive); its owner can change that with \
                 `postbox chmod`"
            }
            (ErrorKind::Denied, Action::Attributes | Action::Grant | Action::Revoke) => {
                "this handle was not opened for it (admin(true) in its options)"
            }
            (ErrorKind::Denied, Action::Borrow) => {
                "it was opened to receive buffers only; open it with PoolOptions::open"
            }
            (ErrorKind::Denied, Action::Attach) => {
                "the grant through which it was opened has been taken back; ask its owner for another"
            }
            (ErrorKind::Denied, _) => "this handle does not have the right",
            (ErrorKind::NotFound, Action::Grant) => "it has no name that it could be opened by",
            (ErrorKind::NotFound, Action::Revoke) => "nothing is granted there",
            (ErrorKind::NotFound, Action::Send) => {
                "the buffer is not this process's any more: a child cannot use what its parent borrowed"
            }
            (ErrorKind::NotFound, Action::Settle) => "it is not there to settle any more",
            (ErrorKind::NotFound, Action::Reply) => {
                "nobody waits for a reply: it was sent already, or the message is not a request"
            }
            (ErrorKind::NotFound, Action::Connect) => {
                "nobody listens there; start the server first"
            }
            (ErrorKind::NotFound, _) if self.what == Kind::Endpoint => {
                "the process has not opened its endpoint (Endpoint::own)"
            }
            (ErrorKind::NotFound, _) => {
                "there is none of that name; have it made (create(true) in its options, `postbox \
                 create`)"
            }
            (ErrorKind::Exists, _) => {
                "the name is taken; choose another, use the object that has it, or remove that \
                 with `postbox rm`"
            }
            (ErrorKind::InvalidName, _)
                if self.object.is_none() && matches!(self.what, Kind::Link | Kind::Listener) =>
            {
                "ports are numbered 1 to 65535"
            }
            (ErrorKind::InvalidName, _) => {
                "names have at most 63 of the characters A-Z a-z 0-9 . _ - and single '/' between \
                 parts, none of which is \".\" or \"..\""
            }
            (ErrorKind::Unsupported, _) => {
                "it is of another kind, or cannot do this (a rendezvous has no room to reserve, for \
                 one)"
            }
            (ErrorKind::WrongHandle, _) => {
                "it is not bound to an object of its kind, with just the rights of that type; a \
                 handle with more rights can be split, or cloned with fewer"
            }
            (ErrorKind::Gone, Action::Grant | Action::Revoke) => {
                "there is no such process; what was granted to one that is gone ended with it"
            }
            (ErrorKind::Gone, Action::Identify) => {
                "its process is gone, or is in another pid namespace that this one does not see"
            }
            (ErrorKind::Gone, _) => "its process is gone",
            (ErrorKind::ModuleMissing, _) => {
                "the postbox module is not loaded; load it with `sudo modprobe postbox`, or \
                 `sudo insmod postbox.ko` where it was built"
            }
            (ErrorKind::Incompatible { module, library }, _) => {
                let text = format!(
                    "the postbox module has ABI {module} and this program needs ABI {library}; \
                     build both from the same release"
                );
                return text.into();
            }
            (ErrorKind::Os, Action::Open)
                if self.what == Kind::Segment && self.errno == Some(Errno::INVAL) =>
            {
                "it is not a memfd of whole pages that is sealed against shrinking, growing and \
                 further seals"
            }
            (ErrorKind::Os, Action::Attach) if self.errno == Some(Errno::INVAL) => {
                "it has no such part; a part begins and ends with one of its pages"
            }
            (ErrorKind::Os, _) => {
                let errno = self.errno.map(std::io::Error::from);
                return errno.map_or("unknown error".into(), |errno| errno.to_string().into());
            }
        };
        text.into()
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind {
            ErrorKind::Full | ErrorKind::Empty | ErrorKind::NotYet => Io::WouldBlock,
            ErrorKind::Timeout => Io::TimedOut,
            ErrorKind::Interrupted => Io::Interrupted,
            ErrorKind::Disconnected => Io::BrokenPipe,
            ErrorKind::ServerDied | ErrorKind::Dropped | ErrorKind::ReplyLost => {
                Io::ConnectionAborted
            }
            ErrorKind::AddressInUse => Io::AddrInUse,
            ErrorKind::NotConnected => Io::NotConnected,
            ErrorKind::Busy => Io::ResourceBusy,
            ErrorKind::TooLarge { .. }
            | ErrorKind::InvalidName
            | ErrorKind::WrongHandle
            | ErrorKind::Loop
            | ErrorKind::TooManyFiles
            | ErrorKind::OutOfBounds { .. }
            | ErrorKind::Misaligned { .. }
            | ErrorKind::HasBuffers
            | ErrorKind::OtherPool { .. }
            | ErrorKind::OtherOwner
            | ErrorKind::Overflow => Io::InvalidInput,
            ErrorKind::Quota => Io::QuotaExceeded,
            ErrorKind::Denied => Io::PermissionDenied,
            ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::Stale | ErrorKind::ModuleMissing => {
                Io::NotFound
            }
            ErrorKind::Exists => Io::AlreadyExists,
            ErrorKind::Unsupported | ErrorKind::Incompatible { .. } => Io::Unsupported,
            ErrorKind::Corrupt | ErrorKind::Encode | ErrorKind::Decode => Io::InvalidData,
            ErrorKind::Unrecoverable
            | ErrorKind::Reactor
            | ErrorKind::OwnerDied
            | ErrorKind::Cancelled
            | ErrorKind::NoBuffers
            | ErrorKind::NoDescriptors
            | ErrorKind::Os => error
                .errno
                .map_or(Io::Other, |errno| std::io::Error::from(errno).kind()),
        };
        std::io::Error::new(kind, error)
    }
}

macro_rules! wraps_error {
    ([$($generic:ident)?] $name:ty) => {
        impl$(<$generic>)? std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(&self.error, f)
            }
        }

        impl$(<$generic>)? std::error::Error for $name {}

        impl$(<$generic>)? From<$name> for $crate::Error {
            fn from(from: $name) -> Self {
                from.error
            }
        }

        impl$(<$generic>)? From<$name> for std::io::Error {
            fn from(from: $name) -> Self {
                from.error.into()
            }
        }
    };
}
#[cfg_attr(loom, allow(unused_imports))]
pub(crate) use wraps_error;

/// A message that was not sent, and why. Nothing of it is in the mailbox.
///
/// Where the payload is borrowed and the error must outlive it, `?` into [`Error`] or
/// [`std::io::Error`] leaves the payload behind.
#[non_exhaustive]
pub struct SendError<T> {
    /// What was to be sent.
    pub payload: T,
    /// Why it was not.
    pub error: Error,
}

impl<T> SendError<T> {
    /// The payload alone.
    pub fn into_payload(self) -> T {
        self.payload
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

wraps_error!([T] SendError<T>);

/// A batch that was not sent to its end, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SendManyError {
    /// How many messages were sent: those before `payloads[sent]`.
    pub sent: usize,
    /// Why the next one was not.
    pub error: Error,
}

wraps_error!([] SendManyError);

/// A descriptor that could not be converted, and why.
#[derive(Debug)]
#[non_exhaustive]
pub struct FromFdError {
    /// The descriptor, open as before.
    pub fd: OwnedFd,
    /// Why it is not what it should be.
    pub error: Error,
}

wraps_error!([] FromFdError);

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(name: &str) -> Subject {
        Subject::new(Kind::Mailbox, Some(name))
    }

    #[test]
    fn errors_name_the_object_and_a_remedy() {
        let error = Error::new(Action::Send, &mailbox("jobs"), Errno::AGAIN);
        assert!(error.is_full());
        let text = error.to_string();
        assert!(
            text.starts_with("cannot send to mailbox \"jobs\": "),
            "{text}"
        );
        assert!(text.contains("wait for room"), "{text}");
    }

    #[test]
    fn debug_form_is_the_sentence_and_the_kind() {
        let error = Error::new(Action::Open, &mailbox("jobs"), Errno::NOENT);
        let text = format!("{error:?}");
        assert!(text.starts_with(&error.to_string()), "{text}");
        assert!(text.ends_with("(NotFound, error number 2)"), "{text}");
        let error = Error::of_kind(Action::Send, &mailbox("jobs"), ErrorKind::OtherOwner);
        assert!(format!("{error:?}").ends_with("(OtherOwner)"));
    }

    #[test]
    fn the_same_number_means_what_was_tried() {
        let kind = |action, errno| Error::new(action, &mailbox("a/b"), errno).kind;
        assert_eq!(kind(Action::Reserve, Errno::AGAIN), ErrorKind::Full);
        assert_eq!(kind(Action::Receive, Errno::AGAIN), ErrorKind::Empty);
        assert_eq!(kind(Action::Device, Errno::NOENT), ErrorKind::ModuleMissing);
        assert_eq!(kind(Action::Open, Errno::NOENT), ErrorKind::NotFound);
        assert_eq!(kind(Action::Acquire, Errno::AGAIN), ErrorKind::NotYet);
        assert_eq!(kind(Action::Call, Errno::OWNERDEAD), ErrorKind::ServerDied);
        assert_eq!(kind(Action::Wait, Errno::OWNERDEAD), ErrorKind::OwnerDied);
        assert_eq!(kind(Action::Open, Errno::INVAL), ErrorKind::Os);
        assert_eq!(
            Error::new(Action::Open, &mailbox("a//b"), Errno::INVAL).kind,
            ErrorKind::InvalidName
        );
    }

    #[test]
    fn the_payload_comes_back_and_stays_out_of_the_way() {
        struct Opaque;
        let error = Error::new(Action::Send, &Subject::none(), Errno::PIPE);
        let send = SendError {
            payload: Opaque,
            error: error.clone(),
        };
        assert!(format!("{send:?}").contains("Disconnected"));
        assert_eq!(Error::from(send), error);
        let send = SendError {
            payload: vec![1, 2],
            error,
        };
        assert_eq!(send.into_payload(), [1, 2]);
    }
}
