//! Translation: masquerade, published ports, hairpin, ICMP errors, and who may not be reached.

use pontoon::core::command::{
    Answer, Applied, Command, CommandError, NetworkConfig, PublicationRequest, Query, StaticRule, Transport,
};
use pontoon::core::datapath::Config;

use crate::net::{Host, Net, UP, addr, chosen, first_of, network, publication};
use crate::packet::{ACK, FIN, Packet, RST, SYN, error, frame, other, ping, pong, query, tcp, tcp_with, udp, udp_with};

const S1: &str = "198.51.100.5";
const S2: &str = "198.51.100.6";
const X: &str = "203.0.113.5";

fn pair() -> (Net, Host, Host) {
    let mut net = Net::new();
    let (a, b) = (net.attach(), net.attach());
    net.quiet();
    (net, a, b)
}

/// Opens a TCP connection from a container to the world.
fn handshake(net: &mut Net, a: &Host, src: &str, dst: &str) -> String {
    net.route(a, &tcp_with(src, dst, SYN, 100, 0, &[], &[]));
    let out = net.left_one().from();
    net.arrive(&tcp_with(dst, &out, SYN | ACK, 500, 101, &[], &[]));
    net.got_one(a);
    net.route(a, &tcp_with(src, dst, ACK, 101, 501, &[], &[]));
    net.left_one();
    out
}

// S10, S11, R27
#[test]
fn what_leaves_by_the_uplink_has_its_address_and_what_comes_back_has_the_containers() {
    let (mut net, a, b) = pair();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    let out = net.left_one();
    assert_eq!((out.from(), out.to()), ("192.0.2.112:4000".to_owned(), "198.51.100.5:53".to_owned()));
    net.arrive(&udp("198.51.100.5:53", "192.0.2.112:4000"));
    let back = net.got_one(&a);
    assert_eq!((back.from(), back.to()), ("198.51.100.5:53".to_owned(), "172.17.0.2:4000".to_owned()));
    assert!(net.received(b.port).is_empty());
}

// S07, I1
#[test]
fn two_containers_may_ping_one_server_with_the_same_identifier() {
    let (mut net, a, b) = pair();
    net.route(&a, &ping("172.17.0.2", S1, 2));
    let first = net.left_one().icmp_id();
    net.route(&b, &ping("172.17.0.3", S1, 2));
    let second = net.left_one().icmp_id();
    assert!(first == 2 && second != 2);
    net.arrive(&pong(S1, UP, second));
    assert_eq!((net.got_one(&b).icmp_id(), net.received(a.port).len()), (2, 0));
    net.arrive(&pong(S1, UP, first));
    assert_eq!((net.got_one(&a).icmp_id(), net.received(b.port).len()), (2, 0));
    net.route(&a, &ping("172.17.0.2", S2, 2));
    assert_eq!(net.left_one().icmp_id(), first, "to another server the same identifier");
}

// S14, X18
#[test]
fn ping_is_listed_as_conntrack_lists_it() {
    let (mut net, a, _) = pair();
    net.route(&a, &ping("172.17.0.2", S1, 1));
    assert_eq!(
        net.flow().line,
        "icmp     1 30 src=172.17.0.2 dst=198.51.100.5 type=8 code=0 id=1 [UNREPLIED] \
         src=198.51.100.5 dst=192.0.2.112 type=0 code=0 id=1 mark=0 use=1"
    );
    net.secs(1);
    net.arrive(&pong(S1, UP, 1));
    assert_eq!(
        net.flow().line,
        "icmp     1 30 src=172.17.0.2 dst=198.51.100.5 type=8 code=0 id=1 \
         src=198.51.100.5 dst=192.0.2.112 type=0 code=0 id=1 mark=0 use=1"
    );
}

// S22, S15, X18
#[test]
fn finished_download_from_a_published_port_is_listed_as_conntrack_lists_it() {
    let (mut net, _, b) = pair();
    net.publish("c2", Transport::Tcp, 80, 80);
    let (x, up, c) = ("203.0.113.5:51894", "192.0.2.112:80", "172.17.0.3:80");
    let mut inbound = |flags, seq, ack| {
        net.arrive(&tcp_with(x, up, flags, seq, ack, &[], &[]));
        let got = net.got_one(&b);
        assert_eq!((got.from(), got.to()), (x.to_owned(), c.to_owned()), "the client's address is kept");
        let flow = net.flow();
        (net.dp.take_work(), flow.state)
    };
    assert_eq!(inbound(SYN, 1, 0).1, "SYN_SENT");
    let outbound = |net: &mut Net, flags, seq, ack| {
        net.route(&b, &tcp_with(c, x, flags, seq, ack, &[], &[]));
        assert_eq!(net.left_one().from(), up);
        net.flow().state
    };
    assert_eq!(outbound(&mut net, SYN | ACK, 1, 2), "SYN_RECV");
    net.arrive(&tcp_with(x, up, ACK, 2, 2, &[], &[]));
    assert_eq!(net.flow().state, "ESTABLISHED");
    assert_eq!(outbound(&mut net, FIN | ACK, 2, 2), "FIN_WAIT");
    net.arrive(&tcp_with(x, up, ACK, 2, 3, &[], &[]));
    assert_eq!(net.flow().state, "CLOSE_WAIT");
    net.arrive(&tcp_with(x, up, FIN | ACK, 2, 3, &[], &[]));
    assert_eq!(net.flow().state, "LAST_ACK");
    assert_eq!(outbound(&mut net, ACK, 3, 3), "TIME_WAIT");
    net.secs(3);
    assert_eq!(
        net.flow().line,
        "tcp      6 117 TIME_WAIT src=203.0.113.5 dst=192.0.2.112 sport=51894 dport=80 \
         src=172.17.0.3 dst=203.0.113.5 sport=80 dport=51894 [ASSURED] mark=0 use=1"
    );
    net.secs(118);
    assert!(net.flows().is_empty());
}

// S16
#[test]
fn only_our_own_addresses_are_published() {
    let (mut net, a, b) = pair();
    net.publish("c2", Transport::Tcp, 80, 80);
    net.route(&a, &tcp("172.17.0.2:40000", "198.51.100.5:80", SYN));
    assert_eq!(net.left_one().to(), "198.51.100.5:80");
    net.arrive(&tcp("203.0.113.5:4000", "198.51.100.5:80", SYN));
    assert!(net.got(&b).is_empty());
}

// S17, D15, S39, S40, U9, T8
#[test]
fn published_port_is_reached_from_the_world_a_peer_itself_the_gateway_and_another_network() {
    for proto in [Transport::Tcp, Transport::Udp] {
        let (mut net, a, b) = pair();
        net.add_network(network("other", "172.18.0.0/16"));
        let c = net.attach_to("other");
        net.quiet();
        net.publish("c2", proto, 2024, 80);
        let first = |src: &str, dst: &str| match proto {
            Transport::Tcp => tcp_with(src, dst, SYN, 1, 0, &[], &[]),
            Transport::Udp => udp(src, dst),
        };
        let answer = |src: &str, dst: &str| match proto {
            Transport::Tcp => tcp_with(src, dst, SYN | ACK, 1, 2, &[], &[]),
            Transport::Udp => udp(src, dst),
        };
        // from the world: the client's address
        net.arrive(&first("203.0.113.5:51000", "192.0.2.112:2024"));
        let got = net.got_one(&b);
        assert_eq!((got.from(), got.to()), ("203.0.113.5:51000".to_owned(), "172.17.0.3:80".to_owned()));
        net.route(&b, &answer("172.17.0.3:80", "203.0.113.5:51000"));
        assert_eq!(net.left_one().from(), "192.0.2.112:2024");
        // from containers: the gateway's
        for (host, src, to) in [
            (a, "172.17.0.2:40000", "192.0.2.112:2024"),
            (b, "172.17.0.3:40001", "192.0.2.112:2024"),
            (a, "172.17.0.2:40002", "172.17.0.1:2024"),
        ] {
            net.route(&host, &first(src, to));
            let got = net.got_one(&b);
            let port = src.rsplit(':').next().unwrap();
            assert_eq!((got.from(), got.to()), (format!("172.17.0.1:{port}"), "172.17.0.3:80".to_owned()), "{src}");
            net.route(&b, &answer("172.17.0.3:80", &got.from()));
            let back = net.got_one(&host);
            assert_eq!((back.from(), back.to()), (to.to_owned(), src.to_owned()));
        }
        let gateway = net.gateway_mac_of("other");
        net.send_to(&c, gateway, &first("172.18.0.2:40000", "192.0.2.112:2024"));
        let got = net.got_one(&b);
        assert_eq!(got.from(), "172.17.0.1:40003".replace("40003", &got.sport().to_string()));
        net.route(&b, &answer("172.17.0.3:80", &got.from()));
        assert_eq!(net.got_one(&c).from(), "192.0.2.112:2024");
        assert!(net.left().is_empty());
    }
}

// S20, D14
#[test]
fn one_number_may_be_published_for_both_protocols_and_to_another_port() {
    let (mut net, a, b) = pair();
    net.publish("c1", Transport::Tcp, 53, 5353);
    net.publish("c2", Transport::Udp, 53, 5300);
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:53", SYN));
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:53"));
    assert_eq!(net.got_one(&a).to(), "172.17.0.2:5353");
    assert_eq!(net.got_one(&b).to(), "172.17.0.3:5300");
}

// S20, X16
#[test]
fn two_published_ports_of_one_service_keep_a_clients_connections_apart() {
    let (mut net, a, _) = pair();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.publish("c1", Transport::Tcp, 9090, 80);
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:8080", SYN));
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:9090", SYN));
    let got = net.got(&a);
    assert_eq!(got.len(), 2, "both reach the service");
    assert_eq!(got[0].from(), "203.0.113.5:4000");
    assert!(got[1].from().starts_with("203.0.113.5:") && got[1].from() != got[0].from(), "{}", got[1].from());
}

// D14
#[test]
fn port_may_be_published_on_one_address_alone() {
    let (mut net, a, b) = pair();
    let on = |ip: &str| PublicationRequest { host_ip: Some(addr(ip)), ..publication(Transport::Tcp, 80, 80) };
    net.apply(Command::Publish { name: "c1".into(), ifname: None, ports: vec![on(UP)] });
    net.apply(Command::Publish { name: "c2".into(), ifname: None, ports: vec![on("172.17.0.1")] });
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:80", SYN));
    assert_eq!((net.got(&a).len(), net.got(&b).len()), (1, 0));
    net.route(&a, &tcp("172.17.0.2:4000", "172.17.0.1:80", SYN));
    assert_eq!(net.got_one(&b).to(), "172.17.0.3:80");
    let foreign = Command::Publish { name: "c1".into(), ifname: None, ports: vec![on("203.0.113.9")] };
    assert!(net.try_apply(foreign).unwrap_err().to_string().contains("203.0.113.9"));
}

// D16, D14, S60
#[test]
fn publishing_is_all_or_nothing() {
    let (mut net, a, b) = pair();
    net.publish("c1", Transport::Tcp, 81, 80);
    let ports: Vec<_> = [80, 81, 82].map(|p| publication(Transport::Tcp, p, 80)).to_vec();
    let refused = net.try_apply(Command::Publish { name: "c2".into(), ifname: None, ports }).unwrap_err();
    assert_eq!(refused.to_string(), "Bind for 0.0.0.0:81/tcp failed: port is already allocated by 'c1'");
    let Answer::Published(all) = net.query(Query::Published) else { unreachable!() };
    assert_eq!(all.len(), 1);
    let twice = vec![publication(Transport::Tcp, 90, 80), publication(Transport::Tcp, 90, 81)];
    let twice = net.try_apply(Command::Publish { name: "c2".into(), ifname: None, ports: twice });
    assert!(matches!(twice, Err(CommandError::PortAllocated { port: 90, .. })));
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:80", SYN));
    assert!(net.got(&a).is_empty() && net.got(&b).is_empty());
}

// D14, X19
#[test]
fn large_ranges_are_published_and_withdrawn_at_once() {
    let (mut net, _, b) = pair();
    let ports: Vec<_> = (10_000..60_000).map(|p| publication(Transport::Udp, p, p)).collect();
    net.apply(Command::Publish { name: "c2".into(), ifname: None, ports: ports.clone() });
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:59999"));
    assert_eq!(net.got_one(&b).to(), "172.17.0.3:59999");
    assert_eq!(net.apply(Command::Unpublish { name: "c2".into(), ports }), Applied::Flushed(1));
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:59999"));
    assert!(net.got(&b).is_empty());
}

/// A switch whose chosen ports are these.
fn with_dynamic_ports(range: std::ops::RangeInclusive<u16>) -> Net {
    let mut net = Net::bare(Config { dynamic_ports: range, ..Config::default() });
    net.apply(Command::AddNetwork(network("default", "172.17.0.0/16")));
    net.connect(1500, false);
    net
}

// D14
#[test]
fn port_without_a_host_port_gets_a_free_one_of_the_range_and_leads_there() {
    let mut net = with_dynamic_ports(40_000..=40_003);
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 40_001, 81);
    let got = net.try_publish("c1", vec![chosen(Transport::Tcp, 80), chosen(Transport::Tcp, 82)]).unwrap();
    assert!(got.iter().all(|port| (40_000..=40_003).contains(port) && *port != 40_001) && got[0] != got[1], "{got:?}");
    for (port, inside) in [(got[0], "172.17.0.2:80"), (got[1], "172.17.0.2:82")] {
        net.arrive(&tcp("203.0.113.5:4000", &format!("192.0.2.112:{port}"), SYN));
        assert_eq!(net.got_one(&a).to(), inside);
    }
    // UDP has ports of its own, and a full range refuses the whole request.
    let got = net.try_publish("c1", vec![chosen(Transport::Udp, 53); 4]).unwrap();
    assert_eq!(got.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    let before = net.published();
    let ports = vec![publication(Transport::Tcp, 9, 9), chosen(Transport::Tcp, 1), chosen(Transport::Tcp, 2)];
    let refused = net.try_publish("c1", ports).unwrap_err();
    assert!(matches!(refused, CommandError::NoFreePort { first: 40_000, last: 40_003, .. }), "{refused}");
    assert!(refused.to_string().contains("all ports are allocated"), "{refused}");
    assert_eq!(net.published(), before);
}

// D14
#[test]
fn range_of_the_host_for_one_port_gives_its_lowest_free_one() {
    let mut net = Net::new();
    net.attach();
    net.publish("c1", Transport::Tcp, 8001, 9);
    let web = || first_of(Transport::Tcp, 8000, 8003, 80);
    assert_eq!(net.try_publish("c1", vec![web(), web()]).unwrap(), [8000, 8002]);
    // What a request names itself is not given away, wherever it stands.
    assert_eq!(
        net.try_publish("c1", vec![first_of(Transport::Tcp, 7000, 7001, 80), publication(Transport::Tcp, 7000, 1)])
            .unwrap(),
        [7001, 7000]
    );
    let before = net.published();
    let refused = net.try_publish("c1", vec![publication(Transport::Tcp, 9, 9), web(), web()]).unwrap_err().to_string();
    assert!(refused.contains("0.0.0.0:8000-8003/tcp") && refused.contains("all ports are allocated"), "{refused}");
    assert_eq!(net.published(), before);
}

// D14
// As moby's TestMixAnyWithSpecificHostAddrs.
#[test]
fn chosen_port_on_any_address_is_free_on_each_of_them() {
    let mut net = with_dynamic_ports(40_000..=40_009);
    net.attach();
    net.attach();
    let on = |ip: &str, request| PublicationRequest { host_ip: Some(addr(ip)), ..request };
    for proto in [Transport::Tcp, Transport::Udp] {
        let taken: Vec<u16> = (0..4)
            .flat_map(|_| {
                net.try_publish("c1", vec![on(UP, chosen(proto, 80)), on("172.17.0.1", chosen(proto, 81))]).unwrap()
            })
            .collect();
        let free = (40_000..=40_009).filter(|port| !taken.contains(port)).count();
        let any = net.try_publish("c2", vec![chosen(proto, 80); free]).unwrap();
        assert!(any.iter().all(|port| !taken.contains(port)), "{any:?} of {taken:?}");
        net.try_publish("c2", vec![chosen(proto, 80)]).unwrap_err();
    }
}

// D14
#[test]
fn chosen_ports_are_withdrawn_by_what_was_asked_or_by_what_they_became() {
    let (mut net, _, b) = pair();
    let range = first_of(Transport::Udp, 7000, 7009, 53);
    let request = vec![chosen(Transport::Udp, 53), chosen(Transport::Udp, 53), range, chosen(Transport::Udp, 54)];
    let got = net.try_publish("c2", request).unwrap();
    for port in &got {
        net.arrive(&udp("203.0.113.5:4000", &format!("192.0.2.112:{port}")));
    }
    assert_eq!(net.got(&b).len(), 4);
    let withdraw =
        |name: &str, ports: &[PublicationRequest]| Command::Unpublish { name: name.into(), ports: ports.to_vec() };
    for (name, ports) in [
        ("c1", vec![chosen(Transport::Udp, 53)]),
        ("c2", vec![chosen(Transport::Udp, 53), chosen(Transport::Udp, 55)]),
        ("c2", vec![range, chosen(Transport::Tcp, 53)]),
        ("c2", vec![first_of(Transport::Udp, 7000, 7008, 53)]),
    ] {
        assert!(matches!(net.try_apply(withdraw(name, &ports)), Err(CommandError::Missing { .. })), "{ports:?}");
    }
    assert_eq!(net.published().len(), 4);
    assert_eq!(net.apply(withdraw("c2", &[chosen(Transport::Udp, 53)])), Applied::Flushed(2), "both that it became");
    assert_eq!(net.apply(withdraw("c2", &[range])), Applied::Flushed(1));
    assert_eq!(net.apply(withdraw("c2", &[publication(Transport::Udp, got[3], 54)])), Applied::Flushed(1));
    assert!(net.published().is_empty());
}

// D14
#[test]
fn chosen_port_and_a_masqueraded_flow_of_the_same_number_do_not_disturb_each_other() {
    let mut net = with_dynamic_ports(40_000..=40_000);
    let (a, b) = (net.attach(), net.attach());
    net.route(&a, &udp("172.17.0.2:40000", "198.51.100.5:53"));
    assert_eq!(net.left_one().from(), "192.0.2.112:40000");
    assert_eq!(net.try_publish("c2", vec![chosen(Transport::Udp, 53)]).unwrap(), [40_000]);
    net.arrive(&udp("198.51.100.5:53", "192.0.2.112:40000"));
    assert_eq!(net.got_one(&a).to(), "172.17.0.2:40000");
    net.arrive(&udp("203.0.113.5:53", "192.0.2.112:40000"));
    assert_eq!(net.got_one(&b).to(), "172.17.0.3:53");
}

// X19
#[test]
fn withdrawn_port_takes_its_flows_with_it_and_no_others() {
    let (mut net, a, b) = pair();
    net.publish("c2", Transport::Udp, 53, 53);
    net.publish("c2", Transport::Udp, 54, 53);
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:53"));
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:54"));
    net.route(&a, &udp("172.17.0.2:4000", "192.0.2.112:53"));
    net.got(&b);
    let ports = vec![publication(Transport::Udp, 53, 53)];
    assert_eq!(net.apply(Command::Unpublish { name: "c2".into(), ports }), Applied::Flushed(2));
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:53"));
    assert!(net.got(&b).is_empty());
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:54"));
    net.got_one(&b);
}

// X19, S70, D17
#[test]
fn container_that_comes_back_with_another_mac_is_reached_at_once() {
    let (mut net, _, b) = pair();
    net.publish("c2", Transport::Udp, 53, 53);
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:53"));
    net.got_one(&b);
    net.apply(Command::Detach { port: b.port });
    assert!(net.flows().is_empty());
    let again = net.attach();
    assert!(again.ip == b.ip && again.mac != b.mac);
    net.publish("c3", Transport::Udp, 53, 53);
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:53"));
    let out = net.received(again.port);
    assert_eq!((out.len(), out[0].dst()), (1, again.mac));
}

// S15, S20, U1
#[test]
fn client_whose_port_had_to_change_once_keeps_it_everywhere_else() {
    let (mut net, a, b) = pair();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.publish("c1", Transport::Tcp, 9090, 80);
    net.publish("c2", Transport::Tcp, 7070, 80);
    for port in [8080, 9090] {
        net.arrive(&tcp("203.0.113.5:4000", &format!("192.0.2.112:{port}"), SYN));
    }
    assert_ne!(net.got(&a)[1].from(), "203.0.113.5:4000");
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:7070", SYN));
    assert_eq!(net.got_one(&b).from(), "203.0.113.5:4000");
}

// S21, S68
#[test]
fn two_ports_lead_to_the_same_number_of_two_containers() {
    let (mut net, a, b) = pair();
    net.publish("c1", Transport::Tcp, 9001, 80);
    net.publish("c2", Transport::Tcp, 9002, 80);
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:9001", SYN));
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:9002", SYN));
    assert_eq!((net.got_one(&a).to(), net.got_one(&b).to()), ("172.17.0.2:80".into(), "172.17.0.3:80".into()));
}

// S41, S42
#[test]
fn static_rules_translate_to_fixed_addresses() {
    let (mut net, a, b) = pair();
    let dnat = StaticRule::Dnat {
        proto: Transport::Tcp,
        dst: addr("198.51.100.80"),
        port: 80,
        to: addr("203.0.113.40"),
        to_port: 8080,
    };
    net.apply(Command::AddRule(dnat));
    net.route(&a, &tcp_with("172.17.0.2:4000", "198.51.100.80:80", SYN, 1, 0, &[], &[]));
    let out = net.left_one();
    assert_eq!((out.from(), out.to()), ("192.0.2.112:4000".to_owned(), "203.0.113.40:8080".to_owned()));
    net.arrive(&tcp_with("203.0.113.40:8080", "192.0.2.112:4000", SYN | ACK, 1, 2, &[], &[]));
    assert_eq!(net.got_one(&a).from(), "198.51.100.80:80");

    net.apply(Command::AddRule(StaticRule::Snat { source: "172.17.0.3/32".parse().unwrap(), to: addr("192.0.2.113") }));
    net.route(&b, &udp("172.17.0.3:4000", "198.51.100.5:53"));
    assert_eq!(net.left_one().from(), "192.0.2.113:4000");
    net.arrive(&udp("198.51.100.5:53", "192.0.2.113:4000"));
    assert_eq!(net.got_one(&b).to(), "172.17.0.3:4000");
    net.arrive(&ping(X, "192.0.2.113", 1));
    assert_eq!(net.left_one().src.to_string(), "192.0.2.113", "it counts as one of ours");
}

// S41
#[test]
fn fixed_source_holds_where_nothing_is_masqueraded() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { masquerade: false, ..network("default", "172.17.0.0/16") });
    net.connect(1500, false);
    let a = net.attach();
    net.apply(Command::AddRule(StaticRule::Snat { source: "172.17.0.0/16".parse().unwrap(), to: addr("192.0.2.113") }));
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    assert_eq!(net.left_one().from(), "192.0.2.113:4000");
}

// C6, S48
#[test]
fn exempt_destinations_see_the_container_and_others_do_not() {
    let (mut net, a, _) = pair();
    let rule = StaticRule::NoNat { dst: "203.0.113.0/24".parse().unwrap() };
    net.apply(Command::AddRule(rule));
    net.route(&a, &udp("172.17.0.2:4000", "203.0.113.5:53"));
    assert_eq!(net.left_one().from(), "172.17.0.2:4000");
    net.arrive(&udp("203.0.113.5:53", "172.17.0.2:4000"));
    net.got_one(&a);
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    assert_eq!(net.left_one().from(), "192.0.2.112:4000");
    net.apply(Command::RemoveRule(rule));
    net.route(&a, &udp("172.17.0.2:4000", "203.0.113.5:53"));
    assert!(net.left().is_empty(), "its flow must not go on without translation");
    assert_eq!(net.dropped(a.port, "wrong-network"), 1);
}

// D02, S37
#[test]
fn without_masquerade_the_world_sees_the_container_and_published_ports_still_work() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { masquerade: false, ..network("default", "172.17.0.0/16") });
    net.connect(1500, false);
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 80, 8080);
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    assert_eq!(net.left_one().from(), "172.17.0.2:4000");
    net.arrive(&udp("198.51.100.5:53", "172.17.0.2:4000"));
    net.got_one(&a);
    net.arrive(&udp("198.51.100.6:53", "172.17.0.2:4000"));
    assert!(net.got(&a).is_empty());
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:80", SYN));
    assert_eq!(net.got_one(&a).to(), "172.17.0.2:8080");
}

// S47
#[test]
fn routed_to_a_container_new_flows_are_refused_and_known_ones_pass() {
    let (mut net, a, b) = pair();
    let uplink = net.uplink.unwrap();
    net.arrive(&tcp("203.0.113.5:4000", "172.17.0.2:80", SYN));
    net.arrive(&udp("203.0.113.5:4000", "172.17.0.2:53"));
    net.arrive(&ping(X, "172.17.0.2", 1));
    net.arrive(&ping(X, "172.17.0.1", 1));
    assert!(net.got(&a).is_empty() && net.left().is_empty());
    assert_eq!(net.dropped(uplink, "not-published"), 4);
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    let sent = net.received(uplink).remove(0).bytes;
    net.arrive(&udp("198.51.100.5:53", "192.0.2.112:4000"));
    net.arrive(&error("198.51.100.1", UP, 3, 1, &sent));
    assert_eq!(net.got(&a).len(), 2);
    net.publish("c2", Transport::Tcp, 80, 80);
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:80", SYN));
    net.got_one(&b);
    net.route(&a, &ping("172.17.0.2", "172.17.0.3", 1));
    let rules = net.stats().rules;
    assert_eq!(rules, [("established", 2), ("outbound", 1), ("icc", 1), ("published", 1), ("policy-drop", 4)]);
}

// D10
#[test]
fn internal_network_reaches_its_gateway_and_nothing_beyond() {
    let (mut net, a, _) = pair();
    net.add_network(NetworkConfig { internal: true, ..network("inner", "172.18.0.0/16") });
    let request = net.request("inner");
    let Applied::Reserved(endpoint) = net.apply(Command::Reserve(request.clone())) else { panic!() };
    assert_eq!(endpoint.gateway, None, "no default route");
    net.apply(Command::Detach { port: endpoint.port });
    let inner = net.attach_as(request, pontoon::frame::Caps::FULL);
    net.quiet();
    let gateway = net.gateway_mac_of("inner");
    net.publish("c1", Transport::Udp, 53, 53);
    net.send_to(&inner, gateway, &ping("172.18.0.2", "172.18.0.1", 1));
    assert_eq!(net.got_one(&inner).icmp(), (0, 0));
    for dst in ["198.51.100.5:53", "172.17.0.2:53", "192.0.2.112:53", "172.18.0.1:53"] {
        net.send_to(&inner, gateway, &udp("172.18.0.2:1", dst));
    }
    net.send_to(&inner, gateway, &ping("172.18.0.2", S1, 1));
    assert!(net.left().is_empty() && net.got(&a).is_empty());
    let ports = vec![publication(Transport::Tcp, 80, 80)];
    let refused = net.try_apply(Command::Publish { name: "c3".into(), ifname: None, ports });
    assert!(matches!(refused, Err(CommandError::Busy { .. })));
}

// D10
#[test]
fn no_static_rule_leads_into_an_internal_network() {
    let (mut net, a, _) = pair();
    net.add_network(NetworkConfig { internal: true, ..network("inner", "172.18.0.0/16") });
    let inner = net.attach_to("inner");
    net.quiet();
    let (dst, to) = (addr(UP), inner.ip.unwrap());
    net.apply(Command::AddRule(StaticRule::Dnat { proto: Transport::Tcp, dst, port: 80, to, to_port: 80 }));
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:80", SYN));
    net.route(&a, &tcp("172.17.0.2:4000", "192.0.2.112:80", SYN));
    assert!(net.got(&inner).is_empty());
    let uplink = net.uplink.unwrap();
    assert_eq!((net.dropped(uplink, "internal"), net.dropped(a.port, "internal")), (1, 1));
}

// D11
#[test]
fn no_static_rule_leads_into_a_network_without_a_gateway() {
    let (mut net, a, _) = pair();
    net.add_network(NetworkConfig { gateway: None, ..network("bare", "172.18.0.0/16") });
    let bare = net.attach_to("bare");
    net.quiet();
    let (dst, to) = (addr(UP), bare.ip.unwrap());
    net.apply(Command::AddRule(StaticRule::Dnat { proto: Transport::Tcp, dst, port: 80, to, to_port: 80 }));
    net.arrive(&tcp("203.0.113.5:4000", "192.0.2.112:80", SYN));
    net.route(&a, &tcp("172.17.0.2:4000", "192.0.2.112:80", SYN));
    assert!(net.got(&bare).is_empty());
    let uplink = net.uplink.unwrap();
    assert_eq!((net.dropped(uplink, "no-gateway"), net.dropped(a.port, "no-gateway")), (1, 1));
    assert!(net.flows().is_empty());
}

// D24
#[test]
fn networks_do_not_reach_each_other_but_by_published_ports() {
    let (mut net, a, _) = pair();
    net.add_network(network("other", "172.18.0.0/16"));
    let c = net.attach_to("other");
    net.quiet();
    for packet in [
        udp("172.17.0.2:1", "172.18.0.2:2"),
        tcp("172.17.0.2:1", "172.18.0.2:2", SYN),
        ping("172.17.0.2", "172.18.0.2", 1),
    ] {
        net.route(&a, &packet);
    }
    assert!(net.got(&c).is_empty());
    assert_eq!(net.dropped(a.port, "network-isolation"), 3);
    net.route(&a, &ping("172.17.0.2", "172.18.0.1", 1));
    net.got_one(&a);
}

// U1, U3a, T1, T7
#[test]
fn source_port_is_kept_and_reused_for_all_destinations() {
    let (mut net, a, b) = pair();
    for sport in [500, 900, 5000] {
        for dst in ["198.51.100.5:53", "198.51.100.5:54", "198.51.100.6:53"] {
            for packet in [udp(&format!("172.17.0.2:{sport}"), dst), tcp(&format!("172.17.0.2:{sport}"), dst, SYN)] {
                net.route(&a, &packet);
                assert_eq!(net.left_one().sport(), sport);
            }
        }
    }
    // Forced apart, a socket keeps its changed port, of the class of its own.
    for (sport, class) in [(500, 1..=511), (900, 600..=1023), (5000, 1024..=65_535)] {
        let src = format!("172.17.0.3:{sport}");
        net.route(&b, &udp(&src, "198.51.100.5:53"));
        let changed = net.left_one().sport();
        assert!(changed != sport && class.contains(&changed), "{changed}");
        for dst in ["198.51.100.5:54", "198.51.100.6:53", "203.0.113.1:1"] {
            net.route(&b, &udp(&src, dst));
            assert_eq!(net.left_one().sport(), changed, "{dst}");
        }
    }
}

// U3, V4
#[test]
fn two_containers_share_a_port_while_their_destinations_differ() {
    let (mut net, a, b) = pair();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    assert_eq!(net.left_one().sport(), 4000);
    net.route(&b, &udp("172.17.0.3:4000", "198.51.100.6:53"));
    assert_eq!(net.left_one().sport(), 4000);
    net.arrive(&udp("198.51.100.6:53", "192.0.2.112:4000"));
    assert_eq!((net.got(&a).len(), net.got(&b).len()), (0, 1));
}

// U4, V10, V11, C13-C15
#[test]
fn changed_ports_follow_no_pattern() {
    let (mut net, a, b) = pair();
    let mut chosen = Vec::new();
    for n in 0..100 {
        let dst = format!("198.51.100.5:{}", 1000 + n);
        net.route(&a, &udp(&format!("172.17.0.2:{}", 20_000 + n), &dst));
        net.route(&b, &udp(&format!("172.17.0.3:{}", 20_000 + n), &dst));
        chosen.push(i32::from(net.left()[1].sport()));
    }
    let small = chosen.windows(2).filter(|w| (w[1] - w[0]).abs() < 64).count();
    assert!(small < 5, "{small} small steps in {chosen:?}");
    let odd = chosen.iter().filter(|p| **p % 2 == 1).count();
    assert!((20..=80).contains(&odd), "{odd} of a hundred are odd");
}

// U2, V5
#[test]
fn container_has_one_address_outside() {
    let (mut net, a, _) = pair();
    for n in 1..100 {
        net.route(&a, &udp("172.17.0.2:4000", &format!("203.0.113.{n}:53")));
        assert_eq!(net.left_one().src.to_string(), UP);
    }
}

// U5, U6
#[test]
fn udp_mapping_lives_30_s_and_120_s_once_it_is_a_conversation() {
    let (mut net, a, _) = pair();
    let out = udp("172.17.0.2:4000", "198.51.100.5:53");
    let back = udp("198.51.100.5:53", "192.0.2.112:4000");
    let passes = |net: &mut Net| {
        net.arrive(&back);
        let passed = net.got(&a).len() == 1;
        net.left();
        passed
    };
    net.route(&a, &out);
    net.secs(29);
    assert!(passes(&mut net));
    net.secs(29);
    assert!(passes(&mut net), "inbound refreshes");
    net.secs(119);
    assert!(passes(&mut net), "two minutes for a conversation");
    net.secs(121);
    assert!(!passes(&mut net));
    net.route(&a, &out);
    net.secs(31);
    assert!(!passes(&mut net));
    for _ in 0..20 {
        net.route(&a, &out);
        net.secs(29);
    }
    net.left();
    assert!(passes(&mut net), "outbound alone refreshes");
}

// I2, I6
#[test]
fn icmp_query_lives_30_s_and_no_error_refreshes_it() {
    let (mut net, a, _) = pair();
    net.route(&a, &ping("172.17.0.2", S1, 7));
    net.left_one();
    net.secs(29);
    net.arrive(&error(S1, UP, 3, 1, &ping(UP, S1, 7).bytes()));
    assert_eq!(net.got(&a).len(), 1);
    assert_eq!(net.flow().timeout_seconds, 1);
    net.secs(2);
    net.arrive(&pong(S1, UP, 7));
    assert!(net.got(&a).is_empty());
}

// I1
#[test]
fn question_whose_id_is_its_own_type_is_not_taken_for_an_answer() {
    let (mut net, a, _) = pair();
    net.route(&a, &ping("172.17.0.2", S1, 0x0800));
    let asked = net.left_one().body;
    assert_ne!(asked[4..6], [8, 0], "on the uplink it has another id");
    net.arrive(&ping(S1, UP, 0x0800));
    assert!(net.got(&a).is_empty(), "the world's question is for the uplink's own address");
    assert_eq!(net.left_one().body[0], 0, "and is answered there");
    net.arrive(&pong(S1, UP, u16::from_be_bytes([asked[4], asked[5]])));
    assert_eq!(net.got_one(&a).body[4..6], [8, 0]);
}

// U8, T3, U11, C7
#[test]
fn mapping_is_open_to_the_peer_it_was_made_for_and_nobody_else() {
    let (mut net, a, _) = pair();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    net.left_one();
    let tcp_out = handshake(&mut net, &a, "172.17.0.2:4001", "198.51.100.5:80");
    net.left();
    for from in ["198.51.100.5:54", "198.51.100.6:53"] {
        net.arrive(&udp(from, "192.0.2.112:4000"));
        net.arrive(&tcp(from, &tcp_out, SYN));
        net.arrive(&tcp(from, &tcp_out, ACK));
    }
    net.arrive(&udp("198.51.100.5:80", &tcp_out));
    assert!(net.got(&a).is_empty());
}

// V6, V7
#[test]
fn protocols_have_mappings_of_their_own() {
    let (mut net, a, b) = pair();
    net.route(&a, &udp("172.17.0.2:5000", "198.51.100.5:53"));
    net.route(&b, &tcp("172.17.0.3:5000", "198.51.100.5:53", SYN));
    assert!(net.left().iter().all(|p| p.sport() == 5000));
    net.arrive(&udp("198.51.100.5:53", "192.0.2.112:5000"));
    assert_eq!((net.got(&a).len(), net.got(&b).len()), (1, 0));
}

// V8, V9
#[test]
fn what_is_refused_refreshes_nothing() {
    let (mut net, a, _) = pair();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    for _ in 0..29 {
        net.secs(1);
        net.arrive(&udp("198.51.100.6:53", "192.0.2.112:4000"));
        net.route(&a, &error("172.17.0.2", S1, 3, 3, &udp("198.51.100.5:53", "172.17.0.2:4000").bytes()));
    }
    assert_eq!(net.flow().timeout_seconds, 1);
}

// U10, T6
#[test]
fn payloads_are_nobodys_business() {
    let (mut net, a, _) = pair();
    let sip = b"INVITE sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 172.17.0.2:5060\r\nContact: <sip:c@172.17.0.2>\r\n";
    net.route(&a, &udp_with("172.17.0.2:5060", "198.51.100.5:5060", sip));
    assert_eq!(net.left_one().data(), sip);
    handshake(&mut net, &a, "172.17.0.2:4000", "198.51.100.5:21");
    net.route(&a, &tcp_with("172.17.0.2:4000", "198.51.100.5:21", ACK, 101, 501, &[], b"PORT 172,17,0,2,15,160\r\n"));
    assert_eq!(net.left_one().data(), b"PORT 172,17,0,2,15,160\r\n");
}

// U12, T10, I4, I9
#[test]
fn icmp_errors_never_end_a_mapping() {
    let (mut net, a, _) = pair();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    let udp_sent = net.left_one();
    let out = handshake(&mut net, &a, "172.17.0.2:4001", "198.51.100.5:80");
    let tcp_sent = tcp_with(&out, "198.51.100.5:80", ACK, 101, 501, &[], &[]).bytes();
    for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 13), (11, 0), (11, 1), (12, 0)] {
        for from in [S1, "203.0.113.77"] {
            net.arrive(&error(from, UP, kind, code, &udp(&udp_sent.from(), "198.51.100.5:53").bytes()));
            net.arrive(&error(from, UP, kind, code, &tcp_sent));
            let got = net.got(&a);
            assert_eq!(got.len(), 2, "{kind}/{code} from {from}");
            for (packet, port) in got.iter().zip([4000u16, 4001]) {
                assert_eq!((packet.src.to_string(), packet.icmp()), (from.to_owned(), (kind, code)));
                let (src, _, inner) = packet.quote();
                assert_eq!((src.to_string(), &inner[..2]), ("172.17.0.2".to_owned(), &port.to_be_bytes()[..]));
            }
        }
    }
    net.arrive(&udp("198.51.100.5:53", "192.0.2.112:4000"));
    net.arrive(&tcp_with("198.51.100.5:80", &out, ACK, 501, 101, &[], b"still there"));
    assert_eq!(net.got(&a).len(), 2);
}

// I3
#[test]
fn broken_errors_are_dropped_and_inner_sums_beyond_ip_are_not_looked_at() {
    let (mut net, a, _) = pair();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    net.left_one();
    let uplink = net.uplink.unwrap();
    let quoted = udp("192.0.2.112:4000", "198.51.100.5:53").bytes();
    let mut outer = error(S1, UP, 3, 3, &quoted);
    outer.body[3] ^= 1;
    net.arrive(&outer);
    assert_eq!(net.dropped(uplink, "l4-checksum"), 1);
    let mut bad_inner = quoted.clone();
    bad_inner[10] ^= 1;
    net.arrive(&error(S1, UP, 3, 3, &bad_inner));
    net.arrive(&error(S1, UP, 3, 3, &quoted[..27]));
    net.arrive(&error(S1, UP, 3, 3, &[]));
    net.arrive(&error(S1, UP, 3, 3, &udp("192.0.2.112:4001", "198.51.100.5:53").bytes()));
    assert!(net.got(&a).is_empty());
    assert_eq!(net.dropped(uplink, "icmp-unrelated"), 4);
    let mut bad_l4 = quoted.clone();
    bad_l4[26] ^= 1;
    net.arrive(&error(S1, UP, 3, 3, &bad_l4));
    net.got_one(&a);
    // Inner options are skipped, and only eight bytes of transport need be there.
    let with_options = udp("192.0.2.112:4000", "198.51.100.5:53").options(&[7, 7, 8, 192, 0, 2, 1, 0]).bytes();
    net.arrive(&error(S1, UP, 3, 3, &with_options[..36]));
    let got = net.got_one(&a);
    assert_eq!(got.quote().2[..4], [0x0f, 0xa0, 0, 53]);
}

// I4
#[test]
fn error_to_another_address_than_its_flows_is_dropped() {
    let (mut net, a, _) = pair();
    net.apply(Command::AddRule(StaticRule::Snat { source: "172.17.9.0/24".parse().unwrap(), to: addr("192.0.2.113") }));
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    net.left_one();
    net.arrive(&error(S1, "192.0.2.113", 3, 3, &udp("192.0.2.112:4000", "198.51.100.5:53").bytes()));
    assert!(net.got(&a).is_empty());
}

// I4
#[test]
fn error_that_comes_by_another_side_than_its_flow_is_dropped() {
    let (mut net, a, _) = pair();
    net.add_network(network("other", "172.18.0.0/16"));
    let c = net.attach_to("other");
    net.quiet();
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    net.left_one();
    // What a's own host would quote, told by somebody in the world and by a container of another network.
    let quoted = udp("198.51.100.5:53", "172.17.0.2:4000").bytes();
    net.arrive(&error(X, S1, 3, 3, &quoted));
    let gateway = net.gateway_mac_of("other");
    net.send_to(&c, gateway, &error("172.18.0.2", S1, 3, 3, &quoted));
    assert!(net.left().is_empty());
    let uplink = net.uplink.unwrap();
    assert_eq!((net.dropped(uplink, "icmp-unrelated"), net.dropped(c.port, "icmp-unrelated")), (1, 1));
    net.route(&a, &error("172.17.0.2", S1, 3, 3, &quoted));
    net.left_one();
}

// I5, R27
#[test]
fn errors_of_containers_leave_with_the_uplinks_address_inside_and_out() {
    let (mut net, a, b) = pair();
    net.publish("c2", Transport::Udp, 53, 5353);
    net.arrive(&udp("203.0.113.5:4000", "192.0.2.112:53"));
    let got = net.received(b.port).remove(0);
    // c2 itself, and c1 that stands for a router behind it
    for (from, src) in [(b, "172.17.0.3"), (a, "172.17.0.2")] {
        net.route(&from, &error(src, X, 3, 3, &got.bytes[14..]));
        let out = net.left_one();
        assert_eq!((out.src.to_string(), out.dst.to_string(), out.icmp()), (UP.to_owned(), X.to_owned(), (3, 3)));
        let (src, dst, inner) = out.quote();
        assert_eq!((src.to_string(), dst.to_string()), (X.to_owned(), UP.to_owned()));
        assert_eq!(inner, udp("203.0.113.5:4000", "192.0.2.112:53").body, "as the client sent it");
    }
    net.route(&a, &error("172.17.0.2", X, 3, 3, &udp("203.0.113.5:9", "172.17.0.2:9").bytes()));
    assert!(net.left().is_empty(), "about no flow");
}

// I7, U9
#[test]
fn hairpinned_errors_reach_the_sender_as_if_from_outside() {
    let (mut net, a, b) = pair();
    net.publish("c2", Transport::Udp, 53, 5353);
    let sent = udp("172.17.0.2:4000", "192.0.2.112:53");
    net.route(&a, &sent);
    let got = net.received(b.port).remove(0);
    net.route(&b, &error("172.17.0.3", "172.17.0.1", 3, 3, &got.bytes[14..]));
    let told = net.got_one(&a);
    assert_eq!((told.src.to_string(), told.icmp()), (UP.to_owned(), (3, 3)));
    let (src, dst, inner) = told.quote();
    assert_eq!((src.to_string(), dst.to_string(), inner), ("172.17.0.2".into(), UP.to_owned(), &sent.body[..]));
    assert!(net.left().is_empty());
}

// I8, C11, C4, C5, R31
#[test]
fn container_at_its_quota_is_told_and_disturbs_nobody() {
    let mut config = Config::default();
    (config.conntrack.limit, config.conntrack.quota) = (400, Some(100));
    let mut net = Net::bare(config);
    net.add_network(network("default", "172.17.0.0/16"));
    net.connect(1500, false);
    let (a, b) = (net.attach(), net.attach());
    let keep = handshake(&mut net, &b, "172.17.0.3:5000", "198.51.100.5:22");
    for n in 0..1000 {
        net.route(&a, &udp("172.17.0.2:4000", &format!("198.51.{}.{}:53", n / 200, n % 200)));
    }
    net.left();
    assert!(net.flows().len() <= 101);
    // Conversations are not evicted: then it is told.
    let mut config = Config::default();
    (config.conntrack.limit, config.conntrack.quota) = (400, Some(4));
    let mut full = Net::bare(config);
    full.add_network(network("default", "172.17.0.0/16"));
    full.connect(1500, false);
    let c = full.attach();
    for n in 0..4 {
        handshake(&mut full, &c, &format!("172.17.0.2:{}", 5000 + n), "198.51.100.5:22");
    }
    full.route(&c, &tcp("172.17.0.2:6000", "198.51.100.5:22", SYN));
    assert_eq!((full.left().len(), full.got_one(&c).icmp()), (0, (3, 13)));
    assert_eq!(full.dropped(c.port, "flow-quota"), 1);
    net.arrive(&tcp_with("198.51.100.5:22", &keep, ACK, 501, 101, &[], b"login:"));
    net.got_one(&b);
}

// C8, X07
#[test]
fn closed_connection_keeps_its_port_until_time_wait_is_over() {
    let (mut net, a, b) = pair();
    let out = handshake(&mut net, &a, "172.17.0.2:4000", "198.51.100.5:80");
    net.route(&a, &tcp_with("172.17.0.2:4000", "198.51.100.5:80", FIN | ACK, 101, 501, &[], &[]));
    net.arrive(&tcp_with("198.51.100.5:80", &out, FIN | ACK, 501, 102, &[], &[]));
    net.route(&a, &tcp_with("172.17.0.2:4000", "198.51.100.5:80", ACK, 102, 502, &[], &[]));
    net.left();
    assert_eq!(net.flow().state, "TIME_WAIT");
    net.route(&b, &tcp("172.17.0.3:4000", "198.51.100.5:80", SYN));
    assert_ne!(net.left_one().sport(), 4000);
    net.secs(121);
    net.route(&b, &tcp("172.17.0.3:4000", "198.51.100.6:80", SYN));
    net.left();
    assert_eq!(net.flows().len(), 1);
}

// X16
#[test]
fn all_ports_toward_one_destination_can_be_used() {
    let mut config = Config::default();
    config.conntrack.quota = Some(4096);
    let mut net = Net::bare(config);
    net.add_network(network("default", "172.17.0.0/16"));
    net.connect(1500, false);
    let (a, b) = (net.attach(), net.attach());
    // Ports 1 to 511 are a class of their own: small enough to be used up here.
    for sport in 1..=511 {
        net.route(&a, &udp(&format!("172.17.0.2:{sport}"), "198.51.100.5:53"));
    }
    assert_eq!(net.left().len(), 511);
    net.route(&b, &udp("172.17.0.3:500", "198.51.100.5:53"));
    assert_eq!((net.left().len(), net.got_one(&b).icmp()), (0, (3, 13)));
    assert_eq!(net.dropped(b.port, "ports-exhausted"), 1);
    net.route(&b, &udp("172.17.0.3:500", "198.51.100.6:53"));
    net.left_one();
}

// U14, R20
#[test]
fn fragments_in_every_order_are_translated_both_ways() {
    let (mut net, a, _) = pair();
    let data: Vec<u8> = (0..4000u32).map(|n| n as u8).collect();
    let out = udp_with("172.17.0.2:4000", "198.51.100.5:53", &data).fragments(1480);
    let back = udp_with("198.51.100.5:53", "192.0.2.112:4000", &data).fragments(1480);
    let whole = |mut parts: Vec<crate::packet::Seen>| {
        assert_eq!(parts.len(), 3);
        parts.sort_by_key(|p| p.frag & 0x1fff);
        let body = parts.iter().flat_map(|p| p.body.clone()).collect();
        crate::packet::Seen { frag: 0, body, ..parts[0].clone() }
    };
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (id, order) in orders.iter().enumerate() {
        for part in order {
            net.route(&a, &out[*part].clone().id(id as u16));
        }
        let sent = whole(net.left());
        assert!(sent.from() == "192.0.2.112:4000" && sent.checksum_is_sound(false) && sent.data() == data, "{order:?}");
        for part in order {
            net.arrive(&back[*part].clone().id(id as u16));
        }
        let got = whole(net.got(&a));
        assert!(got.to() == "172.17.0.2:4000" && got.checksum_is_sound(false) && got.data() == data, "{order:?}");
    }
}

// U14, R20, X11
#[test]
fn overlapping_and_tiny_fragments_and_orphans_end_here() {
    let (mut net, a, b) = pair();
    let uplink = net.uplink.unwrap();
    let parts = udp_with("198.51.100.5:53", "192.0.2.112:4000", &[7; 64]).fragments(24);
    net.route(&a, &udp("172.17.0.2:4000", "198.51.100.5:53"));
    net.left_one();
    net.arrive(&parts[0]);
    net.arrive(&Packet { frag: parts[1].frag - 1, ..parts[1].clone() });
    net.arrive(&parts[2]);
    assert_eq!(net.got(&a).len(), 1, "the first had passed");
    assert_eq!(net.dropped(uplink, "fragment-overlap"), 2);
    net.arrive(&Packet { frag: 0x2000, body: vec![0, 53, 0, 53], id: 9, ..parts[0].clone() });
    assert_eq!(net.dropped(uplink, "fragment-tiny"), 1);
    for n in 0..20_000u16 {
        net.route(&a, &Packet { frag: 100, id: n, ..udp("172.17.0.2:1", "198.51.100.5:9") });
    }
    net.route(&b, &ping("172.17.0.3", S1, 1));
    net.left_one();
    for part in udp_with("172.17.0.3:1", "198.51.100.5:9", &[1; 64]).fragments(24).iter().rev() {
        net.route(&b, part);
    }
    assert_eq!(net.left().len(), 3, "who floods evicts only its own");
    net.secs(31);
    let drops: u64 = net.drops(a.port).iter().map(|d| d.1).sum();
    assert_eq!(drops, 20_000, "{:?}", net.drops(a.port));
}

// T2
#[test]
fn simultaneous_open_passes() {
    let (mut net, a, _) = pair();
    let (c, s) = ("172.17.0.2:4000", "198.51.100.5:80");
    net.route(&a, &tcp_with(c, s, SYN, 100, 0, &[], &[]));
    let up = net.left_one().from();
    net.arrive(&tcp_with(s, &up, SYN, 500, 0, &[], &[]));
    assert_eq!(net.got_one(&a).flags(), SYN);
    net.route(&a, &tcp_with(c, s, SYN | ACK, 100, 501, &[], &[]));
    net.left_one();
    net.arrive(&tcp_with(s, &up, SYN | ACK, 500, 101, &[], &[]));
    net.got_one(&a);
    net.route(&a, &tcp_with(c, s, ACK, 101, 501, &[], b"hi"));
    net.left_one();
    assert_eq!(net.flow().state, "ESTABLISHED");
}

// T2
#[test]
fn half_close_urgent_data_and_reset_pass_in_every_state() {
    let (mut net, a, _) = pair();
    let (c, s) = ("172.17.0.2:4000", "198.51.100.5:80");
    let up = handshake(&mut net, &a, c, s);
    net.route(&a, &tcp_with(c, s, ACK | crate::packet::URG, 101, 501, &[], b"!"));
    net.left_one();
    net.route(&a, &tcp_with(c, s, FIN | ACK, 102, 501, &[], &[]));
    net.left_one();
    for n in 0..10 {
        net.arrive(&tcp_with(s, &up, ACK, 501 + n * 4, 103, &[], b"more"));
        net.got_one(&a);
        net.secs(50);
        net.route(&a, &tcp_with(c, s, ACK, 103, 505 + n * 4, &[], &[]));
        net.left_one();
    }
    net.arrive(&tcp_with(s, &up, RST | ACK, 541, 103, &[], &[]));
    net.got_one(&a);
    assert_eq!(net.flow().state, "CLOSE");
    assert!(net.flow().timeout_seconds <= 10);
}

// X20
#[test]
fn data_announced_in_a_payload_opens_nothing() {
    let (mut net, a, _) = pair();
    handshake(&mut net, &a, "172.17.0.2:4000", "198.51.100.5:21");
    net.route(&a, &tcp_with("172.17.0.2:4000", "198.51.100.5:21", ACK, 101, 501, &[], b"PORT 172,17,0,2,15,160\r\n"));
    net.arrive(&tcp("198.51.100.5:20", "192.0.2.112:4000", SYN));
    assert!(net.got(&a).is_empty());
}

// R27
#[test]
fn packets_out_of_any_state_stay_inside() {
    let (mut net, a, _) = pair();
    for flags in [ACK, RST, RST | ACK, FIN | ACK, SYN | ACK, 0, 0x3f, SYN | FIN] {
        net.route(&a, &tcp_with("172.17.0.2:4000", "198.51.100.5:80", flags, 1, 1, &[], b"x"));
    }
    net.route(&a, &pong("172.17.0.2", S1, 9));
    net.route(&a, &query("172.17.0.2", S1, 14, 9));
    net.route(&a, &error("172.17.0.2", S1, 3, 3, &udp("198.51.100.5:1", "172.17.0.2:2").bytes()));
    assert!(net.left().is_empty() && net.flows().is_empty());
    net.route(&a, &other("172.17.0.2", S1, 2, b"igmp"));
    assert_eq!(net.left_one().src.to_string(), UP);
}

// S38
#[test]
fn loopback_and_metadata_addresses_lead_nowhere_by_default() {
    let (mut net, a, _) = pair();
    net.route(&a, &tcp("172.17.0.2:4000", "127.0.0.1:80", SYN));
    assert!(net.left().is_empty());
    net.route(&a, &tcp("172.17.0.2:4000", "169.254.169.254:80", SYN));
    assert_eq!(net.left_one().to(), "169.254.169.254:80");
    let dst = addr("169.254.169.254");
    net.apply(Command::AddRule(StaticRule::Dnat { proto: Transport::Tcp, dst, port: 80, to: addr(S1), to_port: 900 }));
    net.route(&a, &tcp("172.17.0.2:4001", "169.254.169.254:80", SYN));
    assert_eq!(net.left_one().to(), "198.51.100.5:900");
    // No packet may carry a loopback address over a device.
    let to = addr("127.0.0.1");
    let rule = StaticRule::Dnat { proto: Transport::Tcp, dst, port: 81, to, to_port: 900 };
    assert!(net.try_apply(Command::AddRule(rule)).unwrap_err().to_string().contains("127.0.0.1"));
}

// B24
#[test]
fn frames_for_a_strangers_mac_are_not_routed() {
    let (mut net, a, b) = pair();
    let packet = udp("172.17.0.2:1", "198.51.100.5:2");
    net.send(&a, &frame(b.mac, a.mac, 0x0800, &packet.bytes()));
    assert!(net.left().is_empty());
}
