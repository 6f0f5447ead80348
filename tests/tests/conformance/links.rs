//! Links: pairs, and connections by name.

use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use postbox::{
    Capacity, Direction, ErrorKind, Kind, Link, Listener, Mailbox, PollFlags, Receiver, Rights,
    Sender, Wait, raw, sys,
};
use postbox_tests::{
    ALICE, Errno, Gate, LONG, isolated, sleep_forever, spawn, spawn_as, unique, wait_until,
};

use crate::typed::{close_copy, join, kind};

const SHORT: Duration = Duration::from_millis(10);
const NOW: Option<Duration> = Some(Duration::ZERO);

fn pair() -> (Link, Link) {
    Link::pair().expect("a link can be made")
}

fn cloexec(fd: &impl AsRawFd) -> bool {
    // SAFETY: no pointers.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
    assert!(flags >= 0, "the descriptor is open");
    flags & libc::FD_CLOEXEC != 0
}

#[test]
fn what_one_end_sends_the_other_receives_in_order() {
    isolated(|| {
        let (near, far) = pair();
        for (from, to) in [(&near, &far), (&far, &near)] {
            from.send_many(&["one", "two", "three"], 0, Wait::Forever)
                .expect("room");
            from.send_with("urgent", 5, Wait::Forever).expect("room");
            for expected in ["urgent", "one", "two", "three"] {
                let message = to.try_recv().expect("it was sent");
                assert_eq!(&*message, expected.as_bytes());
                assert_eq!(message.sender.pid, std::process::id());
            }
            assert_eq!(kind(from.try_recv()), ErrorKind::Empty, "nobody else's");
            assert_eq!(kind(to.try_recv()), ErrorKind::Empty);
        }
    });
}

#[test]
fn a_child_and_its_parent_talk_through_a_pair() {
    isolated(|| {
        let (near, far) = pair();
        let child = spawn(|| {
            close_copy(&near);
            while let Ok(message) = far.recv() {
                far.send([&message, &b"!"[..]].concat()).expect("room");
            }
        });
        drop(far);
        for i in 0..50 {
            near.send(i.to_string()).expect("the child receives");
            let echo = near.recv_timeout(LONG).expect("the child answers");
            assert_eq!(*echo, *format!("{i}!").as_bytes());
            assert_eq!(echo.sender.pid, child.pid());
        }
        drop(near);
        child.ok();
    });
}

#[test]
fn each_direction_has_its_own_capacity() {
    isolated(|| {
        let full = |link: &Link| kind(link.try_send("x")) == ErrorKind::Full;
        let (near, far) = Link::options()
            .capacity(Capacity::Rendezvous)
            .back_capacity(Capacity::Bounded(2))
            .pair()
            .expect("a link");
        assert!(full(&near), "nobody receives");
        let receiver = thread::spawn(move || (far.recv().expect("sent"), far));
        near.send("met").expect("the other end receives");
        let (message, far) = join(receiver);
        assert_eq!(&*message, b"met");
        far.try_send("one").expect("room");
        far.try_send("two").expect("room");
        assert!(full(&far));
        assert_eq!(kind(far.send_timeout("x", SHORT)), ErrorKind::Timeout);
        near.recv().expect("sent");
        far.try_send("three").expect("room again");

        let (near, far) = Link::options()
            .capacity(Capacity::Unbounded)
            .back_capacity(Capacity::Bounded(1))
            .message_max(8)
            .back_capacity_bytes(4)
            .pair()
            .expect("a link");
        for _ in 0..2000 {
            near.try_send("12345678").expect("no limit");
        }
        assert!(matches!(
            kind(near.try_send("123456789")),
            ErrorKind::TooLarge { len: 9, .. }
        ));
        assert!(matches!(
            kind(far.try_send("12345")),
            ErrorKind::TooLarge { len: 5, .. }
        ));
        far.try_send("1234").expect("room");
        let (here, there) = (near.info().expect("bound"), far.info().expect("bound"));
        assert_eq!((here.kind, here.id), (Kind::Link, there.id));
        assert_eq!((here.messages, here.back_messages), (1, 2000));
        assert_eq!((here.bytes, here.back_bytes), (4, 16_000));
        assert_eq!((there.messages, there.back_messages), (2000, 1));
        assert_eq!(here.capacity, Capacity::Bounded(1));
        assert_eq!(there.capacity, Capacity::Unbounded);
        assert!(here.connected);
    });
}

#[test]
fn a_one_way_link_has_one_direction() {
    isolated(|| {
        for (direction, first_sends) in [(Direction::Forward, true), (Direction::Back, false)] {
            let (first, second) = Link::options().direction(direction).pair().expect("a link");
            let (sender, receiver) = if first_sends {
                (first, second)
            } else {
                (second, first)
            };
            assert_eq!(sender.rights(), Rights::SEND);
            assert_eq!(receiver.rights(), Rights::RECEIVE);
            for end in [&sender, &receiver] {
                assert_eq!(end.info().expect("bound").rights, end.rights());
            }
            sender.send("x").expect("room");
            assert_eq!(&*receiver.recv().expect("sent"), b"x");
            assert_eq!(kind(receiver.send("x")), ErrorKind::Denied);
            assert_eq!(kind(sender.recv()), ErrorKind::Denied);
            assert_eq!(kind(sender.receiver()), ErrorKind::Denied);
            drop(sender);
            assert_eq!(kind(receiver.recv()), ErrorKind::Disconnected);
        }
        let (sender, receiver) = Link::options().pair_one_way().expect("a link");
        sender.send("x").expect("room");
        assert_eq!(&*receiver.recv().expect("sent"), b"x");
        drop(receiver);
        assert_eq!(kind(sender.send("x")), ErrorKind::Disconnected);

        let both = sys::POSTBOX_O_NO_BACK | sys::POSTBOX_O_NO_FORWARD;
        let mut args = sys::postbox_pair {
            flags: both,
            ..Default::default()
        };
        let device = raw::device().expect("the module is loaded");
        assert_eq!(
            raw::pair(device, &mut args).map(drop),
            Err(Errno::INVAL),
            "a link without a direction"
        );
    });
}

#[test]
fn the_other_end_drains_and_then_sees_the_end() {
    isolated(|| {
        let (near, far) = pair();
        far.send_many(&["one", "two"], 0, Wait::Forever)
            .expect("room");
        drop(far);
        assert_eq!(kind(near.send("x")), ErrorKind::Disconnected);
        let ready = near
            .ready(PollFlags::IN | PollFlags::OUT, NOW)
            .expect("open");
        assert!(ready.contains(PollFlags::IN | PollFlags::ERR), "{ready:?}");
        let messages: Vec<_> = near
            .iter()
            .map(|message| message.expect("drained").payload)
            .collect();
        assert_eq!(messages, [b"one", b"two"]);
        assert_eq!(kind(near.recv()), ErrorKind::Disconnected);
        let ready = near.ready(PollFlags::empty(), NOW).expect("open");
        assert_eq!(ready, PollFlags::HUP | PollFlags::ERR);
    });
}

#[test]
fn the_death_of_a_process_wakes_whoever_waits_at_the_other_end() {
    isolated(|| {
        let (near, far) = Link::options()
            .capacity(Capacity::Bounded(1))
            .pair()
            .expect("a link");
        near.send("fills it").expect("room");
        let child = spawn(sleep_forever);
        let receiver = spawn(|| {
            close_copy(&far);
            assert_eq!(kind(near.recv()), ErrorKind::Disconnected);
        });
        let sender = spawn(|| {
            close_copy(&far);
            assert_eq!(kind(near.send("x")), ErrorKind::Disconnected);
        });
        drop(far);
        wait_until("both to wait", || {
            let info = near.info().expect("bound");
            info.waiting_receivers == 1
        });
        sender.wait_asleep();
        // The child has both ends; what it has of `near` does not matter.
        child.destroy();
        receiver.ok();
        sender.ok();
    });
}

#[test]
fn a_half_shutdown_is_what_closing_would_be_and_the_other_half_goes_on() {
    isolated(|| {
        let (near, far) = pair();
        near.send("last").expect("room");
        near.shutdown(Shutdown::Write).expect("it may send");
        assert_eq!(kind(near.send("x")), ErrorKind::Disconnected);
        assert_eq!(&*far.recv().expect("what was sent before"), b"last");
        assert_eq!(kind(far.recv()), ErrorKind::Disconnected);
        far.send("still").expect("the other direction goes on");
        assert_eq!(&*near.recv().expect("sent"), b"still");

        near.shutdown(Shutdown::Read).expect("it may receive");
        assert_eq!(kind(far.send("x")), ErrorKind::Disconnected);
        assert_eq!(kind(near.recv()), ErrorKind::Disconnected);
        near.shutdown(Shutdown::Both).expect("again is nothing new");
    });
}

#[test]
fn a_shutdown_wakes_whoever_waits_and_is_for_all_handles_of_the_end() {
    isolated(|| {
        let (near, far) = Link::options()
            .capacity(Capacity::Bounded(1))
            .pair()
            .expect("a link");
        let second = near.try_clone().expect("a descriptor");
        far.send("fills it").expect("room");
        let waiting = |work: fn(&Link) -> ErrorKind, link: &Link| {
            let link = link.try_clone().expect("a descriptor");
            thread::spawn(move || work(&link))
        };
        let receiver = waiting(|link| kind(link.recv()), &far);
        let sender = waiting(|link| kind(link.send("x")), &far);
        wait_until("both to wait", || {
            far.info().expect("bound").waiting_receivers == 1
                && near.info().expect("bound").waiting_senders == 1
        });
        near.shutdown(Shutdown::Both).expect("it may do both");
        assert_eq!(join(receiver), ErrorKind::Disconnected);
        assert_eq!(join(sender), ErrorKind::Disconnected);
        assert_eq!(kind(second.send("x")), ErrorKind::Disconnected);
    });
}

#[test]
fn a_shutdown_needs_the_right_of_its_direction() {
    isolated(|| {
        let (near, _far) = pair();
        let sender = near.sender().expect("it may send");
        assert_eq!(
            raw::shutdown(&sender, sys::POSTBOX_SHUT_RECEIVE),
            Err(Errno::ACCESS)
        );
        assert_eq!(raw::shutdown(&near, 0), Err(Errno::INVAL));
        assert_eq!(raw::shutdown(&near, 4), Err(Errno::INVAL));
        assert_eq!(raw::shutdown(&sender, sys::POSTBOX_SHUT_SEND), Ok(()));
        assert_eq!(kind(near.send("x")), ErrorKind::Disconnected);
        let (one_way, _) = Link::options().pair_one_way().expect("a link");
        assert_eq!(
            raw::shutdown(&one_way, sys::POSTBOX_SHUT_RECEIVE),
            Err(Errno::OPNOTSUPP),
            "there is no such direction"
        );
        let mailbox = Mailbox::options().anonymous().expect("a mailbox");
        assert_eq!(
            raw::shutdown(&mailbox, sys::POSTBOX_SHUT_SEND),
            Err(Errno::OPNOTSUPP)
        );
    });
}

#[test]
fn the_halves_of_a_split_end_are_its_directions() {
    isolated(|| {
        let (near, far) = pair();
        let (sender, receiver) = near.split().expect("it has both");
        sender.send("x").expect("room");
        assert_eq!(&*far.recv().expect("sent"), b"x");
        drop(sender);
        assert_eq!(kind(far.recv()), ErrorKind::Disconnected);
        far.send("y").expect("somebody receives");
        assert_eq!(&*receiver.recv().expect("sent"), b"y");
        drop(receiver);
        assert_eq!(kind(far.send("z")), ErrorKind::Disconnected);
    });
}

#[test]
fn the_kernel_says_what_a_descriptor_is() {
    isolated(|| {
        let (near, far) = pair();
        assert!(cloexec(&near) && cloexec(&far));
        let near = Link::try_from(OwnedFd::from(near)).expect("it is one");
        let refused = Mailbox::try_from(OwnedFd::from(near)).expect_err("it is a link");
        assert_eq!(refused.error.kind, ErrorKind::WrongHandle);
        let refused = Sender::try_from(refused.fd).expect_err("it receives, too");
        let near = Link::try_from(refused.fd).expect("it still is one");
        let half = Sender::try_from(OwnedFd::from(near.sender().expect("a half"))).expect("one");
        half.send("x").expect("room");
        let half = Receiver::try_from(OwnedFd::from(far.receiver().expect("a half"))).expect("one");
        assert_eq!(&*half.recv().expect("sent"), b"x");
        let half = Link::try_from(OwnedFd::from(half)).expect("a link end of one right");
        assert_eq!(half.rights(), Rights::RECEIVE);
        assert_eq!(
            Listener::try_from(OwnedFd::from(half))
                .expect_err("it is a link")
                .error
                .kind,
            ErrorKind::WrongHandle
        );
    });
}

#[test]
fn everything_that_mailboxes_do_works_at_a_link_end() {
    isolated(|| {
        let (near, far) = Link::options()
            .capacity(Capacity::Bounded(2))
            .pair()
            .expect("a link");
        let permit = near.try_reserve(10).expect("room");
        near.try_send("takes the rest").expect("room");
        assert_eq!(kind(near.try_send("x")), ErrorKind::Full);
        permit.send("reserved").expect("it was reserved");
        let first = far.take().expect("sent");
        assert_eq!(&**first, b"takes the rest");
        drop(first);
        let first = far.take().expect("it went back");
        assert!(first.redelivered);
        first.ack().expect("it is ours");
        let mut buffer = [0; 4];
        assert_eq!(
            kind(far.recv_into(&mut buffer)),
            ErrorKind::TooLarge { len: 8, limit: 4 }
        );
        assert_eq!(&*far.recv().expect("it stayed"), b"reserved");
        near.set_nonblocking(true).expect("open");
        assert_eq!(kind(near.recv()), ErrorKind::Empty);
    });
}

#[test]
fn a_client_connects_and_both_know_who_the_other_is() {
    isolated(|| {
        let name = unique("listener");
        let listener = Link::options()
            .mode(0o666)
            .listen(&name)
            .expect("the name is new");
        let connected = Gate::new();
        let done = Gate::new();
        let client = spawn_as(ALICE, || {
            let link = Link::connect(&name).expect("somebody listens");
            link.send("before it is accepted").expect("room");
            let peer = link.peer().expect("who listens");
            // SAFETY: no pointers.
            assert_eq!(peer.pid, unsafe { libc::getppid() }.cast_unsigned());
            connected.open(1);
            assert_eq!(&*link.recv().expect("it is accepted"), b"welcome");
            let peer = link.peer().expect("who accepted");
            // SAFETY: no pointers.
            assert_eq!(peer.pid, unsafe { libc::getppid() }.cast_unsigned());
            done.pass();
        });
        connected.pass();
        let ready = listener.ready(PollFlags::IN, NOW).expect("open");
        assert_eq!(ready, PollFlags::IN);
        let link = listener.accept().expect("it waits");
        assert!(cloexec(&link));
        let peer = link.peer().expect("it connected");
        assert_eq!(
            (peer.pid, peer.uid, peer.gid),
            (client.pid(), ALICE.uid, ALICE.gid)
        );
        assert_eq!(peer.pidfd_ino, client.pidfd_ino());
        assert_eq!(&*link.recv().expect("sent"), b"before it is accepted");
        link.send("welcome").expect("room");
        done.open(1);
        client.ok();
        assert_eq!(kind(link.recv()), ErrorKind::Disconnected);
        assert_eq!(kind(peer.verify()), ErrorKind::Gone);
    });
}

#[test]
fn both_ends_of_a_pair_are_of_who_made_it() {
    isolated(|| {
        let (near, far) = pair();
        for end in [&near, &far] {
            let peer = end.peer().expect("it is there");
            assert_eq!(peer.pid, std::process::id());
            assert!(peer.verify().is_ok());
        }
        let child = spawn(|| {
            // SAFETY: no pointers.
            let parent = unsafe { libc::getppid() }.cast_unsigned();
            assert_eq!(far.peer().expect("it is there").pid, parent);
        });
        child.ok();
        let mailbox = Mailbox::options().anonymous().expect("a mailbox");
        assert_eq!(raw::peer(&mailbox).map(drop), Err(Errno::OPNOTSUPP));
    });
}

#[test]
fn names_of_listeners_are_names() {
    isolated(|| {
        let name = unique("listener");
        assert_eq!(kind(Link::connect(&name)), ErrorKind::NotFound);
        let listener = Listener::bind(&name).expect("the name is new");
        assert_eq!(kind(Listener::bind(&name)), ErrorKind::Exists);
        assert_eq!(kind(Mailbox::open(&name)), ErrorKind::Unsupported);
        assert_eq!(kind(Link::connect("no//name")), ErrorKind::InvalidName);
        let info = postbox::stat(&name).expect("it is listed");
        assert_eq!(info.kind, Kind::Listener);
        // Its mode is the owner's alone.
        spawn_as(ALICE, || {
            assert_eq!(kind(Link::connect(&name)), ErrorKind::Denied);
            assert_eq!(kind(Listener::open(&name)), ErrorKind::Denied);
        })
        .ok();
        let mailbox = unique("mailbox");
        let _mailbox = Mailbox::bounded(&mailbox, 1).expect("new");
        assert_eq!(kind(Link::connect(&mailbox)), ErrorKind::Unsupported);
        drop(listener);
        assert_eq!(kind(Link::connect(&name)), ErrorKind::NotFound);
        Listener::bind(&name).expect("the name is free again");
    });
}

#[test]
fn so_many_connections_wait_to_be_accepted() {
    isolated(|| {
        let name = unique("listener");
        let listener = Link::options().backlog(2).listen(&name).expect("new");
        let first = Link::try_connect(&name).expect("room for two");
        let second = Link::try_connect(&name).expect("room for two");
        assert_eq!(kind(Link::try_connect(&name)), ErrorKind::Full);
        assert_eq!(
            kind(Link::connect_timeout(&name, SHORT)),
            ErrorKind::Timeout
        );
        assert_eq!(
            kind(Link::connect_deadline(&name, Instant::now() + SHORT)),
            ErrorKind::Timeout
        );
        let third = {
            let name = name.clone();
            thread::spawn(move || Link::connect(&name).expect("room, in the end"))
        };
        wait_until("it to wait", || {
            listener.info().expect("bound").waiting_senders == 1
        });
        // They are accepted in the order in which they came.
        first.send("first").expect("room");
        second.send("second").expect("room");
        let accepted = listener.accept().expect("it waits");
        assert_eq!(&*accepted.recv().expect("sent"), b"first");
        let third = join(third);
        let accepted = listener.accept().expect("it waits");
        assert_eq!(&*accepted.recv().expect("sent"), b"second");
        third.send("third").expect("room");
        let accepted = listener.accept().expect("it waits");
        assert_eq!(&*accepted.recv().expect("sent"), b"third");
        assert_eq!(kind(listener.try_accept()), ErrorKind::Empty);
    });
}

#[test]
fn without_a_backlog_a_connect_waits_for_its_accept() {
    isolated(|| {
        let name = unique("listener");
        let listener = Link::options().backlog(0).listen(&name).expect("new");
        assert_eq!(kind(Link::try_connect(&name)), ErrorKind::Full);
        assert_eq!(
            kind(Link::connect_timeout(&name, SHORT)),
            ErrorKind::Timeout
        );
        assert_eq!(kind(listener.try_accept()), ErrorKind::Empty, "it gave up");
        let client = {
            let name = name.clone();
            thread::spawn(move || Link::connect(&name).expect("it is accepted"))
        };
        wait_until("it to wait", || {
            listener.info().expect("bound").waiting_senders == 1
        });
        let server = listener.accept().expect("it waits");
        let client = join(client);
        client.send("x").expect("room");
        assert_eq!(&*server.recv().expect("sent"), b"x");
    });
}

#[test]
fn the_forms_of_accept() {
    isolated(|| {
        let name = unique("listener");
        let listener = Listener::bind(&name).expect("new");
        assert_eq!(kind(listener.try_accept()), ErrorKind::Empty);
        assert_eq!(kind(listener.accept_timeout(SHORT)), ErrorKind::Timeout);
        assert_eq!(
            kind(listener.accept_deadline(Instant::now() + SHORT)),
            ErrorKind::Timeout
        );
        assert_eq!(listener.ready(PollFlags::IN, NOW), Ok(PollFlags::empty()));
        let second = Listener::open(&name).expect("one more to accept");
        let waits = thread::spawn(move || (second.accept().expect("somebody connects"), second));
        wait_until("it to wait", || {
            listener.info().expect("bound").waiting_receivers == 1
        });
        let client = Link::connect(&name).expect("somebody listens");
        let (server, second) = join(waits);
        server.send("x").expect("room");
        assert_eq!(&*client.recv().expect("sent"), b"x");
        drop(second);
        let clients = [Link::connect(&name), Link::connect(&name)].map(|link| link.expect("room"));
        let accepted: Vec<_> = listener
            .incoming()
            .take(2)
            .map(|link| link.expect("it waits"))
            .collect();
        for (i, (client, server)) in clients.iter().zip(&accepted).enumerate() {
            client.send([i as u8]).expect("room");
            assert_eq!(*server.recv().expect("sent"), [i as u8]);
        }
        listener.set_nonblocking(true).expect("open");
        assert_eq!(kind(listener.accept()), ErrorKind::Empty);
    });
}

#[test]
fn each_connection_goes_to_one_of_many_acceptors() {
    isolated(|| {
        const CLIENTS: usize = 12;
        let name = unique("listener");
        let listener = Listener::bind(&name).expect("new");
        let servers: Vec<_> = (0..3)
            .map(|_| {
                spawn(|| {
                    while let Ok(link) = listener.accept_timeout(LONG) {
                        let Ok(mut request) = link.recv_request() else {
                            return;
                        };
                        request
                            .reply(std::process::id().to_string())
                            .expect("the client waits");
                    }
                })
            })
            .collect();
        let pids: Vec<String> = servers.iter().map(|s| s.pid().to_string()).collect();
        for _ in 0..CLIENTS {
            let link = Link::connect(&name).expect("somebody listens");
            let reply = link.call("who?").expect("one of them answers");
            let pid = String::from_utf8(reply.payload.clone()).expect("a number");
            assert!(pids.contains(&pid));
            assert_eq!(link.peer().expect("accepted").pid.to_string(), pid);
            assert_eq!(
                link.call("again?").map_err(|e| e.kind).err(),
                Some(ErrorKind::Disconnected)
            );
        }
        drop(servers);
    });
}

#[test]
fn connections_that_are_never_accepted_see_the_end() {
    isolated(|| {
        let name = unique("listener");
        let listener = Link::options().backlog(1).listen(&name).expect("new");
        let waiting = Link::connect(&name).expect("room");
        waiting.send("into the void").expect("room");
        let blocked = {
            let name = name.clone();
            thread::spawn(move || kind(Link::connect(&name)))
        };
        wait_until("it to wait", || {
            listener.info().expect("bound").waiting_senders == 1
        });
        let receives = thread::spawn(move || kind(waiting.recv()));
        drop(listener);
        assert_eq!(join(blocked), ErrorKind::Disconnected);
        assert_eq!(join(receives), ErrorKind::Disconnected);
        // Whatever was in it is gone with it. What a process before this one had may take a moment more.
        wait_until("everything to be gone", || {
            let usage = postbox::usage().expect("it tells");
            (usage.messages, usage.objects) == (0, 0)
        });
    });
}

#[test]
fn a_listener_that_dies_wakes_its_clients() {
    isolated(|| {
        let name = unique("listener");
        let listening = Gate::new();
        let child = spawn(|| {
            let _listener = Listener::bind(&name).expect("new");
            listening.open(1);
            sleep_forever();
        });
        listening.pass();
        let client = Link::connect(&name).expect("room");
        let receives = thread::spawn(move || kind(client.recv()));
        child.destroy();
        assert_eq!(join(receives), ErrorKind::Disconnected);
    });
}

#[test]
fn connections_end_with_the_last_handle_that_accepts_whatever_else_is_open() {
    isolated(|| {
        let name = unique("listener");
        let listening = raw::device().expect("the module is loaded");
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_LISTENER,
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL,
            rights: sys::POSTBOX_RIGHT_RECEIVE | sys::POSTBOX_RIGHT_ADMIN,
            mode: 0o600,
            capacity: 1,
            back_capacity: 1,
            backlog: 1,
            ..Default::default()
        };
        raw::open(&listening, Some(name.as_bytes()), &mut args).expect("new");
        let _admin = raw::dup(&listening, sys::POSTBOX_RIGHT_ADMIN).expect("a subset");
        let client = Link::connect(&name).expect("room");
        drop(listening);
        assert_eq!(kind(client.recv()), ErrorKind::Disconnected);
        assert_eq!(kind(client.send("x")), ErrorKind::Disconnected);
    });
}

#[test]
fn a_client_that_goes_before_it_is_accepted_leaves_what_it_sent() {
    isolated(|| {
        let name = unique("listener");
        let listener = Listener::bind(&name).expect("new");
        let client = spawn(|| {
            let link = Link::connect(&name).expect("room");
            link.send("bye").expect("room");
        });
        let process = client.pidfd_ino();
        client.ok();
        let link = listener.accept().expect("it still waits");
        assert_eq!(link.peer().expect("it connected").pidfd_ino, process);
        assert_eq!(&*link.recv().expect("sent"), b"bye");
        assert_eq!(kind(link.recv()), ErrorKind::Disconnected);
        assert_eq!(kind(link.send("x")), ErrorKind::Disconnected);
    });
}

#[test]
fn an_accept_without_a_free_descriptor_leaves_the_connection() {
    isolated(|| {
        let name = unique("listener");
        let listener = Listener::bind(&name).expect("new");
        let client = Link::connect(&name).expect("room");
        client.send("x").expect("room");
        let limit = |max| {
            let limit = libc::rlimit {
                rlim_cur: max,
                rlim_max: 1024,
            };
            // SAFETY: a valid limit.
            let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
            assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        };
        limit(3);
        assert_eq!(kind(listener.accept()), ErrorKind::NoDescriptors);
        limit(1024);
        let server = listener.try_accept().expect("it still waits");
        assert_eq!(&*server.recv().expect("sent"), b"x");
    });
}

#[test]
fn links_through_a_listener_are_what_it_says() {
    isolated(|| {
        let name = unique("listener");
        let listener = Link::options()
            .direction(Direction::Back)
            .back_capacity(Capacity::Bounded(1))
            .message_max(100)
            .listen(&name)
            .expect("new");
        let client = Link::connect(&name).expect("somebody listens");
        assert_eq!(client.rights(), Rights::RECEIVE);
        let server = listener.accept().expect("it waits");
        assert_eq!(server.rights(), Rights::SEND);
        server.try_send("x").expect("room for one");
        assert_eq!(kind(server.try_send("x")), ErrorKind::Full);
        assert!(matches!(
            kind(server.try_send([0; 101])),
            ErrorKind::TooLarge {
                len: 101,
                limit: 100
            }
        ));
        let info = client.info().expect("bound");
        assert_eq!((info.kind, info.message_max), (Kind::Link, 100));
        assert_eq!(info.name, None, "the name is the listener's");
    });
}

#[test]
fn links_belong_to_who_connected_and_count_as_objects() {
    isolated(|| {
        let objects = || postbox::usage().expect("it tells").objects;
        let before = objects();
        let (near, far) = pair();
        assert_eq!(objects(), before + 1);
        drop(near);
        assert_eq!(objects(), before + 1);
        drop(far);
        assert_eq!(objects(), before);
    });
}

#[test]
fn a_handle_is_bound_once() {
    isolated(|| {
        let name = unique("listener");
        let _listener = Listener::bind(&name).expect("new");
        let (near, _far) = pair();
        let mut args = sys::postbox_connect::default();
        let again = raw::connect(&near, Some(name.as_bytes()), &mut args);
        assert_eq!(again, Err(Errno::ISCONN));
        let again = raw::pair(&near, &mut sys::postbox_pair::default());
        assert_eq!(again.map(drop), Err(Errno::ISCONN));
        let unbound = raw::device().expect("the module is loaded");
        for result in [
            raw::peer(&unbound).map(drop),
            raw::shutdown(&unbound, sys::POSTBOX_SHUT_SEND),
            raw::accept(&unbound, &mut sys::postbox_accept::default()).map(drop),
            raw::wait_peer(&unbound, 0, 0),
        ] {
            assert_eq!(result, Err(Errno::BADFD));
        }
        assert_eq!(
            raw::accept(&near, &mut sys::postbox_accept::default()).map(drop),
            Err(Errno::OPNOTSUPP)
        );
    });
}
