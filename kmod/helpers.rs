// SPDX-License-Identifier: GPL-2.0
//! What `helpers.c` provides; the same declarations as in `helpers.h`.

use crate::uapi;
use core::{num::NonZeroU64, ptr::NonNull};
use kernel::{
    alloc::Flags,
    bindings,
    ffi::{c_uint, c_void},
    prelude::*,
};

/// Flags of every allocation that a program can cause: charged to its memory cgroup, and failed
/// with `ENOMEM`, without calling the OOM killer, where that cgroup or the system has no memory.
pub(crate) const GFP_MAYFAIL: Flags = {
    const RETRY_MAYFAIL: c_uint = 1 << bindings::___GFP_RETRY_MAYFAIL_BIT;
    const RAW: c_uint = bindings::GFP_KERNEL_ACCOUNT | RETRY_MAYFAIL | bindings::__GFP_NOWARN;
    // SAFETY: `Flags` is a struct of one `u32`, which the sizes being equal leaves in one place,
    // and any value of it is valid. The kernel crate has no name for `__GFP_RETRY_MAYFAIL`.
    unsafe { core::mem::transmute::<c_uint, Flags>(RAW) }
};

/// References to a sender's pids, and its ids as the kernel keeps them.
#[repr(C)]
pub(crate) struct RawIdentity {
    tgid: *mut bindings::pid,
    tid: *mut bindings::pid,
    ino: u64,
    uid: u32,
    gid: u32,
}

/// A sender as the current task sees it.
#[repr(C)]
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) pidfd_ino: u64,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Owner, group and mode of an object.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// What there is to know of memory that can be shared.
#[repr(C)]
#[derive(Default)]
pub(crate) struct RawMemory {
    pub(crate) size: u64,
    pub(crate) page_size: u64,
    pub(crate) frozen: bool,
    pub(crate) writable: bool,
}

/// Pages of the kernel that processes may map.
#[repr(C)]
pub(crate) struct RawPages {
    pages: *mut *mut bindings::page,
    pub(crate) address: *mut c_void,
    pub(crate) count: usize,
    twice: usize,
}

#[repr(C)]
struct RelayEntry {
    entry: bindings::wait_queue_entry,
    head: *mut bindings::wait_queue_head,
}

/// A wait queue, and entries that pass what wakes two others on to it.
#[repr(C)]
pub(crate) struct RawRelay {
    early: bindings::wait_queue_head,
    table: bindings::poll_table_struct,
    entries: [RelayEntry; 2],
    count: u32,
}

/// Who tells a command that a process exits.
#[repr(C)]
pub(crate) struct RawWatch {
    exit: RawExit,
    timer: *mut bindings::hrtimer,
    exited: bool,
}

/// A watch of the exit of a process.
#[repr(C)]
pub(crate) struct RawExit {
    node: bindings::list_head,
    watched: *mut c_void,
    line: *mut c_void,
    notify: *const c_void,
}

/// An io_uring command as it was submitted.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Look {
    pub(crate) addr: u64,
    /// A `struct postbox_uring`.
    pub(crate) args: [u64; 2],
    pub(crate) request: u32,
    /// The field that is not used.
    pub(crate) len: u32,
    pub(crate) group: u16,
    pub(crate) fixed: bool,
    pub(crate) multishot: bool,
}

/// A buffer of a group that was selected: a `struct io_br_sel`.
#[repr(C, align(8))]
#[derive(Default)]
pub(crate) struct Selected([u64; 2]);

impl Look {
    /// Its arguments.
    #[inline]
    pub(crate) fn uring(&self) -> uapi::postbox_uring {
        let [first, timeout_ns] = self.args;
        let [a, b, c, d, len @ ..] = first.to_ne_bytes();
        uapi::postbox_uring {
            flags: u16::from_ne_bytes([a, b]),
            priority: u16::from_ne_bytes([c, d]),
            len: u32::from_ne_bytes(len),
            timeout_ns,
        }
    }
}

pub(crate) mod c {
    use super::*;

    // The kernel's own structs contain some that are empty in this configuration.
    #[allow(improper_ctypes)]
    extern "C" {
        pub(crate) fn postbox_read_args(
            args: *mut c_void,
            args_size: usize,
            min_size: usize,
            from: *const c_void,
            user_size: *mut usize,
        ) -> i32;
        pub(crate) fn postbox_write_args(
            args: *const c_void,
            args_size: usize,
            to: *mut c_void,
            user_size: usize,
        ) -> i32;
        pub(crate) fn postbox_alloc(size: usize) -> *mut c_void;
        pub(crate) fn postbox_file_both(file: *mut bindings::file) -> bool;
        pub(crate) fn postbox_file_init(inode: *mut bindings::inode, file: *mut bindings::file);
        pub(crate) fn postbox_file_new(
            fops: *const bindings::file_operations,
            private: *mut c_void,
        ) -> *mut bindings::file;
        pub(crate) fn postbox_file_get(fd: u32, refused: *mut bool) -> *mut bindings::file;
        pub(crate) fn postbox_may_receive(file: *mut bindings::file) -> i32;
        pub(crate) fn postbox_closed(file: *mut bindings::file) -> bool;
        pub(crate) fn postbox_has_descriptor(file: *mut bindings::file) -> bool;
        pub(crate) fn postbox_file_try_get(file: *mut bindings::file) -> bool;
        pub(crate) fn postbox_exits_init() -> i32;
        pub(crate) fn postbox_exits_fini();
        pub(crate) fn postbox_reports() -> *mut bindings::workqueue_struct;
        pub(crate) fn postbox_exit_watch(watch: *mut RawExit, brief: bool) -> i32;
        pub(crate) fn postbox_exit_begun(watch: *const RawExit) -> bool;
        pub(crate) fn postbox_exit_let_go(watch: *mut RawExit);
        pub(crate) fn postbox_exit_stop(watch: *mut RawExit);
        pub(crate) fn postbox_poll_init(head: *mut bindings::wait_queue_head);
        pub(crate) fn postbox_poll_add(
            file: *mut bindings::file,
            head: *mut bindings::wait_queue_head,
            table: *mut bindings::poll_table_struct,
        );
        pub(crate) fn postbox_poll_wake(head: *mut bindings::wait_queue_head, mask: u32, all: bool);
        pub(crate) fn postbox_task_get(
            task: *mut bindings::task_struct,
        ) -> *mut bindings::task_struct;
        pub(crate) fn postbox_task_wake(task: *mut bindings::task_struct);
        pub(crate) fn postbox_task_hand_over(task: *mut bindings::task_struct, stay: bool) -> u64;
        pub(crate) fn postbox_wait(
            done: *const u32,
            timed: bool,
            until: i64,
            realtime: bool,
        ) -> i32;
        pub(crate) fn postbox_wait_while(
            done: *const u32,
            timed: bool,
            until: i64,
            realtime: bool,
            process: *mut bindings::pid,
        ) -> i32;
        pub(crate) fn postbox_relay_init(relay: *mut RawRelay);
        pub(crate) fn postbox_relay_add(
            relay: *mut RawRelay,
            file: *mut bindings::file,
            table: *mut bindings::poll_table_struct,
        );
        pub(crate) fn postbox_relay_wake(relay: *mut RawRelay);
        pub(crate) fn postbox_relay_needed(relay: *const RawRelay) -> bool;
        pub(crate) fn postbox_relay_table(relay: *mut RawRelay)
            -> *mut bindings::poll_table_struct;
        pub(crate) fn postbox_relay_stop(relay: *mut RawRelay);
        pub(crate) fn postbox_memory(file: *mut bindings::file, memory: *mut RawMemory) -> i32;
        pub(crate) fn postbox_memory_open(file: *const bindings::file) -> *mut bindings::file;
        pub(crate) fn postbox_memory_map(
            vma: *mut bindings::vm_area_struct,
            file: *mut bindings::file,
            size: u64,
            page_size: u64,
            writable: bool,
        ) -> i32;
        pub(crate) fn postbox_unmapped_area(
            file: *mut bindings::file,
            addr: usize,
            len: usize,
            pgoff: usize,
            flags: usize,
        ) -> usize;
        pub(crate) fn postbox_memory_reserve(
            file: *mut bindings::file,
            memory: *const RawMemory,
        ) -> i32;
        pub(crate) fn postbox_memory_pin(
            file: *mut bindings::file,
            offset: i64,
            pinned: *mut *mut c_void,
        ) -> *mut c_void;
        pub(crate) fn postbox_memory_unpin(pinned: *mut c_void, address: *const c_void);

        pub(crate) fn postbox_pages_new(pages: *mut RawPages, count: usize, twice: usize) -> i32;
        pub(crate) fn postbox_pages_free(pages: *mut RawPages);
        pub(crate) fn postbox_pages_map(
            vma: *mut bindings::vm_area_struct,
            pages: *mut RawPages,
            writable: bool,
        ) -> i32;
        pub(crate) fn postbox_vma_pages(
            vma: *mut bindings::vm_area_struct,
            count: *mut usize,
        ) -> usize;
        pub(crate) fn postbox_uring_look(
            cmd: *mut bindings::io_uring_cmd,
            issue_flags: u32,
            look: *mut Look,
        ) -> *mut bindings::file;
        pub(crate) fn postbox_uring_user_data(cmd: *mut bindings::io_uring_cmd) -> u64;
        pub(crate) fn postbox_uring_ring(cmd: *mut bindings::io_uring_cmd) -> *mut c_void;
        pub(crate) fn postbox_uring_task(
            cmd: *mut bindings::io_uring_cmd,
        ) -> *mut bindings::task_struct;
        pub(crate) fn postbox_uring_file(cmd: *mut bindings::io_uring_cmd) -> *mut bindings::file;
        pub(crate) fn postbox_uring_command(cmd: *mut bindings::io_uring_cmd) -> *const c_void;
        pub(crate) fn postbox_uring_keep(
            cmd: *mut bindings::io_uring_cmd,
            command: *const c_void,
            issue_flags: u32,
        );
        pub(crate) fn postbox_uring_done(
            cmd: *mut bindings::io_uring_cmd,
            ret: i32,
            issue_flags: u32,
        );
        pub(crate) fn postbox_uring_kick(cmd: *mut bindings::io_uring_cmd);
        pub(super) fn postbox_cred_get() -> *const bindings::cred;
        pub(super) fn postbox_cred_put(cred: *const bindings::cred);
        pub(super) fn postbox_cred_use(cred: *const bindings::cred) -> *const bindings::cred;
        pub(crate) fn postbox_uring_import(
            cmd: *mut bindings::io_uring_cmd,
            addr: u64,
            len: u32,
            dest: bool,
            iter: *mut bindings::iov_iter,
            issue_flags: u32,
        ) -> i32;
        pub(crate) fn postbox_uring_fill(
            cmd: *mut bindings::io_uring_cmd,
            group: u16,
            record: *const c_void,
            record_size: usize,
            payload: *const u8,
            len: usize,
            issue_flags: u32,
            selected: *mut Selected,
        ) -> i32;
        pub(crate) fn postbox_uring_post(
            cmd: *mut bindings::io_uring_cmd,
            selected: *mut Selected,
            issue_flags: u32,
        ) -> i32;
        pub(crate) fn postbox_uring_put_back(
            cmd: *mut bindings::io_uring_cmd,
            selected: *mut Selected,
            issue_flags: u32,
        );
        pub(crate) fn postbox_keys_add(keys: *mut bindings::rb_root, key: *mut Key);
        pub(crate) fn postbox_keys_remove(keys: *mut bindings::rb_root, key: *mut Key);
        pub(crate) fn postbox_keys_find(
            keys: *const bindings::rb_root,
            ring: usize,
            user_data: u64,
        ) -> *mut Key;
        pub(crate) fn postbox_timer_init(timer: *mut bindings::hrtimer, realtime: bool);
        pub(crate) fn postbox_timer_start(timer: *mut bindings::hrtimer, until: i64);
        pub(crate) fn postbox_timer_stop(timer: *mut bindings::hrtimer);
        pub(crate) fn postbox_watch_start(
            watch: *mut RawWatch,
            process: *mut bindings::pid,
            timer: *mut bindings::hrtimer,
        ) -> i32;
        pub(crate) fn postbox_watch_exited(watch: *const RawWatch) -> bool;
        pub(crate) fn postbox_watch_stop(watch: *mut RawWatch);

        pub(crate) fn postbox_delay_init(delay: *mut bindings::delayed_work);
        pub(crate) fn postbox_delay_clock() -> u64;
        pub(crate) fn postbox_delay_start(delay: *mut bindings::delayed_work, ms: u32);
        pub(crate) fn postbox_delay_stop(delay: *mut bindings::delayed_work);

        pub(super) fn postbox_page_size() -> usize;

        pub(super) fn postbox_process_get(nr: u32, ino: *mut u64) -> *mut bindings::pid;
        pub(super) fn postbox_process_euid(pid: *mut bindings::pid) -> u32;
        pub(super) fn postbox_process_put(pid: *mut bindings::pid);
        pub(super) fn postbox_exited(pid: *mut bindings::pid) -> bool;

        pub(super) fn postbox_copy_in(to: *mut u8, from: *const c_void, len: usize) -> bool;
        pub(super) fn postbox_copy_out(to: *mut c_void, from: *const u8, len: usize) -> bool;
        pub(super) fn postbox_copy_out_now(to: *mut c_void, from: *const u8, len: usize) -> bool;

        pub(super) fn postbox_identity_renew(id: *mut RawIdentity);
        pub(super) fn postbox_identity_renew_as(id: *mut RawIdentity, uid: u32, gid: u32);
        pub(super) fn postbox_identity_put(id: *const RawIdentity);
        pub(super) fn postbox_identity_see(id: *const RawIdentity, seen: *mut Seen);
        pub(super) fn postbox_ipc_ns() -> u64;
        pub(super) fn postbox_container(owner: *mut u32) -> u64;
        pub(super) fn postbox_euid() -> u32;
        pub(super) fn postbox_egid() -> u32;
        pub(super) fn postbox_see_uid(uid: u32) -> u32;
        pub(super) fn postbox_see_gid(gid: u32) -> u32;
        pub(super) fn postbox_kuid(uid: u32) -> u32;
        pub(super) fn postbox_kgid(gid: u32) -> u32;
        pub(super) fn postbox_in_group(gid: u32) -> bool;
        pub(super) fn postbox_permits(owner: *const Owner, want: u32) -> bool;
        pub(super) fn postbox_ipc_owner(ipc_ns: u64) -> bool;
        pub(super) fn postbox_chown(
            owner: *mut Owner,
            ipc_ns: u64,
            uid: *const u32,
            gid: *const u32,
        ) -> i32;
        pub(super) fn postbox_ipc_get(ipc_ns: u64, ns: *mut *mut bindings::ipc_namespace) -> i32;
        pub(super) fn postbox_ipc_put(ns: *mut bindings::ipc_namespace);
        pub(super) fn postbox_ipc_ended(ns: *const bindings::ipc_namespace) -> bool;
        pub(crate) fn postbox_sweep_init(registry: *const c_void);
        pub(crate) fn postbox_sweep_soon();
        pub(crate) fn postbox_sweep_stop();
        pub(crate) fn postbox_trim_init() -> i32;
        pub(crate) fn postbox_trim_stop();
        pub(super) fn postbox_admin() -> bool;
        pub(crate) fn postbox_debugfs_new(shared: *const c_void) -> *mut bindings::dentry;
        pub(crate) fn postbox_debugfs_remove(dir: *mut bindings::dentry);
        pub(crate) fn postbox_show_ends(seq: *mut bindings::seq_file) -> bool;
        pub(super) fn postbox_dying() -> bool;
        pub(super) fn postbox_process() -> u64;
        pub(super) fn postbox_now() -> i64;
        pub(super) fn postbox_thread() -> u64;
        pub(super) fn postbox_interrupted() -> bool;
        pub(super) fn postbox_thread_get() -> *mut bindings::pid;
        pub(super) fn postbox_program() -> u64;
        pub(super) fn postbox_thread_over(thread: *mut bindings::pid, program: u64) -> bool;
        pub(super) fn postbox_time_of_host(time: i64) -> i64;
    }
}

/// What a parked command of a handle is found by.
#[repr(C)]
pub(crate) struct Key {
    node: bindings::rb_node,
    ring: usize,
    user_data: u64,
}

impl Key {
    /// One that is in no tree.
    pub(crate) fn new(ring: usize, user_data: u64) -> Self {
        Self {
            node: bindings::rb_node::default(),
            ring,
            user_data,
        }
    }

    /// Whether it was taken out of its tree: a node is its own parent then.
    ///
    /// # Safety
    ///
    /// The key was in a tree, and is under the lock of that.
    pub(crate) unsafe fn is_out(&self) -> bool {
        self.node.__rb_parent_color == core::ptr::from_ref(&self.node) as usize
    }
}

/// The most bytes that one operation moves: the kernel's macro of that name, which has no binding;
/// helpers.c checks that it is this.
pub(crate) const MAX_RW_COUNT: usize = i32::MAX as usize & !(kernel::page::PAGE_SIZE - 1);

/// A flag of `struct kiocb`, which has no binding; helpers.c checks that it is this one.
pub(crate) const IOCB_NOWAIT: i32 = 8;

/// Bytes in user memory.
#[derive(Clone, Copy)]
pub(crate) struct UserBytes {
    address: usize,
}

impl UserBytes {
    /// Those at an address, which need not be good.
    pub(crate) fn at(address: usize) -> Self {
        Self { address }
    }

    /// Those behind the first `len` of them, which have been accessed.
    pub(crate) fn after(self, len: usize) -> Self {
        Self {
            address: self.address.wrapping_add(len),
        }
    }

    /// Copies as many as `out` has.
    pub(crate) fn copy_to(self, out: &mut [u8]) -> Result {
        let from = self.address as *const c_void;
        // SAFETY: The slice is valid for writing.
        if unsafe { c::postbox_copy_in(out.as_mut_ptr(), from, out.len()) } {
            Ok(())
        } else {
            Err(EFAULT)
        }
    }

    /// Copies `len` of them to the end of a vector that has room for them.
    pub(crate) fn append_to(self, len: usize, out: &mut KVVec<u8>) -> Result {
        let room = out.spare_capacity_mut().get_mut(..len).ok_or(ENOMEM)?;
        let from = self.address as *const c_void;
        // SAFETY: `room` is valid for writing `len` bytes.
        if !unsafe { c::postbox_copy_in(room.as_mut_ptr().cast(), from, len) } {
            return Err(EFAULT);
        }
        // SAFETY: So many bytes of the spare capacity were just written.
        unsafe { out.inc_len(len) };
        Ok(())
    }

    /// Overwrites them.
    pub(crate) fn copy_from(self, bytes: &[u8]) -> Result {
        let to = self.address as *mut c_void;
        // SAFETY: The slice is valid for reading.
        if unsafe { c::postbox_copy_out(to, bytes.as_ptr(), bytes.len()) } {
            Ok(())
        } else {
            Err(EFAULT)
        }
    }

    /// Copies some bytes there if it takes no waiting for pages, and the task is not being killed.
    #[inline]
    pub(crate) fn copy_now(self, bytes: &[u8]) -> bool {
        let to = self.address as *mut c_void;
        // SAFETY: The slice is valid for reading.
        unsafe { c::postbox_copy_out_now(to, bytes.as_ptr(), bytes.len()) }
    }
}

/// The limits that module parameters set. They can change at any moment.
pub(crate) mod limits {
    use crate::queue::PIPE_ATOMIC;

    extern "C" {
        static postbox_max_user_messages: usize;
        static postbox_max_user_bytes: usize;
        static postbox_max_user_objects: usize;
        static postbox_max_user_files: usize;
        static postbox_max_message: usize;
        static postbox_max_pipe: usize;
        static postbox_max_ring: usize;
        static postbox_max_user_shared: usize;
        static postbox_max_user_commands: usize;
    }

    /// # Safety
    ///
    /// `parameter` is one of the above.
    unsafe fn read(parameter: *const usize) -> u64 {
        // SAFETY: It is valid, and read once.
        unsafe { parameter.read_volatile() as u64 }
    }

    /// Messages of one user.
    pub(crate) fn user_messages() -> u64 {
        // SAFETY: It is a parameter.
        unsafe { read(&raw const postbox_max_user_messages) }
    }

    /// Bytes of one user.
    pub(crate) fn user_bytes() -> u64 {
        // SAFETY: As above.
        unsafe { read(&raw const postbox_max_user_bytes) }
    }

    /// Objects of one user.
    pub(crate) fn user_objects() -> u64 {
        // SAFETY: As above.
        unsafe { read(&raw const postbox_max_user_objects) }
    }

    /// Files in messages of one user.
    pub(crate) fn user_files() -> u64 {
        // SAFETY: As above.
        unsafe { read(&raw const postbox_max_user_files) }
    }

    /// Bytes of shared memory of one user.
    pub(crate) fn user_shared() -> u64 {
        // SAFETY: As above.
        unsafe { read(&raw const postbox_max_user_shared) }
    }

    /// Parked commands of one user.
    pub(crate) fn user_commands() -> u64 {
        // SAFETY: It is a parameter.
        unsafe { read(&raw const postbox_max_user_commands) }
    }

    /// Bytes of one pipe: a power of two.
    pub(crate) fn pipe() -> u64 {
        // SAFETY: As above.
        let max = unsafe { read(&raw const postbox_max_pipe) };
        1 << max.clamp(PIPE_ATOMIC, 1 << 30).ilog2()
    }

    /// Bytes of one ring. Its positions count up to 2^30.
    pub(crate) fn ring() -> u64 {
        // SAFETY: As above.
        unsafe { read(&raw const postbox_max_ring) }.min(1 << 30)
    }

    /// Bytes of one message. More cannot be allocated.
    pub(crate) fn message() -> u64 {
        // SAFETY: As above.
        unsafe { read(&raw const postbox_max_message) }.min(1 << 30)
    }
}

/// Who sent a message.
pub(crate) struct Identity(RawIdentity);

// SAFETY: The references are counted, and `struct pid` may be used by every task.
unsafe impl Send for Identity {}
// SAFETY: As above; it is only read.
unsafe impl Sync for Identity {}

impl Identity {
    /// Nobody.
    pub(crate) const fn nobody() -> Self {
        Self(RawIdentity {
            tgid: core::ptr::null_mut(),
            tid: core::ptr::null_mut(),
            ino: 0,
            uid: 0,
            gid: 0,
        })
    }

    /// Makes it the current task.
    pub(crate) fn renew(&mut self) {
        // SAFETY: It holds references to its pids, or has none.
        unsafe { c::postbox_identity_renew(&mut self.0) };
    }

    /// Makes it the current task, with the ids of another user and group.
    pub(crate) fn renew_as(&mut self, uid: u32, gid: u32) {
        // SAFETY: It holds references to its pids, or has none.
        unsafe { c::postbox_identity_renew_as(&mut self.0, uid, gid) };
    }

    /// The current task.
    pub(crate) fn current() -> Self {
        let mut identity = Self::nobody();
        identity.renew();
        identity
    }

    /// What stands for its process, and never for another one.
    pub(crate) fn process(&self) -> u64 {
        self.0.ino
    }

    /// Its effective user, as the kernel keeps it.
    pub(crate) fn uid(&self) -> u32 {
        self.0.uid
    }

    /// It, seen from the namespaces of the current task.
    pub(crate) fn see(&self) -> Seen {
        let mut seen = Seen::default();
        if !self.0.tgid.is_null() {
            // SAFETY: It holds references to its pids.
            unsafe { c::postbox_identity_see(&self.0, &mut seen) };
        }
        seen
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // SAFETY: The references were taken by `renew`, and are dropped once.
        unsafe { c::postbox_identity_put(&self.0) };
    }
}

/// A process that is, or was, there.
pub(crate) struct Process {
    pid: NonNull<bindings::pid>,
    /// What stands for it in [`Identity::process`].
    pub(crate) number: u64,
}

// SAFETY: The reference is counted, and `struct pid` may be used by every task.
unsafe impl Send for Process {}
// SAFETY: As above.
unsafe impl Sync for Process {}

impl Process {
    /// The one of this number, as the current task sees it.
    pub(crate) fn find(pid: u32) -> Result<Self> {
        let mut number = 0;
        // SAFETY: `number` is valid.
        let pid = unsafe { c::postbox_process_get(pid, &mut number) };
        let pid = NonNull::new(pid).ok_or(ESRCH)?;
        Ok(Self { pid, number })
    }

    /// For `postbox_wait`.
    pub(crate) fn as_ptr(&self) -> *mut bindings::pid {
        self.pid.as_ptr()
    }

    /// Its effective user now, as the kernel keeps it.
    pub(crate) fn euid(&self) -> Result<u32> {
        // SAFETY: It holds a reference.
        match unsafe { c::postbox_process_euid(self.as_ptr()) } {
            u32::MAX => Err(ESRCH),
            uid => Ok(uid),
        }
    }

    /// Whether it has exited.
    pub(crate) fn exited(&self) -> bool {
        // SAFETY: It holds a reference.
        unsafe { c::postbox_exited(self.as_ptr()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: It holds a reference, which this drops.
        unsafe { c::postbox_process_put(self.as_ptr()) };
    }
}

/// The credentials that a command was issued with.
pub(crate) struct Credentials(NonNull<bindings::cred>);

// SAFETY: The reference is counted, and credentials never change.
unsafe impl Send for Credentials {}
// SAFETY: The reference is counted, and credentials never change.
unsafe impl Sync for Credentials {}

impl Credentials {
    /// Those of the current task.
    pub(crate) fn current() -> Result<Self> {
        // SAFETY: Every task has credentials; this takes a reference to them.
        let raw = unsafe { c::postbox_cred_get() };
        Ok(Self(NonNull::new(raw.cast_mut()).ok_or(EINVAL)?))
    }

    /// Makes them those of the current task while `f` runs.
    pub(crate) fn with<T>(&self, f: impl FnOnce() -> T) -> T {
        // SAFETY: `self` has a reference, and outlives their use.
        let own = unsafe { c::postbox_cred_use(self.0.as_ptr()) };
        let result = f();
        // SAFETY: They are what the task had before, and still has a reference to.
        unsafe { c::postbox_cred_use(own) };
        result
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        // SAFETY: It holds a reference, which this drops.
        unsafe { c::postbox_cred_put(self.0.as_ptr()) };
    }
}

/// The number of the current task's IPC namespace, which is never used again. The task must not be
/// exiting.
pub(crate) fn ipc_ns() -> u64 {
    // SAFETY: `nsproxy` is set: only called when a file is opened.
    unsafe { c::postbox_ipc_ns() }
}

/// A container, as accounts know it.
pub(crate) struct Container {
    /// The number of the namespace that makes it one, which is never used again.
    pub(crate) id: NonZeroU64,
    /// The user who made that, as the kernel keeps it.
    pub(crate) owner: u32,
}

/// The outermost container that the current task is in. `None` on the host.
pub(crate) fn container() -> Option<Container> {
    let mut owner = 0;
    // SAFETY: `owner` is valid for writing. The current task has references to its namespaces, and
    // each of them to its parent.
    let id = unsafe { c::postbox_container(&mut owner) };
    NonZeroU64::new(id).map(|id| Container { id, owner })
}

/// An IPC namespace whose end can be noticed. Its memory is kept, but not the namespace: it ends with
/// its last task, descriptor and mount.
pub(crate) struct IpcNs(NonNull<bindings::ipc_namespace>);

// SAFETY: The reference is counted, and only an atomic counter is read through it.
unsafe impl Send for IpcNs {}
// SAFETY: The same holds for what several tasks do at once.
unsafe impl Sync for IpcNs {}

impl IpcNs {
    /// The one of this number, which is the current task's, or `EXDEV`. `None` for the initial one, which
    /// never ends.
    pub(crate) fn current(ipc_ns: u64) -> Result<Option<Self>> {
        let mut ns = core::ptr::null_mut();
        // SAFETY: `ns` is valid for writing.
        kernel::error::to_result(unsafe { c::postbox_ipc_get(ipc_ns, &mut ns) })?;
        Ok(NonNull::new(ns).map(Self))
    }

    /// Whether it has ended.
    pub(crate) fn ended(&self) -> bool {
        // SAFETY: It holds a reference.
        unsafe { c::postbox_ipc_ended(self.0.as_ptr()) }
    }
}

impl Drop for IpcNs {
    fn drop(&mut self) {
        // SAFETY: It holds a reference, which this drops.
        unsafe { c::postbox_ipc_put(self.0.as_ptr()) };
    }
}

/// Whether the current task administers the whole system.
pub(crate) fn admin() -> bool {
    // SAFETY: Only asks for capabilities of the current task.
    unsafe { c::postbox_admin() }
}

/// The effective user of the current task, as the kernel keeps it.
pub(crate) fn euid() -> u32 {
    // SAFETY: Only reads the current task.
    unsafe { c::postbox_euid() }
}

/// The effective group of the current task, as the kernel keeps it.
pub(crate) fn egid() -> u32 {
    // SAFETY: Only reads the current task.
    unsafe { c::postbox_egid() }
}

/// A user, seen from the user namespace of the current task.
pub(crate) fn see_uid(uid: u32) -> u32 {
    // SAFETY: As above.
    unsafe { c::postbox_see_uid(uid) }
}

/// The user that the current task calls so, as the kernel keeps it.
pub(crate) fn kernel_uid(uid: u32) -> Result<u32> {
    // SAFETY: As above.
    match unsafe { c::postbox_kuid(uid) } {
        u32::MAX => Err(EINVAL),
        uid => Ok(uid),
    }
}

/// The group that the current task calls so, as the kernel keeps it.
pub(crate) fn kernel_gid(gid: u32) -> Result<u32> {
    // SAFETY: As above.
    match unsafe { c::postbox_kgid(gid) } {
        u32::MAX => Err(EINVAL),
        gid => Ok(gid),
    }
}

/// Whether the current task is in a group.
pub(crate) fn in_group(gid: u32) -> bool {
    // SAFETY: As above.
    unsafe { c::postbox_in_group(gid) }
}

/// Whether the current task is being killed.
pub(crate) fn dying() -> bool {
    // SAFETY: As above.
    unsafe { c::postbox_dying() }
}

/// The bytes of a page.
pub(crate) fn page_size() -> usize {
    // SAFETY: It is a constant.
    unsafe { c::postbox_page_size() }
}

/// What stands for the current process, with all of its threads, and never for another one: as
/// [`Identity::process`].
#[inline]
pub(crate) fn process() -> u64 {
    // SAFETY: As above.
    unsafe { c::postbox_process() }
}

/// The current thread, as a number that is never used again.
pub(crate) fn thread() -> u64 {
    // SAFETY: Reads what belongs to the current task.
    unsafe { c::postbox_thread() }
}

/// The program that the current process executes: another number after each execve().
pub(crate) fn program() -> u64 {
    // SAFETY: Reads what belongs to the current task.
    unsafe { c::postbox_program() }
}

/// A thread and the program that it executes. It keeps the thread's number, and not the thread.
pub(crate) struct Thread {
    number: *mut bindings::pid,
    program: u64,
}

// SAFETY: It is a counted reference, and what it leads to has locks of its own.
unsafe impl Send for Thread {}

impl Thread {
    /// The current one.
    pub(crate) fn current() -> Self {
        Self {
            // SAFETY: The current task has a number.
            number: unsafe { c::postbox_thread_get() },
            program: program(),
        }
    }

    /// The program that it executes.
    pub(crate) fn program(&self) -> u64 {
        self.program
    }

    /// True when it has exited, or executes another program now.
    pub(crate) fn is_over(&self) -> bool {
        // SAFETY: There is a reference to the number.
        unsafe { c::postbox_thread_over(self.number, self.program) }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: This drops the reference that `current` took.
        unsafe { c::postbox_process_put(self.number) };
    }
}

/// Whether a signal is pending that interrupts a wait: its handler will run, or it ends the process.
pub(crate) fn interrupted() -> bool {
    // SAFETY: Looks at the current task's signals.
    unsafe { c::postbox_interrupted() }
}

/// CLOCK_MONOTONIC.
pub(crate) fn now() -> i64 {
    // SAFETY: Reads a clock.
    unsafe { c::postbox_now() }
}

/// A time of CLOCK_MONOTONIC in the current task's time namespace, as that of the host.
pub(crate) fn time_of_host(time: i64) -> i64 {
    // SAFETY: Reads what belongs to the current task, which is not exiting.
    unsafe { c::postbox_time_of_host(time) }
}

impl Owner {
    /// What the current task makes.
    pub(crate) fn current(mode: u32) -> Self {
        Self {
            uid: euid(),
            gid: egid(),
            mode,
        }
    }

    /// The group, seen from the user namespace of the current task.
    pub(crate) fn see_gid(&self) -> u32 {
        // SAFETY: Only reads the current task.
        unsafe { c::postbox_see_gid(self.gid) }
    }

    /// Whether the mode lets the current task do all that `want` (r 4, w 2) asks for, or a
    /// capability in the IPC namespace does.
    pub(crate) fn permits(&self, ipc_ns: u64, want: u32) -> bool {
        // SAFETY: `self` is valid.
        unsafe { c::postbox_permits(self, want) || c::postbox_ipc_owner(ipc_ns) }
    }

    /// Whether the current task owns the object, or a capability stands in for that.
    pub(crate) fn owned(&self, ipc_ns: u64) -> bool {
        // SAFETY: Only reads the current task.
        euid() == self.uid || unsafe { c::postbox_ipc_owner(ipc_ns) }
    }

    /// Changes owner and group to ids of the current task's user namespace.
    pub(crate) fn chown(&mut self, ipc_ns: u64, uid: Option<u32>, gid: Option<u32>) -> Result {
        let pointer = |id: &Option<u32>| id.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: All pointers are valid, or null.
        kernel::error::to_result(unsafe {
            c::postbox_chown(self, ipc_ns, pointer(&uid), pointer(&gid))
        })
    }
}
