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
    barrier, chardev,
    compat::{ecanceled, eiocbqueued, enodata, eopnotsupp, etimedout},
    handle::Handle,
    helpers::{
        self, c, Credentials, Key, Look, Process, RawWatch, Selected, UserBytes, GFP_MAYFAIL,
    },
    latch,
    link::Listener,
    mailbox::{replied, sent, Failure, Mailbox, Origin, Receive},
    message::{Author, Message, Source},
    object::Object,
    pool::Kept,
    queue::{self, Arrival, Gate, Linked, Links, List, Received, RingSide, Sent, Turn},
    quota::{CommandCharge, Pinned},
    request::{self, ensure, pipe},
    uapi,
    wait::{Event, How, Outcome, Wait, Waiter},
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
            ordering::{Acquire, Full, Relaxed},
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
    /// For the other side to be opened. The event is part of the object that the handle is bound to.
    Peer(NonNull<Event>),
}

/// How a request ended that is a command. That it is parked is no number, which a length could be.
pub(crate) enum Ended {
    /// It has done so much.
    Done(usize),
    Failed(Error),
    /// It has a waiter on a list, and completes later.
    Parked,
}

/// `ERESTART_RESTARTBLOCK` and `ERESTARTSYS`, negative: between them are those by which a system call
/// is restarted.
const FIRST_RESTART: i32 = -516;
const LAST_RESTART: i32 = -512;

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
    /// What it is cancelled by. Guarded by the lock of the handle's commands, as are the links.
    #[pin]
    key: Opaque<Key>,
    links: Links<Command>,
    /// It is valid while the command can be kicked.
    cmd: *mut bindings::io_uring_cmd,
    task: *mut bindings::task_struct,
    /// Those that it was issued with, and acts with when it is resumed.
    credentials: Credentials,
    /// The user with whose credentials it was issued pays for it, whoever opened the handle.
    _charge: CommandCharge,
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
    /// Whose messages it receives.
    origin: UnsafeCell<Option<Origin>>,
    args: UnsafeCell<Args>,
}

// SAFETY: The cells, `origin` and `args` are for the one thread that has the command: until it is opened, the one
// that issues it (its task, a worker of io-wq, or the thread of SQPOLL); then, each time, the one that
// runs it after a kick. `kicked` hands it on: opening it and kicking it are full fences. `key` and `links`
// have their lock, `cmd` is used by who has kicked it, once, and the rest is atomic, locked or never changed.
unsafe impl Sync for Command {}
// SAFETY: None of it is bound to a thread; `task` and `cmd` stay until the command is completed.
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
        let charge = issue
            .handle
            .with_payer(helpers::euid(), Pinned::charge_command)?;
        let command = Arc::pin_init(
            pin_init!(Self {
                // SAFETY: It is the field of a command here.
                waiter: unsafe { Waiter::of_command() },
                key: Opaque::new(Key::new(ring, user_data)),
                links: Links::new(),
                cmd,
                task,
                credentials,
                _charge: charge,
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
                origin: UnsafeCell::new(None),
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
    ///
    /// # Safety
    ///
    /// The waiter was made by [`Waiter::of_command`].
    pub(crate) unsafe fn of_waiter(waiter: &Waiter) -> &Self {
        // SAFETY: `of_command` is only called for the field of a command.
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
        if self.kicked.xchg(1, Full) == 0 {
            // SAFETY: `kicked` is 0 from when the command is parked until it is kicked, and it is
            // completed only where it runs or is issued, while `kicked` is 1. So it was not
            // completed when this exchange was made; from there on it is for this kick alone to
            // have it run, and the run completes it at the earliest.
            unsafe { c::postbox_uring_kick(self.cmd) };
        }
    }

    /// It can be kicked from here on. Who gives a reason, or an outcome, kicks afterwards: with both
    /// exchanges full fences, either that one finds it open, or who opens it finds the reason.
    fn open(&self) {
        self.kicked.xchg(0, Full);
    }

    /// Has it run for the first time, or once more. By who runs it, while it is not listed.
    fn start(&self) {
        self.add_reason(reason::START);
        self.open();
        self.kick();
    }

    /// Whether that is why it runs.
    fn starts(&self) -> bool {
        let mut old = self.reason.load(Relaxed);
        while let Err(now) = self.reason.cmpxchg(old, old & !reason::START, Full) {
            old = now;
        }
        old & reason::START != 0
    }

    /// Whether there is a reason to end it.
    fn is_to_end(&self) -> bool {
        self.reasons() & !reason::START != 0
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
        match self.is_to_end() {
            false => Ok(()),
            true => Err(self.ended()),
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

    /// It will wait no more: nobody cancels it, and its timer stops. Before it is done.
    fn retire(&self, handle: &Handle) {
        // SAFETY: The timer was initialised in `new`; the watch was started if it is said so. This sleeps,
        // and no lock is held where a command ends.
        unsafe {
            if self.watches.get() {
                c::postbox_watch_stop(self.watch.get());
            }
            c::postbox_timer_stop(self.timer.get());
        }
        // SAFETY: It is a command of this handle, to which `prepare` has added it.
        let added = unsafe { handle.commands.remove(self) };
        drop(added);
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
                // The handle keeps its object, and with it the event.
                (Parked::Peer(event), _) => event.as_ref().leave(waiter),
                _ => waiter.outcome(),
            }
        }
    }

    /// What a latch or a barrier that it waited for said, where nothing more is to be told.
    fn passed(&self, handle: &Handle, gate: Gate) -> Result {
        let passed = latch::passed(gate);
        match self.parked.get() {
            // It has waited for an earlier arrival of the handle, which is over with that.
            Parked::Barrier(arrival, false) => {
                barrier::collected(&handle.state.shares, arrival, passed).map(drop)
            }
            _ => passed,
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
                    mailbox.give_back_reservation(&handle.state, len);
                }
            }
            (Outcome::Granted(orphans), Parked::Acquire(count), Object::Semaphore(semaphore)) => {
                semaphore.give_back(count, orphans)
            }
            (Outcome::Turn(Turn::Yours(place)), Parked::Pipe(reads), Object::Pipe(pipe)) => {
                pipe.give_up(reads, place);
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

/// How many commands are told under one lock that they are cancelled.
const CANCELLED_AT_ONCE: usize = 32;

/// The commands of a handle that are parked, or about to be, and that nobody has cancelled yet: by
/// their ring and their number there, so that finding one takes no longer because there are others.
#[pin_data]
pub(crate) struct Commands {
    #[pin]
    tree: SpinLock<Tree>,
}

/// The keys of commands, and the commands in the order in which they came. Both have the same ones.
struct Tree {
    keys: bindings::rb_root,
    all: List<Listed>,
}

// SAFETY: It is a pointer to commands, which can be sent, and used under the lock alone.
unsafe impl Send for Tree {}

/// A reference to a command on the list of its handle.
struct Listed(Arc<Command>);

// SAFETY: The content of an `Arc` stays where it is, and `from_raw` undoes `into_raw`.
unsafe impl queue::Owner for Listed {
    type Target = Command;

    fn into_raw(self) -> NonNull<Command> {
        // SAFETY: An `Arc` does not point to null.
        unsafe { NonNull::new_unchecked(Arc::into_raw(self.0).cast_mut()) }
    }

    unsafe fn from_raw(raw: NonNull<Command>) -> Self {
        // SAFETY: The caller guarantees that it comes from `into_raw`.
        Self(unsafe { Arc::from_raw(raw.as_ptr().cast_const()) })
    }
}

impl Linked for Command {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

/// Which commands are to be cancelled.
enum Wanted {
    All,
    /// Those that one ring has by one number.
    Of(usize, u64),
}

impl Tree {
    /// # Safety
    ///
    /// The command is in no tree.
    unsafe fn insert(&mut self, command: Arc<Command>) {
        let key = command.key.get();
        self.all.push_back(Listed(command));
        // SAFETY: The command stays, since the list has a reference now, and its key is in no tree.
        unsafe { c::postbox_keys_add(&mut self.keys, key) };
    }

    /// # Safety
    ///
    /// The key is null, or in this tree.
    unsafe fn take(&mut self, key: *mut Key) -> Option<Arc<Command>> {
        let key = NonNull::new(key)?.as_ptr();
        // SAFETY: It is in the tree, so that it is the key of a command that `insert` has put on the
        // list, too.
        unsafe {
            c::postbox_keys_remove(&mut self.keys, key);
            let command = kernel::container_of!(key.cast::<Opaque<Key>>(), Command, key);
            Some(self.all.remove(NonNull::new(command)?).0)
        }
    }

    /// Takes out one of those that are wanted: of all, the first that came.
    fn take_one(&mut self, wanted: &Wanted) -> Option<Arc<Command>> {
        let found = match *wanted {
            Wanted::All => self.all.front().map(|command| command.key.get())?,
            // SAFETY: The keys of the tree are valid as long as they are in it.
            Wanted::Of(ring, user_data) => unsafe {
                c::postbox_keys_find(&self.keys, ring, user_data)
            },
        };
        // SAFETY: It is in this tree, where it was found, or where those of the list are.
        unsafe { self.take(found) }
    }
}

impl Commands {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            tree <- new_spinlock!(
                Tree {
                    keys: bindings::rb_root::default(),
                    all: List::new(),
                },
                "postbox_commands"
            ),
        })
    }

    /// # Safety
    ///
    /// The command was just made.
    unsafe fn add(&self, command: Arc<Command>) {
        // SAFETY: A command that was just made is in no tree.
        unsafe { self.tree.lock().insert(command) };
    }

    /// Takes a command out, if it is not yet. What is returned is to be dropped.
    ///
    /// # Safety
    ///
    /// The command was added here.
    unsafe fn remove(&self, command: &Command) -> Option<Arc<Command>> {
        let mut tree = self.tree.lock();
        let key = command.key.get();
        // SAFETY: The key is the command's, and under its lock; it is in this tree or in none.
        unsafe {
            match (*key).is_out() {
                true => None,
                false => tree.take(key),
            }
        }
    }

    /// Cancels those that are wanted, each of them once; returns how many were told. As many as there
    /// are when it begins: others may be parked without end. It gives up when the task is killed.
    fn cancel(&self, wanted: &Wanted) -> usize {
        let mut left = self.tree.lock().all.len();
        let mut count = 0;
        loop {
            let mut some = [const { None }; CANCELLED_AT_ONCE];
            let mut tree = self.tree.lock();
            for slot in some.iter_mut().take(left) {
                *slot = tree.take_one(wanted);
                let Some(command) = slot else { break };
                command.add_reason(reason::CANCELED);
            }
            drop(tree);
            let mut told = 0;
            for command in some.into_iter().flatten() {
                command.kick();
                told += 1;
            }
            count += told;
            left -= told;
            if told < CANCELLED_AT_ONCE || helpers::dying() {
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
    /// It is on a list: who takes it off goes on with it.
    parked: Cell<bool>,
    /// Its task, or its ring, is gone, and user memory is out of reach.
    dead: bool,
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
            parked: Cell::new(false),
            dead: false,
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
        if let Wait::Until { at, realtime } = wait {
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
        if leases.settle(sent) || self.dead || self.request() != uapi::POSTBOX_CALL {
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
            // SAFETY: It was just made.
            unsafe { self.handle.commands.add(command.clone()) };
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

    /// Whose messages it receives: what `find` says the first time. When the command goes on, that
    /// process may be gone that its message is from.
    pub(crate) fn origin(&self, find: impl FnOnce() -> Result<Origin>) -> Result<&Origin> {
        if self.command().is_none() {
            let origin = find()?;
            self.prepare(0, Parked::Nowhere)?;
            let command = self.command().ok_or(EINVAL)?;
            // SAFETY: The command was just made, and nobody else has it.
            unsafe { *command.origin.get() = Some(origin) };
        }
        let command = self.command().ok_or(EINVAL)?;
        // SAFETY: It was written above, before the command was opened for the first time, and is not
        // changed after that. It is as old as the command, which the issue has.
        unsafe { (*command.origin.get()).as_ref() }.ok_or(EINVAL)
    }

    /// Has it end with `EPIPE` when a process exits. After [`Self::prepare`].
    pub(crate) fn watch(&self, process: &Process) -> Result {
        if let Some(command) = self.command().filter(|command| !command.watches.get()) {
            let (watch, timer) = (command.watch.get(), command.timer.get());
            // SAFETY: Both are pinned, and `retire` stops them; the timer is initialised.
            to_result(unsafe { c::postbox_watch_start(watch, process.as_ptr(), timer) })?;
            command.watches.set(true);
        }
        Ok(())
    }

    /// The waiter is on a list, whose lock is held: the command can be kicked.
    pub(crate) fn listed(&self) {
        if let Some(command) = self.command() {
            self.parked.set(true);
            command.open();
        }
    }

    /// Has a multishot command run in its own task, where it goes on.
    fn restart(&self, command: &Command) -> Result<usize> {
        self.parked.set(true);
        command.start();
        Err(eiocbqueued())
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

    /// How it ended, by what the request returned: a command that is on a list is parked, whatever
    /// number says so.
    fn ended(&self, result: Result<usize>) -> Ended {
        match result {
            _ if self.parked.get() => Ended::Parked,
            Ok(done) => Ended::Done(done),
            Err(error) => Ended::Failed(error),
        }
    }

    /// Completes the command, unless it is parked. Returns what the core is to be told.
    fn end(&self, ended: Ended) -> i32 {
        let queued = eiocbqueued().to_errno();
        let result = match ended {
            Ended::Parked => {
                // What came before the command could be kicked has kicked nobody. START has its own
                // kick, after it was given.
                let due = |command: &&Arc<Command>| command.is_to_end() || command.waiter.done();
                if let Some(command) = self.command().filter(due) {
                    command.kick();
                }
                return queued;
            }
            // No operation moves more than MAX_RW_COUNT.
            Ended::Done(done) => i32::try_from(done).unwrap_or(i32::MAX),
            Ended::Failed(error) => match error.to_errno() {
                // A command is not restarted, and the core does not translate these.
                FIRST_RESTART..=LAST_RESTART => EINTR.to_errno(),
                errno => errno,
            },
        };
        self.settle(result >= 0);
        let Some(command) = self.command() else {
            if result != EAGAIN.to_errno() && result != queued {
                return result;
            }
            // Returned, these would mean something else to the core.
            // SAFETY: The command is being issued, and nobody else knows it.
            unsafe { c::postbox_uring_done(self.cmd, result, self.flags) };
            return queued;
        };
        command.retire(self.handle);
        // SAFETY: It is not listed, so that nobody kicks it any more, and this is its own task, or
        // where it is issued. The reference is the one of `prepare`.
        unsafe {
            let raw = c::postbox_uring_command(self.cmd);
            c::postbox_uring_done(self.cmd, result, self.flags);
            drop(Arc::<Command>::from_raw(raw.cast()));
        }
        queued
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
    let result = match message {
        Some(message) => send_later(&issue, message),
        None => submit(&issue),
    };
    issue.end(issue.ended(result))
}

/// Sends what could not be sent [`at_once`].
fn send_later(issue: &Issue<'_>, message: KBox<Message>) -> Result<usize> {
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
    let issue = unsafe { Issue::going_on(cmd, flags, &handle, command.clone(), dead) };
    // Of a command that is dead nothing is left to be done in anybody's name but to give back.
    let _ = command
        .credentials
        .with(|| issue.end(go_on(&issue, &command)));
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
        dead: bool,
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
            parked: Cell::new(false),
            dead,
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
fn submit(issue: &Issue<'_>) -> Result<usize> {
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
fn run(issue: &Issue<'_>) -> Result<usize> {
    let uring = issue.look.uring();
    if u32::from(uring.flags) & uapi::POSTBOX_URING_DIRECT != 0 {
        return direct(issue, &uring);
    }
    ensure(issue.look.args == [0; 2] && !issue.look.fixed)?;
    request::command(issue.handle, issue)
}

/// What is left of a command in its own task, or elsewhere, when it is dead.
fn go_on(issue: &Issue<'_>, command: &Command) -> Ended {
    let handle = issue.handle;
    let outcome = match command.waiter.done() {
        true => command.waiter.outcome(),
        false => {
            if !issue.dead && command.starts() {
                return issue.ended(receive_all(issue, command));
            }
            if !issue.dead && !command.is_to_end() {
                // Kicked for nothing, it is still on its list. What it has stays with it.
                command.leases.set(issue.leases.take());
                issue.listed();
                return Ended::Parked;
            }
            command.leave(handle)
        }
    };
    // From here on it is known what was committed. What was, is reported, whatever ended the wait.
    let Some(outcome) = outcome else {
        issue.settle(false);
        let error = match issue.dead {
            true => ecanceled(),
            false => command.ended(),
        };
        return part(issue).unwrap_or(Ended::Failed(error));
    };
    if issue.dead {
        return buried(issue, command, outcome);
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
    match issue.ended(result) {
        Ended::Failed(error) => part(issue).unwrap_or(Ended::Failed(error)),
        ended => ended,
    }
}

/// Ends a dead command that has an outcome. What was committed is its result; what was handed to
/// it, and nobody can have, is given back, so that nothing has happened: `ECANCELED`.
fn buried(issue: &Issue<'_>, command: &Command, outcome: Outcome) -> Ended {
    let handle = issue.handle;
    let accepted = matches!(outcome, Outcome::Sent(Sent::Accepted));
    issue.settle(accepted || matches!(outcome, Outcome::Replied(_)));
    let batch = issue.request() == uapi::POSTBOX_SEND_BATCH;
    issue.advance(issue.progress() + u64::from(batch && accepted));
    let given_back = |outcome| {
        command.give_back(handle, issue.request(), outcome);
        Err(ecanceled())
    };
    let result = match outcome {
        // Done, with an answer that nobody can have.
        Outcome::Replied(_) => Err(enodata()),
        Outcome::Sent(Sent::Accepted) if issue.request() == uapi::POSTBOX_RESERVE => {
            given_back(outcome)
        }
        Outcome::Sent(_) if issue.request() == uapi::POSTBOX_CALL => {
            replied(Some(outcome)).and(Err(EPIPE))
        }
        Outcome::Sent(_) => sent(Some(outcome)),
        Outcome::Received(Received::Ended) => Err(EPIPE),
        Outcome::Turn(Turn::Over) if issue.request() == uapi::POSTBOX_WRITE => Err(EPIPE),
        // The end of what there is to read.
        Outcome::Turn(Turn::Over) => Ok(()),
        Outcome::Gate(gate) => command.passed(handle, gate),
        Outcome::Happened => Ok(()),
        outcome => given_back(outcome),
    };
    let ended = match result {
        Ok(()) => Ended::Done(0),
        Err(error) => Ended::Failed(error),
    };
    part(issue).unwrap_or(ended)
}

/// How a command ends that has done a part. `None`: it has not.
fn part(issue: &Issue<'_>) -> Option<Ended> {
    let done = usize::try_from(issue.progress())
        .ok()
        .filter(|done| *done > 0)?;
    match issue.request() {
        // An argument struct of this one says so already.
        uapi::POSTBOX_WRITE => {}
        uapi::POSTBOX_SEND_BATCH => {
            let flags = u32::from(issue.look.uring().flags);
            if flags & uapi::POSTBOX_URING_DIRECT == 0 && !issue.dead {
                request::count_sent(issue, done);
            }
        }
        _ => return None,
    }
    Some(Ended::Done(done))
}

/// POSTBOX_CANCEL.
fn cancel(issue: &Issue<'_>) -> Result<usize> {
    let uring = issue.look.uring();
    let all = u32::from(uring.flags) & uapi::POSTBOX_URING_ALL != 0;
    ensure(u32::from(uring.flags) & !uapi::POSTBOX_URING_ALL == 0)?;
    ensure(uring.priority == 0 && uring.len == 0 && uring.timeout_ns == 0)?;
    ensure(!issue.look.fixed && !issue.look.multishot && (!all || issue.look.addr == 0))?;
    // SAFETY: The command is being issued.
    let ring = unsafe { c::postbox_uring_ring(issue.cmd) } as usize;
    let wanted = match all {
        true => Wanted::All,
        false => Wanted::Of(ring, issue.look.addr),
    };
    match issue.handle.commands.cancel(&wanted) {
        0 => Err(ENOENT),
        told => Ok(told),
    }
}

/// A payload without an argument struct.
fn direct(issue: &Issue<'_>, uring: &uapi::postbox_uring) -> Result<usize> {
    const FLAGS: u32 = Wait::FLAGS | uapi::POSTBOX_URING_DIRECT;
    let (handle, look, flags) = (issue.handle, &issue.look, u32::from(uring.flags));
    ensure(flags & !FLAGS == 0)?;
    ensure(uring.priority == 0 || look.request == uapi::POSTBOX_SEND)?;
    let wait = Wait::new(flags & Wait::FLAGS, uring.timeout_ns, How::Command(issue))?;
    let at = UserBytes::at(issue.address()?);
    // As read() and write() do: what is moved has to be a result.
    let len = match look.request {
        uapi::POSTBOX_READ | uapi::POSTBOX_WRITE => uring.len.min(helpers::MAX_RW_COUNT as u32),
        _ => uring.len,
    };
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
                len,
                !sends,
                fixed.as_mut_ptr(),
                issue.flags,
            )
        })?;
    }
    let (fixed, len) = (fixed.as_mut_ptr(), len as usize);
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
    Ok(done)
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
fn direct_batch(issue: &Issue<'_>, at: UserBytes, count: u32, wait: Wait<'_>) -> Result<usize> {
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
        _ => Ok(done as usize),
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
fn start(issue: &Issue<'_>) -> Result<usize> {
    multishot(issue)?;
    match issue.request() {
        uapi::POSTBOX_RECV => drop(issue.handle.rx()?),
        uapi::POSTBOX_ACCEPT => drop(listener(issue.handle)?),
        _ => return Err(EINVAL),
    }
    issue.prepare(0, Parked::Nowhere)?;
    issue.restart(issue.command().ok_or(EINVAL)?)
}

/// Receives what there is, each message with a completion of its own, until it is parked again.
fn receive_all(issue: &Issue<'_>, command: &Command) -> Result<usize> {
    let (wait, acknowledged) = multishot(issue)?;
    let mut left = BUDGET;
    while left > 0 {
        if helpers::dying() {
            // What is posted from here on, nobody would see, and it could not go back.
            return Err(EINTR);
        }
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
                return Ok(unreported as usize);
            }
        } else {
            receive_one(issue, wait, acknowledged)?;
        }
    }
    // It waits for nobody until it runs again: its last outcome is taken.
    issue.prepare(0, Parked::Nowhere)?;
    issue.restart(command)
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
    let filled = Cell::new(None);
    // What was withdrawn before it could be posted has left its buffer to the next one.
    let post = || filled.take().map_or(Ok(()), Filled::post);
    let how = Receive {
        room: usize::MAX,
        lease: acknowledged,
        post: Some(&post),
        answers: true,
        ..Receive::any(issue.handle, 0, wait)
    };
    let received = issue.handle.rx()?.receive(&how, |message| {
        let node = message.node();
        let mut record = record(message);
        if acknowledged || node.is_request() {
            record.token = node.token();
        }
        drop(filled.take());
        filled.set(Some(Filled::new(issue, &record, message.payload())?));
        Ok(())
    });
    received.map_err(Failure::into_error)
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
