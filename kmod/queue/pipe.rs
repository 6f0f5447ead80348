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

use super::list::{List, Owner};
use core::ptr::NonNull;

/// Writes of up to so many bytes go in whole.
pub const PIPE_ATOMIC: u64 = 4096;

/// A task that waits. The list of them owns pointers that the tasks keep valid.
pub trait TurnWaiter: Owner {
    /// What wakes it, once the lock is dropped.
    type Wake;

    /// The bytes of room that it waits for, if it writes.
    fn wants(waiter: &Self::Target) -> u64;

    /// Ends its wait.
    fn finish(self, turn: Turn) -> Self::Wake;
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It has the turn, and there are bytes to read, or there is the room that it wanted.
    Yours,
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
    /// The turn, and this region to copy.
    Granted(Region),
    /// Nothing now.
    Wait,
    /// Nothing any more: the other side is gone.
    Over,
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

/// One of the two sides: who reads, or who writes.
struct Side<W: TurnWaiter> {
    handles: u32,
    /// There is a handle, or there was one.
    came: bool,
    /// One of them has the turn.
    busy: bool,
    waiting: List<W>,
    /// Something has become possible that pollers of this side have not been told of.
    untold: bool,
}

impl<W: TurnWaiter> Side<W> {
    const fn new() -> Self {
        Self {
            handles: 0,
            came: false,
            busy: false,
            waiting: List::new(),
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

    /// Whether somebody else has the turn, or comes first.
    fn taken(&self) -> bool {
        self.busy || !self.waiting.is_empty()
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
        let taken = self.readers.taken();
        self.readers.untold |= taken;
        !self.is_empty() && !taken
    }

    /// Whether a write of up to [`PIPE_ATOMIC`] bytes that does not wait succeeds. As above.
    pub fn writable(&mut self) -> bool {
        let taken = self.writers.taken();
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

    /// Ends the next wait that can be ended. To be called after every change, until there is none.
    pub fn end_wait(&mut self) -> Option<W::Wake> {
        if self.ended() {
            if let Some(reader) = self.readers.waiting.pop_front() {
                return Some(reader.finish(Turn::Over));
            }
        } else if !self.is_empty() && !self.readers.busy {
            if let Some(reader) = self.readers.waiting.pop_front() {
                self.readers.busy = true;
                return Some(reader.finish(Turn::Yours));
            }
        }
        if let Some(wants) = self.writers.waiting.front().map(W::wants) {
            let closed = self.closed();
            if closed || (!self.writers.busy && wants <= self.room()) {
                let writer = self.writers.waiting.pop_front()?;
                self.writers.busy |= !closed;
                let turn = if closed { Turn::Over } else { Turn::Yours };
                return Some(writer.finish(turn));
            }
        }
        None
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

    /// Claims up to `len` bytes to read, at least one. `turn`: the reader has the turn already.
    pub fn begin_read(&mut self, len: u64, turn: bool) -> Claim {
        if !turn && self.ended() {
            return Claim::Over;
        }
        if self.is_empty() || (!turn && self.readers.taken()) {
            self.readers.untold = true;
            return Claim::Wait;
        }
        self.readers.busy = true;
        Claim::Granted(self.region(self.read, len.min(self.len())))
    }

    /// Ends a turn, in which the first `len` bytes of the claim were read.
    pub fn end_read(&mut self, len: u64) {
        self.readers.busy = false;
        self.read += len;
        self.writers.untold |= len > 0;
    }

    /// Lets a reader wait, after [`Pipe::begin_read`] said so under the same lock.
    ///
    /// # Safety
    ///
    /// It stays valid until it was finished or left.
    pub unsafe fn wait_read(&mut self, reader: W) {
        self.readers.waiting.push_back(reader);
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
    /// is `atomic`, else for as many as there is. `turn`: the writer has the turn already, and
    /// has it still if nothing is granted.
    pub fn begin_write(&mut self, len: u64, atomic: bool, turn: bool) -> Claim {
        if self.closed() {
            return Claim::Over;
        }
        let room = self.room();
        if room < if atomic { len } else { 1 } || (!turn && self.writers.taken()) {
            self.writers.untold = true;
            self.full += u64::from(!turn);
            return Claim::Wait;
        }
        self.writers.busy = true;
        Claim::Granted(self.region(self.written, len.min(room)))
    }

    /// The first `len` bytes of the claim are written. The writer keeps the turn.
    pub fn commit_write(&mut self, len: u64) {
        self.written += len;
        self.high = self.high.max(self.len());
        self.readers.untold = true;
    }

    /// Ends a turn.
    pub fn end_write(&mut self) {
        self.writers.busy = false;
    }

    /// Lets a writer wait, after [`Pipe::begin_write`] said so under the same lock: before all
    /// others where it has the turn, which it is then given again.
    ///
    /// # Safety
    ///
    /// It stays valid until it was finished or left.
    pub unsafe fn wait_write(&mut self, writer: W, turn: bool) {
        if turn {
            self.writers.busy = false;
            self.writers.waiting.push_front(writer);
        } else {
            self.writers.waiting.push_back(writer);
        }
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

    /// Takes the turns of both sides, to move the bytes to a ring of another size. `None`: one of
    /// them is taken by a copy, or the bytes would not fit.
    pub fn begin_resize(&mut self, capacity: u64) -> Option<Parts> {
        if self.readers.busy || self.writers.busy || self.len() > capacity {
            return None;
        }
        self.readers.busy = true;
        self.writers.busy = true;
        Some(Parts {
            next: self.read,
            end: self.written,
            from: self.capacity,
            to: capacity,
        })
    }

    /// The bytes have been moved to a ring of `capacity`, a power of two.
    pub fn end_resize(&mut self, capacity: u64) {
        self.capacity = capacity;
        self.readers.busy = false;
        self.writers.busy = false;
        self.writers.untold = true;
    }
}
