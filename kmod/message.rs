// SPDX-License-Identifier: GPL-2.0
//! A message: its payload, who sent it, and what it is charged to.

use crate::{
    compat::edquot,
    files::{address, Edges, Files},
    handle::Handle,
    helpers::{self, c, Identity, Seen, UserBytes, GFP_MAYFAIL},
    link::Pending,
    mailbox::Mailbox,
    pool::{Access, Leases, Outgoing},
    queue::{self, Linked, Links, Node},
    quota::{FilesCharge, MessageCharge, Pinned},
    uapi,
    wait::WaiterPtr,
};
use core::{
    cell::{Cell, UnsafeCell},
    mem::{size_of, MaybeUninit},
    ptr::NonNull,
};
use kernel::{
    iov::IovIterSource,
    prelude::*,
    sync::atomic::{ordering::Full, Atomic},
};

/// Payloads up to this size need no allocation of their own: with it a message fills one of 256
/// bytes.
const INLINE: usize = 72;

/// Where payloads come from.
pub(crate) trait Source {
    /// The next `out.len()` bytes.
    fn read(&mut self, out: &mut [u8]) -> Result;

    /// The next `len` bytes, at the end of `out`, which has room for them.
    fn append(&mut self, len: usize, out: &mut KVVec<u8>) -> Result;
}

impl Source for UserBytes {
    fn read(&mut self, out: &mut [u8]) -> Result {
        self.copy_to(out)
    }

    fn append(&mut self, len: usize, out: &mut KVVec<u8>) -> Result {
        self.append_to(len, out)
    }
}

impl Source for IovIterSource<'_> {
    fn read(&mut self, out: &mut [u8]) -> Result {
        if self.copy_from_iter(out) != out.len() {
            return Err(EFAULT);
        }
        Ok(())
    }

    fn append(&mut self, len: usize, out: &mut KVVec<u8>) -> Result {
        if self.copy_from_iter_vec(out, GFP_MAYFAIL)? != len {
            return Err(EFAULT);
        }
        Ok(())
    }
}

/// The user whose ids a message bears, and who pays for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Author {
    /// The effective user of the current task, which makes a request that it knows the meaning of.
    Caller,
    /// The user who opened the handle. A program writes to descriptors that it was given without
    /// knowing what they are, and must not lend its privileges to who gave them.
    Opener,
}

/// An empty vector with room for `len` bytes.
fn with_room(len: usize) -> Result<KVVec<u8>> {
    // SAFETY: It takes any size.
    let raw = unsafe { c::postbox_alloc(len) }.cast::<u8>();
    if raw.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: It is new memory of that size, and what the vector's allocator frees.
    Ok(unsafe { KVVec::from_raw_parts(raw, 0, len) })
}

/// Charges a message to the current user, who did not open the handle.
#[inline(never)]
fn charge_other(charge: &mut MessageCharge, handle: &Handle, len: usize) -> Result {
    handle.with_payer(helpers::euid(), |payer| charge.charge(payer, len))
}

/// What comes with a message.
pub(crate) enum Cargo {
    Parcel(Option<Files>, Cell<Option<Leases>>),
    /// The end of a link, until it is accepted.
    Connection(Cell<Option<Pending>>, #[allow(dead_code)] Option<Edges>),
}

/// Where the leases go that come with a message.
pub(crate) struct Room<'a> {
    pub(crate) access: Access<'a>,
    /// How many there is room for.
    pub(crate) leases: usize,
}

/// What room a message needs to be received.
#[derive(Default)]
pub(crate) struct Needs {
    pub(crate) len: u64,
    pub(crate) files: usize,
    pub(crate) leases: usize,
    /// The number of the pool that they are of.
    pub(crate) pool: u64,
}

/// A message, from the send on until it is received for good. Its memory can then be used for
/// another one.
pub(crate) struct Message {
    node: Node<KBox<Message>>,
    inline: [u8; INLINE],
    content: UnsafeCell<Content>,
    sender: Identity,
    /// Guarded by the lock of the mailbox while it is in there, or with a receiver of it.
    charge: UnsafeCell<MessageCharge>,
}

/// The parts of a message that are not in its own memory. They belong to whoever holds the message,
/// but for a sender that withdraws it before the receiver has begun to copy it.
struct Content {
    /// The payload where it is larger.
    separate: KVVec<u8>,
    /// The cell in it is for whoever holds the message.
    cargo: Option<KBox<Cargo>>,
}

/// What is left of a message that is withdrawn, answered or not kept: to be dropped without a lock.
#[must_use]
#[derive(Default)]
pub(crate) struct Remains {
    _separate: Option<KVVec<u8>>,
    _cargo: Option<KBox<Cargo>>,
    _user: Option<Pinned>,
    _files: Option<FilesCharge>,
}

// SAFETY: The cells are used by whoever holds the message alone, or under the lock of its mailbox,
// as said with each; what the queue looks at is `Sync` by itself, and the rest is only changed
// through `&mut`.
unsafe impl Sync for Message {}

const _: () = assert!(size_of::<Message>() <= 256);

impl Message {
    /// The memory of a message.
    pub(crate) fn new() -> Result<KBox<Self>> {
        // SAFETY: It takes any size.
        let raw = unsafe { c::postbox_alloc(size_of::<Self>()) }.cast::<MaybeUninit<Self>>();
        if raw.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: It is new memory of that size, aligned for anything, and, being smaller than a
        // page, what the allocator of a box frees.
        let memory = unsafe { KBox::<MaybeUninit<Self>>::from_raw(raw) };
        Ok(KBox::write(
            memory,
            Self {
                node: Node::new(0, 0),
                inline: [0; INLINE],
                content: UnsafeCell::new(Content {
                    separate: KVVec::new(),
                    cargo: None,
                }),
                sender: Identity::nobody(),
                charge: UnsafeCell::new(MessageCharge::none()),
            },
        ))
    }

    /// What waits in the place of a reservation.
    pub(crate) fn stand_in(len: u64) -> Result<KBox<Self>> {
        let mut message = Self::new()?;
        message.node = Node::reservation(len);
        Ok(message)
    }

    /// Makes it a message of the current task, with the `len` bytes that come from `source`,
    /// sent through `handle`, and charges it.
    #[inline(always)]
    pub(crate) fn fill(
        &mut self,
        author: Author,
        priority: u16,
        len: usize,
        handle: &Handle,
        source: &mut impl Source,
    ) -> Result {
        let charge = self.charge.get_mut();
        match author {
            Author::Caller => {
                self.sender.renew();
                let uid = self.sender.uid();
                match uid == handle.user.uid {
                    true => charge.charge(&handle.user, len)?,
                    false => charge_other(charge, handle, len)?,
                }
            }
            Author::Opener => {
                self.sender.renew_as(handle.user.uid, handle.gid);
                charge.charge(&handle.user, len)?;
            }
        }
        self.write(priority, len, source)
    }

    /// The same for an answer, which is charged to the caller when it is given to that.
    #[inline]
    pub(crate) fn fill_answer(&mut self, len: usize, source: &mut impl Source) -> Result {
        self.sender.renew();
        self.write(0, len, source)
    }

    #[inline(always)]
    fn write(&mut self, priority: u16, len: usize, source: &mut impl Source) -> Result {
        self.node.renew(priority, len as u64);
        match self.inline.get_mut(..len) {
            Some(inline) => source.read(inline)?,
            None => {
                let separate = &mut self.content.get_mut().separate;
                separate.clear();
                if separate.capacity() < len {
                    *separate = with_room(len)?;
                }
                source.append(len, separate)?;
            }
        }
        Ok(())
    }

    /// The bytes of the payload.
    #[inline]
    fn len(&self) -> usize {
        self.node.len() as usize
    }

    /// Makes it a request.
    pub(crate) fn make_request(&mut self) {
        self.node.make_request();
    }

    /// Sends files and leases with it.
    pub(crate) fn attach(&mut self, files: Option<Files>, leases: Option<&Outgoing<'_>>) -> Result {
        let leases = leases.and_then(Outgoing::leases);
        if files.is_some() || leases.is_some() {
            let cargo = Cargo::Parcel(files, Cell::new(leases));
            self.content.get_mut().cargo = Some(KBox::new(cargo, GFP_MAYFAIL)?);
        }
        Ok(())
    }

    /// Makes it a connection that goes into `queue`.
    pub(crate) fn connect(&mut self, handle: &Handle, queue: &Mailbox, pending: Pending) -> Result {
        let edges = Edges::new(&handle.shared, address(queue), pending.mailboxes()?)?;
        let cargo = Cargo::Connection(Cell::new(Some(pending)), edges);
        self.content.get_mut().cargo = Some(KBox::new(cargo, GFP_MAYFAIL)?);
        Ok(())
    }

    fn content(&self) -> &Content {
        // SAFETY: Whoever holds the message has it, or has begun to copy it, so that no sender
        // changes it any more; other changes are made through `&mut`.
        unsafe { &*self.content.get() }
    }

    fn cargo(&self) -> Option<&Cargo> {
        self.content().cargo.as_deref()
    }

    /// The files that come with it.
    pub(crate) fn files(&self) -> Option<&Files> {
        match self.cargo() {
            Some(Cargo::Parcel(files, _)) => files.as_ref(),
            _ => None,
        }
    }

    /// Calls `f` with the leases that come with it. For the holder of the message.
    pub(crate) fn with_leases<T>(&self, f: impl FnOnce(&Leases) -> T) -> Option<T> {
        let Some(Cargo::Parcel(_, cell)) = self.cargo() else {
            return None;
        };
        let leases = cell.take();
        let result = leases.as_ref().map(f);
        cell.set(leases);
        result
    }

    /// Takes the leases out that come with it. For the holder of the message.
    pub(crate) fn take_leases(&self) -> Option<Leases> {
        match self.cargo() {
            Some(Cargo::Parcel(_, leases)) => leases.take(),
            _ => None,
        }
    }

    /// What room it needs. For the holder of the message.
    pub(crate) fn needs(&self) -> Needs {
        let leases = self.with_leases(|leases| (leases.len(), leases.id));
        let (leases, pool) = leases.unwrap_or_default();
        Needs {
            len: self.node.len(),
            files: self.files().map_or(0, Files::len),
            leases,
            pool,
        }
    }

    /// Whether there is room for what comes with it. For the holder of the message.
    #[inline]
    pub(crate) fn fits(&self, files: usize, room: Option<&Room<'_>>) -> bool {
        self.content().cargo.is_none() || self.cargo_fits(files, room)
    }

    #[inline(never)]
    fn cargo_fits(&self, files: usize, room: Option<&Room<'_>>) -> bool {
        let fits = |leases: &Leases| {
            room.is_some_and(|room| leases.len() <= room.leases && leases.are_of(&room.access))
        };
        self.file_count() <= files && self.with_leases(fits).unwrap_or(true)
    }

    /// Takes the end of a link out that comes with it. For the holder of the message.
    pub(crate) fn accept(&self) -> Option<Pending> {
        match self.cargo() {
            Some(Cargo::Connection(pending, _)) => pending.take(),
            _ => None,
        }
    }

    /// Undoes that.
    pub(crate) fn give_back(&self, end: Pending) {
        if let Some(Cargo::Connection(pending, _)) = self.cargo() {
            pending.set(Some(end));
        }
    }

    /// Whether such an end was taken out, so that the message cannot go back.
    pub(crate) fn accepted(&self) -> bool {
        match self.cargo() {
            Some(Cargo::Connection(pending, _)) => {
                let end = pending.take();
                let accepted = end.is_none();
                pending.set(end);
                accepted
            }
            _ => false,
        }
    }

    /// Charges it, when it was charged to somebody else, to who uses the handle.
    pub(crate) fn recharge(&mut self, handle: &Handle) -> Result {
        if self.refused() {
            return Err(edquot());
        }
        if let Some(Cargo::Parcel(Some(files), _)) = self.content.get_mut().cargo.as_deref_mut() {
            files.keep(handle)?;
        }
        let len = self.len();
        let charge = self.charge.get_mut();
        charge.uncharge();
        handle.with_payer(helpers::euid(), |payer| charge.charge(payer, len))
    }

    /// It is received: gives back what it was charged, so that only memory is left, and what came
    /// with it.
    #[inline]
    pub(crate) fn empty(&mut self) -> Option<KBox<Cargo>> {
        self.charge.get_mut().uncharge();
        self.content.get_mut().cargo.take()
    }

    /// Whether it keeps more than its own memory.
    #[inline]
    fn is_large(&self) -> bool {
        self.len() > INLINE || self.content().cargo.is_some()
    }

    /// Its receiver, whose user is `user`, begins to copy it: see [`MessageCharge::copy`]. Under the
    /// lock of the mailbox.
    #[inline]
    pub(crate) fn copied_by(&mut self, user: &Pinned, owes: bool) -> Result {
        // SAFETY: The message is borrowed mutably, and what is read of it is not the charge.
        let charge = unsafe { &mut *self.charge.get() };
        charge.copy(user, owes, || self.is_large().then(|| self.file_count()))
    }

    /// Its receiver has not received it. Under the lock of the mailbox.
    pub(crate) fn not_received(&mut self) {
        self.charge.get_mut().forget();
    }

    /// Its sender withdraws it, `begun`: while a receiver copies it. Under the lock of the mailbox.
    ///
    /// # Safety
    ///
    /// The message is there; the sender has just withdrawn it, under the same lock.
    pub(crate) unsafe fn withdrawn(place: NonNull<Self>, begun: bool) -> Remains {
        // SAFETY: By the contract. The content is only read here, or belongs to the sender as long as
        // the receiver has not begun.
        unsafe {
            let message = place.as_ref();
            let charge = &mut *message.charge.get();
            if !begun {
                charge.uncharge();
                return message.take_content();
            }
            let prepaid = charge.take_files();
            let files = prepaid.and_then(|prepaid| message.files()?.replace_charge(prepaid));
            Remains {
                _user: charge.withdraw(message.is_large()),
                _files: files,
                ..Remains::default()
            }
        }
    }

    /// # Safety
    ///
    /// Nobody else looks at the content.
    unsafe fn take_content(&self) -> Remains {
        // SAFETY: By the contract.
        let content = unsafe { &mut *self.content.get() };
        let separate = &mut content.separate;
        Remains {
            // The allocator would be asked to free an empty one, too.
            _separate: (separate.capacity() != 0)
                .then(|| core::mem::replace(separate, KVVec::new())),
            _cargo: content.cargo.take(),
            ..Remains::default()
        }
    }

    /// It is a [small](Self::small) request that is received, and is kept to be answered. Under the
    /// lock of the mailbox.
    #[inline(always)]
    pub(crate) fn owed_small(&mut self) {
        self.charge.get_mut().owe();
    }

    /// It is a request that is received: only what is needed to answer it is kept. Under the lock of
    /// the mailbox.
    #[inline]
    pub(crate) fn owed(&mut self) -> Option<Remains> {
        self.charge.get_mut().owe();
        if !self.is_large() {
            return None;
        }
        // SAFETY: The message is borrowed mutably.
        Some(unsafe { self.take_content() })
    }

    /// Charges this answer to who sent `request`. Without quota for it, its content is not kept.
    /// Under the lock of the mailbox. What there is to be dropped without it goes to `remains`.
    #[inline]
    pub(crate) fn charge_to_caller(&mut self, request: &mut Self, remains: &mut Option<Remains>) {
        let (len, asked) = (self.len(), request.charge.get_mut());
        let plain = self.files().is_none();
        match asked.charge_answer(self.charge.get_mut(), len, plain) {
            Ok(None) if plain => {}
            charged => *remains = Some(self.pass_on(charged, asked)),
        }
    }

    /// The slow path: more is to be charged or dropped than that.
    #[inline(never)]
    fn pass_on(&mut self, charged: Result<Option<Pinned>>, asked: &MessageCharge) -> Remains {
        let mut remains = Remains::default();
        let charged = charged.and_then(|user| {
            remains._user = user;
            if let (Some(files), Some(payer)) = (self.files(), asked.payer()) {
                remains._files = files.pass_on(payer)?;
            }
            Ok(())
        });
        if charged.is_err() {
            self.charge.get_mut().refuse();
            // SAFETY: The message is borrowed mutably.
            let content = unsafe { self.take_content() };
            (remains._separate, remains._cargo) = (content._separate, content._cargo);
        }
        remains
    }

    /// Whether it is an answer for which the caller's user had no quota.
    #[inline]
    pub(crate) fn refused(&self) -> bool {
        // SAFETY: Whoever asks has the answer for itself.
        unsafe { (*self.charge.get()).refused() }
    }

    /// The bytes of memory that it occupies.
    pub(crate) fn footprint(&self) -> usize {
        size_of::<Self>() + self.content().separate.capacity()
    }

    /// The payload.
    pub(crate) fn payload(&self) -> &[u8] {
        self.inline
            .get(..self.len())
            .unwrap_or(&self.content().separate)
    }

    /// The payload, if it is small, there is room for it, and nothing else comes with it.
    #[inline]
    pub(crate) fn small(&self, room: usize) -> Option<&[u8]> {
        if self.len() > room || self.content().cargo.is_some() {
            return None;
        }
        self.inline.get(..self.len())
    }

    /// What `msg_flags` say of it, but for leases. For the holder of the message.
    #[inline]
    pub(crate) fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.node.redelivered() {
            flags |= uapi::POSTBOX_MSG_REDELIVERED;
        }
        if self.node.is_request() {
            flags |= uapi::POSTBOX_MSG_CALL;
        }
        if self.content().cargo.is_some() && self.files().is_some_and(Files::are_lost) {
            flags |= uapi::POSTBOX_MSG_FILES_LOST;
        }
        flags
    }

    /// Who sent it, as the current task sees that.
    pub(crate) fn sender(&self) -> Seen {
        self.sender.see()
    }

    /// How many files come with it.
    pub(crate) fn file_count(&self) -> usize {
        self.files().map_or(0, Files::len)
    }

    /// The part that the queue looks at.
    pub(crate) fn node(&self) -> &Node<KBox<Self>> {
        &self.node
    }
}

/// The memory of two messages, a request and its answer, for the next ones. It is taken and put
/// back without a lock.
pub(crate) struct Spare {
    slots: [Atomic<usize>; Self::SLOTS],
    /// The largest that is kept, in bytes.
    most: usize,
}

/// How much memory is kept in a slot, and without one, at the most.
pub(crate) const SPARE_BYTES: usize = 8192;
/// How much the mailboxes of one object keep at the most: those of a link, each in two slots and
/// without one.
pub(crate) const OBJECT_SPARE_BYTES: u64 = 2 * 3 * SPARE_BYTES as u64;

impl Spare {
    pub(crate) const SLOTS: usize = 2;

    /// With nothing in it, and if not `keeps`, for good.
    pub(crate) const fn new(keeps: bool) -> Self {
        Self {
            slots: [Atomic::new(0), Atomic::new(0)],
            most: if keeps { SPARE_BYTES } else { 0 },
        }
    }

    #[inline]
    pub(crate) fn take(&self) -> Option<KBox<Message>> {
        for slot in &self.slots {
            match slot.xchg(0, Full) {
                0 => {}
                // SAFETY: `put` left it there, and it was taken out just now.
                raw => return Some(unsafe { KBox::from_raw(raw as *mut Message) }),
            }
        }
        None
    }

    /// Keeps the message, or gives it back where there are two already or it is too large.
    #[inline]
    pub(crate) fn put(&self, message: KBox<Message>) -> Option<KBox<Message>> {
        if message.footprint() > self.most {
            return Some(message);
        }
        let raw = KBox::into_raw(message);
        for slot in &self.slots {
            if slot.cmpxchg(0, raw as usize, Full).is_ok() {
                return None;
            }
        }
        // SAFETY: It was turned into a pointer just now, and is in no slot.
        Some(unsafe { KBox::from_raw(raw) })
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        while let Some(message) = self.take() {
            drop(message);
        }
    }
}

impl Linked for Message {
    fn links(&self) -> &Links<Self> {
        self.node.links()
    }
}

impl queue::Entry for Message {
    type Message = KBox<Self>;

    fn node(&self) -> &Node<KBox<Self>> {
        &self.node
    }

    fn origin(&self) -> u64 {
        self.sender.process()
    }
}

// SAFETY: A box keeps its content in place, and `from_raw` undoes `into_raw`.
unsafe impl queue::Owner for KBox<Message> {
    type Target = Message;

    fn into_raw(self) -> NonNull<Message> {
        // SAFETY: A box does not point to null.
        unsafe { NonNull::new_unchecked(KBox::into_raw(self)) }
    }

    unsafe fn from_raw(raw: NonNull<Message>) -> Self {
        // SAFETY: By the contract it comes from `into_raw`.
        unsafe { KBox::from_raw(raw.as_ptr()) }
    }
}

impl queue::Message for KBox<Message> {
    type Entry = Message;
    type Sender = WaiterPtr;

    fn entry(&self) -> &Message {
        self
    }
}
