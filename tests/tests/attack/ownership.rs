//! Ownership: a failed operation leaves nothing behind, whoever holds the message.

use std::os::fd::AsRawFd;
use std::time::Duration;

use postbox::{raw, sys};
use postbox_tests::uring::{self, Kept, Ring, Sqe};
use postbox_tests::*;
use rustix::io::Errno;

/// A ring whose commands end only when their task enters it.
fn lazy_ring(entries: u32) -> Ring {
    let flags = uring::SINGLE_ISSUER | uring::DEFER_TASKRUN;
    Ring::new(entries, flags).expect("io_uring is there")
}

/// The messages of this user, and their bytes.
fn used() -> (u64, u64) {
    let (messages, bytes, _) = Handle::unbound().usage();
    (messages, bytes)
}

fn sleep_until_killed() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn withdrawn_sends_cost_nothing_while_the_receiver_sleeps() {
    const SENDS: u32 = 16;
    for attacker in Attacker::ALL {
        isolated(|| {
            let mailbox = Handle::anonymous(0);
            let hostile = attacker.run(|| {
                let (mut ring, room) = (lazy_ring(SENDS), Kept::new([0u8; 64]));
                for _ in 0..SENDS {
                    let (fd, at) = (mailbox.as_raw_fd(), room.address());
                    ring.push(&Sqe::direct(fd, sys::POSTBOX_RECV, at, 64, FOREVER));
                }
                ring.park();
                sleep_until_killed();
            });
            mailbox.wait_receivers(SENDS);
            let victim = || {
                let large = vec![1; 1 << 20];
                for _ in 0..SENDS {
                    assert_eq!(mailbox.send(&large, within(5)), Err(Errno::TIMEDOUT));
                }
                assert_eq!(used(), (0, 0), "{attacker:?}");
            };
            spawn_as(BOB, victim).ok();
            hostile.destroy();
        });
    }
}

#[test]
fn withdrawn_call_costs_nothing_while_the_server_sleeps() {
    for attacker in Attacker::ALL {
        isolated(|| {
            // With room: the request is in the mailbox, and not an offer.
            let mailbox = Handle::anonymous(4);
            let hostile = attacker.run(|| {
                let (mut ring, room) = (lazy_ring(4), Kept::new([0u8; 64]));
                let (fd, at) = (mailbox.as_raw_fd(), room.address());
                ring.push(&Sqe::direct(fd, sys::POSTBOX_RECV, at, 64, FOREVER));
                ring.park();
                sleep_until_killed();
            });
            mailbox.wait_receivers(1);
            let victim = || {
                let mut args = sys::postbox_call::default();
                args.request.flags = sys::POSTBOX_TIMEOUT;
                args.request.timeout_ns = 5_000_000;
                let (mut room, mut files) = ([std::mem::MaybeUninit::uninit(); 8], Vec::new());
                let large = vec![1; 1 << 20];
                let called = raw::call(&mailbox, &large, &[], &mut room, &mut files, &mut args);
                assert_eq!(called.map(drop), Err(Errno::TIMEDOUT));
                assert_eq!(used(), (0, 0), "{attacker:?}");
            };
            spawn_as(BOB, victim).ok();
            hostile.destroy();
        });
    }
}

#[test]
fn withdrawn_send_is_charged_to_the_receiver_that_copies_it() {
    isolated(|| {
        let mailbox = Handle::anonymous(0);
        let [ready, withdrawn] = [(); 2].map(|()| Gate::new());
        let hostile = spawn(|| {
            let page = SlowPage::new();
            let fault = page.fault();
            scope(|scope| {
                let receives = scope.spawn(|| {
                    let mut args = sys::postbox_recv {
                        data: page.address(),
                        len: PAGE as u64,
                        ..recv_args()
                    };
                    // The sender is gone: nothing is received.
                    args.flags = sys::POSTBOX_TIMEOUT;
                    args.timeout_ns = 2_000_000_000;
                    // SAFETY: the request writes to a page that outlives it.
                    let received = unsafe { raw::ioctl(&mailbox, sys::POSTBOX_RECV, &mut args) };
                    assert_eq!(received.map(drop), Err(Errno::TIMEDOUT));
                });
                fault.wait();
                ready.open(1);
                assert_eq!(used(), (1, 4096), "also while the sender waits");
                withdrawn.pass();
                assert_eq!(used(), (1, 4096));
                fault.resolve(&[0; PAGE]);
                receives.join().expect("it ends");
            });
            assert_eq!(used(), (0, 0));
        });
        mailbox.wait_receivers(1);
        spawn_as(BOB, || {
            let sender = mailbox.sender();
            mailbox.close_copy();
            scope(|scope| {
                scope.spawn(|| {
                    let sent = sender.send(vec![1; PAGE], within(200));
                    assert_eq!(sent, Err(Errno::TIMEDOUT));
                    assert_eq!(used(), (0, 0));
                    withdrawn.open(1);
                });
                ready.pass();
            });
        })
        .ok();
        hostile.ok();
    });
}

#[test]
fn answers_are_charged_to_the_caller_that_leaves_them_alone() {
    const CALLS: usize = 3;
    for attacker in Attacker::ALL {
        isolated(|| {
            let mailbox = Handle::anonymous(64);
            let hostile = attacker.run(|| {
                let mut ring = lazy_ring(CALLS as u32);
                let calls = [(); CALLS].map(|()| Kept::new(call_args()));
                for call in &calls {
                    let fd = mailbox.as_raw_fd();
                    ring.push(&Sqe::command(fd, sys::POSTBOX_CALL, call.address()));
                }
                ring.park();
                sleep_until_killed();
            });
            wait_until("the calls", || mailbox.info().messages == CALLS as u64);
            spawn_as(BOB, || {
                let large = vec![1; 1 << 20];
                for _ in 0..CALLS {
                    let token = mailbox.recv(FOREVER).expect("it comes").token;
                    let args = sys::postbox_reply {
                        token,
                        ..Default::default()
                    };
                    raw::reply(&mailbox, &large, &[], &args).expect("the caller waits");
                    assert_eq!(used(), (0, 0), "the server pays nothing");
                }
            })
            .ok();
            // Through a handle of the host, its account is that of its user there.
            let kept = || assert_eq!(used(), (CALLS as u64, (CALLS as u64) << 20));
            spawn_as(ALICE, kept).ok();
            hostile.destroy();
            let given_back = || wait_until("them to be given back", || used() == (0, 0));
            spawn_as(ALICE, given_back).ok();
        });
    }
}

/// A call of no bytes, with no room for the answer.
fn call_args() -> sys::postbox_call {
    let mut args = sys::postbox_call {
        size: size_of::<sys::postbox_call>() as u32,
        ..Default::default()
    };
    args.request.size = size_of::<sys::postbox_send>() as u32;
    args.reply.size = size_of::<sys::postbox_recv>() as u32;
    args
}

#[test]
fn answers_of_one_process_to_itself_stay_within_its_quota() {
    let attack = || {
        let mailbox = Handle::anonymous(64);
        let (mut ring, large) = (lazy_ring(18), vec![1; 16 << 20]);
        let calls = [(); 18].map(|()| Kept::new(call_args()));
        for call in &calls {
            let fd = mailbox.as_raw_fd();
            ring.push(&Sqe::command(fd, sys::POSTBOX_CALL, call.address()));
        }
        ring.park();
        for answered in 1..=calls.len() as u64 {
            let token = mailbox.recv(NEVER).expect("it is parked").token;
            let args = sys::postbox_reply {
                token,
                ..Default::default()
            };
            raw::reply(&mailbox, &large, &[], &args).expect("the caller waits");
            assert_eq!(used().1, answered.min(16) * (16 << 20));
        }
    };
    // It copies a lot.
    let child = Attacker::User.run(attack);
    assert_eq!(child.wait_at_most(10 * WATCHDOG), Exit::Code(0));
}

#[test]
fn request_put_back_after_a_shutdown_ends_its_call() {
    as_each_attacker(|_| {
        let near = Handle::unbound();
        let mut args = sys::postbox_pair {
            capacity: 4,
            back_capacity: 4,
            ..Default::default()
        };
        let far = Handle(raw::pair(&near, &mut args).expect("a link"));
        let mut ring = lazy_ring(4);
        // It is handed the request, and cannot copy it.
        ring.push(&Sqe::direct(
            far.as_raw_fd(),
            sys::POSTBOX_RECV,
            8,
            64,
            FOREVER,
        ));
        ring.park();
        far.wait_receivers(1);
        scope(|scope| {
            let calls = scope.spawn(|| {
                let (mut args, mut files) = (sys::postbox_call::default(), Vec::new());
                let mut room = [std::mem::MaybeUninit::uninit(); 8];
                let called = raw::call(&near, b"x", &[], &mut room, &mut files, &mut args);
                called.map(drop)
            });
            // Charged it is before that.
            far.wait_receivers(0);
            raw::shutdown(&far, sys::POSTBOX_SHUT_RECEIVE).expect("it may receive");
            assert_eq!(ring.wait().res, -Errno::FAULT.raw_os_error());
            assert_eq!(calls.join().expect("it ends"), Err(Errno::PIPE));
        });
    });
}
