//! Who carries the packets: each candidate builds the same scene in its own way.
//!
//! ```text
//! direct   a ── candidate ── b          containers 172.31.0.2 and .3
//! out      a ── candidate ── world      a container and a server that it reaches, masqueraded or by a host's socket
//! in       the same, begun by the world: a published port
//! ```
//!
//! Candidates with a device towards the world (a TUN, a veth) have it in the namespace `world`, and run in `hub`. Those that speak to the
//! world by sockets run in `world` themselves, whose server is theirs over loopback. The limit programs know neither masquerade nor
//! published ports: beside `out` and `in` stands `forward` between two containers.
//!
//! A new candidate is one entry of [`CANDIDATES`] and a file beside this one.

mod kernel;
mod limits;
mod openvswitch;
mod pasta;
mod pontoon;
mod slirp;
mod vde;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use crate::netns::Netns;
use crate::process::{self, Background, SOON};
use crate::walls::SCRATCH;

/// The containers of `direct`, and the one of `out` and `in`.
const A: &str = "172.31.0.2";
const B: &str = "172.31.0.3";
const GATEWAY: &str = "172.31.0.1";
const SUBNET: &str = "172.31.0.0/16";
/// The world, where it is behind a device: its own address, and the candidate's.
const BEYOND: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The world, where sockets in it are all that a candidate has.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);

/// Ports that are published where the world begins: iperf3's, and ranges for everything else.
pub const IPERF: u16 = 5201;
pub const FIRST_TCP: u16 = 7000;
pub const TCP_PORTS: u16 = 16;
pub const UDP: u16 = 7100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Direct,
    Out,
    In,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Out => "out",
            Self::In => "in",
        })
    }
}

/// What a scene is built for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub way: Way,
    pub mtu: u32,
    /// Containers in all, `direct` alone; those beyond two are idle.
    pub ports: u32,
    /// Flows that shall fit.
    pub flows: u32,
    /// ICMP echo shall reach the other end itself.
    pub ping: bool,
    pub udp: bool,
}

impl Wanted {
    pub const fn new(way: Way, mtu: u32) -> Self {
        Self { way, mtu, ports: 2, flows: 0, ping: false, udp: false }
    }
}

/// Programs that are ours, or chosen by an option.
pub struct Tools {
    pub pontoon: PathBuf,
    pub forward: PathBuf,
    pub split: PathBuf,
    pub load: PathBuf,
    pub pasta: PathBuf,
}

pub struct Candidate {
    pub name: &'static str,
    pub what: &'static str,
    /// The limit program that does the least of what it does.
    pub limit: Option<&'static str>,
    /// What to do about one that is missing.
    pub remedy: &'static str,
    /// None: missing.
    pub version: fn(&Tools) -> Option<String>,
    /// Why it has no such path, by its nature.
    pub refuses: fn(&Wanted) -> Option<&'static str>,
    pub build: fn(&Tools, &Scene, &Wanted) -> Result<Path, String>,
}

/// Everybody, in the order of their turns: the limits first.
pub const CANDIDATES: [Candidate; 9] = [
    limits::FORWARD,
    limits::SPLIT,
    pontoon::PONTOON,
    // By host sockets; it takes part as soon as `pontoon switch --help` knows of `sockets`.
    pontoon::SOCKETS,
    kernel::KERNEL,
    slirp::SLIRP4NETNS,
    pasta::PASTA,
    openvswitch::OPENVSWITCH,
    vde::VDE,
];

const CONGESTION: &str = "ipv4/tcp_congestion_control";

/// TCP's congestion control in every namespace: the one asked for, or what Linux has by default, wherever the host has
/// another. Namespaces may not have every one that the host has; reno always.
pub fn congestion(asked: Option<&str>) -> Result<String, String> {
    let netns = Netns::new("congestion")?;
    let Some(asked) = asked else {
        let of = if netns.sysctl(CONGESTION, "cubic").is_ok() { "cubic" } else { "reno" };
        return Ok(of.to_owned());
    };
    netns.sysctl(CONGESTION, asked).map_err(|error| {
        format!("--congestion {asked}: {error}; namespaces may have what net.ipv4.tcp_allowed_congestion_control lists")
    })?;
    Ok(asked.to_owned())
}

/// The namespaces of one measurement.
pub struct Scene {
    /// Of no other scene that stands at the same time.
    name: &'static str,
    pub a: Netns,
    /// The other container, or the world.
    pub far: Netns,
    pub hub: Netns,
    way: Way,
}

impl Scene {
    pub fn new(way: Way, name: &'static str, congestion: &str) -> Result<Self, String> {
        let far = if way == Way::Direct { "b" } else { "world" };
        let netns = |of: &str| {
            let netns = Netns::new(&format!("{of}-{name}"))?;
            netns.sysctl(CONGESTION, congestion)?;
            Ok::<_, String>(netns)
        };
        Ok(Self { name, a: netns("a")?, far: netns(far)?, hub: netns("hub")?, way })
    }

    /// The path of a file of this scene.
    pub fn scratch(&self, file: &str) -> String {
        format!("{SCRATCH}/{}-{file}", self.name)
    }

    pub fn client(&self) -> &Netns {
        if self.way == Way::In { &self.far } else { &self.a }
    }

    pub fn server(&self) -> &Netns {
        if self.way == Way::In { &self.a } else { &self.far }
    }

    /// A world that is reached by sockets in it: an address, and a route that leads nowhere.
    fn world_of_sockets(&self) -> Result<(), String> {
        // A device of another namespace's, for a dummy needs a module: only its address and its route are wanted.
        self.far.ip(&format!(
            "link add name ext0 mtu 65520 type veth peer name nowhere mtu 65520 netns {}\n\
             addr add {HOST}/24 dev ext0\nlink set ext0 up\n",
            self.hub.name()
        ))?;
        self.hub.ip("link set nowhere up\n")?;
        self.far.ip("route add default via 198.51.100.1\n")?;
        self.far.sysctl("ipv4/ping_group_range", "0 2147483647")
    }
}

/// A scene that a candidate has built; its processes end with it.
pub struct Path {
    name: &'static str,
    /// Containers that are idle, and the device of the last of them. First to go: hundreds of devices go at once with their
    /// namespace, and one after the other with their process.
    pub idle: Vec<Netns>,
    pub helpers: Vec<Background>,
    pub last_idle: String,
    /// Where the client finds the server.
    pub target: Ipv4Addr,
    /// When building began, and how long it took until the candidate itself said that it is ready, if it says so.
    pub begun: SystemTime,
    pub ready: Option<Duration>,
}

impl Path {
    fn begin(scene: &Scene, target: impl Into<Ipv4Addr>) -> Self {
        Self {
            name: scene.name,
            helpers: Vec::new(),
            idle: Vec::new(),
            last_idle: String::new(),
            target: target.into(),
            begun: SystemTime::now(),
            ready: None,
        }
    }

    /// All processes of the candidate.
    pub fn family(&self) -> Vec<u32> {
        process::family(&self.helpers.iter().map(Background::pid).collect::<Vec<_>>())
    }

    /// Starts a process that says `word` when it is ready.
    fn start(&mut self, command: Command, word: &str) -> Result<(), String> {
        let begin = Instant::now();
        let mut helper = Background::start(command)?;
        if !word.is_empty() {
            helper.says(word, SOON)?;
            self.ready = Some(begin.elapsed());
        }
        self.helpers.push(helper);
        Ok(())
    }

    /// Namespaces for idle containers, a hundred to each: a thousand of them would measure the kernel. `port` gives the n-th a device.
    fn idle(&mut self, ports: u32, mut port: impl FnMut(&Netns, u32) -> Result<(), String>) -> Result<(), String> {
        for number in 2..ports {
            if number % 100 == 2 {
                self.idle.push(Netns::new(&format!("idle-{}-{}", self.name, number / 100))?);
            }
            port(self.idle.last().expect("the first is number 2"), number)?;
            self.last_idle = format!("eth{number}");
        }
        Ok(())
    }
}

/// The address of the n-th container beyond two.
fn idle_address(number: u32) -> String {
    format!("172.31.{}.{}", 1 + number / 250, 1 + number % 250)
}

/// The first line of what a program says of itself.
fn says(program: impl AsRef<std::ffi::OsStr>, option: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg(option);
    // Some tell their version with a status of failure.
    let said = process::run(command, SOON).unwrap_or_else(|error| error);
    said.lines().next().map(|line| line.trim().replace('|', "/")).filter(|line| !line.is_empty())
}

/// What the package manager says that a program's version is.
fn packaged(program: &str, package: &str) -> Option<String> {
    process::find(program)?;
    let mut command = Command::new("dpkg-query");
    command.args(["-W", "-f", "${Version}", package]);
    Some(
        process::run(command, SOON)
            .map_or_else(|_| "of no package".to_owned(), |version| format!("{package} {version}")),
    )
}
