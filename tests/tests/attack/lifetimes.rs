//! Lifetimes: a name, port or endpoint goes with the side that serves it; nothing outlives its namespace.

use std::os::fd::AsFd;
use std::thread;

use postbox::{raw, sys};
use postbox_tests::{
    ADMIN, Attacker, Errno, FOREVER, Gate, Handle, NEVER, RECEIVE, Result, SEND, isolated, list,
    unique, unlink, wait_until,
};

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
                thread::scope(|scope| {
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
            let results = thread::scope(|scope| {
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
