// SPDX-License-Identifier: GPL-2.0
//! What can be seen from outside: debugfs, and the fdinfo of a handle.

use crate::{chardev, handle::Shared, helpers::c, uapi};
use kernel::{bindings, ffi::c_void, seq_file::SeqFile, seq_print, sync::Arc};

/// `/sys/kernel/debug/postbox`. Its files are C's: those of the kernel crate do not keep the module
/// loaded while they are open.
pub(crate) struct Debugfs {
    dir: *mut bindings::dentry,
    _shared: Arc<Shared>,
}

// SAFETY: The directory is only touched when it is removed.
unsafe impl Send for Debugfs {}
// SAFETY: There is no operation on a shared reference.
unsafe impl Sync for Debugfs {}

impl Debugfs {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        // SAFETY: `_shared` keeps what the files show until they are removed.
        let dir = unsafe { c::postbox_debugfs_new(core::ptr::from_ref(&*shared).cast()) };
        Self {
            dir,
            _shared: shared,
        }
    }
}

impl Drop for Debugfs {
    fn drop(&mut self) {
        // SAFETY: It was made by `new`, and is removed once. Errors in its place are ignored.
        unsafe { c::postbox_debugfs_remove(self.dir) };
    }
}

/// Shows every object there is, of every namespace, a line each.
///
/// # Safety
///
/// `seq` is valid for the call, and `shared` is that of [`Debugfs::new`].
#[no_mangle]
unsafe extern "C" fn postbox_show_objects(seq: *mut bindings::seq_file, shared: *const c_void) {
    // SAFETY: `Debugfs` keeps it for as long as its files can be read.
    let (raw, seq, shared) = unsafe { (seq, SeqFile::from_raw(seq), &*shared.cast::<Shared>()) };
    shared.registry.sweep();
    seq_print!(
        seq,
        "id kind ipc_ns uid gid mode messages bytes unacknowledged senders receivers \
         waiting_senders waiting_receivers name\n"
    );
    // Objects that are made from now on are not shown: they may come faster than this goes.
    let last = shared.registry.last();
    let mut after = 0;
    while after < last {
        // SAFETY: `raw` is valid for the call.
        if unsafe { c::postbox_show_ends(raw) } {
            return;
        }
        let next = shared.registry.next_of_all(after);
        let Some((info, kind, ipc_ns)) = next.filter(|(info, ..)| info.id <= last) else {
            return;
        };
        after = info.id;
        seq_print!(
            seq,
            "{} {} {} {} {} {:04o} {} {} {} {} {} {} {} ",
            info.id,
            kind,
            ipc_ns,
            info.uid,
            info.gid,
            info.mode,
            info.messages,
            info.bytes,
            info.unacknowledged,
            info.senders,
            info.receivers,
            info.waiting_senders,
            info.waiting_receivers,
        );
        if info.number != 0 {
            seq_print!(seq, ":{}", info.number);
        }
        for byte in info.name.iter().take(info.name_len as usize) {
            seq_print!(seq, "{}", char::from(*byte as u8));
        }
        seq_print!(seq, "\n");
    }
}

/// What `/proc/PID/fdinfo/FD` says of a handle.
///
/// # Safety
///
/// Called as the file operation of one of our files.
pub(crate) unsafe extern "C" fn show_fdinfo(
    seq: *mut bindings::seq_file,
    file: *mut bindings::file,
) {
    // SAFETY: Both are valid for the call, and the file is one of ours.
    let (seq, handle) = unsafe { (SeqFile::from_raw(seq), chardev::handle(file)) };
    let Ok(bound) = handle.bound() else {
        seq_print!(seq, "postbox-kind:\tunbound\n");
        return;
    };
    let mut info = uapi::postbox_info::default();
    bound.object.describe(bound.end, &mut info);
    seq_print!(
        seq,
        "postbox-kind:\t{}\npostbox-id:\t{}\npostbox-rights:\t{}{}{}\n\
         postbox-messages:\t{}\npostbox-bytes:\t{}\npostbox-unacknowledged:\t{}\n\
         postbox-value:\t{}\n",
        bound.object.kind().1,
        bound.id,
        right(bound.rights, uapi::POSTBOX_RIGHT_SEND, "s"),
        right(bound.rights, uapi::POSTBOX_RIGHT_RECEIVE, "r"),
        right(bound.rights, uapi::POSTBOX_RIGHT_ADMIN, "a"),
        info.messages,
        info.bytes,
        info.unacknowledged,
        info.value,
    );
}

fn right(rights: u32, right: u32, letter: &'static str) -> &'static str {
    if rights & right != 0 {
        letter
    } else {
        "-"
    }
}
