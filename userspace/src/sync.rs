//! What semaphores, latches and barriers have in common.

use crate::error::{Action, Result};
use crate::handle::{Access, Handle, Rights};
use crate::object::{Inner, Kind, Subject};
use crate::sys;
use crate::wait::Wait;
use rustix::io::{Errno, retry_on_intr};
use std::fmt;
use std::marker::PhantomData;

/// The types of handles to wait objects: [`Semaphore`](crate::Semaphore), [`Latch`](crate::Latch),
/// [`Barrier`](crate::Barrier).
pub trait WaitObject: Access {
    #[doc(hidden)]
    const KIND: Kind;
}

/// How a semaphore, latch or barrier is to be opened or made, in the manner of
/// [`std::fs::OpenOptions`]. Use it as [`SemaphoreOptions`](crate::SemaphoreOptions),
/// [`LatchOptions`](crate::LatchOptions) or [`BarrierOptions`](crate::BarrierOptions).
///
/// Its numbers, mode and persistence are those of a new object; one that exists keeps its own.
pub struct WaitObjectOptions<A> {
    pub(crate) args: sys::postbox_open,
    admin: bool,
    access: PhantomData<A>,
}

impl<A: WaitObject> WaitObjectOptions<A> {
    pub(crate) fn new(args: sys::postbox_open) -> Self {
        WaitObjectOptions {
            args: sys::postbox_open {
                mode: 0o600,
                ..args
            },
            admin: false,
            access: PhantomData,
        }
    }

    /// Permission bits as of a file; the umask is not applied. The types of this crate need both r
    /// and w.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.args.mode = mode;
        self
    }

    /// Make it if there is none.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_CREATE, create)
    }

    /// Make it, and fail if there is one.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_EXCL, create_new)
    }

    /// When made, it stays until its name is removed.
    pub fn persist(&mut self, persist: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_PERSIST, persist)
    }

    /// Ask for [`Rights::ADMIN`], too: it allows [`Handle::set_mode`] and [`Handle::chown`].
    pub fn admin(&mut self, admin: bool) -> &mut Self {
        self.admin = admin;
        self
    }

    fn flag(&mut self, flag: u32, on: bool) -> &mut Self {
        if on {
            self.args.flags |= flag;
        } else {
            self.args.flags &= !flag;
        }
        self
    }

    /// Opens or makes it.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Exists`](crate::ErrorKind::Exists),
    /// [`Denied`](crate::ErrorKind::Denied), [`InvalidName`](crate::ErrorKind::InvalidName),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) (an object of another kind has the name),
    /// [`Quota`](crate::ErrorKind::Quota) (too many objects),
    /// [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
    /// [`Incompatible`](crate::ErrorKind::Incompatible), and [`Os`](crate::ErrorKind::Os) with
    /// `EINVAL` where its numbers do not go together.
    pub fn open(&self, name: &str) -> Result<Handle<A>> {
        let mut args = self.args;
        if args.flags & sys::POSTBOX_O_EXCL != 0 {
            args.flags |= sys::POSTBOX_O_CREATE;
        }
        self.open_as(Some(name), args)
    }

    /// Makes one without a name, for threads, children, and whoever gets a descriptor of it.
    ///
    /// # Errors
    /// As [`open`](Self::open), but for those that come of the name.
    pub fn anonymous(&self) -> Result<Handle<A>> {
        let flags = sys::POSTBOX_O_CREATE;
        self.open_as(None, sys::postbox_open { flags, ..self.args })
    }

    fn open_as(&self, name: Option<&str>, args: sys::postbox_open) -> Result<Handle<A>> {
        let admin = if self.admin {
            Rights::ADMIN
        } else {
            Rights::empty()
        };
        let subject = Subject::new(A::KIND, name);
        let (inner, _) = Inner::open(subject, A::RIGHTS | admin, args)?;
        Ok(Handle::from_inner(inner))
    }
}

impl<A> Clone for WaitObjectOptions<A> {
    fn clone(&self) -> Self {
        WaitObjectOptions { ..*self }
    }
}

impl<A: Access> fmt::Debug for WaitObjectOptions<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(A::NAME)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// A request that does not wait.
    pub(crate) fn sync<T>(
        &self,
        action: Action,
        call: impl FnOnce(&sys::postbox_sync) -> rustix::io::Result<T>,
        flags: u32,
        count: u64,
    ) -> Result<T> {
        let args = sys::postbox_sync {
            flags,
            count,
            ..Default::default()
        };
        call(&args).map_err(|errno| self.error(action, errno))
    }

    /// One that does, and goes on when a signal handler has run.
    pub(crate) fn sync_wait(
        &self,
        action: Action,
        mut call: impl FnMut(&sys::postbox_sync) -> rustix::io::Result<u32>,
        flags: u32,
        count: u64,
        wait: Wait,
    ) -> Result<u32> {
        let (how, timeout_ns) = wait.flags();
        let args = sys::postbox_sync {
            flags: flags | how,
            count,
            timeout_ns,
            ..Default::default()
        };
        retry_on_intr(|| call(&args)).map_err(|errno: Errno| self.error(action, errno))
    }
}
