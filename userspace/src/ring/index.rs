//! Where records are: pure arithmetic on numbers of which some were written by a peer.
//!
//! A position counts units of eight bytes, and runs on through 32 bits: the largest ring has far
//! fewer. What has been written and not yet released is from the head up to the tail.

/// Bytes of a unit, and of a record's header.
pub(crate) const UNIT: usize = 8;

/// The largest ring, in bytes. Positions wrap around 64 times as far.
pub(crate) const LARGEST: u64 = 1 << 30;

/// The smallest ring, in bytes.
pub(crate) const SMALLEST: u64 = if cfg!(loom) { 32 } else { 4096 };

/// Records of so many bytes, and of fewer, are not too long for any ring.
pub(crate) const USUAL: usize = match Geometry::new(SMALLEST) {
    Some(smallest) => smallest.longest() as usize,
    None => 0,
};

/// Records of more bytes than this are large.
pub(crate) const LARGE: u32 = 4096;

/// Units behind a large record that stay empty, so that the headers of records of equal size are not
/// all in lines of one set of a cache, where they would drive each other out.
const SKEW: u32 = 40;

/// Units of a record, with its header.
pub(crate) const fn units(len: u32) -> u32 {
    1 + len.div_ceil(UNIT as u32) + if len > LARGE { SKEW } else { 0 }
}

/// The same of one that is not large.
#[inline(always)]
pub(crate) const fn small_units(len: u32) -> u32 {
    (len + (2 * UNIT as u32 - 1)) / UNIT as u32
}

/// The size of a ring: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// The last of its units.
    last: u32,
}

impl Geometry {
    /// Of a ring of so many bytes; `None`: there is none.
    pub(crate) const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= SMALLEST && bytes <= LARGEST {
            Some(Geometry {
                last: (bytes / UNIT as u64) as u32 - 1,
            })
        } else {
            None
        }
    }

    /// How many units it has.
    pub(crate) const fn units(self) -> u32 {
        self.last + 1
    }

    /// How many bytes it has.
    pub(crate) const fn bytes(self) -> usize {
        self.units() as usize * UNIT
    }

    /// Half of it. Where so much is free there is room for any record.
    pub(crate) const fn half(self) -> u32 {
        self.units() / 2
    }

    /// Bytes of the longest record.
    pub(crate) const fn longest(self) -> u32 {
        let small = (self.half() - 1) * UNIT as u32;
        if small > LARGE {
            small - SKEW * UNIT as u32
        } else {
            small
        }
    }

    /// The unit that a position is in.
    pub(crate) const fn at(self, position: u32) -> usize {
        (position & self.last) as usize
    }

    /// Units from the head to the tail; `None`: that cannot be.
    pub(crate) const fn used(self, head: u32, tail: u32) -> Option<u32> {
        let used = tail.wrapping_sub(head);
        if used <= self.units() {
            Some(used)
        } else {
            None
        }
    }

    /// Units from the tail to the head; `None`: that cannot be.
    #[inline]
    pub(crate) const fn free(self, head: u32, tail: u32) -> Option<u32> {
        self.units().checked_sub(tail.wrapping_sub(head))
    }
}

/// The tail as producers publish it: where it is, and beside it, of a single producer, how long the last
/// record before it is (one that came alone need not be looked at to know where it ends); of many, the
/// head as it was known at the last reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) position: u32,
    pub(crate) last: u32,
}

impl Tail {
    pub(crate) const fn unpack(word: u64) -> Self {
        Tail {
            position: word as u32,
            last: (word >> 32) as u32,
        }
    }

    pub(crate) const fn pack(self) -> u64 {
        self.position as u64 | (self.last as u64) << 32
    }

    /// The units of the last record, if it says how long it is and can be: where there are so many up
    /// to here, it is the only one.
    pub(crate) const fn alone(self, geometry: Geometry) -> u32 {
        // A record of no bytes is as good as nothing said; its header is looked at.
        if self.last != 0 && self.last <= geometry.longest() {
            units(self.last)
        } else {
            0
        }
    }
}

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// It is still being written by the producer of that number.
    Busy { len: u32, owner: u32 },
    /// It is there.
    Committed { len: u32 },
    /// It is not to be.
    Aborted { len: u32 },
}

impl Header {
    const BUSY: u64 = 1;
    const COMMITTED: u64 = 2;
    const ABORTED: u64 = 3;
    const OWNER: u32 = (1 << 30) - 1;

    /// `None`: a peer wrote what no record begins with.
    pub(crate) const fn unpack(word: u64) -> Option<Self> {
        let len = word as u32;
        let owner = (word >> 32) as u32 & Self::OWNER;
        match word >> 62 {
            Self::BUSY => Some(Header::Busy { len, owner }),
            Self::COMMITTED if owner == 0 => Some(Header::Committed { len }),
            Self::ABORTED if owner == 0 => Some(Header::Aborted { len }),
            _ => None,
        }
    }

    /// The length of a record that is there and not large: the usual case.
    #[inline(always)]
    pub(crate) const fn small(word: u64) -> Option<u32> {
        let len = word ^ (Self::COMMITTED << 62);
        if len <= LARGE as u64 {
            Some(len as u32)
        } else {
            None
        }
    }

    pub(crate) const fn pack(self) -> u64 {
        match self {
            Header::Busy { len, owner } => {
                Self::BUSY << 62 | ((owner & Self::OWNER) as u64) << 32 | len as u64
            }
            Header::Committed { len } => Self::COMMITTED << 62 | len as u64,
            Header::Aborted { len } => Self::ABORTED << 62 | len as u64,
        }
    }
}

/// Units of a record that says that it has `len` bytes, where at most `used` are there; `None`: a
/// peer says what cannot be.
pub(crate) const fn checked(len: u32, used: u32) -> Option<u32> {
    if len as u64 > LARGEST {
        return None;
    }
    let units = units(len);
    if units <= used { Some(units) } else { None }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_powers_of_two_in_range() {
        for bytes in [0, 1, 2048, 4095, 4097, LARGEST * 2, u64::MAX] {
            assert_eq!(Geometry::new(bytes), None, "{bytes}");
        }
        let ring = Geometry::new(4096).expect("a size");
        assert_eq!((ring.units(), ring.bytes(), ring.half()), (512, 4096, 256));
        assert_eq!(units(ring.longest()), ring.half());
        assert_eq!(units(ring.longest() + 1), ring.half() + 1);
        assert_eq!(ring.longest() as usize, USUAL);
        let largest = Geometry::new(LARGEST).expect("a size");
        assert_eq!(units(largest.longest()), largest.half());
        // The longest record and an empty one.
        assert_eq!((units(0), units(1), units(8), units(9)), (1, 2, 2, 3));
    }

    #[test]
    fn a_record_that_came_alone_is_told_from_several() {
        let ring = Geometry::new(4096).expect("a size");
        let alone = |last| Tail { position: 9, last }.alone(ring);
        assert_eq!(alone(60), units(60));
        assert_eq!(alone(0), 0);
        assert_eq!(alone(ring.longest()), ring.half());
        assert_eq!(alone(ring.longest() + 1), 0, "it cannot be");
        assert_eq!(alone(u32::MAX), 0);
    }

    #[test]
    fn small_records_are_told_by_their_header_alone() {
        let small = |header: Header| Header::small(header.pack());
        for len in [0, 1, 7, 8, 9, LARGE - 1, LARGE] {
            assert_eq!(small(Header::Committed { len }), Some(len));
            assert_eq!(small_units(len), units(len));
            assert_eq!(small(Header::Aborted { len }), None);
            assert_eq!(small(Header::Busy { len, owner: 1 }), None);
        }
        assert_eq!(small(Header::Committed { len: LARGE + 1 }), None);
        assert_eq!(Header::small(0), None);
        // A number that is not to be there.
        let header = Header::Committed { len: 1 };
        assert_eq!(Header::small(header.pack() | 1 << 32), None);
    }

    fn any_ring() -> impl Strategy<Value = Geometry> {
        (12u32..=30).prop_map(|shift| Geometry::new(1 << shift).expect("a size"))
    }

    proptest! {
        /// Whatever peers write, nothing is found outside of the ring, and nothing overflows.
        #[test]
        fn hostile_numbers_lead_nowhere(
            ring in any_ring(), head: u32, tail: u64, header: u64,
        ) {
            let tail = Tail::unpack(tail);
            prop_assert_eq!(Tail::unpack(tail.pack()), tail);
            prop_assert!(ring.at(head) < ring.units() as usize);
            let Some(used) = ring.used(head, tail.position) else { return Ok(()) };
            prop_assert!(used <= ring.units());
            if used != 0 && tail.alone(ring) == used {
                prop_assert_eq!(checked(tail.last, used), Some(used));
            }
            if let Some(len) = Header::small(header) {
                prop_assert_eq!(Header::unpack(header), Some(Header::Committed { len }));
            }
            let Some(header) = Header::unpack(header) else { return Ok(()) };
            prop_assert_eq!(Header::unpack(header.pack()), Some(header));
            let (Header::Busy { len, .. } | Header::Committed { len } | Header::Aborted { len }) =
                header;
            if let Some(units) = checked(len, used) {
                // What is read begins in the ring, and ends before the second copy of it does.
                prop_assert!(units >= 1 && units <= ring.units());
                let first = ring.at(head) + 1;
                prop_assert!(first * UNIT + len as usize <= 2 * ring.bytes());
            }
        }

        /// Honest records, through every wrap of the positions.
        #[test]
        fn honest_records_are_found_again(
            ring in any_ring(), start: u32, lens in prop::collection::vec(0u32..5000, 1..50),
        ) {
            let (mut head, mut tail) = (start, start);
            let mut inside = std::collections::VecDeque::new();
            for len in lens {
                let len = len.min(ring.longest());
                while ring.units() - ring.used(head, tail).expect("honest") < units(len) {
                    let len: u32 = inside.pop_front().expect("it is full of something");
                    let used = ring.used(head, tail).expect("honest");
                    let step = checked(len, used).expect("honest");
                    head = head.wrapping_add(step);
                }
                inside.push_back(len);
                tail = tail.wrapping_add(units(len));
                let used = ring.used(head, tail).expect("honest");
                let alone = Tail { position: tail, last: len }.alone(ring) == used;
                prop_assert_eq!(alone, inside.len() == 1 && len != 0);
            }
        }

        #[test]
        fn headers_say_what_was_packed(len: u32, owner in 1u32..1 << 30) {
            for header in [
                Header::Busy { len, owner }, Header::Committed { len }, Header::Aborted { len },
            ] {
                prop_assert_eq!(Header::unpack(header.pack()), Some(header));
            }
        }
    }
}
