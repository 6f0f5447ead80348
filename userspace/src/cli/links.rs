//! Links: ports, listeners, connections.

use crate::args::{self, Address, Print};
use crate::retry::Retry;
use crate::{Failure, child, messages, stdio};
use postbox::{Capacity, Link, Message, PollFlags, Sender};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;

pub fn port(args: &args::Port) -> Result<(), Failure> {
    let link = postbox::Port::bind_with(args.port, args.wait.get())?;
    talk(link, args.verbose)
}

pub fn connect(args: &args::Connect) -> Result<(), Failure> {
    let wait = args.wait.get();
    let link = match &args.address {
        Address {
            name: Some(name), ..
        } => Link::connect_with(name, wait)?,
        Address { port, .. } => postbox::Port::connect_with(port.unwrap_or(0), wait)?,
    };
    talk(link, args.verbose)
}

pub fn listen(args: &args::Listen) -> Result<(), Failure> {
    child::check(&args.command)?;
    child::supervise()?;
    let mut options = Link::options();
    // Who connects is told whether each line was received: what is in a queue when the connection ends is lost without a word.
    options
        .mode(args.mode)
        .capacity(Capacity::Rendezvous)
        .back_capacity(Capacity::default());
    let listener = match &args.address {
        Address {
            name: Some(name), ..
        } => options.listen(name)?,
        Address { port, .. } => options.listen_port(port.unwrap_or(0))?,
    };
    thread::scope(|scope| {
        let mut retry = Retry::default();
        for _ in 0..args.count.unwrap_or(u64::MAX) {
            // What may be wanting is there before a connection is accepted: those that wait lose nothing.
            let give = retry.until(|| {
                room()?;
                let (give, take) = mpsc::channel();
                let serve = move || {
                    let Ok((link, peer, child)) = take.recv() else {
                        return;
                    };
                    let served = introduce(&link, args.verbose);
                    if let Err(failure) = served.and_then(|()| serve(link, peer, child)) {
                        failure.print();
                    }
                };
                let started = thread::Builder::new().spawn_scoped(scope, serve);
                started.map_err(child::cannot_start)?;
                Ok(give)
            })?;
            let link = retry.until(|| Ok(listener.accept_with(args.wait.get())?))?;
            // Here, as all that takes a descriptor: what there was room for is not another connection's by then.
            let peer = retry.until(|| Ok(link.sender()?))?;
            // Here, and not in its thread: it ends with the thread that starts it.
            let child = match child::command(&args.command) {
                Some(mut command) => {
                    command.stdin(Stdio::piped()).stdout(Stdio::piped());
                    match retry.until(|| child::spawn(&mut command)) {
                        Ok(child) => Some(child),
                        Err(failure) => {
                            failure.print();
                            continue;
                        }
                    }
                }
                None => None,
            };
            // It waits for that.
            let _ = give.send((link, peer, child));
        }
        Ok(())
    })
}

/// Fails if there are not as many descriptors as it takes to start to serve a connection.
fn room() -> Result<(), Failure> {
    let null = File::open("/dev/null");
    let spare = null.and_then(|null| {
        (1..8)
            .map(|_| null.try_clone())
            .collect::<Result<Vec<_>, _>>()
    });
    spare.map(drop).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
        Failure::of_errno(errno, format!("cannot accept: {error}"))
    })
}

fn introduce(link: &Link, verbose: bool) -> Result<(), Failure> {
    if verbose {
        let peer = link.peer()?;
        eprintln!(
            "postbox: connected with process {} of user {}",
            peer.pid, peer.uid
        );
    }
    Ok(())
}

/// Serves a connection with a command of its own, or by sending back what comes.
fn serve(link: Link, peer: Sender, child: Option<Child>) -> Result<(), Failure> {
    let Some(mut child) = child else {
        for message in &link {
            link.send(message?)?;
        }
        return Ok(());
    };
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(Failure::new("the command has no input or output"));
    };
    thread::scope(|scope| {
        // The command may be told to end while the other side does not.
        let wait = || {
            let _hold = child::hold();
            child::wait(&mut child)
        };
        let waiter = thread::Builder::new().spawn_scoped(scope, wait);
        let waiter = waiter.map_err(child::cannot_start)?;
        let relayed = relay(link, peer, BufReader::new(stdout), move |message| {
            let written = stdin
                .write_all(message)
                .and_then(|()| stdin.write_all(b"\n"));
            match written {
                // It may print on without reading more.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                written => written,
            }
        });
        waiter
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        relayed
    })
}

/// Exchanges lines between the link and standard input and output.
fn talk(link: Link, verbose: bool) -> Result<(), Failure> {
    Print::default().check()?;
    introduce(&link, verbose)?;
    let cannot_read = |error| Failure::new(format!("cannot read the input: {error}"));
    let input = BufReader::new(stdio::input().map_err(cannot_read)?);
    let peer = link.sender()?;
    relay(link, peer, input, |message| {
        messages::print(message, &Print::default())
    })
}

/// Sends the lines of `input` and passes on what comes to `output`, until both are at their end. `peer` is of the link.
fn relay(
    link: Link,
    peer: Sender,
    mut input: impl BufRead + Send + 'static,
    mut output: impl FnMut(&Message) -> io::Result<()>,
) -> Result<(), Failure> {
    let link = Arc::new(link);
    let (done, first) = mpsc::channel();
    // Nobody waits for it: where the other side is gone, it may still wait for input.
    let sender = (link.clone(), done.clone());
    let thread = thread::Builder::new().spawn(move || {
        let (link, done) = sender;
        let path = Path::new("the input");
        let sent = messages::lines(&mut input, path, |line| Ok(link.send(line)?));
        // In this order, or the other side could be faster and seem to have left too early.
        let _ = done.send(sent);
        let _ = link.shutdown(Shutdown::Write);
    });
    thread.map_err(child::cannot_start)?;
    for message in &*link {
        output(&message?)?;
    }
    drop(output);
    // The other side has come to its end. It goes on receiving, or it is gone.
    let thread = thread::Builder::new().spawn(move || {
        let gone = peer.ready(PollFlags::empty(), None);
        let _ = done.send(gone.map_err(Failure::from).and_then(|_| {
            Err(Failure::with(
                6,
                "the other side is gone, before the input was at its end",
            ))
        }));
    });
    thread.map_err(child::cannot_start)?;
    first.recv().unwrap_or(Ok(()))
}
