//! Waiting: a waiter that does not run holds nobody else up, and every waiter learns of the end.
