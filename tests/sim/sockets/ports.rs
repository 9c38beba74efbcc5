//! Which port of the host a publication gets, and what it is told when it gets none.

use pontoon::core::command::{Answer, CommandError, PublicationRequest, Query, Transport};
use pontoon::core::socket::Failure;

use super::lab::{OWN, end, lab, publish};
use crate::net::{addr, chosen, first_of, publication};

// S60
#[test]
fn taken_port_refuses_all_of_a_publication_and_leaves_nothing_open() {
    let mut net = lab();
    net.attach();
    net.publish("c1", Transport::Tcp, 7000, 70);
    let open = net.host().open();
    net.host().taken.insert(9090);
    for last in [Transport::Tcp, Transport::Udp] {
        let ports = vec![
            publication(Transport::Tcp, 8080, 80),
            publication(Transport::Udp, 8081, 80),
            publication(last, 9090, 90),
        ];
        let refused = publish(&mut net, "c1", ports).unwrap_err();
        let words = refused.to_string();
        assert!(matches!(refused, CommandError::Bind { port: 9090, failure: Failure::InUse, .. }), "{words}");
        assert!(words.contains("0.0.0.0:9090"), "{words}");
        assert_eq!(net.host().open(), open);
        let Answer::Published(listed) = net.query(Query::Published) else { unreachable!() };
        assert_eq!(listed.len(), 1);
    }
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.publish("c1", Transport::Udp, 8081, 80);
    assert_eq!(net.host().open(), open + 4, "what was let go of can be had");
}

// D14
#[test]
fn chosen_port_is_one_that_the_host_has_free() {
    let mut net = lab();
    net.attach();
    net.host().taken.extend((32_768..=60_999).filter(|port| port % 64 != 0));
    for proto in [Transport::Tcp, Transport::Udp] {
        let got = net.try_publish("c1", vec![chosen(proto, 80); 3]).unwrap();
        assert!(got.iter().all(|port| port % 64 == 0), "{got:?}");
    }
    assert_eq!(net.host().open(), 12, "each for both families");
}

// D14
#[test]
fn range_gives_its_lowest_port_that_the_host_has_free() {
    let mut net = lab();
    net.attach();
    net.host().taken.extend(7000..=7003);
    let range = |last| vec![first_of(Transport::Tcp, 7000, last, 80)];
    let refused = net.try_publish("c1", range(7003)).unwrap_err().to_string();
    assert!(refused.contains("0.0.0.0:7000-7003/tcp failed: all ports are allocated"), "{refused}");
    assert_eq!(net.host().open(), 0);
    assert_eq!(net.try_publish("c1", range(7005)).unwrap(), [7004]);
}

// D14, D16
#[test]
fn chosen_port_that_cannot_be_had_takes_its_whole_request_back() {
    let mut net = lab();
    net.attach();
    net.host().taken.extend(32_768..=60_999);
    for proto in [Transport::Tcp, Transport::Udp] {
        let request = vec![publication(Transport::Tcp, 8080, 80), first_of(proto, 8081, 8082, 80), chosen(proto, 80)];
        // The host is asked so often and no more, whatever it says.
        assert!(matches!(net.try_publish("c1", request), Err(CommandError::Bind { failure: Failure::InUse, .. })));
        assert_eq!((net.host().open(), net.published().len()), (0, 0));
        let privileged = vec![publication(proto, 8080, 80), first_of(proto, 80, 8081, 80)];
        let refused = net.try_publish("c1", privileged).unwrap_err().to_string();
        assert!(refused.contains("ip_unprivileged_port_start"), "{refused}");
        assert_eq!((net.host().open(), net.published().len()), (0, 0));
    }
}

// D14
// As moby's TestPortMappingOnDistinctLoopbackAddrs.
#[test]
fn one_port_is_published_on_distinct_loopback_addresses() {
    let mut net = lab();
    net.attach();
    net.attach();
    net.host().own.extend([addr("127.0.0.1"), addr("127.0.0.2")]);
    let on = |ip: &str| PublicationRequest { host_ip: Some(addr(ip)), ..publication(Transport::Tcp, 8080, 80) };
    publish(&mut net, "c1", vec![on("127.0.0.1")]).unwrap();
    publish(&mut net, "c2", vec![on("127.0.0.2")]).unwrap();
    for (name, request) in [("c2", on("127.0.0.1")), ("c1", publication(Transport::Tcp, 8080, 80))] {
        let refused = publish(&mut net, name, vec![request]).unwrap_err();
        assert!(matches!(refused, CommandError::PortAllocated { port: 8080, .. }), "{refused}");
    }
    assert_eq!(net.host().open(), 2);
}

#[test]
fn privileged_port_is_refused_with_the_name_of_its_sysctl() {
    let mut net = lab();
    net.attach();
    for proto in [Transport::Tcp, Transport::Udp] {
        let words = publish(&mut net, "c1", vec![publication(proto, 80, 80)]).unwrap_err().to_string();
        assert!(words.contains("sysctl net.ipv4.ip_unprivileged_port_start=80"), "{words}");
    }
    assert_eq!(net.host().open(), 0);
}

#[test]
fn published_address_is_the_hosts_or_a_gateways() {
    let mut net = lab();
    net.attach();
    let at = |ip: &str, port| PublicationRequest { host_ip: Some(addr(ip)), ..publication(Transport::Tcp, port, 80) };
    assert!(publish(&mut net, "c1", vec![at("198.51.100.77", 8080)]).is_err());
    publish(&mut net, "c1", vec![at(OWN, 8080)]).unwrap();
    assert_eq!(net.host().listeners.values().map(|(at, _)| *at).collect::<Vec<_>>(), [end("192.0.2.10:8080")]);
    publish(&mut net, "c1", vec![at("172.17.0.1", 8081)]).unwrap();
    assert_eq!(net.host().open(), 1, "for containers alone");
}
