//! A network namespace with a name, and the commands that run in it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::process::{self, Background, SOON, eventually};
use crate::raw;

/// A namespace kept by its name under /run/netns, as `ip netns` keeps them; gone with its value.
pub struct Netns {
    path: PathBuf,
    handle: File,
}

impl Netns {
    /// With loopback up and IPv6 off: nothing may speak unless it is asked to.
    pub fn new(name: &str) -> Result<Self, String> {
        let path = Path::new("/run/netns").join(name);
        let made = || -> io::Result<File> {
            raw::unshare(UnshareFlags::NEWNET)?;
            mount_bind("/proc/thread-self/ns/net", &path)?;
            for of in ["all", "default"] {
                let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6"), "1");
            }
            File::open(&path)
        };
        let made = File::create(&path).and_then(|_| thread::scope(|scope| scope.spawn(made).join()).expect("no panic"));
        let handle = made.map_err(|error| format!("namespace {name}: {error}"))?;
        let netns = Self { path, handle };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    pub fn path(&self) -> &str {
        self.path.to_str().expect("ASCII")
    }

    pub fn name(&self) -> &str {
        self.path().trim_start_matches("/run/netns/")
    }

    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null());
        raw::place(&mut command, self.handle.as_fd());
        command
    }

    pub fn start(&self, program: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> Result<Background, String> {
        Background::start(self.command(program, words))
    }

    pub fn run(&self, program: &str, words: &[&str], patience: Duration) -> Result<String, String> {
        let found = process::find(program).ok_or_else(|| format!("the program `{program}` is not installed"))?;
        process::run(self.command(found, words), patience)
    }

    /// Runs lines of `ip`, all of which must succeed.
    pub fn ip(&self, batch: &str) -> Result<(), String> {
        self.feed("ip", &["-batch", "-"], batch)
    }

    /// Loads rules in nft's own language.
    pub fn nft(&self, rules: &str) -> Result<(), String> {
        self.feed("nft", &["-f", "-"], rules)
    }

    fn feed(&self, program: &str, words: &[&str], input: &str) -> Result<(), String> {
        let found = process::find(program).ok_or_else(|| format!("the program `{program}` is not installed"))?;
        let mut command = self.command(found, words);
        command.stdin(Stdio::piped());
        let mut child = Background::start(command)?;
        // Its exit status says what it made of an input that it did not read.
        let _ = child.stdin().map(|mut to| to.write_all(input.as_bytes()));
        child.end(4 * SOON).map(drop)
    }

    /// Does something on a thread inside.
    pub fn enter<R: Send>(&self, action: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network)).expect("it is ours");
            action()
        };
        thread::scope(|scope| scope.spawn(inside).join()).expect("no panic in there")
    }

    /// Sets `net.<key>`, with slashes.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), String> {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| fs::write(&path, value)).map_err(|error| format!("{path}: {error}"))
    }

    /// Waits until somebody listens on a TCP port.
    pub fn listens(&self, port: u16) -> Result<(), String> {
        let entry = format!(":{port:04X} 00000000:0000 0A");
        eventually(&format!("a server on port {port}"), SOON, || {
            self.enter(|| fs::read_to_string("/proc/thread-self/net/tcp")).is_ok_and(|table| table.contains(&entry))
        })
    }

    /// A counter of /proc/net/snmp or netstat: a line of names, a line of values.
    pub fn counter(&self, file: &str, group: &str, name: &str) -> u64 {
        let text = self.enter(|| fs::read_to_string(format!("/proc/thread-self/net/{file}"))).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
        let mut both = names.split_whitespace().zip(values.split_whitespace());
        both.find(|(of, _)| *of == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    /// Frames that a device has received.
    pub fn received(&self, ifname: &str) -> u64 {
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev")).unwrap_or_default();
        let device = table.lines().find_map(|line| line.trim().strip_prefix(ifname)?.strip_prefix(':'));
        device.and_then(|figures| figures.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if unmount(&self.path, UnmountFlags::DETACH).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
