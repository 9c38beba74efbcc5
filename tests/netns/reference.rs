//! The kernel as device under test: what docker builds of a bridge, veth pairs and nftables.
//!
//! The rules are those of docker's own nftables back end, as its documentation generates them (moby, integration/network/bridge/nftablesdoc):
//! usernet-portmap, -noproxy (`hairpin`) and -noicc.

use std::cell::RefCell;

use super::bed::{Bed, CONTAINERS, Dut, LAN_HOST, Publish, ROUTER, Settings, UP};

pub struct Reference {
    bed: Bed,
    settings: Settings,
    published: RefCell<Vec<Publish>>,
}

impl Reference {
    pub fn new(settings: Settings) -> Self {
        let bed = Bed::new();
        let h = &bed.h;
        h.sysctl("ipv4.ip_forward", if settings.forwarding { "1" } else { "0" });
        h.ip("link add docker0 type bridge\n\
              addr add 172.17.0.1/16 brd + dev docker0\n\
              link set docker0 up");
        // Docker loads br_netfilter only when a rule is to see bridged packets; where it is built in, it is on.
        let bridged = if settings.icc && !settings.hairpin { "0" } else { "1" };
        h.sysctl("bridge.bridge-nf-call-iptables", bridged);
        for (name, address, mac) in CONTAINERS {
            let container = bed.container(name);
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            h.ip(&format!(
                "link add v-{name} type veth peer name eth0 address {mac} netns {netns}\n\
                 link set v-{name} master docker0 up",
                netns = container.name(),
            ));
            if settings.hairpin {
                h.ip(&format!("link set v-{name} type bridge_slave hairpin on"));
            }
            container.ip(&format!(
                "addr add {address}/16 brd + dev eth0\n\
                 link set eth0 up\n\
                 route add default via 172.17.0.1"
            ));
        }
        if settings.uplink {
            let mtu = settings.uplink_mtu;
            h.ip(&format!(
                "link add up0 mtu {mtu} type veth peer name lan0 mtu {mtu} netns {x}\n\
                 addr add {UP}/24 brd + dev up0\n\
                 link set up0 up",
                x = bed.x.name(),
            ));
            bed.x.ip(&format!(
                "addr add {ROUTER}/24 brd + dev lan0\n\
                 addr add {LAN_HOST}/24 brd + dev lan0\n\
                 link set lan0 up\n\
                 route add 172.17.0.0/16 via {UP}"
            ));
            h.ip(&format!("route add default via {ROUTER}"));
        }
        let reference = Self { bed, settings, published: RefCell::default() };
        reference.load();
        reference
    }

    fn load(&self) {
        let Settings { icc, masquerade, hairpin, .. } = self.settings;
        let mut dnat = String::new();
        let mut open = String::new();
        let mut own_port = String::new();
        let mut direct = String::new();
        for Publish { container, host, port, protocol } in self.published.borrow().iter() {
            let address = CONTAINERS.iter().find(|(name, ..)| name == container).expect("c1, c2 or c3").1;
            let protocol = protocol.name();
            let not_from_here = if hairpin { "" } else { "iifname != \"docker0\" " };
            dnat += &format!("{not_from_here}{protocol} dport {host} counter dnat to {address}:{port}\n");
            open += &format!("ip daddr {address} {protocol} dport {port} counter accept\n");
            own_port += &format!("ip saddr {address} ip daddr {address} {protocol} dport {port} counter masquerade\n");
            direct += &format!("ip daddr {address} iifname != \"docker0\" counter drop\n");
        }
        if !hairpin {
            own_port.clear();
        }
        if !masquerade {
            // docker's `allow-direct-routing`: without it, replies to a container's own address would be dropped as direct access.
            direct.clear();
        }
        let output = if hairpin { "" } else { "ip daddr != 127.0.0.0/8 " };
        let from_host = if hairpin { "fib saddr type local counter masquerade" } else { "" };
        let icc = if icc { "accept" } else { "drop" };
        let masquerade =
            if masquerade { "oifname != \"docker0\" ip saddr 172.17.0.0/16 counter masquerade" } else { "" };
        self.bed.h.nft(&format!(
            r#"
table ip docker-bridges
delete table ip docker-bridges
table ip docker-bridges {{
    chain filter-FORWARD {{
        type filter hook forward priority filter; policy accept;
        oifname "docker0" jump filter-forward-in
        iifname "docker0" jump filter-forward-out
    }}
    chain nat-OUTPUT {{
        type nat hook output priority -100; policy accept;
        {output} fib daddr type local counter jump nat-prerouting-and-output
    }}
    chain nat-POSTROUTING {{
        type nat hook postrouting priority srcnat; policy accept;
        iifname "docker0" jump nat-postrouting-out
        oifname "docker0" jump nat-postrouting-in
    }}
    chain nat-PREROUTING {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local counter jump nat-prerouting-and-output
    }}
    chain nat-prerouting-and-output {{
        {dnat}
    }}
    chain raw-PREROUTING {{
        type filter hook prerouting priority raw; policy accept;
        {direct}
    }}
    chain filter-forward-in {{
        ct state established,related counter accept
        iifname "docker0" counter {icc}
        {open}
        counter drop
    }}
    chain filter-forward-out {{
        ct state established,related counter accept
        counter accept
    }}
    chain nat-postrouting-in {{
        {from_host}
        {own_port}
    }}
    chain nat-postrouting-out {{
        {masquerade}
    }}
}}
"#
        ));
    }
}

impl Dut for Reference {
    fn bed(&self) -> &Bed {
        &self.bed
    }

    fn publish(&self, publish: Publish) {
        self.published.borrow_mut().push(publish);
        self.load();
    }

    fn flows(&self) -> String {
        self.bed.h.run("conntrack", &["-L"], "")
    }
}
