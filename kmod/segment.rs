// SPDX-License-Identifier: GPL-2.0
//! The segment as a kernel object: memory that processes map.

use crate::{
    mapping::{Area, Memory},
    quota::{Pinned, SharedCharge},
    share::Handles,
    uapi,
};
use kernel::{
    prelude::*,
    sync::{new_spinlock, SpinLock},
};

/// What the lock guards.
struct Inner {
    handles: Handles,
}

/// A segment.
#[pin_data]
pub(crate) struct Segment {
    pub(crate) memory: Memory,
    #[pin]
    inner: SpinLock<Inner>,
    _charge: SharedCharge,
}

impl Segment {
    /// One with the memory of a descriptor of the current task, which `user` pays for.
    pub(crate) fn new(memfd: i32, user: &Pinned) -> Result<impl PinInit<Self>> {
        let memory = Memory::new(memfd)?;
        let charge = user.charge_shared(memory.size())?;
        Ok(pin_init!(Self {
            memory,
            inner <- new_spinlock!(
                Inner {
                    handles: Handles::default(),
                },
                "postbox_segment"
            ),
            _charge: charge,
        }))
    }

    /// A handle was bound.
    pub(crate) fn open(&self, sends: bool, receives: bool) {
        self.inner.lock().handles.open(sends, receives);
    }

    /// A handle was closed for the last time.
    pub(crate) fn close(&self, sends: bool, receives: bool) {
        self.inner.lock().handles.close(sends, receives);
    }

    /// Maps it for a handle with these rights.
    pub(crate) fn map(&self, area: &Area, sends: bool, receives: bool) -> Result {
        if !receives {
            return Err(EACCES);
        }
        self.memory.map(area, sends)
    }

    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        self.inner.lock().handles.describe(info);
        info.capacity = self.memory.page_size();
        info.capacity_bytes = self.memory.size();
        if self.memory.frozen() {
            info.flags |= uapi::POSTBOX_INFO_FROZEN;
        }
    }
}
