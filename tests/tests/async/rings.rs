//! Rings: both sides as tasks, which the doorbell wakes by the reactor.

use std::sync::atomic::Ordering::SeqCst;

use postbox::{Consumer, Producer, Ring};
use postbox_tests::{Ledger, isolated, scaled, sleep_forever, spawn};

use super::*;

fn ring(bytes: u64, many: bool) -> (Async<Producer>, Async<Consumer>) {
    let (sender, receiver) = Ring::options()
        .capacity(bytes)
        .many(many)
        .pair()
        .expect("a ring");
    let producer = sender.attach().expect("nobody else");
    let consumer = receiver.attach().expect("nobody else");
    still_blocks(&sender);
    (is(producer), is(consumer))
}

#[test]
fn records_come_in_order() {
    for (bytes, many) in [(4096, false), (65_536, false), (4096, true)] {
        on_both(async || {
            let count = scaled(3_000) as u64;
            let (mut producer, mut consumer) = ring(bytes, many);
            let sending = tokio::spawn(async move {
                for n in 0..count {
                    match n % 3 {
                        0 => producer
                            .send(&n.to_ne_bytes())
                            .await
                            .expect("it is received"),
                        _ => {
                            let len = 8 + n as usize % 900;
                            let mut slot = producer.reserve(len).await.expect("it is received");
                            slot.write(&n.to_ne_bytes());
                            slot.commit();
                        }
                    }
                }
                still_blocks(&producer);
            });
            for n in 0..count {
                let record = consumer.recv().await.expect("it is sent");
                let mut head = [0; 8];
                record.read_at(0, &mut head);
                assert_eq!(u64::from_ne_bytes(head), n);
                drop(record);
                if n % 100 == 0 {
                    // So that the other side finds it full.
                    a_while().await;
                }
            }
            sending.await.expect("no panic");
            assert_eq!(kind(consumer.recv().await), ErrorKind::Disconnected);
            still_blocks(&consumer);
        });
    }
}

#[test]
fn a_ring_that_is_full_or_empty_waits_and_what_is_dropped_does_nothing() {
    on_both(async || {
        let (mut producer, mut consumer) = ring(4096, false);
        waits(consumer.recv()).await;
        producer.send(&[1; 1000]).await.expect("room");
        assert_eq!(consumer.recv().await.expect("sent").len(), 1000);
        waits(consumer.recv()).await;
        for n in 0..4 {
            producer.send(&[n; 900]).await.expect("room");
        }
        waits(producer.send(&[9; 900])).await;
        waits(producer.reserve(900)).await;
        drop(producer.reserve(100).await.expect("a small one has room"));
        assert_eq!(kind(producer.try_send(&[9; 900])), ErrorKind::Full);
        let longest = 2040;
        assert_eq!(
            kind(producer.send(&[0; 4096]).await),
            ErrorKind::TooLarge {
                len: 4096,
                limit: longest
            }
        );
        for n in 0..4 {
            assert_eq!(consumer.recv().await.expect("sent").to_vec(), [n; 900]);
        }
        assert_eq!(kind(consumer.try_recv()), ErrorKind::Empty);
        producer.send(&[5; 900]).await.expect("there is room again");
        // One that is looked at and forgotten stays.
        std::mem::forget(consumer.recv().await.expect("sent"));
        let mut batch = consumer.batch();
        assert_eq!(batch.try_next().expect("it is there").to_vec(), [5; 900]);
        assert!(batch.try_next().is_none());
        drop(batch);
        drop(consumer);
        assert_eq!(kind(producer.send(&[0]).await), ErrorKind::Disconnected);
    });
}

/// Each side falls asleep again and again, in all orders: an edge that was lost would hang.
#[test]
fn no_doorbell_is_lost() {
    on_both(async || {
        let (mut producer, mut consumer) = ring(4096, false);
        let (mut back, mut answers) = ring(4096, true);
        let rounds = scaled(600) as u64;
        let echo = tokio::spawn(async move {
            for _ in 0..rounds {
                let record = consumer.recv().await.expect("sent").to_vec();
                back.send(&record).await.expect("room");
            }
        });
        for n in 0..rounds {
            producer.send(&n.to_ne_bytes()).await.expect("room");
            if n % 50 == 0 {
                a_while().await;
            }
            let answer = answers.recv().await.expect("it comes back").to_vec();
            assert_eq!(answer, n.to_ne_bytes());
        }
        echo.await.expect("no panic");
    });
}

#[test]
fn many_producers_send_from_many_tasks() {
    on_both(async || {
        let (sender, receiver) = Ring::options()
            .capacity(4096)
            .many(true)
            .pair()
            .expect("a ring");
        let each = scaled(300) as u64;
        let producers: Vec<_> = (0..5)
            .map(|_| {
                is(sender
                    .try_clone()
                    .expect("a handle")
                    .attach()
                    .expect("room for it"))
            })
            .collect();
        let mut consumer = is(receiver.attach().expect("nobody else"));
        let tasks: Vec<_> = producers
            .into_iter()
            .zip(0_u64..)
            .map(|(mut producer, n)| {
                tokio::spawn(async move {
                    for m in 0..each {
                        let mut slot = producer.reserve(16).await.expect("room");
                        slot.write_at(0, &n.to_ne_bytes());
                        slot.write_at(8, &m.to_ne_bytes());
                        if m % 5 == 0 {
                            // Somebody else commits before.
                            tokio::task::yield_now().await;
                        }
                        slot.commit();
                    }
                })
            })
            .collect();
        let mut next = [0; 5];
        for _ in 0..5 * each {
            let [n, m]: [u64; 2] = consumer
                .recv()
                .await
                .expect("sent")
                .value()
                .expect("two numbers");
            assert_eq!(next[n as usize], m, "each in its own order");
            next[n as usize] += 1;
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(kind(consumer.recv().await), ErrorKind::Disconnected);
    });
}

#[test]
fn the_end_of_a_side_wakes_the_other() {
    isolated(|| {
        on_both(async || {
            let (producer, mut consumer) = ring(4096, false);
            let (ended, ()) = tokio::join!(async { consumer.recv().await.map(drop) }, async {
                a_while().await;
                drop(producer);
            });
            assert_eq!(kind(ended), ErrorKind::Disconnected);

            let (mut producer, consumer) = ring(4096, false);
            for _ in 0..4 {
                producer.send(&[0; 900]).await.expect("room");
            }
            let (ended, ()) = tokio::join!(producer.send(&[0; 900]), async {
                a_while().await;
                drop(consumer);
            });
            assert_eq!(kind(ended), ErrorKind::Disconnected);

            let (sender, receiver) = Ring::options().capacity(4096).pair().expect("a ring");
            let mut consumer = is(receiver.attach().expect("nobody else"));
            let attached = Ledger::new(1);
            let child = spawn(|| {
                let mut producer = sender.attach().expect("nobody else");
                producer.send(b"last words").expect("room");
                attached[0].store(1, SeqCst);
                sleep_forever();
            });
            while attached[0].load(SeqCst) == 0 {
                a_while().await;
            }
            assert_eq!(consumer.recv().await.expect("sent").to_vec(), b"last words");
            let (ended, ()) = tokio::join!(async { consumer.recv().await.map(drop) }, async {
                a_while().await;
                child.destroy();
            });
            assert_eq!(kind(ended), ErrorKind::OwnerDied);
        });
    });
}
