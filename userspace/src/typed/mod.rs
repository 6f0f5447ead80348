//! Channels of values: handles that encode what they send, and decode what they receive.
//!
//! [`Handle::typed`](crate::Handle::typed) makes one of any handle that carries messages, and
//! [`Async::typed`](crate::aio::Async::typed) of one that is async. How values become bytes is a
//! type, too: [`InPlace`] (feature `zerocopy`) sends a value's own bytes, and [`Postcard`] (feature
//! `postcard`) encodes whatever serde can. Others are [`Encode`] and [`Decode`] for a type of one's
//! own.
//!
//! What is received comes from another process. A message that is not of the type is an
//! [error](RecvError::Malformed) that has the message in it, and never a panic.
//!
//! ```
//! # #[cfg(feature = "postcard")]
//! # fn main() -> postbox::Result<()> {
//! # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
//! use postbox::Mailbox;
//! use postbox::typed::{Postcard, RecvError, Typed, TypedReceiver, TypedSender};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, Debug, PartialEq)]
//! enum Job {
//!     Build { target: String },
//!     Clean,
//! }
//!
//! let (sender, receiver) = Mailbox::options().anonymous()?.split()?;
//! let jobs: TypedReceiver<Job, Postcard> = receiver.typed();
//! let to: TypedSender<Job, Postcard> = sender.typed();
//!
//! to.send(Job::Build { target: "all".into() })?;
//! let job = jobs.recv()?;
//! assert_eq!(job.value, Job::Build { target: "all".into() });
//! println!("from process {}", job.message.sender.pid);
//!
//! to.get_ref().send("no job")?;
//! match jobs.recv() {
//!     Err(RecvError::Malformed(bad)) => assert_eq!(&*bad.message, b"no job"),
//!     other => panic!("{other:?}"),
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "postcard"))]
//! # fn main() {}
//! ```

mod asynchronous;
mod codec;
mod error;
#[cfg(feature = "postcard")]
mod limited;

#[cfg(feature = "futures")]
pub use asynchronous::TypedSink;
pub use codec::{Decode, Encode};
#[cfg(feature = "zerocopy")]
pub use codec::{InPlace, Mismatch};
#[cfg(feature = "postcard")]
pub use codec::{Postcard, PostcardError};
pub use error::{Malformed, RecvError};

use crate::call::Request;
use crate::error::{Action, Error, ErrorKind, Result, SendError};
use crate::handle::{CanReceive, CanSend, Handle, Receiver, Sender};
use crate::object::Inner;
use crate::recv::{Delivery, Message};
use crate::wait::Wait;
use std::borrow::{Borrow, Cow};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

/// A handle of which messages are values of one type, encoded in one way.
///
/// `H` is a handle ([`Sender`], [`Receiver`], [`Link`](crate::Link) and so on) or an
/// [`Async`](crate::aio::Async) one, `T` what is sent and received, and `C` how: [`InPlace`],
/// [`Postcard`], or anything that is [`Encode`] and [`Decode`]. A link on which both ends send
/// different types is [split](crate::Link::split).
pub struct Typed<H, T: ?Sized, C> {
    handle: H,
    value: PhantomData<fn(&T)>,
    codec: PhantomData<fn(C)>,
}

/// A [`Sender`] of values.
pub type TypedSender<T, C> = Typed<Sender, T, C>;

/// A [`Receiver`] of values.
pub type TypedReceiver<T, C> = Typed<Receiver, T, C>;

impl<A: crate::Access> Handle<A> {
    /// The same handle for values of one type: see [`typed`](crate::typed).
    pub fn typed<T: ?Sized, C>(self) -> Typed<Self, T, C> {
        Typed::new(self)
    }
}

impl<H, T: ?Sized, C> Typed<H, T, C> {
    /// That handle for values of one type.
    pub fn new(handle: H) -> Self {
        Typed {
            handle,
            value: PhantomData,
            codec: PhantomData,
        }
    }

    /// The handle, for what is not typed.
    pub fn get_ref(&self) -> &H {
        &self.handle
    }

    /// The handle.
    pub fn into_inner(self) -> H {
        self.handle
    }
}

impl<H: fmt::Debug, T: ?Sized, C> fmt::Debug for Typed<H, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Typed").field(&self.handle).finish()
    }
}

/// What a receive of values returns: a [`Value`], and what it came with.
pub type Decoded<T, C, M = Message> = Result<Value<T, M>, RecvError<M, <C as Decode<T>>::Error>>;

/// What a receive of requests returns.
pub type Requested<'a, T, C> =
    Result<TypedRequest<'a, T, C>, RecvError<Request<'a>, <C as Decode<T>>::Error>>;

/// A value that was received, and what it came with. It derefs to the value.
#[derive(Debug)]
pub struct Value<T, M = Message> {
    /// The value.
    pub value: T,
    /// The message: its sender, its files, its bytes.
    pub message: M,
}

impl<T, M> Deref for Value<T, M> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T, M> DerefMut for Value<T, M> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

/// # A value that is to be acknowledged
impl<T> Value<T, Delivery<'_>> {
    /// It is done with. Returns the value.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn ack(self) -> Result<T> {
        self.message.ack()?;
        Ok(self.value)
    }

    /// It is not done: back to the head with it.
    ///
    /// # Errors
    /// As [`Delivery::requeue`].
    pub fn requeue(self) -> Result<()> {
        self.message.requeue()
    }
}

/// A request that was received, whose value and whose reply are typed. It derefs to the value.
#[must_use = "dropping it tells the caller that there will be no reply"]
pub struct TypedRequest<'a, T, C> {
    /// The value.
    pub value: T,
    /// The request.
    pub request: Request<'a>,
    codec: PhantomData<fn(C)>,
}

impl<T, C> TypedRequest<'_, T, C> {
    /// Answers. It never waits.
    ///
    /// # Errors
    /// [`Encode`](ErrorKind::Encode), and as [`Request::reply`].
    pub fn reply<R: ?Sized>(&mut self, reply: &R) -> Result<()>
    where
        C: Encode<R>,
    {
        reply_with::<C, R>(&mut self.request, reply)
    }
}

impl<T, C> Deref for TypedRequest<'_, T, C> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug, C> fmt::Debug for TypedRequest<'_, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedRequest")
            .field("value", &self.value)
            .field("request", &self.request)
            .finish()
    }
}

fn encoded<'v, T: ?Sized, C: Encode<T>>(
    inner: &Inner,
    action: Action,
    value: &'v T,
) -> Result<Cow<'v, [u8]>> {
    C::encode(value)
        .map_err(|error| Error::because(action, &inner.subject, ErrorKind::Encode, &error))
}

/// What came, if it is of the type.
fn decoded<T, C: Decode<T>, M: AsRef<[u8]>>(message: M) -> Decoded<T, C, M> {
    match C::decode(message.as_ref()) {
        Ok(value) => Ok(Value { value, message }),
        Err(error) => Err(RecvError::Malformed(Box::new(Malformed { message, error }))),
    }
}

fn requested<T, C: Decode<T>>(request: Request<'_>) -> Requested<'_, T, C> {
    let Value { value, message } = decoded::<T, C, _>(request)?;
    Ok(TypedRequest {
        value,
        request: message,
        codec: PhantomData,
    })
}

/// # Sending values
///
/// A value is given, or lent: the error gives it back. What can fail is said under
/// [Sending](Handle#sending) of the handle; and [`Encode`](ErrorKind::Encode) where the value cannot
/// be encoded.
impl<A: CanSend, T: ?Sized, C: Encode<T>> Typed<Handle<A>, T, C> {
    /// Sends a value, and waits for room.
    ///
    /// # Errors
    /// See [Sending values](#sending-values).
    pub fn send<B: Borrow<T>>(&self, value: B) -> Result<(), SendError<B>> {
        self.send_with(value, 0, Wait::Forever)
    }

    /// Sends a value if that is possible now.
    ///
    /// # Errors
    /// [`Full`](ErrorKind::Full), and see [Sending values](#sending-values).
    pub fn try_send<B: Borrow<T>>(&self, value: B) -> Result<(), SendError<B>> {
        self.send_with(value, 0, Wait::Never)
    }

    /// Sends a value, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Sending values](#sending-values).
    pub fn send_timeout<B: Borrow<T>>(
        &self,
        value: B,
        timeout: Duration,
    ) -> Result<(), SendError<B>> {
        self.send_with(value, 0, Wait::Timeout(timeout))
    }

    /// Sends a value, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Sending values](#sending-values).
    pub fn send_deadline<B: Borrow<T>>(
        &self,
        value: B,
        deadline: Instant,
    ) -> Result<(), SendError<B>> {
        self.send_with(value, 0, Wait::Deadline(deadline))
    }

    /// Sends a value with a priority, and waits as `wait` says.
    ///
    /// # Errors
    /// See [Sending values](#sending-values).
    pub fn send_with<B: Borrow<T>>(
        &self,
        value: B,
        priority: u32,
        wait: Wait,
    ) -> Result<(), SendError<B>> {
        let bytes = encoded::<T, C>(&self.handle.inner, Action::Send, value.borrow());
        let sent = bytes.and_then(|bytes| {
            let sent = self.handle.send_with(&*bytes, priority, wait);
            sent.map_err(|failed| failed.error)
        });
        sent.map_err(|error| SendError {
            payload: value,
            error,
        })
    }

    /// Sends a request and waits for the reply, which is of type `R`.
    ///
    /// # Errors
    /// [`Malformed`](RecvError::Malformed): the reply is not of that type.
    /// [`Receive`](RecvError::Receive): see [Calling](Handle#calling) and
    /// [Sending values](#sending-values).
    pub fn call<R>(&self, request: &T) -> Decoded<R, C>
    where
        C: Decode<R>,
    {
        self.call_with(request, Wait::Forever)
    }

    /// Sends a request and waits for the reply, as `wait` says.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_with<R>(&self, request: &T, wait: Wait) -> Decoded<R, C>
    where
        C: Decode<R>,
    {
        let request = encoded::<T, C>(&self.handle.inner, Action::Call, request)?;
        decoded::<R, C, _>(self.handle.call_with(&*request, wait)?)
    }
}

/// # Receiving values
///
/// What is not of the type is [`Malformed`](RecvError::Malformed), and the error has it. Everything
/// else that can fail is said under [Receiving](Handle#receiving) of the handle.
impl<A: CanReceive, T, C: Decode<T>> Typed<Handle<A>, T, C> {
    /// Receives a value, and waits for one.
    ///
    /// # Errors
    /// See [Receiving values](#receiving-values).
    pub fn recv(&self) -> Decoded<T, C> {
        self.recv_with(Wait::Forever)
    }

    /// Receives a value if there is one now.
    ///
    /// # Errors
    /// [`Empty`](ErrorKind::Empty), and see [Receiving values](#receiving-values).
    pub fn try_recv(&self) -> Decoded<T, C> {
        self.recv_with(Wait::Never)
    }

    /// Receives a value, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Receiving values](#receiving-values).
    pub fn recv_timeout(&self, timeout: Duration) -> Decoded<T, C> {
        self.recv_with(Wait::Timeout(timeout))
    }

    /// Receives a value, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Receiving values](#receiving-values).
    pub fn recv_deadline(&self, deadline: Instant) -> Decoded<T, C> {
        self.recv_with(Wait::Deadline(deadline))
    }

    /// Receives a value, and waits as `wait` says.
    ///
    /// # Errors
    /// See [Receiving values](#receiving-values).
    pub fn recv_with(&self, wait: Wait) -> Decoded<T, C> {
        decoded::<T, C, _>(self.handle.recv_with(wait)?)
    }

    /// Receives a value that is to be acknowledged, and waits as `wait` says. What is not of the type
    /// is put back when the error is dropped, and acknowledged by
    /// [`bad.message.ack()`](Delivery::ack).
    ///
    /// # Errors
    /// As [`Handle::take`], and see [Receiving values](#receiving-values).
    pub fn take_with(&self, wait: Wait) -> Decoded<T, C, Delivery<'_>> {
        decoded::<T, C, _>(self.handle.take_with(wait)?)
    }

    /// Receives a value that is to be acknowledged, and waits for one.
    ///
    /// # Errors
    /// As [`take_with`](Self::take_with).
    pub fn take(&self) -> Decoded<T, C, Delivery<'_>> {
        self.take_with(Wait::Forever)
    }

    /// Receives value after value, and waits for each. It ends when the last sender is gone and
    /// nothing is left.
    pub fn iter(&self) -> impl Iterator<Item = Decoded<T, C>> {
        std::iter::from_fn(|| match self.recv() {
            Err(RecvError::Receive(error)) if error.is_disconnected() => None,
            received => Some(received),
        })
    }

    /// Receives a request, and waits for one. What is not of the type is dropped with the error,
    /// which the caller is told.
    ///
    /// # Errors
    /// As [`Handle::recv_request`], and see [Receiving values](#receiving-values).
    pub fn recv_request(&self) -> Requested<'_, T, C> {
        self.recv_request_with(Wait::Forever)
    }

    /// Receives a request, and waits as `wait` says.
    ///
    /// # Errors
    /// As [`recv_request`](Self::recv_request).
    pub fn recv_request_with(&self, wait: Wait) -> Requested<'_, T, C> {
        requested(self.handle.recv_request_with(wait)?)
    }

    /// Answers request after request with what `answer` returns, until the last sender is gone. A
    /// request that is not of the type, or whose answer cannot be encoded, is dropped, which its
    /// caller is told.
    ///
    /// # Errors
    /// What ends it otherwise: see [Receiving](Handle#receiving) and [`Request::reply`].
    pub fn serve<R>(&self, mut answer: impl FnMut(&T) -> R) -> Result<()>
    where
        C: Encode<R>,
    {
        loop {
            match self.recv_request() {
                Ok(request) => {
                    let reply = answer(&request);
                    replied::<C, R>(request.request, &reply)?;
                }
                Err(RecvError::Malformed(_)) => {}
                Err(RecvError::Receive(error)) if error.is_disconnected() => return Ok(()),
                Err(RecvError::Receive(error)) => return Err(error),
            }
        }
    }
}

/// Replies where somebody waits for it. A caller that has given up, or gets nothing because it
/// cannot be encoded, does not end a server.
fn replied<C: Encode<R>, R>(mut request: Request<'_>, reply: &R) -> Result<()> {
    if !request.is_open() {
        return Ok(());
    }
    match reply_with::<C, R>(&mut request, reply) {
        Err(error) if matches!(error.kind, ErrorKind::Stale | ErrorKind::Encode) => Ok(()),
        replied => replied,
    }
}

fn reply_with<C: Encode<R>, R: ?Sized>(request: &mut Request<'_>, reply: &R) -> Result<()> {
    let bytes = C::encode(reply).map_err(|error| {
        let subject = request.subject();
        Error::because(Action::Reply, subject, ErrorKind::Encode, &error)
    })?;
    request.reply(&*bytes).map_err(|failed| failed.error)
}
