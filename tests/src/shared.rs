//! Memory and gates shared with forked children.

use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use crate::check;

/// Zeroed words that stay shared after fork: what a child counts here outlives it, however it dies.
#[derive(Debug)]
pub struct Ledger {
    words: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the value alone, is freed only when it is dropped, and holds nothing but atomics.
unsafe impl Send for Ledger {}
// SAFETY: as above; atomics may be used from several threads.
unsafe impl Sync for Ledger {}

impl Ledger {
    /// `len` words, all zero.
    pub fn new(len: usize) -> Self {
        let bytes = len.max(1) * size_of::<AtomicU64>();
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(
            at != libc::MAP_FAILED,
            "mmap of {bytes} bytes: {}",
            std::io::Error::last_os_error()
        );
        Ledger {
            words: NonNull::new(at.cast()).expect("mmap does not return NULL"),
            len,
        }
    }
}

impl Deref for Ledger {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has `len` words, aligned to a page and zeroed, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, and nobody borrows it any more.
        unsafe {
            libc::munmap(
                self.words.as_ptr().cast(),
                self.len.max(1) * size_of::<AtomicU64>(),
            )
        };
    }
}

/// A counting gate between processes: `pass` waits until somebody has opened it once more.
#[derive(Debug)]
pub struct Gate(OwnedFd);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        // SAFETY: no pointers; the result is checked.
        let fd = check("eventfd", unsafe {
            libc::eventfd(0, libc::EFD_SEMAPHORE | libc::EFD_CLOEXEC)
        });
        // SAFETY: a descriptor that eventfd just returned, owned by nobody else.
        Gate(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Lets `n` through.
    pub fn open(&self, n: u64) {
        // SAFETY: eight readable bytes.
        let done = unsafe { libc::write(self.0.as_raw_fd(), (&raw const n).cast(), 8) };
        assert_eq!(
            done,
            8,
            "eventfd write: {}",
            std::io::Error::last_os_error()
        );
    }

    /// Waits to be let through.
    #[track_caller]
    pub fn pass(&self) {
        crate::wait_readable("the gate to be opened", &self.0);
        let mut n = 0u64;
        // SAFETY: eight writable bytes.
        let done = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut n).cast(), 8) };
        assert_eq!(done, 8, "eventfd read: {}", std::io::Error::last_os_error());
    }
}

impl Default for Gate {
    fn default() -> Self {
        Gate::new()
    }
}
