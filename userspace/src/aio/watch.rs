//! Descriptors at a reactor.

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::time::Timespec;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// `IN`: to receive, read, accept, acquire, wait.
    Read,
    /// `OUT`: to send, write, borrow.
    Write,
}

impl Interest {
    fn flags(self) -> PollFlags {
        match self {
            Interest::Read => PollFlags::IN,
            Interest::Write => PollFlags::OUT,
        }
    }
}

/// A descriptor that a [`Reactor`] watches. It is open as long as the reactor has it.
pub struct Fd(RawFd);

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: it is open as long as this is: whoever made it drops the reactor's registration,
        // and this with it by the contract of `Reactor`, before the descriptor is closed.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fd").field(&self.0).finish()
    }
}

/// The registration of a descriptor at a reactor, which says when it may be ready: what a runtime
/// has to provide for [`Async`](super::Async).
///
/// It has to tell of `IN` to who is interested in reading and of `OUT` to who is in writing, and of
/// `ERR` and `HUP` to both, by level or by edge. False alarms do no harm. It must not set
/// `O_NONBLOCK`, which would be so for other processes that have the file open.
///
/// For the runtimes of smol, this is all:
///
/// ```
/// use postbox::aio::{Fd, Interest, Reactor};
/// use std::io;
/// use std::task::{Context, Poll, ready};
///
/// struct Smol(async_io::Async<Fd>);
///
/// // SAFETY: `async_io::Async` has the descriptor, and drops it when it is dropped.
/// unsafe impl Reactor for Smol {
///     fn register(fd: Fd) -> io::Result<Self> {
///         async_io::Async::new_nonblocking(fd).map(Smol)
///     }
///
///     async fn io<T>(
///         &self,
///         interest: Interest,
///         mut attempt: impl FnMut() -> Option<T> + Send,
///     ) -> io::Result<T> {
///         loop {
///             if let Some(done) = attempt() {
///                 return Ok(done);
///             }
///             match interest {
///                 Interest::Read => self.0.readable().await?,
///                 Interest::Write => self.0.writable().await?,
///             }
///         }
///     }
///
///     fn poll_io<T>(
///         &self,
///         interest: Interest,
///         cx: &mut Context<'_>,
///         mut attempt: impl FnMut() -> Option<T>,
///     ) -> Poll<io::Result<T>> {
///         loop {
///             if let Some(done) = attempt() {
///                 return Poll::Ready(Ok(done));
///             }
///             ready!(match interest {
///                 Interest::Read => self.0.poll_readable(cx),
///                 Interest::Write => self.0.poll_writable(cx),
///             })?;
///         }
///     }
/// }
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// use postbox::{Mailbox, aio::Async};
///
/// let (sender, receiver) = Mailbox::options().anonymous()?.split()?;
/// let receiver = Async::<_, Smol>::new(receiver)?;
/// let thread = std::thread::spawn(move || sender.send("from a thread"));
/// let message = async_io::block_on(receiver.recv())?;
/// assert_eq!(&*message, b"from a thread");
/// # thread.join().unwrap()?;
/// # Ok(())
/// # }
/// ```
///
/// # Safety
/// The [`Fd`] that is registered is dropped, or at least not used any more, when the value is
/// dropped: the descriptor is closed then.
pub unsafe trait Reactor: Sized + Send + Sync + Unpin + 'static {
    /// Registers a descriptor.
    ///
    /// # Errors
    /// The reactor is not there, or refuses it.
    fn register(fd: Fd) -> io::Result<Self>;

    /// Registers another descriptor at the reactor where this one is.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    fn register_beside(&self, fd: Fd) -> io::Result<Self> {
        let _ = self;
        Self::register(fd)
    }

    /// Calls `attempt` each time that the descriptor may be ready, until it returns something. Any
    /// number of these futures may wait at once. It is cancel safe.
    ///
    /// # Errors
    /// The reactor is gone.
    fn io<T>(
        &self,
        interest: Interest,
        attempt: impl FnMut() -> Option<T> + Send,
    ) -> impl Future<Output = io::Result<T>> + Send;

    /// The same for who is polled. Of those who poll for the same `interest` the last one is woken.
    ///
    /// # Errors
    /// The reactor is gone.
    fn poll_io<T>(
        &self,
        interest: Interest,
        cx: &mut Context<'_>,
        attempt: impl FnMut() -> Option<T>,
    ) -> Poll<io::Result<T>>;
}

/// So often the reactor may say within one poll that a descriptor is ready that is not, before it is
/// taken for a state that the reactor never forgets.
const FALSE_ALARMS: u32 = 16;

/// A descriptor that is registered, and how to wait for it.
///
/// A hang-up or an error can hold while something else is waited for: one side of a link is over,
/// and the other one is full; or a mailbox was abandoned, and somebody has opened it anew. Reactors
/// that go by level, and those that take a hang-up for the end of everything, as tokio's does, say
/// all the time then that the descriptor is ready. Who notices that puts a *gate* in between.
pub(super) struct Watch<R> {
    direct: R,
    gates: [OnceLock<Box<Gate<R>>>; 2],
    fd: RawFd,
    /// Whether errors and hang-ups are usual that are not what is waited for.
    mixed: bool,
}

/// An epoll with one descriptor and one interest. It is readable once for each event, and never
/// anything else.
struct Gate<R> {
    // Dropped before the epoll, whose descriptor it has.
    reactor: R,
    epoll: OwnedFd,
}

impl<R> Gate<R> {
    /// Has it wait for the next event.
    fn close(&self) {
        let mut events = Vec::with_capacity(1);
        let none = Timespec::default();
        // Where a signal interrupts it, it stays open, which is a false alarm.
        let _ = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&none),
        );
    }
}

impl<R: Reactor> Watch<R> {
    /// Registers a descriptor, which stays open until this is dropped.
    pub(super) fn new(fd: BorrowedFd<'_>, mixed: bool) -> io::Result<Self> {
        let fd = fd.as_raw_fd();
        Ok(Watch {
            direct: R::register(Fd(fd))?,
            gates: [const { OnceLock::new() }; 2],
            fd,
            mixed,
        })
    }

    /// Registers another one beside it.
    pub(super) fn beside(&self, fd: BorrowedFd<'_>, mixed: bool) -> io::Result<Self> {
        let fd = fd.as_raw_fd();
        Ok(Watch {
            direct: self.direct.register_beside(Fd(fd))?,
            gates: [const { OnceLock::new() }; 2],
            fd,
            mixed,
        })
    }

    /// The reactor that this descriptor is at.
    #[cfg(feature = "tokio")]
    pub(super) fn reactor(&self) -> &R {
        &self.direct
    }

    fn fd(&self) -> Fd {
        Fd(self.fd)
    }

    fn gate(&self, interest: Interest) -> Option<&Gate<R>> {
        self.gates[interest as usize].get().map(|gate| &**gate)
    }

    fn make_gate(&self, interest: Interest) -> io::Result<()> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let events = match interest {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
        };
        let nothing = EventData::new_u64(0);
        epoll::add(&epoll, self.fd(), nothing, events | EventFlags::ET)?;
        let reactor = self.direct.register_beside(Fd(epoll.as_raw_fd()))?;
        // Where somebody else was faster, theirs is as good.
        let _ = self.gates[interest as usize].set(Box::new(Gate { reactor, epoll }));
        Ok(())
    }

    /// Whether there is a hang-up or an error, and not what is waited for.
    fn distracted(&self, interest: Interest) -> bool {
        let fd = self.fd();
        let mut fds = [PollFd::new(&fd, interest.flags())];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        let events = fds[0].revents();
        polled.is_ok()
            && events.intersects(PollFlags::HUP | PollFlags::ERR)
            && !events.intersects(interest.flags())
    }

    /// Calls `attempt` whenever it may be ready, until it returns something.
    pub(super) async fn io<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut() -> Option<T> + Send,
    ) -> io::Result<T> {
        let mut misses = 0_u32;
        loop {
            let gate = self.gate(interest);
            let (reactor, at) = match gate {
                Some(gate) => (&gate.reactor, Interest::Read),
                None => (&self.direct, interest),
            };
            let in_this_poll = AtomicU32::new(0);
            let tried = reactor.io(at, || {
                if let Some(gate) = gate {
                    gate.close();
                }
                if let Some(done) = attempt() {
                    return Some(Some(done));
                }
                misses = misses.saturating_add(1);
                let alarms = in_this_poll.fetch_add(1, Relaxed) + 1;
                // The first miss is what is left of an earlier event.
                let look = misses > 1 && misses.is_power_of_two();
                let false_alarms = alarms >= FALSE_ALARMS || (look && self.distracted(interest));
                (gate.is_none() && false_alarms).then_some(None)
            });
            let mut tried = pin!(tried);
            let tried = poll_fn(|cx| {
                in_this_poll.store(0, Relaxed);
                tried.as_mut().poll(cx)
            });
            match tried.await? {
                Some(done) => return Ok(done),
                None => self.make_gate(interest)?,
            }
        }
    }

    /// The same for who is polled.
    pub(super) fn poll_io<T>(
        &self,
        interest: Interest,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Poll<io::Result<T>> {
        if self.mixed && self.gate(interest).is_none() {
            // Who is polled may not hear of an error that comes with an event of the other
            // interest.
            self.make_gate(interest)?;
        }
        loop {
            let gate = self.gate(interest);
            let (reactor, at) = match gate {
                Some(gate) => (&gate.reactor, Interest::Read),
                None => (&self.direct, interest),
            };
            let mut alarms = 0;
            let tried = reactor.poll_io(at, cx, || {
                if let Some(gate) = gate {
                    gate.close();
                }
                if let Some(done) = attempt() {
                    return Some(Some(done));
                }
                alarms += 1;
                (gate.is_none() && alarms >= FALSE_ALARMS).then_some(None)
            });
            match ready!(tried)? {
                Some(done) => return Poll::Ready(Ok(done)),
                None => self.make_gate(interest)?,
            }
        }
    }

    /// How many gates there are.
    #[cfg(test)]
    fn gates(&self) -> usize {
        let gates = self.gates.iter();
        gates.filter(|gate| gate.get().is_some()).count()
    }
}

/// A FIFO hangs up like a mailbox: until somebody opens it anew.
#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;
    use crate::tokio::Tokio;
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::PathBuf;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    /// A reactor that goes by level, as the documentation of `Reactor` has it.
    struct Level(async_io::Async<Fd>);

    // SAFETY: `async_io::Async` has the descriptor, and drops it when it is dropped.
    unsafe impl Reactor for Level {
        fn register(fd: Fd) -> io::Result<Self> {
            async_io::Async::new_nonblocking(fd).map(Level)
        }

        async fn io<T>(
            &self,
            _: Interest,
            mut attempt: impl FnMut() -> Option<T> + Send,
        ) -> io::Result<T> {
            loop {
                if let Some(done) = attempt() {
                    return Ok(done);
                }
                self.0.readable().await?;
            }
        }

        fn poll_io<T>(
            &self,
            _: Interest,
            cx: &mut Context<'_>,
            mut attempt: impl FnMut() -> Option<T>,
        ) -> Poll<io::Result<T>> {
            loop {
                if let Some(done) = attempt() {
                    return Poll::Ready(Ok(done));
                }
                ready!(self.0.poll_readable(cx))?;
            }
        }
    }

    struct Fifo(PathBuf);

    impl Fifo {
        fn new(name: &str) -> Self {
            let name = format!("postbox-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
            Fifo(path)
        }

        fn reader(&self) -> File {
            let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
            let mut options = OpenOptions::new();
            let options = options.read(true).custom_flags(nonblock);
            options.open(&self.0).unwrap()
        }

        fn writer(&self) -> File {
            OpenOptions::new().write(true).open(&self.0).unwrap()
        }
    }

    impl Drop for Fifo {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Whether there is something to read, and nothing else.
    fn there(file: &File) -> Option<()> {
        let mut fds = [PollFd::new(file, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap();
        fds[0].revents().contains(PollFlags::IN).then_some(())
    }

    /// Waits through a hang-up that holds, or is over, and does not busily look meanwhile.
    async fn waits<R: Reactor>(watch: &Watch<R>, reader: &File, fifo: &Fifo, polled: bool) {
        let tries = AtomicUsize::new(0);
        let mut attempt = || {
            tries.fetch_add(1, Relaxed);
            there(reader)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                let mut writer = fifo.writer();
                std::thread::sleep(Duration::from_millis(300));
                writer.write_all(b"x").unwrap();
            });
            let waited = async {
                if polled {
                    poll_fn(|cx| watch.poll_io(Interest::Read, cx, &mut attempt)).await
                } else {
                    watch.io(Interest::Read, &mut attempt).await
                }
            };
            async_io::block_on(waited).unwrap();
        });
        let tries = tries.load(Relaxed);
        assert!(tries < 4 * FALSE_ALARMS as usize, "{tries} tries");
    }

    fn hang_up(fifo: &Fifo) -> File {
        let reader = fifo.reader();
        drop(fifo.writer());
        reader
    }

    #[test]
    fn a_hang_up_that_holds_makes_no_reactor_spin() {
        for polled in [false, true] {
            let fifo = Fifo::new(&format!("level-{polled}"));
            let reader = hang_up(&fifo);
            // Who is polled has a gate from the beginning, where that can be.
            let watch = Watch::<Level>::new(reader.as_fd(), polled).unwrap();
            async_io::block_on(waits(&watch, &reader, &fifo, polled));
            assert_eq!(watch.gates(), 1);
        }
    }

    #[test]
    fn a_hang_up_that_tokio_remembers_makes_it_not_spin() {
        let runtime = ::tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_io()
            .build()
            .unwrap();
        for polled in [false, true] {
            let fifo = Fifo::new(&format!("tokio-{polled}"));
            let reader = hang_up(&fifo);
            let watch = {
                let _inside = runtime.enter();
                Watch::<Tokio>::new(reader.as_fd(), false).unwrap()
            };
            // It is woken by what comes, and not by what it remembers.
            async_io::block_on(waits(&watch, &reader, &fifo, polled));
            assert_eq!(watch.gates(), 1);
        }
    }

    #[test]
    fn nothing_is_in_between_where_nothing_hangs_up() {
        let runtime = ::tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let fifo = Fifo::new("plain");
            let reader = fifo.reader();
            let mut writer = fifo.writer();
            let watch = Watch::<Tokio>::new(reader.as_fd(), false).unwrap();
            for _ in 0..3 {
                writer.write_all(b"x").unwrap();
                watch.io(Interest::Read, || there(&reader)).await.unwrap();
                io::Read::read_exact(&mut &reader, &mut [0]).unwrap();
            }
            assert_eq!(watch.gates(), 0);
        });
    }
}
