// SPDX-License-Identifier: GPL-2.0
//! What each user has in use: messages, bytes and objects.
//!
//! Whoever sends pays, until the message is received for good. The limits are module parameters,
//! the same for every user; users are told apart by the kernel's own ids, so that one user has one
//! account in whatever user namespace it acts. The memory itself is charged to the memory cgroup
//! of the sender, by the allocations.

use crate::{
    compat::edquot,
    helpers::{self, limits, GFP_MAYFAIL},
};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        new_mutex, Arc, Mutex,
    },
};

/// Numbers of things, and of their bytes, in one word: what is charged together is one operation.
/// The upper bits count things, the lower [`BYTES`] bits their bytes; the limits stay so far below
/// what these can hold that who is about to be refused cannot overflow them either.
struct Account(Atomic<i64>);

const BYTES: u32 = 40;
const MAX_BYTES: u64 = 1 << (BYTES - 1);
const MAX_THINGS: u64 = 1 << (63 - BYTES);
/// The most that is charged at once.
const MAX_CHARGE: u64 = 1 << 30;
const PAGE: u64 = kernel::page::PAGE_SIZE as u64;

impl Account {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// What one thing of so many bytes adds.
    fn amount(bytes: u64) -> i64 {
        (1 << BYTES) | bytes as i64
    }

    /// Charges for one thing of `bytes` bytes, which are at most [`MAX_CHARGE`].
    #[inline(always)]
    fn charge(&self, bytes: u64, things_max: u64, bytes_max: u64) -> Result {
        let before = self.0.fetch_add(Self::amount(bytes), Relaxed) as u64;
        let (things, used) = (before >> BYTES, before & ((1 << BYTES) - 1));
        if things >= things_max.min(MAX_THINGS) || used + bytes > bytes_max.min(MAX_BYTES) {
            self.uncharge(bytes);
            return Err(edquot());
        }
        Ok(())
    }

    #[inline]
    fn uncharge(&self, bytes: u64) {
        self.0.fetch_sub(Self::amount(bytes), Relaxed);
    }

    /// Things, and their bytes.
    fn get(&self) -> (u64, u64) {
        let now = self.0.load(Relaxed) as u64;
        (now >> BYTES, now & ((1 << BYTES) - 1))
    }
}

/// A user.
pub(crate) struct User {
    /// As the kernel keeps it.
    pub(crate) uid: u32,
    /// Handles, and other reasons to stay in the table. Only incremented under its lock.
    pins: Atomic<i64>,
    messages: Account,
    objects: Account,
    /// Files in messages, counted as bytes.
    files: Account,
    /// Memory of pipes and rings.
    pipes: Account,
    /// Pages of shared memory, counted as bytes.
    shared: Account,
}

/// What a user has in use, and may.
pub(crate) struct Usage {
    pub(crate) messages: (u64, u64),
    pub(crate) bytes: (u64, u64),
    pub(crate) objects: (u64, u64),
    pub(crate) files: (u64, u64),
    pub(crate) shared: (u64, u64),
}

impl User {
    fn idle(&self) -> bool {
        self.pins.load(Relaxed) == 0
            && self.messages.get() == (0, 0)
            && self.objects.get() == (0, 0)
            && self.files.get() == (0, 0)
            && self.pipes.get() == (0, 0)
            && self.shared.get() == (0, 0)
    }

    pub(crate) fn usage(&self) -> Usage {
        let (messages, bytes) = self.messages.get();
        Usage {
            messages: (messages, limits::user_messages().min(MAX_THINGS)),
            bytes: (bytes, limits::user_bytes().min(MAX_BYTES)),
            objects: (self.objects.get().0, limits::user_objects().min(MAX_THINGS)),
            files: (self.files.get().1, limits::user_files().min(MAX_BYTES)),
            shared: (self.shared.get().1 * PAGE, limits::user_shared()),
        }
    }
}

/// All users that have something in use.
#[pin_data]
pub(crate) struct Users {
    #[pin]
    users: Mutex<RBTree<u32, Arc<User>>>,
}

impl Users {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            users <- new_mutex!(RBTree::new()),
        })
    }

    /// The current task's effective user, kept in the table by the pin.
    pub(crate) fn current(&self) -> Result<Pinned> {
        let uid = helpers::euid();
        let mut users = self.users.lock();
        if users.get(&uid).is_none() {
            // Nobody but who holds this lock makes a user that is idle anything else.
            let mut cursor = users.cursor_front_mut();
            while let Some(at) = cursor {
                cursor = if at.current().1.idle() {
                    at.remove_current().0
                } else {
                    at.move_next()
                };
            }
            let user = Arc::new(
                User {
                    uid,
                    pins: Atomic::new(0),
                    messages: Account::new(),
                    objects: Account::new(),
                    files: Account::new(),
                    pipes: Account::new(),
                    shared: Account::new(),
                },
                GFP_MAYFAIL,
            )?;
            users.insert(RBTreeNode::new(uid, user, GFP_MAYFAIL)?);
        }
        let user = users.get(&uid).ok_or(ENOMEM)?.clone();
        user.pins.fetch_add(1, Relaxed);
        Ok(Pinned(user))
    }
}

/// A user that stays in the table.
pub(crate) struct Pinned(Arc<User>);

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Relaxed);
    }
}

impl core::ops::Deref for Pinned {
    type Target = User;

    fn deref(&self) -> &User {
        &self.0
    }
}

impl Pinned {
    /// Charges an object.
    pub(crate) fn charge_object(&self) -> Result<ObjectCharge> {
        self.objects.charge(0, limits::user_objects(), 0)?;
        Ok(ObjectCharge(self.0.clone()))
    }

    /// Charges the memory of a pipe or a ring, which is as many bytes as a user's messages may have, apart
    /// from those.
    pub(crate) fn charge_pipe(&self, bytes: u64) -> Result<PipeCharge> {
        self.pipes.charge(bytes, MAX_THINGS, limits::user_bytes())?;
        Ok(PipeCharge(self.0.clone(), bytes))
    }

    /// Charges shared memory, whole pages of it, for as long as it is there.
    pub(crate) fn charge_shared(&self, bytes: u64) -> Result<SharedCharge> {
        let pages = bytes.div_ceil(PAGE);
        if pages > MAX_CHARGE {
            return Err(edquot());
        }
        let max = limits::user_shared() / PAGE;
        self.shared.charge(pages, MAX_THINGS, max)?;
        Ok(SharedCharge(self.0.clone(), pages))
    }

    /// Charges the files of one message.
    pub(crate) fn charge_files(&self, files: usize) -> Result<FilesCharge> {
        let files = files as u64;
        self.files.charge(files, MAX_THINGS, limits::user_files())?;
        Ok(FilesCharge(self.0.clone(), files))
    }
}

/// Files in a message that are charged to a user. Dropping this gives them back.
pub(crate) struct FilesCharge(Arc<User>, u64);

impl Drop for FilesCharge {
    fn drop(&mut self) {
        self.0.files.uncharge(self.1);
    }
}

/// Shared memory that is charged to a user. Dropping this gives it back.
pub(crate) struct SharedCharge(Arc<User>, u64);

impl Drop for SharedCharge {
    fn drop(&mut self) {
        self.0.shared.uncharge(self.1);
    }
}

/// Memory of a pipe or a ring that is charged to a user. Dropping this gives it back.
pub(crate) struct PipeCharge(Arc<User>, u64);

impl Drop for PipeCharge {
    fn drop(&mut self) {
        self.0.pipes.uncharge(self.1);
    }
}

/// An object that is charged to a user. Dropping this gives it back.
pub(crate) struct ObjectCharge(Arc<User>);

impl Drop for ObjectCharge {
    fn drop(&mut self) {
        self.0.objects.uncharge(0);
    }
}

/// What a message is charged to. It remembers the user for the next message in the same memory,
/// which mostly is of the same one.
pub(crate) struct MessageCharge {
    user: Option<Arc<User>>,
    bytes: Option<u64>,
}

impl MessageCharge {
    /// Nothing.
    pub(crate) const fn none() -> Self {
        Self {
            user: None,
            bytes: None,
        }
    }

    /// Charges a user for a message of `len` bytes, when nothing is charged.
    #[inline(always)]
    pub(crate) fn charge(&mut self, user: &Pinned, len: usize) -> Result {
        // `limits::message` is at most 2^30.
        let bytes = len as u64;
        user.messages
            .charge(bytes, limits::user_messages(), limits::user_bytes())?;
        match &self.user {
            Some(same) if Arc::ptr_eq(same, &user.0) => {}
            _ => self.user = Some(user.0.clone()),
        }
        self.bytes = Some(bytes);
        Ok(())
    }

    /// Gives back what was charged.
    #[inline]
    pub(crate) fn uncharge(&mut self) {
        if let (Some(user), Some(bytes)) = (&self.user, self.bytes.take()) {
            user.messages.uncharge(bytes);
        }
    }
}

impl Drop for MessageCharge {
    fn drop(&mut self) {
        self.uncharge();
    }
}
