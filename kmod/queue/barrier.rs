// SPDX-License-Identifier: GPL-2.0
//! The barrier: it opens when as many have arrived as it has parties, lets those through, and
//! starts anew.
//!
//! An arrival belongs to a generation. It is over when that is complete, whether the task that
//! waits has been woken or not: who looks finds out by the number.

use super::{
    latch::{Gate, GateWaiter},
    list::List,
};
use core::ptr::NonNull;

/// That somebody has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    generation: u64,
    leader: bool,
}

impl Arrival {
    /// Whether it was the last of its generation, of which there is one.
    pub fn leader(&self) -> bool {
        self.leader
    }
}

/// A barrier.
///
/// # Invariants
///
/// `arrived < parties`. The first `released` of `waiting` are of generations that are complete, and
/// all others of the current one.
pub struct Barrier<W: GateWaiter> {
    parties: u64,
    arrived: u64,
    generation: u64,
    joined: u64,
    broken: bool,
    released: usize,
    waiting: List<W>,
}

impl<W: GateWaiter> Barrier<W> {
    /// A barrier for so many parties, at least one.
    pub const fn new(parties: u64) -> Self {
        Self {
            parties,
            arrived: 0,
            generation: 0,
            joined: 0,
            broken: false,
            released: 0,
            waiting: List::new(),
        }
    }

    /// How many have arrived in this generation.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// How many there have to be.
    pub fn parties(&self) -> u64 {
        self.parties
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len() - self.released
    }

    /// Whether a process died that had joined.
    pub fn broken(&self) -> bool {
        self.broken
    }

    /// Whether the next to arrive is the last.
    pub fn nearly_complete(&self) -> bool {
        self.arrived + 1 == self.parties
    }

    /// Somebody arrives. The last one completes the generation. To be called while it is not
    /// broken.
    pub fn arrive(&mut self) -> Arrival {
        let leader = self.nearly_complete();
        let generation = self.generation;
        if leader {
            self.arrived = 0;
            self.generation += 1;
            self.released = self.waiting.len();
        } else {
            self.arrived += 1;
        }
        Arrival { generation, leader }
    }

    /// How a wait for the end of this arrival's generation would end now; `None`: not yet.
    pub fn gate(&self, arrival: &Arrival) -> Option<Gate> {
        if arrival.generation != self.generation {
            Some(Gate::Open)
        } else if self.broken {
            Some(Gate::Broken)
        } else {
            None
        }
    }

    /// Takes an arrival back, if its generation is not over.
    pub fn withdraw(&mut self, arrival: &Arrival) {
        if self.gate(arrival).is_none() {
            self.arrived -= 1;
        }
    }

    /// So many of the parties join. `false`: there are not so many left.
    pub fn join(&mut self, count: u64) -> bool {
        match self.joined.checked_add(count) {
            Some(joined) if joined <= self.parties => {
                self.joined = joined;
                true
            }
            _ => false,
        }
    }

    /// So many of those that have joined leave.
    pub fn part(&mut self, count: u64) {
        self.joined -= count;
    }

    /// A process died that had joined. Nobody arrives any more.
    pub fn break_now(&mut self) {
        self.broken = true;
        self.arrived = 0;
    }

    /// How many wait whose wait is over.
    pub fn over(&self) -> usize {
        match self.broken {
            true => self.waiting.len(),
            false => self.released,
        }
    }

    /// Ends the wait of one task if that is over. To be called as often as there are [such
    /// waits](Self::over), after somebody arrived or the barrier broke.
    pub fn end_one(&mut self) -> Option<W::Wake> {
        let gate = if self.released > 0 {
            Gate::Open
        } else if self.broken {
            Gate::Broken
        } else {
            return None;
        };
        let first = self.waiting.pop_front()?;
        self.released = self.released.saturating_sub(1);
        Some(first.finish(gate))
    }

    /// Lets a task wait that has arrived, while [`gate`](Self::gate) says `None` to its arrival.
    ///
    /// # Safety
    ///
    /// `waiter` stays valid until it was finished or has left.
    pub unsafe fn wait(&mut self, waiter: W) {
        self.waiting.push_back(waiter);
    }

    /// Ends the wait of a task that waited for this arrival's generation, and says how it would
    /// have ended. The arrival stays.
    ///
    /// # Safety
    ///
    /// `waiter` waits here and was not finished.
    pub unsafe fn leave(&mut self, waiter: NonNull<W::Target>, arrival: &Arrival) -> Option<Gate> {
        // SAFETY: By the contract it is on the list.
        unsafe { self.waiting.remove(waiter) };
        let gate = self.gate(arrival);
        if gate == Some(Gate::Open) {
            self.released -= 1;
        }
        gate
    }
}
