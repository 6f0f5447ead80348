use crate::error::{Action, Error, ErrorKind};
use crate::object::{Inner, Subject};
use rustix::io::Errno;
use std::fmt;
use std::io;

/// Why io_uring cannot be used, or not so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// The administrator has switched it off, for all or for this user: `kernel.io_uring_disabled`.
    Disabled,
    /// It is forbidden to this process: a seccomp filter, as containers have, or a security module.
    Forbidden,
    /// The kernel does not have it, or not what is needed of it: 6.6 has. Some seccomp filters say the
    /// same.
    Kernel,
    /// The postbox module does not have it: [`Version::features`](crate::Version::features).
    Module,
    /// The postbox module cannot be used at all.
    NoModule,
    /// There is not memory enough, or not that much may be locked (`ulimit -l`).
    Memory,
    /// What was asked for is not valid, or is in use: see [`SetupError::errno`].
    Other,
}

/// There is no driver, and why. Its text says what can be done.
///
/// Everything that a driver does can be done without: see the
/// [fallback](crate::uring#where-there-is-no-io_uring).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetupError {
    /// Why.
    pub why: Unavailable,
    /// The kernel's error number, if it came from there.
    pub errno: Option<Errno>,
    /// Where it is [`Unavailable::NoModule`].
    pub module: Option<Error>,
}

impl SetupError {
    pub(super) fn of(why: Unavailable) -> Self {
        SetupError {
            why,
            errno: None,
            module: None,
        }
    }

    /// What `io_uring_setup` says.
    pub(super) fn setup(error: &io::Error) -> Self {
        let Some(errno) = Errno::from_io_error(error) else {
            return Self::of(Unavailable::Other);
        };
        let why = match errno {
            Errno::NOSYS => Unavailable::Kernel,
            Errno::PERM | Errno::ACCESS if disabled() => Unavailable::Disabled,
            Errno::PERM | Errno::ACCESS => Unavailable::Forbidden,
            Errno::NOMEM => Unavailable::Memory,
            _ => Unavailable::Other,
        };
        SetupError {
            errno: Some(errno),
            ..Self::of(why)
        }
    }
}

/// What the administrator says; 1 is a group's right.
fn disabled() -> bool {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .is_ok_and(|value| matches!(value.trim(), "1" | "2"))
}

impl From<Errno> for SetupError {
    fn from(errno: Errno) -> Self {
        let why = match errno {
            Errno::NOMEM => Unavailable::Memory,
            _ => Unavailable::Other,
        };
        SetupError {
            errno: Some(errno),
            ..Self::of(why)
        }
    }
}

impl From<io::Error> for SetupError {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or(Self::of(Unavailable::Other), Self::from)
    }
}

impl From<Error> for SetupError {
    fn from(error: Error) -> Self {
        SetupError {
            errno: error.errno,
            module: Some(error),
            ..Self::of(Unavailable::NoModule)
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.why {
            Unavailable::NoModule => {
                return match &self.module {
                    Some(error) => error.fmt(f),
                    None => f.write_str("the postbox module cannot be used"),
                };
            }
            Unavailable::Disabled => {
                "cannot use io_uring: it is switched off (`sysctl kernel.io_uring_disabled`; 0 lets all \
                 use it, 1 the members of kernel.io_uring_group)"
            }
            Unavailable::Forbidden => {
                "cannot use io_uring: this process is not permitted to; let its seccomp filter or \
                 security module permit io_uring_setup, io_uring_enter and io_uring_register"
            }
            Unavailable::Kernel => {
                "cannot use io_uring: the kernel does not have it, or not all that is needed (6.6 has); \
                 where it should, look for a seccomp filter"
            }
            Unavailable::Module => {
                "cannot use io_uring: the postbox module has no commands for it; load one of this \
                 release"
            }
            Unavailable::Memory => {
                "cannot use io_uring: no memory, or not that much may be locked (`ulimit -l`)"
            }
            Unavailable::Other => "cannot use io_uring so",
        };
        f.write_str(text)?;
        match (self.why, self.errno) {
            (Unavailable::Other, Some(errno)) => write!(f, ": {}", io::Error::from(errno)),
            (Unavailable::Other, None) => Ok(()),
            _ => f.write_str("; or use the calls of the handles, which need no io_uring"),
        }
    }
}

impl std::error::Error for SetupError {}

impl From<SetupError> for Error {
    fn from(error: SetupError) -> Self {
        match error.module {
            Some(module) => module,
            None => {
                let kind = ErrorKind::Unsupported;
                let mut unsupported = Error::of_kind(Action::Submit, &Subject::none(), kind);
                unsupported.errno = error.errno;
                unsupported
            }
        }
    }
}

impl From<SetupError> for io::Error {
    fn from(error: SetupError) -> Self {
        let kind = match error.why {
            Unavailable::Disabled | Unavailable::Forbidden => io::ErrorKind::PermissionDenied,
            Unavailable::Kernel | Unavailable::Module => io::ErrorKind::Unsupported,
            Unavailable::NoModule => io::ErrorKind::NotFound,
            Unavailable::Memory => io::ErrorKind::OutOfMemory,
            Unavailable::Other => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// The error number of a value that belongs to another handle or driver. The kernel answers none of
/// these commands with it.
pub(super) const OTHER_OWNER: Errno = Errno::XDEV;

/// Why an operation failed; `cancelled`: it was to be.
pub(super) fn failed(on: &Inner, action: Action, errno: Errno, cancelled: bool) -> Error {
    if errno == Errno::CANCELED && (cancelled || action != Action::Call) {
        let mut error = on.error_of_kind(action, ErrorKind::Cancelled);
        error.errno = Some(errno);
        return error;
    }
    if errno == OTHER_OWNER {
        return on.error_of_kind(action, ErrorKind::OtherOwner);
    }
    on.error(action, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_why_and_what_to_do() {
        let error = SetupError::setup(&io::Error::from_raw_os_error(libc::ENOSYS));
        assert_eq!(error.why, Unavailable::Kernel);
        assert_eq!(error.errno, Some(Errno::NOSYS));
        let text = error.to_string();
        assert!(
            text.contains("seccomp") && text.contains("calls of the handles"),
            "{text}"
        );
        let error = Error::from(error);
        assert_eq!(error.kind, ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("io_uring"), "{text}");
        let error = SetupError::from(Errno::BUSY);
        assert_eq!(
            (error.why, error.errno),
            (Unavailable::Other, Some(Errno::BUSY))
        );
        assert!(error.to_string().contains("busy"), "{error}");
    }
}
