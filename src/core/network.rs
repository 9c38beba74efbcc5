//! Networks and ports as the core keeps them.

use super::bridge::bucket::Bucket;
use super::bridge::fdb::Fdb;
use super::bridge::guard::{Owner, Owners};
use super::command::NetworkConfig;
use super::counters::Counters;
use super::hash::Keyed;
use super::neigh::Neighbours;
use super::port::PortId;
use super::time::Instant;
use crate::frame::Caps;
use crate::wire::addr::{Addr, Cidr};
use crate::wire::mac::Mac;

/// A network's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(pub u16);

/// A switch, and the gateway in it.
pub struct Network {
    /// As configured.
    pub config: NetworkConfig,
    /// The gateway's MAC address; stable for the life of the network (S06).
    pub gateway_mac: Mac,
    /// What was learned.
    pub fdb: Fdb,
    /// Who owns which address.
    pub owners: Owners,
    /// No address of the subnet below this one (as a number) is free: the search for one begins here.
    pub taken_below: u32,
    /// The gateway's neighbours.
    pub neighbours: Neighbours,
    /// Its ports, sorted.
    pub ports: Vec<PortId>,
}

impl Network {
    /// An empty network.
    pub fn new(config: NetworkConfig, gateway_mac: Mac, key: Keyed) -> Network {
        let fdb = Fdb::new(config.ageing, key.clone());
        let mut owners = Owners::default();
        owners.claim(Owner::Gateway, gateway_mac, config.gateway);
        let neighbours = Neighbours::new(key);
        Network { config, gateway_mac, fdb, owners, taken_below: 0, neighbours, ports: Vec::new() }
    }

    /// The gateway's address, if there is a gateway.
    #[inline]
    pub fn gateway(&self) -> Option<Addr> {
        self.config.gateway
    }

    /// The on-link prefix.
    #[inline]
    pub fn subnet(&self) -> Option<Cidr> {
        self.config.subnet
    }
}

/// What a port is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A container's device on a network.
    Endpoint(Attachment),
    /// The way to the world.
    Uplink,
}

/// A container's device on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The container.
    pub name: String,
    /// The device in its namespace.
    pub ifname: String,
    /// The network.
    pub network: NetworkId,
    /// Its address.
    pub ip: Option<Addr>,
    /// Its MAC address.
    pub mac: Mac,
    /// Isolated from other isolated ports.
    pub isolated: bool,
}

/// Is there a device behind a port?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Reserved; no device yet.
    Pending,
    /// There, and taking frames.
    Up,
    /// There, but down (EIO); still tried.
    Down,
}

/// A port.
pub struct Port {
    /// What it is for.
    pub role: Role,
    /// Is there a device?
    pub state: PortState,
    /// What the device takes.
    pub caps: Caps,
    /// Its counters.
    pub counters: Counters,
    /// What it may flood.
    pub flood: Bucket,
    /// Announcements still to be made (D18), and when the next one is due.
    pub announce: (u8, Instant),
}

impl Port {
    /// A port without a device.
    pub fn pending(role: Role, flood_rate: u32, now: Instant) -> Port {
        Port {
            role,
            state: PortState::Pending,
            caps: Caps::PLAIN,
            counters: Counters::default(),
            flood: Bucket::new(flood_rate, flood_rate, now),
            announce: (0, now),
        }
    }

    /// The attachment, if this is a container's port.
    #[inline]
    pub fn attachment(&self) -> Option<&Attachment> {
        match &self.role {
            Role::Endpoint(attachment) => Some(attachment),
            Role::Uplink => None,
        }
    }
}

/// Ports by their id: the low 16 bits are a slot, the high 16 bits count how often the slot was used, so that a late
/// event for a port that is gone meets nobody.
#[derive(Default)]
pub struct Ports {
    slots: Vec<(u16, Option<Port>)>,
    free: std::collections::VecDeque<u16>,
    count: usize,
}

/// Ports that can exist at once.
pub const MAX_PORTS: usize = 1 << 16;

impl Ports {
    /// Takes a slot, the one that has been free for the longest; `None`: all are taken.
    pub fn insert(&mut self, port: Port) -> Option<PortId> {
        let slot = match self.free.pop_front() {
            Some(slot) => slot,
            None => {
                let slot = u16::try_from(self.slots.len()).ok()?;
                self.slots.push((0, None));
                slot
            }
        };
        let (generation, place) = &mut self.slots[usize::from(slot)];
        *place = Some(port);
        self.count += 1;
        Some(PortId(u32::from(*generation) << 16 | u32::from(slot)))
    }

    /// Frees the slot.
    pub fn remove(&mut self, id: PortId) -> Option<Port> {
        let (generation, place) = self.slots.get_mut(id.0 as usize & 0xffff)?;
        if u32::from(*generation) != id.0 >> 16 {
            return None;
        }
        let port = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push_back(id.0 as u16);
        self.count -= 1;
        Some(port)
    }

    /// The port, if it is still there.
    #[inline]
    pub fn get(&self, id: PortId) -> Option<&Port> {
        let (generation, port) = self.slots.get(id.0 as usize & 0xffff)?;
        if u32::from(*generation) == id.0 >> 16 { port.as_ref() } else { None }
    }

    /// The same, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut Port> {
        let (generation, port) = self.slots.get_mut(id.0 as usize & 0xffff)?;
        if u32::from(*generation) == id.0 >> 16 { port.as_mut() } else { None }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        self.slots.iter().enumerate().filter_map(|(slot, (generation, port))| {
            Some((PortId(u32::from(*generation) << 16 | slot as u32), port.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_event_for_a_port_that_is_gone_meets_nobody() {
        let mut ports = Ports::default();
        let port = || Port::pending(Role::Uplink, 1, Instant::ZERO);
        let first = ports.insert(port()).unwrap();
        ports.remove(first).unwrap();
        let second = ports.insert(port()).unwrap();
        assert_ne!(first, second);
        assert!(ports.get(first).is_none() && ports.remove(first).is_none() && ports.get(second).is_some());
        assert_eq!(ports.len(), 1);
    }
}
