//! A buffer to another process and back: by a lease, by a hand-made arrangement of shared memory, and by what copies it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;

use postbox::raw::{self, Leases};
use postbox::{Pool, Receiver, Sender, Trusting, sys};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::{read, write};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::measure::{Echo, Figure, Plan, expect, windows};
use crate::peers::{Carrier, Pipe, Raw, Seqpacket};

/// What both sides do with the bytes of a buffer: write all of them before they send it, and read all of them when they
/// have it. Or nothing.
#[derive(Clone, Copy)]
struct Touch(bool);

impl Touch {
    fn write(self, bytes: &mut [u8], round: usize) {
        if self.0 {
            bytes.fill(round as u8);
        }
    }

    fn read(self, bytes: &[u8], round: usize) -> io::Result<()> {
        if !self.0 {
            return Ok(());
        }
        let (_, words, _) =
            // SAFETY: any bytes are a number.
            unsafe { bytes.align_to::<u64>() };
        let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word));
        let one = u64::from_ne_bytes([round as u8; 8]);
        if sum == one.wrapping_mul(words.len() as u64) {
            Ok(())
        } else {
            Err(io::Error::other("the bytes are others"))
        }
    }
}

/// Runs the loop: `there` sends and receives, and `back`, in the other process, receives and sends.
fn loops(
    plan: Plan,
    mut there: impl FnMut(usize) -> io::Result<()>,
    mut back: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<Figure> {
    let rounds = (plan.windows + 1) * plan.rounds;
    let echo = Echo::fork(|| (0..rounds).try_for_each(&mut back))?;
    let mut round = 0;
    let figure = windows(plan, || {
        there(round)?;
        round += 1;
        Ok(())
    })?;
    echo.wait()?;
    Ok(figure)
}

/// Memory that both processes have mapped.
struct Shared {
    at: NonNull<u8>,
    len: usize,
}

impl Shared {
    fn new(fd: impl AsFd, len: usize) -> io::Result<Self> {
        let null = std::ptr::null_mut();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses where there is nothing yet.
        let at = unsafe { mmap(null, len, protection, MapFlags::SHARED, fd, 0)? };
        let at = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Shared { at, len })
    }

    /// A part of it.
    #[allow(clippy::mut_from_ref)] // The processes take turns.
    fn part(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset + len <= self.len);
        // SAFETY: it is mapped, and used by the one that has its turn, once at a time.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().add(offset), len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nobody uses any more.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// A pool, and where its blocks are.
struct Lender {
    pool: Pool,
    memory: Shared,
}

impl Lender {
    fn bytes(&self, lease: &sys::postbox_lease) -> &mut [u8] {
        let at = lease.block as usize * self.pool.block_len();
        self.memory.part(at, lease.len as usize)
    }
}

/// A request with a lease, and a reply with the same one.
pub fn by_lease(len: usize, touched: bool, plan: Plan) -> io::Result<Figure> {
    let touch = Touch(touched);
    let pool = Pool::options().anonymous(16, len)?;
    let size = pool.info()?.message_max as usize;
    let memory = Shared::new(&pool, size)?;
    let lender = Lender { pool, memory };
    let (tx, rx) = Raw::lane(len)?;
    let mut loans = [0];
    let mut args = sys::postbox_loan::default();
    raw::loan(&lender.pool, &[], &mut loans, &mut args)?;
    let mut lease = sys::postbox_lease {
        block: loans[0],
        flags: 0,
        len: len as u64,
    };
    let rounds = (plan.windows + 1) * plan.rounds;
    let server = Echo::fork(|| {
        let fd = lender.pool.as_fd();
        let mut args = sys::postbox_reply_recv::default();
        // The first has nothing to answer.
        let mut lease = lease;
        for round in 0..rounds {
            let (entries, mut room) = ([lease], [MaybeUninit::uninit()]);
            let mut reply = Leases::new(fd).entries(&entries);
            let mut next = Leases::new(fd).room(&mut room);
            let mut files = Vec::new();
            raw::reply_recv_leases(
                &rx,
                &[],
                &[],
                &mut reply,
                &mut [],
                &mut files,
                &mut next,
                &mut args,
            )?;
            expect(1, next.args().count as usize)?;
            // SAFETY: the kernel has written one.
            lease = unsafe { room[0].assume_init() };
            touch.read(lender.bytes(&lease), round)?;
            touch.write(lender.bytes(&lease), round + 1);
            args.reply.token = args.recv.token;
        }
        let entries = [lease];
        let mut reply = Leases::new(fd).entries(&entries);
        let args = sys::postbox_reply {
            token: args.reply.token,
            ..Default::default()
        };
        Ok(raw::reply_leases(&rx, &[], &[], &mut reply, &args)?)
    })?;
    let mut round = 0;
    let figure = windows(plan, || {
        touch.write(lender.bytes(&lease), round);
        let (entries, mut room) = ([lease], [MaybeUninit::uninit()]);
        let mut request = Leases::new(lender.pool.as_fd()).entries(&entries);
        let mut reply = Leases::new(lender.pool.as_fd()).room(&mut room);
        let mut args = sys::postbox_call::default();
        let mut files = Vec::new();
        raw::call_leases(
            &tx,
            &[],
            &[],
            &mut request,
            &mut [],
            &mut files,
            &mut reply,
            &mut args,
        )?;
        expect(1, reply.args().count as usize)?;
        // SAFETY: the kernel has written one.
        lease = unsafe { room[0].assume_init() };
        round += 1;
        touch.read(lender.bytes(&lease), round)
    })?;
    server.wait()?;
    Ok(figure)
}

/// The same by the crate's types: every buffer is borrowed, sent, received and dropped.
pub fn by_types(len: usize, touched: bool, plan: Plan) -> io::Result<Figure> {
    let touch = Touch(touched);
    let pool = Pool::options().anonymous(64, len)?;
    // SAFETY: both processes use it through the crate alone.
    let pool: Pool<Trusting> = unsafe { pool.trusting() };
    let [(tx, rx), (far_tx, far_rx)] = Raw::pair(len)?;
    let send = |tx: &Sender, round| {
        let mut loan = pool.loan(len)?;
        touch.write(&mut loan, round);
        tx.send_buffer(loan)?;
        Ok::<_, io::Error>(())
    };
    let recv = |rx: &Receiver, round| {
        let shipment = rx.recv_buffers(&pool)?;
        touch.read(&shipment.buffers[0], round)
    };
    loops(
        plan,
        |round| {
            send(&tx, round)?;
            recv(&rx, round + 1)
        },
        |round| {
            recv(&far_rx, round)?;
            send(&far_tx, round + 1)
        },
    )
}

/// A memfd that both have mapped, and an eventfd each way.
pub fn by_memfd(len: usize, touched: bool, plan: Plan) -> io::Result<Figure> {
    let touch = Touch(touched);
    let memfd = memfd_create("bench", MemfdFlags::CLOEXEC)?;
    ftruncate(&memfd, len as u64)?;
    let memory = Shared::new(&memfd, len)?;
    let bell = || eventfd(0, EventfdFlags::CLOEXEC);
    let (there, back) = (bell()?, bell()?);
    let ring = |bell: &OwnedFd| write(bell, &1u64.to_ne_bytes());
    let wait = |bell: &OwnedFd| read(bell, &mut [0u8; 8]);
    loops(
        plan,
        |round| {
            touch.write(memory.part(0, len), round);
            expect(8, ring(&there)?)?;
            expect(8, wait(&back)?)?;
            touch.read(memory.part(0, len), round + 1)
        },
        |round| {
            expect(8, wait(&there)?)?;
            touch.read(memory.part(0, len), round)?;
            touch.write(memory.part(0, len), round + 1);
            expect(8, ring(&back)?)?;
            Ok(())
        },
    )
}

pub fn by_pipe(len: usize, touched: bool, plan: Plan) -> io::Result<Figure> {
    // As much as an ordinary user may have.
    let grow = |fd: &OwnedFd| rustix::pipe::fcntl_setpipe_size(fd, len.clamp(1 << 16, 1 << 20));
    let ends = Pipe::pair(len)?;
    for (tx, _) in &ends {
        grow(tx)?;
    }
    copied(
        ends,
        len,
        touched,
        plan,
        |tx, bytes| {
            let mut sent = 0;
            while sent < bytes.len() {
                sent += write(tx, &bytes[sent..])?;
            }
            Ok(())
        },
        |rx, bytes| {
            let mut got = 0;
            while got < bytes.len() {
                match read(rx, &mut bytes[got..])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    some => got += some,
                }
            }
            Ok(())
        },
    )
}

pub fn by_seqpacket(len: usize, touched: bool, plan: Plan) -> io::Result<Figure> {
    let ends = Seqpacket::pair(len)?;
    for (tx, _) in &ends {
        let room = 4 * len.max(1 << 16) as libc::c_int;
        // SAFETY: the option is a number, which `room` is.
        let set = unsafe {
            libc::setsockopt(
                tx.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_SNDBUFFORCE,
                (&raw const room).cast(),
                size_of_val(&room) as libc::socklen_t,
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let recv = |rx: &OwnedFd, bytes: &mut [u8]| expect(bytes.len(), Seqpacket::recv(rx, bytes)?);
    copied(ends, len, touched, plan, Seqpacket::send, recv)
}

/// By what copies the bytes from a buffer of one process to one of the other.
fn copied<E>(
    ends: [(E, E); 2],
    len: usize,
    touched: bool,
    plan: Plan,
    send: impl Fn(&E, &[u8]) -> io::Result<()>,
    recv: impl Fn(&E, &mut [u8]) -> io::Result<()>,
) -> io::Result<Figure> {
    let touch = Touch(touched);
    let [(tx, rx), (far_tx, far_rx)] = ends;
    let (mut near, mut far) = (vec![1; len], vec![1; len]);
    loops(
        plan,
        |round| {
            touch.write(&mut near, round);
            send(&tx, &near)?;
            recv(&rx, &mut near)?;
            touch.read(&near, round + 1)
        },
        |round| {
            recv(&far_rx, &mut far)?;
            touch.read(&far, round)?;
            touch.write(&mut far, round + 1);
            send(&far_tx, &far)
        },
    )
}
