//! The ring, the tasks whose commands are in it, and who waits for them.
//!
//! What makes this sound: a task, with all the memory that its command points to, is in the slab from
//! before the command is put into a queue until the kernel's last completion of it. Nothing takes it
//! out earlier: not dropping or forgetting its [`Op`], not the end of the driver. Where the
//! driver ends and the kernel has not done with everything, the memory is leaked.

use super::stream::Multishot;
use super::task::{Adopted, After, Done, Erased, Hold, Idle, Operation, Running, Taken};
use crate::memory::OwnPage;
use crate::sys;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// Which task. The kernel hands it back as `user_data`; what is in no use has other generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    index: u32,
    /// Of 24 bits.
    generation: u32,
}

/// What a completion is of: the highest eight bits of `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The command of a task.
    Task = 0,
    /// The cancellation of one.
    Cancel = 1,
    /// The time after which that is tried again.
    Retry = 2,
    /// Somebody wants the waiting thread to come out of the kernel.
    Kick = 3,
    /// The time after which a command is submitted again.
    Later = 4,
}

impl Key {
    const NONE: Key = Key {
        index: 0,
        generation: 0,
    };

    fn user_data(self, of: Of) -> u64 {
        (of as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    fn of(user_data: u64) -> (Option<Of>, Key) {
        let of = match user_data >> 56 {
            0 => Some(Of::Task),
            1 => Some(Of::Cancel),
            2 => Some(Of::Retry),
            3 => Some(Of::Kick),
            4 => Some(Of::Later),
            _ => None,
        };
        let key = Key {
            index: user_data as u32,
            generation: (user_data >> 32) as u32 & 0xff_ffff,
        };
        (of, key)
    }
}

/// A cancellation that came before its command was parked is tried again after this time, and so is a
/// command that has to be.
static RETRY: types::Timespec = types::Timespec::new().nsec(1_000_000);

struct Task {
    op: Box<dyn Erased>,
    on: Arc<dyn Hold>,
    /// A command is in a queue, or in the kernel's hands.
    busy: bool,
    /// The output is there.
    ready: bool,
    /// Nobody wants the output.
    detached: bool,
    /// It is to be cancelled.
    cancelled: bool,
    /// A cancellation, or the time until the next one, is under way.
    cancelling: bool,
    waker: Option<Waker>,
    /// In which order they came.
    number: u64,
}

struct Slot {
    generation: u32,
    task: Option<Task>,
}

/// What is known of the ring; under a lock.
pub(super) struct Core {
    slots: Vec<Slot>,
    free: Vec<u32>,
    number: u64,
    /// Commands that had no room in the submission queue.
    backlog: VecDeque<squeue::Entry>,
    /// Tasks that are busy.
    busy: usize,
    /// A thread waits in the kernel. It alone takes completions then.
    leader: bool,
    /// A poll of the eventfd is in the ring.
    armed: bool,
    /// To be done when the lock is given up: wakers and handles have code of others.
    wake: Vec<Waker>,
    stale: Vec<Waker>,
    drops: Vec<Task>,
    notify: bool,
    /// Completions that were taken.
    completions: u64,
}

/// What all parts of a driver share.
pub(super) struct Shared {
    ring: ManuallyDrop<IoUring>,
    core: Mutex<Core>,
    changed: Condvar,
    kick: OwnedFd,
    /// Not 0 in the process that made it.
    own: OwnPage,
    /// The thread that made it, where the kernel lets no other change what is registered.
    issuer: Option<Weak<()>>,
    /// Registered files that the issuer is to remove.
    pub(super) closing: AtomicBool,
    pub(super) settings: Settings,
    pub(super) registered: Mutex<super::buffers::Registered>,
    pub(super) closed: Arc<Closed>,
}

/// What of the driver's options is needed later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) always_async: bool,
    /// Bytes of memory for the first receive of a handle.
    pub(super) room: usize,
    /// Its queue is read by a thread of the kernel.
    pub(super) sqpoll: bool,
    /// It is used by the thread alone that makes it.
    pub(super) single_issuer: bool,
}

thread_local! {
    /// There as long as its thread.
    static THREAD: Arc<()> = Arc::default();
}

/// Tells who drives the driver that it has ended.
#[derive(Debug, Default)]
pub(super) struct Closed {
    pub(super) gone: AtomicBool,
    pub(super) waker: Mutex<Option<Waker>>,
}

/// The lock. What has to be done without it is done when it is given up.
pub(super) struct Locked<'a> {
    shared: &'a Shared,
    core: Option<MutexGuard<'a, Core>>,
}

impl Deref for Locked<'_> {
    type Target = Core;

    fn deref(&self) -> &Core {
        self.core.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Core {
        self.core.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(mut core) = self.core.take() else {
            return;
        };
        // Mostly there is nothing to do.
        if core.wake.is_empty() && core.stale.is_empty() && core.drops.is_empty() && !core.notify {
            return;
        }
        let wake = std::mem::take(&mut core.wake);
        let stale = std::mem::take(&mut core.stale);
        let drops = std::mem::take(&mut core.drops);
        let notify = std::mem::take(&mut core.notify);
        drop(core);
        if notify {
            self.shared.changed.notify_all();
        }
        // These may come back here.
        wake_all(wake);
        drop((stale, drops));
    }
}

/// Wakes all of them, also where one panics, which goes on afterwards.
fn wake_all(wake: Vec<Waker>) {
    let mut panic = None;
    for waker in wake {
        // A waker is not used again, whatever it has left undone.
        let woken = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        panic = panic.or(woken.err());
    }
    if let Some(panic) = panic.filter(|_| !std::thread::panicking()) {
        resume_unwind(panic);
    }
}

impl Core {
    #[cfg(test)]
    pub(super) fn has_leader(&self) -> bool {
        self.leader
    }

    fn task(&mut self, key: Key) -> Option<&mut Task> {
        let slot = self.slots.get_mut(key.index as usize)?;
        slot.task
            .as_mut()
            .filter(|_| slot.generation == key.generation)
    }

    fn insert(&mut self, task: Task) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                task: None,
            });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = (slot.generation + 1) & 0xff_ffff;
        slot.task = Some(task);
        Key {
            index,
            generation: slot.generation,
        }
    }

    /// Takes a task out that is not busy.
    fn remove(&mut self, key: Key) {
        if self.task(key).is_none_or(|task| task.busy) {
            return;
        }
        let task = self.slots[key.index as usize].task.take();
        self.free.push(key.index);
        if let Some(mut task) = task {
            self.wake.extend(task.waker.take());
            self.drops.push(task);
        }
    }

    /// Ends a task, unless it has its output already, with an error.
    ///
    /// # Safety
    /// No command of it is in the kernel's hands or in a queue, nor ever will be; or this is a child made
    /// by `fork`, whose memory the kernel does not know.
    unsafe fn refuse(&mut self, key: Key, errno: Errno) {
        let Some(task) = self.task(key) else { return };
        let was_busy = std::mem::take(&mut task.busy);
        let (on, ready) = (task.on.clone(), task.ready);
        if was_busy {
            self.busy -= 1;
        }
        if ready {
            return;
        }
        // SAFETY: The caller guarantees that the kernel does not use the task's memory.
        let idle = unsafe { Idle::new() };
        let done = Done {
            result: Err(errno),
            cancelled: true,
        };
        if let Some(task) = self.task(key) {
            task.op.complete(on.inner(), done, &idle);
        }
        self.ended(key);
    }

    /// Ends the tasks whose commands nobody will ever submit.
    fn refuse_backlog(&mut self) {
        for entry in std::mem::take(&mut self.backlog) {
            match Key::of(entry.get_user_data()) {
                // SAFETY: The task's one command, or the time before the next, was in the backlog.
                (Some(Of::Task | Of::Later), key) => unsafe { self.refuse(key, Errno::OPNOTSUPP) },
                (Some(Of::Cancel | Of::Retry), key) => {
                    if let Some(task) = self.task(key) {
                        task.cancelling = false;
                    }
                }
                (Some(Of::Kick), _) => self.armed = false,
                (None, _) => {}
            }
        }
    }

    /// Has a task wake `waker`; `made` is a clone of it, or none yet. Cloning and dropping a waker are code
    /// of others, which is not run under the lock: returns whether a clone is needed for it.
    fn wakes(&mut self, key: Key, waker: &Waker, made: &mut Option<Waker>) -> bool {
        let Some(task) = self.task(key) else {
            return false;
        };
        if task
            .waker
            .as_ref()
            .is_some_and(|there| there.will_wake(waker))
        {
            return false;
        }
        let Some(made) = made.take() else { return true };
        let old = task.waker.replace(made);
        self.stale.extend(old);
        false
    }

    /// Hands what nobody wants to whoever waits for the like through this handle, or keeps it for who
    /// comes next.
    fn give(&mut self, on: &Arc<dyn Hold>, taken: Taken) {
        let mut waiting: Vec<_> = (0..self.slots.len() as u32)
            .filter_map(|index| {
                let slot = &self.slots[index as usize];
                let task = slot.task.as_ref()?;
                let waits = task.busy && !task.ready && !task.detached && !task.cancelled;
                let same = std::ptr::addr_eq(Arc::as_ptr(&task.on), Arc::as_ptr(on));
                let generation = slot.generation;
                (waits && same).then_some((task.number, Key { index, generation }))
            })
            .collect();
        waiting.sort_unstable_by_key(|(number, _)| *number);
        let mut taken = taken;
        for (_, key) in waiting {
            let Some(task) = self.task(key) else { continue };
            match task.op.adopt(taken, None) {
                Ok(adopted) => {
                    let waker = task.waker.take();
                    if matches!(adopted, Adopted::Done) {
                        task.ready = true;
                        self.cancel(key);
                    }
                    self.wake.extend(waker);
                    self.notify = true;
                    return;
                }
                Err(back) => taken = back,
            }
        }
        on.stash().lock().push_back(taken);
    }

    /// Asks the kernel to end a command.
    fn cancel(&mut self, key: Key) {
        let Some(task) = self.task(key) else { return };
        task.cancelled = true;
        if !task.busy || task.cancelling {
            return;
        }
        task.cancelling = true;
        let command = super::sqe::Command {
            request: sys::POSTBOX_CANCEL,
            addr: key.user_data(Of::Task),
            ..Default::default()
        };
        let entry = command.submitted(task.on.file(), key.user_data(Of::Cancel));
        self.backlog.push_back(entry);
    }

    /// Submits the task's next command, or sees that it has an output already.
    fn go(&mut self, key: Key, always_async: bool) {
        let Some(task) = self.task(key) else { return };
        // SAFETY: It is not busy.
        let idle = unsafe { Idle::new() };
        let Some(command) = task.op.command(task.on.inner(), &idle) else {
            return self.ended(key);
        };
        let mut entry = command.submitted(task.on.file(), key.user_data(Of::Task));
        if always_async {
            entry = entry.flags(squeue::Flags::ASYNC);
        }
        task.busy = true;
        self.busy += 1;
        self.backlog.push_back(entry);
    }

    /// A task has its output.
    fn ended(&mut self, key: Key) {
        let Some(task) = self.task(key) else { return };
        task.ready = true;
        let waker = task.waker.take();
        let detached = task.detached;
        self.wake.extend(waker);
        self.notify = true;
        if detached {
            self.dispose(key);
        }
    }

    /// Nobody wants a task any more that is not busy.
    fn dispose(&mut self, key: Key) {
        let Some(task) = self.task(key) else { return };
        let on = task.on.clone();
        let left = task.op.disown();
        self.remove(key);
        for taken in left {
            self.give(&on, taken);
        }
    }

    fn completed(&mut self, user_data: u64, result: i32, flags: u32, settings: &Settings) {
        let result = match u32::try_from(result) {
            Ok(result) => Ok(result),
            Err(_) => Err(Errno::from_raw_os_error(-result)),
        };
        match Key::of(user_data) {
            (Some(Of::Task), key) => self.task_completed(key, result, flags, settings),
            (Some(Of::Cancel), key) => {
                let Some(task) = self.task(key).filter(|task| task.busy) else {
                    return;
                };
                // It was not parked: on its way there, or to its end.
                if result == Err(Errno::NOENT) {
                    self.later(key, Of::Retry);
                } else if result.is_err() {
                    task.cancelling = false;
                }
            }
            (Some(Of::Retry), key) => {
                if let Some(task) = self.task(key) {
                    task.cancelling = false;
                    self.cancel(key);
                }
            }
            (Some(Of::Later), key) => {
                let Some(task) = self.task(key) else { return };
                let (cancelled, insists) = (task.cancelled, task.op.insists());
                task.busy = false;
                self.busy -= 1;
                if cancelled && !insists {
                    return self.cancelled(key);
                }
                self.go(key, settings.always_async);
            }
            (Some(Of::Kick), _) => self.armed = false,
            (None, _) => {}
        }
    }

    fn task_completed(
        &mut self,
        key: Key,
        result: Result<u32, Errno>,
        flags: u32,
        settings: &Settings,
    ) {
        let Some(task) = self.task(key) else { return };
        if cqueue::more(flags) {
            let detached = task.detached;
            if let Some(multishot) = task.op.multishot() {
                multishot.more(result, flags);
            }
            let waker = task.waker.take();
            if detached {
                let on = task.on.clone();
                let left = task.op.disown();
                for taken in left {
                    self.give(&on, taken);
                }
            }
            self.wake.extend(waker);
            self.notify = true;
            return;
        }
        task.busy = false;
        task.cancelling = false;
        if let Some(multishot) = task.op.multishot().filter(|_| result.is_ok()) {
            multishot.more(result, flags);
        }
        let cancelled = task.cancelled;
        // SAFETY: This was its last completion.
        let idle = unsafe { Idle::new() };
        let on = task.on.clone();
        let done = Done { result, cancelled };
        self.busy -= 1;
        let Some(task) = self.task(key) else { return };
        if task.ready {
            // It had its output from elsewhere.
            let left = task.op.late(on.inner(), done, &idle);
            if task.detached {
                self.dispose(key);
            }
            for taken in left {
                self.give(&on, taken);
            }
            return;
        }
        // However often: each time a thread has ended, or somebody with the same handle has cancelled
        // all that it waits for.
        if result == Err(Errno::CANCELED) && !cancelled && task.op.restarts() {
            return self.go(key, settings.always_async);
        }
        match task.op.complete(on.inner(), done, &idle) {
            After::Done => self.ended(key),
            // What could be done at once is done. Beyond that it is cancelled.
            After::Again | After::Later if cancelled && !task.op.insists() => self.cancelled(key),
            After::Again => self.go(key, settings.always_async),
            After::Later => {
                task.busy = true;
                self.busy += 1;
                self.later(key, Of::Later);
            }
        }
    }

    /// A task that is not busy ends without another command.
    fn cancelled(&mut self, key: Key) {
        let Some(task) = self.task(key) else { return };
        // SAFETY: It is not busy.
        let idle = unsafe { Idle::new() };
        let done = Done {
            result: Err(Errno::CANCELED),
            cancelled: true,
        };
        let on = task.on.clone();
        task.op.complete(on.inner(), done, &idle);
        self.ended(key);
    }

    /// Comes back to a task after a moment.
    fn later(&mut self, key: Key, of: Of) {
        let timeout = opcode::Timeout::new(&RETRY).build();
        self.backlog.push_back(timeout.user_data(key.user_data(of)));
    }
}

impl Shared {
    pub(super) fn new(
        ring: IoUring,
        settings: Settings,
        registered: super::buffers::Registered,
    ) -> io::Result<Self> {
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let own = OwnPage::new()?;
        own.store(1);
        let issuer = settings.single_issuer.then(|| THREAD.with(Arc::downgrade));
        Ok(Shared {
            ring: ManuallyDrop::new(ring),
            core: Mutex::new(Core {
                slots: Vec::new(),
                free: Vec::new(),
                number: 0,
                backlog: VecDeque::new(),
                busy: 0,
                leader: false,
                armed: false,
                wake: Vec::new(),
                stale: Vec::new(),
                drops: Vec::new(),
                notify: false,
                completions: 0,
            }),
            changed: Condvar::new(),
            kick,
            own,
            issuer,
            closing: AtomicBool::new(false),
            settings,
            registered: Mutex::new(registered),
            closed: Arc::default(),
        })
    }

    pub(super) fn ring(&self) -> &IoUring {
        &self.ring
    }

    /// Whether this process made the driver. A child sees the same queues, whose entries are
    /// not its own.
    pub(super) fn is_own(&self) -> bool {
        self.own.load() != 0
    }

    /// Whether this thread may change what is registered with the ring.
    pub(super) fn may_register(&self) -> bool {
        self.issuer.as_ref().is_none_or(|issuer| {
            let here = |thread: &Arc<()>| std::ptr::eq(Arc::as_ptr(thread), issuer.as_ptr());
            THREAD.try_with(here).unwrap_or(false)
        })
    }

    /// Whether one thread alone submits and waits. With a thread of the kernel that submits, all can.
    pub(super) fn is_restricted(&self) -> bool {
        self.issuer.is_some() && !self.settings.sqpoll
    }

    /// Whether this thread may submit and wait.
    pub(super) fn may_enter(&self) -> bool {
        !self.is_restricted() || self.may_register()
    }

    /// In place of submitting, where another thread alone may: has that one come out of the kernel. If it
    /// has ended, so do the operations that wait for it.
    fn defer(&self, core: &mut Core) {
        let ended = |issuer: &Weak<()>| issuer.strong_count() == 0;
        if self.issuer.as_ref().is_some_and(ended) {
            core.refuse_backlog();
        } else if !core.backlog.is_empty() && (core.leader || core.armed) {
            self.kick();
        }
    }

    /// The lock, to look at a task. In a child made by `fork` it ends: nothing will come of its command there.
    fn look_at(&self, key: Key) -> Locked<'_> {
        let mut core = self.lock();
        if !self.is_own() {
            // SAFETY: The kernel has the memory of the process that made the driver.
            unsafe { core.refuse(key, Errno::OPNOTSUPP) };
        }
        core
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            shared: self,
            core: Some(self.core.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Moves commands to the submission queue; returns whether it has any.
    fn fill(&self, core: &mut Core) -> bool {
        // SAFETY: The lock is held, and nothing else makes a queue of this ring.
        let mut queue = unsafe { self.ring.submission_shared() };
        while let Some(entry) = core.backlog.front() {
            // SAFETY: The task has the memory that the command points to, and keeps it until the last
            // completion. The others point to nothing, or to a static.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            core.backlog.pop_front();
        }
        queue.sync();
        !queue.is_empty()
    }

    /// Submits what is queued, without waiting for anything.
    pub(super) fn flush(&self, core: &mut Core) -> io::Result<()> {
        if !self.is_own() {
            return Err(Errno::OPNOTSUPP.into());
        }
        if !self.may_enter() {
            self.defer(core);
            return Ok(());
        }
        if self.closing.load(Relaxed) {
            self.close_files();
        }
        while self.fill(core) {
            let submitted = match self.ring.submit() {
                Ok(submitted) => submitted,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => continue,
                    // The completion queue is full: what is in it has to be taken first.
                    Some(libc::EBUSY) if !core.leader && self.reap(core) > 0 => continue,
                    _ => return Err(error),
                },
            };
            if core.backlog.is_empty() || submitted == 0 {
                break;
            }
            if self.settings.sqpoll {
                self.ring.submitter().squeue_wait()?;
            }
        }
        Ok(())
    }

    /// Takes the completions that are there; returns how many. Only the leader may, while there is one.
    fn reap(&self, core: &mut Core) -> usize {
        let mut count = 0;
        let mut entered = false;
        loop {
            let mut taken = 0;
            {
                // SAFETY: The lock is held, and nothing else makes a queue of this ring.
                let queue = unsafe { self.ring.completion_shared() };
                for entry in queue {
                    taken += 1;
                    let (user_data, result) = (entry.user_data(), entry.result());
                    core.completed(user_data, result, entry.flags(), &self.settings);
                }
            }
            count += taken;
            if entered && taken == 0 {
                break;
            }
            let waits = {
                // SAFETY: As above.
                let queue = unsafe { self.ring.submission_shared() };
                queue.cq_overflow() || queue.taskrun()
            };
            if !waits || !self.may_enter() {
                break;
            }
            // What had no room in the queue, and work that was deferred, comes with the next call.
            let flags = EnterFlags::GETEVENTS.bits();
            let submitter = self.ring.submitter();
            // SAFETY: There is no argument.
            if unsafe { submitter.enter::<libc::sigset_t>(0, 0, flags, None) }.is_err() {
                break;
            }
            entered = true;
        }
        core.completions += count as u64;
        core.notify |= count > 0;
        count
    }

    /// Takes completions if nobody else does, and submits what comes of them.
    fn collect(&self, core: &mut Core) {
        if core.leader || !self.is_own() {
            return;
        }
        self.reap(core);
        while !core.backlog.is_empty() {
            // What cannot be submitted now is later.
            if self.flush(core).is_err() || self.reap(core) == 0 {
                break;
            }
        }
    }

    /// Submits what is queued, and takes completions if nobody else does.
    pub(super) fn advance(&self, core: &mut Core) -> io::Result<()> {
        // What other threads begin has to reach the one that submits, also where it waits for the ring's
        // descriptor.
        if self.is_restricted() && self.may_register() {
            self.arm(core);
        }
        let flushed = self.flush(core);
        self.collect(core);
        flushed
    }

    /// Has a poll of the eventfd in the ring.
    fn arm(&self, core: &mut Core) {
        if !std::mem::replace(&mut core.armed, true) {
            let poll = opcode::PollAdd::new(
                types::Fd(self.kick.as_raw_fd()),
                // Its type is another one with the C library.
                PollFlags::IN.bits() as u32,
            );
            let poll = poll.build().user_data(Key::NONE.user_data(Of::Kick));
            core.backlog.push_back(poll);
        }
    }

    /// Has the waiting thread come out of the kernel.
    pub(super) fn kick(&self) {
        // It can only fail if it is there already, which does as well.
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    /// Waits until something has happened, at most until then. The lock is given up meanwhile.
    pub(super) fn park(
        &self,
        mut core: Locked<'_>,
        deadline: Option<Instant>,
    ) -> Result<(), io::Error> {
        if !self.is_own() {
            return Err(Errno::OPNOTSUPP.into());
        }
        if !core.wake.is_empty() || !core.stale.is_empty() || !core.drops.is_empty() {
            return Ok(());
        }
        if !self.may_enter() {
            self.flush(&mut core)?;
            // The thread that may has completions come in while it does other things, and tells nobody.
            const LOOK: Duration = Duration::from_millis(10);
            let left = deadline.map_or(LOOK, |deadline| {
                LOOK.min(deadline.saturating_duration_since(Instant::now()))
            });
            return self.follow(core, Some(left));
        }
        if std::mem::take(&mut core.notify) {
            self.changed.notify_all();
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if core.leader {
            self.flush(&mut core)?;
            return self.follow(core, left);
        }
        self.arm(&mut core);
        self.fill(&mut core);
        if !core.backlog.is_empty() {
            self.flush(&mut core)?;
        }
        core.leader = true;
        drop(core);
        let entered = match left {
            None => self.ring.submit_and_wait(1),
            Some(left) => {
                let left = types::Timespec::from(left.min(Duration::from_secs(1 << 30)));
                let args = types::SubmitArgs::new().timespec(&left);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        let mut core = self.lock();
        core.leader = false;
        core.notify = true;
        self.collect(&mut core);
        if !core.armed {
            // Before the next poll of it.
            let mut count = [0; 8];
            // It is non-blocking, and it does not matter what was there.
            let _ = rustix::io::read(&self.kick, &mut count);
        }
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Waits until the leader has something.
    fn follow(&self, mut core: Locked<'_>, left: Option<Duration>) -> Result<(), io::Error> {
        let Some(guard) = core.core.take() else {
            return Ok(());
        };
        let guard = match left {
            None => self
                .changed
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                let waited = self.changed.wait_timeout(guard, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        core.core = Some(guard);
        Ok(())
    }

    /// As `advance`.
    pub(super) fn drive(&self) -> io::Result<()> {
        let mut core = self.lock();
        self.advance(&mut core)
    }

    /// Takes all completions that are there; returns whether none is left.
    pub(super) fn drain(&self) -> bool {
        let mut core = self.lock();
        self.collect(&mut core);
        if !core.leader {
            return true;
        }
        // The leader takes them. It waits in the kernel, and has the lock before it looks.
        // SAFETY: The lock is held, and nothing else makes queues of this ring.
        let (completions, submissions) =
            unsafe { (self.ring.completion_shared(), self.ring.submission_shared()) };
        completions.is_empty() && !submissions.cq_overflow() && !submissions.taskrun()
    }

    /// How many completions were taken so far.
    pub(super) fn completions(core: &Core) -> u64 {
        core.completions
    }

    /// Begins an operation. It is submitted with the others that are queued, by whoever submits next.
    pub(super) fn start<O: Operation>(self: &Arc<Self>, on: Arc<dyn Hold>, op: O) -> Op<O::Output> {
        let mut core = self.lock();
        let mut op: Box<dyn Erased> = Box::new(Running::new(op));
        let ready = adopts(&on, op.as_mut());
        let number = core.number;
        core.number += 1;
        if !self.is_own() {
            // Nothing is submitted by a child; so this is the end of it.
            // SAFETY: No command was made.
            let idle = unsafe { Idle::new() };
            let done = Done {
                result: Err(Errno::OPNOTSUPP),
                cancelled: true,
            };
            if !ready {
                op.complete(on.inner(), done, &idle);
            }
        }
        let key = core.insert(Task {
            op,
            on,
            busy: false,
            ready: ready || !self.is_own(),
            detached: false,
            cancelled: false,
            cancelling: false,
            waker: None,
            number,
        });
        if !ready && self.is_own() {
            core.go(key, self.settings.always_async);
            // Not to be submitted yet, but where the kernel's thread would find it. Where one thread alone
            // submits, what is not submitted stays in the backlog, to be refused when that has ended.
            if !self.is_restricted() {
                self.fill(&mut core);
            }
        }
        drop(core);
        Op {
            shared: self.clone(),
            key,
            output: PhantomData,
        }
    }

    /// Cancels all operations of a handle that are under way.
    pub(super) fn cancel_all(&self, on: &Arc<dyn Hold>) {
        if !self.is_own() {
            return;
        }
        let mut core = self.lock();
        for index in 0..core.slots.len() as u32 {
            let slot = &core.slots[index as usize];
            let generation = slot.generation;
            let same = slot.task.as_ref().is_some_and(|task| {
                std::ptr::addr_eq(Arc::as_ptr(&task.on), Arc::as_ptr(on)) && !task.ready
            });
            if same {
                core.cancel(Key { index, generation });
            }
        }
        // What cannot be submitted now is later.
        let _ = self.advance(&mut core);
    }

    /// Tasks in the kernel's hands.
    pub(super) fn busy(&self) -> usize {
        self.lock().busy
    }
}

/// Whether the kernel has said that submitting is to be tried again: it is short of something for now.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM)
    )
}

/// Whether a new task gets what is left of another one.
fn adopts(on: &Arc<dyn Hold>, op: &mut dyn Erased) -> bool {
    // SAFETY: No command of it was made.
    let idle = unsafe { Idle::new() };
    let mut stash = on.stash().lock();
    let mut place = 0;
    while place < stash.len() {
        let Some(taken) = stash.remove(place) else {
            break;
        };
        match op.adopt(taken, Some(&idle)) {
            Ok(Adopted::Done) => return true,
            // It goes on to take what comes next.
            Ok(Adopted::More) => {}
            Err(back) => {
                stash.insert(place, back);
                place += 1;
            }
        }
    }
    false
}

/// The driver has ended: nobody has anything of it any more.
impl Drop for Shared {
    fn drop(&mut self) {
        self.closed.gone.store(true, SeqCst);
        let waker = {
            let mut waker = self
                .closed
                .waker
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        let done = self.is_own() && self.finish(Duration::from_secs(5));
        if !done {
            self.leak();
        }
        // SAFETY: It is not used any more. What it still has in the kernel's hands was leaked.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
    }
}

impl Shared {
    /// Cancels everything and waits for it; returns whether everything has ended.
    fn finish(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        let mut core = self.lock();
        for index in 0..core.slots.len() as u32 {
            let slot = &mut core.slots[index as usize];
            let generation = slot.generation;
            if let Some(task) = &mut slot.task {
                task.detached = true;
                let key = Key { index, generation };
                if task.busy {
                    core.cancel(key);
                } else {
                    core.remove(key);
                }
            }
        }
        loop {
            if self.advance(&mut core).is_err() {
                return false;
            }
            if core.busy == 0 {
                return true;
            }
            if !self.may_enter() {
                // Nobody else can: whoever could has no reference to this.
                core.refuse_backlog();
                return core.busy == 0;
            }
            if Instant::now() >= end {
                return false;
            }
            let until = Instant::now() + Duration::from_millis(100);
            if self.park(core, Some(until)).is_err() {
                return false;
            }
            core = self.lock();
        }
    }

    /// Leaves all memory that the kernel may write to where it is, for good: that of the tasks, and of
    /// the buffers that they refer to.
    fn leak(&mut self) {
        let core = self.core.get_mut().unwrap_or_else(PoisonError::into_inner);
        for slot in core.slots.drain(..) {
            if let Some(task) = slot.task.filter(|task| task.busy) {
                std::mem::forget(task);
            }
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("fd", &self.ring.as_raw_fd())
            .field("busy", &self.busy())
            .finish_non_exhaustive()
    }
}

/// An operation that was begun, and will have an output.
///
/// It is a future, for any executor: somebody has to drive the driver meanwhile, which
/// [`Driver::block_on`](super::Driver::block_on), [`Driver::turn`](super::Driver::turn) and, with
/// tokio, [`Driver::background`](super::Driver::background) do. Or [`wait`](Self::wait) waits for it.
///
/// It is submitted together with all others that were begun before: when one of them is polled or
/// waited for, or by [`Driver::submit`](super::Driver::submit).
///
/// Its memory belongs to the driver, until the kernel has done with it.
///
/// # Cancel safety
///
/// Dropping it cancels the operation. What then is of a message is said where the operation is begun:
/// receives lose none. To know how it ended, [`cancel`](Self::cancel) it, and wait.
/// [`std::mem::forget`] loses the output, and keeps the driver for good.
#[must_use = "dropping it cancels the operation"]
pub struct Op<T: 'static> {
    shared: Arc<Shared>,
    key: Key,
    output: PhantomData<fn() -> T>,
}

impl<T: 'static> Op<T> {
    /// Asks for its end. It ends as [`Cancelled`](crate::ErrorKind::Cancelled), or as it would
    /// otherwise if that was faster; never both.
    pub fn cancel(&self) {
        if !self.shared.is_own() {
            return;
        }
        let mut core = self.shared.lock();
        core.cancel(self.key);
        // What cannot be submitted now is later.
        let _ = self.shared.advance(&mut core);
    }

    /// Whether the output is there. It only looks at what has been completed so far.
    pub fn is_done(&self) -> bool {
        let mut core = self.shared.look_at(self.key);
        core.task(self.key).is_none_or(|task| task.ready)
    }

    /// Waits for the output. The thread drives the driver meanwhile, if no other thread does.
    ///
    /// # Panics
    /// If it has given its output as a future.
    pub fn wait(self) -> T {
        loop {
            let mut core = self.shared.look_at(self.key);
            if let Some(output) = self.take(&mut core) {
                return output;
            }
            self.shared.collect(&mut core);
            if let Some(output) = self.take(&mut core) {
                return output;
            }
            if self.shared.park(core, None).is_err() {
                // Another try may do; there is nobody to tell.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Waits until something has happened that may have to do with it.
    pub(super) fn park(&self) {
        let mut core = self.shared.look_at(self.key);
        self.shared.collect(&mut core);
        let ready = core.task(self.key).is_none_or(|task| task.ready);
        if !ready && self.shared.park(core, None).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The output, if it is there.
    fn take(&self, core: &mut Core) -> Option<T> {
        let task = core.task(self.key).expect("it gives its output once");
        if !task.ready {
            return None;
        }
        let output = task.op.output().downcast_mut::<Option<T>>()?.take();
        if task.busy {
            // The output came from elsewhere, and the command has not ended yet.
            task.detached = true;
        } else {
            core.remove(self.key);
        }
        output
    }
}

impl<T: 'static> Future for Op<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut made = None;
        let mut core = self.shared.look_at(self.key);
        if let Some(output) = self.take(&mut core) {
            return Poll::Ready(output);
        }
        let advanced = self.shared.advance(&mut core);
        loop {
            if let Some(output) = self.take(&mut core) {
                return Poll::Ready(output);
            }
            if !core.wakes(self.key, cx.waker(), &mut made) {
                break;
            }
            drop(core);
            made = Some(cx.waker().clone());
            core = self.shared.look_at(self.key);
        }
        drop(core);
        // Other errors are of the ring, and come out where it is driven.
        if advanced.is_err_and(|error| is_passing(&error)) {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<T: 'static> Drop for Op<T> {
    fn drop(&mut self) {
        self.shared.abandon(self.key);
    }
}

impl<T: 'static> fmt::Debug for Op<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Op")
            .field("key", &self.key)
            .field("done", &self.is_done())
            .finish()
    }
}

impl Shared {
    /// Nobody wants the output.
    fn abandon(&self, key: Key) {
        // What a child made by `fork` has is a copy: the operation is its parent's.
        if !self.is_own() {
            return;
        }
        let mut core = self.lock();
        let Some(task) = core.task(key) else { return };
        if task.detached {
            return;
        }
        task.detached = true;
        let waker = task.waker.take();
        let busy = task.busy;
        core.stale.extend(waker);
        if !busy {
            return core.dispose(key);
        }
        let Some(task) = core.task(key) else { return };
        let on = task.on.clone();
        let left = task.op.disown();
        for taken in left {
            core.give(&on, taken);
        }
        core.cancel(key);
        // What cannot be submitted now is later.
        let _ = self.advance(&mut core);
    }
}

/// A multishot operation under way: events, and then its end.
pub(super) struct Shots {
    shared: Arc<Shared>,
    key: Key,
}

/// What there is of a multishot operation.
pub(super) enum Shot<T, E> {
    Event(T),
    End(E),
    None,
}

impl Shots {
    pub(super) fn new(shared: &Arc<Shared>, on: Arc<dyn Hold>, multishot: Multishot) -> Self {
        let op = shared.start(on, multishot);
        let shots = Shots {
            shared: op.shared.clone(),
            key: op.key,
        };
        let mut op = ManuallyDrop::new(op);
        // SAFETY: It is not used any more; only its reference is to be given back, and `shots` has the
        // task now.
        unsafe { std::ptr::drop_in_place(&raw mut op.shared) };
        shots
    }

    /// What `look` finds in it; `None` is waited for.
    pub(super) fn poll<T, E: 'static>(
        &self,
        waker: Option<&Waker>,
        mut look: impl FnMut(&mut Multishot) -> Option<T>,
    ) -> Shot<T, E> {
        let mut made = None;
        let mut core = self.shared.look_at(self.key);
        let (mut advanced, mut passing) = (false, false);
        loop {
            let Some(task) = core.task(self.key) else {
                return Shot::None;
            };
            let ready = task.ready;
            if let Some(event) = task.op.multishot().and_then(&mut look) {
                return Shot::Event(event);
            }
            if ready {
                let end = task.op.output().downcast_mut::<Option<E>>();
                return match end.and_then(Option::take) {
                    Some(end) => Shot::End(end),
                    None => Shot::None,
                };
            }
            if !std::mem::replace(&mut advanced, true) {
                // Other errors are of the ring, and come out where it is driven.
                passing = self
                    .shared
                    .advance(&mut core)
                    .is_err_and(|error| is_passing(&error));
                continue;
            }
            match waker {
                Some(waker) if core.wakes(self.key, waker, &mut made) => {
                    drop(core);
                    made = Some(waker.clone());
                    core = self.shared.look_at(self.key);
                }
                _ => break,
            }
        }
        drop(core);
        if let Some(waker) = waker.filter(|_| passing) {
            waker.wake_by_ref();
        }
        Shot::None
    }

    /// Waits until something has happened.
    pub(super) fn park(&self, deadline: Option<Instant>) {
        let mut core = self.shared.look_at(self.key);
        self.shared.collect(&mut core);
        let there = core.task(self.key).is_none_or(|task| {
            task.ready
                || task
                    .op
                    .multishot()
                    .is_none_or(|multishot| multishot.has_events())
        });
        if !there && self.shared.park(core, deadline).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Shots {
    fn drop(&mut self) {
        self.shared.abandon(self.key);
    }
}

/// Wakes a thread in [`Shared::block_on`].
struct Parker {
    woken: AtomicBool,
    shared: Weak<Shared>,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, SeqCst) {
            return;
        }
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut core = shared.lock();
        core.notify = true;
        if core.leader {
            shared.kick();
        }
        drop(core);
    }
}

impl Shared {
    /// Runs a future to its end, and waits for the kernel in between.
    pub(super) fn block_on<F: Future>(self: &Arc<Self>, future: F) -> F::Output {
        let parker = Arc::new(Parker {
            woken: AtomicBool::new(true),
            shared: Arc::downgrade(self),
        });
        let waker = Waker::from(parker.clone());
        let mut context = Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        loop {
            if parker.woken.swap(false, SeqCst) {
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    return output;
                }
                continue;
            }
            let mut core = self.lock();
            self.collect(&mut core);
            // Whoever wakes it from here on has the lock after this.
            if parker.woken.load(SeqCst) || !core.wake.is_empty() {
                continue;
            }
            if self.park(core, None).is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_from_the_kernel() {
        let key = Key {
            index: 0xdead_beef,
            generation: 0xff_ffff,
        };
        for of in [Of::Task, Of::Cancel, Of::Retry, Of::Kick, Of::Later] {
            assert_eq!(Key::of(key.user_data(of)), (Some(of), key));
        }
        assert_eq!(Key::of(u64::MAX).0, None);
    }
}
