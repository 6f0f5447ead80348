// SPDX-License-Identifier: GPL-2.0
//! The mailbox as a kernel object: the queue logic behind a spinlock, with tasks that wait and
//! pollers. Who gets what is decided in `queue/mailbox.rs`.
//!
//! User memory is copied, memory allocated and freed, and tasks woken, outside the lock.

use crate::{
    compat::{edquot, eopnotsupp},
    helpers,
    message::{Message, Spare, SPARE_BYTES},
    queue::{
        self, Capacity, Commit, Counters, HandleState, List, Received, Reserving, Returned,
        Sending, Sent, Take,
    },
    wait::{Outcome, Pollers, Wait, Waiter, WaiterPtr, Wake},
};
use core::{
    pin::{pin, Pin},
    ptr::NonNull,
};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{lock::spinlock::SpinLockGuard, new_spinlock, SpinLock},
};

type Guard<'a> = SpinLockGuard<'a, Inner>;

/// What the lock guards.
struct Inner {
    queue: queue::Mailbox<KBox<Message>, WaiterPtr>,
    /// Memory of messages that were received, for others to be sent. The memory cgroup that it is
    /// charged to is that of the sender who needed it first.
    spares: List<KBox<Message>>,
    spare_bytes: usize,
}

impl Inner {
    fn spare(&mut self) -> Option<KBox<Message>> {
        let message = self.spares.pop_front()?;
        self.spare_bytes -= message.footprint();
        Some(message)
    }

    /// Keeps the memory of a message, or gives it back to be freed.
    fn recycle(&mut self, message: KBox<Message>) -> Option<KBox<Message>> {
        let bytes = self.spare_bytes.saturating_add(message.footprint());
        if bytes > SPARE_BYTES {
            return Some(message);
        }
        self.spare_bytes = bytes;
        self.spares.push_front(message);
        None
    }
}

impl core::ops::Deref for Inner {
    type Target = queue::Mailbox<KBox<Message>, WaiterPtr>;

    fn deref(&self) -> &Self::Target {
        &self.queue
    }
}

impl core::ops::DerefMut for Inner {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.queue
    }
}

pub(crate) const IN: u32 = bindings::POLLIN | bindings::POLLRDNORM;
pub(crate) const OUT: u32 = bindings::POLLOUT | bindings::POLLWRNORM;

/// What a handle has of the mailbox. The mailbox's lock is taken first.
pub(crate) type State = SpinLock<HandleState<KBox<Message>>>;

/// How many messages a handle may have that are not acknowledged, so that finding one takes a
/// bounded time.
const LEASES_MAX: usize = 4096;

/// Why nothing was received.
pub(crate) enum Failure {
    /// The first message has this many bytes, more than the buffer.
    TooSmall(u64),
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// How a message is to be received.
pub(crate) struct Receive<'a> {
    /// The bytes that the buffer has.
    pub(crate) room: usize,
    pub(crate) wait: Wait,
    /// Who acknowledges it later: a handle, and the process that it is open in.
    pub(crate) lease: Option<(&'a State, usize)>,
}

/// What a look at a mailbox says.
pub(crate) struct Look {
    pub(crate) capacity: Capacity,
    pub(crate) counters: Counters,
    pub(crate) queued: (u64, u64),
    pub(crate) leased: u64,
    pub(crate) reserved: u64,
    pub(crate) senders: u32,
    pub(crate) receivers: u32,
    pub(crate) waiting_senders: usize,
    pub(crate) waiting_receivers: usize,
}

/// A mailbox.
#[pin_data]
pub(crate) struct Mailbox {
    #[pin]
    inner: SpinLock<Inner>,
    #[pin]
    pollers: Pollers,
    /// The most bytes that a message can have.
    message_max: u64,
    rendezvous: bool,
    /// The first of the spares.
    spare: Spare,
}

impl Mailbox {
    pub(crate) fn new(
        capacity: Capacity,
        message_max: u64,
        persistent: bool,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock!(
                Inner {
                    queue: queue::Mailbox::new(capacity, persistent),
                    spares: List::new(),
                    spare_bytes: 0,
                },
                "postbox_mailbox"
            ),
            pollers <- Pollers::new(),
            message_max: message_max.min(if capacity.messages == 0 {
                u64::MAX
            } else {
                capacity.bytes
            }),
            rendezvous: capacity.messages == 0,
            spare: Spare::new(),
        })
    }

    /// The most bytes that a message can have.
    pub(crate) fn message_max(&self) -> u64 {
        self.message_max
    }

    pub(crate) fn look(&self) -> Look {
        let inner = self.inner.lock();
        Look {
            capacity: inner.capacity(),
            counters: inner.counters(),
            queued: inner.queued(),
            leased: inner.leased(),
            reserved: inner.reserved(),
            senders: inner.senders(),
            receivers: inner.receivers(),
            waiting_senders: inner.waiting_senders(),
            waiting_receivers: inner.waiting_receivers(),
        }
    }

    /// A handle was bound.
    pub(crate) fn open(&self, sends: bool, receives: bool) {
        self.inner.lock().open(sends, receives);
        // Who had to be told that the other side is gone can go on.
        self.pollers.wake(IN | OUT);
    }

    /// A handle was closed for the last time.
    pub(crate) fn close(&self, sends: bool, receives: bool, state: &State) {
        self.reclaim(state, None);
        let mut inner = self.inner.lock();
        inner.close(sends, receives, &mut state.lock());
        self.settle(inner);
        self.pollers
            .wake(IN | OUT | bindings::POLLHUP | bindings::POLLERR);
    }

    /// Puts back what `holder`, or anyone, received through a handle and did not acknowledge.
    pub(crate) fn reclaim(&self, state: &State, holder: Option<usize>) {
        loop {
            let mut inner = self.inner.lock();
            let returned = inner.reclaim(&mut state.lock(), holder);
            drop(inner);
            match returned {
                Some(returned) => self.returned(returned),
                None => return,
            }
        }
    }

    /// What poll says to a handle with these rights.
    ///
    /// # Safety
    ///
    /// As for [`Pollers::add`].
    pub(crate) unsafe fn poll(
        &self,
        file: &File,
        table: *mut bindings::poll_table_struct,
        sends: bool,
        receives: bool,
    ) -> u32 {
        // SAFETY: By the contract.
        unsafe { self.pollers.add(file, table) };
        let inner = self.inner.lock();
        let mut mask = 0;
        if receives {
            mask |= if inner.readable() { IN } else { 0 };
            mask |= if inner.ended() { bindings::POLLHUP } else { 0 };
        }
        if sends {
            mask |= if inner.writable() { OUT } else { 0 };
            mask |= if inner.closed() { bindings::POLLERR } else { 0 };
        }
        mask
    }

    // Sending.

    /// A message to fill and send.
    pub(crate) fn message(&self) -> Result<KBox<Message>> {
        if let Some(message) = self.spare.take() {
            return Ok(message);
        }
        let spare = self.inner.lock().spare();
        match spare {
            Some(message) => Ok(message),
            None => Message::new(),
        }
    }

    /// Sends a message.
    pub(crate) fn send(&self, message: KBox<Message>, wait: &Wait) -> Result {
        let sent = self.inner.lock().send_now(message);
        match sent {
            Ok(Some(receiver)) => drop(receiver),
            Ok(None) => self.pollers.wake(IN),
            Err(message) => return self.send_or_wait(message, wait),
        }
        Ok(())
    }

    #[inline(never)]
    fn send_or_wait(&self, message: KBox<Message>, wait: &Wait) -> Result {
        let waiter = pin!(Waiter::new());
        let waiter = waiter.as_ref();
        let place = NonNull::from(&*message);
        // SAFETY: The waiter is pinned here, and `wait_sent` returns when it is done, or took its
        // pointer back.
        let sending = unsafe {
            self.inner
                .lock()
                .send(message, Some(waiter.pointer()), wait.may_wait())
        };
        match sending {
            Sending::Queued => self.pollers.wake(IN),
            Sending::Given(wake) => drop(wake),
            Sending::Full(_) => return Err(EAGAIN),
            Sending::Closed(_) => return Err(EPIPE),
            Sending::Waits(receiver) => {
                match receiver {
                    Some(wake) => drop(wake),
                    None if self.rendezvous => self.pollers.wake(IN),
                    None => {}
                }
                // A call that does not wait for a receiver still waits for the one it met to copy
                // the bytes.
                self.wait_sent(waiter, place, wait)?;
            }
        }
        Ok(())
    }

    /// Waits until a message, or a reservation, is in.
    fn wait_sent(&self, waiter: Pin<&Waiter>, place: NonNull<Message>, wait: &Wait) -> Result {
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            let mut inner = self.inner.lock();
            outcome = waiter.outcome();
            if outcome.is_none() {
                // SAFETY: Its waiter is not done.
                let message = unsafe { inner.withdraw(place) };
                // It may have stood in the way of others.
                self.settle(inner);
                drop(message);
                return Err(error);
            }
        }
        match outcome {
            Some(Outcome::Sent(Sent::Accepted)) => Ok(()),
            Some(Outcome::Sent(Sent::Full)) => Err(EAGAIN),
            _ => Err(EPIPE),
        }
    }

    /// Reserves room for a message of `len` bytes.
    pub(crate) fn reserve(&self, state: &State, len: u64, wait: &Wait) -> Result {
        if self.rendezvous {
            return Err(eopnotsupp());
        }
        let stand_in = Message::stand_in(len)?;
        let waiter = pin!(Waiter::new());
        let waiter = waiter.as_ref();
        let place = NonNull::from(&*stand_in);
        // SAFETY: As in `send`.
        let reserving = unsafe {
            self.inner
                .lock()
                .reserve(stand_in, waiter.pointer(), wait.may_wait())
        };
        match reserving {
            Reserving::Reserved(_) => {}
            Reserving::Waits => self.wait_sent(waiter, place, wait)?,
            Reserving::Full(_) => return Err(EAGAIN),
            Reserving::Closed(_) => return Err(EPIPE),
        }
        state.lock().add_reservation(len);
        Ok(())
    }

    /// Gives a reservation of `len` bytes back.
    pub(crate) fn unreserve(&self, state: &State, len: u64) -> Result {
        let mut inner = self.inner.lock();
        let done = inner.unreserve(&mut state.lock(), len);
        self.settle(inner);
        if done {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// Sends a message into room that was reserved for `reserved` bytes.
    pub(crate) fn send_reserved(
        &self,
        state: &State,
        message: KBox<Message>,
        reserved: u64,
    ) -> Result {
        let mut inner = self.inner.lock();
        let sending = inner.send_reserved(&mut state.lock(), message, reserved);
        // What was reserved and not needed is room for others.
        self.settle(inner);
        match sending {
            Sending::Queued => self.pollers.wake(IN),
            Sending::Given(wake) => drop(wake),
            Sending::Closed(_) => return Err(EPIPE),
            Sending::Full(_) | Sending::Waits(_) => return Err(EINVAL),
        }
        Ok(())
    }

    // Receiving.

    /// Receives a message: takes it, calls `copy`, and then it is received, or leased. It goes
    /// back to its place when `copy` fails, or when the task is killed meanwhile.
    pub(crate) fn receive<T>(
        &self,
        how: &Receive<'_>,
        mut copy: impl FnMut(&Message) -> Result<T>,
    ) -> Result<T, Failure> {
        if let Some((state, _)) = how.lease {
            if state.lock().leases() >= LEASES_MAX {
                return Err(edquot().into());
            }
        }
        let mut again = false;
        loop {
            let message = self.take(how, again)?;
            // Who waits is given a message of whatever size.
            let len = message.node().len();
            if len > how.room as u64 {
                self.put_back(message);
                return Err(Failure::TooSmall(len));
            }
            let copied = match copy(&message) {
                Ok(_) if helpers::dying() => Err(EINTR),
                copied => copied,
            };
            match copied {
                Err(error) => {
                    self.put_back(message);
                    return Err(error.into());
                }
                Ok(copied) => {
                    if self.commit(message, how) {
                        return Ok(copied);
                    }
                    again = true;
                }
            }
        }
    }

    /// Takes a message, or waits to be given one; `again`, after the one that it had was withdrawn.
    fn take(&self, how: &Receive<'_>, again: bool) -> Result<KBox<Message>, Failure> {
        let waiter = pin!(Waiter::new());
        let waiter = waiter.as_ref();
        {
            let mut inner = self.inner.lock();
            match inner.take(how.room as u64) {
                Take::Message(message) => return Ok(message),
                Take::TooSmall(len) => return Err(Failure::TooSmall(len)),
                Take::Ended => return Err(EPIPE.into()),
                Take::Empty if !how.wait.may_wait() => return Err(EAGAIN.into()),
                // SAFETY: The waiter is pinned here. Below, it is done, or leaves.
                Take::Empty if again => unsafe { inner.wait_again(waiter.pointer()) },
                // SAFETY: As above.
                Take::Empty => unsafe { inner.wait(waiter.pointer()) },
            }
        }
        if self.rendezvous {
            self.pollers.wake(OUT);
        }
        let slept = waiter.sleep(&how.wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            let mut inner = self.inner.lock();
            outcome = waiter.outcome();
            if outcome.is_none() {
                // SAFETY: It waits here, and is not done.
                unsafe { inner.leave(NonNull::from(waiter.get_ref())) };
                return Err(error.into());
            }
        }
        match outcome {
            Some(Outcome::Received(Received::Message(message))) => Ok(message),
            _ => Err(EPIPE.into()),
        }
    }

    /// Ends a receive whose bytes were copied. `false`: the sender withdrew the message.
    fn commit(&self, mut message: KBox<Message>, how: &Receive<'_>) -> bool {
        let Some((state, holder)) = how.lease else {
            message.uncharge();
            let mut inner = self.inner.lock();
            let commit = inner.commit(&message);
            let message = match self.spare.put(message) {
                Some(message) => inner.recycle(message),
                None => None,
            };
            self.settle(inner);
            drop(message);
            return matches!(commit, Commit::Done(_));
        };
        let mut inner = self.inner.lock();
        let commit = inner.lease(&mut state.lock(), message, holder);
        self.settle(inner);
        matches!(commit, Commit::Done(_))
    }

    /// Settles a message that was leased: it is done with, or goes back.
    pub(crate) fn acknowledge(&self, state: &State, token: u64, requeue: bool) -> Result {
        let mut inner = self.inner.lock();
        if requeue {
            let returned = inner.requeue_leased(&mut state.lock(), token);
            drop(inner);
            self.returned(returned.ok_or(ENOENT)?);
        } else {
            let message = inner.acknowledge(&mut state.lock(), token);
            self.settle(inner);
            drop(message.ok_or(ENOENT)?);
        }
        Ok(())
    }

    fn put_back(&self, message: KBox<Message>) {
        let returned = self.inner.lock().put_back(message);
        self.returned(returned);
    }

    fn returned(&self, returned: Returned<KBox<Message>, Wake, Wake>) {
        match returned {
            Returned::Queued => self.pollers.wake(IN),
            Returned::Given(receiver) => drop(receiver),
            Returned::Refused(sender, message) => {
                drop(message);
                drop(sender);
                self.settle(self.inner.lock());
            }
            Returned::Withdrawn(message) => {
                drop(message);
                self.settle(self.inner.lock());
            }
        }
    }

    /// Does what follows from a change: lets senders in for whom there is room now, and tells
    /// those whose other side is gone.
    fn settle<'a>(&'a self, inner: Guard<'a>) {
        let mut news = OUT;
        if inner.ended() {
            news |= IN | bindings::POLLHUP;
        }
        if !inner.settled() {
            news |= self.settle_waits(inner);
        } else {
            drop(inner);
        }
        self.pollers.wake(news);
    }

    /// One at a time: each is woken, and what it leaves behind freed, outside the lock. Returns
    /// what pollers have to know.
    #[inline(never)]
    fn settle_waits<'a>(&'a self, mut inner: Guard<'a>) -> u32 {
        let mut news = 0;
        loop {
            let ended = (inner.admit(), inner.end_one_send(), inner.end_one_receive());
            drop(inner);
            if let (None, None, None) = ended {
                return news;
            }
            if ended.0.is_some() {
                news = IN;
            }
            drop(ended);
            inner = self.inner.lock();
        }
    }
}
