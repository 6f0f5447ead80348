//! Links: accepted, connected, bound to a port.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use postbox::{Direction, Link, Listener, Pipe, Port, Wait};
use postbox_tests::unique;

use super::*;

/// A port that no other test uses.
fn port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(21_000);
    NEXT.fetch_add(1, Relaxed)
}

#[test]
fn clients_are_accepted_and_served_each_in_a_task() {
    on_both(async || {
        let name = unique("accept");
        let listener = is(Listener::bind(&name).expect("a new name"));
        waits(listener.accept()).await;
        let serving = tokio::spawn(async move {
            let mut links = Vec::new();
            for _ in 0..10 {
                let link = listener.accept().await.expect("somebody connects");
                links.push(tokio::spawn(async move {
                    loop {
                        match link.recv().await {
                            Ok(message) => {
                                link.send(message.to_ascii_uppercase()).await.expect("room")
                            }
                            Err(error) => return error.kind,
                        }
                    }
                }));
            }
            for link in links {
                assert_eq!(link.await.expect("no panic"), ErrorKind::Disconnected);
            }
            listener
        });
        let clients: Vec<_> = (0..10)
            .map(|n| {
                let name = name.clone();
                tokio::spawn(async move {
                    let link = Async::connect(&name).await.expect("somebody listens");
                    for m in 0..5 {
                        link.send(format!("{n}.{m} a")).await.expect("room");
                        let reply = link.recv().await.expect("it answers");
                        assert_eq!(&*reply, format!("{n}.{m} A").as_bytes());
                    }
                    still_blocks(&link);
                })
            })
            .collect();
        for client in clients {
            client.await.expect("no panic");
        }
        drop(serving.await.expect("no panic"));
        let refused = Async::connect(&name).await;
        assert_eq!(kind(refused), ErrorKind::NotFound);
    });
}

#[test]
fn a_connect_waits_for_room_and_can_be_dropped() {
    on_both(async || {
        let name = unique("backlog");
        let mut options = Link::options();
        let listener = is(options.backlog(1).listen(&name).expect("a new name"));
        let first = Async::connect(&name).await.expect("room for one");
        waits(async { Async::connect(&name).await.map(drop) }).await;
        let waiting = {
            let name = name.clone();
            tokio::spawn(async move { Async::connect(&name).await })
        };
        a_while().await;
        assert!(!waiting.is_finished());
        let accepted = listener.accept().await.expect("one waits");
        first.send("hello").await.expect("room");
        assert_eq!(&*accepted.recv().await.expect("sent"), b"hello");
        // The one that was dropped may have come in before its thread looked; it is closed then.
        let second = loop {
            let link = listener.accept().await.expect("the other waits");
            if waiting.is_finished() {
                break link;
            }
            a_while().await;
            if waiting.is_finished() {
                break link;
            }
        };
        let waiting = waiting.await.expect("no panic").expect("there was room");
        waiting
            .send("me too")
            .await
            .expect("accepted, or dropped with the other");
        let _ = second;
    });
}

#[test]
fn an_accept_that_is_dropped_takes_no_connection() {
    on_both(async || {
        let name = unique("dropped");
        let listener = is(Listener::bind(&name).expect("a new name"));
        for _ in 0..10 {
            waits(listener.accept()).await;
            let client = Async::connect(&name).await.expect("somebody listens");
            let server = listener.accept().await.expect("it was not lost");
            client.send("hello").await.expect("room");
            assert_eq!(&*server.recv().await.expect("sent"), b"hello");
        }
    });
}

/// Without a backlog a connect waits for its accept.
#[test]
fn a_connect_in_a_thread_meets_an_accept_in_a_task() {
    on_both(async || {
        let name = unique("meet");
        let mut options = Link::options();
        let listener = is(options.backlog(0).listen(&name).expect("a new name"));
        let connecting = {
            let name = name.clone();
            tokio::task::spawn_blocking(move || Link::connect(&name))
        };
        listener.accept().await.expect("it waits");
        connecting.await.expect("no panic").expect("accepted");
        // And one in a task, by a thread of tokio's.
        let (connected, accepted) = tokio::join!(Async::connect(&name), listener.accept());
        connected.expect("accepted");
        accepted.expect("it waits");
    });
}

#[test]
fn both_ends_of_a_link_work_at_once_and_in_halves() {
    on_both(async || {
        let (near, far) = Link::options()
            .capacity(Capacity::Bounded(2))
            .pair()
            .expect("a pair");
        let (near, far) = (Arc::new(is(near)), is(far));
        let receiving = {
            let near = near.clone();
            tokio::spawn(async move {
                for n in 0..100_u8 {
                    assert_eq!(*near.recv().await.expect("sent"), [n]);
                }
            })
        };
        let (sender, receiver) = far.split().expect("it has both directions");
        let echo = tokio::spawn(async move {
            while let Ok(message) = receiver.recv().await {
                sender.send(&*message).await.expect("room");
            }
            sender
        });
        for n in 0..100_u8 {
            near.send([n]).await.expect("room");
        }
        receiving.await.expect("no panic");
        near.get_ref()
            .shutdown(postbox::Shutdown::Write)
            .expect("it can send");
        let sender = echo.await.expect("no panic");
        sender.send("the other half is open").await.expect("room");
        near.recv().await.expect("sent");
        drop(sender);
        assert_eq!(kind(near.recv().await), ErrorKind::Disconnected);

        let (sender, receiver) = Link::options().pair_one_way().expect("a pair");
        let (sender, receiver) = (is(sender), is(receiver));
        sender.send("one way").await.expect("room");
        assert_eq!(&*receiver.recv().await.expect("sent"), b"one way");
        let one_way = Link::options()
            .direction(Direction::Forward)
            .pair()
            .expect("a pair");
        assert_eq!(kind(is(one_way.0).split()), ErrorKind::Denied);
    });
}

#[test]
fn two_tasks_meet_at_a_port() {
    on_both(async || {
        let port = port();
        let first = tokio::spawn(async move {
            let link = Async::bind_port(port).await.expect("the other comes");
            link.recv().await
        });
        a_while().await;
        assert!(!first.is_finished(), "nobody else is there");
        let link = Async::bind_port(port).await.expect("the other is there");
        link.send("hello").await.expect("room");
        let message = first.await.expect("no panic");
        assert_eq!(&*message.expect("sent"), b"hello");
        drop(link);

        // Who does not wait any longer makes it free again.
        waits(async { Async::bind_port(port).await.map(drop) }).await;
        let mut tries = 0;
        while Port::connect(port).is_err_and(|error| error.kind != ErrorKind::NotFound) {
            tries += 1;
            assert!(tries < 500, "its thread goes");
            a_while().await;
        }
        let listener = is(Port::listen(port).expect("it is free"));
        let (client, server) = tokio::join!(Async::connect_port(port), listener.accept());
        client.expect("accepted").send("again").await.expect("room");
        assert_eq!(
            &*server.expect("it waits").recv().await.expect("sent"),
            b"again"
        );
    });
}

#[test]
fn a_peer_is_waited_for() {
    on_both(async || {
        let name = unique("peer");
        let receiver = Mailbox::options().create_new(true).open_receiver(&name);
        let receiver = Arc::new(is(receiver.expect("a new name")));
        waits(receiver.wait_peer()).await;
        let waiting = {
            let receiver = receiver.clone();
            tokio::spawn(async move { receiver.wait_peer().await })
        };
        a_while().await;
        assert!(!waiting.is_finished());
        let sender = Sender::open(&name).expect("it is there");
        waiting.await.expect("no panic").expect("it came");
        drop(sender);
        receiver.wait_peer().await.expect("it was there");

        let writer = Pipe::options()
            .create_new(true)
            .open_writer(&unique("peer"));
        let writer = is(writer.expect("a new name"));
        waits(writer.wait_peer()).await;
        // What waited is gone after a while, with the descriptor that it had.
        let many = || {
            std::fs::read_dir("/proc/self/fd")
                .expect("there is one")
                .count()
        };
        let before = many();
        for _ in 0..20 {
            waits(writer.wait_peer()).await;
        }
        let mut tries = 0;
        while many() > before {
            tries += 1;
            assert!(tries < 500, "they go");
            a_while().await;
        }
        assert_eq!(
            kind(is(postbox::Latch::new(1).expect("one")).wait_peer().await),
            ErrorKind::Unsupported
        );
    });
}

/// Connections that wait are a queue for many tasks, and each is accepted once.
#[test]
fn many_tasks_accept_from_one_listener() {
    on_both(async || {
        let name = unique("accepts");
        let listener = Arc::new(is(Listener::bind(&name).expect("a new name")));
        let accepting: Vec<_> = (0..5)
            .map(|_| {
                let listener = listener.clone();
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    for _ in 0..8 {
                        let link = listener.accept().await.expect("somebody connects");
                        got.push(link.recv().await.expect("it says its number")[0]);
                    }
                    got
                })
            })
            .collect();
        let mut links = Vec::new();
        for n in 0..40_u8 {
            let link = Link::connect_with(&name, Wait::Never).expect("room");
            link.send([n]).expect("room");
            links.push(link);
        }
        let mut all = BTreeSet::new();
        for task in accepting {
            all.extend(task.await.expect("no panic"));
        }
        assert_eq!(all, (0..40).collect());
    });
}
