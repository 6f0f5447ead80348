//! The attack suite: programs of an ordinary user, of root in a user namespace, and of a container, that try to break
//! the kernel, the promises of docs/security.md, or another user. One module a kind of fault; a finding of a review or
//! of a user becomes a test here.

mod authority;
mod binding;
mod bounded;
mod crate_api;
mod death;
mod lifetimes;
mod memory;
mod ownership;
mod quotas;
mod results;
mod waiting;
