//! How a published port is written: `[IP:]HOST[-HOST]:CTR[-CTR][/tcp|udp]`, docker's grammar.
//!
//! An IPv6 address stands in brackets. Ranges are of equal length and count upwards. `0.0.0.0` is any address, as if left
//! out. A container port alone (docker's random host port) is refused: whoever asks for a port shall know which it is.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::core::command::{Publication, Transport};
use crate::wire::addr::Addr;

/// Ports that one request may publish: all of one transport.
pub const MAX_PORTS: usize = 65_535;

/// One published port or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSpec {
    host_ip: Option<Addr>,
    host_first: u16,
    container_first: u16,
    /// At least 1, and no port of the range is above 65,535.
    count: u16,
    proto: Transport,
}

/// Why a text is no port specification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no published port: {why}")]
pub struct PortSpecError {
    text: String,
    why: String,
}

impl PortSpec {
    /// Each port of the range.
    pub fn publications(self) -> impl Iterator<Item = Publication> {
        (0..self.count).map(move |n| Publication {
            proto: self.proto,
            host_ip: self.host_ip,
            host_port: self.host_first + n,
            container_port: self.container_first + n,
        })
    }
}

/// All ports of all `specs`; the same one twice is refused.
pub fn expand(specs: &[PortSpec]) -> Result<Vec<Publication>, PortSpecError> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for spec in specs {
        let refuse = |why| PortSpecError { text: spec.to_string(), why };
        if all.len() + usize::from(spec.count) > MAX_PORTS {
            return Err(refuse(format!("with it the request has more than {MAX_PORTS} ports; use several requests")));
        }
        for one in spec.publications() {
            if !seen.insert((one.host_ip, one.host_port, one.proto)) {
                return Err(refuse(format!("host port {} is there twice; give each host port once", one.host_port)));
            }
            all.push(one);
        }
    }
    Ok(all)
}

impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<PortSpec, PortSpecError> {
        parse(text).map_err(|why| PortSpecError { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<PortSpec, String> {
    let (ports, proto) = match text.split_once('/') {
        None => (text, Transport::Tcp),
        Some((ports, "tcp")) => (ports, Transport::Tcp),
        Some((ports, "udp")) => (ports, Transport::Udp),
        Some((_, other)) => {
            return Err(format!("'{other}' cannot be published; write tcp or udp"));
        }
    };
    let Some((host, container)) = ports.rsplit_once(':') else {
        return Err(format!("it has no host port; write HOST:CONTAINER, as 8080:{ports}"));
    };
    let (host_ip, host) = match host.rsplit_once(':') {
        None => (None, host),
        Some((ip, host)) => (host_address(ip)?, host),
    };
    if host.is_empty() {
        return Err(format!("it has no host port; write one before the colon, as 8080:{container}"));
    }
    let (host_first, host_last) = range(host)?;
    let (container_first, container_last) = range(container)?;
    let (hosts, containers) = (host_last - host_first, container_last - container_first);
    if hosts != containers {
        return Err(format!(
            "{} host ports and {} container ports; give ranges of equal length",
            u32::from(hosts) + 1,
            u32::from(containers) + 1
        ));
    }
    // 1..=65,535 are 65,535 ports, so the count fits.
    Ok(PortSpec { host_ip, host_first, container_first, count: hosts + 1, proto })
}

fn host_address(text: &str) -> Result<Option<Addr>, String> {
    let bare = match text.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(inside)) if inside.contains(':') => inside,
        None if !text.contains(':') => text,
        Some(_) | None => {
            return Err(format!(
                "'{text}' is not an address; an IPv6 address stands in brackets, as [2001:db8::1]:80:80"
            ));
        }
    };
    let address = Addr::parse(bare).map_err(|why| format!("'{bare}' is {why}"))?;
    Ok((address != Addr::V4_UNSPECIFIED).then_some(address))
}

/// Both ends of `FIRST[-LAST]`.
fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("the range {first}-{last} counts downwards; write {last}-{first}"));
    }
    Ok((first, last))
}

fn port(text: &str) -> Result<u16, String> {
    // `parse` would take "+80".
    if !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(port @ 1..) = text.parse()
    {
        return Ok(port);
    }
    Err(format!("'{text}' is not a port; write a number from 1 to 65535"))
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ip) = self.host_ip {
            if ip.is_v4() {
                write!(f, "{ip}:")?;
            } else {
                write!(f, "[{ip}]:")?;
            }
        }
        let last = self.count - 1;
        for (first, end) in [(self.host_first, ':'), (self.container_first, '/')] {
            write!(f, "{first}")?;
            if last > 0 {
                write!(f, "-{}", first + last)?;
            }
            write!(f, "{end}")?;
        }
        f.write_str(match self.proto {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}

impl Serialize for PortSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PortSpec, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_grammar_is_understood_and_written_back_whole() {
        for (text, whole) in [
            ("8080:80", "8080:80/tcp"),
            ("53:53/udp", "53:53/udp"),
            ("192.0.2.10:8080:80/tcp", "192.0.2.10:8080:80/tcp"),
            ("0.0.0.0:8080:80", "8080:80/tcp"),
            ("8000-8009:9000-9009", "8000-8009:9000-9009/tcp"),
            ("[2001:db8::1]:80:80/udp", "[2001:db8::1]:80:80/udp"),
            ("1-65535:1-65535", "1-65535:1-65535/tcp"),
            ("80-80:81", "80:81/tcp"),
        ] {
            let spec: PortSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), whole);
            assert_eq!(whole.parse(), Ok(spec));
        }
    }

    #[test]
    fn what_is_no_port_is_refused_with_the_reason_and_the_cure() {
        for (text, says) in [
            ("80", "8080:80"),
            (":80", "no host port"),
            ("192.0.2.1::80", "no host port"),
            ("0:80", "1 to 65535"),
            ("80:0", "1 to 65535"),
            ("65536:80", "1 to 65535"),
            ("+80:80", "1 to 65535"),
            ("80:", "1 to 65535"),
            ("80-:80", "1 to 65535"),
            ("http:80", "1 to 65535"),
            ("9-8:9-8", "write 8-9"),
            ("80-81:80", "equal length"),
            ("80:80/sctp", "tcp or udp"),
            ("80:80/TCP", "tcp or udp"),
            ("80:80/", "tcp or udp"),
            ("host:80:80", "not an IP address"),
            ("2001:db8::1:80:80", "brackets"),
            ("[192.0.2.1]:80:80", "brackets"),
            ("[::1:80:80", "brackets"),
            ("", "no host port"),
        ] {
            let error = text.parse::<PortSpec>().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_is_so_many_ports() {
        let spec: PortSpec = "8000-8002:80-82/udp".parse().expect("a range");
        let pairs: Vec<_> = spec.publications().map(|one| (one.host_port, one.container_port)).collect();
        assert_eq!(pairs, [(8000, 80), (8001, 81), (8002, 82)]);
    }

    #[test]
    fn a_host_port_twice_in_one_request_is_refused() {
        let specs: Vec<PortSpec> = ["80-90:80-90", "85:1"].map(|s| s.parse().expect(s)).into();
        let error = expand(&specs).expect_err("85 twice").to_string();
        assert!(error.contains("host port 85 is there twice"), "{error}");
        let other: Vec<PortSpec> = ["80:80", "80:80/udp", "192.0.2.1:80:80"].map(|s| s.parse().expect(s)).into();
        assert_eq!(expand(&other).expect("three different ones").len(), 3);
    }

    #[test]
    fn a_request_for_too_many_ports_is_refused() {
        let specs: Vec<PortSpec> = ["1-65535:1-65535", "80:80/udp"].map(|s| s.parse().expect(s)).into();
        assert!(expand(&specs).expect_err("65,536 ports").to_string().contains("several requests"));
    }
}
