//! Whatever containers send: nothing is left when they are gone, and none is led to the host's loopback unasked.

use std::collections::HashSet;
use std::net::IpAddr;

use proptest::prelude::*;

use pontoon::core::command::Transport;
use pontoon::core::socket::{Endpoint, Failure};
use pontoon::frame::Caps;
use pontoon::wire::addr::Addr;
use pontoon::wire::vnet::VnetHeader;

use super::lab::{OWN, config, detach};
use crate::net::{Host, Net, addr};
use crate::packet::{ACK, FIN, ICMP, PSH, Packet, RST, SYN, TCP, UDP, error, frame, other, ping, tcp_with, udp_with};

/// What may happen between two containers and a host.
#[derive(Clone, Debug)]
enum Step {
    /// A packet to the gateway, from one of the addresses that a container may use, with an offload or without.
    Packet {
        host: usize,
        packet: Packet,
        segment: u16,
    },
    /// Only some of its fragments.
    Fragments {
        host: usize,
        packet: Packet,
        size: usize,
        which: u64,
    },
    /// Any bytes.
    Bytes {
        host: usize,
        header: [u8; 10],
        bytes: Vec<u8>,
    },
    /// The host's peers send, end or break off.
    Peer {
        which: usize,
        what: u8,
    },
    /// A client of a published port.
    Client {
        which: usize,
        from: u16,
        udp: bool,
    },
    Pass {
        millis: u64,
    },
    Pump,
}

impl Step {
    /// The protocol and the port (0: of an echo request) of a packet that is for the address of the host's loopback.
    fn asks_the_loopback(&self) -> Option<(u8, u16)> {
        let (Step::Packet { packet, .. } | Step::Fragments { packet, .. }) = self else { return None };
        let port = match packet.proto {
            TCP | UDP => u16::from_be_bytes([packet.body[2], packet.body[3]]),
            _ => 0,
        };
        (packet.dst.to_string() == "10.0.2.2").then_some((packet.proto, port))
    }
}

fn packets() -> impl Strategy<Value = Packet> {
    let inside = (2..6u8).prop_map(|n| format!("172.17.0.{n}"));
    let outside = prop_oneof![
        6 => (1..4u8).prop_map(|n| format!("198.51.100.{n}")),
        1 => prop::sample::select(vec!["172.17.0.1", "10.0.2.2", OWN, "169.254.169.254", "203.0.113.7", "172.17.0.9"])
            .prop_map(str::to_owned),
    ];
    let ports = (prop::sample::select(vec![1u16, 53, 80, 5000]), prop::sample::select(vec![0u16, 53, 80, 8001, 8002]));
    let data = prop::collection::vec(any::<u8>(), 0..3000);
    let flags = prop::sample::select(vec![SYN, SYN, SYN, ACK, ACK | PSH, FIN | ACK, RST, RST | ACK, SYN | ACK, 0, 63]);
    let body = (0..9u8, flags, any::<bool>(), 0..3u32, prop::sample::select(vec![1u8, 2, 64]));
    (inside, outside, ports, data, body).prop_map(|(src, dst, (sport, dport), data, (kind, flags, near, step, ttl))| {
        let (from, to) = (format!("{src}:{sport}"), format!("{dst}:{dport}"));
        let seq = if near { 1000 + step } else { step.wrapping_mul(0x7fff_ffff) };
        match kind {
            0..4 => tcp_with(&from, &to, flags, seq, seq, &[], &data),
            4 | 5 => udp_with(&from, &to, &data),
            6 => ping(&src, &dst, sport),
            7 => {
                let quoted = tcp_with(&to, &from, ACK, seq, seq, &[], &data).bytes();
                error(&src, &dst, 3, flags % 5, &quoted)
            }
            _ => other(&src, &dst, 47, &data),
        }
        .ttl(ttl)
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let segment = prop_oneof![3 => Just(0u16), 1 => 1..1500u16];
    prop_oneof![
        12 => (0..2usize, packets(), segment).prop_map(|(host, packet, segment)| Step::Packet { host, packet, segment }),
        3 => (0..2usize, packets(), 1..180usize, any::<u64>()).prop_map(|(host, packet, size, which)| {
            Step::Fragments { host, packet, size: size * 8, which }
        }),
        2 => (0..2usize, any::<[u8; 10]>(), prop::collection::vec(any::<u8>(), 0..120))
            .prop_map(|(host, header, bytes)| Step::Bytes { host, header, bytes }),
        3 => (0..8usize, 0..3u8).prop_map(|(which, what)| Step::Peer { which, what }),
        2 => (0..2usize, 1..4u16, any::<bool>()).prop_map(|(which, from, udp)| Step::Client { which, from, udp }),
        1 => (1..40_000u64).prop_map(|millis| Step::Pass { millis }),
        4 => Just(Step::Pump),
    ]
}

fn go(net: &mut Net, hosts: &[Host; 2], step: &Step) {
    match step {
        Step::Packet { host, packet, segment: 0 } => net.route(&hosts[*host], packet),
        Step::Packet { host, packet, segment } if packet.proto == TCP || packet.proto == UDP => {
            net.route_offloaded(&hosts[*host], &packet.clone().partial(), *segment);
        }
        Step::Packet { host, packet, .. } => net.route(&hosts[*host], packet),
        Step::Fragments { host, packet, size, which } => {
            for (at, part) in packet.fragments(*size).iter().enumerate() {
                if *which == 0 || which >> (at % 64) & 1 == 1 {
                    net.route(&hosts[*host], part);
                }
            }
        }
        Step::Bytes { host, header, bytes } => {
            let gateway = net.gateway_mac();
            let bytes = frame(gateway, hosts[*host].mac, 0x0800, bytes);
            net.input(hosts[*host].port, VnetHeader::read(header), &bytes);
        }
        Step::Peer { which, what } => {
            let mut peers: Vec<Endpoint> =
                net.host().streams.values().filter(|s| s.closed.is_none()).filter_map(|s| s.peer).collect();
            peers.sort();
            if let Some(peer) = peers.get(which % peers.len().max(1)) {
                match what {
                    0 => net.host().send_from(*peer, &[7; 5000]),
                    1 => net.host().end_from(*peer),
                    _ => net.host().break_off(*peer, Failure::Reset),
                }
            }
        }
        Step::Client { which, from, udp } => {
            let at = Endpoint { addr: addr(OWN), port: [8001, 8002][*which] };
            let client = Endpoint { addr: addr("203.0.113.7"), port: *from };
            if *udp {
                net.host().datagram(client, at, b"question");
            } else {
                net.host().knock(at, client);
            }
        }
        Step::Pass { millis } => net.advance(std::time::Duration::from_millis(*millis)),
        Step::Pump => net.pump(),
    }
}

/// Every packet that a container gets can be read, its sums are right, and it does not seem to come from inside.
fn look(net: &mut Net, hosts: &[Host; 2]) {
    for host in hosts {
        for seen in net.got(host) {
            let from = Addr::from(IpAddr::V4(seen.src));
            let inside = seen.src.octets()[..2] == [172, 17] && from != addr("172.17.0.1");
            assert!(!inside && !seen.src.is_loopback() && !seen.src.is_unspecified(), "{seen:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_containers_send_nothing_of_them_is_left_when_they_are_gone(
        steps in prop::collection::vec(steps(), 1..60)
    ) {
        let mut config = config();
        config.policy.host_loopback = Some(addr("10.0.2.2"));
        let mut net = Net::with_sockets(config);
        net.host().own.insert(addr(OWN));
        let hosts = [(); 2].map(|()| {
            let request = net.request("default");
            net.attach_as(request, Caps::FULL)
        });
        for (name, port) in [("c1", 8001), ("c2", 8002)] {
            net.publish(name, Transport::Tcp, port, 80);
            net.publish(name, Transport::Udp, port, 53);
        }
        for step in &steps {
            go(&mut net, &hosts, step);
            look(&mut net, &hosts);
        }
        net.pump();
        let asked: HashSet<(u8, u16)> = steps.iter().filter_map(Step::asks_the_loopback).collect();
        let connected: Vec<_> = net.host().streams.values().filter_map(|s| s.peer).map(|to| (TCP, to)).collect();
        let sent: Vec<_> =
            net.host().sent.iter().map(|sent| (if sent.to.port == 0 { ICMP } else { UDP }, sent.to)).collect();
        for (proto, to) in connected.into_iter().chain(sent) {
            let leads_there = to.addr.to_string().starts_with("127.");
            prop_assert!(!leads_there || asked.contains(&(proto, to.port)), "{} by {}: {:?}", to.port, proto, asked);
        }

        detach(&mut net, &hosts[0]);
        prop_assert!(net.flows().iter().all(|f| f.name != "c1"));
        detach(&mut net, &hosts[1]);
        prop_assert_eq!(net.host().open(), 0);
        net.secs(700);
        net.pump();
        prop_assert_eq!(net.flows(), []);
        prop_assert_eq!(net.host().open(), 0);
    }
}
