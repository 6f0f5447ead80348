// SPDX-License-Identifier: GPL-2.0
//! Requests to semaphores, latches and barriers.

use super::{ensure, Place};
use crate::{
    compat::eopnotsupp,
    handle::Handle,
    object::Object,
    semaphore::Semaphore,
    share::Shares,
    uapi,
    wait::{How, Wait},
};
use kernel::prelude::*;

/// Checks what is said besides how to wait. `flags` are the others that there can be.
#[inline]
fn check(args: &uapi::postbox_sync, flags: u32) -> Result {
    ensure(args.flags & !flags == 0 && args.count > 0 && args.reserved == 0)
}

/// The same for a request that does not wait.
#[inline]
fn check_at_once(args: &uapi::postbox_sync, flags: u32) -> Result {
    check(args, flags)?;
    ensure(args.timeout_ns == 0)
}

/// Where it is noted what to give back, if that was asked for.
#[inline]
fn undo<'a>(handle: &'a Handle, args: &uapi::postbox_sync) -> Option<&'a Shares> {
    (args.flags & uapi::POSTBOX_SYNC_UNDO != 0).then_some(&handle.state.shares)
}

#[inline]
fn semaphore(handle: &Handle, right: u32) -> Result<&Semaphore> {
    match handle.bound()?.object(right)? {
        Object::Semaphore(semaphore) => Ok(semaphore),
        _ => Err(eopnotsupp()),
    }
}

pub(super) fn acquire(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_sync,
    how: How<'_>,
) -> Result {
    check(args, Wait::FLAGS | uapi::POSTBOX_SYNC_UNDO)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    let semaphore = semaphore(handle, uapi::POSTBOX_RIGHT_RECEIVE)?;
    let undo = undo(handle, args);
    let orphans = semaphore.acquire(args.count, undo, &wait)?;
    let state = match orphans {
        0 => 0,
        _ => uapi::POSTBOX_SYNC_OWNER_DIED,
    };
    if args.state != state {
        args.state = state;
        if let Err(error) = at.write(args) {
            semaphore.unacquire(args.count, orphans, undo);
            return Err(error);
        }
    }
    Ok(())
}

pub(super) fn release(handle: &Handle, args: &uapi::postbox_sync) -> Result {
    check_at_once(args, uapi::POSTBOX_SYNC_UNDO)?;
    semaphore(handle, uapi::POSTBOX_RIGHT_SEND)?.release(args.count, undo(handle, args))
}

pub(super) fn count_down(handle: &Handle, args: &uapi::postbox_sync) -> Result {
    check_at_once(args, 0)?;
    match handle.bound()?.object(uapi::POSTBOX_RIGHT_SEND)? {
        Object::Latch(latch) => latch.count_down(args.count, &handle.state.shares),
        _ => Err(eopnotsupp()),
    }
}

pub(super) fn wait(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_sync,
    how: How<'_>,
) -> Result {
    check(args, Wait::FLAGS | uapi::POSTBOX_SYNC_ARRIVE)?;
    ensure(args.count == 1)?;
    let wait = Wait::new(args.flags & Wait::FLAGS, args.timeout_ns, how)?;
    let arrive = args.flags & uapi::POSTBOX_SYNC_ARRIVE != 0;
    let bound = handle.bound()?;
    match &bound.object {
        Object::Latch(latch) => {
            bound.object(uapi::POSTBOX_RIGHT_RECEIVE)?;
            ensure(!arrive)?;
            latch.wait(&wait)?;
            tell(at, args, 0, how)
        }
        Object::Barrier(barrier) => {
            bound.object(uapi::POSTBOX_RIGHT_SEND)?;
            // That it cannot be written is found while nothing has happened yet.
            args.state = 0;
            if !how.resumes() {
                at.write(args)?;
            }
            if arrive {
                ensure(args.flags & Wait::FLAGS == 0)?;
                return barrier.arrive(&handle.state.shares);
            }
            match barrier.wait(&handle.state.shares, &wait)? {
                true => tell(at, args, uapi::POSTBOX_SYNC_LEADER, how),
                false => Ok(()),
            }
        }
        _ => Err(eopnotsupp()),
    }
}

/// Writes the state back if it is not there already.
fn tell(at: Place, args: &mut uapi::postbox_sync, state: u32, how: How<'_>) -> Result {
    if args.state == state {
        return Ok(());
    }
    args.state = state;
    let told = at.write(args);
    match how {
        // Its completion says that the wait is over, whether the argument can still be written or not.
        How::Command(_) => Ok(()),
        _ => told,
    }
}

pub(super) fn join(handle: &Handle, args: &uapi::postbox_sync) -> Result {
    check_at_once(args, 0)?;
    match handle.bound()?.object(uapi::POSTBOX_RIGHT_SEND)? {
        Object::Latch(latch) => latch.join(args.count, &handle.state.shares),
        Object::Barrier(barrier) => barrier.join(args.count, &handle.state.shares),
        _ => Err(eopnotsupp()),
    }
}

pub(super) fn leave(handle: &Handle, args: &uapi::postbox_sync) -> Result {
    check_at_once(args, 0)?;
    match handle.bound()?.object(uapi::POSTBOX_RIGHT_SEND)? {
        Object::Latch(latch) => latch.leave(args.count, &handle.state.shares),
        Object::Barrier(barrier) => barrier.leave(args.count, &handle.state.shares),
        _ => Err(eopnotsupp()),
    }
}
