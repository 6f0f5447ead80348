// SPDX-License-Identifier: GPL-2.0
//! Messages and waiters for the host: they note what happens to them.

use postbox_queue::{
    Entry, Linked, Links, Message, Node, Owner, ReceiveWaiter, Received, Seat, SendWaiter, Sent,
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ptr::NonNull,
    rc::Rc,
};

/// How often each message was freed.
#[derive(Clone, Default)]
pub struct Drops(Rc<RefCell<Counts>>);

#[derive(Default)]
struct Counts {
    times: BTreeMap<usize, u32>,
    total: usize,
}

impl Drops {
    pub fn of(&self, id: usize) -> u32 {
        self.0.borrow().times.get(&id).copied().unwrap_or(0)
    }

    /// How often any was.
    pub fn total(&self) -> usize {
        self.0.borrow().total
    }
}

/// A message.
pub struct Letter {
    node: Node<Post>,
    id: usize,
    origin: u64,
    drops: Drops,
}

impl Drop for Letter {
    fn drop(&mut self) {
        let mut drops = self.drops.0.borrow_mut();
        *drops.times.entry(self.id).or_default() += 1;
        drops.total += 1;
    }
}

impl Linked for Letter {
    fn links(&self) -> &Links<Self> {
        self.node.links()
    }
}

impl Entry for Letter {
    type Message = Post;

    fn node(&self) -> &Node<Post> {
        &self.node
    }

    fn origin(&self) -> u64 {
        self.origin
    }
}

/// A box of a message. Not a `Box`: moving one would end the life of the pointer that the sender
/// keeps to withdraw it by.
pub struct Post(NonNull<Letter>);

impl Post {
    pub fn new(id: usize, priority: u16, len: u64, drops: &Drops) -> Self {
        Self::with(id, Node::new(priority, len), 0, drops)
    }

    /// One that somebody in particular sent.
    pub fn from_origin(id: usize, priority: u16, len: u64, origin: u64, drops: &Drops) -> Self {
        let mut node = Node::new(0, 0);
        node.renew(priority, len);
        Self::with(id, node, origin, drops)
    }

    /// One whose sender waits for an answer.
    pub fn request(id: usize, priority: u16, len: u64, origin: u64, drops: &Drops) -> Self {
        let mut node = Node::new(0, 0);
        node.renew(priority, len);
        node.make_request();
        Self::with(id, node, origin, drops)
    }

    pub fn stand_in(id: usize, len: u64, drops: &Drops) -> Self {
        Self::with(id, Node::reservation(len), 0, drops)
    }

    fn with(id: usize, node: Node<Post>, origin: u64, drops: &Drops) -> Self {
        let drops = drops.clone();
        Self(NonNull::from(Box::leak(Box::new(Letter {
            node,
            id,
            origin,
            drops,
        }))))
    }

    pub fn pointer(&self) -> NonNull<Letter> {
        self.0
    }

    pub fn id(&self) -> usize {
        self.entry().id
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        // SAFETY: It comes from a box, and `self` owns it.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

// SAFETY: The letter stays in its box, and only `drop` frees it.
unsafe impl Owner for Post {
    type Target = Letter;

    fn into_raw(self) -> NonNull<Letter> {
        let raw = self.0;
        std::mem::forget(self);
        raw
    }

    unsafe fn from_raw(raw: NonNull<Letter>) -> Self {
        Self(raw)
    }
}

impl Message for Post {
    type Entry = Letter;
    type Sender = SenderPtr;

    fn entry(&self) -> &Letter {
        // SAFETY: `self` owns it.
        unsafe { self.0.as_ref() }
    }
}

/// A sender that waits. It has the number of its message.
pub struct Sender {
    links: Links<Sender>,
    message: Cell<Option<NonNull<Letter>>>,
    pub id: usize,
    pub group: usize,
    pub finished: Cell<Option<Sent>>,
}

impl Linked for Sender {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

impl Sender {
    pub fn new(id: usize) -> Rc<Self> {
        Self::of_group(id, 0)
    }

    /// One that does not meet the receivers of a group.
    pub fn of_group(id: usize, group: usize) -> Rc<Self> {
        Rc::new(Self {
            links: Links::new(),
            message: Cell::new(None),
            id,
            group,
            finished: Cell::new(None),
        })
    }
}

#[derive(Clone, Copy)]
pub struct SenderPtr(NonNull<Sender>);

impl SenderPtr {
    pub fn new(sender: &Rc<Sender>) -> Self {
        // SAFETY: An `Rc` does not point to null.
        Self(unsafe { NonNull::new_unchecked(Rc::as_ptr(sender).cast_mut()) })
    }
}

// SAFETY: Whoever sends keeps the sender in its `Rc` until it was finished or has withdrawn.
unsafe impl Owner for SenderPtr {
    type Target = Sender;

    fn into_raw(self) -> NonNull<Sender> {
        self.0
    }

    unsafe fn from_raw(raw: NonNull<Sender>) -> Self {
        Self(raw)
    }
}

impl SendWaiter<Letter> for SenderPtr {
    type Wake = SenderWoken;

    fn group(self) -> usize {
        // SAFETY: Whoever sends keeps the sender until it is finished or has withdrawn.
        unsafe { self.0.as_ref() }.group
    }

    fn message(sender: &Sender) -> &Cell<Option<NonNull<Letter>>> {
        &sender.message
    }

    fn finish(self, sent: Sent) -> SenderWoken {
        // SAFETY: Whoever sends keeps the sender until it is finished or has withdrawn.
        let sender = unsafe { self.0.as_ref() };
        assert_eq!(sender.finished.replace(Some(sent)), None, "finished twice");
        SenderWoken {
            id: sender.id,
            sent,
        }
    }
}

/// The sender that was finished.
#[must_use]
#[derive(Debug)]
pub struct SenderWoken {
    pub id: usize,
    pub sent: Sent,
}

/// A receiver that waits.
pub struct Receiver {
    links: Links<Receiver>,
    seat: Seat<Receiver>,
    pub id: usize,
    pub origin: u64,
    pub group: usize,
    pub received: RefCell<Option<Received<Post>>>,
}

impl Receiver {
    pub fn new(id: usize) -> Rc<Self> {
        Self::of_origin(id, 0)
    }

    /// One that waits for messages of one origin.
    pub fn of_origin(id: usize, origin: u64) -> Rc<Self> {
        Self::of_group(id, origin, 0)
    }

    /// One that senders of its group do not meet.
    pub fn of_group(id: usize, origin: u64, group: usize) -> Rc<Self> {
        Rc::new(Self {
            links: Links::new(),
            seat: Seat::new(),
            id,
            origin,
            group,
            received: RefCell::new(None),
        })
    }

    /// The message that it was handed.
    #[track_caller]
    pub fn message(&self) -> Post {
        match self.received.take() {
            Some(Received::Message(message)) => message,
            other => panic!("receiver {} was finished with {other:?}", self.id),
        }
    }
}

impl Linked for Receiver {
    fn links(&self) -> &Links<Self> {
        &self.links
    }
}

pub struct ReceiverPtr(NonNull<Receiver>);

impl ReceiverPtr {
    pub fn new(receiver: &Rc<Receiver>) -> Self {
        // SAFETY: An `Rc` does not point to null.
        Self(unsafe { NonNull::new_unchecked(Rc::as_ptr(receiver).cast_mut()) })
    }

    pub fn pointer(&self) -> NonNull<Receiver> {
        self.0
    }
}

// SAFETY: Whoever waits keeps the receiver in its `Rc` until it was finished or left.
unsafe impl Owner for ReceiverPtr {
    type Target = Receiver;

    fn into_raw(self) -> NonNull<Receiver> {
        self.0
    }

    unsafe fn from_raw(raw: NonNull<Receiver>) -> Self {
        Self(raw)
    }
}

impl ReceiveWaiter<Post> for ReceiverPtr {
    type Wake = ReceiverWoken;

    fn origin(receiver: &Receiver) -> u64 {
        receiver.origin
    }

    fn group(receiver: &Receiver) -> usize {
        receiver.group
    }

    fn seat(receiver: &Receiver) -> &Seat<Receiver> {
        &receiver.seat
    }

    fn finish(self, received: Received<Post>) -> ReceiverWoken {
        // SAFETY: As for `Owner`.
        let receiver = unsafe { self.0.as_ref() };
        let before = receiver.received.replace(Some(received));
        assert!(before.is_none(), "finished twice");
        ReceiverWoken { id: receiver.id }
    }
}

/// The receiver that was finished.
#[must_use]
#[derive(Debug)]
pub struct ReceiverWoken {
    pub id: usize,
}

impl std::fmt::Debug for Post {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "message {}", self.id())
    }
}
