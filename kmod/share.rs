// SPDX-License-Identifier: GPL-2.0
//! What each process has through one handle, so that it can be settled when the process exits or
//! closes its last descriptor of the handle: units of a semaphore, counts that it owes to a latch,
//! parties of a barrier that it stands for, and an arrival there, its number in a segment, leases of
//! a pool, its place at a ring, reservations of room; and, of messages and requests that it took,
//! that it may take them.
//!
//! An entry is made when a process takes something for the first time ([`Shares::enter`]), and comes
//! with a [`Watch`] of the process. What the process has is settled once, by whoever takes the entry
//! out under the object's lock:
//!
//! ```text
//!             enter               close of the last descriptor (->flush, the process itself)
//!   (none) ----------> entered -- exit (the watch's work item, with a reference to the file) --> (none)
//!             take               last close of the handle (->release, nobody has the file)
//! ```
//!
//! Taking looks for the entry under the same lock. So what was taken is settled, or was not taken. A
//! process that closes its last descriptor while another of its threads, or an io_uring command of
//! it, goes on may be entered again: what it takes then comes back when it exits.

use crate::{
    helpers::{c, GFP_MAYFAIL},
    queue::Arrival,
    uapi,
    watch::{Target, Watch},
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*,
    rbtree::{Entry, RBTree, RBTreeNode, RBTreeNodeReservation},
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        lock::spinlock::SpinLockGuard,
        new_spinlock, SpinLock,
    },
};

/// Whose shares are settled.
#[derive(Clone, Copy)]
pub(crate) struct Leaving {
    /// The process, as `helpers::process` names it; `None`: every process.
    pub(crate) process: Option<u64>,
}

/// What a process has through a handle.
struct Holding {
    count: u64,
    /// The bytes of `count` reservations.
    bytes: u64,
    watch: Pin<KBox<Watch>>,
}

/// What processes have. They are named by what `helpers::process` says.
pub(crate) struct Table {
    /// A process that ever had something stays until it is settled.
    processes: RBTree<u64, Holding>,
    /// The arrival that was not waited for yet, and who arrived.
    arrival: Option<(u64, Arrival)>,
}

impl Table {
    /// A process has more now. `false`, and nothing is changed: it was settled, or never
    /// [entered](Shares::enter).
    pub(crate) fn add(&mut self, process: u64, count: u64) -> bool {
        self.add_bytes(process, count, 0)
    }

    /// The same of reservations, with their bytes.
    pub(crate) fn add_bytes(&mut self, process: u64, count: u64, bytes: u64) -> bool {
        let Some(share) = self.processes.get_mut(&process) else {
            return false;
        };
        share.count = share.count.saturating_add(count);
        share.bytes = share.bytes.saturating_add(bytes);
        true
    }

    /// What a process has; `None`: it was settled, or never [entered](Shares::enter).
    pub(crate) fn get(&self, process: u64) -> Option<u64> {
        self.processes.get(&process).map(|share| share.count)
    }

    /// A process has less now. `false`, and nothing is changed: it does not have so much.
    pub(crate) fn subtract(&mut self, process: u64, count: u64) -> bool {
        let share = self.processes.get_mut(&process);
        let Some((share, left)) = share.and_then(|share| {
            let left = share.count.checked_sub(count)?;
            Some((share, left))
        }) else {
            return false;
        };
        share.count = left;
        true
    }

    /// A process has so much less now, or nothing. Returns how much less.
    pub(crate) fn subtract_some(&mut self, process: u64, count: u64) -> u64 {
        match self.processes.get_mut(&process) {
            Some(share) => {
                let some = count.min(share.count);
                share.count -= some;
                some
            }
            None => 0,
        }
    }

    /// A process has one reservation of `len` bytes less; returns the bytes that it had. The last
    /// one takes all that is left with it: reservations are not told apart.
    pub(crate) fn unreserve(&mut self, process: u64, len: u64) -> Option<u64> {
        let share = self.processes.get_mut(&process)?;
        let count = share.count.checked_sub(1)?;
        let left = share.bytes.checked_sub(len)?;
        let left = if count == 0 { 0 } else { left };
        let bytes = share.bytes - left;
        (share.count, share.bytes) = (count, left);
        Some(bytes)
    }

    /// The handle's arrival that was not waited for yet.
    pub(crate) fn arrival(&self) -> Option<Arrival> {
        self.arrival.map(|(_, arrival)| arrival)
    }

    /// Ends that arrival. `false`: another thread was faster.
    pub(crate) fn end_arrival(&mut self, arrival: Arrival) -> bool {
        let found = self.arrival() == Some(arrival);
        if found {
            self.arrival = None;
        }
        found
    }

    /// Notes an arrival of a process. `Err(EALREADY)`: there is one that was not waited for yet.
    pub(crate) fn arrive(&mut self, process: u64, arrive: impl FnOnce() -> Arrival) -> Result {
        if self.arrival.is_some() {
            return Err(crate::compat::ealready());
        }
        if self.processes.get(&process).is_none() {
            return Err(EBADF);
        }
        self.arrival = Some((process, arrive()));
        Ok(())
    }

    /// Takes out the arrival of a process, or of any.
    pub(crate) fn settle_arrival(&mut self, process: Option<u64>) -> Option<Arrival> {
        let (_, arrival) = self
            .arrival
            .take_if(|(who, _)| process.is_none_or(|process| process == *who))?;
        Some(arrival)
    }
}

/// What a process had. To be dropped without a lock: that stops the watch, which sleeps.
pub(crate) struct Share {
    pub(crate) process: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// The process exits, or has: not a thread of it alone.
    pub(crate) died: bool,
    _node: RBTreeNode<u64, Holding>,
}

/// A handle's table. The object's lock is taken first.
#[pin_data]
pub(crate) struct Shares {
    /// Processes that are known to have an entry, mostly the only ones; 0: none. Changed under the
    /// table's lock.
    known: [Atomic<u64>; 2],
    /// Whether there was ever something in it.
    used: Atomic<u32>,
    /// The handle's file, which keeps this. Set before anybody can use the handle.
    file: Atomic<usize>,
    #[pin]
    table: SpinLock<Table>,
}

impl Shares {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            known: [Atomic::new(0), Atomic::new(0)],
            used: Atomic::new(0),
            file: Atomic::new(0),
            table <- new_spinlock!(
                Table {
                    processes: RBTree::new(),
                    arrival: None,
                },
                "postbox_shares"
            ),
        })
    }

    /// The handle is this file's.
    pub(crate) fn belongs_to(&self, file: NonNull<bindings::file>) {
        self.file.store(file.as_ptr() as usize, Relaxed);
    }

    /// Whether the current process has a descriptor of the handle, as far as that can be found out.
    #[cold]
    pub(crate) fn has_descriptor(&self) -> bool {
        let file = self.file.load(Relaxed) as *mut bindings::file;
        // SAFETY: The file keeps this; only its address is compared.
        !file.is_null() && unsafe { c::postbox_has_descriptor(file) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> SpinLockGuard<'_, Table> {
        self.table.lock()
    }

    /// Whether there was never anything in it. A process knows of what it did itself before.
    #[inline]
    pub(crate) fn unused(&self) -> bool {
        self.used.load(Relaxed) == 0
    }

    #[inline]
    fn knows(&self, process: u64) -> bool {
        self.known
            .iter()
            .any(|known| known.load(Relaxed) == process)
    }

    /// A process has an entry. Under the table's lock.
    fn learn(&self, process: u64) {
        let [latest, other] = &self.known;
        other.store(latest.load(Relaxed), Relaxed);
        latest.store(process, Relaxed);
    }

    /// Whether a process has an entry. Under the object's lock that is so until the lock is dropped.
    #[inline]
    pub(crate) fn has(&self, process: u64) -> bool {
        self.knows(process) || (!self.unused() && self.lock().get(process).is_some())
    }

    /// Makes an entry for the current process, if it has none yet.
    #[inline]
    pub(crate) fn enter(&self, process: u64) -> Result {
        if self.knows(process) {
            return Ok(());
        }
        self.enter_slowly(process)
    }

    #[inline(never)]
    fn enter_slowly(&self, process: u64) -> Result {
        self.used.store(1, Relaxed);
        let table = self.lock();
        if table.processes.get(&process).is_some() {
            self.learn(process);
            return Ok(());
        }
        drop(table);
        let file = self.file.load(Relaxed) as *mut bindings::file;
        let file = NonNull::new(file).ok_or(EBADF)?;
        let node = RBTreeNodeReservation::new(GFP_MAYFAIL)?;
        // SAFETY: `file` keeps this table, and every entry is taken out of it before that is freed.
        let watch = unsafe { Watch::current(Target::Handle(file)) }?;
        let new = Holding {
            count: 0,
            bytes: 0,
            watch,
        };
        let mut table = self.lock();
        let left = match table.processes.entry(process) {
            Entry::Vacant(entry) => {
                entry.insert(new, node);
                None
            }
            // Another thread was faster.
            Entry::Occupied(_) => Some((new, node)),
        };
        self.learn(process);
        drop(table);
        drop(left);
        Ok(())
    }

    /// Takes out what a process has, or any. Under the object's lock.
    pub(crate) fn settle(&self, leaving: Leaving) -> Option<Share> {
        self.settle_if(leaving, || true)
    }

    /// The same, where `is_so` under the lock that everything is entered under.
    pub(crate) fn settle_if(
        &self,
        leaving: Leaving,
        is_so: impl FnOnce() -> bool,
    ) -> Option<Share> {
        if self.unused() {
            return None;
        }
        let mut table = self.lock();
        if !is_so() {
            return None;
        }
        let share = |holding: &Holding| (holding.count, holding.bytes, holding.watch.dies());
        let (process, (count, bytes, died), node) = match leaving.process {
            Some(process) => {
                let entry = table.processes.find_mut(&process)?;
                (process, share(entry.get()), entry.remove_node())
            }
            None => {
                let first = table.processes.cursor_front_mut()?;
                let (process, holding) = first.current();
                (*process, share(holding), first.remove_current().1)
            }
        };
        for known in &self.known {
            known.store(0, Relaxed);
        }
        drop(table);
        Some(Share {
            process,
            count,
            bytes,
            died,
            _node: node,
        })
    }
}

/// The handles of a wait object.
#[derive(Default)]
pub(crate) struct Handles {
    senders: u32,
    receivers: u32,
}

impl Handles {
    pub(crate) fn open(&mut self, sends: bool, receives: bool) {
        self.senders += u32::from(sends);
        self.receivers += u32::from(receives);
    }

    pub(crate) fn close(&mut self, sends: bool, receives: bool) {
        self.senders -= u32::from(sends);
        self.receivers -= u32::from(receives);
    }

    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        info.senders = self.senders;
        info.receivers = self.receivers;
    }
}
