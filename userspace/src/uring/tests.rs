//! The driver, over plain files in place of handles: what is the same with both. The commands are those of
//! `Command::submitted`.

use super::buffers::{Buffers, Registered};
use super::core::{Op, Settings, Shared};
use super::ops::{Direct, Empty, Full, Raw};
use super::stream::Messages;
use super::task::{Hold, Stash};
use crate::error::{ErrorKind, Result};
use crate::handle::Rights;
use crate::object::{Inner, Kind, Subject};
use crate::sys;
use io_uring::IoUring;
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, pipe_with};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// A driver; none where this machine has no io_uring, which the tests in the VM do not excuse.
fn driver(entries: u32, completions: u32) -> Option<Arc<Shared>> {
    let mut builder = IoUring::builder();
    builder.setup_submit_all().setup_cqsize(completions);
    let ring = match builder.build(entries) {
        Ok(ring) => ring,
        Err(error) => {
            eprintln!("left out: {error}");
            return None;
        }
    };
    Some(shared(ring, false))
}

/// One that the thread alone uses that makes it.
fn single() -> Option<Arc<Shared>> {
    let mut builder = IoUring::builder();
    builder.setup_submit_all().setup_single_issuer();
    builder.setup_defer_taskrun().setup_taskrun_flag();
    match builder.build(8) {
        Ok(ring) => Some(shared(ring, true)),
        Err(error) => {
            eprintln!("left out: {error}");
            None
        }
    }
}

fn shared(ring: IoUring, single_issuer: bool) -> Arc<Shared> {
    let settings = Settings {
        always_async: false,
        room: 64,
        sqpoll: false,
        single_issuer,
    };
    Arc::new(Shared::new(ring, settings, Registered::new(0)).expect("there are descriptors"))
}

/// Runs it, and fails where it does not end: it waits for what never comes.
fn in_time<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || done.send(run()));
    match ended.recv_timeout(Duration::from_secs(60)) {
        Ok(value) => value,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it waits for ever"),
        Err(_) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(_) => unreachable!("it has sent what it returned"),
        },
    }
}

fn pipe() -> (Arc<dyn Hold>, OwnedFd) {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("there are descriptors");
    (hold(reader), writer)
}

fn hold(fd: OwnedFd) -> Arc<dyn Hold> {
    let subject = Subject::new(Kind::Pipe, None);
    Arc::new(Raw {
        inner: Inner::new(fd, subject, Rights::empty(), 16),
        stash: Stash::default(),
    })
}

type Read = Op<(Result<usize>, Vec<u8>)>;

fn read(driver: &Arc<Shared>, on: &Arc<dyn Hold>) -> Read {
    let buf = Empty::new(Vec::with_capacity(64));
    let read = Direct::new(sys::POSTBOX_READ, buf, 0, (0, 0));
    driver.start(on.clone(), read)
}

fn write(to: &OwnedFd, bytes: &[u8]) {
    assert_eq!(rustix::io::write(to, bytes), Ok(bytes.len()));
}

#[track_caller]
fn got((result, bytes): (Result<usize>, Vec<u8>)) -> Vec<u8> {
    assert_eq!(result, Ok(bytes.len()));
    bytes
}

/// Waits until nothing is in the kernel's hands.
fn settle(driver: &Arc<Shared>) {
    let end = Instant::now() + Duration::from_secs(60);
    while driver.busy() > 0 {
        assert!(Instant::now() < end, "{driver:?}");
        driver.drive().expect("the ring works");
        thread::yield_now();
    }
}

#[test]
fn what_is_begun_is_submitted_together_and_waited_for() {
    let Some(driver) = driver(4, 64) else { return };
    let (on, writer) = pipe();
    let out = hold(writer);
    // More than the queue has room for.
    let writes: Vec<_> = (0..20u8)
        .map(|n| {
            driver.start(
                out.clone(),
                Direct::new(sys::POSTBOX_WRITE, Full(vec![n]), 0, (0, 0)),
            )
        })
        .collect();
    for write in writes {
        assert_eq!(write.wait().0, Ok(1));
    }
    let mut all = Vec::new();
    while all.len() < 20 {
        all.extend(got(read(&driver, &on).wait()));
    }
    assert_eq!(all, (0..20).collect::<Vec<u8>>());
    assert_eq!(driver.busy(), 0);
}

#[test]
fn the_memory_of_a_dropped_operation_is_the_drivers() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let op = read(&driver, &on);
    driver.drive().expect("submitted");
    assert_eq!(driver.busy(), 1);
    assert!(!op.is_done());
    drop(op);
    settle(&driver);
    // Nothing was taken.
    write(&writer, b"x");
    assert_eq!(got(read(&driver, &on).wait()), b"x");
}

#[test]
fn what_came_too_late_to_be_cancelled_is_for_the_next() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let first = read(&driver, &on);
    driver.drive().expect("submitted");
    write(&writer, b"first");
    drop(first);
    settle(&driver);
    write(&writer, b"second");
    let mut seen = got(read(&driver, &on).wait());
    if seen == b"first" {
        seen.extend(got(read(&driver, &on).wait()));
    }
    // Either it was cancelled before anything came, or what came is not lost.
    assert_eq!(seen, b"firstsecond");
    // A buffer that is too small leaves it.
    let third = read(&driver, &on);
    driver.drive().expect("submitted");
    write(&writer, b"third");
    settle(&driver);
    assert!(third.is_done());
    drop(third);
    let small = Empty::new(Vec::with_capacity(2));
    let small = driver.start(on.clone(), Direct::new(sys::POSTBOX_READ, small, 0, (0, 0)));
    driver.drive().expect("submitted");
    assert!(!small.is_done());
    assert_eq!(got(read(&driver, &on).wait()), b"third");
    write(&writer, b"4");
    assert_eq!(got(small.wait()), b"4");
}

#[test]
fn a_cancelled_operation_says_so() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let op = read(&driver, &on);
    op.cancel();
    let (result, _) = op.wait();
    assert_eq!(
        result.map_err(|error| error.kind),
        Err(ErrorKind::Cancelled)
    );
    // One that is done is not cancelled any more.
    write(&writer, b"x");
    let op = read(&driver, &on);
    driver.drive().expect("submitted");
    settle(&driver);
    op.cancel();
    assert_eq!(got(op.wait()), b"x");
    let ops = [read(&driver, &on), read(&driver, &on)];
    driver.cancel_all(&on);
    for op in ops {
        assert!(
            op.wait()
                .0
                .is_err_and(|error| error.kind == ErrorKind::Cancelled)
        );
    }
}

#[test]
fn forgetting_frees_nothing_that_is_in_use() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let op = read(&driver, &on);
    driver.drive().expect("submitted");
    std::mem::forget(op);
    write(&writer, b"x");
    settle(&driver);
    std::mem::forget(read(&driver, &on));
    // Forgotten operations have a reference each; the driver is leaked with them, and not freed.
    assert_eq!(Arc::strong_count(&driver), 3);
}

#[test]
fn the_end_of_the_driver_cancels_and_waits() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, _writer) = pipe();
    let ops: Vec<_> = (0..20).map(|_| read(&driver, &on)).collect();
    driver.drive().expect("submitted");
    assert_eq!(driver.busy(), 20);
    let closed = driver.closed.clone();
    drop(driver);
    // Operations keep it.
    assert!(!closed.gone.load(SeqCst));
    drop(ops);
    assert!(closed.gone.load(SeqCst));
    assert_eq!(
        Arc::strong_count(&on),
        1,
        "nothing is left that was under way"
    );
}

#[test]
fn threads_wait_for_one_another() {
    let Some(driver) = driver(16, 64) else { return };
    let pipes: Vec<_> = (0..8).map(|_| pipe()).collect();
    thread::scope(|scope| {
        let waits: Vec<_> = pipes
            .iter()
            .map(|(on, _)| {
                let driver = &driver;
                scope.spawn(move || {
                    (0..50u8).for_each(|n| assert_eq!(got(read(driver, on).wait()), [n]));
                })
            })
            .collect();
        for n in 0..50u8 {
            for (_, writer) in &pipes {
                write(writer, &[n]);
            }
            // So that each read gets one byte.
            for (on, _) in &pipes {
                let end = Instant::now() + Duration::from_secs(60);
                while rustix::io::ioctl_fionread(&on.inner().fd) != Ok(0) {
                    assert!(Instant::now() < end, "somebody reads");
                    thread::yield_now();
                }
            }
        }
        for wait in waits {
            wait.join().expect("it does not panic");
        }
    });
    assert_eq!(driver.busy(), 0);
}

#[test]
fn futures_are_woken_by_who_drives() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut context = Context::from_waker(&waker);
    let mut op = pin!(read(&driver, &on));
    assert!(op.as_mut().poll(&mut context).is_pending());
    assert_eq!(driver.busy(), 1, "the first poll submits");
    write(&writer, b"x");
    let end = Instant::now() + Duration::from_secs(60);
    while count.0.load(SeqCst) == 0 {
        assert!(Instant::now() < end, "nobody was woken");
        driver.drive().expect("the ring works");
    }
    match op.as_mut().poll(&mut context) {
        Poll::Ready(output) => assert_eq!(got(output), b"x"),
        Poll::Pending => panic!("it is done"),
    }
}

#[test]
fn block_on_waits_for_the_kernel_and_for_other_threads() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    /// Ready when another thread has woken it.
    struct Other(Option<thread::JoinHandle<()>>, Arc<AtomicUsize>);
    impl Future for Other {
        type Output = ();
        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            if self.1.load(SeqCst) == 1 {
                return Poll::Ready(());
            }
            if self.0.is_none() {
                let (waker, flag) = (cx.waker().clone(), self.1.clone());
                self.0 = Some(thread::spawn(move || {
                    thread::sleep(Duration::from_millis(50));
                    flag.store(1, SeqCst);
                    waker.wake();
                }));
            }
            Poll::Pending
        }
    }
    let driver = &driver;
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(20));
            write(&writer, b"x");
            thread::sleep(Duration::from_millis(100));
            write(&writer, b"y");
        });
        let bytes = driver.block_on(async {
            let first = got(read(driver, &on).await);
            Other(None, Arc::default()).await;
            [first, got(read(driver, &on).await)].concat()
        });
        assert_eq!(bytes, b"xy");
    });
}

#[test]
fn the_end_of_a_thread_ends_no_operation() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let begun = thread::scope(|scope| {
        let begin = scope.spawn(|| {
            let op = read(&driver, &on);
            driver.drive().expect("submitted");
            op
        });
        begin.join().expect("it does not panic")
    });
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        write(&writer, b"x");
    });
    assert_eq!(got(begun.wait()), b"x");
}

#[test]
fn a_child_leaves_the_driver_alone() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let op = read(&driver, &on);
    driver.drive().expect("submitted");
    // SAFETY: The child calls nothing that other threads could have locked but the allocator, which can be
    // used after fork, and ends without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = read(&driver, &on).wait().0;
        let kind = refused.map_err(|error| error.kind);
        drop(op);
        drop(driver);
        // SAFETY: As above.
        unsafe { libc::_exit(i32::from(kind != Err(ErrorKind::Unsupported))) };
    }
    let mut status = -1;
    // SAFETY: `status` is writable.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "what the child begins is refused");
    write(&writer, b"x");
    assert_eq!(got(op.wait()), b"x");
}

/// A message as a multishot receive would put it into a buffer.
fn record(payload: &[u8], priority: u32) -> Vec<u8> {
    let record = sys::postbox_record {
        size: size_of::<sys::postbox_record>() as u32,
        msg_len: payload.len() as u64,
        priority,
        pid: 7,
        ..Default::default()
    };
    // SAFETY: It has so many bytes, none of them padding.
    let head: [u8; size_of::<sys::postbox_record>()] = unsafe { std::mem::transmute(record) };
    [&head, payload].concat()
}

#[test]
fn a_stream_gives_out_what_is_in_its_buffers() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let buffers = Buffers::new(&driver, 4, 40).expect("there is memory");
    assert_eq!(
        (buffers.count(), buffers.size(), buffers.available()),
        (4, 40, 4)
    );
    let mut messages = Messages::new(&driver, on.clone(), &buffers);
    for round in 0..20u8 {
        let payload = vec![round; usize::from(round)];
        write(&writer, &record(&payload, 3));
        let message = messages
            .wait_next()
            .expect("it goes on")
            .expect("a message");
        assert_eq!(
            (&*message, message.priority, message.sender.pid),
            (&payload[..], 3, 7)
        );
        assert_eq!(buffers.available(), 3);
        let message = message.into_message();
        assert_eq!((message.payload, message.priority), (payload, 3));
        assert_eq!(buffers.available(), 4);
    }
    // Those that nobody drops are missing.
    let mut held = Vec::new();
    for n in 0..4 {
        write(&writer, &record(&[n], 0));
        held.push(
            messages
                .wait_next()
                .expect("it goes on")
                .expect("a message"),
        );
    }
    write(&writer, &record(b"fifth", 0));
    let error = messages.wait_next().expect("it goes on");
    assert_eq!(
        error.map(drop).map_err(|error| error.kind),
        Err(ErrorKind::NoBuffers)
    );
    held.clear();
    let message = messages
        .wait_next()
        .expect("it goes on")
        .expect("a message");
    assert_eq!(&*message, b"fifth");
    drop(messages);
    settle(&driver);
    drop((message, buffers));
    // The numbers are free again.
    let again: Vec<_> = (0..3)
        .map(|_| {
            Buffers::new(&driver, 2, 8)
                .expect("there is memory")
                .group
                .id
        })
        .collect();
    assert_eq!(again, [0, 0, 0]);
}

#[test]
fn what_a_dropped_stream_has_is_for_the_next() {
    let Some(driver) = driver(8, 64) else { return };
    let (on, writer) = pipe();
    let buffers = Buffers::new(&driver, 4, 8).expect("there is memory");
    let mut messages = Messages::new(&driver, on.clone(), &buffers);
    let mut context = Context::from_waker(Waker::noop());
    assert!(messages.poll_next(&mut context).is_pending());
    // Whole buffers, so that each is read on its own.
    write(&writer, &record(b"message1", 0));
    write(&writer, &record(b"message2", 0));
    let end = Instant::now() + Duration::from_secs(60);
    while buffers.available() > 2 {
        assert!(Instant::now() < end, "both come");
        driver.drive().expect("the ring works");
    }
    drop(messages);
    settle(&driver);
    assert_eq!(buffers.available(), 4);
    let mut messages = Messages::new(&driver, on.clone(), &buffers);
    for expected in [b"message1", b"message2"] {
        let message = messages
            .wait_next()
            .expect("it goes on")
            .expect("a message");
        assert_eq!(&*message, expected);
    }
}

#[test]
fn bad_numbers_of_buffers_are_refused() {
    let Some(driver) = driver(8, 64) else { return };
    assert!(Buffers::new(&driver, 0, 8).is_ok_and(|buffers| buffers.count() == 1));
    assert!(Buffers::new(&driver, 40_000, 8).is_err());
    assert!(Buffers::new(&driver, 1, usize::MAX).is_err());
    assert!(Buffers::new(&driver, 1, u32::MAX as usize).is_err());
}

#[test]
fn types_can_go_where_they_are_wanted() {
    fn both<T: Send + Sync>() {}
    fn unpin<T: Unpin + Send>() {}
    both::<super::Driver>();
    both::<super::Attached<crate::Both>>();
    both::<super::Buffers>();
    both::<super::FixedBuffers>();
    both::<super::Delivery>();
    both::<super::Request>();
    both::<super::Record>();
    unpin::<Op<Result<crate::Message>>>();
    unpin::<Messages>();
    unpin::<super::Links>();
    #[cfg(feature = "tokio")]
    unpin::<super::Background>();
}

#[test]
fn panicking_waker_leaves_others_woken() {
    let Some(driver) = driver(8, 64) else { return };
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of somebody");
        }
    }
    let (on, writer) = pipe();
    let (other_on, other_writer) = pipe();
    let (mut bad, mut good) = (read(&driver, &on), read(&driver, &other_on));
    let panics = Waker::from(Arc::new(Panics));
    assert!(
        Pin::new(&mut bad)
            .poll(&mut Context::from_waker(&panics))
            .is_pending()
    );
    let count = Arc::new(Count::default());
    let counts = Waker::from(count.clone());
    assert!(
        Pin::new(&mut good)
            .poll(&mut Context::from_waker(&counts))
            .is_pending()
    );
    write(&writer, b"one");
    write(&other_writer, b"two");
    let end = Instant::now() + Duration::from_secs(60);
    let mut panicked = false;
    while count.0.load(SeqCst) == 0 {
        assert!(Instant::now() < end, "the other is woken");
        let driven = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| driver.drive()));
        panicked |= driven.is_err();
    }
    assert!(
        panicked || !bad.is_done(),
        "who drives is told of the panic"
    );
    assert_eq!(got(good.wait()), b"two");
    assert_eq!(got(bad.wait()), b"one");
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// A waker that has an operation of the driver, and drops it with itself.
struct Owner(#[allow(dead_code)] std::sync::Mutex<Option<Read>>);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn waker_that_owns_an_operation_is_dropped_without_the_lock() {
    in_time(|| {
        let Some(driver) = driver(8, 64) else { return };
        let (on, _writer) = pipe();
        let owner = || Waker::from(Arc::new(Owner(Some(read(&driver, &on)).into())));
        // Dropped with its operation.
        let mut op = read(&driver, &on);
        assert!(
            Pin::new(&mut op)
                .poll(&mut Context::from_waker(&owner()))
                .is_pending()
        );
        drop(op);
        // Replaced by another.
        let mut op = read(&driver, &on);
        assert!(
            Pin::new(&mut op)
                .poll(&mut Context::from_waker(&owner()))
                .is_pending()
        );
        assert!(
            Pin::new(&mut op)
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        // Of a stream.
        let buffers = Buffers::new(&driver, 4, 8).expect("there is memory");
        let mut messages = Messages::new(&driver, on.clone(), &buffers);
        assert!(
            messages
                .poll_next(&mut Context::from_waker(&owner()))
                .is_pending()
        );
        assert!(
            messages
                .poll_next(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        drop((op, messages));
        settle(&driver);
    });
}

#[test]
fn waiting_issuer_submits_for_other_threads() {
    in_time(|| {
        let Some(driver) = single() else { return };
        let (on, writer) = pipe();
        let (idle, end) = pipe();
        let other = thread::spawn({
            let driver = driver.clone();
            move || {
                // The issuer is in the kernel, or will be.
                while !driver.lock().has_leader() {
                    thread::yield_now();
                }
                write(&writer, b"for another");
                let taken = got(read(&driver, &on).wait());
                write(&end, b"end");
                taken
            }
        });
        let ended = read(&driver, &idle);
        assert_eq!(got(driver.block_on(ended)), b"end");
        assert_eq!(other.join().expect("it does not panic"), b"for another");
    });
}

#[test]
fn operations_fail_when_their_single_issuer_has_ended() {
    in_time(|| {
        let (made, driver) = std::sync::mpsc::channel();
        let (on, writer) = pipe();
        let issuer = thread::spawn({
            let on = on.clone();
            move || {
                let driver = single()?;
                let begun = read(&driver, &on);
                made.send((driver, begun)).expect("it is waited for");
                Some(())
            }
        });
        if issuer.join().expect("it does not panic").is_none() {
            return;
        }
        let (driver, begun) = driver.recv().expect("it was made");
        let kind = |(result, _): (Result<usize>, Vec<u8>)| result.expect_err("it cannot be").kind;
        // What it had begun, and what comes now.
        assert_eq!(kind(begun.wait()), ErrorKind::Unsupported);
        write(&writer, b"x");
        assert_eq!(kind(read(&driver, &on).wait()), ErrorKind::Unsupported);
        assert_eq!(
            kind(driver.block_on(read(&driver, &on))),
            ErrorKind::Unsupported
        );
        assert_eq!(driver.busy(), 0);
    });
}

#[test]
fn buffers_lost_while_another_thread_leads_are_found() {
    in_time(|| {
        // A completion queue that is full at once, so that buffers are used up without a word.
        let Some(driver) = driver(8, 8) else { return };
        let (idle, end) = pipe();
        let leader = thread::spawn({
            let driver = driver.clone();
            move || got(driver.block_on(read(&driver, &idle)))
        });
        while !driver.lock().has_leader() {
            thread::yield_now();
        }
        assert!(driver.drain(), "nothing is left to be taken");
        write(&end, b"end");
        assert_eq!(leader.join().expect("it does not panic"), b"end");
    });
}

#[cfg(feature = "tokio")]
#[test]
fn background_refuses_a_single_issuer_that_may_move() {
    let Some(driver) = single() else { return };
    let refused = |flavor: &mut tokio::runtime::Builder| {
        let runtime = flavor.enable_io().build().expect("a runtime");
        let driver = driver.clone();
        runtime.block_on(async move { super::Background::new(&driver).err() })
    };
    let error = refused(tokio::runtime::Builder::new_multi_thread().worker_threads(1));
    assert_eq!(
        error.expect("refused").kind(),
        std::io::ErrorKind::Unsupported
    );
    assert!(refused(&mut tokio::runtime::Builder::new_current_thread()).is_none());
    let driver = driver.clone();
    let elsewhere = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build();
        let runtime = runtime.expect("a runtime");
        runtime.block_on(async move { super::Background::new(&driver).err() })
    });
    let error = elsewhere.join().expect("it does not panic");
    assert_eq!(
        error.expect("refused").kind(),
        std::io::ErrorKind::Unsupported
    );
}
