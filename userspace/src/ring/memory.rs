//! Where the memory of a ring comes from.

use super::core::{Area, Head, Side, Status, Tails};
use super::index::{Geometry, UNIT};
use crate::trust::Trust;
use crate::{memory, sys};
use rustix::fd::BorrowedFd;
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous};
#[cfg(not(miri))]
use rustix::{mm::munmap, param::page_size};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const STATUS: usize = sys::POSTBOX_RING_STATUS_PAGE as usize;
const HEAD: usize = sys::POSTBOX_RING_HEAD_PAGE as usize;
const TAIL: usize = sys::POSTBOX_RING_TAIL_PAGE as usize;
const DATA: usize = sys::POSTBOX_RING_DATA_PAGE as usize;

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(
        size_of::<Status>() == size_of::<sys::postbox_ring_status>()
            && offset_of!(Status, state) == offset_of!(sys::postbox_ring_status, state)
            && offset_of!(Status, producers) == offset_of!(sys::postbox_ring_status, producers)
            && offset_of!(Head, head) == offset_of!(sys::postbox_ring_head, head)
            && offset_of!(Tails, tail) == offset_of!(sys::postbox_ring_tail, tail)
            && offset_of!(Tails, lock) == offset_of!(sys::postbox_ring_tail, lock)
    );
};

/// Pages that are unmapped in the end.
struct Pages {
    at: NonNull<c_void>,
    len: usize,
}

// SAFETY: it is an address.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

// Miri has no shared mappings; ordinary memory does for threads.
#[cfg(miri)]
mod miri {
    pub(super) fn page_size() -> usize {
        4096
    }

    pub(super) fn layout(len: usize) -> std::alloc::Layout {
        std::alloc::Layout::from_size_align(len, page_size()).expect("a size")
    }
}
#[cfg(miri)]
use self::miri::page_size;

impl Drop for Pages {
    fn drop(&mut self) {
        #[cfg(miri)]
        // SAFETY: it was allocated so.
        return unsafe {
            std::alloc::dealloc(self.at.as_ptr().cast(), self::miri::layout(self.len))
        };
        #[cfg(not(miri))]
        // SAFETY: they were mapped by `new`, and the areas that lead here are gone.
        let _ = unsafe { munmap(self.at.as_ptr(), self.len) };
    }
}

impl Pages {
    fn new(len: usize, prot: ProtFlags, flags: MapFlags) -> Result<Self> {
        #[cfg(miri)]
        // SAFETY: the size is not zero.
        let at = {
            let _ = (prot, flags, mmap_anonymous);
            unsafe { std::alloc::alloc_zeroed(self::miri::layout(len)).cast() }
        };
        #[cfg(not(miri))]
        // SAFETY: the kernel chooses the address.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, flags)? };
        let at = NonNull::new(at).ok_or(Errno::NOMEM)?;
        Ok(Pages { at, len })
    }

    fn page(&self, number: usize) -> NonNull<c_void> {
        // SAFETY: all pages that are asked for are in it.
        unsafe { self.at.byte_add(number * page_size()) }
    }

    fn area(self, geometry: Geometry, many: bool) -> Area {
        Area {
            status: self.page(STATUS).cast(),
            head: self.page(HEAD).cast::<Head>(),
            tails: self.page(TAIL).cast(),
            data: self.page(DATA).cast(),
            geometry,
            many,
            _keeper: Arc::new(self),
        }
    }
}

/// The bytes of all of a ring.
fn extent(geometry: Geometry) -> usize {
    DATA * page_size() + 2 * geometry.bytes()
}

/// Maps the ring of a handle for one side.
pub(super) fn map(
    fd: BorrowedFd<'_>,
    side: Side,
    attached: &sys::postbox_ring_attach,
) -> Result<Area> {
    // It is the kernel that says so.
    let geometry = Geometry::new(attached.capacity).ok_or(Errno::INVAL)?;
    let all = extent(geometry);
    let pages = Pages::new(all, ProtFlags::empty(), MapFlags::PRIVATE)?;
    let (read, write) = (ProtFlags::READ, ProtFlags::READ | ProtFlags::WRITE);
    let end = all / page_size();
    let parts = match side {
        Side::Consumer => [(STATUS, HEAD, read), (HEAD, TAIL, write), (TAIL, end, read)],
        Side::Producer => [(STATUS, HEAD, read), (HEAD, TAIL, read), (TAIL, end, write)],
    };
    for (first, end, prot) in parts {
        let (at, len) = (pages.page(first), (end - first) * page_size());
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let offset = (first * page_size()) as u64;
        // SAFETY: it replaces a part of what was mapped above, and nobody knows of that yet.
        unsafe { mmap(at.as_ptr(), len, prot, flags, fd, offset)? };
    }
    Ok(pages.area(geometry, attached.options & sys::POSTBOX_O_MANY != 0))
}

/// Memory of this process and its forks. The data is there twice, but not the same: a record that
/// wraps around is behind the end, for all of them.
pub(super) fn local(geometry: Geometry, many: bool) -> Result<Area> {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let pages = Pages::new(extent(geometry), prot, MapFlags::SHARED)?;
    Ok(pages.area(geometry, many))
}

/// The longest of what is copied here and not by a call.
const SHORT: usize = 128;

/// Copies to `offset` of a record.
///
/// # Safety
/// So many bytes are reserved there, and what begins at `payload` is aligned to units.
#[inline(always)]
pub(super) unsafe fn copy_in<T: Trust>(from: &[u8], payload: NonNull<u8>, offset: usize) {
    // SAFETY: by the contract, and in all of this.
    unsafe {
        let to = payload.as_ptr().add(offset);
        let (words, rest) = from.as_chunks::<UNIT>();
        if T::ALONE {
            from.as_ptr().copy_to_nonoverlapping(to, from.len());
        } else if offset.is_multiple_of(UNIT) && rest.is_empty() && from.len() <= SHORT {
            for (i, word) in words.iter().enumerate() {
                let to = to.cast::<AtomicU64>().add(i);
                (*to).store(u64::from_ne_bytes(*word), Relaxed);
            }
        } else {
            memory::copy_in(from.as_ptr(), to, from.len());
        }
    }
}

/// Copies from `offset` of a record.
///
/// # Safety
/// So many bytes are there, and what begins at `payload` is aligned to units.
#[inline(always)]
pub(super) unsafe fn copy_out<T: Trust>(payload: NonNull<u8>, offset: usize, to: &mut [u8]) {
    // SAFETY: by the contract, and in all of this.
    unsafe {
        let (from, len) = (payload.as_ptr().add(offset).cast_const(), to.len());
        if T::ALONE {
            from.copy_to_nonoverlapping(to.as_mut_ptr(), len);
        } else if offset.is_multiple_of(UNIT) && len.is_multiple_of(UNIT) && len <= SHORT {
            let (words, _) = to.as_chunks_mut::<UNIT>();
            for (i, word) in words.iter_mut().enumerate() {
                let from = from.cast::<AtomicU64>().add(i);
                *word = (*from).load(Relaxed).to_ne_bytes();
            }
        } else {
            memory::copy_out(from, to.as_mut_ptr(), len);
        }
    }
}
