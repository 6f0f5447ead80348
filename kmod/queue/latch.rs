// SPDX-License-Identifier: GPL-2.0
//! The latch: it opens when its count reaches zero, for good.

use super::list::{List, Owner};
use core::ptr::NonNull;

/// A task that waits at a latch or a barrier. The list of them owns pointers that the tasks keep
/// valid.
pub trait GateWaiter: Owner {
    /// What wakes it, once the lock is dropped.
    type Wake;

    /// Ends its wait.
    fn finish(self, gate: Gate) -> Self::Wake;
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The latch is open; all the barrier's parties are there.
    Open,
    /// A process died before it did the part that it had promised.
    Broken,
}

/// A latch.
pub struct Latch<W: GateWaiter> {
    count: u64,
    first: u64,
    /// What processes have promised to count, together.
    promised: u64,
    broken: bool,
    waiting: List<W>,
}

impl<W: GateWaiter> Latch<W> {
    /// A latch that opens when it was counted down so often.
    pub const fn new(count: u64) -> Self {
        Self {
            count,
            first: count,
            promised: 0,
            broken: false,
            waiting: List::new(),
        }
    }

    /// What is left to be counted down.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What it began with.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How a wait would end now; `None`: not yet. A broken latch can still open.
    #[inline]
    pub fn gate(&self) -> Option<Gate> {
        match (self.count, self.broken) {
            (0, _) => Some(Gate::Open),
            (_, true) => Some(Gate::Broken),
            _ => None,
        }
    }

    /// Counts down. `false`, and nothing is changed: it would pass zero.
    #[inline]
    pub fn count_down(&mut self, count: u64) -> bool {
        match self.count.checked_sub(count) {
            Some(count) => {
                self.count = count;
                true
            }
            None => false,
        }
    }

    /// A process promises to count so much. `false`, and nothing is changed: all that is left is
    /// promised already.
    pub fn promise(&mut self, count: u64) -> bool {
        match self.promised.checked_add(count) {
            Some(promised) if promised <= self.count => {
                self.promised = promised;
                true
            }
            _ => false,
        }
    }

    /// So much of what was promised was counted, or is not promised any more.
    pub fn kept_promise(&mut self, count: u64) {
        self.promised = self.promised.saturating_sub(count);
    }

    /// A process died that had promised so much. The latch breaks, unless the others that have
    /// promised can still open it: somebody else may have counted in that one's place.
    pub fn broke_promise(&mut self, count: u64) {
        self.kept_promise(count);
        self.broken |= self.count > self.promised;
    }

    /// Whether nobody's wait is over.
    #[inline]
    pub fn settled(&self) -> bool {
        self.waiting.is_empty() || self.gate().is_none()
    }

    /// Ends the wait of one task if all have to end. To be called until it returns `None`, after
    /// the latch opened or broke.
    pub fn end_one(&mut self) -> Option<W::Wake> {
        let gate = self.gate()?;
        Some(self.waiting.pop_front()?.finish(gate))
    }

    /// Lets a task wait while [`gate`](Self::gate) is `None`.
    ///
    /// # Safety
    ///
    /// `waiter` stays valid until it was finished or has left.
    pub unsafe fn wait(&mut self, waiter: W) {
        self.waiting.push_back(waiter);
    }

    /// Ends a wait.
    ///
    /// # Safety
    ///
    /// `waiter` waits here and was not finished.
    pub unsafe fn leave(&mut self, waiter: NonNull<W::Target>) {
        // SAFETY: By the contract it is on the list.
        unsafe { self.waiting.remove(waiter) };
    }
}
