// SPDX-License-Identifier: GPL-2.0
//! Requests: the decoding of their arguments, and what they do with objects.
//!
//! - Every request is a function from a handle and an argument struct to a `Result`.
//! - An argument is copied in once, and what was copied is what is checked and used.
//! - What a call gives back is copied out before it takes effect where that can be: a message
//!   whose description cannot be written is not received.

pub(crate) use self::message::BATCH_MAX;
use crate::{
    compat::enametoolong,
    handle::Handle,
    helpers::{c, UserBytes},
    mailbox::sent,
    registry::Name,
    uapi,
    uring::Issue,
    wait::How,
};
use core::mem::{offset_of, size_of, MaybeUninit};
use kernel::{ffi::c_void, prelude::*};

pub(crate) mod link;
mod message;
mod object;
pub(crate) mod pipe;
pub(crate) mod pool;
mod ring;
mod segment;
mod sync;

/// An argument struct.
///
/// # Safety
///
/// It is made of integers, without padding, and begins with a `u32`: its size. It consists of
/// whole words of 64 bits.
pub(crate) unsafe trait Args: Copy {
    /// Its first size, below which it has never been.
    const MIN: usize = size_of::<Self>();
}

macro_rules! args {
    ($($name:ident),* $(,)?) => {$(
        // SAFETY: By the rules of the header, which its own tests check.
        unsafe impl Args for uapi::$name {}
    )*};
}

args! {
    postbox_version, postbox_open, postbox_dup, postbox_unlink, postbox_attr,
    postbox_list, postbox_send, postbox_recv, postbox_ack, postbox_reserve,
    postbox_batch, postbox_call, postbox_reply, postbox_reply_recv, postbox_pair, postbox_connect,
    postbox_accept, postbox_peer, postbox_wait_peer, postbox_shutdown, postbox_io,
    postbox_capacity, postbox_sync, postbox_loan, postbox_leases, postbox_grant, postbox_attach, postbox_word,
    postbox_ring, postbox_ring_attach,
}

// SAFETY: As above.
unsafe impl Args for uapi::postbox_usage {
    const MIN: usize = offset_of!(Self, shared);
}

// SAFETY: As above.
unsafe impl Args for uapi::postbox_info {
    const MIN: usize = offset_of!(Self, requests);
}

/// Where an argument is in user memory, and how large the caller thinks that it is.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    address: usize,
    size: usize,
}

impl Place {
    /// The place of an element of an array.
    pub(crate) fn of_entry(array: u64, index: u32, size: usize) -> Result<Self> {
        let offset = (index as usize).checked_mul(size).ok_or(EFAULT)?;
        let address = address(array)?.checked_add(offset).ok_or(EFAULT)?;
        Ok(Self { address, size })
    }

    /// The place of an argument inside this one.
    fn inner<T: Args>(self, offset: usize) -> Self {
        Self {
            address: self.address.wrapping_add(offset),
            size: size_of::<T>(),
        }
    }

    /// Reads an argument: where this succeeds, all of it was written.
    pub(crate) fn read<T: Args>(address: usize, args: &mut MaybeUninit<T>) -> Result<Self> {
        let mut size = 0;
        // SAFETY: `args` is valid for writing, and can be made of any bytes.
        let ret = unsafe {
            c::postbox_read_args(
                args.as_mut_ptr().cast(),
                size_of::<T>(),
                T::MIN,
                address as *const c_void,
                &mut size,
            )
        };
        match ret {
            0 => Ok(Self { address, size }),
            errno => Err(Error::from_errno(errno)),
        }
    }

    /// Writes an argument back, as much of it as the caller knows.
    fn write<T: Args>(self, args: &T) -> Result {
        // SAFETY: `args` is valid for reading, and made of whole words.
        kernel::error::to_result(unsafe {
            c::postbox_write_args(
                core::ptr::from_ref(args).cast(),
                size_of::<T>(),
                self.address as *mut c_void,
                self.size,
            )
        })
    }

    /// Writes the end of an argument back, from the field at `offset` on, which every caller knows.
    fn write_from<T: Args>(self, args: &T, offset: usize) -> Result {
        // SAFETY: `args` is valid for reading, `offset` is in it, and it is made of whole words.
        kernel::error::to_result(unsafe {
            c::postbox_write_args(
                core::ptr::from_ref(args).cast::<u8>().add(offset).cast(),
                size_of::<T>() - offset,
                self.address.wrapping_add(offset) as *mut c_void,
                self.size - offset,
            )
        })
    }

    /// The same for under a spinlock, if all of the argument is wanted and its pages are there.
    #[inline]
    fn write_from_now<T: Args>(self, args: &T, offset: usize) -> bool {
        if self.size != size_of::<T>() {
            return false;
        }
        // SAFETY: It is made of integers, without padding.
        let bytes = unsafe {
            core::slice::from_raw_parts(core::ptr::from_ref(args).cast::<u8>(), size_of::<T>())
        };
        let at = UserBytes::at(self.address.wrapping_add(offset));
        bytes.get(offset..).is_some_and(|bytes| at.copy_now(bytes))
    }

    /// Reads a lease's entry, which has no size of its own.
    pub(crate) fn read_lease(self) -> Result<uapi::postbox_lease> {
        let mut bytes = [0; size_of::<uapi::postbox_lease>()];
        UserBytes::at(self.address).copy_to(&mut bytes)?;
        let [a, b, c, d, e, f, g, h, len @ ..] = bytes;
        Ok(uapi::postbox_lease {
            block: u32::from_ne_bytes([a, b, c, d]),
            flags: u32::from_ne_bytes([e, f, g, h]),
            len: u64::from_ne_bytes(len),
        })
    }

    /// Reads the name that a description of an object asks for.
    pub(crate) fn read_name(&self) -> Result<Name> {
        let at = |field| UserBytes::at(self.address).after(field);
        let mut len = [0; size_of::<u32>()];
        at(offset_of!(uapi::postbox_info, name_len)).copy_to(&mut len)?;
        read_name(
            at(offset_of!(uapi::postbox_info, name)),
            u32::from_ne_bytes(len),
        )
    }

    /// Writes a lease's entry.
    pub(crate) fn write_lease(self, lease: &uapi::postbox_lease) -> Result {
        // SAFETY: It is made of integers, without padding.
        let bytes = unsafe {
            core::slice::from_raw_parts(
                core::ptr::from_ref(lease).cast::<u8>(),
                size_of::<uapi::postbox_lease>(),
            )
        };
        UserBytes::at(self.address).copy_from(bytes)
    }

    /// Reads a file's entry, which has no size of its own.
    pub(crate) fn read_file(self) -> Result<uapi::postbox_fd> {
        let mut bytes = [0; size_of::<uapi::postbox_fd>()];
        UserBytes::at(self.address).copy_to(&mut bytes)?;
        let [a, b, c, d, e, f, g, h] = bytes;
        Ok(uapi::postbox_fd {
            fd: i32::from_ne_bytes([a, b, c, d]),
            rights: u32::from_ne_bytes([e, f, g, h]),
        })
    }

    /// Writes a file's entry.
    pub(crate) fn write_file(self, file: &uapi::postbox_fd) -> Result {
        let ([a, b, c, d], [e, f, g, h]) = (file.fd.to_ne_bytes(), file.rights.to_ne_bytes());
        UserBytes::at(self.address).copy_from(&[a, b, c, d, e, f, g, h])
    }
}

/// Calls `request` with the argument at an address.
fn with<T: Args>(address: usize, request: impl FnOnce(Place, &mut T) -> Result) -> Result {
    let mut args = MaybeUninit::uninit();
    let at = Place::read(address, &mut args)?;
    // SAFETY: All of it was written, and it is made of integers.
    request(at, unsafe { args.assume_init_mut() })
}

pub(crate) fn address(pointer: u64) -> Result<usize> {
    usize::try_from(pointer).map_err(|_| EFAULT)
}

fn name(pointer: u64, len: u32) -> Result<Name> {
    read_name(UserBytes::at(address(pointer)?), len)
}

fn read_name(at: UserBytes, len: u32) -> Result<Name> {
    let mut bytes = [0; uapi::POSTBOX_NAME_MAX as usize];
    let bytes = bytes.get_mut(..len as usize).ok_or_else(enametoolong)?;
    at.copy_to(bytes)?;
    Name::new(bytes)
}

fn port(number: u32) -> Result<u16> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(EINVAL),
    }
}

pub(crate) fn ensure(condition: bool) -> Result {
    if condition {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// Carries a request out.
#[inline(always)]
pub(crate) fn dispatch(handle: &Handle, request: u32, arg: usize, how: How<'_>) -> Result {
    match request {
        uapi::POSTBOX_SEND => send(handle, arg, how),
        uapi::POSTBOX_RECV => recv(handle, arg, how),
        uapi::POSTBOX_CALL => call(handle, arg, how),
        uapi::POSTBOX_REPLY_RECV => reply_recv(handle, arg, how),
        uapi::POSTBOX_ACQUIRE => acquire(handle, arg, how),
        uapi::POSTBOX_RELEASE => release(handle, arg),
        _ => dispatch_other(handle, request, arg, how),
    }
}

// Each apart, so that the stack frames of the others stay small.

#[inline(never)]
fn send(handle: &Handle, arg: usize, how: How<'_>) -> Result {
    with(arg, |_, args| message::send(handle, args, how))
}

#[inline(never)]
fn recv(handle: &Handle, arg: usize, how: How<'_>) -> Result {
    with(arg, |at, args| message::recv(handle, at, args, how))
}

#[inline(never)]
fn call(handle: &Handle, arg: usize, how: How<'_>) -> Result {
    with(arg, |at, args| message::call(handle, at, args, how))
}

#[inline(never)]
fn reply_recv(handle: &Handle, arg: usize, how: How<'_>) -> Result {
    with(arg, |at, args| message::reply_recv(handle, at, args, how))
}

#[inline(never)]
fn acquire(handle: &Handle, arg: usize, how: How<'_>) -> Result {
    with(arg, |at, args| sync::acquire(handle, at, args, how))
}

#[inline(never)]
fn release(handle: &Handle, arg: usize) -> Result {
    with(arg, |_, args| sync::release(handle, args))
}

#[inline(never)]
fn dispatch_other(handle: &Handle, request: u32, arg: usize, how: How<'_>) -> Result {
    match request {
        uapi::POSTBOX_ACK => with(arg, |_, args| message::ack(handle, args)),
        uapi::POSTBOX_RESERVE => with(arg, |_, args| message::reserve(handle, args, how)),
        uapi::POSTBOX_SEND_BATCH => {
            with(arg, |at, args| message::send_batch(handle, at, args, how))
        }
        uapi::POSTBOX_RECV_BATCH => {
            with(arg, |at, args| message::recv_batch(handle, at, args, how))
        }
        uapi::POSTBOX_REPLY => with(arg, |_, args| message::reply(handle, args)),
        uapi::POSTBOX_VERSION => with(arg, object::version),
        uapi::POSTBOX_OPEN => with(arg, |at, args| object::open(handle, at, args)),
        uapi::POSTBOX_DUP => with(arg, |at, args| object::dup(handle, at, args)),
        uapi::POSTBOX_UNLINK => with(arg, |_, args| object::unlink(handle, args)),
        uapi::POSTBOX_SET_ATTR => with(arg, |_, args| object::set_attr(handle, args)),
        uapi::POSTBOX_GRANT => with(arg, |_, args| object::grant(handle, args)),
        uapi::POSTBOX_REVOKE => with(arg, |_, args| object::revoke(handle, args)),
        uapi::POSTBOX_INFO => with(arg, |at, _: &mut uapi::postbox_info| {
            object::info(handle, at)
        }),
        uapi::POSTBOX_LIST => with(arg, |at, args| object::list(handle, at, args)),
        uapi::POSTBOX_USAGE => with(arg, |at, args| object::usage(handle, at, args)),
        uapi::POSTBOX_WAIT_PEER => with(arg, |_, args| object::wait_peer(handle, args, how)),
        uapi::POSTBOX_PAIR => with(arg, |at, args| link::pair(handle, at, args)),
        uapi::POSTBOX_CONNECT => with(arg, |at, args| link::connect(handle, at, args, how)),
        uapi::POSTBOX_ACCEPT => with(arg, |at, args| link::accept(handle, at, args, how)),
        uapi::POSTBOX_PEER => with(arg, |at, args| link::peer(handle, at, args)),
        uapi::POSTBOX_READ => with(arg, |at, args| pipe::read(handle, at, args, how)),
        uapi::POSTBOX_WRITE => with(arg, |at, args| pipe::write(handle, at, args, how)),
        uapi::POSTBOX_SET_CAPACITY => {
            with(arg, |at, args| pipe::set_capacity(handle, at, args, how))
        }
        uapi::POSTBOX_SHUTDOWN => with(arg, |_, args| link::shutdown(handle, args)),
        uapi::POSTBOX_COUNT_DOWN => with(arg, |_, args| sync::count_down(handle, args)),
        uapi::POSTBOX_WAIT => with(arg, |at, args| sync::wait(handle, at, args, how)),
        uapi::POSTBOX_JOIN => with(arg, |_, args| sync::join(handle, args)),
        uapi::POSTBOX_LEAVE => with(arg, |_, args| sync::leave(handle, args)),
        uapi::POSTBOX_RING_ATTACH => with(arg, |at, args| ring::attach(handle, at, args)),
        uapi::POSTBOX_RING_DETACH => with(arg, |_, args| ring::detach(handle, args)),
        uapi::POSTBOX_RING_WAIT => with(arg, |_, args| ring::wait(handle, args, how)),
        uapi::POSTBOX_RING_WAKE => with(arg, |_, args| ring::wake(handle, args)),
        uapi::POSTBOX_ATTACH => with(arg, |at, args| segment::attach(handle, at, args)),
        uapi::POSTBOX_WAIT_WORD => with(arg, |at, args| segment::wait(handle, at, args, how)),
        uapi::POSTBOX_WAKE_WORD => with(arg, |_, args| segment::wake(handle, args)),
        uapi::POSTBOX_LOAN => with(arg, |at, args| pool::loan(handle, at, args, how)),
        _ => Err(ENOTTY),
    }
}

/// Carries a request out that is an io_uring command, and returns its result. Those that are not
/// named here do not wait.
pub(crate) fn command(handle: &Handle, issue: &Issue<'_>) -> Result<usize> {
    let how = How::Command(issue);
    let done = match issue.request() {
        uapi::POSTBOX_SEND => {
            match issue.resume() {
                Some(outcome) => sent(Some(outcome))?,
                None => drop(issue.with(|_, args| message::send(handle, args, how))?),
            }
            0
        }
        uapi::POSTBOX_RECV => {
            let args = issue
                .with(|at, args: &mut uapi::postbox_recv| message::recv(handle, at, args, how))?;
            args.msg_len
        }
        uapi::POSTBOX_SEND_BATCH => {
            let args = issue.with(|at, args: &mut uapi::postbox_batch| {
                message::send_batch(handle, at, args, how)
            })?;
            args.count.into()
        }
        uapi::POSTBOX_RECV_BATCH => {
            let args = issue.with(|at, args: &mut uapi::postbox_batch| {
                message::recv_batch(handle, at, args, how)
            })?;
            args.count.into()
        }
        uapi::POSTBOX_RESERVE => {
            issue.with(|_, args| message::reserve(handle, args, how))?;
            0
        }
        uapi::POSTBOX_CALL => {
            let args = issue
                .with(|at, args: &mut uapi::postbox_call| message::call(handle, at, args, how))?;
            args.reply.msg_len
        }
        uapi::POSTBOX_REPLY_RECV => {
            let args = issue.with(|at, args: &mut uapi::postbox_reply_recv| {
                message::reply_recv(handle, at, args, how)
            })?;
            args.recv.msg_len
        }
        uapi::POSTBOX_READ => {
            let args =
                issue.with(|at, args: &mut uapi::postbox_io| pipe::read(handle, at, args, how))?;
            args.done
        }
        uapi::POSTBOX_WRITE => {
            let args =
                issue.with(|at, args: &mut uapi::postbox_io| pipe::write(handle, at, args, how))?;
            args.done
        }
        uapi::POSTBOX_ACCEPT => {
            let args = issue
                .with(|at, args: &mut uapi::postbox_accept| link::accept(handle, at, args, how))?;
            args.fd as u64
        }
        uapi::POSTBOX_WAIT_PEER => {
            issue.with(|_, args| object::wait_peer(handle, args, how))?;
            0
        }
        uapi::POSTBOX_ACQUIRE => {
            issue.with(|at, args| sync::acquire(handle, at, args, how))?;
            0
        }
        uapi::POSTBOX_WAIT => {
            issue.with(|at, args| sync::wait(handle, at, args, how))?;
            0
        }
        uapi::POSTBOX_RING_WAIT => {
            issue.with(|_, args| ring::wait(handle, args, how))?;
            0
        }
        request => {
            dispatch(handle, request, issue.address()?, How::Nonblocking)?;
            0
        }
    };
    // No operation moves more than MAX_RW_COUNT.
    Ok(usize::try_from(done).unwrap_or(usize::MAX))
}

/// Says in its argument how many messages a batch has sent that is ended. The completion says it,
/// too: who has made the argument unwritable meanwhile goes by that.
pub(crate) fn count_sent(issue: &Issue<'_>, count: usize) {
    let _ = issue.with(|at, args: &mut uapi::postbox_batch| {
        args.count = count as u32;
        at.write(args)
    });
}
