use proptest::prelude::*;

use super::fake::{Around, GATEWAY, HOST, Packet, Sent, at, container};
use super::*;
use crate::core::socket::DatagramError;
use crate::wire::checksum;

const NOW: Instant = Instant::from_secs(1_000);
const READABLE: Ready = Ready { readable: true, writable: false, error: false };
const FAILED: Ready = Ready { readable: true, writable: false, error: true };

#[test]
fn datagram_goes_out_and_its_answer_comes_back_from_the_address_that_was_asked() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"question").unwrap();
    let (id, socket) = around.only();
    assert_eq!((socket.bound.addr, socket.sent.len()), (Addr::V4_UNSPECIFIED, 1));
    let Sent { to, data, how } = socket.sent.remove(0);
    assert_eq!((to, &data[..]), (at("198.51.100.5:5000"), &b"question"[..]));
    assert_eq!(how, SendHow { segment: None, dont_fragment: false, tos: 0, ttl: 63, from: None, scope: 0 });
    socket.put(at("198.51.100.5:5000"), b"answer");
    assert!(!udp.socket_ready(id, READABLE, NOW, &mut around));
    assert_eq!(heard(&mut around), [(at("198.51.100.5:5000"), at("172.17.0.2:4000"), b"answer".to_vec())]);
}

#[test]
fn one_socket_serves_all_destinations_of_an_endpoint() {
    let (mut udp, mut around) = engine();
    for peer in ["198.51.100.5:5000", "198.51.100.6:5000", "198.51.100.5:5001"] {
        say(&mut udp, &mut around, "172.17.0.2:4000", peer, b"x").unwrap();
    }
    assert_eq!(around.only().1.sent.len(), 3);
    say(&mut udp, &mut around, "172.17.0.2:4001", "198.51.100.5:5000", b"x").unwrap();
    assert_eq!(around.host.open.len(), 2);
}

// U8
#[test]
fn only_whom_the_container_has_sent_to_is_let_in() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
    let (id, socket) = around.only();
    for stranger in ["198.51.100.5:5001", "198.51.100.6:5000"] {
        socket.put(at(stranger), b"forged");
    }
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert!(around.delivered.is_empty());
    assert_eq!(around.dropped, [(PortId(2), DropReason::Unsolicited); 2]);
}

/// One turn of a container: datagrams from its port 4000, by their destination, length and type of service; what was sent for it, by
/// calls: destination, the lengths of the datagrams, the type of service.
fn turn(udp: &mut Udp, around: &mut Around, datagrams: &[(&str, usize, u8)]) -> Vec<(Endpoint, Vec<usize>, u8)> {
    for (number, &(to, len, tos)) in datagrams.iter().enumerate() {
        let from = at("172.17.0.2:4000");
        let mut packet = Packet::udp(from, at(to), &vec![number as u8; len]);
        packet.tos = tos;
        packet.frame(|frame| udp.input(origin(from), frame, None, NOW, around)).unwrap();
    }
    udp.flush(NOW, around);
    udp.table.audit();
    let mut calls = Vec::new();
    let mut numbers = Vec::new();
    for Sent { to, data, how } in around.only().1.sent.drain(..) {
        let size = how.segment.map_or(data.len().max(1), |size| usize::from(size.get()));
        numbers.extend(data.chunks(size).map(|datagram| datagram[0]));
        calls.push((to, data.chunks(size).map(<[u8]>::len).collect(), how.tos));
    }
    assert!(numbers.is_sorted(), "none overtakes another: {numbers:?}");
    calls
}

#[test]
fn datagrams_of_one_flow_in_one_turn_are_sent_together_behind_the_first() {
    let (mut udp, mut around) = engine();
    let (a, b) = ("198.51.100.5:5000", "198.51.100.6:5000");
    assert_eq!(turn(&mut udp, &mut around, &[(a, 100, 0)]), [(at(a), vec![100], 0)]);
    assert_eq!(turn(&mut udp, &mut around, &[(a, 100, 0); 4]), [(at(a), vec![100], 0), (at(a), vec![100; 3], 0)]);
    // A shorter one is the last of a call; a longer one, another flow's and another header begin anew.
    let mixed = [(a, 9, 0), (a, 100, 0), (a, 100, 0), (a, 7, 0), (a, 7, 0), (a, 8, 0), (b, 8, 0), (b, 8, 2), (b, 8, 2)];
    let calls = [
        (at(a), vec![9], 0),
        (at(a), vec![100, 100, 7], 0),
        (at(a), vec![7], 0),
        (at(a), vec![8], 0),
        (at(b), vec![8], 0),
        (at(b), vec![8, 8], 2),
    ];
    assert_eq!(turn(&mut udp, &mut around, &mixed), calls);
    let rows = udp.flows(0, 9, NOW).0;
    assert_eq!(rows.iter().map(|row| row.original_traffic.frames).sum::<u64>(), 1 + 4 + 9);
}

#[test]
fn train_has_at_most_64_datagrams_of_2_kib_and_64_kib_in_all() {
    let (mut udp, mut around) = engine();
    for (len, calls) in [(1000, [1, 64, 35].as_slice()), (2048, &[1, 31, 31, 31, 6]), (2049, &[1; 100])] {
        let sent = turn(&mut udp, &mut around, &[("198.51.100.5:5000", len, 0); 100]);
        assert_eq!(sent.iter().map(|call| call.1.len()).collect::<Vec<_>>(), calls, "{len} bytes each");
    }
}

#[test]
fn datagrams_sent_together_that_the_host_does_not_take_are_counted_each() {
    let (mut udp, mut around) = engine();
    let to = "198.51.100.5:5000";
    turn(&mut udp, &mut around, &[(to, 10, 0)]);
    around.only().1.refusals.extend([None, Some(Failure::WouldBlock)]);
    let calls = turn(&mut udp, &mut around, &[(to, 10, 0); 4]);
    assert_eq!(calls.iter().map(|call| call.1.len()).sum::<usize>(), 1);
    assert_eq!(around.dropped, vec![(PortId(2), DropReason::HostBusy); 3]);
}

#[test]
fn what_a_container_asks_of_its_packets_goes_along() {
    let (mut udp, mut around) = engine();
    let mut quic = Packet::udp(at("172.17.0.2:4000"), at("198.51.100.5:443"), b"x");
    (quic.fragment, quic.tos, quic.ttl) = (ipv4::DF, 0xb9, 2);
    send(&mut udp, &mut around, &quic, NOW).unwrap();
    let how = SendHow { segment: None, dont_fragment: true, tos: 0xb9, ttl: 1, from: None, scope: 0 };
    assert_eq!(around.only().1.sent[0].how, how);
    quic.ttl = 1;
    assert_eq!(send(&mut udp, &mut around, &quic, NOW), Err(DropReason::TtlExceeded));
}

#[test]
fn congestion_that_an_arrival_met_and_its_hops_are_shown() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:443", b"x").unwrap();
    let (id, socket) = around.only();
    for ttl in [60, 1, 0] {
        socket.put(at("198.51.100.5:443"), b"y");
        let Some(Ok((received, _))) = socket.inbox.back_mut() else { unreachable!() };
        (received.tos, received.ttl) = (0x2b, ttl);
    }
    udp.socket_ready(id, READABLE, NOW, &mut around);
    let seen: Vec<_> = around.take_packets().iter().map(|p| (p[ipv4::TOS], p[ipv4::TTL])).collect();
    assert_eq!(seen, [(0x2b, 59), (0x2b, 1), (0x2b, 64)]);
}

#[test]
fn empty_datagram_crosses_both_ways() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"").unwrap();
    let (id, socket) = around.only();
    assert_eq!(socket.sent[0].data, b"");
    socket.put(at("198.51.100.5:5000"), b"");
    socket.put(at("198.51.100.5:5000"), b"after");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert_eq!(heard(&mut around).into_iter().map(|d| d.2).collect::<Vec<_>>(), [b"".to_vec(), b"after".to_vec()]);
}

#[test]
fn longest_datagram_arrives_in_fragments_that_make_it_whole() {
    let (mut udp, mut around) = engine();
    let data: Vec<u8> = (0..65_507).map(|i| (i % 249) as u8).collect();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", &data).unwrap();
    assert_eq!(around.only().1.sent[0].data, data);
    let id = around.only().0;
    around.only().1.put(at("198.51.100.5:5000"), &data);
    around.only().1.put(at("198.51.100.5:5000"), &data);
    udp.socket_ready(id, READABLE, NOW, &mut around);
    let packets = around.take_packets();
    assert!(packets.iter().all(|p| p.len() <= 1500));
    let ids: Vec<_> = packets.iter().map(|p| get16(p, ipv4::ID)).collect();
    let (first, second) = packets.split_at(packets.len() / 2);
    assert!(ids[..first.len()].iter().all(|id| *id == ids[0]) && ids[first.len()] != ids[0]);
    for datagram in [first, second] {
        let mut table = super::super::reassembly::Reassembly::new([3; 16]);
        let mut whole = None;
        for piece in datagram {
            let mut buf = vec![0; HEADROOM];
            buf.extend_from_slice(piece);
            let end = buf.len();
            let frame = Frame::parse(&mut buf, HEADROOM, end, crate::frame::Link::Ip).unwrap();
            whole = table.input(container(2).0, &frame, NOW).unwrap();
        }
        let mut whole = whole.unwrap();
        let mut frame = whole.frame().unwrap();
        assert!(frame.verify_checksum());
        assert_eq!(frame.payload(), data);
    }
}

/// A super-frame of a container, of datagrams of 1,200 bytes.
fn send_super_frame(udp: &mut Udp, around: &mut Around, data: &[u8]) {
    Packet::udp(at("172.17.0.2:4000"), at("198.51.100.5:443"), data)
        .super_frame(1200, |frame| udp.input(container(2).0, frame, None, NOW, around))
        .unwrap();
}

#[test]
fn super_frame_is_sent_in_one_call() {
    let (mut udp, mut around) = engine();
    let data: Vec<u8> = (0..5_000).map(|i| (i % 249) as u8).collect();
    send_super_frame(&mut udp, &mut around, &data);
    let sent = around.take_sent();
    assert_eq!((sent.len(), sent[0].how.segment.map(|s| s.get())), (1, Some(1200)));
    assert_eq!(sent[0].data, data);
}

#[test]
fn arrivals_that_the_host_has_joined_stay_one_super_frame() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:443", b"x").unwrap();
    let (id, socket) = around.only();
    let data: Vec<u8> = (0..30_050).map(|i| (i % 249) as u8).collect();
    socket.put_as(at("198.51.100.5:443"), None, Some(100), &data);
    udp.socket_ready(id, READABLE, NOW, &mut around);
    // 301 datagrams, at most 128 in one.
    assert_eq!(around.delivered.len(), 3);
    let packets = around.take_packets();
    let ids: Vec<_> = packets.iter().map(|p| get16(p, ipv4::ID).wrapping_sub(get16(&packets[0], ipv4::ID))).collect();
    assert_eq!(ids, (0..301).collect::<Vec<_>>());
    assert_eq!(packets.iter().flat_map(|p| p[28..].to_vec()).collect::<Vec<_>>(), data);
    let (rows, _) = udp.flows(0, 10, NOW);
    assert_eq!(rows[0].reply_traffic, Traffic { frames: 301, bytes: 30_050 });
}

#[test]
fn joined_arrivals_longer_than_the_mtu_are_cut() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:443", b"x").unwrap();
    let (id, socket) = around.only();
    socket.put_as(at("198.51.100.5:443"), None, Some(4_000), &[1; 10_000]);
    udp.socket_ready(id, READABLE, NOW, &mut around);
    let packets = around.take_packets();
    assert!(packets.iter().all(|p| p.len() <= 1500));
    assert_eq!(packets.iter().map(|p| p.len() - 20).sum::<usize>(), 10_000 + 3 * 8);
}

#[test]
fn mapped_destination_is_dialled_and_answers_as_what_it_stands_for() {
    let (mut udp, mut around) = engine();
    let (from, to) = (at("172.17.0.2:4000"), at("172.17.0.1:8125"));
    let dial = Some(at("127.0.0.1:8125"));
    Packet::udp(from, to, b"x").frame(|frame| udp.input(origin(from), frame, dial, NOW, &mut around)).unwrap();
    let (id, socket) = around.only();
    assert_eq!(socket.sent[0].to, at("127.0.0.1:8125"));
    socket.put(at("127.0.0.1:8125"), b"y");
    socket.put(to, b"not from there");
    socket.errors.push_back(icmp(at("127.0.0.1:8125"), 3, 3, Some("127.0.0.1")));
    udp.socket_ready(id, FAILED, NOW, &mut around);
    let packets = around.take_packets();
    assert_eq!(packets.len(), 2);
    assert!(packets.iter().all(|p| Addr::read4(p, 12) == GATEWAY), "127.0.0.1 is never seen");
    assert_eq!(around.dropped, [(PortId(2), DropReason::Unsolicited)]);
}

// U5
#[test]
fn flow_lives_30_s_and_120_s_once_it_is_a_conversation() {
    let (mut udp, mut around) = engine();
    let (from, to) = ("172.17.0.2:4000", "198.51.100.5:5000");
    say(&mut udp, &mut around, from, to, b"x").unwrap();
    assert_eq!(timeout(&udp, NOW), 30);
    answer(&mut udp, &mut around, to, NOW + Duration::from_secs(1));
    let later = NOW + Duration::from_secs(3);
    assert_eq!(udp.flows(0, 1, later).0[0].timeout, Duration::from_secs(28));
    assert!(!udp.flows(0, 1, later).0[0].assured);
    say_at(&mut udp, &mut around, from, to, b"x", later).unwrap();
    let (rows, _) = udp.flows(0, 10, later);
    assert!(rows[0].assured && rows[0].replied);
    assert_eq!(rows[0].timeout, Duration::from_secs(120));
    udp.handle_timeout(later + Duration::from_secs(119), &mut around);
    assert_eq!(around.host.open.len(), 1);
    udp.handle_timeout(later + Duration::from_secs(120), &mut around);
    assert!(around.host.open.is_empty() && around.ids.is_empty());
    assert_eq!((udp.table.len(), udp.next_timeout()), ((0, 0), None));
}

#[test]
fn peer_of_a_flow_that_is_over_is_a_stranger_even_before_the_timer_ran() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
    answer(&mut udp, &mut around, "198.51.100.5:5000", NOW + Duration::from_secs(30));
    assert!(around.delivered.is_empty() && around.host.open.is_empty());
}

#[test]
fn question_to_a_resolver_frees_its_socket_soon_after_the_last_answer() {
    let (mut udp, mut around) = engine();
    let (from, to) = ("172.17.0.2:4000", "198.51.100.53:53");
    say(&mut udp, &mut around, from, to, b"A").unwrap();
    say(&mut udp, &mut around, from, to, b"AAAA").unwrap();
    answer(&mut udp, &mut around, to, NOW);
    assert_eq!(timeout(&udp, NOW), 30, "one answer is still to come");
    answer(&mut udp, &mut around, to, NOW);
    assert_eq!(timeout(&udp, NOW), 2);
    assert_eq!(udp.next_timeout(), Some(NOW + DNS_LINGER));
    udp.handle_timeout(NOW + DNS_LINGER, &mut around);
    assert!(around.host.open.is_empty());
    assert_eq!(heard(&mut around).len(), 2);
}

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
fn client_of_a_published_port_is_seen_with_its_address_and_answered_from_the_one_it_asked() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    let client = at("198.51.100.7:9999");
    socket(&mut around, id).put_as(client, Some(HOST), None, b"hello");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert_eq!(heard(&mut around), [(client, at("172.17.0.2:53"), b"hello".to_vec())]);
    assert!(udp.is_reply(container(2).0, at("172.17.0.2:53"), client, NOW));
    assert!(!udp.is_reply(container(3).0, at("172.17.0.2:53"), client, NOW));
    say(&mut udp, &mut around, "172.17.0.2:53", "198.51.100.7:9999", b"world").unwrap();
    assert_eq!(around.host.open.len(), 1, "the reply needs no socket of its own");
    let sent = around.take_sent().remove(0);
    assert_eq!((sent.to, sent.how.from, &sent.data[..]), (client, Some(HOST), &b"world"[..]));
    let row = udp.flows(0, 1, NOW).0.remove(0);
    assert_eq!(row.original.to_string(), "198.51.100.7:9999 -> 192.0.2.10:5353 udp");
    assert_eq!(row.reply.to_string(), "172.17.0.2:53 -> 198.51.100.7:9999 udp");
    assert!(row.replied);
}

#[test]
fn error_is_about_the_datagram_to_that_client_from_that_address() {
    let (mut udp, mut around) = engine();
    let other = Addr::v4([192, 0, 2, 11]);
    let id = publish(&mut udp, &mut around, 1, 2);
    let (a, b) = (at("198.51.100.7:9999"), at("198.51.100.8:9999"));
    let mut shown = Vec::new();
    for (client, asked) in [(a, HOST), (a, other), (b, HOST)] {
        socket(&mut around, id).put_as(client, Some(asked), None, b"question");
        udp.socket_ready(id, READABLE, NOW, &mut around);
        let from = heard(&mut around)[0].0;
        say(&mut udp, &mut around, "172.17.0.2:53", &format!("{}:{}", from.addr, from.port), b"answer").unwrap();
        shown.push(from);
    }
    assert_ne!(shown[0].port, shown[1].port, "one client, asking at two addresses, is two inside");
    let told = |around: &mut Around| {
        let packets = around.take_packets();
        let quoted = |p: &Vec<u8>| {
            let quote = &message(p).1[8..];
            Endpoint { addr: Addr::read4(quote, ipv4::DST), port: get16(quote, 22) }
        };
        packets.iter().map(quoted).collect::<Vec<_>>()
    };
    for (client, asked, about) in [(a, HOST, shown[0]), (a, other, shown[1]), (b, HOST, shown[2])] {
        let error = DatagramError { from: Some(asked), ..icmp(client, 3, 3, None) };
        socket(&mut around, id).errors.push_back(error);
        udp.socket_ready(id, FAILED, NOW, &mut around);
        assert_eq!(told(&mut around), [about], "{client:?} {asked}");
    }
    for nobody in [
        DatagramError { from: Some(other), ..icmp(b, 3, 3, None) },
        DatagramError { from: Some(HOST), ..icmp(at("198.51.100.7:9998"), 3, 3, None) },
    ] {
        socket(&mut around, id).errors.push_back(nobody);
        udp.socket_ready(id, FAILED, NOW, &mut around);
        assert_eq!(told(&mut around), [], "{nobody:?}");
    }
}

// S27
// CVE-2021-20199
#[test]
fn client_that_may_not_be_shown_is_the_gateway() {
    for hidden in [
        "127.0.0.1",
        "192.0.2.10",
        "172.17.3.4",
        "169.254.7.7",
        "224.0.0.1",
        "0.0.0.0",
        "127.0.0.53",
        "2001:db8::9",
        "::1",
    ] {
        let (mut udp, mut around) = engine();
        let id = publish(&mut udp, &mut around, 1, 2);
        let client = Endpoint { addr: hidden.parse().unwrap(), port: 7000 };
        socket(&mut around, id).put_as(client, Some(HOST), None, b"x");
        udp.socket_ready(id, READABLE, NOW, &mut around);
        assert_eq!(heard(&mut around)[0].0, Endpoint { addr: GATEWAY, port: 7000 }, "{hidden}");
        say(&mut udp, &mut around, "172.17.0.2:53", "172.17.0.1:7000", b"y").unwrap();
        assert_eq!(around.take_sent()[0].to, client);
    }
}

#[test]
fn clients_that_would_look_the_same_differ_in_their_port() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    let clients = [
        (at("127.0.0.1:7000"), "127.0.0.1"),
        (at("127.0.0.2:7000"), "127.0.0.1"),
        (at("127.0.0.1:7000"), "192.0.2.10"),
    ];
    for (client, asked) in clients {
        socket(&mut around, id).put_as(client, Some(asked.parse().unwrap()), None, b"x");
    }
    udp.socket_ready(id, READABLE, NOW, &mut around);
    let shown: Vec<_> = heard(&mut around).into_iter().map(|d| d.0).collect();
    assert_eq!(shown[0], at("172.17.0.1:7000"));
    assert!(shown.iter().all(|s| s.addr == GATEWAY && s.port >= 1024));
    assert!(shown[0] != shown[1] && shown[1] != shown[2] && shown[0] != shown[2]);
    for (shown, (client, asked)) in shown.iter().zip(clients) {
        say(&mut udp, &mut around, "172.17.0.2:53", &format!("172.17.0.1:{}", shown.port), b"y").unwrap();
        let sent = around.take_sent().remove(0);
        assert_eq!((sent.to, sent.how.from), (client, Some(asked.parse().unwrap())));
    }
    udp.table.audit();
}

#[test]
fn broadcast_to_a_published_port_is_dropped() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    for asked in ["192.0.2.255", "255.255.255.255", "224.0.0.251"] {
        socket(&mut around, id).put_as(at("198.51.100.7:1"), Some(asked.parse().unwrap()), None, b"x");
    }
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert!(around.delivered.is_empty());
    assert_eq!(around.dropped, [(PortId(2), DropReason::Broadcast); 3]);
}

// Q03
#[test]
fn client_reaches_the_container_that_took_over_with_its_next_datagram() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    socket(&mut around, id).put_as(at("198.51.100.7:9"), Some(HOST), None, b"x");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    udp.detach(PortId(2), &mut around);
    assert!(around.host.open.is_empty() && around.ids.is_empty());
    assert_eq!(udp.table.len(), (0, 0));
    around.delivered.clear();
    let id = publish(&mut udp, &mut around, 1, 3);
    socket(&mut around, id).put_as(at("198.51.100.7:9"), Some(HOST), None, b"y");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert_eq!(heard(&mut around), [(at("198.51.100.7:9"), at("172.17.0.3:53"), b"y".to_vec())]);
}

#[test]
fn port_is_published_once() {
    let (mut udp, mut around) = engine();
    publish(&mut udp, &mut around, 1, 2);
    let to = at("172.17.0.3:53");
    let mut again =
        |tag, around: &mut Around| udp.listen(tag, at("0.0.0.0:5353"), to, NetworkId(0), PortId(3), NOW, around);
    assert_eq!(again(1, &mut around), Err(Failure::InUse));
    assert_eq!(again(2, &mut around), Err(Failure::InUse), "the host's port is taken");
    assert_eq!(around.ids.len(), 1);
}

#[test]
fn withdrawn_port_takes_its_clients_along() {
    let (mut udp, mut around) = engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    socket(&mut around, id).put(at("198.51.100.7:9"), b"x");
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert_eq!(udp.table.len(), (1, 1));
    assert!(udp.unlisten(1, &mut around) && !udp.unlisten(1, &mut around));
    assert_eq!((udp.table.len(), around.host.open.len(), around.ids.len()), ((0, 0), 0, 0));
    assert!(!udp.socket_ready(id, READABLE, NOW, &mut around), "a late event meets nobody");
}

#[test]
fn flood_of_clients_takes_nothing_from_the_containers_own_flows() {
    let (mut udp, mut around) = small_engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
    for port in 1..2_000 {
        socket(&mut around, id).put(Endpoint { port, ..at("198.51.100.7:0") }, b"x");
        udp.socket_ready(id, READABLE, NOW, &mut around);
        assert!(udp.table.flows_of(PortId(2)) <= 16);
    }
    udp.table.audit();
    assert_eq!(around.host.open.len(), 2);
    let own = around.host.open.iter().find(|(i, _)| **i != id).map(|(i, _)| *i).unwrap();
    around.delivered.clear();
    socket(&mut around, own).put(at("198.51.100.5:5000"), b"y");
    udp.socket_ready(own, READABLE, NOW, &mut around);
    assert_eq!(around.delivered.len(), 1);
}

#[test]
fn container_that_opens_many_sockets_takes_none_of_anothers() {
    let (mut udp, mut around) = small_engine();
    say(&mut udp, &mut around, "172.17.0.9:1", "198.51.100.5:5000", b"x").unwrap();
    for port in 1..500u16 {
        for flooder in 2..6 {
            say(&mut udp, &mut around, &format!("172.17.0.{flooder}:{port}"), "198.51.100.5:5000", b"x").unwrap();
            assert!(udp.table.sockets_of(PortId(flooder)) <= 4);
        }
        assert!(around.host.open.len() <= 10, "all containers together");
    }
    assert_eq!(udp.table.sockets_of(PortId(9)), 1);
    say(&mut udp, &mut around, "172.17.0.9:2", "198.51.100.5:5000", b"x").unwrap();
    assert_eq!(udp.table.sockets_of(PortId(9)), 2);
}

#[test]
fn conversation_is_never_evicted_and_the_container_is_told() {
    let (mut udp, mut around) = small_engine();
    let to = "198.51.100.5:5000";
    for port in 1..=4 {
        let from = format!("172.17.0.2:{port}");
        say(&mut udp, &mut around, &from, to, b"x").unwrap();
        let ids: Vec<_> = around.host.open.keys().copied().collect();
        for id in ids {
            socket(&mut around, id).put(at(to), b"y");
            udp.socket_ready(id, READABLE, NOW, &mut around);
        }
    }
    let later = NOW + Duration::from_secs(3);
    for port in 1..=4 {
        say_at(&mut udp, &mut around, &format!("172.17.0.2:{port}"), to, b"x", later).unwrap();
    }
    around.delivered.clear();
    assert_eq!(say_at(&mut udp, &mut around, "172.17.0.2:5", to, b"x", later), Err(DropReason::FlowQuota));
    let packets = around.take_packets();
    let (src, error) = message(&packets[0]);
    assert_eq!((packets.len(), src, &error[..2]), (1, GATEWAY, &[3, 13][..]));
    assert_eq!(around.host.open.len(), 4);
}

#[test]
fn containers_that_fill_the_host_with_conversations_leave_another_its_share() {
    let limits = Limits { sockets: 10, sockets_each: 5, flows: 10, flows_each: 5 };
    let mut udp = Udp::new(Config { limits, ..Config::for_ports(1..=1) }, [7; 16], NOW);
    let mut around = Around::new();
    let to = "198.51.100.5:5000";
    let all: Vec<_> = (2..4).flat_map(|n| (1..6).map(move |port| format!("172.17.0.{n}:{port}"))).collect();
    for from in &all {
        say(&mut udp, &mut around, from, to, b"x").unwrap();
    }
    let ids: Vec<_> = around.host.open.keys().copied().collect();
    for id in ids {
        socket(&mut around, id).put(at(to), b"y");
        udp.socket_ready(id, READABLE, NOW, &mut around);
    }
    let later = NOW + Duration::from_secs(3);
    for from in &all {
        say_at(&mut udp, &mut around, from, to, b"x", later).unwrap();
    }
    assert!(udp.flows(0, 20, later).0.iter().all(|row| row.assured));
    for port in 1..5 {
        say_at(&mut udp, &mut around, &format!("172.17.0.9:{port}"), to, b"x", later).unwrap();
    }
    let used = [2, 3, 9].map(|n| udp.table.sockets_of(PortId(n)));
    assert_eq!((used.iter().sum::<usize>(), used.iter().max(), used.iter().min()), (10, Some(&4), Some(&3)));
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

#[test]
fn least_recently_used_peer_makes_room_for_a_new_one() {
    let (mut udp, mut around) = small_engine();
    let from = "172.17.0.2:1";
    for n in 0..16u64 {
        say_at(&mut udp, &mut around, from, &format!("198.51.100.5:{}", 100 + n), b"x", NOW + Duration::from_millis(n))
            .unwrap();
    }
    // The oldest is used again, so the second goes.
    let now = NOW + Duration::from_secs(1);
    say_at(&mut udp, &mut around, from, "198.51.100.5:100", b"x", now).unwrap();
    say_at(&mut udp, &mut around, from, "198.51.100.5:200", b"x", now).unwrap();
    let ports: Vec<_> = udp.flows(0, 100, now).0.iter().map(|row| row.original.dport).collect();
    assert_eq!(ports.len(), 16);
    assert!(ports.contains(&100) && ports.contains(&200) && !ports.contains(&101));
}

#[test]
fn without_descriptors_a_containers_own_oldest_socket_makes_room() {
    let (mut udp, mut around) = engine();
    let to = "198.51.100.5:5000";
    say(&mut udp, &mut around, "172.17.0.2:1", to, b"x").unwrap();
    around.host.room = 1;
    say(&mut udp, &mut around, "172.17.0.2:2", to, b"x").unwrap();
    assert_eq!((around.host.open.len(), around.host.opened), (1, 2));
    assert_eq!(say(&mut udp, &mut around, "172.17.0.3:1", to, b"x"), Err(DropReason::NoSocket));
    assert_eq!((around.host.open.len(), around.ids.len()), (1, 1));
}

#[test]
fn a_socket_that_another_of_the_same_container_gave_way_to_is_worth_nothing() {
    let (mut udp, mut around) = engine();
    let mut worth = |around: &mut Around, from: &str| {
        around.worth = Worth::Something;
        say(&mut udp, around, from, "198.51.100.5:5000", b"x").unwrap();
        around.worth
    };
    around.host.room = 10;
    for port in 1..=8 {
        assert_eq!(worth(&mut around, &format!("172.17.0.2:{port}")), Worth::Something);
    }
    assert_eq!(worth(&mut around, "172.17.0.2:9"), Worth::Nothing);
    assert_eq!(worth(&mut around, "172.17.0.2:9"), Worth::Something, "it is there now");
    assert_eq!(worth(&mut around, "172.17.0.3:1"), Worth::Something);
}

#[test]
fn a_container_that_opens_sockets_without_end_leaves_others_a_fifth_of_the_descriptors() {
    let (mut udp, mut around) = engine();
    around.host.room = 100;
    let to = "198.51.100.5:5000";
    for port in 1..500 {
        say(&mut udp, &mut around, &format!("172.17.0.2:{port}"), to, b"x").unwrap();
    }
    assert_eq!(around.host.open.len(), 80, "its own oldest made room for the others");
    for port in 1..10 {
        say(&mut udp, &mut around, &format!("172.17.0.3:{port}"), to, b"x").unwrap();
    }
    assert_eq!(around.host.open.len(), 89);
}

#[test]
fn flows_are_listed_in_pages() {
    let (mut udp, mut around) = engine();
    for n in 0..25 {
        say(&mut udp, &mut around, "172.17.0.2:1", &format!("198.51.100.5:{}", 100 + n), b"x").unwrap();
    }
    let (mut cursor, mut seen) = (Some(0), Vec::new());
    while let Some(from) = cursor {
        let (rows, next) = udp.flows(from, 10, NOW);
        assert!(rows.len() <= 10);
        seen.extend(rows.into_iter().map(|row| row.original.dport));
        cursor = next;
    }
    assert_eq!(seen, (100..125).collect::<Vec<_>>());
}

#[test]
fn a_turn_is_bounded_and_what_is_left_comes_with_the_next() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:1", "198.51.100.5:5000", b"x").unwrap();
    let (id, socket) = around.only();
    for _ in 0..100 {
        socket.put(at("198.51.100.5:5000"), &[0; 1000]);
    }
    assert!(udp.socket_ready(id, READABLE, NOW, &mut around));
    assert_eq!(around.delivered.len(), 64);
    assert!(!udp.socket_ready(id, READABLE, NOW, &mut around));
    assert_eq!(around.delivered.len(), 100);
}

#[test]
fn wrong_packets_are_refused_and_open_nothing() {
    let (mut udp, mut around) = engine();
    assert_eq!(say(&mut udp, &mut around, "172.17.0.2:1", "198.51.100.5:0", b"x"), Err(DropReason::BadTransport));
    let echo = Packet::echo(container(2).1, at("198.51.100.5:0").addr, 1, 1, b"");
    assert_eq!(send(&mut udp, &mut around, &echo, NOW), Err(DropReason::BadTransport));
    assert!(around.host.open.is_empty() && around.ids.is_empty());
}

/// What may happen to an engine.
#[derive(Clone, Debug)]
enum Event {
    Say { container: u8, port: u16, peer: u8, to: u16, len: usize },
    Arrive { socket: usize, from: u8, port: u16, len: usize, segment: u16, asked: bool },
    Error { socket: usize, peer: u8, port: u16, kind: u8, code: u8 },
    Refuse { socket: usize, why: usize },
    Publish { tag: u32, container: u8 },
    Unpublish { tag: u32 },
    Detach { container: u8 },
    Wait { millis: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    let port = || prop_oneof![Just(53u16), 1u16..6];
    prop_oneof![
        6 => (2u8..5, port(), 1u8..4, port(), 0usize..3000)
            .prop_map(|(container, port, peer, to, len)| Event::Say { container, port, peer, to, len }),
        6 => (any::<usize>(), 1u8..5, port(), 0usize..5000, 0u16..1600, any::<bool>()).prop_map(
            |(socket, from, port, len, segment, asked)| Event::Arrive { socket, from, port, len, segment, asked }
        ),
        2 => (any::<usize>(), 1u8..4, port(), any::<u8>(), any::<u8>())
            .prop_map(|(socket, peer, port, kind, code)| Event::Error { socket, peer, port, kind, code }),
        1 => (any::<usize>(), 0usize..6).prop_map(|(socket, why)| Event::Refuse { socket, why }),
        1 => (0u32..3, 2u8..5).prop_map(|(tag, container)| Event::Publish { tag, container }),
        1 => (0u32..3).prop_map(|tag| Event::Unpublish { tag }),
        1 => (2u8..5).prop_map(|container| Event::Detach { container }),
        3 => (1u64..40_000).prop_map(|millis| Event::Wait { millis }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_limits_hold_and_nothing_is_left_in_the_end(events in proptest::collection::vec(event(), 0..150)) {
        let (mut udp, mut around) = small_engine();
        let mut now = NOW;
        for event in events {
            let ids: Vec<_> = around.host.open.keys().copied().collect();
            let pick = |n: usize| ids.get(n % ids.len().max(1)).copied();
            match event {
                Event::Say { container, port, peer, to, len } => {
                    let from = Endpoint { addr: Addr::v4([172, 17, 0, container]), port };
                    let to = Endpoint { addr: Addr::v4([198, 51, 100, peer]), port: to };
                    let _ = send(&mut udp, &mut around, &Packet::udp(from, to, &vec![1; len]), now);
                }
                Event::Arrive { socket: n, from, port, len, segment, asked } => {
                    if let Some(id) = pick(n) {
                        let from = Endpoint { addr: Addr::v4([198, 51, 100, from]), port };
                        socket(&mut around, id).put_as(from, asked.then_some(HOST), Some(segment), &vec![2; len]);
                        udp.socket_ready(id, READABLE, now, &mut around);
                    }
                }
                Event::Error { socket: n, peer, port, kind, code } => {
                    if let Some(id) = pick(n) {
                        let to = Endpoint { addr: Addr::v4([198, 51, 100, peer]), port };
                        socket(&mut around, id).errors.push_back(icmp(to, kind, code, Some("203.0.113.1")));
                        udp.socket_ready(id, FAILED, now, &mut around);
                    }
                }
                Event::Refuse { socket: n, why } => {
                    let all = [Failure::WouldBlock, Failure::Refused, Failure::TooLong, Failure::Other(1), Failure::NoMemory, Failure::Reset];
                    if let Some(id) = pick(n) {
                        socket(&mut around, id).refusals.push_back(Some(all[why]));
                    }
                }
                Event::Publish { tag, container } => {
                    let to = Endpoint { addr: Addr::v4([172, 17, 0, container]), port: 5 };
                    let at = Endpoint { addr: Addr::V4_UNSPECIFIED, port: 5000 + tag as u16 };
                    let _ = udp.listen(tag, at, to, NetworkId(0), PortId(container.into()), now, &mut around);
                }
                Event::Unpublish { tag } => {
                    udp.unlisten(tag, &mut around);
                }
                Event::Detach { container } => udp.detach(PortId(container.into()), &mut around),
                Event::Wait { millis } => {
                    now = now + Duration::from_millis(millis);
                    udp.handle_timeout(now, &mut around);
                    prop_assert!(udp.next_timeout().is_none_or(|at| at > now));
                }
            }
            udp.table.audit();
            prop_assert_eq!(around.host.open.len(), udp.table.len().0);
            prop_assert_eq!(around.host.open.len(), around.ids.len());
            for n in 2..5 {
                prop_assert!(udp.table.sockets_of(PortId(n)) <= 4 && udp.table.flows_of(PortId(n)) <= 16);
            }
            let mtu = around.mtu;
            prop_assert!(around.take_packets().iter().all(|p| p.len() <= mtu));
        }
        for tag in 0..3 {
            udp.unlisten(tag, &mut around);
        }
        udp.handle_timeout(now + Duration::from_secs(121), &mut around);
        prop_assert_eq!((udp.table.len(), around.host.open.len(), around.ids.len()), ((0, 0), 0, 0));
        prop_assert_eq!(udp.next_timeout(), None);
    }

    #[test]
    fn no_frame_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120), proto in 0usize..3, vnet in any::<[u8; 10]>()) {
        let (mut udp, mut around) = engine();
        let mut ping = super::super::ping::Ping::new(Default::default(), [1; 16], NOW);
        let (src, dst) = (container(2).1, Addr::v4([198, 51, 100, 1]));
        let proto = [proto::UDP, proto::ICMP, 99][proto];
        let packet = Packet { src, dst, proto, tos: 0, ttl: 64, id: 1, fragment: 0, l4: bytes };
        let mut buf = packet.buffer();
        buf[HEADROOM - 10..HEADROOM].copy_from_slice(&vnet);
        let end = buf.len();
        if let Ok(frame) = Frame::parse(&mut buf, HEADROOM, end, crate::frame::Link::Ip) {
            let _ = udp.input(container(2).0, &frame, None, NOW, &mut around);
            let _ = ping.input(container(2).0, &frame, None, NOW, &mut around);
        }
        udp.table.audit();
    }
}

fn engine() -> (Udp, Around) {
    (Udp::new(Config::for_ports(32_768..=60_999), [7; 16], NOW), Around::new())
}

/// Ten sockets, four a container; sixteen flows a container.
fn small_engine() -> (Udp, Around) {
    let limits = Limits { sockets: 10, sockets_each: 4, flows: 64, flows_each: 16 };
    (Udp::new(Config { limits, ..Config::for_ports(1..=1) }, [7; 16], NOW), Around::new())
}

fn origin(of: Endpoint) -> Origin {
    container(of.addr.as_v4().unwrap()[3]).0
}

/// A container sends a datagram, in a turn of its own.
fn say(udp: &mut Udp, around: &mut Around, from: &str, to: &str, data: &[u8]) -> Result<(), DropReason> {
    say_at(udp, around, from, to, data, NOW)
}

fn say_at(
    udp: &mut Udp,
    around: &mut Around,
    from: &str,
    to: &str,
    data: &[u8],
    now: Instant,
) -> Result<(), DropReason> {
    let from = at(from);
    let done = Packet::udp(from, at(to), data).frame(|frame| udp.input(origin(from), frame, None, now, around));
    udp.flush(now, around);
    udp.table.audit();
    done
}

/// The datagrams that containers were sent: from, to, data. Their checksums are right.
fn heard(around: &mut Around) -> Vec<(Endpoint, Endpoint, Vec<u8>)> {
    let packets = around.take_packets();
    packets
        .into_iter()
        .map(|packet| {
            let l4 = &packet[20..];
            let (src, dst) = (Addr::read4(&packet, 12), Addr::read4(&packet, 16));
            assert_eq!(packet[9], proto::UDP);
            let pseudo = checksum::pseudo_header(src, dst, proto::UDP, l4.len() as u32);
            assert_eq!(checksum::add(pseudo, checksum::sum(l4)), 0xffff, "UDP checksum");
            assert_eq!(usize::from(get16(l4, 4)), l4.len());
            let from = Endpoint { addr: src, port: get16(l4, 0) };
            (from, Endpoint { addr: dst, port: get16(l4, 2) }, l4[8..].to_vec())
        })
        .collect()
}

fn send(udp: &mut Udp, around: &mut Around, packet: &Packet, now: Instant) -> Result<(), DropReason> {
    let origin = container(packet.src.as_v4().unwrap()[3]).0;
    let done = packet.frame(|frame| udp.input(origin, frame, None, now, around));
    udp.flush(now, around);
    udp.table.audit();
    done
}

/// The peer answers on the only socket.
fn answer(udp: &mut Udp, around: &mut Around, peer: &str, now: Instant) {
    let (id, socket) = around.only();
    socket.put(at(peer), b"answer");
    udp.socket_ready(id, READABLE, now, around);
}

/// Publishes the host's port 5353 to port 53 of container `n`.
fn publish(udp: &mut Udp, around: &mut Around, tag: u32, n: u8) -> SocketId {
    let (origin, addr) = container(n);
    let to = Endpoint { addr, port: 53 };
    let bound = udp.listen(tag, at("0.0.0.0:5353"), to, origin.network, origin.port, NOW, around).unwrap();
    *around.host.open.iter().find(|(_, s)| s.bound == bound).unwrap().0
}

fn socket(around: &mut Around, id: SocketId) -> &mut super::fake::FakeSocket {
    around.host.open.get_mut(&id).unwrap()
}

/// Seconds until the only flow ends.
fn timeout(udp: &Udp, now: Instant) -> u64 {
    let (rows, _) = udp.flows(0, 10, now);
    assert_eq!(rows.len(), 1);
    rows[0].timeout.as_secs()
}

fn icmp(to: Endpoint, kind: u8, code: u8, offender: Option<&str>) -> DatagramError {
    let offender = offender.map(|addr| addr.parse().unwrap());
    DatagramError { to, icmp: Ok((kind, code)), mtu: 0, offender, sequence: None, from: None }
}

/// Source and message of an ICMP packet, whose sum is right.
fn message(packet: &[u8]) -> (Addr, &[u8]) {
    assert_eq!((packet[9], checksum::sum(&packet[20..])), (proto::ICMP, 0xffff));
    (Addr::read4(packet, 12), &packet[20..])
}
