use crate::error::{Action, Error, Result};
use crate::handle::{Capacity, Rights};
use crate::object::{Kind, Subject, device};
use crate::{raw, sys};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;

/// An object's attributes, state and counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Info {
    /// What it is.
    pub kind: Kind,
    /// The object's number, never used again while the module is loaded.
    pub id: u64,
    /// Its name; `None` if it never had one or it was removed.
    pub name: Option<String>,
    /// The number of its port; of an endpoint, that of its process. `None` if it has none.
    pub number: Option<u32>,
    /// Whether it stays until its name is removed.
    pub persist: bool,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as this process's user namespace numbers it.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Rights of the handle that was asked; none in a list.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub rights: Rights,
    /// Messages that it holds.
    pub capacity: Capacity,
    /// Bytes that it holds; `None`: no limit of its own. A segment's size.
    pub capacity_bytes: Option<u64>,
    /// Bytes of the largest message that it takes.
    pub message_max: u64,
    /// Messages waiting to be received.
    pub messages: u64,
    /// Bytes of their payload.
    pub bytes: u64,
    /// Messages taken by receivers and not settled yet.
    pub unacknowledged: u64,
    /// Messages for which room is reserved.
    pub reserved_messages: u64,
    /// Open handles that may send.
    pub senders: u32,
    /// Open handles that may receive.
    pub receivers: u32,
    /// Sends that wait.
    pub waiting_senders: u32,
    /// Receives that wait.
    pub waiting_receivers: u32,
    /// Messages accepted since it was made.
    pub sent: u64,
    /// Messages delivered for good.
    pub received: u64,
    /// Messages that went back to the head after having been taken.
    pub redelivered: u64,
    /// Sends and reservations that found no room.
    pub full: u64,
    /// The most messages that were ever in it at once.
    pub high_messages: u64,
    /// The most bytes, likewise.
    pub high_bytes: u64,
    /// A link: whether both its ends are there.
    pub connected: bool,
    /// A latch or barrier: whether a participant died before it did its part.
    pub broken: bool,
    /// A segment: whether its contents never change.
    pub frozen: bool,
    /// In a list of all objects: whether it is in another IPC namespace.
    pub foreign: bool,
    /// A semaphore's value, a latch's count, who has arrived at a barrier, or a pool's free blocks.
    pub value: u64,
    /// A semaphore's maximum, a latch's first count, a barrier's parties, or a pool's blocks.
    pub maximum: u64,
    /// A pool: calls to the kernel that only borrowed blocks, or gave some back.
    pub requests: u64,
    /// A link: messages that this end sent and the other has not received.
    pub back_messages: u64,
    /// Bytes of their payload.
    pub back_bytes: u64,
}

impl From<&sys::postbox_info> for Info {
    fn from(info: &sys::postbox_info) -> Self {
        let name: Vec<u8> = info
            .name
            .iter()
            .take(info.name_len as usize)
            .map(|&c| c as u8)
            .collect();
        Info {
            kind: Kind::from_raw(info.kind),
            id: info.id,
            name: (!name.is_empty()).then(|| String::from_utf8_lossy(&name).into_owned()),
            number: Some(info.number).filter(|&number| number != 0),
            persist: info.flags & sys::POSTBOX_INFO_PERSIST != 0,
            mode: info.mode,
            uid: info.uid,
            gid: info.gid,
            rights: Rights::from_bits_retain(info.rights),
            capacity: Capacity::from_raw(info.capacity),
            capacity_bytes: Some(info.capacity_bytes)
                .filter(|&bytes| bytes != sys::POSTBOX_UNBOUNDED),
            message_max: info.message_max,
            messages: info.messages,
            bytes: info.bytes,
            unacknowledged: info.unacknowledged,
            reserved_messages: info.reserved_messages,
            senders: info.senders,
            receivers: info.receivers,
            waiting_senders: info.waiting_senders,
            waiting_receivers: info.waiting_receivers,
            sent: info.sent,
            received: info.received,
            redelivered: info.redelivered,
            full: info.full,
            high_messages: info.high_messages,
            high_bytes: info.high_bytes,
            connected: info.flags & sys::POSTBOX_INFO_CONNECTED != 0,
            broken: info.flags & sys::POSTBOX_INFO_BROKEN != 0,
            frozen: info.flags & sys::POSTBOX_INFO_FROZEN != 0,
            foreign: info.flags & sys::POSTBOX_INFO_FOREIGN != 0,
            value: info.value,
            maximum: info.maximum,
            back_messages: info.back_messages,
            requests: info.requests,
            back_bytes: info.back_bytes,
        }
    }
}

/// What this process's user has in use, and may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Usage {
    /// The user.
    pub uid: u32,
    /// Messages that the user sent and nobody has received for good yet.
    pub messages: u64,
    /// How many there may be.
    pub messages_max: u64,
    /// Bytes of their payload.
    pub bytes: u64,
    /// How many there may be.
    pub bytes_max: u64,
    /// Objects that the user made.
    pub objects: u64,
    /// How many there may be.
    pub objects_max: u64,
    /// Files in the user's messages.
    pub files: u64,
    /// How many there may be.
    pub files_max: u64,
    /// Bytes of shared memory that the user made.
    pub shared: u64,
    /// How many there may be.
    pub shared_max: u64,
}

/// What the module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Version {
    /// The ABI; this crate works with [`sys::POSTBOX_ABI`] alone.
    pub abi: u32,
    /// Features beyond the first release.
    pub features: u64,
    /// The most bytes that any message can have.
    pub message_max: u64,
    /// The most messages that one call to the kernel sends or receives.
    pub batch_max: u32,
}

impl From<sys::postbox_version> for Version {
    fn from(version: sys::postbox_version) -> Self {
        Version {
            abi: version.abi,
            features: version.features,
            message_max: version.message_max,
            batch_max: version.batch_max,
        }
    }
}

/// What the module is.
///
/// # Errors
/// [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
/// [`Incompatible`](crate::ErrorKind::Incompatible), and [`Denied`](crate::ErrorKind::Denied) if
/// the device's mode forbids it; so does everything that opens the device.
pub fn version() -> Result<Version> {
    device().map(|(_, version)| version.into())
}

/// What this process's user has in use, and may.
///
/// # Errors
/// As [`version`].
pub fn usage() -> Result<Usage> {
    let usage = raw::usage(device()?.0)
        .map_err(|errno| Error::new(Action::Usage, &Subject::none(), errno))?;
    Ok(Usage {
        uid: usage.uid,
        messages: usage.messages,
        messages_max: usage.messages_max,
        bytes: usage.bytes,
        bytes_max: usage.bytes_max,
        objects: usage.objects,
        objects_max: usage.objects_max,
        files: usage.files,
        files_max: usage.files_max,
        shared: usage.shared,
        shared_max: usage.shared_max,
    })
}

/// Takes a name away. Open handles go on working; the object goes with the last of them.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound); [`Denied`](crate::ErrorKind::Denied) to all but the
/// owner and whoever has `CAP_IPC_OWNER`; and as [`version`].
pub fn unlink(name: &str) -> Result<()> {
    raw::unlink(device()?.0, name.as_bytes()).map_err(|errno| {
        Error::new(
            Action::Unlink,
            &Subject::new(Kind::Other, Some(name)),
            errno,
        )
    })
}

/// Takes away the name, the port or the process that the object of this number ([`Info::id`]) is
/// found by. Open handles go on working; the object goes with the last of them.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound) if there is none, or in another IPC namespace; with
/// `CAP_IPC_OWNER` or `CAP_SYS_ADMIN` in the initial user namespace it is looked for in all of them.
/// [`Denied`](crate::ErrorKind::Denied) to all but its owner and those; and as [`version`].
pub fn unlink_id(id: u64) -> Result<()> {
    raw::unlink_id(device()?.0, id).map_err(|errno| {
        let name = format!("#{id}");
        Error::new(
            Action::Unlink,
            &Subject::new(Kind::Other, Some(&name)),
            errno,
        )
    })
}

/// The named objects of this IPC namespace, in the order in which they were made.
///
/// ```
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// for info in postbox::list()? {
///     let info = info?;
///     println!("{:?}: {} messages", info.name, info.messages);
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`version`]; the iterator's items fail if the kernel's answer does.
pub fn list() -> Result<List> {
    list_with(0)
}

/// All objects of all IPC namespaces, also those that cannot be found by anything, in the order in
/// which they were made. For the administrator of the system.
///
/// # Errors
/// As [`list`]; the iterator's first item is [`Denied`](crate::ErrorKind::Denied) without
/// `CAP_IPC_OWNER` or `CAP_SYS_ADMIN` in the initial user namespace.
pub fn list_all() -> Result<List> {
    list_with(sys::POSTBOX_LIST_ALL)
}

fn list_with(flags: u32) -> Result<List> {
    let fd = device()?.0;
    let last =
        raw::last_object(&fd).map_err(|errno| Error::new(Action::List, &Subject::none(), errno))?;
    Ok(List {
        fd,
        flags,
        after: 0,
        last,
        infos: VecDeque::new(),
    })
}

/// An object's attributes, state and counters, by name and without a right to it.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound), and as [`version`].
pub fn stat(name: &str) -> Result<Info> {
    match raw::stat(device()?.0, name.as_bytes()) {
        Ok(info) => Ok(Info::from(&info)),
        Err(errno) => Err(Error::new(
            Action::Inspect,
            &Subject::new(Kind::Other, Some(name)),
            errno,
        )),
    }
}

/// The iterator of [`list`] and [`list_all`]. It ends with the objects that were there when it was made; those
/// that go meanwhile may or may not be in it.
#[derive(Debug)]
pub struct List {
    fd: OwnedFd,
    flags: u32,
    after: u64,
    last: u64,
    infos: VecDeque<Info>,
}

impl Iterator for List {
    type Item = Result<Info>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.infos.is_empty() && self.after < self.last {
            let mut page = [sys::postbox_info::default(); 32];
            match raw::list_with(&self.fd, self.flags, self.after, &mut page) {
                Ok(count) => {
                    let old = page[..count].iter().filter(|info| info.id <= self.last);
                    self.infos.extend(old.map(Info::from));
                }
                Err(errno) => {
                    self.after = u64::MAX;
                    return Some(Err(Error::new(Action::List, &Subject::none(), errno)));
                }
            }
        }
        let info = self.infos.pop_front()?;
        self.after = info.id;
        Some(Ok(info))
    }
}
