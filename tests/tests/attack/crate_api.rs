//! Safe functions of the crate, called by safe code as a hostile user would, and its types beside a peer that writes
//! whatever it likes into memory that is shared.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use postbox::raw::{self, Leases, SendEntry, SendFd};
use postbox::typed::{Decode, Postcard, PostcardError};
use postbox::{ErrorKind, Ring, Segment, sys};
use postbox_tests::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Each flag that a safe function does not know, and the one that makes its pointer to files one to a struct of
/// pointers.
fn hostile_flags(known: u32) -> impl Iterator<Item = u32> {
    (0..32)
        .map(|bit| 1 << bit)
        .filter(move |flag| flag & known == 0)
}

const WAIT: u32 =
    sys::POSTBOX_NONBLOCK | sys::POSTBOX_TIMEOUT | sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME;

/// Files whose numbers spell a `struct postbox_leases` that borrows a block and has its number written to `WORD`.
#[test]
fn raw_send_with_leases_flag_writes_nothing() {
    const WORD: usize = 0x7e00_0000_0064;
    as_each_attacker(|_| {
        let (prot, flags) = (
            RW,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
        );
        let at = (WORD & !(PAGE - 1)) as *mut libc::c_void;
        // SAFETY: it is new memory, where there was none.
        let page = unsafe { libc::mmap(at, PAGE, prot, flags, -1, 0) };
        assert_eq!(page, at);
        // SAFETY: it was just mapped, stays so, and is aligned.
        let word = unsafe { &*(WORD as *const AtomicU32) };
        word.store(0x5ec2e7, Relaxed);

        let pool = Handle::pool(4, PAGE as u64);
        let mailbox = Handle::anonymous(4);
        let file = std::fs::File::open("/proc/self/exe").expect("there");
        let numbered = |fd: BorrowedFd<'_>, least: i32| {
            let fd = rustix::io::fcntl_dupfd_cloexec(fd, least).expect("it is free");
            assert_eq!(fd.as_raw_fd(), least);
            fd
        };
        let size = numbered(file.as_fd(), 72);
        let low = numbered(file.as_fd(), 100);
        let pool = numbered(pool.as_fd(), 140);
        // SAFETY: stdin is open, and stays so.
        let zero = unsafe { BorrowedFd::borrow_raw(0) };
        let none = SendFd::new(zero, 0);
        let fds = [
            SendFd::new(size.as_fd(), pool.as_raw_fd() as u32),
            none,
            none,
            none,
            SendFd::new(low.as_fd(), (WORD >> 32) as u32),
            SendFd::new(zero, 1),
            none,
            none,
            none,
        ];
        assert_eq!(size_of_val(&fds), size_of::<sys::postbox_leases>());
        let before = format!("{fds:?}");
        let unchanged = |what: &str| {
            assert_eq!(
                word.load(Relaxed),
                0x5ec2e7,
                "{what} wrote to memory of others"
            );
            assert_eq!(
                format!("{fds:?}"),
                before,
                "{what} wrote to what was lent to be read"
            );
        };

        let flags = sys::POSTBOX_LEASES;
        let send = sys::postbox_send {
            flags,
            ..Default::default()
        };
        let sent = raw::send_files(&mailbox, b"", &fds, &send);
        unchanged("send_files");
        assert_eq!(sent, Err(Errno::INVAL));
        let mut call = sys::postbox_call {
            request: send,
            ..Default::default()
        };
        let called = raw::call(&mailbox, b"", &fds, &mut [], &mut Vec::new(), &mut call);
        unchanged("call");
        assert_eq!(called, Err(Errno::INVAL));
        let reply = sys::postbox_reply {
            flags,
            token: 1,
            ..Default::default()
        };
        let replied = raw::reply(&mailbox, b"", &fds, &reply);
        unchanged("reply");
        assert_eq!(replied, Err(Errno::INVAL));
        let mut both = sys::postbox_reply_recv {
            reply,
            ..Default::default()
        };
        let replied = raw::reply_recv(&mailbox, b"", &fds, &mut [], &mut Vec::new(), &mut both);
        unchanged("reply_recv");
        assert_eq!(replied, Err(Errno::INVAL));
        assert_eq!(mailbox.info().messages, 0);
    });
}

#[test]
fn raw_functions_refuse_flags_that_they_do_not_know() {
    as_each_attacker(|_| {
        let refused = Err::<(), _>(Errno::INVAL);
        let none = Err::<usize, _>(Errno::INVAL);
        let mailbox = Handle::anonymous(4);
        mailbox.put("x");
        let room = &mut [MaybeUninit::uninit(); 8];
        let files = &mut Vec::new();
        let pipe = Handle::unbound();
        for flags in hostile_flags(WAIT | sys::POSTBOX_SEND_RESERVED) {
            let args = sys::postbox_send {
                flags,
                ..Default::default()
            };
            assert_eq!(raw::send(&mailbox, b"y", &args), refused, "{flags:#x}");
            assert_eq!(raw::send_files(&mailbox, b"y", &[], &args), refused);
            let mut args = sys::postbox_call {
                request: args,
                ..Default::default()
            };
            let called = raw::call(&mailbox, b"y", &[], room, files, &mut args);
            assert_eq!(called.map(drop), refused);
        }
        let known = WAIT | sys::POSTBOX_RECV_ACK | sys::POSTBOX_RECV_FROM;
        for flags in hostile_flags(known) {
            let mut args = sys::postbox_recv {
                flags,
                fd_max: u32::MAX,
                ..Default::default()
            };
            assert_eq!(
                raw::recv(&mailbox, &mut [0; 8], &mut args),
                none,
                "{flags:#x}"
            );
            let received = raw::recv_files(&mailbox, room, files, &mut args);
            assert_eq!(received.map(drop), refused, "{flags:#x}");
            let mut args = sys::postbox_reply_recv {
                recv: args,
                ..Default::default()
            };
            let received = raw::reply_recv(&mailbox, b"", &[], room, files, &mut args);
            assert_eq!(received.map(drop), refused);
            if flags & sys::POSTBOX_CALL_FETCH == 0 {
                let mut args = sys::postbox_call {
                    reply: args.recv,
                    ..Default::default()
                };
                let called = raw::call(&mailbox, b"y", &[], room, files, &mut args);
                assert_eq!(called.map(drop), refused);
                let fetched = raw::call_fetch(&mailbox, room, files, &mut args);
                assert_eq!(fetched.map(drop), refused);
            }
        }
        for flags in hostile_flags(WAIT) {
            let entries = [SendEntry::new(b"y", 0)];
            assert_eq!(raw::send_batch(&mailbox, &entries, flags, 0), none);
            assert_eq!(raw::read(&pipe, &mut [0; 8], flags, 0), none);
            assert_eq!(raw::write(&pipe, b"y", flags, 0), none);
        }
        assert_eq!(mailbox.info().messages, 1, "nothing was sent or received");
    });
}

/// A driver that accepts every request, and writes nothing: `/dev/null` does not, but this crate cannot know.
#[test]
fn raw_takes_no_descriptor_that_the_kernel_has_not_made() {
    as_each_attacker(|_| {
        let null = std::fs::File::open("/dev/null").expect("there");
        let (pipe, _) = std::io::pipe().expect("a pipe");
        for fd in [null.as_fd(), pipe.as_fd()] {
            let room = &mut [MaybeUninit::uninit(); 8];
            let mut args = sys::postbox_recv {
                fd_max: 64,
                fd_count: 64,
                msg_len: 8,
                ..Default::default()
            };
            let received = raw::recv_files(fd, room, &mut Vec::new(), &mut args);
            assert_eq!(received.map(drop), Err(Errno::NOTTY));
            assert_eq!((args.fd_count, args.msg_len), (0, 0));
            assert_eq!(raw::dup(fd, SEND).map(drop), Err(Errno::NOTTY));
            let mut args = sys::postbox_accept::default();
            assert_eq!(raw::accept(fd, &mut args).map(drop), Err(Errno::NOTTY));
            assert!(args.fd < 0, "stdin is nobody's to close");
            let mut args = sys::postbox_pair::default();
            assert_eq!(raw::pair(fd, &mut args).map(drop), Err(Errno::NOTTY));
            assert!(args.fd < 0, "stdin is nobody's to close");
        }
        // A handle that receives nothing leaves no count behind.
        let mailbox = Handle::anonymous(4);
        let mut args = sys::postbox_recv {
            flags: NEVER.0,
            msg_len: 8,
            fd_count: 64,
            ..Default::default()
        };
        let room = &mut [MaybeUninit::uninit(); 8];
        let received = raw::recv_files(&mailbox, room, &mut Vec::new(), &mut args);
        assert_eq!(received.map(drop), Err(Errno::AGAIN));
        assert_eq!((args.fd_count, args.msg_len), (0, 0));
    });
}

/// A segment of memory that somebody else in the process has: its number is enough to guess.
#[test]
fn raw_open_makes_nothing_of_a_descriptor_by_number() {
    as_each_attacker(|_| {
        let theirs: OwnedFd = memory(PAGE, 0, SEALS);
        // SAFETY: stdin is this process's, and closed with the descriptor.
        drop(unsafe { OwnedFd::from_raw_fd(0) });
        let zero = rustix::io::fcntl_dupfd_cloexec(&theirs, 0).expect("0 is free");
        assert_eq!(zero.as_raw_fd(), 0);
        for memfd in [theirs.as_raw_fd(), 0] {
            for kind in [sys::POSTBOX_KIND_SEGMENT, sys::POSTBOX_KIND_POOL] {
                let pool = u64::from(kind == sys::POSTBOX_KIND_POOL);
                let mut args = sys::postbox_open {
                    kind,
                    flags: sys::POSTBOX_O_CREATE,
                    rights: SEND | RECEIVE,
                    mode: 0o600,
                    capacity: pool,
                    capacity_bytes: pool * 64,
                    memfd,
                    ..Default::default()
                };
                let made = raw::open(Handle::unbound(), None, &mut { args });
                assert_eq!(made, Err(Errno::BADF), "of descriptor {memfd}");
                let borrowed = theirs.as_fd();
                let made = raw::open_memory(Handle::unbound(), None, borrowed, &mut args);
                assert_eq!(made, Ok(()), "of a descriptor that is lent");
            }
        }
    });
}

/// Leases that were given to one direction and then used for another: the kernel reads no entry that is not there.
#[test]
fn raw_leases_lend_no_entries_that_are_not_there() {
    as_each_attacker(|_| {
        let pool = Handle::pool(4, 64);
        let mailbox = Handle::anonymous(4);
        let blocks = pool.borrow(2, NEVER).expect("all are free");
        let entries = [0, 1].map(|index: usize| sys::postbox_lease {
            block: blocks[index],
            ..Default::default()
        });
        let send = sys::postbox_send::default();
        // After `room`, nothing is left of `entries`.
        let mut leases = Leases::new(pool.as_fd()).entries(&entries).room(&mut []);
        assert_eq!(leases.args().count, 0);
        assert_eq!(
            raw::send_leases(&mailbox, b"none", &[], &mut leases, &send),
            Ok(())
        );
        let mut leases = Leases::new(pool.as_fd()).entries(&entries);
        assert_eq!(
            raw::send_leases(&mailbox, b"two", &[], &mut leases, &send),
            Ok(())
        );

        // A receive that has no room says how many there are: they are not here.
        let mut args = sys::postbox_recv::default();
        let room = &mut [MaybeUninit::uninit(); 8];
        let mut none = Leases::new(pool.as_fd()).room(&mut []);
        let files = &mut Vec::new();
        let got = raw::recv_leases(&mailbox, room, files, &mut none, &mut args);
        assert_eq!(got.map(|bytes| bytes.to_vec()), Ok(b"none".to_vec()));
        let got = raw::recv_leases(&mailbox, room, files, &mut none, &mut args);
        assert_eq!(got.map(drop), Err(Errno::MSGSIZE));
        assert_eq!(none.args().count, 2);
        assert_eq!(args.flags & sys::POSTBOX_LEASES, 0, "it would lie of `fds`");
        assert_eq!(
            raw::send_leases(&mailbox, b"none", &[], &mut none, &send),
            Ok(())
        );
        assert_eq!(none.args().count, 0);
    });
}

#[test]
fn lock_timeout_ends_though_a_peer_changes_the_word_all_the_time() {
    as_each_attacker(|_| {
        let segment = Segment::options().anonymous(4096).expect("memory");
        let (mapping, theirs) = (
            segment.attach().expect("memory"),
            segment.attach().expect("memory"),
        );
        let done = AtomicBool::new(false);
        scope(|scope| {
            scope.spawn(|| {
                let word = theirs.atomic_u64(0).expect("it is aligned");
                // No number comes twice: where the kernel finds that such a process is not there, the word
                // names another one by then.
                let mut number = 1;
                while !done.load(Relaxed) {
                    number += 1;
                    word.store(number, Relaxed);
                }
            });
            let mutex = mapping.mutex::<u64>(0).expect("it is aligned");
            // While the peer is preempted the word can be taken over, from an owner that is not there.
            for _ in 0..scaled(20) {
                match mutex.lock_timeout(Duration::from_millis(20)) {
                    Ok(guard) => drop(guard),
                    Err(error) => assert!(
                        matches!(error.kind, ErrorKind::Timeout | ErrorKind::Unrecoverable),
                        "{error}"
                    ),
                }
                match mutex.try_lock() {
                    Ok(guard) => drop(guard),
                    Err(error) => assert!(
                        matches!(error.kind, ErrorKind::NotYet | ErrorKind::Unrecoverable),
                        "{error}"
                    ),
                }
            }
            done.store(true, Relaxed);
        });
    });
}

/// A message of zeros that says of itself that it is many large values.
#[test]
fn postcard_message_does_not_fill_the_memory_of_its_receiver() {
    as_each_attacker(|_| {
        const LIMIT: u64 = 256 * 1024 * 1024;
        let current = Some(LIMIT);
        let limit = Rlimit {
            current,
            ..getrlimit(Resource::As)
        };
        setrlimit(Resource::As, limit).expect("it is lower");
        type Large = [u64; 32];
        // 1,048,576 elements.
        let mut message = vec![0x80, 0x80, 0x40];
        message.resize(message.len() + (1 << 20), 0);
        let decoded = <Postcard as Decode<Vec<Option<Large>>>>::decode(&message);
        assert_eq!(decoded.map(drop), Err(PostcardError::TooLarge));
        let small: Vec<Option<Large>> = Postcard::decode(&[&[0x80, 0x10][..], &[0; 2048]].concat())
            .expect("so much is no harm");
        assert_eq!(small.len(), 2048);
    });
}

/// The producers of a ring write whatever they like to its tail and data, also while records are looked at, one by one
/// and in batches.
#[test]
fn ring_batches_of_a_hostile_producer_are_within_the_ring() {
    const CAPACITY: usize = 4096;
    const HEAD: usize = sys::POSTBOX_RING_HEAD_PAGE as usize * PAGE;
    const TAIL: usize = sys::POSTBOX_RING_TAIL_PAGE as usize * PAGE;
    const DATA: usize = sys::POSTBOX_RING_DATA_PAGE as usize * PAGE;
    as_each_attacker(|_| {
        let mut rng = Rng::from_env("hostile producer");
        let mut seen = 0;
        for round in 0..scaled(20) {
            let many = round % 2 == 0;
            let mut options = Ring::options();
            options.capacity(CAPACITY as u64).many(many);
            let (sender, receiver) = options.pair().expect("a ring");
            let mut seed = rng.split();
            let hostility = 1 << (12 - round / 2 % 4 * 4);
            let attack = spawn(|| {
                raw::ring_attach(&sender, sys::POSTBOX_RING_PRODUCER).expect("nobody else");
                let map = |at, len, prot| {
                    Mapped::new(&sender, at, len, prot, libc::MAP_SHARED).expect("its right")
                };
                let head = map(HEAD, PAGE, R);
                let tail = map(TAIL, PAGE, RW);
                let data = map(DATA, 2 * CAPACITY, RW);
                loop {
                    // Records of two units, and now and then headers and positions that are committed, or not, of
                    // lengths that can be, and cannot.
                    let odd = seed.one_in(hostility);
                    let header = match seed.below(3) {
                        _ if !odd => 2 << 62 | 8,
                        0 => seed.word(),
                        1 => 2 << 62 | seed.below(5000),
                        _ => (1 + seed.below(3)) << 62 | seed.below(64),
                    };
                    let unit = seed.below(CAPACITY as u64 / 8) as usize * 2;
                    data.word((unit + usize::from(odd)) * 8)
                        .store(header, Relaxed);
                    if seed.one_in(4) {
                        let odd = seed.one_in(hostility);
                        let ahead = match odd {
                            true => seed.below(520) as u32,
                            false => seed.below(4) as u32 * 2,
                        };
                        let last = if odd { seed.below(5000) } else { 8 };
                        let head = head.load(size_of::<[u64; 16]>()) as u32;
                        let tail = tail.word(size_of::<[u64; 32]>());
                        let position = u64::from(head.wrapping_add(ahead));
                        tail.store(position | last << 32, Relaxed);
                    }
                    if seed.one_in(64) {
                        let _ = raw::ring_wake(&sender, sys::POSTBOX_RING_CONSUMER);
                    }
                }
            });
            let mut consumer = receiver.attach().expect("nobody else");
            let patience = postbox::Wait::Timeout(Duration::from_millis(1));
            for turn in 0..200 {
                let mut look = |bytes: Vec<u8>| {
                    assert!(bytes.len() < CAPACITY, "longer than the ring");
                    seen += 1;
                };
                let known = |error: postbox::Error| {
                    let kinds = [ErrorKind::Corrupt, ErrorKind::Timeout];
                    assert!(kinds.contains(&error.kind), "{error}");
                };
                if turn % 2 == 0 {
                    let mut batch = consumer.batch();
                    match batch.records_with(patience) {
                        Ok(records) => {
                            let records: Vec<_> = records.collect();
                            assert!(records.len() <= CAPACITY / 8, "more than there is room for");
                            records.iter().for_each(|record| look(record.to_vec()));
                        }
                        Err(error) => known(error),
                    }
                } else {
                    match consumer.recv_with(patience) {
                        Ok(record) => look(record.to_vec()),
                        Err(error) => known(error),
                    }
                }
            }
            attack.destroy();
        }
        assert!(seen > 0, "no record was looked at");
    });
}
