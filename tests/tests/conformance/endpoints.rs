//! Endpoints: the mailbox of a process, addressed by its number; and receiving from one process alone.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use postbox::{
    Capacity, Endpoint, ErrorKind, Kind, Link, PollFlags, Receiver, Rights, Sender, Wait, raw, sys,
};
use postbox_tests::{
    ALICE, BOB, Child, Errno, Gate, LONG, Spawn, check, isolated, sleep_forever, spawn, spawn_as,
    wait_until,
};

use crate::typed::{join, kind, mailbox};

const SHORT: Duration = Duration::from_millis(10);

fn own() -> Endpoint {
    Endpoint::own().expect("this process may have one")
}

fn parent() -> u32 {
    // SAFETY: no pointers.
    unsafe { libc::getppid() }.cast_unsigned()
}

/// Children that send to their parent when they are told to: "a0", "a1" and so on.
struct Senders {
    gates: Vec<Gate>,
    children: Vec<Child>,
    sent: Vec<u32>,
}

impl Senders {
    fn new(names: &str) -> Self {
        let gates: Vec<_> = names.chars().map(|_| Gate::new()).collect();
        let children = names
            .chars()
            .zip(&gates)
            .map(|(name, gate)| {
                spawn(move || {
                    let sender = Endpoint::of(parent()).expect("the parent has one");
                    for i in 0.. {
                        gate.pass();
                        sender.send(format!("{name}{i}")).expect("room");
                    }
                })
            })
            .collect();
        let sent = vec![0; gates.len()];
        Senders {
            gates,
            children,
            sent,
        }
    }

    /// Has these children send, one after the other.
    fn send(&mut self, endpoint: &Endpoint, order: &[usize]) {
        for &child in order {
            let before = endpoint.info().expect("bound").sent;
            self.gates[child].open(1);
            self.sent[child] += 1;
            wait_until("it to send", || {
                endpoint.info().expect("bound").sent == before + 1
            });
        }
    }

    fn pid(&self, child: usize) -> u32 {
        self.children[child].pid()
    }

    fn end(&mut self, child: usize) {
        self.children.remove(child).destroy();
    }
}

fn text(message: postbox::Result<postbox::Message>) -> String {
    let message = message.expect("there is one");
    String::from_utf8(message.payload).expect("text")
}

#[test]
fn messages_to_a_number_reach_its_process() {
    isolated(|| {
        let (ready, sent) = (Gate::new(), Gate::new());
        let child = spawn(|| {
            let mine = own();
            ready.open(1);
            sent.pass();
            let message = mine.recv().expect("sent");
            assert_eq!(&*message, b"hello");
            assert_eq!(message.sender.pid, parent());
            let answer = message.sender.endpoint().expect("the parent has one");
            answer.send("hello to you").expect("room");
        });
        let mine = own();
        ready.pass();
        Endpoint::send_to(child.pid(), "hello").expect("it has one");
        sent.open(1);
        let answer = mine.recv().expect("it answers");
        assert_eq!(&*answer, b"hello to you");
        assert_eq!(answer.sender.pid, child.pid());
        child.ok();
    });
}

#[test]
fn messages_are_received_from_anyone_in_their_order() {
    isolated(|| {
        let mine = own();
        let mut senders = Senders::new("ab");
        senders.send(&mine, &[0, 1, 1, 0, 1]);
        for expected in ["a0", "b0", "b1", "a1", "b2"] {
            assert_eq!(text(mine.try_recv()), expected);
        }
    });
}

#[test]
fn messages_of_one_process_alone_while_those_of_others_stay_in_order() {
    isolated(|| {
        let mine = own();
        let mut senders = Senders::new("abc");
        senders.send(&mine, &[0, 1, 2, 1, 0, 1]);
        let b = senders.pid(1);
        assert_eq!(text(mine.recv_from(b)), "b0");
        assert_eq!(text(mine.try_recv_from(b)), "b1");
        assert_eq!(text(mine.recv_from_timeout(b, LONG)), "b2");
        assert_eq!(kind(mine.try_recv_from(b)), ErrorKind::Empty);
        assert_eq!(kind(mine.recv_from_timeout(b, SHORT)), ErrorKind::Timeout);
        let deadline = Instant::now() + SHORT;
        assert_eq!(
            kind(mine.recv_from_deadline(b, deadline)),
            ErrorKind::Timeout
        );
        for expected in ["a0", "c0", "a1"] {
            assert_eq!(text(mine.try_recv()), expected);
        }
    });
}

#[test]
fn a_wait_for_one_process_is_not_ended_by_anothers_message() {
    isolated(|| {
        let mine = own();
        let mut senders = Senders::new("ab");
        let b = senders.pid(1);
        let second = mine.try_clone().expect("a descriptor");
        let waits = thread::spawn(move || text(second.recv_from(b)));
        wait_until("it to wait", || {
            mine.info().expect("bound").waiting_receivers == 1
        });
        senders.send(&mine, &[0, 0]);
        assert!(!waits.is_finished());
        assert_eq!(mine.info().expect("bound").messages, 2);
        senders.send(&mine, &[1]);
        assert_eq!(join(waits), "b0");
        assert_eq!(text(mine.try_recv()), "a0");
        assert_eq!(text(mine.try_recv()), "a1");
    });
}

#[test]
fn who_waits_for_anyone_is_served_past_who_waits_for_another() {
    isolated(|| {
        let mine = own();
        let mut senders = Senders::new("ab");
        let b = senders.pid(1);
        let clone = || mine.try_clone().expect("a descriptor");
        let waiting = |count| {
            wait_until("them to wait", || {
                mine.info().expect("bound").waiting_receivers == count
            });
        };
        let (one, any) = (clone(), clone());
        let for_b = thread::spawn(move || text(one.recv_from(b)));
        waiting(1);
        let for_anyone = thread::spawn(move || text(any.recv()));
        waiting(2);
        senders.send(&mine, &[0]);
        assert_eq!(join(for_anyone), "a0");
        senders.send(&mine, &[1]);
        assert_eq!(join(for_b), "b0");
    });
}

#[test]
fn a_wait_for_one_process_ends_with_it_after_what_it_sent() {
    isolated(|| {
        let mine = own();
        let mut senders = Senders::new("ab");
        senders.send(&mine, &[0, 1, 0]);
        let a = senders.pid(0);
        let first = mine.recv_from(a).expect("sent");
        assert_eq!(&*first, b"a0");
        let second = mine.try_clone().expect("a descriptor");
        let identity = first.sender;
        let waits = thread::spawn(move || {
            assert_eq!(text(second.recv_from(identity)), "a1");
            kind(second.recv_from(identity))
        });
        wait_until("it to wait", || {
            mine.info().expect("bound").waiting_receivers == 1
        });
        senders.end(0);
        assert_eq!(join(waits), ErrorKind::Disconnected);
        for wait in [Wait::Never, Wait::Forever, Wait::Timeout(SHORT)] {
            let gone = mine.recv_from_with(identity, wait);
            assert_eq!(kind(gone), ErrorKind::Disconnected);
        }
        assert_eq!(text(mine.try_recv()), "b0", "the others' are there");
    });
}

#[test]
fn what_a_process_left_is_received_from_it_after_its_end() {
    isolated(|| {
        let mine = own();
        let child = spawn(|| {
            let sender = Endpoint::of(parent()).expect("the parent has one");
            sender.send("one").expect("room");
            sender.send("two").expect("room");
        });
        let (pid, pidfd_ino) = (child.pid(), child.pidfd_ino());
        child.ok();
        let first = mine.recv().expect("it is there");
        assert_eq!(
            (first.sender.pid, first.sender.pidfd_ino),
            (pid, pidfd_ino),
            "its number stays with its messages"
        );
        assert_eq!(text(mine.recv_from(first.sender)), "two");
        let gone = mine.recv_from(first.sender);
        assert_eq!(kind(gone), ErrorKind::Disconnected);
        // By its number alone there is nobody.
        assert_eq!(kind(mine.recv_from(pid)), ErrorKind::Gone);
    });
}

#[test]
fn any_mailbox_can_be_received_from_by_process() {
    isolated(|| {
        let mailbox = mailbox(Capacity::Bounded(4));
        mailbox.send("mine").expect("room");
        let child = spawn(|| mailbox.send("the child's").expect("room"));
        let identity = {
            let pid = child.pid();
            wait_until("both to be there", || {
                mailbox.info().expect("bound").messages == 2
            });
            let message = mailbox.recv_from(pid);
            match message {
                Ok(message) => {
                    assert_eq!(&*message, b"the child's");
                    message.sender
                }
                // It has ended already.
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(identity.pid, child.pid());
        let me = std::process::id();
        assert_eq!(text(mailbox.recv_from(me)), "mine");
    });
}

#[test]
fn receiving_from_one_process_goes_with_neither_acknowledgement_nor_nonsense() {
    isolated(|| {
        let mine = own();
        let recv = |flags, pid| {
            let mut args = sys::postbox_recv {
                flags: sys::POSTBOX_NONBLOCK | sys::POSTBOX_RECV_FROM | flags,
                pid,
                ..Default::default()
            };
            raw::recv(&mine, &mut [0; 8], &mut args)
        };
        let me = std::process::id();
        assert_eq!(recv(sys::POSTBOX_RECV_ACK, me), Err(Errno::INVAL));
        assert_eq!(recv(0, 0), Err(Errno::SRCH));
        assert_eq!(recv(0, u32::MAX), Err(Errno::SRCH));
        assert_eq!(recv(0, me), Err(Errno::AGAIN));
    });
}

/// A child of that number, as `fork` would make it.
fn fork_as(pid: u32, f: impl FnOnce()) -> libc::pid_t {
    let wanted = pid.cast_signed();
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    args.set_tid = (&raw const wanted) as u64;
    args.set_tid_size = 1;
    // SAFETY: the arguments are valid; without a stack of its own the child goes on as after a fork, on a copy of this
    // process, which has one thread.
    let child = check("clone3", unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args))
    } as libc::c_int);
    if child == 0 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        // SAFETY: ends the process without running anything.
        unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) };
    }
    child
}

#[test]
fn a_later_process_of_the_same_number_gets_nothing() {
    isolated(|| {
        let mine = own();
        let (there, sent) = (Gate::new(), Gate::new());
        let first = spawn(|| {
            let _endpoint = own();
            Endpoint::send_to(parent(), "from the first").expect("the parent has one");
            there.open(1);
            sleep_forever();
        });
        there.pass();
        let pid = first.pid();
        let to_first = Endpoint::of(pid).expect("it has one");
        to_first.send("for the first").expect("room");
        let identity = mine.recv().expect("sent").sender;
        assert!(identity.endpoint().is_ok());
        first.destroy();
        assert_eq!(kind(Endpoint::of(pid)), ErrorKind::Gone);

        let (go, done) = (Gate::new(), Gate::new());
        let second = fork_as(pid, || {
            assert_eq!(std::process::id(), pid);
            there.open(1);
            go.pass();
            let endpoint = own();
            assert_eq!(kind(endpoint.try_recv()), ErrorKind::Empty);
            Endpoint::send_to(parent(), "from the second").expect("the parent has one");
            there.open(1);
            sent.pass();
            assert_eq!(text(endpoint.try_recv()), "for the second");
            done.open(1);
        });
        assert_eq!(second.cast_unsigned(), pid);
        there.pass();
        assert_eq!(
            kind(Endpoint::of(pid)),
            ErrorKind::NotFound,
            "it has none yet"
        );
        go.open(1);
        there.pass();
        // What is open for the first one reaches nobody.
        assert_eq!(kind(to_first.send("x")), ErrorKind::Disconnected);
        assert_eq!(kind(identity.endpoint()), ErrorKind::Gone);
        // Nor is the second one's message the first one's.
        assert_eq!(kind(mine.recv_from(identity)), ErrorKind::Disconnected);
        assert_eq!(text(mine.recv_from(pid)), "from the second");
        Endpoint::send_to(pid, "for the second").expect("it has one now");
        sent.open(1);
        done.pass();
        let mut status = 0;
        // SAFETY: `status` is writable.
        check("waitpid", unsafe { libc::waitpid(second, &mut status, 0) });
        assert_eq!(status, 0, "the second process failed");
    });
}

#[test]
fn an_endpoint_ends_with_its_process_and_wakes_who_waits_to_send() {
    isolated(|| {
        let ready = Gate::new();
        let child = spawn(|| {
            let _endpoint = Endpoint::options()
                .capacity(Capacity::Bounded(1))
                .open()
                .expect("it may");
            ready.open(1);
            sleep_forever();
        });
        ready.pass();
        let sender = Endpoint::of(child.pid()).expect("it has one");
        sender.send("fills it").expect("room");
        assert_eq!(kind(sender.try_send("x")), ErrorKind::Full);
        let second = sender.try_clone().expect("a descriptor");
        let waits = thread::spawn(move || kind(second.send("x")));
        wait_until("it to wait", || {
            sender.info().expect("bound").waiting_senders == 1
        });
        child.destroy();
        assert_eq!(join(waits), ErrorKind::Disconnected);
    });
}

#[test]
fn a_process_without_an_endpoint_and_no_process_are_told_apart() {
    isolated(|| {
        let child = spawn(sleep_forever);
        let pid = child.pid();
        assert_eq!(kind(Endpoint::of(pid)), ErrorKind::NotFound);
        let failed = Endpoint::send_to(pid, String::from("x")).expect_err("it has none");
        assert_eq!(failed.payload, "x", "the payload comes back");
        child.destroy();
        assert_eq!(kind(Endpoint::of(pid)), ErrorKind::Gone);
        assert_eq!(kind(Endpoint::of(0)), ErrorKind::Gone);
        let text = Endpoint::of(pid).expect_err("gone").to_string();
        assert!(text.contains(&format!("process {pid}")), "{text}");
        // It is gone with its last handle, too.
        let mine = own();
        let me = std::process::id();
        Endpoint::of(me).expect("this process has one");
        drop(mine);
        assert_eq!(kind(Endpoint::of(me)), ErrorKind::NotFound);
    });
}

#[test]
fn an_endpoint_does_not_end_when_whoever_sent_is_gone() {
    isolated(|| {
        let mine = own();
        let me = std::process::id();
        for _ in 0..2 {
            spawn(move || Endpoint::send_to(me, "hello").expect("it has one")).ok();
            assert_eq!(text(mine.recv()), "hello");
            // Others may always come.
            assert_eq!(kind(mine.try_recv()), ErrorKind::Empty);
            assert_eq!(kind(mine.recv_timeout(SHORT)), ErrorKind::Timeout);
            let events = mine.ready(PollFlags::IN, Some(Duration::ZERO));
            assert_eq!(events, Ok(PollFlags::empty()));
        }
        let second = mine.try_clone().expect("a descriptor");
        let waits = thread::spawn(move || text(second.recv()));
        let sender = Endpoint::of(me).expect("this process has one");
        wait_until("it to wait", || {
            mine.info().expect("bound").waiting_receivers == 1
        });
        drop(sender);
        Endpoint::send_to(me, "later").expect("it has one");
        assert_eq!(join(waits), "later");
    });
}

#[test]
fn a_process_has_one_endpoint_however_often_it_opens_it() {
    isolated(|| {
        let first = Endpoint::options()
            .capacity(Capacity::Bounded(2))
            .message_max(10)
            .open()
            .expect("it may");
        let second = Endpoint::options()
            .capacity(Capacity::Unbounded)
            .open()
            .expect("it has one");
        let (one, two) = (first.info().expect("bound"), second.info().expect("bound"));
        assert_eq!(one.id, two.id);
        assert_eq!((two.capacity, two.message_max), (Capacity::Bounded(2), 10));
        assert_eq!(
            (two.kind, two.number),
            (Kind::Endpoint, Some(std::process::id()))
        );
        assert_eq!(two.rights, Rights::RECEIVE);
        Endpoint::send_to(std::process::id(), "x").expect("room");
        assert_eq!(text(second.try_recv()), "x");
        // A child's is its own.
        spawn(|| {
            let mine = own();
            assert_ne!(mine.info().expect("bound").id, one.id);
            Endpoint::send_to(std::process::id(), "to myself").expect("room");
            assert_eq!(text(mine.try_recv()), "to myself");
        })
        .ok();
        assert_eq!(kind(first.try_recv()), ErrorKind::Empty);
    });
}

#[test]
fn who_may_write_to_whose_endpoint_is_a_permission() {
    isolated(|| {
        for (mode, allowed) in [(0o600, false), (0o622, true)] {
            let ready = Gate::new();
            let alice = spawn_as(ALICE, || {
                let _mine = Endpoint::options().mode(mode).open().expect("she may");
                ready.open(1);
                sleep_forever();
            });
            ready.pass();
            let pid = alice.pid();
            spawn_as(ALICE, || {
                Endpoint::send_to(pid, "from herself").expect("her own user");
            })
            .ok();
            spawn_as(BOB, || {
                let sent = Endpoint::send_to(pid, "from bob");
                match allowed {
                    true => sent.expect("the mode lets him"),
                    false => assert_eq!(kind(sent), ErrorKind::Denied),
                }
            })
            .ok();
            // Nobody else receives there, whatever the mode and the user.
            let mut args = sys::postbox_open {
                kind: sys::POSTBOX_KIND_ENDPOINT,
                rights: sys::POSTBOX_RIGHT_RECEIVE,
                number: pid,
                ..Default::default()
            };
            let device = raw::device().expect("the module is loaded");
            assert_eq!(raw::open(&device, None, &mut args), Err(Errno::ACCESS));
            args.rights = sys::POSTBOX_RIGHT_SEND;
            args.flags = sys::POSTBOX_O_CREATE;
            assert_eq!(
                raw::open(&device, None, &mut args),
                Err(Errno::INVAL),
                "nobody makes another's"
            );
        }
    });
}

#[test]
fn numbers_are_those_of_the_senders_pid_namespace() {
    isolated(|| {
        let mine = Endpoint::options().mode(0o666).open().expect("it may");
        let outside = std::process::id();
        Spawn::new()
            .pid_ns()
            .run(|| {
                assert_eq!(std::process::id(), 1);
                let inner = own();
                Endpoint::send_to(1, "to myself").expect("this process has one");
                let message = inner.recv().expect("sent");
                assert_eq!((&*message, message.sender.pid), (&b"to myself"[..], 1));
                assert_eq!(kind(Endpoint::of(outside)), ErrorKind::Gone, "not visible");
            })
            .ok();
        assert_eq!(kind(mine.try_recv()), ErrorKind::Empty);
    });
}

#[test]
fn endpoints_are_called_polled_and_converted_like_mailboxes() {
    isolated(|| {
        let ready = Gate::new();
        let child = spawn(|| {
            let mine = own();
            ready.open(1);
            let events = mine.ready(PollFlags::IN, Some(LONG)).expect("open");
            assert!(events.contains(PollFlags::IN));
            let mut request = mine.try_recv_request().expect("it is ready");
            request.reply("answer").expect("the caller waits");
        });
        ready.pass();
        let sender = Endpoint::of(child.pid()).expect("it has one");
        let sender = Sender::try_from(OwnedFd::from(sender)).expect("it sends");
        assert_eq!(&*sender.call("question").expect("it answers"), b"answer");
        child.ok();
        let mine = own();
        let mine = Endpoint::try_from(OwnedFd::from(mine)).expect("it is one");
        Receiver::try_from(OwnedFd::from(mine)).expect("it receives");
        let (near, _far) = Link::pair().expect("a link");
        let half = OwnedFd::from(near.receiver().expect("a half"));
        let refused = Endpoint::try_from(half).expect_err("it is a link");
        assert_eq!(refused.error.kind, ErrorKind::WrongHandle);
    });
}
