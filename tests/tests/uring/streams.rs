//! Multishot receives and accepts: what ends them, and that nothing is lost.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use postbox::uring::Driver;
use postbox::{Capacity, ErrorKind, Link, Mailbox, Parcel, Pool, Sender, Wait};
use postbox_tests::{Rng, Watchdog, scaled, scope, unique, wait_until};

use crate::{LONG, SORTS, Sort, each, kind, settle, split, wait_receivers};

#[test]
fn messages_come_by_one_command() {
    each(|driver| {
        let (sender, receiver) = split(64);
        let receiver = driver.attach(receiver);
        let buffers = driver.buffers(16, 100).expect("there is memory");
        let mut messages = receiver.messages(&buffers);
        // What is there already, what is empty, and what comes.
        sender.send_with("there", 3, LONG).expect("there is room");
        sender.send("").expect("there is room");
        let first = messages
            .wait_next()
            .expect("it goes on")
            .expect("it is there");
        assert_eq!(
            (&*first, first.priority, first.call),
            (&b"there"[..], 3, false)
        );
        assert_eq!(first.sender.pid, std::process::id());
        first.sender.verify().expect("it is this process");
        let second = messages
            .wait_next()
            .expect("it goes on")
            .expect("it is there");
        assert!(second.is_empty());
        drop((first, second));
        for round in 0..100u8 {
            let payload = vec![round; usize::from(round)];
            sender.send(&payload).expect("there is room");
            let message = messages.wait_next().expect("it goes on").expect("it came");
            assert_eq!(*message, payload);
        }
        assert_eq!(buffers.available(), 16);
        let info = receiver.handle().info().expect("bound");
        assert_eq!((info.waiting_receivers, info.received), (1, 102));
        // The end.
        sender.send("last").expect("there is room");
        drop(sender);
        assert_eq!(
            &*messages.wait_next().expect("it goes on").expect("it came"),
            b"last"
        );
        assert!(messages.wait_next().is_none());
        assert!(messages.wait_next().is_none());
    });
}

#[test]
fn what_has_no_room_in_a_buffer_comes_on_its_own() {
    each(|driver| {
        let (sender, receiver) = split(64);
        let receiver = driver.attach(receiver);
        let buffers = driver.buffers(4, 100).expect("there is memory");
        let mut messages = receiver.messages(&buffers);
        let file = File::open("/dev/null").expect("it is there");
        sender.send([1; 100]).expect("there is room");
        sender.send([2; 101]).expect("there is room");
        sender.send([3; 5]).expect("there is room");
        sender
            .send_parcel(Parcel::new("file").attach(&file), LONG)
            .expect("there is room");
        sender.send(vec![4; 100_000]).expect("there is room");
        let expected = [
            vec![1; 100],
            vec![2; 101],
            vec![3; 5],
            b"file".to_vec(),
            vec![4; 100_000],
        ];
        for (place, payload) in expected.into_iter().enumerate() {
            let message = messages.wait_next().expect("it goes on").expect("it came");
            assert_eq!(message.files.len(), usize::from(place == 3));
            assert_eq!(message.into_message().payload, payload, "{place}");
        }
        // Leases need their pool.
        let pool = Pool::options().anonymous(2, 4096).expect("there is memory");
        let buffer = pool.loan(10).expect("a block is free");
        sender
            .send_buffer(buffer)
            .map_err(|error| error.error)
            .expect("there is room");
        sender.send("behind it").expect("there is room");
        for _ in 0..2 {
            let error = messages.wait_next().expect("it goes on");
            assert_eq!(kind(error), ErrorKind::HasBuffers);
        }
        let buffers_of = receiver.handle().recv_buffers(&pool).expect("it stayed");
        assert_eq!(buffers_of.buffers.len(), 1);
        assert_eq!(
            &*messages.wait_next().expect("it goes on").expect("it came"),
            b"behind it"
        );
    });
}

#[test]
fn exhausted_buffers_lose_nothing() {
    each(|driver| {
        let (sender, receiver) = split(64);
        let receiver = driver.attach(receiver);
        let buffers = driver.buffers(4, 16).expect("there is memory");
        let mut messages = receiver.messages(&buffers);
        for number in 0..20u8 {
            sender.send([number]).expect("there is room");
        }
        let mut next = 0;
        // All buffers are held, and given back in another order.
        while next < 20 {
            let mut held = Vec::new();
            loop {
                match messages.wait_next().expect("it goes on") {
                    Ok(message) => held.push(message),
                    Err(error) => {
                        assert_eq!(error.kind, ErrorKind::NoBuffers);
                        break;
                    }
                }
                if held.len() == 4 && next + 4 == 20 {
                    break;
                }
            }
            assert_eq!(held.len(), 4, "each buffer has one");
            for message in &held {
                assert_eq!(**message, [next]);
                next += 1;
            }
            held.reverse();
        }
        assert_eq!(buffers.available(), 4);
        assert_eq!(receiver.handle().info().expect("bound").messages, 0);
    });
}

/// A full completion queue ends the command; no message is lost, and no buffer for good.
#[test]
fn a_full_completion_queue_loses_nothing() {
    for sort in SORTS {
        let driver = sort
            .options()
            .entries(2)
            .completions(4)
            .build()
            .expect("it is valid");
        let mailbox = Mailbox::options()
            .capacity(Capacity::Unbounded)
            .anonymous()
            .expect("new");
        let (sender, receiver) = mailbox.split().expect("descriptors");
        let receiver = driver.attach(receiver);
        let buffers = driver.buffers(32, 16).expect("there is memory");
        let mut messages = receiver.messages(&buffers);
        let mut next = 0u32;
        for round in 0..20u32 {
            if round % 2 == 0 {
                // It waits, and is then overrun, and the other way round.
                let poll = messages
                    .poll_next(&mut std::task::Context::from_waker(std::task::Waker::noop()));
                assert!(poll.is_pending());
                wait_receivers(&driver, receiver.handle(), 1);
            }
            for number in 0..40u32 {
                sender
                    .send((round * 40 + number).to_le_bytes())
                    .expect("there is no limit");
            }
            thread::sleep(Duration::from_millis(5));
            for _ in 0..40 {
                let message = messages.wait_next().expect("it goes on").expect("it came");
                assert_eq!(*message, next.to_le_bytes(), "{sort:?}");
                next += 1;
            }
        }
        assert_eq!(next, 800);
        // Where a buffer was used up without a word, it is back as soon as it is missed.
        let mut held = Vec::new();
        for number in 0..32u32 {
            sender
                .send(number.to_le_bytes())
                .expect("there is no limit");
            held.push(
                messages
                    .wait_next()
                    .expect("it goes on")
                    .expect("a buffer is there"),
            );
        }
        held.clear();
        assert_eq!(receiver.handle().info().expect("bound").messages, 0);
        drop(messages);
        settle(&driver);
    }
}

#[test]
fn single_operations_do_not_mind_a_full_completion_queue() {
    for sort in SORTS {
        let driver = sort
            .options()
            .entries(2)
            .completions(4)
            .build()
            .expect("it is valid");
        let (sender, receiver) = split(200);
        let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
        let parked: Vec<_> = (0..100).map(|_| receiver.recv()).collect();
        wait_receivers(&driver, receiver.handle(), 100);
        for number in 0..100u8 {
            sender.handle().try_send([number]).expect("there is room");
        }
        let sends: Vec<_> = (100..200u8).map(|number| sender.send([number])).collect();
        let seen = parked
            .into_iter()
            .map(|op| op.wait().expect("it came").payload[0]);
        let mut seen: Vec<_> = seen.collect();
        if sort == Sort::Async {
            // Workers of io_uring parked them, in no order.
            seen.sort_unstable();
        }
        assert_eq!(seen, (0..100).collect::<Vec<u8>>(), "{sort:?}");
        for send in sends {
            send.wait().expect("there is room");
        }
        assert_eq!(receiver.handle().info().expect("bound").messages, 100);
    }
}

#[test]
fn streams_can_be_waited_for_with_a_limit() {
    each(|driver| {
        let (sender, receiver) = split(4);
        let receiver = driver.attach(receiver);
        let buffers = driver.buffers(4, 16).expect("there is memory");
        let time = Duration::from_millis(60);
        let mut messages = receiver.messages(&buffers).timeout(time);
        for _ in 0..2 {
            let start = Instant::now();
            assert_eq!(
                kind(messages.wait_next().expect("it goes on")),
                ErrorKind::Timeout
            );
            assert!(start.elapsed() >= time);
        }
        // The time is that of each.
        for _ in 0..4 {
            thread::sleep(time / 2);
            sender.send("x").expect("there is room");
            assert_eq!(
                &*messages.wait_next().expect("it goes on").expect("it came"),
                b"x"
            );
        }
        assert_eq!(
            kind(messages.wait_next().expect("it goes on")),
            ErrorKind::Timeout
        );
        drop(sender);
        assert!(messages.wait_next().is_none());
    });
}

#[test]
fn deliveries_and_requests() {
    each(|driver| {
        let (sender, receiver) = split(64);
        let client = driver.attach(sender.try_clone().expect("a descriptor"));
        let receiver = driver.attach(receiver);
        let buffers = driver.buffers(8, 32).expect("there is memory");
        let mut deliveries = receiver.deliveries(&buffers);
        for text in [
            "one",
            "two",
            "three",
            "a message that has no room in one of these buffers",
        ] {
            sender.send(text).expect("there is room");
        }
        let one = deliveries
            .wait_next()
            .expect("it goes on")
            .expect("it came");
        assert_eq!((&**one, one.redelivered), (&b"one"[..], false));
        one.ack().expect("it is ours");
        let two = deliveries
            .wait_next()
            .expect("it goes on")
            .expect("it came");
        assert_eq!(&**two, b"two");
        two.requeue().expect("it is ours");
        // Others may have been taken already; it comes as soon as it can.
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            let next = deliveries
                .wait_next()
                .expect("it goes on")
                .expect("it came");
            assert_eq!(next.redelivered, &**next == b"two");
            seen.insert(next.ack().expect("it is ours").payload);
        }
        assert_eq!(seen.len(), 3);
        // What the stream has taken and not given out goes back to the head, in its order.
        for number in 0..6u8 {
            sender.send([number]).expect("there is room");
        }
        let first = deliveries
            .wait_next()
            .expect("it goes on")
            .expect("it came");
        assert_eq!(first.payload, [0]);
        drop(deliveries);
        settle(driver);
        drop(first);
        let mut seen = Vec::new();
        while let Ok(message) = receiver.handle().try_recv() {
            seen.extend(message.payload);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3, 4, 5]);

        let mut requests = receiver.requests(&buffers);
        let calls: Vec<_> = (0..20u8).map(|number| client.call([number])).collect();
        driver.submit().expect("the ring works");
        for _ in 0..20 {
            let request = requests.wait_next().expect("it goes on").expect("it came");
            assert!(request.is_open() && request.call);
            let payload = [request[0] + 100];
            receiver.reply(request, payload).wait().expect("it waits");
        }
        for (number, call) in calls.into_iter().enumerate() {
            assert_eq!(
                call.wait().expect("it was answered").payload,
                [number as u8 + 100]
            );
        }
        drop(requests);
        settle(driver);
        // A stream of messages answers nobody, and says so.
        let mut messages = receiver.messages(&buffers);
        let call = client.call("x");
        driver.submit().expect("the ring works");
        assert!(
            messages
                .wait_next()
                .expect("it goes on")
                .expect("it came")
                .call
        );
        assert_eq!(kind(call.wait()), ErrorKind::Dropped);
    });
}

#[test]
fn what_a_dropped_stream_had_is_for_the_next() {
    each(|driver| {
        let (sender, receiver) = split(64);
        let receiver = driver.attach(receiver);
        let buffers = driver.buffers(8, 32).expect("there is memory");
        for number in 0..8u8 {
            sender.send([number]).expect("there is room");
        }
        let mut messages = receiver.messages(&buffers);
        assert_eq!(
            *messages.wait_next().expect("it goes on").expect("it came"),
            [0]
        );
        drop(messages);
        settle(driver);
        let mut messages = receiver.messages(&buffers);
        for number in 1..4u8 {
            assert_eq!(
                *messages.wait_next().expect("it goes on").expect("it came"),
                [number]
            );
        }
        drop(messages);
        settle(driver);
        for number in 4..8u8 {
            assert_eq!(
                receiver
                    .recv_with(LONG)
                    .wait()
                    .expect("it is not lost")
                    .payload,
                [number]
            );
        }
        assert_eq!(
            kind(receiver.recv_with(Wait::Never).wait()),
            ErrorKind::Empty
        );
    });
}

#[test]
fn connections_come_by_one_command() {
    each(|driver| {
        let name = unique("uring/links");
        let listener = Link::options()
            .backlog(16)
            .listen(&name)
            .expect("the name is new");
        let listener = driver.attach(listener);
        let buffers = driver.buffers(4, 0).expect("there is memory");
        let mut links = listener.links(&buffers);
        let mut clients = Vec::new();
        for number in 0..10u8 {
            let client = Link::connect(&name).expect("somebody listens");
            client.send([number]).expect("it is open");
            clients.push(client);
        }
        let mut servers = Vec::new();
        for number in 0..10u8 {
            let link = links
                .wait_next()
                .expect("it goes on")
                .expect("somebody came");
            assert_eq!(
                link.peer().expect("somebody made it").pid,
                std::process::id()
            );
            assert_eq!(link.recv_with(LONG).expect("it was sent").payload, [number]);
            servers.push(link);
        }
        // One that comes when the stream is being dropped is not closed.
        let client = Link::connect(&name).expect("somebody listens");
        client.send("late").expect("it is open");
        drop(links);
        settle(driver);
        let link = listener.accept_with(LONG).wait().expect("it is not lost");
        assert_eq!(&*link.try_recv().expect("it was sent"), b"late");
        drop(clients);
        for link in servers {
            assert!(link.recv().is_err_and(|error| error.is_disconnected()));
        }
    });
}

#[test]
fn a_full_completion_queue_loses_no_connection() {
    for sort in [Sort::Plain, Sort::Single] {
        let driver = sort
            .options()
            .entries(2)
            .completions(4)
            .build()
            .expect("it is valid");
        let name = unique("uring/links_overflow");
        let listener = Link::options()
            .backlog(64)
            .listen(&name)
            .expect("the name is new");
        let listener = driver.attach(listener);
        let buffers = driver.buffers(32, 0).expect("there is memory");
        let clients: Vec<_> = (0..40u8)
            .map(|number| {
                let client = Link::connect(&name).expect("there is room");
                client.send([number]).expect("it is open");
                client
            })
            .collect();
        let mut links = listener.links(&buffers);
        for number in 0..40u8 {
            let link = links
                .wait_next()
                .expect("it goes on")
                .expect("somebody came");
            assert_eq!(
                link.try_recv().expect("it was sent").payload,
                [number],
                "{sort:?}"
            );
        }
        drop(clients);
    }
}

/// Streams that compete with other receives, are dropped and begun anew, overrun and starved.
#[test]
fn storm_of_streams() {
    let mut rng = Rng::from_env("storm_of_streams");
    for sort in SORTS {
        let driver = sort
            .options()
            .entries(4)
            .completions(8)
            .build()
            .expect("it is valid");
        let total = scaled(4000) as u64;
        let (sender, receiver) = split(64);
        let rival = receiver.try_clone().expect("a descriptor");
        let receiver = driver.attach(receiver);
        let buffers = driver.buffers(16, 64).expect("there is memory");
        let seen: Vec<_> = (0..total).map(|_| AtomicU64::new(0)).collect();
        let count = AtomicU64::new(0);
        let note = |payload: &[u8]| {
            let number = u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"));
            assert_eq!(
                seen[number as usize].fetch_add(1, SeqCst),
                0,
                "{number} came twice"
            );
            count.fetch_add(1, SeqCst);
        };
        let (note, count) = (&note, &count);
        let mut numbers = rng.split();
        scope(|scope| {
            scope.spawn(move || send_all(&sender, total, &mut numbers));
            scope.spawn(move || {
                while let Ok(message) = rival.recv_timeout(Duration::from_millis(100)) {
                    note(&message);
                    thread::sleep(Duration::from_millis(2));
                }
            });
            let (mut last, mut watchdog) = (0, Watchdog::new());
            while count.load(SeqCst) < total {
                let now = count.load(SeqCst);
                if now > last {
                    last = now;
                    watchdog.progress();
                }
                watchdog.check(|| format!("{sort:?}: {now} of {total}"));
                let acknowledged = rng.one_in(3);
                let rounds = rng.below(100) + 1;
                let limit = Duration::from_millis(10);
                let mut held = Vec::new();
                if acknowledged {
                    let mut stream = receiver.deliveries(&buffers).timeout(limit);
                    for _ in 0..rounds {
                        match stream.wait_next() {
                            None => break,
                            Some(Err(error)) => {
                                assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
                                break;
                            }
                            Some(Ok(delivery)) if rng.one_in(4) => drop(delivery),
                            Some(Ok(delivery)) => note(&delivery.ack().expect("it is ours")),
                        }
                    }
                } else {
                    let mut stream = receiver.messages(&buffers).timeout(limit);
                    for _ in 0..rounds {
                        match stream.wait_next() {
                            None => break,
                            Some(Err(error)) if error.kind == ErrorKind::NoBuffers => held.clear(),
                            Some(Err(error)) => {
                                assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
                                break;
                            }
                            Some(Ok(message)) => {
                                note(&message);
                                held.push(message);
                                if rng.one_in(10) {
                                    held.clear();
                                }
                            }
                        }
                    }
                }
                if rng.one_in(10)
                    && let Ok(message) = receiver.recv_with(Wait::Timeout(limit)).wait()
                {
                    note(&message);
                }
            }
        });
        settle(&driver);
        assert_eq!(count.load(SeqCst), total);
        wait_until("all buffers", || {
            driver.turn(Wait::Never).expect("the ring works");
            buffers.available() == 16
        });
    }
}

fn send_all(sender: &Sender, total: u64, rng: &mut Rng) {
    for number in 0..total {
        let mut payload = number.to_le_bytes().to_vec();
        let most = if rng.one_in(50) { 500 } else { 50 };
        payload.resize(8 + rng.below(most) as usize, 0);
        sender.send(payload).expect("somebody receives");
        if rng.one_in(100) {
            thread::sleep(Duration::from_millis(rng.below(30)));
        }
    }
}

/// The driver is Send and Sync: a stream goes to another thread.
#[test]
fn a_stream_goes_to_another_thread() {
    let driver: Driver = crate::driver();
    let (sender, receiver) = split(8);
    let buffers = driver.buffers(4, 16).expect("there is memory");
    let mut messages = driver.attach(receiver).messages(&buffers);
    sender.send("one").expect("there is room");
    assert_eq!(
        &*messages.wait_next().expect("it goes on").expect("it came"),
        b"one"
    );
    // Its command was submitted by this thread, which ends.
    let mut messages = thread::spawn(move || {
        let poll =
            messages.poll_next(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(poll.is_pending());
        messages
    })
    .join()
    .expect("it does not panic");
    let begun = thread::spawn(move || {
        let (sender, receiver) = split(8);
        let driver = crate::driver();
        let buffers = driver.buffers(4, 16).expect("there is memory");
        let mut stream = driver.attach(receiver).messages(&buffers);
        let poll = stream.poll_next(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(poll.is_pending());
        driver.submit().expect("the ring works");
        (sender, stream)
    });
    let (other, mut stream) = begun.join().expect("it does not panic");
    other.send("after the thread").expect("there is room");
    let message = stream.wait_next().expect("it goes on").expect("it came");
    assert_eq!(&*message, b"after the thread");
    sender.send("two").expect("there is room");
    assert_eq!(
        &*messages.wait_next().expect("it goes on").expect("it came"),
        b"two"
    );
}
