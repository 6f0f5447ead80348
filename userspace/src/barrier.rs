use crate::error::{Action, Result};
use crate::handle::{Handle, Rights, access};
use crate::object::Kind;
use crate::sync::{WaitObject, WaitObjectOptions};
use crate::wait::Wait;
use crate::{raw, sys};
use std::ops::Deref;
use std::time::{Duration, Instant};

access! {
    /// Takes part: the access of a [`Barrier`].
    BarrierAccess = Rights::SEND.union(Rights::RECEIVE), "Barrier", [Barrier];
}

impl WaitObject for BarrierAccess {
    const KIND: Kind = Kind::Barrier;
}

/// A handle to a barrier, where as many wait as it has parties and then all go on. It can be used
/// again and again.
///
/// ```
/// use postbox::Barrier;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let barrier = Barrier::new(2)?;
/// let other = barrier.join()?;
/// let thread = std::thread::spawn(move || {
///     for _ in 0..3 {
///         other.wait()?;
///     }
///     other.leave()
/// });
/// for _ in 0..3 {
///     let led = barrier.wait()?.is_leader(); // one of the two says true
/// }
/// thread.join().expect("it does not panic")?;
/// # Ok(())
/// # }
/// ```
pub type Barrier = Handle<BarrierAccess>;

/// How a barrier is to be opened or made.
///
/// ```
/// use postbox::Barrier;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let barrier = Barrier::options().create(true).parties(3).open("doc/rounds")?;
/// assert!(barrier.try_wait().is_err_and(|error| error.would_wait()));
/// # Ok(())
/// # }
/// ```
pub type BarrierOptions = WaitObjectOptions<BarrierAccess>;

impl BarrierOptions {
    /// How many have to be there, at least one; one if this is not called.
    pub fn parties(&mut self, parties: u64) -> &mut Self {
        self.args.initial = parties;
        self
    }
}

/// What the end of a wait says, as [`std::sync::BarrierWaitResult`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult {
    pub(crate) leader: bool,
}

impl BarrierWaitResult {
    /// Whether this is the one of the parties that was chosen, for what only one shall do.
    pub fn is_leader(&self) -> bool {
        self.leader
    }
}

/// # Waiting at a barrier
///
/// What can fail: [`OwnerDied`](crate::ErrorKind::OwnerDied) if a process that had joined died, or
/// a [`Member`] was dropped: the barrier is broken then for good, and those who have closed it can
/// make a new one; [`NotYet`](crate::ErrorKind::NotYet) where the call does not wait;
/// [`Timeout`](crate::ErrorKind::Timeout) where it has a limit. Whose wait fails is not counted as
/// being there. A signal handler does not end a wait: see [`Wait`].
impl Barrier {
    /// How a barrier is to be opened or made: see [`BarrierOptions`].
    pub fn options() -> BarrierOptions {
        WaitObjectOptions::new(sys::postbox_open {
            initial: 1,
            ..Default::default()
        })
    }

    /// Makes a barrier without a name, for threads, children, and whoever gets a descriptor of it.
    ///
    /// # Errors
    /// As [`WaitObjectOptions::anonymous`].
    pub fn new(parties: u64) -> Result<Barrier> {
        Self::options().parties(parties).anonymous()
    }

    /// Opens an existing barrier.
    ///
    /// # Errors
    /// As [`WaitObjectOptions::open`].
    pub fn open(name: &str) -> Result<Barrier> {
        Self::options().open(name)
    }

    /// Waits until all are there.
    ///
    /// # Errors
    /// See [Waiting at a barrier](#waiting-at-a-barrier).
    pub fn wait(&self) -> Result<BarrierWaitResult> {
        self.wait_with(Wait::Forever)
    }

    /// Goes on if all others are there, or this handle's [arrival](Self::arrive) is complete.
    ///
    /// # Errors
    /// [`NotYet`](crate::ErrorKind::NotYet), and see [Waiting at a barrier](#waiting-at-a-barrier).
    pub fn try_wait(&self) -> Result<BarrierWaitResult> {
        self.wait_with(Wait::Never)
    }

    /// Waits until all are there, at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [Waiting at a barrier](#waiting-at-a-barrier).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<BarrierWaitResult> {
        self.wait_with(Wait::Timeout(timeout))
    }

    /// Waits until all are there, until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [Waiting at a barrier](#waiting-at-a-barrier).
    pub fn wait_deadline(&self, deadline: Instant) -> Result<BarrierWaitResult> {
        self.wait_with(Wait::Deadline(deadline))
    }

    /// Waits until all are there, as `wait` says.
    ///
    /// # Errors
    /// See [Waiting at a barrier](#waiting-at-a-barrier).
    pub fn wait_with(&self, wait: Wait) -> Result<BarrierWaitResult> {
        let call = |args: &_| raw::wait(&self.inner.fd, args);
        let state = self.inner.sync_wait(Action::Wait, call, 0, 1, wait)?;
        Ok(BarrierWaitResult {
            leader: state & sys::POSTBOX_SYNC_LEADER != 0,
        })
    }

    /// Arrives without waiting. When all are there, [`ready`](Handle::ready) says
    /// [`IN`](crate::PollFlags::IN), and a wait with this handle collects that. The arrival stands
    /// until then, also if such a wait fails; closing the handle takes it back.
    ///
    /// ```
    /// use postbox::{Barrier, PollFlags};
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let barrier = Barrier::new(2)?;
    /// let other = barrier.try_clone()?;
    /// barrier.arrive()?;
    /// other.arrive()?;
    /// assert!(barrier.ready(PollFlags::IN, None)?.contains(PollFlags::IN));
    /// barrier.try_wait()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OwnerDied`](crate::ErrorKind::OwnerDied); [`Os`](crate::ErrorKind::Os) with `EALREADY` if
    /// an arrival of this handle was not collected yet.
    pub fn arrive(&self) -> Result<()> {
        let arrive = |args: &_| raw::wait(&self.inner.fd, args).map(drop);
        self.inner
            .sync(Action::Wait, arrive, sys::POSTBOX_SYNC_ARRIVE, 1)
    }

    /// This process is one of the parties from now on.
    ///
    /// If it dies before it [leaves](Member::leave), or drops the [`Member`], the barrier is
    /// broken, and those who wait get [`OwnerDied`](crate::ErrorKind::OwnerDied).
    ///
    /// # Errors
    /// [`Overflow`](crate::ErrorKind::Overflow) if as many have joined as it has parties;
    /// [`NoDescriptors`](crate::ErrorKind::NoDescriptors); [`Os`](crate::ErrorKind::Os) when memory
    /// is short.
    pub fn join(&self) -> Result<Member> {
        // A handle of its own: closing it without having left is what breaks the barrier.
        let barrier = self.try_clone()?;
        let join = |args: &_| raw::join(&barrier.inner.fd, args);
        barrier.inner.sync(Action::Join, join, 0, 1)?;
        Ok(Member { barrier })
    }
}

/// One of a barrier's parties. If it is dropped before it has left, as it is when its thread
/// panics, or if the process dies, those who wait at the barrier are told.
#[derive(Debug)]
#[must_use = "dropping it breaks the barrier"]
pub struct Member {
    barrier: Barrier,
}

impl Member {
    /// It is not one of the parties any more. Somebody else has to take its place.
    ///
    /// # Errors
    /// [`Os`](crate::ErrorKind::Os) with `EINVAL` in a forked child: it is its parent that joined.
    pub fn leave(self) -> Result<()> {
        let inner = &self.barrier.inner;
        inner.sync(Action::Leave, |args| raw::leave(&inner.fd, args), 0, 1)
    }
}

impl Deref for Member {
    type Target = Barrier;

    fn deref(&self) -> &Barrier {
        &self.barrier
    }
}
