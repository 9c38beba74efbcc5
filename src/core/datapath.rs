//! The journeys of a frame.
//!
//! # Theory of operation
//! [`Datapath`] owns all state; nothing else does. The world calls four verbs: [`Datapath::input`] with a frame that was
//! read, [`Datapath::apply`] with a command, [`Datapath::handle_timeout`] when [`Datapath::next_timeout`] has come, and
//! [`Datapath::query`] to look. Each sends what it must by [`World::transmit`] before it returns; nothing is left
//! undrained. A short frame may be taken by [`World::defer`] instead: the world writes several at once, and says by
//! [`Datapath::settle`] what became of each.
//!
//! ```text
//!              input(port)
//!                 |  parse (frame)                        drop: counted at the port it came by
//!        container?            uplink?
//!           | guard, learn        |
//!   dst MAC known / unknown / group / gateway's           forward.rs:
//!     |         |       |            `---------------+--> martians, fragments, conntrack
//!   send      flood   flood + ARP                    |    local? -> local.rs
//!                                                    |    dnat, route, TTL, MTU, policy, masquerade
//!                                                    |    rewrite
//!                                          uplink <--+--> neighbour -> Ethernet header -> send
//! ```
//!
//! # Invariants
//! - Every frame that is not sent on is counted under one reason at the port it came by.
//! - No source of a masqueraded network leaves by the uplink: the last step before the uplink checks it again.
//! - Work is bounded by the frame: nothing here walks flows, and only a flood walks ports.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use hashbrown::HashMap;

use super::bridge;
use super::conntrack::{self, Table};
use super::counters::{Counters, DropReason};
use super::frag;
use super::hash::{Keyed, Random};
use super::icmp::Limiter;
use super::nat::Nat;
use super::neigh;
use super::network::{Network, NetworkId, PortState, Ports, Role};
use super::port::PortId;
use super::route::Routes;
use super::socket_uplink::SocketUplink;
use super::time::Instant;
use super::world::{Point, Sent, World};
use super::worth::Worth;
use crate::frame::{BUFFER_LEN, Caps, Frame, Gso, HEADROOM, L3, L4Checksum, Link, segment};
use crate::wire::addr::Addr;
use crate::wire::ip::ETH_LEN;
use crate::wire::mac::Mac;
use crate::wire::vnet;

/// Flows that one call of [`Datapath::handle_timeout`] looks at.
const EXPIRE_BUDGET: usize = 256;
/// Announcements of a new attachment, and the time between them (D18).
pub(super) const ANNOUNCEMENTS: u8 = 3;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
/// Writes after which one call of [`Datapath::handle_timeout`] leaves further announcements to the next: each is a
/// write to every port of its network, 2 us or more each, and frames wait meanwhile.
const ANNOUNCE_BUDGET: u32 = 1024;
/// Extra bytes that a bridge lets through over the MTU: an Ethernet header and a VLAN tag (`is_skb_forwardable`, B15).
const BRIDGE_SLACK: usize = ETH_LEN + 4;

/// What the operator chooses once, at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Connection tracking.
    pub conntrack: conntrack::Config,
    /// Forward between networks and the uplink at all? (`--no-forward` is S37's `ip_forward=0`.)
    pub no_forward: bool,
    /// Of these a published port is chosen that names none: the host's `net.ipv4.ip_local_port_range`.
    pub dynamic_ports: RangeInclusive<u16>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            conntrack: conntrack::Config::default(),
            no_forward: false,
            dynamic_ports: 32_768..=60_999, // Linux's own
        }
    }
}

/// Hits of the forward chain's rules (S47).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RuleHits {
    pub established: u64,
    pub outbound: u64,
    pub icc: u64,
    pub published: u64,
    pub policy_drop: u64,
}

/// The uplink as the core sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uplink {
    pub port: PortId,
    pub address: Addr,
    pub mtu: usize,
    pub mss_clamp: bool,
}

/// The switch, the router and the NAT.
pub struct Datapath {
    pub(super) ports: Ports,
    pub(super) networks: Vec<Option<Network>>,
    pub(super) network_names: HashMap<String, NetworkId, Keyed>,
    pub(super) routes: Routes,
    pub(super) flows: Table,
    pub(super) frags: frag::Table,
    pub(super) nat: Nat,
    pub(super) uplink: Option<Uplink>,
    pub(super) socket_uplink: Option<Box<SocketUplink>>,
    pub(super) icmp_limit: Limiter,
    pub(super) rules: RuleHits,
    pub(super) random: Random,
    pub(super) key: Keyed,
    pub(super) no_forward: bool,
    pub(super) dynamic_ports: RangeInclusive<u16>,
    /// Ports with announcements still to make, by when the next one is due.
    pub(super) announcing: BTreeSet<(Instant, PortId)>,
    /// For packets that we originate.
    pub(super) scratch: Vec<u8>,
    /// For fragments of packets too long for their next link.
    pub(super) fragment_scratch: Vec<u8>,
    /// For segments cut for a port that cannot.
    segment_scratch: Vec<u8>,
    /// What was dropped of ports that are gone: totals never go back.
    pub(super) departed: Counters,
    /// Transmissions since [`Datapath::take_work`].
    work: u32,
    /// What came of the frame that was read last.
    pub(super) worth: Worth,
    /// Transmissions that the world deferred, in its order.
    deferred: VecDeque<Deferred>,
}

/// A transmission whose outcome the world still owes.
#[derive(Clone, Copy, Debug)]
struct Deferred {
    from: PortId,
    to: PortId,
    bytes: usize,
}

impl Datapath {
    /// An empty switch. `seed` is the only randomness there ever is.
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Datapath {
        let mut random = Random::new(seed[..16].try_into().expect("sixteen of thirty-two"));
        let mut half = [0; 16];
        half.copy_from_slice(&seed[16..]);
        let key = Keyed::new(half);
        let (flow_key, frag_key, nat_key) = (random.next_key(), random.next_key(), random.next_key());
        Datapath {
            ports: Ports::default(),
            networks: Vec::new(),
            network_names: HashMap::with_hasher(key.clone()),
            routes: Routes::default(),
            flows: Table::new(config.conntrack, flow_key),
            frags: frag::Table::new(frag_key),
            nat: Nat::new(key.clone(), Random::new(nat_key)),
            uplink: None,
            socket_uplink: None,
            icmp_limit: Limiter::new(key.clone(), now),
            rules: RuleHits::default(),
            random,
            key,
            no_forward: config.no_forward,
            dynamic_ports: config.dynamic_ports,
            announcing: BTreeSet::new(),
            scratch: vec![0; BUFFER_LEN],
            fragment_scratch: vec![0; BUFFER_LEN],
            segment_scratch: Vec::new(),
            departed: Counters::default(),
            work: 0,
            worth: Worth::Something,
            deferred: VecDeque::new(),
        }
    }

    /// A packet of `len` bytes was read from `port`. It lies in `buf` at [`HEADROOM`], its virtio header (zeros if the
    /// port has none) right before it.
    pub fn input(&mut self, port: PortId, buf: &mut [u8], len: usize, now: Instant, world: &mut dyn World) {
        let Some(from) = self.ports.get_mut(port) else { return };
        from.counters.rx.count(len);
        self.worth = Worth::Something;
        let (link, network) = match &from.role {
            Role::Endpoint(attachment) => (Link::Ethernet, Some(attachment.network)),
            Role::Uplink => (Link::Ip, None),
        };
        if self.follow_at_socket(port, buf, len, now, world) {
            return;
        }
        let done = Frame::parse(buf, HEADROOM, HEADROOM + len, link).map_err(DropReason::from).and_then(|mut frame| {
            let point = if network.is_some() { Point::PortIn } else { Point::UplinkIn };
            capture(world, point, port, &mut frame, link);
            match network {
                Some(network) => self.switch_frame(port, network, &mut frame, now, world),
                None => self.forward(super::forward::Ingress::Uplink(port), &mut frame, now, world),
            }
        });
        if let Err(why) = done {
            if !why.is_congestion() {
                self.worth = Worth::Nothing;
            }
            self.count_drop(port, why);
        }
    }

    /// What came of the last [`Datapath::input`].
    #[inline]
    pub fn worth(&self) -> Worth {
        self.worth
    }

    /// A frame of `port` was lost before it could be read.
    pub fn count_unreadable(&mut self, port: PortId) {
        self.count_drop(port, DropReason::Unreadable);
    }

    /// When [`Datapath::handle_timeout`] has work next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let neighbours = self.networks.iter().flatten().filter_map(|n| n.neighbours.next_timeout());
        let announcements = self.announcing.first().map(|(due, _)| *due);
        let tables = [self.flows.next_timeout(), self.frags.next_timeout()].into_iter().flatten();
        neighbours.chain(announcements).chain(tables).chain(self.socket_timeout()).min()
    }

    /// Does what is due. A call that comes early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant, world: &mut dyn World) {
        self.flows.expire(now, EXPIRE_BUDGET);
        self.frags.expire(now);
        for ((port, why), count) in self.frags.take_given_up() {
            self.count_drops(port, why.into(), count);
        }
        for index in 0..self.networks.len() {
            let network = NetworkId(index as u16); // networks are at most 65,536
            let events = self.networks[index].as_mut().map(|n| n.neighbours.tick(now)).unwrap_or_default();
            for event in events {
                match event {
                    neigh::Event::Ask { addr, to } => self.ask(network, addr, to, now, world),
                    neigh::Event::Failed { held, .. } => self.neighbour_failed(network, held, now, world),
                }
            }
        }
        self.announce_due(now, world);
        self.socket_timers(now, world);
    }

    /// How many transmissions there were since the last call: what the sender of a flood is charged.
    pub fn take_work(&mut self) -> u32 {
        std::mem::take(&mut self.work)
    }

    /// What became of the oldest transmission that [`World::defer`] took.
    pub fn settle(&mut self, sent: Sent) {
        if let Some(Deferred { from, to, bytes }) = self.deferred.pop_front() {
            self.account(from, to, sent, bytes);
        }
    }

    /// Container to switch: guard, learn, then by destination.
    fn switch_frame(
        &mut self,
        port: PortId,
        network: NetworkId,
        frame: &mut Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let net = self.networks[usize::from(network.0)].as_mut().expect("a port's network lives while the port does");
        let (src, dst) = (frame.eth_src(), frame.eth_dst());
        if !src.is_station() {
            return Err(DropReason::BadSourceMac);
        }
        net.owners.check(net.config.guard, port, frame)?;
        if src != net.gateway_mac {
            net.fdb.learn(src, port, now);
        }
        if dst == net.gateway_mac {
            return self.enter_gateway(port, network, frame, now, world);
        }
        if dst.is_group() {
            if bridge::is_reserved_group(dst) {
                return Err(DropReason::ReservedGroup);
            }
            let flooded = self.flood(port, network, frame, now, world);
            // The gateway hears what other ports may not; but a storm ends before it.
            let heard = flooded != Err(DropReason::FloodRate)
                && frame.layout().kind == L3::Arp
                && !frame.layout().tagged
                && self.network(network).gateway().is_some();
            if heard {
                self.arp_input(port, network, frame, now, world);
                return Ok(());
            }
            return flooded;
        }
        match net.fdb.lookup(dst, now) {
            Some(to) if to == port => Err(DropReason::SamePort),
            Some(to) => {
                self.may_bridge(port, to, network, frame)?;
                self.send(port, to, frame, world);
                Ok(())
            }
            None => self.flood(port, network, frame, now, world),
        }
    }

    /// A frame to the gateway's own MAC address.
    fn enter_gateway(
        &mut self,
        port: PortId,
        network: NetworkId,
        frame: &mut Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        if self.network(network).gateway().is_none() {
            return Err(DropReason::NoGateway);
        }
        if frame.layout().tagged {
            return Err(DropReason::TaggedToGateway);
        }
        match frame.layout().kind {
            L3::V4 => {
                capture(world, Point::GatewayIn, port, frame, Link::Ethernet);
                self.forward(super::forward::Ingress::Endpoint(port, network), frame, now, world)
            }
            L3::Arp => {
                self.arp_input(port, network, frame, now, world);
                Ok(())
            }
            L3::V6 | L3::Other => Err(DropReason::NotIp),
            L3::Malformed(why) => Err(why.into()),
        }
    }

    /// May this frame go from one port of the network to another?
    fn may_bridge(&self, from: PortId, to: PortId, network: NetworkId, frame: &Frame<'_>) -> Result<(), DropReason> {
        let isolated = |port| self.ports.get(port).and_then(|p| p.attachment()).is_some_and(|a| a.isolated);
        let config = &self.network(network).config;
        if isolated(from) && isolated(to) {
            return Err(DropReason::Isolated);
        }
        if !config.icc && matches!(frame.layout().kind, L3::V4 | L3::V6 | L3::Malformed(_)) {
            return Err(DropReason::IccOff);
        }
        if frame.gso() == Gso::None && frame.len() > usize::from(config.mtu) + BRIDGE_SLACK {
            return Err(DropReason::ExceedsPortMtu);
        }
        Ok(())
    }

    /// To all ports of the network but the one it came by.
    fn flood(
        &mut self,
        from: PortId,
        network: NetworkId,
        frame: &mut Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        if !self.ports.get_mut(from).is_some_and(|p| p.flood.take(now)) {
            return Err(DropReason::FloodRate);
        }
        self.flood_from(Some(from), network, frame, world)
    }

    /// To all ports of the network but `from`; an error only if a rule kept it from every one of them.
    pub(super) fn flood_from(
        &mut self,
        from: Option<PortId>,
        network: NetworkId,
        frame: &mut Frame<'_>,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let mut refused = None;
        let mut sent = false;
        for index in 0..self.network(network).ports.len() {
            let to = self.network(network).ports[index];
            let pending = self.ports.get(to).is_none_or(|p| p.state == PortState::Pending);
            if from == Some(to) || pending {
                continue; // its sender, or no receiver yet: nothing is lost
            }
            match from.map_or(Ok(()), |from| self.may_bridge(from, to, network, frame)) {
                Ok(()) => {
                    self.send(from.unwrap_or(to), to, frame, world);
                    sent = true;
                }
                Err(why) => refused = Some(why),
            }
        }
        match refused {
            Some(why) if !sent => Err(why),
            _ => Ok(()),
        }
    }

    /// One transmission; what fails is charged to `from`, where the frame came from.
    pub(super) fn send(&mut self, from: PortId, to: PortId, frame: &mut Frame<'_>, world: &mut dyn World) {
        let Some(port) = self.ports.get(to) else { return self.count_drop(from, DropReason::PortGone) };
        let (caps, link) = (port.caps, if port.attachment().is_some() { Link::Ethernet } else { Link::Ip });
        if port.state == PortState::Pending {
            return self.count_drop(from, DropReason::LinkDown);
        }
        capture(world, if link == Link::Ip { Point::UplinkOut } else { Point::PortOut }, to, frame, link);
        let bytes = frame.len();
        let simple =
            caps == Caps::FULL || frame.gso() == Gso::None && (caps.vnet || frame.checksum() != L4Checksum::Partial);
        let sent = if simple {
            self.work += 1;
            let out = frame.out();
            if world.defer(to, out) {
                self.deferred.push_back(Deferred { from, to, bytes });
                return;
            }
            world.transmit(to, out)
        } else {
            // One failure is the frame's: its segments make one packet train, and a loss must not hide behind the last.
            let mut worst = Sent::Ok;
            let mut scratch = std::mem::take(&mut self.segment_scratch);
            let cut = segment::for_each(frame.out(), link, caps, &mut scratch, &mut |out| {
                let sent = world.transmit(to, out);
                if worst == Sent::Ok {
                    worst = sent;
                }
            });
            self.work += cut as u32; // at most 128 segments
            self.segment_scratch = scratch;
            worst
        };
        self.account(from, to, sent, bytes);
    }

    /// Books what became of a transmission, and follows the link's state.
    fn account(&mut self, from: PortId, to: PortId, sent: Sent, bytes: usize) {
        let Some(port) = self.ports.get_mut(to) else { return };
        let why = match sent {
            Sent::Ok => {
                port.counters.tx.count(bytes);
                port.state = PortState::Up;
                return;
            }
            Sent::Down => DropReason::LinkDown,
            Sent::Gone => DropReason::PortGone,
            Sent::Refused => DropReason::OffloadRefused,
            Sent::Failed => DropReason::WriteFailed,
        };
        if sent == Sent::Down && port.state == PortState::Up {
            port.state = PortState::Down;
            if let Some(network) = port.attachment().map(|a| a.network) {
                self.network_mut(network).fdb.flush_port(to); // B20
            }
        }
        self.count_drop(from, why);
    }

    /// Gives an IPv4 packet an Ethernet header and sends it to `station`.
    pub(super) fn send_to_station(
        &mut self,
        from: PortId,
        network: NetworkId,
        station: Mac,
        frame: &mut Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) {
        let net = self.network(network);
        frame.push_link(station, net.gateway_mac);
        capture(world, Point::GatewayOut, from, frame, Link::Ethernet);
        match self.network(network).fdb.lookup(station, now) {
            Some(to) => self.send(from, to, frame, world),
            // Told by ARP but silent since: as a bridge does with an unknown station, at the expense of who sent it.
            None if self.ports.get_mut(from).is_none_or(|p| p.flood.take(now)) => {
                let _ = self.flood_from(None, network, frame, world); // no rule applies to the gateway
            }
            None => self.count_drop(from, DropReason::FloodRate),
        }
    }

    pub(super) fn count_drop(&mut self, port: PortId, why: DropReason) {
        self.count_drops(port, why, 1);
    }

    pub(super) fn count_drops(&mut self, port: PortId, why: DropReason, count: u64) {
        let counters = self.ports.get_mut(port).map_or(&mut self.departed, |p| &mut p.counters);
        if why.is_limit() && counters.dropped(why) == 0 && count > 0 {
            log::warn!("{port}: {}: {}; told once, counted from now on", why.name(), why.meaning());
        }
        counters.drop(why, count);
    }

    #[inline]
    pub(super) fn network(&self, id: NetworkId) -> &Network {
        self.networks[usize::from(id.0)].as_ref().expect("an id is given out only while its network lives")
    }

    #[inline]
    pub(super) fn network_mut(&mut self, id: NetworkId) -> &mut Network {
        self.networks[usize::from(id.0)].as_mut().expect("an id is given out only while its network lives")
    }

    /// Runs `fill` on the buffer for packets of our own, parses what it wrote (its length is returned by it), and hands
    /// the frame to `go`.
    pub(super) fn originate(
        &mut self,
        link: Link,
        fill: impl FnOnce(&mut [u8]) -> usize,
        go: impl FnOnce(&mut Datapath, &mut Frame<'_>),
    ) {
        let mut buf = std::mem::take(&mut self.scratch);
        if buf.is_empty() {
            buf = vec![0; BUFFER_LEN]; // `go` of another call originates too: an error that must ask ARP for its way
        }
        buf[HEADROOM - vnet::LEN..HEADROOM].fill(0);
        let len = fill(&mut buf[HEADROOM..]);
        let parsed = Frame::parse(&mut buf, HEADROOM, HEADROOM + len, link);
        debug_assert!(parsed.is_ok(), "we write only what we would accept");
        if let Ok(mut frame) = parsed {
            go(self, &mut frame);
        }
        self.scratch = buf;
    }

    fn announce_due(&mut self, now: Instant, world: &mut dyn World) {
        let before = self.work;
        while let Some(&(due, port)) = self.announcing.first() {
            if due > now || self.work.wrapping_sub(before) >= ANNOUNCE_BUDGET {
                break; // what is left stays due
            }
            self.announcing.pop_first();
            let Some(entry) = self.ports.get_mut(port) else { continue };
            let Some(attachment) = entry.attachment() else { continue };
            let (network, mac, ip) = (attachment.network, attachment.mac, attachment.ip);
            entry.announce = (entry.announce.0.saturating_sub(1), now + ANNOUNCE_INTERVAL);
            if entry.announce.0 > 0 {
                self.announcing.insert((entry.announce.1, port));
            }
            if let Some(ip) = ip {
                self.announce(port, network, mac, ip, world);
            }
        }
    }
}

/// Shows a frame to whoever captures.
#[inline]
pub(super) fn capture(world: &mut dyn World, point: Point, port: PortId, frame: &mut Frame<'_>, link: Link) {
    if world.capturing() {
        world.capture(point, port, frame.out(), link);
    }
}
