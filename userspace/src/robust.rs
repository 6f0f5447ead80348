//! The lock in shared memory: a word of 64 bits that says who has it.
//!
//! It is 0, or the number of a process that the kernel keeps, and with it whether somebody waits.
//! Taking it and giving it up are one exchange each where nobody waits. Who finds it taken says so
//! in the word and sleeps in the kernel, which wakes one when it is given up, and all when a process
//! is gone: it may have had the lock, or have been about to wake somebody. The kernel says, too,
//! whether a number is that of a process that is there.
//!
//! What the sleeping is done by is a parameter, so that loom can try every order of events.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

#[cfg(loom)]
use loom::sync::atomic::AtomicU64;
#[cfg(not(loom))]
use std::sync::atomic::AtomicU64;

/// The bits that say who has it.
pub(crate) const OWNER: u64 = crate::sys::POSTBOX_WORD_OWNER;
/// Somebody waits.
const WAITERS: u64 = crate::sys::POSTBOX_WORD_WAITERS;
/// In place of an owner: what it guards was left half done, for good.
const UNRECOVERABLE: u64 = OWNER;

/// What sleeps and wakes.
pub(crate) trait Sleeper {
    type Error;

    /// Sleeps while the word is `seen`, until it is woken; returns whether the owner that `seen`
    /// names is gone.
    fn sleep(&self, seen: u64) -> Result<bool, Self::Error>;

    /// Wakes one, or all.
    fn wake(&self, all: bool);

    /// The error of a wait whose time is up.
    fn over(&self) -> Option<Self::Error>;
}

/// How a lock was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    /// As usual.
    Clean,
    /// From a process that is gone.
    OwnerDied,
    /// Not at all, nor ever again.
    Unrecoverable,
}

/// Takes the lock if it is free, without the kernel.
#[inline]
pub(crate) fn try_lock(word: &AtomicU64, me: u64) -> bool {
    word.compare_exchange(0, me, Acquire, Relaxed).is_ok()
}

/// Takes the lock. With `waits`, whoever gives it up is told to wake somebody.
pub(crate) fn lock<S: Sleeper>(
    word: &AtomicU64,
    me: u64,
    sleeper: &S,
    waits: bool,
) -> Result<Locked, S::Error> {
    // Who has slept does not know whether others still do.
    let mut mine = me;
    let mut again = false;
    loop {
        let mut seen = word.load(Relaxed);
        let exchange = |seen, new| word.compare_exchange(seen, new, Acquire, Relaxed).is_ok();
        match seen & OWNER {
            UNRECOVERABLE => return Ok(Locked::Unrecoverable),
            0 if exchange(seen, mine | (seen & WAITERS)) => return Ok(Locked::Clean),
            _ => {}
        }
        // The kernel never finds that the time is up where the word changes all the time, as only a hostile
        // process makes it. A wake-up may have come here: it is passed on.
        if again && let Some(error) = sleeper.over() {
            if waits {
                sleeper.wake(true);
            }
            return Err(error);
        }
        again = true;
        if seen & OWNER == 0 {
            continue;
        }
        if waits && seen & WAITERS == 0 {
            if !exchange(seen, seen | WAITERS) {
                continue;
            }
            seen |= WAITERS;
        }
        if sleeper.sleep(seen)? {
            if exchange(seen, mine | (seen & WAITERS)) {
                return Ok(Locked::OwnerDied);
            }
        } else {
            mine = me | WAITERS;
        }
    }
}

/// Gives the lock up, if `me` has it; for good where what it guards is half done.
pub(crate) fn unlock<S: Sleeper>(word: &AtomicU64, me: u64, sleeper: &S, consistent: bool) {
    let new = if consistent { 0 } else { UNRECOVERABLE };
    let mut seen = me;
    while let Err(now) = word.compare_exchange(seen, new, Release, Relaxed) {
        if now & OWNER != me {
            // Somebody who shares the memory has written there.
            return;
        }
        seen = now;
    }
    if seen & WAITERS != 0 {
        sleeper.wake(!consistent);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// What the word becomes while it sleeps, and what the kernel says then.
    type Sleep = (Option<u64>, Result<bool, &'static str>);

    /// Plays a list of events at each sleep.
    struct Script<'a> {
        word: &'a AtomicU64,
        sleeps: RefCell<Vec<Sleep>>,
        woken: Cell<Option<bool>>,
        over: Cell<Option<&'static str>>,
    }

    impl<'a> Script<'a> {
        fn new(word: &'a AtomicU64, sleeps: &[Sleep]) -> Self {
            let sleeps = sleeps.iter().rev().copied().collect();
            Script {
                word,
                sleeps: RefCell::new(sleeps),
                woken: Cell::new(None),
                over: Cell::new(None),
            }
        }
    }

    impl Sleeper for Script<'_> {
        type Error = &'static str;

        fn sleep(&self, seen: u64) -> Result<bool, &'static str> {
            assert_eq!(self.word.load(Relaxed), seen);
            let (word, result) = self.sleeps.borrow_mut().pop().expect("another sleep");
            if let Some(word) = word {
                self.word.store(word, Relaxed);
            }
            result
        }

        fn wake(&self, all: bool) {
            self.woken.set(Some(all));
        }

        fn over(&self) -> Option<&'static str> {
            self.over.get()
        }
    }

    #[test]
    fn a_free_lock_needs_nobody() {
        let word = AtomicU64::new(0);
        let script = Script::new(&word, &[]);
        assert!(try_lock(&word, 5));
        assert!(!try_lock(&word, 6));
        unlock(&word, 5, &script, true);
        assert_eq!(word.load(Relaxed), 0);
        assert_eq!(lock(&word, 6, &script, true), Ok(Locked::Clean));
        assert_eq!(word.load(Relaxed), 6);
        assert_eq!(script.woken.get(), None);
    }

    #[test]
    fn who_waited_does_not_forget_the_others() {
        let word = AtomicU64::new(5);
        let script = Script::new(&word, &[(Some(0), Ok(false))]);
        assert_eq!(lock(&word, 6, &script, true), Ok(Locked::Clean));
        assert_eq!(word.load(Relaxed), 6 | WAITERS);
        unlock(&word, 6, &script, true);
        assert_eq!((word.load(Relaxed), script.woken.get()), (0, Some(false)));
    }

    #[test]
    fn a_dead_owner_is_taken_over_from() {
        let word = AtomicU64::new(5 | WAITERS);
        let script = Script::new(&word, &[(None, Ok(true))]);
        assert_eq!(lock(&word, 6, &script, true), Ok(Locked::OwnerDied));
        assert_eq!(word.load(Relaxed), 6 | WAITERS);
    }

    #[test]
    fn only_one_takes_over() {
        let word = AtomicU64::new(5);
        // Another was faster, and then gives it up.
        let sleeps = [(Some(7), Ok(true)), (Some(0), Ok(false))];
        let script = Script::new(&word, &sleeps);
        assert_eq!(lock(&word, 6, &script, true), Ok(Locked::Clean));
    }

    #[test]
    fn what_is_left_half_done_stays_so() {
        let word = AtomicU64::new(6 | WAITERS);
        let script = Script::new(&word, &[]);
        unlock(&word, 6, &script, false);
        assert_eq!(script.woken.get(), Some(true));
        assert_eq!(lock(&word, 7, &script, true), Ok(Locked::Unrecoverable));
        assert!(!try_lock(&word, 7));
    }

    #[test]
    fn a_try_leaves_no_trace() {
        let word = AtomicU64::new(5);
        let script = Script::new(&word, &[(None, Err("taken"))]);
        assert_eq!(lock(&word, 6, &script, false), Err("taken"));
        assert_eq!(word.load(Relaxed), 5);
    }

    #[test]
    fn a_wait_ends_in_time_though_the_word_changes_in_each_sleep() {
        let word = AtomicU64::new(5);
        let script = Script::new(&word, &[(Some(7), Ok(false))]);
        script.over.set(Some("late"));
        assert_eq!(lock(&word, 6, &script, true), Err("late"));
        // Whoever it was that the wake-up was for.
        assert_eq!(script.woken.get(), Some(true));
        // What is free is taken all the same.
        let script = Script::new(&word, &[(Some(0), Ok(false))]);
        script.over.set(Some("late"));
        assert_eq!(lock(&word, 6, &script, true), Ok(Locked::Clean));
    }

    #[test]
    fn an_unlock_touches_nobody_elses_lock() {
        for value in [0, 7, 7 | WAITERS, UNRECOVERABLE] {
            let word = AtomicU64::new(value);
            let script = Script::new(&word, &[]);
            unlock(&word, 6, &script, true);
            assert_eq!((word.load(Relaxed), script.woken.get()), (value, None));
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    /// The kernel, which has one lock, and knows who is there.
    struct Kernel {
        word: AtomicU64,
        guarded: UnsafeCell<u32>,
        inner: Mutex<Inner>,
        changed: Condvar,
    }

    struct Inner {
        alive: Vec<u64>,
        /// Those who sleep, in their order.
        asleep: Vec<u32>,
        next: u32,
    }

    impl Kernel {
        fn new(alive: &[u64]) -> Arc<Self> {
            Arc::new(Kernel {
                word: AtomicU64::new(0),
                guarded: UnsafeCell::new(0),
                inner: Mutex::new(Inner {
                    alive: alive.to_vec(),
                    asleep: Vec::new(),
                    next: 0,
                }),
                changed: Condvar::new(),
            })
        }

        /// A process is gone, wherever it was.
        fn dies(&self, who: u64) {
            let mut inner = self.inner.lock().unwrap();
            inner.alive.retain(|id| *id != who);
            inner.asleep.clear();
            self.changed.notify_all();
        }

        /// What it guards is only touched by who has it.
        fn touch(&self) {
            // SAFETY: the caller has the lock; that it excludes others is what loom checks here.
            self.guarded.with_mut(|at| unsafe { *at += 1 });
        }
    }

    impl Sleeper for Kernel {
        type Error = ();

        fn sleep(&self, seen: u64) -> Result<bool, ()> {
            let mut inner = self.inner.lock().unwrap();
            if self.word.load(Acquire) != seen {
                return Ok(false);
            }
            if !inner.alive.contains(&(seen & OWNER)) {
                return Ok(true);
            }
            let me = inner.next;
            inner.next += 1;
            inner.asleep.push(me);
            while inner.asleep.contains(&me) {
                inner = self.changed.wait(inner).unwrap();
            }
            Ok(false)
        }

        fn wake(&self, all: bool) {
            let mut inner = self.inner.lock().unwrap();
            if all {
                inner.asleep.clear();
            } else if !inner.asleep.is_empty() {
                inner.asleep.remove(0);
            }
            self.changed.notify_all();
        }

        fn over(&self) -> Option<()> {
            None
        }
    }

    fn model(test: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(test);
    }

    #[test]
    fn one_at_a_time_and_nobody_sleeps_for_ever() {
        model(|| {
            let kernel = Kernel::new(&[1, 2, 3]);
            let threads: Vec<_> = [1, 2]
                .map(|me| {
                    let kernel = kernel.clone();
                    thread::spawn(move || {
                        assert_eq!(lock(&kernel.word, me, &*kernel, true), Ok(Locked::Clean));
                        kernel.touch();
                        unlock(&kernel.word, me, &*kernel, true);
                    })
                })
                .into();
            assert_eq!(lock(&kernel.word, 3, &*kernel, true), Ok(Locked::Clean));
            kernel.touch();
            unlock(&kernel.word, 3, &*kernel, true);
            for thread in threads {
                thread.join().unwrap();
            }
            // SAFETY: all threads have been joined.
            kernel.guarded.with(|at| assert_eq!(unsafe { *at }, 3));
        });
    }

    #[test]
    fn the_lock_of_a_dead_process_is_got_by_one_who_is_told() {
        model(|| {
            let kernel = Kernel::new(&[1, 2, 3]);
            assert!(try_lock(&kernel.word, 1));
            let waits = {
                let kernel = kernel.clone();
                thread::spawn(move || {
                    let locked = lock(&kernel.word, 2, &*kernel, true).unwrap();
                    kernel.touch();
                    unlock(&kernel.word, 2, &*kernel, true);
                    locked
                })
            };
            let dies = {
                let kernel = kernel.clone();
                thread::spawn(move || {
                    kernel.touch();
                    kernel.dies(1);
                })
            };
            let mine = lock(&kernel.word, 3, &*kernel, true).unwrap();
            kernel.touch();
            unlock(&kernel.word, 3, &*kernel, true);
            dies.join().unwrap();
            let theirs = waits.join().unwrap();
            let told = [mine, theirs]
                .iter()
                .filter(|how| **how == Locked::OwnerDied)
                .count();
            assert_eq!(told, 1, "{mine:?} {theirs:?}");
        });
    }

    #[test]
    fn a_death_between_unlock_and_wake_strands_nobody() {
        model(|| {
            let kernel = Kernel::new(&[1, 2]);
            assert!(try_lock(&kernel.word, 1));
            let dies = {
                let kernel = kernel.clone();
                thread::spawn(move || {
                    kernel.touch();
                    // It gives up, and is killed before it can wake.
                    kernel.word.swap(0, Release);
                    kernel.dies(1);
                })
            };
            assert_eq!(lock(&kernel.word, 2, &*kernel, true), Ok(Locked::Clean));
            kernel.touch();
            unlock(&kernel.word, 2, &*kernel, true);
            dies.join().unwrap();
        });
    }

    #[test]
    fn all_learn_that_it_is_unrecoverable() {
        model(|| {
            let kernel = Kernel::new(&[1, 2]);
            assert!(try_lock(&kernel.word, 1));
            let waits = {
                let kernel = kernel.clone();
                thread::spawn(move || lock(&kernel.word, 2, &*kernel, true))
            };
            unlock(&kernel.word, 1, &*kernel, false);
            assert_eq!(waits.join().unwrap(), Ok(Locked::Unrecoverable));
        });
    }
}
