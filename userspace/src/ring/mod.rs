//! Channels in shared memory.

mod core;
mod index;

// What loom tests is the ring itself.
#[cfg(not(loom))]
mod bell;
#[cfg(not(loom))]
mod ends;
#[cfg(not(loom))]
mod memory;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(not(loom))]
pub use self::{
    bell::{FutexDoorbell, KernelDoorbell},
    core::{Doorbell, RingCalls, Side as RingSide},
    ends::{
        BatchRecord, Consumer, LocalPair, Producer, Record, Records, RecvBatch, Ring, RingEnd,
        RingOptions, RingReceiver, RingReceiving, RingSender, RingSending, SendBatch, Slot,
    },
};
