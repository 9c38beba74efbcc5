//! Echo requests of containers, through the host's unprivileged ICMP sockets.
//!
//! # Theory of operation
//! The port of an ICMP socket *is* the identifier of its echo requests: the kernel writes it over whatever is sent, and
//! hands over the replies that have it, whoever sent them. So each identifier of a container gets a socket, bound to the
//! same number if it is free on the host, and the container's own is put back into replies and into the packets that ICMP
//! errors quote. Replies are let in only from whom the container has asked. Sockets and flows are kept as those of UDP
//! ([`super::udp`]), with Linux' timer for ICMP, 30 s.
//!
//! The host may forbid such sockets (`net.ipv4.ping_group_range`). Then [`Ping::available`] is false and the container is
//! told "administratively prohibited": a reply is never made up. It is tried again with the next request.
//!
//! Other queries (timestamps, address masks) no socket can send; they are dropped.

use std::time::Duration;

use super::ids::Owner;
pub use super::udp::Limits;
use super::udp::errors::{About, Drained, Errors};
use super::udp::packet::{self, Arrived, Identifications, Quote};
use super::udp::table::{Begun, Flow, Kind, New, Table, Timeouts, Way};
use super::udp::{FlowRow, close_all, deliver, row};
use super::{Lower, Origin, no_socket};
use crate::core::counters::DropReason;
use crate::core::hash::Keyed;
use crate::core::icmp::Complaint;
use crate::core::port::PortId;
use crate::core::socket::{Datagrams, Endpoint, Failure, Ready, Received, SendHow, SocketId, leaves_some};
use crate::core::time::Instant;
use crate::core::worth::Worth;
use crate::frame::{BUFFER_LEN, Fragment, Frame, HEADROOM, L3, L4};
use crate::wire::addr::Addr;
use crate::wire::ip::{icmp, ipv4, proto};
use crate::wire::{get16, put16};

/// What to tell where the host lets nobody ping, and its cure.
pub const FORBIDDEN: &str = "containers cannot ping the world: net.ipv4.ping_group_range holds no group of this user; to cure \
                             it, as root: sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"";

/// Linux `nf_conntrack_icmp_timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest ICMP message, bytes.
const MAX_MESSAGE: usize = 65_535 - ipv4::MIN_LEN;
/// Calls of `recv_from` before others get their turn.
const RECEIVED_AT_ONCE: usize = 64;
/// What stands for the port of who answers, in listings: the type and code of a request.
const REQUEST: u16 = (icmp::ECHO as u16) << 8;

/// What is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub limits: Limits,
}

/// Identifiers are few where people ping, and each is a descriptor.
impl Default for Config {
    fn default() -> Config {
        Config { limits: Limits { sockets: 1024, sockets_each: 256, flows: 16_384, flows_each: 4096 } }
    }
}

/// The engine.
pub struct Ping {
    table: Table,
    errors: Errors,
    ids: Identifications,
    forbidden: bool,
    /// Where replies are received; taken while it is in use.
    buffer: Vec<u8>,
    /// Where fragments are made; empty until the first.
    scratch: Vec<u8>,
}

impl Ping {
    /// An engine without sockets. `key`: 16 random, secret bytes.
    pub fn new(config: Config, key: [u8; 16], now: Instant) -> Ping {
        let key = Keyed::new(key);
        let timeouts = Timeouts { unreplied: TIMEOUT, stream: TIMEOUT };
        Ping {
            table: Table::new(config.limits, timeouts, key.clone()),
            errors: Errors::new(key.clone(), now),
            ids: Identifications::new(key),
            forbidden: false,
            buffer: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Does the host allow such sockets, as far as is known?
    pub fn available(&self) -> bool {
        !self.forbidden
    }

    /// A whole echo request of a container, whose checksum is known to be right. `dial`: where to send it really; `None`:
    /// as it is addressed.
    pub fn input(
        &mut self,
        origin: Origin,
        frame: &Frame<'_>,
        dial: Option<Addr>,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let done = self.input_inner(origin, frame, dial, now, lower);
        close_all(self.table.take_closed(), lower);
        done
    }

    fn input_inner(
        &mut self,
        origin: Origin,
        frame: &Frame<'_>,
        dial: Option<Addr>,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let layout = frame.layout();
        if layout.kind != L3::V4 {
            return Err(DropReason::NotIp);
        }
        let (header, message) = (frame.l3(), frame.l4());
        let is_echo = layout.l4_kind == L4::IcmpQuery && message[icmp::TYPE] == icmp::ECHO && message[icmp::CODE] == 0;
        if !is_echo || layout.fragment != Fragment::None {
            return Err(DropReason::IcmpType);
        }
        if header[ipv4::TTL] <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        let (src, dst) = frame.addrs().ok_or(DropReason::Martian)?;
        let inside = Endpoint { addr: src, port: get16(message, icmp::ID) };
        let quote = Quote::of(frame);
        let at = match self.outgoing(origin, inside, dst, dial.unwrap_or(dst), now, lower) {
            Ok(at) => at,
            Err(why) => {
                let about = About { src, dst, proto: proto::ICMP, quote: &quote };
                self.errors.complain(origin.network, &about, Complaint::Prohibited, now, lower);
                return Err(why);
            }
        };
        self.table.touch(at, Way::Out, 1, message.len() as u64, now);
        if let Some(flow) = self.table.flow_mut(at) {
            flow.last = quote;
        }
        let how = SendHow {
            segment: None,
            dont_fragment: quote.dont_fragment,
            tos: header[ipv4::TOS],
            ttl: header[ipv4::TTL] - 1,
            from: None,
            scope: 0,
        };
        self.send(at, message, how, now, lower)
    }

    /// A socket can do something. `true`: it has more than one turn's work; call again with the same `ready`.
    pub fn socket_ready(&mut self, id: SocketId, ready: Ready, now: Instant, lower: &mut dyn Lower) -> bool {
        let Some(Owner::Ping(at)) = lower.ids().get(id) else { return false };
        let mut more = ready.error && !self.drain(at, now, lower).exhausted;
        if ready.readable || ready.error {
            let mut buffer = std::mem::take(&mut self.buffer);
            if buffer.is_empty() {
                buffer = vec![0; BUFFER_LEN];
            }
            more |= self.receive(at, &mut buffer, now, lower);
            self.buffer = buffer;
        }
        close_all(self.table.take_closed(), lower);
        more
    }

    /// How many flows a container has.
    pub fn flows_of(&self, port: PortId) -> usize {
        self.table.flows_of(port)
    }

    /// Ends flows of a container, `most` at most; how many there were.
    pub fn end_flows(&mut self, port: PortId, most: usize, lower: &mut dyn Lower) -> usize {
        let ended = self.table.end_flows(port, most);
        close_all(self.table.take_closed(), lower);
        ended
    }

    /// Ends all that belongs to a port that is gone.
    pub fn detach(&mut self, port: PortId, lower: &mut dyn Lower) {
        self.table.forget(port);
        close_all(self.table.take_closed(), lower);
    }

    /// When [`Ping::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.table.next_timeout()
    }

    /// Ends the flows whose time has come.
    pub fn handle_timeout(&mut self, now: Instant, lower: &mut dyn Lower) {
        self.table.expire(now);
        close_all(self.table.take_closed(), lower);
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
        let listed = |flow: &Flow| {
            let bound = self.table.socket(flow.socket).map_or(flow.inside, |socket| socket.bound);
            let mut row = row(flow, bound, proto::ICMP, now);
            row.original.dport = REQUEST;
            row.reply.sport = REQUEST;
            row.assured = false; // as Linux has it for ICMP
            row
        };
        (flows.into_iter().map(listed).collect(), next)
    }

    /// The flow that an echo request belongs to, which it may begin.
    fn outgoing(
        &mut self,
        origin: Origin,
        inside: Endpoint,
        shown: Addr,
        peer: Addr,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<u32, DropReason> {
        let shown = Endpoint { addr: shown, port: 0 };
        let peer = Endpoint { addr: peer, port: 0 };
        if let Some(at) = self.table.of_container(origin, inside, shown, now)
            && self.table.flow(at).is_some_and(|flow| flow.peer == peer)
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

    /// Opens the socket of a container's identifier; the host may give it another.
    fn open(
        &mut self,
        origin: Origin,
        inside: Endpoint,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<u32, DropReason> {
        if self.table.make_socket_room(origin.port).map_err(|_| DropReason::FlowQuota)? {
            lower.came_to(Worth::Nothing); // a socket for a socket, again and again, is dear
        }
        close_all(self.table.take_closed(), lower);
        let addr = Addr::unspecified(inside.addr.is_v4());
        let id = lower.ids().insert(Owner::Ping(self.table.next_socket())).ok_or(DropReason::FlowTableFull)?;
        let opened = if leaves_some(lower.sockets().room(), self.table.sockets_of(origin.port)) {
            lower.sockets().open(id, Datagrams::Ping, Endpoint { addr, port: inside.port })
        } else {
            Err(Failure::NoFiles)
        };
        match opened {
            Ok(bound) => {
                self.forbidden = false;
                lower.sockets().assign(id, origin.port);
                Ok(self.table.insert_socket(id, origin, Kind::Inside { inside }, bound, now))
            }
            Err(why) => {
                lower.ids().remove(id);
                if why == Failure::Prohibited && !std::mem::replace(&mut self.forbidden, true) {
                    log::warn!("{}: {FORBIDDEN}", origin.port);
                }
                Err(no_socket(why))
            }
        }
    }

    fn send(
        &mut self,
        at: u32,
        message: &[u8],
        how: SendHow,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let flow = self.table.flow(at).ok_or(DropReason::FlowTableFull)?;
        let peer = flow.peer;
        let id = self.table.socket(flow.socket).ok_or(DropReason::FlowTableFull)?.id;
        let Err(why) = lower.sockets().send_to(id, peer, message, &how) else { return Ok(()) };
        Err(self.errors.refused(&self.table, at, proto::ICMP, why, now, lower))
    }

    /// Reads a socket's error queue and tells its container.
    fn drain(&mut self, at: u32, now: Instant, lower: &mut dyn Lower) -> Drained {
        self.errors.drain(&self.table, at, proto::ICMP, now, lower)
    }

    /// Receives what has come to a socket; `true`: there may be more.
    fn receive(&mut self, at: u32, buffer: &mut [u8], now: Instant, lower: &mut dyn Lower) -> bool {
        let mut mute = 0;
        for _ in 0..RECEIVED_AT_ONCE {
            let Some(socket) = self.table.socket(at) else { return false };
            let (id, owner) = (socket.id, socket.origin.port);
            let start = HEADROOM + ipv4::MIN_LEN;
            match lower.sockets().recv_from(id, &mut buffer[start..start + MAX_MESSAGE]) {
                Ok(received) => {
                    if let Err(why) = self.arrived(at, buffer, received, now, lower) {
                        lower.count(owner, why);
                    }
                }
                Err(Failure::WouldBlock) => return false,
                // An error that a request of ours met; what has come waits behind it. One that nobody explains may be met
                // once, and not for ever.
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

    /// A message lies in the buffer.
    fn arrived(
        &mut self,
        at: u32,
        buffer: &mut [u8],
        received: Received,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        if received.truncated {
            return Err(DropReason::TooLong);
        }
        let len = received.len.min(MAX_MESSAGE);
        let message = &mut buffer[HEADROOM + ipv4::MIN_LEN..][..len];
        if len < icmp::LEN || message[icmp::TYPE] != icmp::ECHO_REPLY {
            return Err(DropReason::IcmpType);
        }
        let peer = Endpoint { addr: received.from.addr, port: 0 };
        let flow_at = self.table.of_peer(at, peer, None, now).ok_or(DropReason::Unsolicited)?;
        self.table.touch(flow_at, Way::In, 1, len as u64, now);
        let Some(flow) = self.table.flow(flow_at) else { return Ok(()) };
        let (from, to, network) = (flow.shown.addr, flow.inside, flow.origin.network);
        put16(message, icmp::ID, to.port);
        let arrived = Arrived { tos: received.tos, ttl: received.ttl, id: self.ids.take(from, to.addr, 1) };
        if let Some(frame) = packet::message(buffer, len, from, to.addr, arrived) {
            deliver(network, frame, &mut self.scratch, lower);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
