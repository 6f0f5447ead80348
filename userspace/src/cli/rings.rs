//! Rings.

use crate::args::Ring;
use crate::{Failure, stdio};
use postbox::ErrorKind;
use std::io::{BufRead, Write as _};

pub fn ring(args: &Ring) -> Result<(), Failure> {
    match args {
        Ring::Create {
            name,
            mode,
            size,
            many,
            exist_ok,
        } => {
            let mut options = postbox::Ring::options();
            options.create_new(true).persist(true).mode(*mode);
            options.capacity(size.unwrap_or(0)).many(*many);
            match options.open_sender(name) {
                Err(error) if *exist_ok && error.kind == ErrorKind::Exists => Ok(()),
                made => Ok(made.map(drop)?),
            }
        }
        Ring::Write { name } => {
            let mut producer = postbox::Ring::options().open_sender(name)?.attach()?;
            let input = stdio::input()
                .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
            for line in input.lock().split(b'\n') {
                let line = line.map_err(|error| {
                    Failure::new(format!("cannot read standard input: {error}"))
                })?;
                producer.send(&line)?;
            }
            Ok(())
        }
        Ring::Read { name, count, wait } => {
            let mut consumer = postbox::Ring::options().open_receiver(name)?.attach()?;
            let mut output = stdio::output()?;
            for _ in 0..count.unwrap_or(u64::MAX) {
                let mut line = consumer.recv_with(wait.get())?.to_vec();
                line.push(b'\n');
                let written =
                    crate::output::bytes(&mut output, &line).and_then(|()| output.flush());
                written.map_err(|error| {
                    Failure::new(format!("cannot write to standard output: {error}"))
                })?;
            }
            Ok(())
        }
    }
}
