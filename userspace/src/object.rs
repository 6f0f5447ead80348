use crate::error::{Action, Error, ErrorKind, FromFdError, Result};
use crate::handle::Rights;
use crate::info::Info;
use crate::{raw, sys};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::time::Timespec;
use std::fmt;
use std::ops::Deref;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum Kind {
    /// A queue of messages: [`Mailbox`](crate::Mailbox).
    Mailbox,
    /// A connection: [`Link`](crate::Link).
    Link,
    /// Where connections come in: [`Listener`](crate::Listener).
    Listener,
    /// The mailbox of a process: [`Endpoint`](crate::Endpoint).
    Endpoint,
    /// A stream of bytes.
    Pipe,
    /// A counting semaphore.
    Semaphore,
    /// It opens when its count is zero, for good.
    Latch,
    /// Where so many meet and then go on.
    Barrier,
    /// Memory that several processes have mapped: [`Segment`](crate::Segment).
    Segment,
    /// A channel in shared memory: [`Ring`](crate::Ring).
    Ring,
    /// Memory in blocks that are lent: [`Pool`](crate::Pool).
    Pool,
    /// One that this version of the crate does not know.
    Other,
}

impl Kind {
    pub(crate) fn from_raw(kind: u32) -> Self {
        match kind {
            sys::POSTBOX_KIND_MAILBOX => Kind::Mailbox,
            sys::POSTBOX_KIND_LINK => Kind::Link,
            sys::POSTBOX_KIND_LISTENER => Kind::Listener,
            sys::POSTBOX_KIND_ENDPOINT => Kind::Endpoint,
            sys::POSTBOX_KIND_PIPE => Kind::Pipe,
            sys::POSTBOX_KIND_SEMAPHORE => Kind::Semaphore,
            sys::POSTBOX_KIND_LATCH => Kind::Latch,
            sys::POSTBOX_KIND_BARRIER => Kind::Barrier,
            sys::POSTBOX_KIND_SEGMENT => Kind::Segment,
            sys::POSTBOX_KIND_POOL => Kind::Pool,
            sys::POSTBOX_KIND_RING => Kind::Ring,
            _ => Kind::Other,
        }
    }

    fn to_raw(self) -> u32 {
        match self {
            Kind::Mailbox => sys::POSTBOX_KIND_MAILBOX,
            Kind::Link => sys::POSTBOX_KIND_LINK,
            Kind::Listener => sys::POSTBOX_KIND_LISTENER,
            Kind::Endpoint => sys::POSTBOX_KIND_ENDPOINT,
            Kind::Pipe => sys::POSTBOX_KIND_PIPE,
            Kind::Semaphore => sys::POSTBOX_KIND_SEMAPHORE,
            Kind::Latch => sys::POSTBOX_KIND_LATCH,
            Kind::Barrier => sys::POSTBOX_KIND_BARRIER,
            Kind::Segment => sys::POSTBOX_KIND_SEGMENT,
            Kind::Pool => sys::POSTBOX_KIND_POOL,
            Kind::Ring => sys::POSTBOX_KIND_RING,
            Kind::Other => 0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Mailbox => "mailbox",
            Kind::Link => "link",
            Kind::Listener => "listener",
            Kind::Endpoint => "endpoint",
            Kind::Pipe => "pipe",
            Kind::Semaphore => "semaphore",
            Kind::Latch => "latch",
            Kind::Barrier => "barrier",
            Kind::Segment => "segment",
            Kind::Pool => "pool",
            Kind::Ring => "ring",
            Kind::Other => "object",
        })
    }
}

/// What a call is about, for its errors to name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) name: Option<Arc<str>>,
    /// Of a port or of a process; 0: none.
    pub(crate) number: u32,
}

impl Subject {
    pub(crate) fn new(kind: Kind, name: Option<&str>) -> Self {
        Subject {
            kind,
            name: name.map(Arc::from),
            number: 0,
        }
    }

    pub(crate) fn numbered(kind: Kind, number: u32) -> Self {
        Subject {
            kind,
            name: None,
            number,
        }
    }

    /// Nothing in particular.
    pub(crate) fn none() -> Self {
        Self::new(Kind::Other, None)
    }

    pub(crate) fn is_port(&self) -> bool {
        self.number != 0 && matches!(self.kind, Kind::Link | Kind::Listener)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Subject { kind, name, number } = self;
        match (kind, name) {
            (_, Some(name)) => write!(f, "{kind} {name:?}"),
            _ if self.is_port() => write!(f, "port {number}"),
            (Kind::Endpoint, _) if *number != 0 => write!(f, "the endpoint of process {number}"),
            (Kind::Endpoint, _) => f.write_str("this process's endpoint"),
            (Kind::Other, _) => f.write_str("an object without a name"),
            _ => write!(f, "a {kind} without a name"),
        }
    }
}

/// An unbound handle of a module that this crate understands.
pub(crate) fn device() -> Result<(OwnedFd, sys::postbox_version)> {
    let error = |errno| Error::new(Action::Device, &Subject::none(), errno);
    let fd = raw::device().map_err(error)?;
    let version = raw::version(&fd).map_err(error)?;
    check(&version)?;
    Ok((fd, version))
}

fn check(version: &sys::postbox_version) -> Result<()> {
    if version.abi == sys::POSTBOX_ABI {
        return Ok(());
    }
    let kind = ErrorKind::Incompatible {
        module: version.abi,
        library: sys::POSTBOX_ABI,
    };
    Err(Error::of_kind(Action::Device, &Subject::none(), kind))
}

/// A bound handle: what all types have in common.
pub(crate) struct Inner {
    pub(crate) fd: OwnedFd,
    pub(crate) subject: Subject,
    pub(crate) rights: Rights,
    /// The most entries of a batch.
    pub(crate) batch_max: usize,
    /// The size that the next message is expected to have.
    pub(crate) expected: AtomicUsize,
}

/// What somebody else has: lent by them, or kept by this until it is dropped.
pub(crate) enum Ref<'a, T> {
    Lent(&'a T),
    Kept(Arc<dyn Holds<T>>),
}

/// Who has a `T` as long as they are there.
pub(crate) trait Holds<T>: Send + Sync {
    fn held(&self) -> &T;
}

// The holder is only asked for its `T`.
impl<T: RefUnwindSafe> UnwindSafe for Ref<'_, T> {}
impl<T: RefUnwindSafe> RefUnwindSafe for Ref<'_, T> {}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Ref::Lent(lent) => lent,
            Ref::Kept(holder) => holder.held(),
        }
    }
}

impl<'a, T> From<&'a T> for Ref<'a, T> {
    fn from(lent: &'a T) -> Self {
        Ref::Lent(lent)
    }
}

impl<T: fmt::Debug> fmt::Debug for Ref<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Inner {
    pub(crate) fn new(fd: OwnedFd, subject: Subject, rights: Rights, batch_max: usize) -> Self {
        Inner {
            fd,
            subject,
            rights,
            batch_max,
            expected: AtomicUsize::new(0),
        }
    }

    /// Opens or makes an object; kind, name and number are the subject's. Also returns whether it
    /// was made.
    pub(crate) fn open(
        subject: Subject,
        rights: Rights,
        args: sys::postbox_open,
    ) -> Result<(Self, bool)> {
        Self::open_with(subject, rights, args, None)
    }

    /// As `open`; what is made has this memory.
    pub(crate) fn open_with(
        subject: Subject,
        rights: Rights,
        mut args: sys::postbox_open,
        memfd: Option<BorrowedFd<'_>>,
    ) -> Result<(Self, bool)> {
        let (fd, version) = device()?;
        args.kind = subject.kind.to_raw();
        args.number = subject.number;
        args.rights = rights.bits();
        let name = subject.name.as_deref().map(str::as_bytes);
        match memfd {
            Some(memfd) => raw::open_memory(&fd, name, memfd, &mut args),
            None => raw::open(&fd, name, &mut args),
        }
        .map_err(|errno| Error::new(Action::Open, &subject, errno))?;
        let batch_max = version.batch_max as usize;
        Ok((
            Inner::new(fd, subject, rights, batch_max),
            args.created != 0,
        ))
    }

    /// What the kernel says of a descriptor from elsewhere. `fits` gets its kind and rights.
    pub(crate) fn adopt(
        fd: OwnedFd,
        fits: impl FnOnce(Kind, Rights) -> bool,
    ) -> Result<Self, FromFdError> {
        let wrong = || {
            let kind = ErrorKind::WrongHandle;
            Error::of_kind(Action::Convert, &Subject::none(), kind)
        };
        let error = |errno| match errno {
            Errno::NOTTY | Errno::BADFD => wrong(),
            errno => Error::new(Action::Convert, &Subject::none(), errno),
        };
        let asked = || {
            let version = raw::version(&fd).map_err(error)?;
            check(&version)?;
            let info = raw::info(&fd).map_err(error)?;
            let rights = Rights::from_bits_retain(info.rights);
            let kind = Kind::from_raw(info.kind);
            if !fits(kind, rights) {
                return Err(wrong());
            }
            let subject = Subject {
                kind,
                name: Info::from(&info).name.map(Arc::from),
                number: info.number,
            };
            Ok((subject, rights, version.batch_max as usize))
        };
        match asked() {
            Ok((subject, rights, batch_max)) => Ok(Inner::new(fd, subject, rights, batch_max)),
            Err(error) => Err(FromFdError { fd, error }),
        }
    }

    pub(crate) fn error(&self, action: Action, errno: Errno) -> Error {
        Error::new(action, &self.subject, errno)
    }

    pub(crate) fn error_of_kind(&self, action: Action, kind: ErrorKind) -> Error {
        Error::of_kind(action, &self.subject, kind)
    }

    pub(crate) fn dup(&self, rights: Rights) -> Result<Self> {
        let fd =
            raw::dup(&self.fd, rights.bits()).map_err(|errno| self.error(Action::Clone, errno))?;
        Ok(Inner::new(fd, self.subject.clone(), rights, self.batch_max))
    }

    /// The same handle to the kernel by another descriptor.
    #[cfg(all(feature = "tokio", not(loom)))]
    pub(crate) fn again(&self) -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
            .map_err(|errno| self.error(Action::Clone, errno))?;
        Ok(Inner::new(
            fd,
            self.subject.clone(),
            self.rights,
            self.batch_max,
        ))
    }

    pub(crate) fn info(&self) -> Result<Info> {
        let info = raw::info(&self.fd).map_err(|errno| self.error(Action::Inspect, errno))?;
        Ok(Info::from(&info))
    }

    pub(crate) fn set_attr(&self, args: sys::postbox_attr) -> Result<()> {
        raw::set_attr(&self.fd, &args).map_err(|errno| self.error(Action::Attributes, errno))
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        let set = || {
            let mut flags = fcntl_getfl(&self.fd)?;
            flags.set(OFlags::NONBLOCK, nonblocking);
            fcntl_setfl(&self.fd, flags)
        };
        set().map_err(|errno| self.error(Action::Poll, errno))
    }

    pub(crate) fn ready(&self, events: PollFlags, timeout: Option<Duration>) -> Result<PollFlags> {
        // A timeout that leads beyond the clock's end is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut fds = [PollFd::new(&self.fd, events)];
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut fds, left.as_ref()) {
                Ok(_) => return Ok(fds[0].revents()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error(Action::Poll, errno)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_of_another_abi_is_refused_by_name() {
        let version = |abi| sys::postbox_version {
            abi,
            ..Default::default()
        };
        assert_eq!(check(&version(sys::POSTBOX_ABI)), Ok(()));
        let text = check(&version(7)).unwrap_err().to_string();
        assert!(text.contains("the postbox module has ABI 7"), "{text}");
    }

    #[test]
    fn kinds_are_the_kernels() {
        // What the header has and nothing else: a kind that is added there is missed here.
        let header = include_str!("sys/bindings.rs");
        let kinds: Vec<u32> = header
            .lines()
            .filter_map(|line| line.strip_prefix("pub const POSTBOX_KIND_"))
            .filter_map(|line| line.split_once(" = ")?.1.trim_end_matches(';').parse().ok())
            .collect();
        assert!(kinds.contains(&sys::POSTBOX_KIND_RING), "{kinds:?}");
        for &raw in &kinds {
            let kind = Kind::from_raw(raw);
            assert_ne!(kind, Kind::Other, "{raw}");
            assert_eq!(kind.to_raw(), raw);
        }
        for raw in (0..100).filter(|raw| !kinds.contains(raw)) {
            assert_eq!(Kind::from_raw(raw), Kind::Other, "{raw}");
        }
    }

    #[test]
    fn errors_say_what_they_are_about() {
        let text = |subject: Subject| subject.to_string();
        assert_eq!(text(Subject::new(Kind::Pipe, Some("a"))), "pipe \"a\"");
        assert_eq!(
            text(Subject::new(Kind::Link, None)),
            "a link without a name"
        );
        assert_eq!(text(Subject::numbered(Kind::Link, 5001)), "port 5001");
        assert_eq!(
            text(Subject::numbered(Kind::Endpoint, 12)),
            "the endpoint of process 12"
        );
        assert_eq!(
            text(Subject::new(Kind::Endpoint, None)),
            "this process's endpoint"
        );
    }
}
