//! Values through handles that are async.

use super::{
    Decode, Decoded, Encode, RecvError, Requested, Typed, TypedRequest, decoded, encoded, replied,
    requested,
};
use crate::aio::{Async, Interest, Reactor};
use crate::call::Request;
use crate::error::{Action, Result, SendError};
use crate::handle::{Access, CanReceive, CanSend, Handle};
use crate::object::{Holds, Inner, Ref};
use crate::recv::Delivery;
use crate::wait::Wait;
use std::borrow::Borrow;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

impl<A: Access, R: Reactor> Async<Handle<A>, R> {
    /// The same handle for values of one type: see [`typed`](crate::typed).
    pub fn typed<T: ?Sized, C>(self) -> Typed<Self, T, C> {
        Typed::new(self)
    }
}

impl<A: Access, R: Reactor, T: ?Sized + 'static, C: 'static> Holds<Inner>
    for Typed<Async<Handle<A>, R>, T, C>
{
    fn held(&self) -> &Inner {
        &self.handle.get_ref().inner
    }
}

/// # Sending values, async
///
/// What can fail is said under [Sending values](#sending-values).
impl<A: CanSend, R: Reactor, T: ?Sized, C: Encode<T>> Typed<Async<Handle<A>, R>, T, C> {
    /// Sends a value, and waits for room.
    ///
    /// # Errors
    /// See [Sending values](#sending-values).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was sent. The value is dropped
    /// with it, unless it was lent.
    pub async fn send<B: Borrow<T> + Send>(&self, value: B) -> Result<(), SendError<B>> {
        self.send_with(value, 0).await
    }

    /// Sends a value with a priority, and waits for room.
    ///
    /// # Errors
    /// See [Sending values](#sending-values).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_with<B: Borrow<T> + Send>(
        &self,
        value: B,
        priority: u32,
    ) -> Result<(), SendError<B>> {
        let inner = &self.handle.get_ref().inner;
        let sent = match encoded::<T, C>(inner, Action::Send, value.borrow()) {
            Ok(bytes) => {
                let sent = self.handle.send_with(&*bytes, priority).await;
                sent.map_err(|failed| failed.error)
            }
            Err(error) => Err(error),
        };
        sent.map_err(|error| SendError {
            payload: value,
            error,
        })
    }
}

/// # Receiving values, async
///
/// What can fail is said under [Receiving values](#receiving-values).
impl<A: CanReceive, R: Reactor, T, C: Decode<T>> Typed<Async<Handle<A>, R>, T, C> {
    /// Receives a value, and waits for one.
    ///
    /// # Errors
    /// See [Receiving values](#receiving-values).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received.
    pub async fn recv(&self) -> Decoded<T, C> {
        decoded::<T, C, _>(self.handle.recv().await?)
    }

    /// Receives a value, for who is polled.
    ///
    /// # Errors
    /// See [Receiving values](#receiving-values).
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Decoded<T, C>> {
        Poll::Ready(decoded::<T, C, _>(ready!(self.handle.poll_recv(cx))?))
    }

    /// Receives a value that is to be acknowledged, and waits for one. What is not of the type is
    /// put back when the error is dropped, and acknowledged by
    /// [`bad.message.ack()`](Delivery::ack).
    ///
    /// # Errors
    /// As [`Handle::take`], and see [Receiving values](#receiving-values).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was taken.
    pub async fn take(&self) -> Decoded<T, C, Delivery<'_>> {
        decoded::<T, C, _>(self.handle.take().await?)
    }

    /// Receives a request, and waits for one. What is not of the type is dropped with the error,
    /// which the caller is told.
    ///
    /// # Errors
    /// As [`Handle::recv_request`], and see [Receiving values](#receiving-values).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received.
    pub async fn recv_request(&self) -> Requested<'_, T, C> {
        requested(self.handle.recv_request().await?)
    }

    /// The same with a request that can be answered in another task.
    ///
    /// # Errors
    /// As [`recv_request`](Self::recv_request).
    ///
    /// # Cancel safety
    /// As [`recv_request`](Self::recv_request).
    pub async fn recv_request_owned(self: Arc<Self>) -> Requested<'static, T, C>
    where
        T: 'static,
        C: 'static,
    {
        let receive = |handle: &Handle<A>| handle.inner.recv(0, None, Wait::Never);
        let (message, token) = self.handle.io(Interest::Read, receive).await?;
        requested(Request::new(Ref::<Inner>::Kept(self), message, token))
    }

    /// Answers request after request with what the future of `answer` returns, one after the other,
    /// until the last sender is gone. A request that is not of the type, or whose answer cannot be
    /// encoded, is dropped, which its caller is told.
    ///
    /// # Errors
    /// What ends it otherwise: see [Receiving](Handle#receiving) and [`Request::reply`].
    ///
    /// # Cancel safety
    /// When it is dropped, the request that `answer` is at is not answered: its caller is told so.
    /// No other one is lost.
    pub async fn serve<B, F>(&self, mut answer: impl FnMut(T) -> F) -> Result<()>
    where
        C: Encode<B>,
        F: Future<Output = B>,
    {
        loop {
            match self.recv_request().await {
                Ok(TypedRequest { value, request, .. }) => {
                    let reply = answer(value).await;
                    replied::<C, B>(request, &reply)?;
                }
                Err(RecvError::Malformed(_)) => {}
                Err(RecvError::Receive(error)) if error.is_disconnected() => return Ok(()),
                Err(RecvError::Receive(error)) => return Err(error),
            }
        }
    }
}

#[cfg(feature = "tokio")]
impl<A: CanSend, T: ?Sized, C: Encode<T>> Typed<crate::tokio::Async<Handle<A>>, T, C> {
    /// Sends a request and waits for the reply, which is of type `B`.
    ///
    /// # Errors
    /// [`Malformed`](RecvError::Malformed): the reply is not of that type.
    /// [`Receive`](RecvError::Receive): see [`Async::call`] and
    /// [Sending values](#sending-values).
    ///
    /// # Cancel safety
    /// Not cancel safe: as [`Async::call`].
    pub async fn call<B>(&self, request: &T) -> Decoded<B, C>
    where
        C: Decode<B>,
    {
        let inner = &self.handle.get_ref().inner;
        let request = encoded::<T, C>(inner, Action::Call, request)?.into_owned();
        decoded::<B, C, _>(self.handle.call(request).await?)
    }

    /// Sends a request and waits for the reply, at most `timeout` for all of it.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`call`](Self::call).
    ///
    /// # Cancel safety
    /// Not cancel safe: as [`Async::call`].
    pub async fn call_timeout<B>(&self, request: &T, timeout: std::time::Duration) -> Decoded<B, C>
    where
        C: Decode<B>,
    {
        let inner = &self.handle.get_ref().inner;
        let request = encoded::<T, C>(inner, Action::Call, request)?.into_owned();
        decoded::<B, C, _>(self.handle.call_timeout(request, timeout).await?)
    }
}

#[cfg(feature = "futures")]
pub use sink::TypedSink;

#[cfg(feature = "futures")]
mod sink {
    use super::*;
    use crate::aio::SendSink;
    use futures_core::Stream;
    use futures_sink::Sink;
    use std::fmt;
    use std::marker::PhantomData;
    use std::pin::Pin;

    /// Value after value, until the last sender is gone and nothing is left. What is not of the type
    /// is an item that says so.
    impl<A: CanReceive, R: Reactor, T, C: Decode<T>> Stream for Typed<Async<Handle<A>, R>, T, C> {
        type Item = Decoded<T, C>;

        fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let received = ready!(self.poll_recv(cx));
            Poll::Ready(match received {
                Err(error) if error.is_disconnected() => None,
                received => Some(received),
            })
        }
    }

    impl<A: CanSend, R: Reactor, T, C: Encode<T>> Typed<Async<Handle<A>, R>, T, C> {
        /// A sink for values.
        pub fn into_sink(self) -> TypedSink<A, R, T, C> {
            TypedSink {
                sink: self.into_inner().into_sink(),
                codec: PhantomData,
            }
        }
    }

    /// A sink for values. It holds one value until there is room for it.
    pub struct TypedSink<A: CanSend, R: Reactor, T, C> {
        sink: SendSink<A, R, Unsent<T>>,
        codec: PhantomData<fn(C)>,
    }

    /// A value, and its bytes.
    struct Unsent<T> {
        value: T,
        bytes: Vec<u8>,
    }

    impl<T> AsRef<[u8]> for Unsent<T> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    impl<T> From<SendError<Unsent<T>>> for SendError<T> {
        fn from(failed: SendError<Unsent<T>>) -> Self {
            SendError {
                payload: failed.payload.value,
                error: failed.error,
            }
        }
    }

    impl<A: CanSend, R: Reactor, T, C> TypedSink<A, R, T, C> {
        /// The handle, and the value that is not sent yet.
        pub fn into_inner(self) -> (Async<Handle<A>, R>, Option<T>) {
            let (sender, unsent) = self.sink.into_inner();
            (sender, unsent.map(|unsent| unsent.value))
        }
    }

    /// An error gives the value back, and the next one can be sent.
    impl<A: CanSend, R: Reactor, T: Unpin, C: Encode<T>> Sink<T> for TypedSink<A, R, T, C> {
        type Error = SendError<T>;

        fn poll_ready(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Result<(), Self::Error>> {
            Pin::new(&mut self.sink).poll_ready(cx).map_err(Into::into)
        }

        fn start_send(mut self: Pin<&mut Self>, value: T) -> Result<(), Self::Error> {
            let inner = &self.sink.get_ref().get_ref().inner;
            let bytes = match encoded::<T, C>(inner, Action::Send, &value) {
                Ok(bytes) => bytes.into_owned(),
                Err(error) => {
                    return Err(SendError {
                        payload: value,
                        error,
                    });
                }
            };
            Ok(Pin::new(&mut self.sink).start_send(Unsent { value, bytes })?)
        }

        fn poll_flush(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Result<(), Self::Error>> {
            Pin::new(&mut self.sink).poll_flush(cx).map_err(Into::into)
        }

        /// Sends what is left. The handle is closed when this is dropped.
        fn poll_close(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Result<(), Self::Error>> {
            Pin::new(&mut self.sink).poll_close(cx).map_err(Into::into)
        }
    }

    impl<A: CanSend, R: Reactor, T, C> fmt::Debug for TypedSink<A, R, T, C> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_tuple("TypedSink").field(&self.sink).finish()
        }
    }
}
