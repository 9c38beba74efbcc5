//! `pontoon publish` and `pontoon unpublish`.

use clap::Args;

use super::{Control, Failure};
use crate::control::portspec::PortSpec;
use crate::control::protocol::{self, Call};

#[derive(Debug, Args)]
pub struct Publish {
    #[command(flatten)]
    control: Control,
    /// The container's name
    name: String,
    /// The device whose address the connections go to [default: the container's first]
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// [IP:]HOST[-HOST]:CTR[-CTR][/tcp|udp]; all of them or none
    #[arg(required = true)]
    ports: Vec<PortSpec>,
}

#[derive(Debug, Args)]
pub struct Unpublish {
    #[command(flatten)]
    control: Control,
    /// The container's name
    name: String,
    /// As they were published; all of them or none
    #[arg(required = true)]
    ports: Vec<PortSpec>,
}

pub fn publish(options: Publish) -> Result<(), Failure> {
    let Publish { control, name, ifname, ports } = options;
    control.tell(&Call::Publish(protocol::Publish { name, ifname, ports }))
}

pub fn unpublish(options: Unpublish) -> Result<(), Failure> {
    let Unpublish { control, name, ports } = options;
    control.tell(&Call::Unpublish(protocol::Unpublish { name, ports }))
}
