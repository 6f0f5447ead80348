//! Bounded work: no lock is held, and no process kept from dying, for as long as an attacker likes.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use postbox::{raw, sys};
use postbox_tests::*;
use rustix::io::Errno;

/// Sends handles through a mailbox.
fn send_handles(mailbox: &Handle, handles: &[raw::SendFd<'_>]) -> Result<()> {
    raw::send_files(mailbox, b"", handles, &send_args())
}

#[test]
fn queue_stuffed_with_handles_is_in_nobodys_way() {
    as_each_attacker(|_| {
        let stuffed = Handle::anonymous(UNBOUNDED);
        // Each is a handle of its own, with fewer rights.
        let object = Handle::anonymous(1);
        let handles = vec![raw::SendFd::new(object.as_fd(), SEND); 64];
        // A container may have half as many files in messages as a user.
        let room = raw::usage(&stuffed).expect("it tells").files_max / 64 - 1;
        for _ in 0..140.min(room) {
            send_handles(&stuffed, &handles).expect("it leads nowhere");
        }
        let honest = Handle::anonymous(4);
        let handle = [raw::SendFd::new(stuffed.as_fd(), 0)];
        assert_eq!(send_handles(&honest, &handle), Ok(()));
        // A circle is found all the same.
        let handle = [raw::SendFd::new(honest.as_fd(), 0)];
        assert_eq!(send_handles(&stuffed, &handle), Err(Errno::LOOP));
        assert_eq!(send_handles(&object, &handle), Err(Errno::LOOP));
    });
}

#[test]
fn last_close_ends_calls_behind_many_messages() {
    as_each_attacker(|_| {
        let (tx, rx) = Handle::anonymous(UNBOUNDED).split();
        for _ in 0..20_000 {
            tx.send_priority("", 1, NEVER).expect("room");
        }
        scope(|scope| {
            let calls: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut args, mut files) = (sys::postbox_call::default(), Vec::new());
                        let mut room = [std::mem::MaybeUninit::uninit(); 8];
                        raw::call(&tx, b"", &[], &mut room, &mut files, &mut args).map(drop)
                    })
                })
                .collect();
            wait_until("the calls", || tx.info().messages == 20_016);
            drop(rx);
            for call in calls {
                assert_eq!(call.join().expect("it ends"), Err(Errno::PIPE));
            }
        });
    });
}

#[test]
fn receive_from_one_process_finds_it_behind_many_messages() {
    as_each_attacker(|_| {
        let mailbox = Handle::anonymous(UNBOUNDED);
        for n in 0..5_000 {
            mailbox.send_priority("", n % 100, NEVER).expect("room");
        }
        let other = spawn(|| {
            for n in 0..10 {
                mailbox.send_priority([n], 0, NEVER).expect("room");
            }
        });
        let (pid, ino) = (other.pid(), other.pidfd_ino());
        wait_until("its messages", || mailbox.info().messages == 5_010);
        other.ok();
        for n in 0..10 {
            let mut args = sys::postbox_recv {
                flags: sys::POSTBOX_RECV_FROM | sys::POSTBOX_NONBLOCK,
                pid,
                pidfd_ino: ino,
                ..recv_args()
            };
            let mut byte = [0];
            (args.data, args.len) = (byte.as_mut_ptr() as u64, 1);
            // SAFETY: the request writes one byte, which outlives it.
            unsafe { raw::ioctl(&mailbox, sys::POSTBOX_RECV, &mut args) }.expect("it is there");
            assert_eq!(byte, [n]);
        }
        assert_eq!(mailbox.info().messages, 5_000);
    });
}

#[test]
fn list_entries_have_nothing_that_the_kernel_did_not_write() {
    as_each_attacker(|_| {
        let name = unique("listed");
        let _listed = Handle::create(&name, 1);
        let size = size_of::<sys::postbox_info>() + 64;
        let mut entries = vec![0xffu8; 4 * size];
        let mut args = sys::postbox_list {
            size: size_of::<sys::postbox_list>() as u32,
            infos: entries.as_mut_ptr() as u64,
            count: 4,
            info_size: size as u32,
            ..Default::default()
        };
        // SAFETY: the request writes at most `count` entries of `info_size` bytes.
        unsafe { raw::ioctl(Handle::unbound(), sys::POSTBOX_LIST, &mut args) }.expect("a list");
        assert!(args.count > 0);
        for entry in entries.chunks(size).take(args.count as usize) {
            assert_eq!(entry[size - 64..], [0; 64]);
        }
    });
}

/// Others may make objects as fast as they are listed.
#[test]
fn list_ends_with_what_there_was_when_it_began() {
    as_each_attacker(|_| {
        let first = Handle::create(&unique("listed"), 1);
        let mut made = Vec::new();
        let mut found = false;
        for info in postbox::list().expect("a list") {
            let info = info.expect("an entry");
            found |= info.id == first.info().id;
            // A page of them for each that is listed.
            made.extend((0..32).map(|_| Handle::create(&unique("more"), 1)));
            let oldest = made.first().map(|made| made.info().id);
            assert!(Some(info.id) < oldest, "it is new");
        }
        assert!(found && raw::last_object(&first).expect("it tells") > first.info().id);
    });
}

#[test]
fn object_is_found_by_its_name_among_many() {
    as_each_attacker(|_| {
        let handle = Handle::unbound();
        let stat = |name: &str| raw::stat(&handle, name.as_bytes()).map(|info| info.id);
        let name = unique("named");
        assert_eq!(stat(&name), Err(Errno::NOENT));
        let named = Handle::create(&name, 1);
        assert_eq!(stat(&name), Ok(named.info().id));
        assert_eq!(stat(""), Err(Errno::INVAL));
        assert_eq!(stat(&"n".repeat(65)), Err(Errno::NAMETOOLONG));
        let list = |flags, count, after| {
            let mut info = raw::stat(&handle, name.as_bytes()).expect("it is there");
            let mut args = sys::postbox_list {
                size: size_of::<sys::postbox_list>() as u32,
                infos: (&raw mut info) as u64,
                info_size: size_of::<sys::postbox_info>() as u32,
                flags,
                count,
                after,
            };
            // SAFETY: there is room for one entry, and no call asks for more.
            unsafe { raw::ioctl(&handle, sys::POSTBOX_LIST, &mut args) }.map(|()| args.count)
        };
        let (named, all) = (sys::POSTBOX_LIST_NAME, sys::POSTBOX_LIST_ALL);
        assert_eq!(list(named, 1, 0), Ok(1));
        for (flags, count, after) in [(named | all, 1, 0), (named, 0, 0), (named, 1, 1)] {
            assert_eq!(list(flags, count, after), Err(Errno::INVAL));
        }
    });
}

#[test]
fn listener_keeps_a_bounded_number_of_connections() {
    as_each_attacker(|_| {
        const MAX: usize = 4096;
        let name = unique("listener");
        let server = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_LISTENER,
            flags: sys::POSTBOX_O_CREATE,
            rights: RECEIVE,
            mode: 0o600,
            capacity: 1,
            back_capacity: 1,
            backlog: u32::MAX,
            ..Default::default()
        };
        raw::open(&server, Some(name.as_bytes()), &mut args).expect("new");
        // Connections that wait to be accepted are objects without a name.
        let connect = || {
            let mut args = sys::postbox_connect {
                flags: NEVER.0,
                ..Default::default()
            };
            raw::connect(Handle::unbound(), Some(name.as_bytes()), &mut args)
        };
        let made = scaled(MAX);
        (0..made).for_each(|_| connect().expect("the backlog has room"));
        if made == MAX {
            assert_eq!(connect(), Err(Errno::AGAIN), "the backlog is bounded");
        }
    });
}

#[test]
fn exit_wakes_who_waits_in_a_segment_once_whatever_handles_it_had() {
    as_each_attacker(|_| {
        const WAITERS: u64 = 4;
        let segment = Handle::segment(1);
        let me = raw::attach(&segment).expect("a number");
        let map = segment.map(0, PAGE, RW).expect("both rights");
        map.word(0).store(me, SeqCst);
        let [attached, end] = [(); 2].map(|()| Gate::new());
        let other = spawn(|| {
            let handles: Vec<_> = (0..64).map(|_| segment.dup(SEND | RECEIVE)).collect();
            for handle in &handles {
                raw::attach(handle.as_ref().expect("descriptors")).expect("a number");
            }
            attached.open(1);
            end.pass();
        });
        attached.pass();
        let woken = AtomicU64::new(0);
        scope(|scope| {
            for _ in 0..WAITERS {
                scope.spawn(|| {
                    while map.word(0).load(SeqCst) == me {
                        assert_eq!(segment.wait_word(0, me, FOREVER), Ok(false));
                        woken.fetch_add(1, SeqCst);
                    }
                });
            }
            segment.wait_receivers(WAITERS as u32);
            other.destroy();
            // Numbers are given in order.
            for number in me + 1..=me + 64 {
                map.word(8).store(number, SeqCst);
                wait_until("its death", || {
                    segment.wait_word(8, number, NEVER) == Ok(true)
                });
            }
            wait_until("they look again", || woken.load(SeqCst) >= WAITERS);
            segment.wait_receivers(WAITERS as u32);
            assert_eq!(woken.load(SeqCst), WAITERS);
            map.word(0).store(0, SeqCst);
            segment.wake_word(0, WAITERS as u32).expect("a word");
        });
    });
}

/// Its process has another number, and may live for ever.
#[test]
fn exit_of_a_thread_alone_wakes_who_waits_in_a_segment() {
    isolated(|| {
        let segment = Handle::segment(1);
        let map = segment.map(0, PAGE, RW).expect("both rights");
        let [attached, leave, end] = [(); 3].map(|()| Gate::new());
        let other = spawn(|| {
            let [first, second] = [(); 2].map(|()| segment.dup(SEND | RECEIVE));
            let first = std::mem::ManuallyDrop::new(first.expect("a descriptor"));
            raw::attach(second.as_ref().expect("a descriptor")).expect("a number");
            let [unshared, closed] = [(); 2].map(|()| Gate::new());
            scope(|scope| {
                scope.spawn(|| {
                    // SAFETY: no pointers.
                    check("unshare", unsafe { libc::unshare(libc::CLONE_FILES) });
                    let number = raw::attach(&*first).expect("a number");
                    map.word(0).store(number, SeqCst);
                    unshared.open(1);
                    closed.pass();
                    attached.open(1);
                    leave.pass();
                });
                unshared.pass();
                first.close_copy();
                closed.open(1);
            });
            end.pass();
        });
        attached.pass();
        let number = map.word(0).load(SeqCst);
        scope(|scope| {
            let waits = scope.spawn(|| segment.wait_word(0, number, FOREVER));
            segment.wait_receivers(1);
            leave.open(1);
            assert_eq!(waits.join().expect("it is woken"), Ok(false));
        });
        assert_eq!(segment.wait_word(0, number, NEVER), Ok(true));
        end.open(1);
        other.ok();
    });
}

/// How many poll is the choice of others: who dies, or closes, does not wake all of them for each message.
#[test]
fn exit_of_receiver_wakes_pollers_once_for_all_messages() {
    use rustix::event::{EventfdFlags, epoll, eventfd};
    const MESSAGES: u64 = 1000;
    as_each_attacker(|_| {
        let mailbox = Handle::anonymous(UNBOUNDED);
        (0..MESSAGES).for_each(|_| mailbox.put("x"));
        let [taken, end] = [(); 2].map(|()| Gate::new());
        let other = spawn(|| {
            (0..MESSAGES).for_each(|_| drop(mailbox.take(NEVER).expect("it is there")));
            taken.open(1);
            end.pass();
        });
        taken.pass();
        let ended = eventfd(0, EventfdFlags::empty()).expect("an eventfd");
        let events = epoll::create(epoll::CreateFlags::empty()).expect("an epoll");
        let add = |fd: &dyn AsFd, data, flags| {
            epoll::add(&events, fd.as_fd(), epoll::EventData::new_u64(data), flags)
                .expect("it can be polled");
        };
        add(&mailbox, 0, epoll::EventFlags::IN | epoll::EventFlags::ET);
        add(&ended, 1, epoll::EventFlags::IN);
        let woken = AtomicU64::new(0);
        scope(|scope| {
            scope.spawn(|| {
                loop {
                    let mut event = [epoll::Event {
                        flags: epoll::EventFlags::empty(),
                        data: epoll::EventData::new_u64(0),
                    }];
                    epoll::wait(&events, &mut event, None).expect("it is an epoll");
                    if event[0].data.u64() == 1 {
                        return;
                    }
                    woken.fetch_add(1, SeqCst);
                }
            });
            other.destroy();
            wait_until("them to be back", || mailbox.info().messages == MESSAGES);
            wait_until("the poller to be told", || woken.load(SeqCst) > 0);
            assert_eq!(rustix::io::write(&ended, &1_u64.to_ne_bytes()), Ok(8));
        });
        // The second one may be of the close.
        let woken = woken.load(SeqCst);
        assert!(woken <= 2, "woken {woken} times");
    });
}
