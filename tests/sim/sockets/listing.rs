//! Flows over host sockets as they are listed: from where they began, by pages, each once.

use pontoon::core::command::Transport;

use super::conn::Conn;
use super::lab::{CLIENT, OWN, busy, end, lab};
use crate::net::{Net, addr};
use crate::packet::{ICMP, TCP, UDP, udp};

#[test]
fn flow_of_a_published_port_is_listed_as_the_client_asked() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    for client in [CLIENT, "127.0.0.1:6666"] {
        net.host().knock(end("192.0.2.10:8080"), end(client));
        net.pump();
        Conn::accept(&mut net, &a);
    }
    let flows = net.flows();
    assert_eq!(flows.len(), 2);
    for flow in &flows {
        // The client's packets as they came to the host; and the container's.
        assert_eq!((flow.name.as_str(), flow.dst, flow.dport), ("c1", addr(OWN), 8080), "{flow:?}");
        assert_eq!((flow.reply_src, flow.reply_sport), (addr("172.17.0.2"), 80), "{flow:?}");
    }
    for line in [
        "src=203.0.113.7 dst=192.0.2.10 sport=5555 dport=8080 src=172.17.0.2 dst=203.0.113.7 sport=80 dport=5555",
        "src=127.0.0.1 dst=192.0.2.10 sport=6666 dport=8080 src=172.17.0.2 dst=172.17.0.1 sport=80 dport=6666",
    ] {
        assert_eq!(flows.iter().filter(|flow| flow.line.contains(line)).count(), 1, "{line}");
    }
}

#[test]
fn connection_that_has_ended_is_listed_as_it_began_with_what_is_left_of_its_wait() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.host().knock(end("192.0.2.10:8080"), end(CLIENT));
    net.pump();
    let mut conn = Conn::accept(&mut net, &a);
    net.host().end_from(end(CLIENT));
    net.pump();
    conn.heard(&mut net);
    conn.finish(&mut net);
    net.secs(3);
    let flows = net.flows();
    let [flow] = &flows[..] else { panic!("{flows:?}") };
    assert_eq!((flow.state, flow.timeout_seconds), ("TIME_WAIT", 7));
    assert_eq!((flow.src, flow.dst, flow.sport, flow.dport), (addr("203.0.113.7"), addr("192.0.2.10"), 5555, 8080));
    assert!(
        flow.line.starts_with("tcp      6 7 TIME_WAIT src=203.0.113.7 dst=192.0.2.10 sport=5555 dport=8080 "),
        "{}",
        flow.line
    );
    let socket = flow.socket.as_ref().unwrap();
    assert_eq!((socket.age_seconds, socket.peer, socket.peer_port), (3, addr("203.0.113.7"), 5555));
}

/// Two containers with all that [`busy`] has, and a flow that is tracked: between them, by the gateway.
fn every_kind_of_flow() -> Net {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    busy(&mut net, "c1", &a, 8001);
    busy(&mut net, "c2", &b, 8002);
    net.route(&b, &udp("172.17.0.3:7000", "172.17.0.1:8001"));
    net
}

#[test]
fn listing_goes_through_all_kinds_of_flows_by_pages() {
    let mut net = every_kind_of_flow();
    let all = net.flows();
    assert_eq!((all.len(), net.stats().flows), (9, 9));
    for max in [1, 2, 3, 5, 9] {
        assert_eq!(net.flows_by(max), all, "by {max}");
    }
}

#[test]
fn each_kind_of_flow_is_listed_once_with_its_container() {
    let all = every_kind_of_flow().flows();
    let count = |name: &str, proto: u8, socket: bool| {
        all.iter().filter(|f| f.name == name && f.proto == proto && f.socket.is_some() == socket).count()
    };
    for name in ["c1", "c2"] {
        assert_eq!((count(name, TCP, true), count(name, UDP, true), count(name, ICMP, true)), (2, 1, 1));
    }
    assert_eq!(all.iter().filter(|f| f.socket.is_none()).count(), 1);
    let ping = all.iter().find(|f| f.proto == ICMP && f.name == "c1").unwrap();
    assert!(ping.line.contains("src=172.17.0.2 dst=198.51.100.5 type=8 code=0 id=8001"), "{}", ping.line);
    let tcp = all.iter().find(|f| f.proto == TCP && f.sport == 40_000 && f.name == "c2").unwrap();
    assert!(tcp.line.contains("src=172.17.0.3 dst=198.51.100.5 sport=40000 dport=8002"), "{}", tcp.line);
    assert_eq!((tcp.state, tcp.socket.as_ref().unwrap().peer_port), ("ESTABLISHED", 8002));
}
