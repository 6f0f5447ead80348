// SPDX-License-Identifier: GPL-2.0
//! Watches: what a process took comes back when it exits, and its endpoint closes.
//!
//! The wake-up comes from the exiting task, under the lock of the process's pidfds and that of the task
//! list. So there is one entry for each process on the wait queue that its pidfds are polled by, however
//! many watches there are, and the wake-up only queues a work item, which tells one after the other. Wake-ups
//! for other reasons are passed over: the work item looks whether the process has exited. The last one comes
//! when the process is reaped, so that none is missed.
//!
//! Dropping a watch waits for the work item if that is just telling it, unless it is the work item itself
//! that drops it. So a watch outlives what it is told. The workqueue is the module's own and goes last, so
//! that no work item is in the module's code when that goes.

use crate::{
    chardev,
    helpers::{c, RawExit, GFP_MAYFAIL},
    mailbox::Mailbox,
    share::Leaving,
};
use core::{pin::Pin, ptr::NonNull};
use kernel::{
    bindings,
    error::to_result,
    fs::File,
    prelude::*,
    sync::{aref::ARef, Arc},
    types::Opaque,
};

/// The workqueue of watches. It is to outlive every one of them.
pub(crate) struct Works(());

impl Works {
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Called once, when the module is loaded.
        to_result(unsafe { c::postbox_exits_init() })?;
        Ok(Self(()))
    }
}

impl Drop for Works {
    fn drop(&mut self) {
        // SAFETY: `new` made it, and no watch is left: handles and objects are gone.
        unsafe { c::postbox_exits_fini() };
    }
}

/// What is told of the exit.
pub(crate) enum Target {
    /// The handle of this file, which keeps the watch. No reference: its release drops the watch.
    Handle(NonNull<bindings::file>),
    /// The endpoint of the process.
    Endpoint(Arc<Mailbox>),
}

/// A watch of a process.
#[pin_data(PinnedDrop)]
pub(crate) struct Watch {
    #[pin]
    raw: Opaque<RawExit>,
    process: u64,
    target: Target,
}

// SAFETY: The wait queue and the workqueue have locks of their own, the rest never changes, and the
// file may be used by every task.
unsafe impl Send for Watch {}
// SAFETY: The wait queue and the workqueue have locks of their own, the rest never changes, and the
// file may be used by every task.
unsafe impl Sync for Watch {}

impl Watch {
    /// Watches the current process.
    ///
    /// # Safety
    ///
    /// The file of a target is not freed before the watch is dropped.
    pub(crate) unsafe fn current(target: Target) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                process: crate::helpers::process(),
                target,
                // SAFETY: The slot is pinned, and what is started is stopped in `drop`. `process`
                // and `target` were set before, so that the work item finds them.
                raw <- Opaque::try_ffi_init(|raw| to_result(unsafe { c::postbox_exit_watch(raw) })),
            }? Error),
            GFP_MAYFAIL,
        )
    }

    /// Whether the process exits, or has.
    pub(crate) fn dies(&self) -> bool {
        // SAFETY: It was started in `current`.
        unsafe { c::postbox_exit_begun(self.raw.get()) }
    }
}

#[pinned_drop]
impl PinnedDrop for Watch {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It was started in `current`, and this sleeps: no lock is held where shares and
        // entries of the registry are dropped.
        unsafe { c::postbox_exit_stop(self.raw.get()) };
    }
}

/// The work item: a process that is watched has exited.
///
/// # Safety
///
/// `raw` is that of a watch, which is not dropped but by this call.
#[no_mangle]
unsafe extern "C" fn postbox_process_exited(raw: *mut RawExit) {
    // SAFETY: By the contract; the watch is pinned.
    let watch = unsafe {
        let raw = raw.cast::<Opaque<RawExit>>();
        &*kernel::container_of!(raw, Watch, raw)
    };
    let process = watch.process;
    match &watch.target {
        Target::Endpoint(mailbox) => mailbox.clone().shut(false, true),
        Target::Handle(file) => {
            // SAFETY: The file is not freed before the watch is dropped. It may be being released: then
            // there is no reference to be had, and its release settles everything.
            let file = unsafe {
                let file = *file;
                if !c::postbox_file_try_get(file.as_ptr()) {
                    return;
                }
                ARef::<File>::from_raw(file.cast())
            };
            // Here the watch is dropped, and the reference keeps the handle for as long as it takes.
            if let Some(handle) = chardev::as_handle(&file) {
                let process = Some(process);
                handle.process_closed(Leaving { process });
            }
        }
    }
}
