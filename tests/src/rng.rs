//! Seeded random numbers, so that a failing run can be repeated.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64: small, fast, and good enough to choose test cases.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// A generator seeded from `POSTBOX_SEED` (decimal, or hexadecimal after `0x`), or from the clock. The seed is
    /// printed with `what` so that the run can be repeated.
    pub fn from_env(what: &str) -> Self {
        let seed = seed();
        crate::tell(&format!(
            "{what}: seed {seed:#x} (POSTBOX_SEED={seed:#x} repeats it)"
        ));
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "no number is below zero");
        self.word() % n
    }

    /// True in one case of `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Random bytes.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let word = self.word().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    /// A generator of its own, for a child process or thread.
    pub fn split(&mut self) -> Rng {
        Rng(self.word())
    }
}

/// The seed of this run: `POSTBOX_SEED`, or the clock.
pub fn seed() -> u64 {
    match std::env::var("POSTBOX_SEED") {
        Ok(text) => {
            let parsed = match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16),
                None => text.parse(),
            };
            parsed.unwrap_or_else(|e| {
                panic!("POSTBOX_SEED={text} is not a number ({e}); give it in decimal or as 0x...")
            })
        }
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |d| d.as_nanos() as u64),
    }
}
