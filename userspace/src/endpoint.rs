use crate::error::{Action, Error, ErrorKind, Result, SendError};
use crate::handle::{Capacity, Handle, Rights, Sender, access};
use crate::object::{Inner, Kind, Subject};
use crate::recv::Identity;
use crate::sys;

access! {
    /// Receives what is sent to this process: the access of an [`Endpoint`].
    OwnEndpoint = Rights::RECEIVE, "Endpoint", [Endpoint], CanReceive;
}

/// The mailbox of a process, addressed by its number.
///
/// A process opens its own, and others send to it: [`Endpoint::send_to`], or
/// [`Identity::endpoint`] to answer whoever sent a message. It receives from anyone
/// ([`recv`](Handle::recv)) or from one process alone ([`recv_from`](Handle::recv_from)). There is
/// no end of the stream: others may always come.
///
/// It belongs to the process and not to its number: a later process of the same number has none
/// of it, and whoever has it open for the earlier one is told that the receiver is gone.
///
/// ```
/// use postbox::Endpoint;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let mine = Endpoint::own()?;
/// // Another process would send to this one:
/// Endpoint::send_to(std::process::id(), "hello")?;
///
/// let message = mine.recv()?;
/// assert_eq!(&*message, b"hello");
/// message.sender.endpoint()?.send("and hello to you")?;
/// assert_eq!(&*mine.recv_from(&message.sender)?, b"and hello to you");
/// # Ok(())
/// # }
/// ```
pub type Endpoint = Handle<OwnEndpoint>;

impl Endpoint {
    /// This process's endpoint, which is made if it is not there yet: 1,024 messages, for processes
    /// of the same user (mode 0600). [`options`](Self::options) make others.
    ///
    /// # Errors
    /// [`Quota`](ErrorKind::Quota) (too many objects), [`ModuleMissing`](ErrorKind::ModuleMissing),
    /// [`Incompatible`](ErrorKind::Incompatible).
    pub fn own() -> Result<Endpoint> {
        Self::options().open()
    }

    /// What this process's endpoint is to be like: see [`EndpointOptions`].
    pub fn options() -> EndpointOptions {
        EndpointOptions::new()
    }

    /// The endpoint of that process, to send to.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone): there is no such process. [`NotFound`](ErrorKind::NotFound): it
    /// has not opened its endpoint. [`Denied`](ErrorKind::Denied): the mode does not let this user
    /// write. And as [`own`](Self::own).
    pub fn of(pid: u32) -> Result<Sender> {
        let subject = Subject::numbered(Kind::Endpoint, pid);
        if pid == 0 {
            // It would be this process's own.
            return Err(Error::of_kind(Action::Open, &subject, ErrorKind::Gone));
        }
        let (inner, _) = Inner::open(subject, Rights::SEND, sys::postbox_open::default())?;
        Ok(Handle::from_inner(inner))
    }

    /// Sends a message to that process, and waits for room. Who sends more than one keeps what
    /// [`of`](Self::of) returns, which also has the other forms of sending.
    ///
    /// # Errors
    /// As [`of`](Self::of) and [`Handle::send`].
    pub fn send_to<T: AsRef<[u8]>>(pid: u32, payload: T) -> Result<(), SendError<T>> {
        match Self::of(pid) {
            Ok(sender) => sender.send(payload),
            Err(error) => Err(SendError { payload, error }),
        }
    }
}

impl Identity {
    /// The endpoint of the very process that sent, to send to: not that of a later one that got its
    /// number.
    ///
    /// # Errors
    /// As [`open_pidfd`](Self::open_pidfd) and [`Endpoint::of`].
    pub fn endpoint(&self) -> Result<Sender> {
        let sender = Endpoint::of(self.pid)?;
        // It was the process's number before, and if it still is, it was when this was opened.
        self.verify()?;
        Ok(sender)
    }
}

/// What this process's endpoint is to be like. One that it has already keeps its own.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    args: sys::postbox_open,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl EndpointOptions {
    /// It holds 1,024 messages and is for processes of the same user (mode 0600).
    pub fn new() -> Self {
        EndpointOptions {
            args: sys::postbox_open {
                flags: sys::POSTBOX_O_CREATE,
                mode: 0o600,
                capacity: Capacity::default().to_raw(),
                ..Default::default()
            },
        }
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

    /// Permission bits as of a file: w to send. The umask is not applied.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.args.mode = mode;
        self
    }

    /// Opens this process's endpoint.
    ///
    /// # Errors
    /// As [`Endpoint::own`].
    pub fn open(&self) -> Result<Endpoint> {
        let subject = Subject::new(Kind::Endpoint, None);
        let (inner, _) = Inner::open(subject, Rights::RECEIVE, self.args)?;
        Ok(Handle::from_inner(inner))
    }
}
