// SPDX-License-Identifier: GPL-2.0
//! The ring: who is at its two sides, when it is over, and what the numbers mean that processes
//! write.
//!
//! Positions count units of eight bytes and run on through 32 bits. What a process wrote was loaded
//! once before it comes here; where it makes no sense, nobody is let sleep.

/// Bytes of a unit, and of a record's header.
pub const RING_UNIT: u64 = 8;

/// The most producers of one ring: a power of two, which the number of one leaves that many bits.
pub const RING_PRODUCERS: usize = 64;

/// What has happened to a ring, as the header has it.
pub mod ended {
    /// The last producer has left.
    pub const PRODUCER_CLOSED: u32 = 1 << 0;
    /// It exited without having done so.
    pub const PRODUCER_DIED: u32 = 1 << 1;
    /// The consumer has left.
    pub const CONSUMER_CLOSED: u32 = 1 << 2;
    /// It exited without having done so.
    pub const CONSUMER_DIED: u32 = 1 << 3;
    /// Either of the producers'.
    pub const PRODUCER: u32 = PRODUCER_CLOSED | PRODUCER_DIED;
    /// Either of the consumer's.
    pub const CONSUMER: u32 = CONSUMER_CLOSED | CONSUMER_DIED;
}

/// A side of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingSide {
    /// The one that receives.
    Consumer,
    /// The one that sends; of many, each.
    Producer,
}

/// Units from the head to the tail of a ring of so many, a power of two; `None`: that cannot be.
pub fn ring_used(units: u32, head: u32, tail: u32) -> Option<u32> {
    Some(tail.wrapping_sub(head)).filter(|used| *used <= units)
}

/// Whether half of the ring is free, which is room for any record.
pub fn ring_has_room(units: u32, head: u32, tail: u32) -> bool {
    ring_used(units, head, tail).is_none_or(|used| used <= units / 2)
}

/// The offset in the data of the unit that a position is in.
pub fn ring_offset(units: u32, position: u32) -> u64 {
    u64::from(position & units.wrapping_sub(1)) * RING_UNIT
}

/// The producer that a header says is still at its record.
pub fn ring_busy(header: u64) -> Option<u32> {
    const BUSY: u64 = 1;
    (header >> 62 == BUSY).then_some((header >> 32) as u32 & ((1 << 30) - 1))
}

/// Whether whoever has these rights may write to all of so many pages, of which the first is the
/// status, the second the consumer's, and all others are producers'.
pub fn ring_writable(first: u64, pages: u64, sends: bool, receives: bool) -> bool {
    match first {
        0 => false,
        1 => receives && (pages == 1 || sends),
        _ => sends,
    }
}

/// Why somebody cannot become what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingRefusal {
    /// Its place is taken.
    Taken,
    /// The ring is over.
    Over,
}

/// How somebody leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingLeave {
    /// As if it had never come.
    Undone,
    /// It said so, or closed its handle.
    Closed,
    /// It exited.
    Died,
}

/// Who is at a ring.
pub struct RingParties {
    many: bool,
    persistent: bool,
    senders: u32,
    receivers: u32,
    consumer: bool,
    /// Their numbers, each at the place that its lower bits say; 0: nobody.
    producers: [u32; RING_PRODUCERS],
    attached: u32,
    /// Counts those who came, for their numbers.
    came: u32,
    state: u32,
}

impl RingParties {
    /// Nobody.
    pub const fn new(many: bool, persistent: bool) -> Self {
        Self {
            many,
            persistent,
            senders: 0,
            receivers: 0,
            consumer: false,
            producers: [0; RING_PRODUCERS],
            attached: 0,
            came: 0,
            state: 0,
        }
    }

    /// Whether there may be many producers.
    pub fn many(&self) -> bool {
        self.many
    }

    /// What has happened: [`ended`].
    pub fn state(&self) -> u32 {
        self.state
    }

    /// Handles that may send, and that may receive.
    pub fn handles(&self) -> (u32, u32) {
        (self.senders, self.receivers)
    }

    /// How many producers are there, and whether the consumer is.
    pub fn attached(&self) -> (u32, bool) {
        (self.attached, self.consumer)
    }

    /// The number at a place.
    pub fn producer(&self, place: usize) -> u32 {
        self.producers.get(place).copied().unwrap_or(0)
    }

    /// The place of a number.
    pub fn place(number: u32) -> usize {
        number as usize % RING_PRODUCERS
    }

    /// Whether a producer of that number is there.
    pub fn alive(&self, number: u32) -> bool {
        number != 0 && self.producer(Self::place(number)) == number
    }

    /// A handle was bound.
    pub fn open(&mut self, sends: bool, receives: bool) {
        self.senders = self.senders.saturating_add(sends.into());
        self.receivers = self.receivers.saturating_add(receives.into());
    }

    /// A handle is gone. What has attached through it has left before.
    pub fn close(&mut self, sends: bool, receives: bool) {
        self.senders = self.senders.saturating_sub(sends.into());
        self.receivers = self.receivers.saturating_sub(receives.into());
        if sends && self.senders == 0 {
            self.end(ended::PRODUCER, ended::PRODUCER_CLOSED);
        }
        if receives && self.receivers == 0 {
            self.end(ended::CONSUMER, ended::CONSUMER_CLOSED);
        }
    }

    /// Nobody comes any more: a side without handles, now or later, has ended. What has `senders` or
    /// `receivers` has handles of that side, which may not be open yet.
    pub fn orphan(&mut self, senders: bool, receivers: bool) {
        self.persistent = false;
        if !senders {
            self.end(ended::PRODUCER, ended::PRODUCER_CLOSED);
        }
        if !receivers {
            self.end(ended::CONSUMER, ended::CONSUMER_CLOSED);
        }
    }

    /// What ends a side, unless that has ended already.
    fn end(&mut self, side: u32, how: u32) {
        if !self.persistent && self.state & side == 0 {
            self.state |= how;
        }
    }

    /// Somebody becomes the consumer.
    pub fn attach_consumer(&mut self) -> Result<(), RingRefusal> {
        // What producers left behind can be received after they went.
        if self.state & ended::CONSUMER != 0 {
            return Err(RingRefusal::Over);
        }
        if self.consumer {
            return Err(RingRefusal::Taken);
        }
        self.consumer = true;
        Ok(())
    }

    /// Somebody becomes a producer, and gets a number.
    pub fn attach_producer(&mut self) -> Result<u32, RingRefusal> {
        if self.state != 0 {
            return Err(RingRefusal::Over);
        }
        let places = if self.many { RING_PRODUCERS } else { 1 };
        let places = self.producers.get_mut(..places).unwrap_or_default();
        let free = places.iter_mut().enumerate().find(|(_, id)| **id == 0);
        let (place, free) = free.ok_or(RingRefusal::Taken)?;
        // Numbers have 30 bits, and none is 0.
        const CAME: u32 = (1 << 30) / RING_PRODUCERS as u32 - 1;
        self.came = self.came % CAME + 1;
        *free = self.came * RING_PRODUCERS as u32 + place as u32;
        self.attached += 1;
        Ok(*free)
    }

    /// The consumer leaves.
    pub fn detach_consumer(&mut self, how: RingLeave) {
        self.consumer = false;
        match how {
            RingLeave::Undone => {}
            RingLeave::Closed => self.end(ended::CONSUMER, ended::CONSUMER_CLOSED),
            RingLeave::Died => self.end(ended::CONSUMER, ended::CONSUMER_DIED),
        }
    }

    /// A producer leaves.
    pub fn detach_producer(&mut self, number: u32, how: RingLeave) {
        if !self.alive(number) {
            return;
        }
        if let Some(place) = self.producers.get_mut(Self::place(number)) {
            *place = 0;
        }
        self.attached -= 1;
        match how {
            _ if self.attached > 0 => {}
            RingLeave::Undone => {}
            RingLeave::Closed => self.end(ended::PRODUCER, ended::PRODUCER_CLOSED),
            RingLeave::Died => self.end(ended::PRODUCER, ended::PRODUCER_DIED),
        }
    }

    /// Whether the other side of this one has ended.
    pub fn ended_for(&self, side: RingSide) -> bool {
        let other = match side {
            RingSide::Consumer => ended::PRODUCER,
            RingSide::Producer => ended::CONSUMER,
        };
        self.state & other != 0
    }
}
