// SPDX-License-Identifier: GPL-2.0
//! Waiting: tasks that sleep until they are handed something, and pollers.
//!
//! A task that waits has a [`Waiter`] on its stack, with a pointer to it on a list of the object
//! that it waits for. Whoever takes the pointer off the list, under the object's lock, owns the end
//! of the wait: it writes the outcome, and the task is woken once the lock is dropped. A task that
//! stops waiting for a reason of its own takes the lock, and looks whether it was too late.
//!
//! An io_uring command has such a waiter too, in memory of its own, and is parked on the same lists.
//! It does not sleep: the request ends with `EIOCBQUEUED`, and is made again, with the outcome, when
//! that is there. See `uring`.

use crate::{
    compat::eiocbqueued,
    helpers::{self, c, Process, GFP_MAYFAIL},
    message::Message,
    pause::Caller,
    queue::{self, Branches, Flight, Gate, Linked, Links, List, Received, Seat, Sent, Turn},
    uapi,
    uring::{Command, Issue, Parked},
};
use core::{
    cell::{Cell, UnsafeCell},
    marker::PhantomPinned,
    pin::{pin, Pin},
    ptr::NonNull,
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
        new_spinlock, Arc, SpinLock,
    },
    task::Task,
    types::Opaque,
    workqueue::{new_work, Queue, Work, WorkItem},
};

/// How a request comes, as far as waiting goes.
#[derive(Clone, Copy)]
pub(crate) enum How<'a> {
    /// As a system call.
    Call(&'a Caller<'a>),
    /// The same, through a handle that never waits.
    Nonblocking,
    /// As an io_uring command.
    Command(&'a Issue<'a>),
}

impl How<'_> {
    /// Whether it goes on after a wait, whose outcome was not taken yet: what it waited for has happened.
    pub(crate) fn resumes(&self) -> bool {
        matches!(self, How::Command(issue) if issue.resumes())
    }
}

/// How long a call waits.
#[derive(Clone, Copy)]
pub(crate) enum Wait<'a> {
    /// Not at all.
    Never,
    /// Until something ends it.
    Forever,
    /// Until a time, in nanoseconds.
    Until { at: i64, realtime: bool },
    /// As long as the command says, which is parked meanwhile.
    Parks(&'a Issue<'a>),
}

impl<'a> Wait<'a> {
    /// The flags that say how to wait.
    pub(crate) const FLAGS: u32 = uapi::POSTBOX_NONBLOCK
        | uapi::POSTBOX_TIMEOUT
        | uapi::POSTBOX_DEADLINE
        | uapi::POSTBOX_REALTIME;

    /// Decodes them.
    #[inline(always)]
    pub(crate) fn new(flags: u32, timeout_ns: u64, how: How<'a>) -> Result<Self> {
        let wait = match flags & Self::FLAGS {
            0 | uapi::POSTBOX_NONBLOCK if timeout_ns != 0 => return Err(EINVAL),
            0 => Wait::Forever,
            uapi::POSTBOX_NONBLOCK => Wait::Never,
            flags => Self::until(flags, timeout_ns, how)?,
        };
        Ok(match how {
            How::Call(_) => wait,
            How::Nonblocking => Wait::Never,
            How::Command(issue) => issue.plan(wait),
        })
    }

    /// Decodes those that name a time.
    #[inline(never)]
    fn until(flags: u32, timeout_ns: u64, how: How<'a>) -> Result<Self> {
        let time = i64::try_from(timeout_ns).unwrap_or(i64::MAX);
        Ok(match flags {
            uapi::POSTBOX_TIMEOUT => Wait::Until {
                at: match how {
                    How::Call(caller) => caller.until(time),
                    _ => helpers::now().saturating_add(time),
                },
                realtime: false,
            },
            uapi::POSTBOX_DEADLINE => Wait::Until {
                at: helpers::time_of_host(time),
                realtime: false,
            },
            f if f == uapi::POSTBOX_DEADLINE | uapi::POSTBOX_REALTIME => Wait::Until {
                at: time,
                realtime: true,
            },
            _ => return Err(EINVAL),
        })
    }

    /// Whether it waits at all.
    pub(crate) fn may_wait(&self) -> bool {
        match self {
            Wait::Never => false,
            Wait::Forever | Wait::Until { .. } => true,
            Wait::Parks(issue) => issue.may_wait(),
        }
    }

    /// Whether it is a command that goes on now, with what it was parked for.
    #[inline]
    pub(crate) fn resumes(&self) -> bool {
        matches!(self, Wait::Parks(issue) if issue.resumes())
    }

    /// What a command was parked for, where it goes on now.
    pub(crate) fn resume(&self) -> Option<Outcome> {
        match self {
            Wait::Parks(issue) => issue.resume(),
            _ => None,
        }
    }

    /// The waiter to put on a list for `parked`: a command's, which is made for that, or `stack`.
    /// Not under a spinlock.
    pub(crate) fn waiter<'w>(
        &self,
        stack: Pin<&'w Waiter>,
        parked: Parked,
    ) -> Result<Pin<&'w Waiter>>
    where
        'a: 'w,
    {
        match self {
            Wait::Parks(issue) => issue.prepare(stack.wanted(), parked),
            _ => Ok(stack),
        }
    }

    /// The waiter is on a list. Under the lock of that.
    #[inline]
    pub(crate) fn listed(&self) {
        if let Wait::Parks(issue) = self {
            issue.listed();
        }
    }

    /// What is returned instead of sleeping: after [`Self::listed`], the command belongs to whoever
    /// takes the waiter off the list.
    #[inline]
    pub(crate) fn parked(&self) -> Result {
        match self {
            Wait::Parks(_) => Err(eiocbqueued()),
            _ => Ok(()),
        }
    }
}

/// How a wait ended.
pub(crate) enum Outcome {
    Sent(Sent),
    Received(Received<KBox<Message>>),
    /// The answer to a request.
    Replied(KBox<Message>),
    /// Its turn at a pipe came.
    Turn(Turn),
    /// It has the units of a semaphore that it wanted, of which so many were a dead process's.
    Granted(u64),
    /// It has a block of a pool, which flies to it.
    Lent(Flight),
    /// The wait for a latch, or at a barrier, is over.
    Gate(Gate),
    /// An [`Event`] happened.
    Happened,
    /// It never will.
    Never,
}

/// A task that waits, or a command.
pub(crate) struct Waiter {
    /// Guarded by the object's lock, as are the next two.
    links: Links<Waiter>,
    seat: Seat<Waiter>,
    /// Of a sender, its message while that is queued.
    message: Cell<Option<NonNull<Message>>>,
    /// Null: it is part of a command. [`NOBODY`]: it is part of a pause.
    task: *mut bindings::task_struct,
    /// Not 0 after `outcome` was written; from then on nobody else has a pointer here. [`TAKEN`] after
    /// that was taken, which is done once.
    done: Atomic<u32>,
    outcome: UnsafeCell<Option<Outcome>>,
    /// What it waits for, as the object counts: the process whose messages it wants (0: any),
    /// bytes, units, or where the word is.
    wanted: Cell<u64>,
    /// Its place in the order of waiters, where the object keeps one.
    place: Cell<u64>,
    _pin: PhantomPinned,
}

/// The outcome was taken.
const TAKEN: u32 = 2;

/// In the place of a task: nobody is to be woken. No task has this address.
const NOBODY: *mut bindings::task_struct = core::ptr::without_provenance_mut(1);

// SAFETY: The outcome is reached by one at a time: by who took the pointer off the list until `done` is
// 1, and then by the one who makes that [`TAKEN`]. What it is made of can be sent. The rest is set
// before the waiter is on a list.
unsafe impl Sync for Waiter {}

impl Waiter {
    #[inline(always)]
    fn of(task: *mut bindings::task_struct, wanted: u64) -> Self {
        Self {
            links: Links::new(),
            seat: Seat::new(),
            message: Cell::new(None),
            task,
            done: Atomic::new(0),
            outcome: UnsafeCell::new(None),
            wanted: Cell::new(wanted),
            place: Cell::new(0),
            _pin: PhantomPinned,
        }
    }

    /// The current task, which keeps this on its stack.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self::wanting(0)
    }

    /// The same, with a number that says what it waits for.
    #[inline(always)]
    pub(crate) fn wanting(wanted: u64) -> Self {
        Self::of(Task::current_raw(), wanted)
    }

    /// A command.
    ///
    /// # Safety
    ///
    /// It becomes the field of a [`Command`], which is pinned.
    #[inline(always)]
    pub(crate) unsafe fn of_command() -> Self {
        Self::of(core::ptr::null_mut(), 0)
    }

    /// For a wait that is paused: whoever goes on with it looks for the outcome.
    pub(crate) fn of_paused() -> Self {
        Self::of(NOBODY, 0)
    }

    /// A command is to be put on a list, perhaps again.
    pub(crate) fn renew(&self, wanted: u64) {
        self.wanted.set(wanted);
        self.done.store(0, Relaxed);
    }

    /// Whether the wait is done.
    pub(crate) fn done(&self) -> bool {
        self.done.load(Acquire) != 0
    }

    /// What it waits for, as the object counts.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.get()
    }

    /// Whether it is a task, and no command.
    pub(crate) fn is_task(&self) -> bool {
        !self.task.is_null()
    }

    /// Its place in the order of waiters.
    pub(crate) fn place(&self) -> u64 {
        self.place.get()
    }

    /// Sets its place. Under the object's lock, before it is listed.
    pub(crate) fn seat(&self, place: u64) {
        self.place.set(place);
    }

    /// What it is in a pipe's tree by.
    pub(crate) fn branches(&self) -> &Branches<Waiter> {
        self.seat.branches()
    }

    /// The pointer to put on a list. Following it is sound until the wait is done, or the pointer
    /// was taken back under the object's lock.
    pub(crate) fn pointer(self: Pin<&Self>) -> WaiterPtr {
        WaiterPtr(NonNull::from(self.get_ref()))
    }

    /// Sleeps until the wait is done, or there is another reason to end it.
    pub(crate) fn sleep(&self, wait: &Wait<'_>) -> Result {
        self.sleep_while(wait, None)
    }

    /// The same; that `process` exits is a reason too: `ESRCH`.
    #[inline]
    pub(crate) fn sleep_while(&self, wait: &Wait<'_>, process: Option<&Process>) -> Result {
        let (timed, until, realtime) = match *wait {
            Wait::Until { at, realtime } => (true, at, realtime),
            _ => (false, 0, false),
        };
        let done = self.done.as_ptr();
        // SAFETY: `done` is valid, and is only set to end the wait; there is a reference to the
        // process.
        let slept = unsafe {
            match process {
                None => c::postbox_wait(done, timed, until, realtime),
                Some(process) => {
                    c::postbox_wait_while(done, timed, until, realtime, process.as_ptr())
                }
            }
        };
        kernel::error::to_result(slept)
    }

    /// How the wait ended, if it did.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.done.cmpxchg(1, TAKEN, Acquire).ok()?;
        // SAFETY: `done` was 1, so that who wrote the outcome is done with it, and that it is not any
        // more makes this the only one to take it.
        unsafe { (*self.outcome.get()).take() }
    }
}

impl Linked for Waiter {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

/// A pointer to a task that waits.
#[derive(Clone, Copy)]
pub(crate) struct WaiterPtr(NonNull<Waiter>);

// SAFETY: It is only followed under the object's lock.
unsafe impl Send for WaiterPtr {}

impl WaiterPtr {
    /// Hands the outcome over, under the object's lock.
    pub(crate) fn finish(self, outcome: Outcome) -> Wake {
        // SAFETY: By the contract of `pointer` the waiter is there until `done` is set below, and
        // the caller, who took the pointer out of the object, is the only one to write to it.
        unsafe {
            let waiter = self.0.as_ref();
            *waiter.outcome.get() = Some(outcome);
            // The task, or the command, may be gone as soon as it sees `done`.
            let wake = if waiter.task.is_null() {
                Wake::Command(Kick(Command::of(self.0)))
            } else if waiter.task == NOBODY {
                Wake::Nobody
            } else {
                Wake::Task(TaskRef(c::postbox_task_get(waiter.task)))
            };
            waiter.done.store(1, Release);
            wake
        }
    }
}

// SAFETY: The waiter is pinned on its task's stack for as long as the pointer is on a list, and
// the pointer is `Copy`.
unsafe impl queue::Owner for WaiterPtr {
    type Target = Waiter;

    fn into_raw(self) -> NonNull<Waiter> {
        self.0
    }

    unsafe fn from_raw(raw: NonNull<Waiter>) -> Self {
        Self(raw)
    }
}

impl queue::SendWaiter<Message> for WaiterPtr {
    type Wake = Wake;

    /// A task that sleeps does not run what its own commands have to do.
    fn group(self) -> usize {
        // SAFETY: It is being put on a list, or its message is in the mailbox whose lock is held.
        unsafe { self.0.as_ref() }.task as usize
    }

    fn message(sender: &Waiter) -> &Cell<Option<NonNull<Message>>> {
        &sender.message
    }

    fn finish(self, sent: Sent) -> Wake {
        self.finish(Outcome::Sent(sent))
    }
}

impl queue::ReceiveWaiter<KBox<Message>> for WaiterPtr {
    type Wake = Wake;

    fn origin(receiver: &Waiter) -> u64 {
        receiver.wanted()
    }

    /// The task of a command.
    fn group(receiver: &Waiter) -> usize {
        if !receiver.task.is_null() {
            return 0;
        }
        // SAFETY: A waiter without a task was made by `of_command`, for a command.
        unsafe { Command::of_waiter(receiver) }.task() as usize
    }

    fn seat(receiver: &Waiter) -> &Seat<Waiter> {
        &receiver.seat
    }

    fn finish(self, received: Received<KBox<Message>>) -> Wake {
        self.finish(Outcome::Received(received))
    }
}

impl queue::WordWaiter for WaiterPtr {
    fn word(waiter: &Waiter) -> u64 {
        waiter.wanted()
    }

    fn seat(waiter: &Waiter) -> &Seat<Waiter> {
        &waiter.seat
    }
}

/// A task, or a command, whose wait is over. Dropping this wakes it, which is for after the object's
/// lock.
#[must_use]
pub(crate) enum Wake {
    Task(TaskRef),
    Command(#[allow(dead_code)] Kick),
    /// A wait that is paused.
    Nobody,
}

/// A reference to a command, which is kicked when it is dropped.
pub(crate) struct Kick(Arc<Command>);

impl Drop for Kick {
    fn drop(&mut self) {
        self.0.kick();
    }
}

/// A reference to a task, which is woken when it is dropped.
pub(crate) struct TaskRef(*mut bindings::task_struct);

// SAFETY: It is a counted reference to a task.
unsafe impl Send for TaskRef {}

impl Wake {
    /// Wakes it where the current task runs, which then waits, as `waiter`, for what it does, and
    /// lets it go first. `haste` says whether that is worth it.
    pub(crate) fn hand_over(self, waiter: &Waiter, haste: &Haste) {
        let Wake::Task(task) = &self else {
            return;
        };
        let task = task.0;
        core::mem::forget(self);
        let stay = haste.expected();
        // SAFETY: `self` had a reference to the task, which this drops.
        let away = unsafe { c::postbox_task_hand_over(task, stay) };
        if away != 0 {
            haste.learn(away < Haste::ENOUGH && waiter.done.load(Relaxed) != 0);
        }
    }
}

/// Whether those whom a task wakes and then waits for are so quick that it need not be put to sleep
/// and woken. They are taken for that until one was not: because it had more to do, or because
/// others wanted the CPU, to whom a task that stays runnable loses more than one that sleeps. Then
/// it is tried again after some waits, and after more of them each time that it was in vain.
pub(crate) struct Haste {
    /// Waits until the next try.
    pause: Atomic<u32>,
    /// The last pause; 0: the last try was good.
    last: Atomic<u32>,
}

// Guesses, in which a lost update does no harm.
impl Haste {
    /// What is quick, in nanoseconds.
    const ENOUGH: u64 = 100_000;
    const FIRST: u32 = 64;
    const LONGEST: u32 = 4096;

    pub(crate) const fn new() -> Self {
        Self {
            pause: Atomic::new(0),
            last: Atomic::new(0),
        }
    }

    #[inline]
    fn expected(&self) -> bool {
        let pause = self.pause.load(Relaxed);
        if pause > 0 {
            self.pause.store(pause - 1, Relaxed);
        }
        pause == 0
    }

    #[inline]
    fn learn(&self, quick: bool) {
        let last = self.last.load(Relaxed);
        let next = match (quick, last) {
            (true, 0) => return,
            (true, _) => 0,
            (false, last) => (last * 2).clamp(Self::FIRST, Self::LONGEST),
        };
        self.last.store(next, Relaxed);
        self.pause.store(next, Relaxed);
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        // SAFETY: `self` has a reference to the task, which this drops.
        unsafe { c::postbox_task_wake(self.0) };
    }
}

/// How an [`Event`] went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Open,
    Happened,
    Never,
}

struct Happening {
    fate: Fate,
    waiting: List<WaiterPtr>,
}

/// Something that happens once or can never happen any more, and may be waited for.
#[pin_data]
pub(crate) struct Event {
    /// The fate is no longer open.
    decided: Atomic<u32>,
    #[pin]
    inner: SpinLock<Happening>,
}

impl Event {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            decided: Atomic::new(0),
            inner <- new_spinlock!(
                Happening {
                    fate: Fate::Open,
                    waiting: List::new(),
                },
                "postbox_event"
            ),
        })
    }

    /// It happens.
    pub(crate) fn set(&self) {
        self.decide(Fate::Happened);
    }

    /// It will never happen, unless it has: its waiters fail with `EPIPE`.
    pub(crate) fn give_up(&self) {
        self.decide(Fate::Never);
    }

    fn decide(&self, fate: Fate) {
        if self.decided.load(Acquire) != 0 {
            return;
        }
        loop {
            let mut inner = self.inner.lock();
            if inner.fate == Fate::Open {
                inner.fate = fate;
                self.decided.store(1, Release);
            }
            let outcome = match inner.fate {
                Fate::Never => Outcome::Never,
                _ => Outcome::Happened,
            };
            let waiter = inner.waiting.pop_front();
            let wake = waiter.map(|waiter| waiter.finish(outcome));
            drop(inner);
            if wake.is_none() {
                return;
            }
        }
    }

    /// Whether it can never happen.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.decided.load(Acquire) != 0 && self.inner.lock().fate == Fate::Never
    }

    /// Waits until it has happened. `EPIPE`: it never will.
    pub(crate) fn wait(&self, wait: &Wait<'_>) -> Result {
        if let Some(outcome) = wait.resume() {
            return happened(Some(outcome));
        }
        let stack = pin!(Waiter::new());
        let waiter = wait.waiter(stack.as_ref(), Parked::Peer(NonNull::from(self)))?;
        {
            let mut inner = self.inner.lock();
            match inner.fate {
                Fate::Happened => return Ok(()),
                Fate::Never => return Err(EPIPE),
                Fate::Open if !wait.may_wait() => return Err(EAGAIN),
                Fate::Open => {}
            }
            inner.waiting.push_back(waiter.pointer());
            wait.listed();
        }
        wait.parked()?;
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            outcome = self.leave(waiter);
            if outcome.is_none() {
                return Err(error);
            }
        }
        happened(outcome)
    }

    /// Ends a wait from its own side, unless it is done.
    pub(crate) fn leave(&self, waiter: Pin<&Waiter>) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = waiter.outcome();
        if outcome.is_none() {
            // SAFETY: It waits here, and is not done.
            unsafe { inner.waiting.remove(NonNull::from(waiter.get_ref())) };
        }
        outcome
    }
}

/// What the end of a wait for an event means.
fn happened(outcome: Option<Outcome>) -> Result {
    match outcome {
        Some(Outcome::Happened) => Ok(()),
        _ => Err(EPIPE),
    }
}

/// The wait queues of an object's pollers.
#[pin_data]
struct Heads {
    #[pin]
    receivers: Opaque<bindings::wait_queue_head>,
    #[pin]
    senders: Opaque<bindings::wait_queue_head>,
    #[pin]
    later: Work<Heads>,
}

// SAFETY: A wait queue has a lock of its own, and a work item is the workqueue's.
unsafe impl Send for Heads {}
// SAFETY: A wait queue has a lock of its own, and a work item is the workqueue's.
unsafe impl Sync for Heads {}

kernel::impl_has_work! {
    impl HasWork<Heads> for Heads { self.later }
}

impl WorkItem for Heads {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        for head in [&this.receivers, &this.senders] {
            if somebody(head.get()) {
                // SAFETY: The head was initialised.
                unsafe { c::postbox_poll_wake(head.get(), 0, true) };
            }
        }
    }
}

/// The pollers of an object, as receivers and as senders. It must live as long as every file that
/// polls it.
pub(crate) struct Pollers(Arc<Heads>);

impl Pollers {
    pub(crate) fn new() -> Result<Self> {
        let heads = pin_init!(Heads {
            // SAFETY: The head is pinned, and initialised where it is.
            receivers <- Opaque::ffi_init(|head| unsafe { c::postbox_poll_init(head) }),
            // SAFETY: The head is pinned, and initialised where it is.
            senders <- Opaque::ffi_init(|head| unsafe { c::postbox_poll_init(head) }),
            later <- new_work!("postbox_pollers"),
        });
        Ok(Self(Arc::pin_init(heads, GFP_MAYFAIL)?))
    }

    /// Has a work item wake all pollers, each of which looks for itself. For what follows from an
    /// exit, or from the end of a ring: how many poll does not matter to who goes on, and many
    /// such reports wake them once.
    pub(crate) fn wake_later(&self) {
        if somebody(self.0.receivers.get()) || somebody(self.0.senders.get()) {
            // SAFETY: The workqueue is there as long as the module's objects are.
            let reports = unsafe { Queue::from_raw(c::postbox_reports()) };
            // It may be on its way already.
            let _ = reports.enqueue(self.0.clone());
        }
    }

    /// Adds whoever `table` stands for, to be woken as a sender, as a receiver, or as both. The state
    /// is to be looked at afterwards, under the object's lock.
    ///
    /// # Safety
    ///
    /// `file` and `table` are those of a poll, and `file` keeps the object.
    pub(crate) unsafe fn add(
        &self,
        file: &File,
        table: *mut bindings::poll_table_struct,
        sends: bool,
        receives: bool,
    ) {
        // SAFETY: By the contract.
        unsafe {
            // io_uring does not poll what never wakes anybody.
            if receives || !sends {
                c::postbox_poll_add(file.as_ptr(), self.0.receivers.get(), table);
            }
            if sends {
                c::postbox_poll_add(file.as_ptr(), self.0.senders.get(), table);
            }
        }
    }

    /// Wakes those whom one of `news` may be about: POLLIN and POLLHUP, receivers; POLLOUT and POLLERR,
    /// senders. `state` looks what is true: io_uring believes what it is told, and an epoll that waits
    /// for something else must not be the one that is woken. An end is for all of them.
    ///
    /// For after the object's lock was held: a poller adds itself before it takes that lock to look,
    /// so that it saw the new state, or is seen here.
    #[inline]
    pub(crate) fn wake(&self, news: u32, state: impl FnOnce() -> u32) {
        let receivers = news & RECEIVERS != 0 && somebody(self.0.receivers.get());
        let senders = news & SENDERS != 0 && somebody(self.0.senders.get());
        if receivers || senders {
            self.tell(news, state());
        }
    }

    #[inline(never)]
    fn tell(&self, news: u32, state: u32) {
        for (head, events) in [(&self.0.receivers, RECEIVERS), (&self.0.senders, SENDERS)] {
            if news & state & events != 0 {
                let mask = state & events;
                let end = mask & (bindings::POLLHUP | bindings::POLLERR) != 0;
                // SAFETY: The head was initialised.
                unsafe { c::postbox_poll_wake(head.get(), mask, end) };
            }
        }
    }

    /// Wakes all receivers, each of which looks for itself.
    pub(crate) fn wake_all(&self) {
        if somebody(self.0.receivers.get()) {
            // SAFETY: The head was initialised.
            unsafe { c::postbox_poll_wake(self.0.receivers.get(), 0, true) };
        }
    }
}

const RECEIVERS: u32 = bindings::POLLIN | bindings::POLLRDNORM | bindings::POLLHUP;
const SENDERS: u32 = bindings::POLLOUT | bindings::POLLWRNORM | bindings::POLLERR;

#[inline]
fn somebody(head: *mut bindings::wait_queue_head) -> bool {
    // SAFETY: The caller's head was initialised. Whoever adds itself looks afterwards.
    unsafe {
        let first = &raw mut (*head).head;
        (&raw const (*first).next).read_volatile() != first
    }
}
