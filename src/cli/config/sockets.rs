//! An uplink over the host's sockets.

use super::{ConfigError, Origin, Overrides, SocketsSection, Source};
use crate::core::split::policy;
use crate::io::sockets;
use crate::io::sys::tuntap;
use crate::wire::addr::Addr;

/// The host's sockets as the way to the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketsSpec {
    /// How they leave the host.
    pub options: sockets::Options,
    /// What containers may reach by them.
    pub policy: policy::Config,
    /// Where each of `options` was asked for.
    pub origins: Vec<(Origin, sockets::Options)>,
}

impl SocketsSpec {
    /// Asks the host whether it has all of it.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (origin, option) in &self.origins {
            option.check().map_err(|error| ConfigError { origin: origin.clone(), why: error.to_string() })?;
        }
        Ok(())
    }
}

/// What was said of an uplink over sockets, and where.
pub(super) struct SocketsOptions {
    addresses: Vec<(Origin, Addr)>,
    interface: Option<(Origin, String)>,
    pub(super) host_loopback: Vec<(Origin, Addr)>,
    policy: policy::Config,
    /// Options without a value, and whether they were given.
    switches: [(&'static str, bool); 2],
}

impl SocketsOptions {
    pub(super) fn new(source: &Source, section: &SocketsSection, over: &Overrides) -> SocketsOptions {
        SocketsOptions {
            addresses: source.either_list("--outbound-address", &over.outbound_address, &section.outbound_address),
            interface: source.either(
                "--outbound-interface",
                over.outbound_interface.as_ref(),
                section.outbound_interface.as_ref(),
            ),
            host_loopback: source.either_list("--host-loopback", &over.host_loopback, &section.host_loopback),
            policy: policy::Config {
                host_loopback: None,
                allow_metadata: over.allow_metadata || section.allow_metadata.unwrap_or(false),
                allow_host_addresses: !over.no_host_addresses && section.host_addresses.unwrap_or(true),
            },
            switches: [("--allow-metadata", over.allow_metadata), ("--no-host-addresses", over.no_host_addresses)],
        }
    }

    pub(super) fn judged(&self) -> Result<SocketsSpec, ConfigError> {
        let mut spec = SocketsSpec { policy: self.policy, ..SocketsSpec::default() };
        for (origin, addr) in &self.addresses {
            one_host(origin, "outbound address", spec.options.outbound_v4.is_some(), *addr)?;
            spec.options.outbound_v4 = Some(*addr);
            let option = sockets::Options { outbound_v4: Some(*addr), ..sockets::Options::default() };
            spec.origins.push((origin.clone(), option));
        }
        if let Some((origin, name)) = &self.interface {
            if !tuntap::is_valid_name(name) {
                let why = format!(
                    "outbound interface: '{name}' cannot be a network device's; 1 to 15 bytes without space, '/', ':' and '%'"
                );
                return Err(ConfigError { origin: origin.clone(), why });
            }
            spec.options.outbound_interface = Some(name.clone());
            let option = sockets::Options { outbound_interface: Some(name.clone()), ..sockets::Options::default() };
            spec.origins.push((origin.clone(), option));
        }
        for (origin, addr) in &self.host_loopback {
            one_host(origin, "host loopback", spec.policy.host_loopback.is_some(), *addr)?;
            spec.policy.host_loopback = Some(*addr);
        }
        Ok(spec)
    }

    /// An option that would do nothing is a mistake; the file's section only waits.
    pub(super) fn refuse_options(&self) -> Result<(), ConfigError> {
        let SocketsOptions { addresses, interface, host_loopback, policy: _, switches } = self;
        let given = switches.iter().filter(|(_, given)| *given).map(|(name, _)| Origin::Option(name));
        let given: Vec<Origin> = given.collect();
        let addresses = addresses.iter().chain(host_loopback).map(|(origin, _)| origin);
        let said = addresses.chain(interface.iter().map(|(origin, _)| origin)).chain(&given);
        match said.into_iter().find(|origin| matches!(origin, Origin::Option(_))) {
            None => Ok(()),
            Some(origin) => {
                let why = "only an uplink over sockets has it; add --uplink sockets, or leave it out".into();
                Err(ConfigError { origin: origin.clone(), why })
            }
        }
    }
}

fn one_host(origin: &Origin, what: &str, twice: bool, addr: Addr) -> Result<(), ConfigError> {
    let ip = std::net::IpAddr::from(addr);
    let why = if !addr.is_v4() {
        format!("{what}: {addr} is of IPv6, which is not routed yet; give an IPv4 address")
    } else if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || addr == Addr::V4_BROADCAST {
        format!("{what}: {addr} is no address of one host; give one that is")
    } else if twice {
        format!("{what}: {addr} is the second; give one")
    } else {
        return Ok(());
    };
    Err(ConfigError { origin: origin.clone(), why })
}
