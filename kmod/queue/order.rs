// SPDX-License-Identifier: GPL-2.0
//! The order of messages: the higher priority first, and within one the older.
//!
//! One list holds all messages in that order. Mostly a message enters at its end and leaves at its
//! head. For those that belong elsewhere, some of the messages, chosen by a hash of their address,
//! are also in a tree: the search begins there, and goes on along the list for as many steps as lie
//! between two of them. A short list needs no tree.
//!
//! A second tree, by origin, is for receivers that want messages of one process. It is made when
//! such a receiver comes for the first time, some messages at a time.

use super::{
    list::{List, Owner},
    mailbox::{Entry, Message, Node},
    tree::{hash, Branches, Index, Tree},
};
use core::{cmp::Reverse, marker::PhantomData, ptr::NonNull};

type Raw<M> = NonNull<<M as Owner>::Target>;

/// The messages of a list that is short.
const SHORT: usize = 64;
/// One of so many messages of a longer list is in the tree.
const SPARSE: u64 = 1 << 4;

/// The marks of a message that is in more than the list.
mod mark {
    /// In the tree of places.
    pub(super) const PLACE: u8 = 1;
    /// In the tree of origins.
    pub(super) const ORIGIN: u8 = 2;
    /// The next one to be put into the tree of origins.
    pub(super) const NEXT: u8 = 4;
}

type Place = (Reverse<u16>, u64);

fn place<M: Message>(node: &Node<M>) -> Place {
    (Reverse(node.priority), node.sequence.get())
}

struct ByPlace<M>(PhantomData<M>);

impl<M: Message> Index for ByPlace<M> {
    type Element = M::Entry;
    type Key = Place;

    fn branches<'a>(element: &'a M::Entry) -> &'a Branches<M::Entry>
    where
        Self: 'a,
    {
        &element.node().branches
    }

    fn key(element: &M::Entry) -> Place {
        place(element.node())
    }
}

struct ByOrigin<M>(PhantomData<M>);

impl<M: Message> Index for ByOrigin<M> {
    type Element = M::Entry;
    type Key = (u64, Place);

    fn branches<'a>(element: &'a M::Entry) -> &'a Branches<M::Entry>
    where
        Self: 'a,
    {
        &element.node().origins
    }

    fn key(element: &M::Entry) -> Self::Key {
        (element.origin(), place(element.node()))
    }
}

/// Messages in the order in which they are received.
///
/// # Invariants
///
/// `list` is sorted by descending priority, then ascending sequence number. A message has the mark of
/// a tree if and only if it is in that tree, and `mark::NEXT` if and only if it is `next`. If
/// `indexes`, all messages before `next` are in the tree of origins.
pub(super) struct Ordered<M: Message> {
    list: List<M>,
    places: Tree<ByPlace<M>>,
    origins: Tree<ByOrigin<M>>,
    /// Whether there is a tree of origins.
    indexes: bool,
    next: Option<Raw<M>>,
    /// What enters a longer list than this has more to it.
    short: usize,
}

// SAFETY: `next` and the trees point to what the list owns, and only it leads there.
unsafe impl<M: Message + Send> Send for Ordered<M> {}

impl<M: Message> Ordered<M> {
    pub(super) const fn new() -> Self {
        Self {
            list: List::new(),
            places: Tree::new(),
            origins: Tree::new(),
            indexes: false,
            next: None,
            short: SHORT,
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

    fn node<'a>(raw: Raw<M>) -> &'a Node<M> {
        // SAFETY: Only called for elements of the list, which are valid.
        unsafe { &*raw.as_ptr() }.node()
    }

    /// Puts a message into its place; returns where it is.
    #[inline(always)]
    pub(super) fn insert(&mut self, message: M) -> Raw<M> {
        // Mostly that is the end.
        let at = match self.list.tail() {
            Some(tail) if place(message.entry().node()) < place(Self::node(tail)) => {
                self.insert_within(message)
            }
            _ => self.list.push_back(message),
        };
        if self.list.len() > self.short {
            self.inserted(at);
        }
        at
    }

    #[inline(never)]
    fn insert_within(&mut self, message: M) -> Raw<M> {
        let key = place(message.entry().node());
        let mut after = self.places.below(key);
        loop {
            let next = match after {
                // SAFETY: `at` is an element.
                Some(at) => unsafe { self.list.next(at) },
                None => self.list.head(),
            };
            match next.filter(|next| place(Self::node(*next)) < key) {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // SAFETY: `after` is an element or `None`.
        unsafe { self.list.insert_after(after, message) }
    }

    /// Puts a new message into the trees that it belongs to.
    #[inline(never)]
    fn inserted(&mut self, at: Raw<M>) {
        if self.list.len() > SHORT && hash(at) & (SPARSE - 1) == 0 {
            self.add_mark(at, mark::PLACE);
            // SAFETY: It is an element, in no tree.
            unsafe { self.places.insert(at) };
        }
        if self.indexes {
            self.index(at);
        }
    }

    fn add_mark(&self, at: Raw<M>, mark: u8) {
        let marks = &Self::node(at).marks;
        marks.set(marks.get() | mark);
    }

    fn index(&mut self, at: Raw<M>) {
        self.add_mark(at, mark::ORIGIN);
        // SAFETY: It is an element, and not in the tree of origins.
        unsafe { self.origins.insert(at) };
    }

    /// Goes on with the tree of origins, by at most `most` messages. Whether all are there.
    pub(super) fn index_some(&mut self, most: usize) -> bool {
        if !self.indexes {
            self.indexes = true;
            self.short = 0;
            self.go_on_at(self.list.head());
        }
        for _ in 0..most {
            let Some(at) = self.next else {
                return true;
            };
            // SAFETY: It is an element.
            let next = unsafe { self.list.next(at) };
            self.go_on_at(next);
            if Self::node(at).marks.get() & mark::ORIGIN == 0 {
                self.index(at);
            }
        }
        self.next.is_none()
    }

    fn go_on_at(&mut self, next: Option<Raw<M>>) {
        if let Some(at) = self.next {
            let marks = &Self::node(at).marks;
            marks.set(marks.get() & !mark::NEXT);
        }
        if let Some(next) = next {
            self.add_mark(next, mark::NEXT);
        }
        self.next = next;
    }

    /// The first message of an origin, of those that are in the tree of origins.
    pub(super) fn first_of(&self, origin: u64) -> Option<Raw<M>> {
        let first = self.origins.from((origin, (Reverse(u16::MAX), 0)))?;
        // SAFETY: It is an element.
        (unsafe { first.as_ref() }.origin() == origin).then_some(first)
    }

    /// Takes the first message out.
    #[inline(always)]
    pub(super) fn pop_front(&mut self) -> Option<M> {
        let head = self.list.head()?;
        // SAFETY: `head` is an element.
        Some(unsafe { self.remove(head) })
    }

    /// Takes `at` out.
    ///
    /// # Safety
    ///
    /// `at` is in this queue.
    #[inline(always)]
    pub(super) unsafe fn remove(&mut self, at: Raw<M>) -> M {
        if Self::node(at).marks.get() != 0 {
            self.removed(at);
        }
        // SAFETY: `at` is an element.
        unsafe { self.list.remove(at) }
    }

    /// Takes a message out of the trees that it is in.
    #[inline(never)]
    fn removed(&mut self, at: Raw<M>) {
        let marks = Self::node(at).marks.get();
        // SAFETY: It is an element, in the trees that its marks say.
        unsafe {
            if marks & mark::PLACE != 0 {
                self.places.remove(at);
            }
            if marks & mark::ORIGIN != 0 {
                self.origins.remove(at);
            }
            if marks & mark::NEXT != 0 {
                let next = self.list.next(at);
                self.go_on_at(next);
            }
        }
        Self::node(at).marks.set(0);
    }
}
