//! What a network lets in, out and across.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::Row;
use crate::bed::{C1, C2, Dut, GATEWAY, LAN_HOST, Outcome, Protocol, Publish, SERVER, Settings, UP, at, note};
use crate::ns::{Netns, QUIET, SOON, told};
use crate::packet::{BROADCAST, Packet, arp, frame};
use crate::wire::Wire;

pub const ROWS: &[Row] = &[
    Row {
        claim: "from_outside_only_replies_and_errors_about_them_come_in",
        ids: "S12 S47",
        settings: Settings::DEFAULT,
        run: forward_rules,
        expect: &[
            "udp routed to c1: silence",
            "syn routed to c1: silence",
            "echo routed to c1: silence",
            "syn routed to the published port of c2: silence",
            "a reply: 198.51.100.5:7",
            "an error: refused",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "without_icc_containers_meet_only_in_arp",
        ids: "D01 Q08 S13",
        settings: Settings { icc: false, ..Settings::DEFAULT },
        run: no_icc,
        expect: &[
            "c1 asks for c2: c2 > c1 arp 172.17.0.3 is-at c2",
            "c1 to c2: silence",
            "c1 to c2 by way of the gateway: silence",
            "c1 to the gateway: gw > c1 172.17.0.1 > 172.17.0.2 echo-reply id 1 seq 1 ttl 64",
            "c1 to the server: 192.168.2.112:4000",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "without_masquerade_the_containers_address_is_shown_and_ports_are_still_published",
        ids: "D02 S37",
        settings: Settings { masquerade: false, ..Settings::DEFAULT },
        run: no_masquerade,
        expect: &[
            "the server sees: 172.17.0.2:4000",
            "c1 is answered by: 198.51.100.5:7",
            "published: c2 sees 192.168.2.5:5000, answered by 192.168.2.112:2024",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "without_forwarding_the_network_is_an_island",
        ids: "S37",
        settings: Settings { forwarding: false, ..Settings::DEFAULT },
        run: no_forwarding,
        expect: &[
            "c1 to the server: silence",
            "told of it: silence",
            "c1 to c2: 172.17.0.2:4000",
            "c1 to the gateway: gw > c1 172.17.0.1 > 172.17.0.2 echo-reply id 1 seq 1 ttl 64",
        ],
        pontoon_instead: None,
    },
];

fn hears(wire: &Wire, words: &[&str]) -> String {
    let lines = wire.lines(words);
    if lines.is_empty() { "silence".to_owned() } else { lines.join("; ") }
}

/// Sends a datagram and waits for it: who the receiver believes it is from.
fn reaches(from: &Netns, source: Ipv4Addr, to: &Netns, destination: Ipv4Addr, patience: Duration) -> String {
    let (client, server) = (from.udp(at(source, 4000)), to.udp(at(destination, 7)));
    client.send("hello", at(destination, 7)).expect("a route");
    told(server.recv_within(patience).map(|(_, from)| from))
}

fn forward_rules(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.publish(Publish { container: "c2", host: 80, port: 80, protocol: Protocol::Tcp });
    let (c1, c2, injector) = (bed.wire("c1"), bed.wire("c2"), bed.x.injector());
    injector.send(&Packet::udp(at(LAN_HOST, 5000), at(C1, 7), b"hello"));
    note!(seen, "udp routed to c1: {}", hears(&c1, &["udp"]));
    injector.send(&Packet::syn(at(LAN_HOST, 5000), at(C1, 80)));
    note!(seen, "syn routed to c1: {}", hears(&c1, &["tcp"]));
    injector.send(&Packet::echo_request(LAN_HOST, C1, 1, 1));
    note!(seen, "echo routed to c1: {}", hears(&c1, &["echo"]));
    injector.send(&Packet::syn(at(LAN_HOST, 5000), at(C2, 80)));
    note!(seen, "syn routed to the published port of c2: {}", hears(&c2, &["tcp"]));

    let (client, server) = (bed.c1().udp(at(C1, 4000)), bed.s.udp(at(SERVER, 7)));
    client.send("hello", at(SERVER, 7)).expect("a route");
    let _ = server.echo();
    note!(seen, "a reply: {}", told(client.recv().map(|(_, from)| from)));
    let client = bed.c1().udp(at(C1, 4001));
    client.connect(at(SERVER, 9));
    client.send("hello", at(SERVER, 9)).expect("a route");
    note!(seen, "an error: {}", told(client.recv().map(|(_, from)| from)));
    seen
}

fn no_icc(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, peer) = (bed.wire("c1"), bed.wire("c2"));
    wire.send(&frame(bed.mac("c1"), BROADCAST, 0x0806, &arp(1, (bed.mac("c1"), C1), ([0; 6], C2))));
    note!(seen, "c1 asks for c2: {}", wire.line(&["is-at"]));
    note!(seen, "c1 to c2: {}", reaches(bed.c1(), C1, bed.c2(), C2, QUIET));
    bed.send_out(&wire, "c1", &Packet::udp(at(C1, 4000), at(C2, 7), b"detour"));
    note!(seen, "c1 to c2 by way of the gateway: {}", hears(&peer, &["gw > c2", "udp"]));
    bed.send_out(&wire, "c1", &Packet::echo_request(C1, GATEWAY, 1, 1));
    note!(seen, "c1 to the gateway: {}", wire.line(&["echo-reply"]));
    note!(seen, "c1 to the server: {}", reaches(bed.c1(), C1, &bed.s, SERVER, SOON));
    seen
}

fn no_masquerade(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (client, server) = (bed.c1().udp(at(C1, 4000)), bed.s.udp(at(SERVER, 7)));
    client.send("hello", at(SERVER, 7)).expect("a route");
    note!(seen, "the server sees: {}", told(server.echo()));
    note!(seen, "c1 is answered by: {}", told(client.recv().map(|(_, from)| from)));
    dut.publish(Publish { container: "c2", host: 2024, port: 80, protocol: Protocol::Udp });
    let (client, server) = (bed.x.udp(at(LAN_HOST, 5000)), bed.c2().udp(at(C2, 80)));
    client.send("hello", at(UP, 2024)).expect("a route");
    let from = told(server.echo());
    note!(seen, "published: c2 sees {from}, answered by {}", told(client.recv().map(|(_, from)| from)));
    seen
}

fn no_forwarding(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let wire = bed.wire("c1");
    note!(seen, "c1 to the server: {}", reaches(bed.c1(), C1, &bed.s, SERVER, QUIET));
    note!(seen, "told of it: {}", hears(&wire, &["icmp"]));
    note!(seen, "c1 to c2: {}", reaches(bed.c1(), C1, bed.c2(), C2, SOON));
    bed.send_out(&wire, "c1", &Packet::echo_request(C1, GATEWAY, 1, 1));
    note!(seen, "c1 to the gateway: {}", wire.line(&["echo-reply"]));
    seen
}
