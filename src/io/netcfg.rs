//! The inside of a network namespace: link, addresses and routes, by netlink.
//!
//! # Theory of operation
//! [`give`] runs in the namespace (the socket belongs to the one in which it is made) and brings a device to a
//! [`Config`]: what is already so is left alone, so that a device of an earlier run is adopted without a gap, and a
//! device that an administrator prepared needs no privilege at all. The order is the kernel's: lo, MAC before up, up,
//! addresses (the connected routes come with them), routes last. An error names the step; what a device was [`Given`]
//! until then, or until it is detached, [`undo`] takes back.
//!
//! A default route is only for a namespace that has none: where one leads by another device, whoever made it, it stays,
//! and ours is left out. Other routes replace the one that is there (of the same metric), and undoing does not bring that
//! one back.
//!
//! # Limits
//! `gso_max_segs` and the queue length are wishes: a kernel or a device that refuses them is served without.
//!
//! # References
//! rtnetlink(7); Linux `net/core/rtnetlink.c`, `net/ipv4/devinet.c`, `net/ipv4/fib_frontend.c`.

use std::fmt;
use std::net::IpAddr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::wire::addr::{Addr, Cidr};
use crate::wire::mac::Mac;

/// Frames the kernel keeps for us while we do not read. Its own defaults (1,000 on a TAP, 500 on a TUN) are one burst of
/// a few senders, and what does not fit is dropped from the tail.
pub const QUEUE_LEN: u32 = 4_000;

/// A super-frame of more segments than this is not taken at the door, so the kernel should not build one.
pub const GSO_MAX_SEGS: u32 = 128;

/// How the ifalias of a device that we made begins: only such a one is removed when found again and detached.
pub const ALIAS: &str = "pontoon";

/// A route through the device that is configured; without `via` its destinations are neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub to: Cidr,
    pub via: Option<Addr>,
}

/// What a device is to be like. An empty `Config` leaves it as it is but brings it up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    /// What the namespace sees, behind [`ALIAS`], as the alias of a device of ours: the port's name.
    pub label: Option<String>,
    /// `None`: as it is; of a new device random, chosen by the kernel.
    pub mac: Option<Mac>,
    /// Bytes, without the Ethernet header.
    pub mtu: Option<u32>,
    /// Frames; `None`: [`QUEUE_LEN`].
    pub queue_len: Option<u32>,
    /// Other addresses, and other static routes, of a device of ours are removed. None at all: what is there stays.
    pub addresses: Vec<Cidr>,
    /// In this order.
    pub routes: Vec<Route>,
}

impl fmt::Display for Route {
    /// As `ip route` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.via {
            Some(via) => write!(f, "{} via {via}", self.to),
            None => write!(f, "{}", self.to),
        }
    }
}

impl Route {
    /// Everything of `via`'s family.
    pub fn default_via(via: Addr) -> Self {
        let everywhere = Cidr::new(via, 0).expect("no address is shorter than 0 bits").network();
        Self { to: everywhere, via: Some(via) }
    }
}

impl Config {
    /// Adds a default route.
    #[must_use]
    pub fn with_gateway(mut self, via: Addr) -> Self {
        self.routes.push(Route::default_via(via));
        self
    }
}

/// What [`give`] changed of a device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Given {
    /// It was down.
    pub up: bool,
    /// What it had before, of what was changed.
    pub mac: Option<Mac>,
    pub mtu: Option<u32>,
    pub queue_len: Option<u32>,
    /// What it had not.
    pub addresses: Vec<Cidr>,
    pub routes: Vec<Route>,
}

/// What a device is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub index: u32,
    /// A TUN has none.
    pub mac: Option<Mac>,
    pub mtu: u32,
    pub queue_len: u32,
    pub up: bool,
    pub alias: Option<String>,
    pub addresses: Vec<Cidr>,
}

impl Link {
    /// Whether pontoon made it.
    pub fn is_ours(&self) -> bool {
        let rest = self.alias.as_ref().and_then(|a| a.strip_prefix(ALIAS));
        rest.is_some_and(|label| label.is_empty() || label.starts_with(' '))
    }
}

/// The kernel's counters of a device, from its namespace's side: `tx` is what we read, and `tx_dropped` what found no
/// room because we did not read fast enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{device}: cannot {step}: {reason}{hint}")]
pub struct NetcfgError {
    pub device: String,
    pub step: String,
    pub reason: Errno,
    hint: String,
}

/// As [`give`], where nobody will take it back.
pub fn apply(name: &str, config: &Config, made: bool) -> Result<Link, NetcfgError> {
    give(name, config, made, &mut Given::default())
}

/// Brings the device `name`, of the calling thread's network namespace, to `config`.
///
/// `made`: we made it just now, so it is marked as ours. Each change is noted in `given` as soon as it is made.
pub fn give(name: &str, config: &Config, made: bool, given: &mut Given) -> Result<Link, NetcfgError> {
    let Config { label, mac, mtu, queue_len, addresses, routes } = config;
    let mut netlink = explain(name, Netlink::open(), "open a netlink socket", "")?;
    let lo = explain(name, netlink.link("lo"), "find lo", "")?;
    if !lo.up {
        let done = netlink.set_up(lo.index, true);
        explain(name, done, "bring lo up", "link set lo up")?;
    }

    let link = explain(name, netlink.link(name), "find the device", "")?;
    let index = link.index;
    let ours = made || link.is_ours();
    let alias = match label {
        Some(label) => format!("{ALIAS} {label}"),
        None => ALIAS.into(),
    };
    if ours && link.alias.as_ref() != Some(&alias) {
        let done = netlink.set_link(index, LinkAttribute::IfAlias(alias));
        explain(name, done, "mark it as ours", "")?;
    }
    if let Some(mac) = *mac
        && link.mac != Some(mac)
    {
        let done = netlink.set_link(index, LinkAttribute::Address(mac.0.to_vec()));
        let command = format!("link set {name} address {mac}");
        explain(name, done, &format!("set its MAC to {mac}"), &command)?;
        given.mac = link.mac;
    }
    if let Some(mtu) = *mtu
        && link.mtu != mtu
    {
        let done = netlink.set_link(index, LinkAttribute::Mtu(mtu));
        let command = format!("link set {name} mtu {mtu}");
        explain(name, done, &format!("set its MTU to {mtu}"), &command)?;
        given.mtu = Some(link.mtu);
    }
    let queue_len = queue_len.unwrap_or(QUEUE_LEN);
    if link.queue_len != queue_len {
        let len = link.queue_len;
        match netlink.set_link(index, LinkAttribute::TxQueueLen(queue_len)) {
            Ok(()) => given.queue_len = Some(len),
            Err(reason) => log::info!("{name}: its queue stays {len} frames long: {reason}"),
        }
    }
    if let Err(reason) = netlink.set_link(index, LinkAttribute::GsoMaxSegs(GSO_MAX_SEGS)) {
        log::debug!("{name}: gso_max_segs stays as it is: {reason}");
    }
    if !link.up {
        let command = format!("link set {name} up");
        explain(name, netlink.set_up(index, true), "bring it up", &command)?;
        given.up = true;
    }

    if ours && !made && !addresses.is_empty() {
        explain(name, netlink.remove_others(&link, config), "clear it", "")?;
    }
    // Read again: with a primary address the kernel removes the secondary ones of its network.
    let present = explain(name, netlink.addresses(index), "read its addresses", "")?;
    for &address in addresses.iter().filter(|new| !present.contains(new)) {
        let done = netlink.add_address(index, address);
        let command = format!("addr add {address} dev {name}");
        explain(name, done, &format!("add the address {address}"), &command)?;
        given.addresses.push(address);
    }
    for route in routes {
        let found = explain(name, netlink.routes(), "read the routes", "")?;
        if found.iter().any(|found| is_route(found, index, route)) {
            continue;
        }
        if route.to.bits() == 0 && found.iter().any(|found| leads_everywhere(found, route.to.addr().is_v4(), index)) {
            log::info!("{name}: not the default route: there is one by another device");
            continue;
        }
        let done = netlink.replace_route(index, route);
        let command = format!("route replace {route} dev {name}");
        explain(name, done, &format!("route {route}"), &command)?;
        given.routes.push(*route);
    }
    explain(name, netlink.link(name), "read it back", "")
}

/// Names the step that failed. The cure of EPERM is always the same: what we may not do, an administrator may, by
/// `ip COMMAND`.
fn explain<T>(device: &str, done: Result<T, Errno>, step: &str, command: &str) -> Result<T, NetcfgError> {
    done.map_err(|reason| NetcfgError {
        device: device.into(),
        step: step.into(),
        reason,
        hint: if reason == Errno::PERM && !command.is_empty() {
            format!("; have an administrator do it: ip {command}")
        } else {
            String::new()
        },
    })
}

/// Takes from the device `name` what it was given, and with its addresses the routes that need them. What is gone already
/// is no error.
pub fn undo(name: &str, given: &Given) -> Result<(), NetcfgError> {
    let Given { up, mac, mtu, queue_len, addresses, routes } = given;
    let mut netlink = explain(name, Netlink::open(), "open a netlink socket", "")?;
    let link = match netlink.link(name) {
        Err(Errno::NODEV) => return Ok(()),
        link => explain(name, link, "find the device", "")?,
    };
    let index = link.index;
    for route in routes {
        let done = match netlink.remove_route(index, route) {
            Err(Errno::SRCH) => Ok(()),
            done => done,
        };
        explain(name, done, &format!("remove the route {route}"), "")?;
    }
    for &address in addresses.iter().filter(|address| link.addresses.contains(address)) {
        let done = netlink.remove_address(index, address);
        explain(name, done, &format!("remove the address {address}"), "")?;
    }
    if *up {
        explain(name, netlink.set_up(index, false), "take it down", "")?;
    }
    let before = [
        mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())),
        mtu.map(LinkAttribute::Mtu),
        queue_len.map(LinkAttribute::TxQueueLen),
    ];
    for attribute in before.into_iter().flatten() {
        explain(name, netlink.set_link(index, attribute), "give it back what it had", "")?;
    }
    Ok(())
}

/// The device `name` of the calling thread's network namespace.
pub fn link(name: &str) -> Result<Link, NetcfgError> {
    let link = Netlink::open().and_then(|mut netlink| netlink.link(name));
    explain(name, link, "read the device", "")
}

/// The counters of the device `name` of the calling thread's network namespace.
pub fn link_stats(name: &str) -> Result<LinkStats, NetcfgError> {
    let stats = Netlink::open().and_then(|mut netlink| netlink.stats(name));
    explain(name, stats, "read its counters", "")
}

/// Makes a veth pair, both ends down: `name` in the calling thread's network namespace, `peer` in that of process `pid`.
pub fn make_veth(name: &str, peer: &str, pid: u32) -> Result<(), NetcfgError> {
    let mut other = LinkMessage::default();
    other.attributes = vec![LinkAttribute::IfName(peer.into()), LinkAttribute::NetNsPid(pid)];
    let pair = InfoData::Veth(InfoVeth::Peer(other));
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(pair)]),
    ];
    let made = Netlink::open()
        .and_then(|mut netlink| netlink.order(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL));
    explain(name, made, &format!("make it a veth pair with {peer} of process {pid}"), "")
}

/// Has the kernel forward the IPv4 packets that come by the device `name` of the calling thread's network namespace: the
/// sysctl `net.ipv4.conf.NAME.forwarding`, by netlink, because in many a container /proc/sys may not be written to.
pub fn forward_v4(name: &str) -> Result<(), NetcfgError> {
    let mut conf = InetDevConf::default();
    conf.forwarding = 1; // a request carries only what is not 0
    let spec = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
    let set = Netlink::open().and_then(|mut netlink| {
        let index = netlink.link_message(name)?.header.index;
        netlink.set_link(index, LinkAttribute::AfSpecUnspec(vec![spec]))
    });
    explain(name, set, "have the kernel forward what comes by it", "")
}

/// A netlink socket on which one request is answered before the next is sent.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, Errno> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self { socket, sequence: 0 })
        };
        open().map_err(|error: std::io::Error| errno_of(&error))
    }

    fn link(&mut self, name: &str) -> Result<Link, Errno> {
        let message = self.link_message(name)?;
        let mut link = Link {
            index: message.header.index,
            mac: None,
            mtu: 0,
            queue_len: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            alias: None,
            addresses: self.addresses(message.header.index)?,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::TxQueueLen(len) => link.queue_len = len,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                _ => {}
            }
        }
        Ok(link)
    }

    fn stats(&mut self, name: &str) -> Result<LinkStats, Errno> {
        let message = self.link_message(name)?;
        let stats = message.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(LinkStats {
                rx_packets: stats.rx_packets,
                rx_bytes: stats.rx_bytes,
                rx_errors: stats.rx_errors,
                rx_dropped: stats.rx_dropped,
                tx_packets: stats.tx_packets,
                tx_bytes: stats.tx_bytes,
                tx_errors: stats.tx_errors,
                tx_dropped: stats.tx_dropped,
            }),
            _ => None,
        });
        stats.ok_or(Errno::OPNOTSUPP)
    }

    fn link_message(&mut self, name: &str) -> Result<LinkMessage, Errno> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        let answers = self.request(RouteNetlinkMessage::GetLink(message), 0)?;
        let found = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        found.ok_or(Errno::NODEV)
    }

    /// The addresses that somebody gave to the device: not the link-local one that the kernel makes for itself.
    fn addresses(&mut self, index: u32) -> Result<Vec<Cidr>, Errno> {
        let answers = self.request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                let kernels =
                    message.header.family == AddressFamily::Inet6 && message.header.scope == AddressScope::Link;
                let prefix = message.header.prefix_len;
                // Of a point-to-point address IFA_ADDRESS is the peer; IFA_LOCAL is always the local one, if it is there.
                let local = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Local(addr) => Some(*addr),
                    _ => None,
                });
                let address = message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(addr) => Some(*addr),
                    _ => None,
                });
                local.or(address).filter(|_| !kernels).and_then(|addr| Cidr::new(addr.into(), prefix))
            }
            _ => None,
        });
        Ok(addresses.collect())
    }

    fn set_link(&mut self, index: u32, attribute: LinkAttribute) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(attribute);
        self.order(RouteNetlinkMessage::SetLink(message), 0)
    }

    fn set_up(&mut self, index: u32, up: bool) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
        self.order(RouteNetlinkMessage::SetLink(message), 0)
    }

    fn add_address(&mut self, index: u32, address: Cidr) -> Result<(), Errno> {
        let mut message = address_message(index, address);
        let broadcast = address.broadcast().and_then(Addr::as_v4);
        message.attributes.extend(broadcast.map(|octets| AddressAttribute::Broadcast(octets.into())));
        self.order(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn remove_address(&mut self, index: u32, address: Cidr) -> Result<(), Errno> {
        self.order(RouteNetlinkMessage::DelAddress(address_message(index, address)), 0)
    }

    fn replace_route(&mut self, index: u32, route: &Route) -> Result<(), Errno> {
        let message = route_message(index, route);
        self.order(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn remove_route(&mut self, index: u32, route: &Route) -> Result<(), Errno> {
        self.order(RouteNetlinkMessage::DelRoute(route_message(index, route)), 0)
    }

    /// Removes from a device of an earlier run what `config` does not ask for: addresses, and the static routes, which
    /// were that run's (what somebody adds by hand has another protocol).
    fn remove_others(&mut self, link: &Link, config: &Config) -> Result<(), Errno> {
        for route in self.routes()?.into_iter().filter(|route| leads_by(route, link.index)) {
            let wanted = |wanted: &Route| is_route(&route, link.index, wanted);
            if route.header.protocol == RouteProtocol::Static && !config.routes.iter().any(wanted) {
                self.order(RouteNetlinkMessage::DelRoute(route), 0)?;
            }
        }
        let other = |old: &&Cidr| !config.addresses.contains(old);
        for &old in link.addresses.iter().filter(other) {
            match self.remove_address(link.index, old) {
                // A secondary address, gone with its primary one.
                Ok(()) | Err(Errno::ADDRNOTAVAIL) => {}
                Err(reason) => return Err(reason),
            }
        }
        Ok(())
    }

    /// The routes of the main table, of both families.
    fn routes(&mut self) -> Result<Vec<RouteMessage>, Errno> {
        let message = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let answers = self.request(message, NLM_F_DUMP)?;
        let routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) if route.header.table == RouteHeader::RT_TABLE_MAIN => Some(route),
            _ => None,
        });
        Ok(routes.collect())
    }

    fn order(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Errno> {
        self.request(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends one request and collects its answers, up to the acknowledgement, the end of the dump, or the one answer.
    pub(super) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Errno> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(|error| errno_of(&error))?;

        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full().map_err(|error| errno_of(&error))?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|_| Errno::PROTO)?;
                // Netlink aligns messages to 4 bytes; the last may end unaligned.
                let len = (answer.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(len..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(code) => Err(Errno::from_raw_os_error(code.get().abs())),
                        };
                    }
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Noop => {}
                    NetlinkPayload::Overrun(_) => return Err(Errno::OVERFLOW),
                    _ => return Err(Errno::PROTO),
                }
                if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 {
                    return Ok(answers);
                }
            }
        }
    }
}

/// Whether a route of the kernel's is this one.
fn is_route(found: &RouteMessage, index: u32, route: &Route) -> bool {
    let wanted = route_message(index, route);
    let has = |attribute: &RouteAttribute| found.attributes.contains(attribute);
    found.header.address_family == wanted.header.address_family
        && found.header.destination_prefix_length == wanted.header.destination_prefix_length
        && wanted.attributes.iter().all(has)
}

fn leads_by(route: &RouteMessage, index: u32) -> bool {
    route.attributes.contains(&RouteAttribute::Oif(index))
}

/// Whether a route of the kernel's is a default route that leads somewhere else than by this device.
fn leads_everywhere(found: &RouteMessage, v4: bool, index: u32) -> bool {
    let wanted = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
    found.header.address_family == wanted
        && found.header.destination_prefix_length == 0
        && found.header.kind == RouteType::Unicast
        && !leads_by(found, index)
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn family(addr: Addr) -> AddressFamily {
    if addr.is_v4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(index: u32, address: Cidr) -> AddressMessage {
    let local = IpAddr::from(address.addr());
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr());
    message.header.prefix_len = address.bits();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Address(local));
    if local.is_ipv4() {
        message.attributes.push(AddressAttribute::Local(local));
    }
    message
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
    // The kernel refuses host bits in a destination.
    let to = IpAddr::from(route.to.network().addr());
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.to.addr());
    message.header.destination_prefix_length = route.to.bits();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    if route.to.bits() > 0 {
        message.attributes.push(RouteAttribute::Destination(to.into()));
    }
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(IpAddr::from(via).into())));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_ours_by_its_alias_only() {
        let is_ours = |alias: Option<&str>| {
            let link = Link {
                index: 2,
                mac: None,
                mtu: 1500,
                queue_len: QUEUE_LEN,
                up: true,
                alias: alias.map(Into::into),
                addresses: Vec::new(),
            };
            link.is_ours()
        };
        assert!(is_ours(Some("pontoon")));
        assert!(is_ours(Some("pontoon web-1")));
        assert!(!is_ours(Some("pontoons of the harbour")));
        assert!(!is_ours(Some("")));
        assert!(!is_ours(None));
    }

    #[test]
    fn a_default_route_is_everything_of_the_gateways_family() {
        let route = |via: &str| Route::default_via(via.parse().expect("an address")).to_string();
        assert_eq!(route("172.17.0.1"), "0.0.0.0/0 via 172.17.0.1");
        assert_eq!(route("2001:db8::1"), "::/0 via 2001:db8::1");
    }
}
