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
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
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

    /// Calls `attempt`, now and each time that the descriptor may be ready, until it returns
    /// something. It is cancel safe.
    ///
    /// Any number of these futures may wait at once, for different things, and an event that comes
    /// after `attempt` was called leads to another call of each of them. So a reactor that goes by
    /// edges asks to be told first, and calls `attempt` then.
    ///
    /// # Errors
    /// The reactor is gone.
    fn io<T>(
        &self,
        interest: Interest,
        attempt: impl FnMut() -> Option<T> + Send,
    ) -> impl Future<Output = io::Result<T>> + Send;

    /// The same for who is polled. Of those who poll for the same `interest` the last one is woken.
    /// What is over while nobody polls need not be told.
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
/// Something can hold that is not what is waited for: a hang-up, where one side of a link is over and
/// the other one is full; one unit of a semaphore, where two are wanted; a message of somebody else.
/// Reactors that go by level say all the time then that the descriptor is ready, and so do those that
/// take a hang-up for the end of everything, as tokio's does, also when it is long over. Who notices
/// that puts a *gate* in between.
pub(super) struct Watch<R> {
    direct: R,
    fd: RawFd,
    /// For what who is polled needs a gate from the beginning.
    mixed: Option<Interest>,
    sides: [Side<R>; 2],
}

/// What is known of one interest.
struct Side<R> {
    /// Of who is polled, of whom there is one.
    gate: OnceLock<Box<Gate<R>>>,
    /// How often who is polled has tried in vain since it last did not.
    misses: AtomicU32,
    trouble: AtomicU8,
}

/// Nobody has been woken in vain.
const NONE: u8 = 0;
/// Somebody has, by what holds.
const LEVEL: u8 = 1;
/// Somebody has, again and again, by nothing.
const STICKY: u8 = 2;

impl<R> Side<R> {
    const fn new() -> Self {
        Side {
            gate: OnceLock::new(),
            misses: AtomicU32::new(0),
            trouble: AtomicU8::new(NONE),
        }
    }
}

/// An epoll with one descriptor and one interest. It is readable once for each event, and never
/// anything else. Each one that waits has its own, so that nobody uses up what another one waits for.
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
    pub(super) fn new(fd: BorrowedFd<'_>, mixed: Option<Interest>) -> io::Result<Self> {
        let fd = fd.as_raw_fd();
        Ok(Self::of(R::register(Fd(fd))?, fd, mixed))
    }

    /// Registers another one beside it.
    pub(super) fn beside(&self, fd: BorrowedFd<'_>, mixed: Option<Interest>) -> io::Result<Self> {
        let fd = fd.as_raw_fd();
        Ok(Self::of(self.direct.register_beside(Fd(fd))?, fd, mixed))
    }

    fn of(direct: R, fd: RawFd, mixed: Option<Interest>) -> Self {
        Watch {
            direct,
            fd,
            mixed,
            sides: [Side::new(), Side::new()],
        }
    }

    /// The reactor that this descriptor is at.
    #[cfg(feature = "tokio")]
    pub(super) fn reactor(&self) -> &R {
        &self.direct
    }

    fn fd(&self) -> Fd {
        Fd(self.fd)
    }

    fn gate(&self, interest: Interest) -> io::Result<Gate<R>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let events = match interest {
            Interest::Read => EventFlags::IN,
            Interest::Write => EventFlags::OUT,
        };
        let nothing = EventData::new_u64(0);
        epoll::add(&epoll, self.fd(), nothing, events | EventFlags::ET)?;
        let reactor = self.direct.register_beside(Fd(epoll.as_raw_fd()))?;
        Ok(Gate { reactor, epoll })
    }

    /// Whether something holds, which is not what is waited for, as a try has just failed.
    fn distracted(&self, interest: Interest) -> bool {
        let fd = self.fd();
        let mut fds = [PollFd::new(&fd, interest.flags())];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Whether a gate is needed, after so many tries in vain, and so many within this poll.
    fn in_vain(&self, interest: Interest, misses: u32, alarms: u32) -> bool {
        let trouble = &self.sides[interest as usize].trouble;
        let known = trouble.load(Relaxed);
        if known == STICKY || alarms >= FALSE_ALARMS {
            trouble.store(STICKY, Relaxed);
            return true;
        }
        // The first miss is what is left of an earlier event.
        let look = misses.is_power_of_two() && (misses > 1 || known == LEVEL);
        if look && self.distracted(interest) {
            trouble.store(LEVEL, Relaxed);
            return true;
        }
        false
    }

    /// Calls `attempt` whenever it may be ready, until it returns something.
    pub(super) async fn io<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut() -> Option<T> + Send,
    ) -> io::Result<T> {
        let mut misses = 0_u32;
        let alarms = AtomicU32::new(0);
        {
            let tried = self.direct.io(interest, || {
                if let Some(done) = attempt() {
                    return Some(Some(done));
                }
                misses = misses.saturating_add(1);
                let alarms = alarms.fetch_add(1, Relaxed) + 1;
                self.in_vain(interest, misses, alarms).then_some(None)
            });
            let mut tried = pin!(tried);
            let tried = poll_fn(|cx| {
                alarms.store(0, Relaxed);
                tried.as_mut().poll(cx)
            });
            if let Some(done) = tried.await? {
                return Ok(done);
            }
        }
        let gate = self.gate(interest)?;
        let tried = gate.reactor.io(Interest::Read, || {
            gate.close();
            attempt()
        });
        tried.await
    }

    /// The same for who is polled.
    pub(super) fn poll_io<T>(
        &self,
        interest: Interest,
        cx: &mut Context<'_>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Poll<io::Result<T>> {
        let side = &self.sides[interest as usize];
        // Who is polled may not hear of an error that comes with an event of the other interest.
        if self.mixed != Some(interest) && side.gate.get().is_none() {
            let mut alarms = 0;
            let tried = self.direct.poll_io(interest, cx, || {
                if let Some(done) = attempt() {
                    side.misses.store(0, Relaxed);
                    return Some(Some(done));
                }
                let misses = side.misses.fetch_add(1, Relaxed).saturating_add(1);
                alarms += 1;
                self.in_vain(interest, misses, alarms).then_some(None)
            });
            if let Some(done) = ready!(tried)? {
                return Poll::Ready(Ok(done));
            }
        }
        let gate = match side.gate.get() {
            Some(gate) => gate,
            None => {
                let gate = Box::new(self.gate(interest)?);
                side.gate.get_or_init(|| gate)
            }
        };
        gate.reactor.poll_io(Interest::Read, cx, || {
            gate.close();
            attempt()
        })
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

    fn trouble<R>(watch: &Watch<R>) -> u8 {
        watch.sides[Interest::Read as usize].trouble.load(Relaxed)
    }

    #[test]
    fn a_hang_up_that_holds_makes_no_reactor_spin() {
        // Where such is usual, who is polled has a gate from the beginning.
        for (polled, usual) in [(false, false), (true, false), (true, true)] {
            let fifo = Fifo::new(&format!("level-{polled}-{usual}"));
            let mixed = usual.then_some(Interest::Read);
            let reader = hang_up(&fifo);
            let watch = Watch::<Level>::new(reader.as_fd(), mixed).unwrap();
            async_io::block_on(waits(&watch, &reader, &fifo, polled));
            assert_eq!(trouble(&watch), if usual { NONE } else { LEVEL });
        }
    }

    fn runtime() -> ::tokio::runtime::Runtime {
        let mut builder = ::tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_io().build().unwrap()
    }

    #[test]
    fn a_hang_up_that_tokio_remembers_makes_it_not_spin() {
        let runtime = runtime();
        for polled in [false, true] {
            let fifo = Fifo::new(&format!("tokio-{polled}"));
            let reader = hang_up(&fifo);
            // The hang-up is over, and tokio has heard of it.
            let watch = {
                let _inside = runtime.enter();
                Watch::<Tokio>::new(reader.as_fd(), None).unwrap()
            };
            std::thread::sleep(Duration::from_millis(50));
            let _writer = fifo.writer();
            async_io::block_on(waits(&watch, &reader, &fifo, polled));
            assert_eq!(trouble(&watch), STICKY);
        }
    }

    #[test]
    fn nothing_is_in_between_where_nothing_hangs_up() {
        let runtime = runtime();
        runtime.block_on(async {
            let fifo = Fifo::new("plain");
            let reader = fifo.reader();
            let mut writer = fifo.writer();
            let watch = Watch::<Tokio>::new(reader.as_fd(), None).unwrap();
            for _ in 0..3 {
                writer.write_all(b"x").unwrap();
                watch.io(Interest::Read, || there(&reader)).await.unwrap();
                io::Read::read_exact(&mut &reader, &mut [0]).unwrap();
            }
            assert_eq!(trouble(&watch), NONE);
        });
    }

    /// Whether there are so many bytes.
    fn bytes(file: &File, count: u64) -> Option<()> {
        (rustix::io::ioctl_fionread(file).unwrap() >= count).then_some(())
    }

    async fn one_beside_two<R: Reactor>(watch: &Watch<R>, reader: &File, fifo: &Fifo) {
        let mut writer = fifo.writer();
        let two = AtomicUsize::new(0);
        let mut wants_two = pin!(watch.io(Interest::Read, || {
            two.fetch_add(1, Relaxed);
            bytes(reader, 2)
        }));
        let first = poll_fn(|cx| Poll::Ready(wants_two.as_mut().poll(cx))).await;
        assert!(first.is_pending());
        writer.write_all(b"x").unwrap();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(5));
            let again = poll_fn(|cx| Poll::Ready(wants_two.as_mut().poll(cx))).await;
            assert!(again.is_pending());
            // Whoever came first has used the event up.
            watch.io(Interest::Read, || bytes(reader, 1)).await.unwrap();
        }
        writer.write_all(b"x").unwrap();
        wants_two.await.unwrap();
        assert!(two.load(Relaxed) < 100, "{two:?} tries");
    }

    #[test]
    fn who_wants_more_hides_nothing_from_who_wants_less() {
        let fifo = Fifo::new("two-level");
        let reader = fifo.reader();
        let watch = Watch::<Level>::new(reader.as_fd(), None).unwrap();
        async_io::block_on(one_beside_two(&watch, &reader, &fifo));
        let fifo = Fifo::new("two-tokio");
        let reader = fifo.reader();
        runtime().block_on(async {
            let watch = Watch::<Tokio>::new(reader.as_fd(), None).unwrap();
            one_beside_two(&watch, &reader, &fifo).await;
        });
    }
}
