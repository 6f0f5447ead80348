//! Poll masks are true at every moment; epoll, level and edge; read() and write().

use postbox_tests::LONG;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT};
use postbox::{raw, sys};
use postbox_tests::*;
use rustix::event::epoll;

/// What poll must say of a handle, from what non-blocking calls find.
#[track_caller]
fn exact(tx: &Handle, rx: &Handle, what: &str) {
    // A receive into nothing tells what is there and takes nothing (there are no empty messages in these tests).
    let readable = match rx.recv_room(0, NEVER) {
        Err(Errno::MSGSIZE) => POLLIN,
        Err(Errno::AGAIN) => 0,
        Err(Errno::PIPE) => POLLHUP,
        other => panic!("{what}: receive: {other:?}"),
    };
    // As a reservation does of the room.
    let writable = match tx.reserve(1, NEVER) {
        Ok(()) => {
            tx.cancel(1).expect("just reserved");
            POLLOUT
        }
        Err(Errno::AGAIN) => 0,
        Err(Errno::PIPE) => POLLERR,
        other => panic!("{what}: reserve: {other:?}"),
    };
    assert_eq!((tx.ready(), rx.ready()), (writable, readable), "{what}");
}

#[test]
fn poll_is_true_in_every_state() {
    isolated(|| {
        let make = Make {
            capacity: 2,
            capacity_bytes: 10,
            ..Make::default()
        };
        let name = unique("poll");
        let mailbox = make.open(name.as_str()).expect("new");
        let (tx, rx, admin) = (
            mailbox.sender(),
            mailbox.receiver(),
            Handle::open(&name, ADMIN).expect("ours"),
        );
        let says = |tx_says: i16, rx_says: i16, what: &str| {
            assert_eq!((tx.ready(), rx.ready()), (tx_says, rx_says), "{what}");
            assert_eq!(
                mailbox.ready(),
                tx_says | rx_says,
                "{what}: with both rights"
            );
            assert_eq!(admin.ready(), 0, "{what}: with neither");
            exact(&tx, &rx, what);
        };
        says(POLLOUT, 0, "empty");
        tx.put("1");
        says(POLLOUT, POLLIN, "one of two");
        tx.put("2");
        says(0, POLLIN, "full");
        let one = rx.take(NEVER).expect("sent");
        says(0, POLLIN, "one taken, which keeps its room");
        let two = rx.take(NEVER).expect("sent");
        says(0, 0, "both taken");
        rx.ack(one.token).expect("ours");
        says(POLLOUT, 0, "one acknowledged");
        rx.requeue(two.token).expect("ours");
        says(POLLOUT, POLLIN, "one given back");
        tx.reserve(1, NEVER).expect("room");
        says(0, POLLIN, "the rest reserved");
        tx.send_reserved("3", 1).expect("reserved");
        says(0, POLLIN, "the reservation used");
        assert_eq!([rx.get(), rx.get()], ["2", "3"]);
        says(POLLOUT, 0, "drained");
        tx.put("ten bytes.");
        says(0, POLLIN, "full by bytes");
        assert_eq!(rx.get(), "ten bytes.");
        tx.put("9 bytes..");
        says(POLLOUT, POLLIN, "room for one byte");
        assert_eq!(rx.get(), "9 bytes..");
    });
}

#[test]
fn poll_is_true_when_a_side_is_gone() {
    isolated(|| {
        let name = unique("poll");
        let (tx, rx) = Handle::create(&name, 2).split();
        tx.put("1");
        drop(tx);
        assert_eq!(rx.ready(), POLLIN, "there is something to drain");
        let one = rx.take(NEVER).expect("sent");
        assert_eq!(rx.ready(), 0, "it may come back");
        rx.requeue(one.token).expect("ours");
        assert_eq!(rx.ready(), POLLIN);
        let one = rx.take(NEVER).expect("back");
        rx.ack(one.token).expect("ours");
        assert_eq!(rx.ready(), POLLHUP);
        let tx = Handle::open(&name, SEND).expect("it is there");
        assert_eq!((tx.ready(), rx.ready()), (POLLOUT, 0), "a new sender");
        tx.put_all(["1", "2"]);
        drop(rx);
        assert_eq!(tx.ready(), POLLERR, "the last receiver is gone");
        let rx = Handle::open(&name, RECEIVE).expect("it is there");
        assert_eq!(
            (tx.ready(), rx.ready()),
            (0, POLLIN),
            "a new receiver, and full"
        );
        assert_eq!(Handle::unbound().ready() & (POLLIN | POLLOUT | POLLHUP), 0);
    });
}

#[test]
fn poll_agrees_with_the_calls_after_anything() {
    isolated(|| {
        let mut rng = Rng::from_env("poll");
        for capacity in [1, 3, UNBOUNDED] {
            let name = unique("poll");
            let make = Make {
                capacity,
                capacity_bytes: 40,
                ..Make::default()
            };
            let admin = Make {
                rights: ADMIN,
                ..make
            }
            .open(name.as_str())
            .expect("new");
            let (mut tx, mut rx) = (
                Handle::open(&name, SEND).expect("there"),
                Handle::open(&name, RECEIVE).expect("there"),
            );
            let mut taken = Vec::new();
            for step in 0..250 {
                let what = rng.below(12);
                match what {
                    0..4 => drop(tx.send(vec![1; 1 + rng.below(20) as usize], NEVER)),
                    4..6 => drop(rx.recv(NEVER)),
                    6..8 => taken.extend(rx.take(NEVER).map(|got| got.token)),
                    8 => drop(taken.pop().map(|token| rx.ack(token).expect("ours"))),
                    9 => drop(taken.pop().map(|token| rx.requeue(token).expect("ours"))),
                    10 => {
                        // Away, and back.
                        drop(tx);
                        assert_eq!(
                            rx.ready() & POLLHUP != 0,
                            rx.recv_room(0, NEVER) == Err(Errno::PIPE)
                        );
                        tx = Handle::open(&name, SEND).expect("there");
                    }
                    _ => {
                        drop(rx);
                        taken.clear();
                        assert_eq!(tx.ready(), POLLERR);
                        rx = Handle::open(&name, RECEIVE).expect("there");
                    }
                }
                exact(
                    &tx,
                    &rx,
                    &format!(
                        "capacity {capacity}, step {step} ({what}), {:?}",
                        admin.info()
                    ),
                );
            }
        }
    });
}

/// Waits in poll in a child, and checks that it ends with these events after `change`.
fn woken(handle: &Handle, events: i16, expected: i16, change: impl FnOnce()) {
    let child = spawn(|| assert_eq!(poll(handle, events, LONG), expected));
    child.wait_asleep();
    assert!(
        child.running(),
        "poll for {events:#x} returned before anything changed"
    );
    change();
    child.ok();
}

#[test]
fn poll_wakes_when_the_state_changes() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        let (tx, rx) = (mailbox.sender(), mailbox.receiver());
        woken(&rx, POLLIN, POLLIN, || tx.put("x"));
        woken(&tx, POLLOUT, POLLOUT, || {
            drop(rx.recv(NEVER).expect("sent"))
        });
        tx.put("x");
        let job = rx.take(NEVER).expect("sent");
        woken(&tx, POLLOUT, POLLOUT, || rx.ack(job.token).expect("ours"));
        tx.put("x");
        let job = rx.take(NEVER).expect("sent");
        woken(&rx, POLLIN, POLLIN, || rx.requeue(job.token).expect("ours"));
        let second = mailbox.receiver();
        second.take(NEVER).expect("back");
        let child = spawn(|| {
            second.close_copy();
            assert_eq!(poll(&rx, POLLIN, LONG), POLLIN);
        });
        child.wait_asleep();
        drop(second);
        child.ok();
        rx.get();
        tx.reserve(1, NEVER).expect("room");
        woken(&mailbox, POLLOUT, POLLOUT, || {
            tx.cancel(1).expect("reserved")
        });
        tx.reserve(1, NEVER).expect("room");
        woken(&rx, POLLIN, POLLIN, || {
            tx.send_reserved("x", 1).expect("reserved")
        });
        let waiting = spawn(|| tx.send("y", FOREVER).expect("room comes"));
        tx.wait_senders(1);
        assert_eq!(rx.get(), "x");
        waiting.ok();
        assert_eq!(rx.ready(), POLLIN, "who waited for room is in");
    });
}

#[test]
fn poll_wakes_when_the_other_side_goes() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(1).split();
        let child = spawn(|| {
            tx.close_copy();
            assert_eq!(poll(&rx, POLLIN, LONG), POLLHUP);
        });
        child.wait_asleep();
        drop(tx);
        child.ok();

        let (tx, rx) = Handle::anonymous(1).split();
        tx.put("fills it");
        let child = spawn(|| {
            rx.close_copy();
            assert_eq!(poll(&tx, POLLOUT, LONG), POLLERR);
        });
        child.wait_asleep();
        drop(rx);
        child.ok();
    });
}

#[test]
fn poll_on_a_rendezvous_wakes_each_side_for_the_other() {
    isolated(|| {
        let mailbox = Handle::anonymous(0);
        let (tx, rx) = (mailbox.sender(), mailbox.receiver());
        let mut other = None;
        woken(&tx, POLLOUT, POLLOUT, || {
            other = Some(spawn(|| drop(rx.recv(FOREVER).expect("it comes"))))
        });
        tx.put("x");
        other.take().expect("started").ok();
        woken(&rx, POLLIN, POLLIN, || {
            other = Some(spawn(|| tx.send("y", FOREVER).expect("a receiver comes")))
        });
        assert_eq!(rx.get(), "y");
        other.take().expect("started").ok();
        assert_eq!((tx.ready(), rx.ready()), (0, 0));
    });
}

fn epoll_of(handle: &Handle, flags: epoll::EventFlags) -> OwnedFd {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    epoll::add(&epoll, handle, epoll::EventData::new_u64(7), flags).expect("it can be polled");
    epoll
}

/// The events that epoll reports within a time.
fn events(epoll: impl AsFd, ms: i64) -> Option<u32> {
    let mut list = [epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }; 4];
    let timeout = rustix::event::Timespec {
        tv_sec: ms / 1000,
        tv_nsec: ms % 1000 * 1_000_000,
    };
    match epoll::wait(epoll, &mut list, Some(&timeout)).expect("epoll waits") {
        0 => None,
        n => {
            assert_eq!((n, list[0].data.u64()), (1, 7));
            let flags = list[0].flags;
            Some(flags.bits())
        }
    }
}

const IN: u32 = POLLIN as u32;
const OUT: u32 = POLLOUT as u32;

#[test]
fn epoll_level_triggered() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(2).split();
        let watch = epoll_of(&rx, epoll::EventFlags::IN);
        let room = epoll_of(&tx, epoll::EventFlags::OUT);
        assert_eq!((events(&watch, 0), events(&room, 0)), (None, Some(OUT)));
        tx.put_all(["1", "2"]);
        for _ in 0..3 {
            assert_eq!(
                (events(&watch, 0), events(&room, 0)),
                (Some(IN), None),
                "for as long as it holds"
            );
        }
        rx.recv(NEVER).expect("sent");
        assert_eq!((events(&watch, 0), events(&room, 0)), (Some(IN), Some(OUT)));
        rx.recv(NEVER).expect("sent");
        assert_eq!(events(&watch, 0), None);
        drop(tx);
        assert_eq!(events(&watch, 0), Some(POLLHUP as u32));
    });
}

#[test]
fn epoll_edge_triggered_tells_of_every_arrival() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(4).split();
        let watch = epoll_of(&rx, epoll::EventFlags::IN | epoll::EventFlags::ET);
        assert_eq!(events(&watch, 0), None);
        tx.put("1");
        assert_eq!(events(&watch, 0), Some(IN));
        assert_eq!(events(&watch, 0), None, "nothing new");
        tx.put("2");
        assert_eq!(
            events(&watch, 0),
            Some(IN),
            "a further message is an edge, though one was there"
        );
        rx.get();
        assert_eq!(events(&watch, 0), None, "one less is not");
        rx.get();
        // Registered when something is there: that counts as an edge.
        tx.put("3");
        assert_eq!(
            events(
                epoll_of(&rx, epoll::EventFlags::IN | epoll::EventFlags::ET),
                0
            ),
            Some(IN)
        );
        rx.get();
        events(&watch, 0);
        let waiting = spawn(|| assert_eq!(events(&watch, 60_000), Some(IN)));
        waiting.wait_asleep();
        tx.put("4");
        waiting.ok();
    });
}

#[test]
fn epoll_edge_triggered_tells_of_room() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(1).split();
        let watch = epoll_of(&tx, epoll::EventFlags::OUT | epoll::EventFlags::ET);
        assert_eq!(events(&watch, 0), Some(OUT));
        for _ in 0..3 {
            // As an asynchronous sender does it: send until it is full, wait for the edge, go on.
            tx.put("x");
            assert_eq!(tx.send("y", NEVER), Err(Errno::AGAIN));
            assert_eq!(events(&watch, 0), None);
            rx.get();
            assert_eq!(events(&watch, 0), Some(OUT));
        }
        let job = {
            tx.put("x");
            rx.take(NEVER).expect("sent")
        };
        assert_eq!(events(&watch, 0), None);
        rx.ack(job.token).expect("ours");
        assert_eq!(events(&watch, 0), Some(OUT));
    });
}

#[test]
fn epoll_edge_triggered_loses_no_message_in_a_loop() {
    isolated(|| {
        const COUNT: u32 = 400;
        let (tx, rx) = Handle::anonymous(3).split();
        let sender = spawn(|| {
            rx.close_copy();
            (0..COUNT).for_each(|i| tx.send(i.to_le_bytes(), FOREVER).expect("it is received"));
        });
        drop(tx);
        let watch = epoll_of(&rx, epoll::EventFlags::IN | epoll::EventFlags::ET);
        let mut next = 0;
        'ended: loop {
            assert!(
                events(&watch, 60_000).is_some(),
                "an edge was lost after {next} messages"
            );
            loop {
                match rx.recv(NEVER) {
                    Ok(got) => {
                        assert_eq!(got.data, u32::to_le_bytes(next));
                        next += 1;
                    }
                    Err(Errno::AGAIN) => break,
                    Err(Errno::PIPE) => break 'ended,
                    Err(e) => panic!("receive: {e}"),
                }
            }
        }
        assert_eq!(next, COUNT);
        sender.ok();
    });
}

/// Children that each wait in an epoll of their own for the same handle, with EPOLLEXCLUSIVE.
fn exclusive(tx: &Handle, rx: &Handle, n: usize) -> Vec<Child> {
    (0..n)
        .map(|_| {
            let child = spawn(|| {
                tx.close_copy();
                let watch = epoll_of(rx, epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE);
                assert!(events(&watch, LONG.as_millis() as i64).is_some());
            });
            child.wait_asleep();
            child
        })
        .collect()
}

fn asleep_in_epoll(children: &[Child]) -> usize {
    children.iter().filter(|child| child.running()).count()
}

#[test]
fn epoll_exclusive_wakes_one_for_a_message() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(8).split();
        let children = exclusive(&tx, &rx, 4);
        // A child sleeps for the first time somewhere before epoll_wait, perhaps; give it the time to get there.
        std::thread::sleep(Duration::from_millis(300));
        for served in 1..=2 {
            tx.put("x");
            wait_until("one to be woken", || {
                asleep_in_epoll(&children) <= 4 - served
            });
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(
                asleep_in_epoll(&children),
                4 - served,
                "one message, one wake-up"
            );
        }
    });
}

#[test]
fn epoll_exclusive_tells_everybody_of_the_end() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(8).split();
        let children = exclusive(&tx, &rx, 4);
        drop(tx);
        // It is no message that one of them could take care of.
        children.into_iter().for_each(Child::ok);
    });
}

#[test]
fn epoll_exclusive_wakes_who_waits_for_that() {
    isolated(|| {
        // Through one handle, and so on the same wait queues, in this order.
        let mailbox = Handle::anonymous(1);
        let wait = |flags, seen| {
            let watch = epoll_of(&mailbox, flags | epoll::EventFlags::EXCLUSIVE);
            let ms = LONG.as_millis() as i64;
            let child = spawn(|| assert_eq!(events(&watch, ms), Some(seen)));
            child.wait_asleep();
            child
        };
        let [reads, writes] = [(epoll::EventFlags::IN, IN), (epoll::EventFlags::OUT, OUT)];
        for order in [[reads, writes], [writes, reads]] {
            // As long as it is taken and not acknowledged there is nothing to read, and no room.
            mailbox.put("x");
            let token = mailbox.take(NEVER).expect("sent").token;
            let mut children = order.map(|(flags, seen)| wait(flags, seen));
            if order[0].1 == OUT {
                children.reverse();
            }
            let [reads, writes] = children;
            mailbox.ack(token).expect("ours");
            writes.ok();
            assert!(reads.running());
            mailbox.put("y");
            reads.ok();
            assert_eq!(mailbox.get(), "y");
        }
    });
}

#[test]
fn a_poller_that_goes_away_leaves_nothing() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        for _ in 0..5 {
            let poller = spawn(|| assert_eq!(poll(&mailbox, POLLIN, LONG), 0));
            poller.wait_asleep();
            poller.destroy();
        }
        let watch = epoll_of(&mailbox, epoll::EventFlags::IN);
        mailbox.put("x");
        assert_eq!(events(&watch, 0), Some(IN));
        // The epoll outlives the handle.
        drop(mailbox);
        assert_eq!(events(&watch, 0), None);
    });
}

#[test]
fn read_and_write_move_one_message_each() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(4).split();
        let mut buffer = [0u8; 16];
        assert_eq!(rustix::io::write(&tx, b"one"), Ok(3));
        tx.send_priority("two", 1, NEVER).expect("room");
        assert_eq!(rustix::io::write(&tx, b""), Ok(0));
        assert_eq!(rx.info().messages, 3);
        assert_eq!(rustix::io::read(&rx, &mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"two");
        assert_eq!(
            rustix::io::read(&rx, &mut buffer[..2]),
            Err(Errno::MSGSIZE),
            "it stays"
        );
        assert_eq!(rustix::io::read(&rx, &mut buffer[..3]), Ok(3));
        assert_eq!(&buffer[..3], b"one");
        let empty = rx.recv(NEVER).expect("an empty message is one");
        assert_eq!((empty.data.len(), empty.priority), (0, 0));
        assert_eq!(rustix::io::write(&tx, b"last"), Ok(4));
        drop(tx);
        assert_eq!(rustix::io::read(&rx, &mut buffer), Ok(4));
        assert_eq!(rustix::io::read(&rx, &mut buffer), Ok(0), "the end");
    });
}

#[test]
fn write_after_the_last_receiver_is_an_error_and_no_signal() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(4).split();
        drop(rx);
        // SAFETY: no pointers. The test runner ignores SIGPIPE; here it would end the process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        assert_eq!(rustix::io::write(&tx, b"x"), Err(Errno::PIPE));
    });
}

#[test]
fn readv_and_writev_gather_and_scatter_one_message() {
    isolated(|| {
        use std::io::{IoSlice, IoSliceMut};
        let mailbox = Handle::anonymous(4);
        let parts = [b"sca".as_slice(), b"", b"ttered"];
        assert_eq!(
            rustix::io::writev(&mailbox, &parts.map(IoSlice::new)),
            Ok(9)
        );
        assert_eq!(mailbox.info().messages, 1);
        let (mut a, mut b) = ([0u8; 5], [0u8; 10]);
        let into = |a: &mut [u8], b: &mut [u8]| {
            rustix::io::readv(&mailbox, &mut [IoSliceMut::new(a), IoSliceMut::new(b)])
        };
        assert_eq!(into(&mut a[..2], &mut b[..2]), Err(Errno::MSGSIZE));
        assert_eq!(into(&mut a, &mut b), Ok(9));
        assert_eq!((&a, &b[..4]), (b"scatt", b"ered".as_slice()));
    });
}

#[test]
fn positions_do_not_exist() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        assert_eq!(
            rustix::fs::seek(&mailbox, rustix::fs::SeekFrom::Start(0)),
            Err(Errno::SPIPE)
        );
        assert_eq!(rustix::io::pwrite(&mailbox, b"x", 0), Err(Errno::SPIPE));
        assert_eq!(
            rustix::io::pread(&mailbox, &mut [0; 8], 0),
            Err(Errno::SPIPE)
        );
        mailbox.put("x");
        let args = sys::postbox_recv {
            flags: NEVER.0,
            ..Default::default()
        };
        assert_eq!(raw::recv(&mailbox, &mut [0; 8], &mut { args }), Ok(1));
    });
}
