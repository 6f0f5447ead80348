// SPDX-License-Identifier: GPL-2.0
//! The barrier as a kernel object. `queue/barrier.rs` says who has passed.
//!
//! The parties that a process stands for, and an arrival that it has not waited for, are in the
//! handle's [`Shares`].

use crate::{
    compat::{eoverflow, eownerdead},
    helpers,
    latch::{ended, passed},
    mailbox::IN,
    queue::{self, Arrival, Gate},
    share::{Handles, Leaving, Shares},
    uapi,
    uring::Parked,
    wait::{Outcome, Pollers, Wait, Waiter, WaiterPtr},
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

/// Ends an arrival that was waited for later. Returns whether it leads.
pub(crate) fn collected(shares: &Shares, arrival: Arrival, ended: Result) -> Result<bool> {
    match ended {
        Err(error) if error != eownerdead() => Err(error),
        ended => {
            // Of several threads that wait for it, one ends it.
            let first = shares.lock().end_arrival(arrival);
            ended.map(|()| first && arrival.leader())
        }
    }
}

/// What the lock guards.
struct Inner {
    barrier: queue::Barrier<WaiterPtr>,
    handles: Handles,
}

/// A barrier.
#[pin_data]
pub(crate) struct Barrier {
    #[pin]
    inner: SpinLock<Inner>,
    pollers: Pollers,
}

impl Barrier {
    pub(crate) fn new(parties: u64) -> Result<impl PinInit<Self>> {
        if parties == 0 {
            return Err(EINVAL);
        }
        let pollers = Pollers::new()?;
        Ok(pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    barrier: queue::Barrier::new(parties),
                    handles: Handles::default(),
                },
                "postbox_barrier"
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

    /// Breaks if a process, or any, has joined through a handle, and takes back its arrival.
    pub(crate) fn process_closed(&self, shares: &Shares, leaving: Leaving) {
        loop {
            let mut inner = self.inner.lock();
            let arrival = shares.lock().settle_arrival(leaving.process);
            let share = shares.settle(leaving);
            if let Some(arrival) = arrival {
                inner.barrier.withdraw(&arrival);
            }
            let Some(share) = share else {
                return;
            };
            if share.count > 0 {
                inner.barrier.part(share.count);
                inner.barrier.break_now();
            }
            self.end(inner);
            self.pollers.wake_later();
        }
    }

    /// What poll says to a handle that takes part.
    ///
    /// # Safety
    ///
    /// As for [`Pollers::add`].
    pub(crate) unsafe fn poll(
        &self,
        file: &File,
        table: *mut bindings::poll_table_struct,
        shares: &Shares,
    ) -> u32 {
        // SAFETY: By the contract.
        unsafe { self.pollers.add(file, table, false, true) };
        let inner = self.inner.lock();
        let mut mask = 0;
        let arrival = shares.lock().arrival();
        if arrival.is_some_and(|arrival| inner.barrier.gate(&arrival) == Some(Gate::Open)) {
            mask |= IN;
        }
        if inner.barrier.broken() {
            mask |= bindings::POLLERR;
        }
        mask
    }

    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        let inner = self.inner.lock();
        inner.handles.describe(info);
        info.value = inner.barrier.arrived();
        info.maximum = inner.barrier.parties();
        info.waiting_senders = inner.barrier.waiting() as u32;
        if inner.barrier.broken() {
            info.flags |= uapi::POSTBOX_INFO_BROKEN;
        }
    }

    /// Arrives, and waits until all have; or waits for the end of an earlier arrival of this
    /// handle. Returns whether it leads.
    pub(crate) fn wait(&self, shares: &Shares, wait: &Wait<'_>) -> Result<bool> {
        if let Wait::Parks(issue) = wait {
            if let Some((arrival, own)) = issue.arrival() {
                let ended = ended(issue.resume());
                return match own {
                    true => ended.map(|()| arrival.leader()),
                    false => collected(shares, arrival, ended),
                };
            }
            if issue.may_wait() {
                // What parks the command is made while nothing has happened yet.
                wait.waiter(pin!(Waiter::new()).as_ref(), Parked::Nowhere)?;
            }
        }
        let mut inner = self.inner.lock();
        let arrival = shares.lock().arrival();
        if let Some(arrival) = arrival {
            return self.collect(inner, shares, arrival, wait);
        }
        if inner.barrier.broken() {
            return Err(eownerdead());
        }
        if !wait.may_wait() && !inner.barrier.nearly_complete() {
            return Err(EAGAIN);
        }
        let arrival = inner.barrier.arrive();
        if arrival.leader() {
            self.settle(inner);
        } else {
            self.sleep(inner, &arrival, wait, true)?;
        }
        Ok(arrival.leader())
    }

    /// Arrives without waiting.
    pub(crate) fn arrive(&self, shares: &Shares) -> Result {
        let process = helpers::process();
        shares.enter(process)?;
        let mut inner = self.inner.lock();
        if inner.barrier.broken() {
            return Err(eownerdead());
        }
        shares.lock().arrive(process, || inner.barrier.arrive())?;
        self.settle(inner);
        Ok(())
    }

    /// Waits for the end of an arrival that was not waited for.
    #[inline(never)]
    fn collect(
        &self,
        inner: SpinLockGuard<'_, Inner>,
        shares: &Shares,
        arrival: Arrival,
        wait: &Wait<'_>,
    ) -> Result<bool> {
        let ended = match inner.barrier.gate(&arrival) {
            Some(gate) => {
                drop(inner);
                passed(gate)
            }
            None if !wait.may_wait() => return Err(EAGAIN),
            None => self.sleep(inner, &arrival, wait, false),
        };
        collected(shares, arrival, ended)
    }

    /// Sleeps until an arrival's generation is complete. If it does so for another reason and the
    /// arrival is its own, it takes that back.
    #[inline(never)]
    fn sleep(
        &self,
        mut inner: SpinLockGuard<'_, Inner>,
        arrival: &Arrival,
        wait: &Wait<'_>,
        own: bool,
    ) -> Result {
        let stack = pin!(Waiter::new());
        // A command has it already, so that this allocates nothing.
        let waiter = wait.waiter(stack.as_ref(), Parked::Barrier(*arrival, own))?;
        // SAFETY: The waiter is pinned here. Below, it is done, or leaves; or it is a command's.
        unsafe { inner.barrier.wait(waiter.pointer()) };
        wait.listed();
        drop(inner);
        wait.parked()?;
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            // SAFETY: It was put on the list here.
            outcome = unsafe { self.stop_waiting(waiter, arrival, own) };
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
    /// It was put on this barrier's list for the arrival, and its outcome was not taken.
    pub(crate) unsafe fn stop_waiting(
        &self,
        waiter: Pin<&Waiter>,
        arrival: &Arrival,
        own: bool,
    ) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = waiter.outcome();
        if outcome.is_some() {
            return outcome;
        }
        let barrier = &mut inner.barrier;
        // SAFETY: It waits here, and is not done.
        let gate = unsafe { barrier.leave(NonNull::from(waiter.get_ref()), arrival) };
        if gate.is_none() && own {
            barrier.withdraw(arrival);
        }
        // It may have been over before it was woken.
        gate.map(Outcome::Gate)
    }

    /// The process is so many of the parties.
    pub(crate) fn join(&self, count: u64, shares: &Shares) -> Result {
        let process = helpers::process();
        shares.enter(process)?;
        let mut inner = self.inner.lock();
        if !inner.barrier.join(count) {
            return Err(eoverflow());
        }
        if !shares.lock().add(process, count) {
            // Another thread has closed the last descriptor.
            inner.barrier.part(count);
            return Err(EBADF);
        }
        Ok(())
    }

    /// The process is not any more.
    pub(crate) fn leave(&self, count: u64, shares: &Shares) -> Result {
        let mut inner = self.inner.lock();
        if !shares.lock().subtract(helpers::process(), count) {
            return Err(EINVAL);
        }
        inner.barrier.part(count);
        Ok(())
    }

    /// Ends the waits that are over.
    fn settle(&self, inner: SpinLockGuard<'_, Inner>) {
        self.end(inner);
        self.pollers.wake_all();
    }

    /// One at a time: each is woken outside the lock. As many as are over now: who is woken may arrive
    /// again without end, and whoever completes another generation ends that.
    #[inline(never)]
    fn end<'a>(&'a self, mut inner: SpinLockGuard<'a, Inner>) {
        for _ in 0..inner.barrier.over() {
            let wake = inner.barrier.end_one();
            let settled = inner.barrier.over() == 0;
            drop(inner);
            drop(wake);
            if settled {
                return;
            }
            inner = self.inner.lock();
        }
    }
}
