//! io_uring: requests in batches, a stream of messages by one request, and many requests that are parked at once.
//!
//! Rings are made as by somebody who looks at what they cost: one thread submits, what is left to do is done when that
//! thread asks for completions, files are registered, and the entries are made once. The peers have all of that too.

use std::io;
use std::mem::{size_of, transmute};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode};
use postbox::uring::Driver;
use postbox::{Receiver, Sender, Wait, sys};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::ioctl_fionbio;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::measure::{Figure, Plan, cannot, expect, now, parts, windows};
use crate::peers::{Bytes, Carrier, Raw, Seqpacket, Typed};
use crate::{Transport, URING_BATCH};

/// Where the registered files are.
const TX: usize = 0;
const RX: usize = 1;

/// What is said of a command: `IORING_URING_CMD_MULTISHOT`.
const MULTISHOT: u32 = 1 << 1;

/// The group of buffers.
const GROUP: u16 = 1;

/// Memory that is never freed, whatever becomes of the requests that use it.
fn leaked<T: Clone>(value: T, count: usize) -> &'static mut [T] {
    Box::leak(vec![value; count].into_boxed_slice())
}

/// A ring, and the files that are used with it.
struct Ring {
    ring: IoUring,
    files: Vec<i32>,
    registered: bool,
}

impl Ring {
    /// A ring that costs little, with room for so many completions.
    fn new(files: Vec<i32>, completions: usize) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_no_sqarray()
            .setup_cqsize(completions.max(2 * URING_BATCH) as u32)
            .build(URING_BATCH as u32)?;
        ring.submitter().register_files(&files)?;
        Ok(Ring {
            ring,
            files,
            registered: true,
        })
    }

    /// A ring with nothing set up and nothing registered.
    fn plain(files: Vec<i32>) -> io::Result<Self> {
        Ok(Ring {
            ring: IoUring::new(URING_BATCH as u32)?,
            files,
            registered: false,
        })
    }

    /// Registers both sides of the bytes as buffers.
    fn register(&self, bytes: &mut Batched) -> io::Result<()> {
        let place = |at: *const u8, len| libc::iovec {
            iov_base: at.cast_mut().cast(),
            iov_len: len,
        };
        let (sent, received) = (bytes.sent, &mut *bytes.received);
        let buffers = [
            place(sent.as_ptr(), sent.len()),
            place(received.as_mut_ptr(), received.len()),
        ];
        // SAFETY: they are never freed.
        unsafe { self.ring.submitter().register_buffers(&buffers) }
    }

    /// An entry for one of the files, which `make` makes.
    fn entry(&self, file: usize, make: impl FnOnce(Fd) -> Entry) -> Entry {
        if self.registered {
            make(Fd(file as i32)).flags(Flags::FIXED_FILE)
        } else {
            make(Fd(self.files[file]))
        }
    }

    fn push(&mut self, entries: &[Entry]) -> io::Result<()> {
        // SAFETY: what the entries of this module point to is never freed, and nobody looks at it while they are there.
        let pushed = unsafe { self.ring.submission().push_multiple(entries) };
        pushed.map_err(io::Error::other)
    }

    /// Submits the entries, and waits until each of them has ended with this result.
    fn run(&mut self, entries: &[Entry], result: i32) -> io::Result<()> {
        self.push(entries)?;
        self.ring.submit_and_wait(entries.len())?;
        let mut done = 0;
        for completion in self.ring.completion() {
            ended(&completion, result)?;
            done += 1;
        }
        expect(entries.len(), done)
    }
}

fn ended(completion: &cqueue::Entry, result: i32) -> io::Result<()> {
    match completion.result() {
        got if got == result => Ok(()),
        error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
        other => Err(io::Error::other(format!("{other} instead of {result}"))),
    }
}

/// An operation with its payload, or its buffer, in place of an argument struct.
fn direct(fd: Fd, request: u32, at: *const u8, len: usize) -> opcode::UringCmd16 {
    let args = sys::postbox_uring {
        flags: sys::POSTBOX_URING_DIRECT as u16,
        len: len as u32,
        ..Default::default()
    };
    command(fd, request, at.addr() as u64, &args)
}

fn command(fd: Fd, request: u32, addr: u64, args: &sys::postbox_uring) -> opcode::UringCmd16 {
    let mut bytes = [0; size_of::<sys::postbox_uring>()];
    bytes[0..2].copy_from_slice(&args.flags.to_ne_bytes());
    bytes[2..4].copy_from_slice(&args.priority.to_ne_bytes());
    bytes[4..8].copy_from_slice(&args.len.to_ne_bytes());
    bytes[8..].copy_from_slice(&args.timeout_ns.to_ne_bytes());
    opcode::UringCmd16::new(fd, request)
        .cmd(bytes)
        .addr(Some(addr))
}

/// The multishot receive, for which the library has no builder.
fn multishot_entry(fd: Fd) -> Entry {
    let entry = command(fd, sys::POSTBOX_RECV, 0, &Default::default()).build();
    // SAFETY: both are 64 bytes that can have any value.
    let mut bytes: [u8; 64] = unsafe { transmute(entry) };
    // `uring_cmd_flags` and `buf_group`.
    bytes[28..32].copy_from_slice(&MULTISHOT.to_ne_bytes());
    bytes[40..42].copy_from_slice(&GROUP.to_ne_bytes());
    // SAFETY: as above.
    let entry: Entry = unsafe { transmute(bytes) };
    entry.flags(Flags::BUFFER_SELECT)
}

/// So many rounds as cost as much as those of the other cases.
fn batches(plan: Plan) -> Plan {
    let rounds = plan.rounds.div_ceil(URING_BATCH / 4);
    Plan { rounds, ..plan }
}

fn per_message(figure: io::Result<Figure>) -> io::Result<Figure> {
    figure.map(|Figure { median, min }| Figure {
        median: median / URING_BATCH as f64,
        min: min / URING_BATCH as f64,
    })
}

/// The messages of a batch, which differ, and where they go to.
struct Batched {
    sent: &'static [u8],
    received: &'static mut [u8],
    len: usize,
}

impl Batched {
    fn new(len: usize) -> Self {
        let sent = leaked(0, URING_BATCH * len);
        for (i, byte) in sent.iter_mut().enumerate() {
            *byte = (i / len + i) as u8;
        }
        Batched {
            sent,
            received: leaked(0, URING_BATCH * len),
            len,
        }
    }

    fn from(&self, i: usize) -> *const u8 {
        self.sent[i * self.len..][..self.len].as_ptr()
    }

    fn to(&mut self, i: usize) -> *mut u8 {
        self.received[i * self.len..][..self.len].as_mut_ptr()
    }

    /// Whether the message at a place is the one that was sent there, as far as its first byte says.
    fn check_one(&self, i: usize, message: &[u8]) -> io::Result<()> {
        if message.first() == self.sent.get(i * self.len) {
            Ok(())
        } else {
            Err(io::Error::other("another message was to come"))
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.sent == self.received {
            Ok(())
        } else {
            Err(io::Error::other("other bytes came than were sent"))
        }
    }
}

/// Batches through io_uring: what is submitted, and how each of it ends.
struct Batch {
    sends: Vec<Entry>,
    sent: i32,
    receives: Vec<Entry>,
    received: i32,
}

impl Batch {
    /// A request for each message, made by `send` and `receive`.
    fn new(
        ring: &Ring,
        bytes: &mut Batched,
        send: impl Fn(Fd, *const u8) -> Entry,
        receive: impl Fn(Fd, *mut u8) -> Entry,
    ) -> Self {
        let len = bytes.len as i32;
        let all = 0..URING_BATCH;
        Batch {
            sends: all
                .clone()
                .map(|i| ring.entry(TX, |fd| send(fd, bytes.from(i))))
                .collect(),
            sent: len,
            receives: all
                .map(|i| ring.entry(RX, |fd| receive(fd, bytes.to(i))))
                .collect(),
            received: len,
        }
    }

    /// POSTBOX_SEND does not say how long the message was.
    fn commands(self) -> Self {
        Batch { sent: 0, ..self }
    }

    fn run(&self, ring: &mut Ring, plan: Plan, bytes: &Batched) -> io::Result<Figure> {
        let figure = windows(batches(plan), || {
            ring.run(&self.sends, self.sent)?;
            ring.run(&self.receives, self.received)
        });
        bytes.check()?;
        per_message(figure)
    }
}

/// Messages sent in a batch and received in a batch, by io_uring.
pub fn batch(transport: Transport, len: usize, plan: Plan) -> io::Result<Figure> {
    match transport {
        Transport::Uds | Transport::UdsPlain => {
            sockets(transport, SocketType::SEQPACKET, len, plan)
        }
        Transport::UdsStream => sockets(transport, SocketType::STREAM, len, plan),
        _ => mailbox(transport, len, plan),
    }
}

fn sockets(transport: Transport, kind: SocketType, len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let files = vec![tx.as_raw_fd(), rx.as_raw_fd()];
    let mut ring = match transport {
        Transport::UdsPlain => Ring::plain(files)?,
        _ => Ring::new(files, 0)?,
    };
    let mut bytes = Batched::new(len);
    let batch = Batch::new(
        &ring,
        &mut bytes,
        |fd, at| opcode::Send::new(fd, at, len as u32).build(),
        |fd, at| opcode::Recv::new(fd, at, len as u32).build(),
    );
    batch.run(&mut ring, plan, &bytes)
}

fn mailbox(transport: Transport, len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = Raw::lane(len)?;
    let files = vec![tx.as_fd().as_raw_fd(), rx.as_fd().as_raw_fd()];
    let mut ring = match transport {
        Transport::UringPlain => Ring::plain(files)?,
        _ => Ring::new(files, 0)?,
    };
    let mut bytes = Batched::new(len);
    let batch = match transport {
        Transport::Postbox => spans(&ring, &mut bytes, len),
        Transport::UringSingle | Transport::UringPlain => Batch::new(
            &ring,
            &mut bytes,
            |fd, at| direct(fd, sys::POSTBOX_SEND, at, len).build(),
            |fd, at| direct(fd, sys::POSTBOX_RECV, at, len).build(),
        )
        .commands(),
        Transport::UringBuffers => {
            ring.register(&mut bytes)?;
            Batch::new(
                &ring,
                &mut bytes,
                |fd, at| {
                    direct(fd, sys::POSTBOX_SEND, at, len)
                        .buf_index(Some(TX as u16))
                        .build()
                },
                |fd, at| {
                    direct(fd, sys::POSTBOX_RECV, at, len)
                        .buf_index(Some(RX as u16))
                        .build()
                },
            )
            .commands()
        }
        Transport::UringWrite => Batch::new(
            &ring,
            &mut bytes,
            |fd, at| opcode::Write::new(fd, at, len as u32).build(),
            |fd, at| opcode::Read::new(fd, at, len as u32).build(),
        ),
        Transport::UringArgs => Batch::new(
            &ring,
            &mut bytes,
            |fd, at| with_args(fd, sys::POSTBOX_SEND, send_args(at, len)),
            |fd, at| with_args(fd, sys::POSTBOX_RECV, recv_args(at, len)),
        )
        .commands(),
        Transport::UringCommand => whole(&ring, &mut bytes, len),
        _ => return cannot(transport),
    };
    batch.run(&mut ring, plan, &bytes)
}

fn send_args(at: *const u8, len: usize) -> sys::postbox_send {
    sys::postbox_send {
        size: size_of::<sys::postbox_send>() as u32,
        data: at.addr() as u64,
        len: len as u64,
        ..Default::default()
    }
}

fn recv_args(at: *mut u8, len: usize) -> sys::postbox_recv {
    sys::postbox_recv {
        size: size_of::<sys::postbox_recv>() as u32,
        data: at.addr() as u64,
        len: len as u64,
        ..Default::default()
    }
}

/// An operation with an argument struct.
fn with_args<T>(fd: Fd, request: u32, args: T) -> Entry {
    let at: *mut T = Box::leak(Box::new(args));
    command(fd, request, at.addr() as u64, &Default::default()).build()
}

/// The whole batch in one command each way, without argument structs.
fn spans(ring: &Ring, bytes: &mut Batched, len: usize) -> Batch {
    let entry = |fd, request, spans: Vec<sys::postbox_span>| {
        let at = spans.leak().as_ptr().cast();
        direct(fd, request, at, URING_BATCH).build()
    };
    let span = |at: *const u8| sys::postbox_span {
        data: at.addr() as u64,
        len: len as u32,
        done: 0,
    };
    let all = 0..URING_BATCH;
    let sends = all.clone().map(|i| span(bytes.from(i))).collect();
    let receives = all.map(|i| span(bytes.to(i))).collect();
    Batch {
        sends: vec![ring.entry(TX, |fd| entry(fd, sys::POSTBOX_SEND_BATCH, sends))],
        sent: URING_BATCH as i32,
        receives: vec![ring.entry(RX, |fd| entry(fd, sys::POSTBOX_RECV_BATCH, receives))],
        received: URING_BATCH as i32,
    }
}

/// The whole batch in one command each way, with argument structs.
fn whole(ring: &Ring, bytes: &mut Batched, len: usize) -> Batch {
    fn entry<T>(fd: Fd, request: u32, entries: Vec<T>) -> Entry {
        let args = sys::postbox_batch {
            size: size_of::<sys::postbox_batch>() as u32,
            entries: entries.leak().as_mut_ptr().addr() as u64,
            count: URING_BATCH as u32,
            entry_size: size_of::<T>() as u32,
            ..Default::default()
        };
        with_args(fd, request, args)
    }
    let all = 0..URING_BATCH;
    let sends = all.clone().map(|i| send_args(bytes.from(i), len)).collect();
    let receives = all.map(|i| recv_args(bytes.to(i), len)).collect();
    Batch {
        sends: vec![ring.entry(TX, |fd| entry(fd, sys::POSTBOX_SEND_BATCH, sends))],
        sent: URING_BATCH as i32,
        receives: vec![ring.entry(RX, |fd| entry(fd, sys::POSTBOX_RECV_BATCH, receives))],
        received: URING_BATCH as i32,
    }
}

/// The same messages by single system calls.
pub fn batch_by_ioctl(len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = Raw::lane(len)?;
    let bytes = Batched::new(len);
    let figure = windows(batches(plan), || {
        for sent in bytes.sent.chunks(len) {
            Raw::send(&tx, sent)?;
        }
        for place in bytes.received.chunks_mut(len) {
            expect(len, Raw::recv(&rx, place)?)?;
        }
        Ok(())
    });
    bytes.check()?;
    per_message(figure)
}

/// A driver of the crate, set up in the same way.
fn driver(files: usize, completions: usize) -> io::Result<Driver> {
    let driver = Driver::options()
        .entries(2 * URING_BATCH as u32)
        .completions(completions.max(4 * URING_BATCH) as u32)
        .single_issuer(true)
        .fixed_files(files as u32)
        .build();
    driver.map_err(io::Error::other)
}

/// The same messages by the crate: a batch of them is one operation.
pub fn batch_by_crate(len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = Raw::lane(len)?;
    let driver = driver(2, 0)?;
    let (tx, rx) = (driver.attach_fixed(tx)?, driver.attach_fixed(rx)?);
    let bytes = Batched::new(len);
    let figure = windows(batches(plan), || {
        let batch = bytes.sent.chunks(len).map(<[u8]>::to_vec).collect();
        let sent = tx.send_many(batch, 0, Wait::Forever);
        sent.wait().map_err(|error| error.error)?;
        let received = rx.recv_many(URING_BATCH, Wait::Forever).wait()?;
        expect(URING_BATCH, received.len())?;
        for (i, message) in received.iter().enumerate() {
            bytes.check_one(i, message)?;
        }
        Ok(())
    });
    per_message(figure)
}

/// Bursts, received by a stream of the crate.
pub fn multishot_by_crate(len: usize, plan: Plan) -> io::Result<Figure> {
    let (tx, rx) = Typed::lane(len)?;
    let driver = driver(1, 0)?;
    let buffers = driver.buffers(2 * URING_BATCH as u16, 2 * len);
    let buffers = buffers.map_err(io::Error::other)?;
    let mut messages = driver.attach_fixed(rx)?.messages(&buffers);
    let bytes = Batched::new(len);
    // It begins when it is first asked.
    burst(&tx, &bytes)?;
    for _ in 0..URING_BATCH {
        messages.wait_next().transpose()?;
    }
    let figure = parts(batches(plan), || {
        burst(&tx, &bytes)?;
        let start = now();
        for i in 0..URING_BATCH {
            let message = messages.wait_next().transpose()?;
            let message = message.ok_or_else(|| io::Error::other("the stream has ended"))?;
            bytes.check_one(i, &message)?;
        }
        Ok(now() - start)
    });
    per_message(figure)
}

/// Sends a burst.
fn burst(tx: &Sender, bytes: &Batched) -> io::Result<()> {
    bytes
        .sent
        .chunks(bytes.len)
        .try_for_each(|message| Bytes::send(tx, message))
}

/// A ring of buffers for a multishot receive.
struct Buffers {
    entries: &'static mut [BufRingEntry],
    bytes: *mut u8,
    each: usize,
    tail: u16,
}

impl Buffers {
    /// `count`, a power of two, of `each` bytes.
    fn new(ring: &Ring, count: u16, each: usize) -> io::Result<Self> {
        let size = usize::from(count) * size_of::<BufRingEntry>();
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: the kernel chooses where there is nothing yet. The mapping stays, and entries can be zero.
        let entries = unsafe {
            let at = mmap_anonymous(std::ptr::null_mut(), size, protection, flags)?;
            std::slice::from_raw_parts_mut(at.cast::<BufRingEntry>(), count.into())
        };
        let mut buffers = Buffers {
            entries,
            bytes: leaked(0, usize::from(count) * each).as_mut_ptr(),
            each,
            tail: 0,
        };
        for id in 0..count {
            buffers.give(id);
        }
        buffers.publish();
        let at = buffers.entries.as_ptr().addr() as u64;
        // SAFETY: nothing of it is ever freed.
        unsafe {
            ring.ring
                .submitter()
                .register_buf_ring_with_flags(at, count, GROUP, 0)?
        };
        Ok(buffers)
    }

    fn at(&self, id: u16) -> *const u8 {
        self.bytes.wrapping_add(usize::from(id) * self.each)
    }

    /// The content of a buffer that the kernel has given.
    fn get(&self, id: u16) -> &[u8] {
        assert!(usize::from(id) < self.entries.len());
        // SAFETY: it is there, and the kernel does not write to it before it is given back.
        unsafe { std::slice::from_raw_parts(self.at(id), self.each) }
    }

    fn give(&mut self, id: u16) {
        let at = self.at(id).addr() as u64;
        let slot = usize::from(self.tail) & (self.entries.len() - 1);
        let entry = &mut self.entries[slot];
        entry.set_addr(at);
        entry.set_len(self.each as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: the ring begins there, and its tail is only written here.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Bursts, received by one request for all of them.
pub fn multishot(len: usize, plan: Plan) -> io::Result<Figure> {
    let header = size_of::<sys::postbox_record>();
    let (tx, rx) = Bytes::lane(len)?;
    let mut ring = Ring::new(vec![rx.as_fd().as_raw_fd()], 0)?;
    let mut buffers = Buffers::new(&ring, 2 * URING_BATCH as u16, header + len)?;
    let bytes = Batched::new(len);
    let entry = ring.entry(0, multishot_entry);
    ring.push(&[entry])?;
    ring.ring.submit()?;
    let figure = parts(batches(plan), || {
        burst(&tx, &bytes)?;
        let start = now();
        let mut done = 0;
        while done < URING_BATCH {
            ring.ring.submit_and_wait(1)?;
            for completion in ring.ring.completion() {
                ended(&completion, (header + len) as i32)?;
                let id = cqueue::buffer_select(completion.flags());
                let id = id.ok_or_else(|| io::Error::other("no buffer"))?;
                if !cqueue::more(completion.flags()) {
                    return Err(io::Error::other("the multishot receive has ended"));
                }
                bytes.check_one(done, &buffers.get(id)[header..])?;
                buffers.give(id);
                done += 1;
            }
            buffers.publish();
        }
        Ok(now() - start)
    });
    per_message(figure)
}

/// Bursts, received by an event loop that receives once for each event, or, where it `drains`, until there is nothing.
pub fn readiness<C>(drains: bool, len: usize, plan: Plan) -> io::Result<Figure>
where
    C: Carrier<Tx = Sender, Rx = Receiver>,
{
    const NUMBER: u64 = 7;
    let (tx, rx) = C::lane(len)?;
    ioctl_fionbio(&rx, true)?;
    let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let data = epoll::EventData::new_u64(NUMBER);
    epoll::add(&set, &rx, data, epoll::EventFlags::IN)?;
    let bytes = Batched::new(len);
    let mut place = vec![0; len];
    let mut events = Vec::with_capacity(16);
    let figure = parts(batches(plan), || {
        burst(&tx, &bytes)?;
        let start = now();
        let mut done = 0;
        while done < URING_BATCH {
            events.clear();
            epoll::wait(&set, spare_capacity(&mut events), None)?;
            for event in &events {
                if event.data.u64() != NUMBER {
                    return Err(io::Error::other("something else is ready"));
                }
                loop {
                    match C::recv(&rx, &mut place) {
                        Ok(got) => expect(len, got)?,
                        Err(error) if drains && error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                    bytes.check_one(done, &place)?;
                    done += 1;
                    if !drains {
                        break;
                    }
                }
            }
        }
        Ok(now() - start)
    });
    per_message(figure)
}

/// A carrier whose lanes io_uring receives from.
pub trait Parks: Carrier<Tx: AsFd, Rx: AsFd> {
    /// A receive.
    fn receive(fd: Fd, at: *mut u8, len: usize) -> Entry;
}

impl Parks for Typed {
    fn receive(fd: Fd, at: *mut u8, len: usize) -> Entry {
        direct(fd, sys::POSTBOX_RECV, at, len).build()
    }
}

impl Parks for Seqpacket {
    fn receive(fd: Fd, at: *mut u8, len: usize) -> Entry {
        opcode::Recv::new(fd, at, len as u32).build()
    }
}

/// A receive parked at each of `count` lanes. A message to one of them ends that one, and it is made again.
pub fn parked<C: Parks>(count: usize, len: usize, plan: Plan) -> io::Result<Figure> {
    let lanes = (0..count)
        .map(|_| C::lane(len))
        .collect::<io::Result<Vec<_>>>()?;
    let files = lanes.iter().map(|(_, rx)| rx.as_fd().as_raw_fd()).collect();
    let mut ring = Ring::new(files, count)?;
    let mut places: Vec<_> = (0..count).map(|_| leaked(0u8, len)).collect();
    let entries: Vec<_> = places
        .iter_mut()
        .enumerate()
        .map(|(i, place)| {
            let entry = ring.entry(i, |fd| C::receive(fd, place.as_mut_ptr(), len));
            entry.user_data(i as u64)
        })
        .collect();
    for some in entries.chunks(URING_BATCH) {
        ring.push(some)?;
        ring.ring.submit()?;
    }
    let data = vec![1; len];
    turns(count, plan, |at| {
        C::send(&lanes[at].0, &data)?;
        ring.ring.submit_and_wait(1)?;
        let completion = ring.ring.completion().next();
        let completion = completion.ok_or_else(|| io::Error::other("nothing came"))?;
        ended(&completion, len as i32)?;
        expect(at, completion.user_data() as usize)?;
        ring.push(&entries[at..=at])?;
        ring.ring.submit()?;
        Ok(())
    })
}

/// Measures what `turn` does with one of `count` after the other.
fn turns(
    count: usize,
    plan: Plan,
    mut turn: impl FnMut(usize) -> io::Result<()>,
) -> io::Result<Figure> {
    /// The next one is far away, and all have their turn.
    const STRIDE: usize = 7919;
    let mut at = 0;
    let mut next = || {
        turn(at)?;
        at = (at + STRIDE) % count;
        Ok(())
    };
    // Each has had memory for a message once.
    for _ in 0..count {
        next()?;
    }
    windows(plan, next)
}

/// The same by the crate, whose operations these are.
pub fn parked_by_crate(count: usize, len: usize, plan: Plan) -> io::Result<Figure> {
    let driver = driver(count, count)?;
    let mut senders = Vec::with_capacity(count);
    let mut receives = Vec::with_capacity(count);
    for _ in 0..count {
        let (tx, rx) = Typed::lane(len)?;
        let rx = driver.attach_fixed(rx)?;
        let receive = rx.recv_into(Vec::with_capacity(len), Wait::Forever);
        senders.push((tx, rx));
        receives.push(Some(receive));
    }
    driver.submit()?;
    let data = vec![1; len];
    turns(count, plan, |at| {
        let (tx, rx) = &senders[at];
        tx.send(&data)?;
        let receive = receives[at].take();
        let receive = receive.ok_or_else(|| io::Error::other("nothing is parked"))?;
        let (got, place) = receive.wait();
        expect(len, got?)?;
        receives[at] = Some(rx.recv_into(place, Wait::Forever));
        driver.submit()
    })
}

/// Readers of a pipe that wait in a ring: a user may have more of these than threads.
pub struct WaitingReaders {
    ring: Ring,
    entry: Entry,
}

impl WaitingReaders {
    /// So many, each for one byte.
    pub fn new(pipe: impl AsFd, count: usize) -> io::Result<Self> {
        let mut ring = Ring::new(vec![pipe.as_fd().as_raw_fd()], count)?;
        let place = leaked(0u8, 1).as_mut_ptr();
        let entry = ring.entry(0, |fd| direct(fd, sys::POSTBOX_READ, place, 1).build());
        for some in vec![entry.clone(); count].chunks(URING_BATCH) {
            ring.push(some)?;
            ring.ring.submit()?;
        }
        Ok(WaitingReaders { ring, entry })
    }

    /// Has the first one read what was written, and another one come in its place.
    pub fn go_on(&mut self) -> io::Result<()> {
        self.ring.ring.submit_and_wait(1)?;
        let completion = self.ring.ring.completion().next();
        let completion = completion.ok_or_else(|| io::Error::other("nothing came"))?;
        ended(&completion, 1)?;
        self.ring.push(std::slice::from_ref(&self.entry))?;
        self.ring.ring.submit().map(drop)
    }
}
