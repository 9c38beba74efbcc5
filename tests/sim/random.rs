//! Random traffic: what must hold whatever comes.

use proptest::prelude::*;

use pontoon::core::command::{Answer, Command, EndpointRequest, NetworkConfig, Query, StaticRule, Transport};
use pontoon::core::datapath::Config;
use pontoon::frame::Caps;
use pontoon::wire::mac::Mac;
use pontoon::wire::vnet::{self, VnetHeader};

use crate::net::{Host, Net, Out, UP, addr, network, publication};
use crate::packet::{self, ICMP, Packet, Seen, TCP, UDP, arp, error, frame, offload, ping, query, tcp_with, udp_with};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// A packet of one of the containers to the gateway.
    Out {
        from: usize,
        to: usize,
        packet: Kind,
        twist: Twist,
    },
    /// A packet by the uplink.
    In {
        from: usize,
        to: usize,
        packet: Kind,
        twist: Twist,
    },
    /// The answer to the last packet that left by the uplink.
    Answer {
        packet: Kind,
    },
    /// An ICMP error about the last packet that left by the uplink, or that a container got.
    Error {
        kind: u8,
        code: u8,
        of_container: bool,
    },
    /// A frame between containers or to all.
    Bridge {
        from: usize,
        to: usize,
        packet: Kind,
    },
    Arp {
        from: usize,
        operation: u8,
        sender: usize,
        target: usize,
        broadcast: bool,
    },
    Wait(u16),
    /// What an operator does meanwhile.
    Command(u8),
}

#[derive(Clone, Debug)]
enum Kind {
    Udp { sport: u16, dport: u16, len: usize },
    Tcp { sport: u16, dport: u16, flags: u8, seq: u32, ack: u32, len: usize },
    Query { kind: u8, id: u16 },
    Other { proto: u8, len: usize },
}

/// What is unusual about a packet.
#[derive(Clone, Debug)]
enum Twist {
    None,
    Ttl(u8),
    /// Only the fragment of this number, of packets cut every 24 bytes.
    Fragment(usize),
    Partial,
    Options(Vec<u8>),
    /// A byte of the packet is changed, and the header checksum put right.
    Byte {
        at: prop::sample::Index,
        value: u8,
    },
}

const CONTAINERS: [&str; 4] = ["172.17.0.2", "172.17.0.3", "172.17.0.4", "172.19.0.2"];
const TARGETS: [&str; 10] = [
    "198.51.100.5",
    "198.51.100.6",
    UP,
    "172.17.0.1",
    "172.17.0.3",
    "172.17.0.99",
    "172.19.0.2",
    "172.17.255.255",
    "239.1.1.1",
    "127.0.0.1",
];
/// A static rule leads it to a container, now and then.
const RULED: &str = "198.51.100.6";
const OUTSIDE: [&str; 4] = ["198.51.100.5", "198.51.100.6", "203.0.113.5", "172.17.0.2"];

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 4000..4004u16, 2 => Just(80u16), 1 => any::<u16>()]
}

fn kind() -> impl Strategy<Value = Kind> {
    let flags = prop_oneof![Just(2u8), Just(18), Just(16), Just(17), Just(4), Just(20), any::<u8>()];
    let seq = || prop_oneof![0..3000u32, any::<u32>()];
    prop_oneof![
        3 => (port(), port(), 0..200usize).prop_map(|(sport, dport, len)| Kind::Udp { sport, dport, len }),
        4 => (port(), port(), flags, seq(), seq(), 0..200usize)
            .prop_map(|(sport, dport, flags, seq, ack, len)| Kind::Tcp { sport, dport, flags, seq, ack, len }),
        2 => (prop_oneof![Just(8u8), Just(0), 0..20u8], prop_oneof![Just(7u16), Just(0x0812), any::<u16>()])
            .prop_map(|(kind, id)| Kind::Query { kind, id }),
        1 => (prop_oneof![Just(47u8), Just(50), Just(132), any::<u8>()], 0..64usize)
            .prop_map(|(proto, len)| Kind::Other { proto, len }),
    ]
}

fn twist() -> impl Strategy<Value = Twist> {
    prop_oneof![
        6 => Just(Twist::None),
        1 => (0..3u8).prop_map(Twist::Ttl),
        2 => (0..4usize).prop_map(Twist::Fragment),
        2 => Just(Twist::Partial),
        1 => prop::collection::vec(any::<u8>(), 1..10)
            .prop_map(|mut o| { o.resize(o.len().next_multiple_of(4), 0); Twist::Options(o) }),
        2 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, value)| Twist::Byte { at, value }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4usize, 0..10usize, kind(), twist())
            .prop_map(|(from, to, packet, twist)| Step::Out { from, to, packet, twist }),
        5 => (0..4usize, 0..10usize, kind(), twist())
            .prop_map(|(from, to, packet, twist)| Step::In { from, to, packet, twist }),
        4 => kind().prop_map(|packet| Step::Answer { packet }),
        3 => (prop_oneof![Just(3u8), Just(11), 0..13u8], 0..14u8, any::<bool>())
            .prop_map(|(kind, code, of_container)| Step::Error { kind, code, of_container }),
        2 => (0..4usize, 0..6usize, kind()).prop_map(|(from, to, packet)| Step::Bridge { from, to, packet }),
        2 => (0..4usize, 1..3u8, 0..10usize, 0..10usize, any::<bool>())
            .prop_map(|(from, operation, sender, target, broadcast)| Step::Arp { from, operation, sender, target, broadcast }),
        2 => prop_oneof![0..2000u16, Just(40_000u16)].prop_map(Step::Wait),
        1 => (0..8u8).prop_map(Step::Command),
    ]
}

fn build(src: &str, dst: &str, kind: &Kind) -> Packet {
    match *kind {
        Kind::Udp { sport, dport, len } => {
            udp_with(&format!("{src}:{sport}"), &format!("{dst}:{dport}"), &vec![7; len])
        }
        Kind::Tcp { sport, dport, flags, seq, ack, len } => {
            tcp_with(&format!("{src}:{sport}"), &format!("{dst}:{dport}"), flags, seq, ack, &[], &vec![7; len])
        }
        Kind::Query { kind, id } => query(src, dst, kind, id),
        Kind::Other { proto: ICMP | TCP | UDP, .. } => ping(src, dst, 1),
        Kind::Other { proto, len } => packet::other(src, dst, proto, &vec![7; len]),
    }
}

/// The packet's bytes and virtio header; `link`: bytes before the IP header.
fn twisted(packet: Packet, twist: &Twist, link: usize) -> (VnetHeader, Vec<u8>) {
    let plain = VnetHeader::default();
    match twist {
        Twist::Ttl(ttl) => (plain, packet.ttl(*ttl).bytes()),
        Twist::Fragment(n) if !packet.body.is_empty() => {
            let parts = packet.fragments(24);
            (plain, parts[n % parts.len()].bytes())
        }
        Twist::Partial if matches!(packet.proto, TCP | UDP) => {
            (offload(packet.proto, link + 20, 0), packet.partial().bytes())
        }
        Twist::None | Twist::Fragment(_) | Twist::Partial => (plain, packet.bytes()),
        Twist::Options(options) => (plain, packet.options(options).bytes()),
        Twist::Byte { at, value } => {
            let mut bytes = packet.bytes();
            let at = at.index(bytes.len());
            bytes[at] = *value;
            let header = (usize::from(bytes[0] & 0xf) * 4).clamp(20, bytes.len());
            bytes[10..12].fill(0);
            let check = !packet::sum(&[&bytes[..header]]);
            bytes[10..12].copy_from_slice(&check.to_be_bytes());
            (plain, bytes)
        }
    }
}

struct World {
    net: Net,
    hosts: Vec<Host>,
    gateways: Vec<Mac>,
    last_left: Option<Vec<u8>>,
    last_got: Option<(usize, Vec<u8>)>,
    drops: u64,
    /// Fragments or packets may wait: what comes later may be dropped in numbers.
    may_hold: bool,
}

fn masqueraded(addr: std::net::Ipv4Addr) -> bool {
    addr.octets()[..2] == [172, 17]
}

impl World {
    fn new() -> World {
        let mut net = Net::new();
        net.add_network(NetworkConfig { masquerade: false, ..network("open", "172.19.0.0/16") });
        let mut hosts = vec![net.attach()];
        let plain = net.request("default");
        hosts.push(net.attach_as(plain, Caps::PLAIN));
        hosts.push(net.attach());
        hosts.push(net.attach_to("open"));
        net.publish("c2", Transport::Tcp, 80, 80);
        net.publish("c2", Transport::Udp, 80, 4000);
        net.quiet();
        let gateways = vec![net.gateway_mac_of("default"), net.gateway_mac_of("open")];
        World { net, hosts, gateways, last_left: None, last_got: None, drops: 0, may_hold: false }
    }

    fn gateway_of(&self, host: usize) -> Mac {
        self.gateways[usize::from(host == 3)]
    }

    fn all_drops(&mut self) -> u64 {
        let Answer::Ports(ports) = self.net.query(Query::Ports) else { unreachable!() };
        ports.iter().flat_map(|p| p.drops.iter().map(|d| d.1)).sum()
    }

    fn waiting(&mut self) -> usize {
        let Answer::Neighbours(page) = self.net.query(Query::Neighbours { cursor: 0, max: 4096 }) else {
            unreachable!()
        };
        page.rows.iter().map(|n| n.held).sum()
    }

    /// Checks one transmission by the uplink.
    fn check_left(&mut self, out: &Out, whole: bool) {
        let seen = Seen::read(&out.bytes);
        let partial = out.vnet.flags & vnet::NEEDS_CSUM != 0;
        if whole && !seen.is_fragment() {
            assert!(seen.checksum_is_sound(partial), "by the uplink: {seen:02x?}");
        }
        assert!(!masqueraded(seen.src), "a private source on the uplink: {seen:02x?}");
        // The address of a static rule answers as itself.
        let ours = seen.src.to_string() == UP || seen.src == packet::ip(RULED) || seen.src.octets()[..2] == [172, 19];
        assert!(ours, "a stranger: {seen:02x?}");
        if seen.proto == ICMP && !seen.is_fragment() && matches!(seen.body[0], 3 | 11 | 12) {
            let (_, inner_dst, _) = seen.quote();
            assert!(!masqueraded(inner_dst), "a private address in a quote: {seen:02x?}");
        }
        self.last_left = Some(out.bytes.clone());
    }

    /// Checks one transmission to a container.
    fn check_got(&mut self, host: usize, out: &Out) {
        if self.hosts[host].port == self.hosts[1].port {
            assert_eq!(out.vnet, VnetHeader { hdr_len: out.vnet.hdr_len, ..VnetHeader::default() }, "a plain port");
        }
        if out.src() != self.gateway_of(host) || !out.is_ip() {
            return;
        }
        let seen = Seen::read(&out.bytes[14..]);
        if !seen.is_fragment() {
            assert!(seen.checksum_is_sound(out.vnet.flags & vnet::NEEDS_CSUM != 0), "to a container: {seen:02x?}");
        }
        if out.dst() == self.hosts[host].mac {
            // Addresses that nobody owns are behind whoever claims them.
            let dst = Some(addr(&seen.dst.to_string()));
            let stranger = self.hosts.iter().any(|h| h.ip == dst && h.port != self.hosts[host].port);
            assert!(!stranger, "somebody else's: {seen:02x?}");
        }
        self.last_got = Some((host, out.bytes[14..].to_vec()));
    }

    fn collect(&mut self, whole: bool) -> usize {
        let uplink = self.net.uplink.unwrap();
        let mut count = 0;
        for out in self.net.received(uplink) {
            self.check_left(&out, whole);
            count += 1;
        }
        for host in 0..self.hosts.len() {
            for out in self.net.received(self.hosts[host].port) {
                self.check_got(host, &out);
                count += 1;
            }
        }
        count
    }

    /// One frame comes in: it is sent on, answered, held, or counted as one drop.
    fn input(&mut self, port: pontoon::core::port::PortId, header: VnetHeader, bytes: &[u8], may_vanish: bool) {
        let waiting = self.waiting();
        self.net.input(port, header, bytes);
        let sent = self.collect(true);
        let drops = self.all_drops();
        let dropped = drops - self.drops;
        self.drops = drops;
        let held = self.waiting() > waiting;
        if sent == 0 && dropped == 0 && !held {
            assert!(may_vanish, "vanished: {bytes:02x?}");
            self.may_hold = true;
        }
        self.may_hold |= held;
        assert!(dropped <= 1 || self.may_hold, "dropped {dropped} times: {bytes:02x?}");
    }

    /// An operator changes what is there, and puts it back.
    fn command(&mut self, which: u8) {
        let dst = addr(RULED);
        let dnat = StaticRule::Dnat { proto: Transport::Udp, dst, port: 80, to: addr("172.17.0.4"), to_port: 9 };
        let dead =
            StaticRule::Dnat { proto: Transport::Udp, dst: addr(UP), port: 4001, to: addr("172.17.0.77"), to_port: 9 };
        let no_nat = StaticRule::NoNat { dst: "203.0.113.0/24".parse().unwrap() };
        // A rule may be there, or not be there, from a turn before.
        let mut change = |command: Command| drop(self.net.try_apply(command));
        match which {
            0 => change(Command::AddRule(dnat)),
            1 => change(Command::RemoveRule(dnat)),
            2 => change(Command::AddRule(dead)),
            3 => change(Command::FlushFlows { name: None }),
            4 => {
                self.net.apply(Command::AddRule(no_nat));
                self.net.apply(Command::RemoveRule(no_nat));
            }
            5 => {
                let ports = vec![publication(Transport::Udp, 80, 4000)];
                self.net.apply(Command::Unpublish { name: "c2".to_owned(), ports });
                self.net.publish("c2", Transport::Udp, 80, 4000);
            }
            6 => {
                let port = self.net.uplink.unwrap();
                self.net.apply(Command::Detach { port });
                self.last_left = None;
                self.net.connect(1500, true);
            }
            _ => {
                self.net.apply(Command::Detach { port: self.hosts[2].port });
                let ip = self.hosts[2].ip;
                let request = EndpointRequest { ip, ..self.net.request("default") };
                self.hosts[2] = self.net.attach_as(request, Caps::FULL);
                self.last_got = None;
            }
        }
    }

    fn go(&mut self, step: &Step) {
        match step {
            Step::Out { from, to, packet, twist } => {
                let host = self.hosts[*from];
                let packet = build(CONTAINERS[*from], TARGETS[*to], packet);
                let (header, bytes) = twisted(packet, twist, 14);
                let bytes = frame(self.gateway_of(*from), host.mac, 0x0800, &bytes);
                self.input(host.port, header, &bytes, is_later_fragment(&bytes[14..]));
            }
            Step::In { from, to, packet, twist } => {
                let packet = build(OUTSIDE[*from], TARGETS[*to], packet);
                let (header, bytes) = twisted(packet, twist, 0);
                let later = is_later_fragment(&bytes);
                self.input(self.net.uplink.unwrap(), header, &bytes, later);
            }
            Step::Answer { packet } => {
                let Some(last) = self.last_left.as_deref().map(Seen::read) else { return };
                if last.is_fragment() || last.body.len() < 8 {
                    return;
                }
                let (src, dst) = (last.dst.to_string(), last.src.to_string());
                let kind = match (last.proto, packet) {
                    (UDP, _) => Kind::Udp { sport: last.dport(), dport: last.sport(), len: 9 },
                    (TCP, Kind::Tcp { flags, seq, ack, len, .. }) => {
                        let (sport, dport) = (last.dport(), last.sport());
                        Kind::Tcp { sport, dport, flags: *flags, seq: *seq, ack: *ack, len: *len }
                    }
                    (TCP, _) => {
                        let (sport, dport, ack) = (last.dport(), last.sport(), last.seq().wrapping_add(1));
                        Kind::Tcp { sport, dport, flags: 18, seq: 1, ack, len: 0 }
                    }
                    (ICMP, _) => Kind::Query { kind: 0, id: last.icmp_id() },
                    (proto, _) => Kind::Other { proto, len: 9 },
                };
                let bytes = build(&src, &dst, &kind).bytes();
                self.input(self.net.uplink.unwrap(), VnetHeader::default(), &bytes, false);
            }
            Step::Error { kind, code, of_container: false } => {
                let Some(last) = self.last_left.clone() else { return };
                let to = Seen::read(&last).src.to_string();
                let bytes = error("203.0.113.77", &to, *kind, *code, &last).bytes();
                self.input(self.net.uplink.unwrap(), VnetHeader::default(), &bytes, false);
            }
            Step::Error { kind, code, of_container: true } => {
                let Some((host, last)) = self.last_got.clone() else { return };
                let to = Seen::read(&last).src.to_string();
                let bytes = error(CONTAINERS[host], &to, *kind, *code, &last).bytes();
                let bytes = frame(self.gateway_of(host), self.hosts[host].mac, 0x0800, &bytes);
                self.input(self.hosts[host].port, VnetHeader::default(), &bytes, false);
            }
            Step::Bridge { from, to, packet } => {
                let host = self.hosts[*from];
                let dst = [self.hosts[0].mac, self.hosts[1].mac, self.hosts[2].mac, Mac::BROADCAST];
                let dst = dst.get(*to).copied().unwrap_or(Mac([2, 9, 9, 9, 9, *to as u8]));
                let bytes = build(CONTAINERS[*from], "172.17.0.3", packet).bytes();
                let alone = *from == 3; // a flood that nobody is there to hear
                self.input(host.port, VnetHeader::default(), &frame(dst, host.mac, 0x0800, &bytes), alone);
            }
            Step::Arp { from, operation, sender, target, broadcast } => {
                let host = self.hosts[*from];
                let dst = if *broadcast { Mac::BROADCAST } else { self.gateway_of(*from) };
                let message = arp(*operation, (host.mac, TARGETS[*sender]), (Mac::ZERO, TARGETS[*target]));
                self.may_hold = true; // an answer lets go what waited
                self.input(host.port, VnetHeader::default(), &frame(dst, host.mac, 0x0806, &message), true);
            }
            Step::Command(which) => {
                self.command(*which);
                self.collect(true);
                self.drops = self.all_drops();
                self.may_hold = true; // what waited may be let go
            }
            Step::Wait(millis) => {
                self.net.advance(std::time::Duration::from_millis(u64::from(*millis)));
                self.collect(true);
                self.drops = self.all_drops();
            }
        }
    }
}

fn is_later_fragment(ip: &[u8]) -> bool {
    u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0
}

/// Does `b` say the same as `a`, where a one's complement zero has two forms?
fn same_but_for_zero(a: &[u8], b: &[u8], at: usize) -> bool {
    let rest = |x: &[u8]| [&x[..at], &x[at + 2..]].concat();
    let word = |x: &[u8]| u16::from_be_bytes([x[at], x[at + 1]]) % 0xffff;
    rest(a) == rest(b) && word(a) == word(b)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    // R27, R01, R17, R31, U12, X20
    #[test]
    fn whatever_comes_no_private_source_leaves_sums_are_right_and_every_frame_is_accounted_for(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut world = World::new();
        world.drops = world.all_drops();
        for step in &steps {
            world.go(step);
        }
        world.net.secs(200);
        world.collect(true);
        prop_assert_eq!(world.waiting(), 0, "nothing waits for ever");
    }

    // R09, B14
    #[test]
    fn random_bytes_on_any_port_are_survived(
        frames in prop::collection::vec(
            (0..5usize, prop::collection::vec(any::<u8>(), 0..200), any::<[u8; 10]>(), 0..4u8), 1..40)
    ) {
        let mut world = World::new();
        for (port, mut bytes, header, shape) in frames {
            let mut header = VnetHeader::read(&header);
            let id = if port == 4 { world.net.uplink.unwrap() } else { world.hosts[port].port };
            if shape & 1 == 1 {
                header = VnetHeader::default();
            }
            if shape & 2 == 2 && port < 4 && bytes.len() >= 48 {
                bytes[..6].copy_from_slice(&world.gateway_of(port).0);
                bytes[6..12].copy_from_slice(&world.hosts[port].mac.0);
                bytes[12..14].copy_from_slice(&[8, 0]);
                bytes[14] = 0x45;
                let total = ((bytes.len() - 14) as u16).to_be_bytes();
                bytes[16..18].copy_from_slice(&total);
                bytes[26..30].copy_from_slice(&packet::ip(CONTAINERS[port]).octets());
                bytes[24..26].fill(0);
                let check = !packet::sum(&[&bytes[14..34]]);
                bytes[24..26].copy_from_slice(&check.to_be_bytes());
            }
            world.net.input(id, header, &bytes);
        }
        world.net.secs(100);
        let uplink = world.net.uplink.unwrap();
        for out in world.net.received(uplink) {
            prop_assert!(!masqueraded(Seen::read(&out.bytes).src));
        }
    }

    // I4, R17, U1
    #[test]
    fn translated_and_back_is_what_was_sent(kind in kind(), ttl in 2..=255u8, tos in any::<u8>(), none in any::<bool>()) {
        let mut net = Net::new();
        let (a, b) = (net.attach(), net.attach());
        let mut sent = build("172.17.0.2", "198.51.100.5", &kind).ttl(ttl).tos(tos);
        if sent.proto == UDP && none {
            sent.body[6..8].fill(0);
        }
        // Somebody has the port already, so that it must change.
        net.route(&b, &Packet { src: packet::ip("172.17.0.3"), ..sent.clone() }.resum());
        net.quiet_now();
        net.route(&a, &sent);
        let left = net.left();
        if left.len() != 1 {
            return Ok(()); // of a kind that begins no flow
        }
        let uplink = net.uplink.unwrap();
        net.route(&a, &sent);
        let again = net.received(uplink);
        prop_assert_eq!(again.len(), 1, "a packet that began a flow may come again");
        prop_assert_eq!(again[0].ip().src.to_string(), UP);
        net.arrive(&error("203.0.113.77", UP, 11, 0, &again[0].bytes));
        let told = net.got_one(&a);
        let mut want = Packet { ttl: ttl - 1, ..sent.clone() }.bytes();
        want.truncate(548);
        let at = 20 + match sent.proto { TCP => 16, UDP => 6, ICMP => 2, _ => 0 };
        prop_assert!(
            same_but_for_zero(&want, &told.body[8..], at.min(want.len() - 2)),
            "{:02x?}\n{:02x?}", want, told.body
        );
    }
}

// B18, R30, X12
#[test]
fn tables_stay_bounded_under_random_floods() {
    let mut net = Net::bare(Config::default());
    net.add_network(network("default", "172.17.0.0/16"));
    net.connect(1500, false);
    let a = net.attach();
    let gateway = net.gateway_mac();
    for n in 0..10_000u32 {
        let [_, x, y, z] = (n.wrapping_mul(2_654_435_761)).to_be_bytes();
        let mac = Mac([2, 0, 7, x, y, z]);
        let sender = format!("172.17.{}.{}", 1 + x % 250, y);
        net.send(&a, &frame(gateway, mac, 0x0806, &arp(1, (mac, &sender), (Mac::ZERO, "172.17.0.1"))));
        net.send(&a, &frame(gateway, mac, 0x0800, &udp_with(&format!("{sender}:1"), "198.51.100.5:2", b"x").bytes()));
        net.send(&a, &frame(gateway, mac, 0x0800, &udp_with(&format!("{sender}:1"), "172.17.0.250:2", b"x").bytes()));
    }
    let stats = net.stats();
    let Answer::Neighbours(page) = net.query(Query::Neighbours { cursor: 0, max: 4096 }) else { unreachable!() };
    assert!(stats.flows <= 4096 && page.rows.len() <= 1026, "{} {}", stats.flows, page.rows.len());
}
