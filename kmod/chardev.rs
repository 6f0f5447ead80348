// SPDX-License-Identifier: GPL-2.0
//! `/dev/postbox`: its file operations. The only door; what comes through it is decoded in
//! `request`.

use crate::{
    compat,
    handle::{Handle, Shared},
    helpers::{self, c, limits, UserBytes},
    inspect,
    mailbox::{Failure, Mailbox, Receive},
    mapping::Area,
    message::{Author, Message, Source},
    pause::Caller,
    registry::Shrinker,
    request::{self, pipe},
    share::Leaving,
    uapi, uring,
    wait::{How, Wait},
};
use core::{pin::Pin, ptr::NonNull};
use kernel::{
    bindings,
    ffi::c_char,
    fs::{file::flags, File},
    iov::{IovIterDest, IovIterSource},
    prelude::*,
    sync::{aref::ARef, Arc},
    types::{ForeignOwnable, Opaque},
};

/// The registration of `/dev/postbox`.
#[pin_data(PinnedDrop)]
#[repr(C)] // `misc` is first: it is what open() gets.
pub(crate) struct Device {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    /// Before `shared`, so that it is dropped before the registry.
    _shrinker: Shrinker,
    shared: Arc<Shared>,
}

// SAFETY: The C part is only touched to register and deregister it.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    pub(crate) fn new(shared: Arc<Shared>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _: {
                // SAFETY: `shared` keeps the registry until `drop`, which stops the sweeping.
                unsafe {
                    c::postbox_sweep_init(core::ptr::from_ref(&shared.registry).cast());
                }
            },
            // SAFETY: There is one device. Its registry was given to `postbox_sweep_init`, and is kept by
            // `shared`, which is dropped after this.
            _shrinker: unsafe { Shrinker::new() }?,
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
        // SAFETY: It was started, if at all, with our registry.
        unsafe { c::postbox_sweep_stop() };
        self.shared.registry.clear();
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
    read: Some(fop_read),
    write: Some(fop_write),
    read_iter: Some(fop_read_iter),
    write_iter: Some(fop_write_iter),
    mmap: Some(fop_mmap),
    uring_cmd: Some(uring::fop_uring_cmd),
    get_unmapped_area: Some(fop_get_unmapped_area),
    show_fdinfo: Some(inspect::show_fdinfo),
    ..pin_init::zeroed()
});

pub(crate) type Foreign = Pin<KBox<Handle>>;

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

/// The handle of a file, if it is one of ours.
pub(crate) fn as_handle(file: &File) -> Option<Pin<&Handle>> {
    // SAFETY: The file is valid, and its operations are never changed.
    let ours = unsafe { core::ptr::eq((*file.as_ptr()).f_op, &FOPS.0) };
    // SAFETY: It is one of ours, and open for as long as it is borrowed.
    ours.then(|| unsafe { handle(file.as_ptr()) })
}

/// A file for a handle that has not come through the device node.
pub(crate) fn new_file(handle: Foreign) -> Result<ARef<File>> {
    let private = handle.into_foreign();
    // SAFETY: The operations are ours, and `private` is what they expect.
    let file = unsafe { c::postbox_file_new(&FOPS.0, private) };
    match kernel::error::from_err_ptr(file) {
        // SAFETY: It is a new file of ours, to which this is the only reference.
        Ok(file) => unsafe {
            let file = NonNull::new_unchecked(file);
            self::handle(file.as_ptr()).state.shares.belongs_to(file);
            Ok(ARef::from_raw(file.cast()))
        },
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
    // A handle does what its opener asks for in each request, so that the device's mode is to let
    // the opener both read and write, whatever it opens the device for.
    //
    // SAFETY: The file is being opened.
    if unsafe { !c::postbox_file_both(file) } {
        return EACCES.to_errno();
    }
    // SAFETY: The misc device put a pointer to itself there, and it is the first field of a
    // `Device`, which is registered.
    let shared = unsafe { (*(*file).private_data.cast::<Device>()).shared.clone() };
    code(Handle::new(shared, helpers::ipc_ns()).map(|handle| {
        if let Some(file) = NonNull::new(file) {
            handle.state.shares.belongs_to(file);
        }
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
unsafe extern "C" fn fop_flush(file: *mut bindings::file, _: bindings::fl_owner_t) -> i32 {
    let process = helpers::process();
    // SAFETY: The file is one of ours, and open.
    unsafe {
        let handle = handle(file);
        // Looking through all descriptors is worth it only for who has something to give back.
        let has = handle.state.shares.has(process);
        if has && c::postbox_closed(file) {
            let process = Some(process);
            handle.process_closed(Leaving { process });
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
    let (handle, file) = unsafe { (handle(file), File::from_raw_file(file)) };
    let mut table = table;
    if handle.bound().is_err() {
        // SAFETY: Both are those of this poll, and the file keeps the handle.
        unsafe { handle.relay.add(file, table) };
        // If it is bound now, the relay wakes: a poller is on one queue or on the other.
        table = core::ptr::null_mut();
    }
    let Ok(bound) = handle.bound() else {
        return bindings::POLLERR;
    };
    // SAFETY: `file` is the one that is polled, and the tables are of this poll, of the relay, or
    // NULL. The handle keeps the object and the relay, and the file the handle.
    let poll = |table| unsafe {
        bound
            .object
            .poll(bound.side(), &handle.state.shares, file, table)
    };
    handle.relay.start(|relay| {
        poll(relay);
    });
    poll(table)
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_ioctl(file: *mut bindings::file, request: u32, arg: usize) -> isize {
    // SAFETY: The file is one of ours, and open.
    let (handle, nonblocking) = unsafe { (handle(file), (*file).f_flags & flags::O_NONBLOCK != 0) };
    let handle = handle.get_ref();
    let caller = Caller::new(handle, request, arg);
    // A call has no form that does not wait.
    let how = match nonblocking && request != uapi::POSTBOX_CALL {
        true => How::Nonblocking,
        false => How::Call(&caller),
    };
    code(caller.end(request::dispatch(handle, request, arg, how))) as isize
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_mmap(
    file: *mut bindings::file,
    vma: *mut bindings::vm_area_struct,
) -> i32 {
    // SAFETY: The file is one of ours, and open; the mapping is being made.
    let (handle, area) = unsafe { (handle(file), Area::new(vma)) };
    code(area.and_then(|area| handle.map(&area)))
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_get_unmapped_area(
    file: *mut bindings::file,
    addr: usize,
    len: usize,
    pgoff: usize,
    flags: usize,
) -> usize {
    // SAFETY: The file is one of ours, and open.
    let bound = unsafe { handle(file) }.get_ref().bound();
    match bound.ok().and_then(|bound| bound.object.memory()) {
        Some(memory) => memory.place(addr, len, pgoff, flags),
        // SAFETY: The file is valid, and the current task maps it.
        None => unsafe { bindings::mm_get_unmapped_area(file, addr, len, pgoff, flags) },
    }
}

/// What a read returns.
fn read_result(read: Result<usize, Failure>) -> isize {
    match read {
        Ok(read) => read as isize,
        // The end of the stream.
        Err(Failure::Error(error)) if error == EPIPE => 0,
        Err(Failure::Error(error)) => error.to_errno() as isize,
        Err(Failure::TooSmall(_)) => EMSGSIZE.to_errno() as isize,
    }
}

/// What a write returns.
fn write_result(write: Result<usize>) -> isize {
    write.map_or_else(|error| error.to_errno() as isize, |len| len as isize)
}

/// Whether a read or write waits.
fn wait(never: bool) -> Wait<'static> {
    if never {
        Wait::Never
    } else {
        Wait::Forever
    }
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_read(
    file: *mut bindings::file,
    buffer: *mut c_char,
    len: usize,
    _: *mut bindings::loff_t,
) -> isize {
    // SAFETY: The file is one of ours, and open.
    let (handle, nonblocking) = unsafe { (handle(file), (*file).f_flags & flags::O_NONBLOCK != 0) };
    let (to, wait) = (UserBytes::at(buffer as usize), wait(nonblocking));
    read_result(match handle.rx() {
        Ok(mailbox) => mailbox.receive_bytes(&handle, to, len, wait),
        Err(_) => pipe::read_bytes(&handle, to, len, &wait).map_err(Failure::Error),
    })
}

/// # Safety
///
/// Called as the file operation of that name, with what belongs to it.
unsafe extern "C" fn fop_write(
    file: *mut bindings::file,
    buffer: *const c_char,
    len: usize,
    _: *mut bindings::loff_t,
) -> isize {
    // SAFETY: The file is one of ours, and open.
    let (handle, nonblocking) = unsafe { (handle(file), (*file).f_flags & flags::O_NONBLOCK != 0) };
    let (mut from, wait) = (UserBytes::at(buffer as usize), wait(nonblocking));
    write_result(match handle.tx() {
        Ok(mailbox) => write_message(&handle, mailbox, Author::Opener, 0, len, &mut from, &wait),
        Err(_) => pipe::write_bytes(&handle, from, len, &wait),
    })
}

/// Sends what is written as one message.
#[inline(always)]
pub(crate) fn write_message(
    handle: &Handle,
    mailbox: &Mailbox,
    author: Author,
    priority: u16,
    len: usize,
    from: &mut impl Source,
    wait: &Wait<'_>,
) -> Result<usize> {
    let message = compose(handle, mailbox, author, priority, len, from)?;
    mailbox.send(message, wait)?;
    Ok(len)
}

/// Makes a message of bytes alone.
#[inline(always)]
pub(crate) fn compose(
    handle: &Handle,
    mailbox: &Mailbox,
    author: Author,
    priority: u16,
    len: usize,
    from: &mut impl Source,
) -> Result<KBox<Message>> {
    if len as u64 > mailbox.message_max().min(limits::message()) {
        return Err(EMSGSIZE);
    }
    let mut message = mailbox.message()?;
    message.fill(author, priority, len, handle, from)?;
    Ok(message)
}

/// For what has its bytes in more than one place: readv(), io_uring.
///
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
    read_result(match handle.rx() {
        Ok(mailbox) => receive_iter(&handle, mailbox, iter, wait),
        Err(_) => pipe::read_iter(&handle, iter, &wait).map_err(Failure::Error),
    })
}

/// Receives one message into bytes in several places.
pub(crate) fn receive_iter(
    handle: &Handle,
    mailbox: &Mailbox,
    iter: &mut IovIterDest<'_>,
    wait: Wait<'_>,
) -> Result<usize, Failure> {
    let mut copied = 0;
    mailbox.receive(&Receive::any(handle, iter.len(), wait), |message| {
        let payload = message.payload();
        if copied != 0 {
            // A message that was withdrawn after it was copied leaves its place to the next one.
            // SAFETY: The last call has copied so many bytes.
            unsafe { iter.revert(copied) };
        }
        copied = iter.copy_to_iter(payload);
        if copied != payload.len() {
            // The message stays, and the next try starts where this one did.
            // SAFETY: So many bytes were just copied.
            unsafe { iter.revert(copied) };
            copied = 0;
            return Err(EFAULT);
        }
        Ok(copied)
    })
}

/// As [`fop_read_iter`].
///
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
    write_result(match handle.tx() {
        Ok(mailbox) => write_message(&handle, mailbox, Author::Opener, 0, iter.len(), iter, &wait),
        Err(_) => pipe::write_iter(&handle, iter, &wait),
    })
}

/// # Safety
///
/// `iocb` is valid.
unsafe fn wait_of(iocb: *const bindings::kiocb) -> Wait<'static> {
    // SAFETY: By the contract.
    let (iocb_flags, file_flags) = unsafe { ((*iocb).ki_flags, (*(*iocb).ki_filp).f_flags) };
    wait(iocb_flags & helpers::IOCB_NOWAIT != 0 || file_flags & flags::O_NONBLOCK != 0)
}
