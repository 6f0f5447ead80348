//! Commands as submission queue entries.

use crate::sys;
use io_uring::{opcode, squeue, types};
use rustix::fd::{AsRawFd, BorrowedFd};

/// Where a command goes: a descriptor, or a file that is registered with the ring.
#[derive(Clone, Copy, Debug)]
pub(super) enum File<'a> {
    Fd(BorrowedFd<'a>),
    Fixed(u32),
}

/// A command, without what it is for: where it goes, and who wants to know.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Command {
    /// The request, as for `ioctl`.
    pub(super) request: u32,
    /// Of the argument struct, or of the payload.
    pub(super) addr: u64,
    pub(super) uring: sys::postbox_uring,
    /// The registered buffer that `addr` is in.
    pub(super) buffer: Option<u16>,
    /// Multishot, with buffers of this group.
    pub(super) group: Option<u16>,
}

impl Command {
    /// A request with its argument struct.
    pub(super) fn new<T>(request: u32, args: *mut T) -> Self {
        Command {
            request,
            addr: args as u64,
            ..Default::default()
        }
    }

    /// One without: `len` bytes at `addr`, and how to wait.
    pub(super) fn direct(request: u32, addr: *const u8, len: u32, wait: (u32, u64)) -> Self {
        let (flags, timeout_ns) = wait;
        Command {
            request,
            addr: addr as u64,
            uring: sys::postbox_uring {
                // How to wait is in the lowest four bits.
                flags: flags as u16 | sys::POSTBOX_URING_DIRECT as u16,
                priority: 0,
                len,
                timeout_ns,
            },
            ..Default::default()
        }
    }

    /// One that has no argument: it is all in `uring`.
    pub(super) fn multishot(request: u32, group: u16, flags: u32, wait: (u32, u64)) -> Self {
        Command {
            request,
            uring: sys::postbox_uring {
                flags: (flags | wait.0) as u16,
                timeout_ns: wait.1,
                ..Default::default()
            },
            group: Some(group),
            ..Default::default()
        }
    }

    /// What is put into the queue.
    #[cfg(not(test))]
    pub(super) fn submitted(&self, file: File<'_>, user_data: u64) -> squeue::Entry {
        self.entry(file, user_data)
    }

    /// In the crate's own tests, which have no module: the same of plain files.
    #[cfg(test)]
    pub(super) fn submitted(&self, file: File<'_>, user_data: u64) -> squeue::Entry {
        let File::Fd(fd) = file else {
            panic!("they register no files");
        };
        let fd = types::Fd(fd.as_raw_fd());
        let at = self.addr as *mut u8;
        let len = self.uring.len;
        let entry = match (self.request, self.group) {
            (sys::POSTBOX_CANCEL, _) => opcode::AsyncCancel::new(self.addr).build(),
            (_, Some(group)) => opcode::ReadMulti::new(fd, 0, group).build(),
            (sys::POSTBOX_READ, None) => opcode::Read::new(fd, at, len).build(),
            (sys::POSTBOX_WRITE, None) => opcode::Write::new(fd, at, len).build(),
            (request, None) => panic!("{request} has no plain counterpart"),
        };
        entry.user_data(user_data)
    }

    #[cfg_attr(test, allow(dead_code))]
    pub(super) fn entry(&self, file: File<'_>, user_data: u64) -> squeue::Entry {
        let sys::postbox_uring {
            flags,
            priority,
            len,
            timeout_ns,
        } = self.uring;
        let mut cmd = [0; 16];
        cmd[..2].copy_from_slice(&flags.to_ne_bytes());
        cmd[2..4].copy_from_slice(&priority.to_ne_bytes());
        cmd[4..8].copy_from_slice(&len.to_ne_bytes());
        cmd[8..].copy_from_slice(&timeout_ns.to_ne_bytes());
        macro_rules! command {
            ($file:expr) => {
                opcode::UringCmd16::new($file, self.request)
                    .cmd(cmd)
                    .addr(Some(self.addr))
                    .buf_index(self.buffer)
                    .build()
                    .user_data(user_data)
            };
        }
        let mut entry = match file {
            File::Fd(fd) => command!(types::Fd(fd.as_raw_fd())),
            File::Fixed(index) => command!(types::Fixed(index)),
        };
        if let Some(group) = self.group {
            select(&mut entry, group);
        }
        entry
    }
}

/// `IORING_URING_CMD_MULTISHOT`
const MULTISHOT: u32 = 1 << 1;

/// Where `struct io_uring_sqe` has these, in all of its forms: `linux/io_uring.h`.
const UNTIL_URING_CMD_FLAGS: usize = 28;
const UNTIL_BUF_GROUP: usize = 40;

/// Makes it multishot, with buffers of that group. The builder of commands has neither of them.
fn select(entry: &mut squeue::Entry, group: u16) {
    *entry = entry.clone().flags(squeue::Flags::BUFFER_SELECT);
    let at = (&raw mut *entry).cast::<u8>();
    const { assert!(size_of::<squeue::Entry>() == 64) };
    // SAFETY: The entry is a `struct io_uring_sqe`, `repr(C)` over nothing else, of 64 bytes without
    // padding, in which any bytes are valid, and which is borrowed mutably. Both places are in it,
    // aligned as they have to be; in an entry of a command they are `uring_cmd_flags` and `buf_group`,
    // which shares its place with `buf_index`, and that is for commands without a group.
    unsafe {
        let flags = at.add(UNTIL_URING_CMD_FLAGS).cast::<u32>();
        flags.write(flags.read() | MULTISHOT);
        at.add(UNTIL_BUF_GROUP).cast::<u16>().write(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(entry: &squeue::Entry) -> [u8; 64] {
        // SAFETY: 64 bytes, all of them initialised.
        unsafe { (&raw const *entry).cast::<[u8; 64]>().read() }
    }

    fn u16_at(bytes: &[u8], at: usize) -> u16 {
        u16::from_ne_bytes([bytes[at], bytes[at + 1]])
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    #[test]
    fn a_command_is_laid_out_as_the_header_says() {
        let mut command = Command::direct(sys::POSTBOX_SEND, 0x1234 as *const u8, 5, (2, 77));
        command.uring.priority = 9;
        let entry = bytes(&command.entry(File::Fixed(3), 42));
        assert_eq!(entry[0], opcode::UringCmd16::CODE);
        assert_eq!(entry[1], 1, "IOSQE_FIXED_FILE");
        assert_eq!(entry[4..8], 3u32.to_ne_bytes());
        assert_eq!(entry[8..12], sys::POSTBOX_SEND.to_ne_bytes());
        assert_eq!(u64_at(&entry, 16), 0x1234);
        assert_eq!(entry[28..32], [0; 4]);
        assert_eq!(u64_at(&entry, 32), 42);
        assert_eq!(u16_at(&entry, 48), sys::POSTBOX_URING_DIRECT as u16 | 2);
        assert_eq!(u16_at(&entry, 50), 9);
        assert_eq!(entry[52..56], 5u32.to_ne_bytes());
        assert_eq!(u64_at(&entry, 56), 77);
    }

    #[test]
    fn a_registered_buffer_is_named_and_flagged() {
        let command = Command {
            buffer: Some(6),
            ..Command::direct(sys::POSTBOX_READ, std::ptr::null(), 1, (0, 0))
        };
        let entry = bytes(&command.entry(File::Fixed(0), 0));
        assert_eq!(entry[28..32], 1u32.to_ne_bytes(), "IORING_URING_CMD_FIXED");
        assert_eq!(u16_at(&entry, 40), 6);
    }

    #[test]
    fn a_group_is_where_other_operations_have_it() {
        let command = Command::multishot(sys::POSTBOX_RECV, 7, sys::POSTBOX_RECV_ACK, (0, 0));
        let entry = bytes(&command.entry(File::Fixed(0), 0));
        let other = bytes(&opcode::RecvMulti::new(types::Fixed(0), 7).build());
        assert_eq!(entry[1], other[1], "IOSQE_FIXED_FILE, IOSQE_BUFFER_SELECT");
        assert_eq!(u16_at(&entry, 40), u16_at(&other, 40));
        assert_eq!(u16_at(&entry, 40), 7);
        assert_eq!(entry[28..32], MULTISHOT.to_ne_bytes());
        assert_eq!(u16_at(&entry, 48), sys::POSTBOX_RECV_ACK as u16);
    }
}
