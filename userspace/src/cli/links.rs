//! Links: ports, listeners, connections.

use crate::args::{self, Address, Print};
use crate::{Failure, child, messages};
use postbox::{Link, Message, PollFlags};
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::Stdio;
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
    let mut options = Link::options();
    options.mode(args.mode);
    let listener = match &args.address {
        Address {
            name: Some(name), ..
        } => options.listen(name)?,
        Address { port, .. } => options.listen_port(port.unwrap_or(0))?,
    };
    thread::scope(|scope| {
        for _ in 0..args.count.unwrap_or(u64::MAX) {
            let link = listener.accept_with(args.wait.get())?;
            scope.spawn(move || {
                let served = introduce(&link, args.verbose);
                if let Err(failure) = served.and_then(|()| serve(link, &args.command)) {
                    failure.print();
                }
            });
        }
        Ok(())
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
fn serve(link: Link, words: &[OsString]) -> Result<(), Failure> {
    let Some(mut command) = child::command(words) else {
        for message in &link {
            link.send(message?)?;
        }
        return Ok(());
    };
    let mut child = child::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(Failure::new("the command has no input or output"));
    };
    let relayed = relay(link, BufReader::new(stdout), move |message| {
        let written = stdin
            .write_all(message)
            .and_then(|()| stdin.write_all(b"\n"));
        match written {
            // It may print on without reading more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    });
    child::wait(&mut child)?;
    relayed
}

/// Exchanges lines between the link and standard input and output.
fn talk(link: Link, verbose: bool) -> Result<(), Failure> {
    introduce(&link, verbose)?;
    let input = BufReader::new(io::stdin());
    relay(link, input, |message| {
        messages::print(message, &Print::default())
    })
}

/// Sends the lines of `input` and passes on what comes to `output`, until both are at their end.
fn relay(
    link: Link,
    mut input: impl BufRead + Send + 'static,
    mut output: impl FnMut(&Message) -> io::Result<()>,
) -> Result<(), Failure> {
    let link = Arc::new(link);
    let peer = link.sender()?;
    let (done, first) = mpsc::channel();
    // Nobody waits for it: where the other side is gone, it may still wait for input.
    let sender = (link.clone(), done.clone());
    thread::spawn(move || {
        let (link, done) = sender;
        let path = Path::new("the input");
        let sent = messages::lines(&mut input, path, |line| Ok(link.send(line)?));
        // In this order, or the other side could be faster and seem to have left too early.
        let _ = done.send(sent);
        let _ = link.shutdown(Shutdown::Write);
    });
    for message in &*link {
        output(&message?)?;
    }
    drop(output);
    // The other side has come to its end. It goes on receiving, or it is gone.
    thread::spawn(move || {
        let gone = peer.ready(PollFlags::empty(), None);
        let _ = done.send(gone.map_err(Failure::from).and_then(|_| {
            Err(Failure {
                status: 6,
                message: "the other side is gone, before the input was at its end".into(),
            })
        }));
    });
    first.recv().unwrap_or(Ok(()))
}
