//! Pipes.

use crate::args::Pipe;
use crate::{Failure, stdio};
use postbox::{PipeReader, PipeWriter, Wait};
use rustix::fs::{FileType, fstat};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

/// Bytes that are moved at once.
const CHUNK: usize = 64 * 1024;

pub fn pipe(args: &Pipe) -> Result<(), Failure> {
    let mut options = postbox::Pipe::options();
    options.create(true).mode(args.mode);
    options.capacity(args.capacity_bytes.unwrap_or(0));
    let wait = args.wait.get();
    if args.write || (!args.read && has_contents(io::stdin())) {
        let writer = options.open_writer(&args.name)?;
        // Otherwise a short text could be gone with the pipe before anybody reads it.
        writer.wait_peer(wait)?;
        write(&writer)
    } else {
        let reader = options.open_reader(&args.name)?;
        reader.wait_peer(wait)?;
        read(&reader)
    }
}

/// Whether somebody has redirected it from where data comes.
fn has_contents(input: impl AsFd) -> bool {
    fstat(input).is_ok_and(|stat| {
        matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Fifo | FileType::Socket
        )
    })
}

fn write(pipe: &PipeWriter) -> Result<(), Failure> {
    let input = stdio::input()
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    let (mut input, mut buffer) = (input.lock(), vec![0; CHUNK]);
    loop {
        let count = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Failure::new(format!("cannot read standard input: {error}")));
            }
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            rest = &rest[pipe.write_with(rest, Wait::Forever)?..];
        }
    }
}

fn read(pipe: &PipeReader) -> Result<(), Failure> {
    let (mut output, mut buffer) = (stdio::output()?, vec![0; CHUNK]);
    loop {
        let count = pipe.read_with(&mut buffer, Wait::Forever)?;
        if count == 0 {
            return Ok(());
        }
        crate::output::bytes(&mut output, &buffer[..count])?;
        output.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_redirected_is_written() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        assert!(has_contents(&reader));
        let (socket, _peer) = UnixStream::pair().expect("sockets");
        assert!(has_contents(&socket));
        assert!(has_contents(File::open("/proc/self/exe").expect("a file")));
        let null = File::open("/dev/null").expect("/dev/null");
        assert!(!has_contents(&null));
    }
}
