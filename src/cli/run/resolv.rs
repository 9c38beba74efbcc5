//! Name servers for CMD.
//!
//! # Theory of operation
//! CMD is in another network namespace, so a resolver on the host's loopback (systemd-resolved, dnsmasq) is not there.
//! If the host's resolv.conf names such servers, CMD gets another one: without them, or, if none is left, the one in
//! which systemd-resolved keeps the servers that it asks itself; docker does the same.
//!
//! The new file is mounted over the old one in CMD's own mount namespace. It lies in a tmpfs that was mounted over /etc
//! for that moment, in which CMD's process is alone in there, so nothing of it is ever seen by anybody else.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::wire::addr::{Addr, Cidr};

/// resolv.conf(5).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// systemd-resolved(8): the servers that it knows, instead of itself.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// What becomes of resolv.conf.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice {
    /// It serves as it is.
    Keep,
    Replace(String),
    /// None of its servers can be reached from inside.
    Unreachable,
}

/// Chooses: `dns` if there is any, or else what `read` finds that can be reached from inside `subnet`.
pub fn choose(
    dns: &[Addr],
    subnet: Option<Cidr>,
    may_reach: impl Fn(Addr) -> bool,
    read: impl Fn(&str) -> Option<String>,
) -> Choice {
    let is_reached = |server: &str| is_reached(server, subnet, &may_reach);
    let own = read(RESOLV_CONF).unwrap_or_default();
    if !dns.is_empty() {
        return Choice::Replace(with_servers(&own, dns.iter().map(ToString::to_string)));
    }
    let all: Vec<&str> = servers(&own).collect();
    let reached: Vec<&str> = all.iter().copied().filter(|server| is_reached(server)).collect();
    if !reached.is_empty() {
        return if reached.len() == all.len() { Choice::Keep } else { Choice::Replace(with_servers(&own, reached)) };
    }
    let resolved = read(RESOLVED).unwrap_or_default();
    let mut reached = servers(&resolved).filter(|server| is_reached(server)).peekable();
    match reached.peek() {
        Some(_) => Choice::Replace(with_servers(&own, reached)),
        None => Choice::Unreachable,
    }
}

/// The value of each `nameserver`.
fn servers(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    })
}

/// Whether this server can be one from inside: there is IPv4 alone, loopback and the subnet are others, and the uplink lets
/// reach it.
fn is_reached(server: &str, subnet: Option<Cidr>, may_reach: impl Fn(Addr) -> bool) -> bool {
    server.parse::<Ipv4Addr>().is_ok_and(|server| {
        let here = server.is_loopback() || server.is_unspecified() || server.is_multicast();
        let server = Addr::from(IpAddr::from(server));
        !here && subnet.is_none_or(|subnet| !subnet.contains(server)) && may_reach(server)
    })
}

/// `text` with these name servers instead of its own.
fn with_servers(text: &str, servers: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    let kept = text.lines().filter(|line| {
        let first = line.split_ascii_whitespace().next();
        first.is_some_and(|word| word != "nameserver" && !word.starts_with(['#', ';']))
    });
    let mut new: String = servers.into_iter().map(|server| format!("nameserver {server}\n")).collect();
    for line in kept {
        new.push_str(line);
        new.push('\n');
    }
    new
}

/// Gives this mount namespace, in which nobody else is yet, another resolv.conf.
pub fn replace(text: &str) -> Result<(), String> {
    // Where the name leads, by however many symbolic links; held, because /etc is covered next.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = rustix::fs::open(RESOLV_CONF, flags, Mode::empty())
        .map_err(|error| format!("{RESOLV_CONF} leads nowhere ({error}); make one on the host"))?;
    let etc = Path::new(RESOLV_CONF).parent().unwrap_or(Path::new("/"));
    let cover = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("pontoon", etc, "tmpfs", cover, Some(c"mode=0755"))
        .map_err(|error| format!("cannot mount a tmpfs: {error}"))?;
    let made = write_new(text).and_then(|()| {
        // The link of an open file leads to its very mount and inode.
        let place = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place));
        Ok(rustix::mount::mount_bind(RESOLV_CONF, place.as_str())?)
    });
    let uncovered = rustix::mount::unmount(etc, UnmountFlags::DETACH);
    made.map_err(|error| format!("cannot mount it over {RESOLV_CONF}: {error}"))?;
    uncovered.map_err(|error| format!("cannot uncover {}: {error}", etc.display()))
}

fn write_new(text: &str) -> io::Result<()> {
    let mode = Mode::from_raw_mode(0o644);
    let file = rustix::fs::open(RESOLV_CONF, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, mode)?;
    // Whatever the umask has taken away of it.
    rustix::fs::fchmod(&file, mode)?;
    std::fs::File::from(file).write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(own: &str, resolved: Option<&str>) -> Choice {
        let subnet = "172.17.0.0/16".parse().ok();
        let may_reach = |addr: Addr| addr.to_string() != "169.254.1.1";
        choose(&[], subnet, may_reach, |path| match path {
            RESOLV_CONF => Some(own.to_owned()),
            RESOLVED => resolved.map(str::to_owned),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn servers_that_can_be_reached_stay() {
        assert_eq!(chosen("nameserver 192.0.2.53\nsearch example.org\n", None), Choice::Keep);
    }

    #[test]
    fn those_on_loopback_the_subnet_of_ipv6_and_that_may_not_be_reached_go() {
        let own = "# of the host\nsearch example.org\nnameserver 127.0.0.53\nnameserver 169.254.1.1\nnameserver 172.17.0.1\n\
                   nameserver fe80::1%eth0\nnameserver 2001:db8::53\nnameserver  192.0.2.53\noptions edns0\n";
        let new = "nameserver 192.0.2.53\nsearch example.org\noptions edns0\n";
        assert_eq!(chosen(own, None), Choice::Replace(new.into()));
    }

    #[test]
    fn behind_a_stub_are_the_servers_that_it_asks() {
        let own = "nameserver 127.0.0.53\noptions trust-ad\n";
        let behind = "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch ignored.example\n";
        assert_eq!(chosen(own, Some(behind)), Choice::Replace("nameserver 192.0.2.53\noptions trust-ad\n".into()));
        assert_eq!(chosen(own, Some("nameserver 127.0.0.1\n")), Choice::Unreachable);
        assert_eq!(chosen(own, None), Choice::Unreachable);
        assert_eq!(chosen("", None), Choice::Unreachable, "resolv.conf(5): none is the local host");
    }

    #[test]
    fn what_is_asked_for_is_taken_wherever_it_is() {
        let dns = ["127.0.0.1", "192.0.2.1"].map(|one| Addr::parse(one).expect(one));
        let own = "nameserver 198.51.100.1\nsearch example.org";
        let new = "nameserver 127.0.0.1\nnameserver 192.0.2.1\nsearch example.org\n";
        assert_eq!(choose(&dns, None, |_| false, |_| Some(own.into())), Choice::Replace(new.into()));
    }
}
