use crate::error::{Action, Error, ErrorKind, Result, SendError, SendManyError};
use crate::handle::{CanSend, Handle};
use crate::object::{Inner, Kind, Ref};
use crate::parcel::Parcel;
use crate::process::Home;
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::io::{Errno, retry_on_intr};
use std::io;
use std::time::{Duration, Instant};

/// Each write is one message of priority 0. It waits for room, as [`Handle::send`] does; with
/// [`BufWriter`](io::BufWriter) a message is what its buffer holds when it is flushed.
impl<A: CanSend> io::Write for &Handle<A> {
    fn write(&mut self, payload: &[u8]) -> io::Result<usize> {
        self.inner
            .send(payload, &[], &sys::postbox_send::default())?;
        Ok(payload.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inner {
    fn send(
        &self,
        payload: &[u8],
        files: &[raw::SendFd<'_>],
        args: &sys::postbox_send,
    ) -> Result<()> {
        // What says no more than the bytes is a write, which is the shorter way through the kernel.
        // Writes of nothing are often swallowed on the way.
        let plain =
            args.flags == 0 && args.priority == 0 && !payload.is_empty() && files.is_empty();
        retry_on_intr(|| {
            if plain {
                rustix::io::write(&self.fd, payload).map(drop)
            } else {
                raw::send_files(&self.fd, payload, files, args)
            }
        })
        .map_err(|errno| self.send_error(Action::Send, errno, payload.len()))
    }

    pub(crate) fn send_error(&self, action: Action, errno: Errno, len: usize) -> Error {
        let mut error = self.error(action, errno);
        if errno == Errno::MSGSIZE
            && let Ok(limit) = self.limit(action)
        {
            error.kind = ErrorKind::TooLarge {
                len: len as u64,
                limit,
            };
        }
        error
    }

    /// Bytes of the largest message that can be sent.
    fn limit(&self, action: Action) -> rustix::io::Result<u64> {
        if action == Action::Reply {
            // A reply goes straight to the caller, and not through the object.
            return Ok(raw::version(&self.fd)?.message_max);
        }
        let info = raw::info(&self.fd)?;
        Ok(match self.subject.kind {
            // The capacity is that of the other direction.
            Kind::Link => info.message_max,
            _ => info.message_max.min(info.capacity_bytes),
        })
    }
}

/// # Sending
///
/// A payload is anything that is bytes: `Vec<u8>`, `String`, `&[u8]`, `[u8; N]`. The error gives it
/// back. A failed send has left nothing in the mailbox.
///
/// What can fail: [`Disconnected`](ErrorKind::Disconnected) (the last receiver is gone; not if the
/// mailbox is persistent), [`TooLarge`](ErrorKind::TooLarge), [`Quota`](ErrorKind::Quota);
/// [`Full`](ErrorKind::Full) where the call does not wait; [`Timeout`](ErrorKind::Timeout) where it
/// has a limit; [`Os`](ErrorKind::Os) when memory is short.
///
/// Who waits for room gets it in the order of arrival. A signal handler does not end a wait: see
/// [`Wait`].
impl<A: CanSend> Handle<A> {
    /// Sends a message, and waits for room, or, on a rendezvous mailbox, until a receiver has the
    /// bytes.
    ///
    /// ```
    /// use postbox::Mailbox;
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let jobs = Mailbox::bounded("doc/send", 1)?;
    /// jobs.send("build")?;
    ///
    /// // What was not sent comes back.
    /// let failed = jobs.try_send(String::from("test")).unwrap_err();
    /// assert!(failed.error.is_full());
    /// let job: String = failed.into_payload();
    /// # assert_eq!(job, "test");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [Sending](#sending).
    pub fn send<T: AsRef<[u8]>>(&self, payload: T) -> Result<(), SendError<T>> {
        self.send_with(payload, 0, Wait::Forever)
    }

    /// Sends a message if that is possible now. It never sleeps: on a rendezvous mailbox it hands the
    /// message to a receiver that waits, and does not say that this one has copied it. Should that
    /// receiver fail, the message is for the next one.
    ///
    /// # Errors
    /// [`Full`](ErrorKind::Full), and see [Sending](#sending).
    pub fn try_send<T: AsRef<[u8]>>(&self, payload: T) -> Result<(), SendError<T>> {
        self.send_with(payload, 0, Wait::Never)
    }

    /// Sends a message, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Sending](#sending).
    pub fn send_timeout<T: AsRef<[u8]>>(
        &self,
        payload: T,
        timeout: Duration,
    ) -> Result<(), SendError<T>> {
        self.send_with(payload, 0, Wait::Timeout(timeout))
    }

    /// Sends a message, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Sending](#sending).
    pub fn send_deadline<T: AsRef<[u8]>>(
        &self,
        payload: T,
        deadline: Instant,
    ) -> Result<(), SendError<T>> {
        self.send_with(payload, 0, Wait::Deadline(deadline))
    }

    /// Sends a message with a priority, 0 to [`PRIORITY_MAX`](crate::PRIORITY_MAX): the higher is
    /// received first.
    ///
    /// # Errors
    /// See [Sending](#sending). A priority out of range is `EINVAL`, [`Os`](ErrorKind::Os).
    pub fn send_with<T: AsRef<[u8]>>(
        &self,
        payload: T,
        priority: u32,
        wait: Wait,
    ) -> Result<(), SendError<T>> {
        let (flags, timeout_ns) = wait.flags();
        let args = sys::postbox_send {
            flags,
            timeout_ns,
            priority,
            ..Default::default()
        };
        match self.inner.send(payload.as_ref(), &[], &args) {
            Ok(()) => Ok(()),
            Err(error) => Err(SendError { payload, error }),
        }
    }

    /// Sends a message with files: see [`Parcel`].
    ///
    /// ```
    /// use postbox::{Mailbox, Parcel, Wait};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let logs = Mailbox::options().anonymous()?;
    /// let file = std::fs::File::open("/dev/null")?;
    /// logs.send_parcel(Parcel::new("the log").attach(&file), Wait::Forever)?;
    ///
    /// let mut message = logs.recv()?;
    /// let file = std::fs::File::from(message.files.remove(0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TooManyFiles`](ErrorKind::TooManyFiles), [`Loop`](ErrorKind::Loop),
    /// [`Denied`](ErrorKind::Denied) (more rights than the handle has), [`Quota`](ErrorKind::Quota)
    /// (as many files are under way as the user may have); and see [Sending](#sending). A file of
    /// io_uring cannot be sent: `EINVAL`, [`Os`](ErrorKind::Os).
    pub fn send_parcel(&self, parcel: &Parcel<'_>, wait: Wait) -> Result<()> {
        let files = parcel.files(&self.inner, Action::Send)?;
        let (flags, timeout_ns) = wait.flags();
        let args = sys::postbox_send {
            flags,
            timeout_ns,
            priority: parcel.priority,
            ..Default::default()
        };
        self.inner.send(parcel.payload, files, &args)
    }

    /// Sends many messages in few calls to the kernel, in their order. `wait` is for all of them
    /// together.
    ///
    /// ```
    /// use postbox::{Mailbox, Wait};
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let jobs = Mailbox::bounded("doc/send_many", 16)?;
    /// jobs.send_many(&["configure", "build", "test"], 0, Wait::Forever)?;
    /// assert_eq!(jobs.info()?.messages, 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [Sending](#sending); the error says how many were sent before.
    pub fn send_many<T: AsRef<[u8]>>(
        &self,
        payloads: &[T],
        priority: u32,
        wait: Wait,
    ) -> Result<(), SendManyError> {
        let (flags, timeout_ns) = wait.flags();
        let mut sent = 0;
        for chunk in payloads.chunks(self.inner.batch_max.max(1)) {
            let entries: Vec<_> = chunk
                .iter()
                .map(|payload| raw::SendEntry::new(payload.as_ref(), priority))
                .collect();
            let end = sent + entries.len();
            while sent < end {
                let rest = &entries[entries.len() - (end - sent)..];
                match retry_on_intr(|| raw::send_batch(self, rest, flags, timeout_ns)) {
                    Ok(count) => sent += count,
                    Err(errno) => {
                        let len = payloads[sent].as_ref().len();
                        let error = self.inner.send_error(Action::Send, errno, len);
                        return Err(SendManyError { sent, error });
                    }
                }
            }
        }
        Ok(())
    }

    /// Gets room for one message of at most `len` bytes, and waits until there is some. Sending it
    /// then does not wait.
    ///
    /// ```
    /// # fn build() -> Vec<u8> { Vec::new() }
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let results = postbox::Mailbox::bounded("doc/reserve", 1)?;
    /// let permit = results.reserve(4096)?;
    /// assert!(results.try_send("too late").is_err());
    /// permit.send(build())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [Sending](#sending). A rendezvous mailbox has no room to reserve:
    /// [`Unsupported`](ErrorKind::Unsupported).
    pub fn reserve(&self, len: usize) -> Result<Permit<'_>> {
        self.reserve_with(len, Wait::Forever)
    }

    /// Gets room if there is some now.
    ///
    /// # Errors
    /// [`Full`](ErrorKind::Full), and as [`reserve`](Self::reserve).
    pub fn try_reserve(&self, len: usize) -> Result<Permit<'_>> {
        self.reserve_with(len, Wait::Never)
    }

    /// Gets room, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`reserve`](Self::reserve).
    pub fn reserve_timeout(&self, len: usize, timeout: Duration) -> Result<Permit<'_>> {
        self.reserve_with(len, Wait::Timeout(timeout))
    }

    /// Gets room, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`reserve`](Self::reserve).
    pub fn reserve_deadline(&self, len: usize, deadline: Instant) -> Result<Permit<'_>> {
        self.reserve_with(len, Wait::Deadline(deadline))
    }

    fn reserve_with(&self, len: usize, wait: Wait) -> Result<Permit<'_>> {
        self.reserve_room(len, wait)?;
        Ok(Permit::new((&self.inner).into(), len))
    }

    /// Gets room, of which a [`Permit`] has to be made.
    pub(crate) fn reserve_room(&self, len: usize, wait: Wait) -> Result<()> {
        let (flags, timeout_ns) = wait.flags();
        let args = sys::postbox_reserve {
            flags,
            len: len as u64,
            timeout_ns,
            ..Default::default()
        };
        retry_on_intr(|| raw::reserve(self, &args))
            .map_err(|errno| self.inner.send_error(Action::Reserve, errno, len))
    }
}

/// Room for one message, got by [`Handle::reserve`]. Dropping it gives the room back; but in a child made by
/// `fork` it is the parent's, and dropping it does nothing.
#[must_use = "dropping it gives the room back"]
pub struct Permit<'a> {
    inner: Ref<'a, Inner>,
    len: u64,
    used: bool,
    home: Home,
}

impl<'a> Permit<'a> {
    pub(crate) fn new(inner: Ref<'a, Inner>, len: usize) -> Self {
        Permit {
            inner,
            len: len as u64,
            used: false,
            home: Home::here(),
        }
    }

    /// Sends a message of at most the reserved length. It never waits.
    ///
    /// # Errors
    /// [`Disconnected`](ErrorKind::Disconnected), [`TooLarge`](ErrorKind::TooLarge) (more than was
    /// reserved); the room is given back.
    pub fn send<T: AsRef<[u8]>>(self, payload: T) -> Result<(), SendError<T>> {
        self.send_with_priority(payload, 0)
    }

    /// As [`send`](Self::send), with a priority.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with_priority<T: AsRef<[u8]>>(
        mut self,
        payload: T,
        priority: u32,
    ) -> Result<(), SendError<T>> {
        let args = sys::postbox_send {
            flags: sys::POSTBOX_SEND_RESERVED,
            priority,
            reserved_len: self.len,
            ..Default::default()
        };
        let len = payload.as_ref().len() as u64;
        let sent = if len > self.len {
            let kind = ErrorKind::TooLarge {
                len,
                limit: self.len,
            };
            Err(self.inner.error_of_kind(Action::SendReserved, kind))
        } else {
            self.inner.send(payload.as_ref(), &[], &args)
        };
        match sent {
            Ok(()) => {
                self.used = true;
                Ok(())
            }
            Err(error) => Err(SendError { payload, error }),
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.used || !self.home.is_here() {
            return;
        }
        let args = sys::postbox_reserve {
            flags: sys::POSTBOX_RESERVE_CANCEL,
            len: self.len,
            ..Default::default()
        };
        // It cannot fail: this handle has the reservation, and nobody else can use it up.
        let _ = raw::reserve(&self.inner.fd, &args);
    }
}

impl std::fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit")
            .field("name", &self.inner.subject.name)
            .field("len", &self.len)
            .finish()
    }
}
