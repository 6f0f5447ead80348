//! Guarantee 11, when memory is short: every allocation and every copy of user memory that a request makes is made to
//! fail, one after the other, with the kernel's fault injection. The request fails, and has done nothing.
//!
//! The stock kernel has no fault injection; there, these tests have nothing to do. The debug kernel has.

use std::cell::RefCell;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use postbox::{raw, sys};
use postbox_tests::uring::{self, Buffers, Kept, Ring, Sqe};
use postbox_tests::*;

/// The switch for this thread: the n-th thing that can fail will.
struct Injector(File);

impl Injector {
    /// `None`, and says so: this kernel has none.
    fn new() -> Option<Self> {
        let switch = "/proc/thread-self/fail-nth";
        let Ok(file) = File::options().read(true).write(true).open(switch) else {
            tell("this kernel has no fault injection (the debug kernel has)");
            return None;
        };
        let set = |name: &str, value: &str| {
            let path = format!("/sys/kernel/debug/{name}");
            fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
        };
        // Allocations that may sleep, too, and single pages; and nothing to the kernel log.
        for (name, value) in [
            ("failslab/ignore-gfp-wait", "N"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("fail_page_alloc/verbose", "0"),
            ("fail_usercopy/verbose", "0"),
        ] {
            set(name, value);
        }
        Some(Injector(file))
    }

    /// Runs a call whose n-th step fails; says whether it has that many.
    fn run<T>(&self, n: u32, call: impl FnOnce() -> T) -> (T, bool) {
        self.0
            .write_at(n.to_string().as_bytes(), 0)
            .expect("the file takes a number");
        let result = call();
        // Reading it copies to user memory, and so may be what fails: then the call has had no n-th step.
        let mut left = [0; 16];
        let hit = self.0.read_at(&mut left, 0).is_ok_and(|_| left[0] == b'0');
        while self.0.write_at(b"0", 0).is_err() {}
        (result, hit)
    }
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd")
        .expect("procfs is mounted")
        .count()
}

/// What must not change by a call that fails. Refusals (`full`) are counted all the same.
fn state(handle: &Handle) -> [u64; 19] {
    let i = handle.info();
    let usage = raw::usage(handle).expect("every handle can tell");
    [
        i.messages,
        i.bytes,
        i.unacknowledged,
        i.reserved_messages,
        i.sent,
        i.received,
        i.redelivered,
        i.senders.into(),
        i.receivers.into(),
        i.mode.into(),
        usage.messages,
        usage.bytes,
        usage.objects,
        usage.files,
        usage.shared,
        i.value,
        i.capacity_bytes,
        i.flags.into(),
        i.back_messages,
    ]
}

/// Lets every step of a call fail, of which there are at least so many. `prepare` makes what it works on, anew for each.
fn sweep<T>(
    (name, at_least): (&str, u32),
    prepare: impl Fn() -> (Handle, T),
    call: impl Fn(&Handle, &T) -> Result<()>,
) {
    let Some(injector) = Injector::new() else {
        return;
    };
    // What is done once and for all is done.
    let (handle, extra) = prepare();
    assert_eq!(call(&handle, &extra), Ok(()), "{name}, with no fault");
    drop((handle, extra));
    let mut failed = 0;
    for n in 1.. {
        let (handle, extra) = prepare();
        let (before, open, objects) = (state(&handle), descriptors(), list());
        let (result, hit) = injector.run(n, || call(&handle, &extra));
        if !hit {
            assert_eq!(result, Ok(()), "{name}: no fault, step {n}");
            break;
        }
        // Some failures have a way around them.
        if let Err(error) = result {
            failed += 1;
            let expected = [Errno::NOMEM, Errno::FAULT, Errno::NFILE].contains(&error);
            assert!(expected, "{name}, step {n}: {error}");
            assert_eq!(
                state(&handle),
                before,
                "{name}: step {n} failed and left something"
            );
            assert_eq!(
                (descriptors(), list()),
                (open, objects),
                "{name}: step {n} failed and left something"
            );
            assert_eq!(
                call(&handle, &extra),
                Ok(()),
                "{name}, after step {n} failed"
            );
        }
        assert!(n < 1000, "{name} has no end");
    }
    tell(&format!("{name}: {failed} steps can fail"));
    assert!(
        failed >= at_least,
        "{name}: only {failed} steps were made to fail"
    );
}

/// A sweep in a process of its own.
fn faults<T>(
    what: (&str, u32),
    prepare: impl Fn() -> (Handle, T),
    call: impl Fn(&Handle, &T) -> Result<()>,
) {
    isolated(|| sweep(what, prepare, call));
}

fn mailbox() -> Handle {
    let rights = SEND | RECEIVE | ADMIN;
    Make {
        rights,
        capacity: 8,
        ..Make::default()
    }
    .open(unique("faults").as_str())
    .expect("new")
}

fn with_message() -> (Handle, ()) {
    let handle = mailbox();
    handle.put("the message");
    handle.put(vec![7; 3000]);
    (handle, ())
}

/// Which is not received in one step.
fn with_large_message() -> (Handle, ()) {
    let handle = mailbox();
    handle.put(vec![7; 3000]);
    (handle, ())
}

fn with_job() -> (Handle, u64) {
    let (handle, ()) = with_message();
    let token = handle.take(NEVER).expect("sent").token;
    (handle, token)
}

#[test]
fn g11_faults_in_open() {
    faults(
        ("open the device", 1),
        || (mailbox(), ()),
        |_, ()| raw::device().map(drop),
    );
    let unbound = || (mailbox(), Handle::unbound());
    faults(("create without a name", 1), unbound, |_, handle| {
        Make::default().bind(handle, None).map(drop)
    });
    faults(("create", 1), unbound, |_, handle| {
        Make::default()
            .bind(handle, unique("faults").as_str())
            .map(drop)
    });
    let named = || {
        let mailbox = mailbox();
        let name = name_of(&mailbox.info());
        (mailbox, (Handle::unbound(), name))
    };
    faults(("open", 1), named, |_, (handle, name)| {
        Make {
            flags: 0,
            ..Make::default()
        }
        .bind(handle, name.as_str())
        .map(drop)
    });
    faults(
        ("dup", 1),
        || (mailbox(), ()),
        |handle, ()| handle.dup(SEND).map(drop),
    );
}

#[test]
fn g11_faults_in_send() {
    let empty = || (mailbox(), ());
    faults(("send", 1), empty, |handle, ()| {
        handle.send("a few bytes", NEVER)
    });
    faults(("send nothing", 0), empty, |handle, ()| {
        handle.send("", NEVER)
    });
    let large = vec![1; 3000];
    faults(("send 3000 bytes", 1), empty, |handle, ()| {
        handle.send(&large, NEVER)
    });
    let huge = vec![1; 300_000];
    faults(("send 300000 bytes", 1), empty, |handle, ()| {
        handle.send(&huge, NEVER)
    });
    faults(("write", 1), empty, |handle, ()| {
        rustix::io::write(handle, &large).map(drop)
    });
    faults(("send a batch of one", 1), empty, |handle, ()| {
        raw::send_batch(handle, &[raw::SendEntry::new(&large, 0)], NEVER.0, 0).map(drop)
    });
    faults(("reserve", 0), empty, |handle, ()| {
        handle.reserve(100, NEVER)
    });
    let reserved = || {
        let handle = mailbox();
        handle.reserve(100, NEVER).expect("room");
        (handle, ())
    };
    faults(("cancel", 0), reserved, |handle, ()| handle.cancel(100));
    faults(("send into a reservation", 0), reserved, |handle, ()| {
        handle.send_reserved("a few bytes", 100)
    });
}

#[test]
fn g11_faults_in_receive() {
    for (name, at_least, with_message) in [
        ("recv", 1, with_large_message as fn() -> _),
        ("recv at once", 0, with_message),
    ] {
        faults((name, at_least), with_message, |handle, ()| {
            handle.recv(NEVER).map(drop)
        });
    }
    faults(("take", 1), with_message, |handle, ()| {
        handle.take(NEVER).map(drop)
    });
    // A copy that fails is made again in another way.
    faults(("read", 0), with_message, |handle, ()| {
        rustix::io::read(handle, &mut [0; 100]).map(drop)
    });
    faults(("recv a batch of one", 1), with_message, |handle, ()| {
        let mut buffer = [MaybeUninit::uninit(); 100];
        raw::recv_batch(handle, &mut [raw::RecvEntry::new(&mut buffer)], NEVER.0, 0).map(drop)
    });
    faults(("ack", 0), with_job, |handle, token| handle.ack(*token));
    faults(("requeue", 0), with_job, |handle, token| {
        handle.requeue(*token)
    });
}

#[test]
fn g11_faults_in_a_rendezvous() {
    isolated(|| {
        let Some(injector) = Injector::new() else {
            return;
        };
        // What is done once and for all is done.
        assert_eq!(Handle::anonymous(0).recv(NEVER), Err(Errno::AGAIN));
        for n in 1.. {
            let mailbox = Handle::anonymous(0);
            let sender = spawn(|| mailbox.send("precious", FOREVER).expect("a receiver comes"));
            mailbox.wait_senders(1);
            let (result, hit) = injector.run(n, || mailbox.recv(NEVER));
            if let Err(error) = &result {
                assert_eq!(*error, Errno::FAULT, "step {n}");
                assert!(
                    sender.running(),
                    "step {n}: the receive failed, and the send did not"
                );
                assert_eq!(mailbox.get(), "precious");
            }
            sender.ok();
            if !hit {
                break;
            }
            assert!(n < 1000, "it has no end");
        }
    });
}

/// An object of a kind, of which it says what is special.
fn object(kind: u32, args: sys::postbox_open, name: Option<&str>) -> Handle {
    let handle = Handle::unbound();
    bind(&handle, kind, args, name).expect("it can be made");
    handle
}

fn bind(handle: &Handle, kind: u32, args: sys::postbox_open, name: Option<&str>) -> Result<()> {
    let sync = kind >= sys::POSTBOX_KIND_SEMAPHORE;
    let mut args = sys::postbox_open {
        kind,
        flags: args.flags | sys::POSTBOX_O_CREATE,
        rights: SEND | RECEIVE,
        mode: 0o600,
        capacity: if sync || kind == sys::POSTBOX_KIND_PIPE {
            0
        } else {
            8
        },
        initial: if sync { 4 } else { 0 },
        ..args
    };
    if kind == sys::POSTBOX_KIND_SEMAPHORE {
        args.capacity = 9;
    }
    if kind == sys::POSTBOX_KIND_LINK || kind == sys::POSTBOX_KIND_LISTENER {
        args.back_capacity = 8;
    }
    raw::open(handle, name.map(str::as_bytes), &mut args)
}

fn plain(kind: u32) -> Handle {
    object(kind, sys::postbox_open::default(), None)
}

fn port(number: u32) -> sys::postbox_open {
    sys::postbox_open {
        flags: sys::POSTBOX_O_PORT,
        number,
        ..Default::default()
    }
}

/// A listener with room, and its name.
fn listener() -> (Handle, String) {
    let name = unique("faults");
    let args = sys::postbox_open {
        backlog: 4,
        ..Default::default()
    };
    let listener = object(sys::POSTBOX_KIND_LISTENER, args, Some(&name));
    (listener, name)
}

fn connect(handle: &Handle, name: &str) -> Result<()> {
    let mut args = sys::postbox_connect {
        flags: NEVER.0,
        ..Default::default()
    };
    raw::connect(handle, Some(name.as_bytes()), &mut args)
}

fn sync(flags: u32) -> sys::postbox_sync {
    sys::postbox_sync {
        flags,
        count: 1,
        ..Default::default()
    }
}

#[test]
fn g11_faults_in_open_of_every_kind() {
    let unbound = || (mailbox(), Handle::unbound());
    for kind in [
        sys::POSTBOX_KIND_LISTENER,
        sys::POSTBOX_KIND_PIPE,
        sys::POSTBOX_KIND_SEMAPHORE,
        sys::POSTBOX_KIND_LATCH,
        sys::POSTBOX_KIND_BARRIER,
    ] {
        let what = format!("create kind {kind}");
        faults((&what, 1), unbound, |_, handle| {
            bind(
                handle,
                kind,
                sys::postbox_open::default(),
                Some(&unique("faults")),
            )
        });
    }
    faults(("create an endpoint", 1), unbound, |_, handle| {
        bind(
            handle,
            sys::POSTBOX_KIND_ENDPOINT,
            sys::postbox_open::default(),
            None,
        )
    });
    for (kind, what) in [
        (sys::POSTBOX_KIND_LINK, "open a port"),
        (sys::POSTBOX_KIND_LISTENER, "listen at a port"),
    ] {
        faults((what, 1), unbound, |_, handle| {
            bind(handle, kind, port(77), None)
        });
    }
    let opened = || {
        let first = object(sys::POSTBOX_KIND_LINK, port(78), None);
        first.put("x");
        (first, Handle::unbound())
    };
    faults(("join a port", 1), opened, |_, handle| {
        bind(handle, sys::POSTBOX_KIND_LINK, port(78), None)
    });
}

#[test]
fn g11_faults_in_links() {
    let unbound = || (mailbox(), Handle::unbound());
    faults(("pair", 1), unbound, |_, handle| {
        raw::pair(handle, &mut sys::postbox_pair::default()).map(drop)
    });
    let listens = || {
        let (listener, name) = listener();
        (listener, (Handle::unbound(), name))
    };
    faults(("connect", 1), listens, |_, (handle, name)| {
        connect(handle, name)
    });
    let connected = || {
        let (listener, name) = listener();
        let handle = Handle::unbound();
        connect(&handle, &name).expect("there is room");
        (listener, handle)
    };
    faults(("accept", 1), connected, |listener, _| {
        let mut args = sys::postbox_accept {
            flags: NEVER.0,
            ..Default::default()
        };
        raw::accept(listener, &mut args).map(drop)
    });
    let link = || {
        let first = Handle::unbound();
        let mut args = sys::postbox_pair {
            capacity: 4,
            back_capacity: 4,
            ..Default::default()
        };
        let second = raw::pair(&first, &mut args).expect("it can be made");
        (first, Handle(second))
    };
    faults(("send to a link", 1), link, |first, _| {
        first.send([1; 300], NEVER)
    });
    faults(("peer", 0), link, |first, _| raw::peer(first).map(drop));
    faults(("wait for a peer", 0), link, |first, _| {
        raw::wait_peer(first, NEVER.0, 0)
    });
    faults(("shutdown", 0), link, |first, _| {
        raw::shutdown(first, sys::POSTBOX_SHUT_SEND)
    });
}

#[test]
fn g11_faults_in_files() {
    let send = |handle: &Handle, files: &[&Handle], rights: u32| {
        let files: Vec<_> = files
            .iter()
            .map(|file| raw::SendFd::new(file.as_fd(), rights))
            .collect();
        let args = sys::postbox_send {
            flags: NEVER.0,
            ..Default::default()
        };
        raw::send_files(handle, b"files", &files, &args)
    };
    let three = || (mailbox(), [mailbox(), mailbox(), Handle::unbound()]);
    faults(("send files", 1), three, |handle, [a, b, c]| {
        send(handle, &[a, b, c], 0)
    });
    faults(
        ("send files with fewer rights", 1),
        three,
        |handle, [a, b, _]| send(handle, &[a, b], SEND),
    );
    let sent = || {
        let handle = mailbox();
        let [a, b, c] = three().1;
        send(&handle, &[&a, &b, &c], 0).expect("there is room");
        (handle, ())
    };
    faults(("receive files", 1), sent, |handle, ()| {
        let (mut room, mut files) = ([MaybeUninit::uninit(); 10], Vec::new());
        let mut args = sys::postbox_recv {
            flags: NEVER.0,
            fd_max: 3,
            ..Default::default()
        };
        raw::recv_files(handle, &mut room, &mut files, &mut args).map(drop)
    });
}

#[test]
fn g11_faults_in_pipes_and_wait_objects() {
    let pipe = || (plain(sys::POSTBOX_KIND_PIPE), ());
    faults(("write to a pipe", 1), pipe, |pipe, ()| {
        raw::write(pipe, &[1; 3000], NEVER.0, 0).map(drop)
    });
    faults(("resize a pipe", 1), pipe, |pipe, ()| {
        raw::set_capacity(pipe, 1 << 17).map(drop)
    });
    let full = || {
        let (pipe, ()) = pipe();
        raw::write(&pipe, &[1; 3000], NEVER.0, 0).expect("there is room");
        (pipe, ())
    };
    faults(("read from a pipe", 1), full, |pipe, ()| {
        raw::read(pipe, &mut [0; 2000], NEVER.0, 0).map(drop)
    });
    let semaphore = || (plain(sys::POSTBOX_KIND_SEMAPHORE), ());
    faults(("acquire", 0), semaphore, |handle, ()| {
        raw::acquire(handle, &sync(NEVER.0)).map(drop)
    });
    faults(("acquire, to be undone", 1), semaphore, |handle, ()| {
        raw::acquire(handle, &sync(NEVER.0 | UNDO)).map(drop)
    });
    faults(("release", 0), semaphore, |handle, ()| {
        raw::release(handle, &sync(0))
    });
    let latch = || (plain(sys::POSTBOX_KIND_LATCH), ());
    faults(("count down", 0), latch, |handle, ()| {
        raw::count_down(handle, &sync(0))
    });
    faults(("join a latch", 1), latch, |handle, ()| {
        raw::join(handle, &sync(0))
    });
    let barrier = || (plain(sys::POSTBOX_KIND_BARRIER), ());
    faults(("join a barrier", 1), barrier, |handle, ()| {
        raw::join(handle, &sync(0))
    });
    faults(("arrive", 1), barrier, |handle, ()| {
        raw::wait(handle, &sync(sys::POSTBOX_SYNC_ARRIVE)).map(drop)
    });
}

#[test]
fn g11_faults_in_segments_and_grants() {
    let memfd = || (mailbox(), (Handle::unbound(), memory(PAGE, 0, SEALS)));
    faults(("make a segment", 1), memfd, |_, (handle, memfd)| {
        MakeSegment::default().bind(handle, None, Some(memfd))
    });
    let segment = || (Handle::segment(2), ());
    faults(("map a segment", 1), segment, |handle, ()| {
        handle.map(0, PAGE, RW).map(drop)
    });
    faults(("attach", 1), segment, |handle, ()| {
        raw::attach(handle).map(drop)
    });
    faults(("wait for a word", 0), segment, |handle, ()| {
        handle.wait_word(PAGE as u64, 5, NEVER).map(drop)
    });
    faults(("wake who waits for a word", 0), segment, |handle, ()| {
        handle.wake_word(8, 1)
    });
    let args = sys::postbox_grant {
        who: sys::POSTBOX_GRANT_UID,
        id: 4321,
        rights: SEND,
        ..Default::default()
    };
    let named = || (mailbox(), ());
    faults(("grant", 1), named, |handle, ()| raw::grant(handle, &args));
}

/// Free, held and sent blocks of a pool.
fn blocks(pool: &Handle) -> [u64; 3] {
    let info = pool.info();
    [info.value, info.unacknowledged, info.messages]
}

/// A pool of four blocks, the second handle of which nobody has used, and a mailbox.
fn pool() -> (Handle, (Handle, Handle)) {
    let pool = Handle::pool(4, 64);
    let other = pool.dup(SEND | RECEIVE).expect("the same rights");
    (pool, (other, mailbox()))
}

#[test]
fn g11_faults_in_pools() {
    let memfd = || (mailbox(), (Handle::unbound(), memory(PAGE, 0, SEALS)));
    faults(("make a pool", 1), memfd, |_, (handle, memfd)| {
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_POOL,
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND | RECEIVE,
            mode: 0o600,
            capacity: 4,
            capacity_bytes: 64,
            ..Default::default()
        };
        raw::open_memory(handle, None, memfd.as_fd(), &mut args)
    });
    faults(("map a pool", 1), pool, |pool, _| {
        pool.map(0, PAGE, RW).map(drop)
    });
    let held = || {
        let (pool, (other, mailbox)) = pool();
        let block = other.borrow_one();
        (pool, (other, mailbox, block))
    };
    faults(("send a lease", 2), held, |_, (other, mailbox, block)| {
        mailbox.send_leases([7; 3000], other, &[(*block, 10, 0)], NEVER)
    });
    faults(("share a block", 2), held, |_, (other, mailbox, block)| {
        mailbox.send_leases("", other, &[(*block, 10, SHARED)], NEVER)
    });
    let sent = || {
        let (pool, (other, mailbox)) = pool();
        let block = pool.borrow_one();
        mailbox
            .send_leases("lease", &pool, &[(block, 10, 0)], NEVER)
            .expect("there is room");
        (pool, (other, mailbox))
    };
    faults(("receive a lease", 2), sent, |_, (other, mailbox)| {
        mailbox.recv_leases(other, 1, NEVER).map(drop)
    });
    faults(("take a lease", 2), sent, |_, (other, mailbox)| {
        let ack = sys::POSTBOX_RECV_ACK;
        mailbox.recv_leases_flags(other, 1, NEVER, ack).0.map(drop)
    });
}

/// Lets every step of a call fail that lends blocks and takes some back, of which a part may have been done: what each has,
/// and what nobody has, is all there is.
fn no_block_is_lost<T>(
    (name, at_least): (&str, u32),
    prepare: impl Fn() -> (Handle, T),
    call: impl Fn(&Handle, &T) -> Result<()>,
) {
    let Some(injector) = Injector::new() else {
        return;
    };
    let mut failed = 0;
    for n in 1.. {
        let (pool, extra) = prepare();
        let open = descriptors();
        let (result, hit) = injector.run(n, || call(&pool, &extra));
        match result {
            Ok(()) => {}
            Err(Errno::NOMEM | Errno::FAULT) if hit => failed += 1,
            Err(error) => panic!("{name}, step {n}: {error}"),
        }
        assert_eq!(descriptors(), open, "{name}, step {n}");
        let [free, held, sent] = blocks(&pool);
        assert_eq!(free + held + sent, 4, "{name}, step {n}");
        // What is under way ends with what holds it; what is held can be given back, or ends with its handle.
        drop(extra);
        for block in 0..4 {
            match pool.give_back(&[block]) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => panic!("{name}, step {n}: {error}"),
            }
        }
        wait_until("all blocks to be free", || blocks(&pool) == [4, 0, 0]);
        if !hit {
            break;
        }
        assert!(n < 1000, "{name} has no end");
    }
    tell(&format!("{name}: {failed} steps can fail"));
    assert!(
        failed >= at_least,
        "{name}: only {failed} steps were made to fail"
    );
}

#[test]
fn g11_faults_lose_no_block() {
    isolated(|| {
        no_block_is_lost(("borrow", 2), pool, |_, (other, _)| {
            other.borrow(2, NEVER).map(drop)
        });
        let held = || {
            let (pool, (other, mailbox)) = pool();
            let block = pool.borrow_one();
            (pool, (other, mailbox, block))
        };
        no_block_is_lost(("give back", 1), held, |pool, (_, _, block)| {
            pool.give_back(&[*block])
        });
        no_block_is_lost(("exchange", 2), held, |pool, (_, _, block)| {
            pool.exchange(&[*block], 2, NEVER).1.map(drop)
        });
        no_block_is_lost(
            ("send with a ride", 3),
            held,
            |pool, (_, mailbox, block)| {
                let mut ride = Ride {
                    returns: vec![*block],
                    want: 2,
                    ..Ride::default()
                };
                mailbox.send_riding("", pool, &[], &mut ride, NEVER)
            },
        );
    });
}

/// Calls with a lease, and gets it back with the reply, if it came to that.
fn call_with_lease(tx: &Handle, pool: &Handle, block: u32) -> Result<()> {
    let entries = entries_of(&[(block, 1, 0)]);
    let mut room = [MaybeUninit::uninit(); 1];
    let mut request = raw::Leases::new(pool.as_fd()).entries(&entries);
    let mut reply = raw::Leases::new(pool.as_fd()).room(&mut room);
    let mut args = sys::postbox_call::default();
    let (mut data, mut files) = ([MaybeUninit::uninit(); 64], Vec::new());
    raw::call_leases(
        tx,
        b"?",
        &[],
        &mut request,
        &mut data,
        &mut files,
        &mut reply,
        &mut args,
    )
    .map(drop)
}

#[test]
fn g11_faults_in_a_call_with_a_lease_lose_no_block() {
    isolated(|| {
        let called = || {
            let (pool, (other, mailbox)) = pool();
            let (tx, rx) = mailbox.split();
            // It answers with what it got, until the caller's handle is gone.
            let server = std::thread::spawn(move || {
                while let Ok((request, entries)) = rx.recv_leases(&other, 1, FOREVER) {
                    let entries = entries_of(&entries);
                    let mut leases = raw::Leases::new(other.as_fd()).entries(&entries);
                    let args = sys::postbox_reply {
                        token: request.token,
                        ..Default::default()
                    };
                    let _given_up = raw::reply_leases(&rx, b"!", &[], &mut leases, &args);
                }
            });
            let block = pool.borrow_one();
            (pool, (tx, block, Served(Some(server))))
        };
        no_block_is_lost(("call with a lease", 3), called, |pool, (tx, block, _)| {
            call_with_lease(tx, pool, *block)
        });
    });
}

/// A thread that ends when what it serves is gone, which is dropped before this.
struct Served(Option<std::thread::JoinHandle<()>>);

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(server) = self.0.take() {
            server.join().expect("no panic");
        }
    }
}

/// A request, and the thread that waits for the answer to it.
struct Asked {
    token: u64,
    caller: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Asked {
    /// What the thread has open is closed then.
    fn drop(&mut self) {
        if let Some(caller) = self.caller.take() {
            caller.join().expect("no panic");
        }
    }
}

/// The handle that owes the answer to a request.
fn asked() -> (Handle, Asked) {
    let (tx, rx) = mailbox().split();
    let caller = std::thread::spawn(move || {
        let mut room = [MaybeUninit::uninit(); 5000];
        let mut args = sys::postbox_call::default();
        let _any = raw::call(&tx, b"?", &[], &mut room, &mut Vec::new(), &mut args);
    });
    let token = rx.recv(FOREVER).expect("it comes").token;
    let caller = Some(caller);
    (rx, Asked { token, caller })
}

#[test]
fn g11_faults_in_replies() {
    let args = |token: u64, flags: u32| sys::postbox_reply {
        token,
        flags,
        ..Default::default()
    };
    faults(("reply", 1), asked, |handle, request| {
        raw::reply(handle, &[1; 3000], &[], &args(request.token, 0))
    });
    faults(("drop a request", 0), asked, |handle, request| {
        raw::reply(
            handle,
            b"",
            &[],
            &args(request.token, sys::POSTBOX_REPLY_DROP),
        )
    });
    faults(("reply with a file", 1), asked, |handle, request| {
        let file = [raw::SendFd::new(handle.as_fd(), RECEIVE)];
        raw::reply(handle, b"", &file, &args(request.token, 0))
    });
    let large = with_large_message;
    faults(("receive after no reply", 1), large, |handle, ()| {
        let mut room = [MaybeUninit::uninit(); 3000];
        let mut args = sys::postbox_reply_recv::default();
        args.recv.flags = NEVER.0;
        raw::reply_recv(handle, b"", &[], &mut room, &mut Vec::new(), &mut args).map(drop)
    });
}

#[test]
fn g11_faults_in_reply_and_receive() {
    isolated(|| {
        let Some(injector) = Injector::new() else {
            return;
        };
        let mut failed = [0, 0];
        for n in 1.. {
            let (handle, request) = asked();
            let token = request.token;
            let mut room = [MaybeUninit::uninit(); 100];
            let mut args = sys::postbox_reply_recv::default();
            args.reply.token = token;
            args.recv.flags = NEVER.0;
            let (result, hit) = injector.run(n, || {
                let files = &mut Vec::new();
                raw::reply_recv(&handle, &[1; 2000], &[], &mut room, files, &mut args).map(drop)
            });
            let check = sys::postbox_reply {
                token,
                flags: sys::POSTBOX_REPLY_CHECK,
                ..Default::default()
            };
            let owed = raw::reply(&handle, b"", &[], &check) == Ok(());
            match result {
                // There is nothing to receive, and its caller may be gone already.
                Err(Errno::AGAIN | Errno::PIPE) => assert!(!owed && args.reply.token == 0),
                Err(Errno::NOMEM | Errno::FAULT) => {
                    failed[usize::from(owed)] += 1;
                    assert!(owed || args.reply.token == 0, "step {n}: it is gone");
                }
                other => panic!("step {n}: {other:?}"),
            }
            drop(handle);
            if !hit {
                break;
            }
            assert!(n < 1000, "it has no end");
        }
        tell(&format!(
            "reply and receive: {failed:?} steps after and before the reply"
        ));
        assert!(failed[1] > 0, "none was made to fail");
    });
}

#[test]
fn g11_faults_in_a_call() {
    isolated(|| {
        let Some(injector) = Injector::new() else {
            return;
        };
        let (tx, rx) = mailbox().split();
        std::thread::spawn(move || {
            while let Ok(request) = rx.recv(FOREVER) {
                let args = sys::postbox_reply {
                    token: request.token,
                    ..Default::default()
                };
                raw::reply(&rx, &[4; 400], &[], &args).expect("the caller waits");
            }
        });
        let mut failed = [0, 0, 0];
        for n in 1.. {
            let (objects, open) = (list(), descriptors());
            let mut room = [MaybeUninit::uninit(); 400];
            let mut args = sys::postbox_call::default();
            let (result, hit) = injector.run(n, || {
                let data = [1; 2000];
                let files = &mut Vec::new();
                raw::call(&tx, &data, &[], &mut room, files, &mut args).map(|bytes| bytes.len())
            });
            match result {
                Ok(len) => assert_eq!(len, 400),
                Err(Errno::NOMEM | Errno::FAULT) if args.reply.token == 0 => failed[0] += 1,
                Err(Errno::FAULT) => {
                    // The answer came, and is kept.
                    failed[1] += 1;
                    assert_eq!(tx.usage().0, 1);
                    let fetched =
                        raw::call_fetch(&tx, &mut room, &mut Vec::new(), &mut args).expect("kept");
                    assert_eq!(fetched, [4; 400]);
                }
                other => panic!("step {n}: {other:?}"),
            }
            assert_eq!((list(), descriptors()), (objects, open), "step {n}");
            assert_eq!(
                (tx.usage().0, tx.info().messages),
                (0, 0),
                "step {n} left something"
            );
            if !hit {
                break;
            }
            failed[2] += 1;
            assert!(n < 1000, "it has no end");
        }
        tell(&format!("call: {failed:?} failed, kept, and were tried"));
        assert!(
            failed[0] > 0 && failed[1] > 0,
            "{failed:?}: none was made to fail"
        );
    });
}

#[test]
fn g11_faults_in_the_rest() {
    let empty = || (mailbox(), ());
    faults(("version", 0), empty, |handle, ()| {
        raw::version(handle).map(drop)
    });
    faults(("info", 0), empty, |handle, ()| raw::info(handle).map(drop));
    faults(("usage", 0), empty, |handle, ()| {
        raw::usage(handle).map(drop)
    });
    faults(("list", 0), empty, |handle, ()| {
        raw::list(handle, 0, &mut [sys::postbox_info::default(); 4]).map(drop)
    });
    faults(("chmod", 0), empty, |handle, ()| {
        raw::set_attr(
            handle,
            &sys::postbox_attr {
                valid: sys::POSTBOX_ATTR_MODE,
                mode: 0o640,
                ..Default::default()
            },
        )
    });
    let other = || {
        let other = mailbox();
        let name = name_of(&other.info());
        (mailbox(), (other, name))
    };
    faults(("unlink", 1), other, |handle, (_, name)| {
        raw::unlink(handle, name.as_bytes())
    });
}

/// A ring, and buffers that its commands use.
struct Commands {
    ring: RefCell<Ring>,
    room: Kept<[u8; 4096]>,
    _buffers: Buffers,
}

impl Commands {
    const GROUP: u16 = 3;

    fn new() -> Self {
        let ring = Ring::new(8, 0).expect("io_uring is there");
        let room = Kept::new([7; 4096]);
        // SAFETY: the room is freed after the ring, which is declared before it.
        unsafe { ring.register_buffer(room.address() as *mut u8, 4096) }.expect("it is there");
        let _buffers = Buffers::new(&ring, Self::GROUP, 8, 4000).expect("a group");
        Commands {
            ring: RefCell::new(ring),
            room,
            _buffers,
        }
    }

    /// Submits an entry; what its last completion says.
    fn run(&self, sqe: &Sqe) -> Result<u32> {
        let mut ring = self.ring.borrow_mut();
        ring.push(sqe);
        loop {
            let cqe = ring.wait();
            if cqe.user_data == sqe.user_data && !cqe.more() {
                return result(cqe.res);
            }
        }
    }
}

fn result(res: i32) -> Result<u32> {
    u32::try_from(res).map_err(|_| Errno::from_raw_os_error(-res))
}

#[test]
fn g11_faults_in_commands() {
    let direct = |handle: &Handle, commands: &Commands, request: u32, len: u32| {
        Sqe::direct(
            handle.as_raw_fd(),
            request,
            commands.room.address(),
            len,
            FOREVER,
        )
    };
    let fixed = |sqe: Sqe| Sqe {
        op_flags: uring::CMD_FIXED,
        ..sqe
    };
    let empty = || (mailbox(), Commands::new());
    faults(("command: send", 1), empty, |handle, commands| {
        let sqe = direct(handle, commands, sys::POSTBOX_SEND, 3000);
        commands.run(&sqe).map(drop)
    });
    faults(
        ("command: send from a registered buffer", 1),
        empty,
        |handle, commands| {
            let sqe = direct(handle, commands, sys::POSTBOX_SEND, 3000);
            commands.run(&fixed(sqe)).map(drop)
        },
    );
    let full = || (with_message().0, Commands::new());
    faults(("command: receive", 1), full, |handle, commands| {
        let sqe = direct(handle, commands, sys::POSTBOX_RECV, 4000);
        commands.run(&sqe).map(drop)
    });
    faults(
        ("command: receive into a registered buffer", 0),
        full,
        |handle, commands| {
            let sqe = direct(handle, commands, sys::POSTBOX_RECV, 4000);
            commands.run(&fixed(sqe)).map(drop)
        },
    );
    faults(
        ("command: park and cancel", 1),
        empty,
        |handle, commands| {
            let sqe = direct(handle, commands, sys::POSTBOX_RECV, 4000).tag(1);
            let cancel = Sqe::cancel(handle.as_raw_fd(), 1).tag(2);
            let mut ring = commands.ring.borrow_mut();
            ring.push(&sqe);
            ring.push(&cancel);
            let (mut received, mut cancelled) = (None, None);
            loop {
                let cqe = ring.wait();
                match (cqe.user_data, result(cqe.res)) {
                    (1, result) => received = Some(result),
                    (_, result) => {
                        // It may be the cancellation that fails.
                        let again = !matches!(result, Ok(_) | Err(Errno::NOENT));
                        cancelled.get_or_insert(result);
                        if again {
                            ring.push(&cancel);
                            continue;
                        }
                    }
                }
                match (received, cancelled) {
                    (Some(Err(Errno::CANCELED)), Some(Ok(1))) => return Ok(()),
                    (Some(Err(Errno::CANCELED)), Some(Err(error))) if error != Errno::NOENT => {
                        return Err(error);
                    }
                    (Some(Err(error)), Some(Err(Errno::NOENT))) => return Err(error),
                    (Some(_), Some(_)) => panic!("{received:?}, {cancelled:?}"),
                    _ => {}
                }
            }
        },
    );
}

#[test]
fn g11_faults_in_a_multishot_receive() {
    isolated(|| {
        let Some(injector) = Injector::new() else {
            return;
        };
        let mut failed = 0;
        for n in 1.. {
            let (handle, ()) = with_message();
            let commands = Commands::new();
            let (fd, group) = (handle.as_raw_fd(), Commands::GROUP);
            let sqe = Sqe::multishot(fd, sys::POSTBOX_RECV, group, 0, NEVER);
            let (result, hit) = injector.run(n, || commands.run(&sqe));
            // What is not reported is still there.
            let info = handle.info();
            assert_eq!(info.received + info.messages, 2, "step {n}");
            match result {
                Err(Errno::AGAIN) => assert_eq!(info.messages, 0, "step {n}"),
                Err(Errno::NOMEM | Errno::FAULT) => {
                    failed += 1;
                    assert_eq!(commands.run(&sqe), Err(Errno::AGAIN), "after step {n}");
                    assert_eq!(handle.info().received, 2, "after step {n}");
                }
                other => panic!("step {n}: {other:?}"),
            }
            if !hit {
                break;
            }
            assert!(n < 1000, "it has no end");
        }
        tell(&format!("multishot receive: {failed} steps can fail"));
        assert!(failed > 1, "none was made to fail");
    });
}
