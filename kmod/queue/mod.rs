//! Queue logic.
