//! `pontoon network add|remove|list`.

use clap::{Args, Subcommand, ValueEnum};

use super::table::{Column, list, show};
use super::{Control, Failure, Listing};
use crate::control::protocol::{Call, Gateway, Named, NetworkSpec, Nothing};
use crate::core::command::Guard;
use crate::wire::addr::Cidr;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a network
    Add(Add),
    /// Remove a network without containers
    Remove(Remove),
    /// List networks
    List(Listing),
}

#[derive(Debug, Args)]
pub struct Add {
    #[command(flatten)]
    control: Control,
    name: String,
    /// IPv4 prefix, as 172.18.0.0/16; without one the network has no addresses
    #[arg(long)]
    subnet: Option<Cidr>,
    /// Address of the gateway, or none [default: the first of the subnet]
    #[arg(long, value_name = "ADDR|none")]
    gateway: Option<Gateway>,
    /// Bytes of an IP packet [default: 1500]
    #[arg(long)]
    mtu: Option<u16>,
    /// Nothing crosses the gateway
    #[arg(long)]
    internal: bool,
    /// May containers reach each other?
    #[arg(long, default_value = "on")]
    icc: Switched,
    /// Translate the source of what leaves by the uplink?
    #[arg(long, default_value = "on")]
    masquerade: Switched,
    /// What a container may claim as its own
    #[arg(long, default_value = "default")]
    guard: GuardName,
    /// Seconds that a learned address is kept [default: 300]
    #[arg(long, value_name = "SECONDS")]
    ageing: Option<u64>,
    /// Broadcast and unknown frames a port may send per second [default: 20000]
    #[arg(long, value_name = "FRAMES")]
    flood_rate: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Switched {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum GuardName {
    Off,
    Default,
    Strict,
}

#[derive(Debug, Args)]
pub struct Remove {
    #[command(flatten)]
    control: Control,
    name: String,
}

pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(add) => {
            let (control, spec) = add.spec();
            control.tell(&Call::NetworkAdd(spec))
        }
        Command::Remove(Remove { control, name }) => control.tell(&Call::NetworkRemove(Named { name })),
        Command::List(options) => list(
            &options,
            &Call::NetworkList(Nothing {}),
            &[
                Column("NAME", |row| show(&row["name"])),
                Column("SUBNET", |row| show(&row["subnet"])),
                Column("GATEWAY", |row| show(&row["gateway"])),
                Column("MTU", |row| show(&row["mtu"])),
                Column("INTERNAL", |row| show(&row["internal"])),
                Column("ICC", |row| show(&row["icc"])),
                Column("MASQUERADE", |row| show(&row["masquerade"])),
                Column("GUARD", |row| show(&row["guard"])),
                Column("ENDPOINTS", |row| show(&row["endpoints"])),
                Column("STATIONS", |row| show(&row["stations"])),
            ],
        ),
    }
}

impl Add {
    fn spec(self) -> (Control, NetworkSpec) {
        let Add { control, name, subnet, gateway, mtu, internal, icc, masquerade, guard, ageing, flood_rate } = self;
        let is_on = |switched| match switched {
            Switched::On => Some(true),
            Switched::Off => Some(false),
        };
        let spec = NetworkSpec {
            name,
            subnet,
            gateway,
            mtu,
            internal: Some(internal),
            icc: is_on(icc),
            masquerade: is_on(masquerade),
            guard: Some(match guard {
                GuardName::Off => Guard::Off,
                GuardName::Default => Guard::Default,
                GuardName::Strict => Guard::Strict,
            }),
            ageing_seconds: ageing,
            flood_rate,
        };
        (control, spec)
    }
}
