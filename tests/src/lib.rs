//! Helpers for the test programs that run in the VM: forked children with a watchdog, shared memory, seeded random
//! numbers, and waiting for a state that the kernel reports.
//!
//! The VM is emulated and slow. Nothing here or in the tests may assume that something happens soon; a watchdog only tells a
//! hang from slowness (see `watchdog.rs`).

mod arena;
mod attacker;
mod child;
mod door;
mod fds;
mod handle;
mod memory;
mod pool;
mod processor;
mod rng;
mod scope;
mod shared;
mod signal;
mod skipped;
mod slow;
mod sync;
pub mod uring;
mod watchdog;

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use arena::{Arena, bytes};
pub use attacker::{Attacker, as_each_attacker};
pub use child::{ALICE, BOB, Child, Exit, Spawn, User, isolated, spawn, spawn_as};
pub use door::{Door, Kind, door, passed, run_wild};
pub use fds::{receive_fd, send_fd};
pub use handle::{
    ADMIN, Errno, FOREVER, Got, Handle, Make, NEVER, RECEIVE, Result, SEND, UNBOUNDED, Wait,
    bind_as_is, list, name_of, recv_args, send_args, unlink, until, until_realtime, within,
};
pub use memory::{HugePages, MakeSegment, Mapped, R, RW, SEALS, memory, seal};
pub use pool::{Entry, Leased, MakePool, Ride, SHARED, entries_from, entries_of, open_pool};
pub use processor::{give_way, stay_on};
pub use rng::{Rng, seed};
pub use scope::{Scope, scope};
pub use shared::{Gate, Ledger};
pub use signal::handle_signal;
pub use skipped::{SKIPPED, Skip};
pub use slow::{Fault, PAGE, SlowPage};
pub use sync::{MakeSync, ReadOnly, UNDO};
pub use watchdog::{LONG, WATCHDOG, Watch, Watchdog, sleep_forever, watch};

/// The device.
pub const DEVICE: &str = "/dev/postbox";

/// How many of `count` repetitions of something this run makes: all of them; in the debug kernel a tenth; a quarter where each
/// process has a ring of io_uring, the end of which takes a tenth of a second; or as many percent as
/// `POSTBOX_STRESS_PERCENT` says.
pub fn scaled(count: usize) -> usize {
    let percent = match std::env::var("POSTBOX_STRESS_PERCENT") {
        Ok(text) => text.parse().expect("POSTBOX_STRESS_PERCENT is a number"),
        Err(_) if std::path::Path::new("/proc/lockdep_stats").exists() => 10,
        Err(_) if matches!(door::door(), door::Door::Uring(_)) => 25,
        Err(_) => 100,
    };
    (count * percent / 100).max(1)
}

/// The result of a system call that must not fail.
#[track_caller]
pub fn check(what: &str, result: i32) -> i32 {
    assert!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
    result
}

/// Writes a line to standard error. What is printed in a forked child would go to a copy of the test runner's buffer, and
/// be lost.
pub fn tell(line: &str) {
    let line = format!("{line}\n");
    // SAFETY: the pointer and the length describe `line`.
    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
}

/// Waits until the condition holds; panics if the watchdog sees no progress.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let mut watchdog = None;
    while !condition() {
        let watchdog = watchdog.get_or_insert_with(Watchdog::new);
        watchdog.check(|| format!("waited for {what}"));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The events of `events` (and POLLERR, POLLHUP) that poll reports within that time.
pub fn poll(fd: impl AsFd, events: i16, timeout: Duration) -> i16 {
    let mut entry = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events,
        revents: 0,
    };
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now()).as_millis() as i32;
        // SAFETY: one entry, which is writable.
        match unsafe { libc::poll(&mut entry, 1, left) } {
            -1 => {
                let error = std::io::Error::last_os_error();
                assert_eq!(error.raw_os_error(), Some(libc::EINTR), "poll: {error}");
            }
            0 if Instant::now() < end => {}
            _ => return entry.revents,
        }
    }
}

/// Whether the descriptor becomes readable within that time.
pub fn readable(fd: impl AsFd, timeout: Duration) -> bool {
    poll(fd, libc::POLLIN, timeout) & libc::POLLIN != 0
}

/// Waits until the descriptor is readable; panics if the watchdog sees no progress.
#[track_caller]
pub fn wait_readable(what: &str, fd: impl AsFd) {
    let mut watchdog = None;
    while !readable(&fd, Duration::from_millis(20)) {
        let watchdog = watchdog.get_or_insert_with(Watchdog::new);
        watchdog.check(|| format!("waited for {what}"));
    }
}

/// The inode number behind a descriptor.
pub fn inode(fd: RawFd) -> u64 {
    // SAFETY: all-zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable.
    check("fstat", unsafe { libc::fstat(fd, &mut stat) });
    stat.st_ino
}

/// The group that may open the device.
pub fn device_gid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(DEVICE)
        .unwrap_or_else(|e| panic!("{DEVICE}: {e}; the module must be loaded"))
        .gid()
}

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A name that no other test uses.
pub fn unique(what: &str) -> String {
    format!(
        "test/{what}.{}.{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// An unprivileged user that no other test uses, for what is counted per user.
pub fn fresh_user() -> User {
    let id =
        100_000 + std::process::id() % 10_000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
    User { uid: id, gid: id }
}
