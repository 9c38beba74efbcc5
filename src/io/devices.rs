//! The devices of a switch's ports, and what the loop keeps for each.

use super::allowance::Allowance;
use super::sys::tuntap::Device;
use super::tap::{ReadError, TapPort, WriteError};
use super::uplink::Uplink;
use crate::core::port::PortId;
use crate::core::world::Sent;
use crate::frame::{FrameOut, HEADROOM};
use crate::wire::vnet;

/// Any device of a port.
pub enum Role {
    Tap(TapPort),
    Uplink(Uplink),
}

impl Role {
    pub fn device(&self) -> &Device {
        match self {
            Role::Tap(tap) => tap.device(),
            Role::Uplink(uplink) => uplink.device(),
        }
    }
}

pub struct Entry {
    pub id: PortId,
    pub role: Role,
    pub vnet: bool,
    /// On the ready list.
    pub ready: bool,
    /// Bytes it may still spend; negative after a turn that overspent.
    pub deficit: i64,
    /// What it may spend on frames that come to nothing.
    pub allowance: Allowance,
    /// It had none left before; told once.
    pub was_held: bool,
}

impl Entry {
    pub fn new(id: PortId, role: Role, vnet: bool) -> Entry {
        Entry { id, role, vnet, ready: false, deficit: 0, allowance: Allowance::default(), was_held: false }
    }

    /// May datagrams be written to it as one super-frame?
    pub fn takes_joined(&self) -> bool {
        matches!(&self.role, Role::Tap(tap) if tap.device().caps().uso)
    }

    /// Reads one frame to where the core wants it; `None`: it was cut short of its own virtio header.
    #[inline]
    pub fn read(&self, buf: &mut [u8]) -> Result<Option<usize>, ReadError> {
        if self.vnet {
            let read = self.role.device().read(&mut buf[HEADROOM - vnet::LEN..])?;
            return Ok(read.checked_sub(vnet::LEN));
        }
        buf[HEADROOM - vnet::LEN..HEADROOM].fill(0);
        Ok(Some(self.role.device().read(&mut buf[HEADROOM..])?))
    }
}

/// Devices by the slot of their port's id.
#[derive(Default)]
pub struct Devices {
    pub entries: Vec<Option<Entry>>,
}

impl Devices {
    #[inline]
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut Entry> {
        self.entries.get_mut(id.0 as usize & 0xffff)?.as_mut().filter(|e| e.id == id)
    }

    pub fn insert(&mut self, entry: Entry) {
        let slot = entry.id.0 as usize & 0xffff;
        if self.entries.len() <= slot {
            self.entries.resize_with(slot + 1, || None);
        }
        self.entries[slot] = Some(entry);
    }

    pub fn remove(&mut self, id: PortId) -> Option<Entry> {
        let place = self.entries.get_mut(id.0 as usize & 0xffff)?;
        if place.as_ref()?.id == id { place.take() } else { None }
    }

    /// Writes one frame, with its virtio header where the port's device wants one.
    #[inline]
    pub fn write(&mut self, port: PortId, frame: FrameOut<'_>) -> Sent {
        let Some(entry) = self.get_mut(port) else { return Sent::Gone };
        let bytes = if entry.vnet { frame.with_vnet() } else { frame.packet() };
        match entry.role.device().write(bytes) {
            Ok(_) => Sent::Ok,
            Err(error) => match WriteError::from(error) {
                WriteError::Down => Sent::Down,
                WriteError::Gone => Sent::Gone,
                WriteError::Refused => Sent::Refused,
                WriteError::Full | WriteError::Other(_) => Sent::Failed,
            },
        }
    }
}
