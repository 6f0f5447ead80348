//! How long a lock is held when much is in an object: what an operation costs on a mailbox with a million messages, every
//! priority and all leases of a handle, on a pipe with as many readers that wait, and on a pool of all blocks that are shared
//! as often as they can be, and with a few.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use postbox::raw::Leases;
use postbox::{raw, sys};
use rustix::io::Errno;

use crate::measure::now;
use crate::uring::WaitingReaders;

/// How much there is in a mailbox.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// Messages.
    pub messages: u32,
    /// Priorities that they have, one after the other in no order.
    pub priorities: u32,
    /// Leases of one handle.
    pub leases: u32,
}

/// A few.
pub const FEW: Filled = Filled {
    messages: 4,
    priorities: 2,
    leases: 2,
};

/// As much as the module's default limits let one user have.
pub const MANY: Filled = Filled {
    messages: 1_000_000,
    priorities: 32_768,
    leases: 4_096,
};

/// The cost of one operation: the median, and the most of all times but the three that interrupts may have fallen into.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// The operation.
    pub operation: &'static str,
    /// Half of the times cost less.
    pub median: u64,
    /// The most.
    pub most: u64,
}

type Result<T> = std::result::Result<T, Errno>;

fn send(fd: &OwnedFd, priority: u32) -> Result<()> {
    let mut args = sys::postbox_send {
        size: size_of::<sys::postbox_send>() as u32,
        flags: sys::POSTBOX_NONBLOCK,
        priority,
        ..Default::default()
    };
    // SAFETY: the request takes this struct, and no bytes.
    unsafe { raw::ioctl(fd, sys::POSTBOX_SEND, &mut args) }
}

fn receive(fd: &OwnedFd, flags: u32, pid: u32) -> Result<u64> {
    let mut args = sys::postbox_recv {
        size: size_of::<sys::postbox_recv>() as u32,
        flags: sys::POSTBOX_NONBLOCK | flags,
        pid,
        ..Default::default()
    };
    // SAFETY: the request takes this struct; the messages have no bytes.
    unsafe { raw::ioctl(fd, sys::POSTBOX_RECV, &mut args) }?;
    Ok(args.token)
}

fn settle(fd: &OwnedFd, token: u64, flags: u32) -> Result<()> {
    let mut args = sys::postbox_ack {
        size: size_of::<sys::postbox_ack>() as u32,
        flags,
        token,
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { raw::ioctl(fd, sys::POSTBOX_ACK, &mut args) }
}

const TIMES: usize = 64;

/// Measures an operation; `again` makes what it was before.
fn measure(
    operation: &'static str,
    mut one: impl FnMut() -> Result<u64>,
    mut again: impl FnMut(u64) -> Result<()>,
) -> Result<Hold> {
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let before = now();
        let done = one()?;
        times.push(now() - before);
        again(done)?;
    }
    times.sort_unstable();
    Ok(Hold {
        operation,
        median: times[TIMES / 2],
        most: times[TIMES - 4],
    })
}

/// Measures the cost of each operation on a mailbox with so much in it.
///
/// # Errors
/// Fails as the requests do.
pub fn holds(filled: Filled) -> Result<Vec<Hold>> {
    let mut holds = vec![wake_word(filled.leases.min(1000))?];
    holds.extend(pipe(filled.leases)?);
    holds.extend(pool(filled.leases as usize)?);
    let fd = raw::device()?;
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_MAILBOX,
        flags: sys::POSTBOX_O_CREATE,
        rights: sys::POSTBOX_RIGHT_SEND | sys::POSTBOX_RIGHT_RECEIVE,
        mode: 0o600,
        capacity: sys::POSTBOX_UNBOUNDED,
        ..Default::default()
    };
    raw::open(&fd, None, &mut args)?;
    for n in 0..filled.messages {
        // An odd factor: each priority comes once before any comes again.
        send(&fd, n.wrapping_mul(7919) % filled.priorities)?;
    }
    let ack = sys::POSTBOX_RECV_ACK;
    let mut leases = Vec::new();
    for _ in 0..filled.leases - 1 {
        leases.push(receive(&fd, ack, 0)?);
    }
    let (pid, requeue) = (std::process::id(), sys::POSTBOX_ACK_REQUEUE);
    let middle = filled.priorities / 2;
    let take = || receive(&fd, 0, 0);
    for (operation, priority) in [
        ("send to the head", sys::POSTBOX_PRIORITY_MAX),
        ("send into the middle", middle),
        ("send to the end", 0),
    ] {
        let send = || send(&fd, priority).map(|()| 0);
        holds.push(measure(operation, send, |_| Ok(()))?);
    }
    // So much came in with that; it goes again from the head.
    holds.push(measure("receive", take, |_| Ok(()))?);
    let lease = || receive(&fd, ack, 0);
    holds.push(measure("receive to acknowledge", lease, |token| {
        settle(&fd, token, requeue)
    })?);
    let mut requeued = 0;
    let back = || {
        let at = leases.len() / 2;
        let token = leases.swap_remove(at);
        settle(&fd, token, requeue)?;
        requeued += 1;
        Ok(0)
    };
    if filled.leases as usize > 2 * TIMES {
        holds.push(measure("give back one of the leases", back, |_| Ok(()))?);
    }
    let token = std::cell::Cell::new(receive(&fd, ack, 0)?);
    let acknowledge = || settle(&fd, token.get(), 0).map(|()| 0);
    holds.push(measure("acknowledge the last lease", acknowledge, |_| {
        token.set(receive(&fd, ack, 0)?);
        Ok(())
    })?);
    // The first time, the messages are sorted.
    receive(&fd, sys::POSTBOX_RECV_FROM, pid)?;
    let from = || receive(&fd, sys::POSTBOX_RECV_FROM, pid);
    holds.push(measure("receive from one process", from, |_| Ok(()))?);
    let nobody = || match receive(&fd, sys::POSTBOX_RECV_FROM, 1) {
        Err(Errno::AGAIN) => Ok(0),
        other => other,
    };
    holds.push(measure(
        "receive from a process that sent nothing",
        nobody,
        |_| Ok(()),
    )?);
    let sorted = || send(&fd, middle).map(|()| 0);
    holds.push(measure("send, sorted by process", sorted, |_| Ok(()))?);
    // Objects without a name, which a list passes over.
    let mut unnamed = Vec::new();
    for _ in 0..filled.leases {
        let fd = raw::device()?;
        raw::open(&fd, None, &mut args)?;
        unnamed.push(fd);
    }
    let list = || raw::list(&fd, 0, &mut [sys::postbox_info::default()]).map(|_| 0);
    holds.push(measure("list beside unnamed objects", list, |_| Ok(()))?);
    Ok(holds)
}

fn of_error(error: postbox::Error) -> Errno {
    error.errno.unwrap_or(Errno::IO)
}

/// Measures a wake-up of nobody beside so many threads that wait for another word.
fn wake_word(threads: u32) -> Result<Hold> {
    let segment = postbox::Segment::options().anonymous(4096);
    let segment = segment.map_err(of_error)?;
    let mapping = segment.attach().map_err(of_error)?;
    let awaited = sys::postbox_word {
        offset: 8,
        value: raw::attach(&segment)?,
        ..Default::default()
    };
    let word = mapping.atomic_u64(8).map_err(of_error)?;
    word.store(awaited.value, Ordering::Relaxed);
    let of_words = |offset, count| sys::postbox_word {
        offset,
        count,
        ..Default::default()
    };
    std::thread::scope(|scope| {
        let wait = || raw::wait_word(&segment, &awaited);
        let hold = (|| {
            for _ in 0..threads {
                let thread = std::thread::Builder::new().stack_size(1 << 16);
                thread.spawn_scoped(scope, wait).map_err(|_| Errno::AGAIN)?;
            }
            while raw::info(&segment)?.waiting_receivers < threads {
                std::thread::yield_now();
            }
            let wake = || raw::wake_word(&segment, &of_words(0, 1)).map(|()| 0);
            measure("wake a word beside waiters of another", wake, |_| Ok(()))
        })();
        word.store(0, Ordering::Relaxed);
        raw::wake_word(&segment, &of_words(awaited.offset, u32::MAX)).and(hold)
    })
}

/// Measures a pipe beside so many readers that wait.
fn pipe(readers: u32) -> Result<[Hold; 2]> {
    let of_io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let (rx, tx) = postbox::Pipe::options().pair().map_err(of_error)?;
    let mut waiting = WaitingReaders::new(&rx, readers as usize).map_err(of_io)?;
    if raw::info(&tx)?.waiting_receivers != readers {
        return Err(Errno::IO);
    }
    let mut room = [0u8; 1];
    let mut args = sys::postbox_io {
        size: size_of::<sys::postbox_io>() as u32,
        flags: sys::POSTBOX_TIMEOUT,
        data: room.as_mut_ptr() as u64,
        len: 1,
        timeout_ns: 1,
        ..Default::default()
    };
    // SAFETY: the request takes this struct, and writes at most one byte into `room`.
    let come = || match unsafe { raw::ioctl(&rx, sys::POSTBOX_READ, &mut args) } {
        Err(Errno::TIMEDOUT) => Ok(0),
        other => other.and(Err(Errno::IO)),
    };
    let last = measure("wait at a pipe behind its readers", come, |_| Ok(()))?;
    let write = || rustix::io::write(&tx, b"x").map(|_| 0);
    let first = measure("write for the first of them", write, |_| {
        waiting.go_on().map_err(of_io)
    })?;
    Ok([last, first])
}

/// How many leases of a pool the module ends under one hold of its lock.
const LEASES_AT_ONCE: usize = 32;

/// The most leases of a block.
const LEASES_OF_A_BLOCK: usize = 1024;

/// Measures the end of so many leases of a pool, or of as many as end under one hold, and of one that is the last of a block's
/// to be found.
fn pool(leases: usize) -> Result<[Hold; 3]> {
    let count = LEASES_AT_ONCE.min(leases);
    let (blocks, others) = match count < LEASES_AT_ONCE {
        true => (4 * TIMES, 0),
        false => (sys::POSTBOX_BLOCKS_MAX as usize, LEASES_OF_A_BLOCK - 1),
    };
    let pool = postbox::Pool::options().anonymous(blocks as u32, 64);
    let pool = pool.map_err(of_error)?;
    let dup = || raw::dup(&pool, sys::POSTBOX_RIGHT_SEND | sys::POSTBOX_RIGHT_RECEIVE);
    let borrow = |fd: &OwnedFd, count| {
        let mut blocks = vec![0; count];
        let mut args = sys::postbox_loan::default();
        raw::loan(fd, &[], &mut blocks, &mut args).map(|()| blocks)
    };
    let holder = || {
        let holder = dup()?;
        borrow(&holder, count)?;
        Ok(Some(holder))
    };
    let last = RefCell::new(holder()?);
    let close = || {
        drop(last.take());
        Ok(0)
    };
    let closed = measure("close a handle with leases of a pool", close, |_| {
        last.replace(holder()?);
        Ok(())
    })?;

    let holder = dup()?;
    let give = |blocks: &[u32]| {
        let mut args = sys::postbox_loan::default();
        raw::loan(&holder, blocks, &mut [], &mut args).map(|()| 0)
    };
    let held = RefCell::new(borrow(&holder, count)?);
    let given = measure(
        "give back as many",
        || give(&held.borrow()),
        |_| {
            held.replace(borrow(&holder, count)?);
            Ok(())
        },
    )?;

    let mailbox = raw::device()?;
    let mut args = sys::postbox_open {
        kind: sys::POSTBOX_KIND_MAILBOX,
        flags: sys::POSTBOX_O_CREATE,
        rights: sys::POSTBOX_RIGHT_SEND | sys::POSTBOX_RIGHT_RECEIVE,
        mode: 0o600,
        capacity: sys::POSTBOX_UNBOUNDED,
        ..Default::default()
    };
    raw::open(&mailbox, None, &mut args)?;
    let mut shared = borrow(&holder, TIMES)?;
    for block in &shared {
        let lease = sys::postbox_lease {
            block: *block,
            flags: sys::POSTBOX_LEASE_SHARED,
            len: 1,
        };
        let entries = vec![lease; others];
        for some in entries.chunks(sys::POSTBOX_LEASES_MAX as usize) {
            let mut leases = Leases::new(holder.as_fd()).entries(some);
            let args = sys::postbox_send::default();
            raw::send_leases(&mailbox, b"", &[], &mut leases, &args)?;
        }
    }
    let give = || give(&[shared.pop().ok_or(Errno::IO)?]);
    let found = measure("give back a lease of a shared block", give, |_| Ok(()))?;
    Ok([closed, given, found])
}
