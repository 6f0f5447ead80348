// SPDX-License-Identifier: GPL-2.0
//! The order of messages: the higher priority first, and within one the older.
//!
//! One list holds all messages in that order. The last message of each priority also carries links
//! to the last ones of the next higher and the next lower priority that are present, so that an
//! insertion passes priorities and not messages: with one priority, the usual case, it is a push.

use super::{
    list::{List, Owner},
    mailbox::{Entry, Message, Node},
};
use core::ptr::NonNull;

type Raw<M> = NonNull<<M as Owner>::Target>;

/// Messages in the order in which they are received.
///
/// # Invariants
///
/// `list` is sorted by descending priority, then ascending sequence number. An entry is the last
/// of its priority if and only if it is on the chain that starts with the list's tail and goes
/// `up`; `down` undoes `up`. `returned` is in the list.
pub(super) struct Ordered<M: Message> {
    list: List<M>,
    /// The message that last came back to its place among others of its priority. Those of a
    /// receiver that dies come back one after the other, and each goes right behind the last.
    returned: Option<Raw<M>>,
}

// SAFETY: `returned` points to what the list owns, and only it leads there.
unsafe impl<M: Message + Send> Send for Ordered<M> {}

impl<M: Message> Ordered<M> {
    pub(super) const fn new() -> Self {
        Self {
            list: List::new(),
            returned: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn front(&self) -> Option<&M::Target> {
        self.list.front()
    }

    fn node(raw: &Raw<M>) -> &Node<M> {
        // SAFETY: Only called for elements of the list, which are valid.
        unsafe { raw.as_ref() }.node()
    }

    /// Puts a message into its place.
    #[inline(always)]
    pub(super) fn insert(&mut self, message: M) {
        // Mostly that is the end.
        let Some(tail) = self.list.tail() else {
            self.list.push_back(message);
            return;
        };
        let (node, last) = (message.entry().node(), Self::node(&tail));
        if node.priority != last.priority || node.sequence.get() < last.sequence.get() {
            return self.insert_within(message);
        }
        let up = last.up.take();
        let new = self.list.push_back(message);
        if up.is_some() {
            self.set_level(new, up, None);
        }
    }

    #[inline(never)]
    fn insert_within(&mut self, message: M) {
        let (priority, sequence) = {
            let node = message.entry().node();
            (node.priority, node.sequence.get())
        };
        // The last entries of the nearest levels at or above, and below, the priority.
        let (mut level, mut below) = (self.list.tail(), None);
        while let Some(last) = level {
            if Self::node(&last).priority >= priority {
                break;
            }
            below = level;
            level = Self::node(&last).up.get();
        }
        let same = level.filter(|last| Self::node(last).priority == priority);
        let Some(last) = same else {
            // SAFETY: `level` is an element or `None`.
            let new = unsafe { self.list.insert_after(level, message) };
            return self.set_level(new, level, below);
        };
        // Newer than all of its priority, unless it was in the queue before.
        if Self::node(&last).sequence.get() < sequence {
            // SAFETY: `last` is an element.
            let new = unsafe { self.list.insert_after(Some(last), message) };
            let up = Self::node(&last).up.take();
            Self::node(&last).down.set(None);
            return self.set_level(new, up, below);
        }
        // Only messages that were taken before can be in front of it.
        let near = self
            .returned
            .filter(|near| Self::node(near).priority == priority);
        let mut after = near.or(Self::node(&last).up.get());
        while let Some(at) = after.filter(|at| {
            let node = Self::node(at);
            node.priority == priority && node.sequence.get() > sequence
        }) {
            // SAFETY: `at` is an element.
            after = unsafe { self.list.prev(at) };
        }
        loop {
            let next = match after {
                // SAFETY: `at` is an element.
                Some(at) => unsafe { self.list.next(at) },
                None => self.list.head(),
            };
            match next.filter(|next| Self::node(next).sequence.get() < sequence) {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // SAFETY: `after` is an element or `None`.
        let new = unsafe { self.list.insert_after(after, message) };
        self.returned = Some(new);
    }

    /// Makes `last` the last of a level between the levels whose last ones are `up` and `down`.
    fn set_level(&mut self, last: Raw<M>, up: Option<Raw<M>>, down: Option<Raw<M>>) {
        Self::node(&last).up.set(up);
        Self::node(&last).down.set(down);
        if let Some(up) = up {
            Self::node(&up).down.set(Some(last));
        }
        if let Some(down) = down {
            Self::node(&down).up.set(Some(last));
        }
    }

    /// The first message for which `wanted` says so.
    pub(super) fn find(&self, wanted: impl Fn(&Node<M>) -> bool) -> Option<Raw<M>> {
        let mut at = self.list.head();
        while let Some(raw) = at.filter(|raw| !wanted(Self::node(raw))) {
            // SAFETY: `raw` is an element.
            at = unsafe { self.list.next(raw) };
        }
        at
    }

    /// Takes the first message out.
    #[inline(always)]
    pub(super) fn pop_front(&mut self) -> Option<M> {
        let head = self.list.head()?;
        // The last of its priority is on a chain with those of the others, if there are others.
        let single = self.list.tail() == Some(head);
        // SAFETY: `head` is an element.
        let next = unsafe { self.list.next(head) };
        let same =
            next.is_some_and(|next| Self::node(&next).priority == Self::node(&head).priority);
        if (single || same) && self.returned.is_none() {
            return self.list.pop_front();
        }
        // SAFETY: `head` is an element.
        Some(unsafe { self.remove(head) })
    }

    /// Takes `at` out.
    ///
    /// # Safety
    ///
    /// `at` is in this queue.
    pub(super) unsafe fn remove(&mut self, at: Raw<M>) -> M {
        let priority = Self::node(&at).priority;
        // SAFETY: `at` is an element.
        let (prev, next) = unsafe { (self.list.prev(at), self.list.next(at)) };
        if next.is_none_or(|next| Self::node(&next).priority != priority) {
            let (up, down) = (Self::node(&at).up.take(), Self::node(&at).down.take());
            match prev.filter(|prev| Self::node(prev).priority == priority) {
                Some(prev) => self.set_level(prev, up, down),
                None => {
                    if let Some(up) = up {
                        Self::node(&up).down.set(down);
                    }
                    if let Some(down) = down {
                        Self::node(&down).up.set(up);
                    }
                }
            }
        }
        if self.returned == Some(at) {
            self.returned = None;
        }
        // SAFETY: `at` is an element.
        unsafe { self.list.remove(at) }
    }
}
