// SPDX-License-Identifier: GPL-2.0
//! The pipe: bytes in a ring, read in the order in which they were written.
//!
//! One reader and one writer at a time has the *turn* of its side. Who has it copies bytes without
//! the lock, out of or into the region that it claimed, and then commits; until then nobody else
//! reads those bytes, and nobody else writes into that room. A large write keeps its turn from its
//! first piece to its last, so that no other bytes come between.
//!
//! Who has to wait for its turn, or for bytes or room, is in a list in the order of arrival. The
//! first is given the turn when it can do something with it; the others are left asleep.
//!
//! A turn that was given to a waiter can be taken back until the waiter has begun to copy: a stopped
//! process, or a ring that nobody enters, must not hold the others up. The waiter keeps its place.
//!
//! The turn of one side:
//!
//! ```text
//!         1 claim                      3 claim
//!  FREE ----------> BEGUN <------------------------- GIVEN
//!   ^  <----------                                   |  ^
//!   |     2 end                                      |  |
//!   |------------------------------------------------+  |
//!   |     5 revoke (others waited for long), give up    |
//!   +---------------------------------------------------+
//!         4 give to the first waiter that can use it
//! ```
//!
//! The task or command that copies does 1, 2 and 3; whoever changes the pipe does 4; the pipe's timer
//! does 5. After 5 every waiter of that side is called up, and the first that comes has the turn.
//!
//! Every transition that ends a turn names the place by which the turn is held, and is nothing where
//! another place has it: a waiter whose turn was revoked cannot end or commit another waiter's turn.

use super::{
    indexed::Indexed,
    list::Owner,
    tree::{Branches, Index},
};
use core::{marker::PhantomData, ptr::NonNull};

/// Writes of up to so many bytes go in whole.
pub const PIPE_ATOMIC: u64 = 4096;

/// A task that waits. The list of them owns pointers that the tasks keep valid.
pub trait TurnWaiter: Owner {
    /// What wakes it, once the lock is dropped.
    type Wake;

    /// The bytes of room that it waits for, if it writes.
    fn wants(waiter: &Self::Target) -> u64;

    /// Its place in the order of waiters.
    fn place(waiter: &Self::Target) -> u64;

    /// Sets its place, before it is listed.
    fn seat(waiter: &Self::Target, place: u64);

    /// What it is in the tree of places by.
    fn branches(waiter: &Self::Target) -> &Branches<Self::Target>;

    /// Whether it is a task, which comes as soon as it is woken, or leaves where it is stopped.
    fn is_task(waiter: &Self::Target) -> bool;

    /// Ends its wait.
    fn finish(self, turn: Turn) -> Self::Wake;
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It was given the turn, or called up to take it, and keeps this place until it has.
    Yours(u64),
    /// It has no turn: the other side is gone.
    Over,
}

/// A part of the ring, which may go over its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where it begins.
    pub at: usize,
    /// Its bytes from there.
    pub first: usize,
    /// Its bytes from the beginning of the ring.
    pub second: usize,
}

impl Region {
    /// Its bytes in all.
    pub fn bytes(&self) -> usize {
        self.first + self.second
    }
}

/// What a reader or a writer gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The turn, with the place that it is held by, and this region to copy.
    Granted(Region, u64),
    /// Nothing now.
    Wait,
    /// The turn was taken back between two pieces of a write.
    Lost,
    /// Nothing any more: the other side is gone.
    Over,
}

/// The places by which the turns of both sides are held, to change the capacity; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// That of the readers.
    pub reads: u64,
    /// That of the writers.
    pub writes: u64,
}

/// The parts in which the bytes are moved to a ring of another size.
#[derive(Debug)]
pub struct Parts {
    next: u64,
    end: u64,
    from: u64,
    to: u64,
}

/// From where in the one ring to where in the other, and how many bytes.
impl Iterator for Parts {
    type Item = (usize, usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let from = self.next & (self.from - 1);
        let to = self.next & (self.to - 1);
        let left = self.end - self.next;
        let len = left.min(self.from - from).min(self.to - to);
        self.next += len;
        (len > 0).then_some((from as usize, to as usize, len as usize))
    }
}

/// Places of those that are served before all others: a change of the capacity, and then the rest of
/// a write.
const FIRST: u64 = 1 << 61;
const MIDDLE: u64 = 2 << 61;
const ORDINARY: u64 = 3 << 61;

/// After how much time [`Pipe::revoke`] takes a turn back, in units of the caller's: soon from a command,
/// later where a running system may just be slow, and never where a task would lose the rest of its write.
const SOON: u64 = 2;
const LATE: u64 = 101;
const NEVER: u64 = u64::MAX;

struct ByPlace<W>(PhantomData<W>);

impl<W: TurnWaiter> Index for ByPlace<W> {
    type Element = W::Target;
    type Key = u64;

    fn branches<'a>(element: &'a W::Target) -> &'a Branches<W::Target>
    where
        Self: 'a,
    {
        W::branches(element)
    }

    fn key(element: &W::Target) -> u64 {
        W::place(element)
    }
}

/// Waiters in the order of their places. Those that come back to an old place are many, and come in any order.
type Line<W> = Indexed<W, ByPlace<W>>;

/// One of the two sides: who reads, or who writes.
struct Side<W: TurnWaiter> {
    handles: u32,
    /// There is a handle, or there was one.
    came: bool,
    /// The place by which the turn is held; 0: it is free.
    turn: u64,
    /// The holder of the turn copies; otherwise it was given the turn and has not come yet.
    begun: bool,
    /// How long the turn that was given is not taken back, and until when (0: that is not known yet).
    patience: u64,
    due: u64,
    /// Waiters that are still to be called up.
    calling: usize,
    /// Counts places.
    last: u64,
    /// In the order of their places.
    waiting: Line<W>,
    /// Something has become possible that pollers of this side have not been told of.
    untold: bool,
}

impl<W: TurnWaiter> Side<W> {
    const fn new() -> Self {
        Self {
            handles: 0,
            came: false,
            turn: 0,
            begun: false,
            patience: 0,
            due: 0,
            calling: 0,
            last: 0,
            waiting: Line::new(),
            untold: false,
        }
    }

    fn open(&mut self, is: bool) {
        self.handles += u32::from(is);
        self.came |= is;
    }

    fn gone(&self) -> bool {
        self.came && self.handles == 0
    }

    /// Whether the turn is another's, or a waiter comes before this place (0: a new one).
    #[inline]
    fn taken(&self, place: u64) -> bool {
        self.turn != 0
            || self
                .waiting
                .front()
                .is_some_and(|first| place == 0 || W::place(first) < place)
    }

    fn has(&self, place: u64) -> bool {
        place != 0 && self.turn == place
    }

    /// A new place of a rank.
    #[inline]
    fn new_place(&mut self, rank: u64) -> u64 {
        self.last += 1;
        rank + self.last
    }

    /// Transitions 1 and 3.
    #[inline]
    fn begin(&mut self, place: u64) -> u64 {
        if place == 0 {
            self.turn = self.new_place(ORDINARY);
        } else {
            self.turn = place;
        }
        self.begun = true;
        self.turn
    }

    /// Whether this place has begun its turn, which nobody can take back.
    #[inline]
    fn copies(&self, place: u64) -> bool {
        self.has(place) && self.begun
    }

    /// Transitions 2 and 5, by the holder of the turn. `false`: this place does not hold it.
    #[inline]
    fn end(&mut self, place: u64) -> bool {
        let has = self.has(place);
        if has {
            self.turn = 0;
            self.begun = false;
        }
        has
    }

    /// Transition 4, for the first waiter.
    fn give(&mut self) -> Option<W::Wake> {
        let first = self.waiting.front()?;
        let place = W::place(first);
        self.turn = place;
        self.begun = false;
        self.due = 0;
        self.patience = match (W::is_task(first), place < ORDINARY) {
            (false, false) => SOON,
            (true, true) => NEVER,
            _ => LATE,
        };
        Some(self.waiting.pop_front()?.finish(Turn::Yours(place)))
    }

    fn given(&self) -> bool {
        self.turn != 0 && !self.begun
    }

    /// Whether a turn that can be taken back keeps others waiting.
    fn keeps_waiting(&self) -> bool {
        self.given() && self.patience != NEVER && (self.untold || !self.waiting.is_empty())
    }

    /// When its turn is to be taken back, if it keeps others waiting.
    fn due(&mut self, now: u64) -> Option<u64> {
        if self.given() && self.due == 0 {
            self.due = now.saturating_add(self.patience);
        }
        self.keeps_waiting().then_some(self.due)
    }

    /// Transition 5, where its time is over.
    fn revoke(&mut self, now: u64) {
        if self.given() && self.due != 0 && now >= self.due {
            self.turn = 0;
            self.calling = self.waiting.len();
        }
    }

    /// Calls up one waiter: it looks for itself, and keeps its place.
    fn call_up(&mut self) -> Option<W::Wake> {
        if self.calling == 0 {
            return None;
        }
        self.calling -= 1;
        let place = self.waiting.front().map(W::place)?;
        if place < ORDINARY {
            // It is served before all others, and alone.
            self.calling = 0;
            return None;
        }
        Some(self.waiting.pop_front()?.finish(Turn::Yours(place)))
    }

    /// # Safety
    ///
    /// The waiter stays valid until it was finished or left.
    unsafe fn wait(&mut self, waiter: W, place: u64) {
        let raw = waiter.into_raw();
        // SAFETY: By the contract it is valid.
        W::seat(unsafe { raw.as_ref() }, place);
        // SAFETY: It comes from `into_raw`, and is given back once. The rest is by the contract.
        unsafe { self.waiting.insert(W::from_raw(raw), place) };
    }
}

/// A pipe.
///
/// # Invariants
///
/// `capacity` is a power of two, and `written - read` at most that. Bytes are numbered by how many
/// were read or written before; the lower bits of the number are the place in the ring.
pub struct Pipe<W: TurnWaiter> {
    capacity: u64,
    /// Peers can come back, so that neither side ever ends.
    persistent: bool,
    read: u64,
    written: u64,
    readers: Side<W>,
    writers: Side<W>,
    /// Writes that found no room.
    full: u64,
    /// The most bytes that were in it at once.
    high: u64,
}

impl<W: TurnWaiter> Pipe<W> {
    /// An empty pipe. `capacity` is a power of two, and at least [`PIPE_ATOMIC`].
    pub const fn new(capacity: u64, persistent: bool) -> Self {
        Self {
            capacity,
            persistent,
            read: 0,
            written: 0,
            readers: Side::new(),
            writers: Side::new(),
            full: 0,
            high: 0,
        }
    }

    // What a look at it says.

    /// Its capacity.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes that were written and not read yet.
    pub fn len(&self) -> u64 {
        self.written - self.read
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.read == self.written
    }

    fn room(&self) -> u64 {
        self.capacity - self.len()
    }

    /// Bytes ever read, and written.
    pub fn moved(&self) -> (u64, u64) {
        (self.read, self.written)
    }

    /// Handles that may read, and that may write.
    pub fn handles(&self) -> (u32, u32) {
        (self.readers.handles, self.writers.handles)
    }

    /// Reads and writes that wait.
    pub fn waiting(&self) -> (usize, usize) {
        (self.readers.waiting.len(), self.writers.waiting.len())
    }

    /// Writes that found no room.
    pub fn full(&self) -> u64 {
        self.full
    }

    /// The most bytes that were in it at once.
    pub fn high(&self) -> u64 {
        self.high
    }

    /// Whether the last writer is gone and everything is read.
    pub fn ended(&self) -> bool {
        self.writers.gone() && !self.persistent && self.is_empty()
    }

    /// Whether the last reader is gone.
    pub fn closed(&self) -> bool {
        self.readers.gone() && !self.persistent
    }

    /// Whether a read that does not wait gets bytes. Who was told otherwise hears of it by
    /// [`Pipe::news`].
    pub fn readable(&mut self) -> bool {
        let taken = self.readers.taken(0);
        self.readers.untold |= taken;
        !self.is_empty() && !taken
    }

    /// Whether a write of up to [`PIPE_ATOMIC`] bytes that does not wait succeeds. As above.
    pub fn writable(&mut self) -> bool {
        let taken = self.writers.taken(0);
        self.writers.untold |= taken;
        !self.closed() && self.room() >= PIPE_ATOMIC && !taken
    }

    /// What pollers have to be told: that they can read, that they can write.
    pub fn news(&mut self) -> (bool, bool) {
        let readable = self.readers.untold && self.readable();
        let writable = self.writers.untold && self.writable();
        self.readers.untold &= !readable;
        self.writers.untold &= !writable;
        (readable, writable)
    }

    // Who is there.

    /// A handle was opened.
    pub fn open(&mut self, writes: bool, reads: bool) {
        self.writers.open(writes);
        self.readers.open(reads);
    }

    /// A handle was closed.
    pub fn close(&mut self, writes: bool, reads: bool) {
        self.writers.handles -= u32::from(writes);
        self.readers.handles -= u32::from(reads);
    }

    /// Nobody comes any more: a side without handles, now or later, is gone. What has `writers` or
    /// `readers` has handles of that side, which may not be open yet.
    pub fn orphan(&mut self, writers: bool, readers: bool) {
        self.persistent = false;
        self.writers.came |= !writers;
        self.readers.came |= !readers;
    }

    /// Ends the next wait that can be ended. To be called after every change, until there is none.
    pub fn end_wait(&mut self) -> Option<W::Wake> {
        let wake = self.readers.call_up().or_else(|| self.writers.call_up());
        if wake.is_some() {
            return wake;
        }
        if let Some(first) = self.readers.waiting.front() {
            if W::place(first) >= ORDINARY && self.ended() {
                return Some(self.readers.waiting.pop_front()?.finish(Turn::Over));
            }
            if self.readers.turn == 0 && (W::place(first) < ORDINARY || !self.is_empty()) {
                return self.readers.give();
            }
        }
        if let Some(first) = self.writers.waiting.front() {
            if W::place(first) >= MIDDLE && self.closed() {
                return Some(self.writers.waiting.pop_front()?.finish(Turn::Over));
            }
            let wants = W::wants(first);
            if self.writers.turn == 0 && wants <= self.room() {
                return self.writers.give();
            }
        }
        None
    }

    /// Whether a waiter that was given the turn, and has not come yet, keeps others waiting: then
    /// [`Pipe::due`] says when [`Pipe::revoke`] is to be called.
    pub fn waits_for_given(&self) -> bool {
        self.readers.keeps_waiting() || self.writers.keeps_waiting()
    }

    /// When the first turn is to be taken back that keeps others waiting. The time of one that was given
    /// runs from the first call after that; `now` is not 0.
    pub fn due(&mut self, now: u64) -> Option<u64> {
        let (readers, writers) = (self.readers.due(now), self.writers.due(now));
        readers.into_iter().chain(writers).min()
    }

    /// Takes turns back that were given, and not begun in time.
    pub fn revoke(&mut self, now: u64) {
        self.readers.revoke(now);
        self.writers.revoke(now);
    }

    // Reading.

    fn region(&self, from: u64, len: u64) -> Region {
        let at = from & (self.capacity - 1);
        let first = len.min(self.capacity - at);
        Region {
            at: at as usize,
            first: first as usize,
            second: (len - first) as usize,
        }
    }

    /// Claims up to `len` bytes to read, at least one. `place` is that of a reader that waited; 0: it
    /// did not.
    pub fn begin_read(&mut self, len: u64, place: u64) -> Claim {
        let has = self.readers.has(place);
        if !has && self.ended() {
            return Claim::Over;
        }
        if self.is_empty() || (!has && self.readers.taken(place)) {
            self.readers.end(place);
            self.readers.untold = true;
            return Claim::Wait;
        }
        let place = self.readers.begin(place);
        Claim::Granted(self.region(self.read, len.min(self.len())), place)
    }

    /// Ends the turn of `place`, in which the first `len` bytes of the claim were read. `false`: that
    /// place had not begun a turn, or there are not so many bytes, and nothing was read.
    #[must_use]
    pub fn end_read(&mut self, len: u64, place: u64) -> bool {
        let read = self.readers.copies(place) && len <= self.len();
        self.readers.end(place);
        if read {
            self.read += len;
            self.writers.untold |= len > 0;
        }
        read
    }

    /// Lets a reader wait, after [`Pipe::begin_read`] said so under the same lock: at its place, or
    /// behind all others (0).
    ///
    /// # Safety
    ///
    /// It stays valid until it was finished or left.
    pub unsafe fn wait_read(&mut self, reader: W, place: u64) {
        let place = match place {
            0 => self.readers.new_place(ORDINARY),
            place => place,
        };
        // SAFETY: By the contract.
        unsafe { self.readers.wait(reader, place) };
    }

    /// Ends a reader's wait from its own side.
    ///
    /// # Safety
    ///
    /// It waits here, and was not finished.
    pub unsafe fn leave_read(&mut self, reader: NonNull<W::Target>) -> W {
        // SAFETY: By the contract it is on the list.
        unsafe { self.readers.waiting.remove(reader) }
    }

    // Writing.

    /// The room that a write waits for that has `len` bytes left.
    pub fn wanted(len: u64) -> u64 {
        len.min(PIPE_ATOMIC)
    }

    /// Claims room for a write that has `len` bytes left, at least one: for all of them where it
    /// is `atomic`, else for as many as there is. `place` is that of a writer that waited, or has the
    /// turn already (0: neither); `middle`: a part of the write is done. Who has the turn has it still
    /// if nothing is granted.
    pub fn begin_write(&mut self, len: u64, atomic: bool, place: u64, middle: bool) -> Claim {
        let has = self.writers.has(place);
        // Before all else: what follows may find the turn another's.
        if middle && !has {
            return Claim::Lost;
        }
        if self.closed() {
            return Claim::Over;
        }
        let room = self.room();
        if room < if atomic { len } else { 1 } || (!has && self.writers.taken(place)) {
            self.writers.untold = true;
            self.full += u64::from(!has);
            return Claim::Wait;
        }
        let place = self.writers.begin(place);
        Claim::Granted(self.region(self.written, len.min(room)), place)
    }

    /// The first `len` bytes of the claim of `place` are written. The writer keeps the turn. `false`:
    /// that place has not begun a turn, or there is no such room, and nothing was written.
    #[must_use]
    pub fn commit_write(&mut self, len: u64, place: u64) -> bool {
        if !self.writers.copies(place) || len > self.room() {
            return false;
        }
        self.written += len;
        self.high = self.high.max(self.len());
        self.readers.untold = true;
        true
    }

    /// Ends the turn of a side that `place` has, begun or only given. Nothing happens if another has
    /// it, or none (0).
    pub fn give_up(&mut self, reads: bool, place: u64) {
        self.side(reads).end(place);
    }

    fn side(&mut self, reads: bool) -> &mut Side<W> {
        match reads {
            true => &mut self.readers,
            false => &mut self.writers,
        }
    }

    /// Lets a writer wait, after [`Pipe::begin_write`] said so under the same lock: at its place, or
    /// behind all others (0). In the `middle` of a write it comes before all others, and gives its
    /// turn up until there is room.
    ///
    /// # Safety
    ///
    /// It stays valid until it was finished or left.
    pub unsafe fn wait_write(&mut self, writer: W, place: u64, middle: bool) {
        self.writers.end(place);
        let place = match (middle, place) {
            (true, _) => self.writers.new_place(MIDDLE),
            (false, 0) => self.writers.new_place(ORDINARY),
            (false, place) => place,
        };
        // SAFETY: By the contract.
        unsafe { self.writers.wait(writer, place) };
    }

    /// Ends a writer's wait from its own side.
    ///
    /// # Safety
    ///
    /// It waits here, and was not finished.
    pub unsafe fn leave_write(&mut self, writer: NonNull<W::Target>) -> W {
        // SAFETY: By the contract it is on the list.
        unsafe { self.writers.waiting.remove(writer) }
    }

    // Another capacity.

    /// Takes the turn of a side, whether it has something to do or not, and returns the place that
    /// has it. `None`: another has it.
    pub fn begin_turn(&mut self, reads: bool, place: u64) -> Option<u64> {
        let side = self.side(reads);
        if side.turn != 0 && !side.has(place) {
            return None;
        }
        let place = match place {
            0 => side.new_place(FIRST),
            place => place,
        };
        Some(side.begin(place))
    }

    /// Lets who changes the capacity wait, after [`Pipe::begin_turn`] said so under the same lock.
    ///
    /// # Safety
    ///
    /// It stays valid until it was finished or left.
    pub unsafe fn wait_turn(&mut self, waiter: W, reads: bool, place: u64) {
        let side = self.side(reads);
        let place = match place {
            0 => side.new_place(FIRST),
            place => place,
        };
        // SAFETY: By the contract.
        unsafe { side.wait(waiter, place) };
    }

    /// Ends those turns that were begun to change the capacity.
    pub fn end_turns(&mut self, turns: Turns) {
        for (side, place) in [
            (&mut self.readers, turns.reads),
            (&mut self.writers, turns.writes),
        ] {
            // Pollers and callers that do not wait may have come in between.
            side.untold |= side.end(place);
        }
    }

    /// Whether a ring of `capacity` may take the place of this one, now.
    fn resizable(&self, capacity: u64, turns: Turns) -> bool {
        self.readers.copies(turns.reads)
            && self.writers.copies(turns.writes)
            && self.len() <= capacity
    }

    /// What is to be moved to a ring of another size, by who has the turns of both sides. `None`: it
    /// would not fit, or the turns are another's.
    pub fn begin_resize(&self, capacity: u64, turns: Turns) -> Option<Parts> {
        self.resizable(capacity, turns).then_some(Parts {
            next: self.read,
            end: self.written,
            from: self.capacity,
            to: capacity,
        })
    }

    /// The bytes have been moved to a ring of `capacity`, a power of two. `false`: as above, and the
    /// old ring stays.
    #[must_use]
    pub fn end_resize(&mut self, capacity: u64, turns: Turns) -> bool {
        let resizable = self.resizable(capacity, turns);
        if resizable {
            self.capacity = capacity;
        }
        resizable
    }
}
