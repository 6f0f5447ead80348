// SPDX-License-Identifier: GPL-2.0
//! A search tree whose branches live inside its elements: a treap.
//!
//! As with the lists, inserting and removing allocate nothing. An element's weight is a hash of its
//! address, which no user knows: so the depth stays logarithmic whatever order keys come in. No
//! operation is recursive.

use core::{cell::Cell, marker::PhantomData, ptr::NonNull};

type Branch<T> = Cell<Option<NonNull<T>>>;

/// The branches of one element. Only the tree that the element is in looks at them.
pub struct Branches<T> {
    left: Branch<T>,
    right: Branch<T>,
}

impl<T> Branches<T> {
    /// Branches of an element that is in no tree.
    pub const fn new() -> Self {
        Self {
            left: Cell::new(None),
            right: Cell::new(None),
        }
    }
}

impl<T> Default for Branches<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The order of a tree.
pub(super) trait Index {
    /// What is in the tree.
    type Element;
    /// What it is sorted by. No two elements of a tree have the same.
    type Key: Copy + Ord;

    /// The branches that this tree uses; always the same ones for the same element.
    fn branches<'a>(element: &'a Self::Element) -> &'a Branches<Self::Element>
    where
        Self: 'a;

    /// The key; it stays the same while the element is in the tree.
    fn key(element: &Self::Element) -> Self::Key;
}

type At<I> = NonNull<<I as Index>::Element>;

/// A tree of elements that somebody else owns.
///
/// # Invariants
///
/// Every element reachable from `root` was inserted and not removed, and so is valid. Keys to the
/// left of an element are smaller than its own, those to the right larger; no element is heavier
/// than the one above it.
pub(super) struct Tree<I: Index> {
    root: Branch<I::Element>,
    index: PhantomData<I>,
}

/// A number that depends on every bit of another one.
pub(super) fn mix(number: u64) -> u64 {
    let mut hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// A number that depends on every bit of an address.
pub(super) fn hash<T>(at: NonNull<T>) -> u64 {
    mix(at.as_ptr() as usize as u64)
}

impl<I: Index> Tree<I> {
    pub(super) const fn new() -> Self {
        Self {
            root: Cell::new(None),
            index: PhantomData,
        }
    }

    /// The element at `at`, which is in a tree, or about to be.
    fn element<'a>(at: At<I>) -> &'a I::Element {
        // SAFETY: By the invariant, and by the contract of `insert`, it is valid; the reference is
        // not kept by any operation.
        unsafe { &*at.as_ptr() }
    }

    fn key(at: At<I>) -> I::Key {
        I::key(Self::element(at))
    }

    /// Puts an element into its place.
    ///
    /// # Safety
    ///
    /// It is valid until it is removed, and is in no other tree that uses the same branches.
    pub(super) unsafe fn insert(&mut self, new: At<I>) {
        if self.root.get().is_none() {
            let branches = I::branches(Self::element(new));
            branches.left.set(None);
            branches.right.set(None);
            self.root.set(Some(new));
            return;
        }
        // SAFETY: By the contract.
        unsafe { self.insert_among(new) };
    }

    /// # Safety
    ///
    /// As for [`Self::insert`].
    unsafe fn insert_among(&mut self, new: At<I>) {
        let (key, weight) = (Self::key(new), hash(new));
        let mut slot = &self.root;
        while let Some(at) = slot.get().filter(|at| hash(*at) >= weight) {
            let branches = I::branches(Self::element(at));
            slot = match key < Self::key(at) {
                true => &branches.left,
                false => &branches.right,
            };
        }
        // What was there is divided into what is smaller and what is larger.
        let mut rest = slot.replace(Some(new));
        let branches = I::branches(Self::element(new));
        let (mut smaller, mut larger) = (&branches.left, &branches.right);
        while let Some(at) = rest {
            let branches = I::branches(Self::element(at));
            if Self::key(at) < key {
                smaller.set(Some(at));
                smaller = &branches.right;
                rest = smaller.get();
            } else {
                larger.set(Some(at));
                larger = &branches.left;
                rest = larger.get();
            }
        }
        smaller.set(None);
        larger.set(None);
    }

    /// Takes an element out, if it is in the tree.
    ///
    /// # Safety
    ///
    /// It is valid.
    pub(super) unsafe fn remove(&mut self, old: At<I>) {
        let key = Self::key(old);
        let mut slot = &self.root;
        loop {
            match slot.get() {
                Some(at) if at == old => break,
                Some(at) => {
                    let branches = I::branches(Self::element(at));
                    slot = match key < Self::key(at) {
                        true => &branches.left,
                        false => &branches.right,
                    };
                }
                None => return,
            }
        }
        let branches = I::branches(Self::element(old));
        let (mut left, mut right) = (branches.left.take(), branches.right.take());
        loop {
            match (left, right) {
                (Some(smaller), Some(larger)) => {
                    if hash(smaller) >= hash(larger) {
                        slot.set(left);
                        slot = &I::branches(Self::element(smaller)).right;
                        left = slot.get();
                    } else {
                        slot.set(right);
                        slot = &I::branches(Self::element(larger)).left;
                        right = slot.get();
                    }
                }
                (one, other) => {
                    slot.set(one.or(other));
                    return;
                }
            }
        }
    }

    /// The element with the largest key below `key`.
    pub(super) fn below(&self, key: I::Key) -> Option<At<I>> {
        let (mut found, mut next) = (None, self.root.get());
        while let Some(at) = next {
            let branches = I::branches(Self::element(at));
            next = if Self::key(at) < key {
                found = Some(at);
                branches.right.get()
            } else {
                branches.left.get()
            };
        }
        found
    }

    /// The element with the smallest key that is not below `key`.
    pub(super) fn from(&self, key: I::Key) -> Option<At<I>> {
        let (mut found, mut next) = (None, self.root.get());
        while let Some(at) = next {
            let branches = I::branches(Self::element(at));
            next = if Self::key(at) < key {
                branches.right.get()
            } else {
                found = Some(at);
                branches.left.get()
            };
        }
        found
    }
}
