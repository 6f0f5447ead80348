// SPDX-License-Identifier: GPL-2.0
//! postbox: interprocess communication with the kernel as referee.
//!
//! `chardev` is the only door, and `request` decodes what comes through it; behind them, `registry`
//! knows the objects by name, port or process, `object` the kinds that there are, and `queue`
//! decides for each what is delivered to whom, and who goes on. `unsafe` stays in what touches C:
//! `chardev`, `uring`, `wait`, `mapping`, `helpers`, `files` and the boxes of `message`; in the calls of the lists of
//! `queue`, whose waiters are on other tasks' stacks; and in `queue` itself, which is also tested
//! outside the kernel.
//!
//! Lock order: registry; an object (mailbox, pipe, semaphore, latch, barrier), then what a handle
//! has of it. The registry's lock may be held when an object's is taken. The locks of users, of the
//! graph of queued handles and of events are taken alone. Nothing sleeps, allocates, frees, or
//! touches user memory under the spinlocks, which are all but those of registry, users and graph.

use kernel::prelude::*;

mod barrier;
mod chardev;
mod compat;
mod files;
mod grant;
mod handle;
mod helpers;
mod inspect;
mod latch;
mod link;
mod mailbox;
mod mapping;
mod message;
mod object;
mod pause;
mod pipe;
mod pool;
// Also an ordinary crate, of which all of this is public.
#[allow(dead_code, unreachable_pub)]
mod queue;
mod quota;
mod registry;
mod relay;
mod request;
mod ring;
mod segment;
mod semaphore;
mod share;
#[allow(dead_code, missing_docs, non_camel_case_types, unreachable_pub)]
#[allow(clippy::undocumented_unsafe_blocks)] // Made by bindgen.
mod uapi;
mod uring;
mod wait;
mod watch;

module! {
    type: Postbox,
    name: "postbox",
    authors: ["The postbox developers"],
    description: "Interprocess communication with the kernel as referee",
    license: "GPL",
}

struct Postbox {
    _device: Pin<KBox<chardev::Device>>,
    _debugfs: inspect::Debugfs,
    // Goes last.
    _works: watch::Works,
}

impl kernel::Module for Postbox {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let shared = handle::Shared::new()?;
        let works = watch::Works::new()?;
        Ok(Self {
            _debugfs: inspect::Debugfs::new(shared.clone()),
            _device: KBox::try_pin_init(chardev::Device::new(shared), GFP_KERNEL)?,
            _works: works,
        })
    }
}
