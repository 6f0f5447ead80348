// SPDX-License-Identifier: GPL-2.0
//! Requests to rings.

use super::{ensure, Place};
use crate::{
    compat::eopnotsupp,
    handle::Handle,
    object::Object,
    queue::{RingLeave, RingSide},
    ring::{other, right, side, Ring},
    uapi,
    wait::{How, Wait},
};
use kernel::prelude::*;

/// The ring, if the handle has a right.
fn ring(handle: &Handle, right: u32) -> Result<&Ring> {
    match handle.bound()?.object(right)? {
        Object::Ring(ring) => Ok(ring),
        _ => Err(eopnotsupp()),
    }
}

/// The side that is meant, where nothing else is said.
fn side_alone(args: &uapi::postbox_ring) -> Result<RingSide> {
    ensure(args.timeout_ns == 0)?;
    side(args.flags)
}

pub(super) fn attach(handle: &Handle, at: Place, args: &mut uapi::postbox_ring_attach) -> Result {
    let side = side(args.flags)?;
    let ring = ring(handle, right(side))?;
    args.id = ring.attach(side, &handle.state.shares)?;
    ring.about(args);
    let written = at.write(args);
    if written.is_err() {
        // Nobody has seen it.
        ring.detach(side, RingLeave::Undone, &handle.state.shares)?;
    }
    written
}

pub(super) fn detach(handle: &Handle, args: &uapi::postbox_ring) -> Result {
    let side = side_alone(args)?;
    ring(handle, right(side))?.detach(side, RingLeave::Closed, &handle.state.shares)
}

pub(super) fn wait(handle: &Handle, args: &uapi::postbox_ring, how: How<'_>) -> Result {
    let side = side(args.flags & !Wait::FLAGS)?;
    let wait = Wait::new(args.flags & Wait::FLAGS, args.timeout_ns, how)?;
    ring(handle, right(side))?.wait(side, &wait)
}

pub(super) fn wake(handle: &Handle, args: &uapi::postbox_ring) -> Result {
    let side = side_alone(args)?;
    ring(handle, right(other(side)))?.wake(side);
    Ok(())
}
