// SPDX-License-Identifier: GPL-2.0
//! The barrier in single cases, and under random operations beside a plain model.

use crate::task::{config, pick, End, Task, TaskPtr, Woken};
use postbox_queue::{Arrival, Barrier, Gate};
use proptest::prelude::*;
use std::rc::Rc;

struct Case {
    barrier: Barrier<TaskPtr>,
    /// Kept to the end: what waits points to them.
    tasks: Vec<Rc<Task>>,
}

impl Case {
    fn new(parties: u64) -> Self {
        Self {
            barrier: Barrier::new(parties),
            tasks: Vec::new(),
        }
    }

    fn wait(&mut self, id: usize) {
        let task = Task::new(id, 1);
        self.tasks.push(task.clone());
        // SAFETY: It stays in `tasks`.
        unsafe { self.barrier.wait(TaskPtr::new(&task)) };
    }

    /// Arrives, and waits where that is not the last.
    fn arrive_and_wait(&mut self, id: usize) -> Arrival {
        let arrival = self.barrier.arrive();
        if !arrival.leader() {
            self.wait(id);
        }
        arrival
    }

    /// Ends a wait whose time is up.
    fn leave(&mut self, id: usize, arrival: &Arrival) -> Option<Gate> {
        let task = self.tasks.iter().find(|task| task.id == id);
        let task = task.expect("it waits");
        assert_eq!(task.end.get(), None);
        // SAFETY: It waits, and was not finished.
        unsafe { self.barrier.leave(TaskPtr::new(task).pointer(), arrival) }
    }

    fn settle(&mut self) -> Vec<Woken> {
        let over = self.barrier.over();
        let woken: Vec<_> = std::iter::from_fn(|| self.barrier.end_one()).collect();
        assert_eq!(over, woken.len());
        woken
    }

    #[track_caller]
    fn ends(&mut self, gate: Gate, ids: &[usize]) {
        let end = End::Gate(gate);
        let expected: Vec<_> = ids.iter().map(|&id| Woken { id, end }).collect();
        assert_eq!(self.settle(), expected);
    }
}

#[test]
fn the_last_one_leads_and_all_go_on_and_it_starts_anew() {
    let mut case = Case::new(3);
    for round in 0..3 {
        assert!(!case.arrive_and_wait(10 * round).leader());
        assert!(!case.arrive_and_wait(10 * round + 1).leader());
        case.ends(Gate::Open, &[]);
        assert_eq!((case.barrier.arrived(), case.barrier.waiting()), (2, 2));
        assert!(case.barrier.nearly_complete());
        assert!(case.arrive_and_wait(10 * round + 2).leader());
        assert_eq!((case.barrier.arrived(), case.barrier.waiting()), (0, 0));
        case.ends(Gate::Open, &[10 * round, 10 * round + 1]);
    }
}

#[test]
fn one_party_never_waits() {
    let mut case = Case::new(1);
    for _ in 0..3 {
        let arrival = case.barrier.arrive();
        assert!(arrival.leader());
        assert_eq!(case.barrier.gate(&arrival), Some(Gate::Open));
    }
}

#[test]
fn who_gives_up_is_not_counted() {
    let mut case = Case::new(2);
    let arrival = case.arrive_and_wait(1);
    assert_eq!(case.leave(1, &arrival), None);
    case.barrier.withdraw(&arrival);
    assert_eq!(case.barrier.arrived(), 0);
    assert!(!case.arrive_and_wait(2).leader());
    assert!(case.arrive_and_wait(3).leader());
    case.ends(Gate::Open, &[2]);
}

#[test]
fn who_gives_up_too_late_has_passed_and_the_next_generation_is_not_mixed_up() {
    let mut case = Case::new(2);
    let first = case.arrive_and_wait(1);
    assert!(case.arrive_and_wait(2).leader());
    // Before the first one is woken, the next generation begins.
    let second = case.arrive_and_wait(3);
    assert_eq!(case.barrier.waiting(), 1);
    assert_eq!(case.leave(1, &first), Some(Gate::Open));
    case.barrier.withdraw(&first);
    assert_eq!(case.barrier.arrived(), 1, "that was not of this generation");
    case.ends(Gate::Open, &[]);
    assert_eq!(case.barrier.gate(&second), None);
    assert!(case.arrive_and_wait(4).leader());
    case.ends(Gate::Open, &[3]);
}

#[test]
fn when_it_breaks_those_who_passed_have_passed() {
    let mut case = Case::new(2);
    let passed = case.arrive_and_wait(1);
    case.arrive_and_wait(2);
    let waits = case.arrive_and_wait(3);
    case.barrier.break_now();
    assert_eq!(case.barrier.gate(&passed), Some(Gate::Open));
    assert_eq!(case.barrier.gate(&waits), Some(Gate::Broken));
    let woken = |id, gate| Woken {
        id,
        end: End::Gate(gate),
    };
    let expected = [woken(1, Gate::Open), woken(3, Gate::Broken)];
    assert_eq!(case.settle(), expected);
}

#[test]
fn no_more_join_than_there_are_parties() {
    let mut case = Case::new(3);
    assert!(case.barrier.join(2));
    assert!(!case.barrier.join(2));
    assert!(!case.barrier.join(u64::MAX));
    assert!(case.barrier.join(1));
    case.barrier.part(2);
    assert!(case.barrier.join(2));
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Arrives, and waits or not.
    Arrive(bool),
    /// Waits for an arrival that did not.
    Collect(usize),
    Leave(usize),
    Withdraw(usize),
    Break,
}

/// Somebody who has arrived and has not heard yet how that ended.
#[derive(Clone, Copy)]
struct Party {
    id: usize,
    arrival: Arrival,
    /// Whether its generation is complete.
    passed: bool,
    waits: bool,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => any::<bool>().prop_map(Op::Arrive),
        6 => (0..8_usize).prop_map(Op::Collect),
        8 => (0..8_usize).prop_map(Op::Leave),
        4 => (0..8_usize).prop_map(Op::Withdraw),
        1 => Just(Op::Break),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn barrier_does_as_the_model(
        parties in 1..=5_u64,
        ops in prop::collection::vec((op(), prop::bool::weighted(0.7)), 1..100),
    ) {
        let mut case = Case::new(parties);
        let mut there: Vec<Party> = Vec::new();
        let mut queue: Vec<usize> = Vec::new();
        let mut broken = false;
        for (id, (op, settle)) in ops.into_iter().enumerate() {
            let at = |which, waits| {
                let those = there.iter().enumerate().filter(|(_, party)| party.waits == waits);
                let those: Vec<_> = those.map(|(at, _)| at).collect();
                pick(&those, which).copied()
            };
            match op {
                Op::Arrive(waits) => {
                    if broken {
                        continue;
                    }
                    let arrival = case.barrier.arrive();
                    let current = there.iter().filter(|party| !party.passed).count() as u64;
                    prop_assert_eq!(arrival.leader(), current + 1 == parties);
                    if arrival.leader() {
                        there.iter_mut().for_each(|party| party.passed = true);
                    } else {
                        there.push(Party { id, arrival, passed: false, waits });
                        if waits {
                            case.wait(id);
                            queue.push(id);
                        }
                    }
                }
                Op::Collect(which) => {
                    let Some(at) = at(which, false) else { continue };
                    let party = there[at];
                    let gate = case.barrier.gate(&party.arrival);
                    let expected = match (party.passed, broken) {
                        (true, _) => Some(Gate::Open),
                        (_, true) => Some(Gate::Broken),
                        _ => None,
                    };
                    prop_assert_eq!(gate, expected);
                    if gate.is_none() {
                        case.wait(party.id);
                        queue.push(party.id);
                        there[at].waits = true;
                    } else if party.passed {
                        there.remove(at);
                    }
                }
                Op::Leave(which) => {
                    let Some(at) = at(which, true) else { continue };
                    let party = there[at];
                    let gate = case.leave(party.id, &party.arrival);
                    queue.retain(|waiting| *waiting != party.id);
                    prop_assert_eq!(gate == Some(Gate::Open), party.passed);
                    prop_assert_eq!(gate.is_none(), !party.passed && !broken);
                    case.barrier.withdraw(&party.arrival);
                    there.remove(at);
                }
                Op::Withdraw(which) => {
                    let Some(at) = at(which, false) else { continue };
                    case.barrier.withdraw(&there[at].arrival);
                    there.remove(at);
                }
                Op::Break => {
                    case.barrier.break_now();
                    broken = true;
                }
            }
            let current = there.iter().filter(|party| !party.passed && !broken).count() as u64;
            prop_assert_eq!(case.barrier.arrived(), current);
            let waiting = there.iter().filter(|party| party.waits && !party.passed).count();
            prop_assert_eq!(case.barrier.waiting(), waiting);
            if settle {
                let mut expected = Vec::new();
                for id in std::mem::take(&mut queue) {
                    let at = there.iter().position(|party| party.id == id);
                    let at = at.expect("it waits");
                    let gate = match (there[at].passed, broken) {
                        (true, _) => Gate::Open,
                        (_, true) => Gate::Broken,
                        _ => {
                            queue.push(id);
                            continue;
                        }
                    };
                    expected.push(Woken { id, end: End::Gate(gate) });
                    there.remove(at);
                }
                prop_assert_eq!(case.settle(), expected);
            }
        }
    }
}
