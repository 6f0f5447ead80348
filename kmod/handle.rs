// SPDX-License-Identifier: GPL-2.0
//! A handle, which is an open file: what it is bound to, with which rights, and who pays.

use crate::{
    compat::{ebadfd, eisconn},
    mailbox::{Mailbox, State},
    queue::HandleState,
    quota::{Pinned, Users},
    registry::{Opened, Registry},
    uapi,
};
use kernel::{
    prelude::*,
    sync::{new_spinlock, Arc, SetOnce},
};

/// What all handles share.
#[pin_data]
pub(crate) struct Shared {
    #[pin]
    pub(crate) registry: Registry,
    #[pin]
    pub(crate) users: Users,
}

impl Shared {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                registry <- Registry::new(),
                users <- Users::new(),
            }),
            GFP_KERNEL,
        )
    }
}

/// What a handle is bound to.
pub(crate) struct Bound {
    pub(crate) id: u64,
    pub(crate) rights: u32,
    pub(crate) mailbox: Arc<Mailbox>,
}

impl Bound {
    fn sends(&self) -> bool {
        self.rights & uapi::POSTBOX_RIGHT_SEND != 0
    }

    fn receives(&self) -> bool {
        self.rights & uapi::POSTBOX_RIGHT_RECEIVE != 0
    }
}

/// A handle.
#[pin_data(PinnedDrop)]
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    /// The IPC namespace of whoever opened it, which names are looked up in.
    pub(crate) ipc_ns: u64,
    /// The user who opened it.
    pub(crate) user: Pinned,
    bound: SetOnce<Bound>,
    /// What it has of the mailbox. After the mailbox's lock.
    #[pin]
    pub(crate) state: State,
}

impl Handle {
    /// A handle of the current task.
    pub(crate) fn new(shared: Arc<Shared>, ipc_ns: u64) -> Result<Pin<KBox<Self>>> {
        let user = shared.users.current()?;
        KBox::pin_init(
            pin_init!(Self {
                shared,
                ipc_ns,
                user,
                bound: SetOnce::new(),
                state <- new_spinlock!(HandleState::new(), "postbox_handle"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// What it is bound to.
    pub(crate) fn bound(&self) -> Result<&Bound> {
        self.bound.as_ref().ok_or_else(ebadfd)
    }

    /// The mailbox, if this handle has the right.
    pub(crate) fn mailbox(&self, right: u32) -> Result<&Mailbox> {
        let bound = self.bound()?;
        if bound.rights & right == 0 {
            return Err(EACCES);
        }
        Ok(&bound.mailbox)
    }

    /// Binds it to an object that was opened for it.
    pub(crate) fn bind(&self, opened: Opened, rights: u32) -> Result {
        let (id, mailbox) = (opened.id, opened.mailbox.clone());
        let bound = Bound {
            id,
            rights,
            mailbox,
        };
        let (sends, receives) = (bound.sends(), bound.receives());
        if !self.bound.populate(bound) {
            self.shared.registry.close(id);
            return Err(eisconn());
        }
        opened.mailbox.open(sends, receives);
        Ok(())
    }

    /// A second handle to the same object.
    pub(crate) fn dup(&self, rights: u32) -> Result<Pin<KBox<Self>>> {
        let bound = self.bound()?;
        if rights == 0 {
            return Err(EINVAL);
        }
        if rights & !bound.rights != 0 {
            return Err(EACCES);
        }
        let handle = Self::new(self.shared.clone(), self.ipc_ns)?;
        self.shared.registry.reopen(bound.id)?;
        let opened = Opened {
            id: bound.id,
            mailbox: bound.mailbox.clone(),
            created: false,
        };
        handle.bind(opened, rights)?;
        Ok(handle)
    }

    /// Calls `f` with the user who pays for what the current task, whose effective user is `uid`,
    /// sends.
    pub(crate) fn with_payer(&self, uid: u32, f: impl FnOnce(&Pinned) -> Result) -> Result {
        if uid == self.user.uid {
            return f(&self.user);
        }
        // The handle was passed on, or the process changed its user.
        f(&self.shared.users.current()?)
    }

    /// Puts back what a process received and did not acknowledge, and cannot any more: it exits, or
    /// has closed its last descriptor of the handle.
    pub(crate) fn process_closed(&self, process: usize) {
        if let Some(bound) = self.bound.as_ref().filter(|bound| bound.receives()) {
            bound.mailbox.reclaim(&self.state, Some(process));
        }
    }

    /// The rights to send and to receive.
    pub(crate) fn directions(&self) -> (bool, bool) {
        self.bound
            .as_ref()
            .map_or((false, false), |bound| (bound.sends(), bound.receives()))
    }
}

#[pinned_drop]
impl PinnedDrop for Handle {
    fn drop(self: Pin<&mut Self>) {
        if let Some(bound) = self.bound.as_ref() {
            bound
                .mailbox
                .close(bound.sends(), bound.receives(), &self.state);
            self.shared.registry.close(bound.id);
        }
    }
}
