//! A work queue that survives its workers: one is killed in the middle of a job, and another one
//! does it.

use postbox::{Capacity, Mailbox, Receiver, Wait};
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio, exit};
use std::time::Duration;

const NAME: &str = "example/jobs";

/// Takes a job, says so, and never gets to the end of it.
fn stuck_worker() -> postbox::Result<()> {
    let jobs = Receiver::open(NAME)?;
    let job = jobs.take()?;
    println!("working on {}", String::from_utf8_lossy(&job));
    std::thread::sleep(Duration::from_secs(3600));
    job.ack().map(drop)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if env::args().nth(1).as_deref() == Some("stuck") {
        return Ok(stuck_worker()?);
    }
    let jobs = Mailbox::options()
        .create_new(true)
        .capacity(Capacity::Bounded(16))
        .open(NAME)?;
    jobs.send_many(&["configure", "build", "test"], 0, Wait::Forever)?;

    let mut worker = Command::new(env::current_exe()?)
        .arg("stuck")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    if let Some(stdout) = worker.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    println!("process {} is {}", worker.id(), line.trim());
    worker.kill()?;
    worker.wait()?;

    let mut done = Vec::new();
    while done.len() < 3 {
        let job = jobs.take_timeout(Duration::from_secs(10))?;
        let again = if job.redelivered {
            ", which somebody else left unfinished"
        } else {
            ""
        };
        println!("doing {}{again}", String::from_utf8_lossy(&job));
        let job = job.ack()?;
        done.push((String::from_utf8(job.payload)?, job.redelivered));
    }
    let expected = [("configure", true), ("build", false), ("test", false)];
    let complete = done
        .iter()
        .map(|(job, again)| (job.as_str(), *again))
        .eq(expected);
    exit(
        if complete && jobs.try_take().is_err_and(|error| error.is_empty()) {
            0
        } else {
            1
        },
    )
}
