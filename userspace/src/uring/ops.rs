//! The operations: which command, with which memory, and what becomes of its result.

use super::buffers::FixedBuffer;
use super::core::Shared;
use super::error::{OTHER_OWNER, failed};
use super::sqe::{Command, File};
use super::task::{Args, Done, Hold, Idle, Next, Operation, Room, Stash, Taken};
use crate::error::{Action, Error, ErrorKind, Result, SendError};
use crate::handle::Handle;
use crate::link::{Link, end};
use crate::object::{Inner, Kind, Subject};
use crate::process::Home;
use crate::raw::ReceivedFd;
use crate::recv::{Message, is_call};
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The flags of how to wait, and the time.
pub(super) type How = (u32, u64);

const FILES: usize = sys::POSTBOX_FILES_MAX as usize;

fn size<T>() -> u32 {
    const { size_of::<T>() as u32 }
}

/// What is received by: a struct, the memory for the payload, and, once a message has some, for files.
struct Reception {
    room: Room,
    fds: Option<Args<[sys::postbox_fd; FILES]>>,
}

/// What becomes of a reception that failed.
enum Refusal {
    /// With more memory it is to be tried again.
    Grow,
    Failed(Errno),
}

impl Reception {
    fn new() -> Self {
        Reception {
            room: Room::default(),
            fds: None,
        }
    }

    /// Fills in the struct but for `flags` and `timeout_ns`.
    fn offer(
        &mut self,
        on: &Inner,
        least: usize,
        args: &mut sys::postbox_recv,
        idle: &Idle,
    ) -> Result<(), Errno> {
        let len = on.expected.load(Relaxed).max(least);
        self.room.make(len, idle)?;
        let (flags, timeout_ns) = (args.flags, args.timeout_ns);
        *args = sys::postbox_recv {
            size: size::<sys::postbox_recv>(),
            flags,
            data: self.room.as_mut_ptr() as u64,
            len: self.room.len() as u64,
            timeout_ns,
            ..Default::default()
        };
        if let Some(fds) = &self.fds {
            args.fds = fds.as_ptr() as u64;
            args.fd_max = sys::POSTBOX_FILES_MAX;
        }
        Ok(())
    }

    /// The message that came.
    fn message(&mut self, on: &Inner, args: &sys::postbox_recv, idle: &Idle) -> Message {
        let expected = self.room.len();
        // SAFETY: The kernel has received a message, of which it says the length.
        let mut payload = unsafe { self.room.filled(args.msg_len as usize, idle) };
        on.learn(expected, payload.len());
        payload.shrink_to_fit();
        let count = args.fd_count.min(args.fd_max) as usize;
        let fds = self.fds.as_ref().map(|fds| &fds.get(idle)[..count]);
        let files = fds.unwrap_or_default().iter().filter_map(|entry| {
            // SAFETY: The array began as no descriptors. The kernel has written those that it made for this message,
            // which is received once: the array is used for one message.
            let fd = unsafe { raw::own(entry.fd) }.ok()?;
            let rights = entry.rights;
            Some(ReceivedFd { fd, rights })
        });
        Message::new(payload, files.collect(), args)
    }

    fn refused(&mut self, on: &Inner, args: &sys::postbox_recv, errno: Errno) -> Refusal {
        if errno == Errno::MSGSIZE && args.msg_flags & sys::POSTBOX_MSG_LEASES == 0 {
            let more = args.fd_count > args.fd_max && self.fds.is_none();
            if more {
                let none = sys::postbox_fd {
                    fd: raw::NO_FD,
                    rights: 0,
                };
                self.fds = Some(Args::new([none; FILES]));
            }
            if args.msg_len > args.len {
                on.expect(args.msg_len);
                return Refusal::Grow;
            }
            if more {
                return Refusal::Grow;
            }
        }
        if errno == Errno::INTR {
            return Refusal::Grow;
        }
        Refusal::Failed(errno)
    }
}

/// Why a receive has failed for good.
fn not_received(on: &Inner, done: Done, errno: Errno, args: &sys::postbox_recv) -> Error {
    match errno {
        Errno::CANCELED => failed(on, Action::Receive, errno, done.cancelled),
        errno => on.refused(Action::Receive, errno, args),
    }
}

/// What a received message is made into.
pub(super) trait Want: Send + 'static {
    type Item: Send + 'static;
    const FLAGS: u32;
    /// Whether a message that another receive has taken out, with that token, is as good as one of its own.
    fn takes(_token: u64) -> bool {
        true
    }
    fn make(message: Message, token: u64, on: &Arc<dyn Hold>) -> Self::Item;
    /// Nobody wants it.
    fn unmake(item: Self::Item) -> Option<Taken>;
}

/// A message, whose sender is told that nobody answers.
pub(super) enum Plain {}

impl Want for Plain {
    type Item = Message;
    const FLAGS: u32 = 0;

    fn make(message: Message, token: u64, on: &Arc<dyn Hold>) -> Message {
        if message.call && token != 0 {
            on.inner().drop_request(token);
        }
        message
    }

    fn unmake(message: Message) -> Option<Taken> {
        Some(Taken::Message(Box::new(message), 0))
    }
}

/// One to be acknowledged.
pub(super) enum Acknowledged {}

impl Want for Acknowledged {
    type Item = Delivery;
    const FLAGS: u32 = sys::POSTBOX_RECV_ACK;

    /// Without a token it was received for good: it could not go back to the mailbox.
    fn takes(token: u64) -> bool {
        token != 0
    }

    fn make(message: Message, token: u64, on: &Arc<dyn Hold>) -> Delivery {
        Delivery {
            message,
            on: on.clone(),
            token,
            open: true,
            home: Home::here(),
        }
    }

    fn unmake(delivery: Delivery) -> Option<Taken> {
        // It goes back to the head.
        drop(delivery);
        None
    }
}

/// One to be answered.
pub(super) enum Asked {}

impl Want for Asked {
    type Item = Request;
    const FLAGS: u32 = 0;

    fn make(message: Message, token: u64, on: &Arc<dyn Hold>) -> Request {
        let token = if message.call { token } else { 0 };
        Request {
            message,
            debt: Debt {
                on: on.clone(),
                token,
                home: Home::here(),
            },
        }
    }

    fn unmake(request: Request) -> Option<Taken> {
        let Request { message, mut debt } = request;
        let token = std::mem::take(&mut debt.token);
        Some(Taken::Message(Box::new(message), token))
    }
}

/// Receives a message of whatever size.
pub(super) struct Recv<W> {
    on: Arc<dyn Hold>,
    how: How,
    least: usize,
    args: Args<sys::postbox_recv>,
    reception: Reception,
    want: std::marker::PhantomData<fn() -> W>,
}

impl<W: Want> Recv<W> {
    pub(super) fn new(on: Arc<dyn Hold>, how: How, least: usize) -> Self {
        Recv {
            on,
            how,
            least,
            args: Args::new(sys::postbox_recv::default()),
            reception: Reception::new(),
            want: std::marker::PhantomData,
        }
    }
}

impl<W: Want> Operation for Recv<W> {
    type Output = Result<W::Item>;
    // A message that it was handed went back.
    const RESTARTS: bool = true;

    fn command(&mut self, on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        let args = self.args.get_mut(idle);
        args.flags = self.how.0 | W::FLAGS;
        args.timeout_ns = self.how.1;
        self.reception.offer(on, self.least, args, idle)?;
        Ok(Command::new(sys::POSTBOX_RECV, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> Next<Self::Output> {
        let args = *self.args.get(idle);
        match done.result {
            Ok(_) => {
                let message = self.reception.message(on, &args, idle);
                Next::Done(Ok(W::make(message, args.token, &self.on)))
            }
            Err(errno) => match self.reception.refused(on, &args, errno) {
                Refusal::Grow => Next::Again,
                Refusal::Failed(errno) => Next::Done(Err(not_received(on, done, errno, &args))),
            },
        }
    }

    fn adopt(&mut self, taken: Taken, _: Option<&Idle>) -> Result<Self::Output, Taken> {
        match taken {
            Taken::Message(message, token) if W::takes(token) => {
                Ok(Ok(W::make(*message, token, &self.on)))
            }
            other => Err(other),
        }
    }

    fn disown(output: Self::Output) -> Vec<Taken> {
        let taken = output.ok().and_then(W::unmake);
        taken.into_iter().collect()
    }
}

/// Messages up to so many bytes are received into a share of one piece of memory.
const ARENA: usize = 64 * 1024;
const SHARE: usize = 256;

/// Receives the messages that are there, and waits for the first.
pub(super) struct RecvMany {
    how: How,
    limit: usize,
    share: usize,
    args: Args<sys::postbox_batch>,
    entries: Option<Args<Vec<sys::postbox_recv>>>,
    room: Room,
    /// A message that is received on its own: it has files.
    single: Option<Box<Recv<Plain>>>,
    on: Arc<dyn Hold>,
}

impl RecvMany {
    pub(super) fn new(on: Arc<dyn Hold>, how: How, limit: usize) -> Self {
        RecvMany {
            how,
            limit,
            share: 0,
            args: Args::new(sys::postbox_batch::default()),
            entries: None,
            room: Room::default(),
            single: None,
            on,
        }
    }
}

impl Operation for RecvMany {
    type Output = Result<Vec<Message>>;
    // The first message that it was handed went back.
    const RESTARTS: bool = true;

    fn command(&mut self, on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        if let Some(single) = &mut self.single {
            return single.command(on, idle);
        }
        let share = on.expected.load(Relaxed).max(SHARE);
        let count = self.limit.min(on.batch_max).min(ARENA / share).max(1);
        self.share = share;
        self.room
            .make(count.checked_mul(share).ok_or(Errno::NOMEM)?, idle)?;
        let data = self.room.as_mut_ptr() as u64;
        let entries = (0..count).map(|index| sys::postbox_recv {
            size: size::<sys::postbox_recv>(),
            data: data + (index * share) as u64,
            len: share as u64,
            ..Default::default()
        });
        let mut entries = Args::new(entries.collect::<Vec<_>>());
        *self.args.get_mut(idle) = sys::postbox_batch {
            size: size::<sys::postbox_batch>(),
            flags: self.how.0,
            entries: entries.get_mut(idle).as_mut_ptr() as u64,
            count: count as u32,
            entry_size: size::<sys::postbox_recv>(),
            timeout_ns: self.how.1,
        };
        self.entries = Some(entries);
        Ok(Command::new(sys::POSTBOX_RECV_BATCH, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> Next<Self::Output> {
        if let Some(single) = &mut self.single {
            return match single.complete(on, done, idle) {
                Next::Done(output) => Next::Done(output.map(|message| vec![message])),
                Next::Again => Next::Again,
                Next::Later => Next::Later,
            };
        }
        let Some(entries) = self.entries.take() else {
            let errno = done.result.err().unwrap_or(Errno::NOMEM);
            return Next::Done(Err(failed(on, Action::Receive, errno, done.cancelled)));
        };
        let entries = entries.get(idle);
        match done.result {
            Ok(count) => {
                let entries = &entries[..entries.len().min(count as usize)];
                let longest = entries.iter().map(|args| args.msg_len).max().unwrap_or(0);
                on.learn(self.share, longest as usize);
                let messages = entries.iter().enumerate().map(|(index, args)| {
                    let len = self.share.min(args.msg_len as usize);
                    // SAFETY: The kernel has filled the share of this entry so far.
                    let payload = unsafe { self.room.part(index * self.share, len, idle) };
                    let message = Message::new(payload.to_vec(), Vec::new(), args);
                    Plain::make(message, args.token, &self.on)
                });
                Next::Done(Ok(messages.collect()))
            }
            Err(errno) => {
                let first = entries.first().copied().unwrap_or_default();
                if errno == Errno::INTR {
                    return Next::Again;
                }
                if errno == Errno::MSGSIZE && first.msg_flags & sys::POSTBOX_MSG_LEASES == 0 {
                    if first.fd_count > 0 {
                        // Files have no room in a batch: such a message comes alone.
                        self.single = Some(Box::new(Recv::new(self.on.clone(), self.how, SHARE)));
                        return Next::Again;
                    }
                    if first.msg_len > first.len {
                        on.expect(first.msg_len);
                        return Next::Again;
                    }
                }
                Next::Done(Err(not_received(on, done, errno, &first)))
            }
        }
    }

    fn adopt(&mut self, taken: Taken, _: Option<&Idle>) -> Result<Self::Output, Taken> {
        match taken {
            Taken::Message(message, token) => Ok(Ok(vec![Plain::make(*message, token, &self.on)])),
            other => Err(other),
        }
    }

    fn disown(output: Self::Output) -> Vec<Taken> {
        let messages = output.unwrap_or_default().into_iter();
        messages.filter_map(Plain::unmake).collect()
    }
}

/// Memory that a payload is in, or comes into, without an argument struct.
pub(super) trait Place: Send + 'static {
    /// What the caller gets back.
    type Owned: Send + 'static;
    /// Whether bytes come into it.
    const TAKES: bool;
    fn as_mut_ptr(&mut self) -> *mut u8;
    fn len(&self) -> usize;
    /// So many bytes have come.
    ///
    /// # Safety
    /// The kernel has written them.
    unsafe fn filled(&mut self, len: usize);
    /// Puts bytes into it, of which there is room for so many.
    fn put(&mut self, from: &[u8]);
    /// The number of the registered buffer that it is in, if it is in one.
    fn registered(&self) -> Result<Option<u16>, Errno> {
        Ok(None)
    }
    fn into_owned(self) -> Self::Owned;
    fn bytes(owned: Self::Owned, len: usize) -> Vec<u8>;
}

/// What a receive or read is to fill: all of the vector's capacity.
pub(super) struct Empty(Vec<u8>);

impl Empty {
    pub(super) fn new(mut buf: Vec<u8>) -> Self {
        buf.clear();
        Empty(buf)
    }
}

impl Place for Empty {
    type Owned = Vec<u8>;
    const TAKES: bool = true;

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    fn len(&self) -> usize {
        self.0.capacity()
    }

    unsafe fn filled(&mut self, len: usize) {
        let len = len.min(self.0.capacity());
        // SAFETY: Within its capacity, and initialised, by the contract.
        unsafe { self.0.set_len(len) };
    }

    fn put(&mut self, from: &[u8]) {
        self.0.clear();
        self.0.extend_from_slice(from);
    }

    fn into_owned(self) -> Vec<u8> {
        self.0
    }

    fn bytes(owned: Vec<u8>, _: usize) -> Vec<u8> {
        owned
    }
}

/// What a send or write takes its bytes from.
pub(super) struct Full(pub(super) Vec<u8>);

impl Place for Full {
    type Owned = Vec<u8>;
    const TAKES: bool = false;

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    unsafe fn filled(&mut self, _: usize) {}

    fn put(&mut self, _: &[u8]) {}

    fn into_owned(self) -> Vec<u8> {
        self.0
    }

    fn bytes(owned: Vec<u8>, _: usize) -> Vec<u8> {
        owned
    }
}

/// The first bytes of a registered buffer.
pub(super) struct Registered<const TAKES: bool> {
    buffer: FixedBuffer,
    len: usize,
    /// It is registered with the ring that the command goes to.
    own: bool,
}

impl<const TAKES: bool> Registered<TAKES> {
    pub(super) fn new(shared: &Arc<Shared>, buffer: FixedBuffer, len: usize) -> Self {
        let len = len.min(buffer.len());
        let own = buffer.is_of(shared);
        Registered { buffer, len, own }
    }
}

impl<const IN: bool> Place for Registered<IN> {
    type Owned = FixedBuffer;
    const TAKES: bool = IN;

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.buffer.as_ptr()
    }

    fn len(&self) -> usize {
        self.len
    }

    unsafe fn filled(&mut self, _: usize) {}

    fn put(&mut self, from: &[u8]) {
        self.buffer[..from.len()].copy_from_slice(from);
    }

    fn registered(&self) -> Result<Option<u16>, Errno> {
        match self.own {
            true => Ok(Some(self.buffer.index())),
            false => Err(OTHER_OWNER),
        }
    }

    fn into_owned(self) -> FixedBuffer {
        self.buffer
    }

    fn bytes(owned: FixedBuffer, len: usize) -> Vec<u8> {
        owned[..len.min(owned.len())].to_vec()
    }
}

/// Moves bytes between an object and memory, and says nothing of a message but its bytes.
pub(super) struct Direct<P> {
    request: u32,
    action: Action,
    priority: u32,
    how: How,
    place: Option<P>,
    /// A message was too large: by how much?
    probe: Option<Args<sys::postbox_recv>>,
}

impl<P: Place> Direct<P> {
    pub(super) fn new(request: u32, place: P, priority: u32, how: How) -> Self {
        let action = match request {
            sys::POSTBOX_SEND => Action::Send,
            sys::POSTBOX_RECV => Action::Receive,
            sys::POSTBOX_READ => Action::Read,
            _ => Action::Write,
        };
        Direct {
            request,
            action,
            priority,
            how,
            place: Some(place),
            probe: None,
        }
    }
}

impl<P: Place> Operation for Direct<P> {
    type Output = (Result<usize>, P::Owned);
    // A message that is in, and a part that was written, is its result.
    const RESTARTS: bool = true;

    fn command(&mut self, _on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        let place = self.place.as_mut().ok_or(Errno::INVAL)?;
        let registered = place.registered()?;
        if let Some(probe) = &mut self.probe {
            *probe.get_mut(idle) = sys::postbox_recv {
                size: size::<sys::postbox_recv>(),
                flags: self.how.0,
                data: place.as_mut_ptr() as u64,
                len: place.len() as u64,
                timeout_ns: self.how.1,
                ..Default::default()
            };
            return Ok(Command::new(sys::POSTBOX_RECV, probe.as_ptr()));
        }
        let too_long = match self.request {
            sys::POSTBOX_SEND => Errno::MSGSIZE,
            _ => Errno::INVAL,
        };
        let len = u32::try_from(place.len()).map_err(|_| too_long)?;
        let mut command = Command::direct(self.request, place.as_mut_ptr(), len, self.how);
        command.uring.priority = u16::try_from(self.priority).map_err(|_| Errno::INVAL)?;
        command.buffer = registered;
        Ok(command)
    }

    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> Next<Self::Output> {
        let Some(mut place) = self.place.take() else {
            // It has given its memory away, which it does once.
            return Next::Again;
        };
        let probe = self.probe.as_ref().map(|probe| *probe.get(idle));
        let error = match done.result {
            Ok(moved) => {
                let len = match &probe {
                    Some(args) => {
                        if is_call(args) {
                            on.drop_request(args.token);
                        }
                        args.msg_len as usize
                    }
                    None if self.request == sys::POSTBOX_SEND => place.len(),
                    None => moved as usize,
                };
                let len = len.min(place.len());
                // SAFETY: So many the kernel says to have written, where it writes.
                unsafe { place.filled(len) };
                return Next::Done((Ok(len), place.into_owned()));
            }
            Err(Errno::INTR) => {
                self.place = Some(place);
                return Next::Again;
            }
            Err(errno) => errno,
        };
        let error = match (error, probe) {
            (Errno::MSGSIZE, None) if self.request == sys::POSTBOX_RECV => {
                self.place = Some(place);
                self.probe = Some(Args::new(sys::postbox_recv::default()));
                return Next::Again;
            }
            (Errno::MSGSIZE, Some(args)) => {
                let mut error = on.refused(Action::Receive, Errno::MSGSIZE, &args);
                if args.msg_len > args.len {
                    error.kind = ErrorKind::TooLarge {
                        len: args.msg_len,
                        limit: args.len,
                    };
                }
                error
            }
            (errno @ (Errno::CANCELED | OTHER_OWNER), _) => {
                failed(on, self.action, errno, done.cancelled)
            }
            (errno, _) if self.action == Action::Send => {
                on.send_error(Action::Send, errno, place.len())
            }
            (errno, _) => on.error(self.action, errno),
        };
        Next::Done((Err(error), place.into_owned()))
    }

    fn adopt(&mut self, taken: Taken, idle: Option<&Idle>) -> Result<Self::Output, Taken> {
        let room = self.place.as_ref().map_or(0, Place::len);
        let fits = match &taken {
            Taken::Bytes(bytes) => P::TAKES && bytes.len() <= room,
            Taken::Message(message, _) => {
                self.request == sys::POSTBOX_RECV && message.len() <= room
            }
            _ => false,
        };
        let own = self
            .place
            .as_ref()
            .is_some_and(|place| place.registered().is_ok());
        // The memory may be the kernel's.
        if !fits || !own || idle.is_none() {
            return Err(taken);
        }
        let Some(mut place) = self.place.take() else {
            return Err(taken);
        };
        let bytes = match &taken {
            Taken::Message(message, _) => &message.payload,
            Taken::Bytes(bytes) => bytes,
            _ => return Err(taken),
        };
        place.put(bytes);
        Ok((Ok(bytes.len()), place.into_owned()))
    }

    fn disown((result, owned): Self::Output) -> Vec<Taken> {
        match result {
            Ok(len) if P::TAKES => vec![Taken::Bytes(P::bytes(owned, len))],
            _ => Vec::new(),
        }
    }
}

/// Sends one message.
pub(super) struct SendOne {
    direct: Direct<Full>,
}

impl SendOne {
    pub(super) fn new(payload: Vec<u8>, priority: u32, how: How) -> Self {
        SendOne {
            direct: Direct::new(sys::POSTBOX_SEND, Full(payload), priority, how),
        }
    }
}

impl Operation for SendOne {
    type Output = Result<(), SendError<Vec<u8>>>;
    // A message that is in is its result.
    const RESTARTS: bool = true;

    fn command(&mut self, on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        self.direct.command(on, idle)
    }

    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> Next<Self::Output> {
        match self.direct.complete(on, done, idle) {
            Next::Again => Next::Again,
            Next::Later => Next::Later,
            Next::Done((Ok(_), _)) => Next::Done(Ok(())),
            Next::Done((Err(error), payload)) => Next::Done(Err(SendError { payload, error })),
        }
    }
}

/// Sends one message with files.
pub(super) struct SendFiles {
    how: How,
    priority: u32,
    payload: Vec<u8>,
    files: Vec<OwnedFd>,
    args: Args<sys::postbox_send>,
    fds: Args<Vec<sys::postbox_fd>>,
}

impl SendFiles {
    pub(super) fn new(payload: Vec<u8>, files: Vec<OwnedFd>, priority: u32, how: How) -> Self {
        let fds = files.iter().map(|file| sys::postbox_fd {
            fd: file.as_raw_fd(),
            rights: 0,
        });
        SendFiles {
            how,
            priority,
            payload,
            args: Args::new(sys::postbox_send::default()),
            fds: Args::new(fds.collect()),
            files,
        }
    }
}

impl Operation for SendFiles {
    type Output = Result<(), SendError<(Vec<u8>, Vec<OwnedFd>)>>;
    // A message that is in is its result.
    const RESTARTS: bool = true;

    fn command(&mut self, _on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        if self.files.len() > FILES {
            return Err(Errno::INVAL);
        }
        let fds = self.fds.get_mut(idle);
        *self.args.get_mut(idle) = sys::postbox_send {
            size: size::<sys::postbox_send>(),
            flags: self.how.0,
            data: self.payload.as_ptr() as u64,
            len: self.payload.len() as u64,
            timeout_ns: self.how.1,
            priority: self.priority,
            fd_count: fds.len() as u32,
            reserved_len: 0,
            fds: if fds.is_empty() {
                0
            } else {
                fds.as_ptr() as u64
            },
        };
        Ok(Command::new(sys::POSTBOX_SEND, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, _idle: &Idle) -> Next<Self::Output> {
        let errno = match done.result {
            Ok(_) => return Next::Done(Ok(())),
            Err(Errno::INTR) => return Next::Again,
            Err(errno) => errno,
        };
        let error = match errno {
            Errno::CANCELED => failed(on, Action::Send, errno, done.cancelled),
            Errno::INVAL if self.files.len() > FILES => {
                on.error_of_kind(Action::Send, ErrorKind::TooManyFiles)
            }
            errno => on.send_error(Action::Send, errno, self.payload.len()),
        };
        let payload = (
            std::mem::take(&mut self.payload),
            std::mem::take(&mut self.files),
        );
        Next::Done(Err(SendError { payload, error }))
    }
}

/// Sends many messages, in their order.
pub(super) struct SendMany {
    how: How,
    priority: u32,
    payloads: Vec<Vec<u8>>,
    sent: usize,
    args: Args<sys::postbox_batch>,
    entries: Args<Vec<sys::postbox_send>>,
}

impl SendMany {
    pub(super) fn new(payloads: Vec<Vec<u8>>, priority: u32, how: How) -> Self {
        SendMany {
            how,
            priority,
            payloads,
            sent: 0,
            args: Args::new(sys::postbox_batch::default()),
            entries: Args::new(Vec::new()),
        }
    }
}

impl Operation for SendMany {
    type Output = Result<(), SendError<Vec<Vec<u8>>>>;
    // The messages that are in are its result.
    const RESTARTS: bool = true;

    fn command(&mut self, on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        let priority = self.priority;
        let entries = self.entries.get_mut(idle);
        entries.clear();
        let rest = self.payloads[self.sent..].iter();
        entries.extend(
            rest.take(on.batch_max.max(1))
                .map(|payload| sys::postbox_send {
                    size: size::<sys::postbox_send>(),
                    data: payload.as_ptr() as u64,
                    len: payload.len() as u64,
                    priority,
                    ..Default::default()
                }),
        );
        *self.args.get_mut(idle) = sys::postbox_batch {
            size: size::<sys::postbox_batch>(),
            flags: self.how.0,
            entries: entries.as_mut_ptr() as u64,
            count: entries.len() as u32,
            entry_size: size::<sys::postbox_send>(),
            timeout_ns: self.how.1,
        };
        Ok(Command::new(sys::POSTBOX_SEND_BATCH, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, _idle: &Idle) -> Next<Self::Output> {
        let errno = match done.result {
            Ok(sent) => {
                self.sent = self.payloads.len().min(self.sent + sent as usize);
                if self.sent == self.payloads.len() {
                    return Next::Done(Ok(()));
                }
                return Next::Again;
            }
            Err(Errno::INTR) => return Next::Again,
            Err(errno) => errno,
        };
        let payload = self.payloads.split_off(self.sent);
        let error = match errno {
            Errno::CANCELED => failed(on, Action::Send, errno, done.cancelled),
            errno => on.send_error(Action::Send, errno, payload.first().map_or(0, Vec::len)),
        };
        Next::Done(Err(SendError { payload, error }))
    }
}

/// Sends a request and waits for its reply.
pub(super) struct Call {
    how: How,
    priority: u32,
    payload: Vec<u8>,
    least: usize,
    args: Args<sys::postbox_call>,
    reception: Reception,
    /// There is a reply that did not fit.
    fetch: bool,
}

impl Call {
    pub(super) fn new(payload: Vec<u8>, priority: u32, how: How, least: usize) -> Self {
        Call {
            how,
            priority,
            payload,
            least,
            args: Args::new(sys::postbox_call::default()),
            reception: Reception::new(),
            fetch: false,
        }
    }
}

impl Operation for Call {
    type Output = Result<Message>;
    // A server may have taken the request.
    const RESTARTS: bool = false;

    fn command(&mut self, on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        let args = self.args.get_mut(idle);
        args.size = size::<sys::postbox_call>();
        args.request = sys::postbox_send {
            size: size::<sys::postbox_send>(),
            ..Default::default()
        };
        let token = args.reply.token;
        args.reply.flags = 0;
        self.reception
            .offer(on, self.least, &mut args.reply, idle)?;
        if self.fetch {
            args.reply.flags = sys::POSTBOX_CALL_FETCH;
            args.reply.token = token;
        } else {
            args.request.flags = self.how.0;
            args.request.timeout_ns = self.how.1;
            args.request.priority = self.priority;
            args.request.data = self.payload.as_ptr() as u64;
            args.request.len = self.payload.len() as u64;
        }
        Ok(Command::new(sys::POSTBOX_CALL, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> Next<Self::Output> {
        let reply = self.args.get(idle).reply;
        let errno = match done.result {
            Ok(_) => return Next::Done(Ok(self.reception.message(on, &reply, idle))),
            Err(errno) => errno,
        };
        let came = errno == Errno::MSGSIZE && (reply.token != 0 || reply.msg_len > reply.len);
        if !came {
            let error = match errno {
                Errno::CANCELED => failed(on, Action::Call, errno, done.cancelled),
                errno => on.send_error(Action::Call, errno, self.payload.len()),
            };
            return Next::Done(Err(error));
        }
        if reply.token == 0 {
            // The handle has no room for one more that did not fit.
            on.expect(reply.msg_len);
            return Next::Done(Err(on.error(Action::Call, Errno::NODATA)));
        }
        match self.reception.refused(on, &reply, errno) {
            Refusal::Grow => {
                self.fetch = true;
                Next::Again
            }
            Refusal::Failed(errno) => Next::Done(Err(on.refused(Action::Call, errno, &reply))),
        }
    }

    fn insists(&self) -> bool {
        // Otherwise it would stay with the handle.
        self.fetch
    }
}

fn reply_args(payload: &[u8], token: u64) -> sys::postbox_reply {
    sys::postbox_reply {
        size: size::<sys::postbox_reply>(),
        data: if payload.is_empty() {
            0
        } else {
            payload.as_ptr() as u64
        },
        len: payload.len() as u64,
        token,
        ..Default::default()
    }
}

/// A reply that was not sent, or after which nothing was received.
#[derive(Debug)]
#[non_exhaustive]
pub struct ReplyError {
    /// Why.
    pub error: Error,
    /// The request. Where it [is open](Request::is_open), it can still be answered.
    pub request: Box<Request>,
    /// What was to be the reply.
    pub payload: Vec<u8>,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ReplyError {}

impl From<ReplyError> for Error {
    fn from(error: ReplyError) -> Self {
        error.error
    }
}

impl From<ReplyError> for std::io::Error {
    fn from(error: ReplyError) -> Self {
        error.error.into()
    }
}

/// Answers a request.
pub(super) struct Reply {
    payload: Vec<u8>,
    request: Option<Request>,
    args: Args<sys::postbox_reply>,
}

impl Reply {
    pub(super) fn new(request: Request, payload: Vec<u8>) -> Self {
        Reply {
            payload,
            request: Some(request),
            args: Args::new(sys::postbox_reply::default()),
        }
    }
}

impl Operation for Reply {
    type Output = Result<(), ReplyError>;
    // It never waits: it was cancelled before it began.
    const RESTARTS: bool = true;

    fn command(&mut self, on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        let debt = self.request.as_ref().map(|request| &request.debt);
        let token = debt.map_or(Ok(0), |debt| debt.token_for(on))?;
        if token == 0 {
            return Err(Errno::NOENT);
        }
        *self.args.get_mut(idle) = reply_args(&self.payload, token);
        Ok(Command::new(sys::POSTBOX_REPLY, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, _idle: &Idle) -> Next<Self::Output> {
        if done.result == Err(Errno::INTR) {
            return Next::Again;
        }
        let Some(mut request) = self.request.take() else {
            return Next::Done(Ok(()));
        };
        let errno = match done.result {
            Ok(_) => {
                request.debt.token = 0;
                return Next::Done(Ok(()));
            }
            Err(errno) => errno,
        };
        if errno == Errno::STALE {
            request.debt.token = 0;
        }
        let payload = std::mem::take(&mut self.payload);
        let error = match errno {
            Errno::CANCELED | OTHER_OWNER => failed(on, Action::Reply, errno, done.cancelled),
            errno => on.send_error(Action::Reply, errno, payload.len()),
        };
        Next::Done(Err(ReplyError {
            error,
            request: Box::new(request),
            payload,
        }))
    }
}

/// Answers a request and receives the next.
pub(super) struct ReplyRecv {
    on: Arc<dyn Hold>,
    how: How,
    least: usize,
    payload: Vec<u8>,
    request: Option<Request>,
    /// The struct says whether the reply was sent.
    begun: bool,
    args: Args<sys::postbox_reply_recv>,
    reception: Reception,
}

impl ReplyRecv {
    pub(super) fn new(
        on: Arc<dyn Hold>,
        request: Request,
        payload: Vec<u8>,
        how: How,
        least: usize,
    ) -> Self {
        ReplyRecv {
            on,
            how,
            least,
            payload,
            request: Some(request),
            begun: false,
            args: Args::new(sys::postbox_reply_recv::default()),
            reception: Reception::new(),
        }
    }

    fn debt(&self) -> Option<&Debt> {
        self.request.as_ref().map(|request| &request.debt)
    }

    fn token(&self) -> u64 {
        self.debt().map_or(0, |debt| debt.token)
    }

    /// What was sent is not sent again.
    fn settle(&mut self, idle: &Idle) {
        let sent = self.begun && self.args.get(idle).reply.token == 0;
        if let Some(request) = self.request.as_mut().filter(|_| sent) {
            request.debt.token = 0;
        }
    }
}

impl Operation for ReplyRecv {
    type Output = Result<Request, ReplyError>;
    // The struct says whether the reply was sent, which then is not sent again.
    const RESTARTS: bool = true;

    fn command(&mut self, on: &Inner, idle: &Idle) -> Result<Command, Errno> {
        self.settle(idle);
        let token = self.debt().map_or(Ok(0), |debt| debt.token_for(on))?;
        // With nothing to answer there are no bytes either.
        let payload = if token == 0 { &[] } else { &self.payload[..] };
        let args = self.args.get_mut(idle);
        args.size = size::<sys::postbox_reply_recv>();
        args.reply = reply_args(payload, token);
        args.recv.flags = self.how.0;
        args.recv.timeout_ns = self.how.1;
        self.reception.offer(on, self.least, &mut args.recv, idle)?;
        self.begun = true;
        Ok(Command::new(sys::POSTBOX_REPLY_RECV, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> Next<Self::Output> {
        self.settle(idle);
        let sent = self.token() == 0;
        let recv = self.args.get(idle).recv;
        let error = match done.result {
            Ok(_) => {
                let message = self.reception.message(on, &recv, idle);
                if let Some(request) = &mut self.request {
                    request.debt.token = 0;
                }
                return Next::Done(Ok(Asked::make(message, recv.token, &self.on)));
            }
            Err(errno) if sent => match self.reception.refused(on, &recv, errno) {
                Refusal::Grow => return Next::Again,
                Refusal::Failed(errno) => not_received(on, done, errno, &recv),
            },
            Err(Errno::INTR) => return Next::Again,
            Err(errno @ (Errno::CANCELED | OTHER_OWNER)) => {
                failed(on, Action::Reply, errno, done.cancelled)
            }
            Err(errno) => {
                if let Some(request) = self.request.as_mut().filter(|_| errno == Errno::STALE) {
                    request.debt.token = 0;
                }
                on.send_error(Action::Reply, errno, self.payload.len())
            }
        };
        let payload = std::mem::take(&mut self.payload);
        match self.request.take() {
            Some(request) => Next::Done(Err(ReplyError {
                error,
                request: Box::new(request),
                payload,
            })),
            None => Next::Again,
        }
    }

    fn adopt(&mut self, taken: Taken, idle: Option<&Idle>) -> Result<Self::Output, Taken> {
        // The reply has to be sent all the same, which is a call here.
        let Taken::Message(message, token) = taken else {
            return Err(taken);
        };
        let owed = self
            .debt()
            .map_or(Ok(0), |debt| debt.token_for(self.on.inner()));
        let Ok(owed) = owed else {
            return Err(Taken::Message(message, token));
        };
        let args = sys::postbox_reply {
            token: owed,
            ..Default::default()
        };
        let fd = &self.on.inner().fd;
        if idle.is_none() || owed != 0 && raw::reply(fd, &self.payload, &[], &args).is_err() {
            return Err(Taken::Message(message, token));
        }
        if let Some(request) = &mut self.request {
            request.debt.token = 0;
        }
        Ok(Ok(Asked::make(*message, token, &self.on)))
    }

    fn disown(output: Self::Output) -> Vec<Taken> {
        output.ok().and_then(Asked::unmake).into_iter().collect()
    }
}

/// A request whose argument struct has no pointers, or only to what goes with it.
pub(super) trait Asking: Send + 'static {
    type Args: Send + 'static;
    type Output: Send + 'static;
    const REQUEST: u32;
    const ACTION: Action;
    fn done(&self, result: u32, args: &Self::Args, on: &Arc<dyn Hold>) -> Result<Self::Output>;
    fn adopt(&self, taken: Taken, _on: &Arc<dyn Hold>) -> Result<Result<Self::Output>, Taken> {
        Err(taken)
    }
    /// An error that may go away: whether to try again later, or which error it is.
    fn retry(&self, errno: Errno) -> Result<(), Errno> {
        Err(errno)
    }
    /// Nobody wants it; dropping it undoes what can be undone.
    fn disown(output: Self::Output) -> Option<Taken> {
        drop(output);
        None
    }
}

pub(super) struct Ask<Q: Asking> {
    on: Arc<dyn Hold>,
    asking: Q,
    args: Args<Q::Args>,
}

impl<Q: Asking> Ask<Q> {
    pub(super) fn new(on: Arc<dyn Hold>, asking: Q, args: Q::Args) -> Self {
        Ask {
            on,
            asking,
            args: Args::new(args),
        }
    }
}

impl<Q: Asking> Operation for Ask<Q> {
    type Output = Result<Q::Output>;
    // What it was given went back; a gate or a barrier that let it pass is its result; what never waits had not begun.
    const RESTARTS: bool = true;

    fn command(&mut self, _on: &Inner, _idle: &Idle) -> Result<Command, Errno> {
        Ok(Command::new(Q::REQUEST, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, idle: &Idle) -> Next<Self::Output> {
        match done.result {
            Ok(result) => {
                let args = self.args.get(idle);
                Next::Done(self.asking.done(result, args, &self.on))
            }
            Err(Errno::INTR) => Next::Again,
            Err(errno) => match self.asking.retry(errno) {
                Ok(()) => Next::Later,
                Err(errno) => Next::Done(Err(failed(on, Q::ACTION, errno, done.cancelled))),
            },
        }
    }

    fn adopt(&mut self, taken: Taken, _: Option<&Idle>) -> Result<Self::Output, Taken> {
        self.asking.adopt(taken, &self.on)
    }

    fn disown(output: Self::Output) -> Vec<Taken> {
        output.ok().and_then(Q::disown).into_iter().collect()
    }
}

/// Requests that say nothing but that they are done.
macro_rules! asking {
    ($($name:ident: $request:ident, $args:ident, $action:ident;)*) => {$(
        pub(super) struct $name;

        impl Asking for $name {
            type Args = sys::$args;
            type Output = ();
            const REQUEST: u32 = sys::$request;
            const ACTION: Action = Action::$action;

            fn done(&self, _: u32, _: &sys::$args, _: &Arc<dyn Hold>) -> Result<()> {
                Ok(())
            }
        }
    )*};
}

asking! {
    WaitPeer: POSTBOX_WAIT_PEER, postbox_wait_peer, WaitPeer;
    RingWait: POSTBOX_RING_WAIT, postbox_ring, Wait;
    Release: POSTBOX_RELEASE, postbox_sync, Release;
    CountDown: POSTBOX_COUNT_DOWN, postbox_sync, CountDown;
    LatchWait: POSTBOX_WAIT, postbox_sync, Wait;
}

pub(super) fn sync_args((flags, timeout_ns): How, count: u64) -> sys::postbox_sync {
    sys::postbox_sync {
        size: size::<sys::postbox_sync>(),
        flags,
        count,
        timeout_ns,
        ..Default::default()
    }
}

pub(super) fn wait_peer_args((flags, timeout_ns): How) -> sys::postbox_wait_peer {
    sys::postbox_wait_peer {
        size: size::<sys::postbox_wait_peer>(),
        flags,
        timeout_ns,
    }
}

pub(super) fn ring_args(side: u32, (flags, timeout_ns): How) -> sys::postbox_ring {
    sys::postbox_ring {
        size: size::<sys::postbox_ring>(),
        flags: side | flags,
        timeout_ns,
    }
}

/// Waits at a barrier.
pub(super) struct BarrierWait;

impl Asking for BarrierWait {
    type Args = sys::postbox_sync;
    type Output = crate::BarrierWaitResult;
    const REQUEST: u32 = sys::POSTBOX_WAIT;
    const ACTION: Action = Action::Wait;

    fn done(
        &self,
        _: u32,
        args: &sys::postbox_sync,
        _: &Arc<dyn Hold>,
    ) -> Result<crate::BarrierWaitResult> {
        Ok(crate::BarrierWaitResult {
            leader: args.state & sys::POSTBOX_SYNC_LEADER != 0,
        })
    }
}

/// Takes from a semaphore.
pub(super) struct Acquire;

impl Asking for Acquire {
    type Args = sys::postbox_sync;
    type Output = Acquired;
    const REQUEST: u32 = sys::POSTBOX_ACQUIRE;
    const ACTION: Action = Action::Acquire;

    fn done(&self, _: u32, args: &sys::postbox_sync, on: &Arc<dyn Hold>) -> Result<Acquired> {
        Ok(Acquired {
            on: on.clone(),
            count: args.count,
            owner_died: args.state & sys::POSTBOX_SYNC_OWNER_DIED != 0,
        })
    }
}

/// What was acquired from a semaphore. It is released when this is dropped, or when the process dies.
#[must_use = "what was acquired is released at once"]
pub struct Acquired {
    on: Arc<dyn Hold>,
    count: u64,
    owner_died: bool,
}

impl Acquired {
    /// Whether some of it was given back by the kernel because a process died that had it: what it
    /// guards may be half done. It is said once.
    pub fn owner_died(&self) -> bool {
        self.owner_died
    }

    /// How many were acquired.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Keeps it until this process dies, or closes its last descriptor of the semaphore's handle.
    pub fn forget(mut self) {
        self.count = 0;
    }
}

impl Drop for Acquired {
    fn drop(&mut self) {
        if self.count > 0 {
            let args = sync_args((sys::POSTBOX_SYNC_UNDO, 0), self.count);
            // It fails where others have posted what was never taken.
            let _ = raw::release(&self.on.inner().fd, &args);
        }
    }
}

impl fmt::Debug for Acquired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acquired")
            .field("count", &self.count)
            .field("owner_died", &self.owner_died)
            .finish()
    }
}

/// Gets room for one message.
pub(super) struct Reserve;

pub(super) fn reserve_args(len: u64, (flags, timeout_ns): How) -> sys::postbox_reserve {
    sys::postbox_reserve {
        size: size::<sys::postbox_reserve>(),
        flags,
        len,
        timeout_ns,
    }
}

impl Asking for Reserve {
    type Args = sys::postbox_reserve;
    type Output = Reserved;
    const REQUEST: u32 = sys::POSTBOX_RESERVE;
    const ACTION: Action = Action::Reserve;

    fn done(&self, _: u32, args: &sys::postbox_reserve, on: &Arc<dyn Hold>) -> Result<Reserved> {
        Ok(Reserved {
            on: on.clone(),
            len: Some(args.len),
            home: Home::here(),
        })
    }
}

/// Room for one message. Dropping it gives the room back.
#[must_use = "dropping it gives the room back"]
pub struct Reserved {
    on: Arc<dyn Hold>,
    len: Option<u64>,
    home: Home,
}

impl Reserved {
    /// Sends a message of at most the reserved length. It never waits, and needs no driver.
    ///
    /// # Errors
    /// [`Disconnected`](ErrorKind::Disconnected), [`TooLarge`](ErrorKind::TooLarge) (more than was
    /// reserved), [`Quota`](ErrorKind::Quota); the room is given back.
    pub fn send<T: AsRef<[u8]>>(mut self, payload: T, priority: u32) -> Result<(), SendError<T>> {
        let reserved_len = self.len.unwrap_or(0);
        let args = sys::postbox_send {
            flags: sys::POSTBOX_SEND_RESERVED,
            priority,
            reserved_len,
            ..Default::default()
        };
        let on = self.on.inner();
        let len = payload.as_ref().len();
        let sent = if len as u64 > reserved_len {
            let kind = ErrorKind::TooLarge {
                len: len as u64,
                limit: reserved_len,
            };
            Err(on.error_of_kind(Action::SendReserved, kind))
        } else {
            raw::send(&on.fd, payload.as_ref(), &args)
                .map_err(|errno| on.send_error(Action::SendReserved, errno, len))
        };
        match sent {
            Ok(()) => {
                // The message has used the room up.
                self.len = None;
                Ok(())
            }
            Err(error) => Err(SendError { payload, error }),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // What a fork has copied is the parent's to give back.
        if let Some(len) = self.len.filter(|_| self.home.is_here()) {
            let args = reserve_args(len, (sys::POSTBOX_RESERVE_CANCEL, 0));
            // It cannot fail: this handle has the reservation, and nobody else can use it up.
            let _ = raw::reserve(&self.on.inner().fd, &args);
        }
    }
}

impl fmt::Debug for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reserved").field("len", &self.len).finish()
    }
}

/// Takes a connection.
pub(super) struct Accept;

pub(super) fn accept_args((flags, timeout_ns): How) -> sys::postbox_accept {
    sys::postbox_accept {
        size: size::<sys::postbox_accept>(),
        flags,
        timeout_ns,
        ..Default::default()
    }
}

/// A link of its descriptor.
pub(super) fn accepted(fd: OwnedFd, on: &Inner) -> Result<Link> {
    let subject = Subject {
        kind: Kind::Link,
        ..on.subject.clone()
    };
    end(fd, subject, on.batch_max)
}

impl Asking for Accept {
    type Args = sys::postbox_accept;
    type Output = Link;
    const REQUEST: u32 = sys::POSTBOX_ACCEPT;
    const ACTION: Action = Action::Accept;

    fn done(&self, result: u32, _: &sys::postbox_accept, on: &Arc<dyn Hold>) -> Result<Link> {
        // SAFETY: The kernel made this descriptor for us, and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(result.cast_signed()) };
        accepted(fd, on.inner())
    }

    fn adopt(&self, taken: Taken, on: &Arc<dyn Hold>) -> Result<Result<Link>, Taken> {
        match taken {
            Taken::Link(fd) => Ok(accepted(fd, on.inner())),
            other => Err(other),
        }
    }

    fn disown(link: Link) -> Option<Taken> {
        Some(Taken::Link(link.into()))
    }
}

/// Connects. The handle is one that is not bound yet. The kernel does not wait for room among the
/// connections; so it is asked again.
pub(super) struct Connect {
    /// What the struct points to.
    name: Vec<u8>,
    wait: Wait,
}

impl Connect {
    pub(super) fn new(name: &str, wait: Wait) -> Self {
        Connect {
            name: name.as_bytes().to_vec(),
            wait: wait.fixed(),
        }
    }

    pub(super) fn args(&self, port: u16) -> sys::postbox_connect {
        let flags = sys::POSTBOX_NONBLOCK;
        let flag = if port == 0 {
            0
        } else {
            sys::POSTBOX_CONNECT_PORT
        };
        sys::postbox_connect {
            size: size::<sys::postbox_connect>(),
            flags: flags | flag,
            name: if port == 0 {
                self.name.as_ptr() as u64
            } else {
                0
            },
            name_len: u32::try_from(self.name.len()).unwrap_or(u32::MAX),
            number: port.into(),
            timeout_ns: 0,
            id: 0,
        }
    }
}

impl Asking for Connect {
    type Args = sys::postbox_connect;
    type Output = Link;
    const REQUEST: u32 = sys::POSTBOX_CONNECT;
    const ACTION: Action = Action::Connect;

    fn retry(&self, errno: Errno) -> Result<(), Errno> {
        match self.wait {
            Wait::Never => Err(errno),
            _ if errno != Errno::AGAIN => Err(errno),
            wait if wait.left() == Some(Duration::ZERO) => Err(Errno::TIMEDOUT),
            _ => Ok(()),
        }
    }

    fn done(&self, _: u32, _: &sys::postbox_connect, on: &Arc<dyn Hold>) -> Result<Link> {
        let on = on.inner();
        // The driver has the descriptor until it has done with the operation.
        let fd = rustix::io::fcntl_dupfd_cloexec(&on.fd, 0)
            .map_err(|errno| on.error(Action::Connect, errno))?;
        accepted(fd, on)
    }
}

/// Settles a message.
pub(super) struct Settle {
    delivery: Option<Delivery>,
    args: Args<sys::postbox_ack>,
}

impl Settle {
    pub(super) fn new(delivery: Delivery) -> Self {
        let args = sys::postbox_ack {
            size: size::<sys::postbox_ack>(),
            flags: 0,
            token: delivery.token,
        };
        Settle {
            delivery: Some(delivery),
            args: Args::new(args),
        }
    }
}

impl Operation for Settle {
    type Output = Result<Message>;
    // It never waits: it was cancelled before it began.
    const RESTARTS: bool = true;

    fn command(&mut self, on: &Inner, _idle: &Idle) -> Result<Command, Errno> {
        let own = |delivery: &Delivery| std::ptr::eq(delivery.on.inner(), on);
        if !self.delivery.as_ref().is_none_or(own) {
            return Err(OTHER_OWNER);
        }
        if self.delivery.as_ref().is_none_or(Delivery::is_done) {
            // There is nothing for the kernel to do.
            return Err(Errno::NOENT);
        }
        Ok(Command::new(sys::POSTBOX_ACK, self.args.as_ptr()))
    }

    fn complete(&mut self, on: &Inner, done: Done, _idle: &Idle) -> Next<Self::Output> {
        if done.result == Err(Errno::INTR) {
            return Next::Again;
        }
        let Some(mut delivery) = self.delivery.take() else {
            return Next::Again;
        };
        if delivery.is_done() && done.result != Err(OTHER_OWNER) {
            return Next::Done(delivery.ack());
        }
        match done.result {
            Ok(_) => {
                delivery.open = false;
                Next::Done(Ok(delivery.into_message()))
            }
            Err(errno) => Next::Done(Err(failed(on, Action::Settle, errno, done.cancelled))),
        }
    }
}

/// A message that was taken and is to be settled. It derefs to the message.
///
/// As [`crate::Delivery`], but it has a reference to its handle. Dropping it, and the end of the
/// process, put the message back to the head of its priority, marked as redelivered. In a child made by
/// `fork` it is the parent's: dropping it there does nothing. So it is with [`Request`] and [`Reserved`].
#[must_use = "dropping it puts the message back"]
pub struct Delivery {
    message: Message,
    on: Arc<dyn Hold>,
    token: u64,
    /// It is to be settled.
    open: bool,
    home: Home,
}

impl Delivery {
    pub(super) fn new(on: &Arc<dyn Hold>, message: Message, token: u64) -> Self {
        Acknowledged::make(message, token, on)
    }

    /// The message is done with. Returns it. This is a call that never waits;
    /// [`Attached::ack`](super::Attached::ack) is the operation.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): it is not this process's to settle any more.
    pub fn ack(mut self) -> Result<Message> {
        self.settle(0)?;
        Ok(self.into_message())
    }

    /// The message is not done: back to the head with it.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn requeue(mut self) -> Result<()> {
        self.settle(sys::POSTBOX_ACK_REQUEUE)
    }

    /// Whether the kernel has nothing to acknowledge.
    fn is_done(&self) -> bool {
        self.message.call
    }

    fn into_message(mut self) -> Message {
        self.open = false;
        self.take_message()
    }

    fn take_message(&mut self) -> Message {
        let none = Message::new(Vec::new(), Vec::new(), &sys::postbox_recv::default());
        std::mem::replace(&mut self.message, none)
    }

    fn settle(&mut self, flags: u32) -> Result<()> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        if self.message.call {
            // It is not acknowledged but answered, which nobody does.
            self.on.inner().drop_request(self.token);
            return Ok(());
        }
        let on = self.on.inner();
        raw::ack(&on.fd, self.token, flags).map_err(|errno| on.error(Action::Settle, errno))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // What a fork has copied is the parent's to settle.
        if self.home.is_here() {
            // If it is not ours any more, it has gone back already.
            let _ = self.settle(sys::POSTBOX_ACK_REQUEUE);
        }
    }
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("token", &self.token)
            .field("message", &self.message)
            .finish()
    }
}

/// A received request, to be answered: by [`Attached::reply`](super::Attached::reply) or
/// [`reply_recv`](super::Attached::reply_recv). It derefs to its message.
///
/// As [`crate::Request`], but it has a reference to its handle. Dropping it, and the end of the
/// process, tell the caller that there will be no reply. A message that nobody waits for is one of
/// these, too: see [`is_open`](Self::is_open).
#[must_use = "dropping it tells the caller that there will be no reply"]
pub struct Request {
    message: Message,
    debt: Debt,
}

/// The duty to answer.
struct Debt {
    on: Arc<dyn Hold>,
    /// 0: there is nothing to answer (any more).
    token: u64,
    home: Home,
}

impl Debt {
    /// The token, for a command to that handle: tokens of another one mean other requests there.
    fn token_for(&self, on: &Inner) -> Result<u64, Errno> {
        let own = self.token == 0 || std::ptr::eq(self.on.inner(), on);
        own.then_some(self.token).ok_or(OTHER_OWNER)
    }
}

impl Request {
    pub(super) fn new(on: &Arc<dyn Hold>, message: Message, token: u64) -> Self {
        Asked::make(message, token, on)
    }

    /// Whether a reply is owed: it is a request, and it has not been answered yet.
    pub fn is_open(&self) -> bool {
        self.debt.token != 0
    }

    /// Whether the caller still waits; work for one that has given up can be saved.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): nothing [is open](Self::is_open).
    pub fn caller_waits(&self) -> Result<bool> {
        let on = self.debt.on.inner();
        let args = sys::postbox_reply {
            flags: sys::POSTBOX_REPLY_CHECK,
            token: self.debt.token,
            ..Default::default()
        };
        let checked = match self.debt.token {
            0 => Err(Errno::NOENT),
            _ => raw::reply(&on.fd, &[], &[], &args),
        };
        match checked {
            Ok(()) => Ok(true),
            Err(Errno::STALE) => Ok(false),
            Err(errno) => Err(on.error(Action::Reply, errno)),
        }
    }

    /// Answers at once, by a call that never waits.
    ///
    /// # Errors
    /// As of [`crate::Request::reply`].
    pub fn reply_now(mut self, payload: impl Into<Vec<u8>>) -> Result<(), ReplyError> {
        let payload = payload.into();
        let on = self.debt.on.inner();
        let args = sys::postbox_reply {
            token: self.debt.token,
            ..Default::default()
        };
        let replied = match self.debt.token {
            0 => Err(Errno::NOENT),
            _ => raw::reply(&on.fd, &payload, &[], &args),
        };
        let Err(errno) = replied else {
            self.debt.token = 0;
            return Ok(());
        };
        let error = on.send_error(Action::Reply, errno, payload.len());
        if errno == Errno::STALE {
            self.debt.token = 0;
        }
        Err(ReplyError {
            error,
            request: Box::new(self),
            payload,
        })
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        // What a fork has copied is the parent's to answer.
        if self.token != 0 && self.home.is_here() {
            self.on.inner().drop_request(self.token);
        }
    }
}

impl Deref for Request {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

/// So that the files can be taken out.
impl DerefMut for Request {
    fn deref_mut(&mut self) -> &mut Message {
        &mut self.message
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("open", &self.is_open())
            .field("message", &self.message)
            .finish()
    }
}

/// A handle of the library that the driver has.
pub(super) struct Target<A> {
    pub(super) handle: Handle<A>,
    pub(super) fixed: Option<super::buffers::FixedFile>,
    pub(super) stash: Stash,
}

impl<A: crate::Access> Hold for Target<A> {
    fn inner(&self) -> &Inner {
        &self.handle.inner
    }

    fn file(&self) -> File<'_> {
        match &self.fixed {
            Some(fixed) => File::Fixed(fixed.index),
            None => File::Fd(self.handle.as_fd()),
        }
    }

    fn stash(&self) -> &Stash {
        &self.stash
    }
}

/// A descriptor that the driver has.
pub(super) struct Raw {
    pub(super) inner: Inner,
    pub(super) stash: Stash,
}

impl Hold for Raw {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    fn file(&self) -> File<'_> {
        File::Fd(self.inner.fd.as_fd())
    }

    fn stash(&self) -> &Stash {
        &self.stash
    }
}

/// Bytes of memory for a message of a handle of which none is known yet.
pub(super) fn least(shared: &Shared) -> usize {
    shared.settings.room
}
