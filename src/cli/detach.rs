//! `pontoon detach`: a container's ports are taken away.

use clap::Args;

use super::{Control, Failure};
use crate::control::protocol::{Call, Detach};

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    control: Control,
    /// The container's name
    name: String,
    /// Only this device [default: all of the container]
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
}

pub fn run(options: Options) -> Result<(), Failure> {
    let Options { control, name, ifname } = options;
    control.tell(&Call::Detach(Detach { name, ifname }))
}
