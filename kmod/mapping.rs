// SPDX-License-Identifier: GPL-2.0
//! Memory that processes map: where it comes from, and who may have what of it.
//!
//! What a user process can write is hostile: it is loaded once, checked, and never looked at
//! through a reference.

use crate::{
    files,
    helpers::{c, RawMemory},
};
use core::{ptr::NonNull, sync::atomic::AtomicU64, sync::atomic::Ordering::Acquire};
use kernel::{bindings, ffi::c_void, fs::File, prelude::*, sync::aref::ARef};

/// A mapping that is being made.
pub(crate) struct Area(NonNull<bindings::vm_area_struct>);

impl Area {
    /// # Safety
    ///
    /// It is the one of an mmap that is going on, for as long as this is used.
    pub(crate) unsafe fn new(vma: *mut bindings::vm_area_struct) -> Result<Self> {
        Ok(Self(NonNull::new(vma).ok_or(EINVAL)?))
    }

    pub(crate) fn as_ptr(&self) -> *mut bindings::vm_area_struct {
        self.0.as_ptr()
    }
}

/// A memfd whose size and seals can never change any more, so that nobody who maps it can get
/// SIGBUS.
pub(crate) struct Memory {
    file: ARef<File>,
    raw: RawMemory,
}

impl Memory {
    /// The one of a descriptor of the current task.
    pub(crate) fn new(fd: i32) -> Result<Self> {
        let file = files::get(fd)?;
        let mut raw = RawMemory::default();
        // SAFETY: The file is valid, and `raw` too.
        kernel::error::to_result(unsafe { c::postbox_memory(file.as_ptr(), &mut raw) })?;
        Ok(Self { file, raw })
    }

    /// Its bytes: whole pages, at least one.
    pub(crate) fn size(&self) -> u64 {
        self.raw.size
    }

    /// The bytes of one of its pages.
    pub(crate) fn page_size(&self) -> u64 {
        self.raw.page_size
    }

    /// Whether its contents can never change any more.
    pub(crate) fn frozen(&self) -> bool {
        self.raw.frozen
    }

    /// Whether it can be mapped to be written.
    pub(crate) fn writable(&self) -> bool {
        self.raw.writable
    }

    /// Maps it, from the offset on that the caller of mmap() said. To be written, and ever made
    /// writable, only where both `writable` and the memory allow that.
    pub(crate) fn map(&self, area: &Area, writable: bool) -> Result {
        let (file, writable) = (self.file.as_ptr(), writable && self.raw.writable);
        // SAFETY: The mapping is being made, and the file is a memfd.
        kernel::error::to_result(unsafe {
            c::postbox_memory_map(area.as_ptr(), file, self.raw.size, writable)
        })
    }

    /// Where mmap() shall put it.
    pub(crate) fn place(&self, addr: usize, len: usize, offset: usize, flags: usize) -> usize {
        // SAFETY: The file is valid, and the current task calls mmap().
        unsafe { c::postbox_unmapped_area(self.file.as_ptr(), addr, len, offset, flags) }
    }

    /// The word of 64 bits at `offset`, which is aligned. May sleep.
    pub(crate) fn word(&self, offset: u64) -> Result<Word> {
        if offset % 8 != 0 || offset >= self.raw.size {
            return Err(EINVAL);
        }
        let mut pinned = core::ptr::null_mut();
        // SAFETY: The file is a memfd, `offset` is in it, and `pinned` is valid.
        let address =
            unsafe { c::postbox_memory_pin(self.file.as_ptr(), offset as i64, &mut pinned) };
        let address = kernel::error::from_err_ptr(address)?;
        Ok(Word {
            address: address.cast(),
            pinned,
        })
    }
}

/// A word of memory that processes have mapped. It can be read without a page fault, and belongs to
/// the task that got it.
pub(crate) struct Word {
    address: *const u64,
    pinned: *mut c_void,
}

impl Word {
    /// What it is now.
    pub(crate) fn load(&self) -> u64 {
        // SAFETY: The page is pinned and mapped, and the address aligned. Whoever else has it
        // mapped can do anything to it, which to an atomic load is one value or another.
        unsafe { AtomicU64::from_ptr(self.address.cast_mut()) }.load(Acquire)
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        // SAFETY: Both came from `postbox_memory_pin`, in this task.
        unsafe { c::postbox_memory_unpin(self.pinned, self.address.cast()) };
    }
}
