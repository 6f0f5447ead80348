// SPDX-License-Identifier: GPL-2.0
//! The order of messages and the list below it, at each edge.
//!
//! A rendezvous mailbox shows all of it: `take` removes the first message, `withdraw` any, and
//! `put_back` inserts in the middle.

use crate::host::{Drops, Letter, Post, Receiver, ReceiverPtr, Sender, SenderPtr};
use postbox_queue::{Capacity, List, Mailbox, Returned, Sending, Take, Withdrawn};
use proptest::{prelude::*, test_runner::Config};
use std::{cmp::Reverse, collections::BTreeMap, ptr::NonNull, rc::Rc};

struct Queue {
    mailbox: Mailbox<Post, ReceiverPtr>,
    senders: BTreeMap<usize, (Rc<Sender>, NonNull<Letter>)>,
    drops: Drops,
}

impl Queue {
    fn new() -> Self {
        let capacity = Capacity {
            messages: 0,
            bytes: u64::MAX,
        };
        Self {
            mailbox: Mailbox::new(capacity, false),
            senders: BTreeMap::new(),
            drops: Drops::default(),
        }
    }

    /// A queue of messages of these priorities, with the numbers 0, 1, 2...
    fn of(priorities: &[u16]) -> Self {
        let mut queue = Self::new();
        for (id, &priority) in priorities.iter().enumerate() {
            queue.send(id, priority);
        }
        queue
    }

    fn send(&mut self, id: usize, priority: u16) {
        let message = Post::from_origin(id, priority, 1, origin(id), &self.drops);
        let sender = Sender::new(id);
        let pointer = SenderPtr::new(&sender);
        self.senders.insert(id, (sender, message.pointer()));
        // SAFETY: The sender stays in `senders`, and nothing finishes it.
        let sending = unsafe { self.mailbox.send(message, Some(pointer)) };
        assert!(matches!(sending, Sending::Waits(None)), "{sending:?}");
    }

    fn take(&mut self) -> Option<Post> {
        match self.mailbox.take(u64::MAX) {
            Take::Message(message) => Some(message),
            Take::Empty => None,
            other => panic!("{other:?}"),
        }
    }

    /// Takes the first message of an origin.
    fn take_from(&mut self, origin: u64) -> Option<Post> {
        loop {
            match self.mailbox.take_from(origin, u64::MAX) {
                Take::Message(message) => return Some(message),
                Take::Empty => return None,
                Take::More => {}
                other => panic!("{other:?}"),
            }
        }
    }

    #[track_caller]
    fn take_all<const N: usize>(&mut self, ids: [usize; N]) -> [Post; N] {
        ids.map(|id| {
            let message = self.take().expect("a message");
            assert_eq!(message.id(), id);
            message
        })
    }

    fn put_back(&mut self, message: Post) {
        let returned = self.mailbox.put_back(message);
        assert!(matches!(returned, Returned::Queued), "{returned:?}");
    }

    /// Takes a message out of the middle.
    #[track_caller]
    fn remove(&mut self, id: usize) {
        let message = self.senders[&id].1;
        // SAFETY: It is in the queue, and its sender waits.
        let Withdrawn::Message(message) = (unsafe { self.mailbox.withdraw(message) }) else {
            panic!("it is queued");
        };
        assert_eq!(message.id(), id);
    }

    /// Whether these, and no others, come in this order.
    #[track_caller]
    fn is(mut self, ids: &[usize]) {
        assert_eq!(self.mailbox.queued(), (ids.len() as u64, ids.len() as u64));
        let mut seen = Vec::new();
        while let Some(message) = self.take() {
            seen.push(message.id());
        }
        assert_eq!(seen, ids);
        assert!(!self.mailbox.readable());
    }
}

/// Who sends the messages.
fn origin(id: usize) -> u64 {
    id as u64 % 3 + 1
}

#[test]
fn nothing() {
    Queue::new().is(&[]);
}

#[test]
fn one() {
    Queue::of(&[5]).is(&[0]);
}

#[test]
fn one_priority_is_first_in_first_out() {
    Queue::of(&[3, 3, 3, 3]).is(&[0, 1, 2, 3]);
}

#[test]
fn priorities_fall() {
    Queue::of(&[3, 2, 1, 0]).is(&[0, 1, 2, 3]);
}

#[test]
fn priorities_rise() {
    Queue::of(&[0, 1, 2, 32767]).is(&[3, 2, 1, 0]);
}

#[test]
fn priorities_between_others() {
    Queue::of(&[0, 4, 2, 1, 3]).is(&[1, 4, 2, 3, 0]);
}

#[test]
fn priorities_interleaved() {
    Queue::of(&[1, 2, 1, 0, 2, 0, 1]).is(&[1, 4, 0, 2, 6, 3, 5]);
}

#[test]
fn put_back_is_first_again() {
    let mut queue = Queue::of(&[1, 1, 0]);
    let [first] = queue.take_all([0]);
    queue.put_back(first);
    queue.is(&[0, 1, 2]);
}

#[test]
fn put_back_in_the_middle_of_its_priority() {
    let mut queue = Queue::of(&[1, 1, 1, 1]);
    let [a, b, c] = queue.take_all([0, 1, 2]);
    queue.put_back(c);
    queue.put_back(a);
    queue.put_back(b);
    queue.is(&[0, 1, 2, 3]);
}

#[test]
fn put_back_behind_all_of_its_priority() {
    let mut queue = Queue::of(&[1, 1, 0]);
    let [a, b] = queue.take_all([0, 1]);
    queue.put_back(a);
    queue.put_back(b);
    queue.send(3, 1);
    queue.is(&[0, 1, 3, 2]);
}

#[test]
fn put_back_below_a_priority_that_came_since() {
    let mut queue = Queue::of(&[1, 1, 1]);
    let [a, b] = queue.take_all([0, 1]);
    queue.send(3, 2);
    queue.send(4, 0);
    queue.put_back(b);
    queue.put_back(a);
    queue.is(&[3, 0, 1, 2, 4]);
}

#[test]
fn put_back_alone_of_its_priority() {
    let mut queue = Queue::of(&[2, 1, 0]);
    let [a, b] = queue.take_all([0, 1]);
    queue.put_back(b);
    queue.put_back(a);
    queue.is(&[0, 1, 2]);
}

#[test]
fn put_back_into_an_empty_queue() {
    let mut queue = Queue::of(&[2, 1]);
    let [a, b] = queue.take_all([0, 1]);
    queue.put_back(b);
    queue.put_back(a);
    queue.is(&[0, 1]);
}

#[test]
fn remove_the_only_one() {
    let mut queue = Queue::of(&[1]);
    queue.remove(0);
    queue.send(1, 1);
    queue.is(&[1]);
}

/// Removes each message of a queue of three priorities, then adds one to each priority, so that a
/// wrong link between the levels would be followed.
#[test]
fn remove_any_then_insert() {
    for removed in 0..9 {
        let priorities = [2, 1, 0, 2, 1, 0, 2, 1, 0];
        let mut queue = Queue::of(&priorities);
        queue.remove(removed);
        let mut expected: Vec<(Reverse<u16>, usize)> = (0..9)
            .filter(|&id| id != removed)
            .map(|id| (Reverse(priorities[id]), id))
            .collect();
        for (id, priority) in (9..).zip([1, 0, 2, 3]) {
            queue.send(id, priority);
            expected.push((Reverse(priority), id));
        }
        expected.sort();
        queue.is(&expected.iter().map(|&(_, id)| id).collect::<Vec<_>>());
    }
}

#[test]
fn remove_the_highest_level() {
    let mut queue = Queue::of(&[2, 1, 0]);
    queue.remove(0);
    queue.send(3, 1);
    queue.send(4, 2);
    queue.is(&[4, 1, 3, 2]);
}

#[test]
fn remove_a_level_in_the_middle() {
    let mut queue = Queue::of(&[2, 1, 1, 0]);
    queue.remove(2);
    queue.remove(1);
    queue.send(4, 2);
    queue.send(5, 0);
    queue.send(6, 1);
    queue.is(&[0, 4, 6, 3, 5]);
}

#[test]
fn remove_the_lowest_level() {
    let mut queue = Queue::of(&[2, 1, 0]);
    queue.remove(2);
    queue.send(3, 1);
    queue.send(4, 0);
    queue.is(&[0, 1, 3, 4]);
}

#[test]
fn what_is_dropped_frees_its_messages() {
    let queue = Queue::of(&[1, 0, 1]);
    let drops = queue.drops.clone();
    drop(queue);
    assert_eq!([0, 1, 2].map(|id| drops.of(id)), [1, 1, 1]);
}

/// The list, of receivers.
struct Waiters {
    list: List<ReceiverPtr>,
    all: Vec<Rc<Receiver>>,
}

impl Waiters {
    fn of(count: usize) -> Self {
        let all: Vec<_> = (0..count).map(Receiver::new).collect();
        let mut list = List::new();
        for receiver in &all {
            list.push_back(ReceiverPtr::new(receiver));
        }
        Self { list, all }
    }

    fn remove(&mut self, id: usize) {
        let raw = ReceiverPtr::new(&self.all[id]).pointer();
        // SAFETY: It is on the list.
        assert!(unsafe { self.list.remove(raw) }.pointer() == raw);
    }

    #[track_caller]
    fn is(mut self, ids: &[usize]) {
        assert_eq!(self.list.len(), ids.len());
        assert_eq!(self.list.is_empty(), ids.is_empty());
        assert_eq!(self.list.front().map(|r| r.id), ids.first().copied());
        let mut seen = Vec::new();
        self.list.remove_first(|receiver| {
            seen.push(receiver.id);
            false
        });
        assert_eq!(seen, ids);
        for &id in ids {
            let raw = ReceiverPtr::new(&self.all[id]).pointer();
            assert!(self.list.pop_front().expect("one").pointer() == raw);
        }
        assert!(self.list.pop_front().is_none());
        assert!(self.list.is_empty());
    }
}

#[test]
fn list_of_none_and_one() {
    Waiters::of(0).is(&[]);
    Waiters::of(1).is(&[0]);
}

#[test]
fn list_remove_first_middle_last_only() {
    for (removed, left) in [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])] {
        let mut waiters = Waiters::of(3);
        waiters.remove(removed);
        waiters.is(&left);
    }
    let mut waiters = Waiters::of(1);
    waiters.remove(0);
    waiters.is(&[]);
}

#[test]
fn list_element_comes_again_at_either_end() {
    let mut waiters = Waiters::of(3);
    waiters.remove(1);
    waiters.list.push_front(ReceiverPtr::new(&waiters.all[1]));
    waiters.remove(0);
    waiters.list.push_back(ReceiverPtr::new(&waiters.all[0]));
    waiters.is(&[1, 2, 0]);
}

#[test]
fn list_push_front_of_an_empty_one() {
    let mut waiters = Waiters::of(1);
    waiters.remove(0);
    waiters.list.push_front(ReceiverPtr::new(&waiters.all[0]));
    waiters.is(&[0]);
}

#[test]
fn list_remove_first_that_is_wanted() {
    let mut waiters = Waiters::of(3);
    let found = waiters.list.remove_first(|receiver| receiver.id > 0);
    assert!(found.expect("one").pointer() == ReceiverPtr::new(&waiters.all[1]).pointer());
    assert!(waiters.list.remove_first(|r| r.id == 1).is_none());
    waiters.is(&[0, 2]);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Send(u16),
    Take,
    TakeFrom(u64),
    PutBack(usize),
    Remove(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6_u16).prop_map(Op::Send),
        3 => Just(Op::Take),
        1 => (1..4_u64).prop_map(Op::TakeFrom),
        3 => any::<usize>().prop_map(Op::PutBack),
        1 => any::<usize>().prop_map(Op::Remove),
    ]
}

proptest! {
    #![proptest_config(Config {
        cases: if cfg!(miri) { 8 } else { 256 },
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn order_is_that_of_a_sorted_vector(
        // So long that there are trees, or not.
        fill in prop_oneof![Just(0), 1..300_usize],
        priorities in 1..40_u16,
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut queue = Queue::new();
        let mut sorted: Vec<(Reverse<u16>, usize)> = Vec::new();
        let mut held = Vec::new();
        for id in 0..fill {
            let priority = (id * 7919) as u16 % priorities;
            queue.send(id, priority);
            sorted.push((Reverse(priority), id));
        }
        sorted.sort();
        for (id, op) in (fill..).zip(ops) {
            match op {
                Op::Send(priority) => {
                    queue.send(id, priority);
                    sorted.push((Reverse(priority), id));
                }
                Op::Take => match queue.take() {
                    Some(message) => {
                        let key = sorted.remove(0);
                        prop_assert_eq!(message.id(), key.1);
                        held.push((key, message));
                    }
                    None => prop_assert!(sorted.is_empty()),
                },
                Op::TakeFrom(from) => {
                    let at = sorted.iter().position(|&(_, id)| origin(id) == from);
                    let taken = queue.take_from(from);
                    prop_assert_eq!(taken.as_ref().map(Post::id), at.map(|at| sorted[at].1));
                    if let (Some(at), Some(message)) = (at, taken) {
                        held.push((sorted.remove(at), message));
                    }
                }
                Op::PutBack(which) => if let Some(at) = which.checked_rem(held.len()) {
                    let (key, message) = held.swap_remove(at);
                    queue.put_back(message);
                    sorted.push(key);
                },
                Op::Remove(which) => if let Some(at) = which.checked_rem(sorted.len()) {
                    let (_, id) = sorted.remove(at);
                    queue.remove(id);
                },
            }
            sorted.sort();
            prop_assert_eq!(queue.mailbox.queued().0, sorted.len() as u64);
        }
        queue.is(&sorted.iter().map(|&(_, id)| id).collect::<Vec<_>>());
    }
}
