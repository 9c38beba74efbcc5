//! The test bed: containers, a host, a LAN and a server, and the contract of what stands between them.
//!
//! ```text
//!   c1 172.17.0.2 --+
//!   c2 172.17.0.3 --+-- switch 172.17.0.1 - NAT - 192.168.2.112 --- lan0 192.168.2.1, .5 [x] 198.51.100.1 --- 198.51.100.5, .6 [s]
//!   c3 172.17.0.4 --+   \_______________ the device under test _______/
//! ```
//! `x` is the LAN: its router (.1) and a host on it (.5). Its `lan0` is an Ethernet with the kernel as device under test and the kernel's
//! side of the TUN with pontoon; c1..c3, x and s cannot tell which of the two they have before them.

use std::cell::OnceCell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ns::Netns;
use super::packet::{BROADCAST, Mac, Names, Packet, arp, frame};
use super::wire::{View, Wire};

pub const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
pub const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
pub const C3: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 4);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
pub const UP: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 112);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 1);
pub const LAN_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 5);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);
pub const SERVER2: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 6);
/// An address of the server's network that nobody has.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);

/// Name, address, MAC (02:42 and the address, S33) of every container.
pub const CONTAINERS: [(&str, Ipv4Addr, Mac); 3] =
    [("c1", C1, [2, 0x42, 172, 17, 0, 2]), ("c2", C2, [2, 0x42, 172, 17, 0, 3]), ("c3", C3, [2, 0x42, 172, 17, 0, 4])];

pub const fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// How the device under test is set up.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Containers of the network may talk to each other.
    pub icc: bool,
    pub masquerade: bool,
    /// Off: the network is an island; nothing is forwarded into it or out of it.
    pub forwarding: bool,
    /// docker's `userland-proxy=false`: published ports are translated for containers of the same network too.
    pub hairpin: bool,
    /// Off: there is no uplink and no route beyond the network.
    pub uplink: bool,
    pub uplink_mtu: u16,
}

impl Settings {
    pub const DEFAULT: Self =
        Self { icc: true, masquerade: true, forwarding: true, hairpin: false, uplink: true, uplink_mtu: 1500 };
}

#[derive(Clone, Copy)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// `-p HOST:CONTAINER/PROTOCOL` of a container.
#[derive(Clone, Copy)]
pub struct Publish {
    pub container: &'static str,
    pub host: u16,
    pub port: u16,
    pub protocol: Protocol,
}

/// A device under test: whatever bridges, routes and translates between the containers and the LAN.
pub trait Dut {
    fn bed(&self) -> &Bed;
    fn publish(&self, publish: Publish);
    /// Its flows, in the words of `conntrack -L`.
    fn flows(&self) -> String;
}

/// The namespaces of one case, with everything configured that is not the device under test's business.
pub struct Bed {
    /// c1, c2, c3.
    containers: [Netns; 3],
    /// The docker host.
    pub h: Netns,
    pub x: Netns,
    pub s: Netns,
    /// A directory of this case's own.
    pub directory: PathBuf,
    gateway: OnceCell<Mac>,
}

impl Bed {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let case = NEXT.fetch_add(1, Ordering::Relaxed);
        let netns = |name: &str| Netns::new(&format!("{name}-{case}"));
        let directory = PathBuf::from(format!("/run/case-{case}"));
        fs::create_dir(&directory).expect("/run is a tmpfs of our own");
        let bed = Self {
            containers: CONTAINERS.map(|(name, ..)| netns(name)),
            h: netns("h"),
            x: netns("x"),
            s: netns("s"),
            directory,
            gateway: OnceCell::new(),
        };
        bed.x.sysctl("ipv4.ip_forward", "1");
        bed.x.ip(&format!(
            "link add s0 type veth peer name eth0 netns {s}\n\
             addr add 198.51.100.1/24 dev s0\n\
             link set s0 up",
            s = bed.s.name(),
        ));
        bed.s.ip(&format!(
            "addr add {SERVER}/24 dev eth0\n\
             addr add {SERVER2}/24 dev eth0\n\
             link set eth0 up\n\
             route add default via 198.51.100.1"
        ));
        bed
    }

    pub fn container(&self, name: &str) -> &Netns {
        &self.containers[CONTAINERS.iter().position(|(known, ..)| *known == name).expect("c1, c2 or c3")]
    }

    pub fn c1(&self) -> &Netns {
        &self.containers[0]
    }

    pub fn c2(&self) -> &Netns {
        &self.containers[1]
    }

    pub fn c3(&self) -> &Netns {
        &self.containers[2]
    }

    /// The wire of a container, `c1` to `c3`: what its eth0 receives, and a way to send from it.
    pub fn wire(&self, container: &str) -> Wire {
        self.wire_of(container, self.names())
    }

    fn wire_of(&self, container: &str, names: Names) -> Wire {
        Wire::open(self.container(container), "eth0", View::Incoming, names)
    }

    /// The uplink as the LAN sees it: packets both ways.
    pub fn uplink(&self) -> Wire {
        Wire::open(&self.x, "lan0", View::Packets, Names::default())
    }

    /// The packets that the server receives and sends.
    pub fn server(&self) -> Wire {
        Wire::open(&self.s, "eth0", View::Packets, Names::default())
    }

    pub fn mac(&self, container: &str) -> Mac {
        CONTAINERS.iter().find(|(name, ..)| *name == container).expect("c1, c2 or c3").2
    }

    /// The gateway's MAC, by an ARP request from c1.
    pub fn gateway_mac(&self) -> Mac {
        *self.gateway.get_or_init(|| {
            let wire = self.wire_of("c1", container_names());
            wire.send(&frame(self.mac("c1"), BROADCAST, 0x0806, &arp(1, (self.mac("c1"), C1), ([0; 6], GATEWAY))));
            let reply = wire.wait(&["arp 172.17.0.1 is-at"]).expect("the gateway answers for its address");
            reply.bytes[6..12].try_into().expect("six bytes")
        })
    }

    fn names(&self) -> Names {
        let mut names = container_names();
        names.0.push((self.gateway_mac(), "gw".to_owned()));
        names
    }

    /// Sends a packet from a container to its gateway, as a frame made by hand.
    pub fn send_out(&self, wire: &Wire, container: &str, packet: &Packet) {
        wire.send(&packet.frame(self.mac(container), self.gateway_mac()));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn container_names() -> Names {
    Names(CONTAINERS.iter().map(|(name, _, mac)| (*mac, (*name).to_owned())).collect())
}

/// What was observed, line by line; two devices are alike when their outcomes are equal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome(pub Vec<String>);

impl Outcome {
    pub fn note(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }
}

/// Notes a formatted line.
macro_rules! note {
    ($outcome:expr, $($format:tt)+) => { $outcome.note(format!($($format)+)) };
}
pub(crate) use note;
