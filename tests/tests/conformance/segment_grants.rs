//! Grants: who may open an object besides those whom its mode lets.

use postbox::{Grantee, Rights, Segment, SegmentReader, raw, sys};
use postbox_tests::scope;
use postbox_tests::*;

const BOTH: u32 = SEND | RECEIVE;

/// What somebody is granted.
fn grant(handle: &Handle, who: u32, id: u32, rights: u32) -> Result<()> {
    let args = sys::postbox_grant {
        who,
        id,
        rights,
        ..Default::default()
    };
    raw::grant(handle, &args)
}

fn revoke(handle: &Handle, who: u32, id: u32) -> Result<()> {
    let args = sys::postbox_grant {
        who,
        id,
        ..Default::default()
    };
    raw::revoke(handle, &args)
}

use sys::{POSTBOX_GRANT_GID as GID, POSTBOX_GRANT_PID as PID, POSTBOX_GRANT_UID as UID};

/// A segment of root's that its mode gives to nobody, or as `mode` says.
fn segment(mode: u32) -> (Handle, String) {
    let name = unique("granted");
    let make = MakeSegment {
        rights: BOTH | ADMIN,
        mode,
        ..MakeSegment::default()
    };
    let memfd = memory(PAGE, 0, SEALS);
    let segment = make.open(name.as_str(), Some(&memfd)).expect("new");
    (segment, name)
}

/// What opening with each of the rights gives: send, receive, both.
fn may(name: &str) -> [bool; 3] {
    [SEND, RECEIVE, BOTH].map(|rights| match Handle::open_segment(name, rights) {
        Ok(handle) => {
            assert_eq!(handle.info().rights, rights);
            true
        }
        Err(Errno::ACCESS) => false,
        Err(e) => panic!("open: {e}"),
    })
}

#[test]
fn segment_grant_lets_a_user_a_group_or_a_process_in_and_nobody_else() {
    isolated(|| {
        const GROUP: u32 = 5000;
        let [none, send, receive, both] = [
            [false; 3],
            [true, false, false],
            [false, true, false],
            [true; 3],
        ];
        let (segment, name) = segment(0o600);
        let may_all = |alice, group, bob| {
            spawn_as(ALICE, || assert_eq!(may(&name), alice)).ok();
            Spawn::new()
                .user(BOB)
                .group(GROUP)
                .run(|| assert_eq!(may(&name), group))
                .ok();
            spawn_as(BOB, || assert_eq!(may(&name), bob)).ok();
        };
        may_all(none, none, none);
        assert_eq!(grant(&segment, UID, ALICE.uid, RECEIVE), Ok(()));
        may_all(receive, none, none);
        assert_eq!(
            grant(&segment, UID, ALICE.uid, BOTH),
            Ok(()),
            "in its place"
        );
        may_all(both, none, none);
        assert_eq!(grant(&segment, UID, ALICE.uid, SEND), Ok(()));
        assert_eq!(grant(&segment, GID, GROUP, BOTH), Ok(()));
        may_all(send, both, none);
        assert_eq!(grant(&segment, GID, BOB.gid, RECEIVE), Ok(()));
        may_all(send, both, receive);
        for (who, id) in [(UID, ALICE.uid), (GID, GROUP), (GID, BOB.gid)] {
            assert_eq!(revoke(&segment, who, id), Ok(()));
            assert_eq!(revoke(&segment, who, id), Err(Errno::NOENT));
        }
        may_all(none, none, none);
    });
}

#[test]
fn segment_grant_to_a_process_is_that_processs_alone() {
    isolated(|| {
        let (segment, name) = segment(0o600);
        let (go, done) = (Gate::new(), Gate::new());
        let child = spawn_as(ALICE, || {
            go.pass();
            assert_eq!(may(&name), [false, true, false]);
            // Its child is another process.
            spawn(|| assert_eq!(may(&name), [false; 3])).ok();
            // Its threads are it.
            scope(|scope| {
                let thread = scope.spawn(|| may(&name));
                assert_eq!(thread.join().expect("it ends"), [false, true, false]);
            });
            done.open(1);
            go.pass();
        });
        assert_eq!(grant(&segment, PID, child.pid(), RECEIVE), Ok(()));
        spawn_as(ALICE, || assert_eq!(may(&name), [false; 3])).ok();
        go.open(1);
        done.pass();
        go.open(1);
        let pid = child.pid();
        child.ok();
        assert_eq!(grant(&segment, PID, pid, RECEIVE), Err(Errno::SRCH));
        assert_eq!(revoke(&segment, PID, pid), Err(Errno::SRCH));
        assert_eq!(grant(&segment, PID, 0, RECEIVE), Err(Errno::SRCH));
    });
}

#[test]
fn segment_grant_to_a_process_ends_with_it_also_for_those_it_passed_a_handle_to() {
    isolated(|| {
        let (segment, name) = segment(0o600);
        let (mine, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let go = Gate::new();
        let child = spawn_as(ALICE, || {
            go.pass();
            let handle = Handle::open_segment(&name, RECEIVE).expect("it is granted");
            send_fd(&theirs, &handle);
            go.pass();
        });
        assert_eq!(grant(&segment, PID, child.pid(), RECEIVE), Ok(()));
        go.open(1);
        let passed = Handle(receive_fd(&mine));
        assert!(passed.map(0, PAGE, R).is_ok());
        go.open(1);
        child.ok();
        assert_eq!(passed.map(0, PAGE, R).map(drop), Err(Errno::ACCESS));
    });
}

#[test]
fn segment_grant_and_mode_add_up() {
    isolated(|| {
        // Others may read.
        let (segment, name) = segment(0o604);
        assert_eq!(grant(&segment, UID, ALICE.uid, SEND), Ok(()));
        spawn_as(ALICE, || assert_eq!(may(&name), [true; 3])).ok();
        spawn_as(BOB, || assert_eq!(may(&name), [false, true, false])).ok();
        // And so do two grants, each of which has a part of what the mode forbids.
        let args = sys::postbox_attr {
            valid: sys::POSTBOX_ATTR_MODE,
            mode: 0o600,
            ..Default::default()
        };
        raw::set_attr(&segment, &args).expect("the owner");
        assert_eq!(grant(&segment, GID, ALICE.gid, RECEIVE), Ok(()));
        spawn_as(ALICE, || assert_eq!(may(&name), [true; 3])).ok();
        // Nobody is granted the right to administrate.
        spawn_as(ALICE, || {
            let opened = Handle::open_segment(&name, SEND | ADMIN).map(drop);
            assert_eq!(opened, Err(Errno::PERM));
        })
        .ok();
    });
}

#[test]
fn segment_grant_taken_back_ends_attaching_and_not_what_is_attached() {
    isolated(|| {
        let (segment, name) = segment(0o600);
        let (mine, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let (go, done) = (Gate::new(), Gate::new());
        let step = || {
            done.open(1);
            go.pass();
        };
        let child = spawn_as(ALICE, || {
            go.pass();
            let handle = Handle::open_segment(&name, BOTH).expect("it is granted");
            let before = handle.map(0, PAGE, RW).expect("it is granted");
            let second = handle.dup(RECEIVE).expect("fewer rights");
            send_fd(&theirs, &handle);
            assert!(second.map(0, PAGE, R).is_ok());
            step(); // The right to write is taken back.
            assert_eq!(handle.map(0, PAGE, RW).map(drop), Err(Errno::ACCESS));
            let view = handle.map(0, PAGE, R).expect("to read");
            assert_eq!(view.protect(RW), Err(Errno::ACCESS));
            before.set(0, 1);
            step(); // All of it.
            assert_eq!(may(&name), [false; 3]);
            for again in [&handle, &second, &handle.dup(RECEIVE).expect("it is open")] {
                assert_eq!(again.map(0, PAGE, R).map(drop), Err(Errno::ACCESS));
            }
            before.set(1, 2);
            assert_eq!(view.get(1), 2);
            assert_eq!(handle.info().rights, BOTH, "it stays open");
            step(); // It is granted anew, which is for who opens anew.
            assert_eq!(handle.map(0, PAGE, R).map(drop), Err(Errno::ACCESS));
            let handle = Handle::open_segment(&name, RECEIVE).expect("it is granted");
            assert!(handle.map(0, PAGE, R).is_ok());
        });
        assert_eq!(grant(&segment, UID, ALICE.uid, BOTH), Ok(()));
        go.open(1);
        done.pass();
        let passed = Handle(receive_fd(&mine));
        assert!(passed.map(0, PAGE, RW).is_ok());
        assert_eq!(grant(&segment, UID, ALICE.uid, RECEIVE), Ok(()));
        assert_eq!(passed.map(0, PAGE, RW).map(drop), Err(Errno::ACCESS));
        go.open(1);
        done.pass();
        assert_eq!(revoke(&segment, UID, ALICE.uid), Ok(()));
        // Root may open it in any case, but not through what was alice's.
        assert_eq!(passed.map(0, PAGE, R).map(drop), Err(Errno::ACCESS));
        assert!(segment.map(0, PAGE, RW).is_ok());
        go.open(1);
        done.pass();
        assert_eq!(grant(&segment, UID, ALICE.uid, RECEIVE), Ok(()));
        go.open(1);
        child.ok();
    });
}

#[test]
fn segment_grant_taken_back_leaves_what_the_mode_gives() {
    isolated(|| {
        let (segment, name) = segment(0o604);
        assert_eq!(grant(&segment, UID, ALICE.uid, BOTH), Ok(()));
        let (go, done) = (Gate::new(), Gate::new());
        let child = spawn_as(ALICE, || {
            let handle = Handle::open_segment(&name, BOTH).expect("mode and grant");
            let by_mode = Handle::open_segment(&name, RECEIVE).expect("the mode");
            done.open(1);
            go.pass();
            assert_eq!(handle.map(0, PAGE, RW).map(drop), Err(Errno::ACCESS));
            assert!(handle.map(0, PAGE, R).is_ok());
            assert!(by_mode.map(0, PAGE, R).is_ok());
        });
        done.pass();
        assert_eq!(revoke(&segment, UID, ALICE.uid), Ok(()));
        go.open(1);
        child.ok();
    });
}

#[test]
fn segment_grant_needs_the_right_a_name_and_good_arguments() {
    isolated(|| {
        let (segment, name) = segment(0o600);
        let other = segment.dup(BOTH).expect("fewer rights");
        assert_eq!(grant(&other, UID, 1, RECEIVE), Err(Errno::ACCESS));
        assert_eq!(revoke(&other, UID, 1), Err(Errno::ACCESS));
        let unbound = Handle::unbound();
        assert_eq!(grant(&unbound, UID, 1, RECEIVE), Err(Errno::BADFD));
        for (who, id, rights) in [
            (0, 1, RECEIVE),
            (4, 1, RECEIVE),
            (UID, 1, 0),
            (UID, 1, ADMIN),
            (UID, 1, BOTH | ADMIN),
            (UID, 1, 1 << 2),
            (UID, u32::MAX, RECEIVE),
            (GID, u32::MAX, RECEIVE),
        ] {
            let granted = grant(&segment, who, id, rights);
            assert_eq!(granted, Err(Errno::INVAL), "{who} {id} {rights}");
        }
        let args = sys::postbox_grant {
            who: UID,
            id: 1,
            rights: RECEIVE,
            ..Default::default()
        };
        assert_eq!(raw::revoke(&segment, &args), Err(Errno::INVAL));
        // 64 of them.
        for id in 0..64 {
            assert_eq!(grant(&segment, UID, 50_000 + id, RECEIVE), Ok(()));
        }
        assert_eq!(grant(&segment, UID, 60_000, RECEIVE), Err(Errno::DQUOT));
        assert_eq!(grant(&segment, UID, 50_063, BOTH), Ok(()), "it has one");
        assert_eq!(revoke(&segment, UID, 50_000), Ok(()));
        assert_eq!(grant(&segment, UID, 60_000, RECEIVE), Ok(()));
        // Those of processes that are gone are not in the way.
        assert_eq!(revoke(&segment, UID, 60_000), Ok(()));
        let (go, child) = (Gate::new(), Gate::new());
        let process = spawn(|| {
            child.open(1);
            go.pass();
        });
        child.pass();
        assert_eq!(grant(&segment, PID, process.pid(), RECEIVE), Ok(()));
        assert_eq!(grant(&segment, UID, 60_000, RECEIVE), Err(Errno::DQUOT));
        go.open(1);
        process.ok();
        assert_eq!(grant(&segment, UID, 60_000, RECEIVE), Ok(()));
        // What has no name cannot be opened.
        unlink(&name).expect("it has one");
        assert_eq!(grant(&segment, UID, 1, RECEIVE), Err(Errno::NOENT));
    });
}

#[test]
fn segment_grants_are_for_all_that_has_a_name() {
    isolated(|| {
        let name = unique("granted");
        let mailbox = Make {
            rights: BOTH | ADMIN,
            ..Make::default()
        }
        .open(name.as_str())
        .expect("new");
        assert_eq!(grant(&mailbox, UID, ALICE.uid, SEND), Ok(()));
        spawn_as(ALICE, || {
            let sender = Handle::open(&name, SEND).expect("it is granted");
            sender.put("from alice");
            let receiver = Handle::open(&name, RECEIVE).map(drop);
            assert_eq!(receiver, Err(Errno::ACCESS));
        })
        .ok();
        assert_eq!(mailbox.get(), "from alice");
        // An open handle keeps its rights, as after a change of mode.
        let (go, done) = (Gate::new(), Gate::new());
        let child = spawn_as(ALICE, || {
            let sender = Handle::open(&name, SEND).expect("it is granted");
            done.open(1);
            go.pass();
            sender.put("after it was taken back");
            assert_eq!(Handle::open(&name, SEND).map(drop), Err(Errno::ACCESS));
        });
        done.pass();
        assert_eq!(revoke(&mailbox, UID, ALICE.uid), Ok(()));
        go.open(1);
        child.ok();
        assert_eq!(mailbox.get(), "after it was taken back");
        // A process's endpoint.
        let open = |rights, number, flags| {
            let handle = Handle::unbound();
            let mut args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_ENDPOINT,
                flags,
                rights,
                number,
                mode: 0o600,
                capacity: if number == 0 { 8 } else { 0 },
                ..Default::default()
            };
            raw::open(&handle, None, &mut args).map(|()| handle)
        };
        let endpoint = open(RECEIVE | ADMIN, 0, sys::POSTBOX_O_CREATE).expect("it has none yet");
        let pid = std::process::id();
        spawn_as(ALICE, || {
            assert_eq!(open(SEND, pid, 0).map(drop), Err(Errno::ACCESS));
        })
        .ok();
        assert_eq!(grant(&endpoint, GID, ALICE.gid, SEND), Ok(()));
        spawn_as(ALICE, || {
            open(SEND, pid, 0).expect("it is granted").put("hello")
        })
        .ok();
        assert_eq!(endpoint.get(), "hello");
    });
}

#[test]
fn segment_grants_are_seen_from_the_callers_namespaces() {
    isolated(|| {
        let name = unique("granted");
        let (go, ready) = (Gate::new(), Gate::new());
        // Alice's user 0 in a namespace of her own.
        let child = Spawn::new().user(ALICE).user_ns().run(|| {
            let make = MakeSegment {
                rights: BOTH | ADMIN,
                ..MakeSegment::default()
            };
            let segment = make
                .open(name.as_str(), Some(&memory(PAGE, 0, SEALS)))
                .expect("new");
            assert_eq!(grant(&segment, UID, 0, RECEIVE), Ok(()));
            assert_eq!(
                grant(&segment, UID, 5, RECEIVE),
                Err(Errno::INVAL),
                "there is none"
            );
            ready.open(1);
            go.pass();
        });
        ready.pass();
        spawn_as(BOB, || assert_eq!(may(&name), [false; 3])).ok();
        go.open(1);
        child.ok();
    });
}

#[test]
fn segment_library_grants_and_revokes() {
    isolated(|| {
        let name = unique("granted");
        let segment = Segment::options()
            .admin(true)
            .create_new(&name, 1)
            .expect("new");
        segment
            .grant(Grantee::Uid(ALICE.uid), Rights::RECEIVE)
            .expect("its owner");
        let (go, done) = (Gate::new(), Gate::new());
        let child = spawn_as(ALICE, || {
            let reader = SegmentReader::open(&name).expect("it is granted");
            let view = reader.attach().expect("it is granted");
            done.open(1);
            go.pass();
            let error = reader.attach().expect_err("it was taken back");
            assert!(error.is_denied());
            assert!(error.to_string().contains("taken back"), "{error}");
            assert_eq!(view.get::<u8>(0), Ok(0));
        });
        done.pass();
        segment
            .revoke(Grantee::Uid(ALICE.uid))
            .expect("it was granted");
        go.open(1);
        child.ok();
        let error = segment
            .revoke(Grantee::Uid(ALICE.uid))
            .expect_err("nothing is");
        assert!(error.is_not_found());
        let error = Segment::open(&name)
            .and_then(|plain| plain.grant(Grantee::Uid(1), Rights::SEND))
            .expect_err("it was not opened for that");
        assert!(error.to_string().contains("admin(true)"), "{error}");
    });
}
