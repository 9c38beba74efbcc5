//! A container's port: the TAP in its namespace, our end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::enter::{Opened, Provenance};
use super::netcfg::Given;
use super::sys::netns::NetnsId;
use super::sys::tuntap::{Device, Kind, TunError};

/// An attached TAP. Whoever attached it knows when its life ends ([`super::lifetime::Life`]).
#[derive(Debug)]
pub struct TapPort {
    device: Device,
    netns: Option<NetnsId>,
    provenance: Provenance,
    given: Given,
}

impl TapPort {
    /// Takes what the helper opened, and has it persist until [`TapPort::detach`].
    pub fn attach(opened: Opened) -> io::Result<Self> {
        let Opened { device, link: _, netns, provenance, given, pidfd: _ } = opened;
        provenance.keep(&device)?;
        Ok(Self { device, netns: Some(netns), provenance, given })
    }

    /// Takes a file descriptor that somebody made and configured and handed over (`--tap-fd`); nothing of the device
    /// but its offloads is changed, now or at the end.
    pub fn adopt(fd: OwnedFd) -> Result<Self, TunError> {
        let device = Device::adopt(fd, Kind::Tap)?;
        Ok(Self { device, netns: None, provenance: Provenance::Found, given: Given::default() })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// `None`: of an adopted descriptor it is not to be known.
    pub fn netns(&self) -> Option<NetnsId> {
        self.netns
    }

    pub fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// What was changed of the device when it was opened.
    pub fn given(&self) -> &Given {
        &self.given
    }

    /// Gives it up: a device of ours is deleted. (Dropping it instead leaves the device to the next start, as a kill
    /// would.)
    pub fn detach(self) -> io::Result<()> {
        self.provenance.release(self.device)
    }
}

/// Threads that delete devices.
const DELETERS: usize = 16;

/// Gives up many at once; what failed.
///
/// To delete a device the kernel waits for all who may still look at it, some 16 ms, and the waits of several threads
/// overlap: 2,000 ports are gone in an eighth of the time that one after the other takes. And a kill in the middle
/// leaves none of them.
pub fn detach_all(ports: Vec<TapPort>) -> Vec<io::Error> {
    let failed = ports.iter().filter_map(|port| port.provenance.let_go(&port.device).err()).collect();
    let rest = Mutex::new(ports);
    let delete = || {
        // The lock is held for the look alone, not while the device goes.
        let next = || rest.lock().unwrap_or_else(PoisonError::into_inner).pop();
        while let Some(port) = next() {
            drop(port);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..DELETERS {
            // This thread does it all if there are no others to be had.
            if let Err(error) = std::thread::Builder::new().name("detach".to_owned()).spawn_scoped(scope, delete) {
                log::debug!("no thread more to delete devices: {error}");
                break;
            }
        }
        delete();
    });
    failed
}

impl AsFd for TapPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Why there is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// All is read; an event comes with the next.
    Empty,
    /// The device was deleted.
    Gone,
    Other(Errno),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::AGAIN) => Self::Empty,
            Some(Errno::BADFD) => Self::Gone,
            Some(errno) => Self::Other(errno),
            None => Self::Other(Errno::IO),
        }
    }
}

/// Why a frame was not taken. None of these ends a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// The link is down: the port is kept, it may come up again.
    Down,
    /// The device was deleted.
    Gone,
    /// The frame, or the offload it asks for, is not one the kernel takes here.
    Refused,
    /// No memory for it now.
    Full,
    Other(Errno),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::IO) => Self::Down,
            Some(Errno::BADFD) => Self::Gone,
            Some(Errno::INVAL) => Self::Refused,
            Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Self::Full,
            Some(errno) => Self::Other(errno),
            None => Self::Other(Errno::IO),
        }
    }
}
