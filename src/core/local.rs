//! What the gateway itself says: ARP, echo, refusals, and its complaints about packets it cannot route.
//!
//! Answers go straight back where their question came from, to the station that sent it: they need no neighbour entry,
//! and a spoofed source gets what it asked for and nobody else does.

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::conntrack::FiveTuple;
use super::counters::DropReason;
use super::datapath::Datapath;
use super::forward::Ingress;
use super::icmp::{self as errors, Complaint, TTL, may_answer};
use super::network::NetworkId;
use super::port::PortId;
use super::route::Target;
use super::time::Instant;
use super::world::World;
use crate::frame::{Fragment, Frame, L4, Link};
use crate::wire::addr::Addr;
use crate::wire::checksum::{self, Delta};
use crate::wire::ip::{ETH_LEN, ethertype, icmp, ipv4, proto, tcp};
use crate::wire::mac::Mac;
use crate::wire::{get16, get32, put16, put32};

/// Length of an Ethernet frame with an ARP message for IPv4.
const ARP_FRAME: usize = ETH_LEN + 28;

impl Datapath {
    /// An ARP message that came to the gateway, by broadcast or by its MAC address: answers for the gateway's own
    /// address alone (S65: no proxy ARP), and learns who asks and who answers (R30).
    pub(super) fn arp_input(
        &mut self,
        port: PortId,
        network: NetworkId,
        frame: &Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) {
        let net = self.network(network);
        let Some(gateway) = net.gateway() else { return };
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) = ArpPacket::new_checked(frame.l3()).and_then(|p| ArpRepr::parse(&p))
        else {
            return;
        };
        let sender = (Addr::from(source_protocol_addr), Mac(source_hardware_addr.0));
        let target = Addr::from(target_protocol_addr);
        let on_link = net.subnet().is_some_and(|s| s.contains(sender.0)) && sender.0 != gateway;
        let asks_us = operation == ArpOperation::Request && target == gateway;
        if on_link && sender.1.is_station() {
            let held = self.network_mut(network).neighbours.heard(sender.0, sender.1, port, asks_us, now);
            self.release_held(network, sender.0, held, now, world);
        }
        if asks_us {
            let gateway_mac = self.network(network).gateway_mac;
            let to = frame.eth_src();
            self.originate(
                Link::Ethernet,
                |out| arp(out, to, ArpOperation::Reply, (gateway, gateway_mac), (sender.0, sender.1)),
                |core, answer| core.send(port, port, answer, world),
            );
        }
    }

    /// The gateway asks who has `addr`: all, or a station that once had it.
    pub(super) fn ask(&mut self, network: NetworkId, addr: Addr, to: Option<Mac>, now: Instant, world: &mut dyn World) {
        let net = self.network(network);
        let Some(gateway) = net.gateway() else { return };
        let us = (gateway, net.gateway_mac);
        let known = to.and_then(|mac| net.fdb.lookup(mac, now));
        self.originate(
            Link::Ethernet,
            |out| arp(out, to.unwrap_or(Mac::BROADCAST), ArpOperation::Request, us, (addr, Mac::ZERO)),
            |core, question| match known {
                Some(port) => core.send(port, port, question, world),
                None => {
                    let _ = core.flood_from(None, network, question, world); // no rule applies to the gateway
                }
            },
        );
    }

    /// An unsolicited ARP for a new attachment, to all others on its network (D18, RFC 5227 3).
    pub(super) fn announce(&mut self, port: PortId, network: NetworkId, mac: Mac, ip: Addr, world: &mut dyn World) {
        self.originate(
            Link::Ethernet,
            |out| arp(out, Mac::BROADCAST, ArpOperation::Request, (ip, mac), (ip, Mac::ZERO)),
            |core, announcement| {
                // Refused when every other port is isolated from it: then nobody needs to know.
                let _ = core.flood_from(Some(port), network, announcement, world);
            },
        );
    }

    /// A packet for the gateway itself, of no flow and no published port.
    pub(super) fn local(
        &mut self,
        ingress: Ingress,
        frame: &mut Frame<'_>,
        tuple: &FiveTuple,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<(), DropReason> {
        // A later fragment knows the type by its first; the identifier of a reply stands where a request has its type.
        let echo = match frame.layout().l4_kind {
            L4::IcmpQuery => frame.l4()[icmp::TYPE] == icmp::ECHO,
            L4::None => tuple.proto == proto::ICMP && tuple.dport == u16::from(icmp::ECHO) << 8,
            L4::Tcp | L4::Udp | L4::IcmpError | L4::IcmpOther | L4::Other | L4::Malformed => false,
        };
        match frame.layout().l4_kind {
            L4::IcmpQuery | L4::None if echo => {
                echo_in_place(frame);
                self.answer(ingress, frame, world);
                Ok(())
            }
            L4::Tcp => {
                if frame.l4()[tcp::FLAGS] & tcp::RST == 0 && frame.layout().fragment == Fragment::None {
                    self.refuse_tcp(ingress, frame, tuple, world);
                }
                Err(DropReason::Refused)
            }
            L4::Udp => {
                self.complain(ingress, frame, Complaint::PortUnreachable, now, world);
                Err(DropReason::Refused)
            }
            L4::Other => {
                self.complain(ingress, frame, Complaint::ProtocolUnreachable, now, world);
                Err(DropReason::Refused)
            }
            L4::IcmpQuery | L4::IcmpError | L4::IcmpOther | L4::None | L4::Malformed => Err(DropReason::LocalIgnored),
        }
    }

    /// Sends an ICMP error about `frame` to its sender, within the rules and the rate limits.
    pub(super) fn complain(
        &mut self,
        ingress: Ingress,
        frame: &Frame<'_>,
        complaint: Complaint,
        now: Instant,
        world: &mut dyn World,
    ) {
        let Some((peer, _)) = frame.addrs() else { return };
        let Some(us) = self.own_address(ingress) else { return };
        if !may_answer(frame) || !self.icmp_limit.allow(peer, now) {
            return;
        }
        let id = self.random.next_u64() as u16; // any will do
        let station = matches!(ingress, Ingress::Endpoint(..)).then(|| frame.eth_src());
        self.originate(
            Link::Ip,
            |out| errors::error(out, us, peer, complaint, frame.l3(), id),
            |core, answer| core.answer_to(ingress, station, answer, world),
        );
    }

    /// 3/1 about a packet that was translated already and waited in vain on `network`: as if a router there had said so,
    /// it is translated back on its way.
    pub(super) fn complain_translated(
        &mut self,
        network: NetworkId,
        frame: &Frame<'_>,
        now: Instant,
        world: &mut dyn World,
    ) {
        let Some((peer, _)) = frame.addrs() else { return };
        let Some(us) = self.network(network).gateway() else { return };
        if !may_answer(frame) || !self.icmp_limit.allow(peer, now) {
            return;
        }
        let id = self.random.next_u64() as u16; // any will do
        let from = self.uplink.map_or(PortId(u32::MAX), |u| u.port);
        self.originate(
            Link::Ip,
            |out| errors::error(out, us, peer, Complaint::HostUnreachable, frame.l3(), id),
            |core, answer| {
                let of_a_flow = core.related(Ingress::Endpoint(from, network), answer, now, world);
                if of_a_flow == Err(DropReason::IcmpUnrelated)
                    && let Some(Target::Network(id)) = core.routes.lookup(peer)
                {
                    // Best effort, as every ICMP error is.
                    let _ = core.deliver(from, id, peer, answer, now, world);
                }
            },
        );
    }

    /// A RST for a segment that nobody here wants (RFC 9293 3.10.7.1).
    fn refuse_tcp(&mut self, ingress: Ingress, frame: &Frame<'_>, tuple: &FiveTuple, world: &mut dyn World) {
        let l4 = frame.l4();
        let flags = l4[tcp::FLAGS];
        let length = frame.payload().len() as u32 + u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
        let (seq, ack, flags) = if flags & tcp::ACK != 0 {
            (get32(l4, 8), 0, tcp::RST)
        } else {
            (0, get32(l4, 4).wrapping_add(length), tcp::RST | tcp::ACK)
        };
        let station = matches!(ingress, Ingress::Endpoint(..)).then(|| frame.eth_src());
        let id = self.random.next_u64() as u16; // any will do
        self.originate(
            Link::Ip,
            |out| {
                let total = ipv4::MIN_LEN + tcp::MIN_LEN;
                errors::header(out, tuple.dst, tuple.src, proto::TCP, 0, id, total);
                let rst = &mut out[ipv4::MIN_LEN..total];
                rst.fill(0);
                put16(rst, 0, tuple.dport);
                put16(rst, 2, tuple.sport);
                put32(rst, 4, seq);
                put32(rst, 8, ack);
                rst[tcp::DATA_OFFSET] = 5 << 4;
                rst[tcp::FLAGS] = flags;
                let pseudo = checksum::pseudo_header(tuple.dst, tuple.src, proto::TCP, tcp::MIN_LEN as u32);
                let sum = !checksum::add(pseudo, checksum::sum(rst));
                put16(rst, tcp::CHECKSUM, sum);
                total
            },
            |core, answer| core.answer_to(ingress, station, answer, world),
        );
    }

    /// Sends a frame that was turned round in place back to where it came from.
    fn answer(&mut self, ingress: Ingress, frame: &mut Frame<'_>, world: &mut dyn World) {
        let station = matches!(ingress, Ingress::Endpoint(..)).then(|| frame.eth_src());
        self.answer_to(ingress, station, frame, world);
    }

    fn answer_to(&mut self, ingress: Ingress, station: Option<Mac>, frame: &mut Frame<'_>, world: &mut dyn World) {
        match (ingress, station) {
            (Ingress::Endpoint(_, network), Some(station)) => {
                frame.push_link(station, self.network(network).gateway_mac);
            }
            _ => frame.strip_link(),
        }
        self.send(ingress.port(), ingress.port(), frame, world);
    }

    /// The address that we speak from toward `ingress`.
    fn own_address(&self, ingress: Ingress) -> Option<Addr> {
        match ingress {
            Ingress::Endpoint(_, network) => self.network(network).gateway(),
            Ingress::Uplink(_) => self.uplink.map(|u| u.address),
        }
    }
}

/// Turns an echo request, or a later fragment of one, into its reply (RFC 1122 3.2.2.6): any size works without
/// reassembly, since a reply has the same bytes but for its type.
fn echo_in_place(frame: &mut Frame<'_>) {
    let has_header = frame.layout().l4_kind == L4::IcmpQuery;
    let l3 = frame.l3_mut();
    for at in 0..4 {
        l3.swap(ipv4::SRC + at, ipv4::DST + at); // the sum stays as it is
    }
    let old = get16(l3, ipv4::TTL);
    let new = u16::from(TTL) << 8 | old & 0xff;
    put16(l3, ipv4::TTL, new);
    put16(l3, ipv4::CHECKSUM, Delta::word(old, new).apply(get16(l3, ipv4::CHECKSUM)));
    if has_header {
        let l4 = frame.l4_mut();
        let old = get16(l4, icmp::TYPE);
        let new = u16::from(icmp::ECHO_REPLY) << 8 | old & 0xff;
        put16(l4, icmp::TYPE, new);
        put16(l4, icmp::CHECKSUM, Delta::word(old, new).apply(get16(l4, icmp::CHECKSUM)));
    }
}

/// Writes an ARP message in an Ethernet frame; its length.
fn arp(out: &mut [u8], to: Mac, operation: ArpOperation, from: (Addr, Mac), target: (Addr, Mac)) -> usize {
    let v4 = |addr: Addr| addr.as_v4().unwrap_or_default().into();
    out[..6].copy_from_slice(&to.0);
    out[6..12].copy_from_slice(&from.1.0);
    put16(out, 12, ethertype::ARP);
    ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(from.1.0),
        source_protocol_addr: v4(from.0),
        target_hardware_addr: EthernetAddress(target.1.0),
        target_protocol_addr: v4(target.0),
    }
    .emit(&mut ArpPacket::new_unchecked(&mut out[ETH_LEN..ARP_FRAME]));
    ARP_FRAME
}
