// SPDX-License-Identifier: GPL-2.0
//! The mailbox: many senders, many receivers, each message to exactly one receiver.
//!
//! A message is always in one [`Place`]. It enters by [`Mailbox::send`], is taken by
//! [`Mailbox::take`] or handed to a receiver that waits, and then belongs to that receiver alone,
//! outside the lock, while it copies the bytes. The receiver ends this with one of
//! [`Mailbox::commit`], [`Mailbox::lease`] and [`Mailbox::put_back`]: reserve, copy, commit. What it
//! holds counts against the capacity until then, so that a message that comes back finds its room.
//!
//! A sender that waits leaves its message here with a pointer to itself. The one who ends the wait,
//! under the lock, decides: the mailbox by [`SendWaiter::finish`], or the sender by
//! [`Mailbox::withdraw`]. A message whose sender withdrew while a receiver had it is not received:
//! that receiver goes on waiting. A message whose sender waits is not read
//! until [`Mailbox::begin`]: a sender that withdraws before takes what is in it along, however
//! long the receiver leaves it alone.
//!
//! The sender of a request waits for its answer. It keeps its pointer in the message while that is
//! queued, received, and with the handle that owes the answer, until one of [`Mailbox::answer`],
//! [`Mailbox::abandon`] and [`Mailbox::withdraw`] takes it out.

use super::{
    indexed::Indexed,
    list::{Linked, Links, List, Owner},
    order::Ordered,
    receivers::{Receivers, Seat},
    tree::{Branches, Index},
};
use core::{cell::Cell, marker::PhantomData, ptr::NonNull};

/// A pointer that owns a message.
pub trait Message: Owner<Target = <Self as Message>::Entry> {
    /// The message itself.
    type Entry: Entry<Message = Self>;
    /// How a sender that waits is reached.
    type Sender: SendWaiter<Self::Entry>;

    /// The message.
    fn entry(&self) -> &Self::Entry;
}

/// A message.
pub trait Entry: Linked {
    /// The pointer that owns it.
    type Message: Message<Entry = Self>;

    /// The part of it that the queue looks at.
    fn node(&self) -> &Node<Self::Message>;

    /// Who sent it, as a number that stays the same; 0: nobody in particular.
    fn origin(&self) -> u64;
}

/// A sender that waits. The list of those whose messages are queued owns pointers that the senders
/// keep valid.
pub trait SendWaiter<E>: Copy + Owner {
    /// What wakes it, once the lock is dropped.
    type Wake;

    /// The group of receivers that it does not meet in a rendezvous; 0: it meets all.
    fn group(self) -> usize {
        0
    }

    /// Where it keeps its message while that is queued.
    fn message(sender: &Self::Target) -> &Cell<Option<NonNull<E>>>;

    /// Ends its wait.
    fn finish(self, sent: Sent) -> Self::Wake;
}

/// A receiver that waits. The list of them owns pointers that the receivers keep valid.
pub trait ReceiveWaiter<M>: Owner {
    /// What wakes it, once the lock is dropped.
    type Wake;

    /// The origin of the messages that it waits for; 0: any.
    fn origin(receiver: &Self::Target) -> u64;

    /// Its group: see [`SendWaiter::group`]; 0: none.
    fn group(receiver: &Self::Target) -> usize {
        let _ = receiver;
        0
    }

    /// Its place among those that wait.
    fn seat(receiver: &Self::Target) -> &Seat<Self::Target>;

    /// Ends its wait.
    fn finish(self, received: Received<M>) -> Self::Wake;
}

/// How the wait of a sender ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The message, or the reservation, is in.
    Accepted,
    /// The last receiver is gone.
    Closed,
    /// The handle that owed the answer to a request was closed, or its process is gone.
    Abandoned,
    /// Whoever owed the answer to a request dropped it.
    Dropped,
}

/// How the wait of a receiver ended.
#[derive(Debug)]
pub enum Received<M> {
    /// A message to copy, and then to commit, lease or put back.
    Message(M),
    /// The last sender is gone, and no message can come any more.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// With a task: one that sends, or one that copies it.
    Held,
    /// With a receiver that has not begun to copy it.
    Handed,
    /// In the queue.
    Queued,
    /// Waiting for room, with its sender.
    Blocked,
    /// A request that was received, with the handle that owes the answer.
    Owed,
}

/// The part of a message that the queue looks at. All of it belongs to whoever holds the lock of
/// the mailbox that the message was sent to.
pub struct Node<M: Message> {
    pub(super) links: Links<M::Entry>,
    /// By its place in the queue; of a message that is leased, owed or kept, by its token.
    pub(super) branches: Branches<M::Entry>,
    pub(super) origins: Branches<M::Entry>,
    pub(super) marks: Cell<u8>,
    pub(super) sequence: Cell<u64>,
    pub(super) priority: u16,
    len: u64,
    place: Cell<Place>,
    sender: Cell<Option<M::Sender>>,
    kind: Kind,
    withdrawn: Cell<bool>,
    redelivered: Cell<bool>,
    token: Cell<u64>,
    /// Who took it, where it is leased or owed an answer.
    holder: Cell<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Message,
    Request,
    /// A stand-in, which waits for room.
    Reservation,
}

// SAFETY: The cells are reached only by methods of `Mailbox` that have `&mut self`, so by one
// thread at a time, and a message is given to one mailbox only. A sender may be finished by
// another thread than its own, and can be sent there.
unsafe impl<M: Message> Sync for Node<M> where M::Sender: Send {}
// SAFETY: The pointers lead to elements of the same lists, which move with the mailbox; the sender
// can be sent.
unsafe impl<M: Message> Send for Node<M> where M::Sender: Send {}

impl<M: Message> Node<M> {
    /// The node of a message of `len` bytes.
    pub fn new(priority: u16, len: u64) -> Self {
        Self {
            links: Links::new(),
            branches: Branches::new(),
            origins: Branches::new(),
            marks: Cell::new(0),
            sequence: Cell::new(0),
            priority,
            len,
            place: Cell::new(Place::Held),
            sender: Cell::new(None),
            kind: Kind::Message,
            withdrawn: Cell::new(false),
            redelivered: Cell::new(false),
            token: Cell::new(0),
            holder: Cell::new(0),
        }
    }

    /// Makes it the node of a new message, in the memory of one that was received.
    pub fn renew(&mut self, priority: u16, len: u64) {
        self.priority = priority;
        self.len = len;
        self.kind = Kind::Message;
        self.place.set(Place::Held);
        self.sender.set(None);
        self.withdrawn.set(false);
        self.redelivered.set(false);
    }

    /// The node of a stand-in that waits for room for `len` bytes.
    pub fn reservation(len: u64) -> Self {
        Self {
            kind: Kind::Reservation,
            ..Self::new(0, len)
        }
    }

    /// Makes the message a request.
    pub fn make_request(&mut self) {
        self.kind = Kind::Request;
    }

    /// Whether it is a request, to be answered by who receives it.
    pub fn is_request(&self) -> bool {
        self.kind == Kind::Request
    }

    /// The links, for [`Linked`].
    pub fn links(&self) -> &Links<M::Entry> {
        &self.links
    }

    /// The priority.
    pub fn priority(&self) -> u16 {
        self.priority
    }

    /// The payload's bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it was taken before and not acknowledged. For the holder of the message.
    pub fn redelivered(&self) -> bool {
        self.redelivered.get()
    }

    /// Whether its sender waits, and so may withdraw it. For the holder of the lock.
    pub fn has_sender(&self) -> bool {
        self.sender.get().is_some()
    }

    /// Whether `holder` took it, with this token.
    fn is(&self, token: u64, holder: u64) -> bool {
        self.token.get() == token && self.holder.get() == holder
    }

    /// What this taking of it would be acknowledged with. For the holder of the message.
    pub fn token(&self) -> u64 {
        self.token.get()
    }
}

/// How much a mailbox takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Messages; 0: rendezvous.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What happened to a message that was sent.
#[derive(Debug)]
pub enum Sending<M, W> {
    /// It is in the queue.
    Queued,
    /// A receiver has it; wake that one.
    Given(W),
    /// Its sender waits now, and a receiver may have to be woken.
    Waits(Option<W>),
    /// It would have to wait.
    Full(M),
    /// The last receiver is gone.
    Closed(M),
}

/// What happened to a reservation.
#[derive(Debug)]
pub enum Reserving<M> {
    /// The room is there. Free the stand-in.
    Reserved(M),
    /// It waits now.
    Waits,
    /// It would have to wait.
    Full(M),
    /// The last receiver is gone.
    Closed(M),
}

/// What a receiver found.
#[derive(Debug)]
pub enum Take<M> {
    /// A message to copy, and then to commit, lease or put back.
    Message(M),
    /// The first message has more bytes than the buffer: this many.
    TooSmall(u64),
    /// There is none.
    Empty,
    /// It is not known yet: messages have to be sorted by origin first, some of which were. Drop the
    /// lock, and try again.
    More,
    /// There is none, and none can come any more.
    Ended,
}

/// How a receive ended.
#[derive(Debug)]
pub enum Commit<M, W> {
    /// It is received; here is its sender to wake, if that waited.
    Done(Option<W>),
    /// The sender withdrew it. Free it, and wait again.
    Withdrawn(M),
}

/// What a sender that stopped waiting gets back of its message.
#[derive(Debug)]
pub enum Withdrawn<M> {
    /// All of it.
    Message(M),
    /// What is in it: the receiver that has it has not begun to copy it, and will find it empty.
    Content,
    /// Nothing yet: a receiver is copying it, and will find that it was withdrawn.
    Copied,
    /// Nothing: it is a request that was received. Its answer will find nobody.
    Received,
}

/// What became of a message that was put back.
#[derive(Debug)]
pub enum Returned<M, S, W> {
    /// It is in the queue.
    Queued,
    /// A receiver that waited has it; wake that one.
    Given(W),
    /// No other receiver can come: wake its sender, and free the message.
    Refused(S, M),
    /// The sender withdrew it. Free it.
    Withdrawn(M),
}

/// A sender whose wait for room is over.
#[derive(Debug)]
pub struct Admitted<M, S, R> {
    /// The sender to wake; that of a request goes on waiting.
    pub sender: Option<S>,
    /// The receiver to wake, where one has the message now.
    pub receiver: Option<R>,
    /// The stand-in of a reservation, to be freed.
    pub stand_in: Option<M>,
}

/// Which of [`Mailbox::end_one_send`] and [`Mailbox::end_one_receive`] have to be called, until
/// they return `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The last receiver is gone.
    pub sends: bool,
    /// The last sender is gone, and nothing is left.
    pub receives: bool,
}

/// What a mailbox counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages accepted.
    pub sent: u64,
    /// Messages received for good.
    pub received: u64,
    /// Messages that came back after they had been taken to be acknowledged.
    pub redelivered: u64,
    /// Sends and reservations that found no room.
    pub full: u64,
    /// The most messages that were in it at once.
    pub high_messages: u64,
    /// The most bytes that were in it at once.
    pub high_bytes: u64,
}

struct ByToken<M>(PhantomData<M>);

impl<M: Message> Index for ByToken<M> {
    type Element = M::Entry;
    type Key = u64;

    fn branches<'a>(element: &'a M::Entry) -> &'a Branches<M::Entry>
    where
        Self: 'a,
    {
        &element.node().branches
    }

    fn key(element: &M::Entry) -> u64 {
        element.node().token.get()
    }
}

/// Messages of a handle that are found by their tokens.
struct Tokens<M: Message>(Indexed<M, ByToken<M>>);

impl<M: Message> Tokens<M> {
    const fn new() -> Self {
        Self(Indexed::new())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn push(&mut self, message: M) {
        // SAFETY: Its token is set, and a message is leased, owed or kept by one handle at a time.
        unsafe { self.0.push_back(message) };
    }

    fn find(&self, token: u64, holder: u64) -> Option<Raw<M>> {
        let at = self.0.from(token)?;
        // SAFETY: It is here, and so valid.
        unsafe { at.as_ref() }
            .node()
            .is(token, holder)
            .then_some(at)
    }

    fn take(&mut self, token: u64, holder: u64) -> Option<M> {
        let at = self.find(token, holder)?;
        // SAFETY: It was found here.
        Some(unsafe { self.0.remove(at) })
    }

    /// Takes out one of `holder`, or of anyone. It begins with the token `from`, and looks at some:
    /// [`Search::More`] says where to go on.
    fn take_of(&mut self, holder: Option<u64>, from: &mut u64) -> Search<M> {
        for _ in 0..SOME {
            let Some(at) = self.0.from(*from) else {
                return Search::None;
            };
            // SAFETY: It is here, and so valid.
            let node = unsafe { at.as_ref() }.node();
            *from = node.token.get() + 1;
            if holder.is_none_or(|holder| node.holder.get() == holder) {
                // SAFETY: It was found here.
                return Search::Found(unsafe { self.0.remove(at) });
            }
        }
        Search::More
    }
}

/// What a search found that looks at some messages at a time.
#[derive(Debug)]
pub enum Search<T> {
    /// This.
    Found(T),
    /// Nothing yet: drop the lock, and go on.
    More,
    /// Nothing.
    None,
}

/// How many messages are looked at under one hold of the lock.
const SOME: usize = 32;

/// What one handle has of a mailbox.
pub struct HandleState<M: Message> {
    /// Messages taken and not acknowledged.
    leases: Tokens<M>,
    /// Requests taken and not answered.
    owed: Tokens<M>,
    /// Answers that came and could not be delivered, to be fetched.
    kept: Tokens<M>,
    kept_token: u64,
    reserved_messages: u64,
    reserved_bytes: u64,
}

impl<M: Message> HandleState<M> {
    /// A handle that has nothing.
    pub const fn new() -> Self {
        Self {
            leases: Tokens::new(),
            owed: Tokens::new(),
            kept: Tokens::new(),
            kept_token: 0,
            reserved_messages: 0,
            reserved_bytes: 0,
        }
    }

    /// Reservations of the handle.
    pub fn reservations(&self) -> u64 {
        self.reserved_messages
    }

    /// A reservation of `len` bytes came through.
    pub fn add_reservation(&mut self, len: u64) {
        self.reserved_messages += 1;
        self.reserved_bytes += len;
    }

    /// The number of messages that were taken and not acknowledged.
    pub fn leases(&self) -> usize {
        self.leases.len()
    }

    /// The number of requests that were taken and not answered.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// The number of answers to be fetched.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Keeps an answer for `holder`; returns what it is fetched by.
    pub fn keep(&mut self, answer: M, holder: u64) -> u64 {
        self.kept_token += 1;
        answer.entry().node().token.set(self.kept_token);
        answer.entry().node().holder.set(holder);
        self.kept.push(answer);
        self.kept_token
    }

    /// Takes an answer out that was kept for `holder`.
    pub fn fetch(&mut self, token: u64, holder: u64) -> Option<M> {
        self.kept.take(token, holder)
    }

    /// Takes an answer out that was kept for `holder`, or for anyone, and is not going to be fetched.
    pub fn forget(&mut self, holder: Option<u64>, from: &mut u64) -> Search<M> {
        self.kept.take_of(holder, from)
    }
}

impl<M: Message> Default for HandleState<M> {
    fn default() -> Self {
        Self::new()
    }
}

/// A mailbox.
///
/// # Invariants
///
/// While a receiver waits, no message that it waits for is queued: it was, or will at once be,
/// given that. Who waits with a message that is queued is on the list `asking`.
/// `used_*` is the sum over queued, held, leased and reserved; what is blocked or owed is not in
/// it.
pub struct Mailbox<M: Message, R: ReceiveWaiter<M>> {
    queue: Ordered<M>,
    blocked: List<M>,
    /// Senders that wait for a receiver to have the bytes.
    offers: usize,
    /// Those whose messages are queued.
    asking: List<M::Sender>,
    waiting: Receivers<M, R>,
    capacity: Capacity,
    /// Peers can come back, so that neither side ever ends.
    persistent: bool,
    had_sender: bool,
    had_receiver: bool,
    senders: u32,
    receivers: u32,
    no_more_sends: bool,
    no_more_receives: bool,
    /// Both sides are there, and none of them is shut.
    peers: bool,
    /// Senders can always come back, so that receivers never see the end.
    endless: bool,
    used_messages: u64,
    used_bytes: u64,
    queued_bytes: u64,
    reserved_messages: u64,
    reserved_bytes: u64,
    leased: u64,
    sequence: u64,
    token: u64,
    counters: Counters,
}

type Wake<M> = <<M as Message>::Sender as SendWaiter<<M as Message>::Entry>>::Wake;
type Raw<M> = NonNull<<M as Message>::Entry>;

impl<M: Message, R: ReceiveWaiter<M>> Mailbox<M, R> {
    /// An empty mailbox.
    pub const fn new(capacity: Capacity, persistent: bool) -> Self {
        Self {
            queue: Ordered::new(),
            blocked: List::new(),
            offers: 0,
            asking: List::new(),
            waiting: Receivers::new(),
            capacity,
            persistent,
            had_sender: false,
            had_receiver: false,
            senders: 0,
            receivers: 0,
            no_more_sends: false,
            no_more_receives: false,
            peers: false,
            endless: false,
            used_messages: 0,
            used_bytes: 0,
            queued_bytes: 0,
            reserved_messages: 0,
            reserved_bytes: 0,
            leased: 0,
            sequence: 0,
            token: 0,
            counters: Counters {
                sent: 0,
                received: 0,
                redelivered: 0,
                full: 0,
                high_messages: 0,
                high_bytes: 0,
            },
        }
    }

    // What a look at it says.

    /// Its capacity.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// Its counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Messages that wait to be received, and their bytes.
    pub fn queued(&self) -> (u64, u64) {
        (self.queue.len() as u64, self.queued_bytes)
    }

    /// The message that a receiver of those of one origin, or of any (0), would get; of those that
    /// [`Mailbox::take_from`] has sorted.
    pub fn first(&self, origin: u64) -> Option<&M::Entry> {
        if origin == 0 {
            return self.queue.front();
        }
        let found = self.queue.first_of(origin)?;
        // SAFETY: It is in the queue, which it leaves only through `&mut self`.
        Some(unsafe { &*found.as_ptr() })
    }

    /// Messages that were taken and not acknowledged.
    pub fn leased(&self) -> u64 {
        self.leased
    }

    /// Messages for which room is reserved.
    pub fn reserved(&self) -> u64 {
        self.reserved_messages
    }

    /// Handles that may send.
    pub fn senders(&self) -> u32 {
        self.senders
    }

    /// Handles that may receive.
    pub fn receivers(&self) -> u32 {
        self.receivers
    }

    /// Sends and reservations that wait.
    pub fn waiting_senders(&self) -> usize {
        self.blocked.len() + self.offers
    }

    /// Receives that wait.
    pub fn waiting_receivers(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a send that waits returns only when a receiver has the bytes.
    pub fn rendezvous(&self) -> bool {
        self.capacity.messages == 0
    }

    /// Whether a message can be taken now.
    pub fn readable(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether a small message would be accepted now.
    pub fn writable(&self) -> bool {
        !self.refuses()
            && if self.rendezvous() {
                self.waiting.any() > 0
            } else {
                self.blocked.is_empty() && self.fits(1)
            }
    }

    /// Whether the last receiver is gone.
    pub fn closed(&self) -> bool {
        self.no_more_receives || (self.had_receiver && self.receivers == 0 && !self.persistent)
    }

    /// Whether nothing more is taken from senders.
    pub fn refuses(&self) -> bool {
        self.no_more_sends || self.closed()
    }

    /// Whether the last sender is gone and no message can come any more: what a receiver holds
    /// may yet come back.
    pub fn ended(&self) -> bool {
        let shut = self.no_more_sends || self.no_more_receives;
        (shut || (self.had_sender && self.senders == 0 && !self.persistent && !self.endless))
            // Room that is still reserved brings nothing any more.
            && self.used_messages == self.reserved_messages
    }

    #[inline]
    fn fits(&self, len: u64) -> bool {
        self.used_messages < self.capacity.messages
            && self
                .used_bytes
                .checked_add(len)
                .is_some_and(|bytes| bytes <= self.capacity.bytes)
    }

    #[inline(always)]
    fn use_up(&mut self, len: u64) {
        self.used_messages += 1;
        self.used_bytes += len;
        let counters = &mut self.counters;
        counters.high_messages = counters
            .high_messages
            .max(self.used_messages - self.reserved_messages);
        counters.high_bytes = counters
            .high_bytes
            .max(self.used_bytes - self.reserved_bytes);
    }

    #[inline]
    fn give_room(&mut self, len: u64) {
        self.used_messages -= 1;
        self.used_bytes -= len;
    }

    // Who is there.

    /// A handle that may send or receive, or both, was opened.
    pub fn open(&mut self, sends: bool, receives: bool) {
        self.senders += u32::from(sends);
        self.receivers += u32::from(receives);
        self.had_sender |= sends;
        self.had_receiver |= receives;
        self.look_for_peers();
    }

    fn look_for_peers(&mut self) {
        let shut = self.no_more_sends || self.no_more_receives;
        self.peers = self.senders != 0 && self.receivers != 0 && !shut;
    }

    /// A handle was closed. Its leases have been given back before.
    pub fn close(&mut self, sends: bool, receives: bool, state: &mut HandleState<M>) -> End {
        self.senders -= u32::from(sends);
        self.receivers -= u32::from(receives);
        self.look_for_peers();
        self.unreserve_some(state, u64::MAX, u64::MAX);
        self.end()
    }

    /// Gives `count` reservations of `bytes` together back, or all that the handle has.
    pub fn unreserve_some(&mut self, state: &mut HandleState<M>, count: u64, bytes: u64) {
        let count = count.min(state.reserved_messages);
        let bytes = bytes.min(state.reserved_bytes);
        state.reserved_messages -= count;
        state.reserved_bytes -= bytes;
        self.reserved_messages -= count;
        self.reserved_bytes -= bytes;
        self.used_messages -= count;
        self.used_bytes -= bytes;
    }

    /// Receivers do not see the end when the last sender is gone: another one can come.
    pub fn never_end(&mut self) {
        self.endless = true;
    }

    /// Nobody comes any more: a side without handles, now or later, is gone. What has `senders` or
    /// `receivers` has handles of that side, which may not be open yet.
    pub fn orphan(&mut self, senders: bool, receivers: bool) {
        self.persistent = false;
        self.endless = false;
        self.had_sender |= !senders;
        self.had_receiver |= !receivers;
    }

    /// Nobody sends, or nobody receives, any more, whatever handles are open. What was sent before
    /// can still be received.
    pub fn shut(&mut self, sends: bool, receives: bool) {
        self.no_more_sends |= sends;
        self.no_more_receives |= receives;
        self.look_for_peers();
    }

    /// Whether, at a glance, a change brought nothing that anybody waits for: both sides are there,
    /// and no sender waits for room.
    #[inline]
    pub fn calm(&self) -> bool {
        self.blocked.is_empty() && self.peers
    }

    /// Whether nobody has to be let in or told that the other side is gone.
    pub fn settled(&self) -> bool {
        self.blocked.is_empty()
            && (self.asking.is_empty() || !self.ends_asking())
            && (self.waiting.is_empty() || !self.ended())
    }

    /// The number of waiters. A caller that gives room ends or admits at most as many as there were
    /// when it began; a sender that joins later checks [`Self::must_admit`] itself.
    pub fn waiters(&self) -> usize {
        self.blocked.len() + self.asking.len() + self.waiting.len()
    }

    /// Returns true if the sender that has waited longest fits now: its message has to be admitted.
    #[inline]
    pub fn must_admit(&self) -> bool {
        let first = self.blocked.front();
        first.is_some_and(|first| self.fits(first.node().len)) && !self.refuses()
    }

    /// Whether who waits with a queued message waits in vain. A request that is queued was sent, and
    /// can be answered as long as it can be received.
    fn ends_asking(&self) -> bool {
        match self.rendezvous() {
            true => self.refuses(),
            false => self.closed(),
        }
    }

    /// Which waits have to be ended.
    pub fn end(&self) -> End {
        End {
            sends: self.refuses(),
            receives: self.ended() && !self.waiting.is_empty(),
        }
    }

    /// Ends the wait of one sender if the last receiver is gone.
    pub fn end_one_send(&mut self) -> Option<(Wake<M>, M)> {
        if !self.refuses() {
            return None;
        }
        let message = match self.blocked.pop_front() {
            Some(message) => message,
            None if !self.ends_asking() => return None,
            None => {
                let message = M::Sender::message(self.asking.front()?).get()?;
                self.end_offer();
                // SAFETY: Its sender is on the list, so that it is in the queue.
                unsafe { self.unqueue(message) }
            }
        };
        let sender = message.entry().node().sender.take()?;
        Some((sender.finish(Sent::Closed), message))
    }

    /// Ends the wait of one receiver if the last sender is gone and nothing is left.
    pub fn end_one_receive(&mut self) -> Option<R::Wake> {
        if !self.ended() {
            return None;
        }
        let receiver = self.waiting.pop_any(self.rendezvous())?;
        Some(receiver.finish(Received::Ended))
    }

    /// Takes one message out that was accepted, if the last receiver is gone, and those that wait
    /// were told. It is to be freed.
    pub fn purge_one(&mut self) -> Option<M> {
        if !self.closed() {
            return None;
        }
        // Those whose senders wait were ended before.
        let message = self.queue.front()?;
        if message.node().sender.get().is_some() {
            return None;
        }
        let message = self.queue.pop_front()?;
        let len = message.entry().node().len;
        self.queued_bytes -= len;
        self.give_room(len);
        Some(message)
    }

    /// Whoever waits in a mailbox of capacity 0 with a message that is not blocked is an offer.
    #[inline]
    fn end_offer(&mut self) {
        if self.rendezvous() {
            self.offers -= 1;
        }
    }

    // Sending.

    /// Sends a message if nothing has to wait for that: the usual case. Otherwise it comes back.
    #[inline(always)]
    pub fn send_now(&mut self, message: M) -> Result<Option<R::Wake>, M> {
        let len = message.entry().node().len;
        if self.blocked.is_empty() && self.fits(len) && (self.peers || !self.refuses()) {
            Ok(self.accept(message))
        } else {
            Err(message)
        }
    }

    /// Sends a message. `waiter` is its sender, where that waits: in a rendezvous, until a receiver
    /// has the bytes. A message whose sender does not wait is accepted there when it is handed to a
    /// receiver that waits.
    ///
    /// # Safety
    ///
    /// `waiter` stays valid until it was finished or the message was withdrawn.
    pub unsafe fn send(&mut self, message: M, waiter: Option<M::Sender>) -> Sending<M, R::Wake> {
        if self.refuses() {
            return Sending::Closed(message);
        }
        let len = message.entry().node().len;
        if self.rendezvous() {
            let receiver = self.pop_waiting(&message, waiter);
            if waiter.is_some() {
                message.entry().node().sender.set(waiter);
                self.offers += 1;
                return Sending::Waits(match receiver {
                    Some(receiver) => Some(self.give(receiver, message)),
                    None => {
                        self.enqueue(message);
                        None
                    }
                });
            }
            if let Some(receiver) = receiver {
                self.counters.sent += 1;
                return Sending::Given(self.give(receiver, message));
            }
        } else if self.blocked.is_empty() && self.fits(len) {
            return match self.accept(message) {
                Some(wake) => Sending::Given(wake),
                None => Sending::Queued,
            };
        } else if waiter.is_some() {
            self.counters.full += 1;
            message.entry().node().sender.set(waiter);
            message.entry().node().place.set(Place::Blocked);
            self.blocked.push_back(message);
            return Sending::Waits(None);
        }
        self.counters.full += 1;
        Sending::Full(message)
    }

    /// Sends a request, whose caller waits until it is answered.
    ///
    /// # Safety
    ///
    /// `caller` stays valid until it was finished or the message was withdrawn.
    pub unsafe fn call(&mut self, request: M, caller: M::Sender) -> Sending<M, R::Wake> {
        if self.rendezvous() {
            // SAFETY: By the contract.
            return unsafe { self.send(request, Some(caller)) };
        }
        if self.refuses() {
            return Sending::Closed(request);
        }
        let node = request.entry().node();
        node.sender.set(Some(caller));
        Sending::Waits(if self.blocked.is_empty() && self.fits(node.len) {
            self.accept(request)
        } else {
            self.counters.full += 1;
            node.place.set(Place::Blocked);
            self.blocked.push_back(request);
            None
        })
    }

    /// Takes a message back from a sender that stops waiting. A message that a receiver has uses no
    /// room from here on.
    ///
    /// # Safety
    ///
    /// `message` was sent to this mailbox with a waiter, which was not finished yet.
    pub unsafe fn withdraw(&mut self, message: Raw<M>) -> Withdrawn<M> {
        // SAFETY: A message that has a waiter is freed only after that was finished.
        let node = unsafe { message.as_ref() }.node();
        match node.place.replace(Place::Held) {
            place @ (Place::Held | Place::Handed) => {
                node.sender.set(None);
                self.end_offer();
                node.withdrawn.set(true);
                self.give_room(node.len);
                match place {
                    Place::Handed => Withdrawn::Content,
                    _ => Withdrawn::Copied,
                }
            }
            Place::Owed => {
                node.sender.set(None);
                node.place.set(Place::Owed);
                Withdrawn::Received
            }
            Place::Queued => {
                self.end_offer();
                // SAFETY: By its place it is in the queue.
                let message = unsafe { self.unqueue(message) };
                message.entry().node().sender.set(None);
                Withdrawn::Message(message)
            }
            Place::Blocked => {
                node.sender.set(None);
                // SAFETY: By its place it is on this list.
                Withdrawn::Message(unsafe { self.blocked.remove(message) })
            }
        }
    }

    /// Another waiter waits for a message, or a request, in the place of its sender.
    ///
    /// # Safety
    ///
    /// `message` was sent to this mailbox with a waiter, which was not finished yet; `waiter` stays
    /// valid as that one had to.
    pub unsafe fn change_waiter(&mut self, message: Raw<M>, waiter: M::Sender) {
        // SAFETY: A message that has a waiter is freed only after that was finished.
        let node = unsafe { message.as_ref() }.node();
        let before = node.sender.replace(Some(waiter));
        let (Place::Queued, Some(before)) = (node.place.get(), before) else {
            return;
        };
        let before = before.into_raw();
        // SAFETY: By its place its sender is on the list, and valid, as the new one is.
        unsafe {
            let waiter = self.asking.insert_after(Some(before), waiter);
            self.asking.remove(before);
            M::Sender::message(before.as_ref()).set(None);
            M::Sender::message(waiter.as_ref()).set(Some(message));
        }
    }

    /// Lets in the sender that waits longest, if there is room for it now.
    pub fn admit(&mut self) -> Option<Admitted<M, Wake<M>, R::Wake>> {
        if !self.must_admit() {
            return None;
        }
        let message = self.blocked.pop_front()?;
        let node = message.entry().node();
        let sender = match node.kind {
            Kind::Request => None,
            _ => Some(node.sender.take()?.finish(Sent::Accepted)),
        };
        if node.kind == Kind::Reservation {
            self.count_reserved(node.len);
            return Some(Admitted {
                sender,
                receiver: None,
                stand_in: Some(message),
            });
        }
        let receiver = self.accept(message);
        Some(Admitted {
            sender,
            receiver,
            stand_in: None,
        })
    }

    /// Takes out the receiver that waits longest for a message like this, whose sender meets it.
    #[inline(always)]
    fn pop_waiting(&mut self, message: &M, sender: Option<M::Sender>) -> Option<R> {
        let but = sender.map_or(0, SendWaiter::group);
        let meets = self.rendezvous();
        self.waiting.pop(|| message.entry().origin(), but, meets)
    }

    /// Takes a message for which there is room: to a receiver that waits, or into the queue.
    #[inline(always)]
    fn accept(&mut self, message: M) -> Option<R::Wake> {
        self.counters.sent += 1;
        match self.pop_waiting(&message, None) {
            Some(receiver) => Some(self.give(receiver, message)),
            None => {
                self.enqueue(message);
                None
            }
        }
    }

    #[inline(always)]
    fn enqueue(&mut self, message: M) {
        self.number(message.entry().node());
        self.requeue(message);
    }

    #[inline(always)]
    fn requeue(&mut self, message: M) {
        let node = message.entry().node();
        node.place.set(Place::Queued);
        self.queued_bytes += node.len;
        let asks = node.sender.get().is_some();
        let at = self.queue.insert(message);
        if asks {
            self.asks(at);
        }
    }

    /// The sender of a message that is queued waits.
    #[inline(never)]
    fn asks(&mut self, at: Raw<M>) {
        // SAFETY: It is in the queue, so that it is valid.
        let sender = unsafe { at.as_ref() }.node().sender.get();
        if let Some(sender) = sender {
            let sender = self.asking.push_back(sender);
            // SAFETY: It waits, so that it is valid.
            M::Sender::message(unsafe { sender.as_ref() }).set(Some(at));
        }
    }

    /// The message leaves the queue.
    #[inline(never)]
    fn asked(&mut self, sender: M::Sender) {
        // SAFETY: Its message was queued, and it waits: it is on the list.
        unsafe { self.asking.remove(sender.into_raw()) };
    }

    /// # Safety
    ///
    /// `message` is in the queue.
    unsafe fn unqueue(&mut self, message: Raw<M>) -> M {
        // SAFETY: By the contract.
        let message = unsafe { self.queue.remove(message) };
        let node = message.entry().node();
        if let Some(sender) = node.sender.get() {
            self.asked(sender);
        }
        self.queued_bytes -= node.len;
        self.give_room(node.len);
        message
    }

    /// Gives a new message to a receiver that waits.
    #[inline]
    fn give(&mut self, receiver: R, message: M) -> R::Wake {
        self.number(message.entry().node());
        self.hand_over(receiver, message)
    }

    fn hand_over(&mut self, receiver: R, message: M) -> R::Wake {
        self.hold(message.entry().node());
        receiver.finish(Received::Message(message))
    }

    /// A message enters: it uses room, and gets its place in the order.
    #[inline]
    fn number(&mut self, node: &Node<M>) {
        self.use_up(node.len);
        self.sequence += 1;
        node.sequence.set(self.sequence);
    }

    /// A receiver takes a message. Every taking has a token of its own.
    #[inline]
    fn hold(&mut self, node: &Node<M>) {
        self.token += 1;
        node.token.set(self.token);
        node.place.set(Place::Handed);
    }

    // Room in advance.

    /// Reserves room for as many bytes as the stand-in says.
    ///
    /// # Safety
    ///
    /// As for [`Mailbox::send`].
    pub unsafe fn reserve(
        &mut self,
        stand_in: M,
        waiter: M::Sender,
        may_wait: bool,
    ) -> Reserving<M> {
        if self.refuses() {
            return Reserving::Closed(stand_in);
        }
        let node = stand_in.entry().node();
        if self.blocked.is_empty() && self.fits(node.len) {
            self.count_reserved(node.len);
            return Reserving::Reserved(stand_in);
        }
        self.counters.full += 1;
        if !may_wait {
            return Reserving::Full(stand_in);
        }
        node.sender.set(Some(waiter));
        node.place.set(Place::Blocked);
        self.blocked.push_back(stand_in);
        Reserving::Waits
    }

    fn count_reserved(&mut self, len: u64) {
        self.reserved_messages += 1;
        self.reserved_bytes += len;
        self.use_up(len);
    }

    /// Gives a reservation of `len` bytes back; `false` if the handle has none such.
    pub fn unreserve(&mut self, state: &mut HandleState<M>, len: u64) -> bool {
        if state.reserved_messages == 0 || state.reserved_bytes < len {
            return false;
        }
        // The last one takes all that is left with it: reservations are not told apart.
        let len = if state.reserved_messages == 1 {
            state.reserved_bytes
        } else {
            len
        };
        state.reserved_messages -= 1;
        state.reserved_bytes -= len;
        self.reserved_messages -= 1;
        self.reserved_bytes -= len;
        self.give_room(len);
        true
    }

    /// Sends a message into room that was reserved. `Full`: the handle has no such reservation.
    pub fn send_reserved(
        &mut self,
        state: &mut HandleState<M>,
        message: M,
        reserved: u64,
    ) -> Sending<M, R::Wake> {
        if self.refuses() {
            return Sending::Closed(message);
        }
        if message.entry().node().len > reserved || !self.unreserve(state, reserved) {
            return Sending::Full(message);
        }
        match self.accept(message) {
            Some(wake) => Sending::Given(wake),
            None => Sending::Queued,
        }
    }

    // Receiving.

    /// Takes the first message if it has at most `room` bytes.
    pub fn take(&mut self, room: u64) -> Take<M> {
        match self.queue.front().map(|entry| entry.node().len) {
            Some(len) if len > room => return Take::TooSmall(len),
            Some(_) => {}
            None if self.ended() => return Take::Ended,
            None => return Take::Empty,
        }
        match self.queue.pop_front() {
            Some(message) => Take::Message(self.taken(message)),
            None => Take::Empty,
        }
    }

    /// Takes the first message if there is one and it has at most `room` bytes: the usual case.
    #[inline]
    pub fn take_now(&mut self, room: u64) -> Option<M> {
        if self.queue.front()?.node().len > room {
            return None;
        }
        let message = self.queue.pop_front()?;
        Some(self.taken(message))
    }

    /// Takes the first message if all is [calm](Self::calm), nobody waits for it to be received, and it
    /// is `wanted`: to be received without more ado than [`Mailbox::commit`].
    #[inline]
    pub fn take_plain(&mut self, wanted: impl FnOnce(&M::Entry) -> bool) -> Option<M> {
        if !self.calm() {
            return None;
        }
        let first = self.queue.front()?;
        let node = first.node();
        if node.kind != Kind::Message || node.sender.get().is_some() || !wanted(first) {
            return None;
        }
        let message = self.queue.pop_front()?;
        Some(self.taken(message))
    }

    /// Receives the first message in one step, if all is [calm](Self::calm), nobody waits for it to
    /// be received, and `copy` has its bytes: the usual case. Otherwise nothing is changed.
    #[inline]
    pub fn receive_now(&mut self, copy: impl FnOnce(&M::Entry) -> bool) -> Option<M> {
        if !self.calm() {
            return None;
        }
        let first = self.queue.front()?;
        let node = first.node();
        if node.kind != Kind::Message || node.sender.get().is_some() || !copy(first) {
            return None;
        }
        let message = self.queue.pop_front()?;
        let len = message.entry().node().len;
        self.queued_bytes -= len;
        self.give_room(len);
        self.counters.received += 1;
        Some(message)
    }

    /// Takes the first message of one origin if it has at most `room` bytes.
    pub fn take_from(&mut self, origin: u64, room: u64) -> Take<M> {
        if !self.queue.index_some(SOME) {
            return Take::More;
        }
        let Some(found) = self.queue.first_of(origin) else {
            return if self.ended() {
                Take::Ended
            } else {
                Take::Empty
            };
        };
        // SAFETY: It was found in the queue.
        let len = unsafe { found.as_ref() }.node().len;
        if len > room {
            return Take::TooSmall(len);
        }
        // SAFETY: It was found in the queue.
        let message = unsafe { self.queue.remove(found) };
        Take::Message(self.taken(message))
    }

    #[inline]
    fn taken(&mut self, message: M) -> M {
        let node = message.entry().node();
        if let Some(sender) = node.sender.get() {
            self.asked(sender);
        }
        self.hold(node);
        self.queued_bytes -= node.len;
        message
    }

    /// Lets a receiver wait, after [`Mailbox::take`] found nothing under the same lock.
    ///
    /// # Safety
    ///
    /// The receiver stays valid until it was finished or left.
    pub unsafe fn wait(&mut self, receiver: R) {
        let meets = self.rendezvous();
        // SAFETY: By the contract it stays valid.
        unsafe { self.waiting.add(receiver, meets, false) };
    }

    /// Lets a receiver wait whose message was withdrawn: it was here before those that wait now.
    ///
    /// # Safety
    ///
    /// As for [`Mailbox::wait`].
    pub unsafe fn wait_again(&mut self, receiver: R) {
        let meets = self.rendezvous();
        // SAFETY: By the contract it stays valid.
        unsafe { self.waiting.add(receiver, meets, true) };
    }

    /// Ends a receiver's wait from its own side.
    ///
    /// # Safety
    ///
    /// It waits here, and was not finished.
    pub unsafe fn leave(&mut self, receiver: NonNull<R::Target>) -> R {
        let meets = self.rendezvous();
        // SAFETY: By the contract it waits here.
        unsafe { self.waiting.remove(receiver, meets) }
    }

    /// A receiver is about to copy a message that it has. `false`: its sender withdrew it,
    /// and nothing is in it any more. Only a message whose sender waits can be withdrawn.
    pub fn begin(&mut self, message: &M) -> bool {
        let node = message.entry().node();
        node.place.set(Place::Held);
        !node.withdrawn.get()
    }

    /// The receiver has the bytes, and will receive the message or put it back: its sender is done, and
    /// cannot withdraw it any more.
    pub fn dismiss(&mut self, message: &M) -> Commit<(), Wake<M>> {
        let node = message.entry().node();
        if node.withdrawn.get() {
            return Commit::Withdrawn(());
        }
        Commit::Done(self.finish_sender(node))
    }

    /// The receiver has the bytes, and the message is to be freed either way.
    pub fn commit(&mut self, message: &M) -> Commit<(), Wake<M>> {
        let node = message.entry().node();
        if node.withdrawn.get() {
            return Commit::Withdrawn(());
        }
        self.give_room(node.len);
        self.counters.received += 1;
        Commit::Done(self.finish_sender(node))
    }

    /// The sender of a rendezvous is done as soon as a receiver has the bytes.
    #[inline]
    fn finish_sender(&mut self, node: &Node<M>) -> Option<Wake<M>> {
        let sender = node.sender.take()?;
        self.offers -= 1;
        self.counters.sent += 1;
        Some(sender.finish(Sent::Accepted))
    }

    /// The receiver has the bytes of a request, and owes the answer: the token that it answers
    /// with is set. `holder` says who it is, for [`Mailbox::abandon`].
    pub fn owe(&mut self, state: &mut HandleState<M>, request: M, holder: u64) -> Commit<M, ()> {
        let node = request.entry().node();
        if node.withdrawn.get() {
            return Commit::Withdrawn(request);
        }
        self.give_room(node.len);
        if self.rendezvous() {
            self.offers -= 1;
            self.counters.sent += 1;
        }
        self.counters.received += 1;
        node.holder.set(holder);
        node.place.set(Place::Owed);
        state.owed.push(request);
        Commit::Done(None)
    }

    /// Whether the caller of a request still waits for the answer; `None` if `holder` owes no such
    /// answer through the handle.
    pub fn caller_waits(&self, state: &HandleState<M>, token: u64, holder: u64) -> Option<bool> {
        let request = state.owed.find(token, holder)?;
        // SAFETY: The handle has it, under the same lock.
        Some(unsafe { request.as_ref() }.node().sender.get().is_some())
    }

    /// Takes out a request that is answered, and the caller to give the answer to, under the same
    /// lock, if that still waits. `None` if `holder` owes no such answer through the handle.
    pub fn answer(
        &mut self,
        state: &mut HandleState<M>,
        token: u64,
        holder: u64,
    ) -> Option<(M, Option<M::Sender>)> {
        let request = state.owed.take(token, holder)?;
        let caller = request.entry().node().sender.take();
        Some((request, caller))
    }

    /// Ends the wait of one caller whose answer is owed by `holder`, or by anyone. The request is
    /// to be freed, and its caller woken if it still waits. The search begins with the token `from`:
    /// at first 0.
    pub fn abandon(
        &mut self,
        state: &mut HandleState<M>,
        holder: Option<u64>,
        from: &mut u64,
    ) -> Search<(M, Option<Wake<M>>)> {
        let request = match state.owed.take_of(holder, from) {
            Search::Found(request) => request,
            Search::More => return Search::More,
            Search::None => return Search::None,
        };
        let caller = request.entry().node().sender.take();
        let caller = caller.map(|caller| caller.finish(Sent::Abandoned));
        Search::Found((request, caller))
    }

    /// The receiver has the bytes and will acknowledge them: the token that it does so with is
    /// set. `holder` says who it is, for [`Mailbox::reclaim`].
    pub fn lease(
        &mut self,
        state: &mut HandleState<M>,
        message: M,
        holder: u64,
    ) -> Commit<M, Wake<M>> {
        let node = message.entry().node();
        if node.withdrawn.get() {
            return Commit::Withdrawn(message);
        }
        node.holder.set(holder);
        let sender = self.finish_sender(node);
        self.leased += 1;
        state.leases.push(message);
        Commit::Done(sender)
    }

    /// Settles a message that `holder` took: it is done with. Returns it to be freed.
    pub fn acknowledge(
        &mut self,
        state: &mut HandleState<M>,
        token: u64,
        holder: u64,
    ) -> Option<M> {
        let message = self.unlease(state, token, holder)?;
        self.give_room(message.entry().node().len);
        self.counters.received += 1;
        Some(message)
    }

    /// Settles a message the other way: back to its place, as redelivered.
    pub fn requeue_leased(
        &mut self,
        state: &mut HandleState<M>,
        token: u64,
        holder: u64,
    ) -> Option<Returned<M, Wake<M>, R::Wake>> {
        let message = self.unlease(state, token, holder)?;
        Some(self.redeliver(message))
    }

    /// Puts one message back that was taken by `holder`, or by anyone, and not settled. The search
    /// begins with the token `from`: at first 0.
    pub fn reclaim(
        &mut self,
        state: &mut HandleState<M>,
        holder: Option<u64>,
        from: &mut u64,
    ) -> Search<Returned<M, Wake<M>, R::Wake>> {
        match state.leases.take_of(holder, from) {
            Search::Found(message) => {
                self.leased -= 1;
                Search::Found(self.redeliver(message))
            }
            Search::More => Search::More,
            Search::None => Search::None,
        }
    }

    fn unlease(&mut self, state: &mut HandleState<M>, token: u64, holder: u64) -> Option<M> {
        let message = state.leases.take(token, holder)?;
        self.leased -= 1;
        Some(message)
    }

    fn redeliver(&mut self, message: M) -> Returned<M, Wake<M>, R::Wake> {
        message.entry().node().redelivered.set(true);
        self.counters.redelivered += 1;
        self.put_back(message)
    }

    /// Puts a message back into its place: it could not be copied, or was not acknowledged.
    pub fn put_back(&mut self, message: M) -> Returned<M, Wake<M>, R::Wake> {
        let node = message.entry().node();
        if node.withdrawn.get() {
            return Returned::Withdrawn(message);
        }
        let sender = node.sender.get();
        if let (Some(_), true) = (sender, self.closed()) {
            return self.refuse(message);
        }
        // A request is answered later than it is received: any receiver will do.
        let offers = sender.filter(|_| self.rendezvous());
        if let Some(receiver) = self.pop_waiting(&message, offers) {
            return Returned::Given(self.hand_over(receiver, message));
        }
        self.requeue(message);
        Returned::Queued
    }

    /// Ends the wait of a sender whose message came back to where nobody receives any more.
    fn refuse(&mut self, message: M) -> Returned<M, Wake<M>, R::Wake> {
        let node = message.entry().node();
        let Some(sender) = node.sender.take() else {
            return Returned::Withdrawn(message);
        };
        self.end_offer();
        self.give_room(node.len);
        Returned::Refused(sender.finish(Sent::Closed), message)
    }
}
