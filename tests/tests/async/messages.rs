//! Messages: every form, what a dropped future leaves, ends, many tasks, and the events of an edge-triggered reactor.

use std::collections::BTreeSet;
use std::fs::File;
use std::future::{pending, poll_fn};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use postbox::aio::Interest;
use postbox::{Endpoint, Parcel, Pool, Shutdown, Wait};
use postbox_tests::{Gate, Rng, isolated, scaled, scope, spawn, unique};
use tokio::time::timeout;

use super::*;

#[test]
fn every_form_sends_and_receives() {
    on_both(async || {
        let (sender, receiver) = bounded(16);
        sender.send("one").await.expect("room");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"one");
        sender.send(Vec::new()).await.expect("an empty one");
        assert!(receiver.recv().await.expect("sent").is_empty());
        let large = vec![7; 300_000];
        sender.send(&large).await.expect("room");
        assert_eq!(receiver.recv().await.expect("sent").payload, large);

        sender.send("low").await.expect("room");
        sender.send_with("high", 9).await.expect("room");
        let first = receiver.recv().await.expect("sent");
        assert_eq!((&*first, first.priority), (&b"high"[..], 9));
        let mut buf = [0; 8];
        let received = receiver.recv_into(&mut buf).await.expect("sent");
        assert_eq!(&buf[..received.len], b"low");

        sender.send_many(&["a", "b", "c"], 0).await.expect("room");
        let mut messages = Vec::new();
        while messages.len() < 2 {
            let limit = 2 - messages.len();
            let count = receiver.recv_many(&mut messages, limit).await;
            assert!((1..=limit).contains(&count.expect("sent")));
        }
        assert_eq!((&*messages[0], &*messages[1]), (&b"a"[..], &b"b"[..]));
        assert_eq!(&*receiver.recv().await.expect("sent"), b"c");

        let file = File::open("/proc/self/stat").expect("there is one");
        let mut parcel = Parcel::new("a file");
        sender
            .send_parcel(parcel.attach(&file))
            .await
            .expect("room");
        let mut message = receiver.recv().await.expect("sent");
        let mut text = String::new();
        let mut file = File::from(message.files.remove(0));
        file.read_to_string(&mut text).expect("it is readable");
        assert!(!text.is_empty());

        sender.send("bad").await.expect("room");
        let small = receiver.recv_into(&mut [0; 1]).await;
        assert_eq!(kind(small), ErrorKind::TooLarge { len: 3, limit: 1 });
        assert_eq!(&*receiver.recv().await.expect("it stayed"), b"bad");
        still_blocks(&sender);
        still_blocks(&receiver);
    });
}

#[test]
fn a_mailbox_with_both_rights_sends_to_itself_and_is_split() {
    on_both(async || {
        let both = is(mailbox(Capacity::Bounded(1)));
        both.send("one").await.expect("room");
        waits(both.send("two")).await;
        assert_eq!(&*both.recv().await.expect("sent"), b"one");
        waits(both.recv()).await;
        let (sender, receiver) = both.split().expect("it has both rights");
        let task = tokio::spawn(async move { receiver.recv().await });
        sender.send("to the other half").await.expect("room");
        let message = task.await.expect("no panic").expect("sent");
        assert_eq!(&*message, b"to the other half");
        assert_eq!(kind(sender.send("").await), ErrorKind::Disconnected);
    });
}

#[test]
fn who_waits_goes_on_when_it_can() {
    on_both(async || {
        let (sender, receiver) = bounded(1);
        let sender = Arc::new(sender);
        let receiving = tokio::spawn(async move {
            let message = receiver.recv().await;
            (receiver, message)
        });
        a_while().await;
        sender.send("one").await.expect("room");
        let (receiver, message) = receiving.await.expect("no panic");
        assert_eq!(&*message.expect("sent"), b"one");

        sender.send("two").await.expect("room");
        let sending = {
            let sender = sender.clone();
            tokio::spawn(async move { sender.send("three").await })
        };
        a_while().await;
        assert!(!sending.is_finished(), "it is full");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"two");
        sending.await.expect("no panic").expect("there was room");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"three");
    });
}

/// A sender of the other way, which waits in a call, is met as well.
#[test]
fn tasks_and_threads_meet() {
    on_both(async || {
        let (sender, receiver) = bounded(1);
        let thread = {
            let sender = sender.get_ref().try_clone().expect("a handle");
            std::thread::spawn(move || (0..200).try_for_each(|n| sender.send(format!("{n}"))))
        };
        for n in 0..200 {
            let message = receiver.recv().await.expect("sent");
            assert_eq!(&*message, n.to_string().as_bytes());
        }
        thread.join().expect("no panic").expect("all were received");
        let thread = std::thread::spawn(move || {
            (0..200).all(|n| *receiver.get_ref().recv().expect("sent") == [n])
        });
        for n in 0..200 {
            sender.send([n]).await.expect("room");
        }
        assert!(thread.join().expect("no panic"));
    });
}

#[test]
fn a_send_that_is_dropped_sends_nothing() {
    on_both(async || {
        let (sender, receiver) = bounded(1);
        sender.send("one").await.expect("room");
        let lent = String::from("lent");
        waits(sender.send(&lent)).await;
        waits(sender.send(String::from("given"))).await;
        waits(sender.reserve(1)).await;
        waits(sender.send_parcel(&Parcel::new("parcel"))).await;
        assert_eq!(&*receiver.recv().await.expect("sent"), b"one");
        waits(receiver.recv()).await;
        sender
            .send(lent)
            .await
            .expect("it is still there, and so is the room");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"lent");
    });
}

#[test]
fn a_receive_that_is_dropped_takes_nothing() {
    on_both(async || {
        let (sender, receiver) = bounded(4);
        waits(receiver.recv()).await;
        waits(receiver.take()).await;
        waits(receiver.recv_request()).await;
        waits(receiver.recv_into(&mut [0; 8])).await;
        waits(receiver.recv_many(&mut vec![], 8)).await;
        // Each of them had been woken by what came, and was dropped before it was polled again.
        for n in 0..50_u8 {
            let mut first = Box::pin(receiver.recv());
            let polled = poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx))).await;
            assert!(polled.is_pending(), "{n}: nothing is there");
            sender.send([n]).await.expect("room");
            if n % 2 == 0 {
                a_while().await;
            }
            drop(first);
            assert_eq!(*receiver.recv().await.expect("it was not lost"), [n]);
        }
    });
}

#[test]
fn room_is_kept_by_a_permit_and_given_back() {
    on_both(async || {
        let (sender, receiver) = bounded(1);
        let permit = sender.reserve(16).await.expect("room");
        waits(sender.send("no room")).await;
        permit.send("in it").expect("it was reserved");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"in it");
        drop(sender.reserve(16).await.expect("room"));

        let sender = Arc::new(sender);
        let permit = sender.clone().reserve_owned(16).await.expect("room");
        waits(sender.send("no room")).await;
        let elsewhere = tokio::spawn(async move { permit.send("from elsewhere") });
        elsewhere.await.expect("no panic").expect("it was reserved");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"from elsewhere");

        let permit = sender.clone().reserve_owned(16).await.expect("room");
        let weak = Arc::downgrade(&sender);
        let waiting = tokio::spawn(async move { sender.send("after it").await });
        a_while().await;
        drop(permit);
        waiting
            .await
            .expect("no panic")
            .expect("the room came back");
        assert!(weak.upgrade().is_none(), "nothing keeps the handle");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"after it");
        assert_eq!(kind(receiver.recv().await), ErrorKind::Disconnected);

        let (sender, _receiver) = sides(Capacity::Rendezvous);
        assert_eq!(kind(sender.reserve(1).await), ErrorKind::Unsupported);
    });
}

#[test]
fn what_is_not_acknowledged_comes_back() {
    on_both(async || {
        let (sender, receiver) = bounded(4);
        let receiver = Arc::new(receiver);
        sender.send("one").await.expect("room");
        drop(receiver.take().await.expect("sent"));
        let again = receiver.take().await.expect("it came back");
        assert!(again.redelivered);
        again.requeue().expect("it is ours");

        // In another task, which is dropped in the middle.
        let taken = receiver.clone().take_owned().await.expect("it came back");
        let task = tokio::spawn(async move {
            pending::<()>().await;
            taken.ack()
        });
        waits(receiver.take()).await;
        task.abort();
        assert!(task.await.expect_err("it was aborted").is_cancelled());
        let taken = receiver.clone().take_owned().await.expect("it came back");
        tokio::spawn(async move { taken.ack() })
            .await
            .expect("no panic")
            .expect("it is ours");
        drop(sender);
        assert_eq!(kind(receiver.take().await), ErrorKind::Disconnected);
        let weak = Arc::downgrade(&receiver);
        drop(receiver);
        assert!(weak.upgrade().is_none(), "nothing keeps the handle");
    });
}

#[test]
fn the_end_wakes_who_waits() {
    on_both(async || {
        let (sender, receiver) = bounded(1);
        sender.send("last").await.expect("room");
        let both = tokio::join!(
            async {
                a_while().await;
                drop(sender);
            },
            async { (receiver.recv().await, receiver.recv().await) },
        );
        assert_eq!(&*both.1.0.expect("sent"), b"last");
        assert_eq!(kind(both.1.1), ErrorKind::Disconnected);

        let (sender, receiver) = bounded(1);
        sender.send("one").await.expect("room");
        let task = tokio::spawn(async move {
            let failed = sender
                .send(String::from("two"))
                .await
                .expect_err("nobody receives it");
            (failed.error.kind, failed.payload)
        });
        a_while().await;
        drop(receiver);
        let failed = task.await.expect("no panic");
        assert_eq!(failed, (ErrorKind::Disconnected, "two".into()));
    });
}

/// Counts how often the handle was tried while a future waits.
async fn counted<T>(
    tries: &AtomicUsize,
    waiting: impl Future<Output = T>,
    event: impl Future<Output = ()>,
) -> T {
    tries.store(0, Relaxed);
    let (done, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = tries.load(Relaxed);
        assert!(
            before < 100,
            "it tried {before} times, and nothing had happened"
        );
        event.await;
    });
    done
}

/// tokio takes a hang-up for the end of everything; for a mailbox it is not.
#[test]
fn an_end_is_over_when_somebody_comes_again() {
    on_both(async || {
        let name = unique("again");
        let owner = Mailbox::options()
            .create_new(true)
            .capacity(Capacity::Bounded(1))
            .open(&name)
            .expect("a new name");
        let receiver = is(owner.receiver().expect("it has the right"));
        let sender = is(owner.sender().expect("it has the right"));
        drop(owner);
        sender.send("one").await.expect("room");
        drop(sender);
        assert_eq!(&*receiver.recv().await.expect("sent"), b"one");
        assert_eq!(kind(receiver.recv().await), ErrorKind::Disconnected);

        // The end is over: there is a sender, and nothing to receive.
        let sender = is(Sender::open(&name).expect("it is there"));
        let tries = AtomicUsize::new(0);
        let receive = receiver.io(Interest::Read, |receiver| {
            tries.fetch_add(1, Relaxed);
            receiver.try_recv()
        });
        let send = async { sender.send("two").await.expect("room") };
        let message = counted(&tries, receive, send).await;
        assert_eq!(&*message.expect("sent"), b"two");
        // Also for who is polled.
        let polled = poll_fn(|cx| {
            receiver.poll_io(Interest::Read, cx, |receiver| {
                tries.fetch_add(1, Relaxed);
                receiver.try_recv()
            })
        });
        let send = async { sender.send("three").await.expect("room") };
        let message = counted(&tries, polled, send).await;
        assert_eq!(&*message.expect("sent"), b"three");

        // The same on the other side: the last receiver goes, and another one comes.
        drop(receiver);
        assert_eq!(kind(sender.send("nobody").await), ErrorKind::Disconnected);
        let receiver = is(Receiver::open(&name).expect("it is there"));
        sender.send("four").await.expect("room");
        let send = sender.io(Interest::Write, |sender| {
            tries.fetch_add(1, Relaxed);
            sender
                .send_with("five", 0, Wait::Never)
                .map_err(|failed| failed.error)
        });
        let receive = async { drop(receiver.recv().await.expect("sent")) };
        counted(&tries, send, receive)
            .await
            .expect("there was room");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"five");
    });
}

/// The other end sends no more, which is a hang-up that holds for ever, and what this end sends has no room.
#[test]
fn a_link_that_is_half_closed_waits_for_room_in_peace() {
    on_both(async || {
        for polled in [false, true] {
            let (near, far) = postbox::Link::options()
                .capacity(Capacity::Bounded(1))
                .pair()
                .expect("a pair");
            far.shutdown(Shutdown::Write).expect("it can send");
            let (near, far) = (is(near), is(far));
            assert_eq!(kind(near.recv().await), ErrorKind::Disconnected);
            near.send("one").await.expect("room");
            let tries = AtomicUsize::new(0);
            let attempt = |link: &postbox::Link| {
                tries.fetch_add(1, Relaxed);
                let sent = link.send_with("two", 0, Wait::Never);
                sent.map_err(|failed| failed.error)
            };
            let receive = async { drop(far.recv().await.expect("sent")) };
            let sent = if polled {
                let send = poll_fn(|cx| near.poll_io(Interest::Write, cx, attempt));
                counted(&tries, send, receive).await
            } else {
                counted(&tries, near.io(Interest::Write, attempt), receive).await
            };
            sent.expect("there was room");
            assert_eq!(&*far.recv().await.expect("sent"), b"two");
        }
    });
}

/// The other end receives no more, which is an error that comes together with messages that are there.
#[test]
fn a_link_whose_peer_receives_no_more_tells_who_sends() {
    on_both(async || {
        for polled in [false, true] {
            let (near, far) = postbox::Link::options()
                .capacity(Capacity::Bounded(1))
                .pair()
                .expect("a pair");
            let (near, far) = (is(near), is(far));
            near.send("one").await.expect("room");
            far.send("back").await.expect("room");
            let send = async {
                if polled {
                    poll_fn(|cx| near.poll_send(cx, b"two", 0)).await
                } else {
                    near.send("two").await.map_err(Into::into)
                }
            };
            let (sent, ()) = tokio::join!(send, async {
                a_while().await;
                far.get_ref()
                    .shutdown(Shutdown::Read)
                    .expect("it can receive");
            });
            assert_eq!(kind(sent), ErrorKind::Disconnected, "polled: {polled}");
            assert_eq!(&*near.recv().await.expect("sent"), b"back");
        }
    });
}

/// tokio's own tests of AsyncFd: an event is not lost where several things came with one edge, and readiness that is used up
/// is not reported again.
#[test]
fn readiness_is_used_up_and_comes_again() {
    on_both(async || {
        let (sender, receiver) = bounded(4);
        for round in 0..20 {
            waits(receiver.recv()).await;
            sender
                .send_many(&["a", "b", "c", "d"], 0)
                .await
                .expect("room");
            waits(sender.send("e")).await;
            for expected in ["a", "b", "c", "d"] {
                let message = receiver.recv().await.expect("one edge, four messages");
                assert_eq!(&*message, expected.as_bytes(), "round {round}");
            }
        }
        // What came before it was registered is an event, too.
        let (sender, receiver) = mailbox(Capacity::Bounded(1)).split().expect("both rights");
        sender.send("before").expect("room");
        let receiver = is(receiver);
        assert_eq!(&*receiver.recv().await.expect("sent"), b"before");
        // And it can be taken out and put in again.
        sender.send("between").expect("room");
        let receiver = is(receiver.into_inner());
        assert_eq!(&*receiver.recv().await.expect("sent"), b"between");
    });
}

/// Room for a large message is not what poll speaks of.
#[test]
fn a_large_message_waits_for_as_much_room_as_it_needs() {
    on_both(async || {
        let made = Mailbox::options().capacity_bytes(100).anonymous();
        let (sender, receiver) = made.and_then(Mailbox::split).expect("a mailbox");
        let (sender, receiver) = (Arc::new(is(sender)), is(receiver));
        sender.send_many(&[[1; 30]; 3], 0).await.expect("room");
        let large = {
            let sender = sender.clone();
            tokio::spawn(async move { sender.send([2; 90]).await })
        };
        for _ in 0..2 {
            a_while().await;
            assert!(
                !large.is_finished(),
                "there is room for one byte, and not for 90"
            );
            receiver.recv().await.expect("sent");
        }
        receiver.recv().await.expect("sent");
        large.await.expect("no panic").expect("now there is room");
        assert_eq!(*receiver.recv().await.expect("sent"), [2; 90]);
    });
}

/// One that cannot have what it wants does not use up the event that another one needs.
#[test]
fn who_wants_much_does_not_hide_what_is_enough_for_others() {
    on_both(async || {
        let made = Mailbox::options().capacity_bytes(100).anonymous();
        let (sender, receiver) = made.and_then(Mailbox::split).expect("a mailbox");
        let (sender, receiver) = (Arc::new(is(sender)), is(receiver));
        for _ in 0..20 {
            sender.send([1; 60]).await.expect("room");
            let mut large = tokio::spawn({
                let sender = sender.clone();
                async move { sender.send([2; 90]).await.map(drop) }
            });
            tokio::task::yield_now().await;
            waits(&mut large).await;
            // There is room for 40, and no event will say so.
            sender.send([3; 40]).await.expect("room");
            for expected in [1, 3, 2] {
                assert_eq!(receiver.recv().await.expect("sent")[0], expected);
            }
            large.await.expect("no panic").expect("there was room");
        }
    });
}

/// Tasks that receive from one mailbox, through one handle and through several, and tasks that send.
#[test]
fn many_tasks_on_one_mailbox_get_each_message_once() {
    on_both(async || {
        let (senders, each) = (4_usize, scaled(400));
        let (sender, receiver) = bounded(8);
        let got = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new(receiver);
        let mut receivers = Vec::new();
        for n in 0..8 {
            let receiver = match n {
                0..4 => shared.clone(),
                _ => Arc::new(is(shared.get_ref().try_clone().expect("a handle"))),
            };
            let got = got.clone();
            receivers.push(tokio::spawn(async move {
                let mut count = 0;
                loop {
                    match receiver.recv().await {
                        Ok(message) => got.lock().expect("no panic").push(message.payload),
                        Err(error) => break (count, error.kind),
                    }
                    count += 1;
                }
            }));
        }
        let sender = Arc::new(sender);
        let mut tasks = Vec::new();
        for n in 0..senders {
            let sender = sender.clone();
            tasks.push(tokio::spawn(async move {
                for m in 0..each {
                    sender.send(format!("{n}.{m}")).await.expect("received");
                }
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        drop(sender);
        let mut total = 0;
        for receiver in receivers {
            let (count, end) = receiver.await.expect("no panic");
            assert_eq!(end, ErrorKind::Disconnected);
            total += count;
        }
        assert_eq!(total, senders * each);
        let got = got.lock().expect("no panic");
        let once: BTreeSet<_> = got.iter().collect();
        assert_eq!((once.len(), got.len()), (senders * each, senders * each));
    });
}

/// Senders and receivers whose futures are dropped at any moment: what was sent is received, once, and nothing else is.
#[test]
fn a_storm_of_dropped_futures_loses_nothing_and_doubles_nothing() {
    on_both(async || {
        let rounds = scaled(600);
        let (sender, receiver) = bounded(2);
        let (sender, receiver) = (Arc::new(sender), Arc::new(receiver));
        let sent = Arc::new(Mutex::new(BTreeSet::new()));
        let got = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for task in 0..3_u32 {
            let (sender, sent) = (sender.clone(), sent.clone());
            let mut rng = Rng::from_env(&format!("storm of sends {task}"));
            tasks.push(tokio::spawn(async move {
                for n in 0..rounds {
                    let message = format!("{task}.{n}");
                    let limit = Duration::from_micros(rng.below(300));
                    let done = match rng.below(3) {
                        0 => timeout(limit, sender.send(&message))
                            .await
                            .map(|sent| sent.expect("received")),
                        1 => timeout(limit, sender.send_with(&message, 3))
                            .await
                            .map(|sent| sent.expect("received")),
                        _ => match timeout(limit, sender.reserve(16)).await {
                            Ok(permit) => {
                                let permit = permit.expect("received");
                                if rng.below(4) == 0 {
                                    continue;
                                }
                                tokio::task::yield_now().await;
                                permit.send(&message).expect("it was reserved");
                                Ok(())
                            }
                            Err(late) => Err(late),
                        },
                    };
                    if done.is_ok() {
                        assert!(sent.lock().expect("no panic").insert(message));
                    }
                }
            }));
        }
        let stop = Arc::new(tokio::sync::Notify::new());
        let mut receivers = Vec::new();
        for task in 0..3 {
            let (receiver, got) = (receiver.clone(), got.clone());
            let mut rng = Rng::from_env(&format!("storm of receives {task}"));
            receivers.push(tokio::spawn(async move {
                loop {
                    let limit = Duration::from_micros(rng.below(300));
                    let message = match rng.below(3) {
                        0 => timeout(limit, receiver.recv())
                            .await
                            .map(|got| got.map(Some)),
                        1 => timeout(limit, receiver.take()).await.map(|taken| {
                            let taken = taken?;
                            // Or it is put back.
                            (rng.below(4) > 0).then(|| taken.ack()).transpose()
                        }),
                        _ => {
                            let mut messages = Vec::new();
                            let many = timeout(limit, receiver.recv_many(&mut messages, 4)).await;
                            let mut got = got.lock().expect("no panic");
                            got.extend(messages.drain(..).map(|message| message.payload));
                            many.map(|many| many.map(|_| None))
                        }
                    };
                    match message {
                        Ok(Ok(Some(message))) => {
                            got.lock().expect("no panic").push(message.payload)
                        }
                        Ok(Err(error)) if error.is_disconnected() => return,
                        Ok(Err(error)) => panic!("{error}"),
                        Ok(Ok(None)) | Err(_) => {}
                    }
                }
            }));
        }
        drop(stop);
        for task in tasks {
            task.await.expect("no panic");
        }
        let info = sender.get_ref().info().expect("it is there");
        assert_eq!(info.waiting_senders, 0, "no future waits in the kernel");
        drop(sender);
        for task in receivers {
            task.await.expect("no panic");
        }
        let sent = sent.lock().expect("no panic");
        let mut got: Vec<_> = got.lock().expect("no panic").drain(..).collect();
        got.sort();
        let mut sent: Vec<_> = sent.iter().map(|text| text.clone().into_bytes()).collect();
        sent.sort();
        assert!(sent.len() > rounds / 10, "some were sent: {}", sent.len());
        assert_eq!(got, sent);
    });
}

/// A task that always finds something to receive lets the others have their turn.
#[test]
fn who_always_finds_a_message_does_not_starve_the_others() {
    let runtime = runtime(1);
    runtime.block_on(async {
        let (sender, receiver) = sides(Capacity::Unbounded);
        let count = scaled(20_000);
        let messages = vec![*b"message"; count];
        sender
            .get_ref()
            .send_many(&messages, 0, Wait::Forever)
            .expect("no limit");
        let ticks = Arc::new(AtomicUsize::new(0));
        let ticking = {
            let ticks = ticks.clone();
            tokio::spawn(async move {
                loop {
                    ticks.fetch_add(1, Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        };
        let polled = tokio::spawn(async move {
            for _ in 0..count / 2 {
                receiver.recv().await.expect("sent");
            }
            for _ in 0..count / 2 {
                poll_fn(|cx| receiver.poll_recv(cx)).await.expect("sent");
            }
        });
        polled.await.expect("no panic");
        ticking.abort();
        let ticks = ticks.load(Relaxed);
        // tokio gives a task 128 operations.
        assert!(ticks > count / 256, "{ticks} ticks in {count} messages");
    });
}

#[test]
fn messages_of_one_process_alone_and_its_end() {
    isolated(|| {
        on_both(async || {
            let name = unique("from");
            let options = Endpoint::options();
            let endpoint = is(options.open().expect("it is ours"));
            let mine = std::process::id();
            let go = Gate::new();
            let child = spawn(|| {
                Endpoint::send_to(mine, "first").expect("room");
                go.pass();
                Endpoint::send_to(mine, "second").expect("room");
            });
            Endpoint::send_to(mine, "from myself").expect("room");
            let first = endpoint.recv_from(child.pid()).await.expect("it sends");
            assert_eq!(&*first, b"first");
            waits(endpoint.recv_from(child.pid())).await;
            let (second, ()) = tokio::join!(endpoint.recv_from(first.sender), async {
                a_while().await;
                go.open(1);
            });
            assert_eq!(&*second.expect("it sends"), b"second");
            // It is gone, or goes while this waits.
            let end = endpoint.recv_from(first.sender).await;
            assert_eq!(kind(end), ErrorKind::Disconnected);
            child.ok();

            let child = spawn(|| go.pass());
            let pid = child.pid();
            let (end, ()) = tokio::join!(endpoint.recv_from(pid), async {
                a_while().await;
                child.kill(libc::SIGKILL);
            });
            assert_eq!(kind(end), ErrorKind::Disconnected);
            drop(child);
            assert_eq!(kind(endpoint.recv_from(pid).await), ErrorKind::Gone);
            assert_eq!(&*endpoint.recv().await.expect("it stayed"), b"from myself");
            drop(name);
        });
    });
}

/// One of the two sides has to wait in a call.
#[test]
fn a_rendezvous_needs_a_side_that_waits() {
    on_both(async || {
        let (sender, receiver) = sides(Capacity::Rendezvous);
        let blocking = sender.get_ref().try_clone().expect("a handle");
        let thread = std::thread::spawn(move || blocking.send("from a thread"));
        let message = receiver.recv().await.expect("it waits");
        assert_eq!(&*message, b"from a thread");
        thread.join().expect("no panic").expect("it was received");

        let blocking = receiver.get_ref().try_clone().expect("a handle");
        let thread = std::thread::spawn(move || blocking.recv());
        sender.send("to a thread").await.expect("it waits");
        let message = thread.join().expect("no panic").expect("sent");
        assert_eq!(&*message, b"to a thread");
        waits(async { tokio::join!(sender.send("never"), receiver.recv()) }).await;
    });
}

#[test]
fn buffers_travel_and_are_not_lost() {
    on_both(async || {
        let pool = Pool::options().keep(0).anonymous(2, 4096).expect("a pool");
        let free = || pool.info().expect("it is there").value;
        let (sender, receiver) = bounded(1);
        let loan = |text: &str| {
            let mut loan = pool.try_loan(text.len()).expect("one is free");
            loan.write(0, text.as_bytes()).expect("it fits");
            loan
        };
        sender.send_buffer(loan("one")).await.expect("room");
        // A send that is dropped gives its buffer back to the pool.
        waits(sender.send_buffer(loan("two"))).await;
        assert_eq!(free(), 1);
        let shipment = receiver.recv_buffers(&pool).await.expect("sent");
        assert_eq!(shipment.buffers[0].to_vec(), b"one");
        drop(shipment);
        assert_eq!(free(), 2);
        waits(receiver.recv_buffers(&pool)).await;

        let three = loan("three");
        sender
            .send_buffer_with(three, b"with bytes", 5)
            .await
            .expect("room");
        assert_eq!(kind(receiver.recv().await), ErrorKind::HasBuffers);
        drop(receiver.take_buffers(&pool).await.expect("sent"));
        let again = receiver.take_buffers(&pool).await.expect("it came back");
        assert!(again.redelivered);
        assert_eq!(
            (&**again, again.buffers()[0].to_vec()),
            (&b"with bytes"[..], b"three".to_vec())
        );
        again.ack().expect("it is ours");
        assert_eq!(free(), 2);
        drop(receiver);
        let failed = sender
            .send_buffer(loan("four"))
            .await
            .expect_err("nobody is there");
        assert_eq!(failed.payload.len(), 4, "it comes back");
    });
}

#[test]
fn a_handle_outside_of_a_runtime_comes_back() {
    let failed = Async::new(mailbox(Capacity::Bounded(1))).expect_err("there is no runtime");
    assert_eq!(failed.error.kind, ErrorKind::Reactor);
    assert!(
        failed.error.to_string().contains("no reactor"),
        "{}",
        failed.error
    );
    failed.handle.send("it works as before").expect("room");
}

/// tokio's test "driver_shutdown_wakes_...".
#[test]
fn the_end_of_the_runtime_ends_what_waits() {
    for threads in [1, 3] {
        let runtime = runtime(threads);
        let (sender, receiver) = runtime.block_on(async { bounded(1) });
        runtime.block_on(async { sender.send("one").await.expect("room") });
        let (sending, receiving) = scope(|scope| {
            // Futures can be polled elsewhere, as long as the runtime is there.
            let sending = scope.spawn(|| async_io::block_on(sender.send(String::from("two"))));
            let waiting = scope.spawn(|| {
                async_io::block_on(async {
                    receiver.recv().await.expect("sent");
                    loop {
                        match receiver.recv().await {
                            Ok(_) => {}
                            Err(error) => return error,
                        }
                    }
                })
            });
            std::thread::sleep(Duration::from_millis(50));
            if threads == 1 {
                // Nobody else drives it.
                runtime.block_on(a_while());
            }
            runtime.shutdown_timeout(Duration::from_secs(10));
            (sending.join(), waiting.join())
        });
        // Room came, or the end.
        if let Err(failed) = sending.expect("no panic") {
            assert_eq!(failed.error.kind, ErrorKind::Reactor);
            assert_eq!(failed.payload, "two");
        }
        assert_eq!(receiving.expect("no panic").kind, ErrorKind::Reactor);
        assert_eq!(
            kind(async_io::block_on(receiver.recv())),
            ErrorKind::Reactor
        );
        // The handles are there all the same.
        let (sender, receiver) = (sender.into_inner(), receiver.into_inner());
        let _ = receiver.try_recv();
        sender.send("by hand").expect("room");
        assert_eq!(&*receiver.recv().expect("sent"), b"by hand");
    }
}

/// Of those who are polled the last one is woken; futures are all woken.
#[test]
fn everybody_who_waits_is_woken() {
    on_both(async || {
        let (sender, receiver) = bounded(64);
        let receiver = Arc::new(receiver);
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let receiver = receiver.clone();
                tokio::spawn(async move { receiver.recv().await.map(|message| message[0]) })
            })
            .collect();
        a_while().await;
        for n in 0..20 {
            sender.send([n]).await.expect("room");
        }
        let mut got = BTreeSet::new();
        for task in tasks {
            got.insert(task.await.expect("no panic").expect("sent"));
        }
        assert_eq!(got, (0..20).collect());
        let polled =
            tokio::spawn(async move { poll_fn(|cx| receiver.poll_take(cx).map(|_| ())).await });
        a_while().await;
        sender.send([20]).await.expect("room");
        polled.await.expect("no panic");
    });
}

/// To drop it closes the handle, and takes it out of the reactor first.
#[test]
fn what_is_dropped_is_closed() {
    on_both(async || {
        for _ in 0..50 {
            let (sender, receiver) = bounded(1);
            let mut receiving = Box::pin(receiver.recv());
            let polled = poll_fn(|cx| Poll::Ready(receiving.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            drop(sender);
            assert_eq!(kind(receiving.await), ErrorKind::Disconnected);
            let fd = OwnedFd::from(receiver.into_inner());
            let again = is(Receiver::try_from(fd).expect("it is one"));
            assert_eq!(kind(again.recv().await), ErrorKind::Disconnected);
            let other = again.as_fd().try_clone_to_owned().expect("a descriptor");
            // The same file by another descriptor can be registered beside it.
            let other = is(Receiver::try_from(other).expect("it is one"));
            assert_eq!(kind(other.recv().await), ErrorKind::Disconnected);
        }
    });
}
