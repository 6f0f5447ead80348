//! Three doors to the module: one definition of a test, and three ways for what it does to reach the kernel.
//!
//! Whatever the tests, the crate under test and rustix ask of a handle is a call of the C library's `ioctl`, `read` or
//! `write` in the end: the tests are built with the feature of rustix that makes it so. This module has functions of these
//! names, which the linker takes for those of the C library. What they do with a request of postbox is what the
//! environment variable `POSTBOX_DOOR` says:
//!
//! - `ioctl`, or nothing: they make the system call.
//! - `uring`: they submit an io_uring command, on a ring of the thread, and wait for it; for read and write what io_uring
//!   has for these. `uring-defer`, `uring-sqpoll` and `uring-async` are the same on other rings. A signal that would end
//!   the wait of the ioctl has the command cancelled.
//! - `poll`: what would wait is tried without waiting, and tried again each time that poll(2) says that it is worth it.
//!
//! What a door has no form of goes by ioctl: to wait for a block of a pool, for a listener or for a word of a segment; by
//! poll also calls, to wait for a peer, and barriers. What a door cannot keep is in `skipped.rs`.

use std::cell::RefCell;
use std::ffi::CStr;
use std::mem::{ManuallyDrop, offset_of};
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::*,
};

use libc::{c_int, c_long, c_ulong, c_void, iovec, size_t, ssize_t};
use postbox::sys;

use crate::signal;
use crate::uring::{self, Ring, Sqe};

/// Through which door the requests of this program go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The system call.
    Ioctl,
    /// Commands on a ring of this kind.
    Uring(Kind),
    /// Without waiting, and poll.
    Poll,
}

/// What is special about the rings of a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Plain,
    /// `DEFER_TASKRUN`.
    Defer,
    /// A thread of the kernel submits.
    SqPoll,
    /// A worker of io_uring carries the commands out.
    Async,
}

const DOORS: [(&str, Door); 6] = [
    ("ioctl", Door::Ioctl),
    ("uring", Door::Uring(Kind::Plain)),
    ("uring-defer", Door::Uring(Kind::Defer)),
    ("uring-sqpoll", Door::Uring(Kind::SqPoll)),
    ("uring-async", Door::Uring(Kind::Async)),
    ("poll", Door::Poll),
];

/// One more than the place of the door in `DOORS`; 0: nobody has asked yet.
static CHOSEN: AtomicU8 = AtomicU8::new(0);
/// Operations that went through a door that is not the system call.
static PASSED: AtomicUsize = AtomicUsize::new(0);

/// The door of this program.
pub fn door() -> Door {
    let mut chosen = CHOSEN.load(Relaxed);
    if chosen == 0 {
        // SAFETY: no test changes the environment.
        let name = unsafe { libc::getenv(c"POSTBOX_DOOR".as_ptr()) };
        let name = if name.is_null() {
            c"ioctl"
        } else {
            // SAFETY: what getenv returns is a string, which stays.
            unsafe { CStr::from_ptr(name) }
        };
        let place = DOORS
            .iter()
            .position(|(known, _)| known.as_bytes() == name.to_bytes());
        let place = place.unwrap_or_else(|| broken("POSTBOX_DOOR is the name of no door"));
        chosen = place as u8 + 1;
        CHOSEN.store(chosen, Relaxed);
    }
    DOORS[usize::from(chosen) - 1].1
}

/// How many operations of this process went as commands, or by poll.
pub fn passed() -> usize {
    PASSED.load(Relaxed)
}

/// Whether arguments may be written to by others.
static WILD: AtomicBool = AtomicBool::new(false);

/// What this process does to its arguments is such that they need not say the same as the result of a command.
pub fn run_wild() {
    WILD.store(true, Relaxed);
}

/// For what a test cannot go on after. A panic cannot leave a function of the C library.
fn broken(what: &str) -> ! {
    let line = format!("door: {what}\n");
    // Not through this module again.
    // SAFETY: the pointer and the length describe `line`.
    unsafe { libc::syscall(libc::SYS_write, 2, line.as_ptr(), line.len()) };
    std::process::abort();
}

// Requests.

/// What the result of a command says, and where the argument says it, too.
#[derive(Clone, Copy)]
enum Told {
    Nothing,
    U32(usize),
    U64(usize),
}

/// A request that may wait.
#[derive(Clone, Copy)]
struct Request {
    number: u32,
    size: usize,
    flags: usize,
    time: usize,
    /// What poll says when it is worth another try; 0: it has no such form.
    events: i16,
    told: Told,
}

macro_rules! request {
    ($number:ident $args:ident, $($flags:ident).+, $($time:ident).+, $events:expr, $told:expr) => {
        Request {
            number: sys::$number,
            size: size_of::<sys::$args>(),
            flags: offset_of!(sys::$args, $($flags).+),
            time: offset_of!(sys::$args, $($time).+),
            events: $events,
            told: $told,
        }
    };
}

const IN: i16 = libc::POLLIN;
const OUT: i16 = libc::POLLOUT;

/// The requests that may wait.
const REQUESTS: [Request; 17] = [
    request!(POSTBOX_SEND postbox_send, flags, timeout_ns, OUT, Told::Nothing),
    request!(POSTBOX_RECV postbox_recv, flags, timeout_ns, IN, Told::U64(offset_of!(sys::postbox_recv, msg_len))),
    request!(POSTBOX_SEND_BATCH postbox_batch, flags, timeout_ns, OUT, Told::U32(offset_of!(sys::postbox_batch, count))),
    request!(POSTBOX_RECV_BATCH postbox_batch, flags, timeout_ns, IN, Told::U32(offset_of!(sys::postbox_batch, count))),
    request!(POSTBOX_RESERVE postbox_reserve, flags, timeout_ns, OUT, Told::Nothing),
    // Its caller sleeps until the reply comes: there is nothing to poll.
    request!(POSTBOX_CALL postbox_call, request.flags, request.timeout_ns, 0, Told::U64(offset_of!(sys::postbox_call, reply.msg_len))),
    request!(POSTBOX_REPLY_RECV postbox_reply_recv, recv.flags, recv.timeout_ns, IN, Told::U64(offset_of!(sys::postbox_reply_recv, recv.msg_len))),
    request!(POSTBOX_READ postbox_io, flags, timeout_ns, IN, Told::U64(offset_of!(sys::postbox_io, done))),
    request!(POSTBOX_WRITE postbox_io, flags, timeout_ns, OUT, Told::U64(offset_of!(sys::postbox_io, done))),
    request!(POSTBOX_ACCEPT postbox_accept, flags, timeout_ns, IN, Told::U32(offset_of!(sys::postbox_accept, fd))),
    // The handle is not bound yet: there is nothing to poll.
    request!(POSTBOX_CONNECT postbox_connect, flags, timeout_ns, 0, Told::Nothing),
    // poll does not say that a peer has come.
    request!(POSTBOX_WAIT_PEER postbox_wait_peer, flags, timeout_ns, 0, Told::Nothing),
    request!(POSTBOX_ACQUIRE postbox_sync, flags, timeout_ns, IN, Told::Nothing),
    request!(POSTBOX_WAIT postbox_sync, flags, timeout_ns, IN, Told::Nothing),
    request!(POSTBOX_RING_WAIT postbox_ring, flags, timeout_ns, IN, Told::Nothing),
    request!(POSTBOX_LOAN postbox_loan, flags, timeout_ns, OUT, Told::Nothing),
    // Nobody polls a word.
    request!(POSTBOX_WAIT_WORD postbox_word, flags, timeout_ns, 0, Told::Nothing),
];

/// Those that do not wait where they are commands.
const IMPATIENT: [u32; 3] = [
    sys::POSTBOX_CONNECT,
    sys::POSTBOX_LOAN,
    sys::POSTBOX_WAIT_WORD,
];

const WAIT: u32 =
    sys::POSTBOX_NONBLOCK | sys::POSTBOX_TIMEOUT | sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME;

/// The error of the last call.
fn errno() -> c_int {
    // SAFETY: it is this thread's.
    unsafe { *libc::__errno_location() }
}

/// What a function of the C library gives.
fn give<T: From<i8>>(result: Result<T, c_int>) -> T {
    result.unwrap_or_else(|error| {
        // SAFETY: it is this thread's.
        unsafe { *libc::__errno_location() = error };
        T::from(-1)
    })
}

fn taken(done: c_long) -> Result<c_long, c_int> {
    match done {
        -1 => Err(errno()),
        done => Ok(done),
    }
}

/// The system call.
fn by_ioctl(fd: c_int, request: u64, argument: u64) -> Result<c_int, c_int> {
    // SAFETY: what the caller of `ioctl` gave.
    taken(unsafe { libc::syscall(libc::SYS_ioctl, fd, request, argument) })
        .map(|done| done as c_int)
}

/// Makes a request of postbox through the door of this program.
fn request(fd: c_int, number: u64, argument: u64) -> Result<c_int, c_int> {
    let known = |request: &&Request| u64::from(request.number) == number;
    let request = REQUESTS.iter().find(known);
    match (door(), request) {
        (Door::Ioctl, _) => by_ioctl(fd, number, argument),
        // The type of postbox's requests. Whether it is a handle is asked with the first one.
        _ if number >> 8 & 0xff != 0xBE => by_ioctl(fd, number, argument),
        _ if number == u64::from(sys::POSTBOX_VERSION) && !ours(fd) => {
            by_ioctl(fd, number, argument)
        }
        (Door::Uring(kind), _) => {
            let done = by_command(kind, fd, number as u32, request, argument)?;
            described(fd, number, argument);
            Ok(done)
        }
        (Door::Poll, Some(request)) => by_poll(fd, request, argument),
        (Door::Poll, None) => {
            let done = by_ioctl(fd, number, argument)?;
            described(fd, number, argument);
            Ok(done)
        }
    }
}

/// Takes the place of the C library's.
///
/// # Safety
/// As there: the argument is what the request takes.
#[unsafe(no_mangle)]
unsafe extern "C" fn ioctl(fd: c_int, number: c_ulong, argument: *mut c_void) -> c_int {
    give(request(fd, number, argument as u64))
}

// Memory of the caller, which may be none.

/// Copies what is there; `false`: it cannot be read.
fn peek(address: u64, to: &mut [u8]) -> bool {
    let local = iovec {
        iov_base: to.as_mut_ptr().cast(),
        iov_len: to.len(),
    };
    let remote = iovec {
        iov_base: address as *mut c_void,
        iov_len: to.len(),
    };
    // SAFETY: `local` is writable; what is wrong with the other the kernel says.
    let done = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    done == to.len() as ssize_t
}

/// Writes there; `false`: it cannot be written.
fn poke(address: u64, from: &[u8]) -> bool {
    let local = iovec {
        iov_base: from.as_ptr().cast_mut().cast(),
        iov_len: from.len(),
    };
    let remote = iovec {
        iov_base: address as *mut c_void,
        iov_len: from.len(),
    };
    // SAFETY: `local` is readable. The caller of `ioctl` lets the kernel write to its argument.
    let done = unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) };
    done == from.len() as ssize_t
}

fn peek_u32(address: u64) -> Option<u32> {
    let mut bytes = [0; 4];
    peek(address, &mut bytes).then(|| u32::from_ne_bytes(bytes))
}

fn peek_u64(address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    peek(address, &mut bytes).then(|| u64::from_ne_bytes(bytes))
}

fn poke_u32(address: u64, value: u32) -> bool {
    poke(address, &value.to_ne_bytes())
}

fn poke_u64(address: u64, value: u64) -> bool {
    poke(address, &value.to_ne_bytes())
}

/// Whether waiting is not for this descriptor.
fn nonblocking(fd: c_int) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    flags == -1 || flags & libc::O_NONBLOCK != 0
}

/// Whether it is a handle.
fn ours(fd: c_int) -> bool {
    let mut version = sys::postbox_version {
        size: size_of::<sys::postbox_version>() as u32,
        ..Default::default()
    };
    let number = sys::POSTBOX_VERSION.into();
    by_ioctl(fd, number, (&raw mut version) as u64).is_ok()
}

// Who waits. A test waits until the kernel counts somebody who does; of one that polls the kernel knows nothing, so that
// it is counted here.

/// One that polls: its process, and for what.
#[derive(Default)]
struct Waiting {
    /// 0: nobody.
    pid: AtomicU32,
    /// The object's number, and whether to send.
    what: AtomicU64,
}

const WAITING: usize = 512;
static TABLE: AtomicPtr<Waiting> = AtomicPtr::new(std::ptr::null_mut());

/// The table that this process shares with its children, which must not be the first to ask for it.
fn table() -> &'static [Waiting] {
    let mut at = TABLE.load(Acquire);
    if at.is_null() {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        let len = WAITING * size_of::<Waiting>();
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let new = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if new == libc::MAP_FAILED {
            broken("no memory for who waits");
        }
        at = match TABLE.compare_exchange(at, new.cast(), AcqRel, Acquire) {
            Ok(_) => new.cast(),
            Err(other) => other,
        };
    }
    // SAFETY: the mapping has so many entries, zeroed, which are atomics, and stays.
    unsafe { std::slice::from_raw_parts(at, WAITING) }
}

/// For before a test forks.
pub(crate) fn prepare() {
    if door() != Door::Ioctl {
        table();
    }
    if matches!(door(), Door::Uring(_)) {
        let (flags, mode) = (libc::O_RDONLY | libc::O_CREAT | libc::O_CLOEXEC, 0o644);
        // SAFETY: the path is a string; the descriptor is closed by who made it.
        unsafe { libc::close(libc::open(LOCKS.as_ptr(), flags, mode)) };
    }
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

impl Waiting {
    /// This process waits for that.
    fn begin(fd: c_int, sends: bool) -> &'static Waiting {
        // Where it is not bound, its number is 0.
        let id = about(fd).id;
        // SAFETY: no pointers.
        let me = unsafe { libc::getpid() } as u32;
        let claim = |entry: &&Waiting| {
            let pid = entry.pid.load(Acquire);
            (pid == 0 || !alive(pid))
                && entry.pid.compare_exchange(pid, me, AcqRel, Acquire).is_ok()
        };
        let entry = table().iter().find(claim);
        let entry = entry.unwrap_or_else(|| broken("more wait than can be counted"));
        entry.what.store(id << 1 | u64::from(sends), Release);
        entry
    }

    fn end(&self) {
        self.what.store(0, Release);
        self.pid.store(0, Release);
    }

    /// How many processes poll for that.
    fn count(id: u64, sends: bool) -> u32 {
        let what = id << 1 | u64::from(sends);
        let waits =
            |entry: &&Waiting| entry.what.load(Acquire) == what && alive(entry.pid.load(Acquire));
        table().iter().filter(waits).count() as u32
    }
}

/// Ends what was begun.
#[derive(Default)]
struct Counted(Option<&'static Waiting>);

impl Counted {
    fn begin(&mut self, fd: c_int, sends: bool) {
        self.0.get_or_insert_with(|| Waiting::begin(fd, sends));
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(waiting) = self.0 {
            waiting.end();
        }
    }
}

/// Where the kernel has said of an object who waits, adds who polls. Of a link the table does not know the ends.
fn described(fd: c_int, number: u64, argument: u64) {
    if number != u64::from(sys::POSTBOX_INFO) || !ours(fd) {
        return;
    }
    let id = peek_u64(argument + offset_of!(sys::postbox_info, id) as u64).unwrap_or(0);
    for (offset, sends) in [
        (offset_of!(sys::postbox_info, waiting_senders), true),
        (offset_of!(sys::postbox_info, waiting_receivers), false),
    ] {
        let at = argument + offset as u64;
        let more = Waiting::count(id, sends);
        if let (1.., Some(known)) = (more, peek_u32(at)) {
            poke_u32(at, known + more);
        }
    }
}

// By poll.

/// How long a call waits.
#[derive(Clone, Copy)]
enum Limit {
    Forever,
    /// Until that time in nanoseconds, on that clock.
    Until(libc::clockid_t, u64),
    /// The same, which was given as a duration.
    Within(u64),
}

fn now(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable, and these clocks exist.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

impl Limit {
    /// `None`: it does not wait, or what it says of that is wrong.
    fn new(flags: u32, time: u64) -> Option<Limit> {
        const REALTIME: u32 = sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME;
        match flags & WAIT {
            0 if time == 0 => Some(Limit::Forever),
            sys::POSTBOX_TIMEOUT => Some(Limit::Within(
                now(libc::CLOCK_MONOTONIC).saturating_add(time),
            )),
            sys::POSTBOX_DEADLINE => Some(Limit::Until(libc::CLOCK_MONOTONIC, time)),
            REALTIME => Some(Limit::Until(libc::CLOCK_REALTIME, time)),
            _ => None,
        }
    }

    /// What is left of it, in nanoseconds; a year is as good as no limit.
    fn left(self) -> u64 {
        const YEAR: u64 = 365 * 86_400 * 1_000_000_000;
        let (clock, until) = match self {
            Limit::Forever => return YEAR,
            Limit::Until(clock, until) => (clock, until),
            Limit::Within(until) => (libc::CLOCK_MONOTONIC, until),
        };
        until.saturating_sub(now(clock)).min(YEAR)
    }

    /// Whether a call that was interrupted by a handler with `SA_RESTART` goes on.
    fn restarts(self) -> bool {
        !matches!(self, Limit::Within(_))
    }
}

/// Waits until poll says that it is worth another try: `ETIMEDOUT`, `EINTR`. `whole`: nothing is done so far. `tried`: so
/// many tries were in vain.
fn await_events(
    fd: c_int,
    events: i16,
    limit: Limit,
    whole: bool,
    tried: u32,
) -> Result<(), c_int> {
    let left = limit.left();
    if left == 0 {
        return Err(libc::ETIMEDOUT);
    }
    let mut entry = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    let time = |ns: u64| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as i64,
        tv_nsec: (ns % 1_000_000_000) as i64,
    };
    let before = signal::handled();
    // SAFETY: one entry, which is writable; no signal mask.
    let ready = unsafe { libc::ppoll(&mut entry, 1, &time(left), std::ptr::null()) };
    if ready < 0 && errno() != libc::EINTR {
        return Err(errno());
    }
    if signal::interrupts(before, whole && limit.restarts()) {
        return Err(libc::EINTR);
    }
    if ready > 0 && tried > 1 {
        // It says that somebody can go on, and not that this one can.
        let pause = time(left.min(1_000_000));
        // SAFETY: the pointer is valid, and the rest of the time is not asked for.
        unsafe { libc::nanosleep(&pause, std::ptr::null_mut()) };
    }
    Ok(())
}

/// What a request that went on after a part has done so far.
struct Part {
    /// Where its bytes or entries begin, how many there are, and where it says how many were done.
    begin: u64,
    count: u64,
    done: u64,
    wide: bool,
    /// The distance between two.
    step: u64,
    /// What it began with.
    whole: (u64, u64),
    total: u64,
}

impl Part {
    /// `None`: it is done all or not at all.
    fn of(request: u32, argument: u64) -> Option<Part> {
        let io = |offset: usize| argument + offset as u64;
        let (begin, count, done, wide, step) = match request {
            sys::POSTBOX_WRITE => (
                io(offset_of!(sys::postbox_io, data)),
                io(offset_of!(sys::postbox_io, len)),
                io(offset_of!(sys::postbox_io, done)),
                true,
                1,
            ),
            sys::POSTBOX_SEND_BATCH => (
                io(offset_of!(sys::postbox_batch, entries)),
                io(offset_of!(sys::postbox_batch, count)),
                io(offset_of!(sys::postbox_batch, count)),
                false,
                peek_u32(io(offset_of!(sys::postbox_batch, entry_size)))?.into(),
            ),
            _ => return None,
        };
        let mut part = Part {
            begin,
            count,
            done,
            wide,
            step,
            whole: (0, 0),
            total: 0,
        };
        part.whole = (peek_u64(begin)?, part.peek(count)?);
        Some(part)
    }

    fn peek(&self, at: u64) -> Option<u64> {
        if self.wide {
            peek_u64(at)
        } else {
            peek_u32(at).map(u64::from)
        }
    }

    fn poke(&self, at: u64, value: u64) {
        if self.wide {
            poke_u64(at, value);
        } else {
            poke_u32(at, value as u32);
        }
    }

    /// A try was good; whether all is done. What is left is what the next try is for.
    fn advance(&mut self) -> bool {
        self.total += self.peek(self.done).unwrap_or(0);
        if self.total >= self.whole.1 {
            return true;
        }
        poke_u64(self.begin, self.whole.0 + self.total * self.step);
        self.poke(self.count, self.whole.1 - self.total);
        false
    }

    /// The request is over; whether some of it was done.
    fn finish(&self) -> bool {
        poke_u64(self.begin, self.whole.0);
        self.poke(self.count, self.whole.1);
        if self.total != 0 {
            self.poke(self.done, self.total);
        }
        self.total != 0
    }
}

/// What the kernel says of an object, or zeros.
fn about(fd: c_int) -> sys::postbox_info {
    let mut info = sys::postbox_info {
        size: size_of::<sys::postbox_info>() as u32,
        ..Default::default()
    };
    let _ = by_ioctl(fd, sys::POSTBOX_INFO.into(), (&raw mut info) as u64);
    info
}

/// Whether two sides that only poll may never meet there: then it is the sender that waits in a call. What the other end
/// of a link receives is not said.
fn rendezvous(fd: c_int) -> bool {
    let info = about(fd);
    match info.kind {
        sys::POSTBOX_KIND_MAILBOX | sys::POSTBOX_KIND_ENDPOINT => info.capacity == 0,
        kind => kind == sys::POSTBOX_KIND_LINK,
    }
}

/// A ring's side says what it waits for. A barrier whose arrivals are polled is another thing: they are not taken back.
fn events_of(fd: c_int, request: u32, flags: u32, events: i16) -> i16 {
    match request {
        sys::POSTBOX_RING_WAIT if flags & sys::POSTBOX_RING_PRODUCER != 0 => OUT,
        sys::POSTBOX_WAIT if about(fd).kind == sys::POSTBOX_KIND_BARRIER => 0,
        _ => events,
    }
}

fn by_poll(fd: c_int, request: &Request, argument: u64) -> Result<c_int, c_int> {
    let number = u64::from(request.number);
    let plain = || by_ioctl(fd, number, argument);
    let (flags_at, time_at) = (
        argument.wrapping_add(request.flags as u64),
        argument.wrapping_add(request.time as u64),
    );
    // What is not a whole argument, or wrong, the kernel refuses.
    if peek_u32(argument) != Some(request.size as u32) {
        return plain();
    }
    let (Some(flags), Some(time)) = (peek_u32(flags_at), peek_u64(time_at)) else {
        return plain();
    };
    let Some(limit) = Limit::new(flags, time) else {
        return plain();
    };
    let events = events_of(fd, request.number, flags, request.events);
    let takes_back =
        request.number == sys::POSTBOX_RESERVE && flags & sys::POSTBOX_RESERVE_CANCEL != 0;
    if events == 0 || takes_back || nonblocking(fd) {
        return plain();
    }
    let mut part = Part::of(request.number, argument);
    if !poke_u32(flags_at, flags & !WAIT | sys::POSTBOX_NONBLOCK) || !poke_u64(time_at, 0) {
        return plain();
    }
    PASSED.fetch_add(1, Relaxed);
    let mut counted = Counted::default();
    let mut tried = 0;
    let mut met = true;
    let result = loop {
        match plain() {
            Ok(_) if part.as_mut().is_some_and(|part| !part.advance()) => tried = 0,
            Err(libc::EAGAIN) => {
                tried += 1;
                if tried == 1 && events == OUT && rendezvous(fd) {
                    met = false;
                    break Err(libc::EAGAIN);
                }
                counted.begin(fd, events == OUT);
                // After a part, a signal is the end.
                let whole = part.as_ref().is_none_or(|part| part.total == 0);
                if let Err(error) = await_events(fd, events, limit, whole, tried) {
                    break Err(error);
                }
            }
            other => break other,
        }
    };
    poke_u32(flags_at, flags);
    poke_u64(time_at, time);
    match part.map(|part| part.finish()) {
        Some(true) => Ok(0),
        _ if !met => plain(),
        _ => result,
    }
}

// By commands.

struct Thread {
    pid: libc::pid_t,
    ring: Ring,
    tag: u64,
}

thread_local! {
    /// The ring of this thread. A forked child has a copy of who had it, and not the ring.
    static RING: RefCell<Option<ManuallyDrop<Thread>>> = const { RefCell::new(None) };
    /// Ends the ring with its thread.
    static END: End = const { End };
}

struct End;

impl Drop for End {
    fn drop(&mut self) {
        RING.with_borrow_mut(|slot| {
            if let Some(thread) = slot.take() {
                // SAFETY: no pointers.
                if thread.pid == unsafe { libc::getpid() } {
                    drop(ManuallyDrop::into_inner(thread));
                }
            }
        });
    }
}

// The kernel ends a ring, and what is parked in it, some time after its process. Each ring has a file of its own, with a
// lock that goes with it.

const LOCKS: &CStr = c"/tmp/postbox-doors";

/// A file of its own; -1: there is none, for want of descriptors.
fn lock_file() -> c_int {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: the path is a string.
    unsafe { libc::open(LOCKS.as_ptr(), flags) }
}

/// A lock of a process.
fn lock(kind: c_int, pid: libc::pid_t) -> libc::flock {
    // SAFETY: all-zero is a valid flock.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as _;
    lock.l_start = pid.into();
    lock.l_len = 1;
    lock
}

/// Locks what says that a process has a ring, for as long as that is there.
fn attach_lock(ring: &Ring, pid: libc::pid_t) {
    let fd = lock_file();
    if fd == -1 {
        return;
    }
    // SAFETY: a valid lock, and a descriptor that nobody else knows.
    let locked = unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &lock(libc::F_RDLCK, pid)) };
    if locked == -1 || ring.register_files(&[fd]).is_err() {
        broken("the lock of a ring");
    }
    // SAFETY: as above; the ring has the file now.
    unsafe { libc::close(fd) };
}

/// Waits until the rings of a process that is gone are gone, too.
pub(crate) fn ended(pid: libc::pid_t) {
    if !matches!(door(), Door::Uring(_)) {
        return;
    }
    let fd = lock_file();
    let held = || {
        let mut lock = lock(libc::F_WRLCK, pid);
        // SAFETY: a valid lock, which is written to.
        let asked = unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &mut lock) };
        asked == 0 && lock.l_type != libc::F_UNLCK as _
    };
    if fd != -1 && held() {
        crate::wait_until("the rings of a process to go", || !held());
        // Their other files go at about the same time.
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // SAFETY: a descriptor that nobody else knows, or none.
    unsafe { libc::close(fd) };
}

/// Room for a request and its cancellation, and for what went wrong with one before.
const ENTRIES: u32 = 8;

fn with_ring<T>(kind: Kind, f: impl FnOnce(&mut Thread) -> T) -> T {
    END.with(|_| {});
    RING.with_borrow_mut(|slot| {
        // SAFETY: no pointers.
        let pid = unsafe { libc::getpid() };
        // What a child has of its parent's ring is nothing that could be given back.
        if slot.as_ref().is_none_or(|thread| thread.pid != pid) {
            let flags = match kind {
                Kind::Plain | Kind::Async => 0,
                Kind::Defer => uring::SINGLE_ISSUER | uring::DEFER_TASKRUN,
                Kind::SqPoll => uring::SQPOLL,
            };
            let ring = Ring::new(ENTRIES, flags)
                .unwrap_or_else(|error| broken(&format!("io_uring_setup: {error}")));
            attach_lock(&ring, pid);
            *slot = Some(ManuallyDrop::new(Thread { pid, ring, tag: 0 }));
        }
        f(slot.as_mut().expect("it was just made"))
    })
}

impl Thread {
    /// Submits an entry and waits for its completion. When a signal's handler has run, it is cancelled, by the entry that
    /// `cancel` makes of its tag; and, if that is what ended it, submitted again where the call would be restarted.
    fn run(&mut self, sqe: Sqe, restarts: bool, cancel: impl Fn(u64) -> Sqe) -> Result<u32, c_int> {
        loop {
            let before = signal::handled();
            let (result, cancelled) = self.run_once(&sqe, before, &cancel);
            match result {
                0.. => return Ok(result as u32),
                _ if cancelled && [-libc::ECANCELED, -libc::EINTR].contains(&result) => {
                    if signal::interrupts(before, restarts) {
                        return Err(libc::EINTR);
                    }
                }
                _ => return Err(-result),
            }
        }
    }

    fn run_once(
        &mut self,
        sqe: &Sqe,
        before: (u32, u32),
        cancel: impl Fn(u64) -> Sqe,
    ) -> (i32, bool) {
        self.tag += 2;
        let tag = self.tag;
        self.ring.push(&sqe.tag(tag));
        let mut cancelled = None;
        let mut result = None;
        loop {
            while let Some(cqe) = self.ring.pop() {
                match (cqe.user_data, &mut cancelled) {
                    (user_data, _) if user_data == tag && result.is_none() && !cqe.more() => {
                        result = Some(cqe.res)
                    }
                    (user_data, Some(done @ None)) if user_data == tag + 1 => *done = Some(cqe.res),
                    _ => broken(&format!("a completion too many, or of nothing: {cqe:?}")),
                }
            }
            match (result, cancelled) {
                (Some(result), None) => return (result, false),
                (Some(result), Some(Some(_))) => return (result, true),
                _ => {}
            }
            if cancelled.is_none() && signal::interrupts(before, false) {
                self.ring.push(&cancel(tag).tag(tag + 1));
                cancelled = Some(None);
            }
            match self.ring.enter(1).map_err(|error| error.raw_os_error()) {
                // The second: there is no memory for the request just now.
                Ok(_) | Err(Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)) => {}
                // A copy of the kernel's own that was made to fail.
                Err(Some(libc::EFAULT)) => {}
                Err(error) => broken(&format!("io_uring_enter: {error:?}")),
            }
        }
    }
}

fn async_flag(kind: Kind) -> u8 {
    if kind == Kind::Async { uring::ASYNC } else { 0 }
}

fn by_command(
    kind: Kind,
    fd: c_int,
    number: u32,
    request: Option<&Request>,
    argument: u64,
) -> Result<c_int, c_int> {
    PASSED.fetch_add(1, Relaxed);
    let flags = request.map(|request| argument.wrapping_add(request.flags as u64));
    let flags = flags.and_then(peek_u32).unwrap_or(0);
    // A call never does, and what was given as a duration would be longer.
    let restarts = number != sys::POSTBOX_CALL && flags & sys::POSTBOX_TIMEOUT == 0;
    let sqe = Sqe {
        flags: async_flag(kind),
        ..Sqe::command(fd, number, argument)
    };
    let result = with_ring(kind, |thread| {
        thread.run(sqe, restarts, |tag| Sqe::cancel(fd, tag))
    });
    let waits = IMPATIENT.contains(&number) && flags & sys::POSTBOX_NONBLOCK == 0;
    let result = match result {
        Err(libc::EAGAIN) if waits => return by_ioctl(fd, number.into(), argument),
        result => result?,
    };
    // What the argument says must be what the result does.
    let said = match request.map_or(Told::Nothing, |request| request.told) {
        Told::Nothing => Some(0),
        Told::U32(offset) => peek_u32(argument + offset as u64).map(u64::from),
        Told::U64(offset) => peek_u64(argument + offset as u64),
    };
    if !WILD.load(Relaxed) && said.is_some_and(|said| said != u64::from(result)) {
        broken(&format!(
            "request {number:#x}: the result is {result}, and the argument says {said:?}"
        ));
    }
    Ok(0)
}

// read() and write().

/// A call of read() or write(), with its parts.
struct Transfer {
    fd: c_int,
    writes: bool,
    parts: Vec<iovec>,
}

impl Transfer {
    /// On a ring, or by a system call. `whole`: nothing is done so far.
    fn attempt(&self, waits: bool, whole: bool, kind: Option<Kind>) -> Result<usize, c_int> {
        let flags = if waits { 0 } else { libc::RWF_NOWAIT };
        let Some(kind) = kind else {
            let number = if self.writes {
                libc::SYS_pwritev2
            } else {
                libc::SYS_preadv2
            };
            // The offset -1, in two halves: there is none.
            // SAFETY: the parts are what the caller of `read` or `write` gave.
            let done = unsafe {
                libc::syscall(
                    number,
                    self.fd,
                    self.parts.as_ptr(),
                    self.parts.len(),
                    -1i64,
                    -1i64,
                    flags,
                )
            };
            return taken(done).map(|done| done as usize);
        };
        let (opcode, addr, len) = match (&self.parts[..], self.writes) {
            ([part], true) => (uring::OP_WRITE, part.iov_base as u64, part.iov_len),
            ([part], false) => (uring::OP_READ, part.iov_base as u64, part.iov_len),
            (parts, true) => (uring::OP_WRITEV, parts.as_ptr() as u64, parts.len()),
            (parts, false) => (uring::OP_READV, parts.as_ptr() as u64, parts.len()),
        };
        let sqe = Sqe {
            opcode,
            flags: async_flag(kind),
            fd: self.fd,
            off: u64::MAX,
            addr,
            len: len.min(i32::MAX as usize) as u32,
            op_flags: flags as u32,
            ..Sqe::default()
        };
        let result = with_ring(kind, |thread| {
            thread.run(sqe, whole, |tag| Sqe {
                opcode: uring::OP_ASYNC_CANCEL,
                addr: tag,
                ..Sqe::default()
            })
        });
        result.map(|done| done as usize)
    }

    fn left(&self) -> usize {
        self.parts.iter().map(|part| part.iov_len).sum()
    }

    /// So many bytes are done.
    fn advance(&mut self, mut done: usize) {
        while let Some(part) = self.parts.first_mut() {
            if part.iov_len > done {
                part.iov_base = part.iov_base.wrapping_byte_add(done);
                part.iov_len -= done;
                return;
            }
            done -= part.iov_len;
            self.parts.remove(0);
        }
    }

    /// As the system call does it: a write goes on until everything is written.
    fn run(mut self, kind: Option<Kind>) -> Result<ssize_t, c_int> {
        PASSED.fetch_add(1, Relaxed);
        let events = if self.writes { OUT } else { IN };
        let waits = !nonblocking(self.fd);
        let mut counted = Counted::default();
        let (mut total, mut tried) = (0, 0);
        let result = loop {
            let mut result = self.attempt(false, true, kind);
            if let (Err(libc::EAGAIN), true) = (&result, waits) {
                counted.begin(self.fd, self.writes);
                tried += 1;
                result = match kind {
                    Some(_) => self.attempt(true, total == 0, kind),
                    None => {
                        match await_events(self.fd, events, Limit::Forever, total == 0, tried) {
                            Ok(()) => continue,
                            Err(error) => Err(error),
                        }
                    }
                };
            }
            match result {
                Ok(done) if self.writes && waits && (1..self.left()).contains(&done) => {
                    total += done;
                    tried = 0;
                    self.advance(done);
                }
                other => break other,
            }
        };
        match result {
            Ok(done) => Ok((total + done) as ssize_t),
            Err(_) if total != 0 => Ok(total as ssize_t),
            Err(error) => Err(error),
        }
    }
}

/// Through the door, where it is a handle and the parts can be read; else `plain` makes the system call.
fn transfer(
    fd: c_int,
    writes: bool,
    parts: impl FnOnce() -> Option<Vec<iovec>>,
    plain: impl FnOnce() -> c_long,
) -> ssize_t {
    let kind = match door() {
        Door::Ioctl => None,
        Door::Uring(kind) => Some(Some(kind)),
        Door::Poll => Some(None),
    };
    if let Some(kind) = kind
        && ours(fd)
        && let Some(parts) = parts()
        // Of no bytes the kernel passes only read and write on.
        && (kind.is_some() || parts.iter().any(|part| part.iov_len != 0))
    {
        return give(Transfer { fd, writes, parts }.run(kind));
    }
    plain() as ssize_t
}

/// The parts of an array that may be anywhere.
fn parts(array: *const iovec, count: c_int) -> Option<Vec<iovec>> {
    let count = usize::try_from(count).ok().filter(|count| *count <= 1024)?;
    (0..count)
        .map(|i| {
            let at = array as u64 + (i * size_of::<iovec>()) as u64;
            Some(iovec {
                iov_base: peek_u64(at)? as *mut c_void,
                iov_len: peek_u64(at + 8)? as usize,
            })
        })
        .collect()
}

fn part(base: *const c_void, len: size_t) -> Option<Vec<iovec>> {
    Some(vec![iovec {
        iov_base: base.cast_mut(),
        iov_len: len,
    }])
}

/// Takes the place of the C library's.
///
/// # Safety
/// As there: so many bytes can be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn read(fd: c_int, base: *mut c_void, len: size_t) -> ssize_t {
    transfer(
        fd,
        false,
        || part(base, len),
        // SAFETY: what the caller gave.
        || unsafe { libc::syscall(libc::SYS_read, fd, base, len) },
    )
}

/// Takes the place of the C library's.
///
/// # Safety
/// As there: so many bytes can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, base: *const c_void, len: size_t) -> ssize_t {
    transfer(
        fd,
        true,
        || part(base, len),
        // SAFETY: what the caller gave.
        || unsafe { libc::syscall(libc::SYS_write, fd, base, len) },
    )
}

/// Takes the place of the C library's.
///
/// # Safety
/// As there: the parts can be written to.
#[unsafe(no_mangle)]
unsafe extern "C" fn readv(fd: c_int, array: *const iovec, count: c_int) -> ssize_t {
    transfer(
        fd,
        false,
        || parts(array, count),
        // SAFETY: what the caller gave.
        || unsafe { libc::syscall(libc::SYS_readv, fd, array, count) },
    )
}

/// Takes the place of the C library's.
///
/// # Safety
/// As there: the parts can be read.
#[unsafe(no_mangle)]
unsafe extern "C" fn writev(fd: c_int, array: *const iovec, count: c_int) -> ssize_t {
    transfer(
        fd,
        true,
        || parts(array, count),
        // SAFETY: what the caller gave.
        || unsafe { libc::syscall(libc::SYS_writev, fd, array, count) },
    )
}
