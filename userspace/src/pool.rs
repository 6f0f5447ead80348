//! Buffers that travel inside messages: blocks of shared memory whose leases the kernel keeps.

mod cache;

use self::cache::{Block, Cache, KEEP_MAX, Lender};
use crate::call::Request;
use crate::error::{Action, Error, ErrorKind, Result, SendError};
use crate::handle::{Access, CanReceive, CanSend, Handle, Rights, sealed};
use crate::memory::{Map, Pages, copy_in, copy_out, memfd};
use crate::object::{Inner, Kind, Subject};
use crate::recv::{Delivery, Message};
use crate::trust::{Copying, Trust, Trusting};
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::{Errno, retry_on_intr};
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The access of a [`PoolHandle`]: to receive buffers, and perhaps to borrow blocks.
#[derive(Clone, Copy, Debug)]
pub enum PoolAccess {}

impl sealed::Sealed for PoolAccess {}

impl Access for PoolAccess {
    const RIGHTS: Rights = Rights::SEND.union(Rights::RECEIVE);
    const NAME: &'static str = "Pool";

    fn fits(kind: Kind, rights: Rights) -> bool {
        kind == Kind::Pool && rights.contains(Rights::RECEIVE)
    }
}

/// A handle to a pool that is not mapped: what is passed on, and [attached](PoolHandle::attach) by who
/// gets it.
pub type PoolHandle = Handle<PoolAccess>;

/// A pool that is mapped. Every buffer keeps it.
pub struct Core {
    handle: PoolHandle,
    map: Map,
    blocks: u32,
    block_len: usize,
    cache: Cache,
}

impl Core {
    fn new(handle: PoolHandle, keep: Option<usize>) -> Result<Self> {
        let error = |errno| handle.inner.error(Action::Attach, errno);
        let info = raw::info(&handle).map_err(error)?;
        let fits = |number: u64| usize::try_from(number).map_err(|_| error(Errno::NOMEM));
        let writable = handle.rights().contains(Rights::SEND);
        let map = Map::new(&handle, 0, fits(info.message_max)?, writable).map_err(error)?;
        // As many again may be borrowed ahead.
        let keep = keep.unwrap_or((info.capacity / 8).min(16) as usize);
        let block_len = fits(info.capacity_bytes)?;
        let len = block_len.checked_mul(fits(info.capacity)?);
        let blocks = u32::try_from(info.capacity).ok();
        // Everything that is ever read or written is within these.
        let (Some(blocks), true) = (blocks, len.is_some_and(|len| len <= map.len())) else {
            return Err(error(Errno::INVAL));
        };
        Ok(Core {
            map,
            blocks,
            block_len,
            cache: Cache::new(keep).map_err(error)?,
            handle,
        })
    }

    fn writable(&self) -> bool {
        self.handle.rights().contains(Rights::SEND)
    }

    fn borrow(&self, wait: Wait) -> Result<Block> {
        let borrowed = self.cache.borrow(&self.handle, wait);
        borrowed.map_err(|errno| self.handle.inner.error(Action::Borrow, errno))
    }

    /// Where a block begins.
    fn at(&self, block: u32) -> *mut u8 {
        assert!(
            block < self.blocks,
            "block {block} of a pool of {}: it is not one that the kernel has lent",
            self.blocks
        );
        // `new` has seen that so many blocks are in the mapping.
        self.map
            .as_ptr()
            .wrapping_add(block as usize * self.block_len)
    }

    fn error(&self, kind: ErrorKind) -> Error {
        self.handle.inner.error_of_kind(Action::Access, kind)
    }
}

impl Lender for PoolHandle {
    fn exchange(
        &self,
        returns: &[u32],
        loans: &mut [u32],
        wait: Wait,
    ) -> (usize, rustix::io::Result<usize>) {
        let (flags, timeout_ns) = wait.flags();
        let mut args = sys::postbox_loan {
            flags,
            timeout_ns,
            return_count: returns.len() as u32,
            ..Default::default()
        };
        let lent = retry_on_intr(|| {
            let left = returns.len().min(args.return_count as usize);
            raw::loan(self, &returns[..left], loans, &mut args)
        });
        let left = args.return_count as usize;
        (left, lent.map(|()| args.loan_count as usize))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Closing the handle ends its leases; but others may have it, too.
        self.cache.flush(&self.handle);
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.handle.name())
            .field("blocks", &self.blocks)
            .field("block_len", &self.block_len)
            .finish_non_exhaustive()
    }
}

/// What rides with a message.
struct Ride<'c> {
    core: &'c Core,
    returns: Vec<u32>,
    loans: [u32; KEEP_MAX],
    want: usize,
}

impl<'c> Ride<'c> {
    fn new(core: &'c Core, borrow: bool) -> Self {
        let (returns, want) = core.cache.depart(borrow);
        Ride {
            returns,
            loans: [0; KEEP_MAX],
            want,
            core,
        }
    }

    fn leases(&mut self) -> raw::Leases<'_> {
        raw::Leases::new(self.core.handle.as_fd())
            .returns(&self.returns)
            .loans(&mut self.loans[..self.want])
    }

    /// Notes what was done.
    fn end(self, told: &sys::postbox_leases) {
        let lent = &self.loans[..(told.loan_count as usize).min(self.want)];
        let (cache, left) = (&self.core.cache, told.return_count as usize);
        cache.arrive(&self.core.handle, self.returns, left, lent);
    }
}

/// Somebody who waits for a block with an event loop.
pub(crate) struct Waiting {
    core: Arc<Core>,
    mark: u64,
}

impl Waiting {
    pub(crate) fn new<T: Trust>(pool: &Pool<T>) -> Self {
        let core = pool.core.clone();
        let mark = core.cache.begin_waiting();
        Waiting { core, mark }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.core.cache.end_waiting(self.mark);
    }
}

/// Blocks of shared memory, of one size each, for messages that carry their contents without a copy.
///
/// A block is [borrowed](Self::loan), written, and [sent](Handle::send_buffer) inside a message. The
/// message carries no more than the block's number: the receiver reads where the sender wrote, and
/// the block is free again when its [`Buffer`] is dropped. Several receivers can [share](Shared) one
/// to read it. Whose each block is the kernel knows alone: what a process holds comes back when it
/// dies, however it dies, and never while another still has it.
///
/// Borrowing and giving back cost no calls to the kernel of their own as long as messages flow:
/// blocks are borrowed some at a time, and given back with the next message.
///
/// Other users of a pool can write to its memory at any moment, also to blocks that are not theirs.
/// So there is no `&[u8]`: bytes are copied in and out, unless one asserts that all of them keep the
/// protocol ([`trusting`](Self::trusting)).
///
/// ```
/// use postbox::{Mailbox, Pool};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let images = Pool::options().anonymous(16, 1 << 20)?;
/// let jobs = Mailbox::options().anonymous()?;
///
/// let mut image = images.loan(1 << 20)?;
/// image.write(0, b"P6 640 480")?;
/// jobs.send_buffer(image)?; // no byte of it is copied
///
/// let job = jobs.recv_buffers(&images)?;
/// let mut magic = [0; 2];
/// job.buffers[0].read(0, &mut magic)?;
/// assert_eq!(&magic, b"P6");
/// # Ok(())
/// # }
/// ```
///
/// After a `fork`, what the parent has borrowed stays the parent's: a child borrows for itself.
pub struct Pool<T: Trust = Copying> {
    core: Arc<Core>,
    trust: PhantomData<T>,
}

/// How a pool is to be opened or made.
///
/// Mode, persistence and pages are those of a new one; one that exists keeps its own.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    args: sys::postbox_open,
    admin: bool,
    reserve: bool,
    pages: Pages,
    keep: Option<usize>,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl PoolOptions {
    /// To open what exists. What is made otherwise is for its owner alone (mode 0600), of normal
    /// pages, and goes with the last handle.
    pub fn new() -> Self {
        PoolOptions {
            args: sys::postbox_open {
                mode: 0o600,
                ..Default::default()
            },
            admin: false,
            reserve: false,
            pages: Pages::Normal,
            keep: None,
        }
    }

    /// Permission bits as of a file: r to receive buffers, w to borrow and write, too. The umask is
    /// not applied.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.args.mode = mode;
        self
    }

    /// When made, it stays until its name is removed.
    pub fn persist(&mut self, persist: bool) -> &mut Self {
        if persist {
            self.args.flags |= sys::POSTBOX_O_PERSIST;
        } else {
            self.args.flags &= !sys::POSTBOX_O_PERSIST;
        }
        self
    }

    /// Ask for [`Rights::ADMIN`], too: it allows [`Handle::grant`], [`Handle::set_mode`] and
    /// [`Handle::chown`].
    pub fn admin(&mut self, admin: bool) -> &mut Self {
        self.admin = admin;
        self
    }

    /// Allocate all of its pages when it is made, charged to the memory cgroup of this process: it
    /// fails ([`Os`](crate::ErrorKind::Os) with `ENOMEM`) where they do not fit. Without this, pages
    /// are allocated and charged when they are first touched, by whoever does that.
    pub fn reserve(&mut self, reserve: bool) -> &mut Self {
        self.reserve = reserve;
        self
    }

    /// What pages it is made of.
    pub fn pages(&mut self, pages: Pages) -> &mut Self {
        self.pages = pages;
        self
    }

    /// How many blocks this process borrows ahead, and how many that it has dropped wait to be given
    /// back with the next message: 32 at most. If this is not called, an eighth of the blocks, and
    /// 16 at most. With 0 each block costs a call to the kernel when it is borrowed, and one when it
    /// is dropped. [`Pool::flush`] gives all of them back.
    pub fn keep(&mut self, blocks: usize) -> &mut Self {
        self.keep = Some(blocks);
        self
    }

    /// Opens one that exists.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Denied`](crate::ErrorKind::Denied),
    /// [`InvalidName`](crate::ErrorKind::InvalidName),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) (an object of another kind has the name),
    /// [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
    /// [`Incompatible`](crate::ErrorKind::Incompatible), and [`Os`](crate::ErrorKind::Os) with
    /// `ENOMEM` where there is no room to map it.
    pub fn open(&self, name: &str) -> Result<Pool> {
        self.open_as(Some(name), PoolAccess::RIGHTS, 0, None)
    }

    /// Opens one that exists to receive buffers, and not to borrow or to write: it cannot be mapped
    /// to be written then.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_reader(&self, name: &str) -> Result<Pool> {
        self.open_as(Some(name), Rights::RECEIVE, 0, None)
    }

    /// Opens one, or makes one of so many blocks, 65,536 at most, of at least `block_len` bytes each
    /// (a multiple of 64). They begin with zeros.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Quota`](crate::ErrorKind::Quota) (too many objects, or too much
    /// memory), and [`Os`](crate::ErrorKind::Os): `EINVAL` for other numbers, `ENOMEM` and `ENODEV`
    /// where there is no such memory.
    pub fn create(&self, name: &str, blocks: u32, block_len: usize) -> Result<Pool> {
        self.make(Some(name), 0, blocks, block_len)
    }

    /// Makes one; fails if there is one.
    ///
    /// # Errors
    /// As [`create`](Self::create); [`Exists`](crate::ErrorKind::Exists).
    pub fn create_new(&self, name: &str, blocks: u32, block_len: usize) -> Result<Pool> {
        self.make(Some(name), sys::POSTBOX_O_EXCL, blocks, block_len)
    }

    /// Makes one without a name, for threads, children, and whoever gets a descriptor of it.
    ///
    /// # Errors
    /// As [`create`](Self::create), but for those that come of the name.
    pub fn anonymous(&self, blocks: u32, block_len: usize) -> Result<Pool> {
        self.make(None, 0, blocks, block_len)
    }

    fn make(&self, name: Option<&str>, flags: u32, blocks: u32, block_len: usize) -> Result<Pool> {
        let subject = Subject::new(Kind::Pool, name);
        let error = |errno| Error::new(Action::MakeMemory, &subject, errno);
        let align = sys::POSTBOX_BLOCK_ALIGN as usize;
        let block_len = block_len.max(1).checked_next_multiple_of(align);
        let size = block_len.and_then(|len| (len as u64).checked_mul(blocks.into()));
        let (Some(block_len), Some(size)) = (block_len, size.filter(|size| *size > 0)) else {
            return Err(error(Errno::INVAL));
        };
        let memory = memfd(size, self.pages, None).map_err(error)?;
        let sizes = (blocks, block_len, memory.as_fd());
        let flags = flags | sys::POSTBOX_O_CREATE;
        self.open_as(name, PoolAccess::RIGHTS, flags, Some(sizes))
    }

    fn open_as(
        &self,
        name: Option<&str>,
        mut rights: Rights,
        flags: u32,
        sizes: Option<(u32, usize, BorrowedFd<'_>)>,
    ) -> Result<Pool> {
        let mut args = self.args;
        if let Some((blocks, block_len, _)) = sizes {
            args.capacity = blocks.into();
            args.capacity_bytes = block_len as u64;
        }
        let memfd = sizes.map(|(_, _, memfd)| memfd);
        // What is only opened, or has no name, does not persist.
        if flags == 0 || name.is_none() {
            args.flags = flags;
        } else {
            args.flags |= flags;
        }
        if self.reserve && memfd.is_some() {
            args.flags |= sys::POSTBOX_O_RESERVE;
        }
        rights.set(Rights::ADMIN, self.admin);
        let subject = Subject::new(Kind::Pool, name);
        let (inner, _) = Inner::open_with(subject, rights, args, memfd)?;
        Pool::new(Handle::from_inner(inner), self.keep)
    }
}

impl PoolHandle {
    /// Maps the pool to use it.
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) if the grant through which it was opened was taken
    /// back; [`Os`](crate::ErrorKind::Os) with `ENOMEM` where there is no room for it.
    pub fn attach(self) -> Result<Pool> {
        Pool::new(self, None)
    }
}

impl Pool {
    fn new(handle: PoolHandle, keep: Option<usize>) -> Result<Self> {
        Ok(Pool {
            core: Arc::new(Core::new(handle, keep)?),
            trust: PhantomData,
        })
    }

    /// How a pool is to be opened or made: see [`PoolOptions`].
    pub fn options() -> PoolOptions {
        PoolOptions::new()
    }

    /// Opens an existing pool.
    ///
    /// # Errors
    /// As [`PoolOptions::open`].
    pub fn open(name: &str) -> Result<Pool> {
        PoolOptions::new().open(name)
    }

    /// The same pool, with buffers that are slices.
    ///
    /// ```
    /// use postbox::Pool;
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let pool = Pool::options().anonymous(4, 4096)?;
    /// // SAFETY: This process alone uses it, through this crate.
    /// let pool = unsafe { pool.trusting() };
    /// let mut loan = pool.loan(4096)?;
    /// loan.fill(7);
    /// assert!(loan.iter().all(|byte| *byte == 7));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Safety
    /// As long as a buffer of this pool is used as a slice, no process writes to its block but the
    /// one that has it as a [`Loan`]: all that have the pool open to write, now and later, keep the
    /// protocol that this crate keeps. This process does not use its buffers in a child that it
    /// forked, and neither gives their blocks back nor settles the messages that they came with by
    /// [`raw`](crate::raw).
    pub unsafe fn trusting(self) -> Pool<Trusting> {
        Pool {
            core: self.core,
            trust: PhantomData,
        }
    }
}

impl<T: Trust> Pool<T> {
    /// How many blocks there are.
    pub fn blocks(&self) -> u32 {
        self.core.blocks
    }

    /// How many bytes each of them has.
    pub fn block_len(&self) -> usize {
        self.core.block_len
    }

    /// Borrows a block for `len` bytes, and waits for one. What was in it before is still there.
    ///
    /// # Errors
    /// See [`loan_with`](Self::loan_with).
    pub fn loan(&self, len: usize) -> Result<Loan<T>> {
        self.loan_with(len, Wait::Forever)
    }

    /// Borrows a block if one is free now, and nobody waits for it.
    ///
    /// # Errors
    /// [`NotYet`](crate::ErrorKind::NotYet), and see [`loan_with`](Self::loan_with).
    pub fn try_loan(&self, len: usize) -> Result<Loan<T>> {
        self.loan_with(len, Wait::Never)
    }

    /// Borrows a block, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [`loan_with`](Self::loan_with).
    pub fn loan_timeout(&self, len: usize, timeout: Duration) -> Result<Loan<T>> {
        self.loan_with(len, Wait::Timeout(timeout))
    }

    /// Borrows a block, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [`loan_with`](Self::loan_with).
    pub fn loan_deadline(&self, len: usize, deadline: Instant) -> Result<Loan<T>> {
        self.loan_with(len, Wait::Deadline(deadline))
    }

    /// Borrows a block for `len` bytes, and waits as `wait` says.
    ///
    /// # Errors
    /// [`TooLarge`](crate::ErrorKind::TooLarge) where a block is smaller;
    /// [`Denied`](crate::ErrorKind::Denied) for one that was opened to receive only; and
    /// [`NotYet`](crate::ErrorKind::NotYet) or [`Timeout`](crate::ErrorKind::Timeout), as `wait`
    /// says.
    pub fn loan_with(&self, len: usize, wait: Wait) -> Result<Loan<T>> {
        let core = &self.core;
        if len > core.block_len {
            let kind = ErrorKind::TooLarge {
                len: len as u64,
                limit: core.block_len as u64,
            };
            return Err(core.handle.inner.error_of_kind(Action::Borrow, kind));
        }
        let block = core.borrow(wait)?;
        Ok(Loan(Lease::new(core, Held { block, len })))
    }

    /// Gives the blocks back at once that this process keeps to borrow them next, or to give them
    /// back with the next message. For a process that is not going to use the pool for a while.
    pub fn flush(&self) {
        self.core.cache.flush(&self.core.handle);
    }

    /// The leases that came with a message.
    fn buffers(&self, leases: &[sys::postbox_lease]) -> Vec<Buffer<T>> {
        let mark = self.core.cache.mark();
        let buffer = |lease: &sys::postbox_lease| {
            let kept = lease.flags & sys::POSTBOX_LEASE_MESSAGE != 0;
            let block = Block {
                mark: if kept { 0 } else { mark },
                number: lease.block,
                shared: lease.flags & sys::POSTBOX_LEASE_SHARED != 0,
            };
            let len = (lease.len as usize).min(self.core.block_len);
            Buffer(Lease::new(&self.core, Held { block, len }))
        };
        leases.iter().map(buffer).collect()
    }
}

/// What every handle can: its name, what the kernel says of it, its attributes.
impl<T: Trust> Deref for Pool<T> {
    type Target = PoolHandle;

    fn deref(&self) -> &PoolHandle {
        &self.core.handle
    }
}

impl<T: Trust> AsFd for Pool<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.handle.as_fd()
    }
}

/// The same pool, with the same handle.
impl<T: Trust> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Pool {
            core: self.core.clone(),
            trust: PhantomData,
        }
    }
}

impl<T: Trust> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

/// A block, or part of it, that this process holds.
#[derive(Debug)]
pub struct Held {
    /// Of process 0: it is none's any more.
    block: Block,
    len: usize,
}

/// A lease, which ends when this is dropped.
pub struct Lease<T> {
    core: Arc<Core>,
    held: Held,
    trust: PhantomData<T>,
}

impl<T> Lease<T> {
    fn new(core: &Arc<Core>, held: Held) -> Self {
        Lease {
            core: core.clone(),
            held,
            trust: PhantomData,
        }
    }

    /// How many bytes are meant.
    fn len(&self) -> usize {
        self.held.len
    }

    fn at(&self) -> *mut u8 {
        self.core.at(self.held.block.number)
    }

    /// Where `len` bytes from `offset` on are.
    fn place(&self, offset: usize, len: usize) -> Result<*mut u8> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len() => Ok(self.at().wrapping_add(offset)),
            end => Err(self.core.error(ErrorKind::OutOfBounds {
                end: end.unwrap_or(usize::MAX) as u64,
                len: self.len() as u64,
            })),
        }
    }

    fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let from = self.place(offset, to.len())?;
        // SAFETY: So many bytes are mapped there, and fit.
        unsafe { copy_out(from, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn get<V: FromBytes>(&self, offset: usize) -> Result<V> {
        let mut value = MaybeUninit::<V>::uninit();
        let from = self.place(offset, size_of::<V>())?;
        // SAFETY: So many bytes are mapped there, and fit.
        unsafe { copy_out(from, value.as_mut_ptr().cast(), size_of::<V>()) };
        // SAFETY: All of its bytes were written, and any are a `V`.
        Ok(unsafe { value.assume_init() })
    }

    fn entry(&self, flags: u32) -> sys::postbox_lease {
        sys::postbox_lease {
            block: self.held.block.number,
            flags,
            len: self.held.len as u64,
        }
    }

    /// Somebody else has it now.
    fn forget(&mut self) {
        self.held.block.mark = 0;
    }

    fn describe(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("pool", &self.core.handle.name())
            .field("block", &self.held.block.number)
            .field("len", &self.held.len)
            .field("shared", &self.held.block.shared)
            .finish()
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        if self.held.block.mark != 0 {
            self.core.cache.end(&self.core.handle, self.held.block);
        }
    }
}

/// A block that this process alone has: to be written, and sent.
///
/// Dropping it gives it back. The kernel does so when this process dies.
pub struct Loan<T: Trust = Copying>(Lease<T>);

impl<T: Trust> Loan<T> {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes it can have.
    pub fn capacity(&self) -> usize {
        self.0.core.block_len
    }

    /// Sets how many bytes it has.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds): more than the block has.
    pub fn set_len(&mut self, len: usize) -> Result<()> {
        if len > self.capacity() {
            return Err(self.0.core.error(ErrorKind::OutOfBounds {
                end: len as u64,
                len: self.capacity() as u64,
            }));
        }
        self.0.held.len = len;
        Ok(())
    }

    /// Copies to it.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds).
    pub fn write(&mut self, offset: usize, from: &[u8]) -> Result<()> {
        let to = self.0.place(offset, from.len())?;
        // SAFETY: So many bytes are mapped there to be written, as only what can be is lent.
        unsafe { copy_in(from.as_ptr(), to, from.len()) };
        Ok(())
    }

    /// Copies a value to it.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds).
    pub fn put<V: IntoBytes + Immutable>(&mut self, offset: usize, value: &V) -> Result<()> {
        self.write(offset, value.as_bytes())
    }

    /// Copies from it.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds).
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        self.0.read(offset, to)
    }

    /// Copies a value from it, of which every bit pattern is one.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds).
    pub fn get<V: FromBytes>(&self, offset: usize) -> Result<V> {
        self.0.get(offset)
    }

    /// Where it begins; aligned to 64 bytes. Others may write there, too.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.at()
    }

    /// What only is to be read from now on.
    pub fn into_buffer(self) -> Buffer<T> {
        Buffer(self.0)
    }

    /// What is to be read by several from now on.
    pub fn share(self) -> Shared<T> {
        self.into_buffer().share()
    }
}

/// A block that is to be read, as it was received.
///
/// Dropping it gives it back, when the others who share it have done so, too.
pub struct Buffer<T: Trust = Copying>(Lease<T>);

impl<T: Trust> Buffer<T> {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there was another lease of the block when it was received, or it was shared here.
    pub fn is_shared(&self) -> bool {
        self.0.held.block.shared
    }

    /// Copies from it.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds).
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        self.0.read(offset, to)
    }

    /// Copies a value from it, of which every bit pattern is one.
    ///
    /// # Errors
    /// [`OutOfBounds`](crate::ErrorKind::OutOfBounds).
    pub fn get<V: FromBytes>(&self, offset: usize) -> Result<V> {
        self.0.get(offset)
    }

    /// All of it, copied.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len());
        // SAFETY: So many bytes are mapped there, and there is room for them.
        unsafe {
            copy_out(self.as_ptr(), bytes.as_mut_ptr(), self.len());
            bytes.set_len(self.len());
        }
        bytes
    }

    /// Where it begins; aligned to 64 bytes. Others may write there.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.at()
    }

    /// To be written again, if nobody else has it.
    ///
    /// # Errors
    /// Itself: it is [shared](Self::is_shared), or the pool was opened to receive only.
    pub fn try_into_loan(self) -> Result<Loan<T>, Self> {
        if self.is_shared() || !self.0.core.writable() {
            return Err(self);
        }
        Ok(Loan(self.0))
    }

    /// What is to be read by several from now on.
    pub fn share(mut self) -> Shared<T> {
        self.0.held.block.shared = true;
        Shared(Arc::new(self))
    }
}

/// A block that several read, in this process and in others. It can be cloned, and sent any number
/// of times.
///
/// ```
/// use postbox::{Mailbox, Pool};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let pool = Pool::options().anonymous(4, 4096)?;
/// let readers = Mailbox::options().anonymous()?;
/// let news = pool.loan(100)?.share();
/// readers.send_buffer(&news).map_err(|error| error.error)?;
/// readers.send_buffer(&news).map_err(|error| error.error)?;
/// assert!(readers.recv_buffers(&pool)?.buffers[0].is_shared());
/// assert_eq!(news.len(), 100);
/// # Ok(())
/// # }
/// ```
pub struct Shared<T: Trust = Copying>(Arc<Buffer<T>>);

impl<T: Trust> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(self.0.clone())
    }
}

impl<T: Trust> Deref for Shared<T> {
    type Target = Buffer<T>;

    fn deref(&self) -> &Buffer<T> {
        &self.0
    }
}

impl Deref for Loan<Trusting> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: It is mapped, and nobody else writes it: by the contract of `trusting`.
        unsafe { std::slice::from_raw_parts(self.0.at(), self.0.len()) }
    }
}

impl DerefMut for Loan<Trusting> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: It is mapped to be written, and nobody else has it: by the contract of `trusting`.
        unsafe { std::slice::from_raw_parts_mut(self.0.at(), self.0.len()) }
    }
}

impl Deref for Buffer<Trusting> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: It is mapped, and nobody writes it: by the contract of `trusting`.
        unsafe { std::slice::from_raw_parts(self.0.at(), self.0.len()) }
    }
}

impl<T: Trust> fmt::Debug for Loan<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe("Loan", f)
    }
}

impl<T: Trust> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.describe("Buffer", f)
    }
}

impl<T: Trust> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.describe("Shared", f)
    }
}

/// What can go with a message: [`Loan`], [`Buffer`] and [`&Shared`](Shared).
pub trait Lends: lends::Sealed {}

impl<T: Trust> Lends for Loan<T> {}
impl<T: Trust> Lends for Buffer<T> {}
impl<T: Trust> Lends for &Shared<T> {}

pub(crate) mod lends {
    use super::{Buffer, Core, Loan, Shared, Trust, sys};
    use std::sync::Arc;

    pub trait Sealed {
        fn core(&self) -> &Arc<Core>;
        fn entry(&self) -> sys::postbox_lease;
        /// It was sent, and is not this process's any more.
        fn gone(&mut self);
    }

    impl<T: Trust> Sealed for Loan<T> {
        fn core(&self) -> &Arc<Core> {
            &self.0.core
        }
        fn entry(&self) -> sys::postbox_lease {
            self.0.entry(0)
        }
        fn gone(&mut self) {
            self.0.forget();
        }
    }

    impl<T: Trust> Sealed for Buffer<T> {
        fn core(&self) -> &Arc<Core> {
            &self.0.core
        }
        fn entry(&self) -> sys::postbox_lease {
            self.0.entry(0)
        }
        fn gone(&mut self) {
            self.0.forget();
        }
    }

    impl<T: Trust> Sealed for &Shared<T> {
        fn core(&self) -> &Arc<Core> {
            &self.0.0.core
        }
        fn entry(&self) -> sys::postbox_lease {
            self.0.0.entry(sys::POSTBOX_LEASE_SHARED)
        }
        // The sender keeps its lease.
        fn gone(&mut self) {}
    }
}

/// A message that came with buffers. It derefs to the message.
#[derive(Debug)]
#[non_exhaustive]
pub struct Shipment<T: Trust = Copying> {
    /// The message.
    pub message: Message,
    /// The buffers that came with it, in the order of the send.
    pub buffers: Vec<Buffer<T>>,
}

impl<T: Trust> Deref for Shipment<T> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// A message with buffers that was taken and is to be settled: see [`Delivery`]. Its buffers stay the
/// message's: they are free when it is acknowledged, and go to the next receiver when it is put
/// back.
#[derive(Debug)]
#[must_use = "dropping it puts the message back"]
pub struct ShipmentDelivery<'a, T: Trust = Copying> {
    delivery: Delivery<'a>,
    buffers: Vec<Buffer<T>>,
}

impl<T: Trust> ShipmentDelivery<'_, T> {
    /// The buffers that came with it.
    pub fn buffers(&self) -> &[Buffer<T>] {
        &self.buffers
    }

    /// The message is done with, and its buffers are. Returns it.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn ack(self) -> Result<Message> {
        self.delivery.ack()
    }

    /// The message is not done: back to the head with it.
    ///
    /// # Errors
    /// As [`Delivery::requeue`].
    pub fn requeue(self) -> Result<()> {
        self.delivery.requeue()
    }
}

impl<T: Trust> Deref for ShipmentDelivery<'_, T> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.delivery
    }
}

impl Inner {
    /// Has `send` send leases, with what rides along; returns what the kernel says of them.
    fn ship(
        &self,
        core: &Core,
        entries: &[sys::postbox_lease],
        send: impl Fn(&mut raw::Leases<'_>) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        let mut ride = Ride::new(core, true);
        let mut leases = ride.leases().entries(entries);
        let sent = retry_on_intr(|| send(&mut leases));
        let told = *leases.args();
        ride.end(&told);
        sent
    }

    fn send_buffers(
        &self,
        core: &Core,
        entries: &[sys::postbox_lease],
        payload: &[u8],
        priority: u32,
        wait: Wait,
    ) -> Result<()> {
        let (flags, timeout_ns) = wait.flags();
        let args = sys::postbox_send {
            flags,
            timeout_ns,
            priority,
            ..Default::default()
        };
        self.ship(core, entries, |leases| {
            raw::send_leases(&self.fd, payload, &[], leases, &args)
        })
        .map_err(|errno| self.send_error(Action::Send, errno, payload.len()))
    }

    fn recv_buffers<T: Trust>(
        &self,
        pool: &Pool<T>,
        flags: u32,
        wait: Wait,
    ) -> Result<(Shipment<T>, u64)> {
        let (how, timeout_ns) = wait.flags();
        let mut files = Vec::new();
        // Nobody else can use blocks that a call has borrowed which waits.
        let mut ride = Ride::new(&pool.core, false);
        let mut room = [MaybeUninit::uninit(); sys::POSTBOX_LEASES_MAX as usize];
        let mut leases = ride.leases().room(&mut room);
        let received = loop {
            let mut args = sys::postbox_recv {
                flags: flags | how,
                timeout_ns,
                fd_max: sys::POSTBOX_FILES_MAX,
                ..Default::default()
            };
            let payload = self
                .fill(|buf| raw::recv_leases(&self.fd, buf, &mut files, &mut leases, &mut args));
            match payload {
                Ok(payload) => break Ok((Message::new(payload, files, &args), args.token)),
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE) if args.msg_len > args.len => self.expect(args.msg_len),
                Err(errno) => break Err(errno),
            }
        };
        let told = *leases.args();
        ride.end(&told);
        match received {
            Ok((message, token)) => {
                let buffers = pool.buffers(&leased(&room, told.count));
                Ok((Shipment { message, buffers }, token))
            }
            Err(errno) => Err(self.receive_error(Action::Receive, errno, told.pool_id)),
        }
    }

    fn receive_error(&self, action: Action, errno: Errno, pool: u64) -> Error {
        if errno == Errno::XDEV {
            return self.error_of_kind(action, ErrorKind::OtherPool { pool });
        }
        self.error(action, errno)
    }
}

/// The first `count` of the leases that the kernel has written.
fn leased(room: &[MaybeUninit<sys::postbox_lease>], count: u32) -> Vec<sys::postbox_lease> {
    let leases = room.iter().take(count as usize);
    // SAFETY: the kernel has written so many of them.
    leases.map(|lease| unsafe { lease.assume_init() }).collect()
}

/// The pool and the entries of what is to be sent, all of one pool.
fn parts<B: Lends>(inner: &Inner, buffers: &[B]) -> Result<(Arc<Core>, Vec<sys::postbox_lease>)> {
    let none = || inner.error(Action::Send, Errno::INVAL);
    let core = buffers.first().ok_or_else(none)?.core();
    if let Some(other) = buffers
        .iter()
        .find(|other| !Arc::ptr_eq(other.core(), core))
    {
        let pool = other.core().handle.info()?.id;
        return Err(inner.error_of_kind(Action::Send, ErrorKind::OtherPool { pool }));
    }
    let entries = buffers.iter().map(lends::Sealed::entry).collect();
    Ok((core.clone(), entries))
}

/// # Sending buffers
///
/// What fails, and how it waits, is said under [Sending](#sending). The error gives the buffer back.
/// Moreover: [`NotFound`](ErrorKind::NotFound) where it is not this process's any more, which was
/// forked, and [`Quota`](ErrorKind::Quota) where a block is shared by too many (1,024).
impl<A: CanSend> Handle<A> {
    /// Sends a message with a buffer, and waits for room: see [`Pool`].
    ///
    /// # Errors
    /// See [Sending buffers](#sending-buffers).
    pub fn send_buffer<B: Lends>(&self, buffer: B) -> Result<(), SendError<B>> {
        self.send_buffer_with(buffer, &[], 0, Wait::Forever)
    }

    /// Sends a message with a buffer if that is possible now.
    ///
    /// # Errors
    /// [`Full`](ErrorKind::Full), and see [Sending buffers](#sending-buffers).
    pub fn try_send_buffer<B: Lends>(&self, buffer: B) -> Result<(), SendError<B>> {
        self.send_buffer_with(buffer, &[], 0, Wait::Never)
    }

    /// Sends a message with a buffer, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Sending buffers](#sending-buffers).
    pub fn send_buffer_timeout<B: Lends>(
        &self,
        buffer: B,
        timeout: Duration,
    ) -> Result<(), SendError<B>> {
        self.send_buffer_with(buffer, &[], 0, Wait::Timeout(timeout))
    }

    /// Sends a message with a buffer, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Sending buffers](#sending-buffers).
    pub fn send_buffer_deadline<B: Lends>(
        &self,
        buffer: B,
        deadline: Instant,
    ) -> Result<(), SendError<B>> {
        self.send_buffer_with(buffer, &[], 0, Wait::Deadline(deadline))
    }

    /// Sends a message of a buffer and a payload, which is copied, with a priority.
    ///
    /// # Errors
    /// See [Sending buffers](#sending-buffers).
    pub fn send_buffer_with<B: Lends>(
        &self,
        mut buffer: B,
        payload: &[u8],
        priority: u32,
        wait: Wait,
    ) -> Result<(), SendError<B>> {
        match self.lend_buffer(&buffer, payload, priority, wait) {
            Ok(()) => {
                buffer.gone();
                Ok(())
            }
            Err(error) => Err(SendError {
                payload: buffer,
                error,
            }),
        }
    }

    /// Sends a message with a buffer, of which the caller has to say that it is
    /// [gone](lends::Sealed::gone).
    pub(crate) fn lend_buffer<B: Lends>(
        &self,
        buffer: &B,
        payload: &[u8],
        priority: u32,
        wait: Wait,
    ) -> Result<()> {
        let (core, entries) = (buffer.core(), [buffer.entry()]);
        self.inner
            .send_buffers(core, &entries, payload, priority, wait)
    }

    /// Sends a message of several buffers, 1 to 64 of one [`Pool`], and a payload.
    ///
    /// # Errors
    /// [`OtherPool`](ErrorKind::OtherPool) where they are not of one; [`Os`](ErrorKind::Os) with
    /// `EINVAL` for none, or too many. And see [Sending buffers](#sending-buffers).
    pub fn send_buffers<B: Lends>(
        &self,
        buffers: Vec<B>,
        payload: &[u8],
        priority: u32,
        wait: Wait,
    ) -> Result<(), SendError<Vec<B>>> {
        let inner = &self.inner;
        let sent = parts(inner, &buffers).and_then(|(core, entries)| {
            inner.send_buffers(&core, &entries, payload, priority, wait)
        });
        match sent {
            Ok(()) => {
                buffers.into_iter().for_each(|mut buffer| buffer.gone());
                Ok(())
            }
            Err(error) => Err(SendError {
                payload: buffers,
                error,
            }),
        }
    }

    /// Sends a request with buffers, of any number up to 64, and waits for the reply, which may have
    /// some, too. The replies to a call without this come without buffers.
    ///
    /// # Errors
    /// As [`call_with`](Self::call_with), and as [`send_buffers`](Self::send_buffers). The error
    /// gives the buffers back that are still this process's: all, or none if somebody has received
    /// the request. [`OtherPool`](ErrorKind::OtherPool) where the buffers of the reply are of another
    /// pool, which are lost then.
    pub fn call_buffers<B: Lends, T: Trust>(
        &self,
        request: &[u8],
        buffers: Vec<B>,
        pool: &Pool<T>,
        wait: Wait,
    ) -> Result<Shipment<T>, SendError<Vec<B>>> {
        let inner = &self.inner;
        let entries: Vec<_> = buffers.iter().map(lends::Sealed::entry).collect();
        let same = |buffer: &B| Arc::ptr_eq(buffer.core(), &pool.core);
        let early = match wait {
            Wait::Never => Some(inner.error_of_kind(Action::Call, ErrorKind::Unsupported)),
            _ if !buffers.iter().all(same) => {
                let pool = pool.info().map_or(0, |info| info.id);
                Some(inner.error_of_kind(Action::Call, ErrorKind::OtherPool { pool }))
            }
            _ => None,
        };
        if let Some(error) = early {
            return Err(SendError {
                payload: buffers,
                error,
            });
        }
        let (flags, timeout_ns) = wait.flags();
        let mut args = sys::postbox_call::default();
        args.request.flags = flags;
        args.request.timeout_ns = timeout_ns;
        args.reply.fd_max = sys::POSTBOX_FILES_MAX;
        let mut files = Vec::new();
        let mut ride = Ride::new(&pool.core, false);
        let mut asks = ride.leases().entries(&entries);
        let mut room = [MaybeUninit::uninit(); sys::POSTBOX_LEASES_MAX as usize];
        let mut answers = raw::Leases::new(pool.as_fd()).room(&mut room);
        let mut result = inner.fill(|buf| {
            raw::call_leases(
                &inner.fd,
                request,
                &[],
                &mut asks,
                buf,
                &mut files,
                &mut answers,
                &mut args,
            )
        });
        let told = *asks.args();
        ride.end(&told);
        // A reply that did not fit came all the same.
        let lost = Err(Errno::NODATA);
        let came = result.is_ok() || result == lost || args.reply.token != 0;
        while result == Err(Errno::MSGSIZE) && args.reply.token != 0 {
            inner.expect(args.reply.msg_len);
            result = inner.fill(|buf| {
                raw::call_fetch_leases(&inner.fd, buf, &mut files, &mut answers, &mut args)
            });
        }
        let (count, other) = (answers.args().count, answers.args().pool_id);
        let left = if came || told.count == 0 {
            buffers.into_iter().for_each(|mut buffer| buffer.gone());
            Vec::new()
        } else {
            buffers
        };
        match result {
            Ok(payload) => Ok(Shipment {
                message: Message::new(payload, files, &args.reply),
                buffers: pool.buffers(&leased(&room, count)),
            }),
            Err(errno) => {
                let error = match errno {
                    Errno::XDEV => inner.receive_error(Action::Call, errno, other),
                    _ => inner.send_error(Action::Call, errno, request.len()),
                };
                Err(SendError {
                    payload: left,
                    error,
                })
            }
        }
    }
}

/// # Receiving buffers
///
/// What fails, and how it waits, is said under [Receiving](#receiving). Moreover:
/// [`OtherPool`](ErrorKind::OtherPool) where the buffers of the message are of another pool. A message
/// without buffers is received, too. One that has some stays where it is for other receives:
/// [`HasBuffers`](ErrorKind::HasBuffers).
impl<A: CanReceive> Handle<A> {
    /// Receives a message with its buffers, and waits for one: see [`Pool`].
    ///
    /// # Errors
    /// See [Receiving buffers](#receiving-buffers).
    pub fn recv_buffers<T: Trust>(&self, pool: &Pool<T>) -> Result<Shipment<T>> {
        self.recv_buffers_with(pool, Wait::Forever)
    }

    /// Receives a message with its buffers if there is one now.
    ///
    /// # Errors
    /// [`Empty`](ErrorKind::Empty), and see [Receiving buffers](#receiving-buffers).
    pub fn try_recv_buffers<T: Trust>(&self, pool: &Pool<T>) -> Result<Shipment<T>> {
        self.recv_buffers_with(pool, Wait::Never)
    }

    /// Receives a message with its buffers, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Receiving buffers](#receiving-buffers).
    pub fn recv_buffers_timeout<T: Trust>(
        &self,
        pool: &Pool<T>,
        timeout: Duration,
    ) -> Result<Shipment<T>> {
        self.recv_buffers_with(pool, Wait::Timeout(timeout))
    }

    /// Receives a message with its buffers, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Receiving buffers](#receiving-buffers).
    pub fn recv_buffers_deadline<T: Trust>(
        &self,
        pool: &Pool<T>,
        deadline: Instant,
    ) -> Result<Shipment<T>> {
        self.recv_buffers_with(pool, Wait::Deadline(deadline))
    }

    /// Receives a message with its buffers, and waits as `wait` says.
    ///
    /// # Errors
    /// See [Receiving buffers](#receiving-buffers).
    pub fn recv_buffers_with<T: Trust>(&self, pool: &Pool<T>, wait: Wait) -> Result<Shipment<T>> {
        let (shipment, token) = self.inner.recv_buffers(pool, 0, wait)?;
        if shipment.call {
            self.inner.drop_request(token);
        }
        Ok(shipment)
    }

    /// Receives a message with its buffers that is to be acknowledged: see
    /// [`take`](Handle::take). The buffers are the message's until then.
    ///
    /// # Errors
    /// As [`take`](Self::take), and see [Receiving buffers](#receiving-buffers).
    pub fn take_buffers<T: Trust>(
        &self,
        pool: &Pool<T>,
        wait: Wait,
    ) -> Result<ShipmentDelivery<'_, T>> {
        let (shipment, token) = self.inner.recv_buffers(pool, sys::POSTBOX_RECV_ACK, wait)?;
        Ok(ShipmentDelivery {
            delivery: Delivery::new(&self.inner, (shipment.message, token)),
            buffers: shipment.buffers,
        })
    }

    /// Receives a request with its buffers: see [`recv_request`](Self::recv_request).
    ///
    /// # Errors
    /// As [`recv_request`](Self::recv_request), and see [Receiving buffers](#receiving-buffers).
    pub fn recv_request_buffers<T: Trust>(
        &self,
        pool: &Pool<T>,
        wait: Wait,
    ) -> Result<(Request<'_>, Vec<Buffer<T>>)> {
        let (shipment, token) = self.inner.recv_buffers(pool, 0, wait)?;
        let request = Request::new(&self.inner, shipment.message, token);
        Ok((request, shipment.buffers))
    }
}

impl Request<'_> {
    /// Answers with buffers, 1 to 64 of one [`Pool`].
    ///
    /// # Errors
    /// As [`reply`](Self::reply) and [`Handle::send_buffers`].
    pub fn reply_buffers<B: Lends>(
        &mut self,
        payload: &[u8],
        buffers: Vec<B>,
    ) -> Result<(), SendError<Vec<B>>> {
        let replied = self.reply_by(|inner, token| {
            let (core, entries) = parts(inner, &buffers)?;
            let args = sys::postbox_reply {
                token,
                ..Default::default()
            };
            inner
                .ship(&core, &entries, |leases| {
                    raw::reply_leases(&inner.fd, payload, &[], leases, &args)
                })
                .map_err(|errno| inner.send_error(Action::Reply, errno, payload.len()))
        });
        match replied {
            Ok(()) => {
                buffers.into_iter().for_each(|mut buffer| buffer.gone());
                Ok(())
            }
            Err(error) => Err(SendError {
                payload: buffers,
                error,
            }),
        }
    }
}
