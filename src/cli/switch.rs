//! `pontoon switch`: runs a switch until somebody ends it.
//!
//! # Theory of operation
//! The order matters, and each step can still be refused without a trace:
//!
//! ```text
//! inherited descriptors -> configuration, rehearsed -> helper (forked while there is one thread) -> control socket
//!   -> uplink -> event loop -> networks, rules, routes -> --ready-fd -> serve
//! ```

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use env_logger::{Target, WriteStyle};
use rustix::process::{Resource, Rlimit};

use super::config::{self, Overrides, Settings, SocketsSpec, Source, UplinkChoice, UplinkSpec, refused};
use super::{Control, Failure};
use crate::control::calls::capture_file;
use crate::control::plumber::Plumbing;
use crate::control::protocol::Level;
use crate::control::server::Server;
use crate::core::command::SocketUplinkConfig;
use crate::core::datapath;
use crate::io::enter::{EnterHelper, Request};
use crate::io::reactor::{self, LoopHandle, Start, StartUplink};
use crate::io::sockets::ports::local_ports;
use crate::io::spool::Stderr;
use crate::io::switch::{Notifier, Switch, SwitchError};
use crate::io::sys::inherit;
use crate::io::sys::process::wait_writable;
use crate::io::sys::tuntap::Header;
use crate::io::uplink::{self, Uplink};

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    control: Control,
    #[command(flatten)]
    over: Overrides,
    /// TOML; what the command line says goes before it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write "1" and a newline to this descriptor when ready, and close it
    #[arg(long, value_name = "N")]
    ready_fd: Option<i32>,
    /// End cleanly when the other end of this descriptor is closed
    #[arg(long, value_name = "N")]
    exit_fd: Option<i32>,
    /// How much to say on standard error [default: info]
    #[arg(long, value_name = "LEVEL")]
    log: Option<Level>,
}

pub fn run(options: Options) -> Result<(), Failure> {
    let Options { control, over, config, ready_fd, exit_fd, log } = options;
    // Before anything of our own is open: a number could be anybody's then.
    let ready = inherited("--ready-fd", ready_fd)?;
    let exit = inherited("--exit-fd", exit_fd)?;
    let uplink_fd = match &over.uplink {
        Some(UplinkChoice::Tun(UplinkSpec { fd, .. })) => inherited("--uplink tun:fd", *fd)?,
        Some(UplinkChoice::None | UplinkChoice::Sockets) | None => None,
    };
    let over = Overrides { control: control.control, log, ..over };
    let (source, file) = Source::read(config.as_deref()).map_err(failed)?;
    let settings = Settings::new(&source, &file, &over).map_err(failed)?;
    let control = Control { control: settings.control.clone() }.path()?;

    let log = Log::begin(settings.log);
    raise_descriptor_limit();

    let mut helper = start_helper()?;
    let _log = log.in_background()?;
    let mut server = Server::bind(&control).map_err(failed)?;
    server.end_on_signals().map_err(failed)?;
    if let Some(exit) = exit {
        server.end_with(exit).map_err(failed)?;
    }
    let (handle, uplink_request) = start(&settings, uplink_fd, &mut helper, server.notifier())?;
    if settings.uplink.is_none() {
        log::info!("no uplink: containers reach each other and their gateways, but not the world (--uplink)");
    }
    if let Err(failure) = say_ready(ready) {
        // What failed is what is told; the loop's end takes the uplink down.
        let _ = handle.shutdown();
        return Err(failure);
    }
    log::info!("listening on {}", control.display());
    let watcher = server.watcher();
    server.run(handle, Plumbing::new(helper, watcher, uplink_request)).map_err(failed)
}

/// How long the end waits for log lines that nobody has read yet.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Log records go to standard error, and nobody who logs waits for it.
pub(super) struct Log(());

impl Log {
    pub(super) fn begin(level: Level) -> Log {
        let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        env_logger::Builder::new()
            .filter_level(log::LevelFilter::Trace)
            .target(Target::Pipe(Box::new(Stderr)))
            .write_style(if coloured { WriteStyle::Always } else { WriteStyle::Never })
            .init();
        log::set_max_level(level.into());
        Log(())
    }

    /// A thread of its own writes from here on. What is left when the value ends has [`LAST_LINES`] to be written.
    pub(super) fn in_background(self) -> Result<LogThread, Failure> {
        Stderr::start().map_err(|error| failed(format!("cannot start the thread that writes the log: {error}")))?;
        Ok(LogThread(()))
    }
}

pub(super) struct LogThread(());

impl Drop for LogThread {
    fn drop(&mut self) {
        Stderr::flush_within(LAST_LINES);
    }
}

/// Forks the helper; there must be one thread.
pub(super) fn start_helper() -> Result<EnterHelper, Failure> {
    EnterHelper::spawn()
        .map_err(|error| Failure::Failed(format!("cannot start the helper that enters namespaces: {error}")))
}

/// Opens the uplink, starts the event loop, and makes what `settings` ask for. Also what the helper was asked for as the
/// uplink, if it was. A failure leaves nothing.
pub(super) fn start(
    settings: &Settings,
    uplink_fd: Option<OwnedFd>,
    helper: &mut EnterHelper,
    notifier: Notifier,
) -> Result<(LoopHandle, Option<Request>), Failure> {
    let by_descriptor = uplink_fd.is_some();
    let uplink = open_uplink(helper, settings, uplink_fd)?;
    let uplink_request = match &settings.uplink {
        Some((_, config::Uplink::Tun(spec))) if !by_descriptor => device_of(spec).request().ok(),
        Some(_) | None => None,
    };
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::Failed(format!("cannot get random bytes: {error}")))?;
    let config = datapath::Config { dynamic_ports: local_ports(), ..settings.core.clone() };
    let handle = reactor::start(Start { config, uplink, seed, notifier }).map_err(failed)?;
    if let Err(failure) = prepare(&handle, settings) {
        // What failed is what is told; the loop's end takes the uplink down.
        let _ = handle.shutdown();
        return Err(failure);
    }
    Ok((handle, uplink_request))
}

pub(super) fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}

pub(super) fn inherited(option: &str, number: Option<i32>) -> Result<Option<OwnedFd>, Failure> {
    number
        .map(|number| inherit::take(number).map_err(|error| Failure::Usage(format!("{option} {number}: {error}"))))
        .transpose()
}

/// Each port is a descriptor, and each attachment by process another.
pub(super) fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = rustix::process::getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        log::warn!("the limit of open files stays {current:?}: {error}");
    }
}

/// What a TUN has unless somebody says otherwise.
const TUN_MTU: u16 = 1500;

/// The device that `spec` describes.
fn device_of(spec: &UplinkSpec) -> uplink::UplinkConfig {
    uplink::UplinkConfig {
        name: spec.name.clone(),
        address: spec.address,
        peer: spec.peer,
        netns: spec.netns.clone(),
        mtu: spec.mtu.map(u32::from),
        header: Header::Vnet,
    }
}

fn open_uplink(
    helper: &mut EnterHelper,
    settings: &Settings,
    fd: Option<OwnedFd>,
) -> Result<Option<StartUplink>, Failure> {
    let Some((origin, uplink)) = &settings.uplink else {
        return Ok(None);
    };
    let told = |error: &dyn std::fmt::Display| Failure::Failed(format!("{origin}: {error}"));
    let spec = match uplink {
        config::Uplink::Tun(spec) => spec,
        config::Uplink::Sockets(spec) => {
            spec.check().map_err(failed)?;
            let SocketsSpec { options, policy, origins: _ } = spec;
            let mut config = SocketUplinkConfig::for_ports(local_ports());
            config.policy = *policy;
            return Ok(Some(StartUplink::Sockets { options: options.clone(), config: Box::new(config) }));
        }
    };
    let opened = match fd {
        Some(fd) => Uplink::adopt(fd).map_err(|error| told(&error))?,
        None => Uplink::open(helper, &device_of(spec)).map_err(|error| told(&error))?,
    };
    // A device of more than 65,535 is one whose MTU is no limit for IP packets.
    let found = opened.mtu().map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX));
    let mtu = spec.mtu.or(found).unwrap_or(TUN_MTU);
    Ok(Some(StartUplink::Tun(opened, spec.for_core(mtu))))
}

/// Makes what the configuration asks for.
fn prepare(handle: &LoopHandle, settings: &Settings) -> Result<(), Failure> {
    for (origin, command) in &settings.commands {
        match handle.apply(command.clone()) {
            Ok(_) => {}
            Err(SwitchError::Refused(error)) => return Err(failed(refused(origin, &error))),
            Err(error) => return Err(failed(error)),
        }
    }
    if let Some((origin, path)) = &settings.pcap {
        let told = |error: &dyn std::fmt::Display| failed(format!("{origin}: {error}"));
        let path = std::path::absolute(path).map_err(|error| told(&error))?;
        handle.capture(Some(capture_file(&path).map_err(|error| told(&error))?)).map_err(failed)?;
    }
    Ok(())
}

/// How long `--ready-fd` may have no room for a line.
const READY_WITHIN: Duration = Duration::from_secs(2);

fn say_ready(ready: Option<OwnedFd>) -> Result<(), Failure> {
    let Some(fd) = ready else {
        return Ok(());
    };
    let told = |error: io::Error| Failure::Failed(format!("--ready-fd: cannot write to it: {error}"));
    if !wait_writable(&fd, READY_WITHIN).map_err(told)? {
        return Err(Failure::Failed("--ready-fd: it is full, and nobody reads it; give a pipe that is read".into()));
    }
    File::from(fd).write_all(b"1\n").map_err(told)
}
