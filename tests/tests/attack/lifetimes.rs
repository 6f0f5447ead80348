//! Lifetimes: a name, port or endpoint goes with the side that serves it; nothing outlives its namespace.

use std::os::fd::{AsFd, OwnedFd};

use postbox::{raw, sys};
use postbox_tests::*;

/// Arguments of a listener that everybody may connect to.
fn listener(flags: u32, rights: u32) -> sys::postbox_open {
    sys::postbox_open {
        kind: sys::POSTBOX_KIND_LISTENER,
        flags,
        rights,
        mode: 0o666,
        capacity: 4,
        back_capacity: 4,
        backlog: 1,
        ..Default::default()
    }
}

/// A new listener at a port.
fn listen(port: u32) -> Result<Handle> {
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        number: port,
        ..listener(
            sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL | sys::POSTBOX_O_PORT,
            SEND | RECEIVE | ADMIN,
        )
    };
    raw::open(&handle, None, &mut args).map(|()| handle)
}

fn connect(name: Option<&str>, port: u32, flags: u32) -> Result<Handle> {
    let handle = Handle::unbound();
    let mut args = sys::postbox_connect {
        flags: flags
            | if port != 0 {
                sys::POSTBOX_CONNECT_PORT
            } else {
                0
            },
        number: port,
        ..Default::default()
    };
    raw::connect(&handle, name.map(str::as_bytes), &mut args).map(|()| handle)
}

#[test]
fn port_of_dead_listener_is_free_whatever_clients_hold() {
    const PORT: u32 = 61_001;
    isolated(|| {
        // A container has ports of its own.
        for attacker in [Attacker::User, Attacker::NamespaceRoot] {
            let [listens, ready, end] = [(); 3].map(|()| Gate::new());
            let client = attacker.run(|| {
                listens.pass();
                let held = Handle::unbound();
                let mut args = sys::postbox_open {
                    number: PORT,
                    ..listener(sys::POSTBOX_O_PORT, SEND)
                };
                let opened = raw::open(&held, None, &mut args);
                let _first = connect(None, PORT, NEVER.0).expect("the backlog has room");
                scope(|scope| {
                    let waits = scope.spawn(|| connect(None, PORT, FOREVER.0).map(drop));
                    ready.open(1);
                    assert_eq!(waits.join().expect("it ends"), Err(Errno::PIPE));
                });
                end.pass();
                assert_eq!(
                    opened,
                    Err(Errno::INVAL),
                    "a handle that nothing is done with"
                );
            });
            let server = listen(PORT).expect("the port is free");
            listens.open(1);
            ready.pass();
            wait_until("a connect to wait", || server.info().waiting_senders == 1);
            let admin = raw::dup(&server, ADMIN).expect("a subset");
            drop(server);
            let again = listen(PORT).expect("the port went with the handle that accepts");
            assert_eq!(raw::info(&admin).expect("bound").number, 0);
            end.open(1);
            client.ok();
            drop(again);
        }
    });
}

#[test]
fn unaccepted_connections_of_a_persistent_listener_wait_for_the_next() {
    isolated(|| {
        let name = unique("persistent");
        let flags = sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST;
        let open = |flags| {
            let handle = Handle::unbound();
            raw::open(
                &handle,
                Some(name.as_bytes()),
                &mut listener(flags, RECEIVE),
            )
            .map(|()| handle)
        };
        let accept =
            |server: &Handle| raw::accept(server, &mut sys::postbox_accept::default()).map(Handle);
        let server = open(flags).expect("new");
        let client = connect(Some(&name), 0, NEVER.0).expect("the backlog has room");
        drop(server);
        assert_eq!(client.recv(NEVER).map(drop), Err(Errno::AGAIN), "it waits");
        let server = open(0).expect("it stays");
        let link = accept(&server).expect("it has waited");
        link.put("served");
        assert_eq!(client.get(), "served");
        // Without a handle or a name nobody can accept any more.
        let client = connect(Some(&name), 0, NEVER.0).expect("the backlog has room");
        drop(server);
        unlink(&name).expect("its owner may");
        assert_eq!(client.recv(FOREVER).map(drop), Err(Errno::PIPE));
    });
}

/// The objects of all namespaces that this user made.
fn all_of(uid: u32) -> Vec<sys::postbox_info> {
    let mut infos = vec![sys::postbox_info::default(); 256];
    let handle = Handle::unbound();
    let count = raw::list_with(&handle, sys::POSTBOX_LIST_ALL, 0, &mut infos).expect("root may");
    infos.truncate(count);
    infos.retain(|info| info.uid == uid);
    infos
}

fn persistent(name: &str, kind: u32) -> Result<Handle> {
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        kind,
        flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
        rights: SEND | RECEIVE,
        mode: 0o600,
        capacity: if kind == sys::POSTBOX_KIND_MAILBOX {
            4
        } else {
            0
        },
        ..Default::default()
    };
    raw::open(&handle, Some(name.as_bytes()), &mut args).map(|()| handle)
}

#[test]
fn persistent_objects_end_with_their_ipc_namespace() {
    isolated(|| {
        let user = fresh_user();
        let [made, end] = [(); 2].map(|()| Gate::new());
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let container = Spawn::new().user(user).user_ns().ipc_ns().run(|| {
            for name in ["left/a", "left/b"] {
                drop(persistent(name, sys::POSTBOX_KIND_MAILBOX).expect("new"));
            }
            // A handle of it that goes on living outside.
            send_fd(
                &theirs,
                persistent("left/open", sys::POSTBOX_KIND_PIPE).expect("new"),
            );
            send_fd(&theirs, Handle::unbound());
            made.open(1);
            end.pass();
        });
        made.pass();
        let (kept, unbound) = (Handle(receive_fd(&ours)), Handle(receive_fd(&ours)));
        // Nothing persistent can be made in it from outside, where others are already: it could go on after the end.
        let from_outside = || {
            let mut args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_MAILBOX,
                flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
                rights: SEND,
                mode: 0o600,
                ..Default::default()
            };
            let made = raw::open(&unbound, Some(b"left/again"), &mut args);
            assert_eq!(made, Err(Errno::XDEV));
        };
        from_outside();
        // It is sooner looked for than the namespace ends.
        std::thread::sleep(std::time::Duration::from_millis(1500));
        let all = all_of(user.uid);
        assert_eq!(all.len(), 3);
        assert!(
            all.iter()
                .all(|info| info.flags & sys::POSTBOX_INFO_FOREIGN != 0)
        );
        end.open(1);
        container.ok();
        wait_until("what nobody has open to be gone", || {
            all_of(user.uid).len() == 1
        });
        wait_until("its name to be gone", || all_of(user.uid)[0].name_len == 0);
        assert_eq!(raw::info(&kept).expect("bound").name_len, 0);
        // Nothing persistent can be made in what has ended.
        from_outside();
        drop(kept);
        wait_until("the last to be gone", || all_of(user.uid).is_empty());
    });
}

/// A descriptor of the namespace in a message, or one that leads there, does not keep what ends with the namespace.
#[test]
fn persistent_mailbox_does_not_keep_its_ipc_namespace() {
    isolated(|| {
        let user = fresh_user();
        let container = Spawn::new().user(user).user_ns().ipc_ns().run(|| {
            let path = "/proc/self/ns/ipc";
            let namespace = OwnedFd::from(std::fs::File::open(path).expect("it is there"));
            let flags = rustix::fs::inotify::CreateFlags::empty();
            let watch = rustix::fs::inotify::init(flags).expect("it can be made");
            rustix::fs::inotify::add_watch(&watch, path, rustix::fs::inotify::WatchFlags::ATTRIB)
                .expect("it can be watched");
            for (name, file) in [("self/direct", namespace), ("self/watched", watch)] {
                let mailbox = persistent(name, sys::POSTBOX_KIND_MAILBOX).expect("new");
                let entries = [raw::SendFd::new(file.as_fd(), 0)];
                raw::send_files(&mailbox, b"x", &entries, &send_args()).expect("there is room");
            }
            assert_eq!(list().len(), 2);
        });
        container.ok();
        wait_until("what is persistent in it to be gone", || {
            all_of(user.uid).is_empty()
        });
    });
}

#[test]
fn administrator_lists_and_removes_in_every_namespace() {
    isolated(|| {
        let user = fresh_user();
        let [made, removed] = [(); 2].map(|()| Gate::new());
        let container = Spawn::new().user(user).user_ns().ipc_ns().run(|| {
            drop(persistent("stays", sys::POSTBOX_KIND_MAILBOX).expect("new"));
            made.open(1);
            removed.pass();
            assert!(list().is_empty());
        });
        made.pass();
        let id = all_of(user.uid)[0].id;
        as_each_attacker(|_| {
            let handle = Handle::unbound();
            let all = raw::list_with(&handle, sys::POSTBOX_LIST_ALL, 0, &mut []);
            assert_eq!(all, Err(Errno::PERM));
            assert_eq!(raw::unlink_id(&handle, id), Err(Errno::NOENT));
        });
        let handle = Handle::unbound();
        raw::unlink_id(&handle, id).expect("root may");
        assert_eq!(raw::unlink_id(&handle, id), Err(Errno::NOENT));
        assert!(all_of(user.uid).is_empty());
        removed.open(1);
        container.ok();
    });
}

#[test]
fn open_that_loses_a_race_for_its_handle_leaves_nothing() {
    isolated(|| {
        let names = [unique("one"), unique("two")];
        for _ in 0..postbox_tests::scaled(200) {
            let handle = Handle::unbound();
            let open = |name: &String| {
                let mut args = sys::postbox_open {
                    kind: sys::POSTBOX_KIND_MAILBOX,
                    flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
                    rights: SEND,
                    mode: 0o600,
                    ..Default::default()
                };
                raw::open(handle.as_fd(), Some(name.as_bytes()), &mut args)
            };
            let results = scope(|scope| {
                let tasks = [0, 1].map(|i: usize| {
                    let name = &names[i];
                    scope.spawn(move || open(name))
                });
                tasks.map(|task| task.join().expect("it ends"))
            });
            let all = list();
            for (name, result) in names.iter().zip(results) {
                assert_eq!(all.contains(name), result.is_ok(), "{name}: {result:?}");
                if result.is_ok() {
                    unlink(name).expect("its owner may");
                }
            }
        }
    });
}

/// A handle that came in a message which goes back to its mailbox is bound to that mailbox: it is another than the one in
/// the message, or the mailbox would keep the message, that the handle, and that the mailbox, for good.
#[test]
fn mailbox_does_not_keep_itself_by_a_handle_that_is_bound_later() {
    as_each_attacker(|_| {
        let objects = || raw::usage(Handle::unbound()).expect("it tells").objects;
        let before = objects();
        {
            let name = unique("kept");
            let mut open = sys::postbox_open {
                kind: sys::POSTBOX_KIND_MAILBOX,
                flags: sys::POSTBOX_O_CREATE,
                rights: SEND | RECEIVE,
                mode: 0o600,
                capacity: 4,
                ..Default::default()
            };
            let mailbox = Handle::unbound();
            raw::open(&mailbox, Some(name.as_bytes()), &mut open).expect("new");
            let unbound = Handle::unbound();
            let entries = [raw::SendFd::new(unbound.as_fd(), 0)];
            raw::send_files(&mailbox, b"x", &entries, &send_args()).expect("there is room");
            let (mut room, mut files) = ([std::mem::MaybeUninit::uninit(); 8], Vec::new());
            let mut args = sys::postbox_recv {
                flags: sys::POSTBOX_RECV_ACK,
                fd_max: 1,
                ..recv_args()
            };
            raw::recv_files(&mailbox, &mut room, &mut files, &mut args).expect("it is there");
            let received = files.pop().expect("it came along").fd;
            open.flags = 0;
            raw::open(&received, Some(name.as_bytes()), &mut open).expect("it is not bound");
            mailbox.requeue(args.token).expect("it is ours");
        }
        wait_until("all of it to go", || objects() == before);
    });
}
