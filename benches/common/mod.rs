//! What the benchmarks of the core share: packets, and a switch with containers and an uplink whose world does nothing.
//!
//! Nothing here depends on the machine: addresses, keys, times and orders are fixed.

// each benchmark uses its own part of this
#![allow(dead_code)]

use std::hint::black_box;

use pontoon::core::command::{
    Answer, Applied, Command, EndpointRequest, HostPort, MacChoice, NetworkConfig, PublicationRequest, Query,
    Transport, UplinkConfig,
};
use pontoon::core::conntrack;
use pontoon::core::datapath::{Config, Datapath};
use pontoon::core::port::PortId;
use pontoon::core::time::Instant;
use pontoon::core::world::{Sent, World};
use pontoon::frame::{BUFFER_LEN, Caps, FrameOut, HEADROOM};
use pontoon::wire::addr::Addr;
use pontoon::wire::ip::{ETH_LEN, ethertype, ipv4, proto, tcp, udp};
use pontoon::wire::mac::Mac;
use pontoon::wire::vnet::{self, VnetHeader, gso};
use pontoon::wire::{checksum, put16, put32};

/// The switch's own address on the uplink.
pub const UPLINK: Addr = Addr::v4([192, 0, 2, 2]);
/// The published port, of the first container.
pub const PUBLISHED: u16 = 8080;
/// 0..n in an order that no prefetcher follows, the same each time.
pub fn shuffled(n: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..n).collect();
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..all.len()).rev() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        all.swap(i, (x % (i as u64 + 1)) as usize);
    }
    all
}

/// How a packet's transport checksum comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// Computed.
    Full,
    /// The pseudo-header's sum; virtio says that the rest is to be done.
    Partial,
    /// UDP without one.
    Absent,
}

/// A UDP or TCP packet over IPv4, without options.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Source and destination MAC address; `None`: it begins with its IP header.
    pub eth: Option<(Mac, Mac)>,
    pub src: (Addr, u16),
    pub dst: (Addr, u16),
    pub protocol: u8,
    /// Of TCP, and the next two.
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    /// Bytes behind the transport header.
    pub payload: usize,
    pub sum: Sum,
    /// Segmentation that is still to be done: bytes of payload of each segment. 0: none.
    pub segment: u16,
}

impl Packet {
    /// A UDP datagram without payload whose checksum is partial, as a container's kernel sends it.
    pub fn udp(src: (Addr, u16), dst: (Addr, u16)) -> Packet {
        Packet {
            eth: None,
            src,
            dst,
            protocol: proto::UDP,
            flags: 0,
            seq: 0,
            ack: 0,
            payload: 0,
            sum: Sum::Partial,
            segment: 0,
        }
    }

    /// The same, as a TCP segment.
    pub fn tcp(src: (Addr, u16), dst: (Addr, u16), flags: u8) -> Packet {
        Packet { protocol: proto::TCP, flags, ..Packet::udp(src, dst) }
    }

    /// On an Ethernet segment, from one station to another.
    pub fn between(self, src: Mac, dst: Mac) -> Packet {
        Packet { eth: Some((src, dst)), ..self }
    }

    /// Writes the packet at [`HEADROOM`] and its virtio header before it; its length.
    pub fn write(&self, buf: &mut [u8]) -> usize {
        let is_tcp = self.protocol == proto::TCP;
        let (header, field) = if is_tcp { (tcp::MIN_LEN, tcp::CHECKSUM) } else { (udp::LEN, udp::CHECKSUM) };
        let l3_at = if self.eth.is_some() { ETH_LEN } else { 0 };
        let l4_len = header + self.payload;
        let frame = &mut buf[HEADROOM..];
        if let Some((src, dst)) = self.eth {
            frame[..6].copy_from_slice(&dst.0);
            frame[6..12].copy_from_slice(&src.0);
            put16(frame, 12, ethertype::IPV4);
        }
        let l3 = &mut frame[l3_at..];
        l3[..ipv4::MIN_LEN].fill(0);
        l3[ipv4::VERSION_IHL] = 0x45;
        put16(l3, ipv4::TOTAL_LEN, (ipv4::MIN_LEN + l4_len) as u16);
        l3[ipv4::TTL] = 64;
        l3[ipv4::PROTO] = self.protocol;
        l3[ipv4::SRC..ipv4::SRC + 4].copy_from_slice(self.src.0.wire_bytes());
        l3[ipv4::DST..ipv4::DST + 4].copy_from_slice(self.dst.0.wire_bytes());
        let sum = !checksum::sum(&l3[..ipv4::MIN_LEN]);
        put16(l3, ipv4::CHECKSUM, sum);
        let l4 = &mut l3[ipv4::MIN_LEN..ipv4::MIN_LEN + l4_len];
        l4[..header].fill(0);
        put16(l4, 0, self.src.1);
        put16(l4, 2, self.dst.1);
        if is_tcp {
            l4[tcp::DATA_OFFSET] = 5 << 4;
            l4[tcp::FLAGS] = self.flags;
            put32(l4, tcp::SEQ, self.seq);
            put32(l4, tcp::SEQ + 4, self.ack);
            put16(l4, 14, 0xff00); // a window
        } else {
            put16(l4, udp::LENGTH, l4_len as u16);
        }
        let mut header = VnetHeader::default();
        if self.sum != Sum::Absent {
            let pseudo = checksum::pseudo_header(self.src.0, self.dst.0, self.protocol, l4_len as u32);
            put16(l4, field, pseudo);
            if self.sum == Sum::Full {
                let whole = !checksum::sum(l4);
                put16(l4, field, whole);
            } else {
                header.flags = vnet::NEEDS_CSUM;
                header.csum_start = (l3_at + ipv4::MIN_LEN) as u16;
                header.csum_offset = field as u16;
            }
        }
        if self.segment > 0 {
            header.gso_type = if is_tcp { gso::TCPV4 } else { gso::UDP_L4 };
            header.gso_size = self.segment;
        }
        header.write(&mut buf[HEADROOM - vnet::LEN..]);
        l3_at + ipv4::MIN_LEN + l4_len
    }
}

/// Takes every frame, keeps none, and remembers how many there were and where the last one went.
#[derive(Default)]
pub struct Nothing {
    pub sent: u64,
    pub last: Option<PortId>,
}

impl World for Nothing {
    fn transmit(&mut self, port: PortId, frame: FrameOut<'_>) -> Sent {
        black_box(frame.with_vnet());
        self.sent += 1;
        self.last = Some(port);
        Sent::Ok
    }
}

/// A container.
#[derive(Clone, Copy)]
pub struct Container {
    pub port: PortId,
    pub mac: Mac,
    pub ip: Addr,
}

/// A switch with one network of containers, and an uplink.
pub struct Bed {
    pub datapath: Datapath,
    pub containers: Vec<Container>,
    pub gateway: Mac,
    pub uplink: PortId,
    pub world: Nothing,
    pub buf: Vec<u8>,
}

impl Bed {
    /// With room for `flows`, all of which one container may have.
    pub fn new(containers: u32, flows: u32) -> Bed {
        let config = Config {
            conntrack: conntrack::Config { limit: flows, quota: Some(flows), ..conntrack::Config::default() },
            ..Config::default()
        };
        let now = Instant::from_secs(1);
        let mut world = Nothing::default();
        let mut datapath = Datapath::new(config, [7; 32], now);
        let mut network = NetworkConfig::named("default");
        network.subnet = "172.17.0.0/16".parse().ok();
        network.gateway = Some(Addr::v4([172, 17, 0, 1]));
        network.flood_rate = u32::MAX; // a flood is measured, not limited
        let mut apply = |command| datapath.apply(command, now, &mut world).expect("a sound command");
        apply(Command::AddNetwork(network));
        let config = UplinkConfig { address: UPLINK, mtu: 1500, mss_clamp: false };
        let Applied::Uplink(uplink) = apply(Command::SetUplink(config)) else {
            unreachable!("the first uplink is given a port")
        };
        apply(Command::Open { port: uplink, caps: Caps::FULL });
        let containers = (0..containers)
            .map(|n| {
                let request = EndpointRequest {
                    name: format!("c{n}"),
                    network: "default".to_owned(),
                    ifname: "eth0".to_owned(),
                    ip: None,
                    mac: MacChoice::FromIp,
                    isolated: false,
                };
                let Applied::Reserved(endpoint) = apply(Command::Reserve(request)) else { unreachable!("reserved") };
                apply(Command::Open { port: endpoint.port, caps: Caps::FULL });
                let ip = endpoint.ip.expect("a subnet has addresses").addr();
                Container { port: endpoint.port, mac: endpoint.mac, ip }
            })
            .collect();
        let host_port = HostPort::Exactly(PUBLISHED);
        let port = PublicationRequest { host_ip: None, host_port, container_port: 80, proto: Transport::Tcp };
        apply(Command::Publish { name: "c0".to_owned(), ifname: None, ports: vec![port] });
        let Answer::Networks(networks) = datapath.query(&Query::Networks, now) else {
            unreachable!("networks were asked for")
        };
        Bed { datapath, containers, gateway: networks[0].gateway_mac, uplink, world, buf: vec![0; BUFFER_LEN] }
    }

    /// Writes a packet into the buffer; its length.
    pub fn write(&mut self, packet: &Packet) -> usize {
        packet.write(&mut self.buf)
    }

    /// The packet in the buffer comes by `port`.
    #[inline]
    pub fn input(&mut self, port: PortId, len: usize, now: Instant) {
        self.datapath.input(port, &mut self.buf, len, now, &mut self.world);
    }

    /// The first packet of the nth flow to the world, and the port that it comes by. Every container has a range of
    /// destination ports of its own, so that masquerade keeps the source port.
    pub fn nth(&self, n: u32, protocol: u8, flags: u8) -> (PortId, Packet) {
        let containers = self.containers.len() as u32;
        let container = self.containers[(n % containers) as usize];
        let nth = n / containers;
        let [_, b, c, d] = (nth / 50_000).to_be_bytes();
        let server = Addr::v4([198, 18 | b, c, d]);
        let sport = 1024 + (nth % 50_000) as u16 + ((n % containers) as u16 * 7) % 13_000;
        let (src, dst) = ((container.ip, sport), (server, 5000 + (n % containers) as u16));
        let packet = if protocol == proto::TCP { Packet::tcp(src, dst, flags) } else { Packet::udp(src, dst) };
        (container.port, packet.between(container.mac, self.gateway))
    }

    /// Sends the first packet of the nth flow to the world.
    pub fn send(&mut self, n: u32, protocol: u8, flags: u8, now: Instant) {
        let (port, packet) = self.nth(n, protocol, flags);
        let len = self.write(&packet);
        self.input(port, len, now);
    }
}
