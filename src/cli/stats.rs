//! `pontoon stats`: counters of the whole.

use std::io::{self, Write};

use super::table::write_object;
use super::{Failure, Listing};
use crate::control::protocol::{Call, Nothing};

pub fn run(options: &Listing) -> Result<(), Failure> {
    let told = options.control.connect()?.call(&Call::Stats(Nothing {}))?;
    let mut out = io::stdout().lock();
    if options.json {
        writeln!(out, "{told}")?;
    } else {
        write_object(&mut out, &told)?;
    }
    Ok(out.flush()?)
}
