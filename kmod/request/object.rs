// SPDX-License-Identifier: GPL-2.0
//! Objects: binding a handle to one, and what a bound one can tell and change.

use super::{ensure, link, message::BATCH_MAX, name, port, Args, Place};
use crate::{
    barrier::Barrier,
    chardev,
    compat::{edquot, eopnotsupp},
    grant::Grantee,
    handle::Handle,
    helpers::{self, limits, Process, GFP_MAYFAIL},
    latch::Latch,
    link::{Link, Listener},
    mailbox::Mailbox,
    object::Object,
    pipe::Pipe,
    pool::Pool,
    queue::Capacity,
    quota::Pinned,
    registry::{Attributes, Changes, Key, Want},
    ring::Ring,
    segment::Segment,
    semaphore::Semaphore,
    uapi,
    wait::{How, Wait},
};
use kernel::{
    fs::file::{flags, FileDescriptorReservation},
    prelude::*,
    sync::Arc,
};

const RIGHTS: u32 =
    uapi::POSTBOX_RIGHT_SEND | uapi::POSTBOX_RIGHT_RECEIVE | uapi::POSTBOX_RIGHT_ADMIN;

// What works on every handle.

pub(super) fn version(at: Place, args: &mut uapi::postbox_version) -> Result {
    ensure(args.reserved == 0)?;
    args.abi = uapi::POSTBOX_ABI;
    args.features = uapi::POSTBOX_FEATURE_URING.into();
    args.message_max = limits::message();
    args.batch_max = BATCH_MAX;
    at.write(args)
}

pub(super) fn list(handle: &Handle, at: Place, args: &mut uapi::postbox_list) -> Result {
    let size = args.info_size as usize;
    ensure(args.flags & !(uapi::POSTBOX_LIST_ALL | uapi::POSTBOX_LIST_NAME) == 0)?;
    ensure((uapi::postbox_info::MIN..=4096).contains(&size))?;
    let registry = &handle.shared.registry;
    if args.flags & uapi::POSTBOX_LIST_NAME != 0 {
        ensure(args.flags == uapi::POSTBOX_LIST_NAME && args.count > 0 && args.after == 0)?;
        let entry = Place::of_entry(args.infos, 0, size)?;
        let info = registry.named(handle.ipc_ns, Key::Name(entry.read_name()?))?;
        entry.write(&info)?;
        args.count = 1;
        return at.write(args);
    }
    let all = args.flags & uapi::POSTBOX_LIST_ALL != 0;
    if all {
        if !helpers::admin() {
            return Err(EPERM);
        }
        registry.sweep();
    }
    let next = |after| match all {
        false => registry.next(handle.ipc_ns, after),
        true => registry.next_of_all(after).map(|(mut info, _, ipc_ns)| {
            if ipc_ns != handle.ipc_ns {
                info.flags |= uapi::POSTBOX_INFO_FOREIGN;
            }
            info
        }),
    };
    if args.count == 0 {
        args.after = registry.last();
        return at.write(args);
    }
    let mut done = 0;
    let mut after = args.after;
    while done < args.count {
        let Some(info) = next(after) else {
            break;
        };
        after = info.id;
        Place::of_entry(args.infos, done, size)?.write(&info)?;
        done += 1;
        if helpers::dying() {
            return Err(EINTR);
        }
    }
    args.count = done;
    at.write(args)
}

pub(super) fn usage(handle: &Handle, at: Place, args: &mut uapi::postbox_usage) -> Result {
    let usage = handle.user.usage();
    args.uid = helpers::see_uid(handle.user.uid);
    (args.messages, args.messages_max) = usage.messages;
    (args.bytes, args.bytes_max) = usage.bytes;
    (args.objects, args.objects_max) = usage.objects;
    (args.files, args.files_max) = usage.files;
    (args.shared, args.shared_max) = usage.shared;
    at.write(args)
}

pub(super) fn unlink(handle: &Handle, args: &uapi::postbox_unlink) -> Result {
    let registry = &handle.shared.registry;
    if args.name_len == uapi::POSTBOX_UNLINK_ID {
        return registry.unlink_id(handle.ipc_ns, args.name);
    }
    let name = name(args.name, args.name_len)?;
    registry.unlink(handle.ipc_ns, &name)
}

// Binding a handle, and what a bound one can tell and change.

/// What a handle is to be bound to, from arguments that were checked for what all kinds have in
/// common.
fn key(args: &uapi::postbox_open) -> Result<Option<Key>> {
    if args.flags & uapi::POSTBOX_O_PORT != 0 {
        ensure(args.name == 0 && args.name_len == 0)?;
        let kinds = [uapi::POSTBOX_KIND_LINK, uapi::POSTBOX_KIND_LISTENER];
        ensure(kinds.contains(&args.kind))?;
        return Ok(Some(Key::Port(port(args.number)?)));
    }
    if args.kind == uapi::POSTBOX_KIND_ENDPOINT {
        ensure(args.name == 0 && args.name_len == 0)?;
        return Ok(Some(match args.number {
            0 => Key::Process(helpers::process(), helpers::euid()),
            pid => {
                let process = Process::find(pid)?;
                Key::Process(process.number, process.euid()?)
            }
        }));
    }
    ensure(args.number == 0)?;
    if args.name == 0 {
        ensure(args.name_len == 0)?;
        return Ok(None);
    }
    Ok(Some(Key::Name(name(args.name, args.name_len)?)))
}

/// Makes the object that the arguments describe, for `user`.
fn make(args: &uapi::postbox_open, user: &Pinned) -> Result<Object> {
    let capacity = Capacity {
        messages: args.capacity,
        bytes: match args.capacity_bytes {
            0 => uapi::POSTBOX_UNBOUNDED,
            bytes => bytes,
        },
    };
    let persistent = args.flags & uapi::POSTBOX_O_PERSIST != 0;
    let reserve = args.flags & uapi::POSTBOX_O_RESERVE != 0;
    let message_max = match args.message_max {
        0 => limits::message(),
        max => max,
    };
    let mailbox = || {
        let mailbox = Mailbox::new(capacity, message_max, persistent, user.may_keep());
        Arc::pin_init(mailbox, GFP_MAYFAIL)
    };
    let options = || {
        link::options(
            args.flags,
            (args.capacity, args.capacity_bytes),
            (args.back_capacity, args.back_capacity_bytes),
            args.message_max,
        )
    };
    Ok(match args.kind {
        uapi::POSTBOX_KIND_MAILBOX => Object::Mailbox(mailbox()?),
        uapi::POSTBOX_KIND_ENDPOINT => {
            let mailbox = mailbox()?;
            mailbox.never_end();
            Object::Endpoint(mailbox)
        }
        uapi::POSTBOX_KIND_LINK => Object::Link(Link::new(&options()?, None, user.may_keep())?),
        uapi::POSTBOX_KIND_LISTENER => Object::Listener(Listener::new(
            options()?,
            args.backlog,
            persistent,
            user.may_keep(),
        )?),
        uapi::POSTBOX_KIND_PIPE => {
            let pipe = Pipe::new(args.capacity_bytes, persistent, user)?;
            Object::Pipe(Arc::pin_init(pipe, GFP_MAYFAIL)?)
        }
        uapi::POSTBOX_KIND_SEMAPHORE => {
            let semaphore = Semaphore::new(args.initial, args.capacity)?;
            Object::Semaphore(Arc::pin_init(semaphore, GFP_MAYFAIL)?)
        }
        uapi::POSTBOX_KIND_LATCH => {
            let latch = Latch::new(args.initial)?;
            Object::Latch(Arc::pin_init(latch, GFP_MAYFAIL)?)
        }
        uapi::POSTBOX_KIND_BARRIER => {
            let barrier = Barrier::new(args.initial)?;
            Object::Barrier(Arc::pin_init(barrier, GFP_MAYFAIL)?)
        }
        uapi::POSTBOX_KIND_RING => {
            let many = args.flags & uapi::POSTBOX_O_MANY != 0;
            let ring = Ring::new(args.capacity_bytes, many, persistent, user)?;
            Object::Ring(Arc::pin_init(ring, GFP_MAYFAIL)?)
        }
        uapi::POSTBOX_KIND_SEGMENT => {
            let segment = Segment::new(args.memfd, reserve, user)?;
            Object::Segment(Arc::pin_init(segment, GFP_MAYFAIL)?)
        }
        uapi::POSTBOX_KIND_POOL => {
            let pool = Pool::new(
                args.memfd,
                reserve,
                args.capacity,
                args.capacity_bytes,
                user,
            )?;
            Object::Pool(Arc::pin_init(pool, GFP_MAYFAIL)?)
        }
        _ => return Err(eopnotsupp()),
    })
}

/// Checks what only some kinds can be asked for.
fn check_kind(args: &uapi::postbox_open) -> Result {
    let unused = |values: &[u64]| ensure(values.iter().all(|value| *value == 0));
    let back = [args.back_capacity, args.back_capacity_bytes];
    if args.kind != uapi::POSTBOX_KIND_LISTENER {
        ensure(args.backlog == 0)?;
    }
    let one_way = args.flags & link::ONE_WAY != 0;
    let many = args.flags & uapi::POSTBOX_O_MANY != 0;
    ensure(!many || args.kind == uapi::POSTBOX_KIND_RING)?;
    // Only what is made has memory.
    let memory = [uapi::POSTBOX_KIND_SEGMENT, uapi::POSTBOX_KIND_POOL].contains(&args.kind);
    let reserve = args.flags & uapi::POSTBOX_O_RESERVE != 0;
    let made = memory && args.flags & uapi::POSTBOX_O_CREATE != 0;
    ensure((args.memfd == 0 && !reserve) || made)?;
    match args.kind {
        uapi::POSTBOX_KIND_LINK | uapi::POSTBOX_KIND_LISTENER => {
            // A link is opened by its port, or made in another way.
            let port = args.flags & uapi::POSTBOX_O_PORT != 0;
            if args.kind == uapi::POSTBOX_KIND_LINK && !port {
                return Err(eopnotsupp());
            }
            let persistent = args.flags & uapi::POSTBOX_O_PERSIST != 0;
            ensure(!persistent || args.kind == uapi::POSTBOX_KIND_LISTENER)?;
            // Nothing can be done with a listener by sending: who connects opens none.
            let useful = uapi::POSTBOX_RIGHT_RECEIVE | uapi::POSTBOX_RIGHT_ADMIN;
            ensure(args.kind == uapi::POSTBOX_KIND_LINK || args.rights & useful != 0)?;
            unused(&[args.initial])
        }
        uapi::POSTBOX_KIND_MAILBOX => {
            ensure(!one_way)?;
            unused(&back)?;
            unused(&[args.initial])
        }
        uapi::POSTBOX_KIND_ENDPOINT => {
            ensure(!one_way && args.flags & uapi::POSTBOX_O_PERSIST == 0)?;
            // Others can only send, and it is made by its own process.
            if args.number != 0 {
                ensure(args.flags & uapi::POSTBOX_O_CREATE == 0)?;
                if args.rights & uapi::POSTBOX_RIGHT_RECEIVE != 0 {
                    return Err(EACCES);
                }
            }
            unused(&back)?;
            unused(&[args.initial])
        }
        uapi::POSTBOX_KIND_PIPE => {
            ensure(!one_way)?;
            unused(&back)?;
            unused(&[args.initial, args.capacity, args.message_max])
        }
        uapi::POSTBOX_KIND_SEMAPHORE | uapi::POSTBOX_KIND_LATCH | uapi::POSTBOX_KIND_BARRIER => {
            ensure(!one_way)?;
            unused(&back)?;
            unused(&[args.capacity_bytes, args.message_max])?;
            ensure(args.kind == uapi::POSTBOX_KIND_SEMAPHORE || args.capacity == 0)
        }
        uapi::POSTBOX_KIND_POOL => {
            ensure(!one_way)?;
            unused(&back)?;
            unused(&[args.message_max, args.initial])
        }
        uapi::POSTBOX_KIND_RING => {
            ensure(!one_way)?;
            unused(&back)?;
            unused(&[args.initial, args.capacity, args.message_max])
        }
        uapi::POSTBOX_KIND_SEGMENT => {
            ensure(!one_way)?;
            unused(&back)?;
            unused(&[args.capacity, args.capacity_bytes, args.message_max])?;
            unused(&[args.initial])
        }
        _ => Err(eopnotsupp()),
    }
}

pub(super) fn open(handle: &Handle, at: Place, args: &mut uapi::postbox_open) -> Result {
    const FLAGS: u32 = uapi::POSTBOX_O_CREATE
        | uapi::POSTBOX_O_EXCL
        | uapi::POSTBOX_O_PERSIST
        | uapi::POSTBOX_O_PORT
        | uapi::POSTBOX_O_MANY
        | uapi::POSTBOX_O_RESERVE
        | link::ONE_WAY;
    ensure(args.flags & !FLAGS == 0)?;
    ensure(args.rights != 0 && args.rights & !RIGHTS == 0 && args.mode <= 0o777)?;
    let create = args.flags & uapi::POSTBOX_O_CREATE != 0;
    let exclusive = args.flags & uapi::POSTBOX_O_EXCL != 0;
    let persistent = args.flags & uapi::POSTBOX_O_PERSIST != 0;
    ensure(create || !(exclusive || persistent))?;
    check_kind(args)?;
    let binding = handle.claim()?;
    let key = key(args)?;
    ensure(key.is_some() || create)?;
    // What has no name could not be unlinked.
    ensure(!persistent || matches!(key, Some(Key::Name(_))))?;
    let registry = &handle.shared.registry;
    let want = Want {
        ipc_ns: handle.ipc_ns,
        key,
        exclusive,
        kind: args.kind,
        rights: args.rights,
    };
    let attributes = Attributes {
        mode: args.mode,
        persistent,
    };
    let opened = if create {
        let create = || {
            registry.create(&want, &attributes, &handle.user, || {
                make(args, &handle.user)
            })
        };
        match create() {
            // What namespaces that have ended left behind is no reason to refuse it.
            Err(error) if error == edquot() => {
                registry.sweep();
                create()?
            }
            opened => opened?,
        }
    } else {
        registry.open(&want)?
    };
    let mut rights = args.rights;
    if let Object::Link(link) = &opened.object {
        // Both ends have what the link has.
        rights = link.rights(opened.end) | (rights & uapi::POSTBOX_RIGHT_ADMIN);
    }
    args.id = opened.id;
    args.created = opened.created.into();
    // Nobody gets what could not be used.
    let useless = matches!(&opened.object, Object::Segment(segment)
        if rights & uapi::POSTBOX_RIGHT_SEND != 0 && !segment.memory.writable());
    let written = if useless { Err(EACCES) } else { at.write(args) };
    if let Err(error) = written {
        registry.undo(&opened, args.rights);
        return Err(error);
    }
    if let (Object::Link(link), false) = (&opened.object, opened.created) {
        link.made(opened.end);
    }
    binding.bind(opened, rights);
    Ok(())
}

/// Waits until the other side has come.
pub(super) fn wait_peer(handle: &Handle, args: &uapi::postbox_wait_peer, how: How<'_>) -> Result {
    ensure(args.flags & !Wait::FLAGS == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    let bound = handle.bound()?;
    let peer = bound.object.peer(bound.side());
    peer.ok_or_else(eopnotsupp)?.wait(&wait)
}

pub(super) fn dup(handle: &Handle, at: Place, args: &mut uapi::postbox_dup) -> Result {
    ensure(args.reserved == 0 && args.rights & !RIGHTS == 0)?;
    let second = handle.dup(args.rights)?;
    let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
    let file = chardev::new_file(second)?;
    args.fd = fd.reserved_fd() as i32;
    at.write(args)?;
    fd.fd_install(file);
    Ok(())
}

pub(super) fn set_attr(handle: &Handle, args: &uapi::postbox_attr) -> Result {
    const VALID: u32 = uapi::POSTBOX_ATTR_MODE | uapi::POSTBOX_ATTR_UID | uapi::POSTBOX_ATTR_GID;
    ensure(args.reserved == 0 && args.valid & !VALID == 0)?;
    let given = |flag, value| {
        if args.valid & flag != 0 {
            Ok(Some(value))
        } else {
            ensure(value == 0).map(|()| None)
        }
    };
    let changes = Changes {
        mode: given(uapi::POSTBOX_ATTR_MODE, args.mode)?,
        uid: given(uapi::POSTBOX_ATTR_UID, args.uid)?,
        gid: given(uapi::POSTBOX_ATTR_GID, args.gid)?,
    };
    ensure(args.mode <= 0o777)?;
    let bound = handle.bound()?;
    bound.object(uapi::POSTBOX_RIGHT_ADMIN)?;
    handle.shared.registry.change(bound.id, &changes)
}

pub(super) fn grant(handle: &Handle, args: &uapi::postbox_grant) -> Result {
    const RIGHTS: u32 = uapi::POSTBOX_RIGHT_SEND | uapi::POSTBOX_RIGHT_RECEIVE;
    ensure(args.rights != 0 && args.rights & !RIGHTS == 0)?;
    let bound = handle.bound()?;
    bound.object(uapi::POSTBOX_RIGHT_ADMIN)?;
    let to = Grantee::new(args.who, args.id)?;
    handle.shared.registry.grant(bound.id, to, args.rights)
}

pub(super) fn revoke(handle: &Handle, args: &uapi::postbox_grant) -> Result {
    ensure(args.rights == 0)?;
    let bound = handle.bound()?;
    bound.object(uapi::POSTBOX_RIGHT_ADMIN)?;
    let from = Grantee::new(args.who, args.id)?;
    handle.shared.registry.revoke(bound.id, &from)
}

pub(super) fn info(handle: &Handle, at: Place) -> Result {
    let bound = handle.bound()?;
    at.write(
        &handle
            .shared
            .registry
            .info(bound.id, bound.end, bound.rights)?,
    )
}
