// SPDX-License-Identifier: GPL-2.0
//! Tests of the queue logic.

mod host;
mod mailbox;
mod model;
mod order;
