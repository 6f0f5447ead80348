// SPDX-License-Identifier: GPL-2.0
//! The ring: hostile numbers, and random comings and goings beside a plain model.

use postbox_queue::{
    ended, ring_busy, ring_has_room, ring_offset, ring_used, ring_writable, RingLeave, RingParties,
    RingRefusal, RingSide, RING_PRODUCERS, RING_UNIT,
};
use proptest::prelude::*;

#[test]
fn who_may_write_what() {
    // Status, head, tail, data.
    for (first, pages, sends, receives, writable) in [
        (0, 1, true, true, false),
        (0, 9, true, true, false),
        (1, 1, false, true, true),
        (1, 1, true, false, false),
        (1, 2, false, true, false),
        (1, 2, true, true, true),
        (2, 1, true, false, true),
        (2, 7, true, false, true),
        (2, 1, false, true, false),
        (3, 1, false, true, false),
        (u64::MAX, 1, true, false, true),
    ] {
        let found = ring_writable(first, pages, sends, receives);
        assert_eq!(found, writable, "{pages} pages from {first} on");
    }
}

#[test]
fn an_end_is_said_once_and_stays() {
    let mut ring = RingParties::new(false, false);
    ring.open(true, true);
    let producer = ring.attach_producer().expect("nobody else");
    assert_eq!(ring.attach_producer(), Err(RingRefusal::Taken));
    assert_eq!(ring.attach_consumer(), Ok(()));
    assert_eq!(ring.attach_consumer(), Err(RingRefusal::Taken));
    // What is undone has never been.
    ring.detach_consumer(RingLeave::Undone);
    assert_eq!((ring.state(), ring.attach_consumer()), (0, Ok(())));
    ring.detach_producer(producer, RingLeave::Died);
    assert_eq!(ring.state(), ended::PRODUCER_DIED);
    assert!(ring.ended_for(RingSide::Consumer) && !ring.ended_for(RingSide::Producer));
    ring.close(true, true);
    assert_eq!(ring.state(), ended::PRODUCER_DIED | ended::CONSUMER_CLOSED);
    assert_eq!(ring.attach_producer(), Err(RingRefusal::Over));
    assert_eq!(ring.attach_consumer(), Err(RingRefusal::Over));
}

#[test]
fn what_the_producer_left_behind_can_be_received_by_who_comes_later() {
    let mut ring = RingParties::new(false, false);
    let producer = ring.attach_producer().expect("nobody else");
    ring.detach_producer(producer, RingLeave::Closed);
    assert_eq!(ring.state(), ended::PRODUCER_CLOSED);
    assert_eq!(ring.attach_consumer(), Ok(()));
}

proptest! {
    /// Whatever processes write, the kernel reads within the ring, and lets nobody sleep over what
    /// cannot be.
    #[test]
    fn hostile_indices_lead_nowhere(shift in 9u32..=27, head: u32, tail: u32, header: u64) {
        let units = 1 << shift;
        prop_assert!(ring_offset(units, head) < u64::from(units) * RING_UNIT);
        prop_assert_eq!(ring_offset(units, head) % RING_UNIT, 0);
        match ring_used(units, head, tail) {
            None => prop_assert!(ring_has_room(units, head, tail)),
            Some(used) => {
                prop_assert!(used <= units);
                prop_assert_eq!(ring_has_room(units, head, tail), used <= units / 2);
            }
        }
        if let Some(producer) = ring_busy(header) {
            prop_assert!(producer < 1 << 30);
        }
    }

    /// Producers and the consumer come and go in any order.
    #[test]
    fn parties_are_as_the_model_says(
        many: bool, persistent: bool,
        steps in prop::collection::vec((0u8..5, any::<usize>(), any::<bool>()), 1..200),
    ) {
        let mut ring = RingParties::new(many, persistent);
        let places = if many { RING_PRODUCERS } else { 1 };
        let (mut producers, mut consumer, mut seen): (Vec<u32>, _, Vec<u32>) =
            (Vec::new(), false, Vec::new());
        let (mut producer_end, mut consumer_end) = (0, 0);
        for (step, which, died) in steps {
            let how = if died { RingLeave::Died } else { RingLeave::Closed };
            match step {
                0 | 1 => {
                    let attached = ring.attach_producer();
                    if producer_end | consumer_end != 0 {
                        prop_assert_eq!(attached, Err(RingRefusal::Over));
                    } else if producers.len() == places {
                        prop_assert_eq!(attached, Err(RingRefusal::Taken));
                    } else {
                        let number = attached.expect("a place");
                        prop_assert!(number != 0 && number < 1 << 30 && !seen.contains(&number));
                        producers.push(number);
                        seen.push(number);
                    }
                }
                2 if !producers.is_empty() => {
                    let number = producers.swap_remove(which % producers.len());
                    ring.detach_producer(number, how);
                    // Once is enough.
                    ring.detach_producer(number, how);
                    if producers.is_empty() && !persistent {
                        producer_end = if died { ended::PRODUCER_DIED } else { ended::PRODUCER_CLOSED };
                    }
                }
                3 => {
                    let attached = ring.attach_consumer();
                    if consumer_end != 0 {
                        prop_assert_eq!(attached, Err(RingRefusal::Over));
                    } else if consumer {
                        prop_assert_eq!(attached, Err(RingRefusal::Taken));
                    } else {
                        prop_assert_eq!(attached, Ok(()));
                        consumer = true;
                    }
                }
                4 if consumer => {
                    ring.detach_consumer(how);
                    consumer = false;
                    if !persistent {
                        consumer_end = if died { ended::CONSUMER_DIED } else { ended::CONSUMER_CLOSED };
                    }
                }
                _ => {}
            }
            prop_assert_eq!(ring.state(), producer_end | consumer_end);
            prop_assert_eq!(ring.attached(), (producers.len() as u32, consumer));
            for number in &seen {
                prop_assert_eq!(ring.alive(*number), producers.contains(number));
                prop_assert_eq!(
                    ring.producer(RingParties::place(*number)) == *number,
                    producers.contains(number)
                );
            }
            prop_assert!(!ring.alive(0));
        }
    }
}
