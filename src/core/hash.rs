//! Keyed hashing: a container chooses MAC addresses, IP addresses and ports, and could time us; with a secret key it
//! cannot aim at one bucket (X14). SipHash-1-3, as the kernel does for its own tables.

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// Builds hashers with one secret key.
#[derive(Clone)]
pub struct Keyed {
    hasher: SipHasher13,
}

impl Keyed {
    /// `key`: 16 random bytes.
    pub fn new(key: [u8; 16]) -> Keyed {
        Keyed { hasher: SipHasher13::new_with_key(&key) }
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    #[inline]
    fn build_hasher(&self) -> SipHasher13 {
        self.hasher
    }
}

/// Numbers that cannot be guessed without the key, and come out the same for the same key: a SipHash of a counter.
pub struct Random {
    hasher: SipHasher13,
    counter: u64,
}

impl Random {
    /// `key`: 16 random bytes.
    pub fn new(key: [u8; 16]) -> Random {
        Random { hasher: SipHasher13::new_with_key(&key), counter: 0 }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.counter += 1;
        self.hasher.hash(&self.counter.to_le_bytes())
    }

    /// Sixteen bytes: a key.
    pub fn next_key(&mut self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.next_u64().to_le_bytes());
        key[8..].copy_from_slice(&self.next_u64().to_le_bytes());
        key
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(bound)) >> 32) as u32 // below `bound` by construction
    }
}
