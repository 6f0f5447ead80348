//! Standard input and output, where this process got them open.
//!
//! Rust's runtime opens /dev/null in the place of a standard descriptor that is closed. A message that was received would vanish
//! there with success, and nothing would be sent in the place of the input. So it is looked up before the runtime does that.

use rustix::io::Errno;
use std::io::{self, Stdin, StdoutLock};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether standard input and standard output were closed when this process began.
static CLOSED: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

extern "C" fn look() {
    for (fd, closed) in CLOSED.iter().enumerate() {
        // SAFETY: it takes no pointers.
        let flags = unsafe { libc::fcntl(fd as libc::c_int, libc::F_GETFD) };
        closed.store(flags == -1, Ordering::Relaxed);
    }
}

// SAFETY: functions in this section run before `main`, on the one thread of the process; this one calls a system call and stores to
// an atomic.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

fn open(fd: usize) -> io::Result<()> {
    if CLOSED[fd].load(Ordering::Relaxed) {
        return Err(Errno::BADF.into());
    }
    Ok(())
}

/// Standard input.
pub fn input() -> io::Result<Stdin> {
    open(0)?;
    Ok(io::stdin())
}

/// Standard output.
pub fn output() -> io::Result<StdoutLock<'static>> {
    open(1)?;
    Ok(io::stdout().lock())
}
