//! Packets made by hand and packets told in one line, by a library that the switch itself does not use (etherparse).

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::checksum::u32_16bit_word as sum;
use etherparse::{
    EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, IpDscp, IpEcn, IpFragOffset, IpNumber,
    Ipv4Header, Ipv4HeaderSlice, Ipv4Options, TcpHeader, TcpHeaderSlice, UdpHeader,
};

pub type Mac = [u8; 6];
pub const BROADCAST: Mac = [0xff; 6];

/// A VLAN tag, 802.1Q, and the outer one of two, 802.1ad.
pub const VLAN: u16 = 0x8100;
pub const QINQ: u16 = 0x88a8;

/// An IPv4 packet under construction.
#[derive(Clone)]
pub struct Packet {
    header: Ipv4Header,
    payload: Vec<u8>,
}

impl Packet {
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        let length = u16::try_from(payload.len()).expect("one packet");
        let mut header =
            Ipv4Header::new(length, 64, IpNumber(protocol), source.octets(), destination.octets()).expect("one packet");
        header.identification = 0x5150;
        header.dont_fragment = false;
        Self { header, payload }
    }

    pub fn udp(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Self {
        let header = UdpHeader::with_ipv4_checksum(
            from.port(),
            to.port(),
            &Self::new(*from.ip(), *to.ip(), 17, vec![]).header,
            data,
        );
        let mut bytes = header.expect("one packet").to_bytes().to_vec();
        bytes.extend_from_slice(data);
        Self::new(*from.ip(), *to.ip(), 17, bytes)
    }

    /// A SYN, as a first packet has it.
    pub fn syn(from: SocketAddrV4, to: SocketAddrV4) -> Self {
        let mut header = TcpHeader::new(from.port(), to.port(), 1_000, 64_240);
        header.syn = true;
        header.checksum = header.calc_checksum_ipv4_raw(from.ip().octets(), to.ip().octets(), &[]).expect("short");
        Self::new(*from.ip(), *to.ip(), 6, header.to_bytes().to_vec())
    }

    pub fn echo_request(from: Ipv4Addr, to: Ipv4Addr, id: u16, seq: u16) -> Self {
        Self::icmp(from, to, Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq }), b"pontoon!")
    }

    /// An ICMP message of any type that is laid out as an echo is.
    pub fn query(from: Ipv4Addr, to: Ipv4Addr, kind: u8, id: u16, seq: u16) -> Self {
        let [id, seq] = [id.to_be_bytes(), seq.to_be_bytes()];
        let rest = [id[0], id[1], seq[0], seq[1]];
        Self::icmp(from, to, Icmpv4Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: rest }, b"pontoon!")
    }

    /// An ICMP error of type and code `kind`, `rest` in its second word, about a packet or the beginning of one.
    pub fn error(from: Ipv4Addr, to: Ipv4Addr, kind: (u8, u8), rest: [u8; 4], about: &[u8]) -> Self {
        Self::icmp(from, to, Icmpv4Type::Unknown { type_u8: kind.0, code_u8: kind.1, bytes5to8: rest }, about)
    }

    fn icmp(from: Ipv4Addr, to: Ipv4Addr, kind: Icmpv4Type, data: &[u8]) -> Self {
        let mut bytes = Icmpv4Header::with_checksum(kind, data).to_bytes().to_vec();
        bytes.extend_from_slice(data);
        Self::new(from, to, 1, bytes)
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.header.time_to_live = ttl;
        self
    }

    pub fn id(mut self, id: u16) -> Self {
        self.header.identification = id;
        self
    }

    pub fn dont_fragment(mut self) -> Self {
        self.header.dont_fragment = true;
        self
    }

    /// DSCP and ECN, the whole byte.
    pub fn tos(mut self, tos: u8) -> Self {
        self.header.dscp = IpDscp::try_new(tos >> 2).expect("six bits");
        self.header.ecn = IpEcn::try_new(tos & 3).expect("two bits");
        self
    }

    /// IP options: a multiple of four bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.header.options = Ipv4Options::try_from(options).expect("a legal length");
        self.header.set_payload_len(self.payload.len()).expect("one packet");
        self
    }

    /// Puts the pseudo-header's sum alone in the UDP checksum field, as a sender does that leaves the rest to the hardware.
    pub fn leave_udp_checksum(mut self) -> Self {
        let length = u16::try_from(self.payload.len()).expect("one packet");
        let mut pseudo = sum::add_4bytes(0, self.header.source);
        pseudo = sum::add_4bytes(pseudo, self.header.destination);
        pseudo = sum::add_2bytes(pseudo, 17u16.to_be_bytes());
        pseudo = sum::add_2bytes(pseudo, length.to_be_bytes());
        // The field holds the sum itself; the function returns its complement, in memory order.
        self.payload[6..8].copy_from_slice(&(!sum::ones_complement(pseudo)).to_ne_bytes());
        self
    }

    /// More bytes behind the transport header, which nobody has a checksum of.
    pub fn padded(mut self, more: usize) -> Self {
        self.payload.resize(self.payload.len() + more, 0x55);
        self.header.set_payload_len(self.payload.len()).expect("one packet");
        self
    }

    /// Other numbers in the TCP header; [`Packet::with_tcp_flags`] makes its checksum anew.
    pub fn numbered(mut self, sequence: u32, acknowledgement: u32) -> Self {
        self.payload[4..8].copy_from_slice(&sequence.to_be_bytes());
        self.payload[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        self
    }

    /// Other TCP flags in place of SYN, with the checksum they need: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub fn with_tcp_flags(mut self, flags: u8) -> Self {
        let (mut header, _) = TcpHeader::from_slice(&self.payload).expect("made by syn");
        header.syn = flags & 2 != 0;
        header.fin = flags & 1 != 0;
        header.rst = flags & 4 != 0;
        header.psh = flags & 8 != 0;
        header.ack = flags & 16 != 0;
        header.checksum =
            header.calc_checksum_ipv4_raw(self.header.source, self.header.destination, &[]).expect("short");
        self.payload = header.to_bytes().to_vec();
        self
    }

    pub fn with_wrong_udp_checksum(mut self) -> Self {
        self.payload[7] ^= 0x55;
        self
    }

    /// Says zero in the UDP checksum field: none computed (RFC 768).
    pub fn without_udp_checksum(mut self) -> Self {
        self.payload[6..8].fill(0);
        self
    }

    pub fn destination(&self) -> Ipv4Addr {
        self.header.destination.into()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    pub fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        frame(from, to, EtherType::IPV4.0, &self.bytes())
    }

    /// How a capture would tell it.
    pub fn told(&self) -> String {
        describe_ip(&self.bytes(), false)
    }
}

/// Cuts a packet as an IPv4 sender with this MTU would.
pub fn fragments(packet: &Packet, mtu: usize) -> Vec<Packet> {
    let room = (mtu - packet.header.header_len()) & !7;
    let pieces: Vec<&[u8]> = packet.payload.chunks(room).collect();
    let fragment = |(index, piece): (usize, &&[u8])| {
        let mut fragment = Packet { header: packet.header.clone(), payload: piece.to_vec() };
        fragment.header.set_payload_len(piece.len()).expect("shorter than the whole");
        fragment.header.more_fragments = index + 1 < pieces.len();
        fragment.header.fragment_offset =
            IpFragOffset::try_new(u16::try_from(index * room / 8).expect("in a packet")).expect("in a packet");
        fragment
    };
    pieces.iter().enumerate().map(fragment).collect()
}

pub fn frame(from: Mac, to: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes =
        Ethernet2Header { source: from, destination: to, ether_type: EtherType(ethertype) }.to_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

/// Puts VLAN tags, outermost first, after the addresses of a frame.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = frame[..12].to_vec();
    for (tpid, tci) in tags {
        bytes.extend_from_slice(&tpid.to_be_bytes());
        bytes.extend_from_slice(&tci.to_be_bytes());
    }
    bytes.extend_from_slice(&frame[12..]);
    bytes
}

/// `who-has target tell sender` (operation 1) or `sender is-at` (operation 2).
pub fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend_from_slice(&operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        bytes.extend_from_slice(&mac);
        bytes.extend_from_slice(&address.octets());
    }
    bytes
}

/// Who is who on the segment: a name in place of a MAC makes two runs comparable.
#[derive(Clone, Default)]
pub struct Names(pub Vec<(Mac, String)>);

impl Names {
    fn of(&self, mac: &[u8]) -> String {
        match self.0.iter().find(|(known, _)| known == mac) {
            Some((_, name)) => name.clone(),
            None if mac == BROADCAST => "all".to_owned(),
            None => mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"),
        }
    }

    /// One line for a frame; `pending` as for [`describe_ip`].
    pub fn describe(&self, frame: &[u8], pending: bool) -> String {
        if frame.len() < 14 {
            return format!("a runt of {} bytes", frame.len());
        }
        let mut line = format!("{} > {}", self.of(&frame[6..12]), self.of(&frame[..6]));
        let mut rest = &frame[12..];
        while let [a, b, c, d, after @ ..] = rest
            && [VLAN, QINQ].contains(&u16::from_be_bytes([*a, *b]))
        {
            let _ = write!(line, " {:#06x} vlan {}", u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
            rest = after;
        }
        match rest {
            [0x08, 0x00, packet @ ..] => line + " " + &describe_ip(packet, pending),
            [0x08, 0x06, arp @ ..] if arp.len() >= 28 => line + " " + &self.describe_arp(arp),
            [a, b, payload @ ..] => {
                line + &format!(
                    " type {:#06x} {:?}",
                    u16::from_be_bytes([*a, *b]),
                    String::from_utf8_lossy(payload).trim_end_matches('\0')
                )
            }
            _ => line + " cut in a tag",
        }
    }

    fn describe_arp(&self, arp: &[u8]) -> String {
        let address = |at: usize| Ipv4Addr::new(arp[at], arp[at + 1], arp[at + 2], arp[at + 3]);
        match arp[7] {
            1 => format!("arp who-has {} tell {}", address(24), address(14)),
            2 => format!("arp {} is-at {}", address(14), self.of(&arp[8..14])),
            other => format!("arp operation {other}"),
        }
    }
}

/// One line for an IPv4 packet, with every checksum checked. `pending`: the L4 checksum is left to the hardware, so there is none to check.
pub fn describe_ip(bytes: &[u8], pending: bool) -> String {
    let Ok(header) = Ipv4HeaderSlice::from_slice(bytes) else {
        return format!("not IPv4: {bytes:02x?}");
    };
    let payload_end = bytes.len().min(usize::from(header.total_len()));
    let payload = bytes.get(header.slice().len()..payload_end).unwrap_or_default();
    let whole = payload_end == usize::from(header.total_len()) && !header.is_fragmenting_payload();
    let (source, destination) = (header.source_addr(), header.destination_addr());

    let mut line = match (header.protocol().0, payload) {
        _ if header.fragments_offset().value() != 0 => {
            format!("{source} > {destination} protocol {}", header.protocol().0)
        }
        (17, [a, b, c, d, length, length_low, ..]) => format!(
            "{source}:{} > {destination}:{} udp {}",
            u16::from_be_bytes([*a, *b]),
            u16::from_be_bytes([*c, *d]),
            u16::from_be_bytes([*length, *length_low]).saturating_sub(8),
        ),
        (6, [a, b, c, d, rest @ ..]) => {
            let flags = TcpHeaderSlice::from_slice(payload)
                .map_or_else(|_| format!("cut to {}", rest.len() + 4), |tcp| flags(&tcp));
            format!(
                "{source}:{} > {destination}:{} tcp {flags}",
                u16::from_be_bytes([*a, *b]),
                u16::from_be_bytes([*c, *d])
            )
        }
        (1, [kind, code, _, _, a, b, c, d, rest @ ..]) => {
            format!("{source} > {destination} {}", describe_icmp([*kind, *code], [*a, *b, *c, *d], rest))
        }
        (protocol, _) => format!("{source} > {destination} protocol {protocol} {}", payload.len()),
    };
    let tos = header.dcp().value() << 2 | header.ecn().value();
    if tos != 0 {
        let _ = write!(line, " tos {tos:#04x}");
    }
    if header.dont_fragment() {
        line += " df";
    }
    if header.is_fragmenting_payload() {
        let start = usize::from(header.fragments_offset().value()) * 8;
        let more = if header.more_fragments() { "+" } else { "" };
        let _ = write!(line, " id {:#06x} bytes {start}..{}{more}", header.identification(), start + payload.len());
    }
    if !header.options().is_empty() {
        let _ = write!(line, " options {:02x?}", header.options());
    }
    let _ = write!(line, " ttl {}", header.ttl());
    if sum::ones_complement(sum::add_slice(0, header.slice())) != 0 {
        line += " BAD IP CHECKSUM";
    }
    if whole && !pending && !l4_checksum_holds(&header, payload) {
        line += " BAD L4 CHECKSUM";
    }
    line
}

fn describe_icmp(kind: [u8; 2], rest: [u8; 4], data: &[u8]) -> String {
    let [high, low, seq_high, seq_low] = rest;
    let query = |name: &str| {
        format!("{name} id {} seq {}", u16::from_be_bytes([high, low]), u16::from_be_bytes([seq_high, seq_low]))
    };
    let quote = || format!("about ({})", describe_ip(data, false));
    match kind {
        [8, 0] => query("echo-request"),
        [0, 0] => query("echo-reply"),
        [3, 4] => format!("icmp 3/4 mtu {} {}", u16::from_be_bytes([seq_high, seq_low]), quote()),
        [5, code] => format!("icmp 5/{code} to {} {}", Ipv4Addr::from(rest), quote()),
        [kind @ (3 | 4 | 11 | 12), code] => format!("icmp {kind}/{code} {}", quote()),
        [kind, code] => format!("icmp {kind}/{code}"),
    }
}

fn l4_checksum_holds(header: &Ipv4HeaderSlice<'_>, payload: &[u8]) -> bool {
    let protocol = header.protocol().0;
    let pseudo = match protocol {
        1 => 0,
        17 if payload.get(6..8) == Some(&[0, 0]) => return true,
        6 | 17 => {
            let addresses = sum::add_4bytes(sum::add_4bytes(0, header.source()), header.destination());
            let length = u16::try_from(payload.len()).expect("within a packet");
            sum::add_2bytes(sum::add_2bytes(addresses, u16::from(protocol).to_be_bytes()), length.to_be_bytes())
        }
        _ => return true,
    };
    sum::ones_complement(sum::add_slice(pseudo, payload)) == 0
}

fn flags(tcp: &TcpHeaderSlice<'_>) -> String {
    let all = [('S', tcp.syn()), ('F', tcp.fin()), ('R', tcp.rst()), ('P', tcp.psh()), ('A', tcp.ack())];
    all.iter().filter(|(_, set)| *set).map(|(letter, _)| *letter).collect()
}
