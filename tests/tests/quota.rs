//! Guarantee 10: everything queued is charged, to a quota of the user and to the memory cgroup. Over it: EDQUOT, at once,
//! nothing half done.
//!
//! The limits are module parameters, the same for everybody, so that these tests run one at a time, and as users of
//! their own.

use postbox_tests::sleep_forever;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use postbox::{raw, sys};
use postbox_tests::uring::{Kept, Ring, Sqe};
use postbox_tests::*;

/// Module parameters that are put back when this is dropped.
struct Parameters {
    before: Vec<(String, String)>,
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Parameters {
    fn set(values: &[(&str, u64)]) -> Self {
        static LOCK: Mutex<()> = Mutex::new(());
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let mut parameters = Parameters {
            before: Vec::new(),
            _one_at_a_time: lock,
        };
        for (name, value) in values {
            let path = format!("/sys/module/postbox/parameters/{name}");
            let before = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            parameters.before.push((path.clone(), before));
            fs::write(&path, value.to_string()).unwrap_or_else(|e| panic!("{path}: {e}"));
        }
        parameters
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        for (path, value) in self.before.iter().rev() {
            fs::write(path, value).unwrap_or_else(|e| eprintln!("{path}: {e}"));
        }
    }
}

/// Runs a test with these limits, as a user who has nothing yet; in the end, it must have nothing any more.
fn limited(values: &[(&str, u64)], test: impl FnOnce()) {
    let _parameters = Parameters::set(values);
    isolated(|| {
        let user = fresh_user();
        let unused = || {
            // What was in messages is closed in a moment.
            wait_until("nothing to be in use", || {
                Handle::unbound().usage() == (0, 0, 0) && files() == 0
            });
        };
        spawn_as(user, || {
            unused();
            test();
        })
        .ok();
        spawn_as(user, unused).ok();
    });
}

/// Files in messages of this user.
fn files() -> u64 {
    raw::usage(Handle::unbound()).expect("it tells").files
}

/// What a refused call must not change.
fn state(handle: &Handle) -> ((u64, u64, u64), [u64; 9]) {
    let i = handle.info();
    let counters = [
        i.messages,
        i.bytes,
        i.unacknowledged,
        i.reserved_messages,
        i.sent,
        i.full,
        i.high_messages,
        i.high_bytes,
        files(),
    ];
    (handle.usage(), counters)
}

#[test]
fn g10_messages_are_limited_and_given_back() {
    limited(&[("max_user_messages", 10)], || {
        let (one, two) = (Handle::anonymous(UNBOUNDED), Handle::anonymous(100));
        assert_eq!(raw::usage(&one).expect("it tells").messages_max, 10);
        // Over all of the user's mailboxes together.
        for i in 0..10 {
            if i % 2 == 0 { &one } else { &two }.put("x");
        }
        let before = state(&one);
        assert_eq!(before.0, (10, 10, 2));
        for wait in [NEVER, FOREVER, within(60_000)] {
            assert_eq!(
                one.send("x", wait),
                Err(Errno::DQUOT),
                "at once, however long it may wait"
            );
            assert_eq!(
                one.send("", wait),
                Err(Errno::DQUOT),
                "an empty message is one"
            );
        }
        assert_eq!(rustix::io::write(&one, b"x"), Err(Errno::DQUOT));
        assert_eq!(
            raw::send_batch(&one, &[raw::SendEntry::new(b"x", 0)], 0, 0),
            Err(Errno::DQUOT)
        );
        assert_eq!(state(&one), before);
        assert_eq!(two.get(), "x");
        one.put("room for one");
        assert_eq!(one.send("x", NEVER), Err(Errno::DQUOT));
        drop(one);
        assert_eq!(two.usage(), (4, 4, 1), "what was in it is given back");
        let entries = [raw::SendEntry::new(b"x", 0); 10];
        assert_eq!(
            raw::send_batch(&two, &entries, NEVER.0, 0),
            Ok(6),
            "as many as may be"
        );
    });
}

#[test]
fn g10_bytes_are_limited_and_given_back() {
    limited(&[("max_user_bytes", 1000)], || {
        let mailbox = Handle::anonymous(UNBOUNDED);
        mailbox.put([0; 600]);
        let before = state(&mailbox);
        assert_eq!(mailbox.send([0; 401], FOREVER), Err(Errno::DQUOT));
        assert_eq!(mailbox.send(vec![0; 100_000], FOREVER), Err(Errno::DQUOT));
        assert_eq!(state(&mailbox), before);
        mailbox.put([0; 400]);
        mailbox.put("");
        assert_eq!(mailbox.send("x", NEVER), Err(Errno::DQUOT));
        assert_eq!(mailbox.usage(), (3, 1000, 1));
        mailbox.recv(NEVER).expect("sent");
        mailbox.put([0; 600]);
        while mailbox.recv(NEVER).is_ok() {}
    });
}

#[test]
fn g10_objects_are_limited_and_given_back() {
    limited(&[("max_user_objects", 5)], || {
        let mut made: Vec<Handle> = (0..4).map(|_| Handle::anonymous(1)).collect();
        let name = unique("persistent");
        let persist = Make {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
            ..Make::default()
        };
        drop(persist.open(name.as_str()).expect("the fifth"));
        assert_eq!(made[0].usage().2, 5, "it stays, and counts");
        let handle = Handle::unbound();
        for name in [None, Some("one/too/many")] {
            assert_eq!(
                Make::default().bind(&handle, name).map(drop),
                Err(Errno::DQUOT)
            );
        }
        assert!(!list().contains(&"one/too/many".to_string()));
        assert_eq!(
            raw::info(&handle).map(drop),
            Err(Errno::BADFD),
            "the handle is still free"
        );
        // To open and to duplicate makes no object.
        drop((
            made[0].sender(),
            Handle::open(&name, SEND).expect("it is there"),
        ));
        made.pop();
        assert!(Make::default().bind(&handle, None).is_ok());
        assert_eq!(unlink(&name), Ok(()));
        made.push(Handle::anonymous(1));
        assert_eq!(handle.usage().2, 5);
    });
}

#[test]
fn g10_a_message_is_charged_until_it_is_received_for_good() {
    limited(&[], || {
        let mailbox = Handle::anonymous(4);
        let used = || (mailbox.usage().0, mailbox.usage().1);
        mailbox.put("12345");
        assert_eq!(used(), (1, 5));
        let job = mailbox.take(NEVER).expect("sent");
        assert_eq!(used(), (1, 5));
        mailbox.requeue(job.token).expect("ours");
        let job = mailbox.take(NEVER).expect("back");
        mailbox.ack(job.token).expect("ours");
        assert_eq!(used(), (0, 0));
        // A sender that waits is charged, and one that gives up is not any more.
        let rendezvous = Handle::anonymous(0);
        let sender = spawn(|| {
            rendezvous
                .send("1234567", FOREVER)
                .expect("a receiver comes")
        });
        rendezvous.wait_senders(1);
        assert_eq!(used(), (1, 7));
        sender.destroy();
        assert_eq!(used(), (0, 0));
        assert_eq!(rendezvous.send("x", within(5)), Err(Errno::TIMEDOUT));
        assert_eq!(rendezvous.send("x", NEVER), Err(Errno::AGAIN));
        assert_eq!(used(), (0, 0));
    });
}

/// Sends so many files.
fn send_files(handle: &Handle, count: usize, wait: Wait) -> Result<()> {
    let file = fs::File::open("/dev/null").expect("it is there");
    let files = vec![raw::SendFd::new(file.as_fd(), 0); count];
    let args = sys::postbox_send {
        flags: wait.0,
        timeout_ns: wait.1,
        ..Default::default()
    };
    raw::send_files(handle, b"x", &files, &args)
}

/// Receives files, which are closed; returns how many.
fn receive_files(handle: &Handle) -> Result<usize> {
    let (mut room, mut files) = ([MaybeUninit::uninit(); 100], Vec::new());
    let mut args = sys::postbox_recv {
        flags: NEVER.0,
        fd_max: 64,
        ..Default::default()
    };
    raw::recv_files(handle, &mut room, &mut files, &mut args)?;
    Ok(files.len())
}

/// Calls, with room for so many bytes of the answer and no files; also returns the token of what is kept.
fn call(handle: &Handle, room: usize) -> (Result<()>, u64) {
    let mut args = sys::postbox_call::default();
    let mut room = vec![MaybeUninit::uninit(); room];
    let result = raw::call(
        handle,
        b"question",
        &[],
        &mut room,
        &mut Vec::new(),
        &mut args,
    );
    (result.map(drop), args.reply.token)
}

/// Answers a request, with so many files.
fn answer(handle: &Handle, token: u64, data: &[u8], count: usize) -> Result<()> {
    let file = fs::File::open("/dev/null").expect("it is there");
    let files = vec![raw::SendFd::new(file.as_fd(), 0); count];
    let args = sys::postbox_reply {
        token,
        ..Default::default()
    };
    raw::reply(handle, data, &files, &args)
}

/// An object that is made for this handle.
fn bind(handle: &Handle, args: sys::postbox_open) -> Result<()> {
    let mut args = sys::postbox_open {
        flags: sys::POSTBOX_O_CREATE | args.flags,
        rights: SEND | RECEIVE,
        mode: 0o600,
        ..args
    };
    raw::open(handle, None, &mut args)
}

fn pipe(bytes: u64) -> Result<Handle> {
    let handle = Handle::unbound();
    let args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_PIPE,
        capacity_bytes: bytes,
        ..Default::default()
    };
    bind(&handle, args).map(|()| handle)
}

#[test]
fn g10_files_are_limited_and_given_back() {
    limited(&[("max_user_files", 5)], || {
        let (one, two) = (Handle::anonymous(UNBOUNDED), Handle::anonymous(4));
        assert_eq!(raw::usage(&one).expect("it tells").files_max, 5);
        send_files(&one, 3, NEVER).expect("there are none yet");
        let before = state(&two);
        assert_eq!(files(), 3);
        for wait in [NEVER, FOREVER, within(60_000)] {
            let result = send_files(&two, 3, wait);
            assert_eq!(
                result,
                Err(Errno::DQUOT),
                "at once, however long it may wait"
            );
        }
        assert_eq!(send_files(&two, 64, NEVER), Err(Errno::DQUOT));
        assert_eq!(state(&two), before);
        send_files(&two, 2, NEVER).expect("two are left");
        two.put("without files there is no limit");
        assert_eq!(send_files(&one, 1, NEVER), Err(Errno::DQUOT));
        assert_eq!(receive_files(&two), Ok(2));
        send_files(&one, 2, NEVER).expect("they were received");
        assert_eq!(receive_files(&one), Ok(3));
        assert_eq!(files(), 2);
        drop(one);
        wait_until("what was in it to be given back", || files() == 0);
        // What waits is in a message, too; and who gives up has sent nothing.
        let full = Handle::anonymous(0);
        assert_eq!(send_files(&full, 5, within(5)), Err(Errno::TIMEDOUT));
        let sender = spawn(|| send_files(&full, 5, FOREVER).expect("a receiver comes"));
        full.wait_senders(1);
        assert_eq!(
            (files(), send_files(&two, 1, NEVER)),
            (5, Err(Errno::DQUOT))
        );
        sender.destroy();
        wait_until("the killed sender's to be given back", || files() == 0);
        // A descriptor that is wrong, after others that were charged.
        let null = fs::File::open("/dev/null").expect("it is there");
        let good = raw::SendFd::new(null.as_fd(), 0);
        let bad = raw::SendFd::new(null.as_fd(), SEND);
        let result = raw::send_files(&two, b"", &[good, good, bad], &sys::postbox_send::default());
        assert_eq!((result, files()), (Err(Errno::INVAL), 0));
    });
}

#[test]
fn g10_shared_memory_is_limited_and_given_back() {
    limited(&[("max_user_shared", 8 * PAGE as u64)], || {
        let make =
            |pages: usize| MakeSegment::default().open(None, Some(&memory(pages * PAGE, 0, SEALS)));
        let shared = || {
            let usage = raw::usage(Handle::unbound()).expect("it tells");
            assert_eq!(usage.shared_max, 8 * PAGE as u64);
            usage.shared / PAGE as u64
        };
        assert_eq!(shared(), 0);
        assert_eq!(make(9).map(drop), Err(Errno::DQUOT));
        let first = make(5).expect("so much is free");
        assert_eq!(shared(), 5);
        let objects = first.usage().2;
        assert_eq!(make(4).map(drop), Err(Errno::DQUOT));
        assert_eq!((shared(), first.usage().2), (5, objects), "nothing is left");
        let second = make(3).expect("so much is left");
        assert_eq!(make(1).map(drop), Err(Errno::DQUOT));
        // It is the maker's as long as anybody holds it, and no longer.
        let reader = second.receiver();
        drop(second);
        assert_eq!(shared(), 8);
        drop(reader);
        wait_until("it to be given back", || shared() == 5);
        // What is mapped is the memory's and not the object's.
        let mapped = first.map(0, PAGE, RW).expect("both rights");
        drop(first);
        wait_until("it to be given back", || shared() == 0);
        mapped.set(0, 1);
        // What is refused otherwise costs nothing.
        let unsealed = MakeSegment::default().open(None, Some(&memory(PAGE, 0, 0)));
        assert_eq!(unsealed.map(drop), Err(Errno::INVAL));
        let read_only = memory(PAGE, 0, SEALS | libc::F_SEAL_WRITE);
        let useless = MakeSegment::default().open(None, Some(&read_only));
        assert_eq!(useless.map(drop), Err(Errno::ACCESS));
        assert_eq!(shared(), 0);
        // A killed maker's.
        let gate = Gate::new();
        let child = spawn(|| {
            let _segment = make(8).expect("all is free");
            gate.open(1);
            sleep_forever();
        });
        gate.pass();
        assert_eq!(shared(), 8);
        child.destroy();
        wait_until("it to be given back", || shared() == 0);
    });
}

/// Pages of shared memory of this user.
fn shared_pages() -> u64 {
    let usage = raw::usage(Handle::unbound()).expect("it tells");
    usage.shared / PAGE as u64
}

#[test]
fn g10_the_memory_of_pools_is_limited_and_given_back() {
    limited(&[("max_user_shared", 8 * PAGE as u64)], || {
        let make = |pages: u64| MakePool::new(pages, PAGE as u64).make(None);
        assert_eq!(make(9).map(drop), Err(Errno::DQUOT));
        let pool = make(5).expect("so much is free");
        let objects = pool.usage().2;
        assert_eq!(make(4).map(drop), Err(Errno::DQUOT));
        let segment = MakeSegment::default().open(None, Some(&memory(4 * PAGE, 0, SEALS)));
        assert_eq!(segment.map(drop), Err(Errno::DQUOT), "one account for both");
        assert_eq!(
            (shared_pages(), pool.usage().2),
            (5, objects),
            "nothing is left"
        );
        // All of the memory counts, whatever there is of it in blocks.
        let wide = memory(3 * PAGE, 0, SEALS);
        let wide = MakePool::new(1, 64).open_of(None, wide.as_raw_fd());
        assert_eq!(shared_pages(), 8);
        // What is lent, sent and held costs nothing more.
        let mailbox = Handle::anonymous(UNBOUNDED);
        let blocks = pool.borrow(5, FOREVER).expect("all are free");
        mailbox
            .send_leases("", &pool, &[(blocks[0], 1, 0)], NEVER)
            .expect("there is room");
        assert_eq!(shared_pages(), 8);
        drop(wide.expect("it fits"));
        wait_until("it to be given back", || shared_pages() == 5);
        // A pool is there as long as one of its blocks is under way.
        let (other, far) = (Handle::anonymous(1), pool.receiver());
        drop(pool);
        assert_eq!(
            mailbox.recv_leases(&far, 1, NEVER).map(|got| got.1.len()),
            Ok(1)
        );
        let held = [(blocks[0], 1, 0)];
        other
            .send_leases("", &far, &held, NEVER)
            .expect("there is room");
        drop(far);
        assert_eq!(shared_pages(), 5);
        drop(other);
        wait_until("it to be given back", || shared_pages() == 0);
        // A killed maker's.
        let gate = Gate::new();
        let child = spawn(|| {
            let pool = make(8).expect("all is free");
            let _held = pool.borrow_one();
            gate.open(1);
            sleep_forever();
        });
        gate.pass();
        assert_eq!(shared_pages(), 8);
        child.destroy();
        wait_until("it to be given back", || shared_pages() == 0);
    });
}

#[test]
fn g10_pools_and_rings_are_objects() {
    limited(&[("max_user_objects", 2)], || {
        let ring = || {
            let handle = Handle::unbound();
            let args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_RING,
                ..Default::default()
            };
            bind(&handle, args).map(|()| handle)
        };
        let pool = || MakePool::new(2, 64).make(None);
        let held = (pool().expect("the first"), ring().expect("the second"));
        assert_eq!(held.0.usage().2, 2);
        let shared = shared_pages();
        assert_eq!(pool().map(drop), Err(Errno::DQUOT));
        assert_eq!(ring().map(drop), Err(Errno::DQUOT));
        assert_eq!((held.0.usage().2, shared_pages()), (2, shared));
        drop(held.1);
        wait_until("it to be given back", || held.0.usage().2 == 1);
        pool().map(drop).expect("there is room again");
    });
}

#[test]
fn g10_a_send_over_the_quota_leaves_its_sender_the_lease() {
    limited(&[("max_user_messages", 1)], || {
        let (pool, mailbox) = (Handle::pool(4, 64), Handle::anonymous(UNBOUNDED));
        let blocks = pool.borrow(2, FOREVER).expect("all are free");
        let entries = [(blocks[0], 5, 0), (blocks[1], 6, SHARED)];
        mailbox.put("the one that may be there");
        let held = || {
            let info = pool.info();
            (info.value, info.unacknowledged, info.messages)
        };
        let before = held();
        for wait in [NEVER, FOREVER, within(60_000)] {
            let sent = mailbox.send_leases("", &pool, &entries, wait);
            assert_eq!(sent, Err(Errno::DQUOT), "at once, however long it may wait");
            assert_eq!(held(), before);
        }
        assert_eq!(mailbox.get(), "the one that may be there");
        mailbox
            .send_leases("", &pool, &entries, NEVER)
            .expect("there is room");
        assert_eq!(held(), (2, 1, 2), "one is shared");
        assert_eq!(pool.give_back(&blocks[..1]), Err(Errno::NOENT));
        assert_eq!(pool.give_back(&blocks[1..]), Ok(()));
    });
}

#[test]
fn g10_calls_are_charged_and_given_back() {
    limited(&[("max_user_messages", 2), ("max_user_files", 3)], || {
        let (tx, rx) = Handle::anonymous(UNBOUNDED).split();
        let used = || (tx.usage().0, tx.usage().1, files());
        let asks = || {
            let (result, _) = call(&tx, 10);
            assert_eq!(result, Ok(()));
        };
        let caller = spawn(asks);
        wait_until("the request", || used() == (1, 8, 0));
        let request = rx.recv(FOREVER).expect("it comes");
        assert_eq!(used(), (1, 0, 0), "its bytes are not kept for the answer");
        assert_eq!(answer(&rx, request.token, b"", 4), Err(Errno::DQUOT));
        answer(&rx, request.token, b"yes", 0).expect("it is owed");
        caller.ok();
        assert_eq!(used(), (0, 0, 0));
        // Who is killed takes its request back, or leaves it with who has it already.
        let caller = spawn(asks);
        wait_until("the request", || used() == (1, 8, 0));
        caller.destroy();
        assert_eq!(used(), (0, 0, 0));
        let caller = spawn(asks);
        let request = rx.recv(FOREVER).expect("it comes");
        caller.destroy();
        assert_eq!(used(), (1, 0, 0), "who owes the answer keeps it");
        assert_eq!(answer(&rx, request.token, b"yes", 1), Err(Errno::STALE));
        wait_until("it to be given back", || used() == (0, 0, 0));
        // With as many messages as there may be, a call is refused at once.
        (0..2).for_each(|_| tx.put("x"));
        let before = state(&tx);
        assert_eq!(call(&tx, 10).0, Err(Errno::DQUOT));
        assert_eq!(state(&tx), before);
        // The server dies with it.
        drop(rx.recv(NEVER));
        let server = {
            let (tx, rx) = (&tx, &rx);
            spawn(move || {
                tx.close_copy();
                while rx.recv(FOREVER).expect("it comes").token == 0 {}
                sleep_forever();
            })
        };
        let caller = spawn(|| assert_eq!(call(&tx, 10).0, Err(Errno::OWNERDEAD)));
        wait_until("the server to have it", || used() == (1, 0, 0));
        server.destroy();
        caller.ok();
        assert_eq!(used(), (0, 0, 0));
    });
}

#[test]
fn g10_an_owed_answer_is_charged_to_the_server() {
    let _parameters = Parameters::set(&[("max_user_messages", 2)]);
    isolated(|| {
        let [server, caller] = [(); 2].map(|()| fresh_user());
        let (tx, rx) = Handle::anonymous(UNBOUNDED).split();
        let (asked, owed, checked) = (Gate::new(), Gate::new(), Gate::new());
        let serves = spawn_as(server, || {
            tx.close_copy();
            let rx = rx.dup(RECEIVE).expect("a handle of its own");
            asked.pass();
            let request = rx.recv(FOREVER).expect("it comes");
            assert_eq!(Handle::unbound().usage(), (1, 0, 0));
            owed.open(1);
            checked.pass();
            answer(&rx, request.token, b"an answer", 0).expect("the caller waits");
            assert_eq!(Handle::unbound().usage(), (0, 0, 0), "it is the caller's");
            // With two open, and a third one waiting, it is over its own quota.
            let owed = [(); 2].map(|()| rx.recv(FOREVER).expect("it comes").token);
            wait_until("a third", || rx.info().messages == 1);
            assert_eq!(rx.recv(NEVER).map(drop), Err(Errno::DQUOT));
            assert_eq!(rx.info().messages, 1, "the request stays");
            for token in owed {
                answer(&rx, token, b"", 0).expect("the caller waits");
            }
            let last = rx.recv(FOREVER).expect("it comes");
            answer(&rx, last.token, b"", 0).expect("the caller waits");
        });
        let calls = spawn_as(caller, || {
            rx.close_copy();
            let callee = spawn(|| assert_eq!(call(&tx, 10).0, Ok(())));
            asked.open(1);
            owed.pass();
            assert_eq!(Handle::unbound().usage(), (0, 0, 0), "not the caller");
            checked.open(1);
            callee.ok();
        });
        calls.ok();
        let callers =
            [(); 3].map(|()| spawn_as(fresh_user(), || assert_eq!(call(&tx, 10).0, Ok(()))));
        callers.into_iter().for_each(Child::ok);
        serves.ok();
    });
}

#[test]
fn g10_an_answer_without_quota_for_it_is_dropped() {
    let _parameters = Parameters::set(&[("max_user_bytes", 100)]);
    isolated(|| {
        let [server, caller] = [(); 2].map(|()| fresh_user());
        let (tx, rx) = Handle::anonymous(UNBOUNDED).split();
        let serves = spawn_as(server, || {
            tx.close_copy();
            for len in [101, 100] {
                let request = rx.recv(FOREVER).expect("it comes");
                answer(&rx, request.token, &[7; 101][..len], 0).expect("that is not its quota");
                assert_eq!(Handle::unbound().usage(), (0, 0, 0));
            }
        });
        let calls = spawn_as(caller, || {
            rx.close_copy();
            assert_eq!(call(&tx, 200), (Err(Errno::NODATA), 0));
            assert_eq!(Handle::unbound().usage(), (0, 0, 0));
            assert_eq!(call(&tx, 200).0, Ok(()));
            assert_eq!(Handle::unbound().usage(), (0, 0, 0));
        });
        calls.ok();
        serves.ok();
    });
}

/// The answers that wait for two callers of one user, who has no other charge: there is one account.
#[test]
fn g10_answers_count_where_the_caller_has_no_other_charge() {
    let _parameters = Parameters::set(&[("max_user_bytes", 100)]);
    isolated(|| {
        let user = fresh_user();
        let mailbox = Handle::anonymous(UNBOUNDED);
        let asked = |expected: Result<()>| {
            let caller = spawn_as(user, || assert_eq!(call(&mailbox, 200).0, expected));
            let token = mailbox.recv(FOREVER).expect("it comes").token;
            // Each new account has others looked at, whether they are needed.
            for _ in 0..32 {
                spawn_as(fresh_user(), || drop(Handle::unbound())).ok();
            }
            caller.kill(libc::SIGSTOP);
            wait_until("the caller to be stopped", || caller.state() == 'T');
            answer(&mailbox, token, &[7; 60], 0).expect("the caller waits");
            caller
        };
        let callers = [asked(Ok(())), asked(Err(Errno::NODATA))];
        spawn_as(user, || assert_eq!(Handle::unbound().usage(), (1, 60, 0))).ok();
        for caller in callers {
            caller.kill(libc::SIGCONT);
            caller.ok();
        }
    });
}

/// A copy that has begun is charged to the receiver's user as well, who decides how long it takes.
#[test]
fn g10_a_message_that_is_copied_is_charged_to_both_sides() {
    let _parameters = Parameters::set(&[("max_user_bytes", 1000), ("max_user_messages", 2)]);
    isolated(|| {
        let [sender, receiver] = [(); 2].map(|()| fresh_user());
        let mailbox = Handle::anonymous(0);
        let used = |user: User| {
            let used = Ledger::new(3);
            spawn_as(user, || {
                let usage = Handle::unbound().usage();
                for (at, value) in [usage.0, usage.1, files()].into_iter().enumerate() {
                    used[at].store(value, std::sync::atomic::Ordering::SeqCst);
                }
            })
            .ok();
            [0, 1, 2].map(|at: usize| used[at].load(std::sync::atomic::Ordering::SeqCst))
        };
        let [ready, copying, end] = [(); 3].map(|()| Gate::new());
        let receives = spawn(|| {
            let page = SlowPage::new();
            let fault = page.fault();
            // SAFETY: no pointers.
            check("setresuid", unsafe {
                libc::setresuid(receiver.uid, receiver.uid, receiver.uid)
            });
            scope(|scope| {
                scope.spawn(|| {
                    let mut room = [MaybeUninit::uninit(); 64];
                    let mut files = Vec::new();
                    // What is small and comes alone costs the receiver nothing.
                    let mut args = recv_args();
                    args.flags = 0;
                    raw::recv_files(&mailbox, &mut room, &mut files, &mut args).expect("sent");
                    let mut args = sys::postbox_recv {
                        data: page.address(),
                        len: PAGE as u64,
                        ..recv_args()
                    };
                    // SAFETY: the request writes to a page that outlives it.
                    unsafe { raw::ioctl(&mailbox, sys::POSTBOX_RECV, &mut args) }.expect("sent");
                });
                ready.open(1);
                fault.wait();
                copying.open(1);
                end.pass();
                fault.resolve(&[0; PAGE]);
            });
        });
        ready.pass();
        let sends = spawn_as(sender, || {
            mailbox.send("x", FOREVER).expect("it is received");
            mailbox.send([1; 700], FOREVER).expect("it is received");
        });
        copying.pass();
        assert_eq!((used(sender), used(receiver)), ([1, 700, 0], [1, 700, 0]));
        end.open(1);
        receives.ok();
        sends.ok();
        assert_eq!((used(sender), used(receiver)), ([0; 3], [0; 3]));
    });
}

#[test]
fn g10_an_answer_that_is_kept_is_charged_to_the_caller() {
    let _parameters = Parameters::set(&[("max_user_files", 6), ("max_user_messages", 3)]);
    isolated(|| {
        let [server, caller] = [(); 2].map(|()| fresh_user());
        let (tx, rx) = Handle::anonymous(UNBOUNDED).split();
        let end = Gate::new();
        let serves = spawn_as(server, || {
            tx.close_copy();
            while let Ok(request) = rx.recv(FOREVER) {
                answer(&rx, request.token, b"a long answer", 3).expect("the caller waits");
                assert_eq!(Handle::unbound().usage().0, 0, "not the server");
            }
            wait_until("the server's files to be given back", || files() == 0);
        });
        let calls = spawn_as(caller, || {
            rx.close_copy();
            let used = || {
                (
                    Handle::unbound().usage().0,
                    Handle::unbound().usage().1,
                    files(),
                )
            };
            let (first, one) = call(&tx, 3);
            let (second, two) = call(&tx, 3);
            assert_eq!((first, second), (Err(Errno::MSGSIZE), Err(Errno::MSGSIZE)));
            assert_eq!(used(), (2, 26, 6));
            assert!(one != 0 && two != 0 && one != two);
            let (third, lost) = call(&tx, 3);
            assert_eq!(
                (third, lost),
                (Err(Errno::MSGSIZE), 0),
                "it has no room for that"
            );
            assert_eq!(used(), (2, 26, 6));
            let mut args = sys::postbox_call::default();
            let mut fetch = |token: u64, room: usize, fd_max: u32| {
                (args.reply.token, args.reply.fd_max) = (token, fd_max);
                let (mut room, mut files) = (vec![MaybeUninit::uninit(); room], Vec::new());
                let result = raw::call_fetch(&tx, &mut room, &mut files, &mut args);
                (
                    result.map(|bytes| bytes.len()),
                    files.len(),
                    args.reply.token,
                )
            };
            let (result, _, again) = fetch(one, 100, 2);
            assert_eq!(result, Err(Errno::MSGSIZE));
            assert_eq!(used(), (2, 26, 6), "it is still kept");
            let (result, count, _) = fetch(again, 100, 3);
            assert_eq!((result, count), (Ok(13), 3));
            assert_eq!(used(), (1, 13, 3));
            end.open(1);
            tx.close_copy();
            wait_until("the rest to be given back", || used() == (0, 0, 0));
        });
        end.pass();
        // It goes with the last descriptor of the handle.
        drop((tx, rx));
        calls.ok();
        serves.ok();
    });
}

#[test]
fn g10_objects_of_every_kind_are_limited() {
    limited(&[("max_user_objects", 4)], || {
        let handle = Handle::unbound();
        let mut held = vec![Handle::anonymous(1)];
        let kinds = [
            sys::POSTBOX_KIND_LINK,
            sys::POSTBOX_KIND_LISTENER,
            sys::POSTBOX_KIND_ENDPOINT,
            sys::POSTBOX_KIND_PIPE,
            sys::POSTBOX_KIND_SEMAPHORE,
            sys::POSTBOX_KIND_LATCH,
            sys::POSTBOX_KIND_BARRIER,
        ]
        .map(|kind| sys::postbox_open {
            kind,
            flags: if kind == sys::POSTBOX_KIND_LINK {
                sys::POSTBOX_O_PORT
            } else {
                0
            },
            number: u32::from(kind == sys::POSTBOX_KIND_LINK),
            initial: u64::from(kind >= sys::POSTBOX_KIND_SEMAPHORE),
            capacity: u64::from(kind == sys::POSTBOX_KIND_SEMAPHORE),
            ..Default::default()
        });
        for args in kinds {
            let handle = Handle::unbound();
            bind(&handle, args).expect("there is room");
            assert_eq!(handle.usage().2, 2, "kind {}", args.kind);
        }
        wait_until("they to go", || handle.usage().2 == 1);
        // A link is one object, with both its ends.
        let name = unique("listener");
        let listener = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_LISTENER,
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND | RECEIVE,
            mode: 0o600,
            capacity: 1,
            back_capacity: 1,
            backlog: 10,
            ..Default::default()
        };
        raw::open(&listener, Some(name.as_bytes()), &mut args).expect("there is room");
        let pair = |handle: &Handle| raw::pair(handle, &mut sys::postbox_pair::default());
        let connect = |handle: &Handle| {
            let mut args = sys::postbox_connect::default();
            raw::connect(handle, Some(name.as_bytes()), &mut args)
        };
        held.push(Handle::unbound());
        let second = pair(&held[1]).expect("there is room");
        held.push(Handle::unbound());
        connect(&held[2]).expect("there is room");
        let before = state(&listener);
        assert_eq!(
            before.0,
            (1, 0, 4),
            "the connection is a message until it is accepted"
        );
        for args in kinds {
            assert_eq!(bind(&handle, args), Err(Errno::DQUOT), "kind {}", args.kind);
        }
        assert_eq!(pair(&handle).map(drop), Err(Errno::DQUOT));
        assert_eq!(connect(&handle), Err(Errno::DQUOT));
        assert_eq!(state(&listener), before, "nobody tried to connect");
        assert_eq!(raw::info(&handle).map(drop), Err(Errno::BADFD));
        let accepted = raw::accept(&listener, &mut sys::postbox_accept::default());
        assert_eq!(handle.usage(), (0, 0, 4));
        held.remove(1);
        assert_eq!(handle.usage().2, 4, "the other end is there");
        drop(second);
        wait_until("the link to go", || handle.usage().2 == 3);
        pair(&handle).map(drop).expect("there is room again");
        drop(accepted);
    });
}

#[test]
fn g10_a_connection_is_charged_until_it_is_accepted() {
    limited(&[("max_user_messages", 1)], || {
        let name = unique("listener");
        let listener = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_LISTENER,
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND | RECEIVE,
            mode: 0o600,
            backlog: 10,
            ..Default::default()
        };
        raw::open(&listener, Some(name.as_bytes()), &mut args).expect("new");
        let connect = |handle: &Handle| {
            let mut args = sys::postbox_connect::default();
            raw::connect(handle, Some(name.as_bytes()), &mut args)
        };
        let (one, two) = (Handle::unbound(), Handle::unbound());
        connect(&one).expect("there is none yet");
        let before = state(&listener);
        assert_eq!(connect(&two), Err(Errno::DQUOT));
        assert_eq!(state(&listener), before);
        raw::accept(&listener, &mut sys::postbox_accept::default()).expect("it waits");
        connect(&two).expect("the first one is accepted");
        drop(listener);
        assert_eq!(two.recv(NEVER), Err(Errno::PIPE), "it is never accepted");
        wait_until("it to be given back", || two.usage().0 == 0);
    });
}

#[test]
fn g10_the_memory_of_pipes_is_limited_and_given_back() {
    limited(&[("max_user_bytes", 210_000)], || {
        let mut pipes: Vec<Handle> = (0..3).map(|_| pipe(0).expect("there is room")).collect();
        assert_eq!(pipes[0].info().capacity_bytes, 65_536);
        assert_eq!(pipe(0).map(drop), Err(Errno::DQUOT));
        assert_eq!(pipe(4096).expect("a small one").info().capacity_bytes, 4096);
        assert_eq!(raw::write(&pipes[0], b"bytes", NEVER.0, 0), Ok(5));
        assert_eq!(raw::set_capacity(&pipes[0], 131_072), Err(Errno::DQUOT));
        let info = pipes[0].info();
        assert_eq!((info.capacity_bytes, info.bytes), (65_536, 5));
        // What is in a pipe is not a message.
        assert_eq!(pipes[0].usage(), (0, 0, 3));
        assert_eq!(raw::set_capacity(&pipes[1], 4096), Ok(4096));
        pipes.pop();
        assert_eq!(raw::set_capacity(&pipes[0], 70_000), Ok(131_072));
        assert_eq!(raw::read(&pipes[0], &mut [0; 9], NEVER.0, 0), Ok(5));
    });
    limited(&[("max_pipe", 10_000)], || {
        // 8,192 is the largest power of two in it.
        let small = pipe(0).expect("as many as there may be");
        assert_eq!(small.info().capacity_bytes, 8192);
        assert_eq!(pipe(8193).map(drop), Err(Errno::INVAL));
        assert_eq!(raw::set_capacity(&small, 8193), Err(Errno::INVAL));
        assert_eq!(raw::set_capacity(&small, 1), Ok(4096));
    });
}

#[test]
fn g10_the_memory_of_rings_is_limited_and_given_back() {
    // The pages of the two sides and of the status are paid for, too.
    let pages = |data: u64| (data + u64::from(sys::POSTBOX_RING_DATA_PAGE)) * PAGE as u64;
    limited(&[("max_user_bytes", pages(4) + pages(1))], || {
        let make = |data: u64| {
            let handle = Handle::unbound();
            let args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_RING,
                capacity_bytes: data * PAGE as u64,
                ..Default::default()
            };
            bind(&handle, args).map(|()| handle)
        };
        assert_eq!(make(16).map(drop), Err(Errno::DQUOT));
        let first = make(4).expect("so much is free");
        let objects = first.usage().2;
        assert_eq!(make(2).map(drop), Err(Errno::DQUOT));
        assert_eq!(first.usage().2, objects, "nothing is left");
        let second = make(1).expect("so much is left");
        assert_eq!(
            pipe(PAGE as u64).map(drop),
            Err(Errno::DQUOT),
            "one account"
        );
        // What is mapped keeps it.
        let map = first.map(0, PAGE, R).expect("anybody may look");
        drop((first, second));
        make(1).map(drop).expect("that of the second is free");
        assert_eq!(make(4).map(drop), Err(Errno::DQUOT));
        drop(map);
        wait_until("it to be given back", || make(4).is_ok());
        // A killed maker's, which had it attached.
        let gate = Gate::new();
        let child = spawn(|| {
            let ring = make(4).expect("all is free");
            raw::ring_attach(&ring, sys::POSTBOX_RING_PRODUCER).expect("nobody else");
            gate.open(1);
            sleep_forever();
        });
        gate.pass();
        assert_eq!(make(4).map(drop), Err(Errno::DQUOT));
        child.destroy();
        wait_until("it to be given back", || make(4).is_ok());
    });
}

#[test]
fn g10_who_sends_pays() {
    let _parameters = Parameters::set(&[("max_user_messages", 3)]);
    isolated(|| {
        let [owner, sender, receiver] = [(); 3].map(|()| fresh_user());
        let name = unique("pays");
        let [made, sent, received] = [(); 3].map(|()| Gate::new());
        let owns = spawn_as(owner, || {
            let mailbox = Make {
                mode: 0o666,
                capacity: UNBOUNDED,
                ..Make::default()
            }
            .open(name.as_str())
            .expect("new");
            made.open(1);
            received.pass();
            assert_eq!(mailbox.usage(), (0, 0, 1), "the owner pays for the mailbox");
        });
        made.pass();
        let mailbox = Handle::open(&name, SEND).expect("root may");
        let sends = spawn_as(sender, || {
            // With a handle that root opened: it is the sender that counts.
            (0..3).for_each(|_| mailbox.put("x"));
            assert_eq!(mailbox.send("x", FOREVER), Err(Errno::DQUOT));
            assert_eq!(Handle::unbound().usage(), (3, 3, 0));
            sent.open(1);
            received.pass();
            assert_eq!(Handle::unbound().usage(), (0, 0, 0));
        });
        sent.pass();
        let before = Handle::unbound().usage();
        mailbox.put("another user is not full");
        assert_eq!(Handle::unbound().usage().0, before.0 + 1);
        spawn_as(receiver, || {
            let mine = Handle::open(&name, RECEIVE).expect("everybody may");
            while mine.recv(NEVER).is_ok() {}
            assert_eq!(mine.usage(), (0, 0, 0));
        })
        .ok();
        received.open(2);
        owns.ok();
        sends.ok();
    });
}

#[test]
fn g10_a_killed_process_gives_everything_back() {
    limited(
        &[("max_user_messages", 50), ("max_user_objects", 10)],
        || {
            for _ in 0..3 {
                let full = Gate::new();
                let victim = spawn(|| {
                    let mailboxes: Vec<Handle> =
                        (0..10).map(|_| Handle::anonymous(UNBOUNDED)).collect();
                    for i in 0..50 {
                        mailboxes[i % 10].put("some text");
                    }
                    let taken: Vec<Got> = (0..5)
                        .map(|i| mailboxes[i].take(NEVER).expect("sent"))
                        .collect();
                    mailboxes[0].reserve(100, NEVER).expect("room");
                    full.open(1);
                    sleep_forever();
                    drop(taken);
                });
                full.pass();
                assert_eq!(Handle::unbound().usage(), (50, 450, 10));
                victim.destroy();
                wait_until("everything to be given back", || {
                    Handle::unbound().usage() == (0, 0, 0)
                });
            }
        },
    );
}

#[test]
fn g10_the_user_is_the_same_in_its_user_namespace() {
    let _parameters = Parameters::set(&[("max_user_messages", 12)]);
    isolated(|| {
        let user = fresh_user();
        let (held, done) = (Gate::new(), Gate::new());
        let outside = spawn_as(user, || {
            let mailbox = Handle::anonymous(UNBOUNDED);
            (0..10).for_each(|_| mailbox.put("x"));
            held.open(1);
            done.pass();
        });
        held.pass();
        // To be root in a namespace of one's own is no way to a second quota.
        Spawn::new()
            .user(user)
            .user_ns()
            .ipc_ns()
            .run(|| {
                let mailbox = Handle::anonymous(UNBOUNDED);
                assert_eq!(raw::usage(&mailbox).expect("it tells").uid, 0);
                (0..2).for_each(|_| mailbox.put("x"));
                assert_eq!(mailbox.send("x", NEVER), Err(Errno::DQUOT));
            })
            .ok();
        done.open(1);
        outside.ok();
    });
}

#[test]
fn g10_a_limit_of_zero_and_a_huge_one() {
    limited(&[("max_user_messages", 0)], || {
        let mailbox = Handle::anonymous(4);
        assert_eq!(mailbox.send("x", NEVER), Err(Errno::DQUOT));
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
    limited(
        &[
            ("max_user_messages", u64::MAX),
            ("max_user_bytes", u64::MAX),
            ("max_user_objects", u64::MAX),
            ("max_user_files", u64::MAX),
            ("max_pipe", u64::MAX),
            ("max_user_shared", u64::MAX),
        ],
        || {
            assert_eq!(Handle::segment(2).info().capacity_bytes, 2 * PAGE as u64);
            let mailbox = Handle::anonymous(4);
            mailbox.put("x");
            assert_eq!(mailbox.get(), "x");
            send_files(&mailbox, 64, NEVER).expect("there is no limit");
            assert_eq!(receive_files(&mailbox), Ok(64));
            assert_eq!(
                pipe(1 << 21).expect("memory").info().capacity_bytes,
                1 << 21
            );
            assert_eq!(pipe(u64::MAX).map(drop), Err(Errno::INVAL));
        },
    );
    limited(&[("max_user_files", 0), ("max_pipe", 0)], || {
        let mailbox = Handle::anonymous(4);
        assert_eq!(send_files(&mailbox, 1, NEVER), Err(Errno::DQUOT));
        mailbox.put("x");
        assert_eq!(pipe(0).expect("the smallest").info().capacity_bytes, 4096);
    });
}

#[test]
fn g10_the_largest_message_is_a_parameter() {
    limited(&[("max_message", 100)], || {
        let mailbox = Handle::anonymous(4);
        assert_eq!(raw::version(&mailbox).expect("it tells").message_max, 100);
        mailbox.put([0; 100]);
        assert_eq!(mailbox.send([0; 101], FOREVER), Err(Errno::MSGSIZE));
        assert_eq!(mailbox.reserve(101, FOREVER), Err(Errno::MSGSIZE));
        let more = Make {
            message_max: 1000,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        assert_eq!(
            more.send([0; 101], FOREVER),
            Err(Errno::MSGSIZE),
            "a mailbox cannot allow more"
        );
        mailbox.recv(NEVER).expect("sent");
    });
}

/// A memory cgroup for a child.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let path = PathBuf::from("/sys/fs/cgroup").join(unique("").replace('/', "-"));
        fs::create_dir(&path).unwrap_or_else(|e| panic!("{path:?}: {e}; cgroup2 must be mounted"));
        Cgroup(path)
    }

    fn read(&self, file: &str) -> String {
        let path = self.0.join(file);
        fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("{path:?}: {e}; the memory controller must be on"))
    }

    /// Bytes charged to it.
    fn current(&self) -> u64 {
        self.read("memory.current")
            .trim()
            .parse()
            .expect("a number")
    }

    fn events(&self, name: &str) -> u64 {
        let events = self.read("memory.events");
        let line = events
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the event is counted")
            .parse()
            .expect("a number")
    }

    fn limit(&self, bytes: u64) {
        fs::write(self.0.join("memory.max"), bytes.to_string()).expect("root may");
    }

    /// Moves the calling process into it.
    fn enter(&self) {
        fs::write(self.0.join("cgroup.procs"), "0").expect("root may");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just died may still be in it.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("{:?} could not be removed", self.0);
    }
}

const MIB: u64 = 1 << 20;

#[test]
fn g10_shared_memory_is_charged_to_the_memory_cgroup_of_who_touches_it_first() {
    isolated(|| {
        const PAGES: usize = 1024;
        let cgroup = Cgroup::new();
        let segment = Handle::segment(2 * PAGES);
        let mine = segment.map(0, 2 * PAGES * PAGE, RW).expect("both rights");
        // These are the maker's, whoever reads them.
        (0..PAGES).for_each(|page| mine.set(page * PAGE, 1));
        let done = Ledger::new(2);
        spawn(|| {
            cgroup.enter();
            let theirs = segment.map(0, 2 * PAGES * PAGE, RW).expect("both rights");
            let touch = |at: usize, pages: std::ops::Range<usize>| {
                let before = cgroup.current();
                pages.for_each(|page| theirs.set(page * PAGE, 1));
                let grown = cgroup.current().saturating_sub(before);
                done[at].store(grown, std::sync::atomic::Ordering::SeqCst);
            };
            touch(0, 0..PAGES);
            touch(1, PAGES..2 * PAGES);
        })
        .ok();
        let [read, touched] =
            [0, 1].map(|at: usize| done[at].load(std::sync::atomic::Ordering::SeqCst));
        assert!(read < MIB, "{read} bytes for the maker's pages");
        assert!(
            touched >= 4 * MIB - MIB / 4,
            "{touched} bytes for new pages"
        );
    });
}

#[test]
fn g10_what_is_queued_is_charged_to_the_senders_memory_cgroup() {
    let _parameters = Parameters::set(&[]);
    isolated(|| {
        // Small messages, and such as need memory of their own.
        for (count, len) in [(20_000, 100), (1000, 3000), (8, 1 << 20)] {
            let cgroup = Cgroup::new();
            let mailbox = Handle::anonymous(UNBOUNDED);
            let [ready, go, filled, end] = [(); 4].map(|()| Gate::new());
            let sender = spawn(|| {
                cgroup.enter();
                let data = vec![1; len];
                ready.open(1);
                go.pass();
                (0..count).for_each(|_| mailbox.put(&data));
                filled.open(1);
                end.pass();
            });
            ready.pass();
            let before = cgroup.current();
            go.open(1);
            filled.pass();
            let (full, payload) = (cgroup.current(), count * len as u64);
            // The kernel charges ahead, and takes some of that back now and then.
            assert!(
                full + MIB / 2 >= before + payload,
                "{payload} bytes were queued, and the charge went from {before} to {full}"
            );
            // What is charged bears a proportion to what is queued, also where KASAN pads every object.
            assert!(
                full < before + payload * 2 + count * 1024 + 4 * MIB,
                "{payload} bytes were queued, and the charge went from {before} to {full}"
            );
            while mailbox.recv_room(len, NEVER).is_ok() {}
            wait_until("the charge to go", || {
                cgroup.current() < before + payload / 4 + 2 * MIB
            });
            end.open(1);
            sender.ok();
        }
    });
}

/// What mailboxes keep for their next messages is no more than their user's messages may have.
#[test]
fn g10_memory_of_received_messages_is_kept_within_a_limit() {
    const MAILBOXES: u64 = 512;
    let _parameters = Parameters::set(&[("max_user_bytes", MIB)]);
    isolated(|| {
        let cgroup = Cgroup::new();
        let child = spawn(|| {
            cgroup.enter();
            let mailboxes: Vec<_> = (0..MAILBOXES)
                .map(|_| Handle::anonymous(UNBOUNDED))
                .collect();
            let before = cgroup.current();
            for mailbox in &mailboxes {
                // As much as one keeps: two in its slots, and others.
                (0..2).for_each(|_| mailbox.put([1; 7 << 10]));
                (0..32).for_each(|_| mailbox.put("x"));
                while mailbox.recv_room(8 << 10, NEVER).is_ok() {}
            }
            let kept = cgroup.current().saturating_sub(before);
            // All of them together could keep more than ten times as much.
            assert!(kept < 3 * MIB, "{kept} bytes are kept");
        });
        child.ok();
    });
}

#[test]
fn g10_spare_memory_is_freed_when_memory_is_short() {
    const MAILBOXES: u64 = 256;
    let _parameters = Parameters::set(&[]);
    isolated(|| {
        let cgroup = Cgroup::new();
        let child = spawn(|| {
            cgroup.enter();
            let mailboxes: Vec<_> = (0..MAILBOXES)
                .map(|_| Handle::anonymous(UNBOUNDED))
                .collect();
            let before = cgroup.current();
            for mailbox in &mailboxes {
                (0..2).for_each(|_| mailbox.put([1; 7 << 10]));
                while mailbox.recv_room(8 << 10, NEVER).is_ok() {}
            }
            let kept = || cgroup.current().saturating_sub(before);
            assert!(kept() > 2 * MIB, "mailboxes keep memory to send again");
            wait_until("the spare memory to be freed", || {
                // As if memory were short: all shrinkers are called.
                fs::write("/proc/sys/vm/drop_caches", "2").expect("root may");
                kept() < MIB
            });
            mailboxes[0].put("x");
            assert_eq!(mailboxes[0].recv(NEVER).expect("sent").text(), "x");
        });
        child.ok();
    });
}

#[test]
fn g10_a_memory_cgroup_that_is_full_refuses_the_sender_and_harms_nobody_else() {
    let _parameters = Parameters::set(&[]);
    isolated(|| {
        for len in [100, 3000, 200_000] {
            let cgroup = Cgroup::new();
            let mailbox = Handle::anonymous(UNBOUNDED);
            let limited = spawn(|| {
                cgroup.enter();
                let data = vec![1; len];
                // What this process needs for itself, it has: with the limit reached, to touch a new page would kill it.
                // SAFETY: no pointers.
                check("mlockall", unsafe {
                    libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE)
                });
                (0..20).for_each(|_| mailbox.put(&data));
                (0..20).for_each(|_| drop(mailbox.recv_room(len, NEVER).expect("sent")));
                let already = (mailbox.info().sent, mailbox.usage().0);
                assert_eq!(already, (20, 0));
                cgroup.limit(cgroup.current() + 8 * MIB);
                let (sent, refused) = (0..200_000)
                    .map(|sent| (sent, mailbox.send(&data, FOREVER)))
                    .find(|(_, result)| result.is_err())
                    .expect("the memory has an end");
                assert_eq!(refused, Err(Errno::NOMEM), "messages of {len} bytes");
                assert!(sent > 20, "only {sent} messages of {len} bytes");
                let now = (mailbox.info().sent, mailbox.usage().0);
                assert_eq!(now, (20 + sent, sent), "a refused send leaves nothing");
                // It can go on when there is room.
                (0..20).for_each(|_| drop(mailbox.recv_room(len, NEVER).expect("sent")));
                wait_until("room to send", || mailbox.send(&data, NEVER) == Ok(()));
            });
            limited.ok();
            assert_eq!(cgroup.events("oom_kill"), 0, "somebody was killed for it");
            mailbox.put("outside there is memory");
        }
    });
}

#[test]
fn g10_full_memory_cgroup_fails_every_allocation_of_a_send() {
    let _parameters = Parameters::set(&[("max_user_files", 1 << 30)]);
    isolated(|| {
        let cgroup = Cgroup::new();
        let mailbox = Handle::anonymous(UNBOUNDED);
        let limited = spawn(|| {
            cgroup.enter();
            // SAFETY: no pointers.
            check("mlockall", unsafe {
                libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE)
            });
            // Most of what such a message needs is the table of its files.
            send_files(&mailbox, 64, NEVER).expect("there is memory");
            cgroup.limit(cgroup.current() + 8 * MIB);
            let refused = (0..200_000)
                .find_map(|_| send_files(&mailbox, 64, NEVER).err())
                .expect("the memory has an end");
            assert_eq!(refused, Errno::NOMEM);
        });
        limited.ok();
        assert_eq!(cgroup.events("oom_kill"), 0, "the OOM killer was called");
    });
}

/// io_uring commands that wait count, of whatever handle of the user; one that completes gives its place back.
#[test]
fn g10_parked_commands_count() {
    limited(&[("max_user_commands", 4)], || {
        let handles = [Handle::anonymous(8), Handle::anonymous(8)];
        let mut ring = Ring::new(16, 0).expect("io_uring is there");
        let room = Kept::new([0u8; 64]);
        let recv = |at: usize, wait| {
            let fd = handles[at % 2].as_raw_fd();
            Sqe::direct(fd, sys::POSTBOX_RECV, room.address(), 64, wait)
        };
        for at in 0..4 {
            ring.push(&recv(at, FOREVER).tag(at as u64));
        }
        ring.park();
        let refused = -Errno::DQUOT.raw_os_error();
        assert_eq!(ring.run(&recv(4, FOREVER).tag(4)), refused);
        // What need not wait does not count.
        assert_eq!(
            ring.run(&recv(4, NEVER).tag(5)),
            -Errno::AGAIN.raw_os_error()
        );
        handles[0].put("x");
        let cqe = ring.wait();
        assert_eq!((cqe.user_data, cqe.res), (0, 1));
        ring.push(&recv(0, FOREVER).tag(6));
        ring.park();
        assert_eq!(ring.run(&recv(4, FOREVER).tag(7)), refused);
        // Closed, the ring gives all of them back.
        drop(ring);
        handles[0].wait_receivers(0);
        handles[1].wait_receivers(0);
        let mut ring = Ring::new(16, 0).expect("io_uring is there");
        wait_until("the places to be free", || {
            ring.run(&recv(1, within(1)).tag(8)) == -Errno::TIMEDOUT.raw_os_error()
        });
    });
}

#[test]
fn g10_parked_command_is_charged_to_its_submitter() {
    let _parameters = Parameters::set(&[("max_user_commands", 2)]);
    isolated(|| {
        let lent = Handle::anonymous(8);
        // Parks as many commands as it may, and is refused the next.
        let park_all = || {
            let mut ring = Ring::new(16, 0).expect("io_uring is there");
            let room = Kept::new([0u8; 64]);
            let (fd, request) = (lent.as_raw_fd(), sys::POSTBOX_RECV);
            let recv = || Sqe::direct(fd, request, room.address(), 64, FOREVER);
            (0..2).for_each(|tag| ring.push(&recv().tag(tag)));
            ring.park();
            let refused = ring.run(&recv().tag(2));
            assert_eq!(refused, -Errno::DQUOT.raw_os_error());
            (ring, room)
        };
        let full = Gate::new();
        let borrower = spawn_as(fresh_user(), || {
            let _parked = park_all();
            full.open(1);
            sleep_forever();
        });
        full.pass();
        drop(park_all());
        borrower.destroy();
    });
}
