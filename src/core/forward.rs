//! The gateway's journeys: from a network or the uplink, through connection tracking and translation, to the other side.
//!
//! # Theory of operation
//! Decide, then apply. Everything that may refuse a packet is asked first, on the packet as it came, so an ICMP error
//! quotes what its sender sent; only then are bytes changed, and the flow that a new packet begins is committed last.
//!
//! ```text
//! addresses -> options -> tuple (fragments) -> checksum -> known flow? -> state machine --.
//!                                               `-> new: published? local? route, policy -+-> TTL, MTU -> port, commit
//!                                                                                             -> rewrite -> egress
//! ```
//!
//! Replies of hairpin flows and packets to published ports are addressed to the gateway itself, so flows and published
//! ports are asked before "is this for me" (as PREROUTING comes before the routing decision).

use super::bridge::guard::Owner;
use super::conntrack::{self, Full, OwnerId, Segment, Tentative, Track};
use super::conntrack::{FiveTuple, Query};
use super::counters::DropReason;
use super::datapath::Datapath;
use super::frag;
use super::icmp::Complaint;
use super::nat::rewrite::{self, Quote};
use super::neigh::{Held, Hold, Resolution};
use super::network::NetworkId;
use super::options;
use super::port::PortId;
use super::route::Target;
use super::socket::Endpoint;
use super::time::Instant;
use super::world::World;
use crate::frame::{Fragment, Frame, HEADROOM, L3, L4, Link, fragment};
use crate::wire::addr::Addr;
use crate::wire::ip::{icmp, ipv4, proto};
use crate::wire::{checksum, get16, put16, vnet};

/// Where a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ingress {
    /// A container on a network.
    Endpoint(PortId, NetworkId),
    /// The world.
    Uplink(PortId),
}

impl Ingress {
    pub(super) fn port(self) -> PortId {
        match self {
            Ingress::Endpoint(port, _) | Ingress::Uplink(port) => port,
        }
    }

    fn link(self) -> Link {
        match self {
            Ingress::Endpoint(..) => Link::Ethernet,
            Ingress::Uplink(_) => Link::Ip,
        }
    }

    /// Keeps fragments of different networks apart, where addresses may repeat.
    fn zone(self) -> u32 {
        match self {
            Ingress::Endpoint(_, network) => u32::from(network.0),
            Ingress::Uplink(_) => u32::MAX,
        }
    }
}

/// The tuple of a packet and what tracking wants to know of it.
enum Seen {
    Packet(FiveTuple, Facts),
    /// A first fragment that others have waited for.
    First(FiveTuple, Facts),
    /// An ICMP error: it belongs to the flow it quotes.
    Error,
    /// A later fragment that waits for its first.
    Held,
}

/// As `conntrack::L4`, owned.
enum Facts {
    Tcp(Segment),
    Udp,
    Icmp(Query),
    Other,
}

impl Facts {
    fn l4(&self) -> conntrack::L4<'_> {
        match self {
            Facts::Tcp(segment) => conntrack::L4::Tcp(segment),
            Facts::Udp => conntrack::L4::Udp,
            Facts::Icmp(query) => conntrack::L4::Icmp(*query),
            Facts::Other => conntrack::L4::Other,
        }
    }

    /// Can it be in this direction of its flow? An ICMP question and its answer have the same tuple if the id happens to
    /// be the question's type and code (0x0800).
    fn goes(&self, direction: conntrack::Direction) -> bool {
        match self {
            Facts::Icmp(query) => (*query == Query::Request) == (direction == conntrack::Direction::Original),
            Facts::Tcp(_) | Facts::Udp | Facts::Other => true,
        }
    }
}

impl Datapath {
    /// A packet that the gateway is to route, or keep.
    pub(super) fn forward(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        match frame.layout().kind {
            L3::V4 => {}
            L3::V6 | L3::Arp | L3::Other => return Err(DropReason::NotIp),
            L3::Malformed(why) => return Err(why.into()),
        }
        let (src, dst) = frame.addrs().ok_or(DropReason::Martian)?;
        self.check_addresses(ingress, src, dst)?;
        if options::has_source_route(frame.l3()) {
            return Err(DropReason::SourceRoute);
        }
        if !frame.verify_checksum() {
            return Err(DropReason::BadChecksum);
        }
        if self.is_socket_flow(ingress, frame, src, dst) {
            self.rules.established += 1;
            return self.continue_at_socket(ingress, frame, dst, now, world);
        }
        if self.is_socket_fragment(ingress, frame, dst) {
            return self.reassemble(ingress, frame, now, world);
        }
        match self.see(ingress, frame, src, dst, now)? {
            Seen::Packet(tuple, facts) => self.track(ingress, frame, tuple, &facts, now, world),
            Seen::First(tuple, facts) => {
                let done = self.track(ingress, frame, tuple, &facts, now, world);
                self.release_fragments(ingress, frame, src, dst, now, world);
                done
            }
            Seen::Error => self.related(ingress, frame, now, world),
            Seen::Held => Ok(()),
        }
    }

    /// Martians, broadcasts, and sources that do not belong where they come from (R10-R13; strict reverse path).
    fn check_addresses(&self, ingress: Ingress, src: Addr, dst: Addr) -> Result<(), DropReason> {
        let first = dst.as_v4().map_or(0, |v4| v4[0]);
        if !src.is_routable_source() || first == 0 || first == 127 {
            return Err(DropReason::Martian);
        }
        if dst.is_multicast() || dst == Addr::V4_BROADCAST {
            return Err(DropReason::Broadcast);
        }
        let is_broadcast = |route, addr| match route {
            Some(Target::Network(id)) => self.network(id).subnet().and_then(|s| s.broadcast()) == Some(addr),
            Some(Target::Uplink) | None => false,
        };
        if is_broadcast(self.routes.lookup(dst), dst) {
            return Err(DropReason::Broadcast);
        }
        let back = self.routes.lookup(src);
        if is_broadcast(back, src) {
            return Err(DropReason::Martian);
        }
        let belongs = match ingress {
            Ingress::Endpoint(_, id) => back == Some(Target::Network(id)),
            Ingress::Uplink(_) => !matches!(back, Some(Target::Network(_))) && !self.is_uplink_address(src),
        };
        if belongs { Ok(()) } else { Err(DropReason::WrongNetwork) }
    }

    /// Finds the packet's tuple; a fragment's by the first of its datagram.
    fn see(
        &mut self,
        ingress: Ingress,
        frame: &Frame<'_>,
        src: Addr,
        dst: Addr,
        now: Instant,
    ) -> Result<Seen, DropReason> {
        let layout = frame.layout();
        let l4 = frame.l4();
        let tuple = |sport, dport| FiveTuple { src, dst, sport, dport, proto: layout.proto };
        let (tuple, facts) = match layout.l4_kind {
            L4::Tcp => {
                let header = &l4[..layout.payload - layout.l4];
                let payload = (l4.len() - header.len()) as u32; // at most 65,535
                let segment = Segment::parse(header, payload).ok_or(DropReason::BadTransport)?;
                (tuple(get16(l4, 0), get16(l4, 2)), Facts::Tcp(segment))
            }
            L4::Udp => (tuple(get16(l4, 0), get16(l4, 2)), Facts::Udp),
            L4::IcmpQuery => {
                let id = get16(l4, icmp::ID);
                let query = FiveTuple::icmp_query(src, dst, layout.proto, l4[icmp::TYPE], l4[icmp::CODE], id);
                let (tuple, query) = query.ok_or(DropReason::IcmpType)?;
                (tuple, Facts::Icmp(query))
            }
            L4::IcmpError if layout.fragment == Fragment::None => return Ok(Seen::Error),
            L4::IcmpError | L4::IcmpOther => return Err(DropReason::IcmpType),
            L4::Other => (tuple(0, 0), Facts::Other),
            L4::Malformed if layout.fragment == Fragment::First => return Err(DropReason::FragmentTiny),
            L4::Malformed => return Err(DropReason::BadTransport),
            L4::None => return self.see_later_fragment(ingress, frame, src, dst, now),
        };
        let Some((key, extent)) = frag::read(frame, ingress.zone()) else { return Ok(Seen::Packet(tuple, facts)) };
        match self.frags.first(key, (tuple.sport, tuple.dport), extent, ingress.port(), now) {
            frag::First::Pass { held: true } => Ok(Seen::First(tuple, facts)),
            frag::First::Pass { held: false } => Ok(Seen::Packet(tuple, facts)),
            frag::First::Drop(why) => Err(why.into()),
        }
    }

    /// A later fragment has the ports of its first, or waits for it.
    fn see_later_fragment(
        &mut self,
        ingress: Ingress,
        frame: &Frame<'_>,
        src: Addr,
        dst: Addr,
        now: Instant,
    ) -> Result<Seen, DropReason> {
        let (key, extent) = frag::read(frame, ingress.zone()).ok_or(DropReason::BadTransport)?;
        match self.frags.later(key, extent, ingress.port(), frame.bytes(), now) {
            frag::Later::Known((sport, dport)) => {
                let tuple = FiveTuple { src, dst, sport, dport, proto: frame.layout().proto };
                Ok(Seen::Packet(tuple, Facts::Other))
            }
            frag::Later::Held => Ok(Seen::Held),
            frag::Later::Drop(why) => Err(why.into()),
        }
    }

    /// Later fragments that came before their first go on as if they came now.
    fn release_fragments(
        &mut self,
        ingress: Ingress,
        first: &Frame<'_>,
        src: Addr,
        dst: Addr,
        now: Instant,
        world: &mut dyn World,
    ) {
        // `first` may be translated by now: only what translation leaves alone is read from it.
        let id = u32::from(get16(first.l3(), ipv4::ID));
        let key = frag::Key { src, dst, id, proto: first.layout().proto, zone: ingress.zone() };
        for held in self.frags.take_held(key, ingress.port()) {
            let mut buf = vec![0; HEADROOM + held.len()];
            buf[HEADROOM..].copy_from_slice(&held);
            let end = buf.len();
            let done = Frame::parse(&mut buf, HEADROOM, end, ingress.link())
                .map_err(DropReason::from)
                .and_then(|mut frame| self.forward(ingress, &mut frame, now, world));
            if let Err(why) = done {
                self.count_drop(ingress.port(), why);
            }
        }
    }

    /// A packet with a tuple: of a flow, for us, or the first of a new flow.
    fn track(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        tuple: FiveTuple,
        facts: &Facts,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let bytes = frame.l3().len() as u64;
        if let Some((id, direction)) = self.flows.lookup(&tuple, now).filter(|(_, way)| facts.goes(*way)) {
            match self.flows.track(id, direction, facts.l4(), bytes, now) {
                Track::Accept | Track::Ignore => {
                    let flow = self.flows.get(id).expect("a tracked flow can be read until the next packet");
                    let to = flow.tuple(direction.opposite()).inverse();
                    self.rules.established += 1;
                    let egress = self.routes.lookup(to.dst).ok_or(DropReason::NoRoute)?;
                    if let (Ingress::Uplink(_), Target::Uplink) = (ingress, egress) {
                        return Err(DropReason::NoRoute); // its network is gone
                    }
                    self.passable(ingress, frame, egress, now, world)?;
                    return self.emit(ingress, frame, &tuple, &to, egress, now, world);
                }
                Track::Invalid(_) => return Err(DropReason::InvalidState),
                Track::Reopen => {}
            }
        }
        self.begin(ingress, frame, tuple, facts, now, world)
    }

    /// The first packet of a flow, or one for the gateway itself.
    fn begin(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        tuple: FiveTuple,
        facts: &Facts,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let ours = self.is_local(ingress, tuple.dst);
        let dnat = self.nat.destination(&tuple, ours);
        let to_host = match dnat {
            Some(dnat) => self.names_host(dnat.ip),
            None => self.is_for_socket(ingress, frame, &tuple, now),
        };
        if dnat.is_none() && ours && !to_host {
            return self.local(ingress, frame, &tuple, now, world);
        }
        let (dst, dport) = dnat.map_or((tuple.dst, tuple.dport), |d| (d.ip, d.port));
        let egress = if to_host { Some(Target::Uplink) } else { self.routes.lookup(dst) };
        let has_uplink = self.uplink.is_some() || self.socket_uplink.is_some();
        let Some(egress) = egress.filter(|e| *e != Target::Uplink || has_uplink) else {
            self.complain(ingress, frame, Complaint::NetworkUnreachable, now, world);
            return Err(DropReason::NoRoute);
        };
        if let (Ingress::Endpoint(_, from), Target::Network(to), None) = (ingress, egress, dnat)
            && from == to
        {
            return self.turn_back(ingress, to, frame, &tuple, now, world);
        }
        self.policy(ingress, egress, dnat.is_some())?;
        if egress == Target::Uplink && self.socket_uplink.is_some() {
            self.passable(ingress, frame, egress, now, world)?;
            let named = dnat.map(|d| Endpoint { addr: d.ip, port: d.port });
            return self.end_at_socket(ingress, frame, dst, named, now, world);
        }
        self.flows.admit(&tuple, facts.l4()).map_err(|_| DropReason::Untracked)?;
        self.passable(ingress, frame, egress, now, world)?;

        let (source, owner) = self.source_and_owner(ingress, egress, tuple.src, dst);
        let mut flow = Tentative::new(tuple, OwnerId(owner.0));
        flow.tag = dnat.map_or(0, |d| d.tag);
        flow.reply = FiveTuple { src: dst, dst: source, sport: dport, dport: tuple.sport, proto: tuple.proto };
        // Also where the source stays: two published ports of one service make one reply tuple of a client's two flows.
        let chosen = self.nat.choose_port(&mut self.flows, tuple.src, tuple.sport, &mut flow.reply, now);
        let to = flow.reply.inverse();
        let full = if chosen {
            let bytes = frame.l3().len() as u64;
            self.flows.commit(flow, facts.l4(), bytes, now).err().map(|full| match full {
                Full::Table => DropReason::FlowTableFull,
                Full::Quota => DropReason::FlowQuota,
                Full::Clash => DropReason::PortsExhausted,
            })
        } else {
            Some(DropReason::PortsExhausted)
        };
        if let Some(why) = full {
            self.complain(ingress, frame, Complaint::Prohibited, now, world); // RFC 5508 REQ-8, RFC 6888 REQ-8
            return Err(why);
        }
        self.emit(ingress, frame, &tuple, &to, egress, now, world)
    }

    /// May a new flow go this way (the forward chain, S47)?
    fn policy(&mut self, ingress: Ingress, egress: Target, published: bool) -> Result<(), DropReason> {
        let refused = match (ingress, egress) {
            (_, _) if self.no_forward => Some(DropReason::ForwardingOff),
            (Ingress::Endpoint(_, from), _) if self.network(from).config.internal => Some(DropReason::Internal),
            (_, Target::Network(to)) if self.network(to).config.internal => Some(DropReason::Internal),
            // A static rule may name any address; no answer could come back either.
            (_, Target::Network(to)) if self.network(to).gateway().is_none() => Some(DropReason::NoGateway),
            (Ingress::Endpoint(..), Target::Uplink) => None,
            (Ingress::Endpoint(..) | Ingress::Uplink(_), Target::Network(_)) if published => None,
            (Ingress::Endpoint(..), Target::Network(_)) => Some(DropReason::NetworkIsolation),
            (Ingress::Uplink(_), _) => Some(DropReason::NotPublished),
        };
        match (refused, egress) {
            (Some(_), _) => self.rules.policy_drop += 1,
            (None, Target::Uplink) => self.rules.outbound += 1,
            (None, Target::Network(_)) => self.rules.published += 1,
        }
        refused.map_or(Ok(()), Err)
    }

    /// What the source of a new flow becomes, and which container is charged for it.
    fn source_and_owner(&self, ingress: Ingress, egress: Target, src: Addr, dst: Addr) -> (Addr, PortId) {
        match (ingress, egress) {
            (Ingress::Endpoint(port, from), Target::Uplink) => {
                let masquerade = self.uplink.filter(|_| self.network(from).config.masquerade).map(|u| u.address);
                (self.nat.source(src, dst, masquerade).unwrap_or(src), port)
            }
            // Hairpin: without it, two containers on one segment would answer each other directly (S39, S40).
            (Ingress::Endpoint(port, _), Target::Network(to)) => (self.network(to).gateway().unwrap_or(src), port),
            (Ingress::Uplink(port), Target::Network(to)) => match self.network(to).owners.addr(dst) {
                Some(Owner::Port(container)) => (src, container),
                _ => (src, port),
            },
            (Ingress::Uplink(port), Target::Uplink) => (src, port),
        }
    }

    /// A container routes a neighbour through us: send it on, and say that there is a shorter way (R14).
    fn turn_back(
        &mut self,
        ingress: Ingress,
        network: NetworkId,
        frame: &mut Frame<'_>,
        tuple: &FiveTuple,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        if self.no_forward {
            self.rules.policy_drop += 1;
            return Err(DropReason::ForwardingOff);
        }
        if !self.network(network).config.icc {
            self.rules.policy_drop += 1;
            return Err(DropReason::IccOff);
        }
        if self.are_isolated(ingress.port(), network, tuple.dst) {
            self.rules.policy_drop += 1;
            return Err(DropReason::Isolated);
        }
        self.rules.icc += 1;
        let egress = Target::Network(network);
        self.passable(ingress, frame, egress, now, world)?;
        self.complain(ingress, frame, Complaint::Redirect(tuple.dst), now, world);
        self.emit(ingress, frame, tuple, tuple, egress, now, world)
    }

    /// Would turning a packet back to `dst` join two isolated ports (B19)? Of an address that nobody was given it is not
    /// known where it is until it has been asked for, so an isolated port does not reach it by this way.
    fn are_isolated(&self, from: PortId, network: NetworkId, dst: Addr) -> bool {
        let isolated = |port| self.ports.get(port).and_then(|p| p.attachment()).is_none_or(|a| a.isolated);
        isolated(from)
            && match self.network(network).owners.addr(dst) {
                Some(Owner::Port(to)) => isolated(to),
                Some(Owner::Gateway) | None => true,
            }
    }

    /// TTL and MTU, in this order (Linux net/ipv4/ip_forward.c).
    fn passable(
        &mut self,
        ingress: Ingress,
        frame: &Frame<'_>,
        egress: Target,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        if frame.l3()[ipv4::TTL] <= 1 {
            self.complain(ingress, frame, Complaint::TtlExceeded, now, world);
            return Err(DropReason::TtlExceeded);
        }
        let mtu = self.mtu(egress);
        if frame.segment_len() > mtu && get16(frame.l3(), ipv4::FRAGMENT) & ipv4::DF != 0 {
            let hint = mtu as u16; // MTUs are at most 65,521
            self.complain(ingress, frame, Complaint::FragmentationNeeded(hint), now, world);
            return Err(DropReason::NeedsFragmentation);
        }
        Ok(())
    }

    fn mtu(&self, egress: Target) -> usize {
        match egress {
            Target::Uplink => self.uplink.map_or(usize::MAX, |u| u.mtu),
            Target::Network(id) => usize::from(self.network(id).config.mtu),
        }
    }

    /// Changes the bytes and sends: nothing after this refuses.
    #[expect(clippy::too_many_arguments, reason = "the whole decision, as values")]
    fn emit(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        from: &FiveTuple,
        to: &FiveTuple,
        egress: Target,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        rewrite::translate(frame, from, to);
        rewrite::decrement_ttl(frame);
        let (clamp, out_address) = match egress {
            Target::Uplink => (self.uplink.filter(|u| u.mss_clamp).map(|u| u.mtu), self.uplink.map(|u| u.address)),
            Target::Network(id) => {
                let clamp = self.uplink.filter(|u| u.mss_clamp && ingress == Ingress::Uplink(u.port)).map(|u| u.mtu);
                (clamp, self.network(id).gateway())
            }
        };
        if frame.layout().l4 - frame.layout().l3 > ipv4::MIN_LEN
            && let Some(address) = out_address
        {
            options::record(frame.l3_mut(), address, now);
        }
        if let Some(mtu) = clamp {
            options::clamp_mss(frame, mtu);
        }
        if frame.segment_len() <= self.mtu(egress) {
            return self.leave(ingress, frame, to, egress, now, world);
        }
        let mut scratch = std::mem::take(&mut self.fragment_scratch);
        let mut done = Ok(());
        fragment::fragment(frame, self.mtu(egress), &mut scratch, &mut |mut part| {
            if let Err(why) = self.leave(ingress, &mut part, to, egress, now, world) {
                done = Err(why);
            }
        });
        self.fragment_scratch = scratch;
        done
    }

    /// One packet that fits leaves by its egress.
    fn leave(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        to: &FiveTuple,
        egress: Target,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        match egress {
            Target::Uplink => {
                let uplink = self.uplink.ok_or(DropReason::NoUplink)?;
                self.refuse_leak(frame, uplink.address, to.dst)?;
                frame.strip_link();
                self.send(ingress.port(), uplink.port, frame, world);
                Ok(())
            }
            Target::Network(network) => self.deliver(ingress.port(), network, to.dst, frame, now, world),
        }
    }

    /// No source of a masqueraded network ever leaves by the uplink (R27): the last look at what was decided above.
    fn refuse_leak(&self, frame: &Frame<'_>, own: Addr, dst: Addr) -> Result<(), DropReason> {
        let Some((src, _)) = frame.addrs() else { return Err(DropReason::Martian) };
        if src == own {
            return Ok(());
        }
        match self.routes.lookup(src) {
            Some(Target::Network(id)) if self.network(id).config.masquerade && !self.nat.is_exempt(dst) => {
                Err(DropReason::WrongNetwork)
            }
            _ => Ok(()),
        }
    }

    /// To `next_hop` on a network: by what is known of it, or after asking.
    pub(super) fn deliver(
        &mut self,
        from: PortId,
        network: NetworkId,
        next_hop: Addr,
        frame: &mut Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let station = match self.network_mut(network).neighbours.resolve(next_hop, now) {
            Resolution::Known(station) => station,
            Resolution::Doubtful(station) => {
                self.ask(network, next_hop, Some(station), now, world);
                station
            }
            Resolution::Unknown => {
                frame.strip_link();
                let packet = frame.out().with_vnet();
                let (hold, evicted) = self.network_mut(network).neighbours.hold(next_hop, from, packet, now);
                for Held { from, .. } in evicted {
                    self.count_drop(from, DropReason::NeighbourQueue);
                }
                return match hold {
                    Hold::Ask => {
                        self.ask(network, next_hop, None, now, world);
                        Ok(())
                    }
                    Hold::Waits => Ok(()),
                    Hold::Full => Err(DropReason::NeighbourQueue),
                };
            }
        };
        self.send_to_station(from, network, station, frame, now, world);
        Ok(())
    }

    /// Packets that waited for a neighbour go now.
    pub(super) fn release_held(
        &mut self,
        network: NetworkId,
        next_hop: Addr,
        held: Vec<Held>,
        now: Instant,
        world: &mut dyn World,
    ) {
        for Held { from, packet } in held {
            with_held(&packet, |frame| {
                if let Err(why) = self.deliver(from, network, next_hop, frame, now, world) {
                    self.count_drop(from, why);
                }
            });
        }
    }

    /// Nobody answered for these: 3/1 to whoever sent them (R04).
    pub(super) fn neighbour_failed(
        &mut self,
        network: NetworkId,
        held: Vec<Held>,
        now: Instant,
        world: &mut dyn World,
    ) {
        for Held { from, packet } in held {
            self.count_drop(from, DropReason::NeighbourFailed);
            with_held(&packet, |frame| self.complain_translated(network, frame, now, world));
        }
    }

    /// An ICMP error: belongs to the flow that it quotes, and is translated within and without (RFC 5508 REQ-4, REQ-5).
    ///
    /// ```text
    ///   c1 --- pontoon --- R --- s        what c1 sent:   c1:p -> s:q      as it left:  UP:p' -> s:q
    ///                      |              the error:      R -> UP  quoting UP:p' -> s:q
    ///                      `- error       what c1 gets:   R -> c1  quoting c1:p  -> s:q
    /// ```
    /// An error from the container's side has its source translated as the flow's is, whoever it is from: no private
    /// address leaves.
    pub(super) fn related(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        let kind = frame.l4()[icmp::TYPE];
        if matches!(kind, icmp::SOURCE_QUENCH | icmp::REDIRECT) {
            return Err(DropReason::IcmpType); // RFC 5508 REQ-10 c; a redirect is about the link it came by
        }
        let (src, dst) = frame.addrs().ok_or(DropReason::Martian)?;
        let quote = Quote::parse(frame.payload()).ok_or(DropReason::IcmpUnrelated)?;
        let Some((id, direction)) = self.flows.lookup(&quote.tuple.inverse(), now) else {
            let ours = self.error_to_socket(ingress, frame, &quote.tuple, now, world);
            return if ours { Ok(()) } else { Err(DropReason::IcmpUnrelated) };
        };
        let flow = self.flows.get(id).expect("just found");
        let as_came = *flow.tuple(direction);
        let as_goes = flow.tuple(direction.opposite()).inverse();
        if dst != as_came.dst {
            return Err(DropReason::IcmpUnrelated); // nf_conntrack_inet_error
        }
        // It tells of a packet that we sent to this side: nobody speaks for a flow that he is not on the path of.
        let side = self.routes.lookup(as_came.src);
        let of_this_side = match ingress {
            Ingress::Endpoint(_, id) => side == Some(Target::Network(id)),
            Ingress::Uplink(_) => !matches!(side, Some(Target::Network(_))),
        };
        if !of_this_side {
            return Err(DropReason::IcmpUnrelated);
        }
        let egress = self.routes.lookup(as_goes.dst).ok_or(DropReason::NoRoute)?;
        if let (Ingress::Endpoint(_, from), Target::Uplink) = (ingress, egress)
            && self.network(from).config.internal
        {
            return Err(DropReason::Internal);
        }
        self.passable(ingress, frame, egress, now, world)?;
        self.rules.established += 1;

        let inner = frame.layout().payload - frame.layout().l4;
        let l4 = frame.l4_mut();
        quote.translate(&mut l4[inner..], &as_goes.inverse());
        put16(l4, icmp::CHECKSUM, 0);
        let sum = !checksum::sum(l4);
        put16(l4, icmp::CHECKSUM, sum);
        let translated = as_came.src != as_goes.src;
        let new_src = if translated { as_goes.src } else { src };
        let outer = |src, dst| FiveTuple { src, dst, sport: 0, dport: 0, proto: proto::ICMP };
        self.emit(ingress, frame, &outer(src, dst), &outer(new_src, as_goes.dst), egress, now, world)
    }

    /// Is `addr` one of the uplink's own?
    pub(super) fn is_uplink_address(&self, addr: Addr) -> bool {
        self.uplink.is_some_and(|u| u.address == addr) || self.nat.is_alias(addr)
    }

    /// Is `dst` one of the gateway's own addresses, seen from `ingress`? From the uplink only the uplink's are.
    pub(super) fn is_local(&self, ingress: Ingress, dst: Addr) -> bool {
        let gateway = || match self.routes.lookup(dst) {
            Some(Target::Network(id)) => self.network(id).gateway() == Some(dst),
            _ => false,
        };
        self.is_uplink_address(dst) || matches!(ingress, Ingress::Endpoint(..)) && gateway()
    }
}

/// Parses a packet that was put aside with its virtio header.
fn with_held(packet: &[u8], go: impl FnOnce(&mut Frame<'_>)) {
    let mut buf = vec![0; HEADROOM - vnet::LEN + packet.len()];
    buf[HEADROOM - vnet::LEN..].copy_from_slice(packet);
    let end = buf.len();
    if let Ok(mut frame) = Frame::parse(&mut buf, HEADROOM, end, Link::Ip) {
        go(&mut frame);
    }
}
