//! Switches, containers, and a world behind the uplink.
//!
//! ```text
//!   containers 172.17.0.x -- switch in `host` -- 192.0.2.10 (TUN `up0` in `world`) 192.0.2.1, 198.51.100.5
//!   the same -- switch over the sockets of `host` 192.0.2.112 (veth `out0`) -- (veth `in0`) 192.0.2.1, 198.51.100.5
//! ```

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::ns::{Netns, SOON, Udp, terminate};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pontoon");
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 1);
/// pontoon's own address on the uplink.
pub const UP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The kernel's side of it.
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The host's own address, where the uplink is its sockets.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 112);
/// An address beyond, that the world answers for.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 5);

/// The namespaces and files of one claim.
pub struct Case {
    number: u32,
    pub host: Netns,
    pub world: Netns,
    pub directory: PathBuf,
}

impl Case {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = PathBuf::from(format!("/run/case-{number}"));
        fs::create_dir(&directory).expect("/run is a tmpfs of our own");
        let netns = |name: &str| Netns::new(&format!("{name}-{number}"));
        let case = Self { number, host: netns("host"), world: netns("world"), directory };
        case.world.ip(&format!("addr add {SERVER}/32 dev lo"));
        case
    }

    pub fn netns(&self, name: &str) -> Netns {
        Netns::new(&format!("{name}-{}", self.number))
    }

    pub fn control(&self) -> PathBuf {
        self.directory.join("control")
    }

    /// A switch with an uplink into the world, and more options.
    pub fn switch(&self, options: &[&str]) -> Switch {
        Switch::spawn(self.switch_command(options), self.control())
    }

    /// The command that is such a switch.
    pub fn switch_command(&self, options: &[&str]) -> Command {
        let uplink = format!("tun:name=up0,address={UP},peer={PEER}/24,netns={}", self.world.path().display());
        let mut all = vec!["--uplink", &uplink];
        all.extend(options);
        self.command_with(&all)
    }

    pub fn switch_without_uplink(&self, options: &[&str]) -> Switch {
        self.switch_with(&[&["--uplink", "none"], options].concat())
    }

    /// A switch over the host's sockets, of a host that [`Self::connect_host`] connected.
    pub fn switch_over_sockets(&self, options: &[&str]) -> Switch {
        self.switch_with(&[&["--uplink", "sockets"], options].concat())
    }

    /// A link between host and world, and the host's way to all beyond.
    pub fn connect_host(&self) {
        self.host.ip(&format!(
            "link add out0 type veth peer name in0 netns {}\naddr add {HOST}/24 dev out0\nlink set out0 up",
            self.world.name()
        ));
        self.world.ip(&format!("addr add {PEER}/24 dev in0\nlink set in0 up"));
        self.host.ip(&format!("route add default via {PEER}"));
    }

    pub fn switch_with(&self, options: &[&str]) -> Switch {
        Switch::spawn(self.command_with(options), self.control())
    }

    fn command_with(&self, options: &[&str]) -> Command {
        let mut command = self.host.command(PROGRAM);
        command.arg("switch").arg("--control").arg(self.control()).args(options).stdin(Stdio::null());
        command
    }

    /// A command that runs `pontoon` with its standard input as descriptor 3 and its standard output as descriptor 4.
    pub fn handing(&self) -> Command {
        let mut command = self.host.command("sh");
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#, PROGRAM]);
        command
    }

    /// The switch that such a command starts.
    pub fn started(&self, command: Command) -> Switch {
        Switch::spawn(command, self.control())
    }

    /// One that is not waited for, because it will not get ready.
    pub fn failing(&self, mut command: Command) -> Switch {
        let child = command.spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
        Switch { child: RefCell::new(child), control: self.control() }
    }

    /// Runs `pontoon` with these words, to its end.
    pub fn say(&self, words: &[&str]) -> Said {
        let mut command = self.host.command(PROGRAM);
        command.args(words).stdin(Stdio::null());
        Said::by(command)
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What a command answered.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn by(mut command: Command) -> Self {
        let output = command.output().expect("spawned");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// A running switch, ended with its value.
pub struct Switch {
    child: RefCell<Child>,
    pub control: PathBuf,
}

impl Drop for Switch {
    fn drop(&mut self) {
        let _ = kill_process(self.pid(), Signal::CONT);
        terminate(&mut self.child.borrow_mut());
    }
}

impl Switch {
    fn spawn(mut command: Command, control: PathBuf) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
        let switch = Self { child: RefCell::new(child), control };
        switch.wait_until_ready();
        switch
    }

    pub fn wait_until_ready(&self) {
        let deadline = Instant::now() + SOON;
        while self.try_request(r#"{"execute":"version"}"#).is_none() {
            assert!(self.is_running(), "`pontoon switch` ended before it was ready");
            assert!(Instant::now() < deadline, "no switch answers at {} after {SOON:?}", self.control.display());
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child.borrow())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    pub fn is_running(&self) -> bool {
        matches!(self.child.borrow_mut().try_wait(), Ok(None))
    }

    /// The exit status, when it comes soon; -1 of one that was killed.
    pub fn ended(&self) -> i32 {
        let mut status = None;
        soon("the switch ends", || {
            status = self.child.borrow_mut().try_wait().expect("ours");
            status.is_some()
        });
        status.and_then(|status| status.code()).unwrap_or(-1)
    }

    /// The processes: itself and its helper.
    pub fn processes(&self) -> Vec<Pid> {
        let mut all = vec![self.pid()];
        all.extend(self.helpers());
        all
    }

    pub fn helpers(&self) -> Vec<Pid> {
        let own = self.pid().as_raw_nonzero().get();
        let mut children = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // The second word after the command's name, which may have anything in it but ends with the last parenthesis.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
            if after.split_whitespace().nth(1) == Some(&own.to_string()) {
                children.extend(Pid::from_raw(pid));
            }
        }
        children
    }

    /// Runs a subcommand against this switch.
    pub fn say(&self, words: &[&str]) -> Said {
        let mut command = Command::new(PROGRAM);
        command.args(self.words(words)).stdin(Stdio::null());
        Said::by(command)
    }

    /// The words of a subcommand with the socket to use.
    pub fn words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        let verbs = if ["network", "rule", "route", "capture"].contains(&words[0]) { 2 } else { 1 };
        let (verb, rest) = words.split_at(verbs);
        [verb, &["--control", self.control.to_str().expect("ASCII")], rest].concat()
    }

    /// Runs a subcommand that must succeed; its output.
    pub fn tell(&self, words: &[&str]) -> String {
        let said = self.say(words);
        assert_eq!(said.status, Some(0), "pontoon {words:?}: {}", said.err);
        said.out
    }

    pub fn attach(&self, name: &str, netns: &Netns, more: &[&str]) {
        let mut words = vec!["attach", name, "--netns", netns.path().to_str().expect("ASCII")];
        words.extend(more);
        self.tell(&words);
    }

    fn try_request(&self, line: &str) -> Option<Value> {
        let mut stream = UnixStream::connect(&self.control).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        writeln!(stream, "{line}").ok()?;
        answer(&stream)
    }

    /// Makes a call on a connection of its own; the whole answer.
    pub fn request(&self, line: &str) -> Value {
        self.try_request(line).unwrap_or_else(|| panic!("no answer to {line}"))
    }

    /// What a call without arguments returns.
    pub fn list(&self, call: &str) -> Vec<Value> {
        let mut answer = self.request(&format!(r#"{{"execute":"{call}"}}"#));
        match answer["return"].take() {
            Value::Array(rows) => rows,
            one => vec![one],
        }
    }

    /// The names of the containers with a port, the uplink left out.
    pub fn containers(&self) -> Vec<String> {
        let name = |row: &Value| row["name"].as_str().map(str::to_owned);
        let attached = |row: &&Value| !row["ifname"].is_null() && row["network"].is_string();
        let mut names: Vec<_> = self.list("ports").iter().filter(attached).filter_map(name).collect();
        names.sort();
        names
    }

    /// How often a port, or any with `*`, dropped for `reason`.
    pub fn drops(&self, name: &str, reason: &str) -> u64 {
        let ports = self.list("ports");
        let rows = ports.iter().filter(|row| name == "*" || row["name"] == name);
        let drops = rows.flat_map(|row| row["drops"].as_array().cloned().unwrap_or_default());
        drops.filter(|drop| drop[0] == reason).filter_map(|drop| drop[1].as_u64()).sum()
    }

    /// Resident memory of all its processes, KiB.
    pub fn resident(&self) -> u64 {
        self.processes().iter().map(|pid| status(*pid, "VmRSS:")).sum()
    }
}

/// A connection to a switch, for requests made by hand.
pub fn dial(control: &Path) -> UnixStream {
    let stream = UnixStream::connect(control).expect("a switch listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket");
    stream
}

/// The next line of a connection, as JSON.
pub fn answer(stream: &UnixStream) -> Option<Value> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// A number of `/proc/PID/status`.
pub fn status(pid: Pid, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Waits until `what` is so.
pub fn soon(what: &str, is_so: impl FnMut() -> bool) {
    within(SOON, what, is_so);
}

pub fn within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The devices of a namespace, sorted.
pub fn devices(netns: &Netns) -> Vec<String> {
    let text = netns.enter(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("/proc");
    let mut names: Vec<_> = text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect();
    names.sort();
    names
}

/// The frames that the devices of a namespace received, but those of `lo`.
pub fn received(netns: &Netns) -> u64 {
    let text = netns.enter(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("/proc");
    let count = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let frames = figures.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        (name.trim() != "lo").then_some(frames)
    };
    text.lines().filter_map(count).sum()
}

/// Two UDP sockets that ask each other whether they are there.
pub struct Pair {
    asker: Udp,
    echo: Udp,
    to: std::net::SocketAddrV4,
}

impl Pair {
    pub fn new(from: (&Netns, Ipv4Addr), to: (&Netns, Ipv4Addr)) -> Self {
        let to_socket = std::net::SocketAddrV4::new(to.1, 7);
        Self { asker: from.0.udp(std::net::SocketAddrV4::new(from.1, 0)), echo: to.0.udp(to_socket), to: to_socket }
    }

    /// A question and its answer; both must arrive.
    pub fn ask(&self) {
        assert!(self.reaches(SOON), "no answer from {}", self.to);
    }

    pub fn reaches(&self, patience: Duration) -> bool {
        self.asker.send("are you there", self.to).is_ok()
            && self.echo.recv_within(patience).is_ok_and(|(_, from)| {
                let std::net::SocketAddr::V4(from) = from else { return false };
                self.echo.send("yes", from).is_ok()
            })
            && self.asker.recv_within(patience).is_ok()
    }
}
