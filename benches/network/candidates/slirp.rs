//! slirp4netns: libslirp on a TAP.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

pub const SLIRP4NETNS: Candidate = Candidate {
    name: "slirp4netns",
    what: "libslirp on a TAP, host sockets",
    limit: Some("split"),
    remedy: "Debian: slirp4netns",
    version: |_| process::find("slirp4netns").and_then(|program| says(program, "--version")),
    refuses: |wanted| match wanted.way {
        Way::Direct => Some("it has one container"),
        Way::In if wanted.ping => Some("the published address is the host's"),
        Way::Out | Way::In => None,
    },
    build: |_, scene, wanted| {
        scene.world_of_sockets()?;
        let mut path = Path::begin(scene, HOST);
        let api = scene.scratch("slirp");
        let mut command = scene.far.command("sh", &["-c", r#"exec "$0" "$@" 3>&1"#, "slirp4netns", "-c", "-r", "3"]);
        command.args(["-m", &wanted.mtu.to_string(), "-a", &api, "--cidr", "172.31.0.0/24", "--disable-dns"]);
        command.args(["--netns-type=path", scene.a.path(), "eth0"]);
        let _ = std::fs::remove_file(&api);
        // The byte that says ready is "1"; what it writes before are lines of words.
        path.start(command, "1")?;
        if wanted.way == Way::In {
            for port in std::iter::once(IPERF).chain((FIRST_TCP..).take(TCP_PORTS.into())) {
                publish(&api, "tcp", port)?;
            }
            publish(&api, "udp", UDP)?;
        }
        Ok(path)
    },
};

fn publish(api: &str, proto: &str, port: u16) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("slirp4netns: {error}");
    let mut answer = String::new();
    let request = format!(
        r#"{{"execute":"add_hostfwd","arguments":{{"proto":"{proto}","host_addr":"0.0.0.0","host_port":{port},"guest_addr":"172.31.0.100","guest_port":{port}}}}}"#
    );
    let mut stream = UnixStream::connect(api).map_err(failed)?;
    stream.set_read_timeout(Some(SOON)).map_err(failed)?;
    stream.write_all(request.as_bytes()).map_err(failed)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(failed)?;
    stream.read_to_string(&mut answer).map_err(failed)?;
    if answer.contains("error") { Err(format!("slirp4netns: {answer}")) } else { Ok(()) }
}
