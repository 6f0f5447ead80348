// SPDX-License-Identifier: GPL-2.0
//! Requests to segments.

use super::{ensure, Place};
use crate::{
    compat::eopnotsupp,
    handle::Handle,
    object::Object,
    segment::Segment,
    uapi,
    wait::{How, Wait},
};
use kernel::prelude::*;

/// The segment, if the handle lets its memory be read and written.
fn segment(handle: &Handle) -> Result<&Segment> {
    let bound = handle.bound()?;
    bound.object(uapi::POSTBOX_RIGHT_SEND)?;
    match bound.object(uapi::POSTBOX_RIGHT_RECEIVE)? {
        Object::Segment(segment) => Ok(segment),
        _ => Err(eopnotsupp()),
    }
}

pub(super) fn attach(handle: &Handle, at: Place, args: &mut uapi::postbox_attach) -> Result {
    ensure(args.reserved == 0)?;
    args.id = segment(handle)?.attach(&handle.state.shares)?;
    at.write(args)
}

pub(super) fn wait(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_word,
    how: How<'_>,
) -> Result {
    ensure(args.flags & !Wait::FLAGS == 0 && args.count == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    let died = segment(handle)?.wait(args.offset, args.value, &wait)?;
    let state = if died {
        uapi::POSTBOX_WORD_OWNER_DIED
    } else {
        0
    };
    if args.state == state {
        return Ok(());
    }
    args.state = state;
    at.write(args)
}

pub(super) fn wake(handle: &Handle, args: &uapi::postbox_word) -> Result {
    ensure(args.flags == 0 && args.value == 0 && args.timeout_ns == 0 && args.state == 0)?;
    ensure(args.count > 0)?;
    let segment = segment(handle)?;
    ensure(args.offset % 8 == 0 && args.offset < segment.memory.size())?;
    segment.wake(args.offset, args.count);
    Ok(())
}
