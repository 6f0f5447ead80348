//! Rings: what each right lets map and write, records through memory alone, sleeping and the doorbell, polls, deaths of
//! either side, peers that write nonsense.

use postbox_tests::{LONG, scope};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use libc::{POLLERR, POLLHUP, POLLIN, POLLOUT};
use postbox::{
    Consumer, ErrorKind, Mailbox, Parcel, Producer, Ring, RingReceiver, RingSender, raw, sys,
};
use postbox_tests::*;
use rustix::event::epoll;
use rustix::fs::OFlags;

const HEAD: usize = sys::POSTBOX_RING_HEAD_PAGE as usize * PAGE;
const TAIL: usize = sys::POSTBOX_RING_TAIL_PAGE as usize * PAGE;
const DATA: usize = sys::POSTBOX_RING_DATA_PAGE as usize * PAGE;
const CONSUMER: u32 = sys::POSTBOX_RING_CONSUMER;
const PRODUCER: u32 = sys::POSTBOX_RING_PRODUCER;

/// A ring of that many bytes, of which the handle has both rights.
fn make(bytes: u64, flags: u32, name: Option<&str>) -> Result<Handle> {
    let handle = Handle::unbound();
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_RING,
        flags: sys::POSTBOX_O_CREATE | flags,
        rights: SEND | RECEIVE,
        mode: 0o600,
        capacity_bytes: bytes,
        ..Default::default()
    };
    raw::open(&handle, name.map(str::as_bytes), &mut args)?;
    Ok(handle)
}

fn ring(bytes: u64) -> Handle {
    make(bytes, 0, None).expect("a ring")
}

fn wait(handle: &Handle, side: u32, how: Wait) -> Result<()> {
    raw::ring_wait(handle, side | how.0, how.1)
}

/// Both ends of a ring, by the library.
fn pair(bytes: u64, many: bool) -> (RingSender, RingReceiver) {
    let mut options = Ring::options();
    let made = options.capacity(bytes).many(many).pair();
    made.expect("a ring")
}

/// A producer and a consumer that never look twice before they sleep.
fn sleepy(sender: &RingSender, receiver: &RingReceiver) -> (Producer, Consumer) {
    let (mut producer, mut consumer) = (
        sender.attach().expect("nobody else"),
        receiver.attach().expect("nobody else"),
    );
    producer.set_spin(0);
    consumer.set_spin(0);
    (producer, consumer)
}

fn asleep(receiver: &RingReceiver, senders: u32, receivers: u32) {
    wait_until("both sides to be so far", || {
        let info = receiver.info().expect("it is bound");
        (info.waiting_senders, info.waiting_receivers) == (senders, receivers)
    });
}

/// Dies as if killed.
fn die() -> ! {
    // SAFETY: no pointers; it ends this process.
    unsafe {
        libc::kill(libc::getpid(), libc::SIGKILL);
        libc::_exit(1)
    }
}

#[test]
fn ring_what_can_be_mapped_and_written_is_what_the_rights_say() {
    isolated(|| {
        let both = ring(2 * PAGE as u64);
        let end = DATA + 4 * PAGE;
        let parts = [(0, PAGE), (HEAD, PAGE), (TAIL, PAGE), (DATA, 4 * PAGE)];
        for (rights, writable) in [
            (SEND, [false, false, true, true]),
            (RECEIVE, [false, true, false, false]),
            (SEND | RECEIVE, [false, true, true, true]),
        ] {
            let handle = both.dup(rights).expect("a right");
            for ((at, len), writable) in parts.into_iter().zip(writable) {
                let what = format!("rights {rights}, from {at} on");
                let map = handle.map(at, len, R).expect("anybody may look");
                let made = handle.map(at, len, RW).map(drop);
                if writable {
                    assert_eq!(made, Ok(()), "{what}");
                    assert_eq!(map.protect(RW), Ok(()), "{what}");
                } else {
                    assert_eq!(made, Err(Errno::ACCESS), "{what}");
                    assert_eq!(map.protect(RW), Err(Errno::ACCESS), "{what}");
                }
                assert_eq!(map.protect(R | libc::PROT_EXEC), Err(Errno::ACCESS));
            }
            // All in one piece may be looked at, and not written: the status is the kernel's.
            drop(handle.map(0, end, R).expect("anybody may look"));
            assert_eq!(handle.map(0, end, RW).map(drop), Err(Errno::ACCESS));
            let wide = handle.map(HEAD, end - HEAD, RW).map(drop);
            assert_eq!(wide.is_ok(), rights == SEND | RECEIVE);
        }
        for (at, len) in [
            (0, end + PAGE),
            (end, PAGE),
            (end - PAGE, 2 * PAGE),
            (1 << 40, PAGE),
        ] {
            assert_eq!(both.map(at, len, R).map(drop), Err(Errno::INVAL), "{at}");
        }
        let private = Mapped::new(&both, 0, PAGE, R, libc::MAP_PRIVATE);
        assert_eq!(private.map(drop), Err(Errno::INVAL));
        let unbound = Handle::unbound().map(0, PAGE, R).map(drop);
        assert_eq!(unbound, Err(Errno::BADFD));
    });
}

#[test]
fn ring_its_data_is_there_twice_and_stays_mapped_without_a_handle() {
    isolated(|| {
        let ring = ring(2 * PAGE as u64);
        let data = ring.map(DATA, 4 * PAGE, RW).expect("rights");
        for at in [0, 5, PAGE, 2 * PAGE - 1] {
            assert_eq!(data.get(at), 0, "new memory is empty");
            data.set(at, 7);
            assert_eq!(data.get(at + 2 * PAGE), 7);
            data.set(at + 2 * PAGE, 9);
            assert_eq!(data.get(at), 9);
        }
        let last = ring.map(DATA + 3 * PAGE, PAGE, R).expect("rights");
        assert_eq!(last.get(PAGE - 1), 9);
        drop(ring);
        data.set(0, 3);
        assert_eq!(data.get(2 * PAGE), 3);
        // A child has it, too.
        spawn(|| data.set(1, 4)).ok();
        assert_eq!(data.get(1), 4);
    });
}

#[test]
fn ring_sizes_are_rounded_up_limited_and_charged() {
    isolated(|| {
        for (wanted, got) in [
            (0, 65_536),
            (1, PAGE as u64),
            (PAGE as u64 + 1, 2 * PAGE as u64),
            (1 << 20, 1 << 20),
        ] {
            assert_eq!(ring(wanted).info().capacity_bytes, got);
        }
        for wanted in [(64 << 20) + 1, 1 << 31, u64::MAX] {
            assert_eq!(make(wanted, 0, None).map(drop), Err(Errno::INVAL));
        }
        let user = fresh_user();
        spawn_as(user, || {
            // As pipes: by default 256 MiB, and a ring has three pages more than its data.
            for _ in 0..2 {
                let mut rings = Vec::new();
                let refused = loop {
                    match make(16 << 20, 0, None) {
                        Ok(ring) => rings.push(ring),
                        Err(error) => break error,
                    }
                };
                assert_eq!((rings.len(), refused), (15, Errno::DQUOT));
                drop(make(8 << 20, 0, None).expect("a smaller one fits"));
                // What is mapped stays; it goes with the mapping, which keeps the ring.
                let map = rings[0].map(DATA, PAGE, RW).expect("rights");
                drop(rings);
                map.set(0, 1);
            }
        })
        .ok();
    });
}

#[test]
fn ring_bad_arguments_are_refused() {
    isolated(|| {
        let both = ring(0);
        let open = |args: sys::postbox_open| {
            let mut args = sys::postbox_open {
                flags: sys::POSTBOX_O_CREATE | args.flags,
                rights: SEND,
                ..args
            };
            bind_as_is(&Handle::unbound(), None, &mut args)
        };
        let kind = sys::POSTBOX_KIND_RING;
        for args in [
            sys::postbox_open {
                kind,
                capacity: 1,
                ..Default::default()
            },
            sys::postbox_open {
                kind,
                message_max: 1,
                ..Default::default()
            },
            sys::postbox_open {
                kind,
                initial: 1,
                ..Default::default()
            },
            sys::postbox_open {
                kind,
                back_capacity: 1,
                ..Default::default()
            },
            sys::postbox_open {
                kind,
                memfd: 1,
                ..Default::default()
            },
            sys::postbox_open {
                kind,
                flags: sys::POSTBOX_O_NO_BACK,
                ..Default::default()
            },
            sys::postbox_open {
                kind,
                flags: sys::POSTBOX_O_PERSIST,
                ..Default::default()
            },
            sys::postbox_open {
                kind: sys::POSTBOX_KIND_PIPE,
                flags: sys::POSTBOX_O_MANY,
                ..Default::default()
            },
        ] {
            assert_eq!(open(args), Err(Errno::INVAL), "{args:?}");
        }
        for flags in [0, CONSUMER | PRODUCER, 1 << 10, PRODUCER | 1 << 31] {
            assert_eq!(raw::ring_attach(&both, flags).map(drop), Err(Errno::INVAL));
            assert_eq!(raw::ring_detach(&both, flags), Err(Errno::INVAL));
            assert_eq!(raw::ring_wake(&both, flags), Err(Errno::INVAL));
            assert_eq!(wait(&both, flags, NEVER), Err(Errno::INVAL));
        }
        let times = Wait(sys::POSTBOX_TIMEOUT | sys::POSTBOX_NONBLOCK, 0);
        assert_eq!(wait(&both, CONSUMER, times), Err(Errno::INVAL));
        assert_eq!(wait(&both, CONSUMER, Wait(0, 1)), Err(Errno::INVAL));
        assert_eq!(
            raw::ring_wake(&both, PRODUCER | sys::POSTBOX_NONBLOCK),
            Err(Errno::INVAL)
        );
        assert_eq!(
            raw::ring_detach(&both, CONSUMER),
            Err(Errno::INVAL),
            "nobody"
        );

        let (tx, rx) = (
            both.dup(SEND).expect("a right"),
            both.dup(RECEIVE).expect("a right"),
        );
        assert_eq!(
            raw::ring_attach(&tx, CONSUMER).map(drop),
            Err(Errno::ACCESS)
        );
        assert_eq!(
            raw::ring_attach(&rx, PRODUCER).map(drop),
            Err(Errno::ACCESS)
        );
        assert_eq!(wait(&tx, CONSUMER, NEVER), Err(Errno::ACCESS));
        assert_eq!(wait(&rx, PRODUCER, NEVER), Err(Errno::ACCESS));
        // Each wakes the other side.
        assert_eq!(raw::ring_wake(&tx, PRODUCER), Err(Errno::ACCESS));
        assert_eq!(raw::ring_wake(&rx, CONSUMER), Err(Errno::ACCESS));
        assert_eq!(raw::ring_wake(&tx, CONSUMER), Ok(()));
        assert_eq!(raw::ring_wake(&rx, PRODUCER), Ok(()));

        let mailbox = Handle::anonymous(1);
        assert_eq!(wait(&mailbox, CONSUMER, NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(
            raw::ring_attach(&mailbox, PRODUCER).map(drop),
            Err(Errno::OPNOTSUPP)
        );
        assert_eq!(wait(&Handle::unbound(), CONSUMER, NEVER), Err(Errno::BADFD));
        assert_eq!(both.send("x", NEVER), Err(Errno::OPNOTSUPP));
        assert_eq!(both.recv(NEVER).map(drop), Err(Errno::OPNOTSUPP));
    });
}

#[test]
fn ring_has_one_consumer_and_one_producer_or_many() {
    isolated(|| {
        let single = ring(0);
        let again = single.dup(SEND | RECEIVE).expect("rights");
        let producer = raw::ring_attach(&single, PRODUCER).expect("the first");
        assert_eq!((producer.capacity, producer.options), (65_536, 0));
        raw::ring_attach(&single, CONSUMER).expect("the first");
        for handle in [&single, &again] {
            for side in [CONSUMER, PRODUCER] {
                assert_eq!(raw::ring_attach(handle, side).map(drop), Err(Errno::BUSY));
            }
            spawn(|| {
                let side = raw::ring_attach(handle, PRODUCER).map(drop);
                assert_eq!(side, Err(Errno::BUSY), "another process");
                // What another process attached is not this one's to detach.
                assert_eq!(raw::ring_detach(handle, PRODUCER), Err(Errno::INVAL));
            })
            .ok();
        }
        let info = single.info();
        assert_eq!((info.value, info.maximum), (1, 1));
        assert_eq!(info.flags, sys::POSTBOX_INFO_CONNECTED);

        let many = make(0, sys::POSTBOX_O_MANY, None).expect("a ring");
        let status = many.map(0, PAGE, R).expect("anybody may look");
        let mut producers = Vec::new();
        for _ in 0..sys::POSTBOX_RING_PRODUCERS {
            let handle = many.dup(SEND).expect("a right");
            let attached = raw::ring_attach(&handle, PRODUCER).expect("a place");
            assert_eq!(attached.options, sys::POSTBOX_O_MANY);
            assert!(attached.id != 0 && attached.id < 1 << 30);
            producers.push((handle, attached.id));
        }
        // Each number is where its lower bits say.
        let place = |id: u32| 64 + 4 * (id as usize % sys::POSTBOX_RING_PRODUCERS as usize);
        let at = |at: usize| (status.load(at & !7) >> (at % 8 * 8)) as u32;
        for (_, id) in &producers {
            assert_eq!(at(place(*id)), *id);
        }
        let late = many.dup(SEND).expect("a right");
        assert_eq!(
            raw::ring_attach(&late, PRODUCER).map(drop),
            Err(Errno::BUSY)
        );
        let (left, id) = producers.swap_remove(7);
        assert_eq!(raw::ring_detach(&left, PRODUCER), Ok(()));
        assert_eq!(at(place(id)), 0);
        let attached = raw::ring_attach(&late, PRODUCER).expect("a place");
        assert_ne!(attached.id, id, "another number");
        assert_eq!(at(place(id)), attached.id);
        assert_eq!(many.info().value, 64);
        drop(producers);
        assert_eq!(many.info().value, 1);
        assert_eq!(many.info().flags, 0);
    });
}

#[test]
fn ring_records_arrive_whole_in_order_and_then_the_end() {
    isolated(|| {
        const COUNT: u64 = 20_000;
        let (sender, receiver) = pair(1 << 16, false);
        let child = spawn(|| {
            let mut producer = sender.attach().expect("nobody else");
            let mut rng = Rng::new(5);
            for i in 0..COUNT {
                let len = rng.below(if i % 100 == 0 { 30_000 } else { 100 }) as usize;
                match i % 3 {
                    0 => producer.send(&vec![i as u8; len]).expect("room"),
                    1 => producer.batch().send(&vec![i as u8; len]).expect("room"),
                    _ => {
                        drop(producer.reserve(len / 2).expect("room"));
                        let mut slot = producer.reserve(len).expect("room");
                        slot.write(&vec![i as u8; len]);
                        slot.commit();
                    }
                }
            }
        });
        let mut consumer = receiver.attach().expect("nobody else");
        let mut rng = Rng::new(5);
        for i in 0..COUNT {
            let len = rng.below(if i % 100 == 0 { 30_000 } else { 100 }) as usize;
            let record = consumer.recv().expect("it comes");
            assert_eq!(record.to_vec(), vec![i as u8; len], "{i}");
        }
        let error = consumer.recv().expect_err("it has left");
        assert_eq!(error.kind, ErrorKind::Disconnected);
        child.ok();
    });
}

#[test]
fn ring_a_record_of_a_mebibyte_is_read_where_it_was_written() {
    isolated(|| {
        const LEN: usize = 1 << 20;
        let (sender, receiver) = pair(4 << 20, false);
        let child = spawn(|| {
            let mut producer = sender.attach().expect("nobody else");
            for turn in 0..7u8 {
                let mut slot = producer.reserve(LEN).expect("room");
                slot.write_at(0, &[turn; 16]);
                slot.write_at(LEN - 16, &[turn; 16]);
                slot.commit();
            }
        });
        let mut consumer = receiver.attach().expect("nobody else");
        for turn in 0..7u8 {
            let record = consumer.recv().expect("it comes");
            assert_eq!(record.len(), LEN);
            let mut bytes = [0; 16];
            for at in [0, LEN - 16] {
                record.read_at(at, &mut bytes);
                assert_eq!(bytes, [turn; 16]);
            }
        }
        drop(consumer);
        child.ok();
    });
}

#[test]
fn ring_waits_for_a_record_and_for_half_of_it_to_be_free() {
    isolated(|| {
        let (sender, receiver) = pair(4096, false);
        let (mut producer, mut consumer) = sleepy(&sender, &receiver);
        let status = Mapped::new(&receiver, 0, PAGE, R, libc::MAP_SHARED).expect("a look");
        let words = || {
            let words = status.load(0);
            (words as u32, (words >> 32) as u32)
        };
        assert_eq!(words(), (0, 0));
        scope(|scope| {
            let waits = scope.spawn(|| consumer.recv().map(|record| record.to_vec()));
            asleep(&receiver, 0, 1);
            assert_eq!(words(), (1, 0), "the doorbell is wanted");
            producer.send(b"now").expect("room");
            assert_eq!(waits.join().expect("no panic").as_deref(), Ok(&b"now"[..]));
            assert_eq!(words(), (0, 0));
        });
        assert_eq!(producer.calls().doorbells, 1);
        producer.send(b"more").expect("room");
        assert_eq!(producer.calls().doorbells, 1, "nobody sleeps");
        drop(consumer.recv().expect("there"));

        while producer.try_send(&[0; 120]).is_ok() {}
        scope(|scope| {
            let waits = scope.spawn(|| producer.send(&[1; 120]));
            asleep(&receiver, 1, 0);
            assert_eq!(words(), (0, 1));
            for _ in 0..15 {
                drop(consumer.recv().expect("there"));
            }
            assert_eq!(receiver.info().expect("bound").waiting_senders, 1);
            assert_eq!(consumer.calls().doorbells, 0, "less than half is free");
            drop(consumer.recv().expect("there"));
            assert_eq!(waits.join().expect("no panic"), Ok(()));
            assert_eq!(words(), (0, 0));
        });
        assert_eq!(consumer.calls().doorbells, 1);
        let info = raw::info(&receiver).expect("bound");
        assert_eq!((info.sent, info.received), (1, 1), "doorbells");
        assert_eq!((info.redelivered, info.full), (1, 1), "sleeps");
    });
}

#[test]
fn ring_every_form_of_waiting() {
    isolated(|| {
        let both = ring(4096);
        for side in [CONSUMER, PRODUCER] {
            if side == PRODUCER {
                // Full.
                let tail = both.map(TAIL, PAGE, RW).expect("rights");
                tail.word(256).store(4096 / 8, SeqCst);
            }
            assert_eq!(wait(&both, side, NEVER), Err(Errno::AGAIN));
            assert_eq!(wait(&both, side, within(5)), Err(Errno::TIMEDOUT));
            assert_eq!(wait(&both, side, until(5)), Err(Errno::TIMEDOUT));
            assert_eq!(wait(&both, side, until(-5)), Err(Errno::TIMEDOUT));
            assert_eq!(wait(&both, side, until_realtime(5)), Err(Errno::TIMEDOUT));
            rustix::fs::fcntl_setfl(&both, OFlags::NONBLOCK).expect("it can be set");
            assert_eq!(wait(&both, side, FOREVER), Err(Errno::AGAIN));
            rustix::fs::fcntl_setfl(&both, OFlags::empty()).expect("it can be set");
            assert_eq!(
                both.info().waiting_receivers + both.info().waiting_senders,
                0
            );
        }
        // The consumer has all of it.
        assert_eq!(wait(&both, CONSUMER, FOREVER), Ok(()));
        let head = both.map(HEAD, PAGE, RW).expect("rights");
        // One less than half.
        head.word(128).store(255, SeqCst);
        assert_eq!(wait(&both, PRODUCER, NEVER), Err(Errno::AGAIN));
        head.word(128).store(256, SeqCst);
        assert_eq!(wait(&both, PRODUCER, NEVER), Ok(()));
        // What cannot be is no reason to sleep.
        for hostile in [513, 1 << 20, u64::from(u32::MAX)] {
            head.word(128).store(hostile, SeqCst);
            assert_eq!(wait(&both, PRODUCER, FOREVER), Ok(()));
            assert_eq!(wait(&both, CONSUMER, FOREVER), Ok(()));
            assert_eq!(both.ready(), POLLIN | POLLOUT);
        }
    });
}

#[test]
fn ring_a_signal_ends_a_wait_of_the_raw_call_and_none_of_the_library() {
    isolated(|| {
        let (sender, receiver) = pair(4096, false);
        let child = spawn(|| {
            handle_signal(libc::SIGUSR1, 0);
            let both = ring(4096);
            assert_eq!(wait(&both, CONSUMER, within(60_000)), Err(Errno::INTR));
            let mut consumer = receiver.attach().expect("nobody else");
            consumer.set_spin(0);
            assert_eq!(consumer.recv().expect("it comes").to_vec(), b"late");
        });
        child.wait_asleep();
        child.kill(libc::SIGUSR1);
        asleep(&receiver, 0, 1);
        child.kill(libc::SIGUSR1);
        let mut producer = sender.attach().expect("nobody else");
        producer.send(b"late").expect("room");
        child.ok();
    });
}

#[test]
fn ring_streams_with_few_calls_of_the_kernel() {
    isolated(|| {
        const COUNT: u64 = 50_000;
        let (sender, receiver) = pair(1 << 16, false);
        let child = spawn(|| {
            let mut producer = sender.attach().expect("nobody else");
            for i in 0..COUNT {
                producer.send(&[i as u8; 64]).expect("room");
            }
        });
        let mut consumer = receiver.attach().expect("nobody else");
        for _ in 0..COUNT {
            assert_eq!(consumer.recv().expect("it comes").len(), 64);
        }
        child.ok();
        let info = raw::info(&receiver).expect("bound");
        let calls = info.sent + info.received + info.redelivered + info.full;
        tell(&format!("{COUNT} records, {calls} calls of the kernel"));
        assert!(calls < COUNT / 10, "{calls} calls");
    });
}

#[test]
fn ring_streams_in_batches_with_a_call_for_many_records() {
    isolated(|| {
        const COUNT: u64 = 200_000;
        for many in [false, true] {
            let (sender, receiver) = pair(1 << 16, many);
            let child = spawn(|| {
                let mut producer = sender.attach().expect("nobody else");
                for i in (0..COUNT).step_by(32) {
                    let mut batch = producer.batch();
                    for i in i..(i + 32).min(COUNT) {
                        batch.send_value(&[i; 8]).expect("room");
                    }
                }
            });
            let mut consumer = receiver.attach().expect("nobody else");
            let mut next = 0;
            let error = loop {
                let mut batch = consumer.batch();
                let records = match batch.records() {
                    Ok(records) => records,
                    Err(error) => break error,
                };
                let before = next;
                for record in records {
                    assert_eq!(record.value(), Some([next; 8]));
                    next += 1;
                }
                assert!(next > before);
            };
            assert_eq!((error.kind, next), (ErrorKind::Disconnected, COUNT));
            child.ok();
            let info = raw::info(&receiver).expect("bound");
            let calls = info.sent + info.received + info.redelivered + info.full;
            tell(&format!(
                "{COUNT} records, many producers: {many}: {calls} calls of the kernel"
            ));
            assert!(calls < COUNT / 20, "{calls} calls");
        }
    });
}

#[test]
fn ring_the_producer_leaves_or_dies_and_what_it_committed_is_received_first() {
    isolated(|| {
        for (dies, end) in [
            (false, ErrorKind::Disconnected),
            (true, ErrorKind::OwnerDied),
        ] {
            // Whether the consumer sleeps when it happens.
            for sleeps in [false, true] {
                let (sender, receiver) = pair(4096, false);
                let mut consumer = receiver.attach().expect("nobody else");
                consumer.set_spin(0);
                let gate = Gate::new();
                let child = spawn(|| {
                    let mut producer = sender.attach().expect("nobody else");
                    producer.send(b"one").expect("room");
                    producer.send(b"two").expect("room");
                    let mut slot = producer.reserve(5).expect("room");
                    slot.write(b"three");
                    gate.pass();
                    if dies {
                        die();
                    }
                    drop(slot);
                });
                if sleeps {
                    assert_eq!(consumer.recv().expect("there").to_vec(), b"one");
                    assert_eq!(consumer.recv().expect("there").to_vec(), b"two");
                    scope(|scope| {
                        let waits = scope.spawn(|| consumer.recv().map(drop));
                        asleep(&receiver, 0, 1);
                        gate.open(1);
                        let error = waits.join().expect("no panic").expect_err("the end");
                        assert_eq!(error.kind, end);
                    });
                } else {
                    gate.open(1);
                    wait_until("the child to go", || !child.running());
                    assert_eq!(consumer.recv().expect("there").to_vec(), b"one");
                    assert_eq!(consumer.recv().expect("there").to_vec(), b"two");
                }
                for _ in 0..2 {
                    assert_eq!(
                        consumer.try_recv().map(drop).expect_err("the end").kind,
                        end
                    );
                }
                let hup = poll(&consumer, POLLIN, Duration::ZERO);
                assert_eq!(hup, POLLIN | POLLHUP);
                let late = sender.attach().expect_err("it is over");
                assert_eq!(late.kind, ErrorKind::Disconnected);
                assert_eq!(child.wait() == Exit::Signal(libc::SIGKILL), dies);
            }
        }
    });
}

#[test]
fn ring_the_consumer_leaves_or_dies_and_producers_are_told() {
    isolated(|| {
        for (dies, end) in [
            (false, ErrorKind::Disconnected),
            (true, ErrorKind::OwnerDied),
        ] {
            let (sender, receiver) = pair(4096, true);
            let mut producer = sender.attach().expect("a place");
            producer.set_spin(0);
            let gate = Gate::new();
            let child = spawn(|| {
                let mut consumer = receiver.attach().expect("nobody else");
                drop(consumer.recv().expect("it comes"));
                gate.pass();
                if dies {
                    die();
                }
            });
            while producer.try_send(&[0; 100]).is_ok() {}
            let mut other = producer.try_clone().expect("a place");
            scope(|scope| {
                let waits = scope.spawn(|| {
                    while producer.send(&[0; 2000]).is_ok() {}
                    producer.send(&[0]).expect_err("nobody receives")
                });
                asleep(&receiver, 1, 0);
                gate.open(1);
                assert_eq!(waits.join().expect("no panic").kind, end);
            });
            assert_eq!(other.try_send(b"x").expect_err("nobody receives").kind, end);
            assert_eq!(poll(&other, POLLOUT, Duration::ZERO), POLLOUT | POLLERR);
            assert_eq!(
                receiver.attach().map(drop).expect_err("over").kind,
                ErrorKind::Disconnected
            );
            drop(child);
        }
    });
}

#[test]
fn ring_one_of_many_producers_dies_and_its_record_is_passed_over() {
    isolated(|| {
        let (sender, receiver) = pair(4096, true);
        let mut consumer = receiver.attach().expect("nobody else");
        consumer.set_spin(0);
        let mut stays = sender.attach().expect("a place");
        let gate = Gate::new();
        let child = spawn(|| {
            let mut producer = stays.try_clone().expect("a place");
            producer.send(b"committed").expect("room");
            let _slot = producer.reserve(100).expect("room");
            gate.pass();
            die();
        });
        assert_eq!(consumer.recv().expect("it comes").to_vec(), b"committed");
        wait_until("it to reserve", || {
            receiver.info().expect("bound").bytes > 0
        });
        stays.send(b"behind it").expect("room");
        let error = consumer.recv_timeout(Duration::from_millis(5));
        assert!(error.map(drop).expect_err("busy").is_timeout());
        assert_eq!(
            poll(&consumer, POLLIN, Duration::ZERO),
            0,
            "nothing to take"
        );
        scope(|scope| {
            let waits = scope.spawn(|| consumer.recv().map(|record| record.to_vec()));
            asleep(&receiver, 0, 1);
            gate.open(1);
            let record = waits.join().expect("no panic");
            assert_eq!(record.as_deref(), Ok(&b"behind it"[..]));
        });
        assert_eq!(child.wait(), Exit::Signal(libc::SIGKILL));
        stays.send(b"still here").expect("room");
        assert_eq!(consumer.recv().expect("there").to_vec(), b"still here");
    });
}

#[test]
fn ring_a_second_descriptor_keeps_a_side_and_the_last_handle_ends_it() {
    isolated(|| {
        let (sender, receiver) = pair(4096, false);
        let producer = sender.attach().expect("nobody else");
        drop(sender);
        let mut consumer = receiver.attach().expect("nobody else");
        assert!(consumer.try_recv().expect_err("nothing").is_empty());
        drop(producer);
        assert!(consumer.try_recv().expect_err("the end").is_disconnected());

        // Nobody ever attached, and nobody can any more.
        let (sender, receiver) = pair(4096, false);
        let mut consumer = receiver.attach().expect("nobody else");
        drop(sender);
        assert!(consumer.recv().expect_err("the end").is_disconnected());
        let (sender, receiver) = pair(4096, false);
        let mut producer = sender.attach().expect("nobody else");
        drop(receiver);
        assert!(producer.send(b"x").expect_err("nobody").is_disconnected());

        // A raw close is not a death.
        let both = ring(4096);
        let rx = both.dup(RECEIVE).expect("a right");
        raw::ring_attach(&both, PRODUCER).expect("nobody else");
        let status = rx.map(0, PAGE, R).expect("a look");
        drop(both);
        assert_eq!(status.load(8) as u32, sys::POSTBOX_RING_PRODUCER_CLOSED);
        // After a fork, the side stays the parent's.
        let (sender, receiver) = pair(4096, false);
        let mut consumer = receiver.attach().expect("nobody else");
        let mut producer = sender.attach().expect("nobody else");
        spawn(|| {
            // SAFETY: the copy belongs to this process, which forgets the original.
            drop(unsafe { std::ptr::read(&producer) });
        })
        .ok();
        producer.send(b"here").expect("room");
        assert_eq!(consumer.recv().expect("there").to_vec(), b"here");
    });
}

#[test]
fn ring_a_persistent_one_waits_for_the_next() {
    isolated(|| {
        let name = unique("ring");
        let mut options = Ring::options();
        options.create(true).persist(true).capacity(4096);
        let sender = options.open_sender(&name).expect("new");
        for turn in 0..3u8 {
            let died = spawn(|| {
                let mut producer = sender.attach().expect("nobody else any more");
                producer.send(&[turn; 50]).expect("room");
                std::mem::forget(producer.reserve(10).expect("room"));
                die();
            });
            assert_eq!(died.wait(), Exit::Signal(libc::SIGKILL));
        }
        drop(sender);
        for turn in 0..3u8 {
            // Who did not release what it got leaves it to the next.
            for released in [false, true] {
                let receiver = options.open_receiver(&name).expect("it stays");
                let child = spawn(|| {
                    let mut consumer = receiver.attach().expect("nobody else any more");
                    let record = consumer.try_recv().expect("there");
                    assert_eq!(record.to_vec(), [turn; 50]);
                    if !released {
                        die();
                    }
                });
                assert_eq!(child.wait() == Exit::Code(0), released);
            }
        }
        let receiver = options.open_receiver(&name).expect("it stays");
        let mut consumer = receiver.attach().expect("nobody else any more");
        assert!(consumer.try_recv().expect_err("nothing").is_empty());
        unlink(&name).expect("ours");
    });
}

#[test]
fn ring_by_name_with_mode_and_in_a_message() {
    isolated(|| {
        let name = unique("ring");
        let receiver = Ring::options()
            .create_new(true)
            .mode(0o622)
            .many(true)
            .open_receiver(&name)
            .expect("new");
        let mut consumer = receiver.attach().expect("nobody else");
        let (gate, done) = (Gate::new(), Gate::new());
        let child = spawn_as(ALICE, || {
            let sender = Ring::options().open_sender(&name).expect("others may send");
            let denied = Ring::options().open_receiver(&name).map(drop);
            assert!(denied.expect_err("not to receive").is_denied());
            let mut producer = sender.attach().expect("a place");
            producer.send(b"from alice").expect("room");
            gate.open(1);
            done.pass();
        });
        gate.pass();
        assert_eq!(consumer.recv().expect("there").to_vec(), b"from alice");
        let mailbox = Mailbox::options().anonymous().expect("a mailbox");
        let sender = Ring::options().open_sender(&name).expect("ours");
        mailbox
            .send_parcel(
                Parcel::new("a ring").attach(&sender),
                postbox::Wait::Forever,
            )
            .expect("room");
        let mut message = mailbox.recv().expect("there");
        let fd = message.files.remove(0);
        let passed = RingSender::try_from(fd).expect("it is one");
        assert_eq!(passed.name(), Some(name.as_str()));
        let mut producer = passed.attach().expect("a place");
        producer.send(b"passed on").expect("room");
        assert_eq!(consumer.recv().expect("there").to_vec(), b"passed on");
        let wrong = RingReceiver::try_from(OwnedFd::from(sender)).expect_err("it sends");
        assert_eq!(wrong.error.kind, ErrorKind::WrongHandle);
        let info = postbox::stat(&name).expect("listed");
        assert_eq!(info.kind, postbox::Kind::Ring);
        done.open(1);
        child.ok();
    });
}

#[test]
fn ring_poll_says_what_a_call_would_find() {
    isolated(|| {
        for many in [false, true] {
            let (sender, receiver) = pair(4096, many);
            let (mut producer, mut consumer) = sleepy(&sender, &receiver);
            let mut rng = Rng::from_env("ring poll");
            let mut inside = std::collections::VecDeque::new();
            for _ in 0..2_000 {
                let len = rng.below(300) as usize;
                if rng.one_in(2) {
                    if producer.try_send(&vec![1; len]).is_ok() {
                        inside.push_back(len);
                    }
                } else if let Ok(record) = consumer.try_recv() {
                    assert_eq!(inside.pop_front(), Some(record.len()));
                }
                let used: usize = inside.iter().map(|len| 8 + len.next_multiple_of(8)).sum();
                let readable = if inside.is_empty() { 0 } else { POLLIN };
                let writable = if used <= 2048 { POLLOUT } else { 0 };
                let events = POLLIN | POLLOUT;
                assert_eq!(poll(&consumer, events, Duration::ZERO), readable);
                assert_eq!(poll(&producer, events, Duration::ZERO), writable);
            }
        }
    });
}

fn epoll_of(fd: impl AsFd, flags: epoll::EventFlags) -> OwnedFd {
    let set = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll");
    let data = epoll::EventData::new_u64(0);
    epoll::add(&set, fd, data, flags).expect("it can be polled");
    set
}

/// Waits for an event, at most the watchdog's time.
#[track_caller]
fn event(set: impl AsFd) {
    let mut list = [epoll::Event {
        flags: epoll::EventFlags::empty(),
        data: epoll::EventData::new_u64(0),
    }];
    let limit = rustix::event::Timespec {
        tv_sec: LONG.as_secs() as i64,
        tv_nsec: 0,
    };
    let events = epoll::wait(set, &mut list, Some(&limit));
    assert_eq!(events, Ok(1), "no event came");
}

#[test]
fn ring_no_event_is_missed_by_epoll_level_or_edge() {
    isolated(|| {
        const COUNT: u64 = 5_000;
        for (edge, many) in [(false, false), (true, false), (true, true)] {
            let mode = if edge {
                epoll::EventFlags::ET
            } else {
                epoll::EventFlags::empty()
            };
            let (sender, receiver) = pair(4096, many);
            let child = spawn(|| {
                let mut producer = sender.attach().expect("nobody else");
                producer.set_nonblocking(true).expect("possible");
                let set = epoll_of(&producer, epoll::EventFlags::OUT | mode);
                let mut rng = Rng::new(3);
                for i in 0..COUNT {
                    let data = vec![i as u8; rng.below(400) as usize];
                    while let Err(error) = producer.try_send(&data) {
                        assert!(error.is_full(), "{error}");
                        event(&set);
                    }
                }
            });
            let mut consumer = receiver.attach().expect("nobody else");
            consumer.set_nonblocking(true).expect("possible");
            let set = epoll_of(&consumer, epoll::EventFlags::IN | mode);
            let mut rng = Rng::new(3);
            for i in 0..COUNT {
                let len = rng.below(400) as usize;
                let record = loop {
                    // A receive that waits does not, on such a handle.
                    match consumer.recv().map(|record| record.to_vec()) {
                        Ok(record) => break record,
                        Err(error) => assert!(error.is_empty(), "{error}"),
                    }
                    event(&set);
                };
                assert_eq!(record, vec![i as u8; len]);
            }
            child.ok();
            // The event of the end may have been one before.
            while !consumer
                .try_recv()
                .expect_err("all were received")
                .is_disconnected()
            {
                event(&set);
            }
        }
    });
}

#[test]
fn ring_a_hostile_peer_spoils_the_ring_and_nothing_else() {
    isolated(|| {
        let mut rng = Rng::from_env("hostile ring");
        for round in 0..scaled(60) {
            let many = round % 2 == 0;
            let flags = if many { sys::POSTBOX_O_MANY } else { 0 };
            let both = make(4096, flags, None).expect("a ring");
            let hostile_sends = rng.one_in(2);
            let mut seed = rng.split();
            let (tx, rx) = (
                both.dup(SEND).expect("a right"),
                both.dup(RECEIVE).expect("a right"),
            );
            let attack = spawn(|| {
                let (handle, parts) = if hostile_sends {
                    (&tx, vec![(TAIL, PAGE), (DATA, 2 * PAGE)])
                } else {
                    (&rx, vec![(HEAD, PAGE)])
                };
                let side = if hostile_sends { PRODUCER } else { CONSUMER };
                raw::ring_attach(handle, side).expect("nobody else");
                let map = |(at, len)| handle.map(at, len, RW).expect("its right");
                let maps: Vec<Mapped> = parts.iter().copied().map(map).collect();
                loop {
                    let which = seed.below(maps.len() as u64) as usize;
                    let len = parts[which].1 as u64;
                    let at = if seed.one_in(2) {
                        // An index.
                        [128, 256, 384][seed.below(3) as usize]
                    } else {
                        seed.below(len / 8) as usize * 8
                    };
                    let value = match seed.below(4) {
                        0 => seed.word(),
                        1 => seed.below(600),
                        2 => seed.below(4) << 62 | seed.below(1 << 33),
                        _ => maps[which]
                            .load(at)
                            .wrapping_add(seed.below(40))
                            .wrapping_sub(20),
                    };
                    maps[which].word(at).store(value, Relaxed);
                    let _ = raw::ring_wake(handle, CONSUMER);
                    let _ = raw::ring_wake(handle, PRODUCER);
                }
            });
            let own = if hostile_sends { RECEIVE } else { SEND };
            let fd = both.dup(own).expect("a right").0;
            let patience = Duration::from_millis(2);
            let known = |error: &postbox::Error| {
                matches!(
                    error.kind,
                    ErrorKind::Corrupt | ErrorKind::Timeout | ErrorKind::Full | ErrorKind::Empty
                )
            };
            if hostile_sends {
                let receiver = RingReceiver::try_from(fd).expect("it receives");
                let mut consumer = receiver.attach().expect("nobody else");
                for _ in 0..200 {
                    match consumer.recv_timeout(patience) {
                        Ok(record) => drop(record.to_vec()),
                        Err(error) => assert!(known(&error), "{error}"),
                    }
                }
            } else {
                let sender = RingSender::try_from(fd).expect("it sends");
                let mut producer = sender.attach().expect("nobody else");
                for _ in 0..200 {
                    if let Err(error) = producer.send_timeout(&[1; 200], patience) {
                        assert!(known(&error), "{error}");
                    }
                }
            }
            let _ = both.info();
            let _ = both.ready();
            attack.destroy();
        }
    });
}

#[test]
fn ring_producers_are_killed_and_what_they_committed_arrives_once_and_in_order() {
    isolated(|| {
        const PRODUCERS: usize = 4;
        let kills = scaled(200);
        let (sender, receiver) = pair(16_384, true);
        // Of each producer's life, how far it was, for whoever has it next.
        let committed = Ledger::new(PRODUCERS);
        let begun = Ledger::new(PRODUCERS);
        let mut rng = Rng::from_env("ring kills");
        let worker = |who: usize, mut rng: Rng| {
            let (sender, committed, begun) = (&sender, &committed, &begun);
            spawn(move || {
                let own = sender.try_clone().expect("a descriptor");
                let mut producer = own.attach().expect("a place");
                loop {
                    if rng.one_in(10) {
                        drop(producer.reserve(rng.below(200) as usize).expect("room"));
                    }
                    let number = committed[who].load(SeqCst) + 1;
                    let mut slot = producer
                        .reserve(16 + rng.below(100) as usize)
                        .expect("room");
                    slot.write_at(0, &(who as u64).to_ne_bytes());
                    slot.write_at(8, &number.to_ne_bytes());
                    begun[who].store(number, SeqCst);
                    slot.commit();
                    committed[who].store(number, SeqCst);
                }
            })
        };
        let keep = sender.attach().expect("a place");
        let mut workers: Vec<Child> = (0..PRODUCERS).map(|who| worker(who, rng.split())).collect();
        let mut consumer = receiver.attach().expect("nobody else");
        let mut last = [0u64; PRODUCERS];
        let mut records = 0u64;
        let mut receive = |consumer: &mut Consumer, wait: postbox::Wait| {
            let record = match consumer.recv_with(wait) {
                Ok(record) => record,
                Err(error) => {
                    assert!(error.is_empty(), "{error}");
                    return false;
                }
            };
            let mut words = [[0; 8]; 2];
            record.read_at(0, &mut words[0]);
            record.read_at(8, &mut words[1]);
            let [who, number] = words.map(u64::from_ne_bytes);
            let last = &mut last[who as usize];
            // A producer that was killed between the commit and its ledger sends that number anew.
            assert!(
                number == *last + 1 || number == *last,
                "{number} after {last} of {who}"
            );
            *last = number;
            records += 1;
            true
        };
        for kill in 0..kills {
            for _ in 0..rng.below(300) {
                assert!(receive(&mut consumer, postbox::Wait::Forever));
            }
            let victim = kill % PRODUCERS;
            // Only one at a time has the ledger of its place.
            workers.remove(victim).destroy();
            workers.insert(victim, worker(victim, rng.split()));
        }
        for worker in workers.drain(..) {
            // The others may wait for room.
            while receive(&mut consumer, postbox::Wait::Never) {}
            worker.destroy();
        }
        while receive(&mut consumer, postbox::Wait::Never) {}
        for who in 0..PRODUCERS {
            // Everything that was committed has come, and nothing that was not begun.
            let (from, to) = (committed[who].load(SeqCst), begun[who].load(SeqCst));
            assert!(
                (from..=to).contains(&last[who]),
                "{} of {from}..={to}",
                last[who]
            );
        }
        drop(keep);
        assert!(receiver.info().expect("bound").bytes <= 16_384);
        tell(&format!("{kills} kills, {records} records"));
    });
}

#[test]
fn ring_both_sides_are_killed_at_any_moment_and_the_other_is_told() {
    isolated(|| {
        let mut rng = Rng::from_env("ring deaths");
        for _ in 0..scaled(100) {
            let (sender, receiver) = pair(4096, rng.one_in(2));
            let tx = spawn(|| {
                let mut producer = sender.attach().expect("nobody else");
                let error = loop {
                    if let Err(error) = producer.send(&[1; 100]) {
                        break error;
                    }
                };
                assert_eq!(error.kind, ErrorKind::OwnerDied);
            });
            let rx = spawn(|| {
                let mut consumer = receiver.attach().expect("nobody else");
                let error = loop {
                    match consumer.recv() {
                        Ok(record) => assert_eq!(record.len(), 100),
                        Err(error) => break error,
                    }
                };
                assert_eq!(error.kind, ErrorKind::OwnerDied);
            });
            wait_until("both to be there", || {
                receiver.info().is_ok_and(|info| info.connected)
            });
            std::thread::sleep(Duration::from_micros(rng.below(3_000)));
            if rng.one_in(2) {
                tx.destroy();
                rx.ok();
            } else {
                rx.destroy();
                tx.ok();
            }
        }
    });
}

#[test]
fn ring_descriptors_of_a_side_are_close_on_exec() {
    isolated(|| {
        let (sender, receiver) = pair(4096, false);
        let (producer, consumer) = sleepy(&sender, &receiver);
        for fd in [producer.as_fd(), consumer.as_fd(), sender.as_fd()] {
            // SAFETY: no pointers.
            let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
    });
}
