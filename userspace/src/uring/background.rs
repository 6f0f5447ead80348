//! The driver in a runtime of tokio.

use super::core::{Closed, Shared, is_passing};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Drives a driver: [`Driver::background`](super::Driver::background). To be spawned.
#[must_use = "it does nothing unless it is spawned"]
pub struct Background {
    /// A descriptor of its own, so that it does not keep the driver.
    fd: AsyncFd<OwnedFd>,
    shared: Weak<Shared>,
    closed: Arc<Closed>,
    /// What could not be submitted is to be tried again, whether something is completed or not.
    again: bool,
}

fn other_thread() -> io::Error {
    let text = "a driver with a single issuer is driven by the thread that made it; use a current-thread \
                runtime in that thread, or a driver without single_issuer";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

impl Background {
    pub(super) fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        if shared.is_restricted() {
            let flavor = Handle::current().runtime_flavor();
            if flavor != RuntimeFlavor::CurrentThread || !shared.may_enter() {
                return Err(other_thread());
            }
        }
        // SAFETY: The ring is open as long as `shared` is there.
        let ring = unsafe { BorrowedFd::borrow_raw(shared.ring().as_raw_fd()) };
        let fd = rustix::io::fcntl_dupfd_cloexec(ring, 0)?;
        // SAFETY: It owns the descriptor, and gives the same one for as long as it is there.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Background {
            fd,
            shared: Arc::downgrade(shared),
            closed: shared.closed.clone(),
            again: false,
        })
    }

    fn close_with(&self, cx: &Context<'_>) {
        // Cloning and dropping it is code of others, which is not run under the lock.
        let waker = Some(cx.waker().clone());
        let waker = {
            let mut there = self
                .closed
                .waker
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *there, waker)
        };
        drop(waker);
    }
}

impl Future for Background {
    /// What the kernel says of the ring; the operations that it has then do not end.
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close_with(cx);
        loop {
            if self.closed.gone.load(SeqCst) {
                return Poll::Ready(Ok(()));
            }
            if !std::mem::take(&mut self.again) {
                let mut guard = ready!(self.fd.poll_read_ready(cx))?;
                // What comes from here on makes it ready anew.
                guard.clear_ready();
            }
            let Some(shared) = self.shared.upgrade() else {
                return Poll::Ready(Ok(()));
            };
            if !shared.may_enter() {
                return Poll::Ready(Err(other_thread()));
            }
            match shared.drive() {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {
                    self.again = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background")
            .field("fd", &self.fd.as_raw_fd())
            .finish_non_exhaustive()
    }
}
