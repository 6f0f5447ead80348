// SPDX-License-Identifier: GPL-2.0
//! Waits that are paused: the task is stopped, frozen, looked at by a tracer, or has task work to do, and then makes the same
//! system call again.
//!
//! The kernel repeats a system call that failed with `ERESTARTNOINTR`, with the same arguments and before the task does
//! anything else, but for signal handlers. What the call has to remember meanwhile is with its handle: when its relative
//! timeout is up, and the request of a call, which stays where it is: queued, received, or answered. A wait that a signal
//! handler or a fatal signal is to interrupt is not paused, but ends.
//!
//! A handler whose signal comes after that may leave by `siglongjmp`, and its thread make another call
//! with its argument at the same place. So a call goes on with what is paused only if it says the same, byte
//! for byte; otherwise that ends.
//!
//! A paused wait keeps neither its thread nor its process. The process has an entry in the handle's [shares](crate::share)
//! before something of it is paused, and with that everything ends when it exits, however it held the handle, or closes its
//! last descriptor of it: also an answer that came meanwhile, with the files in it, which may be this very handle. What is paused
//! of a thread that has exited, or that has executed another program, is never gone on with; it ends when others
//! are paused at the handle, which look at some of those that are there each time.

use crate::{
    handle::Handle,
    helpers::{self, limits, Thread, UserBytes},
    mailbox::UNSETTLED_MAX,
    message::Message,
    pool::Kept,
    queue::{self, Linked, Links},
    share::Shares,
    uapi,
    wait::Waiter,
};
use core::{cell::Cell, mem::offset_of, pin::Pin, ptr::NonNull};
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
    /// The thread, also by a number that is never used again, and its process.
    of: Thread,
    thread: u64,
    process: u64,
    request: u32,
    arg: usize,
    /// What it says: [`Caller::digest`].
    digest: u64,
    until: Option<i64>,
    /// Of a call: takes its answer.
    waiter: Waiter,
    /// Of a call: its request, as long as the waiter is not done.
    place: Option<NonNull<Message>>,
    leases: Cell<Option<Kept>>,
}

// SAFETY: The message is only looked at under its mailbox's lock; all else can be sent.
unsafe impl Send for Pause {}

impl Linked for Pause {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

/// How many are looked at whenever one is added: more than one, so that those who are over get fewer.
const SOME: usize = 4;

/// What one thread has paused at a handle: signal handlers can be nested.
const NESTED: usize = 4;

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

    /// Adds one, unless its process has no entry among the shares any more: under the lock, so that
    /// who takes that out and then looks here finds it.
    fn add(&self, shares: &Shares, pause: KBox<Pause>) -> Result<(), KBox<Pause>> {
        let mut list = self.list.lock();
        if !shares.has(pause.process) {
            return Err(pause);
        }
        list.push_back(Owned(pause));
        self.count.store(list.len() as u32, Relaxed);
        Ok(())
    }

    /// Looks at some, in turns, and ends those that nobody can go on with.
    fn sweep(&self, handle: &Handle) {
        for _ in 0..SOME {
            let mut list = self.list.lock();
            let Some(Owned(pause)) = list.pop_front() else {
                return;
            };
            if !pause.of.is_over() {
                list.push_back(Owned(pause));
                continue;
            }
            self.count.store(list.len() as u32, Relaxed);
            drop(list);
            pause.end(handle);
        }
    }

    fn count(&self, wanted: impl Fn(&Pause) -> bool) -> usize {
        let mut count = 0;
        let _ = self.list.lock().find(|pause| {
            count += usize::from(wanted(pause));
            false
        });
        count
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

/// A number that depends on bytes.
struct Digest(u64);

impl Digest {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// FNV-1a.
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
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
        pause.thread == helpers::thread()
            && pause.of.program() == helpers::program()
            && pause.request == self.request
            && pause.arg == self.arg
    }

    /// What this call remembers, if it was paused before.
    #[cold]
    fn find(&self) {
        if let Some(pause) = self.handle.pauses.take(|pause| self.is_of(pause)) {
            match self.digest() == Some(pause.digest) {
                true => self.paused.set(Some(pause)),
                false => pause.end(self.handle),
            }
        }
    }

    /// What it says: a number that depends on its argument and, of a call, on the bytes of the request and
    /// the descriptors that go with it.
    #[cold]
    fn digest(&self) -> Option<u64> {
        const REQUEST: usize = offset_of!(uapi::postbox_call, request);
        const DATA: usize = REQUEST + offset_of!(uapi::postbox_send, data);
        const LEN: usize = REQUEST + offset_of!(uapi::postbox_send, len);
        const FLAGS: usize = REQUEST + offset_of!(uapi::postbox_send, flags);
        const FILES: usize = REQUEST + offset_of!(uapi::postbox_send, fd_count);
        const FILES_AT: usize = REQUEST + offset_of!(uapi::postbox_send, fds);
        let mut digest = Digest::new();
        let mut size = [0; 4];
        UserBytes::at(self.arg).copy_to(&mut size).ok()?;
        let mut bytes = [0; 256];
        let args = bytes.get_mut(..u32::from_ne_bytes(size) as usize)?;
        UserBytes::at(self.arg).copy_to(args).ok()?;
        digest.add(args);
        if self.request == uapi::POSTBOX_CALL {
            let word = |at: usize| Some(u64::from_ne_bytes(*args.get(at..)?.first_chunk()?));
            let half = |at: usize| Some(u32::from_ne_bytes(*args.get(at..)?.first_chunk()?));
            let payload = (word(DATA)?, word(LEN)?.min(limits::message()) as usize);
            // Leases were given away with the request, and are not read again.
            let files = match half(FLAGS)? & uapi::POSTBOX_LEASES {
                0 => half(FILES)?.min(uapi::POSTBOX_FILES_MAX) as usize,
                _ => 0,
            };
            let files = (word(FILES_AT)?, files * size_of::<uapi::postbox_fd>());
            for (at, len) in [payload, files] {
                let (mut at, mut left) = (UserBytes::at(usize::try_from(at).ok()?), len);
                while left > 0 && !helpers::dying() {
                    let some = left.min(bytes.len());
                    let part = bytes.get_mut(..some)?;
                    at.copy_to(part).ok()?;
                    digest.add(part);
                    (at, left) = (at.after(some), left - some);
                }
            }
        }
        Some(digest.0)
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
    pub(crate) fn paused_call(&self) -> Option<(KBox<Pause>, NonNull<Message>)> {
        // One with a relative timeout was looked for with that.
        if self.until.get().is_none() && self.handle.pauses.is_empty() {
            return None;
        }
        self.find_call()
    }

    #[inline(never)]
    fn find_call(&self) -> Option<(KBox<Pause>, NonNull<Message>)> {
        if self.until.get().is_none() {
            self.find();
        }
        let pause = self.paused.take()?;
        let Some(place) = pause.place else {
            self.paused.set(Some(pause));
            return None;
        };
        Some((pause, place))
    }

    /// A pause of this call, of which its process's exit will be noticed. `None`: there is no memory
    /// for it, or there are too many that were never gone on with: finding one takes a bounded time.
    #[cold]
    pub(crate) fn pause(&self) -> Option<KBox<Pause>> {
        let process = helpers::process();
        self.handle.pauses.sweep(self.handle);
        if self.handle.pauses.count.load(Relaxed) as usize >= UNSETTLED_MAX {
            return None;
        }
        let shares = &self.handle.state.shares;
        shares.enter(process).ok()?;
        // The call is repeated by a descriptor. One that is closed from here on finds the entry.
        if !shares.has_descriptor() {
            return None;
        }
        let pause = Pause {
            links: Links::new(),
            of: Thread::current(),
            thread: helpers::thread(),
            process,
            request: self.request,
            arg: self.arg,
            digest: self.digest()?,
            until: self.until.get(),
            waiter: Waiter::of_paused(),
            place: None,
            leases: Cell::new(None),
        };
        KBox::new(
            pause,
            GFP_KERNEL_ACCOUNT | kernel::alloc::flags::__GFP_NOWARN,
        )
        .ok()
    }

    /// Remembers a pause, of which there is one for each thread and call. It comes back where
    /// the process has closed its last descriptor meanwhile.
    pub(crate) fn keep(&self, pause: KBox<Pause>) -> Result<(), KBox<Pause>> {
        let pauses = &self.handle.pauses;
        if let Some(old) = pauses.take(|pause| self.is_of(pause)) {
            old.end(self.handle);
        }
        let is_mine = |pause: &Pause| pause.thread == helpers::thread();
        if pauses.count(is_mine) >= NESTED {
            if let Some(oldest) = pauses.take(is_mine) {
                oldest.end(self.handle);
            }
        }
        pauses.add(&self.handle.state.shares, pause)
    }

    /// The leases of a call go along with its pause. They are its own again if that is gone.
    #[cold]
    pub(crate) fn keep_leases(&self, leases: Option<Kept>) {
        // Where it stays: whoever ends what is paused meanwhile is to find it.
        let list = self.handle.pauses.list.lock();
        let pause = list.find(|pause| self.is_of(pause));
        let left = match pause {
            Some(pause) => pause.leases.replace(leases),
            None => leases,
        };
        drop(list);
        drop(left);
    }

    /// Ends the system call. One with a relative timeout that nothing interrupted is paused.
    #[inline]
    pub(crate) fn end(&self, result: Result) -> Result {
        match result {
            Err(error) if error == ERESTARTSYS => self.interrupted(),
            Err(error) if error == erestartnointr() => result,
            result => {
                if !self.handle.pauses.is_empty() {
                    // It may have ended before it looked.
                    self.find();
                }
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
                self.keep(pause).map_err(|_| EINTR)?;
                Err(erestartnointr())
            }
            None => Err(EINTR),
        }
    }
}
