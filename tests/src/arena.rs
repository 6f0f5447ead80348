//! Memory that the kernel is pointed to: what tests do with it is theirs to say, and no reference leads there.

use crate::{PAGE, check};

/// Memory of a test's own, with a page behind it that cannot be accessed.
#[derive(Debug)]
pub struct Arena {
    /// Where it begins.
    pub at: u64,
    /// Its bytes.
    pub len: usize,
}

impl Arena {
    /// So many pages, which are zero.
    pub fn new(pages: usize) -> Self {
        let (len, all) = (pages * PAGE, (pages + 1) * PAGE);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), all, protection, flags, -1, 0) };
        assert!(
            at != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        let arena = Arena { at: at as u64, len };
        // SAFETY: the last page of this mapping, which nothing uses.
        check("mprotect", unsafe {
            libc::mprotect(arena.end() as *mut _, PAGE, libc::PROT_NONE)
        });
        arena
    }

    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.at + self.len as u64
    }

    /// Writes bytes into it.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        assert!(address >= self.at && address + bytes.len() as u64 <= self.end());
        // SAFETY: within the mapping, to which no reference leads.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }

    /// The bytes in it.
    pub fn get(&self, address: u64, len: usize) -> Vec<u8> {
        assert!(address >= self.at && address + len as u64 <= self.end());
        let mut bytes = vec![0; len];
        // SAFETY: within the mapping, to which no reference leads.
        unsafe { std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), len) };
        bytes
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.at as *mut _, self.len + PAGE) };
    }
}

/// The bytes of an argument.
pub fn bytes<T: Copy>(args: &T) -> &[u8] {
    // SAFETY: the argument structs have no padding (their layout is checked), and are made of integers.
    unsafe { std::slice::from_raw_parts((&raw const *args).cast(), size_of::<T>()) }
}
