// SPDX-License-Identifier: GPL-2.0
//! Tasks that wait for words of a segment, each for one.
//!
//! They are on a list in the order in which they came, and in a tree by word and arrival: who waits
//! for a word is found without looking at those that wait for others.

use super::{
    indexed::Indexed,
    list::Owner,
    receivers::Seat,
    tree::{Branches, Index},
};
use core::{marker::PhantomData, ptr::NonNull};

/// A task that waits for a word.
pub trait WordWaiter: Owner {
    /// The offset of the word. It stays the same while the task waits.
    fn word(waiter: &Self::Target) -> u64;

    /// Its place. The list has the links.
    fn seat(waiter: &Self::Target) -> &Seat<Self::Target>;
}

/// By word and arrival.
struct ByWord<W>(PhantomData<W>);

impl<W: WordWaiter> Index for ByWord<W> {
    type Element = W::Target;
    type Key = (u64, i64);

    fn branches<'a>(element: &'a W::Target) -> &'a Branches<W::Target>
    where
        Self: 'a,
    {
        &W::seat(element).member
    }

    fn key(element: &W::Target) -> Self::Key {
        (W::word(element), W::seat(element).arrival.get())
    }
}

/// Those who wait.
pub struct Words<W: WordWaiter> {
    waiting: Indexed<W, ByWord<W>>,
    latest: i64,
}

impl<W: WordWaiter> Words<W> {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self {
            waiting: Indexed::new(),
            latest: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds one behind those that wait.
    ///
    /// # Safety
    ///
    /// It stays valid until it was taken out.
    pub unsafe fn add(&mut self, waiter: W) {
        let raw = waiter.into_raw();
        self.latest += 1;
        // SAFETY: The caller guarantees that the waiter is valid, and it waits for one word at a time; its
        // key is set before it is added.
        unsafe {
            W::seat(raw.as_ref()).arrival.set(self.latest);
            self.waiting.push_back(W::from_raw(raw));
        }
    }

    /// Takes one out.
    ///
    /// # Safety
    ///
    /// It waits here.
    pub unsafe fn remove(&mut self, at: NonNull<W::Target>) -> W {
        // SAFETY: The caller guarantees that it waits here.
        unsafe { self.waiting.remove(at) }
    }

    /// Takes out who waits longest.
    pub fn pop(&mut self) -> Option<W> {
        self.waiting.pop_front()
    }

    /// Takes out who waits longest for a word.
    pub fn pop_of(&mut self, word: u64) -> Option<W> {
        let first = self.waiting.from((word, i64::MIN))?;
        // SAFETY: It is in the tree, and so valid; and then it waits here.
        unsafe { (W::word(first.as_ref()) == word).then(|| self.remove(first)) }
    }
}

impl<W: WordWaiter> Default for Words<W> {
    fn default() -> Self {
        Self::new()
    }
}
