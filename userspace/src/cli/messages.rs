//! Sending and receiving.

use crate::Failure;
use crate::args::{Format, Recv, Send};
use postbox::{Message, Receiver, Sender, Wait};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};

pub fn send(args: &Send) -> Result<(), Failure> {
    let mailbox = Sender::open(&args.name)?;
    let send = |payload: &[u8]| -> Result<(), Failure> {
        Ok(mailbox
            .send_with(payload, args.priority, args.wait.get())
            .map_err(|error| error.error)?)
    };
    if !args.data.is_empty() {
        for _ in 0..args.count {
            args.data
                .iter()
                .try_for_each(|data| send(data.as_bytes()))?;
        }
        return Ok(());
    }
    let cannot_read = |error| Failure::new(format!("cannot read {}: {error}", args.file.display()));
    let mut input: Box<dyn BufRead> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(&args.file).map_err(cannot_read)?))
    };
    let mut payload = Vec::new();
    if args.lines {
        while input.read_until(b'\n', &mut payload).map_err(cannot_read)? > 0 {
            send(payload.strip_suffix(b"\n").unwrap_or(&payload))?;
            payload.clear();
        }
        return Ok(());
    }
    input.read_to_end(&mut payload).map_err(cannot_read)?;
    (0..args.count).try_for_each(|_| send(&payload))
}

pub fn recv(args: &Recv) -> Result<(), Failure> {
    if args.creds && args.format == Format::Raw {
        let message = "--creds needs a format other than raw, which is the bytes and nothing else";
        return Err(Failure {
            status: 2,
            message: message.into(),
        });
    }
    let mailbox = Receiver::open(&args.name)?;
    let wait = args.wait.get();
    let receive = || -> Result<(), Failure> {
        if args.ack {
            let delivery = mailbox.take_with(wait)?;
            print(&delivery, args)?;
            delivery.ack()?;
        } else {
            print(&mailbox.recv_with(wait)?, args)?;
        }
        Ok(())
    };
    if !args.follow {
        return (0..args.count).try_for_each(|_| receive());
    }
    let end = if wait == Wait::Never { 5 } else { 6 };
    loop {
        match receive() {
            Ok(()) => {}
            Err(failure) if failure.status == 6 || failure.status == end => return Ok(()),
            Err(failure) => return Err(failure),
        }
    }
}

/// Writes a message and sees it off.
fn print(message: &Message, args: &Recv) -> io::Result<()> {
    let mut out = io::stdout().lock();
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
        Format::Text if out.is_terminal() => {
            writeln!(out, "{}", printable(&String::from_utf8_lossy(message)))?
        }
        Format::Text => {
            out.write_all(message)?;
            writeln!(out)?;
        }
        Format::Quoted => writeln!(out, "\"{}\"", message.escape_ascii())?,
        Format::Hex => writeln!(out, "{}", hex(message))?,
        Format::Json => writeln!(out, "{}", to_json(message))?,
    }
    out.flush()
}

/// What a sender wrote must not command the terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
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
    fn terminals_are_not_commanded() {
        assert_eq!(
            printable("a\tb\nc\u{1b}[2J\u{9b}é"),
            "a\tb\nc\\u{1b}[2J\\u{9b}é"
        );
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
