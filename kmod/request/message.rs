// SPDX-License-Identifier: GPL-2.0
//! Messages, calls and replies.

use super::{
    address, ensure,
    pool::{gone, with_leases, Leasing},
    with, Args, Place,
};
use crate::{
    compat::{edquot, eiocbqueued, enodata},
    files::{Files, Installed},
    handle::Handle,
    helpers::{self, limits, Process, UserBytes},
    mailbox::{self, replied, sent, Failure, Mailbox, Origin, Receive, UNSETTLED_MAX},
    message::{Author, Message, Needs},
    pause::{erestartnointr, Caller, Pause},
    pool::Outgoing,
    uapi,
    wait::{How, Wait, Wake},
};
use core::{mem::offset_of, ptr::NonNull};
use kernel::prelude::*;

/// The most entries of a batch: what one call does before it looks at signals again.
pub(crate) const BATCH_MAX: u32 = 1024;

/// Where the fields begin that a receive gives back.
const OUT: usize = offset_of!(uapi::postbox_recv, msg_len);

/// What a message is made of.
struct Content {
    priority: u32,
    data: u64,
    len: u64,
    fds: u64,
    fd_count: u32,
}

impl Content {
    fn of(args: &uapi::postbox_send) -> Self {
        Self {
            priority: args.priority,
            data: args.data,
            len: args.len,
            fds: args.fds,
            fd_count: args.fd_count,
        }
    }

    fn of_reply(args: &uapi::postbox_reply) -> Self {
        Self {
            priority: 0,
            data: args.data,
            len: args.len,
            fds: args.fds,
            fd_count: args.fd_count,
        }
    }

    /// The same with leases: `fds` is what they say.
    fn leased(self, leasing: &Leasing<'_>) -> Self {
        Self {
            fds: leasing.args.fds,
            ..self
        }
    }

    /// Makes the message, in memory of `mailbox`. `queued`: it goes into that mailbox's queue.
    #[inline]
    fn compose(
        &self,
        handle: &Handle,
        mailbox: &Mailbox,
        queued: bool,
        leases: Option<&Outgoing<'_>>,
    ) -> Result<KBox<Message>> {
        ensure(self.priority <= uapi::POSTBOX_PRIORITY_MAX)?;
        let max = if queued {
            mailbox.message_max()
        } else {
            u64::MAX
        };
        if self.len > max || self.len > limits::message() {
            return Err(EMSGSIZE);
        }
        let mut payload = UserBytes::at(address(self.data)?);
        let mut message = mailbox.message()?;
        let len = self.len as usize;
        if queued {
            let priority = self.priority as u16;
            message.fill(Author::Caller, priority, len, handle, &mut payload)?;
        } else {
            message.fill_answer(len, &mut payload)?;
        }
        if self.fd_count != 0 || leases.is_some() {
            let queue = queued.then_some(mailbox);
            let files = Files::take(handle, queue, self.fds, self.fd_count)?;
            message.attach(files, leases)?;
        }
        Ok(message)
    }
}

/// Sends one message, whose flags were checked.
#[inline]
fn send_one(handle: &Handle, args: &uapi::postbox_send, wait: &Wait<'_>) -> Result {
    if args.flags & uapi::POSTBOX_LEASES != 0 {
        return send_leases(handle, args, wait);
    }
    send_content(handle, args, wait, &Content::of(args), None)
}

#[inline(never)]
fn send_leases(handle: &Handle, args: &uapi::postbox_send, wait: &Wait<'_>) -> Result {
    with_leases(args.fds, |leasing| {
        let leases = leasing.outgoing()?;
        let content = Content::of(args).leased(leasing);
        if let Wait::Parks(issue) = wait {
            let mailbox = handle.tx()?;
            let message = content.compose(handle, mailbox, true, Some(&leases))?;
            issue.take_along(leases.keep(leasing.pool));
            return pass(handle, args, wait, mailbox, message);
        }
        send_content(handle, args, wait, &content, Some(&leases))?;
        leases.sent();
        Ok(())
    })
}

#[inline]
fn send_content(
    handle: &Handle,
    args: &uapi::postbox_send,
    wait: &Wait<'_>,
    content: &Content,
    leases: Option<&Outgoing<'_>>,
) -> Result {
    let mailbox = handle.tx()?;
    let message = content.compose(handle, mailbox, true, leases)?;
    pass(handle, args, wait, mailbox, message)
}

#[inline]
fn pass(
    handle: &Handle,
    args: &uapi::postbox_send,
    wait: &Wait<'_>,
    mailbox: &Mailbox,
    message: KBox<Message>,
) -> Result {
    if args.flags & uapi::POSTBOX_SEND_RESERVED != 0 {
        mailbox.send_reserved(&handle.state, message, args.reserved_len)
    } else {
        mailbox.send(message, wait)
    }
}

#[inline(always)]
pub(super) fn send(handle: &Handle, args: &uapi::postbox_send, how: How<'_>) -> Result {
    const FLAGS: u32 = Wait::FLAGS | uapi::POSTBOX_SEND_RESERVED | uapi::POSTBOX_LEASES;
    ensure(args.flags & !FLAGS == 0)?;
    ensure(args.flags & uapi::POSTBOX_SEND_RESERVED != 0 || args.reserved_len == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    send_one(handle, args, &wait)
}

/// Says what there is to say of a message, but for what comes with it.
#[inline]
fn describe(message: &Message, args: &mut uapi::postbox_recv) {
    let (node, sender) = (message.node(), message.sender());
    args.msg_len = node.len();
    args.priority = node.priority().into();
    args.msg_flags = message.flags();
    args.pid = sender.pid;
    args.tid = sender.tid;
    args.uid = sender.uid;
    args.gid = sender.gid;
    args.pidfd_ino = sender.pidfd_ino;
}

/// Receives a message in one step, if there is one that is small and plain: the usual case.
/// `false`: nothing has happened.
#[inline]
fn recv_now(mailbox: &Mailbox, at: Place, args: &mut uapi::postbox_recv) -> bool {
    let room = usize::try_from(args.len).unwrap_or(usize::MAX);
    let Ok(data) = address(args.data) else {
        return false;
    };
    let received = mailbox.receive_bytes_now(room, |message, bytes| {
        args.token = 0;
        deliver_now(message, bytes, data, at, args)
    });
    received.is_some()
}

/// As [`deliver`], of a small and plain message, for under a spinlock. `false`: not all of it is
/// there.
#[inline(always)]
fn deliver_now(
    message: &Message,
    bytes: &[u8],
    data: usize,
    at: Place,
    args: &mut uapi::postbox_recv,
) -> bool {
    describe(message, args);
    args.fd_count = 0;
    UserBytes::at(data).copy_now(bytes) && at.write_from_now(args, OUT)
}

/// Copies a message, and all that there is to say of it but the token, to where `args` says.
#[inline]
fn deliver(
    message: &Message,
    at: Place,
    args: &mut uapi::postbox_recv,
    leasing: Option<&mut Leasing<'_>>,
    kept: bool,
) -> Result<Installed> {
    let node = message.node();
    UserBytes::at(address(args.data)?).copy_from(message.payload())?;
    let fds = leasing
        .as_ref()
        .map_or(args.fds, |leasing| leasing.args.fds);
    let installed = match message.files() {
        Some(files) => files.install(fds)?,
        None => Installed::NONE,
    };
    describe(message, args);
    args.fd_count = installed.len() as u32;
    if let Some(leasing) = leasing {
        leasing.describe(message, kept && !node.is_request())?;
        if leasing.args.count != 0 {
            args.msg_flags |= uapi::POSTBOX_MSG_LEASES;
        }
    }
    at.write_from(args, OUT)?;
    Ok(installed)
}

/// Receives one message, whose flags were checked, after a caller was answered.
#[inline]
fn recv_one(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_recv,
    wait: Wait<'_>,
    flags: u32,
    answered: Option<Wake>,
) -> Result {
    if args.flags & uapi::POSTBOX_LEASES != 0 {
        return recv_leases(handle, at, args, wait, flags, answered);
    }
    let plain = flags & !Wait::FLAGS == 0 && answered.is_none();
    if plain && !wait.resumes() && recv_now(handle.rx()?, at, args) {
        return Ok(());
    }
    recv_to(handle, at, args, wait, flags, answered, None)
}

#[inline(never)]
fn recv_leases(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_recv,
    wait: Wait<'_>,
    flags: u32,
    answered: Option<Wake>,
) -> Result {
    with_leases(args.fds, |leasing| {
        recv_to(handle, at, args, wait, flags, answered, Some(leasing))
    })
}

#[inline]
fn recv_to(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_recv,
    wait: Wait<'_>,
    flags: u32,
    answered: Option<Wake>,
    mut leasing: Option<&mut Leasing<'_>>,
) -> Result {
    let mailbox = handle.rx()?;
    let room = leasing.as_ref().map(|leasing| leasing.room());
    let lease = flags & uapi::POSTBOX_RECV_ACK != 0;
    let found;
    let mut from = None;
    if flags & uapi::POSTBOX_RECV_FROM != 0 {
        ensure(!lease)?;
        from = Some(match wait {
            Wait::Parks(issue) => issue.origin(|| origin(args))?,
            _ => {
                found = origin(args)?;
                &found
            }
        });
    }
    let receive = Receive {
        room: usize::try_from(args.len).unwrap_or(usize::MAX),
        files: args.fd_max as usize,
        leases: room.as_ref(),
        wait,
        handle,
        answers: true,
        lease,
        post: None,
        from,
    };
    let received = mailbox.receive_after(answered, &receive, |message, now| {
        let node = message.node();
        args.token = if lease || node.is_request() {
            node.token()
        } else {
            0
        };
        if let Some(bytes) = now {
            let data = address(args.data)?;
            if leasing.is_some() || !deliver_now(message, bytes, data, at, args) {
                return Err(EFAULT);
            }
            return Ok(Installed::NONE);
        }
        deliver(message, at, args, leasing.as_deref_mut(), lease)
    });
    match received {
        Ok(installed) => {
            installed.keep();
            Ok(())
        }
        Err(Failure::Error(error)) => Err(error),
        Err(Failure::TooSmall(needs)) => {
            let refusal = refusal(&needs, &leasing);
            tell_needs(at, args, &needs, leasing)?;
            Err(refusal)
        }
    }
}

/// Why a message is refused that does not fit.
#[cold]
fn refusal(needs: &Needs, leasing: &Option<&mut Leasing<'_>>) -> Error {
    leasing
        .as_ref()
        .map_or(EMSGSIZE, |leasing| leasing.refusal(needs))
}

/// Says what room a message needs.
#[cold]
fn tell_needs(
    at: Place,
    args: &mut uapi::postbox_recv,
    needs: &Needs,
    leasing: Option<&mut Leasing<'_>>,
) -> Result {
    args.msg_len = needs.len;
    args.fd_count = needs.files as u32;
    args.msg_flags = if needs.leases == 0 {
        0
    } else {
        uapi::POSTBOX_MSG_LEASES
    };
    at.write(args)?;
    match leasing {
        Some(leasing) => leasing.tell_of(needs.leases, needs.pool),
        None => Ok(()),
    }
}

/// Whose messages are wanted.
#[cold]
fn origin(args: &uapi::postbox_recv) -> Result<Origin> {
    let process = Process::find(args.pid);
    let number = match args.pidfd_ino {
        0 => process.as_ref().map_err(|error| *error)?.number,
        number => number,
    };
    Ok(Origin {
        number,
        process: process.ok().filter(|process| process.number == number),
    })
}

#[inline(always)]
pub(super) fn recv(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_recv,
    how: How<'_>,
) -> Result {
    recv_after(handle, at, args, how, None)
}

#[inline(always)]
fn recv_after(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_recv,
    how: How<'_>,
    answered: Option<Wake>,
) -> Result {
    const FLAGS: u32 =
        Wait::FLAGS | uapi::POSTBOX_RECV_ACK | uapi::POSTBOX_RECV_FROM | uapi::POSTBOX_LEASES;
    ensure(args.flags & !FLAGS == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    recv_one(handle, at, args, wait, args.flags, answered)
}

pub(super) fn ack(handle: &Handle, args: &uapi::postbox_ack) -> Result {
    ensure(args.flags & !uapi::POSTBOX_ACK_REQUEUE == 0)?;
    let requeue = args.flags & uapi::POSTBOX_ACK_REQUEUE != 0;
    handle.rx()?.acknowledge(&handle.state, args.token, requeue)
}

pub(super) fn reserve(handle: &Handle, args: &uapi::postbox_reserve, how: How<'_>) -> Result {
    ensure(args.flags & !(Wait::FLAGS | uapi::POSTBOX_RESERVE_CANCEL) == 0)?;
    let mailbox = handle.tx()?;
    if args.flags & uapi::POSTBOX_RESERVE_CANCEL != 0 {
        ensure(args.flags & Wait::FLAGS == 0 && args.timeout_ns == 0)?;
        return mailbox.unreserve(&handle.state, args.len);
    }
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    if args.len > mailbox.message_max() || args.len > limits::message() {
        return Err(EMSGSIZE);
    }
    mailbox.reserve(&handle.state, args.len, &wait)
}

// Several at once.

/// Calls `one` for each entry of a batch until one fails.
fn batch<T: Args>(
    at: Place,
    args: &mut uapi::postbox_batch,
    how: How<'_>,
    mut one: impl FnMut(u32, Place, &mut T) -> Result,
) -> Result {
    let count = args.count;
    ensure((1..=BATCH_MAX).contains(&count))?;
    let size = args.entry_size as usize;
    // That it cannot be written is found while nothing has happened yet. It stays as it is until
    // the end: the call may be restarted.
    if !how.resumes() {
        at.write(args)?;
    }
    let mut done = 0;
    let mut result = Ok(());
    if let How::Command(issue) = how {
        done = issue.progress() as u32;
        if issue.request() == uapi::POSTBOX_SEND_BATCH {
            if let Some(outcome) = issue.resume() {
                result = sent(Some(outcome));
                issue.settle(result.is_ok());
                done += u32::from(result.is_ok());
            }
        }
    }
    while done < count && result.is_ok() {
        if let How::Command(issue) = how {
            issue.advance(done.into());
        }
        result = (|| {
            let entry = Place::of_entry(args.entries, done, size)?;
            with(entry.address, |place, entry| {
                ensure(place.size == size)?;
                one(done, place, entry)
            })
        })();
        if let Err(error) = result {
            if error == eiocbqueued() {
                return result;
            }
        }
        if let How::Command(issue) = how {
            issue.settle(result.is_ok());
        }
        done += u32::from(result.is_ok());
    }
    if done == 0 {
        return result;
    }
    if done == count {
        // It says so already.
        return Ok(());
    }
    args.count = done;
    let told = at.write(args);
    match how {
        // Its completion says it, whether the argument can still be written or not.
        How::Command(_) => Ok(()),
        _ => told,
    }
}

pub(super) fn send_batch(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_batch,
    how: How<'_>,
) -> Result {
    ensure(args.flags & !Wait::FLAGS == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    batch(at, args, how, |_, _, entry: &mut uapi::postbox_send| {
        ensure(entry.flags & !uapi::POSTBOX_LEASES == 0)?;
        ensure(entry.timeout_ns == 0 && entry.reserved_len == 0)?;
        send_one(handle, entry, &wait)
    })
}

pub(super) fn recv_batch(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_batch,
    how: How<'_>,
) -> Result {
    ensure(args.flags & !(Wait::FLAGS | uapi::POSTBOX_RECV_ACK) == 0)?;
    let flags = args.flags;
    let first = Wait::new(flags, args.timeout_ns, how)?;
    batch(
        at,
        args,
        how,
        |done, place, entry: &mut uapi::postbox_recv| {
            ensure(entry.flags & !uapi::POSTBOX_LEASES == 0 && entry.timeout_ns == 0)?;
            let wait = if done == 0 { first } else { Wait::Never };
            recv_one(handle, place, entry, wait, flags, None)
        },
    )
}

// Calls.

/// Where the part of a call is that the reply goes to.
fn reply_place(at: Place) -> Place {
    at.inner::<uapi::postbox_recv>(offset_of!(uapi::postbox_call, reply))
}

pub(super) fn call(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_call,
    how: How<'_>,
) -> Result {
    const LEASES: u32 = uapi::POSTBOX_LEASES;
    const FLAGS: u32 = LEASES | (Wait::FLAGS & !uapi::POSTBOX_NONBLOCK);
    let (request, reply) = (&args.request, &mut args.reply);
    ensure(args.reserved == 0 && reply.timeout_ns == 0)?;
    ensure(reply.size as usize == uapi::postbox_recv::MIN)?;
    ensure(request.size as usize == uapi::postbox_send::MIN)?;
    let at = reply_place(at);
    let mailbox = handle.tx()?;
    if reply.flags & !LEASES == uapi::POSTBOX_CALL_FETCH {
        ensure(request.flags | request.priority | request.fd_count == 0)?;
        ensure(request.data | request.len | request.timeout_ns == 0)?;
        ensure(request.reserved_len | request.fds == 0)?;
        return fetch(handle, mailbox, at, reply);
    }
    ensure(reply.flags & !LEASES == 0)?;
    ensure(request.flags & !FLAGS == 0 && request.reserved_len == 0)?;
    let wait = Wait::new(request.flags, request.timeout_ns, how)?;
    if let Wait::Parks(issue) = wait {
        if let Some(outcome) = issue.resume() {
            let answer = replied(Some(outcome))?;
            issue.settle(true);
            return answered_later(handle, mailbox, at, reply, answer);
        }
    }
    let caller = match how {
        How::Call(caller) => Some(caller),
        _ => None,
    };
    if let Some(caller) = caller {
        if let Some(pause) = caller.paused_call() {
            return call_again(caller, mailbox, at, request, reply, &wait, pause);
        }
    }
    if (request.flags | reply.flags) & LEASES != 0 {
        return call_leases(handle, mailbox, at, request, reply, &wait, caller);
    }
    let mut message = Content::of(request).compose(handle, mailbox, true, None)?;
    message.make_request();
    let answer = mailbox.call(message, &wait, caller)?;
    answered(handle, mailbox, at, reply, answer, None)
}

/// Goes on with a call that was paused, and so made again.
#[cold]
fn call_again(
    caller: &Caller<'_>,
    mailbox: &Mailbox,
    at: Place,
    request: &uapi::postbox_send,
    reply: &mut uapi::postbox_recv,
    wait: &Wait<'_>,
    (mut pause, place): (KBox<Pause>, NonNull<Message>),
) -> Result {
    let leases = pause.take_leases();
    match mailbox.resume_call((pause, place), wait, caller) {
        Ok(answer) => {
            if let Some(leases) = leases {
                leases.settle(true);
            }
            answered_later(caller.handle, mailbox, at, reply, answer)
        }
        Err(error) if error == erestartnointr() => {
            caller.keep_leases(leases);
            Err(error)
        }
        Err(error) => {
            if leases.is_some_and(|leases| !leases.settle(false)) {
                gone(request.fds);
            }
            Err(error)
        }
    }
}

/// Calls `f` with what a request says of leases, if it does.
fn optionally(flags: u32, fds: u64, f: impl FnOnce(Option<&mut Leasing<'_>>) -> Result) -> Result {
    if flags & uapi::POSTBOX_LEASES == 0 {
        return f(None);
    }
    with_leases(fds, |leasing| f(Some(leasing)))
}

#[inline(never)]
fn fetch(handle: &Handle, mailbox: &Mailbox, at: Place, reply: &mut uapi::postbox_recv) -> Result {
    optionally(reply.flags, reply.fds, |incoming| {
        let process = helpers::process();
        let answer = handle.state.lock().fetch(reply.token, process);
        let answer = answer.ok_or(ENOENT)?;
        answered(handle, mailbox, at, reply, answer, incoming)
    })
}

#[inline(never)]
fn call_leases(
    handle: &Handle,
    mailbox: &Mailbox,
    at: Place,
    request: &uapi::postbox_send,
    reply: &mut uapi::postbox_recv,
    wait: &Wait<'_>,
    caller: Option<&Caller<'_>>,
) -> Result {
    optionally(request.flags, request.fds, |mut leasing| {
        optionally(reply.flags, reply.fds, |incoming| {
            let mut content = Content::of(request);
            let mut leases = None;
            if let Some(leasing) = &leasing {
                content = content.leased(leasing);
                leases = Some(leasing.outgoing()?);
            }
            let mut message = content.compose(handle, mailbox, true, leases.as_ref())?;
            message.make_request();
            if let (Wait::Parks(issue), Some(leasing)) = (wait, &leasing) {
                issue.take_along(leases.take().and_then(|leases| leases.keep(leasing.pool)));
            }
            let answer = mailbox.call(message, wait, caller);
            match (answer, leases) {
                (Err(error), leases) if error == erestartnointr() => {
                    if let (Some(leases), Some(leasing), Some(caller)) = (leases, &leasing, caller)
                    {
                        caller.keep_leases(leases.keep(leasing.pool));
                    }
                    Err(error)
                }
                (Ok(answer), leases) => {
                    if let Some(leases) = leases {
                        leases.sent();
                    }
                    answered(handle, mailbox, at, reply, answer, incoming)
                }
                (Err(error), leases) => {
                    let gone = leases.is_some_and(|leases| !leases.failed());
                    if let (true, Some(leasing)) = (gone, &mut leasing) {
                        leasing.gone();
                    }
                    Err(error)
                }
            }
        })
    })
}

/// Gives a caller that was parked its answer.
#[inline(never)]
fn answered_later(
    handle: &Handle,
    mailbox: &Mailbox,
    at: Place,
    reply: &mut uapi::postbox_recv,
    answer: KBox<Message>,
) -> Result {
    let (flags, fds) = (reply.flags, reply.fds);
    let mut answer = Some(answer);
    let done = optionally(flags, fds, |incoming| {
        let answer = answer.take().ok_or(EINVAL)?;
        answered(handle, mailbox, at, reply, answer, incoming)
    });
    if let (Some(answer), Err(error)) = (answer, done) {
        // Where its leases go cannot be read any more.
        return undelivered(handle, at, reply, answer, None, error);
    }
    done
}

/// Gives the caller its answer, or keeps it.
#[inline]
fn answered(
    handle: &Handle,
    mailbox: &Mailbox,
    at: Place,
    args: &mut uapi::postbox_recv,
    answer: KBox<Message>,
    mut leasing: Option<&mut Leasing<'_>>,
) -> Result {
    let room = leasing.as_ref().map(|leasing| leasing.room());
    args.token = 0;
    let files = args.fd_max as usize;
    let delivered = if answer.node().len() > args.len || !answer.fits(files, room.as_ref()) {
        Err(refusal(&answer.needs(), &leasing))
    } else if answer.refused() {
        Err(enodata())
    } else {
        deliver(&answer, at, args, leasing.as_deref_mut(), false)
    };
    match delivered {
        Ok(installed) => {
            installed.keep();
            if let Some(room) = room {
                if let Some(leases) = answer.take_leases() {
                    leases.receive(&room.access);
                }
            }
            mailbox.recycle(answer);
            Ok(())
        }
        Err(error) => undelivered(handle, at, args, answer, leasing, error),
    }
}

/// Keeps an answer that could not be delivered, to be fetched.
#[cold]
fn undelivered(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_recv,
    answer: KBox<Message>,
    leasing: Option<&mut Leasing<'_>>,
    error: Error,
) -> Result {
    let needs = answer.needs();
    args.token = keep(handle, answer).unwrap_or(0);
    if let Err(error) = tell_needs(at, args, &needs, leasing) {
        // Nobody would ever ask for it.
        let lost = handle.state.lock().fetch(args.token, helpers::process());
        drop(lost);
        return Err(error);
    }
    Err(error)
}

/// Keeps an answer that could not be delivered, at the caller's cost.
#[cold]
fn keep(handle: &Handle, mut answer: KBox<Message>) -> Result<u64> {
    let process = helpers::process();
    handle.state.shares.enter(process)?;
    answer.recharge(handle)?;
    let mut state = handle.state.lock();
    if state.kept() >= UNSETTLED_MAX {
        drop(state);
        return Err(edquot());
    }
    let token = state.keep(answer, process);
    drop(state);
    if !handle.state.shares.has(process) {
        // Another thread has closed the last descriptor meanwhile, and it goes as with that.
        mailbox::forget(&handle.state, Some(process));
        return Err(EBADF);
    }
    Ok(token)
}

/// Answers, drops or asks after a request. Returns the caller to be woken.
#[inline]
fn reply_one(handle: &Handle, args: &uapi::postbox_reply) -> Result<Option<Wake>> {
    ensure(args.reserved == 0)?;
    let mailbox = handle.rx()?;
    match args.flags {
        0 => {
            let reply = Content::of_reply(args).compose(handle, mailbox, false, None)?;
            mailbox
                .reply(&handle.state, args.token, Some(reply))
                .map(Some)
        }
        uapi::POSTBOX_LEASES => reply_leases(handle, mailbox, args).map(Some),
        uapi::POSTBOX_REPLY_DROP | uapi::POSTBOX_REPLY_CHECK => {
            ensure(args.data == 0 && args.len == 0 && args.fds == 0 && args.fd_count == 0)?;
            if args.flags == uapi::POSTBOX_REPLY_CHECK {
                mailbox.caller_waits(&handle.state, args.token)?;
                return Ok(None);
            }
            mailbox.reply(&handle.state, args.token, None).map(Some)
        }
        _ => Err(EINVAL),
    }
}

#[inline(never)]
fn reply_leases(handle: &Handle, mailbox: &Mailbox, args: &uapi::postbox_reply) -> Result<Wake> {
    let mut wake = None;
    with_leases(args.fds, |leasing| {
        let leases = leasing.outgoing()?;
        let content = Content::of_reply(args).leased(leasing);
        let reply = content.compose(handle, mailbox, false, Some(&leases))?;
        wake = Some(mailbox.reply(&handle.state, args.token, Some(reply))?);
        leases.sent();
        Ok(())
    })?;
    wake.ok_or(EINVAL)
}

pub(super) fn reply(handle: &Handle, args: &uapi::postbox_reply) -> Result {
    drop(reply_one(handle, args)?);
    Ok(())
}

pub(super) fn reply_recv(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_reply_recv,
    how: How<'_>,
) -> Result {
    ensure(args.reserved == 0)?;
    ensure(args.reply.size as usize == uapi::postbox_reply::MIN)?;
    ensure(args.recv.size as usize == uapi::postbox_recv::MIN)?;
    ensure(args.reply.flags & uapi::POSTBOX_REPLY_CHECK == 0)?;
    let mut answered = None;
    let done = matches!(how, How::Command(issue) if issue.progress() != 0);
    if args.reply.token != 0 && !done {
        const TOKEN: usize =
            offset_of!(uapi::postbox_reply_recv, reply) + offset_of!(uapi::postbox_reply, token);
        let token = UserBytes::at(at.address.wrapping_add(TOKEN));
        // That it cannot be written is found while nothing has happened yet.
        token.copy_from(&[0; 8])?;
        answered = match reply_one(handle, &args.reply) {
            Ok(answered) => answered,
            Err(error) => {
                token.copy_from(&args.reply.token.to_ne_bytes())?;
                return Err(error);
            }
        };
        if let How::Command(issue) = how {
            issue.advance(1);
        }
    }
    let at = at.inner::<uapi::postbox_recv>(offset_of!(uapi::postbox_reply_recv, recv));
    recv_after(handle, at, &mut args.recv, how, answered)
}
