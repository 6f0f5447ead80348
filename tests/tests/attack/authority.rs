//! Authority: nobody speaks, pays or receives with the rights of another user.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;

use postbox::{raw, sys};
use postbox_tests::uring::{OP_WRITE, OP_WRITEV, Ring, Sqe};
use postbox_tests::{
    ADMIN, ALICE, BOB, DEVICE, Errno, Gate, Got, Handle, Make, NEVER, RECEIVE, SEND, User,
    as_each_attacker, check, device_gid, isolated, spawn_as, unique,
};

/// Acts as another user while `f` runs, as a set-user-id program does that lays its privileges aside.
fn acting_as<T>(user: User, f: impl FnOnce() -> T) -> T {
    let (group, root) = (device_gid(), User { uid: 0, gid: 0 });
    let set = |user: User| {
        // SAFETY: no pointers.
        unsafe {
            check("setresgid", libc::setresgid(u32::MAX, user.gid, u32::MAX));
            check("setresuid", libc::setresuid(u32::MAX, user.uid, u32::MAX));
        }
    };
    // SAFETY: one group, which is there.
    check("setgroups", unsafe { libc::setgroups(1, &group) });
    set(user);
    let result = f();
    // The user first: only root may change the group.
    // SAFETY: no pointers.
    check("setresuid", unsafe {
        libc::setresuid(u32::MAX, 0, u32::MAX)
    });
    set(root);
    result
}

fn ids(got: &Got) -> (u32, u32) {
    (got.uid, got.gid)
}

/// A way to write without a request of the module's own.
type Write = fn(&Handle, &[u8]);

fn by_write(handle: &Handle, text: &[u8]) {
    assert_eq!(rustix::io::write(handle, text), Ok(text.len()));
}

fn by_writev(handle: &Handle, text: &[u8]) {
    let parts = text.split_at(1);
    let parts = [parts.0, parts.1].map(std::io::IoSlice::new);
    assert_eq!(rustix::io::writev(handle, &parts), Ok(text.len()));
}

fn by_uring_write(handle: &Handle, text: &[u8]) {
    let mut ring = Ring::new(4, 0).expect("io_uring");
    let written = ring.run(&Sqe {
        opcode: OP_WRITE,
        fd: handle.as_raw_fd(),
        addr: text.as_ptr() as u64,
        len: text.len() as u32,
        ..Sqe::default()
    });
    assert_eq!(written, text.len() as i32);
}

fn by_uring_writev(handle: &Handle, text: &[u8]) {
    let part = std::io::IoSlice::new(text);
    let mut ring = Ring::new(4, 0).expect("io_uring");
    let written = ring.run(&Sqe {
        opcode: OP_WRITEV,
        fd: handle.as_raw_fd(),
        addr: (&raw const part) as u64,
        len: 1,
        ..Sqe::default()
    });
    assert_eq!(written, text.len() as i32);
}

const WRITES: [(&str, Write); 4] = [
    ("write()", by_write),
    ("writev()", by_writev),
    ("IORING_OP_WRITE", by_uring_write),
    ("IORING_OP_WRITEV", by_uring_writev),
];

#[test]
fn write_bears_and_charges_the_user_who_opened() {
    for (way, write) in WRITES {
        isolated(|| {
            let (handle, account) = acting_as(ALICE, || (Handle::anonymous(4), Handle::unbound()));
            let (own, alice) = (Handle::unbound(), account.usage());
            write(&handle, b"an error message");
            assert_eq!(account.usage().0, alice.0 + 1, "{way}: the opener pays");
            assert_eq!(own.usage(), (0, 0, 0), "{way}: the writer does not");
            let got = handle.recv(NEVER).expect("written");
            assert_eq!(ids(&got), (ALICE.uid, ALICE.gid), "{way}");
            assert_eq!(
                got.pid,
                std::process::id(),
                "{way}: the process is the writer"
            );
            // A request knows what it does, and is the caller's.
            handle.put("a request");
            let got = handle.recv(NEVER).expect("sent");
            assert_eq!((ids(&got), own.usage().0), ((0, 0), 0));
        });
    }
}

#[test]
fn write_of_a_second_handle_bears_the_user_who_made_that() {
    isolated(|| {
        let first = Handle::anonymous(4);
        // Made of a handle of root's, by the user.
        let second = acting_as(ALICE, || first.sender());
        by_write(&second, b"text");
        let got = first.recv(NEVER).expect("written");
        assert_eq!(ids(&got), (ALICE.uid, ALICE.gid));
    });
}

#[test]
fn setuid_program_does_not_lend_its_user_to_its_standard_error() {
    isolated(|| {
        let program = format!("/tmp/setuid-{}", std::process::id());
        std::fs::copy("/proc/self/exe", &program).expect("a copy of this program");
        let mode = std::fs::Permissions::from_mode(0o4755);
        std::fs::set_permissions(&program, mode).expect("root's own file");
        as_each_attacker(|attacker| {
            let handle = Handle::anonymous(64);
            // SAFETY: no pointers.
            let own = unsafe { (libc::geteuid(), libc::getegid()) };
            let words = "trust-uid-1000";
            let mut command = std::process::Command::new(&program);
            let output = handle.sender().0;
            command.arg(format!("--{words}")).stderr(output);
            let _ = command.status().expect("everybody may run it");
            let mut heard = String::new();
            while let Ok(got) = handle.recv(NEVER) {
                assert_eq!(ids(&got), own, "{attacker:?}: {}", got.text());
                heard.push_str(got.text());
            }
            assert!(heard.contains(words), "{attacker:?}: {heard}");
        });
        std::fs::remove_file(&program).expect("it is there");
    });
}

/// Sends three messages of a registered user's through a mailbox with room for one. The second is made when the command is
/// issued, and parks it; the third when it is resumed. Returns who sent them.
fn batch_of_a_personality(direct: bool) -> [(u32, u32); 3] {
    let mut ring = Ring::new(4, 0).expect("io_uring");
    let personality = acting_as(ALICE, || ring.register_personality()).expect("registered");
    let mailbox = Handle::anonymous(1);
    let text = b"text";
    let spans = [sys::postbox_span {
        data: text.as_ptr() as u64,
        len: text.len() as u32,
        ..Default::default()
    }; 3];
    let entries = [sys::postbox_send {
        size: size_of::<sys::postbox_send>() as u32,
        data: text.as_ptr() as u64,
        len: text.len() as u64,
        ..Default::default()
    }; 3];
    let batch = sys::postbox_batch {
        size: size_of::<sys::postbox_batch>() as u32,
        entry_size: size_of::<sys::postbox_send>() as u32,
        entries: entries.as_ptr() as u64,
        count: 3,
        ..Default::default()
    };
    let (fd, request) = (mailbox.as_raw_fd(), sys::POSTBOX_SEND_BATCH);
    let command = match direct {
        true => Sqe::direct(
            fd,
            request,
            spans.as_ptr() as u64,
            3,
            postbox_tests::FOREVER,
        ),
        false => Sqe::command(fd, request, (&raw const batch) as u64),
    };
    ring.push(&Sqe {
        personality,
        ..command
    });
    ring.park();
    let first = mailbox.recv(NEVER).expect("the first is there");
    // The second is in, and the third waits for room.
    ring.park();
    let second = mailbox.recv(NEVER).expect("the second came after it");
    assert_eq!(ring.wait().res, 3);
    let third = mailbox.recv(NEVER).expect("the third came after it");
    [first, second, third].map(|got| ids(&got))
}

#[test]
fn parked_batch_goes_on_as_the_user_who_submitted_it() {
    isolated(|| {
        for direct in [true, false] {
            let sent = batch_of_a_personality(direct);
            assert_eq!(sent, [(ALICE.uid, ALICE.gid); 3], "direct: {direct}");
        }
    });
}

/// The endpoint of a process, or with 0 of this one, which makes it.
fn endpoint(pid: u32) -> Result<(Handle, bool), Errno> {
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_ENDPOINT,
        flags: if pid == 0 { sys::POSTBOX_O_CREATE } else { 0 },
        rights: if pid == 0 { RECEIVE } else { SEND },
        mode: 0o666,
        number: pid,
        capacity: 4,
        ..Default::default()
    };
    raw::open(&handle, None, &mut args)?;
    Ok((handle, args.created != 0))
}

#[test]
fn endpoint_does_not_outlive_a_change_of_user() {
    isolated(|| {
        let pid = std::process::id();
        let (before, made) = acting_as(ALICE, || endpoint(0)).expect("one may be made");
        assert!(made && before.info().uid == ALICE.uid);
        // What executes a set-user-id program is root now, and was not when it made that.
        assert_eq!(endpoint(pid).map(drop), Err(Errno::NOENT));
        let (own, made) = endpoint(0).expect("one may be made");
        assert!(made, "the endpoint of another user");
        assert_eq!(own.info().uid, 0);
        let (sender, _) = endpoint(pid).expect("that is found");
        sender.put("secret");
        assert_eq!((own.get().as_str(), before.info().messages), ("secret", 0));
        acting_as(ALICE, || {
            assert_eq!(
                endpoint(0).map(|(_, made)| made),
                Ok(false),
                "its own again"
            );
        });
    });
}

#[test]
fn handle_to_change_attributes_does_not_make_its_holder_an_owner() {
    isolated(|| {
        let name = unique("admin");
        let owned = Make {
            rights: ADMIN | SEND | RECEIVE,
            ..Make::default()
        };
        let handle = owned.open(name.as_str()).expect("the name is new");
        let admin = handle.dup(ADMIN).expect("it may");
        spawn_as(ALICE, || {
            let grant = sys::postbox_grant {
                who: sys::POSTBOX_GRANT_UID,
                id: ALICE.uid,
                rights: SEND | RECEIVE,
                ..Default::default()
            };
            assert_eq!(raw::grant(&admin, &grant), Err(Errno::PERM));
            let open = sys::postbox_attr {
                valid: sys::POSTBOX_ATTR_MODE,
                mode: 0o666,
                ..Default::default()
            };
            assert_eq!(raw::set_attr(&admin, &open), Err(Errno::PERM));
            let refused = Handle::open(&name, SEND | RECEIVE);
            assert_eq!(refused.map(drop), Err(Errno::ACCESS));
        })
        .ok();
    });
}

#[test]
fn former_owner_cannot_open_again_what_was_taken_from_it() {
    isolated(|| {
        let name = unique("former");
        let (made, taken) = (Gate::new(), Gate::new());
        let former = spawn_as(ALICE, || {
            let owned = Make {
                rights: ADMIN | SEND | RECEIVE,
                ..Make::default()
            };
            let handle = owned.open(name.as_str()).expect("the name is new");
            made.open(1);
            taken.pass();
            let open = sys::postbox_attr {
                valid: sys::POSTBOX_ATTR_MODE,
                mode: 0o666,
                ..Default::default()
            };
            assert_eq!(raw::set_attr(&handle, &open), Err(Errno::PERM));
        });
        made.pass();
        let handle = Handle::open(&name, ADMIN).expect("root may");
        let own = sys::postbox_attr {
            valid: sys::POSTBOX_ATTR_UID | sys::POSTBOX_ATTR_MODE,
            uid: 0,
            mode: 0o600,
            ..Default::default()
        };
        raw::set_attr(&handle, &own).expect("root may");
        taken.open(1);
        former.ok();
    });
}

#[test]
fn grants_of_single_rights_add_up() {
    isolated(|| {
        let name = unique("grants");
        let owned = Make {
            rights: ADMIN | SEND | RECEIVE,
            ..Make::default()
        };
        let handle = owned.open(name.as_str()).expect("the name is new");
        let grant = |who, id, rights| {
            let args = sys::postbox_grant {
                who,
                id,
                rights,
                ..Default::default()
            };
            raw::grant(&handle, &args).expect("the owner may");
        };
        grant(sys::POSTBOX_GRANT_UID, BOB.uid, SEND);
        spawn_as(BOB, || {
            let both = Handle::open(&name, SEND | RECEIVE);
            assert_eq!(both.map(drop), Err(Errno::ACCESS));
        })
        .ok();
        grant(sys::POSTBOX_GRANT_GID, BOB.gid, RECEIVE);
        spawn_as(BOB, || {
            let both = Handle::open(&name, SEND | RECEIVE).expect("each is granted");
            both.put("x");
            assert_eq!(both.get(), "x");
        })
        .ok();
    });
}

#[test]
fn one_way_port_is_joined_by_who_may_only_send() {
    isolated(|| {
        let port = |flags, rights| {
            let handle = Handle::unbound();
            let mut args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_LINK,
                flags: sys::POSTBOX_O_PORT | flags,
                rights,
                mode: 0o622,
                number: 4711,
                back_capacity: if flags == 0 { 0 } else { 4 },
                ..Default::default()
            };
            raw::open(&handle, None, &mut args).map(|()| handle)
        };
        let back = sys::POSTBOX_O_CREATE | sys::POSTBOX_O_NO_FORWARD;
        let receiver = port(back, RECEIVE).expect("the port is free");
        spawn_as(BOB, || {
            let sender = port(0, SEND).expect("the mode lets everybody send");
            sender.put("x");
        })
        .ok();
        assert_eq!(receiver.get(), "x");
    });
}

/// docs/security.md, "Who may do anything": to use the module is to read and write the device.
#[test]
fn device_is_opened_to_read_and_write_or_not_at_all() {
    use rustix::fs::{Mode, OFlags, open};
    as_each_attacker(|_| {
        for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::from_bits_retain(3)] {
            let opened = open(DEVICE, flags | OFlags::CLOEXEC, Mode::empty());
            assert_eq!(opened.map(drop), Err(Errno::ACCESS), "{flags:?}");
        }
        open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect("the group may");
    });
}
