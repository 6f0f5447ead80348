//! Results: what was committed reports its result, in every way in which a command can end.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Barrier;
use std::time::Duration;

use io_uring::{IoUring, squeue};
use postbox::{raw, sys};
use postbox_tests::uring::{
    BUFFER_SELECT, Buffers, CMD_FIXED, DEFER_TASKRUN, FIXED_FILE, Kept, Ring, SINGLE_ISSUER, Sqe,
};
use postbox_tests::*;
use rustix::event::epoll;

/// The most that one operation moves.
const MAX_RW_COUNT: i32 = i32::MAX & !4095;

fn pipe(capacity: u64) -> (Handle, Handle) {
    let pair = postbox::Pipe::options().capacity(capacity).pair();
    let (reader, writer) = pair.expect("descriptors");
    (Handle(reader.into()), Handle(writer.into()))
}

/// Reads until the end; returns how many bytes came.
fn read_all(reader: &Handle, mut each: impl FnMut(&[u8])) -> usize {
    let (mut room, mut total) = (vec![0; 1 << 20], 0);
    loop {
        // SAFETY: the buffer has the length that is said.
        let read = unsafe {
            libc::read(
                reader.as_raw_fd(),
                room.as_mut_ptr().cast(),
                room.len() as libc::size_t,
            )
        };
        match usize::try_from(read).expect("the pipe can be read") {
            0 => return total,
            len => {
                each(&room[..len]);
                total += len;
            }
        }
    }
}

/// A write of 2^32 - 529 bytes, which as a result would be -EIOCBQUEUED: the command would never complete, its task
/// never execute a program, and its ring never end.
#[test]
fn results_write_of_4_gib_completes_with_what_it_moved() {
    const LEN: u32 = u32::MAX - 528;
    assert_eq!(LEN as i32, -529);
    let ended = Attacker::User
        .run(|| {
            let (reader, writer) = pipe(1 << 20);
            let child = spawn(|| {
                let mut ring = Ring::new(4, 0).expect("io_uring is there");
                // SAFETY: a new anonymous mapping touches no memory that exists.
                let source = unsafe {
                    let (protection, flags) = (
                        libc::PROT_READ,
                        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    );
                    libc::mmap(std::ptr::null_mut(), LEN as usize, protection, flags, -1, 0)
                };
                assert_ne!(source, libc::MAP_FAILED);
                let write = Sqe::direct(
                    writer.as_raw_fd(),
                    sys::POSTBOX_WRITE,
                    source as u64,
                    LEN,
                    FOREVER,
                );
                ring.push(&write.tag(1));
                // The watchdog watches what is read; 2 GiB take their time.
                let mut before = 0;
                let cqe = loop {
                    if let Some(cqe) = ring.wait_at_most(WATCHDOG) {
                        break cqe;
                    }
                    let moved = writer.info().sent;
                    assert_ne!(moved, before, "nothing is read any more");
                    before = moved;
                };
                assert_eq!((cqe.user_data, cqe.res), (1, MAX_RW_COUNT));
            });
            drop(writer);
            assert_eq!(read_all(&reader, |_| ()), MAX_RW_COUNT as usize);
            child.ok();
        })
        .wait_at_most(WATCHDOG * 20);
    assert_eq!(ended, Exit::Code(0));
}

/// A write from a registered buffer that is parked on the way moves each of its bytes once.
#[test]
fn results_registered_write_larger_than_the_pipe_repeats_nothing() {
    const WORDS: usize = 8192;
    as_each_attacker(|_| {
        let (reader, writer) = pipe(4096);
        let reads = spawn(|| {
            writer.close_copy();
            let mut bytes = Vec::new();
            let len = read_all(&reader, |some| bytes.extend_from_slice(some));
            assert_eq!(len, WORDS * 4);
            for (at, word) in bytes.chunks_exact(4).enumerate() {
                assert_eq!(word, (at as u32).to_ne_bytes(), "word {at}");
            }
        });
        let buffer = Kept::new(std::array::from_fn::<u32, WORDS, _>(|at| at as u32));
        let mut ring = Ring::new(4, 0).expect("io_uring is there");
        // SAFETY: the buffer stays until the ring is gone, which is declared after it.
        unsafe { ring.register_buffer(buffer.address() as *mut u8, WORDS * 4) }
            .expect("so much may be locked");
        let len = (WORDS * 4) as u32;
        let write = Sqe {
            op_flags: CMD_FIXED,
            ..Sqe::direct(
                writer.as_raw_fd(),
                sys::POSTBOX_WRITE,
                buffer.address(),
                len,
                FOREVER,
            )
        };
        assert_eq!(ring.run(&write), len as i32);
        drop(writer);
        reads.ok();
    });
}

/// The receiver gets a message that came through a thread that is gone by then, and its sender is not told that there
/// is nothing to receive: who believed that would send it again.
#[test]
fn results_message_of_an_ended_thread_is_reported_as_sent() {
    as_each_attacker(|_| {
        for capacity in [0, 1] {
            let (tx, rx) = Handle::anonymous(capacity).split();
            if capacity == 1 {
                tx.put("first");
            }
            let text = Kept::new(*b"order");
            let fd = tx.as_raw_fd();
            let send = Sqe::direct(fd, sys::POSTBOX_SEND, text.address(), 5, FOREVER);
            let mut ring = IoUring::new(4).expect("io_uring is there");
            // SAFETY: both are an entry of 64 bytes, of which every value is valid.
            let entry: squeue::Entry = unsafe { std::mem::transmute(send) };
            // SAFETY: the text stays until the send has completed.
            unsafe { ring.submission().push(&entry) }.expect("there is room");
            let shared = &ring;
            scope(|scope| {
                scope.spawn(|| shared.submit().expect("it can be submitted"));
            });
            tx.wait_senders(1);
            if capacity == 1 {
                assert_eq!(rx.get(), "first");
            }
            assert_eq!(rx.recv(FOREVER).expect("it is sent").text(), "order");
            ring.submit_and_wait(1).expect("it completes");
            let result = ring.completion().next().expect("it has completed").result();
            assert_eq!(result, 0, "it was received");
        }
    });
}

/// A send with a lease whose ring is closed when it has been accepted: the block goes with the message. Given back to
/// the sender, the receiver would be told of a lease that nobody has described.
#[test]
fn results_lease_of_an_accepted_message_goes_with_it() {
    as_each_attacker(|_| {
        let pool = Handle::pool(4, 4096);
        let (tx, rx) = Handle::anonymous(1).split();
        tx.put("first");
        let block = pool.borrow_one();
        let lease = Kept::new(sys::postbox_lease {
            block,
            flags: 0,
            len: 4096,
        });
        let leases = Kept::new(sys::postbox_leases {
            size: size_of::<sys::postbox_leases>() as u32,
            pool: pool.as_raw_fd(),
            entries: lease.address(),
            count: 1,
            ..Default::default()
        });
        let args = Kept::new(sys::postbox_send {
            flags: sys::POSTBOX_LEASES,
            fds: leases.address(),
            ..send_args()
        });
        let mut ring = Ring::new(4, SINGLE_ISSUER | DEFER_TASKRUN).expect("io_uring is there");
        let send = Sqe::command(tx.as_raw_fd(), sys::POSTBOX_SEND, args.address());
        ring.push(&send.tag(1));
        ring.park();
        tx.wait_senders(1);
        // It is accepted, and its ring is gone before anybody could be told.
        assert_eq!(rx.get(), "first");
        drop(ring);
        tx.wait_senders(0);
        wait_until("the command to end", || {
            pool.give_back(&[block]) == Err(Errno::NOENT)
        });
        let (_, entries) = rx.recv_leases(&pool, 4, NEVER).expect("it was accepted");
        assert_eq!(entries, [(block, 4096, 0)]);
        pool.give_back(&[block]).expect("it is the receiver's now");
        assert_eq!(pool.free(), 4);
    });
}

/// The argument of a batch is read-only when it goes on: it says by its completion what was sent. Told that it cannot be
/// written, its owner would send all of it again.
#[test]
fn results_batch_whose_argument_became_unwritable_goes_on() {
    as_each_attacker(|_| {
        let (tx, rx) = Handle::anonymous(1).split();
        tx.put("first");
        let texts = Kept::new(*b"onetwo");
        let entry = |at| sys::postbox_send {
            data: texts.address() + at,
            len: 3,
            ..send_args()
        };
        let entries = Kept::new([entry(0), entry(3)]);
        let arena = Arena::new(1);
        let args = sys::postbox_batch {
            size: size_of::<sys::postbox_batch>() as u32,
            count: 2,
            entries: entries.address(),
            entry_size: size_of::<sys::postbox_send>() as u32,
            ..Default::default()
        };
        arena.put(arena.at, bytes(&args));
        let mut ring = Ring::new(4, 0).expect("io_uring is there");
        ring.push(&Sqe::command(tx.as_raw_fd(), sys::POSTBOX_SEND_BATCH, arena.at).tag(1));
        ring.park();
        tx.wait_senders(1);
        // SAFETY: the arena's own page, to which no reference leads.
        check("mprotect", unsafe {
            libc::mprotect(arena.at as *mut _, arena.len, libc::PROT_READ)
        });
        let mut texts = Vec::new();
        for _ in 0..3 {
            texts.push(rx.get());
            ring.enter(0).expect("it goes on");
        }
        assert_eq!(texts, ["first", "one", "two"]);
        assert_eq!(ring.wait().res, 2, "both were sent");
    });
}

/// A process that closes its last descriptor of a rendezvous, and gets it again, while its ring receives from it by a
/// registered file: each message comes once.
#[test]
fn results_multishot_at_a_rendezvous_gives_each_message_once() {
    const MESSAGES: u64 = 20_000;
    const GROUP: u16 = 1;
    let ended = Attacker::User
        .run(|| {
            let (tx, rx) = Handle::anonymous(0).split();
            let sends = spawn(|| {
                // The parent gets the handle from here.
                for number in 1..=MESSAGES {
                    let sent = tx.send(number.to_ne_bytes(), FOREVER);
                    sent.expect("it is received");
                }
            });
            let mut ring = Ring::new(8, 0).expect("io_uring is there");
            let mut buffers = Buffers::new(&ring, GROUP, 64, 256).expect("a group");
            let number = rx.as_raw_fd();
            ring.register_files(&[number]).expect("it is open");
            rx.close_copy();
            std::mem::forget(rx);
            drop(tx);
            let pidfd = rustix::process::pidfd_open(
                rustix::process::Pid::from_raw(sends.pid() as i32).expect("a child"),
                rustix::process::PidfdFlags::empty(),
            );
            let pidfd = pidfd.expect("it lives");
            let stop = std::sync::atomic::AtomicBool::new(false);
            scope(|scope| {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let flags = rustix::process::PidfdGetfdFlags::empty();
                        // Closed again at once. The child may be gone at the end.
                        drop(rustix::process::pidfd_getfd(&pidfd, number, flags));
                    }
                });
                let receive = Sqe {
                    flags: FIXED_FILE | BUFFER_SELECT,
                    ..Sqe::multishot(0, sys::POSTBOX_RECV, GROUP, 0, FOREVER)
                };
                let (mut last, mut armed) = (0, false);
                while last < MESSAGES {
                    if !armed {
                        ring.push(&receive.tag(1));
                    }
                    let cqe = ring.wait();
                    armed = cqe.more();
                    let Some(number) = cqe.buffer() else {
                        continue;
                    };
                    let size = size_of::<sys::postbox_record>();
                    let bytes = buffers.bytes(number, size + 8);
                    let text = bytes[size..].try_into().expect("eight bytes");
                    buffers.give(number);
                    assert_eq!(u64::from_ne_bytes(text), last + 1);
                    last += 1;
                }
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            sends.ok();
        })
        .wait_at_most(WATCHDOG * 20);
    assert_eq!(ended, Exit::Code(0));
}

/// Many entries of epoll sets for a handle, which take as long to wake as they are many.
fn poll_slowly(handle: &Handle, events: epoll::EventFlags, sets: usize) -> Vec<OwnedFd> {
    let copies: Vec<_> = (0..128).map(|_| handle.0.try_clone()).collect();
    let mut polling = Vec::new();
    for _ in 0..sets {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        for copy in copies.iter().flatten() {
            epoll::add(&set, copy, epoll::EventData::new_u64(0), events).expect("an entry");
        }
        polling.push(set);
    }
    polling.extend(copies.into_iter().flatten());
    polling
}

/// A receiver ends the wait of a batch's first message, and wakes many pollers before it kicks the command. The command has
/// found that by itself, since its own wake-ups took long, too, and waits with the second message when the kick comes. The
/// leases of that message stay with it. A page can be as slow by a file system of the user's own.
#[test]
fn results_late_kick_leaves_leases_with_their_message() {
    isolated(|| {
        let pool = Handle::pool(1, PAGE as u64);
        let block = pool.borrow_one();
        let (tx, rx) = Handle::anonymous(0).split();
        let _receivers = poll_slowly(&rx, epoll::EventFlags::IN, scaled(240));
        let _senders = poll_slowly(&tx, epoll::EventFlags::OUT, scaled(160));
        // The last one is the first to be woken.
        let mine = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
        let events = epoll::EventFlags::IN;
        epoll::add(&mine, &rx, epoll::EventData::new_u64(0), events).expect("an entry");
        let size = size_of::<sys::postbox_leases>() as u32;
        let entry = Kept::new(sys::postbox_lease {
            block,
            flags: SHARED,
            len: 1,
        });
        let leases = Kept::new(sys::postbox_leases {
            size,
            pool: pool.as_raw_fd(),
            entries: entry.address(),
            count: 1,
            ..Default::default()
        });
        let text = Kept::new(*b"x");
        let message = sys::postbox_send {
            data: text.address(),
            len: 1,
            flags: sys::POSTBOX_LEASES,
            fds: leases.address(),
            ..send_args()
        };
        let entries = Kept::new([message; 2]);
        let args = sys::postbox_batch {
            size: size_of::<sys::postbox_batch>() as u32,
            count: 2,
            entries: entries.address(),
            entry_size: size_of::<sys::postbox_send>() as u32,
            ..Default::default()
        };
        // The first message goes into a page that is not there before another receiver waits, the second one to that.
        let round = || {
            let page = SlowPage::new();
            let fault = page.fault();
            let (ready, waits) = (Barrier::new(4), Gate::new());
            scope(|scope| {
                let first = scope.spawn(|| {
                    stay_on(1);
                    // SAFETY: the page is this test's alone, and lives longer than this.
                    let room = unsafe {
                        std::slice::from_raw_parts_mut(page.address() as *mut MaybeUninit<u8>, PAGE)
                    };
                    let mut entries = [MaybeUninit::uninit()];
                    let mut leases = raw::Leases::new(pool.as_fd()).room(&mut entries);
                    let (mut args, mut files) = (recv_args(), Vec::new());
                    ready.wait();
                    wait_readable("the first message", &mine);
                    let received = raw::recv_leases(&rx, room, &mut files, &mut leases, &mut args);
                    received.map(drop).expect("it is offered");
                    leases.args().count
                });
                let second = scope.spawn(|| {
                    stay_on(1);
                    let mut ring = Ring::new(4, SINGLE_ISSUER | DEFER_TASKRUN).expect("a ring");
                    let (entry, text) =
                        (Kept::new(sys::postbox_lease::default()), Kept::new([0; 8]));
                    let leases = Kept::new(sys::postbox_leases {
                        size,
                        pool: pool.as_raw_fd(),
                        entries: entry.address(),
                        max: 1,
                        ..Default::default()
                    });
                    let args = Kept::new(sys::postbox_recv {
                        flags: sys::POSTBOX_LEASES,
                        data: text.address(),
                        len: 8,
                        fds: leases.address(),
                        ..recv_args()
                    });
                    ready.wait();
                    fault.wait();
                    waits.open(1);
                    ring.push(&Sqe::command(
                        rx.as_raw_fd(),
                        sys::POSTBOX_RECV,
                        args.address(),
                    ));
                    ring.submit();
                    let first = first.join().expect("it receives");
                    // A kick that is late comes before that.
                    std::thread::sleep(Duration::from_millis(20));
                    assert_eq!(ring.wait().res, 1);
                    [first, leases.get().count]
                });
                scope.spawn(|| {
                    stay_on(1);
                    ready.wait();
                    waits.pass();
                    rx.wait_receivers(1);
                    fault.resolve(&[]);
                });
                let sender = scope.spawn(|| {
                    stay_on(0);
                    let mut ring = Ring::new(4, 0).expect("io_uring is there");
                    let args = Kept::new(args);
                    let fd = tx.as_raw_fd();
                    ready.wait();
                    std::thread::sleep(Duration::from_millis(5));
                    ring.run(&Sqe::command(fd, sys::POSTBOX_SEND_BATCH, args.address()))
                });
                let leases = second.join().expect("it receives");
                assert_eq!(sender.join().expect("it sends"), 2);
                leases
            })
        };
        for _ in 0..20 {
            assert_eq!(round(), [1, 1], "leases that came with both messages");
            pool.give_back(&[block, block]).expect("they were received");
        }
    });
}

/// An answer is made of memory that another user's message had before. Its files are the caller's all the same.
#[test]
fn results_files_of_an_answer_are_not_charged_to_a_third() {
    let files_of = || raw::usage(Handle::unbound()).expect("it tells").files;
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        spawn_as(BOB, || mailbox.put_all(["a", "b", "c"])).ok();
        let [answered, seen] = [(); 2].map(|()| Gate::new());
        let alice = spawn_as(ALICE, || {
            (0..3).for_each(|_| drop(mailbox.get()));
            let caller = spawn(|| {
                let mut args = sys::postbox_call::default();
                args.reply.fd_max = 64;
                let mut room = [MaybeUninit::uninit(); 10];
                let answer = raw::call(&mailbox, b"?", &[], &mut room, &mut Vec::new(), &mut args);
                assert_eq!(answer.expect("an answer"), b"!");
            });
            let mut args = sys::postbox_recv::default();
            raw::recv(&mailbox, &mut [0; 10], &mut args).expect("it calls");
            caller.kill(libc::SIGSTOP);
            wait_until("it to be stopped", || caller.state() == 'T');
            let (read, _write) = std::io::pipe().expect("a pipe");
            let files: Vec<_> = (0..64).map(|_| raw::SendFd::new(read.as_fd(), 0)).collect();
            let answer = sys::postbox_reply {
                token: args.token,
                ..Default::default()
            };
            assert_eq!(raw::reply(&mailbox, b"!", &files, &answer), Ok(()));
            assert_eq!(files_of(), 64);
            answered.open(1);
            seen.pass();
            caller.kill(libc::SIGCONT);
            caller.ok();
        });
        answered.pass();
        spawn_as(BOB, || assert_eq!(files_of(), 0)).ok();
        seen.open(1);
        alice.ok();
    });
}

/// An entry that has nothing any more goes with its watch, whose end sleeps: not under a lock, as the debug kernel sees.
#[test]
fn results_entry_without_units_goes_outside_of_the_lock() {
    as_each_attacker(|_| {
        let semaphore = Handle::semaphore(3, 10);
        assert_eq!(semaphore.acquire(1, UNDO, NEVER), Ok(false));
        assert_eq!(semaphore.release(1, UNDO), Ok(()));
        drop(semaphore);
    });
}

/// A small request for a multishot command, whose buffer's page is there: it is posted before it is received.
#[test]
fn results_multishot_request_is_posted() {
    const GROUP: u16 = 1;
    as_each_attacker(|_| {
        let (tx, rx) = Handle::anonymous(8).split();
        let mut ring = Ring::new(8, 0).expect("io_uring is there");
        let mut buffers = Buffers::new(&ring, GROUP, 4, 500).expect("a group");
        ring.push(&Sqe::multishot(rx.as_raw_fd(), sys::POSTBOX_RECV, GROUP, 0, FOREVER).tag(1));
        ring.park();
        let touched = Gate::new();
        let caller = spawn(|| {
            touched.pass();
            let mut args = sys::postbox_call::default();
            let mut room = [MaybeUninit::uninit(); 10];
            let answer = raw::call(&tx, b"?", &[], &mut room, &mut Vec::new(), &mut args);
            assert_eq!(answer.expect("an answer"), b"!");
        });
        for number in 0..4 {
            // SAFETY: the group has so many buffers, and the kernel uses none of them before the call. The page is there from
            // now on, after the fork.
            unsafe { (buffers.address(number) as *mut u8).write_volatile(0) };
        }
        touched.open(1);
        let cqe = ring.wait();
        let buffer = cqe.buffer().expect("it has a buffer");
        let bytes = buffers.bytes(buffer, cqe.res as usize);
        // SAFETY: the kernel has put a record there.
        let record = unsafe {
            bytes
                .as_ptr()
                .cast::<sys::postbox_record>()
                .read_unaligned()
        };
        buffers.give(buffer);
        let answer = sys::postbox_reply {
            token: record.token,
            ..Default::default()
        };
        assert_eq!(raw::reply(&rx, b"!", &[], &answer), Ok(()));
        caller.ok();
    });
}
