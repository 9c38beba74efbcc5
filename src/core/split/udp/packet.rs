//! Packets that the gateway writes into a container's network in the name of a far host, and what is kept of those that
//! a container sent, so that an ICMP error can quote them.

use std::num::NonZeroU16;

use crate::core::hash::Keyed;
use crate::core::socket::Endpoint;
use crate::frame::{Frame, Gso, HEADROOM, Link};
use crate::wire::addr::Addr;
use crate::wire::ip::{icmp, ipv4, proto, udp};
use crate::wire::vnet::{self, VnetHeader, gso};
use crate::wire::{checksum, get16, put16};

/// IPv4 and UDP headers, bytes: where a datagram's data lies in a packet of ours. ICMP's header is as long.
pub(in crate::core::split) const HEADERS: usize = ipv4::MIN_LEN + udp::LEN;

/// The longest datagram, bytes.
pub(in crate::core::split) const MAX_DATA: usize = 65_535 - HEADERS;

/// Bytes of a transport header that an ICMP error quotes (RFC 792).
const QUOTED: usize = 8;

/// What an ICMP error quotes of a packet: its headers, but for the options of IP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::core::split) struct Quote {
    id: u16,
    len: u16,
    tos: u8,
    ttl: u8,
    pub dont_fragment: bool,
    pub l4: [u8; QUOTED],
}

impl Quote {
    /// Remembers a datagram of `data` bytes with a partial checksum, whose headers are those of the last but for its length
    /// and identification.
    pub fn follow(&mut self, id: u16, data: usize) {
        let len = (udp::LEN + data) as u16; // within a frame
        (self.id, self.len) = (id, len);
        put16(&mut self.l4, udp::LENGTH, len);
        put16(&mut self.l4, udp::CHECKSUM, 0); // the last one may have had a whole one
    }

    /// Remembers an IPv4 packet, which is whole and has at least eight bytes behind its header; of a super-frame its
    /// last datagram, or one that is like it.
    pub fn of(frame: &Frame<'_>) -> Quote {
        let header = frame.l3();
        let mut l4 = [0; QUOTED];
        l4.copy_from_slice(&frame.l4()[..QUOTED]);
        let mut len = frame.l4().len();
        if let Gso::Udp { size } = frame.gso() {
            len = udp::LEN + usize::from(size.get());
            put16(&mut l4, udp::LENGTH, len as u16); // within the frame
        }
        if frame.checksum() == crate::frame::L4Checksum::Partial {
            put16(&mut l4, udp::CHECKSUM, 0); // the real one is not known; zero is "none"
        }
        Quote {
            id: get16(header, ipv4::ID),
            len: len as u16, // within the frame: at most 65,515
            tos: header[ipv4::TOS],
            ttl: header[ipv4::TTL],
            dont_fragment: get16(header, ipv4::FRAGMENT) & ipv4::DF != 0,
            l4,
        }
    }

    /// Length of the IP packet that is quoted, bytes.
    pub fn packet_len(&self) -> usize {
        ipv4::MIN_LEN + usize::from(self.len)
    }

    /// The packet's beginning as a router would quote it. `ttl`: as it arrived there; `None`: as the container sent it.
    pub fn write(&self, src: Addr, dst: Addr, proto: u8, ttl: Option<u8>) -> [u8; ipv4::MIN_LEN + QUOTED] {
        let mut out = [0; ipv4::MIN_LEN + QUOTED];
        let fragment = if self.dont_fragment { ipv4::DF } else { 0 };
        let header = Header { src, dst, proto, tos: self.tos, ttl: ttl.unwrap_or(self.ttl), id: self.id, fragment };
        header.write(&mut out, self.packet_len());
        out[ipv4::MIN_LEN..].copy_from_slice(&self.l4);
        out
    }
}

/// What is said in an IPv4 header without options.
struct Header {
    src: Addr,
    dst: Addr,
    proto: u8,
    tos: u8,
    ttl: u8,
    id: u16,
    fragment: u16,
}

impl Header {
    /// Writes the header of a packet of `total` bytes, at most 65,535.
    fn write(&self, out: &mut [u8], total: usize) {
        out[ipv4::VERSION_IHL] = 0x45;
        out[ipv4::TOS] = self.tos;
        put16(out, ipv4::TOTAL_LEN, total.min(65_535) as u16); // an echo's or datagram's maximum, by its callers
        put16(out, ipv4::ID, self.id);
        put16(out, ipv4::FRAGMENT, self.fragment);
        out[ipv4::TTL] = self.ttl;
        out[ipv4::PROTO] = self.proto;
        put16(out, ipv4::CHECKSUM, 0);
        out[ipv4::SRC..ipv4::SRC + 4].copy_from_slice(self.src.wire_bytes());
        out[ipv4::DST..ipv4::DST + 4].copy_from_slice(self.dst.wire_bytes());
        let sum = !checksum::sum(&out[..ipv4::MIN_LEN]);
        put16(out, ipv4::CHECKSUM, sum);
    }
}

/// What the header of an arriving datagram says besides its ends.
#[derive(Clone, Copy, Debug)]
pub(in crate::core::split) struct Arrived {
    pub tos: u8,
    /// As it came to the host; 0: not known.
    pub ttl: u8,
    pub id: u16,
}

impl Arrived {
    /// The container is one hop further.
    fn onward_ttl(&self) -> u8 {
        if self.ttl == 0 { crate::core::icmp::TTL } else { (self.ttl - 1).max(1) }
    }
}

/// Puts headers before the data of one datagram, or of several of one length, and makes a frame of them whose checksum is
/// left to the receiver. The data is `buf[start + HEADERS..][..len]`, and `start` at least [`HEADROOM`].
pub(in crate::core::split) fn datagram<'a>(
    buf: &'a mut [u8],
    start: usize,
    len: usize,
    segment: Option<NonZeroU16>,
    from: Endpoint,
    to: Endpoint,
    arrived: Arrived,
) -> Option<Frame<'a>> {
    let total = HEADERS + len;
    let packet = buf.get_mut(start..start + total)?;
    let header = Header {
        src: from.addr,
        dst: to.addr,
        proto: proto::UDP,
        tos: arrived.tos,
        ttl: arrived.onward_ttl(),
        id: arrived.id,
        fragment: 0,
    };
    header.write(packet, total);
    let l4 = &mut packet[ipv4::MIN_LEN..];
    put16(l4, 0, from.port);
    put16(l4, 2, to.port);
    let l4_len = (udp::LEN + len) as u16; // at most 65,515
    put16(l4, udp::LENGTH, l4_len);
    let pseudo = checksum::pseudo_header(from.addr, to.addr, proto::UDP, u32::from(l4_len));
    put16(l4, udp::CHECKSUM, pseudo);
    let segment = segment.filter(|size| len > usize::from(size.get()));
    let vnet = VnetHeader {
        flags: vnet::NEEDS_CSUM,
        gso_type: if segment.is_some() { gso::UDP_L4 } else { gso::NONE },
        hdr_len: HEADERS as u16,
        gso_size: segment.map_or(0, NonZeroU16::get),
        csum_start: ipv4::MIN_LEN as u16,
        csum_offset: udp::CHECKSUM as u16,
    };
    vnet.write(&mut buf[start - vnet::LEN..]);
    Frame::parse(buf, start, start + total, Link::Ip).ok()
}

/// Puts an IP header before an ICMP message, which is `buf[HEADROOM + 20..][..len]`, and completes its checksum.
pub(in crate::core::split) fn message<'a>(
    buf: &'a mut [u8],
    len: usize,
    from: Addr,
    to: Addr,
    arrived: Arrived,
) -> Option<Frame<'a>> {
    let total = ipv4::MIN_LEN + len;
    let packet = buf.get_mut(HEADROOM..HEADROOM + total)?;
    let l4 = packet.get_mut(ipv4::MIN_LEN..).filter(|l4| l4.len() >= icmp::LEN)?;
    put16(l4, icmp::CHECKSUM, 0);
    let sum = !checksum::sum(l4);
    put16(l4, icmp::CHECKSUM, sum);
    let header = Header {
        src: from,
        dst: to,
        proto: proto::ICMP,
        tos: arrived.tos,
        ttl: arrived.onward_ttl(),
        id: arrived.id,
        fragment: 0,
    };
    header.write(packet, total);
    VnetHeader::default().write(&mut buf[HEADROOM - vnet::LEN..]);
    Frame::parse(buf, HEADROOM, HEADROOM + total, Link::Ip).ok()
}

/// Pairs of addresses whose identifications are counted apart; two that share a slot share its numbers.
const SLOTS: usize = 256;

/// Identifications for packets that may be cut: of one pair of addresses none comes again before 65,536 others, and what
/// one container is sent tells nothing of another's (as Linux' `ip_idents`).
#[derive(Clone)]
pub(in crate::core::split) struct Identifications {
    next: Box<[u16]>,
    key: Keyed,
}

impl Identifications {
    /// `key` is random and secret.
    pub fn new(key: Keyed) -> Identifications {
        use std::hash::BuildHasher;
        let next = (0..SLOTS).map(|slot| key.hash_one((slot, "identification")) as u16).collect();
        Identifications { next, key }
    }

    /// The first of `count` numbers for packets from `src` to `dst`.
    pub fn take(&mut self, src: Addr, dst: Addr, count: usize) -> u16 {
        use std::hash::BuildHasher;
        let slot = self.key.hash_one((src, dst)) as usize % SLOTS;
        let first = self.next[slot];
        self.next[slot] = first.wrapping_add(count as u16);
        first
    }
}
