//! `pontoon fdb`: learned stations.

use super::table::{Column, list, show};
use super::{Failure, Listing};
use crate::control::protocol::{Call, Nothing};

pub fn run(options: &Listing) -> Result<(), Failure> {
    list(
        options,
        &Call::Fdb(Nothing {}),
        &[
            Column("NETWORK", |row| show(&row["network"])),
            Column("MAC", |row| show(&row["mac"])),
            Column("PORT", |row| show(&row["port"])),
            Column("NAME", |row| show(&row["name"])),
            Column("AGE", |row| match row["permanent"].as_bool() {
                Some(true) => "permanent".into(),
                Some(false) | None => format!("{}s", show(&row["age_seconds"])),
            }),
        ],
    )
}
