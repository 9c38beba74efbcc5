//! A datagram that crosses, either way: what goes along with it, in which pieces it comes, and who is let in.

use super::bed::{FAILED, NOW, READABLE, engine, heard, icmp, origin, say, send};
use crate::core::counters::DropReason;
use crate::core::port::PortId;
use crate::core::socket::SendHow;
use crate::core::split::reassembly::Reassembly;
use crate::core::split::udp::fake::{GATEWAY, Packet, Sent, at, container};
use crate::frame::{Frame, HEADROOM, Link};
use crate::wire::addr::Addr;
use crate::wire::get16;
use crate::wire::ip::ipv4;

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
        let mut table = Reassembly::new([3; 16]);
        let mut whole = None;
        for piece in datagram {
            let mut buf = vec![0; HEADROOM];
            buf.extend_from_slice(piece);
            let end = buf.len();
            let frame = Frame::parse(&mut buf, HEADROOM, end, Link::Ip).unwrap();
            whole = table.input(container(2).0, &frame, NOW).unwrap();
        }
        let mut whole = whole.unwrap();
        let mut frame = whole.frame().unwrap();
        assert!(frame.verify_checksum());
        assert_eq!(frame.payload(), data);
    }
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
