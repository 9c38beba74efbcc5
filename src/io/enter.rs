//! The helper process that enters network namespaces and comes back with a device.
//!
//! # Theory of operation
//! Joining a user namespace needs a process with one thread, and there is no way back out. So pontoon forks one small
//! helper before it starts its first thread, and the helper forks a child for each request:
//!
//! ```text
//! pontoon --request--> helper --fork--> child: enter the namespace, open the device, configure it
//!    ^------------ answer + {device, pidfd} by SCM_RIGHTS ------------'  and exit
//! ```
//!
//! A child that fails half-way takes its half-entered namespaces with it. One that hangs (a path on a file system that
//! does not answer) is killed after [`LIMIT`]; if it cannot even die, because it waits in the kernel, it is set aside,
//! and the next request is served all the same. Every request has a number, so an answer that comes too late is known
//! as such, and the device in it is closed, which deletes it.
//!
//! # Invariants
//! - A device that pontoon made carries an alias ([`netcfg::ALIAS`]). Only such a device is ever deleted.
//! - On an error nothing stays: a device that was made, or left over from an earlier run, is gone; from one that somebody
//!   else made, what was just given to it is taken away again.
//! - The helper ends with its parent: the end of the socket when it is idle, PDEATHSIG when it is not.
//!
//! # Limits
//! One request at a time, [`LIMIT`] each; [`MAX_STUCK`] children that do not die, then requests are refused.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::netcfg::{self, Config, Given, Link, LinkStats, NetcfgError};
use super::sys::msg;
use super::sys::netns::{self, Netns, NetnsError, NetnsId};
use super::sys::process::{self, Child, Exit};
use super::sys::tuntap::{self, Device, Header, Kind, TunError};

/// How long one request may take before its child is killed. The work itself takes a few milliseconds.
pub const LIMIT: Duration = Duration::from_secs(2);

/// What the caller waits beyond [`LIMIT`] for the helper to say so.
const GRACE: Duration = Duration::from_millis(500);

/// Killed children that the kernel has not let die yet.
const MAX_STUCK: usize = 16;

/// Bytes of a request or an answer: a path (4,096) and a few dozen addresses and routes, with room.
const MAX_MESSAGE: usize = 64 * 1024;

/// Which network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The one in which the helper was forked.
    Here,
    /// `/run/netns/NAME`, `/proc/PID/ns/net`, a runtime's netns file.
    Path(PathBuf),
    /// The one of this process.
    Pid(i32),
}

/// A device that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub target: Target,
    pub kind: Kind,
    pub name: String,
    pub header: Header,
    pub config: Config,
}

/// Whose a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Made by this request.
    Made,
    /// Made by an earlier pontoon that was killed.
    Readopted,
    /// Somebody else's, persistent: it outlives us.
    Found,
}

impl Provenance {
    /// While it is in use a device of ours persists, so that after a kill -9 its namespace keeps device, addresses and
    /// routes until the next start adopts them.
    pub fn keep(self, device: &Device) -> io::Result<()> {
        match self {
            Self::Made | Self::Readopted => device.set_persist(true),
            Self::Found => Ok(()),
        }
    }

    /// Gives a device up: ours is deleted, and addresses and routes with it; somebody else's stays.
    pub fn release(self, device: Device) -> io::Result<()> {
        self.let_go(&device)
    }

    /// The quick half of [`Provenance::release`]: ours goes when its descriptor is closed, whoever closes it.
    pub fn let_go(self, device: &Device) -> io::Result<()> {
        match self {
            Self::Made | Self::Readopted => match device.set_persist(false) {
                // Deleted by somebody in the namespace: gone, as it should be.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::BADFD) => Ok(()),
                released => released,
            },
            Self::Found => Ok(()),
        }
    }
}

/// A device, open and configured. Dropped, it is deleted if it was [`Provenance::Made`].
#[derive(Debug)]
pub struct Opened {
    pub device: Device,
    pub link: Link,
    pub netns: NetnsId,
    pub provenance: Provenance,
    /// What changed of the device.
    pub given: Given,
    /// Of the target's process, if the target was one: see [`super::lifetime::Life`].
    pub pidfd: Option<OwnedFd>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct EnterError {
    pub class: Class,
    /// One line: what failed, on what, why, what to do.
    pub text: String,
}

/// The kind of failure, for those who act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The request itself is not one that could succeed.
    Invalid,
    /// No such namespace or process.
    NoTarget,
    /// We may not enter the namespace, open /dev/net/tun or make a device.
    Forbidden,
    /// The name is taken by another device, or the device by another process.
    Taken,
    /// Opening the device failed in another way.
    Device,
    /// A step of the configuration failed.
    Config,
    /// No more files may be open.
    Full,
    /// No answer in time.
    TimedOut,
    /// The helper is not there any more, or out of order.
    Helper,
}

impl EnterError {
    fn new(class: Class, text: impl Into<String>) -> Self {
        Self { class, text: text.into() }
    }
}

impl From<NetnsError> for EnterError {
    fn from(error: NetnsError) -> Self {
        let class = match error {
            NetnsError::Missing { .. } | NetnsError::NotNetns { .. } | NetnsError::NoProcess { .. } => Class::NoTarget,
            NetnsError::Foreign { .. } => Class::Forbidden,
            NetnsError::Other { .. } => Class::Device,
        };
        Self::new(class, error.to_string())
    }
}

impl From<TunError> for EnterError {
    fn from(error: TunError) -> Self {
        let class = match error {
            TunError::NodeForbidden { .. } | TunError::Forbidden { .. } => Class::Forbidden,
            TunError::BadName { .. } => Class::Invalid,
            TunError::Busy { .. } | TunError::Taken { .. } => Class::Taken,
            TunError::NodeMissing { .. }
            | TunError::NodeWrong { .. }
            | TunError::NotTun { .. }
            | TunError::WrongKind { .. }
            | TunError::Other { .. } => Class::Device,
        };
        Self::new(class, error.to_string())
    }
}

impl From<NetcfgError> for EnterError {
    fn from(error: NetcfgError) -> Self {
        Self::new(Class::Config, error.to_string())
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    number: u64,
    order: Order,
}

#[derive(Serialize, Deserialize)]
enum Order {
    Open(Request),
    Undo { target: Target, netns: NetnsId, name: String, given: Given },
    Stats { target: Target, name: String },
}

#[derive(Serialize, Deserialize)]
struct Answer {
    number: u64,
    result: Result<Done, EnterError>,
}

/// The file descriptors of `Opened` travel beside it: the device, then the pidfd if there is one.
#[derive(Serialize, Deserialize)]
enum Done {
    Opened { kind: Kind, link: Link, netns: NetnsId, provenance: Provenance, given: Given },
    Undone,
    Stats(LinkStats),
}

/// Our end of the helper. Dropping it ends the helper.
#[derive(Debug)]
pub struct EnterHelper {
    socket: OwnedFd,
    child: Child,
    last_number: u64,
}

impl EnterHelper {
    /// Forks the helper. To be called before the first thread is started, by a thread that lives as long as pontoon
    /// does (PDEATHSIG follows the thread), and before any secret or device is open.
    pub fn spawn() -> io::Result<Self> {
        let (ours, theirs) = msg::pair()?;
        // A helper that does not read must not hold up who writes; reads wait by poll, with a limit.
        rustix::io::ioctl_fionbio(&ours, true)?;
        let parent = own_pid();
        let child = process::fork(&[theirs.as_fd()], || serve(&theirs, parent))?;
        Ok(Self { socket: ours, child, last_number: 0 })
    }

    /// The helper's process id.
    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Opens or makes a device in a namespace and configures it. Blocks at most [`LIMIT`] and a little.
    ///
    /// The device does not persist yet (see [`Provenance::keep`]) unless it did before.
    pub fn open(&mut self, request: Request) -> Result<Opened, EnterError> {
        let (done, fds) = self.ask(Order::Open(request))?;
        let Done::Opened { kind, link, netns, provenance, given } = done else {
            return Err(out_of_order());
        };
        let mut fds = fds.into_iter();
        let device = Device::adopt(fds.next().ok_or_else(out_of_order)?, kind)?;
        Ok(Opened { device, link, netns, provenance, given, pidfd: fds.next() })
    }

    /// Takes back from a device that is not ours ([`Provenance::Found`]) what it was given. If `target` leads to
    /// another namespace than `netns` by now, or to none, nothing is touched: the device is gone with its own.
    pub fn undo(&mut self, target: Target, netns: NetnsId, name: &str, given: Given) -> Result<(), EnterError> {
        match self.ask(Order::Undo { target, netns, name: name.into(), given })? {
            (Done::Undone, _) => Ok(()),
            _ => Err(out_of_order()),
        }
    }

    /// The kernel's counters of a device, read in its namespace.
    pub fn stats(&mut self, target: Target, name: &str) -> Result<LinkStats, EnterError> {
        match self.ask(Order::Stats { target, name: name.into() })? {
            (Done::Stats(stats), _) => Ok(stats),
            _ => Err(out_of_order()),
        }
    }

    fn ask(&mut self, order: Order) -> Result<(Done, Vec<OwnedFd>), EnterError> {
        self.last_number += 1;
        let number = self.last_number;
        // Fails on a path that is not UTF-8, which JSON cannot carry.
        let request = serde_json::to_vec(&Envelope { number, order }).map_err(|error| {
            EnterError::new(Class::Invalid, format!("the request cannot be sent to the helper: {error}"))
        })?;
        if request.len() > MAX_MESSAGE {
            let text = format!(
                "the request is {} bytes long, more than {MAX_MESSAGE}; give fewer addresses or routes",
                request.len()
            );
            return Err(EnterError::new(Class::Invalid, text));
        }
        msg::send(&self.socket, &request, &[]).map_err(|error| helper_gone(&error))?;

        let end = Instant::now() + LIMIT + GRACE;
        let mut buf = vec![0; MAX_MESSAGE];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match process::wait_readable(&self.socket, left) {
                Ok(true) => {}
                Ok(false) => {
                    return Err(EnterError::new(
                        Class::TimedOut,
                        "the helper that enters namespaces does not answer; restart pontoon",
                    ));
                }
                Err(error) => return Err(helper_gone(&error)),
            }
            let received = msg::recv(&self.socket, &mut buf).map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::MFILE) => EnterError::new(
                    Class::Full,
                    "the limit of open files is reached; raise it (ulimit -Hn, LimitNOFILE=) and restart pontoon",
                ),
                _ => helper_gone(&error),
            })?;
            if received.len == 0 {
                return Err(helper_gone(&io::ErrorKind::UnexpectedEof.into()));
            }
            let answer: Answer = serde_json::from_slice(&buf[..received.len]).map_err(|_| out_of_order())?;
            // An answer to an earlier request that was given up: its descriptors are closed here.
            if answer.number == number {
                return Ok((answer.result?, received.fds));
            }
        }
    }
}

impl Drop for EnterHelper {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        if !matches!(self.child.wait(GRACE), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait(GRACE);
        }
    }
}

fn helper_gone(error: &io::Error) -> EnterError {
    EnterError::new(
        Class::Helper,
        format!("the helper that enters namespaces works no more ({error}); restart pontoon"),
    )
}

fn out_of_order() -> EnterError {
    EnterError::new(Class::Helper, "the helper that enters namespaces gave an answer that is none; restart pontoon")
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// The helper's life.
fn serve(socket: &OwnedFd, parent: i32) -> u8 {
    process::ignore_stop_signals();
    if process::die_with(parent).is_err() {
        return 0;
    }
    let mut buf = vec![0; MAX_MESSAGE];
    let mut stuck: Vec<Child> = Vec::new();
    loop {
        let len = match msg::recv(socket, &mut buf) {
            Ok(received) if received.len > 0 => received.len,
            Ok(_) | Err(_) => return 0,
        };
        let Ok(Envelope { number, order }) = serde_json::from_slice(&buf[..len]) else {
            return 1;
        };
        stuck.retain_mut(|child| matches!(child.wait(Duration::ZERO), Ok(None)));
        let result = if stuck.len() >= MAX_STUCK {
            let text = format!(
                "{MAX_STUCK} earlier requests hang in the kernel and cannot be killed; see which file system their paths are on"
            );
            Err(EnterError::new(Class::Helper, text))
        } else {
            serve_one(socket, number, order, &mut stuck)
        };
        if let Err(error) = result
            && !answer(socket, &Answer { number, result: Err(error) }, &[])
        {
            return 0;
        }
    }
}

/// Has a child do the work and answer; an error if it did not answer.
fn serve_one(socket: &OwnedFd, number: u64, order: Order, stuck: &mut Vec<Child>) -> Result<(), EnterError> {
    let what = describe(&order);
    let helper = own_pid();
    let mut child = process::fork(&[socket.as_fd()], || work(socket, number, order, helper))
        .map_err(|error| EnterError::new(Class::Helper, format!("{what}: cannot start a process for it: {error}")))?;
    match child.wait(LIMIT) {
        Ok(Some(Exit::Code(0))) => Ok(()),
        Ok(Some(exit)) => {
            let text = format!(
                "{what}: the process that did it ended without an answer ({exit:?}); this is a fault of pontoon's"
            );
            Err(EnterError::new(Class::Helper, text))
        }
        Ok(None) | Err(_) => {
            let _ = child.kill();
            // A process that waits in the kernel without being killable (FUSE, NFS) dies when that wait ends.
            if matches!(child.wait(GRACE / 5), Ok(None)) {
                stuck.push(child);
            }
            let text = format!("{what}: no end after {LIMIT:?}; see whether the file system of its path answers");
            Err(EnterError::new(Class::TimedOut, text))
        }
    }
}

fn describe(order: &Order) -> String {
    let (verb, target, name) = match order {
        Order::Open(request) => ("opening", &request.target, &request.name),
        Order::Undo { target, name, .. } => ("resetting", target, name),
        Order::Stats { target, name } => ("reading", target, name),
    };
    match target {
        Target::Here => format!("{verb} {name}"),
        Target::Path(path) => format!("{verb} {name} in {}", path.display()),
        Target::Pid(pid) => format!("{verb} {name} in the namespace of process {pid}"),
    }
}

/// The child's life: exit code 0 says that the answer was sent.
fn work(socket: &OwnedFd, number: u64, order: Order, helper: i32) -> u8 {
    if process::die_with(helper).is_err() {
        return 1;
    }
    let mut fds = Vec::new();
    let result = match order {
        Order::Open(request) => open(&request, helper, &mut fds),
        Order::Undo { target, netns, name, given } => match enter(&target, helper) {
            Ok((found, _)) if found == netns => {
                netcfg::undo(&name, &given).map(|()| Done::Undone).map_err(EnterError::from)
            }
            Ok(_) => Ok(Done::Undone),
            Err(error) if error.class == Class::NoTarget => Ok(Done::Undone),
            Err(error) => Err(error),
        },
        Order::Stats { target, name } => {
            enter(&target, helper).and_then(|_| Ok(Done::Stats(netcfg::link_stats(&name)?)))
        }
    };
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    u8::from(!answer(socket, &Answer { number, result }, &borrowed))
}

fn answer(socket: &OwnedFd, answer: &Answer, fds: &[std::os::fd::BorrowedFd<'_>]) -> bool {
    serde_json::to_vec(answer).is_ok_and(|bytes| msg::send(socket, &bytes, fds).is_ok())
}

/// Moves this process into the target; the pidfd of a target that is a process.
fn enter(target: &Target, helper: i32) -> Result<(NetnsId, Option<OwnedFd>), EnterError> {
    let (netns, pidfd) = match target {
        Target::Here => {
            let id = netns::current().map_err(|error| {
                EnterError::new(
                    Class::Device,
                    format!("cannot identify our own network namespace: {error}; is /proc mounted?"),
                )
            })?;
            return Ok((id, None));
        }
        Target::Path(path) => (Netns::open(path)?, None),
        Target::Pid(pid) => {
            let (netns, pidfd) = Netns::open_pid(*pid)?;
            (netns, Some(pidfd))
        }
    };
    netns.enter()?;
    // Joining a user namespace has cleared it.
    process::die_with(helper).map_err(|error| helper_gone(&error))?;
    Ok((netns.id(), pidfd))
}

fn open(request: &Request, helper: i32, fds: &mut Vec<OwnedFd>) -> Result<Done, EnterError> {
    let Request { target, kind, name, header, config } = request;
    let (netns, pidfd) = enter(target, helper)?;
    let before = if tuntap::exists(name) { Some(netcfg::link(name)?) } else { None };
    let device = Device::open(*kind, name, *header)?;
    let provenance = match &before {
        None => Provenance::Made,
        Some(link) if link.is_ours() => Provenance::Readopted,
        Some(_) => Provenance::Found,
    };
    if provenance == Provenance::Made {
        // Without an owner an idle persistent device is anybody's in that namespace. Where our uid has no number in it
        // (root entering somebody's user namespace) this fails, and it stays so.
        let _ = device.set_owner(rustix::process::geteuid().as_raw());
    }
    let mut given = Given::default();
    match netcfg::give(name, config, provenance == Provenance::Made, &mut given) {
        Ok(link) => {
            fds.push(device.into());
            fds.extend(pidfd);
            Ok(Done::Opened { kind: *kind, link, netns, provenance, given })
        }
        Err(error) => {
            if provenance == Provenance::Found {
                // What failed is what the caller is told; a second failure on the way back would only hide it.
                let _ = netcfg::undo(name, &given);
            }
            let _ = provenance.release(device);
            Err(error.into())
        }
    }
}
