//! Interprocess communication for Linux with the kernel as referee.
