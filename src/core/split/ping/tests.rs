use super::*;
use crate::core::socket::DatagramError;
use crate::core::split::udp::fake::{Around, GATEWAY, HOST, Packet, container};
use crate::frame::Link;
use crate::wire::checksum;

const NOW: Instant = Instant::from_secs(1_000);
const READABLE: Ready = Ready { readable: true, writable: false, error: false };
const FAILED: Ready = Ready { readable: false, writable: false, error: true };
const PEER: Addr = Addr::v4([198, 51, 100, 5]);
const ROUTER: Addr = Addr::v4([203, 0, 113, 1]);

#[test]
fn request_goes_out_and_its_reply_comes_back() {
    let (mut ping, mut around) = engine();
    ask(&mut ping, &mut around, 2, 700, 1, b"data").unwrap();
    let (id, socket) = around.only();
    assert_eq!((socket.kind, socket.bound.port), (Datagrams::Ping, 700));
    let sent = &socket.sent[0];
    assert_eq!((sent.to.addr, sent.how.ttl, sent.how.dont_fragment), (PEER, 63, true));
    assert_eq!((sent.data[0], get16(&sent.data, 6), &sent.data[8..]), (8, 1, &b"data"[..]));
    reply(&mut around, PEER, 700, 1, b"data");
    assert!(!ping.socket_ready(id, READABLE, NOW, &mut around));
    let packets = around.take_packets();
    assert_eq!(packets.len(), 1);
    let (src, dst, message) = parts(&packets[0]);
    assert_eq!((src, dst), (PEER, container(2).1));
    assert_eq!((message[0], get16(message, 4), get16(message, 6), &message[8..]), (0, 700, 1, &b"data"[..]));
    assert_eq!(packets[0][ipv4::TTL], 59);
}

// I1
#[test]
fn identifier_that_the_host_has_given_away_is_mapped_back_in_replies_and_errors() {
    let (mut ping, mut around) = engine();
    ask(&mut ping, &mut around, 2, 700, 1, b"").unwrap();
    ask(&mut ping, &mut around, 3, 700, 1, b"").unwrap();
    let (id, other) = around.host.open.iter_mut().find(|(_, s)| s.bound.port != 700).map(|(id, s)| (*id, s)).unwrap();
    let given = other.bound.port;
    let mut message = [0, 0, 0, 0, 0, 0, 0, 1];
    put16(&mut message, 4, given);
    other.put(Endpoint { addr: PEER, port: 0 }, &message);
    other.errors.push_back(expired(PEER, Some(1)));
    ping.socket_ready(id, READABLE, NOW, &mut around);
    ping.socket_ready(id, FAILED, NOW, &mut around);
    let packets = around.take_packets();
    let (_, to, answer) = parts(&packets[0]);
    assert_eq!((to, get16(answer, 4)), (container(3).1, 700));
    let (_, _, error) = parts(&packets[1]);
    assert_eq!(get16(error, 8 + 20 + 4), 700);
}

#[test]
fn reply_of_who_was_not_asked_is_dropped() {
    let (mut ping, mut around) = engine();
    ask(&mut ping, &mut around, 2, 700, 1, b"").unwrap();
    reply(&mut around, ROUTER, 700, 1, b"");
    around.only().1.put(Endpoint { addr: PEER, port: 0 }, &[8, 0, 0, 0, 0, 0, 0, 1]);
    around.only().1.put(Endpoint { addr: PEER, port: 0 }, &[0, 0, 0]);
    let id = around.only().0;
    ping.socket_ready(id, READABLE, NOW, &mut around);
    assert!(around.delivered.is_empty());
    let why: Vec<_> = around.dropped.iter().map(|d| d.1).collect();
    assert_eq!(why, [DropReason::Unsolicited, DropReason::IcmpType, DropReason::IcmpType]);
}

#[test]
fn errors_on_the_way_tell_which_request_they_are_about() {
    let (mut ping, mut around) = engine();
    for sequence in 1..=3 {
        let mut request = Packet::echo(container(2).1, PEER, 700, sequence, b"probe");
        request.ttl = sequence as u8 + 1;
        request.frame(|frame| ping.input(container(2).0, frame, None, NOW, &mut around)).unwrap();
    }
    let id = around.only().0;
    assert_eq!(around.only().1.sent.iter().map(|s| s.how.ttl).collect::<Vec<_>>(), [1, 2, 3]);
    for sequence in [2, 1, 3] {
        around.only().1.errors.push_back(expired(PEER, Some(sequence)));
    }
    assert!(!ping.socket_ready(id, FAILED, NOW, &mut around));
    let packets = around.take_packets();
    let told: Vec<_> = packets
        .iter()
        .map(|packet| {
            let (src, dst, error) = parts(packet);
            let quoted = &error[8..];
            assert_eq!((src, dst, &error[..2]), (ROUTER, container(2).1, &[11, 0][..]));
            assert_eq!((Addr::read4(quoted, 12), Addr::read4(quoted, 16)), (container(2).1, PEER));
            assert_eq!((quoted[ipv4::TTL], usize::from(get16(quoted, ipv4::TOTAL_LEN))), (1, 20 + 8 + 5));
            assert_eq!((quoted[20], get16(quoted, 24)), (8, 700));
            get16(quoted, 26)
        })
        .collect();
    assert_eq!(told, [2, 1, 3]);
}

#[test]
fn where_the_host_forbids_it_the_container_is_told_and_no_reply_is_made_up() {
    let (mut ping, mut around) = engine();
    assert!(ping.available());
    around.host.refuse_open.push_back(Failure::Prohibited);
    assert_eq!(ask(&mut ping, &mut around, 2, 700, 1, b""), Err(DropReason::HostRefused));
    assert!(!ping.available());
    let packets = around.take_packets();
    let (src, _, error) = parts(&packets[0]);
    assert_eq!((packets.len(), src, &error[..2]), (1, GATEWAY, &[3, 13][..]));
    assert!(around.ids.is_empty());
    // The administrator has allowed it since.
    ask(&mut ping, &mut around, 2, 700, 2, b"").unwrap();
    assert!(ping.available());
}

#[test]
fn longest_request_and_its_reply_cross() {
    let (mut ping, mut around) = engine();
    let data: Vec<u8> = (0..65_507).map(|i| (i % 251) as u8).collect();
    ask(&mut ping, &mut around, 2, 700, 1, &data).unwrap();
    assert_eq!(around.only().1.sent[0].data.len(), 65_515);
    reply(&mut around, PEER, 700, 1, &data);
    let id = around.only().0;
    ping.socket_ready(id, READABLE, NOW, &mut around);
    let packets = around.take_packets();
    assert!(packets.iter().all(|p| p.len() <= 1500) && packets.len() == 45);
    let message: Vec<u8> = packets.iter().flat_map(|p| p[20..].to_vec()).collect();
    assert_eq!((message.len(), checksum::sum(&message)), (65_515, 0xffff));
    assert_eq!(&message[8..], data);
}

#[test]
fn address_that_stands_for_another_answers_as_itself() {
    let (mut ping, mut around) = engine();
    let loopback = Addr::v4([127, 0, 0, 1]);
    Packet::echo(container(2).1, GATEWAY, 700, 1, b"")
        .frame(|frame| ping.input(container(2).0, frame, Some(loopback), NOW, &mut around))
        .unwrap();
    reply(&mut around, loopback, 700, 1, b"");
    let id = around.only().0;
    ping.socket_ready(id, READABLE, NOW, &mut around);
    assert_eq!(parts(&around.take_packets()[0]).0, GATEWAY);
}

#[test]
fn request_too_long_for_the_route_is_told_its_mtu() {
    let (mut ping, mut around) = engine();
    ask(&mut ping, &mut around, 2, 700, 1, b"").unwrap();
    let socket = around.only().1;
    socket.refusals.push_back(Some(Failure::TooLong));
    let local = DatagramError {
        to: Endpoint { addr: PEER, port: 0 },
        icmp: Err(Failure::TooLong),
        mtu: 1400,
        from: None,
        offender: None,
        sequence: None,
    };
    socket.errors.push_back(local);
    assert_eq!(ask(&mut ping, &mut around, 2, 700, 2, &[0; 1472]), Err(DropReason::NeedsFragmentation));
    let packets = around.take_packets();
    let (src, _, error) = parts(&packets[0]);
    assert_eq!((src, &error[..2], get16(error, 6)), (GATEWAY, &[3, 4][..], 1400));
}

// I2
#[test]
fn silent_identifier_is_forgotten_after_thirty_seconds_and_leaves_nothing() {
    let (mut ping, mut around) = engine();
    for n in 2..20 {
        ask(&mut ping, &mut around, n, 700, 1, b"").unwrap();
    }
    let (rows, next) = ping.flows(0, 100, NOW);
    assert_eq!((rows.len(), next), (18, None));
    assert_eq!((rows[0].original.sport, rows[0].original.dport, rows[0].timeout), (700, 0x800, TIMEOUT));
    ping.handle_timeout(NOW + TIMEOUT, &mut around);
    assert!(around.host.open.is_empty() && around.ids.is_empty());
    assert_eq!((ping.table.len(), ping.next_timeout()), ((0, 0), None));
}

#[test]
fn container_that_uses_many_identifiers_takes_none_of_anothers() {
    let limits = Limits { sockets: 8, sockets_each: 4, flows: 100, flows_each: 50 };
    let mut ping = Ping::new(Config { limits }, [7; 16], NOW);
    let mut around = Around::new();
    ask(&mut ping, &mut around, 3, 9, 1, b"").unwrap();
    for ident in 1..1000 {
        ask(&mut ping, &mut around, 2, ident, 1, b"").unwrap();
        assert!(ping.table.sockets_of(PortId(2)) <= 4);
    }
    assert_eq!(ping.table.sockets_of(PortId(3)), 1);
    ping.detach(PortId(2), &mut around);
    assert_eq!(ping.table.len(), (1, 1));
}

#[test]
fn other_queries_and_addresses_of_the_host_are_no_requests() {
    let (mut ping, mut around) = engine();
    let mut timestamp = Packet::echo(container(2).1, HOST, 700, 1, &[0; 12]);
    timestamp.l4[0] = 13;
    let mut buf = timestamp.buffer();
    let end = buf.len();
    let frame = Frame::parse(&mut buf, HEADROOM, end, Link::Ip).unwrap();
    assert_eq!(ping.input(container(2).0, &frame, None, NOW, &mut around), Err(DropReason::IcmpType));
    assert!(around.host.open.is_empty());
}

fn engine() -> (Ping, Around) {
    (Ping::new(Config::default(), [7; 16], NOW), Around::new())
}

/// Container `n` asks [`PEER`].
fn ask(ping: &mut Ping, around: &mut Around, n: u8, ident: u16, sequence: u16, data: &[u8]) -> Result<(), DropReason> {
    let (origin, addr) = container(n);
    let request = Packet::echo(addr, PEER, ident, sequence, data);
    let done = request.frame(|frame| ping.input(origin, frame, None, NOW, around));
    ping.table.audit();
    done
}

/// The host's only socket gets a reply.
fn reply(around: &mut Around, from: Addr, ident: u16, sequence: u16, data: &[u8]) {
    let mut message = vec![0; 8];
    put16(&mut message, 4, ident);
    put16(&mut message, 6, sequence);
    message.extend_from_slice(data);
    around.only().1.put(Endpoint { addr: from, port: 0 }, &message);
}

fn expired(to: Addr, sequence: Option<u16>) -> DatagramError {
    let to = Endpoint { addr: to, port: 0 };
    DatagramError { to, icmp: Ok((11, 0)), mtu: 0, offender: Some(ROUTER), sequence, from: None }
}

/// Source, destination and ICMP message of a packet; all sums are right.
fn parts(packet: &[u8]) -> (Addr, Addr, &[u8]) {
    assert_eq!((packet[ipv4::PROTO], checksum::sum(&packet[20..])), (1, 0xffff));
    (Addr::read4(packet, 12), Addr::read4(packet, 16), &packet[20..])
}
