//! Waits that are paused: a stop, a tracer, the freezer and task work neither end a wait nor repeat a request.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use postbox::{raw, sys};
use postbox_tests::uring::{self, Ring, Sqe};
use postbox_tests::*;

/// What pauses a wait, though no signal handler runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cause {
    /// SIGSTOP and SIGCONT.
    Stop,
    /// PTRACE_ATTACH and PTRACE_DETACH.
    Trace,
    /// The freezer of cgroup 2.
    Freeze,
    /// A request of io_uring that completes.
    TaskWork,
}

const CAUSES: [Cause; 4] = [Cause::Stop, Cause::Trace, Cause::Freeze, Cause::TaskWork];

/// The eventfd whose readiness is task work for the child.
struct Nudge(OwnedFd);

impl Nudge {
    fn new() -> Self {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty());
        Self(event.expect("an eventfd can be made"))
    }
}

impl Cause {
    /// What the child does first. The ring is to live as long as it.
    fn prepare(self, nudge: &Nudge) -> Option<Ring> {
        if self != Cause::TaskWork {
            return None;
        }
        let mut ring = Ring::new(8, 0).expect("a ring");
        for _ in 0..4 {
            // The kernel may write there until the child has exited.
            let word: &mut u64 = Box::leak(Box::new(0));
            ring.push(&Sqe {
                opcode: uring::OP_READ,
                fd: nudge.0.as_raw_fd(),
                addr: std::ptr::from_mut(word) as u64,
                len: 8,
                ..Sqe::default()
            });
        }
        ring.park();
        Some(ring)
    }

    /// Pauses the child, and lets it go on.
    fn pause(self, child: &Child, nudge: &Nudge) {
        let pid = child.pid() as i32;
        let stopped = |states: &str| {
            wait_until("it to be stopped", || states.contains(child.state()));
        };
        match self {
            Cause::Stop => {
                child.kill(libc::SIGSTOP);
                stopped("T");
                child.kill(libc::SIGCONT);
            }
            Cause::Trace => {
                // SAFETY: no pointers.
                let trace = |request| unsafe { libc::ptrace(request, pid, 0, 0) } as i32;
                check("PTRACE_ATTACH", trace(libc::PTRACE_ATTACH));
                stopped("t");
                // SAFETY: the status is not wanted.
                check("waitpid", unsafe {
                    libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL)
                });
                check("PTRACE_DETACH", trace(libc::PTRACE_DETACH));
            }
            Cause::Freeze => {
                let path = PathBuf::from("/sys/fs/cgroup").join(unique("").replace('/', "-"));
                fs::create_dir(&path).expect("cgroup2 is mounted");
                fs::write(path.join("cgroup.procs"), pid.to_string()).expect("root may");
                fs::write(path.join("cgroup.freeze"), "1").expect("root may");
                wait_until("it to be frozen", || {
                    let events = fs::read_to_string(path.join("cgroup.events"));
                    events.is_ok_and(|events| events.contains("frozen 1"))
                });
                fs::write(path.join("cgroup.freeze"), "0").expect("root may");
                fs::write("/sys/fs/cgroup/cgroup.procs", pid.to_string()).expect("root may");
                fs::remove_dir(&path).expect("nobody is in it");
            }
            Cause::TaskWork => {
                let one = 1u64.to_ne_bytes();
                assert_eq!(rustix::io::write(&nudge.0, &one), Ok(8));
            }
        }
        child.wait_asleep();
    }

    fn available(self) -> bool {
        self != Cause::Freeze || fs::exists("/sys/fs/cgroup/cgroup.procs").unwrap_or(false)
    }
}

/// Runs a wait in a child for every cause, several times in a row, and then has it end well.
fn paused(what: &str, wait: impl Fn() + Sync, ready: impl Fn(), end: impl Fn(&Child)) {
    for cause in CAUSES.into_iter().filter(|cause| cause.available()) {
        let nudge = Nudge::new();
        let child = spawn(|| {
            let _ring = cause.prepare(&nudge);
            wait();
        });
        ready();
        child.wait_asleep();
        for _ in 0..3 {
            cause.pause(&child, &nudge);
        }
        assert!(child.running(), "{what} ended by {cause:?}");
        end(&child);
        child.ok();
    }
}

const LONG: Wait = Wait(sys::POSTBOX_TIMEOUT, 30_000_000_000);

fn waits() -> [Wait; 4] {
    [FOREVER, LONG, until(30_000), until_realtime(30_000)]
}

#[test]
fn pause_keeps_waits_for_messages_and_room() {
    isolated(|| {
        for wait in waits() {
            let empty = Handle::anonymous(1);
            let recv = || assert_eq!(empty.recv(wait).expect("it comes").text(), "x");
            paused(
                "recv",
                recv,
                || empty.wait_receivers(1),
                |_| {
                    empty.put("x");
                },
            );
            let full = Handle::anonymous(1);
            full.put("fills it");
            let send = || assert_eq!(full.send("x", wait), Ok(()));
            paused(
                "send",
                send,
                || full.wait_senders(1),
                |_| {
                    full.get();
                },
            );
        }
    });
}

#[test]
fn pause_keeps_waits_for_units_and_bytes() {
    isolated(|| {
        for wait in waits() {
            let semaphore = Handle::semaphore(0, 9);
            let acquire = || assert_eq!(semaphore.acquire(1, 0, wait), Ok(false));
            paused(
                "acquire",
                acquire,
                || semaphore.wait_waiting(1),
                |_| {
                    semaphore.release(1, 0).expect("there is room");
                },
            );
            let pipe = Handle::unbound();
            let mut args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_PIPE,
                flags: sys::POSTBOX_O_CREATE,
                rights: SEND | RECEIVE,
                ..Default::default()
            };
            raw::open(&pipe, None, &mut args).expect("a pipe without a name can be made");
            let read = || assert_eq!(raw::read(&pipe, &mut [0; 8], wait.0, wait.1), Ok(3));
            paused(
                "read",
                read,
                || pipe.wait_receivers(1),
                |_| {
                    assert_eq!(raw::write(&pipe, b"abc", 0, 0), Ok(3));
                },
            );
        }
    });
}

/// A call with these flags in a child, whose server has it, or has not taken it yet.
fn calls(taken: bool, wait: Wait) {
    let mailbox = Handle::anonymous(4);
    let token = std::cell::Cell::new(0);
    let request = || {
        let mut args = sys::postbox_recv::default();
        assert_eq!(raw::recv(&mailbox, &mut [0; 16], &mut args), Ok(4));
        token.set(args.token);
    };
    let call = || {
        let mut args = sys::postbox_call::default();
        (args.request.flags, args.request.timeout_ns) = (wait.0, wait.1);
        let mut buffer = [MaybeUninit::uninit(); 16];
        let reply = raw::call(
            &mailbox,
            b"once",
            &[],
            &mut buffer,
            &mut Vec::new(),
            &mut args,
        );
        assert_eq!(reply.expect("it is answered"), b"answer");
    };
    let ready = || {
        wait_until("the request", || mailbox.info().messages == 1);
        if taken {
            request();
        }
    };
    paused("call", call, ready, |_| {
        if !taken {
            request();
        }
        let args = sys::postbox_reply {
            token: token.get(),
            ..Default::default()
        };
        assert_eq!(raw::reply(&mailbox, b"answer", &[], &args), Ok(()));
        assert_eq!(mailbox.info().messages, 0, "it was sent once");
    });
}

#[test]
fn pause_keeps_requests_that_a_server_took() {
    isolated(|| waits().into_iter().for_each(|wait| calls(true, wait)));
}

#[test]
fn pause_keeps_requests_in_the_queue() {
    isolated(|| waits().into_iter().for_each(|wait| calls(false, wait)));
}

#[test]
fn pause_does_not_lengthen_a_relative_timeout() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        let start = Instant::now();
        let child = spawn(|| assert_eq!(mailbox.recv(within(300)), Err(Errno::TIMEDOUT)));
        mailbox.wait_receivers(1);
        while start.elapsed() < Duration::from_millis(600) {
            child.kill(libc::SIGSTOP);
            child.kill(libc::SIGCONT);
            std::thread::sleep(Duration::from_millis(5));
        }
        // Each pause would have begun it anew.
        wait_until("it to end", || !child.running());
        child.ok();
    });
}

#[test]
fn paused_call_that_dies_is_withdrawn() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let child = spawn(|| {
            let mut args = sys::postbox_call::default();
            let mut buffer = [MaybeUninit::uninit(); 16];
            let _ = raw::call(&mailbox, b"x", &[], &mut buffer, &mut Vec::new(), &mut args);
        });
        wait_until("the request", || mailbox.info().messages == 1);
        child.wait_asleep();
        child.kill(libc::SIGSTOP);
        wait_until("it to be stopped", || child.state() == 'T');
        assert_eq!(mailbox.info().messages, 1, "it keeps its place");
        child.destroy();
        wait_until("it to be withdrawn", || mailbox.info().messages == 0);
    });
}

#[test]
fn paused_call_goes_on_after_a_handler_of_sigcont() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let child = spawn(|| {
            handle_signal(libc::SIGCONT, 0);
            let mut args = sys::postbox_call::default();
            let mut buffer = [MaybeUninit::uninit(); 16];
            let reply = raw::call(&mailbox, b"x", &[], &mut buffer, &mut Vec::new(), &mut args);
            assert_eq!(reply.expect("it is answered"), b"y");
        });
        wait_until("the request", || mailbox.info().messages == 1);
        child.wait_asleep();
        child.kill(libc::SIGSTOP);
        wait_until("it to be stopped", || child.state() == 'T');
        child.kill(libc::SIGCONT);
        child.wait_asleep();
        let mut args = sys::postbox_recv::default();
        assert_eq!(raw::recv(&mailbox, &mut [0; 16], &mut args), Ok(1));
        let reply = sys::postbox_reply {
            token: args.token,
            ..Default::default()
        };
        assert_eq!(raw::reply(&mailbox, b"y", &[], &reply), Ok(()));
        child.ok();
    });
}

#[test]
fn handler_ends_a_call_and_takes_the_request_back() {
    isolated(|| {
        for flags in [0, libc::SA_RESTART] {
            let mailbox = Handle::anonymous(4);
            let child = spawn(|| {
                handle_signal(libc::SIGUSR1, flags);
                let mut args = sys::postbox_call::default();
                let mut buffer = [MaybeUninit::uninit(); 16];
                let mut files = Vec::new();
                let reply = raw::call(&mailbox, b"x", &[], &mut buffer, &mut files, &mut args);
                assert_eq!(reply.map(drop), Err(Errno::INTR));
                assert_eq!(mailbox.info().messages, 0);
            });
            wait_until("the request", || mailbox.info().messages == 1);
            child.wait_asleep();
            child.kill(libc::SIGUSR1);
            child.ok();
        }
    });
}

/// Runs `f` in a time namespace whose monotonic clock is so many seconds ahead.
fn in_time_namespace(offset: i64, f: impl Fn()) {
    // SAFETY: no pointers; the namespace is that of children.
    check("unshare", unsafe { libc::unshare(libc::CLONE_NEWTIME) });
    fs::write("/proc/self/timens_offsets", format!("monotonic {offset} 0")).expect("root may");
    spawn(f).ok();
}

#[test]
fn deadlines_are_of_the_callers_time_namespace() {
    if !fs::exists("/proc/self/timens_offsets").unwrap_or(false) {
        // The debug kernel is built without time namespaces.
        return;
    }
    for offset in [100_000, -3] {
        isolated(|| {
            in_time_namespace(offset, || {
                let mailbox = Handle::anonymous(1);
                for wait in [until(100), within(100)] {
                    let start = Instant::now();
                    assert_eq!(mailbox.recv(wait), Err(Errno::TIMEDOUT));
                    let took = start.elapsed();
                    // (A time that is far too long fails by the watchdog of the parent.)
                    assert!(took >= Duration::from_millis(100), "{offset}: {took:?}");
                }
                let mut ring = Ring::new(4, 0).expect("a ring");
                let (room, wait) = (uring::Kept::new([0u8; 8]), until(100));
                let fd = mailbox.as_raw_fd();
                let sqe = Sqe::direct(fd, sys::POSTBOX_RECV, room.address(), 8, wait);
                let start = Instant::now();
                assert_eq!(ring.run(&sqe), -libc::ETIMEDOUT);
                assert!(start.elapsed() >= Duration::from_millis(100));
            });
        });
    }
}
