//! Guarantee 6: a call gets exactly one reply or an error.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use postbox::raw::{self, ReceivedFd};
use postbox::{Capacity, ErrorKind, Link, Mailbox, PollFlags, Receiver, Sender, Wait, sys};
use postbox_tests::{
    Errno, Gate, LONG, Ledger, handle_signal, isolated, scope, sleep_forever, spawn, unique,
    wait_until,
};

use crate::typed::{close_copy, join, kind, sides};

const SHORT: Duration = Duration::from_millis(20);

fn rendezvous() -> (Sender, Receiver) {
    sides(Capacity::Rendezvous)
}

/// A call with room for so many bytes and files of the reply.
fn raw_call(
    fd: impl AsFd,
    request: &[u8],
    room: usize,
    args: &mut sys::postbox_call,
) -> rustix::io::Result<(Vec<u8>, Vec<ReceivedFd>)> {
    let mut buffer = vec![MaybeUninit::uninit(); room];
    let mut files = Vec::new();
    let reply = raw::call(fd, request, &[], &mut buffer, &mut files, args)?.to_vec();
    Ok((reply, files))
}

/// Fetches a reply; where that fails, `token` is what it is fetched by afterwards.
fn fetch(fd: impl AsFd, room: usize, token: &mut u64) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![MaybeUninit::uninit(); room];
    let mut args = sys::postbox_call::default();
    args.reply.token = *token;
    let fetched = raw::call_fetch(fd, &mut buffer, &mut Vec::new(), &mut args);
    if fetched == Err(Errno::MSGSIZE) {
        *token = args.reply.token;
    }
    fetched.map(|reply| reply.to_vec())
}

fn raw_reply(fd: impl AsFd, token: u64, data: &[u8], flags: u32) -> rustix::io::Result<()> {
    let args = sys::postbox_reply {
        token,
        flags,
        ..Default::default()
    };
    raw::reply(fd, data, &[], &args)
}

/// Receives a request with all that the kernel says.
fn raw_recv(fd: impl AsFd) -> sys::postbox_recv {
    let mut args = sys::postbox_recv::default();
    raw::recv(fd, &mut [0; 64], &mut args).expect("a request");
    args
}

#[test]
fn g06_a_call_returns_the_one_reply_and_who_sent_it() {
    isolated(|| {
        for capacity in [
            Capacity::Rendezvous,
            Capacity::Bounded(1),
            Capacity::Unbounded,
        ] {
            let (client, server) = sides(capacity);
            let child = spawn(move || {
                let mut request = server.recv_request().expect("somebody calls");
                assert!(request.is_open() && request.call);
                assert_eq!(&**request, b"question");
                assert_eq!(request.caller_waits(), Ok(true));
                request.reply("answer").expect("the caller waits");
                assert!(!request.is_open());
                assert_eq!(kind(request.reply("again")), ErrorKind::NotFound);
            });
            let reply = client.call("question").expect("the server answers");
            assert_eq!(&*reply, b"answer");
            assert_eq!(reply.sender.pid, child.pid());
            assert_eq!(reply.sender.pidfd_ino, child.pidfd_ino());
            assert!(!reply.call, "nobody waits for an answer to an answer");
            child.ok();
        }
    });
}

#[test]
fn g06_replies_of_every_size_arrive_and_the_caller_need_not_know() {
    isolated(|| {
        let (client, server) = rendezvous();
        let servant =
            thread::spawn(move || server.serve(|request| vec![request[0]; request.len()]));
        for size in [1, 64, 4096, 4097, 100_000, 1 << 20, 1, 5000, 3] {
            let byte = size as u8 | 1;
            let reply = client.call(vec![byte; size]).expect("the server answers");
            assert_eq!(reply.payload.len(), size);
            assert!(reply.iter().all(|b| *b == byte));
        }
        drop(client);
        join(servant).expect("the end of the stream ends it well");
        let (client, server) = rendezvous();
        let servant = thread::spawn(move || server.serve(|_| ""));
        assert_eq!(&*client.call("").expect("it answers"), b"");
        drop(client);
        join(servant).expect("the end");
    });
}

#[test]
fn g06_a_server_that_dies_with_the_request_fails_the_call() {
    isolated(|| {
        let (client, server) = rendezvous();
        let taken = Gate::new();
        let child = spawn(|| {
            let _request = server.recv_request().expect("somebody calls");
            taken.open(1);
            sleep_forever();
        });
        // The mailbox goes on having a receiver: it is the process that died.
        let caller = {
            let client = client.try_clone().expect("a descriptor");
            thread::spawn(move || kind(client.call("question")))
        };
        taken.pass();
        child.destroy();
        assert_eq!(join(caller), ErrorKind::ServerDied);
        assert_eq!(server.info().expect("bound").messages, 0);
    });
}

#[test]
fn g06_closing_the_handle_that_owes_the_reply_fails_the_call() {
    isolated(|| {
        let (client, server) = rendezvous();
        let second = server.try_clone().expect("a descriptor");
        let caller = thread::spawn(move || kind(client.call("question")));
        std::mem::forget(second.recv_request().expect("somebody calls"));
        drop(second);
        assert_eq!(join(caller), ErrorKind::ServerDied);
        drop(server);
    });
}

#[test]
fn g06_a_fork_of_the_server_does_not_keep_the_caller_waiting() {
    isolated(|| {
        let (client, server) = rendezvous();
        let caller = thread::spawn(move || kind(client.call("question")));
        let (forked, kept) = (Gate::new(), Gate::new());
        let child = spawn(|| {
            std::mem::forget(server.recv_request().expect("somebody calls"));
            // SAFETY: this process has one thread, and its child only waits and ends.
            if unsafe { libc::fork() } == 0 {
                kept.pass();
                // SAFETY: ends the process without running anything.
                unsafe { libc::_exit(0) };
            }
            forked.open(1);
        });
        forked.pass();
        child.ok();
        // The descriptor is still open, here and in the grandchild.
        assert_eq!(join(caller), ErrorKind::ServerDied);
        kept.open(1);
    });
}

#[test]
fn g06_a_request_that_nobody_has_taken_goes_to_another_server_when_one_dies() {
    isolated(|| {
        let (client, server) = sides(Capacity::Bounded(4));
        let child = spawn(sleep_forever);
        let caller = thread::spawn(move || client.call("question").expect("the other one answers"));
        wait_until("the request to be there", || {
            server.info().expect("bound").messages == 1
        });
        child.destroy();
        let mut request = server.recv_request().expect("it is there");
        request.reply("answer").expect("the caller waits");
        assert_eq!(&*join(caller), b"answer");
    });
}

#[test]
fn g06_a_dropped_request_fails_the_call_at_once() {
    isolated(|| {
        let (client, server) = rendezvous();
        let caller = thread::spawn(move || (kind(client.call("question")), client));
        drop(server.recv_request().expect("somebody calls"));
        let (kind_of_error, client) = join(caller);
        assert_eq!(kind_of_error, ErrorKind::Dropped);
        // And by whoever receives without answering.
        type Take = fn(&Receiver);
        let ways: [Take; 5] = [
            |server| assert!(server.recv().expect("a request").call),
            |server| assert!(server.recv_into(&mut [0; 64]).expect("a request").call),
            |server| {
                let mut messages = Vec::new();
                assert_eq!(server.recv_many(&mut messages, 8, Wait::Forever), Ok(1));
                assert!(messages[0].call);
            },
            |server| assert!(server.take().expect("a request").ack().expect("done").call),
            |server| drop(server.take().expect("a request")),
        ];
        let mut client = client;
        for way in ways {
            let caller = thread::spawn(move || (kind(client.call("question")), client));
            way(&server);
            let (kind_of_error, back) = join(caller);
            assert_eq!(kind_of_error, ErrorKind::Dropped);
            client = back;
        }
        assert_eq!(server.info().expect("bound").unacknowledged, 0);
    });
}

#[test]
fn g06_the_last_receiver_gone_before_one_took_it_is_a_broken_pipe() {
    isolated(|| {
        for capacity in [Capacity::Rendezvous, Capacity::Bounded(4)] {
            let (client, server) = sides(capacity);
            let caller = thread::spawn(move || (kind(client.call("question")), client));
            wait_until("the request to be there", || {
                let info = server.info().expect("bound");
                info.messages == 1 || info.waiting_senders == 1
            });
            drop(server);
            let (kind_of_error, client) = join(caller);
            assert_eq!(kind_of_error, ErrorKind::Disconnected);
            assert_eq!(kind(client.call("question")), ErrorKind::Disconnected);
        }
    });
}

#[test]
fn g06_a_call_that_nobody_takes_times_out_and_is_taken_back() {
    isolated(|| {
        for capacity in [Capacity::Rendezvous, Capacity::Bounded(4)] {
            let (client, server) = sides(capacity);
            assert_eq!(kind(client.call_timeout("x", SHORT)), ErrorKind::Timeout);
            assert_eq!(
                kind(client.call_deadline("x", Instant::now() + SHORT)),
                ErrorKind::Timeout
            );
            assert_eq!(
                kind(client.call_deadline("x", Instant::now() - SHORT)),
                ErrorKind::Timeout
            );
            let realtime = std::time::SystemTime::now() + SHORT;
            assert_eq!(
                kind(client.call_with("x", Wait::RealtimeDeadline(realtime))),
                ErrorKind::Timeout
            );
            assert_eq!(kind(server.try_recv()), ErrorKind::Empty);
            let info = server.info().expect("bound");
            assert_eq!((info.messages, info.bytes), (0, 0));
            let usage = raw::usage(&server).expect("it tells");
            assert_eq!((usage.messages, usage.bytes), (0, 0));
        }
    });
}

#[test]
fn g06_a_late_reply_is_told_apart_and_reaches_no_later_call() {
    isolated(|| {
        let (client, server) = rendezvous();
        let caller = thread::spawn(move || {
            assert_eq!(
                kind(client.call_timeout("first", SHORT)),
                ErrorKind::Timeout
            );
            client.call("second").expect("the server answers")
        });
        // It may give up before it is served: then its request is gone, and the next one comes.
        let mut first = server.recv_request().expect("somebody calls");
        if &**first == b"first" {
            wait_until("the caller to give up", || {
                first.caller_waits() == Ok(false)
            });
            let mut second = server.recv_request().expect("it calls again");
            assert_eq!(kind(first.reply("for the first")), ErrorKind::Stale);
            assert!(!first.is_open(), "a stale request is done with");
            assert_eq!(kind(first.reply("again")), ErrorKind::NotFound);
            second.reply("for the second").expect("this one waits");
        } else {
            first.reply("for the second").expect("this one waits");
        }
        assert_eq!(&*join(caller), b"for the second");
    });
}

#[test]
fn g06_a_server_learns_that_its_caller_is_gone() {
    isolated(|| {
        let (client, server) = rendezvous();
        let child = spawn(|| {
            let _ = client.call("question");
        });
        let mut request = server.recv_request().expect("it calls");
        assert_eq!(request.caller_waits(), Ok(true));
        child.destroy();
        assert_eq!(request.caller_waits(), Ok(false));
        assert_eq!(request.caller_waits(), Ok(false), "asking changes nothing");
        assert_eq!(kind(request.reply("answer")), ErrorKind::Stale);
        assert_eq!(kind(request.caller_waits()), ErrorKind::NotFound);
    });
}

#[test]
fn g06_a_request_of_a_caller_that_died_is_taken_back() {
    isolated(|| {
        let (client, server) = sides(Capacity::Bounded(4));
        let child = spawn(|| {
            let _ = client.call("question");
        });
        wait_until("the request to be there", || {
            server.info().expect("bound").messages == 1
        });
        child.destroy();
        assert_eq!(kind(server.try_recv()), ErrorKind::Empty);
        assert_eq!(server.info().expect("bound").messages, 0);
    });
}

#[test]
fn g06_tokens_are_never_used_again_and_only_for_their_handle() {
    isolated(|| {
        let (client, server) = rendezvous();
        let other = server.try_clone().expect("a descriptor");
        let mut seen = BTreeSet::new();
        const CALLS: usize = 200;
        let caller = thread::spawn(move || {
            (0..CALLS).for_each(|_| {
                client.call("question").expect("the server answers");
            });
        });
        let mut last = 0;
        for i in 0..CALLS {
            let from = if i % 2 == 0 { &server } else { &other };
            let got = raw_recv(from);
            assert_eq!(got.msg_flags, sys::POSTBOX_MSG_CALL);
            assert!(seen.insert(got.token), "token {} came twice", got.token);
            assert_ne!(got.token, 0);
            let elsewhere = if i % 2 == 0 { &other } else { &server };
            for (fd, token) in [
                (elsewhere, got.token),
                (from, last),
                (from, 0),
                (from, u64::MAX),
            ] {
                assert_eq!(raw_reply(fd, token, b"wrong", 0), Err(Errno::NOENT));
                let check = sys::POSTBOX_REPLY_CHECK;
                assert_eq!(raw_reply(fd, token, b"", check), Err(Errno::NOENT));
            }
            assert_eq!(raw_reply(from, got.token, b"right", 0), Ok(()));
            assert_eq!(
                raw_reply(from, got.token, b"again", 0),
                Err(Errno::NOENT),
                "once"
            );
            last = got.token;
        }
        join(caller);
    });
}

#[test]
fn g06_a_reply_that_does_not_fit_stays_and_is_fetched() {
    isolated(|| {
        let (client, server) = rendezvous();
        let servant = thread::spawn(move || server.serve(|_| "0123456789"));
        let mut args = sys::postbox_call::default();
        assert_eq!(
            raw_call(&client, b"question", 4, &mut args).map(drop),
            Err(Errno::MSGSIZE)
        );
        let mut token = args.reply.token;
        assert_eq!(args.reply.msg_len, 10, "it says what is needed");
        assert_ne!(token, 0);
        let too_small = fetch(&client, 9, &mut token);
        assert_eq!(too_small, Err(Errno::MSGSIZE), "and it stays");
        let second = client.try_clone().expect("a descriptor");
        let elsewhere = fetch(&second, 10, &mut token);
        assert_eq!(elsewhere, Err(Errno::NOENT), "it is this handle's");
        let reply = fetch(&client, 10, &mut token);
        assert_eq!(reply.as_deref(), Ok(&b"0123456789"[..]));
        assert_eq!(fetch(&client, 10, &mut token), Err(Errno::NOENT), "once");
        drop((client, second));
        join(servant).expect("the end");
    });
}

#[test]
fn g06_a_handle_keeps_no_more_than_4096_replies_and_gives_them_back_when_it_is_closed() {
    isolated(|| {
        let (client, server) = rendezvous();
        let servant = thread::spawn(move || server.serve(|_| "x"));
        let call = || {
            let mut args = sys::postbox_call::default();
            assert_eq!(
                raw_call(&client, b"question", 0, &mut args).map(drop),
                Err(Errno::MSGSIZE)
            );
            args.reply.token
        };
        let tokens: BTreeSet<u64> = (0..4096).map(|_| call()).collect();
        assert_eq!(tokens.len(), 4096);
        assert!(!tokens.contains(&0));
        assert_eq!(call(), 0, "that one is not kept");
        assert_eq!(raw::usage(&client).expect("it tells").messages, 4096);
        let mut first = *tokens.first().expect("there are some");
        assert_eq!(fetch(&client, 1, &mut first).as_deref(), Ok(&b"x"[..]));
        assert_ne!(call(), 0, "there is room for one");
        drop(client);
        join(servant).expect("the end");
        let usage = postbox::usage().expect("it tells");
        assert_eq!((usage.messages, usage.bytes), (0, 0));
    });
}

#[test]
fn g06_a_reply_that_cannot_be_written_is_fetched_too() {
    isolated(|| {
        let (client, server) = rendezvous();
        let servant = thread::spawn(move || server.serve(|_| "0123456789"));
        let mut args = sys::postbox_call {
            size: size_of::<sys::postbox_call>() as u32,
            ..Default::default()
        };
        args.request.size = size_of::<sys::postbox_send>() as u32;
        args.reply = sys::postbox_recv {
            size: size_of::<sys::postbox_recv>() as u32,
            data: 8,
            len: 100,
            ..Default::default()
        };
        // SAFETY: the request takes this struct; nothing is mapped at its buffer.
        let result = unsafe { raw::ioctl(&client, sys::POSTBOX_CALL, &mut args) };
        assert_eq!(result, Err(Errno::FAULT));
        assert_eq!(
            fetch(&client, 10, &mut args.reply.token).as_deref(),
            Ok(&b"0123456789"[..])
        );
        drop(client);
        join(servant).expect("the end");
    });
}

#[test]
fn g06_a_reply_that_fails_leaves_the_request_as_it_is() {
    isolated(|| {
        let (client, server) = rendezvous();
        let caller = thread::spawn(move || client.call("question").expect("the server answers"));
        let got = raw_recv(&server);
        let max = postbox::version().expect("it tells").message_max;
        let args = |data, len, fds, fd_count| sys::postbox_reply {
            size: size_of::<sys::postbox_reply>() as u32,
            token: got.token,
            data,
            len,
            fds,
            fd_count,
            ..Default::default()
        };
        let no_such_fd = sys::postbox_fd { fd: -1, rights: 0 };
        for (args, error) in [
            (args(8, 10, 0, 0), Errno::FAULT),
            (args(8, max + 1, 0, 0), Errno::MSGSIZE),
            (args(0, 0, 8, 1), Errno::FAULT),
            (args(0, 0, (&raw const no_such_fd) as u64, 1), Errno::BADF),
            (args(0, 0, 8, sys::POSTBOX_FILES_MAX + 1), Errno::INVAL),
        ] {
            let mut args = args;
            // SAFETY: the request takes this struct; its pointers are to nothing mapped, or to one entry.
            let result = unsafe { raw::ioctl(&server, sys::POSTBOX_REPLY, &mut args) };
            assert_eq!(result, Err(error));
        }
        assert_eq!(
            raw_reply(&server, got.token, b"", sys::POSTBOX_REPLY_CHECK),
            Ok(())
        );
        assert_eq!(raw_reply(&server, got.token, b"answer", 0), Ok(()));
        assert_eq!(&*join(caller), b"answer");
    });
}

#[test]
fn g06_a_request_larger_than_the_mailbox_takes_is_refused_at_once() {
    isolated(|| {
        let (client, server) = Mailbox::options()
            .message_max(8)
            .anonymous()
            .expect("a mailbox")
            .split()
            .expect("both rights");
        let too_large = ErrorKind::TooLarge { len: 9, limit: 8 };
        assert_eq!(kind(client.call([0; 9])), too_large);
        assert_eq!(server.info().expect("bound").messages, 0);
        // A reply is not limited by the mailbox: it does not go through it.
        let servant = thread::spawn(move || server.serve(|_| [7; 9]));
        assert_eq!(*client.call([0; 8]).expect("it answers"), [7; 9]);
        drop(client);
        join(servant).expect("the end");
    });
}

#[test]
fn g06_calls_nest() {
    isolated(|| {
        let (to_outer, outer) = rendezvous();
        let (to_inner, inner) = rendezvous();
        let last = spawn(|| {
            close_copy(&to_inner);
            close_copy(&to_outer);
            let answer = |request: &postbox::Message| [request, &b"!"[..]].concat();
            inner.serve(answer).expect("the end");
        });
        drop(inner);
        let middle = spawn(|| {
            close_copy(&to_outer);
            let answer = |request: &postbox::Message| {
                let reply = to_inner.call(request).expect("the inner one answers");
                [b"<", &reply[..], b">"].concat()
            };
            outer.serve(answer).expect("the end");
        });
        drop((outer, to_inner));
        for _ in 0..20 {
            assert_eq!(&*to_outer.call("hello").expect("it answers"), b"<hello!>");
        }
        drop(to_outer);
        middle.ok();
        last.ok();
    });
}

#[test]
fn g06_concurrent_calls_on_one_handle_get_their_own_replies_from_many_servers() {
    isolated(|| {
        let (client, server) = sides(Capacity::Bounded(4));
        let servers: Vec<_> = (0..3)
            .map(|_| {
                let server = server.try_clone().expect("a descriptor");
                thread::spawn(move || {
                    server.serve(|request| {
                        let n: u64 = std::str::from_utf8(request)
                            .expect("text")
                            .parse()
                            .expect("a number");
                        (n * n).to_string()
                    })
                })
            })
            .collect();
        drop(server);
        scope(|scope| {
            for caller in 0..6u64 {
                let client = &client;
                scope.spawn(move || {
                    for i in 0..50 {
                        let n = caller * 1000 + i;
                        let reply = client.call(n.to_string()).expect("a server answers");
                        assert_eq!(*reply, *(n * n).to_string().as_bytes());
                    }
                });
            }
        });
        assert_eq!(client.info().expect("bound").messages, 0);
        drop(client);
        servers
            .into_iter()
            .for_each(|server| join(server).expect("the end"));
    });
}

#[test]
fn g06_the_death_of_one_of_many_servers_fails_only_its_own_calls() {
    isolated(|| {
        const CALLERS: usize = 4;
        let (client, server) = sides(Capacity::Bounded(8));
        // Half of the servers die with their request, the others answer.
        let taken = Gate::new();
        let ledger = Ledger::new(2);
        let doomed: Vec<_> = (0..CALLERS / 2)
            .map(|_| {
                spawn(|| {
                    std::mem::forget(server.recv_request().expect("somebody calls"));
                    taken.open(1);
                    sleep_forever();
                })
            })
            .collect();
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                spawn(|| match client.call("question") {
                    Ok(reply) => {
                        assert_eq!(&*reply, b"answer");
                        ledger[0].fetch_add(1, SeqCst);
                    }
                    Err(error) => {
                        assert_eq!(error.kind, ErrorKind::ServerDied);
                        ledger[1].fetch_add(1, SeqCst);
                    }
                })
            })
            .collect();
        (0..doomed.len()).for_each(|_| taken.pass());
        doomed.into_iter().for_each(|child| child.destroy());
        for _ in 0..CALLERS / 2 {
            let mut request = server.recv_request().expect("the others' are there");
            request.reply("answer").expect("the caller waits");
        }
        callers.into_iter().for_each(|child| child.ok());
        let results = (ledger[0].load(SeqCst), ledger[1].load(SeqCst));
        assert_eq!(results, (CALLERS as u64 / 2, CALLERS as u64 / 2));
    });
}

#[test]
fn g06_a_call_waits_on_a_non_blocking_handle_and_has_no_non_blocking_form() {
    isolated(|| {
        let (client, server) = rendezvous();
        client.set_nonblocking(true).expect("open");
        let caller = thread::spawn(move || {
            let reply = client.call("question").expect("the server answers");
            (reply, client)
        });
        let mut request = server.recv_request().expect("it calls");
        request.reply("answer").expect("it waits");
        let (reply, client) = join(caller);
        assert_eq!(&*reply, b"answer");
        let mut args = sys::postbox_call::default();
        args.request.flags = sys::POSTBOX_NONBLOCK;
        assert_eq!(
            raw_call(&client, b"x", 8, &mut args).map(drop),
            Err(Errno::INVAL)
        );
        assert_eq!(
            kind(client.call_with("x", Wait::Never)),
            ErrorKind::Unsupported
        );
    });
}

#[test]
fn g06_a_signal_handler_ends_a_call_and_it_is_not_repeated() {
    for restart in [0, libc::SA_RESTART] {
        isolated(|| {
            let (client, server) = sides(Capacity::Bounded(4));
            let (done, again) = (Gate::new(), Gate::new());
            let child = spawn(|| {
                handle_signal(libc::SIGUSR1, restart);
                assert_eq!(kind(client.call("not taken")), ErrorKind::Interrupted);
                done.open(1);
                again.pass();
                assert_eq!(kind(client.call("taken")), ErrorKind::Interrupted);
                done.open(1);
            });
            let messages = || server.info().expect("bound").messages;
            wait_until("the request to be there", || messages() == 1);
            child.wait_asleep();
            child.kill(libc::SIGUSR1);
            done.pass();
            assert_eq!(messages(), 0, "it is taken back, and not sent again");
            again.open(1);
            let mut request = server.recv_request().expect("the second call");
            assert_eq!(&**request, b"taken");
            child.wait_asleep();
            child.kill(libc::SIGUSR1);
            done.pass();
            assert_eq!(messages(), 0);
            assert_eq!(kind(request.reply("late")), ErrorKind::Stale);
            child.ok();
        });
    }
}

#[test]
fn g06_a_call_waits_for_room_and_its_request_is_received_by_priority() {
    isolated(|| {
        let (client, server) = sides(Capacity::Bounded(1));
        client.send("fills it").expect("room");
        assert_eq!(kind(client.call_timeout("x", SHORT)), ErrorKind::Timeout);
        let caller = {
            let client = client.try_clone().expect("a descriptor");
            thread::spawn(move || client.call("question").expect("it answers"))
        };
        assert_eq!(&*server.recv().expect("sent"), b"fills it");
        let mut request = server.recv_request().expect("there is room now");
        request.reply("answer").expect("it waits");
        assert_eq!(&*join(caller), b"answer");

        let (client, server) = sides(Capacity::Unbounded);
        client.send("ordinary").expect("room");
        let caller = thread::spawn(move || {
            let mut parcel = postbox::Parcel::new("urgent");
            client
                .call_parcel(parcel.priority(9), Wait::Forever)
                .expect("it answers")
        });
        wait_until("both to be there", || {
            server.info().expect("bound").messages == 2
        });
        let mut request = server.recv_request().expect("it is there");
        assert_eq!((&**request, request.priority), (&b"urgent"[..], 9));
        request.reply("answer").expect("it waits");
        join(caller);
        let message = server.recv_request().expect("it is there");
        assert!(!message.is_open(), "nobody waits for that one");
        assert_eq!(&**message, b"ordinary");
    });
}

#[test]
fn g06_requests_are_polled_for_like_messages() {
    isolated(|| {
        let (client, server) = sides(Capacity::Bounded(1));
        assert_eq!(
            server.ready(PollFlags::IN, Some(Duration::ZERO)),
            Ok(PollFlags::empty())
        );
        let caller = thread::spawn(move || client.call("question").expect("it answers"));
        let ready = server.ready(PollFlags::IN, Some(LONG)).expect("open");
        assert_eq!(ready, PollFlags::IN);
        let mut request = server.try_recv_request().expect("it is ready");
        request.reply("answer").expect("it waits");
        join(caller);
    });
}

#[test]
fn g06_reply_recv_answers_and_takes_the_next_in_one_call() {
    isolated(|| {
        let (client, server) = rendezvous();
        let child = spawn(|| {
            close_copy(&server);
            for i in 0..100u32 {
                let reply = client.call(i.to_string()).expect("it answers");
                assert_eq!(*reply, *(i + 1).to_string().as_bytes());
            }
            client.send("done").expect("it receives");
        });
        drop(client);
        let mut request = server.recv_request().expect("it calls");
        let mut served = 0;
        while request.is_open() {
            let text = std::str::from_utf8(&request).expect("text").to_owned();
            let n: u32 = text.parse().expect("a number");
            assert_eq!(request.sender.pid, child.pid());
            served += 1;
            request
                .reply_recv((n + 1).to_string())
                .expect("there is a next one");
        }
        assert_eq!((served, &**request), (100, &b"done"[..]));
        let end = request.reply_recv("nobody waits");
        assert_eq!(kind(end), ErrorKind::Disconnected);
        child.ok();
    });
}

#[test]
fn g06_reply_recv_can_be_repeated_whatever_ended_it() {
    isolated(|| {
        let (client, server) = sides(Capacity::Bounded(4));
        let caller = thread::spawn(move || {
            let reply = client.call("one").expect("it answers");
            (reply, client)
        });
        let mut request = server.recv_request().expect("it calls");
        // The reply is sent, and there is nothing to receive.
        assert_eq!(kind(request.try_reply_recv("first")), ErrorKind::Empty);
        assert!(!request.is_open());
        let (reply, client) = join(caller);
        assert_eq!(&*reply, b"first");
        assert_eq!(
            kind(request.reply_recv_timeout("not sent again", SHORT)),
            ErrorKind::Timeout
        );
        let deadline = Instant::now() + SHORT;
        assert_eq!(
            kind(request.reply_recv_deadline("nor now", deadline)),
            ErrorKind::Timeout
        );
        client.send("a message").expect("room");
        request.reply_recv("nor now").expect("there is one");
        assert_eq!(&**request, b"a message");

        // The reply fails, and nothing is received.
        let got = {
            let caller = thread::spawn(move || kind(client.call_timeout("two", SHORT)));
            let got = raw_recv(&server);
            assert_eq!(join(caller), ErrorKind::Timeout);
            got
        };
        let (again, _server) = (server.try_clone().expect("a descriptor"), &server);
        let mut args = sys::postbox_reply_recv::default();
        args.reply.token = got.token;
        args.recv.flags = sys::POSTBOX_NONBLOCK;
        let mut buffer = [MaybeUninit::uninit(); 64];
        let mut reply_recv = |fd: &Receiver, args: &mut sys::postbox_reply_recv| {
            raw::reply_recv(fd, b"late", &[], &mut buffer, &mut Vec::new(), args)
                .map(|message| message.to_vec())
        };
        assert_eq!(reply_recv(&again, &mut args), Err(Errno::NOENT));
        assert_eq!(reply_recv(&server, &mut args), Err(Errno::STALE));
    });
}

#[test]
fn g06_a_reply_that_fails_receives_nothing() {
    isolated(|| {
        let (client, server) = sides(Capacity::Bounded(4));
        client.send("stays").expect("room");
        let mut args = sys::postbox_reply_recv::default();
        args.reply.token = 12345;
        let mut buffer = [MaybeUninit::uninit(); 64];
        let result = raw::reply_recv(&server, b"x", &[], &mut buffer, &mut Vec::new(), &mut args);
        assert_eq!(result.map(drop), Err(Errno::NOENT));
        assert_eq!(args.reply.token, 12345);
        assert_eq!(&*server.try_recv().expect("it stayed"), b"stays");
    });
}

#[test]
fn g06_serve_ends_well_with_the_last_sender_and_goes_on_after_callers_that_gave_up() {
    isolated(|| {
        let (client, server) = rendezvous();
        let servant = thread::spawn(move || {
            let mut served = 0;
            server
                .serve(|request| {
                    served += 1;
                    if &**request == b"slow" {
                        thread::sleep(10 * SHORT);
                    }
                    "answer"
                })
                .map(|()| served)
        });
        assert_eq!(&*client.call("x").expect("it answers"), b"answer");
        let slow = client.call_timeout("slow", SHORT);
        assert!(slow.is_err_and(|error| error.is_timeout()));
        client.send("nobody waits for this").expect("it receives");
        assert_eq!(&*client.call("x").expect("it goes on"), b"answer");
        drop(client);
        let served = join(servant).expect("the end of the stream");
        assert!((3..=4).contains(&served), "served {served}");
    });
}

#[test]
fn g06_link_ends_call_each_other_both_ways_at_once() {
    isolated(|| {
        let (near, far) = Link::pair().expect("a link");
        let child = spawn(|| {
            close_copy(&near);
            let mut request = far.recv_request().expect("the other end calls");
            assert_eq!(&*far.call("and you?").expect("it answers"), b"fine");
            request.reply("well").expect("it waits");
        });
        let (near, _) = (near, drop(far));
        let reply = scope(|scope| {
            let caller = scope.spawn(|| near.call("how are you?").expect("it answers"));
            let mut request = near.recv_request().expect("the other end calls");
            request.reply("fine").expect("it waits");
            caller.join().expect("no panic")
        });
        assert_eq!(&*reply, b"well");
        child.ok();
        assert_eq!(kind(near.call("gone")), ErrorKind::Disconnected);
    });
}

#[test]
fn g06_a_server_at_the_other_end_of_a_link_that_dies_fails_the_call() {
    isolated(|| {
        let (near, far) = Link::pair().expect("a link");
        let taken = Gate::new();
        let child = spawn(|| {
            close_copy(&near);
            std::mem::forget(far.recv_request().expect("the other end calls"));
            taken.open(1);
            sleep_forever();
        });
        drop(far);
        let caller = thread::spawn(move || kind(near.call("question")));
        taken.pass();
        child.destroy();
        assert_eq!(join(caller), ErrorKind::ServerDied);
    });
}

#[test]
fn g06_the_right_to_send_calls_and_the_right_to_receive_answers() {
    isolated(|| {
        let name = unique("rights");
        let server = Mailbox::options()
            .create(true)
            .open_receiver(&name)
            .expect("new");
        let client = Sender::open(&name).expect("it is there");
        let mut args = sys::postbox_call::default();
        assert_eq!(
            raw_call(&server, b"x", 8, &mut args).map(drop),
            Err(Errno::ACCESS)
        );
        assert_eq!(raw_reply(&client, 1, b"x", 0), Err(Errno::ACCESS));
        assert_eq!(
            raw::device().map(|fd| raw_reply(&fd, 1, b"x", 0)),
            Ok(Err(Errno::BADFD))
        );
    });
}
