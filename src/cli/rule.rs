//! `pontoon rule add|remove|list`: static translation.

use clap::{Args, Subcommand, ValueEnum};

use super::table::{Column, list, show};
use super::{Control, Failure, Listing};
use crate::control::protocol::{self, Call, Nothing};
use crate::core::command::Transport;
use crate::wire::addr::{Addr, Cidr};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a rule
    #[command(subcommand)]
    Add(Rule),
    /// Remove a rule, given as it was added
    #[command(subcommand)]
    Remove(Rule),
    /// List rules
    List(Listing),
}

#[derive(Debug, Subcommand)]
pub enum Rule {
    /// New flows to DST:PORT go to TO:TO_PORT instead
    Dnat(Dnat),
    /// New flows from SOURCE leave the uplink as TO
    Snat(Snat),
    /// Flows to DST keep their source
    Nonat(NoNat),
}

#[derive(Debug, Args)]
pub struct Dnat {
    #[command(flatten)]
    control: Control,
    proto: Proto,
    #[arg(value_parser = Addr::parse)]
    dst: Addr,
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    #[arg(value_parser = Addr::parse)]
    to: Addr,
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    to_port: u16,
}

#[derive(Debug, Args)]
pub struct Snat {
    #[command(flatten)]
    control: Control,
    source: Cidr,
    #[arg(value_parser = Addr::parse)]
    to: Addr,
}

#[derive(Debug, Args)]
pub struct NoNat {
    #[command(flatten)]
    control: Control,
    dst: Cidr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Proto {
    Tcp,
    Udp,
}

pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(rule) => {
            let (control, rule) = rule.split();
            control.tell(&Call::RuleAdd(rule))
        }
        Command::Remove(rule) => {
            let (control, rule) = rule.split();
            control.tell(&Call::RuleRemove(rule))
        }
        Command::List(options) => list(
            &options,
            &Call::RuleList(Nothing {}),
            &[Column("RULE", |row| {
                let (dnat, snat, nonat) = (&row["dnat"], &row["snat"], &row["nonat"]);
                if dnat.is_object() {
                    format!(
                        "dnat {} {} {} {} {}",
                        show(&dnat["proto"]),
                        show(&dnat["dst"]),
                        show(&dnat["port"]),
                        show(&dnat["to"]),
                        show(&dnat["to_port"])
                    )
                } else if snat.is_object() {
                    format!("snat {} {}", show(&snat["source"]), show(&snat["to"]))
                } else {
                    format!("nonat {}", show(&nonat["dst"]))
                }
            })],
        ),
    }
}

impl Rule {
    fn split(self) -> (Control, protocol::Rule) {
        match self {
            Rule::Dnat(Dnat { control, proto, dst, port, to, to_port }) => {
                let proto = match proto {
                    Proto::Tcp => Transport::Tcp,
                    Proto::Udp => Transport::Udp,
                };
                (control, protocol::Rule::Dnat(protocol::Dnat { proto, dst, port, to, to_port }))
            }
            Rule::Snat(Snat { control, source, to }) => (control, protocol::Rule::Snat(protocol::Snat { source, to })),
            Rule::Nonat(NoNat { control, dst }) => (control, protocol::Rule::NoNat(protocol::NoNat { dst })),
        }
    }
}
