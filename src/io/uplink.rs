//! The TUN uplink: pontoon's side of a point-to-point link to the host's routing.
//!
//! # Theory of operation
//! `address` is pontoon's own. It is *not* configured on the device: the kernel would take it for its own and keep the
//! packets. The kernel's side is `peer`; if its prefix does not cover `address`, the kernel gets a route `address/32` to
//! the device. Beyond that, forwarding is the host's business.
//!
//! Without privilege there are two ways: a persistent TUN that an administrator made for the user (then what is already
//! as wanted is left alone), or a namespace of the user's own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use super::enter::{Class, EnterError, EnterHelper, Provenance, Request, Target};
use super::netcfg::{Config, Route};
use super::sys::tuntap::{Device, Header, Kind, TunError};
use crate::wire::addr::{Addr, Cidr};

/// What `--uplink tun:...` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkConfig {
    pub name: String,
    /// Ours.
    pub address: Addr,
    /// The kernel's side.
    pub peer: Option<Cidr>,
    /// The namespace of the device; `None`: the one pontoon was started in.
    pub netns: Option<PathBuf>,
    /// Bytes of an IP packet; `None`: as it is, 1,500 when new.
    pub mtu: Option<u32>,
    pub header: Header,
}

impl UplinkConfig {
    /// What the helper is asked for.
    pub fn request(&self) -> Result<Request, EnterError> {
        let Self { name, address, peer, netns, mtu, header } = self;
        let invalid = |text| EnterError { class: Class::Invalid, text };
        if let Some(peer) = peer {
            if peer.addr() == *address {
                return Err(invalid(format!(
                    "uplink {name}: address and peer are both {address}; address is pontoon's side, peer the kernel's: give two"
                )));
            }
            if peer.addr().is_v4() != address.is_v4() {
                return Err(invalid(format!(
                    "uplink {name}: address {address} and peer {peer} are of two families; give two of one"
                )));
            }
        }
        let covered = peer.is_some_and(|peer| peer.contains(*address));
        let route = (!covered).then_some(Route { to: Cidr::host(*address), via: None });
        Ok(Request {
            target: netns.clone().map_or(Target::Here, Target::Path),
            kind: Kind::Tun,
            name: name.clone(),
            header: *header,
            config: Config {
                label: None,
                mac: None,
                mtu: *mtu,
                queue_len: None,
                addresses: peer.iter().copied().collect(),
                routes: route.into_iter().collect(),
            },
        })
    }
}

/// An open uplink.
#[derive(Debug)]
pub struct Uplink {
    device: Device,
    /// Bytes of an IP packet, as the device has it; `None`: of an adopted descriptor it is not to be known.
    mtu: Option<u32>,
    provenance: Provenance,
}

impl Uplink {
    pub fn open(helper: &mut EnterHelper, config: &UplinkConfig) -> Result<Self, EnterError> {
        let opened = helper.open(config.request()?)?;
        opened.provenance.keep(&opened.device).map_err(|error| EnterError {
            class: Class::Device,
            text: format!("TUN {}: cannot make it persist: {error}", config.name),
        })?;
        Ok(Self { mtu: Some(opened.link.mtu), device: opened.device, provenance: opened.provenance })
    }

    /// Takes a file descriptor that somebody made and configured and handed over.
    pub fn adopt(fd: OwnedFd) -> Result<Self, TunError> {
        Ok(Self { device: Device::adopt(fd, Kind::Tun)?, mtu: None, provenance: Provenance::Found })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    pub fn mtu(&self) -> Option<u32> {
        self.mtu
    }

    /// Gives it up: a device of ours is deleted, an administrator's stays.
    pub fn close(self) -> io::Result<()> {
        self.provenance.release(self.device)
    }
}

impl AsFd for Uplink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(address: &str, peer: Option<&str>) -> UplinkConfig {
        UplinkConfig {
            name: "up0".into(),
            address: address.parse().expect("an address"),
            peer: peer.map(|peer| peer.parse().expect("a cidr")),
            netns: None,
            mtu: None,
            header: Header::Vnet,
        }
    }

    #[test]
    fn our_address_is_routed_to_the_device_and_never_configured_on_it() {
        let config = uplink("192.0.2.10", None).request().expect("valid").config;
        assert_eq!(config.addresses, []);
        let to = Cidr::host("192.0.2.10".parse().expect("an address"));
        assert_eq!(config.routes, [Route { to, via: None }]);
    }

    #[test]
    fn a_peer_whose_prefix_covers_us_needs_no_route() {
        let covered = uplink("192.0.2.10", Some("192.0.2.1/24")).request().expect("valid").config;
        assert_eq!(covered.routes, []);
        assert_eq!(covered.addresses, ["192.0.2.1/24".parse().expect("a cidr")]);
        let not_covered = uplink("198.51.100.10", Some("192.0.2.1/24")).request().expect("valid").config;
        assert_eq!(not_covered.routes.len(), 1);
    }

    #[test]
    fn an_uplink_that_is_its_own_peer_is_refused() {
        for (address, peer) in [("192.0.2.1", "192.0.2.1/24"), ("192.0.2.1", "2001:db8::1/64")] {
            let error = uplink(address, Some(peer)).request().expect_err("refused");
            assert_eq!(error.class, Class::Invalid);
        }
    }
}
