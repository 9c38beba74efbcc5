//! Datagrams of a container: one socket for all peers, whom it lets in, and what is sent and answered whole.

use pontoon::core::socket::DatagramError;
use pontoon::core::worth::Worth;

use super::lab::{RESOLVER, ask, end, lab};
use crate::net::addr;
use crate::packet::udp_with;

#[test]
fn udp_super_frame_leaves_by_one_call() {
    let mut net = lab();
    let a = net.attach();
    let data: Vec<u8> = (0..14_500u32).map(|n| (n % 251) as u8).collect();
    net.route_offloaded(&a, &udp_with("172.17.0.2:5000", RESOLVER, &data).partial(), 1400);
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].how.segment.map(u16::from)), (1, Some(1400)));
    assert!(sent[0].payload == data);
}

#[test]
fn one_socket_serves_all_peers() {
    let mut net = lab();
    let a = net.attach();
    let at = ask(&mut net, &a, 5000, RESOLVER, b"question");
    let sent = net.host().sent[0].clone();
    assert_eq!((sent.to, sent.how.ttl, sent.how.segment), (end(RESOLVER), 63, None));
    let another = "198.51.100.54:53";
    assert_eq!(ask(&mut net, &a, 5000, another, b"question"), at, "one socket, whomever it talks to");
    for peer in [RESOLVER, another] {
        net.host().datagram(end(peer), at, b"answer");
        net.pump();
        let got = net.got_one(&a);
        assert_eq!((got.from(), got.to(), got.data()), (peer.into(), "172.17.0.2:5000".into(), &b"answer"[..]));
    }
}

#[test]
fn strangers_are_unsolicited() {
    let mut net = lab();
    let a = net.attach();
    let at = ask(&mut net, &a, 5000, RESOLVER, b"question");
    for stranger in ["198.51.100.53:5354", "198.51.100.99:5353"] {
        net.host().datagram(end(stranger), at, b"nobody asked");
    }
    net.pump();
    assert_eq!((net.got(&a), net.dropped(a.port, "unsolicited")), (vec![], 2));
}

#[test]
fn silent_flow_leaves_no_socket() {
    let mut net = lab();
    let a = net.attach();
    ask(&mut net, &a, 5000, RESOLVER, b"question");
    assert_eq!((net.host().open(), net.flows().len()), (1, 1));
    net.secs(200);
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn congestion_of_the_host_is_not_held_against_a_container() {
    let mut net = lab();
    let a = net.attach();
    net.host().busy = true;
    net.route(&a, &udp_with("172.17.0.2:5000", RESOLVER, b"question"));
    assert_eq!((net.dropped(a.port, "host-busy"), net.dp.worth()), (1, Worth::Something));
    net.route(&a, &udp_with("172.17.0.2:5000", "127.0.0.1:53", b"question"));
    assert_eq!(net.dp.worth(), Worth::Nothing, "a destination that no router takes");
}

#[test]
fn icmp_error_that_a_datagram_met_is_about_the_containers_own_packet() {
    let mut net = lab();
    let a = net.attach();
    ask(&mut net, &a, 5000, RESOLVER, b"question");
    let id = net.host().sent[0].id;
    let router = Some(addr("203.0.113.1"));
    let error =
        DatagramError { to: end(RESOLVER), icmp: Ok((3, 3)), mtu: 0, offender: router, sequence: None, from: None };
    net.host().complain(id, error);
    net.pump();
    let got = net.got_one(&a);
    let (src, dst, l4) = got.quote();
    assert_eq!((got.icmp(), got.src.to_string()), ((3, 3), "203.0.113.1".to_owned()));
    assert_eq!((src.to_string(), dst.to_string()), ("172.17.0.2".to_owned(), "198.51.100.53".to_owned()));
    assert_eq!(l4[..4], [5000u16.to_be_bytes(), 5353u16.to_be_bytes()].concat());
}

#[test]
fn fragments_are_sent_whole() {
    let mut net = lab();
    let a = net.attach();
    let data: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    let whole = udp_with("172.17.0.2:5000", RESOLVER, &data);
    let mut parts = whole.fragments(1480);
    parts.reverse();
    for part in &parts {
        assert!(net.host().sent.is_empty(), "not before the last");
        net.route(&a, part);
    }
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].to), (1, end(RESOLVER)));
    assert!(sent[0].payload == data, "byte for byte");
}

#[test]
fn long_answers_come_in_fragments() {
    let mut net = lab();
    let a = net.attach();
    let at = ask(&mut net, &a, 5000, RESOLVER, b"question");
    let data: Vec<u8> = (0..60_000u32).map(|n| (n % 251) as u8).collect();
    net.host().datagram(end(RESOLVER), at, &data);
    net.pump();
    let got = net.got(&a);
    assert!(got.len() > 40 && got.iter().all(|p| p.is_fragment() && p.body.len() <= 1480 && p.id == got[0].id));
    let mut body = vec![0; 60_008];
    for part in &got {
        let at = usize::from(part.frag & 0x1fff) * 8;
        body[at..at + part.body.len()].copy_from_slice(&part.body);
    }
    assert!(body[8..] == data, "byte for byte");
}

#[test]
fn datagrams_of_equal_ports_do_not_mix() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    let places = [ask(&mut net, &a, 5000, RESOLVER, b"a"), ask(&mut net, &b, 5000, RESOLVER, b"b")];
    assert_ne!(places[0], places[1]);
    for (host, at) in [&a, &b].into_iter().zip(places) {
        net.host().datagram(end(RESOLVER), at, b"answer");
        net.pump();
        assert_eq!(net.got_one(host).dst.to_string(), host.ip.unwrap().to_string());
    }
    assert!(net.got(&a).is_empty() && net.got(&b).is_empty());
}
