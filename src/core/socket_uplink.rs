//! The router's side of an uplink over host sockets: which packets end there, and what is around its engines.
//!
//! # Theory of operation
//! The journey of a packet to the world is that of any other uplink as far as the routing decision: addresses, options,
//! checksum, published ports, the gateway's own addresses, policy, TTL. Then it is not translated but handed to an engine
//! of [`super::split`], which plays the far end. A TCP segment of a connection that the engine knows goes to it at once.
//! Connection tracking knows nothing of these flows; flows between networks and to published ports from inside are its own,
//! as ever.
//!
//! ```text
//!   forward: addresses, options, checksum ── known to tcp? ───────────────┐
//!      │ fragment to the world: reassembly, and again from the top        │
//!      └─ dnat, local, route = uplink ── policy, TTL ── destination ──────┴─► tcp | udp | ping
//!                                                        (split::policy)
//! ```
//!
//! While an engine runs it is taken out of the [`Datapath`], so that what it delivers may use all the rest.

mod listing;

use hashbrown::HashMap;

pub(super) use self::listing::SOCKET_TABLES;
use super::command::{Applied, CommandError, Publication, SocketUplinkConfig, Transport};
use super::conntrack::FiveTuple;
use super::counters::DropReason;
use super::datapath::Datapath;
use super::forward::Ingress;
use super::hash::Keyed;
use super::icmp::Complaint;
use super::manage::invalid;
use super::nat::rewrite::decrement_ttl;
use super::nat::transport_name;
use super::network::{NetworkId, Port, PortState, Role};
use super::port::PortId;
use super::route::Target;
use super::socket::{Endpoint, Failure, Ready, RouteKind, SocketId, Sockets};
use super::split::ids::{Ids, Owner};
use super::split::policy::{self, Decision, Policy, Reason};
use super::split::reassembly::Reassembly;
use super::split::{Lower, Origin, ping, tcp, udp};
use super::time::Instant;
use super::world::World;
use super::worth::Worth;
use crate::frame::{Caps, Fragment, Frame, HEADROOM, L4};
use crate::wire::addr::{Addr, Cidr};
use crate::wire::ip::{icmp, proto, tcp as tcp_header};
use crate::wire::{get16, get32, vnet};

/// The host has no such address family.
const EAFNOSUPPORT: i32 = 97;

/// ICMP code of "fragmentation needed and DF set" (RFC 1191).
const FRAGMENTATION_NEEDED: u8 = 4;

/// The engines, and what they share.
pub(super) struct SocketUplink {
    /// Counts what crosses; it has no device.
    pub port: PortId,
    pub tcp: tcp::Tcp,
    pub udp: udp::Udp,
    pub ping: ping::Ping,
    pub policy: Policy,
    reassembly: Reassembly,
    ids: Ids,
    /// The sockets of published ports, by the publication's tag.
    doors: HashMap<u32, Vec<Door>, Keyed>,
}

/// The socket of a published port.
#[derive(Clone, Copy, Debug)]
enum Door {
    Tcp(tcp::ListenerId),
    /// By its tag.
    Udp(u32),
}

/// What an engine has below and beside it.
struct Below<'a> {
    core: &'a mut Datapath,
    ids: &'a mut Ids,
    port: PortId,
    now: Instant,
    world: &'a mut dyn World,
}

impl Lower for Below<'_> {
    fn sockets(&mut self) -> &mut dyn Sockets {
        self.world.sockets().expect("a socket uplink is made only where there are sockets")
    }

    fn ids(&mut self) -> &mut Ids {
        self.ids
    }

    fn deliver(&mut self, network: NetworkId, frame: &mut Frame<'_>) {
        let Some((_, to)) = frame.addrs() else { return };
        if let Some(uplink) = self.core.ports.get_mut(self.port) {
            uplink.counters.rx.count(frame.len());
        }
        if self.core.networks.get(usize::from(network.0)).is_none_or(Option::is_none) {
            return self.core.count_drop(self.port, DropReason::NoRoute);
        }
        if let Err(why) = self.core.deliver(self.port, network, to, frame, self.now, self.world) {
            self.core.count_drop(self.port, why);
        }
    }

    fn mtu(&self, network: NetworkId) -> usize {
        self.network(network).map_or(1500, |n| usize::from(n.config.mtu))
    }

    fn gateway(&self, network: NetworkId) -> Option<Addr> {
        self.network(network)?.gateway()
    }

    fn on_link(&self, network: NetworkId, addr: Addr) -> bool {
        self.network(network).and_then(|n| n.subnet()).is_some_and(|subnet| subnet.contains(addr))
    }

    fn count(&mut self, port: PortId, why: DropReason) {
        self.core.count_drop(port, why);
    }

    #[inline]
    fn came_to(&mut self, worth: Worth) {
        self.core.worth = worth;
    }

    fn random(&mut self) -> u64 {
        self.core.random.next_u64()
    }
}

impl Below<'_> {
    fn network(&self, id: NetworkId) -> Option<&super::network::Network> {
        self.core.networks.get(usize::from(id.0))?.as_ref()
    }
}

impl Datapath {
    /// Lets `act` use the engines, with all the rest below them; `None`: there is no socket uplink.
    fn with_engines<R>(
        &mut self,
        now: Instant,
        world: &mut dyn World,
        act: impl FnOnce(&mut Engines<'_>, &mut dyn Lower) -> R,
    ) -> Option<R> {
        let mut uplink = self.socket_uplink.take()?;
        let SocketUplink { port, tcp, udp, ping, reassembly, ids, .. } = &mut *uplink;
        let mut below = Below { core: self, ids, port: *port, now, world };
        let answer = act(&mut Engines { tcp, udp, ping, reassembly }, &mut below);
        self.socket_uplink = Some(uplink);
        Some(answer)
    }

    /// Makes the uplink.
    pub(super) fn set_socket_uplink(
        &mut self,
        config: &SocketUplinkConfig,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<Applied, CommandError> {
        let refuse =
            |why: &str| Err(CommandError::Busy { what: "uplink", name: "sockets".to_owned(), why: why.to_owned() });
        if self.uplink.is_some() || self.socket_uplink.is_some() {
            return refuse("there is an uplink already");
        }
        if world.sockets().is_none() {
            return refuse("this world has no sockets");
        }
        let mut port = Port::pending(Role::Uplink, u32::MAX, now);
        (port.state, port.caps) = (PortState::Up, Caps::FULL);
        let port =
            self.ports.insert(port).ok_or(CommandError::Full { what: "ports", limit: super::network::MAX_PORTS })?;
        self.socket_uplink = Some(Box::new(SocketUplink {
            port,
            tcp: tcp::Tcp::new(config.tcp.clone(), self.random.next_key()),
            udp: udp::Udp::new(config.udp.clone(), self.random.next_key(), now),
            ping: ping::Ping::new(config.ping.clone(), self.random.next_key(), now),
            policy: Policy::new(config.policy),
            reassembly: Reassembly::new(self.random.next_key()),
            ids: Ids::default(),
            doors: HashMap::with_hasher(self.key.clone()),
        }));
        self.routes.insert(Cidr::new(Addr::V4_UNSPECIFIED, 0).expect("zero bits fit"), Target::Uplink);
        Ok(Applied::Uplink(port))
    }

    /// Is this a segment of a connection over a host socket? One that may begin another is not: it is judged as the first
    /// of any flow is.
    #[inline]
    pub(super) fn is_socket_flow(&self, ingress: Ingress, frame: &Frame<'_>, src: Addr, dst: Addr) -> bool {
        let (Some(uplink), Ingress::Endpoint(_, network)) = (&self.socket_uplink, ingress) else { return false };
        if frame.layout().l4_kind != L4::Tcp || frame.layout().fragment != Fragment::None {
            return false;
        }
        let l4 = frame.l4();
        if l4[tcp_header::FLAGS] & (tcp_header::SYN | tcp_header::ACK) == tcp_header::SYN {
            return false;
        }
        let (sport, dport) = (get16(l4, 0), get16(l4, 2));
        uplink.tcp.knows(&FiveTuple { src, dst, sport, dport, proto: proto::TCP }, network)
    }

    /// Is this a fragment of a datagram that a host socket is to send whole? The gateway stands for clients of published
    /// ports, and only the first fragment tells which.
    pub(super) fn is_socket_fragment(&self, ingress: Ingress, frame: &Frame<'_>, dst: Addr) -> bool {
        self.socket_uplink.is_some()
            && matches!(ingress, Ingress::Endpoint(..))
            && frame.layout().fragment != Fragment::None
            && (self.routes.lookup(dst) == Some(Target::Uplink)
                || frame.layout().proto == proto::UDP && (self.leads_to_host(dst) || self.is_local(ingress, dst)))
    }

    /// Does a container reach the host's own loopback by `dst`?
    pub(super) fn leads_to_host(&self, dst: Addr) -> bool {
        self.socket_uplink.as_ref().is_some_and(|uplink| uplink.policy.is_host_loopback(dst))
    }

    /// Does a static rule to `to` lead to the host's own loopback?
    pub(super) fn names_host(&self, to: Addr) -> bool {
        self.leads_to_host(to) || self.socket_uplink.is_some() && policy::special(to) == Some(Reason::Loopback)
    }

    /// Is this a datagram to a client of a published port? The client may have been shown with any address.
    fn is_socket_reply(&self, origin: Origin, frame: &Frame<'_>, to: Endpoint, now: Instant) -> bool {
        let (Some(uplink), Some((src, _))) = (&self.socket_uplink, frame.addrs()) else { return false };
        if frame.layout().l4_kind != L4::Udp || frame.layout().fragment != Fragment::None {
            return false;
        }
        let from = Endpoint { addr: src, port: get16(frame.l4(), 0) };
        uplink.udp.is_reply(origin, from, to, now)
    }

    /// Does a packet to an address of the gateway's own belong to a socket: by way of [`Policy::is_host_loopback`], or as
    /// an answer to a client that the gateway stands for?
    pub(super) fn is_for_socket(&self, ingress: Ingress, frame: &Frame<'_>, tuple: &FiveTuple, now: Instant) -> bool {
        let Ingress::Endpoint(port, network) = ingress else { return false };
        if !matches!(tuple.proto, proto::TCP | proto::UDP) {
            return false;
        }
        let to = Endpoint { addr: tuple.dst, port: tuple.dport };
        self.leads_to_host(tuple.dst) || self.is_socket_reply(Origin { port, network }, frame, to, now)
    }

    /// A segment of a connection that [`Datapath::is_socket_flow`] knows. Where it leads was decided when it began: its
    /// other end may be a client with an address that no container may go to.
    pub(super) fn continue_at_socket(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        dst: Addr,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let Ingress::Endpoint(port, network) = ingress else { return Err(DropReason::NoRoute) };
        let origin = Origin { port, network };
        let shown = Endpoint { addr: dst, port: get16(frame.l4(), 2) };
        self.count_to_host(frame);
        self.with_engines(now, world, |e, lower| e.tcp.input(origin, frame, shown, now, lower))
            .unwrap_or(Err(DropReason::NoUplink))
    }

    /// An ICMP error from inside about a segment that an engine sent, which `quoted` is the tuple of: a router behind the
    /// container with a smaller MTU, or nobody there. `false`: it is about nothing of ours.
    pub(super) fn error_to_socket(
        &mut self,
        ingress: Ingress,
        frame: &Frame<'_>,
        quoted: &FiveTuple,
        now: Instant,
        world: &mut dyn World,
    ) -> bool {
        let (Ingress::Endpoint(_, network), Some((_, dst))) = (ingress, frame.addrs()) else { return false };
        let (l4, quote) = (frame.l4(), frame.payload());
        if quoted.proto != proto::TCP || dst != quoted.src || l4[icmp::TYPE] != icmp::UNREACHABLE {
            return false;
        }
        let needs_fragmentation = l4[icmp::CODE] == FRAGMENTATION_NEEDED;
        let mtu = needs_fragmentation.then(|| u32::from(get16(l4, icmp::MTU)));
        // Addresses and ports were read from the quote: eight bytes follow its header.
        let seq = get32(quote, usize::from(quote[0] & 0xf) * 4 + 4);
        self.with_engines(now, world, |e, lower| e.tcp.icmp_error(quoted, network, seq, mtu, now, lower))
            .unwrap_or(false)
    }

    /// Is the frame of `len` bytes in `buf` a datagram like one of `port` that waits to be sent? Then it waits with that one:
    /// its journey would be the same, and is not made again.
    #[inline]
    pub(super) fn follow_at_socket(
        &mut self,
        port: PortId,
        buf: &[u8],
        len: usize,
        now: Instant,
        world: &dyn World,
    ) -> bool {
        let Some(uplink) = &mut self.socket_uplink else { return false };
        // Who captures sees all points of it.
        let follows = !world.capturing() && uplink.udp.follow(port, &buf[HEADROOM - vnet::LEN..HEADROOM + len], now);
        if follows {
            self.rules.outbound += 1;
            if let Some(counted) = self.ports.get_mut(uplink.port) {
                counted.counters.tx.count(len);
            }
        }
        follows
    }

    fn count_to_host(&mut self, frame: &Frame<'_>) {
        let uplink = self.socket_uplink.as_ref().map(|uplink| uplink.port);
        if let Some(counted) = uplink.and_then(|port| self.ports.get_mut(port)) {
            counted.counters.tx.count(frame.len());
        }
    }

    /// A packet ends here, and its data goes on by a host socket. `named`: where a static rule sends it.
    pub(super) fn end_at_socket(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        dst: Addr,
        named: Option<Endpoint>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let Ingress::Endpoint(port, network) = ingress else { return Err(DropReason::NoRoute) };
        let Some(uplink) = &self.socket_uplink else { return Err(DropReason::NoUplink) };
        let origin = Origin { port, network };
        let l4 = frame.l4();
        let ports = match frame.layout().l4_kind {
            L4::Tcp | L4::Udp => (get16(l4, 0), get16(l4, 2)),
            _ => (0, 0),
        };
        let shown = Endpoint { addr: dst, port: ports.1 };
        let dial = match named {
            Some(Endpoint { addr, port }) => Endpoint { addr: uplink.policy.named(addr), port },
            None if self.is_socket_reply(origin, frame, shown, now) => shown,
            None => {
                let kind = world.sockets().map(|sockets| sockets.route_kind(dst));
                match uplink.policy.decide(dst, kind.unwrap_or(RouteKind::Unreachable)) {
                    Decision::Dial(addr) => Endpoint { addr, port: ports.1 },
                    Decision::Refuse(why) => {
                        self.complain(ingress, frame, why.complaint(), now, world);
                        return Err(why.drop_reason());
                    }
                }
            }
        };
        self.count_to_host(frame);
        match frame.layout().l4_kind {
            L4::Tcp => {
                decrement_ttl(frame);
                self.with_engines(now, world, |e, lower| e.tcp.input(origin, frame, dial, now, lower))
            }
            L4::Udp => self.with_engines(now, world, |e, lower| e.udp.input(origin, frame, Some(dial), now, lower)),
            L4::IcmpQuery if frame.l4()[icmp::TYPE] == icmp::ECHO => {
                self.with_engines(now, world, |e, lower| e.ping.input(origin, frame, Some(dial.addr), now, lower))
            }
            _ => {
                self.complain(ingress, frame, Complaint::Prohibited, now, world);
                return Err(DropReason::NoSocketFor);
            }
        }
        .unwrap_or(Err(DropReason::NoUplink))
    }
}

/// What [`Datapath::with_engines`] lends.
struct Engines<'a> {
    tcp: &'a mut tcp::Tcp,
    udp: &'a mut udp::Udp,
    ping: &'a mut ping::Ping,
    reassembly: &'a mut Reassembly,
}

impl Datapath {
    /// A host socket is ready. `true`: there is more to do, to be asked for again when others had their turn.
    pub fn socket_ready(&mut self, id: SocketId, ready: Ready, now: Instant, world: &mut dyn World) -> bool {
        let owner = self.socket_uplink.as_ref().and_then(|uplink| uplink.ids.get(id));
        let Some(owner) = owner else { return false };
        // Empty when a call is to go on where the last one stopped; a datagram socket is asked for all it may have.
        let any =
            if ready == Ready::default() { Ready { readable: true, writable: false, error: true } } else { ready };
        self.with_engines(now, world, |engines, lower| match owner {
            Owner::TcpFlow(_) | Owner::TcpListener(_) => engines.tcp.socket_ready(id, ready, now, lower),
            Owner::Udp(_) => engines.udp.socket_ready(id, any, now, lower),
            Owner::Ping(_) => engines.ping.socket_ready(id, any, now, lower),
        })
        .unwrap_or(false)
    }

    /// A port's, or socket's, turn is over: what was put off for its end is sent.
    #[inline]
    pub fn flush(&mut self, now: Instant, world: &mut dyn World) {
        if self.socket_uplink.is_some() {
            self.with_engines(now, world, |engines, lower| {
                engines.tcp.flush(now, lower);
                engines.udp.flush(now, lower);
            });
        }
    }

    /// When an engine has work next.
    pub(super) fn socket_timeout(&self) -> Option<Instant> {
        let uplink = self.socket_uplink.as_ref()?;
        let timeouts = [
            uplink.tcp.next_timeout(),
            uplink.udp.next_timeout(),
            uplink.ping.next_timeout(),
            uplink.reassembly.next_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Does what is due in the engines.
    pub(super) fn socket_timers(&mut self, now: Instant, world: &mut dyn World) {
        self.with_engines(now, world, |engines, lower| {
            engines.tcp.handle_timeout(now, lower);
            engines.udp.handle_timeout(now, lower);
            engines.ping.handle_timeout(now, lower);
            engines.reassembly.handle_timeout(now);
            for ((port, why), count) in engines.reassembly.take_given_up() {
                for _ in 0..count {
                    lower.count(port, why.into());
                }
            }
        });
    }

    /// A fragment of a datagram to the world: the last of them brings the whole, which begins its journey anew.
    pub(super) fn reassemble(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let Ingress::Endpoint(port, network) = ingress else { return Err(DropReason::NoRoute) };
        let whole =
            self.with_engines(now, world, |engines, _| engines.reassembly.input(Origin { port, network }, frame, now));
        let Some(mut whole) = whole.transpose()?.flatten() else { return Ok(()) };
        let (to, from) = (frame.eth_dst(), frame.eth_src());
        let mut frame = whole.frame().ok_or(DropReason::BadTransport)?;
        frame.push_link(to, from);
        self.forward(ingress, &mut frame, now, world)
    }

    /// Ends flows of a container, `most` at most; its published ports stay. How many there were.
    pub(super) fn flush_sockets(&mut self, port: PortId, most: usize, now: Instant, world: &mut dyn World) -> usize {
        self.with_engines(now, world, |engines, lower| {
            engines.reassembly.detach(port);
            let mut ended = engines.tcp.end_flows(port, most, now, lower);
            engines.udp.flush(now, lower);
            ended += engines.udp.end_flows(port, most - ended, lower);
            ended + engines.ping.end_flows(port, most - ended, lower)
        })
        .unwrap_or(0)
    }

    /// How many flows over host sockets a container has.
    pub(super) fn socket_flows_of(&self, port: PortId) -> usize {
        self.socket_uplink
            .as_ref()
            .map_or(0, |uplink| uplink.tcp.flows_of(port) + uplink.udp.flows_of(port) + uplink.ping.flows_of(port))
    }

    /// A container is gone, and all that it had of the host's; how many flows there were.
    pub(super) fn detach_sockets(&mut self, port: PortId, now: Instant, world: &mut dyn World) -> usize {
        let ended = self.socket_flows_of(port);
        self.with_engines(now, world, |engines, lower| {
            engines.reassembly.detach(port);
            engines.tcp.detach(port, now, lower);
            engines.udp.flush(now, lower);
            engines.udp.detach(port, lower);
            engines.ping.detach(port, lower);
        });
        ended
    }

    /// Closes all that is open on the host, and is without this uplink from now on; how many flows there were.
    pub(super) fn drop_socket_uplink(&mut self, now: Instant, world: &mut dyn World) -> usize {
        if self.socket_uplink.is_none() {
            return 0;
        }
        let owners: Vec<PortId> = self.ports.iter().map(|(id, _)| id).collect();
        let ended = owners.into_iter().map(|owner| self.detach_sockets(owner, now, world)).sum();
        self.socket_uplink = None;
        ended
    }

    /// Is `ip` one that the host has, or a wildcard?
    pub(super) fn is_address_of_host(&self, ip: Addr, world: &mut dyn World) -> bool {
        self.socket_uplink.is_some()
            && ((ip == Addr::V4_UNSPECIFIED || ip == Addr::V6_UNSPECIFIED)
                || world.sockets().is_some_and(|sockets| sockets.route_kind(ip) == RouteKind::Local))
    }

    /// Opens the host's sockets for published ports: all of them, or none.
    pub(super) fn open_doors(
        &mut self,
        tags: &[u32],
        ports: &[Publication],
        owner: PortId,
        ip: Addr,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), CommandError> {
        if self.socket_uplink.is_none() {
            return Ok(());
        }
        let network = self.ports.get(owner).and_then(|p| p.attachment()).map(|a| a.network);
        let Some(network) = network else { return Ok(()) };
        if self.no_forward && !ports.is_empty() {
            return Err(invalid(
                "ports",
                "nothing is forwarded ([switch] forward = false), so no port can be published",
            ));
        }
        let origin = Origin { port: owner, network };
        self.check_room(ports, world)?;
        for (at, (tag, publication)) in tags.iter().zip(ports).enumerate() {
            if !self.is_on_host(publication) {
                continue;
            }
            let to = Endpoint { addr: ip, port: publication.container_port };
            if let Err((at_addr, failure)) = self.open_door(*tag, publication, origin, to, now, world) {
                self.close_doors(&tags[..=at], now, world);
                let why = why_not(failure, at_addr, publication.host_port);
                return Err(not_bound(publication, Some(at_addr), failure, why));
            }
        }
        Ok(())
    }

    /// Does it need sockets? An address of the gateway's is not the host's: what is published there is for containers
    /// alone.
    fn is_on_host(&self, publication: &Publication) -> bool {
        publication.host_ip.is_none_or(|ip| !self.is_gateway(ip))
    }

    /// Are there descriptors and listeners enough for all of `ports`? Asked before anything is opened: thousands of sockets
    /// that are closed again would hold up frames for nothing.
    fn check_room(&self, ports: &[Publication], world: &mut dyn World) -> Result<(), CommandError> {
        let on_host = || ports.iter().filter(|publication| self.is_on_host(publication));
        let room = world.sockets().map_or(0, |sockets| sockets.room());
        if let Some((publication, needed)) = first_beyond(room, on_host()) {
            let why = format!("the request needs {needed} descriptors and {room} are left; {RAISE_LIMIT}");
            return Err(not_bound(publication, publication.host_ip, Failure::NoFiles, why));
        }
        let of_tcp = on_host().filter(|publication| publication.proto == Transport::Tcp);
        let places = self.socket_uplink.as_ref().map_or(0, |uplink| uplink.tcp.listeners_left());
        if let Some((publication, needed)) = first_beyond(places, of_tcp) {
            let why = format!(
                "the request needs {needed} listeners and {places} are left; publish fewer ports, or at one address"
            );
            return Err(not_bound(publication, publication.host_ip, Failure::NoMemory, why));
        }
        Ok(())
    }

    /// The sockets of one published port: where no address was given, one for each family that the host has.
    fn open_door(
        &mut self,
        tag: u32,
        publication: &Publication,
        origin: Origin,
        to: Endpoint,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), (Addr, Failure)> {
        let given = publication.host_ip.map(|ip| [ip]);
        let at = given.as_ref().map_or(&WILDCARDS[..], |one| &one[..]);
        for addr in at {
            let at = Endpoint { addr: *addr, port: publication.host_port };
            let opened = self.with_engines(now, world, |engines, lower| match publication.proto {
                Transport::Tcp => {
                    let listening = engines.tcp.listen(u64::from(tag), at, to, origin.network, origin.port, now, lower);
                    listening.map(Door::Tcp)
                }
                Transport::Udp => {
                    // One tag for each family.
                    let tag = tag | if addr.is_v4() { 0 } else { 1 << 31 };
                    engines.udp.listen(tag, at, to, origin.network, origin.port, now, lower).map(|_| Door::Udp(tag))
                }
            });
            match (opened, &mut self.socket_uplink) {
                (Some(Ok(door)), Some(uplink)) => uplink.doors.entry(tag).or_default().push(door),
                // A host without IPv6 has no [::].
                (Some(Err(Failure::NoAddress | Failure::Other(EAFNOSUPPORT))), _)
                    if given.is_none() && !addr.is_v4() => {}
                (Some(Err(failure)), _) => return Err((*addr, failure)),
                (_, None) | (None, _) => {}
            }
        }
        Ok(())
    }

    /// Closes the sockets of published ports. TCP connections that came by them go on.
    pub(super) fn close_doors(&mut self, tags: &[u32], now: Instant, world: &mut dyn World) {
        let mut doors = Vec::new();
        if let Some(uplink) = &mut self.socket_uplink {
            doors.extend(tags.iter().filter_map(|tag| uplink.doors.remove(tag)).flatten());
        }
        self.with_engines(now, world, |engines, lower| {
            engines.udp.flush(now, lower);
            for door in doors {
                match door {
                    Door::Tcp(id) => engines.tcp.unlisten(id, lower),
                    Door::Udp(tag) => engines.udp.unlisten(tag, lower),
                };
            }
        });
    }
}

/// Where a port is published for which no address was given.
const WILDCARDS: [Addr; 2] = [Addr::V4_UNSPECIFIED, Addr::V6_UNSPECIFIED];

/// The first publication for whose sockets `left` are not enough, and how many all publications need.
fn first_beyond<'a>(
    left: usize,
    publications: impl Iterator<Item = &'a Publication>,
) -> Option<(&'a Publication, usize)> {
    let (mut needed, mut first) = (0, None);
    for publication in publications {
        needed += if publication.host_ip.is_some() { 1 } else { WILDCARDS.len() };
        if needed > left {
            first.get_or_insert(publication);
        }
    }
    first.map(|publication| (publication, needed))
}

/// What cures a lack of descriptors.
const RAISE_LIMIT: &str = "raise RLIMIT_NOFILE ('ulimit -n') or publish fewer ports";

fn not_bound(publication: &Publication, at: Option<Addr>, failure: Failure, why: String) -> CommandError {
    CommandError::Bind {
        host_ip: at.unwrap_or(Addr::V4_UNSPECIFIED),
        port: publication.host_port,
        proto: transport_name(publication.proto),
        failure,
        why,
    }
}

/// What to tell of a port that could not be had.
fn why_not(failure: Failure, addr: Addr, port: u16) -> String {
    match failure {
        Failure::InUse => "another program of the host has this port; choose another or end it".to_owned(),
        Failure::Prohibited => format!(
            "permission denied: below net.ipv4.ip_unprivileged_port_start a port needs privilege; choose a higher one, or \
             let the administrator run 'sysctl net.ipv4.ip_unprivileged_port_start={port}'"
        ),
        Failure::NoFiles => format!("no descriptor is left; {RAISE_LIMIT}"),
        Failure::NoAddress => "the address is none of this host's".to_owned(),
        Failure::NoMemory => "the host has no memory for it".to_owned(),
        // EINVAL: bind(2) wants the interface of such an address.
        Failure::Other(_) if policy::special(addr) == Some(Reason::LinkLocal) => {
            "an address of one link cannot be published at; take another".to_owned()
        }
        Failure::Other(errno) => std::io::Error::from_raw_os_error(errno).to_string(),
        other => format!("the host refuses ({other:?})"),
    }
}
