//! Interprocess communication for Linux with the kernel as referee.
//!
//! The kernel module `postbox.ko` provides `/dev/postbox`; this crate makes its objects pleasant to
//! use. An object lives exactly as long as its open handles (or until its name is removed, if it is
//! persistent), the kernel says who sent a message, wakes whoever waits when a peer dies, and takes
//! back what a dead process held.
//!
//! A [`Mailbox`] is a message queue of the kernel: many senders, many receivers, each message to
//! exactly one of them, by priority and then in order.
//!
//! ```
//! use postbox::{Mailbox, Sender};
//!
//! # fn main() -> postbox::Result<()> {
//! # if !std::fs::exists(postbox::DEVICE).unwrap_or(false) { return Ok(()); } // no module here
//! // One process makes it and receives ...
//! let jobs = Mailbox::options().create(true).open_receiver("doc/jobs")?;
//! // ... another one sends ...
//! Sender::open("doc/jobs")?.send("build")?;
//! // ... and who receives knows who it was.
//! let job = jobs.recv()?;
//! assert_eq!(&*job, b"build");
//! println!("from process {} of user {}", job.sender.pid, job.sender.uid);
//! # Ok(())
//! # }
//! ```
//!
//! # The objects
//!
//! | object | what it is |
//! |---|---|
//! | [`Mailbox`] | a queue of messages: many senders, many receivers |
//! | [`Link`], [`Listener`], [`Port`] | a connection of two: made as a pair, by name, or where two processes meet |
//! | [`Endpoint`] | the mailbox of a process, addressed by its number |
//! | [`Pipe`] | a stream of bytes |
//! | [`Ring`] | a channel in shared memory, without system calls while both sides are busy |
//! | [`Semaphore`], [`Latch`], [`Barrier`] | what processes wait for |
//! | [`Segment`] | memory that several processes have mapped |
//! | [`Pool`] | buffers of shared memory that travel in messages without a copy |
//!
//! # What to use for what
//!
//! | you want | use |
//! |---|---|
//! | a sender that waits for a slow receiver | [`Capacity::Bounded`], [`send`](Handle::send) |
//! | never to wait | [`try_send`](Handle::try_send), [`try_recv`](Handle::try_recv), or [`Capacity::Unbounded`] |
//! | to meet: a send that returns when the other side has it | [`Capacity::Rendezvous`] |
//! | to wait, but not for ever | [`send_timeout`](Handle::send_timeout), [`recv_deadline`](Handle::recv_deadline) and the like |
//! | work that survives the death of a worker | [`take`](Handle::take), [`Delivery::ack`] |
//! | to be sure of room before the work is done | [`reserve`](Handle::reserve), [`Permit::send`] |
//! | an answer | [`call`](Handle::call); [`serve`](Handle::serve) or [`recv_request`](Handle::recv_request) |
//! | to pass on files, or rights to objects | [`Parcel`], [`Message::files`] |
//! | large messages without a copy | [`Pool::loan`], [`send_buffer`](Handle::send_buffer), [`recv_buffers`](Handle::recv_buffers) |
//! | many small messages | [`send_many`](Handle::send_many), [`recv_many`](Handle::recv_many) |
//! | an event loop | [`set_nonblocking`](Handle::set_nonblocking), [`AsFd`](std::os::fd::AsFd), [`ready`](Handle::ready) |
//! | to wait for several things at once | [`wait_any`], [`WaitSet`] |
//! | async code | [`aio`]; on tokio, [`tokio::Async`] |
//! | values instead of bytes | [`typed`] |
//!
//! # Waiting and interruption
//!
//! Whoever waits is woken when the peer is gone. A signal handler that runs meanwhile does not end a
//! wait, nor does it make a timeout longer: see [`Wait`].
//!
//! # Processes
//!
//! Every descriptor is close-on-exec. After a `fork`, parent and child share a handle: it is closed
//! when both have closed it, so a receiver does not see the end of the stream while a child still
//! has the sender.
//!
//! # Layers
//!
//! [`sys`] is the UAPI header in Rust, [`raw`] its requests one by one, with the kernel's error
//! numbers, and the rest of the crate the types above them.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `cli` (default) | the command `postbox`; a program that uses the library alone switches it off with `default-features = false` |
//! | `serde` | `Serialize` for [`Info`], [`Usage`], [`Version`] and [`Identity`] |
//! | `tokio` | handles whose calls are futures, on tokio: [`tokio`] |
//! | `futures` | `Stream`, `Sink`, `AsyncRead` and `AsyncWrite` for handles that are [async](aio) |
//! | `uring` | operations through io_uring: the module `uring`; with `tokio`, a runtime of it can drive them |
//! | `zerocopy` | values as they are in memory: [`typed::InPlace`], [`Message::view`] |
//! | `postcard` | values that serde can encode: [`typed::Postcard`]; with it, `serde` |
//!
//! Handles that are async on other runtimes, and typed channels with an encoding of one's own, need
//! no feature: [`aio`], [`typed`].

// Loom tests the parts of which it is built apart.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(loom))]
pub mod aio;
mod barrier;
mod call;
mod endpoint;
mod error;
mod grant;
mod handle;
mod info;
mod latch;
mod link;
mod listener;
mod many;
mod memory;
mod object;
mod parcel;
mod pipe;
mod pool;
mod process;
pub mod raw;
mod recv;
mod ring;
mod robust;
#[cfg(not(loom))]
mod segment;
mod semaphore;
mod send;
mod sync;
pub mod sys;
#[cfg(all(feature = "tokio", not(loom)))]
pub mod tokio;
mod trust;
#[cfg(not(loom))]
pub mod typed;
#[cfg(all(feature = "uring", not(loom)))]
pub mod uring;
mod wait;

pub use barrier::{Barrier, BarrierAccess, BarrierOptions, BarrierWaitResult, Member};
pub use call::Request;
pub use endpoint::{Endpoint, EndpointOptions, OwnEndpoint};
pub use error::{Error, ErrorKind, FromFdError, Result, SendError, SendManyError};
pub use grant::Grantee;
pub use handle::{
    Access, Admin, AdminOnly, Both, CanReceive, CanSend, Capacity, Handle, Mailbox, Options,
    ReceiveOnly, Receiver, Rights, SendOnly, Sender,
};
pub use info::{
    Info, List, Usage, Version, list, list_all, stat, unlink, unlink_id, usage, version,
};
pub use latch::{Latch, LatchAccess, LatchOptions, Participant};
pub use link::{Direction, Link, LinkEnd, LinkOptions, Port};
pub use listener::{Incoming, Listener, Listens};
pub use many::{Ready, WaitSet, wait_any};
pub use memory::Pages;
pub use object::Kind;
pub use parcel::Parcel;
pub use pipe::{Pipe, PipeEnd, PipeOptions, PipeReader, PipeReading, PipeWriter, PipeWriting};
pub use pool::{
    Buffer, Lends, Loan, Pool, PoolAccess, PoolHandle, PoolOptions, Shared, Shipment,
    ShipmentDelivery,
};
pub use raw::DEVICE;
pub use recv::{Delivery, Identity, IntoIter, Iter, Message, Process, Received};
#[cfg(not(loom))]
pub use ring::{
    BatchRecord, Consumer, Doorbell, FutexDoorbell, KernelDoorbell, LocalPair, Producer, Record,
    Records, RecvBatch, Ring, RingCalls, RingEnd, RingOptions, RingReceiver, RingReceiving,
    RingSender, RingSending, RingSide, SendBatch, Slot,
};
#[doc(no_inline)]
pub use rustix::event::PollFlags;
#[doc(no_inline)]
pub use rustix::io::Errno;
#[cfg(not(loom))]
pub use segment::{
    Frozen, Mapping, Mutex, MutexGuard, Segment, SegmentAccess, SegmentEnd, SegmentOptions,
    SegmentReader, SegmentReading, View,
};
pub use semaphore::{Guard, Semaphore, SemaphoreAccess, SemaphoreOptions};
pub use send::Permit;
#[doc(no_inline)]
pub use std::net::Shutdown;
pub use sync::{WaitObject, WaitObjectOptions};
pub use trust::{Copying, Trust, Trusting};
pub use wait::Wait;

/// The highest priority of a message.
pub const PRIORITY_MAX: u32 = sys::POSTBOX_PRIORITY_MAX;

/// The most bytes of a name.
pub const NAME_MAX: usize = sys::POSTBOX_NAME_MAX as usize;
