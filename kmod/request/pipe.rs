// SPDX-License-Identifier: GPL-2.0
//! Pipes: bytes in and out.

use super::{address, ensure, Place};
use crate::{
    compat::eopnotsupp,
    handle::Handle,
    helpers::{UserBytes, MAX_RW_COUNT},
    object::Object,
    pipe::Pipe,
    uapi,
    wait::{How, Wait},
};
use kernel::{
    iov::{IovIterDest, IovIterSource},
    prelude::*,
};

/// The pipe, if the handle has one of the rights.
fn pipe(handle: &Handle, rights: u32) -> Result<&Pipe> {
    match handle.bound()?.object(rights)? {
        Object::Pipe(pipe) => Ok(pipe),
        _ => Err(eopnotsupp()),
    }
}

/// How many bytes one call moves at most, as read() and write() do: so many are a result.
fn at_once(args: &uapi::postbox_io) -> usize {
    usize::try_from(args.len).map_or(MAX_RW_COUNT, |len| len.min(MAX_RW_COUNT))
}

fn copy_out(to: UserBytes, [first, second]: [&[u8]; 2]) -> Result {
    to.copy_from(first)?;
    to.after(first.len()).copy_from(second)
}

fn copy_in(from: UserBytes, [first, second]: [&mut [u8]; 2]) -> Result {
    from.copy_to(first)?;
    from.after(first.len()).copy_to(second)
}

pub(super) fn read(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_io,
    how: How<'_>,
) -> Result {
    ensure(args.flags & !Wait::FLAGS == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    let pipe = pipe(handle, uapi::POSTBOX_RIGHT_RECEIVE)?;
    let to = UserBytes::at(address(args.data)?);
    let len = at_once(args);
    let read = pipe.read(len, &wait, |parts| {
        args.done = parts.iter().map(|part| part.len() as u64).sum();
        copy_out(to, parts)?;
        at.write(args)
    })?;
    if read == 0 {
        args.done = 0;
        return at.write(args);
    }
    Ok(())
}

pub(super) fn write(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_io,
    how: How<'_>,
) -> Result {
    ensure(args.flags & !Wait::FLAGS == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    let pipe = pipe(handle, uapi::POSTBOX_RIGHT_SEND)?;
    let from = UserBytes::at(address(args.data)?);
    let len = at_once(args);
    let written = pipe.write(len, &wait, |done, parts| {
        args.done = done as u64 + parts.iter().map(|part| part.len() as u64).sum::<u64>();
        copy_in(from.after(done), parts)?;
        at.write(args)
    })?;
    // A part that could not be copied was counted, and not written.
    args.done = written as u64;
    if written == 0 {
        return at.write(args);
    }
    Ok(())
}

pub(super) fn set_capacity(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_capacity,
    how: How<'_>,
) -> Result {
    ensure(args.reserved == 0)?;
    let wait = Wait::new(0, 0, how)?;
    let pipe = pipe(handle, uapi::POSTBOX_RIGHT_SEND | uapi::POSTBOX_RIGHT_ADMIN)?;
    let user = handle.shared.users.current()?;
    pipe.set_capacity(args.capacity, &user, &wait, |capacity| {
        args.capacity = capacity;
        at.write(args)
    })
}

/// What read() does on a pipe.
#[inline(never)]
pub(crate) fn read_bytes(
    handle: &Handle,
    to: UserBytes,
    len: usize,
    wait: &Wait<'_>,
) -> Result<usize> {
    let pipe = pipe(handle, uapi::POSTBOX_RIGHT_RECEIVE)?;
    pipe.read(len, wait, |parts| copy_out(to, parts))
}

/// What write() does on a pipe.
#[inline(never)]
pub(crate) fn write_bytes(
    handle: &Handle,
    from: UserBytes,
    len: usize,
    wait: &Wait<'_>,
) -> Result<usize> {
    let pipe = pipe(handle, uapi::POSTBOX_RIGHT_SEND)?;
    pipe.write(len, wait, |done, parts| copy_in(from.after(done), parts))
}

/// The same with bytes in several places.
#[inline(never)]
pub(crate) fn read_iter(
    handle: &Handle,
    iter: &mut IovIterDest<'_>,
    wait: &Wait<'_>,
) -> Result<usize> {
    let pipe = pipe(handle, uapi::POSTBOX_RIGHT_RECEIVE)?;
    pipe.read(iter.len(), wait, |parts| {
        let wanted = parts.iter().map(|part| part.len()).sum();
        let copied = parts.iter().map(|part| iter.copy_to_iter(part)).sum();
        if copied != wanted {
            // SAFETY: So many bytes were just copied.
            unsafe { iter.revert(copied) };
            return Err(EFAULT);
        }
        Ok(())
    })
}

/// The same with bytes in several places.
#[inline(never)]
pub(crate) fn write_iter(
    handle: &Handle,
    iter: &mut IovIterSource<'_>,
    wait: &Wait<'_>,
) -> Result<usize> {
    let pipe = pipe(handle, uapi::POSTBOX_RIGHT_SEND)?;
    let mut at = 0;
    pipe.write(iter.len(), wait, |done, parts| {
        // The iterator of a command that goes on is a new one, from the beginning of its buffer.
        iter.advance(done.saturating_sub(at));
        at = done;
        for part in parts {
            let copied = iter.copy_from_iter(part);
            at += copied;
            if copied != part.len() {
                return Err(EFAULT);
            }
        }
        Ok(())
    })
}
