//! Where the headers of a frame lie, found once.

use super::Link;
use crate::wire::ip::{ETH_LEN, ethertype, icmp, ipv4, proto, tcp, udp};
use crate::wire::{checksum, get16};

/// Extension headers of an IPv6 packet that we walk over; more makes the transport unknown.
const MAX_IPV6_EXTENSIONS: usize = 8;

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// A sound IPv4 packet.
    V4,
    /// A sound IPv6 packet.
    V6,
    /// ARP, unread.
    Arp,
    /// Anything else, a bridge's business.
    Other,
    /// Claims to be IP and is not sound: bridged, never routed.
    Malformed(Malformed),
}

/// What is wrong with a network header (R09).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its header.
    Truncated,
    /// The version is not that of the EtherType, or neither 4 nor 6.
    Version,
    /// IPv4 header length under 20 bytes or over the packet's.
    HeaderLength,
    /// Total length under the header's or over the bytes that are there.
    TotalLength,
    /// IPv4 header checksum.
    Checksum,
}

/// Is the packet part of a larger one?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Whole.
    None,
    /// The first part: has the transport header.
    First,
    /// A later part: has none.
    Later,
}

/// The transport layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// A whole TCP header.
    Tcp,
    /// A whole UDP header.
    Udp,
    /// ICMPv4 echo, timestamp, information or mask, request or reply.
    IcmpQuery,
    /// ICMPv4 message that quotes another packet.
    IcmpError,
    /// ICMPv4, another type.
    IcmpOther,
    /// Another protocol.
    Other,
    /// No header here: not IP, or a later fragment.
    None,
    /// Too short for the protocol's header.
    Malformed,
}

/// Offsets are from the start of the *buffer*, so that they survive a pushed or stripped link header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// EtherType behind any VLAN tags.
    pub ethertype: u16,
    /// Does the frame carry a VLAN tag?
    pub tagged: bool,
    /// What the network layer is.
    pub kind: L3,
    /// First byte of the network header.
    pub l3: usize,
    /// One past the last byte of the network packet; padding comes after.
    pub l3_end: usize,
    /// First byte behind the network header.
    pub l4: usize,
    /// What the transport layer is.
    pub l4_kind: L4,
    /// First byte behind the transport header.
    pub payload: usize,
    /// IP protocol number; 0 when the packet is not IP.
    pub proto: u8,
    /// Is the packet a fragment?
    pub fragment: Fragment,
}

impl Layout {
    /// Reads `buf[start..end]`; `None` if it is shorter than its link header.
    pub(super) fn parse(buf: &[u8], start: usize, end: usize, link: Link) -> Option<Layout> {
        let bytes = &buf[..end];
        let mut layout = Layout {
            ethertype: 0,
            tagged: false,
            kind: L3::Other,
            l3: start,
            l3_end: end,
            l4: end,
            l4_kind: L4::None,
            payload: end,
            proto: 0,
            fragment: Fragment::None,
        };
        match link {
            Link::Ip => {
                layout.ethertype = match bytes[start..].first()? >> 4 {
                    4 => ethertype::IPV4,
                    6 => ethertype::IPV6,
                    _ => {
                        layout.kind = L3::Malformed(Malformed::Version);
                        return Some(layout);
                    }
                };
            }
            Link::Ethernet => {
                if end - start < ETH_LEN {
                    return None;
                }
                layout.ethertype = get16(bytes, start + 12);
                layout.l3 = start + ETH_LEN;
                for _ in 0..2 {
                    if !matches!(layout.ethertype, ethertype::VLAN | ethertype::QINQ) || layout.l3 + 4 > end {
                        break;
                    }
                    layout.tagged = true;
                    layout.ethertype = get16(bytes, layout.l3 + 2);
                    layout.l3 += 4;
                }
            }
        }
        let network = match layout.ethertype {
            ethertype::IPV4 => layout.ipv4(bytes),
            ethertype::IPV6 => layout.ipv6(bytes),
            ethertype::ARP => {
                layout.kind = L3::Arp;
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(why) = network {
            layout = Layout { kind: L3::Malformed(why), l3_end: end, l4: end, payload: end, ..layout };
            layout.l4_kind = L4::None;
            layout.fragment = Fragment::None;
        }
        Some(layout)
    }

    /// Is there a transport header whose end is known?
    #[inline]
    pub fn has_transport(&self) -> bool {
        matches!(self.l4_kind, L4::Tcp | L4::Udp | L4::IcmpQuery | L4::IcmpError | L4::IcmpOther)
    }

    fn ipv4(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let ip = &bytes[self.l3..];
        if ip.len() < ipv4::MIN_LEN {
            return Err(Malformed::Truncated);
        }
        if ip[ipv4::VERSION_IHL] >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let header = usize::from(ip[ipv4::VERSION_IHL] & 0xf) * 4;
        let total = usize::from(get16(ip, ipv4::TOTAL_LEN));
        if header < ipv4::MIN_LEN || header > ip.len() {
            return Err(Malformed::HeaderLength);
        }
        if total < header || total > ip.len() {
            return Err(Malformed::TotalLength);
        }
        if checksum::sum(&ip[..header]) != 0xffff {
            return Err(Malformed::Checksum);
        }
        self.kind = L3::V4;
        self.proto = ip[ipv4::PROTO];
        self.l4 = self.l3 + header;
        self.l3_end = self.l3 + total;
        let fragment = get16(ip, ipv4::FRAGMENT);
        self.fragment = match (fragment & ipv4::OFFSET_MASK, fragment & ipv4::MF != 0) {
            (0, false) => Fragment::None,
            (0, true) => Fragment::First,
            (_, _) => Fragment::Later,
        };
        self.transport(bytes);
        Ok(())
    }

    fn ipv6(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let ip = &bytes[self.l3..];
        if ip.len() < 40 {
            return Err(Malformed::Truncated);
        }
        if ip[0] >> 4 != 6 {
            return Err(Malformed::Version);
        }
        let total = 40 + usize::from(get16(ip, 4));
        if total > ip.len() {
            return Err(Malformed::TotalLength);
        }
        self.kind = L3::V6;
        self.l3_end = self.l3 + total;
        let (mut next, mut at) = (ip[6], 40);
        let mut fragmented = false; // a second fragment header must not undo the first
        for _ in 0..MAX_IPV6_EXTENSIONS {
            let extension = &ip[at.min(total)..total];
            match next {
                // hop-by-hop, routing, destination options: RFC 8200 4
                0 | 43 | 60 if extension.len() >= 8 => {
                    next = extension[0];
                    at += 8 + usize::from(extension[1]) * 8;
                }
                44 if extension.len() >= 8 && !fragmented => {
                    next = extension[0];
                    self.fragment = match get16(extension, 2) & 0xfff9 {
                        0 => Fragment::None, // an atomic fragment, RFC 6946
                        1 => Fragment::First,
                        _ => Fragment::Later,
                    };
                    at += 8;
                    fragmented = true;
                    // What follows in a later fragment is data, whatever it looks like.
                    if self.fragment == Fragment::Later {
                        break;
                    }
                }
                _ => break,
            }
        }
        self.proto = next;
        self.l4 = self.l3 + at.min(total);
        self.transport(bytes);
        Ok(())
    }

    /// Finds the end of the transport header in `self.l4..self.l3_end`.
    fn transport(&mut self, bytes: &[u8]) {
        self.payload = self.l4;
        if self.fragment == Fragment::Later {
            self.l4_kind = L4::None;
            return;
        }
        let l4 = &bytes[self.l4..self.l3_end];
        let (kind, header) = match (self.proto, self.kind) {
            (proto::TCP, _) if l4.len() >= tcp::MIN_LEN => (L4::Tcp, usize::from(l4[tcp::DATA_OFFSET] >> 4) * 4),
            (proto::UDP, _) if l4.len() >= udp::LEN => (L4::Udp, udp::LEN),
            (proto::ICMP, L3::V4) if l4.len() >= icmp::LEN => (icmp_kind(l4[icmp::TYPE]), icmp::LEN),
            (proto::TCP | proto::UDP, _) | (proto::ICMP, L3::V4) => (L4::Malformed, 0),
            _ => (L4::Other, 0),
        };
        let sound = match kind {
            L4::Tcp => header >= tcp::MIN_LEN && header <= l4.len(),
            L4::Udp => {
                let length = usize::from(get16(l4, udp::LENGTH));
                length >= udp::LEN && (length <= l4.len() || self.fragment == Fragment::First)
            }
            L4::IcmpQuery | L4::IcmpError | L4::IcmpOther | L4::Other | L4::None | L4::Malformed => true,
        };
        (self.l4_kind, self.payload) = if sound { (kind, self.l4 + header) } else { (L4::Malformed, self.l4) };
    }
}

fn icmp_kind(kind: u8) -> L4 {
    if icmp::query(kind).is_some() {
        L4::IcmpQuery
    } else if icmp::is_error(kind) {
        L4::IcmpError
    } else {
        L4::IcmpOther
    }
}
