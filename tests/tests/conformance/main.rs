//! A test for each thing that the module promises of mailboxes, named after the guarantee (g01 to g12) that it is about.

mod acknowledged;
mod barriers;
mod copying;
mod delivery;
mod ends;
mod identity;
mod latches;
mod library;
mod objects;
mod permissions;
mod polling;

mod calls;
mod rendezvous;
mod reports;
mod reservations;
mod semaphores;
mod typed;
mod waiting;
