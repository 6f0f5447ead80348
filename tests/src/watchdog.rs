//! Watchdogs that tell a hang from slowness.
//!
//! A watchdog counts the time since it last saw progress, slowed down as much as the machine is: it compares how long a
//! fixed piece of work takes with how long it took at its fastest, and how many tasks want to run with how many processors
//! there are. When the period is over, it looks at the processor time that the processes of the test have used meanwhile:
//! while they work, nothing hangs, and it begins another period.

use std::fmt::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The period of a watchdog: everything takes twenty times as long in the debug kernel as in the others.
pub const WATCHDOG: Duration = Duration::from_secs(12);

/// A timeout for a wait that ends before it: what ends a hang is the watchdog of the test's process.
pub const LONG: Duration = Duration::from_secs(3600);

/// Periods in which there was work and nothing else: a test that spins hangs, too.
const WORKING: u32 = 10;

/// Time between two samples of how slow the machine is.
const SAMPLE: Duration = Duration::from_millis(50);

/// A watchdog.
#[derive(Debug)]
pub struct Watchdog {
    period: Duration,
    /// Where the time begins that is counted.
    since: Instant,
    sampled: Instant,
    samples: u32,
    /// What the pieces of work took, together.
    took: Duration,
    /// Tasks that wanted to run, per processor, of all samples.
    runnable: f64,
    /// The process whose descendants are the test.
    root: u32,
    /// Their processor time early in the period. It is only looked up when the period is not over soon, because that takes long.
    work: Option<Duration>,
    extended: u32,
}

impl Default for Watchdog {
    fn default() -> Self {
        Watchdog::new()
    }
}

impl Watchdog {
    /// A watchdog with the usual period, which watches all processes of the test program.
    pub fn new() -> Self {
        Watchdog::of(WATCHDOG, root())
    }

    /// A watchdog with that period, which watches a process and its descendants.
    pub fn of(period: Duration, root: u32) -> Self {
        let now = Instant::now();
        Watchdog {
            period,
            since: now,
            sampled: now,
            samples: 0,
            took: Duration::ZERO,
            runnable: 0.0,
            root,
            work: None,
            extended: 0,
        }
    }

    /// Begins again: there was progress.
    pub fn progress(&mut self) {
        self.begin(None);
        self.extended = 0;
    }

    fn begin(&mut self, work: Option<Duration>) {
        self.since = Instant::now();
        (self.samples, self.took, self.runnable) = (0, Duration::ZERO, 0.0);
        self.work = work;
    }

    /// Whether there has been no progress for the period. To be called again and again.
    pub fn barks(&mut self) -> bool {
        if self.sampled.elapsed() >= SAMPLE {
            self.took += piece_of_work();
            self.runnable += runnable();
            self.samples += 1;
            self.sampled = Instant::now();
        }
        let elapsed = self.since.elapsed();
        if self.work.is_none() && elapsed > self.period / 4 {
            self.work = Some(work_of(self.root));
        }
        if elapsed < self.period || elapsed < self.period.mul_f64(self.slowness()) {
            return false;
        }
        let work = work_of(self.root);
        let worked = work.saturating_sub(self.work.unwrap_or(work));
        if worked > self.period / 4 && self.extended < WORKING {
            self.extended += 1;
            self.begin(Some(work));
            return false;
        }
        true
    }

    /// Waits until the descriptor is readable. `false`: there was no progress for the period.
    pub fn readable(&mut self, fd: impl AsFd) -> bool {
        loop {
            if crate::readable(&fd, Duration::from_millis(20)) {
                return true;
            }
            if self.barks() {
                return false;
            }
        }
    }

    /// Panics, with what the test's processes are doing, if there has been no progress for the period.
    #[track_caller]
    pub fn check(&mut self, what: impl FnOnce() -> String) {
        if self.barks() {
            let what = what();
            crate::tell(&format!("--- no progress: {what}\n{}", stacks(self.root)));
            panic!("no progress for {:?}: {what}", self.period);
        }
    }

    /// How many times slower than at its best the machine is for one thread.
    fn slowness(&self) -> f64 {
        if self.samples == 0 {
            return 1.0;
        }
        let best = Duration::from_nanos(BEST.load(Ordering::Relaxed).max(1)) * self.samples;
        let slow = self.took.as_secs_f64() / best.as_secs_f64();
        slow.max(self.runnable / f64::from(self.samples)).max(1.0)
    }
}

/// The shortest time that the piece of work took, in nanoseconds. Children inherit it.
static BEST: AtomicU64 = AtomicU64::new(u64::MAX);

/// Does a fixed piece of work, and returns how long that took.
fn piece_of_work() -> Duration {
    let start = Instant::now();
    let mut x = 1_u64;
    for n in 0..20_000_u64 {
        x = std::hint::black_box(x.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n);
    }
    let took = start.elapsed();
    BEST.fetch_min(took.as_nanos() as u64, Ordering::Relaxed);
    took
}

/// How many tasks want to run, per processor.
fn runnable() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(' ').nth(3).and_then(|tasks| {
        let (running, _) = tasks.split_once('/')?;
        running.parse::<u32>().ok()
    });
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    f64::from(running.unwrap_or(1)) / processors as f64
}

static ROOT: AtomicU32 = AtomicU32::new(0);

/// The test program's process: that in which this was called first, before it forked.
pub(crate) fn root() -> u32 {
    let me = std::process::id();
    match ROOT.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => me,
        Err(root) => root,
    }
}

/// A process, as /proc/PID/stat has it.
struct Process {
    pid: u32,
    parent: u32,
    /// The processor time of its threads, and of the children that it waited for.
    work: Duration,
}

fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have anything in it.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let ticks: u64 = (11..15).filter_map(number).sum();
    // SAFETY: no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as u64;
    Some(Process {
        pid,
        parent: number(1)? as u32,
        work: Duration::from_millis(ticks * 1000 / per_second),
    })
}

/// The process and its descendants.
fn tree(root: u32) -> Vec<Process> {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut others: Vec<Process> = pids.filter_map(process).collect();
    let mut tree: Vec<Process> = others.extract_if(.., |p| p.pid == root).collect();
    let mut at = 0;
    while at < tree.len() {
        let parent = tree[at].pid;
        tree.extend(others.extract_if(.., |p| p.parent == parent));
        at += 1;
    }
    tree
}

/// The processor time of a process and its descendants, without that of the calling thread.
fn work_of(root: u32) -> Duration {
    let mut own = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `own` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut own) };
    let own = Duration::new(own.tv_sec as u64, own.tv_nsec as u32);
    let all: Duration = tree(root).iter().map(|process| process.work).sum();
    all.saturating_sub(own)
}

/// What each thread of a process and of its descendants is doing, as the kernel sees it.
pub(crate) fn stacks(root: u32) -> String {
    let mut text = String::new();
    for Process { pid, .. } in tree(root) {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter();
        for task in tasks.flatten().flatten() {
            let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let status = read("status");
            let field = |name: &str| {
                let mut lines = status.lines();
                let line = lines.find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().trim().to_owned()
            };
            let (name, state, at) = (field("Name:"), field("State:"), read("wchan"));
            let task = task.file_name();
            let _ = writeln!(text, "  {pid}/{} {name}: {state}, in {at}", task.display());
            for line in read("stack").lines().take(12) {
                let _ = writeln!(text, "      {line}");
            }
        }
    }
    text
}

/// Ends the program, loudly, if there is no progress until the value is dropped. For what waits where nothing else
/// watches: in futures, or with [`LONG`] as the timeout.
#[derive(Debug)]
pub struct Watch(Arc<AtomicBool>);

/// Watches from now on.
pub fn watch(what: impl Into<String>) -> Watch {
    start(what.into(), WATCHDOG)
}

pub(crate) fn start(what: String, period: Duration) -> Watch {
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    let mut watchdog = Watchdog::of(period, root());
    std::thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            if watchdog.barks() {
                let root = root();
                crate::tell(&format!("--- no progress: {what}\n{}", stacks(root)));
                // SAFETY: ends the process, whatever its threads wait for.
                unsafe { libc::_exit(101) };
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    Watch(over)
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sleeps until the process is killed.
pub fn sleep_forever() {
    // SAFETY: no pointers. It returns -1 after a signal.
    while unsafe { libc::pause() } == -1 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(300);

    fn barks_while(mut go_on: impl FnMut() -> bool, watchdog: &mut Watchdog) -> bool {
        while go_on() {
            if watchdog.barks() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    #[test]
    fn watchdog_without_progress_barks() {
        let start = Instant::now();
        let mut watchdog = Watchdog::of(PERIOD, std::process::id());
        assert!(barks_while(|| true, &mut watchdog));
        assert!(start.elapsed() >= PERIOD);
    }

    #[test]
    fn watchdog_with_progress_is_silent() {
        let start = Instant::now();
        let mut watchdog = Watchdog::of(PERIOD, std::process::id());
        let go_on = || start.elapsed() < 4 * PERIOD;
        while go_on() {
            watchdog.progress();
            assert!(!watchdog.barks());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The machine is slower than at its best by what the samples say.
    #[test]
    fn watchdog_on_slow_machine_waits_longer() {
        piece_of_work();
        let mut watchdog = Watchdog::of(Duration::ZERO, std::process::id());
        watchdog.samples = 2;
        watchdog.took = Duration::from_nanos(BEST.load(Ordering::Relaxed)) * 20;
        // Another test may have been faster meanwhile, and seconds are rounded.
        assert!(watchdog.slowness() > 9.99);
        watchdog.took = Duration::ZERO;
        watchdog.runnable = 16.0;
        assert!((watchdog.slowness() - 8.0).abs() < 0.01);
    }

    #[test]
    fn watchdog_of_working_child_is_silent() {
        let child = crate::spawn(|| {
            loop {
                piece_of_work();
            }
        });
        let mut watchdog = Watchdog::of(PERIOD, child.pid());
        // However busy the machine is: at some time the child gets on.
        while watchdog.extended == 0 {
            if watchdog.barks() {
                watchdog.progress();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // It does nothing else, and that is a hang, too.
        assert!(barks_while(|| true, &mut watchdog));
    }
}
