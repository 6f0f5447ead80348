use crate::error::{Action, ErrorKind, FromFdError, Result};
use crate::info::{Info, stat};
use crate::object::{Inner, Kind, Subject};
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::event::PollFlags;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::retry_on_intr;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

bitflags::bitflags! {
    /// What a handle may do. Rights belong to the handle, not to the process, and only shrink.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Rights: u32 {
        /// Send messages, call, write, connect, release, count down. An existing object's mode must
        /// allow writing.
        const SEND = sys::POSTBOX_RIGHT_SEND;
        /// Receive messages, answer, read, accept, acquire, wait. An existing object's mode must
        /// allow reading.
        const RECEIVE = sys::POSTBOX_RIGHT_RECEIVE;
        /// Change owner, group and mode. For the object's owner, or with `CAP_IPC_OWNER`.
        const ADMIN = sys::POSTBOX_RIGHT_ADMIN;
    }
}

/// How many messages a mailbox, or one direction of a link, holds. What was taken and not acknowledged yet, and what is
/// reserved, counts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Capacity {
    /// None: a send that waits returns when a receiver has the bytes.
    Rendezvous,
    /// This many, at least one (0 is a rendezvous); then senders wait.
    Bounded(u64),
    /// No limit of its own: senders never wait. The user's quota still holds.
    Unbounded,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity::Bounded(1024)
    }
}

impl Capacity {
    pub(crate) fn from_raw(capacity: u64) -> Self {
        match capacity {
            0 => Capacity::Rendezvous,
            sys::POSTBOX_UNBOUNDED => Capacity::Unbounded,
            messages => Capacity::Bounded(messages),
        }
    }

    pub(crate) fn to_raw(self) -> u64 {
        match self {
            Capacity::Rendezvous => 0,
            Capacity::Bounded(messages) => messages,
            Capacity::Unbounded => sys::POSTBOX_UNBOUNDED,
        }
    }
}

pub(crate) mod sealed {
    /// Types of which there are no values.
    pub trait Sealed: Send + Sync + Unpin + 'static {}
}

/// What a type of handle stands for: the kind of object and what may be done with it. There are
/// [`Both`], [`SendOnly`], [`ReceiveOnly`] and [`AdminOnly`] for mailboxes, and one for each other
/// type.
pub trait Access: sealed::Sealed {
    /// The rights, to which [`Rights::ADMIN`] may come on top.
    const RIGHTS: Rights;
    #[doc(hidden)]
    const NAME: &'static str;
    /// Whether a handle of these rights to an object of that kind is of this type.
    #[doc(hidden)]
    fn fits(kind: Kind, rights: Rights) -> bool;
}

/// Handles that can send.
pub trait CanSend: Access {}

/// Handles that can receive.
pub trait CanReceive: Access {}

/// Types of handles: name, rights, the type's public name, the kinds of objects that it can be a
/// handle to, and what it can do.
macro_rules! access {
    ($($(#[$doc:meta])* $name:ident = $rights:expr, $alias:literal, [$($kind:ident)*] $(, $can:ident)*;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub enum $name {}
        impl $crate::handle::sealed::Sealed for $name {}
        impl $crate::handle::Access for $name {
            const RIGHTS: $crate::handle::Rights = $rights;
            const NAME: &'static str = $alias;
            fn fits(kind: $crate::object::Kind, rights: $crate::handle::Rights) -> bool {
                use $crate::handle::Rights;
                matches!(kind, $($crate::object::Kind::$kind)|*)
                    && rights | Rights::ADMIN == Self::RIGHTS | Rights::ADMIN
            }
        }
        $(impl $crate::handle::$can for $name {})*
    )*};
}
pub(crate) use access;

access! {
    /// Sends and receives: the access of a [`Mailbox`].
    Both = Rights::SEND.union(Rights::RECEIVE), "Mailbox", [Mailbox], CanSend, CanReceive;
    /// Sends: the access of a [`Sender`].
    SendOnly = Rights::SEND, "Sender", [Mailbox Link Endpoint], CanSend;
    /// Receives: the access of a [`Receiver`].
    ReceiveOnly = Rights::RECEIVE, "Receiver", [Mailbox Link Endpoint], CanReceive;
    /// Changes attributes: the access of an [`Admin`].
    AdminOnly = Rights::ADMIN, "Admin", [Mailbox Listener Pipe Semaphore Latch Barrier Segment Pool Ring];
}

/// A handle that sends to and receives from a mailbox.
///
/// It counts as a sender and as a receiver: as long as it is open, nobody sees the end of the
/// stream. [`Mailbox::split`] makes a [`Sender`] and a [`Receiver`] of it.
pub type Mailbox = Handle<Both>;

/// A handle that sends: to a mailbox, from one end of a link, or to a process's endpoint.
pub type Sender = Handle<SendOnly>;

/// A handle that receives: from a mailbox, at one end of a link, or what is sent to a process.
pub type Receiver = Handle<ReceiveOnly>;

/// A handle that changes the owner, group and mode of an object that has a name, and does nothing
/// else.
pub type Admin = Handle<AdminOnly>;

/// An open handle to an object; `A` says of which kind, and what for. Use it as [`Mailbox`],
/// [`Sender`], [`Receiver`], [`Link`](crate::Link), [`Endpoint`](crate::Endpoint) and so on. What
/// carries messages (mailboxes, links, endpoints) has the same calls to send and to receive.
///
/// A handle is an open file, close-on-exec, and can be shared between threads. When the last handle
/// is closed, an object that is not persistent is gone with what is in it. The descriptor can be
/// passed on ([`AsFd`], `OwnedFd::from`, [`Parcel::attach`](crate::Parcel::attach)) and made a
/// handle again with `try_from`, which asks the kernel what it is.
pub struct Handle<A> {
    pub(crate) inner: Inner,
    access: PhantomData<A>,
}

impl<A: Access> Handle<A> {
    pub(crate) fn from_inner(inner: Inner) -> Self {
        Handle {
            inner,
            access: PhantomData,
        }
    }

    /// A second handle with the same rights. To the kernel it is a handle of its own: it has its
    /// own unsettled messages and reservations, and is one more sender or receiver.
    ///
    /// # Errors
    /// No descriptor is left ([`NoDescriptors`](crate::ErrorKind::NoDescriptors)), or no memory
    /// ([`Os`](crate::ErrorKind::Os)).
    pub fn try_clone(&self) -> Result<Self> {
        self.inner.dup(self.inner.rights).map(Self::from_inner)
    }

    /// The name under which it was opened; `None` if it has none.
    pub fn name(&self) -> Option<&str> {
        self.inner.subject.name.as_deref()
    }

    /// What this handle may do.
    pub fn rights(&self) -> Rights {
        self.inner.rights
    }

    /// The object's attributes, state and counters at this moment.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn info(&self) -> Result<Info> {
        self.inner.info()
    }

    /// Sets the permission bits. Handles that are open keep their rights.
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) without [`Rights::ADMIN`].
    pub fn set_mode(&self, mode: u32) -> Result<()> {
        self.inner.set_attr(sys::postbox_attr {
            valid: sys::POSTBOX_ATTR_MODE,
            mode,
            ..Default::default()
        })
    }

    /// Sets the owner (needs `CAP_CHOWN`) and the group (one of the owner's, or `CAP_CHOWN`);
    /// `None` leaves it.
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) without [`Rights::ADMIN`] or the capability.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let valid =
            uid.map_or(0, |_| sys::POSTBOX_ATTR_UID) | gid.map_or(0, |_| sys::POSTBOX_ATTR_GID);
        self.inner.set_attr(sys::postbox_attr {
            valid,
            uid: uid.unwrap_or(0),
            gid: gid.unwrap_or(0),
            ..Default::default()
        })
    }

    /// Makes what would wait return at once instead, with [`Full`](crate::ErrorKind::Full) or
    /// [`Empty`](crate::ErrorKind::Empty), whatever it says of waiting. For use with an event loop.
    /// Descriptors made by `dup(2)` share this; handles made by [`try_clone`](Self::try_clone) do
    /// not.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn set_nonblocking(&self, nonblocking: bool) -> Result<()> {
        self.inner.set_nonblocking(nonblocking)
    }

    /// Waits until one of `events` holds, at most `timeout` (`None`: as long as it takes); returns
    /// those that hold, none if the time was up. `HUP` (the end of the stream) and `ERR` (the last
    /// receiver is gone) come unasked.
    ///
    /// `IN` says that a message can be taken now, and `OUT` that one can be sent. Another process
    /// may be faster: the call that follows should be a non-blocking one. On a rendezvous mailbox
    /// `OUT` means that somebody waits in a receive and `IN` that somebody waits in a send: two
    /// sides that only poll never meet.
    ///
    /// ```
    /// use postbox::{Mailbox, PollFlags};
    /// use std::time::Duration;
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let jobs = Mailbox::options().anonymous()?;
    /// jobs.send("build")?;
    /// let ready = jobs.ready(PollFlags::IN, Some(Duration::from_secs(1)))?;
    /// assert!(ready.contains(PollFlags::IN));
    /// assert_eq!(&*jobs.try_recv()?, b"build");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn ready(&self, events: PollFlags, timeout: Option<Duration>) -> Result<PollFlags> {
        self.inner.ready(events, timeout)
    }

    /// Waits until somebody has, or had, opened the other side: who receives, for a handle that
    /// sends, and the other way round. For what can be opened before its peer: a
    /// [`Port`](crate::Port), a pipe, a mailbox.
    ///
    /// # Errors
    /// [`NotYet`](crate::ErrorKind::NotYet) where it does not wait;
    /// [`Timeout`](crate::ErrorKind::Timeout) where it has a limit;
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    pub fn wait_peer(&self, wait: Wait) -> Result<()> {
        let (flags, timeout_ns) = wait.flags();
        retry_on_intr(|| raw::wait_peer(self, flags, timeout_ns))
            .map_err(|errno| self.inner.error(Action::WaitPeer, errno))
    }
}

impl Mailbox {
    /// How a mailbox is to be opened or made: see [`Options`].
    pub fn options() -> Options {
        Options::new()
    }

    /// Opens an existing mailbox to send and to receive.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Denied`](crate::ErrorKind::Denied),
    /// [`InvalidName`](crate::ErrorKind::InvalidName), [`ModuleMissing`](crate::ErrorKind::ModuleMissing).
    pub fn open(name: &str) -> Result<Mailbox> {
        Options::new().open(name)
    }

    /// Opens the mailbox of that name, or makes one with capacity 0: a send that waits returns
    /// when a receiver has the bytes.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn rendezvous(name: &str) -> Result<Mailbox> {
        Options::new()
            .create(true)
            .capacity(Capacity::Rendezvous)
            .open(name)
    }

    /// Opens the mailbox of that name, or makes one that holds so many messages.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn bounded(name: &str, messages: u64) -> Result<Mailbox> {
        Options::new()
            .create(true)
            .capacity(Capacity::Bounded(messages))
            .open(name)
    }

    /// Opens the mailbox of that name, or makes one whose senders never wait. It ends at the user's
    /// quota.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn unbounded(name: &str) -> Result<Mailbox> {
        Options::new()
            .create(true)
            .capacity(Capacity::Unbounded)
            .open(name)
    }

    /// One handle to send and one to receive. Nobody is left with both rights, so that each side
    /// notices when the other is gone.
    ///
    /// # Errors
    /// No descriptor is left ([`NoDescriptors`](crate::ErrorKind::NoDescriptors)), or no memory
    /// ([`Os`](crate::ErrorKind::Os)).
    pub fn split(self) -> Result<(Sender, Receiver)> {
        Ok((self.sender()?, self.receiver()?))
    }

    /// A second handle that can only send.
    ///
    /// # Errors
    /// No descriptor is left ([`NoDescriptors`](crate::ErrorKind::NoDescriptors)), or no memory
    /// ([`Os`](crate::ErrorKind::Os)).
    pub fn sender(&self) -> Result<Sender> {
        self.inner.dup(Rights::SEND).map(Handle::from_inner)
    }

    /// A second handle that can only receive.
    ///
    /// # Errors
    /// No descriptor is left ([`NoDescriptors`](crate::ErrorKind::NoDescriptors)), or no memory
    /// ([`Os`](crate::ErrorKind::Os)).
    pub fn receiver(&self) -> Result<Receiver> {
        self.inner.dup(Rights::RECEIVE).map(Handle::from_inner)
    }
}

impl Sender {
    /// Opens an existing mailbox to send. Its mode must allow writing.
    ///
    /// # Errors
    /// As [`Mailbox::open`].
    pub fn open(name: &str) -> Result<Sender> {
        Options::new().open_sender(name)
    }
}

impl Receiver {
    /// Opens an existing mailbox to receive. Its mode must allow reading.
    ///
    /// # Errors
    /// As [`Mailbox::open`].
    pub fn open(name: &str) -> Result<Receiver> {
        Options::new().open_receiver(name)
    }
}

impl Admin {
    /// Opens an existing object of any kind to change its attributes. For its owner, or with
    /// `CAP_IPC_OWNER`; whatever the mode.
    ///
    /// # Errors
    /// As [`Mailbox::open`].
    pub fn open(name: &str) -> Result<Admin> {
        match Options::new().open_admin(name) {
            Err(error) if error.kind == ErrorKind::Unsupported => {
                // It is no mailbox. An object is opened as what it is.
                let subject = Subject::new(stat(name)?.kind, Some(name));
                let (inner, _) = Inner::open(subject, Rights::ADMIN, sys::postbox_open::default())?;
                Ok(Handle::from_inner(inner))
            }
            opened => opened,
        }
    }
}

/// How a mailbox is to be opened or made, in the manner of [`std::fs::OpenOptions`].
///
/// Capacity, limits, mode and persistence are those of a new mailbox; one that exists keeps its
/// own.
///
/// ```
/// use postbox::{Capacity, Mailbox};
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let jobs = Mailbox::options()
///     .create(true)
///     .capacity(Capacity::Bounded(64))
///     .message_max(4096)
///     .mode(0o620)
///     .open("doc/options/jobs")?;
/// assert_eq!(jobs.info()?.capacity, Capacity::Bounded(64));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    args: sys::postbox_open,
    admin: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// To open what exists. What is made otherwise holds 1,024 messages, is for its owner alone
    /// (mode 0600), and goes with the last handle.
    pub fn new() -> Self {
        let args = sys::postbox_open {
            mode: 0o600,
            capacity: Capacity::default().to_raw(),
            ..Default::default()
        };
        Options { args, admin: false }
    }

    /// How many messages it holds.
    pub fn capacity(&mut self, capacity: Capacity) -> &mut Self {
        self.args.capacity = capacity.to_raw();
        self
    }

    /// How many bytes it holds; 0: no limit of its own.
    pub fn capacity_bytes(&mut self, bytes: u64) -> &mut Self {
        self.args.capacity_bytes = bytes;
        self
    }

    /// Bytes of the largest message that it takes; 0: the module's limit.
    pub fn message_max(&mut self, bytes: u64) -> &mut Self {
        self.args.message_max = bytes;
        self
    }

    /// Permission bits as of a file: w to send, r to receive. The umask is not applied.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.args.mode = mode;
        self
    }

    /// Make it if there is none.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_CREATE, create)
    }

    /// Make it, and fail if there is one.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_EXCL, create_new)
    }

    /// When made, it stays until its name is removed, and does not tell one side that the other is
    /// gone.
    pub fn persist(&mut self, persist: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_PERSIST, persist)
    }

    /// Ask for [`Rights::ADMIN`], too: it allows [`Handle::set_mode`] and [`Handle::chown`].
    pub fn admin(&mut self, admin: bool) -> &mut Self {
        self.admin = admin;
        self
    }

    fn flag(&mut self, flag: u32, on: bool) -> &mut Self {
        if on {
            self.args.flags |= flag;
        } else {
            self.args.flags &= !flag;
        }
        self
    }

    /// Opens or makes it, to send and to receive.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Exists`](crate::ErrorKind::Exists),
    /// [`Denied`](crate::ErrorKind::Denied), [`InvalidName`](crate::ErrorKind::InvalidName),
    /// [`Quota`](crate::ErrorKind::Quota) (too many objects), [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
    /// [`Incompatible`](crate::ErrorKind::Incompatible).
    pub fn open(&self, name: &str) -> Result<Mailbox> {
        self.open_as(Some(name))
    }

    /// Opens or makes it, to send only.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open_sender(&self, name: &str) -> Result<Sender> {
        self.open_as(Some(name))
    }

    /// Opens or makes it, to receive only.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open_receiver(&self, name: &str) -> Result<Receiver> {
        self.open_as(Some(name))
    }

    /// Opens or makes it, to change its attributes only.
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open_admin(&self, name: &str) -> Result<Admin> {
        self.open_as(Some(name))
    }

    /// Makes a mailbox without a name, for threads, children, and whoever gets a descriptor of it.
    ///
    /// # Errors
    /// [`Quota`](crate::ErrorKind::Quota) (too many objects), [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
    /// [`Incompatible`](crate::ErrorKind::Incompatible).
    pub fn anonymous(&self) -> Result<Mailbox> {
        self.open_as(None)
    }

    fn open_as<A: Access>(&self, name: Option<&str>) -> Result<Handle<A>> {
        let mut args = self.args;
        if name.is_none() {
            args.flags = sys::POSTBOX_O_CREATE;
        } else if args.flags & sys::POSTBOX_O_EXCL != 0 {
            args.flags |= sys::POSTBOX_O_CREATE;
        }
        let admin = if self.admin {
            Rights::ADMIN
        } else {
            Rights::empty()
        };
        let (inner, _) = Inner::open(Subject::new(Kind::Mailbox, name), A::RIGHTS | admin, args)?;
        Ok(Handle::from_inner(inner))
    }
}

impl<A: Access> fmt::Debug for Handle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(A::NAME)
            .field("name", &self.name())
            .field("fd", &self.as_raw_fd())
            .field("rights", &self.inner.rights)
            .finish()
    }
}

impl<A> AsFd for Handle<A> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.fd.as_fd()
    }
}

impl<A> AsRawFd for Handle<A> {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.fd.as_raw_fd()
    }
}

impl<A> From<Handle<A>> for OwnedFd {
    fn from(handle: Handle<A>) -> Self {
        handle.inner.fd
    }
}

/// The kernel says whether the descriptor is of the kind of this type and has just its rights (and
/// perhaps [`Rights::ADMIN`]); if not, the error gives it back.
impl<A: Access> TryFrom<OwnedFd> for Handle<A> {
    type Error = FromFdError;

    fn try_from(fd: OwnedFd) -> Result<Self, FromFdError> {
        Inner::adopt(fd, A::fits).map(Self::from_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_what_the_kernel_counts() {
        for capacity in [
            Capacity::Rendezvous,
            Capacity::Bounded(1),
            Capacity::Unbounded,
        ] {
            assert_eq!(Capacity::from_raw(capacity.to_raw()), capacity);
        }
        let zero = Capacity::from_raw(Capacity::Bounded(0).to_raw());
        assert_eq!(zero, Capacity::Rendezvous);
    }
}
