//! Helpers for the test programs that run in the VM.
