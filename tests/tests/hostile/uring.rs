//! The same through io_uring: entries and what they say, memory that changes while a command is parked, cancellations of all
//! kinds, rings that end. What is wrong with an argument is the same for a command: that is what the rest of this
//! program finds out when it runs through the door `uring`.

use postbox_tests::{WATCHDOG, Watchdog, scope};
use std::collections::BTreeMap;
use std::sync::Mutex;

use postbox_tests::uring::{
    self, ASYNC, BUFFER_SELECT, Buffers, CMD_FIXED, CMD_MULTISHOT, Cqe, Kept, LINK, Ring, Sqe,
};

use super::*;

const DIRECT: u32 = sys::POSTBOX_URING_DIRECT;
const ALL: u32 = sys::POSTBOX_URING_ALL;
const GROUP: u16 = 1;

fn ring() -> Ring {
    Ring::new(64, 0).expect("io_uring is there")
}

fn errno(error: Errno) -> i32 {
    -error.raw_os_error()
}

/// What a command gives, as a call would.
fn result(res: i32) -> Result<u32> {
    u32::try_from(res).map_err(|_| Errno::from_raw_os_error(-res))
}

fn command(handle: &Handle, request: u32, address: u64) -> Sqe {
    Sqe::command(handle.as_raw_fd(), request, address)
}

/// The 16 bytes of a command with one thing in them.
fn says(flags: u32) -> sys::postbox_uring {
    sys::postbox_uring {
        flags: flags as u16,
        ..Default::default()
    }
}

#[test]
fn g11_commands_with_more_to_say_than_their_argument() {
    isolated(|| {
        let mut good = Good::new();
        let mut ring = ring();
        let at = good.arena.at;
        for (name, request, _) in REQUESTS {
            let (handle, argument) = good.argument(name);
            good.arena.put(at, &argument);
            let plain = command(handle, request, at);
            let before = (state(&good.mailbox), good.others());
            let mut wrong = Vec::new();
            // Whatever bit there is in the 16 bytes, but for the one that makes the rest of them mean something.
            for bit in 0..128 {
                let mut cmd = [0u64; 2];
                cmd[bit / 64] = 1 << (bit % 64);
                if bit != 14 {
                    wrong.push(Sqe { cmd, ..plain });
                }
            }
            for bit in 0..32 {
                wrong.push(Sqe {
                    len: 1 << bit,
                    ..plain
                });
                // Those that the core knows, too: there is no buffer, and none of a group.
                wrong.push(Sqe {
                    op_flags: 1 << bit,
                    ..plain
                });
            }
            for flags in [CMD_FIXED, CMD_MULTISHOT, CMD_FIXED | CMD_MULTISHOT] {
                wrong.push(Sqe {
                    op_flags: flags,
                    flags: BUFFER_SELECT,
                    ..plain
                });
            }
            for sqe in wrong {
                assert_eq!(result(ring.run(&sqe)), Err(Errno::INVAL), "{name}: {sqe:?}");
            }
            assert_eq!(
                (state(&good.mailbox), good.others()),
                before,
                "{name} did something"
            );
            let done = result(ring.run(&plain)).map(drop);
            assert_eq!(done, Good::answer(name), "{name} as it should be");
            if done.is_ok() {
                good.undo(name, at);
            }
        }
    });
}

#[test]
fn g11_commands_that_do_not_exist() {
    isolated(|| {
        let mut ring = ring();
        let arena = Arena::new(1);
        let known: Vec<u32> = REQUESTS.iter().map(|(_, request, _)| *request).collect();
        for handle in [&Handle::anonymous(1), &Handle::unbound()] {
            for nr in (0xBE00..0xBF00u32).chain([0, 1, 0x5401, 0x541b, 0xBD10, u32::MAX]) {
                for high in [0, 0x4004_0000, 0x8010_0000, 0xc030_0000u32] {
                    let request = nr | high;
                    if known.contains(&request) || request == sys::POSTBOX_CANCEL {
                        continue;
                    }
                    for address in [0, 8, arena.at, u64::MAX] {
                        let done = result(ring.run(&command(handle, request, address)));
                        assert_eq!(done, Err(Errno::NOTTY), "{request:#x}");
                    }
                }
            }
            // And this one exists only here.
            assert_eq!(
                ioctl(handle, sys::POSTBOX_CANCEL, arena.at),
                Err(Errno::NOTTY)
            );
        }
        // Commands for other files are not for us.
        let file = rustix::fs::open("/", rustix::fs::OFlags::RDONLY, 0.into()).expect("a root");
        let sqe = Sqe::command(file.as_raw_fd(), sys::POSTBOX_RECV, arena.at);
        assert_eq!(result(ring.run(&sqe)), Err(Errno::OPNOTSUPP));
    });
}

#[test]
fn g11_payloads_that_are_not_in_an_argument() {
    isolated(|| {
        let good = Good::new();
        let mut ring = ring();
        let (at, end) = (good.arena.at, good.arena.end());
        let before = (state(&good.mailbox), good.others());
        for (name, request, _) in REQUESTS {
            if matches!(name, "SEND" | "RECV" | "READ" | "WRITE") {
                continue;
            }
            let handle = good.handle(name);
            for flags in [DIRECT, DIRECT | NEVER.0] {
                let sqe = command(handle, request, at).with(&says(flags));
                assert_eq!(result(ring.run(&sqe)), Err(Errno::INVAL), "{name}");
            }
        }
        assert_eq!((state(&good.mailbox), good.others()), before);
        for (name, request) in [
            ("SEND", sys::POSTBOX_SEND),
            ("RECV", sys::POSTBOX_RECV),
            ("WRITE", sys::POSTBOX_WRITE),
            ("READ", sys::POSTBOX_READ),
        ] {
            let handle = good.handle(name);
            let ready = || {
                // There is always something to receive, and room for more.
                good.mailbox.put("there is one");
                good.mailbox.put("and one more");
                raw::write(&good.pipe, b"bytes", NEVER.0, 0).expect("there is room");
            };
            let clear = || {
                while good.mailbox.recv(NEVER).is_ok() {}
                while raw::read(&good.pipe, &mut [0; 4096], NEVER.0, 0).is_ok() {}
            };
            let direct = |flags: u32, address: u64, len: u32| {
                Sqe::direct(handle.as_raw_fd(), request, address, len, Wait(flags, 0))
            };
            // All that can be said of how to wait, and every other bit.
            for flags in (0..0x400).chain((0..16).map(|bit| 1 << bit)) {
                if flags & DIRECT != 0 {
                    continue;
                }
                ready();
                let done = result(ring.run(&direct(flags, at, 64)));
                let meant = flags & !0xf == 0 && good_wait(flags);
                assert_eq!(
                    done.map(drop),
                    if meant { Ok(()) } else { Err(Errno::INVAL) },
                    "{name} with {flags:#x}"
                );
                clear();
            }
            ready();
            let state = |good: &Good| (state(&good.mailbox), good.others());
            let before = state(&good);
            for wait in [Wait(0, 1), Wait(NEVER.0, 1), Wait(0, u64::MAX)] {
                let sqe = Sqe::direct(handle.as_raw_fd(), request, at, 64, wait);
                assert_eq!(
                    result(ring.run(&sqe)),
                    Err(Errno::INVAL),
                    "{name}: {wait:?}"
                );
            }
            for priority in [1, u16::MAX] {
                let sqe = command(handle, request, at).with(&sys::postbox_uring {
                    priority,
                    len: 64,
                    ..says(DIRECT | NEVER.0)
                });
                let sends = name == "SEND" && priority == 1;
                assert_eq!(result(ring.run(&sqe)).is_ok(), sends, "{name}, {priority}");
            }
            for address in [
                0,
                8,
                end,
                end - 3,
                1 << 47,
                0xffff_8880_0000_0000,
                u64::MAX - 3,
            ] {
                let done = result(ring.run(&direct(NEVER.0, address, 64)));
                assert_eq!(done, Err(Errno::FAULT), "{name} at {address:#x}");
            }
            if name != "SEND" {
                assert_eq!(state(&good), before, "{name} did something");
            }
            // Of no length, and of more than there is memory.
            let none = result(ring.run(&direct(NEVER.0, 0, 0)));
            let expected = if name == "RECV" {
                Err(Errno::MSGSIZE)
            } else {
                Ok(0)
            };
            assert_eq!(none, expected, "{name} of nothing");
            let huge = result(ring.run(&direct(NEVER.0, at, u32::MAX)));
            match name {
                "SEND" => assert_eq!(huge, Err(Errno::MSGSIZE)),
                // What is received is no longer than it is.
                "RECV" | "READ" => assert!(huge.is_ok(), "{huge:?}"),
                // The first part is longer than the memory.
                _ => assert_eq!(huge, Err(Errno::FAULT)),
            }
            // Buffers that are not registered.
            let fixed = |sqe: Sqe| Sqe {
                op_flags: CMD_FIXED,
                ..sqe
            };
            for buf in [0, 1, u16::MAX] {
                let sqe = Sqe {
                    buf,
                    ..fixed(direct(NEVER.0, at, 8))
                };
                assert_eq!(
                    result(ring.run(&sqe)),
                    Err(Errno::FAULT),
                    "{name}, buffer {buf}"
                );
            }
            // Other kinds of objects, other rights, and none.
            let right = if matches!(name, "SEND" | "WRITE") {
                RECEIVE
            } else {
                SEND
            };
            let other = handle.dup(right).expect("it has both");
            let on = |handle: &Handle| Sqe {
                fd: handle.as_raw_fd(),
                ..direct(NEVER.0, at, 8)
            };
            assert_eq!(result(ring.run(&on(&other))), Err(Errno::ACCESS), "{name}");
            assert_eq!(
                result(ring.run(&on(&good.unbound))),
                Err(Errno::BADFD),
                "{name}"
            );
            for (kind, handle) in kinds(&good) {
                if !able(name).contains(&kind) {
                    let done = result(ring.run(&on(&handle)));
                    assert_eq!(done, Err(Errno::OPNOTSUPP), "{name}, {kind}");
                }
            }
            clear();
        }
    });
}

#[test]
fn g11_multishot_where_it_has_no_meaning() {
    isolated(|| {
        let good = Good::new();
        let mut ring = ring();
        let buffers = Buffers::new(&ring, GROUP, 4, 500).expect("a group");
        good.mailbox.put("it stays");
        connect_one(&good);
        let before = (state(&good.mailbox), good.others());
        let multishot = |handle: &Handle, request: u32, flags: u32| {
            Sqe::multishot(handle.as_raw_fd(), request, GROUP, flags, NEVER)
        };
        for (name, request, _) in REQUESTS {
            let handle = good.handle(name);
            let known = matches!(name, "RECV" | "ACCEPT");
            let right = multishot(handle, request, 0);
            let mut wrong = vec![
                Sqe { flags: 0, ..right },
                Sqe {
                    op_flags: 0,
                    ..right
                },
                Sqe {
                    op_flags: CMD_MULTISHOT | CMD_FIXED,
                    ..right
                },
                Sqe { addr: 1, ..right },
                Sqe { len: 1, ..right },
                right.with(&sys::postbox_uring {
                    len: 1,
                    ..says(NEVER.0)
                }),
                right.with(&sys::postbox_uring {
                    priority: 1,
                    ..says(NEVER.0)
                }),
                right.with(&sys::postbox_uring {
                    timeout_ns: 1,
                    ..says(NEVER.0)
                }),
                right.with(&says(DIRECT)),
                right.with(&says(ALL)),
                right.with(&says(sys::POSTBOX_RECV_FROM)),
                right.with(&says(sys::POSTBOX_LEASES)),
                right.with(&says(NEVER.0 | sys::POSTBOX_TIMEOUT)),
                right.with(&says(sys::POSTBOX_REALTIME)),
            ];
            if !known {
                wrong.push(right);
            }
            if name != "RECV" {
                wrong.push(multishot(handle, request, sys::POSTBOX_RECV_ACK));
            }
            for sqe in wrong {
                assert_eq!(result(ring.run(&sqe)), Err(Errno::INVAL), "{name}: {sqe:?}");
            }
        }
        for (request, able) in [
            (sys::POSTBOX_RECV, able("RECV")),
            (sys::POSTBOX_ACCEPT, able("ACCEPT")),
        ] {
            for (kind, handle) in kinds(&good) {
                if !able.contains(&kind) {
                    let done = result(ring.run(&multishot(&handle, request, 0)));
                    assert_eq!(done, Err(Errno::OPNOTSUPP), "{request:#x}, {kind}");
                } else {
                    let sender = handle.dup(SEND).expect("it has both");
                    let done = result(ring.run(&multishot(&sender, request, 0)));
                    assert_eq!(done, Err(Errno::ACCESS), "{request:#x}, {kind}");
                }
            }
            let done = result(ring.run(&multishot(&good.unbound, request, 0)));
            assert_eq!(done, Err(Errno::BADFD), "{request:#x}");
        }
        // A group that there is not, and buffers that are nowhere, or nothing.
        let unknown = Sqe {
            buf: 77,
            ..multishot(&good.mailbox, sys::POSTBOX_RECV, 0)
        };
        assert_eq!(result(ring.run(&unknown)), Err(Errno::NOBUFS));
        let edge = Arena::new(1);
        for (group, address, len, expected) in [
            (10, 8, 500, Errno::FAULT),
            (11, edge.end() - 8, 500, Errno::FAULT),
            (12, edge.end() - 60, 500, Errno::FAULT),
            (13, 0xffff_8880_0000_0000, 500, Errno::FAULT),
            (14, edge.at, 0, Errno::MSGSIZE),
            (15, edge.at, 8, Errno::MSGSIZE),
            (16, edge.at, 60, Errno::MSGSIZE),
        ] {
            let _one = Buffers::at(&ring, group, address, len).expect("a group");
            let sqe = Sqe {
                buf: group,
                ..multishot(&good.mailbox, sys::POSTBOX_RECV, 0)
            };
            let done = result(ring.run(&sqe));
            // The core takes a length of 0, and an address that nobody can have, for no buffer.
            let nothing = (len == 0 || address >> 47 != 0) && done == Err(Errno::NOBUFS);
            assert!(
                done == Err(expected) || nothing,
                "{address:#x}, {len}: {done:?}"
            );
        }
        assert_eq!((state(&good.mailbox), good.others()), before);
        assert_eq!(good.mailbox.get(), "it stays");
        drop(buffers);
    });
}

fn connect_one(good: &Good) {
    drop(connect(&good.name));
    assert_eq!(good.listener.info().messages, 1);
}

#[test]
fn g11_cancellations_of_nothing() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        let mut ring = ring();
        let fd = mailbox.as_raw_fd();
        let room = Kept::new([0u8; 64]);
        let receive = Sqe::direct(fd, sys::POSTBOX_RECV, room.address(), 64, FOREVER).tag(5);
        ring.push(&receive);
        ring.park();
        for handle in [&mailbox, &Handle::anonymous(1), &Handle::unbound()] {
            let fd = handle.as_raw_fd();
            for user_data in [0, 1, 4, 6, u64::MAX] {
                // Its own number is no help: it is not parked.
                let sqe = Sqe::cancel(fd, user_data).tag(user_data);
                assert_eq!(result(ring.run(&sqe)), Err(Errno::NOENT));
            }
            let all = Sqe::cancel_all(fd);
            let mut wrong = vec![
                Sqe { addr: 1, ..all },
                Sqe { len: 1, ..all },
                Sqe {
                    op_flags: CMD_FIXED,
                    ..all
                },
                Sqe {
                    op_flags: CMD_MULTISHOT,
                    flags: BUFFER_SELECT,
                    ..all
                },
            ];
            for bit in 0..128 {
                let mut cmd = all.cmd;
                cmd[bit / 64] |= 1 << (bit % 64);
                if bit != 15 {
                    wrong.push(Sqe { cmd, ..all });
                    cmd[0] &= !u64::from(ALL);
                    wrong.push(Sqe { cmd, ..all });
                }
            }
            for sqe in wrong {
                assert_eq!(result(ring.run(&sqe)), Err(Errno::INVAL), "{sqe:?}");
            }
        }
        assert_eq!(mailbox.info().waiting_receivers, 1, "it is still parked");
        // A message that comes with it: one of the two ends it, once.
        for round in 0..200u64 {
            if round != 0 {
                ring.push(&receive);
                ring.park();
            }
            ring.push(&Sqe::cancel(fd, 5).tag(6));
            scope(|scope| {
                scope.spawn(|| mailbox.put(round.to_ne_bytes()));
                let mut cqes = [ring.wait(), ring.wait()];
                cqes.sort_by_key(|cqe| cqe.user_data);
                match (result(cqes[0].res), result(cqes[1].res)) {
                    (Err(Errno::CANCELED), Ok(1)) => {}
                    (Ok(8), Ok(1) | Err(Errno::NOENT)) => {
                        assert_eq!(room.get()[..8], round.to_ne_bytes());
                    }
                    other => panic!("{other:?}"),
                }
            });
            assert_eq!(mailbox.info().waiting_receivers, 0);
            while mailbox.recv(NEVER).is_ok() {}
        }
        let info = mailbox.info();
        assert_eq!((info.sent, info.received), (200, 200));
    });
}

/// What becomes of the memory of a parked command.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Unmapped,
    ReadOnly,
    Garbage,
}

impl Fate {
    const ALL: [Fate; 3] = [Fate::Unmapped, Fate::ReadOnly, Fate::Garbage];

    /// Befalls that page of an arena.
    fn befall(self, arena: &Arena, page: usize) {
        let at = arena.at + (page * PAGE) as u64;
        // SAFETY: a page of the arena, to which no reference leads.
        unsafe {
            match self {
                Fate::Unmapped => check("munmap", libc::munmap(at as *mut _, PAGE)),
                Fate::ReadOnly => check(
                    "mprotect",
                    libc::mprotect(at as *mut _, PAGE, libc::PROT_READ),
                ),
                Fate::Garbage => {
                    arena.put(at, &[0xa5; PAGE]);
                    0
                }
            }
        };
    }
}

#[test]
fn g11_memory_that_changes_while_a_receive_is_parked() {
    isolated(|| {
        for fate in Fate::ALL {
            for page in [0, 1] {
                let mailbox = Handle::anonymous(4);
                let arena = Arena::new(2);
                let mut ring = ring();
                let (at, buffer) = (arena.at, arena.at + PAGE as u64);
                let args = sys::postbox_recv {
                    data: buffer,
                    len: 100,
                    ..recv_args()
                };
                arena.put(at, bytes(&args));
                ring.push(&command(&mailbox, sys::POSTBOX_RECV, at));
                ring.park();
                fate.befall(&arena, page);
                mailbox.put("the message");
                let done = result(ring.wait().res);
                let what = format!("{fate:?}, page {page}");
                if fate == Fate::Garbage {
                    // What was said at first is what holds.
                    assert_eq!(done, Ok(11), "{what}");
                    assert_eq!(arena.get(buffer, 11), b"the message", "{what}");
                    let told = at + offset_of!(sys::postbox_recv, msg_len) as u64;
                    assert_eq!(arena.get(told, 8), 11u64.to_ne_bytes(), "{what}");
                    assert_eq!(mailbox.info().messages, 0);
                } else {
                    assert_eq!(done, Err(Errno::FAULT), "{what}");
                    assert_eq!(mailbox.get(), "the message", "{what}");
                }
            }
        }
        works();
    });
}

#[test]
fn g11_memory_that_changes_while_other_commands_are_parked() {
    isolated(|| {
        for fate in Fate::ALL {
            let mut ring = ring();
            // A send, whose payload was copied.
            let mailbox = Handle::anonymous(1);
            mailbox.put("fills it");
            let arena = Arena::new(2);
            let (at, data) = (arena.at, arena.at + PAGE as u64);
            arena.put(data, b"as it was");
            let args = sys::postbox_send {
                data,
                len: 9,
                ..send_args()
            };
            arena.put(at, bytes(&args));
            ring.push(&command(&mailbox, sys::POSTBOX_SEND, at));
            ring.park();
            fate.befall(&arena, 0);
            fate.befall(&arena, 1);
            assert_eq!(mailbox.get(), "fills it");
            assert_eq!(
                (ring.wait().res, mailbox.get()),
                (0, "as it was".to_string()),
                "{fate:?}"
            );

            // A write, of which a part was copied, and the rest is not there any more.
            let pipe = pipe();
            raw::set_capacity(&pipe, 4096).expect("it is empty");
            let arena = Arena::new(4);
            let args = sys::postbox_io {
                size: self_size::<sys::postbox_io>(),
                data: arena.at + PAGE as u64,
                len: 3 * PAGE as u64,
                ..Default::default()
            };
            arena.put(arena.at, bytes(&args));
            ring.push(&command(&pipe, sys::POSTBOX_WRITE, arena.at));
            ring.park();
            fate.befall(&arena, 0);
            fate.befall(&arena, 2);
            let mut total = 0;
            let done = loop {
                match raw::read(&pipe, &mut [0; 4096], NEVER.0, 0) {
                    Ok(read) => total += read,
                    Err(error) => assert_eq!(error, Errno::AGAIN),
                }
                let cqe = ring.wait_at_most(Duration::from_millis(20));
                if let Some(cqe) = cqe {
                    break cqe.res;
                }
            };
            while let Ok(read) = raw::read(&pipe, &mut [0; 4096], NEVER.0, 0) {
                total += read;
            }
            match (fate, result(done)) {
                (Fate::Garbage, Ok(len)) => assert_eq!((len as usize, total), (3 * PAGE, 3 * PAGE)),
                // That it cannot be told is found with the first part that comes later.
                (Fate::Unmapped | Fate::ReadOnly, Ok(len)) => assert_eq!(len as usize, total),
                (_, other) => panic!("{fate:?}: {other:?}, and {total} bytes"),
            }

            // An accept, which cannot be told: the connection stays.
            let name = unique("parked");
            let listener = listener(&name);
            let arena = Arena::new(1);
            let args = sys::postbox_accept {
                size: self_size::<sys::postbox_accept>(),
                ..Default::default()
            };
            arena.put(arena.at, bytes(&args));
            let before = descriptors();
            ring.push(&command(&listener, sys::POSTBOX_ACCEPT, arena.at));
            ring.park();
            fate.befall(&arena, 0);
            let client = connect(&name);
            let done = result(ring.wait().res);
            if fate == Fate::Garbage {
                let fd = done.expect("it is accepted") as i32;
                // SAFETY: the kernel just made it for us.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            } else {
                assert_eq!(done, Err(Errno::FAULT), "{fate:?}");
                drop(accept(&listener).expect("it stays"));
            }
            drop(client);
            assert_eq!(descriptors(), before, "{fate:?}");

            // A call: the answer is kept, or nobody can be told of it.
            let (tx, rx) = Handle::anonymous(1).split();
            let arena = Arena::new(2);
            let args = sys::postbox_call {
                size: self_size::<sys::postbox_call>(),
                request: send_args(),
                reply: sys::postbox_recv {
                    data: arena.at + PAGE as u64,
                    len: 100,
                    ..recv_args()
                },
                ..Default::default()
            };
            arena.put(arena.at, bytes(&args));
            ring.push(&command(&tx, sys::POSTBOX_CALL, arena.at));
            ring.park();
            fate.befall(&arena, 1);
            let token = rx.recv(NEVER).expect("the request").token;
            let reply = sys::postbox_reply {
                token,
                ..Default::default()
            };
            raw::reply(&rx, b"answer", &[], &reply).expect("the caller waits");
            let done = result(ring.wait().res);
            if fate == Fate::Garbage {
                assert_eq!(done, Ok(6));
            } else {
                assert_eq!(done, Err(Errno::FAULT));
                let kept =
                    offset_of!(sys::postbox_call, reply) + offset_of!(sys::postbox_recv, token);
                let token = arena.get(arena.at + kept as u64, 8);
                let mut args = sys::postbox_call::default();
                args.reply.token = u64::from_ne_bytes(token.try_into().expect("eight bytes"));
                let mut room = [MaybeUninit::uninit(); 10];
                let fetched = raw::call_fetch(&tx, &mut room, &mut Vec::new(), &mut args);
                assert_eq!(fetched.expect("it is kept"), b"answer");
            }
            assert_eq!(tx.usage().0, 0);
        }
        works();
    });
}

#[test]
fn g11_a_batch_whose_entries_change_while_it_is_parked() {
    isolated(|| {
        let mut ring = ring();
        let mut rng = Rng::from_env("batch");
        for round in 0..50 {
            let mailbox = Handle::anonymous(1);
            mailbox.put("fills it");
            let arena = Arena::new(2);
            let (at, data) = (arena.at + 1024, arena.at + PAGE as u64);
            let entry = sys::postbox_send {
                data,
                len: 5,
                ..send_args()
            };
            arena.put(at, &bytes(&entry).repeat(8));
            let args = sys::postbox_batch {
                size: self_size::<sys::postbox_batch>(),
                entries: at,
                count: 8,
                entry_size: size_of::<sys::postbox_send>() as u32,
                ..Default::default()
            };
            arena.put(arena.at, bytes(&args));
            ring.push(&command(&mailbox, sys::POSTBOX_SEND_BATCH, arena.at));
            ring.park();
            // The first entry is in the queue already; anything may happen to the others.
            for _ in 0..rng.below(20) {
                let word = rng.word().to_ne_bytes();
                arena.put(arena.at + rng.below(PAGE as u64 - 8), &word);
            }
            if round % 5 == 0 {
                Fate::Unmapped.befall(&arena, 0);
            }
            let mut received = 0;
            let done = loop {
                while mailbox.recv_room(1 << 16, NEVER).is_ok() {
                    received += 1;
                }
                match ring.wait_at_most(Duration::from_millis(5)) {
                    Some(cqe) => break cqe.res,
                    // It may wait for ever now, for a time that was written there.
                    None if received > 8 => {
                        ring.push(&Sqe::cancel_all(mailbox.as_raw_fd()).tag(99));
                        let cqes = [ring.wait(), ring.wait()];
                        let own = cqes.iter().find(|cqe| cqe.user_data == 0);
                        break own.expect("both ended").res;
                    }
                    None => {}
                }
            };
            while mailbox.recv_room(1 << 16, NEVER).is_ok() {
                received += 1;
            }
            if let Ok(sent) = result(done) {
                assert_eq!(sent + 1, received);
            }
            assert_eq!(u64::from(received), mailbox.info().sent);
        }
    });
}

#[test]
fn g11_entries_that_change_after_they_were_submitted() {
    isolated(|| {
        for flags in [0, uring::SQE128] {
            let mailbox = Handle::anonymous(64);
            let mut ring = Ring::new(8, flags).expect("a ring");
            let rooms: Vec<Kept<[u8; 16]>> = (0..50).map(|_| Kept::new([0; 16])).collect();
            for (tag, room) in rooms.iter().enumerate() {
                let fd = mailbox.as_raw_fd();
                let sqe = Sqe::direct(fd, sys::POSTBOX_RECV, room.address(), 16, FOREVER);
                let place = ring.place();
                ring.push(&sqe.tag(tag as u64));
                ring.park();
                // SAFETY: the place of an entry that the kernel has taken.
                unsafe {
                    place.write(Sqe {
                        opcode: 0xff,
                        flags: 0xff,
                        fd: -1,
                        off: u64::MAX,
                        addr: u64::MAX,
                        len: u32::MAX,
                        op_flags: u32::MAX,
                        user_data: u64::MAX,
                        buf: 0xffff,
                        cmd: [u64::MAX; 2],
                        ..Sqe::default()
                    });
                }
            }
            mailbox.wait_receivers(50);
            (0..50u8).for_each(|i| mailbox.put([i; 3]));
            for _ in 0..50 {
                let cqe = ring.wait();
                let i = cqe.user_data as usize;
                assert_eq!(
                    (cqe.res, rooms[i].get()[..3].to_vec()),
                    (3, vec![i as u8; 3])
                );
            }
            // While they are submitted, by another thread: whatever it finds there, it lives. Nothing is to wait.
            let impatient = mailbox.dup(SEND | RECEIVE).expect("it has both");
            rustix::fs::fcntl_setfl(&impatient, rustix::fs::OFlags::NONBLOCK).expect("open");
            let stop = AtomicBool::new(false);
            let place = ring.place() as u64;
            scope(|scope| {
                scope.spawn(|| {
                    let mut rng = Rng::from_env("entries");
                    while !stop.load(Relaxed) {
                        // Not the first word, which has the operation and the descriptor.
                        let at = place + (1 + rng.below(7)) * 8;
                        // SAFETY: within the entry, which is only accessed by addresses like this.
                        unsafe { (at as *mut u64).write_volatile(word_of(&mut rng)) };
                        std::thread::yield_now();
                    }
                });
                for i in 0..4000 {
                    // Always the same place of the ring.
                    if ring.place() as u64 != place {
                        ring.run(&Sqe::default());
                        continue;
                    }
                    let room = &rooms[i % 50];
                    let request = [sys::POSTBOX_RECV, sys::POSTBOX_SEND][i % 2];
                    let fd = impatient.as_raw_fd();
                    ring.push(&Sqe::direct(fd, request, room.address(), 16, NEVER));
                    while ring.wait().more() {}
                }
                stop.store(true, Relaxed);
            });
            drop(ring);
        }
        works();
    });
}

/// A word for an entry: not an address of memory that something else uses.
fn word_of(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => 0,
        1 => rng.below(1 << 16),
        2 => u64::from(sys::POSTBOX_SEND) | rng.below(2) << 40,
        _ => 0xffff_0000_0000_0000 | rng.word(),
    }
}

#[test]
fn g11_more_completions_than_there_is_room_for() {
    isolated(|| {
        let mailbox = Handle::anonymous(UNBOUNDED);
        let fd = mailbox.as_raw_fd();
        let mut ring = Ring::with_completions(2, 2, 0).expect("a ring");
        let rooms: Vec<Kept<[u8; 8]>> = (0..100).map(|_| Kept::new([0; 8])).collect();
        for (tag, room) in rooms.iter().enumerate() {
            let sqe = Sqe::direct(fd, sys::POSTBOX_RECV, room.address(), 8, FOREVER);
            ring.push(&sqe.tag(tag as u64));
            ring.park();
        }
        (0..60u64).for_each(|i| mailbox.put(i.to_ne_bytes()));
        let mut other = Ring::new(2, 0).expect("a second ring");
        assert_eq!(other.run(&Sqe::cancel_all(fd)), 40);
        let mut seen = BTreeMap::new();
        for _ in 0..100 {
            let cqe = ring.wait();
            assert_eq!(seen.insert(cqe.user_data, cqe.res), None, "twice");
        }
        for (tag, res) in seen {
            if tag < 60 {
                assert_eq!((res, rooms[tag as usize].get()), (8, tag.to_ne_bytes()));
            } else {
                assert_eq!(res, errno(Errno::CANCELED));
            }
        }
        assert_eq!(ring.pop(), None);
    });
}

#[test]
fn g11_a_thread_that_meets_itself() {
    isolated(|| {
        let mailbox = Handle::anonymous(0);
        let fd = mailbox.as_raw_fd();
        for flags in [
            0,
            uring::SINGLE_ISSUER | uring::DEFER_TASKRUN,
            uring::COOP_TASKRUN,
        ] {
            let mut ring = Ring::new(8, flags).expect("a ring");
            let (room, text) = (Kept::new([0u8; 16]), Kept::new(*b"to myself"));
            let receive = Sqe::direct(fd, sys::POSTBOX_RECV, room.address(), 16, FOREVER).tag(1);
            ring.push(&receive);
            ring.park();
            // A call would sleep until the receive is done, for which it would have to wake up.
            if door() == Door::Ioctl {
                // (The end of the ring before this one may still interrupt it, as a signal would.)
                assert_eq!(mailbox.send("x", until(20)), Err(Errno::TIMEDOUT));
                // One that does not wait needs no sleep to hand it over.
                assert_eq!(mailbox.send("x", NEVER), Ok(()));
                assert_eq!(result(ring.wait().res), Ok(1));
                ring.push(&receive);
                ring.park();
            }
            // Two commands can meet.
            let send = |wait| Sqe::direct(fd, sys::POSTBOX_SEND, text.address(), 9, wait).tag(2);
            ring.push(&send(within(5_000)));
            let mut cqes = [ring.wait(), ring.wait()];
            cqes.sort_by_key(|cqe| cqe.user_data);
            let results = cqes.map(|cqe| result(cqe.res));
            assert_eq!(results, [Ok(9), Ok(0)], "ring {flags:#x}");
            // The send first, then a receive by a call or by a command.
            ring.push(&send(FOREVER));
            ring.park();
            mailbox.wait_senders(1);
            let receive = Sqe::direct(fd, sys::POSTBOX_RECV, room.address(), 16, within(5_000));
            ring.push(&receive.tag(1));
            let mut cqes = [ring.wait(), ring.wait()];
            cqes.sort_by_key(|cqe| cqe.user_data);
            assert_eq!(
                cqes.map(|cqe| result(cqe.res)),
                [Ok(9), Ok(0)],
                "ring {flags:#x}"
            );
            ring.push(&send(FOREVER));
            ring.park();
            assert_eq!(
                mailbox.recv(NEVER).map(|got| got.data),
                Ok(b"to myself".to_vec())
            );
            assert_eq!(ring.wait().res, 0);
            let info = mailbox.info();
            assert_eq!((info.waiting_senders, info.waiting_receivers), (0, 0));
            // A call of one's own that one answers oneself.
            let (tx, rx) = Handle::anonymous(1).split();
            let args = Kept::new(sys::postbox_call {
                size: self_size::<sys::postbox_call>(),
                request: send_args(),
                reply: recv_args(),
                ..Default::default()
            });
            ring.push(&command(&tx, sys::POSTBOX_CALL, args.address()).tag(3));
            ring.park();
            let token = rx.recv(NEVER).expect("the request").token;
            let reply = sys::postbox_reply {
                token,
                ..Default::default()
            };
            raw::reply(&rx, b"", &[], &reply).expect("the caller waits");
            assert_eq!(ring.wait().res, 0);
        }
    });
}

/// Counts what a storm does: each message and each command ends once.
#[derive(Default)]
struct Count {
    received: Mutex<Vec<u64>>,
    cancelled: AtomicU64,
    ended: AtomicU64,
    begun: AtomicU64,
}

/// Receives with up to 16 commands at a time, until `stop` is set and none is left. Some rings are dropped with what
/// is parked in them.
fn storm(mailbox: &Handle, count: &Count, stop: &AtomicBool, rng: &mut Rng) {
    const AT_ONCE: usize = 16;
    let kinds = [
        0,
        uring::COOP_TASKRUN,
        uring::SINGLE_ISSUER | uring::DEFER_TASKRUN,
    ];
    let fd = mailbox.as_raw_fd();
    while !stop.load(Relaxed) {
        let mut ring = Ring::new(64, *rng.pick(&kinds)).expect("a ring");
        let rooms: Vec<Kept<[u8; 8]>> = (0..AT_ONCE).map(|_| Kept::new([0; 8])).collect();
        let mut busy = [false; AT_ONCE];
        let mut cancels = 0;
        let rounds = 20 + rng.below(60);
        let look = |cqe: Cqe, busy: &mut [bool; AT_ONCE], cancels: &mut u32| {
            let Some(one) = busy.get_mut(cqe.user_data as usize) else {
                assert!(cqe.res > 0 || cqe.res == errno(Errno::NOENT), "{cqe:?}");
                *cancels -= 1;
                return;
            };
            assert!(std::mem::take(one), "it ended twice: {cqe:?}");
            count.ended.fetch_add(1, Relaxed);
            match result(cqe.res) {
                Ok(8) => {
                    let number = u64::from_ne_bytes(rooms[cqe.user_data as usize].get());
                    count.received.lock().expect("nobody panicked").push(number);
                }
                Err(Errno::CANCELED) => {
                    count.cancelled.fetch_add(1, Relaxed);
                }
                other => panic!("{other:?}"),
            }
        };
        for _ in 0..rounds {
            for (tag, one) in busy.iter_mut().enumerate() {
                if !*one && rng.one_in(2) {
                    let room = rooms[tag].address();
                    let sqe = Sqe::direct(fd, sys::POSTBOX_RECV, room, 8, FOREVER);
                    ring.push(&sqe.tag(tag as u64));
                    *one = true;
                    count.begun.fetch_add(1, Relaxed);
                }
            }
            for _ in 0..rng.below(4) {
                let sqe = if rng.one_in(8) {
                    Sqe::cancel_all(fd)
                } else {
                    Sqe::cancel(fd, rng.below(AT_ONCE as u64 + 1))
                };
                ring.push(&sqe.tag(1000));
                cancels += 1;
            }
            ring.enter(0).expect("io_uring_enter");
            while let Some(cqe) = ring.pop() {
                look(cqe, &mut busy, &mut cancels);
            }
            if rng.one_in(4) {
                std::thread::yield_now();
            }
        }
        // All are ended in the end, by a cancellation if by nothing else.
        while busy.iter().any(|one| *one) || cancels > 0 {
            ring.push(&Sqe::cancel_all(fd).tag(1000));
            cancels += 1;
            ring.enter(1).expect("io_uring_enter");
            while let Some(cqe) = ring.pop() {
                look(cqe, &mut busy, &mut cancels);
            }
        }
    }
}

#[test]
fn g11_storms_of_cancellations_lose_and_double_nothing() {
    isolated(|| {
        for capacity in [UNBOUNDED, 4, 0] {
            let mailbox = Handle::anonymous(capacity);
            let count = Count::default();
            let stop = AtomicBool::new(false);
            let mut rng = Rng::from_env("storm");
            let messages = scaled(2000) as u64;
            scope(|scope| {
                for _ in 0..3 {
                    let mut rng = rng.split();
                    let (mailbox, count, stop) = (&mailbox, &count, &stop);
                    scope.spawn(move || storm(mailbox, count, stop, &mut rng));
                }
                // From another process, so that no ring of the receivers' threads is its own.
                let sender = spawn(|| {
                    for i in 0..messages {
                        mailbox
                            .send(i.to_ne_bytes(), FOREVER)
                            .expect("somebody receives");
                    }
                });
                let exit = sender.wait_at_most(2 * WATCHDOG);
                wait_until("all to be received", || {
                    count.received.lock().expect("nobody panicked").len() as u64 == messages
                        || exit != Exit::Code(0)
                });
                stop.store(true, Relaxed);
                assert_eq!(exit, Exit::Code(0));
            });
            let mut received = count.received.into_inner().expect("nobody panicked");
            received.sort_unstable();
            assert!(received.iter().copied().eq(0..messages), "lost or doubled");
            let (begun, ended) = (count.begun.load(Relaxed), count.ended.load(Relaxed));
            let cancelled = count.cancelled.load(Relaxed);
            assert_eq!((begun, messages + cancelled), (ended, ended));
            assert!(cancelled > 0, "no command was cancelled");
            let info = mailbox.info();
            assert_eq!((info.sent, info.received), (messages, messages));
            assert_eq!((info.messages, info.waiting_receivers), (0, 0));
            tell(&format!(
                "storm: {begun} commands, {cancelled} of them cancelled, {messages} messages"
            ));
        }
    });
}

#[test]
fn g11_rings_that_end_with_commands_in_flight() {
    isolated(|| {
        for capacity in [UNBOUNDED, 4, 0] {
            let mailbox = Handle::anonymous(capacity);
            let semaphore = Handle::semaphore(1, 1);
            let messages = scaled(1500) as u64;
            let received = Ledger::new(messages as usize);
            let mut rng = Rng::from_env("in flight");
            let sender = spawn(|| {
                for i in 0..messages {
                    mailbox
                        .send(i.to_ne_bytes(), FOREVER)
                        .expect("somebody receives");
                }
            });
            // Processes that are killed, and rings that are dropped, at any time: what they had looked at counts.
            let mut victims: Vec<Child> = Vec::new();
            let victim = |rng: &mut Rng| {
                let mut rng = rng.split();
                let (mailbox, semaphore, received) = (&mailbox, &semaphore, &received);
                spawn(move || {
                    loop {
                        let kind = *rng.pick(&[0, uring::SINGLE_ISSUER | uring::DEFER_TASKRUN]);
                        let mut ring = Ring::new(16, kind).expect("a ring");
                        let fd = mailbox.as_raw_fd();
                        let args: Vec<(Kept<sys::postbox_recv>, Kept<[u8; 8]>)> = (0..4)
                            .map(|_| {
                                let room = Kept::new([0; 8]);
                                let args = sys::postbox_recv {
                                    flags: sys::POSTBOX_RECV_ACK,
                                    data: room.address(),
                                    len: 8,
                                    ..recv_args()
                                };
                                (Kept::new(args), room)
                            })
                            .collect();
                        let sync = Kept::new(sys::postbox_sync {
                            size: self_size::<sys::postbox_sync>(),
                            flags: UNDO,
                            count: 1,
                            ..Default::default()
                        });
                        for (tag, (args, _)) in args.iter().enumerate() {
                            let sqe = Sqe::command(fd, sys::POSTBOX_RECV, args.address());
                            ring.push(&sqe.tag(tag as u64));
                        }
                        let sqe = command(semaphore, sys::POSTBOX_ACQUIRE, sync.address());
                        ring.push(&sqe.tag(100));
                        for _ in 0..rng.below(12) {
                            let Some(cqe) = ring.wait_at_most(Duration::from_millis(30)) else {
                                break;
                            };
                            if cqe.user_data == 100 {
                                assert_eq!(cqe.res, 0);
                                semaphore.release(1, UNDO).expect("it is ours");
                                continue;
                            }
                            let tag = cqe.user_data as usize;
                            assert_eq!(cqe.res, 8);
                            // Counted first: it may be killed between the two, and then it comes once more.
                            let number = u64::from_ne_bytes(args[tag].1.get());
                            received[number as usize].fetch_add(1, Relaxed);
                            mailbox.ack(args[tag].0.get().token).expect("it is ours");
                            let sqe = Sqe::command(fd, sys::POSTBOX_RECV, args[tag].0.address());
                            ring.push(&sqe.tag(cqe.user_data));
                        }
                        drop(ring);
                    }
                })
            };
            let (mut seen, mut watchdog) = (0, Watchdog::new());
            let mut kills = 0;
            while sender.running() || mailbox.info().messages > 0 {
                let info = mailbox.info();
                if info.received > seen {
                    seen = info.received;
                    watchdog.progress();
                }
                watchdog.check(|| format!("it hangs: {info:?}"));
                while victims.len() < 3 {
                    victims.push(victim(&mut rng));
                }
                std::thread::sleep(Duration::from_millis(10 + rng.below(60)));
                if rng.one_in(2) {
                    let child = victims.swap_remove(rng.below(3) as usize);
                    assert!(child.running(), "a victim has failed");
                    child.destroy();
                    kills += 1;
                }
            }
            sender.ok();
            // What was settled must be seen; what is with somebody still comes back.
            victims.into_iter().for_each(Child::destroy);
            wait_until("all rings to go", || {
                let info = mailbox.info();
                (
                    info.waiting_receivers,
                    info.unacknowledged,
                    semaphore.waiting(),
                ) == (0, 0, 0)
            });
            while let Ok(got) = mailbox.recv(NEVER) {
                let number = u64::from_ne_bytes(got.data.try_into().expect("eight bytes"));
                received[number as usize].fetch_add(1, Relaxed);
            }
            let lost: Vec<usize> = (0..messages as usize)
                .filter(|i| received[*i].load(Relaxed) == 0)
                .collect();
            assert_eq!(lost, [0usize; 0], "lost");
            let info = mailbox.info();
            assert_eq!((info.sent, info.received), (messages, messages));
            semaphore.wait_value(1);
            tell(&format!("in flight: {messages} messages, {kills} kills"));
        }
        works();
    });
}

/// Throws entries at a ring, most of them commands and nearly right.
fn fuzz_entries(rng: &mut Rng, handles: &[Handle], iterations: u64) -> [u64; 2] {
    let arena = Arena::new(16);
    let kinds = [
        0,
        uring::COOP_TASKRUN,
        uring::SINGLE_ISSUER | uring::DEFER_TASKRUN,
        uring::SQE128,
        uring::CQE32,
        uring::SQPOLL,
    ];
    let mut counts = [0, 0];
    let start = Instant::now();
    let mut done = 0;
    while done < iterations && start.elapsed() < Duration::from_secs(20) {
        let mut ring = Ring::with_completions(32, 64, *rng.pick(&kinds)).expect("a ring");
        let buffers = Buffers::new(&ring, GROUP, 8, 300).expect("a group");
        // SAFETY: the arena is there for longer than the ring.
        unsafe { ring.register_buffer(arena.at as *mut u8, 8 * PAGE) }.expect("it is there");
        for _ in 0..1 + rng.below(400) {
            done += 1;
            let handle = rng.pick(handles);
            let (_, request, size) = *rng.pick(&REQUESTS);
            // The argument is anywhere, so that others that are parked have theirs overwritten.
            let at = arena.at + rng.below(8) * 512;
            let mut argument = vec![0u8; size];
            for word_at in (8..size).step_by(8) {
                if rng.one_in(3) {
                    argument[word_at..word_at + 8]
                        .copy_from_slice(&word(rng, &arena).to_ne_bytes());
                }
            }
            argument[..4].copy_from_slice(&(size as u32).to_ne_bytes());
            let flags = [0u32, 1, 2, 4, 12, 0x100, 0x101, 0x200, 0x400];
            argument[4..8].copy_from_slice(&rng.pick(&flags).to_ne_bytes());
            if !rng.one_in(8) {
                arena.put(at, &argument);
            }
            let mut sqe = command(handle, request, at);
            match rng.below(12) {
                0 | 1 => {
                    let requests = [
                        sys::POSTBOX_SEND,
                        sys::POSTBOX_RECV,
                        sys::POSTBOX_READ,
                        sys::POSTBOX_WRITE,
                    ];
                    let wait = *rng.pick(&[NEVER, FOREVER, Wait(sys::POSTBOX_TIMEOUT, 3_000_000)]);
                    let address = word(rng, &arena);
                    let len = rng.below(2000) as u32;
                    let fd = handle.as_raw_fd();
                    sqe = Sqe::direct(fd, *rng.pick(&requests), address, len, wait);
                    if rng.one_in(3) {
                        sqe.op_flags = CMD_FIXED;
                    }
                }
                2 => {
                    let request = *rng.pick(&[sys::POSTBOX_RECV, sys::POSTBOX_ACCEPT]);
                    let wait = *rng.pick(&[FOREVER, Wait(sys::POSTBOX_TIMEOUT, 3_000_000)]);
                    let ack = if rng.one_in(4) {
                        sys::POSTBOX_RECV_ACK
                    } else {
                        0
                    };
                    sqe = Sqe::multishot(handle.as_raw_fd(), request, GROUP, ack, wait);
                }
                3 => sqe = Sqe::cancel(handle.as_raw_fd(), rng.below(40)),
                4 if rng.one_in(4) => sqe = Sqe::cancel_all(handle.as_raw_fd()),
                5 => {
                    sqe = Sqe {
                        opcode: *rng.pick(&[
                            uring::OP_NOP,
                            uring::OP_POLL_ADD,
                            uring::OP_READ,
                            uring::OP_WRITE,
                            uring::OP_ASYNC_CANCEL,
                        ]),
                        fd: handle.as_raw_fd(),
                        addr: arena.at + rng.below(8 * PAGE as u64),
                        len: rng.below(2000) as u32,
                        op_flags: libc::RWF_NOWAIT as u32,
                        ..Sqe::default()
                    };
                    if sqe.opcode == uring::OP_POLL_ADD {
                        (sqe.addr, sqe.len, sqe.op_flags) = (0, 0, rng.below(64) as u32);
                    }
                    if sqe.opcode == uring::OP_ASYNC_CANCEL {
                        (sqe.addr, sqe.len, sqe.op_flags) = (rng.below(40), 0, 0);
                    }
                }
                6 => {
                    // One thing that is wrong, or that is right in other entries.
                    match rng.below(8) {
                        0 => sqe.len = rng.word() as u32,
                        1 => sqe.op_flags = 1 << rng.below(32),
                        2 => sqe.cmd[rng.below(2) as usize] = 1 << rng.below(64),
                        3 => sqe.buf = rng.word() as u16,
                        4 => sqe.addr = word(rng, &arena),
                        5 => sqe.off = rng.word(),
                        6 => sqe.ioprio = rng.word() as u16,
                        _ => sqe.flags = BUFFER_SELECT,
                    }
                }
                _ => {}
            }
            if rng.one_in(8) {
                sqe.flags |= *rng.pick(&[ASYNC, LINK, uring::CQE_SKIP_SUCCESS]);
            }
            ring.push(&sqe.tag(rng.below(40)));
            if rng.one_in(3) || !ring.has_room() {
                while ring.unsubmitted() && ring.enter(0).is_ok() {}
            }
            while let Some(cqe) = ring.pop() {
                counts[usize::from(cqe.res < 0)] += 1;
            }
            if !ring.has_room() {
                break;
            }
        }
        if rng.one_in(2) {
            for handle in handles {
                if ring.has_room() {
                    ring.push(&Sqe::cancel_all(handle.as_raw_fd()));
                }
            }
            let _ = ring.enter(0);
        }
        // With whatever is parked in it.
        drop(ring);
        drop(buffers);
        // What came with messages and connections.
        // SAFETY: no pointers, and nothing here owns a descriptor of such a number.
        unsafe { libc::syscall(libc::SYS_close_range, 64, u32::MAX, 0) };
    }
    counts
}

#[test]
fn g11_random_entries_from_several_processes() {
    isolated(|| {
        let test = || {
            let mut rng = Rng::from_env("hostile entries");
            let usage = || {
                let usage = raw::usage(Handle::unbound()).expect("it tells");
                (usage.objects, usage.messages, usage.bytes, usage.files)
            };
            let before = usage();
            let (first, second) = link();
            let ring = super::ring();
            let handles = [
                Handle::anonymous(0),
                Handle::anonymous(1),
                Handle::anonymous(300),
                Handle::unbound(),
                first,
                second,
                listener("listener"),
                endpoint(),
                pipe(),
                Handle::semaphore(2, 4),
                Handle::latch(3),
                Handle::barrier(2),
                Handle::segment(2),
                ring.0.dup(SEND | RECEIVE).expect("it has them"),
                Handle::pool(8, 64),
            ];
            let counts = Ledger::new(2);
            let children: Vec<Child> = (0..4)
                .map(|_| {
                    let mut rng = rng.split();
                    let (handles, counts) = (&handles, &counts);
                    spawn(move || {
                        let done = fuzz_entries(&mut rng, handles, 12_000);
                        counts[0].fetch_add(done[0], Relaxed);
                        counts[1].fetch_add(done[1], Relaxed);
                    })
                })
                .collect();
            children.into_iter().for_each(|child| {
                assert_eq!(child.wait_at_most(3 * WATCHDOG), Exit::Code(0));
            });
            let [good, bad] = [0, 1].map(|i| counts[i].load(Relaxed));
            tell(&format!(
                "hostile entries: {good} were good, {bad} were refused"
            ));
            assert!(good > 100 && bad > 100, "that tried nothing: {good}, {bad}");
            for handle in &handles {
                let waits = || {
                    let info = raw::info(handle).unwrap_or_default();
                    info.waiting_senders + info.waiting_receivers + info.unacknowledged as u32
                };
                // Leases of a pool are held by nobody any more, and no other is counted there.
                wait_until("all that was parked to go", || waits() == 0);
            }
            drop((handles, ring));
            for name in list().into_iter().filter(|name| !name.is_empty()) {
                unlink(&name).expect("root may");
            }
            wait_until("everything to go", || {
                list().is_empty() && usage() == before
            });
            works();
        };
        let child = Spawn::new().ipc_ns().run(test);
        assert_eq!(child.wait_at_most(4 * WATCHDOG), Exit::Code(0));
    });
}
