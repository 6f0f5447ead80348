//! Pools as the kernel keeps them: whose each block is, what goes with a message, and what comes back.

use postbox_tests::{LONG, scope};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use libc::POLLOUT;
use postbox::{raw, sys};
use postbox_tests::*;

/// The kernel's error of a block that is not held.
const NOT_HELD: Errno = Errno::NOENT;

#[test]
fn pool_needs_memory_that_is_sealed_writable_and_large_enough() {
    isolated(|| {
        let page = PAGE as u64;
        let open = |blocks, bytes, seals| {
            let memory = memory(2 * PAGE, 0, seals);
            MakePool::new(blocks, bytes)
                .open_of(None, memory.as_raw_fd())
                .map(drop)
        };
        assert_eq!(open(2, page, SEALS), Ok(()));
        assert_eq!(open(128, 64, SEALS), Ok(()), "small blocks");
        for (blocks, bytes) in [
            (3, page),
            (1, 3 * page),
            (0, page),
            (2, 0),
            (2, 100),
            (65537, 64),
            (u64::MAX, page),
            (2, u64::MAX - 63),
        ] {
            let opened = open(blocks, bytes, SEALS);
            assert_eq!(opened, Err(Errno::INVAL), "{blocks} blocks of {bytes}");
        }
        for seals in [
            libc::F_SEAL_SHRINK | libc::F_SEAL_GROW,
            libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL,
            libc::F_SEAL_GROW | libc::F_SEAL_SEAL,
            SEALS | libc::F_SEAL_WRITE,
            SEALS | libc::F_SEAL_FUTURE_WRITE,
        ] {
            assert_eq!(open(2, page, seals), Err(Errno::INVAL), "seals {seals:#x}");
        }
        let pipe = std::io::pipe().expect("a pipe").0;
        let of = |fd| MakePool::new(1, page).open_of(None, fd).map(drop);
        assert_eq!(of(pipe.as_raw_fd()), Err(Errno::INVAL));
        assert_eq!(of(-1), Err(Errno::BADF));
    });
}

#[test]
fn pool_lends_each_block_to_one_and_takes_back_what_is_held() {
    isolated(|| {
        let pool = Handle::pool(3, 64);
        let blocks = pool.borrow(1, NEVER).expect("all are free");
        let other = pool.dup(SEND | RECEIVE).expect("the same rights");
        let more = [other.borrow_one(), other.borrow_one()];
        let mut all = [blocks[0], more[0], more[1]];
        all.sort();
        assert_eq!(all, [0, 1, 2]);
        assert_eq!(pool.borrow(1, NEVER), Err(Errno::AGAIN));
        assert_eq!(pool.give_back(&more), Err(NOT_HELD), "another handle's");
        assert_eq!(pool.give_back(&[7]), Err(NOT_HELD), "there is none");
        assert_eq!(pool.give_back(&blocks), Ok(()));
        assert_eq!(pool.give_back(&blocks), Err(NOT_HELD), "twice");
        assert_eq!(pool.free(), 1);
        // The last is taken first, and what is left is told.
        let (left, result) = other.exchange(&[more[0], 7, more[1]], 1, NEVER);
        assert_eq!((left, result), (2, Err(NOT_HELD)));
        assert_eq!(other.give_back(&more[..1]), Ok(()));
        let info = pool.info();
        assert_eq!((info.value, info.maximum, info.capacity), (3, 3, 3));
        assert_eq!((info.sent, info.received, info.full), (3, 3, 1));
        assert_eq!((info.high_messages, info.unacknowledged), (3, 0));
    });
}

#[test]
fn pool_lends_ahead_while_half_is_free_and_the_first_in_any_case() {
    isolated(|| {
        let pool = Handle::pool(8, 64);
        assert_eq!(pool.borrow(100, NEVER).expect("all are free").len(), 5);
        assert_eq!(pool.borrow(100, NEVER).expect("three are free").len(), 1);
        let mut ride = Ride {
            want: 4,
            ..Ride::default()
        };
        let mailbox = Handle::anonymous(4);
        let sent = mailbox.send_riding("", &pool, &[], &mut ride, NEVER);
        assert_eq!((sent, ride.lent), (Ok(()), vec![]));
        assert_eq!(pool.free(), 2);
    });
}

#[test]
fn pool_who_waits_for_a_block_is_served_in_order() {
    isolated(|| {
        let pool = Handle::pool(1, 64);
        let block = pool.borrow_one();
        assert_eq!(pool.borrow(1, within(5)), Err(Errno::TIMEDOUT));
        assert_eq!(pool.borrow(1, until(-5)), Err(Errno::TIMEDOUT));
        let order = Ledger::new(3);
        let gates = [Gate::new(), Gate::new()];
        let children: Vec<Child> = (0..2)
            .map(|who| {
                let child = spawn(|| {
                    let block = pool.borrow(1, FOREVER).expect("one comes back")[0];
                    let at = order[0].fetch_add(1, std::sync::atomic::Ordering::SeqCst) as usize;
                    order[1 + at].store(who, std::sync::atomic::Ordering::SeqCst);
                    gates[who as usize].pass();
                    pool.give_back(&[block]).expect("it is held");
                });
                pool.wait_senders(who as u32 + 1);
                child
            })
            .collect();
        assert_eq!(pool.ready(), 0);
        pool.give_back(&[block]).expect("it is held");
        pool.wait_senders(1);
        assert_eq!(pool.borrow(1, NEVER), Err(Errno::AGAIN), "nobody overtakes");
        for gate in &gates {
            gate.open(1);
        }
        for child in children {
            child.ok();
        }
        let served = order[1..].iter();
        let served: Vec<_> = served
            .map(|who| who.load(std::sync::atomic::Ordering::SeqCst))
            .collect();
        assert_eq!(served, [0, 1]);
        assert_eq!(pool.free(), 1);
    });
}

#[test]
fn pool_can_be_polled_for_a_free_block() {
    isolated(|| {
        let pool = Handle::pool(1, 64);
        let reader = pool.dup(RECEIVE).expect("fewer rights");
        assert_eq!((pool.ready(), reader.ready()), (POLLOUT, 0));
        let block = pool.borrow_one();
        assert_eq!(pool.ready(), 0);
        let waits = spawn(|| {
            assert_eq!(poll(&pool, POLLOUT, LONG), POLLOUT);
        });
        waits.wait_asleep();
        pool.give_back(&[block]).expect("it is held");
        waits.ok();
    });
}

#[test]
fn pool_lease_goes_with_a_message_and_is_the_receivers() {
    isolated(|| {
        let pool = Handle::pool(2, 128);
        let (mine, theirs) = (pool.borrow_one(), pool.dup(RECEIVE).expect("fewer rights"));
        let mailbox = Handle::anonymous(4);
        mailbox
            .send_leases("image", &pool, &[(mine, 100, 0)], NEVER)
            .expect("there is room");
        assert_eq!(pool.give_back(&[mine]), Err(NOT_HELD), "it is under way");
        let again = mailbox.send_leases("", &pool, &[(mine, 1, 0)], NEVER);
        assert_eq!(again, Err(NOT_HELD));
        assert_eq!((pool.info().messages, pool.free()), (1, 1));
        let (got, entries) = mailbox.recv_leases(&theirs, 4, NEVER).expect("it is there");
        assert_eq!((got.text(), entries), ("image", vec![(mine, 100, 0)]));
        assert_eq!(pool.give_back(&[mine]), Err(NOT_HELD), "another handle's");
        // Who may not borrow can hold, pass on, and give back.
        mailbox
            .send_leases("", &theirs, &[(mine, 0, 0)], NEVER)
            .expect("there is room");
        let (_, entries) = mailbox.recv_leases(&theirs, 1, NEVER).expect("it is there");
        assert_eq!(entries, [(mine, 0, 0)]);
        assert_eq!(theirs.give_back(&[mine]), Ok(()));
        assert_eq!(theirs.borrow(1, NEVER), Err(Errno::ACCESS));
        assert_eq!(pool.free(), 2);
    });
}

#[test]
fn pool_lease_outlives_who_lent_it() {
    isolated(|| {
        let pool = Handle::pool(2, 64);
        let mailbox = Handle::anonymous(4);
        spawn(|| {
            let mine = [pool.borrow_one(), pool.borrow_one()];
            mailbox
                .send_leases("last", &pool, &[(mine[0], 5, 0)], NEVER)
                .expect("there is room");
        })
        .ok();
        assert_eq!(pool.free(), 1, "what it held itself has come back");
        let (got, entries) = mailbox.recv_leases(&pool, 1, NEVER).expect("it is there");
        assert_eq!((got.text(), entries.len()), ("last", 1));
        assert_eq!(pool.free(), 1);
        assert_eq!(pool.give_back(&[entries[0].0]), Ok(()));
    });
}

#[test]
fn pool_message_stays_where_there_is_no_room_for_its_leases() {
    isolated(|| {
        let pool = Handle::pool(4, 64);
        let other = Handle::pool(1, 64);
        let mailbox = Handle::anonymous(4);
        let blocks = [pool.borrow_one(), pool.borrow_one()];
        let entries = blocks.map(|block| (block, 10, 0));
        mailbox
            .send_leases("two", &pool, &entries, NEVER)
            .expect("there is room");
        mailbox.put("next");
        assert_eq!(mailbox.recv(NEVER), Err(Errno::MSGSIZE), "no pool");
        assert_eq!(mailbox.take(NEVER), Err(Errno::MSGSIZE));
        let mut args = sys::postbox_recv {
            flags: sys::POSTBOX_NONBLOCK,
            ..Default::default()
        };
        assert_eq!(
            raw::recv(&mailbox, &mut [0; 64], &mut args),
            Err(Errno::MSGSIZE)
        );
        assert_eq!(args.msg_flags, sys::POSTBOX_MSG_LEASES);
        assert_eq!((args.msg_len, args.fd_count), (3, 0));
        let read = rustix::io::read(&mailbox.0, &mut [0u8; 64]);
        assert_eq!(read, Err(Errno::MSGSIZE));
        let id = pool.info().id;
        let (result, told) = mailbox.recv_leases_flags(&pool, 1, NEVER, 0);
        assert_eq!((result, told), (Err(Errno::MSGSIZE), (2, id)));
        let (result, told) = mailbox.recv_leases_flags(&other, 9, NEVER, 0);
        assert_eq!((result, told), (Err(Errno::XDEV), (2, id)));
        assert_eq!(pool.info().messages, 2, "they are still under way");
        let (_, got) = mailbox.recv_leases(&pool, 2, NEVER).expect("it is there");
        assert_eq!(got, entries);
        // A message without leases is received with room for some.
        let (result, told) = mailbox.recv_leases_flags(&pool, 2, NEVER, 0);
        assert_eq!(result.expect("it is there").0.text(), "next");
        assert_eq!(told, (0, 0));
        assert_eq!(pool.give_back(&blocks), Ok(()));
    });
}

#[test]
fn pool_a_failed_send_gives_the_lease_back() {
    isolated(|| {
        let pool = Handle::pool(4, 64);
        let block = pool.borrow_one();
        let lend = |mailbox: &Handle, wait| mailbox.send_leases("", &pool, &[(block, 1, 0)], wait);
        let full = Handle::anonymous(1);
        full.put("first");
        assert_eq!(lend(&full, NEVER), Err(Errno::AGAIN));
        assert_eq!(lend(&full, within(5)), Err(Errno::TIMEDOUT));
        let rendezvous = Handle::anonymous(0);
        assert_eq!(lend(&rendezvous, within(5)), Err(Errno::TIMEDOUT));
        let sender = Handle::anonymous(4).sender();
        assert_eq!(lend(&sender, NEVER), Err(Errno::PIPE));
        assert_eq!(lend(&full.receiver(), NEVER), Err(Errno::ACCESS));
        let too_long = full.send_leases("", &pool, &[(block, 65, 0)], NEVER);
        assert_eq!(too_long, Err(Errno::INVAL), "more than a block");
        // Of several, none goes where one cannot.
        let mailbox = Handle::anonymous(4);
        let second = pool.borrow_one();
        for wrong in [(9, 1, 0), (second, 1, 0), (block, 1, 0x10)] {
            let sent = mailbox.send_leases("", &pool, &[(second, 1, 0), wrong], NEVER);
            assert!(sent.is_err(), "{wrong:?}");
        }
        assert_eq!(pool.info().messages, 0);
        assert_eq!(pool.give_back(&[block, second]), Ok(()));
        assert_eq!((pool.free(), mailbox.info().messages), (4, 0));
    });
}

#[test]
fn pool_a_send_that_gives_up_while_it_is_copied_has_its_lease_again() {
    isolated(|| {
        let pool = Handle::pool(1, 64);
        let block = pool.borrow_one();
        let (sender, receiver) = Handle::anonymous(0).split();
        let page = SlowPage::new();
        let fault = page.fault();
        scope(|scope| {
            let received = scope.spawn(|| {
                let mut entries = [MaybeUninit::uninit(); 1];
                let mut leases = raw::Leases::new(pool.as_fd()).room(&mut entries);
                let mut args = sys::postbox_recv::default();
                let room = page.address() as *mut MaybeUninit<u8>;
                // SAFETY: nobody else refers to the page.
                let room = unsafe { std::slice::from_raw_parts_mut(room, PAGE) };
                let files = &mut Vec::new();
                raw::recv_leases(&receiver, room, files, &mut leases, &mut args)
                    .map(|data| data.to_vec())
            });
            let sent = sender.send_leases("slow", &pool, &[(block, 1, 0)], within(200));
            assert_eq!(sent, Err(Errno::TIMEDOUT));
            assert_eq!(pool.give_back(&[block]), Ok(()), "it is the sender's again");
            fault.resolve(&[]);
            // The receiver goes on waiting, and gets what comes then.
            let block = pool.borrow_one();
            sender
                .send_leases("soon", &pool, &[(block, 1, 0)], FOREVER)
                .expect("somebody waits");
            let received = received.join().expect("no panic");
            assert_eq!(received.as_deref(), Ok(&b"soon"[..]));
            assert_eq!(pool.free(), 0);
            assert_eq!(pool.give_back(&[block]), Ok(()), "this process received it");
        });
    });
}

#[test]
fn pool_blocks_of_messages_that_nobody_receives_are_free() {
    isolated(|| {
        let pool = Handle::pool(3, 64);
        let (sender, receiver) = Handle::anonymous(4).split();
        for _ in 0..3 {
            let block = pool.borrow_one();
            sender
                .send_leases("", &pool, &[(block, 1, 0)], NEVER)
                .expect("there is room");
        }
        assert_eq!(pool.free(), 0);
        drop(receiver);
        drop(sender);
        assert_eq!((pool.free(), pool.info().messages), (3, 0));
        // Also where the pool itself is gone before.
        let mailbox = Handle::anonymous(4);
        let block = pool.borrow_one();
        mailbox
            .send_leases("", &pool, &[(block, 1, 0)], NEVER)
            .expect("there is room");
        drop(pool);
        assert_eq!(mailbox.recv(NEVER), Err(Errno::MSGSIZE));
        drop(mailbox);
    });
}

#[test]
fn pool_shared_block_is_free_when_the_last_holder_has_given_it_back() {
    isolated(|| {
        let pool = Handle::pool(1, 64);
        let block = pool.borrow_one();
        let mailbox = Handle::anonymous(4);
        for _ in 0..3 {
            mailbox
                .send_leases("", &pool, &[(block, 9, SHARED)], NEVER)
                .expect("there is room");
        }
        let hold = |gate: &Gate, held: &Gate| {
            let (_, entries) = mailbox.recv_leases(&pool, 1, NEVER).expect("it is there");
            assert_eq!(entries, [(block, 9, SHARED)]);
            held.open(1);
            gate.pass();
        };
        let (gate, held) = (Gate::new(), Gate::new());
        let killed = spawn(|| hold(&gate, &held));
        held.pass();
        let ends = spawn(|| hold(&gate, &held));
        held.pass();
        assert_eq!(pool.give_back(&[block]), Ok(()), "the sender's own");
        assert_eq!(pool.give_back(&[block]), Err(NOT_HELD));
        killed.destroy();
        assert_eq!(pool.free(), 0, "somebody still reads it");
        gate.open(1);
        ends.ok();
        assert_eq!(pool.free(), 0, "one is under way");
        drop(mailbox);
        assert_eq!(pool.free(), 1);
    });
}

#[test]
fn pool_the_last_of_the_shared_is_not_shared_any_more() {
    isolated(|| {
        let pool = Handle::pool(1, 64);
        let block = pool.borrow_one();
        let mailbox = Handle::anonymous(4);
        let share = |flags| {
            mailbox
                .send_leases("", &pool, &[(block, 1, flags)], NEVER)
                .expect("there is room");
        };
        share(SHARED);
        share(0);
        assert_eq!(pool.give_back(&[block]), Err(NOT_HELD));
        let flags = || mailbox.recv_leases(&pool, 1, NEVER).expect("it is there").1[0].2;
        assert_eq!(flags(), SHARED);
        assert_eq!(pool.give_back(&[block]), Ok(()));
        assert_eq!(flags(), 0);
        assert_eq!(pool.give_back(&[block]), Ok(()));
        assert_eq!(pool.free(), 1);
    });
}

#[test]
fn pool_a_block_is_shared_by_a_thousand_at_most() {
    isolated(|| {
        let pool = Handle::pool(1, 64);
        let block = pool.borrow_one();
        let mailbox = Handle::anonymous(UNBOUNDED);
        let share = || mailbox.send_leases("", &pool, &[(block, 1, SHARED)], NEVER);
        let shared = std::iter::repeat_with(share)
            .take_while(Result::is_ok)
            .count();
        assert_eq!(shared, 1023);
        assert_eq!(share(), Err(Errno::DQUOT));
        drop(mailbox);
        assert_eq!(pool.give_back(&[block]), Ok(()));
        assert_eq!(pool.free(), 1);
    });
}

#[test]
fn pool_block_of_a_message_that_is_to_be_acknowledged_stays_with_it() {
    isolated(|| {
        let pool = Handle::pool(1, 64);
        let mailbox = Handle::anonymous(4);
        let block = pool.borrow_one();
        mailbox
            .send_leases("work", &pool, &[(block, 7, 0)], NEVER)
            .expect("there is room");
        let take = || {
            mailbox
                .recv_leases_flags(&pool, 1, NEVER, sys::POSTBOX_RECV_ACK)
                .0
        };
        let (got, entries) = take().expect("it is there");
        assert_eq!(entries, [(block, 7, sys::POSTBOX_LEASE_MESSAGE)]);
        assert_eq!(
            pool.give_back(&[block]),
            Err(NOT_HELD),
            "it is the message's"
        );
        mailbox.requeue(got.token).expect("it is taken");
        spawn(|| {
            let (got, entries) = take().expect("it is there again");
            assert_eq!((entries.len(), got.redelivered), (1, true));
            // And dies with it.
        })
        .ok();
        assert_eq!(pool.free(), 0);
        let (got, entries) = take().expect("it is there again");
        assert_eq!((entries[0].0, got.redelivered), (block, true));
        mailbox.ack(got.token).expect("it is taken");
        assert_eq!(pool.free(), 1);
    });
}

/// A call with a lease, and room for one in the reply; also what the kernel says of the first.
fn call(mailbox: &Handle, pool: &Handle, block: u32, wait: Wait) -> (Result<Vec<Entry>>, u32) {
    let entries = entries_of(&[(block, 1, 0)]);
    let mut room = [MaybeUninit::uninit(); 1];
    let mut request = raw::Leases::new(pool.as_fd()).entries(&entries);
    let mut reply = raw::Leases::new(pool.as_fd()).room(&mut room);
    let mut args = sys::postbox_call {
        request: sys::postbox_send {
            flags: wait.0,
            timeout_ns: wait.1,
            ..send_args()
        },
        ..Default::default()
    };
    let mut data = [MaybeUninit::uninit(); 64];
    let called = raw::call_leases(
        mailbox,
        b"?",
        &[],
        &mut request,
        &mut data,
        &mut Vec::new(),
        &mut reply,
        &mut args,
    )
    .map(drop);
    let (left, count) = (request.args().count, reply.args().count as usize);
    (called.map(|()| entries_from(&room[..count])), left)
}

/// Answers with a lease.
fn answer(mailbox: &Handle, pool: &Handle, token: u64, entry: Entry) -> Result<()> {
    let entries = entries_of(&[entry]);
    let mut leases = raw::Leases::new(pool.as_fd()).entries(&entries);
    let args = sys::postbox_reply {
        token,
        ..Default::default()
    };
    raw::reply_leases(mailbox, b"!", &[], &mut leases, &args)
}

#[test]
fn pool_leases_go_with_calls_and_replies() {
    isolated(|| {
        let pool = Handle::pool(2, 64);
        let mailbox = Handle::anonymous(4);
        let (block, server) = (pool.borrow_one(), pool.dup(RECEIVE).expect("fewer rights"));
        scope(|scope| {
            scope.spawn(|| {
                let (got, entries) = mailbox.recv_leases(&server, 1, FOREVER).expect("a call");
                assert_eq!(entries, [(block, 1, 0)]);
                assert_eq!(answer(&mailbox, &server, 99, entries[0]), Err(Errno::NOENT));
                assert_eq!(answer(&mailbox, &server, got.token, (block, 2, 0)), Ok(()));
                assert_eq!(server.give_back(&[block]), Err(NOT_HELD));
            });
            let (reply, _) = call(&mailbox, &pool, block, FOREVER);
            assert_eq!(reply, Ok(vec![(block, 2, 0)]));
        });
        assert_eq!(pool.give_back(&[block]), Ok(()));
        assert_eq!(pool.free(), 2);
    });
}

#[test]
fn pool_caller_that_gives_up_is_told_whether_its_leases_are_gone() {
    isolated(|| {
        let pool = Handle::pool(2, 64);
        let mailbox = Handle::anonymous(4);
        let block = pool.borrow_one();
        let (called, left) = call(&mailbox, &pool, block, within(5));
        assert_eq!((called, left), (Err(Errno::TIMEDOUT), 1));
        assert_eq!(mailbox.info().messages, 0, "it was taken back");
        let gate = Gate::new();
        let server = spawn(|| {
            mailbox.recv_leases(&pool, 1, FOREVER).expect("a call");
            gate.open(1);
            loop {
                thread::park();
            }
        });
        scope(|scope| {
            scope.spawn(|| {
                let (called, left) = call(&mailbox, &pool, block, FOREVER);
                assert_eq!((called, left), (Err(Errno::OWNERDEAD), 0));
            });
            gate.pass();
            assert_eq!(pool.free(), 1, "the server has it");
            server.destroy();
        });
        assert_eq!(pool.give_back(&[block]), Err(NOT_HELD));
        assert_eq!(
            pool.free(),
            2,
            "its block has come back from the dead server"
        );
    });
}

#[test]
fn pool_reply_without_room_for_its_leases_is_fetched_later() {
    isolated(|| {
        let pool = Handle::pool(2, 64);
        let mailbox = Handle::anonymous(4);
        scope(|scope| {
            scope.spawn(|| {
                let got = mailbox.recv(FOREVER).expect("a call");
                let block = pool.borrow_one();
                answer(&mailbox, &pool, got.token, (block, 3, 0)).expect("it waits");
            });
            let mut args = sys::postbox_call {
                request: send_args(),
                ..Default::default()
            };
            let mut data = [MaybeUninit::uninit(); 64];
            let mut files = Vec::new();
            let called = raw::call(&mailbox, b"?", &[], &mut data, &mut files, &mut args);
            assert_eq!(called, Err(Errno::MSGSIZE));
            assert_eq!(args.reply.msg_flags, sys::POSTBOX_MSG_LEASES);
            assert_eq!((pool.free(), pool.info().messages), (1, 1), "it is kept");
            let other = Handle::pool(1, 64);
            let mut fetch = |pool: &Handle, args: &mut sys::postbox_call| {
                let mut room = [MaybeUninit::uninit(); 1];
                let mut reply = raw::Leases::new(pool.as_fd()).room(&mut room);
                let mut fetch = sys::postbox_call::default();
                fetch.reply.token = args.reply.token;
                let fetched =
                    raw::call_fetch_leases(&mailbox, &mut data, &mut files, &mut reply, &mut fetch)
                        .map(drop);
                *args = fetch;
                fetched.map(|()| entries_from(&room))
            };
            assert_eq!(fetch(&other, &mut args), Err(Errno::XDEV));
            let entries = fetch(&pool, &mut args).expect("there is room");
            assert_eq!(entries[0].1, 3);
            assert_eq!(pool.give_back(&[entries[0].0]), Ok(()));
        });
        assert_eq!(pool.free(), 2);
    });
}

#[test]
fn pool_blocks_of_a_process_come_back_when_it_dies_and_those_of_others_stay() {
    isolated(|| {
        let pool = Handle::pool(64, 64);
        let mine = [pool.borrow_one(), pool.borrow_one()];
        let gate = Gate::new();
        let child = spawn(|| {
            for _ in 0..10 {
                pool.borrow_one();
            }
            assert_eq!(pool.give_back(&mine), Err(NOT_HELD), "its parent's");
            let mailbox = Handle::anonymous(1);
            let sent = mailbox.send_leases("", &pool, &[(mine[0], 1, 0)], NEVER);
            assert_eq!(sent, Err(NOT_HELD));
            gate.open(1);
            loop {
                thread::park();
            }
        });
        gate.pass();
        assert_eq!(pool.free(), 52);
        child.destroy();
        assert_eq!(pool.free(), 62);
        assert_eq!(pool.give_back(&mine), Ok(()));
    });
}

#[test]
fn pool_blocks_come_back_with_the_last_descriptor_of_the_handle() {
    isolated(|| {
        let pool = Handle::pool(4, 64);
        let handle = pool.dup(SEND | RECEIVE).expect("the same rights");
        handle.borrow_one();
        let copy = handle.0.try_clone().expect("a descriptor");
        drop(handle);
        assert_eq!(pool.free(), 3);
        drop(copy);
        assert_eq!(pool.free(), 4);
    });
}

#[test]
fn pool_returns_and_loans_ride_with_messages() {
    isolated(|| {
        let pool = Handle::pool(16, 64);
        let mailbox = Handle::anonymous(4);
        let mut ride = Ride {
            want: 3,
            ..Ride::default()
        };
        assert_eq!(
            mailbox.send_riding("", &pool, &[], &mut ride, NEVER),
            Ok(())
        );
        assert_eq!((ride.lent.len(), pool.free()), (3, 13));
        // What is done is done, also where the send fails.
        let sent = ride.lent.clone();
        let mut ride = Ride {
            returns: sent[1..].to_vec(),
            want: 1,
            ..Ride::default()
        };
        let full = Handle::anonymous(1);
        full.put("full");
        let entries = [(sent[0], 1, 0)];
        let failed = full.send_riding("", &pool, &entries, &mut ride, NEVER);
        assert_eq!(failed, Err(Errno::AGAIN));
        assert_eq!((ride.returns.len(), ride.lent.len()), (0, 1));
        assert_eq!(pool.free(), 14);
        // One that is not held ends it before anything is sent.
        let mut wrong = Ride {
            returns: vec![ride.lent[0], 15, sent[0]],
            ..Ride::default()
        };
        let failed = mailbox.send_riding("never", &pool, &[], &mut wrong, NEVER);
        assert_eq!((failed, wrong.returns.len()), (Err(NOT_HELD), 2));
        assert_eq!(mailbox.info().messages, 1);
        assert_eq!(pool.give_back(&ride.lent), Ok(()));
        assert_eq!((pool.free(), pool.info().requests), (16, 1));
    });
}

#[test]
fn pool_reader_maps_it_to_read_only() {
    isolated(|| {
        let name = unique("pool");
        let pool = MakePool {
            mode: 0o644,
            ..MakePool::new(2, PAGE as u64)
        }
        .make(name.as_str())
        .expect("the name is new");
        let map = pool.map(0, 2 * PAGE, RW).expect("it may write");
        // SAFETY: it is mapped, and accessed through raw pointers alone.
        unsafe { map.as_ptr().add(PAGE).write_volatile(7) };
        spawn_as(ALICE, || {
            assert!(matches!(open_pool(&name, SEND), Err(Errno::ACCESS)));
            let reader = open_pool(&name, RECEIVE).expect("its mode lets everybody read");
            let write = reader.map(0, 2 * PAGE, RW).map(drop);
            assert_eq!(write, Err(Errno::ACCESS));
            let map = reader.map(0, 2 * PAGE, R).expect("it may read");
            // SAFETY: it is mapped, and only read.
            assert_eq!(unsafe { map.as_ptr().add(PAGE).read_volatile() }, 7);
            // SAFETY: one page of the mapping.
            let made = unsafe { libc::mprotect(map.as_ptr().cast(), PAGE, RW) };
            assert_eq!(made, -1, "it cannot be made writable");
            assert_eq!(reader.borrow(1, NEVER), Err(Errno::ACCESS));
        })
        .ok();
    });
}

#[test]
fn pool_leases_go_through_links_and_endpoints_and_with_files() {
    isolated(|| {
        let pool = Handle::pool(2, 64);
        let block = pool.borrow_one();
        let (one, two) = postbox::Link::pair().expect("a link");
        let entries = entries_of(&[(block, 4, 0)]);
        let file = std::fs::File::open("/dev/null").expect("it is there");
        let files = [raw::SendFd::new(file.as_fd(), 0)];
        let mut leases = raw::Leases::new(pool.as_fd()).entries(&entries);
        raw::send_leases(&one, b"", &files, &mut leases, &send_args()).expect("there is room");
        let mut room = [MaybeUninit::uninit(); 2];
        let mut leases = raw::Leases::new(pool.as_fd()).room(&mut room);
        let mut args = sys::postbox_recv {
            fd_max: 1,
            ..Default::default()
        };
        let mut files = Vec::new();
        raw::recv_leases(&two, &mut [], &mut files, &mut leases, &mut args).expect("it is there");
        let (count, leased) = (leases.args().count, args.msg_flags);
        assert_eq!((count, files.len()), (1, 1));
        assert_eq!(leased, sys::POSTBOX_MSG_LEASES);
        assert_eq!(entries_from(&room[..1]), [(block, 4, 0)]);

        let endpoint = postbox::Endpoint::own().expect("this process's");
        let to = postbox::Endpoint::of(std::process::id()).expect("it is there");
        let mut leases = raw::Leases::new(pool.as_fd()).entries(&entries);
        raw::send_leases(&to, b"", &[], &mut leases, &send_args()).expect("there is room");
        let mut room = [MaybeUninit::uninit(); 2];
        let mut leases = raw::Leases::new(pool.as_fd()).room(&mut room);
        let mut args = sys::postbox_recv::default();
        raw::recv_leases(&endpoint, &mut [], &mut files, &mut leases, &mut args)
            .expect("it is there");
        assert_eq!(pool.give_back(&[block]), Ok(()));
    });
}

#[test]
fn pool_a_wait_for_a_block_goes_on_after_a_signal() {
    isolated(|| {
        let pool = Handle::pool(2, 64);
        let blocks = [pool.borrow_one(), pool.borrow_one()];
        let waits = spawn(|| {
            handle_signal(libc::SIGUSR1, libc::SA_RESTART);
            let block = pool.borrow(1, FOREVER).expect("one comes back");
            assert_eq!(block, blocks[..1]);
        });
        pool.wait_senders(1);
        waits.kill(libc::SIGUSR1);
        thread::sleep(std::time::Duration::from_millis(50));
        pool.wait_senders(1);
        pool.give_back(&blocks[..1]).expect("it is held");
        waits.ok();
        assert_eq!(pool.free(), 1);
    });
}
