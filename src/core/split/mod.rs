//! The far end of containers' connections, over host sockets: an uplink that needs no privilege.
//!
//! # Theory of operation
//! A packet that the router would send by the uplink ends here. `tcp` plays the far host: it answers the container's
//! segments and passes their data to a host socket, and the other way round. `udp` gives each inside endpoint a host
//! socket of its own, `ping` each echo identifier. Nothing of the host's packets is seen, and nothing of the
//! container's is sent: only data crosses.
//!
//! ```text
//!  container --frame--> router --> Split::input --payload--> host socket
//!  container <--frame-- router <-- Lower::deliver <--payload-- Split::socket_ready
//! ```
//!
//! The engines are given a [`Lower`]: what they need of the router below and of the host's sockets beside them.

pub mod ids;
pub mod ping;
pub mod policy;
pub mod reassembly;
pub mod tcp;
pub mod udp;

use self::ids::Ids;
use super::counters::DropReason;
use super::network::NetworkId;
use super::port::PortId;
use super::socket::{Failure, RouteKind, Sockets};
use super::worth::Worth;
use crate::frame::Frame;
use crate::wire::addr::Addr;

/// Which container a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub port: PortId,
    pub network: NetworkId,
}

/// How it is counted that the host made no socket, and why.
fn no_socket(why: Failure) -> DropReason {
    match why {
        Failure::NoFiles | Failure::NoMemory => DropReason::NoSocket,
        Failure::NoAddress | Failure::InUse => DropReason::PortsExhausted,
        _ => DropReason::HostRefused,
    }
}

/// As whom a container sees a client of its published port, or whoever tells it of an error: as itself, or as the gateway
/// where that may not be. Loopback, the host's own, one link's and no single host's addresses mean something else in the
/// container's network (CVE-2021-20199), and so do those of the network's own; the other family's cannot be written.
/// `None`: the network has no gateway of the container's family.
fn shown(addr: Addr, inside: Addr, network: NetworkId, lower: &mut dyn Lower) -> Option<Addr> {
    let hidden = addr.is_v4() != inside.is_v4()
        || policy::special(addr).is_some()
        || lower.on_link(network, addr)
        || matches!(lower.sockets().route_kind(addr), RouteKind::Local | RouteKind::Broadcast);
    if !hidden {
        return Some(addr);
    }
    lower.gateway(network).filter(|gateway| gateway.is_v4() == inside.is_v4())
}

/// What an engine needs around it.
pub trait Lower {
    /// The host's sockets.
    fn sockets(&mut self) -> &mut dyn Sockets;

    /// The names of the host's sockets, of all engines.
    fn ids(&mut self) -> &mut Ids;

    /// Sends an IP packet into a network: to the station that has its destination, which may have to be asked for first.
    /// `frame` begins with the IP header (parsed as [`crate::frame::Link::Ip`]) and has headroom for a link header. It may
    /// ask for segmentation and a partial checksum, and is not kept; a bridge's or device's refusal is counted there.
    fn deliver(&mut self, network: NetworkId, frame: &mut Frame<'_>);

    /// The MTU of a network's devices, bytes.
    fn mtu(&self, network: NetworkId) -> usize;

    /// The gateway's address in a network.
    fn gateway(&self, network: NetworkId) -> Option<Addr>;

    /// Is the address on a network's own link? No packet from there comes by way of the gateway.
    fn on_link(&self, network: NetworkId, addr: Addr) -> bool;

    /// Counts a drop at a port: of what was found out only after the packet that began it had been taken.
    fn count(&mut self, port: PortId, why: DropReason);

    /// What came of the packet that is being taken, if that is not [`Worth::Something`].
    fn came_to(&mut self, worth: Worth);

    /// An unguessable number.
    fn random(&mut self) -> u64;
}
