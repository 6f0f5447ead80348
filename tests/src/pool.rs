//! Pools as the kernel sees them.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use postbox::{raw, sys};

use crate::handle::{Got, Handle, RECEIVE, Result, SEND, Wait};
use crate::{FOREVER, NEVER, PAGE, SEALS, bind_as_is, memory};

/// A lease as it goes with a message: block, bytes, flags.
pub type Entry = (u32, u64, u32);

/// A message, and the leases that came with it.
pub type Leased = (Got, Vec<Entry>);

/// The sender keeps a lease of the block.
pub const SHARED: u32 = sys::POSTBOX_LEASE_SHARED;

/// A new pool, or that of the name.
#[derive(Clone, Copy, Debug)]
pub struct MakePool {
    /// `POSTBOX_O_*`.
    pub flags: u32,
    /// `POSTBOX_RIGHT_*`.
    pub rights: u32,
    /// Permission bits.
    pub mode: u32,
    /// How many blocks.
    pub blocks: u64,
    /// Bytes of each.
    pub bytes: u64,
}

impl MakePool {
    /// To create or open, with both rights, for the owner.
    pub fn new(blocks: u64, bytes: u64) -> Self {
        MakePool {
            flags: sys::POSTBOX_O_CREATE,
            rights: SEND | RECEIVE,
            mode: 0o600,
            blocks,
            bytes,
        }
    }

    /// Makes or opens it, with the memory of a descriptor.
    pub fn open_of<'n>(&self, name: impl Into<Option<&'n str>>, memfd: i32) -> Result<Handle> {
        let handle = Handle::unbound();
        let mut args = sys::postbox_open {
            kind: sys::POSTBOX_KIND_POOL,
            flags: self.flags,
            rights: self.rights,
            mode: self.mode,
            capacity: self.blocks,
            capacity_bytes: self.bytes,
            memfd,
            ..Default::default()
        };
        bind_as_is(&handle, name.into().map(str::as_bytes), &mut args)?;
        Ok(handle)
    }

    /// Makes it, with memory of its own.
    pub fn make<'n>(&self, name: impl Into<Option<&'n str>>) -> Result<Handle> {
        let bytes = (self.blocks * self.bytes) as usize;
        let memory = memory(bytes.next_multiple_of(PAGE), 0, SEALS);
        self.open_of(name, memory.as_raw_fd())
    }
}

/// An existing pool.
pub fn open_pool(name: &str, rights: u32) -> Result<Handle> {
    MakePool {
        flags: 0,
        rights,
        mode: 0,
        ..MakePool::new(0, 0)
    }
    .open_of(name, 0)
}

/// What is given back or borrowed on the way of a message, and what was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ride {
    /// To be given back.
    pub returns: Vec<u32>,
    /// How many blocks are wanted.
    pub want: usize,
    /// Blocks that were lent.
    pub lent: Vec<u32>,
}

impl Handle {
    /// A pool without a name.
    pub fn pool(blocks: u64, bytes: u64) -> Handle {
        MakePool::new(blocks, bytes)
            .make(None)
            .expect("a pool without a name can be made")
    }

    /// Borrows up to so many.
    pub fn borrow(&self, count: usize, wait: Wait) -> Result<Vec<u32>> {
        self.exchange(&[], count, wait).1
    }

    /// Borrows one, which must be there.
    #[track_caller]
    pub fn borrow_one(&self) -> u32 {
        self.borrow(1, NEVER).expect("a block is free")[0]
    }

    /// Gives back.
    pub fn give_back(&self, blocks: &[u32]) -> Result<()> {
        self.exchange(blocks, 0, FOREVER).1.map(drop)
    }

    /// Gives back and borrows; also says how many are left to be given back.
    pub fn exchange(&self, returns: &[u32], count: usize, wait: Wait) -> (u32, Result<Vec<u32>>) {
        let mut loans = vec![u32::MAX; count];
        let mut args = sys::postbox_loan {
            flags: wait.0,
            timeout_ns: wait.1,
            ..Default::default()
        };
        let result = raw::loan(self, returns, &mut loans, &mut args);
        loans.truncate(args.loan_count as usize);
        (args.return_count, result.map(|()| loans))
    }

    /// Sends leases.
    pub fn send_leases(
        &self,
        data: impl AsRef<[u8]>,
        pool: &Handle,
        entries: &[Entry],
        wait: Wait,
    ) -> Result<()> {
        self.send_riding(data, pool, entries, &mut Ride::default(), wait)
    }

    /// The same with what rides along.
    pub fn send_riding(
        &self,
        data: impl AsRef<[u8]>,
        pool: &Handle,
        entries: &[Entry],
        ride: &mut Ride,
        wait: Wait,
    ) -> Result<()> {
        let entries = entries_of(entries);
        let mut lent = vec![u32::MAX; ride.want];
        let mut leases = raw::Leases::new(pool.as_fd())
            .entries(&entries)
            .returns(&ride.returns)
            .loans(&mut lent);
        let args = sys::postbox_send {
            flags: wait.0,
            timeout_ns: wait.1,
            ..Default::default()
        };
        let result = raw::send_leases(self, data.as_ref(), &[], &mut leases, &args);
        let (left, count) = (leases.args().return_count, leases.args().loan_count);
        ride.returns.truncate(left as usize);
        lent.truncate(count as usize);
        ride.lent = lent;
        result
    }

    /// Receives with room for so many leases.
    pub fn recv_leases(&self, pool: &Handle, room: usize, wait: Wait) -> Result<Leased> {
        self.recv_leases_flags(pool, room, wait, 0).0
    }

    /// The same with flags; also returns how many leases there are, and of which pool.
    pub fn recv_leases_flags(
        &self,
        pool: &Handle,
        room: usize,
        wait: Wait,
        flags: u32,
    ) -> (Result<Leased>, (u32, u64)) {
        let mut entries = vec![MaybeUninit::uninit(); room];
        let mut leases = raw::Leases::new(pool.as_fd()).room(&mut entries);
        let mut args = sys::postbox_recv {
            flags: wait.0 | flags,
            timeout_ns: wait.1,
            ..Default::default()
        };
        let mut data = [MaybeUninit::uninit(); 4096];
        let received = raw::recv_leases(self, &mut data, &mut Vec::new(), &mut leases, &mut args)
            .map(|data| data.to_vec());
        let told = (leases.args().count, leases.args().pool_id);
        let result = received.map(|data| {
            let got = Got {
                data,
                priority: args.priority,
                redelivered: args.msg_flags & sys::POSTBOX_MSG_REDELIVERED != 0,
                token: args.token,
                pid: args.pid,
                tid: args.tid,
                uid: args.uid,
                gid: args.gid,
                pidfd_ino: args.pidfd_ino,
            };
            let leased = args.msg_flags & sys::POSTBOX_MSG_LEASES != 0;
            assert_eq!(leased, told.0 > 0);
            (got, entries_from(&entries[..told.0 as usize]))
        });
        (result, told)
    }

    /// Free blocks.
    #[track_caller]
    pub fn free(&self) -> u64 {
        self.info().value
    }

    /// Waits until so many are free.
    #[track_caller]
    pub fn wait_free(&self, blocks: u64) {
        crate::wait_until(&format!("{blocks} free blocks"), || self.free() == blocks);
    }
}

/// As the kernel wants them.
pub fn entries_of(entries: &[Entry]) -> Vec<sys::postbox_lease> {
    let entry = |&(block, len, flags): &Entry| sys::postbox_lease { block, flags, len };
    entries.iter().map(entry).collect()
}

/// Those that the kernel has written.
pub fn entries_from(entries: &[MaybeUninit<sys::postbox_lease>]) -> Vec<Entry> {
    let entry = |entry: &MaybeUninit<sys::postbox_lease>| {
        // SAFETY: any bytes are one, and the kernel has written these.
        let sys::postbox_lease { block, flags, len } = unsafe { entry.assume_init() };
        (block, len, flags)
    };
    entries.iter().map(entry).collect()
}
