//! Devices of ports: opened in their namespaces, and given up.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::protocol::{ApiError, Class};
use crate::frame::Caps;
use crate::io::enter::{EnterHelper, Opened, Provenance, Request, Target};
use crate::io::lifetime::{Life, Watcher};
use crate::io::netcfg::LinkStats;
use crate::io::sys::hwaddr;
use crate::io::tap::{self, TapPort};
use crate::wire::mac::Mac;

/// A device for a port, and how long it is to be one.
#[derive(Debug)]
pub struct Plugged<P> {
    pub port: P,
    pub caps: Caps,
    /// The MAC address that the device has, where the core did not choose it.
    pub mac: Option<Mac>,
    pub life: Life,
}

/// A device that is to be given up, and what it was opened for, if it was opened by us.
pub type Leaving<P> = (P, Option<Request>);

/// Opens devices and gives them up. The real one is [`Plumbing`]; tests have another.
pub trait Plumber {
    /// A device.
    type Port;

    /// Opens or makes the device, and configures it.
    fn open(&mut self, request: &Request) -> Result<Plugged<Self::Port>, ApiError>;

    /// Takes a device that came as a descriptor.
    fn adopt(&mut self, fd: OwnedFd) -> Result<Plugged<Self::Port>, ApiError>;

    /// Gives a device up: one of ours is deleted; from somebody else's, what it was given is taken back.
    fn close(&mut self, port: Self::Port, request: Option<&Request>) -> Result<(), ApiError>;

    /// Gives up many at once, each with what [`Plumber::close`] is told; what fails is logged.
    fn close_all(&mut self, ports: Vec<Leaving<Self::Port>>) {
        for (port, request) in ports {
            if let Err(error) = self.close(port, request.as_ref()) {
                log::warn!("{error}");
            }
        }
    }

    /// The kernel's counters of the device.
    fn stats(&mut self, request: &Request) -> Result<LinkStats, ApiError>;

    /// The same of the uplink's; `None`: where that is cannot be known.
    fn uplink_stats(&mut self) -> Option<Result<LinkStats, ApiError>>;
}

/// Descriptors that ports leave for everything else: each client has one, and some are the process's own.
const RESERVE: u64 = 80;

/// Refuses what would leave no descriptor for a client to say so. The kernel gives the lowest number that is free.
fn room_for_a_port(any: impl AsFd) -> Result<(), ApiError> {
    let limit = getrlimit(Resource::Nofile).current;
    let fits = match rustix::io::fcntl_dupfd_cloexec(any, 0) {
        Ok(lowest) => limit.is_none_or(|limit| fits(lowest.as_raw_fd().unsigned_abs().into(), limit)),
        Err(Errno::MFILE) => false,
        // It can tell nothing; whether there is room shows at the next step.
        Err(_) => true,
    };
    if fits {
        return Ok(());
    }
    let limit = limit.unwrap_or(u64::MAX);
    Err(ApiError::new(
        Class::Full,
        format!("the limit of {limit} open files is reached; raise it (ulimit -Hn, LimitNOFILE=) and restart pontoon"),
    ))
}

/// A port takes two: its device and the pidfd of its process. Of a small limit a quarter is kept.
fn fits(lowest: u64, limit: u64) -> bool {
    lowest + 2 + RESERVE.min(limit / 4) <= limit
}

/// TAPs, by the helper process.
#[derive(Debug)]
pub struct Plumbing {
    helper: EnterHelper,
    watcher: Watcher,
    uplink: Option<Request>,
}

impl Plumbing {
    /// Opens by `helper`; paths are looked after by `watcher`; `uplink` is what the helper was asked for, if it was.
    pub fn new(helper: EnterHelper, watcher: Watcher, uplink: Option<Request>) -> Plumbing {
        Plumbing { helper, watcher, uplink }
    }
}

impl Plumber for Plumbing {
    type Port = TapPort;

    fn open(&mut self, request: &Request) -> Result<Plugged<TapPort>, ApiError> {
        room_for_a_port(&self.watcher)?;
        let mut opened: Opened = self.helper.open(request.clone())?;
        let life = match (&request.target, opened.pidfd.take()) {
            (Target::Pid(_), Some(pidfd)) => Life::Pid(pidfd),
            (Target::Pid(pid), None) => {
                return Err(ApiError::new(
                    Class::Internal,
                    format!("the helper gave no pidfd of process {pid}; restart pontoon"),
                ));
            }
            (Target::Path(path), _) => Life::of_path(&self.watcher, path, opened.netns),
            (Target::Here, _) => Life::Held,
        };
        // Between entering the namespace and now it may have gone; its device would keep it alive unseen.
        if let Some(gone) = life.check() {
            return Err(ApiError::new(Class::Missing, format!("the namespace of {} is gone: {gone}", request.name)));
        }
        let caps = opened.device.caps();
        let port = TapPort::attach(opened).map_err(|error| {
            ApiError::new(Class::Device, format!("TAP {}: cannot make it persist: {error}", request.name))
        })?;
        Ok(Plugged { port, caps, mac: None, life })
    }

    fn adopt(&mut self, fd: OwnedFd) -> Result<Plugged<TapPort>, ApiError> {
        room_for_a_port(&fd)?;
        let port = TapPort::adopt(fd).map_err(|error| ApiError::new(Class::Device, error.to_string()))?;
        let mac = hwaddr::of(port.device()).map_err(|error| {
            ApiError::new(Class::Device, format!("TAP {}: cannot read its MAC address: {error}", port.device().name()))
        })?;
        Ok(Plugged { caps: port.device().caps(), mac: Some(mac), port, life: Life::Held })
    }

    fn close(&mut self, port: TapPort, request: Option<&Request>) -> Result<(), ApiError> {
        let found = port.netns().filter(|_| port.provenance() == Provenance::Found);
        let given = port.given().clone();
        port.detach().map_err(|error| ApiError::new(Class::Device, format!("cannot give the TAP up: {error}")))?;
        if let (Some(request), Some(netns)) = (request, found) {
            self.helper.undo(request.target.clone(), netns, &request.name, given)?;
        }
        Ok(())
    }

    fn close_all(&mut self, ports: Vec<Leaving<TapPort>>) {
        let (found, ours): (Vec<_>, Vec<_>) =
            ports.into_iter().partition(|(port, _)| port.provenance() == Provenance::Found);
        for (port, request) in found {
            if let Err(error) = self.close(port, request.as_ref()) {
                log::warn!("{error}");
            }
        }
        for error in tap::detach_all(ours.into_iter().map(|(port, _)| port).collect()) {
            log::warn!("cannot give a TAP up: {error}");
        }
    }

    fn stats(&mut self, request: &Request) -> Result<LinkStats, ApiError> {
        Ok(self.helper.stats(request.target.clone(), &request.name)?)
    }

    fn uplink_stats(&mut self) -> Option<Result<LinkStats, ApiError>> {
        let uplink = self.uplink.clone()?;
        Some(self.stats(&uplink))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_descriptors_are_not_for_ports() {
        assert!(fits(10, 1024) && fits(942, 1024) && !fits(943, 1024));
        assert!(fits(31, 44) && !fits(32, 44), "a small limit is shared, too");
        assert!(!fits(0, 0));
    }
}
