//! A test for each thing that the module promises, named after the guarantee (g01 to g12) that it is about.

mod acknowledged;
mod barriers;
mod calls;
mod copying;
mod delivery;
mod endpoints;
mod ends;
mod files;
mod identity;
mod latches;
mod library;
mod links;
mod many;
mod objects;
mod permissions;
mod pipes;
mod polling;
mod pools;
mod ports;
mod rendezvous;
mod reports;
mod reservations;
mod segments;
mod semaphores;
mod typed;
mod waiting;
