//! Published ports: from what is asked for to what is open.
//!
//! # Theory of operation
//! A request names its port of the host, or a range of which the lowest free port is meant, or nothing: then the port is a
//! random one of [`Config::dynamic_ports`](super::datapath::Config::dynamic_ports), which nobody can foresee (RFC 6056),
//! and TCP and UDP have each their own, as with docker. Named ports go first, then ranges, then the rest: whatever the order
//! of a request, none of its own choices stands in its way.
//!
//! A port is free if no publication catches the same packets and, over host sockets, if the host lets us bind it: one that
//! it says is in use is passed over, every other refusal ends the request. What is published by then is withdrawn.
//!
//! Flows are not asked. A masqueraded flow may have left by the very number that is chosen here, and another may later: a
//! packet is looked up by both its ends, so the two meet only if a client comes from the very address and port that the
//! flow goes to. Linux does not ask either.
//!
//! # Limits
//! [`TRIES`] random ports, then all others of the range in a row; [`REFUSALS`] binds of one request that the host may refuse.

use std::collections::VecDeque;

use super::command::{Applied, CommandError, HostPort, Publication, PublicationRequest};
use super::datapath::Datapath;
use super::flush::Progress;
use super::hash::Random;
use super::manage::{invalid, missing};
use super::nat::transport_name;
use super::port::PortId;
use super::socket::Failure;
use super::time::Instant;
use super::world::World;
use crate::wire::addr::Addr;

/// Random ports that are tried before those in a row.
const TRIES: u32 = 128;
/// Ports in use on the host that one request may meet: some 10 us of the loop's time each.
const REFUSALS: u32 = 1024;

/// Whom ports are published for.
struct Holder<'a> {
    name: &'a str,
    port: PortId,
    ip: Addr,
}

/// What one request has brought so far.
#[derive(Default)]
struct Taken {
    tags: Vec<u32>,
    refusals: u32,
}

/// The ports that may be chosen, in the order in which they are tried; a random one may come twice.
struct Candidates {
    first: u32,
    span: u32,
    /// Random ones still to come.
    random: u32,
    /// Of those in a row: where they begin, and how many are left.
    from: u32,
    left: u32,
}

impl Candidates {
    fn lowest_first(first: u16, last: u16) -> Candidates {
        let first = first.max(1);
        let span = u32::from(last.saturating_sub(first)) + 1;
        Candidates { first: first.into(), span, random: 0, from: 0, left: span }
    }

    fn at_random(first: u16, last: u16, random: &mut Random) -> Candidates {
        let all = Candidates::lowest_first(first, last);
        Candidates { random: TRIES, from: random.below(all.span), ..all }
    }

    fn next(&mut self, random: &mut Random) -> Option<u16> {
        let offset = if self.random > 0 {
            self.random -= 1;
            random.below(self.span)
        } else {
            self.left = self.left.checked_sub(1)?;
            self.from + self.span - 1 - self.left
        };
        Some((self.first + offset % self.span) as u16) // between first and last
    }
}

impl Datapath {
    /// Publishes all of `ports`, or none.
    pub(super) fn publish(
        &mut self,
        name: &str,
        ifname: Option<&str>,
        ports: &[PublicationRequest],
        now: Instant,
        world: &mut dyn World,
    ) -> Result<Applied, CommandError> {
        if ports.iter().any(|p| p.container_port == 0 || matches!(p.host_port, HostPort::Exactly(0))) {
            return Err(invalid("ports", "a port is 1 to 65535"));
        }
        if ports.iter().any(|p| matches!(p.host_port, HostPort::FirstOf(first, last) if first == 0 || first > last)) {
            return Err(invalid("ports", "a range is FIRST-LAST, from 1 to 65535"));
        }
        if let Some(foreign) = ports.iter().filter_map(|p| p.host_ip).find(|ip| !self.may_bind(*ip, world)) {
            return Err(invalid(
                "host address",
                format!("{foreign} is none of ours; leave it out or take the uplink's"),
            ));
        }
        let (port, ip) = self.reachable(name, ifname)?;
        self.nat.has_room(ports.len())?;
        let holder = Holder { name, port, ip };
        let mut taken = Taken::default();
        match self.publish_all(&holder, ports, &mut taken, now, world) {
            Ok(publications) => Ok(Applied::Published(publications)),
            Err(why) => {
                self.close_doors(&taken.tags, now, world);
                self.nat.withdraw_tags(taken.tags);
                Err(why)
            }
        }
    }

    /// Withdraws all of `ports`, or none, and drops the flows that came by them.
    pub(super) fn unpublish(
        &mut self,
        name: &str,
        ports: &[PublicationRequest],
        now: Instant,
        world: &mut dyn World,
    ) -> Result<Progress, CommandError> {
        let tags: Vec<u32> = self.nat.unpublish(name, ports)?.iter().map(|p| p.tag).collect();
        self.close_doors(&tags, now, world);
        Ok(self.remove_flows(Some(Vec::new()), tags, VecDeque::new(), 0, now, world))
    }

    /// The container's port and address that connections go to: the first behind a gateway.
    fn reachable(&self, name: &str, ifname: Option<&str>) -> Result<(PortId, Addr), CommandError> {
        let of_name: Vec<_> = self
            .ports
            .iter()
            .filter_map(|(id, p)| Some((id, p.attachment()?)))
            .filter(|(_, a)| a.name == name && ifname.is_none_or(|i| a.ifname == i))
            .collect();
        if of_name.is_empty() {
            return Err(missing("endpoint", name));
        }
        let reachable = of_name.iter().find_map(|(id, a)| {
            let net = self.network(a.network);
            (!net.config.internal && net.gateway().is_some()).then_some((*id, a.ip?))
        });
        reachable.ok_or_else(|| {
            let why = "no network of it has a gateway and a way out; attach it to one that has".to_owned();
            CommandError::Busy { what: "endpoint", name: name.to_owned(), why }
        })
    }

    /// May ports be published on `ip`?
    fn may_bind(&self, ip: Addr, world: &mut dyn World) -> bool {
        self.is_uplink_address(ip) || self.is_gateway(ip) || self.is_address_of_host(ip, world)
    }

    /// What has become of each of `ports`. After an error, `taken` is to be given back.
    fn publish_all(
        &mut self,
        holder: &Holder<'_>,
        ports: &[PublicationRequest],
        taken: &mut Taken,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<Vec<Publication>, CommandError> {
        let Holder { name, port, ip } = *holder;
        let of = |request: &PublicationRequest, host_port| Publication {
            proto: request.proto,
            host_ip: request.host_ip,
            host_port,
            container_port: request.container_port,
        };
        let mut publications: Vec<Option<Publication>> = ports
            .iter()
            .map(|request| match request.host_port {
                HostPort::Exactly(host_port) => Some(of(request, host_port)),
                HostPort::FirstOf(..) | HostPort::Random => None,
            })
            .collect();
        let named: Vec<Publication> = publications.iter().copied().flatten().collect();
        taken.tags = self.nat.publish(name, port, ip, &named)?;
        self.open_doors(&taken.tags, &named, port, ip, now, world)?;
        let has_range = |at: &usize| matches!(ports[*at].host_port, HostPort::FirstOf(..));
        let (ranges, others): (Vec<usize>, Vec<usize>) =
            (0..ports.len()).filter(|at| publications[*at].is_none()).partition(has_range);
        for at in ranges.into_iter().chain(others) {
            publications[at] = Some(self.publish_chosen(holder, &ports[at], taken, now, world)?);
        }
        Ok(publications.into_iter().flatten().collect())
    }

    /// Publishes a port whose number is ours to choose.
    fn publish_chosen(
        &mut self,
        holder: &Holder<'_>,
        request: &PublicationRequest,
        taken: &mut Taken,
        now: Instant,
        world: &mut dyn World,
    ) -> Result<Publication, CommandError> {
        let Holder { name, port, ip } = *holder;
        let PublicationRequest { proto, host_ip, host_port: asked, container_port } = *request;
        let (dynamic_first, dynamic_last) = (*self.dynamic_ports.start(), *self.dynamic_ports.end());
        let (first, last, mut candidates) = match asked {
            HostPort::Exactly(host) => (host, host, Candidates::lowest_first(host, host)),
            HostPort::FirstOf(first, last) => (first, last, Candidates::lowest_first(first, last)),
            HostPort::Random => {
                let all = Candidates::at_random(dynamic_first, dynamic_last, &mut self.random);
                (dynamic_first, dynamic_last, all)
            }
        };
        while let Some(host_port) = candidates.next(&mut self.random) {
            let publication = Publication { proto, host_ip, host_port, container_port };
            let Some(tag) = self.nat.publish_chosen(name, port, ip, publication, asked) else { continue };
            match self.open_doors(&[tag], &[publication], port, ip, now, world) {
                Ok(()) => {
                    taken.tags.push(tag);
                    return Ok(publication);
                }
                Err(why) => {
                    self.nat.withdraw_one(&publication, tag);
                    taken.refusals += 1;
                    let in_use = matches!(why, CommandError::Bind { failure: Failure::InUse, .. });
                    if !in_use || taken.refusals > REFUSALS {
                        return Err(why);
                    }
                }
            }
        }
        Err(CommandError::NoFreePort {
            host_ip: host_ip.unwrap_or(Addr::V4_UNSPECIFIED),
            first,
            last,
            proto: transport_name(proto),
            cure: match asked {
                HostPort::Random => "name a port of another range",
                HostPort::Exactly(_) | HostPort::FirstOf(..) => "give another range, or none",
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_port_of_a_range_is_tried_and_none_beside_it() {
        let mut random = Random::new([7; 16]);
        for (first, last) in [(1, 1), (32_768, 32_800), (65_535, 65_535), (1, 65_535)] {
            let mut candidates = Candidates::at_random(first, last, &mut random);
            let tried: Vec<u16> = std::iter::from_fn(|| candidates.next(&mut random)).collect();
            let all: BTreeSet<u16> = tried.iter().copied().collect();
            assert_eq!(tried.len(), TRIES as usize + all.len());
            assert_eq!(
                (all.first(), all.last(), all.len()),
                (Some(&first), Some(&last), usize::from(last - first) + 1)
            );
        }
        let mut candidates = Candidates::lowest_first(80, 83);
        let tried: Vec<u16> = std::iter::from_fn(|| candidates.next(&mut random)).collect();
        assert_eq!(tried, [80, 81, 82, 83]);
    }
}
