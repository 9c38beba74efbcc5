//! What docker0 is: a bridge with veth pairs, forwarding, and nftables' masquerade and DNAT.

use super::limits::addresses;
use super::*;

pub const KERNEL: Candidate = Candidate {
    name: "kernel",
    what: "the kernel's bridge and veth, nftables masquerade and DNAT: what docker0 is, as root",
    limit: Some("forward"),
    remedy: "Debian: iproute2 nftables",
    version: |_| process::find("nft").and_then(|nft| says(nft, "--version")),
    refuses: |wanted| (wanted.ports > 1023).then_some("a bridge has 1,023 ports"),
    build: |_, scene, wanted| {
        let mut path = Path::begin(
            scene,
            match wanted.way {
                Way::Direct => [172, 31, 0, 3].into(),
                Way::Out => BEYOND,
                Way::In => OUTSIDE,
            },
        );
        let mtu = wanted.mtu;
        let veth = |port: &str, ifname: &str, of: &Netns| {
            format!(
                "link add name {port} mtu {mtu} type veth peer name {ifname} mtu {mtu} netns {}\nlink set {port} up\n",
                of.name()
            )
        };
        let mut batch = "link add name br0 type bridge\nlink set br0 up\n".to_owned();
        batch += &veth("port-a", "eth0", &scene.a);
        batch += "link set port-a master br0\n";
        if wanted.way == Way::Direct {
            batch += &veth("port-b", "eth0", &scene.far);
            batch += "link set port-b master br0\n";
        } else {
            batch += &veth("ext0", "ext0", &scene.far);
            batch +=
                &format!("link set br0 mtu {mtu}\naddr add {GATEWAY}/16 dev br0\naddr add {OUTSIDE}/24 dev ext0\n");
        }
        scene.hub.ip(&batch)?;
        addresses(&scene.a, A, mtu)?;
        if wanted.way == Way::Direct {
            addresses(&scene.far, B, mtu)?;
        } else {
            scene.a.ip(&format!("route add default via {GATEWAY}\n"))?;
            scene.far.ip(&format!("addr add {BEYOND}/24 dev ext0\nlink set ext0 up\n"))?;
            scene.hub.sysctl("ipv4/ip_forward", "1")?;
            scene.hub.nft(&format!(
                "table ip nat {{\n chain pre {{ type nat hook prerouting priority -100;\n  ip daddr {OUTSIDE} tcp dport {{ {IPERF}, {FIRST_TCP}-{} }} dnat to {A}\n  ip daddr {OUTSIDE} udp dport {UDP} dnat to {A}\n }}\n chain post {{ type nat hook postrouting priority 100;\n  ip saddr {SUBNET} oifname ext0 masquerade\n }}\n}}\n",
                FIRST_TCP + TCP_PORTS - 1
            ))?;
        }
        let mut hub = String::new();
        let mut lines = Vec::new();
        path.idle(wanted.ports, |netns, number| {
            hub += &veth(&format!("p{number}"), &format!("eth{number}"), netns);
            hub += &format!("link set p{number} master br0\n");
            lines.push((netns.path().to_owned(), number));
            Ok(())
        })?;
        scene.hub.ip(&hub)?;
        for netns in &path.idle {
            let own = lines.iter().filter(|(of, _)| of == netns.path());
            let batch = own.map(|(_, number)| {
                format!("addr add {}/16 dev eth{number}\nlink set eth{number} up\n", idle_address(*number))
            });
            netns.ip(&batch.collect::<String>())?;
        }
        Ok(path)
    },
};
