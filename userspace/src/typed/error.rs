//! What a typed receive fails with.

use crate::error::{Action, Error, ErrorKind};
use crate::object::Subject;
use std::fmt;

/// Why a value was not received. `M` is what has come: a [`Message`](crate::Message),
/// [`Delivery`](crate::Delivery) or [`Request`](crate::Request).
///
/// `?` makes an [`Error`] of it, which does not have the message any more.
#[non_exhaustive]
pub enum RecvError<M, E> {
    /// Nothing was received.
    Receive(Error),
    /// What was received is not of the type.
    Malformed(Box<Malformed<M, E>>),
}

/// A message that is not of the type, and why.
#[non_exhaustive]
pub struct Malformed<M, E> {
    /// The message.
    pub message: M,
    /// Why it could not be decoded.
    pub error: E,
}

impl<M, E> RecvError<M, E> {
    /// Whether there was no message: [`ErrorKind::Empty`].
    pub fn is_empty(&self) -> bool {
        matches!(self, RecvError::Receive(error) if error.is_empty())
    }

    /// Whether the time was up: [`ErrorKind::Timeout`].
    pub fn is_timeout(&self) -> bool {
        matches!(self, RecvError::Receive(error) if error.is_timeout())
    }

    /// Whether the other side is gone: [`ErrorKind::Disconnected`].
    pub fn is_disconnected(&self) -> bool {
        matches!(self, RecvError::Receive(error) if error.is_disconnected())
    }

    /// The message that was not of the type.
    pub fn into_message(self) -> Option<M> {
        match self {
            RecvError::Receive(_) => None,
            RecvError::Malformed(malformed) => Some(malformed.message),
        }
    }
}

impl<M, E> From<Error> for RecvError<M, E> {
    fn from(error: Error) -> Self {
        RecvError::Receive(error)
    }
}

impl<M, E: fmt::Display> From<RecvError<M, E>> for Error {
    fn from(error: RecvError<M, E>) -> Self {
        match error {
            RecvError::Receive(error) => error,
            RecvError::Malformed(malformed) => Error::because(
                Action::Decode,
                &Subject::none(),
                ErrorKind::Decode,
                &malformed.error,
            ),
        }
    }
}

impl<M, E: fmt::Display> From<RecvError<M, E>> for std::io::Error {
    fn from(error: RecvError<M, E>) -> Self {
        Error::from(error).into()
    }
}

impl<M, E: fmt::Display> fmt::Display for RecvError<M, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Receive(error) => error.fmt(f),
            RecvError::Malformed(malformed) => malformed.fmt(f),
        }
    }
}

impl<M, E: fmt::Display> fmt::Display for Malformed<M, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the message is not of the type: {}", self.error)
    }
}

impl<M, E: fmt::Debug> fmt::Debug for RecvError<M, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Receive(error) => f.debug_tuple("Receive").field(error).finish(),
            RecvError::Malformed(malformed) => f.debug_tuple("Malformed").field(malformed).finish(),
        }
    }
}

impl<M, E: fmt::Debug> fmt::Debug for Malformed<M, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Malformed")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

impl<M, E: std::error::Error> std::error::Error for RecvError<M, E> {}
impl<M, E: std::error::Error> std::error::Error for Malformed<M, E> {}
