//! An engine over scripted sockets, and what containers, peers and clients do there by one call.

use crate::core::counters::DropReason;
use crate::core::socket::{DatagramError, Endpoint, Ready, SocketId};
use crate::core::split::Origin;
use crate::core::split::udp::fake::{Around, FakeSocket, Packet, at, container};
use crate::core::split::udp::{Config, Limits, Udp};
use crate::core::time::Instant;
use crate::wire::addr::Addr;
use crate::wire::ip::proto;
use crate::wire::{checksum, get16};

pub(super) const NOW: Instant = Instant::from_secs(1_000);
pub(super) const READABLE: Ready = Ready { readable: true, writable: false, error: false };
pub(super) const FAILED: Ready = Ready { readable: true, writable: false, error: true };

pub(super) fn engine() -> (Udp, Around) {
    (Udp::new(Config::for_ports(32_768..=60_999), [7; 16], NOW), Around::new())
}

/// Ten sockets, four a container; sixteen flows a container.
pub(super) fn small_engine() -> (Udp, Around) {
    let limits = Limits { sockets: 10, sockets_each: 4, flows: 64, flows_each: 16 };
    (Udp::new(Config { limits, ..Config::for_ports(1..=1) }, [7; 16], NOW), Around::new())
}

pub(super) fn origin(of: Endpoint) -> Origin {
    container(of.addr.as_v4().unwrap()[3]).0
}

/// A container sends a datagram, in a turn of its own.
pub(super) fn say(udp: &mut Udp, around: &mut Around, from: &str, to: &str, data: &[u8]) -> Result<(), DropReason> {
    say_at(udp, around, from, to, data, NOW)
}

pub(super) fn say_at(
    udp: &mut Udp,
    around: &mut Around,
    from: &str,
    to: &str,
    data: &[u8],
    now: Instant,
) -> Result<(), DropReason> {
    let from = at(from);
    let done = Packet::udp(from, at(to), data).frame(|frame| udp.input(origin(from), frame, None, now, around));
    udp.flush(now, around);
    udp.table.audit();
    done
}

pub(super) fn send(udp: &mut Udp, around: &mut Around, packet: &Packet, now: Instant) -> Result<(), DropReason> {
    let origin = container(packet.src.as_v4().unwrap()[3]).0;
    let done = packet.frame(|frame| udp.input(origin, frame, None, now, around));
    udp.flush(now, around);
    udp.table.audit();
    done
}

/// The datagrams that containers were sent: from, to, data. Their checksums are right.
pub(super) fn heard(around: &mut Around) -> Vec<(Endpoint, Endpoint, Vec<u8>)> {
    let packets = around.take_packets();
    packets
        .into_iter()
        .map(|packet| {
            let l4 = &packet[20..];
            let (src, dst) = (Addr::read4(&packet, 12), Addr::read4(&packet, 16));
            assert_eq!(packet[9], proto::UDP);
            let pseudo = checksum::pseudo_header(src, dst, proto::UDP, l4.len() as u32);
            assert_eq!(checksum::add(pseudo, checksum::sum(l4)), 0xffff, "UDP checksum");
            assert_eq!(usize::from(get16(l4, 4)), l4.len());
            let from = Endpoint { addr: src, port: get16(l4, 0) };
            (from, Endpoint { addr: dst, port: get16(l4, 2) }, l4[8..].to_vec())
        })
        .collect()
}

/// The peer answers on the only socket.
pub(super) fn answer(udp: &mut Udp, around: &mut Around, peer: &str, now: Instant) {
    let (id, socket) = around.only();
    socket.put(at(peer), b"answer");
    udp.socket_ready(id, READABLE, now, around);
}

/// Publishes the host's port 5353 to port 53 of container `n`.
pub(super) fn publish(udp: &mut Udp, around: &mut Around, tag: u32, n: u8) -> SocketId {
    let (origin, addr) = container(n);
    let to = Endpoint { addr, port: 53 };
    let bound = udp.listen(tag, at("0.0.0.0:5353"), to, origin.network, origin.port, NOW, around).unwrap();
    *around.host.open.iter().find(|(_, s)| s.bound == bound).unwrap().0
}

pub(super) fn socket(around: &mut Around, id: SocketId) -> &mut FakeSocket {
    around.host.open.get_mut(&id).unwrap()
}

pub(super) fn icmp(to: Endpoint, kind: u8, code: u8, offender: Option<&str>) -> DatagramError {
    let offender = offender.map(|addr| addr.parse().unwrap());
    DatagramError { to, icmp: Ok((kind, code)), mtu: 0, offender, sequence: None, from: None }
}

/// Source and message of an ICMP packet, whose sum is right.
pub(super) fn message(packet: &[u8]) -> (Addr, &[u8]) {
    assert_eq!((packet[9], checksum::sum(&packet[20..])), (proto::ICMP, 0xffff));
    (Addr::read4(packet, 12), &packet[20..])
}
