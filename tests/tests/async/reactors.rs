//! Another reactor than tokio's: async-io's, which goes by level and sets descriptors to be armed for one event. What a program
//! writes for that is in the documentation of `Reactor`.

use std::future::poll_fn;
use std::io;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use postbox::aio::{Fd, Interest, Reactor};
use postbox::{Barrier, Latch, Link, Listener, Pipe, Pool, Ring, Semaphore, Shutdown, Wait};
use postbox_tests::{Rng, scaled, sleep_forever, spawn, unique, watch};

use super::{ErrorKind, kind, mailbox, still_blocks};
use postbox::{Capacity, Endpoint};

struct Smol(async_io::Async<Fd>);

// SAFETY: `async_io::Async` has the descriptor, and drops it when it is dropped.
unsafe impl Reactor for Smol {
    fn register(fd: Fd) -> io::Result<Self> {
        async_io::Async::new_nonblocking(fd).map(Smol)
    }

    async fn io<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut() -> Option<T> + Send,
    ) -> io::Result<T> {
        loop {
            if let Some(done) = attempt() {
                return Ok(done);
            }
            match interest {
                Interest::Read => self.0.readable().await?,
                Interest::Write => self.0.writable().await?,
            }
        }
    }

    fn poll_io<T>(
        &self,
        interest: Interest,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            if let Some(done) = attempt() {
                return Poll::Ready(Ok(done));
            }
            ready!(match interest {
                Interest::Read => self.0.poll_readable(cx),
                Interest::Write => self.0.poll_writable(cx),
            })?;
        }
    }
}

type Async<H> = postbox::aio::Async<H, Smol>;

fn is<H: postbox::aio::Object + std::fmt::Debug>(handle: H) -> Async<H> {
    Async::new(handle).expect("it can be registered")
}

async fn a_while() {
    async_io::Timer::after(Duration::from_millis(20)).await;
}

/// The future's result, if it comes within that time.
async fn within<T>(time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut late) = (pin!(future), pin!(async_io::Timer::after(time)));
    poll_fn(|cx| {
        if let Poll::Ready(done) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        late.as_mut().poll(cx).map(|_| None)
    })
    .await
}

#[track_caller]
fn waits<T>(future: impl Future<Output = T>) -> impl Future<Output = ()> {
    let at = Location::caller();
    async move {
        let ready = within(Duration::from_millis(30), future).await;
        assert!(ready.is_none(), "{at}: it did not wait");
    }
}

async fn both<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> (A, B) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut of_a, mut of_b) = (None, None);
    poll_fn(|cx| {
        if of_a.is_none()
            && let Poll::Ready(done) = a.as_mut().poll(cx)
        {
            of_a = Some(done);
        }
        if of_b.is_none()
            && let Poll::Ready(done) = b.as_mut().poll(cx)
        {
            of_b = Some(done);
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

#[track_caller]
fn run<T>(future: impl Future<Output = T>) -> T {
    let _watch = watch("on another reactor");
    async_io::block_on(future)
}

#[test]
fn messages_on_another_reactor() {
    run(async {
        let (sender, receiver) = mailbox(Capacity::Bounded(2)).split().expect("both rights");
        let (sender, receiver) = (is(sender), Arc::new(is(receiver)));
        waits(receiver.recv()).await;
        let send = async {
            for n in 0..100_u8 {
                sender.send([n]).await.expect("room");
            }
        };
        let receive = async {
            for n in 0..100_u8 {
                assert_eq!(*receiver.recv().await.expect("sent"), [n]);
                if n % 20 == 0 {
                    a_while().await;
                }
            }
        };
        both(send, receive).await;
        drop(sender.reserve(4).await.expect("room"));
        sender.send("job").await.expect("room");
        drop(receiver.clone().take_owned().await.expect("sent"));
        assert!(receiver.take().await.expect("it came back").redelivered);
        still_blocks(&sender);
        still_blocks(&*receiver);
        // A call from a thread, and an answer.
        let client = sender.into_inner();
        let calling = std::thread::spawn(move || client.call("question"));
        let job = receiver
            .recv_request()
            .await
            .expect("it came back once more");
        assert!(!job.is_open());
        let mut request = receiver.recv_request().await.expect("called");
        request.reply("answer").expect("somebody waits");
        let reply = calling.join().expect("no panic").expect("answered");
        assert_eq!(&*reply, b"answer");
        drop((job, request));
        let mut receiver = Arc::into_inner(receiver).expect("nobody else has it");
        let end = poll_fn(|cx| Pin::new(&mut receiver).poll_next(cx)).await;
        assert!(end.is_none());
    });
}

/// What was sent in a storm of dropped futures is received once, on several threads.
#[test]
fn a_storm_on_another_reactor() {
    let (sender, receiver) = mailbox(Capacity::Bounded(2)).split().expect("both rights");
    let (sender, receiver) = (Arc::new(is(sender)), Arc::new(is(receiver)));
    let rounds = scaled(300);
    let senders: Vec<_> = (0..2)
        .map(|thread| {
            let sender = sender.clone();
            let mut rng = Rng::from_env(&format!("level sends {thread}"));
            std::thread::spawn(move || {
                run(async {
                    let mut sent = Vec::new();
                    for n in 0..rounds {
                        let message = format!("{thread}.{n}").into_bytes();
                        let limit = Duration::from_micros(rng.below(400));
                        if let Some(done) = within(limit, sender.send(&message)).await {
                            done.expect("somebody receives");
                            sent.push(message);
                        }
                    }
                    sent
                })
            })
        })
        .collect();
    drop(sender);
    let receivers: Vec<_> = (0..2)
        .map(|thread| {
            let receiver = receiver.clone();
            let mut rng = Rng::from_env(&format!("level receives {thread}"));
            std::thread::spawn(move || {
                run(async {
                    let mut got = Vec::new();
                    loop {
                        let limit = Duration::from_micros(rng.below(400));
                        match within(limit, receiver.recv()).await {
                            Some(Ok(message)) => got.push(message.payload),
                            Some(Err(error)) if error.is_disconnected() => return got,
                            Some(Err(error)) => panic!("{error}"),
                            None => {}
                        }
                    }
                })
            })
        })
        .collect();
    let all = |threads: Vec<std::thread::JoinHandle<Vec<Vec<u8>>>>| {
        let mut all: Vec<_> = threads
            .into_iter()
            .flat_map(|t| t.join().expect("no panic"))
            .collect();
        all.sort();
        all
    };
    let sent = all(senders);
    assert!(!sent.is_empty());
    assert_eq!(all(receivers), sent);
}

/// A reactor that goes by level is told of a hang-up all the time.
#[test]
fn a_half_closed_link_on_another_reactor() {
    run(async {
        for polled in [false, true] {
            let (near, far) = Link::options()
                .capacity(Capacity::Bounded(1))
                .pair()
                .expect("a pair");
            far.shutdown(Shutdown::Write).expect("it can send");
            let (near, far) = (is(near), is(far));
            near.send("one").await.expect("room");
            let tries = AtomicUsize::new(0);
            let attempt = |link: &Link| {
                tries.fetch_add(1, Relaxed);
                let sent = link.send_with("two", 0, Wait::Never);
                sent.map_err(|failed| failed.error)
            };
            let send = async {
                match polled {
                    true => poll_fn(|cx| near.poll_io(Interest::Write, cx, attempt)).await,
                    false => near.io(Interest::Write, attempt).await,
                }
            };
            let receive = async {
                async_io::Timer::after(Duration::from_millis(300)).await;
                far.recv().await.map(drop)
            };
            let (sent, received) = both(send, receive).await;
            sent.expect("there was room");
            received.expect("sent");
            let tries = tries.load(Relaxed);
            assert!(tries < 100, "{tries} tries");
        }
    });
}

/// Something is there, and not enough: a reactor that goes by level is told so all the time.
#[test]
fn what_is_not_enough_makes_no_reactor_spin() {
    run(async {
        for polled in [false, true] {
            let semaphore = Arc::new(is(Semaphore::new(1).expect("one")));
            let tries = AtomicUsize::new(0);
            let attempt = |semaphore: &Semaphore| {
                tries.fetch_add(1, Relaxed);
                semaphore.take(2, Wait::Never)
            };
            let take = async {
                match polled {
                    true => poll_fn(|cx| semaphore.poll_io(Interest::Read, cx, attempt)).await,
                    false => semaphore.io(Interest::Read, attempt).await,
                }
            };
            let post = async {
                async_io::Timer::after(Duration::from_millis(300)).await;
                // It hides nothing from who wants less.
                if !polled {
                    drop(semaphore.acquire().await.expect("there is one"));
                }
                semaphore.get_ref().post(1)
            };
            let (taken, posted) = both(take, post).await;
            taken.expect("two are there");
            posted.expect("no maximum");
            let tries = tries.load(Relaxed);
            assert!(tries < 100, "{tries} tries, polled: {polled}");
        }
    });
}

#[test]
fn every_other_object_on_another_reactor() {
    run(async {
        // Listeners and links.
        let name = unique("level");
        let listener = is(Listener::bind(&name).expect("a new name"));
        waits(listener.accept()).await;
        let client = is(Link::connect(&name).expect("room"));
        let server = listener.accept().await.expect("it connected");
        client.send("hello").await.expect("room");
        assert_eq!(&*server.recv().await.expect("sent"), b"hello");
        let (ended, ()) = both(server.recv(), async {
            a_while().await;
            drop(client);
        })
        .await;
        assert_eq!(kind(ended), ErrorKind::Disconnected);

        // An endpoint, and one process alone.
        let endpoint = is(Endpoint::own().expect("it is ours"));
        let child = spawn(sleep_forever);
        let (ended, ()) = both(endpoint.recv_from(child.pid()), async {
            a_while().await;
            child.kill(libc::SIGKILL);
        })
        .await;
        assert_eq!(kind(ended), ErrorKind::Disconnected);

        // A pipe.
        let (reader, writer) = Pipe::options().capacity(4096).pair().expect("a pipe");
        let (reader, writer) = (is(reader), is(writer));
        let write = async {
            for n in 0..20_u8 {
                assert_eq!(writer.write(&[n; 4000]).await.expect("it is read"), 4000);
            }
        };
        let read = async {
            let mut buf = [0; 4000];
            let mut count = 0;
            while count < 80_000 {
                count += reader.read(&mut buf).await.expect("it is written");
            }
        };
        both(write, read).await;
        drop(writer);
        assert_eq!(reader.read(&mut [0; 8]).await.expect("the end"), 0);

        // Wait objects.
        let semaphore = is(Semaphore::new(0).expect("one"));
        waits(semaphore.acquire()).await;
        let (guard, ()) = both(semaphore.acquire_many(2), async {
            for _ in 0..2 {
                a_while().await;
                semaphore.get_ref().post(1).expect("no maximum");
            }
        })
        .await;
        assert_eq!(guard.expect("two are there").count(), 2);
        let latch = is(Latch::new(1).expect("one"));
        let participant = latch.get_ref().join().expect("it is not open");
        let (broken, ()) = both(latch.wait(), async {
            a_while().await;
            drop(participant);
        })
        .await;
        assert_eq!(kind(broken), ErrorKind::OwnerDied);
        let barrier = is(Barrier::new(2).expect("one"));
        waits(barrier.wait()).await;
        let (one, two) = both(barrier.wait(), barrier.wait()).await;
        assert!(one.expect("both").is_leader() != two.expect("both").is_leader());

        // A pool.
        let pool = is(Pool::options().keep(1).anonymous(1, 64).expect("a pool"));
        let loan = pool.loan(8).await.expect("one is free");
        waits(pool.loan(8)).await;
        let (again, ()) = both(pool.loan(8), async {
            a_while().await;
            drop(loan);
        })
        .await;
        again.expect("it came back");

        // A ring.
        let (sender, receiver) = Ring::options().capacity(4096).pair().expect("a ring");
        let mut producer = is(sender.attach().expect("nobody else"));
        let mut consumer = is(receiver.attach().expect("nobody else"));
        let send = async {
            for n in 0..200_u64 {
                producer
                    .send(&[n as u8; 300])
                    .await
                    .expect("it is received");
            }
            drop(producer);
        };
        let receive = async {
            for n in 0..200_u64 {
                let record = consumer.recv().await.expect("it is sent").to_vec();
                assert_eq!(record, [n as u8; 300]);
            }
            consumer.recv().await.map(drop)
        };
        let ((), ended) = both(send, receive).await;
        assert_eq!(kind(ended), ErrorKind::Disconnected);
    });
}
