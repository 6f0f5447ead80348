//! A producer and a consumer, two processes, over a bounded mailbox: who is faster waits.
//!
//! Run without arguments, it starts itself a second time as the producer.

use postbox::{Capacity, Mailbox, Sender};
use std::env;
use std::process::{Command, exit};

const NAME: &str = "example/numbers";
const COUNT: u32 = 1000;

fn produce() -> postbox::Result<()> {
    let numbers = Sender::open(NAME)?;
    for number in 0..COUNT {
        numbers.send(number.to_le_bytes())?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if env::args().nth(1).as_deref() == Some("produce") {
        return Ok(produce()?);
    }
    let numbers = Mailbox::options()
        .create_new(true)
        .capacity(Capacity::Bounded(16))
        .open_receiver(NAME)?;
    let mut producer = Command::new(env::current_exe()?).arg("produce").spawn()?;

    // The loop ends when the producer has closed its handle and everything has been received.
    let mut expected = 0;
    for message in &numbers {
        let message = message?;
        let number = u32::from_le_bytes(message.payload.as_slice().try_into()?);
        assert_eq!(number, expected, "messages of one sender come in order");
        expected += 1;
    }
    let info = numbers.info()?;
    println!(
        "received {expected} numbers; never more than {} of them waited",
        info.high_messages
    );
    let complete = producer.wait()?.success() && expected == COUNT && info.high_messages <= 16;
    exit(if complete { 0 } else { 1 })
}
