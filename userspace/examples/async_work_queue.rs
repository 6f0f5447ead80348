//! A work queue on tokio: producers that wait for room, workers that acknowledge what is done, and
//! one of them that is dropped in the middle of a job, which another one then does.
//!
//! Here all of them are tasks of one program. In programs of their own they would be the same:
//! everybody finds the queue by its name.

use postbox::tokio::Async;
use postbox::{Capacity, Mailbox, Receiver, Sender};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

const NAME: &str = "example/async-jobs";
const PRODUCERS: usize = 3;
const JOBS: usize = 20;
const WORKERS: usize = 4;

/// How often each job was done, and how often by somebody who was not the first to take it.
type Done = Arc<Mutex<BTreeMap<String, (u32, u32)>>>;

async fn produce(producer: usize) -> postbox::Result<()> {
    let jobs = Async::new(Sender::open(NAME)?)?;
    for number in 0..JOBS {
        // The queue holds eight: whoever is faster than the workers waits here.
        jobs.send(format!("{producer}.{number}")).await?;
    }
    Ok(())
}

/// Does jobs until the last producer is gone and nothing is left, and says how many.
async fn work(jobs: Async<Receiver>, done: Done) -> Result<usize, Box<dyn Error + Send + Sync>> {
    let mut count = 0;
    loop {
        let job = match jobs.take().await {
            Err(error) if error.is_disconnected() => return Ok(count),
            job => job?,
        };
        // If this task is dropped here, or the process dies, somebody else gets the job.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let again = u32::from(job.redelivered);
        let job = String::from_utf8(job.ack()?.payload)?;
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = done.entry(job).or_default();
        *entry = (entry.0 + 1, entry.1 + again);
        count += 1;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let (sender, receiver) = Mailbox::options()
        .create_new(true)
        .capacity(Capacity::Bounded(8))
        .open(NAME)?
        .split()?;

    // A worker that takes a job and never gets to the end of it.
    let (took, taken) = oneshot::channel();
    let jobs = Async::new(receiver.try_clone()?)?;
    let stuck = tokio::spawn(async move {
        let job = jobs.take().await?;
        let _ = took.send(String::from_utf8_lossy(&job).into_owned());
        std::future::pending::<()>().await;
        job.ack()
    });

    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| tokio::spawn(produce(producer)))
        .collect();
    let interrupted = taken.await?;
    println!("one worker has taken job {interrupted}, and is stuck");
    // Dropping what it does puts the job back.
    stuck.abort();

    let done = Done::default();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let jobs = Async::new(receiver.try_clone()?)?;
        workers.push(tokio::spawn(work(jobs, done.clone())));
    }
    for producer in producers {
        producer.await??;
    }
    // The last sender: now the workers come to an end.
    drop(sender);
    let mut total = 0;
    for (number, worker) in workers.into_iter().enumerate() {
        let count = worker.await??;
        println!("worker {number} did {count} jobs");
        total += count;
    }

    let done = done.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(total, PRODUCERS * JOBS);
    assert_eq!(done.len(), PRODUCERS * JOBS, "all of them");
    for (job, (times, again)) in done.iter() {
        assert_eq!(*times, 1, "job {job} was done once");
        assert_eq!(*again, u32::from(*job == interrupted), "{job}");
    }
    println!("{total} jobs are done, each once, and job {interrupted} by its second worker");
    Ok(())
}
