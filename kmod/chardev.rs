// SPDX-License-Identifier: GPL-2.0
//! `/dev/postbox`: file operations, and the decoding of their arguments. The only door.
//!
//! - Every request is a function from a handle and an argument struct to a `Result`.
//! - An argument is copied in once, and what was copied is what is checked and used.
//! - What a call gives back is copied out before it takes effect where that can be: a message
//!   whose description cannot be written is not received.

use crate::{
    compat::{self, eisconn, enametoolong, eopnotsupp},
    handle::{Handle, Shared},
    helpers::{self, c, limits, UserBytes},
    inspect,
    mailbox::{Failure, Receive},
    queue::Capacity,
    registry::{Attributes, Changes, Name},
    uapi,
    wait::Wait,
};
use core::{mem::size_of, pin::Pin, ptr::NonNull};
use kernel::{
    bindings,
    ffi::c_void,
    fs::{
        file::{flags, FileDescriptorReservation},
        File,
    },
    iov::{IovIterDest, IovIterSource},
    prelude::*,
    sync::{aref::ARef, Arc},
    types::{ForeignOwnable, Opaque},
};

/// The most entries of a batch: what one call does before it looks at signals again.
const BATCH_MAX: u32 = 1024;

const RIGHTS: u32 =
    uapi::POSTBOX_RIGHT_SEND | uapi::POSTBOX_RIGHT_RECEIVE | uapi::POSTBOX_RIGHT_ADMIN;

/// An argument struct.
///
/// # Safety
///
/// It is made of integers, without padding, and begins with a `u32`: its size. It consists of
/// whole words of 64 bits.
unsafe trait Args: Default {
    /// Its first size, below which it has never been.
    const MIN: usize = size_of::<Self>();
}

// SAFETY: By the rules of the header, which its own tests check.
unsafe impl Args for uapi::postbox_version {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_open {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_dup {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_unlink {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_attr {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_info {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_list {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_usage {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_send {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_recv {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_ack {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_reserve {}
// SAFETY: As above.
unsafe impl Args for uapi::postbox_batch {}

/// Where an argument is in user memory, and how large the caller thinks that it is.
#[derive(Clone, Copy)]
struct Place {
    address: usize,
    size: usize,
}

impl Place {
    /// Reads an argument.
    fn read<T: Args>(address: usize, args: &mut T) -> Result<Self> {
        let mut size = 0;
        // SAFETY: `args` is valid for writing, and can be made of any bytes.
        kernel::error::to_result(unsafe {
            c::postbox_read_args(
                core::ptr::from_mut(args).cast(),
                size_of::<T>(),
                T::MIN,
                address as *const c_void,
                &mut size,
            )
        })?;
        Ok(Self { address, size })
    }

    /// Writes an argument back, as much of it as the caller knows.
    fn write<T: Args>(self, args: &T) -> Result {
        // SAFETY: `args` is valid for reading, and made of whole words.
        kernel::error::to_result(unsafe {
            c::postbox_write_args(
                core::ptr::from_ref(args).cast(),
                size_of::<T>(),
                self.address as *mut c_void,
                self.size,
            )
        })
    }
}

/// Calls `request` with the argument at an address.
fn with<T: Args>(address: usize, request: impl FnOnce(Place, &mut T) -> Result) -> Result {
    let mut args = T::default();
    let at = Place::read(address, &mut args)?;
    request(at, &mut args)
}

fn address(pointer: u64) -> Result<usize> {
    usize::try_from(pointer).map_err(|_| EFAULT)
}

fn name(pointer: u64, len: u32) -> Result<Name> {
    let mut bytes = [0; uapi::POSTBOX_NAME_MAX as usize];
    let bytes = bytes.get_mut(..len as usize).ok_or_else(enametoolong)?;
    UserBytes::at(address(pointer)?).copy_to(bytes)?;
    Name::new(bytes)
}

fn ensure(condition: bool) -> Result {
    if condition {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

// What works on every handle.

fn version(at: Place, args: &mut uapi::postbox_version) -> Result {
    ensure(args.reserved == 0)?;
    args.abi = uapi::POSTBOX_ABI;
    args.features = 0;
    args.message_max = limits::message();
    args.batch_max = BATCH_MAX;
    at.write(args)
}

fn list(handle: &Handle, at: Place, args: &mut uapi::postbox_list) -> Result {
    let size = args.info_size as usize;
    ensure(args.reserved == 0 && (uapi::postbox_info::MIN..=4096).contains(&size))?;
    let mut done = 0;
    let mut after = args.after;
    while done < args.count {
        let Some(info) = handle.shared.registry.next(handle.ipc_ns, after) else {
            break;
        };
        after = info.id;
        let to = (done as usize)
            .checked_mul(size)
            .and_then(|offset| offset.checked_add(address(args.infos).ok()?))
            .ok_or(EFAULT)?;
        Place { address: to, size }.write(&info)?;
        done += 1;
        if helpers::dying() {
            return Err(EINTR);
        }
    }
    args.count = done;
    at.write(args)
}

fn usage(handle: &Handle, at: Place, args: &mut uapi::postbox_usage) -> Result {
    let usage = handle.user.usage();
    args.uid = helpers::see_uid(handle.user.uid);
    (args.messages, args.messages_max) = usage.messages;
    (args.bytes, args.bytes_max) = usage.bytes;
    (args.objects, args.objects_max) = usage.objects;
    at.write(args)
}

fn unlink(handle: &Handle, args: &uapi::postbox_unlink) -> Result {
    let name = name(args.name, args.name_len)?;
    handle.shared.registry.unlink(handle.ipc_ns, &name)
}

// Binding a handle, and what a bound one can tell and change.

fn open(handle: &Handle, at: Place, args: &mut uapi::postbox_open) -> Result {
    const FLAGS: u32 = uapi::POSTBOX_O_CREATE | uapi::POSTBOX_O_EXCL | uapi::POSTBOX_O_PERSIST;
    ensure(args.reserved == 0 && args.flags & !FLAGS == 0)?;
    ensure(args.rights != 0 && args.rights & !RIGHTS == 0 && args.mode <= 0o777)?;
    let create = args.flags & uapi::POSTBOX_O_CREATE != 0;
    let exclusive = args.flags & uapi::POSTBOX_O_EXCL != 0;
    let persistent = args.flags & uapi::POSTBOX_O_PERSIST != 0;
    ensure(create || !(exclusive || persistent))?;
    if args.kind != uapi::POSTBOX_KIND_MAILBOX {
        return Err(eopnotsupp());
    }
    if handle.bound().is_ok() {
        return Err(eisconn());
    }
    let name = if args.name == 0 {
        ensure(args.name_len == 0 && create && !persistent)?;
        None
    } else {
        Some(name(args.name, args.name_len)?)
    };
    let registry = &handle.shared.registry;
    let opened = match &name {
        Some(name) if !create => registry.open(handle.ipc_ns, name, args.rights)?,
        _ => registry.create(
            handle.ipc_ns,
            name,
            exclusive,
            args.rights,
            &Attributes {
                capacity: Capacity {
                    messages: args.capacity,
                    bytes: match args.capacity_bytes {
                        0 => uapi::POSTBOX_UNBOUNDED,
                        bytes => bytes,
                    },
                },
                message_max: args.message_max,
                mode: args.mode,
                persistent,
            },
            &handle.user,
        )?,
    };
    args.id = opened.id;
    args.created = opened.created.into();
    if let Err(error) = at.write(args) {
        registry.close(opened.id);
        return Err(error);
    }
    handle.bind(opened, args.rights)
}

fn dup(handle: &Handle, at: Place, args: &mut uapi::postbox_dup) -> Result {
    ensure(args.reserved == 0 && args.rights & !RIGHTS == 0)?;
    let second = handle.dup(args.rights)?;
    let fd = FileDescriptorReservation::get_unused_fd_flags(flags::O_CLOEXEC)?;
    let file = new_file(second)?;
    args.fd = fd.reserved_fd() as i32;
    at.write(args)?;
    fd.fd_install(file);
    Ok(())
}

fn set_attr(handle: &Handle, args: &uapi::postbox_attr) -> Result {
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
    handle.mailbox(uapi::POSTBOX_RIGHT_ADMIN)?;
    handle.shared.registry.change(handle.bound()?.id, &changes)
}

fn info(handle: &Handle, at: Place) -> Result {
    let bound = handle.bound()?;
    at.write(&handle.shared.registry.info(bound.id, bound.rights)?)
}

// Messages.

/// Sends one message, whose flags were checked.
fn send_one(handle: &Handle, args: &uapi::postbox_send, wait: &Wait) -> Result {
    ensure(args.reserved == 0 && args.priority <= uapi::POSTBOX_PRIORITY_MAX)?;
    let mailbox = handle.mailbox(uapi::POSTBOX_RIGHT_SEND)?;
    if args.len > mailbox.message_max() || args.len > limits::message() {
        return Err(EMSGSIZE);
    }
    let len = args.len as usize;
    let mut payload = UserBytes::at(address(args.data)?);
    let mut message = mailbox.message()?;
    message.fill(args.priority as u16, len, handle, &mut payload)?;
    if args.flags & uapi::POSTBOX_SEND_RESERVED != 0 {
        mailbox.send_reserved(&handle.state, message, args.reserved_len)
    } else {
        mailbox.send(message, wait)
    }
}

fn send(handle: &Handle, args: &uapi::postbox_send, nonblocking: bool) -> Result {
    ensure(args.flags & !(Wait::FLAGS | uapi::POSTBOX_SEND_RESERVED) == 0)?;
    ensure(args.flags & uapi::POSTBOX_SEND_RESERVED != 0 || args.reserved_len == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, nonblocking)?;
    send_one(handle, args, &wait)
}

/// Receives one message, whose flags were checked.
fn recv_one(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_recv,
    wait: Wait,
    lease: bool,
) -> Result {
    let mailbox = handle.mailbox(uapi::POSTBOX_RIGHT_RECEIVE)?;
    let how = Receive {
        room: usize::try_from(args.len).unwrap_or(usize::MAX),
        wait,
        lease: lease.then(|| (&handle.state, helpers::process())),
    };
    let to = UserBytes::at(address(args.data)?);
    let received = mailbox.receive(&how, |message| {
        let payload = message.payload();
        to.copy_from(payload)?;
        let (node, sender) = (message.node(), message.sender());
        args.msg_len = payload.len() as u64;
        args.token = if lease { node.token() } else { 0 };
        args.priority = node.priority().into();
        args.msg_flags = if node.redelivered() {
            uapi::POSTBOX_MSG_REDELIVERED
        } else {
            0
        };
        args.pid = sender.pid;
        args.tid = sender.tid;
        args.uid = sender.uid;
        args.gid = sender.gid;
        args.pidfd_ino = sender.pidfd_ino;
        at.write(args)
    });
    match received {
        Ok(()) => Ok(()),
        Err(Failure::Error(error)) => Err(error),
        Err(Failure::TooSmall(len)) => {
            args.msg_len = len;
            at.write(args)?;
            Err(EMSGSIZE)
        }
    }
}

fn recv(handle: &Handle, at: Place, args: &mut uapi::postbox_recv, nonblocking: bool) -> Result {
    ensure(args.flags & !(Wait::FLAGS | uapi::POSTBOX_RECV_ACK) == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, nonblocking)?;
    let lease = args.flags & uapi::POSTBOX_RECV_ACK != 0;
    recv_one(handle, at, args, wait, lease)
}

fn ack(handle: &Handle, args: &uapi::postbox_ack) -> Result {
    ensure(args.flags & !uapi::POSTBOX_ACK_REQUEUE == 0)?;
    let requeue = args.flags & uapi::POSTBOX_ACK_REQUEUE != 0;
    handle
        .mailbox(uapi::POSTBOX_RIGHT_RECEIVE)?
        .acknowledge(&handle.state, args.token, requeue)
}

fn reserve(handle: &Handle, args: &uapi::postbox_reserve, nonblocking: bool) -> Result {
    ensure(args.flags & !(Wait::FLAGS | uapi::POSTBOX_RESERVE_CANCEL) == 0)?;
    let mailbox = handle.mailbox(uapi::POSTBOX_RIGHT_SEND)?;
    if args.flags & uapi::POSTBOX_RESERVE_CANCEL != 0 {
        ensure(args.flags & Wait::FLAGS == 0 && args.timeout_ns == 0)?;
        return mailbox.unreserve(&handle.state, args.len);
    }
    let wait = Wait::new(args.flags, args.timeout_ns, nonblocking)?;
    if args.len > mailbox.message_max() || args.len > limits::message() {
        return Err(EMSGSIZE);
    }
    mailbox.reserve(&handle.state, args.len, &wait)
}

/// Calls `one` for each entry of a batch until one fails.
fn batch<T: Args>(
    at: Place,
    args: &mut uapi::postbox_batch,
    mut one: impl FnMut(u32, Place, &mut T) -> Result,
) -> Result {
    let count = args.count;
    ensure((1..=BATCH_MAX).contains(&count))?;
    let size = args.entry_size as usize;
    let entries = address(args.entries)?;
    // That it cannot be written is found while nothing has happened yet. It stays as it is until
    // the end: the call may be restarted.
    at.write(args)?;
    let mut done = 0;
    let mut result = Ok(());
    while done < count {
        result = (|| {
            let offset = (done as usize).checked_mul(size).ok_or(EFAULT)?;
            with(
                entries.checked_add(offset).ok_or(EFAULT)?,
                |place, entry| {
                    ensure(place.size == size)?;
                    one(done, place, entry)
                },
            )
        })();
        if result.is_err() {
            break;
        }
        done += 1;
    }
    if done == 0 {
        return result;
    }
    args.count = done;
    at.write(args)
}

fn send_batch(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_batch,
    nonblocking: bool,
) -> Result {
    ensure(args.flags & !Wait::FLAGS == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, nonblocking)?;
    batch(at, args, |_, _, entry: &mut uapi::postbox_send| {
        ensure(entry.flags == 0 && entry.timeout_ns == 0 && entry.reserved_len == 0)?;
        send_one(handle, entry, &wait)
    })
}

fn recv_batch(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_batch,
    nonblocking: bool,
) -> Result {
    ensure(args.flags & !(Wait::FLAGS | uapi::POSTBOX_RECV_ACK) == 0)?;
    let lease = args.flags & uapi::POSTBOX_RECV_ACK != 0;
    let first = Wait::new(args.flags, args.timeout_ns, nonblocking)?;
    batch(at, args, |done, place, entry: &mut uapi::postbox_recv| {
        ensure(entry.flags == 0 && entry.timeout_ns == 0)?;
        let wait = if done == 0 { first } else { Wait::Never };
        recv_one(handle, place, entry, wait, lease)
    })
}

fn dispatch(handle: &Handle, request: u32, arg: usize, nonblocking: bool) -> Result {
    match request {
        uapi::POSTBOX_SEND => with(arg, |_, args| send(handle, args, nonblocking)),
        uapi::POSTBOX_RECV => with(arg, |at, args| recv(handle, at, args, nonblocking)),
        _ => dispatch_other(handle, request, arg, nonblocking),
    }
}

/// Apart, so that the stack frames of the two above stay small.
#[inline(never)]
fn dispatch_other(handle: &Handle, request: u32, arg: usize, nonblocking: bool) -> Result {
    match request {
        uapi::POSTBOX_ACK => with(arg, |_, args| ack(handle, args)),
        uapi::POSTBOX_RESERVE => with(arg, |_, args| reserve(handle, args, nonblocking)),
        uapi::POSTBOX_SEND_BATCH => with(arg, |at, args| send_batch(handle, at, args, nonblocking)),
        uapi::POSTBOX_RECV_BATCH => with(arg, |at, args| recv_batch(handle, at, args, nonblocking)),
        uapi::POSTBOX_VERSION => with(arg, version),
        uapi::POSTBOX_OPEN => with(arg, |at, args| open(handle, at, args)),
        uapi::POSTBOX_DUP => with(arg, |at, args| dup(handle, at, args)),
        uapi::POSTBOX_UNLINK => with(arg, |_, args| unlink(handle, args)),
        uapi::POSTBOX_SET_ATTR => with(arg, |_, args| set_attr(handle, args)),
        uapi::POSTBOX_INFO => with(arg, |at, _: &mut uapi::postbox_info| info(handle, at)),
        uapi::POSTBOX_LIST => with(arg, |at, args| list(handle, at, args)),
        uapi::POSTBOX_USAGE => with(arg, |at, args| usage(handle, at, args)),
        _ => Err(ENOTTY),
    }
}

// File operations.

/// The registration of `/dev/postbox`.
#[pin_data(PinnedDrop)]
#[repr(C)] // `misc` is first: it is what open() gets.
pub(crate) struct Device {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    shared: Arc<Shared>,
}

// SAFETY: The C part is only touched to register and deregister it.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    pub(crate) fn new(shared: Arc<Shared>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            shared,
            misc <- Opaque::try_ffi_init(|slot: *mut bindings::miscdevice| {
                // SAFETY: The slot is pinned, and stays until it is deregistered in `drop`.
                // `shared` was set before it, so that open() finds it.
                unsafe {
                    slot.write(bindings::miscdevice {
                        minor: bindings::MISC_DYNAMIC_MINOR as i32,
                        name: c"postbox".as_char_ptr(),
                        fops: &FOPS.0,
                        mode: 0o660,
                        ..pin_init::zeroed()
                    });
                    kernel::error::to_result(bindings::misc_register(slot))
                }
            }),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Device {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It was registered. No file is open: each holds a reference to the module.
        unsafe { bindings::misc_deregister(self.misc.get()) };
    }
}

struct Operations(bindings::file_operations);

// SAFETY: It is never written to.
unsafe impl Sync for Operations {}

static FOPS: Operations = Operations(bindings::file_operations {
    owner: compat::THIS_MODULE_PTR,
    open: Some(fop_open),
    flush: Some(fop_flush),
    release: Some(fop_release),
    poll: Some(fop_poll),
    unlocked_ioctl: Some(fop_ioctl),
    // 32-bit programs use the same layout.
    compat_ioctl: bindings::compat_ptr_ioctl,
    read_iter: Some(fop_read_iter),
    write_iter: Some(fop_write_iter),
    show_fdinfo: Some(inspect::show_fdinfo),
    ..pin_init::zeroed()
});

type Foreign = Pin<KBox<Handle>>;

/// The handle of a file.
///
/// # Safety
///
/// `file` is one of ours, and open for as long as the handle is used.
pub(crate) unsafe fn handle<'a>(file: *const bindings::file) -> Pin<&'a Handle> {
    // SAFETY: The private data of our files was set by `into_foreign`, and is taken back in
    // release, after every other operation.
    unsafe { Foreign::borrow((*file).private_data) }
}

/// A file for a handle that has not come through the device node.
fn new_file(handle: Foreign) -> Result<ARef<File>> {
    let private = handle.into_foreign();
    // SAFETY: The operations are ours, and `private` is what they expect.
    let file = unsafe { c::postbox_file_new(&FOPS.0, private) };
    match kernel::error::from_err_ptr(file) {
        // SAFETY: It is a new file, to which this is the only reference.
        Ok(file) => Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(file.cast())) }),
        Err(error) => {
            // SAFETY: There is no file that would do so.
            drop(unsafe { Foreign::from_foreign(private) });
            Err(error)
        }
    }
}

fn code(result: Result) -> i32 {
    result.map_or_else(|error| error.to_errno(), |()| 0)
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_open(inode: *mut bindings::inode, file: *mut bindings::file) -> i32 {
    // SAFETY: The misc device put a pointer to itself there, and it is the first field of a
    // `Device`, which is registered.
    let shared = unsafe { (*(*file).private_data.cast::<Device>()).shared.clone() };
    code(Handle::new(shared, helpers::ipc_ns()).map(|handle| {
        // SAFETY: The file is being opened, by us alone.
        unsafe {
            (*file).private_data = handle.into_foreign();
            c::postbox_file_init(inode, file);
        }
    }))
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_flush(file: *mut bindings::file, owner: bindings::fl_owner_t) -> i32 {
    // SAFETY: The file is one of ours, and open.
    unsafe {
        let handle = handle(file);
        // Looking through all descriptors is worth it only for who has something to give back.
        if handle.state.lock().leases() > 0 && c::postbox_closed(file) {
            handle.process_closed(owner as usize);
        }
    }
    0
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_release(_: *mut bindings::inode, file: *mut bindings::file) -> i32 {
    // SAFETY: Nobody else has the file any more.
    drop(unsafe { Foreign::from_foreign((*file).private_data) });
    0
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_poll(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: The file is one of ours, and open.
    let handle = unsafe { handle(file) };
    let Ok(bound) = handle.bound() else {
        return bindings::POLLERR;
    };
    let (sends, receives) = handle.directions();
    // SAFETY: Both are those of this poll. The handle keeps the mailbox, and the file the handle.
    unsafe {
        bound
            .mailbox
            .poll(File::from_raw_file(file), table, sends, receives)
    }
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_ioctl(file: *mut bindings::file, request: u32, arg: usize) -> isize {
    // SAFETY: The file is one of ours, and open.
    let (handle, nonblocking) = unsafe { (handle(file), (*file).f_flags & flags::O_NONBLOCK != 0) };
    code(dispatch(&handle, request, arg, nonblocking)) as isize
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_read_iter(
    iocb: *mut bindings::kiocb,
    iter: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: Both are valid for the call, and the file is one of ours.
    let (handle, wait, iter) = unsafe {
        (
            handle((*iocb).ki_filp),
            wait_of(iocb),
            IovIterDest::from_raw(iter),
        )
    };
    // SAFETY: It is valid for the call.
    let plain = unsafe { plain_bytes(iter.as_raw()) };
    let mut read = || -> Result<usize, Failure> {
        let mailbox = handle.mailbox(uapi::POSTBOX_RIGHT_RECEIVE)?;
        let how = Receive {
            room: iter.len(),
            wait,
            lease: None,
        };
        mailbox.receive(&how, |message| {
            let payload = message.payload();
            if let Some(bytes) = plain {
                return bytes.copy_from(payload).map(|()| payload.len());
            }
            let copied = iter.copy_to_iter(payload);
            if copied != payload.len() {
                // The message stays, and the next try starts where this one did.
                // SAFETY: So many bytes were just copied.
                unsafe { iter.revert(copied) };
                return Err(EFAULT);
            }
            Ok(copied)
        })
    };
    match read() {
        Ok(read) => read as isize,
        // The end of the stream.
        Err(Failure::Error(error)) if error == EPIPE => 0,
        Err(Failure::Error(error)) => error.to_errno() as isize,
        Err(Failure::TooSmall(_)) => EMSGSIZE.to_errno() as isize,
    }
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_write_iter(
    iocb: *mut bindings::kiocb,
    iter: *mut bindings::iov_iter,
) -> isize {
    // SAFETY: Both are valid for the call, and the file is one of ours.
    let (handle, wait, iter) = unsafe {
        (
            handle((*iocb).ki_filp),
            wait_of(iocb),
            IovIterSource::from_raw(iter),
        )
    };
    // SAFETY: It is valid for the call.
    let plain = unsafe { plain_bytes(iter.as_raw()) };
    let mut write = || -> Result<usize> {
        let mailbox = handle.mailbox(uapi::POSTBOX_RIGHT_SEND)?;
        let len = iter.len();
        if len as u64 > mailbox.message_max().min(limits::message()) {
            return Err(EMSGSIZE);
        }
        let mut message = mailbox.message()?;
        match plain {
            Some(mut bytes) => message.fill(0, len, &handle, &mut bytes)?,
            None => message.fill(0, len, &handle, iter)?,
        }
        mailbox.send(message, &wait)?;
        Ok(len)
    };
    write().map_or_else(|error| error.to_errno() as isize, |len| len as isize)
}

/// The bytes of a plain read() or write(), which need no iterator to be copied.
///
/// # Safety
///
/// `iter` is valid.
unsafe fn plain_bytes(iter: *const bindings::iov_iter) -> Option<UserBytes> {
    // SAFETY: By the contract.
    let at = unsafe { c::postbox_user_bytes(iter) };
    (!at.is_null()).then(|| UserBytes::at(at as usize))
}

/// # Safety
///
/// `iocb` is valid.
unsafe fn wait_of(iocb: *const bindings::kiocb) -> Wait {
    // SAFETY: By the contract.
    let (iocb_flags, file_flags) = unsafe { ((*iocb).ki_flags, (*(*iocb).ki_filp).f_flags) };
    if iocb_flags & helpers::IOCB_NOWAIT != 0 || file_flags & flags::O_NONBLOCK != 0 {
        Wait::Never
    } else {
        Wait::Forever
    }
}
