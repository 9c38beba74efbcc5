//! `pontoon run`: a command in a new rootless container behind a switch of its own.
//!
//! # Theory of operation
//! ```text
//!  caller's namespaces                                             | new user, network and mount namespace
//!  ----------------------------------------------------------------+--------------------------------------
//!  pontoon run            passes signals on, waits, tells status   |
//!   |-- the switch ([`behind`])  uplink; opens eth0 in there  ---- | -- eth0, lo
//!   |    '-- helper that enters namespaces                         |
//!   '-- CMD ([`inside`])  forked, unshared, held until all is ready  -->  CMD
//! ```
//!
//! 1. CMD's process is forked and makes its namespaces; 2. the switch's process is forked, and attaches that process as
//!    `pontoon attach --pid` does; 3. name servers are chosen ([`resolv`]); 4. CMD's process is let go, mounts them and
//!    becomes CMD; 5. this process waits and passes signals on ([`supervise`]).
//!
//! The switch is a process apart because this one belongs to the terminal's job: Ctrl-Z has to stop it, for the shell to
//! see, and the network of what CMD has in the background shall go on.
//!
//! # Invariants
//! - CMD never runs before its network is ready, and never without: when the switch ends first, CMD is killed.
//! - Whatever ends this process ends both others: CMD by PDEATHSIG, the switch by the end of its socket, and it kills CMD
//!   too, for a program with file capabilities loses its PDEATHSIG (prctl(2)).
//! - Nothing is written anywhere but what was asked for: --control, --pcap.

mod behind;
mod inside;
mod resolv;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Failure;
use super::config::{Overrides, Settings, Source, Uplink, UplinkChoice, UplinkSpec};
use super::switch::{failed, inherited};
use crate::control::portspec::{self, PortSpec};
use crate::control::protocol::{Attached, DEFAULT_NETWORK, Level};
use crate::core::socket::RouteKind;
use crate::core::split::policy::{self, Decision, Policy, Reason};
use crate::io::spool;
use crate::io::sys::process;
use crate::io::sys::signal::Signals;
use crate::io::sys::{inherit, msg};
use crate::wire::addr::Addr;
use behind::Switch;
use inside::{Go, Inside};
use supervise::Outcome;

/// pontoon itself failed; as docker and env(1) have it.
const FAILED: u8 = 125;
/// CMD is there and cannot be run.
const CANNOT_RUN: u8 = 126;
/// There is no CMD.
const NOT_FOUND: u8 = 127;

/// The container's name, for those who have `--control`.
const NAME: &str = "run";

/// How long a step of another process is waited for: longer than any limit inside it, so that it can say itself what hung.
const PATIENCE: Duration = Duration::from_secs(15);

/// Bytes of a message between the processes: a resolv.conf, or an address, or why not.
const MAX_MESSAGE: usize = 64 * 1024;

#[derive(Debug, Args)]
pub struct Options {
    /// Publish a port: [[IP:][HOST[-HOST]]:]CTR[-CTR][/tcp|udp]; without HOST a free one is chosen, and told
    #[arg(short = 'p', long = "publish", value_name = "PORTS")]
    publish: Vec<PortSpec>,
    /// Whom CMD runs as: root of a user namespace of its own, keep (the caller's own uid in one), none (no user namespace)
    #[arg(long, value_enum, default_value_t = User::Root)]
    user: User,
    /// A name server for CMD, instead of the host's; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = Addr::parse)]
    dns: Vec<Addr>,
    /// Control socket, as that of 'switch' [default: none]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(flatten)]
    over: Overrides,
    /// TOML; what the command line says goes before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The network to join
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NETWORK)]
    net: String,
    /// How much to say on standard error [default: warn]
    #[arg(long, value_name = "LEVEL")]
    log: Option<Level>,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Whom CMD runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum User {
    Root,
    Keep,
    None,
}

/// Runs it; CMD's exit status, or why there is none.
pub fn run(options: Options) -> ExitCode {
    match attempt(options) {
        Ok(Outcome::Status(status)) => ExitCode::from(status),
        Ok(Outcome::Lost(why)) => complain(&why, FAILED),
        Err(Failure::Usage(why)) => complain(&why, 2),
        Err(Failure::Failed(why)) => complain(&why, FAILED),
        // Nothing is printed on standard output here.
        Err(Failure::Enough) => ExitCode::from(FAILED),
    }
}

fn complain(why: &str, status: u8) -> ExitCode {
    tell_person(why);
    ExitCode::from(status)
}

/// One line on standard error.
fn tell_person(what: &str) {
    spool::tell(&format!("pontoon: run: {what}"));
}

fn attempt(options: Options) -> Result<Outcome, Failure> {
    let Options { publish, user, dns, control, over, config, net, log, .. } = &options;
    // Before anything of our own is open: a number could be anybody's then.
    let uplink_fd = match &over.uplink {
        Some(UplinkChoice::Tun(UplinkSpec { fd, .. })) => inherited("--uplink tun:fd", *fd)?,
        Some(UplinkChoice::None | UplinkChoice::Sockets) | None => None,
    };
    let passed = inherit::rest()
        .map_err(|error| Failure::Failed(format!("cannot see which descriptors were inherited: {error}")))?;
    portspec::expand(publish).map_err(|error| Failure::Usage(format!("-p: {error}")))?;
    let (source, mut file) = Source::read(config.as_deref()).map_err(failed)?;
    file.switch.log.get_or_insert(Level::Warn);
    let over = Overrides { control: control.clone(), log: *log, ..over.clone() };
    let settings = Settings::new(&source, &file, &over).map_err(failed)?;
    let has_uplink = settings.uplink.is_some();
    if !has_uplink && !publish.is_empty() {
        tell_person("there is no uplink, so published ports are reached from inside only (--uplink)");
    }

    let signals = Signals::block(&supervise::SIGNALS)
        .map_err(|error| Failure::Failed(format!("cannot take signals: {error}")))?;
    let mut inside = Inside::fork(*user, &options.command, &passed, &signals).map_err(Failure::Failed)?;
    // CMD has them now. Held here too, whoever reads from it would not see it close them.
    drop(passed);
    let_go_of_streams();
    inside.made().map_err(Failure::Failed)?;
    let plan = behind::Plan { settings: &settings, network: net, publish };
    let mut switch = Switch::fork(&plan, uplink_fd, &inside).map_err(Failure::Failed)?;
    let attached = switch.ready().map_err(Failure::Failed)?;
    let go = Go { resolv: name_servers(dns, &attached, settings.uplink.as_ref().map(|(_, uplink)| uplink)) };
    inside.go(&go).map_err(Failure::Failed)?;

    let outcome = supervise::supervise(&signals, &mut inside, &mut switch);
    switch.end();
    outcome.map_err(|error| Failure::Failed(format!("cannot wait for CMD: {error}")))
}

/// What CMD's resolv.conf is to be, if it cannot stay as it is; tells the person where no name will resolve.
fn name_servers(dns: &[Addr], attached: &Attached, uplink: Option<&Uplink>) -> Option<String> {
    let subnet = attached.ip.map(|ip| ip.network());
    let may_reach = |server: Addr| match uplink {
        Some(Uplink::Sockets(spec)) => {
            // An address that can be bound to is the host's own.
            let is_own = std::net::UdpSocket::bind((std::net::IpAddr::from(server), 0)).is_ok();
            let kind = if is_own { RouteKind::Local } else { RouteKind::Unicast };
            matches!(Policy::new(spec.policy).decide(server, kind), Decision::Dial(_))
        }
        // Of one link, which the world's is not.
        Some(Uplink::Tun(_)) | None => policy::special(server) != Some(Reason::LinkLocal),
    };
    match resolv::choose(dns, subnet, may_reach, |path| std::fs::read_to_string(path).ok()) {
        resolv::Choice::Keep => None,
        resolv::Choice::Replace(text) => Some(text),
        resolv::Choice::Unreachable => {
            // Without an uplink nobody expects an answer from outside.
            if uplink.is_some() {
                tell_person(
                    "the host's name servers cannot be reached from inside, so names will not resolve; \
                     give one that can with --dns ADDRESS",
                );
            }
            None
        }
    }
}

/// Puts /dev/null in the place of standard input and output: they are CMD's.
fn let_go_of_streams() {
    // Without a /dev/null CMD's peers only see the end of it a moment later.
    if let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

/// Tells another of the processes something.
fn tell<T: Serialize>(socket: &OwnedFd, what: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(what)?;
    msg::send(socket, &bytes, &[]).map(drop)
}

/// Waits for what another of the processes tells; `None`: it has ended without a word.
fn hear<T: DeserializeOwned>(socket: &OwnedFd, at_most: Option<Duration>) -> io::Result<Option<T>> {
    if let Some(at_most) = at_most
        && !process::wait_readable(socket.as_fd(), at_most)?
    {
        return Err(io::Error::other(format!("no answer for {} s", at_most.as_secs())));
    }
    let mut buf = vec![0; MAX_MESSAGE];
    let len = msg::recv(socket, &mut buf)?.len;
    Ok(if len == 0 { None } else { Some(serde_json::from_slice(&buf[..len])?) })
}
