//! `pontoon inspect`: all about one container or network.

use std::io::{self, Write};

use clap::Args;

use super::table::write_object;
use super::{Failure, Listing};
use crate::control::protocol::{Call, Named};

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    listing: Listing,
    /// A container or a network
    name: String,
}

pub fn run(options: Options) -> Result<(), Failure> {
    let Options { listing, name } = options;
    let told = listing.control.connect()?.call(&Call::Inspect(Named { name }))?;
    let mut out = io::stdout().lock();
    if listing.json {
        writeln!(out, "{told}")?;
    } else {
        write_object(&mut out, &told)?;
    }
    Ok(out.flush()?)
}
