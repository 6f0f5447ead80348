//! How much those who share memory trust each other with what is in it.

mod sealed {
    /// Types of which there are no values.
    pub trait Sealed: Send + Sync + Unpin + 'static {
        /// Whether nobody else accesses what one has reserved or received.
        const ALONE: bool;
    }
}

/// Whether a side trusts its peers with contents, of a pool's blocks or a ring's records:
/// [`Copying`] or [`Trusting`]. With everything else, such as indices and lengths, nobody trusts
/// anybody.
pub trait Trust: sealed::Sealed {}

/// The peers may write anything at any moment: bytes are copied in and out.
#[derive(Clone, Copy, Debug)]
pub enum Copying {}

/// The peers keep to the protocol: contents are slices. There is an `unsafe` call on the way to
/// this, which asserts it.
#[derive(Clone, Copy, Debug)]
pub enum Trusting {}

impl sealed::Sealed for Copying {
    const ALONE: bool = false;
}
impl sealed::Sealed for Trusting {
    const ALONE: bool = true;
}
impl Trust for Copying {}
impl Trust for Trusting {}
