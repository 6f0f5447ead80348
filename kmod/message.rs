// SPDX-License-Identifier: GPL-2.0
//! A message: its payload, who sent it, and what it is charged to.

use crate::{
    helpers::Identity,
    queue::{self, Linked, Links, Node},
    quota::Charge,
    wait::WaiterPtr,
};
use core::ptr::NonNull;
use kernel::{
    alloc::{flags::__GFP_NOWARN, Flags},
    iov::IovIterSource,
    prelude::*,
    uaccess::UserSliceReader,
};

/// Payloads up to this size need no allocation of their own: with it a message fills one of 256
/// bytes.
const INLINE: usize = 112;

/// Where payloads come from.
pub(crate) trait Source {
    /// The next `out.len()` bytes.
    fn read(&mut self, out: &mut [u8]) -> Result;

    /// All `len` bytes, as an allocation of their own.
    fn read_vec(&mut self, len: usize) -> Result<KVVec<u8>>;
}

impl Source for UserSliceReader {
    fn read(&mut self, out: &mut [u8]) -> Result {
        self.read_slice(out)
    }

    fn read_vec(&mut self, len: usize) -> Result<KVVec<u8>> {
        let mut bytes = KVVec::with_capacity(len, payload_flags())?;
        self.clone_reader().read_all(&mut bytes, payload_flags())?;
        Ok(bytes)
    }
}

impl Source for IovIterSource<'_> {
    fn read(&mut self, out: &mut [u8]) -> Result {
        if self.copy_from_iter(out) != out.len() {
            return Err(EFAULT);
        }
        Ok(())
    }

    fn read_vec(&mut self, len: usize) -> Result<KVVec<u8>> {
        let mut bytes = KVVec::new();
        if self.copy_from_iter_vec(&mut bytes, payload_flags())? != len {
            return Err(EFAULT);
        }
        Ok(bytes)
    }
}

/// That a large payload cannot be had is for the sender to know, not for the kernel log.
fn payload_flags() -> Flags {
    GFP_KERNEL_ACCOUNT | __GFP_NOWARN
}

enum Body {
    Inline([u8; INLINE]),
    Separate(KVVec<u8>),
}

/// A message, from the send on until it is received for good.
pub(crate) struct Message {
    node: Node<KBox<Message>>,
    len: usize,
    body: Body,
    sender: Identity,
    _charge: Charge,
}

impl Message {
    /// A message of `len` bytes with a payload that `fill` writes.
    pub(crate) fn new(
        priority: u16,
        len: usize,
        charge: Charge,
        source: &mut impl Source,
    ) -> Result<KBox<Self>> {
        let body = if len <= INLINE {
            let mut bytes = [0; INLINE];
            source.read(bytes.get_mut(..len).ok_or(EINVAL)?)?;
            Body::Inline(bytes)
        } else {
            Body::Separate(source.read_vec(len)?)
        };
        Self::with(Node::new(priority, len as u64), len, body, charge)
    }

    /// What waits in the place of a reservation.
    pub(crate) fn stand_in(len: u64) -> Result<KBox<Self>> {
        let body = Body::Inline([0; INLINE]);
        Self::with(Node::reservation(len), 0, body, Charge::none())
    }

    fn with(node: Node<KBox<Self>>, len: usize, body: Body, charge: Charge) -> Result<KBox<Self>> {
        let sender = Identity::current();
        Ok(KBox::new(
            Self {
                node,
                len,
                body,
                sender,
                _charge: charge,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// The payload.
    pub(crate) fn payload(&self) -> &[u8] {
        match &self.body {
            Body::Inline(bytes) => bytes.get(..self.len).unwrap_or_default(),
            Body::Separate(bytes) => bytes,
        }
    }

    /// Who sent it.
    pub(crate) fn sender(&self) -> &Identity {
        &self.sender
    }

    /// The part that the queue looks at.
    pub(crate) fn node(&self) -> &Node<KBox<Self>> {
        &self.node
    }
}

impl Linked for Message {
    fn links(&self) -> &Links<Self> {
        self.node.links()
    }
}

impl queue::Entry for Message {
    type Message = KBox<Self>;

    fn node(&self) -> &Node<KBox<Self>> {
        &self.node
    }
}

// SAFETY: A box keeps its content in place, and `from_raw` undoes `into_raw`.
unsafe impl queue::Owner for KBox<Message> {
    type Target = Message;

    fn into_raw(self) -> NonNull<Message> {
        // SAFETY: A box does not point to null.
        unsafe { NonNull::new_unchecked(KBox::into_raw(self)) }
    }

    unsafe fn from_raw(raw: NonNull<Message>) -> Self {
        // SAFETY: By the contract it comes from `into_raw`.
        unsafe { KBox::from_raw(raw.as_ptr()) }
    }
}

impl queue::Message for KBox<Message> {
    type Entry = Message;
    type Sender = WaiterPtr;

    fn entry(&self) -> &Message {
        self
    }
}
