// SPDX-License-Identifier: GPL-2.0
//! A doubly linked list whose links live inside its elements.
//!
//! Pushing and removing allocate nothing, so that both can happen under a spinlock, and removing
//! needs no search, so that a waiter whose time is up leaves at once.

use core::{cell::Cell, marker::PhantomData, ptr::NonNull};

/// The links of one element. Only the list that the element is on looks at them.
pub struct Links<T> {
    prev: Cell<Option<NonNull<T>>>,
    next: Cell<Option<NonNull<T>>>,
}

impl<T> Links<T> {
    /// Links of an element that is on no list.
    pub const fn new() -> Self {
        Self {
            prev: Cell::new(None),
            next: Cell::new(None),
        }
    }
}

impl<T> Default for Links<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// An element that carries links.
pub trait Linked: Sized {
    /// The links; always the same ones for the same element.
    fn links(&self) -> &Links<Self>;
}

/// A pointer that can be given to a list and taken back: a box, or a reference that its maker
/// keeps valid.
///
/// # Safety
///
/// From `into_raw` until `from_raw` the element stays where it is and valid for shared access, and
/// `from_raw` gives back what `into_raw` was called with.
pub unsafe trait Owner: Sized {
    /// What it points to.
    type Target: Linked;

    /// Turns the pointer into a raw one.
    fn into_raw(self) -> NonNull<Self::Target>;

    /// Undoes [`Owner::into_raw`].
    ///
    /// # Safety
    ///
    /// `raw` comes from `into_raw` of this type, and is given back once.
    unsafe fn from_raw(raw: NonNull<Self::Target>) -> Self;
}

/// A list of elements that it owns.
///
/// # Invariants
///
/// Every element reachable from `head` came from [`Owner::into_raw`] and was not given back yet;
/// neighbours point to each other; `tail` is the last.
pub struct List<O: Owner> {
    head: Option<NonNull<O::Target>>,
    tail: Option<NonNull<O::Target>>,
    len: usize,
    owns: PhantomData<O>,
}

// SAFETY: The list owns its elements as `O`, so that moving it moves them.
unsafe impl<O: Owner + Send> Send for List<O> {}

impl<O: Owner> List<O> {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            head: None,
            tail: None,
            len: 0,
            owns: PhantomData,
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The first element.
    pub fn front(&self) -> Option<&O::Target> {
        // SAFETY: By the invariant the element is valid; it leaves the list only through
        // `&mut self`.
        self.head.map(|raw| unsafe { &*raw.as_ptr() })
    }

    pub(super) fn head(&self) -> Option<NonNull<O::Target>> {
        self.head
    }

    pub(super) fn tail(&self) -> Option<NonNull<O::Target>> {
        self.tail
    }

    fn links(raw: &NonNull<O::Target>) -> &Links<O::Target> {
        // SAFETY: Only called for elements of a list, which are valid by the invariant, while the
        // list is borrowed.
        unsafe { raw.as_ref() }.links()
    }

    /// The element after `at`.
    ///
    /// # Safety
    ///
    /// `at` is an element of this list.
    pub(super) unsafe fn next(&self, at: NonNull<O::Target>) -> Option<NonNull<O::Target>> {
        Self::links(&at).next.get()
    }

    /// Puts `element` at the end and returns where it is.
    #[inline(always)]
    pub fn push_back(&mut self, element: O) -> NonNull<O::Target> {
        let tail = self.tail;
        // SAFETY: `tail` is an element, or there is none.
        unsafe { self.insert_after(tail, element) }
    }

    /// Puts `element` first and returns where it is.
    pub fn push_front(&mut self, element: O) -> NonNull<O::Target> {
        // SAFETY: No element is named.
        unsafe { self.insert_after(None, element) }
    }

    /// Puts `element` behind `at`, or first where that is `None`, and returns where it is.
    ///
    /// # Safety
    ///
    /// `at` is an element of this list, or `None`.
    pub(super) unsafe fn insert_after(
        &mut self,
        at: Option<NonNull<O::Target>>,
        element: O,
    ) -> NonNull<O::Target> {
        let new = element.into_raw();
        let next = match at {
            Some(at) => Self::links(&at).next.replace(Some(new)),
            None => self.head.replace(new),
        };
        match next {
            Some(next) => Self::links(&next).prev.set(Some(new)),
            None => self.tail = Some(new),
        }
        Self::links(&new).prev.set(at);
        Self::links(&new).next.set(next);
        self.len += 1;
        new
    }

    /// Takes the first element out.
    #[inline(always)]
    pub fn pop_front(&mut self) -> Option<O> {
        // SAFETY: `head` is an element.
        self.head.map(|head| unsafe { self.remove(head) })
    }

    /// Takes `at` out.
    ///
    /// # Safety
    ///
    /// `at` is an element of this list.
    pub unsafe fn remove(&mut self, at: NonNull<O::Target>) -> O {
        let links = Self::links(&at);
        let (prev, next) = (links.prev.take(), links.next.take());
        match prev {
            Some(prev) => Self::links(&prev).next.set(next),
            None => self.head = next,
        }
        match next {
            Some(next) => Self::links(&next).prev.set(prev),
            None => self.tail = prev,
        }
        self.len -= 1;
        // SAFETY: The element came from `into_raw`, and with it leaves the list.
        unsafe { O::from_raw(at) }
    }

    /// The first element for which `wanted` says so.
    pub fn find(&self, mut wanted: impl FnMut(&O::Target) -> bool) -> Option<&O::Target> {
        let mut at = self.head;
        while let Some(raw) = at {
            // SAFETY: `raw` is an element, valid by the invariant; it leaves the list only through
            // `&mut self`.
            let element = unsafe { &*raw.as_ptr() };
            if wanted(element) {
                return Some(element);
            }
            at = Self::links(&raw).next.get();
        }
        None
    }

    /// Takes the first element out for which `wanted` says so.
    pub fn remove_first(&mut self, mut wanted: impl FnMut(&O::Target) -> bool) -> Option<O> {
        let mut at = self.head;
        while let Some(raw) = at {
            // SAFETY: `raw` is an element, valid by the invariant.
            if wanted(unsafe { raw.as_ref() }) {
                // SAFETY: As above.
                return Some(unsafe { self.remove(raw) });
            }
            at = Self::links(&raw).next.get();
        }
        None
    }
}

impl<O: Owner> Default for List<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Owner> Drop for List<O> {
    fn drop(&mut self) {
        while let Some(element) = self.pop_front() {
            drop(element);
        }
    }
}
