//! What the world may ask of the core: commands that change it, queries that look at it.
//!
//! A command is applied whole or refused whole; the error names the field and what to do. Names, addresses, published
//! ports and rules are the core's own state and change only here.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::conntrack::Line;
use super::port::PortId;
use crate::frame::Caps;
use crate::wire::addr::{Addr, Cidr};
use crate::wire::mac::Mac;

/// What a container may claim as its own on the segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// A bridge that only learns: nobody's addresses are protected.
    Off,
    /// Nobody may claim the gateway's or another attachment's addresses; what nobody owns is learned.
    #[default]
    Default,
    /// A container may use its own MAC and IP address and nothing else.
    Strict,
}

/// A network: one switch with, maybe, a gateway in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// 1 to 64 of `[A-Za-z0-9_.-]`, beginning with a letter or digit.
    pub name: String,
    /// IPv4 prefix, /8 to /30; `None`: a switch without addresses.
    pub subnet: Option<Cidr>,
    /// The gateway's address in the subnet; `None`: no gateway (D11).
    pub gateway: Option<Addr>,
    /// Ethernet MTU, bytes of IP packet: 576 to 65,521.
    pub mtu: u16,
    /// Nothing crosses the gateway (D10).
    pub internal: bool,
    /// May containers reach each other? (`enable_icc`, D01)
    pub icc: bool,
    /// Translate the source of what leaves by the uplink? (`enable_ip_masquerade`, D02)
    pub masquerade: bool,
    /// Source guard of its ports.
    pub guard: Guard,
    /// How long a learned address is kept without traffic (B02): 10 s to 1,000,000 s.
    pub ageing: Duration,
    /// Broadcast, multicast and unknown-unicast frames a port may send per second, burst of one second.
    pub flood_rate: u32,
}

impl NetworkConfig {
    /// docker0's defaults for `name`, without addresses.
    pub fn named(name: &str) -> NetworkConfig {
        NetworkConfig {
            name: name.to_owned(),
            subnet: None,
            gateway: None,
            mtu: 1500,
            internal: false,
            icc: true,
            masquerade: true,
            guard: Guard::Default,
            ageing: Duration::from_secs(300),
            flood_rate: 20_000,
        }
    }
}

/// What [`Command::Reserve`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRequest {
    /// The container, as in every listing.
    pub name: String,
    /// The network to join.
    pub network: String,
    /// The device inside the namespace; a container may have several. 1 to 15 bytes, no `/` or white space.
    pub ifname: String,
    /// A fixed address; `None`: the lowest free one of the subnet, or none if the network has no subnet.
    pub ip: Option<Addr>,
    /// How the MAC address is chosen.
    pub mac: MacChoice,
    /// May not talk to other isolated ports of its network (B19).
    pub isolated: bool,
}

/// How an endpoint's MAC address is chosen (S33).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MacChoice {
    /// Locally administered, random.
    #[default]
    Random,
    /// 02:42 and the IPv4 address.
    FromIp,
    /// This one.
    Given(Mac),
}

/// Addresses of an endpoint, as reserved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The port that the device will be.
    pub port: PortId,
    /// Address and prefix length for the device.
    pub ip: Option<Cidr>,
    /// The device's MAC address.
    pub mac: Mac,
    /// Default gateway, unless the network is internal or has none.
    pub gateway: Option<Addr>,
    /// MTU of the device, bytes.
    pub mtu: u16,
}

/// Transport of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The IP protocol number.
    pub fn proto(self) -> u8 {
        match self {
            Transport::Tcp => crate::wire::ip::proto::TCP,
            Transport::Udp => crate::wire::ip::proto::UDP,
        }
    }
}

/// One published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Publication {
    /// tcp or udp.
    pub proto: Transport,
    /// Only this address of the uplink; `None`: any of them, and gateways.
    pub host_ip: Option<Addr>,
    /// 1 to 65,535.
    pub host_port: u16,
    /// 1 to 65,535.
    pub container_port: u16,
}

/// Which port of the host a publication asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPort {
    /// This one, 1 to 65,535.
    Exactly(u16),
    /// The lowest of these that is free, both included.
    FirstOf(u16, u16),
    /// One that is free, chosen at random out of [`super::datapath::Config::dynamic_ports`].
    Random,
}

/// A port that is to be published, or withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicationRequest {
    /// tcp or udp.
    pub proto: Transport,
    /// As in [`Publication`].
    pub host_ip: Option<Addr>,
    /// Which of the host's.
    pub host_port: HostPort,
    /// 1 to 65,535.
    pub container_port: u16,
}

/// A translation rule that belongs to no container (S41, S42).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StaticRule {
    /// New flows to `dst:port` go to `to:to_port` instead.
    Dnat { proto: Transport, dst: Addr, port: u16, to: Addr, to_port: u16 },
    /// New flows from `source` leave the uplink as `to`; `to` counts as one of the uplink's own addresses.
    Snat { source: Cidr, to: Addr },
    /// Flows to `dst` leave without translation of their source (RFC 6888 REQ-6).
    NoNat { dst: Cidr },
}

/// The uplink, from the core's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// pontoon's own address there: what sources are translated to.
    pub address: Addr,
    /// Bytes of IP packet.
    pub mtu: u16,
    /// Lower the MSS of connections that cross to what fits the uplink's MTU (R23).
    pub mss_clamp: bool,
}

/// The uplink over host sockets, from the core's side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketUplinkConfig {
    /// What a container may reach of the host.
    pub policy: super::split::policy::Config,
    /// TCP connections.
    pub tcp: super::split::tcp::Config,
    /// UDP flows.
    pub udp: super::split::udp::Config,
    /// Echo requests.
    pub ping: super::split::ping::Config,
}

impl SocketUplinkConfig {
    /// Every default, for a host with this `net.ipv4.ip_local_port_range`.
    pub fn for_ports(range: std::ops::RangeInclusive<u16>) -> SocketUplinkConfig {
        use super::split::{ping, policy, tcp, udp};
        SocketUplinkConfig {
            policy: policy::Config::default(),
            tcp: tcp::Config::default(),
            udp: udp::Config::for_ports(range),
            ping: ping::Config::default(),
        }
    }
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes a network.
    AddNetwork(NetworkConfig),
    /// Removes one that has no endpoints.
    RemoveNetwork { name: String },
    /// Gives an endpoint its port, address and MAC address; the port is silent until [`Command::Open`].
    Reserve(EndpointRequest),
    /// The port's device is there: learn its address, announce it (D18), let frames through.
    Open { port: PortId, caps: Caps },
    /// The device said *link down* (`false`) or took a frame again (`true`).
    Link { port: PortId, up: bool },
    /// The port is gone: its addresses, learned stations, published ports and flows go with it.
    Detach { port: PortId },
    /// Publishes all of `ports` to the container, or none.
    Publish { name: String, ifname: Option<String>, ports: Vec<PublicationRequest> },
    /// Withdraws all of `ports`, or none: each as it was asked for, or as the port that it became. The container port of one
    /// that names its port of the host does not matter.
    Unpublish { name: String, ports: Vec<PublicationRequest> },
    /// Gives the core its uplink, or a new address for it; flows of the old address are dropped (R29).
    SetUplink(UplinkConfig),
    /// Gives the core an uplink over host sockets, once and for all; the world must have some.
    SetSocketUplink(Box<SocketUplinkConfig>),
    /// Adds a static rule.
    AddRule(StaticRule),
    /// Removes it.
    RemoveRule(StaticRule),
    /// Routes `dst` by the uplink. One inside of a network's subnet takes its addresses away from that network.
    AddRoute { dst: Cidr },
    /// Removes that route.
    RemoveRoute { dst: Cidr },
    /// Drops flows: of one container, or all.
    FlushFlows { name: Option<String> },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Done.
    Done,
    /// The endpoint's addresses.
    Reserved(Endpoint),
    /// The uplink's port.
    Uplink(PortId),
    /// What was published, in the order of the request.
    Published(Vec<Publication>),
    /// How many flows were dropped.
    Flushed(usize),
}

/// Why a command was refused. Nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A value that is out of range or does not fit another; names the field and the fix.
    #[error("{field}: {why}")]
    Invalid { field: &'static str, why: String },
    /// The name is taken.
    #[error("{what} '{name}' exists already; choose another or remove it first")]
    Exists { what: &'static str, name: String },
    /// There is none of that name.
    #[error("there is no {what} '{name}'")]
    Missing { what: &'static str, name: String },
    /// It is in use.
    #[error("{what} '{name}' is in use: {why}")]
    Busy { what: &'static str, name: String, why: String },
    /// Docker's words for a port that another publication holds (S60).
    #[error("Bind for {host_ip}:{port}/{proto} failed: port is already allocated by '{holder}'")]
    PortAllocated { host_ip: Addr, port: u16, proto: &'static str, holder: String },
    /// Docker's words for a range without a free port.
    #[error("Bind for {host_ip}:{first}-{last}/{proto} failed: all ports are allocated; {cure}")]
    NoFreePort { host_ip: Addr, first: u16, last: u16, proto: &'static str, cure: &'static str },
    /// The host does not let us have a port.
    #[error("Bind for {host_ip}:{port}/{proto} failed: {why}")]
    Bind { host_ip: Addr, port: u16, proto: &'static str, failure: super::socket::Failure, why: String },
    /// A bound was reached.
    #[error("{what}: the limit of {limit} is reached")]
    Full { what: &'static str, limit: usize },
}

/// A look at the state. Listings that can be long come in pages: pass the last answer's `next` as `cursor`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// All networks.
    Networks,
    /// All ports with addresses and counters.
    Ports,
    /// Published ports.
    Published,
    /// Static rules.
    Rules,
    /// Learned stations, in pages.
    Fdb { cursor: u64, max: usize },
    /// Tracked flows, in pages.
    Flows { cursor: u64, max: usize },
    /// The routing table.
    Routes,
    /// Known and awaited neighbours of the gateways, in pages.
    Neighbours { cursor: u64, max: usize },
    /// Counters of the whole.
    Stats,
}

/// The answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    Networks(Vec<NetworkView>),
    Ports(Vec<PortView>),
    Published(Vec<PublishedView>),
    Rules(Vec<StaticRule>),
    Fdb(Page<FdbView>),
    Flows(Page<FlowView>),
    Routes(Vec<RouteView>),
    Neighbours(Page<NeighbourView>),
    Stats(StatsView),
}

/// A part of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<u64>,
}

/// A network as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkView {
    pub name: String,
    pub subnet: Option<Cidr>,
    pub gateway: Option<Addr>,
    pub gateway_mac: Mac,
    pub mtu: u16,
    pub internal: bool,
    pub icc: bool,
    pub masquerade: bool,
    pub guard: Guard,
    pub ageing_seconds: u64,
    pub flood_rate: u32,
    pub endpoints: usize,
    pub stations: usize,
}

/// A port as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortView {
    pub port: PortId,
    /// The container; `uplink` for the uplink.
    pub name: String,
    pub ifname: String,
    pub network: Option<String>,
    pub ip: Option<Addr>,
    pub mac: Option<Mac>,
    /// `pending` (reserved, no device yet), `up` or `down`.
    pub state: &'static str,
    pub vnet: bool,
    pub uso: bool,
    pub isolated: bool,
    pub rx: Traffic,
    pub tx: Traffic,
    /// Every reason for which a frame of this port was dropped, if it happened.
    pub drops: Vec<(&'static str, u64)>,
}

/// Frames and bytes; a super-frame is one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    pub frames: u64,
    pub bytes: u64,
}

/// A published port as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PublishedView {
    pub name: String,
    pub container_ip: Addr,
    #[serde(flatten)]
    pub publication: Publication,
}

/// A learned station.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FdbView {
    pub network: String,
    pub mac: Mac,
    pub port: PortId,
    /// The container behind the port.
    pub name: String,
    /// An attachment's own address: does not age.
    pub permanent: bool,
    pub age_seconds: u64,
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// The line that `conntrack -L` would print (X18).
    pub line: String,
    pub proto: u8,
    pub state: &'static str,
    pub src: Addr,
    pub dst: Addr,
    pub sport: u16,
    pub dport: u16,
    pub reply_src: Addr,
    pub reply_dst: Addr,
    pub reply_sport: u16,
    pub reply_dport: u16,
    pub assured: bool,
    pub replied: bool,
    pub timeout_seconds: u64,
    /// The container that is charged.
    pub name: String,
    pub original: Traffic,
    pub reply: Traffic,
    /// Of a flow over a host socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<SocketFlowView>,
}

impl FlowView {
    /// A flow of `name`, with what passed in the direction of its first packet and in the other.
    pub(super) fn new(flow: &Line<'_>, name: String, traffic: (Traffic, Traffic)) -> FlowView {
        let Line { original, reply, remaining, state, replied, assured, rest: _ } = *flow;
        FlowView {
            line: flow.to_string().trim_end().to_owned(),
            proto: original.proto,
            state: state.unwrap_or_default(),
            src: original.src,
            dst: original.dst,
            sport: original.sport,
            dport: original.dport,
            reply_src: reply.src,
            reply_dst: reply.dst,
            reply_sport: reply.sport,
            reply_dport: reply.dport,
            assured,
            replied,
            timeout_seconds: remaining.as_secs(),
            name,
            original: traffic.0,
            reply: traffic.1,
            socket: None,
        }
    }
}

/// What is known of a flow over a host socket beyond its packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SocketFlowView {
    /// Where the host socket leads, or whose connection it is.
    pub peer: Addr,
    pub peer_port: u16,
    pub age_seconds: u64,
    /// What the container may send now, bytes; TCP only.
    pub window: u32,
    /// Segments sent again to the container; TCP only.
    pub retransmits: u64,
    /// The first error of the flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteView {
    pub dst: Cidr,
    /// A network's name, or `uplink`.
    pub dev: String,
    pub src: Option<Addr>,
}

/// A neighbour of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NeighbourView {
    pub network: String,
    pub ip: Addr,
    pub mac: Option<Mac>,
    /// `permanent`, `reachable`, `stale`, `probe` or `incomplete`, in the words of `ip neigh`.
    pub state: &'static str,
    /// Packets that wait for an answer.
    pub held: usize,
}

/// Counters of the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StatsView {
    pub ports: usize,
    pub networks: usize,
    pub flows: usize,
    pub flow_limit: usize,
    pub flows_evicted: u64,
    pub flows_refused: u64,
    /// Rule hits, in the order of the forward chain (S47): name and packets.
    pub rules: Vec<(&'static str, u64)>,
    /// Every drop reason of every port, those that are gone included, added up.
    pub drops: Vec<(&'static str, u64)>,
    pub icmp_errors_sent: u64,
    pub icmp_errors_limited: u64,
}
