// SPDX-License-Identifier: GPL-2.0
//! A list whose elements are also in a search tree: kept in an order, and found by a key.

use super::{
    list::{List, Owner},
    tree::{Index, Tree},
};
use core::ptr::NonNull;

/// An ordered list of elements that it owns, with an index.
///
/// # Invariants
///
/// The list and the tree have the same elements.
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

    /// Adds an element at the end of the list.
    ///
    /// # Safety
    ///
    /// The element's key is set, and it is in no tree that uses the same branches.
    #[inline]
    pub(super) unsafe fn push_back(&mut self, element: O) {
        let at = self.list.push_back(element);
        // SAFETY: The list keeps the element valid. The caller guarantees that its key is set and that no
        // other tree uses its branches.
        unsafe { self.tree.insert(at) };
    }

    /// Adds an element to a list that is in the order of the keys.
    ///
    /// # Safety
    ///
    /// The element's key is `key`, and it is in no tree that uses the same branches.
    pub(super) unsafe fn insert(&mut self, element: O, key: I::Key) {
        let before = self.tree.below(key);
        // SAFETY: An element of the tree is on the list, which keeps the new one valid. The caller
        // guarantees its key, and that no other tree uses its branches.
        unsafe {
            let at = self.list.insert_after(before, element);
            self.tree.insert(at);
        }
    }

    /// Removes an element.
    ///
    /// # Safety
    ///
    /// `at` is an element of this list.
    #[inline]
    pub(super) unsafe fn remove(&mut self, at: NonNull<O::Target>) -> O {
        // SAFETY: `at` is on the list, and so in the tree.
        unsafe {
            self.tree.remove(at);
            self.list.remove(at)
        }
    }

    /// Removes the first element of the list.
    pub(super) fn pop_front(&mut self) -> Option<O> {
        let first = self.list.head()?;
        // SAFETY: The head is an element of the list.
        Some(unsafe { self.remove(first) })
    }
}
