// SPDX-License-Identifier: GPL-2.0
//! postbox: interprocess communication with the kernel as referee.
//!
//! `chardev` is the only door; behind it, `registry` knows the objects by name, `mailbox` is one of
//! them, and `queue` decides what it delivers to whom. `unsafe` stays in what touches C: `chardev`,
//! `wait`, `helpers` and the boxes of `message`; and in the lists of `queue`, which are also tested
//! outside the kernel.
//!
//! Lock order: registry, users; mailbox, then handle state. The registry's lock may be held when a
//! mailbox's is taken. Nothing sleeps, allocates, frees, or touches user memory under the last two.

use kernel::prelude::*;

mod barrier;
mod chardev;
mod compat;
mod files;
mod handle;
mod helpers;
mod inspect;
mod latch;
mod link;
mod mailbox;
mod message;
mod object;
mod pipe;
// Also an ordinary crate, of which all of this is public.
#[allow(dead_code, unreachable_pub)]
mod queue;
mod quota;
mod registry;
mod request;
mod semaphore;
mod share;
#[allow(dead_code, missing_docs, non_camel_case_types, unreachable_pub)]
#[allow(clippy::undocumented_unsafe_blocks)] // Made by bindgen.
mod uapi;
mod wait;

module! {
    type: Postbox,
    name: "postbox",
    authors: ["The postbox developers"],
    description: "Interprocess communication with the kernel as referee",
    license: "GPL",
}

struct Postbox {
    _device: Pin<KBox<chardev::Device>>,
    _debugfs: Pin<KBox<inspect::Debugfs>>,
}

impl kernel::Module for Postbox {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let shared = handle::Shared::new()?;
        Ok(Self {
            _debugfs: KBox::try_pin_init(inspect::Debugfs::new(shared.clone()), GFP_KERNEL)?,
            _device: KBox::try_pin_init(chardev::Device::new(shared), GFP_KERNEL)?,
        })
    }
}
