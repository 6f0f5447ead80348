use crate::error::{Action, Result};
use crate::handle::{Handle, Rights, access};
use crate::link::{Link, LinkOptions, end};
use crate::object::{Inner, Kind, Subject};
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::io::retry_on_intr;
use std::fmt;
use std::time::{Duration, Instant};

access! {
    /// Accepts connections: the access of a [`Listener`].
    Listens = Rights::RECEIVE, "Listener", [Listener];
}

/// Where clients connect, by name or on a port. Each connection is a [`Link`].
///
/// What the links are like says [`LinkOptions`], of which [`listen`](LinkOptions::listen) and
/// [`listen_port`](LinkOptions::listen_port) make a listener. It is gone with its last handle;
/// connections that nobody has accepted then are closed, and those that were accepted are not
/// touched. `IN` of [`ready`](Handle::ready) says that one waits to be accepted.
pub type Listener = Handle<Listens>;

impl Listener {
    /// Listens under a name that nobody has yet. [`Link::options`] have more to say.
    ///
    /// ```
    /// use postbox::{Link, Listener};
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let listener = Listener::bind("doc/bind")?;
    /// let clients = std::thread::spawn(|| {
    ///     let link = Link::connect("doc/bind")?;
    ///     link.call("time?")
    /// });
    ///
    /// for link in listener.incoming().take(1) {
    ///     link?.recv_request()?.reply("noon")?;
    /// }
    /// # assert_eq!(&*clients.join().unwrap()?, b"noon");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Exists`](crate::ErrorKind::Exists), [`InvalidName`](crate::ErrorKind::InvalidName),
    /// [`Quota`](crate::ErrorKind::Quota) (too many objects),
    /// [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
    /// [`Incompatible`](crate::ErrorKind::Incompatible).
    pub fn bind(name: &str) -> Result<Listener> {
        LinkOptions::new().listen(name)
    }

    /// One more handle to a listener that exists, so that several processes accept. Its mode must
    /// allow reading.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Denied`](crate::ErrorKind::Denied), and as
    /// [`bind`](Self::bind).
    pub fn open(name: &str) -> Result<Listener> {
        let (inner, _) = Inner::open(
            Subject::new(Kind::Listener, Some(name)),
            Rights::RECEIVE,
            sys::postbox_open::default(),
        )?;
        Ok(Handle::from_inner(inner))
    }

    /// Takes a connection, and waits for one. [`Link::peer`] says who it is.
    ///
    /// # Errors
    /// [`NoDescriptors`](crate::ErrorKind::NoDescriptors): the connection goes on waiting.
    pub fn accept(&self) -> Result<Link> {
        self.accept_with(Wait::Forever)
    }

    /// Takes a connection if one waits now.
    ///
    /// # Errors
    /// [`Empty`](crate::ErrorKind::Empty), and as [`accept`](Self::accept).
    pub fn try_accept(&self) -> Result<Link> {
        self.accept_with(Wait::Never)
    }

    /// Takes a connection, and waits for one at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`accept`](Self::accept).
    pub fn accept_timeout(&self, timeout: Duration) -> Result<Link> {
        self.accept_with(Wait::Timeout(timeout))
    }

    /// Takes a connection, and waits for one until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`accept`](Self::accept).
    pub fn accept_deadline(&self, deadline: Instant) -> Result<Link> {
        self.accept_with(Wait::Deadline(deadline))
    }

    /// Takes a connection, and waits as `wait` says.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn accept_with(&self, wait: Wait) -> Result<Link> {
        let (flags, timeout_ns) = wait.flags();
        let mut args = sys::postbox_accept {
            flags,
            timeout_ns,
            ..Default::default()
        };
        let fd = retry_on_intr(|| raw::accept(self, &mut args))
            .map_err(|errno| self.inner.error(Action::Accept, errno))?;
        let subject = Subject {
            kind: Kind::Link,
            ..self.inner.subject.clone()
        };
        end(fd, subject, self.inner.batch_max)
    }

    /// Takes connection after connection, and waits for each. It does not end.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }
}

/// The iterator of [`Listener::incoming`].
pub struct Incoming<'a> {
    listener: &'a Listener,
}

impl Iterator for Incoming<'_> {
    type Item = Result<Link>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.listener.accept())
    }
}

impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("listener", self.listener)
            .finish()
    }
}
