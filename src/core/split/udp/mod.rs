//! UDP between containers and host sockets.
//!
//! # Theory of operation
//! Each endpoint of a container that sends gets one unconnected host socket, for all its destinations: the far side sees
//! one address and port whomever the container talks to (RFC 4787 REQ-1). What arrives there is let in only from whom the
//! container has sent to, by address and port, as Linux' connection tracker would (U8), and reaches the container from the
//! address that it knows the peer by.
//!
//! A published port is one socket at a fixed place. Each of its clients is a flow, too; the container sees the client's
//! own address, or the gateway's where that address may not be shown ([`super::shown`]), and another port where two
//! clients would look the same. Replies leave from the address that the client asked.
//!
//! ```text
//!  container ─► input ─► flow ─► send_to(socket, peer)       recv_from(socket) ─► flow ─► deliver ─► container
//!                         └─ none: a socket, a flow                └─ none: dropped, or a client's new flow
//! ```
//!
//! Super-frames cross whole both ways (UDP_SEGMENT, UDP_GRO). A datagram longer than the network's MTU is cut into
//! fragments; one that comes in fragments is put together before it gets here ([`super::reassembly`]). "Don't fragment",
//! time to live, type of service and ECN go along.
//!
//! Short datagrams of one flow that are read together are sent together, as one call: after a turn's first, which is sent at
//! once, they wait in a [`Train`] for what comes next, for the end of the turn at most ([`Udp::flush`]). One that has the headers
//! of those that wait joins them as soon as it is read, without its journey through the switch ([`Udp::follow`]).
//!
//! An ICMP error that one datagram met makes the next `send_to` fail, whatever its destination: the error queue is drained,
//! the container told, and the datagram sent again, once.
//!
//! # Timers
//! As Linux': 30 s, and 120 s for a conversation of more than two seconds ([`table`]). A flow to port 53 ends
//! two seconds after its last question was answered: a resolver never comes back to it, and a socket is a
//! scarce thing.
//!
//! # Limits
//! Sockets take ports of the host's `ip_local_port_range`, and 28,232 wildcard UDP sockets leave none for the host's own
//! resolver (measured): all containers together get a quarter of the range, one container a quarter of that.

pub(super) mod account;
pub(super) mod errors;
#[cfg(test)]
pub(super) mod fake;
pub(super) mod packet;
pub(super) mod table;
#[cfg(test)]
mod tests;

use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

use self::errors::{About, Drained, Errors};
use self::packet::{Arrived, HEADERS, Identifications, MAX_DATA, Quote};
use self::table::{Begun, Flow, Kind, New, Rank, Spared, Table, Way};
use super::ids::Owner;
use super::{Lower, Origin, no_socket, shown};
use crate::core::command::Traffic;
use crate::core::conntrack::FiveTuple;
use crate::core::counters::DropReason;
use crate::core::hash::Keyed;
use crate::core::icmp::Complaint;
use crate::core::network::NetworkId;
use crate::core::port::PortId;
use crate::core::socket::{
    Close, Datagrams, Endpoint, Failure, Ready, Received, RouteKind, SendHow, SocketId, leaves_some, most_together,
};
use crate::core::time::Instant;
use crate::core::worth::Worth;
use crate::frame::follow::{Follower, Leader};
use crate::frame::{BUFFER_LEN, Fragment, Frame, Gso, HEADROOM, L3, L4, MAX_SEGMENTS, fragment};
use crate::wire::addr::Addr;
use crate::wire::get16;
use crate::wire::ip::{ipv4, proto, udp};

pub use self::table::{Limits, Timeouts};

/// Port of DNS.
const DNS: u16 = 53;
/// How long a flow outlives the answer to its last question.
const DNS_LINGER: Duration = Duration::from_secs(2);
/// The longest datagram that joins a train, bytes.
const JOINED_LEN: usize = 2048;
/// Calls of `recv_from`, and bytes, before others get their turn.
const RECEIVED_AT_ONCE: (usize, usize) = (64, 256 << 10);
/// Attempts to find a free port for a client that looks like another.
const PORT_ATTEMPTS: usize = 64;
/// The first port that a client may be shown with whose own is taken.
const FIRST_PORT: u64 = 1024;

/// What is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub limits: Limits,
    pub timeouts: Timeouts,
}

impl Config {
    /// For a host with this `net.ipv4.ip_local_port_range`; 65,536 flows, a quarter of them a container; Linux' timers.
    pub fn for_ports(range: RangeInclusive<u16>) -> Config {
        const FLOWS: usize = 1 << 16;
        let sockets = (range.len() / 4).max(1);
        let limits = Limits { sockets, sockets_each: (sockets / 4).max(1), flows: FLOWS, flows_each: FLOWS / 4 };
        let timeouts = Timeouts { unreplied: Duration::from_secs(30), stream: Duration::from_secs(120) };
        Config { limits, timeouts }
    }
}

/// A flow as listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// The container that is charged, and its network.
    pub origin: Origin,
    /// The first packet's direction, before any translation.
    pub original: FiveTuple,
    /// What comes back. The host's own address is not known where the host chooses it.
    pub reply: FiveTuple,
    pub replied: bool,
    pub assured: bool,
    /// Data in the direction of the first packet.
    pub original_traffic: Traffic,
    pub reply_traffic: Traffic,
    pub age: Duration,
    /// Until it ends when nothing more comes.
    pub timeout: Duration,
}

/// Datagrams that are to be sent together: of one flow, one length but the last, and with equal headers.
#[derive(Default)]
struct Train {
    /// What they have in common; `None`: there are none.
    headers: Option<Headers>,
    /// The headers of the first, as it was read.
    leader: Option<Leader>,
    /// The flow; nothing ends one while a train waits.
    at: u32,
    /// Of all but the last, bytes.
    len: usize,
    count: usize,
    bytes: Vec<u8>,
}

/// What a container's datagram says of itself, and where it goes really.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Headers {
    origin: Origin,
    inside: Endpoint,
    shown: Endpoint,
    dial: Endpoint,
    how: SendHow,
}

impl Train {
    /// The flow that a datagram of `len` bytes goes on with, if it fits behind the last one.
    fn takes(&self, headers: &Headers, len: usize) -> Option<u32> {
        (self.headers.as_ref() == Some(headers) && self.has_room(len)).then_some(self.at)
    }

    /// Can one of `len` bytes join? A shorter one is the last.
    fn has_room(&self, len: usize) -> bool {
        (1..=self.len).contains(&len)
            && self.bytes.len() == self.len * self.count
            && self.bytes.len() + len <= most_together(self.len)
    }

    fn begin(&mut self, headers: Headers, leader: Option<Leader>, at: u32, data: &[u8]) {
        (self.headers, self.leader, self.at, self.len) = (Some(headers), leader, at, data.len());
        self.add(data);
    }

    fn add(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
        self.count += 1;
    }
}

/// The engine.
pub struct Udp {
    table: Table,
    errors: Errors,
    ids: Identifications,
    train: Train,
    /// A datagram was sent in this turn: more are likely to come in it.
    several: bool,
    /// Where datagrams are received; taken while it is in use.
    buffer: Vec<u8>,
    /// Where fragments are made; empty until the first.
    scratch: Vec<u8>,
}

impl Udp {
    /// An engine without sockets. `key`: 16 random, secret bytes.
    pub fn new(config: Config, key: [u8; 16], now: Instant) -> Udp {
        let key = Keyed::new(key);
        Udp {
            table: Table::new(config.limits, config.timeouts, key.clone()),
            errors: Errors::new(key.clone(), now),
            ids: Identifications::new(key),
            train: Train::default(),
            several: false,
            buffer: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// A UDP packet, or super-frame, of a container, whose checksum is known to be right. `dial`: where to send it really;
    /// `None`: as it is addressed. A reply to a client of a published port goes to that client, whatever `dial` says.
    pub fn input(
        &mut self,
        origin: Origin,
        frame: &Frame<'_>,
        dial: Option<Endpoint>,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let done = self.input_inner(origin, frame, dial, now, lower);
        self.sweep(lower);
        done
    }

    fn input_inner(
        &mut self,
        origin: Origin,
        frame: &Frame<'_>,
        dial: Option<Endpoint>,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let layout = frame.layout();
        if layout.kind != L3::V4 {
            return Err(DropReason::NotIp);
        }
        if layout.l4_kind != L4::Udp || layout.fragment != Fragment::None {
            return Err(DropReason::BadTransport);
        }
        let (src, dst) = frame.addrs().ok_or(DropReason::Martian)?;
        let (header, l4) = (frame.l3(), frame.l4());
        let inside = Endpoint { addr: src, port: get16(l4, 0) };
        let shown = Endpoint { addr: dst, port: get16(l4, 2) };
        let (data, segment) = match frame.gso() {
            Gso::None => (&l4[udp::LEN..usize::from(get16(l4, udp::LENGTH))], None),
            Gso::Udp { size } => (frame.payload(), Some(size)),
            Gso::Tcp { .. } => return Err(DropReason::BadSegmentation),
        };
        if shown.port == 0 {
            return Err(DropReason::BadTransport); // no socket can send there
        }
        if header[ipv4::TTL] <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let quote = Quote::of(frame);
        let dial = dial.unwrap_or(shown);
        let how = SendHow {
            segment,
            dont_fragment: quote.dont_fragment,
            tos: header[ipv4::TOS],
            ttl: header[ipv4::TTL] - 1,
            from: None,
            scope: 0,
        };
        let headers = Headers { origin, inside, shown, dial, how };
        if let Some(at) = self.train.takes(&headers, data.len())
            && let Some(flow) = self.table.flow_mut(at)
        {
            flow.last = quote;
            self.table.touch(at, Way::Out, 1, data.len() as u64, now);
            self.train.add(data);
            return Ok(());
        }
        self.send_train(now, lower);
        let at = match self.outgoing(origin, inside, shown, dial, now, lower) {
            Ok(at) => at,
            Err(why) => {
                // RFC 5508 REQ-8, RFC 6888 REQ-8
                let about = About { src, dst, proto: proto::UDP, quote: &quote };
                self.errors.complain(origin.network, &about, Complaint::Prohibited, now, lower);
                return Err(why);
            }
        };
        let datagrams = frame.segments() as u64;
        self.table.touch(at, Way::Out, datagrams, data.len() as u64, now);
        let Some(flow) = self.table.flow_mut(at) else { return Err(DropReason::FlowTableFull) };
        flow.last = quote;
        if flow.begun == Begun::Inside && shown.port == DNS {
            flow.pending = flow.pending.saturating_add(datagrams as u16); // at most 128
        }
        let joins = segment.is_none() && (1..=JOINED_LEN).contains(&data.len()) && shown.port != DNS;
        if std::mem::replace(&mut self.several, true) && joins {
            self.train.begin(headers, Leader::of(frame), at, data);
            return Ok(());
        }
        self.send(at, data, how, now, lower)
    }

    /// Does a frame of `port`, in `bytes` with its virtio header, join those that wait, as a datagram of the same headers?
    /// Then it was taken, as [`Udp::input`] takes what went all the way to it.
    #[inline]
    pub fn follow(&mut self, port: PortId, bytes: &[u8], now: Instant) -> bool {
        let train = &mut self.train;
        if let Some(Follower { id, data }) = train.leader.as_ref().and_then(|leader| leader.leads(bytes))
            && train.headers.is_some_and(|headers| headers.origin.port == port)
            && train.has_room(data.len())
            && let Some(flow) = self.table.flow_mut(train.at)
        {
            flow.last.follow(id, data.len());
            self.table.touch(train.at, Way::Out, 1, data.len() as u64, now);
            train.add(data);
            return true;
        }
        false
    }

    /// The end of a turn, or before flows are ended: nothing waits any longer.
    pub fn flush(&mut self, now: Instant, lower: &mut dyn Lower) {
        self.several = false;
        if self.train.headers.is_some() {
            self.send_train(now, lower);
            self.sweep(lower);
        }
    }

    /// Sends what waits; what the host does not take is counted, for its frames have been taken long since.
    fn send_train(&mut self, now: Instant, lower: &mut dyn Lower) {
        self.train.leader = None;
        let Some(Headers { origin, inside, how, .. }) = self.train.headers.take() else { return };
        let (at, count, mut bytes) =
            (self.train.at, std::mem::take(&mut self.train.count), std::mem::take(&mut self.train.bytes));
        debug_assert!(self.table.flow(at).is_some_and(|flow| (flow.origin, flow.inside) == (origin, inside)));
        let segment = NonZeroU16::new(self.train.len as u16).filter(|_| count > 1); // at most JOINED_LEN
        if let Err(why) = self.send(at, &bytes, SendHow { segment, ..how }, now, lower) {
            (0..count).for_each(|_| lower.count(origin.port, why));
        }
        bytes.clear();
        self.train.bytes = bytes;
    }

    /// Is this a reply to a client of a published port? Asked before an address is judged: the client may have any.
    pub fn is_reply(&self, origin: Origin, from: Endpoint, to: Endpoint, now: Instant) -> bool {
        self.table.is_reply(origin, from, to, now)
    }

    /// A socket can do something. `true`: it has more than one turn's work; call again with the same `ready`.
    pub fn socket_ready(&mut self, id: SocketId, ready: Ready, now: Instant, lower: &mut dyn Lower) -> bool {
        self.flush(now, lower);
        let Some(Owner::Udp(at)) = lower.ids().get(id) else { return false };
        let mut more = ready.error && !self.drain(at, now, lower).exhausted;
        if ready.readable || ready.error {
            let mut buffer = std::mem::take(&mut self.buffer);
            if buffer.is_empty() {
                buffer = vec![0; BUFFER_LEN];
            }
            more |= self.receive(at, &mut buffer, now, lower);
            self.buffer = buffer;
        }
        self.sweep(lower);
        more
    }

    /// Publishes a port: what comes to `at` on the host goes to the container's `to`. Where it is bound; the host's reason
    /// if it cannot be, and [`Failure::InUse`] if `tag` is in use.
    #[expect(clippy::too_many_arguments, reason = "all that a published port is")]
    pub fn listen(
        &mut self,
        tag: u32,
        at: Endpoint,
        to: Endpoint,
        network: NetworkId,
        owner: PortId,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<Endpoint, Failure> {
        if self.table.published(tag).is_some() {
            return Err(Failure::InUse);
        }
        let id = lower.ids().insert(Owner::Udp(self.table.next_socket())).ok_or(Failure::NoFiles)?;
        match lower.sockets().open(id, Datagrams::Udp, at) {
            Ok(bound) => {
                let origin = Origin { port: owner, network };
                lower.sockets().assign(id, owner);
                self.table.insert_socket(id, origin, Kind::Published { tag, to }, bound, now);
                Ok(bound)
            }
            Err(why) => {
                lower.ids().remove(id);
                Err(why)
            }
        }
    }

    /// Withdraws a published port, and ends its clients' flows; was there one?
    pub fn unlisten(&mut self, tag: u32, lower: &mut dyn Lower) -> bool {
        let at = self.table.published(tag);
        if let Some(at) = at {
            self.table.remove_socket(at);
        }
        self.sweep(lower);
        at.is_some()
    }

    /// How many flows a container has.
    pub fn flows_of(&self, port: PortId) -> usize {
        self.table.flows_of(port)
    }

    /// Ends flows of a container, `most` at most; its published ports stay. How many there were.
    pub fn end_flows(&mut self, port: PortId, most: usize, lower: &mut dyn Lower) -> usize {
        let ended = self.table.end_flows(port, most);
        self.sweep(lower);
        ended
    }

    /// Ends all that belongs to a port that is gone, its published ports as well.
    pub fn detach(&mut self, port: PortId, lower: &mut dyn Lower) {
        self.table.forget(port);
        self.sweep(lower);
    }

    /// When [`Udp::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.table.next_timeout()
    }

    /// Ends the flows whose time has come.
    pub fn handle_timeout(&mut self, now: Instant, lower: &mut dyn Lower) {
        self.flush(now, lower);
        self.table.expire(now);
        self.sweep(lower);
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.table.len().1
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most `max` flows, from `cursor` on (0: from the first), and the cursor of the next ones.
    pub fn flows(&self, cursor: u64, max: usize, now: Instant) -> (Vec<FlowRow>, Option<u64>) {
        let (flows, next) = self.table.page(cursor, max);
        let bound = |flow: &Flow| self.table.socket(flow.socket).map_or(flow.inside, |socket| socket.bound);
        (flows.into_iter().map(|flow| row(flow, bound(flow), proto::UDP, now)).collect(), next)
    }

    /// The flow that a container's datagram belongs to, which it may begin.
    fn outgoing(
        &mut self,
        origin: Origin,
        inside: Endpoint,
        shown: Endpoint,
        peer: Endpoint,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<u32, DropReason> {
        if let Some(at) = self.table.of_container(origin, inside, shown, now)
            && let Some(flow) = self.table.flow(at)
            && (flow.begun == Begun::Outside || flow.peer == peer)
        {
            return Ok(at);
        }
        let socket = match self.table.socket_of(origin, inside) {
            Some(socket) => socket,
            None => self.open(origin, inside, now, lower)?,
        };
        let new = New { socket, origin, inside, shown, peer, local: None, begun: Begun::Inside };
        self.table.insert_flow(new, now).map_err(|_| DropReason::FlowQuota)
    }

    /// Opens the socket of a container's endpoint.
    fn open(
        &mut self,
        origin: Origin,
        inside: Endpoint,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<u32, DropReason> {
        let mut gave_way = self.table.make_socket_room(origin.port).map_err(|_| DropReason::FlowQuota)?;
        let any = Addr::unspecified(inside.addr.is_v4());
        let mut spared = true;
        loop {
            self.sweep(lower);
            let id = lower.ids().insert(Owner::Udp(self.table.next_socket())).ok_or(DropReason::FlowTableFull)?;
            let opened = if leaves_some(lower.sockets().room(), self.table.sockets_of(origin.port)) {
                lower.sockets().open(id, Datagrams::Udp, Endpoint { addr: any, port: 0 })
            } else {
                Err(Failure::NoFiles)
            };
            let why = match opened {
                Ok(bound) => {
                    if gave_way {
                        lower.came_to(Worth::Nothing); // a socket for a socket, again and again, is dear
                    }
                    lower.sockets().assign(id, origin.port);
                    return Ok(self.table.insert_socket(id, origin, Kind::Inside { inside }, bound, now));
                }
                Err(why) => why,
            };
            lower.ids().remove(id);
            let scarce = matches!(why, Failure::NoFiles | Failure::NoAddress | Failure::InUse | Failure::NoMemory);
            if !(scarce && spared && self.table.evict_socket(origin.port, Spared::Assured)) {
                return Err(no_socket(why));
            }
            (spared, gave_way) = (false, true);
        }
    }

    /// Sends a flow's datagrams, from where its peer expects them; if the host refuses, its container is told, and this is
    /// how it is counted.
    fn send(
        &mut self,
        at: u32,
        data: &[u8],
        how: SendHow,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let flow = self.table.flow(at).ok_or(DropReason::FlowTableFull)?;
        let (peer, how) = (flow.peer, SendHow { from: flow.local, scope: flow.scope, ..how });
        let id = self.table.socket(flow.socket).ok_or(DropReason::FlowTableFull)?.id;
        let Err(why) = lower.sockets().send_to(id, peer, data, &how) else { return Ok(()) };
        Err(self.errors.refused(&self.table, at, proto::UDP, why, now, lower))
    }

    /// Reads a socket's error queue and tells its container.
    fn drain(&mut self, at: u32, now: Instant, lower: &mut dyn Lower) -> Drained {
        self.errors.drain(&self.table, at, proto::UDP, now, lower)
    }

    /// Receives what has come to a socket; `true`: there may be more.
    fn receive(&mut self, at: u32, buffer: &mut [u8], now: Instant, lower: &mut dyn Lower) -> bool {
        let (calls, mut left) = RECEIVED_AT_ONCE;
        let mut mute = 0;
        for _ in 0..calls {
            let Some(id) = self.table.socket(at).map(|s| s.id) else { return false };
            let into = &mut buffer[HEADROOM + HEADERS..HEADROOM + HEADERS + MAX_DATA];
            match lower.sockets().recv_from(id, into) {
                Ok(received) => {
                    if let Err((owner, why)) = self.arrived(at, buffer, received, now, lower) {
                        lower.count(owner, why);
                    }
                    left = left.saturating_sub(received.len.max(1));
                    if left == 0 {
                        return true;
                    }
                }
                Err(Failure::WouldBlock) => return false,
                // An error that a datagram of ours met; what has come waits behind it. One that nobody explains may be
                // met once, and not for ever.
                Err(_) => {
                    mute += usize::from(!self.drain(at, now, lower).any);
                    if mute > 1 {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// A datagram, or several of one peer, lies in the buffer.
    fn arrived(
        &mut self,
        at: u32,
        buffer: &mut [u8],
        received: Received,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), (PortId, DropReason)> {
        let Some(socket) = self.table.socket(at) else { return Ok(()) };
        let (kind, origin) = (socket.kind, socket.origin);
        let owner = origin.port;
        if received.truncated {
            return Err((owner, DropReason::TooLong));
        }
        let len = received.len.min(MAX_DATA);
        let found = match kind {
            Kind::Inside { .. } => self.table.of_peer(at, received.from, None, now).ok_or(DropReason::Unsolicited),
            Kind::Published { to, .. } => match self.table.of_peer(at, received.from, received.to, now) {
                Some(flow) => Ok(flow),
                None => self.client(at, origin, to, &received, now, lower),
            },
        };
        let flow_at = found.map_err(|why| (owner, why))?;
        let segment = received.segment.filter(|size| usize::from(size.get()) < len);
        let datagrams = segment.map_or(1, |size| len.div_ceil(usize::from(size.get())));
        self.table.touch(flow_at, Way::In, datagrams as u64, len as u64, now);
        let Some(flow) = self.table.flow_mut(flow_at) else { return Ok(()) };
        flow.scope = received.scope; // its link may have come back as another
        let (shown, inside) = (flow.shown, flow.inside);
        if flow.begun == Begun::Inside && shown.port == DNS {
            flow.pending = flow.pending.saturating_sub(datagrams.min(usize::from(u16::MAX)) as u16);
            if flow.pending == 0 {
                self.table.shorten(flow_at, now + DNS_LINGER);
            }
        }
        let id = self.ids.take(shown.addr, inside.addr, datagrams);
        let piece = segment.map_or(MAX_DATA, |size| usize::from(size.get()) * MAX_SEGMENTS);
        let mut from = 0;
        loop {
            let piece = piece.min(len - from);
            let done = from / segment.map_or(1, |size| usize::from(size.get()));
            let arrived = Arrived { tos: received.tos, ttl: received.ttl, id: id.wrapping_add(done as u16) };
            if let Some(frame) = packet::datagram(buffer, HEADROOM + from, piece, segment, shown, inside, arrived) {
                deliver(origin.network, frame, &mut self.scratch, lower);
            }
            from += piece;
            if from >= len {
                return Ok(());
            }
        }
    }

    /// Begins the flow of a published port's client.
    fn client(
        &mut self,
        socket: u32,
        origin: Origin,
        to: Endpoint,
        received: &Received,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<u32, DropReason> {
        if let Some(local) = received.to
            && (local.is_multicast()
                || local == Addr::V4_BROADCAST
                || lower.sockets().route_kind(local) == RouteKind::Broadcast)
        {
            return Err(DropReason::Broadcast); // no reply could leave from there
        }
        let addr = shown(received.from.addr, to.addr, origin.network, lower).ok_or(DropReason::NoGateway)?;
        let mut shown = Endpoint { addr, ..received.from };
        let mut attempts = 0;
        while self.table.of_container(origin, to, shown, now).is_some() {
            if attempts == PORT_ATTEMPTS {
                return Err(DropReason::PortsExhausted);
            }
            attempts += 1;
            let ports = u64::from(u16::MAX) + 1 - FIRST_PORT;
            shown.port = (FIRST_PORT + lower.random() % ports) as u16; // at most 65,535
        }
        let peer = received.from;
        let new = New { socket, origin, inside: to, shown, peer, local: received.to, begun: Begun::Outside };
        self.table.insert_flow(new, now).map_err(|_| DropReason::FlowQuota)
    }

    /// Closes what the table has ended.
    fn sweep(&mut self, lower: &mut dyn Lower) {
        close_all(self.table.take_closed(), lower);
    }
}

/// Closes sockets and frees their names.
pub(super) fn close_all(closed: Vec<SocketId>, lower: &mut dyn Lower) {
    for id in closed {
        lower.sockets().close(id, Close::Orderly);
        lower.ids().remove(id);
    }
}

/// Sends a packet into a network, in fragments if it must.
pub(super) fn deliver(network: NetworkId, mut frame: Frame<'_>, scratch: &mut Vec<u8>, lower: &mut dyn Lower) {
    let mtu = lower.mtu(network);
    if frame.segment_len() <= mtu {
        lower.deliver(network, &mut frame);
        return;
    }
    scratch.resize(BUFFER_LEN, 0);
    fragment::fragment(&mut frame, mtu, scratch, &mut |mut piece| lower.deliver(network, &mut piece));
}

/// A flow as listed; its socket is bound there.
pub(super) fn row(flow: &Flow, bound: Endpoint, proto: u8, now: Instant) -> FlowRow {
    let tuple = |from: Endpoint, to: Endpoint| FiveTuple {
        src: from.addr,
        dst: to.addr,
        sport: from.port,
        dport: to.port,
        proto,
    };
    let asked = Endpoint { addr: flow.local.unwrap_or(bound.addr), port: bound.port };
    let (original, reply, traffic) = match flow.begun {
        Begun::Inside => (tuple(flow.inside, flow.shown), tuple(flow.peer, asked), (flow.out, flow.back)),
        Begun::Outside => (tuple(flow.peer, asked), tuple(flow.inside, flow.shown), (flow.back, flow.out)),
    };
    FlowRow {
        origin: flow.origin,
        original,
        reply,
        replied: flow.rank >= Rank::Answered,
        assured: flow.rank == Rank::Assured,
        original_traffic: traffic.0,
        reply_traffic: traffic.1,
        age: now.since(flow.created),
        timeout: flow.deadline.since(now),
    }
}
