//! A network whose uplink is the sockets of a host in memory, and what the tests do there by one call.

use pontoon::core::command::{Applied, Command, CommandError, PublicationRequest, SocketUplinkConfig, Transport};
use pontoon::core::socket::Endpoint;

use super::conn::Conn;
use crate::net::{Host, Net, addr};
use crate::packet::{ping, udp_with};

pub(super) const SERVER: &str = "198.51.100.5:80";
pub(super) const RESOLVER: &str = "198.51.100.53:5353";
pub(super) const CLIENT: &str = "203.0.113.7:5555";
/// The host's own address.
pub(super) const OWN: &str = "192.0.2.10";

/// Defaults, with tables as small as the tests need.
pub(super) fn config() -> SocketUplinkConfig {
    let mut config = SocketUplinkConfig::for_ports(32_768..=60_999);
    (config.tcp.flows_max, config.tcp.time_wait_max) = (1024, 64);
    config
}

pub(super) fn lab() -> Net {
    let mut net = Net::with_sockets(config());
    net.host().own.insert(addr(OWN));
    // A rootless host knows nothing of the containers' networks.
    net.host().unreachable.insert(addr("172.17.0.1"));
    net
}

/// A host whose loopback has an address of its own.
pub(super) fn lab_with_loopback(at: &str) -> Net {
    let mut config = config();
    config.policy.host_loopback = Some(addr(at));
    Net::with_sockets(config)
}

pub(super) fn end(text: &str) -> Endpoint {
    let (ip, port) = text.rsplit_once(':').unwrap();
    Endpoint { addr: addr(ip), port: port.parse().unwrap() }
}

/// A datagram of the container, and where its socket is bound.
#[track_caller]
pub(super) fn ask(net: &mut Net, host: &Host, port: u16, to: &str, data: &[u8]) -> Endpoint {
    let before = net.host().sent.len();
    net.route(host, &udp_with(&format!("{}:{port}", host.ip.unwrap()), to, data));
    net.pump();
    let sent = net.host().sent[before..].to_vec();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].payload, data);
    Endpoint { addr: addr(OWN), port: net.host().bound(sent[0].id).port }
}

/// What the container was told, if that is an ICMP error: type and code.
#[track_caller]
pub(super) fn told(net: &mut Net, host: &Host) -> (u8, u8) {
    let error = net.got_one(host);
    assert_eq!(error.src.to_string(), "172.17.0.1");
    error.icmp()
}

pub(super) fn publish(net: &mut Net, name: &str, ports: Vec<PublicationRequest>) -> Result<Applied, CommandError> {
    net.try_apply(Command::Publish { name: name.to_owned(), ifname: None, ports })
}

pub(super) fn detach(net: &mut Net, host: &Host) {
    net.apply(Command::Detach { port: host.port });
    net.pump();
}

/// One of everything: a connection out, a datagram, an echo request, two published ports and a client.
pub(super) fn busy(net: &mut Net, name: &str, host: &Host, port: u16) -> Conn {
    let conn = Conn::open(net, host, 40_000, &format!("198.51.100.5:{port}"));
    ask(net, host, 5000, RESOLVER, b"question");
    net.route(host, &ping(&host.ip.unwrap().to_string(), "198.51.100.5", port));
    net.publish(name, Transport::Tcp, port, 80);
    net.publish(name, Transport::Udp, port, 53);
    net.host().knock(Endpoint { addr: addr(OWN), port }, Endpoint { addr: addr("203.0.113.7"), port });
    net.pump();
    Conn::accept(net, host);
    conn
}

/// Sockets that [`busy`] has.
pub(super) const BUSY: usize = 8;
