//! A TCP segment from a container as values, and arithmetic modulo 2^32.

use crate::core::conntrack::FiveTuple;
use crate::core::socket::Mark;
use crate::frame::{Fragment, Frame, L3, L4};
use crate::wire::ip::{ipv4, proto, tcp};
use crate::wire::{get16, get32};

/// URG flag.
pub(super) const URG: u8 = 0x20;

/// SACK blocks that fit into a header.
const MAX_SACKS: usize = 4;

/// What a packet of a link with this MTU carries of a TCP stream, with TCP's options (RFC 6691), bytes.
pub(super) fn mss_for(mtu: usize, is_v4: bool) -> u16 {
    let longest = mtu.min(usize::from(u16::MAX)) as u16;
    longest.saturating_sub(if is_v4 { 40 } else { 60 })
}

/// Does `a` come before `b`?
#[inline]
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// Does `a` come after `b`?
#[inline]
pub(super) fn after(a: u32, b: u32) -> bool {
    before(b, a)
}

/// The later of two.
#[inline]
pub(super) fn later(a: u32, b: u32) -> u32 {
    if before(a, b) { b } else { a }
}

/// The earlier of two.
#[inline]
pub(super) fn earlier(a: u32, b: u32) -> u32 {
    if before(b, a) { b } else { a }
}

/// How far `to` lies after `from`; 0 if it does not.
#[inline]
pub(super) fn distance(from: u32, to: u32) -> u32 {
    if before(to, from) { 0 } else { to.wrapping_sub(from) }
}

/// A segment; its payload is that of a whole super-frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// As it stands in the header, unscaled.
    pub window: u16,
    /// Urgent pointer; means something with [`URG`] alone.
    pub urgent: u16,
    /// Maximum segment size option.
    pub mss: Option<u16>,
    /// Window scale option, at most 14 (RFC 7323 2.3).
    pub scale: Option<u8>,
    /// SACK-permitted option.
    pub sack_permitted: bool,
    /// Timestamps option: value and echo.
    pub stamps: Option<(u32, u32)>,
    sacks: [(u32, u32); MAX_SACKS],
    sack_count: usize,
    pub payload: &'a [u8],
    /// Without ECN, which is between a sender and its own receiver.
    pub mark: Mark,
}

impl<'a> Segment<'a> {
    /// Reads a whole TCP segment and whose it is; `None` if `frame` is none.
    #[inline]
    pub fn parse(frame: &'a Frame<'_>) -> Option<(FiveTuple, Segment<'a>)> {
        let layout = frame.layout();
        if layout.l4_kind != L4::Tcp || layout.fragment != Fragment::None {
            return None;
        }
        let (src, dst) = frame.addrs()?;
        let l3 = frame.l3();
        let (tos, ttl) = match layout.kind {
            L3::V4 => (l3[ipv4::TOS], l3[ipv4::TTL]),
            _ => (l3[0] << 4 | l3[1] >> 4, l3[7]),
        };
        let l4 = frame.l4();
        let payload = frame.payload();
        let header = &l4[..l4.len() - payload.len()];
        let tuple = FiveTuple { src, dst, sport: get16(l4, 0), dport: get16(l4, 2), proto: proto::TCP };
        let mut segment = Segment {
            seq: get32(l4, tcp::SEQ),
            ack: get32(l4, 8),
            flags: l4[tcp::FLAGS],
            window: get16(l4, 14),
            urgent: get16(l4, 18),
            mss: None,
            scale: None,
            sack_permitted: false,
            stamps: None,
            sacks: [(0, 0); MAX_SACKS],
            sack_count: 0,
            payload,
            mark: Mark { ttl, tos: tos & !3 },
        };
        segment.options(header.get(tcp::MIN_LEN..)?);
        Some((tuple, segment))
    }

    /// Broken options end the reading of options, as in Linux; they never make a segment unreadable.
    #[inline]
    fn options(&mut self, mut rest: &[u8]) {
        // What nearly every segment of a connection carries: two NOPs and a timestamp (RFC 7323 appendix A).
        if rest.len() == 12 && rest[..4] == [1, 1, 8, 10] {
            self.stamps = Some((get32(rest, 4), get32(rest, 8)));
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
                (2, [high, low]) => self.mss = Some(u16::from_be_bytes([*high, *low])),
                (3, [scale]) => self.scale = Some((*scale).min(14)),
                (4, []) => self.sack_permitted = true,
                (5, blocks) if blocks.len() % 8 == 0 => {
                    for block in blocks.chunks_exact(8).take(MAX_SACKS - self.sack_count) {
                        self.sacks[self.sack_count] = (get32(block, 0), get32(block, 4));
                        self.sack_count += 1;
                    }
                }
                (8, stamps) if stamps.len() == 8 => self.stamps = Some((get32(stamps, 0), get32(stamps, 4))),
                _ => {}
            }
            rest = &rest[len..];
        }
    }

    /// SACK blocks as they came: left edge, right edge.
    pub fn sacks(&self) -> &[(u32, u32)] {
        &self.sacks[..self.sack_count]
    }

    /// Is the flag set?
    #[inline]
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Bytes of sequence space: the payload, and one each for SYN and FIN.
    #[inline]
    pub fn len(&self) -> u32 {
        // A packet has at most 65,535 bytes.
        self.payload.len() as u32 + u32::from(self.has(tcp::SYN)) + u32::from(self.has(tcp::FIN))
    }
}
