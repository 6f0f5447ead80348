// SPDX-License-Identifier: GPL-2.0
//! The semaphore as a kernel object. Who gets what is decided in `queue/semaphore.rs`.
//!
//! What a process acquired to be given back when it dies is in the handle's [`Shares`]. The task
//! that acquires notes it there itself, before it returns to where it could die: a task that is
//! killed while it waits still comes by, and gives back what it was granted.

use crate::{
    compat::eoverflow,
    helpers,
    mailbox::{IN, OUT},
    queue::{self, Acquirer},
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

impl Acquirer for WaiterPtr {
    type Wake = Wake;

    fn wants(waiting: &Waiter) -> u64 {
        waiting.wanted()
    }

    fn finish(self, orphans: u64) -> Wake {
        self.finish(Outcome::Granted(orphans))
    }
}

/// What the end of a wait means.
fn granted(outcome: Option<Outcome>) -> Result<u64> {
    match outcome {
        Some(Outcome::Granted(orphans)) => Ok(orphans),
        _ => Err(EINTR),
    }
}

/// What the lock guards.
struct Inner {
    units: queue::Semaphore<WaiterPtr>,
    handles: Handles,
}

/// A semaphore.
#[pin_data]
pub(crate) struct Semaphore {
    #[pin]
    inner: SpinLock<Inner>,
    pollers: Pollers,
    maximum: u64,
}

impl Semaphore {
    pub(crate) fn new(value: u64, maximum: u64) -> Result<impl PinInit<Self>> {
        if maximum == 0 || value > maximum {
            return Err(EINVAL);
        }
        let pollers = Pollers::new()?;
        Ok(pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    units: queue::Semaphore::new(value, maximum),
                    handles: Handles::default(),
                },
                "postbox_semaphore"
            ),
            pollers,
            maximum,
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

    /// Gives back what a process, or every process, has through a handle.
    pub(crate) fn process_closed(&self, shares: &Shares, leaving: Leaving) {
        loop {
            let mut inner = self.inner.lock();
            let share = shares.settle(leaving);
            let Some(share) = share else {
                return;
            };
            if share.count > 0 {
                inner.units.give_back(share.count, share.count);
                self.settle_in_passing(inner);
            } else {
                drop(inner);
            }
            // It has a watch, whose end sleeps.
            drop(share);
        }
    }

    /// What poll says to a handle with these rights.
    ///
    /// # Safety
    ///
    /// As for [`Pollers::add`].
    pub(crate) unsafe fn poll(
        &self,
        file: &File,
        table: *mut bindings::poll_table_struct,
        sends: bool,
        receives: bool,
    ) -> u32 {
        // SAFETY: By the contract.
        unsafe { self.pollers.add(file, table, sends, receives) };
        self.events(sends, receives)
    }

    fn events(&self, sends: bool, receives: bool) -> u32 {
        let units = &self.inner.lock().units;
        let mut mask = 0;
        if receives && units.available() {
            mask |= IN;
        }
        if sends && units.has_room() {
            mask |= OUT;
        }
        mask
    }

    /// Tells pollers. The lock is not held.
    #[inline]
    fn tell(&self, news: u32) {
        self.pollers.wake(news, || self.events(true, true));
    }

    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        let inner = self.inner.lock();
        inner.handles.describe(info);
        info.capacity = self.maximum;
        info.maximum = self.maximum;
        info.value = inner.units.value();
        info.waiting_receivers = inner.units.waiting() as u32;
    }

    /// Acquires units, to be given back when this process dies if there is a table for that.
    /// Returns how many of them were a dead process's.
    pub(crate) fn acquire(
        &self,
        count: u64,
        undo: Option<&Shares>,
        wait: &Wait<'_>,
    ) -> Result<u64> {
        if count > self.maximum {
            return Err(EINVAL);
        }
        if let Wait::Parks(issue) = wait {
            if issue.resumes() {
                return self.acquire_slowly(count, undo, wait);
            }
        }
        let mut inner = self.inner.lock();
        match inner.units.take(count) {
            Some(orphans)
                if undo.is_none_or(|shares| shares.lock().add(helpers::process(), count)) =>
            {
                drop(inner);
                self.tell(OUT);
                return Ok(orphans);
            }
            // The process needs an entry first.
            Some(orphans) => inner.units.give_back(count, orphans),
            None if !wait.may_wait() => return Err(EAGAIN),
            None => {}
        }
        drop(inner);
        self.acquire_slowly(count, undo, wait)
    }

    /// Makes an entry for the process, where that is needed, and waits.
    #[inline(never)]
    fn acquire_slowly(&self, count: u64, undo: Option<&Shares>, wait: &Wait<'_>) -> Result<u64> {
        let process = helpers::process();
        // A command that goes on has entered, unless another thread has closed the handle since.
        let goes_on = matches!(wait, Wait::Parks(issue) if issue.resumes());
        if let (Some(shares), false) = (undo, goes_on) {
            shares.enter(process)?;
        }
        let orphans = self.take_or_wait(count, wait)?;
        let error = if helpers::dying() {
            EINTR
        } else if undo.is_none_or(|shares| shares.lock().add(process, count)) {
            self.tell(OUT);
            return Ok(orphans);
        } else {
            // Another thread has closed the last descriptor.
            EBADF
        };
        self.give_back(count, orphans);
        Err(error)
    }

    /// Gives back what was granted and is not wanted any more.
    pub(crate) fn give_back(&self, count: u64, orphans: u64) {
        let mut inner = self.inner.lock();
        inner.units.give_back(count, orphans);
        self.settle_in_passing(inner);
    }

    fn take_or_wait(&self, count: u64, wait: &Wait<'_>) -> Result<u64> {
        if let Some(outcome) = wait.resume() {
            return granted(Some(outcome));
        }
        let stack = pin!(Waiter::wanting(count));
        let waiter = wait.waiter(stack.as_ref(), Parked::Acquire(count))?;
        {
            let mut inner = self.inner.lock();
            match inner.units.take(count) {
                Some(orphans) => return Ok(orphans),
                None if !wait.may_wait() => return Err(EAGAIN),
                // SAFETY: The waiter is pinned here. Below, it is done, or leaves.
                None => unsafe { inner.units.wait(waiter.pointer()) },
            }
            wait.listed();
            // Whoever grants meanwhile does not count this waiter: see `grant`.
            let wake = inner.units.grant();
            drop(inner);
            drop(wake);
        }
        wait.parked()?;
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            // SAFETY: It was put on the list here.
            outcome = unsafe { self.leave(waiter) };
            if outcome.is_none() {
                return Err(error);
            }
        }
        granted(outcome)
    }

    /// Ends a wait from its own side, unless it is done.
    ///
    /// # Safety
    ///
    /// It was put on this semaphore's list, and its outcome was not taken.
    pub(crate) unsafe fn leave(&self, waiter: Pin<&Waiter>) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = waiter.outcome();
        if outcome.is_none() {
            // SAFETY: It waits here, and is not done.
            unsafe { inner.units.leave(NonNull::from(waiter.get_ref())) };
            // It may have stood in the way of others.
            self.settle(inner);
        }
        outcome
    }

    /// Undoes an `acquire` of which the caller could not be told all.
    pub(crate) fn unacquire(&self, count: u64, orphans: u64, undo: Option<&Shares>) {
        let mut inner = self.inner.lock();
        if undo.is_none_or(|shares| shares.lock().subtract(helpers::process(), count)) {
            inner.units.give_back(count, orphans);
        }
        self.settle(inner);
    }

    /// Releases units; where there is a table, such as this process acquired with it.
    pub(crate) fn release(&self, count: u64, undo: Option<&Shares>) -> Result {
        let mut inner = self.inner.lock();
        if let Some(shares) = undo {
            let process = helpers::process();
            let mut table = shares.lock();
            if !table.subtract(process, count) {
                return Err(EINVAL);
            }
            if !inner.units.release(count) {
                table.add(process, count);
                return Err(eoverflow());
            }
        } else if !inner.units.release(count) {
            return Err(eoverflow());
        }
        self.settle(inner);
        Ok(())
    }

    /// As [`Self::settle`], for one of many steps of an exit, or of the end of a ring: pollers are
    /// woken once for many.
    fn settle_in_passing(&self, inner: SpinLockGuard<'_, Inner>) {
        self.grant(inner);
        self.pollers.wake_later();
    }

    /// Grants what can be granted now.
    fn settle(&self, inner: SpinLockGuard<'_, Inner>) {
        self.grant(inner);
        self.tell(IN);
    }

    /// Grants one at a time: each is woken outside the lock. As many as wait now, since those who are
    /// woken may wait again without end: a waiter that comes while units are there grants once
    /// itself, so that nobody is passed over.
    fn grant<'a>(&'a self, mut inner: SpinLockGuard<'a, Inner>) {
        if inner.units.settled() {
            return;
        }
        for _ in 0..inner.units.waiting() {
            let wake = inner.units.grant();
            let settled = inner.units.settled();
            drop(inner);
            drop(wake);
            if settled {
                return;
            }
            inner = self.inner.lock();
        }
    }
}
