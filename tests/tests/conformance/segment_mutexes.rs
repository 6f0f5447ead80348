//! The lock in shared memory: one at a time, without the kernel where nobody waits, and given back when its holder dies.

use postbox_tests::{LONG, scope};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use postbox::{ErrorKind, Mapping, Mutex, Segment, raw, sys};
use postbox_tests::*;

const WAITERS: u64 = sys::POSTBOX_WORD_WAITERS;

fn mapping() -> (Segment, Mapping) {
    let segment = Segment::options().anonymous(1).expect("a segment");
    let mapping = segment.attach().expect("both rights");
    (segment, mapping)
}

/// The handle as the kernel sees it.
fn as_handle(segment: &Segment) -> Handle {
    use std::os::fd::AsFd;
    Handle(
        segment
            .as_fd()
            .try_clone_to_owned()
            .expect("there are descriptors"),
    )
}

/// Takes it, and never gives it back.
fn keep(mutex: &Mutex<'_, u64>) -> bool {
    let guard = mutex.lock().expect("it is free");
    let told = guard.owner_died();
    std::mem::forget(guard);
    told
}

#[test]
fn segment_mutex_one_at_a_time_over_processes_and_threads() {
    isolated(|| {
        const EACH: u64 = 2_000;
        let (_segment, mapping) = mapping();
        let count = scaled(EACH as usize) as u64;
        let work = || {
            let mutex = mapping.mutex::<[u64; 2]>(64).expect("a place");
            for n in 0..count {
                let mut guard = mutex.lock().expect("nobody dies");
                assert!(!guard.owner_died());
                let [one, two] = guard.get();
                assert_eq!(one, two);
                guard.set(&[one + 1, two]);
                if n % 16 == 0 {
                    std::thread::yield_now();
                }
                guard.set(&[one + 1, two + 1]);
            }
        };
        let children: Vec<_> = (0..3).map(|_| spawn(work)).collect();
        scope(|scope| {
            scope.spawn(work);
            scope.spawn(work);
        });
        children.into_iter().for_each(Child::ok);
        let mutex = mapping.mutex::<[u64; 2]>(64).expect("a place");
        assert_eq!(mutex.lock().expect("it is free").get(), [5 * count; 2]);
    });
}

#[test]
fn segment_mutex_costs_no_system_call_where_nobody_waits() {
    isolated(|| {
        let (_segment, mapping) = mapping();
        let child = spawn(|| {
            let mutex = mapping.mutex::<u64>(0).expect("a place");
            drop(mutex.lock().expect("it is free"));
            // From here on, every system call but read, write and exit ends this process.
            // SAFETY: no pointers.
            check("seccomp", unsafe {
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT)
            });
            for _ in 0..1000 {
                let mut guard = mutex.lock().expect("it is free");
                guard.update(|value| *value += 1);
            }
            // SAFETY: ends the process, and nothing else.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        child.ok();
        let mutex = mapping.mutex::<u64>(0).expect("a place");
        assert_eq!(mutex.lock().expect("it is free").get(), 1000);
        // And the counter-proof: who has to wait makes one.
        std::mem::forget(mutex.lock().expect("it is free"));
        let child = spawn(|| {
            let other = mapping.mutex::<u64>(64).expect("a place");
            drop(other.lock().expect("it is free"));
            // SAFETY: no pointers.
            check("seccomp", unsafe {
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT)
            });
            let _ = mutex.try_lock();
        });
        assert_eq!(child.wait(), Exit::Signal(libc::SIGKILL));
    });
}

#[test]
fn segment_mutex_who_waits_sleeps_and_goes_on_when_it_is_given_up() {
    isolated(|| {
        let (segment, mapping) = mapping();
        let handle = as_handle(&segment);
        let mutex = mapping.mutex::<u64>(0).expect("a place");
        let guard = mutex.lock().expect("it is free");
        let children: Vec<_> = (1..=3)
            .map(|n| {
                let child = spawn(|| {
                    let mut guard = mutex.lock().expect("it is given up");
                    guard.update(|value| *value += 1);
                });
                handle.wait_waiting(n);
                child.wait_asleep();
                child
            })
            .collect();
        assert!(children.iter().all(Child::running));
        drop(guard);
        children.into_iter().for_each(Child::ok);
        assert_eq!(mutex.lock().expect("it is free").get(), 3);
        assert_eq!(handle.waiting(), 0);
    });
}

#[test]
fn segment_mutex_waits_end_at_timeouts_and_take_nothing() {
    isolated(|| {
        let (segment, mapping) = mapping();
        let handle = as_handle(&segment);
        let mutex = mapping.mutex::<u64>(0).expect("a place");
        let guard = mutex.lock().expect("it is free");
        let kind = |result: postbox::Result<_>| match result {
            Ok(_) => panic!("somebody has it"),
            Err(postbox::Error { kind, .. }) => kind,
        };
        let word = mapping.load_u64(0, SeqCst);
        assert_eq!(kind(mutex.try_lock().map(drop)), ErrorKind::NotYet);
        assert_eq!(mapping.load_u64(0, SeqCst), word, "a try leaves no trace");
        for ms in [0, 1, 30] {
            let start = Instant::now();
            let time = Duration::from_millis(ms);
            assert_eq!(kind(mutex.lock_timeout(time).map(drop)), ErrorKind::Timeout);
            assert!(start.elapsed() >= time);
        }
        let past = Instant::now();
        assert_eq!(
            kind(mutex.lock_deadline(past).map(drop)),
            ErrorKind::Timeout
        );
        assert_eq!(handle.waiting(), 0);
        let child = spawn(|| {
            drop(mutex.lock_timeout(LONG).expect("it is given up"));
        });
        handle.wait_waiting(1);
        drop(guard);
        child.ok();
        // What is free is taken, however late it is.
        assert!(mutex.lock_deadline(past).is_ok());
        assert!(mutex.try_lock().is_ok());
    });
}

#[test]
fn segment_mutex_of_a_dead_process_is_given_to_one_who_is_told() {
    isolated(|| {
        let (segment, mapping) = mapping();
        let handle = as_handle(&segment);
        for waiting in [0, 1, 3] {
            let ledger = Ledger::new(2);
            let (kept, mutex) = (Gate::new(), mapping.mutex::<u64>(0).expect("a place"));
            let holder = spawn(|| {
                assert!(!keep(&mutex));
                kept.open(1);
                loop {
                    std::thread::park();
                }
            });
            kept.pass();
            let children: Vec<_> = (1..=waiting)
                .map(|n| {
                    let child = spawn(|| {
                        let mut guard = mutex.lock().expect("it is recovered");
                        ledger[usize::from(guard.owner_died())].fetch_add(1, Relaxed);
                        guard.mark_consistent();
                    });
                    handle.wait_waiting(n);
                    child
                })
                .collect();
            holder.destroy();
            children.into_iter().for_each(Child::ok);
            // Who only tries gets it too.
            let mut guard = mutex.try_lock().expect("nobody has it who lives");
            ledger[usize::from(guard.owner_died())].fetch_add(1, Relaxed);
            guard.mark_consistent();
            drop(guard);
            let told = [0, 1].map(|at: usize| ledger[at].load(Relaxed));
            assert_eq!(told, [waiting.into(), 1]);
        }
    });
}

#[test]
fn segment_mutex_that_is_not_put_right_is_lost_for_all() {
    isolated(|| {
        let (segment, mapping) = mapping();
        let handle = as_handle(&segment);
        let mutex = mapping.mutex::<u64>(0).expect("a place");
        spawn(|| assert!(!keep(&mutex))).ok();
        let guard = mutex.lock().expect("it is given to the next");
        assert!(guard.owner_died());
        let waiters: Vec<_> = (1..=2)
            .map(|n| {
                let child = spawn(|| {
                    let error = mutex.lock().expect_err("it was not put right");
                    assert_eq!(error.kind, ErrorKind::Unrecoverable);
                });
                handle.wait_waiting(n);
                child
            })
            .collect();
        drop(guard);
        waiters.into_iter().for_each(Child::ok);
        for _ in 0..2 {
            let error = mutex.lock().expect_err("it stays so");
            assert_eq!(error.kind, ErrorKind::Unrecoverable);
            assert!(error.to_string().contains("mark_consistent"), "{error}");
        }
        // Another one in the same segment is as good as ever.
        assert!(mapping.mutex::<u64>(64).expect("a place").lock().is_ok());
    });
}

#[test]
fn segment_mutex_of_one_who_died_recovering_is_given_to_the_next() {
    isolated(|| {
        let (_segment, mapping) = mapping();
        let mutex = mapping.mutex::<u64>(0).expect("a place");
        spawn(|| assert!(!keep(&mutex))).ok();
        for _ in 0..3 {
            spawn(|| assert!(keep(&mutex))).ok();
        }
        let mut guard = mutex.lock().expect("it is given to the next");
        assert!(guard.owner_died());
        guard.mark_consistent();
        drop(guard);
        assert!(!mutex.lock().expect("it is in order").owner_died());
    });
}

#[test]
fn segment_mutex_is_lost_with_the_last_descriptor_of_the_handle() {
    isolated(|| {
        let name = unique("mutex");
        let keeper = Segment::options().create_new(&name, 1).expect("new");
        let mine = keeper.attach().expect("both rights");
        let (kept, go) = (Gate::new(), Gate::new());
        let child = spawn(|| {
            let segment = Segment::open(&name).expect("it is there");
            let mapping = segment.attach().expect("both rights");
            keep(&mapping.mutex(0).expect("a place"));
            kept.open(1);
            go.pass();
            drop(segment);
            kept.open(1);
            go.pass();
            drop(mapping);
            kept.open(1);
            go.pass();
        });
        let mutex = mine.mutex::<u64>(0).expect("a place");
        kept.pass();
        assert!(mutex.try_lock().is_err());
        go.open(1);
        kept.pass();
        assert!(mutex.try_lock().is_err(), "the mapping has one");
        go.open(1);
        kept.pass();
        assert!(mutex.try_lock().expect("it was closed").owner_died());
        go.open(1);
        child.ok();
    });
}

#[test]
fn segment_mutex_is_not_inherited_by_a_child() {
    isolated(|| {
        let (segment, mapping) = mapping();
        let handle = as_handle(&segment);
        let mutex = mapping.mutex::<u64>(0).expect("a place");
        let guard = mutex.lock().expect("it is free");
        let mine = raw::attach(&handle).expect("both rights");
        spawn(|| {
            assert_ne!(raw::attach(&handle), Ok(mine), "it has a number of its own");
            // Its copy of the guard is none.
            let word = mapping.load_u64(0, SeqCst);
            // SAFETY: it is a copy that only this process drops.
            drop(unsafe { std::ptr::read(&guard) });
            assert_eq!(mapping.load_u64(0, SeqCst), word);
            assert!(mutex.try_lock().is_err());
        })
        .ok();
        assert!(mutex.try_lock().is_err(), "its end gave nothing back");
        drop(guard);
        assert!(!mutex.try_lock().expect("it is free").owner_died());
    });
}

#[test]
fn segment_mutex_a_signal_does_not_end_a_wait_of_the_library() {
    isolated(|| {
        let (segment, mapping) = mapping();
        let handle = as_handle(&segment);
        let mutex = mapping.mutex::<u64>(0).expect("a place");
        let guard = mutex.lock().expect("it is free");
        let child = spawn(|| {
            handle_signal(libc::SIGUSR1, 0);
            drop(mutex.lock().expect("it is given up"));
        });
        handle.wait_waiting(1);
        for _ in 0..3 {
            child.kill(libc::SIGUSR1);
            child.wait_asleep();
        }
        drop(guard);
        child.ok();
    });
}

#[test]
fn segment_mutex_lives_in_a_part_too() {
    isolated(|| {
        let segment = Segment::options()
            .anonymous(3 * PAGE as u64)
            .expect("a segment");
        let whole = segment.attach().expect("both rights");
        let part = segment
            .attach_part(2 * PAGE as u64..3 * PAGE as u64)
            .expect("a page");
        let handle = as_handle(&segment);
        let mutex = part.mutex::<u64>(128).expect("a place");
        let guard = mutex.lock().expect("it is free");
        let child = spawn(|| {
            let mutex = whole.mutex::<u64>(2 * PAGE + 128).expect("a place");
            drop(mutex.lock().expect("it is given up"));
        });
        handle.wait_waiting(1);
        drop(guard);
        child.ok();
    });
}

#[test]
fn segment_word_numbers_are_a_processs_own_and_never_used_again() {
    isolated(|| {
        let segment = Handle::segment(1);
        let second = segment.dup(SEND | RECEIVE).expect("its rights");
        let mine = raw::attach(&segment).expect("both rights");
        assert!(mine > 0);
        assert_eq!(raw::attach(&segment), Ok(mine), "the same again");
        let other = raw::attach(&second).expect("both rights");
        assert_ne!(other, mine, "another handle");
        let mut seen = vec![mine, other];
        let numbers = Ledger::new(1);
        for _ in 0..20 {
            spawn(|| numbers[0].store(raw::attach(&segment).expect("both rights"), SeqCst)).ok();
            let number = numbers[0].load(SeqCst);
            assert!(!seen.contains(&number), "{number} again");
            seen.push(number);
        }
        for right in [SEND, RECEIVE] {
            let one = segment.dup(right).expect("its rights");
            assert_eq!(raw::attach(&one), Err(Errno::ACCESS));
            assert_eq!(one.wait_word(0, 0, NEVER), Err(Errno::ACCESS));
            assert_eq!(one.wake_word(0, 1), Err(Errno::ACCESS));
        }
        let mailbox = Handle::anonymous(1);
        assert_eq!(raw::attach(&mailbox), Err(Errno::OPNOTSUPP));
        assert_eq!(mailbox.wait_word(0, 0, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(mailbox.wake_word(0, 1), Err(Errno::OPNOTSUPP));
        assert_eq!(raw::attach(Handle::unbound()), Err(Errno::BADFD));
    });
}

#[test]
fn segment_word_is_waited_for_as_long_as_it_is_what_was_seen() {
    isolated(|| {
        let segment = Handle::segment(2);
        let mapped = segment.map(0, 2 * PAGE, RW).expect("both rights");
        let at = PAGE as u64 + 8;
        let word = mapped.word(at as usize);
        let me = raw::attach(&segment).expect("both rights");
        // Another value, and an owner that is not attached.
        assert_eq!(segment.wait_word(at, me, FOREVER), Ok(false));
        assert_eq!(segment.wait_word(at, 0, FOREVER), Ok(true));
        for owner in [me + 1, 1 << 40, sys::POSTBOX_WORD_OWNER] {
            for waiters in [0, WAITERS, 1 << 63] {
                word.store(owner | waiters, SeqCst);
                let died = segment.wait_word(at, owner | waiters, FOREVER);
                assert_eq!(died, Ok(true));
                assert_eq!(segment.wait_word(at, owner ^ 1, FOREVER), Ok(false));
            }
        }
        word.store(me, SeqCst);
        assert_eq!(segment.wait_word(at, me, NEVER), Err(Errno::AGAIN));
        assert_eq!(segment.wait_word(at, me, within(5)), Err(Errno::TIMEDOUT));
        assert_eq!(segment.wait_word(at, me, until(-5)), Err(Errno::TIMEDOUT));
        assert_eq!(
            segment.wait_word(at, me, until_realtime(20)),
            Err(Errno::TIMEDOUT)
        );
        assert_eq!(segment.waiting(), 0);
        // The first of those who wait for that word, and only so many.
        let order = Ledger::new(4);
        let waits = |n: usize, at: u64| {
            let (segment, order) = (&segment, &order);
            let child = spawn(|| {
                assert_eq!(segment.wait_word(at, me, FOREVER), Ok(false));
                order[n].store(order[0].fetch_add(1, SeqCst) + 1, SeqCst);
            });
            segment.wait_waiting(n as u32);
            child
        };
        mapped.word(0).store(me, SeqCst);
        let children = [waits(1, at), waits(2, 0), waits(3, at)];
        let [first, second, third] = children;
        assert_eq!(segment.wake_word(at + 8, 5), Ok(()), "nobody is there");
        assert_eq!(segment.waiting(), 3);
        assert_eq!(segment.wake_word(at, 1), Ok(()));
        first.ok();
        assert!(second.running() && third.running());
        assert_eq!(segment.wake_word(at, u32::MAX), Ok(()));
        third.ok();
        assert!(second.running());
        assert_eq!(segment.wake_word(0, 1), Ok(()));
        second.ok();
        assert_eq!([1, 3, 2].map(|n| order[n].load(SeqCst)), [1, 2, 3]);
    });
}

#[test]
fn segment_word_waits_end_when_any_who_was_attached_is_gone() {
    isolated(|| {
        let segment = Handle::segment(1);
        let mapped = segment.map(0, PAGE, RW).expect("both rights");
        let me = raw::attach(&segment).expect("both rights");
        mapped.word(0).store(me, SeqCst);
        let (ready, go) = (Gate::new(), Gate::new());
        let attached = spawn(|| {
            raw::attach(&segment).expect("both rights");
            ready.open(1);
            go.pass();
        });
        ready.pass();
        let waits = spawn(|| assert_eq!(segment.wait_word(0, me, FOREVER), Ok(false)));
        segment.wait_waiting(1);
        // One that never attached is of no interest.
        spawn(|| {
            segment.info();
        })
        .ok();
        assert!(waits.running());
        attached.destroy();
        waits.ok();
    });
}

#[test]
fn segment_word_a_signal_ends_a_wait_and_with_sa_restart_it_goes_on() {
    isolated(|| {
        let segment = Handle::segment(1);
        let mapped = segment.map(0, PAGE, RW).expect("both rights");
        let me = raw::attach(&segment).expect("both rights");
        mapped.word(0).store(me, SeqCst);
        for flags in [0, libc::SA_RESTART] {
            let child = spawn(|| {
                handle_signal(libc::SIGUSR1, flags);
                let expected = if flags == 0 {
                    Err(Errno::INTR)
                } else {
                    Ok(false)
                };
                assert_eq!(segment.wait_word(0, me, FOREVER), expected);
            });
            segment.wait_waiting(1);
            child.kill(libc::SIGUSR1);
            if flags != 0 {
                child.wait_asleep();
                segment.wait_waiting(1);
                segment.wake_word(0, 1).expect("it waits");
            }
            child.ok();
            assert_eq!(segment.waiting(), 0);
        }
        rustix::fs::fcntl_setfl(&segment, rustix::fs::OFlags::NONBLOCK).expect("it can be set");
        assert_eq!(segment.wait_word(0, me, FOREVER), Err(Errno::AGAIN));
    });
}

#[test]
fn segment_word_owners_are_those_of_one_segment() {
    isolated(|| {
        let memfd = memory(PAGE, 0, SEALS);
        let make = || {
            MakeSegment::default()
                .open(None, Some(&memfd))
                .expect("it is sealed")
        };
        let (one, other) = (make(), make());
        let mapped = one.map(0, PAGE, RW).expect("both rights");
        // The memory is the same, and who is attached to the one is a stranger to the other.
        let me = raw::attach(&one).expect("both rights");
        mapped.word(0).store(me, SeqCst);
        assert_eq!(other.map(0, PAGE, R).expect("to read").get(0), me as u8);
        assert_eq!(one.wait_word(0, me, NEVER), Err(Errno::AGAIN));
        assert_eq!(other.wait_word(0, me, NEVER), Ok(true));
    });
}

#[test]
fn segment_word_places_and_arguments_are_checked() {
    isolated(|| {
        let segment = Handle::segment(2);
        for at in [1, 4, 2 * PAGE as u64, u64::MAX, u64::MAX - 7, 1 << 63] {
            assert_eq!(segment.wait_word(at, 0, NEVER), Err(Errno::INVAL), "{at}");
            assert_eq!(segment.wake_word(at, 1), Err(Errno::INVAL), "{at}");
        }
        assert_eq!(segment.wake_word(0, 0), Err(Errno::INVAL));
        let bad = |args: sys::postbox_word| {
            assert_eq!(raw::wait_word(&segment, &args), Err(Errno::INVAL));
        };
        bad(sys::postbox_word {
            count: 1,
            ..Default::default()
        });
        bad(sys::postbox_word {
            flags: 1 << 9,
            ..Default::default()
        });
        let bad = |args: sys::postbox_word| {
            let count = 1;
            let args = sys::postbox_word { count, ..args };
            assert_eq!(raw::wake_word(&segment, &args), Err(Errno::INVAL));
        };
        bad(sys::postbox_word {
            flags: 1,
            ..Default::default()
        });
        bad(sys::postbox_word {
            value: 1,
            ..Default::default()
        });
        bad(sys::postbox_word {
            timeout_ns: 1,
            ..Default::default()
        });
        bad(sys::postbox_word {
            state: 1,
            ..Default::default()
        });
    });
}
