//! Semaphores, latches, barriers.

use crate::args::{Barrier, Hold, Latch, Make, Sem};
use crate::{Failure, child, stdio};
use postbox::{ErrorKind, Wait, WaitObject, WaitObjectOptions};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

fn make<A: WaitObject>(options: &mut WaitObjectOptions<A>, args: &Make) -> Result<(), Failure> {
    options.create_new(true).persist(true).mode(args.mode);
    match options.open(&args.name) {
        Err(error) if args.exist_ok && error.kind == ErrorKind::Exists => Ok(()),
        made => Ok(made.map(drop)?),
    }
}

pub fn semaphore(args: &Sem) -> Result<ExitCode, Failure> {
    match args {
        Sem::Create {
            make: args,
            count,
            maximum,
        } => {
            let mut options = postbox::Semaphore::options();
            options.initial(*count);
            if let Some(maximum) = maximum {
                options.maximum(*maximum);
            }
            make(&mut options, args)?;
        }
        Sem::Acquire(args) => return acquire(&args.what, args.wait.get()),
        Sem::Try(args) => return acquire(args, Wait::Never),
        Sem::Release { name, count } => postbox::Semaphore::open(name)?.post(*count)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn acquire(args: &Hold, wait: Wait) -> Result<ExitCode, Failure> {
    let semaphore = postbox::Semaphore::open(&args.name)?;
    let holder_died = || {
        let name = &args.name;
        eprintln!("postbox: a holder of {name:?} died: what it guards may be half done");
    };
    let Some(command) = child::command(&args.command) else {
        // A guard would end with this process.
        if semaphore.take(args.count, wait)? {
            holder_died();
        }
        return Ok(ExitCode::SUCCESS);
    };
    child::guarded(|| {
        let guard = semaphore.acquire_many(args.count, wait)?;
        if guard.owner_died() {
            holder_died();
        }
        let status = child::run(command)?;
        if status.signal().is_some() {
            // The kernel gives it back when this process ends, and the next one is told.
            guard.forget();
        } else {
            guard.release()?;
        }
        Ok(ExitCode::from(child::exit_code(status)))
    })
}

pub fn latch(args: &Latch) -> Result<ExitCode, Failure> {
    match args {
        Latch::Create { make: args, count } => {
            make(postbox::Latch::options().count(*count), args)?;
        }
        Latch::Down {
            name,
            count,
            command,
        } => {
            let latch = postbox::Latch::open(name)?;
            return count_down(&latch, *count, command);
        }
        Latch::Wait(args) => postbox::Latch::open(&args.name)?.wait_with(args.wait.get())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn count_down(
    latch: &postbox::Latch,
    count: u64,
    command: &[OsString],
) -> Result<ExitCode, Failure> {
    let Some(command) = child::command(command) else {
        latch.count_down_by(count)?;
        return Ok(ExitCode::SUCCESS);
    };
    child::guarded(|| {
        let promise = latch.join()?;
        let status = child::run(command)?;
        // If the command fails, dropping the promise tells those who wait.
        if status.success() {
            promise.count_down()?;
        }
        Ok(ExitCode::from(child::exit_code(status)))
    })
}

pub fn barrier(args: &Barrier) -> Result<(), Failure> {
    match args {
        Barrier::Create {
            make: args,
            parties,
        } => make(postbox::Barrier::options().parties(*parties), args),
        Barrier::Wait(args) => {
            let barrier = postbox::Barrier::open(&args.name)?;
            if barrier.wait_with(args.wait.get())?.is_leader() {
                writeln!(stdio::output()?, "leader")?;
            }
            Ok(())
        }
    }
}
