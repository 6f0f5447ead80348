//! Guarantee 4: blocking and non-blocking calls, timeouts, the order of waiters, one wake-up for one message.

use std::time::{Duration, Instant};

use postbox::{raw, sys};
use postbox_tests::*;

#[test]
fn g04_blocking_send_and_blocking_receive() {
    isolated(|| {
        for capacity in [0, 1, UNBOUNDED] {
            let mailbox = Handle::anonymous(capacity);
            let receiver =
                spawn(|| assert_eq!(mailbox.recv(FOREVER).expect("it comes").text(), "first"));
            mailbox.wait_receivers(1);
            receiver.wait_asleep();
            mailbox.send("first", FOREVER).expect("a receiver waits");
            receiver.ok();
            let sender = spawn(|| {
                (0..3).for_each(|_| mailbox.send("more", FOREVER).expect("they are received"))
            });
            if capacity != UNBOUNDED {
                mailbox.wait_senders(1);
                sender.wait_asleep();
            }
            (0..3)
                .for_each(|_| assert_eq!(mailbox.recv(FOREVER).expect("they come").text(), "more"));
            sender.ok();
        }
    });
}

#[test]
fn g04_non_blocking_send_and_blocking_receive() {
    isolated(|| {
        for capacity in [0, 1, UNBOUNDED] {
            let mailbox = Handle::anonymous(capacity);
            let receiver = spawn(|| {
                assert_eq!(
                    mailbox.recv(FOREVER).expect("it comes").text(),
                    "to who waits"
                )
            });
            mailbox.wait_receivers(1);
            assert_eq!(mailbox.send("to who waits", NEVER), Ok(()));
            receiver.ok();
            // Nobody waits any more.
            let room = capacity.min(5);
            for i in 0..room {
                assert_eq!(mailbox.send(format!("{i}"), NEVER), Ok(()));
            }
            let expected = if capacity == UNBOUNDED {
                Ok(())
            } else {
                Err(Errno::AGAIN)
            };
            assert_eq!(mailbox.send("one more", NEVER), expected);
        }
    });
}

#[test]
fn g04_blocking_send_and_non_blocking_receive() {
    isolated(|| {
        for capacity in [0, 1] {
            let mailbox = Handle::anonymous(capacity);
            assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
            if capacity == 1 {
                mailbox.send("zero", FOREVER).expect("there is room");
            }
            let sender = spawn(|| mailbox.send("one", FOREVER).expect("it is received"));
            mailbox.wait_senders(1);
            sender.wait_asleep();
            if capacity == 1 {
                assert_eq!(mailbox.get(), "zero");
            }
            wait_until("a message", || match mailbox.recv(NEVER) {
                Ok(got) => got.text() == "one",
                Err(e) => {
                    assert_eq!(e, Errno::AGAIN);
                    false
                }
            });
            sender.ok();
            assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
        }
    });
}

#[test]
fn g04_non_blocking_send_and_non_blocking_receive() {
    isolated(|| {
        let rendezvous = Handle::anonymous(0);
        assert_eq!(
            (rendezvous.send("x", NEVER), rendezvous.recv(NEVER)),
            (Err(Errno::AGAIN), Err(Errno::AGAIN))
        );
        assert_eq!(
            rendezvous.recv(NEVER),
            Err(Errno::AGAIN),
            "the failed send left nothing"
        );
        let bounded = Handle::anonymous(2);
        for _ in 0..3 {
            assert_eq!(
                [bounded.send("a", NEVER), bounded.send("b", NEVER)],
                [Ok(()), Ok(())]
            );
            assert_eq!(bounded.send("c", NEVER), Err(Errno::AGAIN));
            assert_eq!([bounded.get(), bounded.get()], ["a", "b"]);
            assert_eq!(bounded.recv(NEVER), Err(Errno::AGAIN));
        }
    });
}

#[test]
fn g04_o_nonblock_makes_every_call_non_blocking() {
    isolated(|| {
        for capacity in [0, 1] {
            let mailbox = Handle::anonymous(capacity);
            rustix::fs::fcntl_setfl(&mailbox, rustix::fs::OFlags::NONBLOCK)
                .expect("the flag can be set");
            assert_eq!(mailbox.recv(FOREVER), Err(Errno::AGAIN));
            assert_eq!(mailbox.take(FOREVER), Err(Errno::AGAIN));
            assert_eq!(rustix::io::read(&mailbox, &mut [0; 8]), Err(Errno::AGAIN));
            assert_eq!(recv_batch_one(&mailbox, FOREVER), Err(Errno::AGAIN));
            if capacity == 1 {
                mailbox.send("fills it", FOREVER).expect("there is room");
                assert_eq!(mailbox.reserve(1, FOREVER), Err(Errno::AGAIN));
            }
            assert_eq!(mailbox.send("x", FOREVER), Err(Errno::AGAIN));
            assert_eq!(rustix::io::write(&mailbox, b"x"), Err(Errno::AGAIN));
            assert_eq!(
                raw::send_batch(&mailbox, &[raw::SendEntry::new(b"x", 0)], 0, 0),
                Err(Errno::AGAIN)
            );
            rustix::fs::fcntl_setfl(&mailbox, rustix::fs::OFlags::empty()).expect("and taken away");
            assert_eq!(mailbox.send("x", within(5)), Err(Errno::TIMEDOUT));
        }
    });
}

fn recv_batch_one(handle: &Handle, wait: Wait) -> Result<usize> {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 16];
    raw::recv_batch(
        handle,
        &mut [raw::RecvEntry::new(&mut buffer)],
        wait.0,
        wait.1,
    )
}

/// The calls that wait, on a mailbox on which they all have to.
fn waiting_calls(wait: Wait) -> Vec<(&'static str, Result<()>, Duration)> {
    let (full, empty, rendezvous) = (
        Handle::anonymous(1),
        Handle::anonymous(1),
        Handle::anonymous(0),
    );
    full.put("fills it");
    let entry = [raw::SendEntry::new(b"x", 0)];
    type Call<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);
    let calls: Vec<Call> = vec![
        ("send", Box::new(|| full.send("x", wait))),
        ("reserve", Box::new(|| full.reserve(1, wait))),
        (
            "send_batch",
            Box::new(|| raw::send_batch(&full, &entry, wait.0, wait.1).map(drop)),
        ),
        ("recv", Box::new(|| empty.recv(wait).map(drop))),
        ("take", Box::new(|| empty.take(wait).map(drop))),
        (
            "recv_batch",
            Box::new(|| recv_batch_one(&empty, wait).map(drop)),
        ),
        (
            "send to a rendezvous",
            Box::new(|| rendezvous.send("x", wait)),
        ),
        (
            "recv from a rendezvous",
            Box::new(|| rendezvous.recv(wait).map(drop)),
        ),
    ];
    calls
        .iter()
        .map(|(name, call)| {
            let start = Instant::now();
            (*name, call(), start.elapsed())
        })
        .collect()
}

#[test]
fn g04_a_relative_timeout_ends_every_wait_and_not_early() {
    isolated(|| {
        for ms in [0, 1, 30] {
            for (call, result, took) in waiting_calls(within(ms)) {
                assert_eq!(result, Err(Errno::TIMEDOUT), "{call}");
                assert!(
                    took >= Duration::from_millis(ms),
                    "{call} waited {took:?} of {ms} ms"
                );
            }
        }
    });
}

#[test]
fn g04_a_deadline_ends_every_wait() {
    isolated(|| {
        for deadline in [until, until_realtime] {
            for (call, result, _) in waiting_calls(deadline(30)) {
                assert_eq!(result, Err(Errno::TIMEDOUT), "{call}");
            }
        }
        for past in [
            until(-5000),
            until_realtime(-5000),
            Wait(sys::POSTBOX_DEADLINE, 0),
            Wait(sys::POSTBOX_DEADLINE, 1),
        ] {
            for (call, result, _) in waiting_calls(past) {
                assert_eq!(result, Err(Errno::TIMEDOUT), "{call}");
            }
        }
    });
}

#[test]
fn g04_a_deadline_is_not_early() {
    isolated(|| {
        let empty = Handle::anonymous(1);
        for (clock, wait) in [
            (libc::CLOCK_MONOTONIC, until(25)),
            (libc::CLOCK_REALTIME, until_realtime(25)),
        ] {
            assert_eq!(empty.recv(wait), Err(Errno::TIMEDOUT));
            let mut now = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: `now` is writable.
            check("clock_gettime", unsafe {
                libc::clock_gettime(clock, &mut now)
            });
            assert!((now.tv_sec * 1_000_000_000 + now.tv_nsec) as u64 >= wait.1);
        }
    });
}

#[test]
fn g04_what_can_be_done_at_once_is_done_whatever_the_deadline() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        for wait in [within(0), until(-1000), until_realtime(-1000)] {
            assert_eq!(mailbox.send("x", wait), Ok(()));
            assert_eq!(mailbox.recv(wait).map(|got| got.data), Ok(b"x".to_vec()));
            assert_eq!(mailbox.reserve(1, wait), Ok(()));
            assert_eq!(mailbox.cancel(1), Ok(()));
        }
    });
}

#[test]
fn g04_a_very_long_timeout_waits() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        let flags = [
            sys::POSTBOX_TIMEOUT,
            sys::POSTBOX_DEADLINE,
            sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME,
        ];
        for flags in flags {
            for ns in [
                u64::MAX,
                i64::MAX as u64,
                i64::MAX as u64 + 1,
                i64::MAX as u64 - 1_000_000_000,
            ] {
                let receiver = spawn(|| {
                    let got = mailbox.recv(Wait(flags, ns)).expect("it comes");
                    assert_eq!(got.text(), "in time");
                });
                mailbox.wait_receivers(1);
                receiver.wait_asleep();
                assert!(
                    receiver.running(),
                    "a wait of {ns} ns with flags {flags:#x} ended"
                );
                mailbox.put("in time");
                receiver.ok();
            }
        }
    });
}

#[test]
fn g04_a_timed_wait_ends_with_its_message() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        for wait in [within(60_000), until(60_000), until_realtime(60_000)] {
            let receiver = spawn(|| assert_eq!(mailbox.recv(wait).expect("it comes").text(), "x"));
            mailbox.wait_receivers(1);
            mailbox.put("x");
            receiver.ok();
            mailbox.put("fills it");
            let sender = spawn(|| mailbox.send("y", wait).expect("room comes"));
            mailbox.wait_senders(1);
            assert_eq!(mailbox.get(), "fills it");
            sender.ok();
            assert_eq!(mailbox.get(), "y");
        }
    });
}

#[test]
fn g04_receivers_are_served_in_the_order_in_which_they_came() {
    isolated(|| {
        for capacity in [0, 8] {
            let mailbox = Handle::anonymous(capacity);
            let receivers: Vec<Child> = (0..6u8)
                .map(|i| {
                    let child =
                        spawn(|| assert_eq!(mailbox.recv(FOREVER).expect("it comes").data, [i]));
                    mailbox.wait_receivers(i as u32 + 1);
                    child
                })
                .collect();
            // All at once: who is woken later must not lose its message to who runs earlier.
            (0..6u8).for_each(|i| mailbox.put([i]));
            receivers.into_iter().for_each(Child::ok);
        }
    });
}

#[test]
fn g04_who_comes_later_does_not_overtake_a_woken_receiver() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        for round in 0..20u8 {
            let waiting =
                spawn(|| assert_eq!(mailbox.recv(FOREVER).expect("it comes").data, [round]));
            mailbox.wait_receivers(1);
            mailbox.put([round]);
            // The message is the waiting one's already, though that has hardly run yet.
            assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
            waiting.ok();
        }
    });
}

#[test]
fn g04_senders_are_served_in_the_order_in_which_they_came() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        mailbox.put([99]);
        // Priorities order messages, not those who wait for room.
        let senders: Vec<Child> = (0..6u8)
            .map(|i| {
                let child = spawn(|| {
                    mailbox
                        .send_priority([i], u32::from(i % 3), FOREVER)
                        .expect("room comes");
                });
                mailbox.wait_senders(i as u32 + 1);
                child
            })
            .collect();
        assert_eq!(mailbox.recv(NEVER).expect("the first").data, [99]);
        for i in 0..6u8 {
            assert_eq!(mailbox.recv(within(60_000)).expect("the next").data, [i]);
        }
        senders.into_iter().for_each(Child::ok);
    });
}

#[test]
fn g04_a_small_message_does_not_overtake_a_large_one_that_waits() {
    isolated(|| {
        let mailbox = Make {
            capacity: 8,
            capacity_bytes: 100,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        mailbox.put([0; 60]);
        let large = spawn(|| mailbox.send([1; 80], FOREVER).expect("room comes"));
        mailbox.wait_senders(1);
        let small = spawn(|| mailbox.send([2; 10], FOREVER).expect("room comes"));
        mailbox.wait_senders(2);
        // There is room for ten bytes, and somebody is first.
        assert_eq!(mailbox.send([3; 10], NEVER), Err(Errno::AGAIN));
        assert_eq!(
            mailbox.ready(),
            libc::POLLIN,
            "poll says what a send would find"
        );
        assert_eq!(mailbox.recv(NEVER).expect("sent").data, [0; 60]);
        large.ok();
        small.ok();
        assert_eq!(mailbox.recv(NEVER).expect("sent").data, [1; 80]);
        assert_eq!(mailbox.recv(NEVER).expect("sent").data, [2; 10]);
    });
}

#[test]
fn g04_a_sender_that_gives_up_lets_those_behind_it_through() {
    isolated(|| {
        let gives_up: [fn(&Child); 3] = [
            |_| {},
            |child| child.kill(libc::SIGUSR1),
            |child| child.kill(libc::SIGKILL),
        ];
        for (how, give_up) in gives_up.iter().enumerate() {
            let mailbox = Make {
                capacity: 8,
                capacity_bytes: 100,
                ..Make::default()
            }
            .open(None)
            .expect("new");
            mailbox.put([0; 60]);
            let large = spawn(|| {
                handle_signal(libc::SIGUSR1, 0);
                let wait = if how == 0 { within(300) } else { FOREVER };
                let _ = mailbox.send([1; 80], wait);
            });
            mailbox.wait_senders(1);
            let small = spawn(|| {
                mailbox
                    .send([2; 10], FOREVER)
                    .expect("the large one gives up")
            });
            let reserved = spawn(|| {
                mailbox
                    .reserve(10, FOREVER)
                    .expect("the large one gives up")
            });
            // Nobody takes anything: it is the end of the first wait that makes them fit.
            large.wait_asleep();
            give_up(&large);
            let _ = large.wait();
            small.ok();
            reserved.ok();
            mailbox.wait_senders(0);
        }
    });
}

#[test]
fn g04_a_message_wakes_one_receiver_and_not_the_herd() {
    isolated(|| {
        for capacity in [0, 8] {
            let mailbox = Handle::anonymous(capacity);
            let receivers: Vec<Child> = (0..8)
                .map(|i| {
                    let child = spawn(|| drop(mailbox.recv(FOREVER).expect("it comes")));
                    mailbox.wait_receivers(i + 1);
                    child.wait_asleep();
                    child
                })
                .collect();
            let switches = |child: &Child| voluntary_switches(child.pid());
            let before: Vec<u64> = receivers.iter().map(switches).collect();
            for served in 1..=3 {
                mailbox.put("x");
                wait_until("one receiver to end", || {
                    receivers[..served].iter().all(|child| !child.running())
                });
                assert_eq!(mailbox.info().waiting_receivers as usize, 8 - served);
                for (i, child) in receivers.iter().enumerate().skip(served) {
                    assert!(child.running());
                    assert_eq!(
                        switches(child),
                        before[i],
                        "receiver {i} was woken for somebody else's message"
                    );
                }
            }
        }
    });
}

#[test]
fn g04_room_for_one_wakes_one_sender() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        mailbox.put("fills it");
        let senders: Vec<Child> = (0..6)
            .map(|i| {
                let child = spawn(|| mailbox.send("x", FOREVER).expect("room comes"));
                mailbox.wait_senders(i + 1);
                child.wait_asleep();
                child
            })
            .collect();
        let before: Vec<u64> = senders
            .iter()
            .map(|child| voluntary_switches(child.pid()))
            .collect();
        mailbox.get();
        wait_until("one sender to end", || !senders[0].running());
        assert_eq!(mailbox.info().waiting_senders, 5);
        for (child, before) in senders.iter().zip(before).skip(1) {
            assert_eq!(
                voluntary_switches(child.pid()),
                before,
                "a sender was woken for somebody else's room"
            );
        }
    });
}

fn voluntary_switches(pid: u32) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the child is not reaped");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("the kernel counts them")
        .trim()
        .parse()
        .expect("a number")
}

/// A call on a mailbox of capacity one, and whether it waits for room (and not for a message).
type Call = (&'static str, bool, fn(&Handle, Wait) -> Result<()>);

const CALLS: [Call; 7] = [
    ("send", true, |mailbox, wait| mailbox.send("x", wait)),
    ("reserve", true, |mailbox, wait| mailbox.reserve(1, wait)),
    ("send_batch", true, |mailbox, wait| {
        let n = raw::send_batch(mailbox, &[raw::SendEntry::new(b"x", 0)], wait.0, wait.1)?;
        assert_eq!(n, 1);
        Ok(())
    }),
    ("recv", false, |mailbox, wait| {
        assert_eq!(mailbox.recv(wait)?.text(), "x");
        Ok(())
    }),
    ("recv_batch", false, |mailbox, wait| {
        assert_eq!(recv_batch_one(mailbox, wait)?, 1);
        Ok(())
    }),
    ("write", true, |mailbox, _| {
        rustix::io::write(mailbox, b"x").map(drop)
    }),
    ("read", false, |mailbox, _| {
        rustix::io::read(mailbox, &mut [0; 8]).map(drop)
    }),
];

/// What a wait gives when a signal comes whose handler was set with these flags. Where it goes on, it is then ended as it
/// should be.
fn signalled(flags: i32, (_, sends, call): Call, wait: Wait) -> Result<()> {
    const INTERRUPTED: i32 = 4;
    let mailbox = Handle::anonymous(1);
    if sends {
        mailbox.put("fills it");
    }
    let child = spawn(|| {
        handle_signal(libc::SIGUSR1, flags);
        match call(&mailbox, wait) {
            Ok(()) => {}
            // SAFETY: ends this process.
            Err(Errno::INTR) => unsafe { libc::_exit(INTERRUPTED) },
            Err(e) => panic!("{e}"),
        }
    });
    let waits = || mailbox.info().waiting_senders + mailbox.info().waiting_receivers;
    wait_until("it to wait", || waits() == 1);
    child.wait_asleep();
    let before = voluntary_switches(child.pid());
    child.kill(libc::SIGUSR1);
    wait_until("it to end, or to wait again", || {
        !child.running()
            || (voluntary_switches(child.pid()) > before && waits() == 1 && child.state() == 'S')
    });
    if child.running() {
        if sends {
            mailbox.get();
        } else {
            mailbox.put("x");
        }
    }
    match child.wait() {
        Exit::Code(0) => Ok(()),
        Exit::Code(INTERRUPTED) => Err(Errno::INTR),
        other => panic!("it ended with {other:?}"),
    }
}

#[test]
fn g04_a_signal_ends_a_wait_or_restarts_it() {
    isolated(|| {
        for call in CALLS {
            let what = call.0;
            // read() and write() know no times.
            let timed = !matches!(what, "read" | "write");
            let waits = [FOREVER, until(60_000), until_realtime(60_000)];
            for wait in waits.into_iter().take(if timed { 3 } else { 1 }) {
                assert_eq!(
                    signalled(0, call, wait),
                    Err(Errno::INTR),
                    "{what}, {wait:?}"
                );
                assert_eq!(
                    signalled(libc::SA_RESTART, call, wait),
                    Ok(()),
                    "{what}, {wait:?}"
                );
            }
            if timed {
                // To restart a relative one would make it longer.
                for flags in [0, libc::SA_RESTART] {
                    assert_eq!(
                        signalled(flags, call, within(60_000)),
                        Err(Errno::INTR),
                        "{what}"
                    );
                }
            }
        }
    });
}

#[test]
fn g04_read_and_write_wait_too() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        let reader = spawn(|| {
            let mut buffer = [0; 16];
            assert_eq!(rustix::io::read(&mailbox, &mut buffer), Ok(5));
            assert_eq!(&buffer[..5], b"hello");
        });
        mailbox.wait_receivers(1);
        assert_eq!(rustix::io::write(&mailbox, b"hello"), Ok(5));
        reader.ok();
        mailbox.put("fills it");
        let writer = spawn(|| assert_eq!(rustix::io::write(&mailbox, b"world"), Ok(5)));
        mailbox.wait_senders(1);
        assert_eq!(
            [
                mailbox.get(),
                mailbox
                    .recv(within(60_000))
                    .expect("written")
                    .text()
                    .to_owned()
            ],
            ["fills it", "world"]
        );
        writer.ok();
    });
}

#[test]
fn g04_many_timeouts_and_many_messages_at_once_leave_nobody_waiting() {
    isolated(|| {
        // Receives that time out at the very moment at which they are given a message must take it.
        let mailbox = Handle::anonymous(UNBOUNDED);
        const EACH: u32 = 150;
        let children: Vec<Child> = (0..3)
            .map(|i| {
                spawn(|| {
                    let mut rng = Rng::new(i);
                    for _ in 0..EACH {
                        loop {
                            match mailbox.recv(Wait(sys::POSTBOX_TIMEOUT, rng.below(100_000))) {
                                Ok(_) => break,
                                Err(e) => assert_eq!(e, Errno::TIMEDOUT),
                            }
                        }
                    }
                })
            })
            .collect();
        for _ in 0..3 * EACH {
            mailbox.put("x");
            std::thread::yield_now();
        }
        children.into_iter().for_each(Child::ok);
        let info = mailbox.info();
        assert_eq!(
            (info.messages, info.received, info.waiting_receivers),
            (0, 3 * EACH as u64, 0)
        );
    });
}
