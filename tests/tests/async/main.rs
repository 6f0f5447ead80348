//! Handles whose calls are futures, on runtimes of one thread and of several: every object, futures that are dropped, ends,
//! many tasks at once, streams and sinks, typed channels; and a reactor that is not tokio's.

mod calls;
mod links;
mod messages;
mod objects;
mod pipes;
mod reactors;
mod rings;
mod streams;
mod typed;

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

use postbox::tokio::Async;
use postbox::{Capacity, Error, ErrorKind, Mailbox, Receiver, Sender, aio};
use postbox_tests::watch;
use rustix::fs::{OFlags, fcntl_getfl};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// A runtime of so many threads.
fn runtime(threads: usize) -> Runtime {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().expect("a runtime")
}

/// Runs a test on a runtime of one thread, and on one of three.
#[track_caller]
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    for threads in [1, 3] {
        let _watch = watch(format!("on {threads} threads"));
        runtime(threads).block_on(test());
    }
}

/// It is not ready, and will not be as things are.
#[track_caller]
fn waits<T: Debug>(future: impl Future<Output = T>) -> impl Future<Output = ()> {
    let at = Location::caller();
    async move {
        let ready = timeout(Duration::from_millis(30), future).await;
        if let Ok(ready) = ready {
            panic!("{at}: it did not wait: {ready:?}");
        }
    }
}

/// Has others go on for a while.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn is<H: aio::Object + Debug>(handle: H) -> Async<H> {
    Async::new(handle).expect("it can be registered")
}

fn mailbox(capacity: Capacity) -> Mailbox {
    let mut options = Mailbox::options();
    let made = options.capacity(capacity).anonymous();
    made.expect("a mailbox without a name can be made")
}

/// The two sides of a mailbox.
fn sides(capacity: Capacity) -> (Async<Sender>, Async<Receiver>) {
    let (sender, receiver) = mailbox(capacity).split().expect("it has both rights");
    (is(sender), is(receiver))
}

fn bounded(messages: u64) -> (Async<Sender>, Async<Receiver>) {
    sides(Capacity::Bounded(messages))
}

/// Why it failed.
#[track_caller]
fn kind<T>(result: Result<T, impl Into<Error>>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.into().kind,
    }
}

/// Nobody has made it non-blocking, which would be so for all that share the file.
#[track_caller]
fn still_blocks(handle: impl std::os::fd::AsFd) {
    let flags = fcntl_getfl(handle).expect("it is open");
    assert!(!flags.contains(OFlags::NONBLOCK));
}
