//! Packets as the tests write and read them. Checksums are summed word by word here, on purpose in another way than the
//! program does it.

use std::net::{Ipv4Addr, SocketAddrV4};

use pontoon::wire::mac::Mac;
use pontoon::wire::vnet::{self, VnetHeader};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;
pub const DF: u16 = 0x4000;
pub const MF: u16 = 0x2000;

/// One's complement sum (RFC 1071), not complemented.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            total += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn pseudo(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, len: usize) -> [u8; 12] {
    let (s, d, l) = (src.octets(), dst.octets(), (len as u16).to_be_bytes());
    [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], 0, proto, l[0], l[1]]
}

pub fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or_else(|_| panic!("{text} is an IPv4 address"))
}

fn end(text: &str) -> SocketAddrV4 {
    text.parse().unwrap_or_else(|_| panic!("{text} is address:port"))
}

/// An IPv4 packet to be made.
#[derive(Clone, Debug)]
pub struct Packet {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub tos: u8,
    pub id: u16,
    /// Flags and offset.
    pub frag: u16,
    pub ttl: u8,
    pub proto: u8,
    pub options: Vec<u8>,
    /// What follows the IP header; its checksum is already right.
    pub body: Vec<u8>,
}

impl Packet {
    fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, body: Vec<u8>) -> Packet {
        Packet { src, dst, tos: 0, id: 0x1234, frag: 0, ttl: 64, proto, options: Vec::new(), body }
    }

    pub fn ttl(mut self, ttl: u8) -> Packet {
        self.ttl = ttl;
        self
    }

    pub fn id(mut self, id: u16) -> Packet {
        self.id = id;
        self
    }

    pub fn tos(mut self, tos: u8) -> Packet {
        self.tos = tos;
        self
    }

    pub fn df(mut self) -> Packet {
        self.frag |= DF;
        self
    }

    pub fn options(mut self, options: &[u8]) -> Packet {
        assert_eq!(options.len() % 4, 0);
        self.options = options.to_vec();
        self
    }

    /// Sums the transport checksum again, after `body` was changed.
    pub fn resum(mut self) -> Packet {
        let at = match self.proto {
            ICMP => 2,
            TCP => 16,
            UDP => 6,
            _ => return self,
        };
        self.body[at..at + 2].fill(0);
        let sum = self.l4_sum();
        self.body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    fn l4_sum(&self) -> u16 {
        let pseudo = pseudo(self.src, self.dst, self.proto, self.body.len());
        let head: &[u8] = if self.proto == ICMP { &[] } else { &pseudo };
        match !sum(&[head, &self.body]) {
            0 if self.proto == UDP => 0xffff,
            sum => sum,
        }
    }

    /// Makes the transport checksum partial, as a kernel that leaves it to the device does.
    pub fn partial(mut self) -> Packet {
        let at = if self.proto == TCP { 16 } else { 6 };
        let partial = sum(&[&pseudo(self.src, self.dst, self.proto, self.body.len())]);
        self.body[at..at + 2].copy_from_slice(&partial.to_be_bytes());
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut out = vec![0x40 | (header / 4) as u8, self.tos];
        out.extend_from_slice(&((header + self.body.len()) as u16).to_be_bytes());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.frag.to_be_bytes());
        out.extend_from_slice(&[self.ttl, self.proto, 0, 0]);
        out.extend_from_slice(&self.src.octets());
        out.extend_from_slice(&self.dst.octets());
        out.extend_from_slice(&self.options);
        let check = !sum(&[&out]);
        out[10..12].copy_from_slice(&check.to_be_bytes());
        out.extend_from_slice(&self.body);
        out
    }

    /// Cuts the packet into fragments with `size` bytes of data each.
    pub fn fragments(&self, size: usize) -> Vec<Packet> {
        assert_eq!(size % 8, 0);
        let count = self.body.len().div_ceil(size);
        (0..count)
            .map(|i| {
                let more = if i + 1 < count { MF } else { 0 };
                let body = self.body[i * size..self.body.len().min((i + 1) * size)].to_vec();
                Packet { frag: self.frag | more | (i * size / 8) as u16, body, ..self.clone() }
            })
            .collect()
    }
}

pub fn udp(src: &str, dst: &str) -> Packet {
    udp_with(src, dst, b"datagram")
}

pub fn udp_with(src: &str, dst: &str, data: &[u8]) -> Packet {
    let (src, dst) = (end(src), end(dst));
    let mut body = Vec::new();
    body.extend_from_slice(&src.port().to_be_bytes());
    body.extend_from_slice(&dst.port().to_be_bytes());
    body.extend_from_slice(&((8 + data.len()) as u16).to_be_bytes());
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(data);
    Packet::new(*src.ip(), *dst.ip(), UDP, body).resum()
}

/// A TCP segment; `seq` and `ack` are zero until they are said.
pub fn tcp(src: &str, dst: &str, flags: u8) -> Packet {
    tcp_with(src, dst, flags, 0, 0, &[], &[])
}

pub fn tcp_with(src: &str, dst: &str, flags: u8, seq: u32, ack: u32, options: &[u8], data: &[u8]) -> Packet {
    let (src, dst) = (end(src), end(dst));
    assert_eq!(options.len() % 4, 0);
    let mut body = Vec::new();
    body.extend_from_slice(&src.port().to_be_bytes());
    body.extend_from_slice(&dst.port().to_be_bytes());
    body.extend_from_slice(&seq.to_be_bytes());
    body.extend_from_slice(&ack.to_be_bytes());
    body.extend_from_slice(&[(((20 + options.len()) / 4) << 4) as u8, flags, 0x72, 0x10, 0, 0, 0, 0]);
    body.extend_from_slice(options);
    body.extend_from_slice(data);
    Packet::new(*src.ip(), *dst.ip(), TCP, body).resum()
}

fn icmp(src: &str, dst: &str, kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Packet {
    let mut body = vec![kind, code, 0, 0];
    body.extend_from_slice(&rest);
    body.extend_from_slice(data);
    Packet::new(ip(src), ip(dst), ICMP, body).resum()
}

/// An ICMP query: echo is 8, its reply 0.
pub fn query(src: &str, dst: &str, kind: u8, id: u16) -> Packet {
    let [a, b] = id.to_be_bytes();
    icmp(src, dst, kind, 0, [a, b, 0, 1], b"abcdefghijklmnop")
}

pub fn ping(src: &str, dst: &str, id: u16) -> Packet {
    query(src, dst, 8, id)
}

pub fn pong(src: &str, dst: &str, id: u16) -> Packet {
    query(src, dst, 0, id)
}

/// An ICMP error about `quoted` (a packet as bytes).
pub fn error(src: &str, dst: &str, kind: u8, code: u8, quoted: &[u8]) -> Packet {
    icmp(src, dst, kind, code, [0; 4], &quoted[..quoted.len().min(548)])
}

/// 3/4 with the next hop's MTU.
pub fn too_big(src: &str, dst: &str, mtu: u16, quoted: &[u8]) -> Packet {
    let [a, b] = mtu.to_be_bytes();
    icmp(src, dst, 3, 4, [0, 0, a, b], &quoted[..quoted.len().min(548)])
}

/// Another protocol.
pub fn other(src: &str, dst: &str, proto: u8, body: &[u8]) -> Packet {
    Packet::new(ip(src), ip(dst), proto, body.to_vec())
}

/// A packet as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub tos: u8,
    pub id: u16,
    pub frag: u16,
    pub ttl: u8,
    pub proto: u8,
    pub options: Vec<u8>,
    pub body: Vec<u8>,
}

impl Seen {
    /// Reads an IPv4 packet; panics if its header is not sound to the byte.
    pub fn read(bytes: &[u8]) -> Seen {
        let header = usize::from(bytes[0] & 0xf) * 4;
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(bytes[0] >> 4, 4, "version");
        assert_eq!(usize::from(word(2)), bytes.len(), "total length is the packet's");
        assert_eq!(sum(&[&bytes[..header]]), 0xffff, "header checksum");
        let (parsed, _) = etherparse::Ipv4Header::from_slice(bytes).expect("a second reader agrees");
        if word(6) & 0x8000 == 0 {
            // A reserved bit that the second reader does not keep.
            assert_eq!(parsed.calc_header_checksum(), word(10), "a second reader's header checksum");
        }
        let addr = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        Seen {
            src: addr(12),
            dst: addr(16),
            tos: bytes[1],
            id: word(4),
            frag: word(6),
            ttl: bytes[8],
            proto: bytes[9],
            options: bytes[20..header].to_vec(),
            body: bytes[header..].to_vec(),
        }
    }

    pub fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.body[at], self.body[at + 1]])
    }

    pub fn sport(&self) -> u16 {
        self.word(0)
    }

    pub fn dport(&self) -> u16 {
        self.word(2)
    }

    /// `address:port` of the sender.
    pub fn from(&self) -> String {
        format!("{}:{}", self.src, self.sport())
    }

    /// `address:port` of the receiver.
    pub fn to(&self) -> String {
        format!("{}:{}", self.dst, self.dport())
    }

    pub fn flags(&self) -> u8 {
        self.body[13]
    }

    pub fn seq(&self) -> u32 {
        u32::from_be_bytes([self.body[4], self.body[5], self.body[6], self.body[7]])
    }

    pub fn ack(&self) -> u32 {
        u32::from_be_bytes([self.body[8], self.body[9], self.body[10], self.body[11]])
    }

    /// Type and code of an ICMP message.
    pub fn icmp(&self) -> (u8, u8) {
        assert_eq!(self.proto, ICMP);
        (self.body[0], self.body[1])
    }

    /// Identifier of an ICMP query.
    pub fn icmp_id(&self) -> u16 {
        self.word(4)
    }

    /// The quote of an ICMP error: header and what is there of the rest.
    pub fn quote(&self) -> (Ipv4Addr, Ipv4Addr, &[u8]) {
        let inner = &self.body[8..];
        let header = usize::from(inner[0] & 0xf) * 4;
        assert_eq!(sum(&[&inner[..header]]), 0xffff, "quoted header checksum");
        let addr = |at: usize| Ipv4Addr::new(inner[at], inner[at + 1], inner[at + 2], inner[at + 3]);
        (addr(12), addr(16), &inner[header..])
    }

    pub fn is_fragment(&self) -> bool {
        self.frag & (MF | 0x1fff) != 0
    }

    /// What is behind the transport header.
    pub fn data(&self) -> &[u8] {
        match self.proto {
            TCP => &self.body[usize::from(self.body[12] >> 4) * 4..],
            _ => &self.body[8..],
        }
    }

    /// Is the transport checksum right (whole) or exactly the pseudo-header's sum (partial)?
    pub fn checksum_is_sound(&self, partial: bool) -> bool {
        let pseudo = pseudo(self.src, self.dst, self.proto, self.body.len());
        let at = match self.proto {
            ICMP if self.body.len() >= 8 => return sum(&[&self.body]) == 0xffff,
            TCP if self.body.len() >= 20 => 16,
            UDP if self.body.len() >= 8 => {
                if self.word(6) == 0 && !partial {
                    return true;
                }
                if !partial {
                    let data = &self.body[..usize::from(self.word(4))];
                    let pseudo = self::pseudo(self.src, self.dst, self.proto, data.len());
                    return sum(&[&pseudo, data]) == 0xffff;
                }
                6
            }
            _ => return true,
        };
        if partial {
            let same = |a: u16, b: u16| a == b || (a ^ b == 0xffff && (a == 0 || b == 0));
            return same(self.word(at), sum(&[&pseudo]));
        }
        sum(&[&pseudo, &self.body]) == 0xffff
    }
}

/// An Ethernet frame.
pub fn frame(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&dst.0);
    out.extend_from_slice(&src.0);
    out.extend_from_slice(&ethertype.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// An ARP message for IPv4 over Ethernet: operation, sender, target.
pub fn arp(operation: u8, sender: (Mac, &str), target: (Mac, &str)) -> Vec<u8> {
    let mut out = vec![0, 1, 8, 0, 6, 4, 0, operation];
    out.extend_from_slice(&sender.0.0);
    out.extend_from_slice(&ip(sender.1).octets());
    out.extend_from_slice(&target.0.0);
    out.extend_from_slice(&ip(target.1).octets());
    out
}

/// The virtio header of a frame whose transport header begins at `l4`, with a partial checksum, maybe to be segmented.
pub fn offload(proto: u8, l4: usize, segment: u16) -> VnetHeader {
    let (kind, offset) = if proto == TCP { (vnet::gso::TCPV4, 16) } else { (vnet::gso::UDP_L4, 6) };
    VnetHeader {
        flags: vnet::NEEDS_CSUM,
        gso_type: if segment > 0 { kind } else { vnet::gso::NONE },
        hdr_len: 0, // never believed
        gso_size: segment,
        csum_start: l4 as u16,
        csum_offset: offset,
    }
}
