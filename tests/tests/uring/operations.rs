//! Every operation, begun before and after what it waits for.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use postbox::uring::{Driver, Request};
use postbox::{
    Barrier, Capacity, ErrorKind, Latch, Link, Listener, Mailbox, Pipe, Port, Ring, RingSide,
    Semaphore, Wait,
};
use postbox_tests::unique;

use crate::{
    LONG, SOON, each, each_sort, kind, mailbox, settle, split, wait_receivers, wait_senders,
};

#[test]
fn messages_are_sent_and_received() {
    each(|driver| {
        let (sender, receiver) = split(4);
        let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
        // What is there.
        sender.send("one").wait().expect("there is room");
        let message = receiver.recv().wait().expect("it is there");
        assert_eq!(
            (&*message, message.priority, message.call),
            (&b"one"[..], 0, false)
        );
        assert_eq!(message.sender.pid, std::process::id());
        // What comes.
        let parked = [receiver.recv(), receiver.recv()];
        wait_receivers(driver, receiver.handle(), 2);
        for text in ["two", ""] {
            sender
                .send_with(text, 7, Wait::Never)
                .wait()
                .expect("there is room");
        }
        let [two, empty] = parked.map(|op| op.wait().expect("it came"));
        assert_eq!((&*two, two.priority), (&b"two"[..], 7));
        assert_eq!((&*empty, empty.priority), (&b""[..], 7));
        // What waits for room.
        let sends: Vec<_> = (0..8u8).map(|n| sender.send([n])).collect();
        wait_senders(driver, sender.handle(), 4);
        for n in 0..8 {
            assert_eq!(receiver.recv().wait().expect("it comes").payload, [n]);
        }
        sends
            .into_iter()
            .for_each(|op| op.wait().expect("it was received"));
        // What nobody waits for.
        assert_eq!(
            kind(receiver.recv_with(Wait::Never).wait()),
            ErrorKind::Empty
        );
        for _ in 0..4 {
            sender.send("x").wait().expect("there is room");
        }
        let full = sender
            .send_with("full", 0, Wait::Never)
            .wait()
            .expect_err("it is full");
        assert!(full.error.is_full());
        assert_eq!(full.payload, b"full");
        let bad = sender
            .send_with("bad", 40_000, Wait::Never)
            .wait()
            .expect_err("no priority");
        assert_eq!(bad.error.errno, Some(postbox::Errno::INVAL));
        let bad = sender
            .send_with("bad", 70_000, Wait::Never)
            .wait()
            .expect_err("no priority");
        assert_eq!(bad.error.errno, Some(postbox::Errno::INVAL));
    });
}

#[test]
fn a_rendezvous_is_one() {
    each(|driver| {
        let (sender, receiver) = split(0);
        let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
        let send = sender.send("first");
        wait_senders(driver, sender.handle(), 1);
        assert!(!send.is_done());
        assert_eq!(
            receiver.recv().wait().expect("it is offered").payload,
            b"first"
        );
        send.wait().expect("it was received");
        let recv = receiver.recv();
        wait_receivers(driver, receiver.handle(), 1);
        sender.send("second").wait().expect("somebody waits");
        assert_eq!(recv.wait().expect("it came").payload, b"second");
        // With somebody who sleeps, both ways.
        let direct = receiver.handle().try_clone().expect("a descriptor");
        let sleeper = std::thread::spawn(move || direct.recv().expect("it comes").payload);
        wait_receivers(driver, receiver.handle(), 1);
        sender.send("third").wait().expect("somebody sleeps for it");
        assert_eq!(sleeper.join().expect("it does not panic"), b"third");
        let direct = sender.handle().try_clone().expect("a descriptor");
        let sleeper =
            std::thread::spawn(move || direct.send("fourth").map_err(|error| error.error));
        wait_senders(driver, sender.handle(), 1);
        assert_eq!(
            receiver.recv().wait().expect("it is offered").payload,
            b"fourth"
        );
        sleeper
            .join()
            .expect("it does not panic")
            .expect("it was received");
    });
}

#[test]
fn large_messages_come_whole() {
    each(|driver| {
        let (sender, receiver) = split(4);
        let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
        for len in [513, 100_000, 1_000_000, 10] {
            let payload: Vec<_> = (0..len).map(|n| (n % 251) as u8).collect();
            let recv = receiver.recv();
            sender
                .send(payload.clone())
                .wait()
                .expect("it is small enough");
            assert_eq!(recv.wait().expect("it comes").payload, payload);
        }
        let small = Mailbox::options()
            .message_max(100)
            .anonymous()
            .expect("new");
        let small = driver.attach(small);
        let error = small
            .send(vec![0; 101])
            .wait()
            .expect_err("it is too large");
        assert_eq!(
            error.error.kind,
            ErrorKind::TooLarge {
                len: 101,
                limit: 100
            }
        );
        assert_eq!(error.payload.len(), 101);
    });
}

#[test]
fn files_come_along() {
    each(|driver| {
        let (sender, receiver) = split(4);
        let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
        for parked in [false, true] {
            let early = parked.then(|| receiver.recv());
            if parked {
                wait_receivers(driver, receiver.handle(), 1);
            }
            let (mut theirs, ours) = std::io::pipe().expect("descriptors");
            let sent = sender.send_files("file", vec![OwnedFd::from(ours)], 2, LONG);
            sent.wait().expect("there is room");
            let op = early.unwrap_or_else(|| receiver.recv());
            let mut message = op.wait().expect("it comes");
            assert_eq!(
                (&*message, message.priority, message.files.len()),
                (&b"file"[..], 2, 1)
            );
            File::from(message.files.remove(0))
                .write_all(b"hello")
                .expect("it is a pipe");
            let mut text = String::new();
            theirs
                .read_to_string(&mut text)
                .expect("the last writer is gone");
            assert_eq!(text, "hello");
        }
        let many = (0..65)
            .map(|_| File::open("/dev/null").expect("it is there").into())
            .collect();
        let error = sender
            .send_files("many", many, 0, LONG)
            .wait()
            .expect_err("too many");
        assert_eq!(error.error.kind, ErrorKind::TooManyFiles);
        assert_eq!(
            (error.payload.0.as_slice(), error.payload.1.len()),
            (&b"many"[..], 65)
        );
    });
}

#[test]
fn many_at_once() {
    each_sort(|driver| {
        let (sender, receiver) = split(64);
        let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
        let payloads: Vec<_> = (0..3000u32).map(|n| n.to_le_bytes().to_vec()).collect();
        let send = sender.send_many(payloads.clone(), 1, LONG);
        let mut seen = Vec::new();
        while seen.len() < 3000 {
            let messages = receiver.recv_many(100, LONG).wait().expect("they come");
            assert!(!messages.is_empty() && messages.len() <= 100);
            seen.extend(messages.into_iter().map(|message| message.payload));
        }
        assert_eq!(seen, payloads);
        send.wait().expect("all were received");
        // One that does not fit into a share, and one with files.
        let recv = receiver.recv_many(100, LONG);
        wait_receivers(driver, receiver.handle(), 1);
        sender.send(vec![7; 100_000]).wait().expect("there is room");
        assert_eq!(recv.wait().expect("it comes")[0].payload, vec![7; 100_000]);
        let file = File::open("/dev/null").expect("it is there");
        sender
            .send_files("f", vec![file.into()], 0, LONG)
            .wait()
            .expect("there is room");
        let messages = receiver.recv_many(100, LONG).wait().expect("it is there");
        assert_eq!((messages.len(), messages[0].files.len()), (1, 1));
        // What was not sent comes back.
        let payloads = (0..100u8).map(|n| vec![n]).collect();
        let error = sender
            .send_many(payloads, 0, SOON)
            .wait()
            .expect_err("it is full");
        assert!(error.error.is_timeout(), "{error}");
        assert_eq!(
            error.payload,
            (64..100u8).map(|n| vec![n]).collect::<Vec<_>>()
        );
        assert_eq!(receiver.handle().info().expect("bound").messages, 64);
    });
}

#[test]
fn messages_are_acknowledged_or_come_again() {
    each_sort(|driver| {
        let (sender, receiver) = split(4);
        let receiver = driver.attach(receiver);
        let parked = receiver.take();
        wait_receivers(driver, receiver.handle(), 1);
        sender.send("job").expect("there is room");
        let job = parked.wait().expect("it came");
        assert!(!job.redelivered);
        assert_eq!(receiver.handle().info().expect("bound").unacknowledged, 1);
        drop(job);
        let job = receiver.take().wait().expect("it is back");
        assert!(job.redelivered);
        job.requeue().expect("it is ours");
        let job = receiver.take_with(Wait::Never).wait().expect("it is back");
        assert_eq!(
            receiver.ack(job).wait().expect("it is ours").payload,
            b"job"
        );
        sender.send("other").expect("there is room");
        assert_eq!(
            receiver
                .take()
                .wait()
                .expect("it is there")
                .ack()
                .expect("ours")
                .payload,
            b"other"
        );
        let info = receiver.handle().info().expect("bound");
        assert_eq!(
            (info.messages, info.unacknowledged, info.redelivered),
            (0, 0, 2)
        );
    });
}

#[test]
fn calls_are_answered() {
    each(|driver| {
        let (client, server) = split(16);
        let (client, server) = (driver.attach(client), driver.attach(server));
        let calls: Vec<_> = (0..10u8).map(|n| client.call([n])).collect();
        let first = server.recv_request().wait().expect("they come");
        assert!(first.call && first.is_open() && first.caller_waits().expect("it is open"));
        let mut request: Request = first;
        for n in 0..9u8 {
            assert_eq!(request.payload, [n]);
            request = server
                .reply_recv(request, [n + 100])
                .wait()
                .expect("there is another one");
        }
        server.reply(request, [109]).wait().expect("it waits");
        for (n, call) in calls.into_iter().enumerate() {
            let reply = call.wait().expect("it was answered");
            assert_eq!(reply.payload, [n as u8 + 100]);
            assert_eq!(reply.sender.pid, std::process::id());
        }
        // The server waits first.
        let request = server.recv_request();
        wait_receivers(driver, server.handle(), 1);
        let call = client.call_with("ping", 3, LONG);
        let request = request.wait().expect("it came");
        assert_eq!((&**request, request.priority), (&b"ping"[..], 3));
        let next = server.reply_recv(request, "pong");
        assert_eq!(call.wait().expect("it was answered").payload, b"pong");
        wait_receivers(driver, server.handle(), 1);
        let call = client.call("again");
        let request = next.wait().expect("it came");
        // A reply that is larger than the memory for it.
        request.reply_now(vec![5; 200_000]).expect("it waits");
        assert_eq!(
            call.wait().expect("it was answered").payload,
            vec![5; 200_000]
        );
        // A request that is dropped, and one that nobody takes in time.
        let call = client.call("dropped");
        drop(server.recv_request().wait().expect("it comes"));
        assert_eq!(kind(call.wait()), ErrorKind::Dropped);
        assert_eq!(
            kind(client.call_with("late", 0, SOON).wait()),
            ErrorKind::Timeout
        );
        assert_eq!(
            server.handle().info().expect("bound").messages,
            0,
            "it was taken back"
        );
        let call = client.call_with("stale", 0, SOON);
        let request = server.recv_request().wait().expect("it comes");
        assert_eq!(kind(call.wait()), ErrorKind::Timeout);
        assert!(!request.caller_waits().expect("it is open"));
        let error = server
            .reply(request, "too late")
            .wait()
            .expect_err("nobody waits");
        assert_eq!(error.error.kind, ErrorKind::Stale);
        assert!(!error.request.is_open());
        assert_eq!(error.payload, b"too late");
        let error = server
            .reply(*error.request, "twice")
            .wait()
            .expect_err("it is closed");
        assert_eq!(error.error.kind, ErrorKind::NotFound);
        // Of that nothing is open: it only receives.
        let call = client.call("last");
        let last = server
            .reply_recv(*error.request, "none")
            .wait()
            .expect("it comes");
        drop(server);
        last.reply_now("served").expect("it waits");
        assert_eq!(call.wait().expect("it was answered").payload, b"served");
        assert_eq!(kind(client.call("nobody").wait()), ErrorKind::Disconnected);
    });
}

#[test]
fn the_death_of_a_server_is_told() {
    each(|driver| {
        let (client, server) = split(16);
        let other = server.try_clone().expect("a descriptor");
        let client = driver.attach(client);
        let call = client.call("x");
        driver.submit().expect("the ring works");
        // A second handle of the server, so that it is not the last receiver that goes.
        let request = server
            .recv_request_timeout(Duration::from_secs(60))
            .expect("it comes");
        std::mem::forget(request);
        drop(server);
        assert_eq!(kind(call.wait()), ErrorKind::ServerDied);
        drop(other);
    });
}

#[test]
fn bytes_go_through_pipes() {
    each(|driver| {
        let (reader, writer) = Pipe::options().capacity(4096).pair().expect("descriptors");
        let (reader, writer) = (driver.attach(reader), driver.attach(writer));
        let (written, data) = writer.write("hello", LONG).wait();
        assert_eq!((written, data.as_slice()), (Ok(5), &b"hello"[..]));
        let (read, data) = reader.read(Vec::with_capacity(100), LONG).wait();
        assert_eq!((read, data.as_slice()), (Ok(5), &b"hello"[..]));
        // Who waits to read, and who waits to write.
        let read = reader.read(Vec::with_capacity(3), LONG);
        wait_receivers(driver, reader.handle(), 1);
        let write = writer.write(vec![1; 20_000], LONG);
        let (count, mut seen) = read.wait();
        assert_eq!(count, Ok(3));
        while seen.len() < 20_000 {
            let (count, more) = reader.read(Vec::with_capacity(3000), LONG).wait();
            assert_eq!(count, Ok(more.len()));
            seen.extend(more);
        }
        assert_eq!(seen, vec![1; 20_000]);
        assert_eq!(write.wait().0, Ok(20_000));
        assert_eq!(
            kind(reader.read(Vec::with_capacity(1), Wait::Never).wait().0),
            ErrorKind::Empty
        );
        let read = reader.read(Vec::with_capacity(1), LONG);
        wait_receivers(driver, reader.handle(), 1);
        drop(writer);
        assert_eq!(read.wait().0, Ok(0), "the last writer is gone");
    });
}

#[test]
fn links_are_made_and_accepted() {
    each(|driver| {
        let name = unique("uring/listener");
        let listener = Link::options()
            .backlog(1)
            .listen(&name)
            .expect("the name is new");
        let listener = driver.attach(listener);
        // Who accepts waits first, and then who connects.
        let accept = listener.accept();
        wait_receivers(driver, listener.handle(), 1);
        let client = driver
            .connect(&name, LONG)
            .expect("a descriptor")
            .wait()
            .expect("somebody accepts");
        let server = accept.wait().expect("somebody came");
        let (client, server) = (driver.attach(client), driver.attach(server));
        client.send("hello").wait().expect("it is open");
        assert_eq!(server.recv().wait().expect("it comes").payload, b"hello");
        server.send("back").wait().expect("it is open");
        assert_eq!(client.recv().wait().expect("it comes").payload, b"back");
        // There is room for one more, and then none.
        let first = driver
            .connect(&name, LONG)
            .expect("a descriptor")
            .wait()
            .expect("there is room");
        let full = driver
            .connect(&name, Wait::Never)
            .expect("a descriptor")
            .wait();
        assert_eq!(kind(full), ErrorKind::Full);
        let late = driver.connect(&name, SOON).expect("a descriptor").wait();
        assert_eq!(kind(late), ErrorKind::Timeout);
        let second = driver.connect(&name, LONG).expect("a descriptor");
        let third = driver.connect(&name, LONG).expect("a descriptor");
        third.cancel();
        assert_eq!(kind(third.wait()), ErrorKind::Cancelled);
        assert!(!second.is_done());
        for _ in 0..2 {
            listener.accept().wait().expect("somebody waits");
        }
        second.wait().expect("there was room");
        drop(first);
        assert_eq!(
            kind(listener.accept_with(Wait::Never).wait()),
            ErrorKind::Empty
        );
        let nobody = driver
            .connect(&unique("uring/nobody"), LONG)
            .expect("a descriptor")
            .wait();
        assert_eq!(kind(nobody), ErrorKind::NotFound);
        assert_eq!(kind(driver.connect_port(0, LONG)), ErrorKind::InvalidName);
        // On a port.
        let listener = driver.attach(Port::listen(7001).expect("nobody has it"));
        let accept = listener.accept();
        driver
            .connect_port(7001, LONG)
            .expect("a descriptor")
            .wait()
            .expect("somebody listens");
        accept.wait().expect("somebody came");
    });
}

#[test]
fn peers_are_waited_for() {
    each(|driver| {
        let first = driver.attach(Port::open(7002).expect("nobody has it"));
        let waits = first.wait_peer(LONG);
        driver.submit().expect("the ring works");
        assert_eq!(kind(first.wait_peer(Wait::Never).wait()), ErrorKind::NotYet);
        assert!(!waits.is_done());
        let second = Port::open(7002).expect("the first is there");
        waits.wait().expect("it is there");
        first.wait_peer(LONG).wait().expect("it is there");
        drop(second);
    });
}

#[test]
fn wait_objects_are_waited_for() {
    each(|driver| {
        let semaphore = Semaphore::options()
            .initial(1)
            .maximum(5)
            .anonymous()
            .expect("new");
        let semaphore = driver.attach(semaphore);
        let first = semaphore.acquire().wait().expect("there is one");
        assert_eq!((first.count(), first.owner_died()), (1, false));
        let three = semaphore.acquire_many(3, LONG);
        let one = semaphore.acquire();
        wait_receivers(driver, semaphore.handle(), 2);
        semaphore.post(2).wait().expect("there is room");
        assert!(
            !three.is_done() && !one.is_done(),
            "in the order of arrival"
        );
        drop(first);
        let three = three.wait().expect("there are so many");
        assert!(!one.is_done());
        drop(three);
        drop(one.wait().expect("there are so many"));
        assert_eq!(semaphore.handle().value().expect("bound"), 3);
        semaphore.acquire().wait().expect("there are some").forget();
        assert_eq!(semaphore.handle().value().expect("bound"), 2);
        assert_eq!(kind(semaphore.post(10).wait()), ErrorKind::Overflow);
        let none = semaphore.acquire_many(4, Wait::Never).wait();
        assert_eq!(kind(none), ErrorKind::NotYet);

        let latch = driver.attach(Latch::new(2).expect("new"));
        let waits = [latch.wait_open(LONG), latch.wait_open(LONG)];
        wait_receivers(driver, latch.handle(), 2);
        latch.count_down(1).wait().expect("it is two");
        assert_eq!(kind(latch.wait_open(Wait::Never).wait()), ErrorKind::NotYet);
        latch.count_down(1).wait().expect("it is one");
        for op in waits {
            op.wait().expect("it is open");
        }
        latch.wait_open(LONG).wait().expect("it is open");
        assert_eq!(kind(latch.count_down(1).wait()), ErrorKind::Overflow);

        let barrier = driver.attach(Barrier::new(3).expect("new"));
        for _ in 0..3 {
            let waits = [0; 3].map(|_| barrier.wait_all(LONG));
            let leaders = waits.map(|op| op.wait().expect("all are there").is_leader());
            assert_eq!(leaders.iter().filter(|leader| **leader).count(), 1);
        }
        assert_eq!(
            kind(barrier.wait_all(Wait::Never).wait()),
            ErrorKind::NotYet
        );
        assert_eq!(kind(barrier.wait_all(SOON).wait()), ErrorKind::Timeout);
    });
}

#[test]
fn rings_are_waited_for() {
    each(|driver| {
        let (sender, receiver) = Ring::options().capacity(4096).pair().expect("descriptors");
        let mut producer = sender.attach().expect("nobody has");
        let mut consumer = receiver.attach().expect("nobody has");
        let waits = driver
            .ring_wait(&consumer, RingSide::Consumer, LONG)
            .expect("a descriptor");
        driver.submit().expect("the ring works");
        assert!(!waits.is_done());
        producer.send(b"record").expect("there is room");
        waits.wait().expect("it is there");
        assert_eq!(
            consumer.try_recv().expect("it is there").to_vec(),
            b"record"
        );
        let late = driver
            .ring_wait(&consumer, RingSide::Consumer, SOON)
            .expect("a descriptor");
        assert_eq!(kind(late.wait()), ErrorKind::Timeout);
        while producer.try_send(&[0; 1000]).is_ok() {}
        let waits = driver
            .ring_wait(&producer, RingSide::Producer, LONG)
            .expect("a descriptor");
        driver.submit().expect("the ring works");
        assert!(!waits.is_done());
        while consumer.try_recv().is_ok() {}
        waits.wait().expect("there is room");
        let waits = driver
            .ring_wait(&consumer, RingSide::Consumer, LONG)
            .expect("a descriptor");
        driver.submit().expect("the ring works");
        drop(producer);
        waits.wait().expect("the other side has left");
    });
}

#[test]
fn room_is_reserved() {
    each(|driver| {
        let (sender, receiver) = split(2);
        let sender = driver.attach(sender);
        let first = sender.reserve(100, LONG).wait().expect("there is room");
        let second = sender.reserve(100, LONG).wait().expect("there is room");
        let third = sender.reserve(100, LONG);
        wait_senders(driver, sender.handle(), 1);
        drop(second);
        let third = third.wait().expect("it was given back");
        let error = first
            .send(vec![0; 101], 0)
            .expect_err("it is more than was reserved");
        assert_eq!(
            error.error.kind,
            ErrorKind::TooLarge {
                len: 101,
                limit: 100
            }
        );
        third.send("third", 5).expect("there is room");
        assert_eq!(receiver.info().expect("bound").reserved_messages, 0);
        let message = receiver.try_recv().expect("it is there");
        assert_eq!((&*message, message.priority), (&b"third"[..], 5));
        let none = driver.attach(mailbox(0));
        assert_eq!(kind(none.reserve(1, LONG).wait()), ErrorKind::Unsupported);
    });
}

#[test]
fn bytes_alone() {
    each(|driver| {
        let (sender, receiver) = split(4);
        let (client, receiver) = (
            sender.try_clone().expect("a descriptor"),
            driver.attach(receiver),
        );
        let parked = receiver.recv_into(Vec::with_capacity(16), LONG);
        wait_receivers(driver, receiver.handle(), 1);
        sender.send("parked").expect("there is room");
        let (len, bytes) = parked.wait();
        assert_eq!((len, bytes.as_slice()), (Ok(6), &b"parked"[..]));
        // What is too large stays.
        sender.send([7; 17]).expect("there is room");
        let (error, bytes) = receiver.recv_into(bytes, LONG).wait();
        assert_eq!(kind(error), ErrorKind::TooLarge { len: 17, limit: 16 });
        let (len, bytes) = receiver
            .recv_into(Vec::with_capacity(bytes.capacity() + 100), LONG)
            .wait();
        assert_eq!((len, bytes), (Ok(17), vec![7; 17]));
        // A request is dropped.
        let call = std::thread::spawn(move || client.call("x").map(drop));
        assert_eq!(
            receiver.recv_into(Vec::with_capacity(16), LONG).wait().0,
            Ok(1)
        );
        assert_eq!(
            kind(call.join().expect("it does not panic")),
            ErrorKind::Dropped
        );
    });
}

#[test]
fn registered_buffers_and_files() {
    each(|driver| {
        let buffers = driver
            .register_buffers(4, 4096)
            .expect("so much may be locked");
        assert!(
            driver.register_buffers(1, 1).is_err(),
            "once for each driver"
        );
        let (sender, receiver) = split(4);
        let sender = driver.attach_fixed(sender).expect("there are eight places");
        let receiver = driver
            .attach_fixed(receiver)
            .expect("there are eight places");
        for parked in [false, true] {
            let early = parked.then(|| {
                let buffer = buffers.take().expect("one is free");
                receiver.recv_fixed(buffer, LONG)
            });
            if parked {
                wait_receivers(driver, receiver.handle(), 1);
            }
            let mut buffer = buffers.take().expect("one is free");
            buffer[..5].copy_from_slice(b"hello");
            let (sent, buffer) = sender.send_fixed(buffer, 5, 9, LONG).wait();
            assert_eq!(sent, Ok(5));
            let op = early.unwrap_or_else(|| receiver.recv_fixed(buffer, LONG));
            let (len, buffer) = op.wait();
            assert_eq!((len, &buffer[..5]), (Ok(5), &b"hello"[..]));
        }
        assert_eq!(buffers.available(), 4);
        // A send that waits, and a message that is too large.
        let sends: Vec<_> = (0..4u8)
            .map(|n| {
                let mut buffer = buffers.take().expect("one is free");
                buffer[0] = n;
                sender.send_fixed(buffer, 1, 0, LONG)
            })
            .collect();
        let last = sender.send("waits");
        wait_senders(driver, sender.handle(), 1);
        for n in 0..4u8 {
            assert_eq!(receiver.recv().wait().expect("it is there").payload, [n]);
        }
        sends
            .into_iter()
            .for_each(|op| assert_eq!(op.wait().0, Ok(1)));
        last.wait().expect("there was room");
        receiver.recv().wait().expect("it is there");
        sender.send(vec![0; 5000]).wait().expect("there is room");
        let (error, buffer) = receiver
            .recv_fixed(buffers.take().expect("one is free"), LONG)
            .wait();
        assert_eq!(
            kind(error),
            ErrorKind::TooLarge {
                len: 5000,
                limit: 4096
            }
        );
        drop(buffer);
        assert_eq!(receiver.recv().wait().expect("it stayed").len(), 5000);

        let (reader, writer) = Pipe::pair().expect("descriptors");
        let reader = driver.attach_fixed(reader).expect("there are eight places");
        let writer = driver.attach_fixed(writer).expect("there are eight places");
        let read = reader.read_fixed(buffers.take().expect("one is free"), LONG);
        wait_receivers(driver, reader.handle(), 1);
        let mut buffer = buffers.take().expect("one is free");
        buffer.fill(3);
        assert_eq!(writer.write_fixed(buffer, 4096, LONG).wait().0, Ok(4096));
        let (len, buffer) = read.wait();
        assert_eq!(&buffer[..len.expect("bytes came")], &vec![3; 4096][..]);
        // A place is free again when its handle is gone.
        let more: Vec<_> = (0..4)
            .map(|_| {
                driver
                    .attach_fixed(mailbox(1))
                    .expect("there are eight places")
            })
            .collect();
        let error = driver
            .attach_fixed(mailbox(1))
            .expect_err("there are eight places");
        assert_eq!(error.errno, Some(postbox::Errno::NFILE));
        drop(more);
        settle(driver);
        let again = driver
            .attach_fixed(mailbox(1))
            .expect("they are free again");
        again.send("x").wait().expect("there is room");
        assert_eq!(again.recv().wait().expect("it is there").payload, b"x");
    });
}

#[test]
fn times_are_kept() {
    each(|driver| {
        let both = driver.attach(mailbox(1));
        let waits = [
            Wait::Timeout(Duration::from_millis(10)),
            Wait::Deadline(std::time::Instant::now() + Duration::from_millis(10)),
            Wait::RealtimeDeadline(std::time::SystemTime::now() + Duration::from_millis(10)),
            Wait::Deadline(std::time::Instant::now()),
        ];
        for wait in waits {
            assert_eq!(kind(both.recv_with(wait).wait()), ErrorKind::Timeout);
            assert_eq!(kind(both.take_with(wait).wait()), ErrorKind::Timeout);
            assert_eq!(kind(both.recv_many(2, wait).wait()), ErrorKind::Timeout);
            assert_eq!(
                kind(both.recv_into(Vec::new(), wait).wait().0),
                ErrorKind::Timeout
            );
        }
        both.send("x").wait().expect("there is room");
        for wait in waits {
            let error = both.send_with("y", 0, wait).wait().expect_err("it is full");
            assert_eq!(
                (error.error.kind, error.payload.as_slice()),
                (ErrorKind::Timeout, &b"y"[..])
            );
            assert_eq!(kind(both.reserve(1, wait).wait()), ErrorKind::Timeout);
        }
        // What can be done at once is done, also when the time is up.
        assert_eq!(
            both.recv_with(waits[3])
                .wait()
                .expect("it is there")
                .payload,
            b"x"
        );
        let (reader, writer) = Pipe::options().capacity(4096).pair().expect("descriptors");
        let (reader, writer) = (driver.attach(reader), driver.attach(writer));
        assert_eq!(
            kind(reader.read(Vec::with_capacity(1), SOON).wait().0),
            ErrorKind::Timeout
        );
        assert_eq!(
            writer.write(vec![0; 10_000], SOON).wait().0,
            Ok(4096),
            "a part"
        );
        assert_eq!(
            kind(writer.write(vec![0; 10], SOON).wait().0),
            ErrorKind::Timeout
        );
        let semaphore = driver.attach(Semaphore::new(0).expect("new"));
        assert_eq!(
            kind(semaphore.acquire_many(1, SOON).wait()),
            ErrorKind::Timeout
        );
        let latch = driver.attach(Latch::new(1).expect("new"));
        assert_eq!(kind(latch.wait_open(SOON).wait()), ErrorKind::Timeout);
        let port = driver.attach(Port::open(7003).expect("nobody has it"));
        assert_eq!(kind(port.wait_peer(SOON).wait()), ErrorKind::Timeout);
        let listener = driver.attach(Listener::bind(&unique("uring/times")).expect("new"));
        assert_eq!(kind(listener.accept_with(SOON).wait()), ErrorKind::Timeout);
    });
}

#[test]
fn the_other_side_is_gone() {
    each(|driver| {
        let (sender, receiver) = split(1);
        let receiver = driver.attach(receiver);
        let parked = receiver.recv();
        wait_receivers(driver, receiver.handle(), 1);
        drop(sender);
        assert_eq!(kind(parked.wait()), ErrorKind::Disconnected);
        assert_eq!(kind(receiver.recv().wait()), ErrorKind::Disconnected);
        let (sender, receiver) = split(1);
        let sender = driver.attach(sender);
        sender.send("x").wait().expect("there is room");
        let parked = sender.send("y");
        wait_senders(driver, sender.handle(), 1);
        drop(receiver);
        let error = parked.wait().expect_err("nobody is there");
        assert_eq!(
            (error.error.kind, error.payload.as_slice()),
            (ErrorKind::Disconnected, &b"y"[..])
        );
    });
}

#[test]
fn a_handle_stays_open_for_what_is_under_way() {
    each(|driver: &Driver| {
        let (sender, receiver) = split(1);
        let attached = driver.attach(receiver);
        let parked = attached.recv();
        wait_receivers(driver, attached.handle(), 1);
        drop(attached);
        sender.send("x").expect("somebody receives");
        assert_eq!(parked.wait().expect("it came").payload, b"x");
        settle(driver);
        assert!(
            sender
                .try_send("y")
                .is_err_and(|error| error.error.is_disconnected())
        );
        let unbounded = Mailbox::options()
            .capacity(Capacity::Unbounded)
            .anonymous()
            .expect("new");
        let attached = driver.attach(unbounded);
        // More than the queues have room for.
        let sends: Vec<_> = (0..5000u32)
            .map(|n| attached.send(n.to_le_bytes()))
            .collect();
        for send in sends {
            send.wait().expect("there is no limit");
        }
        assert_eq!(attached.handle().info().expect("bound").messages, 5000);
    });
}
