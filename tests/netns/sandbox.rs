//! The walls around these tests: a user namespace where nobody is root yet, a mount namespace, a network without a way out.
//!
//! # Theory of operation
//! [`enter`] runs before any thread exists, since a user namespace may only be entered by a process of one thread. Inside, the process has
//! every capability over what it makes and over nothing else; its own network namespace is empty, so whatever forgets to name a namespace
//! reaches nobody. A private tmpfs on `/run` holds the names of namespaces and the sockets of switches, and goes when the last process
//! goes, however it ends.

use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use super::raw;

/// Programs that the reference needs: docker's own back end is iproute2 and nftables.
const PROGRAMS: [&str; 3] = ["ip", "nft", "conntrack"];

/// What this machine lacks, as sentences; empty when all is there.
#[derive(Default)]
pub struct Missing {
    /// Without these no case runs.
    pub everything: Vec<String>,
    /// Without these the kernel's cases run, pontoon's do not.
    pub pontoon: Vec<String>,
}

/// Enters the walls. Must be called before any thread is started.
pub fn enter() -> Missing {
    let mut missing = Missing::default();
    missing.everything.extend(walls().err());
    for program in PROGRAMS {
        if find(program).is_none() {
            missing.everything.push(format!("the program `{program}` is not installed"));
        }
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        missing.pontoon.push(format!(
            "/dev/net/tun cannot be opened ({error}); an administrator may allow it: chmod 0666 /dev/net/tun"
        ));
    }
    missing
}

/// Where a program is. Distributions keep these in /usr/sbin, which is not in everybody's PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|directory| Path::new(directory).join(program))
        .find(|file| file.exists())
}

fn walls() -> Result<(), String> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    if !uid.is_root() {
        raw::unshare(UnshareFlags::NEWUSER).map_err(|error| {
            format!("no user namespace ({error}); see kernel.unprivileged_userns_clone and user.max_user_namespaces")
        })?;
        let write =
            |path: &str, text: String| fs::write(path, text).map_err(|error| format!("cannot write {path} ({error})"));
        write("/proc/self/setgroups", "deny".into())?;
        write("/proc/self/uid_map", format!("0 {uid} 1", uid = uid.as_raw()))?;
        write("/proc/self/gid_map", format!("0 {gid} 1", gid = gid.as_raw()))?;
    }
    raw::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET)
        .map_err(|error| format!("no mount and network namespace ({error})"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| format!("cannot make the mounts private ({error})"))?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None::<&CStr>)
        .map_err(|error| format!("cannot mount a tmpfs on /run ({error})"))?;
    fs::create_dir("/run/netns").map_err(|error| format!("cannot make /run/netns ({error})"))
}
