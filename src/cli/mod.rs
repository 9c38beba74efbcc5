//! The command line: one file per subcommand.
//!
//! Errors are one line on standard error: what failed, why, and what to do. Exit status 2: the command line was wrong;
//! 1: anything else, but for `run`, whose exit status is its command's. Listings are tables for people, and with `--json` the rows as the socket gives them.

pub mod config;
pub mod demo;

mod attach;
mod capture;
mod detach;
mod fdb;
mod flows;
mod inspect;
mod manage;
mod neighbours;
mod network;
mod ports;
mod publish;
mod routes;
mod rule;
mod run;
mod stats;
mod switch;
mod table;
mod userns;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use crate::control::client::{Client, ClientError};
use crate::control::protocol::Call;
use crate::io::spool::tell;

/// An Ethernet switch, a router and a NAT for rootless containers, in one unprivileged process.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Three rootless containers on two switches, with either uplink, real traffic, a table of results
    Demo,
    /// Run a command in a new rootless container behind its own switch
    Run(run::Options),
    /// Run a switch
    Switch(switch::Options),
    /// Add, remove or list networks
    #[command(subcommand)]
    Network(network::Command),
    /// Give a container a port
    Attach(attach::Options),
    /// Take ports away from a container
    Detach(detach::Options),
    /// Publish ports of a container
    Publish(publish::Publish),
    /// Withdraw published ports
    Unpublish(publish::Unpublish),
    /// List the ports of the switch
    Ports(Listing),
    /// List published ports
    Published(ports::Published),
    /// List learned stations
    Fdb(Listing),
    /// List tracked flows, as conntrack -L does
    Flows(Listing),
    /// Drop tracked flows
    FlushFlows(flows::Flush),
    /// List the routing table
    Routes(Listing),
    /// Route destinations by the uplink
    #[command(subcommand)]
    Route(routes::Command),
    /// List neighbours of the gateways
    Neighbours(Listing),
    /// Static translation rules
    #[command(subcommand)]
    Rule(rule::Command),
    /// Counters of the whole
    Stats(Listing),
    /// All about one container or network
    Inspect(inspect::Options),
    /// Write every frame to a pcapng file
    #[command(subcommand)]
    Capture(capture::Command),
    /// Say more, or less, on the switch's standard error
    LogLevel(manage::LogLevel),
    /// End the switch
    Shutdown(Control),
}

/// Where the switch is.
#[derive(Clone, Debug, Args)]
struct Control {
    /// Control socket [default: $XDG_RUNTIME_DIR/pontoon.sock, for root /run/pontoon.sock]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
}

/// A listing.
#[derive(Debug, Args)]
struct Listing {
    #[command(flatten)]
    control: Control,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Why there is no result.
#[derive(Debug)]
enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// The rest.
    Failed(String),
    /// Whoever read the output has enough of it.
    Enough,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Sink(why) => why.into(),
            error => Failure::Failed(error.to_string()),
        }
    }
}

impl From<io::Error> for Failure {
    /// Of writing to standard output.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Enough,
            _ => Failure::Failed(format!("cannot write the output: {error}")),
        }
    }
}

/// Runs the command line; the exit status says what became of it.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Help into a closed pipe is nobody's failure.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nothing was asked for: the answer is what can be.
            let _ = error.print();
            return ExitCode::from(2);
        }
        Err(error) => {
            tell(&format!("pontoon: {}", one_line(&error)));
            return ExitCode::from(2);
        }
    };
    let (name, result) = match cli.command {
        Command::Demo => return demo::run(),
        Command::Run(options) => return run::run(options),
        Command::Switch(options) => ("switch", switch::run(options)),
        Command::Network(command) => ("network", network::run(command)),
        Command::Attach(options) => ("attach", attach::run(options)),
        Command::Detach(options) => ("detach", detach::run(options)),
        Command::Publish(options) => ("publish", publish::publish(options)),
        Command::Unpublish(options) => ("unpublish", publish::unpublish(options)),
        Command::Ports(options) => ("ports", ports::run(&options)),
        Command::Published(options) => ("published", ports::published(options)),
        Command::Fdb(options) => ("fdb", fdb::run(&options)),
        Command::Flows(options) => ("flows", flows::run(&options)),
        Command::FlushFlows(options) => ("flush-flows", flows::flush(options)),
        Command::Routes(options) => ("routes", routes::list(&options)),
        Command::Route(command) => ("route", routes::change(command)),
        Command::Neighbours(options) => ("neighbours", neighbours::run(&options)),
        Command::Rule(command) => ("rule", rule::run(command)),
        Command::Stats(options) => ("stats", stats::run(&options)),
        Command::Inspect(options) => ("inspect", inspect::run(options)),
        Command::Capture(command) => ("capture", capture::run(command)),
        Command::LogLevel(options) => ("log-level", manage::log_level(options)),
        Command::Shutdown(control) => ("shutdown", manage::shutdown(&control)),
    };
    match result {
        Ok(()) | Err(Failure::Enough) => ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => {
            tell(&format!("pontoon: {name}: {why}"));
            ExitCode::from(2)
        }
        Err(Failure::Failed(why)) => {
            tell(&format!("pontoon: {name}: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// clap's words on one line: what is wrong, which arguments, and a tip if it has one.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut said = Vec::new();
    for line in text.lines() {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        let line = words(line.strip_prefix("error: ").unwrap_or(line));
        if let Some(tip) = line.strip_prefix("tip: ") {
            said.push(format!("({tip})"));
        } else if !line.is_empty() {
            said.push(line);
        }
    }
    format!("{}; see pontoon --help", said.join(" "))
}

impl Control {
    /// The socket's path.
    fn path(&self) -> Result<PathBuf, Failure> {
        control_path(self.control.clone(), std::env::var_os("XDG_RUNTIME_DIR"), rustix::process::geteuid().is_root())
    }

    fn connect(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.path()?)?)
    }

    /// Makes a call whose answer has nothing to say.
    fn tell(&self, call: &Call) -> Result<(), Failure> {
        self.connect()?.call(call)?;
        Ok(())
    }
}

fn control_path(given: Option<PathBuf>, runtime: Option<OsString>, root: bool) -> Result<PathBuf, Failure> {
    // The XDG base directory specification: a relative path is as good as none.
    let runtime = runtime.map(PathBuf::from).filter(|path| path.is_absolute());
    match (given, runtime) {
        (Some(path), _) => Ok(path),
        (None, Some(runtime)) => Ok(runtime.join("pontoon.sock")),
        (None, None) if root => Ok("/run/pontoon.sock".into()),
        (None, None) => {
            Err(Failure::Usage("no control socket: XDG_RUNTIME_DIR is not set; name one with --control PATH".into()))
        }
    }
}

#[cfg(test)]
mod tests;
