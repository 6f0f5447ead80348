//! What the tests of the library's types have in common.

use std::os::fd::AsRawFd;
use std::thread::JoinHandle;

use postbox::{Capacity, Error, ErrorKind, Mailbox, Receiver, Sender};
use postbox_tests::check;

/// Why it failed.
#[track_caller]
pub fn kind<T>(result: Result<T, impl Into<Error>>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error.into().kind,
    }
}

/// A mailbox without a name.
pub fn mailbox(capacity: Capacity) -> Mailbox {
    Mailbox::options()
        .capacity(capacity)
        .anonymous()
        .expect("a mailbox without a name can be made")
}

/// The two sides of one.
pub fn sides(capacity: Capacity) -> (Sender, Receiver) {
    mailbox(capacity).split().expect("it has both rights")
}

/// Closes this process's copy of a descriptor. For a forked child, which never drops what its parent owns.
pub fn close_copy(fd: &impl AsRawFd) {
    // SAFETY: a child of `spawn` ends without dropping what it shares with its parent, and the closure does not use
    // this handle after it.
    check("close", unsafe { libc::close(fd.as_raw_fd()) });
}

/// The result of a thread; its panic is this one's.
pub fn join<T>(thread: JoinHandle<T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
