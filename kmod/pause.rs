// SPDX-License-Identifier: GPL-2.0
//! Waits that are paused: the task is stopped, frozen, looked at by a tracer, or has task work to do, and then makes the same
//! system call again.
//!
//! The kernel repeats a system call that failed with `ERESTARTNOINTR`, with the same arguments and before the task does
//! anything else, but for signal handlers. What the call has to remember meanwhile is with its handle: when its relative
//! timeout is up, and the request of a call, which stays where it is: queued, received, or answered. A wait that a signal
//! handler or a fatal signal is to interrupt is not paused, but ends.
//!
//! A paused wait ends, too, when the process closes its last descriptor of the handle or exits.

use crate::{
    handle::Handle,
    helpers::{self, c},
    mailbox::UNSETTLED_MAX,
    message::Message,
    pool::Kept,
    queue::{self, Linked, Links},
    wait::Waiter,
};
use core::{cell::Cell, pin::Pin, ptr::NonNull};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        new_spinlock, SpinLock,
    },
};

/// What the kernel repeats a system call for, whatever handlers ran.
pub(crate) fn erestartnointr() -> Error {
    const ERESTARTNOINTR: i32 = 513;
    Error::from_errno(-ERESTARTNOINTR)
}

/// A system call that may be paused.
pub(crate) struct Caller<'a> {
    pub(crate) handle: &'a Handle,
    request: u32,
    arg: usize,
    /// When its relative timeout is up.
    until: Cell<Option<i64>>,
    /// What it remembers, where it was paused before.
    paused: Cell<Option<KBox<Pause>>>,
}

/// What a paused wait has to remember.
pub(crate) struct Pause {
    links: Links<Pause>,
    /// The thread, by a number that is never used again, and its process.
    thread: u64,
    process: u64,
    request: u32,
    arg: usize,
    until: Option<i64>,
    /// Of a call: takes its answer.
    waiter: Waiter,
    /// Of a call: its request, as long as the waiter is not done.
    place: Option<NonNull<Message>>,
    leases: Option<Kept>,
}

// SAFETY: The message is only looked at under its mailbox's lock; all else can be sent.
unsafe impl Send for Pause {}

impl Linked for Pause {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        // SAFETY: `Waiter::of_paused` has taken the reference, and nobody has a pointer to the waiter.
        unsafe { c::postbox_task_put(self.waiter.task()) };
    }
}

struct Owned(KBox<Pause>);

// SAFETY: A box keeps its content in place, and `from_raw` undoes `into_raw`.
unsafe impl queue::Owner for Owned {
    type Target = Pause;

    fn into_raw(self) -> NonNull<Pause> {
        // SAFETY: A box does not point to null.
        unsafe { NonNull::new_unchecked(KBox::into_raw(self.0)) }
    }

    unsafe fn from_raw(raw: NonNull<Pause>) -> Self {
        // SAFETY: By the contract it comes from `into_raw`.
        Self(unsafe { KBox::from_raw(raw.as_ptr()) })
    }
}

/// The paused waits of a handle.
#[pin_data]
pub(crate) struct Pauses {
    /// How many there are.
    count: Atomic<u32>,
    #[pin]
    list: SpinLock<queue::List<Owned>>,
}

impl Pauses {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            count: Atomic::new(0),
            list <- new_spinlock!(queue::List::new(), "postbox_pauses"),
        })
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    fn add(&self, pause: KBox<Pause>) {
        let mut list = self.list.lock();
        list.push_back(Owned(pause));
        self.count.store(list.len() as u32, Relaxed);
    }

    fn take(&self, wanted: impl FnMut(&Pause) -> bool) -> Option<KBox<Pause>> {
        let mut list = self.list.lock();
        let pause = list.remove_first(wanted)?;
        self.count.store(list.len() as u32, Relaxed);
        Some(pause.0)
    }

    /// Ends those of `process`, or of anyone.
    pub(crate) fn end(&self, handle: &Handle, process: Option<u64>) {
        while let Some(pause) =
            self.take(|pause| process.is_none_or(|process| pause.process == process))
        {
            pause.end(handle);
        }
    }
}

impl Pause {
    pub(crate) fn waiter(&self) -> Pin<&Waiter> {
        // SAFETY: It is in a box, which keeps it in place until it is freed.
        unsafe { Pin::new_unchecked(&self.waiter) }
    }

    pub(crate) fn place(&self) -> Option<NonNull<Message>> {
        self.place
    }

    /// The request of a call waits with this waiter now.
    pub(crate) fn holds(&mut self, place: NonNull<Message>) {
        self.place = Some(place);
    }

    pub(crate) fn take_leases(&mut self) -> Option<Kept> {
        self.leases.take()
    }

    /// Ends it: nobody waits any more.
    fn end(mut self: KBox<Self>, handle: &Handle) {
        if let (Some(place), Ok(mailbox)) = (self.place.take(), handle.tx()) {
            // SAFETY: The request was sent to this mailbox, and waits with this waiter, unless that is done.
            drop(unsafe { mailbox.withdraw(self.waiter(), place) });
        }
    }
}

impl<'a> Caller<'a> {
    #[inline(always)]
    pub(crate) fn new(handle: &'a Handle, request: u32, arg: usize) -> Self {
        Self {
            handle,
            request,
            arg,
            until: Cell::new(None),
            paused: Cell::new(None),
        }
    }

    fn is_of(&self, pause: &Pause) -> bool {
        pause.thread == helpers::thread() && pause.request == self.request && pause.arg == self.arg
    }

    /// What this call remembers, if it was paused before.
    #[cold]
    fn find(&self) {
        if let Some(pause) = self.handle.pauses.take(|pause| self.is_of(pause)) {
            self.paused.set(Some(pause));
        }
    }

    /// When a relative timeout is up that would begin now.
    pub(crate) fn until(&self, time: i64) -> i64 {
        if !self.handle.pauses.is_empty() {
            self.find();
        }
        let pause = self.paused.take();
        let before = pause.as_ref().and_then(|pause| pause.until);
        self.paused.set(pause);
        let until = before.unwrap_or_else(|| helpers::now().saturating_add(time));
        self.until.set(Some(until));
        until
    }

    /// What a call has to go on with that was paused.
    #[inline(always)]
    pub(crate) fn paused_call(&self) -> Option<KBox<Pause>> {
        // One with a relative timeout was looked for with that.
        if self.until.get().is_none() && self.handle.pauses.is_empty() {
            return None;
        }
        self.find_call()
    }

    #[inline(never)]
    fn find_call(&self) -> Option<KBox<Pause>> {
        if self.until.get().is_none() {
            self.find();
        }
        let pause = self.paused.take()?;
        if pause.place.is_none() {
            self.paused.set(Some(pause));
            return None;
        }
        Some(pause)
    }

    /// A pause of this call. `None`: there is no memory for it, or there are too many that were never
    /// gone on with: finding one takes a bounded time.
    #[cold]
    pub(crate) fn pause(&self) -> Option<KBox<Pause>> {
        if self.handle.pauses.count.load(Relaxed) as usize >= UNSETTLED_MAX {
            return None;
        }
        let pause = Pause {
            links: Links::new(),
            thread: helpers::thread(),
            process: helpers::process(),
            request: self.request,
            arg: self.arg,
            until: self.until.get(),
            waiter: Waiter::of_paused(),
            place: None,
            leases: None,
        };
        KBox::new(
            pause,
            GFP_KERNEL_ACCOUNT | kernel::alloc::flags::__GFP_NOWARN,
        )
        .ok()
    }

    /// Remembers a pause, of which there is one for each thread and call.
    pub(crate) fn keep(&self, pause: KBox<Pause>) {
        if let Some(old) = self.handle.pauses.take(|pause| self.is_of(pause)) {
            old.end(self.handle);
        }
        self.handle.pauses.add(pause);
    }

    /// The leases of a call go along with its pause. They are its own again if that is gone.
    #[cold]
    pub(crate) fn keep_leases(&self, leases: Option<Kept>) {
        if let Some(mut pause) = self.handle.pauses.take(|pause| self.is_of(pause)) {
            pause.leases = leases;
            self.handle.pauses.add(pause);
        }
    }

    /// Ends the system call. One with a relative timeout that nothing interrupted is paused.
    #[inline]
    pub(crate) fn end(&self, result: Result) -> Result {
        match result {
            Err(error) if error == ERESTARTSYS => self.interrupted(),
            result => {
                if let Some(pause) = self.paused.take() {
                    pause.end(self.handle);
                }
                result
            }
        }
    }

    #[cold]
    fn interrupted(&self) -> Result {
        let pause = match self.paused.take() {
            Some(pause) if pause.place.is_some() => {
                pause.end(self.handle);
                None
            }
            pause => pause,
        };
        if self.until.get().is_none() {
            return Err(ERESTARTSYS);
        }
        if helpers::interrupted() {
            return Err(EINTR);
        }
        match pause.or_else(|| self.pause()) {
            Some(pause) => {
                self.keep(pause);
                Err(erestartnointr())
            }
            None => Err(EINTR),
        }
    }
}
