//! The source guard: which addresses a port may claim.
//!
//! By default a port may not claim the gateway's MAC or IP address, nor another attachment's, whether as source of a
//! frame, of an IP packet, or as the sender of an ARP or the target of an NDP message; what nobody owns is learned as a
//! bridge learns, so a container may bridge, route, use VLANs, link-local addresses, and probe from 0.0.0.0. `strict`
//! allows only its own addresses, `off` allows all.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::super::command::Guard;
use super::super::counters::DropReason;
use super::super::port::PortId;
use crate::frame::{Frame, L3, L4};
use crate::wire::addr::Addr;
use crate::wire::ip::proto;
use crate::wire::mac::Mac;

/// Who owns an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The gateway of the network.
    Gateway,
    /// An attachment.
    Port(PortId),
}

/// Addresses that somebody owns, per network. The keys are ours (reserved by command), never learned from traffic, so
/// a fast hash without a secret is enough.
#[derive(Default)]
pub struct Owners {
    macs: HashMap<Mac, Owner, FixedState>,
    addrs: HashMap<Addr, Owner, FixedState>,
}

impl Owners {
    /// The owner of a MAC address.
    pub fn mac(&self, mac: Mac) -> Option<Owner> {
        self.macs.get(&mac).copied()
    }

    /// The owner of an IP address.
    pub fn addr(&self, addr: Addr) -> Option<Owner> {
        self.addrs.get(&addr).copied()
    }

    /// Records an owner.
    pub fn claim(&mut self, owner: Owner, mac: Mac, addr: Option<Addr>) {
        self.macs.insert(mac, owner);
        if let Some(addr) = addr {
            self.addrs.insert(addr, owner);
        }
    }

    /// Forgets the addresses of an owner.
    pub fn release(&mut self, mac: Mac, addr: Option<Addr>) {
        self.macs.remove(&mac);
        if let Some(addr) = addr {
            self.addrs.remove(&addr);
        }
    }

    /// May `port` send this frame?
    pub fn check(&self, guard: Guard, port: PortId, frame: &Frame<'_>) -> Result<(), DropReason> {
        let mine = Some(Owner::Port(port));
        let allowed = |owner: Option<Owner>| match guard {
            Guard::Off => true,
            Guard::Default => owner.is_none() || owner == mine,
            Guard::Strict => owner == mine,
        };
        if guard == Guard::Off {
            return Ok(());
        }
        if !allowed(self.mac(frame.eth_src())) || claimed_mac(frame).is_some_and(|mac| !allowed(self.mac(mac))) {
            return Err(DropReason::SpoofedMac);
        }
        match claimed_address(frame) {
            Some(addr) if !allowed(self.addr(addr)) => Err(DropReason::SpoofedAddress),
            _ => Ok(()),
        }
    }
}

/// The message of an ARP frame about Ethernet and IPv4 (RFC 826).
fn plain_arp<'a>(frame: &'a Frame<'_>) -> Option<&'a [u8]> {
    let arp = frame.l3();
    (frame.layout().kind == L3::Arp && arp.len() >= 28 && arp[..6] == [0, 1, 8, 0, 6, 4]).then_some(arp)
}

/// The MAC address that an ARP message gives as its sender's: who believes it sends there.
fn claimed_mac(frame: &Frame<'_>) -> Option<Mac> {
    plain_arp(frame).map(|arp| Mac::read(&arp[8..]))
}

/// The IP address that a frame claims as its sender's own, if it claims one.
fn claimed_address(frame: &Frame<'_>) -> Option<Addr> {
    match frame.layout().kind {
        // A probe from 0.0.0.0 claims nothing (RFC 5227).
        L3::Arp => plain_arp(frame).map(|arp| Addr::read4(arp, 14)).filter(|a| *a != Addr::V4_UNSPECIFIED),
        L3::V4 => frame.addrs().map(|(src, _)| src).filter(|a| *a != Addr::V4_UNSPECIFIED),
        L3::V6 => {
            let layout = frame.layout();
            let l4 = frame.l4();
            // Neighbour advertisement, RFC 4861 4.4: the target is what the sender claims to be.
            let advertises =
                layout.proto == proto::ICMPV6 && layout.l4_kind == L4::Other && l4.len() >= 24 && l4[0] == 136;
            let claimed = if advertises { Addr::read6(l4, 8)? } else { Addr::read6(frame.l3(), 8)? };
            // A link-local address is made by the host itself and given to nobody (RFC 4862 5.3).
            (claimed.octets()[0] != 0xfe || claimed.octets()[1] & 0xc0 != 0x80).then_some(claimed)
        }
        L3::Other | L3::Malformed(_) => None,
    }
}
