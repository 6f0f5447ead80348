use crate::error::{Action, ErrorKind, Result, SendError};
use crate::handle::{CanReceive, CanSend, Handle};
#[cfg(not(loom))]
use crate::object::Subject;
use crate::object::{Inner, Ref};
use crate::parcel::Parcel;
use crate::process::Home;
use crate::recv::{Message, is_call};
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::io::Errno;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

impl Inner {
    fn call(
        &self,
        payload: &[u8],
        files: &[raw::SendFd<'_>],
        priority: u32,
        wait: Wait,
    ) -> Result<Message> {
        if wait == Wait::Never {
            return Err(self.error_of_kind(Action::Call, ErrorKind::Unsupported));
        }
        let (flags, timeout_ns) = wait.flags();
        let mut args = sys::postbox_call::default();
        args.request.flags = flags;
        args.request.timeout_ns = timeout_ns;
        args.request.priority = priority;
        args.reply.fd_max = sys::POSTBOX_FILES_MAX;
        let mut came = Vec::new();
        let mut result =
            self.fill(|buf| raw::call(&self.fd, payload, files, buf, &mut came, &mut args));
        loop {
            match result {
                Ok(payload) => return Ok(Message::new(payload, came, &args.reply)),
                // Otherwise it is the request that is too large.
                Err(Errno::MSGSIZE) if args.reply.msg_len > args.reply.len => {
                    self.expect(args.reply.msg_len);
                    if args.reply.token == 0 {
                        // The handle has no room for one more that did not fit.
                        return Err(self.error(Action::Call, Errno::NODATA));
                    }
                }
                Err(Errno::MSGSIZE) if args.reply.token != 0 => {
                    return Err(self.refused(Action::Call, Errno::MSGSIZE, &args.reply));
                }
                Err(errno) => return Err(self.send_error(Action::Call, errno, payload.len())),
            }
            result = self.fill(|buf| raw::call_fetch(&self.fd, buf, &mut came, &mut args));
        }
    }

    fn reply(&self, token: u64, payload: &[u8], files: &[raw::SendFd<'_>]) -> Result<()> {
        let args = sys::postbox_reply {
            token,
            ..Default::default()
        };
        raw::reply(&self.fd, payload, files, &args)
            .map_err(|errno| self.send_error(Action::Reply, errno, payload.len()))
    }

    /// Tells the caller that there will be no reply.
    pub(crate) fn drop_request(&self, token: u64) {
        let args = sys::postbox_reply {
            flags: sys::POSTBOX_REPLY_DROP,
            token,
            ..Default::default()
        };
        // If the caller has given up, nobody needs to be told.
        let _ = raw::reply(&self.fd, &[], &[], &args);
    }
}

/// # Calling
///
/// A call sends a request and waits for the one reply to it, in one system call. On the other side,
/// [`recv_request`](Handle::recv_request) and [`serve`](Handle::serve) answer. Any number of threads
/// can call at once on one handle, and any number of servers can answer on one mailbox.
///
/// What can fail: [`ServerDied`](ErrorKind::ServerDied), [`Dropped`](ErrorKind::Dropped) (the server
/// does not answer), [`Disconnected`](ErrorKind::Disconnected) (the last receiver was gone before
/// one took the request), [`Interrupted`](ErrorKind::Interrupted) (a signal handler ran: a call is
/// not repeated by itself, as the request may have been taken); [`Timeout`](ErrorKind::Timeout) where
/// it has a limit; [`TooLarge`](ErrorKind::TooLarge), [`Quota`](ErrorKind::Quota). A caller that gave
/// up takes its request back if nobody has taken it yet; a reply that comes later reaches nobody, and
/// never another call.
///
/// A call waits also on a handle that was made non-blocking.
impl<A: CanSend> Handle<A> {
    /// Sends a request and waits for the reply.
    ///
    /// ```
    /// use postbox::Mailbox;
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let (client, server) = Mailbox::rendezvous("doc/call")?.split()?;
    /// std::thread::spawn(move || server.serve(|request| request.to_ascii_uppercase()));
    ///
    /// let reply = client.call("hello")?;
    /// assert_eq!(&*reply, b"HELLO");
    /// println!("from process {}", reply.sender.pid);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [Calling](#calling).
    pub fn call(&self, request: impl AsRef<[u8]>) -> Result<Message> {
        self.call_with(request, Wait::Forever)
    }

    /// Sends a request and waits for the reply, at most `timeout` for all of it.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Calling](#calling).
    pub fn call_timeout(&self, request: impl AsRef<[u8]>, timeout: Duration) -> Result<Message> {
        self.call_with(request, Wait::Timeout(timeout))
    }

    /// Sends a request and waits for the reply, until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and see [Calling](#calling).
    pub fn call_deadline(&self, request: impl AsRef<[u8]>, deadline: Instant) -> Result<Message> {
        self.call_with(request, Wait::Deadline(deadline))
    }

    /// Sends a request and waits for the reply, as `wait` says.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) with [`Wait::Never`], and see [Calling](#calling).
    pub fn call_with(&self, request: impl AsRef<[u8]>, wait: Wait) -> Result<Message> {
        self.inner.call(request.as_ref(), &[], 0, wait)
    }

    /// Sends a request with files or a priority, and waits for the reply.
    ///
    /// # Errors
    /// As [`call_with`](Self::call_with) and [`send_parcel`](Self::send_parcel).
    pub fn call_parcel(&self, request: &Parcel<'_>, wait: Wait) -> Result<Message> {
        let files = request.files(&self.inner, Action::Call)?;
        self.inner
            .call(request.payload, files, request.priority, wait)
    }
}

/// # Answering
///
/// A server receives as every receiver does: what fails and how it waits is said under
/// [Receiving](#receiving).
impl<A: CanReceive> Handle<A> {
    /// Receives a request, and waits for one. Messages that nobody waits for are received, too:
    /// [`Request::is_open`] tells.
    ///
    /// ```
    /// use postbox::Mailbox;
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let (client, server) = Mailbox::rendezvous("doc/recv_request")?.split()?;
    /// let calls = std::thread::spawn(move || client.call("2 + 2"));
    ///
    /// let mut request = server.recv_request()?;
    /// assert_eq!(&**request, b"2 + 2");
    /// request.reply("4")?;
    /// # assert_eq!(&*calls.join().unwrap()?, b"4");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Quota`](ErrorKind::Quota): the handle owes too many replies. And see
    /// [Receiving](#receiving).
    pub fn recv_request(&self) -> Result<Request<'_>> {
        self.recv_request_with(Wait::Forever)
    }

    /// Receives a request if there is one now.
    ///
    /// # Errors
    /// [`Empty`](ErrorKind::Empty), and as [`recv_request`](Self::recv_request).
    pub fn try_recv_request(&self) -> Result<Request<'_>> {
        self.recv_request_with(Wait::Never)
    }

    /// Receives a request, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`recv_request`](Self::recv_request).
    pub fn recv_request_timeout(&self, timeout: Duration) -> Result<Request<'_>> {
        self.recv_request_with(Wait::Timeout(timeout))
    }

    /// Receives a request, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`recv_request`](Self::recv_request).
    pub fn recv_request_deadline(&self, deadline: Instant) -> Result<Request<'_>> {
        self.recv_request_with(Wait::Deadline(deadline))
    }

    /// Receives a request, and waits as `wait` says.
    ///
    /// # Errors
    /// As [`recv_request`](Self::recv_request).
    pub fn recv_request_with(&self, wait: Wait) -> Result<Request<'_>> {
        let (message, token) = self.inner.recv(0, None, wait)?;
        Ok(Request::new(&self.inner, message, token))
    }

    /// Answers request after request with what `answer` returns, one system call each, until the
    /// last sender is gone. Several threads or processes can serve one mailbox.
    ///
    /// What is sent without waiting for a reply is passed to `answer` as well, and the answer to it
    /// goes nowhere. A caller that gives up meanwhile does not end it.
    ///
    /// See [`call`](Handle::call) for an example.
    ///
    /// # Errors
    /// What ends it otherwise: see [Receiving](#receiving) and [`Request::reply`].
    pub fn serve<R: AsRef<[u8]>>(&self, mut answer: impl FnMut(&Message) -> R) -> Result<()> {
        let mut next = self.recv_request();
        while let Some(mut request) = until_the_end(next)? {
            let reply = answer(&request);
            let mut result = request.reply_recv(&reply);
            if result
                .as_ref()
                .is_err_and(|error| error.kind == ErrorKind::Stale)
            {
                // There is nothing left to answer: this receives.
                result = request.reply_recv(&reply);
            }
            next = result.map(|()| request);
        }
        Ok(())
    }
}

fn until_the_end(request: Result<Request<'_>>) -> Result<Option<Request<'_>>> {
    match request {
        Ok(request) => Ok(Some(request)),
        Err(error) if error.is_disconnected() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A received request, to be answered by [`reply`](Self::reply). It derefs to its message.
///
/// Dropping it, and the end of the process, tell the caller that there will be no reply; drop it
/// before waiting for the next one, which an assignment to the same variable does only afterwards. A
/// message that nobody waits for is one of these, too: see [`is_open`](Self::is_open). In a child made by
/// `fork` it is the parent's: dropping it there does nothing.
#[must_use = "dropping it tells the caller that there will be no reply"]
pub struct Request<'a> {
    message: Message,
    inner: Ref<'a, Inner>,
    /// 0: there is nothing to answer (any more).
    token: u64,
    home: Home,
}

impl<'a> Request<'a> {
    pub(crate) fn new(inner: impl Into<Ref<'a, Inner>>, message: Message, token: u64) -> Self {
        let token = if message.call { token } else { 0 };
        Request {
            message,
            inner: inner.into(),
            token,
            home: Home::here(),
        }
    }

    /// Whether a reply is owed: it is a request, and it has not been answered yet.
    pub fn is_open(&self) -> bool {
        self.token != 0
    }

    /// Whether the caller still waits; work for one that has given up can be saved.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound): nothing [is open](Self::is_open).
    pub fn caller_waits(&self) -> Result<bool> {
        let args = sys::postbox_reply {
            flags: sys::POSTBOX_REPLY_CHECK,
            token: self.open_token()?,
            ..Default::default()
        };
        match raw::reply(&self.inner.fd, &[], &[], &args) {
            Ok(()) => Ok(true),
            Err(Errno::STALE) => Ok(false),
            Err(errno) => Err(self.inner.error(Action::Reply, errno)),
        }
    }

    #[cfg(not(loom))]
    pub(crate) fn subject(&self) -> &Subject {
        &self.inner.subject
    }

    /// The message; an empty one is left in its place.
    #[cfg(not(loom))]
    pub(crate) fn take_message(&mut self) -> Message {
        Message {
            payload: std::mem::take(&mut self.message.payload),
            files: std::mem::take(&mut self.message.files),
            ..self.message
        }
    }

    fn open_token(&self) -> Result<u64> {
        if self.is_open() {
            return Ok(self.token);
        }
        Err(self.inner.error(Action::Reply, Errno::NOENT))
    }

    /// Answers. It never waits.
    ///
    /// # Errors
    /// [`Stale`](ErrorKind::Stale): the caller has given up, and the request is done with. After any
    /// other error it can still be answered: [`TooLarge`](ErrorKind::TooLarge),
    /// [`Quota`](ErrorKind::Quota), [`Os`](ErrorKind::Os) when memory is short.
    /// [`NotFound`](ErrorKind::NotFound): nothing [is open](Self::is_open).
    pub fn reply<T: AsRef<[u8]>>(&mut self, payload: T) -> Result<(), SendError<T>> {
        match self.reply_files(payload.as_ref(), &[]) {
            Ok(()) => Ok(()),
            Err(error) => Err(SendError { payload, error }),
        }
    }

    /// Answers with files.
    ///
    /// # Errors
    /// As [`reply`](Self::reply) and [`Handle::send_parcel`].
    pub fn reply_parcel(&mut self, reply: &Parcel<'_>) -> Result<()> {
        let files = reply.files(&self.inner, Action::Reply)?;
        self.reply_files(reply.payload, files)
    }

    fn reply_files(&mut self, payload: &[u8], files: &[raw::SendFd<'_>]) -> Result<()> {
        self.reply_by(|inner, token| inner.reply(token, payload, files))
    }

    /// Has `reply` answer.
    pub(crate) fn reply_by(&mut self, reply: impl FnOnce(&Inner, u64) -> Result<()>) -> Result<()> {
        let replied = reply(&self.inner, self.open_token()?);
        if !matches!(&replied, Err(error) if error.kind != ErrorKind::Stale) {
            self.token = 0;
        }
        replied
    }

    /// Answers and receives the next request in one system call, and waits for it: this becomes the
    /// next one. Where nothing [is open](Self::is_open) it only receives.
    ///
    /// ```
    /// # fn work(request: &[u8]) -> Vec<u8> { request.to_vec() }
    /// # fn serve(server: postbox::Receiver) -> postbox::Result<()> {
    /// let mut request = server.recv_request()?;
    /// loop {
    ///     let reply = work(&request);
    ///     request.reply_recv(reply)?;
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`reply`](Self::reply), where nothing was received; and, once the reply is sent, as
    /// [`Handle::recv_request`]. It can be repeated whatever ended it: what was sent is not sent
    /// again.
    pub fn reply_recv(&mut self, payload: impl AsRef<[u8]>) -> Result<()> {
        self.reply_recv_with(payload, Wait::Forever)
    }

    /// Answers and receives the next request if there is one now.
    ///
    /// # Errors
    /// [`Empty`](ErrorKind::Empty), and as [`reply_recv`](Self::reply_recv).
    pub fn try_reply_recv(&mut self, payload: impl AsRef<[u8]>) -> Result<()> {
        self.reply_recv_with(payload, Wait::Never)
    }

    /// Answers and receives the next request, and waits for it at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`reply_recv`](Self::reply_recv).
    pub fn reply_recv_timeout(
        &mut self,
        payload: impl AsRef<[u8]>,
        timeout: Duration,
    ) -> Result<()> {
        self.reply_recv_with(payload, Wait::Timeout(timeout))
    }

    /// Answers and receives the next request, and waits for it until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout), and as [`reply_recv`](Self::reply_recv).
    pub fn reply_recv_deadline(
        &mut self,
        payload: impl AsRef<[u8]>,
        deadline: Instant,
    ) -> Result<()> {
        self.reply_recv_with(payload, Wait::Deadline(deadline))
    }

    /// Answers and receives the next request, and waits for it as `wait` says.
    ///
    /// # Errors
    /// As [`reply_recv`](Self::reply_recv).
    pub fn reply_recv_with(&mut self, payload: impl AsRef<[u8]>, wait: Wait) -> Result<()> {
        let payload = payload.as_ref();
        let (flags, timeout_ns) = wait.flags();
        let mut args = sys::postbox_reply_recv::default();
        let mut files = Vec::new();
        let inner: &Inner = &self.inner;
        loop {
            // With nothing to answer there are no bytes either.
            let payload = if self.token != 0 { payload } else { &[] };
            args.reply.token = self.token;
            args.recv = sys::postbox_recv {
                flags,
                timeout_ns,
                fd_max: sys::POSTBOX_FILES_MAX,
                ..Default::default()
            };
            let received = inner
                .fill(|buf| raw::reply_recv(&inner.fd, payload, &[], buf, &mut files, &mut args));
            let sent = args.reply.token == 0;
            if sent {
                self.token = 0;
            }
            match received {
                Ok(payload) => {
                    let token = if is_call(&args.recv) {
                        args.recv.token
                    } else {
                        0
                    };
                    self.message = Message::new(payload, files, &args.recv);
                    self.token = token;
                    self.home = Home::here();
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE) if sent && args.recv.msg_len > args.recv.len => {
                    inner.expect(args.recv.msg_len);
                }
                Err(errno) if sent => {
                    return Err(inner.refused(Action::Receive, errno, &args.recv));
                }
                Err(errno) => {
                    if errno == Errno::STALE {
                        self.token = 0;
                    }
                    return Err(inner.send_error(Action::Reply, errno, payload.len()));
                }
            }
        }
    }
}

impl Deref for Request<'_> {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl AsRef<[u8]> for Request<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// So that the files can be taken out.
impl DerefMut for Request<'_> {
    fn deref_mut(&mut self) -> &mut Message {
        &mut self.message
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        // What a fork has copied is the parent's to answer.
        if self.is_open() && self.home.is_here() {
            self.inner.drop_request(self.token);
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("open", &self.is_open())
            .field("message", &self.message)
            .finish()
    }
}
