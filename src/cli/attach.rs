//! `pontoon attach`: a container gets a port.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::{ArgGroup, Args};

use super::publish::write_chosen;
use super::table::show;
use super::{Control, Failure};
use crate::control::portspec::PortSpec;
use crate::control::protocol::{Attach, Call, DEFAULT_NETWORK, MacSpec};
use crate::io::spool::tell;
use crate::io::sys::inherit;
use crate::wire::addr::Addr;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).args(["netns", "pid", "tap_fd"])))]
pub struct Options {
    #[command(flatten)]
    control: Control,
    /// The container's name
    name: String,
    /// Network namespace, as /run/netns/NAME; the port lives as long as the path leads there
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// A process in the network namespace; the port lives as long as it runs
    #[arg(long)]
    pid: Option<i32>,
    /// An open TAP, inherited; the port lives as long as this command, which waits
    #[arg(long, value_name = "N")]
    tap_fd: Option<i32>,
    /// The network to join
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NETWORK)]
    net: String,
    /// Name of the device in the namespace
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: String,
    /// A fixed address [default: the lowest free one]
    #[arg(long, value_parser = Addr::parse)]
    ip: Option<Addr>,
    /// MAC address, random, or from-ip (02:42 and the IPv4 address) [default: random; of a TAP its own]
    #[arg(long)]
    mac: Option<MacSpec>,
    /// May not talk to other isolated containers of its network
    #[arg(long)]
    isolated: bool,
    /// Publish a port: [[IP:][HOST[-HOST]]:]CTR[-CTR][/tcp|udp]; without HOST a free one is chosen, and told
    #[arg(short = 'p', long = "publish", value_name = "PORTS")]
    publish: Vec<PortSpec>,
    /// Tell the addresses as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(options: Options) -> Result<(), Failure> {
    let Options { control, name, netns, pid, tap_fd, net, ifname, ip, mac, isolated, publish, json } = options;
    let tap = tap_fd
        .map(|number| inherit::take(number).map_err(|error| Failure::Usage(format!("--tap-fd {number}: {error}"))))
        .transpose()?;
    let netns = netns
        .map(|path| {
            std::path::absolute(&path).map_err(|error| Failure::Usage(format!("--netns {}: {error}", path.display())))
        })
        .transpose()?;
    let call = Call::Attach(Attach {
        name,
        network: net,
        ifname,
        netns,
        pid,
        tap_fd: tap.is_some(),
        ip,
        mac,
        isolated,
        publish: publish.clone(),
    });
    let mut client = control.connect()?;
    let told = match &tap {
        Some(tap) => client.call_with(&call, tap.as_fd())?,
        None => client.call(&call)?,
    };
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{told}")?;
    } else {
        writeln!(
            out,
            "{} {}: {} mac {} gateway {} mtu {} on {}",
            show(&told["name"]),
            show(&told["ifname"]),
            show(&told["ip"]),
            show(&told["mac"]),
            show(&told["gateway"]),
            show(&told["mtu"]),
            show(&told["network"]),
        )?;
        write_chosen(&mut out, &publish, &told)?;
    }
    out.flush()?;
    if tap.is_some() {
        // The port lives by this connection. The descriptor itself is the switch's now.
        drop(tap);
        client
            .wait_for_end()
            .map_err(|error| Failure::Failed(format!("the connection to the switch broke: {error}")))?;
        let why = "it was detached, its device was deleted, or the switch has ended";
        tell(&format!("pontoon: attach: {}: its port is gone: {why}", show(&told["name"])));
    }
    Ok(())
}
