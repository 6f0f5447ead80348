// SPDX-License-Identifier: GPL-2.0
//! What can be seen from outside: debugfs, and the fdinfo of a handle.

use crate::{chardev, handle::Shared, uapi};
use kernel::{
    bindings,
    debugfs::{Dir, File},
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::Arc,
};

/// `/sys/kernel/debug/postbox`.
#[pin_data]
pub(crate) struct Debugfs {
    #[pin]
    objects: File<Arc<Shared>>,
    _dir: Dir,
}

impl Debugfs {
    pub(crate) fn new(shared: Arc<Shared>) -> impl PinInit<Self, Error> {
        let dir = Dir::new(c"postbox");
        try_pin_init!(Self {
            objects <- dir.read_callback_file(c"objects", shared, &objects),
            _dir: dir,
        })
    }
}

/// Every object there is, of every namespace, a line each.
fn objects(shared: &Arc<Shared>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "id kind ipc_ns uid gid mode messages bytes unacknowledged senders receivers \
         waiting_senders waiting_receivers name"
    )?;
    let mut after = 0;
    while let Some((info, kind, ipc_ns)) = shared.registry.next_of_all(after) {
        after = info.id;
        write!(
            f,
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
        )?;
        if info.number != 0 {
            write!(f, ":{}", info.number)?;
        }
        for byte in info.name.iter().take(info.name_len as usize) {
            write!(f, "{}", char::from(*byte as u8))?;
        }
        writeln!(f)?;
    }
    Ok(())
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
