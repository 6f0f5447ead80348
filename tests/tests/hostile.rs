//! Guarantee 11: no input from user space crashes, hangs or leaks the kernel.
//!
//! What is wrong is refused with the error that the header names, and nothing is done. The last tests only throw things at
//! the module, from several processes; that it lives, and that the kernel has nothing to report, is what they show.

use postbox_tests::{WATCHDOG, scope};
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use postbox::{raw, sys};
use postbox_tests::*;

#[path = "hostile/uring.rs"]
mod uring;

macro_rules! requests {
    ($($name:literal $request:ident $args:ident,)*) => {
        [$(($name, sys::$request, size_of::<sys::$args>())),*]
    };
}

/// The requests, and the sizes of their arguments.
const REQUESTS: [(&str, u32, usize); 42] = requests![
    "VERSION" POSTBOX_VERSION postbox_version,
    "OPEN" POSTBOX_OPEN postbox_open,
    "DUP" POSTBOX_DUP postbox_dup,
    "UNLINK" POSTBOX_UNLINK postbox_unlink,
    "SET_ATTR" POSTBOX_SET_ATTR postbox_attr,
    "INFO" POSTBOX_INFO postbox_info,
    "LIST" POSTBOX_LIST postbox_list,
    "USAGE" POSTBOX_USAGE postbox_usage,
    "GRANT" POSTBOX_GRANT postbox_grant,
    "REVOKE" POSTBOX_REVOKE postbox_grant,
    "SEND" POSTBOX_SEND postbox_send,
    "RECV" POSTBOX_RECV postbox_recv,
    "ACK" POSTBOX_ACK postbox_ack,
    "RESERVE" POSTBOX_RESERVE postbox_reserve,
    "SEND_BATCH" POSTBOX_SEND_BATCH postbox_batch,
    "RECV_BATCH" POSTBOX_RECV_BATCH postbox_batch,
    "CALL" POSTBOX_CALL postbox_call,
    "REPLY" POSTBOX_REPLY postbox_reply,
    "REPLY_RECV" POSTBOX_REPLY_RECV postbox_reply_recv,
    "PAIR" POSTBOX_PAIR postbox_pair,
    "CONNECT" POSTBOX_CONNECT postbox_connect,
    "ACCEPT" POSTBOX_ACCEPT postbox_accept,
    "PEER" POSTBOX_PEER postbox_peer,
    "WAIT_PEER" POSTBOX_WAIT_PEER postbox_wait_peer,
    "SHUTDOWN" POSTBOX_SHUTDOWN postbox_shutdown,
    "READ" POSTBOX_READ postbox_io,
    "WRITE" POSTBOX_WRITE postbox_io,
    "SET_CAPACITY" POSTBOX_SET_CAPACITY postbox_capacity,
    "ACQUIRE" POSTBOX_ACQUIRE postbox_sync,
    "RELEASE" POSTBOX_RELEASE postbox_sync,
    "COUNT_DOWN" POSTBOX_COUNT_DOWN postbox_sync,
    "WAIT" POSTBOX_WAIT postbox_sync,
    "JOIN" POSTBOX_JOIN postbox_sync,
    "LEAVE" POSTBOX_LEAVE postbox_sync,
    "ATTACH" POSTBOX_ATTACH postbox_attach,
    "WAIT_WORD" POSTBOX_WAIT_WORD postbox_word,
    "WAKE_WORD" POSTBOX_WAKE_WORD postbox_word,
    "LOAN" POSTBOX_LOAN postbox_loan,
    "RING_ATTACH" POSTBOX_RING_ATTACH postbox_ring_attach,
    "RING_DETACH" POSTBOX_RING_DETACH postbox_ring,
    "RING_WAIT" POSTBOX_RING_WAIT postbox_ring,
    "RING_WAKE" POSTBOX_RING_WAKE postbox_ring,
];

/// The number of a request.
fn number(name: &str) -> u32 {
    let found = REQUESTS.iter().find(|(known, ..)| *known == name);
    found.expect("it is in the table").1
}

/// The smallest size that the argument of a request ever had.
fn oldest(name: &str, size: usize) -> usize {
    match name {
        "INFO" => offset_of!(sys::postbox_info, requests),
        "USAGE" => offset_of!(sys::postbox_usage, shared),
        _ => size,
    }
}

/// What a struct says of its own size.
fn self_size<T>() -> u32 {
    size_of::<T>() as u32
}

/// A request with its argument at any address.
fn ioctl(handle: &Handle, request: u32, address: u64) -> Result<()> {
    // SAFETY: the kernel checks the address, and writes at most where the tests own the memory.
    match unsafe { libc::ioctl(handle.as_raw_fd(), request as libc::Ioctl, address) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error())
            .expect("the error of a system call")),
    }
}

/// An object of a kind, with all rights that are asked for here.
fn object(args: sys::postbox_open, name: Option<&str>) -> Handle {
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        flags: args.flags | sys::POSTBOX_O_CREATE,
        rights: SEND | RECEIVE,
        mode: 0o600,
        ..args
    };
    raw::open(&handle, name.map(str::as_bytes), &mut args).expect("new");
    handle
}

/// A pipe that holds 65,536 bytes.
fn pipe() -> Handle {
    let kind = sys::POSTBOX_KIND_PIPE;
    object(
        sys::postbox_open {
            kind,
            ..Default::default()
        },
        None,
    )
}

/// A listener with room for many connections.
fn listener(name: &str) -> Handle {
    object(
        sys::postbox_open {
            kind: sys::POSTBOX_KIND_LISTENER,
            capacity: 4,
            back_capacity: 4,
            backlog: 1000,
            ..Default::default()
        },
        Some(name),
    )
}

/// The endpoint of this process.
fn endpoint() -> Handle {
    let kind = sys::POSTBOX_KIND_ENDPOINT;
    object(
        sys::postbox_open {
            kind,
            capacity: 4,
            ..Default::default()
        },
        None,
    )
}

/// Both ends of a link.
fn link() -> (Handle, Handle) {
    let first = Handle::unbound();
    let mut args = sys::postbox_pair {
        capacity: 4,
        back_capacity: 4,
        ..Default::default()
    };
    let second = raw::pair(&first, &mut args).expect("it can be made");
    (first, Handle(second))
}

/// The first end of a link to a listener.
fn connect(name: &str) -> Handle {
    let handle = Handle::unbound();
    let mut args = sys::postbox_connect {
        flags: NEVER.0,
        ..Default::default()
    };
    raw::connect(&handle, Some(name.as_bytes()), &mut args).expect("there is room");
    handle
}

fn accept(listener: &Handle) -> Result<OwnedFd> {
    let mut args = sys::postbox_accept {
        flags: NEVER.0,
        ..Default::default()
    };
    raw::accept(listener, &mut args)
}

/// A thread that answers all requests with nothing, until nobody sends any more.
fn serve(requests: Handle) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        while let Ok(request) = requests.recv(FOREVER) {
            let args = sys::postbox_reply {
                token: request.token,
                ..Default::default()
            };
            // Whether the caller still waits is its own affair.
            let _ = raw::reply(&requests, b"", &[], &args);
        }
    })
}

/// Arguments that every request accepts on an object with room, or refuses for a reason that is not their form, with an
/// arena that holds what they point to.
struct Good {
    arena: Arena,
    mailbox: Handle,
    unbound: Handle,
    /// Where somebody answers.
    calls: Handle,
    link: (Handle, Handle),
    name: String,
    listener: Handle,
    pipe: Handle,
    semaphore: Handle,
    latch: Handle,
    open_latch: Handle,
    barrier: Handle,
    pool: Handle,
    segment: Handle,
    /// Is never over.
    ring: Persistent,
    /// Has a name.
    granted: Handle,
}

impl Good {
    fn new() -> Self {
        let rights = SEND | RECEIVE | ADMIN;
        let mailbox = Make {
            rights,
            capacity: UNBOUNDED,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        let (calls, requests) = Handle::anonymous(4).split();
        serve(requests);
        let name = unique("listener");
        let open_latch = Handle::latch(1);
        open_latch.count_down(1).expect("it is one");
        Good {
            arena: Arena::new(4),
            mailbox,
            unbound: Handle::unbound(),
            calls,
            link: link(),
            listener: listener(&name),
            name,
            pipe: pipe(),
            semaphore: Handle::semaphore(100, 200),
            latch: Handle::latch(1 << 40),
            open_latch,
            barrier: Handle::barrier(1 << 20),
            pool: Handle::pool(8, 64),
            segment: Handle::segment(1),
            ring: ring(),
            granted: Make {
                rights,
                ..Make::default()
            }
            .open(unique("granted").as_str())
            .expect("new"),
        }
    }

    /// What must not change by a call that is refused, of all objects but the mailbox.
    fn others(&self) -> [u64; 13] {
        let usage = raw::usage(&self.unbound).expect("it tells");
        let (pipe, link) = (self.pipe.info(), self.link.0.info());
        [
            usage.messages,
            usage.files,
            usage.objects,
            self.calls.info().messages,
            link.senders.into(),
            self.listener.info().messages,
            pipe.bytes,
            pipe.capacity_bytes,
            self.semaphore.value(),
            self.latch.value(),
            self.barrier.value(),
            self.pool.free(),
            descriptors() as u64,
        ]
    }

    /// The handle that a request is for.
    fn handle(&self, name: &str) -> &Handle {
        match name {
            "OPEN" | "PAIR" | "CONNECT" => &self.unbound,
            "CALL" => &self.calls,
            "PEER" | "SHUTDOWN" => &self.link.0,
            "ACCEPT" => &self.listener,
            "READ" | "WRITE" | "SET_CAPACITY" => &self.pipe,
            "ACQUIRE" | "RELEASE" => &self.semaphore,
            "COUNT_DOWN" => &self.latch,
            "WAIT" => &self.open_latch,
            "JOIN" | "LEAVE" => &self.barrier,
            "LOAN" => &self.pool,
            "RING_ATTACH" | "RING_DETACH" | "RING_WAIT" | "RING_WAKE" => &self.ring.0,
            "ATTACH" | "WAIT_WORD" | "WAKE_WORD" => &self.segment,
            "GRANT" | "REVOKE" => &self.granted,
            _ => &self.mailbox,
        }
    }

    /// The argument of a request, at its usual size, and on which handle.
    fn argument(&self, name: &str) -> (&Handle, Vec<u8>) {
        let data = self.arena.at + 2 * PAGE as u64;
        let entry = self.arena.at + 3 * PAGE as u64;
        let batch = sys::postbox_batch {
            size: size_of::<sys::postbox_batch>() as u32,
            flags: sys::POSTBOX_NONBLOCK,
            entries: entry,
            count: 1,
            ..Default::default()
        };
        let nonblock = sys::POSTBOX_NONBLOCK;
        let sync = sys::postbox_sync {
            size: self_size::<sys::postbox_sync>(),
            count: 1,
            ..Default::default()
        };
        let waits = sys::postbox_sync {
            flags: nonblock,
            ..sync
        };
        let io = sys::postbox_io {
            size: self_size::<sys::postbox_io>(),
            flags: nonblock,
            data,
            len: 5,
            ..Default::default()
        };
        let argument = match name {
            "VERSION" => bytes(&sys::postbox_version {
                size: self_size::<sys::postbox_version>(),
                ..Default::default()
            })
            .to_vec(),
            "OPEN" => {
                let args = sys::postbox_open {
                    size: size_of::<sys::postbox_open>() as u32,
                    kind: sys::POSTBOX_KIND_MAILBOX,
                    flags: sys::POSTBOX_O_CREATE,
                    rights: SEND,
                    ..Default::default()
                };
                bytes(&args).to_vec()
            }
            "DUP" => bytes(&sys::postbox_dup {
                size: 16,
                rights: SEND,
                ..Default::default()
            })
            .to_vec(),
            "UNLINK" => {
                self.arena.put(data, b"does/not/exist");
                bytes(&sys::postbox_unlink {
                    size: 16,
                    name_len: 14,
                    name: data,
                })
                .to_vec()
            }
            "SET_ATTR" => {
                let valid = sys::POSTBOX_ATTR_MODE;
                bytes(&sys::postbox_attr {
                    size: 24,
                    valid,
                    mode: 0o600,
                    ..Default::default()
                })
                .to_vec()
            }
            "INFO" => {
                let size = size_of::<sys::postbox_info>() as u32;
                bytes(&sys::postbox_info {
                    size,
                    ..Default::default()
                })
                .to_vec()
            }
            "LIST" => {
                let info_size = size_of::<sys::postbox_info>() as u32;
                bytes(&sys::postbox_list {
                    size: 32,
                    count: 1,
                    infos: data,
                    info_size,
                    ..Default::default()
                })
                .to_vec()
            }
            "USAGE" => bytes(&sys::postbox_usage {
                size: self_size::<sys::postbox_usage>(),
                ..Default::default()
            })
            .to_vec(),
            "SEND" => bytes(&sys::postbox_send {
                flags: nonblock,
                data,
                len: 5,
                ..send_args()
            })
            .to_vec(),
            "RECV" => {
                self.mailbox.put("there is one");
                bytes(&sys::postbox_recv {
                    flags: nonblock,
                    data,
                    len: 100,
                    ..recv_args()
                })
                .to_vec()
            }
            "ACK" => bytes(&sys::postbox_ack {
                size: 16,
                token: u64::MAX,
                ..Default::default()
            })
            .to_vec(),
            "RESERVE" => bytes(&sys::postbox_reserve {
                size: 24,
                flags: nonblock,
                len: 1,
                ..Default::default()
            })
            .to_vec(),
            "SEND_BATCH" => {
                self.arena.put(
                    entry,
                    bytes(&sys::postbox_send {
                        data,
                        len: 5,
                        ..send_args()
                    }),
                );
                bytes(&sys::postbox_batch {
                    entry_size: size_of::<sys::postbox_send>() as u32,
                    ..batch
                })
                .to_vec()
            }
            "RECV_BATCH" => {
                self.mailbox.put("there is one");
                self.arena.put(
                    entry,
                    bytes(&sys::postbox_recv {
                        data,
                        len: 100,
                        ..recv_args()
                    }),
                );
                bytes(&sys::postbox_batch {
                    entry_size: size_of::<sys::postbox_recv>() as u32,
                    ..batch
                })
                .to_vec()
            }
            "CALL" => bytes(&sys::postbox_call {
                size: self_size::<sys::postbox_call>(),
                request: sys::postbox_send {
                    data,
                    len: 5,
                    ..send_args()
                },
                reply: sys::postbox_recv {
                    data,
                    len: 100,
                    ..recv_args()
                },
                ..Default::default()
            })
            .to_vec(),
            "REPLY" => bytes(&sys::postbox_reply {
                size: self_size::<sys::postbox_reply>(),
                token: u64::MAX,
                ..Default::default()
            })
            .to_vec(),
            "REPLY_RECV" => {
                self.mailbox.put("there is one");
                bytes(&sys::postbox_reply_recv {
                    size: self_size::<sys::postbox_reply_recv>(),
                    reply: sys::postbox_reply {
                        size: self_size::<sys::postbox_reply>(),
                        ..Default::default()
                    },
                    recv: sys::postbox_recv {
                        flags: nonblock,
                        data,
                        len: 100,
                        ..recv_args()
                    },
                    ..Default::default()
                })
                .to_vec()
            }
            "PAIR" => bytes(&sys::postbox_pair {
                size: self_size::<sys::postbox_pair>(),
                ..Default::default()
            })
            .to_vec(),
            "CONNECT" => {
                self.arena.put(data, self.name.as_bytes());
                bytes(&sys::postbox_connect {
                    size: self_size::<sys::postbox_connect>(),
                    flags: nonblock,
                    name: data,
                    name_len: self.name.len() as u32,
                    ..Default::default()
                })
                .to_vec()
            }
            "ACCEPT" => {
                if self.listener.info().messages == 0 {
                    drop(connect(&self.name));
                }
                bytes(&sys::postbox_accept {
                    size: self_size::<sys::postbox_accept>(),
                    flags: nonblock,
                    ..Default::default()
                })
                .to_vec()
            }
            "PEER" => bytes(&sys::postbox_peer {
                size: self_size::<sys::postbox_peer>(),
                ..Default::default()
            })
            .to_vec(),
            "WAIT_PEER" => bytes(&sys::postbox_wait_peer {
                size: self_size::<sys::postbox_wait_peer>(),
                flags: nonblock,
                ..Default::default()
            })
            .to_vec(),
            "SHUTDOWN" => bytes(&sys::postbox_shutdown {
                size: self_size::<sys::postbox_shutdown>(),
                how: sys::POSTBOX_SHUT_SEND,
            })
            .to_vec(),
            "READ" => {
                raw::write(&self.pipe, b"bytes", nonblock, 0).expect("there is room");
                bytes(&io).to_vec()
            }
            "WRITE" => bytes(&io).to_vec(),
            "SET_CAPACITY" => bytes(&sys::postbox_capacity {
                size: self_size::<sys::postbox_capacity>(),
                capacity: 8192,
                ..Default::default()
            })
            .to_vec(),
            "ACQUIRE" | "WAIT" => bytes(&waits).to_vec(),
            "LEAVE" => {
                self.barrier.join(1).expect("it has many parties");
                bytes(&sync).to_vec()
            }
            "RELEASE" | "COUNT_DOWN" | "JOIN" => bytes(&sync).to_vec(),
            "RING_ATTACH" => bytes(&sys::postbox_ring_attach {
                size: self_size::<sys::postbox_ring_attach>(),
                flags: sys::POSTBOX_RING_CONSUMER,
                ..Default::default()
            })
            .to_vec(),
            "RING_DETACH" | "RING_WAIT" | "RING_WAKE" => {
                let flags = match name {
                    "RING_DETACH" => {
                        // It may be one still.
                        let _ = raw::ring_attach(&self.ring.0, sys::POSTBOX_RING_PRODUCER);
                        sys::POSTBOX_RING_PRODUCER
                    }
                    "RING_WAIT" => sys::POSTBOX_RING_PRODUCER | nonblock,
                    _ => sys::POSTBOX_RING_CONSUMER,
                };
                bytes(&sys::postbox_ring {
                    size: self_size::<sys::postbox_ring>(),
                    flags,
                    ..Default::default()
                })
                .to_vec()
            }
            "LOAN" => bytes(&sys::postbox_loan {
                size: self_size::<sys::postbox_loan>(),
                flags: nonblock,
                loans: data,
                loan_max: 1,
                ..Default::default()
            })
            .to_vec(),
            "GRANT" | "REVOKE" => {
                let args = sys::postbox_grant {
                    size: self_size::<sys::postbox_grant>(),
                    who: sys::POSTBOX_GRANT_UID,
                    id: 4321,
                    rights: SEND,
                };
                if name == "GRANT" {
                    bytes(&args).to_vec()
                } else {
                    raw::grant(&self.granted, &args).expect("it has few");
                    bytes(&sys::postbox_grant { rights: 0, ..args }).to_vec()
                }
            }
            "ATTACH" => bytes(&sys::postbox_attach {
                size: self_size::<sys::postbox_attach>(),
                ..Default::default()
            })
            .to_vec(),
            // The word is another.
            "WAIT_WORD" => bytes(&sys::postbox_word {
                size: self_size::<sys::postbox_word>(),
                value: 5,
                ..Default::default()
            })
            .to_vec(),
            "WAKE_WORD" => bytes(&sys::postbox_word {
                size: self_size::<sys::postbox_word>(),
                count: 1,
                ..Default::default()
            })
            .to_vec(),
            other => panic!("no such request: {other}"),
        };
        (self.handle(name), argument)
    }

    /// What the request gives with a good argument.
    fn answer(name: &str) -> Result<()> {
        if matches!(name, "UNLINK" | "ACK" | "REPLY") {
            Err(Errno::NOENT)
        } else {
            Ok(())
        }
    }

    /// Closes the descriptor that the kernel wrote into an argument.
    fn close_new(&self, address: u64) {
        let fd = self.arena.get(address, 4).try_into().expect("four bytes");
        // SAFETY: the kernel just made this descriptor for the argument that was there.
        drop(unsafe { OwnedFd::from_raw_fd(i32::from_ne_bytes(fd)) });
    }

    /// Makes up for what a request that succeeded has done.
    fn undo(&mut self, name: &str, address: u64) {
        match name {
            "OPEN" => self.unbound = Handle::unbound(),
            "DUP" => self.close_new(address + offset_of!(sys::postbox_dup, fd) as u64),
            "PAIR" => {
                self.close_new(address + offset_of!(sys::postbox_pair, fd) as u64);
                self.unbound = Handle::unbound();
            }
            "ACCEPT" => self.close_new(address + offset_of!(sys::postbox_accept, fd) as u64),
            "CONNECT" => {
                self.unbound = Handle::unbound();
                while accept(&self.listener).is_ok() {}
            }
            "READ" | "WRITE" => while raw::read(&self.pipe, &mut [0; 4096], NEVER.0, 0).is_ok() {},
            "SET_CAPACITY" => {
                raw::set_capacity(&self.pipe, 65_536).expect("it was so large");
            }
            "ACQUIRE" => self.semaphore.release(1, 0).expect("it was there"),
            "RELEASE" => assert_eq!(self.semaphore.acquire(1, 0, NEVER), Ok(false)),
            "JOIN" => self.barrier.leave(1).expect("just joined"),
            "RING_ATTACH" => {
                let detached = raw::ring_detach(&self.ring.0, sys::POSTBOX_RING_CONSUMER);
                detached.expect("just attached");
            }
            "LOAN" => {
                let block = self.arena.get(self.arena.at + 2 * PAGE as u64, 4);
                let block = u32::from_ne_bytes(block.try_into().expect("four bytes"));
                self.pool.give_back(&[block]).expect("just borrowed");
            }
            _ => while self.mailbox.recv(NEVER).is_ok() {},
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("procfs is mounted")
        .count()
}

/// What must not change by a call that is refused.
fn state(handle: &Handle) -> [u64; 6] {
    let info = handle.info();
    [
        info.sent,
        info.received,
        info.unacknowledged,
        info.reserved_messages,
        info.mode.into(),
        info.senders.into(),
    ]
}

#[test]
fn g11_sizes() {
    isolated(|| {
        let mut good = Good::new();
        for (name, request, size) in REQUESTS {
            let at = good.arena.at;
            let call = |good: &mut Good, size: u32, tail: &[(usize, u8)]| {
                let (handle, mut argument) = good.argument(name);
                argument[..4].copy_from_slice(&size.to_ne_bytes());
                good.arena.put(at, &vec![0; 2 * PAGE]);
                good.arena.put(at, &argument);
                for (offset, byte) in tail {
                    good.arena.put(at + *offset as u64, &[*byte]);
                }
                let result = ioctl(handle, request, at);
                if result.is_ok() {
                    good.undo(name, at);
                }
                result
            };
            let refused = |result: Result<()>, what: u32| {
                assert!(
                    matches!(result, Err(Errno::INVAL | Errno::TOOBIG)),
                    "{name} with size {what}: {result:?}"
                );
            };
            let before = state(&good.mailbox);
            good.argument(name);
            let others = good.others();
            let oldest = oldest(name, size) as u32;
            for bad in [0, 1, 3, 4, 7, 8, oldest - 8, oldest - 1] {
                if bad < oldest {
                    assert_eq!(
                        call(&mut good, bad, &[]),
                        Err(Errno::INVAL),
                        "{name} with size {bad}"
                    );
                }
            }
            for bad in [PAGE as u32 + 1, 2 * PAGE as u32, i32::MAX as u32, u32::MAX] {
                refused(call(&mut good, bad, &[]), bad);
            }
            for newer in [size + 1, size + 8, 512, PAGE] {
                for offset in [size, newer - 1] {
                    let result = call(&mut good, newer as u32, &[(offset, 1)]);
                    assert_eq!(
                        result,
                        Err(Errno::TOOBIG),
                        "{name}: size {newer}, byte {offset} is set"
                    );
                }
            }
            // (The arguments themselves put messages there, to receive.)
            assert_eq!(
                state(&good.mailbox)[1..],
                before[1..],
                "{name} did something though it was refused"
            );
            if !matches!(name, "RECV" | "RECV_BATCH" | "REPLY_RECV" | "READ") {
                assert_eq!(good.others(), others, "{name} did something");
            }
            assert_eq!(
                call(&mut good, size as u32, &[]),
                Good::answer(name),
                "{name} with its size"
            );
            for newer in [size + 1, size + 8, 512, PAGE] {
                assert_eq!(
                    call(&mut good, newer as u32, &[]),
                    Good::answer(name),
                    "{name} with size {newer}"
                );
                // What is behind the struct is not looked at.
                assert_eq!(
                    call(&mut good, newer as u32, &[(newer, 1)]),
                    Good::answer(name),
                    "{name}: {newer}, behind"
                );
            }
        }
    });
}

#[test]
fn g11_pointers_to_the_argument() {
    isolated(|| {
        let mut good = Good::new();
        for (name, request, size) in REQUESTS {
            let (handle, argument) = good.argument(name);
            let (before, others) = (state(&good.mailbox), good.others());
            let end = good.arena.end();
            for address in [
                0,
                1,
                8,
                0x1000,
                end,
                end + 8,
                1 << 47,
                0xffff_8880_0000_0000,
                u64::MAX - 7,
                u64::MAX,
            ] {
                assert_eq!(
                    ioctl(handle, request, address),
                    Err(Errno::FAULT),
                    "{name} at {address:#x}"
                );
            }
            // The size is there, or a part of it, and the rest is not.
            for here in [1, 3, 4, 8, size - 1].into_iter().filter(|n| *n < size) {
                let address = end - here as u64;
                good.arena.put(address, &argument[..here]);
                assert_eq!(
                    ioctl(handle, request, address),
                    Err(Errno::FAULT),
                    "{name}, {here} bytes of it"
                );
            }
            assert_eq!(state(&good.mailbox), before, "{name} did something");
            assert_eq!(good.others(), others, "{name} did something");
            // Where it ends is not looked beyond, and how it is aligned does not matter.
            for address in [end - size as u64, good.arena.at + 1, good.arena.at + 7] {
                let (handle, argument) = good.argument(name);
                good.arena.put(address, &argument);
                let result = ioctl(handle, request, address);
                assert_eq!(result, Good::answer(name), "{name} at {address:#x}");
                if result.is_ok() {
                    good.undo(name, address);
                }
            }
        }
    });
}

#[test]
fn g11_arguments_that_cannot_be_written_back() {
    isolated(|| {
        let good = Good::new();
        let at = good.arena.at;
        let protect = |protection: i32| {
            // SAFETY: the first page of the arena, which the tests reach by system calls and copies only.
            check("mprotect", unsafe {
                libc::mprotect(at as *mut _, PAGE, protection)
            });
        };
        for (name, request, _) in REQUESTS {
            // These tell something, so that they must not succeed without having told it.
            let tells = !matches!(
                name,
                "UNLINK"
                    | "SET_ATTR"
                    | "SEND"
                    | "ACK"
                    | "RESERVE"
                    | "REPLY"
                    | "WAIT_PEER"
                    | "SHUTDOWN"
                    | "GRANT"
                    | "REVOKE"
                    | "WAKE_WORD"
                    | "RING_DETACH"
                    | "RING_WAIT"
                    | "RING_WAKE"
            ) && !matches!(
                name,
                // These, only what is not the usual.
                "ACQUIRE" | "RELEASE" | "COUNT_DOWN" | "WAIT" | "JOIN" | "LEAVE" | "WAIT_WORD"
            );
            let (handle, argument) = good.argument(name);
            good.arena.put(at, &argument);
            let fds = descriptors();
            let (before, others) = (state(&good.mailbox), good.others());
            protect(libc::PROT_READ);
            let result = ioctl(handle, request, at);
            protect(libc::PROT_READ | libc::PROT_WRITE);
            if tells {
                assert_eq!(result, Err(Errno::FAULT), "{name}");
                assert_eq!(
                    state(&good.mailbox),
                    before,
                    "{name} did something and then failed"
                );
                assert_eq!(good.others(), others, "{name} did something and failed");
            } else {
                assert_eq!(result, Good::answer(name), "{name}");
            }
            assert_eq!(descriptors(), fds, "{name}: a descriptor");
            if matches!(name, "OPEN" | "PAIR" | "CONNECT") {
                assert_eq!(
                    postbox::raw::info(handle).map(drop),
                    Err(Errno::BADFD),
                    "it is not bound"
                );
            }
        }
    });
}

#[test]
fn g11_pointers_in_the_argument() {
    isolated(|| {
        let good = Good::new();
        let (at, end) = (good.arena.at, good.arena.end());
        let call = |handle: &Handle, request: u32, argument: &[u8]| {
            good.arena.put(at, argument);
            ioctl(handle, request, at)
        };
        let before = state(&good.mailbox);
        for pointer in [
            0,
            8,
            end,
            end - 3,
            1 << 47,
            0xffff_8880_0000_0000,
            u64::MAX - 3,
            u64::MAX,
        ] {
            let name = sys::postbox_open {
                size: size_of::<sys::postbox_open>() as u32,
                kind: sys::POSTBOX_KIND_MAILBOX,
                flags: sys::POSTBOX_O_CREATE,
                rights: SEND,
                name: pointer,
                name_len: 10,
                ..Default::default()
            };
            // Without a pointer there is no name, and then it has no length either.
            let expected = if pointer == 0 {
                Errno::INVAL
            } else {
                Errno::FAULT
            };
            assert_eq!(
                call(&good.unbound, sys::POSTBOX_OPEN, bytes(&name)),
                Err(expected),
                "{pointer:#x}"
            );
            let unlink = sys::postbox_unlink {
                size: 16,
                name_len: 10,
                name: pointer,
            };
            let result = call(&good.unbound, sys::POSTBOX_UNLINK, bytes(&unlink));
            assert!(
                result == Err(Errno::FAULT) || pointer == 0 && result == Err(expected),
                "{pointer:#x}: {result:?}"
            );
            let send = sys::postbox_send {
                data: pointer,
                len: 10,
                flags: NEVER.0,
                ..send_args()
            };
            assert_eq!(
                call(&good.mailbox, sys::POSTBOX_SEND, bytes(&send)),
                Err(Errno::FAULT),
                "{pointer:#x}"
            );
            let send = sys::postbox_send {
                data: pointer,
                len: 5000,
                flags: NEVER.0,
                ..send_args()
            };
            assert_eq!(
                call(&good.mailbox, sys::POSTBOX_SEND, bytes(&send)),
                Err(Errno::FAULT),
                "{pointer:#x}"
            );
            for (request, entry_size) in [
                (sys::POSTBOX_SEND_BATCH, size_of::<sys::postbox_send>()),
                (sys::POSTBOX_RECV_BATCH, size_of::<sys::postbox_recv>()),
            ] {
                let batch = sys::postbox_batch {
                    size: size_of::<sys::postbox_batch>() as u32,
                    flags: NEVER.0,
                    entries: pointer,
                    count: 3,
                    entry_size: entry_size as u32,
                    timeout_ns: 0,
                };
                assert_eq!(
                    call(&good.mailbox, request, bytes(&batch)),
                    Err(Errno::FAULT),
                    "{pointer:#x}"
                );
            }
            let _listed = Handle::create(&unique("hostile"), 1);
            let list = sys::postbox_list {
                size: size_of::<sys::postbox_list>() as u32,
                count: 10,
                infos: pointer,
                info_size: size_of::<sys::postbox_info>() as u32,
                ..Default::default()
            };
            assert_eq!(
                call(&good.unbound, sys::POSTBOX_LIST, bytes(&list)),
                Err(Errno::FAULT),
                "{pointer:#x}"
            );
        }
        assert_eq!(state(&good.mailbox), before);
        // A batch of which only the beginning is there does the beginning.
        let entry = sys::postbox_send {
            data: at + PAGE as u64,
            len: 3,
            ..send_args()
        };
        let size = size_of::<sys::postbox_send>() as u64;
        good.arena
            .put(end - 2 * size, &[bytes(&entry), bytes(&entry)].concat());
        let batch = sys::postbox_batch {
            size: size_of::<sys::postbox_batch>() as u32,
            flags: NEVER.0,
            entries: end - 2 * size,
            count: 5,
            entry_size: size as u32,
            timeout_ns: 0,
        };
        assert_eq!(
            call(&good.mailbox, sys::POSTBOX_SEND_BATCH, bytes(&batch)),
            Ok(())
        );
        assert_eq!(good.arena.get(at + 16, 4), 2u32.to_ne_bytes());
        assert_eq!(good.mailbox.info().messages, 2);
    });
}

/// Whether these flags say how to wait in a way that has a meaning.
fn good_wait(flags: u32) -> bool {
    const WAIT: u32 = sys::POSTBOX_NONBLOCK
        | sys::POSTBOX_TIMEOUT
        | sys::POSTBOX_DEADLINE
        | sys::POSTBOX_REALTIME;
    const REALTIME: u32 = sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME;
    matches!(
        flags & WAIT,
        0 | sys::POSTBOX_NONBLOCK | sys::POSTBOX_TIMEOUT | sys::POSTBOX_DEADLINE | REALTIME
    )
}

#[test]
fn g11_flags() {
    isolated(|| {
        let good = Good::new();
        let mailbox = &good.mailbox;
        let (at, data, entry) = (
            good.arena.at,
            good.arena.at + PAGE as u64,
            good.arena.at + 2 * PAGE as u64,
        );
        let call = |handle: &Handle, request: u32, argument: &[u8]| {
            good.arena.put(at, argument);
            ioctl(handle, request, at)
        };
        // All combinations of what is defined, or near it, and each of the rest on its own.
        let low = (0..0x400)
            .chain((10..32).map(|bit| 1 << bit))
            .chain((10..32).map(|bit| 1 << bit | 1));
        for flags in low {
            let expect = |result: Result<()>, good: bool, what: &str| {
                let expected = match result {
                    // Without a process, or a port's number.
                    Err(Errno::SRCH) => flags & sys::POSTBOX_RECV_FROM != 0 && good,
                    // Nothing says which leases.
                    Err(Errno::FAULT) => flags & sys::POSTBOX_LEASES != 0 && good,
                    Ok(()) | Err(Errno::NOENT) => good,
                    Err(Errno::INVAL) => !good,
                    _ => false,
                };
                assert!(expected, "{what} with flags {flags:#x}: {result:?}");
            };
            let defined = |special: u32| flags & !(0xf | special) == 0 && good_wait(flags);
            // Something is always there, and there is always room: no call has to wait.
            mailbox.put("x");
            mailbox.put("x");
            let reserved = flags & sys::POSTBOX_SEND_RESERVED != 0;
            if reserved && defined(sys::POSTBOX_SEND_RESERVED) {
                mailbox.reserve(5, NEVER).expect("there is always room");
            }
            let reserved_len = if reserved { 5 } else { 0 };
            let send = sys::postbox_send {
                data,
                len: 5,
                flags,
                reserved_len,
                ..send_args()
            };
            expect(
                call(mailbox, sys::POSTBOX_SEND, bytes(&send)),
                defined(sys::POSTBOX_SEND_RESERVED | sys::POSTBOX_LEASES),
                "SEND",
            );
            let recv = sys::postbox_recv {
                data,
                len: 100,
                flags,
                ..recv_args()
            };
            expect(
                call(mailbox, sys::POSTBOX_RECV, bytes(&recv)),
                defined(sys::POSTBOX_RECV_ACK | sys::POSTBOX_LEASES)
                    || defined(sys::POSTBOX_RECV_FROM | sys::POSTBOX_LEASES)
                        && flags & sys::POSTBOX_RECV_ACK == 0,
                "RECV",
            );
            let cancel = flags & sys::POSTBOX_RESERVE_CANCEL != 0;
            let good_reserve = if cancel {
                flags == sys::POSTBOX_RESERVE_CANCEL
            } else {
                defined(0)
            };
            if cancel && good_reserve {
                mailbox.reserve(1, NEVER).expect("there is always room");
            }
            let reserve = sys::postbox_reserve {
                size: 24,
                flags,
                len: 1,
                ..Default::default()
            };
            expect(
                call(mailbox, sys::POSTBOX_RESERVE, bytes(&reserve)),
                good_reserve,
                "RESERVE",
            );
            if good_reserve && !cancel {
                mailbox.cancel(1).expect("just reserved");
            }
            let mut batch = sys::postbox_batch {
                size: size_of::<sys::postbox_batch>() as u32,
                flags,
                entries: entry,
                count: 1,
                entry_size: size_of::<sys::postbox_send>() as u32,
                timeout_ns: 0,
            };
            good.arena.put(
                entry,
                bytes(&sys::postbox_send {
                    data,
                    len: 5,
                    ..send_args()
                }),
            );
            expect(
                call(mailbox, sys::POSTBOX_SEND_BATCH, bytes(&batch)),
                defined(0),
                "SEND_BATCH",
            );
            batch.entry_size = size_of::<sys::postbox_recv>() as u32;
            good.arena.put(
                entry,
                bytes(&sys::postbox_recv {
                    data,
                    len: 100,
                    ..recv_args()
                }),
            );
            expect(
                call(mailbox, sys::POSTBOX_RECV_BATCH, bytes(&batch)),
                defined(sys::POSTBOX_RECV_ACK),
                "RECV_BATCH",
            );
            let ack = sys::postbox_ack {
                size: 16,
                flags,
                token: u64::MAX,
            };
            expect(
                call(mailbox, sys::POSTBOX_ACK, bytes(&ack)),
                flags & !sys::POSTBOX_ACK_REQUEUE == 0,
                "ACK",
            );
            let attr = sys::postbox_attr {
                size: 24,
                valid: flags,
                ..Default::default()
            };
            expect(
                call(mailbox, sys::POSTBOX_SET_ATTR, bytes(&attr)),
                flags < 8,
                "SET_ATTR",
            );
            let open = |flags: u32, rights: u32| sys::postbox_open {
                size: size_of::<sys::postbox_open>() as u32,
                kind: sys::POSTBOX_KIND_MAILBOX,
                flags,
                rights,
                ..Default::default()
            };
            let (create, excl) = (sys::POSTBOX_O_CREATE, sys::POSTBOX_O_EXCL);
            // Without a name: nothing to find, and nothing to persist under.
            let result = call(
                &Handle::unbound(),
                sys::POSTBOX_OPEN,
                bytes(&open(flags, SEND)),
            );
            expect(result, flags == create || flags == create | excl, "OPEN");
            let rights = flags;
            let result = call(
                &Handle::unbound(),
                sys::POSTBOX_OPEN,
                bytes(&open(create, rights)),
            );
            expect(
                result,
                rights != 0 && rights & !(SEND | RECEIVE | ADMIN) == 0,
                "OPEN (rights)",
            );
            // What this round left is gone with the next one.
            while mailbox.recv(NEVER).is_ok() {}
        }
    });
}

#[test]
fn g11_times_without_a_meaning() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        mailbox.put("x");
        for wait in [
            Wait(0, 1),
            Wait(sys::POSTBOX_NONBLOCK, 1),
            Wait(0, u64::MAX),
        ] {
            assert_eq!(mailbox.send("y", wait), Err(Errno::INVAL));
            assert_eq!(mailbox.recv(wait), Err(Errno::INVAL));
            assert_eq!(mailbox.take(wait), Err(Errno::INVAL));
            assert_eq!(mailbox.reserve(1, wait), Err(Errno::INVAL));
            let entry = [postbox::raw::SendEntry::new(b"y", 0)];
            assert_eq!(
                postbox::raw::send_batch(&mailbox, &entry, wait.0, wait.1),
                Err(Errno::INVAL)
            );
        }
        let cancel = sys::postbox_reserve {
            flags: sys::POSTBOX_RESERVE_CANCEL,
            timeout_ns: 1,
            ..Default::default()
        };
        assert_eq!(postbox::raw::reserve(&mailbox, &cancel), Err(Errno::INVAL));
        let unused = sys::postbox_send {
            flags: NEVER.0,
            reserved_len: 1,
            ..Default::default()
        };
        assert_eq!(
            postbox::raw::send(&mailbox, b"y", &unused),
            Err(Errno::INVAL)
        );
        assert_eq!((mailbox.info().sent, mailbox.info().received), (1, 0));
    });
}

#[test]
fn g11_reserved_fields_and_values_out_of_range() {
    isolated(|| {
        let good = Good::new();
        let (at, data, entry) = (
            good.arena.at,
            good.arena.at + PAGE as u64,
            good.arena.at + 2 * PAGE as u64,
        );
        let call = |handle: &Handle, request: u32, argument: &[u8]| {
            good.arena.put(at, argument);
            ioctl(handle, request, at)
        };
        let (bad, mailbox, unbound) = (Err(Errno::INVAL), &good.mailbox, &good.unbound);
        for reserved in [1, 1 << 31, u32::MAX] {
            let version = sys::postbox_version {
                size: 32,
                reserved,
                ..Default::default()
            };
            assert_eq!(call(mailbox, sys::POSTBOX_VERSION, bytes(&version)), bad);
            let dup = sys::postbox_dup {
                size: 16,
                rights: SEND,
                reserved,
                ..Default::default()
            };
            assert_eq!(call(mailbox, sys::POSTBOX_DUP, bytes(&dup)), bad);
            let attr = sys::postbox_attr {
                size: 24,
                reserved,
                ..Default::default()
            };
            assert_eq!(call(mailbox, sys::POSTBOX_SET_ATTR, bytes(&attr)), bad);
            let list = sys::postbox_list {
                size: 32,
                info_size: self_size::<sys::postbox_info>(),
                flags: reserved & !sys::POSTBOX_LIST_ALL | 2,
                ..Default::default()
            };
            assert_eq!(call(mailbox, sys::POSTBOX_LIST, bytes(&list)), bad);
            let send = sys::postbox_send {
                data,
                len: 1,
                flags: NEVER.0,
                reserved_len: reserved.into(),
                ..send_args()
            };
            assert_eq!(call(mailbox, sys::POSTBOX_SEND, bytes(&send)), bad);
        }
        let open = sys::postbox_open {
            size: size_of::<sys::postbox_open>() as u32,
            kind: sys::POSTBOX_KIND_MAILBOX,
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND,
            ..Default::default()
        };
        for (args, expected) in [
            (sys::postbox_open { memfd: 1, ..open }, bad),
            (
                sys::postbox_open {
                    mode: 0o1000,
                    ..open
                },
                bad,
            ),
            (
                sys::postbox_open {
                    mode: u32::MAX,
                    ..open
                },
                bad,
            ),
            (
                sys::postbox_open {
                    name_len: 1,
                    ..open
                },
                bad,
            ),
            (
                sys::postbox_open {
                    name_len: 64,
                    name: data,
                    ..open
                },
                Err(Errno::NAMETOOLONG),
            ),
            (
                sys::postbox_open {
                    name_len: u32::MAX,
                    name: data,
                    ..open
                },
                Err(Errno::NAMETOOLONG),
            ),
            (
                sys::postbox_open {
                    name_len: 0,
                    name: data,
                    ..open
                },
                bad,
            ),
            (sys::postbox_open { kind: 0, ..open }, Err(Errno::OPNOTSUPP)),
            (sys::postbox_open { kind: 2, ..open }, Err(Errno::OPNOTSUPP)),
            (
                sys::postbox_open { kind: 12, ..open },
                Err(Errno::OPNOTSUPP),
            ),
            (
                sys::postbox_open {
                    kind: u32::MAX,
                    ..open
                },
                Err(Errno::OPNOTSUPP),
            ),
        ] {
            assert_eq!(
                call(unbound, sys::POSTBOX_OPEN, bytes(&args)),
                expected,
                "{args:?}"
            );
        }
        assert_eq!(postbox::raw::info(unbound).map(drop), Err(Errno::BADFD));
        for info_size in [
            0,
            4,
            oldest("INFO", 0) as u32 - 1,
            PAGE as u32 + 1,
            u32::MAX,
        ] {
            let list = sys::postbox_list {
                size: 32,
                count: 1,
                infos: data,
                info_size,
                ..Default::default()
            };
            assert_eq!(
                call(unbound, sys::POSTBOX_LIST, bytes(&list)),
                bad,
                "entries of {info_size} bytes"
            );
        }
        for (request, entry_bytes) in [
            (
                sys::POSTBOX_SEND_BATCH,
                bytes(&sys::postbox_send {
                    data,
                    len: 1,
                    ..send_args()
                })
                .to_vec(),
            ),
            (
                sys::POSTBOX_RECV_BATCH,
                bytes(&sys::postbox_recv {
                    data,
                    len: 9,
                    ..recv_args()
                })
                .to_vec(),
            ),
        ] {
            let batch = sys::postbox_batch {
                size: size_of::<sys::postbox_batch>() as u32,
                flags: NEVER.0,
                entries: entry,
                count: 1,
                entry_size: entry_bytes.len() as u32,
                timeout_ns: 0,
            };
            good.arena.put(entry, &entry_bytes);
            let max = postbox::raw::version(unbound).expect("it tells").batch_max;
            for count in [0, max + 1, i32::MAX as u32, u32::MAX] {
                let args = sys::postbox_batch { count, ..batch };
                assert_eq!(call(mailbox, request, bytes(&args)), bad, "{count} entries");
            }
            for entry_size in [
                0,
                4,
                8,
                batch.entry_size - 8,
                batch.entry_size + 8,
                PAGE as u32 + 1,
                u32::MAX,
            ] {
                let args = sys::postbox_batch {
                    entry_size,
                    ..batch
                };
                assert_eq!(
                    call(mailbox, request, bytes(&args)),
                    bad,
                    "entries of {entry_size} bytes"
                );
            }
            // An entry has its own size, which must be the batch's, and says nothing of waiting.
            for (offset, value) in [(0, 8u32), (4, sys::POSTBOX_NONBLOCK), (4, 1 << 31), (24, 1)] {
                let mut wrong = entry_bytes.clone();
                wrong[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
                good.arena.put(entry, &wrong);
                assert_eq!(
                    call(mailbox, request, bytes(&batch)),
                    bad,
                    "offset {offset}: {value:#x}"
                );
            }
        }
        assert_eq!((mailbox.info().sent, mailbox.info().senders), (0, 1));
    });
}

/// A persistent object, whose name goes with it.
struct Persistent(Handle, String);

impl Drop for Persistent {
    fn drop(&mut self) {
        // Another request may have taken it away.
        let _ = unlink(&self.1);
    }
}

/// A ring for one producer that is never over.
fn ring() -> Persistent {
    let name = unique("ring");
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_RING,
        flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
        rights: SEND | RECEIVE,
        mode: 0o600,
        ..Default::default()
    };
    raw::open(&handle, Some(name.as_bytes()), &mut args).expect("new");
    Persistent(handle, name)
}

/// One of each kind, with both rights, and what it is.
fn kinds(good: &Good) -> [(&'static str, Handle); 11] {
    let both = |handle: &Handle| handle.dup(SEND | RECEIVE).expect("it has them");
    [
        ("mailbox", both(&good.mailbox)),
        ("endpoint", endpoint()),
        ("link", both(&good.link.0)),
        ("listener", both(&good.listener)),
        ("pipe", both(&good.pipe)),
        ("semaphore", both(&good.semaphore)),
        ("latch", both(&good.open_latch)),
        ("barrier", both(&good.barrier)),
        ("pool", both(&good.pool)),
        ("segment", both(&good.segment)),
        ("ring", both(&good.ring.0)),
    ]
}

/// The kinds of which a request can be asked.
fn able(name: &str) -> &'static [&'static str] {
    match name {
        "SEND" | "RECV" | "ACK" | "RESERVE" | "SEND_BATCH" | "RECV_BATCH" | "CALL" | "REPLY"
        | "REPLY_RECV" => &["mailbox", "endpoint", "link"],
        "PEER" | "SHUTDOWN" => &["link"],
        "ACCEPT" => &["listener"],
        "WAIT_PEER" => &["mailbox", "endpoint", "link", "pipe"],
        "READ" | "WRITE" | "SET_CAPACITY" => &["pipe"],
        "ACQUIRE" | "RELEASE" => &["semaphore"],
        "COUNT_DOWN" => &["latch"],
        "WAIT" | "JOIN" | "LEAVE" => &["latch", "barrier"],
        "LOAN" => &["pool"],
        "RING_ATTACH" | "RING_DETACH" | "RING_WAIT" | "RING_WAKE" => &["ring"],
        "ATTACH" | "WAIT_WORD" | "WAKE_WORD" => &["segment"],
        other => panic!("{other} can be asked of all, or of none"),
    }
}

#[test]
fn g11_every_request_to_every_kind_of_object() {
    isolated(|| {
        let good = Good::new();
        let at = good.arena.at;
        let kinds = kinds(&good);
        for (name, request, _) in REQUESTS {
            let argument = good.argument(name).1;
            let call = |handle: &Handle| {
                good.arena.put(at, &argument);
                ioctl(handle, request, at)
            };
            let others = good.others();
            match name {
                // They work on every handle.
                "VERSION" | "UNLINK" | "LIST" | "USAGE" => {
                    for (kind, handle) in &kinds {
                        assert_eq!(call(handle), Good::answer(name), "{name}, {kind}");
                    }
                    assert_eq!(call(&good.unbound), Good::answer(name), "{name}, unbound");
                    continue;
                }
                "OPEN" | "PAIR" | "CONNECT" => {
                    for (kind, handle) in &kinds {
                        assert_eq!(call(handle), Err(Errno::ISCONN), "{name}, {kind}");
                    }
                }
                // They are for all that are bound.
                "INFO" | "DUP" | "SET_ATTR" | "GRANT" | "REVOKE" => {
                    assert_eq!(call(&good.unbound), Err(Errno::BADFD), "{name}, unbound");
                }
                _ => {
                    assert_eq!(call(&good.unbound), Err(Errno::BADFD), "{name}, unbound");
                    for (kind, handle) in &kinds {
                        if !able(name).contains(kind) {
                            let result = call(handle);
                            assert_eq!(result, Err(Errno::OPNOTSUPP), "{name}, {kind}");
                        }
                    }
                }
            }
            assert_eq!(good.others(), others, "{name} did something");
        }
        for (kind, handle) in &kinds {
            if !["mailbox", "endpoint", "link", "pipe"].contains(kind) {
                let read = rustix::io::read(handle, &mut [0; 9]);
                assert_eq!(read, Err(Errno::OPNOTSUPP), "{kind}");
                let written = rustix::io::write(handle, b"x");
                assert_eq!(written, Err(Errno::OPNOTSUPP), "{kind}");
            }
        }
    });
}

#[test]
fn g11_requests_without_the_right_to_them() {
    isolated(|| {
        let good = Good::new();
        let at = good.arena.at;
        let kinds = kinds(&good);
        for (name, request, _) in REQUESTS {
            // Which right each kind asks for.
            let needed = |kind: &str| match (name, kind) {
                ("RECV" | "ACK" | "RECV_BATCH" | "REPLY" | "REPLY_RECV" | "READ", _) => RECEIVE,
                ("ACCEPT" | "ACQUIRE" | "RING_ATTACH", _) | ("WAIT", "latch") => RECEIVE,
                _ => SEND,
            };
            if matches!(
                name,
                "VERSION" | "OPEN" | "DUP" | "UNLINK" | "SET_ATTR" | "INFO" | "LIST" | "USAGE"
            ) || matches!(
                name,
                "PAIR" | "CONNECT" | "PEER" | "WAIT_PEER" | "GRANT" | "REVOKE"
            ) {
                continue;
            }
            let argument = good.argument(name).1;
            let others = good.others();
            for (kind, handle) in kinds.iter().filter(|(kind, _)| able(name).contains(kind)) {
                let other = handle
                    .dup((SEND | RECEIVE) & !needed(kind))
                    .expect("a part");
                good.arena.put(at, &argument);
                let result = ioctl(&other, request, at);
                assert_eq!(result, Err(Errno::ACCESS), "{name}, {kind}");
            }
            assert_eq!(good.others(), others, "{name} did something");
        }
        for (kind, handle) in &kinds {
            let attr = sys::postbox_attr {
                valid: sys::POSTBOX_ATTR_MODE,
                mode: 0o777,
                ..Default::default()
            };
            assert_eq!(raw::set_attr(handle, &attr), Err(Errno::ACCESS), "{kind}");
            let grant = sys::postbox_grant {
                who: sys::POSTBOX_GRANT_UID,
                rights: SEND,
                ..Default::default()
            };
            assert_eq!(raw::grant(handle, &grant), Err(Errno::ACCESS), "{kind}");
        }
        let (first, _second) = link();
        let receiver = first.dup(RECEIVE).expect("it has it");
        for how in [1, 3] {
            assert_eq!(raw::shutdown(&receiver, how), Err(Errno::ACCESS));
        }
    });
}

#[test]
fn g11_flags_of_calls_links_pipes_and_wait_objects() {
    isolated(|| {
        let mut good = Good::new();
        let at = good.arena.at;
        let barrier = Handle::barrier(1 << 20);
        let low = (0..0x400)
            .chain((10..32).map(|bit| 1 << bit))
            .chain((10..32).map(|bit| 1 << bit | 1));
        for flags in low {
            let defined = |special: u32| flags & !(0xf | special) == 0 && good_wait(flags);
            let undo = sys::POSTBOX_SYNC_UNDO;
            // The request, where its flags are, and whether these mean something.
            let one_way = sys::POSTBOX_O_NO_BACK | sys::POSTBOX_O_NO_FORWARD;
            let in_call = offset_of!(sys::postbox_call, request) + 4;
            let in_reply = offset_of!(sys::postbox_reply_recv, reply) + 4;
            let in_recv = offset_of!(sys::postbox_reply_recv, recv) + 4;
            let how = defined(0);
            let recv = defined(sys::POSTBOX_RECV_ACK)
                || defined(sys::POSTBOX_RECV_FROM) && flags & sys::POSTBOX_RECV_ACK == 0;
            for (name, offset, good_flags) in [
                ("CALL", in_call, how && flags & sys::POSTBOX_NONBLOCK == 0),
                ("REPLY", 4, matches!(flags, 0 | 0x100 | 0x200)),
                ("REPLY_RECV", in_reply, matches!(flags, 0 | 0x100)),
                ("REPLY_RECV", in_recv, recv),
                ("PAIR", 4, flags & !one_way == 0 && flags != one_way),
                ("ACCEPT", 4, how),
                ("CONNECT", 4, how),
                ("WAIT_PEER", 4, how),
                ("SHUTDOWN", 4, matches!(flags, 1..=3)),
                ("READ", 4, how),
                ("WRITE", 4, how),
                ("ACQUIRE", 4, defined(undo)),
                ("RELEASE", 4, flags & !undo == 0),
                ("COUNT_DOWN", 4, flags == 0),
                ("WAIT", 4, how),
                ("JOIN", 4, flags == 0),
                ("LEAVE", 4, flags == 0),
            ] {
                if name == "CALL" && flags & sys::POSTBOX_DEADLINE != 0 && good_flags {
                    // The time is over before it can be answered.
                    continue;
                }
                if name == "RELEASE" && flags == undo {
                    good.semaphore.acquire(1, undo, NEVER).expect("it is there");
                }
                let (handle, mut argument) = good.argument(name);
                argument[offset..offset + 4].copy_from_slice(&flags.to_ne_bytes());
                if name == "REPLY_RECV" && offset == in_reply {
                    // A reply that there is, as it is looked at only then.
                    let token = offset_of!(sys::postbox_reply_recv, reply)
                        + offset_of!(sys::postbox_reply, token);
                    argument[token..token + 8].fill(0xff);
                }
                if name == "CALL" && flags & sys::POSTBOX_TIMEOUT != 0 {
                    let time = offset_of!(sys::postbox_call, request)
                        + offset_of!(sys::postbox_send, timeout_ns);
                    argument[time..time + 8].copy_from_slice(&60_000_000_000u64.to_ne_bytes());
                }
                good.arena.put(at, &argument);
                let result = ioctl(handle, number(name), at);
                let expected = match result {
                    Ok(()) | Err(Errno::NOENT) => good_flags,
                    Err(Errno::SRCH) => name == "REPLY_RECV" && good_flags,
                    // Nothing says which leases.
                    Err(Errno::FAULT) => flags & sys::POSTBOX_LEASES != 0,
                    Err(Errno::INVAL) => !good_flags,
                    _ => false,
                };
                assert!(expected, "{name} with flags {flags:#x}: {result:?}");
                if result.is_ok() {
                    good.undo(name, at);
                }
            }
            // What has flags in another place, or more than one meaning.
            let mut call: sys::postbox_call = sys::postbox_call {
                size: self_size::<sys::postbox_call>(),
                request: send_args(),
                reply: recv_args(),
                ..Default::default()
            };
            call.reply.flags = flags;
            good.arena.put(at, bytes(&call));
            let expected = match flags {
                0 => Ok(()),
                sys::POSTBOX_CALL_FETCH => Err(Errno::NOENT),
                // Where they are is not said.
                sys::POSTBOX_LEASES => Err(Errno::FAULT),
                _ => Err(Errno::INVAL),
            };
            assert_eq!(
                ioctl(&good.calls, sys::POSTBOX_CALL, at),
                expected,
                "{flags:#x}"
            );
            // A barrier that is not full: every wait ends at once, or is wrong.
            if flags & sys::POSTBOX_NONBLOCK != 0 || !good_wait(flags) {
                let args = sys::postbox_sync {
                    flags,
                    count: 1,
                    ..Default::default()
                };
                let expected = if how { Errno::AGAIN } else { Errno::INVAL };
                assert_eq!(raw::wait(&barrier, &args), Err(expected), "{flags:#x}");
            }
        }
        assert_eq!(barrier.value(), 0);
    });
}

#[test]
fn g11_values_without_a_meaning_in_calls_links_pipes_and_wait_objects() {
    isolated(|| {
        let good = Good::new();
        let at = good.arena.at;
        // One field at a time is wrong: where it is, what is in it, and the answer to that.
        macro_rules! field {
            ($args:ident, $field:ident) => {
                offset_of!(sys::$args, $field)
            };
            ($args:ident, $outer:ident, $inner:ident, $field:ident) => {
                offset_of!(sys::$args, $outer) + offset_of!(sys::$inner, $field)
            };
        }
        let inval = Errno::INVAL;
        let request = |field| offset_of!(sys::postbox_call, request) + field;
        let reply = |field| offset_of!(sys::postbox_call, reply) + field;
        let answer = |field| offset_of!(sys::postbox_reply_recv, reply) + field;
        let recv = |field| offset_of!(sys::postbox_reply_recv, recv) + field;
        let (send_size, recv_size) = (
            self_size::<sys::postbox_send>(),
            self_size::<sys::postbox_recv>(),
        );
        let reply_size = self_size::<sys::postbox_reply>();
        let mut wrong: Vec<(&str, usize, u64, Errno)> = Vec::new();
        for value in [1, 1 << 31, u64::from(u32::MAX)] {
            for (name, offset) in [
                ("CALL", field!(postbox_call, reserved)),
                ("REPLY", field!(postbox_reply, reserved)),
                ("REPLY_RECV", field!(postbox_reply_recv, reserved)),
                ("PAIR", field!(postbox_pair, reserved)),
                ("ACCEPT", field!(postbox_accept, reserved)),
                ("PEER", field!(postbox_peer, reserved)),
                ("SET_CAPACITY", field!(postbox_capacity, reserved)),
            ] {
                wrong.push((name, offset, value, inval));
            }
            for name in ["ACQUIRE", "RELEASE", "COUNT_DOWN", "WAIT", "JOIN", "LEAVE"] {
                wrong.push((name, field!(postbox_sync, reserved), value, inval));
                // A time, and no flag for it.
                wrong.push((name, field!(postbox_sync, timeout_ns), value, inval));
            }
            for (name, offset) in [
                ("ACCEPT", field!(postbox_accept, timeout_ns)),
                ("CONNECT", field!(postbox_connect, timeout_ns)),
                ("WAIT_PEER", field!(postbox_wait_peer, timeout_ns)),
                ("READ", field!(postbox_io, timeout_ns)),
                ("WRITE", field!(postbox_io, timeout_ns)),
                ("CALL", request(field!(postbox_send, timeout_ns))),
                ("CALL", request(field!(postbox_send, reserved_len))),
                ("CALL", reply(field!(postbox_recv, timeout_ns))),
                ("REPLY_RECV", recv(field!(postbox_recv, timeout_ns))),
            ] {
                wrong.push((name, offset, value, inval));
            }
        }
        // Structs in structs have their own sizes.
        for (name, offset, size) in [
            ("CALL", request(0), send_size),
            ("CALL", reply(0), recv_size),
            ("REPLY_RECV", answer(0), reply_size),
            ("REPLY_RECV", recv(0), recv_size),
        ] {
            for value in [0, 4, size - 8, size + 8, u32::MAX] {
                wrong.push((name, offset, value.into(), inval));
            }
        }
        let huge = u64::MAX;
        wrong.extend([
            (
                "CALL",
                request(field!(postbox_send, priority)),
                32_768,
                inval,
            ),
            (
                "CALL",
                request(field!(postbox_send, len)),
                huge,
                Errno::MSGSIZE,
            ),
            ("CALL", request(field!(postbox_send, fd_count)), 65, inval),
            ("REPLY", field!(postbox_reply, len), huge, Errno::MSGSIZE),
            ("REPLY", field!(postbox_reply, len), 1 << 40, Errno::MSGSIZE),
            ("REPLY", field!(postbox_reply, fd_count), 65, inval),
            (
                "REPLY",
                field!(postbox_reply, fd_count),
                u64::from(u32::MAX),
                inval,
            ),
            ("REPLY", field!(postbox_reply, fd_count), 1, Errno::FAULT),
            ("REPLY", field!(postbox_reply, data), 1, Errno::NOENT),
            ("SHUTDOWN", field!(postbox_shutdown, how), 0, inval),
            (
                "SET_CAPACITY",
                field!(postbox_capacity, capacity),
                huge,
                inval,
            ),
            (
                "SET_CAPACITY",
                field!(postbox_capacity, capacity),
                (1 << 20) + 1,
                inval,
            ),
            ("CONNECT", field!(postbox_connect, number), 1, inval),
            ("CONNECT", field!(postbox_connect, name_len), 0, inval),
            (
                "CONNECT",
                field!(postbox_connect, name_len),
                64,
                Errno::NAMETOOLONG,
            ),
            ("CONNECT", field!(postbox_connect, name), 0, Errno::FAULT),
            (
                "CONNECT",
                field!(postbox_connect, name),
                good.arena.end() - 3,
                Errno::FAULT,
            ),
            (
                "READ",
                field!(postbox_io, data),
                good.arena.end(),
                Errno::FAULT,
            ),
            (
                "READ",
                field!(postbox_io, data),
                good.arena.end() - 3,
                Errno::FAULT,
            ),
            (
                "READ",
                field!(postbox_io, data),
                0xffff_8880_0000_0000,
                Errno::FAULT,
            ),
            (
                "WRITE",
                field!(postbox_io, data),
                good.arena.end() - 3,
                Errno::FAULT,
            ),
            ("WRITE", field!(postbox_io, data), 0, Errno::FAULT),
            ("WRITE", field!(postbox_io, data), huge, Errno::FAULT),
            (
                "CALL",
                request(field!(postbox_send, data)),
                huge - 3,
                Errno::FAULT,
            ),
            ("ACQUIRE", field!(postbox_sync, count), 0, inval),
            ("ACQUIRE", field!(postbox_sync, count), 201, inval),
            ("ACQUIRE", field!(postbox_sync, count), huge, inval),
            ("RELEASE", field!(postbox_sync, count), 0, inval),
            ("RELEASE", field!(postbox_sync, count), 101, Errno::OVERFLOW),
            (
                "RELEASE",
                field!(postbox_sync, count),
                huge,
                Errno::OVERFLOW,
            ),
            ("COUNT_DOWN", field!(postbox_sync, count), 0, inval),
            (
                "COUNT_DOWN",
                field!(postbox_sync, count),
                huge,
                Errno::OVERFLOW,
            ),
            (
                "COUNT_DOWN",
                field!(postbox_sync, count),
                (1 << 40) + 1,
                Errno::OVERFLOW,
            ),
            ("WAIT", field!(postbox_sync, count), 0, inval),
            ("WAIT", field!(postbox_sync, count), 2, inval),
            ("JOIN", field!(postbox_sync, count), 0, inval),
            (
                "JOIN",
                field!(postbox_sync, count),
                (1 << 20) + 1,
                Errno::OVERFLOW,
            ),
            ("JOIN", field!(postbox_sync, count), huge, Errno::OVERFLOW),
            ("LEAVE", field!(postbox_sync, count), 0, inval),
            ("LEAVE", field!(postbox_sync, count), huge, inval),
        ]);
        for (name, offset, value, error) in wrong {
            let (handle, mut argument) = good.argument(name);
            if matches!(name, "ACQUIRE" | "WAIT") && offset == field!(postbox_sync, timeout_ns) {
                argument[4..8].fill(0);
            }
            // Where the field has 32 bits, so has the value.
            let wide = value > u64::from(u32::MAX)
                || matches!(
                    (name, error),
                    (
                        "SET_CAPACITY" | "ACQUIRE" | "RELEASE" | "COUNT_DOWN" | "JOIN" | "LEAVE",
                        _
                    )
                ) && offset != field!(postbox_sync, reserved)
                    && offset != 4
                || matches!(error, Errno::FAULT) && offset != field!(postbox_reply, fd_count);
            let len = if wide { 8 } else { 4 };
            argument[offset..offset + len].copy_from_slice(&value.to_ne_bytes()[..len]);
            let (before, others) = (state(&good.mailbox), good.others());
            good.arena.put(at, &argument);
            let result = ioctl(handle, number(name), at);
            assert_eq!(result, Err(error), "{name}, offset {offset}: {value:#x}");
            assert_eq!(
                state(&good.mailbox),
                before,
                "{name}, offset {offset}: {value:#x}"
            );
            assert_eq!(good.others(), others, "{name}, offset {offset}: {value:#x}");
        }
    });
}

#[test]
fn g11_what_a_new_object_cannot_be() {
    isolated(|| {
        let (unbound, usage) = (Handle::unbound(), Handle::unbound().usage());
        let open = |kind: u32| sys::postbox_open {
            kind,
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND | RECEIVE,
            ..Default::default()
        };
        let [mailbox, link, listener, endpoint] = [
            sys::POSTBOX_KIND_MAILBOX,
            sys::POSTBOX_KIND_LINK,
            sys::POSTBOX_KIND_LISTENER,
            sys::POSTBOX_KIND_ENDPOINT,
        ]
        .map(open);
        let [pipe, semaphore, latch, barrier] = [
            sys::POSTBOX_KIND_PIPE,
            sys::POSTBOX_KIND_SEMAPHORE,
            sys::POSTBOX_KIND_LATCH,
            sys::POSTBOX_KIND_BARRIER,
        ]
        .map(open);
        let (port, persist) = (
            sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PORT,
            sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
        );
        let one_way = sys::POSTBOX_O_CREATE | sys::POSTBOX_O_NO_BACK;
        let (flags, initial, number) = (port, 1, 7777);
        // What only another kind has.
        let mut wrong = Vec::new();
        for args in [mailbox, pipe, semaphore, latch, barrier, endpoint] {
            let initial = args.initial.max(1);
            let args = sys::postbox_open { initial, ..args };
            wrong.push(sys::postbox_open {
                flags: one_way,
                ..args
            });
            wrong.push(sys::postbox_open {
                back_capacity: 1,
                ..args
            });
            wrong.push(sys::postbox_open {
                back_capacity_bytes: 1,
                ..args
            });
            wrong.push(sys::postbox_open { backlog: 1, ..args });
            wrong.push(sys::postbox_open {
                flags,
                number,
                ..args
            });
            wrong.push(sys::postbox_open {
                flags: persist,
                ..args
            });
        }
        for args in [mailbox, endpoint, listener, pipe] {
            wrong.push(sys::postbox_open { initial, ..args });
        }
        for args in [latch, barrier, semaphore] {
            let capacity = u64::from(args.kind == semaphore.kind);
            let args = sys::postbox_open {
                initial,
                capacity,
                ..args
            };
            wrong.push(sys::postbox_open {
                capacity_bytes: 1,
                ..args
            });
            wrong.push(sys::postbox_open {
                message_max: 1,
                ..args
            });
            wrong.push(sys::postbox_open { number, ..args });
            if args.kind != semaphore.kind {
                wrong.push(sys::postbox_open { initial: 0, ..args });
                wrong.push(sys::postbox_open {
                    capacity: 2,
                    ..args
                });
            }
        }
        for number in [0, 65_536, u32::MAX] {
            wrong.push(sys::postbox_open {
                flags,
                number,
                ..link
            });
            wrong.push(sys::postbox_open {
                flags,
                number,
                ..listener
            });
        }
        let (a_port, on_a_port) = (
            sys::postbox_open {
                flags,
                number,
                ..link
            },
            sys::postbox_open {
                flags,
                number,
                ..listener
            },
        );
        let both = flags | sys::POSTBOX_O_NO_BACK | sys::POSTBOX_O_NO_FORWARD;
        wrong.extend([
            sys::postbox_open {
                flags: both,
                ..a_port
            },
            sys::postbox_open {
                flags: both,
                ..on_a_port
            },
            sys::postbox_open {
                flags: flags | sys::POSTBOX_O_PERSIST,
                ..a_port
            },
            sys::postbox_open {
                flags: flags | sys::POSTBOX_O_PERSIST,
                ..on_a_port
            },
            sys::postbox_open {
                flags: flags | sys::POSTBOX_O_NO_BACK,
                back_capacity: 1,
                ..a_port
            },
            sys::postbox_open {
                flags: flags | sys::POSTBOX_O_NO_FORWARD,
                capacity: 1,
                ..a_port
            },
            sys::postbox_open { initial, ..a_port },
            sys::postbox_open {
                backlog: 1,
                ..a_port
            },
            sys::postbox_open {
                capacity: 1,
                ..pipe
            },
            sys::postbox_open {
                message_max: 1,
                ..pipe
            },
            sys::postbox_open {
                capacity_bytes: (1 << 20) + 1,
                ..pipe
            },
            sys::postbox_open {
                capacity_bytes: u64::MAX,
                ..pipe
            },
            sys::postbox_open {
                capacity: 0,
                ..semaphore
            },
            sys::postbox_open {
                capacity: 1,
                initial: 2,
                ..semaphore
            },
            sys::postbox_open {
                number: 1,
                ..endpoint
            },
            sys::postbox_open { number, ..mailbox },
        ]);
        for mut args in wrong {
            let result = raw::open(&unbound, None, &mut args);
            assert_eq!(result, Err(Errno::INVAL), "{args:?}");
        }
        // A name that goes with a number.
        for mut args in [a_port, on_a_port, endpoint] {
            let result = raw::open(&unbound, Some(b"name"), &mut args);
            assert_eq!(result, Err(Errno::INVAL), "{args:?}");
        }
        // Processes that there are not, and others' endpoints.
        let flags = 0;
        for (number, rights, error) in [
            (u32::MAX, SEND, Errno::SRCH),
            (1 << 31, SEND, Errno::SRCH),
            (std::process::id(), SEND, Errno::NOENT),
            (std::process::id(), RECEIVE, Errno::ACCESS),
            (std::process::id(), SEND | RECEIVE, Errno::ACCESS),
        ] {
            let mut args = sys::postbox_open {
                flags,
                number,
                rights,
                ..endpoint
            };
            let result = raw::open(&unbound, None, &mut args);
            assert_eq!(result, Err(error), "process {number}, rights {rights}");
        }
        // A link that is not at a port is made in other ways.
        let mut args = link;
        assert_eq!(raw::open(&unbound, None, &mut args), Err(Errno::OPNOTSUPP));
        assert_eq!(raw::info(&unbound).map(drop), Err(Errno::BADFD));
        assert_eq!(unbound.usage(), usage);
    });
}

/// What names a file in a message.
fn entry(fd: i32, rights: u32) -> sys::postbox_fd {
    sys::postbox_fd { fd, rights }
}

#[test]
fn g11_files_that_cannot_be_sent() {
    isolated(|| {
        let good = Good::new();
        let (at, data) = (good.arena.at, good.arena.at + PAGE as u64);
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let (file, handle) = (write.as_raw_fd(), good.mailbox.as_raw_fd());
        let (sender, unbound) = (Handle::anonymous(1).sender(), Handle::unbound());
        // SAFETY: a valid path.
        let path = check("open", unsafe { libc::open(c"/".as_ptr(), libc::O_PATH) });
        let (bad, inval) = (Errno::BADF, Errno::INVAL);
        let mut cases = vec![
            (vec![entry(-1, 0)], bad),
            (vec![entry(i32::MIN, 0)], bad),
            (vec![entry(i32::MAX, 0)], bad),
            (vec![entry(1 << 20, 0)], bad),
            (vec![entry(path, 0)], bad),
            (vec![entry(file, SEND)], inval),
            (vec![entry(file, 1 << 31)], inval),
            (vec![entry(handle, 1 << 31)], Errno::ACCESS),
            (vec![entry(handle, u32::MAX)], Errno::ACCESS),
            (vec![entry(sender.as_raw_fd(), RECEIVE)], Errno::ACCESS),
            (vec![entry(sender.as_raw_fd(), SEND | ADMIN)], Errno::ACCESS),
            (vec![entry(unbound.as_raw_fd(), SEND)], Errno::BADFD),
            // The last one is wrong: what was taken before it is given back.
            ([vec![entry(file, 0); 63], vec![entry(-1, 0)]].concat(), bad),
            (
                [
                    vec![entry(sender.as_raw_fd(), SEND); 3],
                    vec![entry(file, 1)],
                ]
                .concat(),
                inval,
            ),
            (vec![entry(file, 0); 65], inval),
            (vec![entry(file, 0); 300], inval),
        ];
        let mut parameters = [0u8; 256];
        // SAFETY: struct io_uring_params is smaller, and all-zero is a valid one.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
        if ring >= 0 {
            cases.push((vec![entry(file, 0), entry(ring as i32, 0)], inval));
        } else {
            tell("this kernel has no io_uring");
        }
        let end = good.arena.end();
        let mut places: Vec<(u64, u32, Errno)> = Vec::new();
        for (entries, error) in cases {
            let place = good.arena.at + 2 * PAGE as u64;
            let flat: Vec<u8> = entries.iter().flat_map(|e| bytes(e).to_vec()).collect();
            good.arena.put(place, &flat);
            places.push((place, entries.len() as u32, error));
            check_places(&good, &mut places);
        }
        good.arena.put(end - 16, bytes(&entry(file, 0)));
        good.arena.put(end - 8, bytes(&entry(file, 0)));
        places.extend([
            (0, 1, Errno::FAULT),
            (end, 1, Errno::FAULT),
            (end - 4, 1, Errno::FAULT),
            (end - 16, 3, Errno::FAULT),
            (0xffff_8880_0000_0000, 1, Errno::FAULT),
            (u64::MAX - 7, 2, Errno::FAULT),
            (end - 8, u32::MAX, inval),
        ]);
        check_places(&good, &mut places);
        // SAFETY: both are descriptors of this test.
        unsafe { libc::close(path) };
        if ring >= 0 {
            // SAFETY: as above.
            unsafe { libc::close(ring as i32) };
        }
        // Nobody kept the other end of the pipe.
        drop(write);
        assert_eq!(rustix::io::read(&read, &mut [0; 1]), Ok(0));
        good.arena.put(data, b"x");
        // (And it is not the arguments: with good files all of these work.)
        good.arena
            .put(end - 8, bytes(&entry(sender.as_raw_fd(), 0)));
        let send = sys::postbox_send {
            flags: NEVER.0,
            fds: end - 8,
            fd_count: 1,
            ..send_args()
        };
        good.arena.put(at, bytes(&send));
        assert_eq!(ioctl(&good.mailbox, sys::POSTBOX_SEND, at), Ok(()));
    });
}

/// Tries these arrays with every request that sends files.
fn check_places(good: &Good, places: &mut Vec<(u64, u32, Errno)>) {
    let at = good.arena.at;
    for (fds, fd_count, error) in places.drain(..) {
        let (before, others) = (state(&good.mailbox), good.others());
        let send = sys::postbox_send {
            fds,
            fd_count,
            ..send_args()
        };
        let call = sys::postbox_call {
            size: self_size::<sys::postbox_call>(),
            request: send,
            reply: recv_args(),
            ..Default::default()
        };
        let reply = sys::postbox_reply {
            size: self_size::<sys::postbox_reply>(),
            fds,
            fd_count,
            token: 1,
            ..Default::default()
        };
        let write_to = |handle: &Handle, request: u32, argument: &[u8]| {
            good.arena.put(at, argument);
            ioctl(handle, request, at)
        };
        let what = format!("{fd_count} files at {fds:#x}");
        for handle in [&good.mailbox, &good.link.0] {
            let result = write_to(handle, sys::POSTBOX_SEND, bytes(&send));
            assert_eq!(result, Err(error), "{what}");
        }
        let result = write_to(&good.calls, sys::POSTBOX_CALL, bytes(&call));
        assert_eq!(result, Err(error), "{what}, in a call");
        let result = write_to(&good.mailbox, sys::POSTBOX_REPLY, bytes(&reply));
        assert_eq!(result, Err(error), "{what}, in a reply");
        assert_eq!(
            (state(&good.mailbox), good.others()),
            (before, others),
            "{what}"
        );
    }
}

#[test]
fn g11_files_that_cannot_be_received() {
    isolated(|| {
        let good = Good::new();
        let (at, end) = (good.arena.at, good.arena.end());
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let sender = good.calls.sender();
        let file = raw::SendFd::new(write.as_fd(), 0);
        let handle = raw::SendFd::new(sender.as_fd(), SEND);
        raw::send_files(&good.mailbox, b"x", &[file, handle, file], &send_args()).expect("room");
        let (before, others) = (state(&good.mailbox), good.others());
        let own = Arena::new(1);
        // SAFETY: the page of the arena, which the tests reach by system calls and copies only.
        check("mprotect", unsafe {
            libc::mprotect(own.at as *mut _, PAGE, libc::PROT_READ)
        });
        let recv = |fds: u64, fd_max: u32, flags: u32| {
            let args = sys::postbox_recv {
                flags: NEVER.0 | flags,
                data: at + PAGE as u64,
                len: 10,
                fds,
                fd_max,
                ..recv_args()
            };
            good.arena.put(at, bytes(&args));
            ioctl(&good.mailbox, sys::POSTBOX_RECV, at)
        };
        for flags in [0, sys::POSTBOX_RECV_ACK] {
            for fds in [
                0,
                end,
                end - 4,
                end - 8,
                end - 16,
                own.at,
                0xffff_8880_0000_0000,
                u64::MAX - 15,
            ] {
                assert_eq!(recv(fds, 3, flags), Err(Errno::FAULT), "{fds:#x}");
                assert_eq!(recv(fds, u32::MAX, flags), Err(Errno::FAULT), "{fds:#x}");
                assert_eq!((state(&good.mailbox), good.others()), (before, others));
            }
            for fd_max in 0..3 {
                assert_eq!(recv(end - 24, fd_max, flags), Err(Errno::MSGSIZE));
                let count = offset_of!(sys::postbox_recv, fd_count) as u64;
                assert_eq!(good.arena.get(at + count, 4), 3u32.to_ne_bytes());
                assert_eq!((state(&good.mailbox), good.others()), (before, others));
            }
        }
        // What the message needs is touched, and no more.
        assert_eq!(recv(end - 24, u32::MAX, 0), Ok(()));
        assert_eq!(descriptors() as u64, others[12] + 3);
        let entries = good.arena.get(end - 24, 24);
        for chunk in entries.chunks(8) {
            let fd = i32::from_ne_bytes(chunk[..4].try_into().expect("four bytes"));
            // SAFETY: a descriptor that was received just now, owned by nobody else.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        assert_eq!(entries[12..16], SEND.to_ne_bytes());
        drop(write);
        assert_eq!(
            rustix::io::read(&read, &mut [0; 1]),
            Ok(0),
            "it is not kept"
        );
    });
}

#[test]
fn g11_tokens_that_are_not_ones_own() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let (tx, rx) = (mailbox.sender(), mailbox.receiver());
        let reply = |handle: &Handle, token: u64, flags: u32| {
            let args = sys::postbox_reply {
                token,
                flags,
                ..Default::default()
            };
            raw::reply(handle, b"", &[], &args)
        };
        let fetch = |handle: &Handle, token: u64, room: &mut [MaybeUninit<u8>]| {
            let mut args = sys::postbox_call::default();
            args.reply.token = token;
            raw::call_fetch(handle, room, &mut Vec::new(), &mut args).map(|bytes| bytes.to_vec())
        };
        let unknown = Err(Errno::NOENT);
        let flags = [0, sys::POSTBOX_REPLY_DROP, sys::POSTBOX_REPLY_CHECK];
        scope(|scope| {
            let caller = scope.spawn(|| {
                let mut args = sys::postbox_call::default();
                let result = raw::call(&tx, b"?", &[], &mut [], &mut Vec::new(), &mut args);
                (result.map(drop), args.reply.msg_len, args.reply.token)
            });
            let request = rx.recv(FOREVER).expect("it comes");
            mailbox.put("a job");
            let job = rx.take(NEVER).expect("there is one");
            for flags in flags {
                for token in [0, 1 << 63, u64::MAX, request.token + 1000, job.token] {
                    assert_eq!(reply(&rx, token, flags), unknown, "{token}, {flags:#x}");
                }
                assert_eq!(
                    reply(&mailbox, request.token, flags),
                    unknown,
                    "another handle"
                );
            }
            assert_eq!(
                rx.ack(request.token),
                unknown,
                "a request is not acknowledged"
            );
            assert_eq!(rx.requeue(request.token), unknown);
            assert_eq!(fetch(&rx, request.token, &mut []), Err(Errno::ACCESS));
            assert_eq!(reply(&rx, request.token, sys::POSTBOX_REPLY_CHECK), Ok(()));
            let args = sys::postbox_reply {
                token: request.token,
                ..Default::default()
            };
            assert_eq!(raw::reply(&rx, b"yes", &[], &args), Ok(()));
            for flags in flags {
                assert_eq!(reply(&rx, request.token, flags), unknown, "it is used");
            }
            rx.ack(job.token).expect("its own");
            let (result, len, token) = caller.join().expect("no panic");
            assert_eq!((result, len), (Err(Errno::MSGSIZE), 3));
            let mut room = [MaybeUninit::uninit(); 3];
            for wrong in [0, token + 1, u64::MAX, request.token + 7] {
                assert_eq!(fetch(&tx, wrong, &mut room), Err(Errno::NOENT), "{wrong}");
            }
            assert_eq!(fetch(&mailbox, token, &mut room), Err(Errno::NOENT));
            assert_eq!(fetch(&tx, token, &mut room), Ok(b"yes".to_vec()));
            assert_eq!(
                fetch(&tx, token, &mut room),
                Err(Errno::NOENT),
                "it is used"
            );
        });
        // What is not said when a reply is fetched.
        for at in (4..offset_of!(sys::postbox_call, reply) - 8).step_by(4) {
            let mut args = sys::postbox_call {
                size: self_size::<sys::postbox_call>(),
                request: send_args(),
                reply: recv_args(),
                ..Default::default()
            };
            args.reply.flags = sys::POSTBOX_CALL_FETCH;
            args.reply.token = 1;
            let mut argument = bytes(&args).to_vec();
            argument[at + 8..at + 12].fill(1);
            let result = ioctl(&tx, sys::POSTBOX_CALL, argument.as_ptr() as u64);
            assert_eq!(result, Err(Errno::INVAL), "offset {at} of the request");
        }
    });
}

#[test]
fn g11_what_a_request_says_of_leases() {
    isolated(|| {
        let good = Good::new();
        let pool = Handle::pool(8, 64);
        let held = [pool.borrow_one(), pool.borrow_one()];
        let (at, end) = (good.arena.at, good.arena.end());
        let place = |page: usize| at + (page * PAGE) as u64;
        let nothing = |what: &str| {
            assert_eq!(pool.free(), 6, "{what}: a block");
            assert_eq!(good.mailbox.info().messages, 0, "{what}: a message");
            assert_eq!(pool.info().messages, 0, "{what}: a lease");
        };
        let send = |leases: &sys::postbox_leases| {
            good.arena.put(place(1), bytes(leases));
            let args = sys::postbox_send {
                flags: NEVER.0 | sys::POSTBOX_LEASES,
                fds: place(1),
                ..send_args()
            };
            good.arena.put(at, bytes(&args));
            ioctl(&good.mailbox, sys::POSTBOX_SEND, at)
        };
        let lease = |block, flags, len| {
            let lease = sys::postbox_lease { block, flags, len };
            good.arena.put(place(2), bytes(&lease));
        };
        let one = sys::postbox_leases {
            size: self_size::<sys::postbox_leases>(),
            pool: pool.as_raw_fd(),
            entries: place(2),
            count: 1,
            ..Default::default()
        };
        // The pool.
        lease(held[0], 0, 64);
        let file = std::fs::File::open("/dev/null").expect("it is there");
        for (fd, error) in [
            (-1, Errno::BADF),
            (i32::MAX, Errno::BADF),
            (file.as_raw_fd(), Errno::OPNOTSUPP),
            (good.mailbox.as_raw_fd(), Errno::OPNOTSUPP),
            (good.unbound.as_raw_fd(), Errno::BADFD),
            (good.pool.as_raw_fd(), Errno::NOENT),
        ] {
            let sent = send(&sys::postbox_leases { pool: fd, ..one });
            assert_eq!(sent, Err(error), "pool {fd}");
            nothing("a wrong pool");
        }
        // The struct.
        for size in [0, 8, self_size::<sys::postbox_leases>() - 8, 5000] {
            let sent = send(&sys::postbox_leases { size, ..one });
            assert_eq!(sent, Err(Errno::INVAL), "size {size}");
        }
        for wrong in [
            sys::postbox_leases { reserved: 1, ..one },
            sys::postbox_leases { max: 1, ..one },
            sys::postbox_leases { count: 65, ..one },
            sys::postbox_leases {
                count: u32::MAX,
                ..one
            },
            sys::postbox_leases {
                return_count: 1025,
                ..one
            },
            sys::postbox_leases {
                loan_max: 1025,
                ..one
            },
            sys::postbox_leases {
                loan_count: 1,
                ..one
            },
            sys::postbox_leases {
                loan_count: u32::MAX,
                loan_max: 5,
                ..one
            },
        ] {
            assert_eq!(send(&wrong), Err(Errno::INVAL), "{wrong:?}");
            nothing("a wrong struct");
        }
        // What it points to.
        for address in [0, 1, end, end - 1, 1 << 47, u64::MAX - 7] {
            let entries = address;
            let sent = send(&sys::postbox_leases { entries, ..one });
            assert_eq!(sent, Err(Errno::FAULT), "entries at {address:#x}");
            nothing("bad entries");
            let returns = address;
            let sent = send(&sys::postbox_leases {
                returns,
                return_count: 1,
                ..one
            });
            assert_eq!(sent, Err(Errno::FAULT), "returns at {address:#x}");
            nothing("bad returns");
            let loans = address;
            let sent = send(&sys::postbox_leases {
                loans,
                loan_max: 2,
                ..one
            });
            assert_eq!(sent, Err(Errno::FAULT), "loans at {address:#x}");
            nothing("bad loans");
        }
        let address = sys::postbox_send {
            flags: NEVER.0 | sys::POSTBOX_LEASES,
            fds: end - 8,
            ..send_args()
        };
        good.arena.put(at, bytes(&address));
        good.arena
            .put(end - 8, &self_size::<sys::postbox_leases>().to_ne_bytes());
        let sent = ioctl(&good.mailbox, sys::POSTBOX_SEND, at);
        assert_eq!(sent, Err(Errno::FAULT));
        // The entries.
        for (block, flags, len, error) in [
            (held[0], 2, 1, Errno::INVAL),
            (held[0], u32::MAX, 1, Errno::INVAL),
            (held[0], 0, 65, Errno::INVAL),
            (held[0], 0, u64::MAX, Errno::INVAL),
            (7, 0, 1, Errno::NOENT),
            (8, 0, 1, Errno::NOENT),
            (u32::MAX, 0, 1, Errno::NOENT),
        ] {
            lease(block, flags, len);
            assert_eq!(send(&one), Err(error), "{block} {flags} {len}");
            nothing("a wrong entry");
        }
        // The same block twice in one message.
        let twice = [sys::postbox_lease {
            block: held[0],
            ..Default::default()
        }; 2];
        for (i, lease) in twice.iter().enumerate() {
            good.arena.put(place(2) + 16 * i as u64, bytes(lease));
        }
        assert_eq!(
            send(&sys::postbox_leases { count: 2, ..one }),
            Err(Errno::NOENT)
        );
        nothing("a block twice");
        // What is received cannot be described: the message and its leases stay.
        lease(held[0], 0, 1);
        assert_eq!(send(&one), Ok(()));
        let recv = |leases: &sys::postbox_leases, fds: u64| {
            good.arena.put(place(1), bytes(leases));
            let args = sys::postbox_recv {
                flags: NEVER.0 | sys::POSTBOX_LEASES,
                fds,
                ..recv_args()
            };
            good.arena.put(at, bytes(&args));
            ioctl(&good.mailbox, sys::POSTBOX_RECV, at)
        };
        let room = sys::postbox_leases {
            count: 0,
            max: 1,
            ..one
        };
        for entries in [0, end - 8, end, u64::MAX] {
            let received = recv(&sys::postbox_leases { entries, ..room }, place(1));
            assert_eq!(received, Err(Errno::FAULT), "entries at {entries:#x}");
            assert_eq!((pool.info().messages, good.mailbox.info().messages), (1, 1));
        }
        for fds in [0, end, u64::MAX - 3] {
            assert_eq!(recv(&room, fds), Err(Errno::FAULT));
        }
        assert_eq!(recv(&room, place(1)), Ok(()));
        assert_eq!(pool.give_back(&held), Ok(()));
        assert_eq!(pool.free(), 8);
        // Loans of their own.
        let loan = |args: &sys::postbox_loan| {
            good.arena.put(at, bytes(args));
            ioctl(&pool, sys::POSTBOX_LOAN, at)
        };
        let good_loan = sys::postbox_loan {
            size: self_size::<sys::postbox_loan>(),
            flags: NEVER.0,
            loans: place(2),
            loan_max: 3,
            returns: place(3),
            ..Default::default()
        };
        for (wrong, error) in [
            (
                sys::postbox_loan {
                    reserved: 1,
                    ..good_loan
                },
                Errno::INVAL,
            ),
            (
                sys::postbox_loan {
                    flags: 1 << 8,
                    ..good_loan
                },
                Errno::INVAL,
            ),
            (
                sys::postbox_loan {
                    timeout_ns: 1,
                    ..good_loan
                },
                Errno::INVAL,
            ),
            (
                sys::postbox_loan {
                    loan_max: 1025,
                    ..good_loan
                },
                Errno::INVAL,
            ),
            (
                sys::postbox_loan {
                    loan_count: 4,
                    ..good_loan
                },
                Errno::INVAL,
            ),
            (
                sys::postbox_loan {
                    return_count: 1025,
                    ..good_loan
                },
                Errno::INVAL,
            ),
            (
                sys::postbox_loan {
                    loans: end - 4,
                    ..good_loan
                },
                Errno::FAULT,
            ),
            (
                sys::postbox_loan {
                    return_count: 1,
                    returns: end - 2,
                    ..good_loan
                },
                Errno::FAULT,
            ),
        ] {
            assert_eq!(loan(&wrong), Err(error), "{wrong:?}");
            assert_eq!(pool.free(), 8);
        }
    });
}

#[test]
fn g11_handles_that_are_kept_by_themselves() {
    isolated(|| {
        let usage = || raw::usage(Handle::unbound()).expect("it tells");
        let before = usage();
        let gone = |what: &str| {
            wait_until(what, || {
                let now = usage();
                (now.objects, now.messages, now.files)
                    == (before.objects, before.messages, before.files)
            });
        };
        // A handle that is bound to the mailbox while it is queued there.
        let name = unique("circle");
        let mailbox = Handle::create(&name, 4);
        let unbound = Handle::unbound();
        let file = [raw::SendFd::new(unbound.as_fd(), 0)];
        raw::send_files(&mailbox, b"", &file, &send_args()).expect("there is room");
        let open = Make {
            flags: 0,
            ..Make::default()
        };
        open.bind(&unbound, name.as_str()).expect("it is unbound");
        drop((unbound, mailbox));
        gone("a mailbox with an unbound handle in it to go");
        // A handle that keeps an answer with itself, and one with another handle of the same mailbox.
        for dup in [false, true] {
            let (tx, rx) = Handle::anonymous(4).split();
            let other = tx.sender();
            scope(|scope| {
                let caller = scope.spawn(|| {
                    let mut args = sys::postbox_call::default();
                    let result = raw::call(&tx, b"", &[], &mut [], &mut Vec::new(), &mut args);
                    (result.map(drop), args.reply.token)
                });
                let args = sys::postbox_reply {
                    token: rx.recv(FOREVER).expect("it comes").token,
                    ..Default::default()
                };
                let sent = if dup { &other } else { &tx };
                let files = [raw::SendFd::new(sent.as_fd(), 0)];
                raw::reply(&rx, b"too long", &files, &args).expect("the caller waits");
                let (result, token) = caller.join().expect("no panic");
                assert_eq!(result, Err(Errno::MSGSIZE));
                assert_eq!(token != 0, dup, "a handle cannot keep itself");
            });
            drop((tx, rx, other));
            gone("a handle with an answer to go");
        }
    });
}

#[test]
fn g11_who_fails_to_join_a_port_does_not_end_it() {
    isolated(|| {
        let open = sys::postbox_open {
            size: self_size::<sys::postbox_open>(),
            kind: sys::POSTBOX_KIND_LINK,
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PORT,
            rights: SEND | RECEIVE,
            mode: 0o600,
            capacity: 4,
            back_capacity: 4,
            number: 1,
            ..Default::default()
        };
        let test = || {
            let first = Handle::unbound();
            raw::open(&first, None, &mut { open }).expect("the port is free");
            let arena = Arena::new(1);
            arena.put(arena.at, bytes(&open));
            // SAFETY: the page of the arena, which the tests reach by system calls and copies only.
            check("mprotect", unsafe {
                libc::mprotect(arena.at as *mut _, PAGE, libc::PROT_READ)
            });
            let second = Handle::unbound();
            for _ in 0..3 {
                let result = ioctl(&second, sys::POSTBOX_OPEN, arena.at);
                assert_eq!(result, Err(Errno::FAULT));
                assert_eq!(first.recv(NEVER), Err(Errno::AGAIN), "it has not ended");
            }
            first.put("x");
            raw::open(&second, None, &mut { open }).expect("nobody has joined");
            assert_eq!(second.get(), "x");
        };
        Spawn::new().ipc_ns().run(test).ok();
    });
}

#[test]
fn g11_huge_lengths_and_limits() {
    isolated(|| {
        let good = Good::new();
        let (at, data) = (good.arena.at, good.arena.at + PAGE as u64);
        let mailbox = &good.mailbox;
        let call = |request: u32, argument: &[u8]| {
            good.arena.put(at, argument);
            ioctl(mailbox, request, at)
        };
        for len in [
            1 << 32,
            1 << 40,
            i64::MAX as u64,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ] {
            let send = sys::postbox_send {
                data,
                len,
                ..send_args()
            };
            assert_eq!(
                call(sys::POSTBOX_SEND, bytes(&send)),
                Err(Errno::MSGSIZE),
                "send of {len} bytes"
            );
            assert_eq!(mailbox.reserve(len, FOREVER), Err(Errno::MSGSIZE));
            assert_eq!(mailbox.cancel(len), Err(Errno::INVAL));
            assert_eq!(mailbox.send_reserved("x", len), Err(Errno::INVAL));
            // A buffer that is said to be larger than memory: only what the message needs is touched.
            mailbox.put("small");
            let recv = sys::postbox_recv {
                data,
                len,
                flags: NEVER.0,
                ..recv_args()
            };
            assert_eq!(
                call(sys::POSTBOX_RECV, bytes(&recv)),
                Ok(()),
                "a buffer of {len} bytes"
            );
            assert_eq!(good.arena.get(data, 5), b"small");
            mailbox.put("x");
            let beyond = sys::postbox_recv {
                data: good.arena.end(),
                ..recv
            };
            assert_eq!(call(sys::POSTBOX_RECV, bytes(&beyond)), Err(Errno::FAULT));
            assert_eq!(mailbox.get(), "x");
        }
        for n in [1, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX] {
            let make = Make {
                capacity: n,
                capacity_bytes: n,
                message_max: n,
                ..Make::default()
            };
            let odd = make.open(None).expect("a limit may be anything");
            odd.put("x");
            assert_eq!(odd.ready() & libc::POLLIN, libc::POLLIN);
            assert_eq!(odd.get(), "x");
            let info = odd.info();
            assert_eq!((info.capacity, info.capacity_bytes), (n, n));
        }
        let everything = sys::postbox_list {
            size: 32,
            count: u32::MAX,
            infos: data,
            info_size: size_of::<sys::postbox_info>() as u32,
            after: u64::MAX - 1,
            ..Default::default()
        };
        assert_eq!(call(sys::POSTBOX_LIST, bytes(&everything)), Ok(()));
        assert_eq!(good.arena.get(at + 4, 4), [0; 4]);
    });
}

#[test]
fn g11_requests_that_do_not_exist() {
    isolated(|| {
        let good = Good::new();
        let at = good.arena.at;
        let known: Vec<u32> = REQUESTS.iter().map(|(_, request, _)| *request).collect();
        for handle in [&good.mailbox, &good.unbound] {
            for size in [0u32, 4, 16, 64] {
                good.arena.put(at, &size.to_ne_bytes());
                for nr in 0..0x100 {
                    let request = 0xBE00 | nr;
                    if !known.contains(&request) {
                        assert_eq!(
                            ioctl(handle, request, at),
                            Err(Errno::NOTTY),
                            "{request:#x}"
                        );
                    }
                    // With a size and a direction in the number, as other drivers have them.
                    for high in [0x4004_0000, 0x8010_0000, 0xc030_0000u32] {
                        assert_eq!(
                            ioctl(handle, high | request, at),
                            Err(Errno::NOTTY),
                            "{:#x}",
                            high | request
                        );
                    }
                }
                // TCGETS, FIONREAD, and other magics.
                for request in [0x5401, 0x541b, 0xBD01, 0xBF10, 0, 0xffff_0000] {
                    assert_eq!(
                        ioctl(handle, request, at),
                        Err(Errno::NOTTY),
                        "{request:#x}"
                    );
                }
            }
        }
    });
}

#[test]
fn g11_other_calls_on_a_handle() {
    isolated(|| {
        let handles = [Handle::anonymous(2), Handle::unbound()];
        for handle in &handles {
            let fd = handle.as_raw_fd();
            // SAFETY: asks for a mapping of a file that has none; nothing existing is touched.
            let at = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    PAGE,
                    libc::PROT_READ,
                    libc::MAP_SHARED,
                    fd,
                    0,
                )
            };
            assert!(at == libc::MAP_FAILED, "there is nothing to map");
            assert!(rustix::fs::ftruncate(handle, 10).is_err());
            assert!(rustix::fs::fsync(handle).is_err());
            // SAFETY: no pointers.
            assert_eq!(unsafe { libc::fallocate(fd, 0, 0, 10) }, -1);
            let pipe = rustix::pipe::pipe().expect("a pipe");
            // Splicing must fail, or move a message; never hang (nothing is there) or crash.
            rustix::fs::fcntl_setfl(handle, rustix::fs::OFlags::NONBLOCK).expect("it can be set");
            assert!(
                rustix::pipe::splice(
                    handle,
                    None,
                    &pipe.1,
                    None,
                    100,
                    rustix::pipe::SpliceFlags::NONBLOCK
                )
                .is_err()
            );
            // SAFETY: no pointers.
            unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_APPEND) };
            // SAFETY: as above.
            unsafe { libc::fcntl(fd, libc::F_SETFL, 0) };
        }
        handles[0].put("x");
        assert_eq!(handles[0].get(), "x");
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_APPEND;
        // SAFETY: a valid path.
        let fd = check("open", unsafe {
            libc::open(c"/dev/postbox".as_ptr(), flags)
        });
        // SAFETY: a descriptor that was just made, owned by nobody else.
        let handle = Handle(unsafe { OwnedFd::from_raw_fd(fd) });
        assert!(Make::default().bind(&handle, None).is_ok());
    });
}

/// A word for the kernel to stumble over.
fn word(rng: &mut Rng, arena: &Arena) -> u64 {
    match rng.below(12) {
        0 => 0,
        1 => rng.below(16),
        2 => 1 << rng.below(64),
        3 => (1u64 << rng.below(64)).wrapping_sub(1),
        4 => u64::MAX - rng.below(64),
        5 => rng.word(),
        6 => arena.end() - rng.below(200),
        7 => 0xffff_8880_0000_0000 | rng.below(1 << 30),
        8 => arena.end() + rng.below(PAGE as u64),
        _ => arena.at + rng.below(arena.len as u64),
    }
}

/// Throws random requests at these handles, most of them nearly right.
fn fuzz(rng: &mut Rng, handles: &[Handle], iterations: u64) -> [u64; 2] {
    let arena = Arena::new(16);
    run_wild();
    handle_signal(libc::SIGALRM, 0);
    // What waits for ever is interrupted, and that is tried, too.
    let period = libc::timeval {
        tv_sec: 0,
        tv_usec: 20_000,
    };
    let timer = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: the first pointer is to a valid timer, and no old one is asked for.
    check("setitimer", unsafe {
        libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut())
    });
    let names = ["a", "b/c", "..", "fuzz", "listener", ""];
    let mut counts = [0, 0];
    let start = Instant::now();
    for _ in 0..iterations {
        // On the slowest machine it is the time that ends it.
        if start.elapsed() > Duration::from_secs(20) {
            break;
        }
        if counts[0] % 64 == 0 {
            // What came with messages.
            // SAFETY: no pointers, and nothing here owns a descriptor of such a number.
            unsafe { libc::syscall(libc::SYS_close_range, 64, u32::MAX, 0) };
        }
        let (_, mut request, size) = *rng.pick(&REQUESTS);
        let mut argument = vec![0u8; size];
        let mut field =
            |at: usize, bytes: &[u8]| argument[at..at + bytes.len()].copy_from_slice(bytes);
        for at in (8..size).step_by(8) {
            if rng.one_in(3) {
                field(at, &word(rng, &arena).to_ne_bytes());
            }
        }
        let flags = [0u32, 1, 2, 4, 12, 0x100, 0x101, 0x102, 0x103, 1 << 31, 7];
        field(4, &rng.pick(&flags).to_ne_bytes());
        let data = arena.at + 2 * PAGE as u64 + rng.below(8) * 1000;
        let name = rng.pick(&names);
        // The rest of what a good request would have, most of the time.
        match request {
            sys::POSTBOX_OPEN => {
                field(4, &1u32.to_ne_bytes());
                if rng.one_in(2) {
                    arena.put(data, name.as_bytes());
                    field(8, &data.to_ne_bytes());
                    field(16, &(name.len() as u32).to_ne_bytes());
                }
                let kind = if rng.one_in(2) { 1 } else { rng.below(10) };
                field(4, &(kind as u32).to_ne_bytes());
                let flags = if rng.one_in(4) { 64 } else { 8 };
                field(20, &(rng.below(flags) as u32).to_ne_bytes());
                field(24, &(rng.below(16) as u32).to_ne_bytes());
                field(28, &(rng.below(0o1000) as u32).to_ne_bytes());
                field(offset_of!(sys::postbox_open, number), &[0; 4]);
                if rng.one_in(4) {
                    field(offset_of!(sys::postbox_open, number), &[rng.below(3) as u8]);
                }
                field(offset_of!(sys::postbox_open, memfd), &[0; 4]);
                for at in [
                    offset_of!(sys::postbox_open, back_capacity),
                    offset_of!(sys::postbox_open, back_capacity_bytes),
                    offset_of!(sys::postbox_open, initial),
                    offset_of!(sys::postbox_open, backlog),
                    offset_of!(sys::postbox_open, message_max),
                ] {
                    if !rng.one_in(4) {
                        field(at, &[0; 4]);
                        field(at + 4, &[0; 4]);
                    }
                }
            }
            sys::POSTBOX_UNLINK => {
                arena.put(data, name.as_bytes());
                field(4, &(name.len() as u32).to_ne_bytes());
                field(8, &data.to_ne_bytes());
            }
            sys::POSTBOX_DUP => field(8, &[0; 8]),
            sys::POSTBOX_ACK => field(8, &rng.below(2000).to_ne_bytes()),
            sys::POSTBOX_SEND | sys::POSTBOX_RECV if !rng.one_in(4) => {
                field(8, &data.to_ne_bytes());
                field(16, &rng.below(5000).to_ne_bytes());
                field(24, &rng.below(10_000).to_ne_bytes());
                field(32, &rng.below(4).to_ne_bytes());
                field(40, &[0; 8]);
                let files = arena.at + 14 * PAGE as u64;
                if request == sys::POSTBOX_RECV {
                    field(offset_of!(sys::postbox_recv, fds), &files.to_ne_bytes());
                    field(offset_of!(sys::postbox_recv, fd_max), &64u32.to_ne_bytes());
                } else if rng.one_in(3) {
                    let count = rng.below(4) as u32;
                    for i in 0..u64::from(count) {
                        let rights = if rng.one_in(2) { 0 } else { rng.below(4) };
                        let file = entry(rng.below(30) as i32, rights as u32);
                        arena.put(files + i * 8, bytes(&file));
                    }
                    field(offset_of!(sys::postbox_send, fds), &files.to_ne_bytes());
                    field(
                        offset_of!(sys::postbox_send, fd_count),
                        &count.to_ne_bytes(),
                    );
                } else {
                    field(offset_of!(sys::postbox_send, fds), &[0; 8]);
                    field(offset_of!(sys::postbox_send, fd_count), &[0; 4]);
                }
            }
            sys::POSTBOX_CALL if !rng.one_in(4) => {
                let call = sys::postbox_call {
                    request: sys::postbox_send {
                        flags: sys::POSTBOX_TIMEOUT,
                        data,
                        len: rng.below(5000),
                        timeout_ns: rng.below(2_000_000),
                        ..send_args()
                    },
                    reply: sys::postbox_recv {
                        flags: if rng.one_in(4) {
                            sys::POSTBOX_CALL_FETCH
                        } else {
                            0
                        },
                        data,
                        len: rng.below(1000),
                        token: rng.below(8),
                        ..recv_args()
                    },
                    ..Default::default()
                };
                field(0, bytes(&call));
            }
            sys::POSTBOX_REPLY | sys::POSTBOX_REPLY_RECV if !rng.one_in(4) => {
                let reply = sys::postbox_reply {
                    size: self_size::<sys::postbox_reply>(),
                    flags: *rng.pick(&[0, 0, 0, 0x100, 0x200]),
                    data,
                    len: rng.below(2000),
                    token: rng.below(300),
                    ..Default::default()
                };
                if request == sys::POSTBOX_REPLY {
                    field(0, bytes(&reply));
                } else {
                    let recv = sys::postbox_recv {
                        flags: sys::POSTBOX_TIMEOUT,
                        data,
                        len: rng.below(5000),
                        timeout_ns: rng.below(1_000_000),
                        ..recv_args()
                    };
                    let token = if rng.one_in(2) { 0 } else { reply.token };
                    field(
                        0,
                        bytes(&sys::postbox_reply_recv {
                            reply: sys::postbox_reply { token, ..reply },
                            recv,
                            ..Default::default()
                        }),
                    );
                }
            }
            sys::POSTBOX_PAIR if !rng.one_in(4) => {
                field(4, &(rng.below(3) as u32 * 16).to_ne_bytes());
                field(offset_of!(sys::postbox_pair, reserved), &[0; 4]);
            }
            sys::POSTBOX_CONNECT if !rng.one_in(4) => {
                arena.put(data, name.as_bytes());
                field(offset_of!(sys::postbox_connect, name), &data.to_ne_bytes());
                let len = name.len() as u32;
                field(
                    offset_of!(sys::postbox_connect, name_len),
                    &len.to_ne_bytes(),
                );
                field(offset_of!(sys::postbox_connect, number), &[0; 4]);
                field(offset_of!(sys::postbox_connect, timeout_ns), &[0; 8]);
            }
            sys::POSTBOX_ACCEPT if !rng.one_in(4) => {
                field(offset_of!(sys::postbox_accept, timeout_ns), &[0; 8]);
                field(offset_of!(sys::postbox_accept, reserved), &[0; 4]);
            }
            sys::POSTBOX_READ | sys::POSTBOX_WRITE if !rng.one_in(4) => {
                field(offset_of!(sys::postbox_io, data), &data.to_ne_bytes());
                field(
                    offset_of!(sys::postbox_io, len),
                    &rng.below(9000).to_ne_bytes(),
                );
                field(
                    offset_of!(sys::postbox_io, timeout_ns),
                    &rng.below(10_000).to_ne_bytes(),
                );
            }
            sys::POSTBOX_ACQUIRE
            | sys::POSTBOX_RELEASE
            | sys::POSTBOX_COUNT_DOWN
            | sys::POSTBOX_WAIT
            | sys::POSTBOX_JOIN
            | sys::POSTBOX_LEAVE
                if !rng.one_in(4) =>
            {
                field(
                    offset_of!(sys::postbox_sync, count),
                    &rng.below(4).to_ne_bytes(),
                );
                field(offset_of!(sys::postbox_sync, timeout_ns), &[0; 8]);
                field(offset_of!(sys::postbox_sync, reserved), &[0; 4]);
            }
            sys::POSTBOX_GRANT | sys::POSTBOX_REVOKE if !rng.one_in(4) => {
                field(4, &(rng.below(4) as u32).to_ne_bytes());
                let (id, rights) = (rng.below(100) as u32, rng.below(4) as u32);
                field(offset_of!(sys::postbox_grant, id), &id.to_ne_bytes());
                field(
                    offset_of!(sys::postbox_grant, rights),
                    &rights.to_ne_bytes(),
                );
            }
            sys::POSTBOX_WAIT_WORD | sys::POSTBOX_WAKE_WORD if !rng.one_in(4) => {
                let offset = 8 * rng.below(1030);
                field(offset_of!(sys::postbox_word, offset), &offset.to_ne_bytes());
                // What the kernel may have given, or what is there.
                let value = rng.below(6);
                field(offset_of!(sys::postbox_word, value), &value.to_ne_bytes());
                let time = rng.below(10_000);
                field(
                    offset_of!(sys::postbox_word, timeout_ns),
                    &time.to_ne_bytes(),
                );
                let count = rng.below(3) as u32;
                field(offset_of!(sys::postbox_word, count), &count.to_ne_bytes());
                field(offset_of!(sys::postbox_word, state), &[0; 4]);
            }
            sys::POSTBOX_RESERVE if !rng.one_in(4) => {
                field(8, &rng.below(5000).to_ne_bytes());
                field(16, &rng.below(10_000).to_ne_bytes());
            }
            sys::POSTBOX_SEND_BATCH | sys::POSTBOX_RECV_BATCH if !rng.one_in(4) => {
                let entry = if request == sys::POSTBOX_SEND_BATCH {
                    send_args().size
                } else {
                    recv_args().size
                };
                let count = rng.below(20);
                for i in 0..count {
                    let mut one = vec![0u8; entry as usize];
                    one[..4].copy_from_slice(&entry.to_ne_bytes());
                    one[8..16].copy_from_slice(&(data + i).to_ne_bytes());
                    one[16..24].copy_from_slice(&rng.below(3000).to_ne_bytes());
                    arena.put(arena.at + 12 * PAGE as u64 + i * u64::from(entry), &one);
                }
                field(8, &(arena.at + 12 * PAGE as u64).to_ne_bytes());
                field(16, &(count as u32).to_ne_bytes());
                field(20, &entry.to_ne_bytes());
                field(24, &rng.below(10_000).to_ne_bytes());
            }
            _ => {}
        }
        let said = match rng.below(20) {
            0 => rng.below(300) as u32,
            1 => rng.word() as u32,
            2 => size as u32 + 8,
            _ => size as u32,
        };
        field(0, &said.to_ne_bytes());
        if rng.one_in(8) {
            // One bit is wrong.
            let bit = rng.below(size as u64 * 8) as usize;
            argument[bit / 8] ^= 1 << (bit % 8);
        }
        if rng.one_in(50) {
            request ^= 1 << rng.below(32);
        }
        arena.put(arena.at, &[0; 512]);
        arena.put(arena.at, &argument);
        let at = if rng.one_in(40) {
            word(rng, &arena)
        } else {
            arena.at
        };
        let fresh;
        let mut handle = rng.pick(handles);
        let binds = [sys::POSTBOX_OPEN, sys::POSTBOX_PAIR, sys::POSTBOX_CONNECT];
        if binds.contains(&request) && rng.one_in(2) {
            fresh = Handle::unbound();
            handle = &fresh;
        }
        let result = match rng.below(30) {
            0 => rustix::io::read(handle, &mut vec![0; rng.below(2000) as usize]).map(drop),
            1 => rustix::io::write(handle, &vec![1; rng.below(2000) as usize]).map(drop),
            2 => {
                poll(handle, libc::POLLIN | libc::POLLOUT, Duration::ZERO);
                Ok(())
            }
            _ => ioctl(handle, request, at),
        };
        counts[usize::from(result.is_err())] += 1;
    }
    counts
}

#[test]
fn g11_random_requests_from_several_processes() {
    isolated(|| {
        let test = || {
            let mut rng = Rng::from_env("hostile");
            let make = |capacity: u64, bytes: u64, name: Option<&str>| {
                let rights = SEND | RECEIVE | ADMIN;
                Make {
                    capacity,
                    capacity_bytes: bytes,
                    rights,
                    mode: 0o666,
                    ..Make::default()
                }
                .open(name)
                .expect("new")
            };
            let usage = || {
                let usage = raw::usage(Handle::unbound()).expect("it tells");
                (usage.objects, usage.messages, usage.bytes, usage.files)
            };
            let before = usage();
            let (first, second) = link();
            let handles = [
                make(0, 0, None),
                make(1, 0, Some("fuzz")),
                make(50, 20_000, None),
                make(300, 0, Some("b/c")),
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
            ];
            let counts = Ledger::new(2);
            let children: Vec<Child> = (0..4)
                .map(|_| {
                    let mut rng = rng.split();
                    let (handles, counts) = (&handles, &counts);
                    spawn(move || {
                        let done = fuzz(&mut rng, handles, 15_000);
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
                "hostile: {good} requests succeeded, {bad} were refused"
            ));
            assert!(
                good > 100 && bad > 100,
                "that tried nothing: {good} succeeded, {bad} failed"
            );
            // What is left in the mailboxes and of names is still in order.
            for handle in &handles[..4] {
                let info = handle.info();
                assert_eq!((info.waiting_senders, info.waiting_receivers), (0, 0));
                assert_eq!(info.unacknowledged, 0, "those who took are dead");
                // A request whose caller gave up was sent, and not received.
                assert!(info.sent >= info.received + info.messages);
                let mut left = 0;
                let mut room = vec![MaybeUninit::uninit(); 1 << 20];
                let mut args = sys::postbox_recv {
                    flags: NEVER.0,
                    fd_max: 64,
                    ..Default::default()
                };
                while raw::recv_files(handle, &mut room, &mut Vec::new(), &mut args).is_ok() {
                    left += 1;
                    args.fd_max = 64;
                }
                assert_eq!(left, info.messages);
            }
            for handle in &handles[9..] {
                let info = handle.info();
                assert_eq!((info.waiting_senders, info.waiting_receivers), (0, 0));
            }
            drop(handles);
            // What is at a port goes with its handles; some may be in messages of what has a name.
            for name in list().into_iter().filter(|name| !name.is_empty()) {
                unlink(&name).expect("root may");
            }
            wait_until("everything to go", || {
                list().is_empty() && usage() == before
            });
            works();
        };
        assert_eq!(
            Spawn::new().ipc_ns().run(test).wait_at_most(4 * WATCHDOG),
            Exit::Code(0)
        );
    });
}

/// A round trip, a wait, a death: it all still works.
fn works() {
    let (tx, rx) = Handle::anonymous(2).split();
    tx.put("one");
    assert_eq!(rx.get(), "one");
    let receiver = spawn(|| {
        tx.close_copy();
        assert_eq!(rx.recv(FOREVER).expect("it comes").text(), "two");
        rx.take(FOREVER).expect("it comes");
    });
    rx.wait_receivers(1);
    tx.put("two");
    tx.put("three");
    receiver.ok();
    drop(tx);
    wait_until("the death of the receiver", || {
        rx.info().unacknowledged == 0
    });
    let three = rx.recv(NEVER).expect("it came back");
    assert_eq!((three.text(), three.redelivered), ("three", true));
    assert_eq!(rx.recv(NEVER), Err(Errno::PIPE));
}

#[test]
fn g11_buffers_that_come_and_go_during_the_calls() {
    isolated(|| {
        let mailbox = Handle::anonymous(8);
        let arena = Arena::new(3);
        let stop = AtomicBool::new(false);
        let [sent, received, faults] = [(); 3].map(|()| AtomicU64::new(0));
        let middle = arena.at + PAGE as u64;
        let (flags, timeout_ns) = (sys::POSTBOX_TIMEOUT, 1_000_000);
        let start = Instant::now();
        let goes_on = move |n: u64| n < 500 && start.elapsed() < Duration::from_secs(20);
        let address = middle - 8;
        scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng::from_env("unmap");
                while !stop.load(Relaxed) {
                    let protection = *rng.pick(&[
                        libc::PROT_NONE,
                        libc::PROT_READ,
                        libc::PROT_READ | libc::PROT_WRITE,
                    ]);
                    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                    // SAFETY: a page of the arena, to which no reference leads; only the kernel reads and writes it here.
                    unsafe {
                        if rng.one_in(3) {
                            libc::munmap(middle as *mut _, PAGE);
                        }
                        libc::mmap(middle as *mut _, PAGE, protection, flags, -1, 0);
                    }
                    std::thread::yield_now();
                }
            });
            // The first eight bytes are in the page that stays, and number the messages; the rest is where it hurts.
            let workers = [
                scope.spawn(|| {
                    let mut n = 0u64;
                    while goes_on(n) {
                        arena.put(address, &n.to_ne_bytes());
                        let args = sys::postbox_send {
                            data: address,
                            len: 8 + 2000,
                            flags,
                            timeout_ns,
                            ..send_args()
                        };
                        match ioctl(&mailbox, sys::POSTBOX_SEND, (&raw const args) as u64) {
                            Ok(()) => n += 1,
                            Err(Errno::FAULT) => {
                                faults.fetch_add(1, Relaxed);
                            }
                            Err(e) => assert_eq!(e, Errno::TIMEDOUT, "send"),
                        }
                    }
                    sent.store(n, Relaxed);
                }),
                scope.spawn(|| {
                    let own = Arena::new(1);
                    let mut n = 0u64;
                    while goes_on(n) {
                        // Into the page that comes and goes.
                        let args = sys::postbox_recv {
                            data: middle,
                            len: 4096,
                            flags,
                            timeout_ns,
                            ..recv_args()
                        };
                        own.put(own.at, bytes(&args));
                        match ioctl(&mailbox, sys::POSTBOX_RECV, own.at) {
                            Ok(()) => n += 1,
                            Err(Errno::FAULT) => {
                                faults.fetch_add(1, Relaxed);
                            }
                            Err(e) => assert_eq!(e, Errno::TIMEDOUT, "receive"),
                        }
                    }
                    received.store(n, Relaxed);
                }),
            ];
            workers
                .into_iter()
                .for_each(|worker| worker.join().expect("no panic"));
            stop.store(true, Relaxed);
        });
        let (sent, mut received) = (sent.load(Relaxed), received.load(Relaxed));
        let faults = faults.load(Relaxed);
        assert!(
            sent > 0 && received > 0 && faults > 0,
            "nothing was tried: {sent} sent, {received} received, {faults} faults"
        );
        // What is left continues where the receiver was: every faulted receive left its message at the head.
        while let Ok(got) = mailbox.recv(NEVER) {
            assert_eq!(got.data.len(), 2008);
            assert_eq!(
                u64::from_ne_bytes(got.data[..8].try_into().expect("eight bytes")),
                received
            );
            received += 1;
        }
        assert_eq!((sent, sent), (received, mailbox.info().sent));
        works();
    });
}

#[test]
fn g11_arguments_that_change_during_the_call() {
    isolated(|| {
        // Sizes and lengths are read once: what was checked is what is used.
        let mailbox = Handle::anonymous(4);
        let arena = Arena::new(3);
        let stop = AtomicBool::new(false);
        scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng::from_env("change");
                while !stop.load(Relaxed) {
                    arena.put(
                        arena.at,
                        &rng.pick(&[0u32, 4, 48, 80, 4096, u32::MAX]).to_ne_bytes(),
                    );
                    arena.put(
                        arena.at + 16,
                        &rng.pick(&[0u64, 1, 100, 5000, 1 << 40, u64::MAX])
                            .to_ne_bytes(),
                    );
                    std::thread::yield_now();
                }
            });
            for i in 0..4000u32 {
                let request = if i % 2 == 0 {
                    sys::POSTBOX_SEND
                } else {
                    sys::POSTBOX_RECV
                };
                let size = if i % 2 == 0 {
                    send_args().size
                } else {
                    recv_args().size
                };
                let mut argument = vec![0u8; size as usize];
                argument[..4].copy_from_slice(&size.to_ne_bytes());
                argument[4..8].copy_from_slice(&NEVER.0.to_ne_bytes());
                argument[8..16].copy_from_slice(&(arena.at + PAGE as u64).to_ne_bytes());
                argument[16..24].copy_from_slice(&100u64.to_ne_bytes());
                arena.put(arena.at, &[0; PAGE]);
                arena.put(arena.at, &argument);
                let result = ioctl(&mailbox, request, arena.at);
                let expected = [
                    Ok(()),
                    Err(Errno::AGAIN),
                    Err(Errno::INVAL),
                    Err(Errno::MSGSIZE),
                    Err(Errno::TOOBIG),
                    Err(Errno::FAULT),
                ];
                assert!(expected.contains(&result), "{result:?}");
            }
            stop.store(true, Relaxed);
        });
        let info = mailbox.info();
        assert_eq!(info.sent, info.received + info.messages);
        while mailbox.recv_room(1 << 16, NEVER).is_ok() {}
        works();
    });
}

#[test]
fn g11_handles_that_are_closed_and_replaced_during_the_calls() {
    isolated(|| {
        let (one, two) = (Handle::anonymous(2), Handle::anonymous(2));
        let target = one.dup(SEND | RECEIVE).expect("it has them");
        let fd = target.as_raw_fd();
        let stop = AtomicBool::new(false);
        scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        let _ = target.send("x", Wait(sys::POSTBOX_TIMEOUT, 50_000));
                        let _ = target.take(Wait(sys::POSTBOX_TIMEOUT, 50_000));
                        poll(&target, libc::POLLIN, Duration::ZERO);
                    }
                });
            }
            for i in 0..600 {
                let fresh = if i % 2 == 0 { &one } else { &two }
                    .dup(SEND | RECEIVE)
                    .expect("it has them");
                // SAFETY: no pointers; the number stays open, and `target` goes on owning it.
                check("dup3", unsafe {
                    libc::dup3(fresh.as_raw_fd(), fd, libc::O_CLOEXEC)
                });
            }
            stop.store(true, Relaxed);
        });
        drop(target);
        for handle in [one, two] {
            let info = handle.info();
            assert_eq!(
                (info.senders, info.receivers, info.unacknowledged),
                (1, 1, 0)
            );
            assert_eq!((info.waiting_senders, info.waiting_receivers), (0, 0));
        }
        works();
    });
}

#[test]
fn g11_many_waiters_that_are_killed_together() {
    isolated(|| {
        let mailbox = Handle::anonymous(UNBOUNDED);
        let crowd = spawn(|| {
            scope(|scope| {
                for i in 0..60 {
                    let mailbox = &mailbox;
                    scope.spawn(move || {
                        if i % 2 == 0 {
                            drop(mailbox.recv(FOREVER));
                        } else {
                            drop(mailbox.take(FOREVER));
                        }
                    });
                }
            });
        });
        mailbox.wait_receivers(60);
        for _ in 0..10 {
            mailbox.put("x");
        }
        crowd.destroy();
        let info = mailbox.info();
        assert_eq!((info.waiting_receivers, info.unacknowledged), (0, 0));
        assert_eq!(info.sent, info.received + info.messages);
        while mailbox.recv(NEVER).is_ok() {}
        works();
    });
}
