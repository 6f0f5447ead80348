// SPDX-License-Identifier: GPL-2.0
//! The pool as a kernel object: memory in blocks, and leases of them, also those that go with
//! messages. Which block is whose is decided in `queue/pool.rs`, and never read from the memory.
//!
//! How many leases a process holds through a handle is in the handle's [`Shares`]: who has no entry
//! there has closed its last descriptor, and gets nothing any more. The pool's lock is taken first.

use crate::{
    chardev,
    compat::{edquot, eopnotsupp},
    handle::Handle,
    helpers::{self, UserBytes, GFP_MAYFAIL},
    mailbox::OUT,
    mapping::{Area, Memory},
    object::Object,
    queue::{self, Block, Borrower, Flight, Holder, Lease, Refusal, SHARES_MAX},
    quota::{Pinned, SharedCharge},
    request::{address, ensure, Place},
    share::{Handles, Leaving, Shares},
    uapi,
    wait::{Outcome, Pollers, Wait, Waiter, WaiterPtr, Wake},
};
use core::{mem::size_of, pin::pin, ptr::NonNull};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{aref::ARef, lock::spinlock::SpinLockGuard, new_spinlock, Arc, SpinLock},
};

impl Borrower for WaiterPtr {
    type Wake = Wake;

    fn finish(self, flight: Flight) -> Wake {
        self.finish(Outcome::Lent(flight))
    }
}

/// How many numbers of blocks are copied at once.
const CHUNK: usize = 32;
const NUMBER: usize = size_of::<u32>();

/// What the lock guards.
struct Inner {
    table: queue::Pool<KVVec<Block>, KVVec<Lease>, WaiterPtr>,
    handles: Handles,
    requests: u64,
}

/// A pool.
#[pin_data]
pub(crate) struct Pool {
    pub(crate) memory: Memory,
    block_bytes: u64,
    #[pin]
    inner: SpinLock<Inner>,
    pollers: Pollers,
    _charge: SharedCharge,
}

impl Pool {
    /// One of so many blocks in the memory of a descriptor of the current task, which `user` pays
    /// for.
    pub(crate) fn new(
        memfd: i32,
        reserve: bool,
        blocks: u64,
        block_bytes: u64,
        user: &Pinned,
    ) -> Result<impl PinInit<Self>> {
        ensure((1..=u64::from(uapi::POSTBOX_BLOCKS_MAX)).contains(&blocks))?;
        ensure(block_bytes != 0 && block_bytes % u64::from(uapi::POSTBOX_BLOCK_ALIGN) == 0)?;
        let memory = Memory::new(memfd)?;
        let needed = blocks.checked_mul(block_bytes).ok_or(EINVAL)?;
        ensure(memory.writable() && needed <= memory.size())?;
        let charge = user.charge_shared(memory.size())?;
        if reserve {
            memory.reserve()?;
        }
        let blocks = blocks as usize;
        // As many again for sharing, and as many as one block of a small pool can need.
        let leases = 2 * blocks + SHARES_MAX as usize;
        let table = queue::Pool::new(
            KVVec::from_elem(Block::NEW, blocks, GFP_MAYFAIL)?,
            KVVec::from_elem(Lease::NEW, leases, GFP_MAYFAIL)?,
        );
        let pollers = Pollers::new()?;
        Ok(pin_init!(Self {
            memory,
            block_bytes,
            inner <- new_spinlock!(
                Inner {
                    table,
                    handles: Handles::default(),
                    requests: 0,
                },
                "postbox_pool"
            ),
            pollers,
            _charge: charge,
        }))
    }

    /// A handle was bound.
    pub(crate) fn open(&self, sends: bool, receives: bool) {
        self.inner.lock().handles.open(sends, receives);
    }

    /// A handle was closed for the last time.
    pub(crate) fn close(&self, sends: bool, receives: bool) {
        self.inner.lock().handles.close(sends, receives);
    }

    /// Ends the leases that a process, or any, holds through a handle.
    pub(crate) fn process_closed(&self, shares: &Shares, leaving: Leaving) {
        loop {
            let (share, mut left) = {
                let inner = self.inner.lock();
                (shares.settle(leaving), inner.table.leases())
            };
            let Some(share) = share else {
                return;
            };
            let holder = Holder {
                handle: number_of(shares),
                process: share.process,
            };
            drop(share);
            // Whatever the share counted: a process that enters anew while its old leases are settled
            // may give some of those back against its new share.
            let (mut done, mut freed) = (false, false);
            while !done {
                let mut inner = self.inner.lock();
                let before = left;
                done = inner.table.settle(holder, &mut left);
                // Pollers are many, and are woken only where a block may have become free.
                freed |= left != before;
                self.grant(inner);
            }
            if freed {
                self.pollers.wake_later();
            }
        }
    }

    /// Maps it for a handle with these rights.
    pub(crate) fn map(&self, area: &Area, sends: bool, receives: bool) -> Result {
        if !receives {
            return Err(EACCES);
        }
        self.memory.map(area, sends)
    }

    /// What poll says to a handle with these rights.
    ///
    /// # Safety
    ///
    /// As for [`Pollers::add`].
    pub(crate) unsafe fn poll(
        &self,
        file: &File,
        table: *mut bindings::poll_table_struct,
        sends: bool,
    ) -> u32 {
        // SAFETY: By the contract.
        unsafe { self.pollers.add(file, table, sends, false) };
        if sends {
            self.events()
        } else {
            0
        }
    }

    fn events(&self) -> u32 {
        if self.inner.lock().table.available() {
            OUT
        } else {
            0
        }
    }

    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        let inner = self.inner.lock();
        let (table, counters) = (&inner.table, inner.table.counters());
        inner.handles.describe(info);
        info.capacity = table.blocks().into();
        info.capacity_bytes = self.block_bytes;
        info.message_max = self.memory.size();
        info.messages = counters.flying;
        info.unacknowledged = u64::from(table.leases()).saturating_sub(counters.flying);
        info.waiting_senders = table.waiting() as u32;
        info.sent = counters.lent;
        info.received = counters.freed;
        info.full = counters.empty;
        info.high_messages = counters.high;
        info.value = table.free().into();
        info.maximum = table.blocks().into();
        info.requests = inner.requests;
    }

    /// Somebody asks for blocks, or gives some back, with a request of its own.
    pub(crate) fn requested(&self) {
        self.inner.lock().requests += 1;
    }

    /// Lends what can be lent to who waits now.
    fn settle(&self, inner: SpinLockGuard<'_, Inner>) {
        self.grant(inner);
        self.pollers.wake(OUT, || self.events());
    }

    /// Grants one at a time: each is woken outside the lock. As many as wait now, since those who are
    /// woken may wait again without end: a waiter that comes while blocks are free grants once
    /// itself, so that nobody is passed over.
    fn grant<'a>(&'a self, mut inner: SpinLockGuard<'a, Inner>) {
        if inner.table.settled() {
            return;
        }
        for _ in 0..inner.table.waiting() {
            let wake = inner.table.grant();
            drop(inner);
            if wake.is_none() {
                return;
            }
            drop(wake);
            inner = self.inner.lock();
        }
    }
}

/// What stands for a handle as long as it exists.
fn number_of(shares: &Shares) -> usize {
    core::ptr::from_ref(shares) as usize
}

/// A pool as the current process has it through a handle.
#[derive(Clone, Copy)]
pub(crate) struct Access<'a> {
    pool: &'a Arc<Pool>,
    id: u64,
    shares: &'a Shares,
    holder: Holder,
    sends: bool,
}

impl<'a> Access<'a> {
    pub(crate) fn new(handle: &'a Handle) -> Result<Self> {
        let bound = handle.bound()?;
        let Object::Pool(pool) = &bound.object else {
            return Err(eopnotsupp());
        };
        Ok(Self {
            pool,
            id: bound.id,
            shares: &handle.state.shares,
            holder: Holder {
                handle: number_of(&handle.state.shares),
                process: helpers::process(),
            },
            sends: bound.side().sends,
        })
    }

    /// The pool's number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The pool.
    pub(crate) fn pool(&self) -> &Pool {
        self.pool
    }

    /// Makes sure that the process can hold leases.
    pub(crate) fn enter(&self) -> Result {
        self.shares.enter(self.holder.process)
    }

    /// The process has so many leases more. `false`: it can have none any more.
    fn add(&self, count: u32) -> bool {
        self.shares.lock().add(self.holder.process, count.into())
    }

    /// Gives back the last of `count` blocks of an array, and so on to the first. `count` is how
    /// many are left.
    pub(crate) fn give_back(&self, returns: u64, count: &mut u32) -> Result {
        ensure(*count <= uapi::POSTBOX_LOANS_MAX)?;
        while *count > 0 {
            let mut bytes = [0; CHUNK * NUMBER];
            let some = (*count as usize).min(CHUNK);
            let bytes = bytes.get_mut(..some * NUMBER).ok_or(EINVAL)?;
            let first = (*count as usize - some) * NUMBER;
            UserBytes::at(address(returns)?)
                .after(first)
                .copy_to(bytes)?;
            let mut inner = self.pool.inner.lock();
            let (mut given, mut held) = (0, true);
            for number in bytes.chunks_exact(NUMBER).rev() {
                let block = u32::from_ne_bytes(number.try_into().unwrap_or_default());
                let shared = inner.table.is_shared(block);
                held = inner.table.give_back(self.holder, block);
                given += u32::from(held);
                // Of those that are shared, one for each hold of the lock.
                if shared || !held {
                    break;
                }
            }
            let mut shares = self.shares.lock();
            shares.subtract_some(self.holder.process, given.into());
            drop(shares);
            self.pool.settle(inner);
            *count -= given;
            if !held {
                return Err(ENOENT);
            }
        }
        Ok(())
    }

    /// Borrows as many blocks as an array has room for beyond the `count` that are there. With
    /// `wait`, the first of all is waited for.
    pub(crate) fn borrow(
        &self,
        loans: u64,
        max: u32,
        count: &mut u32,
        wait: Option<&Wait<'_>>,
    ) -> Result {
        ensure(max <= uapi::POSTBOX_LOANS_MAX && *count <= max)?;
        if max == *count {
            return Ok(());
        }
        if !self.sends {
            return Err(EACCES);
        }
        self.enter()?;
        while *count < max {
            let mut blocks = [0; CHUNK];
            let some = ((max - *count) as usize).min(CHUNK);
            let blocks = blocks.get_mut(..some).ok_or(EINVAL)?;
            let lent = match wait.filter(|_| *count == 0) {
                Some(wait) => self.borrow_first(wait, blocks)?,
                None => self.borrow_ahead(blocks)?,
            };
            let blocks = blocks.get(..lent).ok_or(EINVAL)?;
            let mut bytes = [0; CHUNK * NUMBER];
            for (to, block) in bytes.chunks_exact_mut(NUMBER).zip(blocks) {
                to.copy_from_slice(&block.to_ne_bytes());
            }
            let bytes = bytes.get(..lent * NUMBER).ok_or(EINVAL)?;
            let to = address(loans).map(|at| UserBytes::at(at).after(*count as usize * NUMBER));
            if let Err(error) = to.and_then(|to| to.copy_from(bytes)) {
                self.undo(blocks);
                return Err(error);
            }
            *count += lent as u32;
            if lent < some {
                break;
            }
        }
        Ok(())
    }

    /// Borrows one, and then others as far as that harms nobody.
    fn borrow_first(&self, wait: &Wait<'_>, blocks: &mut [u32]) -> Result<usize> {
        let (first, rest) = blocks.split_first_mut().ok_or(EINVAL)?;
        *first = self.borrow_one(wait)?;
        // The first is lent in any case.
        Ok(1 + self.borrow_ahead(rest).unwrap_or(0))
    }

    fn borrow_ahead(&self, blocks: &mut [u32]) -> Result<usize> {
        let mut inner = self.pool.inner.lock();
        let mut lent = 0;
        for to in blocks.iter_mut() {
            let Some(block) = inner.table.loan_ahead(self.holder) else {
                break;
            };
            *to = block;
            lent += 1;
        }
        if self.add(lent as u32) {
            return Ok(lent);
        }
        for block in blocks.iter().take(lent) {
            inner.table.give_back(self.holder, *block);
        }
        self.pool.settle(inner);
        Err(EBADF)
    }

    fn borrow_one(&self, wait: &Wait<'_>) -> Result<u32> {
        let waiter = pin!(Waiter::new());
        let waiter = waiter.as_ref();
        {
            let mut inner = self.pool.inner.lock();
            if let Some(block) = inner.table.loan(self.holder) {
                if self.add(1) {
                    return Ok(block);
                }
                inner.table.give_back(self.holder, block);
                self.pool.settle(inner);
                return Err(EBADF);
            }
            inner.table.found_none();
            if !wait.may_wait() {
                return Err(EAGAIN);
            }
            // SAFETY: The waiter is pinned here. Below, it is done, or leaves.
            unsafe { inner.table.wait(waiter.pointer()) };
            // Whoever grants meanwhile does not count this waiter: see `grant`.
            let wake = inner.table.grant();
            drop(inner);
            drop(wake);
        }
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            let mut inner = self.pool.inner.lock();
            outcome = waiter.outcome();
            if outcome.is_none() {
                // SAFETY: It waits here, and is not done.
                unsafe { inner.table.leave(NonNull::from(waiter.get_ref())) };
                return Err(error);
            }
        }
        let Some(Outcome::Lent(flight)) = outcome else {
            return Err(EINTR);
        };
        let mut inner = self.pool.inner.lock();
        let lent = inner.table.look(&flight, &mut None);
        let holder = self.add(1).then_some(self.holder);
        inner.table.receive(&flight, holder);
        self.pool.settle(inner);
        match (lent, holder) {
            (Some(lent), Some(_)) => Ok(lent.block),
            // Another thread has closed the last descriptor.
            _ => Err(EBADF),
        }
    }

    /// Gives back what was borrowed and cannot be told.
    fn undo(&self, blocks: &[u32]) {
        for block in blocks {
            let mut inner = self.pool.inner.lock();
            let given = inner.table.give_back(self.holder, *block);
            let mut shares = self.shares.lock();
            shares.subtract_some(self.holder.process, given.into());
            drop(shares);
            self.pool.settle(inner);
        }
    }
}

/// The leases that a send takes along, as its sender sees them. They are the sender's again unless
/// they were [`sent`](Self::sent).
pub(crate) struct Outgoing<'a> {
    access: Access<'a>,
    flight: Option<Flight>,
}

impl<'a> Outgoing<'a> {
    /// Those that `count` entries of an array name.
    pub(crate) fn new(access: Access<'a>, entries: u64, count: u32) -> Result<Self> {
        ensure(count <= uapi::POSTBOX_LEASES_MAX)?;
        let mut outgoing = Self {
            access,
            flight: None,
        };
        for i in 0..count {
            let place = Place::of_entry(entries, i, size_of::<uapi::postbox_lease>())?;
            let entry = place.read_lease()?;
            ensure(entry.flags & !uapi::POSTBOX_LEASE_SHARED == 0)?;
            ensure(entry.len <= access.pool.block_bytes)?;
            outgoing.embark(&entry)?;
        }
        Ok(outgoing)
    }

    fn embark(&mut self, entry: &uapi::postbox_lease) -> Result {
        let Access {
            pool,
            shares,
            holder,
            ..
        } = self.access;
        let share = entry.flags != 0;
        let mut inner = pool.inner.lock();
        let flight = self.flight.get_or_insert_with(|| inner.table.begin());
        match inner
            .table
            .embark(flight, holder, entry.block, entry.len, share)
        {
            Ok(()) => {}
            Err(Refusal::NotHeld) => return Err(ENOENT),
            Err(Refusal::TooMany) => return Err(edquot()),
        }
        if !share {
            shares.lock().subtract_some(holder.process, 1);
        }
        Ok(())
    }

    /// What the message carries.
    pub(crate) fn leases(&self) -> Option<Leases> {
        Some(Leases {
            pool: self.access.pool.clone(),
            id: self.access.id,
            flight: Some(self.flight?),
        })
    }

    /// The same for a command, which may be parked. `pool` is the file of the handle that lends.
    pub(crate) fn keep(mut self, pool: &ARef<File>) -> Option<Kept> {
        Some(Kept {
            pool: pool.clone(),
            holder: self.access.holder,
            flight: Some(self.flight.take()?),
        })
    }

    /// The message was sent.
    pub(crate) fn sent(mut self) {
        if let Some(flight) = self.flight.take() {
            let mut inner = self.access.pool.inner.lock();
            // Nothing became free otherwise.
            if inner.table.sent(&flight) {
                self.access.pool.settle(inner);
            }
        }
    }

    /// It was not. `false`: somebody has received it all the same.
    pub(crate) fn failed(mut self) -> bool {
        self.reclaim()
    }

    fn reclaim(&mut self) -> bool {
        let Some(flight) = self.flight.take() else {
            return true;
        };
        let Access {
            pool,
            shares,
            holder,
            ..
        } = self.access;
        let mut inner = pool.inner.lock();
        let mut table = shares.lock();
        let alive = table.get(holder.process).map(|_| holder);
        let held = inner.table.reclaim(&flight, alive);
        table.add(holder.process, held.unwrap_or(0).into());
        drop(table);
        pool.settle(inner);
        held.is_some()
    }
}

impl Drop for Outgoing<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.flight.is_some() {
            self.reclaim();
        }
    }
}

/// The leases that a command takes along, until it is known how that ended. They are the sender's
/// again unless they were sent.
pub(crate) struct Kept {
    pool: ARef<File>,
    holder: Holder,
    flight: Option<Flight>,
}

impl Kept {
    /// The message was sent, or was not. `false`: it was not, but somebody has received them all the
    /// same.
    pub(crate) fn settle(mut self, sent: bool) -> bool {
        self.end(sent)
    }

    fn end(&mut self, sent: bool) -> bool {
        let flight = self.flight.take();
        let handle = chardev::as_handle(&self.pool);
        let access = handle.as_deref().map(Access::new);
        let Some(Ok(access)) = access else {
            // It was one when they were taken along.
            return true;
        };
        let outgoing = Outgoing {
            access: Access {
                holder: self.holder,
                ..access
            },
            flight,
        };
        if sent {
            outgoing.sent();
            return true;
        }
        outgoing.failed()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.flight.is_some() {
            self.end(false);
        }
    }
}

/// The leases that a message carries. They end with it, unless somebody receives them.
pub(crate) struct Leases {
    pool: Arc<Pool>,
    /// The pool's number.
    pub(crate) id: u64,
    flight: Option<Flight>,
}

impl Leases {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.flight.as_ref().map_or(0, |flight| flight.count()) as usize
    }

    /// Whether they are of this pool.
    pub(crate) fn are_of(&self, access: &Access<'_>) -> bool {
        Arc::ptr_eq(&self.pool, access.pool)
    }

    /// Describes them in an array, with these flags. Returns how many were described: not all of them
    /// where the sender withdraws the message meanwhile, which then is not received.
    pub(crate) fn describe(&self, entries: u64, flags: u32) -> Result<usize> {
        let Some(flight) = &self.flight else {
            return Ok(0);
        };
        let mut at = None;
        for i in 0..flight.count() {
            let lease = self.pool.inner.lock().table.look(flight, &mut at);
            let Some(lease) = lease else {
                return Ok(i as usize);
            };
            let shared = if lease.shared {
                uapi::POSTBOX_LEASE_SHARED
            } else {
                0
            };
            let place = Place::of_entry(entries, i, size_of::<uapi::postbox_lease>())?;
            place.write_lease(&uapi::postbox_lease {
                block: lease.block,
                flags: flags | shared,
                len: lease.len,
            })?;
        }
        Ok(flight.count() as usize)
    }

    /// The message is received, for good.
    pub(crate) fn receive(mut self, access: &Access<'_>) {
        let Some(flight) = self.flight.take() else {
            return;
        };
        let mut inner = self.pool.inner.lock();
        let holder = access.add(flight.count()).then_some(access.holder);
        inner.table.receive(&flight, holder);
        // Nothing became free otherwise.
        if holder.is_none() {
            self.pool.settle(inner);
        }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            let mut inner = self.pool.inner.lock();
            inner.table.lose(&flight);
            self.pool.settle(inner);
        }
    }
}
