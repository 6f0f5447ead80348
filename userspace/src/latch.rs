//! Latches.
