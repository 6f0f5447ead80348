//! A log collector: several processes write lines, and one collects them with a single receive that goes
//! on. The kernel says who wrote each line. Where there is no io_uring, it collects them without.
//!
//! `cargo run --example log_collector --features uring`, with the module loaded. The writers are this program.

use postbox::uring::Driver;
use postbox::{Capacity, Identity, Mailbox, Receiver, Sender};
use std::collections::BTreeMap;
use std::env;
use std::process::Command;

const NAME: &str = "example/log";
const WRITERS: usize = 4;
const LINES: usize = 1000;

fn writer(name: &str) -> postbox::Result<()> {
    let log = Sender::open(NAME)?;
    for number in 0..LINES {
        let line = match number {
            // One that is longer than a buffer of the collector.
            500 => format!("{name}: line {number} {}", "and so on ".repeat(100)),
            _ => format!("{name}: line {number}"),
        };
        log.send(line)?; // waits while the collector is busy
    }
    Ok(())
}

/// Collects until the last writer is gone; returns whether that was through io_uring.
fn collect(
    log: Receiver,
    mut each: impl FnMut(&[u8], Identity),
) -> Result<bool, Box<dyn std::error::Error>> {
    let driver = match Driver::new() {
        Ok(driver) => driver,
        Err(error) => {
            eprintln!("{error}");
            for line in &log {
                let line = line?;
                each(&line, line.sender);
            }
            return Ok(false);
        }
    };
    // Room for 64 lines; the kernel has them while they are not in use here.
    let buffers = driver.buffers(64, 128)?;
    let mut lines = driver.attach(log).messages(&buffers);
    while let Some(line) = lines.wait_next() {
        let line = line?; // in its buffer, without a copy, until it is dropped
        each(&line, line.sender);
    }
    Ok(true)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(name) = env::args().nth(1) {
        return Ok(writer(&name)?);
    }
    let log = Mailbox::options()
        .create_new(true)
        .capacity(Capacity::Bounded(256))
        .open_receiver(NAME)?;
    let mut writers = Vec::new();
    for number in 0..WRITERS {
        let name = format!("writer {number}");
        writers.push(Command::new(env::current_exe()?).arg(name).spawn()?);
    }

    // The first line of each process is what others are compared with.
    let mut next: BTreeMap<u32, usize> = BTreeMap::new();
    let mut bytes = 0;
    let uring = collect(log, |line, sender| {
        let number = next.entry(sender.pid).or_default();
        let expected = format!(": line {number}");
        let text = String::from_utf8_lossy(line);
        assert!(
            text.contains(&expected),
            "{text} comes after line {number} of {sender:?}"
        );
        *number += 1;
        bytes += line.len();
    })?;

    for mut writer in writers {
        assert_eq!(next.get(&writer.id()), Some(&LINES));
        assert!(writer.wait()?.success());
    }
    assert_eq!(next.len(), WRITERS);
    let how = if uring { "one command" } else { "calls" };
    println!(
        "{} lines, {bytes} bytes, of {WRITERS} processes, by {how}",
        WRITERS * LINES
    );
    Ok(())
}
