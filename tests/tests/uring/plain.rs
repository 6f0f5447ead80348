//! Entries that know nothing of postbox: POLL_ADD, READ and WRITE on its handles; and commands on a ring
//! without the crate's driver, as another program would submit them.

use std::os::fd::{AsFd, AsRawFd};

use io_uring::{IoUring, opcode, squeue, types};
use postbox::{Pipe, Semaphore, raw, sys};
use postbox_tests::{Errno, Handle, NEVER, wait_until};

/// The result of one entry, submitted and waited for.
fn run(ring: &mut IoUring, entry: squeue::Entry) -> Result<u32, Errno> {
    push(ring, entry);
    next(ring).1
}

fn push(ring: &mut IoUring, entry: squeue::Entry) {
    // SAFETY: What the entries of these tests point to lives until they have completed.
    unsafe { ring.submission().push(&entry) }.expect("there is room");
    ring.submit().expect("the ring works");
}

fn next(ring: &mut IoUring) -> (u64, Result<u32, Errno>) {
    loop {
        if let Some(entry) = ring.completion().next() {
            let result = u32::try_from(entry.result())
                .map_err(|_| Errno::from_raw_os_error(-entry.result()));
            return (entry.user_data(), result);
        }
        match ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "{error}"),
        }
    }
}

fn rings() -> Vec<(IoUring, squeue::Flags)> {
    let build = |f: &dyn Fn(&mut io_uring::Builder)| {
        let mut builder = IoUring::builder();
        f(&mut builder);
        builder.build(8).expect("io_uring is there")
    };
    vec![
        (build(&|_| {}), squeue::Flags::empty()),
        (
            build(&|builder| {
                builder.setup_sqpoll(20);
            }),
            squeue::Flags::empty(),
        ),
        (
            build(&|builder| {
                builder.setup_single_issuer().setup_defer_taskrun();
            }),
            squeue::Flags::empty(),
        ),
        (build(&|_| {}), squeue::Flags::ASYNC),
    ]
}

fn fd(handle: &impl AsRawFd) -> types::Fd {
    types::Fd(handle.as_raw_fd())
}

#[test]
fn read_and_write_move_messages() {
    for (mut ring, flags) in rings() {
        let (tx, rx) = Handle::anonymous(1).split();
        let mut buffer = [0u8; 64];
        let read = opcode::Read::new(fd(&rx), buffer.as_mut_ptr(), 64)
            .build()
            .flags(flags);
        let write = opcode::Write::new(fd(&tx), b"hello".as_ptr(), 5)
            .build()
            .flags(flags);
        assert_eq!(run(&mut ring, write.clone()), Ok(5));
        assert_eq!(run(&mut ring, read.clone()), Ok(5));
        assert_eq!(&buffer[..5], b"hello");
        // One that waits to read, and one that waits to write.
        push(&mut ring, read.clone().user_data(1));
        tx.send("later", NEVER).expect("there is room");
        assert_eq!(next(&mut ring), (1, Ok(5)));
        assert_eq!(&buffer[..5], b"later");
        tx.put("full");
        push(&mut ring, write.clone().user_data(2));
        assert_eq!(rx.get(), "full");
        assert_eq!(next(&mut ring), (2, Ok(5)));
        assert_eq!(rx.get(), "hello");
        // The ends.
        push(&mut ring, read.clone().user_data(3));
        drop(tx);
        assert_eq!(next(&mut ring), (3, Ok(0)));
        assert_eq!(run(&mut ring, read), Ok(0));
        let (tx, rx) = Handle::anonymous(1).split();
        drop(rx);
        let write = opcode::Write::new(fd(&tx), b"hello".as_ptr(), 5)
            .build()
            .flags(flags);
        assert_eq!(run(&mut ring, write), Err(Errno::PIPE));
    }
}

#[test]
fn read_and_write_move_bytes() {
    for (mut ring, flags) in rings() {
        let (reader, writer) = Pipe::options().capacity(4096).pair().expect("descriptors");
        let mut buffer = vec![0u8; 10_000];
        let data = vec![7u8; 10_000];
        let read = opcode::Read::new(fd(&reader), buffer.as_mut_ptr(), 10_000)
            .build()
            .flags(flags);
        let write = opcode::Write::new(fd(&writer), data.as_ptr(), 10_000)
            .build()
            .flags(flags);
        push(&mut ring, read.user_data(1));
        push(&mut ring, write.user_data(2));
        let (mut read_bytes, mut written) = (0, 0);
        while written == 0 || read_bytes < written {
            match next(&mut ring) {
                (1, count) => {
                    let count = count.expect("bytes come");
                    assert!(count > 0);
                    read_bytes += count;
                    if written == 0 || read_bytes < written {
                        let read = opcode::Read::new(fd(&reader), buffer.as_mut_ptr(), 10_000);
                        push(&mut ring, read.build().flags(flags).user_data(1));
                    }
                }
                (_, count) => written = count.expect("somebody reads"),
            }
            if written > 0 && read_bytes == written {
                break;
            }
        }
        assert!(buffer[..64].iter().all(|byte| *byte == 7));
        drop(writer);
    }
}

#[test]
fn poll_says_what_poll_says() {
    for (mut ring, flags) in rings() {
        let poll = |fd: types::Fd, events: i16| {
            opcode::PollAdd::new(fd, events as u32).build().flags(flags)
        };
        let (tx, rx) = Handle::anonymous(1).split();
        assert_eq!(
            run(&mut ring, poll(fd(&tx), libc::POLLOUT)),
            Ok(libc::POLLOUT as u32)
        );
        push(&mut ring, poll(fd(&rx), libc::POLLIN).user_data(1));
        tx.put("x");
        assert_eq!(next(&mut ring), (1, Ok(libc::POLLIN as u32)));
        push(&mut ring, poll(fd(&tx), libc::POLLOUT).user_data(2));
        assert_eq!(rx.get(), "x");
        assert_eq!(next(&mut ring), (2, Ok(libc::POLLOUT as u32)));
        push(&mut ring, poll(fd(&rx), libc::POLLIN).user_data(3));
        drop(tx);
        let (of, events) = next(&mut ring);
        assert_eq!(
            (of, events.map(|events| events & libc::POLLHUP as u32)),
            (3, Ok(libc::POLLHUP as u32))
        );
        let semaphore = Semaphore::new(0).expect("new");
        push(&mut ring, poll(fd(&semaphore), libc::POLLIN).user_data(4));
        semaphore.post(1).expect("there is room");
        assert_eq!(next(&mut ring), (4, Ok(libc::POLLIN as u32)));
    }
}

fn command(of: &Handle, request: u32, addr: u64, uring: sys::postbox_uring) -> squeue::Entry {
    // SAFETY: Sixteen bytes, none of them padding.
    let cmd: [u8; 16] = unsafe { std::mem::transmute(uring) };
    opcode::UringCmd16::new(fd(of), request)
        .cmd(cmd)
        .addr(Some(addr))
        .build()
}

/// What io_uring has for it does not reach commands; what postbox has does, of the same ring alone.
#[test]
fn cancellation_is_postboxs_own() {
    for (mut ring, flags) in rings() {
        let rx = Handle::anonymous(4);
        let mut args = sys::postbox_recv {
            size: size_of::<sys::postbox_recv>() as u32,
            ..Default::default()
        };
        let none = sys::postbox_uring::default();
        let recv = command(&rx, sys::POSTBOX_RECV, &raw mut args as u64, none).flags(flags);
        push(&mut ring, recv.clone().user_data(42));
        rx.wait_receivers(1);
        let theirs = opcode::AsyncCancel::new(42).build();
        assert_eq!(run(&mut ring, theirs.user_data(1)), Err(Errno::NOENT));
        let other_ring = &mut IoUring::new(4).expect("io_uring is there");
        let ours = command(&rx, sys::POSTBOX_CANCEL, 42, none);
        assert_eq!(run(other_ring, ours.clone()), Err(Errno::NOENT));
        let wrong = command(&rx, sys::POSTBOX_CANCEL, 43, none);
        assert_eq!(run(&mut ring, wrong), Err(Errno::NOENT));
        rx.wait_receivers(1);
        push(&mut ring, ours.clone().user_data(2));
        let mut ends = [next(&mut ring), next(&mut ring)];
        ends.sort_by_key(|(of, _)| *of);
        assert_eq!(ends, [(2, Ok(1)), (42, Err(Errno::CANCELED))]);
        assert_eq!(run(&mut ring, ours), Err(Errno::NOENT));
        // All of a handle, from another ring.
        push(&mut ring, recv.clone().user_data(44));
        push(&mut ring, recv.user_data(45));
        rx.wait_receivers(2);
        let all = sys::postbox_uring {
            flags: sys::POSTBOX_URING_ALL as u16,
            ..Default::default()
        };
        let all = command(&rx, sys::POSTBOX_CANCEL, 0, all);
        assert_eq!(run(other_ring, all), Ok(2));
        let mut ends = [next(&mut ring), next(&mut ring)];
        ends.sort_by_key(|(of, _)| *of);
        assert_eq!(
            ends,
            [(44, Err(Errno::CANCELED)), (45, Err(Errno::CANCELED))]
        );
    }
}

/// The end of the ring ends its commands: what they were handed goes to others.
#[test]
fn the_end_of_a_ring_ends_its_commands() {
    for (mut ring, flags) in rings() {
        let (tx, rx) = Handle::anonymous(4).split();
        let mut room = [[0u8; 16]; 3];
        let mut args = [sys::postbox_recv {
            size: size_of::<sys::postbox_recv>() as u32,
            ..Default::default()
        }; 3];
        for (args, room) in args.iter_mut().zip(&mut room) {
            (args.data, args.len) = (room.as_mut_ptr() as u64, 16);
            let recv = command(
                &rx,
                sys::POSTBOX_RECV,
                &raw mut *args as u64,
                Default::default(),
            );
            push(&mut ring, recv.flags(flags).user_data(1));
        }
        rx.wait_receivers(3);
        tx.put("one");
        drop(ring);
        rx.wait_receivers(0);
        // Whether it was received meanwhile or not: it is there once at most, and what follows is whole.
        tx.put("two");
        let mut seen = Vec::new();
        wait_until("what is left", || {
            match rx.recv(NEVER) {
                Ok(got) => seen.push(got.text().to_owned()),
                Err(errno) => assert_eq!(errno, Errno::AGAIN),
            }
            seen.last().is_some_and(|last| last == "two")
        });
        // With ASYNC, any of the three may be the first in the kernel.
        let received = room.iter().any(|room| &room[..3] == b"one");
        assert_eq!(seen.len(), if received { 1 } else { 2 }, "{seen:?}");
    }
}

/// Arguments that are no good, as commands.
#[test]
fn bad_commands_are_refused() {
    let mut ring = IoUring::new(8).expect("io_uring is there");
    let handle = Handle::anonymous(4);
    let none = sys::postbox_uring::default();
    let bad = |ring: &mut IoUring, entry| run(ring, entry).expect_err("it is not valid");
    let request = |request, addr, uring| command(&handle, request, addr, uring);
    let all = u16::MAX;
    assert_eq!(bad(&mut ring, request(0xbeff, 0, none)), Errno::NOTTY);
    assert_eq!(
        bad(&mut ring, request(sys::POSTBOX_RECV, 8, none)),
        Errno::FAULT
    );
    let flags = sys::postbox_uring { flags: all, ..none };
    for wrong in [sys::POSTBOX_RECV, sys::POSTBOX_SEND, sys::POSTBOX_CANCEL] {
        assert_eq!(bad(&mut ring, request(wrong, 0, flags)), Errno::INVAL);
    }
    let direct = sys::postbox_uring {
        flags: sys::POSTBOX_URING_DIRECT as u16,
        len: 10,
        ..none
    };
    assert_eq!(
        bad(&mut ring, request(sys::POSTBOX_INFO, 8, direct)),
        Errno::INVAL
    );
    assert_eq!(
        bad(&mut ring, request(sys::POSTBOX_SEND, 8, direct)),
        Errno::FAULT
    );
    handle.put("there");
    assert_eq!(
        bad(&mut ring, request(sys::POSTBOX_RECV, 8, direct)),
        Errno::FAULT
    );
    assert_eq!(handle.get(), "there", "it stays");
    let unbound = Handle::unbound();
    let mut args = postbox_tests::recv_args();
    let recv = command(&unbound, sys::POSTBOX_RECV, &raw mut args as u64, none);
    assert_eq!(bad(&mut ring, recv), Errno::BADFD);
    let mut version = sys::postbox_version {
        size: size_of::<sys::postbox_version>() as u32,
        ..Default::default()
    };
    let ask = command(
        &unbound,
        sys::POSTBOX_VERSION,
        &raw mut version as u64,
        none,
    );
    assert_eq!(run(&mut ring, ask), Ok(0));
    assert_eq!(version.abi, sys::POSTBOX_ABI);
    assert_eq!(
        version.features,
        raw::version(unbound.as_fd()).expect("it tells").features
    );
    assert_ne!(version.features & u64::from(sys::POSTBOX_FEATURE_URING), 0);
}
