//! Sending and receiving.

use crate::args::{Format, Inbox, Print, Receive, Recv, Send, To};
use crate::output::{self, on_one_line, to_line};
use crate::retry::Retry;
use crate::{Failure, stdio};
use postbox::{Endpoint, Message, Receiver, Sender, Wait};
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn cannot_read(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| Failure::new(format!("cannot read {}: {error}", path.display()))
}

/// Standard input, if the path is "-".
fn open(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if path.as_os_str() == "-" {
        let input = stdio::input().map_err(cannot_read(path))?;
        return Ok(Box::new(input.lock()));
    }
    let file = File::open(path).map_err(cannot_read(path))?;
    Ok(Box::new(BufReader::new(file)))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    open(path)?
        .read_to_end(&mut payload)
        .map_err(cannot_read(path))?;
    Ok(payload)
}

/// What was given as an argument; "-" or nothing: standard input.
pub fn payload(text: Option<&OsString>) -> Result<Vec<u8>, Failure> {
    match text {
        Some(text) if text != OsStr::new("-") => Ok(text.as_bytes().into()),
        _ => read(Path::new("-")),
    }
}

/// Passes each line on without its newline.
pub fn lines(
    input: &mut dyn BufRead,
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    while input
        .read_until(b'\n', &mut line)
        .map_err(cannot_read(path))?
        > 0
    {
        each(line.strip_suffix(b"\n").unwrap_or(&line))?;
        line.clear();
    }
    Ok(())
}

pub fn send(args: &Send) -> Result<(), Failure> {
    let mailbox = Sender::open(&args.name)?;
    let mut sent = 0_u64;
    let send = |payload: &[u8]| -> Result<(), Failure> {
        mailbox.send_with(payload, args.priority, args.wait.get())?;
        sent += 1;
        Ok(())
    };
    send_all(args, send).map_err(|failure| match sent {
        0 => failure,
        // What was sent cannot be sent again without doubling it.
        _ => Failure {
            message: format!("{} ({sent} sent before that)", failure.message),
            ..failure
        },
    })
}

fn send_all(
    args: &Send,
    mut send: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if !args.data.is_empty() {
        for _ in 0..args.count {
            let mut data = args.data.iter();
            data.try_for_each(|data| send(data.as_bytes()))?;
        }
        return Ok(());
    }
    if args.lines {
        return lines(&mut *open(&args.file)?, &args.file, send);
    }
    let payload = read(&args.file)?;
    (0..args.count).try_for_each(|_| send(&payload))
}

pub fn to(args: &To) -> Result<(), Failure> {
    let process = Endpoint::of(args.pid)?;
    let payload = payload(args.text.as_ref())?;
    Ok(process.send_with(payload, args.priority, args.wait.get())?)
}

pub fn recv(args: &Recv) -> Result<(), Failure> {
    args.receive.print.check()?;
    let mailbox = Receiver::open(&args.name)?;
    receive(&args.receive, |wait| {
        if args.ack {
            let delivery = mailbox.take_with(wait)?;
            print(&delivery, &args.receive.print)?;
            delivery.ack()?;
        } else {
            print(&mailbox.recv_with(wait)?, &args.receive.print)?;
        }
        Ok(())
    })
}

pub fn inbox(args: &Inbox) -> Result<(), Failure> {
    args.receive.print.check()?;
    let endpoint = Endpoint::options().mode(args.mode).open()?;
    receive(&args.receive, |wait| {
        let message = match args.from {
            Some(pid) => endpoint.recv_from_with(pid, wait)?,
            None => endpoint.recv_with(wait)?,
        };
        Ok(print(&message, &args.receive.print)?)
    })
}

/// Receives as many as were asked for.
fn receive(
    args: &Receive,
    mut one: impl FnMut(Wait) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let wait = args.wait.get();
    if !args.follow {
        return (0..args.count).try_for_each(|_| one(wait));
    }
    let end = if wait == Wait::Never { 5 } else { 6 };
    let mut retry = Retry::default();
    loop {
        match retry.until(|| one(wait)) {
            Ok(()) => {}
            Err(failure) if failure.status == 6 || failure.status == end => return Ok(()),
            Err(failure) => return Err(failure),
        }
    }
}

impl Print {
    pub fn check(&self) -> Result<(), Failure> {
        if self.creds && self.format == Format::Raw {
            let message =
                "--creds needs a format other than raw, which is the bytes and nothing else";
            return Err(Failure::with(2, message));
        }
        // Before a message is taken that could not be printed.
        drop(stdio::output()?);
        Ok(())
    }
}

/// Writes a message and sees it off.
pub fn print(message: &Message, args: &Print) -> io::Result<()> {
    let mut out = stdio::output()?;
    if args.creds && args.format != Format::Json {
        let sender = &message.sender;
        let redelivered = if message.redelivered {
            " redelivered"
        } else {
            ""
        };
        write!(
            out,
            "pid={} tid={} uid={} gid={} priority={}{redelivered}\t",
            sender.pid, sender.tid, sender.uid, sender.gid, message.priority,
        )?;
    }
    match args.format {
        Format::Raw => out.write_all(message)?,
        Format::Text if args.creds => {
            writeln!(out, "{}", on_one_line(&String::from_utf8_lossy(message)))?
        }
        Format::Text => {
            output::bytes(&mut out, message)?;
            writeln!(out)?;
        }
        Format::Quoted => writeln!(out, "\"{}\"", message.escape_ascii())?,
        Format::Hex => writeln!(out, "{}", hex(message))?,
        Format::Json => writeln!(out, "{}", to_line(&to_json(message)))?,
    }
    out.flush()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn to_json(message: &Message) -> Value {
    let (key, payload) = match str::from_utf8(message) {
        Ok(text) => ("text", text.to_owned()),
        Err(_) => ("hex", hex(message)),
    };
    json!({
        "schema": 1,
        key: payload,
        "priority": message.priority,
        "redelivered": message.redelivered,
        "sender": message.sender,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_has_two_digits_a_byte() {
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
