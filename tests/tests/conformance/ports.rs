//! Ports: where two processes meet, or many clients one server.

use std::thread;
use std::time::{Duration, Instant};

use postbox::{Capacity, Direction, ErrorKind, Kind, Link, Port, Rights, Wait, raw, sys};
use postbox_tests::{
    ALICE, BOB, Errno, Gate, Spawn, isolated, sleep_forever, spawn, spawn_as, wait_until,
};

use crate::typed::{join, kind};

const SHORT: Duration = Duration::from_millis(10);

/// A port that no other test uses.
fn port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Tests run in forks of one process: its pid keeps theirs apart.
    let number = std::process::id() * 7 + NEXT.fetch_add(1, Relaxed);
    1 + (number % 65_535) as u16
}

fn listed(port: u16) -> bool {
    postbox::list()
        .expect("it can be listed")
        .filter_map(Result::ok)
        .any(|info| info.number == Some(port.into()) && info.kind == Kind::Link)
}

#[test]
fn two_processes_meet_whichever_comes_first() {
    isolated(|| {
        for parent_first in [true, false] {
            let port = port();
            let go = Gate::new();
            let child = spawn(|| {
                go.pass();
                let link = Port::bind(port).expect("the parent comes, too");
                // SAFETY: no pointers.
                let parent = unsafe { libc::getppid() }.cast_unsigned();
                assert_eq!(link.peer().expect("it is there").pid, parent);
                assert_eq!(&*link.recv().expect("it sends"), b"from the parent");
                link.send("from the child").expect("it receives");
            });
            let link = if parent_first {
                let link = Port::open(port).expect("the port is free");
                assert_eq!(kind(link.peer()), ErrorKind::NotConnected);
                assert_eq!(kind(link.wait_peer(Wait::Never)), ErrorKind::NotYet);
                assert!(!link.info().expect("bound").connected);
                go.open(1);
                link.wait_peer(Wait::Forever).expect("the child comes");
                link
            } else {
                go.open(1);
                wait_until("the child to be there", || listed(port));
                // It is listed a moment before its handle is bound.
                std::thread::sleep(std::time::Duration::from_millis(200));
                Port::try_bind(port).expect("the child is there")
            };
            let info = link.info().expect("bound");
            assert!(info.connected);
            assert_eq!((info.kind, info.number), (Kind::Link, Some(port.into())));
            let peer = link.peer().expect("it is there");
            assert_eq!(peer.pid, child.pid());
            assert_eq!(peer.pidfd_ino, child.pidfd_ino());
            link.send("from the parent").expect("it receives");
            assert_eq!(&*link.recv().expect("it sends"), b"from the child");
            child.ok();
            assert_eq!(kind(link.recv()), ErrorKind::Disconnected);
        }
    });
}

#[test]
fn a_third_is_refused() {
    isolated(|| {
        let port = port();
        let first = Port::open(port).expect("the port is free");
        let second = Port::open(port).expect("the other end");
        for wait in [Wait::Never, Wait::Forever, Wait::Timeout(SHORT)] {
            assert_eq!(kind(Port::bind_with(port, wait)), ErrorKind::AddressInUse);
        }
        spawn(|| assert_eq!(kind(Port::bind(port)), ErrorKind::AddressInUse)).ok();
        assert_eq!(kind(Port::listen(port)), ErrorKind::AddressInUse);
        first.send("x").expect("room");
        assert_eq!(&*second.recv().expect("sent"), b"x");
    });
}

#[test]
fn what_the_first_sends_before_the_second_comes_waits_for_it() {
    isolated(|| {
        let port = port();
        let first = Port::open(port).expect("the port is free");
        first.send("early").expect("nobody is gone yet");
        assert_eq!(kind(first.try_recv()), ErrorKind::Empty, "nor has it ended");
        let second = Port::bind(port).expect("the other end is there");
        assert_eq!(&*second.recv().expect("sent"), b"early");
    });
}

#[test]
fn the_forms_of_waiting_for_the_other() {
    isolated(|| {
        let port = port();
        assert_eq!(kind(Port::try_bind(port)), ErrorKind::NotYet);
        assert_eq!(kind(Port::bind_timeout(port, SHORT)), ErrorKind::Timeout);
        assert_eq!(
            kind(Port::bind_deadline(port, Instant::now() + SHORT)),
            ErrorKind::Timeout
        );
        // Each time the port was free again.
        let first = Port::open(port).expect("it is free");
        let waits = thread::spawn(move || first.wait_peer(Wait::Forever).map(|()| first));
        let second = Port::bind(port).expect("the other end is there");
        let first = join(waits).expect("it came");
        second.send("x").expect("room");
        assert_eq!(&*first.recv().expect("sent"), b"x");
        drop(second);
        assert_eq!(first.wait_peer(Wait::Never), Ok(()), "it was there");
        first.set_nonblocking(true).expect("open");
    });
}

#[test]
fn a_port_is_free_again_when_one_end_is_closed_or_dies() {
    isolated(|| {
        let port = port();
        let mut first = Port::open(port).expect("the port is free");
        for by_death in [false, true] {
            if by_death {
                let there = Gate::new();
                let child = spawn(|| {
                    let _link = Port::bind(port).expect("the other end is there");
                    there.open(1);
                    sleep_forever();
                });
                there.pass();
                assert_eq!(kind(Port::open(port)), ErrorKind::AddressInUse);
                child.destroy();
            } else {
                drop(Port::bind(port).expect("the other end is there"));
            }
            // The old end is still open, and of no more use.
            assert_eq!(kind(first.recv()), ErrorKind::Disconnected);
            let new = Port::open(port).expect("it is free again");
            assert_eq!(kind(first.send("x")), ErrorKind::Disconnected);
            assert_eq!(
                kind(new.peer()),
                ErrorKind::NotConnected,
                "it is another link"
            );
            first = new;
        }
        drop(first);
        // The first one can be the one who goes.
        let first = Port::open(port).expect("it is free");
        let second = Port::bind(port).expect("the other end is there");
        drop(first);
        let new = Port::open(port).expect("it is free again");
        assert_eq!(kind(second.recv()), ErrorKind::Disconnected);
        drop(new);
    });
}

#[test]
fn what_the_first_says_holds() {
    isolated(|| {
        let port = port();
        let first = Link::options()
            .capacity(Capacity::Bounded(1))
            .back_capacity(Capacity::Bounded(3))
            .message_max(50)
            .open_port(port)
            .expect("the port is free");
        let second = Link::options()
            .capacity(Capacity::Unbounded)
            .open_port(port)
            .expect("the other end");
        let sent = |link: &Link| (0..10).take_while(|_| link.try_send("x").is_ok()).count();
        assert_eq!((sent(&first), sent(&second)), (1, 3));
        assert_eq!(second.info().expect("bound").message_max, 50);
        drop((first, second));

        let first = Link::options()
            .direction(Direction::Forward)
            .open_port(port)
            .expect("it is free");
        let second = Port::bind(port).expect("the other end is there");
        assert_eq!(first.rights(), Rights::SEND);
        assert_eq!(second.rights(), Rights::RECEIVE);
        first.send("x").expect("room");
        assert_eq!(&*second.recv().expect("sent"), b"x");
        assert_eq!(kind(second.send("x")), ErrorKind::Denied);
    });
}

#[test]
fn who_may_join_is_a_permission() {
    isolated(|| {
        let (port, open, done) = (port(), Gate::new(), Gate::new());
        let alice = spawn_as(ALICE, || {
            let link = Port::open(port).expect("the port is free");
            open.open(1);
            done.pass();
            drop(link);
            let link = Link::options()
                .mode(0o666)
                .open_port(port)
                .expect("it is free");
            open.open(1);
            assert_eq!(&*link.recv().expect("he joins"), b"from bob");
            assert_eq!(link.peer().expect("he is there").uid, BOB.uid);
        });
        open.pass();
        spawn_as(BOB, || {
            assert_eq!(kind(Port::open(port)), ErrorKind::Denied)
        })
        .ok();
        done.open(1);
        open.pass();
        spawn_as(BOB, || {
            let link = Port::bind(port).expect("the mode lets him");
            link.send("from bob").expect("room");
        })
        .ok();
        alice.ok();
    });
}

#[test]
fn a_server_listens_for_many_clients() {
    isolated(|| {
        let port = port();
        assert_eq!(kind(Port::connect(port)), ErrorKind::NotFound);
        let listener = Port::listen(port).expect("the port is free");
        assert_eq!(listener.info().expect("bound").number, Some(port.into()));
        assert_eq!(kind(Port::listen(port)), ErrorKind::AddressInUse);
        assert_eq!(kind(Port::open(port)), ErrorKind::AddressInUse);
        assert_eq!(kind(Port::bind(port)), ErrorKind::AddressInUse);
        let children: Vec<_> = (0..4)
            .map(|i| {
                spawn(move || {
                    let link = Port::connect(port).expect("somebody listens");
                    let reply = link.call(vec![i]).expect("it answers");
                    assert_eq!(*reply, [i, i]);
                })
            })
            .collect();
        for link in listener.incoming().take(4) {
            let link = link.expect("they connect");
            let mut request = link.recv_request().expect("they call");
            let i = request[0];
            request.reply([i, i]).expect("they wait");
            assert!(children.iter().any(|c| c.pid() == request.sender.pid));
        }
        children.into_iter().for_each(|child| child.ok());
        drop(listener);
        Port::open(port).expect("it is free again");
    });
}

#[test]
fn a_connection_to_a_port_that_two_have_is_refused() {
    isolated(|| {
        let port = port();
        let _first = Port::open(port).expect("the port is free");
        assert_eq!(kind(Port::connect(port)), ErrorKind::AddressInUse);
    });
}

#[test]
fn ports_have_numbers_and_no_names() {
    isolated(|| {
        for result in [
            Port::open(0).map(drop),
            Port::connect(0).map(drop),
            Port::listen(0).map(drop),
        ] {
            assert_eq!(kind(result), ErrorKind::InvalidName);
        }
        let device = raw::device().expect("the module is loaded");
        let open = |name, number, flags| {
            let mut args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_LINK,
                flags: sys::POSTBOX_O_CREATE | flags,
                rights: sys::POSTBOX_RIGHT_SEND | sys::POSTBOX_RIGHT_RECEIVE,
                number,
                ..Default::default()
            };
            raw::open(&device, name, &mut args)
        };
        let port_flag = sys::POSTBOX_O_PORT;
        assert_eq!(open(None, 65_536, port_flag), Err(Errno::INVAL));
        assert_eq!(open(None, 0, port_flag), Err(Errno::INVAL));
        assert_eq!(open(Some(b"name"), 5, port_flag), Err(Errno::INVAL));
        let persist = sys::POSTBOX_O_PERSIST;
        assert_eq!(open(None, 5, port_flag | persist), Err(Errno::INVAL));
        assert_eq!(
            open(None, 0, 0),
            Err(Errno::OPNOTSUPP),
            "links are made otherwise"
        );
    });
}

#[test]
fn ports_are_those_of_an_ipc_namespace() {
    isolated(|| {
        let port = port();
        let _first = Port::open(port).expect("the port is free");
        Spawn::new()
            .ipc_ns()
            .run(|| {
                assert_eq!(
                    kind(Port::try_bind(port)),
                    ErrorKind::NotYet,
                    "it is another port"
                );
            })
            .ok();
        Port::try_bind(port).expect("nobody has come from there");
    });
}

#[test]
fn a_port_is_listed_under_its_number() {
    isolated(|| {
        let port = port();
        let _first = Port::open(port).expect("the port is free");
        assert!(listed(port));
    });
}
