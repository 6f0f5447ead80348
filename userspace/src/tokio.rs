//! Handles whose calls are futures, on tokio.
//!
//! An [`Async`] is a handle that is registered at tokio's reactor, by its
//! [`AsyncFd`]. What it can do is written at [`aio::Async`], and why it
//! is as it is in [the module there](crate::aio). It works on runtimes of one thread and of many.
//!
//! ```
//! use postbox::tokio::Async;
//! use postbox::{Mailbox, Sender};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let jobs = Mailbox::options().create(true).open_receiver("doc/tokio")?;
//! let jobs = Async::new(jobs)?;
//! tokio::spawn(async {
//!     let sender = Async::new(Sender::open("doc/tokio")?)?;
//!     sender.send("build").await?;
//!     Ok::<_, postbox::Error>(())
//! });
//! let job = jobs.recv().await?;
//! assert_eq!(&*job, b"build");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })
//! # }
//! ```
//!
//! Every call can have a time-out by `tokio::time::timeout`, or be part of a `select!`: see *Cancel
//! safety* of each.
//!
//! # Panics
//! What registers a handle panics in a runtime that was built without I/O
//! ([`enable_io`](::tokio::runtime::Builder::enable_io)), as all of tokio does. Outside of a runtime
//! it fails with [`Reactor`](crate::ErrorKind::Reactor).

use crate::aio::{self, Fd, Interest, Reactor};
use crate::error::{Error, Result};
use crate::handle::{Access, CanSend, Handle};
use crate::link::{Link, LinkOptions, Port};
use crate::object::Subject;
use crate::pipe::{PipeReader, PipeWriter};
use crate::recv::Message;
use crate::wait::Wait;
use ::tokio::io::unix::AsyncFd;
use ::tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use ::tokio::runtime::Handle as Runtime;
use ::tokio::task::coop::poll_proceed;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// A handle that is registered at tokio's reactor, and whose calls are futures: see [`aio::Async`].
pub type Async<H> = aio::Async<H, Tokio>;

/// A registration at tokio's reactor.
pub struct Tokio {
    registration: AsyncFd<Fd>,
    runtime: Runtime,
}

impl Tokio {
    fn at(runtime: Runtime, fd: Fd) -> io::Result<Self> {
        let registered = {
            let _inside = runtime.enter();
            // SAFETY: the descriptor is open, and of the same file, until this registration is
            // dropped: by the contract of `Reactor`. It is a number, which stays the same.
            unsafe { AsyncFd::register(fd) }
        };
        Ok(Tokio {
            registration: registered?,
            runtime,
        })
    }
}

// SAFETY: the registration has the descriptor, and drops it when it is dropped.
unsafe impl Reactor for Tokio {
    fn register(fd: Fd) -> io::Result<Self> {
        Self::at(Runtime::try_current().map_err(io::Error::other)?, fd)
    }

    fn register_beside(&self, fd: Fd) -> io::Result<Self> {
        // A future can be polled outside of the runtime, too.
        Self::at(self.runtime.clone(), fd)
    }

    async fn io<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut() -> Option<T> + Send,
    ) -> io::Result<T> {
        let interest = match interest {
            Interest::Read => ::tokio::io::Interest::READABLE,
            Interest::Write => ::tokio::io::Interest::WRITABLE,
        };
        loop {
            let mut ready = pin!(
                self.registration
                    .ready(interest | ::tokio::io::Interest::ERROR)
            );
            // What was reported before may be over, or used up by somebody else. So it is forgotten,
            // and the next event is asked for before the try that it could come after.
            let mut told = poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await;
            if let Poll::Ready(guard) = told {
                guard?.clear_ready();
                ready.set(
                    self.registration
                        .ready(interest | ::tokio::io::Interest::ERROR),
                );
                told = poll_fn(|cx| Poll::Ready(ready.as_mut().poll(cx))).await;
            }
            // Who always finds something lets others have their turn.
            let done = poll_fn(|cx| {
                let turn = ready!(poll_proceed(cx));
                let done = attempt();
                if done.is_some() {
                    turn.made_progress();
                }
                Poll::Ready(done)
            });
            if let Some(done) = done.await {
                return Ok(done);
            }
            match told {
                Poll::Ready(guard) => guard?.clear_ready(),
                Poll::Pending => ready.await?.retain_ready(),
            }
        }
    }

    fn poll_io<T>(
        &self,
        interest: Interest,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Poll<io::Result<T>> {
        let ready = |cx: &mut Context<'_>| match interest {
            Interest::Read => self.registration.poll_read_ready(cx),
            Interest::Write => self.registration.poll_write_ready(cx),
        };
        loop {
            // As above.
            let mut told = ready(cx);
            if let Poll::Ready(guard) = told {
                guard?.clear_ready();
                told = ready(cx);
            }
            let turn = ready!(poll_proceed(cx));
            if let Some(done) = attempt() {
                turn.made_progress();
                return Poll::Ready(Ok(done));
            }
            ready!(told)?.clear_ready();
        }
    }
}

impl fmt::Debug for Tokio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tokio")
            .field(self.registration.get_ref())
            .finish()
    }
}

/// How long a thread goes on waiting for what nobody wants any more.
const LINGER: Duration = Duration::from_millis(50);

/// Runs what blocks on a thread of the runtime's.
async fn blocking<T: Send + 'static>(
    runtime: &Runtime,
    subject: &Subject,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match runtime.spawn_blocking(call).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // It had not begun when the runtime went.
            Err(gone) => Err(Error::of_reactor(subject, &io::Error::other(gone))),
        },
    }
}

/// Repeats what gives up after a while as long as somebody wants it.
fn while_wanted<T>(wanted: &Weak<()>, mut call: impl FnMut(Wait) -> Result<T>) -> Result<T> {
    loop {
        match call(Wait::Timeout(LINGER)) {
            Err(error) if error.is_timeout() && wanted.strong_count() > 0 => {}
            done => return done,
        }
    }
}

/// # Calling
///
/// A call waits in the kernel and cannot be made to poll. So these run on the threads that tokio has
/// for what blocks, one for each call at a time (512 of them, if the runtime's
/// [`max_blocking_threads`](::tokio::runtime::Builder::max_blocking_threads) says nothing else;
/// further calls wait for a thread). What can fail is said under [Calling](Handle#calling).
///
/// # Cancel safety
///
/// None of them is cancel safe. When the future is dropped the call goes on, until it is answered,
/// fails, or its time is up; its reply is dropped. A runtime that is shut down waits for that:
/// [`Runtime::shutdown_timeout`](::tokio::runtime::Runtime::shutdown_timeout) does not, and a call
/// with a time-out does not last.
impl<A: CanSend> Async<Handle<A>> {
    /// Sends a request and waits for the reply.
    ///
    /// # Errors
    /// As [`Handle::call`]; [`NoDescriptors`](crate::ErrorKind::NoDescriptors);
    /// [`Reactor`](crate::ErrorKind::Reactor) where the runtime is going.
    ///
    /// # Cancel safety
    /// Not cancel safe: see [Calling](#calling).
    pub async fn call(&self, request: impl Into<Vec<u8>>) -> Result<Message> {
        self.call_with(request.into(), Wait::Forever).await
    }

    /// Sends a request and waits for the reply, at most `timeout` for all of it, also for a thread.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`call`](Self::call).
    ///
    /// # Cancel safety
    /// Not cancel safe: see [Calling](#calling).
    pub async fn call_timeout(
        &self,
        request: impl Into<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Message> {
        let wait = Wait::Timeout(timeout).fixed();
        self.call_with(request.into(), wait).await
    }

    /// Sends a request and waits for the reply, until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and as [`call`](Self::call).
    ///
    /// # Cancel safety
    /// Not cancel safe: see [Calling](#calling).
    pub async fn call_deadline(
        &self,
        request: impl Into<Vec<u8>>,
        deadline: Instant,
    ) -> Result<Message> {
        self.call_with(request.into(), Wait::Deadline(deadline))
            .await
    }

    async fn call_with(&self, request: Vec<u8>, wait: Wait) -> Result<Message> {
        let handle: Handle<A> = self.another()?;
        let runtime = &self.reactor().runtime;
        let subject = &self.get_ref().inner.subject;
        blocking(runtime, subject, move || handle.call_with(request, wait)).await
    }
}

impl<A: Access> Async<Handle<A>> {
    /// The same handle to the kernel by another descriptor.
    fn another(&self) -> Result<Handle<A>> {
        self.get_ref().inner.again().map(Handle::from_inner)
    }

    /// Waits until somebody has, or had, opened the other side: see [`Handle::wait_peer`]. It runs on
    /// a thread for what blocks.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported); [`NoDescriptors`](crate::ErrorKind::NoDescriptors);
    /// [`Reactor`](crate::ErrorKind::Reactor) where the runtime is going.
    ///
    /// # Cancel safety
    /// Cancel safe: to wait changes nothing. When it is dropped, the thread has the handle open for
    /// up to 50 ms.
    pub async fn wait_peer(&self) -> Result<()> {
        match self.get_ref().wait_peer(Wait::Never) {
            Err(error) if error.would_wait() => {}
            done => return done,
        }
        let handle = self.another()?;
        let runtime = &self.reactor().runtime;
        let subject = &self.get_ref().inner.subject;
        let wanted = Arc::new(());
        let watched = Arc::downgrade(&wanted);
        blocking(runtime, subject, move || {
            while_wanted(&watched, |wait| handle.wait_peer(wait))
        })
        .await
    }
}

/// # Connecting
impl Async<Link> {
    /// Connects to the [`Listener`](crate::Listener) of that name. Where it lets no more connections
    /// wait at this moment, a thread for what blocks waits for that.
    ///
    /// # Errors
    /// As [`Link::connect`] and [`Async::new`].
    ///
    /// # Cancel safety
    /// When it is dropped before it is ready, a thread may go on for 50 ms, and connect: who listens
    /// sees a connection that is closed. Nothing else remains.
    pub async fn connect(name: &str) -> Result<Self> {
        let listener = name.to_owned();
        Self::connecting(move |wait| Link::connect_with(&listener, wait)).await
    }

    /// Connects to whoever listens on a port.
    ///
    /// # Errors
    /// As [`Port::connect`] and [`Async::new`].
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    pub async fn connect_port(port: u16) -> Result<Self> {
        Self::connecting(move |wait| Port::connect_with(port, wait)).await
    }

    async fn connecting(connect: impl Fn(Wait) -> Result<Link> + Send + 'static) -> Result<Self> {
        let link = match connect(Wait::Never) {
            Err(error) if error.is_full() => {
                let subject = Subject::none();
                let runtime = Runtime::try_current()
                    .map_err(|gone| Error::of_reactor(&subject, &io::Error::other(gone)))?;
                let wanted = Arc::new(());
                let watched = Arc::downgrade(&wanted);
                let call = move || while_wanted(&watched, connect);
                blocking(&runtime, &subject, call).await?
            }
            link => link?,
        };
        Ok(Async::new(link)?)
    }

    /// Opens one end of a port, and waits until somebody opens the other: see [`Port::bind`].
    ///
    /// # Errors
    /// As [`Port::bind`], [`Async::new`] and [`wait_peer`](Self::wait_peer).
    ///
    /// # Cancel safety
    /// Cancel safe: when it is dropped before it is ready, the port is free again, 50 ms later at
    /// most.
    pub async fn bind_port(port: u16) -> Result<Self> {
        Self::bind_port_with(port, &LinkOptions::new()).await
    }

    /// The same with options for who comes first.
    ///
    /// # Errors
    /// As [`bind_port`](Self::bind_port).
    ///
    /// # Cancel safety
    /// As [`bind_port`](Self::bind_port).
    pub async fn bind_port_with(port: u16, options: &LinkOptions) -> Result<Self> {
        let link = Async::new(options.open_port(port)?)?;
        link.wait_peer().await?;
        Ok(link)
    }
}

/// A read is cancel safe; so is each poll.
impl<R: Reactor> AsyncRead for aio::Async<PipeReader, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = aio::Async::poll_read(&*self, cx, buf.initialize_unfilled());
        buf.advance(ready!(read)?);
        Poll::Ready(Ok(()))
    }
}

/// Up to [`Pipe::ATOMIC`](crate::Pipe::ATOMIC) bytes are written whole or not at all by one
/// `write`. To flush and to shut it down does nothing: it is closed when it is dropped.
impl<R: Reactor> AsyncWrite for aio::Async<PipeWriter, R> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = aio::Async::poll_write(&*self, cx, data);
        written.map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
