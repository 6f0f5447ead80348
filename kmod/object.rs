// SPDX-License-Identifier: GPL-2.0
//! The kinds of objects, and what all of them can do.

use crate::{
    barrier::Barrier,
    latch::Latch,
    link::{Link, Listener},
    mailbox::{self, Mailbox, State},
    mapping::{Area, Memory},
    pipe::Pipe,
    pool::Pool,
    ring::Ring,
    segment::Segment,
    semaphore::Semaphore,
    share::{Leaving, Shares},
    uapi,
    wait::Event,
};
use kernel::{bindings, fs::File, prelude::*, sync::Arc};

/// An object.
#[derive(Clone)]
pub(crate) enum Object {
    Mailbox(Arc<Mailbox>),
    /// The mailbox of a process.
    Endpoint(Arc<Mailbox>),
    Link(Arc<Link>),
    Listener(Arc<Listener>),
    Pipe(Arc<Pipe>),
    Semaphore(Arc<Semaphore>),
    Latch(Arc<Latch>),
    Barrier(Arc<Barrier>),
    Segment(Arc<Segment>),
    Pool(Arc<Pool>),
    Ring(Arc<Ring>),
}

/// What a handle may do with an object, and at which of a link's ends it is.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) sends: bool,
    pub(crate) receives: bool,
    pub(crate) end: usize,
}

impl Object {
    /// Its kind, for the header and for people.
    pub(crate) fn kind(&self) -> (u32, &'static str) {
        match self {
            Self::Mailbox(_) => (uapi::POSTBOX_KIND_MAILBOX, "mailbox"),
            Self::Endpoint(_) => (uapi::POSTBOX_KIND_ENDPOINT, "endpoint"),
            Self::Link(_) => (uapi::POSTBOX_KIND_LINK, "link"),
            Self::Listener(_) => (uapi::POSTBOX_KIND_LISTENER, "listener"),
            Self::Pipe(_) => (uapi::POSTBOX_KIND_PIPE, "pipe"),
            Self::Semaphore(_) => (uapi::POSTBOX_KIND_SEMAPHORE, "semaphore"),
            Self::Latch(_) => (uapi::POSTBOX_KIND_LATCH, "latch"),
            Self::Barrier(_) => (uapi::POSTBOX_KIND_BARRIER, "barrier"),
            Self::Segment(_) => (uapi::POSTBOX_KIND_SEGMENT, "segment"),
            Self::Pool(_) => (uapi::POSTBOX_KIND_POOL, "pool"),
            Self::Ring(_) => (uapi::POSTBOX_KIND_RING, "ring"),
        }
    }

    /// The mailboxes that a side sends to and receives from.
    pub(crate) fn mailboxes(&self, end: usize) -> (Option<&Arc<Mailbox>>, Option<&Arc<Mailbox>>) {
        match self {
            Self::Mailbox(mailbox) | Self::Endpoint(mailbox) => (Some(mailbox), Some(mailbox)),
            Self::Link(link) => link.mailboxes(end),
            Self::Listener(_)
            | Self::Pipe(_)
            | Self::Semaphore(_)
            | Self::Latch(_)
            | Self::Barrier(_)
            | Self::Segment(_)
            | Self::Pool(_)
            | Self::Ring(_) => (None, None),
        }
    }

    /// A handle was bound to it.
    pub(crate) fn open(&self, side: Side) {
        match self {
            Self::Mailbox(mailbox) | Self::Endpoint(mailbox) => {
                mailbox.open(side.sends, side.receives);
            }
            Self::Link(link) => {
                let (tx, rx) = link.mailboxes(side.end);
                if let Some(tx) = tx.filter(|_| side.sends) {
                    tx.open(true, false);
                }
                if let Some(rx) = rx.filter(|_| side.receives) {
                    rx.open(false, true);
                }
            }
            Self::Listener(listener) => listener.queue.open(false, side.receives),
            Self::Pipe(pipe) => pipe.open(side.sends, side.receives),
            Self::Semaphore(semaphore) => semaphore.open(side.sends, side.receives),
            Self::Latch(latch) => latch.open(side.sends, side.receives),
            Self::Barrier(barrier) => barrier.open(side.sends, side.receives),
            Self::Segment(segment) => segment.open(side.sends, side.receives),
            Self::Pool(pool) => pool.open(side.sends, side.receives),
            Self::Ring(ring) => ring.open(side.sends, side.receives),
        }
    }

    /// Nobody can find it any more. To a side that has no handle, none will come: those who wait for
    /// it are told, as where it is not persistent.
    pub(crate) fn orphan(&self, sends: bool, receives: bool, joined: bool) {
        match self {
            Self::Mailbox(mailbox) | Self::Endpoint(mailbox) => mailbox.orphan(sends, receives),
            Self::Link(link) if !joined => link.close(1),
            // A client that waits to connect has no handle.
            Self::Listener(listener) => listener.queue.orphan(false, receives),
            Self::Pipe(pipe) => pipe.orphan(sends, receives),
            Self::Ring(ring) => ring.orphan(sends, receives),
            // Nobody is told of an end of these.
            Self::Link(_)
            | Self::Semaphore(_)
            | Self::Latch(_)
            | Self::Barrier(_)
            | Self::Segment(_)
            | Self::Pool(_) => {}
        }
    }

    /// A handle was closed for the last time. What processes had through it is settled.
    pub(crate) fn close(&self, side: Side, state: &State) {
        match self {
            Self::Mailbox(mailbox) | Self::Endpoint(mailbox) => {
                mailbox.close(side.sends, side.receives, state);
            }
            Self::Link(link) => {
                let (tx, rx) = link.mailboxes(side.end);
                if let Some(tx) = tx.filter(|_| side.sends) {
                    tx.close(true, false, state);
                }
                if let Some(rx) = rx.filter(|_| side.receives) {
                    rx.close(false, true, state);
                }
            }
            Self::Listener(listener) => {
                listener.queue.close(false, side.receives, state);
                // Who waits to be accepted is told, whatever else keeps the listener.
                listener.queue.purge();
            }
            Self::Pipe(pipe) => pipe.close(side.sends, side.receives),
            Self::Semaphore(semaphore) => semaphore.close(side.sends, side.receives),
            Self::Latch(latch) => latch.close(side.sends, side.receives),
            Self::Barrier(barrier) => barrier.close(side.sends, side.receives),
            Self::Segment(segment) => segment.close(side.sends, side.receives),
            Self::Pool(pool) => pool.close(side.sends, side.receives),
            Self::Ring(ring) => ring.close(side.sends, side.receives),
        }
    }

    /// A process has closed its last descriptor of a handle, or has exited; or all that have
    /// something through it have closed it.
    pub(crate) fn process_closed(&self, side: Side, state: &State, leaving: Leaving) {
        let shares = &state.shares;
        match self {
            Self::Semaphore(semaphore) => semaphore.process_closed(shares, leaving),
            Self::Latch(latch) => latch.process_closed(shares, leaving),
            Self::Barrier(barrier) => barrier.process_closed(shares, leaving),
            Self::Segment(segment) => segment.process_closed(shares, leaving),
            Self::Pool(pool) => pool.process_closed(shares, leaving),
            Self::Ring(ring) => ring.process_closed(shares, leaving),
            _ => {
                let (tx, rx) = self.mailboxes(side.end);
                let tx = tx.filter(|_| side.sends);
                let rx = rx.filter(|_| side.receives);
                mailbox::process_closed(tx.map(|tx| &**tx), rx.map(|rx| &**rx), state, leaving);
            }
        }
    }

    /// What poll says.
    ///
    /// # Safety
    ///
    /// As for [`crate::wait::Pollers::add`].
    pub(crate) unsafe fn poll(
        &self,
        side: Side,
        shares: &Shares,
        file: &File,
        table: *mut bindings::poll_table_struct,
    ) -> u32 {
        // SAFETY: In all of this, by the contract.
        unsafe {
            match self {
                Self::Mailbox(mailbox) | Self::Endpoint(mailbox) => {
                    mailbox.poll(file, table, side.sends, side.receives)
                }
                Self::Link(link) => {
                    let (tx, rx) = link.mailboxes(side.end);
                    let tx = tx.filter(|_| side.sends);
                    let rx = rx.filter(|_| side.receives);
                    tx.map_or(0, |tx| tx.poll(file, table, true, false))
                        | rx.map_or(0, |rx| rx.poll(file, table, false, true))
                }
                Self::Listener(listener) => listener.queue.poll(file, table, false, side.receives),
                Self::Pipe(pipe) => pipe.poll(file, table, side.sends, side.receives),
                Self::Semaphore(semaphore) => {
                    semaphore.poll(file, table, side.sends, side.receives)
                }
                Self::Latch(latch) => latch.poll(file, table, side.receives),
                Self::Barrier(barrier) => barrier.poll(file, table, shares),
                // Nothing ever happens to it.
                Self::Segment(_) => 0,
                Self::Pool(pool) => pool.poll(file, table, side.sends),
                Self::Ring(ring) => ring.poll(file, table, side.sends, side.receives),
            }
        }
    }

    /// What happens when the other side comes for the first time.
    pub(crate) fn peer(&self, side: Side) -> Option<&Event> {
        if let Self::Pipe(pipe) = self {
            return (side.sends || side.receives).then(|| pipe.peer(side.sends));
        }
        let (tx, rx) = self.mailboxes(side.end);
        let tx = tx.filter(|_| side.sends).map(|tx| tx.receiver_came());
        let rx = rx.filter(|_| side.receives).map(|rx| rx.sender_came());
        match (tx, rx) {
            // A link that is shut in one direction has a peer in the other.
            (Some(tx), Some(rx)) if tx.is_hopeless() => Some(rx),
            (tx, rx) => tx.or(rx),
        }
    }

    /// Fills in what depends on its kind. A list has no handle, and sees a link from its first end.
    pub(crate) fn describe(&self, end: usize, info: &mut uapi::postbox_info) {
        match self {
            Self::Mailbox(mailbox) | Self::Endpoint(mailbox) => mailbox.describe(info),
            Self::Link(link) => {
                let (tx, rx) = link.mailboxes(end);
                if let Some(tx) = tx {
                    // Overwritten by the other direction if there is one.
                    tx.describe(info);
                    (info.back_messages, info.back_bytes) = (info.messages, info.bytes);
                    (info.messages, info.bytes) = (0, 0);
                }
                if let Some(rx) = rx {
                    rx.describe(info);
                }
                if link.connected() {
                    info.flags |= uapi::POSTBOX_INFO_CONNECTED;
                }
            }
            Self::Listener(listener) => listener.queue.describe(info),
            Self::Pipe(pipe) => pipe.describe(info),
            Self::Semaphore(semaphore) => semaphore.describe(info),
            Self::Latch(latch) => latch.describe(info),
            Self::Barrier(barrier) => barrier.describe(info),
            Self::Segment(segment) => segment.describe(info),
            Self::Pool(pool) => pool.describe(info),
            Self::Ring(ring) => ring.describe(info),
        }
    }

    /// Maps it.
    pub(crate) fn map(&self, side: Side, area: &Area) -> Result {
        match self {
            Self::Segment(segment) => segment.map(area, side.sends, side.receives),
            Self::Pool(pool) => pool.map(area, side.sends, side.receives),
            Self::Ring(ring) => ring.map(area, side.sends, side.receives),
            _ => Err(ENODEV),
        }
    }

    /// Its memory, which says where a mapping of it can be.
    pub(crate) fn memory(&self) -> Option<&Memory> {
        match self {
            Self::Segment(segment) => Some(&segment.memory),
            Self::Pool(pool) => Some(&pool.memory),
            _ => None,
        }
    }
}
