// SPDX-License-Identifier: GPL-2.0
//! What each user has in use: messages, bytes and objects.
//!
//! Whoever sends pays, until the message is received for good. The limits are module parameters,
//! the same for every user; users are told apart by the kernel's own ids, so that one user has one
//! account in whatever user namespace it acts. The memory itself is charged to the memory cgroup
//! of the sender, by the allocations.

use crate::{
    compat::edquot,
    helpers::{self, limits},
};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        new_mutex, Arc, Mutex,
    },
};

/// An amount with a limit.
struct Account(Atomic<i64>);

impl Account {
    const fn new() -> Self {
        Self(Atomic::new(0))
    }

    #[inline]
    fn charge(&self, amount: i64, limit: i64) -> Result {
        let before = self.0.fetch_add(amount, Relaxed);
        if before.checked_add(amount).is_none_or(|now| now > limit) {
            self.uncharge(amount);
            return Err(edquot());
        }
        Ok(())
    }

    fn uncharge(&self, amount: i64) {
        self.0.fetch_sub(amount, Relaxed);
    }

    fn get(&self) -> u64 {
        // Somebody who is about to be refused may have gone over it for a moment.
        self.0.load(Relaxed).max(0) as u64
    }
}

/// A user.
pub(crate) struct User {
    /// As the kernel keeps it.
    pub(crate) uid: u32,
    /// Handles, and other reasons to stay in the table. Only incremented under its lock.
    pins: Atomic<i64>,
    messages: Account,
    bytes: Account,
    objects: Account,
}

/// What a user has in use, and may.
pub(crate) struct Usage {
    pub(crate) messages: (u64, u64),
    pub(crate) bytes: (u64, u64),
    pub(crate) objects: (u64, u64),
}

impl User {
    fn idle(&self) -> bool {
        self.pins.load(Relaxed) == 0
            && self.messages.get() == 0
            && self.bytes.get() == 0
            && self.objects.get() == 0
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage {
            messages: (self.messages.get(), limits::user_messages() as u64),
            bytes: (self.bytes.get(), limits::user_bytes() as u64),
            objects: (self.objects.get(), limits::user_objects() as u64),
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
                    bytes: Account::new(),
                    objects: Account::new(),
                },
                GFP_KERNEL_ACCOUNT,
            )?;
            users.insert(RBTreeNode::new(uid, user, GFP_KERNEL_ACCOUNT)?);
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
        self.objects.charge(1, limits::user_objects())?;
        Ok(ObjectCharge(self.0.clone()))
    }
}

/// An object that is charged to a user. Dropping this gives it back.
pub(crate) struct ObjectCharge(Arc<User>);

impl Drop for ObjectCharge {
    fn drop(&mut self) {
        self.0.objects.uncharge(1);
    }
}

/// What a message is charged to. It remembers the user for the next message in the same memory,
/// which mostly is of the same one.
pub(crate) struct MessageCharge {
    user: Option<Arc<User>>,
    bytes: Option<i64>,
}

impl MessageCharge {
    /// Nothing.
    pub(crate) const fn none() -> Self {
        Self {
            user: None,
            bytes: None,
        }
    }

    /// Charges a user for a message of `len` bytes.
    #[inline]
    pub(crate) fn charge(&mut self, user: &Pinned, len: usize) -> Result {
        self.uncharge();
        let bytes = i64::try_from(len).map_err(|_| edquot())?;
        user.messages.charge(1, limits::user_messages())?;
        if let Err(error) = user.bytes.charge(bytes, limits::user_bytes()) {
            user.messages.uncharge(1);
            return Err(error);
        }
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
            user.bytes.uncharge(bytes);
            user.messages.uncharge(1);
        }
    }
}

impl Drop for MessageCharge {
    fn drop(&mut self) {
        self.uncharge();
    }
}
