//! Memory that the driver has and the kernel knows: groups of buffers for multishot operations, and
//! registered buffers.

use super::core::Shared;
use super::error::SetupError;
use crate::{raw, sys};
use io_uring::types::BufRingEntry;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Anonymous memory of this process, zeroed.
#[derive(Debug)]
struct Memory {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: It is plain memory with one owner.
unsafe impl Send for Memory {}
// SAFETY: It is accessed as its users say to be sound.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(len: usize) -> Result<Self, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let len = len.max(1);
        // SAFETY: The kernel chooses where there is nothing yet.
        let at = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE)? };
        let at = NonNull::new(at.cast()).ok_or(Errno::NOMEM)?;
        Ok(Memory { at, len })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: Nobody uses it any more, and nothing else was mapped there.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// What of the ring's numbers is in use.
#[derive(Debug)]
pub(super) struct Registered {
    groups: BTreeSet<u16>,
    fixed: bool,
    files: Vec<u32>,
    /// Files that are not used any more and are still registered.
    closing: Vec<u32>,
}

impl Registered {
    pub(super) fn new(files: u32) -> Self {
        Registered {
            groups: BTreeSet::new(),
            fixed: false,
            files: (0..files).rev().collect(),
            closing: Vec::new(),
        }
    }
}

impl Shared {
    fn registered(&self) -> MutexGuard<'_, Registered> {
        self.registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among the ring's registered files. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct FixedFile {
    pub(super) index: u32,
    shared: Weak<Shared>,
}

impl FixedFile {
    pub(super) fn new(shared: &Arc<Shared>, fd: impl AsRawFd) -> io::Result<Self> {
        let index = shared.registered().files.pop().ok_or(Errno::NFILE)?;
        let file = FixedFile {
            index,
            shared: Arc::downgrade(shared),
        };
        let submitter = shared.ring().submitter();
        submitter.register_files_update(index, &[fd.as_raw_fd()])?;
        Ok(file)
    }
}

impl Drop for FixedFile {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if !shared.is_own() {
            return;
        }
        shared.registered().closing.push(self.index);
        if shared.may_register() {
            shared.close_files();
        } else {
            // The thread that may does it when it submits next.
            shared.closing.store(true, Relaxed);
            shared.kick();
        }
    }
}

impl Shared {
    /// Removes the registered files that are not used any more.
    pub(super) fn close_files(&self) {
        self.closing.store(false, Relaxed);
        let closing = std::mem::take(&mut self.registered().closing);
        for index in closing {
            let submitter = self.ring().submitter();
            if submitter.register_files_update(index, &[-1]).is_ok() {
                self.registered().files.push(index);
            }
        }
    }
}

/// A group of buffers that the kernel chooses from, for what comes to a multishot operation.
pub(super) struct Group {
    pub(super) id: u16,
    /// Bytes of one buffer, with the record in front of a message.
    stride: usize,
    mask: u16,
    ring: Memory,
    data: Memory,
    state: Mutex<State>,
    shared: Weak<Shared>,
}

#[derive(Debug, Default)]
struct State {
    /// Buffers that were supplied, and not taken by the kernel as far as is known; in their order.
    supplied: VecDeque<u16>,
    /// How many were supplied so far; the ring's tail.
    tail: u16,
    /// How many of these the kernel has taken, as far as is known.
    taken: u16,
}

impl Group {
    /// Whether it is registered with the ring of that driver.
    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        // The reference keeps the allocation, so that no other driver can have its address.
        std::ptr::eq(self.shared.as_ptr(), Arc::as_ptr(shared))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, buffer: u16) -> *mut u8 {
        // SAFETY: There are `mask + 1` buffers.
        unsafe {
            let offset = usize::from(buffer & self.mask) * self.stride;
            self.data.at.as_ptr().add(offset)
        }
    }

    /// Gives a buffer to the kernel. Nobody else may use it any more.
    fn supply(&self, state: &mut State, buffer: u16) {
        let base = self.ring.at.as_ptr().cast::<BufRingEntry>();
        // SAFETY: The ring has `mask + 1` entries, and the one at the tail is not the kernel's. The tail is
        // in a part of the first entry that is not written here, and only accessed so.
        unsafe {
            let entry = &mut *base.add(usize::from(state.tail & self.mask));
            entry.set_addr(self.place(buffer) as u64);
            entry.set_len(self.stride as u32);
            entry.set_bid(buffer);
            state.tail = state.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast_mut();
            AtomicU16::from_ptr(tail).store(state.tail, Release);
        }
        state.supplied.push_back(buffer);
    }

    /// The kernel has said that it has filled a buffer. It takes them in their order: those before it
    /// were used up without a word, as happens where the completion queue is full.
    pub(super) fn took(&self, buffer: u16) -> bool {
        let mut state = self.state();
        if !state.supplied.contains(&buffer) {
            return false;
        }
        while let Some(first) = state.supplied.pop_front() {
            state.taken = state.taken.wrapping_add(1);
            if first == buffer {
                break;
            }
            self.supply(&mut state, first);
        }
        true
    }

    /// How many buffers the kernel can take.
    pub(super) fn available(&self) -> usize {
        self.state().supplied.len()
    }

    /// The kernel's word on how many it has taken.
    fn head(&self, shared: &Shared) -> Option<u16> {
        /// `struct io_uring_buf_status`
        #[repr(C)]
        #[derive(Default)]
        struct Status {
            group: u32,
            head: u32,
            reserved: [u32; 8],
        }
        /// `IORING_REGISTER_PBUF_STATUS`
        const PBUF_STATUS: libc::c_uint = 26;
        let mut status = Status {
            group: self.id.into(),
            ..Default::default()
        };
        // SAFETY: The call writes to this struct alone.
        let result = unsafe {
            let fd = shared.ring().as_raw_fd();
            libc::syscall(
                libc::SYS_io_uring_register,
                fd,
                PBUF_STATUS,
                &raw mut status,
                1,
            )
        };
        (result == 0).then_some(status.head as u16)
    }

    /// Supplies buffers again that the kernel has used up without a word. Returns whether there were
    /// some.
    pub(super) fn reclaim(&self, shared: &Shared) -> bool {
        let Some(head) = self.head(shared) else {
            return false;
        };
        // Of all that it had taken then, it has told by now, or will not.
        if !shared.drain() {
            return false;
        }
        let mut state = self.state();
        let lost = head.wrapping_sub(state.taken);
        if lost == 0 || usize::from(lost) > state.supplied.len() {
            return false;
        }
        for _ in 0..lost {
            if let Some(buffer) = state.supplied.pop_front() {
                state.taken = state.taken.wrapping_add(1);
                self.supply(&mut state, buffer);
            }
        }
        true
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // No operation has it. Without the driver there is no ring, either.
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        if !shared.is_own() {
            return;
        }
        let submitter = shared.ring().submitter();
        if submitter.unregister_buf_ring(self.id).is_ok() {
            shared.registered().groups.remove(&self.id);
        } else {
            // The kernel still has it.
            std::mem::forget(std::mem::replace(
                &mut self.ring,
                Memory {
                    at: NonNull::dangling(),
                    len: 0,
                },
            ));
        }
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffers")
            .field("count", &(u32::from(self.mask) + 1))
            .field("size", &(self.stride - RECORD))
            .field("available", &self.available())
            .finish()
    }
}

/// Bytes in front of a message.
pub(super) const RECORD: usize = size_of::<sys::postbox_record>();

/// A group of buffers, for streams of messages and connections: [`Driver::buffers`](super::Driver::buffers).
///
/// Several streams can use one group. The memory belongs to the driver, and is given back when
/// neither this nor a stream nor a [`Record`](super::Record) has it any more.
#[derive(Clone)]
pub struct Buffers {
    pub(super) group: Arc<Group>,
}

impl Buffers {
    pub(super) fn new(shared: &Arc<Shared>, count: u16, size: usize) -> Result<Self, SetupError> {
        let count = count
            .checked_next_power_of_two()
            .filter(|count| (1..=1 << 15).contains(count))
            .ok_or(Errno::INVAL)?;
        let stride = size
            .checked_add(RECORD)
            .and_then(|len| len.checked_next_multiple_of(8))
            .filter(|&stride| u32::try_from(stride).is_ok())
            .ok_or(Errno::INVAL)?;
        let len = stride.checked_mul(usize::from(count)).ok_or(Errno::NOMEM)?;
        let ring = Memory::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let data = Memory::new(len)?;
        let mut registered = shared.registered();
        let id = (0..u16::MAX)
            .find(|id| !registered.groups.contains(id))
            .ok_or(Errno::MFILE)?;
        let submitter = shared.ring().submitter();
        // SAFETY: The memory has so many entries, aligned to a page, and is kept until it is unregistered
        // or there is no ring any more.
        unsafe {
            submitter.register_buf_ring_with_flags(ring.at.as_ptr() as u64, count, id, 0)?;
        }
        registered.groups.insert(id);
        drop(registered);
        let group = Group {
            id,
            stride,
            mask: count - 1,
            ring,
            data,
            state: Mutex::default(),
            shared: Arc::downgrade(shared),
        };
        let mut state = group.state();
        for buffer in 0..count {
            group.supply(&mut state, buffer);
        }
        drop(state);
        Ok(Buffers {
            group: Arc::new(group),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        usize::from(self.group.mask) + 1
    }

    /// Bytes of the largest message that fits into one. A larger one is received on its own.
    pub fn size(&self) -> usize {
        self.group.stride - RECORD
    }

    /// How many of them the kernel can use now. The others have what was received and not taken from the
    /// stream, or dropped, yet.
    pub fn available(&self) -> usize {
        self.group.available()
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.group.fmt(f)
    }
}

/// A buffer of a group that the kernel has filled. It is the kernel's again when this is dropped.
pub(super) struct Filled {
    group: Arc<Group>,
    buffer: u16,
    /// Bytes that were written, with the record.
    len: usize,
}

impl Filled {
    /// The kernel has filled a buffer of this group, which is one of the ring that says so; `None`: it
    /// does not have it.
    pub(super) fn new(group: &Arc<Group>, buffer: u16, len: u32) -> Option<Self> {
        group.took(buffer).then(|| Filled {
            group: group.clone(),
            buffer,
            len: group.stride.min(len as usize),
        })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: The kernel has given the buffer back (the group is one of the ring that said so, as
        // `Multishot::new` checks), and gets it again when this is dropped. All of the group's memory was
        // zeroed when it was mapped, and each buffer has so many bytes.
        unsafe { std::slice::from_raw_parts(self.group.place(self.buffer), self.len) }
    }

    /// What is in front of the message.
    pub(super) fn record(&self) -> sys::postbox_record {
        // What is not there is no descriptor.
        let mut record = sys::postbox_record {
            fd: raw::NO_FD,
            ..Default::default()
        };
        let len = self.len.min(RECORD);
        // SAFETY: Both have so many bytes, and any are a valid record.
        unsafe {
            let to = (&raw mut record).cast::<u8>();
            self.bytes().as_ptr().copy_to_nonoverlapping(to, len);
        }
        record
    }

    pub(super) fn payload(&self) -> &[u8] {
        let record = self.record();
        let bytes = self.bytes();
        let start = bytes.len().min(record.size as usize);
        let payload = &bytes[start..];
        let len = usize::try_from(record.msg_len).unwrap_or(usize::MAX);
        &payload[..payload.len().min(len)]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        let mut state = self.group.state();
        self.group.supply(&mut state, self.buffer);
    }
}

impl fmt::Debug for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filled")
            .field("buffer", &self.buffer)
            .field("len", &self.len)
            .finish()
    }
}

/// The memory of the registered buffers.
pub(super) struct Fixed {
    data: Memory,
    size: usize,
    free: Mutex<Vec<u16>>,
    shared: Weak<Shared>,
}

impl Fixed {
    fn free(&self) -> MutexGuard<'_, Vec<u16>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Buffers that are registered with the ring: the kernel looks at their pages once, and not in each
/// operation. [`Driver::register_buffers`](super::Driver::register_buffers) makes them, once for a
/// driver.
#[derive(Clone)]
pub struct FixedBuffers {
    fixed: Arc<Fixed>,
}

impl FixedBuffers {
    pub(super) fn new(shared: &Arc<Shared>, count: u16, size: usize) -> Result<Self, SetupError> {
        let len = size.checked_mul(count.into()).ok_or(Errno::NOMEM)?;
        if len == 0 || u32::try_from(size).is_err() {
            return Err(Errno::INVAL.into());
        }
        let mut registered = shared.registered();
        if registered.fixed {
            return Err(Errno::BUSY.into());
        }
        let data = Memory::new(len)?;
        let vectors: Vec<_> = (0..usize::from(count))
            .map(|index| libc::iovec {
                // SAFETY: It has so many buffers of that size.
                iov_base: unsafe { data.at.as_ptr().add(index * size) }.cast(),
                iov_len: size,
            })
            .collect();
        // SAFETY: The pages stay the kernel's as long as they are registered; and operations, which say
        // what is in them, have the memory.
        unsafe { shared.ring().submitter().register_buffers(&vectors)? };
        registered.fixed = true;
        drop(registered);
        Ok(FixedBuffers {
            fixed: Arc::new(Fixed {
                data,
                size,
                free: Mutex::new((0..count).rev().collect()),
                shared: Arc::downgrade(shared),
            }),
        })
    }

    /// Bytes of each.
    pub fn size(&self) -> usize {
        self.fixed.size
    }

    /// How many are free.
    pub fn available(&self) -> usize {
        self.fixed.free().len()
    }

    /// One of them, if one is free. It is free again when it is dropped.
    pub fn take(&self) -> Option<FixedBuffer> {
        let index = self.fixed.free().pop()?;
        Some(FixedBuffer {
            fixed: self.fixed.clone(),
            index,
        })
    }
}

impl fmt::Debug for FixedBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FixedBuffers")
            .field("size", &self.size())
            .field("available", &self.available())
            .finish()
    }
}

/// A registered buffer. It derefs to its bytes, of which all are initialised.
pub struct FixedBuffer {
    fixed: Arc<Fixed>,
    index: u16,
}

impl FixedBuffer {
    /// Whether it is registered with the ring of that driver.
    pub(super) fn is_of(&self, shared: &Arc<Shared>) -> bool {
        // The reference keeps the allocation, so that no other driver can have its address.
        std::ptr::eq(self.fixed.shared.as_ptr(), Arc::as_ptr(shared))
    }

    pub(super) fn index(&self) -> u16 {
        self.index
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: There are more buffers than that.
        unsafe {
            let at = self.fixed.data.at.as_ptr();
            at.add(usize::from(self.index) * self.fixed.size)
        }
    }
}

impl Deref for FixedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: It has so many bytes, which are this one's alone, and were zeroed.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.fixed.size) }
    }
}

impl DerefMut for FixedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: As above; it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.fixed.size) }
    }
}

impl Drop for FixedBuffer {
    fn drop(&mut self) {
        self.fixed.free().push(self.index);
    }
}

impl fmt::Debug for FixedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FixedBuffer")
            .field("index", &self.index)
            .field("size", &self.fixed.size)
            .finish()
    }
}
