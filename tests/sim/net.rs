//! A network in memory: the datapath, a virtual clock, and a record of every transmission.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use pontoon::core::command::{
    Answer, Applied, Command, CommandError, EndpointRequest, FlowView, HostPort, MacChoice, NetworkConfig, PortView,
    PublicationRequest, Query, SocketUplinkConfig, StatsView, Transport, UplinkConfig,
};
use pontoon::core::datapath::{Config, Datapath};
use pontoon::core::flush::{Progress, Unfinished};
use pontoon::core::port::PortId;
use pontoon::core::socket::{Ready, Sockets};
use pontoon::core::time::Instant;
use pontoon::core::world::{Point, Sent, World};
use pontoon::frame::{BUFFER_LEN, Caps, FrameOut, HEADROOM, Link};
use pontoon::wire::addr::Addr;
use pontoon::wire::mac::Mac;
use pontoon::wire::vnet::{self, VnetHeader};

use crate::host;
use crate::packet::{self, Packet, Seen, frame};

/// The uplink's address.
pub const UP: &str = "192.0.2.112";

/// One transmission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    pub vnet: VnetHeader,
    pub bytes: Vec<u8>,
    /// Does it begin with an Ethernet header?
    pub ethernet: bool,
}

impl Out {
    pub fn dst(&self) -> Mac {
        Mac::read(&self.bytes)
    }

    pub fn src(&self) -> Mac {
        Mac::read(&self.bytes[6..])
    }

    pub fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.bytes[12], self.bytes[13]])
    }

    pub fn is_ip(&self) -> bool {
        !self.ethernet || self.ethertype() == 0x0800
    }

    pub fn is_arp(&self) -> bool {
        self.ethernet && self.ethertype() == 0x0806
    }

    /// Operation, sender and target of an ARP message.
    pub fn arp(&self) -> (u8, String, String) {
        assert!(self.is_arp());
        let a = &self.bytes[14..];
        let text = |at: usize| Addr::read4(a, at).to_string();
        (a[7], text(14), text(24))
    }

    /// Reads the IPv4 packet and checks all of its sums.
    pub fn ip(&self) -> Seen {
        assert!(self.is_ip(), "{:02x?}", self.bytes);
        let seen = Seen::read(if self.ethernet { &self.bytes[14..] } else { &self.bytes });
        if !seen.is_fragment() {
            let partial = self.vnet.flags & vnet::NEEDS_CSUM != 0;
            assert!(seen.checksum_is_sound(partial), "transport checksum of {seen:02x?}");
        }
        seen
    }
}

/// What the world saw.
#[derive(Default)]
pub struct Recorder {
    out: HashMap<PortId, VecDeque<Out>>,
    links: HashMap<PortId, Link>,
    /// What a write to a port answers, if not `Ok`.
    pub answers: HashMap<PortId, Sent>,
    /// What the next writes to a port answer, before those.
    pub next: HashMap<PortId, VecDeque<Sent>>,
    pub capture: bool,
    pub points: Vec<(Point, Vec<u8>)>,
    /// The host's sockets, if there are any.
    pub sockets: Option<host::Host>,
    /// Are short frames taken to be written later, as the real event loop does?
    patient: bool,
    waiting: VecDeque<(PortId, Vec<u8>)>,
    /// What became of those that were.
    outcomes: Vec<Sent>,
}

impl Recorder {
    fn write(&mut self, port: PortId, frame: FrameOut<'_>) -> Sent {
        let next = self.next.get_mut(&port).and_then(VecDeque::pop_front);
        if let Some(answer) = next.or_else(|| self.answers.get(&port).copied()) {
            return answer;
        }
        let ethernet = self.links.get(&port) != Some(&Link::Ip);
        let out = Out { vnet: frame.vnet(), bytes: frame.packet().to_vec(), ethernet };
        self.out.entry(port).or_default().push_back(out);
        Sent::Ok
    }

    fn write_waiting(&mut self) {
        while let Some((port, bytes)) = self.waiting.pop_front() {
            let sent = self.write(port, FrameOut::from_bytes(&bytes));
            self.outcomes.push(sent);
        }
    }
}

impl World for Recorder {
    fn transmit(&mut self, port: PortId, frame: FrameOut<'_>) -> Sent {
        self.write_waiting(); // no frame overtakes another
        self.write(port, frame)
    }

    fn defer(&mut self, port: PortId, frame: FrameOut<'_>) -> bool {
        let take = self.patient && frame.with_vnet().len() <= 2048;
        if take {
            self.waiting.push_back((port, frame.with_vnet().to_vec()));
        }
        take
    }

    fn sockets(&mut self) -> Option<&mut dyn Sockets> {
        self.sockets.as_mut().map(|sockets| sockets as &mut dyn Sockets)
    }

    fn capturing(&self) -> bool {
        self.capture
    }

    fn capture(&mut self, point: Point, _port: PortId, frame: FrameOut<'_>, _link: Link) {
        self.points.push((point, frame.packet().to_vec()));
    }
}

/// A container on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    pub port: PortId,
    pub mac: Mac,
    pub ip: Option<Addr>,
}

pub struct Net {
    pub dp: Datapath,
    pub world: Recorder,
    pub now: Instant,
    pub uplink: Option<PortId>,
    buf: Vec<u8>,
    names: usize,
    batching: bool,
}

/// A network's configuration with a subnet whose first host is the gateway.
pub fn network(name: &str, subnet: &str) -> NetworkConfig {
    let subnet: pontoon::wire::addr::Cidr = subnet.parse().unwrap();
    let first = subnet.network().addr().low32() + 1;
    let gateway = Some(Addr::v4(first.to_be_bytes()));
    NetworkConfig { subnet: Some(subnet), gateway, ..NetworkConfig::named(name) }
}

pub fn publication(proto: Transport, host_port: u16, container_port: u16) -> PublicationRequest {
    PublicationRequest { proto, host_ip: None, host_port: HostPort::Exactly(host_port), container_port }
}

/// A publication that leaves its port of the host to the switch.
pub fn chosen(proto: Transport, container_port: u16) -> PublicationRequest {
    PublicationRequest { host_port: HostPort::Random, ..publication(proto, 0, container_port) }
}

/// A publication of the first free port of a range.
pub fn first_of(proto: Transport, first: u16, last: u16, container_port: u16) -> PublicationRequest {
    PublicationRequest { host_port: HostPort::FirstOf(first, last), ..publication(proto, 0, container_port) }
}

pub fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

impl Net {
    /// docker0: 172.17.0.0/16 by 172.17.0.1, and an uplink.
    pub fn new() -> Net {
        let mut net = Net::bare(Config::default());
        net.apply(Command::AddNetwork(network("default", "172.17.0.0/16")));
        net.connect(1500, false);
        net
    }

    /// docker0, and an uplink over the sockets of a host in memory.
    pub fn with_sockets(config: SocketUplinkConfig) -> Net {
        let mut net = Net::bare(Config::default());
        net.world.sockets = Some(host::Host::default());
        net.apply(Command::AddNetwork(network("default", "172.17.0.0/16")));
        let Applied::Uplink(port) = net.apply(Command::SetSocketUplink(Box::new(config))) else {
            panic!("a new uplink")
        };
        net.uplink = Some(port);
        net
    }

    /// Nothing but a datapath.
    pub fn bare(mut config: Config) -> Net {
        // The table is reserved at start; tests make many, and few flows.
        config.conntrack.limit = config.conntrack.limit.min(4096);
        let now = Instant::from_secs(1_000_000);
        let dp = Datapath::new(config, *b"a seed of thirty-two known bytes", now);
        Net { dp, world: Recorder::default(), now, uplink: None, buf: vec![0; BUFFER_LEN], names: 0, batching: false }
    }

    pub fn try_apply(&mut self, command: Command) -> Result<Applied, CommandError> {
        self.dp.apply(command, self.now, &mut self.world)
    }

    /// The first step of a command.
    pub fn start(&mut self, command: Command) -> Progress {
        self.dp.start(command, self.now, &mut self.world).unwrap()
    }

    /// The next one.
    pub fn proceed(&mut self, unfinished: Unfinished) -> Progress {
        self.dp.proceed(unfinished, self.now, &mut self.world)
    }

    #[track_caller]
    pub fn apply(&mut self, command: Command) -> Applied {
        self.try_apply(command).unwrap()
    }

    /// Gives the datapath its uplink at [`UP`].
    pub fn connect(&mut self, mtu: u16, mss_clamp: bool) -> PortId {
        let config = UplinkConfig { address: addr(UP), mtu, mss_clamp };
        let Applied::Uplink(port) = self.apply(Command::SetUplink(config)) else { panic!("a new uplink") };
        self.apply(Command::Open { port, caps: Caps::FULL });
        self.world.links.insert(port, Link::Ip);
        self.uplink = Some(port);
        port
    }

    pub fn add_network(&mut self, config: NetworkConfig) {
        self.apply(Command::AddNetwork(config));
    }

    pub fn request(&mut self, network: &str) -> EndpointRequest {
        self.names += 1;
        EndpointRequest {
            name: format!("c{}", self.names),
            network: network.to_owned(),
            ifname: "eth0".to_owned(),
            ip: None,
            mac: MacChoice::Random,
            isolated: false,
        }
    }

    pub fn attach_as(&mut self, request: EndpointRequest, caps: Caps) -> Host {
        let Applied::Reserved(endpoint) = self.apply(Command::Reserve(request)) else { panic!("a reservation") };
        self.apply(Command::Open { port: endpoint.port, caps });
        Host { port: endpoint.port, mac: endpoint.mac, ip: endpoint.ip.map(|c| c.addr()) }
    }

    pub fn attach_to(&mut self, network: &str) -> Host {
        let request = self.request(network);
        self.attach_as(request, Caps::FULL)
    }

    /// A container named c1, c2, ... on `default`, with 172.17.0.2, .3, ... Its announcements are over.
    pub fn attach(&mut self) -> Host {
        let host = self.attach_to("default");
        self.quiet();
        host
    }

    /// Lets all announcements happen, and forgets all that was sent.
    pub fn quiet(&mut self) {
        self.advance(Duration::from_secs(3));
        self.world.out.clear();
    }

    /// Forgets all that was sent.
    pub fn quiet_now(&mut self) {
        self.world.out.clear();
    }

    pub fn gateway_mac_of(&mut self, network: &str) -> Mac {
        let Answer::Networks(all) = self.query(Query::Networks) else { unreachable!() };
        all.iter().find(|n| n.name == network).expect("a network of that name").gateway_mac
    }

    pub fn gateway_mac(&mut self) -> Mac {
        self.gateway_mac_of("default")
    }

    /// A frame or packet comes in by a port.
    pub fn input(&mut self, port: PortId, header: VnetHeader, bytes: &[u8]) {
        header.write(&mut self.buf[HEADROOM - vnet::LEN..]);
        self.buf[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
        self.world.patient = true;
        self.dp.input(port, &mut self.buf, bytes.len(), self.now, &mut self.world);
        if !self.batching {
            self.write_deferred();
        }
    }

    /// What the datapath sends from now on waits until [`Net::write_deferred`].
    pub fn batch(&mut self) {
        self.batching = true;
    }

    /// Writes what waits, and tells the datapath how that went.
    pub fn write_deferred(&mut self) {
        (self.batching, self.world.patient) = (false, false);
        self.world.write_waiting();
        for sent in self.world.outcomes.drain(..) {
            self.dp.settle(sent);
        }
    }

    /// A frame as it is.
    pub fn send(&mut self, from: &Host, bytes: &[u8]) {
        self.input(from.port, VnetHeader::default(), bytes);
    }

    /// A packet in a frame to `dst`.
    pub fn send_to(&mut self, from: &Host, dst: Mac, packet: &Packet) {
        self.send(from, &frame(dst, from.mac, 0x0800, &packet.bytes()));
    }

    /// A packet to the gateway of `default`.
    pub fn route(&mut self, from: &Host, packet: &Packet) {
        let gateway = self.gateway_mac();
        self.send_to(from, gateway, packet);
    }

    /// The same with an offload: partial checksum, and segments of `segment` bytes if that is not 0.
    pub fn route_offloaded(&mut self, from: &Host, packet: &Packet, segment: u16) {
        let gateway = self.gateway_mac();
        let header = packet::offload(packet.proto, 14 + 20 + packet.options.len(), segment);
        self.input(from.port, header, &frame(gateway, from.mac, 0x0800, &packet.bytes()));
    }

    /// A packet comes by the uplink.
    pub fn arrive(&mut self, packet: &Packet) {
        let uplink = self.uplink.expect("an uplink");
        self.input(uplink, VnetHeader::default(), &packet.bytes());
    }

    /// All that was sent to a port since the last look.
    pub fn received(&mut self, port: PortId) -> Vec<Out> {
        self.world.out.remove(&port).map(Vec::from).unwrap_or_default()
    }

    /// All that was sent by the uplink, read and checked.
    pub fn left(&mut self) -> Vec<Seen> {
        let uplink = self.uplink.expect("an uplink");
        self.received(uplink).iter().map(Out::ip).collect()
    }

    /// The one packet that was sent by the uplink.
    #[track_caller]
    pub fn left_one(&mut self) -> Seen {
        let mut left = self.left();
        assert_eq!(left.len(), 1, "packets by the uplink: {left:?}");
        left.remove(0)
    }

    /// All IPv4 packets that a container got, read and checked.
    pub fn got(&mut self, host: &Host) -> Vec<Seen> {
        self.received(host.port).iter().filter(|o| o.is_ip()).map(Out::ip).collect()
    }

    /// The one IPv4 packet that a container got.
    #[track_caller]
    pub fn got_one(&mut self, host: &Host) -> Seen {
        let mut got = self.got(host);
        assert_eq!(got.len(), 1, "packets to the container: {got:?}");
        got.remove(0)
    }

    /// Time passes; timers run when they are due.
    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        let mut turns = 0;
        while let Some(next) = self.dp.next_timeout().filter(|t| *t <= until) {
            self.now = self.now.max(next);
            self.dp.handle_timeout(self.now, &mut self.world);
            turns += 1;
            assert!(turns < 1_000_000, "a timer that is always due");
        }
        self.now = until;
    }

    pub fn secs(&mut self, secs: u64) {
        self.advance(Duration::from_secs(secs));
    }

    /// The host in memory.
    #[track_caller]
    pub fn host(&mut self) -> &mut host::Host {
        self.world.sockets.as_mut().expect("a host")
    }

    /// What the host's sockets are ready for is done, until nothing is; then the turn is over.
    pub fn pump(&mut self) {
        let mut turns = 0;
        while let Some((id, ready)) = self.world.sockets.as_mut().and_then(host::Host::next_ready) {
            let mut more = self.dp.socket_ready(id, ready, self.now, &mut self.world);
            while more {
                more = self.dp.socket_ready(id, Ready::default(), self.now, &mut self.world);
                turns += 1;
                assert!(turns < 100_000, "a socket that is always ready");
            }
        }
        self.dp.flush(self.now, &mut self.world);
    }

    pub fn query(&mut self, query: Query) -> Answer {
        self.dp.query(&query, self.now)
    }

    pub fn stats(&mut self) -> StatsView {
        let Answer::Stats(stats) = self.query(Query::Stats) else { unreachable!() };
        stats
    }

    pub fn flows(&mut self) -> Vec<FlowView> {
        self.flows_by(4096)
    }

    /// All flows, by pages of so many.
    pub fn flows_by(&mut self, max: usize) -> Vec<FlowView> {
        let (mut rows, mut cursor, mut pages) = (Vec::new(), 0, 0);
        loop {
            let Answer::Flows(page) = self.query(Query::Flows { cursor, max }) else { unreachable!() };
            assert!(page.rows.len() <= max);
            rows.extend(page.rows);
            let Some(next) = page.next else { return rows };
            assert!(next > cursor, "every page is further on");
            cursor = next;
            pages += 1;
            assert!(pages < 100_000, "a listing without an end");
        }
    }

    #[track_caller]
    pub fn flow(&mut self) -> FlowView {
        let mut flows = self.flows();
        assert_eq!(flows.len(), 1, "{flows:?}");
        flows.remove(0)
    }

    /// How often frames of a port were dropped for a reason.
    pub fn dropped(&mut self, port: PortId, why: &str) -> u64 {
        self.drops(port).into_iter().find(|(name, _)| *name == why).map_or(0, |(_, count)| count)
    }

    pub fn drops(&mut self, port: PortId) -> Vec<(&'static str, u64)> {
        self.port(port).drops
    }

    pub fn port(&mut self, port: PortId) -> PortView {
        let Answer::Ports(ports) = self.query(Query::Ports) else { unreachable!() };
        ports.into_iter().find(|p| p.port == port).expect("the port is there")
    }

    /// Publishes ports of container `name`; the ports of the host that they got.
    pub fn try_publish(&mut self, name: &str, ports: Vec<PublicationRequest>) -> Result<Vec<u16>, CommandError> {
        let published = self.try_apply(Command::Publish { name: name.to_owned(), ifname: None, ports })?;
        let Applied::Published(published) = published else { panic!("{published:?}") };
        Ok(published.into_iter().map(|p| p.host_port).collect())
    }

    /// What is published: to whom, by which port of the host, to which of the container.
    pub fn published(&mut self) -> Vec<(String, u16, u16)> {
        let Answer::Published(all) = self.query(Query::Published) else { unreachable!() };
        all.into_iter().map(|p| (p.name, p.publication.host_port, p.publication.container_port)).collect()
    }

    /// Publishes a port of container `name`.
    pub fn publish(&mut self, name: &str, proto: Transport, host_port: u16, container_port: u16) {
        let ports = vec![publication(proto, host_port, container_port)];
        self.apply(Command::Publish { name: name.to_owned(), ifname: None, ports });
    }
}
