//! Binding and closing: every operation against a concurrent OPEN, the last close, and an unbound handle.
