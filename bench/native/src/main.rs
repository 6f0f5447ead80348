//! Rings natively: round trips between two cores and one-way throughput, beside iceoryx2 and bare cache lines, one
//! for each direction. Payloads are not touched by anybody; the rings sleep by futexes, and never come to it here.
//!
//! One thread on each of two CPUs. What is compared takes turns, in many rounds of short windows. What else the machine
//! does disturbs some of them; and where it is a virtual one, its CPUs wander, so that the same line takes many times
//! as long from one minute to the next. So the quarter of the rounds counts in which the bare line was quickest, of all
//! that is compared. A figure is the median over several runs of the medians of those.

use std::error::Error;
use std::fmt::Write as _;
use std::hint::spin_loop;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use postbox::{Consumer, Copying, FutexDoorbell, Producer, Ring};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: postbox-bench-native --out FILE [--runs N] [--windows N]";

/// Bytes of a record.
const SIZES: [usize; 5] = [64, 1024, 4096, 65_536, 1 << 20];
/// Round trips, or records, of a window.
const ROUNDS: u64 = 300;
/// Records that the queues of iceoryx2 hold.
const DEPTH: usize = 64;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Postbox,
    Cacheline,
    Iceoryx2,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Postbox => "postbox",
            Peer::Cacheline => "cacheline",
            Peer::Iceoryx2 => "iceoryx2",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    RoundTrip,
    OneWay,
}

/// One side of a channel in each direction.
trait Side {
    fn send(&mut self);
    fn receive(&mut self);
    /// Receives, and sends before it lets go of what it has received.
    fn answer(&mut self);
}

struct Rings {
    tx: Producer<Copying, FutexDoorbell>,
    rx: Consumer<Copying, FutexDoorbell>,
    len: usize,
}

impl Rings {
    fn pair(len: usize) -> Result<(Self, Self)> {
        // Some records of the longest, and many of the others.
        let room = (8 * len).max(65_536);
        let ring = || -> Result<_> {
            let (mut tx, mut rx) = Ring::options().capacity(room as u64).local()?;
            // Whoever is measured against never sleeps.
            tx.set_spin(u32::MAX);
            rx.set_spin(u32::MAX);
            Ok((tx, rx))
        };
        let (there, back) = (ring()?, ring()?);
        let (tx, rx) = (there.0, back.1);
        let other = Rings {
            tx: back.0,
            rx: there.1,
            len,
        };
        Ok((Rings { tx, rx, len }, other))
    }
}

impl Side for Rings {
    fn send(&mut self) {
        let slot = self.tx.reserve(self.len);
        slot.expect("the other side is there").commit();
    }

    fn receive(&mut self) {
        let record = self.rx.recv().expect("the other side is there");
        assert_eq!(record.len(), self.len);
    }

    fn answer(&mut self) {
        let record = self.rx.recv().expect("the other side is there");
        assert_eq!(record.len(), self.len);
        let slot = self.tx.reserve(self.len);
        slot.expect("the other side is there").commit();
    }
}

/// A line of a cache.
#[repr(align(128))]
struct Line(AtomicU64);

/// One line for each direction, which is the least that there can be.
struct Lines {
    tx: Arc<Line>,
    rx: Arc<Line>,
    sent: u64,
    received: u64,
}

impl Side for Lines {
    fn send(&mut self) {
        self.sent += 1;
        self.tx.0.store(self.sent, Release);
    }

    fn receive(&mut self) {
        self.received += 1;
        while self.rx.0.load(Acquire) != self.received {
            spin_loop();
        }
    }

    fn answer(&mut self) {
        self.receive();
        self.send();
    }
}

struct Iceoryx2 {
    tx: Publisher<ipc::Service, [u8], ()>,
    rx: Subscriber<ipc::Service, [u8], ()>,
    len: usize,
    // It keeps what its ports belong to.
    _node: Node<ipc::Service>,
}

impl Iceoryx2 {
    /// One side; `names` are of the services that it sends and receives by.
    fn new(len: usize, names: [&str; 2]) -> Result<Self> {
        set_log_level(LogLevel::Fatal);
        let node = NodeBuilder::new().create::<ipc::Service>()?;
        let service = |name: &str| -> Result<_> {
            Ok(node
                .service_builder(&name.try_into()?)
                .publish_subscribe::<[u8]>()
                .max_publishers(1)
                .max_subscribers(1)
                .history_size(0)
                .subscriber_max_buffer_size(DEPTH)
                // Nothing is lost, as with the others.
                .enable_safe_overflow(false)
                .open_or_create()?)
        };
        let (there, back) = (service(names[0])?, service(names[1])?);
        let tx = there
            .publisher_builder()
            .initial_max_slice_len(len)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()?;
        let rx = back.subscriber_builder().create()?;
        Ok(Iceoryx2 {
            tx,
            rx,
            len,
            _node: node,
        })
    }
}

impl Side for Iceoryx2 {
    fn send(&mut self) {
        let sample = self.tx.loan_slice_uninit(self.len).expect("a sample");
        // SAFETY: nobody looks at the bytes, and any bytes are valid.
        let sample = unsafe { sample.assume_init() };
        let delivered = sample.send().expect("the other side is there");
        assert_eq!(delivered, 1);
    }

    fn receive(&mut self) {
        loop {
            if let Some(sample) = self.rx.receive().expect("the other side is there") {
                assert_eq!(sample.payload().len(), self.len);
                return;
            }
            spin_loop();
        }
    }

    fn answer(&mut self) {
        loop {
            if let Some(sample) = self.rx.receive().expect("the other side is there") {
                assert_eq!(sample.payload().len(), self.len);
                self.send();
                return;
            }
            spin_loop();
        }
    }
}

/// One side of everything that is compared.
struct Sides {
    rings: Rings,
    lines: Lines,
    iceoryx2: Iceoryx2,
}

/// What starts a window on the other thread.
type Start = (Peer, Work);

/// Calls one of the functions below with the side of a peer.
macro_rules! with {
    ($sides:expr, $peer:expr, $call:ident($($arg:expr),*)) => {
        match $peer {
            Peer::Postbox => $call(&mut $sides.rings, $($arg),*),
            Peer::Cacheline => $call(&mut $sides.lines, $($arg),*),
            Peer::Iceoryx2 => $call(&mut $sides.iceoryx2, $($arg),*),
        }
    };
}

/// What the other thread does in a window.
fn answer(side: &mut impl Side, work: Work) {
    for _ in 0..ROUNDS {
        match work {
            Work::RoundTrip => side.answer(),
            Work::OneWay => side.receive(),
        }
    }
}

/// What this one does.
fn ask(side: &mut impl Side, work: Work) {
    side.send();
    for _ in 1..ROUNDS {
        match work {
            Work::RoundTrip => side.answer(),
            Work::OneWay => side.send(),
        }
    }
    if work == Work::RoundTrip {
        side.receive();
    }
}

/// The two CPUs.
fn cpus() -> Result<[usize; 2]> {
    let set = sched_getaffinity(None)?;
    let mut found = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Ok([first, second]),
        _ => Err("two CPUs are needed, and this process may only use one; see taskset(1)".into()),
    }
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// The other thread, with its end of everything.
struct Other {
    start: Sender<Start>,
    /// It is at it.
    ready: Arc<AtomicU64>,
    ended: Receiver<Instant>,
}

impl Other {
    /// One window; nanoseconds for each round trip or record.
    fn window(&self, sides: &mut Sides, (peer, work): Start) -> Result<f64> {
        self.ready.store(0, Release);
        self.start.send((peer, work))?;
        while self.ready.load(Acquire) == 0 {
            spin_loop();
        }
        let start = Instant::now();
        with!(sides, peer, ask(work));
        let end = self.ended.recv()?;
        Ok(end.duration_since(start).as_nanos() as f64 / ROUNDS as f64)
    }
}

/// Names of this process's own.
fn names(len: usize) -> [String; 2] {
    ["there", "back"].map(|way| format!("postbox-bench/{}/{len}/{way}", std::process::id()))
}

/// All windows of one size, a figure for each peer: `(peer, work, figure)`.
fn measure(len: usize, windows: usize, cpus: [usize; 2]) -> Result<Vec<(Peer, Work, f64)>> {
    let (near, far) = Rings::pair(len)?;
    let lines = [(); 2].map(|()| Arc::new(Line(AtomicU64::new(0))));
    let line_pair = |tx: usize, rx: usize| Lines {
        tx: lines[tx].clone(),
        rx: lines[rx].clone(),
        sent: 0,
        received: 0,
    };
    let [there, back] = names(len);
    let (start, starts) = channel::<Start>();
    let (end, ended) = channel();
    let (made, is_made) = channel();
    let ready = Arc::new(AtomicU64::new(0));
    let mut sides = Sides {
        rings: near,
        lines: line_pair(0, 1),
        iceoryx2: Iceoryx2::new(len, [&there, &back])?,
    };
    let (lines, is_ready) = (line_pair(1, 0), ready.clone());
    let thread = thread::spawn(move || {
        let made_here = pin(cpus[1]).and_then(|()| Iceoryx2::new(len, [&back, &there]));
        let mut sides = match made_here {
            Ok(iceoryx2) => Sides {
                rings: far,
                lines,
                iceoryx2,
            },
            Err(error) => return drop(made.send(Err(error.to_string()))),
        };
        let _ = made.send(Ok(()));
        for (peer, work) in starts {
            is_ready.store(1, Release);
            with!(sides, peer, answer(work));
            let _ = end.send(Instant::now());
        }
    });
    is_made.recv()??;
    let other = Other {
        start,
        ready,
        ended,
    };
    let cases = [
        (Peer::Postbox, Work::RoundTrip),
        // Second: it says how the machine is.
        (Peer::Cacheline, Work::RoundTrip),
        (Peer::Iceoryx2, Work::RoundTrip),
        (Peer::Postbox, Work::OneWay),
        (Peer::Iceoryx2, Work::OneWay),
    ];
    let mut figures = vec![Vec::new(); cases.len()];
    // One more, to warm up.
    for window in 0..=windows {
        for (case, figures) in cases.into_iter().zip(&mut figures) {
            let figure = other.window(&mut sides, case)?;
            if window > 0 {
                figures.push(figure);
            }
        }
    }
    drop(other);
    thread.join().map_err(|_| "the other thread panicked")?;
    // The rounds in which the line was quickest.
    let lines = &figures[1];
    let mut rounds: Vec<usize> = (0..windows).collect();
    rounds.sort_by(|a, b| lines[*a].total_cmp(&lines[*b]));
    rounds.truncate(windows.div_ceil(4));
    let figure = |figures: &Vec<f64>| {
        let mut chosen: Vec<f64> = rounds.iter().map(|round| figures[*round]).collect();
        chosen.sort_by(f64::total_cmp);
        median(&chosen)
    };
    let figures = figures.iter().map(figure);
    let figures = cases.into_iter().zip(figures);
    Ok(figures
        .map(|((peer, work), figure)| (peer, work, figure))
        .collect())
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

struct Arguments {
    out: PathBuf,
    runs: usize,
    windows: usize,
}

fn arguments(mut given: impl Iterator<Item = String>) -> Result<Arguments> {
    let (mut out, mut runs, mut windows) = (None, 11, 200);
    while let Some(option) = given.next() {
        let value = given.next().ok_or(format!("{option} needs a value"))?;
        let number = || match value.parse() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(format!("{option}: {value} is not a number above zero")),
        };
        match option.as_str() {
            "--out" => out = Some(PathBuf::from(value)),
            "--runs" => runs = number()?,
            "--windows" => windows = number()?,
            _ => return Err(format!("unknown option {option}").into()),
        }
    }
    let out = out.ok_or("--out FILE is needed")?;
    Ok(Arguments { out, runs, windows })
}

/// The figures of one case, one for each run.
struct Case {
    key: String,
    rows: Vec<(Peer, Vec<f64>)>,
}

fn bench(arguments: &Arguments) -> Result<()> {
    let cpus = cpus()?;
    pin(cpus[0])?;
    let mut cases: Vec<Case> = Vec::new();
    for run in 0..arguments.runs {
        eprintln!("run {} of {}", run + 1, arguments.runs);
        for len in SIZES {
            for (peer, work, figure) in measure(len, arguments.windows, cpus)? {
                let key = match work {
                    Work::RoundTrip => format!("ring_rtt_{len}"),
                    Work::OneWay => format!("ring_throughput_{len}"),
                };
                let at = cases.iter().position(|case| case.key == key);
                let at = at.unwrap_or_else(|| {
                    cases.push(Case {
                        key,
                        rows: Vec::new(),
                    });
                    cases.len() - 1
                });
                let rows = &mut cases[at].rows;
                match rows.iter_mut().find(|row| row.0 == peer) {
                    Some(row) => row.1.push(figure),
                    None => rows.push((peer, vec![figure])),
                }
            }
        }
    }
    println!(
        "nanoseconds for a round trip, or a record one way; {} runs",
        arguments.runs
    );
    println!(
        "{:<26}{:>12}{:>12}{:>12}",
        "", "postbox", "cacheline", "iceoryx2"
    );
    let mut json = String::from("{");
    for (i, case) in cases.iter_mut().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(json, "{comma}\n  \"{}\": {{", case.key)?;
        print!("{:<26}", case.key);
        for peer in [Peer::Postbox, Peer::Cacheline, Peer::Iceoryx2] {
            let Some((_, figures)) = case.rows.iter_mut().find(|row| row.0 == peer) else {
                print!("{:>12}", "");
                continue;
            };
            figures.sort_by(f64::total_cmp);
            let figure = median(figures);
            print!("{figure:>12.1}");
            let comma = if json.ends_with('{') { "" } else { ", " };
            write!(json, "{comma}\"{}\": {figure:.1}", peer.name())?;
        }
        println!();
        json.push('}');
    }
    json.push_str("\n}\n");
    if let Some(parent) = arguments.out.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&arguments.out, json)?;
    Ok(())
}

fn main() -> ExitCode {
    let arguments = match arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("postbox-bench-native: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match bench(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("postbox-bench-native: {error}");
            ExitCode::FAILURE
        }
    }
}
