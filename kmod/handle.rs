// SPDX-License-Identifier: GPL-2.0
//! A handle, which is an open file: what it is bound to, with which rights, and who pays.

use crate::{
    compat::{ealready, ebadfd, eisconn, eopnotsupp},
    files::Graph,
    grant::Granted,
    helpers::{self, GFP_MAYFAIL},
    mailbox::{Mailbox, State},
    mapping::Area,
    object::{Object, Side},
    pause::Pauses,
    quota::{Pinned, Users},
    registry::{Opened, Registry},
    relay::Relay,
    share::Leaving,
    uapi,
    uring::Commands,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Release},
        Arc, SetOnce,
    },
};

/// What all handles share.
#[pin_data]
pub(crate) struct Shared {
    #[pin]
    pub(crate) registry: Registry,
    #[pin]
    pub(crate) users: Users,
    /// Which mailboxes have handles of which queued.
    #[pin]
    pub(crate) graph: Graph,
}

impl Shared {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                registry <- Registry::new(),
                users <- Users::new(),
                graph <- Graph::new(),
            }),
            GFP_KERNEL,
        )
    }
}

/// What a handle is bound to.
pub(crate) struct Bound {
    pub(crate) id: u64,
    pub(crate) rights: u32,
    pub(crate) object: Object,
    /// Which end, of a link.
    pub(crate) end: usize,
    /// What it was opened through, where the object's mode alone did not let it.
    granted: Option<Granted>,
    /// Where it sends to, if it may.
    tx: Option<Arc<Mailbox>>,
    /// Where it receives from, if it may.
    rx: Option<Arc<Mailbox>>,
}

impl Bound {
    pub(crate) fn new(opened: Opened, rights: u32) -> Self {
        let Opened {
            id,
            object,
            end,
            granted,
            created: _,
        } = opened;
        let (tx, rx) = object.mailboxes(end);
        let (tx, rx) = (tx.cloned(), rx.cloned());
        Self {
            id,
            rights,
            end,
            granted,
            tx: tx.filter(|_| rights & uapi::POSTBOX_RIGHT_SEND != 0),
            rx: rx.filter(|_| rights & uapi::POSTBOX_RIGHT_RECEIVE != 0),
            object,
        }
    }

    pub(crate) fn side(&self) -> Side {
        Side {
            sends: self.rights & uapi::POSTBOX_RIGHT_SEND != 0,
            receives: self.rights & uapi::POSTBOX_RIGHT_RECEIVE != 0,
            end: self.end,
        }
    }

    /// The object, if the handle has the right.
    pub(crate) fn object(&self, right: u32) -> Result<&Object> {
        if self.rights & right == 0 {
            return Err(EACCES);
        }
        Ok(&self.object)
    }

    /// Why it does not send, or receive.
    #[cold]
    fn refusal(&self, right: u32) -> Error {
        if self.rights & right == 0 {
            EACCES
        } else {
            eopnotsupp()
        }
    }

    /// The mailboxes that it keeps.
    pub(crate) fn mailboxes(&self) -> impl Iterator<Item = &Mailbox> {
        let (tx, rx) = match &self.object {
            Object::Listener(listener) => (Some(&listener.queue), None),
            object => object.mailboxes(self.end),
        };
        [tx, rx].into_iter().flatten().map(|mailbox| &**mailbox)
    }
}

/// The right to bind a handle, which one request at a time has.
pub(crate) struct Binding<'a>(&'a Handle);

impl Binding<'_> {
    /// Binds the handle to an object that was opened for it.
    pub(crate) fn bind(self, opened: Opened, rights: u32) {
        let bound = Bound::new(opened, rights);
        // First: another thread that finds the handle bound finds its side open, too.
        bound.object.open(bound.side());
        // It was empty when the handle was claimed, and nothing else fills it.
        self.0.bound.populate(bound);
        self.0.relay.wake();
    }
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        self.0.claimed.store(0, Release);
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
    /// The group of who opened it, as the kernel keeps it.
    pub(crate) gid: u32,
    bound: SetOnce<Bound>,
    /// A request is binding it: there is a [`Binding`].
    claimed: Atomic<u32>,
    /// Those who polled it while it was unbound.
    #[pin]
    pub(crate) relay: Relay,
    /// What it, and each process through it, has of the object. After the object's lock.
    #[pin]
    pub(crate) state: State,
    /// The io_uring commands that are parked by it.
    #[pin]
    pub(crate) commands: Commands,
    /// The system calls that are paused in a wait.
    #[pin]
    pub(crate) pauses: Pauses,
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
                gid: helpers::egid(),
                bound: SetOnce::new(),
                claimed: Atomic::new(0),
                relay <- Relay::new(),
                state <- State::new(),
                commands <- Commands::new(),
                pauses <- Pauses::new(),
            }),
            GFP_MAYFAIL,
        )
    }

    /// What it is bound to.
    pub(crate) fn bound(&self) -> Result<&Bound> {
        self.bound.as_ref().ok_or_else(ebadfd)
    }

    /// Where it sends to, if it may.
    #[inline]
    pub(crate) fn tx(&self) -> Result<&Mailbox> {
        let bound = self.bound()?;
        match &bound.tx {
            Some(tx) => Ok(tx),
            None => Err(bound.refusal(uapi::POSTBOX_RIGHT_SEND)),
        }
    }

    /// Where it receives from, if it may.
    #[inline]
    pub(crate) fn rx(&self) -> Result<&Mailbox> {
        let bound = self.bound()?;
        match &bound.rx {
            Some(rx) => Ok(rx),
            None => Err(bound.refusal(uapi::POSTBOX_RIGHT_RECEIVE)),
        }
    }

    /// Claims the handle for a request that is to bind it. Another thread's has to wait or fail, so
    /// that no object is opened or made for a handle that turns out to be bound.
    pub(crate) fn claim(&self) -> Result<Binding<'_>> {
        let claimed = self.claimed.cmpxchg(0, 1, Full).is_ok();
        let binding = claimed.then(|| Binding(self));
        match self.bound.as_ref() {
            Some(_) => Err(eisconn()),
            None => binding.ok_or_else(ealready),
        }
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
        let binding = handle.claim()?;
        self.shared.registry.reopen(bound.id, bound.end, rights)?;
        let opened = Opened {
            id: bound.id,
            object: bound.object.clone(),
            end: bound.end,
            created: false,
            granted: bound.granted.clone(),
        };
        binding.bind(opened, rights);
        Ok(handle)
    }

    /// Maps its object.
    pub(crate) fn map(&self, area: &Area) -> Result {
        let bound = self.bound()?;
        let mut side = bound.side();
        if let Some(granted) = &bound.granted {
            let revoked = granted.revoked();
            side.sends &= revoked & uapi::POSTBOX_RIGHT_SEND == 0;
            side.receives &= revoked & uapi::POSTBOX_RIGHT_RECEIVE == 0;
        }
        bound.object.map(side, area)
    }

    /// Calls `f` with the user who pays for what the current task, whose effective user is `uid`,
    /// sends.
    #[inline(always)]
    pub(crate) fn with_payer<T>(
        &self,
        uid: u32,
        f: impl FnOnce(&Pinned) -> Result<T>,
    ) -> Result<T> {
        if uid == self.user.uid {
            return f(&self.user);
        }
        self.with_current(f)
    }

    /// Returns the account that pays then, unless it is that of the handle's opener.
    #[inline(always)]
    pub(crate) fn other_payer(&self, uid: u32) -> Result<Option<Pinned>> {
        if uid == self.user.uid {
            return Ok(None);
        }
        self.current().map(Some)
    }

    #[inline(never)]
    fn with_current<T>(&self, f: impl FnOnce(&Pinned) -> Result<T>) -> Result<T> {
        f(&self.current()?)
    }

    /// The handle was passed on, or the process changed its user.
    #[inline(never)]
    fn current(&self) -> Result<Pinned> {
        self.shared.users.current()
    }

    /// Gives back what a process took and cannot settle any more: it exits, or has closed its last
    /// descriptor of the handle.
    pub(crate) fn process_closed(&self, leaving: Leaving) {
        // A pause can have made an entry. Nothing is in that while the handle is not bound, and it can be
        // bound meanwhile: then the object settles.
        let unbound = || self.bound.as_ref().is_none();
        while unbound() && self.state.shares.settle_if(leaving, unbound).is_some() {}
        if let Some(bound) = self.bound.as_ref() {
            let side = bound.side();
            bound.object.process_closed(side, &self.state, leaving);
        }
        // From here on nothing of it is paused.
        self.pauses.end(self, leaving.process);
    }
}

#[pinned_drop]
impl PinnedDrop for Handle {
    fn drop(self: Pin<&mut Self>) {
        self.relay.stop();
        self.process_closed(Leaving { process: None });
        if let Some(bound) = self.bound.as_ref() {
            bound.object.close(bound.side(), &self.state);
            let registry = &self.shared.registry;
            registry.close(bound.id, bound.end, bound.rights);
        }
    }
}
