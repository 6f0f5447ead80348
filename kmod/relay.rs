// SPDX-License-Identifier: GPL-2.0
//! Wake-ups for those who polled a handle before it was bound.
//!
//! epoll and io_uring get onto wait queues when they are first told of a file, and never again. Who
//! polls an unbound handle gets onto a queue of the handle; once that is bound, the queue is woken,
//! whoever is on it polls again, and the first poll puts an entry onto the object's queues that
//! passes every later wake-up on. Handles that were bound before they were polled have nothing of it.

use crate::helpers::{c, RawRelay};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::atomic::{Atomic, Full, Relaxed},
    types::Opaque,
};

/// Those who polled a handle while it was unbound, and what wakes them.
#[pin_data]
pub(crate) struct Relay {
    #[pin]
    raw: Opaque<RawRelay>,
    started: Atomic<u32>,
}

// SAFETY: Its wait queue has a lock of its own, and the rest is set by who sets `started` first.
unsafe impl Send for Relay {}
// SAFETY: As for `Send`.
unsafe impl Sync for Relay {}

impl Relay {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The relay is pinned, and initialised where it is.
            raw <- Opaque::ffi_init(|raw| unsafe { c::postbox_relay_init(raw) }),
            started: Atomic::new(0),
        })
    }

    /// Adds a poller of the unbound handle. Whether the handle is bound is to be looked at afterwards.
    ///
    /// # Safety
    ///
    /// `file` and `table` are those of a poll, and `file` keeps this handle.
    pub(crate) unsafe fn add(&self, file: &File, table: *mut bindings::poll_table_struct) {
        // SAFETY: The caller guarantees that the file keeps the wait queue as long as it is polled.
        unsafe { c::postbox_relay_add(self.raw.get(), file.as_ptr(), table) };
    }

    /// Wakes them: the handle was bound.
    pub(crate) fn wake(&self) {
        // SAFETY: It was initialised.
        unsafe { c::postbox_relay_wake(self.raw.get()) };
    }

    /// Has `poll` put the relay onto the wait queues of the object, if it is needed there and is not
    /// there yet.
    #[inline]
    pub(crate) fn start(&self, poll: impl FnOnce(*mut bindings::poll_table_struct)) {
        // SAFETY: It was initialised.
        if !unsafe { c::postbox_relay_needed(self.raw.get()) } || self.started.load(Relaxed) != 0 {
            return;
        }
        if self.started.cmpxchg(0, 1, Full).is_ok() {
            // SAFETY: It was initialised, and nobody else uses its table.
            poll(unsafe { c::postbox_relay_table(self.raw.get()) });
            // Another poller may have looked at the object before the relay was there.
            self.wake();
        }
    }

    /// Takes the relay off the wait queues, before the object may go.
    pub(crate) fn stop(&self) {
        // SAFETY: It was initialised, and the last user of the handle is dropping it.
        unsafe { c::postbox_relay_stop(self.raw.get()) };
    }
}
