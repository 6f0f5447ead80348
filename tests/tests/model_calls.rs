//! Random commands to several processes that call each other, share a link, a semaphore, or a pool, and plain models that say
//! what each must see: the result of every call, who wakes when and with what, poll's events, and what the kernel
//! reports. The same for mailboxes as such is in `model.rs`.
//!
//! One command at a time. A call that has to wait keeps its process busy until a later command ends it, so that each
//! order of events has one right outcome.
//!
//! `PROPTEST_CASES` sets how many sequences are tried, `POSTBOX_SEED` repeats a run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use postbox::{raw, sys};
use postbox_tests::{
    ADMIN, Child, Exit, FOREVER, Handle, Ledger, Make, MakePool, MakeSync, NEVER, RECEIVE, Result,
    Rng, SEND, SHARED, UNBOUNDED, UNDO, WATCHDOG, Wait, Watchdog, fresh_user, handle_signal,
    isolated, open_pool, poll, readable, seed, spawn, spawn_as, tell, unique, within,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const WORKERS: usize = 4;

/// How long a call may take if it has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Never,
    Briefly,
    Forever,
}

impl Patience {
    fn words(self) -> [u64; 2] {
        let Wait(flags, time) = match self {
            Patience::Never => NEVER,
            Patience::Briefly => within(1),
            Patience::Forever => FOREVER,
        };
        [flags.into(), time]
    }

    /// How a wait ends, if it does not go on.
    fn errno(self) -> Option<i32> {
        match self {
            Patience::Never => Some(libc::EAGAIN),
            Patience::Briefly => Some(libc::ETIMEDOUT),
            Patience::Forever => None,
        }
    }

    /// A brief wait must end by its time, and not by what the model expects at once.
    fn unless(self, at_once: bool) -> Patience {
        match self {
            Patience::Briefly if at_once => Patience::Forever,
            patience => patience,
        }
    }
}

fn patience() -> impl Strategy<Value = Patience> {
    prop_oneof![2 => Just(Patience::Never), 1 => Just(Patience::Briefly), 3 => Just(Patience::Forever)]
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Data(Vec<u64>),
    Failed(i32),
}

use Outcome::{Data, Done, Failed};

/// A step of a game: a command of its own, or one that every game has.
#[derive(Clone, Debug)]
enum Step<C> {
    Do(C),
    Close,
    /// A signal, which ends a call that waits.
    Interrupt,
    Kill,
}

/// Who waits, and which calls ended in this step.
#[derive(Debug, Default)]
struct Table {
    busy: [bool; WORKERS],
    outcomes: BTreeMap<usize, Outcome>,
}

impl Table {
    fn done(&mut self, worker: usize, outcome: Outcome) {
        self.busy[worker] = false;
        let before = self.outcomes.insert(worker, outcome);
        assert!(before.is_none(), "the model ends one call twice");
    }
}

/// What the kernel says of an object.
type Report = Vec<(&'static str, u64)>;

/// What is played, and the model of it.
trait Game: Sized {
    type Shape: Clone + Debug;
    type Command: Clone + Debug;

    fn shape() -> BoxedStrategy<Self::Shape>;
    fn command() -> BoxedStrategy<Self::Command>;
    /// A new game, and what the supervisor looks at it through.
    fn new(shape: &Self::Shape, crew: &mut Crew) -> (Self, Option<Handle>);
    fn table(&mut self) -> &mut Table;
    /// A new process is the worker now.
    fn started(&mut self, _worker: usize, _pid: u64) {}
    fn open(&self, worker: usize) -> bool;
    /// Whether the worker, which is not busy, can be told so.
    fn applies(&self, worker: usize, command: &Self::Command) -> bool;
    /// Does it in the model. Returns what the worker is told.
    fn apply(&mut self, worker: usize, command: &Self::Command) -> Vec<u64>;
    /// Nothing is left of a call that waits.
    fn leave(&mut self, worker: usize);
    fn close(&mut self, worker: usize);
    fn expected(&self) -> Report;
    fn found(info: &sys::postbox_info) -> Report;
    /// What has to have happened in enough sequences.
    const TRIED: &'static [&'static str];
}

// The workers.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Verb {
    OpenMailbox,
    OpenPort,
    OpenSemaphore,
    Close,
    Poll,
    Call,
    Receive,
    Reply,
    ReplyReceive,
    Send,
    Shut,
    WaitPeer,
    Acquire,
    Release,
    OpenPool,
    Borrow,
    GiveBack,
    SendLease,
    ReceiveLease,
    Settle,
}

impl Verb {
    const ALL: [Verb; 20] = [
        Verb::OpenMailbox,
        Verb::OpenPort,
        Verb::OpenSemaphore,
        Verb::Close,
        Verb::Poll,
        Verb::Call,
        Verb::Receive,
        Verb::Reply,
        Verb::ReplyReceive,
        Verb::Send,
        Verb::Shut,
        Verb::WaitPeer,
        Verb::Acquire,
        Verb::Release,
        Verb::OpenPool,
        Verb::Borrow,
        Verb::GiveBack,
        Verb::SendLease,
        Verb::ReceiveLease,
        Verb::Settle,
    ];

    fn words<const N: usize>(self, words: [u64; N]) -> Vec<u64> {
        std::iter::once(self as u64).chain(words).collect()
    }
}

fn put(socket: &UnixDatagram, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    socket.send(&bytes).expect("the other end is open");
}

fn get(socket: &UnixDatagram) -> Vec<u64> {
    let mut bytes = [0; 256];
    loop {
        match socket.recv(&mut bytes) {
            Ok(len) => return words_of(&bytes[..len]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}"),
        }
    }
}

fn words_of(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8);
    words
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect()
}

fn answer_of(number: u64) -> u64 {
    number ^ 0x0123_4567_89ab_cdef
}

struct Worker<'a> {
    name: &'a str,
    handle: Option<Handle>,
    /// Of requests that are not answered, or messages that are not acknowledged.
    tokens: Vec<u64>,
    /// Where leases are sent.
    mailbox: Option<Handle>,
    /// Blocks that it holds.
    held: Vec<u32>,
}

impl Worker<'_> {
    /// Does what it is told until it is killed. `begun` says which command it has begun.
    fn run(&mut self, socket: &UnixDatagram, begun: &std::sync::atomic::AtomicU64) -> ! {
        loop {
            let request = get(socket);
            begun.store(request[0], SeqCst);
            let words = match self.obey(Verb::ALL[request[1] as usize], &request[2..]) {
                Ok(Done) => vec![0],
                Ok(Data(words)) => std::iter::once(1).chain(words).collect(),
                Ok(Failed(errno)) => vec![2, errno as u64],
                Err(errno) => vec![2, errno.raw_os_error() as u64],
            };
            put(socket, &words);
        }
    }

    fn obey(&mut self, verb: Verb, words: &[u64]) -> Result<Outcome> {
        let name = |game: u64| format!("{}.{game}", self.name);
        match (verb, words) {
            (Verb::OpenMailbox, &[game, rights]) => {
                self.handle = Some(Handle::open(&name(game), rights as u32)?);
                return Ok(Done);
            }
            (Verb::OpenSemaphore, &[game, rights]) => {
                let make = MakeSync {
                    flags: 0,
                    rights: rights as u32,
                    mode: 0,
                    ..MakeSync::semaphore(0, 0)
                };
                self.handle = Some(make.open(name(game).as_str())?);
                return Ok(Done);
            }
            (Verb::OpenPool, &[game, rights]) => {
                self.handle = Some(open_pool(&name(game), rights as u32)?);
                let mailbox = format!("{}.box", name(game));
                self.mailbox = Some(Handle::open(&mailbox, SEND | RECEIVE)?);
                return Ok(Done);
            }
            (Verb::OpenPort, &[number, capacity, back_capacity]) => {
                let handle = Handle::unbound();
                let mut args = sys::postbox_open {
                    kind: sys::POSTBOX_KIND_LINK,
                    flags: sys::POSTBOX_O_PORT | sys::POSTBOX_O_CREATE,
                    rights: SEND | RECEIVE,
                    mode: 0o600,
                    number: number as u32,
                    capacity,
                    back_capacity,
                    ..Default::default()
                };
                raw::open(&handle, None, &mut args)?;
                self.handle = Some(handle);
                return Ok(Data(vec![args.created.into()]));
            }
            (Verb::Close, _) => {
                self.handle = None;
                self.mailbox = None;
                self.tokens.clear();
                self.held.clear();
                return Ok(Done);
            }
            _ => {}
        }
        let handle = self.handle.as_ref().expect("the model knows what is open");
        let sync = |count: u64, flags: u64, time: u64| sys::postbox_sync {
            flags: flags as u32,
            count,
            timeout_ns: time,
            ..Default::default()
        };
        match (verb, words) {
            (Verb::Poll, _) => {
                let all = libc::POLLIN
                    | libc::POLLRDNORM
                    | libc::POLLOUT
                    | libc::POLLWRNORM
                    | libc::POLLPRI;
                return Ok(Data(vec![poll(handle, all, Duration::ZERO) as u64]));
            }
            (Verb::Call, &[number, flags, time]) => {
                let mut args = sys::postbox_call::default();
                args.request.flags = flags as u32;
                args.request.timeout_ns = time;
                let mut buffer = [MaybeUninit::uninit(); 64];
                let data = number.to_le_bytes();
                let reply = raw::call(handle, &data, &[], &mut buffer, &mut Vec::new(), &mut args)?;
                return Ok(Data(words_of(reply)));
            }
            (Verb::Receive, &[flags, time]) => {
                let mut args = sys::postbox_recv {
                    flags: flags as u32,
                    timeout_ns: time,
                    ..Default::default()
                };
                let mut buffer = [0; 64];
                let len = raw::recv(handle, &mut buffer, &mut args)?;
                let data = words_of(&buffer[..len]);
                return Ok(self.received(&args, &data));
            }
            (Verb::Reply, &[which, number, flags]) => {
                let args = sys::postbox_reply {
                    token: self.tokens[which as usize],
                    flags: flags as u32,
                    ..Default::default()
                };
                let data = answer_of(number).to_le_bytes();
                let data = if flags == 0 { &data[..] } else { &[] };
                let result = raw::reply(handle, data, &[], &args);
                if args.flags != sys::POSTBOX_REPLY_CHECK {
                    self.tokens.remove(which as usize);
                }
                result?;
            }
            (Verb::ReplyReceive, &[which, number, flags, time]) => {
                let mut args = sys::postbox_reply_recv::default();
                args.reply.token = self.tokens.remove(which as usize);
                args.recv.flags = flags as u32;
                args.recv.timeout_ns = time;
                let mut buffer = [MaybeUninit::uninit(); 64];
                let reply = answer_of(number).to_le_bytes();
                let result =
                    raw::reply_recv(handle, &reply, &[], &mut buffer, &mut Vec::new(), &mut args);
                let data = words_of(result?);
                return Ok(self.received(&args.recv, &data));
            }
            (Verb::Send, &[number, flags, time]) => {
                handle.send(number.to_le_bytes(), Wait(flags as u32, time))?;
            }
            (Verb::Shut, &[how]) => raw::shutdown(handle, how as u32)?,
            (Verb::WaitPeer, &[flags, time]) => raw::wait_peer(handle, flags as u32, time)?,
            (Verb::Acquire, &[count, flags, time]) => {
                let state = raw::acquire(handle, &sync(count, flags, time))?;
                return Ok(Data(vec![state.into()]));
            }
            (Verb::Release, &[count, flags]) => raw::release(handle, &sync(count, flags, 0))?,
            (Verb::Borrow, &[flags, time]) => {
                self.held
                    .extend(handle.borrow(1, Wait(flags as u32, time))?);
            }
            (Verb::GiveBack, &[which]) => {
                handle.give_back(&[self.held[which as usize]])?;
                self.held.remove(which as usize);
            }
            (verb, words) => return self.lease(verb, words),
        }
        Ok(Done)
    }

    fn lease(&mut self, verb: Verb, words: &[u64]) -> Result<Outcome> {
        let open = (self.handle.as_ref(), self.mailbox.as_ref());
        let (Some(pool), Some(mailbox)) = open else {
            panic!("{verb:?} with {words:?}");
        };
        match (verb, words) {
            (Verb::SendLease, &[which, flags]) => {
                let entry = (self.held[which as usize], 8, flags as u32);
                mailbox.send_leases("", pool, &[entry], NEVER)?;
                if flags == 0 {
                    self.held.remove(which as usize);
                }
            }
            (Verb::ReceiveLease, &[flags]) => {
                let received = mailbox.recv_leases_flags(pool, 1, NEVER, flags as u32);
                let (got, entries) = received.0?;
                let (block, _, lease) = entries[0];
                if flags == 0 {
                    self.held.push(block);
                } else {
                    self.tokens.push(got.token);
                }
                let shared = lease & SHARED != 0;
                let kept = lease & sys::POSTBOX_LEASE_MESSAGE != 0;
                let words = [shared, kept, got.redelivered].map(u64::from);
                return Ok(Data(words.into()));
            }
            (Verb::Settle, &[which, flags]) => {
                raw::ack(mailbox, self.tokens.remove(which as usize), flags as u32)?;
            }
            (verb, words) => panic!("{verb:?} with {words:?}"),
        }
        Ok(Done)
    }

    fn received(&mut self, args: &sys::postbox_recv, data: &[u64]) -> Outcome {
        let request = args.msg_flags & sys::POSTBOX_MSG_CALL != 0;
        self.tokens.extend(request.then_some(args.token));
        Data(vec![data[0], args.pid.into(), request.into()])
    }
}

// The two side by side.

/// How often things happened, so that it is known what was tried.
type Tally = BTreeMap<&'static str, u64>;

/// The processes that play all the games.
struct Crew {
    workers: Vec<(Child, UnixDatagram)>,
    begun: Ledger,
    commands: u64,
    name: String,
    games: u64,
}

impl Crew {
    fn new() -> Self {
        let mut crew = Crew {
            workers: Vec::new(),
            begun: Ledger::new(WORKERS),
            commands: 0,
            name: unique("calls"),
            games: 0,
        };
        crew.renew();
        crew
    }

    fn renew(&mut self) {
        self.workers.clear();
        for at in 0..WORKERS {
            let worker = self.start(at, None, None);
            self.workers.push(worker);
        }
    }

    /// A new worker, which may have a handle from the start, and not the supervisor's.
    fn start(
        &self,
        at: usize,
        own: Option<&Handle>,
        other: Option<&Handle>,
    ) -> (Child, UnixDatagram) {
        let (near, far) = UnixDatagram::pair().expect("a pair of sockets");
        let child = spawn(|| {
            if let Some(other) = other {
                other.close_copy();
            }
            let mut worker = Worker {
                name: &self.name,
                handle: own.map(|own| Handle(own.as_fd().try_clone_to_owned().expect("a copy"))),
                tokens: Vec::new(),
                mailbox: None,
                held: Vec::new(),
            };
            if let Some(own) = own {
                own.close_copy();
            }
            worker.run(&far, &self.begun[at])
        });
        (child, near)
    }

    fn replace(&mut self, at: usize, own: Option<&Handle>, other: Option<&Handle>) {
        let fresh = self.start(at, own, other);
        let (victim, _) = std::mem::replace(&mut self.workers[at], fresh);
        victim.destroy();
    }

    fn tell(&mut self, at: usize, words: &[u64]) {
        self.commands += 1;
        let words: Vec<u64> = std::iter::once(self.commands)
            .chain(words.iter().copied())
            .collect();
        put(&self.workers[at].1, &words);
    }

    fn outcome(&self, at: usize) -> Outcome {
        match &get(&self.workers[at].1)[..] {
            [0] => Done,
            [1, words @ ..] => Data(words.to_vec()),
            [2, errno] => Failed(*errno as i32),
            other => panic!("a worker answered {other:?}"),
        }
    }

    fn pid(&self, at: usize) -> u64 {
        self.workers[at].0.pid().into()
    }
}

struct World<'a, G: Game> {
    crew: &'a mut Crew,
    observer: Option<Handle>,
    model: G,
}

impl<'a, G: Game> World<'a, G> {
    fn new(shape: &G::Shape, crew: &'a mut Crew) -> Self {
        crew.games += 1;
        let (model, observer) = G::new(shape, crew);
        World {
            crew,
            observer,
            model,
        }
    }

    /// One of the workers to whom the step applies.
    fn choose(&mut self, which: usize, step: &Step<G::Command>) -> Option<usize> {
        let busy = self.model.table().busy;
        let applies = |at: &usize| match step {
            Step::Kill => self.model.open(*at),
            Step::Close => !busy[*at] && self.model.open(*at),
            Step::Interrupt => busy[*at],
            Step::Do(command) => !busy[*at] && self.model.applies(*at, command),
        };
        let those: Vec<usize> = (0..WORKERS).filter(applies).collect();
        Some(those[which.checked_rem(those.len())?])
    }

    /// Has the worker do it, and the model. The step must apply.
    fn step(
        &mut self,
        at: usize,
        step: &Step<G::Command>,
        tally: &mut Tally,
    ) -> std::result::Result<(), String> {
        let model = &mut self.model;
        model.table().outcomes.clear();
        match step {
            Step::Kill => {
                let busy = model.table().busy[at];
                let what = if busy { "killed in a call" } else { "killed" };
                *tally.entry(what).or_default() += 1;
                self.crew.replace(at, None, self.observer.as_ref());
                model.leave(at);
                model.close(at);
                model.started(at, self.crew.pid(at));
            }
            Step::Interrupt => {
                self.crew.workers[at].0.kill(libc::SIGUSR1);
                model.leave(at);
                model.table().done(at, Failed(libc::EINTR));
            }
            Step::Close => {
                model.close(at);
                model.table().done(at, Done);
                self.crew.tell(at, &Verb::Close.words([]));
            }
            Step::Do(command) => {
                let words = model.apply(at, command);
                self.crew.tell(at, &words);
                self.asleep(at)?;
            }
        }
        self.compare(tally)
    }

    /// Waits until the worker waits in its call, where the model says so.
    fn asleep(&mut self, at: usize) -> std::result::Result<(), String> {
        let mut watchdog = Watchdog::new();
        let (child, socket) = &self.crew.workers[at];
        while self.model.table().busy[at] {
            let begun = self.crew.begun[at].load(SeqCst) == self.crew.commands;
            if begun && child.state() == 'S' {
                break;
            }
            if readable(socket, Duration::ZERO) {
                let found = self.crew.outcome(at);
                return Err(format!("came back with {found:?}, and should wait"));
            }
            if watchdog.barks() {
                return Err("neither sleeps nor comes back".to_owned());
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Waits for what the model expects, and looks for what it does not.
    fn compare(&mut self, tally: &mut Tally) -> std::result::Result<(), String> {
        let mut watchdog = Watchdog::new();
        for (at, expected) in std::mem::take(&mut self.model.table().outcomes) {
            let (child, socket) = &self.crew.workers[at];
            if !watchdog.readable(socket) {
                let alive = if child.running() {
                    "does not come back"
                } else {
                    "died"
                };
                return Err(format!("worker {at} {alive}; expected {expected:?}"));
            }
            let found = self.crew.outcome(at);
            if found != expected {
                return Err(format!(
                    "worker {at}: {found:?}, and expected was {expected:?}"
                ));
            }
            *tally.entry(kind(&found)).or_default() += 1;
        }
        let unexpected = |(_, socket): &(Child, UnixDatagram)| readable(socket, Duration::ZERO);
        if let Some(at) = self.crew.workers.iter().position(unexpected) {
            let found = self.crew.outcome(at);
            return Err(format!(
                "worker {at} came back with {found:?}, and should wait"
            ));
        }
        if self.model.table().busy.contains(&true) {
            *tally.entry("steps with calls that wait").or_default() += 1;
        }
        let Some(observer) = &self.observer else {
            return Ok(());
        };
        let (found, expected) = (G::found(&observer.info()), self.model.expected());
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
        Done => "done",
        Data(_) => "data",
        Failed(libc::EAGAIN) => "EAGAIN",
        Failed(libc::EPIPE) => "EPIPE",
        Failed(libc::ETIMEDOUT) => "ETIMEDOUT",
        Failed(libc::EINTR) => "EINTR",
        Failed(libc::EOWNERDEAD) => "EOWNERDEAD",
        Failed(libc::ECANCELED) => "ECANCELED",
        Failed(libc::ESTALE) => "ESTALE",
        Failed(libc::EADDRINUSE) => "EADDRINUSE",
        Failed(libc::EOVERFLOW) => "EOVERFLOW",
        Failed(libc::EINVAL) => "EINVAL",
        Failed(_) => "other errors",
    }
}

/// Runs one sequence of steps, and then ends everything.
fn play<G: Game>(
    shape: &G::Shape,
    steps: &[(usize, Step<G::Command>)],
    crew: &mut Crew,
    tally: &mut Tally,
) -> std::result::Result<(), TestCaseError> {
    let mut world = World::<G>::new(shape, crew);
    let mut take = |world: &mut World<'_, G>, at, step: &Step<G::Command>| {
        *tally.entry("steps").or_default() += 1;
        let done = world.step(at, step, tally);
        done.map_err(|error| format!("worker {at}, {step:?}: {error}"))
    };
    let mut result = Ok(());
    for (which, step) in steps {
        if result.is_ok()
            && let Some(at) = world.choose(*which, step)
        {
            result = take(&mut world, at, step);
        }
    }
    for step in [Step::Interrupt, Step::Close] {
        while result.is_ok()
            && let Some(at) = world.choose(0, &step)
        {
            result = take(&mut world, at, &step);
        }
    }
    drop(world);
    result.map_err(|error| {
        // They may be anywhere.
        crew.renew();
        TestCaseError::fail(error)
    })
}

fn steps<G: Game>() -> impl Strategy<Value = Vec<(usize, Step<G::Command>)>>
where
    G::Command: 'static,
{
    let step = prop_oneof![
        30 => G::command().prop_map(Step::Do),
        2 => Just(Step::Close),
        2 => Just(Step::Interrupt),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec((0..WORKERS, step), 1..70)
}

fn explore<G: Game>(what: &str)
where
    G::Command: 'static,
{
    let seed = seed();
    tell(&format!(
        "model of {what}: seed {seed:#x} (POSTBOX_SEED={seed:#x} repeats it)"
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
        let slow = std::path::Path::new("/proc/lockdep_stats").exists();
        config.cases = if slow { 50 } else { 250 };
    }
    let cases = config.cases;
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let state = RefCell::new((Crew::new(), Tally::new()));
    let result = runner.run(&(G::shape(), steps::<G>()), |(shape, steps)| {
        let (crew, tally) = &mut *state.borrow_mut();
        play::<G>(&shape, &steps, crew, tally)
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
    tell(&format!("model of {what}: {cases} sequences: {tally:?}"));
    let always = ["steps with calls that wait", "killed", "killed in a call"];
    // In few of them it may be that there was none.
    for what in always.iter().chain(G::TRIED).filter(|_| cases >= 200) {
        assert!(
            tally.contains_key(what),
            "in {cases} sequences there was never: {what}"
        );
    }
}

fn run<G: Game>(what: &str)
where
    G::Command: 'static,
{
    isolated(|| {
        let run = spawn_as(fresh_user(), || explore::<G>(what));
        let exit = run.wait_at_most(4 * WATCHDOG);
        assert_eq!(exit, Exit::Code(0), "the run failed");
    });
}

fn capacity() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => Just(1), 1 => 2..4u64, 1 => Just(UNBOUNDED)]
}

fn rights() -> impl Strategy<Value = u32> {
    prop_oneof![6 => Just(SEND | RECEIVE), 1 => Just(SEND), 1 => Just(RECEIVE)]
}

const IN: i16 = libc::POLLIN | libc::POLLRDNORM;
const OUT: i16 = libc::POLLOUT | libc::POLLWRNORM;

fn events(those: [(bool, i16); 4]) -> Outcome {
    let set = those.iter().filter(|(set, _)| *set);
    Data(vec![set.fold(0, |all, (_, event)| all | event) as u64])
}

// Calls.

#[derive(Clone, Debug)]
enum CallCommand {
    Open { rights: u32 },
    Call { patience: Patience },
    Receive { patience: Patience },
    Reply { which: usize },
    Drop { which: usize },
    Check { which: usize },
    ReplyReceive { which: usize, patience: Patience },
    Poll,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    number: u64,
    caller: usize,
    pid: u64,
    /// The caller has not given up.
    waits: bool,
}

#[derive(Clone, Debug)]
struct Open {
    rights: u32,
    /// Requests that it owes an answer to, oldest first.
    owed: Vec<Request>,
}

#[derive(Debug)]
struct Calls {
    table: Table,
    game: u64,
    capacity: u64,
    pids: Vec<u64>,
    numbers: u64,
    open: Vec<Option<Open>>,
    queue: Vec<Request>,
    blocked: Vec<Request>,
    waiting: Vec<usize>,
    had_sender: bool,
    had_receiver: bool,
    sent: u64,
    received: u64,
}

impl Calls {
    fn count(&self, right: u32) -> u64 {
        let handles = self.open.iter().flatten();
        handles.filter(|open| open.rights & right != 0).count() as u64
    }

    fn may(&self, worker: usize, right: u32) -> bool {
        let open = self.open[worker].as_ref();
        open.is_some_and(|open| open.rights & right != 0)
    }

    fn closed(&self) -> bool {
        self.had_receiver && self.count(RECEIVE) == 0
    }

    fn ended(&self) -> bool {
        self.had_sender && self.count(SEND) == 0 && self.queue.is_empty()
    }

    fn owed(&mut self, worker: usize) -> &mut Vec<Request> {
        &mut self.open[worker].as_mut().expect("it is open").owed
    }

    /// The receiver has it, and owes the answer.
    fn take(&mut self, worker: usize, request: Request) -> Outcome {
        self.sent += u64::from(self.capacity == 0);
        self.received += 1;
        self.owed(worker).push(request);
        Data(vec![request.number, request.pid, 1])
    }

    fn enter(&mut self, request: Request) {
        self.sent += u64::from(self.capacity != 0);
        if self.waiting.is_empty() {
            self.queue.push(request);
        } else {
            let worker = self.waiting.remove(0);
            let outcome = self.take(worker, request);
            self.table.done(worker, outcome);
        }
    }

    fn settle(&mut self) {
        if self.closed() {
            for request in self.blocked.drain(..).chain(self.queue.drain(..)) {
                self.table.done(request.caller, Failed(libc::EPIPE));
            }
        }
        while !self.blocked.is_empty() && (self.queue.len() as u64) < self.capacity {
            let request = self.blocked.remove(0);
            self.enter(request);
        }
        if self.ended() {
            for worker in self.waiting.drain(..) {
                self.table.done(worker, Failed(libc::EPIPE));
            }
        }
    }

    fn call(&mut self, worker: usize, patience: Patience) {
        if !self.may(worker, SEND) {
            return self.table.done(worker, Failed(libc::EACCES));
        }
        if self.closed() {
            return self.table.done(worker, Failed(libc::EPIPE));
        }
        let request = Request {
            number: self.numbers,
            caller: worker,
            pid: self.pids[worker],
            waits: true,
        };
        self.table.busy[worker] = true;
        let room = (self.queue.len() as u64) < self.capacity && self.blocked.is_empty();
        if self.capacity == 0 || room {
            self.enter(request);
        } else {
            self.blocked.push(request);
        }
        if let Some(errno) = patience.errno() {
            self.leave(worker);
            self.table.done(worker, Failed(errno));
        }
    }

    fn receive(&mut self, worker: usize, patience: Patience) {
        if !self.may(worker, RECEIVE) {
            return self.table.done(worker, Failed(libc::EACCES));
        }
        if !self.queue.is_empty() {
            let request = self.queue.remove(0);
            let outcome = self.take(worker, request);
            self.table.done(worker, outcome);
            return self.settle();
        }
        if self.ended() {
            return self.table.done(worker, Failed(libc::EPIPE));
        }
        match patience.errno() {
            Some(errno) => self.table.done(worker, Failed(errno)),
            None => {
                self.table.busy[worker] = true;
                self.waiting.push(worker);
            }
        }
    }

    /// Takes a request out that is answered. Whether the caller waited, who gets this.
    fn answer(&mut self, worker: usize, which: usize, outcome: Outcome) -> bool {
        let request = self.owed(worker).remove(which);
        if request.waits {
            self.table.done(request.caller, outcome);
        }
        request.waits
    }
}

impl Game for Calls {
    type Shape = u64;
    type Command = CallCommand;

    const TRIED: &'static [&'static str] = &[
        "data",
        "EAGAIN",
        "EPIPE",
        "ETIMEDOUT",
        "EINTR",
        "EOWNERDEAD",
        "ECANCELED",
        "ESTALE",
    ];

    fn shape() -> BoxedStrategy<u64> {
        capacity().boxed()
    }

    fn command() -> BoxedStrategy<CallCommand> {
        use CallCommand::*;
        let lasting = prop_oneof![1 => Just(Patience::Briefly), 5 => Just(Patience::Forever)];
        prop_oneof![
            6 => rights().prop_map(|rights| Open { rights }),
            9 => lasting.prop_map(|patience| Call { patience }),
            8 => patience().prop_map(|patience| Receive { patience }),
            4 => any::<usize>().prop_map(|which| Reply { which }),
            2 => any::<usize>().prop_map(|which| Drop { which }),
            2 => any::<usize>().prop_map(|which| Check { which }),
            4 => (any::<usize>(), patience())
                .prop_map(|(which, patience)| ReplyReceive { which, patience }),
            2 => Just(Poll),
        ]
        .boxed()
    }

    fn new(shape: &u64, crew: &mut Crew) -> (Self, Option<Handle>) {
        let make = Make {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL,
            rights: ADMIN,
            capacity: *shape,
            ..Make::default()
        };
        let name = format!("{}.{}", crew.name, crew.games);
        let observer = make.open(name.as_str()).expect("the name is new");
        let model = Calls {
            table: Table::default(),
            game: crew.games,
            capacity: *shape,
            pids: (0..WORKERS).map(|at| crew.pid(at)).collect(),
            numbers: 0,
            open: vec![None; WORKERS],
            queue: Vec::new(),
            blocked: Vec::new(),
            waiting: Vec::new(),
            had_sender: false,
            had_receiver: false,
            sent: 0,
            received: 0,
        };
        (model, Some(observer))
    }

    fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    fn started(&mut self, worker: usize, pid: u64) {
        self.pids[worker] = pid;
    }

    fn open(&self, worker: usize) -> bool {
        self.open[worker].is_some()
    }

    fn applies(&self, worker: usize, command: &CallCommand) -> bool {
        let open = self.open[worker].as_ref();
        match command {
            CallCommand::Open { .. } => open.is_none(),
            CallCommand::Reply { .. }
            | CallCommand::Drop { .. }
            | CallCommand::Check { .. }
            | CallCommand::ReplyReceive { .. } => open.is_some_and(|open| !open.owed.is_empty()),
            _ => open.is_some(),
        }
    }

    fn apply(&mut self, worker: usize, command: &CallCommand) -> Vec<u64> {
        self.numbers += 1;
        let owed = self.open[worker].as_ref().map_or(0, |open| open.owed.len());
        let pick = |which: usize| which.checked_rem(owed).unwrap_or(0);
        let reply = |which: usize, number: u64, flags: u32| {
            Verb::Reply.words([which as u64, number, flags.into()])
        };
        match *command {
            CallCommand::Open { rights } => {
                self.had_sender |= rights & SEND != 0;
                self.had_receiver |= rights & RECEIVE != 0;
                self.open[worker] = Some(Open {
                    rights,
                    owed: Vec::new(),
                });
                self.table.done(worker, Done);
                Verb::OpenMailbox.words([self.game, rights.into()])
            }
            CallCommand::Call { patience } => {
                let patience = patience.unless(!self.waiting.is_empty());
                let [flags, time] = patience.words();
                self.call(worker, patience);
                Verb::Call.words([self.numbers, flags, time])
            }
            CallCommand::Receive { patience } => {
                self.receive(worker, patience);
                Verb::Receive.words(patience.words())
            }
            CallCommand::Reply { which } => {
                let which = pick(which);
                let number = self.owed(worker)[which].number;
                let waited = self.answer(worker, which, Data(vec![answer_of(number)]));
                let outcome = if waited { Done } else { Failed(libc::ESTALE) };
                self.table.done(worker, outcome);
                reply(which, number, 0)
            }
            CallCommand::Drop { which } => {
                let which = pick(which);
                let waited = self.answer(worker, which, Failed(libc::ECANCELED));
                let outcome = if waited { Done } else { Failed(libc::ESTALE) };
                self.table.done(worker, outcome);
                reply(which, 0, sys::POSTBOX_REPLY_DROP)
            }
            CallCommand::Check { which } => {
                let which = pick(which);
                let waits = self.owed(worker)[which].waits;
                let outcome = if waits { Done } else { Failed(libc::ESTALE) };
                self.table.done(worker, outcome);
                reply(which, 0, sys::POSTBOX_REPLY_CHECK)
            }
            CallCommand::ReplyReceive { which, patience } => {
                let which = pick(which);
                let number = self.owed(worker)[which].number;
                if self.answer(worker, which, Data(vec![answer_of(number)])) {
                    self.receive(worker, patience);
                } else {
                    self.table.done(worker, Failed(libc::ESTALE));
                }
                let [flags, time] = patience.words();
                Verb::ReplyReceive.words([which as u64, number, flags, time])
            }
            CallCommand::Poll => {
                let writable = match self.capacity {
                    0 => !self.waiting.is_empty(),
                    capacity => self.blocked.is_empty() && (self.queue.len() as u64) < capacity,
                };
                let (sends, receives) = (self.may(worker, SEND), self.may(worker, RECEIVE));
                let outcome = events([
                    (receives && !self.queue.is_empty(), IN),
                    (receives && self.ended(), libc::POLLHUP),
                    (sends && writable && !self.closed(), OUT),
                    (sends && self.closed(), libc::POLLERR),
                ]);
                self.table.done(worker, outcome);
                Verb::Poll.words([])
            }
        }
    }

    fn leave(&mut self, worker: usize) {
        self.table.busy[worker] = false;
        self.waiting.retain(|waiting| *waiting != worker);
        self.queue.retain(|request| request.caller != worker);
        self.blocked.retain(|request| request.caller != worker);
        for open in self.open.iter_mut().flatten() {
            for request in &mut open.owed {
                request.waits &= request.caller != worker;
            }
        }
        self.settle();
    }

    fn close(&mut self, worker: usize) {
        let Some(open) = self.open[worker].take() else {
            return;
        };
        for request in open.owed {
            if request.waits {
                self.table.done(request.caller, Failed(libc::EOWNERDEAD));
            }
        }
        self.settle();
    }

    fn expected(&self) -> Report {
        let offers = if self.capacity == 0 {
            self.queue.len()
        } else {
            0
        };
        Self::found(&sys::postbox_info {
            messages: self.queue.len() as u64,
            senders: self.count(SEND) as u32,
            receivers: self.count(RECEIVE) as u32,
            waiting_senders: (self.blocked.len() + offers) as u32,
            waiting_receivers: self.waiting.len() as u32,
            sent: self.sent,
            received: self.received,
            ..Default::default()
        })
    }

    fn found(info: &sys::postbox_info) -> Report {
        vec![
            ("messages", info.messages),
            ("unacknowledged", info.unacknowledged),
            ("senders", info.senders.into()),
            ("receivers", info.receivers.into()),
            ("waiting senders", info.waiting_senders.into()),
            ("waiting receivers", info.waiting_receivers.into()),
            ("sent", info.sent),
            ("received", info.received),
        ]
    }
}

#[test]
fn calls_do_what_the_model_says() {
    run::<Calls>("calls");
}

// Semaphores.

#[derive(Clone, Debug)]
enum SemaphoreCommand {
    Open {
        rights: u32,
    },
    Acquire {
        count: u64,
        undo: bool,
        patience: Patience,
    },
    Release {
        count: u64,
        undo: bool,
    },
    Poll,
}

/// What a worker has open: its rights, and what it is to give back.
#[derive(Clone, Copy, Debug)]
struct Share {
    rights: u32,
    units: u64,
}

#[derive(Debug)]
struct Units {
    table: Table,
    game: u64,
    value: u64,
    maximum: u64,
    /// Of the value, what somebody left behind.
    orphans: u64,
    open: Vec<Option<Share>>,
    /// Who waits, for how many, and whether they are to be given back.
    waiting: Vec<(usize, u64, bool)>,
}

impl Units {
    fn grant(&mut self, worker: usize, count: u64, undo: bool) {
        self.value -= count;
        let orphans = self.orphans.min(count);
        self.orphans -= orphans;
        if undo {
            self.open[worker].as_mut().expect("it acquires").units += count;
        }
        let state = if orphans > 0 {
            sys::POSTBOX_SYNC_OWNER_DIED
        } else {
            0
        };
        self.table.done(worker, Data(vec![state.into()]));
    }

    fn settle(&mut self) {
        while self
            .waiting
            .first()
            .is_some_and(|first| first.1 <= self.value)
        {
            let (worker, count, undo) = self.waiting.remove(0);
            self.grant(worker, count, undo);
        }
    }

    fn may(&self, worker: usize, right: u32) -> bool {
        self.open[worker].is_some_and(|share| share.rights & right != 0)
    }

    fn release(&mut self, worker: usize, count: u64, undo: bool) -> Outcome {
        let share = self.open[worker].as_mut().expect("it is open");
        if share.rights & SEND == 0 {
            return Failed(libc::EACCES);
        }
        if undo && share.units < count {
            return Failed(libc::EINVAL);
        }
        if self.value + count > self.maximum {
            return Failed(libc::EOVERFLOW);
        }
        share.units -= if undo { count } else { 0 };
        self.value += count;
        self.settle();
        Done
    }
}

impl Game for Units {
    /// Value and maximum.
    type Shape = (u64, u64);
    type Command = SemaphoreCommand;

    const TRIED: &'static [&'static str] = &[
        "data",
        "done",
        "EAGAIN",
        "ETIMEDOUT",
        "EINTR",
        "EINVAL",
        "EOVERFLOW",
    ];

    fn shape() -> BoxedStrategy<(u64, u64)> {
        (1..6u64)
            .prop_flat_map(|maximum| (0..=maximum, Just(maximum)))
            .boxed()
    }

    fn command() -> BoxedStrategy<SemaphoreCommand> {
        use SemaphoreCommand::*;
        let undo = || prop::bool::weighted(0.7);
        prop_oneof![
            5 => rights().prop_map(|rights| Open { rights }),
            10 => (1..4u64, undo(), patience())
                .prop_map(|(count, undo, patience)| Acquire { count, undo, patience }),
            7 => (1..3u64, undo()).prop_map(|(count, undo)| Release { count, undo }),
            2 => Just(Poll),
        ]
        .boxed()
    }

    fn new(&(value, maximum): &(u64, u64), crew: &mut Crew) -> (Self, Option<Handle>) {
        let make = MakeSync {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL,
            rights: ADMIN,
            ..MakeSync::semaphore(value, maximum)
        };
        let name = format!("{}.{}", crew.name, crew.games);
        let observer = make.open(name.as_str()).expect("the name is new");
        let model = Units {
            table: Table::default(),
            game: crew.games,
            value,
            maximum,
            orphans: 0,
            open: vec![None; WORKERS],
            waiting: Vec::new(),
        };
        (model, Some(observer))
    }

    fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    fn open(&self, worker: usize) -> bool {
        self.open[worker].is_some()
    }

    fn applies(&self, worker: usize, command: &SemaphoreCommand) -> bool {
        matches!(command, SemaphoreCommand::Open { .. }) != self.open(worker)
    }

    fn apply(&mut self, worker: usize, command: &SemaphoreCommand) -> Vec<u64> {
        let flag = |undo: bool| if undo { UNDO.into() } else { 0 };
        match *command {
            SemaphoreCommand::Open { rights } => {
                self.open[worker] = Some(Share { rights, units: 0 });
                self.table.done(worker, Done);
                Verb::OpenSemaphore.words([self.game, rights.into()])
            }
            SemaphoreCommand::Acquire {
                count,
                undo,
                patience,
            } => {
                if !self.may(worker, RECEIVE) {
                    self.table.done(worker, Failed(libc::EACCES));
                } else if count > self.maximum {
                    self.table.done(worker, Failed(libc::EINVAL));
                } else if self.waiting.is_empty() && count <= self.value {
                    self.grant(worker, count, undo);
                } else if let Some(errno) = patience.errno() {
                    self.table.done(worker, Failed(errno));
                } else {
                    self.table.busy[worker] = true;
                    self.waiting.push((worker, count, undo));
                }
                let [flags, time] = patience.words();
                Verb::Acquire.words([count, flags | flag(undo), time])
            }
            SemaphoreCommand::Release { count, undo } => {
                let outcome = self.release(worker, count, undo);
                self.table.done(worker, outcome);
                Verb::Release.words([count, flag(undo)])
            }
            SemaphoreCommand::Poll => {
                let available = self.value > 0 && self.waiting.is_empty();
                let outcome = events([
                    (self.may(worker, RECEIVE) && available, IN),
                    (self.may(worker, SEND) && self.value < self.maximum, OUT),
                    (false, 0),
                    (false, 0),
                ]);
                self.table.done(worker, outcome);
                Verb::Poll.words([])
            }
        }
    }

    fn leave(&mut self, worker: usize) {
        self.table.busy[worker] = false;
        self.waiting.retain(|waiting| waiting.0 != worker);
        self.settle();
    }

    fn close(&mut self, worker: usize) {
        let share = self.open[worker].take();
        let units = share.map_or(0, |share| share.units);
        // Others may have released more than they had.
        self.value = (self.value + units).min(self.maximum);
        self.orphans = (self.orphans + units).min(self.value);
        self.settle();
    }

    fn expected(&self) -> Report {
        let count = |right| {
            let open = self.open.iter().flatten();
            open.filter(|share| share.rights & right != 0).count() as u32
        };
        Self::found(&sys::postbox_info {
            value: self.value,
            maximum: self.maximum,
            senders: count(SEND),
            receivers: count(RECEIVE),
            waiting_receivers: self.waiting.len() as u32,
            ..Default::default()
        })
    }

    fn found(info: &sys::postbox_info) -> Report {
        vec![
            ("value", info.value),
            ("maximum", info.maximum),
            ("senders", info.senders.into()),
            ("receivers", info.receivers.into()),
            ("waiting", info.waiting_receivers.into()),
        ]
    }
}

#[test]
fn semaphores_do_what_the_model_says() {
    run::<Units>("semaphores");
}

// Pools.

#[derive(Clone, Debug)]
enum PoolCommand {
    Open {
        rights: u32,
    },
    Borrow {
        patience: Patience,
    },
    /// One of those that it holds.
    GiveBack {
        which: usize,
    },
    Send {
        which: usize,
        share: bool,
    },
    Receive {
        /// To be acknowledged.
        take: bool,
    },
    /// One of those that it has taken.
    Settle {
        which: usize,
        requeue: bool,
    },
    Poll,
}

/// A message with a lease.
#[derive(Clone, Copy, Debug)]
struct Parcel {
    sequence: u64,
    block: usize,
    redelivered: bool,
}

/// What one worker has.
#[derive(Clone, Debug, Default)]
struct Pocket {
    rights: u32,
    held: Vec<usize>,
    taken: Vec<Parcel>,
}

#[derive(Debug)]
struct Lent {
    table: Table,
    game: u64,
    blocks: u64,
    capacity: usize,
    /// Of each block that was ever lent, how many leases there are. It gets a new number with every loan.
    leases: Vec<u32>,
    queue: Vec<Parcel>,
    sequence: u64,
    open: Vec<Option<Pocket>>,
    waiting: Vec<usize>,
    /// Keeps the mailbox.
    _mailbox: Handle,
}

impl Lent {
    fn free(&self) -> u64 {
        let lent = self.leases.iter().filter(|leases| **leases > 0).count();
        self.blocks - lent as u64
    }

    fn pocket(&mut self, worker: usize) -> &mut Pocket {
        self.open[worker].as_mut().expect("it is open")
    }

    fn borrow(&mut self, worker: usize) {
        let block = self.leases.len();
        self.leases.push(1);
        self.pocket(worker).held.push(block);
        self.table.done(worker, Done);
    }

    fn end(&mut self, block: usize) {
        self.leases[block] -= 1;
        while self.free() > 0 && !self.waiting.is_empty() {
            let first = self.waiting.remove(0);
            self.borrow(first);
        }
    }

    /// Where it was, before those that came later.
    fn put_back(&mut self, parcel: Parcel) {
        let later = |other: &Parcel| other.sequence > parcel.sequence;
        let at = self.queue.iter().position(later);
        self.queue.insert(
            at.unwrap_or(self.queue.len()),
            Parcel {
                redelivered: true,
                ..parcel
            },
        );
    }

    fn under_way(&self) -> usize {
        let open = self.open.iter().flatten();
        self.queue.len() + open.map(|pocket| pocket.taken.len()).sum::<usize>()
    }
}

impl Game for Lent {
    /// Blocks, and messages that the mailbox holds.
    type Shape = (u64, u64);
    type Command = PoolCommand;

    const TRIED: &'static [&'static str] = &["data", "done", "EAGAIN", "ETIMEDOUT", "EINTR"];

    fn shape() -> BoxedStrategy<(u64, u64)> {
        (1..5u64, 1..4u64).boxed()
    }

    fn command() -> BoxedStrategy<PoolCommand> {
        use PoolCommand::*;
        let which = || 0..8usize;
        prop_oneof![
            5 => rights().prop_map(|rights| Open { rights }),
            10 => patience().prop_map(|patience| Borrow { patience }),
            6 => which().prop_map(|which| GiveBack { which }),
            8 => (which(), any::<bool>()).prop_map(|(which, share)| Send { which, share }),
            8 => any::<bool>().prop_map(|take| Receive { take }),
            4 => (which(), any::<bool>()).prop_map(|(which, requeue)| Settle { which, requeue }),
            2 => Just(Poll),
        ]
        .boxed()
    }

    fn new(&(blocks, capacity): &(u64, u64), crew: &mut Crew) -> (Self, Option<Handle>) {
        let name = format!("{}.{}", crew.name, crew.games);
        let observer = MakePool {
            rights: ADMIN,
            ..MakePool::new(blocks, 64)
        }
        .make(name.as_str())
        .expect("the name is new");
        let model = Lent {
            table: Table::default(),
            game: crew.games,
            blocks,
            capacity: capacity as usize,
            leases: Vec::new(),
            queue: Vec::new(),
            sequence: 0,
            open: vec![None; WORKERS],
            waiting: Vec::new(),
            _mailbox: Handle::create(&format!("{name}.box"), capacity),
        };
        (model, Some(observer))
    }

    fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    fn open(&self, worker: usize) -> bool {
        self.open[worker].is_some()
    }

    fn applies(&self, worker: usize, command: &PoolCommand) -> bool {
        match (&self.open[worker], command) {
            (pocket, PoolCommand::Open { .. }) => pocket.is_none(),
            (None, _) => false,
            (Some(pocket), PoolCommand::GiveBack { .. } | PoolCommand::Send { .. }) => {
                !pocket.held.is_empty()
            }
            (Some(pocket), PoolCommand::Settle { .. }) => !pocket.taken.is_empty(),
            (Some(_), _) => true,
        }
    }

    fn apply(&mut self, worker: usize, command: &PoolCommand) -> Vec<u64> {
        match *command {
            PoolCommand::Open { rights } => {
                self.open[worker] = Some(Pocket {
                    rights,
                    ..Pocket::default()
                });
                self.table.done(worker, Done);
                Verb::OpenPool.words([self.game, rights.into()])
            }
            PoolCommand::Borrow { patience } => {
                if self.pocket(worker).rights & SEND == 0 {
                    self.table.done(worker, Failed(libc::EACCES));
                } else if self.free() > 0 && self.waiting.is_empty() {
                    self.borrow(worker);
                } else if let Some(errno) = patience.errno() {
                    self.table.done(worker, Failed(errno));
                } else {
                    self.table.busy[worker] = true;
                    self.waiting.push(worker);
                }
                Verb::Borrow.words(patience.words())
            }
            PoolCommand::GiveBack { which } => {
                let held = &mut self.pocket(worker).held;
                let which = which % held.len();
                let block = held.remove(which);
                self.end(block);
                self.table.done(worker, Done);
                Verb::GiveBack.words([which as u64])
            }
            PoolCommand::Send { which, share } => {
                let full = self.under_way() >= self.capacity;
                let held = &mut self.pocket(worker).held;
                let which = which % held.len();
                if full {
                    self.table.done(worker, Failed(libc::EAGAIN));
                } else {
                    let block = held[which];
                    if share {
                        self.leases[block] += 1;
                    } else {
                        held.remove(which);
                    }
                    self.sequence += 1;
                    self.queue.push(Parcel {
                        sequence: self.sequence,
                        block,
                        redelivered: false,
                    });
                    self.table.done(worker, Done);
                }
                let flags = if share { SHARED } else { 0 };
                Verb::SendLease.words([which as u64, flags.into()])
            }
            PoolCommand::Receive { take } => {
                let flags = if take { sys::POSTBOX_RECV_ACK } else { 0 };
                if self.queue.is_empty() {
                    self.table.done(worker, Failed(libc::EAGAIN));
                } else {
                    let parcel = self.queue.remove(0);
                    let shared = self.leases[parcel.block] > 1;
                    let pocket = self.pocket(worker);
                    if take {
                        pocket.taken.push(parcel);
                    } else {
                        pocket.held.push(parcel.block);
                    }
                    let words = [shared, take, parcel.redelivered].map(u64::from);
                    self.table.done(worker, Data(words.into()));
                }
                Verb::ReceiveLease.words([flags.into()])
            }
            PoolCommand::Settle { which, requeue } => {
                let taken = &mut self.pocket(worker).taken;
                let which = which % taken.len();
                let parcel = taken.remove(which);
                if requeue {
                    self.put_back(parcel);
                } else {
                    self.end(parcel.block);
                }
                self.table.done(worker, Done);
                let flags = if requeue { sys::POSTBOX_ACK_REQUEUE } else { 0 };
                Verb::Settle.words([which as u64, flags.into()])
            }
            PoolCommand::Poll => {
                let available = self.free() > 0 && self.waiting.is_empty();
                let sends = self.pocket(worker).rights & SEND != 0;
                let none = (false, 0);
                let outcome = events([(sends && available, OUT), none, none, none]);
                self.table.done(worker, outcome);
                Verb::Poll.words([])
            }
        }
    }

    fn leave(&mut self, worker: usize) {
        self.table.busy[worker] = false;
        self.waiting.retain(|waiting| *waiting != worker);
    }

    fn close(&mut self, worker: usize) {
        if let Some(pocket) = self.open[worker].take() {
            for parcel in pocket.taken {
                self.put_back(parcel);
            }
            for block in pocket.held {
                self.end(block);
            }
        }
    }

    fn expected(&self) -> Report {
        let open = self.open.iter().flatten();
        Self::found(&sys::postbox_info {
            value: self.free(),
            messages: self.under_way() as u64,
            unacknowledged: open.map(|pocket| pocket.held.len() as u64).sum(),
            waiting_senders: self.waiting.len() as u32,
            ..Default::default()
        })
    }

    fn found(info: &sys::postbox_info) -> Report {
        vec![
            ("free", info.value),
            ("under way", info.messages),
            ("held", info.unacknowledged),
            ("waiting", info.waiting_senders.into()),
        ]
    }
}

#[test]
fn pools_do_what_the_model_says() {
    run::<Lent>("pools");
}

// Links.

#[derive(Clone, Debug)]
enum LinkCommand {
    /// Opens an end of the port.
    Open,
    Send {
        patience: Patience,
    },
    Receive {
        patience: Patience,
    },
    Shut {
        how: u32,
    },
    WaitPeer {
        patience: Patience,
    },
    Poll,
}

#[derive(Clone, Debug)]
struct LinkShape {
    /// Of what the first end sends, and the second.
    capacities: [u64; 2],
    /// Two workers have the ends of a pair from the start; the others have none.
    pair: bool,
}

/// A message of a link.
#[derive(Clone, Copy, Debug)]
struct Sending {
    number: u64,
    sender: usize,
    pid: u64,
}

/// What one end sends.
#[derive(Clone, Debug, Default)]
struct Direction {
    capacity: u64,
    /// Of a rendezvous, the senders wait.
    queue: Vec<Sending>,
    blocked: Vec<Sending>,
    waiting: Option<usize>,
    /// Nobody sends any more, or nobody receives.
    shut: [bool; 2],
    /// It was shut before the second end was opened, so that the first end meets nobody in it.
    hopeless: bool,
}

#[derive(Debug)]
struct Joined {
    table: Table,
    pids: Vec<u64>,
    shape: LinkShape,
    port: u64,
    numbers: u64,
    /// All links there ever were: what the first end sends, and the second.
    links: Vec<[Direction; 2]>,
    /// Whether the second end was opened.
    met: Vec<bool>,
    /// The one that is found by the port.
    current: Option<usize>,
    /// The link and the end that a worker has.
    ends: Vec<Option<(usize, usize)>>,
    /// Who waits for the other end.
    alone: Vec<usize>,
}

impl Joined {
    fn make(&mut self) -> usize {
        let direction = |end: usize| Direction {
            capacity: self.shape.capacities[end],
            ..Default::default()
        };
        self.links.push([direction(0), direction(1)]);
        self.met.push(false);
        self.links.len() - 1
    }

    fn meet(&mut self, link: usize) {
        self.met[link] = true;
        for worker in std::mem::take(&mut self.alone) {
            self.table.done(worker, Done);
        }
    }

    /// What a worker sends through, or receives from.
    fn direction(&mut self, worker: usize, sends: bool) -> &mut Direction {
        let (link, end) = self.ends[worker].expect("it has an end");
        &mut self.links[link][if sends { end } else { 1 - end }]
    }

    fn send(&mut self, worker: usize, patience: Patience) {
        let (number, pid) = (self.numbers, self.pids[worker]);
        let direction = self.direction(worker, true);
        if direction.shut != [false; 2] {
            return self.table.done(worker, Failed(libc::EPIPE));
        }
        let rendezvous = direction.capacity == 0;
        let sending = Sending {
            number,
            sender: worker,
            pid,
        };
        if let Some(receiver) = direction.waiting.take() {
            self.table.done(worker, Done);
            return self.table.done(receiver, Data(vec![number, pid, 0]));
        }
        if !rendezvous && (direction.queue.len() as u64) < direction.capacity {
            direction.queue.push(sending);
            return self.table.done(worker, Done);
        }
        match patience.errno() {
            Some(errno) => return self.table.done(worker, Failed(errno)),
            None if rendezvous => direction.queue.push(sending),
            None => direction.blocked.push(sending),
        }
        self.table.busy[worker] = true;
    }

    fn receive(&mut self, worker: usize, patience: Patience) {
        let direction = self.direction(worker, false);
        let rendezvous = direction.capacity == 0;
        if !direction.queue.is_empty() {
            let taken = direction.queue.remove(0);
            let admitted = (!direction.blocked.is_empty()).then(|| direction.blocked.remove(0));
            direction.queue.extend(admitted);
            let freed = if rendezvous { Some(taken) } else { admitted };
            if let Some(freed) = freed {
                self.table.done(freed.sender, Done);
            }
            let data = vec![taken.number, taken.pid, 0];
            return self.table.done(worker, Data(data));
        }
        if direction.shut != [false; 2] {
            return self.table.done(worker, Failed(libc::EPIPE));
        }
        match patience.errno() {
            Some(errno) => self.table.done(worker, Failed(errno)),
            None => {
                direction.waiting = Some(worker);
                self.table.busy[worker] = true;
            }
        }
    }

    fn shut(&mut self, link: usize, end: usize, sends: bool, receives: bool) {
        for (which, direction) in self.links[link].iter_mut().enumerate() {
            if which == end {
                direction.shut[0] |= sends;
            } else {
                direction.shut[1] |= receives;
            }
            if direction.shut == [false; 2] {
                continue;
            }
            direction.hopeless |= !self.met[link];
            // What was accepted can be received still; who waits has sent nothing.
            let mut waits = std::mem::take(&mut direction.blocked);
            if direction.capacity == 0 {
                waits.append(&mut direction.queue);
            }
            for sending in waits {
                self.table.done(sending.sender, Failed(libc::EPIPE));
            }
            if direction.queue.is_empty()
                && let Some(receiver) = direction.waiting.take()
            {
                self.table.done(receiver, Failed(libc::EPIPE));
            }
        }
    }
}

impl Game for Joined {
    type Shape = LinkShape;
    type Command = LinkCommand;

    const TRIED: &'static [&'static str] = &[
        "data",
        "done",
        "EAGAIN",
        "EPIPE",
        "ETIMEDOUT",
        "EINTR",
        "EADDRINUSE",
    ];

    fn shape() -> BoxedStrategy<LinkShape> {
        (capacity(), capacity(), prop::bool::weighted(0.3))
            .prop_map(|(first, second, pair)| LinkShape {
                capacities: [first, second],
                pair,
            })
            .boxed()
    }

    fn command() -> BoxedStrategy<LinkCommand> {
        use LinkCommand::*;
        prop_oneof![
            5 => Just(Open),
            10 => patience().prop_map(|patience| Send { patience }),
            10 => patience().prop_map(|patience| Receive { patience }),
            1 => (1..4u32).prop_map(|how| Shut { how }),
            3 => patience().prop_map(|patience| WaitPeer { patience }),
            3 => Just(Poll),
        ]
        .boxed()
    }

    fn new(shape: &LinkShape, crew: &mut Crew) -> (Self, Option<Handle>) {
        let mut model = Joined {
            table: Table::default(),
            pids: Vec::new(),
            shape: shape.clone(),
            port: 1 + (u64::from(std::process::id()) * 64 + crew.games) % 65_535,
            numbers: 0,
            links: Vec::new(),
            met: Vec::new(),
            current: None,
            ends: vec![None; WORKERS],
            alone: Vec::new(),
        };
        if shape.pair {
            let first = Handle::unbound();
            let mut args = sys::postbox_pair {
                capacity: shape.capacities[0],
                back_capacity: shape.capacities[1],
                ..Default::default()
            };
            let second = Handle(raw::pair(&first, &mut args).expect("a pair can be made"));
            crew.replace(0, Some(&first), Some(&second));
            crew.replace(1, Some(&second), Some(&first));
            let link = model.make();
            model.met[link] = true;
            model.ends[0] = Some((link, 0));
            model.ends[1] = Some((link, 1));
        }
        model.pids = (0..WORKERS).map(|at| crew.pid(at)).collect();
        (model, None)
    }

    fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    fn started(&mut self, worker: usize, pid: u64) {
        self.pids[worker] = pid;
    }

    fn open(&self, worker: usize) -> bool {
        self.ends[worker].is_some()
    }

    fn applies(&self, worker: usize, command: &LinkCommand) -> bool {
        matches!(command, LinkCommand::Open) != self.open(worker)
    }

    fn apply(&mut self, worker: usize, command: &LinkCommand) -> Vec<u64> {
        self.numbers += 1;
        match *command {
            LinkCommand::Open => {
                match self.current {
                    None => {
                        let link = self.make();
                        self.current = Some(link);
                        self.ends[worker] = Some((link, 0));
                        self.table.done(worker, Data(vec![1]));
                    }
                    Some(link) if self.met[link] => {
                        self.table.done(worker, Failed(libc::EADDRINUSE));
                    }
                    Some(link) => {
                        self.ends[worker] = Some((link, 1));
                        self.table.done(worker, Data(vec![0]));
                        self.meet(link);
                    }
                }
                let [first, second] = self.shape.capacities;
                Verb::OpenPort.words([self.port, first, second])
            }
            LinkCommand::Send { patience } => {
                let direction = self.direction(worker, true);
                let patience = patience.unless(direction.waiting.is_some());
                self.send(worker, patience);
                let [flags, time] = patience.words();
                Verb::Send.words([self.numbers, flags, time])
            }
            LinkCommand::Receive { patience } => {
                self.receive(worker, patience);
                Verb::Receive.words(patience.words())
            }
            LinkCommand::Shut { how } => {
                let (link, end) = self.ends[worker].expect("it has an end");
                let shuts = |flag| how & flag != 0;
                let sends = shuts(sys::POSTBOX_SHUT_SEND);
                self.shut(link, end, sends, shuts(sys::POSTBOX_SHUT_RECEIVE));
                self.table.done(worker, Done);
                Verb::Shut.words([how.into()])
            }
            LinkCommand::WaitPeer { patience } => {
                let (link, end) = self.ends[worker].expect("it has an end");
                if end == 0 && self.links[link].iter().all(|way| way.hopeless) {
                    self.table.done(worker, Failed(libc::EPIPE));
                } else if self.met[link] {
                    self.table.done(worker, Done);
                } else if let Some(errno) = patience.errno() {
                    self.table.done(worker, Failed(errno));
                } else {
                    self.table.busy[worker] = true;
                    self.alone.push(worker);
                }
                Verb::WaitPeer.words(patience.words())
            }
            LinkCommand::Poll => {
                let direction = self.direction(worker, false);
                let readable = !direction.queue.is_empty();
                let ended = !readable && direction.shut != [false; 2];
                let direction = self.direction(worker, true);
                let refuses = direction.shut != [false; 2];
                let writable = match direction.capacity {
                    0 => direction.waiting.is_some(),
                    most => direction.blocked.is_empty() && (direction.queue.len() as u64) < most,
                };
                let outcome = events([
                    (readable, IN),
                    (ended, libc::POLLHUP),
                    (writable && !refuses, OUT),
                    (refuses, libc::POLLERR),
                ]);
                self.table.done(worker, outcome);
                Verb::Poll.words([])
            }
        }
    }

    fn leave(&mut self, worker: usize) {
        self.table.busy[worker] = false;
        self.alone.retain(|alone| *alone != worker);
        for direction in self.links.iter_mut().flatten() {
            // Only a sender that waits is busy.
            direction.blocked.retain(|sending| sending.sender != worker);
            if direction.capacity == 0 {
                direction.queue.retain(|sending| sending.sender != worker);
            }
            direction.waiting = direction.waiting.filter(|waiting| *waiting != worker);
        }
    }

    fn close(&mut self, worker: usize) {
        let Some((link, end)) = self.ends[worker].take() else {
            return;
        };
        // The port is free again when one of the two is gone.
        self.current = self.current.filter(|current| *current != link);
        self.shut(link, end, true, true);
    }

    fn expected(&self) -> Report {
        Vec::new()
    }

    fn found(_: &sys::postbox_info) -> Report {
        Vec::new()
    }
}

#[test]
fn links_do_what_the_model_says() {
    run::<Joined>("links");
}
