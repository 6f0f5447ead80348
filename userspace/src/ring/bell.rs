//! What the sides of a ring sleep by: the kernel's doorbell, and futexes.

use super::core::{Area, Doorbell, PRODUCERS, Side, Status, Stop};
use super::core::{CONSUMER_CLOSED, PRODUCER_CLOSED};
use crate::process::Home;
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
#[cfg(not(miri))]
use rustix::{thread::futex, time::Timespec};
use std::fmt;
#[cfg(not(miri))]
use std::num::NonZeroU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, fence};
#[cfg(not(miri))]
use std::time::UNIX_EPOCH;

/// The doorbell of a ring of the kernel's.
pub struct KernelDoorbell {
    pub(crate) fd: OwnedFd,
    /// An event loop is told of what comes, after a try that does not wait.
    pub(crate) nonblocking: AtomicBool,
    home: Home,
}

fn flag(side: Side) -> u32 {
    match side {
        Side::Consumer => sys::POSTBOX_RING_CONSUMER,
        Side::Producer => sys::POSTBOX_RING_PRODUCER,
    }
}

impl KernelDoorbell {
    pub(super) fn new(fd: OwnedFd, nonblocking: AtomicBool) -> Self {
        KernelDoorbell {
            fd,
            nonblocking,
            home: Home::here(),
        }
    }

    fn wait(&self, side: Side, wait: Wait) -> Result<(), Stop> {
        let (how, timeout_ns) = wait.flags();
        let waited = retry_on_intr(|| raw::ring_wait(&self.fd, flag(side) | how, timeout_ns));
        waited.map_err(|errno| match errno {
            Errno::TIMEDOUT => Stop::Timeout,
            Errno::AGAIN => Stop::NotNow,
            errno => Stop::Os(errno),
        })
    }
}

#[allow(private_interfaces)]
impl Doorbell for KernelDoorbell {
    fn sleep(
        &self,
        _: &Area,
        side: Side,
        _: &mut dyn FnMut() -> bool,
        wait: Wait,
    ) -> Result<(), Stop> {
        self.wait(side, wait)
    }

    fn ring(&self, _: &Area, side: Side) {
        // It cannot fail on a ring, and whoever sleeps has nothing else to be told.
        let _ = raw::ring_wake(&self.fd, flag(side));
    }

    fn detach(&self, _: &Area, side: Side, _: u32) {
        let _ = raw::ring_detach(&self.fd, flag(side));
    }

    fn is_here(&self) -> bool {
        self.home.is_here()
    }

    fn watch(&self, _: &Area, side: Side) {
        if self.nonblocking.load(Relaxed) {
            // It says that there is nothing, which is what it is asked for.
            let _ = self.wait(side, Wait::Never);
        }
    }
}

impl fmt::Debug for KernelDoorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KernelDoorbell").field(&self.fd).finish()
    }
}

/// The doorbell of a ring without the kernel module: of the threads of a process and of its forks.
#[derive(Debug)]
pub struct FutexDoorbell(pub(super) ());

/// Sleeps while `word` is 1.
#[cfg(not(miri))]
fn sleep(word: &AtomicU32, wait: Wait) -> Result<(), Stop> {
    let slept = match wait {
        // A clock that is set ends the sleep earlier or later.
        Wait::RealtimeDeadline(deadline) => {
            let until = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
            let until = Timespec::try_from(until).ok();
            let flags = futex::Flags::CLOCK_REALTIME;
            futex::wait_bitset(word, flags, 1, until.as_ref(), NonZeroU32::MAX)
        }
        wait => {
            let left = wait.left().and_then(|left| Timespec::try_from(left).ok());
            futex::wait(word, futex::Flags::empty(), 1, left.as_ref())
        }
    };
    match slept {
        // A signal handler has run, or the word has changed: it is looked at again.
        Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(Errno::TIMEDOUT) => Err(Stop::Timeout),
        Err(errno) => Err(Stop::Os(errno)),
    }
}

// Miri does not know rustix's system calls.
#[cfg(miri)]
fn sleep(_: &AtomicU32, wait: Wait) -> Result<(), Stop> {
    std::thread::yield_now();
    match wait.left() {
        Some(left) if left.is_zero() => Err(Stop::Timeout),
        _ => Ok(()),
    }
}

/// Wakes all who sleep there.
fn wake(word: &AtomicU32) {
    // It can only fail for a bad address.
    #[cfg(not(miri))]
    let _ = futex::wake(word, futex::Flags::empty(), i32::MAX as u32);
    #[cfg(miri)]
    let _ = word;
}

#[allow(private_interfaces)]
impl Doorbell for FutexDoorbell {
    fn sleep(
        &self,
        area: &Area,
        side: Side,
        ready: &mut dyn FnMut() -> bool,
        wait: Wait,
    ) -> Result<(), Stop> {
        let waiting = area.status().waiting(side);
        waiting.store(1, SeqCst);
        fence(SeqCst);
        if ready() {
            return Ok(());
        }
        sleep(waiting, wait)
    }

    fn ring(&self, area: &Area, side: Side) {
        let waiting = area.status().waiting(side);
        if waiting.swap(0, SeqCst) != 0 {
            wake(waiting);
        }
    }

    fn detach(&self, area: &Area, side: Side, id: u32) {
        let status = area.status();
        match side {
            Side::Consumer => status.state.fetch_or(CONSUMER_CLOSED, SeqCst),
            Side::Producer => {
                status.producers[id as usize % PRODUCERS].store(0, SeqCst);
                if status.producers.iter().any(|id| id.load(SeqCst) != 0) {
                    return;
                }
                status.state.fetch_or(PRODUCER_CLOSED, SeqCst)
            }
        };
        self.ring(area, Side::Consumer);
        self.ring(area, Side::Producer);
    }
}

/// A number for one more producer; `None`: there are too many.
pub(super) fn enrol(status: &Status, many: bool) -> Option<u32> {
    let places = if many { PRODUCERS } else { 1 };
    let mut places = status.producers[..places].iter().enumerate();
    places.find_map(|(place, id)| {
        let came = status.came.fetch_add(1, Relaxed) % ((1 << 24) - 1) + 1;
        let number = came * PRODUCERS as u32 + place as u32;
        let enrolled = id.compare_exchange(0, number, SeqCst, Relaxed);
        enrolled.ok().map(|_| number)
    })
}
