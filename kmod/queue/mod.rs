// SPDX-License-Identifier: GPL-2.0
//! The queue kinds: what is delivered to whom, and when.
//!
//! Pure logic. Nothing here allocates, waits, or knows a type of the kernel; it is compiled twice,
//! into the module and as an ordinary crate (`lib.rs`). Whoever calls it holds the object's lock;
//! what has to happen after the lock is dropped, a task to wake or a message to free, is returned.

mod barrier;
mod indexed;
mod latch;
mod list;
mod mailbox;
mod order;
mod pipe;
mod pool;
mod receivers;
mod ring;
mod semaphore;
mod tree;
mod words;

// The module has no need to name all of them.
#[allow(unused_imports)]
pub use barrier::{Arrival, Barrier};
#[allow(unused_imports)]
pub use latch::{Gate, GateWaiter, Latch};
#[allow(unused_imports)]
pub use list::{Linked, Links, List, Owner};
#[allow(unused_imports)]
pub use mailbox::{
    Admitted, Capacity, Commit, Counters, End, Entry, HandleState, Mailbox, Message, Node,
    ReceiveWaiter, Received, Reserving, Returned, Search, SendWaiter, Sending, Sent, Take,
    Withdrawn,
};
#[allow(unused_imports)]
pub use pipe::{Claim, Parts, Pipe, Region, Turn, TurnWaiter, Turns, PIPE_ATOMIC};
#[allow(unused_imports)]
pub use pool::{
    Block, Borrower, Flight, Flying, Holder, Lease, Pool, PoolCounters, Refusal, SHARES_MAX,
};
#[allow(unused_imports)]
pub use receivers::Seat;
#[allow(unused_imports)]
pub use ring::{
    ended, ring_busy, ring_has_room, ring_offset, ring_used, ring_writable, RingLeave, RingParties,
    RingRefusal, RingSide, RING_PRODUCERS, RING_UNIT,
};
#[allow(unused_imports)]
pub use semaphore::{Acquirer, Semaphore};
#[allow(unused_imports)]
pub use tree::Branches;
#[allow(unused_imports)]
pub use words::{WordWaiter, Words};
