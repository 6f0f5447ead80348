// SPDX-License-Identifier: GPL-2.0
//! Receivers that wait, in the order in which they came.
//!
//! Most of them take any message, and are on a list. Those that want messages of one origin, or
//! that senders of their own group do not meet, are in two trees: by origin, group and arrival, and
//! the first of each group by origin and arrival. So the receiver of a message is found without
//! looking at those that it is not for.

use super::{
    list::List,
    mailbox::{Message, ReceiveWaiter},
    tree::{Branches, Index, Tree},
};
use core::{cell::Cell, marker::PhantomData, ptr::NonNull};

/// The place of a receiver that waits, or of who waits for a word.
pub struct Seat<T> {
    /// The smaller, the earlier.
    pub(super) arrival: Cell<i64>,
    pub(super) member: Branches<T>,
    first: Branches<T>,
}

impl<T> Seat<T> {
    /// The place of who does not wait.
    pub const fn new() -> Self {
        Self {
            arrival: Cell::new(0),
            member: Branches::new(),
            first: Branches::new(),
        }
    }
}

impl<T> Seat<T> {
    /// What it is in a tree by, where it is not among these receivers.
    pub fn branches(&self) -> &Branches<T> {
        &self.member
    }
}

impl<T> Default for Seat<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// By origin, group and arrival.
struct Members<M, R>(PhantomData<(M, R)>);

impl<M: Message, R: ReceiveWaiter<M>> Index for Members<M, R> {
    type Element = R::Target;
    type Key = (u64, usize, i64);

    fn branches<'a>(element: &'a R::Target) -> &'a Branches<R::Target>
    where
        Self: 'a,
    {
        &R::seat(element).member
    }

    fn key(element: &R::Target) -> Self::Key {
        let arrival = R::seat(element).arrival.get();
        (R::origin(element), R::group(element), arrival)
    }
}

/// By origin and arrival: the first of each group.
struct Firsts<M, R>(PhantomData<(M, R)>);

impl<M: Message, R: ReceiveWaiter<M>> Index for Firsts<M, R> {
    type Element = R::Target;
    type Key = (u64, i64);

    fn branches<'a>(element: &'a R::Target) -> &'a Branches<R::Target>
    where
        Self: 'a,
    {
        &R::seat(element).first
    }

    fn key(element: &R::Target) -> Self::Key {
        (R::origin(element), R::seat(element).arrival.get())
    }
}

type At<R> = NonNull<<R as super::list::Owner>::Target>;

/// Receivers that wait.
///
/// # Invariants
///
/// Each came from `into_raw`, and is on the list, or in `members`. Of those with the same origin and
/// group in `members`, the first is in `firsts`.
pub(super) struct Receivers<M: Message, R: ReceiveWaiter<M>> {
    list: List<R>,
    members: Tree<Members<M, R>>,
    firsts: Tree<Firsts<M, R>>,
    apart: usize,
    /// Those that want messages of one origin.
    picky: usize,
    earliest: i64,
    latest: i64,
}

// SAFETY: It owns the receivers as `R`, so that moving it moves them.
unsafe impl<M: Message, R: ReceiveWaiter<M> + Send> Send for Receivers<M, R> {}

impl<M: Message, R: ReceiveWaiter<M>> Receivers<M, R> {
    pub(super) const fn new() -> Self {
        Self {
            list: List::new(),
            members: Tree::new(),
            firsts: Tree::new(),
            apart: 0,
            picky: 0,
            earliest: 0,
            latest: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len() + self.apart
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty() && self.apart == 0
    }

    /// Those that take messages of any origin.
    pub(super) fn any(&self) -> usize {
        self.len() - self.picky
    }

    fn get<'a>(at: At<R>) -> &'a R::Target {
        // SAFETY: Only called for receivers that wait here, which are valid by the invariant.
        unsafe { &*at.as_ptr() }
    }

    fn arrival(at: At<R>) -> i64 {
        R::seat(Self::get(at)).arrival.get()
    }

    /// Whether it is for the trees.
    fn is_apart(receiver: &R::Target, meets: bool) -> bool {
        R::origin(receiver) != 0 || (meets && R::group(receiver) != 0)
    }

    /// Adds a receiver behind those that wait, or, `again`, before them. `meets`: whether senders
    /// meet receivers here, so that groups count; always the same.
    ///
    /// # Safety
    ///
    /// It stays valid until it was taken out.
    #[inline]
    pub(super) unsafe fn add(&mut self, receiver: R, meets: bool, again: bool) {
        let at = receiver.into_raw();
        let arrival = if again {
            self.earliest -= 1;
            self.earliest
        } else {
            self.latest += 1;
            self.latest
        };
        R::seat(Self::get(at)).arrival.set(arrival);
        if Self::is_apart(Self::get(at), meets) {
            // SAFETY: By the contract.
            return unsafe { self.add_apart(at) };
        }
        // SAFETY: It comes from `into_raw`, and is given back once.
        let receiver = unsafe { R::from_raw(at) };
        if again {
            self.list.push_front(receiver);
        } else {
            self.list.push_back(receiver);
        }
    }

    /// The first of a group.
    fn first_of(&self, origin: u64, group: usize) -> Option<At<R>> {
        let first = self.members.from((origin, group, i64::MIN))?;
        let found = Self::get(first);
        (R::origin(found) == origin && R::group(found) == group).then_some(first)
    }

    /// # Safety
    ///
    /// It stays valid until it was taken out.
    #[inline(never)]
    unsafe fn add_apart(&mut self, at: At<R>) {
        let receiver = Self::get(at);
        let (origin, group) = (R::origin(receiver), R::group(receiver));
        let first = self.first_of(origin, group);
        self.apart += 1;
        self.picky += usize::from(origin != 0);
        // SAFETY: By the contract, and it is in no tree.
        unsafe {
            self.members.insert(at);
            match first {
                Some(first) if Self::arrival(first) < Self::arrival(at) => {}
                first => {
                    if let Some(first) = first {
                        self.firsts.remove(first);
                    }
                    self.firsts.insert(at);
                }
            }
        }
    }

    /// Takes one out.
    ///
    /// # Safety
    ///
    /// It waits here; `meets` is the same as ever.
    pub(super) unsafe fn remove(&mut self, at: At<R>, meets: bool) -> R {
        let receiver = Self::get(at);
        if !Self::is_apart(receiver, meets) {
            // SAFETY: By the contract it is on the list.
            return unsafe { self.list.remove(at) };
        }
        let (origin, group) = (R::origin(receiver), R::group(receiver));
        let was_first = self.first_of(origin, group) == Some(at);
        self.apart -= 1;
        self.picky -= usize::from(origin != 0);
        // SAFETY: It is in the trees, and so valid.
        unsafe {
            self.members.remove(at);
            if was_first {
                self.firsts.remove(at);
                if let Some(next) = self.first_of(origin, group) {
                    self.firsts.insert(next);
                }
            }
            // It comes from `into_raw`, and is given back once.
            R::from_raw(at)
        }
    }

    /// The first of an origin that is not of that group; 0: of any group.
    fn candidate(&self, origin: u64, but: usize) -> Option<At<R>> {
        let of_origin = |at: &At<R>| R::origin(Self::get(*at)) == origin;
        let first = self.firsts.from((origin, i64::MIN)).filter(of_origin)?;
        if but == 0 || R::group(Self::get(first)) != but {
            return Some(first);
        }
        // Each group has one there.
        let next = Self::arrival(first).checked_add(1)?;
        self.firsts.from((origin, next)).filter(of_origin)
    }

    /// Takes out who waits longest for a message of `origin` whose sender does not meet the group
    /// `but`; 0: meets all.
    #[inline(always)]
    pub(super) fn pop(
        &mut self,
        origin: impl FnOnce() -> u64,
        but: usize,
        meets: bool,
    ) -> Option<R> {
        if self.apart == 0 {
            return self.list.pop_front();
        }
        self.pop_apart(origin(), but, meets)
    }

    #[inline(never)]
    fn pop_apart(&mut self, origin: u64, but: usize, meets: bool) -> Option<R> {
        let own = (origin != 0).then(|| self.candidate(origin, but)).flatten();
        let candidates = [self.list.head(), self.candidate(0, but), own];
        let first = candidates
            .into_iter()
            .flatten()
            .min_by_key(|at| Self::arrival(*at))?;
        // SAFETY: It was found here.
        Some(unsafe { self.remove(first, meets) })
    }

    /// Takes any of them out.
    pub(super) fn pop_any(&mut self, meets: bool) -> Option<R> {
        let apart = || self.firsts.from((0, i64::MIN));
        let first = self.list.head().or_else(apart)?;
        // SAFETY: It was found here.
        Some(unsafe { self.remove(first, meets) })
    }
}
