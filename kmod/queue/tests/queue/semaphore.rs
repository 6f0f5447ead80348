// SPDX-License-Identifier: GPL-2.0
//! The semaphore in single cases, and under random operations beside a plain model.

use crate::task::{config, pick, End, Task, TaskPtr, Woken};
use postbox_queue::Semaphore;
use proptest::prelude::*;
use std::{collections::VecDeque, rc::Rc};

struct Case {
    semaphore: Semaphore<TaskPtr>,
    /// Kept to the end: what waits points to them.
    tasks: Vec<Rc<Task>>,
}

impl Case {
    fn new(value: u64, maximum: u64) -> Self {
        Self {
            semaphore: Semaphore::new(value, maximum),
            tasks: Vec::new(),
        }
    }

    fn wait(&mut self, id: usize, wants: u64) {
        let task = Task::new(id, wants);
        self.tasks.push(task.clone());
        // SAFETY: It stays in `tasks`.
        unsafe { self.semaphore.wait(TaskPtr::new(&task)) };
    }

    fn leave(&mut self, id: usize) {
        let task = self.tasks.iter().find(|task| task.id == id);
        let task = task.expect("it waits");
        assert_eq!(task.end.get(), None);
        // SAFETY: It waits, and was not finished.
        unsafe { self.semaphore.leave(TaskPtr::new(task).pointer()) };
    }

    fn settle(&mut self) -> Vec<Woken> {
        let settled = self.semaphore.settled();
        let woken: Vec<_> = std::iter::from_fn(|| self.semaphore.grant()).collect();
        assert_eq!(settled, woken.is_empty());
        assert!(self.semaphore.settled());
        woken
    }

    #[track_caller]
    fn grants(&mut self, ids: &[usize]) {
        let woken: Vec<_> = self.settle().iter().map(|woken| woken.id).collect();
        assert_eq!(woken, ids);
    }
}

#[test]
fn a_large_request_holds_back_those_behind_it() {
    let mut case = Case::new(2, 10);
    assert_eq!(case.semaphore.take(3), None);
    case.wait(1, 3);
    case.wait(2, 1);
    case.grants(&[]);
    assert!(!case.semaphore.available(), "somebody waits");
    assert_eq!(case.semaphore.take(1), None, "nobody overtakes");
    assert!(case.semaphore.release(1));
    case.grants(&[1]);
    assert!(case.semaphore.release(4));
    case.grants(&[2]);
    assert_eq!(case.semaphore.value(), 3);
    assert!(case.semaphore.available());
}

#[test]
fn who_leaves_lets_those_behind_it_go() {
    let mut case = Case::new(2, 10);
    case.wait(1, 3);
    case.wait(2, 1);
    case.wait(3, 1);
    case.wait(4, 1);
    case.leave(1);
    case.grants(&[2, 3]);
    case.leave(4);
    assert_eq!((case.semaphore.value(), case.semaphore.waiting()), (0, 0));
}

#[test]
fn the_maximum_holds_and_a_failed_release_changes_nothing() {
    let mut case = Case::new(1, 3);
    assert!(!case.semaphore.release(3));
    assert!(!case.semaphore.release(u64::MAX));
    assert_eq!(case.semaphore.value(), 1);
    assert!(case.semaphore.has_room());
    assert!(case.semaphore.release(2));
    assert!(!case.semaphore.has_room());
    assert!(!case.semaphore.release(1));
    let mut most = Case::new(u64::MAX, u64::MAX);
    assert!(!most.semaphore.release(1));
    assert_eq!(most.semaphore.take(u64::MAX), Some(0));
    assert!(most.semaphore.release(u64::MAX));
}

#[test]
fn what_a_dead_process_had_is_told_to_who_gets_it() {
    let mut case = Case::new(3, 3);
    assert_eq!(case.semaphore.take(3), Some(0));
    case.wait(1, 1);
    case.semaphore.give_back(2, 2);
    let told = Woken {
        id: 1,
        end: End::Granted(1),
    };
    assert_eq!(case.settle(), [told]);
    assert!(case.semaphore.release(1));
    assert_eq!(case.semaphore.take(2), Some(1), "the other one");
    // As a task does that was granted something and cannot have it.
    case.semaphore.give_back(2, 1);
    assert_eq!(case.semaphore.take(2), Some(1));
    assert!(case.semaphore.release(2));
    assert_eq!(case.semaphore.take(2), Some(0), "told once");
}

#[test]
fn what_comes_back_beyond_the_maximum_is_told_all_the_same() {
    let mut case = Case::new(1, 1);
    assert_eq!(case.semaphore.take(1), Some(0));
    assert!(case.semaphore.release(1), "by somebody who had none");
    case.semaphore.give_back(1, 1);
    assert_eq!(case.semaphore.value(), 1);
    assert_eq!(case.semaphore.take(1), Some(1));
    case.semaphore.give_back(u64::MAX, u64::MAX);
    assert_eq!(case.semaphore.take(1), Some(1));
}

// The model: units are things, some of which somebody has.

#[derive(Clone, Copy, Debug)]
enum Op {
    Take(u64),
    Wait(u64),
    Leave(usize),
    Release(u64),
    Dies(usize),
}

#[derive(Default)]
struct Model {
    maximum: usize,
    /// Whether each unit that is there was a dead process's; those first.
    there: VecDeque<bool>,
    waiting: VecDeque<(usize, u64)>,
    /// What was taken and not released, with its taker as far as it matters: who dies gives one
    /// element back.
    held: Vec<u64>,
}

impl Model {
    fn get(&mut self, count: u64) -> u64 {
        let units = self.there.drain(..count as usize);
        let orphans = units.filter(|orphan| *orphan).count() as u64;
        self.held.push(count);
        orphans
    }

    fn take(&mut self, count: u64) -> Option<u64> {
        let can = self.waiting.is_empty() && count <= self.there.len() as u64;
        can.then(|| self.get(count))
    }

    fn release(&mut self, count: u64) -> bool {
        if self.there.len() as u64 + count > self.maximum as u64 {
            return false;
        }
        self.there.extend((0..count).map(|_| false));
        true
    }

    fn settle(&mut self) -> Vec<Woken> {
        let mut woken = Vec::new();
        while let Some(&(id, wants)) = self.waiting.front() {
            if wants > self.there.len() as u64 {
                break;
            }
            self.waiting.pop_front();
            let end = End::Granted(self.get(wants));
            woken.push(Woken { id, end });
        }
        woken
    }
}

fn op() -> impl Strategy<Value = Op> {
    let count = || prop_oneof![4 => Just(1_u64), 2 => 2..=4_u64, 1 => 5..=9_u64];
    prop_oneof![
        4 => count().prop_map(Op::Take),
        4 => count().prop_map(Op::Wait),
        2 => (0..8_usize).prop_map(Op::Leave),
        5 => count().prop_map(Op::Release),
        2 => (0..8_usize).prop_map(Op::Dies),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn semaphore_does_as_the_model(
        (maximum, value) in (1..=8_u64).prop_flat_map(|maximum| (Just(maximum), 0..=maximum)),
        ops in prop::collection::vec((op(), prop::bool::weighted(0.8)), 1..100),
    ) {
        let mut case = Case::new(value, maximum);
        let mut model = Model {
            maximum: maximum as usize,
            there: (0..value).map(|_| false).collect(),
            ..Model::default()
        };
        for (id, (op, settle)) in ops.into_iter().enumerate() {
            match op {
                Op::Take(count) => {
                    prop_assert_eq!(case.semaphore.take(count), model.take(count));
                }
                Op::Wait(wants) => {
                    // As the module: it waits for what it could not take.
                    let taken = case.semaphore.take(wants);
                    prop_assert_eq!(taken, model.take(wants));
                    if taken.is_none() {
                        case.wait(id, wants);
                        model.waiting.push_back((id, wants));
                    }
                }
                Op::Leave(which) => {
                    let ids: Vec<_> = model.waiting.iter().map(|(id, _)| *id).collect();
                    if let Some(&id) = pick(&ids, which) {
                        case.leave(id);
                        model.waiting.retain(|(waiting, _)| *waiting != id);
                    }
                }
                Op::Release(count) => {
                    prop_assert_eq!(case.semaphore.release(count), model.release(count));
                }
                Op::Dies(which) => {
                    if !model.held.is_empty() {
                        let count = model.held.swap_remove(which % model.held.len());
                        case.semaphore.give_back(count, count);
                        // Orphans come first. Where there is no room, units that were there
                        // become orphans.
                        let there = (model.there.len() + count as usize).min(model.maximum);
                        let orphans = model.there.iter().filter(|orphan| **orphan).count();
                        let orphans = (orphans + count as usize).min(there);
                        model.there = (0..there).map(|unit| unit < orphans).collect();
                    }
                }
            }
            if settle {
                prop_assert_eq!(case.settle(), model.settle());
                if let Some((_, wants)) = model.waiting.front() {
                    prop_assert!(*wants > case.semaphore.value(), "it waits for what is there");
                }
            }
            let semaphore = &case.semaphore;
            prop_assert_eq!(semaphore.value(), model.there.len() as u64);
            prop_assert!(semaphore.value() <= semaphore.maximum());
            prop_assert_eq!(semaphore.waiting(), model.waiting.len());
            let available = model.waiting.is_empty() && !model.there.is_empty();
            prop_assert_eq!(semaphore.available(), available);
            prop_assert_eq!(semaphore.has_room(), model.there.len() < model.maximum);
        }
    }
}
