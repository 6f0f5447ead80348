//! Connections, pipes, wait objects and pools.

use super::sealed::Object as _;
use super::{Async, Interest, Reactor};
use crate::barrier::{Barrier, BarrierWaitResult};
use crate::error::Result;
use crate::latch::Latch;
use crate::link::Link;
use crate::listener::Listener;
use crate::object::Ref;
use crate::pipe::{PipeReader, PipeWriter};
use crate::pool::{Loan, Pool, Waiting};
use crate::semaphore::{Guard, Semaphore};
use crate::trust::Trust;
use crate::wait::Wait;
use rustix::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll};

/// # Accepting
impl<R: Reactor> Async<Listener, R> {
    /// Takes a connection, and waits for one.
    ///
    /// # Errors
    /// As [`Listener::accept`], where the connection goes on waiting; and as
    /// [`new`](Async::new), where it is closed.
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, no connection was taken.
    pub async fn accept(&self) -> Result<Async<Link, R>> {
        let link = self.io(Interest::Read, Listener::try_accept).await?;
        Ok(Async::new(link)?)
    }

    /// Takes a connection, for who is polled. It is not registered yet.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<Result<Link>> {
        self.poll_io(Interest::Read, cx, Listener::try_accept)
    }
}

/// # Reading from a pipe
///
/// With the feature `tokio` it is `AsyncRead` of tokio, and with `futures` that of futures-io.
impl<R: Reactor> Async<PipeReader, R> {
    /// Reads what there is, up to the size of the buffer, and waits for at least one byte; 0 says
    /// that the last writer is gone and everything is read.
    ///
    /// # Errors
    /// Those of a reactor: see [`new`](Async::new).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was read.
    pub async fn read(&self, buf: &mut [u8]) -> Result<usize> {
        self.io(Interest::Read, |pipe| pipe.try_read(buf)).await
    }

    /// Reads, for who is polled.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<Result<usize>> {
        self.poll_io(Interest::Read, cx, |pipe| pipe.try_read(buf))
    }
}

/// # Writing to a pipe
///
/// With the feature `tokio` it is `AsyncWrite` of tokio, and with `futures` that of futures-io. To
/// close it is to drop it.
impl<R: Reactor> Async<PipeWriter, R> {
    /// Writes, waits for room, and returns how many bytes were written: all of them, up to
    /// [`Pipe::ATOMIC`](crate::Pipe::ATOMIC), or as many of more as there is room for.
    ///
    /// # Errors
    /// [`Disconnected`](crate::ErrorKind::Disconnected): the last reader is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was written.
    pub async fn write(&self, data: &[u8]) -> Result<usize> {
        self.io(Interest::Write, |pipe| pipe.try_write(data)).await
    }

    /// Writes, for who is polled.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn poll_write(&self, cx: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize>> {
        self.poll_io(Interest::Write, cx, |pipe| pipe.try_write(data))
    }
}

/// # Acquiring
///
/// What can fail is said under [Acquiring](Semaphore#acquiring) of the semaphore.
/// [`Semaphore::post`] and [`Guard::release`] never wait.
impl<R: Reactor> Async<Semaphore, R> {
    /// Acquires one, and waits for it.
    ///
    /// # Errors
    /// See [Acquiring](#acquiring).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was acquired. A [`Guard`] that is
    /// dropped releases.
    pub async fn acquire(&self) -> Result<Guard<'_>> {
        self.acquire_many(1).await
    }

    /// Acquires so many all at once, and waits for them. Others that want fewer can be faster.
    ///
    /// # Errors
    /// See [Acquiring](#acquiring).
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_many(&self, count: u64) -> Result<Guard<'_>> {
        self.io(Interest::Read, |semaphore| {
            semaphore.acquire_many(count, Wait::Never)
        })
        .await
    }

    /// The same with a guard that can go to another task.
    ///
    /// # Errors
    /// See [Acquiring](#acquiring).
    ///
    /// # Cancel safety
    /// As [`acquire`](Self::acquire).
    pub async fn acquire_owned(self: Arc<Self>, count: u64) -> Result<Guard<'static>> {
        let acquire = |semaphore: &Semaphore| semaphore.acquire_undone(count, Wait::Never);
        let owner_died = self.io(Interest::Read, acquire).await?;
        let semaphore = Ref::<Semaphore>::Kept(self);
        Ok(Guard::new(semaphore, count, owner_died))
    }

    /// Takes so many for good: see [`Semaphore::take`].
    ///
    /// # Errors
    /// See [Acquiring](#acquiring).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was taken.
    pub async fn take(&self, count: u64) -> Result<bool> {
        self.io(Interest::Read, |semaphore| {
            semaphore.take(count, Wait::Never)
        })
        .await
    }

    /// Acquires so many, for who is polled.
    ///
    /// # Errors
    /// See [Acquiring](#acquiring).
    pub fn poll_acquire(&self, cx: &mut Context<'_>, count: u64) -> Poll<Result<Guard<'_>>> {
        self.poll_io(Interest::Read, cx, |semaphore| {
            semaphore.acquire_many(count, Wait::Never)
        })
    }
}

/// # Waiting for a latch
///
/// What can fail is said under [Waiting for a latch](Latch#waiting-for-a-latch) of the latch. To
/// count down, and to join, never waits.
impl<R: Reactor> Async<Latch, R> {
    /// Waits until it is open.
    ///
    /// # Errors
    /// See [Waiting for a latch](#waiting-for-a-latch).
    ///
    /// # Cancel safety
    /// Cancel safe: to wait changes nothing.
    pub async fn wait(&self) -> Result<()> {
        self.io(Interest::Read, Latch::try_wait).await
    }

    /// Whether it is open, for who is polled.
    ///
    /// # Errors
    /// See [Waiting for a latch](#waiting-for-a-latch).
    pub fn poll_wait(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_io(Interest::Read, cx, Latch::try_wait)
    }
}

/// # Waiting at a barrier
///
/// What can fail is said under [Waiting at a barrier](Barrier#waiting-at-a-barrier) of the barrier.
impl<R: Reactor> Async<Barrier, R> {
    /// Arrives, and waits until all are there. Who has [joined](Barrier::join) keeps the
    /// [`Member`](crate::Member), and waits with this.
    ///
    /// Each one that waits has a handle of its own for that time, so that any number of tasks can
    /// wait here at once, each as one of the parties.
    ///
    /// # Errors
    /// See [Waiting at a barrier](#waiting-at-a-barrier);
    /// [`NoDescriptors`](crate::ErrorKind::NoDescriptors), and as [`new`](Async::new).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, its arrival is taken back, unless all
    /// were there already: then the others have gone on.
    pub async fn wait(&self) -> Result<BarrierWaitResult> {
        match self.handle.try_wait() {
            Err(error) if error.would_wait() => {}
            done => return done,
        }
        let barrier = self.handle.try_clone()?;
        let watch = self.watch.beside(barrier.as_fd(), barrier.mixed());
        let watch = watch.map_err(|error| barrier.failed(error))?;
        // The fields are dropped in this order.
        let arrived = Async {
            watch,
            handle: barrier,
        };
        arrived.handle.arrive()?;
        arrived.io(Interest::Read, Barrier::try_wait).await
    }
}

/// # Borrowing
impl<T: Trust, R: Reactor> Async<Pool<T>, R> {
    /// Borrows a block for `len` bytes, and waits for one.
    ///
    /// # Errors
    /// As [`Pool::loan_with`].
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, nothing was borrowed. A [`Loan`] that is
    /// dropped gives its block back.
    pub async fn loan(&self, len: usize) -> Result<Loan<T>> {
        match self.handle.try_loan(len) {
            Err(error) if error.would_wait() => {}
            done => return done,
        }
        // What this process gives back goes to the kernel meanwhile, which tells the reactor.
        let _waiting = Waiting::new(&self.handle);
        self.io(Interest::Write, |pool| pool.try_loan(len)).await
    }
}
