//! Requests and replies.

use crate::args::{Call, Serve, at_most};
use crate::messages::{payload, print};
use crate::retry::Retry;
use crate::{Failure, child};
use postbox::{ErrorKind, Mailbox, Request, Sender};

pub fn call(args: &Call) -> Result<(), Failure> {
    args.print.check()?;
    let mailbox = Sender::open(&args.name)?;
    let request = payload(args.text.as_ref())?;
    let reply = mailbox.call_with(request, at_most(args.timeout))?;
    Ok(print(&reply, &args.print)?)
}

pub fn serve(args: &Serve) -> Result<(), Failure> {
    child::check(&args.command)?;
    child::supervise()?;
    // It has both rights: a server does not end when one of its clients does.
    let mailbox = Mailbox::options()
        .create(true)
        .mode(args.mode)
        .open(&args.name)?;
    let mut retry = Retry::default();
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        let mut request = retry.until(|| Ok(mailbox.recv_request_with(args.wait.get())?))?;
        let _hold = child::hold();
        if let Err(failure) = answer(args, &mut request) {
            // The caller is told when the request is dropped.
            failure.print();
        }
    }
    Ok(())
}

fn answer(args: &Serve, request: &mut Request<'_>) -> Result<(), Failure> {
    let reply = match child::command(&args.command) {
        Some(mut command) => {
            let sender = &request.sender;
            command
                .env("POSTBOX_PID", sender.pid.to_string())
                .env("POSTBOX_UID", sender.uid.to_string())
                .env("POSTBOX_GID", sender.gid.to_string());
            child::filter(command, request)?
        }
        None => request.to_vec(),
    };
    if !request.is_open() {
        return Ok(());
    }
    match request.reply(reply) {
        // A caller that has given up is no failure of the server's.
        Err(error) if error.error.kind == ErrorKind::Stale => Ok(()),
        replied => Ok(replied?),
    }
}
