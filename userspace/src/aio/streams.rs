//! Streams and sinks.

use super::{Async, Reactor};
use crate::error::{Action, ErrorKind, Result, SendError};
use crate::handle::{CanReceive, CanSend, Handle};
use crate::link::Link;
use crate::listener::Listener;
use crate::pipe::{PipeReader, PipeWriter};
use crate::recv::Message;
use crate::ring::{Consumer, KernelDoorbell};
use crate::trust::Trust;
use futures_core::Stream;
use futures_io::{AsyncRead, AsyncWrite};
use futures_sink::Sink;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The end is the end of the stream, and not an error.
fn item<T>(received: Result<T>) -> Option<Result<T>> {
    match received {
        Err(error) if error.is_disconnected() => None,
        received => Some(received),
    }
}

/// Message after message, until the last sender is gone and nothing is left. Where a receive fails
/// otherwise, the item says so, and the next one is tried for all that.
impl<A: CanReceive, R: Reactor> Stream for Async<Handle<A>, R> {
    type Item = Result<Message>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_recv(cx).map(item)
    }
}

/// Connection after connection. It does not end.
impl<R: Reactor> Stream for Async<Listener, R> {
    type Item = Result<Async<Link, R>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let link = ready!(self.poll_accept(cx));
        Poll::Ready(Some(link.and_then(|link| Ok(Async::new(link)?))))
    }
}

/// A copy of record after record, until the last producer has left and everything is received.
impl<T: Trust, R: Reactor> Stream for Async<Consumer<T, KernelDoorbell>, R> {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let record = ready!(self.poll_recv(cx));
        Poll::Ready(item(record.map(|record| record.to_vec())))
    }
}

impl<A: CanSend, R: Reactor> Async<Handle<A>, R> {
    /// A sink for messages of one type.
    pub fn into_sink<T: AsRef<[u8]>>(self) -> SendSink<A, R, T> {
        SendSink {
            sender: self,
            unsent: None,
        }
    }
}

/// A sink for messages, made by [`Async::into_sink`].
///
/// It holds one message until there is room for it. When it is dropped, that one is not sent:
/// [`into_inner`](Self::into_inner) gives it back.
pub struct SendSink<A: CanSend, R: Reactor, T> {
    sender: Async<Handle<A>, R>,
    unsent: Option<T>,
}

impl<A: CanSend, R: Reactor, T> SendSink<A, R, T> {
    /// The handle.
    pub fn get_ref(&self) -> &Async<Handle<A>, R> {
        &self.sender
    }

    /// The handle, and the message that is not sent yet.
    pub fn into_inner(self) -> (Async<Handle<A>, R>, Option<T>) {
        (self.sender, self.unsent)
    }
}

impl<A: CanSend, R: Reactor, T: AsRef<[u8]> + Unpin> SendSink<A, R, T> {
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<T>>> {
        let Some(payload) = &self.unsent else {
            return Poll::Ready(Ok(()));
        };
        let sent = ready!(self.sender.poll_send(cx, payload.as_ref(), 0));
        Poll::Ready(match (sent, self.unsent.take()) {
            (Err(error), Some(payload)) => Err(SendError { payload, error }),
            _ => Ok(()),
        })
    }
}

/// An error gives the message back, and the next one can be sent.
impl<A: CanSend, R: Reactor, T: AsRef<[u8]> + Unpin> Sink<T> for SendSink<A, R, T> {
    type Error = SendError<T>;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.get_mut().poll_send(cx)
    }

    /// Fails with [`Full`](ErrorKind::Full) where it is not ready.
    fn start_send(self: Pin<&mut Self>, payload: T) -> Result<(), Self::Error> {
        let sink = self.get_mut();
        if sink.unsent.is_some() {
            let inner = &sink.sender.handle.inner;
            let error = inner.error_of_kind(Action::Send, ErrorKind::Full);
            return Err(SendError { payload, error });
        }
        sink.unsent = Some(payload);
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.get_mut().poll_send(cx)
    }

    /// Sends what is left. The handle is closed when this is dropped.
    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.get_mut().poll_send(cx)
    }
}

impl<A: CanSend, R: Reactor, T> fmt::Debug for SendSink<A, R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendSink")
            .field("sender", &self.sender)
            .field("unsent", &self.unsent.is_some())
            .finish()
    }
}

impl<R: Reactor> AsyncRead for Async<PipeReader, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Async::poll_read(&*self, cx, buf);
        read.map_err(io::Error::from)
    }
}

impl<R: Reactor> AsyncWrite for Async<PipeWriter, R> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Async::poll_write(&*self, cx, data);
        written.map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: the end is closed when it is dropped.
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
