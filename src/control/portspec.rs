//! How a published port is written: `[[IP:][HOST[-HOST]]:]CTR[-CTR][/tcp|udp]`, docker's grammar.
//!
//! An IPv6 address stands in brackets. `0.0.0.0` is any address, as if left out. A range counts upwards. Two ranges are of
//! equal length and go together port by port; a range of the host's with one port of the container's is where the lowest
//! free port is taken from. Without a port of the host's each of the container's gets one at random: whoever asks is told
//! which ([`resolve`]).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::core::command::{HostPort, Publication, PublicationRequest, Transport};
use crate::wire::addr::Addr;

/// Ports that one request may publish: all of one transport.
pub const MAX_PORTS: usize = 65_535;

/// One published port or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSpec {
    host_ip: Option<Addr>,
    host: Host,
    container_first: u16,
    /// At least 1, and no port of the range is above 65,535. 1 if it is the host's port that is out of a range.
    count: u16,
    proto: Transport,
}

/// Which ports of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    /// As many as the container's, from this one on.
    From(u16),
    /// One of these.
    FirstOf(u16, u16),
    /// As many as the container's, any.
    Random,
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
    pub fn requests(self) -> impl Iterator<Item = PublicationRequest> {
        (0..self.count).map(move |n| PublicationRequest {
            proto: self.proto,
            host_ip: self.host_ip,
            host_port: match self.host {
                Host::From(first) => HostPort::Exactly(first + n),
                Host::FirstOf(first, last) => HostPort::FirstOf(first, last),
                Host::Random => HostPort::Random,
            },
            container_port: self.container_first + n,
        })
    }

    /// Is its port of the host, or each of them, said?
    pub fn names_host_port(self) -> bool {
        matches!(self.host, Host::From(_))
    }

    /// As `docker port` writes it: `80/tcp -> 0.0.0.0:2024`.
    pub fn arrow(self) -> String {
        let whole = self.to_string();
        let (host, container) = whole.rsplit_once(':').unwrap_or(("", &whole));
        match self.host_ip {
            Some(_) => format!("{container} -> {host}"),
            None => format!("{container} -> {}:{host}", Addr::V4_UNSPECIFIED),
        }
    }
}

impl From<Publication> for PortSpec {
    fn from(published: Publication) -> PortSpec {
        let Publication { proto, host_ip, host_port, container_port } = published;
        PortSpec { host_ip, host: Host::From(host_port), container_first: container_port, count: 1, proto }
    }
}

/// All ports of all `specs`; one that is named twice is refused.
pub fn expand(specs: &[PortSpec]) -> Result<Vec<PublicationRequest>, PortSpecError> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for spec in specs {
        let refuse = |why| PortSpecError { text: spec.to_string(), why };
        if all.len() + usize::from(spec.count) > MAX_PORTS {
            return Err(refuse(format!("with it the request has more than {MAX_PORTS} ports; use several requests")));
        }
        for one in spec.requests() {
            if let HostPort::Exactly(host_port) = one.host_port
                && !seen.insert((one.host_ip, host_port, one.proto))
            {
                return Err(refuse(format!("host port {host_port} is there twice; give each host port once")));
            }
            all.push(one);
        }
    }
    Ok(all)
}

/// What has become of `specs`: the same, or, where the port of the host was not said, each port as it was published.
/// `published` is in the order of [`expand`].
pub fn resolve(specs: &[PortSpec], published: &[Publication]) -> Vec<PortSpec> {
    let mut rest = published;
    let mut resolved = Vec::with_capacity(specs.len());
    for spec in specs {
        let (its, others) = rest.split_at(usize::from(spec.count).min(rest.len()));
        rest = others;
        if spec.names_host_port() {
            resolved.push(*spec);
        } else {
            resolved.extend(its.iter().copied().map(PortSpec::from));
        }
    }
    resolved
}

/// Those of `resolved` whose port of the host `asked` does not name.
pub fn chosen<'a>(asked: &[PortSpec], resolved: &'a [PortSpec]) -> impl Iterator<Item = &'a PortSpec> {
    let named: Vec<PortSpec> = asked.iter().copied().filter(|spec| spec.names_host_port()).collect();
    resolved.iter().filter(move |spec| !named.contains(spec))
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
    let (host, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (host_ip, host) = match host.rsplit_once(':') {
        None => (None, host),
        Some((ip, host)) => (host_address(ip)?, host),
    };
    let (container_first, container_last) = range(container)?;
    let containers = container_last - container_first;
    let host = match host {
        "" => Host::Random,
        host => {
            let (first, last) = range(host)?;
            match (last - first, containers) {
                (hosts, containers) if hosts == containers => Host::From(first),
                (_, 0) => Host::FirstOf(first, last),
                (hosts, containers) => {
                    return Err(format!(
                        "{} host ports and {} container ports; give ranges of equal length",
                        u32::from(hosts) + 1,
                        u32::from(containers) + 1
                    ));
                }
            }
        }
    };
    // 1..=65,535 are 65,535 ports, so the count fits.
    Ok(PortSpec { host_ip, host, container_first, count: containers + 1, proto })
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
        let range = |f: &mut fmt::Formatter<'_>, first: u16, last: u16| {
            if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
        };
        let more = self.count - 1;
        match self.host {
            Host::From(first) => range(f, first, first + more)?,
            Host::FirstOf(first, last) => range(f, first, last)?,
            Host::Random => {}
        }
        if self.host != Host::Random || self.host_ip.is_some() {
            f.write_str(":")?;
        }
        range(f, self.container_first, self.container_first + more)?;
        f.write_str("/")?;
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

    // D14
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
            ("80", "80/tcp"),
            (":80", "80/tcp"),
            ("80-82/udp", "80-82/udp"),
            ("192.0.2.1::80", "192.0.2.1::80/tcp"),
            ("0.0.0.0::80", "80/tcp"),
            ("[2001:db8::1]::80", "[2001:db8::1]::80/tcp"),
            ("8000-8010:80", "8000-8010:80/tcp"),
            ("127.0.0.1:8000-8010:80/udp", "127.0.0.1:8000-8010:80/udp"),
        ] {
            let spec: PortSpec = text.parse().expect(text);
            assert_eq!(spec.to_string(), whole);
            assert_eq!(whole.parse(), Ok(spec));
        }
    }

    #[test]
    fn what_is_no_port_is_refused_with_the_reason_and_the_cure() {
        for (text, says) in [
            ("0:80", "1 to 65535"),
            ("80:0", "1 to 65535"),
            ("65536:80", "1 to 65535"),
            ("+80:80", "1 to 65535"),
            ("80:", "1 to 65535"),
            ("80-:80", "1 to 65535"),
            ("http:80", "1 to 65535"),
            ("9-8:9-8", "write 8-9"),
            ("80:80-81", "equal length"),
            ("80-82:80-81", "equal length"),
            ("80:80/sctp", "tcp or udp"),
            ("80:80/TCP", "tcp or udp"),
            ("80:80/", "tcp or udp"),
            ("host:80:80", "not an IP address"),
            ("2001:db8::1:80:80", "brackets"),
            ("[192.0.2.1]:80:80", "brackets"),
            ("[::1:80:80", "brackets"),
            ("", "1 to 65535"),
            (":", "1 to 65535"),
            ("host::80", "not an IP address"),
        ] {
            let error = text.parse::<PortSpec>().expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_range_is_so_many_ports() {
        let spec: PortSpec = "8000-8002:80-82/udp".parse().expect("a range");
        let pairs: Vec<_> = spec.requests().map(|one| (one.host_port, one.container_port)).collect();
        let [a, b, c] = [8000, 8001, 8002].map(HostPort::Exactly);
        assert_eq!(pairs, [(a, 80), (b, 81), (c, 82)]);
        let spec: PortSpec = "80-81".parse().expect("a range");
        let pairs: Vec<_> = spec.requests().map(|one| (one.host_port, one.container_port)).collect();
        assert_eq!(pairs, [(HostPort::Random, 80), (HostPort::Random, 81)]);
        let spec: PortSpec = "8000-8010:80".parse().expect("a choice");
        let pairs: Vec<_> = spec.requests().map(|one| (one.host_port, one.container_port)).collect();
        assert_eq!(pairs, [(HostPort::FirstOf(8000, 8010), 80)]);
    }

    #[test]
    fn a_chosen_port_is_told_as_a_specification_that_names_it() {
        let specs: Vec<PortSpec> =
            ["8000-8001:80-81", "127.0.0.1::80-81", "9000-9010:90/udp"].map(|s| s.parse().expect(s)).into();
        let chosen = [8000, 8001, 40_001, 40_002, 9003];
        let published: Vec<_> = expand(&specs)
            .expect("five ports")
            .into_iter()
            .zip(chosen)
            .map(|(PublicationRequest { proto, host_ip, container_port, .. }, host_port)| Publication {
                proto,
                host_ip,
                host_port,
                container_port,
            })
            .collect();
        let told: Vec<_> = resolve(&specs, &published).iter().map(PortSpec::to_string).collect();
        let lines: Vec<_> = resolve(&specs, &published).into_iter().map(PortSpec::arrow).collect();
        assert_eq!(told, ["8000-8001:80-81/tcp", "127.0.0.1:40001:80/tcp", "127.0.0.1:40002:81/tcp", "9003:90/udp"]);
        assert_eq!(
            lines,
            [
                "80-81/tcp -> 0.0.0.0:8000-8001",
                "80/tcp -> 127.0.0.1:40001",
                "81/tcp -> 127.0.0.1:40002",
                "90/udp -> 0.0.0.0:9003"
            ]
        );
    }

    #[test]
    fn a_host_port_twice_in_one_request_is_refused() {
        let specs: Vec<PortSpec> = ["80-90:80-90", "85:1"].map(|s| s.parse().expect(s)).into();
        let error = expand(&specs).expect_err("85 twice").to_string();
        assert!(error.contains("host port 85 is there twice"), "{error}");
        let other: Vec<PortSpec> =
            ["80:80", "80:80/udp", "192.0.2.1:80:80", "80", "80"].map(|s| s.parse().expect(s)).into();
        assert_eq!(expand(&other).expect("five different ones").len(), 5);
    }

    #[test]
    fn a_request_for_too_many_ports_is_refused() {
        let specs: Vec<PortSpec> = ["1-65535:1-65535", "80:80/udp"].map(|s| s.parse().expect(s)).into();
        assert!(expand(&specs).expect_err("65,536 ports").to_string().contains("several requests"));
    }
}
