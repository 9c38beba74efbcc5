//! Published ports: who is asked, what a client and a container see, and what goes wrong.

use std::time::Duration;

use super::bed::{ACK, Bed, Endpoint, NET, PORT, RST, SYN, Seg, addr_of, end};
use crate::core::counters::DropReason;
use crate::core::socket::{Accepted, Close, Failure, Mark, Ready, SocketId};
use crate::core::split::tcp::Config;

const READ: Ready = Ready { readable: true, writable: false, error: false };

/// A published port.
pub struct Port {
    pub bed: Bed,
    listener: SocketId,
}

impl Port {
    pub fn new(config: Config) -> Port {
        let mut bed = Bed::new(config);
        bed.tcp.listen(1, end("0.0.0.0", 8080), end("172.17.0.2", 80), NET, PORT, bed.now, &mut bed.world).unwrap();
        let (listener, sock) = bed.socket();
        assert_eq!(sock.mss, 1460, "as long as the container's link takes");
        sock.admits = Some(true);
        Port { bed, listener }
    }

    /// A client comes; what is sent to the container.
    pub fn client(&mut self, peer: Endpoint) -> Option<Seg> {
        let clients = &mut self.bed.world.sockets.get_mut(&self.listener).unwrap().clients;
        clients.push_back(Ok(Accepted { peer, local: end("192.0.2.10", 8080) }));
        self.ready();
        self.bed.sent().pop()
    }

    fn ready(&mut self) -> bool {
        self.bed.tcp.socket_ready(self.listener, READ, self.bed.now, &mut self.bed.world)
    }

    fn admits(&self) -> bool {
        self.bed.world.sockets[&self.listener].admits.unwrap()
    }

    fn answer(&mut self, syn: &Seg, flags: u8) -> Result<(), DropReason> {
        let ack = syn.seq.wrapping_add(1);
        self.bed.input(&Seg {
            from: syn.to,
            to: syn.from,
            seq: 5000,
            ack,
            flags,
            options: vec![2, 4, 5, 180],
            window: 0xffff,
            gso: 0,
            ..syn.clone()
        })
    }

    /// Lets the next timer pass.
    fn next(&mut self) -> Option<Seg> {
        let at = self.bed.tcp.next_timeout().unwrap();
        self.bed.pass(at.since(self.bed.now));
        self.bed.sent().pop()
    }
}

// S27
#[test]
fn container_sees_the_client_unless_the_answer_would_not_come_back() {
    for (client, seen) in [
        ("203.0.113.9", "203.0.113.9"),
        ("10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "172.17.0.1"),
        ("192.0.2.10", "172.17.0.1"),
        ("169.254.1.1", "172.17.0.1"),
        ("172.17.0.9", "172.17.0.1"),
        ("2001:db8::9", "172.17.0.1"),
    ] {
        let mut port = Port::new(Config::default());
        let syn = port.client(end(client, 50_000)).unwrap();
        assert_eq!((syn.from, syn.to, syn.flags), (end(seen, 50_000), end("172.17.0.2", 80), SYN));
        assert_eq!(syn.options.len(), 24, "MSS, SACK, timestamps, scale");
    }
    let mut port = Port::new(Config::default());
    port.bed.world.gateway = None;
    assert_eq!(port.client(end("127.0.0.1", 1)), None, "in whose name?");
    assert_eq!(port.bed.last_socket().closed, Some(Close::Reset));
}

#[test]
fn connection_opens_when_both_have_sent_a_syn_at_once() {
    let mut port = Port::new(Config::default());
    let syn = port.client(end("203.0.113.9", 50_000)).unwrap();
    port.answer(&Seg { seq: syn.seq.wrapping_sub(1), ..syn.clone() }, SYN).unwrap();
    assert_eq!(port.bed.sent().pop().unwrap().flags, SYN | ACK);
    port.answer(&syn, SYN | ACK).unwrap();
    assert_eq!(port.bed.states(), ["ESTABLISHED"]);
}

#[test]
fn client_sees_the_containers_type_of_service_from_the_start() {
    let mut port = Port::new(Config::default());
    let syn = port.client(end("203.0.113.9", 50_000)).unwrap();
    let answer = Seg { from: syn.to, to: syn.from, seq: 5000, ack: syn.seq.wrapping_add(1), tos: 0xb8, ..syn.clone() };
    port.bed.input(&Seg { flags: SYN | ACK, ..answer }).unwrap();
    assert_eq!(port.bed.last_socket().marks, [Mark { ttl: 64, tos: 0xb8 }]);
}

#[test]
fn same_client_by_two_ports_keeps_its_address() {
    let mut port = Port::new(Config::default());
    let first = port.client(end("203.0.113.9", 50_000)).unwrap();
    let second = port.client(end("203.0.113.9", 50_000)).unwrap();
    assert_eq!(first.from.addr, second.from.addr);
    assert!(second.from.port != 50_000 && second.from.port >= 1024);
}

#[test]
fn refusal_closes_the_port_until_the_container_listens() {
    let mut port = Port::new(Config::default());
    let syn = port.client(end("203.0.113.9", 50_000)).unwrap();
    port.answer(&syn, RST | ACK).unwrap();
    assert_eq!(port.bed.last_socket().closed, Some(Close::Reset));
    assert!(!port.admits());
    // It is asked less and less often.
    let mut waits = Vec::new();
    for _ in 0..7 {
        let before = port.bed.now;
        let probe = port.next().unwrap();
        waits.push(port.bed.now.since(before).as_millis());
        assert_eq!((probe.flags, probe.from.addr), (SYN, addr_of("172.17.0.1")));
        port.answer(&probe, RST | ACK).unwrap();
        assert!(!port.admits());
    }
    assert_eq!(waits, [200, 200, 400, 800, 1600, 3200, 5000]);
    let probe = port.next().unwrap();
    port.answer(&probe, SYN | ACK).unwrap();
    let rst = port.bed.sent().remove(0);
    assert_eq!((rst.flags, rst.seq), (RST, probe.seq.wrapping_add(1)), "it will never know");
    assert!(port.admits());
    assert_eq!(port.bed.tcp.next_timeout(), None);
    assert!(port.client(end("203.0.113.9", 50_001)).is_some());
}

#[test]
fn container_that_does_not_answer_costs_the_client_its_connection() {
    let mut port = Port::new(Config::default());
    port.client(end("203.0.113.9", 50_000)).unwrap();
    let mut waits = Vec::new();
    for _ in 0..6 {
        let before = port.bed.now;
        let again = port.next().unwrap();
        waits.push((port.bed.now.since(before).as_secs(), again.flags));
    }
    assert_eq!(waits, [(1, SYN), (2, SYN), (4, SYN), (8, SYN), (16, SYN), (32, RST)]);
    assert_eq!(port.bed.last_socket().closed, Some(Close::Reset));
    assert!(port.admits(), "silence is no refusal");
    port.bed.assert_empty();
}

#[test]
fn listener_without_descriptors_waits_for_one_and_never_spins() {
    let mut port = Port::new(Config::default());
    let syn = port.client(end("203.0.113.9", 50_000)).unwrap();
    port.bed.world.room = 0;
    assert_eq!(port.client(end("203.0.113.9", 50_001)), None);
    assert!(!port.ready(), "nothing to do now");
    port.answer(&syn, SYN | ACK).unwrap();
    port.bed.sent();
    let before = port.bed.now;
    assert_eq!(port.next(), None);
    assert_eq!(port.bed.now.since(before), Duration::from_secs(1), "tried again after a second");
}

#[test]
fn descriptor_freed_by_a_connection_lets_a_listener_try_at_once() {
    let mut port = Port::new(Config::default());
    let syn = port.client(end("203.0.113.9", 50_000)).unwrap();
    port.answer(&syn, SYN | ACK).unwrap();
    port.bed.sent();
    port.bed.world.room = 0;
    assert_eq!(port.client(end("203.0.113.9", 50_001)), None);
    let before = port.bed.now;
    port.bed.world.room = 1;
    let rst = Seg { from: syn.to, to: syn.from, seq: 5001, ack: 0, flags: RST, options: Vec::new(), ..syn };
    port.bed.input(&rst).unwrap();
    let asked = port.next().map(|s| s.from.port);
    assert_eq!((asked, port.bed.now), (Some(50_001), before));
}

#[test]
fn descriptor_freed_by_another_is_found_within_a_second() {
    let mut port = Port::new(Config::default());
    port.bed.world.room = 0;
    assert_eq!(port.client(end("203.0.113.9", 50_001)), None);
    let before = port.bed.now;
    port.bed.world.room = 1;
    let asked = port.next().map(|s| s.from.port);
    assert_eq!((asked, port.bed.now.since(before)), (Some(50_001), Duration::from_secs(1)));
}

#[test]
fn error_of_one_client_is_not_the_listeners() {
    let mut port = Port::new(Config::default());
    for gone in [Failure::Reset, Failure::Refused, Failure::TimedOut, Failure::HostUnreachable] {
        port.bed.world.sockets.get_mut(&port.listener).unwrap().clients.push_back(Err(gone));
    }
    assert!(port.client(end("203.0.113.9", 50_002)).is_some(), "the next is taken in the same call");
    assert!(port.admits());
}

#[test]
fn clients_beyond_the_limit_wait_in_the_kernel() {
    let mut port = Port::new(Config { half_open_per_listener: 2, ..Config::default() });
    let first = port.client(end("203.0.113.9", 1)).unwrap();
    port.client(end("203.0.113.9", 2)).unwrap();
    assert_eq!(port.client(end("203.0.113.9", 3)), None);
    port.answer(&first, SYN | ACK).unwrap();
    port.bed.sent();
    assert_eq!(port.next().map(|s| s.from.port), Some(3));
    assert_eq!(port.bed.tcp.listeners().next().unwrap().half_open, 2);
}

#[test]
fn unpublished_port_leaves_its_connections_alone() {
    let mut port = Port::new(Config::default());
    let syn = port.client(end("203.0.113.9", 1)).unwrap();
    port.answer(&syn, SYN | ACK).unwrap();
    port.client(end("203.0.113.9", 2)).unwrap();
    let id = port.bed.tcp.listeners().next().unwrap().id;
    assert!(port.bed.tcp.unlisten(id, &mut port.bed.world));
    assert!(!port.bed.tcp.unlisten(id, &mut port.bed.world));
    assert_eq!(port.bed.world.sockets[&port.listener].closed, Some(Close::Orderly));
    assert_eq!(port.bed.states(), ["ESTABLISHED", "SYN_SENT"]);
    port.bed.tcp.detach(PORT, port.bed.now, &mut port.bed.world);
    port.bed.assert_empty();
}

#[test]
fn clients_of_one_container_leave_others_a_fifth_of_descriptors_and_table() {
    for (room, flows_max, why) in [(20, 1000, DropReason::NoSocket), (1000, 100, DropReason::FlowTableFull)] {
        let mut port = Port::new(Config { flows_max, ..Config::default() });
        port.bed.world.room = room;
        let accepted = (1..=100).filter(|n| port.client(end("203.0.113.9", *n)).is_some()).count();
        assert_eq!((accepted, &port.bed.world.counted[..]), (80, &[why][..]), "and counted once");
    }
}
