//! Whole stacks as containers: streams arrive exact whatever the link does.

#[path = "../../../../../tests/sim/nic.rs"]
mod nic;

use std::time::Duration;

use proptest::prelude::*;
use smoltcp::iface::{Config as StackConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::Medium;
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address};

use self::nic::Nic;
use super::bed::{Bed, end};
use crate::core::socket::{Accepted, Close, SocketId};
use crate::core::split::tcp::Config;

/// What a link does to frames, of a thousand each.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    lost: u64,
    doubled: u64,
    late: u64,
}

/// An engine and a container with a stack.
struct Lab {
    bed: Bed,
    nic: Nic,
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    faults: Faults,
    random: u64,
    /// Packets that are held back, to be delivered after the next.
    held: [Option<Vec<u8>>; 2],
}

const CONTAINER: Ipv4Address = Ipv4Address::new(172, 17, 0, 2);

impl Lab {
    fn new(config: Config, buffer: usize, faults: Faults, seed: u64) -> Lab {
        let bed = Bed::with_key(config, (seed >> 8) as u8);
        let mut nic = Nic::new(Medium::Ip);
        let mut stack = StackConfig::new(HardwareAddress::Ip);
        stack.random_seed = seed;
        let mut iface = Interface::new(stack, &mut nic, Clock::from_micros(0));
        iface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::Ipv4(CONTAINER), 16)).unwrap());
        iface.routes_mut().add_default_ipv4_route(Ipv4Address::new(172, 17, 0, 1)).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let ring = || tcp::SocketBuffer::new(vec![0; buffer]);
        let handle = sockets.add(tcp::Socket::new(ring(), ring()));
        Lab { bed, nic, iface, sockets, handle, faults, random: seed | 1, held: [None, None] }
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn dice(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000
    }

    /// What becomes of a packet on one way of the link.
    fn link(&mut self, way: usize, packet: Vec<u8>) -> Vec<Vec<u8>> {
        if self.dice() < self.faults.lost {
            return Vec::new();
        }
        if self.dice() < self.faults.late && self.held[way].is_none() {
            self.held[way] = Some(packet);
            return Vec::new();
        }
        let mut arrives = vec![packet];
        if self.dice() < self.faults.doubled {
            arrives.push(arrives[0].clone());
        }
        arrives.extend(self.held[way].take());
        arrives
    }

    /// Runs everything until `done` says so.
    #[track_caller]
    fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Lab) -> bool) {
        let stop = self.bed.now + limit;
        loop {
            let clock = Clock::from_micros(i64::try_from(self.bed.now.micros()).unwrap());
            let mut moved = false;
            self.iface.poll(clock, &mut self.nic, &mut self.sockets);
            while let Some(packet) = self.nic.tx.pop_front() {
                moved = true;
                for packet in self.link(0, packet) {
                    let _ = self.bed.packet(&packet); // a duplicate may be refused
                }
            }
            self.bed.tcp.flush(self.bed.now, &mut self.bed.world);
            self.bed.events();
            for packet in self.bed.packets() {
                moved = true;
                for packet in self.link(1, packet) {
                    self.nic.rx.push_back(packet);
                }
            }
            if done(self) {
                return;
            }
            assert!(self.bed.now < stop, "not done in {limit:?}: {:?}", self.bed.rows());
            if moved {
                self.bed.pass(Duration::from_micros(50));
                continue;
            }
            // A packet that is late is not lost.
            for way in 0..2 {
                if let Some(packet) = self.held[way].take() {
                    match way {
                        0 => drop(self.bed.packet(&packet)),
                        _ => self.nic.rx.push_back(packet),
                    }
                }
            }
            let stack = self.iface.poll_at(clock, &self.sockets).map(|at| (at - clock).total_micros());
            let ours = self.bed.tcp.next_timeout().map(|at| at.since(self.bed.now).as_micros() as u64);
            let wait = [stack, ours].into_iter().flatten().min().unwrap_or(1_000_000);
            self.bed.pass(Duration::from_micros(wait.clamp(50, 1_000_000)));
        }
    }

    /// The container connects, and the host accepts.
    fn connect(&mut self) -> SocketId {
        let remote = (Ipv4Address::new(198, 51, 100, 5), 80);
        self.sockets.get_mut::<tcp::Socket>(self.handle).connect(self.iface.context(), remote, 40_000).unwrap();
        self.run(Duration::from_secs(60), |lab| {
            let waiting: Vec<SocketId> =
                lab.bed.world.sockets.iter().filter(|(_, s)| s.outcome.is_none()).map(|(id, _)| *id).collect();
            for id in waiting {
                lab.bed.decide(id, Ok(()));
            }
            lab.socket().state() == tcp::State::Established && lab.bed.states() == ["ESTABLISHED"]
        });
        *self.bed.world.sockets.keys().last().unwrap()
    }

    /// A client of the host comes by a published port.
    fn accept(&mut self) -> SocketId {
        self.socket().listen(80).unwrap();
        let (now, world) = (self.bed.now, &mut self.bed.world);
        self.bed
            .tcp
            .listen(5, end("0.0.0.0", 8080), end("172.17.0.2", 80), super::bed::NET, super::bed::PORT, now, world)
            .unwrap();
        let (id, listener) = self.bed.socket();
        listener.admits = Some(true);
        let client = Accepted { peer: end("203.0.113.9", 50_000), local: end("192.0.2.10", 8080) };
        listener.clients.push_back(Ok(client));
        self.bed.tcp.socket_ready(
            id,
            crate::core::socket::Ready { readable: true, ..Default::default() },
            now,
            &mut self.bed.world,
        );
        self.run(Duration::from_secs(60), |lab| lab.bed.states() == ["ESTABLISHED"]);
        *self.bed.world.sockets.keys().last().unwrap()
    }

    /// Sends both streams at once, with readers that take `room` bytes of the host's side in each round.
    fn exchange(&mut self, id: SocketId, up: &[u8], down: &[u8], room: usize) {
        let (mut sent, mut got) = (0, Vec::new());
        self.bed.world.sockets.get_mut(&id).unwrap().inbox.extend(down);
        self.bed.tcp.socket_ready(
            id,
            crate::core::socket::Ready { readable: true, ..Default::default() },
            self.bed.now,
            &mut self.bed.world,
        );
        self.run(Duration::from_secs(3600), |lab| {
            let socket = lab.socket();
            if socket.can_send() && sent < up.len() {
                sent += socket.send_slice(&up[sent..]).unwrap();
            }
            if socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
            }
            let sock = lab.bed.world.sockets.get_mut(&id).unwrap();
            sock.room = room;
            sock.outbox.len() >= up.len() && got.len() >= down.len()
        });
        assert!(got == down, "down, byte for byte");
        assert!(self.bed.world.sockets[&id].outbox == up, "up, byte for byte");
    }

    /// Both ends say that they are done; nothing is left.
    fn close(&mut self, id: SocketId, container_first: bool) {
        for step in 0..2 {
            if (step == 0) == container_first {
                self.socket().close();
                self.run(Duration::from_secs(600), |lab| lab.bed.world.sockets[&id].finished);
            } else {
                self.bed.world.sockets.get_mut(&id).unwrap().eof = true;
                self.run(Duration::from_secs(600), |lab| !lab.socket().may_recv());
            }
        }
        self.run(Duration::from_secs(600), |lab| lab.bed.tcp.is_empty());
        assert_eq!(self.bed.world.sockets[&id].closed, Some(Close::Orderly));
    }
}

/// A ramp whose period is a prime, so that a piece that is missing or doubled shows.
fn ramp(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[test]
fn streams_of_both_ways_are_exact_and_end_cleanly() {
    for container_first in [true, false] {
        let mut lab = Lab::new(Config::default(), 65_535, Faults::default(), 3);
        let id = lab.connect();
        lab.exchange(id, &ramp(1_000_000), &ramp(1_000_003), usize::MAX);
        assert_eq!(lab.bed.tcp.stats().retransmits, 0);
        lab.close(id, container_first);
        lab.bed.assert_empty();
    }
}

#[test]
fn published_port_reaches_the_container_with_the_clients_address() {
    let mut lab = Lab::new(Config::default(), 65_535, Faults::default(), 3);
    let id = lab.accept();
    let remote = lab.socket().remote_endpoint().unwrap();
    assert_eq!((remote.addr, remote.port), (IpAddress::v4(203, 0, 113, 9), 50_000));
    lab.exchange(id, &ramp(100_000), &ramp(100_003), usize::MAX);
    lab.close(id, false);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn streams_are_exact_over_any_link(
        lost in 0_u64..100,
        doubled in 0_u64..50,
        late in 0_u64..100,
        up in 0_usize..200_000,
        down in 0_usize..200_000,
        room in prop_oneof![Just(usize::MAX), 100_usize..20_000],
        published: bool,
        seed: u64,
    ) {
        let mut lab = Lab::new(Config::default(), 65_535, Faults::default(), seed);
        let id = if published { lab.accept() } else { lab.connect() };
        lab.faults = Faults { lost, doubled, late };
        lab.exchange(id, &ramp(up), &ramp(down), room);
        lab.close(id, seed & 2 == 0);
        prop_assert_eq!(lab.bed.tcp.memory(), (0, 0));
    }
}

#[test]
fn opening_survives_a_link_that_loses_every_third_packet() {
    for published in [false, true] {
        let mut lab = Lab::new(Config::default(), 65_535, Faults { lost: 333, ..Faults::default() }, 7);
        let id = if published { lab.accept() } else { lab.connect() };
        lab.exchange(id, &ramp(50_000), &ramp(50_003), usize::MAX);
    }
}

#[test]
fn slow_and_stopped_readers_cause_no_retransmission() {
    for (room, buffer) in [(700, 65_535), (usize::MAX, 3000)] {
        let mut lab = Lab::new(Config::default(), buffer, Faults::default(), 3);
        let id = lab.connect();
        lab.exchange(id, &ramp(400_000), &ramp(400_003), room);
        assert_eq!(lab.bed.tcp.stats().retransmits, 0);
    }
}

#[test]
fn reader_that_stops_for_an_hour_costs_no_retransmission() {
    let mut lab = Lab::new(Config::default(), 20_000, Faults::default(), 3);
    let id = lab.connect();
    let (up, down) = (ramp(1_000_000), ramp(400_000));
    let sock = lab.bed.world.sockets.get_mut(&id).unwrap();
    (sock.room, sock.eof) = (0, false);
    sock.inbox.extend(&down);
    let ready = crate::core::socket::Ready { readable: true, ..Default::default() };
    lab.bed.tcp.socket_ready(id, ready, lab.bed.now, &mut lab.bed.world);
    let mut sent = 0;
    let until = lab.bed.now + Duration::from_secs(3600);
    lab.run(Duration::from_secs(4000), |lab| {
        let socket = lab.socket();
        if socket.can_send() {
            sent += socket.send_slice(&up[sent..]).unwrap();
        }
        lab.bed.now > until
    });
    assert_eq!(lab.bed.states(), ["ESTABLISHED"]);
    assert!(sent < up.len(), "the window stopped it");
    assert_eq!(lab.bed.tcp.stats().retransmits, 0);
    let mut got = Vec::new();
    lab.bed.world.sockets.get_mut(&id).unwrap().room = usize::MAX;
    lab.run(Duration::from_secs(600), |lab| {
        let socket = lab.socket();
        if socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
        }
        got.len() >= down.len() && lab.bed.world.sockets[&id].outbox.len() >= sent
    });
    assert!(got == down, "down, byte for byte");
    assert!(lab.bed.world.sockets[&id].outbox == up[..sent], "up, byte for byte");
}
