use crate::error::{Action, Result};
use crate::handle::{Handle, Rights, access};
use crate::object::Kind;
use crate::sync::{WaitObject, WaitObjectOptions};
use crate::wait::Wait;
use crate::{raw, sys};
use std::time::{Duration, Instant};

access! {
    /// Counts down and waits: the access of a [`Latch`].
    LatchAccess = Rights::SEND.union(Rights::RECEIVE), "Latch", [Latch];
}

impl WaitObject for LatchAccess {
    const KIND: Kind = Kind::Latch;
}

/// A handle to a latch, which opens when it has been counted down to zero, for good.
///
/// Z runs only after X and Y:
///
/// ```
/// use postbox::Latch;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// # let (x, y, z) = (|| {}, || {}, || {});
/// let x_and_y = Latch::new(2)?;
///
/// let (x_done, y_done) = (x_and_y.join()?, x_and_y.join()?);
/// std::thread::spawn(move || { x(); x_done.count_down() });
/// std::thread::spawn(move || { y(); y_done.count_down() });
///
/// x_and_y.wait()?; // an error if X or Y did not come to its end
/// z();
/// # Ok(())
/// # }
/// ```
///
/// Among processes each one joins for itself: [`join`](Self::join) is a promise of the process
/// that calls it, and the kernel tells those who wait when it dies before it has kept it.
pub type Latch = Handle<LatchAccess>;

/// How a latch is to be opened or made.
///
/// ```
/// use postbox::Latch;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let loaded = Latch::options().create(true).count(2).open("doc/loaded")?;
/// loaded.count_down()?;
/// loaded.count_down()?;
/// loaded.wait()?;
/// # Ok(())
/// # }
/// ```
pub type LatchOptions = WaitObjectOptions<LatchAccess>;

impl LatchOptions {
    /// How often it has to be counted down, at least once; once if this is not called.
    pub fn count(&mut self, count: u64) -> &mut Self {
        self.args.initial = count;
        self
    }
}

/// # Waiting for a latch
///
/// What can fail: [`OwnerDied`](crate::ErrorKind::OwnerDied) if a process that had joined died, or a
/// [`Participant`] was dropped, before it counted down, unless the latch is open all the same;
/// [`NotYet`](crate::ErrorKind::NotYet) where the call does not wait;
/// [`Timeout`](crate::ErrorKind::Timeout) where it has a limit. A signal handler does not end a
/// wait: see [`Wait`].
impl Latch {
    /// How a latch is to be opened or made: see [`LatchOptions`].
    pub fn options() -> LatchOptions {
        WaitObjectOptions::new(sys::postbox_open {
            initial: 1,
            ..Default::default()
        })
    }

    /// Makes a latch without a name, for threads, children, and whoever gets a descriptor of it.
    ///
    /// # Errors
    /// As [`WaitObjectOptions::anonymous`].
    pub fn new(count: u64) -> Result<Latch> {
        Self::options().count(count).anonymous()
    }

    /// Opens an existing latch.
    ///
    /// # Errors
    /// As [`WaitObjectOptions::open`].
    pub fn open(name: &str) -> Result<Latch> {
        Self::options().open(name)
    }

    /// How often it is still to be counted down.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn count(&self) -> Result<u64> {
        Ok(self.info()?.value)
    }

    /// Counts down by one.
    ///
    /// # Errors
    /// [`Overflow`](crate::ErrorKind::Overflow) if it is open already.
    pub fn count_down(&self) -> Result<()> {
        self.count_down_by(1)
    }

    /// Counts down by so many.
    ///
    /// # Errors
    /// [`Overflow`](crate::ErrorKind::Overflow) if that is more than is left; then it was not
    /// counted down at all.
    pub fn count_down_by(&self, count: u64) -> Result<()> {
        let count_down = |args: &_| raw::count_down(&self.inner.fd, args);
        self.inner.sync(Action::CountDown, count_down, 0, count)
    }

    /// Waits until it is open.
    ///
    /// # Errors
    /// See [Waiting for a latch](#waiting-for-a-latch).
    pub fn wait(&self) -> Result<()> {
        self.wait_with(Wait::Forever)
    }

    /// Succeeds if it is open.
    ///
    /// # Errors
    /// [`NotYet`](crate::ErrorKind::NotYet), and see [Waiting for a latch](#waiting-for-a-latch).
    pub fn try_wait(&self) -> Result<()> {
        self.wait_with(Wait::Never)
    }

    /// Waits until it is open, at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [Waiting for a latch](#waiting-for-a-latch).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<()> {
        self.wait_with(Wait::Timeout(timeout))
    }

    /// Waits until it is open, until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [Waiting for a latch](#waiting-for-a-latch).
    pub fn wait_deadline(&self, deadline: Instant) -> Result<()> {
        self.wait_with(Wait::Deadline(deadline))
    }

    /// Waits until it is open, as `wait` says.
    ///
    /// # Errors
    /// See [Waiting for a latch](#waiting-for-a-latch).
    pub fn wait_with(&self, wait: Wait) -> Result<()> {
        let call = |args: &_| raw::wait(&self.inner.fd, args);
        self.inner
            .sync_wait(Action::Wait, call, 0, 1, wait)
            .map(drop)
    }

    /// This process is going to count down once.
    ///
    /// If it dies before, or drops the [`Participant`], those who wait get
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied).
    ///
    /// # Errors
    /// [`Overflow`](crate::ErrorKind::Overflow) if it is open already;
    /// [`NoDescriptors`](crate::ErrorKind::NoDescriptors); [`Os`](crate::ErrorKind::Os) when memory
    /// is short.
    pub fn join(&self) -> Result<Participant> {
        // A handle of its own: closing it without having counted down is what breaks the latch.
        let latch = self.try_clone()?;
        let join = |args: &_| raw::join(&latch.inner.fd, args);
        latch.inner.sync(Action::Join, join, 0, 1)?;
        Ok(Participant { latch })
    }
}

/// A promise to count a latch down. If it is dropped before that, as it is when its thread panics,
/// or if the process dies, those who wait for the latch are told.
#[derive(Debug)]
#[must_use = "dropping it tells those who wait that the latch will not be counted down"]
pub struct Participant {
    latch: Latch,
}

impl Participant {
    /// Keeps the promise.
    ///
    /// # Errors
    /// [`Overflow`](crate::ErrorKind::Overflow) if others have counted down to zero already.
    pub fn count_down(self) -> Result<()> {
        self.latch.count_down()
    }

    /// Takes the promise back: somebody else has to count down instead.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os) with `EINVAL` in a forked child: the promise is its parent's.
    pub fn leave(self) -> Result<()> {
        let inner = &self.latch.inner;
        inner.sync(Action::Leave, |args| raw::leave(&inner.fd, args), 0, 1)
    }
}
