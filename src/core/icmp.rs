//! ICMP errors that we originate: when, how many, and their bytes.
//!
//! # Theory of operation
//! [`may_answer`] keeps the rules of RFC 1122 3.2.2 and RFC 1812 4.3.2.7 (never about an error, a later fragment, a group
//! address or a source that is no single host). [`Limiter`] keeps Linux's two limits: one a second and destination with
//! a burst of six for errors of the types in `icmp_ratemask` (3, 4, 11, 12), and a thousand a second in all with a burst
//! of fifty. [`error`] writes the packet: the original is quoted as far as 576 bytes of it and us allow (R03).

use super::bridge::bucket::Bucket;
use super::hash::Keyed;
use super::time::Instant;
use crate::frame::{Fragment, Frame, L3, L4};
use crate::wire::addr::Addr;
use crate::wire::ip::{icmp, ipv4, proto};
use crate::wire::{checksum, put16};

/// RFC 1812 4.3.2.3: an error is at most 576 bytes long.
const MAX_ERROR: usize = 576;
/// Time to live of what we originate (Linux `ip_default_ttl`).
pub const TTL: u8 = 64;
/// Peers whose rate is kept apart; two that share a slot share their allowance.
const PEERS: usize = 1024;

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// 3/0.
    NetworkUnreachable,
    /// 3/1.
    HostUnreachable,
    /// 3/2.
    ProtocolUnreachable,
    /// 3/3.
    PortUnreachable,
    /// 3/4 with the next hop's MTU, bytes (RFC 1191).
    FragmentationNeeded(u16),
    /// 3/13 (RFC 1812 5.2.7.1).
    Prohibited,
    /// 11/0.
    TtlExceeded,
    /// 5/1: this neighbour is nearer.
    Redirect(Addr),
    /// Type and code as a router beyond has said it.
    Relayed(u8, u8),
}

impl Complaint {
    fn parts(self) -> (u8, u8, [u8; 4]) {
        match self {
            Complaint::NetworkUnreachable => (icmp::UNREACHABLE, 0, [0; 4]),
            Complaint::HostUnreachable => (icmp::UNREACHABLE, 1, [0; 4]),
            Complaint::ProtocolUnreachable => (icmp::UNREACHABLE, 2, [0; 4]),
            Complaint::PortUnreachable => (icmp::UNREACHABLE, 3, [0; 4]),
            Complaint::FragmentationNeeded(mtu) => {
                let [high, low] = mtu.to_be_bytes();
                (icmp::UNREACHABLE, 4, [0, 0, high, low])
            }
            Complaint::Prohibited => (icmp::UNREACHABLE, 13, [0; 4]),
            Complaint::TtlExceeded => (icmp::TIME_EXCEEDED, 0, [0; 4]),
            Complaint::Redirect(to) => (icmp::REDIRECT, 1, to.as_v4().unwrap_or_default()),
            Complaint::Relayed(kind, code) => (kind, code, [0; 4]),
        }
    }
}

/// May an ICMP error be sent about this packet at all (R06)?
pub fn may_answer(frame: &Frame<'_>) -> bool {
    let layout = frame.layout();
    let Some((src, dst)) = frame.addrs() else { return false };
    layout.kind == L3::V4
        && layout.fragment != Fragment::Later
        && !matches!(layout.l4_kind, L4::IcmpError | L4::IcmpOther)
        && !(layout.proto == proto::ICMP && layout.l4_kind == L4::Malformed)
        && src.is_routable_source()
        && !dst.is_multicast()
        && dst != Addr::V4_BROADCAST
}

/// Writes the error about `original` (an IPv4 packet) to `out`; its length. `out` holds at least 576 bytes.
pub fn error(out: &mut [u8], src: Addr, dst: Addr, complaint: Complaint, original: &[u8], id: u16) -> usize {
    let quoted = original.len().min(MAX_ERROR - ipv4::MIN_LEN - icmp::LEN);
    let (kind, code, rest) = complaint.parts();
    let body = &mut out[ipv4::MIN_LEN..];
    body[icmp::TYPE] = kind;
    body[icmp::CODE] = code;
    put16(body, icmp::CHECKSUM, 0);
    body[4..8].copy_from_slice(&rest);
    body[icmp::LEN..icmp::LEN + quoted].copy_from_slice(&original[..quoted]);
    let sum = !checksum::sum(&body[..icmp::LEN + quoted]);
    put16(body, icmp::CHECKSUM, sum);
    let total = ipv4::MIN_LEN + icmp::LEN + quoted;
    // Precedence 6, internetwork control, and the original's type of service (RFC 1812 4.3.2.5; Linux RT_TOS, which
    // leaves out what is now the lower bit of ECN).
    let tos = original[ipv4::TOS] & 0x1e | 0xc0;
    header(out, src, dst, proto::ICMP, tos, Some(id), total);
    total
}

/// Writes an IPv4 header without options for a packet of `total` bytes. Without `id` it is never to be fragmented, and
/// needs none (RFC 6864 4.1).
pub fn header(out: &mut [u8], src: Addr, dst: Addr, proto: u8, tos: u8, id: Option<u16>, total: usize) {
    out[ipv4::VERSION_IHL] = 0x45;
    out[ipv4::TOS] = tos;
    put16(out, ipv4::TOTAL_LEN, total as u16); // callers build packets of at most 576 bytes
    put16(out, ipv4::ID, id.unwrap_or(0));
    put16(out, ipv4::FRAGMENT, if id.is_some() { 0 } else { ipv4::DF });
    out[ipv4::TTL] = TTL;
    out[ipv4::PROTO] = proto;
    put16(out, ipv4::CHECKSUM, 0);
    out[ipv4::SRC..ipv4::SRC + 4].copy_from_slice(src.wire_bytes());
    out[ipv4::DST..ipv4::DST + 4].copy_from_slice(dst.wire_bytes());
    let sum = !checksum::sum(&out[..ipv4::MIN_LEN]);
    put16(out, ipv4::CHECKSUM, sum);
}

/// How many errors leave (R07).
pub struct Limiter {
    all: Bucket,
    peers: Box<[Bucket]>,
    key: Keyed,
    /// Errors sent.
    pub sent: u64,
    /// Errors that were not, because of a limit.
    pub limited: u64,
}

impl Limiter {
    /// Full allowances. Linux `icmp_msgs_per_sec` 1000, `icmp_msgs_burst` 50, `icmp_ratelimit` 1 s, burst 6.
    pub fn new(key: Keyed, now: Instant) -> Limiter {
        Limiter {
            all: Bucket::new(1000, 50, now),
            peers: vec![Bucket::new(1, 6, now); PEERS].into_boxed_slice(),
            key,
            sent: 0,
            limited: 0,
        }
    }

    /// May one more error go to `peer`?
    pub fn allow(&mut self, peer: Addr, now: Instant) -> bool {
        use std::hash::BuildHasher;
        let slot = self.key.hash_one(peer.octets()) as usize % PEERS;
        let allowed = self.peers[slot].take(now) && self.all.take(now);
        if allowed {
            self.sent += 1;
        } else {
            self.limited += 1;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // R07
    #[test]
    fn a_peer_gets_six_at_once_and_one_a_second_then() {
        let mut limiter = Limiter::new(Keyed::new([3; 16]), Instant::ZERO);
        let peer = Addr::v4([192, 0, 2, 1]);
        assert_eq!((0..100).filter(|_| limiter.allow(peer, Instant::ZERO)).count(), 6);
        assert_eq!((0..100).filter(|_| limiter.allow(peer, Instant::from_secs(1))).count(), 1);
        assert_eq!((limiter.sent, limiter.limited), (7, 193));
    }

    // R07
    #[test]
    fn all_peers_together_get_fifty_at_once() {
        let mut limiter = Limiter::new(Keyed::new([3; 16]), Instant::ZERO);
        let sent = (0..10_000u32).filter(|n| limiter.allow(Addr::v4(n.to_be_bytes()), Instant::ZERO)).count();
        assert_eq!(sent, 50);
    }

    // R03
    #[test]
    fn error_quotes_as_much_as_576_bytes_hold() {
        let mut out = [0xaa; 2048];
        let len = error(
            &mut out,
            Addr::v4([172, 17, 0, 1]),
            Addr::v4([172, 17, 0, 2]),
            Complaint::FragmentationNeeded(1400),
            &[0x45; 1500],
            7,
        );
        assert_eq!(len, 576);
        assert_eq!(checksum::sum(&out[..20]), 0xffff);
        assert_eq!(checksum::sum(&out[20..len]), 0xffff);
        assert_eq!(out[20..28], [3, 4, out[22], out[23], 0, 0, 0x05, 0x78]);
    }

    // I10
    #[test]
    fn error_has_the_precedence_of_control_and_the_service_of_its_original() {
        for (original, expected) in [(0, 0xc0), (0xb8, 0xd8), (0xff, 0xde), (0x03, 0xc2)] {
            let mut packet = [0x45; 28];
            packet[ipv4::TOS] = original;
            let mut out = [0xaa; 576];
            error(&mut out, Addr::v4([172, 17, 0, 1]), Addr::v4([172, 17, 0, 2]), Complaint::TtlExceeded, &packet, 7);
            assert_eq!(out[ipv4::TOS], expected);
        }
    }
}
