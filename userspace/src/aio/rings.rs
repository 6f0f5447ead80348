//! The sides of a ring.

use super::{Async, Interest, Reactor, settled};
use crate::error::Result;
use crate::ring::{Consumer, KernelDoorbell, Producer, Record, RecvBatch, SendBatch, Slot};
use crate::trust::Trust;
use std::task::{Context, Poll, ready};

/// # Sending through a ring
impl<T: Trust, R: Reactor> Async<Producer<T, KernelDoorbell>, R> {
    /// Sends a record, and waits for room: where there is none, until half of the ring is free.
    ///
    /// # Errors
    /// As [`Producer::reserve`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was sent.
    pub async fn send(&mut self, data: &[u8]) -> Result<()> {
        let Async { watch, handle } = self;
        let sent = watch.io(Interest::Write, || settled(handle.try_send(data)));
        let sent = sent.await;
        self.settle(sent)
    }

    /// Sends a record if there is room now.
    ///
    /// # Errors
    /// As [`Producer::try_send`].
    pub fn try_send(&mut self, data: &[u8]) -> Result<()> {
        self.handle.try_send(data)
    }

    /// Records that the consumer sees together: see [`Producer::batch`]. Use
    /// [`reserve_with`](SendBatch::reserve_with) and [`Wait::Never`](crate::Wait::Never); the other
    /// calls of a batch wait in the kernel.
    pub fn batch(&mut self) -> SendBatch<'_, T> {
        self.handle.batch()
    }

    /// Sends a record, for who is polled.
    ///
    /// # Errors
    /// As [`Producer::reserve`].
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<()>> {
        let Async { watch, handle } = self;
        let sent = watch.poll_io(Interest::Write, cx, || settled(handle.try_send(data)));
        sent.map(|sent| self.settle(sent))
    }

    /// Reserves a record of `len` bytes, which is to be written and [committed](Slot::commit), and
    /// waits for room.
    ///
    /// # Errors
    /// As [`Producer::reserve`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was reserved. A [`Slot`] that is
    /// dropped is as if it had never been.
    pub async fn reserve(&mut self, len: usize) -> Result<Slot<'_, T>> {
        let Async { watch, handle } = self;
        let attempt = || settled(handle.try_position(len));
        let reserved = watch.io(Interest::Write, attempt).await;
        let position = self.settle(reserved)?;
        Ok(self.handle.slot(position, len, true))
    }
}

/// # Receiving from a ring
impl<T: Trust, R: Reactor> Async<Consumer<T, KernelDoorbell>, R> {
    /// Receives a record, where it is in the ring, and waits for it.
    ///
    /// # Errors
    /// As [`Consumer::recv`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was received.
    pub async fn recv(&mut self) -> Result<Record<'_, T>> {
        let Async { watch, handle } = self;
        let attempt = || settled(handle.try_found());
        let found = watch.io(Interest::Read, attempt).await;
        let found = self.settle(found)?;
        Ok(self.handle.record(found))
    }

    /// Receives a record if there is one now.
    ///
    /// # Errors
    /// As [`Consumer::try_recv`].
    pub fn try_recv(&mut self) -> Result<Record<'_, T>> {
        self.handle.try_recv()
    }

    /// Records whose room is given back together: see [`Consumer::batch`]. Its
    /// [`try_next`](RecvBatch::try_next) does not wait.
    pub fn batch(&mut self) -> RecvBatch<'_, T> {
        self.handle.batch()
    }

    /// Receives a record, for who is polled.
    ///
    /// # Errors
    /// As [`Consumer::recv`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Record<'_, T>>> {
        let Async { watch, handle } = self;
        let attempt = || settled(handle.try_found());
        let found = ready!(watch.poll_io(Interest::Read, cx, attempt));
        let found = self.settle(found)?;
        Poll::Ready(Ok(self.handle.record(found)))
    }
}
