//! Benchmarks of postbox against its peers: the same loop, the same buffers, two processes on one CPU.
//!
//! The clock is `CLOCK_MONOTONIC_RAW`. Where the emulator counts instructions instead of time (`-icount shift=0`) its
//! nanoseconds are instructions, which [`clock_counts_instructions`] finds out.

mod holds;
mod lease;
mod measure;
mod peers;
mod ring;
mod uring;

pub use holds::{FEW, Filled, Hold, MANY, holds};
pub use measure::{Figure, Plan, clock_counts_instructions, measure};

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Mailboxes, by write() and read(), as for a pipe: bytes of priority 0.
    Postbox,
    /// Mailboxes, by the crate's raw calls: with priority, deadline and the sender's identity.
    PostboxIoctl,
    /// Mailboxes, by the crate's `Sender` and `Receiver`.
    PostboxCrate,
    /// Pipes.
    Pipe,
    /// A pair of Unix sockets, SOCK_SEQPACKET.
    Seqpacket,
    /// POSIX message queues.
    Mq,
    /// Eventfds: eight bytes, which are a number.
    Eventfd,
    /// The C library's semaphores and mutexes, on futexes.
    Futex,
    /// A memfd that both processes have mapped, and an eventfd each way.
    MemfdEventfd,
    /// Mailboxes, by the raw calls, one for each message.
    Ioctl,
    /// Mailboxes, by io_uring, a command without an argument struct for each message.
    UringSingle,
    /// Mailboxes, by io_uring, with the argument structs of the raw calls.
    UringArgs,
    /// Mailboxes, by io_uring, in registered buffers.
    UringBuffers,
    /// Mailboxes, by io_uring's own write and read.
    UringWrite,
    /// Mailboxes, by io_uring, a whole batch with argument structs in one command.
    UringCommand,
    /// Mailboxes, by io_uring, on a ring with nothing set up and nothing registered.
    UringPlain,
    /// A pair of Unix sockets, SOCK_SEQPACKET, by io_uring.
    Uds,
    /// The same, SOCK_STREAM.
    UdsStream,
    /// As [`Transport::Uds`], on a ring with nothing set up and nothing registered.
    UdsPlain,
    /// Mailboxes, by an event loop: epoll_wait(), and one raw receive for each event.
    Epoll,
    /// The same, by read().
    EpollRead,
    /// Mailboxes, by an event loop: epoll_wait(), and raw receives until there is nothing more.
    EpollDrain,
    /// The same, by read().
    EpollDrainRead,
}

impl Transport {
    /// Its name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Transport::Postbox => "postbox",
            Transport::PostboxIoctl => "postbox_ioctl",
            Transport::PostboxCrate => "postbox_crate",
            Transport::Pipe => "pipe",
            Transport::Seqpacket => "seqpacket",
            Transport::Mq => "mq",
            Transport::Eventfd => "eventfd",
            Transport::Futex => "futex",
            Transport::MemfdEventfd => "memfd_eventfd",
            Transport::Ioctl => "ioctl",
            Transport::UringArgs => "postbox_args",
            Transport::UringBuffers => "postbox_buffers",
            Transport::UringWrite => "postbox_write",
            Transport::UringSingle => "postbox_single",
            Transport::UringCommand => "postbox_command",
            Transport::UringPlain => "postbox_plain",
            Transport::Uds => "uds",
            Transport::UdsStream => "uds_stream",
            Transport::UdsPlain => "uds_plain",
            Transport::Epoll => "epoll",
            Transport::EpollRead => "epoll_read",
            Transport::EpollDrain => "epoll_drain",
            Transport::EpollDrainRead => "epoll_drain_read",
        }
    }
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A message to the other process, which sleeps until it comes, and one back: four calls.
    RoundTrip,
    /// A message sent and received by one process; nobody sleeps: two calls.
    Queued,
    /// [`BATCH`] messages sent in one call and received in one, by one process; the figure is for one message.
    Batch,
    /// A request to the other process, which sleeps until it comes, and its reply: a call, and one that replies and
    /// waits for the next. With the others, as [`Work::RoundTrip`].
    Call,
    /// A semaphore acquired and released by one process; nobody else wants it.
    Semaphore,
    /// A lock in shared memory, which survives its holder, taken and given up by one process; nobody else wants it.
    Lock,
    /// One of many records that stream to the other process.
    Stream,
    /// The call that sends a message to one of so many threads that sleep until it comes.
    WakeOne(usize),
    /// A buffer to the other process, which sleeps until it comes, and back. Where that is said, each side writes all of it
    /// before it sends it, and reads all of it when it has it.
    Lease {
        /// Whether they do.
        touched: bool,
    },
    /// [`URING_BATCH`] messages sent by as many requests of one io_uring_enter(), and received by as many of another, in
    /// one process; the figure is for one message.
    UringBatch,
    /// What a receiver does for one message, where they come in bursts of [`URING_BATCH`]. Without what it costs to send
    /// them.
    UringMultishot,
    /// A message sent to one of so many mailboxes, each with a receive parked in the same ring; that receive's completion,
    /// and the next one.
    UringParked(usize),
}

/// The messages of one call in [`Work::Batch`].
pub const BATCH: usize = 32;

/// The requests of one submission in [`Work::UringBatch`], and the messages of a burst in [`Work::UringMultishot`].
pub const URING_BATCH: usize = 64;

/// The longest message.
pub const LONGEST: usize = 4096;

/// The larger buffer of [`Work::Lease`].
pub const LARGE: usize = 1 << 20;

/// One line-up of transports.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is done.
    pub work: Work,
    /// Bytes of a message.
    pub len: usize,
}

/// The cases of `make bench-count`.
pub const CASES: [Case; 17] = [
    Case::new(Work::RoundTrip, 8),
    Case::new(Work::RoundTrip, 64),
    Case::new(Work::RoundTrip, 1024),
    Case::new(Work::RoundTrip, LONGEST),
    Case::new(Work::Queued, 64),
    Case::new(Work::Batch, 64),
    Case::new(Work::Call, 64),
    Case::new(Work::Semaphore, 0),
    Case::new(Work::Lock, 0),
    Case::new(Work::WakeOne(1), 8),
    Case::new(Work::WakeOne(1000), 8),
    Case::new(Work::Stream, 64),
    Case::new(Work::Lease { touched: false }, 64),
    Case::new(Work::Lease { touched: false }, LARGE),
    Case::new(Work::Lease { touched: true }, LARGE),
    Case::new(Work::UringBatch, 64),
    Case::new(Work::UringMultishot, 64),
];

/// What `make bench` has besides.
pub const MORE: [Case; 3] = [
    Case::new(Work::UringParked(1), 64),
    Case::new(Work::UringParked(100), 64),
    Case::new(Work::UringParked(10_000), 64),
];

impl Case {
    /// A case.
    pub const fn new(work: Work, len: usize) -> Self {
        Case { work, len }
    }

    /// Its name in the file.
    pub fn key(self) -> String {
        match self.work {
            Work::RoundTrip => format!("rtt_{}", self.len),
            Work::Queued => format!("queued_{}", self.len),
            Work::Batch => format!("batch{BATCH}_{}", self.len),
            Work::Call => format!("call_{}", self.len),
            Work::Semaphore => "sem_uncontended".into(),
            Work::Lock => "lock_uncontended".into(),
            Work::Stream => format!("ring_{}", self.len),
            Work::WakeOne(sleepers) => format!("wake_one_{sleepers}"),
            Work::Lease { touched } => {
                let size = match self.len {
                    LARGE => "1m".into(),
                    len => len.to_string(),
                };
                format!("lease_{size}{}", if touched { "_touched" } else { "" })
            }
            Work::UringBatch => format!("uring_batch{URING_BATCH}_{}", self.len),
            Work::UringMultishot => format!("uring_multishot_{}", self.len),
            Work::UringParked(count) => format!("uring_parked_{count}"),
        }
    }

    /// What it is, for people.
    pub fn title(self) -> String {
        match self.work {
            Work::RoundTrip => format!("round trip of {} bytes between two processes", self.len),
            Work::Queued => format!("send and receive of {} bytes, nobody sleeps", self.len),
            Work::Batch => format!(
                "one message of {} bytes, {BATCH} in a call, nobody sleeps",
                self.len
            ),
            Work::Call => format!(
                "request of {} bytes to another process and a reply of as many",
                self.len
            ),
            Work::Semaphore => "semaphore acquired and released, nobody waits".into(),
            Work::Lock => "robust lock in shared memory taken and given up, nobody waits".into(),
            Work::Stream => format!(
                "one of many records of {} bytes that stream to another process",
                self.len
            ),
            Work::WakeOne(sleepers) => {
                format!("the call that wakes one of {sleepers} sleeping threads with a message")
            }
            Work::Lease { touched } => format!(
                "a buffer of {} bytes to another process and back{}",
                self.len,
                if touched {
                    ", written and read by both"
                } else {
                    ""
                }
            ),
            Work::UringBatch => format!(
                "send and receive of {} bytes, {URING_BATCH} in a submission, nobody sleeps",
                self.len
            ),
            Work::UringMultishot => format!(
                "what a receiver does for one message of {} bytes, which come {URING_BATCH} at once",
                self.len
            ),
            Work::UringParked(count) => format!(
                "a message of {} bytes to one of {count} mailboxes, whose receives are outstanding in one ring",
                self.len
            ),
        }
    }

    /// Bytes that the kernel copies for one of it, whatever carries them: in and out again, each way. (Of a buffer, only
    /// what pipes and sockets carry.)
    pub fn copied(self) -> usize {
        match self.work {
            Work::RoundTrip | Work::Call | Work::Lease { .. } => 4 * self.len,
            Work::WakeOne(_) | Work::UringMultishot => self.len,
            Work::Queued | Work::Batch | Work::Stream | Work::UringBatch | Work::UringParked(_) => {
                2 * self.len
            }
            Work::Semaphore | Work::Lock => 0,
        }
    }

    /// Who can do it.
    pub fn transports(self) -> &'static [Transport] {
        use Transport::*;
        match self {
            Case {
                work: Work::Batch, ..
            } => &[Postbox, Seqpacket],
            Case {
                work: Work::Call, ..
            } => &[Postbox, PostboxCrate, Pipe, Mq, Seqpacket, Eventfd],
            Case {
                work: Work::Semaphore,
                ..
            } => &[Postbox, PostboxCrate, Futex],
            Case {
                work: Work::Stream, ..
            } => &[Postbox, Pipe],
            Case {
                work: Work::Lock, ..
            } => &[Postbox, Futex],
            Case {
                work: Work::WakeOne(_),
                ..
            } => &[Postbox, PostboxIoctl, Pipe, Mq],
            Case {
                work: Work::Lease { .. },
                ..
            } => &[Postbox, PostboxCrate, Pipe, Seqpacket, MemfdEventfd],
            Case {
                work: Work::Queued, ..
            } => &[Postbox, PostboxIoctl, PostboxCrate, Pipe, Seqpacket, Mq],
            Case {
                work: Work::UringBatch,
                ..
            } => &[
                Postbox,
                Ioctl,
                Uds,
                PostboxCrate,
                UringArgs,
                UringBuffers,
                UringWrite,
                UringSingle,
                UringCommand,
                UringPlain,
                UdsStream,
                UdsPlain,
            ],
            Case {
                work: Work::UringMultishot,
                ..
            } => &[
                Postbox,
                Epoll,
                PostboxCrate,
                EpollRead,
                EpollDrain,
                EpollDrainRead,
            ],
            Case {
                work: Work::UringParked(_),
                ..
            } => &[Postbox, PostboxCrate, Uds],
            Case { len: 8, .. } => &[
                Postbox,
                PostboxIoctl,
                PostboxCrate,
                Pipe,
                Seqpacket,
                Mq,
                Eventfd,
            ],
            _ => &[Postbox, PostboxIoctl, PostboxCrate, Pipe, Seqpacket, Mq],
        }
    }
}
