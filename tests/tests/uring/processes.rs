//! Processes that end, are killed, fork, exec and pass handles on, with commands under way.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use postbox::uring::Driver;
use postbox::{ErrorKind, Receiver, Sender, Wait};
use postbox_tests::{
    Child, Exit, Gate, Rng, Watchdog, check, isolated, receive_fd, scaled, send_fd, spawn,
    wait_until,
};

use crate::{LONG, SORTS, Sort, kind, settle, split, wait_receivers};

/// A child that has parked so many receives, and does something else then.
fn parks(
    receiver: &Receiver,
    sender: &Sender,
    sort: crate::Sort,
    count: u32,
    then: impl FnOnce(Driver),
) -> Child {
    let before = receiver.info().expect("bound").waiting_receivers;
    let child = spawn(|| {
        let driver = sort.driver();
        let copy = receiver.try_clone().expect("a descriptor");
        let attached = driver.attach(copy);
        let ops: Vec<_> = (0..count)
            .map(|n| match n % 2 {
                0 => std::mem::forget(attached.recv()),
                _ => std::mem::forget(attached.take()),
            })
            .collect();
        driver.submit().expect("the ring works");
        then(driver);
        drop(ops);
    });
    wait_until("the child's receives", || {
        sender.info().expect("bound").waiting_receivers == before + count
    });
    child
}

fn sleep_for_ever(driver: Driver) {
    loop {
        // Whatever comes is the child's.
        driver
            .turn(Wait::Timeout(std::time::Duration::from_secs(3600)))
            .expect("the ring works");
    }
}

#[test]
fn messages_of_a_killed_process_are_for_others() {
    isolated(|| {
        for sort in SORTS {
            let (sender, receiver) = split(16);
            let child = parks(&receiver, &sender, sort, 4, sleep_for_ever);
            child.destroy();
            wait_until("the receives to end", || {
                sender.info().expect("bound").waiting_receivers == 0
            });
            for number in 0..10u8 {
                sender.try_send([number]).expect("there is room");
            }
            for number in 0..10u8 {
                assert_eq!(
                    receiver.try_recv().expect("it is there").payload,
                    [number],
                    "{sort:?}"
                );
            }
        }
    });
}

/// Messages are handed to receives of a process that is stopped, and then killed: they come back.
#[test]
fn what_was_handed_to_a_process_that_dies_comes_back() {
    isolated(|| {
        for sort in SORTS {
            let (sender, receiver) = split(16);
            let child = parks(&receiver, &sender, sort, 4, sleep_for_ever);
            child.kill(libc::SIGSTOP);
            wait_until("it to stop", || child.state() == 'T');
            for number in 0..10u8 {
                sender.try_send([number]).expect("there is room");
            }
            child.destroy();
            let mut seen = Vec::new();
            let mut taken = 0;
            wait_until("the messages", || {
                let info = receiver.info().expect("bound");
                taken = info.received;
                info.waiting_receivers == 0 && info.unacknowledged == 0
            });
            while let Ok(message) = receiver.try_recv() {
                seen.push(message.payload[0]);
            }
            // A thread of the kernel is not stopped, and may have received for the child.
            let expected: Vec<_> = (0..10u8).collect();
            if sort == crate::Sort::SqPoll {
                assert!(seen.len() as u64 + taken == 10, "{seen:?} and {taken}");
                assert!(seen.is_sorted());
            } else {
                assert_eq!(seen, expected, "{sort:?}");
            }
        }
    });
}

#[test]
fn a_process_that_ends_leaves_nothing_parked() {
    isolated(|| {
        for sort in SORTS {
            let (sender, receiver) = split(16);
            // Without dropping anything, and with dropping everything but what is forgotten.
            for forgets in [true, false] {
                let (go, gone) = (Gate::new(), Gate::new());
                let child = parks(&receiver, &sender, sort, 6, |driver| {
                    if forgets {
                        std::mem::forget(driver);
                    } else {
                        drop(driver);
                    }
                    gone.open(1);
                    go.pass();
                });
                gone.pass();
                go.open(1);
                assert_eq!(child.wait(), Exit::Code(0));
                wait_until("the receives to end", || {
                    sender.info().expect("bound").waiting_receivers == 0
                });
            }
            sender.try_send("x").expect("there is room");
            assert_eq!(&*receiver.try_recv().expect("nobody else has it"), b"x");
        }
    });
}

/// A child has the ring's descriptor and its memory, and cannot use or spoil it.
#[test]
fn a_child_leaves_its_parents_ring_alone() {
    isolated(|| {
        for sort in SORTS {
            let driver = sort.driver();
            let (sender, receiver) = split(16);
            let attached = driver.attach(receiver);
            let parked = attached.recv();
            wait_receivers(&driver, attached.handle(), 1);
            let child = spawn(|| {
                assert_eq!(kind(attached.recv().wait()), ErrorKind::Unsupported);
                assert!(driver.submit().is_err() && driver.turn(Wait::Never).is_err());
                let own = Driver::new().expect("it may have its own");
                let own = own.attach(sender.try_clone().expect("a descriptor"));
                own.send("from the child").wait().expect("there is room");
            });
            child.ok();
            // The parent's receive is still there, and got it.
            assert_eq!(
                parked.wait().expect("it came").payload,
                b"from the child",
                "{sort:?}"
            );
            let parked = attached.recv();
            wait_receivers(&driver, attached.handle(), 1);
            let child = spawn(|| {
                // The child's copies are dropped, as by a closure that owns them.
                // SAFETY: The child's copies are its own; the parent's are not touched.
                unsafe {
                    drop(std::ptr::read(&parked));
                    drop(std::ptr::read(&attached));
                    drop(std::ptr::read(&driver));
                }
            });
            child.ok();
            sender.try_send("still there").expect("there is room");
            assert_eq!(
                parked.wait().expect("it came").payload,
                b"still there",
                "{sort:?}"
            );
        }
    });
}

/// `exec` closes the ring: its commands end, and their messages are for others.
#[test]
fn exec_ends_what_is_under_way() {
    isolated(|| {
        for sort in SORTS {
            let (sender, receiver) = split(16);
            let go = Gate::new();
            let child = parks(&receiver, &sender, sort, 3, |driver| {
                go.pass();
                // The handle itself goes along, and keeps the mailbox.
                let fd = receiver.as_raw_fd();
                // SAFETY: The descriptor is open; the strings end in NUL, and the arrays in a null pointer.
                unsafe {
                    check("fcntl", libc::fcntl(fd, libc::F_SETFD, 0));
                    std::mem::forget(driver);
                    let args = [c"sleep".as_ptr(), c"60".as_ptr(), std::ptr::null()];
                    libc::execv(c"/bin/sleep".as_ptr(), args.as_ptr());
                }
                panic!("exec: {}", std::io::Error::last_os_error());
            });
            go.open(1);
            wait_until("the receives to end", || {
                sender.info().expect("bound").waiting_receivers == 0
            });
            assert!(child.running());
            sender.try_send("x").expect("there is room");
            assert_eq!(
                &*receiver.try_recv().expect("nobody else has it"),
                b"x",
                "{sort:?}"
            );
            child.destroy();
        }
    });
}

/// A handle that is passed on is used on both sides at once.
#[test]
fn handles_are_passed_on_with_commands_under_way() {
    isolated(|| {
        let driver = crate::driver();
        let (sender, receiver) = split(16);
        let attached = driver.attach(receiver);
        let parked = attached.recv();
        wait_receivers(&driver, attached.handle(), 1);
        let (ours, theirs) = UnixStream::pair().expect("descriptors");
        let child = spawn(|| {
            let receiver = Receiver::try_from(receive_fd(&theirs)).expect("it is one");
            let driver = Driver::new().expect("io_uring is there");
            let attached = driver.attach(receiver);
            let (first, second) = (attached.recv(), attached.recv());
            assert_eq!(first.wait().expect("it came").payload, b"two");
            second.cancel();
            assert_eq!(kind(second.wait()), ErrorKind::Cancelled);
        });
        send_fd(&ours, attached.handle());
        wait_receivers(&driver, attached.handle(), 3);
        sender.try_send("one").expect("somebody waits");
        sender.try_send("two").expect("somebody waits");
        assert_eq!(parked.wait().expect("it came").payload, b"one");
        child.ok();
        // The ring itself is not for messages.
        let ring = rustix::io::dup(&driver).expect("a descriptor");
        let error = driver
            .attach(sender)
            .send_files("ring", vec![ring], 0, LONG)
            .wait();
        let error = error.expect_err("a file of io_uring");
        assert_eq!(error.error.errno, Some(postbox::Errno::INVAL));
        settle(&driver);
    });
}

/// Processes are killed at random with receives under way: each message is received by a process that
/// lives, or by one that had it when it was killed.
#[test]
fn storm_of_kills() {
    isolated(|| {
        let mut rng = Rng::from_env("uring::storm_of_kills");
        let total = scaled(2000) as u64;
        let (sender, receiver) = split(16);
        let ledger = postbox_tests::Ledger::new(total as usize + 1);
        use std::sync::atomic::Ordering::SeqCst;
        let worker = |sort: crate::Sort| {
            let (receiver, ledger) = (&receiver, &ledger);
            spawn(move || {
                let driver = sort.driver();
                let attached = driver.attach(receiver.try_clone().expect("a descriptor"));
                receiver_of(receiver);
                let mut ops: std::collections::VecDeque<_> =
                    (0..4).map(|_| attached.take()).collect();
                loop {
                    let op = ops.pop_front().expect("there are four");
                    let Ok(delivery) = op.wait() else { return };
                    let number = u64::from_le_bytes(delivery[..8].try_into().expect("eight bytes"));
                    // The work: done at least once.
                    ledger[number as usize].fetch_add(1, SeqCst);
                    if delivery.ack().is_ok() {
                        ledger[total as usize].fetch_add(1, SeqCst);
                    }
                    ops.push_back(attached.take());
                }
            })
        };
        let producer = spawn(|| {
            for number in 0..total {
                sender
                    .send(number.to_le_bytes())
                    .expect("somebody receives");
            }
        });
        let mut workers: Vec<_> = SORTS.into_iter().map(worker).collect();
        let mut kills = 0;
        let (mut seen, mut watchdog) = (0, Watchdog::new());
        loop {
            let done = (0..total as usize)
                .filter(|n| ledger[*n].load(SeqCst) > 0)
                .count();
            if done == total as usize {
                break;
            }
            if done > seen {
                seen = done;
                watchdog.progress();
            }
            watchdog.check(|| format!("{done} of {total} after {kills} kills"));
            std::thread::sleep(std::time::Duration::from_millis(10 + rng.below(30)));
            if kills < scaled(40) {
                let place = rng.below(workers.len() as u64) as usize;
                workers.swap_remove(place).destroy();
                workers.push(worker(*rng.pick(&SORTS)));
                kills += 1;
            }
        }
        producer.ok();
        for worker in workers {
            worker.destroy();
        }
        wait_until("everything to be settled", || {
            let info = receiver.info().expect("bound");
            info.unacknowledged == 0 && info.waiting_receivers == 0
        });
        // What was done and not acknowledged is back, and nothing else.
        while let Ok(message) = receiver.try_recv() {
            assert!(message.redelivered);
        }
    });
}

/// The child's copy of the handle that it does not use.
fn receiver_of(receiver: &Receiver) {
    // SAFETY: A child of `spawn` never drops what it shares with its parent, and does not use this.
    check("close", unsafe { libc::close(receiver.as_raw_fd()) });
}

#[test]
fn values_dropped_in_forked_child_stay_with_parent() {
    isolated(|| {
        let driver = Sort::Plain.driver();
        let (sender, receiver) = split(4);
        let (sending, receiving) = (driver.attach(sender), driver.attach(receiver));
        sending.send("job").wait().expect("there is room");
        let call = sending.call("question");
        driver.submit().expect("the ring works");
        let job = receiving.take().wait().expect("it is there");
        let request = receiving.recv_request().wait().expect("it is there");
        let room = sending
            .reserve(8, Wait::Never)
            .wait()
            .expect("there is room");
        let held = Cell::new(Some((job, request, room)));
        let child = spawn(|| drop(held.take()));
        assert_eq!(child.wait(), Exit::Code(0));
        let (job, request, room) = held.take().expect("the parent has its own");
        room.send("reserved", 0).expect("the room is there");
        request.reply_now("answer").expect("it is the parent's");
        assert_eq!(&*call.wait().expect("it was answered"), b"answer");
        assert_eq!(&*job.ack().expect("it is the parent's"), b"job");
    });
}

#[test]
fn operations_begun_before_fork_end_in_child() {
    isolated(|| {
        let driver = Sort::Plain.driver();
        let (sender, receiver) = split(4);
        let attached = driver.attach(receiver);
        let buffers = driver.buffers(4, 64).expect("there is memory");
        let mut stream = attached.messages(&buffers);
        let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
        assert!(stream.poll_next(context).is_pending());
        let (waited, awaited) = (
            Cell::new(Some(attached.recv())),
            Cell::new(Some(attached.take())),
        );
        driver.submit().expect("the ring works");
        let child = spawn(|| {
            let op = waited.take().expect("a copy");
            assert!(op.is_done());
            assert_eq!(kind(op.wait()), ErrorKind::Unsupported);
            let op = awaited.take().expect("a copy");
            assert_eq!(kind(driver.block_on(op)), ErrorKind::Unsupported);
            let next = stream.wait_next().expect("an error comes first");
            assert_eq!(kind(next), ErrorKind::Unsupported);
            assert!(stream.wait_next().is_none());
        });
        assert_eq!(child.wait(), Exit::Code(0));
        // The parent's go on.
        for number in 0..3u8 {
            sender.send([number]).expect("there is room");
        }
        let first = stream.wait_next().expect("it goes on").expect("it came");
        let second = waited.take().expect("it is there").wait().expect("it came");
        let third = awaited
            .take()
            .expect("it is there")
            .wait()
            .expect("it came");
        assert_eq!((first[0], second[0], third[0]), (0, 1, 2));
        third.ack().expect("it is ours");
    });
}

#[test]
fn operations_of_an_ended_single_issuer_fail() {
    let (sender, receiver) = split(4);
    let made = std::thread::spawn(move || {
        let driver = Sort::Single.driver();
        let attached = driver.attach(receiver);
        let begun = attached.recv();
        (driver, attached, begun)
    });
    let (driver, attached, begun) = made.join().expect("it does not panic");
    assert_eq!(kind(begun.wait()), ErrorKind::Unsupported);
    sender.send("there").expect("there is room");
    let late = attached.recv_with(Wait::Timeout(std::time::Duration::from_millis(500)));
    assert_eq!(kind(late.wait()), ErrorKind::Unsupported);
    assert_eq!(driver.pending(), 0);
    assert_eq!(attached.handle().info().expect("bound").messages, 1);
}

#[test]
fn fixed_handle_dropped_by_another_thread_is_closed_by_issuer() {
    let driver = Sort::Single.driver();
    let (sender, receiver) = split(4);
    let attached = driver.attach_fixed(receiver).expect("there is a place");
    std::thread::spawn(move || drop(attached))
        .join()
        .expect("it does not panic");
    driver.turn(Wait::Never).expect("the ring works");
    wait_until("the receiver to go", || {
        sender
            .try_send("x")
            .is_err_and(|error| error.error.is_disconnected())
    });
    // All places are free again.
    let (_sender, receiver) = split(4);
    let all: Vec<_> = (0..8)
        .map(|_| driver.attach_fixed(receiver.try_clone().expect("a descriptor")))
        .collect();
    assert!(all.iter().all(Result::is_ok));
}
