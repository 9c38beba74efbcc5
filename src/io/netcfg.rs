//! The inside of a network namespace: link, addresses and routes, by netlink.
//!
//! # Theory of operation
//! [`apply`] runs in the namespace (the socket belongs to the one in which it is made) and brings a device to a
//! [`Config`]: what is already so is left alone, so that a device of an earlier run is adopted without a gap, and a
//! device that an administrator prepared needs no privilege at all. The order is the kernel's: lo, MAC before up, up,
//! addresses (the connected routes come with them), routes last. An error names the step; [`undo`] takes back what a
//! detached device that is not ours was given.
//!
//! # Limits
//! A default route replaces the one that is there (of the same metric), and undoing does not bring that one back.
//! `gso_max_segs` and the queue length are wishes: a kernel or a device that refuses them is served without.
//!
//! # References
//! rtnetlink(7); Linux `net/core/rtnetlink.c`, `net/ipv4/devinet.c`, `net/ipv4/fib_frontend.c`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Frames the kernel keeps for us while we do not read. Its own defaults (1,000 on a TAP, 500 on a TUN) are one burst of
/// a few senders, and what does not fit is dropped from the tail.
pub const QUEUE_LEN: u32 = 4_000;

/// A super-frame of more segments than this is not taken at the door, so the kernel should not build one.
pub const GSO_MAX_SEGS: u32 = 128;

/// The ifalias that marks a device as made by us: only such a one is removed when found again and detached.
pub const ALIAS: &str = "pontoon";

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    addr: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` if `prefix` is longer than an address of the family.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= width(addr)).then_some(Self { addr, prefix })
    }

    /// The address alone: /32 or /128.
    pub fn host(addr: IpAddr) -> Self {
        Self {
            addr,
            prefix: width(addr),
        }
    }

    /// Where a default route of `via`'s family goes: everywhere.
    pub fn everywhere(via: IpAddr) -> Self {
        let addr = match via {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        Self { addr, prefix: 0 }
    }

    pub fn addr(self) -> IpAddr {
        self.addr
    }

    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub fn contains(self, other: IpAddr) -> bool {
        self.addr.is_ipv4() == other.is_ipv4() && self.masked(other) == self.masked(self.addr)
    }

    /// Bits of the network, the host's bits zero.
    fn masked(self, addr: IpAddr) -> u128 {
        let (bits, width) = match addr {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let host = width - u32::from(self.prefix);
        bits.checked_shr(host).unwrap_or(0)
    }

    fn broadcast(self) -> Option<Ipv4Addr> {
        match self.addr {
            // RFC 3021: a /31 has none, and a /32 is no network.
            IpAddr::V4(v4) if self.prefix <= 30 => Some(Ipv4Addr::from_bits(
                v4.to_bits() | (u32::MAX >> self.prefix),
            )),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }
}

fn width(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an address with a prefix length, such as 172.17.0.2/16")]
pub struct BadCidr(String);

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let parse = || {
            let (addr, prefix) = text.split_once('/')?;
            // `u8::from_str` would take "+16".
            let prefix = prefix
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| prefix.parse().ok())??;
            Self::new(addr.parse().ok()?, prefix)
        };
        parse().ok_or_else(|| BadCidr(text.into()))
    }
}

impl TryFrom<String> for Cidr {
    type Error = BadCidr;

    fn try_from(text: String) -> Result<Self, BadCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// A route through the device that is configured; without `via` its destinations are neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub to: Cidr,
    pub via: Option<IpAddr>,
}

/// What a device is to be like. An empty `Config` leaves it as it is but brings it up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    /// `None`: as it is; of a new device random, chosen by the kernel.
    pub mac: Option<[u8; 6]>,
    /// Bytes, without the Ethernet header.
    pub mtu: Option<u32>,
    /// Frames; `None`: [`QUEUE_LEN`].
    pub queue_len: Option<u32>,
    /// Other addresses of a device of ours are removed. None at all: what is there stays.
    pub addresses: Vec<Cidr>,
    /// In this order.
    pub routes: Vec<Route>,
}

impl Config {
    /// Adds a default route.
    #[must_use]
    pub fn with_gateway(mut self, via: IpAddr) -> Self {
        self.routes.push(Route {
            to: Cidr::everywhere(via),
            via: Some(via),
        });
        self
    }
}

/// What a device is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub index: u32,
    /// A TUN has none.
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    pub queue_len: u32,
    pub up: bool,
    pub alias: Option<String>,
    pub addresses: Vec<Cidr>,
}

impl Link {
    /// Whether pontoon made it.
    pub fn is_ours(&self) -> bool {
        self.alias.as_deref() == Some(ALIAS)
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

/// Brings the device `name`, of the calling thread's network namespace, to `config`.
///
/// `made`: we made it just now, so it is marked as ours.
pub fn apply(name: &str, config: &Config, made: bool) -> Result<Link, NetcfgError> {
    let Config {
        mac,
        mtu,
        queue_len,
        addresses,
        routes,
    } = config;
    let step = |step: String, hint: String| {
        let device = name.to_owned();
        move |reason| {
            // The one error whose cure is always the same: an administrator's device is the administrator's to prepare.
            let hint = if reason == Errno::PERM {
                hint
            } else {
                String::new()
            };
            NetcfgError {
                device,
                step,
                reason,
                hint,
            }
        }
    };
    let ask = |command: String| format!("; have an administrator do it: ip {command}");

    let mut netlink =
        Netlink::open().map_err(step("open a netlink socket".into(), String::new()))?;
    let lo = netlink
        .link("lo")
        .map_err(step("find lo".into(), String::new()))?;
    if !lo.up {
        netlink
            .set_up(lo.index)
            .map_err(step("bring lo up".into(), ask("link set lo up".into())))?;
    }
    let link = netlink
        .link(name)
        .map_err(step("find the device".into(), String::new()))?;
    let index = link.index;

    if made {
        let alias = LinkAttribute::IfAlias(ALIAS.into());
        netlink
            .set_link(index, alias)
            .map_err(step("mark it as ours".into(), String::new()))?;
    }
    let ours = made || link.is_ours();
    if let Some(mac) = *mac
        && link.mac != Some(mac)
    {
        netlink
            .set_link(index, LinkAttribute::Address(mac.to_vec()))
            .map_err(step(
                format!("set its MAC to {}", Mac(mac)),
                ask(format!("link set {name} address {}", Mac(mac))),
            ))?;
    }
    if let Some(mtu) = *mtu
        && link.mtu != mtu
    {
        netlink
            .set_link(index, LinkAttribute::Mtu(mtu))
            .map_err(step(
                format!("set its MTU to {mtu}"),
                ask(format!("link set {name} mtu {mtu}")),
            ))?;
    }
    let queue_len = queue_len.unwrap_or(QUEUE_LEN);
    if link.queue_len != queue_len
        && let Err(reason) = netlink.set_link(index, LinkAttribute::TxQueueLen(queue_len))
    {
        log::info!(
            "{name}: its queue stays {} frames long: {reason}",
            link.queue_len
        );
    }
    if let Err(reason) = netlink.set_link(index, LinkAttribute::GsoMaxSegs(GSO_MAX_SEGS)) {
        log::debug!("{name}: gso_max_segs stays as it is: {reason}");
    }
    if !link.up {
        netlink.set_up(index).map_err(step(
            "bring it up".into(),
            ask(format!("link set {name} up")),
        ))?;
    }
    if ours && !addresses.is_empty() {
        for &old in link.addresses.iter().filter(|old| !addresses.contains(old)) {
            netlink
                .remove_address(index, old)
                .map_err(step(format!("remove its old address {old}"), String::new()))?;
        }
    }
    for &address in addresses.iter().filter(|new| !link.addresses.contains(new)) {
        netlink.add_address(index, address).map_err(step(
            format!("add the address {address}"),
            ask(format!("addr add {address} dev {name}")),
        ))?;
    }
    for route in routes {
        let step_text = match route.via {
            Some(via) => format!("route {} via {via}", route.to),
            None => format!("route {} to it", route.to),
        };
        let command = match route.via {
            Some(via) => format!("route replace {} via {via} dev {name}", route.to),
            None => format!("route replace {} dev {name}", route.to),
        };
        match netlink.replace_route(index, route) {
            Err(Errno::PERM) if netlink.has_route(index, route) => {}
            done => done.map_err(step(step_text, ask(command)))?,
        }
    }
    netlink
        .link(name)
        .map_err(step("read it back".into(), String::new()))
}

/// Takes from the device `name` the addresses of `config`, and with them the routes that need them, and the routes of
/// `config`. What is gone already is no error.
pub fn undo(name: &str, config: &Config) -> Result<(), NetcfgError> {
    let failed = |step: &str, reason| NetcfgError {
        device: name.into(),
        step: step.into(),
        reason,
        hint: String::new(),
    };
    let mut netlink = Netlink::open().map_err(|e| failed("open a netlink socket", e))?;
    let link = match netlink.link(name) {
        Err(Errno::NODEV) => return Ok(()),
        link => link.map_err(|e| failed("find the device", e))?,
    };
    for route in &config.routes {
        match netlink.remove_route(link.index, route) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(reason) => {
                return Err(failed(&format!("remove the route to {}", route.to), reason));
            }
        }
    }
    for address in config
        .addresses
        .iter()
        .filter(|address| link.addresses.contains(address))
    {
        match netlink.remove_address(link.index, *address) {
            Ok(()) | Err(Errno::ADDRNOTAVAIL) => {}
            Err(reason) => return Err(failed(&format!("remove the address {address}"), reason)),
        }
    }
    Ok(())
}

/// The device `name` of the calling thread's network namespace.
pub fn link(name: &str) -> Result<Link, NetcfgError> {
    Netlink::open()
        .and_then(|mut netlink| netlink.link(name))
        .map_err(|reason| NetcfgError {
            device: name.into(),
            step: "read the device".into(),
            reason,
            hint: String::new(),
        })
}

/// The counters of the device `name` of the calling thread's network namespace.
pub fn link_stats(name: &str) -> Result<LinkStats, NetcfgError> {
    Netlink::open()
        .and_then(|mut netlink| netlink.stats(name))
        .map_err(|reason| NetcfgError {
            device: name.into(),
            step: "read its counters".into(),
            reason,
            hint: String::new(),
        })
}

struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A netlink socket on which one request is answered before the next is sent.
struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Self, Errno> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self {
                socket,
                sequence: 0,
            })
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
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
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
        let stats = message
            .attributes
            .into_iter()
            .find_map(|attribute| match attribute {
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
        let answers = self.request(
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
            NLM_F_DUMP,
        )?;
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => {
                let kernels = message.header.family == AddressFamily::Inet6
                    && message.header.scope == AddressScope::Link;
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
                local
                    .or(address)
                    .filter(|_| !kernels)
                    .and_then(|addr| Cidr::new(addr, prefix))
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

    fn set_up(&mut self, index: u32) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.order(RouteNetlinkMessage::SetLink(message), 0)
    }

    fn add_address(&mut self, index: u32, address: Cidr) -> Result<(), Errno> {
        let mut message = address_message(index, address);
        message
            .attributes
            .extend(address.broadcast().map(AddressAttribute::Broadcast));
        self.order(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    fn remove_address(&mut self, index: u32, address: Cidr) -> Result<(), Errno> {
        self.order(
            RouteNetlinkMessage::DelAddress(address_message(index, address)),
            0,
        )
    }

    fn replace_route(&mut self, index: u32, route: &Route) -> Result<(), Errno> {
        let message = route_message(index, route);
        self.order(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    fn remove_route(&mut self, index: u32, route: &Route) -> Result<(), Errno> {
        self.order(
            RouteNetlinkMessage::DelRoute(route_message(index, route)),
            0,
        )
    }

    /// Whether the main table sends the route's destinations where it says. Asked only when we may not set it.
    fn has_route(&mut self, index: u32, route: &Route) -> bool {
        let mut message = RouteMessage::default();
        message.header.address_family = family(route.to.addr);
        let wanted = route_message(index, route);
        self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)
            .is_ok_and(|answers| {
                answers.iter().any(|answer| match answer {
                    RouteNetlinkMessage::NewRoute(found) => {
                        found.header.table == wanted.header.table
                            && found.header.destination_prefix_length
                                == wanted.header.destination_prefix_length
                            && wanted
                                .attributes
                                .iter()
                                .all(|attribute| found.attributes.contains(attribute))
                    }
                    _ => false,
                })
            })
    }

    fn order(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Errno> {
        self.request(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends one request and collects its answers, up to the acknowledgement, the end of the dump, or the one answer.
    fn request(
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
        self.socket
            .send(&bytes, 0)
            .map_err(|error| errno_of(&error))?;

        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self
                .socket
                .recv_from_full()
                .map_err(|error| errno_of(&error))?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|_| Errno::PROTO)?;
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

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address_message(index: u32, address: Cidr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.addr);
    message.header.prefix_len = address.prefix;
    message.header.index = index;
    message
        .attributes
        .push(AddressAttribute::Address(address.addr));
    if address.addr.is_ipv4() {
        message
            .attributes
            .push(AddressAttribute::Local(address.addr));
    }
    message
}

fn route_message(index: u32, route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.to.addr);
    message.header.destination_prefix_length = route.to.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.via.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    if route.to.prefix > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(route.to.addr.into()));
    }
    message
        .attributes
        .extend(route.via.map(|via| RouteAttribute::Gateway(via.into())));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().expect("a test's own literal")
    }

    #[test]
    fn a_cidr_is_what_it_was_written_as() {
        for text in [
            "172.17.0.2/16",
            "0.0.0.0/0",
            "192.0.2.1/32",
            "2001:db8::1/64",
            "::/0",
        ] {
            assert_eq!(cidr(text).to_string(), text);
        }
        for text in [
            "172.17.0.2",
            "172.17.0.2/33",
            "172.17.0.2/",
            "172.17.0.2/+8",
            "a/8",
            "::/129",
            "1.2.3.4/-1",
            "",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(BadCidr(text.into())));
        }
    }

    #[test]
    fn a_cidr_contains_its_network_and_nothing_else() {
        let contains =
            |net: &str, addr: &str| cidr(net).contains(addr.parse().expect("an address"));
        assert!(contains("192.0.2.1/24", "192.0.2.255"));
        assert!(!contains("192.0.2.1/24", "192.0.3.0"));
        assert!(contains("0.0.0.0/0", "203.0.113.9"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("::/0", "2001:db8::1"));
        assert!(contains("192.0.2.1/32", "192.0.2.1"));
        assert!(!contains("192.0.2.1/32", "192.0.2.0"));
    }

    #[test]
    fn broadcast_is_all_ones_and_a_point_to_point_link_has_none() {
        assert_eq!(
            cidr("172.17.0.2/16").broadcast(),
            Some(Ipv4Addr::new(172, 17, 255, 255))
        );
        assert_eq!(cidr("0.0.0.0/0").broadcast(), Some(Ipv4Addr::BROADCAST));
        assert_eq!(cidr("192.0.2.0/31").broadcast(), None);
        assert_eq!(cidr("192.0.2.0/32").broadcast(), None);
        assert_eq!(cidr("2001:db8::/64").broadcast(), None);
    }
}
