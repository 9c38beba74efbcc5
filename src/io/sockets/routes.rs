//! What the host takes an address for, by its routing.
//!
//! # Theory of operation
//! RTM_GETROUTE asks the kernel which route it would use, rules and all, and needs no privilege. An answer is kept until
//! anything about links, addresses, routes or rules changes: a second netlink socket, which the event loop watches, hears
//! of that, and then every answer is forgotten.
//!
//! # Limits
//! [`ANSWERS`] answers are kept; when there are more, all are forgotten.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;

use crate::core::socket::RouteKind;
use crate::io::netcfg::Netlink;
use crate::wire::addr::Addr;

/// Answers that are kept.
const ANSWERS: usize = 4096;
/// Groups of changes (`enum rtnetlink_groups`): links, and addresses, routes and rules of both families. That a link
/// goes down takes its IPv4 routes away without another word.
const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// Asks, and remembers.
#[derive(Debug)]
pub struct Routes {
    asker: Netlink,
    changes: Socket,
    known: HashMap<Addr, RouteKind>,
}

impl Routes {
    /// Of the calling thread's network namespace.
    pub fn open() -> io::Result<Routes> {
        let mut changes = Socket::new(NETLINK_ROUTE)?;
        changes.bind_auto()?;
        for group in GROUPS {
            changes.add_membership(group)?;
        }
        changes.set_non_blocking(true)?;
        Ok(Routes { asker: Netlink::open()?, changes, known: HashMap::new() })
    }

    /// What tells of changes.
    pub fn fd(&self) -> RawFd {
        self.changes.as_raw_fd()
    }

    /// Forgets everything if something has changed.
    pub fn changed(&mut self) {
        let mut ignored = [0; 8192];
        loop {
            match self.changes.recv(&mut &mut ignored[..], 0) {
                Ok(_) => self.known.clear(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // ENOBUFS: more has changed than the queue could hold.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => self.known.clear(),
                Err(error) => {
                    log::warn!("cannot hear of changes to the host's routes: {error}");
                    self.known.clear();
                    return;
                }
            }
        }
    }

    pub fn kind(&mut self, addr: Addr) -> RouteKind {
        if let Some(&kind) = self.known.get(&addr) {
            return kind;
        }
        let kind = self.ask(addr);
        if self.known.len() >= ANSWERS {
            self.known.clear();
        }
        self.known.insert(addr, kind);
        kind
    }

    fn ask(&mut self, addr: Addr) -> RouteKind {
        let ip = IpAddr::from(addr);
        if ip.is_unspecified() {
            return RouteKind::Local; // connect() to it reaches the host itself
        }
        if addr == Addr::V4_BROADCAST {
            return RouteKind::Broadcast; // without a default route the kernel would not know
        }
        let mut message = RouteMessage::default();
        let v4 = addr.is_v4();
        message.header.address_family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.destination_prefix_length = if v4 { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(ip.into()));
        match self.asker.request(RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(answers) => answers
                .into_iter()
                .find_map(|answer| match answer {
                    RouteNetlinkMessage::NewRoute(route) => Some(kind_of(route.header.kind)),
                    _ => None,
                })
                .unwrap_or(RouteKind::Unreachable),
            // ENETUNREACH: no route; EHOSTUNREACH, EACCES, EINVAL: unreachable, prohibit, blackhole (`fib_props`).
            Err(_) => RouteKind::Unreachable,
        }
    }
}

fn kind_of(kind: RouteType) -> RouteKind {
    match kind {
        // An anycast address of ours is answered by the host itself.
        RouteType::Local | RouteType::Anycast => RouteKind::Local,
        RouteType::Broadcast => RouteKind::Broadcast,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            RouteKind::Unreachable
        }
        _ => RouteKind::Unicast,
    }
}
