//! pontoon as device under test. Every word of its command line that these tests rely on is in this file.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::bed::{Bed, CONTAINERS, Dut, LAN_HOST, Publish, ROUTER, Settings, UP};
use super::ns::{SOON, run_to_end, terminate};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pontoon");

/// Whether the binary knows the command that everything here begins with.
pub fn has_a_switch() -> bool {
    let mut command = Command::new(PROGRAM);
    command.args(["switch", "--help"]).process_group(0);
    run_to_end(command, "").is_ok_and(|help| help.contains("--uplink"))
}

pub struct Pontoon {
    // Dropped in this order: the switch goes before the namespaces that it serves.
    switch: Switch,
    bed: Bed,
    control: PathBuf,
}

/// The process, ended with its value.
struct Switch(RefCell<Child>);

impl Drop for Switch {
    fn drop(&mut self) {
        terminate(&mut self.0.borrow_mut());
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
        command.arg("switch").arg("--control").arg(&control);
        command.args([
            "--subnet",
            if plain { "172.17.0.0/16" } else { "172.31.0.0/16" },
            "--gateway",
            if plain { "172.17.0.1" } else { "172.31.0.1" },
        ]);
        if uplink {
            if uplink_mtu != 1500 {
                // The command line does not speak of it: a TUN that is there already keeps its MTU when the switch adopts it.
                bed.x.ip(&format!("tuntap add dev lan0 mode tun vnet_hdr\nlink set lan0 mtu {uplink_mtu}"));
            }
            command.args([
                "--uplink",
                &format!("tun:name=lan0,address={UP},peer={ROUTER}/24,netns={}", bed.x.path().display()),
            ]);
        } else {
            command.args(["--uplink", "none"]);
        }
        let switch = command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{PROGRAM}: {error}"));
        let pontoon = Self { switch: Switch(RefCell::new(switch)), bed, control };
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
        for (name, address, mac) in CONTAINERS {
            let (address, mac) = (address.to_string(), mac.map(|byte| format!("{byte:02x}")).join(":"));
            let netns = pontoon.bed.container(name);
            let path = netns.path().to_str().expect("ASCII");
            let mut words = vec!["attach", name, "--netns", path, "--ip", &address, "--mac", &mac];
            if !plain {
                words.extend(["--net", "bed"]);
            }
            pontoon.tell(&words);
            if !forwarding {
                // A container of an internal network has no default route; what is tested is what the network does with one who makes it.
                netns.ip("route replace default via 172.17.0.1");
            }
        }
        if uplink {
            pontoon.bed.x.ip(&format!("addr add {LAN_HOST}/24 brd + dev lan0\nroute add 172.17.0.0/16 via {UP}"));
        }
        pontoon
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + SOON;
        while UnixStream::connect(&self.control).is_err() {
            if let Ok(Some(status)) = self.switch.0.borrow_mut().try_wait() {
                panic!("`pontoon switch` ended before it was ready: {status}");
            }
            assert!(Instant::now() < deadline, "no switch listens on {} after {SOON:?}", self.control.display());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs a subcommand against the switch; its output.
    fn tell(&self, words: &[&str]) -> String {
        let (verb, rest) = words.split_first().expect("a subcommand");
        // `network add` is two words; the rest take --control right after the first.
        let (second, rest) = if *verb == "network" { rest.split_at(1) } else { rest.split_at(0) };
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
        let Publish { container, host, port, protocol } = publish;
        self.tell(&["publish", container, "-p", &format!("{host}:{port}/{}", protocol.name())]);
    }

    fn flows(&self) -> String {
        self.tell(&["flows"])
    }
}
