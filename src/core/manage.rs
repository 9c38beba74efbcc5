//! Commands and queries: how the state is changed and looked at. A command is checked whole before it changes anything.

use std::collections::VecDeque;

use super::bridge::guard::Owner;
use super::command::{
    Answer, Applied, Command, CommandError, Endpoint, EndpointRequest, FdbView, FlowView, MacChoice, NeighbourView,
    NetworkConfig, NetworkView, Page, PortView, PublishedView, Query, RouteView, StaticRule, StatsView, Traffic,
    UplinkConfig,
};
use super::conntrack::{Direction, OwnerId};
use super::counters::DropReason;
use super::datapath::{ANNOUNCEMENTS, Datapath, Uplink};
use super::flush::Progress;
use super::nat::MAX_RULES;
use super::neigh::Held;
use super::network::{Attachment, Network, NetworkId, Port, PortState, Role};
use super::port::PortId;
use super::route::Target;
use super::socket_uplink::SOCKET_TABLES;
use super::time::Instant;
use super::world::World;
use crate::frame::Caps;
use crate::wire::addr::{Addr, Cidr};
use crate::wire::mac::Mac;

/// Networks that can exist at once.
pub const MAX_NETWORKS: usize = 4096;
/// Routes by the uplink that can exist at once.
pub const MAX_ROUTES: usize = 4096;
/// Rows of one page.
const MAX_PAGE: usize = 4096;
/// RFC 791: every link carries 68 bytes, every host takes 576; under 576 nothing that people use works.
const MTU: std::ops::RangeInclusive<u16> = 576..=65_521;

pub(super) fn invalid(field: &'static str, why: impl Into<String>) -> CommandError {
    CommandError::Invalid { field, why: why.into() }
}

pub(super) fn missing(what: &'static str, name: &str) -> CommandError {
    CommandError::Missing { what, name: name.to_owned() }
}

impl Datapath {
    /// A command that removes no flows, or few.
    pub(super) fn apply_at_once(
        &mut self,
        command: Command,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<Applied, CommandError> {
        match command {
            Command::AddNetwork(config) => self.add_network(config),
            Command::RemoveNetwork { name } => self.remove_network(&name),
            Command::Reserve(request) => self.reserve(request, now).map(Applied::Reserved),
            Command::Open { port, caps } => self.open(port, caps, now, world),
            Command::Link { port, up } => self.set_link(port, up),
            Command::Publish { name, ifname, ports } => self.publish(&name, ifname.as_deref(), &ports, now, world),
            Command::SetUplink(config) => self.set_uplink(config, now),
            Command::SetSocketUplink(config) => self.set_socket_uplink(&config, now, world),
            Command::AddRule(rule) => self.add_rule(rule),
            Command::RemoveRule(rule) => {
                if !self.nat.remove_rule(&rule) {
                    return Err(missing("rule", "as given"));
                }
                Ok(Applied::Done)
            }
            Command::AddRoute { dst } => {
                check_route(dst)?;
                if let Some(Target::Network(id)) = self.routes.get(dst) {
                    let name = self.network(id).config.name.clone();
                    return Err(CommandError::Busy {
                        what: "prefix",
                        name: dst.to_string(),
                        why: format!("it is network '{name}'"),
                    });
                }
                if self.routes.get(dst).is_some() {
                    return Err(CommandError::Exists { what: "route", name: dst.to_string() });
                }
                let by_uplink = || self.routes.list().iter().filter(|(_, target)| *target == Target::Uplink).count();
                if by_uplink() >= MAX_ROUTES {
                    return Err(CommandError::Full { what: "routes by the uplink", limit: MAX_ROUTES });
                }
                self.routes.insert(dst, Target::Uplink);
                Ok(Applied::Done)
            }
            Command::RemoveRoute { dst } => match self.routes.get(dst) {
                Some(Target::Uplink) => {
                    self.routes.remove(dst);
                    Ok(Applied::Done)
                }
                Some(Target::Network(_)) | None => Err(missing("route by the uplink to", &dst.to_string())),
            },
            Command::Detach { .. } | Command::Unpublish { .. } | Command::FlushFlows { .. } => {
                unreachable!("`Datapath::start` does these in steps")
            }
        }
    }

    fn add_network(&mut self, config: NetworkConfig) -> Result<Applied, CommandError> {
        check_name("name", &config.name, 64)?;
        if self.network_names.contains_key(&config.name) {
            return Err(CommandError::Exists { what: "network", name: config.name });
        }
        if !MTU.contains(&config.mtu) {
            return Err(invalid(
                "mtu",
                format!("{} is out of range; {} to {} bytes", config.mtu, MTU.start(), MTU.end()),
            ));
        }
        if !(10..=1_000_000).contains(&config.ageing.as_secs()) {
            let seconds = config.ageing.as_secs();
            return Err(invalid("ageing_seconds", format!("{seconds} is out of range; 10 to 1000000 seconds")));
        }
        if config.flood_rate == 0 {
            return Err(invalid("flood_rate", "0 would stop ARP; at least 1 frame a second"));
        }
        self.check_addresses_of(&config)?;
        let slot = match self.networks.iter().position(|n| n.is_none()) {
            Some(free) => free,
            None if self.networks.len() < MAX_NETWORKS => {
                self.networks.push(None);
                self.networks.len() - 1
            }
            None => return Err(CommandError::Full { what: "networks", limit: MAX_NETWORKS }),
        };
        let id = NetworkId(slot as u16); // under MAX_NETWORKS
        let gateway_mac = Mac::from_random(self.random.next_u64());
        if let Some(subnet) = config.subnet {
            self.routes.insert(subnet, Target::Network(id));
        }
        self.network_names.insert(config.name.clone(), id);
        self.networks[slot] = Some(Network::new(config, gateway_mac, self.key.clone()));
        Ok(Applied::Done)
    }

    fn check_addresses_of(&self, config: &NetworkConfig) -> Result<(), CommandError> {
        let Some(subnet) = config.subnet else {
            return match config.gateway {
                Some(gateway) => Err(invalid("gateway", format!("{gateway} needs a subnet; give one or no gateway"))),
                None => Ok(()),
            };
        };
        if !subnet.addr().is_v4() || !(8..=30).contains(&subnet.bits()) {
            return Err(invalid("subnet", format!("{subnet} is not an IPv4 prefix of /8 to /30, as 172.17.0.0/16")));
        }
        let first = subnet.network().addr();
        if !first.is_routable_source() || is_reserved(first) {
            return Err(invalid("subnet", format!("{subnet} cannot be routed; take a private one, as 172.17.0.0/16")));
        }
        if let Some(gateway) = config.gateway
            && (!subnet.contains(gateway) || Some(gateway) == subnet.broadcast() || gateway == first)
        {
            return Err(invalid(
                "gateway",
                format!("{gateway} is not a host address of {subnet}; take one of its own"),
            ));
        }
        if self.routes.get(subnet) == Some(Target::Uplink) {
            return Err(invalid(
                "subnet",
                format!("{subnet} is routed by the uplink; remove that route or take another"),
            ));
        }
        for other in self.networks.iter().flatten() {
            if let Some(taken) = other.subnet()
                && taken.overlaps(&subnet)
            {
                let name = &other.config.name;
                return Err(invalid("subnet", format!("{subnet} overlaps {taken} of network '{name}'; take another")));
            }
        }
        if let Some(uplink) = self.uplink
            && subnet.contains(uplink.address)
        {
            return Err(invalid(
                "subnet",
                format!("{subnet} holds the uplink's address {}; take another", uplink.address),
            ));
        }
        if let Some(loopback) = self.socket_uplink.as_ref().and_then(|uplink| uplink.policy.host_loopback())
            && subnet.contains(loopback)
            && config.gateway != Some(loopback)
        {
            let why = format!("{subnet} holds {loopback}, by which containers find the host's loopback; take another");
            return Err(invalid("subnet", why));
        }
        if let Some(to) = self.nat.aliases().iter().find(|to| subnet.contains(**to)) {
            let why = format!("{subnet} holds {to}, which a static rule translates sources to; take another");
            return Err(invalid("subnet", why));
        }
        Ok(())
    }

    fn remove_network(&mut self, name: &str) -> Result<Applied, CommandError> {
        let id = *self.network_names.get(name).ok_or_else(|| missing("network", name))?;
        let network = self.network(id);
        if !network.ports.is_empty() {
            let why = format!("{} endpoints are attached; detach them first", network.ports.len());
            return Err(CommandError::Busy { what: "network", name: name.to_owned(), why });
        }
        if let Some(subnet) = network.subnet() {
            self.routes.remove(subnet);
        }
        self.network_names.remove(name);
        let gone = self.networks[usize::from(id.0)].take();
        for Held { from, .. } in gone.into_iter().flat_map(|n| n.neighbours.into_held()) {
            self.count_drop(from, DropReason::NeighbourFailed);
        }
        Ok(Applied::Done)
    }

    fn reserve(&mut self, request: EndpointRequest, now: Instant) -> Result<Endpoint, CommandError> {
        check_name("name", &request.name, 128)?;
        check_ifname(&request.ifname)?;
        let id = *self.network_names.get(&request.network).ok_or_else(|| missing("network", &request.network))?;
        let taken = self
            .ports
            .iter()
            .filter_map(|(_, p)| p.attachment())
            .find(|a| a.name == request.name && a.ifname == request.ifname);
        if taken.is_some() {
            return Err(CommandError::Exists {
                what: "endpoint",
                name: format!("{} {}", request.name, request.ifname),
            });
        }
        let wanted = request.ip;
        let ip = self.choose_ip(id, wanted)?;
        let mac = self.choose_mac(id, request.mac, ip)?;
        let net = self.network(id);
        let (rate, mtu) = (net.config.flood_rate, net.config.mtu);
        let gateway = net.gateway().filter(|_| !net.config.internal);
        let prefix = net.subnet().map(|s| s.bits());
        let role = Role::Endpoint(Attachment {
            name: request.name,
            ifname: request.ifname,
            network: id,
            ip,
            mac,
            isolated: request.isolated,
        });
        let port = self
            .ports
            .insert(Port::pending(role, rate, now))
            .ok_or(CommandError::Full { what: "ports", limit: super::network::MAX_PORTS })?;
        let net = self.network_mut(id);
        let place = net.ports.partition_point(|other| *other < port);
        net.ports.insert(place, port);
        net.owners.claim(Owner::Port(port), mac, ip);
        if let (None, Some(lowest)) = (wanted, ip) {
            net.taken_below = lowest.low32() + 1; // under the broadcast address
        }
        let ip = ip.zip(prefix).and_then(|(ip, bits)| Cidr::new(ip, bits));
        Ok(Endpoint { port, ip, mac, gateway, mtu })
    }

    fn choose_ip(&self, id: NetworkId, wanted: Option<Addr>) -> Result<Option<Addr>, CommandError> {
        let net = self.network(id);
        let name = &net.config.name;
        let Some(subnet) = net.subnet() else {
            return match wanted {
                Some(ip) => {
                    Err(invalid("ip", format!("{ip}: network '{name}' has no subnet; attach without an address")))
                }
                None => Ok(None),
            };
        };
        let first = subnet.network().addr();
        if let Some(ip) = wanted {
            if !subnet.contains(ip) || ip == first || Some(ip) == subnet.broadcast() {
                return Err(invalid("ip", format!("{ip} is not a host address of {subnet}, the subnet of '{name}'")));
            }
            return match net.owners.addr(ip) {
                Some(owner) => Err(invalid("ip", format!("{ip} is already {}; take another", self.owner_name(owner)))),
                None => Ok(Some(ip)),
            };
        }
        let last = subnet.broadcast().map_or(first.low32(), Addr::low32);
        (net.taken_below.max(first.low32() + 1)..last)
            .map(|ip| Addr::v4(ip.to_be_bytes()))
            .find(|ip| net.owners.addr(*ip).is_none())
            .map(Some)
            .ok_or(CommandError::Full { what: "addresses of the subnet", limit: (last - first.low32()) as usize - 1 })
    }

    fn choose_mac(&mut self, id: NetworkId, choice: MacChoice, ip: Option<Addr>) -> Result<Mac, CommandError> {
        let mac = match (choice, ip.and_then(Addr::as_v4)) {
            (MacChoice::Given(mac), _) if !mac.is_station() => {
                return Err(invalid(
                    "mac",
                    format!("{mac} is not a unicast address; take one whose first byte is even"),
                ));
            }
            (MacChoice::Given(mac), _) => mac,
            (MacChoice::FromIp, Some(v4)) => Mac::from_ipv4(v4.into()),
            (MacChoice::FromIp, None) => {
                return Err(invalid("mac", "cannot be made from an address that is not there"));
            }
            (MacChoice::Random, _) => {
                let mut mac = Mac::from_random(self.random.next_u64());
                while self.network(id).owners.mac(mac).is_some() {
                    mac = Mac::from_random(self.random.next_u64());
                }
                mac
            }
        };
        match self.network(id).owners.mac(mac) {
            Some(owner) => Err(invalid("mac", format!("{mac} is already {}; take another", self.owner_name(owner)))),
            None => Ok(mac),
        }
    }

    fn owner_name(&self, owner: Owner) -> String {
        match owner {
            Owner::Gateway => "the gateway's".to_owned(),
            Owner::Port(port) => match self.ports.get(port).and_then(|p| p.attachment()) {
                Some(attachment) => format!("that of '{}'", attachment.name),
                None => "taken".to_owned(),
            },
        }
    }

    fn open(&mut self, port: PortId, caps: Caps, now: Instant, world: &mut dyn World) -> Result<Applied, CommandError> {
        let entry = self.ports.get_mut(port).ok_or_else(|| missing("port", &port.to_string()))?;
        entry.caps = caps;
        entry.state = PortState::Up;
        let Some(attachment) = entry.attachment().cloned() else { return Ok(Applied::Done) };
        let net = self.network_mut(attachment.network);
        net.fdb.add_permanent(attachment.mac, port, now);
        if let Some(ip) = attachment.ip {
            let held = net.neighbours.add_permanent(ip, attachment.mac, port, now);
            self.release_held(attachment.network, ip, held, now, world);
            if let Some(entry) = self.ports.get_mut(port) {
                self.announcing.remove(&(entry.announce.1, port)); // of an earlier opening
                entry.announce = (ANNOUNCEMENTS, now);
                self.announcing.insert((now, port));
            }
        }
        Ok(Applied::Done)
    }

    fn set_link(&mut self, port: PortId, up: bool) -> Result<Applied, CommandError> {
        let entry = self.ports.get_mut(port).ok_or_else(|| missing("port", &port.to_string()))?;
        if entry.state == PortState::Pending {
            return Err(CommandError::Busy {
                what: "port",
                name: port.to_string(),
                why: "it has no device yet; open it first".to_owned(),
            });
        }
        entry.state = if up { PortState::Up } else { PortState::Down };
        if let (false, Some(network)) = (up, entry.attachment().map(|a| a.network)) {
            self.network_mut(network).fdb.flush_port(port);
        }
        Ok(Applied::Done)
    }

    pub(super) fn detach(
        &mut self,
        port: PortId,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<Progress, CommandError> {
        let entry = self.ports.remove(port).ok_or_else(|| missing("port", &port.to_string()))?;
        self.departed.absorb(&entry.counters);
        self.announcing.remove(&(entry.announce.1, port));
        self.frags.forget(port);
        let tags: Vec<u32> = self.nat.withdraw_port(port).iter().map(|p| p.tag).collect();
        self.close_doors(&tags, now, world);
        let mut gone = self.detach_sockets(port, now, world);
        match entry.role {
            Role::Endpoint(attachment) => {
                let net = self.network_mut(attachment.network);
                net.ports.retain(|p| *p != port);
                net.owners.release(attachment.mac, attachment.ip);
                if let Some(ip) = attachment.ip {
                    net.taken_below = net.taken_below.min(ip.low32());
                }
                net.fdb.forget(attachment.mac);
                net.fdb.flush_port(port);
                net.neighbours.flush_port(port);
            }
            Role::Uplink => {
                self.uplink = None;
                gone += self.drop_socket_uplink(now, world);
                gone += self.remove_all_flows(); // the next uplink may have another address (R29)
            }
        }
        // By tag as well: hairpin flows are charged to their clients.
        Ok(self.remove_flows(Some(vec![OwnerId(port.0)]), tags, VecDeque::new(), gone, now, world))
    }

    /// Is `ip` the gateway's in one of the networks?
    pub(super) fn is_gateway(&self, ip: Addr) -> bool {
        self.networks.iter().flatten().any(|n| n.gateway() == Some(ip))
    }

    fn set_uplink(&mut self, config: UplinkConfig, now: Instant) -> Result<Applied, CommandError> {
        if self.socket_uplink.is_some() {
            let why = "its flows end in sockets of the host; start without it to use a device".to_owned();
            return Err(CommandError::Busy { what: "uplink", name: "sockets".to_owned(), why });
        }
        if !config.address.is_v4() || !config.address.is_routable_source() {
            return Err(invalid("uplink address", format!("{} is not an IPv4 host address", config.address)));
        }
        if !MTU.contains(&config.mtu) {
            return Err(invalid(
                "uplink mtu",
                format!("{} is out of range; {} to {}", config.mtu, MTU.start(), MTU.end()),
            ));
        }
        for net in self.networks.iter().flatten() {
            if net.subnet().is_some_and(|s| s.contains(config.address)) {
                let (name, address) = (&net.config.name, config.address);
                return Err(invalid("uplink address", format!("{address} lies in the subnet of network '{name}'")));
            }
        }
        let mut flushed = 0;
        if let Some(old) = self.uplink {
            if old.address != config.address {
                flushed = self.remove_all_flows(); // R29
            }
        } else {
            self.routes.insert(Cidr::new(Addr::V4_UNSPECIFIED, 0).expect("zero bits fit"), Target::Uplink);
        }
        let port = match self.uplink {
            Some(old) => old.port,
            None => self
                .ports
                .insert(Port::pending(Role::Uplink, u32::MAX, now))
                .ok_or(CommandError::Full { what: "ports", limit: super::network::MAX_PORTS })?,
        };
        self.uplink =
            Some(Uplink { port, address: config.address, mtu: usize::from(config.mtu), mss_clamp: config.mss_clamp });
        Ok(if flushed > 0 { Applied::Flushed(flushed) } else { Applied::Uplink(port) })
    }

    fn add_rule(&mut self, rule: StaticRule) -> Result<Applied, CommandError> {
        if self.nat.rules().len() >= MAX_RULES {
            return Err(CommandError::Full { what: "rules", limit: MAX_RULES });
        }
        if self.nat.rules().contains(&rule) {
            return Err(CommandError::Exists { what: "rule", name: "as given".to_owned() });
        }
        match rule {
            StaticRule::Dnat { port: 0, .. } | StaticRule::Dnat { to_port: 0, .. } => {
                return Err(invalid("port", "a port is 1 to 65535"));
            }
            StaticRule::Dnat { dst, to, .. }
                if !dst.is_v4() || !to.is_v4() || !to.is_routable_source() && !self.names_host(to) =>
            {
                return Err(invalid("to", format!("{to} is not an IPv4 host address")));
            }
            StaticRule::Snat { .. } | StaticRule::NoNat { .. } if self.socket_uplink.is_some() => {
                return Err(invalid(
                    "rule",
                    "over host sockets the host chooses sources; see --outbound-address, or take a TUN for the uplink",
                ));
            }
            StaticRule::Snat { to, .. } if !to.is_v4() || !to.is_routable_source() => {
                return Err(invalid("to", format!("{to} is not an IPv4 host address")));
            }
            StaticRule::Snat { to, .. } if matches!(self.routes.lookup(to), Some(Target::Network(_))) => {
                return Err(invalid(
                    "to",
                    format!("{to} lies in a network of ours; take an address of the uplink's side"),
                ));
            }
            StaticRule::Dnat { .. } | StaticRule::Snat { .. } | StaticRule::NoNat { .. } => {}
        }
        self.nat.add_rule(rule);
        Ok(Applied::Done)
    }

    pub(super) fn flush_flows(
        &mut self,
        name: Option<&str>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<Progress, CommandError> {
        let is_meant = |p: &Port| name.is_none_or(|name| p.attachment().is_some_and(|a| a.name == name));
        let owners: Vec<PortId> = self.ports.iter().filter(|(_, p)| is_meant(p)).map(|(id, _)| id).collect();
        if let (Some(name), []) = (name, &owners[..]) {
            return Err(missing("endpoint", name));
        }
        let over_sockets = owners.iter().map(|owner| (*owner, self.socket_flows_of(*owner))).collect();
        let charged = name.map(|_| owners.iter().map(|owner| OwnerId(owner.0)).collect());
        Ok(self.remove_flows(charged, Vec::new(), over_sockets, 0, now, world))
    }

    fn remove_all_flows(&mut self) -> usize {
        let owners: Vec<_> = self.ports.iter().map(|(id, _)| OwnerId(id.0)).collect();
        owners.into_iter().map(|owner| self.flows.remove_owner(owner)).sum()
    }

    /// Looks.
    pub fn query(&mut self, query: &Query, now: Instant) -> Answer {
        match *query {
            Query::Networks => Answer::Networks(self.networks.iter().flatten().map(network_view).collect()),
            Query::Ports => Answer::Ports(self.ports.iter().map(|(id, p)| self.port_view(id, p)).collect()),
            Query::Published => Answer::Published(
                self.nat
                    .list()
                    .into_iter()
                    .map(|p| PublishedView { name: p.name.clone(), container_ip: p.ip, publication: p.publication })
                    .collect(),
            ),
            Query::Rules => Answer::Rules(self.nat.rules().to_vec()),
            Query::Fdb { cursor, max } => Answer::Fdb(self.fdb_page(cursor, max.clamp(1, MAX_PAGE), now)),
            Query::Flows { cursor, max } => Answer::Flows(self.flow_page(cursor, max, now)),
            Query::Routes => Answer::Routes(self.routes.list().into_iter().map(|r| self.route_view(r)).collect()),
            Query::Neighbours { cursor, max } => {
                Answer::Neighbours(self.neighbour_page(cursor, max.clamp(1, MAX_PAGE), now))
            }
            Query::Stats => Answer::Stats(self.stats()),
        }
    }

    fn port_view(&self, id: PortId, port: &Port) -> PortView {
        let attachment = port.attachment();
        PortView {
            port: id,
            name: attachment.map_or_else(|| "uplink".to_owned(), |a| a.name.clone()),
            ifname: attachment.map_or_else(String::new, |a| a.ifname.clone()),
            network: attachment.map(|a| self.network(a.network).config.name.clone()),
            ip: attachment.map_or(self.uplink.map(|u| u.address), |a| a.ip),
            mac: attachment.map(|a| a.mac),
            state: match port.state {
                PortState::Pending => "pending",
                PortState::Up => "up",
                PortState::Down => "down",
            },
            vnet: port.caps.vnet,
            uso: port.caps.uso,
            isolated: attachment.is_some_and(|a| a.isolated),
            rx: port.counters.rx,
            tx: port.counters.tx,
            drops: port.counters.drops().collect(),
        }
    }

    pub(super) fn name_of(&self, port: PortId) -> String {
        self.ports.get(port).and_then(|p| p.attachment()).map_or_else(|| "uplink".to_owned(), |a| a.name.clone())
    }

    /// Whole ports, until there are `max` rows: what one port may have learned bounds a page. The cursor is the network, and
    /// the port to begin with.
    fn fdb_page(&self, cursor: u64, max: usize, now: Instant) -> Page<FdbView> {
        let (from, first) = split_cursor(cursor);
        let mut rows = Vec::new();
        for (at, net) in (from..).zip(self.networks.get(from as usize..).unwrap_or_default()) {
            let Some(net) = net else { continue };
            let known = if at == from { net.ports.partition_point(|port| port.0 < first) } else { 0 };
            for port in &net.ports[known..] {
                if rows.len() >= max {
                    return Page { rows, next: Some(u64::from(at) << 32 | u64::from(port.0)) };
                }
                let Some(own) = self.ports.get(*port).and_then(|p| p.attachment()).map(|a| a.mac) else { continue };
                rows.extend(net.fdb.stations_of(*port, own, now).into_iter().map(|(mac, station)| FdbView {
                    network: net.config.name.clone(),
                    mac,
                    port: station.port,
                    name: self.name_of(station.port),
                    permanent: station.permanent,
                    age_seconds: now.since(station.seen).as_secs(),
                }));
            }
        }
        Page { rows, next: None }
    }

    /// The cursor is the network, and how many of its neighbours have been told.
    fn neighbour_page(&self, cursor: u64, max: usize, now: Instant) -> Page<NeighbourView> {
        let (from, told) = split_cursor(cursor);
        let mut rows = Vec::new();
        for (at, net) in (from..).zip(self.networks.get(from as usize..).unwrap_or_default()) {
            let Some(net) = net else { continue };
            let skip = if at == from { told as usize } else { 0 };
            let (listed, more) = net.neighbours.list(skip, max - rows.len(), now);
            let end = skip + listed.len();
            rows.extend(listed.into_iter().map(|(ip, mac, state, held)| NeighbourView {
                network: net.config.name.clone(),
                ip,
                mac,
                state,
                held,
            }));
            if more {
                return Page { rows, next: Some(u64::from(at) << 32 | end as u64) };
            }
        }
        Page { rows, next: None }
    }

    /// Tracked flows first, then those over host sockets: the upper half of the cursor says which.
    fn flow_page(&mut self, cursor: u64, max: usize, now: Instant) -> Page<FlowView> {
        let table = cursor >> 32;
        let mut page = match table {
            0 => self.tracked_page(cursor, max, now),
            _ => self.socket_flow_page(table, cursor & u64::from(u32::MAX), max.clamp(1, MAX_PAGE), now),
        };
        if page.next.is_none() && table < SOCKET_TABLES && self.socket_uplink.is_some() {
            page.next = Some((table + 1) << 32);
        }
        page
    }

    fn tracked_page(&mut self, cursor: u64, max: usize, now: Instant) -> Page<FlowView> {
        let cursor = u32::try_from(cursor).unwrap_or(u32::MAX);
        let page = self.flows.flows(cursor, max.clamp(1, MAX_PAGE), now);
        let rows = page
            .flows
            .iter()
            .map(|(_, flow)| {
                let line = flow.line(self.flows.remaining(flow, now));
                let traffic = |dir| Traffic { frames: flow.packets(dir), bytes: flow.bytes(dir) };
                let both = (traffic(Direction::Original), traffic(Direction::Reply));
                FlowView::new(&line, self.name_of(PortId(flow.owner.0)), both)
            })
            .collect();
        Page { rows, next: page.next.map(u64::from) }
    }

    fn route_view(&self, (dst, target): (Cidr, Target)) -> RouteView {
        match target {
            Target::Network(id) => {
                let net = self.network(id);
                RouteView { dst, dev: net.config.name.clone(), src: net.gateway() }
            }
            Target::Uplink => RouteView { dst, dev: "uplink".to_owned(), src: self.uplink.map(|u| u.address) },
        }
    }

    fn stats(&self) -> StatsView {
        let mut total = self.departed.clone();
        for (_, port) in self.ports.iter() {
            total.absorb(&port.counters);
        }
        let flows = self.flows.stats();
        let hits = &self.rules;
        StatsView {
            ports: self.ports.len(),
            networks: self.networks.iter().flatten().count(),
            flows: flows.flows as usize + self.socket_flows(),
            flow_limit: self.flows.limit() as usize,
            flows_evicted: flows.evicted_unreplied + flows.evicted_closing + flows.evicted_unassured,
            flows_refused: flows.refused_table + flows.refused_quota + flows.refused_clash,
            rules: vec![
                ("established", hits.established),
                ("outbound", hits.outbound),
                ("icc", hits.icc),
                ("published", hits.published),
                ("policy-drop", hits.policy_drop),
            ],
            drops: total.drops().collect(),
            icmp_errors_sent: self.icmp_limit.sent,
            icmp_errors_limited: self.icmp_limit.limited,
        }
    }
}

fn network_view(net: &Network) -> NetworkView {
    let config = &net.config;
    NetworkView {
        name: config.name.clone(),
        subnet: config.subnet.map(|s| s.network()),
        gateway: config.gateway,
        gateway_mac: net.gateway_mac,
        mtu: config.mtu,
        internal: config.internal,
        icc: config.icc,
        masquerade: config.masquerade,
        guard: config.guard,
        ageing_seconds: config.ageing.as_secs(),
        flood_rate: config.flood_rate,
        endpoints: net.ports.len(),
        stations: net.fdb.len(),
    }
}

/// The network of a cursor, and where in it.
fn split_cursor(cursor: u64) -> (u32, u32) {
    ((cursor >> 32) as u32, cursor as u32) // the halves
}

fn check_name(field: &'static str, name: &str, max: usize) -> Result<(), CommandError> {
    let sound = name.len() <= max
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if sound {
        return Ok(());
    }
    let shown: String = name.chars().take(32).collect();
    Err(invalid(field, format!("'{shown}': 1 to {max} of letters, digits, '_', '.', '-', the first a letter or digit")))
}

/// A prefix that packets can be routed to.
fn check_route(dst: Cidr) -> Result<(), CommandError> {
    let first = dst.network().addr();
    if !first.is_v4() {
        return Err(invalid("dst", format!("{dst}: IPv6 is not routed yet; give an IPv4 prefix, as 10.0.0.0/8")));
    }
    if dst.addr() != first {
        return Err(invalid("dst", format!("{dst} has bits beyond its length; write {}", dst.network())));
    }
    if dst.bits() >= 8 && (!first.is_routable_source() || is_reserved(first)) {
        return Err(invalid(
            "dst",
            format!("{dst} cannot be routed; give a prefix of ordinary addresses, as 10.0.0.0/8"),
        ));
    }
    Ok(())
}

/// Is it of 240.0.0.0/4 (RFC 1112 4)?
fn is_reserved(addr: Addr) -> bool {
    addr.as_v4().is_some_and(|v4| v4[0] >= 240)
}

/// Linux `dev_valid_name`; `all` and `default` are what its settings of all devices are called.
fn check_ifname(name: &str) -> Result<(), CommandError> {
    let sound = (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && !["lo", "all", "default"].contains(&name)
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    if sound {
        return Ok(());
    }
    let shown: String = name.chars().take(32).collect();
    Err(invalid(
        "ifname",
        format!(
            "'{shown}' is no device name of a container: 1 to 15 characters without '/', ':', '%' or space, as eth0"
        ),
    ))
}
