//! Rings without the kernel module: threads, ends, and peers that write nonsense.

use super::core::{Area, Tails};
use super::*;
use crate::ErrorKind;
use proptest::prelude::*;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// How many records; Miri is slow.
const COUNT: u64 = if cfg!(miri) { 60 } else { 200_000 };

fn local(capacity: u64, many: bool) -> LocalPair {
    let mut options = Ring::options();
    let made = options.capacity(capacity).many(many).local();
    made.expect("memory")
}

/// A record that says which it is, of a length that depends on that, up to `longest`.
fn content(number: u64, longest: usize) -> Vec<u8> {
    let len = 8 + (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as usize % (longest - 7);
    let mut bytes = vec![number as u8; len];
    bytes[..8].copy_from_slice(&number.to_ne_bytes());
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes[..8].try_into().expect("eight bytes"))
}

#[test]
fn records_come_in_order_and_whole_and_then_the_end() {
    let (mut producer, mut consumer) = local(4096, false);
    let longest = producer.longest();
    let sends = thread::spawn(move || {
        for i in 0..COUNT {
            let bytes = content(i, if i % 64 == 0 { longest } else { 200 });
            match i % 3 {
                0 => producer.send(&bytes).expect("room"),
                1 => {
                    let mut slot = producer.reserve(bytes.len()).expect("room");
                    slot.write(&bytes);
                    slot.commit();
                }
                _ => {
                    // What is not committed is not seen.
                    drop(producer.reserve(100).expect("room"));
                    let mut batch = producer.batch();
                    batch.send(&bytes).expect("room");
                }
            }
        }
    });
    let mut expected = 0;
    let error = loop {
        let record = match consumer.recv() {
            Ok(record) => record,
            Err(error) => break error,
        };
        let bytes = record.to_vec();
        let limit = if expected % 64 == 0 { longest } else { 200 };
        assert_eq!(bytes, content(expected, limit));
        expected += 1;
    };
    assert_eq!(expected, COUNT);
    assert!(error.is_disconnected(), "{error}");
    sends.join().expect("it sends");
}

#[test]
fn many_producers_keep_their_own_order_and_lose_nothing() {
    const PRODUCERS: u64 = 3;
    let (producer, mut consumer) = local(4096, true);
    let threads: Vec<_> = (0..PRODUCERS)
        .map(|who| {
            let mut producer = producer.try_clone().expect("a place");
            thread::spawn(move || {
                for i in 0..COUNT / PRODUCERS {
                    if i % 5 == 0 {
                        drop(producer.reserve(24).expect("room"));
                    }
                    let bytes = content(who << 32 | i, 100);
                    producer.send(&bytes).expect("room");
                }
            })
        })
        .collect();
    drop(producer);
    let mut next = [0; PRODUCERS as usize];
    while let Ok(record) = consumer.recv() {
        let bytes = record.to_vec();
        let number = number(&bytes);
        assert_eq!(bytes, content(number, 100));
        let next = &mut next[(number >> 32) as usize];
        assert_eq!(number as u32 as u64, *next);
        *next += 1;
    }
    assert_eq!(next, [COUNT / PRODUCERS; PRODUCERS as usize]);
    for thread in threads {
        thread.join().expect("it sends");
    }
}

#[test]
fn a_producer_that_died_with_a_record_or_the_lock_stops_nobody() {
    let (mut first, mut consumer) = local(4096, true);
    let mut second = first.try_clone().expect("a place");
    first.send(b"before").expect("room");
    std::mem::forget(first.reserve(50).expect("room"));
    second.send(b"after").expect("room");
    assert_eq!(consumer.recv().expect("there").to_vec(), b"before");
    assert!(
        consumer.try_recv().is_err_and(|error| error.is_empty()),
        "busy"
    );
    // It is gone, as the kernel would say, and had the lock.
    tails(&first.tx.area).lock.store(2 * 64, Relaxed);
    drop(first);
    second.send(b"last").expect("the lock is taken over");
    assert_eq!(consumer.recv().expect("passed over").to_vec(), b"after");
    assert_eq!(consumer.recv().expect("there").to_vec(), b"last");
    drop(second);
    assert!(consumer.recv().is_err_and(|error| error.is_disconnected()));
}

/// Positions have 32 bits. A head that a producer saw one round of them ago looks like a recent one.
#[test]
fn producer_idle_for_a_round_of_positions_finds_full_ring_full() {
    let (mut idle, mut consumer) = local(1 << 24, true);
    let mut busy = idle.try_clone().expect("a place");
    let (longest, half) = (idle.longest(), idle.tx.area.geometry.half());
    let send = |producer: &mut Producer<_, _>, number: u64| {
        let mut slot = producer.try_reserve(longest).expect("room");
        slot.write(&number.to_ne_bytes());
        slot.commit();
    };
    let mut receive = |number: u64| {
        let mut first = [0; 8];
        consumer.recv().expect("there").read_at(0, &mut first);
        assert_eq!(u64::from_ne_bytes(first), number);
    };
    // Each takes half of the ring, and all of them one round.
    let round = (1 << 32) / u64::from(half);
    send(&mut idle, 0);
    for number in 1..round {
        send(&mut busy, number);
        if number < round - 1 {
            receive(number - 1);
        }
    }
    assert_eq!(busy.tx.area.tail().position, 0, "a round");
    for producer in [&mut idle, &mut busy] {
        let reserved = producer.try_reserve(8);
        assert!(reserved.is_err_and(|error| error.is_full()));
    }
    receive(round - 2);
    send(&mut idle, round);
    receive(round - 1);
    receive(round);
}

#[test]
fn a_full_ring_says_so_and_a_full_one_waits_for_half_of_it() {
    let (mut producer, mut consumer) = local(4096, false);
    let mut sent = 0;
    while producer.try_send(&[1; 56]).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 4096 / 64);
    assert!(producer.try_send(&[]).is_err_and(|error| error.is_full()));
    let late = producer.send_timeout(&[1; 56], Duration::from_millis(5));
    assert!(late.is_err_and(|error| error.is_timeout()));
    producer.set_spin(0);
    let before = producer.calls().sleeps;
    let sends = thread::spawn(move || {
        producer.send(&[2; 56]).expect("room");
        producer.calls().sleeps
    });
    for _ in 0..sent {
        assert_eq!(consumer.recv().expect("there").to_vec(), [1; 56]);
    }
    assert_eq!(consumer.recv().expect("there").to_vec(), [2; 56]);
    let sleeps = sends.join().expect("it sends");
    // Under Miri a sleep is a yield, and there are as many as it takes.
    assert!(sleeps - before <= 1 || cfg!(miri), "{sleeps} {before}");
    let rung = consumer.calls().doorbells;
    assert!(rung <= sleeps, "{rung} for {sleeps} sleeps");
    assert!(consumer.recv().is_err_and(|error| error.is_disconnected()));
}

#[test]
fn the_consumer_that_goes_ends_it_for_who_waits() {
    let (mut producer, consumer) = local(4096, false);
    while producer.try_send(&[0; 500]).is_ok() {}
    let sends = thread::spawn(move || producer.send(&[0; 500]));
    drop(consumer);
    assert!(
        sends
            .join()
            .expect("it returns")
            .is_err_and(|error| error.is_disconnected())
    );
}

#[test]
fn records_have_a_longest_length() {
    let (mut producer, mut consumer) = local(8192, false);
    let longest = producer.longest();
    assert_eq!(longest, 4088);
    let error = producer.send(&vec![0; longest + 1]).expect_err("too long");
    let (len, limit) = (longest as u64 + 1, longest as u64);
    assert_eq!(error.kind, ErrorKind::TooLarge { len, limit });
    for _ in 0..5 {
        producer.send(&vec![7; longest]).expect("room");
        producer.send(&[]).expect("room");
        assert_eq!(consumer.recv().expect("there").to_vec(), vec![7; longest]);
        assert!(consumer.recv().expect("there").is_empty());
    }
}

#[test]
fn trusting_sides_have_slices_and_values_their_type() {
    let (producer, consumer) = local(4096, false);
    // SAFETY: nobody else has the ring.
    let (mut producer, mut consumer) = unsafe { (producer.trusting(), consumer.trusting()) };
    let mut slot = producer.reserve(3).expect("room");
    slot.copy_from_slice(b"abc");
    slot.commit();
    assert_eq!(&*consumer.recv().expect("there"), b"abc");
    producer.send_value(&[1u32, 2]).expect("room");
    let record = consumer.recv().expect("there");
    assert_eq!(record.value::<u32>(), None);
    assert_eq!(record.value(), Some([1u32, 2]));
    std::mem::forget(record);
    assert_eq!(consumer.recv().expect("again").value(), Some([1u32, 2]));
}

#[test]
fn a_batch_is_seen_when_it_is_done_and_wakes_once() {
    let (mut producer, mut consumer) = local(4096, false);
    let mut batch = producer.batch();
    for i in 0..5u8 {
        batch.send(&[i]).expect("room");
        assert!(consumer.try_recv().is_err_and(|error| error.is_empty()));
    }
    drop(batch);
    let mut batch = consumer.batch();
    for i in 0..5u8 {
        assert_eq!(batch.try_next().expect("there").to_vec(), [i]);
    }
    assert!(batch.try_next().is_none());
}

#[test]
fn a_run_is_what_is_there_up_to_half_of_the_ring() {
    let (mut producer, mut consumer) = local(4096, false);
    // A record takes 32 bytes of it.
    const HALF: u64 = 64;
    for round in 0..if cfg!(miri) { 3 } else { 20u64 } {
        let mut batch = producer.batch();
        for i in 0..100 {
            batch.send_value(&[round, i, 7]).expect("room");
        }
        drop(batch);
        let mut batch = consumer.batch();
        // All of them can be looked at.
        let first: Vec<_> = batch.records().expect("there").collect();
        assert_eq!(first.len() as u64, HALF);
        // Their room is not free yet.
        while producer.try_send(&[0; 24]).is_ok() {}
        for (i, record) in (0..).zip(&first) {
            assert_eq!(record.value(), Some([round, i, 7]));
        }
        // What is not taken is still there.
        let next = batch.records().expect("there").next();
        let value = next.and_then(|record| record.value());
        assert_eq!(value, Some([round, HALF, 7]));
        drop(batch);
        let mut left = HALF as usize - 1;
        while left > 0 {
            left -= consumer.batch().records().expect("there").count();
        }
        assert!(consumer.try_recv().is_err_and(|error| error.is_empty()));
    }
    drop(producer);
    assert!(
        consumer
            .batch()
            .records()
            .is_err_and(|error| error.is_disconnected())
    );
}

#[test]
fn a_run_has_records_of_all_lengths_and_none_that_were_taken_back() {
    for many in [false, true] {
        let (mut producer, mut consumer) = local(1 << 16, many);
        let longest = producer.longest();
        let mut number = 0;
        for round in 0..if cfg!(miri) { 2 } else { 30 } {
            let from = number;
            let mut lens = [0, 1, 63, 64, 65, 4096, 4097, 9000, longest]
                .into_iter()
                .cycle()
                .skip(round);
            loop {
                let len = lens.next().expect("for ever");
                drop(producer.try_reserve(100));
                match producer.try_send(&vec![number as u8; len]) {
                    Ok(()) => number += 1,
                    Err(_) => break,
                }
                drop(producer.try_reserve(len));
            }
            let mut expected = from;
            while expected < number {
                let before = expected;
                for record in consumer.batch().records().expect("there") {
                    let bytes = record.to_vec();
                    assert_eq!(bytes, vec![expected as u8; bytes.len()], "{round}");
                    expected += 1;
                }
                assert!(expected > before);
            }
        }
        assert!(
            consumer
                .batch()
                .records_with(crate::Wait::Never)
                .is_err_and(|error| error.is_empty())
        );
    }
}

#[test]
fn short_records_are_exact_at_every_length_and_offset() {
    let (mut producer, mut consumer) = local(4096, false);
    let source: Vec<u8> = (0..200).collect();
    for len in (0..150).filter(|len| !cfg!(miri) || len % 17 == 0) {
        let data = &source[3..][..len];
        for offset in 0..len.min(10) {
            let mut slot = producer.reserve(len).expect("room");
            slot.write(&vec![0xAA; len]);
            slot.write_at(offset, &data[offset..]);
            slot.commit();
            let record = consumer.recv().expect("there");
            let mut back = vec![0xBB; len - offset];
            record.read_at(offset, &mut back);
            assert_eq!(back, data[offset..]);
            let bytes = record.to_vec();
            assert_eq!(bytes[..offset], vec![0xAA; offset]);
            assert_eq!(bytes[offset..], data[offset..]);
        }
    }
}

/// The processor time of this thread.
#[cfg(not(miri))]
fn busy() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

#[test]
#[cfg(not(miri))] // Its clocks are its own.
fn producer_waits_for_a_stopped_one_without_spinning() {
    let (stopped, _consumer) = local(4096, true);
    let mut waits = stopped.try_clone().expect("a place");
    // The first one has the word, and does not go on.
    let id = stopped.tx.area.status().producers[0].load(Relaxed);
    tails(&stopped.tx.area).lock.store(id, Relaxed);
    assert!(waits.try_send(b"x").is_err_and(|error| error.is_full()));
    const TIME: Duration = Duration::from_millis(400);
    let (begun, before) = (std::time::Instant::now(), busy());
    let sent = waits.send_timeout(b"x", TIME);
    assert!(sent.is_err_and(|error| error.is_timeout()));
    assert!(begun.elapsed() >= TIME);
    let busy = busy() - before;
    assert!(busy < TIME / 4, "it used {busy:?} of the processor");
    tails(&waits.tx.area).lock.store(0, Relaxed);
    waits.send(b"x").expect("there is room");
}

#[test]
fn aborted_records_beyond_the_room_are_corrupt() {
    let (producer, mut consumer) = local(4096, true);
    let area = producer.tx.area.clone();
    let units = area.geometry.units();
    for unit in 0..units {
        let offset = unit as usize * 8;
        // SAFETY: it is in the ring, and aligned.
        let word = unsafe { AtomicU64::from_ptr(area.data.as_ptr().add(offset).cast()) };
        word.store(3 << 62, Relaxed);
    }
    // As many as there can be.
    tails(&area).tail.store(u64::from(units), Relaxed);
    assert!(consumer.rx.peek_slowly().is_ok_and(|found| found.is_none()));
    // More of them, before there is room.
    tails(&area).tail.store(u64::from(units) + 5, Relaxed);
    assert!(consumer.rx.peek_slowly().is_err());
}

fn tails(area: &Area) -> &Tails {
    // SAFETY: it is there as long as the area.
    unsafe { area.tails.as_ref() }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 10 } else { 512 }, failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever a peer writes to the indices, to headers, and to the lock, a side gets an error, or
    /// records that are within the ring, and neither panics nor runs for ever.
    #[test]
    fn a_hostile_peer_breaks_nothing_but_the_ring(
        many: bool,
        writes in prop::collection::vec((0u8..5, any::<u32>(), any::<u64>(), any::<bool>()), 1..40),
    ) {
        let (mut producer, mut consumer) = local(4096, many);
        let area = producer.tx.area.clone();
        for (what, at, value, small) in writes {
            let value = if small { value % 2048 } else { value };
            match what {
                0 => area.head().store(value as u32, Relaxed),
                1 => tails(&area).tail.store(value, Relaxed),
                2 => tails(&area).lock.store(value as u32, Relaxed),
                3 => {
                    let offset = at as usize % (4096 / 8) * 8;
                    // SAFETY: it is in the ring, and aligned.
                    let word = unsafe { AtomicU64::from_ptr(area.data.as_ptr().add(offset).cast()) };
                    word.store(if small { value << 62 | value } else { value }, Relaxed);
                }
                _ => {}
            }
            let len = at as usize % 2500;
            if let Ok(mut slot) = producer.try_reserve(len) {
                slot.write(&vec![1; len]);
                if small { slot.commit() } else { drop(slot) }
            }
            if small {
                let mut batch = consumer.batch();
                if let Ok(records) = batch.records_with(crate::Wait::Never) {
                    let records: Vec<_> = records.collect();
                    let bytes: usize = records.iter().map(|record| 8 + record.to_vec().len()).sum();
                    prop_assert!(bytes <= 4096);
                }
            }
            for _ in 0..3 {
                if let Ok(record) = consumer.try_recv() {
                    prop_assert!(record.len() <= 4096);
                    let _ = record.to_vec();
                }
            }
        }
    }
}
