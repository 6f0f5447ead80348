//! Death: what a process took comes back when it dies, however it took it.
