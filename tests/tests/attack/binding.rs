//! Binding and closing: every operation against a concurrent OPEN, the last close, and an unbound handle.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use libc::{MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED};
use postbox::{raw, sys};
use postbox_tests::*;
use rustix::event::epoll;

/// Runs both at once.
fn race(first: impl FnOnce() + Send, second: impl FnOnce()) {
    let gate = Barrier::new(2);
    scope(|scope| {
        scope.spawn(|| {
            gate.wait();
            first();
        });
        gate.wait();
        second();
    });
}

/// The alignment of huge pages is checked where the mapping is made: the handle may be bound after mmap() has chosen the
/// address.
#[test]
fn g11_mmap_of_huge_pages_against_open() {
    const HUGE: usize = HugePages::SIZE;
    const ROOM: usize = 8 * HUGE;
    const FAILED: usize = usize::MAX;
    isolated(|| {
        as_each_attacker(|_| {
            let flags = libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
            let memfd: OwnedFd = memory(4 * HUGE, flags, SEALS);
            let map = |at: usize, len, prot, flags, fd| {
                let at = at as *mut libc::c_void;
                // SAFETY: the area is the test's own, or chosen by the kernel; the result is checked.
                unsafe { libc::mmap(at, len, prot, flags, fd, 0) as usize }
            };
            let mut mapped = 0;
            for _ in 0..scaled(40) {
                let handle = Handle::unbound();
                // Populated memory in the way takes time to unmap, between the choice of the address and the mapping.
                let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
                let room = map(0, ROOM, RW, flags, -1);
                assert_ne!(room, FAILED, "there is memory");
                let at = room + PAGE;
                let fd = handle.0.as_raw_fd();
                race(
                    || {
                        let flags = MAP_SHARED | MAP_FIXED | MAP_NORESERVE;
                        let made = map(at, 2 * HUGE, R, flags, fd);
                        mapped += usize::from(made != FAILED);
                    },
                    || {
                        let _ = MakeSegment::default().bind(&handle, None, Some(&memfd));
                    },
                );
                // SAFETY: nobody refers to it.
                check("munmap", unsafe {
                    libc::munmap(room as *mut libc::c_void, ROOM)
                });
            }
            assert_eq!(mapped, 0, "misaligned");
        });
    });
}

const BOTH: u32 = SEND | RECEIVE;

macro_rules! requests {
    ($($request:ident $args:ident,)*) => {
        [$((stringify!($request), sys::$request, size_of::<sys::$args>())),*]
    };
}

/// The requests, and the sizes of their arguments.
const REQUESTS: [(&str, u32, usize); 42] = requests![
    POSTBOX_VERSION postbox_version,
    POSTBOX_OPEN postbox_open,
    POSTBOX_DUP postbox_dup,
    POSTBOX_UNLINK postbox_unlink,
    POSTBOX_SET_ATTR postbox_attr,
    POSTBOX_INFO postbox_info,
    POSTBOX_LIST postbox_list,
    POSTBOX_USAGE postbox_usage,
    POSTBOX_GRANT postbox_grant,
    POSTBOX_REVOKE postbox_grant,
    POSTBOX_SEND postbox_send,
    POSTBOX_RECV postbox_recv,
    POSTBOX_ACK postbox_ack,
    POSTBOX_RESERVE postbox_reserve,
    POSTBOX_SEND_BATCH postbox_batch,
    POSTBOX_RECV_BATCH postbox_batch,
    POSTBOX_CALL postbox_call,
    POSTBOX_REPLY postbox_reply,
    POSTBOX_REPLY_RECV postbox_reply_recv,
    POSTBOX_PAIR postbox_pair,
    POSTBOX_CONNECT postbox_connect,
    POSTBOX_ACCEPT postbox_accept,
    POSTBOX_PEER postbox_peer,
    POSTBOX_WAIT_PEER postbox_wait_peer,
    POSTBOX_SHUTDOWN postbox_shutdown,
    POSTBOX_READ postbox_io,
    POSTBOX_WRITE postbox_io,
    POSTBOX_SET_CAPACITY postbox_capacity,
    POSTBOX_ACQUIRE postbox_sync,
    POSTBOX_RELEASE postbox_sync,
    POSTBOX_COUNT_DOWN postbox_sync,
    POSTBOX_WAIT postbox_sync,
    POSTBOX_JOIN postbox_sync,
    POSTBOX_LEAVE postbox_sync,
    POSTBOX_ATTACH postbox_attach,
    POSTBOX_WAIT_WORD postbox_word,
    POSTBOX_WAKE_WORD postbox_word,
    POSTBOX_LOAN postbox_loan,
    POSTBOX_RING_ATTACH postbox_ring_attach,
    POSTBOX_RING_DETACH postbox_ring,
    POSTBOX_RING_WAIT postbox_ring,
    POSTBOX_RING_WAKE postbox_ring,
];

/// What a thread does to a descriptor while another one binds or closes it.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// A request by ioctl(), with an argument of zeros.
    Ioctl(&'static str, u32, usize),
    /// The same as a command of io_uring.
    Command(&'static str, u32, usize),
    Map,
    Poll,
    Epoll,
    UringPoll,
    Read,
    Write,
    Readv,
    Fdinfo,
}

impl Op {
    fn all() -> Vec<Op> {
        let others = [Op::Map, Op::Poll, Op::Epoll, Op::UringPoll, Op::Read];
        let more = [Op::Write, Op::Readv, Op::Fdinfo];
        let ioctls = REQUESTS.map(|(name, request, size)| Op::Ioctl(name, request, size));
        let commands = REQUESTS.map(|(name, request, size)| Op::Command(name, request, size));
        [&others[..], &more, &ioctls, &commands].concat()
    }

    /// Does it once; the errno, or 0. The descriptor may be closed meanwhile.
    fn run(self, fd: RawFd, ring: &mut uring::Ring) -> i32 {
        let mut room = [0_u64; 128];
        if let Op::Ioctl(_, _, size) | Op::Command(_, _, size) = self {
            room[0] = size as u64;
        }
        let at = room.as_mut_ptr();
        let result = match self {
            // SAFETY: the argument has more room than any request writes.
            Op::Ioctl(_, request, _) => unsafe { libc::ioctl(fd, request.into(), at) as isize },
            Op::Command(_, request, _) => {
                return run_command(ring, &uring::Sqe::command(fd, request, at as u64), fd);
            }
            Op::UringPoll => {
                let events = (libc::POLLIN | libc::POLLOUT) as u32;
                let poll = uring::Sqe {
                    opcode: 6,
                    fd,
                    op_flags: events,
                    ..Default::default()
                };
                return run_command(ring, &poll, fd);
            }
            Op::Map => {
                // SAFETY: the kernel chooses where; nobody uses it.
                let at = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, R, MAP_SHARED, fd, 0) };
                if at != libc::MAP_FAILED {
                    // SAFETY: it was just mapped.
                    unsafe { libc::munmap(at, PAGE) };
                }
                if at == libc::MAP_FAILED { -1 } else { 0 }
            }
            Op::Poll => {
                let mut entry = libc::pollfd {
                    fd,
                    events: libc::POLLIN | libc::POLLOUT,
                    revents: 0,
                };
                // SAFETY: one entry.
                unsafe { libc::poll(&mut entry, 1, 0) as isize }
            }
            Op::Epoll => {
                let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
                let events = epoll::EventFlags::IN | epoll::EventFlags::OUT;
                // SAFETY: it is only used for this call, which copes with one that is closed.
                let file = unsafe { BorrowedFd::borrow_raw(fd) };
                match epoll::add(&set, file, epoll::EventData::new_u64(0), events) {
                    Ok(()) => {
                        happened(&set, Duration::ZERO);
                        0
                    }
                    Err(error) => return error.raw_os_error(),
                }
            }
            // SAFETY: as much room as that.
            Op::Read => unsafe { libc::read(fd, at.cast(), 64) },
            // SAFETY: as many bytes as that.
            Op::Write => unsafe { libc::write(fd, at.cast(), 8) },
            Op::Readv => {
                let part = libc::iovec {
                    iov_base: at.cast(),
                    iov_len: 32,
                };
                // SAFETY: two parts, each with its room.
                unsafe { libc::readv(fd, [part, part].as_ptr(), 2) }
            }
            Op::Fdinfo => {
                let _ = std::fs::read(format!("/proc/self/fdinfo/{fd}"));
                0
            }
        };
        match result {
            -1 => std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
            _ => 0,
        }
    }
}

/// Submits one and waits for its end; what is parked is cancelled.
fn run_command(ring: &mut uring::Ring, sqe: &uring::Sqe, fd: RawFd) -> i32 {
    const ASYNC_CANCEL: u8 = 14;
    ring.push(&sqe.tag(1));
    while ring.unsubmitted() {
        let _ = ring.enter(0);
    }
    let mut cancelled = false;
    loop {
        while let Some(cqe) = ring.pop() {
            if cqe.user_data == 1 {
                while cancelled && ring.wait().user_data != 2 {}
                return (-cqe.res).max(0);
            }
            cancelled = false;
        }
        if !cancelled {
            let cancel = uring::Sqe {
                opcode: ASYNC_CANCEL,
                fd: -1,
                addr: 1,
                ..Default::default()
            };
            ring.push(&cancel.tag(2));
            cancelled = true;
        }
        let _ = (ring.enter_within(1, 10_000_000), fd);
    }
}

/// The events that an epoll reports within that time.
fn happened(set: &OwnedFd, time: Duration) -> Vec<epoll::EventFlags> {
    let mut events = Vec::with_capacity(4);
    let time = rustix::event::Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    };
    let spare = rustix::buffer::spare_capacity(&mut events);
    epoll::wait(set, spare, Some(&time)).expect("an epoll");
    events.iter().map(|event| event.flags).collect()
}

/// The kinds that are made by OPEN without a port.
const KINDS: [u32; 10] = [
    sys::POSTBOX_KIND_MAILBOX,
    sys::POSTBOX_KIND_ENDPOINT,
    sys::POSTBOX_KIND_LISTENER,
    sys::POSTBOX_KIND_PIPE,
    sys::POSTBOX_KIND_SEMAPHORE,
    sys::POSTBOX_KIND_LATCH,
    sys::POSTBOX_KIND_BARRIER,
    sys::POSTBOX_KIND_SEGMENT,
    sys::POSTBOX_KIND_POOL,
    sys::POSTBOX_KIND_RING,
];

/// What makes one of a kind.
fn open_args(kind: u32, memfd: &OwnedFd) -> sys::postbox_open {
    let memory = [sys::POSTBOX_KIND_SEGMENT, sys::POSTBOX_KIND_POOL].contains(&kind);
    let waits = [
        sys::POSTBOX_KIND_SEMAPHORE,
        sys::POSTBOX_KIND_LATCH,
        sys::POSTBOX_KIND_BARRIER,
    ];
    let pool = u64::from(kind == sys::POSTBOX_KIND_POOL);
    sys::postbox_open {
        kind,
        flags: sys::POSTBOX_O_CREATE,
        rights: BOTH | ADMIN,
        mode: 0o600,
        backlog: u32::from(kind == sys::POSTBOX_KIND_LISTENER) * 4,
        initial: u64::from(waits.contains(&kind)) * 2,
        capacity: match kind {
            sys::POSTBOX_KIND_MAILBOX | sys::POSTBOX_KIND_ENDPOINT => 4,
            sys::POSTBOX_KIND_SEMAPHORE => 4,
            _ => pool,
        },
        capacity_bytes: pool * PAGE as u64,
        memfd: if memory { memfd.as_raw_fd() } else { 0 },
        ..Default::default()
    }
}

fn open_nonblocking() -> Handle {
    let handle = Handle::unbound();
    rustix::fs::fcntl_setfl(&handle, rustix::fs::OFlags::NONBLOCK).expect("a flag");
    handle
}

/// Runs every operation on a handle of each kind against `other`, as a user of its own, who must have no object left. A
/// slow kernel tries each operation on some of the kinds.
fn every_operation(other: impl Fn(u32, &OwnedFd, Op, &mut uring::Ring)) {
    let every = KINDS.len() / scaled(KINDS.len());
    isolated(|| {
        for (number, kind) in KINDS.into_iter().enumerate() {
            spawn_as(fresh_user(), || {
                let memfd = memory(PAGE, 0, SEALS);
                let mut ring = uring::Ring::new(4, 0).expect("a ring");
                let some = Op::all().into_iter().enumerate();
                for (_, op) in some.filter(|(at, _)| (at + number).is_multiple_of(every)) {
                    other(kind, &memfd, op, &mut ring);
                }
                wait_until("all objects to be gone", || {
                    Handle::unbound().usage().2 == 0
                });
            })
            .ok();
        }
    });
}

/// Each operation finds the handle unbound, or bound and whole.
#[test]
fn every_operation_against_open() {
    every_operation(|kind, memfd, op, ring| {
        let handle = open_nonblocking();
        let fd = handle.as_raw_fd();
        let mut opened = Ok(());
        let mut errors = [0; 3];
        race(
            || opened = bind_as_is(&handle, None, &mut open_args(kind, memfd)),
            || errors = std::array::from_fn(|_| op.run(fd, ring)),
        );
        let what = format!("kind {kind}, {op:?}: {errors:?}, {opened:?}");
        let pair = matches!(
            op,
            Op::Ioctl("POSTBOX_PAIR", ..) | Op::Command("POSTBOX_PAIR", ..)
        );
        match opened {
            Ok(()) => assert_eq!(handle.info().kind, kind, "{what}"),
            Err(Errno::ISCONN | Errno::ALREADY) => assert!(pair, "{what}"),
            Err(_) => panic!("{what}"),
        }
        // Its own handle is a sender and a receiver from the first moment on.
        assert!(pair || !errors.contains(&libc::EPIPE), "{what}");
        let info = raw::info(&handle);
        assert!(info.is_ok(), "{what}");
        close_extra();
    });
}

/// Each operation finds the handle open, or no such descriptor.
#[test]
fn every_operation_against_close() {
    every_operation(|kind, memfd, op, ring| {
        let handle = open_nonblocking();
        bind_as_is(&handle, None, &mut open_args(kind, memfd)).expect("it can be made");
        let fd = handle.0.into_raw_fd();
        race(
            || {
                // SAFETY: the descriptor is this thread's; the other one expects that it is closed.
                unsafe { libc::close(fd) };
            },
            || {
                for _ in 0..3 {
                    op.run(fd, ring);
                }
            },
        );
        close_extra();
    });
}

/// Closes the handles that a request has opened: they are not those of this test.
fn close_extra() {
    for entry in std::fs::read_dir("/proc/self/fd").expect("one's own") {
        let entry = entry.expect("an entry");
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().into_string().expect("a number");
        if link.to_string_lossy().contains("anon_inode:[postbox]") {
            // SAFETY: no value owns it: this test keeps no handle that the module made.
            unsafe { libc::close(number.parse().expect("a number")) };
        }
    }
}

/// One of two wins, and what the other one wanted to make is not there.
#[test]
fn two_opens_of_one_handle_leave_one_object() {
    isolated(|| {
        as_each_attacker(|_| {
            for _ in 0..scaled(100) {
                let handle = Handle::unbound();
                let names = [unique("one"), unique("two")];
                let make = |name: &str| {
                    let mut args = sys::postbox_open {
                        kind: sys::POSTBOX_KIND_PIPE,
                        flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
                        rights: BOTH,
                        mode: 0o600,
                        ..Default::default()
                    };
                    raw::open(&handle, Some(name.as_bytes()), &mut args)
                };
                let mut results = [Ok(()), Ok(())];
                let [first, second] = &mut results;
                race(|| *first = make(&names[0]), || *second = make(&names[1]));
                let won: Vec<bool> = results.iter().map(|result| result.is_ok()).collect();
                assert_eq!(won.iter().filter(|won| **won).count(), 1, "{results:?}");
                let there = list();
                for ((name, won), result) in names.iter().zip(won).zip(results) {
                    assert_eq!(there.contains(name), won, "{name}");
                    let known = [Ok(()), Err(Errno::ISCONN), Err(Errno::ALREADY)];
                    assert!(known.contains(&result), "{result:?}");
                    if won {
                        unlink(name).expect("its own");
                    }
                }
            }
        });
    });
}

/// Who polls a handle before it is bound is told what happens afterwards.
#[test]
fn epoll_before_open_is_woken_afterwards() {
    use epoll::EventFlags as E;
    isolated(|| {
        for extra in [E::empty(), E::ET, E::EXCLUSIVE] {
            for looked in [false, true] {
                let name = unique("early");
                let other = Handle::create(&name, 1);
                let early = Handle::unbound();
                let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
                let nothing = epoll::EventData::new_u64(0);
                epoll::add(&set, &early, nothing, E::IN | E::OUT | extra).expect("a file");
                assert_eq!(happened(&set, WATCHDOG), [E::ERR], "it is not bound");
                let make = Make {
                    flags: 0,
                    capacity: 0,
                    mode: 0,
                    rights: BOTH,
                    ..Make::default()
                };
                make.bind(&early, name.as_str()).expect("its own");
                if looked {
                    assert_eq!(happened(&set, WATCHDOG), [E::OUT], "there is room");
                }
                other.put("x");
                let told = happened(&set, WATCHDOG);
                assert!(told.contains(&E::IN), "{extra:?}, {looked}: {told:?}");
                assert_eq!(other.get(), "x");
                // Whatever is left over is looked at, and then there is only what is new.
                while happened(&set, Duration::ZERO).contains(&E::IN) {}
                scope(|scope| {
                    scope.spawn(|| other.put("y"));
                    wait_until("the next event", || {
                        happened(&set, Duration::from_millis(100)).contains(&E::IN)
                    });
                });
                drop(early);
                assert_eq!(happened(&set, Duration::ZERO), [], "it is closed");
                drop(set);
            }
        }
    });
}

/// docs/uapi.md, "Handles": opening a descriptor again gives no other way to an object of any kind.
#[test]
fn reopening_through_proc_is_no_way_to_an_object() {
    isolated(|| {
        let memfd = memory(PAGE, 0, SEALS);
        let again = |fd: BorrowedFd<'_>| {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let file = std::fs::File::options().read(true).write(true).open(path);
            file.map_err(|error| error.raw_os_error().expect("an errno"))
        };
        for kind in KINDS {
            let handle = Handle::unbound();
            bind_as_is(&handle, None, &mut open_args(kind, &memfd)).expect("it can be made");
            let opened = Handle(again(handle.as_fd()).expect("the device").into());
            assert_eq!(raw::info(&opened).map(drop), Err(Errno::BADFD), "{kind}");
            assert_eq!(
                opened.map(0, PAGE, R).map(drop),
                Err(Errno::BADFD),
                "{kind}"
            );
            let second = handle.dup(BOTH).expect("both rights");
            assert_eq!(again(second.as_fd()).map(drop), Err(libc::ENXIO), "{kind}");
        }
    });
}

/// Has a wait on an unbound handle paused, by task work, so that the process has an entry there.
fn pause_unbound(ring: &mut uring::Ring, handle: &Handle, listener: &str) {
    let time = uring::Kept::new([0_i64, 1_000_000]);
    let nudge = uring::Sqe {
        opcode: uring::OP_TIMEOUT,
        fd: -1,
        addr: time.address(),
        len: 1,
        ..Default::default()
    };
    ring.push(&nudge);
    ring.enter(0).expect("io_uring_enter");
    let mut args = sys::postbox_connect {
        size: size_of::<sys::postbox_connect>() as u32,
        flags: sys::POSTBOX_TIMEOUT,
        name: listener.as_ptr() as u64,
        name_len: listener.len() as u32,
        timeout_ns: 4_000_000,
        ..Default::default()
    };
    // SAFETY: the request takes this struct and reads the name, which is borrowed.
    let connected = unsafe { raw::ioctl(handle, sys::POSTBOX_CONNECT, &mut args) };
    assert_eq!(connected, Err(Errno::TIMEDOUT));
    ring.wait();
}

/// The last descriptor of an unbound handle is closed by a thread that gives way; in the middle of that, a ring that has the
/// file binds it and acquires a unit. Whoever settles the process's entry must do so with the object that there is by then.
#[test]
fn binding_during_close_loses_no_unit() {
    const HANDLES: usize = 32;
    isolated(|| {
        let attack = || {
            let (units, full) = (unique("units"), unique("full"));
            let semaphore = MakeSync::semaphore(HANDLES as u64, HANDLES as u64);
            let semaphore = semaphore.open(&*units).expect("the name is new");
            let listener = postbox::Link::options().backlog(1).listen(&full);
            let _listener = listener.expect("the name is new");
            let _waits = postbox::Link::connect(&full).expect("there is room for one");
            let args = uring::Kept::new(sys::postbox_open {
                size: size_of::<sys::postbox_open>() as u32,
                kind: sys::POSTBOX_KIND_SEMAPHORE,
                rights: BOTH,
                name: units.as_ptr() as u64,
                name_len: units.len() as u32,
                ..Default::default()
            });
            let unit = uring::Kept::new(sys::postbox_sync {
                size: size_of::<sys::postbox_sync>() as u32,
                flags: sys::POSTBOX_NONBLOCK | UNDO,
                count: 1,
                ..Default::default()
            });
            let mut delay = 20_000;
            let mut rng = Rng::from_env("binding");
            for _ in 0..scaled(60) {
                let handles: Vec<_> = (0..HANDLES).map(|_| Handle::unbound()).collect();
                let full = &full;
                scope(|scope| {
                    for some in handles.chunks(HANDLES / 8) {
                        scope.spawn(move || {
                            let mut ring = uring::Ring::new(1, 0).expect("a ring");
                            for handle in some {
                                pause_unbound(&mut ring, handle, full);
                            }
                        });
                    }
                });
                let fds: Vec<_> = handles.into_iter().map(|h| h.0.into_raw_fd()).collect();
                let (begun, closed) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let ready = Barrier::new(2);
                scope(|scope| {
                    scope.spawn(|| {
                        stay_on(0);
                        give_way();
                        ready.wait();
                        for (number, fd) in fds.iter().enumerate() {
                            while begun.load(SeqCst) <= number {
                                std::hint::spin_loop();
                            }
                            // SAFETY: the descriptor is this thread's.
                            unsafe { libc::close(*fd) };
                            closed.store(number + 1, SeqCst);
                        }
                    });
                    stay_on(0);
                    let mut ring = uring::Ring::new(2, 0).expect("a ring");
                    ring.register_files(&fds).expect("they are open");
                    ready.wait();
                    for number in 0..HANDLES {
                        let command = |request, address, flags| uring::Sqe {
                            flags: uring::FIXED_FILE | flags,
                            ..uring::Sqe::command(number as RawFd, request, address)
                        };
                        ring.push(&command(sys::POSTBOX_OPEN, args.address(), uring::LINK));
                        ring.push(&command(sys::POSTBOX_ACQUIRE, unit.address(), 0));
                        begun.store(number + 1, SeqCst);
                        std::thread::sleep(Duration::from_nanos(rng.below(2 * delay)));
                        let late = closed.load(SeqCst) > number;
                        assert_eq!([ring.wait().res, ring.wait().res], [0, 0]);
                        // Half of the times it is to come before the end of the close.
                        delay = if late {
                            delay - delay / 16
                        } else {
                            delay + delay / 16
                        };
                        while closed.load(SeqCst) <= number {
                            std::thread::sleep(Duration::from_micros(50));
                        }
                    }
                });
                semaphore.wait_value(HANDLES as u64);
            }
        };
        let ended = Attacker::User.run(attack).wait_at_most(WATCHDOG * 20);
        assert_eq!(ended, Exit::Code(0));
    });
}
