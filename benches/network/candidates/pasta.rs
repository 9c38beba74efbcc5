//! pasta, of passt: a TAP joined to host sockets.

use super::*;

pub const PASTA: Candidate = Candidate {
    name: "pasta",
    what: "passt's pasta: a TAP joined to host sockets",
    limit: Some("split"),
    remedy: "Debian: passt, or --pasta PATH",
    version: |tools| {
        let said = says(&tools.pasta, "--version")?;
        // The packaged one does not know its own.
        let own = tools.pasta.starts_with("/usr/bin").then(|| packaged("pasta", "passt")).flatten();
        tools.pasta.is_file().then(|| own.unwrap_or(said))
    },
    refuses: |wanted| match wanted.way {
        Way::Direct => Some("it has one container"),
        Way::In if wanted.ping => Some("the published address is the host's"),
        Way::Out | Way::In => None,
    },
    build: |tools, scene, wanted| {
        scene.world_of_sockets()?;
        let mut path = Path::begin(scene, HOST);
        let mut command = scene.far.command(&tools.pasta, &["-f", "-4", "--config-net", "-I", "eth0", "-i", "ext0"]);
        command.args(["-a", A, "-n", "255.255.0.0", "-g", GATEWAY, "-m", &wanted.mtu.to_string()]);
        command.args(["--runas", "0", "--no-dhcp", "-T", "none", "-U", "none"]);
        if wanted.way == Way::In {
            let tcp = format!("{IPERF},{FIRST_TCP}-{}", FIRST_TCP + TCP_PORTS - 1);
            command.args(["-t", &tcp, "-u", &UDP.to_string()]);
        } else {
            command.args(["-t", "none", "-u", "none"]);
        }
        command.args(["--netns", scene.a.path()]);
        path.start(command, "")?;
        // It says nothing when it is ready: the container's default route is the last thing that it sets.
        let configured = process::eventually("pasta configures the container", SOON, || {
            let routes = scene.a.enter(|| std::fs::read_to_string("/proc/thread-self/net/route"));
            routes.is_ok_and(|routes| routes.contains("eth0\t00000000"))
        });
        configured.map_err(|error| format!("{error}; {}", path.helpers[0].complaint()))?;
        // Until the container has spoken, pasta sends to the broadcast MAC address, where TCP is not heard; and without IPv6 it is silent.
        let _ = scene.a.run("ping", &["-n", "-c", "1", "-W", "1", GATEWAY], SOON);
        Ok(path)
    },
};
