//! Every order in which the steps of two or three threads can happen, with up to so many switches:
//! records are whole and in order, nobody sleeps for ever, and no room is used twice.

use super::*;
use crate::ring::index::Geometry;
use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use loom::thread;

/// The memory of a ring.
pub(crate) struct Pages {
    status: Status,
    head: Head,
    tails: Tails,
    pub(crate) headers: Vec<AtomicU64>,
    /// What the units hold beside headers. Loom finds out where two access one at once.
    payload: Vec<UnsafeCell<u32>>,
    /// The kernel: its lock, and those who sleep.
    kernel: Mutex<()>,
    sleepers: [Condvar; 2],
}

/// A ring of four units.
fn area(many: bool) -> Area {
    area_of(4, many)
}

fn area_of(units: usize, many: bool) -> Area {
    let keeper = Arc::new(Pages {
        status: Status {
            consumer_waiting: AtomicU32::new(0),
            producer_waiting: AtomicU32::new(0),
            state: AtomicU32::new(0),
            producers: std::array::from_fn(|_| AtomicU32::new(0)),
        },
        head: Head {
            head: AtomicU32::new(0),
        },
        tails: Tails {
            tail: AtomicU64::new(0),
            lock: AtomicU32::new(0),
        },
        headers: (0..units).map(|_| AtomicU64::new(0)).collect(),
        payload: (0..units).map(|_| UnsafeCell::new(0)).collect(),
        kernel: Mutex::new(()),
        sleepers: [Condvar::new(), Condvar::new()],
    });
    Area {
        status: NonNull::from(&keeper.status),
        head: NonNull::from(&keeper.head),
        tails: NonNull::from(&keeper.tails),
        geometry: Geometry::new((units * UNIT) as u64).expect("a size"),
        many,
        _keeper: keeper,
    }
}

/// The kernel's doorbell, as far as it matters: under a lock, the word is set and the indices are
/// looked at, and cleared where somebody is woken.
struct Bell;

#[allow(private_interfaces)]
impl Doorbell for Bell {
    fn sleep(
        &self,
        area: &Area,
        side: Side,
        ready: &mut dyn FnMut() -> bool,
        _: Wait,
    ) -> Result<(), Stop> {
        let kernel = &area._keeper.kernel;
        let mut guard = kernel.lock().expect("not poisoned");
        let waiting = area.status().waiting(side);
        waiting.store(1, Release);
        fence(SeqCst);
        if ready() {
            return Ok(());
        }
        while waiting.load(Relaxed) != 0 {
            guard = area._keeper.sleepers[side as usize]
                .wait(guard)
                .expect("not poisoned");
        }
        Ok(())
    }

    fn ring(&self, area: &Area, side: Side) {
        let _guard = area._keeper.kernel.lock().expect("not poisoned");
        area.status().waiting(side).store(0, Relaxed);
        area._keeper.sleepers[side as usize].notify_all();
    }

    fn detach(&self, area: &Area, side: Side, id: u32) {
        match side {
            Side::Consumer => {
                area.status().state.fetch_or(CONSUMER_CLOSED, SeqCst);
                self.ring(area, Side::Producer);
            }
            Side::Producer => {
                let producers = &area.status().producers;
                producers[id as usize % PRODUCERS].store(0, SeqCst);
                if producers.iter().all(|id| id.load(SeqCst) == 0) {
                    area.status().state.fetch_or(PRODUCER_CLOSED, SeqCst);
                }
                self.ring(area, Side::Consumer);
            }
        }
    }
}

fn producer(area: &Area, place: u32) -> Tx<Bell> {
    let id = PRODUCERS as u32 + place;
    area.status().producers[place as usize].store(id, SeqCst);
    Tx::new(area.clone(), Bell, id, 0)
}

/// Reserves as the library does.
fn write(tx: &mut Tx<Bell>, value: u32, wait: Wait) -> Result<(), Stop> {
    let position = match tx.reserve_quickly(8) {
        Some(position) => position,
        None => tx.reserve(8, wait)?,
    };
    let at = tx.area.geometry.at(position.wrapping_add(1));
    tx.area._keeper.payload[at].with_mut(|payload| {
        // SAFETY: the record is this thread's. Loom says if it is not.
        unsafe { *payload = value }
    });
    tx.commit(position, 8);
    Ok(())
}

fn send(tx: &mut Tx<Bell>, value: u32, wait: Wait) -> Result<(), Stop> {
    write(tx, value, wait)?;
    tx.publish();
    Ok(())
}

fn read(area: &Area, found: Found) -> u32 {
    assert_eq!(found.len, 8);
    let at = area.geometry.at(found.position.wrapping_add(1));
    // SAFETY: as above.
    area._keeper.payload[at].with(|payload| unsafe { *payload })
}

fn receive(rx: &mut Rx<Bell>, wait: Wait) -> Result<u32, Stop> {
    let found = rx.next(wait)?;
    let value = read(&rx.area, found);
    rx.release(found);
    rx.publish();
    Ok(value)
}

fn model(switches: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.check(test);
}

/// The ring holds two records, so that the producer sleeps as well.
#[test]
fn loom_one_producer() {
    model(3, || {
        let area = area(false);
        let mut tx = producer(&area, 0);
        let mut rx = Rx::new(area, Bell, 0);
        let thread = thread::spawn(move || {
            for value in 1..=4 {
                send(&mut tx, value, Wait::Forever).expect("the consumer is there");
            }
        });
        for value in 1..=4 {
            assert_eq!(receive(&mut rx, Wait::Forever), Ok(value));
        }
        assert_eq!(receive(&mut rx, Wait::Forever), Err(Stop::Closed));
        thread.join().expect("it sends");
    });
}

/// Two records are published at once, and all that are there are received before their room is given
/// back.
#[test]
fn loom_batches() {
    model(3, || {
        // Four records, of which two are received at a time.
        let area = area_of(8, false);
        let mut tx = producer(&area, 0);
        let mut rx = Rx::new(area, Bell, 0);
        let thread = thread::spawn(move || {
            for value in [1, 3, 5] {
                write(&mut tx, value, Wait::Forever).expect("the consumer is there");
                write(&mut tx, value + 1, Wait::Forever).expect("as before");
                tx.publish();
            }
        });
        let mut expected = 1;
        let stop = loop {
            let mut run = match rx.run(Wait::Forever) {
                Ok(run) => run,
                Err(stop) => break stop,
            };
            let before = expected;
            while let Some(found) = run.next() {
                assert_eq!(read(&run.rx.area, found), expected);
                expected += 1;
            }
            assert!(expected > before);
            rx.publish();
        };
        assert_eq!((stop, expected), (Stop::Closed, 7));
        thread.join().expect("it sends");
    });
}

#[test]
fn loom_the_consumer_goes() {
    model(3, || {
        let area = area(false);
        let mut tx = producer(&area, 0);
        let mut rx = Rx::new(area, Bell, 0);
        let thread = thread::spawn(move || {
            assert_eq!(receive(&mut rx, Wait::Forever), Ok(0));
        });
        let sent = (0..4).map(|value| send(&mut tx, value, Wait::Forever));
        // It never waits for a consumer that is gone.
        let sent: Vec<_> = sent.collect();
        assert_eq!(sent[0], Ok(()));
        assert_eq!(sent[3], Err(Stop::Closed));
        thread.join().expect("it receives");
    });
}

/// Either may be first, and either may sleep in between.
#[test]
fn loom_many_producers() {
    model(2, || {
        let area = area(true);
        // Both are there before one could be the last to go.
        let producers = [producer(&area, 0), producer(&area, 1)];
        let mut value = 0;
        let senders = producers.map(|mut tx| {
            value += 1;
            thread::spawn(move || send(&mut tx, value, Wait::Forever))
        });
        let mut rx = Rx::new(area, Bell, 0);
        let mut sum = 0;
        loop {
            match receive(&mut rx, Wait::Forever) {
                Ok(value) => sum += value,
                Err(stop) => {
                    assert_eq!(stop, Stop::Closed);
                    break;
                }
            }
        }
        assert_eq!(sum, 3);
        for sender in senders {
            assert_eq!(sender.join().expect("it sends"), Ok(()));
        }
    });
}

/// One takes its record back, or dies with it, while the consumer may sleep at it.
#[test]
fn loom_many_producers_one_of_which_fails() {
    for dies in [false, true] {
        model(2, move || {
            let area = area(true);
            let mut first = producer(&area, 0);
            let mut second = producer(&area, 1);
            let sender = thread::spawn(move || send(&mut second, 7, Wait::Forever));
            let failing = thread::spawn(move || {
                let position = first.reserve(8, Wait::Forever).expect("room");
                if !dies {
                    first.abort(position, 8);
                }
            });
            let mut rx = Rx::new(area, Bell, 0);
            assert_eq!(receive(&mut rx, Wait::Forever), Ok(7));
            assert_eq!(receive(&mut rx, Wait::Forever), Err(Stop::Closed));
            failing.join().expect("it ends");
            assert_eq!(sender.join().expect("it sends"), Ok(()));
        });
    }
}

/// The consumer is done with the first records before their room is used again, also by a producer that
/// knows of that from another one alone.
#[test]
fn loom_room_that_one_producer_found_is_used_by_another() {
    model(2, || {
        let area = area(true);
        let [mut first, second] = [producer(&area, 0), producer(&area, 1)];
        let mut rx = Rx::new(area, Bell, 0);
        for value in [1, 2] {
            send(&mut first, value, Wait::Never).expect("room");
        }
        let senders = [first, second]
            .map(|mut tx| thread::spawn(move || send(&mut tx, 3, Wait::Never).is_ok()));
        assert_eq!(receive(&mut rx, Wait::Never), Ok(1));
        assert_eq!(receive(&mut rx, Wait::Never), Ok(2));
        let sent = senders.map(|sender| sender.join().expect("it tries"));
        for _ in sent.into_iter().filter(|sent| *sent) {
            assert_eq!(receive(&mut rx, Wait::Never), Ok(3));
        }
        assert_eq!(receive(&mut rx, Wait::Never), Err(Stop::Closed));
    });
}

/// The word that orders producers stays with one that is gone.
#[test]
fn loom_the_lock_of_the_dead_is_taken_over_once() {
    model(2, || {
        let area = area(true);
        // Nobody has this number.
        area.tails().lock.store(PRODUCERS as u32 + 3, Relaxed);
        let mut first = producer(&area, 0);
        let mut second = producer(&area, 1);
        let mut rx = Rx::new(area, Bell, 0);
        let sender = thread::spawn(move || send(&mut first, 1, Wait::Forever));
        let sent = send(&mut second, 2, Wait::Forever);
        assert_eq!(sent, Ok(()));
        assert_eq!(sender.join().expect("it sends"), Ok(()));
        let sum: u32 = (0..2).flat_map(|_| receive(&mut rx, Wait::Never)).sum();
        assert_eq!(sum, 3);
    });
}
