//! The walls around everything that is started: namespaces of our own that the kernel takes away with their first process.
//!
//! # Theory of operation
//! The program starts itself again as the first process (PID 1) of a new PID namespace, and waits:
//!
//! ```text
//! outside: signals, the end of the child ──► inside: PID 1, with /run, /proc and a network of its own, no route out
//!                                              └── every switch, server and client; named namespaces under /run/netns
//! ```
//!
//! When PID 1 of a namespace ends, the kernel kills every other process in it and only then lets its parent know; with the
//! last of them go their mounts (`/run` is a tmpfs), network namespaces and devices. So there is no list of what to clean up
//! and no path on which it is forgotten: an end, a panic, and a signal to the outside are the same. A SIGKILL of the outside is,
//! too: the inside has asked to be killed with its parent.

use std::env;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit};
use rustix::thread::UnshareFlags;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::raw;

/// Set for the process inside.
const INSIDE: &str = "PONTOON_BENCH_INSIDE";
/// Descriptors that the inside may have: flows by the ten thousand, both ends of them.
const DESCRIPTORS: u64 = 1 << 20;
/// Files of a run: gone with it.
pub const SCRATCH: &str = "/run/bench";

/// Which side of the walls this process is on.
pub enum Side {
    Inside,
    /// The inside has ended, and with it whatever it started.
    Outside(u8),
}

/// Goes inside, or has gone. Called before any thread is started.
pub fn enter() -> Result<Side, String> {
    if env::var_os(INSIDE).is_some() {
        return furnish().map(|()| Side::Inside);
    }
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let (heard, hears) = UnixStream::pair().map_err(failed("a pipe for signals"))?;
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGINT, SIGTERM, SIGHUP] {
        let value = usize::try_from(number).expect("signals are positive");
        signal_hook::flag::register_usize(number, Arc::clone(&signal), value).map_err(failed("a signal"))?;
        let end = hears.try_clone().map_err(failed("a pipe for signals"))?;
        signal_hook::low_level::pipe::register(number, end).map_err(failed("a signal"))?;
    }
    // Holds for children alone: the first becomes PID 1.
    raw::unshare(UnshareFlags::NEWPID).map_err(failed("no PID namespace"))?;
    let home = File::open("/proc/self/ns/net").map_err(failed("/proc/self/ns/net"))?;
    let program = env::current_exe().map_err(failed("the path of this program"))?;
    let mut command = Command::new(program);
    // A group of its own: Ctrl-C of a terminal is for the outside, which then ends the inside whole.
    command.args(env::args_os().skip(1)).env(INSIDE, "1").stdin(Stdio::null()).process_group(0);
    raw::place(&mut command, home.as_fd());
    let mut child = command.spawn().map_err(failed("starting inside"))?;
    let status = wait(&mut child, &heard).map_err(failed("waiting for the inside"))?;
    Ok(Side::Outside(match signal.load(Ordering::Relaxed) {
        0 => code(status),
        number => 128 + number as u8,
    }))
}

/// Until the child has ended, by itself or because we were told to end.
fn wait(child: &mut Child, heard: &UnixStream) -> io::Result<ExitStatus> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let mut events = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(heard, PollFlags::IN)];
        match poll(&mut events, None) {
            Ok(_) if !events[1].revents().is_empty() => child.kill()?,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // After a kill this is where the kernel waits for all the others.
        if !events[0].revents().is_empty() || !events[1].revents().is_empty() {
            return child.wait();
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let signalled = status.signal().map(|number| 128 + number);
    status.code().or(signalled).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn furnish() -> Result<(), String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let mounting = |what: &'static str| move |error: rustix::io::Errno| format!("mounting {what}: {error}");
    raw::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWNET).map_err(failed("no mount and network namespace"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(mounting("privately"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", "/run", "tmpfs", flags, None::<&CStr>).map_err(mounting("/run"))?;
    mount("proc", "/proc", "proc", flags, None::<&CStr>).map_err(mounting("/proc"))?;
    fs::create_dir("/run/netns").map_err(failed("/run/netns"))?;
    fs::create_dir(SCRATCH).map_err(failed(SCRATCH))?;
    // As far as we may; what needs more of them says so then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) });
    Ok(())
}
