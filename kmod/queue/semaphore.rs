// SPDX-License-Identifier: GPL-2.0
//! The counting semaphore: units that tasks take and give, with a maximum.
//!
//! Who waits is served in the order of arrival, each with all that it wants at once: a large
//! request at the front holds those behind it back, also where there is enough for them.

use super::list::{List, Owner};
use core::ptr::NonNull;

/// A task that waits for units. The list of them owns pointers that the tasks keep valid.
pub trait Acquirer: Owner {
    /// What wakes it, once the lock is dropped.
    type Wake;

    /// How many units it wants; always the same number.
    fn wants(waiting: &Self::Target) -> u64;

    /// Ends its wait: it has what it wanted, of which so many were a dead process's.
    fn finish(self, orphans: u64) -> Self::Wake;
}

/// A semaphore.
///
/// # Invariants
///
/// `orphans <= value <= maximum`.
pub struct Semaphore<W: Acquirer> {
    value: u64,
    maximum: u64,
    /// Of the value, what a dead process had, and nobody has had since.
    orphans: u64,
    waiting: List<W>,
}

impl<W: Acquirer> Semaphore<W> {
    /// A semaphore with a value, which is not above the maximum.
    pub const fn new(value: u64, maximum: u64) -> Self {
        Self {
            value,
            maximum,
            orphans: 0,
            waiting: List::new(),
        }
    }

    /// Its value.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// The most that its value can be.
    pub fn maximum(&self) -> u64 {
        self.maximum
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether one unit could be taken now.
    pub fn available(&self) -> bool {
        self.value > 0 && self.waiting.is_empty()
    }

    /// Whether one unit could be added now.
    pub fn has_room(&self) -> bool {
        self.value < self.maximum
    }

    /// Takes units, if they are there and nobody waits. Returns how many of them were a dead
    /// process's.
    #[inline]
    pub fn take(&mut self, count: u64) -> Option<u64> {
        if count > self.value || !self.waiting.is_empty() {
            return None;
        }
        Some(self.subtract(count))
    }

    #[inline]
    fn subtract(&mut self, count: u64) -> u64 {
        self.value -= count;
        let orphans = self.orphans.min(count);
        self.orphans -= orphans;
        orphans
    }

    /// Adds units. `false`, and nothing is changed: the value would pass the maximum.
    #[inline]
    pub fn release(&mut self, count: u64) -> bool {
        match self.value.checked_add(count) {
            Some(value) if value <= self.maximum => {
                self.value = value;
                true
            }
            _ => false,
        }
    }

    /// Adds units that somebody had, `orphans` of whom a dead process's. Others may have released
    /// more than they had meanwhile: the value stays at the maximum then.
    pub fn give_back(&mut self, count: u64, orphans: u64) {
        self.value = self.value.saturating_add(count).min(self.maximum);
        self.orphans = self.orphans.saturating_add(orphans).min(self.value);
    }

    /// Whether nobody can be granted anything.
    #[inline]
    pub fn settled(&self) -> bool {
        self.waiting
            .front()
            .is_none_or(|first| W::wants(first) > self.value)
    }

    /// Grants the first who waits what it wants, if that is there now. To be called until it
    /// returns `None`, after units came or somebody left.
    pub fn grant(&mut self) -> Option<W::Wake> {
        let wants = W::wants(self.waiting.front()?);
        if wants > self.value {
            return None;
        }
        let first = self.waiting.pop_front()?;
        Some(first.finish(self.subtract(wants)))
    }

    /// Lets a task wait that [`take`](Self::take) had nothing for.
    ///
    /// # Safety
    ///
    /// `waiter` stays valid until it was finished or has left.
    pub unsafe fn wait(&mut self, waiter: W) {
        self.waiting.push_back(waiter);
    }

    /// Ends a wait. It may have stood in the way of others.
    ///
    /// # Safety
    ///
    /// `waiter` waits here and was not finished.
    pub unsafe fn leave(&mut self, waiter: NonNull<W::Target>) {
        // SAFETY: By the contract it is on the list.
        unsafe { self.waiting.remove(waiter) };
    }
}
