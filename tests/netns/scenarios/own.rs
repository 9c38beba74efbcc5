//! What the kernel is no reference for: pontoon's own capture, counters and announcements, and containers that come and go.

use std::fs::File;
use std::io::BufReader;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pcap_file::DataLink;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::OwnRow;
use crate::bed::{C1, C2, C3, Dut, LAN_HOST, Outcome, Protocol, Publish, SERVER, UP, at, note};
use crate::ns::{Netns, QUIET, SOON, told};
use crate::packet::{Packet, describe_ip};
use crate::pontoon::Pontoon;

const UDP_2024: Publish = Publish { container: "c2", host: 2024, port: 80, protocol: Protocol::Udp };

pub const ROWS: &[OwnRow] = &[
    OwnRow {
        claim: "one_echo_is_captured_at_six_points",
        ids: "S05 S36",
        run: six_points,
        expect: &[
            "port-in: 172.17.0.2 > 198.51.100.5 echo-request id 2 seq 1 ttl 64",
            "gw-in: 172.17.0.2 > 198.51.100.5 echo-request id 2 seq 1 ttl 64",
            "up-out: 192.168.2.112 > 198.51.100.5 echo-request id 2 seq 1 ttl 63",
            "up-in: 198.51.100.5 > 192.168.2.112 echo-reply id 2 seq 1 ttl 63",
            "gw-out: 198.51.100.5 > 172.17.0.2 echo-reply id 2 seq 1 ttl 62",
            "port-out: 198.51.100.5 > 172.17.0.2 echo-reply id 2 seq 1 ttl 62",
        ],
    },
    OwnRow {
        claim: "every_rule_of_the_forward_chain_counts_its_hits",
        ids: "S47",
        run: hits,
        expect: &[
            "out and back: established +1, outbound +1",
            "an error about it: established +1",
            "routed to c1 from outside: policy-drop +1",
            "to a published port and back: established +1, published +1",
            "c1 to c2 by way of the gateway: icc +1",
        ],
    },
    OwnRow {
        claim: "a_new_attachment_is_announced_three_times_a_second_apart",
        ids: "D18",
        run: announcements,
        expect: &["c3 hears 3", "in two seconds: true", "and no more: true", "detached in between, c3 hears: 1"],
    },
    OwnRow {
        claim: "udp_recovers_within_a_second_when_its_container_comes_back_elsewhere",
        ids: "Q03 X19",
        run: restart,
        expect: &[
            "before: 192.168.2.5:5000",
            "recovered within a second: true",
            "after: 192.168.2.5:5000 > 172.17.0.50:80",
            "answered by: 192.168.2.112:2024",
        ],
    },
    OwnRow {
        claim: "a_killed_switch_leaves_devices_that_its_successor_takes_over",
        ids: "B30 D31",
        run: killed,
        expect: &[
            "before: carrier on",
            "killed: carrier off, 172.17.0.2/16 stays",
            "attached again: carrier on",
            "the same device: true",
            "the server sees: 192.168.2.112:4000",
        ],
    },
    OwnRow {
        claim: "a_container_may_be_on_two_networks_and_its_routes_choose",
        ids: "S52 D24",
        run: two_networks,
        expect: &[
            "on the second network c2 sees: 10.8.255.183:4000",
            "by the first the server sees: 192.168.2.112:4001",
            "c3 of the first to c2 of the second: silence",
        ],
    },
    OwnRow {
        claim: "the_mtu_of_a_network_is_that_of_its_devices",
        ids: "D04 S30",
        run: network_mtu,
        expect: &["eth0: 1500", "eth1: 1400", "a SYN from eth1 offers 1360 bytes"],
    },
    OwnRow {
        claim: "a_port_published_anew_takes_its_flows_along",
        ids: "X19 D31",
        run: republished,
        expect: &["first: c2", "withdrawn: refused", "published for c1: c1"],
    },
];

/// The records of a capture that are IPv4: the point they were taken at, and the packet. The file may still be growing.
fn records(file: &Path) -> Vec<String> {
    let file = File::open(file).expect("there from the start");
    let Ok(mut reader) = PcapNgReader::new(BufReader::new(file)) else { return vec![] };
    let mut records = Vec::new();
    while let Some(Ok(block)) = reader.next_block() {
        let Block::EnhancedPacket(record) = block else { continue };
        let record = record.into_owned();
        let interface = &reader.interfaces()[record.interface_id as usize];
        let name = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name),
            _ => None,
        });
        let packet = match interface.linktype {
            DataLink::ETHERNET if record.data[12..14] == [8, 0] => &record.data[14..],
            DataLink::ETHERNET => continue,
            _ => &record.data,
        };
        records.push(format!("{}: {}", name.expect("every point has one"), describe_ip(packet, false)));
    }
    records
}

fn six_points(dut: &Pontoon) -> Outcome {
    let bed = dut.bed();
    let wire = bed.wire("c1");
    let file = bed.directory.join("capture.pcapng");
    dut.start_capture(&file);
    bed.send_out(&wire, "c1", &Packet::echo_request(C1, SERVER, 2, 1));
    wire.wait(&["echo-reply"]);
    dut.stop_capture();
    // Written by a thread of its own.
    let deadline = Instant::now() + SOON;
    while records(&file).len() < 6 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(QUIET);
    Outcome(records(&file))
}

fn hits(dut: &Pontoon) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let mut before = dut.rule_hits();
    let mut note_hits = |what: &str| {
        let now = dut.rule_hits();
        let grown = now.iter().filter_map(|(rule, hits)| {
            let more = hits - before[rule];
            (more > 0).then(|| format!("{rule} +{more}"))
        });
        note!(seen, "{what}: {}", grown.collect::<Vec<_>>().join(", "));
        before = now;
    };
    let (c1, c2, uplink) = (bed.wire("c1"), bed.wire("c2"), bed.uplink());
    let (client, server) = (bed.c1().udp(at(C1, 4000)), bed.s.udp(at(SERVER, 7)));
    client.send("hello", at(SERVER, 7)).expect("a route");
    server.echo().expect("it is masqueraded");
    client.recv().expect("an answer");
    note_hits("out and back");

    let about = Packet::udp(at(UP, 4000), at(SERVER, 7), b"hello").bytes();
    bed.s.injector().send(&Packet::error(SERVER, UP, (3, 1), [0; 4], &about));
    c1.wait(&["icmp 3/1"]).expect("it is related");
    note_hits("an error about it");

    bed.x.injector().send(&Packet::syn(at(LAN_HOST, 5000), at(C1, 80)));
    // The next one is behind it in the same queue.
    bed.x.injector().send(&Packet::echo_request(LAN_HOST, UP, 1, 1));
    uplink.wait(&["echo-reply"]).expect("the uplink's address answers");
    note_hits("routed to c1 from outside");

    dut.publish(UDP_2024);
    let (client, inside) = (bed.x.udp(at(LAN_HOST, 5000)), bed.c2().udp(at(C2, 80)));
    client.send("hello", at(UP, 2024)).expect("a route");
    inside.echo().expect("it is published");
    client.recv().expect("an answer");
    note_hits("to a published port and back");

    bed.send_out(&c1, "c1", &Packet::udp(at(C1, 4000), at(C2, 80), b"detour"));
    c2.wait(&["gw > c2 172.17.0.2:4000", "udp"]).expect("it is sent on");
    note_hits("c1 to c2 by way of the gateway");
    seen
}

fn announcements(dut: &Pontoon) -> Outcome {
    const ANNOUNCED: &[&str] = &["c1 > all arp who-has 172.17.0.2 tell 172.17.0.2"];
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let wire = bed.wire("c3");
    dut.detach("c1");
    dut.attach("c1", C1, &[]);
    let begun = Instant::now();
    let heard = (0..3).take_while(|_| wire.wait(ANNOUNCED).is_some()).count();
    let took = begun.elapsed();
    note!(seen, "c3 hears {heard}");
    note!(seen, "in two seconds: {}", (1500..3500).contains(&took.as_millis()));
    note!(seen, "and no more: {}", wire.wait_for(Duration::from_millis(1500), ANNOUNCED).is_none());

    dut.detach("c1");
    dut.attach("c1", C1, &[]);
    dut.detach("c1");
    thread::sleep(Duration::from_millis(1200));
    note!(seen, "detached in between, c3 hears: {}", wire.lines(ANNOUNCED).len());
    seen
}

fn restart(dut: &Pontoon) -> Outcome {
    const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 50);
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.publish(UDP_2024);
    let server = bed.c2().udp(at(Ipv4Addr::UNSPECIFIED, 80));
    let client = bed.x.udp(at(LAN_HOST, 5000));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // A thousand a second, from one socket: to connection tracking it is all one flow.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = client.send("tick", at(UP, 2024));
                thread::sleep(Duration::from_millis(1));
            }
        });
        note!(seen, "before: {}", told(server.recv().map(|(_, from)| from)));
        dut.detach("c2");
        dut.attach("c2", ELSEWHERE, &["-p", "2024:80/udp"]);
        let attached = Instant::now();
        let heard = bed.wire("c2").line(&["172.17.0.50:80 udp"]);
        note!(seen, "recovered within a second: {}", attached.elapsed() < Duration::from_secs(1));
        note!(seen, "after: {}", heard.split_whitespace().skip(3).take(3).collect::<Vec<_>>().join(" "));
        // What came before the restart may still wait in the socket; its sender is the same.
        let answered = server.echo().and_then(|_| client.recv());
        note!(seen, "answered by: {}", told(answered.map(|(_, from)| from)));
        done.store(true, Ordering::Relaxed);
    });
    seen
}

fn republished(dut: &Pontoon) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (c1, c2) = (bed.c1().udp(at(C1, 80)), bed.c2().udp(at(C2, 80)));
    let client = bed.x.udp(at(LAN_HOST, 5000));
    client.connect(at(UP, 2024));
    let ask = || {
        client.send("who is there?", at(UP, 2024))?;
        // Whoever has the port answers with a name of its own.
        for (name, server) in [("c1", &c1), ("c2", &c2)] {
            if let Ok((_, from)) = server.recv_within(QUIET) {
                let std::net::SocketAddr::V4(from) = from else { unreachable!("an IPv4 socket") };
                server.send(name, from)?;
            }
        }
        client.recv().map(|(name, _)| name)
    };
    dut.publish(UDP_2024);
    note!(seen, "first: {}", told(ask()));
    dut.unpublish(UDP_2024);
    note!(seen, "withdrawn: {}", told(ask()));
    dut.publish(Publish { container: "c1", ..UDP_2024 });
    note!(seen, "published for c1: {}", told(ask()));
    seen
}

/// A word of what `ip` says of a link, behind `key`.
fn link(netns: &Netns, name: &str, key: &str) -> String {
    let told = netns.run("ip", &["-oneline", "link", "show", name], "");
    told.split_whitespace().skip_while(|word| *word != key).nth(1).unwrap_or("unknown").to_owned()
}

/// The number in front: another device has another one.
fn link_index(netns: &Netns) -> String {
    let told = netns.run("ip", &["-oneline", "link", "show", "eth0"], "");
    told.split(':').next().unwrap_or_default().to_owned()
}

fn killed(dut: &Pontoon) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let first = link_index(bed.c1());
    let carrier = |netns: &Netns| {
        let flags = netns.run("ip", &["-oneline", "link", "show", "eth0"], "");
        if flags.contains("NO-CARRIER") { "carrier off" } else { "carrier on" }
    };
    note!(seen, "before: {}", carrier(bed.c1()));
    dut.restart_after_kill(|| {
        let addresses = bed.c1().run("ip", &["-oneline", "-4", "addr", "show", "eth0"], "");
        let stays = if addresses.contains("172.17.0.2/16") { "stays" } else { "is gone" };
        note!(seen, "killed: {}, 172.17.0.2/16 {stays}", carrier(bed.c1()));
    });
    dut.wait_until_ready();
    dut.attach("c1", C1, &[]);
    note!(seen, "attached again: {}", carrier(bed.c1()));
    note!(seen, "the same device: {}", link_index(bed.c1()) == first);
    let (client, server) = (bed.c1().udp(at(C1, 4000)), bed.s.udp(at(SERVER, 7)));
    client.send("hello", at(SERVER, 7)).expect("a route");
    note!(seen, "the server sees: {}", told(server.echo()));
    seen
}

fn two_networks(dut: &Pontoon) -> Outcome {
    const OTHER_C1: Ipv4Addr = Ipv4Addr::new(10, 8, 255, 183);
    const OTHER_C2: Ipv4Addr = Ipv4Addr::new(10, 8, 255, 184);
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.add_network("lan", &["--subnet", "10.8.255.0/24"], &[("c1", OTHER_C1), ("c2", OTHER_C2)]);
    let (client, peer) = (bed.c1().udp(at(Ipv4Addr::UNSPECIFIED, 4000)), bed.c2().udp(at(OTHER_C2, 7)));
    client.send("hello", at(OTHER_C2, 7)).expect("a route");
    note!(seen, "on the second network c2 sees: {}", told(peer.echo()));
    let (client, server) = (bed.c1().udp(at(C1, 4001)), bed.s.udp(at(SERVER, 7)));
    client.send("hello", at(SERVER, 7)).expect("a route");
    note!(seen, "by the first the server sees: {}", told(server.echo()));
    bed.c3().udp(at(C3, 4000)).send("hello", at(OTHER_C2, 7)).expect("a default route");
    note!(seen, "c3 of the first to c2 of the second: {}", told(peer.recv_within(QUIET).map(|(_, from)| from)));
    seen
}

fn network_mtu(dut: &Pontoon) -> Outcome {
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 8, 255, 2);
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.add_network("narrow", &["--subnet", "10.8.255.0/24", "--mtu", "1400"], &[("c1", ADDRESS)]);
    for name in ["eth0", "eth1"] {
        note!(seen, "{name}: {}", link(bed.c1(), name, "mtu"));
    }
    let server = bed.server();
    bed.c1().ip(&format!("route add {SERVER} via 10.8.255.1"));
    let _ = bed.c1().connect(at(ADDRESS, 0), at(SERVER, 80), SOON);
    let syn = server.wait(&["tcp S"]).expect("it is masqueraded").bytes;
    // The first option of Linux's SYN: kind 2, length 4.
    assert_eq!(syn[40..42], [2, 4], "MSS");
    note!(seen, "a SYN from eth1 offers {} bytes", u16::from_be_bytes([syn[42], syn[43]]));
    seen
}
