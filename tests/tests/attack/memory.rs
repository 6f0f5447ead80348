//! Memory rights: a reader never writes, shrinks, executes or loses a page.
