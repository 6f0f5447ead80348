//! Streams of bytes.

use crate::error::{Action, Result};
use crate::handle::{Access, Handle, Rights, access};
use crate::object::{Inner, Kind, Subject};
use crate::wait::Wait;
use crate::{raw, sys};
use rustix::io::retry_on_intr;
use std::io;
use std::time::{Duration, Instant};

access! {
    /// Reads from a pipe: the access of a [`PipeReader`].
    PipeReading = Rights::RECEIVE, "PipeReader", [Pipe];
    /// Writes to a pipe: the access of a [`PipeWriter`].
    PipeWriting = Rights::SEND, "PipeWriter", [Pipe];
}

/// The ends of a pipe.
pub trait PipeEnd: Access {}

impl PipeEnd for PipeReading {}
impl PipeEnd for PipeWriting {}

/// The end of a pipe that is read from.
///
/// It is an [`io::Read`], as is a reference to it. A read takes what there is, and waits for at
/// least one byte; at the end, when the last writer is gone and everything is read, it reads
/// nothing.
pub type PipeReader = Handle<PipeReading>;

/// The end of a pipe that is written to.
///
/// It is an [`io::Write`], as is a reference to it. A write waits for room and goes on until
/// everything is written. Up to [`Pipe::ATOMIC`] bytes are written whole or not at all; of a larger
/// write, as of a small one, nobody's bytes come between its own. When the last reader is gone, a
/// write fails; there is no `SIGPIPE`.
pub type PipeWriter = Handle<PipeWriting>;

/// A stream of bytes, with a name or without, for any number of readers and writers. This is where
/// its ends, [`PipeReader`] and [`PipeWriter`], come from.
///
/// ```
/// use postbox::Pipe;
/// use std::io::{Read, Write};
///
/// # fn main() -> std::io::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let (mut reader, mut writer) = Pipe::pair()?;
/// writeln!(writer, "a line")?;
/// drop(writer);
/// let mut text = String::new();
/// reader.read_to_string(&mut text)?;
/// assert_eq!(text, "a line\n");
/// # Ok(())
/// # }
/// ```
///
/// An end can be another program's standard input or output:
///
/// ```
/// use postbox::Pipe;
/// use std::io::Read;
/// use std::os::fd::OwnedFd;
/// use std::process::Command;
///
/// # fn main() -> std::io::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let (mut reader, writer) = Pipe::pair()?;
/// let mut child = Command::new("echo").arg("hello").stdout(OwnedFd::from(writer)).spawn()?;
/// let mut text = String::new();
/// reader.read_to_string(&mut text)?;
/// assert_eq!(text, "hello\n");
/// child.wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Pipe {}

impl Pipe {
    /// Writes of up to so many bytes are written whole or not at all.
    pub const ATOMIC: usize = sys::POSTBOX_PIPE_ATOMIC as usize;

    /// A pipe without a name, for threads, children, and whoever gets a descriptor of it.
    ///
    /// # Errors
    /// [`Quota`](crate::ErrorKind::Quota), [`ModuleMissing`](crate::ErrorKind::ModuleMissing),
    /// [`Incompatible`](crate::ErrorKind::Incompatible).
    pub fn pair() -> Result<(PipeReader, PipeWriter)> {
        PipeOptions::new().pair()
    }

    /// How a pipe is to be opened or made.
    pub fn options() -> PipeOptions {
        PipeOptions::new()
    }
}

/// How a pipe is to be opened or made.
///
/// Either end may be opened first. Until somebody has opened the other one, a reader waits, and a
/// writer writes as much as there is room for.
///
/// ```
/// use postbox::Pipe;
/// use std::io::{Read, Write};
///
/// # fn main() -> std::io::Result<()> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let mut log = Pipe::options().create(true).capacity(1 << 18).open_writer("doc/log")?;
/// log.write_all(b"started\n")?;
/// let mut reader = Pipe::options().open_reader("doc/log")?;
/// let mut bytes = [0; 64];
/// assert_eq!(reader.read(&mut bytes)?, 8);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PipeOptions {
    args: sys::postbox_open,
    admin: bool,
}

impl Default for PipeOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl PipeOptions {
    /// To open what exists. What is made otherwise holds 65,536 bytes, is for its owner alone (mode
    /// 0600), and goes with the last handle.
    pub fn new() -> Self {
        let args = sys::postbox_open {
            mode: 0o600,
            ..Default::default()
        };
        PipeOptions { args, admin: false }
    }

    /// How many bytes it holds, at least: the number is rounded up. 0: as many as usual.
    pub fn capacity(&mut self, bytes: u64) -> &mut Self {
        self.args.capacity_bytes = bytes;
        self
    }

    /// Permission bits as of a file: w to write, r to read. The umask is not applied.
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

    /// When made, it stays until its name is removed, and never ends: who reads waits for another
    /// writer, and who writes for another reader.
    pub fn persist(&mut self, persist: bool) -> &mut Self {
        self.flag(sys::POSTBOX_O_PERSIST, persist)
    }

    /// Ask for [`Rights::ADMIN`], too: it allows [`Handle::set_mode`] and [`Handle::chown`], and a
    /// reader to set the capacity.
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

    /// Opens or makes it, to read.
    ///
    /// # Errors
    /// As [`Options::open`](crate::Options::open);
    /// [`Unsupported`](crate::ErrorKind::Unsupported): the name is not that of a pipe; the capacity
    /// is larger than the module allows ([`Os`](crate::ErrorKind::Os), `EINVAL`).
    pub fn open_reader(&self, name: &str) -> Result<PipeReader> {
        self.open(Some(name), Rights::RECEIVE)
            .map(Handle::from_inner)
    }

    /// Opens or makes it, to write.
    ///
    /// # Errors
    /// As [`PipeOptions::open_reader`].
    pub fn open_writer(&self, name: &str) -> Result<PipeWriter> {
        self.open(Some(name), Rights::SEND).map(Handle::from_inner)
    }

    /// Makes a pipe without a name, and both its ends.
    ///
    /// # Errors
    /// As [`Pipe::pair`].
    pub fn pair(&self) -> Result<(PipeReader, PipeWriter)> {
        let both = self.open(None, Rights::RECEIVE | Rights::SEND)?;
        let admin = both.rights & Rights::ADMIN;
        let reader = both.dup(Rights::RECEIVE | admin)?;
        let writer = both.dup(Rights::SEND | admin)?;
        Ok((Handle::from_inner(reader), Handle::from_inner(writer)))
    }

    fn open(&self, name: Option<&str>, rights: Rights) -> Result<Inner> {
        let mut args = self.args;
        if name.is_none() {
            args.flags = sys::POSTBOX_O_CREATE;
        } else if args.flags & sys::POSTBOX_O_EXCL != 0 {
            args.flags |= sys::POSTBOX_O_CREATE;
        }
        let admin = if self.admin {
            Rights::ADMIN
        } else {
            Rights::empty()
        };
        let (inner, _) = Inner::open(Subject::new(Kind::Pipe, name), rights | admin, args)?;
        Ok(inner)
    }
}

/// # Both ends of a pipe
impl<A: PipeEnd> Handle<A> {
    /// How many bytes it holds.
    ///
    /// # Errors
    /// None that a program can bring about.
    pub fn capacity(&self) -> Result<u64> {
        let info = raw::info(self).map_err(|errno| self.inner.error(Action::Inspect, errno))?;
        Ok(info.capacity_bytes)
    }

    /// Makes it hold at least so many bytes; returns how many it holds then.
    ///
    /// # Errors
    /// [`Busy`](crate::ErrorKind::Busy): it has more bytes in it, or somebody reads or writes at
    /// this moment; [`Denied`](crate::ErrorKind::Denied): only who writes, or has
    /// [`Rights::ADMIN`], may do this; more than the module allows ([`Os`](crate::ErrorKind::Os),
    /// `EINVAL`); [`Quota`](crate::ErrorKind::Quota).
    pub fn set_capacity(&self, bytes: u64) -> Result<u64> {
        raw::set_capacity(self, bytes).map_err(|errno| self.inner.error(Action::Resize, errno))
    }
}

/// # Reading from a pipe
///
/// A read takes what there is, up to the size of the buffer, and at least one byte; 0 says that the
/// last writer is gone and everything is read. Of a persistent pipe that never comes. Those who
/// wait are served in the order of arrival. A signal handler does not end a wait: see [`Wait`].
impl PipeReader {
    /// Opens an existing pipe to read. Its mode must allow reading.
    ///
    /// # Errors
    /// As [`PipeOptions::open_reader`].
    pub fn open(name: &str) -> Result<PipeReader> {
        PipeOptions::new().open_reader(name)
    }

    /// Reads if something is there now.
    ///
    /// # Errors
    /// [`Empty`](crate::ErrorKind::Empty).
    pub fn try_read(&self, buf: &mut [u8]) -> Result<usize> {
        self.read_with(buf, Wait::Never)
    }

    /// Reads, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout).
    pub fn read_timeout(&self, buf: &mut [u8], timeout: Duration) -> Result<usize> {
        self.read_with(buf, Wait::Timeout(timeout))
    }

    /// Reads, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout).
    pub fn read_deadline(&self, buf: &mut [u8], deadline: Instant) -> Result<usize> {
        self.read_with(buf, Wait::Deadline(deadline))
    }

    /// Reads, and waits as `wait` says.
    ///
    /// # Errors
    /// [`Empty`](crate::ErrorKind::Empty), [`Timeout`](crate::ErrorKind::Timeout).
    pub fn read_with(&self, buf: &mut [u8], wait: Wait) -> Result<usize> {
        let (flags, timeout_ns) = wait.flags();
        retry_on_intr(|| raw::read(self, buf, flags, timeout_ns))
            .map_err(|errno| self.inner.error(Action::Read, errno))
    }
}

/// # Writing to a pipe
///
/// A write of up to [`Pipe::ATOMIC`] bytes puts all of them in, or fails. A larger one may have
/// written a part when its time is up, or when it does not wait and there is not room for all: it
/// then says how many. Those who wait are served in the order of arrival. When the last reader is
/// gone: [`Disconnected`](crate::ErrorKind::Disconnected), and no `SIGPIPE`.
impl PipeWriter {
    /// Opens an existing pipe to write. Its mode must allow writing.
    ///
    /// # Errors
    /// As [`PipeOptions::open_reader`].
    pub fn open(name: &str) -> Result<PipeWriter> {
        PipeOptions::new().open_writer(name)
    }

    /// Writes if there is room now.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full), [`Disconnected`](crate::ErrorKind::Disconnected).
    pub fn try_write(&self, data: &[u8]) -> Result<usize> {
        self.write_with(data, Wait::Never)
    }

    /// Writes, and waits at most `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::ErrorKind::Timeout) (nothing was written),
    /// [`Disconnected`](crate::ErrorKind::Disconnected).
    pub fn write_timeout(&self, data: &[u8], timeout: Duration) -> Result<usize> {
        self.write_with(data, Wait::Timeout(timeout))
    }

    /// Writes, and waits until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`write_timeout`](Self::write_timeout).
    pub fn write_deadline(&self, data: &[u8], deadline: Instant) -> Result<usize> {
        self.write_with(data, Wait::Deadline(deadline))
    }

    /// Writes, and waits as `wait` says.
    ///
    /// # Errors
    /// [`Full`](crate::ErrorKind::Full), [`Timeout`](crate::ErrorKind::Timeout),
    /// [`Disconnected`](crate::ErrorKind::Disconnected).
    pub fn write_with(&self, data: &[u8], wait: Wait) -> Result<usize> {
        let (flags, timeout_ns) = wait.flags();
        retry_on_intr(|| raw::write(self, data, flags, timeout_ns))
            .map_err(|errno| self.inner.error(Action::Write, errno))
    }
}

impl io::Read for &PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = retry_on_intr(|| rustix::io::read(&self.inner.fd, &mut *buf));
        Ok(read.map_err(|errno| self.inner.error(Action::Read, errno))?)
    }
}

impl io::Read for PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl io::Write for &PipeWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = retry_on_intr(|| rustix::io::write(&self.inner.fd, data));
        Ok(written.map_err(|errno| self.inner.error(Action::Write, errno))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Write for PipeWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (&*self).write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
