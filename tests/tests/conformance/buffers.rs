//! Pools and buffers as the library gives them.

use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use postbox::{
    Capacity, ErrorKind, Link, Mailbox, Pages, Pool, PoolHandle, PoolOptions, Rights, Trusting,
    Wait,
};
use postbox_tests::{
    ALICE, Errno, Gate, Handle, HugePages, PAGE, R, RECEIVE, RW, isolated, scope, sleep_forever,
    spawn, spawn_as, unique, wait_until,
};

use crate::typed::kind;

const MIB: usize = 1 << 20;

fn pool(blocks: u32, len: usize) -> Pool {
    Pool::options().anonymous(blocks, len).expect("a pool")
}

fn mailbox() -> Mailbox {
    Mailbox::options().anonymous().expect("a mailbox")
}

#[test]
fn buffer_is_read_where_it_was_written() {
    isolated(|| {
        let (pool, mailbox) = (pool(4, MIB), mailbox());
        assert_eq!((pool.blocks(), pool.block_len()), (4, MIB));
        let mut loan = pool.loan(MIB).expect("a block");
        let place = loan.as_mut_ptr();
        assert_eq!(
            (place as usize % 64, loan.len(), loan.capacity()),
            (0, MIB, MIB)
        );
        loan.write(0, b"first").expect("it fits");
        loan.write(MIB - 4, b"last").expect("it fits");
        loan.put(8, &[1u32, 2, 3]).expect("it fits");
        mailbox
            .send_buffer_with(loan, b"an image", 3, Wait::Never)
            .expect("there is room");
        let mut got = mailbox.try_recv_buffers(&pool).expect("it is there");
        assert_eq!((&**got, got.priority), (&b"an image"[..], 3));
        let buffer = got.buffers.pop().expect("one");
        assert_eq!((buffer.as_ptr(), buffer.len()), (place.cast_const(), MIB));
        assert!(!buffer.is_shared());
        let mut last = [0; 4];
        buffer.read(MIB - 4, &mut last).expect("it is there");
        assert_eq!(&last, b"last");
        assert_eq!(buffer.get::<[u32; 3]>(8), Ok([1, 2, 3]));
        assert_eq!(&buffer.to_vec()[..5], b"first");
        // It can be written again by who has it alone.
        let mut loan = buffer.try_into_loan().expect("nobody else has it");
        loan.set_len(2).expect("less");
        loan.write(0, b"ok").expect("it fits");
        mailbox.try_send_buffer(loan).expect("there is room");
        let got = mailbox.recv_buffers(&pool).expect("it is there");
        assert_eq!(got.buffers[0].to_vec(), b"ok");
    });
}

#[test]
fn buffer_of_no_bytes_and_of_odd_lengths() {
    isolated(|| {
        let (pool, mailbox) = (pool(2, 100), mailbox());
        assert_eq!(pool.block_len(), 128, "whole lines of memory");
        for len in [0, 1, 127, 128] {
            let loan = pool.loan(len).expect("a block");
            assert_eq!((loan.len(), loan.is_empty()), (len, len == 0));
            mailbox.send_buffer(loan).expect("there is room");
            let got = mailbox.recv_buffers(&pool).expect("it is there");
            assert_eq!(got.buffers[0].len(), len);
        }
    });
}

#[test]
fn buffers_cost_no_calls_of_their_own_as_long_as_messages_flow() {
    isolated(|| {
        let pool = pool(64, 64);
        // Who sends waits for who receives: they do not have more than half of the blocks.
        let mailbox = Mailbox::options()
            .capacity(Capacity::Bounded(8))
            .anonymous()
            .expect("a mailbox");
        let there = |n: u64| {
            let mut loan = pool.loan(8).expect("a block");
            loan.put(0, &n).expect("it fits");
            mailbox.send_buffer(loan).expect("there is room");
        };
        let back = || {
            let got = mailbox.recv_buffers(&pool).expect("it is there");
            got.buffers[0].get::<u64>(0).expect("it has eight bytes")
        };
        let other = spawn(|| {
            for n in 0..1000 {
                assert_eq!(back(), n);
            }
            assert!(pool.info().expect("it is there").requests <= 4);
        });
        for n in 0..1000 {
            there(n);
        }
        other.ok();
        let info = pool.info().expect("it is there");
        assert!(
            info.requests <= 4,
            "{} calls for 2,000 steps",
            info.requests
        );
        pool.flush();
        assert_eq!(pool.info().expect("it is there").value, 64);
    });
}

#[test]
fn buffers_that_are_not_kept_are_free_at_once() {
    isolated(|| {
        let pool = PoolOptions::new().keep(0).anonymous(2, 64).expect("a pool");
        let free = || pool.info().expect("it is there").value;
        let loan = pool.loan(1).expect("a block");
        assert_eq!(free(), 1);
        drop(loan);
        assert_eq!(free(), 2);
    });
}

#[test]
fn buffer_that_is_not_sent_comes_back_with_the_error() {
    isolated(|| {
        let pool = pool(2, 64);
        let full = Mailbox::options()
            .capacity(Capacity::Bounded(1))
            .anonymous()
            .expect("a mailbox");
        full.send("first").expect("there is room");
        let mut loan = pool.loan(5).expect("a block");
        loan.write(0, b"again").expect("it fits");
        let failed = full.try_send_buffer(loan).expect_err("it is full");
        assert!(failed.error.is_full());
        let short = Duration::from_millis(5);
        let failed = full
            .send_buffer_timeout(failed.payload, short)
            .expect_err("it is full");
        assert!(failed.error.is_timeout());
        let (sender, receiver) = mailbox().split().expect("two handles");
        drop(receiver);
        let failed = sender
            .send_buffers(vec![failed.payload], b"", 0, Wait::Forever)
            .expect_err("nobody receives");
        assert!(failed.error.is_disconnected());
        let mut text = [0; 5];
        failed.payload[0].read(0, &mut text).expect("it is ours");
        assert_eq!(&text, b"again");
    });
}

#[test]
fn buffers_need_their_pool_and_the_error_says_so() {
    isolated(|| {
        let (pool, other, mailbox) = (pool(4, 64), pool(4, 64), mailbox());
        mailbox
            .send_buffer(pool.loan(1).expect("a block"))
            .expect("there is room");
        let error = mailbox.try_recv().expect_err("it has a buffer");
        assert_eq!(error.kind, ErrorKind::HasBuffers);
        assert!(error.to_string().contains("recv_buffers"), "{error}");
        let error = mailbox.try_take().expect_err("it has a buffer");
        assert_eq!(error.kind, ErrorKind::HasBuffers);
        let error = mailbox.recv_into(&mut [0; 9]).expect_err("it has a buffer");
        assert_eq!(error.kind, ErrorKind::HasBuffers);
        let error = mailbox
            .recv_many(&mut Vec::new(), 4, Wait::Never)
            .expect_err("it has a buffer");
        assert_eq!(error.kind, ErrorKind::HasBuffers);
        let error = mailbox.try_recv_buffers(&other).expect_err("of another");
        let id = pool.info().expect("it is there").id;
        assert_eq!(error.kind, ErrorKind::OtherPool { pool: id });
        mailbox.try_recv_buffers(&pool).expect("it is still there");
        let mixed = vec![
            pool.loan(1).expect("a block"),
            other.loan(1).expect("a block"),
        ];
        let failed = mailbox
            .send_buffers(mixed, b"", 0, Wait::Never)
            .expect_err("of two pools");
        assert!(matches!(failed.error.kind, ErrorKind::OtherPool { .. }));
        // A message without buffers is received with a pool, too.
        mailbox.send("plain").expect("there is room");
        let plain = mailbox.recv_buffers(&pool).expect("it is there");
        assert_eq!((&**plain, plain.buffers.len()), (&b"plain"[..], 0));
    });
}

#[test]
fn buffers_end_where_they_end() {
    isolated(|| {
        let pool = pool(2, 64);
        let error = pool.loan(65).expect_err("a block is smaller");
        assert_eq!(error.kind, ErrorKind::TooLarge { len: 65, limit: 64 });
        let mut loan = pool.loan(10).expect("a block");
        for (offset, bytes) in [(10, 1), (0, 11), (usize::MAX, 1), (usize::MAX, 20)] {
            let error = loan
                .write(offset, &vec![0; bytes])
                .expect_err("out of its bounds");
            assert!(matches!(error.kind, ErrorKind::OutOfBounds { len: 10, .. }));
            assert!(loan.read(offset, &mut vec![0; bytes]).is_err());
        }
        assert!(loan.get::<u64>(3).is_err());
        assert!(loan.put(3, &0u64).is_err());
        assert!(loan.set_len(65).is_err());
    });
}

#[test]
fn buffer_is_shared_and_free_when_the_last_one_drops_it() {
    isolated(|| {
        let pool = PoolOptions::new().keep(0).anonymous(1, 64).expect("a pool");
        let free = || pool.info().expect("it is there").value;
        let mailbox = mailbox();
        let mut loan = pool.loan(4).expect("a block");
        loan.write(0, b"news").expect("it fits");
        let shared = loan.share();
        let clone = shared.clone();
        mailbox.send_buffer(&shared).expect("there is room");
        mailbox.send_buffer(&clone).expect("there is room");
        drop(shared);
        let reader = spawn(|| {
            let got = mailbox.recv_buffers(&pool).expect("it is there");
            assert!(got.buffers[0].is_shared());
            assert_eq!(got.buffers[0].to_vec(), b"news");
        });
        reader.ok();
        assert_eq!(free(), 0);
        let mut got = mailbox.recv_buffers(&pool).expect("it is there");
        let buffer = got.buffers.pop().expect("one");
        let buffer = buffer.try_into_loan().expect_err("it is shared");
        drop(buffer);
        assert_eq!((free(), clone.to_vec()), (0, b"news".to_vec()));
        drop(clone);
        assert_eq!(free(), 1);
    });
}

#[test]
fn buffers_of_a_message_that_is_taken_are_its_own_until_it_is_settled() {
    isolated(|| {
        let (pool, mailbox) = (pool(2, 64), mailbox());
        let mut loan = pool.loan(4).expect("a block");
        loan.write(0, b"work").expect("it fits");
        mailbox.send_buffer(loan).expect("there is room");
        let taken = mailbox
            .take_buffers(&pool, Wait::Never)
            .expect("it is there");
        assert_eq!(taken.buffers()[0].to_vec(), b"work");
        drop(taken);
        let taken = mailbox
            .take_buffers(&pool, Wait::Never)
            .expect("it is there again");
        assert!(taken.redelivered);
        taken.requeue().expect("it is taken");
        let taken = mailbox
            .take_buffers(&pool, Wait::Never)
            .expect("it is there again");
        assert_eq!(taken.buffers()[0].to_vec(), b"work");
        taken.ack().expect("it is taken");
        pool.flush();
        assert_eq!(pool.info().expect("it is there").value, 2);
    });
}

#[test]
fn buffers_go_with_calls_and_their_replies() {
    isolated(|| {
        let (pool, mailbox) = (pool(8, 64), mailbox());
        scope(|scope| {
            scope.spawn(|| {
                let (mut request, mut buffers) = mailbox
                    .recv_request_buffers(&pool, Wait::Forever)
                    .expect("a call");
                assert_eq!((&**request, buffers.len()), (&b"add"[..], 2));
                let sum: u64 = buffers
                    .iter()
                    .map(|b| b.get::<u64>(0).expect("a number"))
                    .sum();
                let mut loan = buffers.pop().expect("two").try_into_loan().expect("alone");
                loan.put(0, &sum).expect("it fits");
                request.reply_buffers(b"sum", vec![loan]).expect("it waits");
            });
            let numbers = [40u64, 2].map(|number| {
                let mut loan = pool.loan(8).expect("a block");
                loan.put(0, &number).expect("it fits");
                loan
            });
            let reply = mailbox
                .call_buffers(b"add", numbers.into(), &pool, Wait::Forever)
                .expect("an answer");
            assert_eq!(&**reply, b"sum");
            assert_eq!(reply.buffers[0].get::<u64>(0), Ok(42));
        });
        // Nobody has taken the request: the buffers come back.
        let loan = pool.loan(8).expect("a block");
        let short = Wait::Timeout(Duration::from_millis(5));
        let failed = mailbox
            .call_buffers(b"", vec![loan], &pool, short)
            .expect_err("nobody answers");
        assert!(failed.error.is_timeout());
        assert_eq!(failed.payload.len(), 1);
        // Somebody has.
        scope(|scope| {
            scope.spawn(|| {
                let (request, _) = mailbox
                    .recv_request_buffers(&pool, Wait::Forever)
                    .expect("a call");
                drop(request);
            });
            let failed = mailbox
                .call_buffers(b"", failed.payload, &pool, Wait::Forever)
                .expect_err("it is dropped");
            assert_eq!(
                (failed.error.kind, failed.payload.len()),
                (ErrorKind::Dropped, 0)
            );
        });
        pool.flush();
        assert_eq!(pool.info().expect("it is there").value, 8);
    });
}

#[test]
fn a_child_cannot_give_back_what_its_parent_borrowed() {
    isolated(|| {
        let (pool, mailbox) = (pool(16, 64), mailbox());
        let mut loan = pool.loan(8).expect("a block");
        loan.put(0, &7u64).expect("it fits");
        drop(pool.loan(8).expect("a block"));
        let used = 16 - pool.info().expect("it is there").value;
        let copy = std::mem::ManuallyDrop::new(loan);
        spawn(|| {
            // SAFETY: this process never returns to where the other one is.
            let loan = unsafe { std::ptr::read(&*copy) };
            let failed = mailbox.send_buffer(loan).expect_err("it is the parent's");
            assert_eq!(failed.error.kind, ErrorKind::NotFound);
            drop(failed.payload);
            // What the parent keeps for its next loans, the child does not use.
            let mine = pool.loan(8).expect("a block");
            assert!(pool.info().expect("it is there").unacknowledged > used);
            drop(mine);
            pool.flush();
            assert_eq!(pool.info().expect("it is there").value, 16 - used);
        })
        .ok();
        let loan = std::mem::ManuallyDrop::into_inner(copy);
        assert_eq!(loan.get::<u64>(0), Ok(7));
        mailbox.send_buffer(loan).expect("it is still ours");
    });
}

#[test]
fn a_pool_that_is_trusted_gives_slices() {
    isolated(|| {
        let mailbox = mailbox();
        // SAFETY: this process alone uses it, through the library.
        let pool: Pool<Trusting> = unsafe { pool(4, MIB).trusting() };
        let mut loan = pool.loan(MIB).expect("a block");
        loan.fill(3);
        loan[MIB - 1] = 4;
        mailbox.send_buffer(loan).expect("there is room");
        let got = mailbox.recv_buffers(&pool).expect("it is there");
        assert_eq!(
            got.buffers[0]
                .iter()
                .map(|byte| u64::from(*byte))
                .sum::<u64>(),
            3 * MIB as u64 + 1
        );
    });
}

#[test]
fn a_pool_is_opened_by_name_and_read_by_who_may_only_read() {
    isolated(|| {
        let (name, jobs) = (unique("pool"), unique("jobs"));
        let pool = Pool::options()
            .mode(0o644)
            .create_new(&name, 4, 4096)
            .expect("the name is new");
        let error = Pool::options()
            .create_new(&name, 4, 4096)
            .expect_err("it is taken");
        assert_eq!(error.kind, ErrorKind::Exists);
        let again = Pool::options()
            .create(&name, 9, 64)
            .expect("the one that is there");
        assert_eq!((again.blocks(), again.block_len()), (4, 4096));
        let mailbox = Mailbox::options()
            .create(true)
            .mode(0o666)
            .open(&jobs)
            .expect("the name is new");
        let mut loan = pool.loan(6).expect("a block");
        loan.write(0, b"public").expect("it fits");
        mailbox.send_buffer(loan).expect("there is room");
        spawn_as(ALICE, || {
            assert!(Pool::open(&name).is_err_and(|error| error.is_denied()));
            let pool = Pool::options()
                .open_reader(&name)
                .expect("its mode lets everybody read");
            assert_eq!(pool.rights(), Rights::RECEIVE);
            assert!(pool.try_loan(1).is_err_and(|error| error.is_denied()));
            let mailbox = Mailbox::open(&jobs).expect("its mode lets everybody");
            let mut got = mailbox.recv_buffers(&pool).expect("it is there");
            let buffer = got.buffers.pop().expect("one");
            assert_eq!(buffer.to_vec(), b"public");
            let buffer = buffer.try_into_loan().expect_err("it cannot be written");
            // But passed on.
            mailbox.send_buffer(buffer).expect("there is room");
        })
        .ok();
        let got = mailbox.recv_buffers(&again).expect("it is there");
        assert_eq!(got.buffers[0].to_vec(), b"public");
    });
}

#[test]
fn a_pool_goes_through_a_link_to_who_has_no_name_for_it() {
    isolated(|| {
        let (one, two) = Link::pair().expect("a link");
        let pool = pool(4, 64);
        let mut parcel = postbox::Parcel::new("the pool");
        one.send_parcel(parcel.attach(&pool), Wait::Forever)
            .expect("there is room");
        let mut loan = pool.loan(3).expect("a block");
        loan.write(0, b"abc").expect("it fits");
        one.send_buffer(loan).expect("there is room");
        spawn(|| {
            let mut first = two.recv().expect("it is there");
            let handle = PoolHandle::try_from(first.files.remove(0)).expect("it is a pool's");
            let pool = handle.attach().expect("it can be mapped");
            let got = two.recv_buffers(&pool).expect("it is there");
            assert_eq!(got.buffers[0].to_vec(), b"abc");
        })
        .ok();
        pool.flush();
        assert_eq!(pool.info().expect("it is there").value, 4);
        let wrong = std::os::fd::OwnedFd::from(mailbox());
        let error = PoolHandle::try_from(wrong).expect_err("it is a mailbox");
        assert_eq!(error.error.kind, ErrorKind::WrongHandle);
    });
}

#[test]
fn who_waits_for_a_block_gets_one_that_is_dropped() {
    isolated(|| {
        let pool = pool(1, 64);
        let loan = pool.loan(1).expect("a block");
        assert_eq!(kind(pool.try_loan(1)), ErrorKind::NotYet);
        let short = Duration::from_millis(5);
        assert_eq!(kind(pool.loan_timeout(1, short)), ErrorKind::Timeout);
        scope(|scope| {
            let waits = scope.spawn(|| pool.loan(1).map(drop));
            while pool.info().expect("it is there").waiting_senders == 0 {
                thread::yield_now();
            }
            drop(loan);
            waits.join().expect("no panic").expect("a block");
        });
    });
}

#[test]
fn a_pool_is_made_of_huge_pages() {
    isolated(|| {
        const HUGE: usize = HugePages::SIZE;
        let Some(pages) = HugePages::reserve(3) else {
            return;
        };
        // Three blocks, of which one is in two pages. What is left of the last page is nobody's.
        const LEN: usize = HUGE / 2 + 64;
        let mut options = Pool::options();
        options.pages(Pages::Huge2M).keep(0);
        let pool = options.anonymous(3, LEN).expect("there are some");
        let info = pool.info().expect("it is there");
        assert_eq!((info.value, info.message_max), (3, 2 * HUGE as u64));
        assert_eq!(pages.free(), 3, "nobody has touched one");
        let mailbox = mailbox();
        let mut loans = Vec::new();
        for i in 0..3u8 {
            let mut loan = pool.loan(LEN).expect("a block");
            loan.write(0, &[i; 5]).expect("it fits");
            loan.write(LEN - 5, &[i + 10; 5]).expect("it fits");
            loans.push(loan);
        }
        assert_eq!(pages.free(), 1);
        for loan in loans {
            mailbox.send_buffer(loan).expect("there is room");
        }
        let there = Gate::new();
        let child = spawn(|| {
            for i in 0..3u8 {
                let got = mailbox.recv_buffers(&pool).expect("it is there");
                let mut bytes = [0; 5];
                got.buffers[0].read(0, &mut bytes).expect("it is there");
                assert_eq!(bytes, [i; 5]);
                got.buffers[0]
                    .read(LEN - 5, &mut bytes)
                    .expect("it is there");
                assert_eq!(bytes, [i + 10; 5]);
                if i == 2 {
                    // It holds the last one.
                    there.open(1);
                    sleep_forever();
                }
            }
        });
        there.pass();
        assert_eq!(pool.info().expect("it is there").value, 2);
        child.destroy();
        wait_until("the block of the dead to be free", || {
            pool.info().expect("it is there").value == 3
        });

        // One page is left, which is not enough for a second pool, of which nothing stays.
        let refused = options.anonymous(3, LEN).expect_err("it needs two");
        assert_eq!(refused.errno, Some(Errno::NOMEM));
        let small = options.pages(Pages::Huge).anonymous(64, 4096).expect("one");
        let info = small.info().expect("it is there");
        assert_eq!((info.value, info.message_max), (64, HUGE as u64));
        drop(small);
        wait_until("its page to be given back", || pages.free() == 1);

        // A handle of it maps whole pages, and writes to them only where it may.
        let handle = Handle(pool.as_fd().try_clone_to_owned().expect("a descriptor"));
        drop(pool);
        for (offset, len) in [(0, PAGE), (PAGE, HUGE), (HUGE, 2 * HUGE)] {
            let mapped = handle.map(offset, len, RW).map(drop);
            assert_eq!(mapped, Err(Errno::INVAL), "{len} bytes from {offset} on");
        }
        let reader = handle.dup(RECEIVE).expect("fewer rights");
        let theirs = reader.map(HUGE, HUGE, R).expect("to read");
        assert_eq!(theirs.protect(RW), Err(Errno::ACCESS));
        assert_eq!(reader.map(0, HUGE, RW).map(drop), Err(Errno::ACCESS));
        drop((theirs, reader, handle));
        wait_until("all pages to be given back", || pages.free() == 3);
    });
}

#[test]
fn who_waits_gets_what_another_thread_has_borrowed_ahead() {
    isolated(|| {
        // Who borrows one gets the other as well, where nobody waits yet.
        let mut options = Pool::options();
        let pool = options.keep(1).anonymous(2, 64).expect("a pool");
        for _ in 0..300 {
            scope(|scope| {
                let other = scope.spawn(|| pool.loan(1).map(drop));
                let mine = pool.loan(1).expect("one is free");
                // It is not given up before the other thread has had one.
                other.join().expect("no panic").expect("it is given back");
                drop(mine);
            });
            pool.flush();
            assert_eq!(pool.info().expect("it is there").value, 2);
        }
    });
}
