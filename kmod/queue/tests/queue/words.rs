// SPDX-License-Identifier: GPL-2.0
//! Those who wait for words, against a list of them.

use crate::task::{Task, TaskPtr};
use postbox_queue::Words;
use proptest::prelude::*;
use std::{ptr::NonNull, rc::Rc};

fn pointer(task: &Rc<Task>) -> NonNull<Task> {
    TaskPtr::new(task).pointer()
}

/// The word and who waits for it, in the order in which they came.
fn take(model: &mut Vec<Rc<Task>>, wanted: impl Fn(&Task) -> bool) -> Option<Rc<Task>> {
    let at = model.iter().position(|task| wanted(task))?;
    Some(model.remove(at))
}

proptest! {
    #![proptest_config(crate::task::config())]

    #[test]
    fn the_first_of_each_word_is_woken_first(
        steps in prop::collection::vec((0..6u8, 0..4u64, any::<prop::sample::Index>()), 0..200),
    ) {
        let (mut model, mut words) = (Vec::new(), Words::new());
        for (id, (step, word, which)) in steps.into_iter().enumerate() {
            let (found, expected) = match step {
                0..3 => {
                    let task = Task::new(id, word);
                    // SAFETY: The model keeps it until it was taken out.
                    unsafe { words.add(TaskPtr::new(&task)) };
                    model.push(task);
                    continue;
                }
                3 => (words.pop(), take(&mut model, |_| true)),
                4 => (words.pop_of(word), take(&mut model, |task| task.wants == word)),
                _ if model.is_empty() => continue,
                _ => {
                    let task = model.remove(which.index(model.len()));
                    // SAFETY: It waits.
                    (Some(unsafe { words.remove(pointer(&task)) }), Some(task))
                }
            };
            let found = found.map(|task| task.pointer());
            prop_assert_eq!(found, expected.as_ref().map(pointer));
            prop_assert_eq!(words.len(), model.len());
            prop_assert_eq!(words.is_empty(), model.is_empty());
        }
    }
}

#[test]
fn nobody_waits_for_a_word_that_only_its_neighbours_have() {
    let mut words = Words::new();
    let tasks = [Task::new(0, 8), Task::new(1, 24)];
    for task in &tasks {
        // SAFETY: It is kept until the end.
        unsafe { words.add(TaskPtr::new(task)) };
    }
    for word in [0, 16, 32] {
        assert!(words.pop_of(word).is_none());
    }
    assert_eq!(
        words.pop_of(24).map(|task| task.pointer()),
        Some(pointer(&tasks[1]))
    );
    assert_eq!(
        words.pop().map(|task| task.pointer()),
        Some(pointer(&tasks[0]))
    );
    assert!(words.pop().is_none());
}
