//! Segments as the kernel sees them: sealed memfds, and mappings of handles.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use postbox::{raw, sys};

use crate::handle::{Errno, Handle, RECEIVE, Result, SEND, Wait};
use crate::{PAGE, check, tell};

/// The seals that the memory of a segment needs.
pub const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
/// To map for reading.
pub const R: i32 = libc::PROT_READ;
/// To map for reading and writing.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).expect("an error of the kernel")
}

/// A memfd of that size with those seals.
pub fn memory(size: usize, flags: u32, seals: i32) -> OwnedFd {
    // SAFETY: the name is a string; the result is checked.
    let fd = check("memfd_create", unsafe {
        libc::memfd_create(
            c"test".as_ptr(),
            libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | flags,
        )
    });
    // SAFETY: a descriptor that was just made, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: no pointers.
    check("ftruncate", unsafe {
        libc::ftruncate(fd.as_raw_fd(), size as i64)
    });
    seal(&fd, seals);
    fd
}

/// Adds seals to a memfd.
pub fn seal(fd: &OwnedFd, seals: i32) {
    // SAFETY: no pointers.
    check("F_ADD_SEALS", unsafe {
        libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals)
    });
}

/// Huge pages of 2 MiB that are set aside as long as this is there. They are the machine's, so that one test at a time
/// has some.
#[derive(Debug)]
pub struct HugePages {
    /// As many as there were.
    before: String,
    _locked: File,
}

impl HugePages {
    /// Bytes of one.
    pub const SIZE: usize = 2 << 20;
    const AT: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

    /// Sets so many aside. `None`, and says so: this machine has none at all.
    #[track_caller]
    pub fn reserve(count: usize) -> Option<Self> {
        let Ok(file) = File::open(Self::path("nr_hugepages")) else {
            tell("this kernel has no huge pages");
            return None;
        };
        // SAFETY: no pointers.
        check("flock", unsafe {
            libc::flock(file.as_raw_fd(), libc::LOCK_EX)
        });
        let pages = HugePages {
            before: Self::number("nr_hugepages").to_string(),
            _locked: file,
        };
        let mut there = 0;
        // What is free is moved together, if need be.
        for _ in 0..5 {
            fs::write(Self::path("nr_hugepages"), count.to_string()).expect("root may");
            there = Self::number("nr_hugepages");
            if there >= count {
                return Some(pages);
            }
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
        }
        assert_eq!(there, 0, "only some of {count} huge pages can be had");
        tell("no memory of this machine is free for huge pages");
        None
    }

    /// How many nobody uses.
    pub fn free(&self) -> usize {
        Self::number("free_hugepages")
    }

    /// How many somebody has mapped, and not touched yet.
    pub fn reserved(&self) -> usize {
        Self::number("resv_hugepages")
    }

    fn path(name: &str) -> String {
        format!("{}/{name}", Self::AT)
    }

    fn number(name: &str) -> usize {
        let text = fs::read_to_string(Self::path(name)).expect("the kernel tells");
        text.trim().parse().expect("a number")
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::path("nr_hugepages"), &self.before);
    }
}

/// A new segment, or that of the name.
#[derive(Clone, Copy, Debug)]
pub struct MakeSegment {
    /// `POSTBOX_O_*`.
    pub flags: u32,
    /// `POSTBOX_RIGHT_*`.
    pub rights: u32,
    /// Permission bits.
    pub mode: u32,
}

impl Default for MakeSegment {
    /// To create or open, with both rights, for the owner.
    fn default() -> Self {
        MakeSegment {
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND | RECEIVE,
            mode: 0o600,
        }
    }
}

impl MakeSegment {
    /// Makes one of this memory, or opens one without.
    pub fn open<'n>(
        &self,
        name: impl Into<Option<&'n str>>,
        memfd: Option<&OwnedFd>,
    ) -> Result<Handle> {
        let handle = Handle::unbound();
        self.bind(&handle, name, memfd)?;
        Ok(handle)
    }

    /// Binds that handle.
    pub fn bind<'n>(
        &self,
        handle: &Handle,
        name: impl Into<Option<&'n str>>,
        memfd: Option<&OwnedFd>,
    ) -> Result<()> {
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_SEGMENT,
            flags: self.flags,
            rights: self.rights,
            mode: self.mode,
            ..Default::default()
        };
        let name = name.into().map(str::as_bytes);
        match memfd {
            Some(memfd) => raw::open_memory(handle, name, memfd.as_fd(), &mut args),
            None => raw::open(handle, name, &mut args),
        }
    }
}

impl Handle {
    /// A segment of so many pages, without a name.
    pub fn segment(pages: usize) -> Handle {
        MakeSegment::default()
            .open(None, Some(&memory(pages * PAGE, 0, SEALS)))
            .expect("a segment without a name can be made")
    }

    /// Opens an existing segment.
    pub fn open_segment(name: &str, rights: u32) -> Result<Handle> {
        let (flags, mode) = (0, 0);
        MakeSegment {
            flags,
            rights,
            mode,
        }
        .open(name, None)
    }

    /// Maps it, shared.
    pub fn map(&self, offset: usize, len: usize, prot: i32) -> Result<Mapped> {
        Mapped::new(self, offset, len, prot, libc::MAP_SHARED)
    }

    /// Waits for the word at an offset; returns whether its owner is gone.
    pub fn wait_word(&self, offset: u64, value: u64, wait: Wait) -> Result<bool> {
        let args = sys::postbox_word {
            flags: wait.0,
            timeout_ns: wait.1,
            offset,
            value,
            ..Default::default()
        };
        let state = raw::wait_word(self, &args)?;
        assert_eq!(state & !sys::POSTBOX_WORD_OWNER_DIED, 0);
        Ok(state != 0)
    }

    /// Wakes so many who wait for the word at an offset.
    pub fn wake_word(&self, offset: u64, count: u32) -> Result<()> {
        let args = sys::postbox_word {
            offset,
            count,
            ..Default::default()
        };
        raw::wake_word(self, &args)
    }
}

/// A mapping, which is unmapped when this is dropped.
#[derive(Debug)]
pub struct Mapped {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: only atomics and volatile bytes are accessed through it.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps a descriptor.
    pub fn new(fd: impl AsFd, offset: usize, len: usize, prot: i32, flags: i32) -> Result<Self> {
        // SAFETY: the kernel chooses where there is nothing yet; the result is checked.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                flags,
                fd.as_fd().as_raw_fd(),
                offset as i64,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let at = NonNull::new(at.cast()).expect("mmap does not return NULL");
        Ok(Mapped { at, len })
    }

    /// Where it is.
    pub fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    fn place(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at + len <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.as_ptr().add(at) }
    }

    /// A byte.
    pub fn get(&self, at: usize) -> u8 {
        // SAFETY: within the mapping.
        unsafe { self.place(at, 1).read_volatile() }
    }

    /// Sets a byte, of a mapping that is writable.
    pub fn set(&self, at: usize, byte: u8) {
        // SAFETY: within the mapping.
        unsafe { self.place(at, 1).write_volatile(byte) };
    }

    /// A word, of a mapping that is writable.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert_eq!(at % 8, 0);
        // SAFETY: within the mapping, aligned, and accessed atomically.
        unsafe { AtomicU64::from_ptr(self.place(at, 8).cast()) }
    }

    /// What a word is.
    pub fn load(&self, at: usize) -> u64 {
        self.word(at).load(SeqCst)
    }

    /// Changes what may be done with it.
    pub fn protect(&self, prot: i32) -> Result<()> {
        // SAFETY: nobody relies on what the mapping is like.
        match unsafe { libc::mprotect(self.as_ptr().cast(), self.len, prot) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nobody refers to it.
        unsafe { libc::munmap(self.as_ptr().cast(), self.len) };
    }
}
