// SPDX-License-Identifier: GPL-2.0
//! The barrier as a kernel object. `queue/barrier.rs` says who has passed.
//!
//! The parties that a process stands for, and an arrival that it has not waited for, are in the
//! handle's [`Shares`].

use crate::{
    compat::{ealready, eoverflow, eownerdead},
    helpers,
    latch::passed,
    mailbox::IN,
    queue::{self, Arrival, Gate},
    share::{Handles, Shares},
    uapi,
    wait::{Outcome, Pollers, Wait, Waiter, WaiterPtr},
};
use core::{pin::pin, ptr::NonNull};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{lock::spinlock::SpinLockGuard, new_spinlock, SpinLock},
};

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
    #[pin]
    pollers: Pollers,
}

impl Barrier {
    pub(crate) fn new(parties: u64) -> Result<impl PinInit<Self>> {
        if parties == 0 {
            return Err(EINVAL);
        }
        Ok(pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    barrier: queue::Barrier::new(parties),
                    handles: Handles::default(),
                },
                "postbox_barrier"
            ),
            pollers <- Pollers::new(),
        }))
    }

    /// A handle was bound.
    pub(crate) fn open(&self, sends: bool, receives: bool) {
        self.inner.lock().handles.open(sends, receives);
    }

    /// A handle was closed for the last time.
    pub(crate) fn close(&self, sends: bool, receives: bool, shares: &Shares) {
        self.process_closed(shares, None);
        self.inner.lock().handles.close(sends, receives);
    }

    /// Breaks if `process`, or anyone, has joined through a handle, and takes back its arrival.
    pub(crate) fn process_closed(&self, shares: &Shares, process: Option<usize>) {
        loop {
            let mut inner = self.inner.lock();
            let mut table = shares.lock();
            let arrival = table.settle_arrival(process);
            let share = table.settle(process);
            drop(table);
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
            self.settle(inner);
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
        unsafe { self.pollers.add(file, table) };
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
    pub(crate) fn wait(&self, shares: &Shares, wait: &Wait) -> Result<bool> {
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
        let mut inner = self.inner.lock();
        if inner.barrier.broken() {
            return Err(eownerdead());
        }
        if !shares.arrive(helpers::process(), || inner.barrier.arrive()) {
            return Err(ealready());
        }
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
        wait: &Wait,
    ) -> Result<bool> {
        let ended = match inner.barrier.gate(&arrival) {
            Some(gate) => {
                drop(inner);
                passed(gate)
            }
            None if !wait.may_wait() => return Err(EAGAIN),
            None => self.sleep(inner, &arrival, wait, false),
        };
        match ended {
            Err(error) if error != eownerdead() => Err(error),
            ended => {
                // Of several threads that wait for it, one ends it.
                let first = shares.lock().end_arrival(arrival);
                ended.map(|()| first && arrival.leader())
            }
        }
    }

    /// Sleeps until an arrival's generation is complete. If it does so for another reason and the
    /// arrival is its own, it takes that back.
    #[inline(never)]
    fn sleep(
        &self,
        mut inner: SpinLockGuard<'_, Inner>,
        arrival: &Arrival,
        wait: &Wait,
        own: bool,
    ) -> Result {
        let waiter = pin!(Waiter::new());
        let waiter = waiter.as_ref();
        // SAFETY: The waiter is pinned here. Below, it is done, or leaves.
        unsafe { inner.barrier.wait(waiter.pointer()) };
        drop(inner);
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            let mut inner = self.inner.lock();
            outcome = waiter.outcome();
            if outcome.is_none() {
                let barrier = &mut inner.barrier;
                // SAFETY: It waits here, and is not done.
                match unsafe { barrier.leave(NonNull::from(waiter.get_ref()), arrival) } {
                    // It was over before it was woken.
                    Some(gate) => return passed(gate),
                    None if own => barrier.withdraw(arrival),
                    None => {}
                }
                return Err(error);
            }
        }
        match outcome {
            Some(Outcome::Gate(gate)) => passed(gate),
            _ => Err(EINTR),
        }
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
        if inner.barrier.settled() {
            drop(inner);
        } else {
            self.end(inner);
        }
        self.pollers.wake(IN | bindings::POLLERR);
    }

    /// One at a time: each is woken outside the lock.
    #[inline(never)]
    fn end<'a>(&'a self, mut inner: SpinLockGuard<'a, Inner>) {
        loop {
            let wake = inner.barrier.end_one();
            let settled = inner.barrier.settled();
            drop(inner);
            drop(wake);
            if settled {
                return;
            }
            inner = self.inner.lock();
        }
    }
}
