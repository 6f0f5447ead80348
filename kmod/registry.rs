// SPDX-License-Identifier: GPL-2.0
//! Objects and their names: who made them, who may open them, how long they live.
//!
//! An object lives as long as a handle to it is open and, if it is persistent, as long as it has a
//! name. Looking a name up and making the object, and closing the last handle and taking the name
//! away, are one step each under one lock, so that nobody sees a half-made or dying object. The
//! lock is taken at open and close, never to send or receive.
//!
//! Names are scoped to the IPC namespace by its number, which is never used again: what is left of
//! a namespace that is gone cannot turn up in another.

use crate::{
    compat::{edquot, enametoolong},
    helpers::{self, limits, Owner},
    mailbox::Mailbox,
    queue::Capacity,
    quota::{ObjectCharge, Pinned},
    uapi,
};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{new_mutex, Arc, Mutex},
};

const NAME_MAX: usize = uapi::POSTBOX_NAME_MAX as usize;

/// The name of an object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    bytes: [u8; NAME_MAX],
    len: usize,
}

impl Name {
    /// Checks that it is made of `[A-Za-z0-9._-]`, in parts that '/' separates.
    pub(crate) fn new(name: &[u8]) -> Result<Self> {
        let mut bytes = [0; NAME_MAX];
        bytes
            .get_mut(..name.len())
            .ok_or_else(enametoolong)?
            .copy_from_slice(name);
        let good = |part: &[u8]| {
            !matches!(part, b"" | b"." | b"..")
                && part
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !name.split(|b| *b == b'/').all(good) {
            return Err(EINVAL);
        }
        Ok(Self {
            bytes,
            len: name.len(),
        })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// What an object is made with.
pub(crate) struct Attributes {
    pub(crate) capacity: Capacity,
    pub(crate) message_max: u64,
    pub(crate) mode: u32,
    pub(crate) persistent: bool,
}

/// Changes to an object's attributes.
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

struct Object {
    mailbox: Arc<Mailbox>,
    ipc_ns: u64,
    name: Option<Name>,
    owner: Owner,
    persistent: bool,
    handles: u32,
    message_max: u64,
    _charge: ObjectCharge,
}

impl Object {
    fn lives(&self) -> bool {
        self.handles > 0 || (self.persistent && self.name.is_some())
    }

    fn info(&self, id: u64, rights: u32) -> uapi::postbox_info {
        let look = self.mailbox.look();
        let mut info = uapi::postbox_info {
            size: core::mem::size_of::<uapi::postbox_info>() as u32,
            kind: uapi::POSTBOX_KIND_MAILBOX,
            id,
            flags: if self.persistent {
                uapi::POSTBOX_INFO_PERSIST
            } else {
                0
            },
            mode: self.owner.mode,
            uid: helpers::see_uid(self.owner.uid),
            gid: self.owner.see_gid(),
            capacity: look.capacity.messages,
            capacity_bytes: look.capacity.bytes,
            message_max: self.message_max,
            messages: look.queued.0,
            bytes: look.queued.1,
            unacknowledged: look.leased,
            reserved_messages: look.reserved,
            senders: look.senders,
            receivers: look.receivers,
            waiting_senders: look.waiting_senders as u32,
            waiting_receivers: look.waiting_receivers as u32,
            sent: look.counters.sent,
            received: look.counters.received,
            redelivered: look.counters.redelivered,
            full: look.counters.full,
            high_messages: look.counters.high_messages,
            high_bytes: look.counters.high_bytes,
            rights,
            name_len: 0,
            name: [0; 64],
        };
        if let Some(name) = &self.name {
            info.name_len = name.len as u32;
            for (to, from) in info.name.iter_mut().zip(name.bytes()) {
                *to = *from as core::ffi::c_char;
            }
        }
        info
    }
}

struct Inner {
    objects: RBTree<u64, Object>,
    names: RBTree<(u64, Name), u64>,
    next_id: u64,
}

impl Inner {
    /// Takes an object out if nothing keeps it. It is to be dropped after the lock.
    fn reap(&mut self, id: u64) -> Option<RBTreeNode<u64, Object>> {
        let object = self.objects.get(&id)?;
        if object.lives() {
            return None;
        }
        if let Some(name) = object.name {
            let key = (object.ipc_ns, name);
            self.names.remove(&key);
        }
        self.objects.remove_node(&id)
    }

    fn open(&mut self, ipc_ns: u64, name: &Name, rights: u32) -> Result<Opened> {
        let id = *self.names.get(&(ipc_ns, *name)).ok_or(ENOENT)?;
        let object = self.objects.get_mut(&id).ok_or(ENOENT)?;
        let mut want = 0;
        if rights & uapi::POSTBOX_RIGHT_SEND != 0 {
            want |= 2;
        }
        if rights & uapi::POSTBOX_RIGHT_RECEIVE != 0 {
            want |= 4;
        }
        if !object.owner.permits(ipc_ns, want) {
            return Err(EACCES);
        }
        if rights & uapi::POSTBOX_RIGHT_ADMIN != 0 && !object.owner.owned(ipc_ns) {
            return Err(EPERM);
        }
        object.handles = object.handles.checked_add(1).ok_or_else(edquot)?;
        Ok(Opened {
            id,
            mailbox: object.mailbox.clone(),
            created: false,
        })
    }
}

/// All objects.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    inner: Mutex<Inner>,
}

/// An object that was opened. It is to be closed once.
pub(crate) struct Opened {
    pub(crate) id: u64,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) created: bool,
}

impl Registry {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_mutex!(Inner {
                objects: RBTree::new(),
                names: RBTree::new(),
                next_id: 1,
            }),
        })
    }

    /// Opens the object of a name, with `rights`.
    pub(crate) fn open(&self, ipc_ns: u64, name: &Name, rights: u32) -> Result<Opened> {
        self.inner.lock().open(ipc_ns, name, rights)
    }

    /// Makes an object; `exclusive` is false where one of that name may be opened instead.
    pub(crate) fn create(
        &self,
        ipc_ns: u64,
        name: Option<Name>,
        exclusive: bool,
        rights: u32,
        attributes: &Attributes,
        user: &Pinned,
    ) -> Result<Opened> {
        let mut inner = self.inner.lock();
        if let Some(name) = name.filter(|name| inner.names.get(&(ipc_ns, *name)).is_some()) {
            if exclusive {
                return Err(EEXIST);
            }
            return inner.open(ipc_ns, &name, rights);
        }
        let charge = user.charge_object()?;
        let message_max = match attributes.message_max {
            0 => limits::message(),
            max => max,
        };
        let mailbox = Arc::pin_init(
            Mailbox::new(attributes.capacity, message_max, attributes.persistent),
            GFP_KERNEL_ACCOUNT,
        )?;
        let id = inner.next_id;
        let object = Object {
            mailbox: mailbox.clone(),
            ipc_ns,
            name,
            owner: Owner::current(attributes.mode),
            persistent: attributes.persistent,
            handles: 1,
            message_max,
            _charge: charge,
        };
        let object = RBTreeNode::new(id, object, GFP_KERNEL_ACCOUNT)?;
        if let Some(name) = name {
            let name = RBTreeNode::new((ipc_ns, name), id, GFP_KERNEL_ACCOUNT)?;
            inner.names.insert(name);
        }
        inner.objects.insert(object);
        inner.next_id += 1;
        Ok(Opened {
            id,
            mailbox,
            created: true,
        })
    }

    /// Opens an object once more, for another handle.
    pub(crate) fn reopen(&self, id: u64) -> Result {
        let mut inner = self.inner.lock();
        let object = inner.objects.get_mut(&id).ok_or(ENOENT)?;
        object.handles = object.handles.checked_add(1).ok_or_else(edquot)?;
        Ok(())
    }

    /// Undoes one open.
    pub(crate) fn close(&self, id: u64) {
        let mut inner = self.inner.lock();
        if let Some(object) = inner.objects.get_mut(&id) {
            object.handles -= 1;
        }
        let gone = inner.reap(id);
        drop(inner);
        drop(gone);
    }

    /// Takes a name away.
    pub(crate) fn unlink(&self, ipc_ns: u64, name: &Name) -> Result {
        let key = (ipc_ns, *name);
        let mut inner = self.inner.lock();
        let id = *inner.names.get(&key).ok_or(ENOENT)?;
        let object = inner.objects.get_mut(&id).ok_or(ENOENT)?;
        if !object.owner.owned(ipc_ns) {
            return Err(EPERM);
        }
        object.name = None;
        let name = inner.names.remove_node(&key);
        let gone = inner.reap(id);
        drop(inner);
        drop((name, gone));
        Ok(())
    }

    /// Changes owner, group or mode.
    pub(crate) fn change(&self, id: u64, changes: &Changes) -> Result {
        let mut inner = self.inner.lock();
        let object = inner.objects.get_mut(&id).ok_or(ENOENT)?;
        object
            .owner
            .chown(object.ipc_ns, changes.uid, changes.gid)?;
        if let Some(mode) = changes.mode {
            object.owner.mode = mode;
        }
        Ok(())
    }

    /// What there is to know of an object.
    pub(crate) fn info(&self, id: u64, rights: u32) -> Result<uapi::postbox_info> {
        let inner = self.inner.lock();
        Ok(inner.objects.get(&id).ok_or(ENOENT)?.info(id, rights))
    }

    /// The same of the first object after `after` that has a name in the namespace.
    pub(crate) fn next(&self, ipc_ns: u64, after: u64) -> Option<uapi::postbox_info> {
        let mut inner = self.inner.lock();
        let mut cursor = inner.objects.cursor_lower_bound_mut(&after.checked_add(1)?);
        while let Some(at) = cursor {
            let (id, object) = at.current();
            if object.ipc_ns == ipc_ns && object.name.is_some() {
                return Some(object.info(*id, 0));
            }
            cursor = at.move_next();
        }
        None
    }

    /// Calls `each` for every object, named or not, of every namespace, with the namespace.
    pub(crate) fn for_each<E>(
        &self,
        mut each: impl FnMut(&uapi::postbox_info, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let inner = self.inner.lock();
        for (id, object) in inner.objects.iter() {
            each(&object.info(*id, 0), object.ipc_ns)?;
        }
        Ok(())
    }
}
