// SPDX-License-Identifier: GPL-2.0
//! The mailbox as a kernel object: the queue logic behind a spinlock, with tasks that wait and
//! pollers. Who gets what is decided in `queue/mailbox.rs`.
//!
//! User memory is copied, memory allocated and freed, and tasks woken, outside the lock.

use crate::{
    compat::{ecanceled, edquot, eopnotsupp, eownerdead, estale},
    files::Store,
    handle::Handle,
    helpers::{self, Process, UserBytes},
    message::{Cargo, Message, Needs, Room, Spare, SPARE_BYTES},
    pause::{erestartnointr, Caller, Pause},
    queue::{
        self, Capacity, Commit, HandleState, List, Received, Reserving, Returned, Search, Sending,
        Sent, Take, Withdrawn,
    },
    quota::Pinned,
    share::{Leaving, Shares},
    uapi,
    uring::Parked,
    wait::{Event, Haste, Outcome, Pollers, Wait, Waiter, WaiterPtr, Wake},
};
use core::{
    pin::{pin, Pin},
    ptr::NonNull,
};
use kernel::{
    bindings,
    fs::File,
    prelude::*,
    sync::{lock::spinlock::SpinLockGuard, new_spinlock, Arc, SpinLock},
};

type Guard<'a> = SpinLockGuard<'a, Inner>;

/// What the lock guards.
struct Inner {
    queue: queue::Mailbox<KBox<Message>, WaiterPtr>,
    /// Memory of messages that were received, for others to be sent. The memory cgroup that it is
    /// charged to is that of the sender who needed it first.
    spares: List<KBox<Message>>,
    /// The bytes of those; where none are kept, so many that there is room for none.
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

/// What a handle has of its mailboxes, and what each process has through it. The object's lock is
/// taken first.
#[pin_data]
pub(crate) struct State {
    #[pin]
    inner: SpinLock<HandleState<KBox<Message>>>,
    #[pin]
    pub(crate) shares: Shares,
}

impl State {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- new_spinlock!(HandleState::new(), "postbox_handle"),
            shares <- Shares::new(),
        })
    }

    #[inline]
    pub(crate) fn lock(&self) -> SpinLockGuard<'_, HandleState<KBox<Message>>> {
        self.inner.lock()
    }
}

/// Gives back what a process, or every process, has through a handle of these mailboxes: `tx` if it
/// sends, `rx` if it receives.
pub(crate) fn process_closed(
    tx: Option<&Mailbox>,
    rx: Option<&Mailbox>,
    state: &State,
    leaving: Leaving,
) {
    let (mut count, mut bytes) = (0u64, 0u64);
    loop {
        let share = {
            // Under it a message is leased, or a request owed, by a process that has an entry.
            let _inner = rx.map(|rx| rx.inner.lock());
            state.shares.settle(leaving)
        };
        let Some(share) = share else {
            break;
        };
        count = share.count.saturating_add(count);
        bytes = share.bytes.saturating_add(bytes);
    }
    // Messages that come back have their places before those whom room lets in.
    if let Some(rx) = rx {
        rx.reclaim(state, leaving.process);
    }
    if let (Some(tx), true) = (tx, count > 0) {
        let mut inner = tx.inner.lock();
        inner.unreserve_some(&mut state.lock(), count, bytes);
        tx.settle_in_passing(inner);
    }
    forget(state, leaving.process);
}

/// Frees the answers that are kept for a process, or for any.
pub(crate) fn forget(state: &State, holder: Option<u64>) {
    let mut from = 0;
    loop {
        let kept = state.lock().forget(holder, &mut from);
        if let Search::None = kept {
            return;
        }
    }
}

/// How many messages a handle may have that are not acknowledged, or not answered, or answers that
/// were not fetched: so that finding one takes a bounded time.
pub(crate) const UNSETTLED_MAX: usize = 4096;

/// Why nothing was received.
pub(crate) enum Failure {
    /// The first message needs more room than there is.
    TooSmall(Needs),
    Error(Error),
}

impl Failure {
    /// As a call without an argument struct says it.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::TooSmall(_) => EMSGSIZE,
            Self::Error(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Whose messages are wanted.
pub(crate) struct Origin {
    /// As in `Identity::process`.
    pub(crate) number: u64,
    /// The process, if it is not gone.
    pub(crate) process: Option<Process>,
}

/// The outcome of beginning to copy a message.
enum Begun<T> {
    /// Received, under the same lock.
    Received(T),
    /// Begun: to be copied without the lock.
    Copy(KBox<Message>),
    /// Its sender has withdrawn it.
    Withdrawn(KBox<Message>),
    Refused(KBox<Message>, Error),
}

/// How a message is to be received.
pub(crate) struct Receive<'a> {
    /// The bytes that the buffer has.
    pub(crate) room: usize,
    /// The files that there is room for.
    pub(crate) files: usize,
    /// Where leases go.
    pub(crate) leases: Option<&'a Room<'a>>,
    pub(crate) wait: Wait<'a>,
    pub(crate) handle: &'a Handle,
    /// Whether a request can be answered.
    pub(crate) answers: bool,
    /// The handle acknowledges the message later.
    pub(crate) lease: bool,
    /// Tells of a message that was copied, which cannot be taken back: after its sender cannot withdraw it
    /// any more. The message goes back if this fails.
    pub(crate) post: Option<&'a dyn Fn() -> Result>,
    pub(crate) from: Option<&'a Origin>,
}

impl<'a> Receive<'a> {
    /// The usual way, to take what comes. Requests are dropped.
    pub(crate) fn any(handle: &'a Handle, room: usize, wait: Wait<'a>) -> Self {
        Self {
            room,
            files: 0,
            leases: None,
            wait,
            handle,
            answers: false,
            lease: false,
            post: None,
            from: None,
        }
    }

    /// Where a request goes that is to be answered.
    fn state(&self) -> Option<&'a State> {
        self.answers.then_some(&self.handle.state)
    }
}

/// What the end of a send's wait means.
pub(crate) fn sent(outcome: Option<Outcome>) -> Result {
    match outcome {
        Some(Outcome::Sent(Sent::Accepted)) => Ok(()),
        _ => Err(EPIPE),
    }
}

/// What the end of a call's wait means.
pub(crate) fn replied(outcome: Option<Outcome>) -> Result<KBox<Message>> {
    match outcome {
        Some(Outcome::Replied(reply)) => Ok(reply),
        Some(Outcome::Sent(Sent::Abandoned)) => Err(eownerdead()),
        Some(Outcome::Sent(Sent::Dropped)) => Err(ecanceled()),
        _ => Err(EPIPE),
    }
}

/// What the end of a receiver's wait means.
#[inline(never)]
fn given(outcome: Option<Outcome>) -> Result<KBox<Message>, Failure> {
    match outcome {
        Some(Outcome::Received(Received::Message(message))) => Ok(message),
        _ => Err(EPIPE.into()),
    }
}

/// A pause for a call whose wait ended, if no signal handler is to run.
#[cold]
fn pausing<'a, 'b>(caller: &'a Caller<'b>) -> Option<(&'a Caller<'b>, KBox<Pause>)> {
    if helpers::interrupted() {
        return None;
    }
    Some((caller, caller.pause()?))
}

/// Frees what is left of a message that was received: mostly there is nothing.
#[inline(always)]
fn free(message: Option<KBox<Message>>, cargo: Option<KBox<Cargo>>) {
    free_one(message);
    free_one(cargo);
}

/// Drops something: mostly there is nothing.
#[inline(always)]
fn free_one<T>(rest: Option<T>) {
    if let Some(rest) = rest {
        drop(rest);
    }
}

/// A mailbox.
#[pin_data]
pub(crate) struct Mailbox {
    #[pin]
    inner: SpinLock<Inner>,
    pollers: Pollers,
    /// What was asked for as the most bytes that a message can have.
    limit: u64,
    /// The most bytes that one can have.
    message_max: u64,
    rendezvous: bool,
    /// The files of queued messages, of a persistent mailbox.
    store: Option<Arc<Store>>,
    /// The first of the spares.
    spare: Spare,
    /// Whether calls are answered, and repeated, at once.
    servers: Haste,
    callers: Haste,
    #[pin]
    sender_came: Event,
    #[pin]
    receiver_came: Event,
}

impl Mailbox {
    /// An empty one, which `keeps` the memory of messages that were received.
    pub(crate) fn new(
        capacity: Capacity,
        message_max: u64,
        persistent: bool,
        keeps: bool,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            store: persistent.then(Store::new).transpose()?,
            inner <- new_spinlock!(
                Inner {
                    queue: queue::Mailbox::new(capacity, persistent),
                    spares: List::new(),
                    spare_bytes: if keeps { 0 } else { usize::MAX },
                },
                "postbox_mailbox"
            ),
            pollers: Pollers::new()?,
            limit: message_max,
            message_max: message_max.min(if capacity.messages == 0 {
                u64::MAX
            } else {
                capacity.bytes
            }),
            rendezvous: capacity.messages == 0,
            spare: Spare::new(keeps),
            servers: Haste::new(),
            callers: Haste::new(),
            sender_came <- Event::new(),
            receiver_came <- Event::new(),
        })
    }

    /// The store of queued files, of a persistent mailbox.
    pub(crate) fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// That it was opened to send for the first time.
    pub(crate) fn sender_came(&self) -> &Event {
        &self.sender_came
    }

    /// That it was opened to receive for the first time.
    pub(crate) fn receiver_came(&self) -> &Event {
        &self.receiver_came
    }

    /// The most bytes that a message can have.
    pub(crate) fn message_max(&self) -> u64 {
        self.message_max
    }

    /// What there is to say of it.
    pub(crate) fn describe(&self, info: &mut uapi::postbox_info) {
        let inner = self.inner.lock();
        let (capacity, counters) = (inner.capacity(), inner.counters());
        info.capacity = capacity.messages;
        info.capacity_bytes = capacity.bytes;
        info.message_max = self.limit;
        (info.messages, info.bytes) = inner.queued();
        info.unacknowledged = inner.leased();
        info.reserved_messages = inner.reserved();
        info.senders = inner.senders();
        info.receivers = inner.receivers();
        info.waiting_senders = inner.waiting_senders() as u32;
        info.waiting_receivers = inner.waiting_receivers() as u32;
        info.sent = counters.sent;
        info.received = counters.received;
        info.redelivered = counters.redelivered;
        info.full = counters.full;
        info.high_messages = counters.high_messages;
        info.high_bytes = counters.high_bytes;
    }

    /// A handle was bound.
    pub(crate) fn open(&self, sends: bool, receives: bool) {
        self.inner.lock().open(sends, receives);
        if sends {
            self.sender_came.set();
        }
        if receives {
            self.receiver_came.set();
        }
        // Who had to be told that the other side is gone can go on.
        self.tell(IN | OUT);
    }

    /// A handle was closed for the last time.
    pub(crate) fn close(&self, sends: bool, receives: bool, state: &State) {
        let mut inner = self.inner.lock();
        let mut state = state.lock();
        let gave_room = state.reservations() != 0;
        inner.close(sends, receives, &mut state);
        drop(state);
        let idle = inner.senders() == 0 && inner.receivers() == 0;
        let ended = (sends && inner.senders() == 0) || (receives && inner.receivers() == 0);
        if !ended && !gave_room {
            return;
        }
        // Files sent through a handle that is opened from now on have higher numbers, and stay.
        let stored = self.store.as_ref().map(|store| (store, store.next()));
        self.settle(inner);
        if idle {
            self.free_spares();
            if let Some((store, end)) = stored {
                store.empty(end);
            }
        }
        self.tell(IN | OUT | bindings::POLLHUP | bindings::POLLERR);
    }

    /// Frees the memory that is kept for the next messages.
    pub(crate) fn free_spares(&self) {
        // As many as there are: receives may put more there meanwhile.
        for _ in 0..Spare::SLOTS {
            drop(self.spare.take());
        }
        let kept = self.inner.lock().spares.len();
        for _ in 0..kept {
            let spare = self.inner.lock().spare();
            drop(spare);
        }
    }

    /// Frees what was sent, if the last receiver is gone and nobody is to come after it.
    pub(crate) fn purge(&self) {
        loop {
            let message = self.inner.lock().purge_one();
            if message.is_none() {
                return;
            }
        }
    }

    /// Receivers do not see the end when the last sender is gone: another one can come.
    pub(crate) fn never_end(&self) {
        self.inner.lock().never_end();
    }

    /// Nobody comes any more: see [`Object::orphan`](crate::object::Object::orphan).
    pub(crate) fn orphan(&self, senders: bool, receivers: bool) {
        let mut inner = self.inner.lock();
        inner.orphan(senders, receivers);
        // Waits that were none of anybody's end, so that a glance says nothing.
        self.settle_all(inner);
        if !senders {
            self.sender_came.give_up();
        }
        if !receivers {
            self.receiver_came.give_up();
            self.purge();
        }
        self.tell(IN | OUT | bindings::POLLHUP | bindings::POLLERR);
    }

    /// Nobody sends, or receives, any more, whatever handles are open.
    pub(crate) fn shut(&self, sends: bool, receives: bool) {
        let mut inner = self.inner.lock();
        inner.shut(sends, receives);
        self.settle(inner);
        // Nobody comes to a direction that is shut.
        self.sender_came.give_up();
        self.receiver_came.give_up();
        self.tell(IN | OUT | bindings::POLLHUP | bindings::POLLERR);
    }

    /// Puts back what `holder`, or anyone, received through a handle and did not acknowledge, and
    /// tells those who wait for an answer that there will be none.
    pub(crate) fn reclaim(&self, state: &State, holder: Option<u64>) {
        let mut from = 0;
        loop {
            let mut inner = self.inner.lock();
            let abandoned = inner.abandon(&mut state.lock(), holder, &mut from);
            drop(inner);
            if let Search::None = abandoned {
                break;
            }
        }
        let (mut from, mut queued) = (0, false);
        loop {
            let mut inner = self.inner.lock();
            let returned = inner.reclaim(&mut state.lock(), holder, &mut from);
            drop(inner);
            match returned {
                Search::Found(returned) => queued |= self.returned(returned),
                Search::More => {}
                Search::None => break,
            }
        }
        if queued {
            self.pollers.wake_later();
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
        unsafe { self.pollers.add(file, table, sends, receives) };
        self.events(sends, receives)
    }

    fn events(&self, sends: bool, receives: bool) -> u32 {
        let inner = self.inner.lock();
        let mut mask = 0;
        if receives {
            mask |= if inner.readable() { IN } else { 0 };
            mask |= if inner.ended() { bindings::POLLHUP } else { 0 };
        }
        if sends {
            mask |= if inner.writable() { OUT } else { 0 };
            mask |= if inner.refuses() {
                bindings::POLLERR
            } else {
                0
            };
        }
        mask
    }

    /// Tells pollers. The lock is not held.
    #[inline]
    fn tell(&self, news: u32) {
        self.pollers.wake(news, || self.events(true, true));
    }

    // Sending.

    /// A message to fill and send.
    #[inline(always)]
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
    #[inline(always)]
    pub(crate) fn send(&self, message: KBox<Message>, wait: &Wait<'_>) -> Result {
        match self.send_now(message) {
            Ok(()) => Ok(()),
            Err(message) => self.send_or_wait(message, wait),
        }
    }

    /// Sends a message if nothing has to wait for that. Otherwise it comes back, for
    /// [`Self::send_or_wait`].
    #[inline(always)]
    pub(crate) fn send_now(&self, message: KBox<Message>) -> Result<(), KBox<Message>> {
        let sent = self.inner.lock().send_now(message);
        match sent? {
            Some(receiver) => drop(receiver),
            None => self.tell(IN),
        }
        Ok(())
    }

    #[inline(never)]
    pub(crate) fn send_or_wait(&self, message: KBox<Message>, wait: &Wait<'_>) -> Result {
        let stack = pin!(Waiter::new());
        let place = NonNull::from(&*message);
        let waits = wait.may_wait();
        let waiter = match waits {
            true => wait.waiter(stack.as_ref(), Parked::Send(place))?,
            false => stack.as_ref(),
        };
        // SAFETY: The waiter is pinned here, and `wait_sent` returns when it is done, or took its
        // pointer back; or it is a command's.
        let sending = unsafe {
            let mut inner = self.inner.lock();
            let sending = inner.send(message, waits.then(|| waiter.pointer()));
            if let Sending::Waits(_) = &sending {
                wait.listed();
                self.joined(inner);
            }
            sending
        };
        match sending {
            Sending::Queued => self.tell(IN),
            Sending::Given(wake) => drop(wake),
            Sending::Full(_) => return Err(EAGAIN),
            Sending::Closed(_) => return Err(EPIPE),
            Sending::Waits(receiver) => {
                match receiver {
                    Some(wake) => drop(wake),
                    None if self.rendezvous => self.tell(IN),
                    None => {}
                }
                self.wait_sent(waiter, place, wait)?;
            }
        }
        Ok(())
    }

    /// Waits until a message, or a reservation, is in.
    fn wait_sent(&self, waiter: Pin<&Waiter>, place: NonNull<Message>, wait: &Wait<'_>) -> Result {
        wait.parked()?;
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            // SAFETY: It was sent with this waiter.
            outcome = unsafe { self.withdraw(waiter, place) };
            if outcome.is_none() {
                return Err(error);
            }
        }
        sent(outcome)
    }

    /// Takes a message, or a request, back whose sender stops waiting, unless that is done.
    ///
    /// # Safety
    ///
    /// It was sent to this mailbox with this waiter, whose outcome was not taken.
    pub(crate) unsafe fn withdraw(
        &self,
        waiter: Pin<&Waiter>,
        place: NonNull<Message>,
    ) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = waiter.outcome();
        if outcome.is_none() {
            // SAFETY: Its waiter is not done, so that the message is there.
            let (message, remains) = unsafe {
                match inner.withdraw(place) {
                    Withdrawn::Message(message) => (Some(message), None),
                    Withdrawn::Content => (None, Some(Message::withdrawn(place, false))),
                    Withdrawn::Copied => (None, Some(Message::withdrawn(place, true))),
                    Withdrawn::Received => (None, None),
                }
            };
            // It may have stood in the way of others.
            self.settle(inner);
            drop((message, remains));
        }
        outcome
    }

    /// Sends a request and waits for the answer. A `caller` can be paused meanwhile.
    pub(crate) fn call(
        &self,
        request: KBox<Message>,
        wait: &Wait<'_>,
        caller: Option<&Caller<'_>>,
    ) -> Result<KBox<Message>> {
        let stack = pin!(Waiter::new());
        let place = NonNull::from(&*request);
        let waiter = wait.waiter(stack.as_ref(), Parked::Send(place))?;
        // SAFETY: The waiter is pinned here. Below, it is done, or takes its pointer back; or it is
        // a command's.
        let sending = unsafe {
            let mut inner = self.inner.lock();
            let sending = inner.call(request, waiter.pointer());
            if let Sending::Waits(_) = &sending {
                wait.listed();
                self.joined(inner);
            }
            sending
        };
        match sending {
            // The waiter may be gone if it is a command's.
            Sending::Waits(Some(receiver)) => match wait.parked() {
                Ok(()) => receiver.hand_over(&waiter, &self.servers),
                Err(_) => drop(receiver),
            },
            Sending::Waits(None) => self.tell(IN),
            Sending::Closed(_) => return Err(EPIPE),
            Sending::Queued | Sending::Given(_) | Sending::Full(_) => return Err(EINVAL),
        }
        wait.parked()?;
        // SAFETY: It was sent with this waiter.
        unsafe { self.wait_answered(waiter, place, wait, caller) }
    }

    /// Waits until a request is answered.
    ///
    /// # Safety
    ///
    /// The request was sent to this mailbox, and waits with this waiter.
    #[inline(always)]
    unsafe fn wait_answered(
        &self,
        waiter: Pin<&Waiter>,
        place: NonNull<Message>,
        wait: &Wait<'_>,
        caller: Option<&Caller<'_>>,
    ) -> Result<KBox<Message>> {
        let slept = waiter.sleep(wait);
        let mut outcome = waiter.outcome();
        if let (None, Err(mut error)) = (&outcome, slept) {
            if error == ERESTARTSYS {
                // A server may have acted on it already: nobody is to repeat it unasked.
                error = EINTR;
                if let Some((caller, pause)) = caller.and_then(pausing) {
                    // SAFETY: By the contract.
                    return unsafe { self.pause_call(waiter, place, caller, pause) };
                }
            }
            // SAFETY: By the contract.
            outcome = unsafe { self.withdraw(waiter, place) };
            if outcome.is_none() {
                return Err(error);
            }
        }
        replied(outcome)
    }

    /// Lets a pause wait for an answer in the place of a task, unless that has it already, and leaves a
    /// system call that is going to be made again.
    ///
    /// # Safety
    ///
    /// As for [`Self::wait_answered`].
    #[cold]
    unsafe fn pause_call(
        &self,
        waiter: Pin<&Waiter>,
        place: NonNull<Message>,
        caller: &Caller<'_>,
        mut pause: KBox<Pause>,
    ) -> Result<KBox<Message>> {
        let mut inner = self.inner.lock();
        if let Some(outcome) = waiter.outcome() {
            drop(inner);
            return replied(Some(outcome));
        }
        pause.holds(place);
        // SAFETY: The request was sent with `waiter`, which is not done. The pause is in its box until the
        // request was withdrawn or has another waiter, or the pause's waiter is done.
        unsafe { inner.change_waiter(place, pause.waiter().pointer()) };
        drop(inner);
        let Err(pause) = caller.keep(pause) else {
            return Err(erestartnointr());
        };
        // SAFETY: It waits with this waiter.
        match unsafe { self.withdraw(pause.waiter(), place) } {
            None => Err(EINTR),
            outcome => replied(outcome),
        }
    }

    /// Goes on with a call that was paused.
    #[cold]
    pub(crate) fn resume_call(
        &self,
        (pause, place): (KBox<Pause>, NonNull<Message>),
        wait: &Wait<'_>,
        caller: &Caller<'_>,
    ) -> Result<KBox<Message>> {
        let stack = pin!(Waiter::new());
        let waiter = stack.as_ref();
        {
            let mut inner = self.inner.lock();
            if let Some(outcome) = pause.waiter().outcome() {
                drop(inner);
                return replied(Some(outcome));
            }
            // SAFETY: It was sent to this mailbox, and waits with the pause's waiter, which is not done. The
            // new one is pinned here, and below it is done, or another one takes its place.
            unsafe { inner.change_waiter(place, waiter.pointer()) };
        }
        drop(pause);
        // SAFETY: It waits with this waiter.
        unsafe { self.wait_answered(waiter, place, wait, Some(caller)) }
    }

    /// Answers a request, or drops it. The caller is woken by what is returned.
    pub(crate) fn reply(
        &self,
        state: &State,
        token: u64,
        reply: Option<KBox<Message>>,
    ) -> Result<Wake> {
        let mut inner = self.inner.lock();
        let answered = inner.answer(&mut state.lock(), token, helpers::process());
        let (mut request, caller) = answered.ok_or(ENOENT)?;
        let Some(caller) = caller else {
            drop(inner);
            return Err(estale());
        };
        let mut remains = None;
        let outcome = match reply {
            Some(mut reply) => {
                reply.charge_to_caller(&mut request, &mut remains);
                Outcome::Replied(reply)
            }
            None => Outcome::Sent(Sent::Dropped),
        };
        let wake = caller.finish(outcome);
        drop(inner);
        free_one(remains);
        self.recycle(request);
        Ok(wake)
    }

    /// Whether the caller of a request still waits.
    pub(crate) fn caller_waits(&self, state: &State, token: u64) -> Result {
        let process = helpers::process();
        let waits = self
            .inner
            .lock()
            .caller_waits(&state.lock(), token, process);
        match waits {
            Some(true) => Ok(()),
            Some(false) => Err(estale()),
            None => Err(ENOENT),
        }
    }

    /// Keeps the memory of a message that is done with.
    pub(crate) fn recycle(&self, mut message: KBox<Message>) {
        free(None, message.empty());
        if let Some(message) = self.spare.put(message) {
            let message = self.inner.lock().recycle(message);
            drop(message);
        }
    }

    /// Reserves room for a message of `len` bytes.
    pub(crate) fn reserve(&self, state: &State, len: u64, wait: &Wait<'_>) -> Result {
        if self.rendezvous {
            return Err(eopnotsupp());
        }
        let process = helpers::process();
        if let Some(outcome) = wait.resume() {
            sent(Some(outcome))?;
            return self.reserved(state, process, len);
        }
        state.shares.enter(process)?;
        let stand_in = Message::stand_in(len)?;
        let stack = pin!(Waiter::new());
        let place = NonNull::from(&*stand_in);
        let waiter = wait.waiter(stack.as_ref(), Parked::Send(place))?;
        // SAFETY: As in `send`.
        let reserving = unsafe {
            let mut inner = self.inner.lock();
            let reserving = inner.reserve(stand_in, waiter.pointer(), wait.may_wait());
            if let Reserving::Waits = &reserving {
                wait.listed();
                self.joined(inner);
            }
            reserving
        };
        match reserving {
            Reserving::Reserved(_) => {}
            Reserving::Waits => self.wait_sent(waiter, place, wait)?,
            Reserving::Full(_) => return Err(EAGAIN),
            Reserving::Closed(_) => return Err(EPIPE),
        }
        self.reserved(state, process, len)
    }

    /// Notes a reservation that came through for a process.
    fn reserved(&self, state: &State, process: u64, len: u64) -> Result {
        state.lock().add_reservation(len);
        if state.shares.lock().add_bytes(process, 1, len) {
            return Ok(());
        }
        // Another thread has closed the last descriptor.
        let mut inner = self.inner.lock();
        inner.unreserve_some(&mut state.lock(), 1, len);
        self.settle(inner);
        Err(EBADF)
    }

    /// Gives back a reservation that came through and was not noted.
    pub(crate) fn give_back_reservation(&self, state: &State, len: u64) {
        state.lock().add_reservation(len);
        let mut inner = self.inner.lock();
        inner.unreserve_some(&mut state.lock(), 1, len);
        self.settle_in_passing(inner);
    }

    /// Gives a reservation of `len` bytes back.
    pub(crate) fn unreserve(&self, state: &State, len: u64) -> Result {
        let mut inner = self.inner.lock();
        let bytes = state.shares.lock().unreserve(helpers::process(), len);
        let Some(bytes) = bytes else {
            return Err(EINVAL);
        };
        inner.unreserve_some(&mut state.lock(), 1, bytes);
        self.settle(inner);
        Ok(())
    }

    /// Sends a message into room that was reserved for `reserved` bytes.
    pub(crate) fn send_reserved(
        &self,
        state: &State,
        message: KBox<Message>,
        reserved: u64,
    ) -> Result {
        let process = helpers::process();
        let mut inner = self.inner.lock();
        let bytes = match !inner.refuses() && message.node().len() <= reserved {
            true => state.shares.lock().unreserve(process, reserved),
            false => None,
        };
        // Without one it is refused, as it is by who does not receive any more.
        let sending = match bytes {
            Some(bytes) => inner.send_reserved(&mut state.lock(), message, bytes),
            None if inner.refuses() => Sending::Closed(message),
            None => Sending::Full(message),
        };
        // What was reserved and not needed is room for others.
        self.settle(inner);
        match sending {
            Sending::Queued => self.tell(IN),
            Sending::Given(wake) => drop(wake),
            Sending::Closed(_) => return Err(EPIPE),
            Sending::Full(_) | Sending::Waits(_) => return Err(EINVAL),
        }
        Ok(())
    }

    // Receiving.

    /// Receives a message: takes it, calls `copy`, and then it is received, leased, or owed an
    /// answer. It goes back to its place when `copy` fails, or when the task is killed meanwhile.
    pub(crate) fn receive<T>(
        &self,
        how: &Receive<'_>,
        mut copy: impl FnMut(&Message) -> Result<T>,
    ) -> Result<T, Failure> {
        // `copy` may sleep: nothing is copied under the lock.
        self.receive_after(None, how, |message, bytes| match bytes {
            Some(_) => Err(EAGAIN),
            None => copy(message),
        })
    }

    /// Receives a message into a buffer of `room` bytes. Mostly that takes no more than to copy a few
    /// bytes to memory that is there. Such a copy does not sleep, and so is made under the lock,
    /// which then is taken once.
    #[inline(always)]
    pub(crate) fn receive_bytes(
        &self,
        handle: &Handle,
        to: UserBytes,
        room: usize,
        wait: Wait<'_>,
    ) -> Result<usize, Failure> {
        match self.take_bytes(room, |_, bytes| to.copy_now(bytes)) {
            Ok(len) => Ok(len),
            Err(inner) => self.receive_bytes_slowly(inner, handle, to, room, wait),
        }
    }

    /// The same, if that is all that it takes. Otherwise nothing has happened. `copy` must not sleep.
    #[inline(always)]
    pub(crate) fn receive_bytes_now(
        &self,
        room: usize,
        copy: impl FnOnce(&Message, &[u8]) -> bool,
    ) -> Option<usize> {
        self.take_bytes(room, copy).ok()
    }

    /// What is left to do is for who still holds the lock.
    #[inline(always)]
    fn take_bytes(
        &self,
        room: usize,
        copy: impl FnOnce(&Message, &[u8]) -> bool,
    ) -> Result<usize, Guard<'_>> {
        let mut inner = self.inner.lock();
        let Some(mut message) = inner.receive_now(|message| {
            let bytes = message.small(room);
            bytes.is_some_and(|bytes| copy(message, bytes))
        }) else {
            return Err(inner);
        };
        let len = message.payload().len();
        let cargo = message.empty();
        let message = match self.spare.put(message) {
            Some(message) => inner.recycle(message),
            None => None,
        };
        drop(inner);
        free(message, cargo);
        self.tell(OUT);
        Ok(len)
    }

    /// Receives messages, at most `count`, as long as they are there and plain: without files, leases or
    /// somebody who waits for them to be received. `copy` delivers them, which cannot be taken back.
    /// Each is received for good under the lock under which the next one is taken. Returns how many
    /// there were. It ends with the error of `copy`, whose message goes back.
    pub(crate) fn receive_run(
        &self,
        count: usize,
        mut copy: impl FnMut(&Message) -> Result,
    ) -> Result<usize> {
        let (mut received, mut rest) = (0, None);
        let mut inner = self.inner.lock();
        while received < count && !helpers::dying() {
            let Some(mut message) = inner.take_plain(|message| message.fits(0, None)) else {
                break;
            };
            drop(inner);
            free(rest.take(), None);
            if let Err(error) = copy(&message) {
                self.put_back(message);
                if received > 0 {
                    self.settle(self.inner.lock());
                }
                return Err(error);
            }
            free(None, message.empty());
            inner = self.inner.lock();
            // Nobody waits for it.
            let _ = inner.commit(&message);
            rest = match self.spare.put(message) {
                Some(message) => inner.recycle(message),
                None => None,
            };
            received += 1;
        }
        if received > 0 {
            self.settle(inner);
        }
        Ok(received)
    }

    #[inline(never)]
    fn receive_bytes_slowly<'a>(
        &'a self,
        inner: Guard<'a>,
        handle: &Handle,
        to: UserBytes,
        room: usize,
        wait: Wait<'_>,
    ) -> Result<usize, Failure> {
        // Who only reads cannot answer a request.
        let how = Receive::any(handle, room, wait);
        self.receive_locked(Some(inner), None, &how, |message, bytes| {
            if bytes.is_some() {
                // The copy may sleep.
                return Err(EAGAIN);
            }
            let payload = message.payload();
            to.copy_from(payload).map(|()| payload.len())
        })
    }

    /// The same as [`Self::receive`], for who has just answered a caller, and leaves it the CPU if there is nothing to
    /// receive yet. Of a request to be answered that is small and plain, `copy` is given the bytes first,
    /// under the lock: it must not sleep then. If it fails, it is called again without them.
    pub(crate) fn receive_after<T>(
        &self,
        answered: Option<Wake>,
        how: &Receive<'_>,
        copy: impl FnMut(&Message, Option<&[u8]>) -> Result<T>,
    ) -> Result<T, Failure> {
        if how.lease && how.handle.state.lock().leases() >= UNSETTLED_MAX {
            return Err(edquot().into());
        }
        self.receive_locked(None, answered, how, copy)
    }

    /// The same, where the lock may be held already.
    #[inline]
    fn receive_locked<'a, T>(
        &'a self,
        mut inner: Option<Guard<'a>>,
        mut answered: Option<Wake>,
        how: &Receive<'_>,
        mut copy: impl FnMut(&Message, Option<&[u8]>) -> Result<T>,
    ) -> Result<T, Failure> {
        let mut again = false;
        loop {
            let guard = inner.take().unwrap_or_else(|| self.inner.lock());
            let taken = self.take(guard, how, again, &mut answered);
            // Whoever was answered is woken without the lock.
            drop(answered.take());
            let mut message = taken?;
            if self.rendezvous || message.node().is_request() {
                // Its sender may wait, and withdraw it.
                match self.begin(message, how, &mut copy) {
                    Begun::Received(copied) => return Ok(copied),
                    Begun::Copy(begun) => message = begun,
                    Begun::Withdrawn(withdrawn) => {
                        self.put_back(withdrawn);
                        again = true;
                        continue;
                    }
                    Begun::Refused(refused, error) => {
                        self.put_back(refused);
                        return Err(error.into());
                    }
                }
            }
            // Who waits is given a message of whatever size.
            if message.node().len() > how.room as u64 || !message.fits(how.files, how.leases) {
                let needs = message.needs();
                self.put_back(message);
                return Err(Failure::TooSmall(needs));
            }
            let mut process = 0;
            if how.lease || (message.node().is_request() && how.answers) {
                // It is known from now on, so that it comes back when the process exits.
                process = helpers::process();
                if let Err(error) = how.handle.state.shares.enter(process) {
                    self.put_back(message);
                    return Err(error.into());
                }
            }
            let copied = match copy(&message, None) {
                Ok(_) if helpers::dying() && !message.accepted() && how.post.is_none() => {
                    Err(EINTR)
                }
                copied => copied,
            };
            let copied = match (copied, how.post) {
                // One that was withdrawn is noticed below.
                (Ok(copied), Some(post)) if self.dismiss(&message) => post().map(|()| copied),
                (copied, _) => copied,
            };
            match copied {
                Err(error) => {
                    self.put_back(message);
                    return Err(error.into());
                }
                Ok(copied) => {
                    // Those of a message that is to be acknowledged stay with it.
                    let room = how
                        .leases
                        .filter(|_| !how.lease || message.node().is_request());
                    let leases = room.and_then(|_| message.take_leases());
                    if self.commit(message, how, process) {
                        if let (Some(leases), Some(room)) = (leases, room) {
                            leases.receive(&room.access);
                        }
                        return Ok(copied);
                    }
                    again = true;
                }
            }
        }
    }

    /// Begins to copy a message whose sender may wait.
    #[inline(always)]
    fn begin<T>(
        &self,
        message: KBox<Message>,
        how: &Receive<'_>,
        copy: &mut impl FnMut(&Message, Option<&[u8]>) -> Result<T>,
    ) -> Begun<T> {
        let other = match how.handle.other_payer(helpers::euid()) {
            Ok(other) => other,
            Err(error) => return Begun::Refused(message, error),
        };
        let payer = other.as_ref().unwrap_or(&how.handle.user);
        let begun = match message.node().is_request() && how.answers {
            true => self.begin_owing(message, payer, how, copy),
            false => self.begin_only(message, payer),
        };
        free_one(other);
        begun
    }

    #[inline]
    fn begin_only<T>(&self, mut message: KBox<Message>, payer: &Pinned) -> Begun<T> {
        let mut inner = self.inner.lock();
        if !inner.begin(&message) {
            return Begun::Withdrawn(message);
        }
        if message.node().has_sender() {
            if let Err(error) = message.copied_by(payer, false) {
                return Begun::Refused(message, error);
            }
        }
        Begun::Copy(message)
    }

    /// Begins to copy a request to be answered. One that is small and plain is received under the same
    /// lock: that takes no more than to copy a few bytes to memory that is there.
    #[inline(always)]
    fn begin_owing<T>(
        &self,
        mut request: KBox<Message>,
        payer: &Pinned,
        how: &Receive<'_>,
        copy: &mut impl FnMut(&Message, Option<&[u8]>) -> Result<T>,
    ) -> Begun<T> {
        let state = &how.handle.state;
        let process = helpers::process();
        // It is known from now on, so that it comes back when the process exits.
        if let Err(error) = state.shares.enter(process) {
            return Begun::Refused(request, error);
        }
        let mut inner = self.inner.lock();
        if !inner.begin(&request) {
            return Begun::Withdrawn(request);
        }
        let mut owing = state.lock();
        if owing.owed() >= UNSETTLED_MAX {
            return Begun::Refused(request, edquot());
        }
        if let Err(error) = request.copied_by(payer, true) {
            return Begun::Refused(request, error);
        }
        // What is posted is posted before it is received.
        let bytes = match how.post {
            Some(_) => None,
            None => request.small(how.room),
        };
        let Some(Ok(copied)) = bytes.map(|bytes| copy(&request, Some(bytes))) else {
            return Begun::Copy(request);
        };
        request.owed_small();
        let commit = inner.owe(&mut owing, request, process);
        drop(owing);
        self.owes(inner, state, process);
        // It was not withdrawn under this lock.
        drop(commit);
        Begun::Received(copied)
    }

    /// A process owes an answer through a handle from now on.
    #[inline(always)]
    fn owes<'a>(&'a self, inner: Guard<'a>, state: &State, process: u64) {
        let entered = state.shares.has(process);
        self.settle(inner);
        if !entered {
            // As of a lease.
            self.reclaim(state, Some(process));
        }
    }

    /// Takes a message, or waits to be given one; `again`, after the one that it had was withdrawn.
    #[inline]
    fn take<'a>(
        &'a self,
        mut inner: Guard<'a>,
        how: &Receive<'_>,
        again: bool,
        answered: &mut Option<Wake>,
    ) -> Result<KBox<Message>, Failure> {
        if let Wait::Parks(issue) = how.wait {
            if let Some(outcome) = issue.resume() {
                drop(inner);
                return given(Some(outcome));
            }
        }
        if how.from.is_none() {
            if let Some(message) = inner.take_now(how.room as u64) {
                return Ok(message);
            }
        }
        self.take_or_wait(inner, how, again, answered)
    }

    #[inline(never)]
    fn take_or_wait<'a>(
        &'a self,
        mut inner: Guard<'a>,
        how: &Receive<'_>,
        again: bool,
        answered: &mut Option<Wake>,
    ) -> Result<KBox<Message>, Failure> {
        let stack = pin!(Waiter::wanting(how.from.map_or(0, |from| from.number)));
        let mut waiter = stack.as_ref();
        if let (Wait::Parks(issue), true) = (how.wait, how.wait.may_wait()) {
            drop(inner);
            waiter = how.wait.waiter(waiter, Parked::Receive)?;
            if let Some(process) = how.from.and_then(|from| from.process.as_ref()) {
                issue.watch(process)?;
            }
            inner = self.inner.lock();
        }
        {
            let room = how.room as u64;
            let origin = how.from.map_or(0, |from| from.number);
            let taken = loop {
                match origin {
                    0 => break inner.take(room),
                    origin => match inner.take_from(origin, room) {
                        Take::More => {
                            drop(inner);
                            if helpers::dying() {
                                return Err(EINTR.into());
                            }
                            inner = self.inner.lock();
                        }
                        taken => break taken,
                    },
                }
            };
            match taken {
                Take::Message(message) => return Ok(message),
                Take::TooSmall(len) => {
                    let needs = inner.first(origin).map(Message::needs);
                    let needs = needs.unwrap_or_default();
                    return Err(Failure::TooSmall(Needs { len, ..needs }));
                }
                Take::Ended => return Err(EPIPE.into()),
                Take::Empty | Take::More => {
                    let process = how.from.map(|from| &from.process);
                    if process.is_some_and(|p| p.as_ref().is_none_or(Process::exited)) {
                        return Err(EPIPE.into());
                    }
                    if !how.wait.may_wait() {
                        return Err(EAGAIN.into());
                    }
                    // SAFETY: The waiter is pinned here. Below, it is done, or leaves.
                    unsafe {
                        if again {
                            inner.wait_again(waiter.pointer());
                        } else {
                            inner.wait(waiter.pointer());
                        }
                    }
                    how.wait.listed();
                }
            }
            drop(inner);
        }
        let parked = how.wait.parked();
        match answered.take() {
            Some(caller) if parked.is_ok() => caller.hand_over(&waiter, &self.callers),
            caller => drop(caller),
        }
        if self.rendezvous {
            self.tell(OUT);
        }
        parked?;
        let process = how.from.and_then(|from| from.process.as_ref());
        let slept = waiter.sleep_while(&how.wait, process);
        let mut outcome = waiter.outcome();
        if let (None, Err(error)) = (&outcome, slept) {
            // SAFETY: It was put on the list here.
            outcome = unsafe { self.leave(waiter) };
            if outcome.is_none() {
                // The process that was to send is gone.
                return Err(if error == ESRCH { EPIPE } else { error }.into());
            }
        }
        given(outcome)
    }

    /// Ends the wait of a receiver from its own side, unless it is done.
    ///
    /// # Safety
    ///
    /// It was put on this mailbox's list, and its outcome was not taken.
    pub(crate) unsafe fn leave(&self, waiter: Pin<&Waiter>) -> Option<Outcome> {
        let mut inner = self.inner.lock();
        let outcome = waiter.outcome();
        if outcome.is_none() {
            // SAFETY: It waits here, and is not done.
            unsafe { inner.leave(NonNull::from(waiter.get_ref())) };
        }
        outcome
    }

    /// Ends the wait of a message's sender before the message is received. `false`: the sender withdrew it.
    #[cold]
    fn dismiss(&self, message: &KBox<Message>) -> bool {
        if !self.rendezvous || message.node().is_request() {
            return true;
        }
        let mut inner = self.inner.lock();
        let dismissed = inner.dismiss(message);
        self.settle(inner);
        matches!(dismissed, Commit::Done(_))
    }

    /// Ends a receive whose bytes were copied, by a process that has an entry if it has to settle it.
    /// `false`: the sender withdrew the message.
    fn commit(&self, mut message: KBox<Message>, how: &Receive<'_>, process: u64) -> bool {
        if message.node().is_request() {
            return self.owe(message, how, process);
        }
        if how.lease {
            let mut inner = self.inner.lock();
            message.not_received();
            let state = &how.handle.state;
            let commit = inner.lease(&mut state.lock(), message, process);
            let entered = state.shares.has(process);
            self.settle(inner);
            if !entered {
                // Another thread has closed the last descriptor meanwhile, and it goes back as with that.
                self.reclaim(state, Some(process));
            }
            return matches!(commit, Commit::Done(_));
        }
        let mut inner = self.inner.lock();
        let commit = inner.commit(&message);
        let cargo = message.empty();
        let message = match self.spare.put(message) {
            Some(message) => inner.recycle(message),
            None => None,
        };
        self.settle(inner);
        free(message, cargo);
        matches!(commit, Commit::Done(_))
    }

    /// Ends a receive of a request. One that is received without a handle to answer it through is
    /// dropped. It never goes back, and what was in it is not kept until it is answered.
    fn owe(&self, mut request: KBox<Message>, how: &Receive<'_>, process: u64) -> bool {
        let token = request.node().token();
        let mut inner = self.inner.lock();
        let remains = request.owed();
        let (commit, dropped) = match how.state() {
            Some(state) => {
                let mut state = state.lock();
                (inner.owe(&mut state, request, process), None)
            }
            None => {
                let mut nobody = HandleState::new();
                let commit = inner.owe(&mut nobody, request, 0);
                (commit, inner.answer(&mut nobody, token, 0))
            }
        };
        let dropped = dropped.map(|(request, caller)| {
            let wake = caller.map(|caller| caller.finish(Outcome::Sent(Sent::Dropped)));
            (request, wake)
        });
        match how.state() {
            Some(state) => self.owes(inner, state, process),
            None => self.settle(inner),
        }
        free_one(dropped);
        free_one(remains);
        matches!(commit, Commit::Done(_))
    }

    /// Settles a message that was leased: it is done with, or goes back.
    pub(crate) fn acknowledge(&self, state: &State, token: u64, requeue: bool) -> Result {
        let process = helpers::process();
        let mut inner = self.inner.lock();
        if requeue {
            let returned = inner.requeue_leased(&mut state.lock(), token, process);
            drop(inner);
            if self.returned(returned.ok_or(ENOENT)?) {
                self.tell(IN);
            }
        } else {
            let message = inner.acknowledge(&mut state.lock(), token, process);
            self.settle(inner);
            drop(message.ok_or(ENOENT)?);
        }
        Ok(())
    }

    /// A message that was taken goes back to its place.
    pub(crate) fn put_back(&self, mut message: KBox<Message>) {
        let mut inner = self.inner.lock();
        message.not_received();
        let returned = inner.put_back(message);
        drop(inner);
        if self.returned(returned) {
            self.pollers.wake_later();
        }
    }

    /// Does what follows when a message went back. Returns true if it is queued, which pollers are to
    /// be told.
    fn returned(&self, returned: Returned<KBox<Message>, Wake, Wake>) -> bool {
        match returned {
            Returned::Queued => return true,
            Returned::Given(receiver) => drop(receiver),
            Returned::Refused(sender, message) => {
                drop(message);
                drop(sender);
                self.settle_in_passing(self.inner.lock());
            }
            Returned::Withdrawn(message) => drop(message),
        }
        false
    }

    /// Does what follows from a change: lets senders in for whom there is room now, and tells
    /// those whose other side is gone.
    #[inline]
    fn settle<'a>(&'a self, inner: Guard<'a>) {
        if inner.calm() {
            drop(inner);
            self.tell(OUT);
        } else {
            self.settle_all(inner);
        }
    }

    #[inline(never)]
    fn settle_all<'a>(&'a self, inner: Guard<'a>) {
        let mut news = OUT;
        if inner.ended() {
            news |= IN | bindings::POLLHUP;
        }
        if !inner.settled() {
            news |= self.settle_waits(inner);
        } else {
            drop(inner);
        }
        self.tell(news);
    }

    /// As [`Self::settle`], for one of many steps of an exit, or of the end of a ring: pollers are
    /// woken once for many.
    fn settle_in_passing<'a>(&'a self, inner: Guard<'a>) {
        if !inner.settled() {
            self.settle_waits(inner);
        }
        self.pollers.wake_later();
    }

    /// Admits or ends at most as many waiters as there are now, so that waiters which keep coming
    /// do not keep the caller. Each is woken, and its remains freed, outside the lock. Returns the
    /// poll events to report.
    fn settle_waits<'a>(&'a self, mut inner: Guard<'a>) -> u32 {
        let mut news = 0;
        for _ in 0..inner.waiters() {
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
        news
    }

    /// Drops the lock after a sender has joined the waiting list. A caller that gave room before
    /// may not have counted this sender, which then admits those that fit.
    #[inline]
    fn joined<'a>(&'a self, inner: Guard<'a>) {
        if inner.must_admit() {
            self.settle_all(inner);
        }
    }
}
