//! Names, IPC namespaces, creating and opening, lists.

use std::sync::atomic::Ordering::Relaxed;

use postbox::{raw, sys};
use postbox_tests::*;

/// In an IPC namespace whose list nobody else changes.
fn in_a_namespace_of_its_own(test: impl FnOnce()) {
    isolated(|| Spawn::new().ipc_ns().run(test).ok());
}

#[test]
fn creating_and_opening_do_what_their_flags_say() {
    isolated(|| {
        let name = unique("flags");
        let (create, excl, persist) = (
            sys::POSTBOX_O_CREATE,
            sys::POSTBOX_O_EXCL,
            sys::POSTBOX_O_PERSIST,
        );
        let make = |flags: u32| {
            let handle = Handle::unbound();
            Make {
                flags,
                ..Make::default()
            }
            .bind(&handle, name.as_str())
            .map(|made| (handle, made))
        };
        assert_eq!(make(0).map(drop), Err(Errno::NOENT));
        for flags in [excl, persist, excl | persist] {
            assert_eq!(make(flags).map(drop), Err(Errno::INVAL), "nothing is made");
        }
        let (first, (id, created)) = make(create | excl).expect("new");
        assert!(created && id > 0);
        assert_eq!(make(create | excl).map(drop), Err(Errno::EXIST));
        let (_second, made) = make(create).expect("it is there");
        assert_eq!(made, (id, false));
        let (_third, made) = make(0).expect("it is there");
        assert_eq!(made, (id, false));
        // Opening changes nothing of it.
        let (_fourth, made) = make(create | persist).expect("it is there");
        assert_eq!((made, first.info().flags), ((id, false), 0));
    });
}

#[test]
fn what_a_mailbox_was_made_with_stays() {
    isolated(|| {
        let name = unique("attributes");
        let make = Make {
            capacity: 3,
            capacity_bytes: 500,
            message_max: 200,
            mode: 0o640,
            ..Make::default()
        };
        let mailbox = make.open(name.as_str()).expect("new");
        let other = Make {
            capacity: 9,
            capacity_bytes: 9,
            message_max: 9,
            mode: 0o600,
            ..Make::default()
        };
        let again = other.open(name.as_str()).expect("it is there");
        for info in [mailbox.info(), again.info()] {
            assert_eq!(
                (
                    info.capacity,
                    info.capacity_bytes,
                    info.message_max,
                    info.mode
                ),
                (3, 500, 200, 0o640)
            );
            assert_eq!((info.kind, info.flags), (sys::POSTBOX_KIND_MAILBOX, 0));
            assert_eq!(
                (name_of(&info), info.name_len as usize),
                (name.clone(), name.len())
            );
            assert!(info.name[name.len()..].iter().all(|c| *c == 0));
        }
        let plain = Handle::anonymous(UNBOUNDED).info();
        assert_eq!(
            (plain.capacity, plain.capacity_bytes, plain.name_len),
            (UNBOUNDED, UNBOUNDED, 0)
        );
    });
}

#[test]
fn a_handle_is_bound_once() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        let id = mailbox.info().id;
        let name = unique("twice");
        let _there = Handle::create(&name, 1);
        for name in [None, Some(name.as_str()), Some("does/not/exist")] {
            assert_eq!(
                Make::default().bind(&mailbox, name).map(drop),
                Err(Errno::ISCONN)
            );
        }
        assert_eq!(mailbox.info().id, id);
        assert!(
            !list().contains(&"does/not/exist".to_string()),
            "the failed call made nothing"
        );
        // A failed open does not bind.
        let handle = Handle::unbound();
        assert_eq!(
            Make {
                flags: 0,
                ..Make::default()
            }
            .bind(&handle, "does/not/exist")
            .map(drop),
            Err(Errno::NOENT)
        );
        assert_eq!(raw::info(&handle).map(drop), Err(Errno::BADFD));
        assert!(Make::default().bind(&handle, None).is_ok());
    });
}

#[test]
fn an_unbound_handle_does_what_needs_no_object_and_nothing_else() {
    isolated(|| {
        let handle = Handle::unbound();
        assert_eq!(handle.send("x", NEVER), Err(Errno::BADFD));
        assert_eq!(handle.recv(FOREVER), Err(Errno::BADFD));
        assert_eq!(handle.take(NEVER), Err(Errno::BADFD));
        assert_eq!(handle.ack(1), Err(Errno::BADFD));
        assert_eq!(handle.reserve(1, NEVER), Err(Errno::BADFD));
        assert_eq!(handle.dup(SEND).map(drop), Err(Errno::BADFD));
        assert_eq!(raw::info(&handle).map(drop), Err(Errno::BADFD));
        let mode = sys::postbox_attr {
            valid: sys::POSTBOX_ATTR_MODE,
            ..Default::default()
        };
        assert_eq!(raw::set_attr(&handle, &mode), Err(Errno::BADFD));
        assert_eq!(rustix::io::read(&handle, &mut [0; 8]), Err(Errno::BADFD));
        assert_eq!(rustix::io::write(&handle, b"x"), Err(Errno::BADFD));
        let version = raw::version(&handle).expect("it tells");
        assert_eq!(version.abi, sys::POSTBOX_ABI);
        assert!(raw::usage(&handle).is_ok() && raw::list(&handle, 0, &mut []).is_ok());
        assert_eq!(raw::unlink(&handle, b"does/not/exist"), Err(Errno::NOENT));
    });
}

#[test]
fn names_follow_their_rules() {
    in_a_namespace_of_its_own(|| {
        let longest = "n".repeat(63);
        for name in [
            "a",
            "A-Z_0.9",
            "a/b/c",
            "...",
            "a.",
            ".hidden",
            "a/.b/..c",
            "-",
            longest.as_str(),
        ] {
            let mailbox = Handle::create(name, 1);
            assert_eq!(name_of(&mailbox.info()), name);
            assert!(list().contains(&name.to_string()));
        }
        let make = |name: &[u8]| {
            let mut args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_MAILBOX,
                flags: sys::POSTBOX_O_CREATE,
                rights: SEND,
                mode: 0o600,
                capacity: 1,
                ..Default::default()
            };
            let handle = Handle::unbound();
            (
                raw::open(&handle, Some(name), &mut args),
                raw::unlink(&handle, name),
            )
        };
        let before = list();
        let bad = [
            "", "/", "//", "/a", "a/", "a//b", ".", "..", "a/.", "./a", "a/../b", "..", "a b",
            "a\tb", "a\nb", "a:b", "a\\b", "a*", "ü", "a\0", "\0", "a\0b", "a@b", "a+b", "~",
            "%41",
        ];
        for name in bad {
            assert_eq!(
                make(name.as_bytes()),
                (Err(Errno::INVAL), Err(Errno::INVAL)),
                "{name:?}"
            );
        }
        for name in [[0xff].as_slice(), &[b'a', 0x80], &[0x7f]] {
            assert_eq!(
                make(name),
                (Err(Errno::INVAL), Err(Errno::INVAL)),
                "{name:?}"
            );
        }
        for len in [64, 65, 4096] {
            let expected = Err(Errno::NAMETOOLONG);
            assert_eq!(
                make("n".repeat(len).as_bytes()),
                (expected, expected),
                "{len} bytes"
            );
        }
        assert_eq!(list(), before);
    });
}

#[test]
fn names_are_different_objects_in_different_ipc_namespaces() {
    isolated(|| {
        let name = unique("namespaces");
        let outside = Handle::create(&name, 4);
        outside.put("outside");
        let old = Handle::unbound();
        let inside = Spawn::new().ipc_ns().run(|| {
            assert_eq!(list(), Vec::<String>::new());
            assert_eq!(Handle::open(&name, SEND).map(drop), Err(Errno::NOENT));
            assert_eq!(unlink(&name), Err(Errno::NOENT));
            let mailbox = Handle::create(&name, 4);
            assert_ne!(mailbox.info().id, outside.info().id);
            assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
            assert_eq!(list(), [name.as_str()]);
            mailbox.put("inside");
            // An inherited handle is what it was, and looks names up where it was opened.
            assert_eq!(outside.info().messages, 1);
            let make = Make {
                flags: 0,
                rights: RECEIVE,
                ..Make::default()
            };
            let (id, _) = make.bind(&old, name.as_str()).expect("the name outside");
            assert_eq!(id, outside.info().id);
            assert_eq!(unlink(&name), Ok(()));
            assert_eq!(list(), Vec::<String>::new());
        });
        inside.ok();
        assert_eq!(outside.get(), "outside");
        assert_eq!(
            Handle::open(&name, SEND).map(|h| h.info().id),
            Ok(outside.info().id)
        );
    });
}

#[test]
fn a_persistent_object_of_a_namespace_that_is_gone_does_not_turn_up_elsewhere() {
    isolated(|| {
        let user = fresh_user();
        for _ in 0..3 {
            Spawn::new()
                .user(user)
                .ipc_ns()
                .run(|| {
                    assert_eq!(list(), Vec::<String>::new());
                    let flags =
                        sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL | sys::POSTBOX_O_PERSIST;
                    let mailbox = Make {
                        flags,
                        ..Make::default()
                    }
                    .open("same")
                    .expect("a new namespace is empty");
                    mailbox.put("x");
                    drop(mailbox);
                    assert_eq!(list(), ["same"]);
                    assert_eq!(unlink("same"), Ok(()));
                })
                .ok();
        }
    });
}

#[test]
fn the_list_is_complete_in_order_and_comes_in_pages() {
    in_a_namespace_of_its_own(|| {
        let mailboxes: Vec<Handle> = (0..50)
            .map(|i| Handle::create(&format!("page/{i}"), i))
            .collect();
        let _nameless = Handle::anonymous(1);
        let names: Vec<String> = (0..50).map(|i| format!("page/{i}")).collect();
        assert_eq!(list(), names);
        let handle = Handle::unbound();
        for page in [1, 7, 50, 100] {
            let mut infos = vec![sys::postbox_info::default(); page];
            let (mut after, mut got) = (0, Vec::new());
            loop {
                let n = raw::list(&handle, after, &mut infos).expect("every handle lists");
                if n == 0 {
                    break;
                }
                assert_eq!(
                    n,
                    page.min(50 - got.len()),
                    "a page is full unless it is the last"
                );
                after = infos[n - 1].id;
                got.extend(
                    infos[..n]
                        .iter()
                        .map(|info| (info.id, info.capacity, info.rights, info.size)),
                );
            }
            let size = size_of::<sys::postbox_info>() as u32;
            let expected: Vec<_> = (0..50)
                .map(|i| (mailboxes[i as usize].info().id, i, 0, size))
                .collect();
            assert_eq!(got, expected);
        }
        // What goes between two pages is left out, and nothing else.
        let mut infos = [sys::postbox_info::default(); 10];
        assert_eq!(raw::list(&handle, 0, &mut infos), Ok(10));
        let after = infos[9].id;
        assert_eq!(unlink("page/9"), Ok(()));
        assert_eq!(unlink("page/10"), Ok(()));
        assert_eq!(raw::list(&handle, after, &mut infos), Ok(10));
        assert_eq!(name_of(&infos[0]), "page/11");
        assert_eq!(raw::list(&handle, u64::MAX, &mut infos), Ok(0));
        assert_eq!(raw::list(&handle, 0, &mut []), Ok(0));
        drop(mailboxes);
        assert_eq!(list(), Vec::<String>::new());
    });
}

#[test]
fn many_who_create_the_same_name_at_once_get_one_object() {
    isolated(|| {
        for _ in 0..10 {
            let name = unique("race");
            let [go, made, leave] = [(); 3].map(|()| Gate::new());
            let ids = Ledger::new(6);
            let children: Vec<Child> = (0..6)
                .map(|i| {
                    let (go, made, leave, ids, name) = (&go, &made, &leave, &ids, &name);
                    spawn(move || {
                        go.pass();
                        let handle = Handle::unbound();
                        let (id, created) = Make::default()
                            .bind(&handle, name.as_str())
                            .expect("made or opened");
                        ids[i].store(id << 1 | u64::from(created), Relaxed);
                        // It lives until all have it.
                        made.open(1);
                        leave.pass();
                    })
                })
                .collect();
            go.open(6);
            (0..6).for_each(|_| made.pass());
            leave.open(6);
            children.into_iter().for_each(Child::ok);
            let ids: Vec<u64> = ids.iter().map(|id| id.load(Relaxed)).collect();
            assert!(ids.iter().all(|id| id >> 1 == ids[0] >> 1), "{ids:?}");
            assert_eq!(
                ids.iter().filter(|id| *id & 1 == 1).count(),
                1,
                "one of them made it"
            );
        }
    });
}

#[test]
fn opening_and_the_last_close_do_not_meet_half_way() {
    isolated(|| {
        // Whoever opens finds a whole object or none, never one that is about to go.
        let name = unique("flicker");
        let children: Vec<Child> = (0..3)
            .map(|i| {
                let name = &name;
                spawn(move || {
                    let mut rng = Rng::new(i);
                    for round in 0..150u64 {
                        let flags = if rng.one_in(2) {
                            sys::POSTBOX_O_CREATE
                        } else {
                            0
                        };
                        match (Make {
                            flags,
                            ..Make::default()
                        })
                        .open(name.as_str())
                        {
                            Ok(handle) => {
                                let _ = handle.send(round.to_le_bytes(), NEVER);
                                if rng.one_in(3) {
                                    let _ = handle.recv(NEVER);
                                }
                                if rng.one_in(5) {
                                    let _ = unlink(name);
                                }
                            }
                            Err(e) => assert_eq!((e, flags), (Errno::NOENT, 0)),
                        }
                    }
                })
            })
            .collect();
        children.into_iter().for_each(Child::ok);
        assert!(!list().contains(&name));
    });
}
