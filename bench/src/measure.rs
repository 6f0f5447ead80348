//! The loops and the clock.

use std::arch::asm;
use std::io;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use postbox::raw::{self, RecvEntry, SendEntry};
use postbox::{Segment, Semaphore, sys};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::lease;
use crate::peers::{Bytes, Carrier, Eventfd, Mq, Packets, Pipe, Raw, Seqpacket, Typed};
use crate::ring;
use crate::uring;
use crate::{BATCH, Case, LONGEST, Transport, Work};

/// After this many seconds for one figure something hangs.
const WATCHDOG: u32 = 300;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Windows, of which each gives a figure; one more before them warms up.
    pub windows: usize,
    /// Repetitions in one window.
    pub rounds: usize,
}

/// What came out, in nanoseconds or instructions for one repetition.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Of the windows.
    pub median: f64,
    /// Of the windows.
    pub min: f64,
}

/// Measures one transport in one case, on CPU 0.
pub fn measure(case: Case, transport: Transport, plan: Plan) -> io::Result<Figure> {
    let _pinned = Pinned::new()?;
    let _alarm = Alarm::new();
    match case.work {
        Work::RoundTrip => match transport {
            Transport::Postbox => round_trip::<Bytes>(case.len, plan),
            Transport::PostboxIoctl => round_trip::<Raw>(case.len, plan),
            Transport::PostboxCrate => round_trip::<Typed>(case.len, plan),
            Transport::Pipe => round_trip::<Pipe>(case.len, plan),
            Transport::Seqpacket => round_trip::<Seqpacket>(case.len, plan),
            Transport::Mq => round_trip::<Mq>(case.len, plan),
            Transport::Eventfd => round_trip::<Eventfd>(case.len, plan),
            _ => cannot(transport),
        },
        Work::Queued => match transport {
            Transport::Postbox => queued::<Bytes>(case.len, plan),
            Transport::PostboxIoctl => queued::<Raw>(case.len, plan),
            Transport::PostboxCrate => queued::<Typed>(case.len, plan),
            Transport::Pipe => queued::<Pipe>(case.len, plan),
            Transport::Seqpacket => queued::<Seqpacket>(case.len, plan),
            Transport::Mq => queued::<Mq>(case.len, plan),
            Transport::Eventfd => queued::<Eventfd>(case.len, plan),
            _ => cannot(transport),
        },
        Work::Batch => match transport {
            Transport::Postbox => post_batch(case.len, plan),
            Transport::Seqpacket => packet_batch(case.len, plan),
            _ => cannot(transport),
        },
        Work::Call => match transport {
            Transport::Postbox => call(case.len, plan),
            Transport::PostboxCrate => call_by_types(case.len, plan),
            Transport::Pipe => round_trip::<Pipe>(case.len, plan),
            Transport::Seqpacket => round_trip::<Seqpacket>(case.len, plan),
            Transport::Mq => round_trip::<Mq>(case.len, plan),
            // Eight bytes is all that it carries.
            Transport::Eventfd => round_trip::<Eventfd>(8, plan),
            _ => cannot(transport),
        },
        Work::Semaphore => match transport {
            Transport::Postbox => semaphore(plan),
            Transport::PostboxCrate => semaphore_by_type(plan),
            Transport::Futex => libc_semaphore(plan),
            _ => cannot(transport),
        },
        Work::Lock => match transport {
            Transport::Postbox => lock(plan),
            Transport::Futex => libc_lock(plan),
            _ => cannot(transport),
        },
        Work::Lease { touched } => {
            let mut plan = plan;
            if case.len >= crate::LARGE {
                plan.rounds = plan.rounds.div_ceil(10);
            }
            match transport {
                Transport::Postbox => lease::by_lease(case.len, touched, plan),
                Transport::PostboxCrate => lease::by_types(case.len, touched, plan),
                Transport::Pipe => lease::by_pipe(case.len, touched, plan),
                Transport::Seqpacket => lease::by_seqpacket(case.len, touched, plan),
                Transport::MemfdEventfd => lease::by_memfd(case.len, touched, plan),
                _ => cannot(transport),
            }
        }
        Work::Stream => match transport {
            Transport::Postbox => ring::by_ring(case.len, plan),
            Transport::Pipe => ring::by_pipe(case.len, plan),
            _ => cannot(transport),
        },
        Work::WakeOne(sleepers) => match transport {
            Transport::Postbox => wake_one::<Bytes>(sleepers, case.len, plan),
            Transport::PostboxIoctl => wake_one::<Raw>(sleepers, case.len, plan),
            Transport::Pipe => wake_one::<Pipe>(sleepers, case.len, plan),
            Transport::Mq => wake_one::<Mq>(sleepers, case.len, plan),
            _ => cannot(transport),
        },
        Work::UringBatch => match transport {
            Transport::Ioctl => uring::batch_by_ioctl(case.len, plan),
            Transport::PostboxCrate => uring::batch_by_crate(case.len, plan),
            _ => uring::batch(transport, case.len, plan),
        },
        Work::UringMultishot => match transport {
            Transport::Postbox => uring::multishot(case.len, plan),
            Transport::PostboxCrate => uring::multishot_by_crate(case.len, plan),
            Transport::Epoll => uring::readiness::<Raw>(false, case.len, plan),
            Transport::EpollRead => uring::readiness::<Bytes>(false, case.len, plan),
            Transport::EpollDrain => uring::readiness::<Raw>(true, case.len, plan),
            Transport::EpollDrainRead => uring::readiness::<Bytes>(true, case.len, plan),
            _ => cannot(transport),
        },
        Work::UringParked(count) => match transport {
            Transport::Postbox => uring::parked::<Typed>(count, case.len, plan),
            Transport::PostboxCrate => uring::parked_by_crate(count, case.len, plan),
            Transport::Uds => uring::parked::<Seqpacket>(count, case.len, plan),
            _ => cannot(transport),
        },
    }
}

pub(crate) fn cannot<T>(transport: Transport) -> io::Result<T> {
    let name = transport.name();
    Err(io::Error::other(format!("{name} does not do this")))
}

fn round_trip<C: Carrier>(len: usize, plan: Plan) -> io::Result<Figure> {
    let [(tx, rx), (far_tx, far_rx)] = C::pair(len)?;
    let mut buffer = Buffer::new();
    let rounds = (plan.windows + 1) * plan.rounds;
    let echo = Echo::fork(|| {
        let mut buffer = Buffer::new();
        for _ in 0..rounds {
            expect(len, C::recv(&far_rx, &mut buffer.0.0)?)?;
            C::send(&far_tx, &buffer.0.0[..len])?;
        }
        Ok(())
    })?;
    let figure = windows(plan, || {
        C::send(&tx, &buffer.0.0[..len])?;
        expect(len, C::recv(&rx, &mut buffer.0.0)?)
    })?;
    echo.wait()?;
    Ok(figure)
}

fn queued<C: Carrier>(len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = C::lane(len)?;
    let mut buffer = Buffer::new();
    windows(plan, || {
        C::send(&tx, &buffer.0.0[..len])?;
        expect(len, C::recv(&rx, &mut buffer.0.0)?)
    })
}

fn call(len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = Raw::lane(len)?;
    let mut buffer = Buffer::new();
    let rounds = (plan.windows + 1) * plan.rounds;
    let server = Echo::fork(|| {
        let mut buffer = Buffer::new();
        let mut args = sys::postbox_reply_recv::default();
        for _ in 0..rounds {
            let mut place = [MaybeUninit::uninit(); LONGEST];
            let reply = &buffer.0.0[..len];
            let mut files = Vec::new();
            let got = raw::reply_recv(rx.as_fd(), reply, &[], &mut place, &mut files, &mut args)?;
            expect(len, got.len())?;
            buffer.0.0[..len].copy_from_slice(got);
            args.reply.token = args.recv.token;
        }
        let last = sys::postbox_reply {
            token: args.reply.token,
            ..Default::default()
        };
        Ok(raw::reply(rx.as_fd(), &buffer.0.0[..len], &[], &last)?)
    })?;
    let figure = windows(plan, || {
        let mut args = sys::postbox_call::default();
        let mut place = [MaybeUninit::uninit(); LONGEST];
        let data = &buffer.0.0[..len];
        let mut files = Vec::new();
        let got = raw::call(tx.as_fd(), data, &[], &mut place, &mut files, &mut args)?;
        expect(len, got.len())?;
        buffer.0.0[..len].copy_from_slice(got);
        Ok(())
    })?;
    server.wait()?;
    Ok(figure)
}

fn call_by_types(len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = Typed::lane(len)?;
    let buffer = Buffer::new();
    let rounds = (plan.windows + 1) * plan.rounds;
    let server = Echo::fork(|| {
        let mut request = rx.recv_request()?;
        for _ in 1..rounds {
            let reply = request.to_vec();
            request.reply_recv(reply)?;
        }
        let reply = request.to_vec();
        Ok(request.reply(reply).map_err(|error| error.error)?)
    })?;
    let figure = windows(plan, || expect(len, tx.call(&buffer.0.0[..len])?.len()))?;
    server.wait()?;
    Ok(figure)
}

fn semaphore(plan: Plan) -> io::Result<Figure> {
    let semaphore = Semaphore::options().initial(1).anonymous()?;
    let one = sys::postbox_sync {
        count: 1,
        ..Default::default()
    };
    windows(plan, || {
        raw::acquire(semaphore.as_fd(), &one)?;
        Ok(raw::release(semaphore.as_fd(), &one)?)
    })
}

fn semaphore_by_type(plan: Plan) -> io::Result<Figure> {
    let semaphore = Semaphore::options().initial(1).anonymous()?;
    windows(plan, || {
        drop(semaphore.acquire()?);
        Ok(())
    })
}

fn libc_semaphore(plan: Plan) -> io::Result<Figure> {
    let mut semaphore = Box::new(MaybeUninit::<libc::sem_t>::uninit());
    let at = semaphore.as_mut_ptr();
    // SAFETY: the place is valid and stays where it is until this returns.
    if unsafe { libc::sem_init(at, 1, 1) } != 0 {
        return Err(io::Error::last_os_error());
    }
    windows(plan, || {
        // SAFETY: it was initialised.
        match unsafe { libc::sem_wait(at) | libc::sem_post(at) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    })
}

fn lock(plan: Plan) -> io::Result<Figure> {
    let mapping = Segment::options().anonymous(4096)?.attach()?;
    let mutex = mapping.mutex::<u64>(0)?;
    windows(plan, || {
        drop(mutex.lock()?);
        Ok(())
    })
}

fn libc_lock(plan: Plan) -> io::Result<Figure> {
    let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
    let mut mutex = Box::new(MaybeUninit::<libc::pthread_mutex_t>::uninit());
    let (how, at) = (attributes.as_mut_ptr(), mutex.as_mut_ptr());
    // SAFETY: the places are valid, and the mutex stays where it is until this returns.
    let error = unsafe {
        libc::pthread_mutexattr_init(how)
            | libc::pthread_mutexattr_setpshared(how, libc::PTHREAD_PROCESS_SHARED)
            | libc::pthread_mutexattr_setrobust(how, libc::PTHREAD_MUTEX_ROBUST)
            | libc::pthread_mutex_init(at, how)
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    windows(plan, || {
        // SAFETY: it was initialised, and is unlocked by who locked it.
        match unsafe { libc::pthread_mutex_lock(at) | libc::pthread_mutex_unlock(at) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    })
}

/// The call that wakes one of the sleepers, without what that one does then: being a batch thread, it does not take the
/// CPU from who has woken it.
fn wake_one<C: Carrier>(sleepers: usize, len: usize, plan: Plan) -> io::Result<Figure>
where
    C::Tx: Sync,
    C::Rx: Sync,
{
    let [(tx, rx), (far_tx, far_rx)] = C::pair(len)?;
    let rounds = (plan.windows + 1) * plan.rounds;
    let served = AtomicUsize::new(0);
    let serve = || -> io::Result<()> {
        let normal = libc::sched_param { sched_priority: 0 };
        // SAFETY: the pointer is valid.
        match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &normal) } {
            0 => {}
            _ => return Err(io::Error::last_os_error()),
        }
        let mut buffer = Buffer::new();
        // Those that are left at the end are each sent one message more.
        loop {
            expect(len, C::recv(&far_rx, &mut buffer.0.0)?)?;
            if served.fetch_add(1, Ordering::Relaxed) >= rounds {
                return Ok(());
            }
            C::send(&far_tx, &buffer.0.0[..len])?;
        }
    };
    thread::scope(|scope| {
        let threads = (0..sleepers)
            .map(|_| {
                let builder = thread::Builder::new().stack_size(64 << 10);
                builder.spawn_scoped(scope, serve)
            })
            .collect::<io::Result<Vec<_>>>()?;
        // All of them sleep when this thread has been away for a while.
        thread::sleep(Duration::from_millis(200));
        let mut buffer = Buffer::new();
        let before = sleeps()?;
        let figure = parts(plan, || {
            let start = now();
            C::send(&tx, &buffer.0.0[..len])?;
            let sent = now() - start;
            expect(len, C::recv(&rx, &mut buffer.0.0)?)?;
            Ok(sent)
        });
        let slept = sleeps()? - before;
        // Let everybody go before anything is said of an error.
        for _ in 0..sleepers {
            C::send(&tx, &buffer.0.0[..len])?;
            // Messages do not pile up where they would become one.
            thread::sleep(Duration::from_micros(100));
        }
        for thread in threads {
            let ended = thread.join();
            ended.map_err(|_| io::Error::other("a sleeper panicked"))??;
        }
        // One that answers, and the one that waits for the answer.
        let once = 2 * rounds;
        if slept > once + once / 20 {
            println!("  ({slept} sleeps in {rounds} rounds: more than one wakes up)");
        }
        figure
    })
}

/// How often the threads of this process have gone to sleep.
fn sleeps() -> io::Result<usize> {
    // SAFETY: all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid.
    match unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) } {
        0 => Ok(usage.ru_nvcsw as usize),
        _ => Err(io::Error::last_os_error()),
    }
}

fn post_batch(len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = Raw::lane(len)?;
    let data = Buffer::new();
    let mut places = vec![MaybeUninit::uninit(); BATCH * len];
    let posts: Vec<_> = (0..BATCH)
        .map(|_| SendEntry::new(&data.0.0[..len], 0))
        .collect();
    let mut received: Vec<_> = places.chunks_mut(len).map(RecvEntry::new).collect();
    per_message(windows(plan, || {
        expect(BATCH, raw::send_batch(tx.as_fd(), &posts, 0, 0)?)?;
        expect(BATCH, raw::recv_batch(rx.as_fd(), &mut received, 0, 0)?)
    }))
}

fn packet_batch(len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = Seqpacket::lane(len)?;
    let mut data = vec![1; BATCH * len];
    let mut places = vec![0; BATCH * len];
    let mut sent = Packets::new(&mut data, len);
    let mut received = Packets::new(&mut places, len);
    per_message(windows(plan, || {
        expect(BATCH, sent.send(&tx)?)?;
        expect(BATCH, received.recv(&rx)?)
    }))
}

fn per_message(figure: io::Result<Figure>) -> io::Result<Figure> {
    figure.map(|Figure { median, min }| Figure {
        median: median / BATCH as f64,
        min: min / BATCH as f64,
    })
}

pub(crate) fn windows(plan: Plan, mut step: impl FnMut() -> io::Result<()>) -> io::Result<Figure> {
    summary(plan, || {
        let start = now();
        for _ in 0..plan.rounds {
            step()?;
        }
        Ok(now() - start)
    })
}

/// The same, of the part of each round for which `step` gives the time itself.
pub(crate) fn parts(plan: Plan, mut step: impl FnMut() -> io::Result<u64>) -> io::Result<Figure> {
    summary(plan, || (0..plan.rounds).map(|_| step()).sum())
}

/// What `window` gives for all of its rounds, by round, after one that does not count.
fn summary(plan: Plan, mut window: impl FnMut() -> io::Result<u64>) -> io::Result<Figure> {
    let mut window = || Ok(window()? as f64 / plan.rounds as f64);
    window()?;
    let mut figures = (0..plan.windows)
        .map(|_| window())
        .collect::<io::Result<Vec<f64>>>()?;
    figures.sort_by(f64::total_cmp);
    match figures.as_slice() {
        [] => Err(io::Error::other("no windows to measure")),
        [min, ..] => Ok(Figure {
            median: figures[figures.len() / 2],
            min: *min,
        }),
    }
}

pub(crate) fn expect(wanted: usize, got: usize) -> io::Result<()> {
    if wanted == got {
        Ok(())
    } else {
        Err(io::Error::other(format!("{got} of {wanted} came through")))
    }
}

pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::MonotonicRaw);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Whether a nanosecond of the clock is an instruction.
pub fn clock_counts_instructions() -> bool {
    const TURNS: u64 = 10_000_000;
    let start = now();
    // SAFETY: counts a register down; touches no memory and no stack.
    unsafe {
        asm!("2:", "dec {n}", "jnz 2b", n = inout(reg) TURNS => _, options(nomem, nostack));
    }
    let counted = (now() - start) as f64 / (2 * TURNS) as f64;
    // The timer's interrupts are counted too.
    (0.98..1.1).contains(&counted)
}

/// Bytes that begin a page and are all there.
#[repr(align(4096))]
struct Page([u8; LONGEST]);

struct Buffer(Box<Page>);

impl Buffer {
    fn new() -> Self {
        Buffer(Box::new(Page([1; LONGEST])))
    }
}

/// This thread stays on CPU 0 until this is dropped.
struct Pinned(CpuSet);

impl Pinned {
    fn new() -> io::Result<Self> {
        let before = sched_getaffinity(None)?;
        let mut one = CpuSet::new();
        one.set(0);
        sched_setaffinity(None, &one)?;
        Ok(Pinned(before))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // The CPUs were allowed before, and a benchmark on fewer of them is no harm.
        let _ = sched_setaffinity(None, &self.0);
    }
}

/// SIGALRM ends the process if this is not dropped in time.
struct Alarm;

impl Alarm {
    fn new() -> Self {
        // SAFETY: no pointers.
        unsafe { libc::alarm(WATCHDOG) };
        Alarm
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: no pointers.
        unsafe { libc::alarm(0) };
    }
}

/// The other process. It is killed if this is dropped before it was waited for.
pub(crate) struct Echo(Pid);

impl Echo {
    pub(crate) fn fork(run: impl FnOnce() -> io::Result<()>) -> io::Result<Self> {
        // SAFETY: the child uses what it has of the parent's memory, starts no thread and ends here.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(pid) = Pid::from_raw(pid) {
            return Ok(Echo(pid));
        }
        // SAFETY: no pointers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        let code = match run() {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("the other process: {error}");
                // The parent waits for an answer that does not come.
                // SAFETY: no pointers.
                unsafe { libc::kill(libc::getppid(), libc::SIGTERM) };
                1
            }
        };
        // SAFETY: ends the process without running what the parent registered.
        unsafe { libc::_exit(code) }
    }

    pub(crate) fn wait(self) -> io::Result<()> {
        let echo = ManuallyDrop::new(self);
        match waitpid(Some(echo.0), WaitOptions::empty())? {
            Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
            _ => Err(io::Error::other("the other process failed")),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It is this process's own child; if it is gone already there is nothing to do.
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}
