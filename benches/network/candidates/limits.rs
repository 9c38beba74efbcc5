//! The limits of the machine: examples/forward.rs and examples/split.rs, which do nothing that could be left out.

use super::*;

pub const FORWARD: Candidate = Candidate {
    name: "forward",
    what: "limit of a switch: two TAPs, one read and one write a frame",
    limit: None,
    remedy: "cargo build --release --examples",
    version: |tools| tools.forward.is_file().then(|| "of this tree".to_owned()),
    refuses: |wanted| (wanted.ports > 2).then_some("it has two ports"),
    build: |tools, scene, wanted| {
        let mut path = Path::begin(scene, if wanted.way == Way::In { [172, 31, 0, 2] } else { [172, 31, 0, 3] });
        path.start(scene.hub.command(&tools.forward, &["vnet", scene.a.path(), scene.far.path()]), "ready")?;
        addresses(&scene.a, A, wanted.mtu)?;
        addresses(&scene.far, B, wanted.mtu)?;
        Ok(path)
    },
};

pub const SPLIT: Candidate = Candidate {
    name: "split",
    what: "limit of TCP by host sockets: a TAP, and a socket a connection",
    limit: None,
    remedy: "cargo build --release --examples",
    version: |tools| tools.split.is_file().then(|| "of this tree".to_owned()),
    refuses: |wanted| match wanted.way {
        Way::Direct => Some("it joins a container to sockets, not to a container"),
        Way::In => Some("it publishes no ports"),
        Way::Out if wanted.ping || wanted.udp => Some("it splits TCP alone"),
        Way::Out if wanted.flows > 900 => Some("it has room for 1,024 connections"),
        Way::Out => None,
    },
    build: |tools, scene, wanted| {
        scene.world_of_sockets()?;
        let mut path = Path::begin(scene, HOST);
        path.start(scene.far.command(&tools.split, &[scene.a.path(), &wanted.mtu.to_string()]), "ready")?;
        addresses(&scene.a, A, wanted.mtu)?;
        scene.a.ip(&format!("route add default via {GATEWAY}\n"))?;
        Ok(path)
    },
};

pub fn addresses(netns: &Netns, address: &str, mtu: u32) -> Result<(), String> {
    netns.ip(&format!("addr add {address}/16 dev eth0\nlink set eth0 mtu {mtu} up\n"))
}
