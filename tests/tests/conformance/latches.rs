//! Latches: Z runs only after X and Y, and hears when one of them died.

use postbox_tests::LONG;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use libc::{POLLERR, POLLIN};
use postbox::{ErrorKind, Latch, sys};
use postbox_tests::*;

#[test]
fn latch_z_runs_only_after_x_and_y() {
    isolated(|| {
        for round in 0..20 {
            let latch = Handle::latch(2);
            let done = Ledger::new(2);
            let z = spawn(|| {
                assert_eq!(latch.await_gate(FOREVER), Ok(false));
                assert_eq!([done[0].load(SeqCst), done[1].load(SeqCst)], [1, 1]);
            });
            if round % 2 == 0 {
                latch.wait_waiting(1);
            }
            let work = |i: usize| {
                spawn(|| {
                    latch.join(1).expect("it is not open");
                    done[i].store(1, SeqCst);
                    latch.count_down(1).expect("it is not open");
                })
            };
            let (x, y) = (work(0), work(1));
            x.ok();
            y.ok();
            z.ok();
        }
    });
}

#[test]
fn latch_opens_at_zero_for_all_who_wait_and_for_good() {
    isolated(|| {
        let latch = Handle::latch(3);
        let waiting: Vec<Child> = (1..=5)
            .map(|n| {
                let child = spawn(|| assert_eq!(latch.await_gate(FOREVER), Ok(false)));
                latch.wait_waiting(n);
                child
            })
            .collect();
        latch.count_down(2).expect("three are left");
        assert_eq!((latch.value(), latch.waiting()), (1, 5));
        assert_eq!(latch.await_gate(NEVER), Err(Errno::AGAIN));
        assert!(waiting.iter().all(Child::running));
        latch.count_down(1).expect("one is left");
        waiting.into_iter().for_each(Child::ok);
        for _ in 0..3 {
            assert_eq!(latch.await_gate(FOREVER), Ok(false));
            assert_eq!(latch.await_gate(NEVER), Ok(false));
            assert_eq!(latch.await_gate(until(-5000)), Ok(false));
        }
        assert_eq!(latch.waiting(), 0);
    });
}

#[test]
fn latch_a_count_below_zero_is_refused_and_changes_nothing() {
    isolated(|| {
        let latch = Handle::latch(2);
        for count in [3, u64::MAX] {
            assert_eq!(latch.count_down(count), Err(Errno::OVERFLOW));
            assert_eq!(latch.value(), 2);
        }
        assert_eq!(latch.count_down(2), Ok(()));
        assert_eq!(latch.count_down(1), Err(Errno::OVERFLOW));
        assert_eq!(latch.join(1), Err(Errno::OVERFLOW), "nothing is left to do");
        assert_eq!(latch.await_gate(NEVER), Ok(false));
        let large = Handle::latch(u64::MAX);
        assert_eq!(large.join(u64::MAX), Ok(()));
        assert_eq!(large.join(1), Err(Errno::OVERFLOW), "all is promised");
        assert_eq!(large.count_down(u64::MAX), Ok(()));
    });
}

#[test]
fn latch_waits_end_at_timeouts_deadlines_and_signals() {
    isolated(|| {
        let latch = Handle::latch(1);
        for ms in [0, 1, 30] {
            let start = Instant::now();
            assert_eq!(latch.await_gate(within(ms)), Err(Errno::TIMEDOUT));
            assert!(start.elapsed() >= Duration::from_millis(ms));
        }
        for wait in [until(30), until_realtime(30), until(-5000)] {
            assert_eq!(latch.await_gate(wait), Err(Errno::TIMEDOUT));
        }
        for flags in [0, libc::SA_RESTART] {
            let child = spawn(|| {
                handle_signal(libc::SIGUSR1, flags);
                let expected = if flags == 0 {
                    Err(Errno::INTR)
                } else {
                    Ok(false)
                };
                assert_eq!(latch.await_gate(FOREVER), expected);
            });
            latch.wait_waiting(1);
            child.wait_asleep();
            child.kill(libc::SIGUSR1);
            if flags != 0 {
                latch.count_down(1).expect("it is not open");
            }
            child.ok();
        }
        assert_eq!(latch.waiting(), 0);
        let other = Handle::latch(1);
        rustix::fs::fcntl_setfl(&other, rustix::fs::OFlags::NONBLOCK).expect("it can be set");
        assert_eq!(other.await_gate(FOREVER), Err(Errno::AGAIN));
    });
}

/// What a process that has joined for two does with its life; whoever waits must be told.
fn breaks(how: impl Fn(&Handle)) {
    let latch = Handle::latch(3);
    let joined = Gate::new();
    let waiting: Vec<Child> = (1..=2)
        .map(|n| {
            let child = spawn(|| assert_eq!(latch.await_gate(FOREVER), Err(Errno::OWNERDEAD)));
            latch.wait_waiting(n);
            child
        })
        .collect();
    let participant = spawn(|| {
        latch.join(2).expect("three are left");
        latch.count_down(1).expect("three are left");
        joined.open(1);
        how(&latch);
    });
    joined.pass();
    let _ = participant.wait();
    waiting.into_iter().for_each(Child::ok);
    // Also who comes later.
    assert_eq!(latch.await_gate(FOREVER), Err(Errno::OWNERDEAD));
    assert_eq!(latch.await_gate(NEVER), Err(Errno::OWNERDEAD));
    assert_eq!(latch.ready(), POLLERR);
    assert_eq!(latch.info().flags, sys::POSTBOX_INFO_BROKEN);
    // Unless it opens all the same.
    latch.count_down(2).expect("two are left");
    assert_eq!(latch.await_gate(FOREVER), Ok(false));
    assert_eq!(latch.ready(), POLLIN);
    assert_eq!(latch.info().flags, 0);
}

#[test]
fn latch_the_death_of_who_joined_and_did_not_count_down_is_told() {
    isolated(|| {
        // The parent has the same handle open all the time: it is the process that counts.
        breaks(|_| {});
        breaks(|_| {
            // SAFETY: no pointers; it ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        breaks(|handle| handle.close_copy());
    });
}

#[test]
fn latch_who_counted_down_or_left_or_never_joined_may_die() {
    isolated(|| {
        let latch = Handle::latch(5);
        spawn(|| {
            latch.join(2).expect("five are left");
            latch.count_down(2).expect("five are left");
        })
        .ok();
        spawn(|| {
            latch.join(3).expect("three are left");
            latch.count_down(1).expect("three are left");
            latch.leave(2).expect("it owes two");
        })
        .ok();
        spawn(|| {
            latch.join(1).expect("two are left");
            // More than it promised.
            latch.count_down(2).expect("two are left");
        })
        .ok();
        assert_eq!(latch.await_gate(NEVER), Ok(false));
        let latch = Handle::latch(2);
        spawn(|| latch.count_down(1).expect("two are left")).ok();
        spawn(|| {}).ok();
        assert_eq!(latch.await_gate(NEVER), Err(Errno::AGAIN));
        // Once it is open, nobody owes anything.
        spawn(|| {
            latch.join(1).expect("one is left");
            latch
                .dup(SEND)
                .expect("a right")
                .count_down(1)
                .expect("by another handle");
        })
        .ok();
        assert_eq!(latch.await_gate(NEVER), Ok(false));
    });
}

#[test]
fn latch_closing_the_handle_that_joined_breaks_it() {
    isolated(|| {
        let latch = Handle::latch(1);
        let second = latch.dup(SEND).expect("a right");
        second.join(1).expect("one is left");
        assert_eq!(latch.leave(1), Err(Errno::INVAL), "each handle has its own");
        drop(second);
        assert_eq!(latch.await_gate(NEVER), Err(Errno::OWNERDEAD));
    });
}

#[test]
fn latch_who_leaves_more_than_it_joined_is_refused() {
    isolated(|| {
        let latch = Handle::latch(3);
        assert_eq!(latch.leave(1), Err(Errno::INVAL));
        latch.join(2).expect("three are left");
        assert_eq!(latch.leave(3), Err(Errno::INVAL));
        spawn(|| assert_eq!(latch.leave(1), Err(Errno::INVAL), "its parent joined")).ok();
        assert_eq!(latch.leave(2), Ok(()));
        assert_eq!(latch.leave(1), Err(Errno::INVAL));
        assert_eq!(latch.join(4), Err(Errno::OVERFLOW), "so many are not left");
    });
}

#[test]
fn latch_poll_says_open_and_broken_and_wakes() {
    isolated(|| {
        let latch = Handle::latch(1);
        let (tx, rx) = (
            latch.dup(SEND).expect("a right"),
            latch.dup(RECEIVE).expect("a right"),
        );
        assert_eq!([latch.ready(), tx.ready(), rx.ready()], [0, 0, 0]);
        let reader = spawn(|| assert_eq!(poll(&rx, POLLIN, LONG), POLLIN));
        reader.wait_asleep();
        tx.count_down(1).expect("one is left");
        reader.ok();
        assert_eq!([latch.ready(), tx.ready(), rx.ready()], [POLLIN, 0, POLLIN]);
        let latch = Handle::latch(1);
        let reader = spawn(|| assert_eq!(poll(&latch, POLLIN, LONG), POLLERR));
        reader.wait_asleep();
        spawn(|| latch.join(1).expect("one is left")).ok();
        reader.ok();
    });
}

#[test]
fn latch_rights_and_bad_arguments() {
    isolated(|| {
        let made = MakeSync::latch(0).open(None);
        assert_eq!(made.map(drop), Err(Errno::INVAL));
        let made = MakeSync::new(sys::POSTBOX_KIND_LATCH, 1, 1).open(None);
        assert_eq!(made.map(drop), Err(Errno::INVAL), "it has no maximum");
        let latch = Handle::latch(1);
        let (tx, rx) = (
            latch.dup(SEND).expect("a right"),
            latch.dup(RECEIVE).expect("a right"),
        );
        assert_eq!(rx.count_down(1), Err(Errno::ACCESS));
        assert_eq!(rx.join(1), Err(Errno::ACCESS));
        assert_eq!(rx.leave(1), Err(Errno::ACCESS));
        assert_eq!(tx.await_gate(NEVER), Err(Errno::ACCESS));
        for result in [latch.count_down(0), latch.join(0), latch.leave(0)] {
            assert_eq!(result, Err(Errno::INVAL));
        }
        assert_eq!(latch.arrive(), Err(Errno::INVAL), "that is for barriers");
        let two = sys::postbox_sync {
            count: 2,
            ..Default::default()
        };
        assert_eq!(postbox::raw::wait(&latch, &two), Err(Errno::INVAL));
        for flags in [UNDO, 1 << 31, sys::POSTBOX_NONBLOCK] {
            let args = sys::postbox_sync {
                count: 1,
                flags,
                ..Default::default()
            };
            assert_eq!(postbox::raw::count_down(&latch, &args), Err(Errno::INVAL));
            assert_eq!(postbox::raw::join(&latch, &args), Err(Errno::INVAL));
            assert_eq!(postbox::raw::leave(&latch, &args), Err(Errno::INVAL));
        }
        assert_eq!(latch.acquire(1, 0, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(latch.release(1, 0), Err(Errno::OPNOTSUPP));
        assert_eq!(latch.value(), 1);
        let info = latch.info();
        assert_eq!((info.maximum, info.senders, info.receivers), (1, 2, 2));
    });
}

#[test]
fn latch_of_the_library_reads_as_the_scene_does() {
    isolated(|| {
        let name = unique("latch");
        let x_and_y = Latch::options()
            .create_new(true)
            .count(2)
            .open(&name)
            .expect("new");
        let log = Ledger::new(1);
        let work = || {
            spawn(|| {
                let latch = Latch::open(&name).expect("it is there");
                let done = latch.join().expect("it is not open");
                log[0].fetch_add(1, SeqCst);
                done.count_down().expect("it is not open");
            })
        };
        let error = x_and_y.try_wait().expect_err("nobody has counted down");
        assert_eq!(error.kind, ErrorKind::NotYet);
        let error = x_and_y
            .wait_timeout(Duration::from_millis(5))
            .expect_err("nobody has counted down");
        assert!(error.is_timeout());
        let (x, y) = (work(), work());
        x_and_y.wait().expect("X and Y did their work");
        assert_eq!(log[0].load(SeqCst), 2);
        x.ok();
        y.ok();
        assert_eq!(x_and_y.count(), Ok(0));
        let error = x_and_y.count_down().expect_err("it is open");
        assert_eq!(error.kind, ErrorKind::Overflow);
        let error = x_and_y.join().expect_err("it is open");
        assert_eq!(error.kind, ErrorKind::Overflow);
    });
}

#[test]
fn latch_a_participant_that_is_dropped_or_panics_is_told_and_one_that_leaves_is_not() {
    isolated(|| {
        let latch = Latch::new(2).expect("new");
        latch.join().expect("two are left").leave().expect("ours");
        let error = latch.try_wait().expect_err("nobody has counted down");
        assert_eq!(error.kind, ErrorKind::NotYet);
        let participant = latch.join().expect("two are left");
        let thread = std::thread::spawn(move || {
            let _participant = participant;
            std::panic::resume_unwind(Box::new("X fails"));
        });
        let error = latch.wait().expect_err("X did not come to its end");
        assert_eq!(error.kind, ErrorKind::OwnerDied);
        assert!(thread.join().is_err());
        assert!(latch.info().expect("it tells").broken);
    });
}

#[test]
fn latch_participants_and_waiters_are_killed_and_nobody_sleeps_for_ever() {
    isolated(|| {
        const ROUNDS: u32 = 80;
        let mut rng = Rng::from_env("latch kills");
        let (mut opened, mut broken) = (0, 0);
        for _ in 0..ROUNDS {
            let latch = Handle::latch(3);
            let ended = Ledger::new(2);
            let joined = Gate::new();
            let participants: Vec<Child> = (0..3)
                .map(|_| {
                    let mut rng = rng.split();
                    spawn(|| {
                        latch.join(1).expect("three are left");
                        joined.open(1);
                        for _ in 0..rng.below(2000) {
                            std::thread::yield_now();
                        }
                        latch.count_down(1).expect("each counts once");
                    })
                })
                .collect();
            (0..3).for_each(|_| joined.pass());
            let waiters: Vec<Child> = (0..3)
                .map(|_| {
                    spawn(|| match latch.await_gate(FOREVER) {
                        Ok(_) => drop(ended[0].fetch_add(1, Relaxed)),
                        Err(error) => {
                            assert_eq!(error, Errno::OWNERDEAD);
                            ended[1].fetch_add(1, Relaxed);
                        }
                    })
                })
                .collect();
            let killed = rng.below(3) as usize;
            for _ in 0..rng.below(50) {
                std::thread::yield_now();
            }
            waiters[0].kill(libc::SIGKILL);
            participants[killed].kill(libc::SIGKILL);
            // Each child's watchdog tells if it sleeps for ever.
            for (i, waiter) in waiters.into_iter().enumerate() {
                let exit = waiter.wait();
                assert!(
                    exit == Exit::Code(0) || (i == 0 && exit == Exit::Signal(libc::SIGKILL)),
                    "{exit:?}"
                );
            }
            for (i, participant) in participants.into_iter().enumerate() {
                let exit = participant.wait();
                assert!(
                    exit == Exit::Code(0) || (i == killed && exit == Exit::Signal(libc::SIGKILL)),
                    "{exit:?}"
                );
            }
            assert_eq!(latch.waiting(), 0);
            let open = latch.value() == 0;
            let expected = if open {
                Ok(false)
            } else {
                Err(Errno::OWNERDEAD)
            };
            assert_eq!(latch.await_gate(FOREVER), expected);
            assert_eq!(ended[usize::from(open)].load(Relaxed), 0);
            opened += u32::from(open);
            broken += u32::from(!open);
        }
        tell(&format!("{opened} opened, {broken} broke"));
    });
}
