//! Whole TCP/IP stacks as containers and as a server in the world, under the virtual clock, over links that lose frames.

use std::time::Duration;

use smoltcp::iface::{Config as StackConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, Medium};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr, IpEndpoint, Ipv4Address,
};

use pontoon::core::command::Transport;
use pontoon::core::port::PortId;
use pontoon::frame::Caps;
use pontoon::wire::vnet::VnetHeader;

use crate::net::{Host, Net, Out, UP};
use crate::nic::Nic;
use crate::packet::ip;

const SERVER: &str = "198.51.100.5";

struct Stack {
    port: PortId,
    nic: Nic,
    iface: Interface,
    sockets: SocketSet<'static>,
}

impl Stack {
    fn new(port: PortId, hardware: HardwareAddress, address: &str, bits: u8, gateway: &str, now: Clock) -> Stack {
        let medium = if hardware == HardwareAddress::Ip { Medium::Ip } else { Medium::Ethernet };
        let mut nic = Nic::new(medium);
        let mut config = StackConfig::new(hardware);
        config.random_seed = u64::from(port.0) + 7;
        let mut iface = Interface::new(config, &mut nic, now);
        iface.update_ip_addrs(|all| all.push(IpCidr::new(IpAddress::Ipv4(ip(address)), bits)).unwrap());
        iface.routes_mut().add_default_ipv4_route(ip(gateway)).unwrap();
        Stack { port, nic, iface, sockets: SocketSet::new(Vec::new()) }
    }

    fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65_535]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.tcp();
        self.sockets.get_mut::<tcp::Socket>(handle).listen(port).unwrap();
        handle
    }

    fn connect(&mut self, to: (&str, u16), from: u16) -> SocketHandle {
        let handle = self.tcp();
        let remote: (Ipv4Address, u16) = (ip(to.0), to.1);
        self.sockets.get_mut::<tcp::Socket>(handle).connect(self.iface.context(), remote, from).unwrap();
        handle
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }
}

/// Containers and a server around a datapath.
struct Lab {
    net: Net,
    stacks: Vec<Stack>,
    /// Frames of a thousand that are lost, each way.
    loss: u64,
    random: u64,
}

impl Lab {
    /// `containers` of them as c1, c2, ...; the last stack is the server in the world.
    fn new(containers: usize, loss: u64) -> Lab {
        let mut net = Net::new();
        let hosts: Vec<Host> = (0..containers)
            .map(|n| {
                // Every second port takes no offloads; the stacks ask for none either way.
                let request = net.request("default");
                net.attach_as(request, if n % 2 == 0 { Caps::FULL } else { Caps::PLAIN })
            })
            .collect();
        net.quiet();
        let now = clock(&net);
        let uplink = net.uplink.unwrap();
        let mut stacks: Vec<Stack> = hosts
            .iter()
            .map(|h| {
                let hardware = HardwareAddress::Ethernet(EthernetAddress(h.mac.0));
                Stack::new(h.port, hardware, &h.ip.unwrap().to_string(), 16, "172.17.0.1", now)
            })
            .collect();
        stacks.push(Stack::new(uplink, HardwareAddress::Ip, SERVER, 24, "198.51.100.1", now));
        Lab { net, stacks, loss, random: 0x9e37_79b9_7f4a_7c15 }
    }

    fn server(&mut self) -> &mut Stack {
        self.stacks.last_mut().unwrap()
    }

    fn lost(&mut self) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < self.loss
    }

    /// Runs stacks, frames and timers until `done` says so.
    #[track_caller]
    fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Lab) -> bool) {
        let end = self.net.now + limit;
        loop {
            let now = clock(&self.net);
            let mut moved = false;
            for at in 0..self.stacks.len() {
                let stack = &mut self.stacks[at];
                stack.iface.poll(now, &mut stack.nic, &mut stack.sockets);
                let port = stack.port;
                while let Some(frame) = self.stacks[at].nic.tx.pop_front() {
                    moved = true;
                    if !self.lost() {
                        self.net.input(port, VnetHeader::default(), &frame);
                    }
                }
            }
            for at in 0..self.stacks.len() {
                for out in self.net.received(self.stacks[at].port) {
                    moved = true;
                    check(&out);
                    if !self.lost() {
                        self.stacks[at].nic.rx.push_back(out.bytes);
                    }
                }
            }
            if done(self) {
                return;
            }
            if moved {
                // What a stack may send now depends on what was read or written since it was asked.
                self.net.advance(Duration::from_micros(10));
                continue;
            }
            let wake = self.stacks.iter_mut().filter_map(|s| s.iface.poll_at(now, &s.sockets)).min();
            let wait = wake.map_or(1000, |w| (w - now).total_millis().clamp(1, 1000));
            self.net.advance(Duration::from_millis(wait));
            assert!(self.net.now < end, "not done in {limit:?}");
        }
    }

    /// Sends `data` from one socket to another, both connected; checks every byte.
    #[track_caller]
    fn transfer(&mut self, from: (usize, SocketHandle), to: (usize, SocketHandle), data: &[u8]) {
        let (mut sent, mut got) = (0, Vec::new());
        self.run(Duration::from_secs(600), |lab| {
            let socket = lab.stacks[from.0].socket(from.1);
            if socket.can_send() && sent < data.len() {
                sent += socket.send_slice(&data[sent..]).unwrap();
            }
            let socket = lab.stacks[to.0].socket(to.1);
            if socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), got.extend_from_slice(bytes))).unwrap();
            }
            got.len() >= data.len()
        });
        assert!(got == data, "byte for byte");
    }

    #[track_caller]
    fn established(&mut self, sockets: [(usize, SocketHandle); 2]) {
        self.run(Duration::from_secs(60), |lab| {
            sockets.iter().all(|(at, handle)| lab.stacks[*at].socket(*handle).state() == tcp::State::Established)
        });
    }

    fn states(&mut self) -> Vec<&'static str> {
        self.net.flows().iter().map(|f| f.state).collect()
    }
}

fn clock(net: &Net) -> Clock {
    Clock::from_micros(i64::try_from(net.now.micros()).unwrap())
}

/// Sums of what the stacks would check themselves, and where it claims to come from.
fn check(out: &Out) {
    if out.is_ip() {
        let seen = out.ip();
        assert!(out.ethernet || seen.src.octets()[..2] != [172, 17], "{seen:02x?}");
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| ((n / 251) ^ n) as u8).collect()
}

// S08, S65, R08, R30
#[test]
fn stack_finds_its_gateway_by_arp_and_pings_it() {
    let mut lab = Lab::new(1, 0);
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let mut socket = icmp::Socket::new(buffer(), buffer());
    socket.bind(icmp::Endpoint::Ident(0x22b)).unwrap();
    let stack = &mut lab.stacks[0];
    let handle = stack.sockets.add(socket);
    let checksums = stack.nic.capabilities().checksum;
    let echo = Icmpv4Repr::EchoRequest { ident: 0x22b, seq_no: 1, data: b"hello gateway" };
    let socket = stack.sockets.get_mut::<icmp::Socket>(handle);
    let bytes = socket.send(echo.buffer_len(), IpAddress::Ipv4(ip("172.17.0.1"))).unwrap();
    echo.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksums);
    lab.run(Duration::from_secs(2), |lab| lab.stacks[0].sockets.get_mut::<icmp::Socket>(handle).can_recv());
    let (bytes, from) = lab.stacks[0].sockets.get_mut::<icmp::Socket>(handle).recv().unwrap();
    assert_eq!((from, &bytes[8..]), (IpAddress::Ipv4(ip("172.17.0.1")), &b"hello gateway"[..]));
}

// R27, U1, X02, V1
#[test]
fn tcp_through_masquerade_opens_carries_both_ways_and_closes() {
    let mut lab = Lab::new(1, 0);
    let listener = lab.server().listen(80);
    let client = lab.stacks[0].connect((SERVER, 80), 40_000);
    lab.established([(0, client), (1, listener)]);
    let peer = lab.server().socket(listener).remote_endpoint();
    assert_eq!(peer, Some(IpEndpoint::new(IpAddress::Ipv4(ip(UP)), 40_000)), "what the server sees");
    lab.transfer((0, client), (1, listener), &pattern(200_000));
    lab.transfer((1, listener), (0, client), &pattern(200_000));
    assert_eq!(lab.states(), ["ESTABLISHED"]);
    lab.stacks[0].socket(client).close();
    lab.run(Duration::from_secs(5), |lab| lab.server().socket(listener).state() == tcp::State::CloseWait);
    assert!(["FIN_WAIT", "CLOSE_WAIT"].contains(&lab.states()[0]), "{:?}", lab.states());
    lab.server().socket(listener).close();
    lab.run(Duration::from_secs(5), |lab| lab.stacks[0].socket(client).state() == tcp::State::TimeWait);
    lab.run(Duration::from_secs(5), |lab| lab.states() == ["TIME_WAIT"]);
    lab.net.secs(121);
    assert!(lab.net.flows().is_empty());
}

// S15, S17, Q01
#[test]
fn tcp_to_a_published_port_keeps_the_clients_address() {
    let mut lab = Lab::new(2, 0);
    lab.net.publish("c2", Transport::Tcp, 8080, 80);
    let listener = lab.stacks[1].listen(80);
    let client = lab.server().connect((UP, 8080), 51_000);
    lab.established([(2, client), (1, listener)]);
    let peer = lab.stacks[1].socket(listener).remote_endpoint();
    assert_eq!(peer, Some(IpEndpoint::new(IpAddress::Ipv4(ip(SERVER)), 51_000)));
    lab.transfer((1, listener), (2, client), &pattern(100_000));
    lab.transfer((2, client), (1, listener), &pattern(1000));
}

// S40, U9
#[test]
fn tcp_by_hairpin_reaches_a_peer_with_a_plain_port() {
    let mut lab = Lab::new(2, 0);
    lab.net.publish("c2", Transport::Tcp, 8080, 80);
    let listener = lab.stacks[1].listen(80);
    let client = lab.stacks[0].connect((UP, 8080), 40_000);
    lab.established([(0, client), (1, listener)]);
    let peer = lab.stacks[1].socket(listener).remote_endpoint().unwrap();
    assert_eq!(peer.addr, IpAddress::Ipv4(ip("172.17.0.1")));
    lab.transfer((0, client), (1, listener), &pattern(50_000));
}

// S63, S50
#[test]
fn tcp_between_containers_crosses_the_switch_alone() {
    let mut lab = Lab::new(2, 0);
    let listener = lab.stacks[1].listen(80);
    let client = lab.stacks[0].connect(("172.17.0.3", 80), 40_000);
    lab.established([(0, client), (1, listener)]);
    lab.transfer((0, client), (1, listener), &pattern(50_000));
    assert!(lab.net.flows().is_empty());
}

// R05, X09, S23
#[test]
fn refused_connections_are_refused_at_once_and_leave_nothing() {
    let mut lab = Lab::new(1, 0);
    for (to, from) in [((SERVER, 81), 40_000), (("172.17.0.1", 81), 40_001), ((UP, 81), 40_002)] {
        let client = lab.stacks[0].connect(to, from);
        lab.run(Duration::from_secs(1), |lab| lab.stacks[0].socket(client).state() == tcp::State::Closed);
    }
    assert!(lab.net.flows().is_empty());
}

// X03, Q02, R27
#[test]
fn megabyte_with_five_percent_loss_arrives_byte_for_byte() {
    let mut lab = Lab::new(1, 50);
    let listener = lab.server().listen(80);
    let client = lab.stacks[0].connect((SERVER, 80), 40_000);
    lab.established([(0, client), (1, listener)]);
    lab.transfer((1, listener), (0, client), &pattern(1 << 20));
    let flow = lab.net.flow();
    assert!(flow.assured && flow.reply.bytes > 1 << 20, "{flow:?}");
    let uplink = lab.net.uplink.unwrap();
    assert_eq!(lab.net.dropped(uplink, "invalid-state"), 0);
}

// X07
#[test]
fn connection_after_connection_from_one_port_works_within_time_wait() {
    let mut lab = Lab::new(1, 0);
    for _ in 0..3 {
        let listener = lab.server().listen(80);
        let client = lab.stacks[0].connect((SERVER, 80), 40_000);
        lab.established([(0, client), (1, listener)]);
        lab.transfer((0, client), (1, listener), b"again");
        lab.server().socket(listener).close();
        lab.run(Duration::from_secs(5), |lab| lab.stacks[0].socket(client).state() == tcp::State::CloseWait);
        lab.stacks[0].socket(client).close();
        lab.run(Duration::from_secs(5), |lab| lab.stacks[0].socket(client).state() == tcp::State::Closed);
        lab.run(Duration::from_secs(30), |lab| lab.server().socket(listener).state() == tcp::State::Closed);
    }
}

// S15, U6
#[test]
fn udp_goes_out_through_masquerade_and_in_by_a_published_port() {
    let mut lab = Lab::new(1, 0);
    lab.net.publish("c1", Transport::Udp, 53, 5353);
    let bound = |stack: &mut Stack, port: u16| {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 8192]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        stack.sockets.add(socket)
    };
    let inside = bound(&mut lab.stacks[0], 5353);
    let outside = bound(lab.server(), 7000);
    let to = |addr: &str, port| IpEndpoint::new(IpAddress::Ipv4(ip(addr)), port);
    lab.server().sockets.get_mut::<udp::Socket>(outside).send_slice(b"question", to(UP, 53)).unwrap();
    lab.run(Duration::from_secs(2), |lab| lab.stacks[0].sockets.get_mut::<udp::Socket>(inside).can_recv());
    let socket = lab.stacks[0].sockets.get_mut::<udp::Socket>(inside);
    let (bytes, from) = socket.recv().unwrap();
    assert_eq!((bytes, from.endpoint), (&b"question"[..], to(SERVER, 7000)));
    socket.send_slice(b"answer", from.endpoint).unwrap();
    lab.run(Duration::from_secs(2), |lab| lab.server().sockets.get_mut::<udp::Socket>(outside).can_recv());
    let (bytes, from) = lab.server().sockets.get_mut::<udp::Socket>(outside).recv().unwrap();
    assert_eq!((bytes, from.endpoint), (&b"answer"[..], to(UP, 53)));
    let fresh = bound(&mut lab.stacks[0], 4000);
    lab.stacks[0].sockets.get_mut::<udp::Socket>(fresh).send_slice(b"out", to(SERVER, 7000)).unwrap();
    lab.run(Duration::from_secs(2), |lab| lab.server().sockets.get_mut::<udp::Socket>(outside).can_recv());
    let (_, from) = lab.server().sockets.get_mut::<udp::Socket>(outside).recv().unwrap();
    assert_eq!(from.endpoint, to(UP, 4000));
}
