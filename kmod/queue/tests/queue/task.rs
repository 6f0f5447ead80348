// SPDX-License-Identifier: GPL-2.0
//! Tasks that wait at wait objects and pipes, for the host: they note how their waits end.

use postbox_queue::{
    Acquirer, Borrower, Branches, Flight, Gate, GateWaiter, Linked, Links, Owner, Seat, Turn,
    TurnWaiter, WordWaiter,
};
use proptest::test_runner::Config;
use std::{cell::Cell, ptr::NonNull, rc::Rc};

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With what it wanted, of which so many were a dead process's.
    Granted(u64),
    Gate(Gate),
    Turn(Turn),
    /// With a block.
    Lent(Flight),
}

/// A task that waits.
pub struct Task {
    links: Links<Task>,
    seat: Seat<Task>,
    branches: Branches<Task>,
    pub id: usize,
    pub wants: u64,
    place: Cell<u64>,
    pub end: Cell<Option<End>>,
}

impl Task {
    pub fn new(id: usize, wants: u64) -> Rc<Self> {
        Rc::new(Self {
            links: Links::new(),
            seat: Seat::new(),
            branches: Branches::new(),
            id,
            wants,
            place: Cell::new(0),
            end: Cell::new(None),
        })
    }
}

impl Linked for Task {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

/// A pointer to it.
pub struct TaskPtr(NonNull<Task>);

impl TaskPtr {
    pub fn new(task: &Rc<Task>) -> Self {
        // SAFETY: An `Rc` does not point to null.
        Self(unsafe { NonNull::new_unchecked(Rc::as_ptr(task).cast_mut()) })
    }

    pub fn pointer(&self) -> NonNull<Task> {
        self.0
    }

    fn end(self, end: End) -> Woken {
        // SAFETY: Whoever waits keeps the task in its `Rc` until it was finished or left.
        let task = unsafe { self.0.as_ref() };
        assert_eq!(task.end.replace(Some(end)), None, "finished twice");
        Woken { id: task.id, end }
    }
}

// SAFETY: As in `end`.
unsafe impl Owner for TaskPtr {
    type Target = Task;

    fn into_raw(self) -> NonNull<Task> {
        self.0
    }

    unsafe fn from_raw(raw: NonNull<Task>) -> Self {
        Self(raw)
    }
}

impl Acquirer for TaskPtr {
    type Wake = Woken;

    fn wants(waiting: &Task) -> u64 {
        waiting.wants
    }

    fn finish(self, orphans: u64) -> Woken {
        self.end(End::Granted(orphans))
    }
}

impl Borrower for TaskPtr {
    type Wake = Woken;

    fn finish(self, flight: Flight) -> Woken {
        self.end(End::Lent(flight))
    }
}

impl GateWaiter for TaskPtr {
    type Wake = Woken;

    fn finish(self, gate: Gate) -> Woken {
        self.end(End::Gate(gate))
    }
}

impl TurnWaiter for TaskPtr {
    type Wake = Woken;

    fn wants(waiting: &Task) -> u64 {
        waiting.wants
    }

    fn place(waiting: &Task) -> u64 {
        waiting.place.get()
    }

    fn seat(waiting: &Task, place: u64) {
        waiting.place.set(place);
    }

    fn branches(waiting: &Task) -> &Branches<Task> {
        &waiting.branches
    }

    fn is_task(_: &Task) -> bool {
        false
    }

    fn finish(self, turn: Turn) -> Woken {
        self.end(End::Turn(turn))
    }
}

/// The task that was finished, and how.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken {
    pub id: usize,
    pub end: End,
}

/// How thorough the random tests are.
pub fn config() -> Config {
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let cases = match (cfg!(miri), std::env::var_os("PROPTEST_CASES")) {
        (true, _) => 8,
        (false, None) => 500,
        (false, Some(_)) => config.cases,
    };
    Config { cases, ..config }
}

/// One of those that are there.
pub fn pick<T>(from: &[T], which: usize) -> Option<&T> {
    from.get(which.checked_rem(from.len())?)
}

impl WordWaiter for TaskPtr {
    fn word(waiter: &Task) -> u64 {
        waiter.wants
    }

    fn seat(waiter: &Task) -> &Seat<Task> {
        &waiter.seat
    }
}
