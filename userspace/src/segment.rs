//! Memory that several processes have mapped.

use crate::error::{Action, Error, ErrorKind, Result};
use crate::handle::{Access, Handle, Rights, access};
use crate::memory::{Map, OwnPage, Pages, memfd};
use crate::object::{Inner, Kind, Subject};
use crate::robust::{self, Locked, Sleeper};
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, fcntl_dupfd_cloexec, retry_on_intr};
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, Immutable, IntoBytes};

access! {
    /// Reads and writes: the access of a [`Segment`].
    SegmentAccess = Rights::SEND.union(Rights::RECEIVE), "Segment", [Segment];
    /// Reads: the access of a [`SegmentReader`].
    SegmentReading = Rights::RECEIVE, "SegmentReader", [Segment];
}

/// The types of handles to segments.
pub trait SegmentEnd: Access {}

impl SegmentEnd for SegmentAccess {}
impl SegmentEnd for SegmentReading {}

/// Memory that several processes map to read and write.
///
/// Its size never changes: nobody who has it mapped can lose a page of it, whoever the others are.
/// It is there until the last handle is closed (or its name is removed, if it is persistent) and
/// nobody has it mapped any more.
///
/// Others may write it at any moment, so that a [`Mapping`] gives no `&[u8]`: bytes are copied out
/// and in, and what is agreed upon goes through atomics, or a [`Mutex`].
///
/// ```
/// use postbox::{Segment, SegmentReader};
/// use std::sync::atomic::Ordering;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// // One process makes it ...
/// let table = Segment::options().mode(0o640).create("doc/table", 1 << 16)?;
/// let mapping = table.attach()?;
/// mapping.write(64, b"hello")?;
/// mapping.atomic_u64(0)?.store(1, Ordering::Release); // ready
///
/// // ... and another maps it to read, and nothing else.
/// let view = SegmentReader::open("doc/table")?.attach()?;
/// assert_eq!(view.load_u64(0, Ordering::Acquire)?, 1);
/// let mut text = [0; 5];
/// view.read(64, &mut text)?;
/// assert_eq!(&text, b"hello");
/// # Ok(())
/// # }
/// ```
pub type Segment = Handle<SegmentAccess>;

/// A handle to a segment that can only read it: neither it nor what is made of it lets anybody map
/// the memory to be written.
pub type SegmentReader = Handle<SegmentReading>;

/// How a segment is to be opened or made.
///
/// Mode, persistence and pages are those of a new one; one that exists keeps its own.
///
/// ```
/// use postbox::{Pages, Segment};
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let image = Segment::options().anonymous(3 << 20)?;
/// assert_eq!(image.size()?, 3 << 20);
///
/// // What nobody can ever change can be read like any other memory.
/// let config = Segment::options().freeze_anonymous(b"threads = 4\n")?;
/// assert!(config.frozen()?.starts_with(b"threads"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SegmentOptions {
    args: sys::postbox_open,
    admin: bool,
    reserve: bool,
    pages: Pages,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl SegmentOptions {
    /// To open what exists. What is made otherwise is for its owner alone (mode 0600), of normal
    /// pages, and goes with the last handle.
    pub fn new() -> Self {
        SegmentOptions {
            args: sys::postbox_open {
                mode: 0o600,
                ..Default::default()
            },
            admin: false,
            reserve: false,
            pages: Pages::Normal,
        }
    }

    /// Permission bits as of a file: r to map it, w to write, too. The umask is not applied.
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

    /// Opens one that exists.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Denied`](crate::ErrorKind::Denied) (also where it
    /// is frozen), [`InvalidName`](crate::ErrorKind::InvalidName),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) (an object of another kind has the name),
    /// [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
    /// [`Incompatible`](crate::ErrorKind::Incompatible).
    pub fn open(&self, name: &str) -> Result<Segment> {
        self.open_as(Some(name), 0, None)
    }

    /// Opens one that exists, to read only.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_reader(&self, name: &str) -> Result<SegmentReader> {
        self.open_as(Some(name), 0, None)
    }

    /// Opens one, or makes one of at least `size` bytes, in whole pages. It begins with zeros.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Quota`](crate::ErrorKind::Quota) (too many objects, or too much
    /// memory), and [`Os`](crate::ErrorKind::Os) where there is no such memory: `ENOMEM`, and
    /// `ENODEV` for huge pages that this system does not have.
    pub fn create(&self, name: &str, size: u64) -> Result<Segment> {
        self.make(Some(name), 0, size)
    }

    /// Makes one; fails if there is one.
    ///
    /// # Errors
    /// As [`create`](Self::create); [`Exists`](crate::ErrorKind::Exists).
    pub fn create_new(&self, name: &str, size: u64) -> Result<Segment> {
        self.make(Some(name), sys::POSTBOX_O_EXCL, size)
    }

    /// Makes one without a name, for threads, children, and whoever gets a descriptor of it.
    ///
    /// # Errors
    /// As [`create`](Self::create), but for those that come of the name.
    pub fn anonymous(&self, size: u64) -> Result<Segment> {
        self.make(None, 0, size)
    }

    /// Makes one that begins with `contents`, and that nobody can ever write to.
    ///
    /// # Errors
    /// As [`create_new`](Self::create_new).
    pub fn freeze(&self, name: &str, contents: &[u8]) -> Result<SegmentReader> {
        self.make_frozen(Some(name), contents)
    }

    /// Makes such a one without a name.
    ///
    /// # Errors
    /// As [`anonymous`](Self::anonymous).
    pub fn freeze_anonymous(&self, contents: &[u8]) -> Result<SegmentReader> {
        self.make_frozen(None, contents)
    }

    /// Makes one of a memfd that its maker has filled and sealed: against shrinking, growing and
    /// further seals, and where it is to be frozen, against writing. The descriptor can be closed
    /// then; as long as it is open, it is another way to that memory.
    ///
    /// # Errors
    /// As [`create_new`](Self::create_new); [`Os`](crate::ErrorKind::Os) with `EINVAL` where it is
    /// not such a memfd; [`Denied`](crate::ErrorKind::Denied) where it cannot be written, but
    /// `A` says that it can.
    pub fn of_memfd<A: SegmentEnd>(
        &self,
        name: Option<&str>,
        memfd: impl AsFd,
    ) -> Result<Handle<A>> {
        self.open_as(name, CREATE_NEW, Some(memfd.as_fd()))
    }

    fn make(&self, name: Option<&str>, flags: u32, size: u64) -> Result<Segment> {
        let memfd = self.memory(name, size, None)?;
        self.open_as(name, sys::POSTBOX_O_CREATE | flags, Some(memfd.as_fd()))
    }

    fn make_frozen(&self, name: Option<&str>, contents: &[u8]) -> Result<SegmentReader> {
        let memfd = self.memory(name, contents.len() as u64, Some(contents))?;
        self.open_as(name, CREATE_NEW, Some(memfd.as_fd()))
    }

    /// At least one page of memory.
    fn memory(&self, name: Option<&str>, size: u64, contents: Option<&[u8]>) -> Result<OwnedFd> {
        memfd(size.max(1), self.pages, contents).map_err(|errno| {
            Error::new(
                Action::MakeMemory,
                &Subject::new(Kind::Segment, name),
                errno,
            )
        })
    }

    fn open_as<A: Access>(
        &self,
        name: Option<&str>,
        flags: u32,
        memfd: Option<rustix::fd::BorrowedFd<'_>>,
    ) -> Result<Handle<A>> {
        let mut args = self.args;
        // What is only opened, or has no name, does not persist.
        if flags == 0 || name.is_none() {
            args.flags = flags & sys::POSTBOX_O_CREATE;
        } else {
            args.flags |= flags;
        }
        if self.reserve && memfd.is_some() {
            args.flags |= sys::POSTBOX_O_RESERVE;
        }
        let admin = if self.admin {
            Rights::ADMIN
        } else {
            Rights::empty()
        };
        let subject = Subject::new(Kind::Segment, name);
        let (inner, _) = Inner::open_with(subject, A::RIGHTS | admin, args, memfd)?;
        Ok(Handle::from_inner(inner))
    }
}

const CREATE_NEW: u32 = sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL;

impl<A: SegmentEnd> Handle<A> {
    /// Its bytes: whole pages.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn size(&self) -> Result<u64> {
        Ok(self.info()?.capacity_bytes.unwrap_or(0))
    }

    /// Maps all of it to read it, and only to read it.
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) if the grant through which it was opened was taken
    /// back; [`Os`](crate::ErrorKind::Os) with `ENOMEM` where there is no room for it.
    pub fn view(&self) -> Result<View> {
        self.view_part(0..self.size()?)
    }

    /// Maps a part of it to read it. It begins and ends with a page.
    ///
    /// # Errors
    /// As [`view`](Self::view); [`Os`](crate::ErrorKind::Os) with `EINVAL` where there is no such
    /// part.
    pub fn view_part(&self, part: Range<u64>) -> Result<View> {
        self.map(part, false)
    }

    /// Maps all of it as what it is if nobody can ever write to it: bytes like any others. Behind the
    /// contents that it was made with there are zeros up to a whole page.
    ///
    /// # Errors
    /// As [`view`](Self::view); [`Unsupported`](crate::ErrorKind::Unsupported) if it is not frozen:
    /// the kernel says so, not whoever made it.
    pub fn frozen(&self) -> Result<Frozen> {
        let info = self.info()?;
        if !info.frozen {
            let kind = ErrorKind::Unsupported;
            return Err(self.inner.error_of_kind(Action::MapFrozen, kind));
        }
        Ok(Frozen(
            self.map(0..info.capacity_bytes.unwrap_or(0), false)?,
        ))
    }

    fn map(&self, part: Range<u64>, writable: bool) -> Result<View> {
        let len = part.end.checked_sub(part.start);
        let len = len.and_then(|len| usize::try_from(len).ok());
        let map = len
            .ok_or(Errno::INVAL)
            .and_then(|len| Map::new(self, part.start, len, writable));
        Ok(View {
            map: map.map_err(|errno| self.inner.error(Action::Attach, errno))?,
            subject: self.inner.subject.clone(),
        })
    }
}

impl Segment {
    /// How a segment is to be opened or made: see [`SegmentOptions`].
    pub fn options() -> SegmentOptions {
        SegmentOptions::new()
    }

    /// Opens an existing segment to read and write.
    ///
    /// # Errors
    /// As [`SegmentOptions::open`].
    pub fn open(name: &str) -> Result<Segment> {
        SegmentOptions::new().open(name)
    }

    /// Maps all of it to read and write.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    pub fn attach(&self) -> Result<Mapping> {
        self.attach_part(0..self.size()?)
    }

    /// Maps a part of it to read and write. It begins and ends with a page.
    ///
    /// # Errors
    /// As [`view_part`](Self::view_part).
    pub fn attach_part(&self, part: Range<u64>) -> Result<Mapping> {
        // What is known of a process's locks belongs to the open file.
        let fd = fcntl_dupfd_cloexec(self, 0)
            .map_err(|errno| self.inner.error(Action::Attach, errno))?;
        Ok(Mapping {
            base: part.start,
            view: self.map(part, true)?,
            fd,
            number: OnceLock::new(),
        })
    }

    /// A second handle that can only read.
    ///
    /// # Errors
    /// No descriptor is left ([`NoDescriptors`](crate::ErrorKind::NoDescriptors)), or no memory
    /// ([`Os`](crate::ErrorKind::Os)).
    pub fn reader(&self) -> Result<SegmentReader> {
        self.inner.dup(Rights::RECEIVE).map(Handle::from_inner)
    }
}

impl SegmentReader {
    /// Opens an existing segment to read only.
    ///
    /// # Errors
    /// As [`SegmentOptions::open`].
    pub fn open(name: &str) -> Result<SegmentReader> {
        SegmentOptions::new().open_reader(name)
    }

    /// Maps all of it: what [`view`](Self::view) does.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    pub fn attach(&self) -> Result<View> {
        self.view()
    }
}

/// A segment, or a part of it, that is mapped to be read. It stays mapped when the handle is closed.
///
/// Offsets count from the beginning of what is mapped.
///
/// # What can fail
///
/// Everything that takes an offset: [`OutOfBounds`](crate::ErrorKind::OutOfBounds), and
/// [`Misaligned`](crate::ErrorKind::Misaligned) for what is accessed in one piece.
#[derive(Debug)]
pub struct View {
    map: Map,
    subject: Subject,
}

impl View {
    /// Its bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether it has none, which is never so.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Where it begins.
    pub fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr()
    }

    /// Copies from it. What others write meanwhile may come in part.
    ///
    /// # Errors
    /// See [What can fail](#what-can-fail).
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<()> {
        let copied = self.map.read(offset, to);
        copied.ok_or_else(|| self.out_of_bounds(offset, to.len()))
    }

    /// Copies a value from it, of which every bit pattern is one.
    ///
    /// # Errors
    /// See [What can fail](#what-can-fail).
    pub fn get<T: FromBytes>(&self, offset: usize) -> Result<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let from = self.place(offset, size_of::<T>())?;
        // SAFETY: So many bytes are mapped there, and fit.
        unsafe { crate::memory::copy_out(from, value.as_mut_ptr().cast(), size_of::<T>()) };
        // SAFETY: All of its bytes were written, and any are a `T`.
        Ok(unsafe { value.assume_init() })
    }

    /// Loads a number in one piece.
    ///
    /// # Errors
    /// See [What can fail](#what-can-fail).
    pub fn load_u32(&self, offset: usize, ordering: Ordering) -> Result<u32> {
        // SAFETY: It is only loaded.
        Ok(unsafe { self.atomic::<AtomicU32>(offset)? }.load(ordering))
    }

    /// Loads a number in one piece.
    ///
    /// # Errors
    /// See [What can fail](#what-can-fail).
    pub fn load_u64(&self, offset: usize, ordering: Ordering) -> Result<u64> {
        // SAFETY: It is only loaded.
        Ok(unsafe { self.atomic::<AtomicU64>(offset)? }.load(ordering))
    }

    /// Some of it as bytes like any others.
    ///
    /// # Safety
    /// Nobody, in this process or another, writes there as long as the slice is used. Where the
    /// kernel can make sure of that, for all, use [`Handle::frozen`].
    ///
    /// # Errors
    /// See [What can fail](#what-can-fail).
    pub unsafe fn slice(&self, offset: usize, len: usize) -> Result<&[u8]> {
        let at = self.place(offset, len)?;
        // SAFETY: It is mapped, and nobody writes: by the contract.
        Ok(unsafe { std::slice::from_raw_parts(at, len) })
    }

    fn place(&self, offset: usize, len: usize) -> Result<*mut u8> {
        let place = self.map.range(offset, len);
        place.ok_or_else(|| self.out_of_bounds(offset, len))
    }

    /// # Safety
    /// `T` is an atomic, which is not stored to where the mapping is read-only.
    unsafe fn atomic<T>(&self, offset: usize) -> Result<&T> {
        let at = self.place(offset, size_of::<T>())?.cast::<T>();
        if !at.is_aligned() {
            let align = align_of::<T>();
            return Err(self.error(ErrorKind::Misaligned { align }));
        }
        // SAFETY: It is mapped, aligned, and only accessed atomically: by the contract, or by what
        // users of `slice` promise.
        Ok(unsafe { &*at })
    }

    fn out_of_bounds(&self, offset: usize, len: usize) -> Error {
        self.error(ErrorKind::OutOfBounds {
            end: offset.saturating_add(len) as u64,
            len: self.len() as u64,
        })
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::of_kind(Action::Access, &self.subject, kind)
    }
}

/// A segment that nobody can ever write to, mapped: bytes like any others.
#[derive(Debug)]
pub struct Frozen(View);

impl Deref for Frozen {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let View { map, .. } = &self.0;
        // SAFETY: It is mapped, and the kernel has said that nobody can write it, nor change its
        // size.
        unsafe { std::slice::from_raw_parts(map.as_ptr(), map.len()) }
    }
}

/// A segment, or a part of it, that is mapped to be read and written. It stays mapped when the handle
/// is closed. It can all that a [`View`] can.
#[derive(Debug)]
pub struct Mapping {
    view: View,
    /// Where in the segment it begins.
    base: u64,
    fd: OwnedFd,
    /// This process's number in the segment, once it is needed.
    number: OnceLock<OwnPage>,
}

impl Deref for Mapping {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl Mapping {
    /// Where it begins.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.map.as_ptr()
    }

    /// Copies to it. Who reads meanwhile may get a part.
    ///
    /// # Errors
    /// See [What can fail](View#what-can-fail).
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<()> {
        let copied = self.map.write(offset, from);
        copied.ok_or_else(|| self.out_of_bounds(offset, from.len()))
    }

    /// Copies a value to it.
    ///
    /// # Errors
    /// See [What can fail](View#what-can-fail).
    pub fn put<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) -> Result<()> {
        self.write(offset, value.as_bytes())
    }

    /// A number in it that is loaded and stored in one piece.
    ///
    /// # Errors
    /// See [What can fail](View#what-can-fail).
    pub fn atomic_u32(&self, offset: usize) -> Result<&AtomicU32> {
        // SAFETY: It is an atomic, and the mapping is writable.
        unsafe { self.atomic(offset) }
    }

    /// A number in it that is loaded and stored in one piece.
    ///
    /// # Errors
    /// See [What can fail](View#what-can-fail).
    pub fn atomic_u64(&self, offset: usize) -> Result<&AtomicU64> {
        // SAFETY: It is an atomic, and the mapping is writable.
        unsafe { self.atomic(offset) }
    }

    /// Some of it as bytes like any others.
    ///
    /// # Safety
    /// Nobody else, in this process or another, reads or writes there as long as the slice is used.
    ///
    /// # Errors
    /// See [What can fail](View#what-can-fail).
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice_mut(&self, offset: usize, len: usize) -> Result<&mut [u8]> {
        let at = self.place(offset, len)?;
        // SAFETY: It is mapped to be written, and nobody else does: by the contract.
        Ok(unsafe { std::slice::from_raw_parts_mut(at, len) })
    }

    /// A lock and what it guards, in [`Mutex::SIZE`] bytes from `offset` on. Where these are zero,
    /// nobody has it, and all bytes of the value are zero.
    ///
    /// # Errors
    /// See [What can fail](View#what-can-fail).
    pub fn mutex<T: FromBytes + IntoBytes + Immutable>(
        &self,
        offset: usize,
    ) -> Result<Mutex<'_, T>> {
        let at = self.place(offset, Mutex::<T>::SIZE)?;
        if !at.cast::<T>().is_aligned() {
            let align = align_of::<T>();
            return Err(self.error(ErrorKind::Misaligned { align }));
        }
        Ok(Mutex {
            mapping: self,
            word: self.atomic_u64(offset)?,
            offset: self.base + offset as u64,
            value: offset + Mutex::<T>::VALUE,
            guarded: PhantomData,
        })
    }

    /// This process's number in the segment. After a fork, the child has another.
    fn number(&self) -> Result<u64> {
        let error = |errno| Error::new(Action::Lock, &self.subject, errno);
        let page = match self.number.get() {
            Some(page) => page,
            None => {
                let page = OwnPage::new().map_err(error)?;
                self.number.get_or_init(|| page)
            }
        };
        match page.load() {
            0 => {
                let number = raw::attach(&self.fd).map_err(error)?;
                page.store(number);
                Ok(number)
            }
            number => Ok(number),
        }
    }
}

/// A lock in shared memory and the value that it guards, which are got with [`Mapping::mutex`].
///
/// Taking it and giving it up cost no system call as long as nobody waits. Where a process dies that
/// has it, the next one gets it and is told ([`owner_died`](MutexGuard::owner_died)); it puts the value
/// in order and says so ([`mark_consistent`](MutexGuard::mark_consistent)), or nobody ever gets it
/// again ([`Unrecoverable`](crate::ErrorKind::Unrecoverable)).
///
/// All processes that have the segment mapped to be written are trusted to keep to it: one that
/// writes there as it likes can spoil the value and keep the others waiting, but nothing else of
/// theirs. It is not fair: who comes by when it is given up may be faster than who waits.
///
/// ```
/// use postbox::Segment;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let mapping = Segment::options().anonymous(4096)?.attach()?;
/// let total = mapping.mutex::<u64>(0)?;
/// let mut guard = total.lock()?;
/// if guard.owner_died() {
///     // Look after what the dead process left half done.
///     guard.mark_consistent();
/// }
/// guard.update(|total| *total += 5);
/// drop(guard);
/// assert_eq!(total.lock()?.get(), 5);
/// # Ok(())
/// # }
/// ```
pub struct Mutex<'a, T> {
    mapping: &'a Mapping,
    word: &'a AtomicU64,
    /// Where the word is in the segment.
    offset: u64,
    /// Where the value is in the mapping.
    value: usize,
    guarded: PhantomData<fn(T) -> T>,
}

/// # Taking it
///
/// What can fail: [`NotYet`](crate::ErrorKind::NotYet) where the call does not wait;
/// [`Timeout`](crate::ErrorKind::Timeout) where it has a limit;
/// [`Unrecoverable`](crate::ErrorKind::Unrecoverable); [`Os`](crate::ErrorKind::Os) when memory is
/// short. A signal handler does not end a wait: see [`Wait`].
impl<'a, T: FromBytes + IntoBytes + Immutable> Mutex<'a, T> {
    const VALUE: usize = if align_of::<T>() > 8 {
        align_of::<T>()
    } else {
        8
    };

    /// The bytes that it takes, the value among them.
    pub const SIZE: usize = Self::VALUE + size_of::<T>();

    /// Takes it, and waits for it.
    ///
    /// # Errors
    /// See [Taking it](#taking-it).
    #[inline]
    pub fn lock(&self) -> Result<MutexGuard<'_, 'a, T>> {
        self.lock_with(Wait::Forever)
    }

    /// Takes it if nobody has it, or the process that has it is gone.
    ///
    /// # Errors
    /// [`NotYet`](crate::ErrorKind::NotYet), and see [Taking it](#taking-it).
    pub fn try_lock(&self) -> Result<MutexGuard<'_, 'a, T>> {
        self.lock_with(Wait::Never)
    }

    /// Takes it, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [Taking it](#taking-it).
    pub fn lock_timeout(&self, timeout: Duration) -> Result<MutexGuard<'_, 'a, T>> {
        self.lock_with(Wait::Timeout(timeout))
    }

    /// Takes it, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [Taking it](#taking-it).
    pub fn lock_deadline(&self, deadline: Instant) -> Result<MutexGuard<'_, 'a, T>> {
        self.lock_with(Wait::Deadline(deadline))
    }

    /// Takes it, and waits as `wait` says.
    ///
    /// # Errors
    /// See [Taking it](#taking-it).
    #[inline]
    pub fn lock_with(&self, wait: Wait) -> Result<MutexGuard<'_, 'a, T>> {
        let me = self.mapping.number()?;
        let locked = if robust::try_lock(self.word, me) {
            Locked::Clean
        } else {
            self.lock_slowly(me, wait)?
        };
        Ok(MutexGuard {
            mutex: self,
            me,
            owner_died: locked == Locked::OwnerDied,
            consistent: locked == Locked::Clean,
        })
    }

    #[cold]
    fn lock_slowly(&self, me: u64, wait: Wait) -> Result<Locked> {
        let wait = wait.fixed();
        let sleeper = self.sleeper(wait, wait.flags());
        let subject = &self.mapping.subject;
        match robust::lock(self.word, me, &sleeper, wait != Wait::Never) {
            Ok(Locked::Unrecoverable) => {
                let kind = ErrorKind::Unrecoverable;
                Err(Error::of_kind(Action::Lock, subject, kind))
            }
            Ok(locked) => Ok(locked),
            Err(errno) => Err(Error::new(Action::Lock, subject, errno)),
        }
    }

    /// What waits until `wait` is over, which the kernel takes as these flags and this time.
    #[inline]
    fn sleeper(&self, wait: Wait, (flags, timeout_ns): (u32, u64)) -> Word<'a> {
        Word {
            fd: &self.mapping.fd,
            wait,
            args: sys::postbox_word {
                flags,
                offset: self.offset,
                timeout_ns,
                ..Default::default()
            },
        }
    }
}

impl<T> fmt::Debug for Mutex<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Ordering::Relaxed);
        f.debug_struct("Mutex")
            .field("offset", &self.offset)
            .field("owner", &(word & robust::OWNER))
            .finish_non_exhaustive()
    }
}

/// A word that the kernel sleeps and wakes for.
struct Word<'a> {
    fd: &'a OwnedFd,
    wait: Wait,
    args: sys::postbox_word,
}

impl Sleeper for Word<'_> {
    type Error = Errno;

    fn sleep(&self, value: u64) -> Result<bool, Errno> {
        let args = sys::postbox_word { value, ..self.args };
        let state = retry_on_intr(|| raw::wait_word(self.fd, &args))?;
        Ok(state & sys::POSTBOX_WORD_OWNER_DIED != 0)
    }

    fn wake(&self, all: bool) {
        let count = if all { u32::MAX } else { 1 };
        let args = sys::postbox_word { count, ..self.args };
        // It cannot fail: the word is in the segment.
        let _ = raw::wake_word(self.fd, &args);
    }

    fn over(&self) -> Option<Errno> {
        match self.wait {
            Wait::Never => Some(Errno::AGAIN),
            wait => wait.is_over().then_some(Errno::TIMEDOUT),
        }
    }
}

/// The lock is taken; it is given up when this is dropped, or when the process dies.
///
/// The value is copied out and in: others could write it, even if they should not. A process that
/// trusts them can have a reference ([`as_mut`](Self::as_mut)).
#[must_use = "the lock is given up at once"]
pub struct MutexGuard<'m, 'a, T: FromBytes + IntoBytes + Immutable> {
    mutex: &'m Mutex<'a, T>,
    me: u64,
    owner_died: bool,
    consistent: bool,
}

impl<T: FromBytes + IntoBytes + Immutable> MutexGuard<'_, '_, T> {
    /// Whether a process died that had it: the value may be half written.
    pub fn owner_died(&self) -> bool {
        self.owner_died
    }

    /// What a dead process left half done is in order again. Without this, nobody gets the lock any
    /// more once this is dropped.
    pub fn mark_consistent(&mut self) {
        self.consistent = true;
    }

    /// The value.
    pub fn get(&self) -> T {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: It is mapped there, which `Mapping::mutex` made sure of, and fits.
        unsafe { crate::memory::copy_out(self.at(), value.as_mut_ptr().cast(), size_of::<T>()) };
        // SAFETY: All of its bytes were written, and any are a `T`.
        unsafe { value.assume_init() }
    }

    /// Sets the value.
    pub fn set(&mut self, value: &T) {
        let bytes = value.as_bytes();
        // SAFETY: It is mapped there to be written, and has as many bytes.
        unsafe { crate::memory::copy_in(bytes.as_ptr(), self.at(), bytes.len()) };
    }

    /// Changes the value. Where `change` panics, the value is as it was.
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.get();
        let result = change(&mut value);
        self.set(&value);
        result
    }

    /// The value in its place.
    ///
    /// # Safety
    /// Nobody writes to it who does not have the lock, whoever has the segment mapped.
    pub unsafe fn as_mut(&mut self) -> &mut T {
        // SAFETY: It is mapped to be written and aligned, any bytes are a `T`, and this has the lock.
        unsafe { &mut *self.at().cast() }
    }

    fn at(&self) -> *mut u8 {
        // SAFETY: It is in the mapping.
        unsafe { self.mutex.mapping.as_mut_ptr().add(self.mutex.value) }
    }
}

impl<T: FromBytes + IntoBytes + Immutable> Drop for MutexGuard<'_, '_, T> {
    #[inline]
    fn drop(&mut self) {
        let mapping = self.mutex.mapping;
        // After a fork, the child has the guard too, and not the lock.
        if mapping
            .number
            .get()
            .is_some_and(|page| page.load() == self.me)
        {
            let sleeper = self.mutex.sleeper(Wait::Forever, (0, 0));
            robust::unlock(self.mutex.word, self.me, &sleeper, self.consistent);
        }
    }
}

impl<T: FromBytes + IntoBytes + Immutable> fmt::Debug for MutexGuard<'_, '_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MutexGuard")
            .field("mutex", self.mutex)
            .field("owner_died", &self.owner_died)
            .finish_non_exhaustive()
    }
}
