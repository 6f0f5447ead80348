use crate::error::{Action, ErrorKind, Result};
use crate::handle::Rights;
use crate::object::Inner;
use crate::raw::SendFd;
use crate::sys;
use rustix::fd::AsFd;

/// A message that is more than its bytes: files go with it, or it has a priority.
///
/// Any file can be sent, except those of io_uring. The message has its own references: the sender
/// may close its descriptors as soon as it is sent. The receiver gets new descriptors, close-on-exec,
/// in the order in which they were attached: [`Message::files`](crate::Message::files).
///
/// ```
/// use postbox::{Mailbox, Parcel, Rights, Sender, Wait};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
/// let jobs = Mailbox::options().anonymous()?;
/// let results = Mailbox::options().anonymous()?;
/// // Whoever gets the job may send to `results`, and no more than that.
/// jobs.send_parcel(
///     Parcel::new("build").attach_with_rights(&results, Rights::SEND),
///     Wait::Forever,
/// )?;
///
/// let mut job = jobs.recv()?;
/// let reply_to = Sender::try_from(job.files.remove(0))?;
/// reply_to.send("done")?;
/// assert_eq!(&*results.recv()?, b"done");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Parcel<'a> {
    pub(crate) payload: &'a [u8],
    pub(crate) priority: u32,
    files: Vec<SendFd<'a>>,
}

impl<'a> Parcel<'a> {
    /// A message with this payload, without files.
    pub fn new<T: AsRef<[u8]> + ?Sized>(payload: &'a T) -> Self {
        Parcel {
            payload: payload.as_ref(),
            priority: 0,
            files: Vec::new(),
        }
    }

    /// The priority, 0 to [`PRIORITY_MAX`](crate::PRIORITY_MAX): the higher is received first. A
    /// reply has none.
    pub fn priority(&mut self, priority: u32) -> &mut Self {
        self.priority = priority;
        self
    }

    /// A file that goes with it; 64 at most. A handle of this crate goes with all its rights, and
    /// is then one handle that the receiver shares.
    pub fn attach(&mut self, file: &'a impl AsFd) -> &mut Self {
        self.files.push(SendFd::new(file.as_fd(), 0));
        self
    }

    /// A new handle to the object of `handle` that goes with it, with these rights. They must be
    /// among those that `handle` has.
    pub fn attach_with_rights(&mut self, handle: &'a impl AsFd, rights: Rights) -> &mut Self {
        self.files.push(SendFd::new(handle.as_fd(), rights.bits()));
        self
    }

    /// The files, if the kernel takes so many.
    pub(crate) fn files(&self, inner: &Inner, action: Action) -> Result<&[SendFd<'a>]> {
        if self.files.len() > sys::POSTBOX_FILES_MAX as usize {
            return Err(inner.error_of_kind(action, ErrorKind::TooManyFiles));
        }
        Ok(&self.files)
    }
}
