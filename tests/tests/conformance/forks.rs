//! Copies that a fork makes of what a process has taken: the child's destructors end nothing of the parent's.

use std::cell::Cell;

use postbox::{Capacity, Mailbox, Pool, Ring, Semaphore};
use postbox_tests::{Exit, Gate, isolated, scope, spawn};

/// Forks a child that drops its copy of a value and ends; returns the parent's.
fn dropped_in_child<T>(value: T) -> T {
    let cell = Cell::new(Some(value));
    let child = spawn(|| drop(cell.take()));
    assert_eq!(child.wait(), Exit::Code(0));
    cell.take().expect("the parent has its own")
}

fn bounded(messages: u64) -> Mailbox {
    Mailbox::options()
        .capacity(Capacity::Bounded(messages))
        .anonymous()
        .expect("a mailbox without a name can be made")
}

#[test]
fn delivery_dropped_in_child_stays_with_parent() {
    isolated(|| {
        let mailbox = bounded(4);
        mailbox.send("job").expect("there is room");
        let job = dropped_in_child(mailbox.take().expect("it is there"));
        assert_eq!(mailbox.info().expect("bound").unacknowledged, 1);
        assert!(mailbox.try_recv().expect_err("it is taken").is_empty());
        assert_eq!(job.ack().expect("it is the parent's").payload, b"job");
        mailbox.send("next").expect("there is room");
        drop(mailbox.take().expect("it is there"));
        let again = mailbox.try_recv().expect("dropping puts it back");
        assert!(again.redelivered);
    });
}

#[test]
fn request_dropped_in_child_is_answered_by_parent() {
    isolated(|| {
        let server = bounded(4);
        let client = server.try_clone().expect("a descriptor");
        scope(|scope| {
            let call = scope.spawn(|| client.call("question"));
            let request = server.recv_request().expect("it comes");
            let mut request = dropped_in_child(request);
            let replied = request.reply("answer");
            let reply = call.join().expect("it does not panic");
            replied.expect("it is the parent's");
            assert_eq!(reply.expect("it was answered").payload, b"answer");
        });
    });
}

#[test]
fn permit_dropped_in_child_keeps_its_room() {
    isolated(|| {
        let mailbox = bounded(1);
        let permit = dropped_in_child(mailbox.reserve(8).expect("there is room"));
        assert!(mailbox.try_send("x").expect_err("reserved").error.is_full());
        permit.send("reserved").expect("the room is there");
    });
}

#[test]
fn leases_and_guards_dropped_in_child_stay_with_parent() {
    isolated(|| {
        let semaphore = Semaphore::new(1).expect("it can be made");
        let guard = dropped_in_child(semaphore.acquire().expect("there is one"));
        assert!(semaphore.try_acquire().is_err(), "it is taken");
        drop(guard);
        drop(semaphore.try_acquire().expect("it was released"));
        let mut options = Pool::options();
        let pool = options.keep(0).anonymous(1, 64).expect("it can be made");
        let loan = dropped_in_child(pool.loan(64).expect("one is free"));
        assert!(pool.try_loan(64).is_err(), "it is lent");
        drop(loan);
        drop(pool.try_loan(64).expect("it came back"));
    });
}

#[test]
fn ring_ends_dropped_in_child_publish_nothing() {
    isolated(|| {
        let (sender, receiver) = Ring::options().pair().expect("it can be made");
        let producer = sender.attach().expect("nobody is there");
        let mut consumer = receiver.attach().expect("nobody is there");
        // The child's copy has a record that is not published yet.
        let producer = Cell::new(Some(producer));
        let begun = {
            let mut producer = producer.take().expect("it is there");
            let mut batch = producer.batch();
            batch.send(b"one").expect("there is room");
            std::mem::forget(batch);
            producer
        };
        producer.set(Some(begun));
        let (go, gone) = (Gate::new(), Gate::new());
        let child = spawn(|| {
            go.pass();
            drop(producer.take());
            gone.open(1);
        });
        let mut producer = producer.take().expect("the parent has its own");
        producer.send(b"two").expect("there is room");
        for expected in [b"one", b"two"] {
            assert_eq!(consumer.try_recv().expect("it is there").to_vec(), expected);
        }
        go.open(1);
        gone.pass();
        assert_eq!(child.wait(), Exit::Code(0));
        assert!(consumer.try_recv().expect_err("none is there").is_empty());
        producer.send(b"six").expect("the consumer is there");
        assert_eq!(consumer.try_recv().expect("it came").to_vec(), b"six");
    });
}
