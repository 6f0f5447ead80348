//! Random commands to several processes that share a mailbox, and a plain model that says what each must see: the
//! result of every call, who wakes when and with what, poll's events, and all that the kernel reports and counts.
//!
//! One command at a time. A call that has to wait keeps its process busy until a later command ends it, so that every
//! order of sends, receives, acknowledgements, reservations, closes, signals and kills can be met, and each has one
//! right outcome. What happens when things happen at the same time is for the stress tests.
//!
//! `PROPTEST_CASES` sets how many sequences are tried, `POSTBOX_SEED` repeats a run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use postbox::raw::{self, RecvEntry, SendEntry};
use postbox::sys;
use postbox_tests::{
    ADMIN, Child, Exit, FOREVER, Handle, Make, NEVER, RECEIVE, Rng, SEND, UNBOUNDED, WATCHDOG,
    Wait, Watchdog, fresh_user, handle_signal, isolated, poll, readable, seed, spawn, spawn_as,
    unique, within,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const WORKERS: usize = 5;

// The commands.

/// What a mailbox is like.
#[derive(Clone, Copy, Debug)]
struct Shape {
    capacity: u64,
    /// 0: no limit.
    capacity_bytes: u64,
    /// 0: the module's.
    message_max: u64,
    persist: bool,
}

/// How long a call may take if it has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Never,
    Briefly,
    Forever,
}

#[derive(Clone, Debug)]
enum Command {
    Open {
        rights: u32,
    },
    Close,
    Send {
        len: u64,
        priority: u32,
        patience: Patience,
    },
    SendBatch {
        lens: Vec<u64>,
        priority: u32,
    },
    Receive {
        room: u64,
        acknowledge: bool,
        patience: Patience,
    },
    ReceiveBatch {
        room: u64,
        acknowledge: bool,
        count: u64,
    },
    /// One of the messages that the worker has not settled.
    Acknowledge {
        which: usize,
    },
    Requeue {
        which: usize,
    },
    Reserve {
        len: u64,
        patience: Patience,
    },
    /// One of its reservations.
    Unreserve {
        which: usize,
    },
    SendReserved {
        which: usize,
        shorter: u64,
        priority: u32,
    },
    Poll,
    /// A signal, which ends a call that waits.
    Interrupt,
    Kill,
}

fn shape() -> impl Strategy<Value = Shape> {
    let capacity = prop_oneof![Just(0), Just(1), 2..5u64, Just(UNBOUNDED)];
    let capacity_bytes = prop_oneof![3 => Just(0), 1 => 20..80u64];
    let message_max = prop_oneof![3 => Just(0), 1 => 10..40u64];
    (
        capacity,
        capacity_bytes,
        message_max,
        prop::bool::weighted(0.15),
    )
        .prop_map(|(capacity, capacity_bytes, message_max, persist)| Shape {
            capacity,
            capacity_bytes,
            message_max,
            persist,
        })
}

fn patience() -> impl Strategy<Value = Patience> {
    prop_oneof![2 => Just(Patience::Never), 1 => Just(Patience::Briefly), 3 => Just(Patience::Forever)]
}

fn rights() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(SEND | RECEIVE), 1 => Just(SEND), 1 => Just(RECEIVE)]
}

/// A sequence of commands to workers, most of which have it open from the start.
fn commands() -> impl Strategy<Value = Vec<(usize, Command)>> {
    let open = (0..WORKERS, rights()).prop_map(|(at, rights)| (at, Command::Open { rights }));
    let opens = prop::collection::vec(open, 0..2 * WORKERS);
    let others = prop::collection::vec((0..WORKERS, command()), 1..60);
    (opens, others).prop_map(|(opens, others)| opens.into_iter().chain(others).collect())
}

fn command() -> impl Strategy<Value = Command> {
    use Command::*;
    let len = || prop_oneof![4 => 0..20u64, 1 => 20..50u64];
    let room = || prop_oneof![4 => Just(64), 1 => 0..30u64];
    let priority = || prop_oneof![3 => Just(0), 1 => 1..3u32, 1 => Just(sys::POSTBOX_PRIORITY_MAX)];
    prop_oneof![
        6 => rights().prop_map(|rights| Open { rights }),
        2 => Just(Close),
        12 => (len(), priority(), patience()).prop_map(|(len, priority, patience)| Send { len, priority, patience }),
        2 => (prop::collection::vec(len(), 1..4), priority()).prop_map(|(lens, priority)| SendBatch { lens, priority }),
        12 => (room(), any::<bool>(), patience())
            .prop_map(|(room, acknowledge, patience)| Receive { room, acknowledge, patience }),
        2 => (room(), any::<bool>(), 1..4u64)
            .prop_map(|(room, acknowledge, count)| ReceiveBatch { room, acknowledge, count }),
        6 => any::<usize>().prop_map(|which| Acknowledge { which }),
        3 => any::<usize>().prop_map(|which| Requeue { which }),
        3 => (len(), patience()).prop_map(|(len, patience)| Reserve { len, patience }),
        1 => any::<usize>().prop_map(|which| Unreserve { which }),
        3 => (any::<usize>(), 0..4u64, priority())
            .prop_map(|(which, shorter, priority)| SendReserved { which, shorter, priority }),
        3 => Just(Poll),
        2 => Just(Interrupt),
        1 => Just(Kill),
    ]
}

// What a worker answers.

/// A message as its receiver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    number: u64,
    len: u64,
    priority: u32,
    redelivered: bool,
    sender: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Sent(u64),
    Received(Vec<Seen>),
    /// The message has so many bytes.
    TooSmall(u64),
    Failed(i32),
    Events(i16),
}

// The model.

#[derive(Clone, Debug)]
struct Message {
    number: u64,
    len: u64,
    priority: u32,
    sender: usize,
    /// Its turn within the priority.
    turn: u64,
    redelivered: bool,
    /// Who waits until it is received: the sender of a rendezvous.
    waits: Option<usize>,
}

/// A sender that waits for room.
#[derive(Clone, Debug)]
struct Blocked {
    worker: usize,
    len: u64,
    /// `None`: it wants to reserve.
    message: Option<Message>,
}

/// A receiver that waits.
#[derive(Clone, Debug)]
struct Waiting {
    worker: usize,
    room: u64,
    acknowledge: bool,
}

/// What a worker has open.
#[derive(Clone, Debug, Default)]
struct Open {
    rights: u32,
    /// Taken and not settled, oldest first.
    taken: Vec<Message>,
    reserved: Vec<u64>,
}

#[derive(Clone, Debug)]
struct Model {
    shape: Shape,
    open: Vec<Option<Open>>,
    busy: [bool; WORKERS],
    /// What can be received: also the offers of senders to a rendezvous.
    queue: Vec<Message>,
    blocked: Vec<Blocked>,
    waiting: Vec<Waiting>,
    had_sender: bool,
    had_receiver: bool,
    turns: u64,
    sent: u64,
    received: u64,
    redelivered: u64,
    full: u64,
    high_messages: u64,
    high_bytes: u64,
    high_known: bool,
    /// Calls that ended in this step.
    outcomes: BTreeMap<usize, Outcome>,
}

impl Model {
    fn new(shape: Shape) -> Self {
        Model {
            shape,
            open: vec![None; WORKERS],
            busy: [false; WORKERS],
            queue: Vec::new(),
            blocked: Vec::new(),
            waiting: Vec::new(),
            had_sender: false,
            had_receiver: false,
            turns: 0,
            sent: 0,
            received: 0,
            redelivered: 0,
            full: 0,
            high_messages: 0,
            high_bytes: 0,
            high_known: true,
            outcomes: BTreeMap::new(),
        }
    }

    fn handles(&self) -> impl Iterator<Item = &Open> {
        self.open.iter().flatten()
    }

    fn count(&self, right: u32) -> u64 {
        self.handles()
            .filter(|open| open.rights & right != 0)
            .count() as u64
    }

    fn taken(&self) -> impl Iterator<Item = &Message> {
        self.handles().flat_map(|open| &open.taken)
    }

    fn reserved(&self) -> impl Iterator<Item = u64> {
        self.handles()
            .flat_map(|open| open.reserved.iter().copied())
    }

    /// What is in it, with the bytes.
    fn inside(&self) -> (u64, u64) {
        let (mut messages, mut bytes) = (0, 0);
        for message in self.queue.iter().chain(self.taken()) {
            messages += 1;
            bytes += message.len;
        }
        (messages, bytes)
    }

    fn rendezvous(&self) -> bool {
        self.shape.capacity == 0
    }

    fn largest(&self) -> u64 {
        let own = if self.shape.message_max == 0 {
            u64::MAX
        } else {
            self.shape.message_max
        };
        let all = if self.shape.capacity_bytes == 0 || self.rendezvous() {
            u64::MAX
        } else {
            self.shape.capacity_bytes
        };
        own.min(all)
    }

    fn fits(&self, len: u64) -> bool {
        let (messages, bytes) = self.inside();
        let messages = messages + self.reserved().count() as u64;
        let bytes = bytes + self.reserved().sum::<u64>() + len;
        messages < self.shape.capacity
            && (self.shape.capacity_bytes == 0 || bytes <= self.shape.capacity_bytes)
    }

    /// The last receiver is gone.
    fn closed(&self) -> bool {
        !self.shape.persist && self.had_receiver && self.count(RECEIVE) == 0
    }

    /// The last sender is gone, and nothing can come any more.
    fn ended(&self) -> bool {
        !self.shape.persist && self.had_sender && self.count(SEND) == 0 && self.inside().0 == 0
    }

    fn done(&mut self, worker: usize, outcome: Outcome) {
        self.busy[worker] = false;
        let before = self.outcomes.insert(worker, outcome);
        assert!(before.is_none(), "the model ends one call twice");
    }

    /// A message comes in.
    fn number(&mut self, message: &mut Message) {
        self.turns += 1;
        message.turn = self.turns;
        let (messages, bytes) = self.inside();
        self.high_messages = self.high_messages.max(messages + 1);
        self.high_bytes = self.high_bytes.max(bytes + message.len);
    }

    /// A receiver has the bytes.
    fn receive(&mut self, worker: usize, acknowledge: bool, mut message: Message) -> Seen {
        let Message {
            number,
            len,
            priority,
            redelivered,
            sender,
            ..
        } = message;
        if let Some(sender) = message.waits.take() {
            self.sent += 1;
            self.done(sender, Outcome::Done);
        }
        if acknowledge {
            self.open[worker]
                .as_mut()
                .expect("it receives")
                .taken
                .push(message);
        } else {
            self.received += 1;
        }
        Seen {
            number,
            len,
            priority,
            redelivered,
            sender,
        }
    }

    /// To the receiver that has waited longest and has room for it, else into the queue.
    fn place(&mut self, message: Message) {
        while !self.waiting.is_empty() {
            let Waiting {
                worker,
                room,
                acknowledge,
            } = self.waiting.remove(0);
            if message.len <= room {
                let seen = self.receive(worker, acknowledge, message);
                self.done(worker, Outcome::Received(vec![seen]));
                return;
            }
            self.done(worker, Outcome::TooSmall(message.len));
        }
        self.queue.push(message);
    }

    fn accept(&mut self, mut message: Message) {
        self.sent += 1;
        self.number(&mut message);
        self.place(message);
    }

    /// A message that was received and not settled is back.
    fn put_back(&mut self, mut message: Message) {
        message.redelivered = true;
        self.redelivered += 1;
        self.place(message);
    }

    /// What follows from a change.
    fn settle(&mut self) {
        if self.closed() {
            for Blocked { worker, .. } in std::mem::take(&mut self.blocked) {
                self.done(worker, Outcome::Failed(libc::EPIPE));
            }
            for offer in self
                .queue
                .extract_if(.., |message| message.waits.is_some())
                .collect::<Vec<_>>()
            {
                self.done(offer.sender, Outcome::Failed(libc::EPIPE));
            }
        }
        while self
            .blocked
            .first()
            .is_some_and(|first| self.fits(first.len))
        {
            let Blocked {
                worker,
                len,
                message,
            } = self.blocked.remove(0);
            match message {
                Some(message) => self.accept(message),
                None => self.open[worker]
                    .as_mut()
                    .expect("it reserves")
                    .reserved
                    .push(len),
            }
            self.done(worker, Outcome::Done);
        }
        if self.ended() {
            for Waiting { worker, .. } in std::mem::take(&mut self.waiting) {
                self.done(worker, Outcome::Failed(libc::EPIPE));
            }
        }
    }

    /// Sends a message. `None`: it waits.
    fn send(&mut self, mut message: Message, patience: Patience) -> Option<Outcome> {
        let worker = message.sender;
        if message.len > self.largest() {
            return Some(Outcome::Failed(libc::EMSGSIZE));
        }
        if self.closed() {
            return Some(Outcome::Failed(libc::EPIPE));
        }
        if self.rendezvous() {
            if patience == Patience::Never && self.waiting.is_empty() {
                self.full += 1;
                return Some(Outcome::Failed(libc::EAGAIN));
            }
            if patience == Patience::Never {
                // It is handed over, whatever the receivers do.
                self.accept(message);
                return Some(Outcome::Done);
            }
            message.waits = Some(worker);
            self.number(&mut message);
            self.place(message);
            if let Some(outcome) = self.outcomes.remove(&worker) {
                return Some(outcome);
            }
            return self.wait(worker, patience);
        }
        if self.blocked.is_empty() && self.fits(message.len) {
            self.accept(message);
            return Some(Outcome::Done);
        }
        self.full += 1;
        self.blocked.push(Blocked {
            worker,
            len: message.len,
            message: Some(message),
        });
        self.wait(worker, patience)
    }

    fn reserve(&mut self, worker: usize, len: u64, patience: Patience) -> Option<Outcome> {
        if len > self.largest() {
            return Some(Outcome::Failed(libc::EMSGSIZE));
        }
        if self.rendezvous() {
            return Some(Outcome::Failed(libc::EOPNOTSUPP));
        }
        if self.closed() {
            return Some(Outcome::Failed(libc::EPIPE));
        }
        if self.blocked.is_empty() && self.fits(len) {
            self.open[worker]
                .as_mut()
                .expect("it reserves")
                .reserved
                .push(len);
            return Some(Outcome::Done);
        }
        self.full += 1;
        self.blocked.push(Blocked {
            worker,
            len,
            message: None,
        });
        self.wait(worker, patience)
    }

    /// Takes the first message.
    fn take(&mut self, worker: usize, room: u64, acknowledge: bool) -> Result<Seen, Outcome> {
        let first = |message: &(usize, &Message)| (u32::MAX - message.1.priority, message.1.turn);
        let Some((at, message)) = self.queue.iter().enumerate().min_by_key(first) else {
            let errno = if self.ended() {
                libc::EPIPE
            } else {
                libc::EAGAIN
            };
            return Err(Outcome::Failed(errno));
        };
        if message.len > room {
            return Err(Outcome::TooSmall(message.len));
        }
        let message = self.queue.remove(at);
        let seen = self.receive(worker, acknowledge, message);
        self.settle();
        Ok(seen)
    }

    /// A call that cannot go on. It is in one of the lists; if it does not wait it leaves.
    fn wait(&mut self, worker: usize, patience: Patience) -> Option<Outcome> {
        let errno = match patience {
            Patience::Forever => {
                self.busy[worker] = true;
                return None;
            }
            Patience::Briefly => libc::ETIMEDOUT,
            Patience::Never => libc::EAGAIN,
        };
        self.leave(worker);
        Some(Outcome::Failed(errno))
    }

    /// Nothing is left of a call that waits.
    fn leave(&mut self, worker: usize) {
        self.blocked.retain(|blocked| blocked.worker != worker);
        self.waiting.retain(|waiting| waiting.worker != worker);
        self.queue.retain(|message| message.waits != Some(worker));
        self.busy[worker] = false;
        // It may have stood in the way.
        self.settle();
    }

    /// What the handle has goes back while it is still open, so that room which it had reserved lets senders in even
    /// where it was the last that receives.
    fn close(&mut self, worker: usize) {
        while let Some(open) = &mut self.open[worker]
            && !open.taken.is_empty()
        {
            let message = open.taken.remove(0);
            self.put_back(message);
        }
        if let Some(open) = &mut self.open[worker] {
            open.reserved.clear();
        }
        self.settle();
        self.open[worker] = None;
        self.settle();
    }

    fn events(&self, worker: usize) -> i16 {
        let rights = self.open[worker].as_ref().map_or(0, |open| open.rights);
        let mut events = 0;
        if rights & RECEIVE != 0 {
            events |= if self.queue.is_empty() {
                0
            } else {
                libc::POLLIN | libc::POLLRDNORM
            };
            events |= if self.ended() { libc::POLLHUP } else { 0 };
        }
        if rights & SEND != 0 {
            let accepts = if self.rendezvous() {
                !self.waiting.is_empty()
            } else {
                self.blocked.is_empty() && self.fits(1)
            };
            events |= if self.closed() { libc::POLLERR } else { 0 };
            events |= if accepts && !self.closed() {
                libc::POLLOUT | libc::POLLWRNORM
            } else {
                0
            };
        }
        events
    }
}

// The workers.

/// What a worker is asked to do, as numbers that fit a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Verb {
    Open,
    Close,
    Send,
    SendBatch,
    Receive,
    ReceiveBatch,
    Settle,
    Reserve,
    Unreserve,
    SendReserved,
    Poll,
}

impl Verb {
    const ALL: [Verb; 11] = [
        Verb::Open,
        Verb::Close,
        Verb::Send,
        Verb::SendBatch,
        Verb::Receive,
        Verb::ReceiveBatch,
        Verb::Settle,
        Verb::Reserve,
        Verb::Unreserve,
        Verb::SendReserved,
        Verb::Poll,
    ];
}

const WORDS: usize = 32;

fn put(socket: &UnixDatagram, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert!(
        words.len() <= WORDS,
        "a datagram has room for {WORDS} words"
    );
    socket.send(&bytes).expect("the other end is open");
}

fn get(socket: &UnixDatagram) -> Vec<u64> {
    let mut bytes = [0; 8 * WORDS];
    loop {
        match socket.recv(&mut bytes) {
            Ok(len) => {
                let words = bytes[..len].chunks_exact(8);
                return words
                    .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
                    .collect();
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}"),
        }
    }
}

/// The bytes of a message: its number, and a pattern that follows from it, as far as there is room.
fn payload(number: u64, len: u64) -> Vec<u8> {
    (0..len)
        .map(|i| (number >> (8 * (i % 4)) & 0xff) as u8 ^ (i / 4) as u8)
        .collect()
}

/// As much of a message's number as its bytes tell.
fn visible(number: u64, len: u64) -> u64 {
    number & ((1u64 << (8 * len.min(4))) - 1)
}

fn wait_of(patience: Patience) -> Wait {
    match patience {
        Patience::Never => NEVER,
        Patience::Briefly => within(1),
        Patience::Forever => FOREVER,
    }
}

/// Does what it is told until it is killed.
fn worker(name: &str, socket: &UnixDatagram) -> ! {
    let mut handle = None;
    let mut tokens = Vec::new();
    loop {
        let request = get(socket);
        let verb = Verb::ALL[request[0] as usize];
        let answer = obey(name, &mut handle, &mut tokens, verb, &request[1..]);
        let words = match answer {
            Ok(Outcome::Done) => vec![0],
            Ok(Outcome::Sent(count)) => vec![1, count],
            Ok(Outcome::Received(seen)) => {
                let words = seen.into_iter().flat_map(|seen| {
                    [
                        seen.number,
                        seen.len,
                        seen.priority.into(),
                        seen.redelivered.into(),
                        seen.sender as u64,
                    ]
                });
                std::iter::once(2).chain(words).collect()
            }
            Ok(Outcome::TooSmall(len)) => vec![3, len],
            Ok(Outcome::Failed(errno)) => vec![4, errno as u64],
            Ok(Outcome::Events(events)) => vec![5, events as u64],
            Err(errno) => vec![4, errno.raw_os_error() as u64],
        };
        put(socket, &words);
    }
}

/// The senders' process numbers, which the supervisor knows the workers of.
fn outcome(words: &[u64], workers: &BTreeMap<u64, usize>) -> Outcome {
    match words {
        [0] => Outcome::Done,
        [1, count] => Outcome::Sent(*count),
        [2, seen @ ..] => {
            let seen = seen.chunks_exact(5).map(|words| Seen {
                number: words[0],
                len: words[1],
                priority: words[2] as u32,
                redelivered: words[3] != 0,
                sender: workers.get(&words[4]).copied().unwrap_or(usize::MAX),
            });
            Outcome::Received(seen.collect())
        }
        [3, len] => Outcome::TooSmall(*len),
        [4, errno] => Outcome::Failed(*errno as i32),
        [5, events] => Outcome::Events(*events as i16),
        other => panic!("a worker answered {other:?}"),
    }
}

fn obey(
    name: &str,
    bound: &mut Option<Handle>,
    tokens: &mut Vec<u64>,
    verb: Verb,
    words: &[u64],
) -> postbox_tests::Result<Outcome> {
    if verb == Verb::Open {
        let name = format!("{name}.{}", words[1]);
        *bound = Some(Handle::open(&name, words[0] as u32)?);
        return Ok(Outcome::Done);
    }
    let handle = bound.as_ref().expect("the model knows what is open");
    let patient = |flags: u64, time: u64| Wait(flags as u32, time);
    match (verb, words) {
        (Verb::Close, _) => {
            *bound = None;
            tokens.clear();
        }
        (Verb::Send, &[number, len, priority, flags, time]) => {
            handle.send_priority(payload(number, len), priority as u32, patient(flags, time))?;
        }
        (Verb::SendBatch, [number, priority, lens @ ..]) => {
            let payloads: Vec<_> = lens
                .iter()
                .zip(*number..)
                .map(|(len, number)| payload(number, *len))
                .collect();
            let entries: Vec<_> = payloads
                .iter()
                .map(|payload| SendEntry::new(payload, *priority as u32))
                .collect();
            return Ok(Outcome::Sent(
                raw::send_batch(handle, &entries, NEVER.0, NEVER.1)? as u64,
            ));
        }
        (Verb::Receive, &[room, acknowledge, flags, time]) => {
            let flag = if acknowledge != 0 {
                sys::POSTBOX_RECV_ACK
            } else {
                0
            };
            let mut args = sys::postbox_recv {
                flags: flags as u32 | flag,
                timeout_ns: time,
                ..Default::default()
            };
            let mut data = vec![0; room as usize];
            let len = match raw::recv(handle, &mut data, &mut args) {
                Err(postbox::Errno::MSGSIZE) => return Ok(Outcome::TooSmall(args.msg_len)),
                result => result?,
            };
            tokens.extend((acknowledge != 0).then_some(args.token));
            return Ok(Outcome::Received(vec![seen(&args, &data[..len])]));
        }
        (Verb::ReceiveBatch, &[room, acknowledge, count]) => {
            let flag = if acknowledge != 0 {
                sys::POSTBOX_RECV_ACK
            } else {
                0
            };
            let mut data = vec![MaybeUninit::uninit(); (room * count) as usize];
            let mut rest = &mut data[..];
            let mut entries = Vec::new();
            for _ in 0..count {
                let (first, others) = rest.split_at_mut(room as usize);
                entries.push(RecvEntry::new(first));
                rest = others;
            }
            let count = match raw::recv_batch(handle, &mut entries, NEVER.0 | flag, NEVER.1) {
                Err(postbox::Errno::MSGSIZE) => {
                    return Ok(Outcome::TooSmall(entries[0].args().msg_len));
                }
                result => result?,
            };
            let entries = &entries[..count];
            tokens.extend(
                entries
                    .iter()
                    .filter(|_| acknowledge != 0)
                    .map(|entry| entry.args().token),
            );
            return Ok(Outcome::Received(
                entries
                    .iter()
                    .map(|entry| seen(entry.args(), entry.payload()))
                    .collect(),
            ));
        }
        (Verb::Settle, &[which, flags]) => {
            raw::ack(handle, tokens.remove(which as usize), flags as u32)?
        }
        (Verb::Reserve, &[len, flags, time]) => handle.reserve(len, patient(flags, time))?,
        (Verb::Unreserve, &[len]) => handle.cancel(len)?,
        (Verb::SendReserved, &[number, len, reserved_len, priority]) => {
            let flags = sys::POSTBOX_SEND_RESERVED;
            let args = sys::postbox_send {
                flags,
                reserved_len,
                priority: priority as u32,
                ..Default::default()
            };
            raw::send(handle, &payload(number, len), &args)?;
        }
        (Verb::Poll, _) => {
            let all =
                libc::POLLIN | libc::POLLRDNORM | libc::POLLOUT | libc::POLLWRNORM | libc::POLLPRI;
            return Ok(Outcome::Events(poll(handle, all, Duration::ZERO)));
        }
        (verb, words) => panic!("{verb:?} with {words:?}"),
    }
    Ok(Outcome::Done)
}

fn seen(args: &sys::postbox_recv, data: &[u8]) -> Seen {
    let mut head = [0; 8];
    let known = data.len().min(4);
    head[..known].copy_from_slice(&data[..known]);
    let number = u64::from_le_bytes(head);
    let len = data.len() as u64;
    assert_eq!(
        data,
        payload(number, len),
        "the bytes are not those of one message"
    );
    let redelivered = args.msg_flags & sys::POSTBOX_MSG_REDELIVERED != 0;
    Seen {
        number,
        len,
        priority: args.priority,
        redelivered,
        sender: args.pid as usize,
    }
}

// The two side by side.

/// How often things happened, so that it is known what was tried.
type Tally = BTreeMap<&'static str, u64>;

/// The processes that play all the games.
struct Crew {
    workers: Vec<(Child, UnixDatagram)>,
    /// Whose a process number is, or was.
    pids: BTreeMap<u64, usize>,
    /// Mailboxes are called this and the number of the game.
    name: String,
    games: u64,
}

impl Crew {
    fn new() -> Self {
        let mut crew = Crew {
            workers: Vec::new(),
            pids: BTreeMap::new(),
            name: unique("model"),
            games: 0,
        };
        crew.renew();
        crew
    }

    fn renew(&mut self) {
        self.workers.clear();
        for at in 0..WORKERS {
            let worker = self.start(at, None);
            self.workers.push(worker);
        }
    }

    fn start(&mut self, at: usize, observer: Option<&Handle>) -> (Child, UnixDatagram) {
        let (near, far) = UnixDatagram::pair().expect("a pair of sockets");
        let child = spawn(|| {
            if let Some(observer) = observer {
                observer.close_copy();
            }
            worker(&self.name, &far)
        });
        self.pids.insert(child.pid().into(), at);
        (child, near)
    }
}

struct World<'a> {
    crew: &'a mut Crew,
    name: String,
    /// Keeps the object alive, and looks at it; neither sends nor receives.
    observer: Handle,
    model: Model,
    number: u64,
}

impl<'a> World<'a> {
    fn new(shape: Shape, crew: &'a mut Crew) -> Self {
        crew.games += 1;
        let name = format!("{}.{}", crew.name, crew.games);
        let persist = if shape.persist {
            sys::POSTBOX_O_PERSIST
        } else {
            0
        };
        let make = Make {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL | persist,
            rights: ADMIN,
            capacity: shape.capacity,
            capacity_bytes: shape.capacity_bytes,
            message_max: shape.message_max,
            ..Make::default()
        };
        World {
            crew,
            observer: make.open(name.as_str()).expect("the name is new"),
            name,
            model: Model::new(shape),
            number: 0,
        }
    }

    /// One of the workers to whom the command applies.
    fn choose(&self, which: usize, command: &Command) -> Option<usize> {
        let applies = |at: &usize| {
            let model = &self.model;
            let (busy, open) = (model.busy[*at], model.open[*at].as_ref());
            // Where several processes would act at once, there is more than one right outcome.
            let taken = open.map_or(0, |open| open.taken.len());
            let one_each = taken < 2 || model.waiting.len() < 2 || model.blocked.is_empty();
            match command {
                Command::Kill => open.is_some() && one_each,
                Command::Close => !busy && open.is_some() && one_each,
                Command::SendBatch { .. } => !busy && open.is_some() && model.waiting.is_empty(),
                Command::Interrupt => busy,
                Command::Open { .. } => open.is_none(),
                Command::Acknowledge { .. } | Command::Requeue { .. } => {
                    !busy && open.is_some_and(|open| !open.taken.is_empty())
                }
                Command::Unreserve { .. } | Command::SendReserved { .. } => {
                    !busy && open.is_some_and(|open| !open.reserved.is_empty())
                }
                _ => !busy && open.is_some(),
            }
        };
        let those: Vec<usize> = (0..WORKERS).filter(applies).collect();
        Some(those[which.checked_rem(those.len())?])
    }

    /// Has the worker do it, and the model. The command must apply.
    fn step(&mut self, at: usize, command: &Command, tally: &mut Tally) -> Result<(), String> {
        let model = &mut self.model;
        model.outcomes.clear();
        let (turns, somebody_waits) = (model.turns, !model.waiting.is_empty());
        let wait = |patience| {
            let Wait(flags, time) = wait_of(patience);
            [u64::from(flags), time]
        };
        let open = model.open[at].clone().unwrap_or_default();
        let may = |right| open.rights & right != 0;
        let denied = Some(Outcome::Failed(libc::EACCES));
        let message = |number, len, priority| Message {
            number,
            len,
            priority,
            sender: at,
            turn: 0,
            redelivered: false,
            waits: None,
        };
        // A brief wait must end by its time, and not by what the model expects at once.
        let impatient = |patience, at_once: bool| match patience {
            Patience::Briefly if at_once => Patience::Forever,
            patience => patience,
        };
        self.number += 1;
        let number = self.number;
        let (request, outcome) = match *command {
            Command::Kill => {
                *tally
                    .entry(if model.busy[at] {
                        "killed in a call"
                    } else {
                        "killed"
                    })
                    .or_default() += 1;
                let fresh = self.crew.start(at, Some(&self.observer));
                let (victim, _) = std::mem::replace(&mut self.crew.workers[at], fresh);
                victim.destroy();
                self.model.leave(at);
                self.model.close(at);
                return self.compare(tally);
            }
            Command::Interrupt => {
                self.crew.workers[at].0.kill(libc::SIGUSR1);
                model.leave(at);
                model.done(at, Outcome::Failed(libc::EINTR));
                return self.compare(tally);
            }
            Command::Open { rights } => {
                model.open[at] = Some(Open {
                    rights,
                    ..Open::default()
                });
                model.had_sender |= rights & SEND != 0;
                model.had_receiver |= rights & RECEIVE != 0;
                (
                    vec![Verb::Open as u64, rights.into(), self.crew.games],
                    Some(Outcome::Done),
                )
            }
            Command::Close => {
                model.close(at);
                (vec![Verb::Close as u64], Some(Outcome::Done))
            }
            Command::Send {
                len,
                priority,
                patience,
            } => {
                let patience = impatient(patience, model.rendezvous() && !model.waiting.is_empty());
                let message = message(visible(number, len), len, priority);
                let outcome = if may(SEND) {
                    model.send(message, patience)
                } else {
                    denied
                };
                let [flags, time] = wait(patience);
                (
                    vec![Verb::Send as u64, number, len, priority.into(), flags, time],
                    outcome,
                )
            }
            Command::SendBatch { ref lens, priority } => {
                let mut sent = 0;
                let mut outcome = None;
                for (len, number) in lens.iter().zip(number..) {
                    self.number = number;
                    let sending = if may(SEND) {
                        model.send(
                            message(visible(number, *len), *len, priority),
                            Patience::Never,
                        )
                    } else {
                        denied.clone()
                    };
                    if sending != Some(Outcome::Done) {
                        outcome = sending;
                        break;
                    }
                    sent += 1;
                }
                let outcome = if sent > 0 {
                    Some(Outcome::Sent(sent))
                } else {
                    outcome
                };
                let request = [Verb::SendBatch as u64, number, priority.into()];
                (
                    request.into_iter().chain(lens.iter().copied()).collect(),
                    outcome,
                )
            }
            Command::Receive {
                room,
                acknowledge,
                patience,
            } => {
                let outcome = match may(RECEIVE).then(|| model.take(at, room, acknowledge)) {
                    None => denied,
                    Some(Ok(seen)) => Some(Outcome::Received(vec![seen])),
                    Some(Err(Outcome::Failed(libc::EAGAIN))) => {
                        model.waiting.push(Waiting {
                            worker: at,
                            room,
                            acknowledge,
                        });
                        model.wait(at, patience)
                    }
                    Some(Err(outcome)) => Some(outcome),
                };
                let [flags, time] = wait(patience);
                (
                    vec![Verb::Receive as u64, room, acknowledge.into(), flags, time],
                    outcome,
                )
            }
            Command::ReceiveBatch {
                room,
                acknowledge,
                count,
            } => {
                let mut all = Vec::new();
                let mut outcome = denied;
                while may(RECEIVE) && (all.len() as u64) < count {
                    match model.take(at, room, acknowledge) {
                        Ok(seen) => all.push(seen),
                        Err(error) => {
                            outcome = Some(error);
                            break;
                        }
                    }
                }
                let outcome = if all.is_empty() {
                    outcome
                } else {
                    Some(Outcome::Received(all))
                };
                (
                    vec![Verb::ReceiveBatch as u64, room, acknowledge.into(), count],
                    outcome,
                )
            }
            Command::Acknowledge { which } | Command::Requeue { which } => {
                let taken = &mut model.open[at].as_mut().expect("it is open").taken;
                let which = which % taken.len();
                let message = taken.remove(which);
                let flags = if matches!(command, Command::Requeue { .. }) {
                    model.put_back(message);
                    sys::POSTBOX_ACK_REQUEUE
                } else {
                    model.received += 1;
                    0
                };
                model.settle();
                (
                    vec![Verb::Settle as u64, which as u64, flags.into()],
                    Some(Outcome::Done),
                )
            }
            Command::Reserve { len, patience } => {
                let outcome = if may(SEND) {
                    model.reserve(at, len, patience)
                } else {
                    denied
                };
                let [flags, time] = wait(patience);
                (vec![Verb::Reserve as u64, len, flags, time], outcome)
            }
            Command::Unreserve { which } => {
                let reserved = &mut model.open[at].as_mut().expect("it is open").reserved;
                let len = reserved.remove(which % reserved.len());
                model.settle();
                (vec![Verb::Unreserve as u64, len], Some(Outcome::Done))
            }
            Command::SendReserved {
                which,
                shorter,
                priority,
            } => {
                let closed = model.closed();
                let reserved = &mut model.open[at].as_mut().expect("it is open").reserved;
                let which = which % reserved.len();
                let room = reserved[which];
                let len = room.saturating_sub(shorter);
                let outcome = if closed {
                    Outcome::Failed(libc::EPIPE)
                } else {
                    reserved.remove(which);
                    model.accept(message(visible(number, len), len, priority));
                    model.settle();
                    Outcome::Done
                };
                (
                    vec![
                        Verb::SendReserved as u64,
                        number,
                        len,
                        room,
                        priority.into(),
                    ],
                    Some(outcome),
                )
            }
            Command::Poll => (
                vec![Verb::Poll as u64],
                Some(Outcome::Events(model.events(at))),
            ),
        };
        if let Some(outcome) = outcome {
            model.done(at, outcome);
        }
        // Two that come in at once may or may not meet, as fast as the receivers are.
        model.high_known &= model.turns - turns < 2 || !somebody_waits;
        put(&self.crew.workers[at].1, &request);
        self.compare(tally)
    }

    /// Waits for what the model expects, and looks for what it does not.
    fn compare(&mut self, tally: &mut Tally) -> Result<(), String> {
        let mut watchdog = Watchdog::new();
        for (&at, expected) in &self.model.outcomes {
            let (child, socket) = &self.crew.workers[at];
            if !watchdog.readable(socket) {
                let alive = if child.running() {
                    "does not come back"
                } else {
                    "died"
                };
                return Err(format!("worker {at} {alive}; expected {expected:?}"));
            }
            let found = outcome(&get(socket), &self.crew.pids);
            if found != *expected {
                return Err(format!(
                    "worker {at}: {found:?}, and expected was {expected:?}"
                ));
            }
            *tally.entry(kind(&found)).or_default() += 1;
        }
        let model = &self.model;
        let waiting = (model.waiting_senders(), model.waiting.len() as u32);
        loop {
            let info = self.observer.info();
            let found = (info.waiting_senders, info.waiting_receivers);
            if found == waiting {
                break;
            }
            if watchdog.barks() {
                return Err(format!(
                    "senders and receivers that wait: {found:?}, and expected were {waiting:?}"
                ));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        if let Some(at) = self
            .crew
            .workers
            .iter()
            .position(|(_, socket)| readable(socket, Duration::ZERO))
        {
            let found = outcome(&get(&self.crew.workers[at].1), &self.crew.pids);
            return Err(format!(
                "worker {at} came back with {found:?}, and should wait"
            ));
        }
        if waiting != (0, 0) {
            *tally.entry("steps with calls that wait").or_default() += 1;
        }
        let found = model.reported_by(&self.observer.info());
        let expected = model.reported();
        if found == expected {
            Ok(())
        } else {
            Err(format!(
                "the kernel reports\n{found:?}, and expected was\n{expected:?}"
            ))
        }
    }
}

fn kind(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done | Outcome::Sent(_) => "done",
        Outcome::Received(seen) if seen.iter().any(|seen| seen.redelivered) => "redelivered",
        Outcome::Received(_) => "received",
        Outcome::TooSmall(_) => "buffer too small",
        Outcome::Failed(libc::EAGAIN) => "EAGAIN",
        Outcome::Failed(libc::EPIPE) => "EPIPE",
        Outcome::Failed(libc::ETIMEDOUT) => "ETIMEDOUT",
        Outcome::Failed(libc::EINTR) => "EINTR",
        Outcome::Failed(libc::EMSGSIZE) => "message too large",
        Outcome::Failed(_) => "other errors",
        Outcome::Events(_) => "polled",
    }
}

/// What the kernel says of the mailbox.
type Reported = Vec<(&'static str, u64)>;

impl Model {
    fn waiting_senders(&self) -> u32 {
        let offers = self
            .queue
            .iter()
            .filter(|message| message.waits.is_some())
            .count();
        (self.blocked.len() + offers) as u32
    }

    fn reported_by(&self, info: &sys::postbox_info) -> Reported {
        let mut all = vec![
            ("messages", info.messages),
            ("bytes", info.bytes),
            ("unacknowledged", info.unacknowledged),
            ("reserved", info.reserved_messages),
            ("senders", info.senders.into()),
            ("receivers", info.receivers.into()),
            ("sent", info.sent),
            ("received", info.received),
            ("redelivered", info.redelivered),
        ];
        if self.high_known {
            all.extend([
                ("high messages", info.high_messages),
                ("high bytes", info.high_bytes),
            ]);
        }
        if !self.rendezvous() {
            // A rendezvous has no room that could be missing.
            all.push(("full", info.full));
        }
        all
    }

    fn reported(&self) -> Reported {
        let queued = self.queue.iter().map(|message| message.len);
        self.reported_by(&sys::postbox_info {
            messages: self.queue.len() as u64,
            bytes: queued.sum(),
            unacknowledged: self.taken().count() as u64,
            reserved_messages: self.reserved().count() as u64,
            senders: self.count(SEND) as u32,
            receivers: self.count(RECEIVE) as u32,
            sent: self.sent,
            received: self.received,
            redelivered: self.redelivered,
            high_messages: self.high_messages,
            high_bytes: self.high_bytes,
            full: self.full,
            ..Default::default()
        })
    }
}

/// Runs one sequence of commands, and then closes everything.
fn play(
    shape: Shape,
    commands: &[(usize, Command)],
    crew: &mut Crew,
    tally: &mut Tally,
) -> Result<(), TestCaseError> {
    let mut world = World::new(shape, crew);
    let mut step = |world: &mut World<'_>, at, command: &Command| {
        *tally.entry("steps").or_default() += 1;
        world
            .step(at, command, tally)
            .map_err(|error| format!("worker {at}, {command:?}: {error}"))
    };
    let mut result = Ok(());
    for (which, command) in commands {
        if let Some(at) = world.choose(*which, command) {
            result = result.and_then(|()| step(&mut world, at, command));
        }
    }
    for command in [Command::Interrupt, Command::Close] {
        while result.is_ok()
            && let Some(at) = world.choose(0, &command)
        {
            result = step(&mut world, at, &command);
        }
    }
    if shape.persist {
        postbox_tests::unlink(&world.name).expect("its owner can remove it");
    }
    drop(world);
    result.map_err(|error| {
        // They may be anywhere.
        crew.renew();
        TestCaseError::fail(error)
    })
}

fn explore() {
    let seed = seed();
    let say = |text: String| {
        // The test runner would keep what a child prints.
        let _ = writeln!(std::io::stderr(), "model: {text}");
    };
    say(format!(
        "seed {seed:#x} (POSTBOX_SEED={seed:#x} repeats it)"
    ));
    // Ends calls that wait.
    handle_signal(libc::SIGUSR1, 0);

    let mut bytes = [0; 32];
    Rng::new(seed).fill(&mut bytes);
    let mut config = Config {
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        // The kernel with lockdep is slow.
        config.cases = if std::path::Path::new("/proc/lockdep_stats").exists() {
            60
        } else {
            400
        };
    }
    let cases = config.cases;
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let state = RefCell::new((Crew::new(), Tally::new()));
    let result = runner.run(&(shape(), commands()), |(shape, commands)| {
        let (crew, tally) = &mut *state.borrow_mut();
        play(shape, &commands, crew, tally)
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let (crew, tally) = state.into_inner();
    drop(crew);
    let usage = postbox::usage().expect("usage");
    assert_eq!(
        (usage.messages, usage.bytes, usage.objects),
        (0, 0, 0),
        "something is still in use"
    );

    say(format!("{cases} sequences: {tally:?}"));
    let tried = [
        "steps with calls that wait",
        "killed",
        "killed in a call",
        "received",
        "redelivered",
        "buffer too small",
        "message too large",
        "EAGAIN",
        "EPIPE",
        "ETIMEDOUT",
        "EINTR",
        "polled",
    ];
    // In few of them it may be that there was none.
    for what in tried.into_iter().filter(|_| cases >= 200) {
        assert!(
            tally.contains_key(what),
            "in {cases} sequences there was never: {what}"
        );
    }
}

#[test]
fn mailboxes_do_what_the_model_says() {
    isolated(|| {
        let run = spawn_as(fresh_user(), explore);
        assert_eq!(
            run.wait_at_most(4 * WATCHDOG),
            Exit::Code(0),
            "the run failed"
        );
    });
}
