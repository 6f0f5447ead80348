//! Bounded work: no user chooses how long a lock is held or how long another user waits.
