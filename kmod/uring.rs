// SPDX-License-Identifier: GPL-2.0
//! io_uring: requests as commands.
//!
//! - A request that need not wait ends where it is submitted. One that would wait is *parked*: it
//!   has a waiter in memory of its own on the list where a task would sleep, ends with
//!   `EIOCBQUEUED`, and its task goes on.
//! - Whoever ends the wait takes the waiter off that list, and with that owns the end: it leaves the
//!   outcome and *kicks* the command. What is left of it runs in its own task, as task work, and
//!   nowhere else: there the same request is made again with the argument that was read at first,
//!   and goes on with the outcome in the place where a task would have woken up.
//! - A command is kicked once until it is listed again: by the outcome, by its deadline, by a
//!   cancellation or by the end of its ring. Kicked for another reason than an outcome, it takes
//!   itself off the list, as a task does that is interrupted; an outcome that came first counts.
//! - Where the task or the ring is gone, nobody can be told: the outcome is given back, and a
//!   message goes to its place in the queue, as from a task that is killed with it.
//! - Kicking takes locks of io_uring, and is for after ours. A task that completes a command holds
//!   the lock of the command's own ring, and of no other.

use crate::{
    chardev,
    compat::{ecanceled, eiocbqueued, eopnotsupp, etimedout},
    handle::Handle,
    helpers::{c, Credentials, Look, Process, RawWatch, Selected, UserBytes, GFP_MAYFAIL},
    link::Listener,
    mailbox::{sent, Failure, Mailbox, Receive},
    message::{Author, Message, Source},
    object::Object,
    pool::Kept,
    queue::{self, Arrival, Linked, Links, Received, RingSide, Sent, Turn},
    request::{self, ensure, pipe},
    uapi,
    wait::{How, Outcome, Wait, Waiter},
};
use core::{
    cell::{Cell, UnsafeCell},
    mem::{offset_of, size_of, MaybeUninit},
    pin::Pin,
    ptr::NonNull,
};
use kernel::{
    bindings,
    error::to_result,
    iov::{IovIterDest, IovIterSource},
    prelude::*,
    sync::{
        atomic::{
            ordering::{Acquire, Full, Relaxed, Release},
            Atomic,
        },
        new_spinlock, Arc, SpinLock,
    },
    types::Opaque,
};

/// Where a command is parked, and what it takes to leave.
#[derive(Clone, Copy)]
pub(crate) enum Parked {
    /// Nowhere yet.
    Nowhere,
    /// With the message, the request or the stand-in that it sent.
    Send(NonNull<Message>),
    Receive,
    /// For so many units.
    Acquire(u64),
    Latch,
    /// For an arrival, which is its own or an earlier one's.
    Barrier(Arrival, bool),
    /// Among the readers, or the writers.
    Pipe(bool),
    Ring(RingSide),
    /// For somebody to open the other side.
    Peer,
}

/// Why a command was kicked, but for its outcome.
mod reason {
    pub(super) const CANCELED: u32 = 1;
    pub(super) const TIME_UP: u32 = 2;
    /// To run in its own task for the first time.
    pub(super) const START: u32 = 4;
}

/// Room for the largest argument of a request that waits, in words.
const ARGS_WORDS: usize = 32;

/// An argument, once it was read.
struct Args {
    words: MaybeUninit<[u64; ARGS_WORDS]>,
    at: Option<request::Place>,
}

/// A command that waits, or has waited.
#[pin_data]
pub(crate) struct Command {
    #[pin]
    waiter: Waiter,
    /// Guarded by the lock of the handle's list.
    links: Links<Command>,
    /// It is valid while the command can be kicked.
    cmd: *mut bindings::io_uring_cmd,
    task: *mut bindings::task_struct,
    /// Those that it was issued with, and acts with when it is resumed.
    credentials: Credentials,
    /// The number of its ring, and its own there.
    ring: usize,
    user_data: u64,
    /// 1: somebody has kicked it, or it is not listed yet.
    kicked: Atomic<u32>,
    reason: Atomic<u32>,
    #[pin]
    timer: Opaque<bindings::hrtimer>,
    #[pin]
    watch: Opaque<RawWatch>,
    look: Look,
    /// The rest is for whoever runs it.
    watches: Cell<bool>,
    parked: Cell<Parked>,
    progress: Cell<u64>,
    may_wait: Cell<bool>,
    leases: Cell<Option<Kept>>,
    args: UnsafeCell<Args>,
}

// SAFETY: The cells are for whoever runs the command, which is one at a time; the links have their
// lock, and `cmd` is used by who has kicked it, once.
unsafe impl Sync for Command {}
// SAFETY: As above.
unsafe impl Send for Command {}

impl Command {
    fn new(issue: &Issue<'_>) -> Result<Arc<Self>> {
        let cmd = issue.cmd;
        // SAFETY: The command is being issued.
        let (task, ring, user_data) = unsafe {
            (
                c::postbox_uring_task(cmd),
                c::postbox_uring_ring(cmd) as usize,
                c::postbox_uring_user_data(cmd),
            )
        };
        let credentials = Credentials::current()?;
        let command = Arc::pin_init(
            pin_init!(Self {
                waiter: Waiter::of_command(),
                links: Links::new(),
                cmd,
                task,
                credentials,
                ring,
                user_data,
                kicked: Atomic::new(1),
                reason: Atomic::new(0),
                timer: Opaque::zeroed(),
                watch: Opaque::uninit(),
                watches: Cell::new(false),
                look: issue.look,
                parked: Cell::new(Parked::Nowhere),
                progress: Cell::new(0),
                may_wait: Cell::new(true),
                leases: Cell::new(None),
                args: UnsafeCell::new(Args::none()),
            }),
            GFP_MAYFAIL,
        )?;
        // SAFETY: Only this task has the issue, and nobody else the command.
        unsafe { (*command.args.get()).copy(&*issue.args.get()) };
        let until = issue.until.get();
        let realtime = until.is_some_and(|(_, realtime)| realtime);
        // SAFETY: The timer is pinned, and stopped before the command is freed: by `retire`.
        unsafe {
            c::postbox_timer_init(command.timer.get(), realtime);
            if let Some((at, _)) = until {
                c::postbox_timer_start(command.timer.get(), at);
            }
        }
        Ok(command)
    }

    /// The task that it is of.
    pub(crate) fn task(&self) -> *mut bindings::task_struct {
        self.task
    }

    /// The command of a waiter that is not a task's.
    pub(crate) fn of_waiter(waiter: &Waiter) -> &Self {
        // SAFETY: By the contract of `Waiter::of_command` it is a field of one.
        unsafe { &*kernel::container_of!(core::ptr::from_ref(waiter).cast_mut(), Self, waiter) }
    }

    /// A reference to the command of a waiter that is not a task's.
    ///
    /// # Safety
    ///
    /// The waiter was on a list, and its outcome is not taken yet.
    pub(crate) unsafe fn of(waiter: NonNull<Waiter>) -> Arc<Self> {
        // SAFETY: It is a field of a command, which has a reference to itself until it is done:
        // after its outcome was taken.
        unsafe {
            let command = kernel::container_of!(waiter.as_ptr(), Self, waiter);
            let borrowed = core::mem::ManuallyDrop::new(Arc::from_raw(command.cast_const()));
            Arc::clone(&borrowed)
        }
    }

    fn waiter(&self) -> Pin<&Waiter> {
        // SAFETY: Commands are only made pinned.
        unsafe { Pin::new_unchecked(&self.waiter) }
    }

    /// Has it run in its own task, if nobody has before.
    pub(crate) fn kick(&self) {
        if self.kicked.cmpxchg(0, 1, Full).is_ok() {
            // SAFETY: It is not done, which it can only be after this.
            unsafe { c::postbox_uring_kick(self.cmd) };
        }
    }

    /// Has it run for the first time, or once more. By who runs it, while it is not listed.
    fn start(&self) {
        self.kicked.store(0, Release);
        self.kick_because(reason::START);
    }

    /// Whether that is why it runs.
    fn starts(&self) -> bool {
        let mut old = self.reason.load(Relaxed);
        while let Err(now) = self.reason.cmpxchg(old, old & !reason::START, Full) {
            old = now;
        }
        old & reason::START != 0
    }

    fn reasons(&self) -> u32 {
        self.reason.load(Acquire)
    }

    /// What it ends with where there is no outcome.
    fn ended(&self) -> Error {
        // SAFETY: The watch is valid if it was started.
        let exited = self.watches.get() && unsafe { c::postbox_watch_exited(self.watch.get()) };
        if self.reasons() & reason::CANCELED != 0 {
            ecanceled()
        } else if exited {
            EPIPE
        } else {
            etimedout()
        }
    }

    /// Fails if there is a reason to end it.
    fn check(&self) -> Result {
        match self.reasons() & !reason::START {
            0 => Ok(()),
            _ => Err(self.ended()),
        }
    }

    fn kick_because(&self, reason: u32) {
        self.add_reason(reason);
        self.kick();
    }

    fn add_reason(&self, reason: u32) {
        let mut old = self.reason.load(Relaxed);
        while let Err(now) = self.reason.cmpxchg(old, old | reason, Full) {
            old = now;
        }
    }

    /// It will wait no more: takes it off the handle's list, and stops its timer. Before it is done.
    fn retire(&self, handle: &Handle) {
        // SAFETY: The timer was initialised in `new`; the watch was started if it is said so, and
        // starts the timer no more when it is stopped.
        unsafe {
            if self.watches.get() {
                c::postbox_watch_stop(self.watch.get());
            }
            c::postbox_timer_stop(self.timer.get());
        }
        let listed = handle.commands.remove(self);
        drop(listed);
    }

    /// Takes it off the list that it is on, unless its wait is over: then that is returned.
    fn leave(&self, handle: &Handle) -> Option<Outcome> {
        let waiter = self.waiter();
        let Ok(bound) = handle.bound() else {
            return waiter.outcome();
        };
        // SAFETY: In all of this, it was put there, by a request to this handle, and only who runs
        // it takes the outcome.
        unsafe {
            match (self.parked.get(), &bound.object) {
                (Parked::Send(place), _) => handle.tx().ok()?.withdraw(waiter, place),
                (Parked::Receive, Object::Listener(listener)) => listener.queue.leave(waiter),
                (Parked::Receive, _) => handle.rx().ok()?.leave(waiter),
                (Parked::Acquire(_), Object::Semaphore(semaphore)) => semaphore.leave(waiter),
                (Parked::Latch, Object::Latch(latch)) => latch.stop_waiting(waiter),
                (Parked::Barrier(arrival, own), Object::Barrier(barrier)) => {
                    barrier.stop_waiting(waiter, &arrival, own)
                }
                (Parked::Pipe(reads), Object::Pipe(pipe)) => pipe.leave(waiter, reads),
                (Parked::Ring(side), Object::Ring(ring)) => ring.stop_waiting(waiter, side),
                (Parked::Peer, object) => object.peer(bound.side())?.leave(waiter),
                _ => waiter.outcome(),
            }
        }
    }

    /// Gives back what it was handed and nobody can have.
    fn give_back(&self, handle: &Handle, request: u32, outcome: Outcome) {
        let Ok(bound) = handle.bound() else {
            return;
        };
        match (outcome, self.parked.get(), &bound.object) {
            (Outcome::Received(Received::Message(message)), _, object) => {
                let queue: Option<&Mailbox> = match object {
                    Object::Listener(listener) => Some(&listener.queue),
                    _ => handle.rx().ok(),
                };
                if let Some(queue) = queue {
                    queue.put_back(message);
                }
            }
            (Outcome::Sent(Sent::Accepted), Parked::Send(_), _)
                if request == uapi::POSTBOX_RESERVE =>
            {
                if let Ok(mailbox) = handle.tx() {
                    // SAFETY: It is what such a request has, and only who runs it is here.
                    let len = unsafe { (*self.args.get()).view::<uapi::postbox_reserve>() }.len;
                    handle.state.lock().add_reservation(len);
                    let _ = mailbox.unreserve(&handle.state, len);
                }
            }
            (Outcome::Granted(orphans), Parked::Acquire(count), Object::Semaphore(semaphore)) => {
                semaphore.give_back(count, orphans)
            }
            (Outcome::Turn(Turn::Yours), Parked::Pipe(reads), Object::Pipe(pipe)) => {
                pipe.end_turn(reads);
            }
            // The others are nobody's loss.
            (outcome, ..) => drop(outcome),
        }
    }
}

impl Args {
    /// None yet. Not a constant, which would have bytes for all of the words.
    #[inline(always)]
    fn none() -> Self {
        Self {
            words: MaybeUninit::uninit(),
            at: None,
        }
    }

    /// Makes it the same as another one.
    #[inline]
    fn copy(&mut self, from: &Self) {
        if from.at.is_some() {
            self.words = from.words;
            self.at = from.at;
        }
    }

    /// Reads it, if it was not yet.
    #[inline]
    fn read<T: request::Args>(&mut self, addr: u64) -> Result<(request::Place, T)> {
        const { assert!(size_of::<T>() <= size_of::<[u64; ARGS_WORDS]>()) };
        let at = match self.at {
            Some(at) => at,
            None => {
                // SAFETY: It is large enough for a `T`, and aligned.
                let args = unsafe { &mut *self.words.as_mut_ptr().cast::<MaybeUninit<T>>() };
                let at = request::Place::read(request::address(addr)?, args)?;
                *self.at.insert(at)
            }
        };
        // SAFETY: All of it was read, as the same type: a command has one request.
        Ok((at, unsafe { self.view() }))
    }

    /// What was read.
    ///
    /// # Safety
    ///
    /// It was read, as this type.
    unsafe fn view<T: request::Args>(&self) -> T {
        // SAFETY: By the contract, it begins with a `T`.
        unsafe { self.words.as_ptr().cast::<T>().read() }
    }
}

impl Linked for Command {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

/// A command as a list has it.
struct Listed(Arc<Command>);

// SAFETY: An `Arc` keeps its content in place, and `from_raw` undoes `into_raw`.
unsafe impl queue::Owner for Listed {
    type Target = Command;

    fn into_raw(self) -> NonNull<Command> {
        // SAFETY: It does not point to null.
        unsafe { NonNull::new_unchecked(Arc::into_raw(self.0).cast_mut()) }
    }

    unsafe fn from_raw(raw: NonNull<Command>) -> Self {
        // SAFETY: By the contract it comes from `into_raw`.
        Self(unsafe { Arc::from_raw(raw.as_ptr()) })
    }
}

/// The commands of a handle that are parked, or about to be.
#[pin_data]
pub(crate) struct Commands {
    #[pin]
    list: SpinLock<queue::List<Listed>>,
}

impl Commands {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_spinlock!(queue::List::new(), "postbox_commands"),
        })
    }

    fn add(&self, command: Arc<Command>) {
        self.list.lock().push_back(Listed(command));
    }

    fn remove(&self, command: &Command) -> Listed {
        // SAFETY: It was added when it was made, and is removed once, by who ends it.
        unsafe { self.list.lock().remove(NonNull::from(command)) }
    }

    /// Cancels those that `wanted` is true of; returns how many were told.
    fn cancel(&self, wanted: impl Fn(&Command) -> bool) -> i32 {
        let mut count = 0;
        loop {
            let mut some = [const { None }; 32];
            let (mut list, mut found) = (self.list.lock(), 0);
            // Those that were told go to the end, so that none is looked at again and again.
            for _ in 0..list.len() {
                let Some(listed) = list.pop_front() else {
                    break;
                };
                let command = &listed.0;
                let told = command.reason.load(Relaxed) & reason::CANCELED != 0;
                if !told && wanted(command) {
                    if let Some(slot) = some.get_mut(found) {
                        command.add_reason(reason::CANCELED);
                        *slot = Some(command.clone());
                        found += 1;
                    }
                }
                list.push_back(listed);
                if found == some.len() {
                    break;
                }
            }
            drop(list);
            for command in some.iter().flatten() {
                command.kick();
                count += 1;
            }
            if found < some.len() {
                return count;
            }
        }
    }
}

/// A command while it is issued, or goes on.
pub(crate) struct Issue<'a> {
    cmd: *mut bindings::io_uring_cmd,
    flags: u32,
    handle: &'a Handle,
    look: Look,
    /// The handle does not wait.
    nonblocking: bool,
    may_wait: Cell<bool>,
    until: Cell<Option<(i64, bool)>>,
    command: UnsafeCell<Option<Arc<Command>>>,
    /// Its outcome, where it goes on with that, until it is taken.
    outcome: Cell<Option<Outcome>>,
    resumes: Cell<bool>,
    progress: Cell<u64>,
    leases: Cell<Option<Kept>>,
    /// Whether there may be any, here or with the command.
    laden: Cell<bool>,
    args: UnsafeCell<Args>,
}

impl<'a> Issue<'a> {
    fn new(
        cmd: *mut bindings::io_uring_cmd,
        flags: u32,
        handle: &'a Handle,
        look: Look,
        nonblocking: bool,
    ) -> Self {
        Self {
            cmd,
            flags,
            handle,
            look,
            nonblocking,
            may_wait: Cell::new(false),
            until: Cell::new(None),
            command: UnsafeCell::new(None),
            outcome: Cell::new(None),
            resumes: Cell::new(false),
            progress: Cell::new(0),
            leases: Cell::new(None),
            laden: Cell::new(false),
            args: UnsafeCell::new(Args::none()),
        }
    }

    fn command(&self) -> Option<&Arc<Command>> {
        // SAFETY: It is set once, by `prepare`, and only this task has the issue.
        unsafe { (*self.command.get()).as_ref() }
    }

    /// Says how long the request waits.
    pub(crate) fn plan(&'a self, wait: Wait<'_>) -> Wait<'a> {
        self.may_wait.set(wait.may_wait() && !self.nonblocking);
        if let Wait::Until { at, realtime, .. } = wait {
            self.until.set(Some((at, realtime)));
        }
        Wait::Parks(self)
    }

    /// Whether it waits at all.
    pub(crate) fn may_wait(&self) -> bool {
        self.may_wait.get()
    }

    /// Whether the next thing that it does is to take its outcome.
    pub(crate) fn resumes(&self) -> bool {
        self.resumes.get()
    }

    /// The outcome of what it was parked for, once.
    pub(crate) fn resume(&self) -> Option<Outcome> {
        if !self.resumes.replace(false) {
            return None;
        }
        self.outcome.take()
    }

    /// The arrival at a barrier that it was parked for, and whether that is its own.
    pub(crate) fn arrival(&self) -> Option<(Arrival, bool)> {
        match (self.resumes(), self.command()?.parked.get()) {
            (true, Parked::Barrier(arrival, own)) => Some((arrival, own)),
            _ => None,
        }
    }

    /// How far it had come when it was parked.
    pub(crate) fn progress(&self) -> u64 {
        self.progress.get()
    }

    /// Remembers how far it has come, for when it is parked.
    pub(crate) fn advance(&self, progress: u64) {
        self.progress.set(progress);
    }

    /// Leases go along with what it sends now.
    pub(crate) fn take_along(&self, leases: Option<Kept>) {
        self.laden.set(leases.is_some());
        self.leases.set(leases);
    }

    /// What they went with was sent, or was not.
    #[inline]
    pub(crate) fn settle(&self, sent: bool) {
        if self.laden.replace(false) {
            self.settle_leases(sent);
        }
    }

    #[cold]
    fn settle_leases(&self, sent: bool) {
        let moved = self.command().and_then(|command| command.leases.take());
        let Some(leases) = self.leases.take().or(moved) else {
            return;
        };
        if leases.settle(sent) || self.request() != uapi::POSTBOX_CALL {
            return;
        }
        // SAFETY: It is what such a request has, and only who runs it is here.
        let args = unsafe { (*self.args.get()).view::<uapi::postbox_call>() };
        request::pool::gone(args.request.fds);
    }

    /// Whether it has a waiter already.
    pub(crate) fn prepared(&self) -> bool {
        self.command().is_some()
    }

    /// Its waiter, to be put on a list. From here on it ends by [`Self::end`] alone.
    pub(crate) fn prepare(&self, wanted: u64, parked: Parked) -> Result<Pin<&Waiter>> {
        if self.command().is_none() {
            let command = Command::new(self)?;
            self.handle.commands.add(command.clone());
            let raw = Arc::into_raw(command.clone());
            // SAFETY: The command is being issued; `raw` is a reference, which `end` drops. There
            // was no other, and nobody has borrowed it.
            unsafe {
                *self.command.get() = Some(command);
                c::postbox_uring_keep(self.cmd, raw.cast(), self.flags);
            }
        }
        let command = self.command().ok_or(EINVAL)?;
        command.waiter.renew(wanted);
        command.parked.set(parked);
        command.progress.set(self.progress.get());
        command.may_wait.set(self.may_wait.get());
        command.leases.set(self.leases.take());
        Ok(command.waiter())
    }

    /// Has it end with `EPIPE` when a process exits. After [`Self::prepare`].
    pub(crate) fn watch(&self, process: &Process) {
        if let Some(command) = self.command().filter(|command| !command.watches.get()) {
            command.watches.set(true);
            // SAFETY: Both are pinned, and `retire` stops them; the timer is initialised.
            unsafe {
                c::postbox_watch_start(command.watch.get(), process.as_ptr(), command.timer.get());
            }
        }
    }

    /// The waiter is on a list, whose lock is held: the command can be kicked.
    pub(crate) fn listed(&self) {
        if let Some(command) = self.command() {
            command.kicked.store(0, Release);
        }
    }

    /// Calls `f` with the argument of the request: when it goes on, with what was read at first.
    pub(crate) fn with<T: request::Args>(
        &self,
        f: impl FnOnce(request::Place, &mut T) -> Result,
    ) -> Result<T> {
        // SAFETY: Only this task has the issue, and nothing else has borrowed it.
        let (at, mut args) = unsafe { (*self.args.get()).read::<T>(self.look.addr) }?;
        f(at, &mut args)?;
        Ok(args)
    }

    /// What is asked for.
    pub(crate) fn request(&self) -> u32 {
        self.look.request
    }

    /// Where the argument is.
    pub(crate) fn address(&self) -> Result<usize> {
        request::address(self.look.addr)
    }

    /// The end, or that it is parked.
    fn end(&self, result: Result<i32>) -> i32 {
        let parked = eiocbqueued().to_errno();
        let result = result.unwrap_or_else(|error| error.to_errno());
        if result != parked {
            self.settle(result >= 0);
        }
        let Some(command) = self.command() else {
            if result != EAGAIN.to_errno() {
                return result;
            }
            // Returned, it would have the core try again where it may sleep.
            // SAFETY: The command is being issued, and nobody else knows it.
            unsafe { c::postbox_uring_done(self.cmd, result, self.flags) };
            return parked;
        };
        if result == parked {
            // What came before it was listed.
            if command.reasons() != 0 {
                command.kick();
            }
            return parked;
        }
        command.retire(self.handle);
        // SAFETY: It is not listed, so that nobody kicks it any more, and this is its own task, or
        // where it is issued. The reference is the one of `prepare`.
        unsafe {
            let raw = c::postbox_uring_command(self.cmd);
            c::postbox_uring_done(self.cmd, result, self.flags);
            drop(Arc::<Command>::from_raw(raw.cast()));
        }
        parked
    }
}

/// The file operation: issues a command, or asks for the end of one.
///
/// # Safety
///
/// `cmd` is a command of one of our files, and `flags` what the core says.
pub(crate) unsafe extern "C" fn fop_uring_cmd(cmd: *mut bindings::io_uring_cmd, flags: u32) -> i32 {
    let mut look = MaybeUninit::<Look>::uninit();
    // SAFETY: By the contract.
    unsafe {
        let file = c::postbox_uring_look(cmd, flags, look.as_mut_ptr());
        if file.is_null() {
            // It is cancelable, so that `prepare` has left its reference, and it is not done.
            let command = c::postbox_uring_command(cmd).cast::<Command>();
            (*command).kick_because(reason::CANCELED);
            return 0;
        }
        let (handle, look) = (chardev::handle(file), look.assume_init());
        match at_once(&handle, &look) {
            Ok(result) => result,
            Err(message) => {
                let nonblocking = (*file).f_flags & kernel::fs::file::flags::O_NONBLOCK != 0;
                issue(cmd, flags, &handle, look, nonblocking, message)
            }
        }
    }
}

/// Does what mostly is all: sends a payload that there is room for, or receives one that is there.
/// Otherwise nothing has happened yet, but that a message was made that is to be sent.
#[inline(always)]
fn at_once(handle: &Handle, look: &Look) -> Result<i32, Option<KBox<Message>>> {
    const DIRECT: u16 = uapi::POSTBOX_URING_DIRECT as u16;
    const NONBLOCK: u16 = uapi::POSTBOX_NONBLOCK as u16;
    let uring = look.uring();
    if uring.flags & !NONBLOCK != DIRECT || uring.timeout_ns != 0 {
        return Err(None);
    }
    if look.fixed || look.multishot || look.len != 0 {
        return Err(None);
    }
    let (len, priority) = (uring.len as usize, uring.priority);
    let Ok(at) = request::address(look.addr) else {
        return Err(None);
    };
    match look.request {
        uapi::POSTBOX_SEND if u32::from(priority) <= uapi::POSTBOX_PRIORITY_MAX => {
            let tx = handle.tx().map_err(|_| None)?;
            let mut from = UserBytes::at(at);
            match chardev::compose(handle, tx, Author::Caller, priority, len, &mut from) {
                Ok(message) => tx.send_now(message).map(|()| 0).map_err(Some),
                Err(error) => Ok(error.to_errno()),
            }
        }
        uapi::POSTBOX_RECV if priority == 0 => {
            let rx = handle.rx().map_err(|_| None)?;
            let received = rx.receive_bytes_now(len, |_, bytes| UserBytes::at(at).copy_now(bytes));
            received.map(|len| len as i32).ok_or(None)
        }
        _ => Err(None),
    }
}

/// Issues a command: the unusual cases.
///
/// # Safety
///
/// As for [`fop_uring_cmd`]; it is to be issued.
#[inline(never)]
unsafe fn issue(
    cmd: *mut bindings::io_uring_cmd,
    flags: u32,
    handle: &Handle,
    look: Look,
    nonblocking: bool,
    message: Option<KBox<Message>>,
) -> i32 {
    let issue = Issue::new(cmd, flags, handle, look, nonblocking);
    issue.end(match message {
        Some(message) => send_later(&issue, message),
        None => submit(&issue),
    })
}

/// Sends what could not be sent [`at_once`].
fn send_later(issue: &Issue<'_>, message: KBox<Message>) -> Result<i32> {
    let flags = u32::from(issue.look.uring().flags) & Wait::FLAGS;
    let wait = Wait::new(flags, 0, How::Command(issue))?;
    issue.handle.tx()?.send_or_wait(message, &wait)?;
    Ok(0)
}

/// What is left of a command, in its own task; or elsewhere, if that is `dead`.
///
/// # Safety
///
/// `cmd` was kicked.
#[no_mangle]
unsafe extern "C" fn postbox_uring_run(cmd: *mut bindings::io_uring_cmd, flags: u32, dead: bool) {
    // SAFETY: By the contract; `prepare` has left the reference, and only `end` drops it.
    let (handle, command) = unsafe {
        let raw = c::postbox_uring_command(cmd).cast::<Command>();
        let borrowed = core::mem::ManuallyDrop::new(Arc::from_raw(raw));
        (
            chardev::handle(c::postbox_uring_file(cmd)),
            Arc::clone(&borrowed),
        )
    };
    // SAFETY: By the contract.
    let issue = unsafe { Issue::going_on(cmd, flags, &handle, command.clone()) };
    // Of a command that is dead nothing is left to be done in anybody's name but to give back.
    let _ = command
        .credentials
        .with(|| issue.end(go_on(&issue, &command, dead)));
}

/// The time of a command is up.
///
/// # Safety
///
/// `timer` is that of a command.
#[no_mangle]
unsafe extern "C" fn postbox_uring_time_up(timer: *mut bindings::hrtimer) {
    // SAFETY: By the contract; it is stopped before the command is freed.
    let command = unsafe {
        let timer = timer.cast::<Opaque<bindings::hrtimer>>();
        &*kernel::container_of!(timer, Command, timer)
    };
    command.kick_because(reason::TIME_UP);
}

impl<'a> Issue<'a> {
    /// # Safety
    ///
    /// `cmd` was kicked, and is `command`'s.
    unsafe fn going_on(
        cmd: *mut bindings::io_uring_cmd,
        flags: u32,
        handle: &'a Handle,
        command: Arc<Command>,
    ) -> Self {
        let (args, leases) = (command.args.get(), command.leases.take());
        let laden = Cell::new(leases.is_some());
        let issue = Self {
            cmd,
            flags,
            handle,
            // The SQE is gone.
            look: command.look,
            nonblocking: false,
            may_wait: Cell::new(command.may_wait.get()),
            until: Cell::new(None),
            outcome: Cell::new(None),
            resumes: Cell::new(false),
            progress: Cell::new(command.progress.get()),
            leases: Cell::new(leases),
            laden,
            args: UnsafeCell::new(Args::none()),
            command: UnsafeCell::new(Some(command)),
        };
        // SAFETY: Only who runs the command is here, and the issue has it.
        unsafe { (*issue.args.get()).copy(&*args) };
        issue
    }
}

/// Does what a command asks for, as far as it can.
fn submit(issue: &Issue<'_>) -> Result<i32> {
    let look = &issue.look;
    ensure(look.len == 0)?;
    if look.request == uapi::POSTBOX_CANCEL {
        return cancel(issue);
    }
    if look.multishot {
        return start(issue);
    }
    run(issue)
}

/// The same, for the first time and when it goes on.
fn run(issue: &Issue<'_>) -> Result<i32> {
    let uring = issue.look.uring();
    if u32::from(uring.flags) & uapi::POSTBOX_URING_DIRECT != 0 {
        return direct(issue, &uring);
    }
    ensure(issue.look.args == [0; 2] && !issue.look.fixed)?;
    request::command(issue.handle, issue)
}

/// What is left of a command in its own task, or elsewhere, when that is `dead`.
fn go_on(issue: &Issue<'_>, command: &Command, dead: bool) -> Result<i32> {
    let handle = issue.handle;
    if dead {
        // Before anybody could be told.
        drop(issue.leases.take());
    }
    let done = command.waiter.done();
    let outcome = match done && !dead {
        true => command.waiter.outcome(),
        false => {
            if !dead && command.starts() {
                return receive_all(issue, command);
            }
            command.leave(handle)
        }
    };
    let Some(outcome) = outcome else {
        return match dead {
            true => Err(ecanceled()),
            false => part(issue).unwrap_or(Err(command.ended())),
        };
    };
    if dead {
        command.give_back(handle, issue.request(), outcome);
        return Err(ecanceled());
    }
    issue.outcome.set(Some(outcome));
    issue.resumes.set(true);
    let result = match issue.look.multishot {
        true => receive_all(issue, command),
        false => run(issue),
    };
    if let Some(outcome) = issue.resume() {
        // It failed before it came to that.
        command.give_back(handle, issue.request(), outcome);
    }
    result
}

/// The result of a command that is ended after it has done a part. `None`: it has not.
fn part(issue: &Issue<'_>) -> Option<Result<i32>> {
    let flags = u32::from(issue.look.uring().flags);
    match issue.progress() as i32 {
        0 => None,
        done if flags & uapi::POSTBOX_URING_DIRECT != 0 => Some(Ok(done)),
        _ => request::part(issue),
    }
}

/// POSTBOX_CANCEL.
fn cancel(issue: &Issue<'_>) -> Result<i32> {
    let uring = issue.look.uring();
    let all = u32::from(uring.flags) & uapi::POSTBOX_URING_ALL != 0;
    ensure(u32::from(uring.flags) & !uapi::POSTBOX_URING_ALL == 0)?;
    ensure(uring.priority == 0 && uring.len == 0 && uring.timeout_ns == 0)?;
    ensure(!issue.look.fixed && !issue.look.multishot && (!all || issue.look.addr == 0))?;
    // SAFETY: The command is being issued.
    let ring = unsafe { c::postbox_uring_ring(issue.cmd) } as usize;
    let told = issue
        .handle
        .commands
        .cancel(|command| all || (command.ring == ring && command.user_data == issue.look.addr));
    match told {
        0 => Err(ENOENT),
        told => Ok(told),
    }
}

/// A payload without an argument struct.
fn direct(issue: &Issue<'_>, uring: &uapi::postbox_uring) -> Result<i32> {
    const FLAGS: u32 = Wait::FLAGS | uapi::POSTBOX_URING_DIRECT;
    let (handle, look, flags) = (issue.handle, &issue.look, u32::from(uring.flags));
    ensure(flags & !FLAGS == 0)?;
    ensure(uring.priority == 0 || look.request == uapi::POSTBOX_SEND)?;
    let wait = Wait::new(flags & Wait::FLAGS, uring.timeout_ns, How::Command(issue))?;
    let (at, len) = (UserBytes::at(issue.address()?), uring.len as usize);
    if [uapi::POSTBOX_SEND_BATCH, uapi::POSTBOX_RECV_BATCH].contains(&look.request) {
        return direct_batch(issue, at, uring.len, wait);
    }
    let sends = [uapi::POSTBOX_SEND, uapi::POSTBOX_WRITE].contains(&look.request);
    if look.request == uapi::POSTBOX_SEND && issue.resumes() {
        return sent(issue.resume()).map(|()| 0);
    }
    let mut fixed = MaybeUninit::<bindings::iov_iter>::uninit();
    if look.fixed {
        // SAFETY: The command is valid, and `fixed` is for writing to.
        to_result(unsafe {
            c::postbox_uring_import(
                issue.cmd,
                look.addr,
                uring.len,
                !sends,
                fixed.as_mut_ptr(),
                issue.flags,
            )
        })?;
    }
    let fixed = fixed.as_mut_ptr();
    let done = match look.request {
        uapi::POSTBOX_SEND => {
            let tx = handle.tx()?;
            if look.fixed {
                // SAFETY: It was initialised above, as a source.
                let from = unsafe { IovIterSource::from_raw(fixed) };
                send_one(handle, tx, uring, from, &wait)?;
            } else {
                send_one(handle, tx, uring, &mut { at }, &wait)?;
            }
            0
        }
        uapi::POSTBOX_RECV => {
            let rx = handle.rx()?;
            let received = match (look.fixed, issue.resumes()) {
                (false, false) => rx.receive_bytes(handle, at, len, wait),
                (false, true) => rx.receive(&Receive::any(handle, len, wait), |message| {
                    let payload = message.payload();
                    at.copy_from(payload).map(|()| payload.len())
                }),
                (true, _) => {
                    // SAFETY: It was initialised above, as a destination.
                    let to = unsafe { IovIterDest::from_raw(fixed) };
                    chardev::receive_iter(handle, rx, to, wait)
                }
            };
            received.map_err(Failure::into_error)?
        }
        uapi::POSTBOX_READ => match look.fixed {
            // SAFETY: As above.
            true => pipe::read_iter(handle, unsafe { IovIterDest::from_raw(fixed) }, &wait),
            false => pipe::read_bytes(handle, at, len, &wait),
        }?,
        uapi::POSTBOX_WRITE => match look.fixed {
            // SAFETY: As above.
            true => pipe::write_iter(handle, unsafe { IovIterSource::from_raw(fixed) }, &wait),
            false => pipe::write_bytes(handle, at, len, &wait),
        }?,
        _ => return Err(EINVAL),
    };
    Ok(done as i32)
}

/// How many entries of an array are read at once.
const SPANS: usize = 16;
const SPAN: usize = size_of::<uapi::postbox_span>();

/// Entries of an array of spans, as many as are read at once.
struct Spans {
    at: UserBytes,
    /// The first of them, and how many they are.
    first: u32,
    some: usize,
    bytes: [u8; SPANS * SPAN],
}

impl Spans {
    /// The bytes that an entry is for, how many these are, and where `done` is. Of the entries one
    /// is wanted after the other.
    #[inline]
    fn get(&mut self, index: u32, count: u32) -> Result<(UserBytes, usize, UserBytes)> {
        let mut place = index.wrapping_sub(self.first) as usize;
        if place >= self.some {
            let some = (count.saturating_sub(index) as usize).min(SPANS);
            let bytes = self.bytes.get_mut(..some * SPAN).ok_or(EINVAL)?;
            self.at.after(index as usize * SPAN).copy_to(bytes)?;
            (self.first, self.some, place) = (index, some, 0);
        }
        let entry = self.bytes.get(place * SPAN..).ok_or(EINVAL)?;
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *entry.first_chunk().ok_or(EINVAL)?;
        let data = request::address(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))?;
        let len = u32::from_ne_bytes([i, j, k, l]) as usize;
        let done = index as usize * SPAN + offset_of!(uapi::postbox_span, done);
        Ok((UserBytes::at(data), len, self.at.after(done)))
    }
}

/// Payloads without argument structs, in an array.
fn direct_batch(issue: &Issue<'_>, at: UserBytes, count: u32, wait: Wait<'_>) -> Result<i32> {
    let handle = issue.handle;
    ensure((1..=request::BATCH_MAX).contains(&count) && !issue.look.fixed)?;
    let sends = issue.request() == uapi::POSTBOX_SEND_BATCH;
    let (mut done, mut result) = (issue.progress() as u32, Ok(()));
    if let (true, Some(outcome)) = (sends, sends.then(|| issue.resume()).flatten()) {
        result = sent(Some(outcome));
        done += u32::from(result.is_ok());
    }
    let mut spans = Spans {
        at,
        first: 0,
        some: 0,
        bytes: [0; SPANS * SPAN],
    };
    while done < count && result.is_ok() {
        issue.advance(done.into());
        result = match sends {
            true => send_span(handle, &mut spans, (done, count), &wait),
            // Only the first one waits.
            false if done == 0 => receive_span(issue, &mut spans, (done, count), wait),
            false => receive_span(issue, &mut spans, (done, count), Wait::Never),
        };
        done += u32::from(result.is_ok());
    }
    match result {
        Err(error) if done == 0 || error == eiocbqueued() => Err(error),
        _ => Ok(done as i32),
    }
}

#[inline]
fn send_span(
    handle: &Handle,
    spans: &mut Spans,
    (index, count): (u32, u32),
    wait: &Wait<'_>,
) -> Result {
    let (mut from, len, _) = spans.get(index, count)?;
    let tx = handle.tx()?;
    let message = chardev::compose(handle, tx, Author::Caller, 0, len, &mut from)?;
    tx.send(message, wait)
}

#[inline]
fn receive_span(
    issue: &Issue<'_>,
    spans: &mut Spans,
    (index, count): (u32, u32),
    wait: Wait<'_>,
) -> Result {
    let (to, room, done) = spans.get(index, count)?;
    let rx = issue.handle.rx()?;
    let len = |bytes: &[u8]| (bytes.len() as u32).to_ne_bytes();
    if !issue.resumes() {
        let received = rx.receive_bytes_now(room, |_, bytes| {
            to.copy_now(bytes) && done.copy_now(&len(bytes))
        });
        if received.is_some() {
            return Ok(());
        }
    }
    let received = rx.receive(&Receive::any(issue.handle, room, wait), |message| {
        let payload = message.payload();
        to.copy_from(payload)?;
        done.copy_from(&len(payload))
    });
    received.map_err(Failure::into_error)
}

fn send_one(
    handle: &Handle,
    tx: &Mailbox,
    uring: &uapi::postbox_uring,
    from: &mut impl Source,
    wait: &Wait<'_>,
) -> Result {
    ensure(u32::from(uring.priority) <= uapi::POSTBOX_PRIORITY_MAX)?;
    let (author, priority) = (Author::Caller, uring.priority);
    chardev::write_message(handle, tx, author, priority, uring.len as usize, from, wait)?;
    Ok(())
}

/// How many messages a multishot command takes before others have their turn.
const BUDGET: usize = 32;

/// How a multishot command waits, and whether what it receives is to be acknowledged.
fn multishot<'a>(issue: &'a Issue<'a>) -> Result<(Wait<'a>, bool)> {
    let uring = issue.look.uring();
    let flags = u32::from(uring.flags);
    let acknowledged = flags & uapi::POSTBOX_RECV_ACK != 0;
    ensure(flags & !(Wait::FLAGS | uapi::POSTBOX_RECV_ACK) == 0)?;
    ensure(!acknowledged || issue.request() == uapi::POSTBOX_RECV)?;
    ensure(uring.priority == 0 && uring.len == 0 && issue.look.addr == 0)?;
    let wait = Wait::new(flags & Wait::FLAGS, uring.timeout_ns, How::Command(issue))?;
    Ok((wait, acknowledged))
}

/// Begins a multishot command. It runs in its own task alone, where it may have more than one
/// completion.
fn start(issue: &Issue<'_>) -> Result<i32> {
    multishot(issue)?;
    match issue.request() {
        uapi::POSTBOX_RECV => drop(issue.handle.rx()?),
        uapi::POSTBOX_ACCEPT => drop(listener(issue.handle)?),
        _ => return Err(EINVAL),
    }
    issue.prepare(0, Parked::Nowhere)?;
    issue.command().ok_or(EINVAL)?.start();
    Err(eiocbqueued())
}

/// Receives what there is, each message with a completion of its own, until it is parked again.
fn receive_all(issue: &Issue<'_>, command: &Command) -> Result<i32> {
    let (wait, acknowledged) = multishot(issue)?;
    let mut left = BUDGET;
    while left > 0 {
        // What it was handed comes first.
        if !issue.resumes() {
            command.check()?;
            if issue.request() == uapi::POSTBOX_RECV && !acknowledged {
                let received = receive_run(issue, left)?;
                left -= received;
                if received > 0 {
                    continue;
                }
            }
        }
        left -= 1;
        if issue.request() == uapi::POSTBOX_ACCEPT {
            if let Some(unreported) = accept_one(issue, wait)? {
                return Ok(unreported);
            }
        } else {
            receive_one(issue, wait, acknowledged)?;
        }
    }
    // It waits for nobody until it runs again: its last outcome is taken.
    issue.prepare(0, Parked::Nowhere)?;
    command.start();
    Err(eiocbqueued())
}

/// A record in a buffer of the group, whose completion is to be posted. Dropped before that, the
/// buffer is as it was.
struct Filled<'a> {
    issue: &'a Issue<'a>,
    selected: Selected,
}

impl<'a> Filled<'a> {
    fn new(issue: &'a Issue<'a>, record: &uapi::postbox_record, payload: &[u8]) -> Result<Self> {
        let mut selected = Selected::default();
        // SAFETY: The command is multishot, and this is its own task; the others are valid.
        to_result(unsafe {
            c::postbox_uring_fill(
                issue.cmd,
                issue.look.group,
                core::ptr::from_ref(record).cast(),
                size_of::<uapi::postbox_record>(),
                payload.as_ptr(),
                payload.len(),
                issue.flags,
                &mut selected,
            )
        })?;
        Ok(Self { issue, selected })
    }

    fn post(self) -> Result {
        let mut filled = core::mem::ManuallyDrop::new(self);
        let (cmd, flags) = (filled.issue.cmd, filled.issue.flags);
        // SAFETY: It was filled here, and is given up.
        to_result(unsafe { c::postbox_uring_post(cmd, &mut filled.selected, flags) })
    }
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        // SAFETY: It was filled, and not posted.
        unsafe {
            c::postbox_uring_put_back(self.issue.cmd, &mut self.selected, self.issue.flags);
        }
    }
}

fn record(message: &Message) -> uapi::postbox_record {
    let (node, sender) = (message.node(), message.sender());
    uapi::postbox_record {
        size: size_of::<uapi::postbox_record>() as u32,
        msg_flags: message.flags(),
        msg_len: node.len(),
        token: 0,
        priority: node.priority().into(),
        fd: -1,
        pid: sender.pid,
        tid: sender.tid,
        uid: sender.uid,
        gid: sender.gid,
        pidfd_ino: sender.pidfd_ino,
    }
}

/// Receives what is there and need not be told to anybody, up to `count` messages.
fn receive_run(issue: &Issue<'_>, count: usize) -> Result<usize> {
    issue.handle.rx()?.receive_run(count, |message| {
        Filled::new(issue, &record(message), message.payload())?.post()
    })
}

fn receive_one(issue: &Issue<'_>, wait: Wait<'_>, acknowledged: bool) -> Result {
    let (handle, rx) = (issue.handle, issue.handle.rx()?);
    // A sender that waits is told when the message is committed. So that comes before the completion
    // there, in a form that can be undone where the completion queue is full.
    let offered = rx.rendezvous();
    let how = Receive {
        room: usize::MAX,
        lease: acknowledged || offered,
        answers: true,
        ..Receive::any(handle, 0, wait)
    };
    let mut filled = None;
    let token = rx.receive(&how, |message| {
        let node = message.node();
        let mut record = record(message);
        if acknowledged || node.is_request() {
            record.token = node.token();
        }
        // What was withdrawn meanwhile leaves its buffer to the next one.
        drop(filled.take());
        let next = Filled::new(issue, &record, message.payload())?;
        if !offered || node.is_request() {
            return next.post().map(|()| 0);
        }
        filled = Some(next);
        Ok(node.token())
    });
    let token = token.map_err(Failure::into_error)?;
    let Some(filled) = filled else {
        return Ok(());
    };
    let posted = filled.post();
    if posted.is_err() || !acknowledged {
        rx.acknowledge(&handle.state, token, posted.is_err())?;
    }
    posted
}

fn listener(handle: &Handle) -> Result<&Listener> {
    match handle.bound()?.object(uapi::POSTBOX_RIGHT_RECEIVE)? {
        Object::Listener(listener) => Ok(listener),
        _ => Err(eopnotsupp()),
    }
}

/// Accepts one connection. Returns the descriptor where its completion could not be posted, to be
/// the result of the last one.
fn accept_one(issue: &Issue<'_>, wait: Wait<'_>) -> Result<Option<i32>> {
    let listener = listener(issue.handle)?;
    let mut about = None;
    let fd = request::link::accept_one(issue.handle, listener, wait, |message, id, fd| {
        about = Some(uapi::postbox_record {
            token: id,
            fd,
            ..record(message)
        });
        Ok(())
    })?;
    let about = about.ok_or(EINVAL)?;
    match Filled::new(issue, &about, &[]).and_then(Filled::post) {
        Ok(()) => Ok(None),
        Err(_) => Ok(Some(fd)),
    }
}
