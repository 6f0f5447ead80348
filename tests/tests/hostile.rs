//! Guarantee 11: no input from user space crashes, hangs or leaks the kernel.
//!
//! What is wrong is refused with the error that the header names, and nothing is done. The last tests only throw things at
//! the module, from several processes; that it lives, and that the kernel has nothing to report, is what they show.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use postbox::sys;
use postbox_tests::*;

/// The requests, and the sizes of their arguments.
const REQUESTS: [(&str, u32, usize); 14] = [
    (
        "VERSION",
        sys::POSTBOX_VERSION,
        size_of::<sys::postbox_version>(),
    ),
    ("OPEN", sys::POSTBOX_OPEN, size_of::<sys::postbox_open>()),
    ("DUP", sys::POSTBOX_DUP, size_of::<sys::postbox_dup>()),
    (
        "UNLINK",
        sys::POSTBOX_UNLINK,
        size_of::<sys::postbox_unlink>(),
    ),
    (
        "SET_ATTR",
        sys::POSTBOX_SET_ATTR,
        size_of::<sys::postbox_attr>(),
    ),
    ("INFO", sys::POSTBOX_INFO, size_of::<sys::postbox_info>()),
    ("LIST", sys::POSTBOX_LIST, size_of::<sys::postbox_list>()),
    ("USAGE", sys::POSTBOX_USAGE, size_of::<sys::postbox_usage>()),
    ("SEND", sys::POSTBOX_SEND, size_of::<sys::postbox_send>()),
    ("RECV", sys::POSTBOX_RECV, size_of::<sys::postbox_recv>()),
    ("ACK", sys::POSTBOX_ACK, size_of::<sys::postbox_ack>()),
    (
        "RESERVE",
        sys::POSTBOX_RESERVE,
        size_of::<sys::postbox_reserve>(),
    ),
    (
        "SEND_BATCH",
        sys::POSTBOX_SEND_BATCH,
        size_of::<sys::postbox_batch>(),
    ),
    (
        "RECV_BATCH",
        sys::POSTBOX_RECV_BATCH,
        size_of::<sys::postbox_batch>(),
    ),
];

/// A request with its argument at any address.
fn ioctl(handle: &Handle, request: u32, address: u64) -> Result<()> {
    // SAFETY: the kernel checks the address, and writes at most where the tests own the memory.
    match unsafe { libc::ioctl(handle.as_raw_fd(), request as libc::Ioctl, address) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error())
            .expect("the error of a system call")),
    }
}

/// Memory of the tests' own, with a page behind it that cannot be accessed.
struct Arena {
    at: u64,
    len: usize,
}

impl Arena {
    fn new(pages: usize) -> Self {
        let (len, all) = (pages * PAGE, (pages + 1) * PAGE);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), all, protection, flags, -1, 0) };
        assert!(
            at != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        let arena = Arena { at: at as u64, len };
        // SAFETY: the last page of this mapping, which nothing uses.
        check("mprotect", unsafe {
            libc::mprotect(arena.end() as *mut _, PAGE, libc::PROT_NONE)
        });
        arena
    }

    fn end(&self) -> u64 {
        self.at + self.len as u64
    }

    /// Writes bytes into it.
    fn put(&self, address: u64, bytes: &[u8]) {
        assert!(address >= self.at && address + bytes.len() as u64 <= self.end());
        // SAFETY: within the mapping, to which no reference leads.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }

    /// The bytes in it.
    fn get(&self, address: u64, len: usize) -> Vec<u8> {
        assert!(address >= self.at && address + len as u64 <= self.end());
        let mut bytes = vec![0; len];
        // SAFETY: within the mapping, to which no reference leads.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), len) };
        bytes
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.at as *mut _, self.len + PAGE) };
    }
}

/// The bytes of an argument.
fn bytes<T: Copy>(args: &T) -> &[u8] {
    // SAFETY: the argument structs have no padding (their layout is checked), and are made of integers.
    unsafe { std::slice::from_raw_parts((&raw const *args).cast(), size_of::<T>()) }
}

/// Arguments that every request accepts on a mailbox with room, or refuses for a reason that is not their form, with an
/// arena that holds what they point to.
struct Good {
    arena: Arena,
    mailbox: Handle,
    unbound: Handle,
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
        Good {
            arena: Arena::new(4),
            mailbox,
            unbound: Handle::unbound(),
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
        let argument = match name {
            "VERSION" => bytes(&sys::postbox_version {
                size: 32,
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
                return (&self.unbound, bytes(&args).to_vec());
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
                size: 56,
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
            other => panic!("no such request: {other}"),
        };
        (&self.mailbox, argument)
    }

    /// What the request gives with a good argument.
    fn answer(name: &str) -> Result<()> {
        if matches!(name, "UNLINK" | "ACK") {
            Err(Errno::NOENT)
        } else {
            Ok(())
        }
    }

    /// Makes up for what a request that succeeded has done.
    fn undo(&mut self, name: &str, address: u64) {
        match name {
            "OPEN" => self.unbound = Handle::unbound(),
            "DUP" => {
                let fd = i32::from_ne_bytes(
                    self.arena
                        .get(address + 8, 4)
                        .try_into()
                        .expect("four bytes"),
                );
                // SAFETY: the kernel just made this descriptor for the argument that was there.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
            }
            _ => while self.mailbox.recv(NEVER).is_ok() {},
        }
    }
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
            for bad in [0, 1, 3, 4, 7, 8, size as u32 - 8, size as u32 - 1] {
                if bad < size as u32 {
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
            let before = state(&good.mailbox);
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
            for here in [1, 3, 4, 8, size - 1] {
                let address = end - here as u64;
                good.arena.put(address, &argument[..here]);
                assert_eq!(
                    ioctl(handle, request, address),
                    Err(Errno::FAULT),
                    "{name}, {here} bytes of it"
                );
            }
            assert_eq!(state(&good.mailbox), before, "{name} did something");
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
            let tells = !matches!(name, "UNLINK" | "SET_ATTR" | "SEND" | "ACK" | "RESERVE");
            let (handle, argument) = good.argument(name);
            good.arena.put(at, &argument);
            let fds = std::fs::read_dir("/proc/self/fd")
                .expect("procfs is mounted")
                .count();
            let before = state(&good.mailbox);
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
            } else {
                assert_eq!(result, Good::answer(name), "{name}");
            }
            assert_eq!(
                std::fs::read_dir("/proc/self/fd")
                    .expect("procfs is mounted")
                    .count(),
                fds,
                "{name}: a descriptor"
            );
            if name == "OPEN" {
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
                defined(sys::POSTBOX_SEND_RESERVED),
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
                defined(sys::POSTBOX_RECV_ACK),
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
                info_size: 224,
                reserved,
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
            (
                sys::postbox_open {
                    reserved: 1,
                    ..open
                },
                bad,
            ),
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
        for info_size in [0, 4, 223, PAGE as u32 + 1, u32::MAX] {
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
        for flags in [
            libc::O_RDONLY,
            libc::O_WRONLY,
            libc::O_RDWR | libc::O_NONBLOCK | libc::O_APPEND,
        ] {
            // SAFETY: a valid path.
            let fd = check("open", unsafe {
                libc::open(c"/dev/postbox".as_ptr(), flags)
            });
            // SAFETY: a descriptor that was just made, owned by nobody else.
            let handle = Handle(unsafe { OwnedFd::from_raw_fd(fd) });
            assert!(Make::default().bind(&handle, None).is_ok());
        }
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
    let names = ["a", "b/c", "..", "fuzz", ""];
    let mut counts = [0, 0];
    let start = Instant::now();
    for _ in 0..iterations {
        // On the slowest machine it is the time that ends it.
        if start.elapsed() > Duration::from_secs(20) {
            break;
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
                field(20, &(rng.below(8) as u32).to_ne_bytes());
                field(24, &(rng.below(16) as u32).to_ne_bytes());
                field(28, &(rng.below(0o1000) as u32).to_ne_bytes());
                field(68, &[0; 4]);
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
                field(40, &rng.below(64).to_ne_bytes());
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
        if request == sys::POSTBOX_OPEN && rng.one_in(2) {
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
        if result.is_ok() && request == sys::POSTBOX_DUP && at == arena.at {
            let fd = i32::from_ne_bytes(arena.get(at + 8, 4).try_into().expect("four bytes"));
            // SAFETY: the kernel just made this descriptor for this argument, if the argument said so; closing a number
            // that is not open does nothing.
            unsafe { libc::close(fd) };
        }
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
            let handles = [
                make(0, 0, None),
                make(1, 0, Some("fuzz")),
                make(50, 20_000, None),
                make(300, 0, Some("b/c")),
                Handle::unbound(),
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
                assert_eq!(info.sent, info.received + info.messages);
                let mut left = 0;
                while handle.recv_room(1 << 20, NEVER).is_ok() {
                    left += 1;
                }
                assert_eq!(left, info.messages);
            }
            drop(handles);
            for name in list() {
                unlink(&name).expect("root may");
            }
            assert_eq!(list(), Vec::<String>::new());
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
        std::thread::scope(|scope| {
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
        std::thread::scope(|scope| {
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
        std::thread::scope(|scope| {
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
            std::thread::scope(|scope| {
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
