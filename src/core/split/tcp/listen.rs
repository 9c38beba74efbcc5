//! Published ports: clients that the host accepted become connections to a container.
//!
//! # Theory of operation
//! The host's kernel completes a client's handshake before anybody asks the container. So a client of a container that
//! does not listen sees a connection that is reset; and to keep that rare, a listener whose container refused one stops
//! admitting: the kernel then refuses clients as if nobody listened, and the port stays taken. The container is asked by
//! a SYN of our own now and then, and when it would accept, clients are admitted again.
//!
//! ```text
//!  admitting --container's RST--> refusing --timer: SYN--> asked --SYN-ACK: RST to the container--> admitting
//!                                    ^-------RST, or nothing---'
//! ```
//!
//! A container sees a client's own address unless answers to it would not come back by way of the gateway, or the address
//! would be taken for a local one: then it sees the gateway's.
//!
//! # Limits
//! [`MAX`] listeners. A listener that has as many clients waiting as [`super::Config::half_open_per_listener`] leaves the
//! next to the kernel's queue. One that finds no descriptor, or no room for another flow, waits until a
//! socket is closed, and is tried each [`super::Config::accept_retry`]; no error removes it.

use std::time::Duration;

use super::build::{self, Header, Options};
use super::flow::{Flow, Phase};
use super::segment::{Segment, mss_for};
use super::{Key, Slot, Tcp, Todo};
use crate::core::counters::DropReason;
use crate::core::network::NetworkId;
use crate::core::port::PortId;
use crate::core::socket::{Accepted, Close, Endpoint, Failure, SocketId, leaves_some};
use crate::core::split::ids::Owner;
use crate::core::split::{Lower, shown};
use crate::core::time::Instant;
use crate::wire::ip::tcp;

/// Listeners at once.
pub(super) const MAX: usize = 65_536;

/// Clients accepted in one call.
const BATCH: usize = 32;

/// Other ports that are tried for a client whose own is taken inside.
const TRIES: usize = 64;

/// A listener: its place, and above it a number that no other had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u64);

impl ListenerId {
    fn new(serial: u64, place: u32) -> ListenerId {
        ListenerId(serial << 16 | u64::from(place))
    }

    fn place(self) -> u32 {
        (self.0 & 0xffff) as u32 // a place is below MAX
    }
}

/// A published port.
#[derive(Debug)]
pub(super) struct Listener {
    serial: u64,
    tag: u64,
    id: SocketId,
    at: Endpoint,
    to: Endpoint,
    network: NetworkId,
    pub port: PortId,
    /// Clients are taken.
    admitting: bool,
    /// The slot of a question to the container.
    probe: Option<u32>,
    probe_wait: Duration,
    /// Clients that wait for the container.
    half_open: usize,
    /// Left off because of that.
    paused: bool,
    /// In [`Tcp::starved`].
    starved: bool,
}

/// A listener in a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerView {
    pub id: ListenerId,
    /// What the caller named it.
    pub tag: u64,
    /// On the host.
    pub at: Endpoint,
    /// In the container.
    pub to: Endpoint,
    pub network: NetworkId,
    /// `false`: its container refused a client, and the next are refused by the host until it listens.
    pub admitting: bool,
    /// Clients that wait for the container.
    pub half_open: usize,
}

impl Tcp {
    /// Publishes a port: clients of `at` on the host reach `to` in a container behind `port`. `tag` comes back in listings.
    #[expect(clippy::too_many_arguments, reason = "each is one word of the request")]
    pub fn listen(
        &mut self,
        tag: u64,
        at: Endpoint,
        to: Endpoint,
        network: NetworkId,
        port: PortId,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<ListenerId, Failure> {
        let place = match self.free_listeners.last() {
            Some(place) => *place,
            None if self.listeners.len() >= MAX => return Err(Failure::NoMemory),
            None => self.listeners.len() as u32, // below MAX
        };
        let id = lower.ids().insert(Owner::TcpListener(place)).ok_or(Failure::NoFiles)?;
        let mss = mss_for(lower.mtu(network), at.addr.is_v4());
        if let Err(why) = lower.sockets().listen(id, at, mss) {
            lower.ids().remove(id);
            return Err(why);
        }
        lower.sockets().assign(id, port);
        if self.free_listeners.pop().is_none() {
            self.listeners.push(None);
        }
        self.serial += 1;
        self.listeners[place as usize] = Some(Listener {
            serial: self.serial,
            tag,
            id,
            at,
            to,
            network,
            port,
            admitting: true,
            probe: None,
            probe_wait: self.config.listen_probe_first,
            half_open: 0,
            paused: false,
            starved: false,
        });
        let id = ListenerId::new(self.serial, place);
        // Who came before the first event is found by the first call.
        if self.accept(place, now, lower) {
            self.todo.push_back(Todo::Listener(place));
        }
        Ok(id)
    }

    /// Takes a published port back; connections that came by it go on. `false`: it is not there.
    pub fn unlisten(&mut self, id: ListenerId, lower: &mut dyn Lower) -> bool {
        let is_there = self.named(id).is_some();
        if is_there {
            self.unlisten_at(id.place(), lower);
        }
        is_there
    }

    /// The listeners, in the order of their places.
    pub fn listeners(&self) -> impl Iterator<Item = ListenerView> + '_ {
        self.listeners.iter().enumerate().filter_map(|(place, l)| {
            let l = l.as_ref()?;
            Some(ListenerView {
                id: ListenerId::new(l.serial, place as u32), // below MAX
                tag: l.tag,
                at: l.at,
                to: l.to,
                network: l.network,
                admitting: l.admitting,
                half_open: l.half_open,
            })
        })
    }

    /// How many more there may be.
    pub fn listeners_left(&self) -> usize {
        MAX - self.listeners.len() + self.free_listeners.len()
    }

    fn listener(&mut self, place: u32) -> Option<&mut Listener> {
        self.listeners.get_mut(place as usize)?.as_mut()
    }

    /// `None`: it is gone, whoever has its place now.
    fn named(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.listener(id.place()).filter(|l| ListenerId::new(l.serial, id.place()) == id)
    }

    pub(super) fn unlisten_at(&mut self, place: u32, lower: &mut dyn Lower) {
        self.end_probe(place);
        self.listener_timers.remove(place);
        let Some(listener) = self.listeners.get_mut(place as usize).and_then(Option::take) else { return };
        lower.sockets().close(listener.id, Close::Orderly);
        lower.ids().remove(listener.id);
        self.free_listeners.push(place);
        self.freed += 1;
        self.retry_starved();
    }

    /// Takes clients off a listener; `true`: there may be more.
    pub(super) fn accept(&mut self, place: u32, now: Instant, lower: &mut dyn Lower) -> bool {
        for _ in 0..BATCH {
            let limit = self.config.half_open_per_listener;
            let Some(listener) = self.listener(place) else { return false };
            listener.paused = listener.half_open >= limit;
            if listener.paused || !listener.admitting {
                return false;
            }
            let (id, port) = (listener.id, listener.port);
            let account = self.account(port);
            let may = match self.admits(account) {
                Ok(()) if !leaves_some(lower.sockets().room_for_clients(), self.held(account)) => {
                    Err(DropReason::NoSocket)
                }
                may => may,
            };
            if let Err(why) = may {
                self.starve(place, why, now, lower);
                return false;
            }
            let slot = self.take_slot();
            let Some(client) = lower.ids().insert(Owner::TcpFlow(slot)) else {
                self.free.push(slot);
                self.starve(place, DropReason::NoSocket, now, lower);
                return false;
            };
            match lower.sockets().accept(id, client) {
                Ok(accepted) => self.admit_client(place, slot, client, &accepted, account, now, lower),
                Err(why) => {
                    lower.ids().remove(client);
                    self.free.push(slot);
                    match why {
                        Failure::WouldBlock => return false,
                        // The client went away before we came (accept(2): treat them like EAGAIN by retrying).
                        Failure::Reset | Failure::Refused | Failure::TimedOut => {}
                        Failure::HostUnreachable | Failure::NetUnreachable | Failure::Prohibited => {}
                        Failure::NoFiles
                        | Failure::NoMemory
                        | Failure::NoAddress
                        | Failure::InUse
                        | Failure::TooLong
                        | Failure::Other(_) => {
                            self.starve(place, DropReason::NoSocket, now, lower);
                            return false;
                        }
                    }
                }
            }
        }
        true
    }

    /// Clients wait for want of something, and no event will come: the listener is tried when a socket of ours is closed,
    /// and after a while. Counted when that begins.
    fn starve(&mut self, place: u32, why: DropReason, now: Instant, lower: &mut dyn Lower) {
        let at = now + self.config.accept_retry;
        let Some(listener) = self.listener(place) else { return };
        if !std::mem::replace(&mut listener.starved, true) {
            lower.count(listener.port, why);
            self.starved.push_back(place);
        }
        self.listener_timers.set(place, at);
    }

    /// As many listeners are tried again as sockets were closed.
    pub(super) fn retry_starved(&mut self) {
        for _ in 0..std::mem::take(&mut self.freed) {
            let Some(place) = self.starved.pop_front() else { break };
            if let Some(listener) = self.listener(place) {
                listener.starved = false;
                self.todo.push_back(Todo::Listener(place));
            }
        }
    }

    /// A client was accepted: the container is asked.
    #[expect(clippy::too_many_arguments, reason = "what accept has found out")]
    fn admit_client(
        &mut self,
        place: u32,
        slot: u32,
        client: SocketId,
        accepted: &Accepted,
        account: u32,
        now: Instant,
        lower: &mut dyn Lower,
    ) {
        self.stats.accepted += 1;
        let Some(listener) = self.listener(place) else { return };
        let (to, network, port) = (listener.to, listener.network, listener.port);
        let Some(key) = self.client_key(network, to, accepted.peer, lower) else {
            lower.count(port, DropReason::PortsExhausted);
            lower.sockets().close(client, Close::Reset);
            lower.ids().remove(client);
            self.free.push(slot);
            return;
        };
        let mut flow = Flow::new(key, port, accepted.peer, Phase::SynSent, &self.config, now);
        if let Some(listener) = self.listener(place) {
            listener.half_open += 1;
            flow.listener = Some(ListenerId::new(listener.serial, place));
        }
        flow.asked = Some(accepted.local);
        lower.sockets().assign(client, port);
        flow.socket = Some(client);
        flow.half_open = true;
        self.enter(slot, flow, account, now);
        self.run(slot, now, lower, |flow, cx| {
            flow.open_window(cx);
            flow.tx.time(flow.tx.iss.wrapping_add(1), cx.now);
            flow.send_syn(cx);
        });
    }

    /// What the container is to call a connection of a client.
    fn client_key(
        &mut self,
        network: NetworkId,
        inside: Endpoint,
        client: Endpoint,
        lower: &mut dyn Lower,
    ) -> Option<Key> {
        let addr = shown(client.addr, inside.addr, network, lower)?;
        let mut key = Key { network, inside, outside: Endpoint { addr, port: client.port } };
        // Two published ports may lead one client's address and port to one container's port: the address is kept.
        for _ in 0..TRIES {
            match self.find(&key) {
                None => return Some(key),
                Some(slot) if matches!(self.slots[slot as usize], Slot::TimeWait(_)) => {
                    // Our numbers go on from where they were, so the container's own TIME_WAIT takes the SYN.
                    self.end_time_wait(slot);
                    return Some(key);
                }
                Some(_) => key.outside.port = 1024 + (lower.random() % (65_536 - 1024)) as u16, // a port
            }
        }
        None
    }

    /// A client is half-open no more.
    pub(super) fn left_half_open(&mut self, id: ListenerId, refused: bool, now: Instant, lower: &mut dyn Lower) {
        let (wait, place) = (self.config.listen_probe_first, id.place());
        let Some(listener) = self.named(id) else { return };
        listener.half_open -= 1;
        if std::mem::take(&mut listener.paused) {
            self.todo.push_back(Todo::Listener(place));
        }
        let Some(listener) = self.listener(place) else { return };
        if refused && listener.admitting && lower.sockets().admit(listener.id, false).is_ok() {
            listener.admitting = false;
            listener.probe_wait = wait;
            self.listener_timers.set(place, now + wait);
        }
    }

    /// A listener's time has come: to be tried again, or to ask its container.
    pub(super) fn listener_timeout(&mut self, place: u32, now: Instant, lower: &mut dyn Lower) {
        let Some(listener) = self.listener(place) else { return };
        if listener.admitting {
            if self.accept(place, now, lower) {
                self.todo.push_back(Todo::Listener(place));
            }
            return;
        }
        let wait = listener.probe_wait;
        let (network, to) = (listener.network, listener.to);
        let max = self.config.listen_probe_max;
        if let Some(listener) = self.listener(place) {
            listener.probe_wait = (wait * 2).min(max);
        }
        self.listener_timers.set(place, now + wait);
        self.end_probe(place);
        let Some(gateway) = lower.gateway(network).filter(|g| g.is_v4() == to.addr.is_v4()) else {
            // There is nobody to ask in whose name: clients find out themselves.
            self.readmit(place, now, lower);
            return;
        };
        let client = Endpoint { addr: gateway, port: 32_768 + (lower.random() % 28_232) as u16 }; // an ephemeral port
        let Some(key) = self.client_key(network, to, client, lower) else { return };
        let (iss, offset) = self.initial(&key, now);
        let slot = self.take_slot();
        self.place(slot, Slot::Probe { key, listener: place, iss });
        if let Some(listener) = self.listener(place) {
            listener.probe = Some(slot);
        }
        let options = Options {
            mss: Some(mss_for(lower.mtu(network), to.addr.is_v4())),
            stamps: Some((super::flow::stamp(now, offset), 0)),
            ..Options::default()
        };
        let header = Header {
            from: key.outside,
            to: key.inside,
            seq: iss,
            ack: 0,
            flags: tcp::SYN,
            window: u16::MAX,
            urgent: 0,
            options,
            mss: 0,
        };
        build::send_bare(lower, network, &header);
    }

    /// The container's answer to a question whether it listens.
    pub(super) fn probe_answered(
        &mut self,
        slot: u32,
        s: &Segment<'_>,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> Result<(), DropReason> {
        let Slot::Probe { key, listener, iss } = self.slots[slot as usize] else { return Ok(()) };
        if !s.has(tcp::ACK) || s.ack != iss.wrapping_add(1) {
            return Err(DropReason::InvalidState);
        }
        self.end_probe(listener);
        if !s.has(tcp::RST) && s.has(tcp::SYN) {
            // It would have accepted; it will never know.
            build::refuse(lower, key.network, key.outside, key.inside, s);
            self.readmit(listener, now, lower);
        }
        Ok(())
    }

    /// Clients are admitted again.
    fn readmit(&mut self, place: u32, now: Instant, lower: &mut dyn Lower) {
        let Some(listener) = self.listener(place) else { return };
        if lower.sockets().admit(listener.id, true).is_err() {
            return; // the timer that is set asks again
        }
        listener.admitting = true;
        self.listener_timers.remove(place);
        if self.accept(place, now, lower) {
            self.todo.push_back(Todo::Listener(place));
        }
    }

    fn end_probe(&mut self, place: u32) {
        let Some(slot) = self.listener(place).and_then(|l| l.probe.take()) else { return };
        let probe = std::mem::replace(&mut self.slots[slot as usize], Slot::Free);
        if let Some(key) = probe.key() {
            self.index.remove(std::hash::BuildHasher::hash_one(&self.keyed, key), slot);
        }
        self.free.push(slot);
    }
}
