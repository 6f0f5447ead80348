// SPDX-License-Identifier: GPL-2.0
//! Links: two ends, and a mailbox for each direction. And listeners, where connections come in.
//!
//! *Forward* is what the first end sends, *back* what the second one does. An end that is closed
//! for good shuts its side of both. A connection that waits to be accepted is a message of the
//! listener's mailbox, and carries the second end: so it waits, is taken, and given up as messages
//! are.

use crate::{
    compat::{enotconn, eopnotsupp},
    files::address,
    handle::Shared,
    helpers::{Identity, Seen, GFP_MAYFAIL},
    mailbox::Mailbox,
    queue::Capacity,
    registry::Opened,
    uapi,
};
use kernel::{
    prelude::*,
    sync::{Arc, SetOnce},
};

/// What a link is made with.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    /// Of what the first end sends; `None`: it does not.
    pub(crate) forward: Option<Capacity>,
    /// Of what the second end sends.
    pub(crate) back: Option<Capacity>,
    pub(crate) message_max: u64,
}

/// The most connections that wait at a listener: its end closes them all.
const BACKLOG_MAX: u32 = 4096;

/// A link.
pub(crate) struct Link {
    forward: Option<Arc<Mailbox>>,
    back: Option<Arc<Mailbox>>,
    /// Who made each end.
    makers: [SetOnce<Identity>; 2],
    /// Who listens, where the second end is not accepted yet.
    listener: Option<Arc<Identity>>,
}

impl Link {
    /// A link whose first end is the current task's. For `keeps`, see [`Mailbox::new`].
    pub(crate) fn new(
        options: &Options,
        listener: Option<Arc<Identity>>,
        keeps: bool,
    ) -> Result<Arc<Self>> {
        let mailbox = |capacity: Option<Capacity>| -> Result<Option<Arc<Mailbox>>> {
            capacity
                .map(|capacity| {
                    let mailbox = Mailbox::new(capacity, options.message_max, false, keeps);
                    Arc::pin_init(mailbox, GFP_MAYFAIL)
                })
                .transpose()
        };
        let link = Self {
            forward: mailbox(options.forward)?,
            back: mailbox(options.back)?,
            makers: [SetOnce::new(), SetOnce::new()],
            listener,
        };
        link.made(0);
        Ok(Arc::new(link, GFP_MAYFAIL)?)
    }

    /// The current task made this end.
    pub(crate) fn made(&self, end: usize) {
        if let Some(maker) = self.makers.get(end) {
            maker.populate(Identity::current());
        }
    }

    /// Who made the other end, as the current task sees that.
    pub(crate) fn peer(&self, end: usize) -> Result<Seen> {
        let maker = self.makers.get(1 - end).and_then(|maker| maker.as_ref());
        match maker.or(self.listener.as_deref()) {
            Some(identity) => Ok(identity.see()),
            None => Err(enotconn()),
        }
    }

    /// Whether both ends were made.
    pub(crate) fn connected(&self) -> bool {
        self.makers.iter().all(|maker| maker.as_ref().is_some())
    }

    /// What an end sends to, and what it receives from.
    pub(crate) fn mailboxes(&self, end: usize) -> (Option<&Arc<Mailbox>>, Option<&Arc<Mailbox>>) {
        let (forward, back) = (self.forward.as_ref(), self.back.as_ref());
        if end == 0 {
            (forward, back)
        } else {
            (back, forward)
        }
    }

    /// The rights of an end's directions.
    pub(crate) fn rights(&self, end: usize) -> u32 {
        let (tx, rx) = self.mailboxes(end);
        (if tx.is_some() {
            uapi::POSTBOX_RIGHT_SEND
        } else {
            0
        }) | (if rx.is_some() {
            uapi::POSTBOX_RIGHT_RECEIVE
        } else {
            0
        })
    }

    /// An end sends, or receives, no more.
    pub(crate) fn shut(&self, end: usize, sends: bool, receives: bool) -> Result {
        let (tx, rx) = self.mailboxes(end);
        if (sends && tx.is_none()) || (receives && rx.is_none()) {
            return Err(eopnotsupp());
        }
        if let Some(tx) = tx.filter(|_| sends) {
            tx.shut(true, false);
        }
        if let Some(rx) = rx.filter(|_| receives) {
            rx.shut(false, true);
        }
        Ok(())
    }

    /// An end was closed for the last time.
    pub(crate) fn close(&self, end: usize) {
        let (tx, rx) = self.mailboxes(end);
        if let Some(tx) = tx {
            tx.shut(true, false);
        }
        if let Some(rx) = rx {
            rx.shut(false, true);
        }
    }
}

/// Where connections come in.
pub(crate) struct Listener {
    /// Those that wait to be accepted.
    pub(crate) queue: Arc<Mailbox>,
    /// What links are made with.
    pub(crate) options: Options,
    /// Who listens.
    pub(crate) maker: Arc<Identity>,
}

impl Listener {
    pub(crate) fn new(
        options: Options,
        backlog: u32,
        persistent: bool,
        keeps: bool,
    ) -> Result<Arc<Self>> {
        let capacity = Capacity {
            messages: backlog.min(BACKLOG_MAX).into(),
            bytes: uapi::POSTBOX_UNBOUNDED,
        };
        let listener = Self {
            queue: Arc::pin_init(Mailbox::new(capacity, 0, persistent, keeps), GFP_MAYFAIL)?,
            options,
            maker: Arc::new(Identity::current(), GFP_MAYFAIL)?,
        };
        Ok(Arc::new(listener, GFP_MAYFAIL)?)
    }
}

/// The second end of a link, until it is accepted. If it is not, the end is closed.
pub(crate) struct Pending {
    shared: Arc<Shared>,
    opened: Option<Opened>,
}

impl Pending {
    pub(crate) fn new(shared: Arc<Shared>, opened: Opened) -> Self {
        Self {
            shared,
            opened: Some(opened),
        }
    }

    /// The link's number.
    pub(crate) fn id(&self) -> u64 {
        self.opened.as_ref().map_or(0, |opened| opened.id)
    }

    /// What stands for the mailboxes that it keeps.
    pub(crate) fn mailboxes(&self) -> Result<KVec<usize>> {
        let mut mailboxes = KVec::new();
        if let Some(opened) = &self.opened {
            let (tx, rx) = opened.object.mailboxes(opened.end);
            for mailbox in [tx, rx].into_iter().flatten() {
                mailboxes.push(address(mailbox), GFP_MAYFAIL)?;
            }
        }
        Ok(mailboxes)
    }

    /// Accepts it.
    pub(crate) fn accept(mut self) -> Option<Opened> {
        self.opened.take()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(opened) = self.opened.take() {
            self.shared.registry.close(opened.id, opened.end, 0);
        }
    }
}
