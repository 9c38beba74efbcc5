//! What a container may say to its own device: an AF_PACKET socket chooses the virtio header, and every byte behind it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use super::bed::{Case, PEER, Pair, SERVER, Switch, UP, soon};
use super::ns::Netns;
use super::packet::{BROADCAST, Mac, Names, Packet, arp, frame};
use super::wire::{VNET_HEADER, View, Wire, needs_checksum};
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    a_checksum_aimed_at_the_source_address_reaches_nobody_with_it,
    a_checksum_that_becomes_anothers_address_is_a_spoofed_one,
    segments_that_do_not_fit_are_counted_and_charged_to_their_sender,
    random_headers_and_random_frames_hurt_nobody,
    no_private_source_leaves_by_the_uplink,
];

const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
const C3: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 4);
const M1: Mac = [2, 0x42, 172, 17, 0, 2];
const M2: Mac = [2, 0x42, 172, 17, 0, 3];

/// struct virtio_net_hdr of linux/virtio_net.h.
const TCPV4: u8 = 1;
const UDP: u8 = 3;
const TCPV6: u8 = 4;
const UDP_L4: u8 = 5;
const NEEDS_CSUM: u8 = 1;

fn header(flags: u8, gso: u8, hdr_len: u16, gso_size: u16, start: u16, offset: u16) -> [u8; VNET_HEADER] {
    let mut bytes = [flags, gso, 0, 0, 0, 0, 0, 0, 0, 0];
    for (at, value) in [(2, hdr_len), (4, gso_size), (6, start), (8, offset)] {
        bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

struct Attack {
    case: Case,
    switch: Switch,
    c1: Netns,
    c2: Netns,
    c3: Netns,
    gateway: Mac,
    wire: Wire,
}

impl Attack {
    fn new() -> Self {
        let case = Case::new();
        let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
        let switch = case.switch(&[]);
        for (name, netns) in [("c1", &c1), ("c2", &c2), ("c3", &c3)] {
            switch.attach(name, netns, &["--mac", "from-ip"]);
        }
        let plain = Wire::open(&c1, "eth0", View::Incoming, Names::default());
        plain.send(&frame(M1, BROADCAST, 0x0806, &arp(1, (M1, C1), ([0; 6], super::bed::GATEWAY))));
        let reply = plain.wait(&["arp 172.17.0.1 is-at"]).expect("the gateway answers");
        let gateway = reply.bytes[6..12].try_into().expect("six bytes");
        let wire = Wire::open(&c1, "eth0", View::Incoming, Names::default()).with_vnet_header();
        Self { case, switch, c1, c2, c3, gateway, wire }
    }

    /// Offers a frame with a header; the kernel of the container may refuse what is plainly impossible.
    fn offer(&self, header: [u8; VNET_HEADER], frame: &[u8]) -> bool {
        self.wire.offer(&[&header, frame].concat()).is_ok()
    }

    fn others_go_on(&self) {
        Pair::new((&self.c2, C2), (&self.c3, C3)).ask();
        Pair::new((&self.c2, C2), (&self.case.world, SERVER)).ask();
        assert!(self.switch.is_running());
    }
}

/// The source of an IPv4 packet.
fn source(packet: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15])
}

/// Whatever came to the kernel's side of the uplink has one of two sources.
fn only_translated(uplink: &Wire) -> usize {
    let mut packets = 0;
    while let Some(heard) = uplink.wait_for(Duration::from_millis(if packets == 0 { 300 } else { 20 }), &[]) {
        let source = source(&heard.bytes);
        assert!([UP, PEER, SERVER].contains(&source), "on the uplink: {}", heard.line);
        packets += 1;
    }
    packets
}

fn a_checksum_aimed_at_the_source_address_reaches_nobody_with_it() {
    let attack = Attack::new();
    let uplink = Wire::open(&attack.case.world, "up0", View::Packets, Names::default());
    let victim = Wire::open(&attack.c2, "eth0", View::Incoming, Names::default());
    let routed =
        Packet::udp(SocketAddrV4::new(C1, 4000), SocketAddrV4::new(SERVER, 9), b"0123456789").frame(M1, attack.gateway);
    let bridged = Packet::udp(SocketAddrV4::new(C1, 4000), SocketAddrV4::new(C2, 9), b"0123456789").frame(M1, M2);
    let tcp = Packet::syn(SocketAddrV4::new(C1, 4001), SocketAddrV4::new(SERVER, 9)).frame(M1, attack.gateway);
    let mut passed = 0;
    for (start, offset) in [
        (26, 0),  // the source address
        (14, 12), // the same, from the IP header
        (30, 0),  // the destination
        (0, 0),
        (14, 10), // the IP header's checksum
        (34, 0),  // the source port
        (34, 4),
        (34, 16), // TCP's place in a UDP packet
        (34, 6),  // and the right one of UDP: wrong for the SYN
        (40, 200),
        (60_000, 6),
        (u16::MAX, u16::MAX),
    ] {
        for bytes in [&routed, &bridged, &tcp] {
            passed += u32::from(attack.offer(needs_checksum(start, offset), bytes));
        }
    }
    assert!(passed > 12, "the container's kernel lets {passed} of 36 pass");
    only_translated(&uplink);
    // The frame of a bridge is the container's to spoil, but not to be somebody else's.
    while let Some(heard) = victim.wait_for(Duration::from_millis(50), &[]) {
        if heard.bytes[12..14] == [8, 0] && heard.bytes[6..12] == M1 {
            let source = source(&heard.bytes[14..]);
            assert!(![C2, C3, super::bed::GATEWAY].contains(&source), "{}", heard.line);
        }
    }
    attack.others_go_on();
    assert_eq!(attack.switch.drops("c2", "bad-checksum-offset"), 0);
    soon("those that lie outside are counted at their sender", || {
        let at_sender = |reason| attack.switch.drops("c1", reason);
        at_sender("bad-checksum-offset") + at_sender("l4-checksum") + at_sender("ip-header-checksum") > 0
    });
    // And an honest one still passes, both ways of saying it.
    let honest = Packet::udp(SocketAddrV4::new(C1, 4002), SocketAddrV4::new(SERVER, 9), b"honest").leave_udp_checksum();
    assert!(attack.offer(needs_checksum(34, 6), &honest.frame(M1, attack.gateway)));
    let heard = uplink.wait(&["192.0.2.10:4002"]).expect("translated");
    assert_eq!(source(&heard.bytes), UP);
}

/// The frame that the guard looks at is the one that the receiver gets: the checksum, filled in, is the address of c3.
fn a_checksum_that_becomes_anothers_address_is_a_spoofed_one() {
    let attack = Attack::new();
    let victim = Wire::open(&attack.c2, "eth0", View::Incoming, Names::default());
    for spoofed in [C3, super::bed::GATEWAY] {
        let packet = Packet::udp(SocketAddrV4::new(spoofed, 4000), SocketAddrV4::new(C2, 9), b"sixteen bytes xx");
        let mut bytes = packet.without_udp_checksum().frame(M1, M2);
        // The last word is chosen so that the sum from 26 on, its complement put at 26, is the address's first half.
        let wanted = u16::from_be_bytes([bytes[26], bytes[27]]);
        let end = bytes.len();
        bytes[26..28].fill(0);
        bytes[end - 2..].fill(0);
        let sum = bytes[26..].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u32>();
        let last = (u32::from(!wanted) + 0xffff * 16 - sum) % 0xffff;
        bytes[end - 2..].copy_from_slice(&u16::try_from(last).expect("a remainder").to_be_bytes());
        assert!(attack.offer(needs_checksum(26, 0), &bytes));
    }
    soon("both are counted", || {
        ["spoofed-address", "bad-checksum-offset"].map(|reason| attack.switch.drops("c1", reason)).iter().sum::<u64>()
            == 2
    });
    assert!(victim.wait_for(Duration::from_millis(100), &["udp"]).is_none());
}

fn segments_that_do_not_fit_are_counted_and_charged_to_their_sender() {
    let attack = Attack::new();
    let uplink = Wire::open(&attack.case.world, "up0", View::Packets, Names::default());
    let big = |to: Ipv4Addr, mac: Mac| {
        Packet::udp(SocketAddrV4::new(C1, 4000), SocketAddrV4::new(to, 9), &[7; 8000])
            .leave_udp_checksum()
            .frame(M1, mac)
    };
    let mut tcp = Packet::syn(SocketAddrV4::new(C1, 4001), SocketAddrV4::new(SERVER, 9)).with_tcp_flags(16);
    tcp = tcp.padded(8000);
    let segments = tcp.frame(M1, attack.gateway);
    let tries = [
        ("gso_size 1, routed", header(NEEDS_CSUM, TCPV4, 54, 1, 34, 16), &segments),
        ("gso_size 0", header(NEEDS_CSUM, TCPV4, 54, 0, 34, 16), &segments),
        ("TCP over IPv6 of an IPv4 packet", header(NEEDS_CSUM, TCPV6, 54, 1400, 34, 16), &segments),
        ("UDP segments of TCP", header(NEEDS_CSUM, UDP_L4, 54, 1400, 34, 16), &segments),
        ("UFO of TCP", header(NEEDS_CSUM, UDP, 54, 1400, 34, 16), &segments),
        ("a type that is none", header(NEEDS_CSUM, 77, 54, 1400, 34, 16), &segments),
        ("no checksum asked for", header(0, TCPV4, 54, 1400, 0, 0), &segments),
        ("a huge header", header(NEEDS_CSUM, TCPV4, 8000, 1400, 34, 16), &segments),
    ];
    for (what, header, bytes) in tries {
        attack.offer(header, bytes);
        assert!(attack.switch.is_running(), "{what}");
    }
    for (to, mac) in [(SERVER, attack.gateway), (C2, M2)] {
        for (kind, size) in [(UDP_L4, 1), (UDP, 1400), (UDP_L4, 60_000), (TCPV4, 1400)] {
            attack.offer(header(NEEDS_CSUM, kind, 42, size, 34, 6), &big(to, mac));
        }
    }
    soon("segments that are too many are counted", || attack.switch.drops("c1", "too-many-segments") > 0);
    // Longer than any MTU, whole, without a word of segmentation.
    attack.offer(needs_checksum(34, 6), &big(SERVER, attack.gateway));
    attack.offer([0; VNET_HEADER], &[0x55; 65_000]);
    only_translated(&uplink);
    assert_eq!(attack.switch.drops("c2", "too-many-segments") + attack.switch.drops("c3", "too-many-segments"), 0);
    attack.others_go_on();
}

/// A xorshift generator: the same attack every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

fn random_headers_and_random_frames_hurt_nobody() {
    let attack = Attack::new();
    let uplink = Wire::open(&attack.case.world, "up0", View::Packets, Names::default());
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut passed = 0;
    for round in 0..20_000_u32 {
        let to = if dice.below(2) == 0 { attack.gateway } else { M2 };
        let target = if to == M2 { C2 } else { SERVER };
        let port = 1024 + dice.below(60_000) as u16;
        let (near, far) = (SocketAddrV4::new(C1, port), SocketAddrV4::new(target, 9));
        let data = vec![dice.roll() as u8; dice.below(1400) as usize];
        let packet = match dice.below(4) {
            0 => Packet::syn(near, far),
            1 => Packet::echo_request(C1, target, port, 1),
            2 => Packet::udp(near, far, &data).leave_udp_checksum(),
            _ => Packet::udp(near, far, &data),
        };
        let mut bytes = packet.frame(M1, to);
        // Some bytes behind the link header are not what they were; now and then it is cut short.
        for _ in 0..dice.below(4) {
            let at = 14 + dice.below(bytes.len() as u64 - 14) as usize;
            bytes[at] = dice.roll() as u8;
        }
        if dice.below(8) == 0 {
            bytes.truncate(14 + dice.below(bytes.len() as u64 - 13) as usize);
        }
        let kind = [0, TCPV4, UDP, TCPV6, UDP_L4, TCPV4 | 0x80, 99][dice.below(7) as usize];
        let (start, offset) = match dice.below(4) {
            0 => (34, 6),
            1 => (34, 16),
            2 => (dice.below(80) as u16, dice.below(40) as u16),
            _ => (dice.roll() as u16, dice.roll() as u16),
        };
        let flags = dice.below(8) as u8;
        passed += u32::from(
            attack.offer(header(flags, kind, dice.below(200) as u16, dice.below(3000) as u16, start, offset), &bytes),
        );
        // The socket of the capture holds some hundred packets: look before it is full.
        if round % 64 == 0 {
            while let Some(heard) = uplink.wait_for(Duration::ZERO, &[]) {
                assert!([UP, PEER, SERVER].contains(&source(&heard.bytes)), "on the uplink: {}", heard.line);
            }
        }
    }
    assert!(passed > 2000, "the container's kernel lets {passed} of 20000 pass");
    only_translated(&uplink);
    attack.others_go_on();
}

/// Not of a new flow, nor INVALID, nor RST, nor ICMP, nor a fragment, nor a source that was never given out (S14).
fn no_private_source_leaves_by_the_uplink() {
    let attack = Attack::new();
    let uplink = Wire::open(&attack.case.world, "up0", View::Packets, Names::default());
    let at = SocketAddrV4::new;
    let syn = Packet::syn(at(C1, 4000), at(SERVER, 9));
    let mut packets: Vec<Packet> =
        [1, 4, 16, 17, 20, 41, 0, 63].map(|flags| syn.clone().with_tcp_flags(flags)).to_vec();
    packets.extend([0, 3, 4, 5, 8, 11, 12, 13, 17, 200].map(|kind| Packet::query(C1, SERVER, kind, 7, 1)));
    packets.push(Packet::error(C1, SERVER, (3, 3), [0; 4], &Packet::udp(at(SERVER, 9), at(C1, 9), b"never").bytes()));
    packets.push(Packet::error(C1, SERVER, (3, 3), [0; 4], b"short"));
    packets
        .extend(super::packet::fragments(&Packet::udp(at(C1, 5), at(SERVER, 9), &[1; 4000]), 1500).into_iter().rev());
    packets.extend([2, 47, 50, 132, 255].map(|protocol| Packet::new(C1, SERVER, protocol, vec![0; 40])));
    for stranger in [[10, 1, 2, 3], [192, 168, 1, 1], [127, 0, 0, 1], [0, 0, 0, 0], [172, 17, 0, 77], [192, 0, 2, 10]] {
        packets.push(Packet::udp(at(stranger.into(), 5), at(SERVER, 9), b"a stranger"));
        packets.push(Packet::syn(at(stranger.into(), 5), at(SERVER, 9)));
    }
    for packet in &packets {
        attack.offer([0; VNET_HEADER], &packet.frame(M1, attack.gateway));
    }
    let seen = only_translated(&uplink);
    assert!(seen > 5, "some of it is translated: {seen}");
    attack.others_go_on();
    assert!(attack.c1.run("ip", &["link"], "").contains("eth0"));
}
