//! Barriers: all go on when all are there, again and again; one leads; who gives up is not counted.

use postbox_tests::{LONG, scope, sleep_forever};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use libc::{POLLERR, POLLIN};
use postbox::{Barrier, ErrorKind, PollFlags, sys};
use postbox_tests::*;

#[test]
fn barrier_all_go_on_when_all_are_there_again_and_again_and_one_leads() {
    isolated(|| {
        const ROUNDS: u64 = 100;
        for parties in [1, 2, 5] {
            let barrier = Handle::barrier(parties);
            let (there, leaders) = (Ledger::new(1), Ledger::new(ROUNDS as usize));
            let children: Vec<Child> = (0..parties)
                .map(|_| {
                    spawn(|| {
                        for round in 0..ROUNDS {
                            there[0].fetch_add(1, SeqCst);
                            let leads = barrier.await_gate(FOREVER).expect("all come");
                            leaders[round as usize].fetch_add(u64::from(leads), Relaxed);
                            // All of this round have come, and at most all others of the next.
                            let seen = there[0].load(SeqCst);
                            let first = (round + 1) * parties;
                            assert!((first..first + parties).contains(&seen), "{round}: {seen}");
                        }
                    })
                })
                .collect();
            children.into_iter().for_each(Child::ok);
            assert!(leaders.iter().all(|n| n.load(Relaxed) == 1));
            assert_eq!((barrier.value(), barrier.waiting()), (0, 0));
        }
    });
}

#[test]
fn barrier_whose_wait_ends_for_another_reason_is_not_counted() {
    isolated(|| {
        let barrier = Handle::barrier(2);
        for ms in [0, 1, 30] {
            let start = Instant::now();
            assert_eq!(barrier.await_gate(within(ms)), Err(Errno::TIMEDOUT));
            assert!(start.elapsed() >= Duration::from_millis(ms));
        }
        for wait in [until(30), until_realtime(30), until(-5000)] {
            assert_eq!(barrier.await_gate(wait), Err(Errno::TIMEDOUT));
        }
        assert_eq!(barrier.await_gate(NEVER), Err(Errno::AGAIN));
        assert_eq!((barrier.value(), barrier.waiting()), (0, 0));
        for signal in [libc::SIGUSR1, libc::SIGKILL] {
            let child = spawn(|| {
                handle_signal(libc::SIGUSR1, 0);
                assert_eq!(barrier.await_gate(FOREVER), Err(Errno::INTR));
            });
            barrier.wait_waiting(1);
            assert_eq!(barrier.value(), 1);
            child.kill(signal);
            let _ = child.wait();
            assert_eq!((barrier.value(), barrier.waiting()), (0, 0));
        }
        // After all of that it takes two.
        let one = spawn(|| assert_eq!(barrier.await_gate(FOREVER), Ok(false)));
        barrier.wait_waiting(1);
        assert_eq!(barrier.await_gate(FOREVER), Ok(true));
        one.ok();
    });
}

#[test]
fn barrier_a_wait_is_restarted_after_a_handler_with_sa_restart() {
    isolated(|| {
        let barrier = Handle::barrier(2);
        let child = spawn(|| {
            handle_signal(libc::SIGUSR1, libc::SA_RESTART);
            assert_eq!(barrier.await_gate(FOREVER), Ok(false));
        });
        barrier.wait_waiting(1);
        child.wait_asleep();
        child.kill(libc::SIGUSR1);
        wait_until("it to wait again", || {
            barrier.value() == 1 && child.state() == 'S'
        });
        assert_eq!(barrier.await_gate(FOREVER), Ok(true));
        child.ok();
    });
}

#[test]
fn barrier_the_last_to_come_need_not_wait() {
    isolated(|| {
        let barrier = Handle::barrier(2);
        for wait in [NEVER, within(0), until(-5000)] {
            let child = spawn(|| assert_eq!(barrier.await_gate(FOREVER), Ok(false)));
            barrier.wait_waiting(1);
            assert_eq!(barrier.await_gate(wait), Ok(true));
            child.ok();
        }
        rustix::fs::fcntl_setfl(&barrier, rustix::fs::OFlags::NONBLOCK).expect("it can be set");
        assert_eq!(barrier.await_gate(FOREVER), Err(Errno::AGAIN));
        assert_eq!(barrier.value(), 0);
    });
}

#[test]
fn barrier_arrivals_that_do_not_wait_are_polled_and_collected() {
    isolated(|| {
        let barrier = Handle::barrier(3);
        let (one, two) = (
            barrier.dup(SEND).expect("a right"),
            barrier.dup(SEND).expect("a right"),
        );
        for _ in 0..3 {
            assert_eq!(one.arrive(), Ok(()));
            assert_eq!(one.arrive(), Err(Errno::ALREADY), "once for each handle");
            assert_eq!((barrier.value(), one.ready()), (1, 0));
            assert_eq!(one.await_gate(NEVER), Err(Errno::AGAIN));
            assert_eq!(one.await_gate(within(5)), Err(Errno::TIMEDOUT));
            assert_eq!(barrier.value(), 1, "the arrival stands");
            assert_eq!(two.arrive(), Ok(()));
            let polls = spawn(|| assert_eq!(poll(&one, POLLIN, LONG), POLLIN));
            polls.wait_asleep();
            assert_eq!(barrier.await_gate(NEVER), Ok(true), "the last one leads");
            polls.ok();
            assert_eq!(
                [one.ready(), two.ready(), barrier.ready()],
                [POLLIN, POLLIN, 0]
            );
            // The next generation can begin before this one is collected.
            assert_eq!(one.arrive(), Err(Errno::ALREADY));
            assert_eq!(one.await_gate(NEVER), Ok(false));
            assert_eq!(two.await_gate(FOREVER), Ok(false));
            assert_eq!([one.ready(), two.ready()], [0, 0]);
            assert_eq!(barrier.value(), 0);
        }
        // One that completes leads, and hears it when it collects.
        for handle in [&one, &two, &barrier] {
            assert_eq!(handle.arrive(), Ok(()));
        }
        let led = [&one, &two, &barrier].map(|handle| handle.await_gate(NEVER));
        assert_eq!(led, [Ok(false), Ok(false), Ok(true)]);
    });
}

#[test]
fn barrier_a_collecting_wait_waits() {
    isolated(|| {
        let barrier = Handle::barrier(2);
        let other = barrier.dup(SEND).expect("a right");
        barrier.arrive().expect("the first");
        let child = spawn(|| assert_eq!(barrier.await_gate(FOREVER), Ok(false)));
        barrier.wait_waiting(1);
        assert_eq!(barrier.value(), 1, "it is not counted twice");
        assert_eq!(other.await_gate(FOREVER), Ok(true));
        child.ok();
        assert_eq!(barrier.ready(), 0, "it was collected");
    });
}

#[test]
fn barrier_an_arrival_goes_with_its_process_or_handle() {
    isolated(|| {
        let barrier = Handle::barrier(2);
        let other = barrier.dup(SEND).expect("a right");
        other.arrive().expect("the first");
        drop(other);
        assert_eq!(barrier.value(), 0);
        let arrived = Gate::new();
        let child = spawn(|| {
            barrier.arrive().expect("the first");
            arrived.open(1);
            sleep_forever();
        });
        arrived.pass();
        assert_eq!(barrier.value(), 1);
        child.destroy();
        barrier.wait_value(0);
        assert_eq!(barrier.ready(), 0, "that is not a reason to break");
        // One that is complete stays, as all others have gone on.
        let child = spawn(|| {
            barrier.arrive().expect("the first");
            arrived.open(1);
            sleep_forever();
        });
        arrived.pass();
        let other = barrier.dup(SEND).expect("a right");
        assert_eq!(other.await_gate(NEVER), Ok(true));
        child.destroy();
        assert_eq!(barrier.value(), 0);
    });
}

/// What a process that has joined does with its life; whoever waits must be told.
fn breaks(how: impl Fn(&Handle)) {
    let barrier = Handle::barrier(5);
    let joined = Gate::new();
    let waiting: Vec<Child> = (1..=2)
        .map(|n| {
            let child = spawn(|| assert_eq!(barrier.await_gate(FOREVER), Err(Errno::OWNERDEAD)));
            barrier.wait_waiting(n);
            child
        })
        .collect();
    let other = barrier.dup(SEND).expect("a right");
    other.arrive().expect("the third");
    let participant = spawn(|| {
        barrier.join(1).expect("there is room");
        joined.open(1);
        how(&barrier);
    });
    joined.pass();
    let _ = participant.wait();
    waiting.into_iter().for_each(Child::ok);
    // Also who comes later.
    for wait in [FOREVER, NEVER, within(5)] {
        assert_eq!(barrier.await_gate(wait), Err(Errno::OWNERDEAD));
    }
    assert_eq!(
        other.await_gate(FOREVER),
        Err(Errno::OWNERDEAD),
        "arrived before"
    );
    assert_eq!(other.arrive(), Err(Errno::OWNERDEAD));
    assert_eq!([barrier.ready(), other.ready()], [POLLERR, POLLERR]);
    let info = barrier.info();
    assert_eq!((info.flags, info.value), (sys::POSTBOX_INFO_BROKEN, 0));
}

#[test]
fn barrier_the_death_of_who_joined_is_told() {
    isolated(|| {
        breaks(|_| {});
        breaks(|_| {
            // SAFETY: no pointers; it ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        breaks(|handle| handle.close_copy());
        breaks(|handle| {
            // As it waits.
            let pid = std::process::id();
            scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(20));
                    // SAFETY: no pointers; it ends this process.
                    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
                });
                let _ = handle.await_gate(within(60_000));
            });
        });
    });
}

#[test]
fn barrier_who_passed_has_passed_though_it_breaks() {
    isolated(|| {
        let barrier = Handle::barrier(2);
        let other = barrier.dup(SEND).expect("a right");
        other.arrive().expect("the first");
        spawn(|| {
            barrier.join(1).expect("there is room");
            assert_eq!(barrier.await_gate(FOREVER), Ok(true));
        })
        .ok();
        wait_until("it to break", || barrier.ready() == POLLERR);
        assert_eq!(other.ready(), POLLERR | POLLIN);
        assert_eq!(other.await_gate(NEVER), Ok(false));
        assert_eq!(other.await_gate(NEVER), Err(Errno::OWNERDEAD));
    });
}

#[test]
fn barrier_who_left_or_never_joined_may_die() {
    isolated(|| {
        let barrier = Handle::barrier(2);
        spawn(|| {
            barrier.join(1).expect("there is room");
            barrier.leave(1).expect("it joined");
        })
        .ok();
        spawn(|| {
            assert_eq!(barrier.await_gate(within(5)), Err(Errno::TIMEDOUT));
        })
        .ok();
        let one = spawn(|| assert_eq!(barrier.await_gate(FOREVER), Ok(false)));
        barrier.wait_waiting(1);
        assert_eq!(barrier.await_gate(FOREVER), Ok(true));
        one.ok();
        assert_eq!(barrier.info().flags, 0);
    });
}

#[test]
fn barrier_no_more_join_than_it_has_parties() {
    isolated(|| {
        let barrier = Handle::barrier(3);
        assert_eq!(barrier.leave(1), Err(Errno::INVAL));
        barrier.join(2).expect("three");
        assert_eq!(barrier.join(2), Err(Errno::OVERFLOW));
        assert_eq!(barrier.join(u64::MAX), Err(Errno::OVERFLOW));
        spawn(|| {
            assert_eq!(barrier.leave(1), Err(Errno::INVAL), "its parent joined");
            assert_eq!(barrier.join(2), Err(Errno::OVERFLOW));
            barrier.join(1).expect("three");
            barrier.leave(1).expect("it joined");
        })
        .ok();
        assert_eq!(barrier.leave(3), Err(Errno::INVAL));
        assert_eq!(barrier.leave(2), Ok(()));
        assert_eq!(barrier.join(3), Ok(()));
        let second = barrier.dup(SEND).expect("a right");
        assert_eq!(
            second.leave(1),
            Err(Errno::INVAL),
            "each handle has its own"
        );
        assert_eq!(barrier.leave(3), Ok(()));
    });
}

#[test]
fn barrier_a_new_one_of_the_name_is_whole() {
    isolated(|| {
        let name = unique("barrier");
        let make = || MakeSync::barrier(1).open(name.as_str()).expect("made");
        let barrier = make();
        let second = barrier.dup(SEND).expect("a right");
        second.join(1).expect("there is room");
        drop(second);
        assert_eq!(make().await_gate(NEVER), Err(Errno::OWNERDEAD), "the same");
        // All close it.
        drop(barrier);
        assert_eq!(make().await_gate(NEVER), Ok(true));
    });
}

#[test]
fn barrier_rights_and_bad_arguments() {
    isolated(|| {
        assert_eq!(MakeSync::barrier(0).open(None).map(drop), Err(Errno::INVAL));
        let barrier = Handle::barrier(2);
        let rx = barrier.dup(RECEIVE).expect("a right");
        assert_eq!(rx.await_gate(NEVER), Err(Errno::ACCESS));
        assert_eq!(rx.arrive(), Err(Errno::ACCESS));
        assert_eq!(rx.join(1), Err(Errno::ACCESS));
        assert_eq!(rx.leave(1), Err(Errno::ACCESS));
        for (flags, count, timeout_ns) in [
            (0, 0, 0),
            (0, 2, 0),
            (UNDO, 1, 0),
            (sys::POSTBOX_SYNC_ARRIVE | sys::POSTBOX_NONBLOCK, 1, 0),
            (sys::POSTBOX_SYNC_ARRIVE | sys::POSTBOX_TIMEOUT, 1, 1),
            (sys::POSTBOX_SYNC_ARRIVE, 1, 1),
            (1 << 10, 1, 0),
        ] {
            let args = sys::postbox_sync {
                flags,
                count,
                timeout_ns,
                ..Default::default()
            };
            assert_eq!(
                postbox::raw::wait(&barrier, &args),
                Err(Errno::INVAL),
                "{args:?}"
            );
        }
        assert_eq!(barrier.acquire(1, 0, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(barrier.count_down(1), Err(Errno::OPNOTSUPP));
        assert_eq!(barrier.value(), 0);
        assert_eq!(barrier.info().maximum, 2);
        // What cannot be written is found before anything happens.
        let page = ReadOnly::new(&sys::postbox_sync {
            size: size_of::<sys::postbox_sync>() as u32,
            count: 1,
            ..Default::default()
        });
        assert_eq!(page.request(&barrier, sys::POSTBOX_WAIT), -libc::EFAULT);
        assert_eq!(barrier.value(), 0);
    });
}

#[test]
fn barrier_of_the_library() {
    isolated(|| {
        let name = unique("barrier");
        let barrier = Barrier::options()
            .create_new(true)
            .parties(2)
            .open(&name)
            .expect("new");
        let error = barrier.try_wait().expect_err("nobody is there");
        assert_eq!(error.kind, ErrorKind::NotYet);
        let error = barrier
            .wait_timeout(Duration::from_millis(5))
            .expect_err("nobody comes");
        assert!(error.is_timeout());
        let child = spawn(|| {
            let member = Barrier::open(&name)
                .expect("it is there")
                .join()
                .expect("room");
            for _ in 0..5 {
                member.wait().expect("all come");
            }
            member.leave().expect("it joined");
        });
        let led = (0..5)
            .filter(|_| barrier.wait().expect("all come").is_leader())
            .count();
        assert!(led <= 5);
        child.ok();
        let second = Barrier::open(&name).expect("it is there");
        second.arrive().expect("it is whole");
        barrier.arrive().expect("it is whole");
        let ready = second.ready(PollFlags::IN, Some(LONG)).expect("it polls");
        assert_eq!(ready, PollFlags::IN);
        assert!(!second.try_wait().expect("all are there").is_leader());
        assert!(barrier.wait().expect("all are there").is_leader());
        drop(second.join().expect("room"));
        let error = barrier.wait().expect_err("a member was dropped");
        assert_eq!(error.kind, ErrorKind::OwnerDied);
    });
}

#[test]
fn barrier_waiters_are_killed_and_the_others_go_on() {
    isolated(|| {
        const WORKERS: u64 = 6;
        let kills = scaled(120);
        let barrier = Handle::barrier(3);
        let passed = Ledger::new(1);
        let mut rng = Rng::from_env("barrier kills");
        let worker = |rng: Rng| {
            spawn(|| {
                let mut rng = rng;
                loop {
                    let wait = match rng.below(4) {
                        0 => NEVER,
                        1 => within(rng.below(10)),
                        _ => FOREVER,
                    };
                    match barrier.await_gate(wait) {
                        Ok(_) => drop(passed[0].fetch_add(1, Relaxed)),
                        Err(error) => {
                            assert!(matches!(error, Errno::AGAIN | Errno::TIMEDOUT), "{error}");
                        }
                    }
                }
            })
        };
        let mut workers: Vec<Child> = (0..WORKERS).map(|_| worker(rng.split())).collect();
        for _ in 0..kills {
            // Nobody sleeps for ever: somebody gets on, whoever was killed before.
            let before = passed[0].load(Relaxed);
            wait_until("somebody to pass", || passed[0].load(Relaxed) > before);
            workers.swap_remove(rng.below(WORKERS) as usize).destroy();
            workers.push(worker(rng.split()));
        }
        workers.into_iter().for_each(Child::destroy);
        assert_eq!((barrier.value(), barrier.waiting()), (0, 0));
        tell(&format!(
            "{kills} kills, {} passed",
            passed[0].load(Relaxed)
        ));
    });
}
