//! Super-frames and partial checksums through translation, next to ports that take neither.

use pontoon::core::command::Transport;
use pontoon::core::world::Sent;
use pontoon::frame::{Caps, FrameOut, Link, segment};
use pontoon::wire::vnet::{self, VnetHeader, gso};

use crate::net::{Host, Net, Out};
use crate::packet::{ACK, FIN, PSH, Packet, SYN, Seen, TCP, UDP, frame, offload, tcp_with, udp_with};

/// Cuts a transmission as a kernel would, and reads each segment with all of its sums.
fn segments(out: &Out) -> Vec<Seen> {
    let mut bytes = vec![0; vnet::LEN];
    out.vnet.write(&mut bytes);
    bytes.extend_from_slice(&out.bytes);
    let link = if out.ethernet { Link::Ethernet } else { Link::Ip };
    let mut all = Vec::new();
    segment::for_each(FrameOut::from_bytes(&bytes), link, Caps::PLAIN, &mut Vec::new(), &mut |part| {
        assert_eq!(part.vnet(), VnetHeader::default());
        let part = Out { vnet: part.vnet(), bytes: part.packet().to_vec(), ethernet: out.ethernet };
        let seen = part.ip();
        assert!(seen.proto != UDP || seen.word(6) != 0, "summed");
        all.push(seen);
    });
    all
}

fn data(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7) as u8).collect()
}

/// A connection of c1, and the super-frame that it sends next.
fn connected() -> (Net, Host, Packet) {
    let mut net = Net::new();
    let a = net.attach();
    let (c, s) = ("172.17.0.2:40000", "198.51.100.5:80");
    net.route(&a, &tcp_with(c, s, SYN, 99, 0, &[], &[]));
    net.arrive(&tcp_with(s, "192.0.2.112:40000", SYN | ACK, 499, 100, &[], &[]));
    net.quiet();
    let options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    (net, a, tcp_with(c, s, ACK | PSH, 100, 500, &options, &data(40_000)).df().partial())
}

// R17, R25
#[test]
fn super_frame_keeps_its_segments_through_masquerade() {
    let (mut net, a, big) = connected();
    net.route_offloaded(&a, &big, 1448);
    let uplink = net.uplink.unwrap();
    let out = net.received(uplink);
    assert_eq!(out.len(), 1);
    let header = out[0].vnet;
    assert_eq!((header.flags, header.gso_type, header.gso_size), (vnet::NEEDS_CSUM, gso::TCPV4, 1448));
    assert_eq!((header.csum_start, header.csum_offset, header.hdr_len), (20, 16, 52), "14 less without Ethernet");
    assert_eq!(out[0].ip().from(), "192.0.2.112:40000");
    let parts = segments(&out[0]);
    assert_eq!(parts.len(), 40_000usize.div_ceil(1448));
    assert!(parts.iter().all(|p| 20 + p.body.len() <= 1500 && p.from() == "192.0.2.112:40000"));
    assert_eq!(parts.iter().flat_map(|p| p.data().to_vec()).collect::<Vec<_>>(), data(40_000));
}

// R17, R25
#[test]
fn super_frame_from_the_world_reaches_full_and_plain_ports_whole() {
    for caps in [Caps::FULL, Caps { vnet: true, uso: false }, Caps::PLAIN] {
        let mut net = Net::new();
        let request = net.request("default");
        let a = net.attach_as(request, caps);
        net.publish("c1", Transport::Tcp, 80, 8080);
        let (x, up, c) = ("203.0.113.5:51000", "192.0.2.112:80", "172.17.0.2:8080");
        net.arrive(&tcp_with(x, up, SYN, 99, 0, &[], &[]));
        net.route(&a, &tcp_with(c, x, SYN | ACK, 499, 100, &[], &[]));
        net.quiet();
        let big = tcp_with(x, up, ACK | PSH, 100, 500, &[], &data(30_000)).partial();
        net.input(net.uplink.unwrap(), offload(TCP, 20, 1460), &big.bytes());
        let out = net.received(a.port);
        let parts: Vec<_> = out.iter().flat_map(segments).collect();
        assert_eq!(out.len(), if caps.vnet { 1 } else { 21 });
        assert!(parts.iter().all(|p| p.to() == c && p.from() == x && p.body.len() <= 1480));
        assert_eq!(parts.iter().flat_map(|p| p.data().to_vec()).collect::<Vec<_>>(), data(30_000));
    }
}

// B29, B22
#[test]
fn plain_port_next_to_a_full_one_gets_whole_packets_with_whole_sums() {
    let mut net = Net::new();
    let full = net.attach();
    let request = net.request("default");
    let plain = net.attach_as(request, Caps::PLAIN);
    net.quiet();
    for (packet, segment, count) in [
        (tcp_with("172.17.0.2:1", "172.17.0.3:2", ACK | FIN, 7, 1, &[], &data(10_000)), 1000u16, 10),
        (tcp_with("172.17.0.2:1", "172.17.0.3:2", ACK, 7, 1, &[], &data(100)), 0, 1),
        (udp_with("172.17.0.2:1", "172.17.0.3:2", &data(10_000)), 1200, 9),
        (udp_with("172.17.0.2:1", "172.17.0.3:2", &data(100)), 0, 1),
    ] {
        let proto = packet.proto;
        let bytes = frame(plain.mac, full.mac, 0x0800, &packet.partial().bytes());
        net.input(full.port, offload(proto, 34, segment), &bytes);
        let out = net.received(plain.port);
        assert_eq!(out.len(), count);
        assert!(out.iter().all(|o| o.vnet == VnetHeader::default()));
        let parts: Vec<_> = out.iter().map(Out::ip).collect();
        let len = if segment > 0 { 10_000 } else { 100 };
        assert_eq!(parts.iter().flat_map(|p| p.data().to_vec()).collect::<Vec<_>>(), data(len));
        if proto == TCP && segment > 0 {
            assert_eq!(parts.iter().filter(|p| p.flags() & FIN != 0).count(), 1, "FIN on the last alone");
        }
    }
    net.send(&plain, &frame(full.mac, plain.mac, 0x0800, &udp_with("172.17.0.3:1", "172.17.0.2:2", b"x").bytes()));
    assert_eq!(net.got_one(&full).data(), b"x");
}

// R17
#[test]
fn partial_sums_and_sums_that_are_none_survive_translation_both_ways() {
    let mut net = Net::new();
    let a = net.attach();
    for n in 0..2000u32 {
        // Among two thousand payloads some make the sum zero.
        let packet = udp_with("172.17.0.2:4000", "198.51.100.5:53", &n.to_be_bytes());
        net.route(&a, &packet);
        net.route_offloaded(&a, &packet.clone().partial(), 0);
        assert_eq!(net.left().len(), 2);
        net.arrive(&udp_with("198.51.100.5:53", "192.0.2.112:4000", &n.to_be_bytes()));
        net.got_one(&a);
    }
    let mut none = udp_with("172.17.0.2:4000", "198.51.100.5:53", b"no checksum");
    none.body[6..8].fill(0);
    net.route(&a, &none);
    assert_eq!(net.left_one().word(6), 0);
}

// R19, R25
#[test]
fn segments_are_what_an_mtu_is_compared_to() {
    let (mut net, a, big) = connected();
    net.route_offloaded(&a, &big, 1449); // 1501 bytes a segment, DF
    assert_eq!(net.got_one(&a).icmp(), (3, 4));
    assert!(net.left().is_empty());
    net.route_offloaded(&a, &Packet { frag: 0, ..big }, 1460); // may be cut
    let left = net.left();
    assert!(left.len() > 28 && left.iter().all(|p| 20 + p.body.len() <= 1500));
}

// R25
#[test]
fn what_a_container_says_of_its_checksum_is_not_believed() {
    let mut net = Net::new();
    let a = net.attach();
    let uplink = net.uplink.unwrap();
    let gateway = net.gateway_mac();
    let packet = udp_with("172.17.0.2:4000", "198.51.100.5:53", b"data of it");
    let bytes = frame(gateway, a.mac, 0x0800, &packet.bytes());
    // csum_start on the source address: a kernel would store a sum over what we translated.
    for (start, offset) in [(26u16, 0u16), (34, 4), (0, 6), (14, 10), (40, 2)] {
        let lie = VnetHeader { csum_start: start, csum_offset: offset, ..offload(UDP, 34, 0) };
        net.input(a.port, lie, &bytes);
        for out in net.received(uplink) {
            assert_eq!((out.vnet.flags, &out.bytes[12..16]), (0, &[192, 0, 2, 112][..]), "{start}+{offset}");
        }
    }
    for lie in [
        VnetHeader { csum_start: 60_000, ..offload(UDP, 34, 0) },
        VnetHeader { gso_type: gso::TCPV4, gso_size: 100, ..offload(UDP, 34, 0) },
        VnetHeader { gso_type: gso::UDP_L4, gso_size: 0, ..offload(UDP, 34, 0) },
        VnetHeader { gso_type: gso::TCPV6, gso_size: 9, ..VnetHeader::default() },
        VnetHeader { gso_type: 77, gso_size: 9, ..offload(UDP, 34, 0) },
    ] {
        net.input(a.port, lie, &bytes);
        assert!(net.received(uplink).is_empty(), "{lie:?}");
    }
    let (mut net, a, big) = connected();
    net.route_offloaded(&a, &big, 1);
    assert_eq!(net.dropped(a.port, "too-many-segments"), 1);
}

// R30
#[test]
fn super_frame_that_waits_for_arp_is_a_super_frame_still() {
    let mut net = Net::new();
    let (a, b) = (net.attach(), net.attach());
    let gateway = net.gateway_mac();
    net.quiet();
    let big = tcp_with("172.17.0.2:1", "172.17.0.77:2", ACK, 1, 1, &[], &data(9000)).partial();
    net.route_offloaded(&a, &big, 1460);
    net.quiet_now();
    let answer = crate::packet::arp(2, (b.mac, "172.17.0.77"), (gateway, "172.17.0.1"));
    net.send(&b, &frame(gateway, b.mac, 0x0806, &answer));
    let out = net.received(b.port);
    assert_eq!((out.len(), out[0].vnet.gso_size, out[0].vnet.csum_start), (1, 1460, 34));
    assert_eq!(segments(&out[0]).len(), 7);
}

// S63
#[test]
fn lost_segment_is_counted_whatever_becomes_of_the_others() {
    let mut net = Net::new();
    let a = net.attach();
    let request = net.request("default");
    let plain = net.attach_as(request, Caps::PLAIN);
    net.quiet();
    let packet = tcp_with("172.17.0.2:1", "172.17.0.3:2", ACK, 1, 1, &[], &data(4000)).df().partial();
    net.world.next.insert(plain.port, [Sent::Failed].into());
    net.input(a.port, offload(TCP, 34, 1448), &frame(plain.mac, a.mac, 0x0800, &packet.bytes()));
    assert_eq!(net.received(plain.port).len(), 2);
    assert_eq!(net.drops(a.port), [("write-failed", 1)]);
}
