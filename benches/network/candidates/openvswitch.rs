//! Open vSwitch with its userspace datapath: a database and sockets of its own.
//!
//! At MTU 1500 its ports are TAPs of its own, given to the containers, with `userspace-tso-enable`: super-frames, as pontoon's. It
//! reads frames into room for the MTU of the device, which it cannot know once the device is in another namespace: it takes 1500,
//! and larger frames are cut and lost. So at a larger MTU its ports are veth pairs, whose ends on its side stay with it, read and
//! written by packet sockets; the containers' ends make complete frames, for it completes no checksum there.

use super::limits::addresses;
use super::*;

pub const OPENVSWITCH: Candidate = Candidate {
    name: "openvswitch",
    what: "Open vSwitch, userspace datapath with TSO on TAPs; at MTU 65520 without, on veth pairs",
    limit: Some("forward"),
    remedy: "Debian: openvswitch-switch ethtool",
    version: |_| {
        process::find("ovsdb-server")?;
        process::find("ethtool")?;
        process::find("ovs-vswitchd").and_then(|program| says(program, "--version"))
    },
    refuses: |wanted| (wanted.way != Way::Direct).then_some("a switch: routing and NAT are a controller's to add"),
    build: |_, scene, wanted| {
        let mut path = Path::begin(scene, [172, 31, 0, 3]);
        let taps = wanted.mtu <= 1500;
        let mut ports: Vec<(String, &Netns, String)> =
            vec![("tap0".into(), &scene.a, "eth0".into()), ("tap1".into(), &scene.far, "eth0".into())];
        path.idle(wanted.ports, |_, _| Ok(()))?;
        let directory = scene.scratch("ovs");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).map_err(|error| format!("{directory}: {error}"))?;
        let (database, socket) = (format!("{directory}/conf.db"), format!("unix:{directory}/db.sock"));
        let run = |program: &str, words: &[&str]| {
            let found = process::find(program).ok_or_else(|| format!("{program} is not installed"))?;
            let mut command = scene.hub.command(found, words);
            private(&mut command, &directory);
            process::run(command, 12 * SOON)
        };
        run("ovsdb-tool", &["create", &database, "/usr/share/openvswitch/vswitch.ovsschema"])?;
        let daemon = |path: &mut Path, program: &str, words: &[&str]| {
            let found = process::find(program).ok_or_else(|| format!("{program} is not installed"))?;
            let mut command = scene.hub.command(found, words);
            private(&mut command, &directory);
            command.arg("--no-chdir").arg(format!("--unixctl={directory}/{program}.ctl"));
            path.start(command, "")
        };
        daemon(&mut path, "ovsdb-server", &[&database, &format!("--remote=p{socket}")])?;
        let file = format!("{directory}/db.sock");
        process::eventually("ovsdb-server listens", SOON, || std::path::Path::new(&file).exists())?;
        let database = format!("--db={socket}");
        let tso = format!("other_config:userspace-tso-enable={taps}");
        run("ovs-vsctl", &[&database, "--no-wait", "init", "--", "set", "Open_vSwitch", ".", &tso])?;
        daemon(&mut path, "ovs-vswitchd", &[&socket, "--disable-system"])?;
        let idle = (2..wanted.ports).zip(path.idle.iter().flat_map(|netns| std::iter::repeat_n(netns, 100)));
        ports.extend(idle.map(|(number, netns)| (format!("tap{number}"), netns, format!("eth{number}"))));
        let mtu = wanted.mtu;
        if !taps {
            let pairs = ports.iter().map(|(port, netns, ifname)| {
                let of = netns.name();
                format!("link add name {port} mtu {mtu} type veth peer name {ifname} mtu {mtu} netns {of}\nlink set {port} up\n")
            });
            scene.hub.ip(&pairs.collect::<String>())?;
        }
        let mut words: Vec<&str> =
            vec![&database, "-t", "60", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"];
        for (port, ..) in &ports {
            words.extend(["--", "add-port", "br0", port]);
            if taps {
                words.extend(["--", "set", "interface", port, "type=tap"]);
            }
        }
        run("ovs-vsctl", &words)?;
        if taps {
            let moves = ports
                .iter()
                .map(|(port, netns, ifname)| format!("link set {port} netns {} name {ifname}\n", netns.name()));
            scene.hub.ip(&moves.collect::<String>())?;
        } else {
            for (_, netns, ifname) in &ports {
                netns.run("ethtool", &["-K", ifname, "tx", "off", "tso", "off", "gso", "off"], SOON)?;
            }
        }
        addresses(&scene.a, A, mtu)?;
        addresses(&scene.far, B, mtu)?;
        for (index, netns) in path.idle.iter().enumerate() {
            let first = 2 + 100 * index as u32;
            let batch = (first..wanted.ports.min(first + 100)).map(|number| {
                format!("addr add {}/16 dev eth{number}\nlink set eth{number} up\n", idle_address(number))
            });
            netns.ip(&batch.collect::<String>())?;
        }
        Ok(path)
    },
};

/// Everything it would put in the system's directories goes into ours.
fn private(command: &mut Command, directory: &str) {
    command.env("OVS_RUNDIR", directory).env("OVS_LOGDIR", directory).env("OVS_DBDIR", directory);
}
