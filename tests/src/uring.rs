//! io_uring as the kernel sees it: rings, entries with every field open, completions.
//!
//! A ring here has no descriptor: it is registered with its thread, so that a test that counts, closes or runs out of
//! descriptors is not disturbed. It is of no use to a forked child, which does not even have its memory.

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postbox::sys;

use crate::Watchdog;
use crate::handle::Wait;

/// Nothing, which completes at once.
pub const OP_NOP: u8 = 0;
/// `readv`.
pub const OP_READV: u8 = 1;
/// `writev`.
pub const OP_WRITEV: u8 = 2;
/// Polls once.
pub const OP_POLL_ADD: u8 = 6;
/// Completes when a time is over.
pub const OP_TIMEOUT: u8 = 11;
/// Ends requests that are not commands.
pub const OP_ASYNC_CANCEL: u8 = 14;
/// A timeout for the entry before it, which has `LINK`.
pub const OP_LINK_TIMEOUT: u8 = 15;
/// `read`.
pub const OP_READ: u8 = 22;
/// `write`.
pub const OP_WRITE: u8 = 23;
/// A command: what this is about.
pub const OP_URING_CMD: u8 = 46;

/// An entry's descriptor is the place of a registered file.
pub const FIXED_FILE: u8 = 1 << 0;
/// The next entry begins when this one has ended well.
pub const LINK: u8 = 1 << 2;
/// A worker of io_uring does it.
pub const ASYNC: u8 = 1 << 4;
/// A buffer of the group `buf`.
pub const BUFFER_SELECT: u8 = 1 << 5;
/// No completion where it ends well.
pub const CQE_SKIP_SUCCESS: u8 = 1 << 6;

/// Flag of a command: the buffer is the registered one `buf`.
pub const CMD_FIXED: u32 = 1 << 0;
/// Flag of a command: it goes on until something ends it.
pub const CMD_MULTISHOT: u32 = 1 << 1;

/// Flag of a completion: the buffer's number is in the upper half of the flags.
pub const CQE_BUFFER: u32 = 1 << 0;
/// Flag of a completion: it is not the last one.
pub const CQE_MORE: u32 = 1 << 1;

/// Ring: a kernel thread submits.
pub const SQPOLL: u32 = 1 << 1;
/// Ring: the number of completions is given.
pub const CQSIZE: u32 = 1 << 3;
/// Ring: what is left to do waits for the next system call.
pub const COOP_TASKRUN: u32 = 1 << 8;
/// Ring: entries of 128 bytes.
pub const SQE128: u32 = 1 << 10;
/// Ring: completions of 32 bytes.
pub const CQE32: u32 = 1 << 11;
/// Ring: only one thread submits.
pub const SINGLE_ISSUER: u32 = 1 << 12;
/// Ring: what is left to do waits for who waits for completions.
pub const DEFER_TASKRUN: u32 = 1 << 13;

const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_SQ_WAKEUP: u32 = 1 << 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;

const REGISTER_BUFFERS: u32 = 0;
const REGISTER_FILES: u32 = 2;
const REGISTER_PERSONALITY: u32 = 9;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;
const REGISTER_PBUF_RING: u32 = 22;
const USE_REGISTERED_RING: u32 = 1 << 31;

const SQ_NEED_WAKEUP: u32 = 1 << 0;
const FEATURE_SINGLE_MMAP: u32 = 1 << 0;
const OFFSET_SQES: i64 = 0x1000_0000;

/// One entry: a request to the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sqe {
    /// `OP_*`.
    pub opcode: u8,
    /// `FIXED_FILE` and the like.
    pub flags: u8,
    /// Of no use here.
    pub ioprio: u16,
    /// The descriptor.
    pub fd: i32,
    /// The offset; of a command its request, in the lower half.
    pub off: u64,
    /// The address.
    pub addr: u64,
    /// The length.
    pub len: u32,
    /// Flags of the operation; of a command `CMD_*`.
    pub op_flags: u32,
    /// Comes back with the completion.
    pub user_data: u64,
    /// The registered buffer, or the group of buffers.
    pub buf: u16,
    /// The registered credentials; 0: those of who submits.
    pub personality: u16,
    /// Of no use here.
    pub file_index: u32,
    /// Of a command: what it has for itself.
    pub cmd: [u64; 2],
}

const _: () = assert!(size_of::<Sqe>() == 64);
const _: () = assert!(size_of::<sys::postbox_uring>() == 16);

impl Sqe {
    /// A request of postbox as a command, with its argument struct at an address.
    pub fn command(fd: RawFd, request: u32, argument: u64) -> Self {
        Sqe {
            opcode: OP_URING_CMD,
            fd,
            off: request.into(),
            addr: argument,
            ..Sqe::default()
        }
    }

    /// The same, with what the 16 bytes of the command say.
    pub fn with(self, uring: &sys::postbox_uring) -> Self {
        let flags = u64::from(uring.flags) | u64::from(uring.priority) << 16;
        Sqe {
            cmd: [flags | u64::from(uring.len) << 32, uring.timeout_ns],
            ..self
        }
    }

    /// A payload or a buffer without an argument struct.
    pub fn direct(fd: RawFd, request: u32, address: u64, len: u32, wait: Wait) -> Self {
        Sqe::command(fd, request, address).with(&sys::postbox_uring {
            flags: (sys::POSTBOX_URING_DIRECT | wait.0) as u16,
            len,
            timeout_ns: wait.1,
            ..Default::default()
        })
    }

    /// A receive or an accept that goes on, into buffers of a group.
    pub fn multishot(fd: RawFd, request: u32, group: u16, flags: u32, wait: Wait) -> Self {
        Sqe {
            flags: BUFFER_SELECT,
            op_flags: CMD_MULTISHOT,
            buf: group,
            ..Sqe::command(fd, request, 0)
        }
        .with(&sys::postbox_uring {
            flags: (flags | wait.0) as u16,
            timeout_ns: wait.1,
            ..Default::default()
        })
    }

    /// Cancels what is known by that.
    pub fn cancel(fd: RawFd, user_data: u64) -> Self {
        Sqe::command(fd, sys::POSTBOX_CANCEL, user_data)
    }

    /// Cancels everything of a handle.
    pub fn cancel_all(fd: RawFd) -> Self {
        Sqe::command(fd, sys::POSTBOX_CANCEL, 0).with(&sys::postbox_uring {
            flags: sys::POSTBOX_URING_ALL as u16,
            ..Default::default()
        })
    }

    /// The same, with what its completion is known by.
    pub fn tag(self, user_data: u64) -> Self {
        Sqe { user_data, ..self }
    }
}

/// A completion.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cqe {
    /// That of the entry.
    pub user_data: u64,
    /// What came of it; negative: an error.
    pub res: i32,
    /// `CQE_*`.
    pub flags: u32,
}

impl Cqe {
    /// Whether another one follows.
    pub fn more(&self) -> bool {
        self.flags & CQE_MORE != 0
    }

    /// The number of the buffer that was used.
    pub fn buffer(&self) -> Option<u16> {
        (self.flags & CQE_BUFFER != 0).then_some((self.flags >> 16) as u16)
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user_addr: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    user_addr: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq_off: SqOffsets,
    cq_off: CqOffsets,
}

/// A mapping, which forked children do not get.
#[derive(Debug)]
struct Map {
    at: NonNull<u8>,
    len: usize,
}

impl Map {
    fn of(fd: RawFd, len: usize, offset: i64) -> io::Result<Map> {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
        );
        // SAFETY: a new mapping touches no memory that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).expect("mmap does not return NULL");
        let map = Map { at, len };
        // With a copy of it a child would keep the ring, and what is parked in it.
        // SAFETY: the mapping that was just made.
        result(unsafe { libc::madvise(map.at.as_ptr().cast(), len, libc::MADV_DONTFORK) }.into())?;
        Ok(map)
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.at.as_ptr().add(offset) }.cast()
    }

    /// An index that the kernel uses, too.
    fn index(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: within the mapping, aligned, and never accessed but as an atomic.
        unsafe { &*self.at(offset as usize) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made, to which no reference is left.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

fn result(done: libc::c_long) -> io::Result<u32> {
    match done {
        -1 => Err(io::Error::last_os_error()),
        done => Ok(done as u32),
    }
}

/// A ring of the thread that made it.
#[derive(Debug)]
pub struct Ring {
    /// Its number among the rings that are registered with the thread.
    number: u32,
    flags: u32,
    rings: Map,
    entries: Map,
    sq: [u32; 4],
    cq: [u32; 4],
    /// Entries that the kernel has not been told of.
    new: u32,
}

/// Places in `sq` and `cq`.
const HEAD: usize = 0;
const TAIL: usize = 1;
const MASK: usize = 2;
/// Of `sq` the flags, of `cq` the completions.
const REST: usize = 3;

impl Ring {
    /// A ring for so many entries at once, with these flags.
    pub fn new(entries: u32, flags: u32) -> io::Result<Ring> {
        Ring::with_completions(entries, 0, flags)
    }

    /// The same with room for so many completions; 0: twice as many.
    pub fn with_completions(entries: u32, completions: u32, flags: u32) -> io::Result<Ring> {
        let mut params = Params {
            flags: flags | if completions == 0 { 0 } else { CQSIZE },
            cq_entries: completions,
            ..Params::default()
        };
        // SAFETY: `params` is writable, and of the layout that the call takes.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, &raw mut params) };
        let fd = result(fd)? as RawFd;
        let ring = Ring::of(fd, &params);
        // SAFETY: the descriptor that was just made, which nobody else knows.
        unsafe { libc::close(fd) };
        ring
    }

    fn of(fd: RawFd, params: &Params) -> io::Result<Ring> {
        assert!(params.features & FEATURE_SINGLE_MMAP != 0);
        let (sq, cq) = (&params.sq_off, &params.cq_off);
        let wide = |flag| usize::from(params.flags & flag != 0);
        let indices = sq.array as usize + params.sq_entries as usize * 4;
        let cqes = params.cq_entries as usize * (size_of::<Cqe>() << wide(CQE32));
        let rings = Map::of(fd, indices.max(cq.cqes as usize + cqes), 0)?;
        let sqes = params.sq_entries as usize * (size_of::<Sqe>() << wide(SQE128));
        let entries = Map::of(fd, sqes, OFFSET_SQES)?;
        // Each entry is in its own place.
        for i in 0..params.sq_entries {
            // SAFETY: an index in the mapping, which the kernel only reads when it is told of it.
            unsafe { rings.at::<u32>((sq.array + i * 4) as usize).write(i) };
        }
        // struct io_uring_rsrc_update: where, and what.
        let mut update = [u64::from(u32::MAX), fd as u64];
        // SAFETY: one such struct, which is written to.
        let registered = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                fd,
                REGISTER_RING_FDS,
                update.as_mut_ptr(),
                1,
            )
        };
        assert_eq!(result(registered)?, 1);
        Ok(Ring {
            number: update[0] as u32,
            flags: params.flags,
            rings,
            entries,
            sq: [sq.head, sq.tail, sq.ring_mask, sq.flags],
            cq: [cq.head, cq.tail, cq.ring_mask, cq.cqes],
            new: 0,
        })
    }

    fn wide(&self, flag: u32) -> usize {
        usize::from(self.flags & flag != 0)
    }

    /// Where the entry is that will be the next, and remains until the kernel has taken it.
    pub fn place(&self) -> *mut Sqe {
        let tail = self.rings.index(self.sq[TAIL]).load(Ordering::Relaxed);
        let mask = self.rings.index(self.sq[MASK]).load(Ordering::Relaxed);
        let size = size_of::<Sqe>() << self.wide(SQE128);
        self.entries.at((tail & mask) as usize * size)
    }

    /// Adds an entry. The kernel sees it with the next `enter`; of a ring with `SQPOLL`, at once.
    pub fn push(&mut self, sqe: &Sqe) {
        assert!(self.has_room(), "the ring is full");
        let place = self.place();
        let tail = self.rings.index(self.sq[TAIL]);
        let at = tail.load(Ordering::Relaxed);
        // SAFETY: the place of an entry that the kernel does not read before the tail has moved; what is behind it, in a
        // ring with entries twice as large, is zero.
        unsafe { place.write(*sqe) };
        tail.store(at.wrapping_add(1), Ordering::Release);
        self.new += 1;
    }

    /// Submits what is new, and waits for so many completions, or a signal. Says how many were submitted.
    pub fn enter(&mut self, wait: u32) -> io::Result<u32> {
        self.enter_with(wait, 0, std::ptr::null(), 0)
    }

    /// Submits what is new. With `DEFER_TASKRUN`, what is left to do for this task stays so.
    #[track_caller]
    pub fn submit(&mut self) {
        while self.unsubmitted() {
            let submitted = self.enter_as_is(0, 0, std::ptr::null(), 0);
            submitted.expect("io_uring_enter");
        }
    }

    /// Submits what is new, and waits for so many completions, or a signal; at most so many nanoseconds: `ETIME`.
    pub fn enter_within(&mut self, wait: u32, ns: u64) -> io::Result<u32> {
        let time = [ns / 1_000_000_000, ns % 1_000_000_000];
        // struct io_uring_getevents_arg: no signal mask.
        let argument = [0, 8, time.as_ptr() as u64];
        let size = size_of_val(&argument);
        self.enter_with(wait, ENTER_EXT_ARG, argument.as_ptr().cast(), size)
    }

    fn enter_with(
        &mut self,
        wait: u32,
        flags: u32,
        argument: *const libc::c_void,
        size: usize,
    ) -> io::Result<u32> {
        self.enter_as_is(wait, flags | ENTER_GETEVENTS, argument, size)
    }

    fn enter_as_is(
        &mut self,
        wait: u32,
        flags: u32,
        argument: *const libc::c_void,
        size: usize,
    ) -> io::Result<u32> {
        let mut flags = flags | ENTER_REGISTERED_RING;
        let sqpoll = self.flags & SQPOLL != 0;
        if sqpoll {
            // The kernel's thread sleeps only after it has looked at the tail once more.
            std::sync::atomic::fence(Ordering::SeqCst);
            let state = self.rings.index(self.sq[REST]).load(Ordering::Acquire);
            if state & SQ_NEED_WAKEUP != 0 {
                flags |= ENTER_SQ_WAKEUP;
            }
        }
        // SAFETY: the entries describe memory of who pushed them; the argument is what the flags say, or nothing.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.number,
                self.new,
                wait,
                flags,
                argument,
                size,
            )
        };
        let submitted = result(done)?;
        self.new -= submitted.min(self.new);
        Ok(submitted)
    }

    /// Whether there is a place for one more entry.
    pub fn has_room(&self) -> bool {
        let [head, tail, mask] =
            [HEAD, TAIL, MASK].map(|i| self.rings.index(self.sq[i]).load(Ordering::Acquire));
        tail.wrapping_sub(head) <= mask
    }

    /// Whether there are entries that the kernel has not taken.
    pub fn unsubmitted(&self) -> bool {
        self.new != 0
    }

    /// The next completion, if there is one. It does not wait.
    pub fn pop(&mut self) -> Option<Cqe> {
        let (head, tail) = (
            self.rings.index(self.cq[HEAD]),
            self.rings.index(self.cq[TAIL]),
        );
        let at = head.load(Ordering::Relaxed);
        if at == tail.load(Ordering::Acquire) {
            return None;
        }
        let mask = self.rings.index(self.cq[MASK]).load(Ordering::Relaxed);
        let size = size_of::<Cqe>() << self.wide(CQE32);
        let place = self.cq[REST] as usize + (at & mask) as usize * size;
        // SAFETY: a completion that the kernel has written, and does not touch before the head has moved.
        let cqe = unsafe { self.rings.at::<Cqe>(place).read() };
        head.store(at.wrapping_add(1), Ordering::Release);
        Some(cqe)
    }

    /// Submits what is new, and waits for a completion, whatever signals come.
    #[track_caller]
    pub fn wait(&mut self) -> Cqe {
        let mut watchdog = None;
        loop {
            if let Some(cqe) = self.wait_at_most(Duration::from_millis(20)) {
                return cqe;
            }
            let watchdog = watchdog.get_or_insert_with(Watchdog::new);
            watchdog.check(|| "waited for a completion".into());
        }
    }

    /// Submits what is new, and does what is left to do for this task. Nothing has completed.
    #[track_caller]
    pub fn park(&mut self) {
        while self.unsubmitted() {
            self.enter(0).expect("io_uring_enter");
        }
        assert_eq!(self.pop(), None, "it was to wait");
    }

    /// Submits an entry and waits for its completion, which is the next one.
    #[track_caller]
    pub fn run(&mut self, sqe: &Sqe) -> i32 {
        self.push(sqe);
        let cqe = self.wait();
        assert_eq!((cqe.user_data, cqe.more()), (sqe.user_data, false));
        cqe.res
    }

    /// The same for so long at most: `None`, and there is none. What the kernel could not get or copy for itself it is
    /// asked for again.
    pub fn wait_at_most(&mut self, time: Duration) -> Option<Cqe> {
        let end = std::time::Instant::now() + time;
        loop {
            if !self.unsubmitted()
                && let Some(cqe) = self.pop()
            {
                return Some(cqe);
            }
            let left = end.saturating_duration_since(std::time::Instant::now());
            let entered = self.enter_within(1, left.as_nanos() as u64);
            match entered.map_err(|error| error.raw_os_error().unwrap_or(0)) {
                Ok(_) | Err(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                Err(libc::ENOMEM | libc::EFAULT) => {}
                Err(libc::ETIME) => return self.pop(),
                Err(error) => panic!("io_uring_enter: {}", io::Error::from_raw_os_error(error)),
            }
        }
    }

    fn register(&self, what: u32, argument: *mut libc::c_void, count: usize) -> io::Result<u32> {
        let what = what | USE_REGISTERED_RING;
        // SAFETY: the argument is what the operation takes.
        result(unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.number,
                what,
                argument,
                count,
            )
        })
    }

    /// Registers files, for entries with `FIXED_FILE`.
    pub fn register_files(&self, files: &[RawFd]) -> io::Result<()> {
        let at = files.as_ptr().cast_mut().cast();
        self.register(REGISTER_FILES, at, files.len()).map(drop)
    }

    /// Registers the credentials of this task; returns their number, for entries to name.
    pub fn register_personality(&self) -> io::Result<u16> {
        let number = self.register(REGISTER_PERSONALITY, std::ptr::null_mut(), 0)?;
        Ok(number as u16)
    }

    /// Registers a buffer, for commands with `CMD_FIXED`.
    ///
    /// # Safety
    /// The memory must stay for as long as the ring is used.
    pub unsafe fn register_buffer(&self, at: *mut u8, len: usize) -> io::Result<()> {
        let mut buffer = libc::iovec {
            iov_base: at.cast(),
            iov_len: len,
        };
        self.register(REGISTER_BUFFERS, (&raw mut buffer).cast(), 1)
            .map(drop)
    }

    /// Registers the memory at `at` as the group `group` of `entries` buffers: what `Buffers` has.
    fn register_group(&self, group: u16, at: *mut u8, entries: u32) -> io::Result<()> {
        // struct io_uring_buf_reg.
        let mut argument = [
            at as u64,
            u64::from(entries) | u64::from(group) << 32,
            0,
            0,
            0,
        ];
        self.register(REGISTER_PBUF_RING, argument.as_mut_ptr().cast(), 1)
            .map(drop)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // struct io_uring_rsrc_update.
        let mut update = [u64::from(self.number), 0];
        let _ = self.register(UNREGISTER_RING_FDS, update.as_mut_ptr().cast(), 1);
    }
}

/// A group of buffers that the kernel chooses from.
#[derive(Debug)]
pub struct Buffers {
    /// The descriptions, in a page or more of their own, and behind them the buffers.
    map: Map,
    entries: u32,
    /// Bytes of one.
    pub size: usize,
    descriptions: usize,
    tail: u16,
}

#[repr(C)]
struct Description {
    addr: u64,
    len: u32,
    number: u16,
    tail: u16,
}

impl Buffers {
    /// So many buffers (a power of two) of that size, all of them there to be used, as the group `group` of a ring.
    pub fn new(ring: &Ring, group: u16, entries: u32, size: usize) -> io::Result<Buffers> {
        let mut buffers = Buffers::empty(ring, group, entries, size)?;
        (0..entries as u16).for_each(|number| buffers.give(number));
        Ok(buffers)
    }

    fn empty(ring: &Ring, group: u16, entries: u32, size: usize) -> io::Result<Buffers> {
        let descriptions = (entries as usize * size_of::<Description>()).next_multiple_of(4096);
        let len = descriptions + entries as usize * size;
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new anonymous mapping touches no memory that exists.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).expect("mmap does not return NULL");
        let buffers = Buffers {
            map: Map { at, len },
            entries,
            size,
            descriptions,
            tail: 0,
        };
        ring.register_group(group, at.as_ptr(), entries)?;
        Ok(buffers)
    }

    /// A group with one buffer, which may be anywhere.
    pub fn at(ring: &Ring, group: u16, address: u64, len: u32) -> io::Result<Buffers> {
        let mut buffers = Buffers::empty(ring, group, 1, 0)?;
        buffers.offer(0, address, len);
        Ok(buffers)
    }

    /// Where a buffer is.
    pub fn address(&self, number: u16) -> u64 {
        assert!(u32::from(number) < self.entries);
        self.map.at.as_ptr() as u64 + (self.descriptions + usize::from(number) * self.size) as u64
    }

    /// The first bytes of a buffer that the kernel has filled, and was not given again.
    pub fn bytes(&self, number: u16, len: usize) -> Vec<u8> {
        assert!(len <= self.size);
        // SAFETY: within the mapping; the kernel is done with it.
        unsafe { std::slice::from_raw_parts(self.address(number) as *const u8, len) }.to_vec()
    }

    /// Lets the kernel use a buffer again.
    pub fn give(&mut self, number: u16) {
        self.offer(number, self.address(number), self.size as u32);
    }

    fn offer(&mut self, number: u16, addr: u64, len: u32) {
        let place = (u32::from(self.tail) % self.entries) as usize * size_of::<Description>();
        let description = self.map.at::<Description>(place);
        // The first description's last field is the tail: it is left alone.
        // SAFETY: within the mapping; the kernel does not read it before the tail has moved.
        unsafe {
            (&raw mut (*description).addr).write_volatile(addr);
            (&raw mut (*description).len).write_volatile(len);
            (&raw mut (*description).number).write_volatile(number);
        }
        self.tail = self.tail.wrapping_add(1);
        let tail = std::mem::offset_of!(Description, tail);
        // SAFETY: within the mapping, aligned, and never accessed but as an atomic.
        let at: &std::sync::atomic::AtomicU16 = unsafe { &*self.map.at(tail) };
        at.store(self.tail, Ordering::Release);
    }
}

/// What the kernel reads and writes while a command is under way: an argument, or a buffer.
#[derive(Debug)]
pub struct Kept<T>(NonNull<T>);

impl<T: Copy> Kept<T> {
    /// A copy of it, in a place of its own.
    pub fn new(value: T) -> Self {
        Kept(NonNull::from(Box::leak(Box::new(value))))
    }

    /// Where it is.
    pub fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// What it is now.
    pub fn get(&self) -> T {
        // SAFETY: it was made of a `T`, and the kernel writes whole integers.
        unsafe { self.0.read_volatile() }
    }

    /// Makes it something else.
    pub fn set(&self, value: T) {
        // SAFETY: as above; no reference leads there.
        unsafe { self.0.write_volatile(value) }
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        // SAFETY: it came from a box.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
