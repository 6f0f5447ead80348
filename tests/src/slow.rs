//! Memory whose page faults another thread or process ends: it stops the kernel in the middle of a copy.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use crate::check;

/// The size of a page.
pub const PAGE: usize = 4096;

const UFFD_API: u64 = 0xAA;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

/// One page that is not there: who touches it sleeps until `Fault::resolve`.
#[derive(Debug)]
pub struct SlowPage {
    at: NonNull<u8>,
    uffd: OwnedFd,
}

// SAFETY: the mapping belongs to the value, and what is done with its bytes goes through raw pointers.
unsafe impl Send for SlowPage {}
// SAFETY: as above.
unsafe impl Sync for SlowPage {}

impl SlowPage {
    /// A page that is missing.
    pub fn new() -> Self {
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
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) }
            as i32;
        // SAFETY: a descriptor that was just made, owned by nobody else.
        let uffd = unsafe { OwnedFd::from_raw_fd(check("userfaultfd", fd)) };
        let mut api = [UFFD_API, 0, 0];
        // SAFETY: the request takes a struct uffdio_api, which is three words.
        check("UFFDIO_API", unsafe {
            libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr())
        });
        let mut register = [at as u64, PAGE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
        // SAFETY: the request takes a struct uffdio_register, which is four words, and the range is the mapping above.
        check("UFFDIO_REGISTER", unsafe {
            libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr())
        });
        SlowPage {
            at: NonNull::new(at.cast()).expect("mmap does not return NULL"),
            uffd,
        }
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }

    /// The one who can end the fault; works from another process, too.
    pub fn fault(&self) -> Fault {
        Fault {
            uffd: self.uffd.try_clone().expect("a descriptor can be copied"),
            address: self.address(),
        }
    }

    /// The first bytes, once the page is there.
    pub fn read(&self, len: usize) -> Vec<u8> {
        assert!(len <= PAGE);
        // SAFETY: within the mapping; nobody writes to it after the fault is over.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), len) }.to_vec()
    }
}

impl Default for SlowPage {
    fn default() -> Self {
        SlowPage::new()
    }
}

impl Drop for SlowPage {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        unsafe { libc::munmap(self.at.as_ptr().cast(), PAGE) };
    }
}

/// The other end of a `SlowPage`.
#[derive(Debug)]
pub struct Fault {
    uffd: OwnedFd,
    address: u64,
}

impl Fault {
    /// From the parts, in another process.
    pub fn from_parts(uffd: OwnedFd, address: u64) -> Self {
        Fault { uffd, address }
    }

    /// Waits until somebody touched the page, and sleeps in that.
    #[track_caller]
    pub fn wait(&self) {
        crate::wait_readable("somebody to touch the page", &self.uffd);
        let mut message = [0u8; 32];
        // SAFETY: 32 writable bytes, the size of a struct uffd_msg.
        let got = unsafe {
            libc::read(
                self.uffd.as_raw_fd(),
                message.as_mut_ptr().cast(),
                message.len(),
            )
        };
        assert_eq!(
            got,
            32,
            "userfaultfd read: {}",
            std::io::Error::last_os_error()
        );
    }

    /// Puts a page with these bytes there, and wakes who waits for it.
    pub fn resolve(&self, bytes: &[u8]) {
        #[repr(C, align(4096))]
        struct Page([u8; PAGE]);
        let mut page = Box::new(Page([0; PAGE]));
        page.0[..bytes.len()].copy_from_slice(bytes);
        let mut copy = [self.address, page.0.as_ptr() as u64, PAGE as u64, 0, 0];
        // SAFETY: the request takes a struct uffdio_copy, which is five words; the source is a page of our own and the
        // destination one that is missing, of which nobody holds a reference.
        check("UFFDIO_COPY", unsafe {
            libc::ioctl(self.uffd.as_raw_fd(), UFFDIO_COPY, copy.as_mut_ptr())
        });
    }
}

impl AsFd for Fault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.uffd.as_fd()
    }
}
