//! Handles whose calls are futures, for any runtime.
//!
//! An [`Async`] is a handle together with its registration at a reactor, which says when it may be
//! ready. With the feature `tokio` there is one for tokio, and [`tokio::Async`](crate::tokio::Async)
//! is the type to use; for another runtime, [`Reactor`] is a trait of three functions to write.
//! Nothing else here knows what runs the futures.
//!
//! Each future tries the call that does not wait, and waits for the reactor while that would have
//! had to. So it has done what it is for, or nothing: futures can be dropped at any moment, in a
//! `select!` or a timeout, and what that means for each of them is said under *Cancel safety*.
//!
//! The open file is not made non-blocking: that would be so for all that share it, in other
//! processes, too.
//!
//! # Fairness
//!
//! Those who wait in a call to the kernel are served in the order of arrival. A future does not wait
//! there: when something comes, the kernel has it for those that wait in calls first, and then for
//! whichever future tries first. A future that wants much, such as a large message in a mailbox
//! with a limit of bytes, can be overtaken again and again by those that want little.
//!
//! # What has no future
//!
//! On a **rendezvous** mailbox, a send meets a receive that waits in a call, and the other way
//! round: two futures never meet. Have one of the two sides wait in a call, or use a capacity of 1. A
//! [call](crate::Handle::call) waits in the kernel, so that servers that are futures answer calls on
//! a rendezvous mailbox, too.
//!
//! A call, a connect that finds no room, and waiting for a peer can only wait in a call to the
//! kernel. For tokio they are run on its threads for what blocks
//! ([`tokio::Async::call`](Async::call)); otherwise, on those of the runtime in use, for which
//! [`get_ref`](Async::get_ref) gives the handle.

mod calls;
mod messages;
mod objects;
mod rings;
#[cfg(feature = "futures")]
mod streams;
mod watch;

#[cfg(feature = "futures")]
pub use streams::SendSink;
pub use watch::{Fd, Interest, Reactor};

use crate::error::{Error, Result};
use crate::handle::{Access, Handle};
use crate::object::{Holds, Inner, Kind};
use crate::ring::{Consumer, KernelDoorbell, Producer};
use crate::semaphore::Semaphore;
use crate::trust::Trust;
use crate::{Pool, Rights};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use std::fmt;
use std::io;
use std::task::{Context, Poll};
use watch::Watch;

pub(crate) mod sealed {
    use super::*;

    pub trait Object: AsFd + Send + Sync + Unpin + 'static {
        /// The error where the reactor fails.
        fn failed(&self, error: io::Error) -> Error;

        /// Where an error that ends a wait for this can come with an event of the other interest.
        fn mixed(&self) -> Option<Interest> {
            None
        }

        /// It is watched from now on, or not any more.
        fn watched(&self, _on: bool) {}
    }
}

/// What can be made [`Async`]: every handle of this crate, a [`Pool`], and the sides of a
/// [`Ring`](crate::Ring).
pub trait Object: sealed::Object {}

impl<A: Access> sealed::Object for Handle<A> {
    fn failed(&self, error: io::Error) -> Error {
        Error::of_reactor(&self.inner.subject, &error)
    }

    fn mixed(&self) -> Option<Interest> {
        let both = self.inner.rights.contains(Rights::SEND | Rights::RECEIVE);
        match self.inner.subject.kind {
            // The other end receives no more, and there are messages.
            Kind::Link if both => Some(Interest::Write),
            // It is broken, which tokio takes for something to write.
            Kind::Latch | Kind::Barrier => Some(Interest::Read),
            _ => None,
        }
    }
}

impl<T: Trust> sealed::Object for Pool<T> {
    fn failed(&self, error: io::Error) -> Error {
        sealed::Object::failed(&**self, error)
    }
}

impl<T: Trust> sealed::Object for Producer<T, KernelDoorbell> {
    fn failed(&self, error: io::Error) -> Error {
        Error::of_reactor(self.subject(), &error)
    }

    fn watched(&self, on: bool) {
        self.watch(on);
    }
}

impl<T: Trust> sealed::Object for Consumer<T, KernelDoorbell> {
    fn failed(&self, error: io::Error) -> Error {
        Error::of_reactor(self.subject(), &error)
    }

    fn watched(&self, on: bool) {
        self.watch(on);
    }
}

impl<A: Access> Object for Handle<A> {}
impl<T: Trust> Object for Pool<T> {}
impl<T: Trust> Object for Producer<T, KernelDoorbell> {}
impl<T: Trust> Object for Consumer<T, KernelDoorbell> {}

/// A handle that is registered at a reactor, and whose calls are futures. What can be called depends
/// on the handle: [`Receiver`](crate::Receiver), [`Link`](crate::Link), [`Semaphore`] and so on.
///
/// Any number of tasks can use one at once (in an [`Arc`](std::sync::Arc)), and each of their
/// futures is woken. Of the functions whose names begin with `poll_`, only who called last for each
/// [`Interest`] is woken.
///
/// The calls that do not wait are those of the handle: [`get_ref`](Self::get_ref).
pub struct Async<H, R> {
    // Dropped before the handle: it has the handle's descriptor registered.
    watch: Watch<R>,
    handle: H,
}

/// A handle that could not be registered, and why.
#[non_exhaustive]
pub struct RegisterError<H> {
    /// The handle.
    pub handle: H,
    /// Why it was not registered.
    pub error: Error,
}

impl<H> fmt::Debug for RegisterError<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterError")
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

crate::error::wraps_error!([H] RegisterError<H>);

impl<H: Object, R: Reactor> Async<H, R> {
    /// Registers a handle.
    ///
    /// # Errors
    /// [`Reactor`](crate::ErrorKind::Reactor) where the reactor is not there, and
    /// [`Os`](crate::ErrorKind::Os) where it refuses it. The error gives the handle back.
    pub fn new(handle: H) -> Result<Self, RegisterError<H>> {
        match Watch::new(handle.as_fd(), handle.mixed()) {
            Ok(watch) => {
                handle.watched(true);
                Ok(Async { watch, handle })
            }
            Err(error) => Err(RegisterError {
                error: handle.failed(error),
                handle,
            }),
        }
    }

    /// The handle, for what does not wait.
    pub fn get_ref(&self) -> &H {
        &self.handle
    }

    /// The handle, which is not registered any more.
    pub fn into_inner(self) -> H {
        let Async { watch, handle } = self;
        drop(watch);
        handle.watched(false);
        handle
    }

    /// Waits for what has no future of its own: has `attempt` call the handle, without waiting, each
    /// time that it may be ready, until it returns something else than an error that
    /// [`would_wait`](Error::would_wait).
    ///
    /// ```
    /// # async fn both<R: postbox::aio::Reactor>(
    /// #     jobs: &postbox::aio::Async<postbox::Receiver, R>,
    /// # ) -> postbox::Result<()> {
    /// use postbox::{Wait, aio::Interest};
    ///
    /// let jobs = jobs.io(Interest::Read, |jobs| jobs.take_many(16, Wait::Never)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `attempt`, and as [`new`](Self::new).
    ///
    /// # Cancel safety
    /// Cancel safe, if `attempt` has done nothing where it would have had to wait.
    pub async fn io<'a, T>(
        &'a self,
        interest: Interest,
        mut attempt: impl FnMut(&'a H) -> Result<T> + Send,
    ) -> Result<T> {
        let attempt = || settled(attempt(&self.handle));
        self.settle(self.watch.io(interest, attempt).await)
    }

    /// As [`io`](Self::io), for who is polled.
    ///
    /// # Errors
    /// As there.
    pub fn poll_io<'a, T>(
        &'a self,
        interest: Interest,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut(&'a H) -> Result<T>,
    ) -> Poll<Result<T>> {
        let attempt = || settled(attempt(&self.handle));
        let polled = self.watch.poll_io(interest, cx, attempt);
        polled.map(|done| self.settle(done))
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn reactor(&self) -> &R {
        self.watch.reactor()
    }

    fn settle<T>(&self, done: io::Result<Result<T>>) -> Result<T> {
        done.map_err(|error| self.handle.failed(error))?
    }
}

/// `None`: it would have had to wait.
fn settled<T>(result: Result<T>) -> Option<Result<T>> {
    match result {
        Err(error) if error.would_wait() => None,
        done => Some(done),
    }
}

impl<A: Access, R: Reactor> Holds<Inner> for Async<Handle<A>, R> {
    fn held(&self) -> &Inner {
        &self.handle.inner
    }
}

impl<R: Reactor> Holds<Semaphore> for Async<Semaphore, R> {
    fn held(&self) -> &Semaphore {
        &self.handle
    }
}

impl<H: AsFd, R> AsFd for Async<H, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl<H: AsFd, R> AsRawFd for Async<H, R> {
    fn as_raw_fd(&self) -> rustix::fd::RawFd {
        self.handle.as_fd().as_raw_fd()
    }
}

impl<H: fmt::Debug, R> fmt::Debug for Async<H, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Async").field(&self.handle).finish()
    }
}
