//! `pontoon flows` and `pontoon flush-flows`.

use std::io::{self, BufWriter, Write};

use clap::Args;

use super::table::{list, show};
use super::{Control, Failure, Listing};
use crate::control::protocol::{Call, FlushFlows, Nothing};

/// The lines that `conntrack -L` would print (X18), as they come: there may be a million.
pub fn run(options: &Listing) -> Result<(), Failure> {
    let call = Call::Flows(Nothing {});
    if options.json {
        return list(options, &call, &[]);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    options.control.connect()?.list(&call, &mut |row| writeln!(out, "{}", row["line"].as_str().unwrap_or_default()))?;
    Ok(out.flush()?)
}

#[derive(Debug, Args)]
pub struct Flush {
    #[command(flatten)]
    control: Control,
    /// Only those of this container
    name: Option<String>,
}

pub fn flush(options: Flush) -> Result<(), Failure> {
    let Flush { control, name } = options;
    let told = control.connect()?.call(&Call::FlushFlows(FlushFlows { name }))?;
    writeln!(io::stdout(), "{} flows dropped", show(&told["flushed"]))?;
    Ok(())
}
