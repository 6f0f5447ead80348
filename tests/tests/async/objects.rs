//! Semaphores, latches, barriers and pools.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use postbox::{Barrier, Latch, Pool, Semaphore, Wait};
use postbox_tests::{Ledger, Rng, isolated, scaled, sleep_forever, spawn};
use tokio::time::timeout;

use super::*;

#[test]
fn a_semaphore_lets_as_many_in_as_it_says() {
    on_both(async || {
        let semaphore = Arc::new(is(Semaphore::options()
            .initial(2)
            .maximum(2)
            .anonymous()
            .expect("one")));
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..12)
            .map(|n| {
                let (semaphore, inside, most) = (semaphore.clone(), inside.clone(), most.clone());
                tokio::spawn(async move {
                    for _ in 0..20 {
                        let guard = match n % 2 {
                            0 => semaphore.acquire().await.expect("it comes"),
                            _ => semaphore.clone().acquire_owned(1).await.expect("it comes"),
                        };
                        let now = inside.fetch_add(1, SeqCst) + 1;
                        most.fetch_max(now, SeqCst);
                        assert!(now <= 2, "{now} are inside");
                        tokio::task::yield_now().await;
                        inside.fetch_sub(1, SeqCst);
                        guard.release().expect("it is ours");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(most.load(SeqCst), 2, "two were inside at once");
        assert_eq!(semaphore.get_ref().value().expect("it is there"), 2);
        still_blocks(&*semaphore);
    });
}

#[test]
fn what_is_acquired_is_given_back_and_what_is_dropped_has_nothing() {
    on_both(async || {
        let semaphore = Arc::new(is(Semaphore::new(1).expect("one")));
        let value = || semaphore.get_ref().value().expect("it is there");
        let guard = semaphore.acquire().await.expect("there is one");
        waits(semaphore.acquire()).await;
        waits(semaphore.take(1)).await;
        drop(guard);
        assert_eq!(value(), 1);
        assert!(!semaphore.take(1).await.expect("there is one"));
        // All at once, or nothing.
        let two = {
            let semaphore = semaphore.clone();
            tokio::spawn(async move {
                semaphore
                    .clone()
                    .acquire_owned(2)
                    .await
                    .map(|guard| guard.count())
            })
        };
        a_while().await;
        semaphore.get_ref().post(1).expect("no maximum");
        a_while().await;
        assert!(!two.is_finished(), "one of two is there");
        semaphore.get_ref().post(1).expect("no maximum");
        assert_eq!(two.await.expect("no panic").expect("two are there"), 2);
        assert_eq!(value(), 2, "the guard was dropped");
        let polled = poll_fn(|cx| semaphore.poll_acquire(cx, 2))
            .await
            .expect("two are there");
        assert_eq!(value(), 0);
        polled.release().expect("it is ours");
        let weak = Arc::downgrade(&semaphore);
        let guard = semaphore
            .clone()
            .acquire_owned(1)
            .await
            .expect("there is one");
        drop(semaphore);
        assert_eq!(
            weak.upgrade()
                .expect("the guard keeps it")
                .get_ref()
                .value(),
            Ok(1)
        );
        drop(guard);
        assert!(weak.upgrade().is_none());
    });
}

/// One that waits for two does not use up the event of one that is enough for another.
#[test]
fn who_wants_one_gets_it_beside_who_wants_two() {
    on_both(async || {
        let semaphore = Arc::new(is(Semaphore::new(0).expect("one")));
        for round in 0..50 {
            let tasks = [2, 1, 2, 1].map(|count| {
                let semaphore = semaphore.clone();
                tokio::spawn(async move { semaphore.take(count).await.map(|_| count) })
            });
            if round % 2 == 0 {
                a_while().await;
            }
            semaphore.get_ref().post(1).expect("no maximum");
            let mut ones = 0;
            while ones == 0 {
                tokio::task::yield_now().await;
                ones = tasks.iter().filter(|task| task.is_finished()).count();
            }
            // The other one is for whoever comes later, too.
            semaphore.get_ref().post(1).expect("no maximum");
            waits(semaphore.take(5)).await;
            semaphore.get_ref().post(4).expect("no maximum");
            for task in tasks {
                task.await.expect("no panic").expect("there are enough");
            }
            assert_eq!(semaphore.get_ref().value(), Ok(0));
        }
    });
}

#[test]
fn units_of_the_dead_come_back() {
    isolated(|| {
        on_both(async || {
            let semaphore = is(Semaphore::options()
                .initial(1)
                .maximum(1)
                .anonymous()
                .expect("one"));
            let taken = Ledger::new(1);
            let child = spawn(|| {
                semaphore
                    .get_ref()
                    .acquire()
                    .expect("there is one")
                    .forget();
                taken[0].store(1, SeqCst);
                sleep_forever();
            });
            while taken[0].load(SeqCst) == 0 {
                a_while().await;
            }
            let (guard, ()) = tokio::join!(semaphore.acquire(), async {
                a_while().await;
                child.destroy();
            });
            assert!(guard.expect("it came back").owner_died());
        });
    });
}

/// Acquires that are dropped at any moment leave nothing acquired.
#[test]
fn a_storm_of_dropped_acquires_keeps_the_count() {
    on_both(async || {
        let semaphore = Arc::new(is(Semaphore::options()
            .initial(3)
            .maximum(3)
            .anonymous()
            .expect("one")));
        let rounds = scaled(200);
        let tasks: Vec<_> = (0..4)
            .map(|n| {
                let semaphore = semaphore.clone();
                let mut rng = Rng::from_env(&format!("acquires {n}"));
                tokio::spawn(async move {
                    for _ in 0..rounds {
                        let limit = Duration::from_micros(rng.below(300));
                        let acquire = semaphore.acquire_many(1 + rng.below(3));
                        if let Ok(guard) = timeout(limit, acquire).await {
                            let guard = guard.expect("it can be had");
                            tokio::task::yield_now().await;
                            drop(guard);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        let info = semaphore.get_ref().info().expect("it is there");
        assert_eq!((info.value, info.waiting_receivers), (3, 0));
    });
}

#[test]
fn a_latch_opens_for_all_who_wait() {
    on_both(async || {
        let latch = Arc::new(is(Latch::new(2).expect("one")));
        waits(latch.wait()).await;
        let tasks: Vec<_> = (0..5)
            .map(|n| {
                let latch = latch.clone();
                tokio::spawn(async move {
                    match n {
                        0 => poll_fn(|cx| latch.poll_wait(cx)).await,
                        _ => latch.wait().await,
                    }
                })
            })
            .collect();
        a_while().await;
        latch.get_ref().count_down().expect("two are left");
        a_while().await;
        assert!(tasks.iter().all(|task| !task.is_finished()));
        latch.get_ref().count_down().expect("one is left");
        for task in tasks {
            task.await.expect("no panic").expect("it is open");
        }
        latch.wait().await.expect("it stays open");
    });
}

/// poll says of a broken latch that there is an error, and nothing else.
#[test]
fn a_latch_that_breaks_tells_who_waits() {
    on_both(async || {
        for polled in [false, true] {
            let latch = is(Latch::new(1).expect("one"));
            let participant = latch.get_ref().join().expect("it is not open");
            let wait = async {
                match polled {
                    true => poll_fn(|cx| latch.poll_wait(cx)).await,
                    false => latch.wait().await,
                }
            };
            let (waited, ()) = tokio::join!(wait, async {
                a_while().await;
                drop(participant);
            });
            assert_eq!(kind(waited), ErrorKind::OwnerDied, "polled: {polled}");
            // It can be opened all the same.
            latch.get_ref().count_down().expect("one is left");
            latch.wait().await.expect("it is open");
        }
    });
}

#[test]
fn a_barrier_lets_all_go_on_together() {
    on_both(async || {
        let barrier = Arc::new(is(Barrier::new(4).expect("one")));
        let arrived = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (barrier, arrived) = (barrier.clone(), arrived.clone());
                tokio::spawn(async move {
                    let mut led = 0;
                    for round in 1..=10 {
                        arrived.fetch_add(1, SeqCst);
                        let result = barrier.wait().await.expect("all come");
                        assert!(arrived.load(SeqCst) >= 4 * round, "somebody was not there");
                        led += usize::from(result.is_leader());
                    }
                    led
                })
            })
            .collect();
        let mut led = 0;
        for task in tasks {
            led += task.await.expect("no panic");
        }
        assert_eq!(led, 10, "one leads in each round");
        still_blocks(&*barrier);
    });
}

#[test]
fn an_arrival_that_is_dropped_is_taken_back() {
    on_both(async || {
        let barrier = is(Barrier::new(2).expect("one"));
        for _ in 0..5 {
            waits(barrier.wait()).await;
            assert_eq!(barrier.get_ref().info().expect("it is there").value, 0);
        }
        let (one, two) = tokio::join!(barrier.wait(), barrier.wait());
        let led = [one, two].map(|waited| waited.expect("both are there").is_leader());
        assert!(led[0] != led[1]);
        // With somebody who waits in a call.
        let other = barrier.get_ref().try_clone().expect("a handle");
        let thread = std::thread::spawn(move || other.wait());
        barrier.wait().await.expect("both are there");
        thread.join().expect("no panic").expect("both are there");

        let member = barrier.get_ref().join().expect("none has joined");
        let (waited, ()) = tokio::join!(barrier.wait(), async {
            a_while().await;
            drop(member);
        });
        assert_eq!(kind(waited), ErrorKind::OwnerDied);
    });
}

#[test]
fn a_loan_waits_for_a_block_of_whoever_has_it() {
    for keep in [0, 2] {
        on_both(async || {
            let pool = Pool::options()
                .keep(keep)
                .anonymous(4, 4096)
                .expect("a pool");
            let pool = Arc::new(is(pool));
            let mut loans = Vec::new();
            for _ in 0..4 {
                loans.push(pool.loan(10).await.expect("one is free"));
            }
            waits(pool.loan(10)).await;
            assert_eq!(
                kind(pool.loan(5000).await),
                ErrorKind::TooLarge {
                    len: 5000,
                    limit: 4096
                }
            );
            // This process gives it back itself, which it would otherwise keep for the next loan.
            let waiting = {
                let pool = pool.clone();
                tokio::spawn(async move { pool.loan(10).await.map(|loan| loan.len()) })
            };
            a_while().await;
            assert!(!waiting.is_finished());
            drop(loans.pop());
            assert_eq!(waiting.await.expect("no panic").expect("it came back"), 10);
            loans.clear();
            // Several at once, of which none may keep what the other waits for.
            let tasks: Vec<_> = (0..8)
                .map(|_| {
                    let pool = pool.clone();
                    tokio::spawn(async move {
                        for _ in 0..scaled(50) {
                            let loan = pool.loan(10).await.expect("one comes back");
                            tokio::task::yield_now().await;
                            drop(loan);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("no panic");
            }
            pool.get_ref().flush();
            assert_eq!(pool.get_ref().info().expect("it is there").value, 4);
            still_blocks(pool.get_ref());
        });
    }
}

/// Blocks that come back with a message, and those that a call borrows ahead, are not kept from who waits.
#[test]
fn blocks_that_are_borrowed_ahead_are_not_kept_from_who_waits() {
    on_both(async || {
        let pool = Pool::options().keep(8).anonymous(16, 64).expect("a pool");
        let (sender, receiver) = bounded(64);
        let pool = Arc::new(is(pool));
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let (pool, receiver) = (
                    pool.clone(),
                    receiver.get_ref().try_clone().expect("a handle"),
                );
                tokio::task::spawn_blocking(move || {
                    // They borrow in calls, beside those who wait for events.
                    for _ in 0..scaled(100) {
                        let loan = pool.get_ref().loan(8).expect("one comes back");
                        drop(receiver.recv_buffers_with(pool.get_ref(), Wait::Never));
                        drop(loan);
                    }
                })
            })
            .collect();
        let sending: Vec<_> = (0..4)
            .map(|_| {
                let (pool, sender) = (
                    pool.clone(),
                    is(sender.get_ref().try_clone().expect("a handle")),
                );
                tokio::spawn(async move {
                    for _ in 0..scaled(50) {
                        let loan = pool.loan(8).await.expect("one comes back");
                        sender.send_buffer(loan).await.expect("room");
                    }
                })
            })
            .collect();
        let receiving = {
            let pool = pool.clone();
            tokio::spawn(
                async move { while receiver.recv_buffers(pool.get_ref()).await.is_ok() {} },
            )
        };
        for task in tasks.into_iter().chain(sending) {
            task.await.expect("no panic");
        }
        drop(sender);
        receiving.await.expect("no panic");
        pool.get_ref().flush();
        assert_eq!(pool.get_ref().info().expect("it is there").value, 16);
    });
}
