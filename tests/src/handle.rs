//! A handle as the kernel sees it: the library's raw calls under short names, with their error numbers.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use postbox::{raw, sys};
pub use rustix::io::Errno;

/// What a call gives.
pub type Result<T> = std::result::Result<T, Errno>;

/// The right to send.
pub const SEND: u32 = sys::POSTBOX_RIGHT_SEND;
/// The right to receive.
pub const RECEIVE: u32 = sys::POSTBOX_RIGHT_RECEIVE;
/// The right to change attributes.
pub const ADMIN: u32 = sys::POSTBOX_RIGHT_ADMIN;
/// No limit.
pub const UNBOUNDED: u64 = sys::POSTBOX_UNBOUNDED;

/// How to wait: the flags and `timeout_ns` of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub u32, pub u64);

/// Without a limit of time.
pub const FOREVER: Wait = Wait(0, 0);
/// Not at all.
pub const NEVER: Wait = Wait(sys::POSTBOX_NONBLOCK, 0);

/// At most so many milliseconds.
pub fn within(ms: u64) -> Wait {
    Wait(sys::POSTBOX_TIMEOUT, ms * 1_000_000)
}

/// Until `ms` from now, on the monotonic clock. Negative: that long ago.
pub fn until(ms: i64) -> Wait {
    Wait(sys::POSTBOX_DEADLINE, deadline(libc::CLOCK_MONOTONIC, ms))
}

/// Until `ms` from now, on the clock of the day.
pub fn until_realtime(ms: i64) -> Wait {
    Wait(
        sys::POSTBOX_DEADLINE | sys::POSTBOX_REALTIME,
        deadline(libc::CLOCK_REALTIME, ms),
    )
}

fn deadline(clock: libc::clockid_t, ms: i64) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is writable.
    crate::check("clock_gettime", unsafe {
        libc::clock_gettime(clock, &mut now)
    });
    (now.tv_sec * 1_000_000_000 + now.tv_nsec + ms * 1_000_000).max(0) as u64
}

/// What a new mailbox is like, and what the handle may do with it.
#[derive(Clone, Copy, Debug)]
pub struct Make {
    /// `POSTBOX_O_*`.
    pub flags: u32,
    /// `POSTBOX_RIGHT_*`.
    pub rights: u32,
    /// Permission bits.
    pub mode: u32,
    /// Messages.
    pub capacity: u64,
    /// Bytes; 0: no limit.
    pub capacity_bytes: u64,
    /// Bytes of the largest message; 0: the module's limit.
    pub message_max: u64,
}

impl Default for Make {
    /// To create or open, to send and receive, for the owner, with room for 16 messages.
    fn default() -> Self {
        Make {
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND | RECEIVE,
            mode: 0o600,
            capacity: 16,
            capacity_bytes: 0,
            message_max: 0,
        }
    }
}

impl Make {
    /// A new mailbox, or that of the name.
    pub fn open<'n>(&self, name: impl Into<Option<&'n str>>) -> Result<Handle> {
        let handle = Handle::unbound();
        self.bind(&handle, name)?;
        Ok(handle)
    }

    /// Binds that handle; returns the object's number and whether it is new.
    pub fn bind<'n>(
        &self,
        handle: &Handle,
        name: impl Into<Option<&'n str>>,
    ) -> Result<(u64, bool)> {
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_MAILBOX,
            flags: self.flags,
            rights: self.rights,
            mode: self.mode,
            capacity: self.capacity,
            capacity_bytes: self.capacity_bytes,
            message_max: self.message_max,
            ..Default::default()
        };
        raw::open(handle, name.into().map(str::as_bytes), &mut args)?;
        Ok((args.id, args.created != 0))
    }
}

/// A received message, and what the kernel says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// The payload.
    pub data: Vec<u8>,
    /// The priority.
    pub priority: u32,
    /// Whether it was taken before.
    pub redelivered: bool,
    /// What to acknowledge; 0 after an ordinary receive.
    pub token: u64,
    /// The sender's process.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The inode of its pidfd.
    pub pidfd_ino: u64,
}

impl Got {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.data).expect("the test sent text")
    }
}

/// An open file of the device.
#[derive(Debug)]
pub struct Handle(pub OwnedFd);

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Handle {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Bytes that the receives here have room for, unless they say otherwise.
const ROOM: usize = 4096;

impl Handle {
    /// One that is not bound to an object.
    pub fn unbound() -> Handle {
        Handle(raw::device().unwrap_or_else(|e| panic!("{}: {e}", crate::DEVICE)))
    }

    /// A nameless mailbox with room for so many messages.
    pub fn anonymous(capacity: u64) -> Handle {
        Make {
            capacity,
            ..Make::default()
        }
        .open(None)
        .expect("a mailbox without a name can be made")
    }

    /// A new mailbox of that name.
    pub fn create(name: &str, capacity: u64) -> Handle {
        let flags = sys::POSTBOX_O_CREATE | sys::POSTBOX_O_EXCL;
        Make {
            flags,
            capacity,
            ..Make::default()
        }
        .open(name)
        .expect("the name is new")
    }

    /// An existing mailbox.
    pub fn open(name: &str, rights: u32) -> Result<Handle> {
        Make {
            flags: 0,
            rights,
            mode: 0,
            capacity: 0,
            ..Make::default()
        }
        .open(name)
    }

    /// A second handle.
    pub fn dup(&self, rights: u32) -> Result<Handle> {
        raw::dup(self, rights).map(Handle)
    }

    /// A second handle that can only send.
    pub fn sender(&self) -> Handle {
        self.dup(SEND).expect("this handle may send")
    }

    /// A second handle that can only receive.
    pub fn receiver(&self) -> Handle {
        self.dup(RECEIVE).expect("this handle may receive")
    }

    /// Two handles in place of this one, neither of which has both rights.
    pub fn split(self) -> (Handle, Handle) {
        (self.sender(), self.receiver())
    }

    /// Sends.
    pub fn send(&self, data: impl AsRef<[u8]>, wait: Wait) -> Result<()> {
        self.send_priority(data, 0, wait)
    }

    /// Sends with a priority.
    pub fn send_priority(&self, data: impl AsRef<[u8]>, priority: u32, wait: Wait) -> Result<()> {
        let args = sys::postbox_send {
            flags: wait.0,
            timeout_ns: wait.1,
            priority,
            ..Default::default()
        };
        raw::send(self, data.as_ref(), &args)
    }

    /// Sends without waiting, which must succeed.
    #[track_caller]
    pub fn put(&self, data: impl AsRef<[u8]>) {
        self.send(data, NEVER).expect("there is room");
    }

    /// Sends these, one after the other, which must succeed.
    #[track_caller]
    pub fn put_all<const N: usize>(&self, texts: [&str; N]) {
        for text in texts {
            self.put(text);
        }
    }

    /// Sends into room that was reserved.
    pub fn send_reserved(&self, data: impl AsRef<[u8]>, reserved_len: u64) -> Result<()> {
        let args = sys::postbox_send {
            flags: sys::POSTBOX_SEND_RESERVED,
            reserved_len,
            ..Default::default()
        };
        raw::send(self, data.as_ref(), &args)
    }

    /// Receives.
    pub fn recv(&self, wait: Wait) -> Result<Got> {
        self.recv_flags(ROOM, wait, 0).0
    }

    /// Receives, to be acknowledged.
    pub fn take(&self, wait: Wait) -> Result<Got> {
        self.recv_flags(ROOM, wait, sys::POSTBOX_RECV_ACK).0
    }

    /// Receives into that many bytes.
    pub fn recv_room(&self, room: usize, wait: Wait) -> Result<Got> {
        self.recv_flags(room, wait, 0).0
    }

    /// Receives into that many bytes; also returns `msg_len`, which is set even where the buffer is too small.
    pub fn recv_flags(&self, room: usize, wait: Wait, flags: u32) -> (Result<Got>, u64) {
        let mut data = vec![0; room];
        let mut args = sys::postbox_recv {
            flags: wait.0 | flags,
            timeout_ns: wait.1,
            ..Default::default()
        };
        let result = raw::recv(self, &mut data, &mut args).map(|len| {
            data.truncate(len);
            Got {
                data,
                priority: args.priority,
                redelivered: args.msg_flags & sys::POSTBOX_MSG_REDELIVERED != 0,
                token: args.token,
                pid: args.pid,
                tid: args.tid,
                uid: args.uid,
                gid: args.gid,
                pidfd_ino: args.pidfd_ino,
            }
        });
        (result, args.msg_len)
    }

    /// Receives text without waiting, which must succeed.
    #[track_caller]
    pub fn get(&self) -> String {
        self.recv(NEVER)
            .expect("there is a message")
            .text()
            .to_owned()
    }

    /// A message is done with.
    pub fn ack(&self, token: u64) -> Result<()> {
        raw::ack(self, token, 0)
    }

    /// A message goes back.
    pub fn requeue(&self, token: u64) -> Result<()> {
        raw::ack(self, token, sys::POSTBOX_ACK_REQUEUE)
    }

    /// Reserves room.
    pub fn reserve(&self, len: u64, wait: Wait) -> Result<()> {
        raw::reserve(
            self,
            &sys::postbox_reserve {
                flags: wait.0,
                timeout_ns: wait.1,
                len,
                ..Default::default()
            },
        )
    }

    /// Gives a reservation back.
    pub fn cancel(&self, len: u64) -> Result<()> {
        raw::reserve(
            self,
            &sys::postbox_reserve {
                flags: sys::POSTBOX_RESERVE_CANCEL,
                len,
                ..Default::default()
            },
        )
    }

    /// Attributes, state and counters.
    #[track_caller]
    pub fn info(&self) -> sys::postbox_info {
        raw::info(self).expect("the handle is bound")
    }

    /// What the user of this handle has in use: messages, bytes, objects.
    #[track_caller]
    pub fn usage(&self) -> (u64, u64, u64) {
        let usage = raw::usage(self).expect("every handle can tell");
        (usage.messages, usage.bytes, usage.objects)
    }

    /// The events that poll reports now.
    pub fn ready(&self) -> i16 {
        crate::poll(
            self,
            libc::POLLIN | libc::POLLOUT | libc::POLLRDNORM | libc::POLLWRNORM,
            Duration::ZERO,
        ) & (libc::POLLIN | libc::POLLOUT | libc::POLLHUP | libc::POLLERR | libc::POLLNVAL)
    }

    /// Closes this process's copy of the descriptor. For a forked child, which never drops what its parent owns.
    pub fn close_copy(&self) {
        // SAFETY: a child of `spawn` ends without dropping what it shares with its parent, and the closure does not use
        // this handle after it.
        crate::check("close", unsafe { libc::close(self.as_raw_fd()) });
    }

    /// Waits until so many receives wait.
    #[track_caller]
    pub fn wait_receivers(&self, n: u32) {
        crate::wait_until(&format!("{n} waiting receivers"), || {
            self.info().waiting_receivers == n
        });
    }

    /// Waits until so many sends or reservations wait.
    #[track_caller]
    pub fn wait_senders(&self, n: u32) {
        crate::wait_until(&format!("{n} waiting senders"), || {
            self.info().waiting_senders == n
        });
    }
}

/// The arguments of a send, with the size filled in.
pub fn send_args() -> sys::postbox_send {
    sys::postbox_send {
        size: size_of::<sys::postbox_send>() as u32,
        ..Default::default()
    }
}

/// The arguments of a receive, with the size filled in.
pub fn recv_args() -> sys::postbox_recv {
    sys::postbox_recv {
        size: size_of::<sys::postbox_recv>() as u32,
        ..Default::default()
    }
}

/// Binds a handle with the argument as it is: `memfd` is a number.
pub fn bind_as_is(
    handle: &Handle,
    name: Option<&[u8]>,
    args: &mut sys::postbox_open,
) -> Result<()> {
    args.size = size_of::<sys::postbox_open>() as u32;
    args.name = name.map_or(0, |name| name.as_ptr() as u64);
    args.name_len = name.map_or(0, |name| name.len() as u32);
    // SAFETY: the request takes this struct and reads `name_len` bytes at `name`, which is borrowed.
    unsafe { raw::ioctl(handle, sys::POSTBOX_OPEN, args) }
}

/// Takes a name away.
pub fn unlink(name: &str) -> Result<()> {
    raw::unlink(Handle::unbound(), name.as_bytes())
}

/// The names of the named objects in this IPC namespace, in the order of the list.
pub fn list() -> Vec<String> {
    let handle = Handle::unbound();
    let mut names = Vec::new();
    let mut infos = [sys::postbox_info::default(); 32];
    let mut after = 0;
    loop {
        let n = raw::list(&handle, after, &mut infos).expect("every handle can list");
        let Some(last) = infos[..n].last() else {
            return names;
        };
        assert!(
            last.id > after,
            "the list goes on after {after} with {}",
            last.id
        );
        after = last.id;
        names.extend(infos[..n].iter().map(name_of));
    }
}

/// The name in an object's attributes.
pub fn name_of(info: &sys::postbox_info) -> String {
    info.name
        .iter()
        .take(info.name_len as usize)
        .map(|c| char::from(*c as u8))
        .collect()
}
