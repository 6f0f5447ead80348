use crate::error::{Action, Result};
use crate::handle::{Handle, Rights, access};
use crate::object::{Kind, Ref};
use crate::sync::{WaitObject, WaitObjectOptions};
use crate::wait::Wait;
use crate::{raw, sys};
use std::time::{Duration, Instant};

access! {
    /// Acquires and releases: the access of a [`Semaphore`].
    SemaphoreAccess = Rights::SEND.union(Rights::RECEIVE), "Semaphore", [Semaphore];
}

impl WaitObject for SemaphoreAccess {
    const KIND: Kind = Kind::Semaphore;
}

/// A handle to a counting semaphore: units that processes and threads acquire and release.
///
/// Who waits gets what it wants all at once and in the order of arrival: nobody overtakes, so that
/// a large request at the front holds those behind it back.
///
/// What [`acquire`](Self::acquire) and its like got is given back when the [`Guard`] is dropped, or
/// by the kernel when the process dies: somebody else goes on then, and is
/// [told](Guard::owner_died). [`take`](Self::take) and [`post`](Self::post) only count: what one
/// process takes another may post.
///
/// ```
/// use postbox::Semaphore;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// // A lock that survives the death of its holder.
/// let lock = Semaphore::options().initial(1).maximum(1).anonymous()?;
/// let guard = lock.acquire()?;
/// if guard.owner_died() {
///     // Look after what the dead process left half done.
/// }
/// assert!(lock.try_acquire().is_err_and(|error| error.would_wait()));
/// drop(guard);
/// assert_eq!(lock.value()?, 1);
/// # Ok(())
/// # }
/// ```
pub type Semaphore = Handle<SemaphoreAccess>;

/// How a semaphore is to be opened or made.
///
/// ```
/// use postbox::Semaphore;
///
/// # fn main() -> postbox::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let slots = Semaphore::options()
///     .create(true)
///     .initial(4)
///     .maximum(4)
///     .open("doc/slots")?;
/// let two = slots.acquire_many(2, postbox::Wait::Forever)?;
/// assert_eq!(slots.value()?, 2);
/// # drop(two);
/// # Ok(())
/// # }
/// ```
pub type SemaphoreOptions = WaitObjectOptions<SemaphoreAccess>;

impl SemaphoreOptions {
    /// The value that it begins with; 0 if this is not called.
    pub fn initial(&mut self, value: u64) -> &mut Self {
        self.args.initial = value;
        self
    }

    /// The most that its value can be, at least 1; as large as numbers are if this is not called.
    /// A release beyond it fails with [`Overflow`](crate::ErrorKind::Overflow).
    pub fn maximum(&mut self, maximum: u64) -> &mut Self {
        self.args.capacity = maximum;
        self
    }
}

/// # Acquiring
///
/// What can fail: [`NotYet`](crate::ErrorKind::NotYet) where the call does not wait;
/// [`Timeout`](crate::ErrorKind::Timeout) where it has a limit; [`Os`](crate::ErrorKind::Os) with
/// `EINVAL` if that many are more than the maximum, or none, and when memory is short. A failed call
/// has taken nothing. A signal handler does not end a wait: see [`Wait`].
impl Semaphore {
    /// How a semaphore is to be opened or made: see [`SemaphoreOptions`].
    pub fn options() -> SemaphoreOptions {
        WaitObjectOptions::new(sys::postbox_open {
            capacity: sys::POSTBOX_UNBOUNDED,
            ..Default::default()
        })
    }

    /// Makes a semaphore without a name, for threads, children, and whoever gets a descriptor of
    /// it.
    ///
    /// # Errors
    /// As [`WaitObjectOptions::anonymous`].
    pub fn new(initial: u64) -> Result<Semaphore> {
        Self::options().initial(initial).anonymous()
    }

    /// Opens an existing semaphore.
    ///
    /// # Errors
    /// As [`WaitObjectOptions::open`].
    pub fn open(name: &str) -> Result<Semaphore> {
        Self::options().open(name)
    }

    /// Its value: what could be acquired now. It may be another a moment later.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn value(&self) -> Result<u64> {
        Ok(self.info()?.value)
    }

    /// Acquires one, and waits for it.
    ///
    /// # Errors
    /// See [Acquiring](#acquiring).
    pub fn acquire(&self) -> Result<Guard<'_>> {
        self.acquire_many(1, Wait::Forever)
    }

    /// Acquires one if there is one now, and nobody waits for it.
    ///
    /// # Errors
    /// [`NotYet`](crate::ErrorKind::NotYet), and see [Acquiring](#acquiring).
    pub fn try_acquire(&self) -> Result<Guard<'_>> {
        self.acquire_many(1, Wait::Never)
    }

    /// Acquires one, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [Acquiring](#acquiring).
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Guard<'_>> {
        self.acquire_many(1, Wait::Timeout(timeout))
    }

    /// Acquires one, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout), and see [Acquiring](#acquiring).
    pub fn acquire_deadline(&self, deadline: Instant) -> Result<Guard<'_>> {
        self.acquire_many(1, Wait::Deadline(deadline))
    }

    /// Acquires so many all at once, and waits as `wait` says.
    ///
    /// # Errors
    /// See [Acquiring](#acquiring).
    pub fn acquire_many(&self, count: u64, wait: Wait) -> Result<Guard<'_>> {
        let owner_died = self.acquire_undone(count, wait)?;
        Ok(Guard::new(self, count, owner_died))
    }

    /// Acquires so many, which come back when the process dies; returns whether some were a dead
    /// process's.
    pub(crate) fn acquire_undone(&self, count: u64, wait: Wait) -> Result<bool> {
        self.take_with(sys::POSTBOX_SYNC_UNDO, count, wait)
    }

    /// Takes so many for good: they do not come back by themselves, also not when this process
    /// dies. Returns whether some of them were a dead process's.
    ///
    /// # Errors
    /// See [Acquiring](#acquiring).
    pub fn take(&self, count: u64, wait: Wait) -> Result<bool> {
        self.take_with(0, count, wait)
    }

    fn take_with(&self, flags: u32, count: u64, wait: Wait) -> Result<bool> {
        let acquire = |args: &_| raw::acquire(&self.inner.fd, args);
        let state = self
            .inner
            .sync_wait(Action::Acquire, acquire, flags, count, wait)?;
        Ok(state & sys::POSTBOX_SYNC_OWNER_DIED != 0)
    }

    /// Adds so many, whoever took them.
    ///
    /// ```
    /// use postbox::{Semaphore, Wait};
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let ready = Semaphore::new(0)?;
    /// ready.post(2)?; // by who makes something ...
    /// ready.take(1, Wait::Forever)?; // ... for who uses it
    /// assert_eq!(ready.value()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Overflow`](crate::ErrorKind::Overflow) beyond the maximum; then none was added.
    pub fn post(&self, count: u64) -> Result<()> {
        self.release(0, count)
    }

    fn release(&self, flags: u32, count: u64) -> Result<()> {
        let release = |args: &_| raw::release(&self.inner.fd, args);
        self.inner.sync(Action::Release, release, flags, count)
    }
}

/// What was acquired. It is released when this is dropped, or when the process dies.
#[derive(Debug)]
#[must_use = "what was acquired is released at once"]
pub struct Guard<'a> {
    semaphore: Ref<'a, Semaphore>,
    count: u64,
    owner_died: bool,
    kept: bool,
}

impl<'a> Guard<'a> {
    pub(crate) fn new(
        semaphore: impl Into<Ref<'a, Semaphore>>,
        count: u64,
        owner_died: bool,
    ) -> Self {
        Guard {
            semaphore: semaphore.into(),
            count,
            owner_died,
            kept: false,
        }
    }

    /// Whether some of it was given back by the kernel because a process died that had it: what it
    /// guards may be half done. It is said once.
    pub fn owner_died(&self) -> bool {
        self.owner_died
    }

    /// How many were acquired.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Releases it, as dropping it does, and says whether that worked.
    ///
    /// # Errors
    /// [`Overflow`](crate::ErrorKind::Overflow) if others have posted so many that it would pass the
    /// maximum.
    pub fn release(self) -> Result<()> {
        let released = self.semaphore.release(sys::POSTBOX_SYNC_UNDO, self.count);
        self.forget();
        released
    }

    /// Keeps it until this process dies, or closes its last descriptor of the semaphore's handle.
    pub fn forget(mut self) {
        self.kept = true;
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // It fails if others have posted what was never taken, and after a fork in the child, which
        // has nothing to release.
        let _ = self.semaphore.release(sys::POSTBOX_SYNC_UNDO, self.count);
    }
}
