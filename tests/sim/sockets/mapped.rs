//! Destinations that stand for others: the address of the host's loopback, and what static rules lead elsewhere.

use pontoon::core::command::{Command, CommandError, NetworkConfig, StaticRule, Transport};

use super::conn::Conn;
use super::lab::{SERVER, ask, end, lab, lab_with_loopback, told};
use crate::net::{addr, network};
use crate::packet::{ACK, RST, SYN, ping, tcp, udp, udp_with};

#[test]
fn static_rule_leads_elsewhere_and_answers_come_from_where_was_asked() {
    let mut net = lab();
    let a = net.attach();
    // Also an address that no socket may go to.
    for (dst, proto) in
        [("203.0.113.50", Transport::Tcp), ("169.254.1.1", Transport::Tcp), ("169.254.1.1", Transport::Udp)]
    {
        let (dst, to) = (addr(dst), addr("198.51.100.5"));
        net.apply(Command::AddRule(StaticRule::Dnat { proto, dst, port: 7, to, to_port: 80 }));
    }
    for (port, dst) in [(40_000, "203.0.113.50:7"), (40_001, "169.254.1.1:7")] {
        let mut conn = Conn::open(&mut net, &a, port, dst);
        conn.talk(&mut net, SERVER);
        conn.send(&mut net, RST | ACK, &[]);
    }
    for _ in 0..2 {
        let at = ask(&mut net, &a, 5000, "169.254.1.1:7", b"question");
        assert_eq!(net.host().sent.last().unwrap().to, end(SERVER));
        net.host().datagram(end(SERVER), at, b"answer");
        net.pump();
        assert_eq!(net.got_one(&a).from(), "169.254.1.1:7");
    }
}

#[test]
fn address_of_the_hosts_loopback_leads_there() {
    // The gateway's own, and one beyond.
    for at in ["172.17.0.1", "10.0.2.2"] {
        let mut net = lab_with_loopback(at);
        let a = net.attach();
        let mut conn = Conn::open(&mut net, &a, 40_000, &format!("{at}:8080"));
        assert_eq!(net.host().streams.values().next().unwrap().peer, Some(end("127.0.0.1:8080")));
        conn.talk(&mut net, "127.0.0.1:8080");

        let to = format!("{at}:5353");
        let bound = ask(&mut net, &a, 5000, &to, b"question");
        assert_eq!(net.host().sent[0].to, end("127.0.0.1:5353"));
        net.host().datagram(end("127.0.0.1:5353"), bound, b"answer");
        net.pump();
        let got = net.got_one(&a);
        assert_eq!((got.from(), got.data()), (to, &b"answer"[..]));
    }
}

#[test]
fn fragments_to_the_hosts_loopback_are_sent_whole() {
    let mut net = lab_with_loopback("10.0.2.2");
    let a = net.attach();
    for part in udp_with("172.17.0.2:5001", "10.0.2.2:5353", &[5; 4000]).fragments(1480) {
        net.route(&a, &part);
    }
    let sent = net.host().sent.clone();
    assert_eq!((sent.len(), sent[0].to), (1, end("127.0.0.1:5353")));
    assert_eq!(sent[0].payload, [5; 4000]);
}

// S38
#[test]
fn static_rule_leads_to_a_service_on_the_hosts_loopback() {
    // Its own address, and the one that stands for it.
    for to in [addr("127.0.0.1"), addr("10.0.2.2")] {
        for dst in ["169.254.169.254", "172.17.0.1", "198.51.100.5"] {
            let mut net = lab_with_loopback("10.0.2.2");
            let a = net.attach();
            for (proto, port, to_port) in [(Transport::Tcp, 80, 900), (Transport::Udp, 53, 5353)] {
                net.apply(Command::AddRule(StaticRule::Dnat { proto, dst: addr(dst), port, to, to_port }));
            }
            let mut conn = Conn::open(&mut net, &a, 40_000, &format!("{dst}:80"));
            assert_eq!(net.host().streams.values().next().unwrap().peer, Some(end("127.0.0.1:900")));
            conn.talk(&mut net, "127.0.0.1:900");

            let bound = ask(&mut net, &a, 5000, &format!("{dst}:53"), &[7; 1400]);
            for part in udp_with("172.17.0.2:5000", &format!("{dst}:53"), &[5; 4000]).fragments(1480) {
                net.route(&a, &part);
            }
            assert!(net.host().sent.iter().all(|sent| sent.to == end("127.0.0.1:5353")));
            assert_eq!(net.host().sent[1].payload, [5; 4000]);
            net.host().datagram(end("127.0.0.1:5353"), bound, b"answer");
            net.pump();
            assert_eq!(net.got_one(&a).from(), format!("{dst}:53"));
        }
    }
}

#[test]
fn rules_about_sources_are_refused_over_host_sockets() {
    let mut net = lab();
    for rule in [
        StaticRule::Snat { source: "172.17.0.0/16".parse().unwrap(), to: addr("192.0.2.77") },
        StaticRule::NoNat { dst: "198.51.100.0/24".parse().unwrap() },
    ] {
        let refused = net.try_apply(Command::AddRule(rule)).unwrap_err().to_string();
        assert!(refused.contains("--outbound-address"), "{refused}");
    }
}

#[test]
fn new_network_has_no_neighbour_that_leads_to_the_hosts_loopback() {
    let mut net = lab_with_loopback("10.0.2.2");
    let error = net.try_apply(Command::AddNetwork(network("new", "10.0.2.0/24"))).unwrap_err();
    assert!(matches!(error, CommandError::Invalid { field: "subnet", .. }), "{error}");
    assert!(error.to_string().contains("holds 10.0.2.2"), "{error}");
    let gateway = Some(addr("10.0.2.2"));
    net.apply(Command::AddNetwork(NetworkConfig { gateway, ..network("new", "10.0.2.0/24") }));
    net.apply(Command::AddNetwork(network("beside", "10.0.3.0/24")));
}

#[test]
fn gateway_that_stands_for_the_loopback_still_answers_echo_and_resets_nothing_else() {
    let mut net = lab_with_loopback("172.17.0.1");
    let a = net.attach();
    net.route(&a, &ping("172.17.0.2", "172.17.0.1", 5));
    assert_eq!(net.got_one(&a).icmp(), (0, 0));
    assert_eq!(net.host().open(), 0);
}

#[test]
fn gateway_without_a_loopback_is_a_host_where_nothing_listens() {
    let mut net = lab();
    let a = net.attach();
    net.route(&a, &tcp("172.17.0.2:1", "172.17.0.1:80", SYN));
    assert_eq!(net.got_one(&a).flags() & RST, RST);
    net.route(&a, &udp("172.17.0.2:1", "172.17.0.1:80"));
    assert_eq!(told(&mut net, &a), (3, 3));
    assert_eq!(net.host().open(), 0);
}
