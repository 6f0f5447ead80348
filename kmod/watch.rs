// SPDX-License-Identifier: GPL-2.0
//! Watches: what a process took comes back when it exits, and its endpoint closes.
//!
//! The wake-up comes from the exiting task, under the lock of the process's pidfds and that of the task
//! list. So there is one entry for each process on the wait queue that its pidfds are polled by, however
//! many watches there are, and the wake-up only queues a work item. Wake-ups for other reasons are passed
//! over: the work item looks whether the process has exited. The last one comes when the process is reaped,
//! so that none is missed.
//!
//! ```text
//!   watched ----------> in a line ----------> notified ----------> let go
//!           process's               line's              notify,
//!           work item               work item           references taken
//! ```
//!
//! Settling takes as long as what the process had is much. So each user has a line of its own, whose work
//! item settles one handle after the other, and the process's work item only moves its watches to the lines
//! of those who made them: the process itself for what it took, the submitter for a command. A user waits
//! for what it has itself made long, and has one place of the workqueue, however many processes, handles and
//! namespaces it makes. What is brief (endpoints, commands) has a second line, and waits for none of it.
//!
//! A watch may be dropped at any time, and from anywhere that sleeps. That takes it off its list, and waits only
//! while this very watch is notified, until the references are taken that the rest needs: [`postbox_process_exited`]
//! lets it go before it settles. Entries of processes and lines are kept by their watches and by their
//! work items, so that dropping the last watch waits for no work. The workqueue is the module's own and
//! goes last, which waits for all of it, so that none is in the module's code when that goes.

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

/// The target of a watch, which is notified of the exit.
pub(crate) enum Target {
    /// The handle of this file, which keeps the watch. No reference: its release drops the watch.
    Handle(NonNull<bindings::file>),
    /// The endpoint of the process.
    Endpoint(Arc<Mailbox>),
}

/// A target with the references that notifying it needs.
enum Kept {
    Handle(ARef<File>),
    Endpoint(Arc<Mailbox>),
}

impl Target {
    /// Takes the references; `None`: the handle is being released, which settles everything.
    ///
    /// # Safety
    ///
    /// The watch is not dropped before this returns.
    unsafe fn keep(&self) -> Option<Kept> {
        match self {
            Target::Endpoint(mailbox) => Some(Kept::Endpoint(mailbox.clone())),
            // SAFETY: The file is not freed before the watch is dropped: it was made with that promise,
            // and the caller guarantees that it is not dropped. The reference, if there is one, is
            // given to the `ARef`.
            Target::Handle(file) => unsafe {
                c::postbox_file_try_get(file.as_ptr())
                    .then(|| Kept::Handle(ARef::from_raw(file.cast())))
            },
        }
    }
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
        let brief = matches!(target, Target::Endpoint(_));
        KBox::pin_init(
            pin_init!(Self {
                process: crate::helpers::process(),
                target,
                raw <- Opaque::try_ffi_init(move |raw| {
                    // SAFETY: The slot is pinned, and what is started is stopped in `drop`. `process`
                    // and `target` were set before, so that the work item finds them.
                    to_result(unsafe { c::postbox_exit_watch(raw, brief) })
                }),
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

/// Notifies the target of a watch, from a work item: the process has exited.
///
/// # Safety
///
/// `raw` is that of a watch, which is not dropped before `postbox_exit_let_go`.
#[no_mangle]
unsafe extern "C" fn postbox_process_exited(raw: *mut RawExit) {
    // SAFETY: The watch is pinned, and the caller guarantees that it is not dropped. It is not used
    // after it is let go.
    let (process, target) = unsafe {
        let watch = kernel::container_of!(raw.cast::<Opaque<RawExit>>(), Watch, raw);
        let parts = ((*watch).process, (*watch).target.keep());
        c::postbox_exit_let_go(raw);
        parts
    };
    match target {
        Some(Kept::Endpoint(mailbox)) => mailbox.shut(false, true),
        // The reference keeps the handle for as long as it takes.
        Some(Kept::Handle(file)) => {
            if let Some(handle) = chardev::as_handle(&file) {
                let process = Some(process);
                handle.process_closed(Leaving { process });
            }
        }
        None => {}
    }
}
