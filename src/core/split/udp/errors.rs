//! What a container is told when a datagram of its does not arrive.
//!
//! # Theory of operation
//! The host hands over the ICMP errors that its datagrams met (IP_RECVERR), without the packets that these quote. What the
//! container sent is rebuilt from what its flow remembers, so the error that it gets is about its own packet, from the
//! router that complained: traceroute works. An address that may not be shown becomes the gateway's.
//!
//! What a router beyond has said was limited there, and traceroute makes many; a container is relayed a hundred a second,
//! with a burst of as many. What the host itself refuses is the gateway's complaint, and limited as all of these are
//! ([`Limiter`]).

use crate::core::bridge::bucket::Bucket;
use crate::core::counters::DropReason;
use crate::core::hash::Keyed;
use crate::core::icmp::{self as errors, Complaint, Limiter};
use crate::core::network::NetworkId;
use crate::core::socket::{DatagramError, Endpoint, Failure};
use crate::core::split::{Lower, shown};
use crate::core::time::Instant;
use crate::frame::{Frame, HEADROOM, Link};
use crate::wire::addr::Addr;
use crate::wire::ip::{self, icmp};
use crate::wire::put16;

use super::packet::Quote;
use super::table::{Flow, Table};

/// Errors of others that a container is told in a second, and at once.
const RELAYED: u32 = 100;
/// Containers whose rates are kept apart; two that share a slot share their allowance.
const SLOTS: usize = 256;
/// ICMP errors read before others get their turn; more than a traceroute has under way.
const ERRORS_AT_ONCE: usize = 64;
/// Where an echo request has its sequence number (RFC 792).
const SEQUENCE: usize = 6;
/// The longest ICMP error, bytes (RFC 1812 4.3.2.3).
const MAX_ERROR: usize = 576;

/// MTUs of real links (RFC 1191 7.1, and Ethernet), for when nobody says what would fit.
const PLATEAUS: [u16; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_500, 1_492, 1_006, 508, 296];

/// A packet that an error is about.
pub(in crate::core::split) struct About<'a> {
    pub src: Addr,
    pub dst: Addr,
    pub proto: u8,
    pub quote: &'a Quote,
}

/// Tells containers.
pub(in crate::core::split) struct Errors {
    own: Limiter,
    relayed: Box<[Bucket]>,
}

impl Errors {
    /// Full allowances.
    pub fn new(key: Keyed, now: Instant) -> Errors {
        let relayed = vec![Bucket::new(RELAYED, RELAYED, now); SLOTS].into_boxed_slice();
        Errors { own: Limiter::new(key, now), relayed }
    }

    /// Reads the error queue of socket `at` and tells its container.
    pub fn drain(&mut self, table: &Table, at: u32, proto: u8, now: Instant, lower: &mut dyn Lower) -> Drained {
        let mut drained = Drained { told: None, any: false, exhausted: false };
        let Some(id) = table.socket(at).map(|s| s.id) else { return Drained { exhausted: true, ..drained } };
        for _ in 0..ERRORS_AT_ONCE {
            let Some(error) = lower.sockets().next_error(id) else {
                return Drained { exhausted: true, ..drained };
            };
            drained.any = true;
            // A peer of echo requests has no port.
            let peer = if proto == ip::proto::ICMP { Endpoint { port: 0, ..error.to } } else { error.to };
            // An ICMP error neither refreshes a flow nor ends it (U12, I6).
            if let Some(about) = table.about_peer(at, peer, error.from)
                && let Some(flow) = table.flow(about)
            {
                let mut quote = flow.last;
                if let Some(sequence) = error.sequence {
                    put16(&mut quote.l4, SEQUENCE, sequence);
                }
                self.relay(flow, proto, &quote, &error, now, lower);
                if error.icmp.is_err() {
                    drained.told = Some(about);
                }
            }
        }
        drained
    }

    /// The host refused to send a datagram of flow `at`: its container is told, by what the error queue says of it if that says
    /// anything. How it is counted.
    pub fn refused(
        &mut self,
        table: &Table,
        at: u32,
        proto: u8,
        why: Failure,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> DropReason {
        let counted = drop_reason(why);
        if counted != DropReason::HostBusy
            && let Some(flow) = table.flow(at)
            && self.drain(table, flow.socket, proto, now, lower).told != Some(at)
            && let Some(complaint) = refusal(why, &flow.last)
        {
            let about = About { src: flow.inside.addr, dst: flow.shown.addr, proto, quote: &flow.last };
            self.complain(flow.origin.network, &about, complaint, now, lower);
        }
        counted
    }

    /// Tells the container of `flow` what the host says about a datagram of its. `false`: there is nothing to tell.
    pub fn relay(
        &mut self,
        flow: &Flow,
        proto: u8,
        quote: &Quote,
        error: &DatagramError,
        now: Instant,
        lower: &mut dyn Lower,
    ) -> bool {
        let Some(complaint) = complaint(error, quote) else { return false };
        if is_group(flow.shown.addr) {
            return false;
        }
        let network = flow.origin.network;
        let (from, ttl) = match error.icmp {
            Ok((kind, _)) => {
                let offender = error.offender.map(|offender| shown_offender(offender, flow, lower));
                (offender.flatten().or_else(|| lower.gateway(network)), (kind == icmp::TIME_EXCEEDED).then_some(1))
            }
            Err(_) => (lower.gateway(network), None),
        };
        let Some(from) = from else { return false };
        let slot = flow.origin.port.0 as usize % SLOTS;
        let allowed =
            if error.icmp.is_ok() { self.relayed[slot].take(now) } else { self.own.allow(flow.inside.addr, now) };
        if allowed {
            let quoted = quote.write(flow.inside.addr, flow.shown.addr, proto, ttl);
            send(from, flow.inside.addr, network, complaint, &quoted, lower);
        }
        true
    }

    /// The gateway complains about a packet that a container sent.
    pub fn complain(
        &mut self,
        network: NetworkId,
        about: &About<'_>,
        complaint: Complaint,
        now: Instant,
        lower: &mut dyn Lower,
    ) {
        let Some(gateway) = lower.gateway(network) else { return };
        if !is_group(about.dst) && self.own.allow(about.src, now) {
            let quoted = about.quote.write(about.src, about.dst, about.proto, None);
            send(gateway, about.src, network, complaint, &quoted, lower);
        }
    }
}

/// What became of an error queue.
pub(in crate::core::split) struct Drained {
    /// The flow of the last error that was about a datagram which the host itself refused.
    pub told: Option<u32>,
    /// Was there anything?
    pub any: bool,
    /// Is it empty now?
    pub exhausted: bool,
}

/// Under what a datagram is counted that the host refused to send.
fn drop_reason(why: Failure) -> DropReason {
    match why {
        Failure::WouldBlock | Failure::NoMemory => DropReason::HostBusy,
        Failure::TooLong => DropReason::NeedsFragmentation,
        Failure::HostUnreachable | Failure::NetUnreachable => DropReason::NoRoute,
        Failure::Refused
        | Failure::Reset
        | Failure::TimedOut
        | Failure::Prohibited
        | Failure::NoAddress
        | Failure::InUse
        | Failure::NoFiles
        | Failure::Other(_) => DropReason::HostRefused,
    }
}

/// What is said of a datagram that the host refused to send, if anything.
fn refusal(why: Failure, quote: &Quote) -> Option<Complaint> {
    match why {
        Failure::HostUnreachable | Failure::NoAddress => Some(Complaint::HostUnreachable),
        Failure::NetUnreachable => Some(Complaint::NetworkUnreachable),
        Failure::Prohibited => Some(Complaint::Prohibited),
        Failure::TooLong if quote.dont_fragment => Some(Complaint::FragmentationNeeded(guess(quote.packet_len()))),
        Failure::TooLong
        | Failure::WouldBlock
        | Failure::Refused
        | Failure::Reset
        | Failure::TimedOut
        | Failure::InUse
        | Failure::NoFiles
        | Failure::NoMemory
        | Failure::Other(_) => None,
    }
}

/// What is said about an error that the host met, if anything.
fn complaint(error: &DatagramError, quote: &Quote) -> Option<Complaint> {
    let too_long = |mtu: u32| {
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        let mtu = if mtu == 0 { guess(quote.packet_len()) } else { mtu };
        Complaint::FragmentationNeeded(mtu)
    };
    match error.icmp {
        // The host has learned it too, and cuts what may be cut.
        Ok((icmp::UNREACHABLE, 4)) => quote.dont_fragment.then(|| too_long(error.mtu)),
        Ok((kind @ (icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER), code)) => {
            Some(Complaint::Relayed(kind, code))
        }
        Ok(_) => None,
        Err(Failure::TooLong) => quote.dont_fragment.then(|| too_long(error.mtu)),
        Err(why) => refusal(why, quote),
    }
}

/// Is it no single host's? Nothing is said about what was sent there (RFC 1122 3.2.2).
fn is_group(addr: Addr) -> bool {
    addr.is_multicast() || addr == Addr::V4_BROADCAST
}

/// The next MTU below a packet's length, bytes.
fn guess(len: usize) -> u16 {
    PLATEAUS.into_iter().find(|mtu| usize::from(*mtu) < len).unwrap_or(68)
}

/// The address that an error is shown to come from; `None`: the gateway's.
fn shown_offender(offender: Addr, flow: &Flow, lower: &mut dyn Lower) -> Option<Addr> {
    if offender == flow.peer.addr {
        return Some(flow.shown.addr);
    }
    shown(offender, flow.inside.addr, flow.origin.network, lower)
}

fn send(from: Addr, to: Addr, network: NetworkId, complaint: Complaint, quoted: &[u8], lower: &mut dyn Lower) {
    let mut buf = [0; HEADROOM + MAX_ERROR];
    let id = lower.random() as u16; // any will do
    let len = errors::error(&mut buf[HEADROOM..], from, to, complaint, quoted, id);
    if let Ok(mut frame) = Frame::parse(&mut buf, HEADROOM, HEADROOM + len, Link::Ip) {
        lower.deliver(network, &mut frame);
    }
}
