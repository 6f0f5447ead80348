//! Calls, and servers that are tasks.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Instant;

use postbox::Pool;
use postbox_tests::{LONG, Ledger, isolated, spawn};
use tokio::sync::{Notify, oneshot};

use super::*;

#[test]
fn a_call_is_answered_by_a_task() {
    for capacity in [Capacity::Rendezvous, Capacity::Bounded(4)] {
        on_both(async || {
            let (client, server) = sides(capacity);
            let serving = tokio::spawn(async move {
                for _ in 0..20 {
                    let mut request = server.recv_request().await.expect("called");
                    assert!(request.is_open());
                    let reply = request.to_ascii_uppercase();
                    request.reply(reply).expect("somebody waits");
                }
                server
            });
            for n in 0..20 {
                let reply = client.call(format!("hello {n}")).await.expect("it answers");
                assert_eq!(&*reply, format!("HELLO {n}").as_bytes());
                assert_eq!(reply.sender.pid, std::process::id());
            }
            drop(serving.await.expect("no panic"));
            assert_eq!(kind(client.call("nobody").await), ErrorKind::Disconnected);
            still_blocks(&client);
        });
    }
}

/// Requests that are answered each in a task of its own, later than others that came after them.
#[test]
fn requests_are_answered_in_any_order() {
    on_both(async || {
        let (client, server) = sides(Capacity::Bounded(64));
        let (client, server) = (Arc::new(client), Arc::new(server));
        let serving = tokio::spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..30 {
                let mut request = server.clone().recv_request_owned().await.expect("called");
                answers.push(tokio::spawn(async move {
                    let n: u64 = std::str::from_utf8(&request)
                        .expect("text")
                        .parse()
                        .expect("a number");
                    tokio::time::sleep(Duration::from_millis(n % 7 * 3)).await;
                    request.reply((n * n).to_string()).expect("somebody waits");
                }));
            }
            for answer in answers {
                answer.await.expect("no panic");
            }
            Arc::strong_count(&server)
        });
        let calls: Vec<_> = (0..30_u64)
            .map(|n| {
                let client = client.clone();
                tokio::spawn(async move {
                    let reply = client
                        .call_timeout(n.to_string(), LONG)
                        .await
                        .expect("it answers");
                    assert_eq!(&*reply, (n * n).to_string().as_bytes());
                })
            })
            .collect();
        for call in calls {
            call.await.expect("no panic");
        }
        assert_eq!(
            serving.await.expect("no panic"),
            1,
            "no request keeps the server"
        );
    });
}

#[test]
fn a_request_that_is_dropped_tells_its_caller() {
    on_both(async || {
        let (client, server) = sides(Capacity::Rendezvous);
        let server = Arc::new(server);
        let (began, begun) = oneshot::channel();
        let dropping = {
            let server = server.clone();
            tokio::spawn(async move {
                drop(server.recv_request().await.expect("called"));
                // In a task that is dropped.
                let request = server.recv_request_owned().await.expect("called");
                began.send(()).expect("somebody waits");
                pending::<()>().await;
                drop(request);
            })
        };
        assert_eq!(kind(client.call("one").await), ErrorKind::Dropped);
        let (called, ()) = tokio::join!(client.call("two"), async {
            begun.await.expect("it is sent");
            dropping.abort();
        });
        assert_eq!(kind(called), ErrorKind::Dropped);

        // A message that nobody waits for is received as well; and so is a request as a message.
        let (client, server) = sides(Capacity::Bounded(4));
        client.send("no request").await.expect("room");
        assert!(!server.recv_request().await.expect("sent").is_open());
        let (called, message) = tokio::join!(client.call("three"), server.recv());
        assert_eq!(&*message.expect("called"), b"three");
        assert_eq!(kind(called), ErrorKind::Dropped);
    });
}

#[test]
fn a_call_has_a_limit_of_time() {
    on_both(async || {
        let (client, server) = sides(Capacity::Bounded(4));
        let short = Duration::from_millis(20);
        assert_eq!(
            kind(client.call_timeout("one", short).await),
            ErrorKind::Timeout
        );
        let deadline = Instant::now() + short;
        assert_eq!(
            kind(client.call_deadline("two", deadline).await),
            ErrorKind::Timeout
        );
        waits(server.recv_request()).await;
        // One that was taken.
        let (called, request) =
            tokio::join!(client.call_timeout("three", short), server.recv_request());
        assert_eq!(kind(called), ErrorKind::Timeout);
        let mut request = request.expect("it was taken");
        assert!(!request.caller_waits().expect("it is ours"));
        assert_eq!(kind(request.reply("late")), ErrorKind::Stale);
    });
}

/// What is documented: the call goes on, and its reply goes nowhere; no other call gets it.
#[test]
fn a_call_that_is_dropped_goes_on_alone() {
    on_both(async || {
        let (client, server) = sides(Capacity::Bounded(4));
        let client = Arc::new(client);
        let dropped = {
            let client = client.clone();
            tokio::spawn(async move { client.call("dropped").await.map(drop) })
        };
        let mut request = server.recv_request().await.expect("called");
        dropped.abort();
        assert!(dropped.await.expect_err("it was aborted").is_cancelled());
        a_while().await;
        assert!(
            request.caller_waits().expect("it is ours"),
            "its thread waits still"
        );
        request.reply("to nobody").expect("the thread takes it");
        let (called, ()) = tokio::join!(client.call("kept"), async {
            let mut request = server.recv_request().await.expect("called");
            assert_eq!(&**request, b"kept");
            request.reply("to you").expect("somebody waits");
        });
        assert_eq!(&*called.expect("it answers"), b"to you");
    });
}

#[test]
fn a_server_loop_serves_until_the_last_caller_is_gone() {
    on_both(async || {
        let (client, server) = sides(Capacity::Bounded(4));
        let served = Arc::new(AtomicUsize::new(0));
        let serving = {
            let served = served.clone();
            tokio::spawn(async move {
                let served = &served;
                let answer = |request: postbox::Message| async move {
                    tokio::task::yield_now().await;
                    served.fetch_add(1, Relaxed);
                    request.iter().rev().copied().collect::<Vec<_>>()
                };
                server.serve(answer).await
            })
        };
        for n in 0..20 {
            if n % 5 == 0 {
                client.send("an answer goes nowhere").await.expect("room");
                let gone = client
                    .call_timeout("who gives up does not end it", Duration::ZERO)
                    .await;
                // An answer that is there in no time is one.
                assert!(gone.is_ok() || kind(gone) == ErrorKind::Timeout);
            }
            let reply = client.call("abc").await.expect("it answers");
            assert_eq!(&*reply, b"cba");
        }
        drop(client);
        serving
            .await
            .expect("no panic")
            .expect("the end is no error");
        assert!(served.load(Relaxed) >= 24);
    });
}

/// A loop that is dropped loses the request that it is at, whose caller is told, and no other.
#[test]
fn a_server_loop_that_is_dropped_tells_its_caller() {
    on_both(async || {
        let (client, server) = sides(Capacity::Bounded(4));
        let (client, server) = (Arc::new(client), Arc::new(server));
        let begun = Arc::new(Notify::new());
        let serving = {
            let (server, begun) = (server.clone(), begun.clone());
            tokio::spawn(async move {
                let answer = |_| {
                    begun.notify_one();
                    pending::<&[u8]>()
                };
                server.serve(answer).await
            })
        };
        let mut running = Vec::new();
        for text in ["first", "second"] {
            let client = client.clone();
            running.push(tokio::spawn(async move { client.call(text).await }));
            a_while().await;
        }
        begun.notified().await;
        serving.abort();
        let first = running.remove(0).await.expect("no panic");
        assert_eq!(kind(first), ErrorKind::Dropped);
        let mut request = server.recv_request().await.expect("it was not lost");
        assert_eq!(&**request, b"second");
        request.reply("done").expect("somebody waits");
        let second = running.remove(0).await.expect("no panic");
        assert_eq!(&*second.expect("answered"), b"done");
    });
}

#[test]
fn the_death_of_a_server_ends_the_call() {
    isolated(|| {
        on_both(async || {
            let (client, server) = sides(Capacity::Rendezvous);
            let taken = Ledger::new(1);
            let child = spawn(|| {
                let request = server.get_ref().recv_request().expect("called");
                taken[0].store(1, SeqCst);
                std::thread::sleep(LONG);
                drop(request);
            });
            let (called, ()) = tokio::join!(client.call("are you there?"), async {
                while taken[0].load(SeqCst) == 0 {
                    a_while().await;
                }
                child.destroy();
            });
            assert_eq!(kind(called), ErrorKind::ServerDied);
        });
    });
}

#[test]
fn requests_come_with_buffers() {
    on_both(async || {
        let pool = Pool::options().keep(0).anonymous(2, 4096).expect("a pool");
        let (client, server) = sides(Capacity::Rendezvous);
        let calling = {
            let (pool, client) = (
                pool.clone(),
                client.get_ref().try_clone().expect("a handle"),
            );
            tokio::task::spawn_blocking(move || {
                let mut loan = pool.loan(3).expect("one is free");
                loan.write(0, b"abc").expect("it fits");
                let reply = client.call_buffers(b"here", vec![loan], &pool, postbox::Wait::Forever);
                reply.expect("it answers").buffers[0].to_vec()
            })
        };
        let (mut request, buffers) = server.recv_request_buffers(&pool).await.expect("called");
        let mut loan = is(pool.clone()).loan(3).await.expect("one is free");
        let text: Vec<u8> = buffers[0].to_vec().into_iter().rev().collect();
        loan.write(0, &text).expect("it fits");
        request
            .reply_buffers(b"", vec![loan])
            .expect("somebody waits");
        assert_eq!(calling.await.expect("no panic"), b"cba");
    });
}
