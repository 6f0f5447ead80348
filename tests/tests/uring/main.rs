//! Operations through io_uring, by the crate's driver and by plain entries, on rings of all kinds.

mod cancelling;
mod futures;
mod operations;
mod order;
mod owners;
mod plain;
mod processes;
mod refusal;
mod results;
mod streams;

use std::time::Duration;

use postbox::uring::{Driver, DriverOptions};
use postbox::{Capacity, Error, ErrorKind, Mailbox, Receiver, Sender, Wait};
use postbox_tests::{Watchdog, wait_until};

/// A time that is not over before the wait is.
const LONG: Wait = Wait::Timeout(postbox_tests::LONG);

/// A time that is up soon.
const SOON: Wait = Wait::Timeout(Duration::from_millis(20));

/// What is special about a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Plain,
    SqPoll,
    Single,
    Async,
}

const SORTS: [Sort; 4] = [Sort::Plain, Sort::SqPoll, Sort::Single, Sort::Async];

impl Sort {
    fn options(self) -> DriverOptions {
        let mut options = Driver::options();
        match self {
            Sort::Plain => &mut options,
            Sort::SqPoll => options.sqpoll(Duration::from_millis(20)),
            Sort::Single => options.single_issuer(true),
            Sort::Async => options.always_async(true),
        };
        options
    }

    fn driver(self) -> Driver {
        self.options()
            .fixed_files(8)
            .build()
            .unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }
}

/// Runs it with a driver of each sort on which operations wait in the order in which they are submitted: with `Async`,
/// workers of the kernel put them there, in any order.
fn each(f: impl Fn(&Driver)) {
    run(f, |sort| !matches!(sort, Sort::Async));
}

/// Runs it with a driver of each sort.
fn each_sort(f: impl Fn(&Driver)) {
    run(f, |_| true);
}

fn run(f: impl Fn(&Driver), wanted: impl Fn(&Sort) -> bool) {
    for sort in SORTS.into_iter().filter(wanted) {
        postbox_tests::tell(&format!("  {sort:?}"));
        let driver = sort.driver();
        f(&driver);
        settle(&driver);
    }
}

fn driver() -> Driver {
    Sort::Plain.driver()
}

fn mailbox(capacity: u64) -> Mailbox {
    Mailbox::options()
        .capacity(Capacity::Bounded(capacity))
        .anonymous()
        .expect("a mailbox without a name can be made")
}

fn split(capacity: u64) -> (Sender, Receiver) {
    mailbox(capacity).split().expect("there are descriptors")
}

/// Waits until nothing of the driver is in the kernel's hands.
#[track_caller]
fn settle(driver: &Driver) {
    let mut watchdog = Watchdog::new();
    while driver.pending() > 0 {
        watchdog.check(|| format!("{driver:?} does not settle"));
        driver
            .turn(Wait::Timeout(Duration::from_millis(5)))
            .expect("the ring works");
    }
}

/// Drives the driver until so many receives wait at the handle.
#[track_caller]
fn wait_receivers(driver: &Driver, on: &postbox::Handle<impl postbox::Access>, n: u32) {
    wait_until(&format!("{n} waiting receivers"), || {
        driver.turn(Wait::Never).expect("the ring works");
        on.info().expect("it is bound").waiting_receivers == n
    });
}

/// Drives the driver until so many sends wait at the handle.
#[track_caller]
fn wait_senders(driver: &Driver, on: &postbox::Handle<impl postbox::Access>, n: u32) {
    wait_until(&format!("{n} waiting senders"), || {
        driver.turn(Wait::Never).expect("the ring works");
        on.info().expect("it is bound").waiting_senders == n
    });
}

/// The cause of a failure.
#[track_caller]
fn kind<T, E: Into<Error>>(result: Result<T, E>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.into().kind,
    }
}
