//! ICMP errors and refusals of the host: about which datagram the container is told what, and as whom.

use super::bed::{FAILED, NOW, READABLE, engine, icmp, message, say, send};
use crate::core::counters::DropReason;
use crate::core::socket::{DatagramError, Endpoint, Failure};
use crate::core::split::udp::fake::{GATEWAY, Packet, at};
use crate::wire::addr::Addr;
use crate::wire::ip::ipv4;
use crate::wire::{checksum, get16};

#[test]
fn error_about_one_datagram_is_told_after_the_next_to_another_was_sent() {
    let (mut udp, mut around) = engine();
    let (from, a, b) = ("172.17.0.2:4000", "198.51.100.5:5000", "198.51.100.6:6000");
    say(&mut udp, &mut around, from, a, b"to a").unwrap();
    let socket = around.only().1;
    socket.errors.push_back(icmp(at(a), 3, 3, Some("198.51.100.5")));
    say(&mut udp, &mut around, from, b, b"to b").unwrap();
    assert_eq!(around.only().1.sent[1].data, b"to b");
    let id = around.only().0;
    udp.socket_ready(id, FAILED, NOW, &mut around);
    let packets = around.take_packets();
    assert_eq!(packets.len(), 1);
    let (src, error) = message(&packets[0]);
    assert_eq!((src, &error[..2]), (at(a).addr, &[3, 3][..]));
    let quoted = &error[8..];
    assert_eq!((Addr::read4(quoted, 12), Addr::read4(quoted, 16)), (at(from).addr, at(a).addr));
    assert_eq!((get16(quoted, 20), get16(quoted, 22), get16(quoted, 24)), (4000, 5000, 8 + 4));
    assert_eq!((get16(quoted, ipv4::ID), checksum::sum(&quoted[..20])), (77, 0xffff));
}

#[test]
fn error_behind_which_a_datagram_waits_is_told_before_it() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
    let (id, socket) = around.only();
    socket.inbox.push_back(Err(Failure::Refused));
    socket.errors.push_back(icmp(at("198.51.100.5:5000"), 3, 1, Some("203.0.113.1")));
    socket.put(at("198.51.100.5:5000"), b"y");
    assert!(!udp.socket_ready(id, READABLE, NOW, &mut around));
    assert_eq!(around.take_packets().iter().map(|p| p[9]).collect::<Vec<_>>(), [1, 17]);
}

#[test]
fn error_without_end_and_reason_does_not_hold_the_loop() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
    let (id, socket) = around.only();
    socket.inbox.extend((0..100).map(|_| Err(Failure::Other(5))));
    assert!(!udp.socket_ready(id, READABLE, NOW, &mut around));
    assert!(around.only().1.inbox.len() > 90);
}

// R03
#[test]
fn traceroute_sees_each_router_on_the_hosts_way() {
    let (mut udp, mut around) = engine();
    let from = at("172.17.0.2:4000");
    for hop in 1..=30u8 {
        let mut probe = Packet::udp(from, Endpoint { port: 33_433 + u16::from(hop), ..at("198.51.100.5:0") }, b"probe");
        probe.ttl = hop + 1;
        send(&mut udp, &mut around, &probe, NOW).unwrap();
        let (id, socket) = around.only();
        let sent = socket.sent.last().unwrap();
        assert_eq!(sent.how.ttl, hop);
        socket.errors.push_back(icmp(sent.to, 11, 0, Some(&format!("203.0.113.{hop}"))));
        udp.socket_ready(id, FAILED, NOW, &mut around);
    }
    let packets = around.take_packets();
    assert_eq!(packets.len(), 30, "no probe's error is lost to a limit");
    for (hop, packet) in (1u8..).zip(&packets) {
        let (src, error) = message(packet);
        assert_eq!((src, &error[..2]), (Addr::v4([203, 0, 113, hop]), &[11, 0][..]));
        assert_eq!((get16(error, 8 + 22), error[8 + ipv4::TTL]), (33_433 + u16::from(hop), 1));
    }
}

#[test]
fn address_that_may_not_be_seen_complains_as_the_gateway() {
    for hidden in ["127.0.0.1", "192.0.2.10", "172.17.0.9", "169.254.1.1", "0.0.0.0"] {
        let (mut udp, mut around) = engine();
        say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
        let (id, socket) = around.only();
        socket.errors.push_back(icmp(at("198.51.100.5:5000"), 3, 1, Some(hidden)));
        udp.socket_ready(id, FAILED, NOW, &mut around);
        assert_eq!(message(&around.take_packets()[0]).0, GATEWAY, "{hidden}");
    }
}

// U13
#[test]
fn datagram_too_long_for_the_route_is_told_its_mtu_if_it_may_not_be_cut() {
    let (mut udp, mut around) = engine();
    let mut quic = Packet::udp(at("172.17.0.2:4000"), at("198.51.100.5:443"), &[1; 1472]);
    quic.fragment = ipv4::DF;
    send(&mut udp, &mut around, &quic, NOW).unwrap();
    for (known, want) in [(1400, 1400), (0, 1492)] {
        let socket = around.only().1;
        socket.refusals.push_back(Some(Failure::TooLong));
        if known > 0 {
            let local = Err(Failure::TooLong);
            let to = at("198.51.100.5:443");
            socket.errors.push_back(DatagramError {
                to,
                icmp: local,
                mtu: known,
                offender: None,
                sequence: None,
                from: None,
            });
        }
        assert_eq!(send(&mut udp, &mut around, &quic, NOW), Err(DropReason::NeedsFragmentation));
        let packets = around.take_packets();
        assert_eq!(packets.len(), 1);
        let (src, error) = message(&packets[0]);
        assert_eq!((src, &error[..2], get16(error, 6)), (GATEWAY, &[3, 4][..], want));
        assert_eq!(get16(error, 8 + ipv4::FRAGMENT), ipv4::DF);
    }
}

#[test]
fn too_big_of_a_router_is_told_unless_the_host_may_cut() {
    for (fragment, told) in [(ipv4::DF, Some(1300)), (0, None)] {
        let (mut udp, mut around) = engine();
        let mut packet = Packet::udp(at("172.17.0.2:4000"), at("198.51.100.5:443"), &[1; 1472]);
        packet.fragment = fragment;
        send(&mut udp, &mut around, &packet, NOW).unwrap();
        let (id, socket) = around.only();
        socket.errors.push_back(DatagramError { mtu: 1300, ..icmp(at("198.51.100.5:443"), 3, 4, Some("203.0.113.1")) });
        udp.socket_ready(id, FAILED, NOW, &mut around);
        let mtus: Vec<_> = around.take_packets().iter().map(|p| get16(message(p).1, 6)).collect();
        assert_eq!(mtus, told.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn what_the_host_refuses_is_told_and_counted_by_its_kind() {
    for (why, code, drop) in [
        (Failure::HostUnreachable, Some(1), DropReason::NoRoute),
        (Failure::NetUnreachable, Some(0), DropReason::NoRoute),
        (Failure::Prohibited, Some(13), DropReason::HostRefused),
        (Failure::Other(5), None, DropReason::HostRefused),
        (Failure::NoMemory, None, DropReason::HostBusy),
        (Failure::WouldBlock, None, DropReason::HostBusy),
        (Failure::TooLong, None, DropReason::NeedsFragmentation),
    ] {
        let (mut udp, mut around) = engine();
        say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
        around.only().1.refusals.push_back(Some(why));
        let done = say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x");
        assert_eq!(done, Err(drop), "{why:?}");
        let told: Vec<_> = around.take_packets().iter().map(|p| (message(p).1[0], message(p).1[1])).collect();
        assert_eq!(told, code.map(|code| (3, code)).into_iter().collect::<Vec<_>>(), "{why:?}");
    }
}

#[test]
fn nothing_is_said_about_what_was_sent_to_a_group() {
    let (mut udp, mut around) = engine();
    let to = "224.0.0.251:5353";
    say(&mut udp, &mut around, "172.17.0.2:4000", to, b"x").unwrap();
    let (id, socket) = around.only();
    socket.errors.push_back(icmp(at(to), 3, 1, Some("203.0.113.1")));
    socket.refusals.push_back(Some(Failure::NetUnreachable));
    udp.socket_ready(id, FAILED, NOW, &mut around);
    assert_eq!(say(&mut udp, &mut around, "172.17.0.2:4000", to, b"x"), Err(DropReason::NoRoute));
    assert!(around.delivered.is_empty());
}
