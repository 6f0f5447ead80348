// SPDX-License-Identifier: GPL-2.0
//! The segment as a kernel object: memory that processes map, and where they wait for words of it.
//!
//! A lock in a segment is a word of 64 bits that says who has it, by a number that the kernel gives
//! to each process that attaches and never again. Only who finds it taken comes here. The kernel
//! knows which of these numbers are of processes that live; that a word says what its users agreed
//! upon it does not rely on. When a process goes, whoever waits looks again, also because it may
//! have died between giving a lock up and waking the next.

use crate::{
    helpers::{self, GFP_MAYFAIL},
    mapping::{Area, Memory, Word},
    queue::Words,
    quota::{Pinned, SharedCharge},
    share::{Handles, Leaving, Shares},
    uapi,
    wait::{Outcome, Wait, Waiter, WaiterPtr},
};
use core::{pin::pin, ptr::NonNull};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{new_spinlock, SpinLock},
};

/// What the lock guards.
struct Inner {
    handles: Handles,
    /// The numbers of processes that are attached.
    attached: RBTree<u64, ()>,
    /// How many numbers each process has: one for each handle.
    processes: RBTree<u64, u64>,
    next: u64,
    /// Those who wait for a word, which is at the offset that they want.
    waiting: Words<WaiterPtr>,
}

/// A segment.
#[pin_data]
pub(crate) struct Segment {
    pub(crate) memory: Memory,
    #[pin]
    inner: SpinLock<Inner>,
    _charge: SharedCharge,
}

impl Segment {
    /// One with the memory of a descriptor of the current task, which `user` pays for. With
    /// `reserve` all of that is allocated.
    pub(crate) fn new(memfd: i32, reserve: bool, user: &Pinned) -> Result<impl PinInit<Self>> {
        let memory = Memory::new(memfd)?;
        let charge = user.charge_shared(memory.size())?;
        if reserve {
            memory.reserve()?;
        }
        Ok(pin_init!(Self {
            memory,
            inner <- new_spinlock!(
                Inner {
                    handles: Handles::default(),
                    attached: RBTree::new(),
                    processes: RBTree::new(),
                    next: 1,
                    waiting: Words::new(),
                },
                "postbox_segment"
            ),
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

    /// Forgets the numbers that a process, or any, got through a handle.
    pub(crate) fn process_closed(&self, shares: &Shares, leaving: Leaving) {
        loop {
            let mut inner = self.inner.lock();
            let share = shares.settle(leaving);
            let Some(share) = share else {
                return;
            };
            let number = inner.attached.remove_node(&share.count);
            let (mut left, mut last) = (0, None);
            if let Some(numbers) = inner.processes.get_mut(&share.process) {
                *numbers -= u64::from(number.is_some());
                left = *numbers;
            }
            if left == 0 {
                last = inner.processes.remove_node(&share.process);
            }
            // A process that exits loses all of its numbers, and with the last one all look again.
            let mut waiting = match share.died && left != 0 {
                true => 0,
                false => inner.waiting.len(),
            };
            drop(inner);
            drop((share, number, last));
            // Who comes from now on knows of it.
            while waiting > 0 && self.wake_one(Words::pop) {
                waiting -= 1;
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

    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        let inner = self.inner.lock();
        inner.handles.describe(info);
        info.capacity = self.memory.page_size();
        info.capacity_bytes = self.memory.size();
        info.waiting_receivers = inner.waiting.len() as u32;
        if self.memory.frozen() {
            info.flags |= uapi::POSTBOX_INFO_FROZEN;
        }
    }

    /// The number of this process, which it gets with the first call, through a handle.
    pub(crate) fn attach(&self, shares: &Shares) -> Result<u64> {
        let process = helpers::process();
        shares.enter(process)?;
        let node = RBTreeNodeReservation::new(GFP_MAYFAIL)?;
        let first = RBTreeNodeReservation::new(GFP_MAYFAIL)?;
        let mut inner = self.inner.lock();
        let mut table = shares.lock();
        // Without an entry, another thread has closed the last descriptor.
        let number = table.get(process).ok_or(EBADF)?;
        if number != 0 {
            drop(table);
            drop(inner);
            return Ok(number);
        }
        let number = inner.next;
        table.add(process, number);
        drop(table);
        inner.next += 1;
        inner.attached.insert(node.into_node(number, ()));
        // It is not freed under the lock where it is not used: it was made before that.
        match inner.processes.get_mut(&process) {
            Some(numbers) => *numbers += 1,
            None => drop(inner.processes.insert(first.into_node(process, 1))),
        }
        Ok(number)
    }

    /// Waits while the word at `offset` is `value`, until somebody wakes who waits for it. Whether
    /// that value names a process that is gone.
    pub(crate) fn wait(&self, offset: u64, value: u64, wait: &Wait<'_>) -> Result<bool> {
        let owner = value & uapi::POSTBOX_WORD_OWNER;
        let word = self.memory.word(offset)?;
        let waiter = pin!(Waiter::wanting(offset));
        let waiter = waiter.as_ref();
        {
            let mut inner = self.inner.lock();
            // Whoever changes the word wakes afterwards, and has to take the lock for that. Where
            // there was no page, nobody sleeps: 0 names no process.
            if word.as_ref().map_or(0, Word::load) != value {
                return Ok(false);
            }
            if inner.attached.get(&owner).is_none() {
                return Ok(true);
            }
            if !wait.may_wait() {
                return Err(EAGAIN);
            }
            // SAFETY: The waiter is pinned here. Below, it is done, or leaves.
            unsafe { inner.waiting.add(waiter.pointer()) };
        }
        drop(word);
        let slept = waiter.sleep(wait);
        if let (None, Err(error)) = (waiter.outcome(), slept) {
            let mut inner = self.inner.lock();
            if waiter.outcome().is_none() {
                // SAFETY: It was put there above, and is not done.
                unsafe { inner.waiting.remove(NonNull::from(waiter.get_ref())) };
                return Err(error);
            }
        }
        Ok(false)
    }

    /// Wakes so many of those who wait for the word at `offset` now: who is woken may wait again
    /// without end.
    pub(crate) fn wake(&self, offset: u64, count: u32) {
        let waiting = self.inner.lock().waiting.len();
        for _ in 0..waiting.min(count as usize) {
            if !self.wake_one(|waiting| waiting.pop_of(offset)) {
                break;
            }
        }
    }

    /// Wakes one of them, outside the lock. `false`: there is none.
    fn wake_one(&self, pop: impl FnOnce(&mut Words<WaiterPtr>) -> Option<WaiterPtr>) -> bool {
        let mut inner = self.inner.lock();
        let waiter = pop(&mut inner.waiting);
        let wake = waiter.map(|waiter| waiter.finish(Outcome::Happened));
        drop(inner);
        wake.is_some()
    }
}
