//! Who may open an object besides those whom its mode lets.

use crate::error::{Action, Result};
use crate::handle::{Access, Handle, Rights};
use crate::{raw, sys};

/// Whom something is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grantee {
    /// Processes whose effective user this is.
    Uid(u32),
    /// Processes whose effective, or a supplementary, group this is.
    Gid(u32),
    /// The process that has this number now, until it exits. A later one of the same number is not
    /// meant.
    Pid(u32),
}

impl Grantee {
    fn args(self, rights: Rights) -> sys::postbox_grant {
        let (who, id) = match self {
            Grantee::Uid(uid) => (sys::POSTBOX_GRANT_UID, uid),
            Grantee::Gid(gid) => (sys::POSTBOX_GRANT_GID, gid),
            Grantee::Pid(pid) => (sys::POSTBOX_GRANT_PID, pid),
        };
        sys::postbox_grant {
            who,
            id,
            rights: rights.bits(),
            ..Default::default()
        }
    }
}

/// # Grants
impl<A: Access> Handle<A> {
    /// Lets somebody open this object by its name with these rights ([`Rights::SEND`],
    /// [`Rights::RECEIVE`]), also where its mode forbids that. Of the rights that the mode forbids, one
    /// grant must have all. A second grant to the same one replaces the first.
    ///
    /// ```
    /// use postbox::{Grantee, Rights, Segment, SegmentReader};
    ///
    /// # fn main() -> postbox::Result<()> {
    /// # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
    /// let table = Segment::options().admin(true).create_new("doc/grants", 4096)?;
    /// table.grant(Grantee::Uid(1000), Rights::RECEIVE)?; // user 1000 can map it, and only read
    /// table.revoke(Grantee::Uid(1000))?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) without [`Rights::ADMIN`];
    /// [`Gone`](crate::ErrorKind::Gone) where there is no such process;
    /// [`NotFound`](crate::ErrorKind::NotFound) if the object has no name by which it could be
    /// opened; [`Quota`](crate::ErrorKind::Quota) beyond 64 grants; [`Os`](crate::ErrorKind::Os) with
    /// `EINVAL` for other rights than those, or none.
    pub fn grant(&self, to: Grantee, rights: Rights) -> Result<()> {
        raw::grant(self, &to.args(rights)).map_err(|errno| self.inner.error(Action::Grant, errno))
    }

    /// Takes back what was granted. Handles that were opened through it stay open, and what was
    /// mapped stays mapped; but memory can no longer be mapped through them, nor through handles made
    /// from them, with rights that only the grant gave.
    ///
    /// # Errors
    /// [`Denied`](crate::ErrorKind::Denied) without [`Rights::ADMIN`];
    /// [`NotFound`](crate::ErrorKind::NotFound) if nothing is granted there;
    /// [`Gone`](crate::ErrorKind::Gone) where there is no such process (any more): what was granted
    /// to it ended with it.
    pub fn revoke(&self, from: Grantee) -> Result<()> {
        raw::revoke(self, &from.args(Rights::empty()))
            .map_err(|errno| self.inner.error(Action::Revoke, errno))
    }
}
