//! Threads that borrow, and end when one of them fails.
//!
//! `std::thread::scope` waits for all its threads. Where one fails that the others wait for, it waits for ever, and what the
//! failure said is in the buffer of a test that never ends. Here a failure is printed at once, and if the other threads
//! make no progress after it, the process ends.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use crate::watchdog::{Watch, start};

/// The scopes of this process that are not over.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Whether a panic is to be printed at once.
pub(crate) fn open() -> bool {
    OPEN.load(Ordering::Relaxed) != 0
}

/// Time in which the other threads may end by themselves after a failure.
const GRACE: Duration = Duration::from_secs(3);

/// A failure in the scope, and the watch that it has started.
#[derive(Debug, Default)]
struct State {
    failed: AtomicBool,
    watch: Mutex<Option<Watch>>,
}

impl State {
    /// Runs one thread's part.
    fn part<T>(&self, f: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
            if !self.failed.swap(true, Ordering::Relaxed) {
                let what = "a thread of a scope failed (above), and the others wait for it";
                let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
                *watch = Some(start(what.into(), GRACE));
            }
            resume_unwind(panic)
        })
    }
}

/// Where threads are started that may borrow.
#[derive(Debug)]
pub struct Scope<'scope, 'env: 'scope> {
    inner: &'scope std::thread::Scope<'scope, 'env>,
    state: Arc<State>,
}

impl<'scope> Scope<'scope, '_> {
    /// Starts a thread.
    pub fn spawn<T: Send + 'scope>(
        &self,
        f: impl FnOnce() -> T + Send + 'scope,
    ) -> ScopedJoinHandle<'scope, T> {
        let state = self.state.clone();
        self.inner.spawn(move || state.part(f))
    }
}

/// Runs the closure and the threads that it starts, and waits for all of them, as `std::thread::scope` does; a failure in one
/// does not leave the others waiting.
pub fn scope<'env, T>(f: impl for<'scope> FnOnce(&Scope<'scope, 'env>) -> T) -> T {
    struct Closes;
    impl Drop for Closes {
        fn drop(&mut self) {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }
    crate::child::report_panics();
    OPEN.fetch_add(1, Ordering::Relaxed);
    let _closes = Closes;
    // Dropped when all threads have ended, and the watch with it.
    let state = Arc::new(State::default());
    std::thread::scope(|inner| {
        let scope = Scope {
            inner,
            state: state.clone(),
        };
        state.part(|| f(&scope))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_returns_what_its_closure_does() {
        let word = String::from("borrowed");
        let length = scope(|scope| scope.spawn(|| word.len()).join().expect("it counts"));
        assert_eq!(length, 8);
    }

    /// The failed thread would have opened the gate.
    #[test]
    fn scope_with_failed_thread_does_not_wait_for_ever() {
        let child = crate::spawn(|| {
            scope(|scope| {
                scope.spawn(|| panic!("(this failure is expected)"));
                crate::sleep_forever();
            });
        });
        child.panics();
    }

    #[test]
    fn scope_with_failed_closure_does_not_wait_for_ever() {
        let child = crate::spawn(|| {
            scope(|scope| {
                scope.spawn(crate::sleep_forever);
                panic!("(this failure is expected)");
            });
        });
        child.panics();
    }

    #[test]
    fn scope_with_failed_thread_fails() {
        let child = crate::spawn(|| {
            scope(|scope| {
                scope.spawn(|| panic!("(this failure is expected)"));
            });
        });
        child.panics();
    }
}
