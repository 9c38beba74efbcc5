//! Connections as a listing shows them.

use std::time::Duration;

use super::{Slot, Tcp};
use crate::core::conntrack::FiveTuple;
use crate::core::network::NetworkId;
use crate::core::port::PortId;
use crate::core::socket::{Endpoint, Failure};
use crate::core::time::Instant;

/// Places looked at in one call, whatever is in them.
const LOOK: usize = 65_536;

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// As its container names it: the container is the source.
    pub tuple: FiveTuple,
    pub network: NetworkId,
    pub port: PortId,
    /// The other end of the host socket; `None` in TIME_WAIT.
    pub dial: Option<Endpoint>,
    /// The host's address and port that a client asked for; `None`: the container began it.
    pub asked: Option<Endpoint>,
    /// RFC 9293's name of its state; `CONNECTING` before the SYN is answered.
    pub state: &'static str,
    /// Bytes that came in order from the container.
    pub to_host: u64,
    /// Bytes that the container acknowledged.
    pub to_container: u64,
    pub age: Duration,
    /// What is left of a TIME_WAIT; zero in any other state, which lasts as long as both ends want.
    pub timeout: Duration,
    /// Since the container last sent something.
    pub silence: Duration,
    /// What the container may still send, bytes.
    pub window: u32,
    /// What the container allows us to send beyond what it acknowledged, bytes.
    pub peer_window: u32,
    /// Congestion window, bytes.
    pub cwnd: u32,
    /// Sent and not acknowledged, bytes.
    pub in_flight: u32,
    /// Taken from the container, not yet by the socket, bytes.
    pub stored: u32,
    /// Payload of a packet, bytes.
    pub mss: u16,
    pub retransmits: u64,
    /// The first error of the host socket.
    pub error: Option<Failure>,
    /// `open`, `eof` (the host has ended), `closed`.
    pub socket: &'static str,
}

impl Tcp {
    /// At most `max` connections from place `cursor` on, and where to go on; `None`: that was all.
    pub fn flows(&self, cursor: u32, max: usize, now: Instant) -> (Vec<View>, Option<u32>) {
        let mut rows = Vec::new();
        let from = cursor as usize;
        for (at, slot) in self.slots.iter().enumerate().skip(from).take(LOOK) {
            if rows.len() >= max {
                return (rows, Some(at as u32)); // a place
            }
            match slot {
                Slot::Free | Slot::Probe { .. } => {}
                Slot::Flow(flow) => rows.push(View {
                    tuple: flow.key.tuple(),
                    network: flow.key.network,
                    port: flow.port,
                    dial: Some(flow.dial),
                    asked: flow.asked,
                    state: flow.state(),
                    to_host: flow.rx.bytes,
                    to_container: flow.tx.bytes,
                    age: now.since(flow.born),
                    timeout: Duration::ZERO,
                    silence: flow.silence(now),
                    window: flow.rx.window(),
                    peer_window: flow.tx.wnd,
                    cwnd: flow.tx.cwnd,
                    in_flight: flow.tx.flight(),
                    stored: flow.rx.stored,
                    mss: flow.tx.mss,
                    retransmits: flow.tx.retransmits,
                    error: flow.error,
                    socket: match flow.socket {
                        None => "closed",
                        Some(_) if flow.drained => "eof",
                        Some(_) => "open",
                    },
                }),
                Slot::TimeWait(wait) => rows.push(View {
                    tuple: wait.key.tuple(),
                    network: wait.key.network,
                    port: wait.port,
                    dial: None,
                    asked: wait.asked,
                    state: "TIME_WAIT",
                    to_host: 0,
                    to_container: 0,
                    age: now.since(wait.since),
                    timeout: (wait.since + self.config.time_wait).since(now),
                    silence: now.since(wait.since),
                    window: 0,
                    peer_window: 0,
                    cwnd: 0,
                    in_flight: 0,
                    stored: 0,
                    mss: 0,
                    retransmits: 0,
                    error: None,
                    socket: "closed",
                }),
            }
        }
        let next = from.saturating_add(LOOK);
        (rows, (next < self.slots.len()).then_some(next as u32))
    }
}
