//! Waiting: a waiter that does not run holds nobody else up, and every waiter learns of the end.

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use libc::{POLLIN, POLLOUT};
use postbox::{Link, Listener, raw, sys};
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

/// A write whose turn was revoked between two pieces learns that while another writer is in the middle
/// of its copy and the last reader is gone. That must not end the other writer's turn.
#[test]
fn pipe_write_resumed_after_revocation_leaves_next_writer_its_turn() {
    for attacker in Attacker::ALL {
        isolated(|| {
            let name = unique("turn");
            let open = |rights, flags| {
                let pipe = Handle::unbound();
                let mut args = sys::postbox_open {
                    kind: sys::POSTBOX_KIND_PIPE,
                    flags,
                    rights,
                    mode: 0o600,
                    capacity_bytes: 4096,
                    ..Default::default()
                };
                raw::open(&pipe, Some(name.as_bytes()), &mut args).expect("the pipe can be opened");
                pipe
            };
            let tx = open(SEND, sys::POSTBOX_O_CREATE);
            let rx = open(RECEIVE, sys::POSTBOX_O_CREATE);
            assert_eq!(write(&tx, b"x", NEVER), Ok(1));
            assert_eq!(read(&rx, 1, NEVER), Ok(b"x".to_vec()));
            let closed = Handle::semaphore(0, 1);
            let revoked = attacker.run(|| {
                rx.close_copy();
                let flags = uring::SINGLE_ISSUER | uring::DEFER_TASKRUN;
                let mut ring = Ring::new(8, flags).expect("a ring");
                let bytes = Kept::new([b'!'; 8192]);
                let request = sys::POSTBOX_WRITE;
                let sqe = Sqe::direct(tx.as_raw_fd(), request, bytes.address(), 8192, FOREVER);
                ring.push(&sqe);
                ring.park();
                closed.acquire(1, 0, FOREVER).expect("it comes");
                assert_eq!(ring.wait().res, 4096);
            });
            tx.wait_senders(1);
            let page = SlowPage::new();
            let fault = page.fault();
            scope(|scope| {
                let next = scope.spawn(|| {
                    // SAFETY: the page is mapped until the thread was joined.
                    let bytes =
                        unsafe { std::slice::from_raw_parts(page.address() as *const u8, PAGE) };
                    write(&tx, bytes, FOREVER)
                });
                tx.wait_senders(2);
                assert_eq!(read(&rx, 4096, NEVER), Ok(vec![b'!'; 4096]));
                // The command is given the turn, does not come, and the next writer copies.
                fault.wait();
                drop(rx);
                closed.release(1, 0).expect("it can be released");
                revoked.ok();
                // Neither another ring nor another writer may come into that copy.
                let now = tx.dup(SEND).expect("another handle");
                rustix::fs::fcntl_setfl(&now, rustix::fs::OFlags::NONBLOCK).expect("fcntl");
                assert_eq!(raw::set_capacity(&now, 8192), Err(Errno::AGAIN));
                let rx = open(RECEIVE, 0);
                assert_eq!(write(&tx, &[b'3'; 4096], NEVER), Err(Errno::AGAIN));
                fault.resolve(&[b'2'; 4096]);
                assert_eq!(next.join().expect("no panic"), Ok(4096));
                assert_eq!(read(&rx, 8192, NEVER), Ok(vec![b'2'; 4096]));
                let info = tx.info();
                assert_eq!((info.bytes, info.high_bytes), (0, 4096));
                assert_eq!(raw::set_capacity(&tx, 8192), Ok(8192));
            });
        });
    }
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
        let forget = || {
            // SAFETY: the descriptor is open, and nothing in the child uses it.
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

/// Waits as a peer of an object that is to be found by its name, which is then taken away: none can come.
fn wait_for_nobody(
    kind: u32,
    flags: u32,
    rights: u32,
    prepare: impl FnOnce(&Handle),
    wait: impl FnOnce(&Handle, &str) -> Result<()> + Send,
    waits: impl Fn(&sys::postbox_info) -> bool,
) -> Result<()> {
    let (name, handle) = (unique("orphan"), Handle::unbound());
    let memory = matches!(kind, sys::POSTBOX_KIND_PIPE | sys::POSTBOX_KIND_RING);
    let mut args = sys::postbox_open {
        kind,
        flags: sys::POSTBOX_O_CREATE | flags,
        rights,
        capacity: u64::from(kind == sys::POSTBOX_KIND_MAILBOX),
        capacity_bytes: if memory { 4096 } else { 0 },
        ..Default::default()
    };
    raw::open(&handle, Some(name.as_bytes()), &mut args).expect("a new one");
    prepare(&handle);
    scope(|scope| {
        let waiter = scope.spawn(|| wait(&handle, &name));
        wait_until("it waits", || waits(&handle.info()));
        unlink(&name).expect("its owner may");
        waiter.join().expect("it ends")
    })
}

#[test]
fn every_wait_ends_when_the_name_for_the_peer_is_taken_away() {
    use sys::{POSTBOX_KIND_LISTENER, POSTBOX_KIND_MAILBOX, POSTBOX_KIND_PIPE, POSTBOX_KIND_RING};
    as_each_attacker(|_| {
        for flags in [0, sys::POSTBOX_O_PERSIST] {
            let gone = Err(Errno::PIPE);
            for kind in [POSTBOX_KIND_MAILBOX, POSTBOX_KIND_PIPE] {
                for rights in [SEND, RECEIVE] {
                    let wait = |handle: &Handle, _: &str| raw::wait_peer(handle, 0, 0);
                    let waited = wait_for_nobody(kind, flags, rights, |_| (), wait, |_| true);
                    assert_eq!(waited, gone, "peer of {kind} with {rights}");
                }
            }
            let sleeps = |info: &sys::postbox_info| info.waiting_senders == 1;
            let listens = |info: &sys::postbox_info| info.waiting_receivers == 1;
            let waited = wait_for_nobody(
                POSTBOX_KIND_MAILBOX,
                flags,
                SEND,
                |handle| handle.put("all that there is room for"),
                |handle, _| handle.send("one more", FOREVER),
                sleeps,
            );
            assert_eq!(waited, gone);
            let waited = wait_for_nobody(
                POSTBOX_KIND_MAILBOX,
                flags,
                RECEIVE,
                |_| (),
                |handle, _| handle.recv(FOREVER).map(drop),
                listens,
            );
            assert_eq!(waited, gone);
            let waited = wait_for_nobody(
                POSTBOX_KIND_PIPE,
                flags,
                SEND,
                |handle| assert_eq!(write(handle, &[1; 4096], NEVER), Ok(4096)),
                |handle, _| write(handle, b"more", FOREVER).map(drop),
                sleeps,
            );
            assert_eq!(waited, gone);
            let waited = wait_for_nobody(
                POSTBOX_KIND_PIPE,
                flags,
                RECEIVE,
                |_| (),
                |handle, _| {
                    read(handle, 1, FOREVER).map(|bytes| assert!(bytes.is_empty(), "the end"))
                },
                listens,
            );
            assert_eq!(waited, Ok(()));
            let waited = wait_for_nobody(
                POSTBOX_KIND_RING,
                flags,
                RECEIVE,
                |_| (),
                |handle, _| {
                    raw::ring_attach(handle, sys::POSTBOX_RING_CONSUMER).map(drop)?;
                    raw::ring_wait(handle, sys::POSTBOX_RING_CONSUMER, 0)
                },
                listens,
            );
            assert_eq!(waited, Ok(()), "the ring is over");
            let waited = wait_for_nobody(
                POSTBOX_KIND_LISTENER,
                flags,
                RECEIVE,
                |_| (),
                |handle, _| raw::accept(handle, &mut Default::default()).map(drop),
                listens,
            );
            assert_eq!(waited, gone);
        }
    });
}

#[test]
fn connect_ends_when_nobody_can_accept_any_more() {
    as_each_attacker(|_| {
        for flags in [0, sys::POSTBOX_O_PERSIST] {
            for closed_first in [false, true] {
                let (name, listener) = (unique("orphan"), Handle::unbound());
                let mut args = sys::postbox_open {
                    kind: sys::POSTBOX_KIND_LISTENER,
                    flags: sys::POSTBOX_O_CREATE | flags,
                    rights: RECEIVE,
                    mode: 0o666,
                    ..Default::default()
                };
                raw::open(&listener, Some(name.as_bytes()), &mut args).expect("a new one");
                scope(|scope| {
                    let connecting = scope.spawn(|| {
                        let handle = Handle::unbound();
                        raw::connect(&handle, Some(name.as_bytes()), &mut Default::default())
                    });
                    listener.wait_senders(1);
                    if closed_first {
                        drop(listener);
                        let _ = unlink(&name);
                    } else {
                        unlink(&name).expect("its owner may");
                        drop(listener);
                    }
                    let connected = connecting.join().expect("it ends");
                    assert_eq!(connected, Err(Errno::PIPE));
                });
            }
        }
    });
}

#[test]
fn port_that_is_taken_away_has_no_second_end() {
    const PORT: u32 = 61_007;
    as_each_attacker(|_| {
        let link = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_LINK,
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PORT,
            rights: SEND | RECEIVE,
            number: PORT,
            capacity: 1,
            back_capacity: 1,
            ..Default::default()
        };
        raw::open(&link, None, &mut args).expect("a port is free");
        scope(|scope| {
            let peer = scope.spawn(|| raw::wait_peer(&link, 0, 0));
            let receiver = scope.spawn(|| link.recv(FOREVER).map(drop));
            link.wait_receivers(1);
            raw::unlink_id(Handle::unbound(), link.info().id).expect("its owner may");
            assert_eq!(peer.join().expect("it ends"), Err(Errno::PIPE));
            assert_eq!(receiver.join().expect("it ends"), Err(Errno::PIPE));
        });
        assert_eq!(link.send("x", NEVER), Err(Errno::PIPE));
    });
}

/// How often this thread has slept so far.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("it can be read");
    let line = |line: &str| {
        line.strip_prefix("voluntary_ctxt_switches:")?
            .trim()
            .parse()
            .ok()
    };
    status.lines().find_map(line).expect("it is counted")
}

/// A way to send without waiting.
type TrySend = fn(&Handle, &mut Ring, &'static [u8]) -> Result<()>;

fn nonblocking(handle: &Handle) -> Handle {
    let other = handle.dup(SEND).expect("it may send");
    rustix::fs::fcntl_setfl(&other, rustix::fs::OFlags::NONBLOCK).expect("it is open");
    other
}

fn wrote(len: isize, all: &[u8]) -> Result<()> {
    match usize::try_from(len) {
        Ok(len) => {
            assert_eq!(len, all.len());
            Ok(())
        }
        Err(_) => Err(Errno::from_io_error(&std::io::Error::last_os_error()).expect("a number")),
    }
}

/// Submits an entry that completes at once.
fn at_once(ring: &mut Ring, sqe: &Sqe) -> Result<()> {
    ring.push(sqe);
    while ring.unsubmitted() {
        ring.enter(0).expect("it is submitted");
    }
    match ring.pop().expect("it does not wait").res {
        error if error < 0 => Err(Errno::from_raw_os_error(-error)),
        _ => Ok(()),
    }
}

/// Each of them, with a name.
const TRY_SENDS: [(&str, TrySend); 6] = [
    ("ioctl", |handle, _, bytes| handle.send(bytes, NEVER)),
    ("ioctl of a non-blocking handle", |handle, _, bytes| {
        nonblocking(handle).send(bytes, FOREVER)
    }),
    ("write to a non-blocking handle", |handle, _, bytes| {
        let (handle, at) = (nonblocking(handle), bytes.as_ptr().cast());
        // SAFETY: the bytes are there.
        wrote(
            unsafe { libc::write(handle.as_raw_fd(), at, bytes.len()) },
            bytes,
        )
    }),
    ("write with RWF_NOWAIT", |handle, _, bytes| {
        let part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let fd = handle.as_raw_fd();
        // SAFETY: one part, whose bytes are there and are only read.
        wrote(
            unsafe { libc::pwritev2(fd, &part, 1, -1, libc::RWF_NOWAIT) },
            bytes,
        )
    }),
    ("command", |handle, ring, bytes| {
        let (at, len) = (bytes.as_ptr() as u64, bytes.len() as u32);
        at_once(
            ring,
            &Sqe::direct(handle.as_raw_fd(), sys::POSTBOX_SEND, at, len, NEVER),
        )
    }),
    ("command of a non-blocking handle", |handle, ring, bytes| {
        let (at, len, handle) = (
            bytes.as_ptr() as u64,
            bytes.len() as u32,
            nonblocking(handle),
        );
        at_once(
            ring,
            &Sqe::direct(handle.as_raw_fd(), sys::POSTBOX_SEND, at, len, FOREVER),
        )
    }),
];

/// Sends without waiting in each way, to one receiver each: all is accepted, and nothing sleeps.
#[track_caller]
fn try_sends_never_sleep(mailbox: &Handle) {
    let waiting = mailbox.info().waiting_receivers as usize;
    assert_eq!(waiting, TRY_SENDS.len());
    let mut ring = Ring::new(8, 0).expect("a ring");
    for (name, send) in TRY_SENDS {
        let before = sleeps();
        let sent = send(mailbox, &mut ring, b"handed over");
        assert_eq!((sent, sleeps() - before), (Ok(()), 0), "{name}");
    }
    let before = sleeps();
    for (name, send) in TRY_SENDS {
        let sent = send(mailbox, &mut ring, b"nobody waits");
        assert_eq!(sent, Err(Errno::AGAIN), "{name}");
    }
    assert_eq!(sleeps() - before, 0, "no receiver waits");
    let info = mailbox.info();
    assert_eq!((info.sent, info.waiting_senders), (waiting as u64, 0));
}

/// Takes what was accepted, and not received by who failed.
#[track_caller]
fn all_comes(mailbox: &Handle) {
    for (name, _) in TRY_SENDS {
        assert_eq!(
            mailbox.recv(LONG).expect("it was accepted").text(),
            "handed over",
            "{name}"
        );
    }
    assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
}

#[test]
fn try_send_to_ring_never_entered_does_not_sleep() {
    for attacker in Attacker::ALL {
        isolated(|| {
            let mailbox = Handle::anonymous(0);
            let count = TRY_SENDS.len() as u32;
            let parked = attacker.run(|| park_and_sleep(&mailbox, sys::POSTBOX_RECV, 64, count));
            mailbox.wait_receivers(count);
            // It is in the ring until all are parked.
            parked.wait_asleep();
            try_sends_never_sleep(&mailbox);
            // Accepted, it is for the next receiver once that one is gone.
            assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
            parked.destroy();
            all_comes(&mailbox);
        });
    }
}

#[test]
fn try_send_to_stopped_receiver_does_not_sleep() {
    for attacker in Attacker::ALL {
        isolated(|| {
            let mailbox = Handle::anonymous(0);
            let count = TRY_SENDS.len() as u32;
            let stopped = attacker.run(|| {
                let mut ring = Ring::new(8, 0).expect("a ring");
                let room = Kept::new([0u8; 64]);
                for _ in 0..count {
                    let (fd, at) = (mailbox.as_raw_fd(), room.address());
                    ring.push(&Sqe::direct(fd, sys::POSTBOX_RECV, at, 64, FOREVER));
                }
                for _ in 0..count {
                    assert_eq!(ring.wait().res, 11);
                }
            });
            mailbox.wait_receivers(count);
            stopped.wait_asleep();
            stopped.kill(libc::SIGSTOP);
            wait_until("it to be stopped", || stopped.state() == 'T');
            try_sends_never_sleep(&mailbox);
            stopped.kill(libc::SIGCONT);
            stopped.ok();
            assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
        });
    }
}

#[test]
fn try_send_to_receiver_stuck_in_copy_does_not_sleep() {
    isolated(|| {
        let mailbox = Handle::anonymous(0);
        let stuck: Vec<Child> = TRY_SENDS
            .iter()
            .map(|_| {
                spawn(|| {
                    let page = SlowPage::new();
                    let mut args = sys::postbox_recv {
                        data: page.address(),
                        len: PAGE as u64,
                        ..recv_args()
                    };
                    // SAFETY: the request writes to a page that outlives it.
                    let received = unsafe { raw::ioctl(&mailbox, sys::POSTBOX_RECV, &mut args) };
                    panic!("nobody resolves its fault: {received:?}");
                })
            })
            .collect();
        mailbox.wait_receivers(TRY_SENDS.len() as u32);
        try_sends_never_sleep(&mailbox);
        stuck.into_iter().for_each(Child::destroy);
        all_comes(&mailbox);
    });
}

#[test]
fn try_send_outlives_its_receiver_as_any_message() {
    isolated(|| {
        let name = unique("outlives");
        let tx = Handle::create(&name, 0).sender();
        let rx = Handle::open(&name, RECEIVE).expect("it is there");
        let parked = spawn(|| park_and_sleep(&rx, sys::POSTBOX_RECV, 64, 1));
        rx.wait_receivers(1);
        tx.put("for whoever comes");
        drop(rx);
        parked.destroy();
        wait_until("the last receiver to be gone", || tx.info().receivers == 0);
        assert_eq!(tx.send("later", NEVER), Err(Errno::PIPE));
        assert_eq!(tx.info().messages, 1);
        let next = Handle::open(&name, RECEIVE).expect("it is there");
        assert_eq!(next.get(), "for whoever comes");
        assert_eq!(next.recv(NEVER), Err(Errno::AGAIN));
    });
}

#[test]
fn try_connect_to_accept_never_run_does_not_sleep() {
    for attacker in Attacker::ALL {
        isolated(|| {
            let name = unique("backlog");
            let listener = Link::options().backlog(0).listen(&name).expect("new");
            let parked = attacker.run(|| {
                let flags = uring::SINGLE_ISSUER | uring::DEFER_TASKRUN;
                let mut ring = Ring::new(8, flags).expect("a ring");
                let args = Kept::new(sys::postbox_accept {
                    size: size_of::<sys::postbox_accept>() as u32,
                    ..Default::default()
                });
                let (fd, request) = (listener.as_raw_fd(), sys::POSTBOX_ACCEPT);
                ring.push(&Sqe::command(fd, request, args.address()));
                ring.park();
                loop {
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            });
            wait_until("it to be parked", || {
                listener.info().expect("bound").waiting_receivers == 1
            });
            let link = Handle::unbound();
            let mut args = sys::postbox_connect {
                flags: sys::POSTBOX_NONBLOCK,
                ..Default::default()
            };
            let before = sleeps();
            let connected = raw::connect(&link, Some(name.as_bytes()), &mut args);
            assert_eq!((connected, sleeps() - before), (Ok(()), 0));
            // The next one to accept gets the connection.
            parked.destroy();
            let server = listener.accept().expect("it was accepted");
            link.put("through the link");
            assert_eq!(&*server.recv().expect("sent"), b"through the link");
        });
    }
}

/// Calls, and waits for an answer that does not come.
fn call(mailbox: &Handle) {
    let mut args = sys::postbox_call::default();
    let mut room = [std::mem::MaybeUninit::uninit(); 16];
    let _ = raw::call(mailbox, b"?", &[], &mut room, &mut Vec::new(), &mut args);
}

#[test]
fn paused_calls_in_the_queue_stand_where_they_stood() {
    isolated(|| {
        spawn_as(ALICE, || {
            // Who is paused, and in which order they die.
            for (paused, order) in [
                (0, [0, 1, 2]),
                (1, [2, 1, 0]),
                (2, [1, 2, 0]),
                (1, [0, 2, 1]),
            ] {
                let mailbox = Handle::anonymous(8);
                let mut callers = [0, 1, 2].map(|before| {
                    let child = spawn(|| call(&mailbox));
                    wait_until("the request", || mailbox.info().messages == before + 1);
                    child.wait_asleep();
                    Some(child)
                });
                let child: &Child = callers[paused].as_ref().expect("it lives");
                for _ in 0..2 {
                    child.kill(libc::SIGSTOP);
                    wait_until("it to be stopped", || child.state() == 'T');
                    child.kill(libc::SIGCONT);
                    child.wait_asleep();
                }
                for (dead, index) in order.into_iter().enumerate() {
                    // New ones take the stacks of the dead.
                    let others = [(); 16].map(|()| spawn(std::thread::park));
                    callers[index].take().expect("it lives").destroy();
                    let left = 2 - dead as u64;
                    wait_until("it to be withdrawn", || mailbox.info().messages == left);
                    others.into_iter().for_each(Child::destroy);
                }
            }
        })
        .ok();
    });
}

/// The argument of the call that the handler below makes again, and its descriptor.
static AGAIN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
static AGAIN_FD: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);

/// Makes another call with its argument where the interrupted one has it, and ends the process.
extern "C" fn call_instead(_: libc::c_int) {
    let args = AGAIN.load(std::sync::atomic::Ordering::Relaxed) as *mut sys::postbox_call;
    let fd = AGAIN_FD.load(std::sync::atomic::Ordering::Relaxed);
    // SAFETY: the argument and its buffers stay; no reference leads to them. The process ends here.
    unsafe {
        (*args).request.data = c"bob".as_ptr() as u64;
        let done = libc::ioctl(fd, sys::POSTBOX_CALL.into(), args);
        libc::_exit(i32::from(done != 0));
    }
}

/// A call that was paused is not taken for another one of its thread with the argument at the same place: that one would
/// get the answer to what it did not ask.
#[test]
fn call_with_the_argument_of_a_paused_one_is_another() {
    // A container does not see its children's states.
    let ended = Attacker::User.run(|| {
        let handle = Handle::anonymous(4);
        let child = spawn(|| {
            let room = Kept::new([0u8; 16]);
            let args = Kept::new(sys::postbox_call {
                size: size_of::<sys::postbox_call>() as u32,
                request: sys::postbox_send {
                    data: c"alice".as_ptr() as u64,
                    len: 3,
                    ..send_args()
                },
                reply: sys::postbox_recv {
                    data: room.address(),
                    len: 16,
                    ..recv_args()
                },
                ..Default::default()
            });
            AGAIN.store(
                args.address() as usize,
                std::sync::atomic::Ordering::Relaxed,
            );
            AGAIN_FD.store(handle.as_raw_fd(), std::sync::atomic::Ordering::Relaxed);
            // SAFETY: the handler does what a handler may; the request takes this struct.
            unsafe {
                libc::signal(
                    libc::SIGUSR1,
                    call_instead as *const () as libc::sighandler_t,
                );
                libc::ioctl(
                    handle.as_raw_fd(),
                    sys::POSTBOX_CALL.into(),
                    args.address() as *mut sys::postbox_call,
                );
            }
        });
        wait_until("the request", || handle.info().messages == 1);
        child.wait_asleep();
        child.kill(libc::SIGSTOP);
        wait_until("it to be stopped", || child.state() == 'T');
        child.kill(libc::SIGUSR1);
        child.kill(libc::SIGCONT);
        wait_until("the other request", || handle.info().sent == 2);
        wait_until("the first one to be withdrawn", || {
            handle.info().messages == 1
        });
        let (mut room, mut args) = ([0; 16], sys::postbox_recv::default());
        let len = raw::recv(&handle, &mut room, &mut args).expect("it is there");
        assert_eq!(&room[..len], b"bob");
        let reply = sys::postbox_reply {
            token: args.token,
            ..Default::default()
        };
        raw::reply(&handle, b"done", &[], &reply).expect("it waits");
        child.ok();
    });
    assert_eq!(ended.wait(), Exit::Code(0));
}

/// A call whose process has no descriptor any more by which it could be repeated leaves nothing behind when it is
/// interrupted, whoever else has the handle.
#[test]
fn call_without_a_descriptor_to_repeat_it_by_is_withdrawn() {
    // A container does not see its children's states.
    let ended = Attacker::User.run(|| {
        let handle = Handle::anonymous(4);
        let child = spawn(|| {
            scope(|scope| {
                scope.spawn(|| {
                    let (mut room, mut args) = ([MaybeUninit::uninit(); 16], Default::default());
                    let called =
                        raw::call(&handle, b"?", &[], &mut room, &mut Vec::new(), &mut args);
                    assert_eq!(called.map(|_| ()), Err(Errno::INTR));
                });
                wait_until("the request", || handle.info().messages == 1);
                handle.close_copy();
            });
            crate::death::stay();
        });
        wait_until("the request", || handle.info().messages == 1);
        wait_until("the descriptor to be closed", || {
            !std::path::Path::new(&format!("/proc/{}/fd/{}", child.pid(), handle.as_raw_fd()))
                .exists()
        });
        wait_until("it to be withdrawn", || {
            child.kill(libc::SIGSTOP);
            wait_until("it to be stopped", || child.state() == 'T');
            child.kill(libc::SIGCONT);
            handle.info().messages == 0
        });
        assert!(child.running());
        child.destroy();
    });
    assert_eq!(ended.wait(), Exit::Code(0));
}
