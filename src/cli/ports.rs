//! `pontoon ports` and `pontoon published`.

use std::io::{self, BufWriter, Write};

use clap::Args;
use serde_json::Value;

use super::table::{Column, JsonArray, list, show};
use super::{Failure, Listing};
use crate::control::protocol::{Call, Nothing};

pub fn run(options: &Listing) -> Result<(), Failure> {
    list(
        options,
        &Call::Ports(Nothing {}),
        &[
            Column("PORT", |row| show(&row["port"])),
            Column("NAME", |row| show(&row["name"])),
            Column("DEVICE", |row| show(&row["ifname"])),
            Column("NETWORK", |row| show(&row["network"])),
            Column("IP", |row| show(&row["ip"])),
            Column("MAC", |row| show(&row["mac"])),
            Column("STATE", |row| show(&row["state"])),
            Column("RX-FRAMES", |row| show(&row["rx"]["frames"])),
            Column("RX-BYTES", |row| show(&row["rx"]["bytes"])),
            Column("TX-FRAMES", |row| show(&row["tx"]["frames"])),
            Column("TX-BYTES", |row| show(&row["tx"]["bytes"])),
            Column("DROPS", |row| drops(&row["drops"])),
        ],
    )
}

/// `reason=count` of each.
fn drops(drops: &Value) -> String {
    let each: Vec<String> =
        drops.as_array().into_iter().flatten().map(|one| format!("{}={}", show(&one[0]), show(&one[1]))).collect();
    if each.is_empty() { "-".into() } else { each.join(",") }
}

#[derive(Debug, Args)]
pub struct Published {
    #[command(flatten)]
    listing: Listing,
    /// Only those of this container
    name: Option<String>,
}

/// As `docker port` has it: `80/tcp -> 0.0.0.0:2024` (S35).
pub fn published(options: Published) -> Result<(), Failure> {
    let Published { listing, name } = options;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut client = listing.control.connect()?;
    let call = Call::Published(Nothing {});
    let wanted = |row: &Value| name.as_deref().is_none_or(|name| row["name"] == name);
    if listing.json {
        let mut array = JsonArray::new(&mut out);
        client.list(&call, &mut |row| if wanted(&row) { array.push(&row) } else { Ok(()) })?;
        array.end()?;
    } else {
        client.list(&call, &mut |row| {
            if wanted(&row) { write_published(&mut out, &row, name.is_none()) } else { Ok(()) }
        })?;
    }
    Ok(out.flush()?)
}

fn write_published(out: &mut impl Write, row: &Value, with_name: bool) -> io::Result<()> {
    if with_name {
        write!(out, "{} ", show(&row["name"]))?;
    }
    let host = match &row["host_ip"] {
        Value::Null => "0.0.0.0".into(),
        Value::String(ip) if ip.contains(':') => format!("[{ip}]"),
        ip => show(ip),
    };
    let (container, proto) = (show(&row["container_port"]), show(&row["proto"]));
    writeln!(out, "{container}/{proto} -> {host}:{}", show(&row["host_port"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // S35
    #[test]
    fn a_published_port_is_written_as_docker_does() {
        let row = json!({"name":"c2","proto":"tcp","host_ip":null,"host_port":2024,"container_port":80});
        let mut out = Vec::new();
        write_published(&mut out, &row, false).expect("memory takes it");
        assert_eq!(out, b"80/tcp -> 0.0.0.0:2024\n");
    }

    #[test]
    fn every_reason_of_a_drop_is_told() {
        assert_eq!(drops(&json!([["martian", 2], ["ttl", 1]])), "martian=2,ttl=1");
        assert_eq!(drops(&json!([])), "-");
    }
}
