// SPDX-License-Identifier: GPL-2.0
//! The queue logic of the postbox kernel module as an ordinary crate, so that proptest and Miri
//! can get at the very code that runs in the kernel.
#![no_std]

#[path = "mod.rs"]
mod queue;
pub use queue::*;
