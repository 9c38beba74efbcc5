//! Echo requests of a container: each reply finds its container, with the identifier that it gave.

use pontoon::core::socket::Endpoint;

use super::lab::{OWN, end, lab, told};
use crate::net::addr;
use crate::packet::ping;

#[test]
fn echo_keeps_its_identifier_whatever_the_host_gives() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    net.host().taken.insert(78);
    for (host, id) in [(&a, 77), (&b, 78)] {
        let from = host.ip.unwrap().to_string();
        net.route(host, &ping(&from, "198.51.100.5", id));
        let sent = net.host().sent.last().unwrap().clone();
        let at = net.host().bound(sent.id);
        assert_eq!(at.port == id, id == 77, "its own if it is free");
        assert_eq!((sent.to.addr, sent.payload[0], sent.how.ttl), (addr("198.51.100.5"), 8, 63));
        let mut reply = sent.payload;
        reply[0] = 0;
        reply[4..6].copy_from_slice(&at.port.to_be_bytes());
        let here = Endpoint { addr: addr(OWN), port: at.port };
        net.host().datagram(end("198.51.100.99:0"), here, &reply);
        net.host().datagram(end("198.51.100.5:0"), here, &reply);
        net.pump();
        let got = net.got_one(host);
        assert_eq!((got.icmp(), got.icmp_id(), got.src.to_string()), ((0, 0), id, "198.51.100.5".to_owned()));
        assert_eq!(got.data(), b"abcdefghijklmnop");
    }
    assert_eq!(net.dropped(a.port, "unsolicited"), 1, "a reply of another host");
    net.secs(60);
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn host_that_forbids_echo_is_told_as_a_filter() {
    let mut net = lab();
    let a = net.attach();
    net.host().no_ping = true;
    net.route(&a, &ping("172.17.0.2", "198.51.100.5", 77));
    assert_eq!(told(&mut net, &a), (3, 13));
    assert_eq!((net.dropped(a.port, "host-refused"), net.host().open()), (1, 0));
}

#[test]
fn echo_in_fragments_is_sent_whole() {
    let mut net = lab();
    let a = net.attach();
    let mut request = ping("172.17.0.2", "198.51.100.5", 9);
    request.body.extend(std::iter::repeat_n(7, 5000));
    for part in request.resum().fragments(1480) {
        net.route(&a, &part);
    }
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].payload.len()), (1, 8 + 16 + 5000));
}

#[test]
fn pings_of_equal_identifiers_do_not_mix() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    for host in [&a, &b] {
        net.route(host, &ping(&host.ip.unwrap().to_string(), "198.51.100.5", 5));
        // The host gives each identifier once.
        net.host().taken.insert(5);
    }
    let sent = net.host().sent.clone();
    let [first, second] = &sent[..] else { panic!("two requests and not {sent:?}") };
    assert_ne!(first.id, second.id);
    // Answered in the other order.
    for (host, request) in [(&b, second), (&a, first)] {
        let port = net.host().bound(request.id).port;
        let mut reply = request.payload.clone();
        reply[0] = 0;
        reply[4..6].copy_from_slice(&port.to_be_bytes());
        net.host().datagram(end("198.51.100.5:0"), Endpoint { addr: addr(OWN), port }, &reply);
        net.pump();
        let got = net.got_one(host);
        assert_eq!((got.icmp(), got.icmp_id(), got.dst.to_string()), ((0, 0), 5, host.ip.unwrap().to_string()));
    }
    assert!(net.got(&a).is_empty() && net.got(&b).is_empty());
}
