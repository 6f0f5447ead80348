//! Room that is reserved before there is a message.

use postbox::{raw, sys};
use postbox_tests::sleep_forever;
use postbox_tests::*;

#[test]
fn g04_a_reservation_keeps_room_for_its_handle() {
    isolated(|| {
        let mailbox = Handle::anonymous(2);
        let (holder, other) = (mailbox.sender(), mailbox.sender());
        assert_eq!(holder.reserve(10, NEVER), Ok(()));
        let info = mailbox.info();
        assert_eq!(
            (info.reserved_messages, info.messages, info.sent),
            (1, 0, 0)
        );
        other.put("takes the rest");
        assert_eq!(other.send("full", NEVER), Err(Errno::AGAIN));
        assert_eq!(other.ready(), 0);
        assert_eq!(
            holder.send("not with the reservation", NEVER),
            Err(Errno::AGAIN)
        );
        assert_eq!(holder.send_reserved("at most 10", 10), Ok(()));
        let info = mailbox.info();
        assert_eq!(
            (info.reserved_messages, info.messages, info.sent),
            (0, 2, 2)
        );
        assert_eq!(
            [mailbox.get(), mailbox.get()],
            ["takes the rest", "at most 10"]
        );
        assert_eq!(mailbox.ready(), libc::POLLOUT);
    });
}

#[test]
fn g04_a_reservation_keeps_bytes() {
    isolated(|| {
        let mailbox = Make {
            capacity: 8,
            capacity_bytes: 100,
            ..Make::default()
        }
        .open(None)
        .expect("new");
        mailbox.reserve(60, NEVER).expect("room");
        assert_eq!(mailbox.send([0; 41], NEVER), Err(Errno::AGAIN));
        mailbox.put([0; 40]);
        // What the message does not need of its reservation is free again.
        assert_eq!(mailbox.send_reserved([1; 20], 60), Ok(()));
        assert_eq!(mailbox.send([0; 41], NEVER), Err(Errno::AGAIN));
        assert_eq!(mailbox.send([0; 40], NEVER), Ok(()));
        assert_eq!(mailbox.info().bytes, 100);
    });
}

#[test]
fn g04_a_reservation_can_be_given_back() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        mailbox.reserve(10, NEVER).expect("room");
        let sender = spawn(|| mailbox.send("x", FOREVER).expect("room comes"));
        mailbox.wait_senders(1);
        assert_eq!(mailbox.cancel(10), Ok(()));
        sender.ok();
        assert_eq!(mailbox.info().reserved_messages, 0);
        assert_eq!(mailbox.get(), "x");
    });
}

#[test]
fn g04_what_was_not_reserved_cannot_be_used_or_given_back() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        let other = mailbox.sender();
        other.reserve(10, NEVER).expect("room");
        for handle in [&mailbox, &other.sender()] {
            assert_eq!(handle.send_reserved("x", 10), Err(Errno::INVAL));
            assert_eq!(handle.cancel(10), Err(Errno::INVAL));
        }
        assert_eq!(
            other.send_reserved("x", 11),
            Err(Errno::INVAL),
            "more than was reserved"
        );
        assert_eq!(
            other.send_reserved([0; 11], 10),
            Err(Errno::INVAL),
            "a larger message than was reserved for"
        );
        let info = mailbox.info();
        assert_eq!(
            (info.messages, info.sent, info.reserved_messages),
            (0, 0, 1),
            "the reservation is still there"
        );
        assert_eq!(other.send_reserved("x", 10), Ok(()));
        assert_eq!(
            other.send_reserved("x", 10),
            Err(Errno::INVAL),
            "it is used up"
        );
    });
}

#[test]
fn g04_reservations_go_with_their_handle() {
    isolated(|| {
        let mailbox = Handle::anonymous(2);
        let holder = mailbox.sender();
        for len in [5, 10] {
            holder.reserve(len, NEVER).expect("room");
        }
        let sender = spawn(|| {
            holder.close_copy();
            mailbox.send("x", FOREVER).expect("room comes");
        });
        mailbox.wait_senders(1);
        drop(holder);
        sender.ok();
        let killed = spawn(|| {
            mailbox.sender().reserve(10, NEVER).expect("room");
            let own = mailbox.sender();
            own.reserve(10, NEVER).expect("room");
            sleep_forever();
        });
        wait_until("a reservation", || {
            mailbox.info().reserved_messages == 1 && killed.state() == 'S'
        });
        killed.destroy();
        wait_until("it to be given back", || {
            mailbox.info().reserved_messages == 0
        });
        mailbox.put("the second");
        assert_eq!(mailbox.info().messages, 2);
    });
}

#[test]
fn g04_reserving_waits_its_turn() {
    isolated(|| {
        let mailbox = Handle::anonymous(1);
        mailbox.put("fills it");
        let holder = mailbox.sender();
        let (reserved, used) = (Gate::new(), Gate::new());
        let first = spawn(|| {
            holder.reserve(1, FOREVER).expect("room comes");
            reserved.open(1);
            used.pass();
            assert_eq!(holder.send_reserved("first", 1), Err(Errno::INVAL));
            assert_eq!(holder.send_reserved("1", 1), Ok(()));
        });
        mailbox.wait_senders(1);
        let second = spawn(|| mailbox.send("second", FOREVER).expect("room comes"));
        mailbox.wait_senders(2);
        assert_eq!(mailbox.get(), "fills it");
        reserved.pass();
        assert!(second.running());
        assert_eq!(mailbox.recv(NEVER), Err(Errno::AGAIN));
        // The handle is this process's, too, and the reservation is not.
        assert_eq!(holder.send_reserved("1", 1), Err(Errno::INVAL));
        used.open(1);
        first.ok();
        assert_eq!(mailbox.get(), "1");
        second.ok();
        assert_eq!(mailbox.get(), "second");
    });
}

#[test]
fn g04_a_rendezvous_has_no_room_to_reserve() {
    isolated(|| {
        let mailbox = Handle::anonymous(0);
        assert_eq!(mailbox.reserve(1, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(mailbox.reserve(1, FOREVER), Err(Errno::OPNOTSUPP));
    });
}

#[test]
fn g04_an_unbounded_mailbox_reserves_too() {
    isolated(|| {
        let mailbox = Handle::anonymous(UNBOUNDED);
        for len in [0, 1, 4000] {
            mailbox.reserve(len, FOREVER).expect("there is always room");
        }
        assert_eq!(mailbox.info().reserved_messages, 3);
        mailbox.send_reserved([7; 4000], 4000).expect("reserved");
        mailbox.send_reserved("", 0).expect("reserved");
        mailbox.cancel(1).expect("reserved");
        let info = mailbox.info();
        assert_eq!(
            (info.reserved_messages, info.messages, info.bytes),
            (0, 2, 4000)
        );
    });
}

#[test]
fn g04_a_reserved_send_has_a_priority_and_reaches_who_waits() {
    isolated(|| {
        let mailbox = Handle::anonymous(4);
        mailbox.reserve(4, NEVER).expect("room");
        mailbox.put("low");
        let args = sys::postbox_send {
            flags: sys::POSTBOX_SEND_RESERVED,
            reserved_len: 4,
            priority: 3,
            ..Default::default()
        };
        raw::send(&mailbox, b"high", &args).expect("reserved");
        assert_eq!([mailbox.get(), mailbox.get()], ["high", "low"]);
        mailbox.reserve(4, NEVER).expect("room");
        let receiver = spawn(|| assert_eq!(mailbox.recv(FOREVER).expect("it comes").text(), "x"));
        mailbox.wait_receivers(1);
        mailbox.send_reserved("x", 4).expect("reserved");
        receiver.ok();
    });
}

#[test]
fn g05_a_reservation_does_not_outlast_the_receivers() {
    isolated(|| {
        let (tx, rx) = Handle::anonymous(4).split();
        tx.reserve(4, NEVER).expect("room");
        drop(rx);
        assert_eq!(tx.send_reserved("x", 4), Err(Errno::PIPE));
        assert_eq!(tx.reserve(4, FOREVER), Err(Errno::PIPE));
    });
}
