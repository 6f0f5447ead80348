//! Ends that are asked for: nothing is lost, and everything ends once.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use postbox::uring::{Driver, Op};
use postbox::{
    Barrier, Capacity, ErrorKind, Latch, Link, Mailbox, Message, Pipe, Port, Ring, RingSide,
    Semaphore, Wait,
};
use postbox_tests::{Rng, Watchdog, scaled, scope, unique, wait_until};

use crate::{LONG, SORTS, each, kind, mailbox, settle, split, wait_receivers, wait_senders};

/// The end of an operation that was cancelled while it was parked.
#[track_caller]
fn cancelled<T, E: Into<postbox::Error>>(op: Op<Result<T, E>>) {
    op.cancel();
    assert_eq!(kind(op.wait()), ErrorKind::Cancelled);
}

#[test]
fn everything_that_waits_can_be_cancelled() {
    each(|driver| {
        let (sender, receiver) = split(1);
        let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
        cancelled(receiver.recv());
        cancelled(receiver.take());
        cancelled(receiver.recv_request());
        cancelled(receiver.recv_many(10, LONG));
        let op = receiver.recv_into(Vec::with_capacity(10), LONG);
        op.cancel();
        assert_eq!(kind(op.wait().0), ErrorKind::Cancelled);
        // Nobody took what comes now.
        sender.send("x").wait().expect("there is room");
        let send = sender.send("not sent");
        wait_senders(driver, sender.handle(), 1);
        send.cancel();
        let error = send.wait().expect_err("it was cancelled");
        assert_eq!(
            (error.error.kind, error.payload.as_slice()),
            (ErrorKind::Cancelled, &b"not sent"[..])
        );
        let send = sender.send_many(vec![vec![1], vec![2]], 0, LONG);
        send.cancel();
        let error = send.wait().expect_err("it was cancelled");
        assert_eq!(
            (error.error.kind, error.payload.len()),
            (ErrorKind::Cancelled, 2)
        );
        cancelled(sender.reserve(1, LONG));
        let info = receiver.handle().info().expect("bound");
        assert_eq!(
            (info.messages, info.waiting_senders, info.waiting_receivers),
            (1, 0, 0)
        );
        assert_eq!(receiver.recv().wait().expect("it is there").payload, b"x");
        // A call that nobody has taken, and one that a server has.
        cancelled(sender.call("nobody has it"));
        assert_eq!(receiver.handle().info().expect("bound").messages, 0);
        let call = sender.call("somebody has it");
        let request = receiver.recv_request().wait().expect("it comes");
        cancelled(call);
        assert!(!request.caller_waits().expect("it is open"));
        // A server that waits for the next: the reply is sent once.
        let call = sender.call("answered");
        let request = receiver.recv_request().wait().expect("it comes");
        let next = receiver.reply_recv(request, "answer");
        assert_eq!(call.wait().expect("it was answered").payload, b"answer");
        wait_receivers(driver, receiver.handle(), 1);
        next.cancel();
        let error = next.wait().expect_err("it was cancelled");
        assert_eq!(error.error.kind, ErrorKind::Cancelled);
        assert!(!error.request.is_open(), "the reply was sent");

        let (reader, writer) = Pipe::options().capacity(4096).pair().expect("descriptors");
        let (reader, writer) = (driver.attach(reader), driver.attach(writer));
        let op = reader.read(Vec::with_capacity(10), LONG);
        op.cancel();
        assert_eq!(kind(op.wait().0), ErrorKind::Cancelled);
        let op = writer.write(vec![0; 10_000], LONG);
        wait_senders(driver, writer.handle(), 1);
        op.cancel();
        assert_eq!(op.wait().0, Ok(4096), "a part was written");
        let op = writer.write(vec![0; 10], LONG);
        op.cancel();
        assert_eq!(kind(op.wait().0), ErrorKind::Cancelled);

        let listener = Link::options()
            .backlog(0)
            .listen(&unique("uring/cancel"))
            .expect("new");
        let listener = driver.attach(listener);
        cancelled(listener.accept());
        let port = driver.attach(Port::open(7010).expect("nobody has it"));
        cancelled(port.wait_peer(LONG));
        let semaphore = driver.attach(Semaphore::new(0).expect("new"));
        cancelled(semaphore.acquire());
        semaphore.post(1).wait().expect("there is room");
        assert_eq!(semaphore.handle().value().expect("bound"), 1);
        cancelled(driver.attach(Latch::new(1).expect("new")).wait_open(LONG));
        let barrier = driver.attach(Barrier::new(2).expect("new"));
        cancelled(barrier.wait_all(LONG));
        assert_eq!(
            barrier.handle().info().expect("bound").value,
            0,
            "it is not there any more"
        );
        let (_sender, receiver) = Ring::options().pair().expect("descriptors");
        let consumer = receiver.attach().expect("nobody has");
        cancelled(
            driver
                .ring_wait(&consumer, RingSide::Consumer, LONG)
                .expect("a descriptor"),
        );
    });
}

#[test]
fn dropping_is_cancelling() {
    each(|driver| {
        let (sender, receiver) = split(4);
        let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
        let parked: Vec<_> = (0..100).map(|_| receiver.recv()).collect();
        wait_receivers(driver, receiver.handle(), 100);
        drop(parked);
        settle(driver);
        assert_eq!(
            receiver.handle().info().expect("bound").waiting_receivers,
            0
        );
        sender.send("x").wait().expect("there is room");
        assert_eq!(
            receiver.recv().wait().expect("nobody took it").payload,
            b"x"
        );
        // All of a handle.
        let parked = [receiver.recv(), receiver.recv()];
        receiver.cancel_all();
        for op in parked {
            assert_eq!(kind(op.wait()), ErrorKind::Cancelled);
        }
    });
}

/// What comes for a receive that is dropped at that moment is for the next.
#[test]
fn what_comes_too_late_to_be_cancelled_is_not_lost() {
    each(|driver| {
        let (sender, receiver) = split(4);
        let receiver = driver.attach(receiver);
        for round in 0..50u8 {
            let dropped = receiver.recv();
            wait_receivers(driver, receiver.handle(), 1);
            // The kernel hands it over at once, and the driver does not know yet.
            sender.try_send([round]).expect("there is room");
            drop(dropped);
            let message = receiver.recv_with(LONG).wait().expect("it is not lost");
            assert_eq!(message.payload, [round]);
        }
        // One that waits gets it before one that comes.
        let dropped = receiver.recv();
        wait_receivers(driver, receiver.handle(), 1);
        let waits = receiver.recv();
        wait_receivers(driver, receiver.handle(), 2);
        sender.try_send("handed on").expect("there is room");
        drop(dropped);
        assert_eq!(
            waits.wait().expect("it was handed on").payload,
            b"handed on"
        );
        settle(driver);
        // One that was to be acknowledged goes back.
        let dropped = receiver.take();
        wait_receivers(driver, receiver.handle(), 1);
        sender.try_send("goes back").expect("there is room");
        drop(dropped);
        settle(driver);
        let message = receiver.handle().try_recv().expect("it is back");
        assert_eq!(&*message, b"goes back");
        // A request is not dropped.
        let client = driver.attach(sender.try_clone().expect("a descriptor"));
        let dropped = receiver.recv_request();
        wait_receivers(driver, receiver.handle(), 1);
        let call = client.call("request");
        driver.submit().expect("the ring works");
        drop(dropped);
        let request = receiver.recv_request().wait().expect("it is not lost");
        request.reply_now("reply").expect("it waits");
        assert_eq!(call.wait().expect("it was answered").payload, b"reply");
        // A semaphore's are given back.
        let semaphore = driver.attach(Semaphore::new(0).expect("new"));
        let dropped = semaphore.acquire();
        wait_receivers(driver, semaphore.handle(), 1);
        semaphore.handle().post(1).expect("there is room");
        drop(dropped);
        settle(driver);
        assert_eq!(semaphore.handle().value().expect("bound"), 1);
        // A connection is kept.
        let name = unique("uring/late");
        let listener = driver.attach(postbox::Listener::bind(&name).expect("new"));
        let dropped = listener.accept();
        wait_receivers(driver, listener.handle(), 1);
        let client = Link::connect(&name).expect("somebody accepts");
        client.send("hello").expect("it is open");
        drop(dropped);
        let link = listener.accept_with(LONG).wait().expect("it is not lost");
        assert_eq!(&*link.try_recv().expect("it was sent"), b"hello");
    });
}

/// Numbers of messages, of which each is to be received once.
struct Book {
    seen: Mutex<Vec<u8>>,
    count: AtomicU64,
}

impl Book {
    fn new(messages: u64) -> Self {
        Book {
            seen: Mutex::new(vec![0; messages as usize]),
            count: AtomicU64::new(0),
        }
    }

    fn note(&self, payload: &[u8]) {
        let number = u64::from_le_bytes(payload[..8].try_into().expect("eight bytes"));
        let mut seen = self.seen.lock().expect("nobody has panicked");
        seen[number as usize] += 1;
        assert_eq!(seen[number as usize], 1, "message {number} came twice");
        self.count.fetch_add(1, SeqCst);
    }
}

fn payload(number: u64, rng: &mut Rng) -> Vec<u8> {
    let mut payload = number.to_le_bytes().to_vec();
    // Some do not fit at first.
    let most = if rng.one_in(50) { 2000 } else { 100 };
    payload.resize(8 + rng.below(most) as usize, 0);
    payload
}

/// Receives are cancelled and dropped at random while messages come: each is received once.
fn receives(driver: &Driver, capacity: u64, messages: u64, acknowledged: bool, rng: &mut Rng) {
    let (sender, receiver) = split(capacity);
    let receiver = driver.attach(receiver);
    let book = Book::new(messages);
    let mut numbers = rng.split();
    scope(|scope| {
        scope.spawn(move || {
            for number in 0..messages {
                sender
                    .send(payload(number, &mut numbers))
                    .expect("somebody receives");
                if numbers.one_in(20) {
                    thread::sleep(Duration::from_micros(numbers.below(300)));
                }
            }
        });
        let mut plain: VecDeque<Op<postbox::Result<Message>>> = VecDeque::new();
        let mut taken: VecDeque<Op<postbox::Result<postbox::uring::Delivery>>> = VecDeque::new();
        let (mut seen, mut watchdog) = (0, Watchdog::new());
        let done = |result: postbox::Result<Message>| match result {
            Ok(message) => book.note(&message),
            Err(error) => assert!(
                matches!(error.kind, ErrorKind::Cancelled | ErrorKind::Disconnected),
                "{error}"
            ),
        };
        while book.count.load(SeqCst) < messages {
            let count = book.count.load(SeqCst);
            if count > seen {
                seen = count;
                watchdog.progress();
            }
            watchdog.check(|| format!("{count} of {messages} came"));
            if plain.len() + taken.len() < 8 {
                if acknowledged {
                    taken.push_back(receiver.take());
                } else {
                    plain.push_back(receiver.recv());
                }
            }
            if rng.one_in(2) {
                driver.submit().expect("the ring works");
            }
            if acknowledged {
                let Some(op) = taken.pop_front() else {
                    continue;
                };
                match rng.below(4) {
                    0 => drop(op),
                    1 => {
                        op.cancel();
                        let delivery = op.wait();
                        done(delivery.and_then(postbox::uring::Delivery::ack));
                    }
                    2 if op.is_done() => done(op.wait().and_then(|delivery| match rng.one_in(3) {
                        true => receiver.ack(delivery).wait(),
                        false => delivery.ack(),
                    })),
                    _ => taken.push_back(op),
                }
            } else {
                let Some(op) = plain.pop_front() else {
                    continue;
                };
                match rng.below(4) {
                    0 => drop(op),
                    1 => {
                        op.cancel();
                        done(op.wait());
                    }
                    2 if op.is_done() => done(op.wait()),
                    _ => plain.push_back(op),
                }
            }
        }
    });
    settle(driver);
    assert_eq!(book.count.load(SeqCst), messages);
    let info = receiver.handle().info().expect("bound");
    assert_eq!(
        (info.messages, info.unacknowledged, info.waiting_receivers),
        (0, 0, 0)
    );
}

#[test]
fn storm_of_cancelled_receives() {
    let mut rng = Rng::from_env("storm_of_cancelled_receives");
    for sort in SORTS {
        let driver = sort.driver();
        let messages = scaled(1500) as u64;
        for capacity in [0, 1, 16] {
            receives(&driver, capacity, messages, false, &mut rng);
            receives(&driver, capacity, messages, true, &mut rng);
        }
    }
}

/// Sends are cancelled at random while a thread receives: what is said to be sent came once, and what is
/// said not to be did not.
#[test]
fn storm_of_cancelled_sends() {
    let mut rng = Rng::from_env("storm_of_cancelled_sends");
    for sort in SORTS {
        for capacity in [0, 2] {
            let driver = sort.driver();
            let (sender, receiver) = split(capacity);
            let sender = driver.attach(sender);
            let messages = scaled(2000) as u64;
            let book = Book::new(messages);
            let mut accepted = vec![None; messages as usize];
            scope(|scope| {
                scope.spawn(|| {
                    let mut pauses = Rng::new(messages);
                    for message in &receiver {
                        book.note(&message.expect("somebody sends"));
                        if pauses.one_in(10) {
                            thread::sleep(Duration::from_micros(pauses.below(300)));
                        }
                    }
                });
                let mut sends = VecDeque::new();
                for number in 0..messages {
                    sends.push_back((number, sender.send(payload(number, &mut rng))));
                    if rng.one_in(3) {
                        driver.submit().expect("the ring works");
                    }
                    if sends.len() > 8 || rng.one_in(4) {
                        let place = rng.below(sends.len() as u64) as usize;
                        let (number, op) = sends.remove(place).expect("it is in it");
                        op.cancel();
                        let result = op.wait();
                        if let Err(error) = &result {
                            assert_eq!(error.error.kind, ErrorKind::Cancelled);
                            assert_eq!(error.payload[..8], number.to_le_bytes());
                        }
                        accepted[number as usize] = Some(result.is_ok());
                    }
                }
                for (number, op) in sends {
                    op.wait().expect("it was not cancelled");
                    accepted[number as usize] = Some(true);
                }
                drop(sender);
                settle(&driver);
            });
            let seen = book.seen.into_inner().expect("nobody has panicked");
            for (number, (seen, accepted)) in seen.iter().zip(&accepted).enumerate() {
                assert_eq!(Some(*seen == 1), *accepted, "{sort:?}: message {number}");
            }
        }
    }
}

/// Calls are cancelled at random: each has one outcome, and a reply that of its own request.
#[test]
fn storm_of_cancelled_calls() {
    let mut rng = Rng::from_env("storm_of_cancelled_calls");
    for sort in SORTS {
        let driver = sort.driver();
        let (client, server) = split(4);
        let client = driver.attach(client);
        let calls = scaled(1000) as u64;
        let answered = AtomicU64::new(0);
        scope(|scope| {
            scope.spawn(|| {
                let served = server.serve(|request| {
                    answered.fetch_add(1, SeqCst);
                    request.to_vec()
                });
                served.expect("the last client has gone");
            });
            let mut under_way = VecDeque::new();
            let mut replies = 0;
            for number in 0..calls {
                under_way.push_back((number, client.call(payload(number, &mut rng))));
                if rng.one_in(3) {
                    driver.submit().expect("the ring works");
                }
                if under_way.len() > 8 || rng.one_in(4) {
                    let place = rng.below(under_way.len() as u64) as usize;
                    let (number, op) = under_way.remove(place).expect("it is in it");
                    match rng.below(3) {
                        0 => drop(op),
                        1 => {
                            op.cancel();
                            match op.wait() {
                                Ok(reply) => {
                                    replies += 1;
                                    assert_eq!(reply[..8], number.to_le_bytes());
                                }
                                Err(error) => assert_eq!(error.kind, ErrorKind::Cancelled),
                            }
                        }
                        _ => {
                            replies += 1;
                            let reply = op.wait().expect("it was not cancelled");
                            assert_eq!(reply[..8], number.to_le_bytes());
                        }
                    }
                }
            }
            for (number, op) in under_way {
                replies += 1;
                assert_eq!(
                    op.wait().expect("it was not cancelled")[..8],
                    number.to_le_bytes()
                );
            }
            assert!(replies <= answered.load(SeqCst));
            drop(client);
            settle(&driver);
        });
    }
}

/// Several threads share a driver, and cancel one another's operations.
#[test]
fn storm_of_threads() {
    let mut rng = Rng::from_env("storm_of_threads");
    let driver = crate::driver();
    let mailbox = Mailbox::options()
        .capacity(Capacity::Bounded(8))
        .anonymous()
        .expect("new");
    let both = driver.attach(mailbox);
    let messages = scaled(3000) as u64;
    let book = Book::new(messages);
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    let shared: Mutex<VecDeque<Op<postbox::Result<Message>>>> = Mutex::default();
    let (driver, both, book, stop, next, shared) = (&driver, &both, &book, &stop, &next, &shared);
    scope(|scope| {
        for _ in 0..2 {
            let mut rng = rng.split();
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, SeqCst);
                    if number >= messages {
                        return;
                    }
                    let mut payload = payload(number, &mut rng);
                    loop {
                        let op = both.send(payload);
                        if rng.one_in(4) {
                            op.cancel();
                        }
                        match op.wait() {
                            Ok(()) => break,
                            Err(error) => {
                                assert_eq!(error.error.kind, ErrorKind::Cancelled);
                                payload = error.payload;
                            }
                        }
                    }
                }
            });
        }
        for _ in 0..3 {
            let mut rng = rng.split();
            scope.spawn(move || {
                while !stop.load(SeqCst) {
                    let op = both.recv_with(Wait::Timeout(Duration::from_millis(rng.below(20))));
                    shared.lock().expect("nobody has panicked").push_back(op);
                    let op = shared.lock().expect("nobody has panicked").pop_front();
                    let Some(op) = op else { continue };
                    match rng.below(3) {
                        0 => drop(op),
                        1 => {
                            op.cancel();
                            if let Ok(message) = op.wait() {
                                book.note(&message);
                            }
                        }
                        _ => {
                            if let Ok(message) = op.wait() {
                                book.note(&message);
                            }
                        }
                    }
                }
            });
        }
        wait_until("all messages", || book.count.load(SeqCst) == messages);
        stop.store(true, SeqCst);
    });
    shared.lock().expect("nobody has panicked").clear();
    settle(driver);
    assert_eq!(both.handle().info().expect("bound").messages, 0);
}

/// Soundness: whatever is dropped or forgotten, in whatever order, the kernel writes to nothing that is
/// freed. (It would show in a message, in the allocator or in the VM's kernel.)
#[test]
fn dropping_and_forgetting_in_any_order() {
    let mut rng = Rng::from_env("dropping_and_forgetting_in_any_order");
    for round in 0..scaled(60) {
        let driver = rng.pick(&SORTS).driver();
        let both = mailbox(4);
        let other = both.try_clone().expect("a descriptor");
        let both = driver.attach(both);
        let buffers = driver.buffers(4, 64).expect("there is memory");
        let mut ops: Vec<Op<postbox::Result<Message>>> = (0..10).map(|_| both.recv()).collect();
        let mut stream = both.messages(&buffers);
        let (reader, writer) = Pipe::pair().expect("descriptors");
        let read = driver.attach(reader).read(Vec::with_capacity(4096), LONG);
        let poll = stream.poll_next(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(poll.is_pending());
        driver.submit().expect("the ring works");
        for _ in 0..rng.below(6) {
            let payload = vec![0xaa; rng.below(5000) as usize];
            // What does not fit is for nobody.
            let _ = other.try_send(payload);
        }
        for _ in 0..rng.below(12) {
            match rng.below(4) {
                0 => drop(ops.pop()),
                1 => std::mem::forget(ops.pop()),
                2 => drop(driver.turn(Wait::Never)),
                _ => drop(vec![0x55u8; 1 << rng.below(14)]),
            }
        }
        match rng.below(3) {
            0 => std::mem::forget(stream),
            1 => drop(stream),
            _ => drop(ops.pop()),
        }
        if rng.one_in(2) {
            std::mem::forget(read);
        }
        match rng.below(3) {
            0 => std::mem::forget(both),
            1 => drop(both),
            _ => {}
        }
        match rng.below(2) {
            0 => std::mem::forget(driver),
            _ => drop(driver),
        }
        drop((ops, buffers));
        // What comes now would be written to memory that others have.
        let filler: Vec<Vec<u8>> = (0..50).map(|n| vec![n; 700]).collect();
        for _ in 0..20 {
            let _ = other.try_send([0xaa; 600]);
            use std::io::Write;
            let _ = (&writer).write(&[0xaa; 100]);
        }
        for (n, bytes) in filler.iter().enumerate() {
            assert!(
                bytes.iter().all(|byte| usize::from(*byte) == n),
                "round {round}: {bytes:?}"
            );
        }
    }
}

/// What a dropped receive had taken for good is no delivery: nothing would put it back into the mailbox.
#[test]
fn take_gets_nothing_that_a_dropped_recv_has() {
    each(|driver| {
        let (sender, receiver) = split(4);
        let receiver = driver.attach(receiver);
        let late = receiver.recv();
        driver.submit().expect("the ring works");
        sender.send("late").expect("there is room");
        wait_until("it to be received", || {
            driver.turn(Wait::Never).expect("the ring works");
            late.is_done()
        });
        drop(late);
        assert_eq!(
            kind(receiver.take_with(Wait::Never).wait()),
            ErrorKind::Empty
        );
        sender.send("job").expect("there is room");
        let job = receiver.take().wait().expect("it is there");
        assert_eq!((&**job, job.redelivered), (&b"job"[..], false));
        let info = receiver.handle().info().expect("bound");
        assert_eq!(info.unacknowledged, 1);
        job.requeue().expect("it is ours");
        // Of the mailbox's, another handle gets it; the late one is for the next plain receive.
        let other = receiver.handle().try_clone().expect("a descriptor");
        assert!(other.try_recv().expect("it is back").redelivered);
        assert_eq!(&*receiver.recv().wait().expect("it was kept"), b"late");
    });
}
