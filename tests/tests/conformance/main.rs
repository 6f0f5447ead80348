//! A test for each thing that the module promises of mailboxes, named after the guarantee (g01 to g12) that it is about.

mod acknowledged;
mod copying;
mod delivery;
mod ends;
mod identity;
mod library;
mod objects;
mod permissions;
mod polling;

mod rendezvous;
mod reports;
mod reservations;
mod waiting;
