//! CMD's own process: into its namespaces, held until the network is ready, then CMD.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{CANNOT_RUN, FAILED, NOT_FOUND, PATIENCE, User, hear, resolv, tell, tell_person};
use crate::cli::userns;
use crate::io::sys::msg;
use crate::io::sys::netns;
use crate::io::sys::process::{self, Child};
use crate::io::sys::signal::Signals;

/// The process that becomes CMD. Dropped before it was let go, it ends.
pub struct Inside {
    pub child: Child,
    socket: OwnedFd,
}

/// What it is told when the network is ready.
#[derive(Serialize, Deserialize)]
pub struct Go {
    /// What /etc/resolv.conf is to be; `None`: it stays.
    pub resolv: Option<String>,
}

impl Inside {
    /// Forks it. CMD has the descriptors `passed`, and signals as they were before `signals` were blocked.
    pub fn fork(user: User, command: &[OsString], passed: &[OwnedFd], signals: &Signals) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot start a process: {error}");
        let (ours, theirs) = msg::pair().map_err(failed)?;
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let keep: Vec<BorrowedFd<'_>> = passed.iter().chain([&theirs]).map(AsFd::as_fd).collect();
        let child = process::fork(&keep, || {
            let made = enter_namespaces(user).and_then(|()| {
                // After the namespaces: a change of credentials clears it.
                process::die_with(parent).map_err(|error| format!("cannot follow the end of pontoon: {error}"))
            });
            // Where the parent has gone, there is nobody to tell, and no CMD.
            match tell(&theirs, &made).and_then(|()| hear::<Go>(&theirs, None)) {
                Ok(Some(go)) if made.is_ok() => become_command(command, &go, signals),
                Ok(_) | Err(_) => FAILED,
            }
        });
        Ok(Self { child: child.map_err(failed)?, socket: ours })
    }

    /// Waits until it has its namespaces.
    pub fn made(&self) -> Result<(), String> {
        match hear::<Result<(), String>>(&self.socket, Some(PATIENCE)) {
            Ok(Some(made)) => made,
            Ok(None) => Err("CMD's process ended before it had its namespaces".into()),
            Err(error) => Err(format!("CMD's process does not get its namespaces: {error}")),
        }
    }

    /// Lets it become CMD.
    pub fn go(&mut self, go: &Go) -> Result<(), String> {
        match tell(&self.socket, go) {
            Ok(()) => Ok(()),
            // Killed meanwhile: that is its exit status, and no failure of ours.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(format!("cannot let CMD begin: {error}")),
        }
    }
}

fn enter_namespaces(user: User) -> Result<(), String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let made = match user {
        User::Root => netns::unshare_user(),
        User::Keep => netns::unshare_user_as(uid, gid),
        User::None => Ok(()),
    };
    made.map_err(|error| userns::without(&error, "be root and use --user none"))?;
    let refused = |what: &str, sysctl: &str, error: io::Error| match (Errno::from_io_error(&error), user) {
        (Some(Errno::PERM), User::None) => {
            format!("--user none: only root can make a {what} namespace without a user namespace")
        }
        // Made, but worth nothing in it: a security module's doing.
        (Some(Errno::PERM), User::Root | User::Keep) => userns::without(&error, "be root and use --user none"),
        _ => format!("cannot make a {what} namespace: {error}; see sysctl {sysctl}"),
    };
    netns::unshare_net().map_err(|error| refused("network", "user.max_net_namespaces", error))?;
    netns::unshare_mounts().map_err(|error| refused("mount", "user.max_mnt_namespaces", error))
}

/// Becomes CMD; returns only the exit status that tells why not.
fn become_command(command: &[OsString], go: &Go, signals: &Signals) -> u8 {
    if let Some(text) = &go.resolv
        && let Err(error) = resolv::replace(text)
    {
        tell_person(&format!("cannot give CMD a resolv.conf, so names may not resolve: {error}"));
    }
    let [program, arguments @ ..] = command else {
        return FAILED; // the command line asks for one at least
    };
    if let Err(error) = signals.release() {
        tell_person(&format!("cannot let signals through: {error}"));
        return FAILED;
    }
    let error = Command::new(program).args(arguments).exec();
    let name = Path::new(program).display();
    if is_nowhere(program) {
        tell_person(&format!("cannot run {name}: there is none in PATH"));
        return NOT_FOUND;
    }
    tell_person(&format!("cannot run {name}: {error}"));
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}

/// Whether a program that was not run is looked for in PATH and in none of its directories. The error does not tell: where
/// one of them may not be searched, exec(3) has EACCES.
fn is_nowhere(program: &OsString) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    !program.as_encoded_bytes().contains(&b'/')
        && !std::env::split_paths(&path).any(|directory| directory.join(program).symlink_metadata().is_ok())
}
