//! Parked commands and sleeping tasks are served in the order in which they came.

use std::sync::mpsc;
use std::time::Duration;

use postbox::{Capacity, Mailbox, Pipe, Semaphore, Wait};
use postbox_tests::{scope, wait_until};

use crate::{LONG, each, split, wait_receivers, wait_senders};

#[test]
fn receives_in_the_order_of_arrival() {
    each(|driver| {
        let (sender, receiver) = split(16);
        let receiver = driver.attach(receiver);
        let (tell, told) = mpsc::channel();
        scope(|scope| {
            // One parks, one sleeps, one parks, and so on.
            let mut parked = Vec::new();
            for place in 0..10 {
                if place % 2 == 0 {
                    parked.push((place, receiver.recv()));
                } else {
                    let (handle, tell) = (receiver.handle(), tell.clone());
                    scope.spawn(move || {
                        let message = handle.recv().expect("it comes");
                        tell.send((place, message.payload))
                            .expect("somebody is told");
                    });
                }
                wait_receivers(driver, receiver.handle(), place + 1);
            }
            for number in 0..10u8 {
                sender.try_send([number]).expect("somebody waits");
            }
            let mut seen: Vec<_> = parked
                .into_iter()
                .map(|(place, op)| (place, op.wait().expect("it came").payload))
                .collect();
            seen.extend(
                (0..5).map(|_| told.recv_timeout(Duration::from_secs(60)).expect("it came")),
            );
            seen.sort();
            let expected: Vec<_> = (0..10u8).map(|n| (u32::from(n), vec![n])).collect();
            assert_eq!(seen, expected);
        });
    });
}

#[test]
fn sends_in_the_order_of_arrival() {
    each(|driver| {
        for capacity in [0, 1] {
            let (sender, receiver) = split(capacity);
            let sender = driver.attach(sender);
            if capacity == 1 {
                sender.send([255]).wait().expect("there is room");
            }
            scope(|scope| {
                let mut parked = Vec::new();
                for place in 0..10u8 {
                    if place % 2 == 0 {
                        parked.push(sender.send([place]));
                    } else {
                        let handle = sender.handle();
                        scope.spawn(move || handle.send([place]).expect("it is received"));
                    }
                    wait_senders(driver, sender.handle(), u32::from(place) + 1);
                }
                if capacity == 1 {
                    assert_eq!(
                        receiver.recv_with(LONG).expect("it is there").payload,
                        [255]
                    );
                }
                for place in 0..10u8 {
                    // Who is parked runs only where the ring is looked after, but its place is its own.
                    wait_until("the next message", || {
                        driver.turn(Wait::Never).expect("the ring works");
                        match receiver.try_recv() {
                            Ok(message) => {
                                assert_eq!(message.payload, [place]);
                                true
                            }
                            Err(error) => {
                                assert!(error.is_empty(), "{error}");
                                false
                            }
                        }
                    });
                }
                for op in parked {
                    op.wait().expect("it was received");
                }
            });
        }
    });
}

#[test]
fn acquisitions_in_the_order_of_arrival() {
    each(|driver| {
        let semaphore = driver.attach(Semaphore::new(0).expect("new"));
        let (tell, told) = mpsc::channel();
        scope(|scope| {
            let first = semaphore.acquire();
            wait_receivers(driver, semaphore.handle(), 1);
            let handle = semaphore.handle();
            scope.spawn(move || {
                handle.take(1, LONG).expect("it is posted");
                tell.send(()).expect("somebody is told");
            });
            wait_receivers(driver, semaphore.handle(), 2);
            let third = semaphore.acquire();
            wait_receivers(driver, semaphore.handle(), 3);
            semaphore.handle().post(1).expect("there is room");
            first.wait().expect("it is the first").forget();
            assert!(told.try_recv().is_err() && !third.is_done());
            semaphore.handle().post(1).expect("there is room");
            told.recv_timeout(Duration::from_secs(60))
                .expect("it is the second");
            driver.turn(Wait::Never).expect("the ring works");
            assert!(!third.is_done());
            semaphore.handle().post(1).expect("there is room");
            third.wait().expect("it is the third").forget();
        });
    });
}

#[test]
fn bytes_in_the_order_of_arrival() {
    each(|driver| {
        let (reader, writer) = Pipe::pair().expect("descriptors");
        let reader = driver.attach(reader);
        let first = reader.read(Vec::with_capacity(3), LONG);
        wait_receivers(driver, reader.handle(), 1);
        let second = reader.read(Vec::with_capacity(3), LONG);
        wait_receivers(driver, reader.handle(), 2);
        use std::io::Write;
        (&writer).write_all(b"abcdef").expect("there is room");
        assert_eq!(first.wait().1, b"abc");
        assert_eq!(second.wait().1, b"def");
    });
}

#[test]
fn higher_priorities_first() {
    each(|driver| {
        let mailbox = Mailbox::options()
            .capacity(Capacity::Unbounded)
            .anonymous()
            .expect("new");
        let both = driver.attach(mailbox);
        let sends: Vec<_> = [1, 5, 3, 5, 0]
            .into_iter()
            .map(|priority| both.send_with([priority as u8], priority, LONG))
            .collect();
        for send in sends {
            send.wait().expect("there is room");
        }
        let seen: Vec<_> = (0..5)
            .map(|_| both.recv().wait().expect("it is there").priority)
            .collect();
        assert_eq!(seen, [5, 5, 3, 1, 0]);
    });
}
