//! pontoon as device under test. Every word of its command line that these tests rely on is in this file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::bed::{Bed, CONTAINERS, Dut, LAN_HOST, Publish, ROUTER, Settings, UP};
use super::ns::{SOON, kill_group, run_to_end, terminate};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pontoon");

pub struct Pontoon {
    // Dropped in this order: the switch goes before the namespaces that it serves.
    switch: RefCell<Switch>,
    bed: Bed,
    control: PathBuf,
}

/// The process, ended with its value, and how it was started.
struct Switch {
    command: Command,
    process: Child,
}

impl Switch {
    fn start(mut command: Command) -> Self {
        let process = Self::spawn(&mut command);
        Self { command, process }
    }

    fn spawn(command: &mut Command) -> Child {
        command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        terminate(&mut self.process);
    }
}

impl Pontoon {
    pub fn new(settings: Settings) -> Self {
        // `hairpin` is not asked: a published port is always translated for the containers of its own network too.
        let Settings { icc, masquerade, forwarding, hairpin: _, uplink, uplink_mtu } = settings;
        let bed = Bed::new();
        let control = bed.directory.join("control");
        // The default network is as docker's; a network with other properties is added beside it, and the default one moves out of its way.
        let plain = icc && masquerade && forwarding;

        let mut command = bed.h.command(PROGRAM);
        command.arg("switch").arg("--control").arg(&control).args(["--log", "warn"]);
        command.args([
            "--subnet",
            if plain { "172.17.0.0/16" } else { "172.31.0.0/16" },
            "--gateway",
            if plain { "172.17.0.1" } else { "172.31.0.1" },
        ]);
        if uplink {
            command.args([
                "--uplink",
                &format!(
                    "tun:name=lan0,address={UP},peer={ROUTER}/24,mtu={uplink_mtu},netns={}",
                    bed.x.path().display()
                ),
            ]);
        } else {
            command.args(["--uplink", "none"]);
        }
        let pontoon = Self { switch: RefCell::new(Switch::start(command)), bed, control };
        pontoon.wait_until_ready();

        if !plain {
            let on = |yes: bool| if yes { "on" } else { "off" };
            let mut words = vec!["network", "add", "bed", "--subnet", "172.17.0.0/16", "--gateway", "172.17.0.1"];
            words.extend(["--icc", on(icc), "--masquerade", on(masquerade)]);
            if !forwarding {
                words.push("--internal");
            }
            pontoon.tell(&words);
        }
        for (name, address, _) in CONTAINERS {
            pontoon.attach(name, address, if plain { &[] } else { &["--net", "bed"] });
            if !forwarding {
                // A container of an internal network has no default route; what is tested is what the network does with one who makes it.
                pontoon.bed.container(name).ip("route replace default via 172.17.0.1");
            }
        }
        if uplink {
            pontoon.bed.x.ip(&format!("addr add {LAN_HOST}/24 brd + dev lan0\nroute add 172.17.0.0/16 via {UP}"));
        }
        pontoon
    }

    /// Gives a container its eth0, with its own MAC and any address; `more` are further options.
    pub fn attach(&self, container: &str, address: Ipv4Addr, more: &[&str]) {
        let (address, mac) = (address.to_string(), self.bed.mac(container).map(|byte| format!("{byte:02x}")).join(":"));
        let path = self.bed.container(container).path().to_str().expect("ASCII");
        let mut words = vec!["attach", container, "--netns", path, "--ip", &address, "--mac", &mac];
        words.extend(more);
        self.tell(&words);
    }

    /// Makes a further network, and gives these containers an eth1 in it.
    pub fn add_network(&self, name: &str, options: &[&str], members: &[(&str, Ipv4Addr)]) {
        self.tell(&[&["network", "add", name], options].concat());
        for (container, address) in members {
            let path = self.bed.container(container).path().to_str().expect("ASCII");
            let address = address.to_string();
            self.tell(&["attach", container, "--netns", path, "--net", name, "--ifname", "eth1", "--ip", &address]);
        }
    }

    /// Kills the switch as nothing can be caught, and does `meanwhile` before another is started in its place.
    pub fn restart_after_kill(&self, meanwhile: impl FnOnce()) {
        let Switch { command, process } = &mut *self.switch.borrow_mut();
        kill_group(process);
        meanwhile();
        *process = Switch::spawn(command);
    }

    pub fn detach(&self, container: &str) {
        self.tell(&["detach", container]);
    }

    pub fn unpublish(&self, publish: Publish) {
        self.tell(&["unpublish", publish.container, &words_of(publish)]);
    }

    pub fn start_capture(&self, file: &Path) {
        self.tell(&["capture", "start", file.to_str().expect("ASCII")]);
    }

    pub fn stop_capture(&self) {
        self.tell(&["capture", "stop"]);
    }

    /// How often each rule of the forward chain (S47) was hit.
    pub fn rule_hits(&self) -> BTreeMap<String, u64> {
        let stats: serde_json::Value = serde_json::from_str(&self.tell(&["stats", "--json"])).expect("JSON");
        let rules: Vec<(String, u64)> = serde_json::from_value(stats["rules"].clone()).expect("names and numbers");
        rules.into_iter().collect()
    }

    pub fn wait_until_ready(&self) {
        let deadline = Instant::now() + SOON;
        while UnixStream::connect(&self.control).is_err() {
            if let Ok(Some(status)) = self.switch.borrow_mut().process.try_wait() {
                panic!("`pontoon switch` ended before it was ready: {status}");
            }
            assert!(Instant::now() < deadline, "no switch listens on {} after {SOON:?}", self.control.display());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs a subcommand against the switch; its output.
    fn tell(&self, words: &[&str]) -> String {
        let (verb, rest) = words.split_first().expect("a subcommand");
        // Some subcommands have subcommands of their own; --control stands after both words.
        let (second, rest) = rest.split_at(usize::from(["network", "capture"].contains(verb)));
        let mut command = self.bed.h.command(PROGRAM);
        command.arg(verb).args(second).arg("--control").arg(&self.control).args(rest);
        run_to_end(command, "").unwrap_or_else(|error| panic!("pontoon {words:?}: {error}"))
    }
}

impl Dut for Pontoon {
    fn bed(&self) -> &Bed {
        &self.bed
    }

    fn publish(&self, publish: Publish) {
        self.tell(&["publish", publish.container, &words_of(publish)]);
    }

    fn flows(&self) -> String {
        self.tell(&["flows"])
    }
}

fn words_of(Publish { container: _, host, port, protocol }: Publish) -> String {
    format!("{host}:{port}/{}", protocol.name())
}
