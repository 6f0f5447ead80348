use crate::error::{Action, Error, ErrorKind, Result};
use crate::handle::{
    Access, CanReceive, CanSend, Capacity, Handle, Receiver, Rights, Sender, sealed,
};
use crate::info::Info;
use crate::listener::Listener;
use crate::object::{Inner, Kind, Subject, device};
use crate::recv::Identity;
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::fd::OwnedFd;
use rustix::io::retry_on_intr;
use std::net::Shutdown;
use std::time::{Duration, Instant};

const BOTH: Rights = Rights::SEND.union(Rights::RECEIVE);

/// One end of a connection: the access of a [`Link`].
#[derive(Clone, Copy, Debug)]
pub enum LinkEnd {}

impl sealed::Sealed for LinkEnd {}

impl Access for LinkEnd {
    /// Without that of a direction that the link does not have.
    const RIGHTS: Rights = BOTH;
    const NAME: &'static str = "Link";

    fn fits(kind: Kind, rights: Rights) -> bool {
        kind == Kind::Link && BOTH.contains(rights)
    }
}

impl CanSend for LinkEnd {}
impl CanReceive for LinkEnd {}

/// One end of a connection: what it sends, the other end receives, and nobody else.
///
/// Links are made as a pair ([`Link::pair`]), by a client that connects to a [`Listener`]
/// ([`Link::connect`]), and by two processes that meet at a [`Port`]. A link end sends, receives,
/// calls and answers as a [`Mailbox`](crate::Mailbox) does, and its end of the stream is that of the
/// other end: closing one, or the death of its process, wakes whoever waits at the other.
pub type Link = Handle<LinkEnd>;

/// Which ends of a link send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    #[default]
    Both,
    /// The first alone: who connected, or who opened the port first.
    Forward,
    /// The second alone: who accepted, or who opened the port second.
    Back,
}

impl Link {
    /// Two ends that are connected, for threads, children, and whoever gets a descriptor of one.
    /// Each direction holds 1,024 messages; [`options`](Self::options) make others.
    ///
    /// ```
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let (near, far) = postbox::Link::pair()?;
    /// near.send("ping")?;
    /// assert_eq!(&*far.recv()?, b"ping");
    /// far.send("pong")?;
    /// assert_eq!(&*near.recv()?, b"pong");
    /// drop(far);
    /// assert!(near.recv().is_err_and(|error| error.is_disconnected()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Quota`](ErrorKind::Quota) (too many objects),
    /// [`NoDescriptors`](ErrorKind::NoDescriptors),
    /// [`ModuleMissing`](ErrorKind::ModuleMissing),
    /// [`Incompatible`](ErrorKind::Incompatible).
    pub fn pair() -> Result<(Link, Link)> {
        LinkOptions::new().pair()
    }

    /// What a link is to be like: see [`LinkOptions`].
    pub fn options() -> LinkOptions {
        LinkOptions::new()
    }

    /// Connects to the [`Listener`] of that name, and waits while as many connections as it lets
    /// wait are waiting already. The link can be used at once, whether or not it has been accepted;
    /// if it never is, it sees the other end closed.
    ///
    /// ```
    /// use postbox::{Link, Listener};
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let listener = Listener::bind("doc/connect")?;
    /// let client = Link::connect("doc/connect")?;
    /// client.send("hello")?;
    ///
    /// let server = listener.accept()?;
    /// assert_eq!(server.peer()?.pid, std::process::id());
    /// assert_eq!(&*server.recv()?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): nobody listens there.
    /// [`Denied`](ErrorKind::Denied): its mode does not allow writing. And as
    /// [`pair`](Self::pair).
    pub fn connect(name: &str) -> Result<Link> {
        Self::connect_with(name, Wait::Forever)
    }

    /// Connects if there is room for one more connection now.
    ///
    /// # Errors
    /// [`Full`](ErrorKind::Full), and as [`connect`](Self::connect).
    pub fn try_connect(name: &str) -> Result<Link> {
        Self::connect_with(name, Wait::Never)
    }

    /// Connects, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`connect`](Self::connect).
    pub fn connect_timeout(name: &str, timeout: Duration) -> Result<Link> {
        Self::connect_with(name, Wait::Timeout(timeout))
    }

    /// Connects, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`connect`](Self::connect).
    pub fn connect_deadline(name: &str, deadline: Instant) -> Result<Link> {
        Self::connect_with(name, Wait::Deadline(deadline))
    }

    /// Connects, and waits as `wait` says.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_with(name: &str, wait: Wait) -> Result<Link> {
        connect(Subject::new(Kind::Listener, Some(name)), wait)
    }

    /// Who is at the other end, by the kernel's word: the process that connected, accepted, opened
    /// the port or made the pair. Before a connection is accepted, who listens.
    ///
    /// # Errors
    /// [`NotConnected`](ErrorKind::NotConnected): nobody has opened the port a second time.
    pub fn peer(&self) -> Result<Identity> {
        let peer = raw::peer(self).map_err(|errno| self.inner.error(Action::Peer, errno))?;
        Ok(Identity::of_peer(&peer))
    }

    /// Ends one direction, or both, for all handles of this end. The other end sees what it would
    /// see if this one were closed: the end of what it receives, after the last message, or
    /// [`Disconnected`](ErrorKind::Disconnected) when it sends.
    ///
    /// ```
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let (client, server) = postbox::Link::pair()?;
    /// client.send_many(&["one", "two"], 0, postbox::Wait::Forever)?;
    /// client.shutdown(postbox::Shutdown::Write)?;
    ///
    /// server.send(server.iter().count().to_string())?;
    /// assert_eq!(&*client.recv()?, b"2");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied): the handle does not have the right of that direction.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        let how = match how {
            Shutdown::Read => sys::POSTBOX_SHUT_RECEIVE,
            Shutdown::Write => sys::POSTBOX_SHUT_SEND,
            Shutdown::Both => sys::POSTBOX_SHUT_SEND | sys::POSTBOX_SHUT_RECEIVE,
        };
        raw::shutdown(self, how).map_err(|errno| self.inner.error(Action::Shutdown, errno))
    }

    /// One handle that sends and one that receives. Closing the one ends its direction.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied): the link has one direction only.
    /// [`NoDescriptors`](ErrorKind::NoDescriptors).
    pub fn split(self) -> Result<(Sender, Receiver)> {
        Ok((self.sender()?, self.receiver()?))
    }

    /// A second handle of this end that can only send.
    ///
    /// # Errors
    /// As [`split`](Self::split).
    pub fn sender(&self) -> Result<Sender> {
        self.inner.dup(Rights::SEND).map(Handle::from_inner)
    }

    /// A second handle of this end that can only receive.
    ///
    /// # Errors
    /// As [`split`](Self::split).
    pub fn receiver(&self) -> Result<Receiver> {
        self.inner.dup(Rights::RECEIVE).map(Handle::from_inner)
    }
}

/// The end of a link that the kernel has just made.
pub(crate) fn end(fd: OwnedFd, subject: Subject, batch_max: usize) -> Result<Link> {
    let inner = Inner::new(fd, subject, BOTH, batch_max);
    let Info { rights, .. } = inner.info()?;
    Ok(Handle::from_inner(Inner { rights, ..inner }))
}

fn port_subject(kind: Kind, port: u16) -> Result<Subject> {
    let subject = Subject::numbered(kind, port.into());
    if port == 0 {
        return Err(Error::of_kind(
            Action::Open,
            &subject,
            ErrorKind::InvalidName,
        ));
    }
    Ok(subject)
}

fn connect(listener: Subject, wait: Wait) -> Result<Link> {
    let (fd, version) = device()?;
    let (mut flags, timeout_ns) = wait.flags();
    if listener.number != 0 {
        flags |= sys::POSTBOX_CONNECT_PORT;
    }
    let mut args = sys::postbox_connect {
        flags,
        timeout_ns,
        number: listener.number,
        ..Default::default()
    };
    let name = listener.name.as_deref().map(str::as_bytes);
    retry_on_intr(|| raw::connect(&fd, name, &mut args))
        .map_err(|errno| Error::new(Action::Connect, &listener, errno))?;
    let subject = Subject {
        kind: Kind::Link,
        ..listener
    };
    end(fd, subject, version.batch_max as usize)
}

/// What a link is to be like, or those that come through a [`Listener`].
///
/// ```
/// use postbox::{Capacity, Link};
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let (client, server) = Link::options()
///     .capacity(Capacity::Rendezvous)
///     .back_capacity(Capacity::Bounded(16))
///     .pair()?;
/// assert!(client.try_send("nobody receives").is_err());
/// server.try_send("there is room")?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LinkOptions {
    capacity: Capacity,
    back_capacity: Option<Capacity>,
    capacity_bytes: u64,
    back_capacity_bytes: u64,
    message_max: u64,
    direction: Direction,
    mode: u32,
    backlog: u32,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl LinkOptions {
    /// Both ends send, and each direction holds 1,024 messages. A port or listener is for its owner
    /// alone (mode 0600), and lets 128 connections wait.
    pub fn new() -> Self {
        LinkOptions {
            capacity: Capacity::default(),
            back_capacity: None,
            capacity_bytes: 0,
            back_capacity_bytes: 0,
            message_max: 0,
            direction: Direction::Both,
            mode: 0o600,
            backlog: 128,
        }
    }

    /// How many messages a direction holds: what the first end sends, and, without
    /// [`back_capacity`](Self::back_capacity), also what the second one sends. The first end is who
    /// connected, or who opened the port first.
    pub fn capacity(&mut self, capacity: Capacity) -> &mut Self {
        self.capacity = capacity;
        self
    }

    /// How many messages what the second end sends holds.
    pub fn back_capacity(&mut self, capacity: Capacity) -> &mut Self {
        self.back_capacity = Some(capacity);
        self
    }

    /// How many bytes what the first end sends holds; 0: no limit of its own.
    pub fn capacity_bytes(&mut self, bytes: u64) -> &mut Self {
        self.capacity_bytes = bytes;
        self
    }

    /// How many bytes what the second end sends holds; 0: no limit of its own.
    pub fn back_capacity_bytes(&mut self, bytes: u64) -> &mut Self {
        self.back_capacity_bytes = bytes;
        self
    }

    /// Bytes of the largest message; 0: the module's limit.
    pub fn message_max(&mut self, bytes: u64) -> &mut Self {
        self.message_max = bytes;
        self
    }

    /// Which ends send.
    pub fn direction(&mut self, direction: Direction) -> &mut Self {
        self.direction = direction;
        self
    }

    /// Permission bits of a port or listener: w to connect, or to open the port second; r to
    /// accept. The umask is not applied.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Connections that wait to be accepted; 0: a connect waits for its accept.
    pub fn backlog(&mut self, connections: u32) -> &mut Self {
        self.backlog = connections;
        self
    }

    /// Messages and bytes of both directions. What is not there has none.
    fn capacities(&self) -> [u64; 4] {
        let back = self.back_capacity.unwrap_or(self.capacity);
        let mut forward = [self.capacity.to_raw(), self.capacity_bytes];
        let mut back = [back.to_raw(), self.back_capacity_bytes];
        match self.direction {
            Direction::Both => {}
            Direction::Forward => back = [0; 2],
            Direction::Back => forward = [0; 2],
        }
        [forward[0], forward[1], back[0], back[1]]
    }

    fn flags(&self) -> u32 {
        match self.direction {
            Direction::Both => 0,
            Direction::Forward => sys::POSTBOX_O_NO_BACK,
            Direction::Back => sys::POSTBOX_O_NO_FORWARD,
        }
    }

    fn open_args(&self, flags: u32) -> sys::postbox_open {
        let [capacity, capacity_bytes, back_capacity, back_capacity_bytes] = self.capacities();
        sys::postbox_open {
            flags: self.flags() | flags,
            mode: self.mode,
            capacity,
            capacity_bytes,
            message_max: self.message_max,
            back_capacity,
            back_capacity_bytes,
            ..Default::default()
        }
    }

    /// Two ends that are connected: the first and the second.
    ///
    /// # Errors
    /// As [`Link::pair`].
    pub fn pair(&self) -> Result<(Link, Link)> {
        let (first, version) = device()?;
        let subject = Subject::new(Kind::Link, None);
        let [capacity, capacity_bytes, back_capacity, back_capacity_bytes] = self.capacities();
        let mut args = sys::postbox_pair {
            flags: self.flags(),
            capacity,
            capacity_bytes,
            back_capacity,
            back_capacity_bytes,
            message_max: self.message_max,
            ..Default::default()
        };
        let second = raw::pair(&first, &mut args)
            .map_err(|errno| Error::new(Action::Open, &subject, errno))?;
        let (forward, back) = (Rights::SEND, Rights::RECEIVE);
        let (first_rights, second_rights) = match self.direction {
            Direction::Both => (BOTH, BOTH),
            Direction::Forward => (forward, back),
            Direction::Back => (back, forward),
        };
        let batch_max = version.batch_max as usize;
        Ok((
            Handle::from_inner(Inner::new(first, subject.clone(), first_rights, batch_max)),
            Handle::from_inner(Inner::new(second, subject, second_rights, batch_max)),
        ))
    }

    /// Two ends that are connected, of which one sends and the other receives.
    ///
    /// # Errors
    /// As [`Link::pair`].
    pub fn pair_one_way(&self) -> Result<(Sender, Receiver)> {
        let mut options = self.clone();
        let (first, second) = options.direction(Direction::Forward).pair()?;
        Ok((
            Handle::from_inner(first.inner),
            Handle::from_inner(second.inner),
        ))
    }

    /// Listens under a name that nobody has yet.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn listen(&self, name: &str) -> Result<Listener> {
        self.listen_at(
            Subject::new(Kind::Listener, Some(name)),
            sys::POSTBOX_O_EXCL,
        )
    }

    /// Listens on a port.
    ///
    /// # Errors
    /// As [`Port::listen`].
    pub fn listen_port(&self, port: u16) -> Result<Listener> {
        let subject = port_subject(Kind::Listener, port)?;
        self.listen_at(subject, sys::POSTBOX_O_EXCL | sys::POSTBOX_O_PORT)
    }

    fn listen_at(&self, subject: Subject, flags: u32) -> Result<Listener> {
        let args = sys::postbox_open {
            backlog: self.backlog,
            ..self.open_args(sys::POSTBOX_O_CREATE | flags)
        };
        let (inner, _) = Inner::open(subject, Rights::RECEIVE, args)?;
        Ok(Handle::from_inner(inner))
    }

    /// Opens one end of a port, and does not wait for the other.
    ///
    /// # Errors
    /// As [`Port::open`].
    pub fn open_port(&self, port: u16) -> Result<Link> {
        let args = self.open_args(sys::POSTBOX_O_CREATE | sys::POSTBOX_O_PORT);
        let (inner, _) = Inner::open(port_subject(Kind::Link, port)?, BOTH, args)?;
        end(inner.fd, inner.subject, inner.batch_max)
    }

    /// Opens one end of a port, and waits for the other as `wait` says.
    ///
    /// # Errors
    /// As [`Port::bind_with`].
    pub fn bind_port(&self, port: u16, wait: Wait) -> Result<Link> {
        let link = self.open_port(port)?;
        link.wait_peer(wait)?;
        Ok(link)
    }
}

/// Ports, 1 to 65535: where two processes meet that know the same number.
///
/// They open the same port, and have a link. Whoever comes first makes it: its [options](LinkOptions)
/// and its mode hold. A third gets [`AddressInUse`](ErrorKind::AddressInUse). When one of the
/// two is closed, or its process dies, the port is free again. A server with many clients
/// [listens](Port::listen) on the port instead.
///
/// ```
/// use postbox::Port;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// // Here in two threads.
/// let other = std::thread::spawn(|| Port::bind(5001)?.recv());
///
/// let link = Port::bind(5001)?;
/// link.send("hello")?;
/// assert_eq!(&*other.join().unwrap()?, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum Port {}

impl Port {
    /// Opens one end of a port, and waits until somebody opens the other. Who comes second does not
    /// wait.
    ///
    /// # Errors
    /// [`AddressInUse`](ErrorKind::AddressInUse): it has both its ends, or somebody listens
    /// on it. [`Denied`](ErrorKind::Denied): the mode that the first one gave it. And as
    /// [`Link::pair`].
    pub fn bind(port: u16) -> Result<Link> {
        Self::bind_with(port, Wait::Forever)
    }

    /// Opens one end of a port if the other is there already.
    ///
    /// # Errors
    /// [`NotYet`](ErrorKind::NotYet), and as [`bind`](Self::bind).
    pub fn try_bind(port: u16) -> Result<Link> {
        Self::bind_with(port, Wait::Never)
    }

    /// Opens one end of a port, and waits for the other at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`bind`](Self::bind).
    pub fn bind_timeout(port: u16, timeout: Duration) -> Result<Link> {
        Self::bind_with(port, Wait::Timeout(timeout))
    }

    /// Opens one end of a port, and waits for the other until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`bind`](Self::bind).
    pub fn bind_deadline(port: u16, deadline: Instant) -> Result<Link> {
        Self::bind_with(port, Wait::Deadline(deadline))
    }

    /// Opens one end of a port, and waits for the other as `wait` says. Where nobody comes in time,
    /// the port is free again.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn bind_with(port: u16, wait: Wait) -> Result<Link> {
        LinkOptions::new().bind_port(port, wait)
    }

    /// Opens one end of a port, and does not wait for the other: what is sent waits for it, and
    /// [`wait_peer`](Handle::wait_peer) does.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn open(port: u16) -> Result<Link> {
        LinkOptions::new().open_port(port)
    }

    /// Listens on a port, for many clients.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub fn listen(port: u16) -> Result<Listener> {
        LinkOptions::new().listen_port(port)
    }

    /// Connects to whoever listens on a port.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub fn connect(port: u16) -> Result<Link> {
        Self::connect_with(port, Wait::Forever)
    }

    /// Connects to whoever listens on a port, and waits as `wait` says.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub fn connect_with(port: u16, wait: Wait) -> Result<Link> {
        connect(port_subject(Kind::Listener, port)?, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_direction_is_like_the_first_unless_it_is_said() {
        let mut options = LinkOptions::new();
        options.capacity(Capacity::Rendezvous);
        let args = options.open_args(0);
        assert_eq!((args.capacity, args.back_capacity), (0, 0));
        options.back_capacity(Capacity::Bounded(3));
        let args = options.capacity(Capacity::Unbounded).open_args(0);
        assert_eq!(
            (args.capacity, args.back_capacity),
            (sys::POSTBOX_UNBOUNDED, 3)
        );
    }

    #[test]
    fn directions_are_the_kernels_flags() {
        let mut options = LinkOptions::new();
        assert_eq!(options.flags(), 0);
        let forward = options.direction(Direction::Forward).flags();
        assert_eq!(forward, sys::POSTBOX_O_NO_BACK);
        let back = options.direction(Direction::Back).flags();
        assert_eq!(back, sys::POSTBOX_O_NO_FORWARD);
        assert_eq!(options.capacities(), [0, 0, 1024, 0]);
    }

    #[test]
    fn an_end_may_have_one_direction() {
        assert!(LinkEnd::fits(Kind::Link, BOTH));
        assert!(LinkEnd::fits(Kind::Link, Rights::SEND));
        assert!(!LinkEnd::fits(Kind::Mailbox, BOTH));
        assert!(!LinkEnd::fits(Kind::Link, Rights::ADMIN));
    }
}
