//! Flows over host sockets as listings show them, and as `conntrack -L` would.

use crate::core::command::{FlowView, Page, SocketFlowView, Traffic};
use crate::core::conntrack::{FiveTuple, Line};
use crate::core::datapath::Datapath;
use crate::core::socket::Endpoint;
use crate::core::split::{tcp, udp};
use crate::core::time::Instant;

/// Kinds of flows over host sockets that a listing goes through.
pub(in crate::core) const SOCKET_TABLES: u64 = 3;

impl Datapath {
    /// How many flows over host sockets there are.
    pub(in crate::core) fn socket_flows(&self) -> usize {
        self.socket_uplink.as_ref().map_or(0, |uplink| uplink.tcp.len() + uplink.udp.len() + uplink.ping.len())
    }

    /// A page of one of the engines' flows.
    pub(in crate::core) fn socket_flow_page(
        &self,
        table: u64,
        cursor: u64,
        max: usize,
        now: Instant,
    ) -> Page<FlowView> {
        let Some(uplink) = &self.socket_uplink else { return Page { rows: Vec::new(), next: None } };
        let place = |next: u64| table << 32 | next;
        match table {
            1 => {
                let (flows, next) = uplink.tcp.flows(cursor as u32, max, now); // the lower half
                let rows = flows.iter().map(|flow| self.tcp_view(flow)).collect();
                Page { rows, next: next.map(|next| place(u64::from(next))) }
            }
            2 | 3 => {
                let (flows, next) = match table {
                    2 => uplink.udp.flows(cursor, max, now),
                    _ => uplink.ping.flows(cursor, max, now),
                };
                Page { rows: flows.iter().map(|flow| self.datagram_view(flow)).collect(), next: next.map(place) }
            }
            _ => Page { rows: Vec::new(), next: None },
        }
    }

    fn tcp_view(&self, flow: &tcp::View) -> FlowView {
        let inside = flow.tuple;
        let bytes = |bytes| Traffic { frames: 0, bytes };
        let (out, back) = (bytes(flow.to_host), bytes(flow.to_container));
        let peer = flow.dial.unwrap_or(Endpoint { addr: inside.dst, port: inside.dport });
        let (original, reply, traffic) = match flow.asked {
            // The client's packets, and what the container answers, as a kernel that translates has it.
            Some(Endpoint { addr: dst, port: dport }) => {
                (FiveTuple { src: peer.addr, sport: peer.port, dst, dport, ..inside }, inside, (back, out))
            }
            None => (inside, inside.inverse(), (out, back)),
        };
        let answered = flow.state != "CONNECTING" && flow.state != "SYN_SENT";
        let error = flow.error.map(|error| format!("{error:?}"));
        let mut rest = format!(
            "window={} stored={} peer_window={} cwnd={} in_flight={} retransmits={} age={} peer={}:{}",
            flow.window,
            flow.stored,
            flow.peer_window,
            flow.cwnd,
            flow.in_flight,
            flow.retransmits,
            flow.age.as_secs(),
            peer.addr,
            peer.port
        );
        if let Some(error) = &error {
            rest = format!("{rest} error={error}");
        }
        let socket = SocketFlowView {
            peer: peer.addr,
            peer_port: peer.port,
            age_seconds: flow.age.as_secs(),
            window: flow.window,
            retransmits: flow.retransmits,
            error,
        };
        let line = Line {
            original: &original,
            reply: &reply,
            remaining: flow.timeout,
            state: Some(flow.state),
            replied: answered,
            assured: answered,
            rest: &rest,
        };
        FlowView { socket: Some(socket), ..FlowView::new(&line, self.name_of(flow.port), traffic) }
    }

    fn datagram_view(&self, flow: &udp::FlowRow) -> FlowView {
        let socket = SocketFlowView {
            peer: flow.reply.src,
            peer_port: if flow.reply.is_icmp() { 0 } else { flow.reply.sport },
            age_seconds: flow.age.as_secs(),
            window: 0,
            retransmits: 0,
            error: None,
        };
        let line = Line {
            original: &flow.original,
            reply: &flow.reply,
            remaining: flow.timeout,
            state: None,
            replied: flow.replied,
            assured: flow.assured,
            rest: "",
        };
        let traffic = (flow.original_traffic, flow.reply_traffic);
        FlowView { socket: Some(socket), ..FlowView::new(&line, self.name_of(flow.origin.port), traffic) }
    }
}
