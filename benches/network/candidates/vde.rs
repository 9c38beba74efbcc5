//! vde_switch, with a vde_plug2tap for each container.

use std::process::Stdio;

use super::limits::addresses;
use super::*;

pub const VDE: Candidate = Candidate {
    name: "vde",
    what: "vde_switch, a vde_plug2tap a container",
    limit: Some("forward"),
    remedy: "Debian: vde2",
    version: |_| {
        process::find("vde_plug2tap")?;
        process::find("vde_switch").and_then(|program| says(program, "--version"))
    },
    refuses: |wanted| {
        if wanted.way != Way::Direct {
            Some("a switch, without routing and NAT")
        } else if wanted.mtu > 1500 {
            Some("its frames are at most 1,522 bytes long")
        } else if wanted.ports > 100 {
            Some("a process a port: starting a thousand would be all that is measured")
        } else {
            None
        }
    },
    build: |_, scene, wanted| {
        let mut path = Path::begin(scene, [172, 31, 0, 3]);
        let directory = scene.scratch("vde");
        let _ = std::fs::remove_dir_all(&directory);
        let switch = process::find("vde_switch").ok_or("vde_switch is not installed")?;
        let plug = process::find("vde_plug2tap").ok_or("vde_plug2tap is not installed")?;
        let ports = (wanted.ports + 8).to_string();
        let mut command = scene.hub.command(switch, &["-s", &directory, "-n", &ports]);
        // Its standard input is a console, and it ends with it.
        command.stdin(Stdio::piped());
        path.start(command, "")?;
        let control = format!("{directory}/ctl");
        process::eventually("vde_switch listens", SOON, || std::path::Path::new(&control).exists())?;
        let mut plugs = Vec::new();
        for netns in [&scene.a, &scene.far] {
            plugs.push(Background::start(netns.command(&plug, &["-s", &directory, "eth0"]))?);
        }
        for (netns, address) in [(&scene.a, A), (&scene.far, B)] {
            device(netns, "eth0")?;
            addresses(netns, address, wanted.mtu)?;
        }
        path.idle(wanted.ports, |netns, number| {
            let ifname = format!("eth{number}");
            plugs.push(Background::start(netns.command(&plug, &["-s", &directory, &ifname]))?);
            device(netns, &ifname)?;
            netns.ip(&format!("addr add {}/16 dev {ifname}\nlink set {ifname} up\n", idle_address(number)))
        })?;
        path.helpers.append(&mut plugs);
        Ok(path)
    },
};

fn device(netns: &Netns, ifname: &str) -> Result<(), String> {
    let there = format!("{ifname}:");
    process::eventually("vde_plug2tap makes its device", SOON, || {
        netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev")).is_ok_and(|table| table.contains(&there))
    })
}
