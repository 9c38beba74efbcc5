//! `pontoon publish` and `pontoon unpublish`.

use std::io::{self, Write};

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{Control, Failure};
use crate::control::portspec::{self, PortSpec};
use crate::control::protocol::{self, Call, Published};

#[derive(Debug, Args)]
pub struct Publish {
    #[command(flatten)]
    control: Control,
    /// The container's name
    name: String,
    /// The device whose address the connections go to [default: the container's first]
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// [[IP:][HOST[-HOST]]:]CTR[-CTR][/tcp|udp]; all of them or none. Without HOST a free port is chosen, and told
    #[arg(required = true)]
    ports: Vec<PortSpec>,
}

#[derive(Debug, Args)]
pub struct Unpublish {
    #[command(flatten)]
    control: Control,
    /// The container's name
    name: String,
    /// As they were published, or as they were told; all of them or none
    #[arg(required = true)]
    ports: Vec<PortSpec>,
}

pub fn publish(options: Publish) -> Result<(), Failure> {
    let Publish { control, name, ifname, ports } = options;
    let told = control.connect()?.call(&Call::Publish(protocol::Publish { name, ifname, ports: ports.clone() }))?;
    let mut out = io::stdout().lock();
    write_chosen(&mut out, &ports, &told)?;
    Ok(out.flush()?)
}

/// A line for each port that was not named, as `docker port` has it. `told`: an answer with `published`.
pub fn write_chosen(out: &mut impl Write, asked: &[PortSpec], told: &Value) -> Result<(), Failure> {
    let published = Published::deserialize(told)
        .map_err(|error| Failure::Failed(format!("the switch told no published ports: {error}")))?;
    for one in portspec::chosen(asked, &published.published) {
        writeln!(out, "{}", one.arrow())?;
    }
    Ok(())
}

pub fn unpublish(options: Unpublish) -> Result<(), Failure> {
    let Unpublish { control, name, ports } = options;
    control.tell(&Call::Unpublish(protocol::Unpublish { name, ports }))
}
