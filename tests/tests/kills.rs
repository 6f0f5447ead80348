//! Processes that are killed at random moments while they call, answer, connect, meet, acquire, count down and wait; and
//! a watchdog that proves that nobody who is left sleeps for ever.
//!
//! Each worker counts what it completes in shared memory that outlives it. The supervisor kills one after the other and
//! starts another in its place; it panics, and says who does what, when a worker completes nothing for the watchdog's
//! time, or does not end when it is told to. In the end nothing is left: no unit of a semaphore, no port, no object.
//!
//! `POSTBOX_SEED` repeats the choices of a run (not the scheduler's). `POSTBOX_STRESS_PERCENT` makes it longer or shorter;
//! it is 100, or 10 in a kernel with lockdep, which is slow.

use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use postbox::{
    Barrier, Buffer, Capacity, Error, ErrorKind, Latch, Link, LinkOptions, Listener, Loan, Mailbox,
    Pool, Port, Receiver, Segment, Semaphore, Sender, Wait,
};
use postbox_tests::{
    Child, Exit, Ledger, Rng, User, WATCHDOG, Watchdog, check, fresh_user, handle_signal, isolated,
    scaled, seed, spawn, spawn_as, tell, unique, wait_until,
};

// Kills of each scenario, at 100 percent.
const CALLS: usize = 120;
const LINKS: usize = 120;
const PORTS: usize = 110;
const SEMAPHORES: usize = 100;
const LOCKS: usize = 120;
const LATCHES: usize = 80;
const BARRIERS: usize = 100;
const MEMBERS: usize = 50;
const POOLS: usize = 200;
/// Blocks that are borrowed between two of them, by all together: a million in all.
const LOANS: u64 = 5000;

const _: () = assert!(
    3 * CALLS + LINKS + PORTS + 2 * SEMAPHORES + LATCHES + BARRIERS + MEMBERS >= 1000,
    "a thousand kills are what counts as proof"
);

/// The scenarios share the processors, and one at a time says more.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs one scenario as a user of its own, of whom nothing is left afterwards.
fn scenario(name: &'static str, kills: usize, body: impl FnOnce(&mut Rng, usize)) {
    let _guard = ONE_AT_A_TIME.lock();
    isolated(|| {
        let user = fresh_user();
        let run = spawn_as(user, || {
            let seed = seed();
            tell(&format!(
                "{name}: seed {seed:#x} (POSTBOX_SEED={seed:#x} repeats it)"
            ));
            let start = Instant::now();
            let kills = scaled(kills);
            // A signal may come before a worker has chosen what it does.
            handle_signal(libc::SIGUSR1, 0);
            body(&mut Rng::new(seed), kills);
            let usage = postbox::usage().expect("usage");
            let usage = [
                usage.messages,
                usage.bytes,
                usage.objects,
                usage.files,
                usage.shared,
            ];
            assert_eq!(usage, [0; 5], "the user still has something in use");
            let seconds = start.elapsed().as_secs_f64();
            tell(&format!("{name}: {kills} kills, {seconds:.1} s"));
        });
        let exit = run.wait_at_most(4 * WATCHDOG);
        assert_eq!(exit, Exit::Code(0), "the run failed");
        assert_eq!(objects_of(user), Vec::<String>::new(), "objects are left");
    });
}

/// What the kernel has of a user, in whatever namespace and with or without a name.
fn objects_of(user: User) -> Vec<String> {
    let text =
        std::fs::read_to_string("/sys/kernel/debug/postbox/objects").expect("debugfs is mounted");
    let uid = user.uid.to_string();
    let lines = text.lines().skip(1);
    lines
        .filter(|line| line.split(' ').nth(3) == Some(&uid))
        .map(str::to_owned)
        .collect()
}

// What workers and supervisor share.

const SLOTS: usize = 8;
const STOP: usize = 0;
const NEXT_ID: usize = 1;
const HOLDER: usize = 2;
const BEATS: usize = 8;
const MARKS: usize = BEATS + SLOTS;
/// More than a run has calls.
const IDS: usize = 1 << 20;

struct Board(Ledger);

impl Board {
    fn new() -> Self {
        Board(Ledger::new(MARKS + IDS))
    }

    fn stop(&self) -> bool {
        self.0[STOP].load(SeqCst) != 0
    }

    /// A worker completed something.
    fn beat(&self, slot: usize) {
        self.0[BEATS + slot].fetch_add(1, SeqCst);
    }

    fn beats(&self, slot: usize) -> u64 {
        self.0[BEATS + slot].load(SeqCst)
    }

    fn id(&self) -> usize {
        let id = self.0[NEXT_ID].fetch_add(1, SeqCst) as usize;
        assert!(id < IDS, "more calls than there is room to note");
        id
    }

    /// What is noted of a call, or of a participant.
    fn mark(&self, id: usize) -> &AtomicU64 {
        &self.0[MARKS + id]
    }

    fn note(&self, id: usize, mark: u64) -> u64 {
        self.mark(id).fetch_or(mark, SeqCst)
    }
}

/// A worker has no descriptors but the standard ones and this. The parent's values are never dropped in it.
fn keep_only(fd: Option<RawFd>) {
    let close = |first: u32, last: u32| {
        // SAFETY: nothing in this process uses the copies.
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        check("close_range", done as i32);
    };
    match fd {
        Some(fd) => {
            let fd = fd as u32;
            if fd > 3 {
                close(3, fd - 1);
            }
            close(fd + 1, u32::MAX);
        }
        None => close(3, u32::MAX),
    }
}

/// Lets time pass, often none.
fn dawdle(rng: &mut Rng) {
    match rng.below(8) {
        0 => std::thread::sleep(Duration::from_micros(rng.below(1500))),
        1 => std::thread::yield_now(),
        _ => {}
    }
}

/// For ever, most of the time.
fn waiting(rng: &mut Rng) -> Wait {
    match rng.below(6) {
        0 => Wait::Timeout(Duration::from_micros(rng.below(3000))),
        1 => Wait::Never,
        _ => Wait::Forever,
    }
}

// The supervisor.

struct Crew<'a> {
    board: &'a Board,
    rng: &'a mut Rng,
    work: &'a dyn Fn(usize, Rng),
    running: Vec<(usize, Child)>,
    /// Of each slot: the last count that was seen, and since when.
    seen: [(u64, Watchdog); SLOTS],
}

impl<'a> Crew<'a> {
    fn new(board: &'a Board, rng: &'a mut Rng, slots: usize, work: &'a dyn Fn(usize, Rng)) -> Self {
        let mut crew = Crew {
            board,
            rng,
            work,
            running: Vec::new(),
            seen: std::array::from_fn(|_| (0, Watchdog::new())),
        };
        for slot in 0..slots {
            crew.start(slot);
        }
        crew
    }

    fn start(&mut self, slot: usize) {
        let rng = self.rng.split();
        let child = spawn(|| (self.work)(slot, rng));
        self.running.push((slot, child));
        self.seen[slot] = (self.board.beats(slot), Watchdog::new());
    }

    /// Panics if a worker has completed nothing for too long.
    fn look(&mut self) {
        let situation = || Self::situation(&self.running, self.board);
        for (slot, _) in &self.running {
            let (seen, watchdog) = &mut self.seen[*slot];
            let beats = self.board.beats(*slot);
            if beats != *seen {
                *seen = beats;
                watchdog.progress();
            }
            watchdog.check(|| format!("worker {slot} completes nothing\n{}", situation()));
        }
    }

    fn situation(running: &[(usize, Child)], board: &Board) -> String {
        let mut text = String::new();
        for (slot, child) in running {
            let path = format!("/proc/{}/wchan", child.pid());
            let place = std::fs::read_to_string(path).unwrap_or_default();
            text += &format!(
                "worker {slot}: pid {}, {} {place}, {} completed\n",
                child.pid(),
                child.state(),
                board.beats(*slot)
            );
        }
        text
    }

    /// Interrupts, kills and replaces workers. Between two kills the others get on.
    fn torment(&mut self, kills: usize) {
        self.torment_every(kills, |rng| rng.below(12));
    }

    /// The same with so much done between two kills.
    fn torment_every(&mut self, kills: usize, pace: impl Fn(&mut Rng) -> u64) {
        let total = |board: &Board| (0..SLOTS).map(|slot| board.beats(slot)).sum::<u64>();
        let mut killed = 0;
        let mut next = 0;
        while killed < kills {
            std::thread::sleep(Duration::from_micros(self.rng.below(3000)));
            self.look();
            let one = self.rng.below(self.running.len() as u64) as usize;
            if self.rng.one_in(3) {
                self.running[one].1.kill(libc::SIGUSR1);
            }
            if total(self.board) < next {
                continue;
            }
            let one = self.rng.below(self.running.len() as u64) as usize;
            let (slot, child) = self.running.swap_remove(one);
            child.destroy();
            killed += 1;
            next = total(self.board) + pace(self.rng);
            self.start(slot);
        }
    }

    /// Waits until those workers have ended by themselves, and well. `tell` is called again and again until then.
    fn finish(&mut self, slots: std::ops::Range<usize>, mut tell: impl FnMut()) {
        let mut watchdog = Watchdog::new();
        while self.running.iter().any(|(slot, _)| slots.contains(slot)) {
            watchdog.check(|| {
                let situation = Self::situation(&self.running, self.board);
                format!("workers that were told to end\n{situation}")
            });
            let ended = |(slot, child): &(usize, Child)| slots.contains(slot) && !child.running();
            match self.running.iter().position(ended) {
                Some(at) => {
                    let (slot, child) = self.running.swap_remove(at);
                    assert_eq!(child.wait(), Exit::Code(0), "worker {slot}");
                    watchdog.progress();
                }
                None => {
                    tell();
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn stop(&self) {
        self.board.0[STOP].store(1, SeqCst);
    }
}

#[track_caller]
fn unexpected(what: &str, error: &Error) -> ! {
    panic!("{what}: {error} ({:?})", error.kind)
}

// Calls.

/// What became of a call; bits of its mark. The caller's word:
const BEGUN: u64 = 1;
const ANSWERED: u64 = 2;
const DIED: u64 = 4;
const DROPPED: u64 = 8;
const GAVE_UP: u64 = 16;
const OUTCOMES: u64 = ANSWERED | DIED | DROPPED | GAVE_UP;
/// The server's:
const RECEIVED: u64 = 32;
const REPLIED: u64 = 64;
const STALE: u64 = 128;
const DROPS: u64 = 256;
const ABANDONS: u64 = 512;

const CALLERS: usize = 3;
const SERVERS: usize = 3;

fn answer(id: usize) -> [u8; 8] {
    (id as u64 ^ 0x5bd1_e995_0000_0000).to_le_bytes()
}

fn caller(board: &Board, slot: usize, mut rng: Rng, sender: &Sender) {
    while !board.stop() {
        let id = board.id();
        let wait = match rng.below(4) {
            0 => Wait::Timeout(Duration::from_micros(rng.below(3000))),
            _ => Wait::Forever,
        };
        board.note(id, BEGUN);
        let outcome = match sender.call_with((id as u64).to_le_bytes(), wait) {
            Ok(reply) => {
                assert_eq!(*reply, answer(id), "the reply is to another call");
                ANSWERED
            }
            Err(error) => match error.kind {
                ErrorKind::ServerDied => DIED,
                ErrorKind::Dropped => DROPPED,
                ErrorKind::Timeout | ErrorKind::Interrupted => GAVE_UP,
                _ => unexpected("call", &error),
            },
        };
        board.note(id, outcome);
        board.beat(slot);
        dawdle(&mut rng);
    }
}

/// Serves until the last caller's handle is closed: through a handle of its own, which closes as it dies, or through one
/// that it shares with others.
fn server(board: &Board, slot: usize, mut rng: Rng, mailbox: &str, shared: Option<&Receiver>) {
    let open = || Receiver::open(mailbox).expect("open the mailbox");
    let mut own = shared.is_none().then(open);
    'receive: loop {
        let receiver = shared.or(own.as_ref()).expect("one of them");
        let mut request = match receiver.recv_request() {
            Ok(request) => request,
            Err(error) if error.is_disconnected() => return,
            Err(error) => unexpected("receive", &error),
        };
        loop {
            let id = u64::from_le_bytes(request[..].try_into().expect("a number")) as usize;
            let before = board.note(id, RECEIVED);
            assert_eq!(before & RECEIVED, 0, "call {id} was received twice");
            dawdle(&mut rng);
            board.beat(slot);
            match rng.below(12) {
                0 => {
                    board.note(id, DROPS);
                    drop(request);
                    continue 'receive;
                }
                1 if shared.is_none() => {
                    // The handle is closed together with what it owes.
                    board.note(id, ABANDONS);
                    std::mem::forget(request);
                    own = Some(open());
                    continue 'receive;
                }
                2..6 => {
                    match request.reply(answer(id)) {
                        Ok(()) => board.note(id, REPLIED),
                        Err(sent) if sent.error.kind == ErrorKind::Stale => board.note(id, STALE),
                        Err(sent) => unexpected("reply", &sent.error),
                    };
                    continue 'receive;
                }
                _ => match request.reply_recv(answer(id)) {
                    Ok(()) => {
                        board.note(id, REPLIED);
                    }
                    Err(error) if error.kind == ErrorKind::Stale => {
                        board.note(id, STALE);
                        continue 'receive;
                    }
                    Err(error) if error.is_disconnected() => {
                        board.note(id, REPLIED);
                        return;
                    }
                    Err(error) => unexpected("reply and receive", &error),
                },
            }
        }
    }
}

fn calls(name: &'static str, capacity: Capacity) {
    scenario(name, CALLS, |rng, kills| {
        let board = Board::new();
        let mailbox = unique("kills");
        let (sender, receiver) = Mailbox::options()
            .create_new(true)
            .capacity(capacity)
            .open(&mailbox)
            .and_then(Mailbox::split)
            .expect("make the mailbox");
        let mut sender = Some(sender);
        let work = |slot: usize, mut rng: Rng| {
            if slot < CALLERS {
                keep_only(None);
                let sender = Sender::open(&mailbox).expect("open the mailbox");
                caller(&board, slot, rng, &sender);
            } else {
                let own = rng.one_in(2);
                keep_only((!own).then_some(receiver.as_raw_fd()));
                server(&board, slot, rng, &mailbox, (!own).then_some(&receiver));
            }
        };
        let mut crew = Crew::new(&board, rng, CALLERS + SERVERS, &work);
        crew.torment(kills);
        crew.stop();
        crew.finish(0..CALLERS, || {});
        // The servers wait, and find the end.
        drop(sender.take());
        crew.finish(CALLERS..CALLERS + SERVERS, || {});

        let info = receiver.info().expect("info");
        assert_eq!(
            (info.messages, info.senders, info.receivers),
            (0, 0, 1),
            "something is left"
        );
        assert_eq!((info.waiting_senders, info.waiting_receivers), (0, 0));
        drop(receiver);
        let gone = postbox::stat(&mailbox).expect_err("the mailbox outlived its handles");
        assert!(gone.is_not_found(), "{gone}");
        audit_calls(name, &board, kills);
    });
}

fn audit_calls(name: &str, board: &Board, kills: usize) {
    let ids = board.0[NEXT_ID].load(SeqCst) as usize;
    let (mut unknown, mut counts) = (0, [0; 4]);
    for id in 0..ids {
        let mark = board.mark(id).load(SeqCst);
        let outcome = mark & OUTCOMES;
        // One that was killed had got no outcome, or had not noted it.
        match outcome.count_ones() {
            0 => unknown += 1,
            1 => counts[outcome.trailing_zeros() as usize - 1] += 1,
            _ => panic!("call {id} ended in several ways: {mark:#x}"),
        }
        if outcome == 0 {
            continue;
        }
        let only = |servers: u64, outcomes: u64| {
            assert!(
                mark & servers == 0 || outcome & outcomes != 0,
                "call {id} ended otherwise than its server knows: {mark:#x}"
            );
        };
        only(REPLIED, ANSWERED);
        only(STALE, GAVE_UP);
        only(DROPS, DROPPED | GAVE_UP | DIED);
        only(ABANDONS, DIED | GAVE_UP);
        assert!(
            outcome != ANSWERED || mark & RECEIVED != 0,
            "call {id} was answered, and nobody had received it: {mark:#x}"
        );
    }
    assert!(
        unknown <= kills,
        "{unknown} calls have no outcome, and {kills} processes were killed"
    );
    let [answered, died, dropped, gave_up] = counts;
    tell(&format!(
        "{name}: {ids} calls: {answered} answered, {died} whose server died, {dropped} dropped, {gave_up} given up, \
         {unknown} callers killed"
    ));
    assert!(answered > 0 && (kills < 50 || died > 0));
}

#[test]
fn calls_through_a_rendezvous() {
    calls("calls_through_a_rendezvous", Capacity::Rendezvous);
}

#[test]
fn calls_through_a_bounded_mailbox() {
    calls("calls_through_a_bounded_mailbox", Capacity::Bounded(2));
}

#[test]
fn calls_through_an_unbounded_mailbox() {
    calls("calls_through_an_unbounded_mailbox", Capacity::Unbounded);
}

// Links.

/// Answers each message with itself, until it is told to stop.
fn echo(board: &Board, slot: usize, mut rng: Rng, listener: &Listener) {
    loop {
        let link = listener
            .accept()
            .unwrap_or_else(|error| unexpected("accept", &error));
        board.beat(slot);
        loop {
            match link.recv() {
                Ok(message) if *message == *b"stop" => return,
                Ok(message) => match link.send(&message) {
                    Ok(()) => {}
                    Err(sent) if sent.error.is_disconnected() => break,
                    Err(sent) => unexpected("send", &sent.error),
                },
                Err(error) if error.is_disconnected() => break,
                Err(error) => unexpected("receive", &error),
            }
            board.beat(slot);
            match rng.below(12) {
                0 => break,
                1 => link.shutdown(Shutdown::Write).expect("it sends"),
                2 => link.shutdown(Shutdown::Read).expect("it receives"),
                _ => dawdle(&mut rng),
            }
        }
    }
}

fn client(board: &Board, slot: usize, mut rng: Rng, listener: &str) {
    let mut number = 0;
    while !board.stop() {
        board.beat(slot);
        let link = match Link::connect_with(listener, waiting(&mut rng)) {
            Ok(link) => link,
            Err(error) if error.is_timeout() || error.is_full() => continue,
            Err(error) => unexpected("connect", &error),
        };
        for _ in 0..rng.below(6) {
            number += 1;
            let text = format!("{} {number}", std::process::id());
            match link.send(&text) {
                Ok(()) => {}
                Err(sent) if sent.error.is_disconnected() => break,
                Err(sent) => unexpected("send", &sent.error),
            }
            if rng.one_in(8) {
                link.shutdown(Shutdown::Write).expect("it sends");
            }
            match link.recv() {
                Ok(message) => assert_eq!(*message, *text.as_bytes(), "not what was sent"),
                Err(error) if error.is_disconnected() => break,
                Err(error) => unexpected("receive", &error),
            }
            board.beat(slot);
            dawdle(&mut rng);
        }
    }
}

#[test]
fn ends_of_links() {
    const CLIENTS: usize = 3;
    const ECHOES: usize = 3;
    scenario("ends_of_links", LINKS, |rng, kills| {
        let capacities = [
            Capacity::Rendezvous,
            Capacity::Bounded(1),
            Capacity::Unbounded,
        ];
        let parts = capacities.len();
        for capacity in capacities {
            let board = Board::new();
            let name = unique("kills");
            let listener = LinkOptions::new()
                .capacity(capacity)
                .back_capacity(*rng.pick(&capacities))
                .backlog(rng.below(3) as u32)
                .listen(&name)
                .expect("listen");
            let work = |slot: usize, mut rng: Rng| {
                if slot < CLIENTS {
                    keep_only(None);
                    client(&board, slot, rng, &name);
                } else if rng.one_in(2) {
                    keep_only(Some(listener.as_raw_fd()));
                    echo(&board, slot, rng, &listener);
                } else {
                    keep_only(None);
                    let listener = Listener::open(&name).expect("open the listener");
                    echo(&board, slot, rng, &listener);
                }
            };
            let mut crew = Crew::new(&board, rng, CLIENTS + ECHOES, &work);
            crew.torment(kills.div_ceil(parts));
            crew.stop();
            crew.finish(0..CLIENTS, || {});
            let soon = Duration::from_millis(50);
            crew.finish(CLIENTS..CLIENTS + ECHOES, || {
                if let Ok(link) = Link::connect_timeout(&name, soon) {
                    // Whoever accepts it may already have been told.
                    let _ = link.send_timeout("stop", soon);
                }
            });
        }
    });
}

// Ports.

/// Meets whoever comes to a port, and makes sure that each has just the other.
fn meet(board: &Board, slot: usize, mut rng: Rng, ports: &[u16]) {
    let mut number = 0;
    while !board.stop() {
        let port = *rng.pick(ports);
        board.beat(slot);
        let link = match options().bind_port(port, waiting(&mut rng)) {
            Ok(link) => link,
            Err(error) => match error.kind {
                ErrorKind::AddressInUse | ErrorKind::Timeout | ErrorKind::NotYet => {
                    std::thread::yield_now();
                    continue;
                }
                _ => unexpected("bind the port", &error),
            },
        };
        number += 1;
        let mine = format!("{} {number}", std::process::id());
        dawdle(&mut rng);
        let talk = || -> postbox::Result<()> {
            link.send(&mine).map_err(|sent| sent.error)?;
            let theirs = link.recv()?;
            assert_ne!(*theirs, *mine.as_bytes(), "it met itself");
            link.send(&theirs).map_err(|sent| sent.error)?;
            assert_eq!(*link.recv()?, *mine.as_bytes(), "the end has two others");
            Ok(())
        };
        match talk() {
            Ok(()) => {}
            Err(error) if error.is_disconnected() => {}
            Err(error) => unexpected("talk", &error),
        }
    }
}

fn options() -> LinkOptions {
    let mut options = LinkOptions::new();
    options
        .capacity(Capacity::Bounded(4))
        .back_capacity(Capacity::Bounded(4));
    options
}

#[test]
fn who_meets_at_ports() {
    const MEETING: usize = 5;
    scenario("who_meets_at_ports", PORTS, |rng, kills| {
        let board = Board::new();
        let first = 20_000 + std::process::id() as u16 % 20_000;
        let ports = [first, first + 1];
        let work = |slot: usize, rng: Rng| {
            keep_only(None);
            meet(&board, slot, rng, &ports);
        };
        let mut crew = Crew::new(&board, rng, MEETING, &work);
        crew.torment(kills);
        crew.stop();
        // Who waits meets the supervisor.
        crew.finish(0..MEETING, || {
            for port in ports {
                let soon = Wait::Timeout(Duration::from_millis(5));
                let _ = options().bind_port(port, soon);
            }
        });
        for port in ports {
            let link = Port::open(port).expect("the port is free");
            let info = link.info().expect("bound");
            assert!(!info.connected, "somebody had the port");
        }
    });
}

// Semaphores.

/// Acquires and releases. With a maximum of 1, makes sure that it is alone.
fn acquire(
    board: &Board,
    slot: usize,
    mut rng: Rng,
    open: impl Fn() -> Semaphore,
    shared: Option<&Semaphore>,
    units: u64,
) {
    let mut own = shared.is_none().then(&open);
    while !board.stop() {
        let semaphore = shared.or(own.as_ref()).expect("one of them");
        let count = 1 + rng.below(units);
        let guard = match semaphore.acquire_many(count, waiting(&mut rng)) {
            Ok(guard) => guard,
            Err(error) if error.is_timeout() || error.kind == ErrorKind::NotYet => {
                board.beat(slot);
                continue;
            }
            Err(error) => unexpected("acquire", &error),
        };
        if units == 1 {
            let before = board.0[HOLDER].swap(std::process::id().into(), SeqCst);
            assert!(
                before == 0 || guard.owner_died(),
                "process {before} has it, and did not die"
            );
        }
        let left = semaphore.value().expect("info");
        assert!(left + count <= units, "{left} are left, {count} acquired");
        dawdle(&mut rng);
        if units == 1 {
            board.0[HOLDER].store(0, SeqCst);
        }
        match rng.below(8) {
            0 if shared.is_none() => {
                // The handle gives them back as it is closed.
                guard.forget();
                own = Some(open());
            }
            1 => drop(guard),
            _ => guard.release().expect("it was acquired"),
        }
        board.beat(slot);
        dawdle(&mut rng);
    }
}

fn semaphores(name: &'static str, units: u64) {
    const USERS: usize = 5;
    scenario(name, SEMAPHORES, |rng, kills| {
        let board = Board::new();
        let path = unique("kills");
        let semaphore = Semaphore::options()
            .create_new(true)
            .initial(units)
            .maximum(units)
            .open(&path)
            .expect("make the semaphore");
        let work = |slot: usize, mut rng: Rng| {
            let open = || Semaphore::open(&path).expect("open the semaphore");
            if rng.one_in(2) {
                keep_only(Some(semaphore.as_raw_fd()));
                acquire(&board, slot, rng, open, Some(&semaphore), units);
            } else {
                keep_only(None);
                acquire(&board, slot, rng, open, None, units);
            }
        };
        let mut crew = Crew::new(&board, rng, USERS, &work);
        crew.torment(kills);
        crew.stop();
        crew.finish(0..USERS, || {});
        let info = semaphore.info().expect("info");
        assert_eq!(info.value, units, "the value is not what it began with");
        assert_eq!(info.waiting_receivers, 0);
    });
}

#[test]
fn holders_of_a_lock() {
    semaphores("holders_of_a_lock", 1);
}

#[test]
fn holders_of_units() {
    semaphores("holders_of_units", 3);
}

// The lock in shared memory.

/// Changes two numbers together. Whoever dies between the two leaves them unequal.
fn count_together(board: &Board, slot: usize, mut rng: Rng, path: &str) {
    let open = || {
        let segment = Segment::open(path).expect("open the segment");
        segment.attach().expect("map it")
    };
    let mut mapping = open();
    while !board.stop() {
        let mutex = mapping.mutex::<[u64; 2]>(64).expect("it has room");
        let mut guard = match mutex.lock_with(waiting(&mut rng)) {
            Ok(guard) => guard,
            Err(error) if error.is_timeout() || error.kind == ErrorKind::NotYet => {
                board.beat(slot);
                continue;
            }
            Err(error) => unexpected("lock", &error),
        };
        let before = board.0[HOLDER].swap(std::process::id().into(), SeqCst);
        assert!(
            before == 0 || guard.owner_died(),
            "process {before} has it, and did not die"
        );
        let [one, other] = guard.get();
        if guard.owner_died() {
            assert!(one == other || one == other + 1, "{one} and {other}");
            guard.mark_consistent();
        } else {
            assert_eq!(one, other, "somebody else was there");
        }
        guard.set(&[one + 1, one]);
        dawdle(&mut rng);
        guard.set(&[one + 1; 2]);
        board.0[HOLDER].store(0, SeqCst);
        if rng.one_in(16) {
            // It is given back as the last descriptor is closed.
            std::mem::forget(guard);
            mapping = open();
        } else {
            drop(guard);
        }
        board.beat(slot);
        dawdle(&mut rng);
    }
}

#[test]
fn holders_of_a_lock_in_memory() {
    const USERS: usize = 5;
    scenario("holders_of_a_lock_in_memory", LOCKS, |rng, kills| {
        let board = Board::new();
        let path = unique("kills");
        let segment = Segment::options()
            .create_new(&path, 4096)
            .expect("make the segment");
        let work = |slot: usize, rng: Rng| {
            keep_only(None);
            count_together(&board, slot, rng, &path);
        };
        let mut crew = Crew::new(&board, rng, USERS, &work);
        crew.torment(kills);
        crew.stop();
        crew.finish(0..USERS, || {});
        assert_eq!(segment.info().expect("info").waiting_receivers, 0);
        let mapping = segment.attach().expect("map it");
        let mutex = mapping.mutex::<[u64; 2]>(64).expect("it has room");
        let guard = mutex.try_lock().expect("nobody is left who has it");
        let [one, other] = guard.get();
        assert!(one == other || guard.owner_died(), "{one} and {other}");
        assert!(one > 0);
    });
}

// Latches and barriers.

/// What a participant or waiter says of itself; its mark.
const JOINED: u64 = 1;
const COUNTED: u64 = 2;
const OPEN: u64 = 4;
const BROKEN: u64 = 8;

/// Kills some of these at random moments, not all of them. Says of each whether it was killed.
fn decimate(rng: &mut Rng, children: Vec<Child>, most: usize) -> (Vec<Option<Child>>, usize) {
    let mut children: Vec<_> = children.into_iter().map(Some).collect();
    let mut killed = 0;
    for _ in 0..1 + rng.below(most as u64) {
        std::thread::sleep(Duration::from_micros(rng.below(6000)));
        let one = rng.below(children.len() as u64) as usize;
        let Some(child) = children[one].take() else {
            continue;
        };
        if child.running() {
            child.kill(libc::SIGKILL);
        }
        match child.wait() {
            Exit::Signal(libc::SIGKILL) => killed += 1,
            exit => assert_eq!(exit, Exit::Code(0)),
        }
    }
    (children, killed)
}

#[test]
fn participants_of_latches() {
    const PARTICIPANTS: usize = 3;
    const WAITERS: usize = 3;
    scenario("participants_of_latches", LATCHES, |rng, kills| {
        let (mut total, mut broken, mut rounds) = (0, 0, 0);
        while total < kills {
            rounds += 1;
            let board = Board(Ledger::new(MARKS + PARTICIPANTS + WAITERS));
            let latch = Latch::new(PARTICIPANTS as u64).expect("make a latch");
            let children = (0..PARTICIPANTS + WAITERS).map(|at| {
                let mut rng = rng.split();
                spawn(|| {
                    keep_only(Some(latch.as_raw_fd()));
                    if at < PARTICIPANTS {
                        let mut work =
                            || std::thread::sleep(Duration::from_micros(rng.below(4000)));
                        while !board.stop() {
                            std::thread::sleep(Duration::from_micros(200));
                        }
                        work();
                        let part = latch.join().expect("there is one for each");
                        board.note(at, JOINED);
                        work();
                        part.count_down().expect("it was joined");
                        board.note(at, COUNTED);
                        return;
                    }
                    match latch.wait() {
                        Ok(()) => board.note(at, OPEN),
                        Err(error) if error.kind == ErrorKind::OwnerDied => board.note(at, BROKEN),
                        Err(error) => unexpected("wait for the latch", &error),
                    };
                })
            });
            let children = children.collect();
            // Now they begin, all at once.
            board.0[STOP].store(1, SeqCst);
            let (children, killed) = decimate(rng, children, 4);
            total += killed;
            let mut children = children.into_iter();
            for child in children.by_ref().take(PARTICIPANTS).flatten() {
                child.ok();
            }
            // Who was killed before it joined is missed by nobody: the supervisor stands in for it.
            let info = latch.info().expect("info");
            let counted =
                (0..PARTICIPANTS).filter(|at| board.mark(*at).load(SeqCst) & COUNTED != 0);
            assert!(
                info.value <= (PARTICIPANTS - counted.count()) as u64,
                "a count is lost"
            );
            let died = info.broken && info.value > 0;
            if !died && info.value > 0 {
                latch.count_down_by(info.value).expect("it is what is left");
            }
            for child in children.flatten() {
                child.ok();
            }
            for at in PARTICIPANTS..PARTICIPANTS + WAITERS {
                let mark = board.mark(at).load(SeqCst);
                let expected = if died { BROKEN } else { OPEN };
                // 0: it was killed.
                assert!(
                    mark == 0 || mark == expected,
                    "a waiter saw {mark}, and not {expected}"
                );
            }
            assert!(died || latch.try_wait().is_ok(), "the latch is not open");
            broken += usize::from(died);
            wait_until("nobody to wait", || {
                latch.info().expect("info").waiting_receivers == 0
            });
        }
        tell(&format!(
            "participants_of_latches: {rounds} rounds, {broken} latches that broke"
        ));
        assert!(kills < 50 || broken > 0, "no latch ever broke");
    });
}

/// Somebody who is one of the parties, and dies.
fn break_it(barrier: &Barrier) {
    let child = spawn(|| {
        let member = barrier.join().expect("there is one for it");
        std::mem::forget(member);
    });
    child.ok();
}

/// Waits again and again, until the barrier breaks.
fn wait_at(board: &Board, slot: usize, mut rng: Rng, barrier: &Barrier) {
    loop {
        match barrier.wait_with(waiting(&mut rng)) {
            Ok(_) => board.beat(slot),
            Err(error) => match error.kind {
                ErrorKind::OwnerDied => return,
                ErrorKind::Timeout | ErrorKind::NotYet => board.beat(slot),
                _ => unexpected("wait at the barrier", &error),
            },
        }
        dawdle(&mut rng);
    }
}

/// Who has not joined is not missed: somebody else comes instead.
#[test]
fn guests_of_a_barrier() {
    const GUESTS: usize = 4;
    scenario("guests_of_a_barrier", BARRIERS, |rng, kills| {
        let board = Board::new();
        let path = unique("kills");
        let barrier = Barrier::options()
            .create_new(true)
            .parties(3)
            .open(&path)
            .expect("make the barrier");
        let work = |slot: usize, mut rng: Rng| {
            if rng.one_in(2) {
                keep_only(Some(barrier.as_raw_fd()));
                wait_at(&board, slot, rng, &barrier);
            } else {
                keep_only(None);
                let barrier = Barrier::open(&path).expect("open the barrier");
                wait_at(&board, slot, rng, &barrier);
            }
        };
        let mut crew = Crew::new(&board, rng, GUESTS, &work);
        crew.torment(kills);
        break_it(&barrier);
        crew.finish(0..GUESTS, || {});
        let info = barrier.info().expect("info");
        assert_eq!((info.value, info.waiting_receivers), (0, 0));
        assert!(info.broken);
    });
}

/// Who has joined is missed by all.
#[test]
fn members_of_barriers() {
    const PARTIES: usize = 3;
    scenario("members_of_barriers", MEMBERS, |rng, kills| {
        let (mut total, mut rounds) = (0, 0);
        while total < kills {
            rounds += 1;
            let board = Board(Ledger::new(MARKS + PARTIES));
            let barrier = Barrier::new(PARTIES as u64).expect("make a barrier");
            let children = (0..PARTIES).map(|slot| {
                let rng = rng.split();
                spawn(|| {
                    keep_only(Some(barrier.as_raw_fd()));
                    let member = barrier.join().expect("there is one for each");
                    board.note(slot, JOINED);
                    wait_at(&board, slot, rng, &member);
                })
            });
            let children = children.collect();
            let (children, killed) = decimate(rng, children, PARTIES - 1);
            total += killed;
            let joined = (0..PARTIES).filter(|slot| {
                children[*slot].is_none() && board.mark(*slot).load(SeqCst) & JOINED != 0
            });
            let broken = barrier.info().expect("info").broken;
            assert!(joined.count() == 0 || broken, "a member died, unnoticed");
            if !broken {
                break_it(&barrier);
            }
            for child in children.into_iter().flatten() {
                child.ok();
            }
            let info = barrier.info().expect("info");
            assert_eq!((info.value, info.waiting_receivers), (0, 0));
        }
        tell(&format!("members_of_barriers: {rounds} rounds"));
    });
}

// Pools.

const BLOCKS: u32 = 24;
const BLOCK: usize = 256;

/// What a worker has of a pool, with the number that is in it from the first byte to the last: the one who has a block
/// alone puts a new one there, so that two who have the same block would not find their own.
enum Kept {
    Alone(Loan, u64),
    Read(Buffer, u64),
}

impl Kept {
    #[track_caller]
    fn check(&self) {
        let (first, last, expected) = match self {
            Kept::Alone(loan, number) => (loan.get(0), loan.get(BLOCK - 8), number),
            Kept::Read(buffer, number) => (buffer.get(0), buffer.get(BLOCK - 8), number),
        };
        let found: [u64; 2] = [first.expect("its first"), last.expect("its last")];
        assert_eq!(found, [*expected; 2], "somebody else has the block, too");
    }
}

fn stamp(loan: &mut Loan, number: u64) {
    for offset in [0, BLOCK - 8] {
        loan.put(offset, &number).expect("it has so many bytes");
    }
}

/// Not for ever: the others may all have what they have for as long as this one waits.
fn soon(rng: &mut Rng) -> Wait {
    match rng.below(3) {
        0 => Wait::Timeout(Duration::from_micros(rng.below(1500))),
        _ => Wait::Never,
    }
}

fn gave_up(error: &Error) -> bool {
    use ErrorKind::{Empty, Full, NotYet, Timeout};
    matches!(error.kind, Empty | Full | NotYet | Timeout)
}

fn borrower(board: &Board, slot: usize, mut rng: Rng, pool: &Pool, mailbox: &Mailbox) {
    let mut kept: Vec<Kept> = Vec::new();
    let mut numbers = u64::from(std::process::id()) << 32;
    while !board.stop() {
        if kept.len() > 2 || !kept.is_empty() && rng.one_in(4) {
            let which = rng.below(kept.len() as u64) as usize;
            kept.swap_remove(which).check();
        }
        let what = rng.below(8);
        if what < 2 {
            let shipment = match mailbox.recv_buffers_with(pool, soon(&mut rng)) {
                Ok(shipment) => shipment,
                Err(error) if gave_up(&error) => continue,
                Err(error) => unexpected("recv_buffers", &error),
            };
            let number = shipment.message.payload.try_into().expect("eight bytes");
            let number = u64::from_le_bytes(number);
            for buffer in shipment.buffers {
                let read = Kept::Read(buffer, number);
                read.check();
                let Kept::Read(buffer, _) = read else {
                    continue;
                };
                kept.push(match buffer.try_into_loan() {
                    Ok(mut loan) => {
                        numbers += 1;
                        stamp(&mut loan, numbers);
                        Kept::Alone(loan, numbers)
                    }
                    Err(buffer) => Kept::Read(buffer, number),
                });
            }
            continue;
        }
        let mut loan = match pool.loan_with(BLOCK, soon(&mut rng)) {
            Ok(loan) => loan,
            Err(error) if gave_up(&error) => {
                kept.clear();
                continue;
            }
            Err(error) => unexpected("loan", &error),
        };
        board.beat(slot);
        numbers += 1;
        stamp(&mut loan, numbers);
        let payload = numbers.to_le_bytes();
        match what {
            2 => {
                if let Err(failed) = mailbox.send_buffer_with(loan, &payload, 0, soon(&mut rng)) {
                    if !gave_up(&failed.error) {
                        unexpected("send_buffer", &failed.error);
                    }
                    Kept::Alone(failed.payload, numbers).check();
                }
            }
            3 => {
                let shared = loan.share();
                for _ in 0..2 {
                    match mailbox.send_buffer_with(&shared, &payload, 0, soon(&mut rng)) {
                        Err(failed) if !gave_up(&failed.error) => {
                            unexpected("send_buffer", &failed.error);
                        }
                        _ => {}
                    }
                }
                dawdle(&mut rng);
                assert_eq!(shared.get::<u64>(0), Ok(numbers), "somebody has written it");
            }
            4 => kept.push(Kept::Alone(loan, numbers)),
            _ => {
                Kept::Alone(loan, numbers).check();
                for _ in 0..20 {
                    let Ok(mut loan) = pool.try_loan(BLOCK) else {
                        break;
                    };
                    board.beat(slot);
                    numbers += 1;
                    stamp(&mut loan, numbers);
                    Kept::Alone(loan, numbers).check();
                }
            }
        }
    }
}

#[test]
fn no_block_of_a_pool_is_lost_or_in_two_hands_after_a_million_loans() {
    scenario("pools", POOLS, |rng, kills| {
        let board = Board::new();
        let pool = Pool::options().anonymous(BLOCKS, BLOCK).expect("a pool");
        let mailbox = Mailbox::options()
            .capacity(Capacity::Bounded(8))
            .anonymous()
            .expect("a mailbox");
        let work = |slot: usize, rng: Rng| borrower(&board, slot, rng, &pool, &mailbox);
        let mut crew = Crew::new(&board, rng, 4, &work);
        crew.torment_every(kills, |_| LOANS);
        crew.stop();
        crew.finish(0..4, || {});
        let loans: u64 = (0..SLOTS).map(|slot| board.beats(slot)).sum();
        assert!(loans >= (kills as u64 - 1) * LOANS, "{loans} loans");
        while mailbox.try_recv_buffers(&pool).is_ok() {}
        pool.flush();
        let info = pool.info().expect("it is there");
        assert_eq!(
            (info.value, info.messages, info.unacknowledged),
            (BLOCKS.into(), 0, 0)
        );
        assert_eq!(info.sent, info.received, "as many were lent as became free");
        let mut all: Vec<_> = (0..BLOCKS)
            .map(|_| pool.try_loan(1).expect("all are free"))
            .collect();
        let mut places: Vec<_> = all.iter_mut().map(|loan| loan.as_mut_ptr()).collect();
        places.sort();
        places.dedup();
        assert_eq!(places.len(), BLOCKS as usize, "each of them once");
        assert!(pool.try_loan(1).is_err());
        tell(&format!(
            "pools: {loans} loans, of which the kernel lent {}, and {} calls for that alone",
            info.sent, info.requests
        ));
    });
}
