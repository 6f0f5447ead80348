// SPDX-License-Identifier: GPL-2.0
//! Tasks that wait for words of a segment, each for one.
//!
//! They are on a list in the order in which they came, and in a tree by word and arrival: who waits
//! for a word is found without looking at those that wait for others.

use super::{
    list::{List, Owner},
    receivers::Seat,
    tree::{Branches, Index, Tree},
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
///
/// # Invariants
///
/// Who is on the list is in the tree, and nobody else is.
pub struct Words<W: WordWaiter> {
    list: List<W>,
    tree: Tree<ByWord<W>>,
    latest: i64,
}

// SAFETY: The tree points to what the list owns, and only it leads there.
unsafe impl<W: WordWaiter + Send> Send for Words<W> {}

impl<W: WordWaiter> Words<W> {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self {
            list: List::new(),
            tree: Tree::new(),
            latest: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds one behind those that wait.
    ///
    /// # Safety
    ///
    /// It stays valid until it was taken out.
    pub unsafe fn add(&mut self, waiter: W) {
        let at = self.list.push_back(waiter);
        self.latest += 1;
        // SAFETY: By the contract. Its key is set before it is in the tree, and is nobody else's.
        unsafe {
            W::seat(at.as_ref()).arrival.set(self.latest);
            self.tree.insert(at);
        }
    }

    /// Takes one out.
    ///
    /// # Safety
    ///
    /// It waits here.
    pub unsafe fn remove(&mut self, at: NonNull<W::Target>) -> W {
        // SAFETY: By the contract it is in both.
        unsafe {
            self.tree.remove(at);
            self.list.remove(at)
        }
    }

    /// Takes out who waits longest.
    pub fn pop(&mut self) -> Option<W> {
        let first = self.list.head()?;
        // SAFETY: It was found here.
        Some(unsafe { self.remove(first) })
    }

    /// Takes out who waits longest for a word.
    pub fn pop_of(&mut self, word: u64) -> Option<W> {
        let first = self.tree.from((word, i64::MIN))?;
        // SAFETY: It is in the tree, and so valid; and then it waits here.
        unsafe { (W::word(first.as_ref()) == word).then(|| self.remove(first)) }
    }
}

impl<W: WordWaiter> Default for Words<W> {
    fn default() -> Self {
        Self::new()
    }
}
