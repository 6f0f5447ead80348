//! Ownership: a failed operation leaves nothing behind, whoever holds the message.
