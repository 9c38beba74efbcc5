//! The switch that is shown: `pontoon switch`, this same program, controlled by its socket as anybody would.
//!
//! # Theory of operation
//! The program is run in a process that ends with the demo. The socket of the demo to that process is its `--ready-fd`
//! and its `--exit-fd`: it says "1" there when it is ready, and ends when the demo lets go. Each call of the API is made
//! by a short-lived process, so that a switch that does not answer cannot hold the demo.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::place::{Holder, Parent};
use crate::control::client::Client;
use crate::control::portspec::PortSpec;
use crate::control::protocol::{self, Attach, Call, DEFAULT_NETWORK, MacSpec, Nothing};
use crate::core::command::MacChoice;
use crate::wire::addr::{Addr, Cidr};
use crate::wire::mac::Mac;

/// How long its end is waited for: it deletes its devices first.
const END: Duration = Duration::from_secs(2);

/// The program that runs, wherever it lies, even if it was replaced meanwhile: proc(5).
const OURSELVES: &str = "/proc/self/exe";

/// The running switch.
pub struct Switch {
    process: Holder,
    control: &'static Path,
}

/// What it is to be like.
#[derive(Clone, Copy)]
pub struct Options {
    /// Where its socket is to be.
    pub control: &'static Path,
    pub subnet: Cidr,
    pub gateway: Ipv4Addr,
    pub uplink: Uplink,
}

/// Its way to the world.
#[derive(Clone, Copy)]
pub enum Uplink {
    /// A TUN of this name, its own address on it, and the kernel's side.
    Tun { name: &'static str, address: Ipv4Addr, peer: Cidr },
    /// The host's sockets.
    Sockets,
}

/// A container as it was attached.
#[derive(Debug, Clone, Copy)]
pub struct Attached {
    pub ip: Ipv4Addr,
    pub mac: Mac,
}

/// The inside of the switch at a moment.
#[derive(Debug, Default)]
pub struct Look {
    pub ports: Vec<Port>,
    /// As `conntrack -L` prints them.
    pub flows: Vec<String>,
}

/// A row of `pontoon ports --json`.
#[derive(Debug, Deserialize)]
pub struct Port {
    pub name: String,
    /// `up`, if all is well.
    pub state: String,
    /// From the container.
    pub rx: Traffic,
    /// By reason.
    pub drops: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Traffic {
    pub frames: u64,
    pub bytes: u64,
}

/// A row of `pontoon flows --json`, of which the line is enough.
#[derive(Deserialize)]
struct Flow {
    line: String,
}

impl Switch {
    /// Runs it. The uplink is in the caller's network namespace.
    pub fn start(options: Options) -> Result<Self, String> {
        let process = Holder::fork(None, |parent| Err(run(parent, &options)));
        let process = process.map_err(|error| format!("cannot start a process for the switch: {error}"))?;
        process.says(b"1\n").map_err(|why| format!("the switch is not ready: {why}"))?;
        Ok(Self { process, control: options.control })
    }

    /// Attaches the network namespace of a process, and publishes ports of it.
    pub fn attach(&self, name: &str, pid: i32, publish: &[PortSpec]) -> Result<Attached, String> {
        let attach = Attach {
            name: name.into(),
            network: DEFAULT_NETWORK.into(),
            ifname: "eth0".into(),
            netns: None,
            pid: Some(pid),
            tap_fd: false,
            ip: None,
            mac: Some(MacSpec(MacChoice::FromIp)),
            isolated: false,
            publish: publish.into(),
        };
        let answer = self.ask(|client| client.call(&Call::Attach(attach)).map_err(|error| error.to_string()))?;
        let attached: protocol::Attached = parse(answer)?;
        let ip = attached.ip.map(|ip| ip.addr()).and_then(Addr::as_v4).ok_or("the switch gave no IPv4 address")?;
        Ok(Attached { ip: ip.into(), mac: attached.mac })
    }

    /// Looks inside.
    pub fn look(&self) -> Result<Look, String> {
        let ports = self.list(&Call::Ports(Nothing {}))?;
        let flows = self.list(&Call::Flows(Nothing {}))?.into_iter().map(parse::<Flow>);
        Ok(Look {
            ports: ports.into_iter().map(parse).collect::<Result<_, _>>()?,
            flows: flows.map(|flow| flow.map(|flow| flow.line)).collect::<Result<_, _>>()?,
        })
    }

    /// Ends it: it deletes its devices. (Dropping it instead kills it, and they go with their namespaces.)
    pub fn end(self) -> Result<(), String> {
        self.process.end(END).map_err(|why| format!("the switch: {why}"))
    }

    fn list(&self, call: &Call) -> Result<Vec<Value>, String> {
        let rows = self.ask(|client| {
            let mut rows = Vec::new();
            let mut keep = |row| {
                rows.push(row);
                Ok(())
            };
            client.list(call, &mut keep).map_err(|error| error.to_string())?;
            Ok(Value::Array(rows))
        })?;
        parse(rows)
    }

    fn ask(&self, make: impl FnOnce(&mut Client) -> Result<Value, String>) -> Result<Value, String> {
        let caller = Holder::fork(None, |parent| {
            let answer = Client::connect(self.control).map_err(|error| error.to_string());
            parent.done(answer.and_then(|mut client| make(&mut client)))
        });
        let caller = caller.map_err(|error| format!("cannot start a process: {error}"))?;
        caller.result().map_err(|why| format!("the switch: {why}"))
    }
}

/// Becomes the switch; returns only why not.
fn run(parent: &Parent, options: &Options) -> String {
    let Options { control, subnet, gateway, uplink } = options;
    let uplink = match uplink {
        Uplink::Tun { name, address, peer } => format!("tun:name={name},address={address},peer={peer}"),
        Uplink::Sockets => "sockets".to_owned(),
    };
    let [ready, exit] = match parent.inheritable() {
        Ok(descriptors) => descriptors,
        Err(error) => return format!("cannot hand the switch a descriptor: {error}"),
    };
    let error = Command::new(OURSELVES)
        .arg0("pontoon")
        .args(["switch", "--log", "error", "--control"])
        .arg(control)
        .args(["--subnet", &subnet.to_string(), "--gateway", &gateway.to_string()])
        .args(["--uplink", &uplink])
        .args(["--ready-fd", &ready.as_raw_fd().to_string(), "--exit-fd", &exit.as_raw_fd().to_string()])
        .exec();
    format!("cannot run {OURSELVES}: {error}")
}

fn parse<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, String> {
    serde_json::from_value(answer).map_err(|error| format!("the switch gave an answer of another form: {error}"))
}
