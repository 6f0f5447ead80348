// SPDX-License-Identifier: GPL-2.0
//! The pipe as a kernel object: its ring, and tasks that wait. Who reads and writes what, and
//! when, is decided in `queue/pipe.rs`.
//!
//! User memory is copied, memory allocated and freed, and tasks woken, outside the lock. While a
//! task copies it has the turn of its side, so that the region that it claimed is its own, and the
//! ring stays where it is. Those who wait for their turn can be interrupted and killed meanwhile.
//!
//! A waiter that was given its turn and does not come loses it again once others have waited for some
//! time: it may be stopped, or parked in a ring that nobody enters. A work item looks after it when that
//! time is over, and not before: it takes the processor from whoever runs.

use crate::{
    compat::eiocbqueued,
    helpers::{self, c, limits},
    mailbox::{IN, OUT},
    queue::{self, Branches, Claim, Turn, Turns, PIPE_ATOMIC},
    quota::{Pinned, PipeCharge},
    uapi,
    uring::Parked,
    wait::{Event, Outcome, Pollers, Wait, Waiter, WaiterPtr, Wake},
};
use core::{
    pin::{pin, Pin},
    ptr::NonNull,
    slice,
};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{lock::spinlock::SpinLockGuard, new_spinlock, SpinLock},
    types::Opaque,
};

const _: () = assert!(PIPE_ATOMIC == uapi::POSTBOX_PIPE_ATOMIC as u64);

/// The capacity of a pipe that was made without one.
const DEFAULT_CAPACITY: u64 = 65_536;

type Guard<'a> = SpinLockGuard<'a, Inner>;

/// The memory that bytes are in between a write and a read.
struct Ring {
    /// All of it is initialised.
    memory: KVVec<u8>,
    _charge: PipeCharge,
}

impl Ring {
    fn new(capacity: u64, user: &Pinned) -> Result<Self> {
        let charge = user.charge_pipe(capacity)?;
        let len = usize::try_from(capacity)?;
        // SAFETY: It takes any size.
        let raw = unsafe { c::postbox_alloc(len) }.cast::<u8>();
        if raw.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: It is new memory of that size, all of it zeroed, and what the vector's allocator
        // frees.
        let memory = unsafe {
            raw.write_bytes(0, len);
            KVVec::from_raw_parts(raw, len, len)
        };
        Ok(Self {
            memory,
            _charge: charge,
        })
    }
}

/// What the lock guards.
struct Inner {
    queue: queue::Pipe<WaiterPtr>,
    ring: Ring,
    /// When turns are looked after, in units of [`PATIENCE_MS`]; 0: never.
    armed: u64,
}

impl Inner {
    fn memory(&mut self) -> *mut u8 {
        self.ring.memory.as_mut_ptr()
    }
}

impl queue::TurnWaiter for WaiterPtr {
    type Wake = Wake;

    fn wants(waiter: &Waiter) -> u64 {
        waiter.wanted()
    }

    fn place(waiter: &Waiter) -> u64 {
        waiter.place()
    }

    fn seat(waiter: &Waiter, place: u64) {
        waiter.seat(place);
    }

    fn branches(waiter: &Waiter) -> &Branches<Waiter> {
        waiter.branches()
    }

    fn is_task(waiter: &Waiter) -> bool {
        waiter.is_task()
    }

    fn finish(self, turn: Turn) -> Wake {
        self.finish(Outcome::Turn(turn))
    }
}

/// The capacity of a ring for `wanted` bytes.
fn capacity_for(wanted: u64) -> Result<u64> {
    if wanted > limits::pipe() {
        return Err(EINVAL);
    }
    // The limit is a power of two itself.
    Ok(wanted.max(PIPE_ATOMIC).next_power_of_two())
}

/// What the end of a wait means.
fn turned(outcome: Outcome) -> Turn {
    match outcome {
        Outcome::Turn(turn) => turn,
        _ => Turn::Over,
    }
}

/// The unit of time after which turns are taken back, in milliseconds.
const PATIENCE_MS: u64 = 5;

/// The time in that unit; not 0.
fn now() -> u64 {
    // SAFETY: It only reads a clock.
    unsafe { c::postbox_delay_clock() / PATIENCE_MS + 1 }
}

/// What a task does with a pipe, and its place among the waiters (0: none yet).
#[derive(Clone, Copy)]
enum Call {
    Read(u64),
    /// It wants so many bytes of room, and is in the middle of a write or not.
    Write(u64, u64, bool),
    /// It wants the turn of a side, to change the capacity.
    Turn(bool, u64),
}

impl Call {
    fn reads(self) -> bool {
        matches!(self, Call::Read(_) | Call::Turn(true, _))
    }

    fn place(self) -> u64 {
        match self {
            Call::Read(place) | Call::Write(_, place, _) | Call::Turn(_, place) => place,
        }
    }
}

/// A pipe.
#[pin_data(PinnedDrop)]
pub(crate) struct Pipe {
    #[pin]
    inner: SpinLock<Inner>,
    pollers: Pollers,
    #[pin]
    reader_came: Event,
    #[pin]
    writer_came: Event,
    /// Takes turns back.
    #[pin]
    patience: Opaque<bindings::delayed_work>,
}

// SAFETY: The delayed work has synchronization of its own; all else can be sent and shared.
unsafe impl Send for Pipe {}
// SAFETY: As above.
unsafe impl Sync for Pipe {}

#[pinned_drop]
impl PinnedDrop for Pipe {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It was initialised in `new`; nobody has the pipe any more to start it again.
        unsafe { c::postbox_delay_stop(self.patience.get()) };
    }
}

/// Takes back the turns of a pipe that were given some time ago and not begun.
///
/// # Safety
///
/// `delay` is that of a pipe, which waits for this before it is freed.
#[no_mangle]
unsafe extern "C" fn postbox_pipe_patience_ends(delay: *mut bindings::delayed_work) {
    // SAFETY: By the contract.
    let pipe = unsafe {
        let delay = delay.cast::<Opaque<bindings::delayed_work>>();
        &*kernel::container_of!(delay, Pipe, patience)
    };
    let mut inner = pipe.inner.lock();
    inner.armed = 0;
    inner.queue.revoke(now());
    pipe.settle(inner);
}

impl Pipe {
    /// A pipe that holds at least `capacity` bytes; 0: as many as usual. `user` pays for them.
    pub(crate) fn new(
        capacity: u64,
        persistent: bool,
        user: &Pinned,
    ) -> Result<impl PinInit<Self>> {
        let capacity = match capacity {
            0 => DEFAULT_CAPACITY.min(limits::pipe()),
            wanted => capacity_for(wanted)?,
        };
        let ring = Ring::new(capacity, user)?;
        let pollers = Pollers::new()?;
        Ok(pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    queue: queue::Pipe::new(capacity, persistent),
                    ring,
                    armed: 0,
                },
                "postbox_pipe"
            ),
            pollers,
            reader_came <- Event::new(),
            writer_came <- Event::new(),
            // SAFETY: It is pinned, and initialised where it is.
            patience <- Opaque::ffi_init(|delay| unsafe { c::postbox_delay_init(delay) }),
        }))
    }

    /// Fills in what there is to know.
    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        let inner = self.inner.lock();
        let queue = &inner.queue;
        info.capacity_bytes = queue.capacity();
        info.bytes = queue.len();
        info.high_bytes = queue.high();
        info.full = queue.full();
        (info.received, info.sent) = queue.moved();
        (info.receivers, info.senders) = queue.handles();
        let (readers, writers) = queue.waiting();
        (info.waiting_receivers, info.waiting_senders) = (readers as u32, writers as u32);
    }

    /// A handle was bound.
    pub(crate) fn open(&self, writes: bool, reads: bool) {
        self.inner.lock().queue.open(writes, reads);
        if reads {
            self.reader_came.set();
        }
        if writes {
            self.writer_came.set();
        }
        // Who had to be told that the other side is gone can go on.
        self.tell(IN | OUT);
    }

    /// A handle was closed for the last time.
    pub(crate) fn close(&self, writes: bool, reads: bool) {
        let mut inner = self.inner.lock();
        inner.queue.close(writes, reads);
        self.settle(inner);
        self.tell(IN | OUT | bindings::POLLHUP | bindings::POLLERR);
    }

    /// Nobody comes any more: see [`Object::orphan`](crate::object::Object::orphan).
    pub(crate) fn orphan(&self, writers: bool, readers: bool) {
        let mut inner = self.inner.lock();
        inner.queue.orphan(writers, readers);
        self.settle(inner);
        if !writers {
            self.writer_came.give_up();
        }
        if !readers {
            self.reader_came.give_up();
        }
        self.tell(IN | OUT | bindings::POLLHUP | bindings::POLLERR);
    }

    /// What happens when somebody comes to read, for who writes, or to write.
    pub(crate) fn peer(&self, writes: bool) -> &Event {
        if writes {
            &self.reader_came
        } else {
            &self.writer_came
        }
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
        writes: bool,
        reads: bool,
    ) -> u32 {
        // SAFETY: By the contract.
        unsafe { self.pollers.add(file, table, writes, reads) };
        self.events(writes, reads)
    }

    fn events(&self, writes: bool, reads: bool) -> u32 {
        let mut inner = self.inner.lock();
        let queue = &mut inner.queue;
        let mut mask = 0;
        if reads {
            mask |= if queue.readable() { IN } else { 0 };
            mask |= if queue.ended() { bindings::POLLHUP } else { 0 };
        }
        if writes {
            mask |= if queue.writable() { OUT } else { 0 };
            mask |= if queue.closed() { bindings::POLLERR } else { 0 };
        }
        self.be_patient(&mut inner);
        mask
    }

    /// Has turns taken back later that keep others waiting.
    #[inline]
    fn be_patient(&self, inner: &mut Inner) {
        if inner.queue.waits_for_given() {
            self.arm(inner);
        }
    }

    /// Has turns looked after when the first is due, if they are not by then. Under the lock, so that a
    /// later time does not take the place of an earlier one. That only moves a timer.
    #[inline(never)]
    fn arm(&self, inner: &mut Inner) {
        let now = now();
        let due = inner.queue.due(now).unwrap_or(0);
        if due == 0 || (inner.armed != 0 && inner.armed <= due) {
            return;
        }
        inner.armed = due;
        let ms = due.saturating_sub(now).max(1) * PATIENCE_MS;
        // SAFETY: It was initialised in `new`, and is stopped before the pipe is freed.
        unsafe { c::postbox_delay_start(self.patience.get(), ms as u32) };
    }

    /// Tells pollers. The lock is not held.
    #[inline]
    fn tell(&self, news: u32) {
        self.pollers.wake(news, || self.events(true, true));
    }

    /// Reads up to `len` bytes, which `copy` gets in one or two parts. 0: the end. They stay when
    /// `copy` fails, or when the task is killed meanwhile.
    pub(crate) fn read(
        &self,
        len: usize,
        wait: &Wait<'_>,
        mut copy: impl FnMut([&[u8]; 2]) -> Result,
    ) -> Result<usize> {
        if len == 0 {
            return Ok(0);
        }
        let mut place = match wait.resume().map(turned) {
            None => 0,
            Some(Turn::Yours(place)) => place,
            Some(Turn::Over) => return Ok(0),
        };
        loop {
            let mut inner = self.inner.lock();
            match inner.queue.begin_read(len as u64, place) {
                Claim::Granted(region, held) => {
                    let memory = inner.memory();
                    drop(inner);
                    // SAFETY: A turn that has begun is ended by the place that holds it alone: until
                    // `end_read` the region is this task's, nobody writes to it, and the ring stays.
                    // The ring has all of the region.
                    let parts = unsafe {
                        [
                            slice::from_raw_parts(memory.add(region.at), region.first),
                            slice::from_raw_parts(memory, region.second),
                        ]
                    };
                    let copied = copy(parts).and_then(|()| alive());
                    let read = copied.map_or(0, |()| region.bytes());
                    let mut inner = self.inner.lock();
                    let ended = inner.queue.end_read(read as u64, held);
                    self.settle(inner);
                    return copied.and(if ended { Ok(read) } else { Err(EIO) });
                }
                Claim::Over => return Ok(0),
                Claim::Wait | Claim::Lost => match self.wait(inner, Call::Read(place), wait)? {
                    None => {}
                    Some(Turn::Yours(given)) => place = given,
                    Some(Turn::Over) => return Ok(0),
                },
            }
        }
    }

    /// Writes `len` bytes, which `copy` puts into one or two parts at a time; the first argument
    /// says how many there were before. Returns how many were written, where something ended it.
    pub(crate) fn write(
        &self,
        len: usize,
        wait: &Wait<'_>,
        mut copy: impl FnMut(usize, [&mut [u8]; 2]) -> Result,
    ) -> Result<usize> {
        let atomic = len as u64 <= PIPE_ATOMIC;
        let (mut done, mut place) = (0, 0);
        if let Wait::Parks(issue) = wait {
            done = issue.progress() as usize;
            match issue.resume().map(turned) {
                None => {}
                Some(Turn::Yours(given)) => place = given,
                Some(Turn::Over) if done > 0 => return Ok(done),
                Some(Turn::Over) => return Err(EPIPE),
            }
        }
        while done < len {
            let left = (len - done) as u64;
            let mut inner = self.inner.lock();
            let ended = match inner.queue.begin_write(left, atomic, place, done > 0) {
                Claim::Granted(region, held) => {
                    place = held;
                    let memory = inner.memory();
                    drop(inner);
                    // SAFETY: A turn that has begun is ended by the place that holds it alone: until
                    // `commit_write` the region is this task's alone, and the ring stays. The ring
                    // has all of the region, whose two parts do not overlap.
                    let parts = unsafe {
                        [
                            slice::from_raw_parts_mut(memory.add(region.at), region.first),
                            slice::from_raw_parts_mut(memory, region.second),
                        ]
                    };
                    let copied = copy(done, parts).and_then(|()| alive());
                    let mut inner = self.inner.lock();
                    let bytes = region.bytes();
                    let copied = match copied {
                        Ok(()) if !inner.queue.commit_write(bytes as u64, held) => Err(EIO),
                        copied => copied,
                    };
                    done += copied.map_or(0, |()| bytes);
                    if copied.is_err() || done == len {
                        inner.queue.give_up(false, held);
                        place = 0;
                    }
                    self.settle(inner);
                    copied
                }
                Claim::Wait if wait.may_wait() => {
                    let wanted = queue::Pipe::<WaiterPtr>::wanted(left);
                    if let Wait::Parks(issue) = wait {
                        issue.advance(done as u64);
                    }
                    let call = Call::Write(wanted, place, done > 0);
                    match self.wait(inner, call, wait) {
                        // It is to be tried again.
                        Ok(None) => continue,
                        Ok(Some(Turn::Yours(given))) => {
                            place = given;
                            Ok(())
                        }
                        Ok(Some(Turn::Over)) => Err(EPIPE),
                        // Whatever there was before, the command is not done.
                        Err(error) if error == eiocbqueued() => return Err(error),
                        Err(error) => Err(error),
                    }
                }
                refused => {
                    inner.queue.give_up(false, place);
                    self.settle(inner);
                    // After a turn that was lost there is always a part that was written.
                    Err(match refused {
                        Claim::Over => EPIPE,
                        _ => EAGAIN,
                    })
                }
            };
            if let Err(error) = ended {
                return if done > 0 { Ok(done) } else { Err(error) };
            }
        }
        Ok(done)
    }

    /// Waits for the turn. `None`: the lock had to be dropped before, so look again.
    #[inline(never)]
    fn wait(&self, mut inner: Guard<'_>, call: Call, wait: &Wait<'_>) -> Result<Option<Turn>> {
        if !wait.may_wait() {
            // Once the turn is taken back, pollers are told.
            self.be_patient(&mut inner);
            return Err(EAGAIN);
        }
        if let Wait::Parks(issue) = wait {
            if !issue.prepared() {
                drop(inner);
                let prepared = issue.prepare(0, Parked::Nowhere);
                if prepared.is_err() {
                    self.give_up(call.reads(), call.place());
                }
                return prepared.map(|_| None);
            }
        }
        let wanted = match call {
            Call::Write(wanted, ..) => wanted,
            _ => 0,
        };
        let stack = pin!(Waiter::wanting(wanted));
        // A command has it already, so that this allocates nothing.
        let reads = call.reads();
        let waiter = wait.waiter(stack.as_ref(), Parked::Pipe(reads))?;
        let pointer = waiter.pointer();
        // SAFETY: The waiter is pinned here. Below, it is done, or leaves; or it is a command's.
        unsafe {
            match call {
                Call::Read(place) => inner.queue.wait_read(pointer, place),
                Call::Write(_, place, middle) => inner.queue.wait_write(pointer, place, middle),
                Call::Turn(reads, place) => inner.queue.wait_turn(pointer, reads, place),
            }
        }
        wait.listed();
        if matches!(call, Call::Read(0) | Call::Write(_, 0, false)) {
            self.be_patient(&mut inner);
            drop(inner);
        } else {
            // A turn that it had may be another's now.
            self.settle(inner);
        }
        wait.parked()?;
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            // SAFETY: It was put on the list here.
            outcome = unsafe { self.leave(waiter, reads) };
            if outcome.is_none() {
                return Err(error);
            }
        }
        Ok(Some(outcome.map_or(Turn::Over, turned)))
    }

    /// Ends a wait from its own side, unless it is done.
    ///
    /// # Safety
    ///
    /// It was put on the list of readers, or of writers, and its outcome was not taken.
    pub(crate) unsafe fn leave(&self, waiter: Pin<&Waiter>, reads: bool) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = waiter.outcome();
        if outcome.is_none() {
            let place = NonNull::from(waiter.get_ref());
            // SAFETY: It waits here, and is not done.
            unsafe {
                match reads {
                    true => inner.queue.leave_read(place),
                    false => inner.queue.leave_write(place),
                }
            };
            // It may have stood in the way of others.
            self.settle(inner);
        }
        outcome
    }

    /// Ends the turn of a side that `place` has, if it has it.
    pub(crate) fn give_up(&self, reads: bool, place: u64) {
        let mut inner = self.inner.lock();
        inner.queue.give_up(reads, place);
        self.settle(inner);
    }

    /// Makes it hold at least `capacity` bytes, for which `user` pays. Before it does, `tell` gets
    /// the real number, and can still make it fail. It waits while others copy.
    pub(crate) fn set_capacity(
        &self,
        capacity: u64,
        user: &Pinned,
        wait: &Wait<'_>,
        tell: impl FnOnce(u64) -> Result,
    ) -> Result {
        let capacity = capacity_for(capacity)?;
        let ring = Ring::new(capacity, user)?;
        tell(capacity)?;
        let mut turns = Turns {
            writes: self.take_turn(false, wait)?,
            reads: 0,
        };
        let resized = self.take_turn(true, wait).and_then(|reads| {
            turns.reads = reads;
            self.resize(capacity, ring, turns)
        });
        let mut inner = self.inner.lock();
        inner.queue.end_turns(turns);
        self.settle(inner);
        resized
    }

    /// Moves the bytes to another ring, with the turns of both sides.
    fn resize(&self, capacity: u64, mut ring: Ring, turns: Turns) -> Result {
        let to = ring.memory.as_mut_ptr();
        let (from, parts) = {
            let mut inner = self.inner.lock();
            (inner.memory(), inner.queue.begin_resize(capacity, turns))
        };
        for (at, new, len) in parts.ok_or(EBUSY)? {
            // SAFETY: By `begin_resize`, each part is within its ring. Both turns have begun, and are
            // ended by the places that hold them alone, after this: nobody else copies from or to
            // the old ring, and the new one is this task's.
            unsafe { core::ptr::copy_nonoverlapping(from.add(at), to.add(new), len) };
        }
        let mut inner = self.inner.lock();
        if !inner.queue.end_resize(capacity, turns) {
            return Err(EBUSY);
        }
        core::mem::swap(&mut inner.ring, &mut ring);
        // The old ring is freed without the lock.
        drop(inner);
        Ok(())
    }

    /// Takes the turn of a side before all others; returns the place that has it.
    fn take_turn(&self, reads: bool, wait: &Wait<'_>) -> Result<u64> {
        let mut place = 0;
        loop {
            let mut inner = self.inner.lock();
            if let Some(held) = inner.queue.begin_turn(reads, place) {
                return Ok(held);
            }
            if let Some(Turn::Yours(given)) = self.wait(inner, Call::Turn(reads, place), wait)? {
                place = given;
            }
        }
    }

    /// Does what follows from a change: gives turns, and tells those whose other side is gone.
    fn settle<'a>(&'a self, mut inner: Guard<'a>) {
        loop {
            let first = inner.queue.end_wait();
            let second = first.as_ref().and_then(|_| inner.queue.end_wait());
            if second.is_some() {
                drop(inner);
                drop((first, second));
                inner = self.inner.lock();
                continue;
            }
            let (readable, writable) = inner.queue.news();
            let mut news = if readable { IN } else { 0 };
            news |= if writable { OUT } else { 0 };
            if inner.queue.ended() {
                news |= IN | bindings::POLLHUP;
            }
            self.be_patient(&mut inner);
            drop(inner);
            drop(first);
            self.tell(news);
            return;
        }
    }
}

/// Fails if the task is being killed: it will not say that it has, or had, the bytes.
fn alive() -> Result {
    if helpers::dying() {
        Err(EINTR)
    } else {
        Ok(())
    }
}
