//! Address translation: which flows, to what, by which port.
//!
//! # Theory of operation
//! A flow sits in the table under two tuples, the one it was opened with and the one its replies carry. The second *is*
//! the mapping: translation edits the reply tuple of a `Tentative`, and committing it reserves the port. There is no
//! second table and no pool.
//!
//! ```text
//! masquerade   c1:40000 -> s:443            reply  s:443 -> UP:40000
//! published    x:51000 -> UP:8080           reply  c2:80 -> x:51000
//! hairpin      c1:40000 -> UP:8080          reply  c2:80 -> gateway:40000
//! ```
//!
//! The source port is kept when its reply tuple is free (RFC 4787 calls it port preservation). If it is not, the source's
//! last changed port is tried, so that one socket keeps one mapping for many destinations as far as possible
//! (Linux `find_appropriate_src`), then random ones of the same class (`nf_nat_core.c`: 1-511, 600-1023, the rest):
//! unguessable, and never a small step from the last (RFC 6056).
//!
//! # Limits
//! [`TRIES`] random ports and [`SWEEP`] in a row are looked at before a flow is refused: about 60 us at worst.
//!
//! # References
//! RFC 3022, 4787, 5382, 7857; Linux net/netfilter/nf_nat_core.c.

pub mod rewrite;

use hashbrown::HashMap;

use super::command::{CommandError, HostPort, Publication, PublicationRequest, StaticRule, Transport};
use super::conntrack::{FiveTuple, Table};
use super::hash::{Keyed, Random};
use super::port::PortId;
use super::time::Instant;
use crate::wire::addr::Addr;
use crate::wire::ip::proto;

/// Random ports that are tried.
const TRIES: u32 = 128;
/// Ports in a row, from a random one, that are tried after that.
const SWEEP: u32 = 512;
/// Sources whose changed port is remembered; an older one is overwritten.
const REMEMBERED: usize = 4096;
/// Published ports of all containers.
pub const MAX_PUBLISHED: usize = 65_536;
/// Static rules.
pub const MAX_RULES: usize = 1024;

/// Where a published port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// What it is.
    pub publication: Publication,
    /// How its port of the host was asked for.
    pub asked: HostPort,
    /// The container, for messages.
    pub name: String,
    /// Its port on the switch.
    pub port: PortId,
    /// Its address.
    pub ip: Addr,
    /// Marks the flows that came by it.
    pub tag: u32,
}

/// A new destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dnat {
    /// Address.
    pub ip: Addr,
    /// Port.
    pub port: u16,
    /// Marks the flow; 0: a static rule.
    pub tag: u32,
}

/// The changed port of a source.
#[derive(Clone, Copy)]
struct Remembered {
    src: Addr,
    sport: u16,
    proto: u8,
    changed: u16,
}

/// Rules and published ports.
pub struct Nat {
    published: HashMap<(Transport, u16), Vec<Published>, Keyed>,
    count: usize,
    next_tag: u32,
    /// In the order they were given.
    rules: Vec<StaticRule>,
    /// Addresses that fixed SNAT makes ours, sorted: asked for each packet of the uplink.
    aliases: Vec<Addr>,
    remembered: Box<[Option<Remembered>]>,
    key: Keyed,
    random: Random,
}

impl Nat {
    /// No rules. `key` and `random` decide which ports are chosen.
    pub fn new(key: Keyed, random: Random) -> Nat {
        Nat {
            published: HashMap::with_hasher(key.clone()),
            count: 0,
            next_tag: 1,
            rules: Vec::new(),
            aliases: Vec::new(),
            remembered: vec![None; REMEMBERED].into_boxed_slice(),
            key,
            random,
        }
    }

    /// Is there room for `more` published ports?
    pub fn has_room(&self, more: usize) -> Result<(), CommandError> {
        if self.count + more > MAX_PUBLISHED {
            return Err(CommandError::Full { what: "published ports", limit: MAX_PUBLISHED });
        }
        Ok(())
    }

    /// Publishes all of `ports`, which name their ports of the host, for a container, or none; their tags. There is
    /// [room](Nat::has_room).
    pub fn publish(
        &mut self,
        name: &str,
        port: PortId,
        ip: Addr,
        ports: &[Publication],
    ) -> Result<Vec<u32>, CommandError> {
        // Sorted, so that 50,000 ports are not each compared with all others while frames wait (Q04).
        let mut sorted: Vec<_> = ports.iter().collect();
        sorted.sort_by_key(|p| (p.proto, p.host_port));
        for same_number in sorted.chunk_by(|a, b| (a.proto, a.host_port) == (b.proto, b.host_port)) {
            for (at, wanted) in same_number.iter().enumerate() {
                let holder = self.holder(wanted).map(|p| p.name.clone());
                let twice = same_number[..at].iter().any(|p| conflicts(p, wanted)).then(|| name.to_owned());
                if let Some(holder) = holder.or(twice) {
                    return Err(CommandError::PortAllocated {
                        host_ip: wanted.host_ip.unwrap_or(Addr::V4_UNSPECIFIED),
                        port: wanted.host_port,
                        proto: transport_name(wanted.proto),
                        holder,
                    });
                }
            }
        }
        Ok(ports.iter().map(|p| self.enter(name, port, ip, *p, HostPort::Exactly(p.host_port))).collect())
    }

    /// Publishes one port whose number was chosen for what was `asked`; its tag. `None`: another publication has that port.
    /// There is [room](Nat::has_room).
    pub fn publish_chosen(
        &mut self,
        name: &str,
        port: PortId,
        ip: Addr,
        publication: Publication,
        asked: HostPort,
    ) -> Option<u32> {
        self.holder(&publication).is_none().then(|| self.enter(name, port, ip, publication, asked))
    }

    fn enter(&mut self, name: &str, port: PortId, ip: Addr, publication: Publication, asked: HostPort) -> u32 {
        let tag = self.next_tag;
        self.next_tag = self.next_tag.checked_add(1).unwrap_or(1);
        self.count += 1;
        let entry = Published { publication, asked, name: name.to_owned(), port, ip, tag };
        self.published.entry((publication.proto, publication.host_port)).or_default().push(entry);
        tag
    }

    /// Withdraws all of `ports` of the container, or none; what they were. One that does not name its port of the host is
    /// every port that was chosen for the same words.
    pub fn unpublish(&mut self, name: &str, ports: &[PublicationRequest]) -> Result<Vec<Published>, CommandError> {
        let missing = |wanted: &PublicationRequest| CommandError::Missing {
            what: "published port",
            name: format!("{} of {name}", request_words(wanted)),
        };
        let (mut named, mut chosen) = (Vec::new(), Vec::new());
        for wanted in ports {
            let PublicationRequest { proto, host_ip, host_port: HostPort::Exactly(host_port), .. } = *wanted else {
                chosen.push(words(wanted));
                continue;
            };
            let is_it = |p: &Published| p.name == name && p.publication.host_ip == host_ip;
            if !self.published.get(&(proto, host_port)).is_some_and(|entries| entries.iter().any(is_it)) {
                return Err(missing(wanted));
            }
            named.push((proto, host_port, host_ip));
        }
        named.sort_unstable();
        chosen.sort_unstable();
        chosen.dedup();
        let mut there = vec![false; chosen.len()];
        for p in self.published.values().flatten().filter(|p| p.name == name) {
            if let Ok(at) = chosen.binary_search(&words(&p.request())) {
                there[at] = true;
            }
        }
        let is_there = |wanted: &PublicationRequest| chosen.binary_search(&words(wanted)).is_ok_and(|at| there[at]);
        let is_named = |wanted: &PublicationRequest| matches!(wanted.host_port, HostPort::Exactly(_));
        if let Some(wanted) = ports.iter().find(|wanted| !is_named(wanted) && !is_there(wanted)) {
            return Err(missing(wanted));
        }
        Ok(self.withdraw(|p| {
            let Publication { proto, host_ip, host_port, .. } = p.publication;
            p.name == name
                && (named.binary_search(&(proto, host_port, host_ip)).is_ok()
                    || chosen.binary_search(&words(&p.request())).is_ok())
        }))
    }

    /// Withdraws all that leads to a port that is gone.
    pub fn withdraw_port(&mut self, port: PortId) -> Vec<Published> {
        self.withdraw(|p| p.port == port)
    }

    /// Withdraws the publications of these tags.
    pub fn withdraw_tags(&mut self, mut tags: Vec<u32>) {
        tags.sort_unstable();
        self.withdraw(|p| tags.binary_search(&p.tag).is_ok());
    }

    /// Withdraws one publication, without a look at the others.
    pub fn withdraw_one(&mut self, publication: &Publication, tag: u32) {
        let key = (publication.proto, publication.host_port);
        let Some(entries) = self.published.get_mut(&key) else { return };
        let before = entries.len();
        entries.retain(|p| p.tag != tag);
        self.count -= before - entries.len();
        if entries.is_empty() {
            self.published.remove(&key);
        }
    }

    /// All published ports, by number.
    pub fn list(&self) -> Vec<&Published> {
        let mut all: Vec<_> = self.published.values().flatten().collect();
        all.sort_unstable_by_key(|p| p.publication);
        all
    }

    /// Where a new flow to `dst:port` goes instead. `local`: is `dst` one of our own addresses (only those are
    /// published, S16)?
    pub fn destination(&self, tuple: &FiveTuple, local: bool) -> Option<Dnat> {
        let transport = match tuple.proto {
            proto::TCP => Transport::Tcp,
            proto::UDP => Transport::Udp,
            _ => return None,
        };
        if local
            && let Some(entries) = self.published.get(&(transport, tuple.dport))
            && let Some(p) = entries.iter().find(|p| p.publication.host_ip.is_none_or(|ip| ip == tuple.dst))
        {
            return Some(Dnat { ip: p.ip, port: p.publication.container_port, tag: p.tag });
        }
        self.rules.iter().find_map(|rule| match *rule {
            StaticRule::Dnat { proto, dst, port, to, to_port }
                if proto == transport && dst == tuple.dst && port == tuple.dport =>
            {
                Some(Dnat { ip: to, port: to_port, tag: 0 })
            }
            StaticRule::Dnat { .. } | StaticRule::Snat { .. } | StaticRule::NoNat { .. } => None,
        })
    }

    /// What a source that leaves for `dst` becomes: `None`: it stays; else a fixed address, or `masquerade` where that is
    /// wanted at all.
    pub fn source(&self, src: Addr, dst: Addr, masquerade: Option<Addr>) -> Option<Addr> {
        for rule in &self.rules {
            match *rule {
                StaticRule::NoNat { dst: prefix } if prefix.contains(dst) => return None,
                StaticRule::Snat { source, to } if source.contains(src) => return Some(to),
                StaticRule::NoNat { .. } | StaticRule::Snat { .. } | StaticRule::Dnat { .. } => {}
            }
        }
        masquerade
    }

    /// Is `dst` exempt from translation?
    pub fn is_exempt(&self, dst: Addr) -> bool {
        self.rules.iter().any(|rule| matches!(rule, StaticRule::NoNat { dst: prefix } if prefix.contains(dst)))
    }

    /// Is `addr` one that a fixed SNAT makes ours?
    #[inline]
    pub fn is_alias(&self, addr: Addr) -> bool {
        self.aliases.binary_search(&addr).is_ok()
    }

    /// The addresses that fixed SNAT makes ours, sorted.
    pub fn aliases(&self) -> &[Addr] {
        &self.aliases
    }

    /// Static rules, in the order they were given.
    pub fn rules(&self) -> &[StaticRule] {
        &self.rules
    }

    /// Adds a static rule behind the others.
    pub fn add_rule(&mut self, rule: StaticRule) {
        self.rules.push(rule);
        self.find_aliases();
    }

    /// Removes a static rule; was it there?
    pub fn remove_rule(&mut self, rule: &StaticRule) -> bool {
        let Some(at) = self.rules.iter().position(|r| r == rule) else { return false };
        self.rules.remove(at);
        self.find_aliases();
        true
    }

    fn find_aliases(&mut self) {
        let fixed = |rule: &StaticRule| match *rule {
            StaticRule::Snat { to, .. } => Some(to),
            StaticRule::Dnat { .. } | StaticRule::NoNat { .. } => None,
        };
        self.aliases = self.rules.iter().filter_map(fixed).collect();
        self.aliases.sort_unstable();
    }

    /// Chooses the port of a translated source: edits `reply.dport` until the reply tuple is free. `false`: there is
    /// none. `src`, `sport`: the source before translation.
    pub fn choose_port(
        &mut self,
        flows: &mut Table,
        src: Addr,
        sport: u16,
        reply: &mut FiveTuple,
        now: Instant,
    ) -> bool {
        let ported = matches!(reply.proto, proto::TCP | proto::UDP | proto::ICMP);
        reply.dport = sport;
        if !ported {
            return !flows.in_use(reply, now);
        }
        let slot = self.key_slot(src, sport, reply.proto);
        // A source that stays as it is has no mapping to keep: it changes only where it must.
        let stays = reply.dst == src;
        if stays && !flows.in_use(reply, now) {
            return true;
        }
        // An ICMP id that equals type and code makes question and answer the same tuple.
        let mut is_free =
            |reply: &FiveTuple| (reply.proto != proto::ICMP || reply.dport != reply.sport) && !flows.in_use(reply, now);
        if let Some(known) = self.remembered[slot]
            && (known.src, known.sport, known.proto) == (src, sport, reply.proto)
        {
            reply.dport = known.changed;
            if is_free(reply) {
                return true;
            }
            reply.dport = sport;
        }
        if is_free(reply) {
            return true;
        }
        let (low, high) = port_class(reply.proto, sport);
        let span = high - low + 1;
        let mut try_port = |offset: u32| {
            reply.dport = (low + offset % span) as u16; // low..=high are ports
            is_free(reply)
        };
        let found = (0..TRIES).any(|_| try_port(self.random.below(span))) || {
            let from = self.random.below(span);
            (0..SWEEP.min(span)).any(|step| try_port(from + step))
        };
        if found {
            self.remembered[slot] = Some(Remembered { src, sport, proto: reply.proto, changed: reply.dport });
        }
        found
    }

    fn key_slot(&self, src: Addr, sport: u16, proto: u8) -> usize {
        use std::hash::BuildHasher;
        self.key.hash_one((src.octets(), sport, proto)) as usize % REMEMBERED
    }

    fn holder(&self, wanted: &Publication) -> Option<&Published> {
        self.published.get(&(wanted.proto, wanted.host_port))?.iter().find(|p| conflicts(&p.publication, wanted))
    }

    fn withdraw(&mut self, gone: impl Fn(&Published) -> bool) -> Vec<Published> {
        let mut withdrawn = Vec::new();
        self.published.retain(|_, entries| {
            withdrawn.extend(entries.extract_if(.., |p| gone(p)));
            !entries.is_empty()
        });
        self.count -= withdrawn.len();
        withdrawn.sort_unstable_by_key(|p| p.publication);
        withdrawn
    }
}

/// The range a changed port is taken from (nf_nat_core.c `nf_nat_l4proto_unique_tuple`; RFC 4787 REQ-3 a): privileged
/// sources stay privileged. An ICMP id may be any number.
fn port_class(proto: u8, port: u16) -> (u32, u32) {
    match (proto, port) {
        (proto::ICMP, _) => (0, 65_535),
        (_, 0..=511) => (1, 511),
        (_, 512..=1023) => (600, 1023),
        (_, 1024..) => (1024, 65_535),
    }
}

/// Would both bindings catch the same packet?
fn conflicts(a: &Publication, b: &Publication) -> bool {
    let overlap = match (a.host_ip, b.host_ip) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    a.proto == b.proto && a.host_port == b.host_port && overlap
}

impl Published {
    fn request(&self) -> PublicationRequest {
        let Publication { proto, host_ip, container_port, .. } = self.publication;
        PublicationRequest { proto, host_ip, host_port: self.asked, container_port }
    }
}

/// All that a request says, in an order.
fn words(p: &PublicationRequest) -> (Transport, HostPort, Option<Addr>, u16) {
    (p.proto, p.host_port, p.host_ip, p.container_port)
}

/// A request, for messages.
fn request_words(p: &PublicationRequest) -> String {
    let (container, proto) = (p.container_port, transport_name(p.proto));
    match p.host_port {
        HostPort::Exactly(host) => format!("{host}/{proto}"),
        HostPort::FirstOf(first, last) => format!("{first}-{last}:{container}/{proto}"),
        HostPort::Random => format!(":{container}/{proto}"),
    }
}

/// The lower-case name.
pub fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}
