//! Open vSwitch with its userspace datapath: TAPs of its own, given to the containers; a database and sockets of its own.

use super::limits::addresses;
use super::*;
use crate::walls::SCRATCH;

pub const OPENVSWITCH: Candidate = Candidate {
    name: "openvswitch",
    what: "Open vSwitch, userspace datapath on TAPs",
    limit: Some("forward"),
    remedy: "Debian: openvswitch-switch",
    version: |_| {
        process::find("ovsdb-server")?;
        process::find("ovs-vswitchd").and_then(|program| says(program, "--version"))
    },
    refuses: |wanted| (wanted.way != Way::Direct).then_some("a switch: routing and NAT are a controller's to add"),
    build: |_, scene, wanted| {
        let mut path = Path::begin([172, 31, 0, 3]);
        let directory = format!("{SCRATCH}/ovs");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).map_err(|error| format!("{directory}: {error}"))?;
        let (database, socket) = (format!("{directory}/conf.db"), format!("unix:{directory}/db.sock"));
        let run = |program: &str, words: &[&str]| {
            let found = process::find(program).ok_or_else(|| format!("{program} is not installed"))?;
            let mut command = scene.hub.command(found, words);
            private(&mut command, &directory);
            process::run(command, 4 * SOON)
        };
        run("ovsdb-tool", &["create", &database, "/usr/share/openvswitch/vswitch.ovsschema"])?;
        for (program, words) in [
            ("ovsdb-server", vec![database.clone(), format!("--remote=p{socket}"), "--no-chdir".to_owned()]),
            ("ovs-vswitchd", vec![socket.clone(), "--no-chdir".to_owned(), "--disable-system".to_owned()]),
        ] {
            let found = process::find(program).ok_or_else(|| format!("{program} is not installed"))?;
            let mut command = scene.hub.command(found, &[]);
            private(&mut command, &directory);
            command.args(words).arg(format!("--unixctl={directory}/{program}.ctl"));
            path.start(command, "")?;
            if program == "ovsdb-server" {
                let file = format!("{directory}/db.sock");
                process::eventually("ovsdb-server listens", SOON, || std::path::Path::new(&file).exists())?;
            }
        }
        let database = format!("--db={socket}");
        run("ovs-vsctl", &[&database, "--no-wait", "init"])?;
        let mut words: Vec<String> =
            [&database, "-t", "15", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"]
                .map(|word: &str| word.to_owned())
                .into();
        let mtu = format!("mtu_request={}", wanted.mtu);
        let mut ports: Vec<(String, String)> = vec![("tap0".into(), "a".into()), ("tap1".into(), "b".into())];
        let mut idle = Vec::new();
        path.idle(wanted.ports, |netns, number| {
            ports.push((format!("tap{number}"), netns.path().trim_start_matches("/run/netns/").to_owned()));
            idle.push(number);
            Ok(())
        })?;
        for (port, _) in &ports {
            for word in ["--", "add-port", "br0", port, "--", "set", "interface", port, "type=tap", &mtu] {
                words.push(word.to_owned());
            }
        }
        run("ovs-vsctl", &words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let moves = ports.iter().enumerate().map(|(number, (port, netns))| {
            let ifname = if number < 2 { "eth0".to_owned() } else { format!("eth{number}") };
            format!("link set {port} netns {netns} name {ifname}\n")
        });
        scene.hub.ip(&moves.collect::<String>())?;
        addresses(&scene.a, A, wanted.mtu)?;
        addresses(&scene.far, B, wanted.mtu)?;
        for netns in &path.idle {
            let own = idle
                .iter()
                .filter(|number| ports[**number as usize].1 == netns.path().trim_start_matches("/run/netns/"));
            let batch = own.map(|number| {
                format!("addr add {}/16 dev eth{number}\nlink set eth{number} up\n", idle_address(*number))
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
