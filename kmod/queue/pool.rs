// SPDX-License-Identifier: GPL-2.0
//! The lease table of a pool: which block is whose.
//!
//! A block is free, or there are leases of it. A lease is held, by a process through a handle, or
//! flies with a message. A block with more than one lease is shared, and only to be read.
//!
//! What flies together is a [`Flight`], and lands together, decided by whoever comes first: the
//! receiver ([`Pool::receive`]), the sender whose send failed ([`Pool::reclaim`]), or the message
//! that is freed ([`Pool::lose`]). A message can be freed while its sender does not know yet how
//! the send ended, and may have to get its leases back: what was lost waits for [`Pool::sent`] or
//! `reclaim` then.
//!
//! A held lease is on two lists, which are linked by the numbers of leases: that of its block, and
//! that of its holder. The first lease of each holder is also on a hash chain. So what a holder has
//! is found without looking at what others have, and reclaiming it ([`Pool::settle`]) takes the first
//! lease of the holder's list again and again: there is no place in a list to lose between two holds
//! of the lock, whatever others lend and give back meanwhile. Nothing is allocated but with the pool.

use super::{
    list::{List, Owner},
    tree::mix,
};
use core::{ops::DerefMut, ptr::NonNull};

const NONE: u32 = u32::MAX;

/// The most leases of one block, so that finding one takes a bounded time.
pub const SHARES_MAX: u32 = 1024;

/// The most leases that [`Pool::settle`] reclaims in one step.
const STEP: u32 = 32;

/// Who holds a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The handle.
    pub handle: usize,
    /// The process.
    pub process: u64,
}

/// A task that waits for a block. The list of them owns pointers that the tasks keep valid.
pub trait Borrower: Owner {
    /// What wakes it, once the lock is dropped.
    type Wake;

    /// Ends its wait: a block flies to it.
    fn finish(self, flight: Flight) -> Self::Wake;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unused,
    Held(Holder),
    Flying(u64),
}

/// What is known of how the send of a flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    Sent,
    /// The message was freed before its sender knew.
    Lost,
}

/// A block.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// The first of its leases, or the next free block.
    first: u32,
    leases: u32,
}

/// A lease, or room for one.
///
/// The array of leases is a hash table of holders, too: as an element it is also a bucket, of the
/// first leases of certain holders.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    state: State,
    /// Of the first one of a flight.
    phase: Phase,
    /// It was made for the message, and its sender has another.
    copy: bool,
    block: u32,
    /// The next one of the block, or the next that is unused.
    next: u32,
    /// The one before it of the block.
    prev: u32,
    /// The next one of the flight, or of the holder.
    after: u32,
    /// The one before it of the holder.
    before: u32,
    /// Of the first one of a holder: that of the next holder on the chain.
    chain: u32,
    /// The beginning of the chain of the bucket of this number.
    bucket: u32,
    /// How many bytes of the block are meant.
    len: u64,
}

impl Block {
    /// A block that is not part of a table yet.
    pub const NEW: Self = Self {
        first: NONE,
        leases: 0,
    };
}

impl Lease {
    /// Room that is not part of a table yet.
    pub const NEW: Self = Self {
        state: State::Unused,
        phase: Phase::Sent,
        copy: false,
        block: NONE,
        next: NONE,
        prev: NONE,
        after: NONE,
        before: NONE,
        chain: NONE,
        bucket: NONE,
        len: 0,
    };
}

/// Leases that fly together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Never used again.
    id: u64,
    first: u32,
    last: u32,
    count: u32,
}

impl Flight {
    /// How many they are.
    pub fn count(&self) -> u32 {
        self.count
    }
}

/// Why a lease cannot go with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The sender does not hold it.
    NotHeld,
    /// There are as many leases, of the block or of all, as there can be.
    TooMany,
}

/// A lease that flies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flying {
    /// The block.
    pub block: u32,
    /// How many bytes of it are meant.
    pub len: u64,
    /// Whether there are other leases of it.
    pub shared: bool,
}

/// Numbers of leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Blocks lent.
    pub lent: u64,
    /// Blocks that became free.
    pub freed: u64,
    /// Requests for a block that found none.
    pub empty: u64,
    /// The most blocks that were not free at once.
    pub high: u64,
    /// Leases that fly.
    pub flying: u64,
}

/// The table.
///
/// # Invariants
///
/// A block is on the list of the free ones or has `leases > 0` leases on its own list. There are
/// at least as many unused leases as free blocks: sharing cannot make a loan fail.
///
/// The held leases of a holder are one list. The first one, and no other, is on the chain of the
/// holder's bucket.
pub struct Pool<B, L, W: Borrower> {
    blocks: B,
    leases: L,
    first_free: u32,
    free_count: u32,
    first_unused: u32,
    unused_count: u32,
    flights: u64,
    waiting: List<W>,
    counters: PoolCounters,
}

impl<B, L, W: Borrower> Pool<B, L, W>
where
    B: DerefMut<Target = [Block]>,
    L: DerefMut<Target = [Lease]>,
{
    /// A table with the memory of so many blocks, and at least as many leases, less than
    /// `u32::MAX` of both. All blocks are free.
    pub fn new(mut blocks: B, mut leases: L) -> Self {
        let (block_count, lease_count) = (blocks.len() as u32, leases.len() as u32);
        for (i, block) in (1..).zip(blocks.iter_mut()) {
            block.first = if i < block_count { i } else { NONE };
        }
        for (i, lease) in (1..).zip(leases.iter_mut()) {
            lease.next = if i < lease_count { i } else { NONE };
        }
        Self {
            blocks,
            leases,
            first_free: if block_count > 0 { 0 } else { NONE },
            free_count: block_count,
            first_unused: if lease_count > 0 { 0 } else { NONE },
            unused_count: lease_count,
            flights: 0,
            waiting: List::new(),
            counters: PoolCounters {
                lent: 0,
                freed: 0,
                empty: 0,
                high: 0,
                flying: 0,
            },
        }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// How many of them are free.
    pub fn free(&self) -> u32 {
        self.free_count
    }

    /// How many leases there are.
    pub fn leases(&self) -> u32 {
        self.leases.len() as u32 - self.unused_count
    }

    /// How many tasks wait for a block.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The counters.
    pub fn counters(&self) -> PoolCounters {
        self.counters
    }

    /// Whether a block could be lent now.
    pub fn available(&self) -> bool {
        self.free_count > 0 && self.waiting.is_empty()
    }

    fn lease(&self, number: u32) -> Option<&Lease> {
        self.leases.get(number as usize)
    }

    fn lease_mut(&mut self, number: u32) -> Option<&mut Lease> {
        self.leases.get_mut(number as usize)
    }

    fn block_mut(&mut self, number: u32) -> Option<&mut Block> {
        self.blocks.get_mut(number as usize)
    }

    /// A new lease of a block, which nobody holds yet.
    fn add(&mut self, block: u32) -> Option<u32> {
        let number = self.first_unused;
        let first = self.blocks.get(block as usize)?.first;
        let lease = self.leases.get_mut(number as usize)?;
        self.first_unused = lease.next;
        *lease = Lease {
            block,
            next: first,
            bucket: lease.bucket,
            ..Lease::NEW
        };
        if let Some(first) = self.lease_mut(first) {
            first.prev = number;
        }
        self.unused_count -= 1;
        let block = self.block_mut(block)?;
        block.first = number;
        block.leases += 1;
        Some(number)
    }

    /// The bucket of a holder. No user knows the address of a handle, and distances of addresses do
    /// not survive the hash: nobody can choose many holders of one bucket.
    #[inline(always)]
    fn bucket(&self, holder: Holder) -> u32 {
        let mixed = mix(holder.handle as u64 ^ holder.process.rotate_left(32));
        (((mixed >> 32) * self.leases.len() as u64) >> 32) as u32
    }

    /// A lease, which nobody holds, is held from now on: it is the first one of its holder, and at the
    /// beginning of the chain.
    #[inline(always)]
    fn hold(&mut self, number: u32, holder: Holder) {
        let bucket = self.bucket(holder);
        let Some(bucket) = self.lease_mut(bucket) else {
            return;
        };
        let first = core::mem::replace(&mut bucket.bucket, number);
        let (mut after, mut chain) = (first, first);
        if let Some(lease) = self.lease_mut(first) {
            if lease.state == State::Held(holder) {
                chain = lease.chain;
                lease.before = number;
            } else {
                after = self.unchain(first, holder);
                if let Some(lease) = self.lease_mut(after) {
                    lease.before = number;
                }
            }
        }
        if let Some(lease) = self.lease_mut(number) {
            lease.state = State::Held(holder);
            (lease.before, lease.after) = (NONE, after);
            lease.chain = chain;
        }
    }

    /// A lease is its holder's no longer, if it was held.
    #[inline(always)]
    fn release(&mut self, number: u32) {
        let Some(lease) = self.lease_mut(number) else {
            return;
        };
        let State::Held(holder) = lease.state else {
            return;
        };
        lease.state = State::Unused;
        let chain = lease.chain;
        let before = core::mem::replace(&mut lease.before, NONE);
        let after = core::mem::replace(&mut lease.after, NONE);
        let mut next = chain;
        if let Some(lease) = self.lease_mut(after) {
            lease.before = before;
            lease.chain = chain;
            next = after;
        }
        if let Some(lease) = self.lease_mut(before) {
            lease.after = after;
            return;
        }
        let bucket = self.bucket(holder);
        let Some(bucket) = self.lease_mut(bucket) else {
            return;
        };
        if bucket.bucket == number {
            bucket.bucket = next;
        } else {
            let first = bucket.bucket;
            self.rechain(first, number, next);
        }
    }

    /// Takes the first lease of a holder off the chain that begins with another holder's.
    #[cold]
    fn unchain(&mut self, beginning: u32, holder: Holder) -> u32 {
        let first = self.first_of(beginning, holder);
        if let Some(lease) = self.lease(first) {
            self.rechain(beginning, first, lease.chain);
        }
        first
    }

    /// Replaces a lease on the chain that begins with another one by the next one, or by another lease.
    #[cold]
    fn rechain(&mut self, beginning: u32, number: u32, next: u32) {
        let mut at = beginning;
        while let Some(lease) = self.lease_mut(at) {
            if lease.chain == number {
                lease.chain = next;
                return;
            }
            at = lease.chain;
        }
    }

    /// The first lease of a holder, on the chain from `at` on; `NONE`: it has none.
    fn first_of(&self, mut at: u32, holder: Holder) -> u32 {
        while let Some(lease) = self.lease(at) {
            if lease.state == State::Held(holder) {
                return at;
            }
            at = lease.chain;
        }
        NONE
    }

    /// Ends a lease, and with the last one of a block makes that free.
    fn remove(&mut self, number: u32) {
        let unused = self.first_unused;
        self.release(number);
        let Some(lease) = self.lease_mut(number) else {
            return;
        };
        let (block, prev, next) = (lease.block, lease.prev, lease.next);
        *lease = Lease {
            next: unused,
            bucket: lease.bucket,
            ..Lease::NEW
        };
        self.first_unused = number;
        self.unused_count += 1;
        let free = self.first_free;
        let Some(entry) = self.block_mut(block) else {
            return;
        };
        entry.leases -= 1;
        if entry.leases == 0 {
            entry.first = free;
            self.first_free = block;
            self.free_count += 1;
            self.counters.freed += 1;
            return;
        }
        if entry.first == number {
            entry.first = next;
        }
        if let Some(lease) = self.lease_mut(prev) {
            lease.next = next;
        }
        if let Some(lease) = self.lease_mut(next) {
            lease.prev = prev;
        }
    }

    /// The lease of a block that somebody holds.
    fn find(&self, holder: Holder, block: u32) -> Option<u32> {
        let block = self.blocks.get(block as usize)?;
        if block.leases == 0 {
            return None;
        }
        let mut at = block.first;
        while let Some(lease) = self.lease(at) {
            if lease.state == State::Held(holder) {
                return Some(at);
            }
            at = lease.next;
        }
        None
    }

    /// A lease of a free block, which nobody holds yet.
    fn lend(&mut self) -> Option<(u32, u32)> {
        let number = self.first_free;
        let block = self.block_mut(number)?;
        let next = block.first;
        *block = Block::NEW;
        let lease = self.add(number)?;
        self.first_free = next;
        self.free_count -= 1;
        self.counters.lent += 1;
        let lent = u64::from(self.blocks() - self.free_count);
        self.counters.high = self.counters.high.max(lent);
        Some((number, lease))
    }

    /// Lends a block, if there is one and nobody waits.
    pub fn loan(&mut self, holder: Holder) -> Option<u32> {
        if !self.available() {
            return None;
        }
        let (block, lease) = self.lend()?;
        self.hold(lease, holder);
        Some(block)
    }

    /// The same for one that is to be used later. It is refused when less than half of the blocks
    /// are free, for others who need one now.
    pub fn loan_ahead(&mut self, holder: Holder) -> Option<u32> {
        if self.free_count < self.blocks() / 2 {
            return None;
        }
        self.loan(holder)
    }

    /// Notes that somebody found no block.
    pub fn found_none(&mut self) {
        self.counters.empty += 1;
    }

    /// Whether there is more than one lease of a block, so that finding one may take long.
    pub fn is_shared(&self, block: u32) -> bool {
        let block = self.blocks.get(block as usize);
        block.is_some_and(|block| block.leases > 1)
    }

    /// Takes a lease back. `false`: that holder does not have it.
    pub fn give_back(&mut self, holder: Holder, block: u32) -> bool {
        match self.find(holder, block) {
            Some(lease) => {
                self.remove(lease);
                true
            }
            None => false,
        }
    }

    // Flights.

    /// An empty flight, whose sender does not know yet how the send ends.
    pub fn begin(&mut self) -> Flight {
        self.flights += 1;
        Flight {
            id: self.flights,
            first: NONE,
            last: NONE,
            count: 0,
        }
    }

    /// Adds `len` bytes of a block to a flight: the lease of `holder`, or, to `share` it, another
    /// one.
    pub fn embark(
        &mut self,
        flight: &mut Flight,
        holder: Holder,
        block: u32,
        len: u64,
        share: bool,
    ) -> Result<(), Refusal> {
        let held = self.find(holder, block).ok_or(Refusal::NotHeld)?;
        let number = if share {
            let leases = self.blocks.get(block as usize).map_or(0, |b| b.leases);
            if leases >= SHARES_MAX || self.unused_count <= self.free_count {
                return Err(Refusal::TooMany);
            }
            self.add(block).ok_or(Refusal::TooMany)?
        } else {
            held
        };
        self.board(flight, number, len, share);
        Ok(())
    }

    fn board(&mut self, flight: &mut Flight, number: u32, len: u64, copy: bool) {
        self.release(number);
        if let Some(lease) = self.lease_mut(number) {
            lease.state = State::Flying(flight.id);
            lease.phase = Phase::Sending;
            lease.copy = copy;
            lease.len = len;
        }
        match self.lease_mut(flight.last) {
            Some(last) => last.after = number,
            None => flight.first = number,
        }
        flight.last = number;
        flight.count += 1;
        self.counters.flying += 1;
    }

    /// The first lease of a flight that has not landed.
    fn first(&self, flight: &Flight) -> Option<&Lease> {
        let lease = self.lease(flight.first)?;
        (lease.state == State::Flying(flight.id)).then_some(lease)
    }

    fn phase(&self, flight: &Flight) -> Option<Phase> {
        self.first(flight).map(|lease| lease.phase)
    }

    fn set_phase(&mut self, flight: &Flight, phase: Phase) {
        if let Some(lease) = self.lease_mut(flight.first) {
            lease.phase = phase;
        }
    }

    /// The leases of a flight that has not landed, one by one; `at` is where the last call was.
    pub fn look(&self, flight: &Flight, at: &mut Option<u32>) -> Option<Flying> {
        let number = at.unwrap_or(flight.first);
        let lease = self.lease(number)?;
        if lease.state != State::Flying(flight.id) {
            return None;
        }
        *at = Some(lease.after);
        let leases = self.blocks.get(lease.block as usize)?.leases;
        Some(Flying {
            block: lease.block,
            len: lease.len,
            shared: leases > 1,
        })
    }

    /// Ends a flight that has not landed, by `each` of its leases.
    fn land(&mut self, flight: &Flight, mut each: impl FnMut(&mut Self, u32)) {
        let mut at = flight.first;
        while let Some(lease) = self.lease(at) {
            if lease.state != State::Flying(flight.id) {
                return;
            }
            let after = lease.after;
            self.counters.flying -= 1;
            each(self, at);
            at = after;
        }
    }

    /// The send succeeded. Returns whether its leases ended, since the message was freed before.
    pub fn sent(&mut self, flight: &Flight) -> bool {
        let first = self.lease_mut(flight.first);
        let Some(first) = first.filter(|lease| lease.state == State::Flying(flight.id)) else {
            return false;
        };
        let lost = first.phase == Phase::Lost;
        first.phase = Phase::Sent;
        if lost {
            self.land(flight, Self::remove);
        }
        lost
    }

    /// The send failed: what the sender had is its again, or free, if it can have nothing any
    /// more. Returns how many leases it has again; `None`: somebody has received them all the
    /// same.
    pub fn reclaim(&mut self, flight: &Flight, holder: Option<Holder>) -> Option<u32> {
        if flight.count == 0 {
            return Some(0);
        }
        self.first(flight)?;
        let mut held = 0;
        self.land(flight, |pool, number| {
            let copy = pool.lease(number).is_some_and(|lease| lease.copy);
            match holder {
                Some(holder) if !copy => {
                    pool.hold(number, holder);
                    held += 1;
                }
                _ => pool.remove(number),
            }
        });
        Some(held)
    }

    /// The message is freed.
    pub fn lose(&mut self, flight: &Flight) {
        match self.phase(flight) {
            Some(Phase::Sending) => self.set_phase(flight, Phase::Lost),
            Some(Phase::Sent) => self.land(flight, Self::remove),
            Some(Phase::Lost) | None => {}
        }
    }

    /// The message is received: its leases are the receiver's, or free, if it can have nothing
    /// any more.
    pub fn receive(&mut self, flight: &Flight, holder: Option<Holder>) {
        self.land(flight, |pool, number| match holder {
            Some(holder) => pool.hold(number, holder),
            None => pool.remove(number),
        });
    }

    // Waiting.

    /// Lends a block to the first who waits for one. To be called until it returns `None`, after
    /// blocks became free.
    pub fn grant(&mut self) -> Option<W::Wake> {
        if self.free_count == 0 {
            return None;
        }
        let first = self.waiting.pop_front()?;
        let mut flight = self.begin();
        if let Some((_, lease)) = self.lend() {
            self.board(&mut flight, lease, 0, false);
            self.set_phase(&flight, Phase::Sent);
        }
        Some(first.finish(flight))
    }

    /// Whether nobody can be granted anything.
    pub fn settled(&self) -> bool {
        self.free_count == 0 || self.waiting.is_empty()
    }

    /// Lets a task wait.
    ///
    /// # Safety
    ///
    /// `waiter` stays valid until it was finished or has left.
    pub unsafe fn wait(&mut self, waiter: W) {
        self.waiting.push_back(waiter);
    }

    /// Ends a wait.
    ///
    /// # Safety
    ///
    /// `waiter` waits here and was not finished.
    pub unsafe fn leave(&mut self, waiter: NonNull<W::Target>) {
        // SAFETY: By the contract it is on the list.
        unsafe { self.waiting.remove(waiter) };
    }

    /// Reclaims what a holder has, but no more than `left` leases: [`Self::leases`], when that began.
    /// Does a part, and returns `false` if there may be more to do.
    ///
    /// A holder that has more was lent some meanwhile, since it entered anew: it is settled again.
    pub fn settle(&mut self, holder: Holder, left: &mut u32) -> bool {
        let bucket = self.bucket(holder);
        for _ in 0..STEP {
            let beginning = self.lease(bucket).map_or(NONE, |lease| lease.bucket);
            let first = self.first_of(beginning, holder);
            if first == NONE || *left == 0 {
                return true;
            }
            *left -= 1;
            self.remove(first);
        }
        false
    }
}
