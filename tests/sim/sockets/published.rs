//! Published ports: as whom a container sees a client, from where the client is answered, and what a withdrawal ends.

use std::collections::HashSet;

use pontoon::core::command::{Command, Transport};
use pontoon::core::socket::{Close, Endpoint};
use pontoon::wire::addr::Addr;

use super::conn::Conn;
use super::lab::{CLIENT, end, lab, told};
use crate::net::{addr, publication};
use crate::packet::{ACK, SYN, error, tcp, tcp_with, udp_with};

#[test]
fn client_of_a_container_that_cannot_be_reached_is_reset() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.host().knock(end("192.0.2.10:8080"), end(CLIENT));
    net.pump();
    let (id, _) = net.host().stream(end(CLIENT));
    let syn = net.received(a.port).remove(0);
    net.route(&a, &error("172.17.0.2", "203.0.113.7", 3, 10, &syn.bytes[14..]));
    net.pump();
    assert_eq!(net.host().streams[&id].closed, Some(Close::Reset));
    assert_eq!(net.flows(), []);
}

// S27
#[test]
fn published_tcp_port_listens_for_both_families() {
    let mut net = lab();
    net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    let bound: HashSet<Endpoint> = net.host().listeners.values().map(|(at, _)| *at).collect();
    let both = [Addr::V4_UNSPECIFIED, Addr::V6_UNSPECIFIED].map(|addr| Endpoint { addr, port: 8080 });
    assert_eq!((bound, net.host().open()), (both.into(), 2));
}

#[test]
fn client_is_seen_as_itself_or_as_the_gateway() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    for (client, shown) in [
        (CLIENT, CLIENT),
        ("127.0.0.1:6666", "172.17.0.1:6666"),
        ("192.0.2.10:6667", "172.17.0.1:6667"),
        ("172.17.0.9:6668", "172.17.0.1:6668"),
        ("169.254.7.7:6669", "172.17.0.1:6669"),
    ] {
        net.host().knock(end("192.0.2.10:8080"), end(client));
        net.pump();
        let mut conn = Conn::accept(&mut net, &a);
        assert_eq!((&conn.outside[..], &conn.inside[..]), (shown, "172.17.0.2:80"));
        conn.talk(&mut net, client);
    }
}

#[test]
fn client_is_answered_even_where_a_container_may_not_go() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    // A cloud's health probe, and a client whose way back the host's routing has lost.
    net.host().unreachable.insert(addr("203.0.113.8"));
    for client in ["168.63.129.16:50000", "203.0.113.8:50001"] {
        net.host().knock(end("192.0.2.10:8080"), end(client));
        net.pump();
        let mut conn = Conn::accept(&mut net, &a);
        conn.talk(&mut net, client);
    }
    assert_eq!(net.dropped(a.port, "not-allowed") + net.dropped(a.port, "no-route"), 0);
}

#[test]
fn published_udp_port_answers_from_the_address_that_was_asked() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Udp, 5353, 53);
    assert_eq!(net.host().open(), 2, "one for each family");
    let at = end("192.0.2.10:5353");
    for (client, shown) in
        [(CLIENT, CLIENT), ("127.0.0.1:6666", "172.17.0.1:6666"), ("168.63.129.16:6667", "172.17.0.1:6667")]
    {
        net.host().sent.clear();
        net.host().datagram(end(client), at, b"question");
        net.pump();
        let got = net.got_one(&a);
        assert_eq!((got.from(), got.to(), got.data()), (shown.into(), "172.17.0.2:53".into(), &b"question"[..]));
        net.route(&a, &udp_with("172.17.0.2:53", shown, b"answer"));
        net.pump();
        let sent = net.host().sent.clone();
        assert_eq!(sent.len(), 1, "{client}");
        assert_eq!((sent[0].to, sent[0].how.from, &sent[0].payload[..]), (end(client), Some(at.addr), &b"answer"[..]));
    }
    assert_eq!((net.host().open(), net.flows().len()), (2, 3), "no socket but the published");
    net.secs(200);
    assert_eq!((net.host().open(), net.flows().len()), (2, 0), "flows end, the port stays");
}

#[test]
fn long_answer_to_a_client_that_the_gateway_stands_for_is_sent_whole() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Udp, 5353, 53);
    net.host().datagram(end("127.0.0.1:6666"), end("127.0.0.1:5353"), b"question");
    net.pump();
    assert_eq!(net.got_one(&a).from(), "172.17.0.1:6666");
    for part in udp_with("172.17.0.2:53", "172.17.0.1:6666", &[5; 4000]).fragments(1480) {
        net.route(&a, &part);
    }
    net.pump();
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].to, &sent[0].payload[..]), (1, end("127.0.0.1:6666"), &[5; 4000][..]));
    // To nobody's port of the gateway it stays an error.
    for part in udp_with("172.17.0.2:53", "172.17.0.1:7777", &[5; 4000]).fragments(1480) {
        net.route(&a, &part);
    }
    assert_eq!(told(&mut net, &a), (3, 3));
    assert_eq!(net.host().sent.len(), 1);
}

#[test]
fn host_without_ipv6_publishes_by_ipv4_alone() {
    let mut net = lab();
    net.attach();
    net.host().no_ipv6 = true;
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.publish("c1", Transport::Udp, 8080, 80);
    assert_eq!(net.host().open(), 2);
}

#[test]
fn withdrawn_port_closes_its_listeners_and_connections_go_on() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.publish("c1", Transport::Udp, 8080, 80);
    net.host().knock(end("192.0.2.10:8080"), end(CLIENT));
    net.pump();
    let mut conn = Conn::accept(&mut net, &a);
    assert_eq!(net.host().open(), 5);
    let ports = vec![publication(Transport::Tcp, 8080, 80), publication(Transport::Udp, 8080, 80)];
    net.apply(Command::Unpublish { name: "c1".to_owned(), ports });
    assert_eq!((net.host().open(), net.host().listeners.len()), (1, 0));
    conn.talk(&mut net, CLIENT);
}

#[test]
fn port_that_is_published_to_a_neighbour_is_reached_by_the_gateway_without_a_socket() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    net.publish("c1", Transport::Tcp, 8080, 80);
    let open = net.host().open();
    net.route(&b, &tcp("172.17.0.3:40000", "172.17.0.1:8080", SYN));
    let syn = net.got_one(&a);
    assert_eq!((syn.to(), syn.src.to_string()), ("172.17.0.2:80".to_owned(), "172.17.0.1".to_owned()));
    net.route(&a, &tcp_with("172.17.0.2:80", &syn.from(), SYN | ACK, 5, 1, &[], &[]));
    let answer = net.got_one(&b);
    assert_eq!((answer.from(), answer.to()), ("172.17.0.1:8080".to_owned(), "172.17.0.3:40000".to_owned()));
    net.pump();
    assert_eq!((net.host().open(), net.host().streams.len()), (open, 0));
    assert_eq!(net.flow().socket, None);
}
