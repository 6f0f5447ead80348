//! Death: what a process took comes back when it dies, however it took it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use postbox::{Endpoint, ErrorKind, raw, sys};
use postbox_tests::uring::{FIXED_FILE, Kept, Ring, Sqe};
use postbox_tests::{
    Attacker, Child, Errno, FOREVER, Gate, Handle, NEVER, PAGE, RW, UNBOUNDED, UNDO,
    as_each_attacker, check, isolated, recv_args, scope, spawn, wait_until,
};

/// How a process reaches a handle.
enum Way {
    Descriptor(RawFd),
    /// As the first registered file of a ring, without a descriptor.
    Registered(Box<Ring>),
}

impl Way {
    /// Makes a request; its result, or the error's number, negative.
    fn request<T>(&mut self, request: u32, args: &mut T) -> i32 {
        match self {
            Way::Descriptor(fd) => {
                // SAFETY: the request takes this struct, and what it points to is the caller's.
                let done = unsafe { libc::ioctl(*fd, request.into(), &raw mut *args) };
                match done {
                    -1 => -std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
                    done => done,
                }
            }
            Way::Registered(ring) => ring.run(&Sqe {
                flags: FIXED_FILE,
                ..Sqe::command(0, request, (&raw mut *args) as u64)
            }),
        }
    }

    #[track_caller]
    fn do_it<T>(&mut self, request: u32, args: &mut T) {
        let done = self.request(request, args);
        assert!(done >= 0, "{}", std::io::Error::from_raw_os_error(-done));
    }
}

/// What a process can take through a handle.
struct Thing {
    name: &'static str,
    make: fn() -> Handle,
    take: fn(&mut Way),
    /// Whether nobody has it.
    free: fn(&Handle) -> bool,
}

fn size<T>() -> u32 {
    size_of::<T>() as u32
}

fn receive(way: &mut Way, flags: u32) {
    let mut data = [0u8; 64];
    way.do_it(
        sys::POSTBOX_RECV,
        &mut sys::postbox_recv {
            size: size::<sys::postbox_recv>(),
            flags,
            data: data.as_mut_ptr() as u64,
            len: data.len() as u64,
            ..Default::default()
        },
    );
}

fn sync(way: &mut Way, request: u32, flags: u32) {
    way.do_it(
        request,
        &mut sys::postbox_sync {
            size: size::<sys::postbox_sync>(),
            flags,
            count: 1,
            ..Default::default()
        },
    );
}

fn broken(handle: &Handle) -> bool {
    handle.info().flags & sys::POSTBOX_INFO_BROKEN != 0
}

fn make(kind: u32) -> Handle {
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        kind,
        flags: sys::POSTBOX_O_CREATE,
        rights: sys::POSTBOX_RIGHT_SEND | sys::POSTBOX_RIGHT_RECEIVE,
        mode: 0o600,
        ..Default::default()
    };
    raw::open(&handle, None, &mut args).expect("it can be made");
    handle
}

const THINGS: [Thing; 10] = [
    Thing {
        name: "a message to acknowledge",
        make: || {
            let handle = Handle::anonymous(4);
            handle.put("work");
            handle
        },
        take: |way| receive(way, sys::POSTBOX_RECV_ACK),
        free: |handle| (handle.info().messages, handle.info().unacknowledged) == (1, 0),
    },
    Thing {
        name: "room",
        make: || Handle::anonymous(4),
        take: |way| {
            way.do_it(
                sys::POSTBOX_RESERVE,
                &mut sys::postbox_reserve {
                    size: size::<sys::postbox_reserve>(),
                    len: 8,
                    ..Default::default()
                },
            );
        },
        free: |handle| handle.info().reserved_messages == 0,
    },
    Thing {
        name: "a block of a pool",
        make: || Handle::pool(4, 4096),
        take: |way| {
            let mut block = [0u32];
            way.do_it(
                sys::POSTBOX_LOAN,
                &mut sys::postbox_loan {
                    size: size::<sys::postbox_loan>(),
                    loans: block.as_mut_ptr() as u64,
                    loan_max: 1,
                    ..Default::default()
                },
            );
        },
        free: |handle| handle.free() == 4,
    },
    Thing {
        name: "a unit of a semaphore",
        make: || Handle::semaphore(2, 2),
        take: |way| sync(way, sys::POSTBOX_ACQUIRE, UNDO),
        free: |handle| handle.value() == 2,
    },
    Thing {
        name: "a count of a latch",
        make: || Handle::latch(1),
        take: |way| sync(way, sys::POSTBOX_JOIN, 0),
        free: broken,
    },
    Thing {
        name: "a party of a barrier",
        make: || Handle::barrier(2),
        take: |way| sync(way, sys::POSTBOX_JOIN, 0),
        free: broken,
    },
    Thing {
        name: "an arrival at a barrier",
        make: || Handle::barrier(2),
        take: |way| sync(way, sys::POSTBOX_WAIT, sys::POSTBOX_SYNC_ARRIVE),
        free: |handle| handle.value() == 0,
    },
    Thing {
        name: "a lock in a segment",
        make: || {
            let handle = Handle::segment(1);
            // The first number that is given.
            let word = handle.map(0, PAGE, RW).expect("it can be mapped");
            word.word(0).store(1, Ordering::Relaxed);
            handle
        },
        take: |way| {
            let mut args = sys::postbox_attach {
                size: size::<sys::postbox_attach>(),
                ..Default::default()
            };
            way.do_it(sys::POSTBOX_ATTACH, &mut args);
            assert_eq!(args.id, 1);
        },
        free: |handle| handle.wait_word(0, 1, NEVER) == Ok(true),
    },
    Thing {
        name: "the producer's side of a ring",
        make: || make(sys::POSTBOX_KIND_RING),
        take: |way| attach(way, sys::POSTBOX_RING_PRODUCER),
        free: broken,
    },
    Thing {
        name: "the consumer's side of a ring",
        make: || make(sys::POSTBOX_KIND_RING),
        take: |way| attach(way, sys::POSTBOX_RING_CONSUMER),
        free: broken,
    },
];

fn attach(way: &mut Way, side: u32) {
    way.do_it(
        sys::POSTBOX_RING_ATTACH,
        &mut sys::postbox_ring_attach {
            size: size::<sys::postbox_ring_attach>(),
            flags: side,
            ..Default::default()
        },
    );
}

fn registered(handle: &Handle) -> Way {
    let ring = Ring::new(4, 0).expect("io_uring");
    ring.register_files(&[handle.as_raw_fd()]).expect("a file");
    handle.close_copy();
    Way::Registered(Box::new(ring))
}

/// Stays until it is killed.
pub(super) fn stay() -> ! {
    loop {
        // SAFETY: no pointers.
        unsafe { libc::pause() };
    }
}

/// Runs in a child, which shares the table of descriptors with this process; its number.
fn sharing_descriptors(f: impl FnOnce()) -> i32 {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork; the child ends below.
    let pid = check("clone", unsafe {
        libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) as i32
    });
    if pid == 0 {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        // SAFETY: the child ends without running what is its parent's.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    pid
}

/// The same, until it exits.
fn with_shared_descriptors(f: impl FnOnce()) {
    let pid = sharing_descriptors(f);
    let mut status = 0;
    // SAFETY: `status` is writable.
    check("waitpid", unsafe { libc::waitpid(pid, &mut status, 0) });
    assert_eq!(status, 0, "the child failed");
}

/// Takes through the handle as a way of holding it allows, in a process that is dead when this returns.
type Death = fn(&Handle, fn(&mut Way));

/// Ways of taking and dying, while this process has the same open file.
const WAYS: [(&str, Death); 6] = [
    ("descriptor, killed", |handle, take| {
        let taken = Gate::new();
        let child = spawn(|| {
            take(&mut Way::Descriptor(handle.as_raw_fd()));
            taken.open(1);
            stay();
        });
        taken.pass();
        child.destroy();
    }),
    ("descriptor, exits", |handle, take| {
        spawn(|| take(&mut Way::Descriptor(handle.as_raw_fd()))).ok();
    }),
    ("registered file, killed", |handle, take| {
        let taken = Gate::new();
        let child = spawn(|| {
            take(&mut registered(handle));
            taken.open(1);
            stay();
        });
        taken.pass();
        child.destroy();
    }),
    ("registered file, exits", |handle, take| {
        spawn(|| {
            let mut way = registered(handle);
            take(&mut way);
            std::mem::forget(way);
        })
        .ok();
    }),
    ("shared descriptors, exits", |handle, take| {
        with_shared_descriptors(|| take(&mut Way::Descriptor(handle.as_raw_fd())));
    }),
    ("a thread's own descriptors, exits", |handle, take| {
        spawn(|| {
            scope(|scope| {
                scope.spawn(|| {
                    // SAFETY: no pointers.
                    check("unshare", unsafe { libc::unshare(libc::CLONE_FILES) });
                    take(&mut Way::Descriptor(handle.as_raw_fd()));
                    // The rest of the process has none any more.
                });
            });
        })
        .ok();
    }),
];

#[test]
fn what_a_process_took_comes_back_with_its_death() {
    // The attackers take turns, in another order for each thing.
    let mut attackers = Attacker::ALL.into_iter().cycle();
    for thing in &THINGS {
        for (way, die) in WAYS {
            let attacker = attackers.next().expect("without end");
            isolated(|| {
                let attack = || {
                    let handle = (thing.make)();
                    die(&handle, thing.take);
                    let what = format!("{} by {way} of {attacker:?} to come back", thing.name);
                    wait_until(&what, || (thing.free)(&handle));
                };
                attacker.run(attack).ok();
            });
        }
        attackers.next();
    }
}

#[test]
fn what_a_process_took_is_kept_while_a_thread_of_it_lives() {
    for thing in &THINGS {
        isolated(|| {
            let handle = (thing.make)();
            let (taken, leave) = (Gate::new(), Gate::new());
            let child = spawn(|| {
                let descriptor = handle.as_raw_fd();
                let (unshared, closed) = (Gate::new(), Gate::new());
                scope(|scope| {
                    scope.spawn(|| {
                        // SAFETY: no pointers.
                        check("unshare", unsafe { libc::unshare(libc::CLONE_FILES) });
                        (thing.take)(&mut Way::Descriptor(descriptor));
                        unshared.open(1);
                        closed.pass();
                        taken.open(1);
                        leave.pass();
                        // With the process: a thread that exits alone closes what only it has.
                        std::process::exit(0);
                    });
                    unshared.pass();
                    handle.close_copy();
                    closed.open(1);
                });
            });
            taken.pass();
            // What is noted when it comes back is noted at once: a request of another kind has passed since.
            handle.info();
            assert!(!(thing.free)(&handle), "{} was given away", thing.name);
            leave.open(1);
            child.ok();
            wait_until(thing.name, || (thing.free)(&handle));
        });
    }
}

/// A child that calls, and learns that its request was taken by a process that died.
fn caller(handle: &Handle) -> Child {
    spawn(|| {
        let mut room = [MaybeUninit::uninit(); 16];
        let mut args = sys::postbox_call::default();
        let answer = raw::call(handle, b"?", &[], &mut room, &mut Vec::new(), &mut args);
        assert_eq!(answer.map(|bytes| bytes.to_vec()), Err(Errno::OWNERDEAD));
    })
}

#[test]
fn caller_learns_of_the_death_of_who_owes_the_answer() {
    for (_, die) in WAYS {
        isolated(|| {
            as_each_attacker(|_| {
                let handle = Handle::anonymous(4);
                let caller = caller(&handle);
                wait_until("the request", || handle.info().messages == 1);
                die(&handle, |way| receive(way, 0));
                caller.ok();
            });
        });
    }
}

#[test]
fn message_that_comes_after_the_last_close_comes_back() {
    isolated(|| {
        let handle = Handle::anonymous(4);
        let closed = Gate::new();
        let child = spawn(|| {
            scope(|scope| {
                scope.spawn(|| handle.take(FOREVER).expect("a message comes"));
                handle.wait_receivers(1);
                handle.close_copy();
                closed.open(1);
            });
        });
        closed.pass();
        handle.put("late");
        child.ok();
        wait_until("the message to come back", || handle.info().messages == 1);
        assert!(handle.recv(NEVER).expect("it came back").redelivered);
    });
}

#[test]
fn forked_child_cannot_settle_what_its_parent_took() {
    isolated(|| {
        let handle = Handle::anonymous(4);
        handle.put("job");
        let job = handle.take(NEVER).expect("it is there");
        handle.reserve(8, NEVER).expect("there is room");
        let caller = spawn(|| {
            let mut room = [MaybeUninit::uninit(); 16];
            let mut args = sys::postbox_call::default();
            let answer = raw::call(&handle, b"?", &[], &mut room, &mut Vec::new(), &mut args);
            assert_eq!(answer.map(|bytes| bytes.to_vec()), Ok(b"!".to_vec()));
        });
        wait_until("the request", || handle.info().messages == 1);
        let request = handle.recv(NEVER).expect("the request");
        let reply = sys::postbox_reply {
            token: request.token,
            ..Default::default()
        };
        let dropped = sys::postbox_reply {
            flags: sys::POSTBOX_REPLY_DROP,
            ..reply
        };
        spawn(|| {
            assert_eq!(handle.ack(job.token), Err(Errno::NOENT));
            assert_eq!(handle.requeue(job.token), Err(Errno::NOENT));
            assert_eq!(raw::reply(&handle, b"?", &[], &reply), Err(Errno::NOENT));
            assert_eq!(raw::reply(&handle, b"", &[], &dropped), Err(Errno::NOENT));
            assert_eq!(handle.cancel(8), Err(Errno::INVAL));
            assert_eq!(handle.send_reserved("x", 8), Err(Errno::INVAL));
        })
        .ok();
        assert_eq!(handle.info().unacknowledged, 1);
        raw::reply(&handle, b"!", &[], &reply).expect("its caller waits");
        caller.ok();
        handle.ack(job.token).expect("it is this process's");
        handle.send_reserved("x", 8).expect("the room is, too");
        assert_eq!(handle.get(), "x");
    });
}

#[test]
fn endpoint_of_a_dead_process_accepts_nothing() {
    isolated(|| {
        as_each_attacker(|_| {
            let (made, keep) = (Gate::new(), Gate::new());
            let process = spawn(|| {
                let _endpoint = Endpoint::own().expect("this process may have one");
                // A plain fork, as many programs do it, keeps a copy.
                // SAFETY: the child does nothing but wait, and ends.
                if check("fork", unsafe { libc::fork() }) == 0 {
                    keep.pass();
                    // SAFETY: no pointers.
                    unsafe { libc::_exit(0) };
                }
                made.open(1);
                stay();
            });
            made.pass();
            let sender = Endpoint::of(process.pid()).expect("it has one");
            sender.send("while it lives").expect("there is room");
            process.destroy();
            wait_until("the endpoint to close", || sender.send("late").is_err());
            let error = sender.send("late").expect_err("its process is dead");
            assert_eq!(error.error.kind, ErrorKind::Disconnected);
            keep.open(1);
        });
    });
}

#[test]
fn promise_of_a_dead_process_that_others_keep_breaks_nothing() {
    isolated(|| {
        let latch = Handle::latch(2);
        latch.join(1).expect("two are left");
        let (joined, counted) = (Gate::new(), Gate::new());
        let child = spawn(|| {
            latch.join(1).expect("one is left");
            assert_eq!(latch.join(1), Err(Errno::OVERFLOW), "all is promised");
            joined.open(1);
            counted.pass();
        });
        joined.pass();
        assert_eq!(latch.join(1), Err(Errno::OVERFLOW), "all is promised");
        // Somebody who promised nothing counts in the place of the child.
        spawn(|| latch.count_down(1).expect("two are left")).ok();
        counted.open(1);
        child.ok();
        wait_until("the child's promise to end", || {
            latch.join(1) == Err(Errno::OVERFLOW)
        });
        assert!(!broken(&latch), "this process can still open it");
        latch.count_down(1).expect("one is left");
        assert_eq!(latch.await_gate(NEVER), Ok(false));
    });
}

#[test]
fn exits_race_with_the_last_close_of_a_handle() {
    isolated(|| {
        // Many at once, whose shares are settled while their handles go: the work item of an exit against the release.
        for _ in 0..postbox_tests::scaled(50) {
            let semaphore = Handle::semaphore(8, 8);
            let children: Vec<_> = (0..8)
                .map(|_| {
                    spawn(|| {
                        let mut way = registered(&semaphore);
                        sync(&mut way, sys::POSTBOX_ACQUIRE, UNDO);
                        std::mem::forget(way);
                    })
                })
                .collect();
            let second = semaphore
                .dup(sys::POSTBOX_RIGHT_RECEIVE)
                .expect("a right of it");
            for child in children {
                child.ok();
            }
            drop(semaphore);
            wait_until("all units", || second.value() == 8);
        }
    });
}

/// Calls, and waits for an answer.
fn call(handle: &Handle) {
    let mut args = sys::postbox_call::default();
    let mut room = [MaybeUninit::uninit(); 16];
    let _ = raw::call(handle, b"?", &[], &mut room, &mut Vec::new(), &mut args);
}

/// Receives a request; returns what it is answered with.
fn request(handle: &Handle) -> u64 {
    let mut args = sys::postbox_recv::default();
    assert_eq!(raw::recv(handle, &mut [0; 16], &mut args), Ok(1));
    args.token
}

/// Has a process that shares its descriptors with this one call, and kills it while it is paused.
fn die_paused(handle: &Handle, before: impl FnOnce()) {
    let pid = sharing_descriptors(|| call(handle));
    wait_until("the request", || handle.info().messages == 1);
    before();
    for (signal, until) in [(libc::SIGSTOP, libc::WUNTRACED), (libc::SIGKILL, 0)] {
        let mut status = 0;
        // SAFETY: it is not reaped before the second round ends, and `status` is writable.
        unsafe {
            check("kill", libc::kill(pid, signal));
            check("waitpid", libc::waitpid(pid, &mut status, until));
        }
        assert_eq!(libc::WIFSTOPPED(status), signal == libc::SIGSTOP);
    }
}

#[test]
fn call_of_a_process_that_dies_paused_ends() {
    isolated(|| {
        as_each_attacker(|_| {
            let handle = Handle::anonymous(4);
            die_paused(&handle, || {});
            wait_until("it to be withdrawn", || handle.info().messages == 0);

            let token = std::cell::Cell::new(0);
            die_paused(&handle, || token.set(request(&handle)));
            let args = sys::postbox_reply {
                token: token.get(),
                flags: sys::POSTBOX_REPLY_CHECK,
                ..Default::default()
            };
            wait_until("nobody to wait", || {
                raw::reply(&handle, b"", &[], &args) == Err(Errno::STALE)
            });
        });
    });
}

#[test]
fn answer_that_keeps_its_own_handle_goes_with_who_was_paused() {
    isolated(|| {
        as_each_attacker(|_| {
            let files = || raw::usage(Handle::unbound()).expect("it tells").files;
            let before = files();
            for _ in 0..8 {
                let handle = Handle::anonymous(4);
                let token = std::cell::Cell::new(0);
                die_paused(&handle, || token.set(request(&handle)));
                let args = sys::postbox_reply {
                    token: token.get(),
                    ..Default::default()
                };
                // The caller's death may have been noticed, or not yet.
                let entries = [raw::SendFd::new(handle.as_fd(), 0)];
                let _ = raw::reply(&handle, b"", &entries, &args);
            }
            wait_until("all files to be gone", || files() == before);
        });
    });
}

/// Ends the thread.
extern "C" fn end_thread(_: libc::c_int) {
    // SAFETY: the thread ends; the others do not wait for it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Goes on as another program, which has the descriptors, and does not use them.
extern "C" fn execute(_: libc::c_int) {
    let arguments = [
        c"sh".as_ptr(),
        c"-c".as_ptr(),
        c"read x <&9".as_ptr(),
        std::ptr::null(),
    ];
    // SAFETY: the strings and the array end with zero.
    unsafe { libc::execv(c"/bin/sh".as_ptr(), arguments.as_ptr()) };
}

/// Waits until every thread of the process has this state.
fn wait_threads(child: &Child, state: char) {
    wait_until("all of its threads to have the state", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.pid())).expect("it runs");
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with(state))
        })
    });
}

#[test]
fn call_of_a_paused_thread_that_never_goes_on_ends() {
    for handler in [end_thread, execute] as [extern "C" fn(libc::c_int); 2] {
        isolated(|| {
            let handle = Handle::anonymous(4);
            // SAFETY: the child gets copies, which outlive an execve().
            check("fcntl", unsafe {
                libc::fcntl(handle.as_raw_fd(), libc::F_SETFD, 0)
            });
            let (read, _write) = rustix::pipe::pipe().expect("a pipe");
            let child = spawn(|| {
                // SAFETY: the handlers do what a handler may, and the set of signals is written first.
                unsafe {
                    check("dup2", libc::dup2(read.as_raw_fd(), 9));
                    libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t);
                    // For the thread alone.
                    let mut set = std::mem::zeroed();
                    libc::sigemptyset(&mut set);
                    libc::sigaddset(&mut set, libc::SIGUSR1);
                    libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
                    scope(|scope| {
                        scope.spawn(|| {
                            libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
                            call(&handle);
                        });
                        stay();
                    });
                }
            });
            wait_until("the request", || handle.info().messages == 1);
            // A handler that runs before the call is paused ends it.
            wait_threads(&child, 'S');
            child.kill(libc::SIGSTOP);
            wait_threads(&child, 'T');
            child.kill(libc::SIGUSR1);
            child.kill(libc::SIGCONT);
            // The number of threads is one again.
            let threads = || std::fs::read_dir(format!("/proc/{}/task", child.pid()));
            wait_until("the thread to be gone", || {
                threads().map_or(0, |threads| threads.count()) == 1
            });
            child.wait_asleep();
            assert!(child.running());
            // Whoever is paused next looks for it.
            let other = spawn(|| call(&handle));
            wait_until("the second request", || handle.info().messages == 2);
            other.wait_asleep();
            wait_until("the first one to be withdrawn", || {
                other.kill(libc::SIGSTOP);
                other.kill(libc::SIGCONT);
                handle.info().messages == 1
            });
            other.destroy();
            child.destroy();
            wait_until("the second one to be withdrawn", || {
                handle.info().messages == 0
            });
        });
    }
}

/// A process of the attacker that has much to be settled.
struct Laden {
    _attack: Child,
    process: u32,
    pidfd_ino: u64,
    /// What it took messages of.
    long: Handle,
    messages: u64,
    /// The victim's, which it took one message of; the victim alone has it open.
    own: Option<Handle>,
}

impl Laden {
    fn new(attacker: Attacker) -> Self {
        // A process may have so many messages through a handle, and few more.
        const BATCH: usize = 1000;
        let batches = 4;
        let [long, own, ready] = [(); 3].map(|()| Handle::anonymous(UNBOUNDED));
        let [taken, closed] = [(); 2].map(|()| Gate::new());
        own.put("job");
        let attack = attacker.run(|| {
            let batch = vec![raw::SendEntry::new(b"", 0); BATCH];
            for _ in 0..batches {
                assert_eq!(raw::send_batch(&long, &batch, NEVER.0, 0), Ok(BATCH));
            }
            // Its exit closes no descriptor: what it has is left to the module.
            sharing_descriptors(|| {
                let mut batch: Vec<_> = (0..BATCH).map(|_| raw::RecvEntry::new(&mut [])).collect();
                let flags = sys::POSTBOX_RECV_ACK | NEVER.0;
                let mut left = batches * BATCH;
                while left > 0 {
                    left -= raw::recv_batch(&long, &mut batch, flags, 0).expect("they are there");
                }
                own.take(NEVER).expect("it is there");
                taken.open(1);
                closed.pass();
                ready.put("");
                stay();
            });
            taken.pass();
            own.close_copy();
            closed.open(1);
            stay();
        });
        let sent = ready.recv(FOREVER).expect("it comes");
        Self {
            _attack: attack,
            process: sent.pid,
            pidfd_ino: sent.pidfd_ino,
            long,
            messages: (batches * BATCH) as u64,
            own: Some(own),
        }
    }

    fn unsettled(&self) -> u64 {
        self.long.info().unacknowledged
    }

    /// Kills it; returns when it is being settled.
    fn kill(&self) {
        // SAFETY: nobody reaps it, so that the number is still its own.
        check("kill", unsafe {
            libc::kill(self.process as i32, libc::SIGKILL)
        });
        while self.unsettled() == self.messages {
            std::hint::spin_loop();
        }
    }

    /// A ring with a command, of a handle, that receives from it.
    fn received_from(&self, handle: &Handle) -> (Ring, Kept<sys::postbox_recv>) {
        let mut ring = Ring::new(4, 0).expect("io_uring");
        let args = Kept::new(sys::postbox_recv {
            flags: sys::POSTBOX_RECV_FROM,
            pid: self.process,
            pidfd_ino: self.pidfd_ino,
            ..recv_args()
        });
        let fd = handle.as_raw_fd();
        ring.push(&Sqe::command(fd, sys::POSTBOX_RECV, args.address()).tag(1));
        ring.park();
        (ring, args)
    }
}

#[test]
fn long_settling_of_one_user_delays_no_other_user() {
    type End = fn(&mut Laden);
    let ways: [(&str, End); 3] = [
        ("a command that receives from it ends", |laden| {
            let handle = Handle::anonymous(1);
            let (mut ring, _args) = laden.received_from(&handle);
            laden.kill();
            let cqe = ring.wait();
            assert_eq!((cqe.user_data, cqe.res), (1, -libc::EPIPE));
        }),
        ("such a command is cancelled", |laden| {
            let handle = Handle::anonymous(1);
            let (mut ring, _args) = laden.received_from(&handle);
            // The command's is the last watch of the process.
            drop(laden.own.take());
            laden.kill();
            ring.push(&Sqe::cancel(handle.as_raw_fd(), 1).tag(2));
            while ring.wait().user_data != 1 {}
        }),
        ("a handle that it used is closed", |laden| {
            laden.kill();
            drop(laden.own.take());
        }),
    ];
    for attacker in Attacker::ALL {
        for (what, way) in ways {
            isolated(|| {
                // The settling may end first where the victim is not scheduled in time.
                let before = (0..30).any(|_| {
                    let mut laden = Laden::new(attacker);
                    way(&mut laden);
                    laden.unsettled() > 0
                });
                assert!(before, "{what} only when {attacker:?} is settled");
            });
        }
    }
}
