//! Waiting: a waiter that does not run holds nobody else up, and every waiter learns of the end.

use std::os::fd::AsRawFd;

use libc::{POLLIN, POLLOUT};
use postbox::{Listener, raw, sys};
use postbox_tests::uring::{self, Kept, Ring, Sqe};
use postbox_tests::*;

/// A nameless pipe of 4,096 bytes.
fn pipe() -> Handle {
    let pipe = Handle::unbound();
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_PIPE,
        flags: sys::POSTBOX_O_CREATE,
        rights: SEND | RECEIVE,
        capacity_bytes: 4096,
        ..Default::default()
    };
    raw::open(&pipe, None, &mut args).expect("a pipe without a name can be made");
    pipe
}

fn write(pipe: &Handle, data: &[u8], wait: Wait) -> Result<usize> {
    raw::write(pipe, data, wait.0, wait.1)
}

fn read(pipe: &Handle, room: usize, wait: Wait) -> Result<Vec<u8>> {
    let mut buffer = vec![0; room];
    let len = raw::read(pipe, &mut buffer, wait.0, wait.1)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// Parks a command of `pipe`, and never enters the ring again.
fn park_and_sleep(pipe: &Handle, request: u32, len: u32, count: u32) -> ! {
    let flags = uring::SINGLE_ISSUER | uring::DEFER_TASKRUN;
    let mut ring = Ring::new(64, flags).expect("a ring");
    let bytes = Kept::new([b'!'; 8192]);
    for tag in 0..count {
        let sqe = Sqe::direct(pipe.as_raw_fd(), request, bytes.address(), len, FOREVER);
        ring.push(&sqe.tag(tag.into()));
    }
    ring.park();
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

const LONG: Wait = Wait(sys::POSTBOX_TIMEOUT, 20_000_000_000);

#[test]
fn pipe_writes_parked_and_never_run_keep_no_turn() {
    for attacker in Attacker::ALL {
        isolated(|| {
            let pipe = pipe();
            let sender = pipe.sender();
            let (tx, rx) = pipe.split();
            assert_eq!(write(&tx, &[0; 4096], NEVER), Ok(4096));
            let parked = attacker.run(|| park_and_sleep(&sender, sys::POSTBOX_WRITE, 100, 20));
            tx.wait_senders(20);
            let waits = spawn(|| assert_eq!(write(&tx, b"behind", LONG), Ok(6)));
            tx.wait_senders(21);
            assert_eq!(read(&rx, 4096, NEVER).map(|read| read.len()), Ok(4096));
            waits.ok();
            assert_eq!(read(&rx, 100, NEVER), Ok(b"behind".to_vec()));
            assert_eq!(poll(&tx, POLLOUT, WATCHDOG), POLLOUT);
            assert_eq!(write(&tx, b"later", NEVER), Ok(5));
            assert_eq!(raw::set_capacity(&tx, 8192), Ok(8192));
            assert_eq!(read(&rx, 100, NEVER), Ok(b"later".to_vec()));
            parked.destroy();
            assert_eq!(write(&tx, b"x", NEVER), Ok(1));
        });
    }
}

#[test]
fn pipe_reads_parked_and_never_run_keep_no_turn() {
    isolated(|| {
        let pipe = pipe();
        let receiver = pipe.receiver();
        let (tx, rx) = pipe.split();
        let parked = spawn(|| park_and_sleep(&receiver, sys::POSTBOX_READ, 8192, 3));
        rx.wait_receivers(3);
        let waits = spawn(|| assert_eq!(read(&rx, 8, LONG), Ok(b"bytes".to_vec())));
        rx.wait_receivers(4);
        assert_eq!(write(&tx, b"bytes", NEVER), Ok(5));
        waits.ok();
        assert_eq!(write(&tx, b"more", NEVER), Ok(4));
        assert_eq!(poll(&rx, POLLIN, WATCHDOG), POLLIN);
        assert_eq!(read(&rx, 8, NEVER), Ok(b"more".to_vec()));
        parked.destroy();
    });
}

/// Parks a command in an ordinary ring, is stopped, and goes on later.
fn stopped_with_parked(pipe: &Handle, request: u32, len: u32, expected: i32) -> Child {
    let child = spawn(|| {
        let mut ring = Ring::new(8, 0).expect("a ring");
        let bytes = Kept::new([b'!'; 8192]);
        let sqe = Sqe::direct(pipe.as_raw_fd(), request, bytes.address(), len, FOREVER);
        assert_eq!(ring.run(&sqe), expected);
    });
    wait_until("it to be parked", || {
        let info = pipe.info();
        info.waiting_senders + info.waiting_receivers == 1
    });
    child.wait_asleep();
    child.kill(libc::SIGSTOP);
    wait_until("it to be stopped", || child.state() == 'T');
    child
}

#[test]
fn pipe_reader_stopped_with_parked_read_lets_others_read() {
    isolated(|| {
        let (tx, rx) = pipe().split();
        let stopped = stopped_with_parked(&rx, sys::POSTBOX_READ, 4, 4);
        assert_eq!(write(&tx, b"for another", NEVER), Ok(11));
        assert_eq!(read(&rx, 11, LONG), Ok(b"for another".to_vec()));
        // It has kept its place: it comes before who came later.
        let later = spawn(|| assert_eq!(read(&rx, 8, FOREVER), Ok(b"last".to_vec())));
        wait_until("it to wait", || rx.info().waiting_receivers > 0);
        later.wait_asleep();
        stopped.kill(libc::SIGCONT);
        rx.wait_receivers(2);
        assert_eq!(write(&tx, b"mine", NEVER), Ok(4));
        stopped.ok();
        assert_eq!(write(&tx, b"last", NEVER), Ok(4));
        later.ok();
    });
}

#[test]
fn pipe_large_write_stopped_between_pieces_ends_short() {
    isolated(|| {
        let (tx, rx) = pipe().split();
        let stopped = stopped_with_parked(&tx, sys::POSTBOX_WRITE, 8192, 4096);
        assert_eq!(read(&rx, 4096, NEVER), Ok(vec![b'!'; 4096]));
        assert_eq!(write(&tx, b"not held up", LONG), Ok(11));
        stopped.kill(libc::SIGCONT);
        stopped.ok();
        assert_eq!(read(&rx, 4096, NEVER), Ok(b"not held up".to_vec()));
    });
}

#[test]
fn pipe_capacity_changes_under_load_without_busy() {
    isolated(|| {
        let (tx, rx) = pipe().split();
        let writers: Vec<Child> = (0..3)
            .map(|_| spawn(|| while write(&tx, &[7; 700], FOREVER).is_ok() {}))
            .collect();
        let reader = spawn(|| while read(&rx, 4096, FOREVER).is_ok() {});
        for round in 0..200 {
            // 32 KiB may not fit into less for a moment.
            let capacity = if round % 2 == 0 { 65_536 } else { 32_768 };
            match raw::set_capacity(&tx, capacity) {
                Ok(now) => assert_eq!(now, capacity),
                Err(error) => {
                    assert_eq!((error, capacity), (Errno::BUSY, 32_768));
                    assert!(rx.info().high_bytes > 32_768, "it would have fitted");
                }
            }
        }
        writers.into_iter().for_each(Child::destroy);
        reader.destroy();
    });
}

#[test]
fn wait_peer_ends_when_the_peer_can_never_come() {
    isolated(|| {
        let listening = Listener::bind("never").expect("a listener can be made");
        let link = Handle::unbound();
        raw::connect(&link, Some(b"never"), &mut Default::default()).expect("there is room");
        // Each child has a copy of the listener.
        // SAFETY: the descriptor is open, and nothing in the child uses it.
        let forget = || {
            check("close", unsafe { libc::close(listening.as_raw_fd()) });
        };
        let asleep = spawn(|| {
            forget();
            assert_eq!(raw::wait_peer(&link, 0, 0), Err(Errno::PIPE));
        });
        let parked = spawn(|| {
            forget();
            let mut ring = Ring::new(8, 0).expect("a ring");
            let args = Kept::new(sys::postbox_wait_peer {
                size: size_of::<sys::postbox_wait_peer>() as u32,
                ..Default::default()
            });
            let sqe = Sqe::command(link.as_raw_fd(), sys::POSTBOX_WAIT_PEER, args.address());
            assert_eq!(ring.run(&sqe), -libc::EPIPE);
        });
        asleep.wait_asleep();
        parked.wait_asleep();
        drop(listening);
        asleep.ok();
        parked.ok();
        // Who comes later is told at once.
        assert_eq!(raw::wait_peer(&link, LONG.0, LONG.1), Err(Errno::PIPE));
    });
}
