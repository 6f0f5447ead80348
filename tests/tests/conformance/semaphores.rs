//! Semaphores: order, maximum, undo on death, polling.

use postbox_tests::{LONG, scope, sleep_forever};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use libc::{POLLIN, POLLOUT};
use postbox::{ErrorKind, Semaphore, sys};
use postbox_tests::*;

/// A child that acquires, says so, and then goes on.
fn acquirer(handle: &Handle, count: u64, flags: u32, then: impl Fn(bool)) -> Child {
    spawn(|| {
        let told = handle
            .acquire(count, flags, FOREVER)
            .expect("it is granted");
        then(told);
    })
}

#[test]
fn semaphore_acquire_takes_all_at_once_and_release_adds() {
    isolated(|| {
        let semaphore = Handle::semaphore(3, 10);
        assert_eq!(semaphore.acquire(2, 0, FOREVER), Ok(false));
        assert_eq!(semaphore.value(), 1);
        assert_eq!(semaphore.acquire(2, 0, NEVER), Err(Errno::AGAIN));
        assert_eq!(semaphore.value(), 1, "a failed call takes nothing");
        assert_eq!(semaphore.release(5, 0), Ok(()));
        assert_eq!(semaphore.value(), 6);
        assert_eq!(semaphore.acquire(6, 0, NEVER), Ok(false));
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn semaphore_waiters_are_served_in_order_and_a_large_request_holds_back_those_behind_it() {
    isolated(|| {
        let semaphore = Handle::semaphore(2, 10);
        let order = Ledger::new(4);
        let note = |who: usize| {
            let at = order[0].fetch_add(1, Relaxed);
            order[who].store(at + 1, Relaxed);
        };
        let large = acquirer(&semaphore, 3, 0, |_| note(1));
        semaphore.wait_waiting(1);
        let small = acquirer(&semaphore, 1, 0, |_| note(2));
        semaphore.wait_waiting(2);
        assert_eq!(semaphore.ready(), POLLOUT, "somebody waits in front");
        assert_eq!(
            semaphore.acquire(1, 0, NEVER),
            Err(Errno::AGAIN),
            "nobody overtakes"
        );
        assert_eq!(
            semaphore.acquire(1, 0, within(5)),
            Err(Errno::TIMEDOUT),
            "nor with a timeout"
        );
        semaphore.release(1, 0).expect("room");
        large.ok();
        semaphore.wait_waiting(1);
        assert_eq!(semaphore.value(), 0);
        semaphore.release(1, 0).expect("room");
        small.ok();
        assert_eq!([order[1].load(Relaxed), order[2].load(Relaxed)], [1, 2]);
    });
}

#[test]
fn semaphore_a_release_lets_exactly_those_go_that_can() {
    isolated(|| {
        let semaphore = Handle::semaphore(0, 10);
        let children: Vec<Child> = (1..=5)
            .map(|n| {
                let child = acquirer(&semaphore, 1, 0, |_| {});
                semaphore.wait_waiting(n);
                child
            })
            .collect();
        semaphore.release(2, 0).expect("room");
        assert_eq!((semaphore.waiting(), semaphore.value()), (3, 0));
        let mut children = children.into_iter();
        children.next().expect("five").ok();
        children.next().expect("five").ok();
        assert!(children.as_slice().iter().all(Child::running));
        semaphore.release(4, 0).expect("room");
        children.for_each(Child::ok);
        assert_eq!((semaphore.waiting(), semaphore.value()), (0, 1));
    });
}

#[test]
fn semaphore_who_gives_up_lets_those_behind_it_go() {
    isolated(|| {
        let semaphore = Handle::semaphore(1, 10);
        let gives_up: [fn(&Child); 3] = [
            |_| {},
            |child| child.kill(libc::SIGUSR1),
            |child| child.kill(libc::SIGKILL),
        ];
        for (how, give_up) in gives_up.iter().enumerate() {
            let wait = if how == 0 { within(200) } else { FOREVER };
            let first = spawn(|| {
                handle_signal(libc::SIGUSR1, 0);
                let error = if how == 0 {
                    Errno::TIMEDOUT
                } else {
                    Errno::INTR
                };
                assert_eq!(semaphore.acquire(2, 0, wait), Err(error));
            });
            semaphore.wait_waiting(1);
            let second = acquirer(&semaphore, 1, 0, |_| {});
            if how > 0 {
                semaphore.wait_waiting(2);
            }
            give_up(&first);
            second.ok();
            let exit = first.wait();
            assert_eq!(exit == Exit::Code(0), how < 2, "{exit:?}");
            assert_eq!((semaphore.waiting(), semaphore.value()), (0, 0));
            semaphore.release(1, 0).expect("room");
        }
    });
}

#[test]
fn semaphore_the_maximum_holds_and_a_release_beyond_it_changes_nothing() {
    isolated(|| {
        let semaphore = Handle::semaphore(1, 3);
        for count in [3, 4, u64::MAX - 1, u64::MAX] {
            assert_eq!(semaphore.release(count, 0), Err(Errno::OVERFLOW));
            assert_eq!(semaphore.value(), 1);
        }
        assert_eq!(semaphore.release(2, 0), Ok(()));
        assert_eq!(semaphore.release(1, 0), Err(Errno::OVERFLOW));
        assert_eq!(
            semaphore.acquire(4, 0, FOREVER),
            Err(Errno::INVAL),
            "there are never so many"
        );
        assert_eq!(semaphore.acquire(3, 0, FOREVER), Ok(false));
        let most = Handle::semaphore(u64::MAX - 1, u64::MAX);
        assert_eq!(most.release(2, 0), Err(Errno::OVERFLOW));
        assert_eq!(most.release(1, 0), Ok(()));
        assert_eq!(most.acquire(u64::MAX, UNDO, FOREVER), Ok(false));
        assert_eq!(most.release(u64::MAX, 0), Ok(()));
        assert_eq!(most.acquire(u64::MAX, UNDO, FOREVER), Ok(false));
        drop(most);
    });
}

#[test]
fn semaphore_waits_end_at_timeouts_and_deadlines_and_take_nothing() {
    isolated(|| {
        let semaphore = Handle::semaphore(0, 1);
        for flags in [0, UNDO] {
            for ms in [0, 1, 30] {
                let start = Instant::now();
                assert_eq!(
                    semaphore.acquire(1, flags, within(ms)),
                    Err(Errno::TIMEDOUT)
                );
                assert!(start.elapsed() >= Duration::from_millis(ms));
            }
            for wait in [until(30), until_realtime(30), until(-5000)] {
                assert_eq!(semaphore.acquire(1, flags, wait), Err(Errno::TIMEDOUT));
            }
        }
        assert_eq!(semaphore.waiting(), 0);
        semaphore.release(1, 0).expect("room");
        // What can be done at once is done, whatever the deadline.
        assert_eq!(semaphore.acquire(1, 0, until(-5000)), Ok(false));
        let waiting = spawn(|| assert_eq!(semaphore.acquire(1, 0, within(60_000)), Ok(false)));
        semaphore.wait_waiting(1);
        semaphore.release(1, 0).expect("room");
        waiting.ok();
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn semaphore_o_nonblock_makes_acquire_non_blocking() {
    isolated(|| {
        let semaphore = Handle::semaphore(1, 1);
        rustix::fs::fcntl_setfl(&semaphore, rustix::fs::OFlags::NONBLOCK).expect("it can be set");
        assert_eq!(semaphore.acquire(1, 0, FOREVER), Ok(false));
        assert_eq!(semaphore.acquire(1, 0, FOREVER), Err(Errno::AGAIN));
        assert_eq!(semaphore.release(1, 0), Ok(()));
    });
}

#[test]
fn semaphore_a_signal_ends_a_wait_and_with_sa_restart_it_goes_on() {
    isolated(|| {
        let semaphore = Handle::semaphore(0, 1);
        for flags in [0, libc::SA_RESTART] {
            let child = spawn(|| {
                handle_signal(libc::SIGUSR1, flags);
                let expected = if flags == 0 {
                    Err(Errno::INTR)
                } else {
                    Ok(false)
                };
                assert_eq!(semaphore.acquire(1, UNDO, FOREVER), expected);
            });
            semaphore.wait_waiting(1);
            child.wait_asleep();
            child.kill(libc::SIGUSR1);
            if flags != 0 {
                semaphore.release(1, 0).expect("room");
            }
            child.ok();
            semaphore.wait_value(u64::from(flags != 0));
            assert_eq!(semaphore.waiting(), 0);
        }
    });
}

/// What a process that has two units does with its life; afterwards they must be there again, and the next one told.
fn dies(how: impl Fn(&Handle)) {
    let semaphore = Handle::semaphore(3, 3);
    let acquired = Gate::new();
    let child = spawn(|| {
        assert_eq!(semaphore.acquire(2, UNDO, NEVER), Ok(false));
        acquired.open(1);
        how(&semaphore);
    });
    acquired.pass();
    let _ = child.wait();
    semaphore.wait_value(3);
    assert_eq!(semaphore.acquire(1, 0, NEVER), Ok(true), "one of them");
    assert_eq!(semaphore.acquire(2, 0, NEVER), Ok(true), "the other");
    semaphore.release(3, 0).expect("room");
    assert_eq!(semaphore.acquire(3, 0, NEVER), Ok(false), "it is said once");
}

#[test]
fn semaphore_what_was_acquired_with_undo_comes_back_when_the_process_dies() {
    isolated(|| {
        // The parent has the same handle open all the time: it is the process that counts.
        dies(|_| {});
        dies(|_| {
            // SAFETY: no pointers; it ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        dies(|_| {
            // SAFETY: no pointers; it ends this process.
            unsafe { libc::abort() };
        });
        dies(|handle| handle.close_copy());
        dies(|_| {
            let program = c"/bin/true".as_ptr();
            // SAFETY: strings and a list that end as they should; the descriptors are close-on-exec.
            unsafe { libc::execv(program, [program, std::ptr::null()].as_ptr()) };
            panic!("exec: {}", std::io::Error::last_os_error());
        });
    });
}

#[test]
fn semaphore_closing_a_handle_gives_back_what_was_acquired_with_it() {
    isolated(|| {
        let semaphore = Handle::semaphore(4, 4);
        let second = semaphore.dup(SEND | RECEIVE).expect("both rights");
        assert_eq!(semaphore.acquire(1, UNDO, NEVER), Ok(false));
        assert_eq!(second.acquire(2, UNDO, NEVER), Ok(false));
        assert_eq!(
            semaphore.release(2, UNDO),
            Err(Errno::INVAL),
            "each handle has its own"
        );
        drop(second);
        assert_eq!(semaphore.value(), 3);
        assert_eq!(semaphore.acquire(3, 0, NEVER), Ok(true));
    });
}

#[test]
fn semaphore_what_was_acquired_without_undo_stays_away() {
    isolated(|| {
        let semaphore = Handle::semaphore(2, 2);
        spawn(|| assert_eq!(semaphore.acquire(1, 0, NEVER), Ok(false))).ok();
        assert_eq!(semaphore.value(), 1);
        let second = semaphore.dup(RECEIVE).expect("it may acquire");
        assert_eq!(second.acquire(1, 0, NEVER), Ok(false));
        drop(second);
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn semaphore_what_was_released_with_undo_does_not_come_back_again() {
    isolated(|| {
        let semaphore = Handle::semaphore(5, 5);
        spawn(|| {
            assert_eq!(semaphore.acquire(3, UNDO, NEVER), Ok(false));
            assert_eq!(semaphore.release(2, UNDO), Ok(()));
            assert_eq!(semaphore.acquire(1, 0, NEVER), Ok(false));
            assert_eq!(semaphore.value(), 3);
        })
        .ok();
        semaphore.wait_value(4);
        assert_eq!(semaphore.acquire(4, 0, NEVER), Ok(true));
    });
}

#[test]
fn semaphore_a_process_releases_with_undo_only_what_it_acquired_so() {
    isolated(|| {
        let semaphore = Handle::semaphore(2, 5);
        assert_eq!(semaphore.release(1, UNDO), Err(Errno::INVAL));
        assert_eq!(semaphore.acquire(1, 0, NEVER), Ok(false));
        assert_eq!(semaphore.release(1, UNDO), Err(Errno::INVAL));
        assert_eq!(semaphore.acquire(1, UNDO, NEVER), Ok(false));
        assert_eq!(semaphore.release(2, UNDO), Err(Errno::INVAL));
        // A child has nothing of what its parent acquired.
        spawn(|| assert_eq!(semaphore.release(1, UNDO), Err(Errno::INVAL))).ok();
        assert_eq!(semaphore.value(), 0, "nothing was changed");
        assert_eq!(semaphore.release(1, UNDO), Ok(()));
        assert_eq!(semaphore.release(1, UNDO), Err(Errno::INVAL));
        assert_eq!(semaphore.value(), 1);
        // A release with undo that would pass the maximum leaves what there is to undo.
        assert_eq!(semaphore.acquire(1, UNDO, NEVER), Ok(false));
        assert_eq!(semaphore.release(5, 0), Ok(()));
        assert_eq!(semaphore.release(1, UNDO), Err(Errno::OVERFLOW));
        assert_eq!(semaphore.acquire(1, 0, NEVER), Ok(false));
        assert_eq!(semaphore.release(1, UNDO), Ok(()));
    });
}

#[test]
fn semaphore_what_comes_back_stops_at_the_maximum_and_the_next_is_told_all_the_same() {
    isolated(|| {
        let semaphore = Handle::semaphore(1, 1);
        let (acquired, released) = (Gate::new(), Gate::new());
        let child = spawn(|| {
            assert_eq!(semaphore.acquire(1, UNDO, NEVER), Ok(false));
            acquired.open(1);
            released.pass();
        });
        acquired.pass();
        semaphore.release(1, 0).expect("room");
        released.open(1);
        child.ok();
        wait_until("the death to be noticed", || {
            let told = semaphore.acquire(1, 0, NEVER).expect("there is one");
            semaphore.release(1, 0).expect("room");
            told
        });
        assert_eq!(semaphore.value(), 1);
    });
}

#[test]
fn semaphore_the_death_of_the_holder_wakes_who_waits_and_tells_it() {
    isolated(|| {
        let semaphore = Handle::semaphore(1, 1);
        let acquired = Gate::new();
        let holder = acquirer(&semaphore, 1, UNDO, |_| {
            acquired.open(1);
            sleep_forever();
        });
        acquired.pass();
        let first = acquirer(&semaphore, 1, 0, |told| {
            assert!(told, "the holder died");
            semaphore.release(1, 0).expect("room");
        });
        semaphore.wait_waiting(1);
        let second = acquirer(&semaphore, 1, 0, |told| assert!(!told, "it is said once"));
        semaphore.wait_waiting(2);
        holder.destroy();
        first.ok();
        second.ok();
    });
}

#[test]
fn semaphore_a_killed_waiter_takes_nothing() {
    isolated(|| {
        let semaphore = Handle::semaphore(0, 1);
        for round in 0..40 {
            let flags = if round % 2 == 0 { UNDO } else { 0 };
            let waiter = spawn(|| {
                let _ = semaphore.acquire(1, flags, FOREVER);
                sleep_forever();
            });
            semaphore.wait_waiting(1);
            waiter.wait_asleep();
            waiter.kill(libc::SIGKILL);
            // It may still be there, and is granted then what it cannot use any more.
            semaphore.release(1, 0).expect("room");
            assert_eq!(waiter.wait(), Exit::Signal(libc::SIGKILL));
            assert_eq!(semaphore.acquire(1, 0, FOREVER), Ok(false));
        }
    });
}

#[test]
fn semaphore_a_thread_is_not_a_process() {
    isolated(|| {
        let semaphore = Handle::semaphore(1, 1);
        scope(|scope| {
            scope.spawn(|| assert_eq!(semaphore.acquire(1, UNDO, NEVER), Ok(false)));
        });
        assert_eq!(semaphore.value(), 0, "the thread is gone, the process not");
        assert_eq!(semaphore.release(1, UNDO), Ok(()), "by another thread");
    });
}

#[test]
fn semaphore_a_second_descriptor_keeps_what_was_acquired() {
    isolated(|| {
        let semaphore = Handle::semaphore(1, 1);
        spawn(|| {
            let second = Handle(semaphore.0.try_clone().expect("a descriptor can be copied"));
            assert_eq!(semaphore.acquire(1, UNDO, NEVER), Ok(false));
            semaphore.close_copy();
            assert_eq!(second.value(), 0);
            assert_eq!(second.release(1, UNDO), Ok(()));
        })
        .ok();
        assert_eq!(semaphore.acquire(1, 0, NEVER), Ok(false), "nobody had it");
    });
}

#[test]
fn semaphore_who_closes_the_handle_while_a_thread_waits_gets_nothing_by_it() {
    isolated(|| {
        let semaphore = Handle::semaphore(0, 1);
        // The parent keeps the handle, so that it is not closed for the last time.
        let child = spawn(|| {
            let other = semaphore.dup(SEND).expect("it may release");
            scope(|scope| {
                let waits = scope.spawn(|| semaphore.acquire(1, UNDO, FOREVER));
                other.wait_waiting(1);
                semaphore.close_copy();
                other.release(1, 0).expect("room");
                let result = waits.join().expect("it does not panic");
                assert_eq!(result, Err(Errno::BADF));
            });
        });
        child.ok();
        assert_eq!(semaphore.acquire(1, 0, NEVER), Ok(false), "it is there");
    });
}

#[test]
fn semaphore_state_that_cannot_be_written_takes_nothing() {
    isolated(|| {
        let semaphore = Handle::semaphore(2, 2);
        spawn(|| assert_eq!(semaphore.acquire(2, UNDO, NEVER), Ok(false))).ok();
        semaphore.wait_value(2);
        let page = ReadOnly::new(&sys::postbox_sync {
            size: size_of::<sys::postbox_sync>() as u32,
            flags: UNDO,
            count: 1,
            ..Default::default()
        });
        for _ in 0..2 {
            assert_eq!(
                page.request(&semaphore, sys::POSTBOX_ACQUIRE),
                -libc::EFAULT
            );
            assert_eq!(semaphore.value(), 2);
        }
        assert_eq!(semaphore.release(1, UNDO), Err(Errno::INVAL));
        assert_eq!(semaphore.acquire(2, 0, NEVER), Ok(true), "still to be told");
        // With nothing to tell there is nothing to write.
        semaphore.release(2, 0).expect("room");
        assert_eq!(page.request(&semaphore, sys::POSTBOX_ACQUIRE), 0);
    });
}

#[test]
fn semaphore_poll_says_what_a_call_would_find() {
    isolated(|| {
        let semaphore = Handle::semaphore(0, 2);
        let (tx, rx) = (
            semaphore.dup(SEND).expect("a right"),
            semaphore.dup(RECEIVE).expect("a right"),
        );
        let says = |expected: i16, what: &str| {
            assert_eq!(semaphore.ready(), expected, "{what}");
            assert_eq!(tx.ready(), expected & POLLOUT, "{what}: who may release");
            assert_eq!(rx.ready(), expected & POLLIN, "{what}: who may acquire");
        };
        says(POLLOUT, "0 of 2");
        semaphore.release(1, 0).expect("room");
        says(POLLIN | POLLOUT, "1 of 2");
        semaphore.release(1, 0).expect("room");
        says(POLLIN, "2 of 2");
        let mut rng = Rng::from_env("semaphore poll");
        let mut held = 0;
        for _ in 0..500 {
            let count = 1 + rng.below(2);
            match rng.below(4) {
                0 => drop(semaphore.release(count, 0)),
                1 => drop(semaphore.acquire(count, 0, NEVER)),
                2 => held += u64::from(semaphore.acquire(1, UNDO, NEVER).is_ok()),
                _ if held > 0 => held -= u64::from(semaphore.release(1, UNDO).is_ok()),
                _ => {}
            }
            let value = semaphore.value();
            let readable = if value > 0 { POLLIN } else { 0 };
            let writable = if value < 2 { POLLOUT } else { 0 };
            says(readable | writable, "after anything");
        }
    });
}

#[test]
fn semaphore_poll_and_epoll_wake_up() {
    isolated(|| {
        let semaphore = Handle::semaphore(0, 1);
        let reader = spawn(|| assert_eq!(poll(&semaphore, POLLIN, LONG), POLLIN));
        reader.wait_asleep();
        semaphore.release(1, 0).expect("room");
        reader.ok();
        let writer = spawn(|| assert_eq!(poll(&semaphore, POLLOUT, LONG), POLLOUT));
        writer.wait_asleep();
        assert_eq!(semaphore.acquire(1, 0, NEVER), Ok(false));
        writer.ok();
        // A dead process's units wake as well.
        let holder = spawn(|| {
            semaphore.release(1, 0).expect("room");
            assert_eq!(semaphore.acquire(1, UNDO, NEVER), Ok(false));
            sleep_forever();
        });
        wait_until("it to sleep with the unit", || {
            holder.state() == 'S' && semaphore.value() == 0
        });
        let reader = spawn(|| assert_eq!(poll(&semaphore, POLLIN, LONG), POLLIN));
        reader.wait_asleep();
        holder.destroy();
        reader.ok();
    });
}

#[test]
fn semaphore_rights_say_who_acquires_and_who_releases() {
    isolated(|| {
        let semaphore = Handle::semaphore(1, 2);
        let (tx, rx) = (
            semaphore.dup(SEND).expect("a right"),
            semaphore.dup(RECEIVE).expect("a right"),
        );
        assert_eq!(rx.release(1, 0), Err(Errno::ACCESS));
        assert_eq!(tx.acquire(1, 0, NEVER), Err(Errno::ACCESS));
        assert_eq!(rx.acquire(1, 0, NEVER), Ok(false));
        assert_eq!(tx.release(1, 0), Ok(()));
        let info = semaphore.info();
        assert_eq!((info.senders, info.receivers), (2, 2));
    });
}

#[test]
fn semaphore_bad_arguments_are_refused() {
    isolated(|| {
        for (value, maximum) in [(0, 0), (1, 0), (2, 1), (u64::MAX, u64::MAX - 1)] {
            let made = MakeSync::semaphore(value, maximum).open(None);
            assert_eq!(made.map(drop), Err(Errno::INVAL), "{value} of {maximum}");
        }
        let semaphore = Handle::semaphore(1, 1);
        assert_eq!(semaphore.acquire(0, 0, NEVER), Err(Errno::INVAL));
        assert_eq!(semaphore.release(0, 0), Err(Errno::INVAL));
        for flag in [sys::POSTBOX_SYNC_ARRIVE, 1 << 10, 1 << 31] {
            assert_eq!(semaphore.acquire(1, flag, NEVER), Err(Errno::INVAL));
            assert_eq!(semaphore.release(1, flag), Err(Errno::INVAL));
        }
        assert_eq!(
            semaphore.release(1, sys::POSTBOX_NONBLOCK),
            Err(Errno::INVAL),
            "a release does not wait"
        );
        let both = Wait(sys::POSTBOX_TIMEOUT | sys::POSTBOX_NONBLOCK, 0);
        assert_eq!(semaphore.acquire(1, 0, both), Err(Errno::INVAL));
        for args in [
            sys::postbox_sync {
                count: 1,
                reserved: 1,
                ..Default::default()
            },
            sys::postbox_sync {
                count: 1,
                timeout_ns: 1,
                ..Default::default()
            },
        ] {
            let acquired = postbox::raw::acquire(&semaphore, &args);
            assert_eq!(acquired, Err(Errno::INVAL));
            let released = postbox::raw::release(&semaphore, &args);
            assert_eq!(released, Err(Errno::INVAL));
        }
        for result in [
            semaphore.count_down(1),
            semaphore.await_gate(NEVER).map(drop),
            semaphore.join(1),
            semaphore.leave(1),
            semaphore.send("x", NEVER),
            semaphore.recv(NEVER).map(drop),
        ] {
            assert_eq!(result, Err(Errno::OPNOTSUPP));
        }
        let mailbox = Handle::anonymous(1);
        assert_eq!(mailbox.acquire(1, 0, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(mailbox.release(1, 0), Err(Errno::OPNOTSUPP));
        let unbound = Handle::unbound();
        assert_eq!(unbound.acquire(1, 0, NEVER), Err(Errno::BADFD));
        assert_eq!(semaphore.value(), 1);
    });
}

#[test]
fn semaphore_by_name_with_mode_persistence_and_info() {
    isolated(|| {
        let name = unique("semaphore");
        let name = name.as_str();
        let make = MakeSync {
            mode: 0o644,
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL | sys::POSTBOX_O_PERSIST,
            ..MakeSync::semaphore(2, 7)
        };
        let semaphore = make.open(name).expect("new");
        assert_eq!(make.open(name).map(drop), Err(Errno::EXIST));
        let info = semaphore.info();
        assert_eq!(info.kind, sys::POSTBOX_KIND_SEMAPHORE);
        assert_eq!((info.value, info.maximum), (2, 7));
        assert_eq!(info.flags, sys::POSTBOX_INFO_PERSIST);
        let open = |rights| {
            MakeSync {
                flags: 0,
                mode: 0,
                rights,
                ..MakeSync::semaphore(0, 0)
            }
            .open(name)
        };
        spawn_as(ALICE, || {
            let rx = open(RECEIVE).expect("others may acquire");
            assert_eq!(rx.acquire(1, 0, NEVER), Ok(false));
            assert_eq!(open(SEND | RECEIVE).map(drop), Err(Errno::ACCESS));
        })
        .ok();
        assert_eq!(
            Handle::open(name, SEND).map(drop),
            Err(Errno::OPNOTSUPP),
            "it is not a mailbox"
        );
        drop(semaphore);
        let again = open(SEND | RECEIVE).expect("it stays");
        assert_eq!(again.value(), 1);
        unlink(name).expect("ours");
    });
}

#[test]
fn semaphore_the_librarys_guard_gives_back_and_tells() {
    isolated(|| {
        let name = unique("guard");
        let semaphore = Semaphore::options()
            .create_new(true)
            .initial(2)
            .maximum(2)
            .open(&name)
            .expect("new");
        {
            let guard = semaphore.acquire().expect("there is one");
            assert_eq!((guard.count(), guard.owner_died()), (1, false));
            assert_eq!(semaphore.value(), Ok(1));
        }
        assert_eq!(semaphore.value(), Ok(2));
        let two = semaphore
            .acquire_many(2, postbox::Wait::Never)
            .expect("two");
        let error = semaphore.try_acquire().expect_err("none is left");
        assert_eq!(error.kind, ErrorKind::NotYet);
        let error = semaphore
            .acquire_timeout(Duration::from_millis(5))
            .expect_err("none is left");
        assert!(error.is_timeout());
        let error = semaphore
            .acquire_deadline(Instant::now())
            .expect_err("none is left");
        assert!(error.is_timeout());
        two.release().expect("room");
        assert_eq!(
            semaphore.post(1).expect_err("full").kind,
            ErrorKind::Overflow
        );
        let child = spawn(|| {
            let semaphore = Semaphore::open(&name).expect("it is there");
            semaphore.acquire().expect("one").forget();
            // SAFETY: no pointers; it ends this process.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        assert_eq!(child.wait(), Exit::Signal(libc::SIGKILL));
        wait_until("it to come back", || semaphore.value() == Ok(2));
        assert!(semaphore.acquire().expect("one").owner_died());
        assert_eq!(semaphore.take(2, postbox::Wait::Never), Ok(false));
        semaphore.post(2).expect("room");
        // A fork's copy of a guard has nothing to give back.
        let guard = semaphore.acquire().expect("one");
        spawn(|| {
            // SAFETY: the copy belongs to this process, which forgets the original.
            drop(unsafe { std::ptr::read(&guard) });
        })
        .ok();
        assert_eq!(semaphore.value(), Ok(1));
        drop(guard);
        assert_eq!(semaphore.value(), Ok(2));
        let fd = OwnedFd::from(semaphore);
        assert!(fd.as_raw_fd() >= 0);
        let wrong = postbox::Latch::try_from(fd).expect_err("it is a semaphore");
        assert_eq!(wrong.error.kind, ErrorKind::WrongHandle);
        let semaphore = Semaphore::try_from(wrong.fd).expect("it is one");
        let _ = semaphore.as_fd();
        assert_eq!(semaphore.name(), Some(name.as_str()));
    });
}

#[test]
fn semaphore_holders_and_waiters_are_killed_and_nothing_is_lost() {
    isolated(|| {
        const UNITS: u64 = 3;
        const WORKERS: usize = 6;
        let kills = scaled(320);
        let semaphore = Handle::semaphore(UNITS, UNITS);
        let done = Ledger::new(1);
        let mut rng = Rng::from_env("semaphore kills");
        let worker = |rng: Rng| {
            spawn(|| {
                let mut rng = rng;
                loop {
                    let count = 1 + rng.below(UNITS);
                    let wait = match rng.below(4) {
                        0 => NEVER,
                        1 => within(rng.below(20)),
                        _ => FOREVER,
                    };
                    match semaphore.acquire(count, UNDO, wait) {
                        Ok(_) => {
                            assert!(semaphore.value() <= UNITS - count);
                            done[0].fetch_add(1, Relaxed);
                            if rng.one_in(4) {
                                std::thread::yield_now();
                            }
                            // Sometimes a part of it first.
                            let part = rng.below(count);
                            if part > 0 {
                                semaphore.release(part, UNDO).expect("it was acquired");
                            }
                            semaphore
                                .release(count - part, UNDO)
                                .expect("it was acquired");
                        }
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
            let before = done[0].load(Relaxed);
            wait_until("somebody to acquire", || done[0].load(Relaxed) > before);
            let victim = workers.swap_remove(rng.below(WORKERS as u64) as usize);
            victim.destroy();
            workers.push(worker(rng.split()));
        }
        workers.into_iter().for_each(Child::destroy);
        semaphore.wait_value(UNITS);
        assert_eq!(semaphore.waiting(), 0);
        let _ = semaphore.acquire(UNITS, 0, NEVER).expect("they are there");
        tell(&format!(
            "{kills} kills, {} acquisitions",
            done[0].load(Relaxed)
        ));
    });
}
