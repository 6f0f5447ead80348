//! The process that a value belongs to. A `fork` copies values like a delivery or a permit, but not what they
//! stand for: that stays the parent's, and the child's copy must not end it.

use crate::memory::OwnPage;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The process in which something was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Home(u64);

/// The last number that this process or an ancestor of it has had. A child begins with its parent's, so
/// that numbers grow along a line of descent, and none is used twice in it.
static LAST: AtomicU64 = AtomicU64::new(0);

/// This process's number: 0 in a child that has not asked for one yet. `None`: there is no memory for it.
static PAGE: OnceLock<Option<OwnPage>> = OnceLock::new();

impl Home {
    /// This process.
    #[inline]
    pub(crate) fn here() -> Self {
        match PAGE.get() {
            Some(Some(page)) if page.load() != 0 => Home(page.load()),
            _ => Self::slowly(),
        }
    }

    /// Whether it is this process, and not an ancestor of it.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        self == Self::here()
    }

    #[cold]
    fn slowly() -> Self {
        match PAGE.get_or_init(|| OwnPage::new().ok()) {
            Some(page) => Home(page.claim(LAST.fetch_add(1, Relaxed) + 1)),
            // Numbers of processes are used again, but not while both are there.
            None => Home(1 << 63 | u64::from(std::process::id())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(miri))] // It has no madvise.
    fn home_is_one_for_all_threads() {
        let here = Home::here();
        assert!(here.is_here());
        let there = std::thread::spawn(Home::here).join().unwrap();
        assert_eq!(here, there);
        assert!(!Home(here.0 + 1).is_here());
    }
}
