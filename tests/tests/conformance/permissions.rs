//! Who may do what: modes, owners, capabilities, the rights of handles (part of guarantee 9: rights only shrink).

use std::os::unix::net::UnixStream;

use postbox::{raw, sys};
use postbox_tests::*;

const BOTH: u32 = SEND | RECEIVE;

/// What opening with each of the rights gives: send, receive, both.
fn may(name: &str) -> [bool; 3] {
    [SEND, RECEIVE, BOTH].map(|rights| match Handle::open(name, rights) {
        Ok(handle) => {
            assert_eq!(handle.info().rights, rights);
            true
        }
        Err(Errno::ACCESS) => false,
        Err(e) => panic!("open: {e}"),
    })
}

/// A mailbox of alice's, with a group that is her own, or another.
fn of_alice(mode: u32, group: u32) -> Handle {
    let admin = Make {
        rights: BOTH | ADMIN,
        mode,
        ..Make::default()
    }
    .open(unique("alice").as_str())
    .expect("new");
    set(&admin, None, Some(ALICE.uid), Some(group)).expect("root may");
    admin
}

fn set(handle: &Handle, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let flag = |given: bool, flag: u32| if given { flag } else { 0 };
    let args = sys::postbox_attr {
        valid: flag(mode.is_some(), sys::POSTBOX_ATTR_MODE)
            | flag(uid.is_some(), sys::POSTBOX_ATTR_UID)
            | flag(gid.is_some(), sys::POSTBOX_ATTR_GID),
        mode: mode.unwrap_or(0),
        uid: uid.unwrap_or(0),
        gid: gid.unwrap_or(0),
        ..Default::default()
    };
    raw::set_attr(handle, &args)
}

#[test]
fn g09_the_mode_says_who_may_send_and_receive() {
    isolated(|| {
        const GROUP: u32 = 5000;
        let [none, send, receive, both] = [
            [false; 3],
            [true, false, false],
            [false, true, false],
            [true; 3],
        ];
        // The first class that fits counts, even where a later one would allow more.
        for (mode, owner, group, others) in [
            (0o000, none, none, none),
            (0o600, both, none, none),
            (0o400, receive, none, none),
            (0o200, send, none, none),
            (0o060, none, both, none),
            (0o006, none, none, both),
            (0o642, both, receive, send),
            (0o024, none, send, receive),
            (0o777, both, both, both),
            (0o111, none, none, none),
        ] {
            let keeper = of_alice(mode, GROUP);
            let name = name_of(&keeper.info());
            spawn_as(ALICE, || {
                assert_eq!(may(&name), owner, "owner, mode {mode:o}")
            })
            .ok();
            Spawn::new()
                .user(BOB)
                .group(GROUP)
                .run(|| assert_eq!(may(&name), group, "group, mode {mode:o}"))
                .ok();
            let primary = User {
                uid: BOB.uid,
                gid: GROUP,
            };
            spawn_as(primary, || {
                assert_eq!(may(&name), group, "group, mode {mode:o}")
            })
            .ok();
            spawn_as(BOB, || {
                assert_eq!(may(&name), others, "others, mode {mode:o}")
            })
            .ok();
            // Root has CAP_IPC_OWNER.
            assert_eq!(may(&name), both);
        }
    });
}

#[test]
fn g09_only_the_owner_gets_the_right_to_administrate() {
    isolated(|| {
        let keeper = of_alice(0o666, ALICE.gid);
        let name = name_of(&keeper.info());
        spawn_as(ALICE, || {
            let handle = Handle::open(&name, ADMIN).expect("the owner");
            assert_eq!(set(&handle, Some(0o640), None, None), Ok(()));
            assert_eq!(handle.info().mode, 0o640);
        })
        .ok();
        spawn_as(BOB, || {
            for rights in [ADMIN, ADMIN | SEND, ADMIN | BOTH] {
                let error = Handle::open(&name, rights).map(drop);
                assert!(
                    matches!(error, Err(Errno::PERM | Errno::ACCESS)),
                    "{error:?}"
                );
            }
        })
        .ok();
        // The owner can help itself to what the mode does not give.
        set(&keeper, Some(0), None, None).expect("root may");
        spawn_as(ALICE, || {
            assert_eq!(may(&name), [false; 3]);
            let handle = Handle::open(&name, ADMIN).expect("the owner");
            set(&handle, Some(0o200), None, None).expect("the owner");
            assert_eq!(may(&name), [true, false, false]);
        })
        .ok();
        assert_eq!(
            Handle::open(&name, ADMIN).map(drop),
            Ok(()),
            "CAP_IPC_OWNER"
        );
    });
}

#[test]
fn g09_attributes_need_the_right_and_ids_more_than_that() {
    isolated(|| {
        let keeper = of_alice(0o666, ALICE.gid);
        let name = name_of(&keeper.info());
        const GROUP: u32 = 5001;
        Spawn::new()
            .user(ALICE)
            .group(GROUP)
            .run(|| {
                let plain = Handle::open(&name, BOTH).expect("the mode allows it");
                assert_eq!(set(&plain, Some(0o777), None, None), Err(Errno::ACCESS));
                let admin = Handle::open(&name, ADMIN).expect("the owner");
                assert_eq!(
                    set(&admin, None, Some(BOB.uid), None),
                    Err(Errno::PERM),
                    "needs CAP_CHOWN"
                );
                assert_eq!(
                    set(&admin, None, None, Some(BOB.gid)),
                    Err(Errno::PERM),
                    "not one of hers"
                );
                assert_eq!(
                    set(&admin, Some(0o600), Some(BOB.uid), None),
                    Err(Errno::PERM)
                );
                assert_eq!(admin.info().mode, 0o666, "nothing half done");
                assert_eq!(set(&admin, None, None, Some(GROUP)), Ok(()));
                assert_eq!(
                    set(&admin, None, Some(ALICE.uid), Some(GROUP)),
                    Ok(()),
                    "no change"
                );
                let info = admin.info();
                assert_eq!((info.uid, info.gid, info.mode), (ALICE.uid, GROUP, 0o666));
                assert_eq!(set(&admin, Some(0o1777), None, None), Err(Errno::INVAL));
                assert_eq!(
                    set(&admin, None, Some(u32::MAX), None),
                    Err(Errno::INVAL),
                    "no such user"
                );
                assert_eq!(
                    raw::set_attr(
                        &admin,
                        &sys::postbox_attr {
                            valid: 8,
                            ..Default::default()
                        }
                    ),
                    Err(Errno::INVAL)
                );
                let unused = sys::postbox_attr {
                    valid: sys::POSTBOX_ATTR_MODE,
                    uid: 5,
                    ..Default::default()
                };
                assert_eq!(
                    raw::set_attr(&admin, &unused),
                    Err(Errno::INVAL),
                    "a field that is not named in valid"
                );
            })
            .ok();
        assert_eq!(
            set(&keeper, Some(0o604), Some(BOB.uid), Some(BOB.gid)),
            Ok(()),
            "root has CAP_CHOWN"
        );
        let info = keeper.info();
        assert_eq!((info.uid, info.gid, info.mode), (BOB.uid, BOB.gid, 0o604));
        spawn_as(ALICE, || assert_eq!(may(&name), [false, true, false])).ok();
    });
}

#[test]
fn g09_open_handles_keep_their_rights() {
    isolated(|| {
        let keeper = of_alice(0o666, ALICE.gid);
        let name = name_of(&keeper.info());
        let (opened, closed) = (Gate::new(), Gate::new());
        let bob = spawn_as(BOB, || {
            let handle = Handle::open(&name, BOTH).expect("the mode allows it");
            opened.open(1);
            closed.pass();
            assert_eq!(may(&name), [false; 3]);
            handle.put("still may");
            assert_eq!(handle.get(), "still may");
        });
        opened.pass();
        set(&keeper, Some(0o600), None, None).expect("root may");
        closed.open(1);
        bob.ok();
    });
}

#[test]
fn g09_the_creator_gets_what_it_asks_for_and_the_umask_does_not_count() {
    isolated(|| {
        spawn_as(ALICE, || {
            // SAFETY: no pointers.
            unsafe { libc::umask(0o777) };
            let name = unique("creator");
            let mailbox = Make {
                mode: 0o666,
                rights: BOTH | ADMIN,
                ..Make::default()
            }
            .open(name.as_str())
            .expect("new");
            let info = mailbox.info();
            assert_eq!(
                (info.mode, info.uid, info.gid),
                (0o666, ALICE.uid, ALICE.gid)
            );
            let closed = Make {
                mode: 0,
                rights: BOTH,
                ..Make::default()
            }
            .open(unique("closed").as_str())
            .expect("new");
            closed.put("x");
            assert_eq!(closed.get(), "x");
        })
        .ok();
    });
}

#[test]
fn g09_create_on_an_existing_name_is_no_way_around_the_mode() {
    isolated(|| {
        let keeper = of_alice(0o600, ALICE.gid);
        let name = name_of(&keeper.info());
        spawn_as(BOB, || {
            let make = Make {
                mode: 0o666,
                ..Make::default()
            };
            assert_eq!(make.open(name.as_str()).map(drop), Err(Errno::ACCESS));
            let exclusive = Make {
                flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL,
                ..make
            };
            assert_eq!(exclusive.open(name.as_str()).map(drop), Err(Errno::EXIST));
        })
        .ok();
        assert_eq!(keeper.info().mode, 0o600);
    });
}

#[test]
fn g09_only_the_owner_may_unlink() {
    isolated(|| {
        let keeper = of_alice(0o666, ALICE.gid);
        let name = name_of(&keeper.info());
        spawn_as(BOB, || assert_eq!(unlink(&name), Err(Errno::PERM))).ok();
        assert!(list().contains(&name));
        spawn_as(ALICE, || assert_eq!(unlink(&name), Ok(()))).ok();
        assert!(!list().contains(&name));
        let keeper = of_alice(0o600, ALICE.gid);
        assert_eq!(unlink(&name_of(&keeper.info())), Ok(()), "CAP_IPC_OWNER");
    });
}

#[test]
fn g09_root_of_a_user_namespace_has_no_power_over_the_ipc_namespace_outside() {
    isolated(|| {
        let keeper = of_alice(0o600, ALICE.gid);
        let name = name_of(&keeper.info());
        Spawn::new()
            .user(BOB)
            .user_ns()
            .run(|| {
                // SAFETY: no pointers.
                assert_eq!(unsafe { libc::geteuid() }, 0);
                assert_eq!(may(&name), [false; 3]);
                assert_eq!(Handle::open(&name, ADMIN).map(drop), Err(Errno::PERM));
                assert_eq!(unlink(&name), Err(Errno::PERM));
            })
            .ok();
        // Over one of its own it has.
        Spawn::new()
            .user(BOB)
            .user_ns()
            .ipc_ns()
            .run(|| {
                let mailbox = Make {
                    mode: 0,
                    ..Make::default()
                }
                .open("own")
                .expect("a namespace of its own");
                assert_eq!(may("own"), [true; 3]);
                assert_eq!(unlink("own"), Ok(()));
                drop(mailbox);
            })
            .ok();
    });
}

/// Takes a capability from this process.
fn drop_capability(capability: u32) {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let mut sets = [0u32; 6];
    // SAFETY: the two structs are a version and a process number, and twice three sets of 32 bits.
    unsafe {
        let (header, sets) = (header.as_ptr(), sets.as_mut_ptr());
        assert_eq!(libc::syscall(libc::SYS_capget, header, sets), 0);
        // All that are effective, permitted and inheritable, without that one.
        let word = capability as usize / 32 * 3;
        for set in 0..3 {
            *sets.add(word + set) &= !(1 << (capability % 32));
        }
        assert_eq!(libc::syscall(libc::SYS_capset, header, sets), 0);
    }
}

#[test]
fn g09_to_be_root_is_nothing_without_the_capability() {
    const CAP_CHOWN: u32 = 0;
    const CAP_IPC_OWNER: u32 = 15;
    isolated(|| {
        let keeper = of_alice(0o600, ALICE.gid);
        let name = name_of(&keeper.info());
        assert_eq!(may(&name), [true; 3]);
        spawn(|| {
            drop_capability(CAP_IPC_OWNER);
            assert_eq!(may(&name), [false; 3]);
            assert_eq!(Handle::open(&name, ADMIN).map(drop), Err(Errno::PERM));
            assert_eq!(unlink(&name), Err(Errno::PERM));
        })
        .ok();
        spawn(|| {
            drop_capability(CAP_CHOWN);
            let admin = Handle::open(&name, ADMIN).expect("CAP_IPC_OWNER is still there");
            assert_eq!(set(&admin, None, Some(BOB.uid), None), Err(Errno::PERM));
            assert_eq!(set(&admin, None, None, Some(BOB.gid)), Err(Errno::PERM));
            assert_eq!(set(&admin, Some(0o640), None, None), Ok(()));
        })
        .ok();
    });
}

#[test]
fn g09_a_handle_does_only_what_it_has_the_right_to() {
    isolated(|| {
        let mailbox = Make {
            rights: BOTH | ADMIN,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        mailbox.put("x");
        let (tx, rx, admin) = (
            mailbox.sender(),
            mailbox.receiver(),
            mailbox.dup(ADMIN).expect("it has it"),
        );
        let mut buffer = [std::mem::MaybeUninit::uninit(); 8];
        for handle in [&tx, &admin] {
            assert_eq!(handle.recv(NEVER), Err(Errno::ACCESS));
            assert_eq!(handle.take(FOREVER), Err(Errno::ACCESS));
            assert_eq!(rustix::io::read(handle, &mut [0; 8]), Err(Errno::ACCESS));
            assert_eq!(
                raw::recv_batch(handle, &mut [raw::RecvEntry::new(&mut buffer)], 0, 0),
                Err(Errno::ACCESS)
            );
            assert_eq!(handle.ack(1), Err(Errno::ACCESS));
        }
        for handle in [&rx, &admin] {
            assert_eq!(handle.send("y", NEVER), Err(Errno::ACCESS));
            assert_eq!(rustix::io::write(handle, b"y"), Err(Errno::ACCESS));
            assert_eq!(
                raw::send_batch(handle, &[raw::SendEntry::new(b"y", 0)], 0, 0),
                Err(Errno::ACCESS)
            );
            assert_eq!(handle.reserve(1, FOREVER), Err(Errno::ACCESS));
            assert_eq!(handle.cancel(1), Err(Errno::ACCESS));
        }
        for handle in [&rx, &tx] {
            assert_eq!(set(handle, Some(0), None, None), Err(Errno::ACCESS));
        }
        assert_eq!(set(&admin, Some(0o640), None, None), Ok(()));
        // To look is no right.
        for (handle, rights) in [(&rx, RECEIVE), (&tx, SEND), (&admin, ADMIN)] {
            assert_eq!((handle.info().messages, handle.info().rights), (1, rights));
        }
        assert_eq!(rx.get(), "x");
    });
}

#[test]
fn g09_rights_only_shrink() {
    isolated(|| {
        let all = BOTH | ADMIN;
        let mailbox = Make {
            rights: all,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        for have in 1..16 {
            let Ok(handle) = mailbox.dup(have) else {
                assert_eq!(
                    mailbox.dup(have).map(drop),
                    Err(Errno::INVAL),
                    "bit 2 has no meaning"
                );
                assert_ne!(have & !all, 0);
                continue;
            };
            assert_eq!(have & !all, 0);
            assert_eq!(handle.info().rights, have);
            for want in 1..16 {
                let result = handle.dup(want).map(|second| second.info().rights);
                let expected = match want {
                    _ if want & !all != 0 => Err(Errno::INVAL),
                    _ if want & !have != 0 => Err(Errno::ACCESS),
                    _ => Ok(want),
                };
                assert_eq!(result, expected, "{want:#x} of {have:#x}");
            }
            assert_eq!(handle.dup(0).map(drop), Err(Errno::INVAL));
        }
        assert_eq!(Handle::unbound().dup(SEND).map(drop), Err(Errno::BADFD));
    });
}

#[test]
fn g09_a_duplicate_is_close_on_exec_and_a_handle_of_its_own() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let second = mailbox.receiver();
        let flags = rustix::io::fcntl_getfd(&second).expect("it is open");
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        // O_NONBLOCK is the handle's own.
        rustix::fs::fcntl_setfl(&mailbox, rustix::fs::OFlags::NONBLOCK)
            .expect("the flag can be set");
        assert!(
            !rustix::fs::fcntl_getfl(&second)
                .expect("it is open")
                .contains(rustix::fs::OFlags::NONBLOCK)
        );
        assert_eq!(second.recv(within(5)), Err(Errno::TIMEDOUT));
    });
}

#[test]
fn g09_a_handle_travels_with_its_rights_and_keeps_the_object_alive() {
    isolated(|| {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let (name, mailbox) = (unique("travels"), Handle::create(&unique("travels"), 4));
        drop(name);
        mailbox.put("in flight");
        send_fd(&ours, mailbox.receiver());
        let id = mailbox.info().id;
        drop(mailbox);
        // Nobody has it open; it is in the socket.
        let bob = spawn_as(BOB, || {
            let rx = Handle(receive_fd(&theirs));
            let info = rx.info();
            assert_eq!((info.id, info.rights, info.messages), (id, RECEIVE, 1));
            assert_eq!(rx.send("x", NEVER), Err(Errno::ACCESS));
            assert_eq!(rx.dup(SEND).map(drop), Err(Errno::ACCESS));
            assert_eq!(rx.get(), "in flight");
            assert_eq!(rx.recv(NEVER), Err(Errno::PIPE));
        });
        bob.ok();
    });
}

#[test]
fn g09_a_handle_in_a_dropped_socket_is_closed() {
    isolated(|| {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let (tx, rx) = Handle::anonymous(4).split();
        send_fd(&ours, &tx);
        drop(tx);
        assert_eq!(
            rx.recv(NEVER),
            Err(Errno::AGAIN),
            "the sender is in the socket"
        );
        drop((ours, theirs));
        wait_until("the sender to go", || rx.recv(NEVER) == Err(Errno::PIPE));
    });
}
