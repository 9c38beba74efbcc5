//! Published ports.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::flows;
use crate::Row;
use crate::bed::{C1, C2, Dut, LAN_HOST, Outcome, Protocol, Publish, SERVER, Settings, UP, at, note};
use crate::ns::{Netns, SOON, say, told};

const WEB: Publish = Publish { container: "c2", host: 80, port: 80, protocol: Protocol::Tcp };
const TCP_2024: Publish = Publish { container: "c2", host: 2024, port: 80, protocol: Protocol::Tcp };
const UDP_2024: Publish = Publish { container: "c2", host: 2024, port: 90, protocol: Protocol::Udp };

pub const ROWS: &[Row] = &[
    Row {
        claim: "a_published_port_shows_the_clients_own_address",
        ids: "S15 Q01",
        settings: Settings::DEFAULT,
        run: from_the_lan,
        expect: &[
            "before: refused",
            "from the LAN host: c2 sees 192.168.2.5",
            "from the server: c2 sees 198.51.100.5",
            "the uplink carries: 192.168.2.112:80 > 192.168.2.5:5001 tcp SA",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_container_is_not_translated_to_a_port_of_its_own_network",
        ids: "S17 S40",
        settings: Settings::DEFAULT,
        run: same_network,
        expect: &["c1 to 192.168.2.112:80: refused"],
        // docker leaves this to a proxy of its own, which connects from the gateway's address. pontoon has no proxy: it translates both ends,
        // with the same outcome for both containers.
        pontoon_instead: Some(&["c1 to 192.168.2.112:80: c2 sees 172.17.0.1"]),
    },
    Row {
        claim: "host_and_container_port_may_differ_and_protocols_share_a_number",
        ids: "S20 S23",
        settings: Settings::DEFAULT,
        run: two_protocols,
        expect: &[
            "tcp: c2 sees 192.168.2.5",
            "udp: c2 sees 192.168.2.5:5000, the LAN host is answered by 192.168.2.112:2024",
            "nobody listens in the container: refused",
            "listening on its loopback only: refused",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_published_connection_is_listed_with_the_containers_address_in_its_reply",
        ids: "S22",
        settings: Settings::DEFAULT,
        run: listed,
        expect: &[
            "tcp      6 <=120 TIME_WAIT src=192.168.2.5 dst=192.168.2.112 sport=51894 dport=80 src=172.17.0.3 dst=192.168.2.5 sport=80 dport=51894 [ASSURED] mark=0 use=N",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "hairpin_is_answered_from_the_published_address",
        ids: "S39 S40",
        settings: Settings { hairpin: true, ..Settings::DEFAULT },
        run: hairpin,
        expect: &[
            "tcp from c1: c2 sees 172.17.0.2",
            "tcp from c2 itself: c2 sees 172.17.0.1",
            "udp from c1: c2 sees 172.17.0.2:5000, c1 is answered by 192.168.2.112:2024",
            "udp from c2 itself: c2 sees 172.17.0.1:5001, c2 is answered by 192.168.2.112:2024",
        ],
        // An intended difference: the source is always translated too. Two containers of one segment would otherwise answer each other
        // directly, past the translation; docker keeps them from it only where br_netfilter is loaded.
        pontoon_instead: Some(&[
            "tcp from c1: c2 sees 172.17.0.1",
            "tcp from c2 itself: c2 sees 172.17.0.1",
            "udp from c1: c2 sees 172.17.0.1:5000, c1 is answered by 192.168.2.112:2024",
            "udp from c2 itself: c2 sees 172.17.0.1:5001, c2 is answered by 192.168.2.112:2024",
        ]),
    },
];

/// Connects, is accepted by c2, talks both ways: "c2 sees ADDRESS", or why not.
fn visit(dut: &dyn Dut, from: &Netns, source: Ipv4Addr, host_port: u16, container_port: u16) -> String {
    let visit = || -> io::Result<String> {
        let listener = dut.bed().c2().listen(at(C2, container_port));
        let client = from.connect(at(source, 0), at(UP, host_port), SOON)?;
        let (server, seen) = listener.accept()?;
        say(&client, &server, "GET /")?;
        say(&server, &client, "200 OK")?;
        Ok(format!("c2 sees {}", seen.ip()))
    };
    told(visit())
}

fn from_the_lan(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    note!(seen, "before: {}", told(bed.x.connect(at(LAN_HOST, 0), at(UP, 80), SOON).map(|_| "accepted")));
    dut.publish(WEB);
    note!(seen, "from the LAN host: {}", visit(dut, &bed.x, LAN_HOST, 80, 80));
    note!(seen, "from the server: {}", visit(dut, &bed.s, SERVER, 80, 80));
    let (uplink, _listener) = (bed.uplink(), bed.c2().listen(at(C2, 80)));
    let _client = bed.x.connect(at(LAN_HOST, 5001), at(UP, 80), SOON);
    let line = uplink.line(&["tcp SA"]);
    note!(seen, "the uplink carries: {}", line.split_once(" df").map_or(line.as_str(), |(start, _)| start));
    seen
}

fn same_network(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    dut.publish(WEB);
    note!(seen, "c1 to 192.168.2.112:80: {}", visit(dut, dut.bed().c1(), C1, 80, 80));
    seen
}

fn two_protocols(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.publish(TCP_2024);
    dut.publish(UDP_2024);
    note!(seen, "tcp: {}", visit(dut, &bed.x, LAN_HOST, 2024, 80));
    note!(seen, "udp: {}", datagram(dut, &bed.x, at(LAN_HOST, 5000), "the LAN host"));
    // A process that another case is just starting has the listener of the visit too, between its fork and its exec.
    let attempt = || told(bed.x.connect(at(LAN_HOST, 0), at(UP, 2024), SOON).map(|_| "accepted"));
    let mut nobody = attempt();
    for _ in 0..40 {
        if nobody != "accepted" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        nobody = attempt();
    }
    note!(seen, "nobody listens in the container: {nobody}");
    let _hidden = bed.c2().listen(at(Ipv4Addr::LOCALHOST, 80));
    note!(
        seen,
        "listening on its loopback only: {}",
        told(bed.x.connect(at(LAN_HOST, 0), at(UP, 2024), SOON).map(|_| "accepted"))
    );
    seen
}

/// One datagram to UP:2024 and its answer.
fn datagram(dut: &dyn Dut, from: &Netns, source: SocketAddrV4, who: &str) -> String {
    let exchange = || -> io::Result<(SocketAddr, SocketAddr)> {
        let (server, client) = (dut.bed().c2().udp(at(C2, 90)), from.udp(source));
        client.send("hello", at(UP, 2024))?;
        let seen = server.echo()?;
        Ok((seen, client.recv()?.1))
    };
    told(exchange().map(|(seen, answered)| format!("c2 sees {seen}, {who} is answered by {answered}")))
}

fn listed(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.publish(WEB);
    let listener = bed.c2().listen(at(C2, 80));
    let client = bed.x.connect(at(LAN_HOST, 51_894), at(UP, 80), SOON).expect("a connection");
    let (mut server, _) = listener.accept().expect("the connection");
    say(&client, &server, "GET /").expect("a request");
    drop(client);
    assert_eq!(io::Read::read(&mut server, &mut [0]).expect("the end"), 0, "the server reads the end");
    drop(server);
    let deadline = std::time::Instant::now() + SOON;
    let mut lines = flows(dut, &["tcp ", "dport=80 "]);
    while !lines.iter().any(|line| line.contains("TIME_WAIT")) && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
        lines = flows(dut, &["tcp ", "dport=80 "]);
    }
    lines.into_iter().for_each(|line| seen.note(line));
    seen
}

fn hairpin(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.publish(TCP_2024);
    dut.publish(UDP_2024);
    note!(seen, "tcp from c1: {}", visit(dut, bed.c1(), C1, 2024, 80));
    note!(seen, "tcp from c2 itself: {}", visit(dut, bed.c2(), C2, 2024, 80));
    note!(seen, "udp from c1: {}", datagram(dut, bed.c1(), at(C1, 5000), "c1"));
    // Another port: where the source is always translated, the first one is taken.
    note!(seen, "udp from c2 itself: {}", datagram(dut, bed.c2(), at(C2, 5001), "c2"));
    seen
}
