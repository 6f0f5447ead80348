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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    /// The cause.
    pub kind: ErrorKind,
    /// The name of the object, if it has one.
    pub object: Option<Arc<str>>,
    /// The kernel's error number, if the error came from there.
    pub errno: Option<Errno>,
    action: Action,
}

/// The cause of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no room now, or (rendezvous) no receiver waits: `EAGAIN` of a send or a
    /// reservation.
    Full,
    /// There is no message now: `EAGAIN` of a receive.
    Empty,
    /// The time is up; nothing was sent or taken: `ETIMEDOUT`.
    Timeout,
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
    /// A quota of the user or a limit of the handle is used up: `EDQUOT`.
    Quota,
    /// The object's mode, its owner, the handle's rights or the device's group forbid it: `EACCES`,
    /// `EPERM`.
    Denied,
    /// There is no object of that name: `ENOENT`.
    NotFound,
    /// The name is taken: `EEXIST`.
    Exists,
    /// No object can have that name: `EINVAL`, `ENAMETOOLONG`.
    InvalidName,
    /// The object is of another kind, or cannot do this: `EOPNOTSUPP`.
    Unsupported,
    /// The descriptor is not a mailbox, or its rights are not those of the type that it should
    /// become.
    WrongHandle,
    /// The process that sent a message is no longer there.
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
}

impl Error {
    pub(crate) fn new(action: Action, object: Option<Arc<str>>, errno: Errno) -> Self {
        use Action::{Device, Open, Reserve, Send};
        let kind = match errno {
            Errno::AGAIN if matches!(action, Send | Reserve) => ErrorKind::Full,
            Errno::AGAIN => ErrorKind::Empty,
            Errno::TIMEDOUT => ErrorKind::Timeout,
            Errno::PIPE => ErrorKind::Disconnected,
            Errno::DQUOT => ErrorKind::Quota,
            Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
            Errno::NOENT | Errno::NXIO | Errno::NODEV if action == Device => {
                ErrorKind::ModuleMissing
            }
            Errno::NOENT => ErrorKind::NotFound,
            Errno::EXIST => ErrorKind::Exists,
            Errno::NAMETOOLONG => ErrorKind::InvalidName,
            Errno::INVAL
                if matches!(action, Open | Action::Unlink) && !is_name(object.as_deref()) =>
            {
                ErrorKind::InvalidName
            }
            Errno::OPNOTSUPP => ErrorKind::Unsupported,
            Errno::SRCH => ErrorKind::Gone,
            _ => ErrorKind::Os,
        };
        Error {
            kind,
            object,
            errno: Some(errno),
            action,
        }
    }

    pub(crate) fn of_kind(action: Action, object: Option<Arc<str>>, kind: ErrorKind) -> Self {
        Error {
            kind,
            object,
            errno: None,
            action,
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
            Action::Device => "open",
            Action::Open => "open",
            Action::Unlink => "remove",
            Action::Clone => "make another handle of",
            Action::Attributes => "change the attributes of",
            Action::Inspect => "inspect",
            Action::List => "list",
            Action::Usage => "read the usage of",
            Action::Poll => "wait for",
            Action::Send | Action::SendReserved => "send to",
            Action::Reserve => "reserve room in",
            Action::Receive => "receive from",
            Action::Settle => "settle a message of",
            Action::Convert => "use this descriptor as",
            Action::Identify => "identify",
        };
        write!(f, "cannot {action} ")?;
        match (self.action, &self.object) {
            (Action::Device, _) => f.write_str(DEVICE),
            (Action::List, _) => f.write_str("mailboxes"),
            (Action::Usage, _) => f.write_str("this user"),
            (Action::Identify, _) => f.write_str("the sender of the message"),
            (Action::Convert, _) => f.write_str("a mailbox handle of this type"),
            (_, Some(name)) => write!(f, "mailbox {name:?}"),
            (_, None) => f.write_str("a mailbox without a name"),
        }?;
        write!(f, ": {}", self.cause())
    }
}

impl Error {
    /// What was wrong, and what can be done about it.
    fn cause(&self) -> Cow<'static, str> {
        let text = match (self.kind, self.action) {
            (ErrorKind::Full, _) => {
                "it has no room now, or (rendezvous) no receiver waits; \
                 receive from it, or wait for room"
            }
            (ErrorKind::Empty, _) => "no message is there now; wait for one",
            (ErrorKind::Timeout, _) => "the time is up; nothing was sent or taken",
            (ErrorKind::Disconnected, Action::Receive) => {
                "the last sender is gone and every message has been received"
            }
            (ErrorKind::Disconnected, _) => {
                "the last receiver is gone; open one, or make the mailbox persistent"
            }
            (ErrorKind::TooLarge { len, limit }, action) => {
                let text = match action {
                    Action::Receive => {
                        format!("the buffer has {limit}; the message stays, use a larger buffer")
                    }
                    Action::SendReserved => {
                        format!("{limit} were reserved; reserve as many as it may have")
                    }
                    _ => format!(
                        "the mailbox takes {limit}; \
                         make it with a larger message_max or capacity_bytes"
                    ),
                };
                return format!("the message has {len} bytes and {text}").into();
            }
            (ErrorKind::Quota, _) => {
                "a quota is used up (`postbox limits` shows them); receive or acknowledge \
                 messages, or raise the module's parameters"
            }
            (ErrorKind::Denied, Action::Device) => {
                "permission denied; add this user to its group (`sudo usermod -aG postbox $USER`) \
                 and log in again"
            }
            (ErrorKind::Denied, _) if self.errno == Some(Errno::PERM) => {
                "only its owner and root may do this"
            }
            (ErrorKind::Denied, Action::Open) => {
                "its mode forbids it (w: send, r: receive); its owner can change that with \
                 `postbox chmod`"
            }
            (ErrorKind::Denied, Action::Attributes) => {
                "this handle was not opened for it (Options::admin, Admin)"
            }
            (ErrorKind::Denied, _) => "this handle does not have the right",
            (ErrorKind::NotFound, Action::Settle) => "it is not there to settle any more",
            (ErrorKind::NotFound, _) => {
                "there is none of that name; create it with Options::create or `postbox create`"
            }
            (ErrorKind::Exists, _) => {
                "the name is taken; choose another, use the mailbox that has it, or remove that \
                 with `postbox rm`"
            }
            (ErrorKind::InvalidName, _) => {
                "names have at most 63 of the characters A-Z a-z 0-9 . _ - and single '/' between \
                 parts, none of which is \".\" or \"..\""
            }
            (ErrorKind::Unsupported, _) => {
                "it cannot do this (a rendezvous mailbox has no room to reserve, and objects of \
                 other kinds no messages)"
            }
            (ErrorKind::WrongHandle, _) => {
                "it is not bound to a mailbox with just the rights of that type; a handle with \
                 both rights is a Mailbox, which can be split"
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
            ErrorKind::Full | ErrorKind::Empty => Io::WouldBlock,
            ErrorKind::Timeout => Io::TimedOut,
            ErrorKind::Disconnected => Io::BrokenPipe,
            ErrorKind::TooLarge { .. } | ErrorKind::InvalidName | ErrorKind::WrongHandle => {
                Io::InvalidInput
            }
            ErrorKind::Quota => Io::QuotaExceeded,
            ErrorKind::Denied => Io::PermissionDenied,
            ErrorKind::NotFound | ErrorKind::Gone | ErrorKind::ModuleMissing => Io::NotFound,
            ErrorKind::Exists => Io::AlreadyExists,
            ErrorKind::Unsupported | ErrorKind::Incompatible { .. } => Io::Unsupported,
            ErrorKind::Os => error
                .errno
                .map_or(Io::Other, |errno| std::io::Error::from(errno).kind()),
        };
        std::io::Error::new(kind, error)
    }
}

macro_rules! wraps_error {
    ([$($generic:ident)?] $name:ty) => {
        impl$(<$generic>)? fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.error.fmt(f)
            }
        }

        impl$(<$generic>)? std::error::Error for $name {}

        impl$(<$generic>)? From<$name> for Error {
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

    #[test]
    fn errors_name_the_object_and_a_remedy() {
        let error = Error::new(Action::Send, Some("jobs".into()), Errno::AGAIN);
        assert!(error.is_full());
        let text = error.to_string();
        assert!(
            text.starts_with("cannot send to mailbox \"jobs\": "),
            "{text}"
        );
        assert!(text.contains("wait for room"), "{text}");
    }

    #[test]
    fn the_same_number_means_what_was_tried() {
        let kind = |action, errno| Error::new(action, Some("a/b".into()), errno).kind;
        assert_eq!(kind(Action::Reserve, Errno::AGAIN), ErrorKind::Full);
        assert_eq!(kind(Action::Receive, Errno::AGAIN), ErrorKind::Empty);
        assert_eq!(kind(Action::Device, Errno::NOENT), ErrorKind::ModuleMissing);
        assert_eq!(kind(Action::Open, Errno::NOENT), ErrorKind::NotFound);
        assert_eq!(kind(Action::Open, Errno::INVAL), ErrorKind::Os);
        assert_eq!(
            Error::new(Action::Open, Some("a//b".into()), Errno::INVAL).kind,
            ErrorKind::InvalidName
        );
    }

    #[test]
    fn the_payload_comes_back_and_stays_out_of_the_way() {
        struct Opaque;
        let error = Error::new(Action::Send, None, Errno::PIPE);
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
