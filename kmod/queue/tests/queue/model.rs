// SPDX-License-Identifier: GPL-2.0
//! Random operations on a mailbox, and on a plain model that keeps a sorted vector: both must
//! say the same after every step, about every message, waiter and number.

use crate::host::{
    Drops, Letter, Post, Receiver, ReceiverPtr, ReceiverWoken, Sender, SenderPtr, SenderWoken,
};
use postbox_queue::{
    Capacity, Commit, Counters, End, Entry, HandleState, Mailbox, Message, Received, Reserving,
    Returned, Search, SendWaiter, Sending, Sent, Take, Withdrawn,
};
use proptest::{prelude::*, test_runner::Config};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    ptr::NonNull,
    rc::Rc,
};

/// An operation on what is there now. Messages and their senders have the same number.
#[derive(Clone, Copy, Debug)]
enum Step {
    Open {
        sends: bool,
        receives: bool,
    },
    Close {
        handle: usize,
    },
    Send {
        handle: usize,
        id: usize,
        priority: u16,
        len: u64,
        origin: u64,
        wait: bool,
    },
    Call {
        handle: usize,
        id: usize,
        priority: u16,
        len: u64,
        origin: u64,
    },
    SendReserved {
        handle: usize,
        id: usize,
        priority: u16,
        len: u64,
        reserved: u64,
    },
    Reserve {
        handle: usize,
        id: usize,
        len: u64,
        wait: bool,
    },
    Unreserve {
        handle: usize,
        len: u64,
    },
    Receive(Receive),
    Commit {
        receiver: usize,
    },
    Lease {
        receiver: usize,
        holder: u64,
    },
    /// The receiver of a request owes the answer from now on.
    Owe {
        receiver: usize,
        holder: u64,
    },
    PutBack {
        receiver: usize,
    },
    /// A receiver begins to copy its message.
    Begin {
        receiver: usize,
    },
    Withdraw {
        id: usize,
    },
    /// Asks whether the caller still waits.
    Check {
        handle: usize,
        id: usize,
    },
    Answer {
        handle: usize,
        id: usize,
        drop: bool,
    },
    /// An answer that did not fit the caller's buffer.
    Keep {
        handle: usize,
        id: usize,
    },
    Fetch {
        handle: usize,
        id: usize,
    },
    Shut {
        sends: bool,
        receives: bool,
    },
    Leave {
        receiver: usize,
    },
    Acknowledge {
        handle: usize,
        id: usize,
    },
    Requeue {
        handle: usize,
        id: usize,
    },
    Reclaim {
        handle: usize,
        holder: u64,
    },
    /// Takes out what nobody can receive.
    Purge,
    /// What a caller does before it drops the lock: lets in and ends who can be.
    Settle,
}

/// A receive that was called for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Receive {
    handle: usize,
    receiver: usize,
    room: u64,
    /// Whose messages it wants; 0: anybody's.
    from: u64,
    wait: bool,
}

impl Receive {
    fn wants(&self, item: &Item) -> bool {
        self.from == 0 || self.from == item.origin
    }
}

/// What is seen of a step.
#[derive(Clone, Debug, PartialEq)]
enum Event {
    Accepted,
    Waits,
    Full,
    Closed,
    Got {
        receiver: usize,
        id: usize,
        request: bool,
        redelivered: bool,
    },
    TooSmall(u64),
    Empty,
    Ended {
        receiver: usize,
    },
    Sent {
        id: usize,
        sent: Sent,
    },
    Received,
    Withdrawn,
    /// The sender has what was in the message.
    Content,
    Copied,
    Returned,
    Nothing,
    Freed(usize),
}

use Event::{Accepted, Closed, Empty, Ended, Freed, Full, Got, Nothing, TooSmall, Waits};

/// What is seen of a mailbox at rest.
#[derive(Debug, PartialEq)]
struct Look {
    queued: (u64, u64),
    leased: u64,
    reserved: u64,
    senders: u32,
    receivers: u32,
    waiting_senders: usize,
    waiting_receivers: usize,
    readable: bool,
    writable: bool,
    closed: bool,
    refuses: bool,
    ended: bool,
    end: End,
    counters: Counters,
    /// Of each handle: what is leased, owed and kept.
    handles: Vec<[usize; 3]>,
}

// The model.

#[derive(Clone, Debug)]
struct Item {
    id: usize,
    priority: u16,
    len: u64,
    /// Who sent it.
    origin: u64,
    /// Its sender waits for the answer.
    request: bool,
    sequence: u64,
    redelivered: bool,
    /// Its sender waits for it to be received.
    offered: bool,
    withdrawn: bool,
    /// The receiver that has it has not begun to copy it.
    handed: bool,
    /// Who took it, to acknowledge it.
    holder: u64,
    /// When it was taken.
    taken: u64,
}

#[derive(Default)]
struct ModelHandle {
    open: bool,
    sends: bool,
    receives: bool,
    leases: Vec<Item>,
    owed: Vec<Item>,
    kept: Vec<usize>,
    reserved: u64,
    reserved_bytes: u64,
}

enum Blocked {
    Message(Item),
    Reservation { handle: usize, id: usize, len: u64 },
}

impl Blocked {
    fn id_len(&self) -> (usize, u64) {
        match self {
            Blocked::Message(item) => (item.id, item.len),
            Blocked::Reservation { id, len, .. } => (*id, *len),
        }
    }
}

struct Model {
    capacity: Capacity,
    persistent: bool,
    handles: Vec<ModelHandle>,
    queue: Vec<Item>,
    held: Vec<(Receive, Item)>,
    blocked: VecDeque<Blocked>,
    waiting: VecDeque<Receive>,
    /// There can always be new senders.
    endless: bool,
    shut_sends: bool,
    shut_receives: bool,
    /// The handles that those who wait use.
    sender_handles: BTreeMap<usize, usize>,
    freed: BTreeSet<usize>,
    sequence: u64,
    takes: u64,
    counters: Counters,
    events: Vec<Event>,
}

impl Model {
    fn new(capacity: Capacity, persistent: bool) -> Self {
        Self {
            capacity,
            persistent,
            handles: Vec::new(),
            queue: Vec::new(),
            held: Vec::new(),
            blocked: VecDeque::new(),
            waiting: VecDeque::new(),
            endless: false,
            shut_sends: false,
            shut_receives: false,
            sender_handles: BTreeMap::new(),
            freed: BTreeSet::new(),
            sequence: 0,
            takes: 0,
            counters: Counters::default(),
            events: Vec::new(),
        }
    }

    fn rendezvous(&self) -> bool {
        self.capacity.messages == 0
    }

    fn peers(&self, open: bool, which: impl Fn(&ModelHandle) -> bool) -> usize {
        let handles = self.handles.iter();
        handles.filter(|h| (h.open || !open) && which(h)).count()
    }

    fn closed(&self) -> bool {
        let (ever, now) = (
            self.peers(false, |h| h.receives),
            self.peers(true, |h| h.receives),
        );
        self.shut_receives || !self.persistent && ever > 0 && now == 0
    }

    fn refuses(&self) -> bool {
        self.shut_sends || self.closed()
    }

    fn ended(&self) -> bool {
        let (ever, now) = (
            self.peers(false, |h| h.sends),
            self.peers(true, |h| h.sends),
        );
        let over = self.shut_sends || self.shut_receives;
        let gone = !self.persistent && !self.endless && ever > 0 && now == 0;
        (over || gone) && self.inside().next().is_none()
    }

    /// The messages that are in it, wherever.
    fn inside(&self) -> impl Iterator<Item = &Item> {
        self.queue
            .iter()
            .chain(
                self.held
                    .iter()
                    .map(|(_, item)| item)
                    .filter(|item| !item.withdrawn),
            )
            .chain(self.handles.iter().flat_map(|h| &h.leases))
    }

    fn used(&self) -> (u128, u128) {
        let mut used = (0, 0);
        for item in self.inside() {
            used.0 += 1;
            used.1 += u128::from(item.len);
        }
        for handle in &self.handles {
            used.0 += u128::from(handle.reserved);
            used.1 += u128::from(handle.reserved_bytes);
        }
        used
    }

    fn fits(&self, len: u64) -> bool {
        let (messages, bytes) = self.used();
        messages < self.capacity.messages.into()
            && bytes + u128::from(len) <= self.capacity.bytes.into()
    }

    fn writable(&self) -> bool {
        let room = match self.rendezvous() {
            true => self.waiting.iter().any(|receive| receive.from == 0),
            false => self.blocked.is_empty() && self.fits(1),
        };
        room && !self.refuses()
    }

    fn look(&self) -> Look {
        let (closed, ended) = (self.closed(), self.ended());
        let offers = self.inside().filter(|item| item.offered).count();
        Look {
            queued: (
                self.queue.len() as u64,
                self.queue.iter().map(|item| item.len).sum(),
            ),
            leased: self.handles.iter().map(|h| h.leases.len() as u64).sum(),
            reserved: self.handles.iter().map(|h| h.reserved).sum(),
            senders: self.peers(true, |h| h.sends) as u32,
            receivers: self.peers(true, |h| h.receives) as u32,
            waiting_senders: self.blocked.len() + offers,
            waiting_receivers: self.waiting.len(),
            readable: !self.queue.is_empty(),
            writable: self.writable(),
            closed,
            ended,
            refuses: self.refuses(),
            end: End {
                sends: self.refuses(),
                receives: ended && !self.waiting.is_empty(),
            },
            counters: self.counters,
            handles: {
                let handles = self.handles.iter();
                let lens = handles.map(|h| [h.leases.len(), h.owed.len(), h.kept.len()]);
                lens.collect()
            },
        }
    }

    /// Puts it where it belongs, and gives those who wait what is there.
    fn queue(&mut self, item: Item) {
        let first = self.waiting.iter().position(|receive| receive.wants(&item));
        self.queue.push(item);
        self.queue
            .sort_by_key(|item| (Reverse(item.priority), item.sequence));
        if let Some(first) = first {
            let receive = self.waiting.remove(first).expect("it waits");
            self.get(receive);
        }
    }

    fn get(&mut self, receive: Receive) {
        let first = self.queue.iter().position(|item| receive.wants(item));
        let mut item = self.queue.remove(first.expect("there is one"));
        item.handed = true;
        self.takes += 1;
        item.taken = self.takes;
        self.events.push(Got {
            receiver: receive.receiver,
            id: item.id,
            request: item.request,
            redelivered: item.redelivered,
        });
        self.held.push((receive, item));
    }

    fn enter(&mut self, mut item: Item) {
        self.sequence += 1;
        item.sequence = self.sequence;
        self.queue(item);
    }

    fn free(&mut self, id: usize) {
        assert!(self.freed.insert(id));
        self.events.push(Freed(id));
    }

    fn sent(&mut self, id: usize, sent: Sent) {
        self.sender_handles.remove(&id).expect("it waits");
        self.events.push(Event::Sent { id, sent });
    }

    fn put_back(&mut self, item: Item) {
        let id = item.id;
        if self.closed() && self.sender_handles.contains_key(&id) {
            self.sent(id, Sent::Closed);
            return self.free(id);
        }
        self.queue(item);
        self.events.push(Event::Returned);
    }

    fn redeliver(&mut self, handle: usize, wanted: impl Fn(&Item) -> bool) -> bool {
        let leases = &mut self.handles[handle].leases;
        leases.sort_by_key(|item| item.taken);
        let Some(at) = leases.iter().position(wanted) else {
            return false;
        };
        let mut item = leases.remove(at);
        item.redelivered = true;
        self.counters.redelivered += 1;
        self.put_back(item);
        true
    }

    fn receive(&mut self, receive: Receive, again: bool) {
        match self.queue.iter().find(|item| receive.wants(item)) {
            Some(first) if first.len > receive.room => {
                let len = first.len;
                self.events.push(TooSmall(len));
            }
            Some(_) => self.get(receive),
            None if self.ended() => self.events.push(Ended {
                receiver: receive.receiver,
            }),
            None if receive.wait => {
                self.events.push(Waits);
                if again {
                    self.waiting.push_front(receive);
                } else {
                    self.waiting.push_back(receive);
                }
            }
            None => self.events.push(Empty),
        }
    }

    fn send(&mut self, handle: usize, item: Item, wait: bool) {
        let id = item.id;
        if self.refuses() {
            self.events.push(Closed);
            return self.free(id);
        }
        if self.rendezvous() && wait {
            self.sender_handles.insert(id, handle);
            self.enter(Item {
                offered: true,
                ..item
            });
            self.events.push(Waits);
        } else if self.rendezvous() && self.waiting.iter().any(|receive| receive.wants(&item)) {
            self.counters.sent += 1;
            self.enter(item);
            self.events.push(Accepted);
        } else if self.rendezvous() {
            self.counters.full += 1;
            self.events.push(Full);
            self.free(id);
        } else if self.blocked.is_empty() && self.fits(item.len) {
            self.counters.sent += 1;
            self.enter(item);
            self.events.push(Accepted);
        } else {
            self.block(handle, Blocked::Message(item), wait);
        }
    }

    fn call(&mut self, handle: usize, item: Item) {
        if self.rendezvous() || self.refuses() {
            return self.send(handle, item, true);
        }
        if !self.blocked.is_empty() || !self.fits(item.len) {
            return self.block(handle, Blocked::Message(item), true);
        }
        self.counters.sent += 1;
        self.sender_handles.insert(item.id, handle);
        self.enter(item);
        self.events.push(Waits);
    }

    /// The caller of a request, if it still waits, learns how that ended.
    fn end_call(&mut self, id: usize, sent: Sent) {
        if self.sender_handles.contains_key(&id) {
            self.sent(id, sent);
        } else {
            self.events.push(Nothing);
        }
        self.free(id);
    }

    /// What a process received through a handle, or anyone, is owed to nobody now and goes back.
    fn reclaim(&mut self, handle: usize, wanted: impl Fn(&Item) -> bool) {
        let owed = &mut self.handles[handle].owed;
        owed.sort_by_key(|item| item.taken);
        for item in owed.extract_if(.., |item| wanted(item)).collect::<Vec<_>>() {
            self.end_call(item.id, Sent::Abandoned);
        }
        while self.redeliver(handle, &wanted) {}
    }

    fn block(&mut self, handle: usize, blocked: Blocked, wait: bool) {
        self.counters.full += 1;
        let (id, _) = blocked.id_len();
        if wait {
            self.events.push(Waits);
            self.sender_handles.insert(id, handle);
            self.blocked.push_back(blocked);
        } else {
            self.events.push(Full);
            self.free(id);
        }
    }

    fn unreserve(&mut self, handle: usize, len: u64) -> bool {
        let handle = &mut self.handles[handle];
        if handle.reserved == 0 || handle.reserved_bytes < len {
            return false;
        }
        handle.reserved -= 1;
        handle.reserved_bytes -= match handle.reserved {
            0 => handle.reserved_bytes,
            _ => len,
        };
        true
    }

    fn take_held(&mut self, receiver: usize) -> (Receive, Item) {
        let held = self.held.iter();
        let at = held.clone().position(|(r, _)| r.receiver == receiver);
        self.held.remove(at.expect("it holds one"))
    }

    /// A receiver that has the bytes: whether they count, or were withdrawn.
    fn finish(&mut self, receive: Receive, item: &mut Item) -> bool {
        if item.withdrawn {
            self.events.push(Event::Withdrawn);
            self.free(item.id);
            self.receive(receive, true);
            return false;
        }
        if std::mem::take(&mut item.offered) {
            self.counters.sent += 1;
            self.sent(item.id, Sent::Accepted);
        }
        self.events.push(Event::Received);
        true
    }

    fn settle(&mut self) {
        while !self.refuses() {
            let front = self.blocked.front();
            if !front.is_some_and(|blocked| self.fits(blocked.id_len().1)) {
                break;
            }
            match self.blocked.pop_front().expect("it was there") {
                Blocked::Message(item) => {
                    if !item.request {
                        self.sent(item.id, Sent::Accepted);
                    }
                    self.counters.sent += 1;
                    self.enter(item);
                }
                Blocked::Reservation { handle, id, len } => {
                    self.sent(id, Sent::Accepted);
                    self.free(id);
                    self.handles[handle].reserved += 1;
                    self.handles[handle].reserved_bytes += len;
                }
            }
            self.note_high();
        }
        while self.refuses() {
            // What was accepted can still be received, and answered, where somebody receives.
            let closed = self.closed();
            let ends = |item: &Item| item.offered || (item.request && closed);
            let id = if let Some(blocked) = self.blocked.pop_front() {
                blocked.id_len().0
            } else if let Some(at) = self.queue.iter().position(ends) {
                self.queue.remove(at).id
            } else {
                break;
            };
            self.sent(id, Sent::Closed);
            self.free(id);
        }
        while self.ended() && !self.waiting.is_empty() {
            let receiver = self.waiting.pop_front().expect("one waits").receiver;
            self.events.push(Ended { receiver });
        }
    }

    fn note_high(&mut self) {
        let bytes = self.inside().map(|item| item.len).sum();
        let counters = &mut self.counters;
        counters.high_bytes = counters.high_bytes.max(bytes);
        let messages = self.inside().count() as u64;
        self.counters.high_messages = self.counters.high_messages.max(messages);
    }

    fn step(&mut self, step: Step) -> Vec<Event> {
        let item = |id, priority, len, origin| Item {
            id,
            priority,
            len,
            origin,
            request: false,
            sequence: 0,
            redelivered: false,
            offered: false,
            withdrawn: false,
            handed: false,
            holder: 0,
            taken: 0,
        };
        match step {
            Step::Open { sends, receives } => self.handles.push(ModelHandle {
                open: true,
                sends,
                receives,
                ..ModelHandle::default()
            }),
            Step::Close { handle } => {
                self.reclaim(handle, |_| true);
                let handle = &mut self.handles[handle];
                handle.open = false;
                handle.reserved = 0;
                handle.reserved_bytes = 0;
                for id in std::mem::take(&mut handle.kept) {
                    self.free(id);
                }
            }
            Step::Send {
                handle,
                id,
                priority,
                len,
                origin,
                wait,
            } => self.send(handle, item(id, priority, len, origin), wait),
            Step::Call {
                handle,
                id,
                priority,
                len,
                origin,
            } => {
                let item = Item {
                    request: true,
                    ..item(id, priority, len, origin)
                };
                self.call(handle, item);
            }
            Step::SendReserved {
                handle,
                id,
                priority,
                len,
                reserved,
            } => {
                if self.refuses() {
                    self.events.push(Closed);
                    self.free(id);
                } else if len > reserved || !self.unreserve(handle, reserved) {
                    self.events.push(Full);
                    self.free(id);
                } else {
                    self.counters.sent += 1;
                    self.enter(item(id, priority, len, 0));
                    self.events.push(Accepted);
                }
            }
            Step::Reserve {
                handle,
                id,
                len,
                wait,
            } => {
                if self.refuses() {
                    self.events.push(Closed);
                    self.free(id);
                } else if self.blocked.is_empty() && self.fits(len) {
                    self.handles[handle].reserved += 1;
                    self.handles[handle].reserved_bytes += len;
                    self.events.push(Accepted);
                    self.free(id);
                } else {
                    self.block(handle, Blocked::Reservation { handle, id, len }, wait);
                }
            }
            Step::Unreserve { handle, len } => {
                let event = match self.unreserve(handle, len) {
                    true => Accepted,
                    false => Nothing,
                };
                self.events.push(event);
            }
            Step::Receive(receive) => self.receive(receive, false),
            Step::Commit { receiver } => {
                let (receive, mut item) = self.take_held(receiver);
                if self.finish(receive, &mut item) {
                    self.counters.received += 1;
                    self.free(item.id);
                }
            }
            Step::Lease { receiver, holder } => {
                let (receive, mut item) = self.take_held(receiver);
                if self.finish(receive, &mut item) {
                    item.holder = holder;
                    self.handles[receive.handle].leases.push(item);
                }
            }
            Step::Owe { receiver, holder } => {
                let (receive, mut item) = self.take_held(receiver);
                if item.withdrawn {
                    self.finish(receive, &mut item);
                } else {
                    self.counters.sent += u64::from(std::mem::take(&mut item.offered));
                    self.counters.received += 1;
                    item.holder = holder;
                    self.events.push(Event::Received);
                    self.handles[receive.handle].owed.push(item);
                }
            }
            Step::PutBack { receiver } => {
                let (_, item) = self.take_held(receiver);
                if item.withdrawn {
                    self.events.push(Event::Withdrawn);
                    self.free(item.id);
                } else {
                    self.put_back(item);
                }
            }
            Step::Begin { receiver } => {
                let mut held = self.held.iter_mut();
                let (_, item) = held
                    .find(|(r, _)| r.receiver == receiver)
                    .expect("it holds");
                if !item.withdrawn {
                    item.handed = false;
                }
            }
            Step::Withdraw { id } => {
                self.sender_handles.remove(&id).expect("it waits");
                if let Some((_, item)) = self.held.iter_mut().find(|(_, item)| item.id == id) {
                    item.withdrawn = true;
                    item.offered = false;
                    self.events.push(match item.handed {
                        true => Event::Content,
                        false => Event::Copied,
                    });
                } else if self.owes().any(|(_, item)| item.id == id) {
                    self.events.push(Nothing);
                } else {
                    self.queue.retain(|item| item.id != id);
                    self.blocked.retain(|blocked| blocked.id_len().0 != id);
                    self.free(id);
                }
            }
            Step::Leave { receiver } => self.waiting.retain(|r| r.receiver != receiver),
            Step::Acknowledge { handle, id } => {
                self.handles[handle].leases.retain(|item| item.id != id);
                self.counters.received += 1;
                self.free(id);
            }
            Step::Requeue { handle, id } => {
                assert!(self.redeliver(handle, |item| item.id == id));
            }
            Step::Reclaim { handle, holder } => {
                self.reclaim(handle, |item| item.holder == holder);
            }
            Step::Check { id, .. } => {
                let waits = self.sender_handles.contains_key(&id);
                self.events.push(if waits { Waits } else { Nothing });
            }
            Step::Answer { handle, id, drop } => {
                self.handles[handle].owed.retain(|item| item.id != id);
                self.end_call(id, if drop { Sent::Dropped } else { Sent::Accepted });
            }
            Step::Keep { handle, id } => self.handles[handle].kept.push(id),
            Step::Fetch { handle, id } => {
                self.handles[handle].kept.retain(|kept| *kept != id);
                self.free(id);
            }
            Step::Shut { sends, receives } => {
                self.shut_sends |= sends;
                self.shut_receives |= receives;
            }
            Step::Purge => {
                // Behind one whose sender waits, which is to be ended first, nothing is looked for.
                let accepted = |item: &Item| !item.offered && !item.request;
                while self.closed() && self.queue.first().is_some_and(accepted) {
                    let id = self.queue.remove(0).id;
                    self.free(id);
                }
            }
            Step::Settle => self.settle(),
        }
        self.note_high();
        std::mem::take(&mut self.events)
    }

    /// The requests whose answers are owed, with the handles.
    fn owes(&self) -> impl Iterator<Item = (usize, &Item)> {
        let handles = self.handles.iter().enumerate();
        handles.flat_map(|(at, h)| h.owed.iter().map(move |item| (at, item)))
    }

    /// Whether somebody in a call uses the handle.
    fn busy(&self, handle: usize) -> bool {
        self.held.iter().any(|(r, _)| r.handle == handle)
            || self.waiting.iter().any(|r| r.handle == handle)
            || self.sender_handles.values().any(|&h| h == handle)
    }
}

// The mailbox itself.

struct Handle {
    sends: bool,
    receives: bool,
    state: HandleState<Post>,
}

struct World {
    mailbox: Mailbox<Post, ReceiverPtr>,
    handles: Vec<Handle>,
    held: BTreeMap<usize, (Receive, Post)>,
    /// The receivers that have not begun to copy what they hold.
    handed: BTreeSet<usize>,
    /// Messages whose content went back to the sender.
    emptied: BTreeSet<usize>,
    senders: BTreeMap<usize, (Rc<Sender>, NonNull<Letter>, usize)>,
    receivers: BTreeMap<usize, (Receive, Rc<Receiver>)>,
    /// The token of each message that was taken last, and all that there ever were.
    tokens: BTreeMap<usize, u64>,
    /// Who took a message last, to acknowledge or answer it.
    holders: BTreeMap<usize, u64>,
    used_tokens: BTreeSet<u64>,
    /// The answers that are kept, with the handle and the token.
    kept: BTreeMap<usize, (usize, u64)>,
    drops: Drops,
    events: Vec<Event>,
}

impl World {
    fn new(capacity: Capacity, persistent: bool) -> Self {
        Self {
            mailbox: Mailbox::new(capacity, persistent),
            handles: Vec::new(),
            held: BTreeMap::new(),
            handed: BTreeSet::new(),
            emptied: BTreeSet::new(),
            senders: BTreeMap::new(),
            receivers: BTreeMap::new(),
            tokens: BTreeMap::new(),
            holders: BTreeMap::new(),
            used_tokens: BTreeSet::new(),
            kept: BTreeMap::new(),
            drops: Drops::default(),
            events: Vec::new(),
        }
    }

    fn look(&self) -> Look {
        let mailbox = &self.mailbox;
        Look {
            queued: mailbox.queued(),
            leased: mailbox.leased(),
            reserved: mailbox.reserved(),
            senders: mailbox.senders(),
            receivers: mailbox.receivers(),
            waiting_senders: mailbox.waiting_senders(),
            waiting_receivers: mailbox.waiting_receivers(),
            readable: mailbox.readable(),
            writable: mailbox.writable(),
            closed: mailbox.closed(),
            refuses: mailbox.refuses(),
            ended: mailbox.ended(),
            end: mailbox.end(),
            counters: mailbox.counters(),
            handles: {
                let states = self.handles.iter().map(|h| &h.state);
                let lens = states.map(|state| [state.leases(), state.owed(), state.kept()]);
                lens.collect()
            },
        }
    }

    fn free(&mut self, message: Post) {
        self.events.push(Freed(message.id()));
    }

    fn woken(&mut self, woken: Option<SenderWoken>) {
        if let Some(SenderWoken { id, sent }) = woken {
            let (sender, ..) = self.senders.remove(&id).expect("it waits");
            assert_eq!(sender.finished.get(), Some(sent));
            self.events.push(Event::Sent { id, sent });
        }
    }

    fn receiver_woken(&mut self, woken: ReceiverWoken) {
        let (receive, receiver) = self.receivers.remove(&woken.id).expect("it waits");
        let message = receiver.message();
        self.got(receive, message);
    }

    /// What a receiver holds, which it has begun to copy.
    fn begun(&mut self, receiver: usize) -> (Receive, Post) {
        self.begin(receiver);
        self.held.remove(&receiver).expect("it holds one")
    }

    fn begin(&mut self, receiver: usize) {
        let (_, message) = &self.held[&receiver];
        let emptied = self.emptied.contains(&message.id());
        if self.handed.remove(&receiver) {
            assert_eq!(self.mailbox.begin(message), !emptied);
        } else {
            assert!(!emptied, "it had begun");
        }
    }

    fn got(&mut self, receive: Receive, message: Post) {
        let node = message.entry().node();
        assert!(self.used_tokens.insert(node.token()), "a token came twice");
        self.tokens.insert(message.id(), node.token());
        self.events.push(Got {
            receiver: receive.receiver,
            id: message.id(),
            request: node.is_request(),
            redelivered: node.redelivered(),
        });
        self.handed.insert(receive.receiver);
        self.held.insert(receive.receiver, (receive, message));
    }

    fn receive(&mut self, receive: Receive, again: bool) {
        // Whatever the state, what could not be copied stays.
        assert!(self.mailbox.receive_now(|_| false).is_none());
        assert!(self.mailbox.take_plain(|_| false).is_none());
        let taken = match receive.from {
            0 => self.mailbox.take(receive.room),
            from => loop {
                match self.mailbox.take_from(from, receive.room) {
                    Take::More => {}
                    taken => break taken,
                }
            },
        };
        let event = match taken {
            Take::Message(message) => return self.got(receive, message),
            Take::TooSmall(len) => TooSmall(len),
            Take::More => panic!("it was sorted"),
            Take::Ended => Ended {
                receiver: receive.receiver,
            },
            Take::Empty if receive.wait => {
                let receiver = Receiver::of_origin(receive.receiver, receive.from);
                let pointer = ReceiverPtr::new(&receiver);
                self.receivers.insert(receive.receiver, (receive, receiver));
                // SAFETY: It stays in `receivers` until it is woken or leaves.
                unsafe {
                    if again {
                        self.mailbox.wait_again(pointer);
                    } else {
                        self.mailbox.wait(pointer);
                    }
                }
                Waits
            }
            Take::Empty => Empty,
        };
        self.events.push(event);
    }

    fn sending(&mut self, sending: Sending<Post, ReceiverWoken>) {
        match sending {
            Sending::Queued => self.events.push(Accepted),
            Sending::Given(receiver) => {
                self.receiver_woken(receiver);
                self.events.push(Accepted);
            }
            Sending::Waits(receiver) => {
                if let Some(receiver) = receiver {
                    self.receiver_woken(receiver);
                }
                self.events.push(Waits);
            }
            Sending::Full(message) => {
                self.events.push(Full);
                self.free(message);
            }
            Sending::Closed(message) => {
                self.events.push(Closed);
                self.free(message);
            }
        }
    }

    fn returned(&mut self, returned: Returned<Post, SenderWoken, ReceiverWoken>) {
        match returned {
            Returned::Queued => self.events.push(Event::Returned),
            Returned::Given(receiver) => {
                self.receiver_woken(receiver);
                self.events.push(Event::Returned);
            }
            Returned::Refused(sender, message) => {
                self.woken(Some(sender));
                self.free(message);
            }
            Returned::Withdrawn(message) => {
                self.events.push(Event::Withdrawn);
                self.free(message);
            }
        }
    }

    fn reclaim(&mut self, handle: usize, holder: Option<u64>) {
        let mut from = 0;
        loop {
            let state = &mut self.handles[handle].state;
            match self.mailbox.abandon(state, holder, &mut from) {
                Search::Found((request, caller)) => self.end_call(request, caller),
                Search::More => {}
                Search::None => break,
            }
        }
        let mut from = 0;
        loop {
            let state = &mut self.handles[handle].state;
            match self.mailbox.reclaim(state, holder, &mut from) {
                Search::Found(returned) => self.returned(returned),
                Search::More => {}
                Search::None => break,
            }
        }
    }

    fn end_call(&mut self, request: Post, caller: Option<SenderWoken>) {
        match caller {
            Some(caller) => {
                assert_eq!(caller.id, request.id());
                self.woken(Some(caller));
            }
            None => self.events.push(Nothing),
        }
        self.free(request);
    }

    fn commit<M>(&mut self, commit: Commit<M, SenderWoken>) -> Option<M> {
        match commit {
            Commit::Done(sender) => {
                self.woken(sender);
                self.events.push(Event::Received);
                None
            }
            Commit::Withdrawn(message) => {
                self.events.push(Event::Withdrawn);
                Some(message)
            }
        }
    }

    fn settle(&mut self) {
        while let Some(admitted) = self.mailbox.admit() {
            let id = admitted.sender.as_ref().map(|sender| sender.id);
            let handle = id.map(|id| self.senders[&id].2);
            self.woken(admitted.sender);
            if let Some(stand_in) = admitted.stand_in {
                assert_eq!(Some(stand_in.id()), id);
                let handle = handle.expect("its sender was woken");
                let len = stand_in.entry().node().len();
                self.free(stand_in);
                let state = &mut self.handles[handle].state;
                state.add_reservation(len);
            }
            if let Some(receiver) = admitted.receiver {
                self.receiver_woken(receiver);
            }
        }
        while let Some((sender, message)) = self.mailbox.end_one_send() {
            assert_eq!(sender.id, message.id());
            self.woken(Some(sender));
            self.free(message);
        }
        while let Some(woken) = self.mailbox.end_one_receive() {
            let (_, receiver) = self.receivers.remove(&woken.id).expect("it waits");
            let end = receiver.received.take();
            assert!(matches!(end, Some(Received::Ended)), "{end:?}");
            self.events.push(Ended { receiver: woken.id });
        }
    }

    /// A sender that may come to wait for `message`.
    fn sender(&mut self, handle: usize, message: &Post) -> SenderPtr {
        let sender = Sender::new(message.id());
        let pointer = SenderPtr::new(&sender);
        self.senders
            .insert(message.id(), (sender, message.pointer(), handle));
        pointer
    }

    fn step(&mut self, step: Step) -> Vec<Event> {
        match step {
            Step::Open { sends, receives } => {
                self.handles.push(Handle {
                    sends,
                    receives,
                    state: HandleState::new(),
                });
                self.mailbox.open(sends, receives);
            }
            Step::Close { handle } => {
                self.reclaim(handle, None);
                let Handle {
                    sends,
                    receives,
                    state,
                } = &mut self.handles[handle];
                let end = self.mailbox.close(*sends, *receives, state);
                assert_eq!(end, self.mailbox.end());
                *state = HandleState::new();
                let kept = self.kept.extract_if(.., |_, (at, _)| *at == handle);
                self.events.extend(kept.map(|(id, _)| Freed(id)));
            }
            Step::Send {
                handle,
                id,
                priority,
                len,
                origin,
                wait,
            } => {
                let message = Post::from_origin(id, priority, len, origin, &self.drops);
                let waiter = wait.then(|| self.sender(handle, &message));
                // As the kernel does it: with a waiter only where one may be needed.
                let sending = match self.mailbox.send_now(message) {
                    Ok(Some(wake)) => Sending::Given(wake),
                    Ok(None) => Sending::Queued,
                    // SAFETY: The sender stays in `senders` until it is finished or withdrawn.
                    Err(message) => unsafe { self.mailbox.send(message, waiter) },
                };
                if !matches!(sending, Sending::Waits(_)) {
                    self.senders.remove(&id);
                }
                self.sending(sending);
            }
            Step::Call {
                handle,
                id,
                priority,
                len,
                origin,
            } => {
                let request = Post::request(id, priority, len, origin, &self.drops);
                let caller = self.sender(handle, &request);
                // SAFETY: The caller stays in `senders` until it is finished or withdrawn.
                let sending = unsafe { self.mailbox.call(request, caller) };
                if !matches!(sending, Sending::Waits(_)) {
                    self.senders.remove(&id);
                }
                self.sending(sending);
            }
            Step::SendReserved {
                handle,
                id,
                priority,
                len,
                reserved,
            } => {
                let message = Post::new(id, priority, len, &self.drops);
                let state = &mut self.handles[handle].state;
                let sending = self.mailbox.send_reserved(state, message, reserved);
                self.sending(sending);
            }
            Step::Reserve {
                handle,
                id,
                len,
                wait,
            } => {
                let stand_in = Post::stand_in(id, len, &self.drops);
                let waiter = self.sender(handle, &stand_in);
                // SAFETY: As above.
                let reserving = unsafe { self.mailbox.reserve(stand_in, waiter, wait) };
                let (event, stand_in) = match reserving {
                    Reserving::Reserved(stand_in) => {
                        let state = &mut self.handles[handle].state;
                        state.add_reservation(len);
                        (Accepted, stand_in)
                    }
                    Reserving::Waits => {
                        self.events.push(Waits);
                        return std::mem::take(&mut self.events);
                    }
                    Reserving::Full(stand_in) => (Full, stand_in),
                    Reserving::Closed(stand_in) => (Closed, stand_in),
                };
                self.senders.remove(&id);
                self.events.push(event);
                self.free(stand_in);
            }
            Step::Unreserve { handle, len } => {
                let state = &mut self.handles[handle].state;
                let event = match self.mailbox.unreserve(state, len) {
                    true => Accepted,
                    false => Nothing,
                };
                self.events.push(event);
            }
            Step::Receive(receive) => self.receive(receive, false),
            Step::Commit { receiver } => {
                let (receive, message) = self.begun(receiver);
                let commit = self.mailbox.commit(&message);
                let withdrawn = self.commit(commit).is_some();
                self.free(message);
                if withdrawn {
                    self.receive(receive, true);
                }
            }
            Step::Lease { receiver, holder } => {
                let (receive, message) = self.begun(receiver);
                let state = &mut self.handles[receive.handle].state;
                self.holders.insert(message.id(), holder);
                let commit = self.mailbox.lease(state, message, holder);
                if let Some(message) = self.commit(commit) {
                    self.free(message);
                    self.receive(receive, true);
                }
            }
            Step::Owe { receiver, holder } => {
                let (receive, request) = self.begun(receiver);
                let state = &mut self.handles[receive.handle].state;
                self.holders.insert(request.id(), holder);
                match self.mailbox.owe(state, request, holder) {
                    Commit::Done(None) => self.events.push(Event::Received),
                    Commit::Done(Some(())) => panic!("a caller is not woken by a receive"),
                    Commit::Withdrawn(request) => {
                        self.events.push(Event::Withdrawn);
                        self.free(request);
                        self.receive(receive, true);
                    }
                }
            }
            Step::Check { handle, id } => {
                let (token, holder) = (self.tokens[&id], self.holders[&id]);
                for (other, Handle { state, .. }) in self.handles.iter().enumerate() {
                    let waits = self.mailbox.caller_waits(state, token, holder);
                    assert_eq!(waits.is_some(), other == handle);
                    match waits {
                        Some(true) => self.events.push(Waits),
                        Some(false) => self.events.push(Nothing),
                        None => {}
                    }
                }
            }
            Step::Answer { handle, id, drop } => {
                let (token, holder) = (self.tokens[&id], self.holders[&id]);
                for (other, Handle { state, .. }) in self.handles.iter_mut().enumerate() {
                    assert!(other == handle || self.mailbox.answer(state, token, holder).is_none());
                }
                let state = &mut self.handles[handle].state;
                assert!(self.mailbox.answer(state, token, holder + 1).is_none());
                let (request, caller) = self
                    .mailbox
                    .answer(state, token, holder)
                    .expect("it is owed");
                assert!(self.mailbox.answer(state, token, holder).is_none());
                assert_eq!(request.id(), id);
                // The kernel hands the answer over here; it is not the queue's.
                let sent = if drop { Sent::Dropped } else { Sent::Accepted };
                let caller = caller.map(|caller| caller.finish(sent));
                self.end_call(request, caller);
            }
            Step::Keep { handle, id } => {
                let answer = Post::new(id, 0, 1, &self.drops);
                let token = self.handles[handle].state.keep(answer, 0);
                self.kept.insert(id, (handle, token));
            }
            Step::Fetch { handle, id } => {
                let (at, token) = self.kept.remove(&id).expect("it was kept");
                assert_eq!(at, handle);
                let state = &mut self.handles[handle].state;
                let answer = state.fetch(token, 0).expect("it was kept");
                assert!(state.fetch(token, 0).is_none());
                assert_eq!(answer.id(), id);
                self.free(answer);
            }
            Step::Shut { sends, receives } => self.mailbox.shut(sends, receives),
            Step::PutBack { receiver } => {
                // With or without having looked at it.
                let (_, message) = self.held.remove(&receiver).expect("it holds one");
                self.handed.remove(&receiver);
                let returned = self.mailbox.put_back(message);
                self.returned(returned);
            }
            Step::Withdraw { id } => {
                let (sender, message, _) = self.senders.remove(&id).expect("it waits");
                assert_eq!(sender.finished.get(), None);
                // SAFETY: It was sent with this sender, which was not finished.
                match unsafe { self.mailbox.withdraw(message) } {
                    Withdrawn::Message(message) => {
                        assert_eq!(message.id(), id);
                        self.free(message);
                    }
                    Withdrawn::Content => {
                        self.emptied.insert(id);
                        self.events.push(Event::Content);
                    }
                    Withdrawn::Copied => self.events.push(Event::Copied),
                    Withdrawn::Received => self.events.push(Nothing),
                }
            }
            Step::Begin { receiver } => {
                // Whoever finds that it is empty waits again: `Commit` does that.
                if !self.emptied.contains(&self.held[&receiver].1.id()) {
                    self.begin(receiver);
                }
            }
            Step::Leave { receiver } => {
                let (_, waiter) = self.receivers.remove(&receiver).expect("it waits");
                // SAFETY: It waits, and was not finished.
                let pointer = unsafe { self.mailbox.leave(ReceiverPtr::new(&waiter).pointer()) };
                assert_eq!(pointer.pointer(), ReceiverPtr::new(&waiter).pointer());
            }
            Step::Acknowledge { handle, id } => {
                let (token, holder) = (self.tokens[&id], self.holders[&id]);
                for (other, Handle { state, .. }) in self.handles.iter_mut().enumerate() {
                    assert!(
                        other == handle || self.mailbox.acknowledge(state, token, holder).is_none()
                    );
                }
                let state = &mut self.handles[handle].state;
                assert!(self.mailbox.acknowledge(state, token, holder + 1).is_none());
                let message = self
                    .mailbox
                    .acknowledge(state, token, holder)
                    .expect("it is leased");
                assert_eq!(message.id(), id);
                assert!(self.mailbox.acknowledge(state, token, holder).is_none());
                self.free(message);
            }
            Step::Requeue { handle, id } => {
                let (token, holder) = (self.tokens[&id], self.holders[&id]);
                let state = &mut self.handles[handle].state;
                assert!(self
                    .mailbox
                    .requeue_leased(state, token, holder + 1)
                    .is_none());
                let returned = self.mailbox.requeue_leased(state, token, holder);
                assert!(self.mailbox.requeue_leased(state, token, holder).is_none());
                self.returned(returned.expect("it is leased"));
            }
            Step::Reclaim { handle, holder } => self.reclaim(handle, Some(holder)),
            Step::Purge => {
                while let Some(message) = self.mailbox.purge_one() {
                    self.free(message);
                }
            }
            Step::Settle => self.settle(),
        }
        std::mem::take(&mut self.events)
    }
}

// Both together.

struct Pair {
    model: Model,
    world: World,
    /// The next number of a message or a receiver.
    next: usize,
}

impl Pair {
    fn new(capacity: Capacity, persistent: bool) -> Self {
        Self {
            model: Model::new(capacity, persistent),
            world: World::new(capacity, persistent),
            next: 0,
        }
    }

    fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    fn step(&mut self, step: Step) {
        let settled = self.world.mailbox.settled();
        let (mut expected, mut seen) = (self.model.step(step), self.world.step(step));
        if matches!(step, Step::Settle) {
            // The end is for all who wait, in whatever order.
            let closed = self.model.refuses();
            for events in [&mut expected, &mut seen] {
                events.sort_by_key(|event| match event {
                    Event::Sent { id, .. } | Freed(id) if closed => (1, *id),
                    Ended { receiver } => (2, *receiver),
                    _ => (0, 0),
                });
            }
        }
        if settled && matches!(step, Step::Settle) {
            assert_eq!(seen, [], "it said that it was settled");
        }
        assert_eq!(seen, expected, "{step:?}");
        for event in seen {
            if let Freed(id) = event {
                assert_eq!(self.world.drops.of(id), 1, "message {id}");
            }
        }
        assert_eq!(self.world.look(), self.model.look(), "after {step:?}");
        self.check(matches!(step, Step::Settle));
    }

    fn settled(&mut self, step: Step) {
        self.step(step);
        self.step(Step::Settle);
    }

    /// What holds whatever was done, said of the real mailbox as far as it shows.
    fn check(&self, settled: bool) {
        let (model, mailbox) = (&self.model, &self.world.mailbox);
        let used = model.used();
        let shown = mailbox.queued().0 + mailbox.leased() + mailbox.reserved();
        let held = model.held.iter().filter(|(_, item)| !item.withdrawn);
        assert_eq!(used.0, u128::from(shown) + held.count() as u128);
        if !mailbox.rendezvous() {
            assert!(used.0 <= u128::from(model.capacity.messages), "{used:?}");
            assert!(used.1 <= u128::from(model.capacity.bytes), "{used:?}");
        }

        // Every message is in one place, or was freed once.
        let inside = model.inside().map(|item| item.id);
        let blocked = model.blocked.iter().map(|blocked| blocked.id_len().0);
        let mut places = BTreeSet::new();
        let owed = model.owes().map(|(_, item)| item.id);
        let kept = self.world.kept.keys().copied();
        let shells = model.held.iter().map(|(_, item)| item);
        let shells = shells.filter(|item| item.withdrawn).map(|item| item.id);
        for id in inside.chain(blocked).chain(owed).chain(kept).chain(shells) {
            assert!(places.insert(id), "message {id} is in two places");
            assert_eq!(self.world.drops.of(id), 0, "message {id}");
        }
        assert_eq!(self.world.drops.total(), model.freed.len());
        let held: Vec<_> = self
            .world
            .held
            .values()
            .map(|(r, m)| (*r, m.id()))
            .collect();
        let mut expected: Vec<_> = model.held.iter().map(|(r, item)| (*r, item.id)).collect();
        expected.sort_by_key(|(r, _)| r.receiver);
        assert_eq!(held, expected);
        let waiting = model.sender_handles.keys();
        assert!(self.world.senders.keys().eq(waiting));

        // Nobody waits for what is there.
        for receive in &model.waiting {
            assert!(!model.queue.iter().any(|item| receive.wants(item)));
        }
        if settled {
            let front = model.blocked.front();
            assert!(!front.is_some_and(|blocked| model.fits(blocked.id_len().1)));
            let copied = model.held.iter().filter(|(_, item)| item.offered);
            assert!(!mailbox.refuses() || mailbox.waiting_senders() == copied.count());
            // Who called waits for what may yet come.
            for id in self.world.senders.keys() {
                let request = |item: &Item| item.id == *id && item.request;
                let queued = model.queue.iter().any(request);
                assert!(!queued || !mailbox.closed(), "call {id} waits in vain");
            }
            assert!(!mailbox.ended() || mailbox.waiting_receivers() == 0);
        }
    }

    /// The operation on something that is there, if anything is.
    fn resolve(&mut self, op: Op) -> Option<Step> {
        let model = &self.model;
        let open = |which: fn(&ModelHandle) -> bool| -> Vec<usize> {
            let handles = model.handles.iter().enumerate();
            let found = handles.filter(|(_, h)| h.open && which(h));
            found.map(|(at, _)| at).collect()
        };
        let leases: Vec<(usize, usize)> = {
            let handles = model.handles.iter().enumerate();
            handles
                .flat_map(|(at, h)| h.leases.iter().map(move |item| (at, item.id)))
                .collect()
        };
        let owed: Vec<(usize, usize)> = model.owes().map(|(at, item)| (at, item.id)).collect();
        let kept: Vec<(usize, usize)> = {
            let handles = model.handles.iter().enumerate();
            handles
                .flat_map(|(at, h)| h.kept.iter().map(move |id| (at, *id)))
                .collect()
        };
        let len = |len: u64| len.min(model.capacity.bytes);
        Some(match op {
            Op::Open { sends, receives } => {
                if open(|_| true).len() >= 5 {
                    return None;
                }
                Step::Open { sends, receives }
            }
            Op::Close { handle } => {
                let idle: Vec<usize> = open(|_| true);
                let idle: Vec<usize> = idle.into_iter().filter(|&h| !model.busy(h)).collect();
                let handle = *pick(&idle, handle)?;
                Step::Close { handle }
            }
            Op::Send {
                handle,
                priority,
                len: bytes,
                origin,
                wait,
            } => match pick(&open(|h| h.sends), handle) {
                Some(&handle) if wait == Some(true) => Step::Call {
                    handle,
                    priority,
                    len: len(bytes),
                    origin,
                    id: self.number(),
                },
                Some(&handle) => Step::Send {
                    handle,
                    priority,
                    len: len(bytes),
                    origin,
                    wait: wait.is_some(),
                    id: self.number(),
                },
                None => Step::Open {
                    sends: true,
                    receives: false,
                },
            },
            Op::SendReserved {
                handle,
                priority,
                len: bytes,
                reserved,
            } => Step::SendReserved {
                handle: *pick(&open(|h| h.sends), handle)?,
                priority,
                len: len(bytes),
                reserved,
                id: self.number(),
            },
            Op::Reserve {
                handle,
                len: bytes,
                wait,
            } => {
                if model.rendezvous() {
                    return None;
                }
                Step::Reserve {
                    handle: *pick(&open(|h| h.sends), handle)?,
                    len: len(bytes),
                    wait,
                    id: self.number(),
                }
            }
            Op::Unreserve { handle, len } => Step::Unreserve {
                handle: *pick(&open(|h| h.sends), handle)?,
                len,
            },
            Op::Receive {
                handle,
                room,
                from,
                wait,
            } => match pick(&open(|h| h.receives), handle) {
                Some(&handle) => Step::Receive(Receive {
                    handle,
                    room,
                    from,
                    wait,
                    receiver: self.number(),
                }),
                None => Step::Open {
                    sends: false,
                    receives: true,
                },
            },
            Op::Finish { held, how } => {
                let (receive, item) = pick(&model.held, held)?;
                let receiver = receive.receiver;
                match how {
                    // What was handed over can turn out to be too large.
                    _ if item.len > receive.room => Step::PutBack { receiver },
                    How::Begin => Step::Begin { receiver },
                    How::PutBack => Step::PutBack { receiver },
                    How::Commit if item.request => Step::Owe {
                        receiver,
                        holder: 0,
                    },
                    How::Lease { holder } if item.request => Step::Owe { receiver, holder },
                    How::Commit => Step::Commit { receiver },
                    How::Lease { holder } => Step::Lease { receiver, holder },
                }
            }
            Op::Withdraw { sender } => {
                let waiting: Vec<usize> = model.sender_handles.keys().copied().collect();
                let id = *pick(&waiting, sender)?;
                Step::Withdraw { id }
            }
            Op::Leave { receiver } => {
                let waiting: Vec<usize> = model.waiting.iter().map(|r| r.receiver).collect();
                let receiver = *pick(&waiting, receiver)?;
                Step::Leave { receiver }
            }
            Op::Acknowledge { lease } => {
                let (handle, id) = *pick(&leases, lease)?;
                Step::Acknowledge { handle, id }
            }
            Op::Requeue { lease } => {
                let (handle, id) = *pick(&leases, lease)?;
                Step::Requeue { handle, id }
            }
            Op::Reclaim { handle, holder } => Step::Reclaim {
                handle: *pick(&open(|h| h.receives), handle)?,
                holder,
            },
            Op::Purge => Step::Purge,
            Op::Check { owes } => {
                let (handle, id) = *pick(&owed, owes)?;
                Step::Check { handle, id }
            }
            Op::Answer { owes, drop } => {
                let (handle, id) = *pick(&owed, owes)?;
                Step::Answer { handle, id, drop }
            }
            Op::Keep { handle } => Step::Keep {
                handle: *pick(&open(|h| h.sends), handle)?,
                id: self.number(),
            },
            Op::Fetch { kept: which } => {
                let (handle, id) = *pick(&kept, which)?;
                Step::Fetch { handle, id }
            }
        })
    }

    /// Receives all that is there, and so lets in who waits to send.
    fn receive_all(&mut self, handle: usize) {
        while self.world.mailbox.readable() {
            let receiver = self.number();
            self.settled(Step::Receive(Receive {
                handle,
                receiver,
                room: u64::MAX,
                from: 0,
                wait: false,
            }));
            if !self.model.held.iter().any(|(_, item)| item.request) {
                self.settled(Step::Commit { receiver });
                continue;
            }
            self.settled(Step::Owe {
                receiver,
                holder: 0,
            });
            self.answer_all();
        }
    }

    fn answer_all(&mut self) {
        let next = |model: &Model| model.owes().next().map(|(at, item)| (at, item.id));
        while let Some((handle, id)) = next(&self.model) {
            self.settled(Step::Answer {
                handle,
                id,
                drop: false,
            });
        }
    }

    /// Closes the handles that nobody uses, but for the last.
    fn close_idle(&mut self) {
        for handle in 0..self.model.handles.len() - 1 {
            if self.model.handles[handle].open && !self.model.busy(handle) {
                self.settled(Step::Close { handle });
            }
        }
    }

    /// Ends everything, receives what is left, and looks whether all room came back.
    fn drain(mut self) {
        while let Some((receive, _)) = self.model.held.first() {
            let receiver = receive.receiver;
            self.settled(Step::PutBack { receiver });
        }
        while let Some(receive) = self.model.waiting.front() {
            let receiver = receive.receiver;
            self.settled(Step::Leave { receiver });
        }
        self.answer_all();
        self.settled(Step::Open {
            sends: true,
            receives: true,
        });
        let last = self.model.handles.len() - 1;
        self.close_idle();
        self.receive_all(last);
        // Left are those who wait for room that they have reserved themselves.
        while let Some((&id, _)) = self.model.sender_handles.first_key_value() {
            self.settled(Step::Withdraw { id });
        }
        self.close_idle();
        self.receive_all(last);

        assert_eq!(self.model.used(), (0, 0));
        let capacity = self.model.capacity;
        let most = if self.model.refuses() { 0 } else { 8 };
        for _ in 0..capacity.messages.min(most) {
            let id = self.number();
            self.settled(Step::Send {
                handle: last,
                id,
                priority: 0,
                len: 0,
                origin: 0,
                wait: false,
            });
            assert_eq!(self.world.drops.of(id), 0, "a message did not fit");
        }
        // What is left goes with the mailbox.
        let (drops, left) = (self.world.drops.clone(), self.model.queue);
        drop(self.world);
        assert!(left.iter().all(|item| drops.of(item.id) == 1));
    }
}

fn pick<T>(from: &[T], which: usize) -> Option<&T> {
    from.get(which.checked_rem(from.len())?)
}

// What proptest chooses. Numbers are taken modulo what is there.

#[derive(Clone, Copy, Debug)]
enum How {
    Begin,
    Commit,
    Lease { holder: u64 },
    PutBack,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Open {
        sends: bool,
        receives: bool,
    },
    Close {
        handle: usize,
    },
    Send {
        handle: usize,
        priority: u16,
        len: u64,
        origin: u64,
        /// For room (`false`), or also for an answer: then it is a call.
        wait: Option<bool>,
    },
    SendReserved {
        handle: usize,
        priority: u16,
        len: u64,
        reserved: u64,
    },
    Reserve {
        handle: usize,
        len: u64,
        wait: bool,
    },
    Unreserve {
        handle: usize,
        len: u64,
    },
    Receive {
        handle: usize,
        room: u64,
        from: u64,
        wait: bool,
    },
    Finish {
        held: usize,
        how: How,
    },
    Withdraw {
        sender: usize,
    },
    Leave {
        receiver: usize,
    },
    Acknowledge {
        lease: usize,
    },
    Requeue {
        lease: usize,
    },
    Reclaim {
        handle: usize,
        holder: u64,
    },
    Purge,
    Check {
        owes: usize,
    },
    Answer {
        owes: usize,
        drop: bool,
    },
    Keep {
        handle: usize,
    },
    Fetch {
        kept: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let which = || 0..8_usize;
    let holder = || 0..2_u64;
    let len = || 0..=12_u64;
    let priority = || prop_oneof![4 => 0..4_u16, 1 => Just(32767_u16)];
    // A caller can say anything here.
    let claimed = || prop_oneof![8 => 0..=16_u64, 1 => Just(u64::MAX)];
    let room = || prop_oneof![2 => Just(u64::MAX), 1 => 0..=12_u64];
    let how = prop_oneof![
        2 => Just(How::Begin),
        3 => Just(How::Commit),
        3 => holder().prop_map(|holder| How::Lease { holder }),
        2 => Just(How::PutBack),
    ];
    prop_oneof![
        3 => prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))]
            .prop_map(|(sends, receives)| Op::Open { sends, receives }),
        3 => which().prop_map(|handle| Op::Close { handle }),
        16 => (which(), priority(), len(), 0..3_u64, any::<Option<bool>>()).prop_map(
            |(handle, priority, len, origin, wait)| Op::Send { handle, priority, len, origin, wait }
        ),
        3 => (which(), priority(), len(), claimed()).prop_map(
            |(handle, priority, len, reserved)| Op::SendReserved {
                handle, priority, len, reserved
            }
        ),
        3 => (which(), prop_oneof![20 => len(), 1 => Just(u64::MAX)], any::<bool>())
            .prop_map(|(handle, len, wait)| Op::Reserve { handle, len, wait }),
        2 => (which(), claimed()).prop_map(|(handle, len)| Op::Unreserve { handle, len }),
        12 => (which(), room(), prop_oneof![2 => Just(0), 1 => 1..3_u64], any::<bool>()).prop_map(
            |(handle, room, from, wait)| Op::Receive { handle, room, from, wait }
        ),
        12 => (which(), how).prop_map(|(held, how)| Op::Finish { held, how }),
        4 => which().prop_map(|sender| Op::Withdraw { sender }),
        2 => which().prop_map(|receiver| Op::Leave { receiver }),
        3 => which().prop_map(|lease| Op::Acknowledge { lease }),
        2 => which().prop_map(|lease| Op::Requeue { lease }),
        1 => (which(), holder()).prop_map(|(handle, holder)| Op::Reclaim { handle, holder }),
        1 => Just(Op::Purge),
        2 => which().prop_map(|owes| Op::Check { owes }),
        4 => (which(), any::<bool>()).prop_map(|(owes, drop)| Op::Answer { owes, drop }),
        1 => which().prop_map(|handle| Op::Keep { handle }),
        1 => which().prop_map(|kept| Op::Fetch { kept }),
    ]
}

fn capacity() -> impl Strategy<Value = Capacity> {
    let most = u64::MAX;
    let messages = prop_oneof![3 => Just(0), 4 => 1..=4_u64, 1 => Just(most)];
    let bytes = prop_oneof![Just(most), 6..=24_u64];
    (messages, bytes).prop_map(|(messages, bytes)| Capacity { messages, bytes })
}

fn config() -> Config {
    let config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    let cases = match (cfg!(miri), std::env::var_os("PROPTEST_CASES")) {
        (true, _) => 8,
        (false, None) => 500,
        (false, Some(_)) => config.cases,
    };
    Config { cases, ..config }
}

proptest! {
    #![proptest_config(config())]

    /// After every operation the caller lets in and ends who can be, as the module does. Now and
    /// then it comes a little later: then others were quicker to get the lock.
    #[test]
    fn mailbox_does_as_the_model(
        capacity in capacity(),
        persistent in prop::bool::weighted(0.2),
        ops in prop::collection::vec((op(), prop::bool::weighted(0.9)), 1..100),
        shut in prop::option::weighted(0.3, (0..100_usize, any::<bool>(), any::<bool>())),
        endless in prop::bool::weighted(0.1),
    ) {
        let mut pair = Pair::new(capacity, persistent);
        if endless {
            pair.model.endless = true;
            pair.world.mailbox.never_end();
        }
        for (at, (op, settle)) in ops.into_iter().enumerate() {
            if let Some((_, sends, receives)) = shut.filter(|shut| shut.0 == at) {
                pair.step(Step::Shut { sends, receives });
            }
            if let Some(step) = pair.resolve(op) {
                pair.step(step);
            }
            if settle {
                pair.step(Step::Settle);
            }
        }
        pair.step(Step::Settle);
        pair.drain();
    }
}
