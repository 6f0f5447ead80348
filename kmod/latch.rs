// SPDX-License-Identifier: GPL-2.0
//! The latch as a kernel object, which opens when `queue/latch.rs` says so.
//!
//! What a process has promised to count is in the handle's [`Shares`]. Where it dies and owes some
//! of it, the latch breaks.

use crate::{
    compat::{eoverflow, eownerdead},
    helpers,
    mailbox::IN,
    queue::{self, Gate, GateWaiter},
    share::{Handles, Leaving, Shares},
    uapi,
    uring::Parked,
    wait::{Outcome, Pollers, Wait, Waiter, WaiterPtr, Wake},
};
use core::{
    pin::{pin, Pin},
    ptr::NonNull,
};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{lock::spinlock::SpinLockGuard, new_spinlock, SpinLock},
};

impl GateWaiter for WaiterPtr {
    type Wake = Wake;

    fn finish(self, gate: Gate) -> Wake {
        self.finish(Outcome::Gate(gate))
    }
}

/// What a wait that ended so returns.
pub(crate) fn passed(gate: Gate) -> Result {
    match gate {
        Gate::Open => Ok(()),
        Gate::Broken => Err(eownerdead()),
    }
}

/// What the end of a wait means.
pub(crate) fn ended(outcome: Option<Outcome>) -> Result {
    match outcome {
        Some(Outcome::Gate(gate)) => passed(gate),
        _ => Err(EINTR),
    }
}

/// What the lock guards.
struct Inner {
    latch: queue::Latch<WaiterPtr>,
    handles: Handles,
}

/// A latch.
#[pin_data]
pub(crate) struct Latch {
    #[pin]
    inner: SpinLock<Inner>,
    pollers: Pollers,
}

impl Latch {
    pub(crate) fn new(count: u64) -> Result<impl PinInit<Self>> {
        if count == 0 {
            return Err(EINVAL);
        }
        let pollers = Pollers::new()?;
        Ok(pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    latch: queue::Latch::new(count),
                    handles: Handles::default(),
                },
                "postbox_latch"
            ),
            pollers,
        }))
    }

    /// A handle was bound.
    pub(crate) fn open(&self, sends: bool, receives: bool) {
        self.inner.lock().handles.open(sends, receives);
    }

    /// A handle was closed for the last time.
    pub(crate) fn close(&self, sends: bool, receives: bool) {
        self.inner.lock().handles.close(sends, receives);
    }

    /// Breaks if a process, or any, owes something through a handle that nobody else has promised.
    pub(crate) fn process_closed(&self, shares: &Shares, leaving: Leaving) {
        loop {
            let mut inner = self.inner.lock();
            let share = shares.settle(leaving);
            let Some(share) = share else {
                return;
            };
            if share.count > 0 {
                inner.latch.broke_promise(share.count);
            }
            self.end(inner);
            self.pollers.wake_later();
        }
    }

    /// What poll says to a handle that may wait, or may not.
    ///
    /// # Safety
    ///
    /// As for [`Pollers::add`].
    pub(crate) unsafe fn poll(
        &self,
        file: &File,
        table: *mut bindings::poll_table_struct,
        receives: bool,
    ) -> u32 {
        // SAFETY: By the contract.
        unsafe { self.pollers.add(file, table, false, true) };
        match self.inner.lock().latch.gate() {
            Some(Gate::Open) if receives => IN,
            Some(Gate::Broken) => bindings::POLLERR,
            _ => 0,
        }
    }

    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        let inner = self.inner.lock();
        inner.handles.describe(info);
        info.value = inner.latch.count();
        info.maximum = inner.latch.first();
        info.waiting_receivers = inner.latch.waiting() as u32;
        if inner.latch.gate() == Some(Gate::Broken) {
            info.flags |= uapi::POSTBOX_INFO_BROKEN;
        }
    }

    /// Counts down, and so keeps what the process has promised.
    pub(crate) fn count_down(&self, count: u64, shares: &Shares) -> Result {
        let mut inner = self.inner.lock();
        if !inner.latch.count_down(count) {
            return Err(eoverflow());
        }
        if !shares.unused() {
            let kept = shares.lock().subtract_some(helpers::process(), count);
            inner.latch.kept_promise(kept);
        }
        if inner.latch.gate().is_some() {
            self.settle(inner);
        }
        Ok(())
    }

    /// Waits until it is open.
    pub(crate) fn wait(&self, wait: &Wait<'_>) -> Result {
        match self.gate() {
            Some(gate) => passed(gate),
            None if !wait.may_wait() => Err(EAGAIN),
            None => self.wait_slowly(wait),
        }
    }

    fn gate(&self) -> Option<Gate> {
        self.inner.lock().latch.gate()
    }

    #[inline(never)]
    fn wait_slowly(&self, wait: &Wait<'_>) -> Result {
        if let Some(outcome) = wait.resume() {
            return ended(Some(outcome));
        }
        let stack = pin!(Waiter::new());
        let waiter = wait.waiter(stack.as_ref(), Parked::Latch)?;
        {
            let mut inner = self.inner.lock();
            if let Some(gate) = inner.latch.gate() {
                return passed(gate);
            }
            // SAFETY: The waiter is pinned here. Below, it is done, or leaves.
            unsafe { inner.latch.wait(waiter.pointer()) };
            wait.listed();
        }
        wait.parked()?;
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            // SAFETY: It was put on the list here.
            outcome = unsafe { self.stop_waiting(waiter) };
            if outcome.is_none() {
                return Err(error);
            }
        }
        ended(outcome)
    }

    /// Ends a wait from its own side, unless it is done.
    ///
    /// # Safety
    ///
    /// It was put on this latch's list, and its outcome was not taken.
    pub(crate) unsafe fn stop_waiting(&self, waiter: Pin<&Waiter>) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = waiter.outcome();
        if outcome.is_none() {
            // SAFETY: It waits here, and is not done.
            unsafe { inner.latch.leave(NonNull::from(waiter.get_ref())) };
        }
        outcome
    }

    /// The process is going to count down so often.
    pub(crate) fn join(&self, count: u64, shares: &Shares) -> Result {
        let process = helpers::process();
        shares.enter(process)?;
        let mut inner = self.inner.lock();
        if !inner.latch.promise(count) {
            return Err(eoverflow());
        }
        if shares.lock().add(process, count) {
            Ok(())
        } else {
            // Another thread has closed the last descriptor.
            inner.latch.kept_promise(count);
            Err(EBADF)
        }
    }

    /// The process is not going to do so after all.
    pub(crate) fn leave(&self, count: u64, shares: &Shares) -> Result {
        let mut inner = self.inner.lock();
        if !shares.lock().subtract(helpers::process(), count) {
            return Err(EINVAL);
        }
        inner.latch.kept_promise(count);
        Ok(())
    }

    /// Ends the waits that are over.
    fn settle(&self, inner: SpinLockGuard<'_, Inner>) {
        self.end(inner);
        self.pollers.wake_all();
    }

    /// One at a time: each is woken outside the lock.
    fn end<'a>(&'a self, mut inner: SpinLockGuard<'a, Inner>) {
        while !inner.latch.settled() {
            let wake = inner.latch.end_one();
            drop(inner);
            drop(wake);
            inner = self.inner.lock();
        }
    }
}
