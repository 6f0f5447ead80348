//! Multishot receives and accepts.

use super::buffers::{Buffers, Filled, Group};
use super::core::{Op, Shared, Shot, Shots};
use super::error::{OTHER_OWNER, failed};
use super::ops::{Acknowledged, Asked, Delivery, How, Plain, Recv, Request, Want, accepted, least};
use super::sqe::Command;
use super::task::{Done, Hold, Idle, Next, Operation, Taken};
use crate::error::{Action, Error, ErrorKind, Result};
use crate::link::Link;
use crate::object::Inner;
use crate::recv::{Identity, Message};
use crate::wait::Wait;
use crate::{raw, sys};
use io_uring::cqueue;
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A multishot command, and what it has brought.
pub(super) struct Multishot {
    request: u32,
    flags: u32,
    how: How,
    group: Arc<Group>,
    events: VecDeque<Filled>,
    /// What another operation had taken.
    adopted: VecDeque<Taken>,
    /// A connection that came with the end.
    last: Option<OwnedFd>,
    on: Arc<dyn Hold>,
}

/// Why a multishot command has ended.
pub(super) struct Ended(Done);

impl Multishot {
    /// A command that goes to `shared`, with buffers of a group; `None`: the group is of another driver. Its
    /// kernel would fill buffers of the same numbers, but not those.
    fn new(
        shared: &Arc<Shared>,
        on: Arc<dyn Hold>,
        group: &Arc<Group>,
        (request, flags): (u32, u32),
        how: How,
    ) -> Option<Self> {
        group.is_of(shared).then(|| Multishot {
            request,
            flags,
            how,
            group: group.clone(),
            events: VecDeque::new(),
            adopted: VecDeque::new(),
            last: None,
            on,
        })
    }

    /// Bytes in a buffer, and that it goes on.
    pub(super) fn more(&mut self, result: Result<u32, Errno>, flags: u32) {
        if let (Ok(len), Some(buffer)) = (result, cqueue::buffer_select(flags)) {
            self.events.extend(Filled::new(&self.group, buffer, len));
        }
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty() || !self.adopted.is_empty() || self.last.is_some()
    }

    pub(super) fn adopt(&mut self, taken: Taken) -> Result<(), Taken> {
        // What is to be acknowledged needs something to acknowledge.
        let takes = |token| self.flags & sys::POSTBOX_RECV_ACK == 0 || Acknowledged::takes(token);
        match (&taken, self.request) {
            (Taken::Message(_, token), sys::POSTBOX_RECV) if !takes(*token) => Err(taken),
            (Taken::Message(..), sys::POSTBOX_RECV) | (Taken::Link(_), sys::POSTBOX_ACCEPT) => {
                self.adopted.push_back(taken);
                Ok(())
            }
            _ => Err(taken),
        }
    }

    /// What nobody has taken from the stream.
    pub(super) fn disown(&mut self) -> Vec<Taken> {
        let mut left: Vec<_> = self.adopted.drain(..).collect();
        for filled in self.events.drain(..) {
            let record = filled.record();
            if self.request == sys::POSTBOX_ACCEPT {
                left.extend(descriptor(&record).map(Taken::Link));
                continue;
            }
            let call = record.msg_flags & sys::POSTBOX_MSG_CALL != 0;
            if self.flags & sys::POSTBOX_RECV_ACK != 0 && !call {
                // Back to the head with it.
                let fd = &self.on.inner().fd;
                let _ = raw::ack(fd, record.token, sys::POSTBOX_ACK_REQUEUE);
                continue;
            }
            let message = message(&filled, &record);
            left.push(Taken::Message(Box::new(message), record.token));
        }
        left.extend(self.last.take().map(Taken::Link));
        left
    }

    fn next(&mut self) -> Option<Event> {
        let taken = self.adopted.pop_front().map(Event::Taken);
        let event = taken.or_else(|| self.events.pop_front().map(Event::Filled));
        event.or_else(|| self.last.take().map(Taken::Link).map(Event::Taken))
    }
}

enum Event {
    Filled(Filled),
    Taken(Taken),
}

impl Operation for Multishot {
    type Output = Ended;
    // What it has received has had completions; what it was handed besides went back.
    const RESTARTS: bool = true;

    fn command(&mut self, _on: &Inner, _idle: &Idle) -> Result<Command, Errno> {
        Ok(Command::multishot(
            self.request,
            self.group.id,
            self.flags,
            self.how,
        ))
    }

    fn complete(&mut self, _on: &Inner, done: Done, _idle: &Idle) -> Next<Ended> {
        match done.result {
            Err(Errno::INTR) => return Next::Again,
            // One more, for which the completion queue had no room.
            Ok(fd) if self.request == sys::POSTBOX_ACCEPT => {
                // SAFETY: The kernel made this descriptor for us, and nobody else knows it.
                self.last = Some(unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) });
            }
            _ => {}
        }
        Next::Done(Ended(done))
    }

    fn multishot(&mut self) -> Option<&mut Multishot> {
        Some(self)
    }
}

/// The descriptor that a record of an accept has, which is its reader's to own.
fn descriptor(record: &sys::postbox_record) -> Option<OwnedFd> {
    // SAFETY: The kernel made this descriptor for us, and each record is read for it once.
    unsafe { raw::own(record.fd) }.ok()
}

/// What a record says, as a receive would.
fn args(record: &sys::postbox_record) -> sys::postbox_recv {
    sys::postbox_recv {
        msg_len: record.msg_len,
        token: record.token,
        priority: record.priority,
        msg_flags: record.msg_flags,
        pid: record.pid,
        tid: record.tid,
        uid: record.uid,
        gid: record.gid,
        pidfd_ino: record.pidfd_ino,
        ..Default::default()
    }
}

fn message(filled: &Filled, record: &sys::postbox_record) -> Message {
    Message::new(filled.payload().to_vec(), Vec::new(), &args(record))
}

/// A multishot command, armed anew whenever it ends and can go on.
struct Stream<W: Want> {
    shared: Arc<Shared>,
    on: Arc<dyn Hold>,
    buffers: Buffers,
    request: u32,
    action: Action,
    /// How long to wait for the next, and, while it is waited for, since when.
    time: Option<(Duration, Option<Instant>)>,
    state: State<W>,
}

enum State<W: Want> {
    Idle,
    Armed(Shots),
    /// The message at the head is too large for the buffers, or has files: it is received on its own.
    Single(Op<Result<W::Item>>),
    Ended,
}

/// What comes from a stream.
enum Item<W: Want> {
    Event(Event),
    Single(W::Item),
}

/// What a stream waits for.
enum Step<T> {
    Item(T),
    Error(Error),
    End,
    Pending,
}

impl<W: Want> Stream<W> {
    fn new(shared: &Arc<Shared>, on: Arc<dyn Hold>, buffers: &Buffers, request: u32) -> Self {
        let action = match request {
            sys::POSTBOX_ACCEPT => Action::Accept,
            _ => Action::Receive,
        };
        Stream {
            shared: shared.clone(),
            on,
            buffers: buffers.clone(),
            request,
            action,
            time: None,
            state: State::Idle,
        }
    }

    fn has_time(&self) -> bool {
        self.time
            .and_then(|(time, since)| Some((time, since?)))
            .is_some_and(|(time, since)| since.elapsed() < time)
    }

    /// The rest of the time.
    fn how(&self) -> How {
        match self.time {
            None => (0, 0),
            // A time that leads beyond the clock's end is none.
            Some((time, since)) => since
                .unwrap_or_else(Instant::now)
                .checked_add(time)
                .map_or((0, 0), |end| Wait::Deadline(end).flags()),
        }
    }

    /// Begins the command; `None`: the buffers are of another driver.
    fn arm(&mut self) -> Option<()> {
        let (on, group) = (self.on.clone(), &self.buffers.group);
        let command = (self.request, W::FLAGS);
        let multishot = Multishot::new(&self.shared, on, group, command, self.how())?;
        self.state = State::Armed(Shots::new(&self.shared, self.on.clone(), multishot));
        Some(())
    }

    /// The next step; who has no waker looks again after [`park`](Self::park).
    fn step(&mut self, waker: Option<&Waker>) -> Step<Item<W>> {
        if let Some((_, since)) = &mut self.time {
            since.get_or_insert_with(Instant::now);
        }
        let step = self.try_step(waker);
        if let (Some((_, since)), false) = (&mut self.time, matches!(step, Step::Pending)) {
            *since = None;
        }
        step
    }

    fn try_step(&mut self, waker: Option<&Waker>) -> Step<Item<W>> {
        loop {
            match &mut self.state {
                State::Ended => return Step::End,
                State::Idle => {
                    if self.arm().is_none() {
                        return self.fails(failed(
                            self.on.inner(),
                            self.action,
                            OTHER_OWNER,
                            false,
                        ));
                    }
                }
                State::Armed(shots) => match shots.poll(waker, Multishot::next) {
                    Shot::Event(event) => return Step::Item(Item::Event(event)),
                    Shot::None => return Step::Pending,
                    Shot::End(end) => {
                        self.state = State::Idle;
                        if let Some(step) = self.ended(end) {
                            return step;
                        }
                    }
                },
                State::Single(op) => {
                    let waker = waker.unwrap_or(Waker::noop());
                    match Pin::new(op).poll(&mut Context::from_waker(waker)) {
                        Poll::Pending => return Step::Pending,
                        Poll::Ready(result) => {
                            self.state = State::Idle;
                            match result {
                                Ok(item) => return Step::Item(Item::Single(item)),
                                Err(error) => return self.fails(error),
                            }
                        }
                    }
                }
            }
        }
    }

    fn fails<T>(&mut self, error: Error) -> Step<T> {
        match error.kind {
            ErrorKind::Disconnected => {
                self.state = State::Ended;
                Step::End
            }
            // It can go on.
            ErrorKind::Timeout
            | ErrorKind::Cancelled
            | ErrorKind::NoBuffers
            | ErrorKind::NoDescriptors
            | ErrorKind::Quota
            | ErrorKind::HasBuffers => Step::Error(error),
            _ => {
                self.state = State::Ended;
                Step::Error(error)
            }
        }
    }

    /// A command has ended. `None`: it goes on with the next.
    fn ended<T>(&mut self, Ended(done): Ended) -> Option<Step<T>> {
        let on = self.on.clone();
        let errno = match done.result {
            Ok(_) => return None,
            Err(errno) => errno,
        };
        match errno {
            Errno::NOBUFS => {
                let group = &self.buffers.group;
                // Those that were used up without a word, and those that were dropped meanwhile.
                if group.reclaim(&self.shared) || group.available() > 0 {
                    return None;
                }
                let kind = ErrorKind::NoBuffers;
                Some(Step::Error(on.inner().error_of_kind(self.action, kind)))
            }
            // What was in the queue has been taken by now.
            Errno::OVERFLOW => {
                self.buffers.group.reclaim(&self.shared);
                None
            }
            // The time of the command is that of its first message.
            Errno::TIMEDOUT if self.has_time() => None,
            Errno::MSGSIZE if self.request == sys::POSTBOX_RECV => {
                let op = Recv::<W>::new(self.on.clone(), self.how(), least(&self.shared));
                self.state = State::Single(self.shared.start(self.on.clone(), op));
                None
            }
            errno => {
                let error = failed(on.inner(), self.action, errno, done.cancelled);
                Some(self.fails(error))
            }
        }
    }

    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        make: impl FnOnce(Item<W>, &Arc<dyn Hold>) -> T,
    ) -> Poll<Option<Result<T>>> {
        match self.step(Some(cx.waker())) {
            Step::Item(item) => Poll::Ready(Some(Ok(make(item, &self.on)))),
            Step::Error(error) => Poll::Ready(Some(Err(error))),
            Step::End => Poll::Ready(None),
            Step::Pending => Poll::Pending,
        }
    }

    fn wait<T>(&mut self, make: impl FnOnce(Item<W>, &Arc<dyn Hold>) -> T) -> Option<Result<T>> {
        loop {
            match self.step(None) {
                Step::Item(item) => return Some(Ok(make(item, &self.on))),
                Step::Error(error) => return Some(Err(error)),
                Step::End => return None,
                Step::Pending => match &self.state {
                    State::Armed(shots) => shots.park(None),
                    State::Single(op) => op.park(),
                    _ => {}
                },
            }
        }
    }

    fn idle(&mut self, time: Duration) {
        self.time = Some((time, None));
    }
}

impl<W: Want> fmt::Debug for Stream<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Idle => "idle",
            State::Armed(_) => "armed",
            State::Single(_) => "one by one",
            State::Ended => "ended",
        };
        f.debug_struct("Stream")
            .field("object", &self.on.inner().subject.name)
            .field("buffers", &self.buffers)
            .field("state", &state)
            .finish()
    }
}

/// The public types of streams.
macro_rules! streams {
    ($($(#[$doc:meta])* $name:ident of $want:ty => $item:ty, $make:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        #[must_use = "nothing is received before it is asked for"]
        pub struct $name(Stream<$want>);

        impl $name {
            /// How long to wait for the first and for each next one, at most; to be set before the first.
            /// When the time is up there is an error [`Timeout`](ErrorKind::Timeout), and the stream can go on.
            pub fn timeout(mut self, time: Duration) -> Self {
                self.0.idle(time);
                self
            }

            /// The next one; `None` at the end.
            ///
            /// # Cancel safety
            ///
            /// Nothing is lost when it is dropped: what comes is given out by the next call.
            ///
            /// # Errors
            /// As of the stream: see there.
            pub async fn next(&mut self) -> Option<Result<$item>> {
                poll_fn(|cx| self.poll_next(cx)).await
            }

            /// As [`next`](Self::next), for futures and streams of other kinds.
            pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<$item>>> {
                self.0.poll(cx, $make)
            }

            /// As [`next`](Self::next); the thread waits.
            pub fn wait_next(&mut self) -> Option<Result<$item>> {
                self.0.wait($make)
            }
        }
    )*};
}

streams! {
    /// Messages, as they come, by one command that goes on: [`Attached::messages`](super::Attached::messages).
    ///
    /// It ends, with `None`, when the last sender is gone and nothing is left. Its errors:
    /// [`NoBuffers`](ErrorKind::NoBuffers), while all buffers of the group have [`Record`]s that are not
    /// dropped; [`Timeout`](ErrorKind::Timeout) where a time was set;
    /// [`HasBuffers`](ErrorKind::HasBuffers), while the message at the head has buffers of a pool. After
    /// these it can go on, and has lost nothing. After others it has ended: one of them is
    /// [`OtherOwner`](ErrorKind::OtherOwner), where the buffers are of another driver.
    ///
    /// What the kernel ends the command for otherwise is not seen: a full completion queue; a message
    /// that is too large for the buffers, or has files, which is received on its own.
    ///
    /// When it is dropped, messages that it had taken out and not given out stay with the handle:
    /// whoever receives next with the same [`Attached`](super::Attached), or a clone of it, gets them.
    Messages of Plain => Record, record;
    /// Messages that are to be acknowledged: [`Attached::deliveries`](super::Attached::deliveries).
    ///
    /// As [`Messages`]; but when it is dropped, messages that it had not given out go back to the head.
    /// [`Quota`](ErrorKind::Quota): the handle has too many unsettled messages; it can go on when some are.
    Deliveries of Acknowledged => Delivery, delivery;
    /// Requests that are to be answered: [`Attached::requests`](super::Attached::requests).
    ///
    /// As [`Messages`]. [`Quota`](ErrorKind::Quota): the handle owes too many replies; it can go on when
    /// some are sent.
    Requests of Asked => Request, request;
}

fn record(item: Item<Plain>, on: &Arc<dyn Hold>) -> Record {
    match item {
        Item::Event(Event::Filled(filled)) => {
            let head = filled.record();
            let call = head.msg_flags & sys::POSTBOX_MSG_CALL != 0;
            if call && head.token != 0 {
                on.inner().drop_request(head.token);
            }
            Record {
                priority: head.priority,
                sender: Identity::of(&args(&head)),
                redelivered: head.msg_flags & sys::POSTBOX_MSG_REDELIVERED != 0,
                call,
                files: Vec::new(),
                files_lost: head.msg_flags & sys::POSTBOX_MSG_FILES_LOST != 0,
                payload: Payload::Buffer(filled),
            }
        }
        Item::Event(Event::Taken(taken)) => Record::of(whole(taken, on).0),
        Item::Single(message) => Record::of(message),
    }
}

/// The message that another operation had taken. Others than messages do not come here.
fn whole(taken: Taken, on: &Arc<dyn Hold>) -> (Message, u64) {
    match taken {
        Taken::Message(message, token) => (*message, token),
        other => {
            on.stash().lock().push_back(other);
            let args = sys::postbox_recv::default();
            (Message::new(Vec::new(), Vec::new(), &args), 0)
        }
    }
}

fn delivery(item: Item<Acknowledged>, on: &Arc<dyn Hold>) -> Delivery {
    match item {
        Item::Event(Event::Filled(filled)) => {
            let head = filled.record();
            Delivery::new(on, message(&filled, &head), head.token)
        }
        Item::Event(Event::Taken(taken)) => {
            let (message, token) = whole(taken, on);
            Delivery::new(on, message, token)
        }
        Item::Single(delivery) => delivery,
    }
}

fn request(item: Item<Asked>, on: &Arc<dyn Hold>) -> Request {
    match item {
        Item::Event(Event::Filled(filled)) => {
            let head = filled.record();
            Request::new(on, message(&filled, &head), head.token)
        }
        Item::Event(Event::Taken(taken)) => {
            let (message, token) = whole(taken, on);
            Request::new(on, message, token)
        }
        Item::Single(request) => request,
    }
}

impl Messages {
    pub(super) fn new(shared: &Arc<Shared>, on: Arc<dyn Hold>, buffers: &Buffers) -> Self {
        Messages(Stream::new(shared, on, buffers, sys::POSTBOX_RECV))
    }
}

impl Deliveries {
    pub(super) fn new(shared: &Arc<Shared>, on: Arc<dyn Hold>, buffers: &Buffers) -> Self {
        Deliveries(Stream::new(shared, on, buffers, sys::POSTBOX_RECV))
    }
}

impl Requests {
    pub(super) fn new(shared: &Arc<Shared>, on: Arc<dyn Hold>, buffers: &Buffers) -> Self {
        Requests(Stream::new(shared, on, buffers, sys::POSTBOX_RECV))
    }
}

/// Connections, as they come, by one command that goes on: [`Attached::links`](super::Attached::links).
///
/// Its errors: [`NoDescriptors`](ErrorKind::NoDescriptors): the connection goes on waiting, and the stream
/// can go on. [`Timeout`](ErrorKind::Timeout) where a time was set. After others it has ended: one of
/// them is [`OtherOwner`](ErrorKind::OtherOwner), where the buffers are of another driver.
///
/// When it is dropped, connections that it had accepted and not given out stay with the handle:
/// whoever accepts next with the same [`Attached`](super::Attached), or a clone of it, gets them.
#[derive(Debug)]
#[must_use = "nothing is accepted before it is asked for"]
pub struct Links(Stream<Plain>);

impl Links {
    pub(super) fn new(shared: &Arc<Shared>, on: Arc<dyn Hold>, buffers: &Buffers) -> Self {
        Links(Stream::new(shared, on, buffers, sys::POSTBOX_ACCEPT))
    }

    /// How long to wait for the first and for each next one, at most; to be set before the first. When
    /// the time is up there is an error [`Timeout`](ErrorKind::Timeout), and the stream can go on.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.0.idle(time);
        self
    }

    /// The next connection; `None`: there will be none.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped: who connects is given out by the next call.
    ///
    /// # Errors
    /// As of the stream: see there.
    pub async fn next(&mut self) -> Option<Result<Link>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next), for futures and streams of other kinds.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Link>>> {
        self.0
            .poll(cx, link)
            .map(|item| item.map(|link| link.and_then(|link| link)))
    }

    /// As [`next`](Self::next); the thread waits.
    pub fn wait_next(&mut self) -> Option<Result<Link>> {
        self.0.wait(link).map(|link| link.and_then(|link| link))
    }
}

fn link(item: Item<Plain>, on: &Arc<dyn Hold>) -> Result<Link> {
    let fd = match item {
        Item::Event(Event::Filled(filled)) => descriptor(&filled.record()),
        Item::Event(Event::Taken(Taken::Link(fd))) => Some(fd),
        _ => None,
    };
    let on = on.inner();
    match fd {
        Some(fd) => accepted(fd, on),
        None => Err(on.error(Action::Accept, Errno::BADF)),
    }
}

/// A message of [`Messages`]. It derefs to its payload, which is in a buffer of the group until this
/// is dropped: where it stays for longer, [`into_message`](Self::into_message) copies it.
#[non_exhaustive]
pub struct Record {
    /// The priority that it was sent with.
    pub priority: u32,
    /// Who sent it.
    pub sender: Identity,
    /// Whether it was taken before, by somebody who did not acknowledge it.
    pub redelivered: bool,
    /// Whether it was a request: its sender was told that nobody answers.
    pub call: bool,
    /// The files that came with it.
    pub files: Vec<OwnedFd>,
    /// Files came with it and are lost: nobody had the persistent mailbox open for a while.
    pub files_lost: bool,
    payload: Payload,
}

enum Payload {
    Buffer(Filled),
    Own(Vec<u8>),
}

impl Record {
    fn of(message: Message) -> Self {
        Record {
            priority: message.priority,
            sender: message.sender,
            redelivered: message.redelivered,
            call: message.call,
            files: message.files,
            files_lost: message.files_lost,
            payload: Payload::Own(message.payload),
        }
    }

    /// The message, in memory of its own.
    pub fn into_message(self) -> Message {
        let mut message = match self.payload {
            Payload::Own(payload) => {
                let args = sys::postbox_recv::default();
                Message::new(payload, Vec::new(), &args)
            }
            Payload::Buffer(filled) => message(&filled, &filled.record()),
        };
        message.priority = self.priority;
        message.sender = self.sender;
        message.redelivered = self.redelivered;
        message.call = self.call;
        message.files = self.files;
        message.files_lost = self.files_lost;
        message
    }
}

impl Deref for Record {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.payload {
            Payload::Buffer(filled) => filled.payload(),
            Payload::Own(payload) => payload,
        }
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("len", &self.len())
            .field("priority", &self.priority)
            .field("sender", &self.sender)
            .finish_non_exhaustive()
    }
}
