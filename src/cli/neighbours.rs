//! `pontoon neighbours`: whom the gateways know, and whom they wait for.

use super::table::{Column, list, show};
use super::{Failure, Listing};
use crate::control::protocol::{Call, Nothing};

pub fn run(options: &Listing) -> Result<(), Failure> {
    list(
        options,
        &Call::Neighbours(Nothing {}),
        &[
            Column("NETWORK", |row| show(&row["network"])),
            Column("IP", |row| show(&row["ip"])),
            Column("MAC", |row| show(&row["mac"])),
            Column("STATE", |row| show(&row["state"])),
            Column("HELD", |row| show(&row["held"])),
        ],
    )
}
