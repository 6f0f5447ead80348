// SPDX-License-Identifier: GPL-2.0
//! Objects and their names: who made them, who may open them, how long they live.
//!
//! What objects are found by is a name, the number of a port, or a process: its key. An object lives
//! as long as a handle to it is open and, if it is persistent, as long as it has a name. The key of
//! a listener that is not persistent goes with the last handle that accepts, whoever else has it
//! open. Finding a key and opening its object, and closing the last handle and taking the key away,
//! are one step each under one lock, so that nobody sees a dying object. The lock is taken at open
//! and close, never to send or receive. Under it nothing is made, and nothing is walked through:
//! each hold takes a time that does not depend on how many objects there are, but for the depth of
//! the trees.
//!
//! Names are scoped to the IPC namespace by its number, which is never used again: what is left of
//! a namespace that is gone cannot turn up in another. What is persistent in a namespace goes with
//! it: see [`Registry::sweep`].

use crate::{
    compat::{eaddrinuse, edquot, enametoolong, eopnotsupp},
    grant::{Granted, Grantee, Grants, NewGrant},
    helpers::{self, c, Identity, IpcNs, Owner, GFP_MAYFAIL},
    object::Object,
    quota::{ObjectCharge, Pinned},
    uapi,
    watch::{Target, Watch},
};
use kernel::{
    error::to_result,
    ffi::c_void,
    prelude::*,
    rbtree::{RBTree, RBTreeNode, RBTreeNodeReservation},
    sync::{new_mutex, Mutex},
};

const NAME_MAX: usize = uapi::POSTBOX_NAME_MAX as usize;
const SEND: u32 = uapi::POSTBOX_RIGHT_SEND;
const RECEIVE: u32 = uapi::POSTBOX_RIGHT_RECEIVE;

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

/// What an object is found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Name(Name),
    Port(u16),
    /// The process that stands for it in [`Identity::process`], and its effective user: a process that
    /// has become another user is not found by what it was.
    Process(u64, u32),
}

/// What an object is made with.
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) persistent: bool,
}

/// Changes to an object's attributes.
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

/// An object of the registry.
struct Entry {
    object: Object,
    ipc_ns: u64,
    key: Option<Key>,
    owner: Owner,
    grants: Grants,
    /// Who made it, where it is found by its process.
    maker: Option<Identity>,
    /// Closes it when that process exits, whoever has handles.
    _watch: Option<Pin<KBox<Watch>>>,
    persistent: bool,
    /// Handles, of a link's two ends apart; of others, the first counts.
    handles: [u32; 2],
    /// Handles that may send, and that may receive.
    sides: [u32; 2],
    /// It had a key, and nobody can find it any more.
    orphaned: bool,
    /// Somebody has joined a link by its port.
    joined: bool,
    _charge: ObjectCharge,
}

impl Entry {
    fn lives(&self) -> bool {
        self.handles != [0, 0] || (self.persistent && self.key.is_some())
    }

    /// The grant by which the current task does what `bits` of the mode stand for, where the mode alone
    /// does not let it.
    fn granted(&self, bits: u32) -> Option<Granted> {
        let mut rights = 0;
        for (bit, right) in [(2, SEND), (4, RECEIVE)] {
            if bits & bit != 0 && !self.owner.permits(self.ipc_ns, bit) {
                rights |= right;
            }
        }
        self.grants.permit(rights)
    }

    /// Fails unless the current task owns it now: a handle may have been passed on, and the owner may
    /// have changed.
    fn own(&self) -> Result {
        match self.owner.owned(self.ipc_ns) {
            true => Ok(()),
            false => Err(EPERM),
        }
    }

    /// Counts a handle with these rights at an end.
    fn count(&mut self, end: usize, rights: u32) -> Result {
        let handles = self.handles.get_mut(end).ok_or(EINVAL)?;
        *handles = handles.checked_add(1).ok_or_else(edquot)?;
        for (side, right) in self.sides.iter_mut().zip([SEND, RECEIVE]) {
            // There are at most as many of these as handles.
            *side = side.saturating_add(u32::from(rights & right != 0));
        }
        Ok(())
    }

    /// Undoes that. Returns whether what the key stands for is gone: an end of a link, or the last
    /// handle that accepts.
    fn discount(&mut self, end: usize, rights: u32) -> bool {
        let Some(handles) = self.handles.get_mut(end) else {
            return false;
        };
        *handles = handles.saturating_sub(1);
        let left = *handles;
        for (side, right) in self.sides.iter_mut().zip([SEND, RECEIVE]) {
            *side = side.saturating_sub(u32::from(rights & right != 0));
        }
        match &self.object {
            Object::Link(_) => left == 0,
            Object::Listener(_) => rights & RECEIVE != 0 && !self.accepts() && !self.persistent,
            _ => false,
        }
    }

    /// Whether there is a handle that receives, or accepts connections.
    fn accepts(&self) -> bool {
        self.sides[1] != 0
    }

    /// What has to be told to an object that nobody can find any more.
    fn orphan(&self) -> Option<Orphan> {
        self.orphaned.then(|| Orphan {
            object: self.object.clone(),
            sends: self.sides[0] != 0,
            receives: self.accepts(),
            joined: self.joined,
        })
    }

    fn info(&self, id: u64, end: usize, rights: u32) -> uapi::postbox_info {
        let mut info = uapi::postbox_info {
            size: core::mem::size_of::<uapi::postbox_info>() as u32,
            kind: self.object.kind().0,
            id,
            flags: if self.persistent {
                uapi::POSTBOX_INFO_PERSIST
            } else {
                0
            },
            mode: self.owner.mode,
            uid: helpers::see_uid(self.owner.uid),
            gid: self.owner.see_gid(),
            rights,
            ..Default::default()
        };
        self.object.describe(end, &mut info);
        match &self.key {
            Some(Key::Name(name)) => {
                info.name_len = name.len as u32;
                for (to, from) in info.name.iter_mut().zip(name.bytes()) {
                    *to = *from as core::ffi::c_char;
                }
            }
            Some(Key::Port(port)) => info.number = (*port).into(),
            Some(Key::Process(..)) => {
                info.number = self.maker.as_ref().map_or(0, |maker| maker.see().pid);
            }
            None => {}
        }
        info
    }
}

/// An object that nobody can find any more, and which of its sides have handles. Handles get no rights
/// that they did not have: nobody comes to a side that has none. To be dropped after the lock.
struct Orphan {
    object: Object,
    sends: bool,
    receives: bool,
    joined: bool,
}

impl Drop for Orphan {
    fn drop(&mut self) {
        self.object.orphan(self.sends, self.receives, self.joined);
    }
}

/// What is left of an object or of its key, to be dropped after the lock.
#[derive(Default)]
struct Removed {
    orphan: Option<Orphan>,
    object: Option<RBTreeNode<u64, Entry>>,
    key: Option<RBTreeNode<(u64, Key), u64>>,
    listed: Option<RBTreeNode<(u64, u64), ()>>,
    space: Option<RBTreeNode<u64, Space>>,
}

/// An IPC namespace, not the initial one, with persistent objects.
struct Space {
    ns: IpcNs,
    /// How many of them have a name.
    persistent: u64,
}

struct Inner {
    objects: RBTree<u64, Entry>,
    keys: RBTree<(u64, Key), u64>,
    /// What has a key, by its IPC namespace and number.
    listed: RBTree<(u64, u64), ()>,
    spaces: RBTree<u64, Space>,
    next_id: u64,
}

impl Inner {
    /// Takes the key of an object away.
    fn take_key(&mut self, id: u64, removed: &mut Removed) {
        let Some(entry) = self.objects.get_mut(&id) else {
            return;
        };
        if let Some(key) = entry.key.take() {
            entry.orphaned = true;
            removed.orphan = entry.orphan();
            let (ipc_ns, persistent) = (entry.ipc_ns, entry.persistent);
            removed.key = self.keys.remove_node(&(ipc_ns, key));
            removed.listed = self.listed.remove_node(&(ipc_ns, id));
            if persistent {
                self.discount_persistent(ipc_ns, removed);
            }
        }
    }

    /// Notes that a namespace has one persistent object less.
    fn discount_persistent(&mut self, ipc_ns: u64, removed: &mut Removed) {
        if let Some(space) = self.spaces.get_mut(&ipc_ns) {
            space.persistent = space.persistent.saturating_sub(1);
            if space.persistent == 0 {
                removed.space = self.spaces.remove_node(&ipc_ns);
            }
        }
    }

    /// Notes that a namespace gets a persistent object.
    fn count_persistent(
        &mut self,
        ipc_ns: u64,
        ns: IpcNs,
        node: RBTreeNodeReservation<u64, Space>,
    ) {
        match self.spaces.get_mut(&ipc_ns) {
            Some(space) => space.persistent += 1,
            None => {
                let space = Space { ns, persistent: 1 };
                self.spaces.insert(node.into_node(ipc_ns, space));
            }
        }
    }

    /// Takes an object out if nothing keeps it.
    fn reap(&mut self, id: u64, removed: &mut Removed) {
        if self.objects.get(&id).is_some_and(|entry| !entry.lives()) {
            self.take_key(id, removed);
            removed.object = self.objects.remove_node(&id);
        }
    }

    /// Finds the object that is wanted, if the current task may open it.
    fn find(&mut self, want: &Want) -> Result<(u64, &mut Entry, Option<Granted>)> {
        let (ipc_ns, key) = (want.ipc_ns, want.key.ok_or(ENOENT)?);
        let id = *self.keys.get(&(ipc_ns, key)).ok_or(ENOENT)?;
        let entry = self.objects.get_mut(&id).ok_or(ENOENT)?;
        if entry.object.kind().0 != want.kind {
            return Err(match key {
                Key::Port(_) => eaddrinuse(),
                _ => eopnotsupp(),
            });
        }
        // Who joins a link does what the directions of its end let it do.
        let rights = match &entry.object {
            Object::Link(link) => link.rights(1),
            _ => want.rights,
        };
        let wants = |right| rights & right != 0;
        let bits = if wants(SEND) { 2 } else { 0 } | if wants(RECEIVE) { 4 } else { 0 };
        let granted = match entry.owner.permits(ipc_ns, bits) {
            true => None,
            false => Some(entry.granted(bits).ok_or(EACCES)?),
        };
        if want.rights & uapi::POSTBOX_RIGHT_ADMIN != 0 && !entry.owner.owned(ipc_ns) {
            return Err(EPERM);
        }
        Ok((id, entry, granted))
    }

    fn open(&mut self, want: &Want) -> Result<Opened> {
        let (id, entry, granted) = self.find(want)?;
        let joins = matches!(entry.object, Object::Link(_));
        let end = usize::from(joins);
        if joins && entry.joined {
            return Err(eaddrinuse());
        }
        entry.count(end, want.rights)?;
        entry.joined |= joins;
        Ok(Opened {
            id,
            object: entry.object.clone(),
            end,
            created: false,
            granted,
        })
    }

    /// Opens the object that is wanted if there is one of its key.
    fn open_existing(&mut self, want: &Want) -> Result<Option<Opened>> {
        match want.key {
            Some(key) if self.keys.get(&(want.ipc_ns, key)).is_some() => {
                if want.exclusive {
                    return Err(EEXIST);
                }
                self.open(want).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// What whoever opens an object expects of it.
pub(crate) struct Want {
    pub(crate) ipc_ns: u64,
    /// What it is found by; `None` for a new one that is not to be found.
    pub(crate) key: Option<Key>,
    /// The one of that key must not be there yet.
    pub(crate) exclusive: bool,
    pub(crate) kind: u32,
    pub(crate) rights: u32,
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
    pub(crate) object: Object,
    /// Which end, of a link.
    pub(crate) end: usize,
    pub(crate) created: bool,
    /// What lets it be opened where the mode alone does not.
    pub(crate) granted: Option<Granted>,
}

impl Registry {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_mutex!(Inner {
                objects: RBTree::new(),
                keys: RBTree::new(),
                listed: RBTree::new(),
                spaces: RBTree::new(),
                next_id: 1,
            }),
        })
    }

    /// Opens an object that exists.
    pub(crate) fn open(&self, want: &Want) -> Result<Opened> {
        self.inner.lock().open(want)
    }

    /// Returns an object that exists and that the current task may open, without opening it.
    pub(crate) fn find(&self, want: &Want) -> Result<Object> {
        let mut inner = self.inner.lock();
        let (_, entry, _) = inner.find(want)?;
        Ok(entry.object.clone())
    }

    /// Opens an object that exists, or makes it with `make`, which is called without a lock.
    pub(crate) fn create(
        &self,
        want: &Want,
        attributes: &Attributes,
        user: &Pinned,
        make: impl FnOnce() -> Result<Object>,
    ) -> Result<Opened> {
        let (ipc_ns, key) = (want.ipc_ns, want.key);
        if let Some(opened) = self.inner.lock().open_existing(want)? {
            return Ok(opened);
        }
        let charge = user.charge_object()?;
        let object = make()?;
        let watch = match &object {
            Object::Endpoint(mailbox) => {
                let target = Target::Endpoint(mailbox.clone());
                // SAFETY: The target is not a file.
                Some(unsafe { Watch::current(target) }?)
            }
            _ => None,
        };
        let entry = RBTreeNodeReservation::new(GFP_MAYFAIL)?;
        let nodes = match key {
            Some(key) => Some((
                key,
                RBTreeNodeReservation::new(GFP_MAYFAIL)?,
                RBTreeNodeReservation::new(GFP_MAYFAIL)?,
            )),
            None => None,
        };
        // Only who is in the namespace leaves something in it. Of the initial one, which never ends, nothing
        // needs to be noted.
        let space = match attributes.persistent {
            true => IpcNs::current(ipc_ns)?,
            false => None,
        };
        let space = match space {
            Some(ns) => Some((ns, RBTreeNodeReservation::new(GFP_MAYFAIL)?)),
            None => None,
        };
        let noted = space.is_some();
        let mut new = Entry {
            object: object.clone(),
            ipc_ns,
            key,
            owner: Owner::current(attributes.mode),
            grants: Grants::new(),
            maker: matches!(key, Some(Key::Process(..))).then(Identity::current),
            _watch: watch,
            persistent: attributes.persistent,
            handles: [0, 0],
            sides: [0, 0],
            orphaned: false,
            joined: false,
            _charge: charge,
        };
        new.count(0, want.rights)?;
        let mut inner = self.inner.lock();
        // Another task may have made it meanwhile. What was made here is dropped after the lock.
        if let Some(opened) = inner.open_existing(want)? {
            drop(inner);
            return Ok(opened);
        }
        if let Some((ns, node)) = space {
            inner.count_persistent(ipc_ns, ns, node);
        }
        let id = inner.next_id;
        inner.next_id += 1;
        if let Some((key, name, listed)) = nodes {
            inner.keys.insert(name.into_node((ipc_ns, key), id));
            inner.listed.insert(listed.into_node((ipc_ns, id), ()));
        }
        inner.objects.insert(entry.into_node(id, new));
        drop(inner);
        if noted {
            // SAFETY: The registry was given to `postbox_sweep_init` before it had objects.
            unsafe { c::postbox_sweep_soon() };
        }
        Ok(Opened {
            id,
            object,
            end: 0,
            created: true,
            granted: None,
        })
    }

    /// Opens an object once more, for another handle with these rights at one end.
    pub(crate) fn reopen(&self, id: u64, end: usize, rights: u32) -> Result {
        let mut inner = self.inner.lock();
        let entry = inner.objects.get_mut(&id).ok_or(ENOENT)?;
        entry.count(end, rights)
    }

    /// Undoes one open with these rights.
    pub(crate) fn close(&self, id: u64, end: usize, rights: u32) {
        let mut removed = Removed::default();
        let mut link = None;
        let mut inner = self.inner.lock();
        if let Some(entry) = inner.objects.get_mut(&id) {
            if entry.discount(end, rights) {
                if let Object::Link(closed) = &entry.object {
                    link = Some(closed.clone());
                }
                // A port is free again when one of a link's two ends, or its listener, is gone.
                inner.take_key(id, &mut removed);
            } else {
                // The handle may have been counted and not bound.
                removed.orphan = entry.orphan();
            }
        }
        inner.reap(id, &mut removed);
        drop(inner);
        if let Some(link) = link {
            link.close(end);
        }
    }

    /// Makes an object that nobody has seen go with its handle, also where it was to stay.
    fn forget(&self, id: u64) {
        let mut removed = Removed::default();
        let mut inner = self.inner.lock();
        let Some(entry) = inner.objects.get_mut(&id) else {
            return;
        };
        if core::mem::take(&mut entry.persistent) && entry.key.is_some() {
            let ipc_ns = entry.ipc_ns;
            inner.discount_persistent(ipc_ns, &mut removed);
        }
        drop(inner);
    }

    /// Undoes an open that nobody has seen: who failed to join a link has not closed its end.
    pub(crate) fn undo(&self, opened: &Opened, rights: u32) {
        if opened.created {
            self.forget(opened.id);
        }
        if opened.created || opened.end == 0 {
            return self.close(opened.id, opened.end, rights);
        }
        let mut removed = Removed::default();
        let mut inner = self.inner.lock();
        if let Some(entry) = inner.objects.get_mut(&opened.id) {
            entry.joined = false;
            entry.discount(opened.end, rights);
            removed.orphan = entry.orphan();
        }
        inner.reap(opened.id, &mut removed);
        drop(inner);
    }

    /// Forgets all objects, when no handle is left: a connection that waits in a persistent listener
    /// would keep what keeps the listener.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner.lock();
        let objects = core::mem::replace(&mut inner.objects, RBTree::new());
        let keys = core::mem::replace(&mut inner.keys, RBTree::new());
        let listed = core::mem::replace(&mut inner.listed, RBTree::new());
        let spaces = core::mem::replace(&mut inner.spaces, RBTree::new());
        drop(inner);
        drop((objects, keys, listed, spaces));
    }

    /// Takes a name away.
    pub(crate) fn unlink(&self, ipc_ns: u64, name: &Name) -> Result {
        let key = (ipc_ns, Key::Name(*name));
        let mut removed = Removed::default();
        let mut inner = self.inner.lock();
        let id = *inner.keys.get(&key).ok_or(ENOENT)?;
        let entry = inner.objects.get_mut(&id).ok_or(ENOENT)?;
        if !entry.owner.owned(ipc_ns) {
            return Err(EPERM);
        }
        inner.take_key(id, &mut removed);
        inner.reap(id, &mut removed);
        drop(inner);
        Ok(())
    }

    /// Takes the name, or whatever it is found by, of the object of this number away. Who does not
    /// administer the system must own it, and use a handle of its namespace.
    pub(crate) fn unlink_id(&self, ipc_ns: u64, id: u64) -> Result {
        match self.take_id(ipc_ns, id, false) {
            // Privilege that is asked for is noted as used: only where it is needed.
            Err(error) if [ENOENT, EPERM].contains(&error) && helpers::admin() => {
                self.take_id(ipc_ns, id, true)
            }
            taken => taken,
        }
    }

    fn take_id(&self, ipc_ns: u64, id: u64, admin: bool) -> Result {
        let mut removed = Removed::default();
        let mut inner = self.inner.lock();
        let entry = inner.objects.get(&id).ok_or(ENOENT)?;
        if !admin && entry.ipc_ns != ipc_ns {
            return Err(ENOENT);
        }
        entry.key.ok_or(ENOENT)?;
        if !admin && !entry.owner.owned(ipc_ns) {
            return Err(EPERM);
        }
        inner.take_key(id, &mut removed);
        inner.reap(id, &mut removed);
        drop(inner);
        Ok(())
    }

    /// Takes away what is persistent in IPC namespaces that have ended. Returns whether there is
    /// something persistent in others than the initial one.
    ///
    /// The kernel tells nobody of a namespace's end. It is looked for every second while there is
    /// something that can be left behind, and before a quota refuses an object or all are listed.
    /// What comes while it looks is left to the next time.
    pub(crate) fn sweep(&self) -> bool {
        let mut from = 0;
        let end = self.inner.lock().next_id;
        loop {
            let mut removed = Removed::default();
            let mut inner = self.inner.lock();
            let next = inner.spaces.cursor_lower_bound(&from);
            let Some(cursor) = next.filter(|_| !helpers::dying()) else {
                return inner.spaces.iter().next().is_some();
            };
            let (&ipc_ns, space) = cursor.current();
            if !space.ns.ended() {
                from = ipc_ns + 1;
                continue;
            }
            // One object for each hold of the lock.
            let first = inner.listed.cursor_lower_bound(&(ipc_ns, 0));
            match first.map(|cursor| *cursor.current().0) {
                Some((at, id)) if at == ipc_ns && id < end => {
                    inner.take_key(id, &mut removed);
                    inner.reap(id, &mut removed);
                }
                Some((at, _)) if at == ipc_ns => from = ipc_ns + 1,
                _ => removed.space = inner.spaces.remove_node(&ipc_ns),
            }
            drop(inner);
        }
    }

    /// Frees the spare memory of all mailboxes that there are when it begins. Each is looked up
    /// under the lock, and freed without it.
    fn trim(&self) {
        let (mut after, last) = (0, self.last());
        while after < last {
            let object = {
                let inner = self.inner.lock();
                let Some(cursor) = inner.objects.cursor_lower_bound(&(after + 1)) else {
                    return;
                };
                let (id, entry) = cursor.current();
                after = *id;
                entry.object.clone()
            };
            let (one, other) = object.mailboxes(0);
            for mailbox in [one, other].into_iter().flatten() {
                mailbox.free_spares();
            }
        }
    }

    /// Changes owner, group or mode.
    pub(crate) fn change(&self, id: u64, changes: &Changes) -> Result {
        let mut inner = self.inner.lock();
        let entry = inner.objects.get_mut(&id).ok_or(ENOENT)?;
        entry.own()?;
        entry.owner.chown(entry.ipc_ns, changes.uid, changes.gid)?;
        if let Some(mode) = changes.mode {
            entry.owner.mode = mode;
        }
        Ok(())
    }

    /// Lets somebody else open an object.
    pub(crate) fn grant(&self, id: u64, to: Grantee, rights: u32) -> Result {
        let mut new = NewGrant::new(to, rights)?;
        let mut inner = self.inner.lock();
        let entry = inner.objects.get_mut(&id).ok_or(ENOENT)?;
        entry.own()?;
        entry.key.ok_or(ENOENT)?;
        entry.grants.grant(&mut new)
    }

    /// Takes that back.
    pub(crate) fn revoke(&self, id: u64, from: &Grantee) -> Result {
        let mut inner = self.inner.lock();
        let entry = inner.objects.get_mut(&id).ok_or(ENOENT)?;
        entry.own()?;
        entry.grants.revoke(from)
    }

    /// What there is to know of an object.
    pub(crate) fn info(&self, id: u64, end: usize, rights: u32) -> Result<uapi::postbox_info> {
        let inner = self.inner.lock();
        Ok(inner.objects.get(&id).ok_or(ENOENT)?.info(id, end, rights))
    }

    /// The number of the object that was made last: a listing that goes no further has an end,
    /// whatever is made meanwhile.
    pub(crate) fn last(&self) -> u64 {
        self.inner.lock().next_id - 1
    }

    /// The same of the object that a key finds.
    pub(crate) fn named(&self, ipc_ns: u64, key: Key) -> Result<uapi::postbox_info> {
        let inner = self.inner.lock();
        let id = *inner.keys.get(&(ipc_ns, key)).ok_or(ENOENT)?;
        Ok(inner.objects.get(&id).ok_or(ENOENT)?.info(id, 0, 0))
    }

    /// The same of the first object after `after` that can be found in the namespace.
    pub(crate) fn next(&self, ipc_ns: u64, after: u64) -> Option<uapi::postbox_info> {
        let from = (ipc_ns, after.checked_add(1)?);
        let inner = self.inner.lock();
        let cursor = inner.listed.cursor_lower_bound(&from)?;
        let (&(at, id), ()) = cursor.current();
        if at != ipc_ns {
            return None;
        }
        Some(inner.objects.get(&id)?.info(id, 0, 0))
    }

    /// The same of the first object after `after`, named or not, of whatever namespace; with the
    /// name of its kind and its namespace.
    pub(crate) fn next_of_all(
        &self,
        after: u64,
    ) -> Option<(uapi::postbox_info, &'static str, u64)> {
        let from = after.checked_add(1)?;
        let inner = self.inner.lock();
        let cursor = inner.objects.cursor_lower_bound(&from)?;
        let (id, entry) = cursor.current();
        Some((entry.info(*id, 0, 0), entry.object.kind().1, entry.ipc_ns))
    }
}

/// The shrinker that has spare memory freed when memory is short.
pub(crate) struct Shrinker(());

impl Shrinker {
    /// Registers it. The registry must have been given to `postbox_sweep_init`.
    ///
    /// # Safety
    ///
    /// There is no other one, and that registry outlives it.
    pub(crate) unsafe fn new() -> Result<Self> {
        // SAFETY: The caller guarantees that it is not registered yet.
        to_result(unsafe { c::postbox_trim_init() })?;
        Ok(Self(()))
    }
}

impl Drop for Shrinker {
    fn drop(&mut self) {
        // SAFETY: `new` has registered it.
        unsafe { c::postbox_trim_stop() };
    }
}

/// Frees the spare memory of all mailboxes, as [`Registry::trim`].
///
/// # Safety
///
/// `registry` is that of `postbox_sweep_init`, and a [`Shrinker`] is registered.
#[no_mangle]
unsafe extern "C" fn postbox_trim(registry: *const c_void) {
    // SAFETY: The registry outlives the shrinker, which waits for this call when it is dropped.
    unsafe { (*registry.cast::<Registry>()).trim() }
}

/// Sweeps the registry, as [`Registry::sweep`].
///
/// # Safety
///
/// `registry` is that of `postbox_sweep_init`, before `postbox_sweep_stop`.
#[no_mangle]
unsafe extern "C" fn postbox_sweep(registry: *const c_void) -> bool {
    // SAFETY: The device keeps it until it has stopped the sweeping.
    unsafe { (*registry.cast::<Registry>()).sweep() }
}
