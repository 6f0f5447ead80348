//! Records that stream from one process to another, on one CPU.

use std::io;
use std::os::fd::OwnedFd;

use postbox::{Ring, raw};
use rustix::io::{read, write};
use rustix::pipe::pipe;

use crate::measure::{Echo, Figure, Plan, windows};

/// Records in one of a plan's rounds, so that waking somebody up at its end does not count for much.
const RECORDS: usize = 64;

fn short() -> io::Error {
    io::Error::other("a record of another length")
}

/// A pipe by which the other process says that it has all of a window.
struct Done(OwnedFd, OwnedFd);

impl Done {
    fn new() -> io::Result<Self> {
        let (rx, tx) = pipe()?;
        Ok(Done(rx, tx))
    }

    fn say(&self) -> io::Result<()> {
        write(&self.1, &[1])?;
        Ok(())
    }

    fn hear(&self) -> io::Result<()> {
        read(&self.0, &mut [0; 1])?;
        Ok(())
    }
}

/// One round is a window's worth of records.
fn stream(plan: Plan) -> (Plan, usize, usize) {
    let records = plan.rounds * RECORDS;
    let once = Plan { rounds: 1, ..plan };
    (once, records, plan.windows + 1)
}

fn each(figure: Figure, records: usize) -> Figure {
    Figure {
        median: figure.median / records as f64,
        min: figure.min / records as f64,
    }
}

/// By the crate's `Producer` and `Consumer`.
pub fn by_ring(len: usize, plan: Plan) -> io::Result<Figure> {
    let (once, records, windows_all) = stream(plan);
    let (sender, receiver) = Ring::options().capacity(1 << 16).pair()?;
    let done = Done::new()?;
    let echo = Echo::fork(|| {
        let mut consumer = receiver.attach()?;
        let mut buffer = vec![0; len];
        for _ in 0..windows_all {
            for _ in 0..records {
                if consumer.recv()?.copy_to(&mut buffer) != len {
                    return Err(short());
                }
            }
            done.say()?;
        }
        Ok(())
    })?;
    let mut producer = sender.attach()?;
    let buffer = vec![7; len];
    let figure = windows(once, || {
        for _ in 0..records {
            producer.send(&buffer)?;
        }
        done.hear()
    })?;
    echo.wait()?;
    let info = raw::info(&receiver)?;
    println!(
        "  a ring: {:.4} doorbells and {:.4} sleeps for each record",
        (info.sent + info.received) as f64 / (records * windows_all) as f64,
        (info.full + info.redelivered) as f64 / (records * windows_all) as f64,
    );
    Ok(each(figure, records))
}

/// By write() and read() on a pipe, a record each.
pub fn by_pipe(len: usize, plan: Plan) -> io::Result<Figure> {
    let (once, records, windows_all) = stream(plan);
    let (rx, tx) = pipe()?;
    let done = Done::new()?;
    let echo = Echo::fork(|| {
        let mut buffer = vec![0; len];
        for _ in 0..windows_all {
            for _ in 0..records {
                if read(&rx, &mut buffer)? != len {
                    return Err(short());
                }
            }
            done.say()?;
        }
        Ok(())
    })?;
    let buffer = vec![7; len];
    let figure = windows(once, || {
        for _ in 0..records {
            if write(&tx, &buffer)? != len {
                return Err(short());
            }
        }
        done.hear()
    })?;
    echo.wait()?;
    Ok(each(figure, records))
}
