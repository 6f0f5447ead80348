//! Producers and consumers that are killed, interrupted and timed out at random moments, and an audit that no message
//! was lost or doubled (guarantees 1, 2, 3 and 7).
//!
//! What happened is kept in shared memory that outlives whoever dies. Every attempt to send has a number of its own. A
//! producer notes what the kernel said of it; a consumer notes every delivery, in one log, before it does anything
//! else. When a process is killed between a call and its note, nobody knows how the call ended. The audit allows for
//! exactly that and for nothing more: what each process was doing when it died is in its state word.
//!
//! `POSTBOX_SEED` repeats the choices of a run (not the scheduler's). `POSTBOX_STRESS_PERCENT` makes it longer or shorter;
//! it is 100, or 10 in a kernel with lockdep, which is slow.

use std::collections::HashMap;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use postbox::raw::{self, RecvEntry, SendEntry};
use postbox::{Capacity, Errno, Info, Mailbox, Receiver, Sender, sys};
use postbox_tests::{
    Child, Exit, Ledger, Rng, WATCHDOG, Watchdog, check, fresh_user, handle_signal, isolated, seed,
    spawn, spawn_as, unique,
};

/// One way to run it.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    capacity: Capacity,
    capacity_bytes: u64,
    producers: usize,
    consumers: usize,
    /// Deliveries and kills to reach, at 100 percent.
    messages: usize,
    kills: usize,
    /// Consumers acknowledge what they receive.
    acknowledge: bool,
    /// The most messages in one call.
    batch: usize,
    /// Producers pause, so that consumers wait most of the time.
    paused: bool,
}

const USUAL: Plan = Plan {
    name: "",
    capacity: Capacity::Bounded(32),
    capacity_bytes: 0,
    producers: 3,
    consumers: 3,
    messages: 10_000,
    kills: 50,
    acknowledge: true,
    batch: 1,
    paused: false,
};

#[test]
fn bounded_acknowledged() {
    stress(Plan {
        name: "bounded_acknowledged",
        messages: 100_000,
        kills: 250,
        ..USUAL
    });
}

#[test]
fn bounded_one_acknowledged() {
    stress(Plan {
        name: "bounded_one_acknowledged",
        capacity: Capacity::Bounded(1),
        ..USUAL
    });
}

#[test]
fn bounded_bytes_acknowledged_in_batches() {
    stress(Plan {
        name: "bounded_bytes_acknowledged_in_batches",
        capacity: Capacity::Bounded(100),
        capacity_bytes: 4000,
        batch: 8,
        ..USUAL
    });
}

#[test]
fn unbounded_acknowledged_in_batches() {
    stress(Plan {
        name: "unbounded_acknowledged_in_batches",
        capacity: Capacity::Unbounded,
        messages: 20_000,
        batch: 8,
        ..USUAL
    });
}

#[test]
fn rendezvous_acknowledged() {
    stress(Plan {
        name: "rendezvous_acknowledged",
        capacity: Capacity::Rendezvous,
        ..USUAL
    });
}

#[test]
fn bounded_plain_in_batches() {
    stress(Plan {
        name: "bounded_plain_in_batches",
        acknowledge: false,
        batch: 4,
        ..USUAL
    });
}

#[test]
fn rendezvous_plain() {
    stress(Plan {
        name: "rendezvous_plain",
        capacity: Capacity::Rendezvous,
        acknowledge: false,
        ..USUAL
    });
}

#[test]
fn waiting_plain() {
    stress(Plan {
        name: "waiting_plain",
        acknowledge: false,
        messages: 5_000,
        paused: true,
        ..USUAL
    });
}

#[test]
fn ordered_acknowledged() {
    stress(Plan {
        name: "ordered_acknowledged",
        consumers: 1,
        ..USUAL
    });
}

#[test]
fn ordered_plain() {
    stress(Plan {
        name: "ordered_plain",
        consumers: 1,
        acknowledge: false,
        ..USUAL
    });
}

/// The runs share the processors, and one at a time says more.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn stress(plan: Plan) {
    let _guard = ONE_AT_A_TIME.lock();
    isolated(|| {
        // The usage of a user of its own ends at zero.
        let run = spawn_as(fresh_user(), || run(scaled(plan)));
        assert_eq!(
            run.wait_at_most(4 * WATCHDOG),
            Exit::Code(0),
            "the run failed"
        );
    });
}

fn scaled(plan: Plan) -> Plan {
    Plan {
        messages: postbox_tests::scaled(plan.messages),
        kills: postbox_tests::scaled(plan.kills),
        ..plan
    }
}

/// Tells the person who watches. The test runner would keep what a child prints.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

// The shared memory.

const STOP: usize = 0;
const NEXT_ID: usize = 1;
const NEXT_NOTE: usize = 2;
const REPORTED: usize = 3;
const HEAD: usize = 4;

/// Producers that are never made to wait stop here until the consumers have caught up.
const AHEAD: u64 = 1000;

/// Processes that one run may start.
const PROCESSES: usize = 4096;

/// What became of an attempt to send; bits of its mark.
const ACCEPTED: u64 = 1;
const REFUSED: u64 = 2;
/// The consumer's work for it is done, which may happen twice.
const DONE: u64 = 4;
const ACKNOWLEDGED: u64 = 8;

struct Book {
    words: Ledger,
    ids: usize,
    notes: usize,
}

impl Book {
    fn new(messages: usize) -> Self {
        let (ids, notes) = (8 * messages + 10_000, 2 * messages + 10_000);
        Book {
            words: Ledger::new(HEAD + 2 * PROCESSES + 2 * ids + notes),
            ids,
            notes,
        }
    }

    fn state(&self, process: usize) -> &std::sync::atomic::AtomicU64 {
        &self.words[HEAD + process]
    }

    fn pid(&self, process: usize) -> &std::sync::atomic::AtomicU64 {
        &self.words[HEAD + PROCESSES + process]
    }

    fn mark(&self, id: usize) -> &std::sync::atomic::AtomicU64 {
        &self.words[HEAD + 2 * PROCESSES + id]
    }

    /// Which process made the attempt, and with what priority.
    fn origin(&self, id: usize) -> &std::sync::atomic::AtomicU64 {
        &self.words[HEAD + 2 * PROCESSES + self.ids + id]
    }

    /// The log of deliveries.
    fn note(&self, i: usize) -> &std::sync::atomic::AtomicU64 {
        &self.words[HEAD + 2 * PROCESSES + 2 * self.ids + i]
    }

    fn stop(&self) -> bool {
        self.words[STOP].load(SeqCst) != 0
    }

    /// Whether the producers have had much more accepted than was delivered.
    fn ahead(&self) -> bool {
        let noted = self.words[NEXT_NOTE].load(SeqCst);
        self.words[REPORTED].load(SeqCst) > noted + AHEAD
    }

    fn deliveries(&self) -> usize {
        self.words[NEXT_NOTE].load(SeqCst) as usize
    }

    /// What the message of an attempt looks like.
    fn payload(&self, id: usize) -> Vec<u8> {
        let origin = self.origin(id).load(SeqCst);
        let mut rng = Rng::new(id as u64 ^ origin << 32);
        let body = if rng.one_in(50) {
            rng.below(3000)
        } else {
            rng.below(150)
        };
        let mut payload = vec![0; 16 + body as usize];
        payload[..8].copy_from_slice(&(id as u64).to_le_bytes());
        payload[8..16].copy_from_slice(&origin.to_le_bytes());
        rng.fill(&mut payload[16..]);
        payload
    }
}

/// The longest payload.
const LONGEST: usize = 16 + 3000;

/// A delivery in the log. Zero is a place that was taken by a consumer that did not live to fill it.
#[derive(Clone, Copy)]
struct Note {
    id: usize,
    consumer: usize,
    redelivered: bool,
}

impl Note {
    fn to_word(self) -> u64 {
        (self.id as u64 + 1) << 16 | (self.consumer as u64) << 1 | u64::from(self.redelivered)
    }

    fn from_word(word: u64) -> Option<Self> {
        Some(Note {
            id: (word >> 16).checked_sub(1)? as usize,
            consumer: (word >> 1 & 0x7fff) as usize,
            redelivered: word & 1 == 1,
        })
    }
}

/// What a process is doing, in one word, so that it is known when it is killed.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    phase: Phase,
    /// Consumers: deliveries that it had noted before the current receive.
    noted: u64,
    /// Messages that it sent back on purpose.
    requeued: u64,
    /// Messages of the current call.
    batch: u64,
    /// How many of them are settled.
    settled: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u64)]
enum Phase {
    #[default]
    Idle = 0,
    /// In a call that sends, or noting what came of it.
    Sending = 1,
    /// In a call that receives.
    Receiving = 2,
    /// Has received `batch` messages, and no call is under way.
    Holding = 3,
    /// Acknowledges.
    Settling = 4,
    /// Sends back.
    Requeueing = 5,
}

impl State {
    fn to_word(self) -> u64 {
        (self.phase as u64) << 60
            | self.noted << 36
            | self.requeued << 16
            | self.batch << 8
            | self.settled
    }

    fn from_word(word: u64) -> Self {
        let phases = [
            Phase::Idle,
            Phase::Sending,
            Phase::Receiving,
            Phase::Holding,
            Phase::Settling,
            Phase::Requeueing,
        ];
        State {
            phase: phases[(word >> 60) as usize],
            noted: word >> 36 & 0xff_ffff,
            requeued: word >> 16 & 0xf_ffff,
            batch: word >> 8 & 0xff,
            settled: word & 0xff,
        }
    }
}

// The workers.

/// A random way to wait: the flags and the time.
fn waiting(rng: &mut Rng) -> (u32, u64) {
    let soon = rng.below(2_000_000);
    match rng.below(6) {
        0 => (sys::POSTBOX_NONBLOCK, 0),
        1 => (sys::POSTBOX_TIMEOUT, soon),
        2 => (sys::POSTBOX_DEADLINE, clock(libc::CLOCK_MONOTONIC) + soon),
        3 => (
            sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME,
            clock(libc::CLOCK_REALTIME) + soon,
        ),
        _ => (0, 0),
    }
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    check("clock_gettime", unsafe {
        libc::clock_gettime(id, &mut time)
    });
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Lets time pass, often none.
fn dawdle(rng: &mut Rng) {
    match rng.below(16) {
        0 => std::thread::sleep(Duration::from_micros(rng.below(1000))),
        1 => std::thread::yield_now(),
        _ => {}
    }
}

/// A message that a consumer has.
struct Delivery {
    id: usize,
    token: u64,
}

fn nap() {
    std::thread::sleep(Duration::from_micros(100));
}

fn error(errno: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno)
}

struct Worker<'a> {
    book: &'a Book,
    plan: Plan,
    process: usize,
    rng: Rng,
    state: State,
    /// The handle is this process's alone: what it reserves goes back when it dies.
    own: bool,
}

/// Worth trying again: it was full, empty, too late or interrupted.
fn passing(errno: i32) -> bool {
    [libc::EAGAIN, libc::ETIMEDOUT, libc::EINTR, libc::EDQUOT].contains(&errno)
}

impl Worker<'_> {
    fn set(&mut self, phase: Phase) {
        self.state.phase = phase;
        self.book
            .state(self.process)
            .store(self.state.to_word(), SeqCst);
    }

    fn produce(&mut self, mailbox: BorrowedFd<'_>) {
        while !self.book.stop() {
            if self.book.ahead() {
                nap();
                continue;
            }
            if self.plan.paused {
                std::thread::sleep(Duration::from_micros(self.rng.below(1500)));
            }
            let count = if self.rng.one_in(2) {
                1 + self.rng.below(self.plan.batch as u64) as usize
            } else {
                1
            };
            let first = self.book.words[NEXT_ID].fetch_add(count as u64, SeqCst) as usize;
            assert!(
                first + count <= self.book.ids,
                "more attempts than there is room to note"
            );
            let priority = self.rng.below(3);
            let ids = first..first + count;
            for id in ids.clone() {
                self.book
                    .origin(id)
                    .store((self.process as u64) << 8 | priority, SeqCst);
            }
            self.state.batch = count as u64;
            self.set(Phase::Sending);
            let sent = self.send(mailbox, first, count, priority as u32);
            let accepted = *sent.as_ref().unwrap_or(&0);
            self.book.words[REPORTED].fetch_add(accepted as u64, SeqCst);
            for id in ids {
                let mark = if id < first + accepted {
                    ACCEPTED
                } else {
                    REFUSED
                };
                self.book.mark(id).fetch_or(mark, SeqCst);
            }
            self.set(Phase::Idle);
            match sent {
                Ok(_) => {}
                Err(libc::EAGAIN | libc::EDQUOT) => nap(),
                Err(errno) => assert!(passing(errno), "send: {}", error(errno)),
            }
        }
    }

    /// Sends the messages of these attempts. Returns how many were sent, none if it gave up on its own.
    fn send(
        &mut self,
        mailbox: BorrowedFd<'_>,
        first: usize,
        count: usize,
        priority: u32,
    ) -> Result<usize, i32> {
        let (flags, timeout_ns) = waiting(&mut self.rng);
        if count > 1 {
            let payloads: Vec<_> = (first..first + count)
                .map(|id| self.book.payload(id))
                .collect();
            let entries: Vec<_> = payloads
                .iter()
                .map(|payload| SendEntry::new(payload, priority))
                .collect();
            let sent = raw::send_batch(mailbox, &entries, flags, timeout_ns)
                .map_err(Errno::raw_os_error)?;
            assert!(sent > 0, "a batch was sent that is empty");
            return Ok(sent);
        }
        let payload = self.book.payload(first);
        let mut send = sys::postbox_send {
            flags,
            timeout_ns,
            priority,
            ..Default::default()
        };
        if self.own && !matches!(self.plan.capacity, Capacity::Rendezvous) && self.rng.one_in(4) {
            let len = payload.len() as u64 + self.rng.below(20);
            raw::reserve(
                mailbox,
                &sys::postbox_reserve {
                    flags,
                    timeout_ns,
                    len,
                    ..Default::default()
                },
            )
            .map_err(Errno::raw_os_error)?;
            dawdle(&mut self.rng);
            if self.rng.one_in(4) {
                let flags = sys::POSTBOX_RESERVE_CANCEL;
                raw::reserve(
                    mailbox,
                    &sys::postbox_reserve {
                        flags,
                        len,
                        ..Default::default()
                    },
                )
                .expect("give a reservation back");
                return Ok(0);
            }
            send = sys::postbox_send {
                flags: sys::POSTBOX_SEND_RESERVED,
                reserved_len: len,
                priority,
                ..Default::default()
            };
        }
        raw::send(mailbox, &payload, &send).map_err(Errno::raw_os_error)?;
        Ok(1)
    }

    /// Receives until the last sender is gone and nothing is left.
    fn consume(&mut self, mailbox: BorrowedFd<'_>) {
        let mut buffers = vec![MaybeUninit::uninit(); self.plan.batch * LONGEST];
        loop {
            self.state.batch = 0;
            self.state.settled = 0;
            self.set(Phase::Receiving);
            let received = if self.rng.one_in(2) {
                self.receive_one(mailbox)
            } else {
                self.receive_batch(mailbox, &mut buffers)
            };
            match received {
                Ok(deliveries) => self.settle(mailbox, &deliveries),
                Err(libc::EPIPE) => break,
                Err(libc::EAGAIN) => nap(),
                // The buffer was too small, on purpose.
                Err(libc::EMSGSIZE) => {}
                Err(errno) => assert!(passing(errno), "receive: {}", error(errno)),
            }
        }
        self.set(Phase::Idle);
    }

    fn flags(&self, flags: u32) -> u32 {
        if self.plan.acknowledge {
            flags | sys::POSTBOX_RECV_ACK
        } else {
            flags
        }
    }

    fn receive_one(&mut self, mailbox: BorrowedFd<'_>) -> Result<Vec<Delivery>, i32> {
        let (flags, timeout_ns) = waiting(&mut self.rng);
        let mut args = sys::postbox_recv {
            flags: self.flags(flags),
            timeout_ns,
            ..Default::default()
        };
        let mut buffer = vec![0; if self.rng.one_in(40) { 20 } else { LONGEST }];
        let len = raw::recv(mailbox, &mut buffer, &mut args).map_err(Errno::raw_os_error)?;
        self.state.batch = 1;
        self.set(Phase::Holding);
        Ok(vec![self.note(&args, &buffer[..len])])
    }

    fn receive_batch(
        &mut self,
        mailbox: BorrowedFd<'_>,
        buffers: &mut [MaybeUninit<u8>],
    ) -> Result<Vec<Delivery>, i32> {
        let (flags, timeout_ns) = waiting(&mut self.rng);
        let mut entries: Vec<_> = buffers.chunks_mut(LONGEST).map(RecvEntry::new).collect();
        let count = raw::recv_batch(mailbox, &mut entries, self.flags(flags), timeout_ns)
            .map_err(Errno::raw_os_error)?;
        self.state.batch = count as u64;
        self.set(Phase::Holding);
        assert!(count > 0, "a batch was received that is empty");
        Ok(entries[..count]
            .iter()
            .map(|entry| self.note(entry.args(), entry.payload()))
            .collect())
    }

    /// Notes a delivery in the log, and looks whether it is the message that was sent.
    fn note(&self, args: &sys::postbox_recv, payload: &[u8]) -> Delivery {
        let id = payload
            .first_chunk()
            .map_or(usize::MAX, |id| u64::from_le_bytes(*id) as usize);
        assert!(
            id < self.book.ids,
            "a message that nobody sent: {payload:?}"
        );
        let redelivered = args.msg_flags & sys::POSTBOX_MSG_REDELIVERED != 0;
        let at = self.book.words[NEXT_NOTE].fetch_add(1, SeqCst) as usize;
        assert!(
            at < self.book.notes,
            "more deliveries than there is room to note"
        );
        let note = Note {
            id,
            consumer: self.process,
            redelivered,
        };
        self.book.note(at).store(note.to_word(), SeqCst);

        let origin = self.book.origin(id).load(SeqCst);
        assert_eq!(
            payload,
            self.book.payload(id),
            "message {id} is not what was sent"
        );
        assert_eq!(
            u64::from(args.priority),
            origin & 0xff,
            "priority of message {id}"
        );
        let pid = self.book.pid((origin >> 8) as usize).load(SeqCst);
        assert_eq!(u64::from(args.pid), pid, "sender of message {id}");
        Delivery {
            id,
            token: args.token,
        }
    }

    fn settle(&mut self, mailbox: BorrowedFd<'_>, deliveries: &[Delivery]) {
        for &Delivery { id, token } in deliveries {
            dawdle(&mut self.rng);
            if !self.plan.acknowledge {
                continue;
            }
            if self.rng.one_in(20) {
                self.set(Phase::Requeueing);
                raw::ack(mailbox, token, sys::POSTBOX_ACK_REQUEUE)
                    .expect("send back what was received");
                self.state.requeued += 1;
            } else {
                self.book.mark(id).fetch_or(DONE, SeqCst);
                self.set(Phase::Settling);
                raw::ack(mailbox, token, 0).expect("acknowledge what was received");
                let before = self.book.mark(id).fetch_or(ACKNOWLEDGED, SeqCst);
                assert_eq!(
                    before & ACKNOWLEDGED,
                    0,
                    "message {id} was acknowledged twice"
                );
            }
            self.state.settled += 1;
            self.set(Phase::Holding);
        }
        self.state.noted += deliveries.len() as u64;
    }
}

// The supervisor.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Producer,
    Consumer,
}

struct Running {
    role: Role,
    process: usize,
    child: Child,
}

/// A process that has ended.
struct Ended {
    role: Role,
    process: usize,
    killed: bool,
    state: State,
}

struct Run<'a> {
    plan: Plan,
    book: &'a Book,
    rng: Rng,
    name: String,
    /// Given up when the producers are done, so that the consumers find the end.
    sender: Option<Sender>,
    receiver: Receiver,
    running: Vec<Running>,
    ended: Vec<Ended>,
}

fn run(plan: Plan) {
    let seed = seed();
    say(&format!(
        "{}: seed {seed:#x} (POSTBOX_SEED={seed:#x} repeats it)",
        plan.name
    ));
    let name = unique("stress");
    let mut options = Mailbox::options();
    options.create_new(true).capacity(plan.capacity);
    if plan.capacity_bytes > 0 {
        options.capacity_bytes(plan.capacity_bytes);
    }
    let (sender, receiver) = options
        .open(&name)
        .and_then(Mailbox::split)
        .expect("make the mailbox");
    let book = Book::new(plan.messages);
    let mut run = Run {
        plan,
        book: &book,
        rng: Rng::new(seed),
        name,
        sender: Some(sender),
        receiver,
        running: Vec::new(),
        ended: Vec::new(),
    };
    // A signal may come before the worker has chosen what it does.
    handle_signal(libc::SIGUSR1, 0);
    let start = Instant::now();
    for _ in 0..plan.producers {
        run.start(Role::Producer);
    }
    for _ in 0..plan.consumers {
        run.start(Role::Consumer);
    }
    run.supervise();
    run.audit();
    let Run { name, receiver, .. } = run;
    drop(receiver);
    let gone = postbox::stat(&name).expect_err("the mailbox outlived its handles");
    assert!(gone.is_not_found(), "{gone}");
    let usage = postbox::usage().expect("usage");
    assert_eq!(
        (usage.messages, usage.bytes, usage.objects),
        (0, 0, 0),
        "the user still has something in use"
    );
    say(&format!(
        "{}: {:.1} s",
        plan.name,
        start.elapsed().as_secs_f64()
    ));
}

impl Run<'_> {
    fn start(&mut self, role: Role) {
        let process = self.running.len() + self.ended.len();
        assert!(
            process < PROCESSES,
            "more processes than there is room to note"
        );
        let mut rng = self.rng.split();
        let child = spawn(|| {
            self.book
                .pid(process)
                .store(u64::from(std::process::id()), SeqCst);
            // Some calls are interrupted, and others the kernel restarts.
            let restart = rng.one_in(2);
            handle_signal(libc::SIGUSR1, if restart { libc::SA_RESTART } else { 0 });
            // Some have a handle of their own, which closes as they die; others share one that stays open.
            let own = rng.one_in(2);
            let (plan, book) = (self.plan, self.book);
            let mut worker = Worker {
                book,
                plan,
                process,
                rng,
                state: State::default(),
                own,
            };
            match (role, &self.sender) {
                (Role::Producer, Some(sender)) if own => {
                    let mailbox = Sender::open(&self.name).expect("open the mailbox");
                    close(sender);
                    close(&self.receiver);
                    worker.produce(mailbox.as_fd());
                }
                (Role::Producer, Some(sender)) => {
                    close(&self.receiver);
                    worker.produce(sender.as_fd());
                }
                (Role::Producer, None) => unreachable!("producers start while there is a sender"),
                (Role::Consumer, sender) => {
                    if let Some(sender) = sender {
                        close(sender);
                    }
                    if own {
                        let mailbox = Receiver::open(&self.name).expect("open the mailbox");
                        close(&self.receiver);
                        worker.consume(mailbox.as_fd());
                    } else {
                        worker.consume(self.receiver.as_fd());
                    }
                }
            }
        });
        self.running.push(Running {
            role,
            process,
            child,
        });
    }

    /// Kills and starts processes until there were enough deliveries and kills, then lets it come to its end.
    fn supervise(&mut self) {
        let mut kills = 0;
        let mut deliveries = 0;
        let mut watchdog = Watchdog::new();
        let pace = 2 * (self.plan.messages / self.plan.kills).max(1) as u64;
        let mut next_kill = self.rng.below(pace) as usize;
        while !self.running.is_empty() {
            std::thread::sleep(Duration::from_micros(300));
            let now = self.book.deliveries();
            if now > deliveries {
                deliveries = now;
                watchdog.progress();
            } else {
                watchdog.check(|| format!("nothing is delivered\n{}", self.situation()));
            }
            self.reap();
            let stopping = self.book.stop();
            if self.rng.one_in(2)
                && let Some(worker) = self.any()
            {
                self.running[worker].child.kill(libc::SIGUSR1);
            }
            // Near the end the moments between the last message and the end of the stream are of interest.
            if (now >= next_kill || stopping && self.rng.one_in(30))
                && let Some(worker) = self.any()
            {
                next_kill = now + 1 + self.rng.below(pace) as usize;
                if let Some(role) = self.kill(worker) {
                    kills += 1;
                    if role == Role::Consumer || !stopping {
                        self.start(role);
                    }
                }
            }
            if now >= self.plan.messages && kills >= self.plan.kills {
                self.book.words[STOP].store(1, SeqCst);
            }
            if stopping
                && self
                    .running
                    .iter()
                    .all(|worker| worker.role == Role::Consumer)
            {
                self.sender = None;
            }
        }
    }

    fn any(&mut self) -> Option<usize> {
        let count = self.running.len() as u64;
        (count > 0).then(|| self.rng.below(count) as usize)
    }

    /// Notes who ended of its own accord, which nobody does before the end.
    fn reap(&mut self) {
        while let Some(worker) = self
            .running
            .iter()
            .position(|worker| !worker.child.running())
        {
            let Running {
                role,
                process,
                child,
            } = self.running.swap_remove(worker);
            let exit = child.wait();
            let expected = if role == Role::Producer {
                self.book.stop()
            } else {
                self.sender.is_none()
            };
            assert!(
                expected && exit == Exit::Code(0),
                "{role:?} {process} ended with {exit:?}\n{}",
                self.situation()
            );
            self.end(role, process, false);
        }
    }

    /// Kills a worker. `None`: it had ended by itself.
    fn kill(&mut self, worker: usize) -> Option<Role> {
        let Running {
            role,
            process,
            child,
        } = self.running.swap_remove(worker);
        child.kill(libc::SIGKILL);
        let exit = child.wait();
        self.end(role, process, exit == Exit::Signal(libc::SIGKILL));
        match exit {
            Exit::Signal(libc::SIGKILL) => Some(role),
            Exit::Code(0) if self.book.stop() => None,
            _ => panic!(
                "{role:?} {process} ended with {exit:?}\n{}",
                self.situation()
            ),
        }
    }

    fn end(&mut self, role: Role, process: usize, killed: bool) {
        let state = State::from_word(self.book.state(process).load(SeqCst));
        self.ended.push(Ended {
            role,
            process,
            killed,
            state,
        });
    }

    fn situation(&self) -> String {
        let mut text = format!("{:?}\n", self.receiver.info());
        for Running {
            role,
            process,
            child,
        } in &self.running
        {
            let state = State::from_word(self.book.state(*process).load(SeqCst));
            text += &format!(
                "{role:?} {process} (pid {}, {}): {state:?}\n",
                child.pid(),
                child.state()
            );
        }
        text
    }

    fn audit(&self) {
        let info = self.receiver.info().expect("info");
        let attempts = self.book.words[NEXT_ID].load(SeqCst) as usize;
        let notes: Vec<Note> = (0..self.book.deliveries())
            .filter_map(|i| Note::from_word(self.book.note(i).load(SeqCst)))
            .collect();
        let killed = |role: Role| {
            self.ended
                .iter()
                .filter(move |end| end.killed && end.role == role)
        };
        let batch = self.plan.batch as u64;

        // Nothing is left.
        let Info {
            messages,
            bytes,
            unacknowledged,
            reserved_messages,
            ..
        } = info;
        assert_eq!(
            (messages, bytes, unacknowledged, reserved_messages),
            (0, 0, 0, 0),
            "something is left"
        );
        let Info {
            senders,
            receivers,
            waiting_senders,
            waiting_receivers,
            ..
        } = info;
        assert_eq!(
            (senders, receivers, waiting_senders, waiting_receivers),
            (0, 1, 0, 0),
            "somebody is left"
        );
        assert_eq!(
            info.sent, info.received,
            "the mailbox is empty, and yet has not delivered what it accepted"
        );

        // Each message: first without the mark, then with it, and not after it was acknowledged.
        let mut delivered = vec![false; attempts];
        let mut first_unseen = 0;
        for Note {
            id, redelivered, ..
        } in &notes
        {
            let before = std::mem::replace(&mut delivered[*id], true);
            if *redelivered && !before {
                first_unseen += 1;
            }
            assert!(
                *redelivered || !before,
                "message {id} was delivered again as if it were new"
            );
            assert!(
                *redelivered <= self.plan.acknowledge,
                "message {id} was redelivered, although nobody acknowledges"
            );
        }
        let (mut accepted, mut refused, mut unknown, mut lost) = (0, 0, 0, 0);
        for (id, delivered) in delivered.iter().enumerate() {
            let mark = self.book.mark(id).load(SeqCst);
            match mark & (ACCEPTED | REFUSED) {
                ACCEPTED => {
                    accepted += 1;
                    lost += u64::from(!delivered);
                }
                REFUSED => {
                    refused += 1;
                    assert!(
                        !delivered,
                        "message {id} was delivered, although its send failed"
                    );
                }
                _ => unknown += 1,
            }
            if self.plan.acknowledge {
                let done = mark & DONE != 0;
                assert_eq!(done, *delivered, "message {id}: done, and delivered");
            }
        }
        if self.plan.acknowledge {
            assert_eq!(lost, 0, "messages were accepted and never delivered");
            let done = delivered.iter().filter(|delivered| **delivered).count() as u64;
            assert_eq!(
                done, info.received,
                "messages that the mailbox delivered for good"
            );
        }

        // A delivery was noted, or its receiver was killed between the kernel's word and the note. That can be said of
        // those that were killed while in the call, for as many messages as it could return, and of those that were killed
        // between its return and the last note.
        let mut noted = HashMap::new();
        for note in &notes {
            *noted.entry(note.consumer).or_insert(0) += 1;
        }
        let (mut unnoted, mut sent_back, mut receiving, mut settling) = (0, 0, 0, 0);
        for end in self.ended.iter().filter(|end| end.role == Role::Consumer) {
            sent_back += end.state.requeued;
        }
        for Ended { process, state, .. } in killed(Role::Consumer) {
            let of_this_batch = noted.get(process).unwrap_or(&0) - state.noted;
            match state.phase {
                Phase::Receiving => {
                    assert_eq!(of_this_batch, 0, "noted without being received");
                    receiving += 1;
                }
                Phase::Holding => {
                    unnoted += state.batch - of_this_batch;
                    sent_back += state.batch - state.settled;
                }
                Phase::Requeueing => sent_back += state.batch - state.settled,
                Phase::Settling => {
                    sent_back += state.batch - state.settled - 1;
                    settling += 1;
                }
                Phase::Idle | Phase::Sending => {}
            }
        }
        let between = |what: &str, found: i64, most: u64| {
            assert!(
                (0..=most as i64).contains(&found),
                "{what}: {found}, and not between 0 and {most}"
            );
            found as u64
        };
        let total = notes.len() as u64 + unnoted;
        let in_dead_hands = if self.plan.acknowledge {
            // Every message was taken once, and once more for each time that it came back.
            let taken = info.received + info.redelivered;
            let unseen = between(
                "deliveries to receivers that were killed",
                taken as i64 - total as i64,
                receiving * batch,
            );
            let found = info.redelivered as i64 - unseen as i64 - sent_back as i64;
            between("messages that were acknowledged in vain", found, settling);
            unseen
        } else {
            assert_eq!(
                info.redelivered, 0,
                "redelivered, although nobody acknowledges"
            );
            between(
                "messages received by who was killed",
                info.received as i64 - total as i64,
                receiving * batch,
            )
        };

        assert!(
            first_unseen <= unnoted + in_dead_hands,
            "{first_unseen} messages were never delivered as new"
        );
        if !self.plan.acknowledge {
            assert!(
                lost <= unnoted + in_dead_hands,
                "{lost} messages were accepted and never delivered"
            );
        }
        let of_the_killed = killed(Role::Producer)
            .filter(|end| end.state.phase == Phase::Sending)
            .count() as u64;
        // One that was killed before it wrote what it does had just begun.
        let starting = killed(Role::Producer)
            .filter(|end| end.state.phase == Phase::Idle)
            .count() as u64;
        assert!(
            unknown <= (of_the_killed + starting) * batch,
            "{unknown} attempts ended without a word"
        );
        assert!(
            (accepted..=accepted + unknown).contains(&info.sent),
            "{} messages accepted, {accepted} reported",
            info.sent
        );
        self.audit_order(&notes);

        let mut phases = HashMap::new();
        for Ended { role, state, .. } in self.ended.iter().filter(|end| end.killed) {
            *phases
                .entry(format!("{role:?} {:?}", state.phase).to_lowercase())
                .or_insert(0) += 1;
        }
        let mut phases: Vec<String> = phases
            .into_iter()
            .map(|(phase, count)| format!("{count} {phase}"))
            .collect();
        phases.sort();
        say(&format!(
            "{}: {} messages, {refused} sends that failed, {} redelivered, {in_dead_hands} in dead hands, {} kills ({})",
            self.plan.name,
            info.received,
            info.redelivered,
            self.ended.iter().filter(|end| end.killed).count(),
            phases.join(", "),
        ));
        assert!(
            info.received as usize + self.plan.kills * self.plan.batch
                >= self.plan.messages * 9 / 10,
            "too few messages"
        );
    }

    /// With one consumer at a time the log is in the order of delivery: that of each producer within a priority.
    fn audit_order(&self, notes: &[Note]) {
        if self.plan.consumers > 1 {
            return;
        }
        let mut last = HashMap::new();
        for Note {
            id, redelivered, ..
        } in notes
        {
            let origin = self.book.origin(*id).load(SeqCst);
            if let Some(before) = last.insert(origin, *id) {
                let again = before == *id && *redelivered;
                assert!(before < *id || again, "message {id} came after {before}");
            }
        }
    }
}

/// Closes this process's copy of a handle that its parent has.
fn close(handle: &impl AsRawFd) {
    // SAFETY: the parent's value is never dropped in this process, which ends by `_exit`.
    check("close", unsafe { libc::close(handle.as_raw_fd()) });
}
