//! The command `postbox`.

mod args;
mod calls;
mod child;
mod docs;
mod doctor;
mod links;
mod messages;
mod objects;
mod output;
mod pipes;
mod retry;
mod rings;
mod segments;
mod stdio;
mod sync;

use args::{Cli, Command};
use clap::Parser;
use postbox::{ErrorKind, SendError};
use rustix::io::Errno;
use std::io;
use std::process::ExitCode;

/// Why the command ends early: its exit status (see [`args::EXIT_STATUS`]), and what to say.
pub struct Failure {
    status: u8,
    message: String,
    /// It is for want of descriptors or memory, and may be over soon.
    passes: bool,
}

impl Failure {
    /// A failure without a status of its own.
    fn new(message: impl Into<String>) -> Self {
        Self::with(1, message)
    }

    fn with(status: u8, message: impl Into<String>) -> Self {
        Failure {
            status,
            message: message.into(),
            passes: false,
        }
    }

    /// A failure with that cause.
    fn of_errno(errno: Errno, message: String) -> Self {
        let passes = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::NOBUFS,
            Errno::INTR,
        ];
        Failure {
            passes: passes.contains(&errno),
            ..Self::new(message)
        }
    }

    fn print(&self) {
        if !self.message.is_empty() {
            eprintln!("postbox: {}", self.message);
        }
    }
}

impl From<postbox::Error> for Failure {
    fn from(error: postbox::Error) -> Self {
        let status = match error.kind {
            ErrorKind::NotFound => 3,
            ErrorKind::Denied => 4,
            ErrorKind::Full | ErrorKind::Empty | ErrorKind::NotYet | ErrorKind::Timeout => 5,
            ErrorKind::Disconnected
            | ErrorKind::ServerDied
            | ErrorKind::Dropped
            | ErrorKind::OwnerDied
            | ErrorKind::Gone => 6,
            ErrorKind::AddressInUse => 7,
            ErrorKind::ModuleMissing => 69,
            _ => 1,
        };
        let cause = error.errno.unwrap_or(Errno::INVAL);
        Failure {
            status,
            ..Self::of_errno(cause, error.to_string())
        }
    }
}

impl<T> From<SendError<T>> for Failure {
    fn from(error: SendError<T>) -> Self {
        error.error.into()
    }
}

/// Writing to standard output failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Who reads our output has seen enough.
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::with(0, "");
        }
        Failure::new(format!("cannot write the output: {error}"))
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Ls { glob, all, output } => objects::ls(glob.as_deref(), all, &output)?,
        Command::Stat { names, output } => objects::stat(&names, &output)?,
        Command::Create {
            name,
            capacity,
            capacity_bytes,
            message_max,
            mode,
            exist_ok,
        } => {
            let mut options = postbox::Mailbox::options();
            options
                .create_new(true)
                .persist(true)
                .capacity(capacity)
                .mode(mode);
            options
                .capacity_bytes(capacity_bytes.unwrap_or(0))
                .message_max(message_max.unwrap_or(0));
            match options.open_admin(&name) {
                Err(error) if exist_ok && error.kind == ErrorKind::Exists => {}
                created => drop(created?),
            }
        }
        Command::Rm { names, ids } => {
            let ids: Vec<_> = ids.iter().map(u64::to_string).collect();
            let by_id = each(&ids, |id| Ok(postbox::unlink_id(id.parse().unwrap_or(0))?));
            each(&names, |name| Ok(postbox::unlink(name)?))?;
            by_id?;
        }
        Command::Chmod { mode, names } => each(&names, |name| {
            Ok(postbox::Admin::open(name)?.set_mode(mode)?)
        })?,
        Command::Chown { owner, names } => {
            let (uid, gid) = objects::owner(&owner)?;
            each(&names, |name| {
                Ok(postbox::Admin::open(name)?.chown(uid, gid)?)
            })?;
        }
        Command::Send(args) => messages::send(&args)?,
        Command::Recv(args) => messages::recv(&args)?,
        Command::Call(args) => calls::call(&args)?,
        Command::Serve(args) => calls::serve(&args)?,
        Command::Port(args) => links::port(&args)?,
        Command::Listen(args) => links::listen(&args)?,
        Command::Connect(args) => links::connect(&args)?,
        Command::Pipe(args) => pipes::pipe(&args)?,
        Command::Sem(args) => return sync::semaphore(&args),
        Command::Latch(args) => return sync::latch(&args),
        Command::Barrier(args) => sync::barrier(&args)?,
        Command::Segment(args) => segments::segment(&args)?,
        Command::Pool(args) => segments::pool(&args)?,
        Command::Ring(args) => rings::ring(&args)?,
        Command::Grant(args) => segments::grant(&args)?,
        Command::Revoke(args) => segments::revoke(&args)?,
        Command::To(args) => messages::to(&args)?,
        Command::Inbox(args) => messages::inbox(&args)?,
        Command::Doctor { output } => return doctor::doctor(&output),
        Command::Limits { output } => objects::limits(&output)?,
        Command::Completions { shell } => docs::completions(shell)?,
        Command::Man { directory } => docs::man(directory.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Does it for every name, and goes on after a failure.
fn each(
    names: &[String],
    mut action: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failures: Vec<_> = names.iter().filter_map(|name| action(name).err()).collect();
    let last = failures.pop();
    failures.iter().for_each(Failure::print);
    match last {
        None => Ok(()),
        Some(failure) if names.len() == 1 => Err(failure),
        Some(failure) => Err(Failure::new(failure.message)),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(status) => status,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.status)
        }
    }
}
