// SPDX-License-Identifier: GPL-2.0
//! What each user has in use: messages, bytes and objects.
//!
//! Whoever sends pays, until the message is received for good. The limits are module parameters,
//! the same for every user. The memory itself is charged to the memory cgroup of the sender, by the
//! allocations.
//!
//! Accounts are a tree, and a charge is one to an account and to all above it, so that nobody gets
//! more by identities and namespaces that it makes itself:
//!
//! ```text
//! user of the host                           containers of root
//!   containers of that user, together          container
//!     container                                  user in it
//!       user in it
//! ```
//!
//! A container is what the outermost namespace makes one (`postbox_container()`): a pid namespace
//! that root made on the host; or else the user namespace, which belongs to who made it; or else an
//! IPC namespace that root made on the host. What is made inside, nested namespaces of whatever
//! kind, is of the same container. A task is charged where it is, whatever IPC namespace the handle
//! is of; with a handle that the same user opened, where that was.
//!
//! The user of a container who made it has no account of its own in it. Root has one on the host,
//! at the top, which is not above its containers: they cannot use up what the host has.
//!
//! An account may use half of what the one above it may: containers cannot use up what their maker
//! has, nor one of them what all have, nor one user of it what the container has.

use crate::{
    compat::edquot,
    helpers::{self, limits, GFP_MAYFAIL},
    message::OBJECT_SPARE_BYTES,
};
use core::{mem::ManuallyDrop, ops::Range};
use kernel::{
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{
        atomic::{
            ordering::{Acquire, Relaxed, Release},
            Atomic,
        },
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

    /// Charges `bytes` bytes, which are at most [`MAX_CHARGE`], of a thing that is charged already.
    #[inline]
    fn charge_bytes(&self, bytes: u64, bytes_max: u64) -> Result {
        let before = self.0.fetch_add(bytes as i64, Relaxed) as u64;
        let used = before & ((1 << BYTES) - 1);
        if used + bytes > bytes_max.min(MAX_BYTES) {
            self.uncharge_bytes(bytes);
            return Err(edquot());
        }
        Ok(())
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

/// What an account is found by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// A user of the host, as the kernel keeps it; with [`CONTAINERS`], the maker of containers.
    top: u64,
    /// The container, by a number that is never used again; 0 for all of them, and on the host.
    container: u64,
    /// The user in it; [`Key::ALL`] where it is all of them, and on the host.
    user: u64,
}

/// A bit that no user has.
const CONTAINERS: u64 = 1 << 32;
/// The user that the kernel keeps so is root, outside of all user namespaces.
const ROOT: u32 = 0;

impl Key {
    const ALL: u64 = u64::MAX;

    const fn top(top: u64) -> Self {
        Self {
            top,
            container: 0,
            user: Self::ALL,
        }
    }
}

/// The accounts that the current task is charged to, from the top on.
struct Path {
    keys: [Key; 4],
    /// Those of the keys that there are.
    used: Range<usize>,
    /// The effective user of the current task.
    uid: u32,
    /// The user at the top.
    owner: u32,
}

impl Path {
    fn current() -> Self {
        let uid = helpers::euid();
        let container = helpers::container();
        let (id, owner) = match &container {
            Some(container) => (container.id.get(), container.owner),
            None => (0, uid),
        };
        let host = Key::top(owner.into());
        let together = Key::top(CONTAINERS | host.top);
        let all = Key {
            container: id,
            ..together
        };
        let user = Key {
            user: uid.into(),
            ..all
        };
        let used = match (container.is_some(), owner == uid) {
            (false, _) => 0..1,
            (true, true) => usize::from(owner == ROOT)..3,
            (true, false) => usize::from(owner == ROOT)..4,
        };
        Self {
            keys: [host, together, all, user],
            used,
            uid,
            owner,
        }
    }

    fn keys(&self) -> &[Key] {
        self.keys.get(self.used.clone()).unwrap_or_default()
    }
}

/// A user, or several that have an account together.
pub(crate) struct User {
    /// As the kernel keeps it. Where it is several: the one at the top.
    pub(crate) uid: u32,
    /// The account above this one, which everything is charged to as well.
    parent: Option<Pinned>,
    /// How many there are above this one: as often the limits are halved.
    depth: u32,
    /// How many [`Pinned`] refer to it: handles, accounts below it, and whatever is charged, or may
    /// be charged, to it.
    pins: Atomic<i64>,
    messages: Account,
    objects: Account,
    /// Files in messages, counted as bytes.
    files: Account,
    /// Memory of pipes and rings.
    pipes: Account,
    /// Pages of shared memory, counted as bytes.
    shared: Account,
    /// io_uring commands that wait.
    commands: Account,
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
    fn new(uid: u32, parent: Option<Pinned>, depth: u32) -> Self {
        Self {
            uid,
            parent,
            depth,
            pins: Atomic::new(0),
            messages: Account::new(),
            objects: Account::new(),
            files: Account::new(),
            pipes: Account::new(),
            shared: Account::new(),
            commands: Account::new(),
        }
    }

    /// Whether nothing refers to it. What is charged to it refers to it, so that nothing is charged
    /// then; nor is anything later, but to who finds it in the table.
    fn idle(&self) -> bool {
        self.pins.load(Acquire) == 0
    }

    /// Charges one thing of `bytes` bytes to an account of the user, and to those above it.
    #[inline(always)]
    fn charge(
        &self,
        account: fn(&Self) -> &Account,
        bytes: u64,
        things_max: u64,
        bytes_max: u64,
    ) -> Result {
        match &self.parent {
            None => account(self).charge(bytes, things_max, bytes_max),
            Some(parent) => self.charge_below(parent, account, bytes, things_max, bytes_max),
        }
    }

    #[inline(never)]
    fn charge_below(
        &self,
        parent: &Self,
        account: fn(&Self) -> &Account,
        bytes: u64,
        things_max: u64,
        bytes_max: u64,
    ) -> Result {
        let (things, most) = (things_max >> self.depth, bytes_max >> self.depth);
        account(self).charge(bytes, things, most)?;
        // There are at most three above this one.
        let above = parent.charge(account, bytes, things_max, bytes_max);
        if above.is_err() {
            account(self).uncharge(bytes);
        }
        above
    }

    /// Undoes that.
    #[inline(always)]
    fn uncharge(&self, account: fn(&Self) -> &Account, bytes: u64) {
        account(self).uncharge(bytes);
        if let Some(parent) = &self.parent {
            parent.uncharge_above(account, bytes);
        }
    }

    #[inline(never)]
    fn uncharge_above(&self, account: fn(&Self) -> &Account, bytes: u64) {
        self.uncharge(account, bytes);
    }

    /// Charges a message of `bytes` bytes.
    #[inline(always)]
    fn charge_message(&self, bytes: u64) -> Result {
        let (things_max, bytes_max) = (limits::user_messages(), limits::user_bytes());
        self.charge(|user| &user.messages, bytes, things_max, bytes_max)
    }

    /// This account and those above it.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        core::iter::successors(Some(self), |user| user.parent.as_deref())
    }

    /// Charges for what another user sent, and this one copies: one thing of `bytes` bytes, unless
    /// the account, or one above it, has more than its limits already. So one copy can always be
    /// made, and no more than one passes a limit. `beside`: so many things may pass theirs as well.
    fn charge_copied(
        &self,
        account: fn(&Self) -> &Account,
        bytes: u64,
        beside: u64,
        things_max: u64,
        bytes_max: u64,
    ) -> Result {
        for user in self.chain() {
            let things = (things_max >> user.depth).saturating_add(beside);
            let most = (bytes_max >> user.depth).saturating_add(bytes);
            let charged = account(user).charge(bytes, things, most);
            if charged.is_err() {
                self.below(user)
                    .for_each(|below| account(below).uncharge(bytes));
                return charged;
            }
        }
        Ok(())
    }

    /// Those of the chain that are below `user`.
    fn below<'a>(&'a self, user: &'a Self) -> impl Iterator<Item = &'a Self> {
        self.chain().take_while(|below| below.depth > user.depth)
    }

    /// Charges bytes of a message that is charged without any.
    #[inline(always)]
    fn charge_bytes(&self, bytes: u64) -> Result {
        match &self.parent {
            None => self.messages.charge_bytes(bytes, limits::user_bytes()),
            Some(_) => self.charge_bytes_below(bytes),
        }
    }

    #[inline(never)]
    fn charge_bytes_below(&self, bytes: u64) -> Result {
        let max = limits::user_bytes();
        for user in self.chain() {
            let charged = user.messages.charge_bytes(bytes, max >> user.depth);
            if charged.is_err() {
                self.below(user)
                    .for_each(|below| below.messages.uncharge_bytes(bytes));
                return charged;
            }
        }
        Ok(())
    }

    /// Gives bytes of a message back, and keeps the message.
    #[inline(always)]
    fn uncharge_bytes(&self, bytes: u64) {
        self.messages.uncharge_bytes(bytes);
        if let Some(parent) = &self.parent {
            parent.uncharge_bytes_above(bytes);
        }
    }

    #[inline(never)]
    fn uncharge_bytes_above(&self, bytes: u64) {
        self.uncharge_bytes(bytes);
    }

    /// Whether the mailboxes of an object that was just charged may keep memory for their next
    /// messages. All that may do not keep more than as many bytes as the user's messages may have,
    /// apart from those: an object that may has found itself among so few.
    pub(crate) fn may_keep(&self) -> bool {
        self.chain().all(|user| {
            let objects = user.objects.get().0;
            objects.saturating_mul(OBJECT_SPARE_BYTES) <= limits::user_bytes() >> user.depth
        })
    }

    /// What is used, by `used`, of what may be: of an account with others above it, as much as those
    /// leave it.
    fn limited(&self, used: fn(&Self) -> u64, max: u64) -> (u64, u64) {
        let mine = used(self);
        let above = self.chain().skip(1).map(|user| {
            let left = (max >> user.depth).saturating_sub(used(user));
            mine.saturating_add(left)
        });
        (mine, above.fold(max >> self.depth, u64::min))
    }

    pub(crate) fn usage(&self) -> Usage {
        let things = |max: u64| max.min(MAX_THINGS);
        let bytes = |max: u64| max.min(MAX_BYTES);
        let shared = self.limited(|user| user.shared.get().1 * PAGE, limits::user_shared());
        Usage {
            messages: self.limited(
                |user| user.messages.get().0,
                things(limits::user_messages()),
            ),
            bytes: self.limited(|user| user.messages.get().1, bytes(limits::user_bytes())),
            objects: self.limited(|user| user.objects.get().0, things(limits::user_objects())),
            files: self.limited(|user| user.files.get().1, bytes(limits::user_files())),
            shared,
        }
    }
}

/// How many accounts are looked at for one that is made: so those that are idle go in time.
const LOOKED_AT: usize = 8;

struct Table {
    users: RBTree<Key, Arc<User>>,
    /// Where the next are looked at.
    next: Key,
}

impl Table {
    fn pin(&self, key: &Key) -> Option<Pinned> {
        let user = self.users.get(key)?;
        user.pins.fetch_add(1, Relaxed);
        Some(Pinned(user.clone()))
    }

    /// Takes some of those out that are idle. Only who holds the lock makes them anything else.
    fn clean(&mut self) {
        let mut cursor = self.users.cursor_lower_bound_mut(&self.next);
        for _ in 0..LOOKED_AT {
            let Some(at) = cursor else {
                self.next = Key::top(0);
                return;
            };
            cursor = if at.current().1.idle() {
                at.remove_current().0
            } else {
                at.move_next()
            };
        }
        self.next = match &cursor {
            Some(at) => *at.current().0,
            None => Key::top(0),
        };
    }
}

/// All users that have something in use.
#[pin_data]
pub(crate) struct Users {
    #[pin]
    table: Mutex<Table>,
}

impl Users {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            table <- new_mutex!(Table {
                users: RBTree::new(),
                next: Key::top(0),
            }),
        })
    }

    /// Who pays for what the current task does, kept in the table by the pin.
    pub(crate) fn current(&self) -> Result<Pinned> {
        let path = Path::current();
        let keys = path.keys();
        if let Some(user) = keys.last().and_then(|key| self.table.lock().pin(key)) {
            return Ok(user);
        }
        let mut user = None;
        for (depth, key) in keys.iter().enumerate() {
            let uid = match key.user {
                Key::ALL => path.owner,
                _ => path.uid,
            };
            user = Some(self.get(key, uid, user, depth as u32)?);
        }
        user.ok_or(EINVAL)
    }

    /// The account of this key, which is made if there is none.
    fn get(&self, key: &Key, uid: u32, parent: Option<Pinned>, depth: u32) -> Result<Pinned> {
        if let Some(user) = self.table.lock().pin(key) {
            return Ok(user);
        }
        let user = Arc::new(User::new(uid, parent, depth), GFP_MAYFAIL)?;
        let node = RBTreeNode::new(*key, user, GFP_MAYFAIL)?;
        let mut table = self.table.lock();
        table.clean();
        // Another task may have made it meanwhile.
        if let Some(user) = table.pin(key) {
            drop(table);
            return Ok(user);
        }
        table.users.insert(node);
        table.pin(key).ok_or(ENOMEM)
    }
}

/// A reference to an account, which stays in the table as long as there is one. But for the table's
/// own, there is no other: what is charged to an account that has left the table would be unknown to
/// the next one of the same user.
pub(crate) struct Pinned(Arc<User>);

impl Clone for Pinned {
    fn clone(&self) -> Self {
        // There is one already, so that the account is not taken out meanwhile.
        self.0.pins.fetch_add(1, Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Release);
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
        self.charge(|user| &user.objects, 0, limits::user_objects(), 0)?;
        Ok(ObjectCharge(self.clone()))
    }

    /// Charges the memory of a pipe or a ring, which is as many bytes as a user's messages may have, apart
    /// from those.
    pub(crate) fn charge_pipe(&self, bytes: u64) -> Result<PipeCharge> {
        let max = limits::user_bytes();
        self.charge(|user| &user.pipes, bytes, MAX_THINGS, max)?;
        Ok(PipeCharge(self.clone(), bytes))
    }

    /// Charges shared memory, whole pages of it, for as long as it is there.
    pub(crate) fn charge_shared(&self, bytes: u64) -> Result<SharedCharge> {
        let pages = bytes.div_ceil(PAGE);
        if pages > MAX_CHARGE {
            return Err(edquot());
        }
        let max = limits::user_shared() / PAGE;
        self.charge(|user| &user.shared, pages, MAX_THINGS, max)?;
        Ok(SharedCharge(self.clone(), pages))
    }

    /// Charges an io_uring command that waits.
    pub(crate) fn charge_command(&self) -> Result<CommandCharge> {
        self.charge(|user| &user.commands, 0, limits::user_commands(), 0)?;
        Ok(CommandCharge(self.clone()))
    }

    /// Charges the files of one message.
    pub(crate) fn charge_files(&self, files: usize) -> Result<FilesCharge> {
        let files = files as u64;
        let max = limits::user_files();
        self.charge(|user| &user.files, files, MAX_THINGS, max)?;
        Ok(FilesCharge(self.clone(), files))
    }
}

/// Files in a message that are charged to a user. Dropping this gives them back.
pub(crate) struct FilesCharge(Pinned, u64);

impl FilesCharge {
    /// Charges another user for them.
    pub(crate) fn passed_on(&self, user: &Pinned) -> Result<Self> {
        user.charge_files(self.1 as usize)
    }
}

impl Drop for FilesCharge {
    fn drop(&mut self) {
        self.0.uncharge(|user| &user.files, self.1);
    }
}

/// A command that is charged to a user. Dropping this gives it back.
pub(crate) struct CommandCharge(Pinned);

impl Drop for CommandCharge {
    fn drop(&mut self) {
        self.0.uncharge(|user| &user.commands, 0);
    }
}

/// Shared memory that is charged to a user. Dropping this gives it back.
pub(crate) struct SharedCharge(Pinned, u64);

impl Drop for SharedCharge {
    fn drop(&mut self) {
        self.0.uncharge(|user| &user.shared, self.1);
    }
}

/// Memory of a pipe or a ring that is charged to a user. Dropping this gives it back.
pub(crate) struct PipeCharge(Pinned, u64);

impl Drop for PipeCharge {
    fn drop(&mut self) {
        self.0.uncharge(|user| &user.pipes, self.1);
    }
}

/// An object that is charged to a user. Dropping this gives it back.
pub(crate) struct ObjectCharge(Pinned);

impl Drop for ObjectCharge {
    fn drop(&mut self) {
        self.0.uncharge(|user| &user.objects, 0);
    }
}

/// What a receiver's user is charged for a message that the receiver copies, and the sender can
/// withdraw.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Prepaid {
    #[default]
    Nothing,
    /// A message without bytes: the request that is kept until it is answered.
    Message,
    /// The message with its bytes, and its files.
    Whole,
}

/// What a message is charged to. It remembers the user for the next message in the same memory,
/// which mostly is of the same one.
pub(crate) struct MessageCharge {
    user: Option<Pinned>,
    /// While something is prepaid: the receiver's user, which is another. While an answer is owed:
    /// the caller's user, if that is another. With the charge it is taken out.
    other: ManuallyDrop<Option<Pinned>>,
    /// The bytes that are charged, or one of the numbers below.
    bytes: u32,
    prepaid: Prepaid,
    /// The files that are prepaid.
    files: u8,
}

impl MessageCharge {
    const NOTHING: u32 = u32::MAX;
    /// It was to be charged, and that was refused.
    const REFUSED: u32 = u32::MAX - 1;

    /// Nothing.
    pub(crate) const fn none() -> Self {
        Self {
            user: None,
            other: ManuallyDrop::new(None),
            bytes: Self::NOTHING,
            prepaid: Prepaid::Nothing,
            files: 0,
        }
    }

    #[inline(always)]
    fn is(&self, user: &Pinned) -> bool {
        self.user
            .as_ref()
            .is_some_and(|mine| Arc::ptr_eq(&mine.0, &user.0))
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
        // `limits::message` is at most 2^30.
        let bytes = len as u64;
        user.charge_message(bytes)?;
        self.bytes = bytes as u32;
        if !self.is(user) {
            self.remember(user);
        }
        Ok(())
    }

    #[inline(never)]
    fn remember(&mut self, user: &Pinned) {
        if let Some(before) = self.user.replace(user.clone()) {
            drop(before);
        }
    }

    /// Gives back what was charged.
    #[inline]
    pub(crate) fn uncharge(&mut self) {
        if self.other.is_some() {
            self.forget();
        }
        if let Some((user, bytes)) = self.charged() {
            user.uncharge(|user| &user.messages, bytes);
            self.bytes = Self::NOTHING;
        }
    }

    /// A receiver, whose user is `user`, begins to copy a message that its sender can withdraw.
    /// `owes`: from then on it owes the answer, and pays for keeping the request. `large`: more than
    /// the message itself is kept meanwhile, which is the receiver's after a withdrawal. Then it is
    /// charged for that from now on, with so many `files`: how long it copies is up to it.
    #[inline]
    pub(crate) fn copy(
        &mut self,
        user: &Pinned,
        owes: bool,
        large: impl FnOnce() -> Option<usize>,
    ) -> Result {
        if self.is(user) {
            return Ok(());
        }
        self.copy_slowly(user, owes, large())
    }

    #[inline(never)]
    fn copy_slowly(&mut self, user: &Pinned, owes: bool, large: Option<usize>) -> Result {
        let Some((_, bytes)) = self.charged() else {
            return Ok(());
        };
        let (prepaid, bytes, files) = match large {
            Some(files) => (Prepaid::Whole, bytes, files),
            None if owes => (Prepaid::Message, 0, 0),
            None => return Ok(()),
        };
        let beside = u64::from(!owes);
        let (things_max, bytes_max) = (limits::user_messages(), limits::user_bytes());
        user.charge_copied(|user| &user.messages, bytes, beside, things_max, bytes_max)?;
        if files > 0 {
            let max = limits::user_files();
            let charged = user.charge_copied(|user| &user.files, files as u64, 0, MAX_THINGS, max);
            if charged.is_err() {
                user.uncharge(|user| &user.messages, bytes);
                return charged;
            }
        }
        *self.other = Some(user.clone());
        (self.prepaid, self.files) = (prepaid, files as u8);
        Ok(())
    }

    /// The receiver has not received it.
    #[cold]
    pub(crate) fn forget(&mut self) {
        drop(self.take_files());
        let prepaid = core::mem::take(&mut self.prepaid);
        let Some(other) = self.other.take() else {
            return;
        };
        match (prepaid, self.charged()) {
            (Prepaid::Message, _) => other.uncharge(|user| &user.messages, 0),
            (Prepaid::Whole, Some((_, bytes))) => other.uncharge(|user| &user.messages, bytes),
            _ => {}
        }
    }

    /// Takes the charge of the files out that is prepaid, if there are any.
    pub(crate) fn take_files(&mut self) -> Option<FilesCharge> {
        match (core::mem::take(&mut self.files), &*self.other) {
            (0, _) | (_, None) => None,
            (files, Some(other)) => Some(FilesCharge(other.clone(), files.into())),
        }
    }

    /// The sender withdraws it while a receiver copies it: from here on the receiver pays for what
    /// is kept, `large`: if that is more than the message itself. Returns a user who is not needed
    /// any more.
    #[cold]
    pub(crate) fn withdraw(&mut self, large: bool) -> Option<Pinned> {
        if self.prepaid != Prepaid::Whole {
            // What is large is of the same user.
            if !large {
                self.uncharge();
            }
            return None;
        }
        self.prepaid = Prepaid::Nothing;
        if let Some((user, bytes)) = self.charged() {
            user.uncharge(|user| &user.messages, bytes);
        }
        core::mem::replace(&mut self.user, self.other.take())
    }

    /// The request is received: its receiver keeps it without its bytes.
    #[inline]
    pub(crate) fn owe(&mut self) {
        if self.prepaid != Prepaid::Nothing {
            return self.owe_prepaid();
        }
        if let Some((user, bytes)) = self.charged() {
            user.uncharge_bytes(bytes);
            self.bytes = 0;
        }
    }

    #[inline(never)]
    fn owe_prepaid(&mut self) {
        let prepaid = core::mem::take(&mut self.prepaid);
        let Some((user, bytes)) = self.charged() else {
            return;
        };
        user.uncharge(|user| &user.messages, bytes);
        if let (Prepaid::Whole, Some(other)) = (prepaid, &*self.other) {
            other.uncharge_bytes(bytes);
        }
        drop(self.take_files());
        core::mem::swap(&mut self.user, &mut *self.other);
        self.bytes = 0;
    }

    /// Charges an answer of `len` bytes, for which nothing is charged yet, to who sent this request.
    /// Returns a user who is not needed any more. If the answer is not `plain`, its files are to be
    /// charged, too, and the request still says to whom.
    #[inline]
    pub(crate) fn charge_answer(
        &mut self,
        answer: &mut MessageCharge,
        len: usize,
        plain: bool,
    ) -> Result<Option<Pinned>> {
        let (true, Some(user), None, 0) = (plain, &self.user, &*self.other, self.bytes) else {
            return self.charge_answer_apart(answer, len);
        };
        // The sender pays for the request, which is charged without bytes and is done with: the answer
        // takes its place.
        user.charge_bytes(len as u64)?;
        answer.bytes = len as u32;
        self.bytes = Self::NOTHING;
        core::mem::swap(&mut self.user, &mut answer.user);
        Ok(None)
    }

    #[inline(never)]
    fn charge_answer_apart(
        &self,
        answer: &mut MessageCharge,
        len: usize,
    ) -> Result<Option<Pinned>> {
        let Some(payer) = self.payer() else {
            return Ok(None);
        };
        payer.charge_message(len as u64)?;
        answer.bytes = len as u32;
        Ok(match answer.is(payer) {
            true => None,
            false => answer.user.replace(payer.clone()),
        })
    }

    /// Who sent it.
    pub(crate) fn payer(&self) -> Option<&Pinned> {
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
