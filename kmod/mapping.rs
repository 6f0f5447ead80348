// SPDX-License-Identifier: GPL-2.0
//! Memory that processes map: where it comes from, and who may have what of it.
//!
//! What a user process can write is hostile: it is loaded once, checked, and never looked at
//! through a reference.

use crate::{
    files,
    helpers::{self, c, RawMemory, RawPages},
};
use core::{
    mem::{size_of, MaybeUninit},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Acquire},
};
use kernel::{
    bindings,
    ffi::c_void,
    fs::File,
    prelude::*,
    sync::{aref::ARef, atomic::Atomic},
};

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

    /// The first page that is mapped, and how many are.
    pub(crate) fn pages(&self) -> (u64, u64) {
        let mut count = 0;
        // SAFETY: By the contract of `new`, and `count` is valid.
        let first = unsafe { c::postbox_vma_pages(self.as_ptr(), &mut count) };
        (first as u64, count as u64)
    }
}

/// A memfd whose size and seals can never change any more, so that nobody who maps it can get
/// SIGBUS.
pub(crate) struct Memory {
    /// A file of the memfd that can only be read, whatever the maker's can: mappings have it.
    file: ARef<File>,
    raw: RawMemory,
}

impl Memory {
    /// The one of a descriptor of the current task.
    pub(crate) fn new(fd: i32) -> Result<Self> {
        let makers = files::get(fd)?;
        let mut raw = RawMemory::default();
        // SAFETY: `makers` holds a reference to the file, and `raw` is writable.
        kernel::error::to_result(unsafe { c::postbox_memory(makers.as_ptr(), &mut raw) })?;
        // SAFETY: `makers` holds a reference to the file, which is a memfd.
        let file = unsafe { c::postbox_memory_open(makers.as_ptr()) };
        let file = NonNull::new(kernel::error::from_err_ptr(file)?).ok_or(ENOMEM)?;
        // SAFETY: It is a new file, and this is the only reference to it.
        let file = unsafe { ARef::from_raw(file.cast()) };
        Ok(Self { file, raw })
    }

    /// Allocates every page of it, which the cgroups of the current task pay for. The system call
    /// that it is part of may have to be restarted.
    pub(crate) fn reserve(&self) -> Result {
        // SAFETY: `self` holds the file, which is a memfd, and `raw` is what it is like.
        kernel::error::to_result(unsafe {
            c::postbox_memory_reserve(self.file.as_ptr(), &self.raw)
        })
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
        let (size, page_size) = (self.raw.size, self.raw.page_size);
        // SAFETY: The mapping is being made, and the file is a memfd.
        kernel::error::to_result(unsafe {
            c::postbox_memory_map(area.as_ptr(), file, size, page_size, writable)
        })
    }

    /// Where mmap() shall put it.
    pub(crate) fn place(&self, addr: usize, len: usize, offset: usize, flags: usize) -> usize {
        // SAFETY: The file is valid, and the current task calls mmap().
        unsafe { c::postbox_unmapped_area(self.file.as_ptr(), addr, len, offset, flags) }
    }

    /// The word of 64 bits at `offset`, which is aligned; `None` where there is no page, so that it
    /// is 0. May sleep.
    pub(crate) fn word(&self, offset: u64) -> Result<Option<Word>> {
        if offset % 8 != 0 || offset >= self.raw.size {
            return Err(EINVAL);
        }
        let mut pinned = core::ptr::null_mut();
        // SAFETY: The file is a memfd, `offset` is in it, and `pinned` is valid.
        let address =
            unsafe { c::postbox_memory_pin(self.file.as_ptr(), offset as i64, &mut pinned) };
        let address = kernel::error::from_err_ptr(address)?;
        Ok((!address.is_null()).then(|| Word {
            address: address.cast(),
            pinned,
        }))
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

/// Pages of the kernel that processes may map, zeroed at first.
pub(crate) struct Pages(RawPages);

// SAFETY: The pages stay where they are, and what is in them is only accessed as atomics.
unsafe impl Send for Pages {}
// SAFETY: As above.
unsafe impl Sync for Pages {}

impl Pages {
    /// So many, which the memory cgroup of the current task pays for. The last `twice` of them can
    /// be mapped once more behind them.
    pub(crate) fn new(count: usize, twice: usize) -> Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: `raw` is valid for writing; where this succeeds, all of it was written.
        unsafe {
            kernel::error::to_result(c::postbox_pages_new(raw.as_mut_ptr(), count, twice))?;
            Ok(Self(raw.assume_init()))
        }
    }

    /// Maps them. To be written, and ever made writable, only where `writable` says so.
    ///
    /// # Safety
    ///
    /// The file that is mapped keeps these pages, where they are.
    pub(crate) unsafe fn map(&self, area: &Area, writable: bool) -> Result {
        let pages = (&raw const self.0).cast_mut();
        // SAFETY: The mapping is being made. It keeps its file, and by that, the caller guarantees,
        // the pages; they are only read through `pages`.
        kernel::error::to_result(unsafe { c::postbox_pages_map(area.as_ptr(), pages, writable) })
    }

    /// Where a word is. All of them are in the pages.
    fn word<T>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        let end = self.0.count.saturating_mul(helpers::page_size());
        // What is not there would be a mistake of ours; the first word always is.
        let offset = match offset % size == 0 && offset.saturating_add(size) <= end {
            true => offset,
            false => 0,
        };
        self.0.address.cast::<u8>().wrapping_add(offset).cast()
    }

    /// The word of 32 bits at an offset.
    pub(crate) fn word32(&self, offset: usize) -> &Atomic<u32> {
        // SAFETY: It is aligned, and there as long as `self`. Whoever else has it mapped can do
        // anything to it, which to an atomic access is one value or another.
        unsafe { Atomic::from_ptr(self.word(offset)) }
    }

    /// The word of 64 bits at an offset.
    pub(crate) fn word64(&self, offset: usize) -> &Atomic<u64> {
        // SAFETY: As above.
        unsafe { Atomic::from_ptr(self.word(offset)) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `postbox_pages_new` made them, and nobody else has them. What processes have
        // mapped they keep.
        unsafe { c::postbox_pages_free(&mut self.0) };
    }
}
