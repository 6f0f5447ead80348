//! Counting semaphores.
