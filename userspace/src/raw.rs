//! The kernel's requests, one function each, with its error numbers and nothing added.
//!
//! Every function fills in `size` and the pointers and lengths of its argument; all other fields
//! are the caller's. Nothing is retried: an interrupted wait gives
//! [`Errno::INTR`](rustix::io::Errno::INTR).
//!
//! The functions take any descriptor. One that is not postbox's gives `ENOTTY`, as other drivers do
//! not use the request type 0xBE; the types of this crate make sure of it with [`version`].

use crate::sys;
use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use rustix::fd::{AsFd, FromRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Result;
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
    // SAFETY: passed on to the caller.
    unsafe { rustix::ioctl::ioctl(fd, Call { request, args }) }
}

fn size_of<T>() -> u32 {
    const { core::mem::size_of::<T>() as u32 }
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

/// Binds a handle to the object called `name`, or to a new one without a name.
///
/// *References*: `POSTBOX_OPEN`, [`sys::postbox_open`].
pub fn open(fd: impl AsFd, name: Option<&[u8]>, args: &mut sys::postbox_open) -> Result<()> {
    args.size = size_of::<sys::postbox_open>();
    args.name = name.map_or(0, |name| name.as_ptr() as u64);
    args.name_len = name.map_or(0, |name| length(name.len()));
    // SAFETY: the request takes this struct and reads `name_len` bytes at `name`, which is
    // borrowed.
    unsafe { ioctl(fd, sys::POSTBOX_OPEN, args) }
}

/// A length in 32 bits. What does not fit is too long for the kernel in any case.
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
        ..Default::default()
    };
    // SAFETY: the request takes this struct, which has no pointers.
    unsafe { ioctl(fd, sys::POSTBOX_DUP, &mut args)? };
    // SAFETY: the kernel made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(args.fd) })
}

/// Takes a name away.
///
/// *References*: `POSTBOX_UNLINK`, [`sys::postbox_unlink`].
pub fn unlink(fd: impl AsFd, name: &[u8]) -> Result<()> {
    let mut args = sys::postbox_unlink {
        size: size_of::<sys::postbox_unlink>(),
        name_len: length(name.len()),
        name: name.as_ptr() as u64,
    };
    // SAFETY: the request takes this struct and reads `name_len` bytes at `name`, which is
    // borrowed.
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
    let mut args = sys::postbox_list {
        size: size_of::<sys::postbox_list>(),
        count: length(infos.len()),
        infos: infos.as_mut_ptr() as u64,
        info_size: size_of::<sys::postbox_info>(),
        after,
        ..Default::default()
    };
    // SAFETY: the request takes this struct and writes at most `count` entries of `info_size` bytes
    // at `infos`, which is mutably borrowed; any bytes are a valid `postbox_info`.
    unsafe { ioctl(fd, sys::POSTBOX_LIST, &mut args)? };
    Ok(infos.len().min(args.count as usize))
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

/// Sends one message.
///
/// *References*: `POSTBOX_SEND`, [`sys::postbox_send`].
pub fn send(fd: impl AsFd, data: &[u8], args: &sys::postbox_send) -> Result<()> {
    let mut args = sys::postbox_send {
        size: size_of::<sys::postbox_send>(),
        data: data.as_ptr() as u64,
        len: data.len() as u64,
        ..*args
    };
    // SAFETY: the request takes this struct and reads `len` bytes at `data`, which is borrowed.
    unsafe { ioctl(fd, sys::POSTBOX_SEND, &mut args) }
}

/// Receives one message into `buf` and returns its length. With `EMSGSIZE`, `args.msg_len` is the
/// length needed.
///
/// *References*: `POSTBOX_RECV`, [`sys::postbox_recv`].
pub fn recv(fd: impl AsFd, buf: &mut [u8], args: &mut sys::postbox_recv) -> Result<usize> {
    // SAFETY: `buf` is mutably borrowed, and any bytes are valid in it.
    unsafe { recv_at(fd, buf.as_mut_ptr(), buf.len(), args) }
}

/// As [`recv`], into memory that need not be initialised; returns the part that then is.
///
/// *References*: `POSTBOX_RECV`, [`sys::postbox_recv`].
pub fn recv_uninit<'b>(
    fd: impl AsFd,
    buf: &'b mut [MaybeUninit<u8>],
    args: &mut sys::postbox_recv,
) -> Result<&'b mut [u8]> {
    // SAFETY: `buf` is mutably borrowed.
    let len = unsafe { recv_at(fd, buf.as_mut_ptr().cast(), buf.len(), args)? };
    // SAFETY: the kernel has written the first `len` bytes, and `len` is at most the buffer's.
    Ok(unsafe { core::slice::from_raw_parts_mut(buf.as_mut_ptr().cast(), len) })
}

/// As [`recv`], into the spare capacity of `buf`, which grows by the message.
///
/// *References*: `POSTBOX_RECV`, [`sys::postbox_recv`].
pub fn recv_vec(fd: impl AsFd, buf: &mut Vec<u8>, args: &mut sys::postbox_recv) -> Result<usize> {
    let len = recv_uninit(fd, buf.spare_capacity_mut(), args)?.len();
    // SAFETY: `len` bytes behind the vector's are initialised now.
    unsafe { buf.set_len(buf.len() + len) };
    Ok(len)
}

/// # Safety
/// `data` must be valid for writes of `len` bytes.
unsafe fn recv_at(
    fd: impl AsFd,
    data: *mut u8,
    len: usize,
    args: &mut sys::postbox_recv,
) -> Result<usize> {
    args.size = size_of::<sys::postbox_recv>();
    args.data = data as u64;
    args.len = len as u64;
    // SAFETY: the request takes this struct and writes at most `len` bytes at `data`, which the
    // caller vouches for.
    unsafe { ioctl(fd, sys::POSTBOX_RECV, args)? };
    Ok(len.min(args.msg_len as usize))
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
