// SPDX-License-Identifier: GPL-2.0
//! A list whose elements are in a search tree, too: kept in an order, and found by a key.

use super::{
    list::{List, Owner},
    tree::{Index, Tree},
};
use core::ptr::NonNull;

/// Elements that it owns.
///
/// # Invariants
///
/// What is on the list is in the tree, and nothing else.
pub(super) struct Indexed<O: Owner, I: Index<Element = O::Target>> {
    list: List<O>,
    tree: Tree<I>,
}

// SAFETY: The tree points to what the list owns, and only it leads there.
unsafe impl<O: Owner + Send, I: Index<Element = O::Target>> Send for Indexed<O, I> {}

impl<O: Owner, I: Index<Element = O::Target>> Indexed<O, I> {
    pub(super) const fn new() -> Self {
        Self {
            list: List::new(),
            tree: Tree::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn front(&self) -> Option<&O::Target> {
        self.list.front()
    }

    /// The element with the smallest key that is not below `key`.
    pub(super) fn from(&self, key: I::Key) -> Option<NonNull<O::Target>> {
        self.tree.from(key)
    }

    /// Adds one at the end of the list.
    ///
    /// # Safety
    ///
    /// It has its key, and is in no tree that uses the same branches.
    pub(super) unsafe fn push_back(&mut self, element: O) {
        let at = self.list.push_back(element);
        // SAFETY: It is valid as long as it is on the list; the rest is the contract.
        unsafe { self.tree.insert(at) };
    }

    /// Adds one where the list is in the order of the keys.
    ///
    /// # Safety
    ///
    /// Its key is `key`, and it is in no tree that uses the same branches.
    pub(super) unsafe fn insert(&mut self, element: O, key: I::Key) {
        let before = self.tree.below(key);
        // SAFETY: What is in the tree is on the list. The new one is valid as long as it is, too; the
        // rest is the contract.
        unsafe {
            let at = self.list.insert_after(before, element);
            self.tree.insert(at);
        }
    }

    /// Takes one out.
    ///
    /// # Safety
    ///
    /// It is here.
    pub(super) unsafe fn remove(&mut self, at: NonNull<O::Target>) -> O {
        // SAFETY: By the contract and the invariant it is in both.
        unsafe {
            self.tree.remove(at);
            self.list.remove(at)
        }
    }

    /// Takes out the first of the list.
    pub(super) fn pop_front(&mut self) -> Option<O> {
        let first = self.list.head()?;
        // SAFETY: It was found here.
        Some(unsafe { self.remove(first) })
    }
}
