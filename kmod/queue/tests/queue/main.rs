// SPDX-License-Identifier: GPL-2.0
//! Tests of the queue logic.

mod barrier;
mod host;
mod latch;
mod mailbox;
mod model;
mod order;
mod pipe;
mod pool;
mod ring;
mod semaphore;
mod task;
mod words;
