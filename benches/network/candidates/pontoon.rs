//! pontoon itself, by its command line.

use super::*;

pub const PONTOON: Candidate = Candidate {
    name: "pontoon",
    what: "pontoon, uplink none between containers, else a TUN",
    limit: Some("forward"),
    remedy: "cargo build --release",
    version: |tools| says(&tools.pontoon, "--version"),
    refuses: |wanted| {
        (wanted.way == Way::In && wanted.ping).then_some("the published address is its own, and it answers itself")
    },
    build: |tools, scene, wanted| {
        if wanted.way == Way::Direct {
            let path = switch(tools, scene, &scene.hub, "none", wanted, [172, 31, 0, 3].into())?;
            attach(tools, scene, &scene.hub, "b", &scene.far, "eth0", B, false)?;
            return finish(tools, scene, wanted, path);
        }
        let target = if wanted.way == Way::Out { BEYOND } else { OUTSIDE };
        let mut uplink = format!("tun:name=up0,address={OUTSIDE},peer={BEYOND}/24,netns={}", scene.far.path());
        if wanted.mtu != 1500 {
            uplink += &format!(",mtu={}", wanted.mtu);
        }
        finish(tools, scene, wanted, switch(tools, scene, &scene.hub, &uplink, wanted, target)?)
    },
};

pub const SOCKETS: Candidate = Candidate {
    name: "pontoon-sockets",
    what: "pontoon, uplink `sockets`: the world by ordinary host sockets",
    limit: Some("split"),
    remedy: "this binary has no `--uplink sockets`",
    version: |tools| {
        let mut help = Command::new(&tools.pontoon);
        help.args(["switch", "--help"]);
        let known = process::run(help, SOON)
            .is_ok_and(|help| help.lines().any(|line| line.contains("--uplink") && line.contains("sockets")));
        known.then(|| says(&tools.pontoon, "--version")).flatten()
    },
    refuses: |wanted| match wanted.way {
        Way::Direct => Some("between containers the uplink has no part"),
        Way::In if wanted.ping => Some("the published address is the host's"),
        Way::Out | Way::In => None,
    },
    build: |tools, scene, wanted| {
        scene.world_of_sockets()?;
        let path = switch(tools, scene, &scene.far, "sockets", wanted, HOST)?;
        attach(tools, scene, &scene.far, "a", &scene.a, "eth0", A, wanted.way == Way::In)?;
        Ok(path)
    },
};

fn switch(
    tools: &Tools,
    scene: &Scene,
    place: &Netns,
    uplink: &str,
    wanted: &Wanted,
    target: Ipv4Addr,
) -> Result<Path, String> {
    let mut path = Path::begin(scene, target);
    // The shell gives it the descriptor to say that it is ready.
    let mut command = place.command("sh", &["-c", r#"exec "$0" "$@" 3>&1"#]);
    command.arg(&tools.pontoon).args([
        "switch",
        "--ready-fd",
        "3",
        "--log",
        "error",
        "--control",
        &scene.scratch("control"),
    ]);
    command.args(["--subnet", SUBNET, "--gateway", GATEWAY, "--mtu", &wanted.mtu.to_string(), "--uplink", uplink]);
    if wanted.flows > 10_000 {
        // One container may have a quarter of all otherwise.
        command.args(["--flow-quota", &(wanted.flows + wanted.flows / 4).to_string()]);
    }
    path.start(command, "1\n")?;
    Ok(path)
}

fn finish(tools: &Tools, scene: &Scene, wanted: &Wanted, mut path: Path) -> Result<Path, String> {
    attach(tools, scene, &scene.hub, "a", &scene.a, "eth0", A, wanted.way == Way::In)?;
    path.idle(wanted.ports, |netns, number| {
        let (name, ifname) = (format!("p{number}"), format!("eth{number}"));
        attach(tools, scene, &scene.hub, &name, netns, &ifname, &idle_address(number), false)
    })?;
    Ok(path)
}

#[expect(clippy::too_many_arguments, reason = "the words of one command line")]
fn attach(
    tools: &Tools,
    scene: &Scene,
    place: &Netns,
    name: &str,
    netns: &Netns,
    ifname: &str,
    ip: &str,
    publish: bool,
) -> Result<(), String> {
    let mut command =
        place.command(&tools.pontoon, &["attach", name, "--control", &scene.scratch("control"), "--ifname", ifname]);
    command.args(["--netns", netns.path(), "--ip", ip]);
    if publish {
        let last = FIRST_TCP + TCP_PORTS - 1;
        let range = format!("{FIRST_TCP}-{last}");
        command.args(["-p", &format!("{IPERF}:{IPERF}"), "-p", &format!("{range}:{range}")]);
        command.args(["-p", &format!("{UDP}:{UDP}/udp")]);
    }
    process::run(command, SOON).map(drop)
}
