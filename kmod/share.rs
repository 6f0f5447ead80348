// SPDX-License-Identifier: GPL-2.0
//! What each process has through one handle of a wait object, so that it can be settled when the
//! process exits or closes its last descriptor of the handle: units of a semaphore, counts that it
//! owes to a latch, parties of a barrier that it stands for, and an arrival there, its number in a
//! segment, and leases of a pool.

use crate::{helpers::GFP_MAYFAIL, queue::Arrival, uapi};
use kernel::{
    prelude::*,
    rbtree::{Entry, RBTree, RBTreeNode, RBTreeNodeReservation},
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        lock::spinlock::SpinLockGuard,
        new_spinlock, SpinLock,
    },
};

/// What processes have. They are named by what `helpers::process` says.
pub(crate) struct Table {
    /// A process that ever had something stays until it is settled.
    processes: RBTree<usize, u64>,
    /// The arrival that was not waited for yet, and who arrived.
    arrival: Option<(usize, Arrival)>,
}

impl Table {
    /// A process has more now. `false`, and nothing is changed: it was settled, or never
    /// [entered](Shares::enter).
    pub(crate) fn add(&mut self, process: usize, count: u64) -> bool {
        let Some(share) = self.processes.get_mut(&process) else {
            return false;
        };
        *share = share.saturating_add(count);
        true
    }

    /// What a process has; `None`: it was settled, or never [entered](Shares::enter).
    pub(crate) fn get(&self, process: usize) -> Option<u64> {
        self.processes.get(&process).copied()
    }

    /// A process has less now. `false`, and nothing is changed: it does not have so much.
    pub(crate) fn subtract(&mut self, process: usize, count: u64) -> bool {
        let share = self.processes.get_mut(&process);
        let Some((share, left)) = share.and_then(|share| {
            let left = share.checked_sub(count)?;
            Some((share, left))
        }) else {
            return false;
        };
        *share = left;
        true
    }

    /// A process has so much less now, or nothing.
    pub(crate) fn subtract_some(&mut self, process: usize, count: u64) {
        if let Some(share) = self.processes.get_mut(&process) {
            *share = share.saturating_sub(count);
        }
    }

    /// Takes out what a process has, or any.
    pub(crate) fn settle(&mut self, process: Option<usize>) -> Option<Share> {
        let (count, node) = match process {
            Some(process) => {
                let entry = self.processes.find_mut(&process)?;
                (*entry.get(), entry.remove_node())
            }
            None => {
                let first = self.processes.cursor_front_mut()?;
                (*first.current().1, first.remove_current().1)
            }
        };
        Some(Share { count, _node: node })
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

    /// Takes out the arrival of a process, or of any.
    pub(crate) fn settle_arrival(&mut self, process: Option<usize>) -> Option<Arrival> {
        let (_, arrival) = self
            .arrival
            .take_if(|(who, _)| process.is_none_or(|process| process == *who))?;
        Some(arrival)
    }
}

/// What a process had. To be dropped without a lock.
pub(crate) struct Share {
    pub(crate) count: u64,
    _node: RBTreeNode<usize, u64>,
}

/// A handle's table. The object's lock is taken first.
#[pin_data]
pub(crate) struct Shares {
    /// Whether there was ever something in it.
    used: Atomic<u32>,
    #[pin]
    table: SpinLock<Table>,
}

impl Shares {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            used: Atomic::new(0),
            table <- new_spinlock!(
                Table {
                    processes: RBTree::new(),
                    arrival: None,
                },
                "postbox_shares"
            ),
        })
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

    /// Whether there is nothing to settle.
    pub(crate) fn is_empty(&self) -> bool {
        if self.unused() {
            return true;
        }
        let table = self.lock();
        table.processes.is_empty() && table.arrival.is_none()
    }

    /// Makes an entry for a process, if it has none yet.
    pub(crate) fn enter(&self, process: usize) -> Result {
        self.used.store(1, Relaxed);
        if self.lock().processes.get(&process).is_some() {
            return Ok(());
        }
        let node = RBTreeNodeReservation::new(GFP_MAYFAIL)?;
        let mut table = self.lock();
        let left = match table.processes.entry(process) {
            Entry::Vacant(entry) => {
                entry.insert(0, node);
                None
            }
            // Another thread was faster.
            Entry::Occupied(_) => Some(node),
        };
        drop(table);
        drop(left);
        Ok(())
    }

    /// Notes an arrival of a process. `false`: there is one that was not waited for yet.
    pub(crate) fn arrive(&self, process: usize, arrive: impl FnOnce() -> Arrival) -> bool {
        self.used.store(1, Relaxed);
        let mut table = self.lock();
        if table.arrival.is_some() {
            return false;
        }
        table.arrival = Some((process, arrive()));
        true
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
