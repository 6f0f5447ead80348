//! Messages.

use super::sealed::Object as _;
use super::{Async, Interest, Reactor};
use crate::error::{ErrorKind, Result, SendError, SendManyError};
use crate::handle::{CanReceive, CanSend, Handle, Receiver, Sender};
use crate::object::{Inner, Ref};
use crate::parcel::Parcel;
use crate::pool::{Lends, Pool, Shipment, ShipmentDelivery};
use crate::recv::{Delivery, Message, Process, Received};
use crate::send::Permit;
use crate::trust::Trust;
use crate::wait::Wait;
use crate::{Link, Mailbox, sys};
use rustix::fd::AsFd;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

impl<H: super::Object, R: Reactor> Async<H, R> {
    /// Tries until it is sent. The payload comes back with the error.
    async fn send_io<T: Send>(
        &self,
        mut payload: T,
        mut attempt: impl FnMut(&H, &mut T) -> Result<()> + Send,
    ) -> Result<(), SendError<T>> {
        let lent = &mut payload;
        let sent = self.io(Interest::Write, |handle| attempt(handle, lent));
        match sent.await {
            Ok(()) => Ok(()),
            Err(error) => Err(SendError { payload, error }),
        }
    }
}

/// # Sending
///
/// What can be sent, and what can fail, is said under [Sending](Handle#sending) of the handle; of
/// what fails for a reactor, under [`new`](Async::new). The error gives the payload back.
///
/// A rendezvous mailbox takes a message only while somebody waits in a receive, in a call: see [the
/// module](super).
impl<A: CanSend, R: Reactor> Async<Handle<A>, R> {
    /// Sends a message, and waits for room.
    ///
    /// ```
    /// # async fn send<R: postbox::aio::Reactor>(
    /// #     jobs: &postbox::aio::Async<postbox::Sender, R>,
    /// # ) -> postbox::Result<()> {
    /// jobs.send("build").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [Sending](#sending).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was sent. The payload is dropped
    /// with it, unless it was lent. Who does not want to make it in vain waits for
    /// [room](Self::reserve) first.
    pub async fn send<T: AsRef<[u8]> + Send>(&self, payload: T) -> Result<(), SendError<T>> {
        self.send_with(payload, 0).await
    }

    /// Sends a message with a priority, and waits for room.
    ///
    /// # Errors
    /// See [Sending](#sending).
    ///
    /// # Cancel safety
    /// As [`send`](Self::send).
    pub async fn send_with<T: AsRef<[u8]> + Send>(
        &self,
        payload: T,
        priority: u32,
    ) -> Result<(), SendError<T>> {
        self.send_io(payload, |handle, payload| {
            handle
                .send_with(&*payload, priority, Wait::Never)
                .map_err(|failed| failed.error)
        })
        .await
    }

    /// Sends a message, for who is polled.
    ///
    /// # Errors
    /// See [Sending](#sending).
    pub fn poll_send(
        &self,
        cx: &mut Context<'_>,
        payload: &[u8],
        priority: u32,
    ) -> Poll<Result<()>> {
        self.poll_io(Interest::Write, cx, |handle| {
            handle
                .send_with(payload, priority, Wait::Never)
                .map_err(|failed| failed.error)
        })
    }

    /// Sends a message with files, and waits for room: see [`Parcel`].
    ///
    /// # Errors
    /// As [`Handle::send_parcel`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was sent.
    pub async fn send_parcel(&self, parcel: &Parcel<'_>) -> Result<()> {
        self.io(Interest::Write, |handle| {
            handle.send_parcel(parcel, Wait::Never)
        })
        .await
    }

    /// Sends many messages in their order, in as few calls to the kernel as there is room, and waits
    /// for it.
    ///
    /// # Errors
    /// See [Sending](#sending); the error says how many were sent before.
    ///
    /// # Cancel safety
    /// Not cancel safe: when it is dropped before it is ready, some may have been sent, and nobody
    /// says how many.
    pub async fn send_many<T: AsRef<[u8]> + Sync>(
        &self,
        payloads: &[T],
        priority: u32,
    ) -> Result<(), SendManyError> {
        let mut sent = 0;
        let all = self.io(Interest::Write, |handle| {
            let rest = &payloads[sent..];
            handle
                .send_many(rest, priority, Wait::Never)
                .map_err(|failed| {
                    sent += failed.sent;
                    failed.error
                })
        });
        match all.await {
            Ok(()) => Ok(()),
            Err(error) => Err(SendManyError { sent, error }),
        }
    }

    /// Gets room for one message of at most `len` bytes, and waits until there is some. To send it
    /// then does not wait.
    ///
    /// ```
    /// # async fn build() -> Vec<u8> { Vec::new() }
    /// # async fn results<R: postbox::aio::Reactor>(
    /// #     results: &postbox::aio::Async<postbox::Sender, R>,
    /// # ) -> postbox::Result<()> {
    /// let permit = results.reserve(4096).await?;
    /// permit.send(build().await)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Handle::reserve`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, no room is taken. A [`Permit`] that is
    /// dropped gives its room back.
    pub async fn reserve(&self, len: usize) -> Result<Permit<'_>> {
        self.io(Interest::Write, |handle| handle.try_reserve(len))
            .await
    }

    /// The same with a permit that can go to another task.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    ///
    /// # Cancel safety
    /// As [`reserve`](Self::reserve).
    pub async fn reserve_owned(self: Arc<Self>, len: usize) -> Result<Permit<'static>> {
        let reserve = |handle: &Handle<A>| handle.reserve_room(len, Wait::Never);
        self.io(Interest::Write, reserve).await?;
        Ok(Permit::new(Ref::Kept(self), len))
    }

    /// Gets room, for who is polled.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn poll_reserve(&self, cx: &mut Context<'_>, len: usize) -> Poll<Result<Permit<'_>>> {
        self.poll_io(Interest::Write, cx, |handle| handle.try_reserve(len))
    }

    /// Sends a message with a buffer, and waits for room: see [`Pool`].
    ///
    /// # Errors
    /// As [`Handle::send_buffer`]. The error gives the buffer back.
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was sent, and the buffer is
    /// dropped.
    pub async fn send_buffer<B: Lends + Send>(&self, buffer: B) -> Result<(), SendError<B>> {
        self.send_buffer_with(buffer, &[], 0).await
    }

    /// Sends a message of a buffer and a payload, which is copied, with a priority.
    ///
    /// # Errors
    /// As [`send_buffer`](Self::send_buffer).
    ///
    /// # Cancel safety
    /// As [`send_buffer`](Self::send_buffer).
    pub async fn send_buffer_with<B: Lends + Send>(
        &self,
        buffer: B,
        payload: &[u8],
        priority: u32,
    ) -> Result<(), SendError<B>> {
        let mut buffer = buffer;
        let lent = &mut buffer;
        let sent = self.io(Interest::Write, move |handle| {
            let sent = handle.lend_buffer(lent, payload, priority, Wait::Never);
            if sent.is_ok() {
                // At once: nobody knows whether the reactor comes back here before this future is dropped.
                lent.gone();
            }
            sent
        });
        match sent.await {
            Ok(()) => Ok(()),
            Err(error) => Err(SendError {
                payload: buffer,
                error,
            }),
        }
    }
}

/// # Receiving
///
/// What can fail is said under [Receiving](Handle#receiving) of the handle; of what fails for a
/// reactor, under [`new`](Async::new).
///
/// To a rendezvous mailbox a message comes only while somebody waits in a send, or calls, in a call:
/// see [the module](super).
impl<A: CanReceive, R: Reactor> Async<Handle<A>, R> {
    /// Receives a message, and waits for one.
    ///
    /// # Errors
    /// See [Receiving](#receiving).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received.
    pub async fn recv(&self) -> Result<Message> {
        self.io(Interest::Read, Handle::try_recv).await
    }

    /// Receives a message, for who is polled.
    ///
    /// # Errors
    /// See [Receiving](#receiving).
    pub fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<Result<Message>> {
        self.poll_io(Interest::Read, cx, Handle::try_recv)
    }

    /// Receives a message into `buf`, and waits for one.
    ///
    /// # Errors
    /// As [`Handle::recv_into`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received.
    pub async fn recv_into(&self, buf: &mut [u8]) -> Result<Received> {
        self.io(Interest::Read, |handle| handle.try_recv_into(buf))
            .await
    }

    /// Receives up to `limit` messages in one call to the kernel, waits for the first of them, and
    /// appends them to `messages`; returns how many.
    ///
    /// # Errors
    /// As [`Handle::recv_many`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received. What is in
    /// `messages` stays there.
    pub async fn recv_many(&self, messages: &mut Vec<Message>, limit: usize) -> Result<usize> {
        self.io(Interest::Read, |handle| {
            handle.recv_many(messages, limit, Wait::Never)
        })
        .await
    }

    /// Receives the next message of that process alone, and waits for one; those of others stay
    /// where they are, in their order.
    ///
    /// # Errors
    /// As [`Handle::recv_from`]; [`NoDescriptors`](ErrorKind::NoDescriptors), as it watches the
    /// process.
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received.
    pub async fn recv_from(&self, process: impl Into<Process>) -> Result<Message> {
        let process = process.into();
        match self.handle.try_recv_from(process) {
            Err(error) if error.would_wait() => {}
            done => return done,
        }
        let pidfd = match process.open_pidfd() {
            // What it has left behind, or that there is nothing.
            Err(error) if error.kind == ErrorKind::Gone => {
                return self.handle.try_recv_from(process);
            }
            pidfd => pidfd?,
        };
        // In this order, so that the descriptor is closed last.
        let life = self.watch.beside(pidfd.as_fd(), None);
        let life = life.map_err(|error| self.handle.failed(error))?;
        let mut dead = pin!(life.io(Interest::Read, || exited(&pidfd)));
        let mut received = pin!(self.io(Interest::Read, |handle| handle.try_recv_from(process)));
        poll_fn(|cx| {
            if let Poll::Ready(received) = received.as_mut().poll(cx) {
                return Poll::Ready(received);
            }
            // A reactor that is gone has said so above.
            match dead.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(self.handle.try_recv_from(process)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Receives a message that is to be acknowledged, and waits for one: see [`Handle::take`].
    ///
    /// ```
    /// # async fn build(job: &[u8]) {}
    /// # async fn work<R: postbox::aio::Reactor>(
    /// #     jobs: &postbox::aio::Async<postbox::Receiver, R>,
    /// # ) -> postbox::Result<()> {
    /// let job = jobs.take().await?;
    /// build(&job).await; // where this is dropped, somebody else gets the job
    /// job.ack()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Handle::take`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was taken. A [`Delivery`] that is
    /// dropped puts its message back.
    pub async fn take(&self) -> Result<Delivery<'_>> {
        self.io(Interest::Read, Handle::try_take).await
    }

    /// The same with a delivery that can go to another task.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    pub async fn take_owned(self: Arc<Self>) -> Result<Delivery<'static>> {
        let take = |handle: &Handle<A>| handle.inner.recv(sys::POSTBOX_RECV_ACK, None, Wait::Never);
        let taken = self.io(Interest::Read, take).await?;
        Ok(Delivery::new(Ref::<Inner>::Kept(self), taken))
    }

    /// Takes a message, for who is polled.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Result<Delivery<'_>>> {
        self.poll_io(Interest::Read, cx, Handle::try_take)
    }

    /// Receives a message with its buffers, and waits for one: see [`Pool`].
    ///
    /// # Errors
    /// As [`Handle::recv_buffers`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received. Buffers that are
    /// dropped are given back to the pool.
    pub async fn recv_buffers<T: Trust>(&self, pool: &Pool<T>) -> Result<Shipment<T>> {
        self.io(Interest::Read, |handle| handle.try_recv_buffers(pool))
            .await
    }

    /// Receives a message with its buffers that is to be acknowledged: see
    /// [`Handle::take_buffers`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As [`take`](Self::take).
    pub async fn take_buffers<T: Trust>(&self, pool: &Pool<T>) -> Result<ShipmentDelivery<'_, T>> {
        self.io(Interest::Read, |handle| {
            handle.take_buffers(pool, Wait::Never)
        })
        .await
    }
}

/// Whether a process is gone.
fn exited(pidfd: &impl AsFd) -> Option<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    let none = rustix::time::Timespec::default();
    match poll(&mut fds, Some(&none)) {
        Ok(0) => None,
        _ => Some(()),
    }
}

impl<R: Reactor> Async<Mailbox, R> {
    /// One that sends and one that receives, so that each side notices when the other is gone. Call
    /// it where handles can be registered.
    ///
    /// # Errors
    /// As [`Mailbox::split`] and [`new`](Self::new).
    pub fn split(self) -> Result<(Async<Sender, R>, Async<Receiver, R>)> {
        let (sender, receiver) = self.into_inner().split()?;
        Ok((Async::new(sender)?, Async::new(receiver)?))
    }
}

impl<R: Reactor> Async<Link, R> {
    /// One that sends and one that receives; to close the one ends its direction. Call it where
    /// handles can be registered. (Two tasks can share a link without that.)
    ///
    /// # Errors
    /// As [`Link::split`] and [`new`](Self::new).
    pub fn split(self) -> Result<(Async<Sender, R>, Async<Receiver, R>)> {
        let (sender, receiver) = self.into_inner().split()?;
        Ok((Async::new(sender)?, Async::new(receiver)?))
    }
}
