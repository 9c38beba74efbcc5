//! What a container may not reach through the host's sockets.
//!
//! # Theory of operation
//! A host socket is not a hop: what the host itself may reach, a container would reach, too, and some of that trusts
//! whoever is on the machine. So every address is looked at before it is dialled, and each kind of address that is not an
//! ordinary one has one switch, or none:
//!
//! | addresses | |
//! |---|---|
//! | 0.0.0.0/8, `::/96` but `::1`, IPv4-mapped ones | `connect` takes them for the host's loopback (measured): never |
//! | 127.0.0.0/8, `::1` | only by [`Config::host_loopback`], an address that stands for it, and by static rules (S38) |
//! | cloud metadata ([`METADATA`]) | [`Config::allow_metadata`]: there is no hop that IMDSv2's hop limit would count |
//! | 169.254.0.0/16, `fe80::/10` | never; a static rule may lead there |
//! | multicast | never; the router has dropped it before, for it stays on its link (R12) |
//! | 240.0.0.0/4 | never |
//! | broadcast, of any link of the host | never |
//! | the host's own | [`Config::allow_host_addresses`]: allowed, as docker does, though its INPUT rules do not see who comes |
//!
//! An IPv4-mapped IPv6 address is an IPv4 address here ([`Addr`]), and judged as such.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::core::counters::DropReason;
use crate::core::icmp::Complaint;
use crate::core::socket::RouteKind;
use crate::wire::addr::Addr;

/// Addresses of services that tell a machine its secrets: of AWS, Azure, Google and others (the first), of tasks and pods
/// on AWS, Azure's second, Alibaba.
pub const METADATA: [IpAddr; 8] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

/// The switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// An address that leads to 127.0.0.1, or to ::1 if it is an IPv6 one; it may be the gateway's own.
    pub host_loopback: Option<Addr>,
    /// [`METADATA`].
    pub allow_metadata: bool,
    /// The host's own addresses.
    pub allow_host_addresses: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { host_loopback: None, allow_metadata: false, allow_host_addresses: true }
    }
}

/// What is to be done with a packet to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it there; that may be another address than it is addressed to.
    Dial(Addr),
    /// It ends here.
    Refuse(Reason),
}

/// Why an address is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// 0.0.0.0/8, `::/96`.
    Unspecified,
    /// 127.0.0.0/8, `::1`.
    Loopback,
    /// A metadata service.
    Metadata,
    /// Of one link.
    LinkLocal,
    /// A group.
    Multicast,
    /// All hosts of a link.
    Broadcast,
    /// 240.0.0.0/4.
    Reserved,
    /// The host's own.
    HostAddress,
    /// The host knows no way.
    NoRoute,
}

impl Reason {
    /// What the sender is told: a host's refusal looks like that of a filter (RFC 1812 5.2.7.1), or of a router.
    pub const fn complaint(self) -> Complaint {
        match self {
            Reason::NoRoute => Complaint::NetworkUnreachable,
            Reason::Unspecified
            | Reason::Loopback
            | Reason::Metadata
            | Reason::LinkLocal
            | Reason::Multicast
            | Reason::Broadcast
            | Reason::Reserved
            | Reason::HostAddress => Complaint::Prohibited,
        }
    }

    /// How it is counted.
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Reason::NoRoute => DropReason::NoRoute,
            Reason::Multicast | Reason::Broadcast => DropReason::Broadcast,
            Reason::Unspecified
            | Reason::Loopback
            | Reason::Metadata
            | Reason::LinkLocal
            | Reason::Reserved
            | Reason::HostAddress => DropReason::NotAllowed,
        }
    }

    /// One line for a log: what it is, and which switch would allow it.
    pub const fn meaning(self) -> &'static str {
        match self {
            Reason::Unspecified => "an unspecified address, which the host takes for its loopback",
            Reason::Loopback => "a loopback address; --host-loopback gives the host's an address of its own",
            Reason::Metadata => "the address of a cloud's metadata service, which is not allowed",
            Reason::LinkLocal => "a link-local address; a static rule may lead there",
            Reason::Multicast => "a multicast address, which stays on its link",
            Reason::Broadcast => "a broadcast address",
            Reason::Reserved => "an address of the reserved 240.0.0.0/4",
            Reason::HostAddress => "an address of the host itself, which is not allowed",
            Reason::NoRoute => "an address that the host knows no way to",
        }
    }
}

/// The rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Policy {
    config: Config,
}

impl Policy {
    /// The rules with these switches.
    pub fn new(config: Config) -> Policy {
        Policy { config }
    }

    /// The address that stands for the host's loopback.
    pub fn host_loopback(&self) -> Option<Addr> {
        self.config.host_loopback
    }

    /// Does an address stand for the host's loopback? Asked before an address of the gateway is taken for the gateway.
    pub fn is_host_loopback(&self, dst: Addr) -> bool {
        self.config.host_loopback == Some(dst)
    }

    /// Where a static rule to `to` leads: an operator's word, so no switch is asked.
    pub fn named(&self, to: Addr) -> Addr {
        if !self.is_host_loopback(to) {
            to
        } else if to.is_v4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            IpAddr::V6(Ipv6Addr::LOCALHOST).into()
        }
    }

    /// May a container reach `dst`, which the host takes for `kind`, and where?
    pub fn decide(&self, dst: Addr, kind: RouteKind) -> Decision {
        let config = &self.config;
        if self.is_host_loopback(dst) {
            return Decision::Dial(self.named(dst));
        }
        let allowed = match special(dst) {
            None => Ok(()),
            Some(why) => {
                let allowed = match why {
                    Reason::Metadata => config.allow_metadata,
                    Reason::HostAddress => config.allow_host_addresses,
                    Reason::Unspecified
                    | Reason::Loopback
                    | Reason::LinkLocal
                    | Reason::Reserved
                    | Reason::Multicast
                    | Reason::Broadcast
                    | Reason::NoRoute => false,
                };
                if allowed { Ok(()) } else { Err(why) }
            }
        };
        let route = match kind {
            RouteKind::Unicast => Ok(()),
            RouteKind::Local if config.allow_host_addresses => Ok(()),
            RouteKind::Local => Err(Reason::HostAddress),
            RouteKind::Broadcast => Err(Reason::Broadcast),
            RouteKind::Unreachable => Err(Reason::NoRoute),
        };
        match allowed.and(route) {
            Ok(()) => Decision::Dial(dst),
            Err(why) => Decision::Refuse(why),
        }
    }
}

/// What an address is by itself, if not an ordinary one.
pub fn special(addr: Addr) -> Option<Reason> {
    if METADATA.contains(&addr.into()) {
        return Some(Reason::Metadata);
    }
    match addr.as_v4() {
        Some([0, ..]) => Some(Reason::Unspecified),
        Some([127, ..]) => Some(Reason::Loopback),
        Some([169, 254, ..]) => Some(Reason::LinkLocal),
        Some([255, 255, 255, 255]) => Some(Reason::Broadcast),
        Some([224..=239, ..]) => Some(Reason::Multicast),
        Some([240..=255, ..]) => Some(Reason::Reserved),
        Some(_) => None,
        None => match addr.octets() {
            octets if *octets == Ipv6Addr::LOCALHOST.octets() => Some(Reason::Loopback),
            octets if octets[..12] == [0; 12] => Some(Reason::Unspecified),
            [0xff, ..] => Some(Reason::Multicast),
            [0xfe, second, ..] if second & 0xc0 == 0x80 => Some(Reason::LinkLocal),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Reason::{Broadcast, HostAddress, LinkLocal, Loopback, Metadata, Multicast, NoRoute, Reserved, Unspecified};

    /// First and last of every range, and its neighbours on both sides.
    const EDGES: [(&str, Option<Reason>); 60] = [
        ("0.0.0.0", Some(Unspecified)),
        ("0.255.255.255", Some(Unspecified)),
        ("1.0.0.0", None),
        ("10.0.0.1", None),
        ("100.100.100.199", None),
        ("100.100.100.200", Some(Metadata)),
        ("100.100.100.201", None),
        ("126.255.255.255", None),
        ("127.0.0.0", Some(Loopback)),
        ("127.0.0.1", Some(Loopback)),
        ("127.255.255.255", Some(Loopback)),
        ("128.0.0.0", None),
        ("168.63.129.15", None),
        ("168.63.129.16", Some(Metadata)),
        ("168.63.129.17", None),
        ("169.253.255.255", None),
        ("169.254.0.0", Some(LinkLocal)),
        ("169.254.169.253", Some(LinkLocal)),
        ("169.254.169.254", Some(Metadata)),
        ("169.254.169.255", Some(LinkLocal)),
        ("169.254.170.2", Some(Metadata)),
        ("169.254.170.23", Some(Metadata)),
        ("169.254.255.255", Some(LinkLocal)),
        ("169.255.0.0", None),
        ("223.255.255.255", None),
        ("224.0.0.0", Some(Multicast)),
        ("239.255.255.255", Some(Multicast)),
        ("240.0.0.0", Some(Reserved)),
        ("255.255.255.254", Some(Reserved)),
        ("255.255.255.255", Some(Broadcast)),
        ("::", Some(Unspecified)),
        ("::1", Some(Loopback)),
        ("::2", Some(Unspecified)),
        ("::127.0.0.1", Some(Unspecified)),
        ("::ffff:ffff", Some(Unspecified)),
        ("::1:0:0", None),
        ("::ffff:0.0.0.0", Some(Unspecified)),
        ("::ffff:127.0.0.1", Some(Loopback)),
        ("::ffff:169.254.169.254", Some(Metadata)),
        ("::ffff:255.255.255.255", Some(Broadcast)),
        ("::ffff:198.51.100.1", None),
        ("64:ff9b::c633:6401", None),
        ("2001:db8::1", None),
        ("fd00:ec2::22", None),
        ("fd00:ec2::23", Some(Metadata)),
        ("fd00:ec2::24", None),
        ("fd00:ec2::253", None),
        ("fd00:ec2::254", Some(Metadata)),
        ("fd00:ec2::255", None),
        ("fd20:ce::253", None),
        ("fd20:ce::254", Some(Metadata)),
        ("fd20:ce::255", None),
        ("fdff:ffff::1", None),
        ("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
        ("fe80::", Some(LinkLocal)),
        ("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(LinkLocal)),
        ("fec0::", None),
        ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
        ("ff00::", Some(Multicast)),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some(Multicast)),
    ];

    const CLOSED: Config = Config { host_loopback: None, allow_metadata: false, allow_host_addresses: false };

    const OPEN: Config = Config { host_loopback: None, allow_metadata: true, allow_host_addresses: true };

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn every_range_begins_and_ends_where_it_should() {
        for (text, reason) in EDGES {
            let want = reason.map_or(Decision::Dial(addr(text)), Decision::Refuse);
            assert_eq!(Policy::new(CLOSED).decide(addr(text), RouteKind::Unicast), want, "{text}");
            assert_eq!(Policy::default().decide(addr(text), RouteKind::Unicast), want, "{text} by default");
        }
    }

    #[test]
    fn the_switch_of_metadata_allows_metadata_and_nothing_else() {
        let config = Config { allow_metadata: true, ..CLOSED };
        for (text, reason) in EDGES {
            let want = match reason {
                Some(why) if why != Metadata => Decision::Refuse(why),
                _ => Decision::Dial(addr(text)),
            };
            assert_eq!(Policy::new(config).decide(addr(text), RouteKind::Unicast), want, "{text}");
        }
    }

    #[test]
    fn all_other_kinds_have_no_switch() {
        for (text, reason) in EDGES {
            let want = match reason {
                None | Some(Metadata) => Decision::Dial(addr(text)),
                Some(why) => Decision::Refuse(why),
            };
            assert_eq!(Policy::new(OPEN).decide(addr(text), RouteKind::Unicast), want, "{text}");
        }
    }

    #[test]
    fn host_says_what_is_its_own_a_broadcast_and_out_of_reach() {
        let lan = addr("192.0.2.10");
        assert_eq!(Policy::new(CLOSED).decide(lan, RouteKind::Local), Decision::Refuse(HostAddress));
        assert_eq!(Policy::default().decide(lan, RouteKind::Local), Decision::Dial(lan));
        assert_eq!(Policy::new(OPEN).decide(lan, RouteKind::Broadcast), Decision::Refuse(Broadcast));
        assert_eq!(Policy::new(OPEN).decide(lan, RouteKind::Unreachable), Decision::Refuse(NoRoute));
        // The host's own address of a kind that is closed needs both switches.
        let own = addr("169.254.169.254");
        assert_eq!(Policy::new(OPEN).decide(own, RouteKind::Local), Decision::Dial(own));
        let metadata = Config { allow_metadata: true, ..CLOSED };
        assert_eq!(Policy::new(metadata).decide(own, RouteKind::Local), Decision::Refuse(HostAddress));
        assert_eq!(Policy::default().decide(addr("127.0.0.1"), RouteKind::Local), Decision::Refuse(Loopback));
    }

    #[test]
    fn refusal_is_told_as_a_filters_but_for_a_missing_route() {
        assert_eq!((NoRoute.complaint(), NoRoute.drop_reason()), (Complaint::NetworkUnreachable, DropReason::NoRoute));
        assert_eq!((Loopback.complaint(), Loopback.drop_reason()), (Complaint::Prohibited, DropReason::NotAllowed));
        assert_eq!(Multicast.drop_reason(), DropReason::Broadcast);
    }

    #[test]
    fn one_address_stands_for_the_hosts_loopback() {
        for (stands, loopback) in [("172.17.0.1", "127.0.0.1"), ("169.254.1.2", "127.0.0.1"), ("fd00::2", "::1")] {
            let policy = Policy::new(Config { host_loopback: Some(addr(stands)), ..CLOSED });
            for kind in [RouteKind::Unicast, RouteKind::Local, RouteKind::Unreachable] {
                assert_eq!(policy.decide(addr(stands), kind), Decision::Dial(addr(loopback)));
            }
            assert_eq!(policy.decide(addr(loopback), RouteKind::Local), Decision::Refuse(Loopback));
        }
    }
}
