//! The Internet checksum: whole, and incrementally.
//!
//! # Theory of operation
//! The sum is one's complement addition of 16-bit words (RFC 1071). Three facts carry everything here:
//!
//! 1. Addition is associative and commutative, so it can run over 64-bit words and be folded at the end.
//! 2. Replacing word `m` by `m'` in summed data turns a checksum `HC` into `~(~HC + ~m + m')` (RFC 1624, eqn 3); a
//!    [`Delta`] collects the `~m + m'` part once and is applied to every checksum that covers the change.
//! 3. One's complement has two zeros. A *UDP* checksum of zero means "none" (RFC 768), so a computed zero is sent as
//!    0xffff, and a field that holds zero stays zero whatever changes.
//!
//! A *partial* checksum (virtio `NEEDS_CSUM`) holds the uncomplemented sum of the pseudo-header: address changes are
//! added to it as they are, port changes are none of its business.

use super::addr::Addr;

/// The folded one's complement sum of `bytes`, as a big-endian number; odd length is padded with a zero byte.
pub fn sum(bytes: &[u8]) -> u16 {
    // Native-endian words keep the loop free of swaps: a one's complement sum of swapped words is the swapped sum.
    let mut total: u64 = 0;
    let mut wide = bytes.chunks_exact(32);
    for chunk in &mut wide {
        let mut part: u64 = 0;
        for word in chunk.chunks_exact(4) {
            part += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
        total += part;
    }
    let mut words = wide.remainder().chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u16::from_be(fold(total))
}

/// Folds a wide sum into 16 bits with end-around carry.
#[inline]
fn fold(mut total: u64) -> u16 {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff_ffff) + (total >> 32);
    let mut narrow = (total & 0xffff) + (total >> 16);
    narrow = (narrow & 0xffff) + (narrow >> 16);
    narrow = (narrow & 0xffff) + (narrow >> 16);
    narrow as u16 // at most 0xffff after three folds
}

/// One's complement addition of two folded sums.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    let (total, carry) = a.overflowing_add(b);
    total + u16::from(carry) // cannot overflow: with a carry, total is at most 0xfffe
}

/// The sum of the pseudo-header (RFC 793, RFC 768, RFC 8200 8.1): addresses, protocol and upper-layer length.
pub fn pseudo_header(src: Addr, dst: Addr, proto: u8, length: u32) -> u16 {
    let addresses = add(sum(src.wire_bytes()), sum(dst.wire_bytes()));
    let length = add((length >> 16) as u16, length as u16);
    add(add(addresses, u16::from(proto)), length)
}

/// A change to summed data, to be applied to each checksum that covers it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// Nothing changed.
    pub const NONE: Delta = Delta(0);

    /// Word `old` became `new`.
    #[inline]
    pub fn word(old: u16, new: u16) -> Delta {
        Delta(add(!old, new))
    }

    /// Address `old` became `new`, of the same family.
    #[inline]
    pub fn addr(old: Addr, new: Addr) -> Delta {
        Delta(add(!sum(old.wire_bytes()), sum(new.wire_bytes())))
    }

    /// Both changes.
    #[inline]
    pub fn and(self, other: Delta) -> Delta {
        Delta(add(self.0, other.0))
    }

    /// A complete checksum field after the change (RFC 1624, eqn 3).
    #[inline]
    pub fn apply(self, field: u16) -> u16 {
        !add(!field, self.0)
    }

    /// A complete UDP checksum field after the change: none stays none, and a computed zero is sent as 0xffff.
    #[inline]
    pub fn apply_udp(self, field: u16) -> u16 {
        match field {
            0 => 0,
            _ => match self.apply(field) {
                0 => 0xffff,
                sum => sum,
            },
        }
    }

    /// A partial checksum field after a change of addresses.
    #[inline]
    pub fn apply_partial(self, field: u16) -> u16 {
        add(field, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut total: u32 = 0;
        for pair in bytes.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn rfc_1071_example() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    // R17
    #[test]
    fn udp_without_checksum_stays_without() {
        assert_eq!(Delta::word(1, 2).apply_udp(0), 0);
    }

    #[test]
    fn udp_checksum_that_becomes_zero_is_sent_as_ffff() {
        // A field of 1 and a change of -1 would give 0.
        let field = (1..=0xffff).find(|f| Delta::word(5, 9).apply(*f) == 0).expect("some field maps to zero");
        assert_eq!(Delta::word(5, 9).apply_udp(field), 0xffff);
    }

    proptest! {
        #[test]
        fn wide_sum_equals_word_by_word(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(sum(&bytes), naive(&bytes));
        }

        // R01
        #[test]
        fn incremental_equals_full(mut bytes in proptest::collection::vec(any::<u8>(), 4..200), at in any::<prop::sample::Index>(), new in any::<u16>()) {
            bytes[0] |= 1; // data that is not all zero, as a header never is
            let at = (at.index(bytes.len() / 2 - 1) + 1) * 2;
            prop_assume!(at + 2 <= bytes.len());
            let before = !sum(&bytes);
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(Delta::word(old, new).apply(before), !sum(&bytes));
        }

        #[test]
        fn address_change_equals_its_words(old in any::<[u8; 4]>(), new in any::<[u8; 4]>(), field in any::<u16>()) {
            let whole = Delta::addr(Addr::v4(old), Addr::v4(new));
            let words = Delta::word(u16::from_be_bytes([old[0], old[1]]), u16::from_be_bytes([new[0], new[1]]))
                .and(Delta::word(u16::from_be_bytes([old[2], old[3]]), u16::from_be_bytes([new[2], new[3]])));
            let (a, b) = (whole.apply(field), words.apply(field));
            prop_assert!(a == b || (a ^ b) == 0xffff && (a == 0 || b == 0), "{a:x} {b:x}");
        }
    }
}
