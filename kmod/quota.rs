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

    /// Charges for one thing, whatever the limits are.
    fn add(&self, bytes: u64) {
        self.0.fetch_add(Self::amount(bytes), Relaxed);
    }

    /// Gives bytes back, and keeps the thing.
    fn uncharge_bytes(&self, bytes: u64) {
        self.0.fetch_sub(bytes as i64, Relaxed);
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

    /// Whether messages that others withdrew keep more than the user may have.
    fn over_quota(&self) -> bool {
        let (messages, bytes) = self.messages.get();
        messages > limits::user_messages() || bytes > limits::user_bytes()
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

impl FilesCharge {
    /// Charges another user for them; `forced`: whatever that one's limit is.
    pub(crate) fn passed_on(&self, user: &Arc<User>, forced: bool) -> Result<Self> {
        if forced {
            user.files.add(self.1);
        } else {
            user.files
                .charge(self.1, MAX_THINGS, limits::user_files())?;
        }
        Ok(Self(user.clone(), self.1))
    }
}

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
    /// While a receiver copies what a sender can withdraw: the receiver's user, if that is another.
    /// While an answer is owed: the caller's user, if that is another.
    other: Option<Arc<User>>,
    /// The bytes that are charged, or one of the numbers below.
    bytes: u32,
    /// The other one is charged for a message without bytes.
    prepaid: bool,
}

impl MessageCharge {
    const NOTHING: u32 = u32::MAX;
    /// It was to be charged, and that was refused.
    const REFUSED: u32 = u32::MAX - 1;

    /// Nothing.
    pub(crate) const fn none() -> Self {
        Self {
            user: None,
            other: None,
            bytes: Self::NOTHING,
            prepaid: false,
        }
    }

    fn is(&self, user: &Arc<User>) -> bool {
        self.user
            .as_ref()
            .is_some_and(|mine| Arc::ptr_eq(mine, user))
    }

    fn charged(&self) -> Option<(&User, u64)> {
        match &self.user {
            Some(user) if self.bytes < Self::REFUSED => Some((user, self.bytes.into())),
            _ => None,
        }
    }

    /// Charges a user for a message of `len` bytes, when nothing is charged.
    #[inline(always)]
    pub(crate) fn charge(&mut self, user: &Pinned, len: usize) -> Result {
        self.charge_user(&user.0, len).map(drop)
    }

    /// The same. Returns the user who was remembered, if that was another.
    #[inline(always)]
    fn charge_user(&mut self, user: &Arc<User>, len: usize) -> Result<Option<Arc<User>>> {
        // `limits::message` is at most 2^30.
        let bytes = len as u64;
        user.messages
            .charge(bytes, limits::user_messages(), limits::user_bytes())?;
        self.bytes = bytes as u32;
        Ok(match self.is(user) {
            true => None,
            false => self.user.replace(user.clone()),
        })
    }

    /// Gives back what was charged.
    #[inline]
    pub(crate) fn uncharge(&mut self) {
        if let Some((user, bytes)) = self.charged() {
            user.messages.uncharge(bytes);
            self.bytes = Self::NOTHING;
        }
        if self.other.is_some() {
            self.forget();
        }
    }

    /// A receiver, whose user is `user`, begins to copy a message that its sender can withdraw.
    /// `owes`: from then on it owes the answer, and pays for keeping the request. `large`: more than
    /// the message itself is kept meanwhile; after a withdrawal that is the receiver's, which must
    /// not be over its quota for that already.
    pub(crate) fn copy(&mut self, user: &Pinned, owes: bool, large: bool) -> Result {
        let user = &user.0;
        if large && user.over_quota() {
            return Err(edquot());
        }
        if self.is(user) {
            return Ok(());
        }
        if owes {
            user.messages
                .charge(0, limits::user_messages(), limits::user_bytes())?;
            self.prepaid = true;
        }
        if owes || large {
            self.other = Some(user.clone());
        }
        Ok(())
    }

    /// The receiver has not received it.
    #[cold]
    pub(crate) fn forget(&mut self) {
        if let Some(other) = self.other.take() {
            if core::mem::take(&mut self.prepaid) {
                other.messages.uncharge(0);
            }
        }
    }

    /// The sender withdraws it while a receiver copies it: from here on the receiver pays for what
    /// is kept. Returns a user who is not needed any more.
    #[cold]
    pub(crate) fn withdraw(&mut self, large: bool) -> Option<Arc<User>> {
        let other = match self.other.take() {
            Some(other) => other,
            // They are of the same user.
            None if large => return None,
            None => {
                self.uncharge();
                return None;
            }
        };
        if let Some((user, bytes)) = self.charged() {
            user.messages.uncharge(bytes);
            other.messages.add(bytes);
        }
        if core::mem::take(&mut self.prepaid) {
            other.messages.uncharge(0);
        }
        self.user.replace(other)
    }

    /// The request is received: its receiver keeps it without its bytes.
    pub(crate) fn owe(&mut self) {
        if core::mem::take(&mut self.prepaid) {
            if let Some((user, bytes)) = self.charged() {
                user.messages.uncharge(bytes);
            }
            core::mem::swap(&mut self.user, &mut self.other);
        } else if let Some((user, bytes)) = self.charged() {
            user.messages.uncharge_bytes(bytes);
        } else {
            return;
        }
        self.bytes = 0;
    }

    /// Charges an answer of `len` bytes to who sent this request. Returns a user who is not needed
    /// any more.
    pub(crate) fn charge_answer(
        &self,
        answer: &mut MessageCharge,
        len: usize,
    ) -> Result<Option<Arc<User>>> {
        match self.payer() {
            Some(payer) => answer.charge_user(payer, len),
            None => Ok(None),
        }
    }

    /// The user whose receiver copies it, if that is another than the sender.
    pub(crate) fn copier(&self) -> Option<&Arc<User>> {
        self.other.as_ref()
    }

    /// Who sent it.
    pub(crate) fn payer(&self) -> Option<&Arc<User>> {
        self.other.as_ref().or(self.user.as_ref())
    }

    /// It was not charged, and is not kept.
    pub(crate) fn refuse(&mut self) {
        self.uncharge();
        self.bytes = Self::REFUSED;
    }

    pub(crate) fn refused(&self) -> bool {
        self.bytes == Self::REFUSED
    }
}

impl Drop for MessageCharge {
    fn drop(&mut self) {
        self.uncharge();
    }
}
