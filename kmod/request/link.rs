// SPDX-License-Identifier: GPL-2.0
//! Links: pairs, connections, and their ends.

use super::{ensure, name, port, Place};
use crate::{
    chardev,
    compat::eopnotsupp,
    handle::{Binding, Handle},
    helpers::{limits, UserBytes},
    link::{Link, Listener, Options, Pending},
    mailbox::{Failure, Receive},
    message::{Author, Message},
    object::Object,
    queue::Capacity,
    registry::{Attributes, Key, Opened, Want},
    uapi,
    wait::{How, Wait},
};
use kernel::{
    fs::file::{flags, FileDescriptorReservation},
    prelude::*,
    sync::Arc,
};

/// The directions that a link does not have.
pub(super) const ONE_WAY: u32 = uapi::POSTBOX_O_NO_BACK | uapi::POSTBOX_O_NO_FORWARD;

/// What a link is to be like. `0`, as a number of bytes, is no limit of its own.
pub(super) fn options(
    flags: u32,
    forward: (u64, u64),
    back: (u64, u64),
    message_max: u64,
) -> Result<Options> {
    let direction = |absent, (messages, bytes): (u64, u64)| -> Result<Option<Capacity>> {
        if flags & absent != 0 {
            ensure(messages == 0 && bytes == 0)?;
            return Ok(None);
        }
        Ok(Some(Capacity {
            messages,
            bytes: match bytes {
                0 => uapi::POSTBOX_UNBOUNDED,
                bytes => bytes,
            },
        }))
    };
    ensure(flags & ONE_WAY != ONE_WAY)?;
    Ok(Options {
        forward: direction(uapi::POSTBOX_O_NO_FORWARD, forward)?,
        back: direction(uapi::POSTBOX_O_NO_BACK, back)?,
        message_max: match message_max {
            0 => limits::message(),
            max => max,
        },
    })
}

/// Makes a link of the current task, and opens both ends.
fn make(handle: &Handle, make: impl FnOnce() -> Result<Arc<Link>>) -> Result<(Opened, Pending)> {
    let want = Want {
        ipc_ns: handle.ipc_ns,
        key: None,
        exclusive: true,
        kind: uapi::POSTBOX_KIND_LINK,
        rights: 0,
    };
    let attributes = Attributes {
        mode: 0,
        persistent: false,
    };
    let registry = &handle.shared.registry;
    let first = registry.create(&want, &attributes, &handle.user, || {
        Ok(Object::Link(make()?))
    })?;
    if let Err(error) = registry.reopen(first.id, 1, 0) {
        registry.close(first.id, 0, 0);
        return Err(error);
    }
    let second = Opened {
        id: first.id,
        object: first.object.clone(),
        end: 1,
        created: true,
        granted: None,
    };
    Ok((first, Pending::new(handle.shared.clone(), second)))
}

/// Binds a handle to an end with all the rights that it has.
fn bind(binding: Binding<'_>, opened: Opened) {
    let rights = match &opened.object {
        Object::Link(link) => link.rights(opened.end),
        _ => 0,
    };
    binding.bind(opened, rights);
}

pub(super) fn pair(handle: &Handle, at: Place, args: &mut uapi::postbox_pair) -> Result {
    ensure(args.reserved == 0 && args.flags & !ONE_WAY == 0)?;
    let options = options(
        args.flags,
        (args.capacity, args.capacity_bytes),
        (args.back_capacity, args.back_capacity_bytes),
        args.message_max,
    )?;
    let binding = handle.claim()?;
    let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
    let other = Handle::new(handle.shared.clone(), handle.ipc_ns)?;
    let (first, second) = make(handle, || Link::new(&options, None, handle.user.may_keep()))?;
    let (id, registry) = (first.id, &handle.shared.registry);
    let finish = || -> Result<_> {
        let binding = other.claim()?;
        let second = second.accept().ok_or(EINVAL)?;
        if let Object::Link(link) = &second.object {
            link.made(1);
        }
        bind(binding, second);
        let file = chardev::new_file(other)?;
        args.id = id;
        args.fd = fd.reserved_fd() as i32;
        at.write(args)?;
        Ok(file)
    };
    match finish() {
        Ok(file) => {
            bind(binding, first);
            fd.fd_install(file);
            Ok(())
        }
        Err(error) => {
            registry.close(id, 0, 0);
            Err(error)
        }
    }
}

pub(super) fn connect(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_connect,
    how: How<'_>,
) -> Result {
    ensure(args.flags & !(Wait::FLAGS | uapi::POSTBOX_CONNECT_PORT) == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    let key = if args.flags & uapi::POSTBOX_CONNECT_PORT != 0 {
        ensure(args.name == 0 && args.name_len == 0)?;
        Key::Port(port(args.number)?)
    } else {
        ensure(args.number == 0)?;
        Key::Name(name(args.name, args.name_len)?)
    };
    let binding = handle.claim()?;
    let want = Want {
        ipc_ns: handle.ipc_ns,
        key: Some(key),
        exclusive: false,
        kind: uapi::POSTBOX_KIND_LISTENER,
        rights: uapi::POSTBOX_RIGHT_SEND,
    };
    let registry = &handle.shared.registry;
    // A reference and not a handle: who waits here does not keep the name or the port in use.
    let Object::Listener(listener) = registry.find(&want)? else {
        return Err(eopnotsupp());
    };
    let (first, second) = make(handle, || {
        Link::new(
            &listener.options,
            Some(listener.maker.clone()),
            handle.user.may_keep(),
        )
    })?;
    let id = first.id;
    let send = || {
        let mut message = listener.queue.message()?;
        message.fill(Author::Caller, 0, 0, handle, &mut UserBytes::at(0))?;
        message.connect(handle, &listener.queue, second)?;
        args.id = id;
        at.write(args)?;
        listener.queue.send(message, &wait)
    };
    match send() {
        Ok(()) => {
            bind(binding, first);
            Ok(())
        }
        Err(error) => {
            registry.close(id, 0, 0);
            Err(error)
        }
    }
}

pub(super) fn accept(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_accept,
    how: How<'_>,
) -> Result {
    ensure(args.reserved == 0 && args.flags & !Wait::FLAGS == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    let Object::Listener(listener) = handle.bound()?.object(uapi::POSTBOX_RIGHT_RECEIVE)? else {
        return Err(eopnotsupp());
    };
    accept_one(handle, listener, wait, |_, id, fd| {
        (args.id, args.fd) = (id, fd);
        at.write(args)
    })?;
    Ok(())
}

/// Accepts a connection. `tell` gets its message, its number and its descriptor first, and can
/// still make it fail.
pub(crate) fn accept_one(
    handle: &Handle,
    listener: &Listener,
    wait: Wait<'_>,
    mut tell: impl FnMut(&Message, u64, i32) -> Result,
) -> Result<i32> {
    let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
    let number = fd.reserved_fd() as i32;
    let received = listener
        .queue
        .receive(&Receive::any(handle, 0, wait), |message| {
            let new = Handle::new(handle.shared.clone(), handle.ipc_ns)?;
            let new = chardev::new_file(new)?;
            let binding = chardev::as_handle(&new).ok_or(EINVAL)?.get_ref().claim()?;
            let pending = message.accept().ok_or(EINVAL)?;
            if let Err(error) = tell(message, pending.id(), number) {
                message.give_back(pending);
                return Err(error);
            }
            let opened = pending.accept().ok_or(EINVAL)?;
            if let Object::Link(link) = &opened.object {
                link.made(1);
            }
            bind(binding, opened);
            Ok(new)
        });
    match received {
        Ok(new) => {
            fd.fd_install(new);
            Ok(number)
        }
        Err(Failure::Error(error)) => Err(error),
        Err(Failure::TooSmall(_)) => Err(EINVAL),
    }
}

pub(super) fn peer(handle: &Handle, at: Place, args: &mut uapi::postbox_peer) -> Result {
    ensure(args.reserved == 0)?;
    let bound = handle.bound()?;
    let Object::Link(link) = &bound.object else {
        return Err(eopnotsupp());
    };
    let peer = link.peer(bound.end)?;
    args.pid = peer.pid;
    args.tid = peer.tid;
    args.uid = peer.uid;
    args.gid = peer.gid;
    args.pidfd_ino = peer.pidfd_ino;
    at.write(args)
}

pub(super) fn shutdown(handle: &Handle, args: &uapi::postbox_shutdown) -> Result {
    const HOW: u32 = uapi::POSTBOX_SHUT_SEND | uapi::POSTBOX_SHUT_RECEIVE;
    ensure(args.how != 0 && args.how & !HOW == 0)?;
    let bound = handle.bound()?;
    let Object::Link(link) = &bound.object else {
        return Err(eopnotsupp());
    };
    let sends = args.how & uapi::POSTBOX_SHUT_SEND != 0;
    let receives = args.how & uapi::POSTBOX_SHUT_RECEIVE != 0;
    let needed = (if sends { uapi::POSTBOX_RIGHT_SEND } else { 0 })
        | (if receives {
            uapi::POSTBOX_RIGHT_RECEIVE
        } else {
            0
        });
    if needed & !bound.rights & link.rights(bound.end) != 0 {
        return Err(EACCES);
    }
    link.shut(bound.end, sends, receives)
}
