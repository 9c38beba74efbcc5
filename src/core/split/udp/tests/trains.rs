//! Datagrams that cross together: those of one turn, and super-frames.

use super::bed::{NOW, READABLE, engine, origin, say};
use crate::core::command::Traffic;
use crate::core::counters::DropReason;
use crate::core::port::PortId;
use crate::core::socket::{Endpoint, Failure};
use crate::core::split::udp::Udp;
use crate::core::split::udp::fake::{Around, Packet, Sent, at, container};
use crate::wire::get16;
use crate::wire::ip::ipv4;

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
fn train_has_what_one_call_takes_of_datagrams_of_2_kib_at_most() {
    let (mut udp, mut around) = engine();
    let expected = [
        (1, [1, 16, 16, 16, 16, 16, 16, 3].as_slice()),
        (1000, &[1, 63, 36]),
        (1424, &[1, 45, 45, 9]),
        (2048, &[1, 31, 31, 31, 6]),
        (2049, &[1; 100]),
    ];
    for (len, calls) in expected {
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
