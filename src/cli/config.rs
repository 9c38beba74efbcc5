//! The configuration file of `pontoon switch`, and what it and the command line together ask for.
//!
//! # Theory of operation
//! [`File`] is the file as written; [`Settings`] is what the switch runs with: options over the file over defaults. All
//! of it is judged before anything starts: each field when it is read, and the whole by a rehearsal, in which a core of
//! its own, without devices, is given every command in the order in which the real one will get them.
//! An error names the line, also that of a key which only the whole shows to be wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::control::protocol::{Level, NetworkSpec, Route, Rule};
use crate::core::command::{Command, CommandError, UplinkConfig};
use crate::core::conntrack::{self, LIMIT_MAX, Timeouts};
use crate::core::datapath::{self, Datapath};
use crate::core::port::PortId;
use crate::core::split::policy;
use crate::core::time::Instant;
use crate::core::world::{Sent, World};
use crate::frame::FrameOut;
use crate::io::sockets;
use crate::io::sys::tuntap;
use crate::wire::addr::{Addr, Cidr};

/// The longest file, bytes.
const MAX_FILE: u64 = 1 << 20;

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub switch: SwitchSection,
    pub timeouts: Timeouts,
    pub network: Vec<Spanned<NetworkSpec>>,
    pub rule: Vec<Spanned<Rule>>,
    pub route: Vec<Spanned<Route>>,
}

/// `[switch]`: each key is the option of that name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwitchSection {
    pub control: Option<Spanned<PathBuf>>,
    pub log: Option<Level>,
    pub pcap: Option<Spanned<PathBuf>>,
    pub flow_limit: Option<Spanned<u32>>,
    pub flow_quota: Option<Spanned<u32>>,
    /// TCP outside the window passes (`nf_conntrack_tcp_be_liberal`).
    pub tcp_liberal: Option<bool>,
    /// An ACK may begin a flow (`nf_conntrack_tcp_loose`).
    pub tcp_loose: Option<bool>,
    /// Forward between networks and the uplink (`ip_forward`).
    pub forward: Option<bool>,
    pub uplink: Option<Spanned<UplinkChoice>>,
    /// Of an uplink over sockets.
    pub sockets: SocketsSection,
}

/// `[switch.sockets]`: each key is the option of that name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketsSection {
    pub outbound_address: Vec<Spanned<Addr>>,
    pub outbound_interface: Option<Spanned<String>>,
    pub host_loopback: Vec<Spanned<Addr>>,
    pub allow_metadata: Option<bool>,
    pub host_addresses: Option<bool>,
}

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

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {why}")]
pub struct ConfigError {
    origin: Origin,
    why: String,
}

/// Where something was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Line(PathBuf, usize),
    /// A table, and the lines of the keys in it and below.
    Table(PathBuf, usize, BTreeMap<String, usize>),
    File(PathBuf),
    Option(&'static str),
    /// Nobody asked for it.
    Default(&'static str),
}

impl Origin {
    /// The key's own line, if this is a table of the file that has it.
    fn of_key(&self, key: &str) -> Origin {
        match self {
            Origin::Table(path, line, keys) => Origin::Line(path.clone(), *keys.get(key).unwrap_or(line)),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Line(path, line) | Origin::Table(path, line, _) => write!(f, "{} line {line}", path.display()),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Option(option) => f.write_str(option),
            Origin::Default(what) => write!(f, "default {what}"),
        }
    }
}

/// A file with its text, so that a place in it is a line.
#[derive(Debug, Default)]
pub struct Source {
    path: PathBuf,
    text: String,
    /// Where lines end.
    ends: Vec<usize>,
    keys: Keys,
}

/// A place in the text.
type Place = (usize, usize);

/// Where the keys of a file are.
#[derive(Debug, Default)]
struct Keys {
    /// Of each table the keys in it and in tables below, and where they begin.
    tables: BTreeMap<Place, Vec<(String, usize)>>,
    /// Of each value that is no table its key.
    values: BTreeMap<Place, String>,
}

impl Keys {
    fn of(text: &str) -> Keys {
        let mut keys = Keys::default();
        // What cannot be read is told elsewhere.
        if let Ok(root) = DeTable::parse(text) {
            keys.add(root.span(), root.get_ref());
        }
        keys
    }

    fn add(&mut self, span: Range<usize>, table: &DeTable<'_>) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for (key, value) in table {
            found.push((key.get_ref().to_string(), key.span().start));
            match value.get_ref() {
                DeValue::Table(below) => found.extend(self.add(value.span(), below)),
                DeValue::Array(all) if all.iter().any(|one| matches!(one.get_ref(), DeValue::Table(_))) => {
                    for one in all {
                        if let DeValue::Table(below) = one.get_ref() {
                            self.add(one.span(), below);
                        }
                    }
                }
                _ => {
                    self.values.insert((value.span().start, value.span().end), key.get_ref().to_string());
                }
            }
        }
        self.tables.insert((span.start, span.end), found.clone());
        found
    }

    /// The key whose value holds this place.
    fn at(&self, place: usize) -> Option<&str> {
        let ((_, end), key) = self.values.range(..=(place, usize::MAX)).next_back()?;
        (place < *end).then_some(key)
    }
}

impl Source {
    /// Reads a file; no file is an empty one.
    pub fn read(path: Option<&Path>) -> Result<(Source, File), ConfigError> {
        let Some(path) = path else {
            return Ok((Source::default(), File::default()));
        };
        let refuse = |why: String| ConfigError { origin: Origin::File(path.into()), why };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
            .map_err(|error| refuse(format!("cannot read it: {error}; give another file with --config")))?;
        if text.len() as u64 > MAX_FILE {
            return Err(refuse(format!("it is longer than {MAX_FILE} bytes; give another file with --config")));
        }
        Source::new(path.into(), text).parse()
    }

    fn new(path: PathBuf, text: String) -> Source {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Source { path, ends, keys: Keys::of(&text), text }
    }

    fn parse(self) -> Result<(Source, File), ConfigError> {
        match toml::from_str(&self.text) {
            Ok(file) => Ok((self, file)),
            Err(error) => {
                let why = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
                let Some(span) = error.span() else {
                    return Err(ConfigError { origin: Origin::File(self.path), why });
                };
                let why = match self.keys.at(span.start) {
                    Some(key) => format!("{key}: {why}"),
                    None => why,
                };
                Err(ConfigError { origin: Origin::Line(self.path.clone(), self.line(span.start)), why })
            }
        }
    }

    /// From 1.
    fn line(&self, at: usize) -> usize {
        self.ends.partition_point(|end| *end < at) + 1
    }

    fn of<T>(&self, spanned: Spanned<T>) -> (Origin, T) {
        let Range { start, end } = spanned.span();
        let (path, line) = (self.path.clone(), self.line(start));
        let origin = match self.keys.tables.get(&(start, end)) {
            Some(keys) => {
                Origin::Table(path, line, keys.iter().map(|(key, at)| (key.clone(), self.line(*at))).collect())
            }
            None => Origin::Line(path, line),
        };
        (origin, spanned.into_inner())
    }
}

/// What the command line says; the rest is the file's. The options that `switch` and `run` share.
#[derive(Clone, Debug, Default, Args)]
pub struct Overrides {
    /// Each command has it with its own meaning.
    #[arg(skip)]
    pub control: Option<PathBuf>,
    /// The same.
    #[arg(skip)]
    pub log: Option<Level>,
    /// Subnet of the network 'default' [default: 172.17.0.0/16]
    #[arg(long)]
    pub subnet: Option<Cidr>,
    /// Its gateway's address, or none [default: the first of the subnet]
    #[arg(long, value_name = "ADDR|none")]
    pub gateway: Option<crate::control::protocol::Gateway>,
    /// Bytes of an IP packet in it [default: 1500]
    #[arg(long)]
    pub mtu: Option<u16>,
    /// The way to the world: sockets, tun:name=up0,address=A[,peer=B/24][,netns=PATH][,mtu=N][,mss_clamp=on][,fd=N], or
    /// none [default: sockets]
    #[arg(long)]
    pub uplink: Option<UplinkChoice>,
    /// With --uplink sockets: source of connections, an address of this host; once for each family
    #[arg(long, value_name = "ADDR", value_parser = Addr::parse)]
    pub outbound_address: Vec<Addr>,
    /// With --uplink sockets: the only interface by which connections leave
    #[arg(long, value_name = "IF")]
    pub outbound_interface: Option<String>,
    /// With --uplink sockets: containers find the host's loopback under this address; once for each family
    #[arg(long, value_name = "ADDR", value_parser = Addr::parse)]
    pub host_loopback: Vec<Addr>,
    /// With --uplink sockets: containers reach the metadata services of clouds
    #[arg(long)]
    pub allow_metadata: bool,
    /// With --uplink sockets: containers do not reach the host's own addresses
    #[arg(long)]
    pub no_host_addresses: bool,
    /// Write every frame to this pcapng file
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Flows at most [default: 262144]
    #[arg(long, value_name = "N")]
    pub flow_limit: Option<u32>,
    /// Flows at most of one container [default: a quarter of the limit]
    #[arg(long, value_name = "N")]
    pub flow_quota: Option<u32>,
}

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

impl std::str::FromStr for UplinkChoice {
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

/// What the switch runs with.
#[derive(Debug)]
pub struct Settings {
    pub control: Option<PathBuf>,
    pub log: Level,
    pub pcap: Option<(Origin, PathBuf)>,
    pub core: datapath::Config,
    pub uplink: Option<(Origin, Uplink)>,
    /// Networks, rules and routes, in the order in which they are made.
    pub commands: Vec<(Origin, Command)>,
}

/// docker0's.
const DEFAULT_SUBNET: &str = "172.17.0.0/16";

impl Settings {
    /// Puts options and file together, and judges the whole.
    pub fn new(source: &Source, file: File, over: Overrides) -> Result<Settings, ConfigError> {
        let File { switch, timeouts, network, rule, route } = file;
        let limit = |key, spanned: Option<Spanned<u32>>, option, over: Option<u32>| match (over, spanned) {
            (Some(value), _) => in_range(Origin::Option(option), key, value).map(Some),
            (None, Some(value)) => {
                let (origin, value) = source.of(value);
                in_range(origin, key, value).map(Some)
            }
            (None, None) => Ok(None),
        };
        let path = |key, spanned: Option<Spanned<PathBuf>>| match spanned.map(|spanned| source.of(spanned)) {
            Some((origin, path)) if path.as_os_str().is_empty() => {
                Err(ConfigError { origin, why: format!("{key}: the path is empty; give one, or leave it out") })
            }
            given => Ok(given),
        };
        let default = conntrack::Config::default();
        let core = datapath::Config {
            conntrack: conntrack::Config {
                limit: limit("flow_limit", switch.flow_limit, "--flow-limit", over.flow_limit)?
                    .unwrap_or(default.limit),
                quota: limit("flow_quota", switch.flow_quota, "--flow-quota", over.flow_quota)?,
                timeouts,
                tcp_liberal: switch.tcp_liberal.unwrap_or(default.tcp_liberal),
                tcp_loose: switch.tcp_loose.unwrap_or(default.tcp_loose),
                ..default
            },
            no_forward: !switch.forward.unwrap_or(true),
            ..datapath::Config::default()
        };
        let sockets = SocketsOptions {
            addresses: either("--outbound-address", over.outbound_address, source, switch.sockets.outbound_address),
            interface: either(
                "--outbound-interface",
                over.outbound_interface,
                source,
                switch.sockets.outbound_interface,
            ),
            host_loopback: either("--host-loopback", over.host_loopback, source, switch.sockets.host_loopback),
            policy: policy::Config {
                host_loopback: None,
                allow_metadata: over.allow_metadata || switch.sockets.allow_metadata.unwrap_or(false),
                allow_host_addresses: !over.no_host_addresses && switch.sockets.host_addresses.unwrap_or(true),
            },
            switches: [("--allow-metadata", over.allow_metadata), ("--no-host-addresses", over.no_host_addresses)],
        };
        let choice = match over.uplink {
            Some(choice) => Some((Origin::Option("--uplink"), choice)),
            None => switch.uplink.map(|spanned| source.of(spanned)),
        };
        let host_loopback = sockets.host_loopback.clone();
        let uplink = match choice {
            Some((origin, UplinkChoice::Sockets)) => Some((origin, Uplink::Sockets(sockets.judged()?))),
            // What needs nothing is what nobody has to ask for.
            None => Some((Origin::Default("uplink"), Uplink::Sockets(sockets.judged()?))),
            other => {
                sockets.refuse_options()?;
                match other {
                    Some((origin, UplinkChoice::Tun(spec))) => {
                        check_uplink(&origin, &spec)?;
                        Some((origin, Uplink::Tun(spec)))
                    }
                    Some((_, UplinkChoice::None | UplinkChoice::Sockets)) | None => None,
                }
            }
        };
        let mut networks: Vec<_> = network.into_iter().map(|spanned| source.of(spanned)).collect();
        default_network(&mut networks, over.subnet, over.gateway, over.mtu);
        let commands = networks
            .into_iter()
            .map(|(origin, spec)| (origin, Command::AddNetwork(spec.config())))
            .chain(rule.into_iter().map(|spanned| {
                let (origin, rule) = source.of(spanned);
                (origin, Command::AddRule(rule.into()))
            }))
            .chain(route.into_iter().map(|spanned| {
                let (origin, Route { dst }) = source.of(spanned);
                (origin, Command::AddRoute { dst })
            }))
            .collect();
        let in_file = path("control", switch.control)?.map(|(_, path)| path);
        let pcap_in_file = path("pcap", switch.pcap)?;
        let settings = Settings {
            control: over.control.or(in_file),
            log: over.log.or(switch.log).unwrap_or_default(),
            pcap: over.pcap.map(|path| (Origin::Option("--pcap"), path)).or(pcap_in_file),
            core,
            uplink,
            commands,
        };
        settings.rehearse()?;
        if let Some((_, Uplink::Sockets(_))) = settings.uplink {
            settings.check_host_loopback(&host_loopback)?;
        }
        Ok(settings)
    }

    /// In a subnet the address is a neighbour's, and only the gateway is asked for its own.
    fn check_host_loopback(&self, host_loopback: &[(Origin, Addr)]) -> Result<(), ConfigError> {
        for (origin, addr) in host_loopback {
            for (_, command) in &self.commands {
                if let Command::AddNetwork(config) = command
                    && config.subnet.is_some_and(|subnet| subnet.contains(*addr))
                    && config.gateway != Some(*addr)
                {
                    let why = format!(
                        "host loopback: {addr} lies in the subnet of network '{}'; take its gateway's address, or one outside",
                        config.name
                    );
                    return Err(ConfigError { origin: origin.clone(), why });
                }
            }
        }
        Ok(())
    }

    /// Has a core without devices judge every command.
    fn rehearse(&self) -> Result<(), ConfigError> {
        let config = datapath::Config {
            // No flow is ever made in it.
            conntrack: conntrack::Config { limit: 1, ..conntrack::Config::default() },
            ..datapath::Config::default()
        };
        let mut core = Datapath::new(config, [0; 32], Instant::ZERO);
        let mut judge = |origin: &Origin, command: Command| {
            core.apply(command, Instant::ZERO, &mut Nowhere).map_err(|error| refused(origin, &error))
        };
        if let Some((origin, Uplink::Tun(spec))) = &self.uplink {
            judge(origin, Command::SetUplink(spec.for_core(spec.mtu.unwrap_or(1500))))?;
        }
        for (origin, command) in &self.commands {
            judge(origin, command.clone())?;
        }
        Ok(())
    }
}

/// What the core says of something that was asked for at `origin`.
pub fn refused(origin: &Origin, error: &CommandError) -> ConfigError {
    let origin = match error {
        // Of an uplink's fields the last word is the key.
        CommandError::Invalid { field, .. } => origin.of_key(field.rsplit(' ').next().unwrap_or(field)),
        _ => origin.clone(),
    };
    ConfigError { origin, why: error.to_string() }
}

impl UplinkSpec {
    /// What the core has to know.
    pub fn for_core(&self, mtu: u16) -> UplinkConfig {
        // The core chooses the port itself.
        UplinkConfig { address: self.address, mtu, mss_clamp: self.mss_clamp }
    }
}

/// What was said of an uplink over sockets, and where.
struct SocketsOptions {
    addresses: Vec<(Origin, Addr)>,
    interface: Vec<(Origin, String)>,
    host_loopback: Vec<(Origin, Addr)>,
    policy: policy::Config,
    /// Options without a value, and whether they were given.
    switches: [(&'static str, bool); 2],
}

/// The option's values, or the file's if there are none.
fn either<T>(
    option: &'static str,
    over: impl IntoIterator<Item = T>,
    source: &Source,
    file: impl IntoIterator<Item = Spanned<T>>,
) -> Vec<(Origin, T)> {
    let over: Vec<_> = over.into_iter().map(|value| (Origin::Option(option), value)).collect();
    if over.is_empty() { file.into_iter().map(|spanned| source.of(spanned)).collect() } else { over }
}

impl SocketsOptions {
    fn judged(self) -> Result<SocketsSpec, ConfigError> {
        let mut spec = SocketsSpec { policy: self.policy, ..SocketsSpec::default() };
        for (origin, addr) in self.addresses {
            one_host(&origin, "outbound address", spec.options.outbound_v4.is_some(), addr)?;
            spec.options.outbound_v4 = Some(addr);
            spec.origins.push((origin, sockets::Options { outbound_v4: Some(addr), ..sockets::Options::default() }));
        }
        for (origin, name) in self.interface {
            if !tuntap::is_valid_name(&name) {
                let why = format!(
                    "outbound interface: '{name}' cannot be a network device's; 1 to 15 bytes without space, '/', ':' and '%'"
                );
                return Err(ConfigError { origin, why });
            }
            spec.options.outbound_interface = Some(name.clone());
            let option = sockets::Options { outbound_interface: Some(name), ..sockets::Options::default() };
            spec.origins.push((origin, option));
        }
        for (origin, addr) in self.host_loopback {
            one_host(&origin, "host loopback", spec.policy.host_loopback.is_some(), addr)?;
            spec.policy.host_loopback = Some(addr);
        }
        Ok(spec)
    }

    /// An option that would do nothing is a mistake; the file's section only waits.
    fn refuse_options(&self) -> Result<(), ConfigError> {
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

fn check_uplink(origin: &Origin, spec: &UplinkSpec) -> Result<(), ConfigError> {
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

fn in_range(origin: Origin, key: &str, value: u32) -> Result<u32, ConfigError> {
    if (1..=LIMIT_MAX).contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError { origin, why: format!("{key}: {value} flows are out of range; 1 to {LIMIT_MAX}") })
    }
}

/// The network that the options describe: made if there is no other or if they say something, and over the file's.
fn default_network(
    networks: &mut Vec<(Origin, NetworkSpec)>,
    subnet: Option<Cidr>,
    gateway: Option<crate::control::protocol::Gateway>,
    mtu: Option<u16>,
) {
    use crate::control::protocol::DEFAULT_NETWORK;
    let origin = match (subnet, gateway, mtu) {
        (Some(_), _, _) => Origin::Option("--subnet"),
        (None, Some(_), _) => Origin::Option("--gateway"),
        (None, None, Some(_)) => Origin::Option("--mtu"),
        (None, None, None) if networks.is_empty() => Origin::Default("network"),
        (None, None, None) => return,
    };
    let at = networks.iter().position(|(_, spec)| spec.name == DEFAULT_NETWORK).unwrap_or_else(|| {
        let mut spec = NetworkSpec::named(DEFAULT_NETWORK);
        spec.subnet = DEFAULT_SUBNET.parse().ok();
        networks.insert(0, (Origin::Default("network"), spec));
        0
    });
    let (place, spec) = &mut networks[at];
    *place = origin;
    if subnet.is_some() {
        // The gateway that the file has belongs to its own subnet.
        spec.subnet = subnet;
        spec.gateway = None;
    }
    spec.gateway = gateway.or(spec.gateway);
    spec.mtu = mtu.or(spec.mtu);
}

/// A world without devices.
struct Nowhere;

impl World for Nowhere {
    fn transmit(&mut self, _: PortId, _: FrameOut<'_>) -> Sent {
        Sent::Gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn settings(text: &str, over: Overrides) -> Result<Settings, ConfigError> {
        let (source, file) = Source::new("p.toml".into(), text.into()).parse()?;
        Settings::new(&source, file, over)
    }

    fn error(text: &str) -> String {
        settings(text, Overrides::default()).expect_err(text).to_string()
    }

    fn networks(settings: &Settings) -> Vec<String> {
        settings
            .commands
            .iter()
            .filter_map(|(_, command)| match command {
                Command::AddNetwork(config) => Some(format!(
                    "{} {} {}",
                    config.name,
                    config.subnet.map_or("-".into(), |subnet| subnet.to_string()),
                    config.gateway.map_or("-".into(), |gateway| gateway.to_string())
                )),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn nothing_said_is_one_network_like_docker0() {
        let settings = settings("", Overrides::default()).expect("defaults");
        assert_eq!(networks(&settings), ["default 172.17.0.0/16 172.17.0.1"]);
        assert!(matches!(settings.uplink, Some((_, Uplink::Sockets(_)))));
    }

    #[test]
    fn a_whole_file_is_understood() {
        let text = r#"
            [switch]
            control = "/tmp/p.sock"
            log = "debug"
            flow_limit = 1000
            flow_quota = 100
            uplink = { name = "up0", address = "192.0.2.10", peer = "192.0.2.1/24", mss_clamp = true }
            [timeouts]
            udp_timeout = 300
            [[network]]
            name = "front"
            subnet = "10.1.0.0/24"
            [[network]]
            name = "back"
            subnet = "10.2.0.0/24"
            gateway = "none"
            internal = true
            guard = "strict"
            [[rule]]
            dnat = { proto = "tcp", dst = "192.0.2.10", port = 80, to = "10.1.0.2", to_port = 8080 }
            [[rule]]
            nonat = { dst = "198.51.100.0/24" }
            [[route]]
            dst = "203.0.113.0/24"
        "#;
        let settings = settings(text, Overrides::default()).expect("valid");
        assert_eq!(networks(&settings), ["front 10.1.0.0/24 10.1.0.1", "back 10.2.0.0/24 -"]);
        assert_eq!((settings.core.conntrack.limit, settings.core.conntrack.quota), (1000, Some(100)));
        assert_eq!(settings.core.conntrack.timeouts.udp_timeout, Duration::from_secs(300));
        assert_eq!(settings.commands.len(), 5);
        let Some((_, Uplink::Tun(spec))) = settings.uplink else { panic!("{:?}", settings.uplink) };
        assert!(spec.mss_clamp && spec.name == "up0");
    }

    #[test]
    fn the_documented_file_says_everything_with_its_default() {
        let page = include_str!("../../docs/configuration.md");
        let text = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of TOML");
        // What is only shown as a comment is a key all the same.
        let uncommented: String =
            text.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(line))).collect();
        settings(&uncommented, Overrides::default()).expect("with every key");

        let documented = settings(text, Overrides::default()).expect("valid");
        let default = settings("", Overrides::default()).expect("defaults");
        assert_eq!(format!("{:?}", documented.core), format!("{:?}", default.core));
        assert_eq!((documented.log, &documented.commands[0].1), (default.log, &default.commands[0].1));
        let timeouts = serde_json::to_value(Timeouts::default()).expect("JSON");
        for (name, seconds) in timeouts.as_object().expect("an object") {
            assert!(text.contains(&format!("\n{name} = {seconds}\n")), "{name}");
        }
    }

    #[test]
    fn an_error_names_its_line_in_one_line() {
        for (text, says) in [
            ("[switch]\nlgo = \"debug\"\n", "p.toml line 2: unknown field `lgo`"),
            ("[swich]\n", "p.toml line 1: unknown field `swich`"),
            ("\n\n[timeouts]\nudp_timeuot = 3\n", "line 4: unknown field `udp_timeuot`"),
            ("[switch]\nlog = \"loud\"\n", "line 2: log: unknown variant `loud`"),
            ("[[network]]\nname = \"n\"\nsubnet = \"10.0.0/8\"\n", "line 3: subnet: '10.0.0/8' is not a prefix"),
            ("[[network]]\nname = \"n\"\nmtu = 70000\n", "line 3: mtu: "),
            ("[[network]]\nsubnet = \"10.0.0.0/8\"\n", "line 1: missing field `name`"),
            ("[switch]\nflow_limit = 0\n", "line 2: flow_limit: 0 flows are out of range"),
            ("[switch]\n\ncontrol = \"\"\n", "line 3: control: the path is empty"),
            ("[switch]\npcap = \"\"\n", "line 2: pcap: the path is empty"),
            ("[switch.uplink]\nname = \"u\"\naddress = \"fd00::1\"\n", "line 3: uplink address: fd00::1"),
            ("[switch.uplink]\nname = \"u\"\naddress = \"192.0.2.1\"\nmtu = 20\n", "line 4: uplink mtu: 20"),
            ("[timeouts]\nicmp_timeout = 5\nudp_timeout = 0\n", "line 3: udp_timeout: 0 seconds would end"),
            ("[timeouts]\nudp_timeout = -1\n", "line 2: udp_timeout: "),
            ("[[route]]\n\ndst = \"10.1.1.1/8\"\n", "line 3: dst: "),
            ("[[rule]]\n[rule.snat]\nsource = \"172.17.0.0/16\"\nto = \"172.17.0.9\"\n", "line 4: to: "),
            ("[switch\n", "line 1"),
            ("[switch]\nuplink = { name = \"a b\", address = \"192.0.2.1\" }\n", "line 2: uplink name"),
            (
                "[switch]\nuplink = { name = \"u\", address = \"192.0.2.1\", peer = \"192.0.2.1/24\" }\n",
                "line 2: uplink peer",
            ),
            ("[[rule]]\nmasq = {}\n", "line 2: unknown field `masq`, expected one of `dnat`, `snat`, `nonat`"),
            ("\n[[rule]]\n", "line 2: give exactly one of dnat, snat and nonat"),
        ] {
            let error = error(text);
            assert!(error.contains(says) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused_before_anything_starts() {
        for (text, says) in [
            ("[[network]]\nname = \"n\"\nsubnet = \"10.0.0.0/8\"\ngateway = \"11.0.0.1\"\n", "line 4: gateway"),
            (
                "[[network]]\nname = \"a\"\nsubnet = \"10.0.0.0/8\"\n[[network]]\nname = \"b\"\nsubnet = \"10.1.0.0/16\"\n",
                "line 6: subnet",
            ),
            ("[[network]]\nname = \"a\"\n[[network]]\nname = \"a\"\n", "line 3: network 'a' exists already"),
            ("[[network]]\nname = \"n\"\nmtu = 100\n", "line 3: mtu: 100 is out of range"),
            ("[switch]\nuplink = { name = \"u\", address = \"172.17.0.9\" }\n", "default network: subnet"),
            ("[[network]]\nname = \"n\"\nageing_seconds = 1\n", "line 3: ageing_seconds: 1 is out of range"),
            (
                "[[route]]\ndst = \"203.0.113.0/24\"\n[[route]]\ndst = \"203.0.113.0/24\"\n",
                "line 3: route '203.0.113.0/24' exists already",
            ),
        ] {
            let error = error(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn options_go_before_the_file() {
        let text = "[switch]\nlog = \"debug\"\ncontrol = \"/a\"\n[[network]]\nname = \"default\"\nsubnet = \"10.0.0.0/8\"\ngateway = \"10.9.9.9\"\n";
        let over = Overrides {
            control: Some("/b".into()),
            subnet: "10.5.0.0/16".parse().ok(),
            uplink: "tun:name=up0,address=192.0.2.10".parse().ok(),
            ..Overrides::default()
        };
        let settings = settings(text, over).expect("valid");
        assert_eq!(networks(&settings), ["default 10.5.0.0/16 10.5.0.1"]);
        assert_eq!((settings.control, settings.log), (Some("/b".into()), Level::Debug));
        assert!(settings.uplink.is_some());
        let only_mtu = Overrides { mtu: Some(9000), ..Overrides::default() };
        let settings = self::settings("[[network]]\nname = \"n\"\n", only_mtu).expect("valid");
        assert_eq!(networks(&settings), ["default 172.17.0.0/16 172.17.0.1", "n - -"]);
    }

    #[test]
    fn an_uplink_over_sockets_has_options_of_its_own() {
        let text = "[switch]\nuplink = \"sockets\"\n[switch.sockets]\noutbound_address = [\"192.0.2.1\"]\n\
                    outbound_interface = \"eth0\"\nhost_loopback = [\"192.0.2.254\"]\n";
        let addr = |text: &str| text.parse::<Addr>().expect("an address");
        let file = SocketsSpec {
            options: sockets::Options { outbound_v4: Some(addr("192.0.2.1")), outbound_interface: Some("eth0".into()) },
            policy: policy::Config { host_loopback: Some(addr("192.0.2.254")), ..policy::Config::default() },
            origins: Vec::new(),
        };
        let sockets = |said: Settings| match said.uplink {
            Some((_, Uplink::Sockets(spec))) => SocketsSpec { origins: Vec::new(), ..spec },
            other => panic!("{other:?}"),
        };
        let said = settings(text, Overrides::default()).expect("valid");
        assert_eq!(sockets(said), file);
        let over = Overrides { outbound_address: vec![addr("192.0.2.7")], ..Overrides::default() };
        let said = settings(text, over).expect("valid");
        let options = sockets::Options { outbound_v4: Some(addr("192.0.2.7")), ..file.options.clone() };
        assert_eq!(sockets(said), SocketsSpec { options, ..file });
        // The section waits, an option would do nothing.
        let over = || Overrides { uplink: Some(UplinkChoice::None), ..Overrides::default() };
        assert_eq!(settings(text, over()).expect("valid").uplink, None);
        let over = Overrides { host_loopback: vec![addr("192.0.2.7")], ..over() };
        let refused = settings(text, over).expect_err("refused").to_string();
        assert!(refused.starts_with("--host-loopback: only an uplink over sockets"), "{refused}");
        for (section, says) in [
            ("outbound_address = [\"192.0.2.1\", \"192.0.2.2\"]", "line 4: outbound address: 192.0.2.2 is the second"),
            ("outbound_address = [\"127.0.0.1\"]", "line 4: outbound address: 127.0.0.1 is no address of one host"),
            ("outbound_address = [\"192.0.2\"]", "line 4: outbound_address: '192.0.2' is invalid IP address syntax"),
            ("outbound_interface = \"eth 0\"", "line 4: outbound interface: 'eth 0' cannot be"),
            ("host_loopback = [\"0.0.0.0\"]", "line 4: host loopback: 0.0.0.0 is no address of one host"),
            (
                "host_loopback = [\"2001:db8::1\"]",
                "line 4: host loopback: 2001:db8::1 is of IPv6, which is not routed yet",
            ),
            ("outbound_address = [\"2001:db8::1\"]", "line 4: outbound address: 2001:db8::1 is of IPv6"),
        ] {
            let error = error(&format!("[switch]\nuplink = \"sockets\"\n[switch.sockets]\n{section}\n"));
            assert!(error.contains(says) && !error.contains('\n'), "{section}: {error}");
        }
        let error = error("[switch]\nuplink = \"socket\"\n");
        assert!(error.contains("line 2: uplink: invalid value: string \"socket\", expected \"sockets\""), "{error}");
    }

    #[test]
    fn what_the_host_does_not_have_is_told_where_it_was_asked_for() {
        let refused = |text: &str, over: Overrides| {
            let Some((_, Uplink::Sockets(spec))) = settings(text, over).expect("valid").uplink else {
                panic!("{text} has no uplink over sockets")
            };
            spec.check().expect_err(text).to_string()
        };
        let text = "[switch]\n[switch.sockets]\nhost_addresses = true\noutbound_interface = \"nope\"\n";
        let error = refused(text, Overrides::default());
        assert!(error.starts_with("p.toml line 4: outbound interface: there is no network interface nope"), "{error}");
        let text = "[switch.sockets]\noutbound_address = [\n \"203.0.113.77\",\n]\n";
        let error = refused(text, Overrides::default());
        assert!(error.starts_with("p.toml line 3: outbound address: 203.0.113.77 is not"), "{error}");
        let over = Overrides { outbound_interface: Some("nope".into()), ..Overrides::default() };
        let error = refused("", over);
        assert!(error.starts_with("--outbound-interface: outbound interface: there is"), "{error}");
    }

    #[test]
    fn what_stands_for_the_hosts_loopback_is_no_neighbours_address() {
        let file = |addr: &str| format!("[switch.sockets]\nhost_loopback = [\"{addr}\"]\n");
        let error = error(&file("172.17.0.9"));
        assert!(error.starts_with("p.toml line 2: host loopback: 172.17.0.9 lies in the subnet of"), "{error}");
        let option =
            |addr: &str| Overrides { host_loopback: addr.parse().into_iter().collect(), ..Overrides::default() };
        let refused = settings("", option("172.17.255.254")).expect_err("refused").to_string();
        assert!(refused.starts_with("--host-loopback: host loopback: 172.17.255.254 lies"), "{refused}");
        for addr in ["172.17.0.1", "192.0.2.254"] {
            settings(&file(addr), Overrides::default()).expect(addr);
            settings("", option(addr)).expect(addr);
        }
        // Without an uplink over sockets the section waits.
        let over = Overrides { uplink: Some(UplinkChoice::None), ..Overrides::default() };
        settings(&file("172.17.0.9"), over).expect("it does nothing");
    }

    #[test]
    fn a_tun_uplink_is_written_with_keys_and_values() {
        let spec = "tun:name=up0,address=192.0.2.10,peer=192.0.2.1/24,netns=/run/netns/w,mtu=9000,mss_clamp=on";
        let Ok(UplinkChoice::Tun(spec)) = spec.parse() else { panic!("{spec} is valid") };
        assert_eq!((spec.name.as_str(), spec.mtu, spec.mss_clamp), ("up0", Some(9000), true));
        let Ok(UplinkChoice::Tun(spec)) = "tun:fd=5,address=192.0.2.10".parse() else { panic!("valid") };
        assert_eq!(spec.fd, Some(5));
        for (text, says) in [
            ("socket", "write sockets"),
            ("tap:", "tun:name="),
            ("tun:", "KEY=VALUE"),
            ("tun:name=up0", "address=ADDR is missing"),
            ("tun:address=192.0.2.10", "name=NAME is missing"),
            ("tun:name=up0,address=192.0.2", "not an IP address"),
            ("tun:name=up0,adress=192.0.2.1", "no 'adress'"),
            ("tun:name=a,name=b,address=192.0.2.1", "twice"),
            ("tun:fd=5,name=up0,address=192.0.2.1", "leave name"),
            ("tun:name=a,address=192.0.2.1,mtu=70000", "mtu"),
            ("tun:name=a,address=192.0.2.1,mss_clamp=1", "neither on nor off"),
        ] {
            let error = text.parse::<UplinkChoice>().expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
