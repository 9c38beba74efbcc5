//! The gateway as a router: header checks, TTL, MTU, neighbours, errors, and what it refuses.

use pontoon::core::command::{
    Answer, Command, CommandError, EndpointRequest, NetworkConfig, Query, RouteView, StaticRule,
};
use pontoon::core::datapath::Config;
use pontoon::core::world::Point;
use pontoon::frame::Caps;
use pontoon::wire::addr::{Addr, Cidr};
use pontoon::wire::mac::Mac;

use crate::net::{Host, Net, UP, addr, network};
use crate::packet::{
    ACK, DF, MF, Packet, SYN, Seen, arp, error, frame, ip, other, ping, pong, query, sum, tcp, tcp_with, too_big, udp,
    udp_with,
};

const S1: &str = "198.51.100.5";

fn one() -> (Net, Host) {
    let mut net = Net::new();
    let a = net.attach();
    (net, a)
}

/// Changes bytes of a packet and puts its header checksum right.
fn mangled(packet: &Packet, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = packet.bytes();
    change(&mut bytes);
    let header = (usize::from(bytes[0] & 0xf) * 4).clamp(20, bytes.len());
    bytes[10..12].fill(0);
    let check = !sum(&[&bytes[..header]]);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes
}

fn who_has(from: &Host, sender: &str, target: &str) -> Vec<u8> {
    frame(Mac::BROADCAST, from.mac, 0x0806, &arp(1, (from.mac, sender), (Mac::ZERO, target)))
}

// R01, R15, R17, V12
#[test]
fn router_lowers_ttl_by_one_and_keeps_dscp_ecn_and_identification() {
    let (mut net, a) = one();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53").ttl(64).tos(0xbb).id(0xfffe).df());
    let out = net.left_one();
    assert_eq!((out.ttl, out.tos, out.id, out.frag), (63, 0xbb, 0xfffe, DF));
    net.arrive(&udp("198.51.100.5:53", "192.0.2.112:4000").ttl(9).tos(3));
    let back = net.got_one(&a);
    assert_eq!((back.ttl, back.tos), (8, 3));
}

// R02, R03, R27
#[test]
fn expired_ttl_is_told_by_the_gateway_with_the_packet_as_its_sender_made_it() {
    let (mut net, a) = one();
    let data = vec![0x5a; 1200];
    for (ttl, packet) in [
        (1, udp_with("172.17.0.2:4000", "198.51.100.5:33434", &data)),
        (0, tcp_with("172.17.0.2:4000", "198.51.100.5:80", SYN, 7, 0, &[], &data)),
        (1, ping("172.17.0.2", S1, 7)),
    ] {
        let packet = packet.ttl(ttl);
        net.route(&a, &packet);
        let out = net.got_one(&a);
        assert_eq!((out.src.to_string(), out.icmp()), ("172.17.0.1".to_owned(), (11, 0)));
        let bytes = packet.bytes();
        assert_eq!(out.body[8..], bytes[..bytes.len().min(548)], "pre-NAT, as much as 576 bytes hold");
        assert_eq!(20 + out.body.len(), (28 + bytes.len()).min(576));
    }
    assert!(net.left().is_empty() && net.flows().is_empty());
    assert_eq!(net.dropped(a.port, "ttl-exceeded"), 3);
}

// R02
#[test]
fn last_hop_is_delivered_with_ttl_one() {
    let (mut net, a) = one();
    net.route(&a, &ping("172.17.0.2", "172.17.0.1", 1).ttl(1));
    assert_eq!(net.got_one(&a).icmp(), (0, 0));
    net.route(&a, &ping("172.17.0.2", S1, 1).ttl(2));
    assert_eq!(net.left_one().ttl, 1);
}

// R04
#[test]
fn no_route_is_told_at_once() {
    let mut net = Net::bare(Config::default());
    net.add_network(network("default", "172.17.0.0/16"));
    let a = net.attach();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    assert_eq!(net.got_one(&a).icmp(), (3, 0));
    assert_eq!(net.dropped(a.port, "no-route"), 1);
    let port = net.connect(1500, false);
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    net.left_one();
    net.apply(Command::Detach { port });
    net.route(&a, &udp("172.17.0.2:4001", "198.51.100.5:53"));
    assert_eq!(net.got_one(&a).icmp(), (3, 0));
}

// R04, R30, S09
#[test]
fn dead_neighbour_is_asked_for_three_times_and_then_told_of() {
    let (mut net, a) = one();
    let b = net.attach();
    net.quiet();
    net.route(&a, &ping("172.17.0.2", "172.17.9.9", 1));
    for second in 0..3 {
        let asked: Vec<_> = net.received(b.port).iter().filter(|o| o.is_arp()).map(|o| o.arp()).collect();
        assert_eq!(asked, [(1, "172.17.0.1".to_owned(), "172.17.9.9".to_owned())], "second {second}");
        assert!(net.got(&a).iter().all(|p| p.icmp().0 == 5), "nothing but a redirect yet");
        net.secs(1);
    }
    let told = net.got_one(&a);
    assert_eq!((told.icmp(), told.quote().1.to_string()), ((3, 1), "172.17.9.9".to_owned()));
    assert_eq!(net.dropped(a.port, "neighbour-failed"), 1);
}

// R04, R30
#[test]
fn packets_to_dead_neighbours_are_bounded_and_all_accounted_for() {
    let (mut net, a) = one();
    for host in 0..2_000u32 {
        net.route(&a, &udp("172.17.0.2:1", &format!("172.17.{}.{}:2", 100 + host / 250, 1 + host % 250)));
    }
    net.secs(10);
    let drops: u64 = net.drops(a.port).iter().map(|d| d.1).sum();
    assert_eq!(drops, 2_000, "{:?}", net.drops(a.port));
    let Answer::Neighbours(page) = net.query(Query::Neighbours { cursor: 0, max: 4096 }) else { unreachable!() };
    assert_eq!(page.rows.len(), 1, "all are forgotten");
}

#[test]
fn listing_in_pages_tells_every_neighbour_once_and_in_order() {
    let mut net = Net::new();
    net.add_network(network("other", "10.1.0.0/24"));
    for _ in 0..9 {
        net.attach();
        net.attach_to("other");
    }
    for max in [1, 4, 9, 18, 4096] {
        let (mut told, mut cursor) = (Vec::new(), Some(0));
        while let Some(from) = cursor {
            let Answer::Neighbours(page) = net.query(Query::Neighbours { cursor: from, max }) else { unreachable!() };
            assert!(page.rows.len() <= max);
            told.extend(page.rows.into_iter().map(|row| (row.network, row.ip)));
            cursor = page.next;
        }
        let ip = |text: String| addr(&text);
        let first = (2..11).map(|n| ("default".to_owned(), ip(format!("172.17.0.{n}"))));
        let all: Vec<_> = first.chain((2..11).map(|n| ("other".to_owned(), ip(format!("10.1.0.{n}"))))).collect();
        assert_eq!(told, all, "of {max}");
    }
}

// R30
#[test]
fn packet_waits_for_its_neighbour_and_goes_when_it_answers() {
    let (mut net, a) = one();
    let b = net.attach();
    net.quiet();
    net.route(&a, &ping("172.17.0.2", "172.17.0.50", 7));
    net.received(a.port);
    net.received(b.port);
    let gateway = net.gateway_mac();
    let answer = arp(2, (b.mac, "172.17.0.50"), (gateway, "172.17.0.1"));
    net.send(&b, &frame(gateway, b.mac, 0x0806, &answer));
    let got = net.got_one(&b);
    assert_eq!((got.icmp(), got.ttl, got.src.to_string()), ((8, 0), 63, "172.17.0.2".to_owned()));
}

// R04, R30
#[test]
fn packet_that_waits_is_charged_to_whom_it_came_from() {
    let (mut net, a) = one();
    let b = net.attach();
    net.publish("c1", pontoon::core::command::Transport::Udp, 53, 53);
    let rule = pontoon::core::command::StaticRule::Dnat {
        proto: pontoon::core::command::Transport::Udp,
        dst: addr(UP),
        port: 54,
        to: addr("172.17.0.50"),
        to_port: 54,
    };
    net.apply(Command::AddRule(rule));
    // By hairpin its source is the gateway's when it waits.
    net.route(&a, &udp("172.17.0.2:4000", "192.0.2.112:54"));
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:54"));
    net.secs(4);
    let uplink = net.uplink.unwrap();
    for (port, want) in [(a.port, 1), (uplink, 1), (b.port, 0)] {
        assert_eq!(net.dropped(port, "neighbour-failed"), want, "{port}");
    }
    assert_eq!((net.got_one(&a).icmp(), net.left_one().icmp()), ((3, 1), (3, 1)));
    // And when the device of the one that answers refuses it, it is still its sender's loss.
    net.route(&a, &udp("172.17.0.2:4000", "192.0.2.112:54"));
    let gateway = net.gateway_mac();
    net.world.answers.insert(b.port, pontoon::core::world::Sent::Failed);
    net.send(&b, &frame(gateway, b.mac, 0x0806, &arp(2, (b.mac, "172.17.0.50"), (gateway, "172.17.0.1"))));
    assert_eq!((net.dropped(a.port, "write-failed") >= 1, net.dropped(b.port, "write-failed")), (true, 0));
}

// R30, S65
#[test]
fn gateway_answers_only_for_its_own_address() {
    let (mut net, a) = one();
    net.attach();
    net.quiet();
    for target in ["172.17.0.3", "172.17.9.9", UP, "198.51.100.5", "172.17.0.0"] {
        net.send(&a, &who_has(&a, "172.17.0.2", target));
        assert!(net.received(a.port).is_empty(), "{target}");
    }
}

// R30
#[test]
fn neighbour_of_a_minute_ago_is_asked_again_by_unicast() {
    let (mut net, a) = one();
    let b = net.attach();
    net.quiet();
    net.send(&b, &who_has(&b, "172.17.0.50", "172.17.0.1"));
    net.secs(61);
    net.received(b.port);
    net.received(a.port);
    net.route(&a, &udp("172.17.0.2:1", "172.17.0.50:2"));
    let got = net.received(b.port);
    assert_eq!(got.iter().filter(|o| o.is_ip()).count(), 1, "it is used");
    let asked: Vec<_> = got.iter().filter(|o| o.is_arp()).collect();
    assert_eq!((asked.len(), asked[0].dst()), (1, b.mac));
    assert!(net.received(a.port).iter().all(|o| !o.is_arp()));
}

// R04
#[test]
fn unknown_host_that_routes_to_a_dead_one_is_asked_for_before_it_is_told() {
    // The error about the dead one must itself wait for the sender's address.
    let (mut net, a) = one();
    net.route(&a, &udp("172.17.0.60:1", "172.17.0.99:2"));
    net.secs(4);
    let gateway = net.gateway_mac();
    let asked: Vec<_> = net.received(a.port).iter().filter(|o| o.is_arp()).map(|o| o.arp().2).collect();
    assert!(asked.is_empty() || asked.contains(&"172.17.0.60".to_owned()), "{asked:?}");
    net.send(&a, &frame(gateway, a.mac, 0x0806, &arp(2, (a.mac, "172.17.0.60"), (gateway, "172.17.0.1"))));
    assert!(net.got(&a).iter().any(|p| p.icmp() == (3, 1)));
}

// R05, S23
#[test]
fn closed_ports_of_the_gateway_are_refused() {
    let (mut net, a) = one();
    for gateway in ["172.17.0.1", UP] {
        net.route(&a, &udp("172.17.0.2:4000", &format!("{gateway}:9")));
        assert_eq!(net.got_one(&a).icmp(), (3, 3), "{gateway}");
        net.route(&a, &tcp_with("172.17.0.2:4000", &format!("{gateway}:9"), SYN, 100, 0, &[], &[]));
        let rst = net.got_one(&a);
        assert_eq!((rst.flags(), rst.seq(), rst.ack(), rst.from()), (20, 0, 101, format!("{gateway}:9")));
        net.route(&a, &tcp_with("172.17.0.2:4000", &format!("{gateway}:9"), ACK, 100, 555, &[], b"data"));
        let rst = net.got_one(&a);
        assert_eq!((rst.flags(), rst.seq(), rst.ack()), (4, 555, 0));
        net.route(&a, &tcp("172.17.0.2:4000", &format!("{gateway}:9"), 4));
        assert!(net.got(&a).is_empty(), "no RST for a RST");
        net.route(&a, &other("172.17.0.2", gateway, 132, &[0; 16]));
        assert_eq!(net.got_one(&a).icmp(), (3, 2));
    }
    assert!(net.left().is_empty() && net.flows().is_empty());
}

// R05, T4
#[test]
fn unpublished_ports_of_the_uplink_are_refused_as_a_host_does() {
    let (mut net, _) = one();
    net.arrive(&tcp_with("203.0.113.5:4000", "192.0.2.112:9", SYN, 1, 0, &[], &[]));
    assert_eq!(net.left_one().flags(), 20);
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:9"));
    let out = net.left_one();
    assert_eq!((out.icmp(), out.src.to_string()), ((3, 3), UP.to_owned()));
    net.arrive(&ping("203.0.113.5", UP, 1));
    assert_eq!(net.left_one().icmp(), (0, 0));
}

// R06
#[test]
fn nothing_is_said_about_what_must_not_be_answered() {
    let (mut net, a) = one();
    let gateway = net.gateway_mac();
    let closed = udp("172.17.0.2:1", "172.17.0.1:9");
    let quoted = udp("172.17.0.1:1", "172.17.0.2:2").bytes();
    for (what, packet) in [
        ("an error", error("172.17.0.2", "172.17.0.1", 3, 3, &quoted)),
        ("an error whose time is up", error("172.17.0.2", S1, 3, 3, &quoted).ttl(1)),
        ("a later fragment", Packet { frag: 185, ..closed.clone() }),
        ("multicast", udp("172.17.0.2:1", "239.1.1.1:9")),
        ("broadcast", udp("172.17.0.2:1", "255.255.255.255:9")),
        ("the subnet's broadcast", udp("172.17.0.2:1", "172.17.255.255:9")),
        ("no source", Packet { src: ip("0.0.0.0"), ..closed.clone() }),
        ("loopback", Packet { src: ip("127.0.0.1"), ..closed.clone() }),
        ("a group as source", Packet { src: ip("224.0.0.5"), ..closed.clone() }),
        ("broadcast as source", Packet { src: ip("255.255.255.255"), ..closed.clone() }),
    ] {
        net.send(&a, &frame(gateway, a.mac, 0x0800, &packet.resum().bytes()));
        assert!(net.received(a.port).is_empty(), "{what}");
    }
    net.send(&a, &frame(Mac::BROADCAST, a.mac, 0x0800, &closed.bytes()));
    assert!(net.received(a.port).is_empty(), "broadcast on the link");
    assert!(net.left().is_empty());
}

// R07
#[test]
fn errors_are_six_at_once_and_one_a_second_for_each_peer() {
    let (mut net, a) = one();
    let b = net.attach();
    let told = |net: &mut Net, from: &Host, src: &str| {
        (0..100).for_each(|_| net.route(from, &udp(&format!("{src}:1"), "198.51.100.5:2").ttl(1)));
        net.got(from).len()
    };
    assert_eq!(told(&mut net, &a, "172.17.0.2"), 6);
    assert_eq!(told(&mut net, &b, "172.17.0.3"), 6, "another peer has its own");
    net.secs(1);
    assert_eq!(told(&mut net, &a, "172.17.0.2"), 1);
    let stats = net.stats();
    assert_eq!((stats.icmp_errors_sent, stats.icmp_errors_limited), (13, 287));
}

// R08
#[test]
fn gateway_answers_echo_of_any_size_and_as_often_as_asked() {
    let (mut net, a) = one();
    for n in 0..1000 {
        net.route(&a, &ping("172.17.0.2", "172.17.0.1", n));
        let out = net.got_one(&a);
        assert_eq!(
            (out.icmp_id(), out.src.to_string(), out.data()),
            (n, "172.17.0.1".to_owned(), &b"abcdefghijklmnop"[..])
        );
    }
    let mut big = ping("172.17.0.2", "172.17.0.1", 7);
    big.body.extend((0..65_507 - big.body.len() + 8).map(|n| n as u8));
    let big = big.resum();
    let parts = big.fragments(1480);
    let mut orders = [parts.clone(), parts.clone()];
    orders[1].reverse();
    for (turn, order) in orders.iter().enumerate() {
        for part in order {
            net.route(&a, &Packet { id: turn as u16, ..part.clone() });
        }
        let got = net.got(&a);
        assert_eq!(got.len(), parts.len());
        let mut body = vec![0; big.body.len()];
        for part in &got {
            let at = usize::from(part.frag & 0x1fff) * 8;
            body[at..at + part.body.len()].copy_from_slice(&part.body);
        }
        assert!(body[0] == 0 && sum(&[&body]) == 0xffff && body[4..] == big.body[4..], "order {turn}");
    }
    net.send_to(&a, Mac::BROADCAST, &ping("172.17.0.2", "172.17.255.255", 1));
    assert!(net.got(&a).is_empty());
}

// R08
#[test]
fn echo_replies_are_never_answered() {
    // Whatever their identifier: 0x0800 to 0x08ff look like the type of a request in a tuple.
    let (mut net, a) = one();
    for id in [0, 0x0800, 0x0812, 0x08ff, 0x1234] {
        net.route(&a, &pong("172.17.0.2", "172.17.0.1", id));
        net.arrive(&pong("203.0.113.5", UP, id));
        assert!(net.got(&a).is_empty() && net.left().is_empty(), "{id:04x}");
    }
}

// R09
#[test]
fn broken_headers_are_dropped_each_by_its_reason() {
    let (mut net, a) = one();
    let gateway = net.gateway_mac();
    let good = udp("172.17.0.2:4000", "198.51.100.5:53");
    let bad_sum = {
        let mut bytes = good.bytes();
        bytes[11] ^= 1;
        bytes
    };
    for (why, bytes) in [
        ("ip-version", mangled(&good, |b| b[0] = 0x65)),
        ("ip-header-length", mangled(&good, |b| b[0] = 0x44)),
        ("ip-header-length", mangled(&good, |b| b[0] = 0x4f)),
        ("ip-total-length", mangled(&good, |b| b[2] = 0x40)),
        ("ip-total-length", mangled(&good, |b| b[3] = 19)),
        ("ip-header-checksum", bad_sum),
        ("ip-truncated", good.bytes()[..19].to_vec()),
        ("l4-truncated", mangled(&good, |b| b[3] = 27)),
        ("l4-truncated", mangled(&good, |b| b[25] = 200)),
        ("l4-truncated", mangled(&tcp("172.17.0.2:1", "198.51.100.5:2", SYN), |b| b[32] = 0x40)),
        ("l4-truncated", mangled(&tcp("172.17.0.2:1", "198.51.100.5:2", SYN), |b| b[32] = 0xf0)),
    ] {
        let before = net.dropped(a.port, why);
        net.send(&a, &frame(gateway, a.mac, 0x0800, &bytes));
        assert_eq!(net.dropped(a.port, why), before + 1, "{why} {:?}", net.drops(a.port));
    }
    net.send(&a, &[2, 0, 0, 0, 0, 1, 2]);
    assert_eq!(net.dropped(a.port, "runt"), 1);
    assert!(net.left().is_empty() && net.received(a.port).is_empty());
}

// R09
#[test]
fn ethernet_padding_ends_at_the_gateway() {
    let (mut net, a) = one();
    let gateway = net.gateway_mac();
    let small = udp_with("172.17.0.2:4000", "198.51.100.5:53", b"x");
    let mut padded = frame(gateway, a.mac, 0x0800, &small.bytes());
    padded.resize(60, 0xee);
    net.send(&a, &padded);
    let uplink = net.uplink.unwrap();
    let out = net.received(uplink);
    assert_eq!((out.len(), out[0].bytes.len()), (1, 29));
    assert_eq!(out[0].ip().data(), b"x");
}

// R10
#[test]
fn martians_are_dropped_in_silence() {
    let (mut net, a) = one();
    for src in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255"] {
        net.route(&a, &udp(&format!("{src}:1"), "198.51.100.5:2"));
        net.arrive(&udp(&format!("{src}:1"), "192.0.2.112:2"));
    }
    for dst in ["0.0.0.0", "127.0.0.1", "127.255.255.255", "0.1.2.3"] {
        net.route(&a, &udp("172.17.0.2:1", &format!("{dst}:2")));
        net.arrive(&udp("203.0.113.5:1", &format!("{dst}:2")));
    }
    assert!(net.left().is_empty() && net.received(a.port).is_empty());
    let uplink = net.uplink.unwrap();
    assert_eq!((net.dropped(a.port, "martian"), net.dropped(uplink, "martian")), (10, 10));
    for dst in ["169.254.1.1", "240.0.0.1"] {
        net.route(&a, &udp("172.17.0.2:1", &format!("{dst}:2")));
        assert_eq!(net.left_one().dst.to_string(), dst, "Linux routes it");
    }
}

// R10, R12
#[test]
fn broadcast_address_of_the_subnet_is_no_source() {
    let (mut net, a) = one();
    net.route(&a, &udp("172.17.255.255:1", "198.51.100.5:2"));
    net.route(&a, &udp("172.17.255.255:1", "172.17.0.1:2"));
    assert!(net.left().is_empty() && net.received(a.port).is_empty());
    assert_eq!(net.dropped(a.port, "martian"), 2);
}

// R11, R27
#[test]
fn foreign_sources_are_not_routed() {
    let (mut net, a) = one();
    net.add_network(network("other", "172.18.0.0/16"));
    net.attach();
    net.quiet();
    for src in ["203.0.113.8", "172.18.0.9", UP] {
        net.route(&a, &udp(&format!("{src}:1"), "198.51.100.5:2"));
    }
    net.route(&a, &udp("172.17.0.3:1", "198.51.100.5:2"));
    for src in ["172.17.0.2", "172.18.0.9", UP] {
        net.arrive(&udp(&format!("{src}:1"), "192.0.2.112:2"));
    }
    assert!(net.left().is_empty() && net.received(a.port).is_empty());
    assert_eq!((net.dropped(a.port, "wrong-network"), net.dropped(a.port, "spoofed-address")), (3, 1));
}

// R12, R13
#[test]
fn broadcast_and_multicast_are_not_routed() {
    let (mut net, a) = one();
    let b = net.attach();
    net.quiet();
    for dst in ["172.17.255.255", "255.255.255.255", "239.1.1.1", "224.0.0.251"] {
        net.arrive(&udp("203.0.113.5:1", &format!("{dst}:2")));
        net.route(&a, &udp("172.17.0.2:1", &format!("{dst}:2")));
    }
    net.send_to(&a, Mac::BROADCAST, &udp("172.17.0.2:1", "198.51.100.5:2"));
    assert!(net.left().is_empty() && net.received(a.port).is_empty());
    assert_eq!(net.received(b.port).len(), 1, "the broadcast frame stays on the switch");
    net.send_to(&a, Mac([1, 0, 0x5e, 1, 1, 1]), &udp("172.17.0.2:1", "239.1.1.1:2"));
    assert_eq!((net.received(b.port).len(), net.left().len()), (1, 0));
}

// R14
#[test]
fn neighbour_that_is_routed_by_us_is_passed_on_and_its_sender_told_of_the_shorter_way() {
    let (mut net, a) = one();
    let b = net.attach();
    net.route(&a, &ping("172.17.0.2", "172.17.0.3", 1));
    let passed = net.got_one(&b);
    assert_eq!((passed.src.to_string(), passed.ttl), ("172.17.0.2".to_owned(), 63));
    let told = net.got_one(&a);
    assert_eq!((told.icmp(), &told.body[4..8]), ((5, 1), &[172, 17, 0, 3][..]));
    assert!(net.flows().is_empty());
}

#[test]
fn prefixes_that_cannot_be_routed_are_refused_with_the_fix() {
    let mut net = Net::new();
    for (dst, says) in [
        ("127.0.0.0/8", "cannot be routed"),
        ("0.1.0.0/16", "cannot be routed"),
        ("224.0.0.0/8", "cannot be routed"),
        ("240.0.0.0/8", "cannot be routed"),
        ("fd00::/8", "IPv6"),
        ("10.2.3.4/24", "10.2.3.0/24"),
    ] {
        let error = net.try_apply(Command::AddRoute { dst: dst.parse().unwrap() }).unwrap_err();
        assert!(error.to_string().contains(says), "{dst}: {error}");
    }
    for dst in ["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/8", "169.254.169.254/32"] {
        net.apply(Command::AddRoute { dst: dst.parse().unwrap() });
    }
    for subnet in ["255.255.255.0/24", "240.0.0.0/8"] {
        let error = net.try_apply(Command::AddNetwork(network("new", subnet))).unwrap_err();
        assert!(error.to_string().contains("cannot be routed"), "{error}");
    }
}

#[test]
fn new_network_takes_no_prefix_that_leads_elsewhere_and_routes_are_bounded() {
    let mut net = Net::new();
    let refused = |net: &mut Net, subnet: &str| {
        let error = net.try_apply(Command::AddNetwork(network("new", subnet))).unwrap_err();
        assert!(matches!(error, CommandError::Invalid { field: "subnet", .. }), "{error}");
        error.to_string()
    };
    net.apply(Command::AddRule(StaticRule::Snat { source: "172.17.9.0/24".parse().unwrap(), to: addr("203.0.113.9") }));
    assert!(refused(&mut net, "203.0.113.0/24").contains("203.0.113.9"));
    let dst = "10.9.0.0/16".parse().unwrap();
    net.apply(Command::AddRoute { dst });
    assert!(refused(&mut net, "10.9.0.0/16").contains("route"));
    net.apply(Command::RemoveRoute { dst });
    net.add_network(network("new", "10.9.0.0/16"));
    let limit = (0..10_000u32).find(|n| {
        let dst = Cidr::host(Addr::v4((0x0b00_0000 + n).to_be_bytes()));
        matches!(net.try_apply(Command::AddRoute { dst }), Err(CommandError::Full { .. }))
    });
    assert_eq!(limit, Some(4095), "and the default route");
}

#[test]
fn a_route_that_is_there_is_not_added_again() {
    let mut net = Net::new();
    let dst = "10.9.0.0/16".parse().unwrap();
    net.apply(Command::AddRoute { dst });
    let error = net.try_apply(Command::AddRoute { dst }).unwrap_err();
    assert!(matches!(error, CommandError::Exists { what: "route", .. }), "{error}");
    assert!(error.to_string().contains("route '10.9.0.0/16' exists already"), "{error}");
    net.apply(Command::RemoveRoute { dst });
    assert!(net.try_apply(Command::RemoveRoute { dst }).is_err(), "it was there once");
    net.apply(Command::AddRoute { dst });
}

// R16
#[test]
fn routes_and_times_are_recorded_and_source_routes_refused() {
    let (mut net, a) = one();
    let record = [7, 7, 4, 0, 0, 0, 0, 0];
    net.route(&a, &ping("172.17.0.2", S1, 1).options(&record));
    assert_eq!(net.left_one().options, [7, 7, 8, 192, 0, 2, 112, 0]);
    net.route(&a, &ping("172.17.0.2", S1, 1).options(&[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
    let stamped = net.left_one().options;
    assert_eq!((stamped[2], &stamped[4..8]), (13, &[192, 0, 2, 112][..]));
    net.arrive(&pong(S1, UP, 1).options(&record));
    assert_eq!(net.got_one(&a).options[2..7], [8, 172, 17, 0, 1]);
    for kind in [131, 137] {
        net.route(&a, &ping("172.17.0.2", S1, 1).options(&[kind, 7, 4, 203, 0, 113, 1, 0]));
    }
    assert_eq!((net.left().len(), net.dropped(a.port, "source-route")), (0, 2));
}

/// Puts fragments together; checks that they are in order, whole, and begin at multiples of eight.
fn reassemble(parts: &[Seen], mtu: usize) -> Seen {
    let mut body = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        assert!(20 + part.options.len() + part.body.len() <= mtu);
        assert_eq!(usize::from(part.frag & 0x1fff) * 8, body.len(), "in order");
        assert_eq!(part.frag & MF != 0, i + 1 < parts.len());
        assert_eq!((part.id, part.ttl, part.proto), (parts[0].id, parts[0].ttl, parts[0].proto));
        body.extend_from_slice(&part.body);
    }
    Seen { frag: 0, body, ..parts[0].clone() }
}

// R18, U13, R21
#[test]
fn packet_that_may_be_cut_leaves_in_fragments_that_make_it_whole() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { mtu: 9000, ..network("default", "172.17.0.0/16") });
    net.connect(1400, false);
    let a = net.attach();
    let data: Vec<u8> = (0..8000u32).map(|n| n as u8).collect();
    net.route(&a, &udp_with("172.17.0.2:4000", "198.51.100.5:53", &data).options(&[1, 1, 148, 4, 0, 0, 0, 0]));
    let left = net.left();
    assert!(left.len() == 6 && left.iter().all(|p| p.src.to_string() == UP));
    let whole = reassemble(&left, 1400);
    assert!(whole.checksum_is_sound(false) && whole.data() == data);
    // The same with a checksum that was left to us, and with segments to be cut first.
    let partial = udp_with("172.17.0.2:4000", "198.51.100.5:53", &data).partial();
    net.route_offloaded(&a, &partial, 0);
    let whole = reassemble(&net.left(), 1400);
    assert!(whole.checksum_is_sound(false) && whole.data() == data);
    // What came in fragments leaves in smaller ones, with its marks.
    for part in udp_with("172.17.0.2:4000", "198.51.100.5:53", &data).id(99).fragments(4000) {
        net.route(&a, &part);
    }
    let whole = reassemble(&net.left(), 1400);
    assert!(whole.checksum_is_sound(false) && whole.data() == data);
}

// R19, U13
#[test]
fn packet_that_may_not_be_cut_is_dropped_and_the_mtu_told() {
    let mut net = Net::bare(Config::default());
    net.add_network(network("default", "172.17.0.0/16"));
    net.connect(1400, false);
    let a = net.attach();
    let fits = udp_with("172.17.0.2:4000", "198.51.100.5:53", &[1; 1372]).df();
    net.route(&a, &fits);
    net.left_one();
    let long = udp_with("172.17.0.2:4000", "198.51.100.5:53", &[1; 1373]).df();
    net.route(&a, &long);
    let told = net.got_one(&a);
    assert_eq!((told.icmp(), told.word(6), &told.body[8..]), ((3, 4), 1400, &long.bytes()[..548]));
    assert!(net.left().is_empty());
    assert_eq!(net.dropped(a.port, "needs-fragmentation"), 1);
}

// R21
#[test]
fn fragments_that_may_not_be_cut_keep_their_size_and_their_mark() {
    let (mut net, a) = one();
    let parts = udp_with("172.17.0.2:4000", "198.51.100.5:53", &[7; 3000]).df().fragments(1280);
    for part in &parts {
        net.route(&a, part);
    }
    let left = net.left();
    assert_eq!(left.iter().map(|p| p.body.len()).collect::<Vec<_>>(), [1280, 1280, 448]);
    assert!(left.iter().all(|p| p.frag & DF != 0));
    assert!(reassemble_df(&left).checksum_is_sound(false));
}

fn reassemble_df(parts: &[Seen]) -> Seen {
    let clear: Vec<_> = parts.iter().map(|p| Seen { frag: p.frag & !DF, ..p.clone() }).collect();
    reassemble(&clear, 1500)
}

// R22, T9, I4
#[test]
fn mtu_that_the_world_tells_reaches_the_container_that_needs_it() {
    let (mut net, a) = one();
    let segment = tcp_with("172.17.0.2:40000", "198.51.100.5:443", SYN, 1, 0, &[], &[]).df();
    net.route(&a, &segment);
    let left = net.left_one();
    let quoted = Packet { ttl: 60, ..tcp_with("192.0.2.112:40000", "198.51.100.5:443", SYN, 1, 0, &[], &[]).df() };
    assert_eq!((left.from(), left.body.clone()), ("192.0.2.112:40000".to_owned(), quoted.body.clone()));
    net.arrive(&too_big("203.0.113.77", UP, 1280, &quoted.bytes()));
    let told = net.got_one(&a);
    assert_eq!((told.src.to_string(), told.icmp(), told.word(6)), ("203.0.113.77".to_owned(), (3, 4), 1280));
    let (src, dst, inner) = told.quote();
    assert_eq!((src.to_string(), dst.to_string()), ("172.17.0.2".to_owned(), "198.51.100.5".to_owned()));
    assert_eq!(inner, segment.body, "as the container sent it, checksum and all");
}

// R23
#[test]
fn mss_is_lowered_both_ways_and_never_raised() {
    for clamp in [true, false] {
        let mut net = Net::bare(Config::default());
        net.add_network(network("default", "172.17.0.0/16"));
        net.connect(1400, clamp);
        let a = net.attach();
        let mss = |value: u16| {
            let [x, y] = value.to_be_bytes();
            [1, 2, 4, x, y, 1, 1, 0] // at an odd offset
        };
        let want = if clamp { 1360 } else { 1460 };
        net.route(&a, &tcp_with("172.17.0.2:40000", "198.51.100.5:80", SYN, 1, 0, &mss(1460), &[]));
        assert_eq!(net.left_one().body[20..28], mss(want));
        net.arrive(&tcp_with("198.51.100.5:80", "192.0.2.112:40000", SYN | ACK, 1, 2, &mss(1460), &[]));
        assert_eq!(net.got_one(&a).body[20..28], mss(want));
        net.route(&a, &tcp_with("172.17.0.2:40001", "198.51.100.5:80", SYN, 1, 0, &mss(536), &[]));
        assert_eq!(net.left_one().body[20..28], mss(536));
        let offloaded = tcp_with("172.17.0.2:40002", "198.51.100.5:80", SYN, 1, 0, &mss(1460), &[]).partial();
        net.route_offloaded(&a, &offloaded, 0);
        assert_eq!(net.left_one().body[20..28], mss(want));
    }
}

// R26
#[test]
fn other_protocols_are_translated_by_address_for_one_container_a_peer() {
    let (mut net, a) = one();
    let b = net.attach();
    for proto in [47, 50, 132, 4] {
        net.route(&a, &other("172.17.0.2", S1, proto, b"opaque bytes"));
        let out = net.left_one();
        assert_eq!((out.src.to_string(), &out.body[..]), (UP.to_owned(), &b"opaque bytes"[..]));
        net.route(&b, &other("172.17.0.3", S1, proto, b"too late"));
        assert!(net.left().is_empty());
        assert_eq!(net.got_one(&b).icmp(), (3, 13));
        net.route(&b, &other("172.17.0.3", "198.51.100.6", proto, b"another peer"));
        net.left_one();
        net.arrive(&other(S1, UP, proto, b"back"));
        assert_eq!(net.got_one(&a).src.to_string(), S1);
        assert!(net.got(&b).is_empty());
    }
}

// R29
#[test]
fn new_uplink_address_ends_the_mappings_of_the_old_one() {
    let (mut net, a) = one();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    net.left_one();
    let config = pontoon::core::command::UplinkConfig { address: addr("192.0.2.200"), mtu: 1500, mss_clamp: false };
    net.apply(Command::SetUplink(config));
    assert!(net.flows().is_empty());
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    assert_eq!(net.left_one().from(), "192.0.2.200:4000");
    net.arrive(&udp("198.51.100.5:53", "192.0.2.112:4000"));
    assert!(net.got(&a).is_empty());
}

// R29
#[test]
fn uplink_that_comes_back_with_another_address_has_no_old_mappings() {
    let (mut net, a) = one();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    let old = net.uplink.unwrap();
    net.left_one();
    net.apply(Command::Detach { port: old });
    assert!(net.flows().is_empty());
    let config = pontoon::core::command::UplinkConfig { address: addr("192.0.2.200"), mtu: 1500, mss_clamp: false };
    let pontoon::core::command::Applied::Uplink(port) = net.apply(Command::SetUplink(config)) else { panic!() };
    net.apply(Command::Open { port, caps: Caps::FULL });
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    let out = net.received(port);
    assert_eq!(out[0].bytes[12..16], [192, 0, 2, 200]);
}

// S05
#[test]
fn one_echo_is_captured_at_six_points_in_order() {
    let (mut net, a) = one();
    net.world.capture = true;
    net.route(&a, &ping("172.17.0.2", S1, 1));
    net.left_one();
    net.arrive(&pong(S1, UP, 1));
    let points: Vec<_> = net.world.points.iter().map(|(p, _)| *p).collect();
    use Point::*;
    assert_eq!(points, [PortIn, GatewayIn, UplinkOut, UplinkIn, GatewayOut, PortOut]);
    let src = |at: usize, eth: bool| net.world.points[at].1[if eth { 26.. } else { 12.. }][..4].to_vec();
    assert_eq!(src(1, true), [172, 17, 0, 2]);
    assert_eq!(src(2, false), [192, 0, 2, 112]);
}

// S06
#[test]
fn replies_come_from_the_gateways_one_mac() {
    let (mut net, a) = one();
    let gateway = net.gateway_mac();
    net.route(&a, &ping("172.17.0.2", S1, 1));
    net.left_one();
    net.arrive(&pong(S1, UP, 1));
    let got = net.received(a.port);
    assert_eq!((got[0].src(), got[0].dst()), (gateway, a.mac));
}

// S36
#[test]
fn egress_asks_arp_then_forwards_then_translates() {
    let (mut net, a) = one();
    net.send(&a, &who_has(&a, "172.17.0.2", "172.17.0.1"));
    let gateway = net.received(a.port)[0].src();
    net.send_to(&a, gateway, &tcp("172.17.0.2:40000", "198.51.100.5:80", SYN));
    let out = net.left_one();
    assert_eq!((out.ttl, out.from(), out.to()), (63, "192.0.2.112:40000".to_owned(), "198.51.100.5:80".to_owned()));
}

// S37
#[test]
fn without_forwarding_the_gateway_is_just_a_neighbour() {
    let mut net = Net::bare(Config { no_forward: true, ..Config::default() });
    net.add_network(network("default", "172.17.0.0/16"));
    net.connect(1500, false);
    let (a, b) = (net.attach(), net.attach());
    net.publish("c2", pontoon::core::command::Transport::Tcp, 80, 80);
    net.route(&a, &udp("172.17.0.2:1", "198.51.100.5:2"));
    net.arrive(&tcp("203.0.113.5:1", "192.0.2.112:80", SYN));
    net.route(&a, &ping("172.17.0.2", "172.17.0.3", 1));
    assert!(net.left().is_empty() && net.got(&a).is_empty() && net.got(&b).is_empty());
    assert_eq!(net.dropped(a.port, "forwarding-off"), 2);
    net.route(&a, &ping("172.17.0.2", "172.17.0.1", 1));
    assert_eq!(net.got_one(&a).icmp(), (0, 0));
    net.send_to(&a, b.mac, &ping("172.17.0.2", "172.17.0.3", 1));
    net.got_one(&b);
}

// S66, D29
#[test]
fn any_subnet_from_8_to_30_bits_works() {
    for (subnet, first, gateway) in [
        ("10.0.0.0/8", "10.0.0.2", "10.0.0.1"),
        ("172.7.88.0/24", "172.7.88.2", "172.7.88.1"),
        ("192.168.99.4/30", "192.168.99.6", "192.168.99.5"),
    ] {
        let mut net = Net::bare(Config::default());
        net.add_network(network("default", subnet));
        net.connect(1500, false);
        let a = net.attach();
        assert_eq!(a.ip, Some(addr(first)));
        net.route(&a, &ping(first, gateway, 1));
        assert_eq!(net.got_one(&a).src.to_string(), gateway);
        net.route(&a, &ping(first, S1, 1));
        assert_eq!(net.left_one().src.to_string(), UP);
        let Answer::Routes(routes) = net.query(Query::Routes) else { unreachable!() };
        let on_link = RouteView { dst: subnet.parse().unwrap(), dev: "default".to_owned(), src: Some(addr(gateway)) };
        assert_eq!(routes[0], on_link);
        assert_eq!(routes[1].dev, "uplink");
    }
}

// D29
#[test]
fn full_subnet_says_so() {
    let mut net = Net::bare(Config::default());
    net.add_network(network("default", "192.168.99.4/30"));
    net.attach();
    let request = net.request("default");
    let refused = net.try_apply(Command::Reserve(request)).unwrap_err();
    assert!(refused.to_string().contains("addresses of the subnet"), "{refused}");
}

// B19
#[test]
fn isolated_container_among_isolated_ones_still_finds_its_gateway() {
    let mut net = Net::new();
    let hosts: Vec<Host> = (0..2)
        .map(|_| {
            let request = EndpointRequest { isolated: true, ..net.request("default") };
            net.attach_as(request, Caps::FULL)
        })
        .collect();
    net.quiet();
    net.send(&hosts[0], &who_has(&hosts[0], "172.17.0.2", "172.17.0.1"));
    assert_eq!(net.received(hosts[0].port)[0].arp().0, 2);
    assert!(net.received(hosts[1].port).is_empty());
}

// I10, I11
#[test]
fn each_icmp_type_is_translated_or_dropped_and_counted() {
    let (mut net, a) = one();
    for (request, reply) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        net.route(&a, &query("172.17.0.2", S1, request, 77));
        let out = net.left_one();
        assert_eq!((out.src.to_string(), out.icmp(), out.icmp_id()), (UP.to_owned(), (request, 0), 77));
        net.arrive(&query(S1, UP, reply, 77));
        assert_eq!(net.got_one(&a).icmp(), (reply, 0));
    }
    for kind in [1, 2, 6, 7, 9, 10, 19, 30, 40, 41, 42, 43, 255] {
        net.route(&a, &query("172.17.0.2", S1, kind, 77));
        net.arrive(&query(S1, UP, kind, 77));
    }
    let uplink = net.uplink.unwrap();
    assert!(net.left().is_empty() && net.got(&a).is_empty());
    assert_eq!((net.dropped(a.port, "icmp-type"), net.dropped(uplink, "icmp-type")), (13, 13));
    let quoted = ping(UP, S1, 77).bytes();
    for kind in [4, 5] {
        net.arrive(&error(S1, UP, kind, 0, &quoted));
    }
    assert!(net.got(&a).is_empty(), "neither source quench nor redirect");
    for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)] {
        net.arrive(&error("203.0.113.9", UP, kind, code, &quoted));
        assert_eq!(net.got_one(&a).icmp(), (kind, code));
    }
}

// B20, R04
#[test]
fn what_goes_to_a_device_that_is_not_there_yet_is_counted() {
    let mut net = Net::bare(Config::default());
    net.add_network(network("default", "172.17.0.0/16"));
    let a = net.attach();
    let config = pontoon::core::command::UplinkConfig { address: addr(UP), mtu: 1500, mss_clamp: false };
    let pontoon::core::command::Applied::Uplink(uplink) = net.apply(Command::SetUplink(config)) else { panic!() };
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    assert!(net.received(uplink).is_empty());
    assert_eq!(net.dropped(a.port, "link-down"), 1);
    assert!(net.try_apply(Command::Link { port: uplink, up: true }).is_err(), "there is no link to be up");
    // A flood is for those that are there.
    let request = net.request("default");
    net.apply(Command::Reserve(request));
    net.send(&a, &who_has(&a, "172.17.0.2", "172.17.0.77"));
    assert_eq!(net.dropped(a.port, "link-down"), 1);
}

// U7, S04
#[test]
fn inside_and_outside_may_not_have_the_same_addresses() {
    let mut net = Net::new();
    for subnet in ["192.0.2.0/24", "172.17.5.0/24", "172.16.0.0/12"] {
        let refused = net.try_apply(Command::AddNetwork(network("other", subnet))).unwrap_err();
        assert!(refused.to_string().starts_with("subnet:"), "{refused}");
    }
    net.apply(Command::AddRoute { dst: "10.0.0.0/8".parse().unwrap() });
    assert!(net.try_apply(Command::AddNetwork(network("other", "10.0.0.0/8"))).is_err(), "routed elsewhere");
    net.add_network(network("other", "10.9.0.0/16"));
    let address = addr("172.17.0.9");
    let config = pontoon::core::command::UplinkConfig { address, mtu: 1500, mss_clamp: false };
    assert!(net.try_apply(Command::SetUplink(config)).is_err());
    assert!(net.try_apply(Command::AddRoute { dst: "172.17.0.0/16".parse().unwrap() }).is_err());
}

// D04
#[test]
fn mtu_of_a_network_is_its_devices_its_gateways_and_its_switchs() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { mtu: 1400, ..network("default", "172.17.0.0/16") });
    net.connect(1500, false);
    let request = net.request("default");
    let pontoon::core::command::Applied::Reserved(endpoint) = net.apply(Command::Reserve(request)) else { panic!() };
    assert_eq!(endpoint.mtu, 1400);
    net.apply(Command::Open { port: endpoint.port, caps: Caps::FULL });
    let a = Host { port: endpoint.port, mac: endpoint.mac, ip: endpoint.ip.map(|c| c.addr()) };
    let b = net.attach();
    net.publish("c1", pontoon::core::command::Transport::Udp, 53, 53);
    net.arrive(&udp_with("203.0.113.5:1", "192.0.2.112:53", &[1; 1373]).df());
    let told = net.left_one();
    assert_eq!((told.icmp(), told.word(6), told.src.to_string()), ((3, 4), 1400, UP.to_owned()));
    net.send_to(&b, a.mac, &udp_with("172.17.0.3:1", "172.17.0.2:2", &[1; 1400]));
    assert!(net.got(&a).is_empty());
    assert!(net.try_apply(Command::AddNetwork(NetworkConfig { mtu: 500, ..NetworkConfig::named("tiny") })).is_err());
}

// I3, I4
#[test]
fn extensions_of_an_error_cross_untouched() {
    // RFC 4884: the quote is padded to 128 bytes, its length stands in words in the sixth byte, extensions follow.
    let (mut net, a) = one();
    let sent = udp("172.17.0.2:4000", "198.51.100.5:53");
    net.route(&a, &sent);
    let mut quoted = udp("192.0.2.112:4000", "198.51.100.5:53").bytes();
    quoted.resize(128, 0);
    let extension = [0x20, 0, 0x11, 0x22, 0, 8, 1, 1, 0xde, 0xad, 0xbe, 0xef];
    quoted.extend_from_slice(&extension);
    let mut told = error(S1, UP, 11, 0, &quoted);
    told.body[5] = 32;
    net.left_one();
    net.arrive(&told.resum());
    let got = net.got_one(&a);
    assert_eq!((got.body[5], &got.body[8 + 128..]), (32, &extension[..]));
    assert_eq!(got.body[28..36], sent.body[..8]);
}
