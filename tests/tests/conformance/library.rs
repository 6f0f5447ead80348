//! The library's types, with the module behind them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use postbox::{
    Admin, Capacity, Error, ErrorKind, Mailbox, Message, Options, PollFlags, Receiver, Rights,
    Sender, Wait,
};
use postbox_tests::{
    ALICE, BOB, Gate, Handle, LONG, Ledger, fresh_user, handle_signal, isolated, scope,
    sleep_forever, spawn, spawn_as, unique,
};

fn bounded(messages: u64) -> Mailbox {
    Mailbox::options()
        .capacity(Capacity::Bounded(messages))
        .anonymous()
        .expect("a mailbox without a name can be made")
}

fn kind<T>(result: Result<T, impl Into<Error>>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.into().kind,
    }
}

#[test]
fn the_forms_of_send_and_receive() {
    isolated(|| {
        let mailbox = bounded(2);
        let soon = || Instant::now() + Duration::from_millis(10);
        mailbox.send("one").expect("room");
        mailbox.try_send(String::from("two")).expect("room");
        let full = mailbox.try_send(vec![3, 3]).expect_err("it is full");
        assert!(full.error.is_full());
        assert_eq!(full.payload, [3, 3], "the payload comes back");
        assert!(
            mailbox
                .send_timeout("x", Duration::from_millis(5))
                .expect_err("full")
                .error
                .is_timeout()
        );
        assert!(
            mailbox
                .send_deadline([1u8; 3], soon())
                .expect_err("full")
                .error
                .is_timeout()
        );
        let realtime = Wait::RealtimeDeadline(SystemTime::now() + Duration::from_millis(5));
        assert!(
            mailbox
                .send_with("x", 0, realtime)
                .expect_err("full")
                .error
                .is_timeout()
        );

        let one = mailbox.recv().expect("sent");
        assert_eq!(
            (&*one, one.priority, one.redelivered),
            (b"one".as_slice(), 0, false)
        );
        assert_eq!(one.sender.pid, std::process::id());
        assert_eq!(
            Vec::from(mailbox.recv_timeout(Duration::ZERO).expect("sent")),
            b"two"
        );
        assert!(mailbox.try_recv().expect_err("empty").is_empty());
        assert!(
            mailbox
                .recv_timeout(Duration::from_millis(5))
                .expect_err("empty")
                .is_timeout()
        );
        assert!(
            mailbox
                .recv_deadline(soon())
                .expect_err("empty")
                .is_timeout()
        );
        assert!(mailbox.recv_with(realtime).expect_err("empty").is_timeout());
        assert_eq!(
            kind(mailbox.recv_deadline(Instant::now() - Duration::from_secs(1))),
            ErrorKind::Timeout
        );

        mailbox.send_with("urgent", 7, Wait::Forever).expect("room");
        assert_eq!(mailbox.recv_with(Wait::Never).expect("sent").priority, 7);
        assert_eq!(
            kind(mailbox.send_with("x", 40_000, Wait::Never)),
            ErrorKind::Os
        );
    });
}

#[test]
fn receiving_into_a_buffer() {
    isolated(|| {
        let mailbox = bounded(2);
        mailbox.send("five!").expect("room");
        let mut buffer = [0; 8];
        let error = mailbox.recv_into(&mut buffer[..3]).expect_err("too small");
        assert_eq!(error.kind, ErrorKind::TooLarge { len: 5, limit: 3 });
        let received = mailbox.try_recv_into(&mut buffer).expect("it stayed");
        assert_eq!((received.len, &buffer[..5]), (5, b"five!".as_slice()));
        assert_eq!(received.sender.pid, std::process::id());
        assert!(
            mailbox
                .try_recv_into(&mut buffer)
                .expect_err("empty")
                .is_empty()
        );
        assert!(
            mailbox
                .recv_into_timeout(&mut buffer, Duration::ZERO)
                .expect_err("empty")
                .is_timeout()
        );
        assert!(
            mailbox
                .recv_into_deadline(&mut buffer, Instant::now())
                .expect_err("empty")
                .is_timeout()
        );
        mailbox.send("").expect("room");
        assert_eq!(mailbox.recv_into(&mut []).expect("an empty message").len, 0);
    });
}

#[test]
fn messages_of_any_size_arrive_and_the_buffer_grows_by_itself() {
    isolated(|| {
        let mailbox = bounded(16);
        for size in [0, 1, 4096, 4097, 100_000, 1_000_000, 10, 70_000, 0] {
            let payload: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
            mailbox.send(&payload).expect("room");
            assert!(
                mailbox.recv().expect("sent").payload == payload,
                "{size} bytes"
            );
            // Waiting when it comes.
            let receiver = spawn(|| {
                let mine = Receiver::try_from(OwnedFd::from(mailbox.receiver().expect("it may")))
                    .expect("a receiver");
                assert!(mine.recv().expect("it comes").payload == payload);
            });
            postbox_tests::wait_until("the receiver", || {
                mailbox.info().expect("bound").waiting_receivers == 1
            });
            mailbox.send(&payload).expect("room");
            receiver.ok();
        }
        let sizes = [10, 50_000, 0, 300_000, 5];
        for size in sizes {
            mailbox.send(vec![9; size]).expect("room");
        }
        let mut messages = Vec::new();
        while messages.len() < sizes.len() {
            let before = messages.len();
            let n = mailbox
                .recv_many(&mut messages, 3, Wait::Never)
                .expect("there are more");
            assert!((1..=3).contains(&n) && messages.len() == before + n);
        }
        assert_eq!(
            messages
                .iter()
                .map(|m: &Message| m.len())
                .collect::<Vec<_>>(),
            sizes
        );
    });
}

#[test]
fn batches_of_any_length() {
    isolated(|| {
        let mailbox = Mailbox::options()
            .capacity(Capacity::Unbounded)
            .anonymous()
            .expect("new");
        let payloads: Vec<[u8; 4]> = (0..2500u32).map(u32::to_le_bytes).collect();
        mailbox
            .send_many(&payloads, 3, Wait::Never)
            .expect("there is always room");
        mailbox
            .send_many::<&str>(&[], 0, Wait::Forever)
            .expect("nothing to do");
        let mut messages = Vec::new();
        assert_eq!(
            mailbox
                .recv_many(&mut messages, 0, Wait::Forever)
                .expect("nothing to do"),
            0
        );
        while messages.len() < payloads.len() {
            mailbox
                .recv_many(&mut messages, 5000, Wait::Never)
                .expect("there are more");
        }
        assert!(
            messages
                .iter()
                .map(|m| &m.payload[..])
                .eq(payloads.iter().map(|p| &p[..]))
        );
        assert_eq!(
            kind(mailbox.recv_many(&mut messages, 1, Wait::Never)),
            ErrorKind::Empty
        );

        let small = bounded(3);
        let error = small
            .send_many(&["a", "b", "c", "d", "e"], 0, Wait::Never)
            .expect_err("three fit");
        assert_eq!((error.sent, error.error.kind), (3, ErrorKind::Full));
        let error = small
            .send_many(&["d"], 0, Wait::Timeout(Duration::from_millis(5)))
            .expect_err("full");
        assert_eq!((error.sent, error.error.kind), (0, ErrorKind::Timeout));
    });
}

#[test]
fn taking_settling_and_dropping() {
    isolated(|| {
        let mailbox = bounded(8);
        mailbox
            .send_many(&["a", "b", "c", "d"], 0, Wait::Never)
            .expect("room");
        let a = mailbox.take().expect("sent");
        assert_eq!((&a[..], a.redelivered), (b"a".as_slice(), false));
        assert_eq!(a.ack().expect("ours").payload, b"a");
        mailbox.try_take().expect("sent").requeue().expect("ours");
        let b = mailbox.take_timeout(Duration::ZERO).expect("back");
        assert!(b.redelivered && b.payload == b"b");
        drop(b);
        let b = mailbox
            .take_deadline(Instant::now())
            .expect("dropping gives it back");
        assert!(b.redelivered && b.payload == b"b");
        let rest = mailbox
            .take_many(10, Wait::Forever)
            .expect("there are more");
        assert_eq!(
            rest.iter()
                .map(|d| d.payload.as_slice())
                .collect::<Vec<_>>(),
            [b"c", b"d"]
        );
        assert!(mailbox.try_take().expect_err("all taken").is_empty());
        drop(rest);
        b.ack().expect("ours");
        assert_eq!(mailbox.info().expect("bound").messages, 2);
        assert_eq!(
            [
                mailbox.recv().expect("c").payload,
                mailbox.recv().expect("d").payload
            ],
            [b"c", b"d"]
        );
        assert!(
            mailbox
                .take_with(Wait::Never)
                .expect_err("empty")
                .is_empty()
        );
    });
}

#[test]
fn a_job_survives_the_worker() {
    isolated(|| {
        let mailbox = bounded(8);
        mailbox.send("job").expect("room");
        let taken = Gate::new();
        let worker = spawn(|| {
            let _job = mailbox.take().expect("sent");
            taken.open(1);
            sleep_forever();
        });
        taken.pass();
        worker.destroy();
        let job = mailbox.take().expect("it came back");
        assert!(job.redelivered);
        job.ack().expect("ours");
    });
}

#[test]
fn permits() {
    isolated(|| {
        let mailbox = bounded(2);
        let permit = mailbox.reserve(10).expect("room");
        let second = mailbox.try_reserve(10).expect("room");
        assert_eq!(kind(mailbox.try_reserve(1)), ErrorKind::Full);
        assert_eq!(
            kind(mailbox.reserve_timeout(1, Duration::from_millis(5))),
            ErrorKind::Timeout
        );
        assert_eq!(
            kind(mailbox.reserve_deadline(1, Instant::now())),
            ErrorKind::Timeout
        );
        assert!(mailbox.try_send("x").expect_err("reserved").error.is_full());
        permit
            .send_with_priority("ten bytes!", 4)
            .expect("reserved");
        let error = second.send("eleven byte").expect_err("too much");
        assert_eq!(error.error.kind, ErrorKind::TooLarge { len: 11, limit: 10 });
        assert_eq!(
            mailbox.info().expect("bound").reserved_messages,
            0,
            "the room was given back"
        );
        drop(mailbox.reserve(5).expect("room"));
        mailbox.try_send("room again").expect("given back");
        assert_eq!(mailbox.recv().expect("sent").priority, 4);
        let rendezvous = Mailbox::options()
            .capacity(Capacity::Rendezvous)
            .anonymous()
            .expect("new");
        assert_eq!(kind(rendezvous.reserve(1)), ErrorKind::Unsupported);
    });
}

#[test]
fn iterators_end_with_the_stream() {
    isolated(|| {
        let mailbox = bounded(8);
        mailbox
            .send_many(&["1", "2", "3"], 0, Wait::Never)
            .expect("room");
        let text = |message: postbox::Result<Message>| {
            String::from_utf8(message.expect("good").into()).expect("text")
        };
        assert_eq!(
            mailbox.try_iter().take(2).map(text).collect::<Vec<_>>(),
            ["1", "2"]
        );
        assert_eq!(mailbox.try_iter().map(text).collect::<Vec<_>>(), ["3"]);
        assert_eq!(mailbox.try_iter().count(), 0);
        let (sender, receiver) = mailbox.split().expect("two handles");
        let producer = spawn(|| {
            for i in 0..5 {
                sender.send(i.to_string()).expect("room");
            }
        });
        producer.ok();
        drop(sender);
        let mut got = Vec::new();
        for message in &receiver {
            got.push(text(message));
        }
        assert_eq!(got, ["0", "1", "2", "3", "4"]);
        assert!(receiver.recv().expect_err("the end").is_disconnected());
        assert_eq!(receiver.iter().count(), 0);
        assert_eq!(receiver.into_iter().count(), 0);
    });
}

#[test]
fn each_side_sees_that_the_other_is_gone() {
    isolated(|| {
        let (sender, receiver) = bounded(1).split().expect("two handles");
        sender.send("fills it").expect("room");
        let blocked = spawn(|| {
            // SAFETY: this process uses the descriptor no more.
            unsafe { libc::close(receiver.as_raw_fd()) };
            let error = sender.send("waits").expect_err("the receiver goes");
            assert!(error.error.is_disconnected());
            assert_eq!(error.into_payload(), "waits");
        });
        postbox_tests::wait_until("the sender", || {
            sender.info().expect("bound").waiting_senders == 1
        });
        drop(receiver);
        blocked.ok();
        assert!(
            sender
                .try_send("x")
                .expect_err("gone")
                .error
                .is_disconnected()
        );
    });
}

#[test]
fn names_open_create_and_unlink() {
    isolated(|| {
        let name = unique("library");
        let error = Mailbox::open(&name).expect_err("it is not there");
        assert!(error.is_not_found());
        assert_eq!(error.object.as_deref(), Some(name.as_str()));
        assert!(error.to_string().contains(&name), "{error}");
        let mailbox = Mailbox::bounded(&name, 5).expect("new");
        assert_eq!(
            (mailbox.name(), mailbox.rights()),
            (Some(name.as_str()), Rights::SEND | Rights::RECEIVE)
        );
        assert_eq!(
            kind(Mailbox::options().create_new(true).open(&name)),
            ErrorKind::Exists
        );
        let (sender, receiver) = (
            Sender::open(&name).expect("there"),
            Receiver::open(&name).expect("there"),
        );
        sender.send("by name").expect("room");
        assert_eq!(receiver.recv().expect("sent").payload, b"by name");
        let info = postbox::stat(&name).expect("it is there");
        assert_eq!(
            (info.name.as_deref(), info.capacity, info.persist),
            (Some(name.as_str()), Capacity::Bounded(5), false)
        );
        assert_eq!((info.senders, info.receivers, info.sent), (2, 2, 1));
        assert!(
            postbox::list()
                .expect("it lists")
                .any(|info| info.expect("good").id == mailbox.info().expect("bound").id)
        );
        postbox::unlink(&name).expect("ours");
        assert!(postbox::unlink(&name).expect_err("gone").is_not_found());
        assert!(postbox::stat(&name).expect_err("gone").is_not_found());
        assert_eq!(
            Mailbox::rendezvous(&unique("r"))
                .expect("new")
                .info()
                .expect("bound")
                .capacity,
            Capacity::Rendezvous
        );
        assert_eq!(
            Mailbox::unbounded(&unique("u"))
                .expect("new")
                .info()
                .expect("bound")
                .capacity,
            Capacity::Unbounded
        );
        for bad in ["", "a b", "/x", &"x".repeat(64)] {
            assert_eq!(
                kind(Mailbox::bounded(bad, 1)),
                ErrorKind::InvalidName,
                "{bad:?}"
            );
        }
    });
}

#[test]
fn options_are_what_the_mailbox_gets() {
    isolated(|| {
        let name = unique("options");
        let mut options = Options::new();
        options
            .create(true)
            .capacity_bytes(1000)
            .message_max(100)
            .mode(0o640)
            .persist(true);
        let receiver = options.open_receiver(&name).expect("new");
        let info = receiver.info().expect("bound");
        assert_eq!(
            (info.capacity, info.capacity_bytes, info.message_max),
            (Capacity::Bounded(1024), Some(1000), 100)
        );
        assert_eq!(
            (info.mode, info.persist, info.rights),
            (0o640, true, Rights::RECEIVE)
        );
        drop(receiver);
        let sender = options.open_sender(&name).expect("it stays");
        let error = sender.try_send([0; 101]).expect_err("too large").error;
        assert_eq!(
            error.kind,
            ErrorKind::TooLarge {
                len: 101,
                limit: 100
            }
        );
        postbox::unlink(&name).expect("ours");
        let anonymous = Options::new().anonymous().expect("new");
        assert_eq!(
            (anonymous.name(), anonymous.info().expect("bound").name),
            (None, None)
        );
        assert_eq!(anonymous.info().expect("bound").capacity_bytes, None);
    });
}

#[test]
fn administration_and_denial() {
    isolated(|| {
        let name = unique("admin");
        let owner = spawn_as(ALICE, || {
            let mailbox = Mailbox::options()
                .create_new(true)
                .mode(0o666)
                .admin(true)
                .persist(true)
                .open(&name)
                .expect("new");
            assert!(mailbox.rights().contains(Rights::ADMIN));
            mailbox.set_mode(0o620).expect("the owner");
            assert_eq!(kind(mailbox.chown(Some(BOB.uid), None)), ErrorKind::Denied);
            mailbox.chown(None, Some(ALICE.gid)).expect("her own group");
            assert_eq!(
                kind(mailbox.receiver().expect("less").set_mode(0)),
                ErrorKind::Denied
            );
        });
        owner.ok();
        spawn_as(BOB, || {
            assert!(Receiver::open(&name).expect_err("the mode").is_denied());
            assert!(Admin::open(&name).expect_err("not the owner").is_denied());
            assert!(
                postbox::unlink(&name)
                    .expect_err("not the owner")
                    .is_denied()
            );
            assert_eq!(
                postbox::stat(&name).expect("to look needs no right").mode,
                0o620
            );
        })
        .ok();
        let admin = Admin::open(&name).expect("root");
        admin.chown(Some(BOB.uid), Some(BOB.gid)).expect("root");
        let info = admin.info().expect("bound");
        assert_eq!((info.uid, info.gid), (BOB.uid, BOB.gid));
        postbox::unlink(&name).expect("root");
    });
}

#[test]
fn handles_come_from_descriptors_that_are_what_they_say() {
    isolated(|| {
        let mailbox = bounded(2);
        let sender =
            Sender::try_from(OwnedFd::from(mailbox.sender().expect("it may"))).expect("a sender");
        sender.send("x").expect("room");
        let fd = OwnedFd::from(sender);
        let number = fd.as_raw_fd();
        let error = Receiver::try_from(fd).expect_err("a sender is no receiver");
        assert_eq!(
            (error.error.kind, error.fd.as_raw_fd()),
            (ErrorKind::WrongHandle, number)
        );
        let error = Mailbox::try_from(error.fd).expect_err("nor both");
        assert_eq!(error.error.kind, ErrorKind::WrongHandle);
        let null = OwnedFd::from(std::fs::File::open("/dev/null").expect("there is one"));
        assert_eq!(kind(Mailbox::try_from(null)), ErrorKind::WrongHandle);
        assert_eq!(
            kind(Mailbox::try_from(Handle::unbound().0)),
            ErrorKind::WrongHandle
        );
        let name = unique("adopted");
        let named = Mailbox::bounded(&name, 1).expect("new");
        let adopted = Mailbox::try_from(OwnedFd::from(named)).expect("a mailbox");
        assert_eq!(adopted.name(), Some(name.as_str()));
    });
}

#[test]
fn clones_are_handles_of_their_own() {
    isolated(|| {
        let (sender, receiver) = bounded(4).split().expect("two handles");
        let clone = sender.try_clone().expect("a second one");
        assert_eq!(receiver.info().expect("bound").senders, 2);
        drop(sender);
        assert!(receiver.try_recv().expect_err("one is left").is_empty());
        drop(clone);
        assert!(
            receiver
                .try_recv()
                .expect_err("none is left")
                .is_disconnected()
        );
    });
}

#[test]
fn readiness() {
    isolated(|| {
        let (sender, receiver) = bounded(1).split().expect("two handles");
        let now = Some(Duration::ZERO);
        assert_eq!(
            receiver.ready(PollFlags::IN, now).expect("it polls"),
            PollFlags::empty()
        );
        assert_eq!(
            sender.ready(PollFlags::OUT, now).expect("it polls"),
            PollFlags::OUT
        );
        sender.set_nonblocking(true).expect("it can be set");
        sender.send("x").expect("room");
        assert!(sender.send("y").expect_err("full").error.is_full());
        assert_eq!(
            receiver.ready(PollFlags::IN, None).expect("it polls"),
            PollFlags::IN
        );
        sender.set_nonblocking(false).expect("and taken away");
        assert!(
            sender
                .send_timeout("y", Duration::from_millis(5))
                .expect_err("full")
                .error
                .is_timeout()
        );
        drop(sender);
        receiver.recv().expect("sent");
        assert_eq!(
            receiver.ready(PollFlags::IN, None).expect("it polls"),
            PollFlags::HUP
        );
    });
}

#[test]
fn signals_neither_end_a_call_nor_make_it_longer() {
    isolated(|| {
        let mailbox = bounded(1);
        let child = spawn(|| {
            handle_signal(libc::SIGUSR1, 0);
            assert_eq!(
                mailbox.recv().expect("it comes").payload,
                b"after the signals"
            );
            let start = Instant::now();
            assert!(
                mailbox
                    .recv_timeout(Duration::from_millis(100))
                    .expect_err("empty")
                    .is_timeout()
            );
            assert!(start.elapsed() >= Duration::from_millis(100));
        });
        let waiting = || mailbox.info().expect("bound").waiting_receivers;
        for _ in 0..5 {
            postbox_tests::wait_until("it to wait", || waiting() == 1);
            child.kill(libc::SIGUSR1);
        }
        postbox_tests::wait_until("it to wait again", || waiting() == 1);
        mailbox.send("after the signals").expect("room");
        while child.running() {
            child.kill(libc::SIGUSR1);
            std::thread::sleep(Duration::from_millis(5));
        }
        child.ok();
    });
}

#[test]
fn the_sender_can_be_verified() {
    isolated(|| {
        let mailbox = bounded(2);
        let (sent, end) = (Gate::new(), Gate::new());
        let child = spawn(|| {
            mailbox.send("x").expect("room");
            sent.open(1);
            end.pass();
        });
        sent.pass();
        let sender = mailbox.recv().expect("sent").sender;
        assert_eq!(sender.pid, child.pid());
        sender.verify().expect("it lives");
        let pidfd = sender.open_pidfd().expect("it lives");
        assert!(!postbox_tests::readable(&pidfd, Duration::ZERO));
        end.open(1);
        child.ok();
        assert!(
            postbox_tests::readable(&pidfd, LONG),
            "the pidfd is that process's"
        );
        assert_eq!(kind(sender.verify()), ErrorKind::Gone);
    });
}

#[test]
fn usage_and_version() {
    isolated(|| {
        let user = fresh_user();
        spawn_as(user, || {
            let before = postbox::usage().expect("it tells");
            assert_eq!(
                (before.uid, before.messages, before.bytes, before.objects),
                (user.uid, 0, 0, 0)
            );
            let mailbox = bounded(4);
            mailbox.send("12345").expect("room");
            let usage = postbox::usage().expect("it tells");
            assert_eq!((usage.messages, usage.bytes, usage.objects), (1, 5, 1));
            assert!(usage.messages < usage.messages_max && usage.bytes < usage.bytes_max);
        })
        .ok();
        let version = postbox::version().expect("it tells");
        assert_eq!(version.abi, postbox::sys::POSTBOX_ABI);
    });
}

#[test]
fn threads_share_a_handle() {
    isolated(|| {
        let (sender, receiver) = bounded(3).split().expect("two handles");
        let seen = Ledger::new(300);
        scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for message in &receiver {
                        let bytes = Vec::from(message.expect("good"))
                            .try_into()
                            .expect("four bytes");
                        seen[u32::from_le_bytes(bytes) as usize].fetch_add(1, Relaxed);
                    }
                });
            }
            let senders = std::sync::Arc::new(sender);
            for i in 0..3u32 {
                let sender = senders.clone();
                scope.spawn(move || {
                    (0..100)
                        .for_each(|j| sender.send((i * 100 + j).to_le_bytes()).expect("received"))
                });
            }
        });
        assert!(seen.iter().all(|count| count.load(Relaxed) == 1));
    });
}

#[test]
fn reads_and_writes_are_messages() {
    use std::io::{ErrorKind as Kind, Read, Write};
    isolated(|| {
        let (sender, receiver) = bounded(4).split().expect("two handles");
        let (mut to, mut from) = (&sender, &receiver);
        to.write_all(b"first").expect("room");
        write!(&mut to, "second").expect("room");
        let mut buffer = [0; 5];
        assert_eq!(from.read(&mut buffer).expect("a message"), 5);
        assert_eq!(&buffer, b"first");
        let too_small = from.read(&mut buffer).expect_err("six bytes");
        assert_ne!(too_small.kind(), Kind::UnexpectedEof);
        assert_eq!(&*receiver.recv().expect("it stayed"), b"second");
        sender.send([]).expect("room");
        assert!(receiver.recv().expect("an empty message").is_empty());
        drop(sender);
        assert_eq!(from.read(&mut buffer).expect("the end"), 0);
    });
}
