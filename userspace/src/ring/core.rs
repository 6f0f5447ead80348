//! The ring itself: two sides of memory that both have mapped, and a doorbell for the side that
//! sleeps. What it sleeps and wakes by is a parameter, so that this is the code that runs on the
//! kernel's doorbell, on a futex, and under loom.
//!
//! - The consumer alone writes the head, and producers the tail. Each publishes its own with a
//!   barrier after it, and then looks whether the other side sleeps; who goes to sleep says so
//!   first, and then looks at the indices, with a barrier in between. One of the two sees the other.
//! - Everything that a peer can write is loaded once and checked.
//! - With many producers, a record is published when it is reserved, and its header says whether it
//!   is committed. The word that orders them says who has it: of a producer that died with it, it is
//!   taken over, as the only thing that it guards is the store of the tail.

use super::index::{Geometry, Header, Tail, UNIT, USUAL, checked, small_units, units};
use crate::wait::Wait;
use rustix::io::Errno;
use std::ptr::NonNull;
use std::time::Duration;

#[cfg(loom)]
use loom::{
    sync::Arc,
    sync::atomic::{AtomicU32, AtomicU64, fence},
};
#[cfg(not(loom))]
use std::{
    sync::Arc,
    sync::atomic::{AtomicU32, AtomicU64, fence},
};

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

/// The most producers of one ring.
pub(crate) const PRODUCERS: usize = if cfg!(loom) { 4 } else { 64 };

/// A side of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that receives.
    Consumer,
    /// The one that sends.
    Producer,
}

/// What the kernel says; processes can only read it.
#[repr(C)]
pub(crate) struct Status {
    pub(crate) consumer_waiting: AtomicU32,
    pub(crate) producer_waiting: AtomicU32,
    pub(crate) state: AtomicU32,
    /// Where there is no kernel, counts producers.
    #[cfg(not(loom))]
    pub(crate) came: AtomicU32,
    #[cfg(not(loom))]
    reserved: [u32; 12],
    /// The producers that are there.
    pub(crate) producers: [AtomicU32; PRODUCERS],
}

impl Status {
    /// The word that says whether a side sleeps.
    pub(crate) fn waiting(&self, side: Side) -> &AtomicU32 {
        match side {
            Side::Consumer => &self.consumer_waiting,
            Side::Producer => &self.producer_waiting,
        }
    }

    /// Whether a producer is there.
    fn alive(&self, id: u32) -> bool {
        self.producers[id as usize % PRODUCERS].load(Acquire) == id
    }
}

/// What the consumer writes.
#[repr(C)]
pub(crate) struct Head {
    #[cfg(not(loom))]
    reserved: [u64; 16],
    pub(crate) head: AtomicU32,
}

/// What producers write.
#[repr(C)]
pub(crate) struct Tails {
    #[cfg(not(loom))]
    reserved: [u64; 32],
    pub(crate) tail: AtomicU64,
    #[cfg(not(loom))]
    reserved2: [u64; 15],
    /// The producer, of many, that reserves.
    pub(crate) lock: AtomicU32,
}

/// Bits of `Status::state`.
pub(crate) const PRODUCER_CLOSED: u32 = 1;
pub(crate) const PRODUCER_DIED: u32 = 2;
pub(crate) const CONSUMER_CLOSED: u32 = 4;
pub(crate) const CONSUMER_DIED: u32 = 8;

/// Memory that is there as long as this is.
#[cfg(not(loom))]
pub(crate) type Keeper = dyn Send + Sync;
#[cfg(loom)]
pub(crate) type Keeper = tests::Pages;

/// Where a ring is.
#[derive(Clone)]
pub(crate) struct Area {
    pub(crate) status: NonNull<Status>,
    pub(crate) head: NonNull<Head>,
    pub(crate) tails: NonNull<Tails>,
    #[cfg(not(loom))]
    pub(crate) data: NonNull<u8>,
    pub(crate) geometry: Geometry,
    /// Whether there may be many producers.
    pub(crate) many: bool,
    /// Keeps it there.
    pub(crate) _keeper: Arc<Keeper>,
}

// SAFETY: what the pointers lead to is made of atomics, or raw memory that is only accessed by who
// has reserved or received it; the keeper keeps it.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    pub(crate) fn status(&self) -> &Status {
        // SAFETY: it is there as long as the keeper.
        unsafe { self.status.as_ref() }
    }

    pub(crate) fn head(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &self.head.as_ref().head }
    }

    fn tails(&self) -> &Tails {
        // SAFETY: as above.
        unsafe { self.tails.as_ref() }
    }

    pub(super) fn tail(&self) -> Tail {
        Tail::unpack(self.tails().tail.load(Acquire))
    }

    /// The header of the record that begins at a position.
    #[cfg(not(loom))]
    fn header(&self, position: u32) -> &AtomicU64 {
        let offset = self.geometry.at(position) * UNIT;
        // SAFETY: it is in the ring, and aligned. Whoever else writes to it does so in one word.
        unsafe { AtomicU64::from_ptr(self.data.add(offset).cast().as_ptr()) }
    }

    #[cfg(loom)]
    fn header(&self, position: u32) -> &AtomicU64 {
        &self._keeper.headers[self.geometry.at(position)]
    }

    /// The first byte of the payload of a record. The ring is there twice in a row, so that the
    /// longest record that begins anywhere in the first one ends before the second one does.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn payload(&self, position: u32) -> NonNull<u8> {
        let offset = (self.geometry.at(position) + 1) * UNIT;
        // SAFETY: it is within the first ring, or just behind it.
        unsafe { self.data.add(offset) }
    }
}

/// Stores, so that what is loaded afterwards is not older: see the top.
#[inline]
fn publish_word(word: &AtomicU64, value: u64) {
    if cfg!(all(target_arch = "x86_64", not(loom))) {
        // The same there, in one instruction.
        word.swap(value, SeqCst);
    } else {
        word.store(value, Release);
        fence(SeqCst);
    }
}

#[inline]
fn publish_index(word: &AtomicU32, value: u32) {
    if cfg!(all(target_arch = "x86_64", not(loom))) {
        word.swap(value, SeqCst);
    } else {
        word.store(value, Release);
        fence(SeqCst);
    }
}

/// Has the line of a word brought here, to be written soon.
#[inline]
fn prepare(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    // SAFETY: it changes nothing but the cache.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(word.as_ptr().cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    let _ = word;
}

/// Why a call ended without what it was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is nothing, or no room, now.
    NotNow,
    /// Another producer reserves a record, and has not done so for a while.
    Contended,
    /// The time is up.
    Timeout,
    /// The other side has closed.
    Closed,
    /// The other side has died.
    Died,
    /// The other side has written what makes no sense.
    Corrupt,
    /// No record is so long.
    TooLong,
    /// The doorbell failed.
    Os(Errno),
}

/// What a side sleeps and is woken by.
///
/// It is implemented for the kernel's doorbell and for futexes; other implementations are not
/// foreseen.
#[doc(hidden)]
#[allow(private_interfaces)]
pub trait Doorbell {
    /// Sleeps until `side` may go on, which is when `ready` says so, or for no reason. It has
    /// [`Status::waiting`] set before it looks for the last time.
    fn sleep(
        &self,
        area: &Area,
        side: Side,
        ready: &mut dyn FnMut() -> bool,
        wait: Wait,
    ) -> Result<(), Stop>;

    /// Wakes `side`, of which `Status::waiting` is set.
    fn ring(&self, area: &Area, side: Side);

    /// A side is done with the ring: the consumer, or the producer of a number.
    fn detach(&self, area: &Area, side: Side, id: u32);

    /// Whether the side belongs to this process, and is not the copy that a fork has made of its parent's.
    fn is_here(&self) -> bool {
        true
    }

    /// Arms what watches `side` from outside, before it finds that it would have to wait.
    fn watch(&self, _area: &Area, _side: Side) {}
}

/// How long a side looks again and again before it sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    /// The most looks.
    most: u32,
    /// How many at present: fewer where they were in vain.
    now: u32,
}

impl Spin {
    pub(crate) fn new(most: u32) -> Self {
        Spin { most, now: most }
    }

    /// Looks until something is there. What `look` fails with is an end, too.
    fn run<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        for turn in 0..self.now {
            if let Some(found) = look() {
                self.now = self.now.saturating_mul(2).clamp(1, self.most);
                return Some(found);
            }
            // A pause takes as long as a line of a cache needs to come, or longer: after each look, it
            // would add half of one on average to what is waited for.
            if turn % 2 == 1 {
                std::hint::spin_loop();
            }
        }
        // Never quite off, so that it finds out when it would be worth it again.
        self.now = (self.now / 2).max(self.most / 64);
        None
    }
}

/// How often a side has called the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingCalls {
    /// To wake the other side.
    pub doorbells: u64,
    /// To sleep.
    pub sleeps: u64,
}

/// The sending side.
pub(crate) struct Tx<D: Doorbell> {
    pub(crate) area: Area,
    pub(crate) bell: D,
    /// This producer's number; of a single one, too.
    id: u32,
    /// Of a single one: where its next record goes, and how long the one before it is.
    tail: Tail,
    /// Of a single one: units behind the tail that are free for all that is known. Of many: 0.
    free: u32,
    /// Where the tail was when the consumer could see it at last.
    seen: u32,
    pub(crate) spin: Spin,
    pub(crate) calls: RingCalls,
}

impl<D: Doorbell> Tx<D> {
    pub(crate) fn new(area: Area, bell: D, id: u32, spin: u32) -> Self {
        let tail = area.tail();
        Tx {
            area,
            bell,
            id,
            tail,
            free: 0,
            seen: tail.position,
            spin: Spin::new(spin),
            calls: RingCalls::default(),
        }
    }

    fn ended(&self) -> Option<Stop> {
        let state = self.area.status().state.load(Acquire);
        if state & CONSUMER_DIED != 0 {
            Some(Stop::Died)
        } else if state & CONSUMER_CLOSED != 0 {
            Some(Stop::Closed)
        } else {
            None
        }
    }

    /// Of a single one: looks how much is free.
    #[inline]
    fn look(&mut self) -> Result<(), Stop> {
        let head = self.area.head().load(Acquire);
        let free = self.area.geometry.free(head, self.tail.position);
        self.free = free.unwrap_or(0);
        free.map(drop).ok_or(Stop::Corrupt)
    }

    /// Of many: finds room for so many units behind the tail, and returns the head from which that is
    /// known. The lock is held.
    ///
    /// The head that was known at the last reservation is beside the tail, never more than a ring behind
    /// it. A producer cannot keep a head of its own: while it reserves nothing, the others may bring the
    /// tail once through all positions, and an old head would look like a recent one.
    fn room(&self, tail: Tail, units: u32) -> Result<u32, Stop> {
        let geometry = self.area.geometry;
        // No record is longer than half of the ring. A head that cannot be is looked at anew.
        if tail.position.wrapping_sub(tail.last) <= geometry.units() - units {
            return Ok(tail.last);
        }
        let head = self.area.head().load(Acquire);
        let free = geometry.free(head, tail.position).ok_or(Stop::Corrupt)?;
        if free < units {
            return Err(Stop::NotNow);
        }
        Ok(head)
    }

    /// Reserves a record, and returns its position. It never waits: where another producer is slow to let
    /// it, there is no room now.
    pub(crate) fn try_reserve(&mut self, len: usize) -> Result<u32, Stop> {
        self.attempt(len).map_err(|stop| match stop {
            Stop::Contended => Stop::NotNow,
            stop => stop,
        })
    }

    fn attempt(&mut self, len: usize) -> Result<u32, Stop> {
        let longest = self.area.geometry.longest();
        let len = u32::try_from(len).ok().filter(|len| *len <= longest);
        let len = len.ok_or(Stop::TooLong)?;
        if let Some(ended) = self.ended() {
            return Err(ended);
        }
        if self.area.many {
            return self.try_reserve_among_many(len);
        }
        if units(len) > self.free {
            self.look()?;
            if units(len) > self.free {
                return Err(Stop::NotNow);
            }
        }
        Ok(self.head_record(len))
    }

    /// Of a single one: writes the header of the record that comes next.
    #[inline(always)]
    fn head_record(&self, len: u32) -> u32 {
        let position = self.tail.position;
        let header = Header::Committed { len }.pack();
        self.area.header(position).store(header, Relaxed);
        position
    }

    fn try_reserve_among_many(&mut self, len: u32) -> Result<u32, Stop> {
        let owner = self.id;
        self.lock()?;
        let tail = self.area.tail();
        let position = tail.position;
        let reserved = self.room(tail, units(len)).map(|head| {
            let header = Header::Busy { len, owner }.pack();
            self.area.header(position).store(header, Relaxed);
            let tail = Tail {
                position: position.wrapping_add(units(len)),
                last: head,
            };
            self.area.tails().tail.store(tail.pack(), Release);
            position
        });
        self.area.tails().lock.store(0, Release);
        reserved
    }

    /// Gets the word that orders producers, of one that is dead if need be. `Contended`: another has it for
    /// longer than a store takes. It may be preempted, or stopped.
    fn lock(&self) -> Result<(), Stop> {
        const TRIES: u32 = if cfg!(loom) { 2 } else { 512 };
        let lock = &self.area.tails().lock;
        for _ in 0..TRIES {
            // With it, that its producer was there before it took it.
            let seen = lock.load(Acquire);
            let free = seen == 0 || seen == self.id || !self.area.status().alive(seen);
            if free
                && lock
                    .compare_exchange(seen, self.id, AcqRel, Relaxed)
                    .is_ok()
            {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        Err(Stop::Contended)
    }

    /// Reserves a record of a usual length where there is room for all that is known, which is nearly
    /// always.
    #[inline(always)]
    pub(crate) fn reserve_quickly(&mut self, len: usize) -> Option<u32> {
        const ENDED: u32 = CONSUMER_CLOSED | CONSUMER_DIED;
        let state = self.area.status().state.load(Acquire);
        let fits = len <= USUAL && small_units(len as u32) <= self.free;
        (fits && state & ENDED == 0).then(|| self.head_record(len as u32))
    }

    /// Reserves a record, and waits for room.
    pub(crate) fn reserve(&mut self, len: usize, wait: Wait) -> Result<u32, Stop> {
        match self.try_reserve(len) {
            Err(Stop::NotNow) => {}
            done => return done,
        }
        self.publish();
        if wait == Wait::Never {
            self.bell.watch(&self.area, Side::Producer);
            return self.try_reserve(len);
        }
        let wait = wait.fixed();
        let mut patience = Patience::default();
        loop {
            let mut spin = self.spin;
            let found = spin.run(|| match self.attempt(len) {
                Err(Stop::NotNow) => None,
                done => Some(done),
            });
            self.spin = spin;
            match found.unwrap_or_else(|| self.attempt(len)) {
                Err(Stop::NotNow) => {}
                Err(Stop::Contended) => {
                    patience.pause(wait)?;
                    continue;
                }
                done => return done,
            }
            let area = &self.area;
            let mut ready = || {
                let used = area
                    .geometry
                    .used(area.head().load(Acquire), area.tail().position);
                used.is_none_or(|used| area.geometry.units() - used >= area.geometry.half())
                    || area.status().state.load(Acquire) & (CONSUMER_CLOSED | CONSUMER_DIED) != 0
            };
            // With half of the ring free there is room: it came just now, or the consumer plays with the head.
            if ready() {
                patience.pause(wait)?;
                continue;
            }
            self.calls.sleeps += 1;
            match self.bell.sleep(area, Side::Producer, &mut ready, wait) {
                // Less than half of the ring may still be enough.
                Err(Stop::Timeout) => match self.try_reserve(len) {
                    Err(Stop::NotNow) => return Err(Stop::Timeout),
                    done => return done,
                },
                Err(stop) => return Err(stop),
                Ok(()) if wait.is_over() => {
                    return self.try_reserve(len).map_err(|stop| match stop {
                        Stop::NotNow => Stop::Timeout,
                        stop => stop,
                    });
                }
                Ok(()) => {}
            }
        }
    }

    /// The record that was reserved is there. To be published.
    #[inline]
    pub(crate) fn commit(&mut self, position: u32, len: u32) {
        if self.area.many {
            return self.settle(position, Header::Committed { len });
        }
        self.commit_next(len);
    }

    /// The same of a single one, whose next record it is.
    #[inline(always)]
    pub(crate) fn commit_next(&mut self, len: u32) {
        let units = units(len);
        self.tail = Tail {
            position: self.tail.position.wrapping_add(units),
            last: len,
        };
        // So much was free when it was reserved.
        self.free = self.free.wrapping_sub(units);
    }

    /// The record that was reserved is not to be.
    pub(crate) fn abort(&mut self, position: u32, len: u32) {
        // The parent of a forked child may go on with the record.
        if self.area.many && self.bell.is_here() {
            self.settle(position, Header::Aborted { len });
        }
    }

    /// Of many producers: the record is done.
    fn settle(&mut self, position: u32, header: Header) {
        publish_word(self.area.header(position), header.pack());
        let status = self.area.status();
        // Whoever comes to the record that the consumer waits for wakes it. If the head is an older
        // one, so is the flag, and the consumer will look again.
        if status.consumer_waiting.load(SeqCst) != 0 && self.area.head().load(Acquire) == position {
            self.calls.doorbells += 1;
            self.bell.ring(&self.area, Side::Consumer);
        }
    }

    /// Lets the consumer see what was committed.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.tail.position == self.seen {
            return;
        }
        self.seen = self.tail.position;
        publish_word(&self.area.tails().tail, self.tail.pack());
        if self.area.status().consumer_waiting.load(SeqCst) != 0 {
            self.calls.doorbells += 1;
            self.bell.ring(&self.area, Side::Consumer);
        }
        // Now there is time for what the next record needs: its line, and where the consumer is.
        prepare(self.area.header(self.tail.position));
        if self.free < self.area.geometry.half() {
            // What makes no sense is found out by who wants the room.
            let _ = self.look();
        }
    }
}

impl<D: Doorbell> Drop for Tx<D> {
    fn drop(&mut self) {
        // The parent of a forked child has published other records since then: the tail must not go back.
        if self.bell.is_here() {
            self.publish();
            self.bell.detach(&self.area, Side::Producer, self.id);
        }
    }
}

/// A record that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) position: u32,
    pub(crate) len: u32,
    /// Its units, with its header.
    pub(crate) units: u32,
}

/// The receiving side.
pub(crate) struct Rx<D: Doorbell> {
    pub(crate) area: Area,
    pub(crate) bell: D,
    /// Where the next record is.
    head: u32,
    /// Where producers were at last.
    tail: Tail,
    /// The units of the last record before it, where that says how long it is; 0: it does not.
    alone: u32,
    /// Where the head was when producers could see it at last.
    seen: u32,
    pub(crate) spin: Spin,
    pub(crate) calls: RingCalls,
}

impl<D: Doorbell> Rx<D> {
    pub(crate) fn new(area: Area, bell: D, spin: u32) -> Self {
        let head = area.head().load(Acquire);
        Rx {
            area,
            bell,
            head,
            tail: Tail {
                position: head,
                last: 0,
            },
            alone: 0,
            seen: head,
            spin: Spin::new(spin),
            calls: RingCalls::default(),
        }
    }

    /// The next record, if it is there. It stays until it is [released](Self::release).
    #[inline(always)]
    pub(crate) fn peek(&mut self) -> Result<Option<Found>, Stop> {
        match self.at_hand() {
            None => self.peek_slowly(),
            found => Ok(found),
        }
    }

    /// The same of one that is known to be there, and not large: mostly.
    #[inline(always)]
    pub(crate) fn at_hand(&self) -> Option<Found> {
        let position = self.head;
        let used = self.tail.position.wrapping_sub(position);
        // Neither nothing nor what cannot be.
        if used.wrapping_sub(1) >= self.area.geometry.units() {
            return None;
        }
        if used != self.alone {
            return self.small(position, used);
        }
        Some(Found {
            position,
            len: self.tail.last,
            units: used,
        })
    }

    /// The record at a position, where its header says that it is there, not large, and within so many
    /// units: of none, there is none.
    #[inline(always)]
    fn small(&self, position: u32, within: u32) -> Option<Found> {
        let len = Header::small(self.area.header(position).load(Acquire))?;
        let units = small_units(len);
        (units <= within).then_some(Found {
            position,
            len,
            units,
        })
    }

    /// The next record, if it is within so many units.
    #[cold]
    #[inline(never)]
    fn next_within(&mut self, within: u32) -> Option<Found> {
        let from = self.head;
        if within == 0 {
            return None;
        }
        let found = self.peek_slowly().ok().flatten()?;
        // Records that are not to be may have been passed over.
        let passed = found.position.wrapping_sub(from);
        let within = within.checked_sub(passed)?;
        (found.units <= within).then_some(found)
    }

    /// Waits for a record, and begins a run with it.
    #[inline]
    pub(crate) fn run(&mut self, wait: Wait) -> Result<Run<'_, D>, Stop> {
        let first = self.next(wait)?;
        let there = self.tail.position.wrapping_sub(self.head);
        let most = self.area.geometry.half().max(first.units);
        Ok(Run {
            head: self.head,
            left: there.min(most),
            rx: self,
        })
    }

    #[inline(never)]
    pub(crate) fn peek_slowly(&mut self) -> Result<Option<Found>, Stop> {
        loop {
            if self.head == self.tail.position {
                self.tail = self.area.tail();
                if self.head == self.tail.position {
                    return Ok(None);
                }
                self.alone = match self.area.many {
                    true => 0,
                    false => self.tail.alone(self.area.geometry),
                };
            }
            let position = self.head;
            let used = self.area.geometry.used(position, self.tail.position);
            let used = used.ok_or(Stop::Corrupt)?;
            if used == self.alone {
                return Ok(Some(Found {
                    position,
                    len: self.tail.last,
                    units: used,
                }));
            }
            // Of one producer, the tail has ordered it.
            let word = self.area.header(position).load(Acquire);
            let mut header = Header::unpack(word).ok_or(Stop::Corrupt)?;
            if let Header::Busy { owner, .. } = header {
                if self.area.status().alive(owner) {
                    return Ok(None);
                }
                // The last that it wrote is there by now.
                let word = self.area.header(position).load(Acquire);
                header = Header::unpack(word).ok_or(Stop::Corrupt)?;
            }
            match header {
                Header::Committed { len } => {
                    let units = checked(len, used).ok_or(Stop::Corrupt)?;
                    return Ok(Some(Found {
                        position,
                        len,
                        units,
                    }));
                }
                Header::Aborted { len } | Header::Busy { len, .. } => {
                    let units = checked(len, used).ok_or(Stop::Corrupt)?;
                    self.head = position.wrapping_add(units);
                    // Producers have room up to a ring behind the head that they see. One that goes on
                    // beyond that would keep this call busy for as long as it likes.
                    if self.head.wrapping_sub(self.seen) > self.area.geometry.units() {
                        return Err(Stop::Corrupt);
                    }
                }
            }
        }
    }

    fn ended(&self) -> Option<Stop> {
        let state = self.area.status().state.load(Acquire);
        if state & PRODUCER_DIED != 0 {
            Some(Stop::Died)
        } else if state & PRODUCER_CLOSED != 0 {
            Some(Stop::Closed)
        } else {
            None
        }
    }

    /// The next record, or that there is none now or ever.
    pub(crate) fn try_next(&mut self) -> Result<Found, Stop> {
        if let Some(found) = self.peek()? {
            return Ok(found);
        }
        let Some(ended) = self.ended() else {
            return Err(Stop::NotNow);
        };
        // What came before the end.
        self.peek()?.ok_or(ended)
    }

    /// The next record, and waits for it.
    #[inline]
    pub(crate) fn next(&mut self, wait: Wait) -> Result<Found, Stop> {
        match self.peek()? {
            Some(found) => Ok(found),
            None => self.next_slowly(wait),
        }
    }

    #[inline(never)]
    fn next_slowly(&mut self, wait: Wait) -> Result<Found, Stop> {
        self.publish();
        let wait = wait.fixed();
        let done = |result| match result {
            Err(Stop::NotNow) => None,
            done => Some(done),
        };
        if wait == Wait::Never {
            if let Some(done) = done(self.try_next()) {
                return done;
            }
            self.bell.watch(&self.area, Side::Consumer);
            return self.try_next();
        }
        loop {
            let mut spin = self.spin;
            let found = spin.run(|| match self.peek() {
                Ok(None) => None,
                Ok(Some(found)) => Some(Ok(found)),
                Err(stop) => Some(Err(stop)),
            });
            self.spin = spin;
            if let Some(found) = found {
                return found;
            }
            if let Some(done) = done(self.try_next()) {
                return done;
            }
            // Records that are not to be may have been passed.
            self.publish();
            self.calls.sleeps += 1;
            let (area, head) = (&self.area, self.head);
            let mut ready = || {
                let status = area.status();
                let tail = area.tail().position;
                let ended = status.state.load(Acquire) & (PRODUCER_CLOSED | PRODUCER_DIED) != 0;
                let there = tail != head
                    && (!area.many
                        || match Header::unpack(area.header(head).load(Acquire)) {
                            Some(Header::Busy { owner, .. }) => !status.alive(owner),
                            _ => true,
                        });
                ended || there
            };
            match self.bell.sleep(area, Side::Consumer, &mut ready, wait) {
                Err(Stop::Timeout) => {
                    return done(self.try_next()).unwrap_or(Err(Stop::Timeout));
                }
                Err(stop) => return Err(stop),
                // A producer can have it woken for records that are not to be, again and again.
                Ok(()) if wait.is_over() => {
                    return done(self.try_next()).unwrap_or(Err(Stop::Timeout));
                }
                Ok(()) => {}
            }
        }
    }

    /// The record that was found is done with. To be published.
    #[inline]
    pub(crate) fn release(&mut self, found: Found) {
        self.head = found.position.wrapping_add(found.units);
    }

    /// Lets producers have the room of what was released.
    #[inline]
    pub(crate) fn publish(&mut self) {
        if self.head == self.seen {
            return;
        }
        self.seen = self.head;
        publish_index(self.area.head(), self.head);
        if self.area.status().producer_waiting.load(SeqCst) != 0 {
            self.wake_producers();
        }
    }

    /// Where half of the ring is free, which is what they wait for.
    #[inline(never)]
    fn wake_producers(&mut self) {
        let geometry = self.area.geometry;
        let used = geometry.used(self.head, self.area.tail().position);
        if used.is_none_or(|used| geometry.units() - used >= geometry.half()) {
            self.calls.doorbells += 1;
            self.bell.ring(&self.area, Side::Producer);
        }
    }
}

/// Records that are there, one after the other, up to half of the ring: so that a producer has room
/// for the next while these are looked at.
pub(crate) struct Run<'a, D: Doorbell> {
    pub(crate) rx: &'a mut Rx<D>,
    /// As the receiving side's.
    head: u32,
    /// Units from there on in which the records of this run are.
    left: u32,
}

impl<D: Doorbell> Run<'_, D> {
    /// The next one, which is released by that, and still there until that is published. `None`: it was
    /// the last, or it makes no sense, which the next receive will say.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<Found> {
        let found = match self.rx.small(self.head, self.left) {
            Some(found) => found,
            None => self.rx.next_within(self.left)?,
        };
        let next = found.position.wrapping_add(found.units);
        // With what was passed over.
        self.left = self.left.wrapping_sub(next.wrapping_sub(self.head));
        self.head = next;
        self.rx.release(found);
        Some(found)
    }
}

impl<D: Doorbell> Drop for Rx<D> {
    fn drop(&mut self) {
        // The parent of a forked child has released other records since then: the head must not go back.
        if self.bell.is_here() {
            self.publish();
            self.bell.detach(&self.area, Side::Consumer, 0);
        }
    }
}

/// How a producer waits for another one that has the word and does not go on: no doorbell tells of that.
/// A few times it lets others run; then it sleeps, longer each time, so that whoever has the word can run
/// whatever its priority is.
#[derive(Default)]
struct Patience {
    pauses: u32,
}

impl Patience {
    /// Waits a moment, and not beyond the time of `wait`.
    fn pause(&mut self, wait: Wait) -> Result<(), Stop> {
        const YIELDS: u32 = 4;
        const FIRST: Duration = Duration::from_micros(50);
        if wait.is_over() {
            return Err(Stop::Timeout);
        }
        self.pauses = self.pauses.saturating_add(1);
        match self.pauses.checked_sub(YIELDS + 1) {
            // From 50 us to 1.6 ms.
            Some(longer) if cfg!(not(any(loom, miri))) => {
                let time = FIRST * (1 << longer.min(5));
                std::thread::sleep(wait.left().map_or(time, |left| time.min(left)));
            }
            _ => yield_now(),
        }
        Ok(())
    }
}

fn yield_now() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::thread::yield_now();
}

#[cfg(loom)]
#[path = "loom.rs"]
pub(crate) mod tests;
