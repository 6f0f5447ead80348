//! Lifetimes: a name, port or endpoint goes with the side that serves it; nothing outlives its namespace.
