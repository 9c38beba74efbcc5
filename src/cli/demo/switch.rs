//! The switch that is shown: the library's own parts, in a child process.
//!
//! All that the demo knows of a running switch is here: attach, publish, look.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::place::{Holder, Parent};
use crate::core::command::{
    Answer, Applied, Command, EndpointRequest, MacChoice, NetworkConfig, Publication, Query, Traffic, Transport,
    UplinkConfig as CoreUplink,
};
use crate::core::datapath;
use crate::frame::Caps;
use crate::io::enter::{EnterHelper, Opened, Request, Target};
use crate::io::lifetime::Life;
use crate::io::netcfg::Config;
use crate::io::reactor::{self, LoopHandle};
use crate::io::switch::{Notice, Notifier, Switch as _};
use crate::io::sys::tuntap::{Header, Kind};
use crate::io::tap::TapPort;
use crate::io::uplink::{Uplink, UplinkConfig};
use crate::wire::addr::{Addr, Cidr};
use crate::wire::mac::Mac;

/// The name of the network, as `pontoon switch` has it.
const NETWORK: &str = "default";

/// Flows of one page. The demo makes a few dozen.
const PAGE: usize = 256;

/// How long its end is waited for: it deletes its devices first.
const END: Duration = Duration::from_secs(2);

/// The running switch.
pub struct Switch(Holder);

/// What it is to be like.
#[derive(Clone, Copy)]
pub struct Options {
    pub subnet: Cidr,
    pub gateway: Ipv4Addr,
    /// Its own address on the uplink.
    pub address: Ipv4Addr,
    /// The kernel's side of the uplink.
    pub peer: Cidr,
    pub uplink: &'static str,
}

/// A container as it was attached.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Attached {
    pub ip: Ipv4Addr,
    pub mac: Mac,
}

/// `-p HOST:CONTAINER/PROTO`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Published {
    pub proto: Transport,
    pub host: u16,
    pub container: u16,
}

/// The inside of the switch at a moment.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Look {
    pub ports: Vec<Port>,
    /// As `conntrack -L` prints them.
    pub flows: Vec<String>,
    /// What should not have happened: a device lost, the event loop at its end.
    pub trouble: Vec<String>,
}

/// A port with what was counted.
#[derive(Debug, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    /// From the container: frames and bytes.
    pub frames: u64,
    pub bytes: u64,
    /// By reason.
    pub drops: Vec<(String, u64)>,
}

#[derive(Serialize, Deserialize)]
enum Ask {
    Attach { name: String, pid: i32 },
    Publish { name: String, ports: Vec<Published> },
    Look,
}

impl Switch {
    /// Starts it in a process of its own. The uplink is in the caller's network namespace.
    pub fn start(options: Options) -> Result<Self, String> {
        let process = Holder::fork(None, |parent| serve(parent, options));
        let process = process.map_err(|error| format!("cannot start a process for the switch: {error}"))?;
        process.ready().map_err(told)?;
        Ok(Self(process))
    }

    /// Attaches the network namespace of a process.
    pub fn attach(&self, name: &str, pid: i32) -> Result<Attached, String> {
        self.ask(&Ask::Attach { name: name.into(), pid })
    }

    /// Publishes ports of a container.
    pub fn publish(&self, name: &str, ports: &[Published]) -> Result<(), String> {
        self.ask(&Ask::Publish { name: name.into(), ports: ports.into() })
    }

    /// Looks inside.
    pub fn look(&self) -> Result<Look, String> {
        self.ask(&Ask::Look)
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, ask: &Ask) -> Result<T, String> {
        self.0.ask(ask).and_then(|()| self.0.result()).map_err(told)
    }

    /// Ends it: it deletes its devices. (Dropping it instead kills it, and they go with their namespaces.)
    pub fn end(self) -> Result<(), String> {
        self.0.end(END).map_err(told)
    }
}

fn told(why: String) -> String {
    format!("the switch: {why}")
}

/// The process of the switch: its event loop has a thread, this one answers.
fn serve(parent: &Parent, options: Options) -> Result<(), String> {
    let Options { subnet, gateway, address, peer, uplink } = options;
    // Before the first thread.
    let mut helper = EnterHelper::spawn().map_err(|error| format!("cannot start the helper process: {error}"))?;
    let config = UplinkConfig {
        name: uplink.into(),
        address: address.into(),
        peer: Some(peer),
        netns: None,
        mtu: None,
        header: Header::Vnet,
    };
    let uplink = Uplink::open(&mut helper, &config).map_err(|error| error.to_string())?;
    let mtu = uplink.mtu().and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(1500);
    let seen_as = CoreUplink { address: address.into(), mtu, mss_clamp: false };
    let poll = mio::Poll::new().map_err(|error| format!("cannot make an epoll instance: {error}"))?;
    let waker = mio::Waker::new(poll.registry(), mio::Token(0)).map_err(|error| error.to_string())?;
    let (notifier, notices) = Notifier::new(waker.into());
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()).map_err(|error| error.to_string())?;
    let start = reactor::Start { config: datapath::Config::default(), uplink: Some((uplink, seen_as)), seed, notifier };
    let switch = reactor::start(start).map_err(|error| error.to_string())?;
    let network =
        NetworkConfig { subnet: Some(subnet), gateway: Some(gateway.into()), ..NetworkConfig::named(NETWORK) };
    switch.apply(Command::AddNetwork(network)).map_err(|error| error.to_string())?;
    parent.ready()?;
    while let Some(ask) = parent.request()? {
        match ask {
            Ask::Attach { name, pid } => parent.done(attach(&switch, &mut helper, &name, pid))?,
            Ask::Publish { name, ports } => parent.done(publish(&switch, name, &ports))?,
            Ask::Look => parent.done(look(&switch, notices.try_iter()))?,
        }
    }
    switch.shutdown().map_err(|error| error.to_string())
}

fn attach(switch: &LoopHandle, helper: &mut EnterHelper, name: &str, pid: i32) -> Result<Attached, String> {
    let endpoint = EndpointRequest {
        name: name.into(),
        network: NETWORK.into(),
        ifname: "eth0".into(),
        ip: None,
        mac: MacChoice::FromIp,
        isolated: false,
    };
    let reserved = switch.apply(Command::Reserve(endpoint)).map_err(|error| error.to_string())?;
    let Applied::Reserved(endpoint) = reserved else { return Err("no address was reserved".into()) };
    let ip = endpoint.ip.ok_or("the network has no addresses")?;
    let config = Config {
        label: Some(name.into()),
        mac: Some(endpoint.mac),
        mtu: Some(endpoint.mtu.into()),
        addresses: vec![ip],
        ..Config::default()
    };
    let config = endpoint.gateway.into_iter().fold(config, Config::with_gateway);
    let request =
        Request { target: Target::Pid(pid), kind: Kind::Tap, name: "eth0".into(), header: Header::Vnet, config };
    let mut opened: Opened = helper.open(request).map_err(|error| error.to_string())?;
    let life = Life::Pid(opened.pidfd.take().ok_or("the helper gave no pidfd")?);
    let port = TapPort::attach(opened, life).map_err(|error| format!("cannot keep the TAP of {name}: {error}"))?;
    let caps = port.device().caps();
    let caps = Caps { vnet: caps.vnet, uso: caps.uso };
    switch.add_port(endpoint.port, port).map_err(|not_added| not_added.why.to_string())?;
    switch.apply(Command::Open { port: endpoint.port, caps }).map_err(|error| error.to_string())?;
    Ok(Attached { ip: v4(ip.addr())?, mac: endpoint.mac })
}

fn v4(addr: Addr) -> Result<Ipv4Addr, String> {
    addr.as_v4().map(Ipv4Addr::from).ok_or_else(|| format!("{addr} is not an IPv4 address"))
}

fn publish(switch: &LoopHandle, name: String, ports: &[Published]) -> Result<(), String> {
    let ports = ports.iter().map(|&Published { proto, host, container }| Publication {
        proto,
        host_ip: None,
        host_port: host,
        container_port: container,
    });
    let command = Command::Publish { name, ifname: None, ports: ports.collect() };
    switch.apply(command).map(drop).map_err(|error| error.to_string())
}

fn look(switch: &LoopHandle, notices: impl Iterator<Item = Notice>) -> Result<Look, String> {
    let mut look = Look { trouble: notices.map(|notice| format!("{notice:?}")).collect(), ..Look::default() };
    let ask = |query| switch.query(query).map_err(|error| error.to_string());
    if let Answer::Ports(ports) = ask(Query::Ports)? {
        look.ports = ports
            .into_iter()
            .map(|port| {
                let Traffic { frames, bytes } = port.rx;
                let drops = port.drops.into_iter().map(|(why, count)| (why.to_owned(), count)).collect();
                Port { name: port.name, frames, bytes, drops }
            })
            .collect();
    }
    let mut cursor = 0;
    while let Answer::Flows(page) = ask(Query::Flows { cursor, max: PAGE })? {
        look.flows.extend(page.rows.into_iter().map(|flow| flow.line));
        match page.next {
            Some(next) if look.flows.len() < PAGE => cursor = next,
            Some(_) | None => break,
        }
    }
    Ok(look)
}
