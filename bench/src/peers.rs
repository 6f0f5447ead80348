//! What carries the bytes, each used as its ordinary user would.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use postbox::{Capacity, Mailbox, Receiver, Sender, raw, sys};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{dup, read, write};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};
use rustix::pipe::pipe;

/// Messages that a mailbox holds: more than any loop here leaves in it.
const DEPTH: u64 = 128;

/// A way to carry bytes, in one direction by a lane.
pub trait Carrier {
    /// What sends.
    type Tx;
    /// What receives.
    type Rx;

    /// A lane for messages of `len` bytes.
    fn lane(len: usize) -> io::Result<(Self::Tx, Self::Rx)>;

    /// Two ends, of which each receives what the other sends.
    fn pair(len: usize) -> io::Result<[(Self::Tx, Self::Rx); 2]> {
        let ((tx, far_rx), (far_tx, rx)) = (Self::lane(len)?, Self::lane(len)?);
        Ok([(tx, rx), (far_tx, far_rx)])
    }

    /// Sends, and waits until it can.
    fn send(tx: &Self::Tx, data: &[u8]) -> io::Result<()>;

    /// Receives, and waits until it can. Returns the bytes received.
    fn recv(rx: &Self::Rx, buffer: &mut [u8]) -> io::Result<usize>;
}

fn whole(sent: usize, data: &[u8]) -> io::Result<()> {
    if sent == data.len() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "{sent} of {} bytes sent",
            data.len()
        )))
    }
}

pub struct Pipe;

impl Carrier for Pipe {
    type Tx = OwnedFd;
    type Rx = OwnedFd;

    fn lane(_: usize) -> io::Result<(OwnedFd, OwnedFd)> {
        let (rx, tx) = pipe()?;
        Ok((tx, rx))
    }

    fn send(tx: &OwnedFd, data: &[u8]) -> io::Result<()> {
        whole(write(tx, data)?, data)
    }

    fn recv(rx: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(rx, buffer)?)
    }
}

pub struct Eventfd;

impl Carrier for Eventfd {
    type Tx = OwnedFd;
    type Rx = OwnedFd;

    fn lane(_: usize) -> io::Result<(OwnedFd, OwnedFd)> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok((dup(&counter)?, counter))
    }

    fn send(tx: &OwnedFd, data: &[u8]) -> io::Result<()> {
        whole(write(tx, data)?, data)
    }

    fn recv(rx: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(rx, buffer)?)
    }
}

pub struct Seqpacket;

impl Carrier for Seqpacket {
    type Tx = OwnedFd;
    type Rx = OwnedFd;

    fn lane(_: usize) -> io::Result<(OwnedFd, OwnedFd)> {
        let (unix, packets) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        Ok(socketpair(unix, packets, SocketFlags::CLOEXEC, None)?)
    }

    fn pair(len: usize) -> io::Result<[(OwnedFd, OwnedFd); 2]> {
        let (a, b) = Self::lane(len)?;
        Ok([(dup(&a)?, a), (dup(&b)?, b)])
    }

    fn send(tx: &OwnedFd, data: &[u8]) -> io::Result<()> {
        whole(send(tx, data, SendFlags::empty())?, data)
    }

    fn recv(rx: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(recv(rx, buffer, RecvFlags::empty())?.0)
    }
}

/// The headers of [`crate::BATCH`] packets that are sent or received in one call.
pub struct Packets<'a> {
    headers: Vec<libc::mmsghdr>,
    _places: Vec<libc::iovec>,
    _buffer: PhantomData<&'a mut [u8]>,
}

impl<'a> Packets<'a> {
    /// One packet for each `len` bytes of the buffer.
    pub fn new(buffer: &'a mut [u8], len: usize) -> Self {
        let place = |part: &mut [u8]| libc::iovec {
            iov_base: part.as_mut_ptr().cast(),
            iov_len: part.len(),
        };
        let mut places: Vec<_> = buffer.chunks_mut(len).map(place).collect();
        let header = |place: &mut libc::iovec| {
            // SAFETY: all-zero is a valid mmsghdr.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_iov = place;
            header.msg_hdr.msg_iovlen = 1;
            header
        };
        Packets {
            headers: places.iter_mut().map(header).collect(),
            _places: places,
            _buffer: PhantomData,
        }
    }

    /// Sends them. Returns how many were sent.
    pub fn send(&mut self, tx: &OwnedFd) -> io::Result<usize> {
        let (at, count) = (self.headers.as_mut_ptr(), self.headers.len() as u32);
        // SAFETY: `count` headers, each with one place, which `self` keeps and which describes
        // bytes that it borrows.
        counted(unsafe { libc::sendmmsg(tx.as_raw_fd(), at, count, 0) })
    }

    /// Receives them. Returns how many came.
    pub fn recv(&mut self, rx: &OwnedFd) -> io::Result<usize> {
        let (at, count) = (self.headers.as_mut_ptr(), self.headers.len() as u32);
        // SAFETY: as for `send`; nothing else uses the bytes while `self` borrows them.
        counted(unsafe { libc::recvmmsg(rx.as_raw_fd(), at, count, 0, std::ptr::null_mut()) })
    }
}

fn counted(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

pub struct Mq;

impl Carrier for Mq {
    type Tx = OwnedFd;
    type Rx = OwnedFd;

    fn lane(len: usize) -> io::Result<(OwnedFd, OwnedFd)> {
        let name = CString::new(format!("/postbox-bench.{}", std::process::id()))?;
        // SAFETY: all-zero is a valid mq_attr.
        let mut attr: libc::mq_attr = unsafe { std::mem::zeroed() };
        attr.mq_maxmsg = 8;
        attr.mq_msgsize = len.max(64) as i64;
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        // SAFETY: the name ends in NUL, and `attr` outlives the call.
        let fd = unsafe { libc::mq_open(name.as_ptr(), flags, 0o600, &raw mut attr) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: on Linux a queue's descriptor is a file descriptor; nobody else owns this one.
        let queue = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the name ends in NUL.
        if unsafe { libc::mq_unlink(name.as_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((dup(&queue)?, queue))
    }

    fn send(tx: &OwnedFd, data: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length describe `data`.
        match unsafe { libc::mq_send(tx.as_raw_fd(), data.as_ptr().cast(), data.len(), 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn recv(rx: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
        let (at, len) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the pointer and the length describe `buffer`; the priority is not asked for.
        match unsafe { libc::mq_receive(rx.as_raw_fd(), at, len, std::ptr::null_mut()) } {
            -1 => Err(io::Error::last_os_error()),
            len => Ok(len as usize),
        }
    }
}

/// Mailboxes, by the crate's types.
pub struct Typed;

impl Carrier for Typed {
    type Tx = Sender;
    type Rx = Receiver;

    fn lane(_: usize) -> io::Result<(Sender, Receiver)> {
        let mailbox = Mailbox::options()
            .capacity(Capacity::Bounded(DEPTH))
            .anonymous()?;
        Ok(mailbox.split()?)
    }

    fn send(tx: &Sender, data: &[u8]) -> io::Result<()> {
        Ok(tx.send(data)?)
    }

    fn recv(rx: &Receiver, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rx.recv_into(buffer)?.len)
    }
}

/// Mailboxes, by write() and read().
pub struct Bytes;

impl Carrier for Bytes {
    type Tx = Sender;
    type Rx = Receiver;

    fn lane(len: usize) -> io::Result<(Sender, Receiver)> {
        Typed::lane(len)
    }

    fn send(tx: &Sender, data: &[u8]) -> io::Result<()> {
        whole(write(tx, data)?, data)
    }

    fn recv(rx: &Receiver, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(rx, buffer)?)
    }
}

/// Mailboxes, by the raw calls.
pub struct Raw;

impl Carrier for Raw {
    type Tx = Sender;
    type Rx = Receiver;

    fn lane(len: usize) -> io::Result<(Sender, Receiver)> {
        Typed::lane(len)
    }

    fn send(tx: &Sender, data: &[u8]) -> io::Result<()> {
        Ok(raw::send(tx.as_fd(), data, &sys::postbox_send::default())?)
    }

    fn recv(rx: &Receiver, buffer: &mut [u8]) -> io::Result<usize> {
        let mut args = sys::postbox_recv::default();
        Ok(raw::recv(rx.as_fd(), buffer, &mut args)?)
    }
}
