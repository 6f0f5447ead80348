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
    case.latch.break_now();
    case.ends(Gate::Broken, &[1]);
    assert_eq!(case.latch.gate(), Some(Gate::Broken));
    assert!(case.latch.count_down(1));
    assert_eq!(case.latch.gate(), Some(Gate::Open));
    case.latch.break_now();
    assert_eq!(case.latch.gate(), Some(Gate::Open));
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Wait,
    Leave(usize),
    CountDown(u64),
    Break,
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
                    1 => Just(Op::Break),
                ],
                prop::bool::weighted(0.8),
            ),
            1..40,
        ),
    ) {
        let mut case = Case::new(count);
        let (mut left, mut broken) = (i128::from(count), false);
        let mut waiting = VecDeque::new();
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
                Op::Break => {
                    case.latch.break_now();
                    broken = true;
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
