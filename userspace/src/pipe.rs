//! Streams of bytes.
