//! Child processes: forked with a closure, as another user or in other namespaces, waited for with a watchdog.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use libc::{c_int, pid_t};

use crate::{Ledger, WATCHDOG, Watchdog, check, device_gid, door, scope, skipped, watchdog};

/// A user and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// User and effective user.
    pub uid: u32,
    /// Group and effective group.
    pub gid: u32,
}

/// An ordinary user.
pub const ALICE: User = User {
    uid: 1000,
    gid: 1000,
};
/// Another one.
pub const BOB: User = User {
    uid: 1001,
    gid: 1001,
};

/// How a process ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status. A panic in the closure gives 101.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What is special about a child.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spawn {
    user: Option<User>,
    group: Option<u32>,
    flags: c_int,
}

/// Forks a child that runs the closure and ends.
pub fn spawn(f: impl FnOnce()) -> Child {
    Spawn::new().run(f)
}

/// Forks a child that runs the closure as that user.
pub fn spawn_as(user: User, f: impl FnOnce()) -> Child {
    Spawn::new().user(user).run(f)
}

/// Runs a test in a process of its own, which holds no descriptor but the standard ones.
///
/// A test that forks needs this: its children would otherwise inherit the handles of the tests that run beside it in
/// other threads, and with them keep those tests' objects alive.
///
/// Where the test is not for the door of this run, it is not run.
pub fn isolated(f: impl FnOnce()) {
    if skipped::here() {
        return;
    }
    door::prepare();
    let child = spawn(|| {
        // SAFETY: whatever the parent's threads have open, nothing in this process uses the copies.
        check(
            "close_range",
            unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } as c_int,
        );
        f();
    });
    // Waits inside have their own watchdogs, which say more.
    let exit = child.wait_at_most(4 * WATCHDOG);
    assert_eq!(
        exit,
        Exit::Code(0),
        "the test's process failed; standard error says why"
    );
}

impl Spawn {
    /// A child like its parent.
    pub fn new() -> Self {
        Spawn::default()
    }

    /// As this user, without privileges. The one supplementary group is that of the device, so that it can be opened.
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// With a further supplementary group (and `user`).
    pub fn group(mut self, gid: u32) -> Self {
        self.group = Some(gid);
        self
    }

    /// In a new IPC namespace.
    pub fn ipc_ns(mut self) -> Self {
        self.flags |= libc::CLONE_NEWIPC;
        self
    }

    /// In a new user namespace, in which the child's user is 0. With `user` that is the user's own namespace.
    pub fn user_ns(mut self) -> Self {
        self.flags |= libc::CLONE_NEWUSER;
        self
    }

    /// In a new pid namespace, as its process 1.
    pub fn pid_ns(mut self) -> Self {
        self.flags |= libc::CLONE_NEWPID;
        self
    }

    /// Forks, and runs the closure in the child.
    pub fn run(self, f: impl FnOnce()) -> Child {
        report_panics();
        watchdog::root();
        let panics = Ledger::new(1);
        // SAFETY: the child runs on a copy of this thread's stack. Of what other threads may have held locked it needs
        // only the allocator, whose locks glibc makes usable across fork; it never returns into the caller.
        let pid = check("fork", unsafe { libc::fork() });
        if pid == 0 {
            PANICS.store((&raw const panics[0]).cast_mut(), Ordering::Relaxed);
            exit(catch_unwind(AssertUnwindSafe(|| self.enter(f))));
        }
        Child {
            pid,
            panics,
            pidfd: pidfd_open(pid as u32),
            reaped: false,
        }
    }

    fn enter(self, f: impl FnOnce()) -> i32 {
        IN_CHILD.store(true, Ordering::Relaxed);
        if self.flags & libc::CLONE_NEWUSER != 0 {
            // The maps name the ids from before.
            self.become_user();
            // SAFETY: no pointers.
            let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
            self.unshare();
            for (file, text) in [
                ("setgroups", "deny".to_string()),
                ("uid_map", format!("0 {uid} 1")),
                ("gid_map", format!("0 {gid} 1")),
            ] {
                let path = format!("/proc/self/{file}");
                std::fs::write(&path, text).unwrap_or_else(|e| panic!("{path}: {e}"));
            }
        } else {
            self.unshare();
            self.become_user();
        }
        die_with_parent();
        if self.flags & libc::CLONE_NEWPID == 0 {
            f();
            return 0;
        }
        // The namespace is that of children: the closure runs in one, and this process stands for it.
        // SAFETY: this process has one thread.
        let inner = check("fork", unsafe { libc::fork() });
        if inner == 0 {
            exit(catch_unwind(AssertUnwindSafe(|| {
                die_with_parent();
                f();
                0
            })));
        }
        match wait_for(inner) {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }

    fn unshare(self) {
        if self.flags != 0 {
            // SAFETY: no pointers.
            check("unshare", unsafe { libc::unshare(self.flags) });
        }
    }

    fn become_user(self) {
        let Some(User { uid, gid }) = self.user else {
            return;
        };
        let mut groups = vec![device_gid()];
        groups.extend(self.group);
        // SAFETY: the pointer and the count describe `groups`; the raw calls have no other pointers.
        unsafe {
            check("setgroups", libc::setgroups(groups.len(), groups.as_ptr()));
            check("setresgid", libc::setresgid(gid, gid, gid));
            check("setresuid", libc::setresuid(uid, uid, uid));
            // Changing ids makes /proc/self belong to root; it is needed to map them.
            check("prctl", libc::prctl(libc::PR_SET_DUMPABLE, 1));
        }
    }
}

static IN_CHILD: AtomicBool = AtomicBool::new(false);

/// Where a child counts the panics of its threads, for its parent: one may be of a thread whose result is not looked at, or of
/// a process that is killed before it can end.
static PANICS: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

/// The test runner captures what a thread prints, and a child's copy of that is lost: children write to standard error. So does
/// what fails in a scope, whose other threads may wait for ever.
pub(crate) fn report_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IN_CHILD.load(Ordering::Relaxed) {
                // SAFETY: it was set before, to a word of memory that the child never gives back.
                if let Some(panics) = unsafe { PANICS.load(Ordering::Relaxed).as_ref() } {
                    panics.fetch_add(1, Ordering::Relaxed);
                }
                crate::tell(&format!("child {} {info}", std::process::id()));
            } else {
                if scope::open() {
                    crate::tell(&format!("in a scope: {info}"));
                }
                usual(info);
            }
        }));
    });
}

fn exit(result: std::thread::Result<i32>) -> ! {
    // SAFETY: ends the process without running the parent's exit handlers.
    unsafe { libc::_exit(result.unwrap_or(101)) }
}

fn die_with_parent() {
    // SAFETY: no pointers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn pidfd_open(pid: u32) -> OwnedFd {
    // SAFETY: no pointers; the result is checked.
    let fd = check(
        "pidfd_open",
        unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as c_int,
    );
    // SAFETY: a descriptor that was just made, owned by nobody else.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn wait_for(pid: pid_t) -> Exit {
    let mut status = 0;
    loop {
        // SAFETY: `status` is writable.
        if unsafe { libc::waitpid(pid, &mut status, 0) } == pid {
            break;
        }
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR), "waitpid: {error}");
    }
    if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}

/// A forked process. It is killed and reaped when this is dropped. However it ends, a panic in it fails the test, but for
/// [`Child::panics`].
#[derive(Debug)]
pub struct Child {
    pid: pid_t,
    panics: Ledger,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Child {
    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.pid as u32
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: c_int) {
        // SAFETY: no pointers; the child is not reaped, so that the number is still its own.
        check("kill", unsafe { libc::kill(self.pid, signal) });
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn destroy(self) {
        self.kill(libc::SIGKILL);
        let exit = self.wait();
        assert_eq!(
            exit,
            Exit::Signal(libc::SIGKILL),
            "the child had ended before it was killed"
        );
    }

    /// Whether it has not ended yet.
    pub fn running(&self) -> bool {
        !crate::readable(&self.pidfd, Duration::ZERO)
    }

    /// The scheduler's letter for its state: R, S, D, T, Z...
    pub fn state(&self) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .expect("the child is not reaped");
        stat.rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next())
            .expect("a state follows the name")
    }

    /// Waits until it sleeps.
    pub fn wait_asleep(&self) {
        crate::wait_until("the child to sleep", || self.state() == 'S');
    }

    /// Waits for its end; panics, and kills it, if the watchdog sees no progress of it, or of others of this test.
    #[track_caller]
    pub fn wait(mut self) -> Exit {
        let exit = self.wait_watched(Watchdog::new());
        self.assert_sound();
        exit
    }

    /// Waits for its end; panics, and kills it, if it makes no progress for that time.
    #[track_caller]
    pub fn wait_at_most(mut self, time: Duration) -> Exit {
        let watchdog = Watchdog::of(time, self.pid());
        let exit = self.wait_watched(watchdog);
        self.assert_sound();
        exit
    }

    /// Waits for its end, which must be that of a panic.
    #[track_caller]
    pub fn panics(mut self) {
        let exit = self.wait_watched(Watchdog::new());
        assert_eq!(exit, Exit::Code(101), "child {} has not failed", self.pid);
        assert_ne!(self.panics[0].load(Ordering::Relaxed), 0);
    }

    /// Panics if a thread of it has panicked.
    #[track_caller]
    fn assert_sound(&self) {
        let panics = self.panics[0].load(Ordering::Relaxed);
        assert_eq!(panics, 0, "child {} failed (above)", self.pid);
    }

    #[track_caller]
    fn wait_watched(&mut self, mut watchdog: Watchdog) -> Exit {
        while !crate::readable(&self.pidfd, Duration::from_millis(20)) {
            watchdog.check(|| {
                let (pid, state) = (self.pid, self.state());
                format!("waited for the end of child {pid} (state {state})")
            });
        }
        self.reaped = true;
        let exit = wait_for(self.pid);
        door::ended(self.pid);
        exit
    }

    /// Waits for its end, which must be a good one.
    #[track_caller]
    pub fn ok(self) {
        let pid = self.pid;
        let exit = self.wait();
        assert_eq!(exit, Exit::Code(0), "child {pid} failed");
    }

    /// Its pidfd's inode number, which is what a message carries.
    pub fn pidfd_ino(&self) -> u64 {
        crate::inode(self.pidfd.as_raw_fd())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: no pointers; not reaped, so that the number is still its own.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            let _ = wait_for(self.pid);
            if !std::thread::panicking() {
                self.assert_sound();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gate, sleep_forever};

    /// A child whose thread has panicked, and that then opens a gate.
    fn unsound(gate: &Gate) -> Child {
        spawn(|| {
            let thread = std::thread::spawn(|| panic!("(this failure is expected)"));
            let _ = thread.join();
            gate.open(1);
            sleep_forever();
        })
    }

    #[test]
    fn child_killed_after_a_panic_fails_the_test() {
        let gate = Gate::new();
        spawn(|| {
            let child = unsound(&gate);
            gate.pass();
            child.destroy();
        })
        .panics();
    }

    #[test]
    fn child_dropped_after_a_panic_fails_the_test() {
        let gate = Gate::new();
        spawn(|| {
            let child = unsound(&gate);
            gate.pass();
            drop(child);
        })
        .panics();
    }

    #[test]
    fn child_that_ends_well_after_a_panic_fails_the_test() {
        spawn(|| {
            let thread = || drop(std::thread::spawn(|| panic!("(expected)")).join());
            let _ = spawn(thread).wait();
        })
        .panics();
    }
}
