// SPDX-License-Identifier: GPL-2.0
//! Files in messages.
//!
//! A handle that is queued in a mailbox keeps its object. If that could only be received with the
//! help of what is in the same queue, nobody would ever free either. So a message with a handle is
//! refused where it would close a circle of "is queued in": see [`Edges`]. The same holds for an
//! answer that a handle keeps until it is fetched. What cannot be seen here, a handle in the queue
//! of a socket that is queued here, is bounded by the quota of files.

use crate::{
    chardev,
    compat::eloop,
    handle::{Handle, Shared},
    helpers::{self, c, GFP_MAYFAIL},
    mailbox::Mailbox,
    quota::{FilesCharge, User},
    request::Place,
    uapi,
};
use core::{cell::Cell, mem::size_of, ptr::NonNull};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{aref::ARef, new_mutex, Arc, Mutex},
};

struct Entry {
    file: ARef<File>,
    /// Those of a handle of ours; 0 for another file.
    rights: u32,
}

/// The files of one message.
pub(crate) struct Files {
    entries: KVec<Entry>,
    edges: Option<Edges>,
    /// Guarded by the lock of the mailbox whose sender can withdraw the message.
    charge: Cell<Option<FilesCharge>>,
}

/// Charges the user who uses the handle for so many files.
fn charge(handle: &Handle, count: usize) -> Result<Option<FilesCharge>> {
    let mut charge = None;
    handle.with_payer(helpers::euid(), |payer| {
        charge = Some(payer.charge_files(count)?);
        Ok(())
    })?;
    Ok(charge)
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
                    Err(_) => chardev::new_file(Handle::new(sent.shared.clone(), sent.scope)?)?,
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
        Ok(Some(Self {
            entries,
            edges,
            charge: Cell::new(charge),
        }))
    }

    /// Charges another user for them: see [`FilesCharge::passed_on`]. Returns what was charged
    /// before, to be dropped without a lock.
    pub(crate) fn pass_on(&self, user: &Arc<User>, forced: bool) -> Result<Option<FilesCharge>> {
        let Some(charge) = self.charge.take() else {
            return Ok(None);
        };
        let passed = charge.passed_on(user, forced);
        let (kept, old) = match passed {
            Ok(passed) => (passed, Ok(Some(charge))),
            Err(error) => (charge, Err(error)),
        };
        self.charge.set(Some(kept));
        old
    }

    /// They stay with a handle until they are fetched, at the cost of who uses it.
    pub(crate) fn keep(&mut self, handle: &Handle) -> Result {
        self.charge.set(None);
        self.edges = None;
        self.charge.set(charge(handle, self.len())?);
        let reached = reached(&self.entries)?;
        self.edges = Edges::new(&handle.shared, address_of_handle(handle), reached)?;
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Gives the current task a descriptor of each, and writes them to an array that has room for
    /// them. They are closed again unless the result is kept.
    pub(crate) fn install(&self, array: u64) -> Result<Installed> {
        let fds = KVec::with_capacity(self.len(), GFP_MAYFAIL)?;
        let mut installed = Installed(Some(fds));
        for (i, entry) in self.entries.iter().enumerate() {
            let place = entry_place(array, i as u32)?;
            // SAFETY: The file is valid. Security modules are asked.
            let fd = unsafe {
                bindings::receive_fd(
                    entry.file.as_ptr(),
                    core::ptr::null_mut(),
                    bindings::O_CLOEXEC,
                )
            };
            kernel::error::to_result(fd)?;
            if let Some(fds) = &mut installed.0 {
                fds.push(fd as u32, GFP_MAYFAIL)?;
            }
            place.write_file(&uapi::postbox_fd {
                fd,
                rights: entry.rights,
            })?;
        }
        Ok(installed)
    }
}

/// Descriptors that the current task got.
pub(crate) struct Installed(Option<KVec<u32>>);

impl Installed {
    pub(crate) const NONE: Self = Self(None);

    /// The message is received, and they stay.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for fd in self.0.iter().flatten() {
            // SAFETY: It closes a descriptor of the current task, which got it just now.
            unsafe { bindings::close_fd(*fd) };
        }
    }
}

fn entry_place(array: u64, index: u32) -> Result<Place> {
    Place::of_entry(array, index, size_of::<uapi::postbox_fd>())
}

/// The file of a descriptor of the current task.
pub(crate) fn get(fd: i32) -> Result<ARef<File>> {
    let mut refused = false;
    // SAFETY: `refused` is valid. The file cannot have been got by fdget_pos() for this call: an
    // ioctl has no position.
    let file = unsafe { c::postbox_file_get(fd as u32, &mut refused) };
    let file = NonNull::new(file).ok_or(EBADF)?;
    // SAFETY: The reference was taken just now.
    let file: ARef<File> = unsafe { ARef::from_raw(file.cast()) };
    if refused {
        return Err(EINVAL);
    }
    Ok(file)
}

/// What stands for a mailbox as long as it exists.
pub(crate) fn address(mailbox: &Mailbox) -> usize {
    core::ptr::from_ref(mailbox) as usize
}

/// The same for a handle.
fn address_of_handle(handle: &Handle) -> usize {
    core::ptr::from_ref(handle) as usize
}

/// How many nodes are looked at for a circle. More than that is refused like one.
const REACH_MAX: usize = 8192;

/// Which mailboxes have handles queued, and which handles keep answers with them, that lead where.
#[pin_data]
pub(crate) struct Graph {
    #[pin]
    edges: Mutex<RBTree<(usize, usize), usize>>,
}

impl Graph {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            edges <- new_mutex!(RBTree::new()),
        })
    }
}

/// The part of the graph that stands for what one message carries.
pub(crate) struct Edges {
    shared: Arc<Shared>,
    queue: usize,
    reached: KVec<usize>,
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
        let mut nodes = KVec::with_capacity(reached.len(), GFP_MAYFAIL)?;
        for mailbox in &reached {
            nodes.push(
                RBTreeNode::new((queue, *mailbox), 1, GFP_MAYFAIL)?,
                GFP_MAYFAIL,
            )?;
        }
        let mut edges = shared.graph.edges.lock();
        let mut seen = KVec::new();
        for mailbox in &reached {
            seen.push(*mailbox, GFP_MAYFAIL)?;
        }
        let mut next = 0;
        while let Some(mailbox) = seen.get(next).copied() {
            if mailbox == queue || seen.len() > REACH_MAX {
                return Err(eloop());
            }
            next += 1;
            let mut cursor = edges.cursor_lower_bound_mut(&(mailbox, 0));
            while let Some(at) = cursor {
                let (&(from, to), _) = at.current();
                if from != mailbox {
                    break;
                }
                if !seen.contains(&to) {
                    seen.push(to, GFP_MAYFAIL)?;
                }
                cursor = at.move_next();
            }
        }
        for (mailbox, node) in reached.iter().zip(nodes) {
            match edges.get_mut(&(queue, *mailbox)) {
                Some(count) => *count += 1,
                None => {
                    edges.insert(node);
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
        for mailbox in &self.reached {
            let key = (self.queue, *mailbox);
            if let Some(count) = edges.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    edges.remove(&key);
                }
            }
        }
    }
}
