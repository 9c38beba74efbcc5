//! Changing addresses and ports in place, with every checksum that covers them.

use super::super::conntrack::FiveTuple;
use crate::frame::{Frame, L4, L4Checksum};
use crate::wire::addr::Addr;
use crate::wire::checksum::Delta;
use crate::wire::ip::{icmp, ipv4, tcp, udp};
use crate::wire::{get16, put16};

/// Rewrites an IPv4 packet that carries `from` so that it carries `to`. A fragment without a transport header gets its
/// addresses alone.
pub fn translate(frame: &mut Frame<'_>, from: &FiveTuple, to: &FiveTuple) {
    if from == to {
        return;
    }
    let partial = frame.checksum() == L4Checksum::Partial;
    let kind = frame.layout().l4_kind;
    let l3 = frame.l3_mut();
    let addresses = readdress(l3, from.src, to.src, ipv4::SRC).and(readdress(l3, from.dst, to.dst, ipv4::DST));
    put16(l3, ipv4::CHECKSUM, addresses.apply(get16(l3, ipv4::CHECKSUM)));
    retransport(frame.l4_mut(), kind, from, to, addresses, partial);
}

/// Lowers the time to live by one (R01).
pub fn decrement_ttl(frame: &mut Frame<'_>) {
    let l3 = frame.l3_mut();
    let old = get16(l3, ipv4::TTL); // with the protocol, a word of the checksum
    let new = old - 0x0100;
    put16(l3, ipv4::TTL, new);
    put16(l3, ipv4::CHECKSUM, Delta::word(old, new).apply(get16(l3, ipv4::CHECKSUM)));
}

/// Replaces an address of an IPv4 header; what changed.
fn readdress(l3: &mut [u8], from: Addr, to: Addr, at: usize) -> Delta {
    if from == to {
        return Delta::NONE;
    }
    l3[at..at + 4].copy_from_slice(to.wire_bytes());
    Delta::addr(from, to)
}

/// Replaces the ports, or the ICMP query's id, in a transport header that may be cut short after its first eight bytes
/// (as in an ICMP error), and updates the checksum as far as it is there.
fn retransport(l4: &mut [u8], kind: L4, from: &FiveTuple, to: &FiveTuple, addresses: Delta, partial: bool) {
    let ports = Delta::word(from.sport, to.sport).and(Delta::word(from.dport, to.dport));
    match kind {
        L4::Tcp => {
            put16(l4, 0, to.sport);
            put16(l4, 2, to.dport);
            if l4.len() >= tcp::CHECKSUM + 2 {
                let field = get16(l4, tcp::CHECKSUM);
                let new = if partial { addresses.apply_partial(field) } else { addresses.and(ports).apply(field) };
                put16(l4, tcp::CHECKSUM, new);
            }
        }
        L4::Udp => {
            put16(l4, 0, to.sport);
            put16(l4, 2, to.dport);
            let field = get16(l4, udp::CHECKSUM);
            let new = if partial { addresses.apply_partial(field) } else { addresses.and(ports).apply_udp(field) };
            put16(l4, udp::CHECKSUM, new);
        }
        L4::IcmpQuery => {
            let (old, new) = match icmp::query(l4[icmp::TYPE]) {
                Some((_, true)) => (from.dport, to.dport),
                _ => (from.sport, to.sport),
            };
            put16(l4, icmp::ID, new);
            put16(l4, icmp::CHECKSUM, Delta::word(old, new).apply(get16(l4, icmp::CHECKSUM)));
        }
        L4::IcmpError | L4::IcmpOther | L4::Other | L4::None | L4::Malformed => {}
    }
}

/// A packet quoted in an ICMP error: at least its IPv4 header and eight bytes of transport (RFC 792).
pub struct Quote {
    header: usize,
    kind: L4,
    /// The tuple it carries.
    pub tuple: FiveTuple,
}

impl Quote {
    /// Reads the quote `inner`; `None`: it is cut short, its header checksum is wrong (RFC 5508 REQ-3 a), it is a later
    /// fragment, or of a kind that begins no flow of ours.
    pub fn parse(inner: &[u8]) -> Option<Quote> {
        let header = usize::from(inner.first()? & 0xf) * 4;
        let sound = inner[0] >> 4 == 4
            && header >= ipv4::MIN_LEN
            && inner.len() >= header + 8
            && crate::wire::checksum::sum(&inner[..header]) == 0xffff
            && get16(inner, ipv4::FRAGMENT) & ipv4::OFFSET_MASK == 0;
        if !sound {
            return None;
        }
        let (src, dst) = (Addr::read4(inner, ipv4::SRC), Addr::read4(inner, ipv4::DST));
        let (proto, l4) = (inner[ipv4::PROTO], &inner[header..]);
        let (kind, tuple) = match proto {
            crate::wire::ip::proto::TCP | crate::wire::ip::proto::UDP => {
                let kind = if proto == crate::wire::ip::proto::TCP { L4::Tcp } else { L4::Udp };
                (kind, FiveTuple { src, dst, sport: get16(l4, 0), dport: get16(l4, 2), proto })
            }
            crate::wire::ip::proto::ICMP => {
                let id = get16(l4, icmp::ID);
                let (tuple, _) = FiveTuple::icmp_query(src, dst, proto, l4[icmp::TYPE], l4[icmp::CODE], id)?;
                (L4::IcmpQuery, tuple)
            }
            _ => (L4::Other, FiveTuple { src, dst, sport: 0, dport: 0, proto }),
        };
        Some(Quote { header, kind, tuple })
    }

    /// Rewrites the quote so that it carries `to`.
    pub fn translate(&self, inner: &mut [u8], to: &FiveTuple) {
        let from = &self.tuple;
        let addresses =
            readdress(inner, from.src, to.src, ipv4::SRC).and(readdress(inner, from.dst, to.dst, ipv4::DST));
        put16(inner, ipv4::CHECKSUM, addresses.apply(get16(inner, ipv4::CHECKSUM)));
        retransport(&mut inner[self.header..], self.kind, from, to, addresses, false);
    }
}
