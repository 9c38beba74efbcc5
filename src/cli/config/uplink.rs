//! The way to the world: what may be chosen, and a TUN.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::{ConfigError, Origin, SocketsSpec};
use crate::core::command::UplinkConfig;
use crate::io::sys::tuntap;
use crate::wire::addr::{Addr, Cidr};

/// The way to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplink {
    Tun(UplinkSpec),
    Sockets(SocketsSpec),
}

/// A TUN to the world.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkSpec {
    /// Of the device.
    pub name: String,
    /// pontoon's own.
    pub address: Addr,
    /// The kernel's side, configured on the device.
    pub peer: Option<Cidr>,
    /// Where the device is.
    pub netns: Option<PathBuf>,
    /// Bytes of an IP packet.
    pub mtu: Option<u16>,
    /// Lower the MSS of connections that cross to what fits (R23).
    #[serde(default)]
    pub mss_clamp: bool,
    /// An inherited descriptor is the device; of the command line only, where whoever starts us can see to it.
    #[serde(skip)]
    pub fd: Option<i32>,
}

/// The name of a device that came as a descriptor, in messages.
const BY_DESCRIPTOR: &str = "by descriptor";

/// What `--uplink` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkChoice {
    None,
    Tun(UplinkSpec),
    Sockets,
}

/// In the file a table, which is a TUN, or a word.
impl<'de> Deserialize<'de> for UplinkChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UplinkChoice, D::Error> {
        struct Choice;

        impl<'de> Visitor<'de> for Choice {
            type Value = UplinkChoice;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"sockets\", \"none\", or a table with name and address")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<UplinkChoice, E> {
                match text {
                    "sockets" => Ok(UplinkChoice::Sockets),
                    "none" => Ok(UplinkChoice::None),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<UplinkChoice, A::Error> {
                UplinkSpec::deserialize(MapAccessDeserializer::new(table)).map(UplinkChoice::Tun)
            }
        }

        deserializer.deserialize_any(Choice)
    }
}

impl FromStr for UplinkChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<UplinkChoice, String> {
        let fields = match text {
            "none" => return Ok(UplinkChoice::None),
            "sockets" => return Ok(UplinkChoice::Sockets),
            text => text.strip_prefix("tun:").ok_or("write sockets, tun:name=up0,address=192.0.2.10[,..] or none")?,
        };
        let (mut name, mut address, mut fd) = (None, None, None);
        let (mut peer, mut netns, mut mtu, mut mss_clamp) = (None, None, None, None);
        for field in fields.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("'{field}' is not KEY=VALUE"))?;
            let number = |error| format!("{key}: '{value}' is not a number in range: {error}");
            let twice = match key {
                "name" => name.replace(value.to_owned()).is_some(),
                "address" => {
                    let parsed = Addr::parse(value).map_err(|error| format!("address: '{value}' is {error}"))?;
                    address.replace(parsed).is_some()
                }
                "peer" => {
                    let parsed = value.parse::<Cidr>().map_err(|error| format!("peer: '{value}' is {error}"))?;
                    peer.replace(parsed).is_some()
                }
                "netns" => netns.replace(PathBuf::from(value)).is_some(),
                "mtu" => mtu.replace(value.parse().map_err(number)?).is_some(),
                "fd" => fd.replace(value.parse().map_err(number)?).is_some(),
                "mss_clamp" => {
                    let on = match value {
                        "on" => true,
                        "off" => false,
                        _ => return Err(format!("mss_clamp: '{value}' is neither on nor off")),
                    };
                    mss_clamp.replace(on).is_some()
                }
                _ => {
                    return Err(format!(
                        "there is no '{key}'; there are name, address, peer, netns, mtu, mss_clamp and fd"
                    ));
                }
            };
            if twice {
                return Err(format!("'{key}' is there twice"));
            }
        }
        let address = address.ok_or("address=ADDR is missing: pontoon's own on the uplink")?;
        let name = match (name, fd) {
            (Some(name), None) => name,
            (None, Some(_)) if peer.is_none() && netns.is_none() => BY_DESCRIPTOR.to_owned(),
            (None, None) => return Err("name=NAME is missing: the device to make or to take".into()),
            (_, Some(_)) => {
                return Err("fd=N is a device that is made and configured; leave name, peer and netns out".into());
            }
        };
        let mss_clamp = mss_clamp.unwrap_or(false);
        Ok(UplinkChoice::Tun(UplinkSpec { name, address, peer, netns, mtu, mss_clamp, fd }))
    }
}

impl UplinkSpec {
    /// What the core has to know.
    pub fn for_core(&self, mtu: u16) -> UplinkConfig {
        // The core chooses the port itself.
        UplinkConfig { address: self.address, mtu, mss_clamp: self.mss_clamp }
    }
}

pub(super) fn check_uplink(origin: &Origin, spec: &UplinkSpec) -> Result<(), ConfigError> {
    let refuse = |key, why| Err(ConfigError { origin: origin.of_key(key), why });
    if spec.fd.is_none() && !tuntap::is_valid_name(&spec.name) {
        let name = &spec.name;
        return refuse(
            "name",
            format!(
                "uplink name: '{name}' cannot be a network device's; 1 to 15 bytes without space, '/', ':' and '%'"
            ),
        );
    }
    match spec.peer {
        Some(peer) if peer.addr() == spec.address => {
            let peer = peer.addr();
            refuse("peer", format!("uplink peer: {peer} is pontoon's own address; give the kernel's side another"))
        }
        Some(peer) if peer.addr().is_v4() != spec.address.is_v4() => {
            let address = spec.address;
            refuse("peer", format!("uplink peer: {peer} is not of the family of {address}; give two of one"))
        }
        Some(_) | None => Ok(()),
    }
}
