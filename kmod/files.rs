// SPDX-License-Identifier: GPL-2.0
//! Files in messages.
//!
//! A handle that is queued in a mailbox keeps its object. If that could only be received with the
//! help of what is in the same queue, nobody would ever free either. So a message with a handle is
//! refused where it would close a circle of "is queued in": see [`Edges`]. The same holds for an
//! answer that a handle keeps until it is fetched. What would hide a handle from that, a Unix socket
//! with its own queue of files or an io_uring, is not sent.
//!
//! A file can keep anything: memory, a lock, a port, the IPC namespace that a persistent mailbox is to
//! end with. So no file is queued where no process can be asked to let it go: a persistent mailbox has
//! its files in a [`Store`], which is emptied when the last handle is closed.

use crate::{
    chardev,
    compat::eloop,
    handle::{Handle, Shared},
    helpers::{self, c, GFP_MAYFAIL},
    mailbox::Mailbox,
    quota::{FilesCharge, Pinned},
    request::Place,
    uapi,
};
use core::{cell::Cell, mem::size_of, ptr::NonNull};
use kernel::{
    fs::{
        file::{flags, FileDescriptorReservation},
        File,
    },
    prelude::*,
    rbtree::{RBTree, RBTreeNode, RBTreeNodeReservation},
    sync::{
        aref::ARef,
        atomic::{ordering::Relaxed, Atomic},
        new_mutex, Arc, Mutex,
    },
};

struct Entry {
    file: ARef<File>,
    /// Those of a handle of ours; 0 for another file.
    rights: u32,
}

/// The files of one message, and the graph's edges for the handles among them.
struct Parcel {
    entries: KVec<Entry>,
    edges: Option<Edges>,
}

/// The files that are queued in one persistent mailbox.
#[pin_data]
pub(crate) struct Store {
    #[pin]
    parcels: Mutex<RBTree<u64, Arc<Parcel>>>,
    /// The number of the next parcel. Changed under the lock.
    next: Atomic<u64>,
    /// Parcels with smaller numbers are lost. Changed under the lock.
    first: Atomic<u64>,
}

impl Store {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                parcels <- new_mutex!(RBTree::new()),
                next: Atomic::new(1),
                first: Atomic::new(1),
            }),
            GFP_MAYFAIL,
        )
    }

    fn add(&self, parcel: Arc<Parcel>) -> Result<u64> {
        let node = RBTreeNodeReservation::new(GFP_MAYFAIL)?;
        let mut parcels = self.parcels.lock();
        let number = self.next();
        self.next.store(number + 1, Relaxed);
        parcels.insert(node.into_node(number, parcel));
        Ok(number)
    }

    fn get(&self, number: u64) -> Option<Arc<Parcel>> {
        self.parcels.lock().get(&number).cloned()
    }

    /// Removes a parcel. It is to be dropped without the lock.
    fn remove(&self, number: u64) -> Option<RBTreeNode<u64, Arc<Parcel>>> {
        self.parcels.lock().remove_node(&number)
    }

    fn has(&self, number: u64) -> bool {
        number >= self.first.load(Relaxed)
    }

    /// The number of the next parcel. While nobody has the mailbox open, all that there are have
    /// smaller ones.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// Drops the files of parcels with numbers below `end`: nobody had the mailbox open when that
    /// was the next one.
    pub(crate) fn empty(&self, end: u64) {
        loop {
            let mut parcels = self.parcels.lock();
            if self.first.load(Relaxed) < end {
                self.first.store(end, Relaxed);
            }
            let first = parcels.cursor_lower_bound(&0);
            let number = first.map_or(end, |cursor| *cursor.current().0);
            if number >= end {
                return;
            }
            let parcel = parcels.remove_node(&number);
            drop(parcels);
            drop(parcel);
        }
    }
}

/// The owner of a parcel.
enum Held {
    /// The message itself.
    Message(Parcel),
    /// A store, by number.
    Store(Arc<Store>, u64),
}

/// The files of one message.
pub(crate) struct Files {
    held: Held,
    count: usize,
    /// Guarded by the lock of the mailbox whose sender can withdraw the message.
    charge: Cell<Option<FilesCharge>>,
}

/// Charges the user who uses the handle for so many files.
fn charge(handle: &Handle, count: usize) -> Result<Option<FilesCharge>> {
    let charge = handle.with_payer(helpers::euid(), |payer| payer.charge_files(count))?;
    Ok(Some(charge))
}

/// What the handles among these keep: themselves, and their mailboxes.
fn reached(entries: &[Entry]) -> Result<KVec<usize>> {
    let mut reached = KVec::new();
    for handle in entries.iter().filter_map(|e| chardev::as_handle(&e.file)) {
        reached.push(address_of_handle(&handle), GFP_MAYFAIL)?;
        if let Ok(bound) = handle.bound() {
            for mailbox in bound.mailboxes() {
                reached.push(address(mailbox), GFP_MAYFAIL)?;
            }
        }
    }
    Ok(reached)
}

impl Files {
    /// Takes the files of the current task that an array of descriptors names, to be sent through
    /// `handle` into `queue`, if they go to a queue.
    pub(crate) fn take(
        handle: &Handle,
        queue: Option<&Mailbox>,
        array: u64,
        count: u32,
    ) -> Result<Option<Self>> {
        if count == 0 {
            return Ok(None);
        }
        if count > uapi::POSTBOX_FILES_MAX {
            return Err(EINVAL);
        }
        let charge = charge(handle, count as usize)?;
        let mut entries = KVec::with_capacity(count as usize, GFP_MAYFAIL)?;
        for i in 0..count {
            let entry = entry_place(array, i)?.read_file()?;
            let (file, mut rights) = (get(entry.fd)?, entry.rights);
            let file = match chardev::as_handle(&file) {
                Some(sent) if rights != 0 => chardev::new_file(sent.dup(rights)?)?,
                Some(sent) => match sent.bound() {
                    Ok(bound) => {
                        rights = bound.rights;
                        file
                    }
                    // The sender could bind the very handle to what it is queued in.
                    Err(_) => another(&sent)?,
                },
                None if rights != 0 => return Err(EINVAL),
                None => file,
            };
            entries.push(Entry { file, rights }, GFP_MAYFAIL)?;
        }
        let edges = match queue {
            Some(queue) => Edges::new(&handle.shared, address(queue), reached(&entries)?)?,
            None => None,
        };
        let parcel = Parcel { entries, edges };
        let held = match queue.and_then(Mailbox::store) {
            Some(store) => {
                let number = store.add(Arc::new(parcel, GFP_MAYFAIL)?)?;
                Held::Store(store.clone(), number)
            }
            None => Held::Message(parcel),
        };
        Ok(Some(Self {
            held,
            count: count as usize,
            charge: Cell::new(charge),
        }))
    }

    /// Charges another user for them. Returns what was charged before, to be dropped without a lock.
    pub(crate) fn pass_on(&self, user: &Pinned) -> Result<Option<FilesCharge>> {
        let charge = self.charge.take();
        let passed = charge.as_ref().map(|charge| charge.passed_on(user));
        match passed {
            Some(Ok(passed)) => self.charge.set(Some(passed)),
            Some(Err(error)) => {
                self.charge.set(charge);
                return Err(error);
            }
            None => {}
        }
        Ok(charge)
    }

    /// Another charge for them takes the place of the one that there was, which is returned, to be
    /// dropped without a lock.
    pub(crate) fn replace_charge(&self, charge: FilesCharge) -> Option<FilesCharge> {
        self.charge.replace(Some(charge))
    }

    /// They stay with a handle until they are fetched, at the cost of who uses it.
    pub(crate) fn keep(&mut self, handle: &Handle) -> Result {
        self.charge.set(None);
        self.charge.set(charge(handle, self.len())?);
        // An answer was never queued: it has its files itself, and nobody else has the parcel.
        let Held::Message(parcel) = &mut self.held else {
            return Ok(());
        };
        parcel.edges = None;
        let reached = reached(&parcel.entries)?;
        parcel.edges = Edges::new(&handle.shared, address_of_handle(handle), reached)?;
        Ok(())
    }

    /// The number of files that can be received; 0 if they are lost.
    pub(crate) fn len(&self) -> usize {
        match self.are_lost() {
            true => 0,
            false => self.count,
        }
    }

    /// Returns true if nobody had the persistent mailbox open for a while.
    pub(crate) fn are_lost(&self) -> bool {
        matches!(&self.held, Held::Store(store, number) if !store.has(*number))
    }

    /// Reserves a descriptor of the current task for each, and writes their numbers to an array that
    /// has room for them. The files are there once the result is kept.
    pub(crate) fn install(&self, array: u64) -> Result<Installed> {
        let stored;
        let parcel = match &self.held {
            Held::Message(parcel) => parcel,
            Held::Store(store, number) => {
                stored = store.get(*number);
                match &stored {
                    Some(parcel) => parcel,
                    None => return Ok(Installed::NONE),
                }
            }
        };
        let mut fds = KVec::with_capacity(parcel.entries.len(), GFP_MAYFAIL)?;
        for (i, entry) in parcel.entries.iter().enumerate() {
            // SAFETY: The file is valid.
            kernel::error::to_result(unsafe { c::postbox_may_receive(entry.file.as_ptr()) })?;
            let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
            entry_place(array, i as u32)?.write_file(&uapi::postbox_fd {
                fd: fd.reserved_fd() as i32,
                rights: entry.rights,
            })?;
            let file = match chardev::as_handle(&entry.file) {
                // So could who receives it, where the message keeps its files and goes back.
                Some(sent) if sent.bound().is_err() => another(&sent)?,
                _ => entry.file.clone(),
            };
            fds.push((fd, file), GFP_MAYFAIL)?;
        }
        Ok(Installed(Some(fds)))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Held::Store(store, number) = &self.held {
            drop(store.remove(*number));
        }
    }
}

/// Descriptors that are reserved for files of a message. Nobody can use them, or close them, before
/// the message is received.
pub(crate) struct Installed(Option<KVec<(FileDescriptorReservation, ARef<File>)>>);

impl Installed {
    pub(crate) const NONE: Self = Self(None);

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, KVec::len)
    }

    /// The message is received, and they are the task's.
    pub(crate) fn keep(self) {
        for (fd, file) in self.0.into_iter().flatten() {
            fd.fd_install(file);
        }
    }
}

/// A handle that is not bound, in the place of one that is not: what is queued is never bound to anything.
fn another(handle: &Handle) -> Result<ARef<File>> {
    chardev::new_file(Handle::new(handle.shared.clone(), handle.ipc_ns)?)
}

fn entry_place(array: u64, index: u32) -> Result<Place> {
    Place::of_entry(array, index, size_of::<uapi::postbox_fd>())
}

/// The file of a descriptor of the current task, if it can be sent.
pub(crate) fn get(fd: i32) -> Result<ARef<File>> {
    let mut refused = false;
    let file = find(fd, &mut refused)?;
    if refused {
        return Err(EINVAL);
    }
    Ok(file)
}

/// The file of a descriptor of the current task, which is not going to be sent.
pub(crate) fn get_any(fd: i32) -> Result<ARef<File>> {
    find(fd, core::ptr::null_mut())
}

/// Says in `refused`, unless that is null, whether it cannot be sent.
#[inline]
fn find(fd: i32, refused: *mut bool) -> Result<ARef<File>> {
    // SAFETY: `refused` is valid or null. The file cannot have been got by fdget_pos() for this call:
    // an ioctl has no position.
    let file = unsafe { c::postbox_file_get(fd as u32, refused) };
    let file = NonNull::new(file).ok_or(EBADF)?;
    // SAFETY: The reference was taken just now.
    Ok(unsafe { ARef::from_raw(file.cast()) })
}

/// What stands for a mailbox as long as it exists.
pub(crate) fn address(mailbox: &Mailbox) -> usize {
    core::ptr::from_ref(mailbox) as usize
}

/// The same for a handle.
fn address_of_handle(handle: &Handle) -> usize {
    core::ptr::from_ref(handle) as usize
}

/// How many nodes are looked at for a circle on each side, and how many edges altogether. More than
/// that is refused like one.
const REACH_MAX: usize = 4096;
const STEPS_MAX: usize = 8192;

/// Which mailboxes have handles queued, and which handles keep answers with them, that lead where.
#[pin_data]
pub(crate) struct Graph {
    #[pin]
    edges: Mutex<Both>,
}

/// The edges, with how often each is there: from what keeps to what is kept, and the other way.
struct Both {
    forth: RBTree<(usize, usize), usize>,
    back: RBTree<(usize, usize), usize>,
}

impl Graph {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            edges <- new_mutex!(Both {
                forth: RBTree::new(),
                back: RBTree::new(),
            }),
        })
    }
}

/// The part of the graph that stands for what one message carries.
pub(crate) struct Edges {
    shared: Arc<Shared>,
    queue: usize,
    reached: KVec<usize>,
}

/// A set of nodes, in the order in which they came, with memory for so many.
struct Seen {
    nodes: KVec<usize>,
    /// Open addressing; 0: free. At least half of them are.
    slots: KVec<usize>,
}

impl Seen {
    fn new(most: usize) -> Result<Self> {
        let mut slots = KVec::new();
        slots.resize(2 * most.next_power_of_two(), 0, GFP_MAYFAIL)?;
        Ok(Self {
            nodes: KVec::with_capacity(most, GFP_MAYFAIL)?,
            slots,
        })
    }

    /// Where the node is, or belongs.
    fn slot(&mut self, node: usize) -> Option<&mut usize> {
        let hash = (node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash as usize & mask;
        while self
            .slots
            .get(at)
            .is_some_and(|&other| other != 0 && other != node)
        {
            at = (at + 1) & mask;
        }
        self.slots.get_mut(at)
    }

    fn has(&mut self, node: usize) -> bool {
        self.slot(node).is_some_and(|slot| *slot == node)
    }

    /// Adds a node, unless it is there. `false`: there is no memory for more.
    fn add(&mut self, node: usize) -> bool {
        if self.has(node) {
            return true;
        }
        if self.nodes.push_within_capacity(node).is_err() {
            return false;
        }
        if let Some(slot) = self.slot(node) {
            *slot = node;
        }
        true
    }
}

/// One side of a search.
struct Front {
    seen: Seen,
    /// The node whose edges are looked at, and the end of the next of these.
    at: usize,
    next: usize,
}

impl Front {
    fn new(from: &[usize], most: usize) -> Result<Self> {
        let mut seen = Seen::new(most.max(from.len()))?;
        from.iter().for_each(|node| {
            seen.add(*node);
        });
        Ok(Self {
            seen,
            at: 0,
            next: 0,
        })
    }

    /// The next node that an edge leads to; `None`: there are no more.
    fn step(&mut self, edges: &mut RBTree<(usize, usize), usize>) -> Option<usize> {
        while let Some(&node) = self.seen.nodes.get(self.at) {
            let cursor = edges.cursor_lower_bound_mut(&(node, self.next));
            let edge = cursor.as_ref().map(|cursor| *cursor.current().0);
            if let Some((_, to)) = edge.filter(|(from, _)| *from == node) {
                self.next = to.saturating_add(1);
                return Some(to);
            }
            (self.at, self.next) = (self.at + 1, 0);
        }
        None
    }
}

/// Finds whether one of `reached` leads to `queue`. The search goes from both: what is stuffed with
/// handles, but leads nowhere near, is in nobody's way. `None`: it needs more memory.
fn leads_back(edges: &mut Both, forth: &mut Front, back: &mut Front) -> Option<bool> {
    for _ in 0..STEPS_MAX {
        let Some(node) = forth.step(&mut edges.forth) else {
            return Some(false);
        };
        if back.seen.has(node) {
            return Some(true);
        }
        if !forth.seen.add(node) {
            return None;
        }
        let Some(node) = back.step(&mut edges.back) else {
            return Some(false);
        };
        if forth.seen.has(node) {
            return Some(true);
        }
        if !back.seen.add(node) {
            return None;
        }
    }
    Some(true)
}

impl Edges {
    /// Notes that `queue` is going to keep `reached`. `ELOOP` if one of these leads back to it.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        queue: usize,
        reached: KVec<usize>,
    ) -> Result<Option<Self>> {
        if reached.is_empty() {
            return Ok(None);
        }
        if reached.contains(&queue) {
            return Err(eloop());
        }
        let (mut forth, mut back) = (KVec::new(), KVec::new());
        for node in &reached {
            let edge = RBTreeNode::new((queue, *node), 1, GFP_MAYFAIL)?;
            forth.push(edge, GFP_MAYFAIL)?;
            let edge = RBTreeNode::new((*node, queue), 1, GFP_MAYFAIL)?;
            back.push(edge, GFP_MAYFAIL)?;
        }
        // Memory is allocated without the lock, which who frees such messages needs, too.
        let mut most = 64;
        let mut edges = loop {
            let mut ahead = Front::new(&reached, most)?;
            let mut behind = Front::new(&[queue], most)?;
            let mut edges = shared.graph.edges.lock();
            match leads_back(&mut edges, &mut ahead, &mut behind) {
                Some(false) => break edges,
                None if most < REACH_MAX => most *= 8,
                _ => return Err(eloop()),
            }
        };
        for ((edge, other), node) in forth.into_iter().zip(back).zip(&reached) {
            let edges = &mut *edges;
            for (tree, key, new) in [
                (&mut edges.forth, (queue, *node), edge),
                (&mut edges.back, (*node, queue), other),
            ] {
                match tree.get_mut(&key) {
                    Some(count) => *count += 1,
                    None => {
                        tree.insert(new);
                    }
                }
            }
        }
        drop(edges);
        Ok(Some(Self {
            shared: shared.clone(),
            queue,
            reached,
        }))
    }
}

impl Drop for Edges {
    fn drop(&mut self) {
        let mut edges = self.shared.graph.edges.lock();
        for node in &self.reached {
            let edges = &mut *edges;
            for (tree, key) in [
                (&mut edges.forth, (self.queue, *node)),
                (&mut edges.back, (*node, self.queue)),
            ] {
                if let Some(count) = tree.get_mut(&key) {
                    *count -= 1;
                    if *count == 0 {
                        tree.remove(&key);
                    }
                }
            }
        }
    }
}
