// SPDX-License-Identifier: GPL-2.0
//! Loans of a pool's blocks, and what a request says of leases in a message.

use super::{address, ensure, with, Place};
use crate::{
    chardev,
    compat::{eopnotsupp, exdev},
    files,
    handle::Handle,
    helpers::UserBytes,
    message::{Message, Needs, Room},
    pool::{Access, Outgoing},
    uapi,
    wait::{How, Wait},
};
use core::mem::offset_of;
use kernel::{fs::File, prelude::*, sync::aref::ARef};

pub(super) fn loan(
    handle: &Handle,
    at: Place,
    args: &mut uapi::postbox_loan,
    how: How<'_>,
) -> Result {
    ensure(args.flags & !Wait::FLAGS == 0 && args.reserved == 0)?;
    let wait = Wait::new(args.flags, args.timeout_ns, how)?;
    let access = Access::new(handle)?;
    access.pool().requested();
    // That it cannot be written is found while nothing has happened yet.
    at.write(args)?;
    let done = access
        .give_back(args.returns, &mut args.return_count)
        .and_then(|()| {
            let (max, count) = (args.loan_max, &mut args.loan_count);
            access.borrow(args.loans, max, count, Some(&wait))
        });
    at.write(args)?;
    done
}

/// What a request says of leases, with the pool that it names.
pub(super) struct Leasing<'a> {
    at: Place,
    pub(super) args: &'a mut uapi::postbox_leases,
    /// The handle that they are of.
    pub(super) pool: &'a ARef<File>,
    access: Access<'a>,
}

/// Says that the leases of a call have gone, which failed later.
pub(crate) fn gone(fds: u64) {
    let at = address(fds).map(UserBytes::at);
    if let Ok(at) = at {
        let count = at.after(offset_of!(uapi::postbox_leases, count));
        // Who has made it unwritable does not want to know.
        let _ = count.copy_from(&0u32.to_ne_bytes());
    }
}

/// Reads what `fds` of a request points to, gives back and lends what it says, and calls `f`.
#[inline(never)]
pub(super) fn with_leases(fds: u64, f: impl FnOnce(&mut Leasing<'_>) -> Result) -> Result {
    with(address(fds)?, |at, args: &mut uapi::postbox_leases| {
        ensure(args.reserved == 0)?;
        let file = files::get_any(args.pool)?;
        let handle = chardev::as_handle(&file).ok_or_else(eopnotsupp)?;
        let access = Access::new(&handle)?;
        let mut leasing = Leasing {
            at,
            args,
            pool: &file,
            access,
        };
        if leasing.args.max != 0 {
            access.enter()?;
        }
        leasing.ride()?;
        f(&mut leasing)
    })
}

impl<'a> Leasing<'a> {
    /// What is given back and lent on the way.
    fn ride(&mut self) -> Result {
        const COUNTS: usize = offset_of!(uapi::postbox_leases, return_count);
        let args = &mut *self.args;
        if args.return_count == 0 && args.loan_max == args.loan_count {
            return Ok(());
        }
        // That it cannot be written is found while nothing has happened yet.
        self.at.write_from(args, COUNTS)?;
        let done = self
            .access
            .give_back(args.returns, &mut args.return_count)
            .and_then(|()| {
                let (max, count) = (args.loan_max, &mut args.loan_count);
                self.access.borrow(args.loans, max, count, None)
            });
        self.at.write_from(args, COUNTS)?;
        done
    }

    /// The leases that a send takes along.
    pub(super) fn outgoing(&self) -> Result<Outgoing<'a>> {
        ensure(self.args.max == 0)?;
        Outgoing::new(self.access, self.args.entries, self.args.count)
    }

    /// Says, after a failed call, that the leases have gone all the same.
    pub(super) fn gone(&mut self) {
        self.args.count = 0;
        // It can be written: it was read.
        let _ = self.tell();
    }

    /// Where leases go that are received.
    pub(super) fn room(&self) -> Room<'a> {
        Room {
            access: self.access,
            leases: self.args.max as usize,
        }
    }

    /// Describes what comes with a message. `kept`: it is the message's until that is acknowledged.
    pub(super) fn describe(&mut self, message: &Message, kept: bool) -> Result {
        let flags = if kept { uapi::POSTBOX_LEASE_MESSAGE } else { 0 };
        let entries = self.args.entries;
        let described = message.with_leases(|leases| -> Result<_> {
            Ok((leases.describe(entries, flags)?, leases.id))
        });
        let (count, pool) = described.transpose()?.unwrap_or_default();
        self.tell_of(count, pool)
    }

    /// Says how many leases, of which pool, came or are to come.
    pub(super) fn tell_of(&mut self, count: usize, pool: u64) -> Result {
        self.args.count = count as u32;
        self.args.pool_id = pool;
        self.tell()
    }

    fn tell(&self) -> Result {
        let count = offset_of!(uapi::postbox_leases, count);
        self.at.write_from(&*self.args, count)
    }

    /// Why a message is refused that does not fit.
    pub(super) fn refusal(&self, needs: &Needs) -> Error {
        if needs.leases != 0 && needs.pool != self.access.id() {
            exdev()
        } else {
            EMSGSIZE
        }
    }
}
