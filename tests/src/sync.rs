//! Semaphores, latches and barriers as the kernel sees them.

use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use postbox::{raw, sys};

use crate::handle::{Handle, RECEIVE, Result, SEND, Wait};
use crate::{PAGE, check};

/// What is acquired or released is given back when the process dies.
pub const UNDO: u32 = sys::POSTBOX_SYNC_UNDO;

/// A new wait object, or that of the name. `maximum` is a semaphore's.
#[derive(Clone, Copy, Debug)]
pub struct MakeSync {
    /// `POSTBOX_KIND_*`.
    pub kind: u32,
    /// `POSTBOX_O_*`.
    pub flags: u32,
    /// `POSTBOX_RIGHT_*`.
    pub rights: u32,
    /// Permission bits.
    pub mode: u32,
    /// Value, count or parties.
    pub initial: u64,
    /// The most that the value can be.
    pub maximum: u64,
}

impl MakeSync {
    /// To create or open, with both rights, for the owner.
    pub fn new(kind: u32, initial: u64, maximum: u64) -> Self {
        MakeSync {
            kind,
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND | RECEIVE,
            mode: 0o600,
            initial,
            maximum,
        }
    }

    /// A semaphore.
    pub fn semaphore(value: u64, maximum: u64) -> Self {
        MakeSync::new(sys::POSTBOX_KIND_SEMAPHORE, value, maximum)
    }

    /// A latch.
    pub fn latch(count: u64) -> Self {
        MakeSync::new(sys::POSTBOX_KIND_LATCH, count, 0)
    }

    /// A barrier.
    pub fn barrier(parties: u64) -> Self {
        MakeSync::new(sys::POSTBOX_KIND_BARRIER, parties, 0)
    }

    /// Makes or opens it.
    pub fn open<'n>(&self, name: impl Into<Option<&'n str>>) -> Result<Handle> {
        let handle = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: self.kind,
            flags: self.flags,
            rights: self.rights,
            mode: self.mode,
            initial: self.initial,
            capacity: self.maximum,
            ..Default::default()
        };
        raw::open(&handle, name.into().map(str::as_bytes), &mut args)?;
        Ok(handle)
    }
}

fn args(flags: u32, count: u64, wait: Wait) -> sys::postbox_sync {
    sys::postbox_sync {
        flags: wait.0 | flags,
        count,
        timeout_ns: wait.1,
        ..Default::default()
    }
}

impl Handle {
    /// A semaphore without a name.
    pub fn semaphore(value: u64, maximum: u64) -> Handle {
        MakeSync::semaphore(value, maximum)
            .open(None)
            .expect("a semaphore without a name can be made")
    }

    /// A latch without a name.
    pub fn latch(count: u64) -> Handle {
        MakeSync::latch(count)
            .open(None)
            .expect("a latch without a name can be made")
    }

    /// A barrier without a name.
    pub fn barrier(parties: u64) -> Handle {
        MakeSync::barrier(parties)
            .open(None)
            .expect("a barrier without a name can be made")
    }

    /// Acquires; returns whether some of it was a dead process's.
    pub fn acquire(&self, count: u64, flags: u32, wait: Wait) -> Result<bool> {
        let state = raw::acquire(self, &args(flags, count, wait))?;
        assert_eq!(state & !sys::POSTBOX_SYNC_OWNER_DIED, 0);
        Ok(state != 0)
    }

    /// Releases.
    pub fn release(&self, count: u64, flags: u32) -> Result<()> {
        raw::release(self, &args(flags, count, Wait(0, 0)))
    }

    /// Counts a latch down.
    pub fn count_down(&self, count: u64) -> Result<()> {
        raw::count_down(self, &args(0, count, Wait(0, 0)))
    }

    /// Waits for a latch or at a barrier; returns whether it leads.
    pub fn await_gate(&self, wait: Wait) -> Result<bool> {
        let state = raw::wait(self, &args(0, 1, wait))?;
        assert_eq!(state & !sys::POSTBOX_SYNC_LEADER, 0);
        Ok(state != 0)
    }

    /// Arrives at a barrier.
    pub fn arrive(&self) -> Result<()> {
        let state = raw::wait(self, &args(sys::POSTBOX_SYNC_ARRIVE, 1, Wait(0, 0)))?;
        assert_eq!(state, 0);
        Ok(())
    }

    /// Joins.
    pub fn join(&self, count: u64) -> Result<()> {
        raw::join(self, &args(0, count, Wait(0, 0)))
    }

    /// Leaves.
    pub fn leave(&self, count: u64) -> Result<()> {
        raw::leave(self, &args(0, count, Wait(0, 0)))
    }

    /// Value, count, or who has arrived.
    #[track_caller]
    pub fn value(&self) -> u64 {
        self.info().value
    }

    /// How many wait.
    #[track_caller]
    pub fn waiting(&self) -> u32 {
        let info = self.info();
        info.waiting_senders + info.waiting_receivers
    }

    /// Waits until so many wait.
    #[track_caller]
    pub fn wait_waiting(&self, n: u32) {
        crate::wait_until(&format!("{n} to wait"), || self.waiting() == n);
    }

    /// Waits until the value is this.
    #[track_caller]
    pub fn wait_value(&self, value: u64) {
        crate::wait_until(&format!("the value {value}"), || self.value() == value);
    }
}

/// An argument that the kernel can read and not write.
#[derive(Debug)]
pub struct ReadOnly(NonNull<sys::postbox_sync>);

impl ReadOnly {
    /// A copy of it.
    pub fn new(args: &sys::postbox_sync) -> Self {
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(
            at != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        let at: NonNull<sys::postbox_sync> =
            NonNull::new(at.cast()).expect("mmap does not return NULL");
        // SAFETY: the page is writable, aligned, and large enough.
        unsafe { at.write(*args) };
        // SAFETY: the page is that of the mapping, which nobody refers to.
        check("mprotect", unsafe {
            libc::mprotect(at.as_ptr().cast(), PAGE, libc::PROT_READ)
        });
        ReadOnly(at)
    }

    /// Makes a request with it; 0, or the error's number, negative.
    pub fn request(&self, handle: &Handle, request: u32) -> i32 {
        // SAFETY: the request takes the struct that is there.
        let done = unsafe { libc::ioctl(handle.as_raw_fd(), request.into(), self.0.as_ptr()) };
        match done {
            0 => 0,
            _ => -std::io::Error::last_os_error()
                .raw_os_error()
                .expect("an error of the kernel"),
        }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, and nobody refers to it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), PAGE) };
    }
}
