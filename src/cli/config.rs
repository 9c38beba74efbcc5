//! The configuration file of `pontoon switch`, and what it and the command line together ask for.
//!
//! # Theory of operation
//! [`File`] is the file as written; [`Settings`] is what the switch runs with: options over the file over defaults. All
//! of it is judged before anything starts: each field when it is read, and the whole by a rehearsal, in which a core of
//! its own, without devices, is given every command in the order in which the real one will get them.
//! An error names the line, also that of a key which only the whole shows to be wrong.

mod file;
mod overrides;
mod sockets;
mod source;
#[cfg(test)]
mod tests;
mod uplink;

use std::path::PathBuf;

use toml::Spanned;

pub use self::file::{File, SocketsSection, SwitchSection};
pub use self::overrides::Overrides;
use self::sockets::SocketsOptions;
pub use self::sockets::SocketsSpec;
pub use self::source::{ConfigError, Origin, Source, refused};
use self::uplink::check_uplink;
pub use self::uplink::{Uplink, UplinkChoice, UplinkSpec};
use crate::control::protocol::{DEFAULT_NETWORK, Level, NetworkSpec, Route};
use crate::core::command::Command;
use crate::core::conntrack::{self, LIMIT_MAX};
use crate::core::datapath::{self, Datapath};
use crate::core::port::PortId;
use crate::core::time::Instant;
use crate::core::world::{Sent, World};
use crate::frame::FrameOut;
use crate::wire::addr::Addr;

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
    pub fn new(source: &Source, file: &File, over: &Overrides) -> Result<Settings, ConfigError> {
        let switch = &file.switch;
        let sockets = SocketsOptions::new(source, &switch.sockets, over);
        // The first that is wrong is told, in this order.
        let settings = Settings {
            core: core_config(source, file, over)?,
            uplink: uplink(source.either("--uplink", over.uplink.as_ref(), switch.uplink.as_ref()), &sockets)?,
            control: control_path(source, file, over)?,
            pcap: pcap_path(source, file, over)?,
            log: over.log.or(switch.log).unwrap_or_default(),
            commands: commands(source, file, over),
        };
        settings.rehearse()?;
        settings.check_host_loopback(&sockets.host_loopback)?;
        Ok(settings)
    }

    /// In a subnet the address is a neighbour's, and only the gateway is asked for its own.
    fn check_host_loopback(&self, host_loopback: &[(Origin, Addr)]) -> Result<(), ConfigError> {
        if !matches!(self.uplink, Some((_, Uplink::Sockets(_)))) {
            return Ok(());
        }
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

fn core_config(source: &Source, file: &File, over: &Overrides) -> Result<datapath::Config, ConfigError> {
    Ok(datapath::Config {
        conntrack: conntrack_config(source, file, over)?,
        no_forward: !file.switch.forward.unwrap_or(true),
        ..datapath::Config::default()
    })
}

fn conntrack_config(source: &Source, file: &File, over: &Overrides) -> Result<conntrack::Config, ConfigError> {
    let switch = &file.switch;
    let limit = source.either("--flow-limit", over.flow_limit.as_ref(), switch.flow_limit.as_ref());
    let quota = source.either("--flow-quota", over.flow_quota.as_ref(), switch.flow_quota.as_ref());
    let default = conntrack::Config::default();
    Ok(conntrack::Config {
        limit: flows("flow_limit", limit)?.unwrap_or(default.limit),
        quota: flows("flow_quota", quota)?,
        timeouts: file.timeouts,
        tcp_liberal: switch.tcp_liberal.unwrap_or(default.tcp_liberal),
        tcp_loose: switch.tcp_loose.unwrap_or(default.tcp_loose),
        ..default
    })
}

/// A number of flows, if one was given.
fn flows(key: &str, given: Option<(Origin, u32)>) -> Result<Option<u32>, ConfigError> {
    match given {
        Some((origin, value)) if !(1..=LIMIT_MAX).contains(&value) => {
            Err(ConfigError { origin, why: format!("{key}: {value} flows are out of range; 1 to {LIMIT_MAX}") })
        }
        given => Ok(given.map(|(_, value)| value)),
    }
}

/// The way to the world, and where it was asked for.
fn uplink(
    choice: Option<(Origin, UplinkChoice)>,
    sockets: &SocketsOptions,
) -> Result<Option<(Origin, Uplink)>, ConfigError> {
    // What needs nothing is what nobody has to ask for.
    let (origin, choice) = choice.unwrap_or((Origin::Default("uplink"), UplinkChoice::Sockets));
    if choice != UplinkChoice::Sockets {
        sockets.refuse_options()?;
    }
    let uplink = match choice {
        UplinkChoice::None => return Ok(None),
        UplinkChoice::Sockets => Uplink::Sockets(sockets.judged()?),
        UplinkChoice::Tun(spec) => {
            check_uplink(&origin, &spec)?;
            Uplink::Tun(spec)
        }
    };
    Ok(Some((origin, uplink)))
}

fn control_path(source: &Source, file: &File, over: &Overrides) -> Result<Option<PathBuf>, ConfigError> {
    let in_file = path_in_file("control", source, file.switch.control.as_ref())?;
    Ok(over.control.clone().or(in_file.map(|(_, path)| path)))
}

/// Where every frame is written, and where that was asked for.
fn pcap_path(source: &Source, file: &File, over: &Overrides) -> Result<Option<(Origin, PathBuf)>, ConfigError> {
    let in_file = path_in_file("pcap", source, file.switch.pcap.as_ref())?;
    Ok(over.pcap.clone().map(|path| (Origin::Option("--pcap"), path)).or(in_file))
}

/// A path that the file gives, judged also where an option goes before it.
fn path_in_file(
    key: &str,
    source: &Source,
    spanned: Option<&Spanned<PathBuf>>,
) -> Result<Option<(Origin, PathBuf)>, ConfigError> {
    match spanned.map(|spanned| source.of(spanned)) {
        Some((origin, path)) if path.as_os_str().is_empty() => {
            Err(ConfigError { origin, why: format!("{key}: the path is empty; give one, or leave it out") })
        }
        given => Ok(given),
    }
}

/// The networks, rules and routes, in the order in which they are made.
fn commands(source: &Source, file: &File, over: &Overrides) -> Vec<(Origin, Command)> {
    let mut networks: Vec<_> = file.network.iter().map(|spanned| source.of(spanned)).collect();
    default_network(&mut networks, over);
    let networks = networks.into_iter().map(|(origin, spec)| (origin, Command::AddNetwork(spec.config())));
    let rules = file.rule.iter().map(|spanned| {
        let (origin, rule) = source.of(spanned);
        (origin, Command::AddRule(rule.into()))
    });
    let routes = file.route.iter().map(|spanned| {
        let (origin, Route { dst }) = source.of(spanned);
        (origin, Command::AddRoute { dst })
    });
    networks.chain(rules).chain(routes).collect()
}

/// The network that the options describe: made if there is no other or if they say something, and over the file's.
fn default_network(networks: &mut Vec<(Origin, NetworkSpec)>, over: &Overrides) {
    let Overrides { subnet, gateway, mtu, .. } = *over;
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
