// SPDX-License-Identifier: GPL-2.0
//! The latch in single cases, and under random operations.

use crate::task::{config, pick, End, Task, TaskPtr, Woken};
use postbox_queue::{Gate, Latch};
use proptest::prelude::*;
use std::{collections::VecDeque, rc::Rc};

struct Case {
    latch: Latch<TaskPtr>,
    /// Kept to the end: what waits points to them.
    tasks: Vec<Rc<Task>>,
}

impl Case {
    fn new(count: u64) -> Self {
        Self {
            latch: Latch::new(count),
            tasks: Vec::new(),
        }
    }

    fn wait(&mut self, id: usize) {
        let task = Task::new(id, 1);
        self.tasks.push(task.clone());
        // SAFETY: It stays in `tasks`.
        unsafe { self.latch.wait(TaskPtr::new(&task)) };
    }

    fn leave(&mut self, id: usize) {
        let task = self.tasks.iter().find(|task| task.id == id);
        let task = task.expect("it waits");
        assert_eq!(task.end.get(), None);
        // SAFETY: It waits, and was not finished.
        unsafe { self.latch.leave(TaskPtr::new(task).pointer()) };
    }

    fn settle(&mut self) -> Vec<Woken> {
        let settled = self.latch.settled();
        let woken: Vec<_> = std::iter::from_fn(|| self.latch.end_one()).collect();
        assert_eq!(settled, woken.is_empty());
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
fn it_opens_at_zero_for_all_and_for_good() {
    let mut case = Case::new(2);
    case.wait(1);
    case.wait(2);
    assert!(case.latch.count_down(1));
    assert_eq!(case.latch.gate(), None);
    case.ends(Gate::Open, &[]);
    assert!(!case.latch.count_down(2), "it would pass zero");
    assert_eq!((case.latch.count(), case.latch.first()), (1, 2));
    assert!(case.latch.count_down(1));
    case.ends(Gate::Open, &[1, 2]);
    assert_eq!(case.latch.gate(), Some(Gate::Open));
    assert!(!case.latch.count_down(1));
}

#[test]
fn a_broken_one_can_still_open() {
    let mut case = Case::new(1);
    case.wait(1);
    assert!(case.latch.promise(1));
    case.latch.broke_promise(1);
    case.ends(Gate::Broken, &[1]);
    assert_eq!(case.latch.gate(), Some(Gate::Broken));
    assert!(case.latch.count_down(1));
    assert_eq!(case.latch.gate(), Some(Gate::Open));
    assert!(!case.latch.promise(1), "nothing is left");
}

#[test]
fn no_more_is_promised_than_is_left() {
    let mut case = Case::new(3);
    assert!(case.latch.promise(2));
    assert!(!case.latch.promise(2));
    assert!(!case.latch.promise(u64::MAX));
    assert!(case.latch.promise(1));
    case.latch.kept_promise(1);
    assert!(case.latch.promise(1));
}

#[test]
fn broken_promise_that_others_can_keep_breaks_nothing() {
    let mut case = Case::new(2);
    case.wait(1);
    assert!(case.latch.promise(1) && case.latch.promise(1));
    // Somebody else has counted in the place of one of them.
    assert!(case.latch.count_down(1));
    case.latch.broke_promise(1);
    assert_eq!(case.latch.gate(), None);
    case.latch.broke_promise(1);
    case.ends(Gate::Broken, &[1]);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Wait,
    Leave(usize),
    CountDown(u64),
    Promise(u64),
    Break(usize),
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn latch_does_as_the_model(
        count in 1..=6_u64,
        ops in prop::collection::vec(
            (
                prop_oneof![
                    6 => Just(Op::Wait),
                    3 => (0..8_usize).prop_map(Op::Leave),
                    3 => prop_oneof![3 => 1..=3_u64, 1 => Just(u64::MAX)].prop_map(Op::CountDown),
                    2 => (1..=3_u64).prop_map(Op::Promise),
                    1 => (0..8_usize).prop_map(Op::Break),
                ],
                prop::bool::weighted(0.8),
            ),
            1..40,
        ),
    ) {
        let mut case = Case::new(count);
        let (mut left, mut broken) = (i128::from(count), false);
        let (mut waiting, mut promises) = (VecDeque::new(), Vec::new());
        for (id, (op, settle)) in ops.into_iter().enumerate() {
            match op {
                Op::Wait => {
                    if case.latch.gate().is_none() {
                        case.wait(id);
                        waiting.push_back(id);
                    }
                }
                Op::Leave(which) => {
                    if let Some(&id) = pick(waiting.make_contiguous(), which) {
                        case.leave(id);
                        waiting.retain(|waiting| *waiting != id);
                    }
                }
                Op::CountDown(count) => {
                    let fits = i128::from(count) <= left;
                    prop_assert_eq!(case.latch.count_down(count), fits);
                    left -= if fits { i128::from(count) } else { 0 };
                }
                Op::Promise(count) => {
                    let fits = promises.iter().sum::<u64>() + count <= left as u64;
                    prop_assert_eq!(case.latch.promise(count), fits);
                    promises.extend(fits.then_some(count));
                }
                Op::Break(which) => {
                    if !promises.is_empty() {
                        let count = promises.remove(which % promises.len());
                        case.latch.broke_promise(count);
                        broken |= left as u64 > promises.iter().sum();
                    }
                }
            }
            let gate = match (left, broken) {
                (0, _) => Some(Gate::Open),
                (_, true) => Some(Gate::Broken),
                (_, false) => None,
            };
            prop_assert_eq!(case.latch.gate(), gate);
            prop_assert_eq!(i128::from(case.latch.count()), left);
            prop_assert_eq!(case.latch.waiting(), waiting.len());
            if settle {
                let ends = gate.map(|gate| {
                    let end = End::Gate(gate);
                    waiting.drain(..).map(|id| Woken { id, end }).collect()
                });
                prop_assert_eq!(case.settle(), ends.unwrap_or(Vec::new()));
            }
        }
    }
}
