//! The kernel's requests, one function each, with its error numbers and nothing added.
//!
//! Every function fills in `size` and the pointers and lengths of its argument; all other fields
//! are the caller's. Nothing is retried: an interrupted wait gives
//! [`Errno::INTR`](rustix::io::Errno::INTR).
//!
//! The functions take any descriptor. One that is not postbox's gives `ENOTTY`, as other drivers do
//! not use the request type 0xBE; the types of this crate make sure of it with [`version`]. A driver
//! that accepts the request and does nothing gives `ENOTTY` too: no memory and no descriptor is
//! taken for written before the kernel has said so.
//!
//! The safe functions own the pointers of their arguments, and pass on only flags that they know
//! (`EINVAL`): one that they do not know might change what such a pointer means.

use crate::sys;
use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode};

/// Where the module is found.
pub const DEVICE: &str = "/dev/postbox";

/// Opens [`DEVICE`]: a handle that is not bound to an object yet.
///
/// # Errors
/// `ENOENT` or `ENXIO`: the module is not loaded. `EACCES`: the caller is not in the device's
/// group.
pub fn device() -> Result<OwnedFd> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

struct Call<'a, T> {
    request: Opcode,
    args: &'a mut T,
}

// SAFETY: the pointer is to a T that is borrowed for as long as the call lasts. That it is the T
// which the request wants is what the caller of `ioctl` promises.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.request
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut *self.args).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> Result<()> {
        Ok(())
    }
}

/// Any request with any argument.
///
/// # Safety
/// `T` must be what `request` takes on `fd`, and the pointers in it must be valid for what the
/// request does with them.
pub unsafe fn ioctl<T>(fd: impl AsFd, request: u32, args: &mut T) -> Result<()> {
    // Of another type in some of rustix's builds.
    let request = request as Opcode;
    // SAFETY: passed on to the caller.
    unsafe { rustix::ioctl::ioctl(fd, Call { request, args }) }
}

fn size_of<T>() -> u32 {
    const { core::mem::size_of::<T>() as u32 }
}

/// Flags that callers of a safe function may set. None of them changes what a pointer of the
/// argument points to.
mod known {
    use crate::sys;

    pub(super) const WAIT: u32 = sys::POSTBOX_NONBLOCK
        | sys::POSTBOX_TIMEOUT
        | sys::POSTBOX_DEADLINE
        | sys::POSTBOX_REALTIME;
    pub(super) const OPEN: u32 = sys::POSTBOX_O_CREATE
        | sys::POSTBOX_O_EXCL
        | sys::POSTBOX_O_PERSIST
        | sys::POSTBOX_O_PORT
        | sys::POSTBOX_O_NO_BACK
        | sys::POSTBOX_O_NO_FORWARD
        | sys::POSTBOX_O_MANY
        | sys::POSTBOX_O_RESERVE;
    pub(super) const CONNECT: u32 = WAIT | sys::POSTBOX_CONNECT_PORT;
    pub(super) const LIST: u32 = sys::POSTBOX_LIST_ALL;
    pub(super) const SEND: u32 = WAIT | sys::POSTBOX_SEND_RESERVED;
    pub(super) const RECV: u32 = WAIT | sys::POSTBOX_RECV_ACK | sys::POSTBOX_RECV_FROM;
    pub(super) const RECV_BATCH: u32 = WAIT | sys::POSTBOX_RECV_ACK;
    /// Where the reply of a call goes.
    pub(super) const ANSWER: u32 = WAIT | sys::POSTBOX_CALL_FETCH;
    pub(super) const REPLY: u32 = sys::POSTBOX_REPLY_DROP | sys::POSTBOX_REPLY_CHECK;
}

/// Refuses what a newer kernel might take for something else: a flag that is not known, or a
/// reserved field that is not zero.
#[inline]
fn check(flags: u32, known: u32, reserved: u32) -> Result<()> {
    if flags & !known == 0 && reserved == 0 {
        Ok(())
    } else {
        Err(Errno::INVAL)
    }
}

/// No descriptor: what a field is set to that the kernel writes one to.
pub(crate) const NO_FD: i32 = -1;

/// Takes a descriptor from a field that was [`NO_FD`] before the request.
///
/// # Safety
/// If the field is not negative, the kernel has made the descriptor for this request, and it is
/// taken once.
pub(crate) unsafe fn own(fd: i32) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(Errno::NOTTY);
    }
    // SAFETY: the caller guarantees that it is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the module is.
///
/// *References*: `POSTBOX_VERSION`, [`sys::postbox_version`].
pub fn version(fd: impl AsFd) -> Result<sys::postbox_version> {
    let mut args = sys::postbox_version {
        size: size_of::<sys::postbox_version>(),
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_VERSION, &mut args)? };
    Ok(args)
}

/// Binds a handle to the object called `name`, or to a new one without a name. `args.memfd` is not
/// used: [`open_memory`] makes an object with memory.
///
/// *References*: `POSTBOX_OPEN`, [`sys::postbox_open`].
pub fn open(fd: impl AsFd, name: Option<&[u8]>, args: &mut sys::postbox_open) -> Result<()> {
    let memory = [sys::POSTBOX_KIND_SEGMENT, sys::POSTBOX_KIND_POOL].contains(&args.kind);
    // 0 would be a descriptor.
    let made = memory && args.flags & sys::POSTBOX_O_CREATE != 0;
    args.memfd = if made { NO_FD } else { 0 };
    bind(fd, name, args)
}

/// As [`open`], with the memory of a new segment or pool.
///
/// *References*: `POSTBOX_OPEN`, [`sys::postbox_open`].
pub fn open_memory(
    fd: impl AsFd,
    name: Option<&[u8]>,
    memfd: BorrowedFd<'_>,
    args: &mut sys::postbox_open,
) -> Result<()> {
    args.memfd = memfd.as_raw_fd();
    bind(fd, name, args)
}

fn bind(fd: impl AsFd, name: Option<&[u8]>, args: &mut sys::postbox_open) -> Result<()> {
    check(args.flags, known::OPEN, 0)?;
    args.size = size_of::<sys::postbox_open>();
    args.name = name.map_or(0, |name| name.as_ptr() as u64);
    args.name_len = name.map_or(0, |name| length(name.len()));
    // SAFETY: the request takes this struct and reads `name_len` bytes at `name`, which is
    // borrowed.
    unsafe { ioctl(fd, sys::POSTBOX_OPEN, args) }
}

/// A length in 32 bits. What does not fit is too long for the kernel in any case.
#[inline]
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A second handle to the same object, with `rights`, close-on-exec.
///
/// *References*: `POSTBOX_DUP`, [`sys::postbox_dup`].
pub fn dup(fd: impl AsFd, rights: u32) -> Result<OwnedFd> {
    let mut args = sys::postbox_dup {
        size: size_of::<sys::postbox_dup>(),
        rights,
        fd: NO_FD,
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_DUP, &mut args)? };
    // SAFETY: the request writes a descriptor that it makes, and nothing else.
    unsafe { own(args.fd) }
}

/// Takes a name away.
///
/// *References*: `POSTBOX_UNLINK`, [`sys::postbox_unlink`].
pub fn unlink(fd: impl AsFd, name: &[u8]) -> Result<()> {
    let mut args = sys::postbox_unlink {
        size: size_of::<sys::postbox_unlink>(),
        // A longer one is refused by the kernel, and never taken for `POSTBOX_UNLINK_ID`.
        name_len: length(name.len().min(sys::POSTBOX_NAME_MAX as usize + 1)),
        name: name.as_ptr() as u64,
    };
    // SAFETY: the request takes this struct and reads `name_len` bytes at `name`, which is
    // borrowed.
    unsafe { ioctl(fd, sys::POSTBOX_UNLINK, &mut args) }
}

/// Takes away whatever the object of this number is found by.
///
/// *References*: `POSTBOX_UNLINK` with `POSTBOX_UNLINK_ID`, [`sys::postbox_unlink`].
pub fn unlink_id(fd: impl AsFd, id: u64) -> Result<()> {
    let mut args = sys::postbox_unlink {
        size: size_of::<sys::postbox_unlink>(),
        name_len: sys::POSTBOX_UNLINK_ID,
        name: id,
    };
    // SAFETY: the request takes this struct, which with this flag has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_UNLINK, &mut args) }
}

/// Changes owner, group or mode.
///
/// *References*: `POSTBOX_SET_ATTR`, [`sys::postbox_attr`].
pub fn set_attr(fd: impl AsFd, args: &sys::postbox_attr) -> Result<()> {
    let mut args = sys::postbox_attr {
        size: size_of::<sys::postbox_attr>(),
        ..*args
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_SET_ATTR, &mut args) }
}

/// Attributes, state and counters of the handle's object.
///
/// *References*: `POSTBOX_INFO`, [`sys::postbox_info`].
pub fn info(fd: impl AsFd) -> Result<sys::postbox_info> {
    let mut args = sys::postbox_info {
        size: size_of::<sys::postbox_info>(),
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_INFO, &mut args)? };
    Ok(args)
}

/// The named objects whose id is larger than `after`; returns how many of `infos` were filled in.
///
/// *References*: `POSTBOX_LIST`, [`sys::postbox_list`].
pub fn list(fd: impl AsFd, after: u64, infos: &mut [sys::postbox_info]) -> Result<usize> {
    list_with(fd, 0, after, infos)
}

/// As [`list`], with `POSTBOX_LIST_*` flags.
///
/// *References*: `POSTBOX_LIST`, [`sys::postbox_list`].
pub fn list_with(
    fd: impl AsFd,
    flags: u32,
    after: u64,
    infos: &mut [sys::postbox_info],
) -> Result<usize> {
    check(flags, known::LIST, 0)?;
    let mut args = sys::postbox_list {
        size: size_of::<sys::postbox_list>(),
        count: length(infos.len()),
        infos: infos.as_mut_ptr() as u64,
        info_size: size_of::<sys::postbox_info>(),
        flags,
        after,
    };
    // SAFETY: the request takes this struct and writes at most `count` entries of `info_size` bytes
    // at `infos`, which is mutably borrowed; any bytes are a valid `postbox_info`.
    unsafe { ioctl(fd, sys::POSTBOX_LIST, &mut args)? };
    Ok(infos.len().min(args.count as usize))
}

/// The id of the object that was made last, beyond which a list need not go: others may make objects as
/// fast as they are listed.
///
/// *References*: `POSTBOX_LIST`, [`sys::postbox_list`].
pub fn last_object(fd: impl AsFd) -> Result<u64> {
    let mut args = sys::postbox_list {
        size: size_of::<sys::postbox_list>(),
        info_size: size_of::<sys::postbox_info>(),
        ..Default::default()
    };
    // SAFETY: the request takes this struct, whose array has no entries.
    unsafe { ioctl(fd, sys::POSTBOX_LIST, &mut args)? };
    Ok(args.after)
}

/// The object called `name`, without a right to it.
///
/// *References*: `POSTBOX_LIST` with `POSTBOX_LIST_NAME`, [`sys::postbox_list`].
pub fn stat(fd: impl AsFd, name: &[u8]) -> Result<sys::postbox_info> {
    let mut info = sys::postbox_info {
        name_len: length(name.len()),
        ..Default::default()
    };
    // What does not fit is refused for its length.
    for (to, from) in info.name.iter_mut().zip(name) {
        *to = *from as _;
    }
    let mut args = sys::postbox_list {
        size: size_of::<sys::postbox_list>(),
        count: 1,
        infos: (&raw mut info) as u64,
        info_size: size_of::<sys::postbox_info>(),
        flags: sys::POSTBOX_LIST_NAME,
        after: 0,
    };
    // SAFETY: the request takes this struct and reads and writes one entry of `info_size` bytes at
    // `info`; any bytes are a valid `postbox_info`.
    unsafe { ioctl(fd, sys::POSTBOX_LIST, &mut args)? };
    Ok(info)
}

/// What the caller's user has in use.
///
/// *References*: `POSTBOX_USAGE`, [`sys::postbox_usage`].
pub fn usage(fd: impl AsFd) -> Result<sys::postbox_usage> {
    let mut args = sys::postbox_usage {
        size: size_of::<sys::postbox_usage>(),
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_USAGE, &mut args)? };
    Ok(args)
}

/// A file to send in a message.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct SendFd<'a>(sys::postbox_fd, PhantomData<BorrowedFd<'a>>);

impl<'a> SendFd<'a> {
    /// This file; or, where `rights` are not 0, a new handle with those rights to the postbox
    /// object that it is a handle of.
    pub fn new(fd: BorrowedFd<'a>, rights: u32) -> Self {
        let args = sys::postbox_fd {
            fd: fd.as_raw_fd(),
            rights,
        };
        SendFd(args, PhantomData)
    }
}

/// A file that came with a message.
#[derive(Debug)]
pub struct ReceivedFd {
    /// The descriptor, close-on-exec.
    pub fd: OwnedFd,
    /// The rights of a handle of postbox; 0 for other files.
    pub rights: u32,
}

/// Room for the files of one message.
struct Room([MaybeUninit<sys::postbox_fd>; sys::POSTBOX_FILES_MAX as usize]);

impl Room {
    fn new() -> Self {
        Room([MaybeUninit::uninit(); sys::POSTBOX_FILES_MAX as usize])
    }

    /// Has the kernel write here, at most what the caller asks for.
    #[inline]
    fn offer(&mut self, args: &mut sys::postbox_recv) {
        args.fd_max = args.fd_max.min(sys::POSTBOX_FILES_MAX);
        args.fds = self.0.as_mut_ptr() as u64;
        // None, until the kernel says how many it has written.
        args.fd_count = 0;
    }

    /// # Safety
    /// `args` was offered this room, has not been changed since but by the kernel, which has
    /// received a message into it, and its files have not been taken yet.
    #[inline]
    unsafe fn take(&self, args: &sys::postbox_recv, files: &mut Vec<ReceivedFd>) {
        if args.fd_count != 0 {
            // SAFETY: passed on to the caller.
            unsafe { self.take_some(args, files) };
        }
    }

    /// # Safety
    /// As for [`Self::take`].
    #[cold]
    unsafe fn take_some(&self, args: &sys::postbox_recv, files: &mut Vec<ReceivedFd>) {
        let count = args.fd_count.min(args.fd_max) as usize;
        files.extend(self.0.iter().take(count).filter_map(|entry| {
            // SAFETY: `fd_count` was 0, so that the kernel has written it, and with it so many entries,
            // as it has written the payload.
            let entry = unsafe { entry.assume_init() };
            // SAFETY: the request writes descriptors that it makes, and nothing else.
            let fd = unsafe { own(entry.fd) }.ok()?;
            let rights = entry.rights;
            Some(ReceivedFd { fd, rights })
        }));
    }
}

/// Fills in a send of what is borrowed here, and of nothing else.
#[inline]
fn send_args(
    data: &[u8],
    fds: &[SendFd<'_>],
    args: &sys::postbox_send,
) -> Result<sys::postbox_send> {
    check(args.flags, known::SEND, 0)?;
    Ok(sys::postbox_send {
        size: size_of::<sys::postbox_send>(),
        data: data.as_ptr() as u64,
        len: data.len() as u64,
        fds: if fds.is_empty() {
            0
        } else {
            fds.as_ptr() as u64
        },
        fd_count: length(fds.len()),
        ..*args
    })
}

/// Sends one message, without files.
///
/// *References*: `POSTBOX_SEND`, [`sys::postbox_send`].
pub fn send(fd: impl AsFd, data: &[u8], args: &sys::postbox_send) -> Result<()> {
    send_files(fd, data, &[], args)
}

/// Sends one message with files.
///
/// *References*: `POSTBOX_SEND`, [`sys::postbox_send`].
pub fn send_files(
    fd: impl AsFd,
    data: &[u8],
    fds: &[SendFd<'_>],
    args: &sys::postbox_send,
) -> Result<()> {
    let mut args = send_args(data, fds, args)?;
    // SAFETY: the request takes this struct and reads `len` bytes at `data` and `fd_count` entries
    // at `fds`, which are borrowed; so are the descriptors in them.
    unsafe { ioctl(fd, sys::POSTBOX_SEND, &mut args) }
}

/// Receives one message without files into `buf` and returns its length. With `EMSGSIZE`,
/// `args.msg_len` is the length needed, and `args.fd_count` the number of files that come with it.
///
/// *References*: `POSTBOX_RECV`, [`sys::postbox_recv`].
pub fn recv(fd: impl AsFd, buf: &mut [u8], args: &mut sys::postbox_recv) -> Result<usize> {
    check(args.flags, known::RECV, 0)?;
    args.size = size_of::<sys::postbox_recv>();
    args.data = buf.as_mut_ptr() as u64;
    args.len = buf.len() as u64;
    args.fds = 0;
    args.fd_max = 0;
    // SAFETY: the request takes this struct and writes at most `len` bytes at `data`, which is
    // mutably borrowed, and no files.
    unsafe { ioctl(fd, sys::POSTBOX_RECV, args)? };
    Ok(buf.len().min(args.msg_len as usize))
}

/// Receives one message with up to `args.fd_max` files, which are added to `files`, into memory
/// that need not be initialised; returns the part that then is.
///
/// *References*: `POSTBOX_RECV`, [`sys::postbox_recv`].
pub fn recv_files<'b>(
    fd: impl AsFd,
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    args: &mut sys::postbox_recv,
) -> Result<&'b mut [u8]> {
    let mut room = Room::new();
    recv_args(buf, &mut room, args, known::RECV)?;
    // SAFETY: the request takes this struct and writes at most `len` bytes at `data` and `fd_max`
    // entries at `fds`, which are mutably borrowed.
    let result = unsafe { ioctl(fd, sys::POSTBOX_RECV, args) };
    // SAFETY: this is the request's result.
    unsafe { received(result, buf, &room, files, args) }
}

/// `msg_len` as long as the kernel has not written it: no message is so long.
const UNWRITTEN: u64 = u64::MAX;

/// Has the kernel receive into what is borrowed here, and nowhere else.
#[inline]
fn recv_args(
    buf: &mut [MaybeUninit<u8>],
    room: &mut Room,
    args: &mut sys::postbox_recv,
    known: u32,
) -> Result<()> {
    check(args.flags, known, 0)?;
    args.size = size_of::<sys::postbox_recv>();
    args.data = buf.as_mut_ptr() as u64;
    args.len = buf.len() as u64;
    args.msg_len = UNWRITTEN;
    room.offer(args);
    Ok(())
}

/// Takes what was received.
///
/// # Safety
/// `result` is that of a request whose argument is `args`, or has it as a part. [`recv_args`] has
/// filled it in with `buf` and `room`, only the kernel has changed it since, and its files have not
/// been taken.
#[inline]
unsafe fn received<'b>(
    result: Result<()>,
    buf: &'b mut [MaybeUninit<u8>],
    room: &Room,
    files: &mut Vec<ReceivedFd>,
    args: &mut sys::postbox_recv,
) -> Result<&'b mut [u8]> {
    let len = args.msg_len;
    args.flags &= !sys::POSTBOX_LEASES;
    if result.is_err() || len > buf.len() as u64 {
        return Err(nothing_received(result, args));
    }
    // SAFETY: passed on to the caller; a message has been received.
    unsafe { room.take(args, files) };
    // SAFETY: the kernel has written the first `msg_len` bytes of the buffer, which is no shorter.
    Ok(unsafe { core::slice::from_raw_parts_mut(buf.as_mut_ptr().cast(), len as usize) })
}

/// Why nothing was received.
#[cold]
fn nothing_received(result: Result<()>, args: &mut sys::postbox_recv) -> Errno {
    if args.msg_len == UNWRITTEN {
        args.msg_len = 0;
    }
    // Where the request has not failed, it is no handle of postbox.
    result.err().unwrap_or(Errno::NOTTY)
}

/// Settles a message that was received with [`sys::POSTBOX_RECV_ACK`].
///
/// *References*: `POSTBOX_ACK`, [`sys::postbox_ack`].
pub fn ack(fd: impl AsFd, token: u64, flags: u32) -> Result<()> {
    let mut args = sys::postbox_ack {
        size: size_of::<sys::postbox_ack>(),
        flags,
        token,
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_ACK, &mut args) }
}

/// Gets room for one message, or gives it back.
///
/// *References*: `POSTBOX_RESERVE`, [`sys::postbox_reserve`].
pub fn reserve(fd: impl AsFd, args: &sys::postbox_reserve) -> Result<()> {
    let mut args = sys::postbox_reserve {
        size: size_of::<sys::postbox_reserve>(),
        ..*args
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_RESERVE, &mut args) }
}

/// One message of a [`send_batch`].
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct SendEntry<'a>(sys::postbox_send, PhantomData<&'a [u8]>);

impl<'a> SendEntry<'a> {
    /// A message with this payload and priority.
    pub fn new(data: &'a [u8], priority: u32) -> Self {
        let args = sys::postbox_send {
            size: size_of::<sys::postbox_send>(),
            data: data.as_ptr() as u64,
            len: data.len() as u64,
            priority,
            ..Default::default()
        };
        SendEntry(args, PhantomData)
    }
}

/// Sends several messages; returns how many were sent.
///
/// *References*: `POSTBOX_SEND_BATCH`, [`sys::postbox_batch`].
pub fn send_batch(
    fd: impl AsFd,
    entries: &[SendEntry<'_>],
    flags: u32,
    timeout_ns: u64,
) -> Result<usize> {
    check(flags, known::WAIT, 0)?;
    let mut args = sys::postbox_batch {
        size: size_of::<sys::postbox_batch>(),
        flags,
        entries: entries.as_ptr() as u64,
        count: length(entries.len()),
        entry_size: size_of::<sys::postbox_send>(),
        timeout_ns,
    };
    // SAFETY: the request takes this struct and reads `count` entries of `entry_size` bytes at
    // `entries`; the payloads that they point to are borrowed for as long as the entries live.
    unsafe { ioctl(fd, sys::POSTBOX_SEND_BATCH, &mut args)? };
    Ok(entries.len().min(args.count as usize))
}

/// One buffer of a [`recv_batch`], and what was received into it.
#[derive(Debug)]
#[repr(transparent)]
pub struct RecvEntry<'a>(sys::postbox_recv, PhantomData<&'a mut [MaybeUninit<u8>]>);

impl<'a> RecvEntry<'a> {
    /// An entry that receives into `buf`.
    pub fn new(buf: &'a mut [MaybeUninit<u8>]) -> Self {
        let args = sys::postbox_recv {
            size: size_of::<sys::postbox_recv>(),
            data: buf.as_mut_ptr() as u64,
            len: buf.len() as u64,
            ..Default::default()
        };
        RecvEntry(args, PhantomData)
    }

    /// What the kernel says of the message. After `EMSGSIZE` the first entry's `msg_len` is the
    /// length needed.
    pub fn args(&self) -> &sys::postbox_recv {
        &self.0
    }

    /// The message's bytes; none if nothing was received into this entry.
    pub fn payload(&self) -> &[u8] {
        if self.0.msg_len > self.0.len {
            return &[];
        }
        // SAFETY: `msg_len` is zero until `recv_batch` ran, which leaves it zero, or larger than
        // `len`, in entries that the kernel has not filled. In the others that many bytes of the
        // borrowed buffer are initialised.
        unsafe { core::slice::from_raw_parts(self.0.data as *const u8, self.0.msg_len as usize) }
    }
}

/// Receives several messages; returns how many of the entries were filled.
///
/// *References*: `POSTBOX_RECV_BATCH`, [`sys::postbox_batch`].
pub fn recv_batch(
    fd: impl AsFd,
    entries: &mut [RecvEntry<'_>],
    flags: u32,
    timeout_ns: u64,
) -> Result<usize> {
    check(flags, known::RECV_BATCH, 0)?;
    for entry in &mut *entries {
        entry.0.msg_len = 0;
    }
    let mut args = sys::postbox_batch {
        size: size_of::<sys::postbox_batch>(),
        flags,
        entries: entries.as_mut_ptr() as u64,
        count: length(entries.len()),
        entry_size: size_of::<sys::postbox_recv>(),
        timeout_ns,
    };
    // SAFETY: the request takes this struct, reads and writes `count` entries of `entry_size` bytes
    // at `entries`, and writes at most `len` bytes to each buffer, all of which are mutably
    // borrowed.
    let result = unsafe { ioctl(fd, sys::POSTBOX_RECV_BATCH, &mut args) };
    let filled = if result.is_ok() {
        entries.len().min(args.count as usize)
    } else {
        0
    };
    // What `RecvEntry::payload` relies on.
    for entry in &mut entries[filled..] {
        if entry.0.msg_len <= entry.0.len {
            entry.0.msg_len = 0;
        }
    }
    result.map(|()| filled)
}

/// Sends a request and waits for its reply, which comes into `buf` and, with up to
/// `args.reply.fd_max` files, into `files`.
///
/// After `EMSGSIZE` and `EFAULT` the reply is there to be fetched: see [`call_fetch`].
///
/// *References*: `POSTBOX_CALL`, [`sys::postbox_call`].
pub fn call<'b>(
    fd: impl AsFd,
    data: &[u8],
    fds: &[SendFd<'_>],
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    args: &mut sys::postbox_call,
) -> Result<&'b mut [u8]> {
    args.request = send_args(data, fds, &args.request)?;
    call_at(fd, buf, files, args)
}

/// Fetches a reply that did not fit: `args.reply.token` says which.
///
/// *References*: `POSTBOX_CALL`, `POSTBOX_CALL_FETCH`, [`sys::postbox_call`].
pub fn call_fetch<'b>(
    fd: impl AsFd,
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    args: &mut sys::postbox_call,
) -> Result<&'b mut [u8]> {
    args.request = sys::postbox_send {
        size: size_of::<sys::postbox_send>(),
        ..Default::default()
    };
    args.reply.flags |= sys::POSTBOX_CALL_FETCH;
    call_at(fd, buf, files, args)
}

fn call_at<'b>(
    fd: impl AsFd,
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    args: &mut sys::postbox_call,
) -> Result<&'b mut [u8]> {
    let mut room = Room::new();
    check(0, 0, args.reserved)?;
    args.size = size_of::<sys::postbox_call>();
    recv_args(buf, &mut room, &mut args.reply, known::ANSWER)?;
    // SAFETY: the request takes this struct and reads what its `request` points to, which the
    // callers have borrowed or set to nothing, and writes at most `len` bytes and `fd_max` entries
    // to what its `reply` points to, which is mutably borrowed.
    let result = unsafe { ioctl(fd, sys::POSTBOX_CALL, args) };
    // SAFETY: this is the request's result.
    unsafe { received(result, buf, &room, files, &mut args.reply) }
}

/// Fills in a reply of what is borrowed here, and of nothing else.
#[inline]
fn reply_args(
    data: &[u8],
    fds: &[SendFd<'_>],
    args: &sys::postbox_reply,
) -> Result<sys::postbox_reply> {
    check(args.flags, known::REPLY, args.reserved)?;
    Ok(sys::postbox_reply {
        size: size_of::<sys::postbox_reply>(),
        data: if data.is_empty() {
            0
        } else {
            data.as_ptr() as u64
        },
        len: data.len() as u64,
        fds: if fds.is_empty() {
            0
        } else {
            fds.as_ptr() as u64
        },
        fd_count: length(fds.len()),
        ..*args
    })
}

/// Answers a request.
///
/// *References*: `POSTBOX_REPLY`, [`sys::postbox_reply`].
pub fn reply(
    fd: impl AsFd,
    data: &[u8],
    fds: &[SendFd<'_>],
    args: &sys::postbox_reply,
) -> Result<()> {
    let mut args = reply_args(data, fds, args)?;
    // SAFETY: the request takes this struct and reads `len` bytes at `data` and `fd_count` entries
    // at `fds`, which are borrowed; so are the descriptors in them.
    unsafe { ioctl(fd, sys::POSTBOX_REPLY, &mut args) }
}

/// Answers a request and receives the next message into `buf` and, with up to `args.recv.fd_max`
/// files, into `files`.
///
/// *References*: `POSTBOX_REPLY_RECV`, [`sys::postbox_reply_recv`].
pub fn reply_recv<'b>(
    fd: impl AsFd,
    data: &[u8],
    fds: &[SendFd<'_>],
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    args: &mut sys::postbox_reply_recv,
) -> Result<&'b mut [u8]> {
    let mut room = Room::new();
    check(0, 0, args.reserved)?;
    args.size = size_of::<sys::postbox_reply_recv>();
    let answer = reply_args(data, fds, &args.reply)?;
    recv_args(buf, &mut room, &mut args.recv, known::RECV)?;
    args.reply = answer;
    // SAFETY: the request takes this struct and reads what its `reply` points to, which is
    // borrowed, and writes at most `len` bytes and `fd_max` entries to what its `recv` points to,
    // which is mutably borrowed.
    let result = unsafe { ioctl(fd, sys::POSTBOX_REPLY_RECV, args) };
    // SAFETY: this is the request's result.
    unsafe { received(result, buf, &room, files, &mut args.recv) }
}

/// Makes a link. The handle becomes its first end; the second one is returned.
///
/// *References*: `POSTBOX_PAIR`, [`sys::postbox_pair`].
pub fn pair(fd: impl AsFd, args: &mut sys::postbox_pair) -> Result<OwnedFd> {
    args.size = size_of::<sys::postbox_pair>();
    args.fd = NO_FD;
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_PAIR, args)? };
    // SAFETY: the request writes a descriptor that it makes, and nothing else.
    unsafe { own(args.fd) }
}

/// Connects to the listener called `name`, or, with [`sys::POSTBOX_CONNECT_PORT`] and no name, to
/// that of the port. The handle becomes the first end of a new link.
///
/// *References*: `POSTBOX_CONNECT`, [`sys::postbox_connect`].
pub fn connect(fd: impl AsFd, name: Option<&[u8]>, args: &mut sys::postbox_connect) -> Result<()> {
    check(args.flags, known::CONNECT, 0)?;
    args.size = size_of::<sys::postbox_connect>();
    args.name = name.map_or(0, |name| name.as_ptr() as u64);
    args.name_len = name.map_or(0, |name| length(name.len()));
    // SAFETY: the request takes this struct and reads `name_len` bytes at `name`, which is
    // borrowed.
    unsafe { ioctl(fd, sys::POSTBOX_CONNECT, args) }
}

/// Takes a connection from a listener: the second end of a link.
///
/// *References*: `POSTBOX_ACCEPT`, [`sys::postbox_accept`].
pub fn accept(fd: impl AsFd, args: &mut sys::postbox_accept) -> Result<OwnedFd> {
    args.size = size_of::<sys::postbox_accept>();
    args.fd = NO_FD;
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_ACCEPT, args)? };
    // SAFETY: the request writes a descriptor that it makes, and nothing else.
    unsafe { own(args.fd) }
}

/// Who made the other end of a link.
///
/// *References*: `POSTBOX_PEER`, [`sys::postbox_peer`].
pub fn peer(fd: impl AsFd) -> Result<sys::postbox_peer> {
    let mut args = sys::postbox_peer {
        size: size_of::<sys::postbox_peer>(),
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_PEER, &mut args)? };
    Ok(args)
}

/// Waits until the other side is there.
///
/// *References*: `POSTBOX_WAIT_PEER`, [`sys::postbox_wait_peer`].
pub fn wait_peer(fd: impl AsFd, flags: u32, timeout_ns: u64) -> Result<()> {
    let mut args = sys::postbox_wait_peer {
        size: size_of::<sys::postbox_wait_peer>(),
        flags,
        timeout_ns,
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_WAIT_PEER, &mut args) }
}

/// Closes one direction of a link, or both.
///
/// *References*: `POSTBOX_SHUTDOWN`, [`sys::postbox_shutdown`].
pub fn shutdown(fd: impl AsFd, how: u32) -> Result<()> {
    let mut args = sys::postbox_shutdown {
        size: size_of::<sys::postbox_shutdown>(),
        how,
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_SHUTDOWN, &mut args) }
}

/// Reads from a pipe and returns how many bytes; 0: the last writer is gone.
///
/// *References*: `POSTBOX_READ`, [`sys::postbox_io`].
pub fn read(fd: impl AsFd, buf: &mut [u8], flags: u32, timeout_ns: u64) -> Result<usize> {
    check(flags, known::WAIT, 0)?;
    let mut args = sys::postbox_io {
        size: size_of::<sys::postbox_io>(),
        flags,
        data: buf.as_mut_ptr() as u64,
        len: buf.len() as u64,
        timeout_ns,
        done: 0,
    };
    // SAFETY: the request takes this struct and writes at most `len` bytes at `data`, which is
    // mutably borrowed.
    unsafe { ioctl(fd, sys::POSTBOX_READ, &mut args)? };
    Ok(buf.len().min(args.done as usize))
}

/// Writes to a pipe and returns how many bytes.
///
/// *References*: `POSTBOX_WRITE`, [`sys::postbox_io`].
pub fn write(fd: impl AsFd, data: &[u8], flags: u32, timeout_ns: u64) -> Result<usize> {
    check(flags, known::WAIT, 0)?;
    let mut args = sys::postbox_io {
        size: size_of::<sys::postbox_io>(),
        flags,
        data: data.as_ptr() as u64,
        len: data.len() as u64,
        timeout_ns,
        done: 0,
    };
    // SAFETY: the request takes this struct and reads `len` bytes at `data`, which is borrowed.
    unsafe { ioctl(fd, sys::POSTBOX_WRITE, &mut args)? };
    Ok(data.len().min(args.done as usize))
}

/// Sets how many bytes a pipe holds, and returns how many it holds now.
///
/// *References*: `POSTBOX_SET_CAPACITY`, [`sys::postbox_capacity`].
pub fn set_capacity(fd: impl AsFd, capacity: u64) -> Result<u64> {
    let mut args = sys::postbox_capacity {
        size: size_of::<sys::postbox_capacity>(),
        capacity,
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_SET_CAPACITY, &mut args)? };
    Ok(args.capacity)
}

/// A request to a wait object; returns what it says: `POSTBOX_SYNC_OWNER_DIED` and the like.
fn sync(fd: impl AsFd, request: u32, args: &sys::postbox_sync) -> Result<u32> {
    let mut args = sys::postbox_sync {
        size: size_of::<sys::postbox_sync>(),
        ..*args
    };
    // SAFETY: the requests of the functions below take this struct, which has no pointers.
    unsafe { ioctl(fd, request, &mut args)? };
    Ok(args.state)
}

/// Takes from a semaphore; [`sys::POSTBOX_SYNC_OWNER_DIED`] may be returned.
///
/// *References*: `POSTBOX_ACQUIRE`, [`sys::postbox_sync`].
pub fn acquire(fd: impl AsFd, args: &sys::postbox_sync) -> Result<u32> {
    sync(fd, sys::POSTBOX_ACQUIRE, args)
}

/// Adds to a semaphore.
///
/// *References*: `POSTBOX_RELEASE`, [`sys::postbox_sync`].
pub fn release(fd: impl AsFd, args: &sys::postbox_sync) -> Result<()> {
    sync(fd, sys::POSTBOX_RELEASE, args).map(drop)
}

/// Counts a latch down.
///
/// *References*: `POSTBOX_COUNT_DOWN`, [`sys::postbox_sync`].
pub fn count_down(fd: impl AsFd, args: &sys::postbox_sync) -> Result<()> {
    sync(fd, sys::POSTBOX_COUNT_DOWN, args).map(drop)
}

/// Waits for a latch or at a barrier; [`sys::POSTBOX_SYNC_LEADER`] may be returned.
///
/// *References*: `POSTBOX_WAIT`, [`sys::postbox_sync`].
pub fn wait(fd: impl AsFd, args: &sys::postbox_sync) -> Result<u32> {
    sync(fd, sys::POSTBOX_WAIT, args)
}

/// This process will count a latch down, or is one of a barrier's parties.
///
/// *References*: `POSTBOX_JOIN`, [`sys::postbox_sync`].
pub fn join(fd: impl AsFd, args: &sys::postbox_sync) -> Result<()> {
    sync(fd, sys::POSTBOX_JOIN, args).map(drop)
}

/// Takes a [`join`] back.
///
/// *References*: `POSTBOX_LEAVE`, [`sys::postbox_sync`].
pub fn leave(fd: impl AsFd, args: &sys::postbox_sync) -> Result<()> {
    sync(fd, sys::POSTBOX_LEAVE, args).map(drop)
}

/// A request about a grant.
fn granting(fd: impl AsFd, request: u32, args: &sys::postbox_grant) -> Result<()> {
    let mut args = sys::postbox_grant {
        size: size_of::<sys::postbox_grant>(),
        ..*args
    };
    // SAFETY: the requests of the functions below take this struct, which has no pointers.
    unsafe { ioctl(fd, request, &mut args) }
}

/// Lets somebody else open an object by its name.
///
/// *References*: `POSTBOX_GRANT`, [`sys::postbox_grant`].
pub fn grant(fd: impl AsFd, args: &sys::postbox_grant) -> Result<()> {
    granting(fd, sys::POSTBOX_GRANT, args)
}

/// Takes a [`grant`] back.
///
/// *References*: `POSTBOX_REVOKE`, [`sys::postbox_grant`].
pub fn revoke(fd: impl AsFd, args: &sys::postbox_grant) -> Result<()> {
    granting(fd, sys::POSTBOX_REVOKE, args)
}

/// This process's number in a segment.
///
/// *References*: `POSTBOX_ATTACH`, [`sys::postbox_attach`].
pub fn attach(fd: impl AsFd) -> Result<u64> {
    let mut args = sys::postbox_attach {
        size: size_of::<sys::postbox_attach>(),
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_ATTACH, &mut args)? };
    Ok(args.id)
}

/// A request about a word of a segment.
fn word(fd: impl AsFd, request: u32, args: &sys::postbox_word) -> Result<u32> {
    let mut args = sys::postbox_word {
        size: size_of::<sys::postbox_word>(),
        ..*args
    };
    // SAFETY: the requests of the functions below take this struct, which has no pointers.
    unsafe { ioctl(fd, request, &mut args)? };
    Ok(args.state)
}

/// Waits for a word of a segment; [`sys::POSTBOX_WORD_OWNER_DIED`] may be returned.
///
/// *References*: `POSTBOX_WAIT_WORD`, [`sys::postbox_word`].
pub fn wait_word(fd: impl AsFd, args: &sys::postbox_word) -> Result<u32> {
    word(fd, sys::POSTBOX_WAIT_WORD, args)
}

/// Wakes those who wait for a word.
///
/// *References*: `POSTBOX_WAKE_WORD`, [`sys::postbox_word`].
pub fn wake_word(fd: impl AsFd, args: &sys::postbox_word) -> Result<()> {
    word(fd, sys::POSTBOX_WAKE_WORD, args).map(drop)
}

/// A request to a ring.
fn ring(fd: impl AsFd, request: u32, flags: u32, timeout_ns: u64) -> Result<()> {
    let mut args = sys::postbox_ring {
        size: size_of::<sys::postbox_ring>(),
        flags,
        timeout_ns,
    };
    // SAFETY: the requests of the functions below take this struct, which has no pointers.
    unsafe { ioctl(fd, request, &mut args) }
}

/// Becomes the consumer or a producer of a ring: [`sys::POSTBOX_RING_CONSUMER`],
/// [`sys::POSTBOX_RING_PRODUCER`].
///
/// *References*: `POSTBOX_RING_ATTACH`, [`sys::postbox_ring_attach`].
pub fn ring_attach(fd: impl AsFd, side: u32) -> Result<sys::postbox_ring_attach> {
    let mut args = sys::postbox_ring_attach {
        size: size_of::<sys::postbox_ring_attach>(),
        flags: side,
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_RING_ATTACH, &mut args)? };
    Ok(args)
}

/// Takes that back.
///
/// *References*: `POSTBOX_RING_DETACH`, [`sys::postbox_ring`].
pub fn ring_detach(fd: impl AsFd, side: u32) -> Result<()> {
    ring(fd, sys::POSTBOX_RING_DETACH, side, 0)
}

/// Waits as a side of a ring, which `flags` say beside how to wait.
///
/// *References*: `POSTBOX_RING_WAIT`, [`sys::postbox_ring`].
pub fn ring_wait(fd: impl AsFd, flags: u32, timeout_ns: u64) -> Result<()> {
    ring(fd, sys::POSTBOX_RING_WAIT, flags, timeout_ns)
}

/// Wakes a side of a ring.
///
/// *References*: `POSTBOX_RING_WAKE`, [`sys::postbox_ring`].
pub fn ring_wake(fd: impl AsFd, side: u32) -> Result<()> {
    ring(fd, sys::POSTBOX_RING_WAKE, side, 0)
}

/// Gives the blocks of `returns` back to a pool, and borrows as many as `loans` has room for behind
/// the `args.loan_count` first. Also where it fails, `args.return_count` says how many of `returns`,
/// from the first on, are left to be given back, and `args.loan_count` how many of `loans` are
/// there.
///
/// *References*: `POSTBOX_LOAN`, [`sys::postbox_loan`].
pub fn loan(
    fd: impl AsFd,
    returns: &[u32],
    loans: &mut [u32],
    args: &mut sys::postbox_loan,
) -> Result<()> {
    check(args.flags, known::WAIT, args.reserved)?;
    args.size = size_of::<sys::postbox_loan>();
    args.returns = returns.as_ptr() as u64;
    args.return_count = length(returns.len());
    args.loans = loans.as_mut_ptr() as u64;
    args.loan_max = length(loans.len());
    // SAFETY: the request takes this struct, reads at most `return_count` numbers at `returns`, and
    // writes at most `loan_max` at `loans`, which are borrowed.
    unsafe { ioctl(fd, sys::POSTBOX_LOAN, args) }
}

/// Leases of a pool's blocks that go with a message, and blocks that are given back and borrowed on
/// the way. It can be used again for the same message when a signal handler ended the call.
///
/// *References*: `POSTBOX_LEASES`, [`sys::postbox_leases`].
#[derive(Debug)]
pub struct Leases<'a> {
    args: sys::postbox_leases,
    /// How many of `entries` can be read.
    entries: u32,
    borrowed: PhantomData<&'a mut [u32]>,
}

impl<'a> Leases<'a> {
    /// Of the pool that this is a handle of.
    pub fn new(pool: BorrowedFd<'a>) -> Self {
        let args = sys::postbox_leases {
            size: size_of::<sys::postbox_leases>(),
            pool: pool.as_raw_fd(),
            ..Default::default()
        };
        Leases {
            args,
            entries: 0,
            borrowed: PhantomData,
        }
    }

    /// These go with the message.
    pub fn entries(mut self, entries: &'a [sys::postbox_lease]) -> Self {
        self.args.entries = entries.as_ptr() as u64;
        self.args.count = length(entries.len());
        self.args.max = 0;
        self.entries = self.args.count;
        self
    }

    /// Those that come with the message go here.
    pub fn room(mut self, entries: &'a mut [MaybeUninit<sys::postbox_lease>]) -> Self {
        self.args.entries = entries.as_mut_ptr() as u64;
        self.args.count = 0;
        self.args.max = length(entries.len());
        self.entries = 0;
        self
    }

    /// These are given back, the last one first.
    pub fn returns(mut self, returns: &'a [u32]) -> Self {
        self.args.returns = returns.as_ptr() as u64;
        self.args.return_count = length(returns.len());
        self
    }

    /// As many are borrowed.
    pub fn loans(mut self, loans: &'a mut [u32]) -> Self {
        self.args.loans = loans.as_mut_ptr() as u64;
        self.args.loan_max = length(loans.len());
        self.args.loan_count = 0;
        self
    }

    /// What the kernel says: in `return_count` how many are left to be given back, in `loan_count`
    /// how many were borrowed, and after a receive in `count` how many came with the message.
    pub fn args(&self) -> &sys::postbox_leases {
        &self.args
    }

    /// Returns where it is, once it says where the files are. A receive before may have left a
    /// count of entries that are not here.
    #[inline]
    fn place(&mut self, fds: u64) -> u64 {
        self.args.count = self.args.count.min(self.entries);
        self.args.fds = fds;
        (&raw mut self.args) as u64
    }
}

// The flag is not left behind: it is only right beside the pointer to the leases.

/// As [`send_args`], with leases.
#[inline]
fn send_leased(
    data: &[u8],
    fds: &[SendFd<'_>],
    leases: &mut Leases<'_>,
    args: &sys::postbox_send,
) -> Result<sys::postbox_send> {
    let mut args = send_args(data, fds, args)?;
    args.fds = leases.place(args.fds);
    args.flags |= sys::POSTBOX_LEASES;
    Ok(args)
}

/// As [`recv_args`], with leases.
#[inline]
fn recv_leased(
    buf: &mut [MaybeUninit<u8>],
    room: &mut Room,
    leases: &mut Leases<'_>,
    args: &mut sys::postbox_recv,
    known: u32,
) -> Result<()> {
    recv_args(buf, room, args, known)?;
    args.fds = leases.place(args.fds);
    args.flags |= sys::POSTBOX_LEASES;
    Ok(())
}

/// As [`reply_args`], with leases.
#[inline]
fn reply_leased(
    data: &[u8],
    fds: &[SendFd<'_>],
    leases: &mut Leases<'_>,
    args: &sys::postbox_reply,
) -> Result<sys::postbox_reply> {
    let mut args = reply_args(data, fds, args)?;
    args.fds = leases.place(args.fds);
    args.flags |= sys::POSTBOX_LEASES;
    Ok(args)
}

/// As [`send_files`], with leases.
///
/// *References*: `POSTBOX_SEND`, `POSTBOX_LEASES`.
pub fn send_leases(
    fd: impl AsFd,
    data: &[u8],
    fds: &[SendFd<'_>],
    leases: &mut Leases<'_>,
    args: &sys::postbox_send,
) -> Result<()> {
    let mut args = send_leased(data, fds, leases, args)?;
    // SAFETY: as in `send_files`; the request reads and writes the struct of the leases and reads
    // and writes what that points to, no more than it says, all of which is borrowed mutably.
    unsafe { ioctl(fd, sys::POSTBOX_SEND, &mut args) }
}

/// As [`recv_files`], with leases.
///
/// *References*: `POSTBOX_RECV`, `POSTBOX_LEASES`.
pub fn recv_leases<'b>(
    fd: impl AsFd,
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    leases: &mut Leases<'_>,
    args: &mut sys::postbox_recv,
) -> Result<&'b mut [u8]> {
    let mut room = Room::new();
    recv_leased(buf, &mut room, leases, args, known::RECV)?;
    // SAFETY: as in `recv_files` and `send_leases`.
    let result = unsafe { ioctl(fd, sys::POSTBOX_RECV, args) };
    // SAFETY: this is the request's result.
    unsafe { received(result, buf, &room, files, args) }
}

/// As [`call`], with leases of the request and of the reply. Where it fails,
/// [`request.args().count`](Leases::args) is 0 if somebody has received the request, and its leases,
/// all the same.
///
/// *References*: `POSTBOX_CALL`, `POSTBOX_LEASES`.
#[allow(clippy::too_many_arguments)] // It is both a send and a receive.
pub fn call_leases<'b>(
    fd: impl AsFd,
    data: &[u8],
    fds: &[SendFd<'_>],
    request: &mut Leases<'_>,
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    reply: &mut Leases<'_>,
    args: &mut sys::postbox_call,
) -> Result<&'b mut [u8]> {
    let mut room = Room::new();
    args.size = size_of::<sys::postbox_call>();
    check(0, 0, args.reserved)?;
    let asked = send_leased(data, fds, request, &args.request)?;
    recv_leased(buf, &mut room, reply, &mut args.reply, known::ANSWER)?;
    args.request = asked;
    // SAFETY: as in `call` and `send_leases`.
    let result = unsafe { ioctl(fd, sys::POSTBOX_CALL, args) };
    args.request.flags &= !sys::POSTBOX_LEASES;
    // SAFETY: this is the request's result.
    unsafe { received(result, buf, &room, files, &mut args.reply) }
}

/// As [`call_fetch`], with leases.
///
/// *References*: `POSTBOX_CALL`, `POSTBOX_CALL_FETCH`, `POSTBOX_LEASES`.
pub fn call_fetch_leases<'b>(
    fd: impl AsFd,
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    reply: &mut Leases<'_>,
    args: &mut sys::postbox_call,
) -> Result<&'b mut [u8]> {
    let mut room = Room::new();
    args.size = size_of::<sys::postbox_call>();
    args.request = sys::postbox_send {
        size: size_of::<sys::postbox_send>(),
        ..Default::default()
    };
    check(0, 0, args.reserved)?;
    args.reply.flags |= sys::POSTBOX_CALL_FETCH;
    recv_leased(buf, &mut room, reply, &mut args.reply, known::ANSWER)?;
    // SAFETY: as in `call_fetch` and `send_leases`.
    let result = unsafe { ioctl(fd, sys::POSTBOX_CALL, args) };
    // SAFETY: this is the request's result.
    unsafe { received(result, buf, &room, files, &mut args.reply) }
}

/// As [`reply`], with leases.
///
/// *References*: `POSTBOX_REPLY`, `POSTBOX_LEASES`.
pub fn reply_leases(
    fd: impl AsFd,
    data: &[u8],
    fds: &[SendFd<'_>],
    leases: &mut Leases<'_>,
    args: &sys::postbox_reply,
) -> Result<()> {
    let mut args = reply_leased(data, fds, leases, args)?;
    // SAFETY: as in `reply` and `send_leases`.
    unsafe { ioctl(fd, sys::POSTBOX_REPLY, &mut args) }
}

/// As [`reply_recv`], with leases: `reply` go with the answer, and `next` says where those of the
/// next message go.
///
/// *References*: `POSTBOX_REPLY_RECV`, `POSTBOX_LEASES`.
#[allow(clippy::too_many_arguments)] // It is both a send and a receive.
pub fn reply_recv_leases<'b>(
    fd: impl AsFd,
    data: &[u8],
    fds: &[SendFd<'_>],
    reply: &mut Leases<'_>,
    buf: &'b mut [MaybeUninit<u8>],
    files: &mut Vec<ReceivedFd>,
    next: &mut Leases<'_>,
    args: &mut sys::postbox_reply_recv,
) -> Result<&'b mut [u8]> {
    let mut room = Room::new();
    args.size = size_of::<sys::postbox_reply_recv>();
    check(0, 0, args.reserved)?;
    let answer = reply_leased(data, fds, reply, &args.reply)?;
    recv_leased(buf, &mut room, next, &mut args.recv, known::RECV)?;
    args.reply = answer;
    // SAFETY: as in `reply_recv` and `send_leases`.
    let result = unsafe { ioctl(fd, sys::POSTBOX_REPLY_RECV, args) };
    args.reply.flags &= !sys::POSTBOX_LEASES;
    // SAFETY: this is the request's result.
    unsafe { received(result, buf, &room, files, &mut args.recv) }
}
