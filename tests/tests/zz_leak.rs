//! Runs last: nothing of all the other tests is left.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use postbox::{Ring, raw, sys};
use postbox_tests::*;

#[test]
fn g12_nothing_is_left() {
    let objects =
        || fs::read_to_string("/sys/kernel/debug/postbox/objects").expect("debugfs is mounted");
    // Files that a dying process still closes are gone in a moment.
    wait_until("the last objects to go", || objects().lines().count() == 1);
    assert_eq!(list(), Vec::<String>::new());
    let handle = Handle::unbound();
    let unused = |handle: &Handle| {
        assert_eq!(handle.usage(), (0, 0, 0), "messages, bytes and objects");
        let usage = raw::usage(handle).expect("it tells");
        assert_eq!(
            (usage.files, usage.shared),
            (0, 0),
            "files and shared memory"
        );
    };
    unused(&handle);
    for user in [ALICE, BOB] {
        spawn_as(user, || unused(&Handle::unbound())).ok();
    }
    let references = || -> u32 {
        let text = fs::read_to_string("/sys/module/postbox/refcnt").expect("the module is loaded");
        text.trim().parse().expect("a number")
    };
    assert_eq!(
        references(),
        1,
        "this handle keeps the module, and nothing else"
    );
    drop(handle);
    wait_until("the last reference to go", || references() == 0);
}

/// What can be done with pools and rings, and what is left half done.
fn work_out_shared_memory() {
    let pool = Handle::pool(16, 4096);
    pool.map(0, 16 * PAGE, RW).expect("rights").set(5, 1);
    let (reader, mailbox) = (
        pool.dup(RECEIVE).expect("fewer rights"),
        Handle::anonymous(8),
    );
    let blocks = pool.borrow(9, FOREVER).expect("all are free");
    let send = |entries: &[Entry]| mailbox.send_leases("x", &pool, entries, NEVER);
    // One is received and held, one is taken and never settled, one is shared, one stays under way, and one refused.
    for (block, flags) in blocks.iter().zip([0, 0, SHARED, 0]) {
        send(&[(*block, 10, flags)]).expect("there is room");
    }
    assert_eq!(
        send(&[(blocks[4], 10, 0), (blocks[0], 10, 0)]),
        Err(Errno::NOENT)
    );
    mailbox.recv_leases(&reader, 1, NEVER).expect("sent");
    let ack = sys::POSTBOX_RECV_ACK;
    let taken = mailbox.recv_leases_flags(&pool, 1, NEVER, ack).0;
    assert_eq!(taken.map(|(_, entries)| entries.len()), Ok(1));
    mailbox.recv_leases(&reader, 1, NEVER).expect("sent");
    let mut ride = Ride {
        returns: blocks[5..7].to_vec(),
        want: 1,
        ..Ride::default()
    };
    let sent = mailbox.send_riding("", &pool, &[(blocks[7], 1, 0)], &mut ride, NEVER);
    assert_eq!((sent, ride.returns.len(), ride.lent.len()), (Ok(()), 0, 1));
    // A reply that does not fit is kept, with its lease.
    let (tx, rx) = Handle::anonymous(1).split();
    let server = pool.dup(RECEIVE | SEND).expect("the same rights");
    let answers = std::thread::spawn(move || {
        let request = rx.recv(FOREVER).expect("it comes");
        let entries = entries_of(&[(server.borrow_one(), 1, 0)]);
        let mut leases = raw::Leases::new(server.as_fd()).entries(&entries);
        let args = sys::postbox_reply {
            token: request.token,
            ..Default::default()
        };
        raw::reply_leases(&rx, b"", &[], &mut leases, &args).expect("the caller waits");
    });
    let mut args = sys::postbox_call::default();
    let kept = raw::call(&tx, b"?", &[], &mut [], &mut Vec::new(), &mut args);
    assert_eq!(kept, Err(Errno::MSGSIZE));
    answers.join().expect("no panic");

    let ring = Ring::options().capacity(1 << 16).many(true).pair();
    let (sender, receiver) = ring.expect("a ring");
    let mut producer = sender.attach().expect("nobody else");
    let mut consumer = receiver.attach().expect("nobody else");
    let mut other = producer.try_clone().expect("there may be many");
    producer.send(&[1; 100]).expect("there is room");
    std::mem::forget(other.reserve(50).expect("there is room"));
    assert_eq!(consumer.recv().expect("it is there").len(), 100);
    // The consumer goes first, and the second producer with what it has reserved.
    drop((consumer, receiver));
}

/// Everything that can be done with calls, links, files, pipes and wait objects, and what is left half done.
fn work_out() {
    let (tx, rx) = Handle::anonymous(8).split();
    let server = std::thread::spawn(move || {
        // The last request stays unanswered.
        for _ in 0..3 {
            let request = rx.recv(FOREVER).expect("it comes");
            let own = [raw::SendFd::new(rx.as_fd(), RECEIVE)];
            let args = sys::postbox_reply {
                token: request.token,
                ..Default::default()
            };
            raw::reply(&rx, &[3; 3000], &own, &args).expect("the caller waits");
        }
        rx.recv(FOREVER).expect("it comes");
    });
    let call = |room: usize| {
        let mut args = sys::postbox_call::default();
        args.reply.fd_max = 1;
        let (mut room, mut files) = (vec![MaybeUninit::uninit(); room], Vec::new());
        let result = raw::call(&tx, &[2; 500], &[], &mut room, &mut files, &mut args);
        result.map(|bytes| bytes.len())
    };
    // One is taken, two are kept until the handle goes.
    assert_eq!(call(4000), Ok(3000));
    assert_eq!([call(1), call(2)], [Err(Errno::MSGSIZE); 2]);
    assert_eq!(call(10), Err(Errno::OWNERDEAD));
    server.join().expect("no panic");

    let name = unique("leak");
    let listener = Handle::unbound();
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_LISTENER,
        flags: sys::POSTBOX_O_CREATE,
        rights: SEND | RECEIVE,
        capacity: 4,
        back_capacity: 4,
        backlog: 4,
        ..Default::default()
    };
    raw::open(&listener, Some(name.as_bytes()), &mut args).expect("new");
    let connect = || {
        let handle = Handle::unbound();
        let mut args = sys::postbox_connect::default();
        raw::connect(&handle, Some(name.as_bytes()), &mut args).expect("there is room");
        handle
    };
    let [first, second, _never_accepted] = [(); 3].map(|()| connect());
    let mut args = sys::postbox_accept::default();
    let accepted = raw::accept(&listener, &mut args)
        .map(Handle)
        .expect("one waits");
    drop(second);
    let files = [tx.as_fd(), accepted.as_fd(), first.as_fd()].map(|fd| raw::SendFd::new(fd, 0));
    let send = sys::postbox_send::default();
    raw::send_files(&first, &[1; 2000], &files[..1], &send).expect("there is room");
    assert_eq!(
        raw::send_files(&first, b"", &files[1..2], &send),
        Err(Errno::LOOP)
    );
    accepted.put([5; 700]);
    raw::shutdown(&first, sys::POSTBOX_SHUT_SEND).expect("it is a link");
    let pair = Handle::unbound();
    let mut args = sys::postbox_pair {
        capacity: 9,
        ..Default::default()
    };
    let other = Handle(raw::pair(&pair, &mut args).expect("it can be made"));
    raw::send_files(&pair, b"ends of another link", &files[1..], &send).expect("room");
    drop(other);

    let pipe = Handle::unbound();
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_PIPE,
        flags: sys::POSTBOX_O_CREATE,
        rights: SEND | RECEIVE,
        ..Default::default()
    };
    raw::open(&pipe, None, &mut args).expect("new");
    raw::write(&pipe, &[6; 5000], NEVER.0, 0).expect("there is room");
    raw::set_capacity(&pipe, 16_384).expect("it fits");
    raw::read(&pipe, &mut [0; 100], NEVER.0, 0).expect("it is there");

    let (semaphore, latch, barrier) = (
        Handle::semaphore(3, 9),
        Handle::latch(3),
        Handle::barrier(2),
    );
    semaphore.acquire(2, UNDO, NEVER).expect("it is there");
    assert_eq!(semaphore.acquire(5, UNDO, within(1)), Err(Errno::TIMEDOUT));
    latch.join(2).expect("it is not open");
    latch.count_down(1).expect("it is not open");
    barrier.join(1).expect("it has two");
    barrier.arrive().expect("it is the first");
}

#[test]
fn g12_memory_comes_back() {
    // What a round leaves behind would add up over many of them.
    let round = || {
        let mailbox = Make {
            rights: SEND | RECEIVE | ADMIN,
            capacity: UNBOUNDED,
            ..Make::default()
        }
        .open(unique("leak").as_str())
        .expect("new");
        for len in [0, 50, 500, 5000, 50_000] {
            mailbox.put(vec![1; len]);
            mailbox.put(vec![1; len]);
        }
        let taken = mailbox.take(NEVER).expect("sent");
        mailbox.reserve(1000, NEVER).expect("room");
        assert_eq!(
            mailbox.send([0; 10], Wait(sys::POSTBOX_NONBLOCK, 1)),
            Err(Errno::INVAL)
        );
        drop((mailbox.sender(), mailbox.receiver()));
        mailbox.requeue(taken.token).expect("ours");
        let _gone_with_it = mailbox.take(NEVER).expect("sent");
        work_out();
        work_out_shared_memory();
    };
    let used = || -> i64 {
        let text = fs::read_to_string("/proc/meminfo").expect("procfs is mounted");
        let field = |name: &str| -> i64 {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .expect("the kernel tells");
            line.trim_start_matches(':')
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .expect("a number")
        };
        // Payloads are slab or vmalloc memory, what is touched of a pool is shared memory.
        field("Slab") + field("VmallocUsed") + field("Shmem")
    };
    isolated(|| {
        (0..50).for_each(|_| round());
        if fs::exists("/sys/kernel/debug/kmemleak").unwrap_or(false) {
            // KASAN keeps freed memory for a while, so that it cannot be counted; and such a kernel is asked for
            // leaks when all is over.
            (0..350).for_each(|_| round());
            return;
        }
        wait_until("the objects of the rounds to go", || {
            Handle::unbound().usage() == (0, 0, 0)
        });
        let before = used();
        const ROUNDS: i64 = 1000;
        (0..ROUNDS).for_each(|_| round());
        // A round has about 110 kB in it; to lose a hundredth of that each time would be seen.
        let mut grown = used() - before;
        for _ in 0..100 {
            if grown < ROUNDS {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            grown = used() - before;
        }
        assert!(grown < ROUNDS, "{ROUNDS} rounds left {grown} kB");
    });
}
