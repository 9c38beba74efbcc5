//! A TCP segment, as far as tracking is concerned.

/// TCP header flags.
pub const FIN: u8 = 0x01;
/// See [`FIN`].
pub const SYN: u8 = 0x02;
/// See [`FIN`].
pub const RST: u8 = 0x04;
/// See [`FIN`].
pub const PSH: u8 = 0x08;
/// See [`FIN`].
pub const ACK: u8 = 0x10;
/// See [`FIN`].
pub const URG: u8 = 0x20;
/// See [`FIN`].
pub const ECE: u8 = 0x40;
/// See [`FIN`].
pub const CWR: u8 = 0x80;

/// The facts of a TCP segment that tracking needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The flag byte as it stands in the header.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, whatever the ACK flag says.
    pub ack: u32,
    /// Window field, unscaled.
    pub window: u16,
    /// Bytes of payload; of the whole frame when it is a super-frame.
    pub payload_len: u32,
    /// Window scale option, at most 14 (RFC 7323 2.3).
    pub wscale: Option<u8>,
    /// SACK-permitted option.
    pub sack_permitted: bool,
    /// The highest right edge of the SACK blocks, or `ack` if that is higher or there are none.
    pub sack: u32,
}

impl Segment {
    /// Reads a TCP header with its options; `payload_len` is what follows it, in bytes. `None` if the header is cut short.
    ///
    /// Broken options end the reading of options, as in Linux; they never make a segment unreadable.
    #[inline]
    pub fn parse(header: &[u8], payload_len: u32) -> Option<Segment> {
        let (fixed, rest) = header.split_first_chunk::<20>()?;
        let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let options = usize::from(fixed[12] >> 4).checked_sub(5)? * 4;
        let ack = word(8);
        let mut segment = Segment {
            flags: fixed[13],
            seq: word(4),
            ack,
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            payload_len,
            wscale: None,
            sack_permitted: false,
            sack: ack,
        };
        segment.options(rest.get(..options)?);
        Some(segment)
    }

    #[inline]
    fn options(&mut self, mut rest: &[u8]) {
        // What nearly every segment of a connection carries: two NOPs and a timestamp (RFC 7323 appendix A).
        if rest.len() == 12 && rest[..4] == [1, 1, 8, 10] {
            return;
        }
        while let [kind, tail @ ..] = rest {
            match kind {
                0 => return,
                1 => {
                    rest = tail;
                    continue;
                }
                _ => {}
            }
            let Some(&len) = tail.first() else { return };
            let len = usize::from(len);
            if len < 2 || len > rest.len() {
                return;
            }
            let body = &rest[2..len];
            match (kind, body) {
                (3, [scale]) => self.wscale = Some((*scale).min(14)),
                (4, []) => self.sack_permitted = true,
                (5, blocks) if blocks.len() % 8 == 0 => {
                    for block in blocks.chunks_exact(8) {
                        let right = u32::from_be_bytes([block[4], block[5], block[6], block[7]]);
                        if after(right, self.sack) {
                            self.sack = right;
                        }
                    }
                }
                _ => {}
            }
            rest = &rest[len..];
        }
    }

    /// The sequence number after this segment; SYN and FIN count as a byte each.
    #[inline]
    pub(super) fn end(&self) -> u32 {
        self.seq
            .wrapping_add(self.payload_len)
            .wrapping_add(u32::from(self.has(SYN)))
            .wrapping_add(u32::from(self.has(FIN)))
    }

    #[inline]
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// X01: the combinations that a TCP may send; PSH, ECE and CWR go with all.
    #[inline]
    pub(super) fn has_valid_flags(&self) -> bool {
        const FIN_ACK: u8 = FIN | ACK;
        const SYN_ACK: u8 = SYN | ACK;
        const RST_ACK: u8 = RST | ACK;
        match self.flags & !(PSH | ECE | CWR) {
            SYN | SYN_ACK | RST | RST_ACK | FIN_ACK | ACK => true,
            other => matches!(other & !URG, SYN | FIN_ACK | ACK) && other & URG != 0,
        }
    }

    #[inline]
    pub(super) fn kind(&self) -> Kind {
        match self.flags & (SYN | ACK | FIN | RST) {
            f if f & RST != 0 => Kind::Rst,
            f if f & SYN != 0 && f & ACK != 0 => Kind::SynAck,
            f if f & SYN != 0 => Kind::Syn,
            f if f & FIN != 0 => Kind::Fin,
            f if f & ACK != 0 => Kind::Ack,
            _ => Kind::None,
        }
    }
}

/// A segment by the flag that matters most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Kind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
    #[default]
    None,
}

/// Does `a` come before `b`, modulo 2^32?
#[inline]
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Does `a` come after `b`, modulo 2^32?
#[inline]
pub(super) fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // X01
    #[test]
    fn only_sensible_flags_go_together() {
        let good = [SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG];
        for flags in 0..=u8::MAX {
            let want = good.contains(&(flags & !(PSH | ECE | CWR)));
            let segment = Segment { flags, ..Segment::default() };
            assert_eq!(segment.has_valid_flags(), want, "{flags:#x}");
        }
    }

    fn header(flags: u8, options: &[u8]) -> Vec<u8> {
        assert_eq!(options.len() % 4, 0);
        let mut h = vec![0x9c, 0x40, 0, 53, 0, 0, 0, 7, 0, 0, 0, 9];
        h.extend([(5 + options.len() as u8 / 4) << 4, flags, 0x12, 0x34, 0, 0, 0, 0]);
        h.extend(options);
        h
    }

    #[test]
    fn syn_options_are_read() {
        let options = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
        let s = Segment::parse(&header(SYN, &options), 0).unwrap();
        assert_eq!((s.seq, s.ack, s.window, s.flags), (7, 9, 0x1234, SYN));
        assert_eq!((s.wscale, s.sack_permitted, s.sack), (Some(7), true, 9));
    }

    #[test]
    fn window_scale_above_14_counts_as_14() {
        let s = Segment::parse(&header(SYN, &[3, 3, 200, 0]), 0).unwrap();
        assert_eq!(s.wscale, Some(14));
    }

    #[test]
    fn highest_sack_edge_is_found_across_the_wrap() {
        let block = |right: u32| [[0; 4], right.to_be_bytes()].concat();
        let mut options = vec![1, 1, 5, 26];
        for right in [20, 5_u32.wrapping_sub(100), 300] {
            options.extend(block(right));
        }
        assert_eq!(Segment::parse(&header(ACK, &options), 0).unwrap().sack, 300);
        let mut stale = vec![1, 1, 5, 10];
        stale.extend(block(3));
        assert_eq!(Segment::parse(&header(ACK, &stale), 0).unwrap().sack, 9);
    }

    #[test]
    fn a_header_cut_short_is_no_segment() {
        let whole = header(SYN, &[2, 4, 5, 180]);
        for len in 0..whole.len() {
            assert_eq!(Segment::parse(&whole[..len], 0), None, "{len} bytes");
        }
        let mut lying = whole;
        lying[12] = 0x40;
        assert_eq!(Segment::parse(&lying, 0), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), len: u32) {
            if let Some(s) = Segment::parse(&bytes, len) {
                prop_assert!(s.wscale.unwrap_or(0) <= 14);
            }
        }

        #[test]
        fn no_options_make_the_parser_panic(mut options in proptest::collection::vec(any::<u8>(), 0..40)) {
            options.truncate(options.len() / 4 * 4);
            prop_assert!(Segment::parse(&header(ACK, &options), 0).is_some());
        }
    }
}
