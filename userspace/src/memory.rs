//! Memory that is shared: how it is made, mapped, and copied from and to.
//!
//! Others may write it at any moment, so that there is never a reference to it but to atomics. It is
//! copied by atomic loads and stores of words, of which each is one value or another; what they
//! add up to is for the caller to check.

use memfd::{FileSeal, HugetlbSize, Memfd, MemfdOptions};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::io::{Errno, Result};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Pages of shared memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pages {
    /// Those that all memory has.
    #[default]
    Normal,
    /// Huge ones, of the size that this system has by default. The administrator sets some aside
    /// (`vm.nr_hugepages`); what is mapped takes its share of them at once.
    Huge,
    /// Huge ones of 2 MiB.
    Huge2M,
    /// Huge ones of 1 GiB.
    Huge1G,
}

/// The error number behind an error.
fn errno(error: &(dyn std::error::Error + 'static)) -> Errno {
    let io = error.downcast_ref::<std::io::Error>();
    let errno = io.and_then(Errno::from_io_error);
    errno
        .or_else(|| error.source().map(self::errno))
        .unwrap_or(Errno::IO)
}

/// A memfd of at least `size` bytes, in whole pages, that can neither grow nor shrink. With
/// `contents` it begins with them, and nobody can ever write to it again.
pub(crate) fn memfd(size: u64, pages: Pages, contents: Option<&[u8]>) -> Result<OwnedFd> {
    let options = MemfdOptions::new().allow_sealing(true);
    let options = match pages {
        Pages::Normal => Some(options),
        // The options know sizes, and not that of the system.
        Pages::Huge => None,
        Pages::Huge2M => Some(options.hugetlb(Some(HugetlbSize::Huge2MB))),
        Pages::Huge1G => Some(options.hugetlb(Some(HugetlbSize::Huge1GB))),
    };
    const NAME: &str = "postbox";
    let memfd = match options {
        Some(options) => options.create(NAME).map_err(|error| errno(&error))?,
        None => {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
            let made = rustix::fs::memfd_create(NAME, flags)?;
            Memfd::try_from_fd(made).map_err(|_| Errno::INVAL)?
        }
    };
    let page = match pages {
        Pages::Normal => rustix::param::page_size() as u64,
        _ => rustix::fs::fstat(memfd.as_file())?.st_blksize as u64,
    };
    let size = size.checked_next_multiple_of(page).ok_or(Errno::FBIG)?;
    rustix::fs::ftruncate(memfd.as_file(), size)?;
    let mut seals = vec![FileSeal::SealShrink, FileSeal::SealGrow];
    if let Some(contents) = contents {
        let len = usize::try_from(size).map_err(|_| Errno::FBIG)?;
        let map = Map::new(memfd.as_file(), 0, len, true)?;
        map.write(0, contents).ok_or(Errno::FBIG)?;
        seals.push(FileSeal::SealWrite);
    }
    seals.push(FileSeal::SealSeal);
    memfd.add_seals(&seals).map_err(|error| errno(&error))?;
    Ok(memfd.into_file().into())
}

/// A mapping of shared memory.
#[derive(Debug)]
pub(crate) struct Map {
    at: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: It is only accessed atomically, or through what its users say to be sound.
unsafe impl Send for Map {}
// SAFETY: As above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps a part of a file.
    pub(crate) fn new(fd: impl AsFd, offset: u64, len: usize, writable: bool) -> Result<Self> {
        let mut prot = ProtFlags::READ;
        prot.set(ProtFlags::WRITE, writable);
        let null = std::ptr::null_mut();
        // SAFETY: The kernel chooses where there is nothing yet.
        let at = unsafe { mmap(null, len, prot, MapFlags::SHARED, fd, offset)? };
        Ok(Map {
            at: NonNull::new(at.cast()).ok_or(Errno::NOMEM)?,
            len,
            writable,
        })
    }

    /// Its bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where it begins.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.at.as_ptr()
    }

    /// Where `len` bytes from `offset` on are, if they are in it.
    pub(crate) fn range(&self, offset: usize, len: usize) -> Option<*mut u8> {
        let end = offset.checked_add(len)?;
        // SAFETY: The offset is within the mapping.
        (end <= self.len).then(|| unsafe { self.as_ptr().add(offset) })
    }

    /// Copies from it; `None`: so many bytes are not there.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) -> Option<()> {
        let from = self.range(offset, to.len())?;
        // SAFETY: It is mapped, and the slice is valid.
        unsafe { copy_out(from, to.as_mut_ptr(), to.len()) };
        Some(())
    }

    /// Copies to it, if it is writable; `None`: so many bytes are not there, or it is not.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        let to = self.range(offset, from.len()).filter(|_| self.writable)?;
        // SAFETY: It is mapped to be written, and the slice is valid.
        unsafe { copy_in(from.as_ptr(), to, from.len()) };
        Some(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // It cannot fail: it was mapped so.
        // SAFETY: Nobody uses it any more, and nothing else was mapped there.
        let _ = unsafe { munmap(self.as_ptr().cast(), self.len) };
    }
}

/// A number that a child does not inherit: it begins with 0 there.
#[derive(Debug)]
pub(crate) struct OwnPage(Map);

impl OwnPage {
    pub(crate) fn new() -> Result<Self> {
        let len = rustix::param::page_size();
        let null = std::ptr::null_mut();
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The kernel chooses where there is nothing yet.
        let at = unsafe { mmap_anonymous(null, len, prot, MapFlags::PRIVATE)? };
        let map = Map {
            at: NonNull::new(at.cast()).ok_or(Errno::NOMEM)?,
            len,
            writable: true,
        };
        // SAFETY: The memory was mapped just now, and is this one's alone.
        unsafe { madvise(at, len, Advice::LinuxWipeOnFork)? };
        Ok(OwnPage(map))
    }

    fn number(&self) -> &AtomicU64 {
        // SAFETY: It is mapped for as long as this is there, and only accessed so.
        unsafe { AtomicU64::from_ptr(self.0.as_ptr().cast()) }
    }

    #[inline]
    pub(crate) fn load(&self) -> u64 {
        self.number().load(Relaxed)
    }

    pub(crate) fn store(&self, number: u64) {
        self.number().store(number, Relaxed);
    }

    /// Stores a number where there is none yet; returns the one that is there.
    pub(crate) fn claim(&self, number: u64) -> u64 {
        match self.number().compare_exchange(0, number, Relaxed, Relaxed) {
            Ok(_) => number,
            Err(there) => there,
        }
    }
}

/// Bytes of the largest word that can be loaded from memory that is mapped to be read only.
const WORD: usize = size_of::<usize>();

/// Of so many bytes at an address: those before the first whole word, the words, and those after.
fn parts(at: *const u8, len: usize) -> (usize, usize, usize) {
    let head = at.align_offset(WORD).min(len);
    let words = (len - head) / WORD;
    (head, words, len - head - WORD * words)
}

/// Copies from memory that others may write meanwhile, which may be mapped to be read only.
///
/// # Safety
/// Both are valid for so many bytes, `to` for this call alone; `from` does not come from a reference to
/// what is no atomic.
pub(crate) unsafe fn copy_out(mut from: *const u8, mut to: *mut u8, len: usize) {
    let (head, words, tail) = parts(from, len);
    // SAFETY: In all of this, by the contract; words are aligned on the shared side. A relaxed load
    // of at most a word is allowed in memory that cannot be written.
    unsafe {
        for _ in 0..head {
            to.write((*from.cast::<AtomicU8>()).load(Relaxed));
            (from, to) = (from.add(1), to.add(1));
        }
        for _ in 0..words {
            let word = (*from.cast::<AtomicUsize>()).load(Relaxed);
            to.cast::<usize>().write_unaligned(word);
            (from, to) = (from.add(WORD), to.add(WORD));
        }
        for _ in 0..tail {
            to.write((*from.cast::<AtomicU8>()).load(Relaxed));
            (from, to) = (from.add(1), to.add(1));
        }
    }
}

/// Copies to memory that others may access meanwhile.
///
/// # Safety
/// Both are valid for so many bytes.
pub(crate) unsafe fn copy_in(mut from: *const u8, mut to: *mut u8, len: usize) {
    let (head, words, tail) = parts(to, len);
    // SAFETY: In all of this, by the contract; words are aligned on the shared side.
    unsafe {
        for _ in 0..head {
            (*to.cast::<AtomicU8>()).store(from.read(), Relaxed);
            (from, to) = (from.add(1), to.add(1));
        }
        for _ in 0..words {
            let word = from.cast::<usize>().read_unaligned();
            (*to.cast::<AtomicUsize>()).store(word, Relaxed);
            (from, to) = (from.add(WORD), to.add(WORD));
        }
        for _ in 0..tail {
            (*to.cast::<AtomicU8>()).store(from.read(), Relaxed);
            (from, to) = (from.add(1), to.add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_exact_at_every_alignment() {
        let source: Vec<u8> = (0..64).collect();
        for offset in 0..9 {
            for len in 0..40 {
                let mut shared = [0xAAu8; 64];
                let mut back = vec![0xBBu8; len + 1];
                // SAFETY: Both are long enough.
                unsafe {
                    copy_in(source[3..].as_ptr(), shared[offset..].as_mut_ptr(), len);
                    copy_out(shared[offset..].as_mut_ptr(), back.as_mut_ptr(), len);
                }
                assert_eq!(shared[offset..][..len], source[3..][..len]);
                assert!(shared[..offset].iter().all(|byte| *byte == 0xAA));
                assert!(shared[offset + len..].iter().all(|byte| *byte == 0xAA));
                assert_eq!(back[..len], source[3..][..len]);
                assert_eq!(back[len], 0xBB);
            }
        }
    }

    #[test]
    #[cfg(not(miri))] // It has no memfd.
    fn memory_is_sealed_and_whole_pages() {
        use rustix::fs::{SealFlags, fcntl_get_seals, ftruncate};
        let page = rustix::param::page_size();
        let fd = memfd(1, Pages::Normal, None).expect("a memfd");
        let size = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        assert!(fcntl_get_seals(&fd).expect("seals").contains(size));
        assert_eq!(ftruncate(&fd, 0), Err(Errno::PERM));
        let map = Map::new(&fd, 0, page, true).expect("a mapping");
        assert_eq!(map.write(page - 1, &[7]), Some(()));
        assert_eq!(map.write(page, &[7]), None);
        assert_eq!(map.write(usize::MAX, &[7]), None);
        let mut byte = [0];
        assert_eq!(map.read(page - 1, &mut byte), Some(()));
        assert_eq!(byte, [7]);

        let fd = memfd(3, Pages::Normal, Some(b"abc")).expect("a memfd");
        assert!(
            fcntl_get_seals(&fd)
                .expect("seals")
                .contains(SealFlags::WRITE)
        );
        assert_eq!(Map::new(&fd, 0, page, true).map(drop), Err(Errno::PERM));
        let map = Map::new(&fd, 0, page, false).expect("a mapping");
        let mut bytes = [1; 5];
        assert_eq!(map.read(0, &mut bytes), Some(()));
        assert_eq!(&bytes, b"abc\0\0");
        assert_eq!(map.write(0, &[7]), None);
    }
}
