//! Operations as futures: on an executor that waits in the kernel, on others, and on tokio.

use std::future::Future;
use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use postbox::uring::Driver;
use postbox::{ErrorKind, Mailbox, Wait, WaitSet};
use postbox_tests::{scope, wait_until, watch};

use crate::{LONG, each, kind, settle, split};

/// Both, at the same time.
async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    std::future::poll_fn(|cx| {
        if of_a.is_none()
            && let Poll::Ready(output) = a.as_mut().poll(cx)
        {
            of_a = Some(output);
        }
        if of_b.is_none()
            && let Poll::Ready(output) = b.as_mut().poll(cx)
        {
            of_b = Some(output);
        }
        match (of_a.take(), of_b.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (of_a, of_b) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

#[test]
fn block_on_runs_what_waits_for_itself() {
    each(|driver| {
        let (client, server) = split(0);
        let (client, server) = (driver.attach(client), driver.attach(server));
        let serve = async {
            let mut request = server.recv_request().await?;
            for _ in 0..99 {
                let reply = request.to_ascii_uppercase();
                request = server.reply_recv(request, reply).await?;
            }
            let reply = request.to_ascii_uppercase();
            server.reply(request, reply).await?;
            Ok::<_, postbox::Error>(())
        };
        let call = async {
            for number in 0..100 {
                let reply = client.call(format!("call {number}")).await?;
                assert_eq!(&*reply, format!("CALL {number}").as_bytes());
            }
            Ok::<_, postbox::Error>(())
        };
        let (served, called) = driver.block_on(both(serve, call));
        served.expect("all were answered");
        called.expect("all were answered");
    });
}

#[test]
fn block_on_in_several_threads() {
    let driver = crate::driver();
    let pairs: Vec<_> = (0..4).map(|_| split(1)).collect();
    scope(|scope| {
        for (sender, receiver) in pairs {
            let (sender, receiver) = (driver.attach(sender), driver.attach(receiver));
            let driver = driver.clone();
            scope.spawn(move || {
                driver.block_on(async {
                    for number in 0..200u8 {
                        sender.send([number]).await.map_err(|error| error.error)?;
                    }
                    Ok::<_, postbox::Error>(())
                })
            });
            let driver = sender_driver(&receiver);
            scope.spawn(move || {
                driver.block_on(async {
                    for number in 0..200u8 {
                        assert_eq!(receiver.recv().await?.payload, [number]);
                    }
                    Ok::<_, postbox::Error>(())
                })
            });
        }
    });
    settle(&driver);
}

fn sender_driver(receiver: &postbox::uring::Attached<postbox::ReceiveOnly>) -> Driver {
    receiver.driver()
}

/// An event loop that waits for the ring's descriptor beside others.
#[test]
fn another_event_loop_drives() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let driver = crate::driver();
    let (sender, receiver) = split(4);
    let receiver = driver.attach(receiver);
    let set = WaitSet::new().expect("a descriptor");
    set.add(driver.as_fd(), postbox::PollFlags::IN, 7)
        .expect("it can be polled");
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);
    let mut recv = pin!(receiver.recv());
    assert!(recv.as_mut().poll(&mut context).is_pending());
    assert_eq!(
        set.wait(Wait::Timeout(Duration::from_millis(20)))
            .expect("a set")
            .len(),
        0
    );
    sender.try_send("x").expect("there is room");
    let ready = set.wait(LONG).expect("a set");
    assert_eq!((ready.len(), ready[0].token), (1, 7));
    driver.turn(Wait::Never).expect("the ring works");
    assert_eq!(count.0.load(SeqCst), 1);
    match recv.as_mut().poll(&mut context) {
        Poll::Ready(message) => assert_eq!(message.expect("it came").payload, b"x"),
        Poll::Pending => panic!("it is done"),
    }
}

fn runtimes() -> [(&'static str, tokio::runtime::Runtime); 2] {
    [
        (
            "current thread",
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build(),
        ),
        (
            "multi thread",
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build(),
        ),
    ]
    .map(|(name, runtime)| (name, runtime.expect("there are threads")))
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    let _watch = watch("in a future");
    what.await
}

#[test]
fn tokio_drives_in_the_background() {
    for (name, runtime) in runtimes() {
        postbox_tests::tell(&format!("  {name}"));
        let driver = crate::driver();
        runtime.block_on(in_time(async {
            let background = tokio::spawn(driver.background().expect("a descriptor"));
            let (client, server) = split(16);
            let (client, server) = (driver.attach(client), driver.attach(server));
            let serve = tokio::spawn(async move {
                let mut served = 0;
                while let Ok(request) = server.recv_request().await {
                    let reply = request.to_vec();
                    server.reply(request, reply).await.expect("it waits");
                    served += 1;
                }
                served
            });
            let calls: Vec<_> = (0..200u8)
                .map(|number| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        let reply = client.call([number]).await.expect("it was answered");
                        assert_eq!(reply.payload, [number]);
                    })
                })
                .collect();
            for call in calls {
                call.await.expect("it does not panic");
            }
            drop(client);
            assert_eq!(serve.await.expect("it does not panic"), 200);
            // What is dropped in the middle loses nothing.
            let (sender, receiver) = split(16);
            let receiver = driver.attach(receiver);
            for number in 0..50u8 {
                let limit = Duration::from_micros(u64::from(number) * 50);
                let send = async {
                    tokio::time::sleep(limit / 2).await;
                    sender.try_send([number]).expect("there is room");
                };
                let (early, ()) = both(tokio::time::timeout(limit, receiver.recv()), send).await;
                let message = match early {
                    Ok(message) => message,
                    Err(_) => receiver.recv().await,
                };
                assert_eq!(message.expect("it is not lost").payload, [number]);
            }
            // The background ends with the driver.
            drop((receiver, driver));
            background
                .await
                .expect("it does not panic")
                .expect("the ring works");
        }));
    }
}

#[test]
fn streams_on_tokio() {
    for (name, runtime) in runtimes() {
        postbox_tests::tell(&format!("  {name}"));
        let driver = crate::driver();
        runtime.block_on(in_time(async {
            tokio::spawn(driver.background().expect("a descriptor"));
            let (sender, receiver) = split(16);
            let buffers = driver.buffers(8, 32).expect("there is memory");
            let mut messages = driver.attach(receiver).messages(&buffers);
            let sends = tokio::task::spawn_blocking(move || {
                for number in 0..500u32 {
                    sender
                        .send(number.to_le_bytes())
                        .expect("somebody receives");
                }
            });
            let mut next = 0u32;
            while let Some(message) = messages.next().await {
                assert_eq!(*message.expect("it came"), next.to_le_bytes());
                next += 1;
            }
            assert_eq!(next, 500);
            sends.await.expect("it does not panic");
        }));
    }
}

/// A thread of the runtime ends with operations that it has submitted.
#[test]
fn operations_survive_the_threads_that_began_them() {
    for (name, runtime) in runtimes() {
        postbox_tests::tell(&format!("  {name}"));
        let driver = crate::driver();
        runtime.block_on(in_time(async {
            tokio::spawn(driver.background().expect("a descriptor"));
            let (sender, receiver) = split(16);
            let receiver = driver.attach(receiver);
            let begun = {
                let (driver, receiver) = (driver.clone(), receiver.clone());
                thread::spawn(move || {
                    let ops: Vec<_> = (0..10).map(|_| receiver.recv()).collect();
                    driver.submit().expect("the ring works");
                    ops
                })
            };
            let ops = tokio::task::spawn_blocking(|| begun.join().expect("it does not panic"));
            let ops = ops.await.expect("it does not panic");
            let waiting = || receiver.handle().info().expect("bound").waiting_receivers;
            while waiting() < 10 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            for number in 0..10u8 {
                sender.try_send([number]).expect("there is room");
            }
            let mut seen = Vec::new();
            for op in ops {
                seen.extend(op.await.expect("it came").payload);
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<u8>>());
        }));
    }
}

/// The last thing of a driver goes while others are in the middle of it.
#[test]
fn the_end_of_a_driver_in_a_runtime() {
    for (name, runtime) in runtimes() {
        postbox_tests::tell(&format!("  {name}"));
        let (sender, receiver) = split(16);
        runtime.block_on(in_time(async {
            let driver = crate::driver();
            let background = tokio::spawn(driver.background().expect("a descriptor"));
            let receiver = driver.attach(receiver);
            drop(driver);
            let waits =
                tokio::spawn(async move { receiver.recv().await.map(|message| message.payload) });
            while sender.info().expect("bound").waiting_receivers == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            waits.abort();
            assert!(waits.await.expect_err("it was aborted").is_cancelled());
            background
                .await
                .expect("it does not panic")
                .expect("the ring works");
        }));
        wait_until("the handle to be closed", || {
            sender
                .try_send("x")
                .is_err_and(|error| error.error.is_disconnected())
        });
    }
}

#[test]
fn futures_that_are_cancelled_say_so() {
    let driver = crate::driver();
    let both = driver.attach(Mailbox::options().anonymous().expect("new"));
    let op = both.recv();
    driver.block_on(async {
        let mut op = pin!(op);
        let mut once = true;
        let result = std::future::poll_fn(|cx| {
            let poll = op.as_mut().poll(cx);
            if std::mem::take(&mut once) {
                assert!(poll.is_pending());
                op.cancel();
            }
            poll
        });
        assert_eq!(kind(result.await), ErrorKind::Cancelled);
    });
}
