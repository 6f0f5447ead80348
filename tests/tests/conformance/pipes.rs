//! Pipes: bytes, in order, to whoever reads; atomic writes; the end, and the broken pipe; polls; capacity.

use postbox_tests::{LONG, Watchdog, scope};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT};
use postbox::{ErrorKind, Pipe, PipeReader, PipeWriter, raw, sys};
use postbox_tests::*;
use rustix::event::epoll;

const ATOMIC: usize = sys::POSTBOX_PIPE_ATOMIC as usize;

/// How a pipe is opened or made.
#[derive(Clone, Copy)]
struct Open {
    flags: u32,
    rights: u32,
    mode: u32,
    capacity_bytes: u64,
}

const NEW: Open = Open {
    flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL,
    rights: SEND | RECEIVE,
    mode: 0o600,
    capacity_bytes: 0,
};

const EXISTING: Open = Open {
    flags: 0,
    mode: 0,
    ..NEW
};

impl Open {
    fn rights(self, rights: u32) -> Self {
        Open { rights, ..self }
    }

    fn open(self, name: &str) -> Result<Handle> {
        self.bind(Some(name.as_bytes()))
    }

    fn bind(self, name: Option<&[u8]>) -> Result<Handle> {
        let handle = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_PIPE,
            flags: self.flags,
            rights: self.rights,
            mode: self.mode,
            capacity_bytes: self.capacity_bytes,
            ..Default::default()
        };
        raw::open(&handle, name, &mut args)?;
        Ok(handle)
    }
}

/// A nameless pipe that holds so many bytes: what writes, and what reads.
fn pipe(capacity_bytes: u64) -> (Handle, Handle) {
    let flags = sys::POSTBOX_O_CREATE;
    let both = Open {
        flags,
        capacity_bytes,
        ..NEW
    };
    both.bind(None)
        .expect("a pipe without a name can be made")
        .split()
}

fn write(tx: &Handle, data: impl AsRef<[u8]>, wait: Wait) -> Result<usize> {
    raw::write(tx, data.as_ref(), wait.0, wait.1)
}

/// Writes without waiting, which must succeed.
#[track_caller]
fn put(tx: &Handle, data: impl AsRef<[u8]>) {
    assert_eq!(write(tx, &data, NEVER), Ok(data.as_ref().len()));
}

fn read(rx: &Handle, room: usize, wait: Wait) -> Result<Vec<u8>> {
    let mut buffer = vec![0; room];
    let len = raw::read(rx, &mut buffer, wait.0, wait.1)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Reads text that must be there.
#[track_caller]
fn get(rx: &Handle) -> String {
    String::from_utf8(read(rx, 4096, NEVER).expect("there is something")).expect("text")
}

/// A call with an address of one's own; also returns `done`.
fn io_at(handle: &Handle, request: u32, data: u64, len: u64, wait: Wait) -> (Result<()>, u64) {
    let mut args = sys::postbox_io {
        size: size_of::<sys::postbox_io>() as u32,
        flags: wait.0,
        timeout_ns: wait.1,
        data,
        len,
        done: 77,
    };
    // SAFETY: the request takes this struct; the tests pass addresses that they own, or that nobody can access.
    let result = unsafe { raw::ioctl(handle, request, &mut args) };
    (result, args.done)
}

fn read_at(rx: &Handle, data: u64, len: u64, wait: Wait) -> (Result<()>, u64) {
    io_at(rx, sys::POSTBOX_READ, data, len, wait)
}

fn write_at(tx: &Handle, data: u64, len: u64, wait: Wait) -> (Result<()>, u64) {
    io_at(tx, sys::POSTBOX_WRITE, data, len, wait)
}

/// A change of the capacity waits for who copies, and can be killed meanwhile.
fn resize_waits(tx: &Handle) {
    let now = tx.dup(SEND).expect("another handle");
    rustix::fs::fcntl_setfl(&now, rustix::fs::OFlags::NONBLOCK).expect("the flag can be set");
    assert_eq!(raw::set_capacity(&now, 16_384), Err(Errno::AGAIN));
    if let Door::Uring(_) = door() {
        // A command does not park there.
        assert_eq!(raw::set_capacity(tx, 16_384), Err(Errno::AGAIN));
        return;
    }
    let waiting = spawn(|| {
        let _ = raw::set_capacity(tx, 16_384);
    });
    waiting.wait_asleep();
    waiting.destroy();
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 256) as u8).collect()
}

// Reading and writing.

#[test]
fn a_read_takes_what_there_is_and_at_least_one_byte() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        put(&tx, "one");
        put(&tx, "two");
        assert_eq!(read(&rx, 4, FOREVER).expect("there"), b"onet");
        assert_eq!(get(&rx), "wo");
        assert_eq!(read(&rx, 4, NEVER), Err(Errno::AGAIN));
        let reader = spawn(|| assert_eq!(read(&rx, 100, FOREVER).expect("it comes"), b"x"));
        rx.wait_receivers(1);
        put(&tx, "x");
        reader.ok();
    });
}

#[test]
fn bytes_come_out_as_they_went_in() {
    isolated(|| {
        let mut rng = Rng::from_env("pipes, bytes");
        for capacity in [4096, 8192, 65536] {
            let (tx, rx) = pipe(capacity);
            let mut model = VecDeque::new();
            for _ in 0..500 {
                if rng.one_in(2) {
                    let most = *rng.pick(&[10, 5000, 20_000]);
                    let len = rng.below(most) as usize + 1;
                    let mut data = vec![0; len];
                    rng.fill(&mut data);
                    let room = capacity as usize - model.len();
                    let fits = if len <= ATOMIC && len > room {
                        0
                    } else {
                        len.min(room)
                    };
                    let expected = if fits > 0 {
                        Ok(fits)
                    } else {
                        Err(Errno::AGAIN)
                    };
                    assert_eq!(write(&tx, &data, NEVER), expected);
                    model.extend(&data[..fits]);
                } else {
                    let room = rng.below(9000) as usize + 1;
                    let expected: Vec<u8> = model.drain(..room.min(model.len())).collect();
                    match read(&rx, room, NEVER) {
                        Ok(data) => assert_eq!(data, expected),
                        Err(e) => assert_eq!((e, expected.len()), (Errno::AGAIN, 0)),
                    }
                }
                assert_eq!(rx.info().bytes, model.len() as u64);
            }
        }
    });
}

#[test]
fn a_write_goes_on_until_everything_is_written() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        let data = bytes(100_000);
        let writer = spawn(|| assert_eq!(write(&tx, &data, FOREVER), Ok(data.len())));
        let mut got = Vec::new();
        while got.len() < data.len() {
            got.extend(read(&rx, 3000, FOREVER).expect("it comes"));
        }
        writer.ok();
        assert!(got == data);
        assert_eq!(rx.info().bytes, 0);
    });
}

#[test]
fn reading_or_writing_nothing_does_nothing() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        assert_eq!(read_at(&rx, 0, 0, FOREVER), (Ok(()), 0));
        assert_eq!(write_at(&tx, 0, 0, FOREVER), (Ok(()), 0));
        assert_eq!(rustix::io::read(&rx, &mut [0u8; 0]), Ok(0));
        assert_eq!(rustix::io::write(&tx, &[]), Ok(0));
        assert_eq!(tx.info().sent, 0);
    });
}

#[test]
fn read_and_write_do_the_same() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        let mut buffer = [0; 8192];
        assert_eq!(rustix::io::write(&tx, b"abc"), Ok(3));
        assert_eq!(rustix::io::read(&rx, &mut buffer[..2]), Ok(2));
        assert_eq!(rustix::io::read(&rx, &mut buffer[2..]), Ok(1));
        assert_eq!(&buffer[..3], b"abc");
        let parts = [b"sca".as_slice(), b"", b"ttered"].map(IoSlice::new);
        assert_eq!(rustix::io::writev(&tx, &parts), Ok(9));
        let (a, b) = buffer.split_at_mut(2);
        let mut into = [IoSliceMut::new(a), IoSliceMut::new(&mut b[..5])];
        assert_eq!(rustix::io::readv(&rx, &mut into), Ok(7));
        assert_eq!(&buffer[..7], b"scatter");
        assert_eq!(get(&rx), "ed");
        // Over the ring's end, from several pieces of memory.
        let data = bytes(4096);
        let parts: Vec<_> = data.chunks(1000).map(IoSlice::new).collect();
        assert_eq!(rustix::io::writev(&tx, &parts), Ok(4096));
        let mut into: Vec<_> = buffer.chunks_mut(700).map(IoSliceMut::new).collect();
        assert_eq!(rustix::io::readv(&rx, &mut into), Ok(4096));
        assert_eq!(buffer[..4096], data);

        let nonblocking = |handle: &Handle| {
            rustix::fs::fcntl_setfl(handle, rustix::fs::OFlags::NONBLOCK).expect("it can be");
        };
        nonblocking(&rx);
        nonblocking(&tx);
        assert_eq!(rustix::io::read(&rx, &mut buffer), Err(Errno::AGAIN));
        assert_eq!(read(&rx, 1, FOREVER), Err(Errno::AGAIN));
        assert_eq!(rustix::io::write(&tx, &bytes(5000)), Ok(4096));
        assert_eq!(rustix::io::write(&tx, &bytes(5000)), Err(Errno::AGAIN));
        drop(tx);
        assert_eq!(rustix::io::read(&rx, &mut buffer), Ok(4096));
        assert_eq!(rustix::io::read(&rx, &mut buffer), Ok(0));
    });
}

#[test]
fn positions_do_not_exist() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        let start = rustix::fs::SeekFrom::Start(0);
        assert_eq!(rustix::fs::seek(&rx, start), Err(Errno::SPIPE));
        assert_eq!(rustix::io::pwrite(&tx, b"x", 0), Err(Errno::SPIPE));
        assert_eq!(rustix::io::pread(&rx, &mut [0], 0), Err(Errno::SPIPE));
    });
}

// Atomic writes.

#[test]
fn up_to_4096_bytes_are_written_all_or_not_at_all() {
    isolated(|| {
        let (tx, rx) = pipe(8192);
        put(&tx, bytes(8192 - 4095));
        assert_eq!(write(&tx, bytes(4096), NEVER), Err(Errno::AGAIN));
        assert_eq!(write(&tx, bytes(4096), within(5)), Err(Errno::TIMEDOUT));
        assert_eq!(rx.info().bytes, 8192 - 4095, "nothing of it is in");
        put(&tx, bytes(4095));
        assert_eq!(write(&tx, "x", NEVER), Err(Errno::AGAIN));
        let writer = spawn(|| assert_eq!(write(&tx, bytes(4096), FOREVER), Ok(4096)));
        tx.wait_senders(1);
        read(&rx, 4095, NEVER).expect("there");
        thread::sleep(Duration::from_millis(20));
        assert_eq!((writer.running(), rx.info().bytes), (true, 4097));
        read(&rx, 1, NEVER).expect("there");
        writer.ok();
        assert_eq!(rx.info().bytes, 8192);
    });
}

/// Lets children write records of these lengths, and checks that each comes out in one piece.
fn never_mixed(capacity: u64, lengths: [usize; 4]) {
    const RECORDS: usize = 60;
    let (tx, rx) = pipe(capacity);
    let writers: Vec<Child> = (0..4u8)
        .map(|id| {
            spawn(|| {
                rx.close_copy();
                for record in 0..RECORDS {
                    let len = lengths[(record + usize::from(id)) % 4];
                    let mut data = vec![id; len];
                    data[..4].copy_from_slice(&(len as u32).to_le_bytes());
                    data[4..8].copy_from_slice(&(record as u32).to_le_bytes());
                    assert_eq!(write(&tx, &data, FOREVER), Ok(len));
                }
            })
        })
        .collect();
    drop(tx);
    let mut stream = VecDeque::new();
    let mut next = [0; 4];
    loop {
        let data = read(&rx, 5000, FOREVER).expect("it comes");
        if data.is_empty() {
            break;
        }
        stream.extend(data);
        while stream.len() >= 9 {
            let word = |at: usize| {
                let bytes: Vec<u8> = stream.range(at..at + 4).copied().collect();
                u32::from_le_bytes(bytes.try_into().expect("four"))
            };
            let (len, record, id) = (word(0) as usize, word(4), stream[8]);
            assert!(lengths.contains(&len), "a record of {len} bytes");
            if stream.len() < len {
                break;
            }
            assert!(stream.range(8..len).all(|byte| *byte == id), "mixed");
            assert_eq!(record, next[usize::from(id)]);
            next[usize::from(id)] += 1;
            stream.drain(..len);
        }
    }
    assert_eq!(stream.len(), 0);
    assert_eq!(next, [RECORDS as u32; 4]);
    writers.into_iter().for_each(Child::ok);
}

#[test]
fn small_writes_are_not_mixed() {
    isolated(|| never_mixed(8192, [9, 100, 4095, 4096]));
}

#[test]
fn nothing_comes_between_the_bytes_of_a_large_write() {
    isolated(|| never_mixed(4096, [10, 4097, 9000, 30_000]));
}

#[test]
fn a_large_write_that_does_not_wait_writes_what_fits() {
    isolated(|| {
        let (tx, rx) = pipe(8192);
        assert_eq!(write(&tx, bytes(100_000), NEVER), Ok(8192));
        assert_eq!(write(&tx, bytes(100_000), NEVER), Err(Errno::AGAIN));
        assert!(read(&rx, 10_000, NEVER).expect("there") == bytes(8192));
    });
}

// What ends a wait.

#[test]
fn what_ends_a_read_that_waits_has_taken_nothing() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        for wait in [within(5), until(5), until(-1000), until_realtime(5)] {
            assert_eq!(read(&rx, 1, wait), Err(Errno::TIMEDOUT));
        }
        for wait in [FOREVER, within(60_000)] {
            let interrupted = spawn(|| {
                handle_signal(libc::SIGUSR1, 0);
                assert_eq!(read(&rx, 1, wait), Err(Errno::INTR));
            });
            rx.wait_receivers(1);
            interrupted.wait_asleep();
            interrupted.kill(libc::SIGUSR1);
            interrupted.ok();
        }
        let restarted = spawn(|| {
            handle_signal(libc::SIGUSR1, libc::SA_RESTART);
            assert_eq!(read(&rx, 1, FOREVER).expect("it comes"), b"x");
        });
        rx.wait_receivers(1);
        restarted.wait_asleep();
        restarted.kill(libc::SIGUSR1);
        thread::sleep(Duration::from_millis(20));
        rx.wait_receivers(1);
        put(&tx, "x");
        restarted.ok();
        put(&tx, "y");
        assert_eq!(read(&rx, 9, until(-1000)).expect("it needs no wait"), b"y");
    });
}

#[test]
fn what_ends_a_write_after_a_part_leaves_the_part_and_says_so() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        put(&tx, [0; 96]);
        assert_eq!(write(&tx, bytes(5000), within(5)), Ok(4000));
        assert_eq!(write(&tx, bytes(5000), within(5)), Err(Errno::TIMEDOUT));
        read(&rx, 96, NEVER).expect("there");
        assert!(read(&rx, 5000, NEVER).expect("there") == bytes(4000));

        let interrupted = spawn(|| {
            handle_signal(libc::SIGUSR1, libc::SA_RESTART);
            assert_eq!(write(&tx, bytes(5000), FOREVER), Ok(4096));
            assert_eq!(
                rustix::io::write(&tx, &bytes(1)),
                Ok(1),
                "this is restarted"
            );
        });
        for _ in 0..2 {
            tx.wait_senders(1);
            interrupted.wait_asleep();
            interrupted.kill(libc::SIGUSR1);
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(rx.info().bytes, 4096);
        read(&rx, 5000, NEVER).expect("there");
        interrupted.ok();
        assert_eq!(rx.info().bytes, 1);

        let broken = spawn(|| {
            rx.close_copy();
            assert_eq!(write(&tx, bytes(5000), FOREVER), Ok(4095));
            assert_eq!(write(&tx, bytes(5000), FOREVER), Err(Errno::PIPE));
        });
        tx.wait_senders(1);
        drop(rx);
        broken.ok();
    });
}

#[test]
fn waiting_readers_are_served_in_order_and_one_at_a_time() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        let order = Ledger::new(4);
        let readers: Vec<Child> = (0..4)
            .map(|i| {
                let reader = spawn(|| {
                    let got = read(&rx, 1, FOREVER).expect("it comes");
                    order[usize::from(got[0])].store(i + 1, Relaxed);
                });
                rx.wait_receivers(i as u32 + 1);
                reader
            })
            .collect();
        for i in 0..4u8 {
            put(&tx, [i]);
            wait_until("one to be served", || {
                order[usize::from(i)].load(Relaxed) != 0
            });
            assert_eq!(order[usize::from(i)].load(Relaxed), u64::from(i) + 1);
            thread::sleep(Duration::from_millis(20));
            assert_eq!(
                rx.info().waiting_receivers,
                3 - u32::from(i),
                "the others sleep"
            );
        }
        readers.into_iter().for_each(Child::ok);
    });
}

#[test]
fn one_write_serves_as_many_waiting_readers_as_it_has_bytes_for() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        let readers: Vec<Child> = (0..3)
            .map(|i| {
                let reader = spawn(|| assert_eq!(read(&rx, 2, FOREVER).expect("there").len(), 2));
                rx.wait_receivers(i + 1);
                reader
            })
            .collect();
        put(&tx, "112233");
        readers.into_iter().for_each(Child::ok);
        assert_eq!(rx.info().bytes, 0);
    });
}

#[test]
fn waiting_writers_are_served_in_order() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        put(&tx, [0; 4096]);
        let writers: Vec<Child> = [3000usize, 10, 2000, 9000, 1]
            .iter()
            .enumerate()
            .map(|(i, len)| {
                let writer =
                    spawn(|| assert_eq!(write(&tx, vec![i as u8 + 1; *len], FOREVER), Ok(*len)));
                tx.wait_senders(i as u32 + 1);
                writer
            })
            .collect();
        // A small one would fit, but it is not its turn.
        read(&rx, 2000, NEVER).expect("there");
        assert_eq!(write(&tx, "x", NEVER), Err(Errno::AGAIN));
        assert_eq!(tx.info().waiting_senders, 5);
        let mut stream = Vec::new();
        while stream.len() < 2096 + 14_011 {
            stream.extend(read(&rx, 1000, FOREVER).expect("it comes"));
        }
        writers.into_iter().for_each(Child::ok);
        assert!(stream.is_sorted(), "in the order of arrival, none mixed");
    });
}

#[test]
fn who_leaves_the_line_lets_the_next_go() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        put(&tx, [0; 4000]);
        let large = spawn(|| {
            write(&tx, [1; 1000], FOREVER)
                .map(drop)
                .expect("killed before")
        });
        tx.wait_senders(1);
        let small = spawn(|| assert_eq!(write(&tx, [2; 10], FOREVER), Ok(10)));
        tx.wait_senders(2);
        large.destroy();
        small.ok();
        let reader = spawn(|| drop(read(&rx, 4010, FOREVER)));
        reader.ok();
        let first = spawn(|| drop(read(&rx, 1, FOREVER)));
        rx.wait_receivers(1);
        let second = spawn(|| assert_eq!(read(&rx, 1, FOREVER).expect("it comes"), b"x"));
        rx.wait_receivers(2);
        first.destroy();
        put(&tx, "x");
        second.ok();
    });
}

// Ends.

#[test]
fn end_of_file_when_the_last_writer_is_gone_and_everything_is_read() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        let second = tx.sender();
        put(&tx, "rest");
        drop(tx);
        assert_eq!(get(&rx), "rest");
        assert_eq!(read(&rx, 1, NEVER), Err(Errno::AGAIN), "a writer is left");
        let readers: Vec<Child> = (0..3)
            .map(|i| {
                let reader = spawn(|| {
                    second.close_copy();
                    assert_eq!(read(&rx, 1, FOREVER).expect("the end"), b"");
                });
                rx.wait_receivers(i + 1);
                reader
            })
            .collect();
        put(&second, "");
        drop(second);
        readers.into_iter().for_each(Child::ok);
        for wait in [NEVER, FOREVER, within(1)] {
            assert_eq!(read(&rx, 9, wait).expect("the end"), b"");
        }
    });
}

#[test]
fn the_death_of_the_last_writer_is_the_end() {
    isolated(|| {
        let name = unique("pipe");
        let rx = NEW.rights(RECEIVE).open(&name).expect("new");
        let writer = spawn(|| {
            let tx = EXISTING.rights(SEND).open(&name).expect("there");
            put(&tx, "last words");
            let _ = write(&tx, bytes(100_000), FOREVER);
        });
        wait_until("the pipe to be full", || rx.info().waiting_senders == 1);
        writer.destroy();
        let mut all = Vec::new();
        loop {
            match read(&rx, 10_000, FOREVER).expect("bytes, or the end") {
                data if data.is_empty() => break,
                data => all.extend(data),
            }
        }
        assert_eq!(all.len(), 65_536);
        assert_eq!(&all[..10], b"last words");
        assert!(all[10..] == bytes(65_526));
    });
}

#[test]
fn broken_pipe_when_the_last_reader_is_gone_and_no_signal() {
    isolated(|| {
        // SAFETY: no pointers. The test runner ignores SIGPIPE; here it would end the process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let (tx, rx) = pipe(4096);
        put(&tx, [0; 4096]);
        let writers: Vec<Child> = [1, 5000]
            .iter()
            .map(|len| {
                spawn(|| {
                    rx.close_copy();
                    assert_eq!(write(&tx, bytes(*len), FOREVER), Err(Errno::PIPE));
                })
            })
            .collect();
        tx.wait_senders(2);
        drop(rx);
        writers.into_iter().for_each(Child::ok);
        for wait in [NEVER, FOREVER, within(1)] {
            assert_eq!(write(&tx, "x", wait), Err(Errno::PIPE));
        }
        assert_eq!(rustix::io::write(&tx, b"x"), Err(Errno::PIPE));
    });
}

#[test]
fn the_death_of_the_last_reader_breaks_the_pipe() {
    isolated(|| {
        let name = unique("pipe");
        let tx = NEW.rights(SEND).open(&name).expect("new");
        let reader = spawn(|| {
            let rx = EXISTING.rights(RECEIVE).open(&name).expect("there");
            let _ = read(&rx, 1, FOREVER);
        });
        tx.wait_receivers(1);
        reader.destroy();
        assert_eq!(write(&tx, "x", FOREVER), Err(Errno::PIPE));
        // Somebody who comes later mends it.
        let rx = EXISTING.rights(RECEIVE).open(&name).expect("there");
        put(&tx, "x");
        assert_eq!(get(&rx), "x");
    });
}

#[test]
fn before_the_first_peer_readers_wait_and_writers_fill() {
    isolated(|| {
        let name = unique("pipe");
        let rx = NEW.rights(RECEIVE).open(&name).expect("new");
        assert_eq!(read(&rx, 1, NEVER), Err(Errno::AGAIN));
        let reader = spawn(|| assert_eq!(read(&rx, 9, FOREVER).expect("it comes"), b"first"));
        rx.wait_receivers(1);
        let tx = EXISTING.rights(SEND).open(&name).expect("there");
        put(&tx, "first");
        reader.ok();

        let name = unique("pipe");
        let tx = NEW.rights(SEND).open(&name).expect("new");
        assert_eq!(write(&tx, bytes(70_000), NEVER), Ok(65_536));
        let writer = spawn(|| assert_eq!(write(&tx, "last", FOREVER), Ok(4)));
        tx.wait_senders(1);
        let rx = EXISTING.rights(RECEIVE).open(&name).expect("there");
        assert!(read(&rx, 70_000, NEVER).expect("there") == bytes(65_536));
        writer.ok();
        assert_eq!(get(&rx), "last");
    });
}

#[test]
fn a_writer_that_comes_back_goes_on() {
    isolated(|| {
        let name = unique("pipe");
        let rx = NEW.rights(RECEIVE).open(&name).expect("new");
        for round in 0..3 {
            let tx = EXISTING.rights(SEND).open(&name).expect("there");
            put(&tx, format!("{round}"));
            drop(tx);
            assert_eq!(get(&rx), format!("{round}"));
            assert_eq!(read(&rx, 1, FOREVER).expect("the end"), b"");
        }
    });
}

#[test]
fn a_persistent_pipe_never_ends_and_keeps_its_bytes() {
    isolated(|| {
        let name = unique("pipe");
        let flags = sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST;
        let tx = Open { flags, ..NEW }.rights(SEND).open(&name).expect("new");
        put(&tx, "kept");
        drop(tx);
        let rx = EXISTING.rights(RECEIVE).open(&name).expect("it stays");
        assert_eq!(rx.info().flags, sys::POSTBOX_INFO_PERSIST);
        assert_eq!(get(&rx), "kept");
        assert_eq!((rx.ready(), read(&rx, 1, NEVER)), (0, Err(Errno::AGAIN)));
        let reader = spawn(|| assert_eq!(read(&rx, 9, FOREVER).expect("it comes"), b"more"));
        rx.wait_receivers(1);
        let tx = EXISTING.rights(SEND).open(&name).expect("there");
        put(&tx, "more");
        reader.ok();
        drop(rx);
        assert_eq!(tx.ready(), POLLOUT);
        put(&tx, "for later");
        drop(tx);
        unlink(&name).expect("ours");
        assert_eq!(EXISTING.open(&name).err(), Some(Errno::NOENT));
    });
}

#[test]
fn who_waits_for_its_peer_is_told_when_it_comes() {
    isolated(|| {
        let name = unique("pipe");
        for (mine, other) in [(SEND, RECEIVE), (RECEIVE, SEND)] {
            let first = NEW.rights(mine).open(&name).expect("new");
            let wait = |handle: &Handle, wait: Wait| raw::wait_peer(handle, wait.0, wait.1);
            assert_eq!(wait(&first, NEVER), Err(Errno::AGAIN));
            assert_eq!(wait(&first, within(5)), Err(Errno::TIMEDOUT));
            let alike = first.dup(mine).expect("ours");
            assert_eq!(wait(&first, NEVER), Err(Errno::AGAIN));
            let waiting: Vec<Child> = [&first, &alike]
                .iter()
                .map(|handle| spawn(|| assert_eq!(wait(handle, FOREVER), Ok(()))))
                .collect();
            waiting.iter().for_each(Child::wait_asleep);
            let second = EXISTING.rights(other).open(&name).expect("there");
            waiting.into_iter().for_each(Child::ok);
            assert_eq!(wait(&second, NEVER), Ok(()));
            drop(second);
            assert_eq!(wait(&first, NEVER), Ok(()), "somebody had been there");
        }
    });
}

// Copies that fail or take long.

/// Two pages, the second of which cannot be accessed.
struct Edge(u64);

impl Edge {
    fn new() -> Self {
        let (rw, anonymous) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 2 * PAGE, rw, anonymous, -1, 0) };
        assert!(at != libc::MAP_FAILED);
        // SAFETY: the second of the pages just mapped.
        check("mprotect", unsafe {
            libc::mprotect(at.byte_add(PAGE), PAGE, libc::PROT_NONE)
        });
        Edge(at as u64)
    }

    /// So many bytes before the edge.
    fn before(&self, n: u64) -> u64 {
        self.0 + PAGE as u64 - n
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.0 as *mut libc::c_void, 2 * PAGE) };
    }
}

#[test]
fn a_read_that_faults_leaves_the_bytes() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        let edge = Edge::new();
        // So that what is read goes over the ring's end.
        put(&tx, [0; 3000]);
        read(&rx, 3000, NEVER).expect("there");
        let data = bytes(2000);
        put(&tx, &data);
        for at in [
            0,
            8,
            edge.before(0),
            edge.before(500),
            edge.before(1500),
            0xffff_8880_0000_0000,
            1 << 63,
            u64::MAX - 10,
        ] {
            assert_eq!(
                read_at(&rx, at, 2000, NEVER).0,
                Err(Errno::FAULT),
                "{at:#x}"
            );
        }
        // SAFETY: an address in a mapping of ours; that the kernel cannot write to it is what is tested.
        let plain =
            unsafe { libc::syscall(libc::SYS_read, rx.as_raw_fd(), edge.before(500), 2000) };
        assert_eq!((plain, errno()), (-1, libc::EFAULT));
        let parts = [iovec(edge.before(1000), 1000), iovec(edge.before(0), 1000)];
        // SAFETY: as above.
        let vector = unsafe { libc::readv(rx.as_raw_fd(), parts.as_ptr(), 2) };
        assert_eq!((vector, errno()), (-1, libc::EFAULT));
        let info = rx.info();
        assert_eq!((info.bytes, info.received), (2000, 3000));
        assert!(read(&rx, 3000, NEVER).expect("still there") == data);
    });
}

#[test]
fn a_write_that_faults_leaves_nothing() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        let edge = Edge::new();
        put(&tx, [0; 3000]);
        read(&rx, 3000, NEVER).expect("there");
        for at in [
            0,
            8,
            edge.before(0),
            edge.before(500),
            edge.before(1500),
            1 << 63,
        ] {
            assert_eq!(
                write_at(&tx, at, 2000, NEVER).0,
                Err(Errno::FAULT),
                "{at:#x}"
            );
        }
        // SAFETY: an address in a mapping of ours; that the kernel cannot read it is what is tested.
        let plain =
            unsafe { libc::syscall(libc::SYS_write, tx.as_raw_fd(), edge.before(500), 2000) };
        assert_eq!((plain, errno()), (-1, libc::EFAULT));
        let parts = [iovec(edge.before(1000), 1000), iovec(edge.before(0), 1000)];
        // SAFETY: as above.
        let vector = unsafe { libc::writev(tx.as_raw_fd(), parts.as_ptr(), 2) };
        assert_eq!((vector, errno()), (-1, libc::EFAULT));
        let info = tx.info();
        assert_eq!((info.bytes, info.sent), (0, 3000));
        assert_eq!(read(&rx, 1, NEVER), Err(Errno::AGAIN));
        // A length beyond all memory is no more than a large one.
        let all = edge.before(4096);
        assert_eq!(write_at(&tx, all, u64::MAX, NEVER), (Ok(()), 4096));
        assert_eq!(read_at(&rx, all, u64::MAX, NEVER), (Ok(()), 4096));
        put(&tx, "fine");
        assert_eq!(get(&rx), "fine");
    });
}

#[test]
fn a_large_write_that_faults_after_a_part_says_how_much() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        let edge = Edge::new();
        put(&tx, [9; 2096]);
        // The first 2,000 bytes fit and can be read; of the rest only 2,096 can.
        let writer = spawn(|| {
            let at = edge.before(4096);
            assert_eq!(write_at(&tx, at, 10_000, FOREVER), (Ok(()), 2000));
        });
        tx.wait_senders(1);
        read(&rx, 4096, NEVER).expect("there");
        writer.ok();
        assert_eq!(rx.info().bytes, 0);
    });
}

#[test]
fn what_cannot_be_told_is_not_done() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        put(&tx, "stays");
        let edge = Edge::new();
        let buffer = [1u8; 64];
        for (handle, request) in [(&rx, sys::POSTBOX_READ), (&tx, sys::POSTBOX_WRITE)] {
            let at = edge.before(PAGE as u64);
            let args = sys::postbox_io {
                size: size_of::<sys::postbox_io>() as u32,
                flags: NEVER.0,
                data: buffer.as_ptr() as u64,
                len: 5,
                ..Default::default()
            };
            // SAFETY: within the mapping, which can be written to at this moment, and aligned to a page.
            let result = unsafe {
                (at as *mut sys::postbox_io).write(args);
                protect(at, libc::PROT_READ);
                let result = libc::ioctl(handle.as_raw_fd(), request as _, at);
                let error = errno();
                protect(at, libc::PROT_READ | libc::PROT_WRITE);
                (result, error)
            };
            assert_eq!(result, (-1, libc::EFAULT));
        }
        let info = tx.info();
        assert_eq!((info.bytes, info.sent, info.received), (5, 5, 0));
        assert_eq!(get(&rx), "stays");
    });
}

#[test]
fn a_reader_stopped_in_its_copy_holds_nobody_for_good() {
    isolated(|| {
        let (tx, rx) = pipe(8192);
        let page = SlowPage::new();
        let fault = page.fault();
        put(&tx, "slow");
        scope(|scope| {
            let slow = scope.spawn(|| read_at(&rx, page.address(), 4, FOREVER));
            fault.wait();
            put(&tx, "quick");
            // Writers go on; readers wait for their turn, and can be interrupted, timed out and killed.
            assert_eq!(rx.ready(), 0);
            assert_eq!(read(&rx, 9, NEVER), Err(Errno::AGAIN));
            assert_eq!(read(&rx, 9, within(5)), Err(Errno::TIMEDOUT));
            let waiting = spawn(|| drop(read(&rx, 9, FOREVER)));
            rx.wait_receivers(1);
            waiting.destroy();
            rx.wait_receivers(0);
            let poller = spawn(|| assert_eq!(poll(&rx, POLLIN, LONG), POLLIN));
            poller.wait_asleep();
            resize_waits(&tx);
            fault.resolve(&[]);
            assert_eq!(slow.join().expect("no panic"), (Ok(()), 4));
            poller.ok();
        });
        assert_eq!(page.read(4), b"slow");
        assert_eq!(rx.ready(), POLLIN);
        assert_eq!(get(&rx), "quick");
    });
}

#[test]
fn a_writer_stopped_in_its_copy_holds_nobody_for_good() {
    isolated(|| {
        let (tx, rx) = pipe(8192);
        let page = SlowPage::new();
        let fault = page.fault();
        put(&tx, "before");
        scope(|scope| {
            let slow = scope.spawn(|| write_at(&tx, page.address(), 4, FOREVER));
            fault.wait();
            assert_eq!(get(&rx), "before");
            assert_eq!(tx.ready(), 0);
            assert_eq!(write(&tx, "x", NEVER), Err(Errno::AGAIN));
            assert_eq!(write(&tx, "x", within(5)), Err(Errno::TIMEDOUT));
            let waiting = spawn(|| assert_eq!(write(&tx, "x", FOREVER), Ok(1)));
            tx.wait_senders(1);
            waiting.destroy();
            tx.wait_senders(0);
            let poller = spawn(|| assert_eq!(poll(&tx, POLLOUT, LONG), POLLOUT));
            poller.wait_asleep();
            resize_waits(&tx);
            let next = spawn(|| assert_eq!(write(&tx, "never", NEVER), Err(Errno::AGAIN)));
            next.ok();
            let next = spawn(|| assert_eq!(write(&tx, "next", FOREVER), Ok(4)));
            tx.wait_senders(1);
            fault.resolve(b"slow");
            assert_eq!(slow.join().expect("no panic"), (Ok(()), 4));
            next.ok();
            poller.ok();
        });
        assert_eq!(get(&rx), "slownext");
    });
}

#[test]
fn who_is_killed_in_its_copy_leaves_the_pipe_as_it_was() {
    isolated(|| {
        let (tx, rx) = pipe(8192);
        put(&tx, "stays");
        let reader = spawn(|| {
            let page = SlowPage::new();
            let _ = read_at(&rx, page.address(), 4, FOREVER);
        });
        wait_until("the reader to have its turn", || rx.ready() == 0);
        reader.wait_asleep();
        reader.destroy();
        assert_eq!(rx.ready(), POLLIN);
        assert_eq!(get(&rx), "stays");
        let writer = spawn(|| {
            let page = SlowPage::new();
            let _ = write_at(&tx, page.address(), 4, FOREVER);
        });
        wait_until("the writer to have its turn", || tx.ready() == 0);
        writer.wait_asleep();
        writer.destroy();
        assert_eq!((tx.ready(), rx.ready()), (POLLOUT, 0));
        assert_eq!(rx.info().sent, 5);
        put(&tx, "more");
        assert_eq!(get(&rx), "more");
    });
}

// Polls.

#[test]
fn polls_are_true_in_every_state() {
    isolated(|| {
        let mut rng = Rng::from_env("pipes, polls");
        for capacity in [4096u64, 8192, 16_384] {
            let name = unique("pipe");
            let make = Open {
                capacity_bytes: capacity,
                ..NEW
            };
            let keeper = make.rights(ADMIN).open(&name).expect("new");
            let mut tx = EXISTING.rights(SEND).open(&name).expect("there");
            let mut rx = EXISTING.rights(RECEIVE).open(&name).expect("there");
            for step in 0..400 {
                match rng.below(20) {
                    0 => {
                        drop(tx);
                        let empty = rx.info().bytes == 0;
                        let end = if empty { POLLHUP } else { POLLIN };
                        assert_eq!(rx.ready(), end, "step {step}: no writer");
                        if empty {
                            assert_eq!(read(&rx, 1, NEVER), Ok(vec![]));
                        }
                        tx = EXISTING.rights(SEND).open(&name).expect("there");
                    }
                    1 => {
                        drop(rx);
                        assert_eq!(tx.ready(), POLLERR, "step {step}: no reader");
                        assert_eq!(write(&tx, "x", NEVER), Err(Errno::PIPE));
                        rx = EXISTING.rights(RECEIVE).open(&name).expect("there");
                    }
                    2..10 => drop(read(&rx, rng.below(6000) as usize + 1, NEVER)),
                    _ => drop(write(&tx, bytes(rng.below(6000) as usize + 1), NEVER)),
                }
                let bytes_in = rx.info().bytes;
                let readable = if bytes_in > 0 { POLLIN } else { 0 };
                let room = capacity - bytes_in;
                let writable = if room >= ATOMIC as u64 { POLLOUT } else { 0 };
                assert_eq!(
                    (tx.ready(), rx.ready()),
                    (writable, readable),
                    "step {step}"
                );
                assert_eq!(keeper.ready(), 0);
                // What they mean: a read that does not wait, and the largest atomic write.
                if rng.one_in(4) {
                    assert_eq!(read(&rx, 1, NEVER).is_ok(), readable != 0);
                    let wrote = write(&tx, bytes(ATOMIC), NEVER);
                    let room = room + u64::from(readable != 0);
                    assert_eq!(wrote.is_ok(), room >= ATOMIC as u64);
                }
            }
        }
    });
}

/// Waits in poll in a child, and checks that it ends with these events after `change`.
fn woken(handle: &Handle, events: i16, expected: i16, change: impl FnOnce()) {
    let child = spawn(|| assert_eq!(poll(handle, events, LONG), expected));
    child.wait_asleep();
    assert!(child.running(), "poll returned before anything changed");
    change();
    child.ok();
}

#[test]
fn polls_wake_when_the_state_changes() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        woken(&rx, POLLIN, POLLIN, || put(&tx, "x"));
        woken(&tx, POLLOUT, POLLOUT, || assert_eq!(get(&rx), "x"));
        put(&tx, "x");
        woken(&tx, POLLOUT, POLLOUT, || {
            assert_eq!(raw::set_capacity(&tx, 8192), Ok(8192));
        });
        assert_eq!(get(&rx), "x");
        let child = spawn(|| {
            tx.close_copy();
            assert_eq!(poll(&rx, POLLIN, LONG), POLLHUP);
        });
        child.wait_asleep();
        drop(tx);
        child.ok();

        let (tx, rx) = pipe(4096);
        put(&tx, "x");
        let child = spawn(|| {
            rx.close_copy();
            assert_eq!(poll(&tx, POLLOUT, LONG), POLLERR);
        });
        child.wait_asleep();
        drop(rx);
        child.ok();

        // What is left is read first; then comes the end.
        let (tx, rx) = pipe(4096);
        put(&tx, "x");
        drop(tx);
        assert_eq!(rx.ready(), POLLIN);
        woken(&rx, 0, POLLHUP, || assert_eq!(get(&rx), "x"));
    });
}

fn epoll_of(handle: &Handle, flags: epoll::EventFlags) -> OwnedFd {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    let data = epoll::EventData::new_u64(0);
    epoll::add(&set, handle, data, flags | epoll::EventFlags::ET).expect("it can be polled");
    set
}

/// Waits for an edge, at most the watchdog's time.
#[track_caller]
fn edge(set: impl AsFd) {
    let mut list = [epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }];
    let limit = rustix::event::Timespec {
        tv_sec: LONG.as_secs() as i64,
        tv_nsec: 0,
    };
    assert_eq!(
        epoll::wait(set, &mut list, Some(&limit)),
        Ok(1),
        "no edge came"
    );
}

#[test]
fn edges_are_not_lost() {
    isolated(|| {
        const TOTAL: usize = 600_000;
        let (tx, rx) = pipe(8192);
        // Two who read and two who write: one's copy hides the pipe from the other.
        let counted = Ledger::new(1);
        let writers: Vec<Child> = (0..2)
            .map(|i| {
                spawn(|| {
                    rx.close_copy();
                    let set = epoll_of(&tx, epoll::EventFlags::OUT);
                    let mut rng = Rng::new(i);
                    let mut left = TOTAL / 2;
                    while left > 0 {
                        let len = (rng.below(6000) as usize + 1).min(left);
                        match write(&tx, vec![1; len], NEVER) {
                            Ok(n) => left -= n,
                            Err(Errno::AGAIN) => edge(&set),
                            Err(e) => panic!("write: {e}"),
                        }
                    }
                })
            })
            .collect();
        drop(tx);
        let readers: Vec<Child> = (0..2)
            .map(|i| {
                spawn(|| {
                    let set = epoll_of(&rx, epoll::EventFlags::IN);
                    let mut rng = Rng::new(10 + i);
                    loop {
                        match read(&rx, rng.below(5000) as usize + 1, NEVER) {
                            Ok(data) if data.is_empty() => break,
                            Ok(data) => drop(counted[0].fetch_add(data.len() as u64, Relaxed)),
                            Err(Errno::AGAIN) => edge(&set),
                            Err(e) => panic!("read: {e}"),
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(Child::ok);
        readers.into_iter().for_each(Child::ok);
        assert_eq!(counted[0].load(Relaxed), TOTAL as u64);
    });
}

// Capacity.

#[test]
fn the_capacity_is_set_and_read_back() {
    isolated(|| {
        let capacity = |wanted| {
            let flags = sys::POSTBOX_O_CREATE;
            let open = Open {
                flags,
                capacity_bytes: wanted,
                ..NEW
            };
            open.bind(None).map(|pipe| pipe.info().capacity_bytes)
        };
        assert_eq!(capacity(0), Ok(65_536));
        assert_eq!(capacity(1), Ok(4096));
        assert_eq!(capacity(4097), Ok(8192));
        assert_eq!(capacity(1 << 20), Ok(1 << 20));
        for too_large in [(1 << 20) + 1, 1 << 40, UNBOUNDED] {
            assert_eq!(capacity(too_large), Err(Errno::INVAL));
        }
        let (tx, rx) = pipe(4096);
        for (wanted, is) in [(8192, 8192), (0, 4096), (5000, 8192), (1 << 20, 1 << 20)] {
            assert_eq!(raw::set_capacity(&tx, wanted), Ok(is));
            assert_eq!(rx.info().capacity_bytes, is);
        }
        assert_eq!(raw::set_capacity(&tx, (1 << 20) + 1), Err(Errno::INVAL));
        assert_eq!(raw::set_capacity(&tx, 1 << 63), Err(Errno::INVAL));
        assert_eq!(write(&tx, bytes(2 << 20), NEVER), Ok(1 << 20));
    });
}

#[test]
fn another_capacity_keeps_the_bytes() {
    isolated(|| {
        let mut rng = Rng::from_env("pipes, capacity");
        let (tx, rx) = pipe(4096);
        let mut model = VecDeque::new();
        for _ in 0..300 {
            let capacity = 4096 << rng.below(4);
            let expected = if model.len() <= capacity as usize {
                Ok(capacity)
            } else {
                Err(Errno::BUSY)
            };
            let now = rx.info().capacity_bytes;
            assert_eq!(raw::set_capacity(&tx, capacity), expected);
            assert_eq!(rx.info().capacity_bytes, expected.unwrap_or(now));
            let mut data = vec![0; rng.below(20_000) as usize + 1];
            rng.fill(&mut data);
            if let Ok(n) = write(&tx, &data, NEVER) {
                model.extend(&data[..n]);
            }
            if let Ok(data) = read(&rx, rng.below(20_000) as usize + 1, NEVER) {
                assert!(data == model.drain(..data.len()).collect::<Vec<u8>>());
            }
        }
    });
}

#[test]
fn more_capacity_lets_who_waits_go_on() {
    isolated(|| {
        let (tx, rx) = pipe(4096);
        put(&tx, [0; 4096]);
        let writers = [4096, 9000].map(|len| {
            let writer = spawn(|| assert_eq!(write(&tx, bytes(len), FOREVER), Ok(len)));
            wait_until("it to wait", || {
                tx.info().waiting_senders > 0 && writer.state() == 'S'
            });
            writer
        });
        tx.wait_senders(2);
        assert_eq!(raw::set_capacity(&tx, 32_768), Ok(32_768));
        writers.into_iter().for_each(Child::ok);
        assert_eq!(rx.info().bytes, 4096 + 4096 + 9000);
    });
}

#[test]
fn the_capacity_is_for_who_writes_or_administers() {
    isolated(|| {
        let name = unique("pipe");
        let all = NEW.rights(SEND | RECEIVE | ADMIN).open(&name).expect("new");
        for (rights, expected) in [
            (RECEIVE, Err(Errno::ACCESS)),
            (SEND, Ok(8192)),
            (ADMIN, Ok(8192)),
            (RECEIVE | ADMIN, Ok(8192)),
        ] {
            let handle = all.dup(rights).expect("a subset");
            assert_eq!(raw::set_capacity(&handle, 8192), expected);
        }
        let mut args = sys::postbox_capacity {
            size: size_of::<sys::postbox_capacity>() as u32,
            reserved: 1,
            capacity: 8192,
        };
        // SAFETY: the request takes this struct, which has no pointers.
        let reserved = unsafe { raw::ioctl(&all, sys::POSTBOX_SET_CAPACITY, &mut args) };
        assert_eq!(reserved, Err(Errno::INVAL));
    });
}

// What is not allowed.

#[test]
fn rights_are_those_of_reading_and_writing() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        assert_eq!(read(&tx, 1, NEVER), Err(Errno::ACCESS));
        assert_eq!(write(&rx, "x", NEVER), Err(Errno::ACCESS));
        assert_eq!(rustix::io::read(&tx, &mut [0]), Err(Errno::ACCESS));
        assert_eq!(rustix::io::write(&rx, b"x"), Err(Errno::ACCESS));
        let unbound = Handle::unbound();
        assert_eq!(read(&unbound, 1, NEVER), Err(Errno::BADFD));
        assert_eq!(write(&unbound, "x", NEVER), Err(Errno::BADFD));
        assert_eq!(raw::set_capacity(&unbound, 1), Err(Errno::BADFD));

        let name = unique("pipe");
        let mode = 0o604;
        let pipe = Open { mode, ..NEW }.open(&name).expect("new");
        spawn_as(BOB, || {
            let rx = EXISTING.rights(RECEIVE).open(&name).expect("its mode lets");
            assert_eq!(read(&rx, 1, NEVER), Err(Errno::AGAIN));
            assert_eq!(EXISTING.rights(SEND).open(&name).err(), Some(Errno::ACCESS));
            assert_eq!(EXISTING.rights(ADMIN).open(&name).err(), Some(Errno::PERM));
        })
        .ok();
        drop(pipe);
    });
}

#[test]
fn flags_and_sizes_are_checked() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        put(&tx, "x");
        for flags in [1 << 4, 1 << 8, sys::POSTBOX_REALTIME, 1 << 31, 3] {
            assert_eq!(read(&rx, 1, Wait(flags, 0)), Err(Errno::INVAL));
            assert_eq!(write(&tx, "x", Wait(flags, 0)), Err(Errno::INVAL));
        }
        assert_eq!(
            read(&rx, 1, Wait(0, 5)),
            Err(Errno::INVAL),
            "a time without a flag"
        );
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_PIPE,
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND,
            ..Default::default()
        };
        type Field = fn(&mut sys::postbox_open) -> &mut u64;
        let fields: [Field; 5] = [
            |a| &mut a.capacity,
            |a| &mut a.message_max,
            |a| &mut a.initial,
            |a| &mut a.back_capacity,
            |a| &mut a.back_capacity_bytes,
        ];
        for field in fields {
            *field(&mut args) = 1;
            assert_eq!(
                raw::open(Handle::unbound(), None, &mut args),
                Err(Errno::INVAL)
            );
            *field(&mut args) = 0;
        }
        raw::open(Handle::unbound(), None, &mut args).expect("now nothing is wrong");
        assert_eq!(get(&rx), "x");
    });
}

#[test]
fn messages_and_bytes_do_not_go_together() {
    isolated(|| {
        let (tx, rx) = pipe(0);
        assert_eq!(tx.send("x", NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(rx.recv(NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(rx.take(NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(tx.reserve(1, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(rx.ack(1), Err(Errno::OPNOTSUPP));
        let mailbox = Handle::anonymous(4);
        assert_eq!(read(&mailbox, 1, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(write(&mailbox, "x", NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(raw::set_capacity(&mailbox, 1), Err(Errno::OPNOTSUPP));
        let name = unique("pipe");
        let _pipe = NEW.open(&name).expect("new");
        assert_eq!(Handle::open(&name, SEND).err(), Some(Errno::OPNOTSUPP));
    });
}

// What is told.

#[test]
fn a_pipe_tells_of_itself() {
    isolated(|| {
        let name = unique("pipe");
        let pipe = Open {
            capacity_bytes: 8192,
            ..NEW
        };
        let pipe = pipe.open(&name).expect("new");
        let (tx, rx) = (pipe.sender(), pipe.receiver());
        put(&tx, bytes(5000));
        read(&rx, 1000, NEVER).expect("there");
        assert_eq!(write(&tx, bytes(4096), NEVER), Ok(4096));
        assert_eq!(write(&tx, bytes(4096), NEVER), Err(Errno::AGAIN));
        read(&rx, 8000, NEVER).expect("there");
        let info = rx.info();
        assert_eq!(
            (info.kind, info.capacity_bytes, info.bytes),
            (sys::POSTBOX_KIND_PIPE, 8192, 96)
        );
        assert_eq!((info.sent, info.received), (9096, 9000));
        assert_eq!((info.senders, info.receivers), (2, 2));
        assert_eq!((info.full, info.high_bytes), (1, 8096));
        assert_eq!(name_of(&info), name);
        assert_eq!((info.messages, info.capacity, info.message_max), (0, 0, 0));
    });
}

#[test]
fn the_memory_of_pipes_is_counted() {
    isolated(|| {
        spawn_as(fresh_user(), || {
            let open = Open {
                flags: sys::POSTBOX_O_CREATE,
                capacity_bytes: 1 << 20,
                ..NEW
            };
            let limit = raw::usage(Handle::unbound())
                .expect("every handle can tell")
                .bytes_max;
            let mut pipes = Vec::new();
            let refused = loop {
                assert!(
                    (pipes.len() as u64) << 20 <= limit,
                    "more than {limit} bytes"
                );
                match open.bind(None) {
                    Ok(pipe) => pipes.push(pipe),
                    Err(error) => break error,
                }
            };
            assert_eq!((refused, pipes.len() as u64), (Errno::DQUOT, limit >> 20));
            assert_eq!(raw::set_capacity(&pipes[0], 4096), Err(Errno::DQUOT));
            pipes.pop();
            assert_eq!(raw::set_capacity(&pipes[0], 4096), Ok(4096));
            open.bind(None).expect("there is room again");
            Handle::anonymous(4).put([1; 1000]);
        })
        .ok();
    });
}

// Death.

/// A word of the stream: whose it is, and where in which record.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Word {
    writer: u64,
    record: u64,
    at: u64,
    words: u64,
}

impl Word {
    fn pack(self) -> u64 {
        1 << 63 | self.writer << 48 | self.record << 28 | self.at << 14 | self.words
    }

    fn unpack(word: u64) -> Self {
        assert_eq!(word >> 63, 1, "a word that nobody wrote");
        Word {
            writer: word >> 48 & 0x7fff,
            record: word >> 28 & 0xf_ffff,
            at: word >> 14 & 0x3fff,
            words: word & 0x3fff,
        }
    }
}

const ATOMIC_WORDS: u64 = ATOMIC as u64 / 8;

/// Writes records until it is told to stop, and counts those that are done.
fn write_records(tx: &Handle, ledger: &Ledger, writer: u64, mut rng: Rng) {
    for record in 0.. {
        if ledger[0].load(Relaxed) != 0 {
            return;
        }
        let words = match rng.below(10) {
            0 => rng.below(3000) + ATOMIC_WORDS + 1,
            1..3 => ATOMIC_WORDS,
            _ => rng.below(ATOMIC_WORDS) + 1,
        };
        let data: Vec<u8> = (0..words)
            .flat_map(|at| {
                let word = Word {
                    writer,
                    record,
                    at,
                    words,
                };
                word.pack().to_ne_bytes()
            })
            .collect();
        loop {
            // What is not atomic could end in the middle.
            let wait = match rng.below(4) {
                0 if words <= ATOMIC_WORDS => within(rng.below(3)),
                1 if words <= ATOMIC_WORDS => NEVER,
                _ => FOREVER,
            };
            match write(tx, &data, wait) {
                Ok(n) => break assert_eq!(n, data.len()),
                Err(Errno::AGAIN | Errno::TIMEDOUT) => {}
                Err(Errno::PIPE) => return,
                Err(e) => panic!("write: {e}"),
            }
        }
        ledger[writer as usize].store(record + 1, Relaxed);
    }
}

/// Words that one reader has room for. Between two kills each reader is filled once at the most, and the audit has all of
/// it in memory.
const AREA: usize = 1 << 14;

/// Reads into shared memory: what a reader got outlives it. Word 0 says how many it knows of.
fn read_words(rx: &Handle, area: &Ledger, mut rng: Rng) {
    let mut known = 0;
    while known < AREA {
        let room = (rng.below(1000) as usize + 1).min(AREA - known);
        let wait = match rng.below(4) {
            0 => within(rng.below(3)),
            _ => FOREVER,
        };
        let at = area[1 + known..].as_ptr() as u64;
        match read_at(rx, at, room as u64 * 8, wait) {
            (Ok(()), 0) => return,
            (Ok(()), n) => known += n as usize / 8,
            (Err(Errno::TIMEDOUT), _) => {}
            (Err(e), _) => panic!("read: {e}"),
        }
        area[0].store(known as u64, Relaxed);
    }
}

struct Reading {
    child: Child,
    area: Ledger,
}

/// Replaces the readers that have ended, because their memory was full; returns that.
fn ended(reading: &mut [Reading], mut start: impl FnMut() -> Reading) -> Vec<Ledger> {
    let ended = reading.iter_mut().filter(|reader| !reader.child.running());
    let replaced = ended.map(|reader| std::mem::replace(reader, start()));
    replaced
        .map(|Reading { child, area }| {
            child.ok();
            area
        })
        .collect()
}

/// Kills readers and writers at random moments, and checks that nobody sleeps for ever, and that every byte that was
/// written was read once, in order.
fn kill_at_random(kills: usize, readers: usize, capacity: u64) {
    let mut rng = Rng::from_env("pipes, kills");
    let name = unique("pipe");
    let make = Open {
        capacity_bytes: capacity,
        ..NEW
    };
    // Counts neither as a reader nor as a writer.
    let keeper = make.rights(ADMIN).open(&name).expect("new");
    let tx = EXISTING.rights(SEND).open(&name).expect("there");
    let rx = EXISTING.rights(RECEIVE).open(&name).expect("there");
    // Word 0: stop. Then how many records each writer has written.
    let ledger = Ledger::new(kills + 16);
    let mut next_writer = 1;
    let mut start_writer = |rng: &mut Rng| {
        let (writer, rng) = (next_writer, rng.split());
        next_writer += 1;
        (writer, spawn(|| write_records(&tx, &ledger, writer, rng)))
    };
    let start_reader = |rng: &mut Rng| {
        let (area, rng) = (Ledger::new(AREA + 1), rng.split());
        let child = spawn(|| {
            // The end comes when the writers are gone.
            tx.close_copy();
            read_words(&rx, &area, rng);
        });
        Reading { child, area }
    };
    let mut writing: Vec<(u64, Child)> = (0..3).map(|_| start_writer(&mut rng)).collect();
    let mut reading: Vec<Reading> = (0..readers).map(|_| start_reader(&mut rng)).collect();
    // What readers that are gone have got: what they knew of, and what else is in their memory.
    let mut got: Vec<(Vec<u64>, Vec<u64>)> = Vec::new();
    let mut taken = 0;
    let mut gone = |area: &Ledger, killed: bool| {
        let mut known = area[0].load(Relaxed) as usize;
        if readers == 1 && killed {
            // By the kernel's word, and not by what the dead one had noted.
            known = keeper.info().received as usize / 8 - taken;
        }
        taken += known;
        let words: Vec<u64> = area[1..].iter().map(|word| word.load(Relaxed)).collect();
        let rest = words[known..].iter().copied().take_while(|word| *word != 0);
        got.push((words[..known].to_vec(), rest.collect()));
    };
    let mut killed_writers = Vec::new();
    let mut killed = 0;
    while killed < kills {
        thread::sleep(Duration::from_micros(rng.below(4000)));
        if rng.one_in(8) {
            let wanted = 4096 << rng.below(5);
            match raw::set_capacity(&keeper, wanted) {
                Ok(now) => assert_eq!(now, wanted),
                // A command does not wait for who copies.
                Err(e) => assert!(matches!(e, Errno::BUSY | Errno::AGAIN), "{e}"),
            }
        }
        if rng.one_in(2) {
            let at = rng.below(reading.len() as u64) as usize;
            let Reading { child, area } = reading.swap_remove(at);
            child.kill(libc::SIGKILL);
            if child.wait() == Exit::Signal(libc::SIGKILL) {
                killed += 1;
            }
            gone(&area, true);
            reading.push(start_reader(&mut rng));
        } else {
            let at = rng.below(writing.len() as u64) as usize;
            let (writer, child) = writing.swap_remove(at);
            child.kill(libc::SIGKILL);
            assert_eq!(child.wait(), Exit::Signal(libc::SIGKILL));
            killed_writers.push(writer);
            killed += 1;
            writing.push(start_writer(&mut rng));
        }
        // A reader ends when its memory is full.
        for area in ended(&mut reading, || start_reader(&mut rng)) {
            gone(&area, false);
        }
    }
    ledger[0].store(1, Relaxed);
    // From here on everybody ends, unless somebody sleeps for ever.
    let mut watchdog = Watchdog::new();
    while !writing.is_empty() {
        watchdog.check(|| format!("writers sleep: {:?}", keeper.info()));
        for at in (0..writing.len()).rev() {
            if !writing[at].1.running() {
                writing.swap_remove(at).1.ok();
                watchdog.progress();
            }
        }
        for area in ended(&mut reading, || start_reader(&mut rng)) {
            gone(&area, false);
        }
        thread::sleep(Duration::from_millis(1));
    }
    let writers = next_writer;
    drop(tx);
    for Reading { child, area } in reading {
        child.ok();
        gone(&area, false);
    }
    let info = keeper.info();
    if info.bytes > 0 {
        // The last ones' memory was full.
        let area = Ledger::new(AREA + 1);
        read_words(&rx, &area, Rng::new(0));
        gone(&area, false);
    }
    let info = keeper.info();
    assert_eq!((info.bytes, info.sent), (0, info.received));
    assert_eq!((info.waiting_receivers, info.waiting_senders), (0, 0));
    audit(
        &got,
        readers,
        writers,
        &killed_writers,
        &ledger,
        info.sent / 8,
    );
}

/// Checks what was read. `got`: for each reader what it got for certain, and what it may have got.
fn audit(
    got: &[(Vec<u64>, Vec<u64>)],
    readers: usize,
    writers: u64,
    killed: &[u64],
    ledger: &Ledger,
    sent: u64,
) {
    // Every word once; and where it is not certain that its reader had it for good, once more at the most.
    let mut words: Vec<u64> = got
        .iter()
        .flat_map(|(certain, _)| certain)
        .copied()
        .collect();
    if readers == 1 {
        assert_eq!(words.len() as u64, sent);
        in_order(&words, killed);
    }
    words.sort_unstable();
    assert!(
        words.windows(2).all(|pair| pair[0] != pair[1]),
        "read twice"
    );
    let certain = words.len() as u64;
    words.extend(got.iter().flat_map(|(_, perhaps)| perhaps));
    words.sort_unstable();
    words.dedup();
    assert!(
        certain <= sent && words.len() as u64 == sent,
        "{certain} to {} of {sent}",
        words.len()
    );

    // By writer and record, which is the order of the words: each record whole, but the last of who was killed in a
    // large one.
    let mut writers_words = words.as_slice();
    for writer in 1..writers {
        let end = writers_words.partition_point(|word| Word::unpack(*word).writer <= writer);
        let (own, others) = writers_words.split_at(end);
        writers_words = others;
        let (mut record, mut at, mut small) = (0, 0, true);
        for word in own.iter().map(|word| Word::unpack(*word)) {
            assert_eq!((word.writer, word.record, word.at), (writer, record, at));
            at += 1;
            small = word.words <= ATOMIC_WORDS;
            if at == word.words {
                (record, at) = (record + 1, 0);
            }
        }
        assert!(
            at == 0 || !small,
            "writer {writer}: {at} words of a small record"
        );
        let done = ledger[writer as usize].load(Relaxed);
        if killed.contains(&writer) {
            // It may have died before it noted the last one.
            assert!(
                record == done || (record == done + 1 && at == 0),
                "writer {writer}"
            );
        } else {
            assert_eq!((record, at), (done, 0), "writer {writer}");
        }
    }
    assert_eq!(writers_words.len(), 0, "of writers that there are not");
}

/// Checks the whole stream: no record is mixed with others, and what is cut off is large, and its writer's last.
fn in_order(words: &[u64], killed: &[u64]) {
    let mut open: Option<Word> = None;
    let mut ended = Vec::new();
    for word in words.iter().map(|word| Word::unpack(*word)) {
        assert!(!ended.contains(&word.writer), "after its end: {word:?}");
        if let Some(last) = open {
            let next = Word {
                at: last.at + 1,
                ..last
            };
            if word != next {
                assert!(
                    last.words > ATOMIC_WORDS && killed.contains(&last.writer),
                    "{last:?}"
                );
                ended.push(last.writer);
                assert_eq!(word.at, 0, "mixed with {last:?}");
            }
        } else {
            assert_eq!(word.at, 0, "{word:?} has no beginning");
        }
        open = Some(word).filter(|word| word.at + 1 < word.words);
    }
    if let Some(last) = open {
        assert!(
            last.words > ATOMIC_WORDS && killed.contains(&last.writer),
            "{last:?}"
        );
    }
}

#[test]
fn kills_lose_no_byte_and_leave_nobody_asleep() {
    isolated(|| kill_at_random(scaled(300), 1, 8192));
}

#[test]
fn kills_of_several_readers_lose_no_byte_and_leave_nobody_asleep() {
    isolated(|| kill_at_random(scaled(250), 3, 4096));
}

// The library's types.

fn kind<T>(result: postbox::Result<T>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.kind,
    }
}

#[test]
fn the_library_reads_and_writes() {
    isolated(|| {
        let (mut reader, mut writer) = Pipe::pair().expect("a pipe without a name");
        writeln!(writer, "a line").expect("room");
        (&writer).write_all(b"and more").expect("room");
        writer.flush().expect("there is nothing to flush");
        let mut some = [0; 7];
        reader.read_exact(&mut some).expect("there");
        assert_eq!(&some, b"a line\n");
        drop(writer);
        let mut rest = String::new();
        (&reader).read_to_string(&mut rest).expect("to the end");
        assert_eq!(rest, "and more");
        assert_eq!(reader.read(&mut some).expect("the end"), 0);

        let (reader, mut writer) = Pipe::pair().expect("a pipe without a name");
        drop(reader);
        let broken = writer.write(b"x").expect_err("nobody reads");
        assert_eq!(broken.kind(), std::io::ErrorKind::BrokenPipe);
    });
}

#[test]
fn the_librarys_forms_of_waiting() {
    isolated(|| {
        let (reader, writer) = Pipe::options().capacity(1).pair().expect("new");
        let mut buffer = [0; 8192];
        let soon = || Instant::now() + Duration::from_millis(5);
        let millis = Duration::from_millis(5);
        assert_eq!(kind(reader.try_read(&mut buffer)), ErrorKind::Empty);
        assert_eq!(
            kind(reader.read_timeout(&mut buffer, millis)),
            ErrorKind::Timeout
        );
        assert_eq!(
            kind(reader.read_deadline(&mut buffer, soon())),
            ErrorKind::Timeout
        );
        assert_eq!(writer.try_write(&[1; 5000]).expect("a part"), 4096);
        assert_eq!(kind(writer.try_write(b"x")), ErrorKind::Full);
        assert_eq!(kind(writer.write_timeout(b"x", millis)), ErrorKind::Timeout);
        assert_eq!(
            kind(writer.write_deadline(b"x", soon())),
            ErrorKind::Timeout
        );
        let read = reader.read_with(&mut buffer, postbox::Wait::Forever);
        assert_eq!(read.expect("there"), 4096);
        assert_eq!(
            writer
                .write_with(b"x", postbox::Wait::Forever)
                .expect("room"),
            1
        );

        assert_eq!(writer.capacity().expect("told"), 4096);
        assert_eq!(writer.set_capacity(5000).expect("ours"), 8192);
        assert_eq!(reader.capacity().expect("told"), 8192);
        assert_eq!(kind(reader.set_capacity(4096)), ErrorKind::Denied);
        assert_eq!(writer.try_write(&[1; 8191]).expect("room"), 8191);
        assert_eq!(kind(writer.set_capacity(4096)), ErrorKind::Busy);

        writer.set_nonblocking(true).expect("it can be");
        let full = (&writer).write(b"x").expect_err("full");
        assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
        drop(reader);
        assert_eq!(kind(writer.try_write(b"x")), ErrorKind::Disconnected);
    });
}

#[test]
fn a_signal_does_not_end_the_librarys_waits() {
    isolated(|| {
        let (mut reader, mut writer) = Pipe::options().capacity(4096).pair().expect("new");
        let started = Gate::new();
        let busy = spawn(|| {
            handle_signal(libc::SIGUSR1, 0);
            started.open(1);
            let mut byte = [0];
            assert_eq!(reader.read(&mut byte).expect("it comes"), 1);
            started.open(1);
            reader.read_timeout(&mut byte, LONG).expect("it comes");
        });
        for _ in 0..2 {
            started.pass();
            for _ in 0..5 {
                busy.wait_asleep();
                busy.kill(libc::SIGUSR1);
                thread::sleep(Duration::from_millis(5));
            }
            writer.write_all(b"x").expect("room");
        }
        busy.ok();
    });
}

#[test]
fn names_and_descriptors_become_ends() {
    isolated(|| {
        let name = unique("pipe");
        assert_eq!(kind(PipeReader::open(&name)), ErrorKind::NotFound);
        let options = || {
            let mut options = Pipe::options();
            options.create(true).mode(0o640).capacity(10_000);
            options
        };
        let writer = options().open_writer(&name).expect("new");
        let reader = PipeReader::open(&name).expect("there");
        assert_eq!(reader.name(), Some(name.as_str()));
        assert_eq!(reader.info().expect("told").mode, 0o640);
        assert_eq!(reader.capacity().expect("told"), 16_384);
        let exists = options().create_new(true).open_reader(&name);
        assert_eq!(kind(exists), ErrorKind::Exists);
        drop(PipeWriter::open(&name).expect("there"));
        assert_eq!(kind(postbox::Mailbox::open(&name)), ErrorKind::Unsupported);

        let reader = PipeReader::try_from(OwnedFd::from(reader)).expect("it is one");
        let wrong = PipeWriter::try_from(OwnedFd::from(reader)).expect_err("it reads");
        assert_eq!(wrong.error.kind, ErrorKind::WrongHandle);
        let reader = PipeReader::try_from(wrong.fd).expect("it still is one");
        let wrong = postbox::Receiver::try_from(OwnedFd::from(reader)).expect_err("a pipe");
        let reader = PipeReader::try_from(wrong.fd).expect("it still is one");
        (&writer).write_all(b"x").expect("room");
        assert_eq!(reader.try_read(&mut [0; 9]).expect("there"), 1);
        let second = reader.try_clone().expect("ours");
        assert_eq!(writer.info().expect("told").receivers, 2);
        drop((reader, second));
        assert_eq!(kind(writer.try_write(b"x")), ErrorKind::Disconnected);
    });
}

#[test]
fn other_programs_read_and_write_them() {
    isolated(|| {
        let (mut reader, writer) = Pipe::pair().expect("a pipe without a name");
        let (from, mut to) = Pipe::pair().expect("a pipe without a name");
        let mut cat = Command::new("cat")
            .stdin(OwnedFd::from(from))
            .stdout(OwnedFd::from(writer))
            .spawn()
            .expect("there is a cat");
        let text = "through another program\n".repeat(5000);
        let feeder = thread::spawn({
            let text = text.clone();
            move || to.write_all(text.as_bytes()).expect("it reads")
        });
        let mut back = String::new();
        reader.read_to_string(&mut back).expect("to the end");
        feeder.join().expect("no panic");
        assert!(back == text);
        assert!(cat.wait().expect("our child").success());
    });
}

// Small helpers.

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn iovec(at: u64, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: at as *mut libc::c_void,
        iov_len: len,
    }
}

/// Changes what may be done with a page of one's own.
///
/// # Safety
/// No reference leads there.
unsafe fn protect(at: u64, protection: i32) {
    // SAFETY: by the contract.
    check("mprotect", unsafe {
        libc::mprotect(at as *mut libc::c_void, PAGE, protection)
    });
}
