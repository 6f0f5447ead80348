//! Guarantee 5: last receiver gone, last sender gone; and what keeps an object alive.

use postbox::sys;
use postbox_tests::*;
use postbox_tests::{scope, sleep_forever};

#[test]
fn g05_the_last_receivers_end_wakes_every_sender_with_epipe() {
    isolated(|| {
        for capacity in [0, 1] {
            let (tx, rx) = Handle::anonymous(capacity).split();
            if capacity == 1 {
                tx.put("fills it");
            }
            let mut waiting: Vec<Child> = (0..3)
                .map(|_| {
                    spawn(|| {
                        rx.close_copy();
                        assert_eq!(tx.send("x", FOREVER), Err(Errno::PIPE));
                    })
                })
                .collect();
            if capacity == 1 {
                waiting.push(spawn(|| {
                    rx.close_copy();
                    assert_eq!(tx.reserve(1, FOREVER), Err(Errno::PIPE));
                }));
            }
            tx.wait_senders(waiting.len() as u32);
            let second = rx.dup(RECEIVE).expect("a receiver");
            drop(rx);
            tx.wait_senders(waiting.len() as u32);
            assert!(
                waiting.iter().all(Child::running),
                "there is still a receiver"
            );
            drop(second);
            waiting.into_iter().for_each(Child::ok);
            for wait in [NEVER, FOREVER, within(1)] {
                assert_eq!(tx.send("x", wait), Err(Errno::PIPE));
            }
            assert_eq!(tx.info().waiting_senders, 0);
        }
    });
}

#[test]
fn g05_a_killed_receiver_is_gone() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(1).split();
        tx.put("fills it");
        let receiver = spawn(sleep_forever);
        drop(rx);
        let sender = spawn(|| assert_eq!(tx.send("x", FOREVER), Err(Errno::PIPE)));
        tx.wait_senders(1);
        receiver.destroy();
        sender.ok();
    });
}

#[test]
fn g05_receivers_drain_and_then_see_the_end() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(4).split();
        tx.put_all(["one", "two"]);
        drop(tx);
        assert_eq!([rx.get(), rx.get()], ["one", "two"]);
        for wait in [NEVER, FOREVER, within(1)] {
            assert_eq!(rx.recv(wait), Err(Errno::PIPE));
            assert_eq!(rx.take(wait), Err(Errno::PIPE));
        }
    });
}

#[test]
fn g05_the_last_senders_end_wakes_every_receiver() {
    isolated(|| {
        for capacity in [0, 4] {
            let (tx, rx) = Handle::anonymous(capacity).split();
            let waiting: Vec<Child> = (0..3)
                .map(|_| {
                    spawn(|| {
                        tx.close_copy();
                        assert_eq!(rx.recv(FOREVER), Err(Errno::PIPE));
                    })
                })
                .collect();
            rx.wait_receivers(3);
            let second = tx.dup(SEND).expect("a sender");
            drop(tx);
            assert_eq!(rx.info().waiting_receivers, 3, "there is still a sender");
            drop(second);
            waiting.into_iter().for_each(Child::ok);
        }
    });
}

#[test]
fn g05_receivers_wait_while_unacknowledged_messages_may_come_back() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(4).split();
        tx.put("job");
        let job = rx.take(NEVER).expect("sent");
        drop(tx);
        assert_eq!(rx.recv(NEVER), Err(Errno::AGAIN), "not the end yet");
        assert_eq!(rx.recv(within(10)), Err(Errno::TIMEDOUT));
        assert_eq!(rx.ready(), 0);
        let next = spawn(|| {
            let job = rx.take(FOREVER).expect("it comes back");
            assert_eq!((job.text(), job.redelivered), ("job", true));
            rx.ack(job.token).expect("ours");
        });
        rx.wait_receivers(1);
        let last = spawn(|| assert_eq!(rx.recv(FOREVER), Err(Errno::PIPE)));
        rx.wait_receivers(2);
        rx.requeue(job.token).expect("ours");
        // With the acknowledgement of the last message comes the end.
        next.ok();
        last.ok();
        assert_eq!(rx.recv(NEVER), Err(Errno::PIPE));
    });
}

#[test]
fn g05_receivers_wait_while_another_one_is_copying() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(4).split();
        tx.put("last");
        let page = SlowPage::new();
        let fault = page.fault();
        scope(|scope| {
            let slow = scope.spawn(|| {
                let mut args = sys::postbox_recv {
                    data: page.address(),
                    len: 10,
                    ..recv_args()
                };
                // SAFETY: the request takes this struct, and the page belongs to this test.
                unsafe { postbox::raw::ioctl(&rx, sys::POSTBOX_RECV, &mut args) }
            });
            fault.wait();
            drop(tx);
            assert_eq!(
                rx.recv(NEVER),
                Err(Errno::AGAIN),
                "the message may come back"
            );
            assert_eq!(rx.ready(), 0);
            let last = scope.spawn(|| rx.recv(FOREVER));
            rx.wait_receivers(1);
            fault.resolve(&[]);
            assert_eq!(slow.join().expect("no panic"), Ok(()));
            assert_eq!(last.join().expect("no panic"), Err(Errno::PIPE));
        });
        assert_eq!(rx.ready(), libc::POLLHUP);
    });
}

#[test]
fn g05_a_reservation_that_ends_with_its_sender_ends_the_receivers_too() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(4).split();
        tx.reserve(10, NEVER).expect("room");
        let last = spawn(|| {
            tx.close_copy();
            assert_eq!(rx.recv(FOREVER), Err(Errno::PIPE));
        });
        rx.wait_receivers(1);
        drop(tx);
        last.ok();
        assert_eq!(rx.info().reserved_messages, 0);
    });
}

#[test]
fn g05_before_the_first_peer_nothing_has_ended() {
    isolated(|| {
        let name = unique("alone");
        let tx = Make {
            rights: SEND,
            capacity: 1,
            ..Make::default()
        }
        .open(name.as_str())
        .expect("new");
        tx.put("queued for nobody yet");
        assert_eq!(tx.send("x", NEVER), Err(Errno::AGAIN));
        assert_eq!(tx.ready(), 0);
        let waiting = spawn(|| {
            tx.send("waits for nobody yet", FOREVER)
                .expect("a receiver comes")
        });
        tx.wait_senders(1);
        let rx = Handle::open(&name, RECEIVE).expect("it is there");
        assert_eq!(rx.get(), "queued for nobody yet");
        waiting.ok();
        assert_eq!(rx.get(), "waits for nobody yet");

        let name = unique("alone");
        let rx = Make {
            rights: RECEIVE,
            ..Make::default()
        }
        .open(name.as_str())
        .expect("new");
        assert_eq!(rx.recv(NEVER), Err(Errno::AGAIN));
        assert_eq!(rx.ready(), 0);
        let waiting =
            spawn(|| assert_eq!(rx.recv(FOREVER).expect("a sender comes").text(), "at last"));
        rx.wait_receivers(1);
        Handle::open(&name, SEND)
            .expect("it is there")
            .put("at last");
        waiting.ok();
    });
}

#[test]
fn g05_a_new_peer_makes_it_usable_again() {
    isolated(|| {
        let name = unique("again");
        let (tx, rx) = Handle::create(&name, 4).split();
        drop(tx);
        assert_eq!(
            (rx.recv(NEVER), rx.ready()),
            (Err(Errno::PIPE), libc::POLLHUP)
        );
        let tx = Handle::open(&name, SEND).expect("it is there");
        assert_eq!((rx.recv(NEVER), rx.ready()), (Err(Errno::AGAIN), 0));
        tx.put("again");
        assert_eq!(rx.get(), "again");
        drop(rx);
        assert_eq!(
            (tx.send("x", NEVER), tx.ready()),
            (Err(Errno::PIPE), libc::POLLERR)
        );
        let rx = Handle::open(&name, RECEIVE).expect("it is there");
        tx.put("and again");
        assert_eq!(rx.get(), "and again");
    });
}

#[test]
fn g05_a_persistent_mailbox_never_ends() {
    isolated(|| {
        let name = unique("persistent");
        let make = Make {
            flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
            capacity: 1,
            ..Make::default()
        };
        let (tx, rx) = make.open(name.as_str()).expect("new").split();
        drop(tx);
        assert_eq!((rx.recv(NEVER), rx.ready()), (Err(Errno::AGAIN), 0));
        assert_eq!(rx.recv(within(5)), Err(Errno::TIMEDOUT));
        let tx = Handle::open(&name, SEND).expect("it is there");
        drop(rx);
        tx.put("for later");
        assert_eq!(tx.ready(), 0);
        assert_eq!(tx.send("x", within(5)), Err(Errno::TIMEDOUT));
        drop(tx);
        let rx = Handle::open(&name, RECEIVE).expect("it is still there");
        assert_eq!(rx.get(), "for later");
        assert_eq!(unlink(&name), Ok(()));
    });
}

#[test]
fn g05_handles_are_counted_by_their_rights() {
    isolated(|| {
        let mailbox = Make {
            rights: SEND | RECEIVE | ADMIN,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        let counts = |handle: &Handle| (handle.info().senders, handle.info().receivers);
        assert_eq!(counts(&mailbox), (1, 1));
        let (tx, rx, admin) = (
            mailbox.sender(),
            mailbox.receiver(),
            mailbox.dup(ADMIN).expect("it has it"),
        );
        assert_eq!(counts(&admin), (2, 2));
        // A descriptor in another process is the same handle.
        spawn(|| assert_eq!(counts(&admin), (2, 2))).ok();
        drop(mailbox);
        assert_eq!(counts(&admin), (1, 1));
        drop(tx);
        assert_eq!(counts(&admin), (0, 1));
        assert_eq!(
            rx.recv(NEVER),
            Err(Errno::PIPE),
            "an administrator does not send"
        );
        drop(rx);
        assert_eq!(counts(&admin), (0, 0));
    });
}

#[test]
fn g05_a_handle_with_both_rights_is_its_own_peer() {
    isolated(|| {
        let mailbox = Handle::anonymous(2);
        mailbox.put("to myself");
        assert_eq!(mailbox.get(), "to myself");
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
    });
}

#[test]
fn g05_a_descriptor_closed_during_a_wait_does_not_end_it() {
    isolated(|| {
        let mailbox = Handle::anonymous(2);
        let tx = mailbox.sender();
        scope(|scope| {
            let receiver = scope.spawn(|| mailbox.recv(within(60_000)));
            tx.wait_receivers(1);
            mailbox.close_copy();
            tx.put("still here");
            assert_eq!(
                receiver.join().expect("no panic").expect("it comes").text(),
                "still here"
            );
        });
        // Its descriptor is gone; the number must not be closed a second time.
        std::mem::forget(mailbox);
        wait_until("the handle to go", || tx.info().receivers == 0);
        assert_eq!(tx.send("x", NEVER), Err(Errno::PIPE));
    });
}

#[test]
fn g05_an_object_goes_with_its_last_handle() {
    isolated(|| {
        let user = fresh_user();
        spawn_as(user, || {
            let name = unique("mortal");
            let unbound = Handle::unbound();
            let mailbox = Handle::create(&name, 4);
            mailbox.put("goes with it");
            let second = mailbox.receiver();
            let id = second.info().id;
            drop(mailbox);
            assert_eq!(Handle::open(&name, RECEIVE).map(|h| h.info().id), Ok(id));
            assert_eq!(unbound.usage(), (1, 12, 1));
            drop(second);
            assert_eq!(Handle::open(&name, RECEIVE).map(drop), Err(Errno::NOENT));
            wait_until("the charge to be given back", || {
                unbound.usage() == (0, 0, 0)
            });
            assert!(!list().contains(&name));
            let new = Handle::create(&name, 4);
            assert!(new.info().id > id, "numbers are not used again");
            assert_eq!(new.recv(NEVER), Err(Errno::AGAIN));
        })
        .ok();
    });
}

#[test]
fn g05_a_killed_processes_objects_go() {
    isolated(|| {
        let user = fresh_user();
        let ready = Gate::new();
        let name = unique("orphan");
        let owner = spawn_as(user, || {
            let mailbox = Handle::create(&name, 4);
            mailbox.put("message");
            let _unacknowledged = mailbox.take(NEVER).expect("sent");
            mailbox.reserve(100, NEVER).expect("room");
            ready.open(1);
            sleep_forever();
        });
        ready.pass();
        assert!(list().contains(&name));
        owner.destroy();
        wait_until("the object to go", || !list().contains(&name));
        spawn_as(user, || {
            wait_until("the charge to be given back", || {
                Handle::unbound().usage() == (0, 0, 0)
            })
        })
        .ok();
    });
}

#[test]
fn g05_unlink_takes_the_name_and_leaves_the_object_to_its_handles() {
    isolated(|| {
        let name = unique("unlinked");
        for flags in [
            sys::POSTBOX_O_CREATE,
            sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
        ] {
            let mailbox = Make {
                flags,
                ..Make::default()
            }
            .open(name.as_str())
            .expect("new");
            assert_eq!(mailbox.info().name_len as usize, name.len());
            assert_eq!(unlink(&name), Ok(()));
            assert_eq!(unlink(&name), Err(Errno::NOENT));
            assert_eq!(Handle::open(&name, SEND).map(drop), Err(Errno::NOENT));
            assert_eq!(mailbox.info().name_len, 0);
            assert!(!list().contains(&name));
            mailbox.put("still works");
            assert_eq!(mailbox.get(), "still works");
            let other = Handle::create(&name, 1);
            assert_ne!(other.info().id, mailbox.info().id);
            drop(mailbox);
            assert_eq!(
                Handle::open(&name, SEND).map(|h| h.info().id),
                Ok(other.info().id),
                "the new one has the name"
            );
            // It goes with its handle.
        }
    });
}

#[test]
fn g05_a_persistent_object_stays_with_its_messages_until_it_is_unlinked() {
    isolated(|| {
        let user = fresh_user();
        spawn_as(user, || {
            let unbound = Handle::unbound();
            let name = unique("stays");
            let make = Make {
                flags: sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PERSIST,
                ..Make::default()
            };
            let mailbox = make.open(name.as_str()).expect("new");
            assert_eq!(mailbox.info().flags, sys::POSTBOX_INFO_PERSIST);
            let id = mailbox.info().id;
            mailbox.put("one");
            mailbox.put("two");
            mailbox.take(NEVER).expect("sent");
            drop(mailbox);
            assert!(list().contains(&name));
            assert_eq!(unbound.usage(), (2, 6, 1));
            // Creating opens what is there, with what it has.
            let again = Handle(postbox::raw::device().expect("the device"));
            assert_eq!(make.bind(&again, name.as_str()), Ok((id, false)));
            let one = again.recv(NEVER).expect("it came back");
            assert_eq!((one.text(), one.redelivered), ("one", true));
            drop(again);
            assert_eq!(unlink(&name), Ok(()));
            assert!(!list().contains(&name));
            wait_until("the charge to be given back", || {
                unbound.usage() == (0, 0, 0)
            });
        })
        .ok();
    });
}
