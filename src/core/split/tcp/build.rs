//! Segments toward containers: headers written before data that lies where it lies.

use super::Key;
use super::pool::HEAD;
use super::segment::{Segment, URG};
use crate::core::icmp::{self, Complaint};
use crate::core::network::NetworkId;
use crate::core::socket::Endpoint;
use crate::core::split::Lower;
use crate::frame::{Frame, HEADROOM, Link};
use crate::wire::addr::Addr;
use crate::wire::ip::{ipv4, ipv6, proto, tcp};
use crate::wire::vnet::{self, VnetHeader, gso};
use crate::wire::{checksum, put16, put32};

/// TCP options in the order in which they are written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options {
    /// Maximum segment size; SYN alone.
    pub mss: Option<u16>,
    /// SYN alone.
    pub sack_permitted: bool,
    /// Value and echo.
    pub stamps: Option<(u32, u32)>,
    /// SYN alone.
    pub scale: Option<u8>,
    /// At most three with timestamps, four without.
    pub sacks: [(u32, u32); 4],
    pub sack_count: usize,
}

impl Options {
    /// Writes them, padded to words; how many bytes that is, at most 40.
    fn write(&self, out: &mut [u8; 40]) -> usize {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[2, 4, high, low]);
        }
        if self.sack_permitted {
            put(&[1, 1, 4, 2]);
        }
        if let Some((value, echo)) = self.stamps {
            put(&[1, 1, 8, 10]);
            put(&value.to_be_bytes());
            put(&echo.to_be_bytes());
        }
        if let Some(scale) = self.scale {
            put(&[1, 3, 3, scale]);
        }
        if self.sack_count > 0 {
            put(&[1, 1, 5, 2 + 8 * self.sack_count as u8]); // at most 4
            for (left, right) in &self.sacks[..self.sack_count] {
                put(&left.to_be_bytes());
                put(&right.to_be_bytes());
            }
        }
        at
    }
}

/// What is written before the data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub from: Endpoint,
    /// In the container.
    pub to: Endpoint,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    /// Urgent pointer; 0: nothing is urgent.
    pub urgent: u16,
    pub options: Options,
    /// Payload of each packet when the data is longer, bytes.
    pub mss: u16,
}

/// Sends `buf[at..at + len]` as one segment, or as a super-frame. The [`HEAD`] bytes before `at` are written to; of
/// them the `keep` last are put back.
pub(super) fn send(
    lower: &mut dyn Lower,
    network: NetworkId,
    header: &Header,
    buf: &mut [u8],
    at: usize,
    len: usize,
    keep: usize,
) {
    let keep = keep.min(HEAD);
    let mut saved = [0; HEAD];
    saved[..keep].copy_from_slice(&buf[at - keep..at]);
    let start = write(buf, at, len, header);
    debug_assert!(start >= HEADROOM);
    match Frame::parse(&mut buf[..at + len], start, at + len, Link::Ip) {
        Ok(mut frame) => lower.deliver(network, &mut frame),
        Err(why) => debug_assert!(false, "our own frame: {why:?}"),
    }
    buf[at - keep..at].copy_from_slice(&saved[..keep]);
}

/// Sends a segment without data.
pub(super) fn send_bare(lower: &mut dyn Lower, network: NetworkId, header: &Header) {
    let mut buf = [0; HEAD];
    send(lower, network, header, &mut buf, HEAD, 0, 0);
}

/// Answers a segment of no connection (RFC 9293 3.10.7.1).
pub(super) fn refuse(lower: &mut dyn Lower, network: NetworkId, from: Endpoint, to: Endpoint, segment: &Segment<'_>) {
    let (seq, ack, flags) = if segment.has(tcp::ACK) {
        (segment.ack, 0, tcp::RST)
    } else {
        (0, segment.seq.wrapping_add(segment.len()), tcp::RST | tcp::ACK)
    };
    let header = Header { from, to, seq, ack, flags, window: 0, urgent: 0, options: Options::default(), mss: 0 };
    send_bare(lower, network, &header);
}

/// Why the host could not connect, as an ICMP error says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// EHOSTUNREACH.
    Host,
    /// ENETUNREACH.
    Net,
    /// A packet filter of the host.
    Prohibited,
}

/// An ICMP error about a container's SYN with the sequence number `irs`, which is quoted as it would have been forwarded.
pub(super) fn complain(lower: &mut dyn Lower, key: &Key, us: Addr, irs: u32, what: Unreachable, id: u16) {
    let (from, to) = (key.inside, key.outside);
    let mut syn = [0; HEAD];
    let (flags, options) = (tcp::SYN, Options::default());
    let header = Header { from, to, seq: irs, ack: 0, flags, window: 0, urgent: 0, options, mss: 0 };
    let start = write(&mut syn, HEAD, 0, &header);
    let original = &syn[start..];
    let mut buf = [0; HEADROOM + 576];
    let out = &mut buf[HEADROOM..];
    let len = if us.is_v4() {
        let complaint = match what {
            Unreachable::Host => Complaint::HostUnreachable,
            Unreachable::Net => Complaint::NetworkUnreachable,
            Unreachable::Prohibited => Complaint::Prohibited,
        };
        icmp::error(out, us, from.addr, complaint, original, id)
    } else {
        // RFC 4443 3.1: no route, prohibited, address unreachable.
        let code = match what {
            Unreachable::Net => 0,
            Unreachable::Prohibited => 1,
            Unreachable::Host => 3,
        };
        let body_len = 8 + original.len();
        ipv6_header(out, us, from.addr, proto::ICMPV6, body_len);
        let body = &mut out[ipv6::LEN..ipv6::LEN + body_len];
        body[..8].copy_from_slice(&[1, code, 0, 0, 0, 0, 0, 0]);
        body[8..].copy_from_slice(original);
        let pseudo = checksum::pseudo_header(us, from.addr, proto::ICMPV6, body_len as u32);
        let sum = !checksum::add(pseudo, checksum::sum(body));
        put16(body, 2, sum);
        ipv6::LEN + body_len
    };
    VnetHeader::default().write(&mut buf[HEADROOM - vnet::LEN..]);
    match Frame::parse(&mut buf, HEADROOM, HEADROOM + len, Link::Ip) {
        Ok(mut frame) => lower.deliver(key.network, &mut frame),
        Err(why) => debug_assert!(false, "our own frame: {why:?}"),
    }
}

fn ipv6_header(ip: &mut [u8], from: Addr, to: Addr, proto: u8, len: usize) {
    ip[..8].fill(0);
    ip[0] = 0x60;
    put16(ip, ipv6::PAYLOAD_LEN, len as u16); // a packet has at most 65,535 bytes
    ip[ipv6::NEXT_HEADER] = proto;
    ip[7] = icmp::TTL;
    ip[ipv6::SRC..ipv6::SRC + 16].copy_from_slice(from.octets());
    ip[ipv6::DST..ipv6::DST + 16].copy_from_slice(to.octets());
}

/// Writes all headers so that they end at `at`; where they begin.
fn write(buf: &mut [u8], at: usize, len: usize, header: &Header) -> usize {
    let mut options = [0; 40];
    let option_len = header.options.write(&mut options);
    let tcp_len = tcp::MIN_LEN + option_len;
    let l4 = at - tcp_len;
    let is_v4 = header.to.addr.is_v4();
    let ip_len = if is_v4 { ipv4::MIN_LEN } else { ipv6::LEN };
    let l3 = l4 - ip_len;

    let segment = &mut buf[l4..at];
    put16(segment, 0, header.from.port);
    put16(segment, 2, header.to.port);
    put32(segment, tcp::SEQ, header.seq);
    put32(segment, 8, header.ack);
    segment[tcp::DATA_OFFSET] = (tcp_len as u8 / 4) << 4; // at most 60
    segment[tcp::FLAGS] = header.flags | if header.urgent > 0 { URG } else { 0 };
    put16(segment, 14, header.window);
    let sum = checksum::pseudo_header(header.from.addr, header.to.addr, proto::TCP, (tcp_len + len) as u32);
    put16(segment, tcp::CHECKSUM, sum);
    put16(segment, 18, header.urgent);
    segment[tcp::MIN_LEN..].copy_from_slice(&options[..option_len]);

    let ip = &mut buf[l3..l4];
    if is_v4 {
        icmp::header(ip, header.from.addr, header.to.addr, proto::TCP, 0, None, ip_len + tcp_len + len);
    } else {
        ipv6_header(ip, header.from.addr, header.to.addr, proto::TCP, tcp_len + len);
    }

    let mut offload = VnetHeader {
        flags: vnet::NEEDS_CSUM,
        hdr_len: (ip_len + tcp_len) as u16,
        csum_start: ip_len as u16,
        csum_offset: tcp::CHECKSUM as u16,
        ..VnetHeader::default()
    };
    if len > usize::from(header.mss) {
        offload.gso_type = if is_v4 { gso::TCPV4 } else { gso::TCPV6 };
        offload.gso_size = header.mss;
    }
    offload.write(&mut buf[l3 - vnet::LEN..]);
    l3
}
