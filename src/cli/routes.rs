//! `pontoon routes` and `pontoon route add|remove`.

use clap::{Args, Subcommand};

use super::table::{Column, list as list_rows, show};
use super::{Control, Failure, Listing};
use crate::control::protocol::{Call, Nothing, Route};
use crate::wire::addr::Cidr;

pub fn list(options: &Listing) -> Result<(), Failure> {
    list_rows(
        options,
        &Call::Routes(Nothing {}),
        &[
            Column("DESTINATION", |row| show(&row["dst"])),
            Column("DEVICE", |row| show(&row["dev"])),
            Column("SOURCE", |row| show(&row["src"])),
        ],
    )
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Route a destination by the uplink
    Add(Destination),
    /// Remove that route
    Remove(Destination),
}

#[derive(Debug, Args)]
pub struct Destination {
    #[command(flatten)]
    control: Control,
    /// As 198.51.100.0/24
    dst: Cidr,
}

pub fn change(command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(Destination { control, dst }) => control.tell(&Call::RouteAdd(Route { dst })),
        Command::Remove(Destination { control, dst }) => control.tell(&Call::RouteRemove(Route { dst })),
    }
}
