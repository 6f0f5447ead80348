// SPDX-License-Identifier: GPL-2.0
//! Grants: who may open an object by its name besides those whom its mode lets.
//!
//! A handle remembers the grant that it was opened through, and passes that on to whoever gets a
//! second one of it, so that what is taken back is taken back from them all.

use crate::{
    compat::edquot,
    helpers::{self, Identity, Process, GFP_MAYFAIL},
    uapi,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{ordering::Relaxed, Atomic},
        Arc,
    },
};

/// Whom something is granted, as the kernel keeps it.
pub(crate) enum Grantee {
    User(u32),
    Group(u32),
    Process(Process),
}

impl Grantee {
    /// Whom a caller means, seen from its namespaces.
    pub(crate) fn new(who: u32, id: u32) -> Result<Self> {
        Ok(match who {
            uapi::POSTBOX_GRANT_UID => Self::User(helpers::kernel_uid(id)?),
            uapi::POSTBOX_GRANT_GID => Self::Group(helpers::kernel_gid(id)?),
            uapi::POSTBOX_GRANT_PID => Self::Process(Process::find(id)?),
            _ => return Err(EINVAL),
        })
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::User(one), Self::User(other)) => one == other,
            (Self::Group(one), Self::Group(other)) => one == other,
            (Self::Process(one), Self::Process(other)) => one.number == other.number,
            _ => false,
        }
    }

    /// Whether the current task is, or is of, it.
    fn is_current(&self) -> bool {
        match self {
            Self::User(uid) => helpers::euid() == *uid,
            Self::Group(gid) => helpers::in_group(*gid),
            Self::Process(process) => Identity::current().process() == process.number,
        }
    }
}

/// What somebody is granted.
struct Grant {
    to: Grantee,
    rights: Atomic<u32>,
}

impl Grant {
    /// The rights now: a grant to a process ends with it.
    fn rights(&self) -> u32 {
        match &self.to {
            Grantee::Process(process) if process.exited() => 0,
            _ => self.rights.load(Relaxed),
        }
    }
}

/// The rights that can be granted.
const RIGHTS: [u32; 2] = [uapi::POSTBOX_RIGHT_SEND, uapi::POSTBOX_RIGHT_RECEIVE];

/// The grants that a handle was opened through.
#[derive(Clone)]
pub(crate) struct Granted {
    /// The grant of each of [`RIGHTS`], if it has that through one.
    grants: [Option<Arc<Grant>>; 2],
}

impl Granted {
    /// Those of its rights that were taken back.
    pub(crate) fn revoked(&self) -> u32 {
        let grants = RIGHTS.into_iter().zip(&self.grants);
        let revoked = grants.filter_map(|(right, grant)| {
            let grant = grant.as_ref()?;
            Some(right & !grant.rights())
        });
        revoked.fold(0, |all, right| all | right)
    }
}

/// A grant that is to be given, with the memory that may be needed for that: it is made without a
/// lock.
pub(crate) struct NewGrant {
    grant: Arc<Grant>,
    room: KVec<Arc<Grant>>,
}

impl NewGrant {
    pub(crate) fn new(to: Grantee, rights: u32) -> Result<Self> {
        let rights = Atomic::new(rights);
        Ok(Self {
            grant: Arc::new(Grant { to, rights }, GFP_MAYFAIL)?,
            room: KVec::with_capacity(uapi::POSTBOX_GRANTS_MAX as usize, GFP_MAYFAIL)?,
        })
    }
}

/// The grants of an object: none, or with room for as many as there can be.
pub(crate) struct Grants(KVec<Arc<Grant>>);

impl Grants {
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    fn find(&self, to: &Grantee) -> Option<usize> {
        self.0.iter().position(|grant| grant.to.is(to))
    }

    /// Grants rights, in place of those that were granted before. What is left of `new` is dropped
    /// after the lock.
    pub(crate) fn grant(&mut self, new: &mut NewGrant) -> Result {
        if let Some(grant) = self.find(&new.grant.to).and_then(|at| self.0.get(at)) {
            grant.rights.store(new.grant.rights(), Relaxed);
            return Ok(());
        }
        if self.0.capacity() == 0 {
            core::mem::swap(&mut self.0, &mut new.room);
        }
        let full = |grants: &KVec<_>| grants.len() >= uapi::POSTBOX_GRANTS_MAX as usize;
        if full(&self.0) {
            // Those of processes that are gone are in the way.
            self.0.retain(|grant| grant.rights() != 0);
        }
        if full(&self.0) {
            return Err(edquot());
        }
        let added = self.0.push_within_capacity(new.grant.clone());
        added.map_err(|_| edquot())
    }

    /// Takes back what was granted.
    pub(crate) fn revoke(&mut self, to: &Grantee) -> Result {
        let at = self.find(to).ok_or(ENOENT)?;
        let grant = self.0.remove(at).map_err(|_| ENOENT)?;
        grant.rights.store(0, Relaxed);
        Ok(())
    }

    /// Returns the grants that let the current task have all of these rights, each through any grant.
    pub(crate) fn permit(&self, rights: u32) -> Option<Granted> {
        let mut granted = Granted {
            grants: [None, None],
        };
        for (right, slot) in RIGHTS.into_iter().zip(&mut granted.grants) {
            if rights & right != 0 {
                let mut grants = self.0.iter();
                let grant =
                    grants.find(|grant| grant.rights() & right != 0 && grant.to.is_current());
                *slot = Some(grant?.clone());
            }
        }
        Some(granted)
    }
}
