//! Where a container may go: what it may not reach opens no socket, is counted by its reason, and told if that is due.

use pontoon::core::command::NetworkConfig;

use super::conn::Conn;
use super::lab::{OWN, SERVER, config, lab, lab_with_loopback, told};
use crate::net::{Net, addr, network};
use crate::packet::{SYN, other, ping, query, tcp, udp, udp_with};

#[test]
fn loopback_and_unspecified_addresses_are_martians() {
    for mut net in [lab(), lab_with_loopback("10.0.2.2")] {
        let a = net.attach();
        for refused in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3"] {
            net.route(&a, &tcp("172.17.0.2:1", &format!("{refused}:80"), SYN));
            net.route(&a, &udp("172.17.0.2:1", &format!("{refused}:80")));
            net.route(&a, &ping("172.17.0.2", refused, 1));
        }
        net.pump();
        assert_eq!((net.got(&a), net.dropped(a.port, "martian")), (vec![], 12), "no router takes these");
        assert_eq!((net.host().open(), net.host().sent.len()), (0, 0));
    }
}

#[test]
fn what_is_not_allowed_is_refused_as_by_a_filter() {
    let mut net = lab();
    let a = net.attach();
    net.host().broadcast.insert(addr("192.0.2.255"));
    net.host().unreachable.insert(addr("192.0.2.99"));
    let mut not_allowed = 0;
    for (to, error, reason) in [
        ("169.254.169.254", (3, 13), "not-allowed"),
        ("168.63.129.16", (3, 13), "not-allowed"),
        ("169.254.1.1", (3, 13), "not-allowed"),
        ("192.0.2.255", (3, 13), "broadcast"),
        ("192.0.2.99", (3, 0), "no-route"),
    ] {
        for packet in [
            tcp("172.17.0.2:1", &format!("{to}:80"), SYN),
            udp("172.17.0.2:1", &format!("{to}:80")),
            ping("172.17.0.2", to, 1),
        ] {
            let before = net.dropped(a.port, reason);
            net.route(&a, &packet);
            net.pump();
            assert_eq!(told(&mut net, &a), error, "{to}");
            assert_eq!(net.dropped(a.port, reason), before + 1, "{to}");
            not_allowed += u64::from(reason == "not-allowed");
            net.secs(1);
        }
    }
    assert_eq!(net.dropped(a.port, "not-allowed"), not_allowed);
    assert_eq!((net.host().open(), net.host().sent.len(), net.flows()), (0, 0, vec![]));
}

#[test]
fn own_address_of_the_host_is_reached() {
    let to = format!("{OWN}:8080");
    let mut net = lab();
    let a = net.attach();
    Conn::open(&mut net, &a, 40_000, &to).talk(&mut net, &to);
}

#[test]
fn own_address_of_the_host_is_refused_where_it_is_not_allowed() {
    let mut closed = config();
    closed.policy.allow_host_addresses = false;
    let mut net = Net::with_sockets(closed);
    net.host().own.insert(addr(OWN));
    let a = net.attach();
    net.route(&a, &tcp("172.17.0.2:1", &format!("{OWN}:8080"), SYN));
    assert_eq!(told(&mut net, &a), (3, 13));
    assert_eq!((net.dropped(a.port, "not-allowed"), net.host().open()), (1, 0));
}

#[test]
fn protocols_without_sockets_are_refused_as_by_a_filter() {
    let mut net = lab();
    let a = net.attach();
    for (count, packet) in (1..).zip([
        other("172.17.0.2", "198.51.100.5", 47, b"a tunnel's packet"),
        other("172.17.0.2", "198.51.100.5", 132, b"sixteen bytes or so"),
        query("172.17.0.2", "198.51.100.5", 13, 5),
    ]) {
        net.route(&a, &packet);
        assert_eq!(told(&mut net, &a), (3, 13));
        assert_eq!(net.dropped(a.port, "no-socket-for"), count);
    }
    assert_eq!(net.host().open(), 0);
}

#[test]
fn internal_network_reaches_nothing() {
    let mut net = lab_with_loopback("10.0.2.2");
    net.add_network(NetworkConfig { internal: true, ..network("inner", "172.18.0.0/16") });
    let a = net.attach_to("inner");
    net.quiet();
    let gateway = net.gateway_mac_of("inner");
    let mut count = 0;
    for to in ["198.51.100.5", "10.0.2.2", OWN, "169.254.169.254"] {
        let mut packets = vec![
            tcp("172.18.0.2:1", &format!("{to}:80"), SYN),
            udp("172.18.0.2:1", &format!("{to}:80")),
            ping("172.18.0.2", to, 1),
        ];
        count += packets.len() as u64 + 1; // and one whole of fragments
        packets.extend(udp_with("172.18.0.2:1", &format!("{to}:80"), &[1; 3000]).fragments(1480));
        for packet in packets {
            net.send_to(&a, gateway, &packet);
            net.pump();
        }
    }
    assert_eq!(net.dropped(a.port, "internal"), count);
    assert_eq!((net.host().open(), net.host().sent.len(), net.flows()), (0, 0, vec![]));
    net.secs(100);
    assert!(net.host().streams.is_empty());
}

#[test]
fn packet_whose_time_to_live_is_over_ends_at_the_gateway() {
    let mut net = lab();
    let a = net.attach();
    for packet in [tcp("172.17.0.2:1", SERVER, SYN), udp("172.17.0.2:1", SERVER), ping("172.17.0.2", "198.51.100.5", 1)]
    {
        net.route(&a, &packet.ttl(1));
        assert_eq!(told(&mut net, &a), (11, 0));
    }
    assert_eq!(net.dropped(a.port, "ttl-exceeded"), 3);
    assert_eq!((net.host().open(), net.host().sent.len()), (0, 0));
}
