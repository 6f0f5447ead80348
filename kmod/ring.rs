// SPDX-License-Identifier: GPL-2.0
//! The ring as a kernel object: pages that both sides map, and a doorbell. Records go through the
//! pages alone; the kernel comes in when somebody would have to wait, or has reason to think that
//! somebody does.
//!
//! Who goes to sleep, or is polled, has the waiting word of its side set first, and then the
//! indices looked at, with a barrier in between. Who moves an index has a barrier behind it, and
//! then looks at that word. So one of the two sees the other. The word is cleared where the wait is
//! over, together with waking all who wait: whoever saw it set has nothing left to do.

use crate::{
    helpers::{self, limits},
    mailbox::{IN, OUT},
    mapping::{Area, Pages},
    queue::{
        ended, ring_busy, ring_has_room, ring_offset, ring_used, ring_writable, List, RingLeave,
        RingParties, RingRefusal, RingSide, RING_PRODUCERS, RING_UNIT,
    },
    quota::{Pinned, PipeCharge},
    share::{Leaving, Shares},
    uapi,
    uring::Parked,
    wait::{Outcome, Pollers, Wait, Waiter, WaiterPtr},
};
use core::{
    mem::{offset_of, size_of},
    pin::{pin, Pin},
    ptr::NonNull,
    sync::atomic::{fence, Ordering::SeqCst},
};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{
        atomic::{
            ordering::{Acquire, Relaxed, Release},
            Atomic,
        },
        lock::spinlock::SpinLockGuard,
        new_spinlock, SpinLock,
    },
};

const _: () = assert!(
    RING_PRODUCERS == uapi::POSTBOX_RING_PRODUCERS as usize
        && ended::PRODUCER_CLOSED == uapi::POSTBOX_RING_PRODUCER_CLOSED
        && ended::PRODUCER_DIED == uapi::POSTBOX_RING_PRODUCER_DIED
        && ended::CONSUMER_CLOSED == uapi::POSTBOX_RING_CONSUMER_CLOSED
        && ended::CONSUMER_DIED == uapi::POSTBOX_RING_CONSUMER_DIED
);

/// The capacity of a ring that was made without one.
const DEFAULT_CAPACITY: u64 = 65_536;

/// What a process has through a handle, as its share: a producer's number, and this for the
/// consumer.
const CONSUMER: u64 = 1 << 32;

type Guard<'a> = SpinLockGuard<'a, Inner>;

/// One side.
struct Sleepers {
    waiting: List<WaiterPtr>,
    /// Doorbells that were rung for it.
    woken: u64,
    /// Waits that slept.
    slept: u64,
}

impl Sleepers {
    const fn new() -> Self {
        Self {
            waiting: List::new(),
            woken: 0,
            slept: 0,
        }
    }
}

/// What the lock guards.
struct Inner {
    parties: RingParties,
    consumer: Sleepers,
    producer: Sleepers,
}

impl Inner {
    fn sleepers(&mut self, side: RingSide) -> &mut Sleepers {
        match side {
            RingSide::Consumer => &mut self.consumer,
            RingSide::Producer => &mut self.producer,
        }
    }
}

/// A ring.
#[pin_data]
pub(crate) struct Ring {
    pages: Pages,
    /// Units of the data.
    units: u32,
    #[pin]
    inner: SpinLock<Inner>,
    pollers: Pollers,
    _charge: PipeCharge,
}

impl Ring {
    /// A ring that holds at least `capacity` bytes; 0: as many as usual. `user` pays for them.
    pub(crate) fn new(
        capacity: u64,
        many: bool,
        persistent: bool,
        user: &Pinned,
    ) -> Result<impl PinInit<Self>> {
        let page = helpers::page_size() as u64;
        let wanted = match capacity {
            0 => DEFAULT_CAPACITY.min(limits::ring()),
            wanted if wanted <= limits::ring() => wanted,
            _ => return Err(EINVAL),
        };
        // At most 2^30.
        let capacity = wanted.max(page).next_power_of_two();
        let pages = capacity / page + u64::from(uapi::POSTBOX_RING_DATA_PAGE);
        // As a pipe's: it is memory of the kernel's, which cannot be swapped.
        let charge = user.charge_pipe(pages * page)?;
        let pages = Pages::new(usize::try_from(pages)?, usize::try_from(capacity / page)?)?;
        let pollers = Pollers::new()?;
        Ok(pin_init!(Self {
            pages,
            units: (capacity / RING_UNIT) as u32,
            inner <- new_spinlock!(
                Inner {
                    parties: RingParties::new(many, persistent),
                    consumer: Sleepers::new(),
                    producer: Sleepers::new(),
                },
                "postbox_ring"
            ),
            pollers,
            _charge: charge,
        }))
    }

    fn capacity(&self) -> u64 {
        u64::from(self.units) * RING_UNIT
    }

    // What is in the pages.

    fn page(number: u32) -> usize {
        number as usize * helpers::page_size()
    }

    fn status(&self, offset: usize) -> &Atomic<u32> {
        self.pages
            .word32(Self::page(uapi::POSTBOX_RING_STATUS_PAGE) + offset)
    }

    fn waiting(&self, side: RingSide) -> &Atomic<u32> {
        self.status(match side {
            RingSide::Consumer => offset_of!(uapi::postbox_ring_status, consumer_waiting),
            RingSide::Producer => offset_of!(uapi::postbox_ring_status, producer_waiting),
        })
    }

    fn head(&self) -> u32 {
        let head =
            Self::page(uapi::POSTBOX_RING_HEAD_PAGE) + offset_of!(uapi::postbox_ring_head, head);
        self.pages.word32(head).load(Acquire)
    }

    fn tail(&self) -> u32 {
        let tail =
            Self::page(uapi::POSTBOX_RING_TAIL_PAGE) + offset_of!(uapi::postbox_ring_tail, tail);
        self.pages.word64(tail).load(Acquire) as u32
    }

    fn header(&self, position: u32) -> u64 {
        let data = Self::page(uapi::POSTBOX_RING_DATA_PAGE);
        let offset = ring_offset(self.units, position) as usize;
        self.pages.word64(data + offset).load(Acquire)
    }

    /// Tells processes who is there, and what has happened.
    fn tell(&self, parties: &RingParties) {
        const PRODUCERS: usize = offset_of!(uapi::postbox_ring_status, producers);
        let places = if parties.many() { RING_PRODUCERS } else { 1 };
        for place in 0..places {
            self.status(PRODUCERS + place * size_of::<u32>())
                .store(parties.producer(place), Release);
        }
        self.status(offset_of!(uapi::postbox_ring_status, state))
            .store(parties.state(), Release);
    }

    /// Whether a side has no reason to wait. What cannot be is none.
    fn ready(&self, inner: &Inner, side: RingSide) -> bool {
        if inner.parties.ended_for(side) {
            return true;
        }
        match side {
            RingSide::Consumer => self.has_record(&inner.parties),
            RingSide::Producer => ring_has_room(self.units, self.head(), self.tail()),
        }
    }

    fn has_record(&self, parties: &RingParties) -> bool {
        let (head, tail) = (self.head(), self.tail());
        if ring_used(self.units, head, tail) == Some(0) {
            return false;
        }
        let busy = if parties.many() {
            ring_busy(self.header(head))
        } else {
            None
        };
        busy.is_none_or(|producer| !parties.alive(producer))
    }

    // Handles, and who is attached through them.

    /// A handle was bound.
    pub(crate) fn open(&self, sends: bool, receives: bool) {
        self.inner.lock().parties.open(sends, receives);
    }

    /// A handle was closed for the last time.
    pub(crate) fn close(&self, sends: bool, receives: bool) {
        let mut inner = self.inner.lock();
        inner.parties.close(sends, receives);
        self.changed(inner);
    }

    /// Nobody comes any more: see [`Object::orphan`](crate::object::Object::orphan).
    pub(crate) fn orphan(&self, senders: bool, receivers: bool) {
        let mut inner = self.inner.lock();
        inner.parties.orphan(senders, receivers);
        self.changed(inner);
    }

    /// Whatever a process, or any, was through a handle has left.
    pub(crate) fn process_closed(&self, shares: &Shares, leaving: Leaving) {
        loop {
            let mut inner = self.inner.lock();
            let share = shares.settle(leaving);
            let Some(share) = share else {
                return;
            };
            let how = if share.died {
                RingLeave::Died
            } else {
                RingLeave::Closed
            };
            if share.count & CONSUMER != 0 {
                inner.parties.detach_consumer(how);
            }
            inner.parties.detach_producer(share.count as u32, how);
            self.tell(&inner.parties);
            self.wake_side(inner, RingSide::Consumer);
            self.wake_side(self.inner.lock(), RingSide::Producer);
            self.pollers.wake_later();
        }
    }

    /// This process becomes the consumer, or a producer, whose number is returned.
    pub(crate) fn attach(&self, side: RingSide, shares: &Shares) -> Result<u32> {
        let process = helpers::process();
        shares.enter(process)?;
        let mut inner = self.inner.lock();
        let mut table = shares.lock();
        // Without an entry, another thread has closed the last descriptor.
        let has = table.get(process).ok_or(EBADF)?;
        let already = match side {
            RingSide::Consumer => has & CONSUMER != 0,
            RingSide::Producer => has as u32 != 0,
        };
        if already {
            return Err(EBUSY);
        }
        let number = match side {
            RingSide::Consumer => inner.parties.attach_consumer().map(|()| 0),
            RingSide::Producer => inner.parties.attach_producer(),
        }
        .map_err(|refusal| match refusal {
            RingRefusal::Taken => EBUSY,
            RingRefusal::Over => EPIPE,
        })?;
        table.add(
            process,
            match side {
                RingSide::Consumer => CONSUMER,
                RingSide::Producer => number.into(),
            },
        );
        self.tell(&inner.parties);
        Ok(number)
    }

    /// What this process is, it is no more.
    pub(crate) fn detach(&self, side: RingSide, how: RingLeave, shares: &Shares) -> Result {
        let process = helpers::process();
        let mut inner = self.inner.lock();
        let mut table = shares.lock();
        let has = table.get(process).unwrap_or(0);
        let part = match side {
            RingSide::Consumer => has & CONSUMER,
            RingSide::Producer => u64::from(has as u32),
        };
        if part == 0 {
            return Err(EINVAL);
        }
        table.subtract(process, part);
        drop(table);
        match side {
            RingSide::Consumer => inner.parties.detach_consumer(how),
            RingSide::Producer => inner.parties.detach_producer(part as u32, how),
        }
        self.changed(inner);
        Ok(())
    }

    /// Maps a part of it for a handle with these rights.
    pub(crate) fn map(&self, area: &Area, sends: bool, receives: bool) -> Result {
        if !sends && !receives {
            return Err(EACCES);
        }
        let (first, pages) = area.pages();
        let writable = ring_writable(first, pages, sends, receives);
        // SAFETY: The file that is mapped is that of a handle, which is bound to this ring as long
        // as the file is open. The ring is pinned, and never gives up its pages.
        unsafe { self.pages.map(area, writable) }
    }

    // Waiting.

    /// After who is there has changed.
    fn changed(&self, inner: Guard<'_>) {
        self.tell(&inner.parties);
        self.settle(inner, RingSide::Consumer);
        self.settle(self.inner.lock(), RingSide::Producer);
        self.pollers
            .wake(bindings::POLLHUP | bindings::POLLERR, || {
                self.events(true, true)
            });
    }

    /// Wakes all of a side, and tells its pollers, if it has no reason to wait.
    fn settle<'a>(&'a self, inner: Guard<'a>, side: RingSide) {
        if !self.wake_side(inner, side) {
            return;
        }
        let (news, sends) = match side {
            RingSide::Consumer => (IN, false),
            RingSide::Producer => (OUT, true),
        };
        self.pollers.wake(news, || self.events(sends, !sends));
    }

    /// Wakes all waiters of a side, if it has no reason to wait. Returns true if it has none.
    fn wake_side<'a>(&'a self, mut inner: Guard<'a>, side: RingSide) -> bool {
        if !self.ready(&inner, side) {
            return false;
        }
        self.waiting(side).store(0, Relaxed);
        let mut left = inner.sleepers(side).waiting.len();
        while left > 0 {
            // At a time: each is woken outside the lock.
            let waiter = inner.sleepers(side).waiting.pop_front();
            let wake = waiter.map(|waiter| waiter.finish(Outcome::Happened));
            drop(inner);
            drop(wake);
            inner = self.inner.lock();
            left -= 1;
        }
        true
    }

    /// Sets the word that makes the other side ring the doorbell, and looks once more.
    fn arm(&self, inner: &Inner, side: RingSide) -> bool {
        // What this side has moved itself is to be seen by who sees the word.
        self.waiting(side).store(1, Release);
        // smp_mb(), which is called differently in each kernel.
        fence(SeqCst);
        self.ready(inner, side)
    }

    /// The doorbell of a side was rung.
    pub(crate) fn wake(&self, side: RingSide) {
        let mut inner = self.inner.lock();
        inner.sleepers(side).woken += 1;
        self.settle(inner, side);
    }

    /// Waits until a side has no reason to wait any more.
    pub(crate) fn wait(&self, side: RingSide, wait: &Wait<'_>) -> Result {
        if wait.resume().is_some() {
            return Ok(());
        }
        let stack = pin!(Waiter::new());
        let waiter = wait.waiter(stack.as_ref(), Parked::Ring(side))?;
        {
            let mut inner = self.inner.lock();
            if self.arm(&inner, side) {
                self.settle(inner, side);
                return Ok(());
            }
            if !wait.may_wait() {
                return Err(EAGAIN);
            }
            let sleepers = inner.sleepers(side);
            sleepers.slept += 1;
            sleepers.waiting.push_back(waiter.pointer());
            wait.listed();
        }
        wait.parked()?;
        let slept = waiter.sleep(wait);
        if let (None, Err(error)) = (waiter.outcome(), slept) {
            // SAFETY: It was put on the list here.
            if unsafe { self.stop_waiting(waiter, side) }.is_none() {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends a wait from its own side, unless it is done.
    ///
    /// # Safety
    ///
    /// It was put on this side's list, and its outcome was not taken.
    pub(crate) unsafe fn stop_waiting(
        &self,
        waiter: Pin<&Waiter>,
        side: RingSide,
    ) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = waiter.outcome();
        if outcome.is_none() {
            let place = NonNull::from(waiter.get_ref());
            // SAFETY: It waits there, and is not done.
            unsafe { inner.sleepers(side).waiting.remove(place) };
        }
        outcome
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
        receives: bool,
    ) -> u32 {
        // SAFETY: By the contract.
        unsafe { self.pollers.add(file, table, sends, receives) };
        self.events(sends, receives)
    }

    fn events(&self, sends: bool, receives: bool) -> u32 {
        let inner = self.inner.lock();
        let ready = |side| self.ready(&inner, side) || self.arm(&inner, side);
        let mut mask = 0;
        if receives {
            mask |= if ready(RingSide::Consumer) { IN } else { 0 };
            if inner.parties.ended_for(RingSide::Consumer) {
                mask |= bindings::POLLHUP;
            }
        }
        if sends {
            mask |= if ready(RingSide::Producer) { OUT } else { 0 };
            if inner.parties.ended_for(RingSide::Producer) {
                mask |= bindings::POLLERR;
            }
        }
        mask
    }

    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        let inner = self.inner.lock();
        (info.senders, info.receivers) = inner.parties.handles();
        let (producers, consumer) = inner.parties.attached();
        (info.value, info.maximum) = (
            producers.into(),
            if inner.parties.many() {
                RING_PRODUCERS as u64
            } else {
                1
            },
        );
        info.capacity_bytes = self.capacity();
        let used = ring_used(self.units, self.head(), self.tail());
        info.bytes = used.map_or(0, |used| u64::from(used) * RING_UNIT);
        info.waiting_senders = inner.producer.waiting.len() as u32;
        info.waiting_receivers = inner.consumer.waiting.len() as u32;
        (info.sent, info.received) = (inner.consumer.woken, inner.producer.woken);
        (info.full, info.redelivered) = (inner.producer.slept, inner.consumer.slept);
        if producers > 0 && consumer {
            info.flags |= uapi::POSTBOX_INFO_CONNECTED;
        }
        if inner.parties.state() & (ended::PRODUCER_DIED | ended::CONSUMER_DIED) != 0 {
            info.flags |= uapi::POSTBOX_INFO_BROKEN;
        }
    }

    /// What whoever attaches is told.
    pub(crate) fn about(&self, args: &mut uapi::postbox_ring_attach) {
        args.capacity = self.capacity();
        args.options = if self.inner.lock().parties.many() {
            uapi::POSTBOX_O_MANY
        } else {
            0
        };
    }
}

/// The side that flags say, and whether the handle has its right.
pub(crate) fn side(flags: u32) -> Result<RingSide> {
    match flags {
        uapi::POSTBOX_RING_CONSUMER => Ok(RingSide::Consumer),
        uapi::POSTBOX_RING_PRODUCER => Ok(RingSide::Producer),
        _ => Err(EINVAL),
    }
}

/// The right that a side needs.
pub(crate) fn right(side: RingSide) -> u32 {
    match side {
        RingSide::Consumer => uapi::POSTBOX_RIGHT_RECEIVE,
        RingSide::Producer => uapi::POSTBOX_RIGHT_SEND,
    }
}

/// The other side.
pub(crate) fn other(side: RingSide) -> RingSide {
    match side {
        RingSide::Consumer => RingSide::Producer,
        RingSide::Producer => RingSide::Consumer,
    }
}
