use super::fake::{Around, GATEWAY, HOST, Packet, Sent, at, container};
use super::*;
use crate::wire::checksum;

const NOW: Instant = Instant::from_secs(1_000);
const READABLE: Ready = Ready { readable: true, writable: false, error: false };
const FAILED: Ready = Ready { readable: true, writable: false, error: true };

#[test]
fn datagram_goes_out_and_its_answer_comes_back_from_the_address_that_was_asked() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"question").unwrap();
    let (id, socket) = around.only();
    assert_eq!((socket.bound.addr, socket.sent.len()), (Addr::V4_UNSPECIFIED, 1));
    let Sent { to, data, how } = socket.sent.remove(0);
    assert_eq!((to, &data[..]), (at("198.51.100.5:5000"), &b"question"[..]));
    assert_eq!(how, SendHow { segment: None, dont_fragment: false, tos: 0, ttl: 63, from: None });
    socket.put(at("198.51.100.5:5000"), b"answer");
    assert!(!udp.socket_ready(id, READABLE, NOW, &mut around));
    assert_eq!(heard(&mut around), [(at("198.51.100.5:5000"), at("172.17.0.2:4000"), b"answer".to_vec())]);
}

#[test]
fn one_socket_serves_all_destinations_of_an_endpoint() {
    let (mut udp, mut around) = engine();
    for peer in ["198.51.100.5:5000", "198.51.100.6:5000", "198.51.100.5:5001"] {
        say(&mut udp, &mut around, "172.17.0.2:4000", peer, b"x").unwrap();
    }
    assert_eq!(around.only().1.sent.len(), 3);
    say(&mut udp, &mut around, "172.17.0.2:4001", "198.51.100.5:5000", b"x").unwrap();
    assert_eq!(around.host.open.len(), 2);
}

// U8
#[test]
fn only_whom_the_container_has_sent_to_is_let_in() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
    let (id, socket) = around.only();
    for stranger in ["198.51.100.5:5001", "198.51.100.6:5000"] {
        socket.put(at(stranger), b"forged");
    }
    udp.socket_ready(id, READABLE, NOW, &mut around);
    assert!(around.delivered.is_empty());
    assert_eq!(udp.take_dropped(), [(PortId(2), DropReason::Unsolicited, 2)]);
}

fn engine() -> (Udp, Around) {
    (Udp::new(Config::for_ports(32_768..=60_999), [7; 16], NOW), Around::new())
}

fn origin(of: Endpoint) -> Origin {
    container(of.addr.as_v4().unwrap()[3]).0
}

/// A container sends a datagram.
fn say(udp: &mut Udp, around: &mut Around, from: &str, to: &str, data: &[u8]) -> Result<(), DropReason> {
    say_at(udp, around, from, to, data, NOW)
}

fn say_at(
    udp: &mut Udp,
    around: &mut Around,
    from: &str,
    to: &str,
    data: &[u8],
    now: Instant,
) -> Result<(), DropReason> {
    let from = at(from);
    let done = Packet::udp(from, at(to), data).frame(|frame| udp.input(origin(from), frame, None, now, around));
    udp.table.audit();
    done
}

/// The datagrams that containers were sent: from, to, data. Their checksums are right.
fn heard(around: &mut Around) -> Vec<(Endpoint, Endpoint, Vec<u8>)> {
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
