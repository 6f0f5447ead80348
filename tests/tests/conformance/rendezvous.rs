//! Guarantee 2: on a rendezvous mailbox, send returns success only after a receiver has the bytes.

use postbox_tests::scope;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use postbox::{raw, sys};
use postbox_tests::*;

fn rendezvous() -> Handle {
    Handle::anonymous(0)
}

/// A receive into that page.
fn recv_into_page(
    mailbox: &Handle,
    page: &SlowPage,
    flags: u32,
) -> (Result<()>, sys::postbox_recv) {
    let mut args = sys::postbox_recv {
        data: page.address(),
        len: PAGE as u64,
        flags,
        ..recv_args()
    };
    // SAFETY: the request takes this struct, and writes to a page that belongs to the caller.
    let result = unsafe { raw::ioctl(mailbox, sys::POSTBOX_RECV, &mut args) };
    (result, args)
}

#[test]
fn g02_send_waits_for_a_receiver() {
    isolated(|| {
        let mailbox = rendezvous();
        let sender = spawn(|| mailbox.send("hello", FOREVER).expect("a receiver comes"));
        mailbox.wait_senders(1);
        sender.wait_asleep();
        assert_eq!(mailbox.info().sent, 0);
        assert_eq!(mailbox.get(), "hello");
        sender.ok();
        let info = mailbox.info();
        assert_eq!((info.sent, info.received, info.waiting_senders), (1, 1, 0));
    });
}

#[test]
fn g02_success_comes_only_after_the_receiver_has_the_bytes() {
    isolated(|| {
        // Whoever comes first: the receiver is stopped in the middle of its copy either way.
        for receiver_first in [false, true] {
            let mailbox = rendezvous();
            let page = SlowPage::new();
            let fault = page.fault();
            let receive = || recv_into_page(&mailbox, &page, 0);
            scope(|scope| {
                let mut receiver = None;
                if receiver_first {
                    receiver = Some(scope.spawn(receive));
                    mailbox.wait_receivers(1);
                }
                let sender = spawn(|| {
                    mailbox
                        .send("the bytes", FOREVER)
                        .expect("the receiver gets there")
                });
                if !receiver_first {
                    mailbox.wait_senders(1);
                    receiver = Some(scope.spawn(receive));
                }
                fault.wait();
                thread::sleep(std::time::Duration::from_millis(100));
                assert!(
                    sender.running(),
                    "the send returned before the receiver had the bytes"
                );
                assert_eq!(mailbox.info().sent, 0);
                // Nobody else may get it meanwhile.
                assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
                fault.resolve(&[]);
                sender.ok();
                let (result, args) = receiver
                    .expect("it was started")
                    .join()
                    .expect("it does not panic");
                assert_eq!((result, args.msg_len), (Ok(()), 9));
                assert_eq!(page.read(9), b"the bytes");
            });
        }
    });
}

#[test]
fn g02_a_receiver_killed_in_the_middle_of_its_copy_leaves_the_sender_waiting_for_the_next() {
    isolated(|| {
        let mailbox = rendezvous();
        let sender = spawn(|| {
            mailbox
                .send("precious", FOREVER)
                .expect("another receiver comes")
        });
        mailbox.wait_senders(1);
        for _ in 0..3 {
            let (ours, theirs) = UnixStream::pair().expect("a socket pair");
            let victim = spawn(|| {
                let page = SlowPage::new();
                send_fd(&theirs, page.fault());
                panic!(
                    "the receive ended: {:?}",
                    recv_into_page(&mailbox, &page, 0)
                );
            });
            Fault::from_parts(receive_fd(&ours), 0).wait();
            victim.destroy();
            assert!(
                sender.running(),
                "the send succeeded, and nobody has the message"
            );
        }
        assert_eq!(mailbox.get(), "precious");
        sender.ok();
        let info = mailbox.info();
        assert_eq!((info.sent, info.received), (1, 1));
    });
}

#[test]
fn g02_a_receiver_with_a_bad_buffer_leaves_the_sender_waiting() {
    isolated(|| {
        let mailbox = rendezvous();
        let sender = spawn(|| {
            mailbox
                .send("precious", FOREVER)
                .expect("a good receiver comes")
        });
        mailbox.wait_senders(1);
        // Both for a receiver that finds the sender, and for one that the sender finds.
        let bad = || {
            let mut args = sys::postbox_recv {
                data: 8,
                len: 100,
                ..recv_args()
            };
            // SAFETY: the request takes this struct; at the address nothing can be written, which is what is tested.
            unsafe { raw::ioctl(&mailbox, sys::POSTBOX_RECV, &mut args) }
        };
        assert_eq!(bad(), Err(Errno::FAULT));
        assert_eq!(mailbox.recv_flags(3, FOREVER, 0), (Err(Errno::MSGSIZE), 8));
        assert!(sender.running());
        assert_eq!(mailbox.get(), "precious");
        sender.ok();

        let waiting = [
            spawn(|| assert_eq!(bad(), Err(Errno::FAULT))),
            spawn(|| {
                mailbox.wait_receivers(1);
                assert_eq!(mailbox.recv_flags(3, FOREVER, 0), (Err(Errno::MSGSIZE), 6));
            }),
        ];
        mailbox.wait_receivers(2);
        let good = spawn(|| assert_eq!(mailbox.recv(FOREVER).expect("it comes").text(), "second"));
        mailbox.wait_receivers(3);
        mailbox
            .send("second", within(60_000))
            .expect("the third receiver takes it");
        waiting.into_iter().for_each(Child::ok);
        good.ok();
    });
}

#[test]
fn g02_a_sender_interrupted_while_a_receiver_copies_agrees_with_it() {
    isolated(|| {
        let mut outcomes = [0, 0];
        for round in 0..6 {
            let mailbox = rendezvous();
            let page = SlowPage::new();
            let fault = page.fault();
            let sent = Ledger::new(1);
            scope(|scope| {
                let sender = spawn(|| {
                    handle_signal(libc::SIGUSR1, 0);
                    // In half of the rounds it is a timeout that may end the wait.
                    let wait = if round % 2 == 0 { FOREVER } else { within(50) };
                    match mailbox.send("disputed", wait) {
                        Ok(()) => sent[0].store(1, Relaxed),
                        Err(Errno::INTR | Errno::TIMEDOUT) => sent[0].store(2, Relaxed),
                        Err(e) => panic!("send: {e}"),
                    }
                });
                match round {
                    // The sender has given up.
                    5 => thread::sleep(std::time::Duration::from_millis(200)),
                    _ if round % 2 == 0 => mailbox.wait_senders(1),
                    _ => {}
                }
                let receiver = scope.spawn(|| recv_into_page(&mailbox, &page, 0).0);
                if round % 2 == 1 && !readable(&fault, std::time::Duration::from_secs(2)) {
                    // The sender had given up before the receiver came.
                    sender.ok();
                    assert_eq!(sent[0].load(Relaxed), 2);
                    // It returns when the receiver has the bytes.
                    let other = scope.spawn(|| mailbox.send("other", within(60_000)));
                    fault.wait();
                    fault.resolve(&[]);
                    assert_eq!(other.join().expect("no panic"), Ok(()));
                    assert_eq!(receiver.join().expect("no panic"), Ok(()));
                    return;
                }
                fault.wait();
                if round % 2 == 0 {
                    sender.kill(libc::SIGUSR1);
                }
                thread::sleep(std::time::Duration::from_millis(100));
                fault.resolve(&[]);
                sender.ok();
                if sent[0].load(Relaxed) == 1 {
                    outcomes[0] += 1;
                    assert_eq!(receiver.join().expect("no panic"), Ok(()));
                    assert_eq!(page.read(8), b"disputed");
                    assert_eq!(mailbox.info().received, 1);
                } else {
                    // It was withdrawn, so that the receiver did not get it, and goes on waiting.
                    outcomes[1] += 1;
                    mailbox.wait_receivers(1);
                    assert_eq!(mailbox.info().sent, 0);
                    mailbox
                        .send("other", within(60_000))
                        .expect("the receiver waits");
                    assert_eq!(receiver.join().expect("no panic"), Ok(()));
                    assert_eq!(page.read(5), b"other");
                }
            });
        }
        tell(&format!(
            "interrupted rendezvous: {} delivered, {} withdrawn",
            outcomes[0], outcomes[1]
        ));
    });
}

#[test]
fn g02_a_sender_killed_while_a_receiver_copies_agrees_with_the_counters() {
    isolated(|| {
        let mailbox = rendezvous();
        let page = SlowPage::new();
        let fault = page.fault();
        scope(|scope| {
            let sender = spawn(|| {
                let _ = mailbox.send("last words", FOREVER);
            });
            mailbox.wait_senders(1);
            let receiver = scope.spawn(|| recv_into_page(&mailbox, &page, 0).0);
            fault.wait();
            sender.destroy();
            fault.resolve(&[]);
            // Either the receiver has it, and it counts, or it goes on waiting.
            wait_until("the receive to end or to wait again", || {
                receiver.is_finished() || mailbox.info().waiting_receivers == 1
            });
            let info = mailbox.info();
            if receiver.is_finished() {
                assert_eq!((info.sent, info.received), (1, 1));
            } else {
                assert_eq!((info.sent, info.received), (0, 0));
                mailbox
                    .send("another", within(60_000))
                    .expect("the receiver waits");
            }
            assert_eq!(receiver.join().expect("no panic"), Ok(()));
        });
    });
}

#[test]
fn g02_a_send_that_gave_up_leaves_nothing() {
    isolated(|| {
        let mailbox = rendezvous();
        assert_eq!(mailbox.send("x", NEVER), Err(Errno::AGAIN));
        assert_eq!(mailbox.send("x", within(20)), Err(Errno::TIMEDOUT));
        assert_eq!(mailbox.send("x", until(20)), Err(Errno::TIMEDOUT));
        let interrupted = spawn(|| {
            handle_signal(libc::SIGUSR1, 0);
            assert_eq!(mailbox.send("x", FOREVER), Err(Errno::INTR));
        });
        mailbox.wait_senders(1);
        interrupted.wait_asleep();
        interrupted.kill(libc::SIGUSR1);
        interrupted.ok();
        let killed = spawn(|| {
            let _ = mailbox.send("x", FOREVER);
        });
        mailbox.wait_senders(1);
        killed.destroy();
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
        let info = mailbox.info();
        assert_eq!(
            (info.sent, info.messages, info.bytes, info.waiting_senders),
            (0, 0, 0, 0)
        );
    });
}

#[test]
fn g02_waiting_senders_are_served_by_priority_and_then_in_their_order() {
    isolated(|| {
        let mailbox = rendezvous();
        let senders: Vec<Child> = [(1, "low 1"), (5, "high 1"), (1, "low 2"), (5, "high 2")]
            .iter()
            .enumerate()
            .map(|(i, (priority, text))| {
                let child = spawn(|| {
                    mailbox
                        .send_priority(text, *priority, FOREVER)
                        .expect("a receiver comes")
                });
                mailbox.wait_senders(i as u32 + 1);
                child
            })
            .collect();
        for expected in ["high 1", "high 2", "low 1", "low 2"] {
            assert_eq!(mailbox.get(), expected);
        }
        senders.into_iter().for_each(Child::ok);
    });
}

#[test]
fn g02_a_failed_take_keeps_the_senders_order() {
    isolated(|| {
        let mailbox = rendezvous();
        let senders: Vec<Child> = ["first", "second", "third"]
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let child = spawn(|| mailbox.send(text, FOREVER).expect("a receiver comes"));
                mailbox.wait_senders(i as u32 + 1);
                child
            })
            .collect();
        assert_eq!(mailbox.recv_flags(1, NEVER, 0), (Err(Errno::MSGSIZE), 5));
        assert_eq!(
            [mailbox.get(), mailbox.get(), mailbox.get()],
            ["first", "second", "third"]
        );
        senders.into_iter().for_each(Child::ok);
    });
}

#[test]
fn g02_an_acknowledged_rendezvous_can_be_redelivered() {
    isolated(|| {
        let mailbox = rendezvous();
        let sender = spawn(|| mailbox.send("job", FOREVER).expect("a receiver comes"));
        mailbox.wait_senders(1);
        let worker = spawn(|| {
            mailbox.take(NEVER).expect("the sender waits");
        });
        // The receiver had the bytes: the send is done, whatever becomes of the receiver.
        sender.ok();
        worker.ok();
        let again = mailbox.take(NEVER).expect("it came back");
        assert_eq!((again.text(), again.redelivered), ("job", true));
        mailbox.ack(again.token).expect("it is ours");
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
}

#[test]
fn g02_a_receive_that_polls_meets_a_send_that_waits() {
    isolated(|| {
        let mailbox = rendezvous();
        let (tx, rx) = (mailbox.sender(), mailbox.receiver());
        assert_eq!((tx.ready(), rx.ready()), (0, 0));
        let sender = spawn(|| tx.send("hello", FOREVER).expect("a receiver comes"));
        mailbox.wait_senders(1);
        assert_eq!((tx.ready(), rx.ready()), (0, libc::POLLIN));
        assert_eq!(rx.get(), "hello");
        sender.ok();
        let receiver = spawn(|| assert_eq!(rx.recv(FOREVER).expect("it comes").text(), "world"));
        mailbox.wait_receivers(1);
        assert_eq!((tx.ready(), rx.ready()), (libc::POLLOUT, 0));
        tx.put("world");
        receiver.ok();
        assert_eq!((tx.ready(), rx.ready()), (0, 0));
    });
}
