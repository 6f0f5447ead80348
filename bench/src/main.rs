//! Benchmarks of postbox against its peers.
fn main() {}
