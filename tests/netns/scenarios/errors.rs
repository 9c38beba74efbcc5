//! ICMP errors about translated flows.

use crate::Row;
use crate::bed::{C1, C2, Dut, LAN_HOST, Outcome, Protocol, Publish, ROUTER, SERVER, Settings, UP, at, note};
use crate::ns::{SOON, told};
use crate::packet::Packet;
use crate::wire::who_heard;

pub const ROWS: &[Row] = &[
    Row {
        claim: "an_error_about_a_masqueraded_flow_finds_its_container_with_its_own_packet_in_it",
        ids: "I4 R22",
        settings: Settings::DEFAULT,
        run: from_outside,
        expect: &[
            "c2's port on the uplink is 4000: false",
            "c2 hears: gw > c2 198.51.100.5 > 172.17.0.3 icmp 3/3 about (172.17.0.3:4000 > 198.51.100.5:9 udp 5 ttl 62) tos 0xc0 ttl 62",
            "c2 hears: gw > c2 192.168.2.1 > 172.17.0.3 icmp 11/0 about (172.17.0.3 > 198.51.100.5 echo-request id 7 seq 1 ttl 1) tos 0xc0 ttl 63",
            "about a flow that never was: nobody",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "too_big_from_a_router_outside_reaches_the_container_that_sent_it",
        ids: "R22",
        settings: Settings::DEFAULT,
        run: smaller_link,
        expect: &[
            "c1 hears: gw > c1 192.168.2.1 > 172.17.0.2 icmp 3/4 mtu 1280 about (172.17.0.2:4000 > 198.51.100.5:7 udp 1372 df ttl 63) tos 0xc0 ttl 63",
            "in bytes: 576",
            "c2 hears: nothing",
            "c1 believes: mtu 1280",
            "c1 sends again: 1372 bytes arrive",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_path_that_swallows_errors_is_measured_by_tcp_itself",
        ids: "R24",
        settings: Settings::DEFAULT,
        run: black_hole,
        expect: &["100000 bytes arrive", "told of it: nothing"],
        pontoon_instead: None,
    },
    Row {
        claim: "an_error_from_a_container_leaves_with_the_published_address",
        ids: "I5",
        settings: Settings::DEFAULT,
        run: from_inside,
        expect: &[
            "192.168.2.112 > 192.168.2.5 icmp 3/3 about (192.168.2.5:5000 > 192.168.2.112:2024 udp 5 ttl 63) tos 0xc0 ttl 63",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "errors_do_not_end_a_flow",
        ids: "U12 I6",
        settings: Settings::DEFAULT,
        run: survives,
        expect: &[
            "before: 192.168.2.112:4000",
            "198.51.100.5 says 3/1, then: 192.168.2.112:4000",
            "198.51.100.5 says 3/3, then: 192.168.2.112:4000",
            "192.168.2.1 says 3/0, then: 192.168.2.112:4000",
            "192.168.2.1 says 11/0, then: 192.168.2.112:4000",
        ],
        pontoon_instead: None,
    },
];

fn from_outside(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (c1, c2, uplink) = (bed.wire("c1"), bed.wire("c2"), bed.uplink());
    // c1 takes port 4000 and id 7, so that c2's are translated and the error has something to restore.
    bed.send_out(&c1, "c1", &Packet::udp(at(C1, 4000), at(SERVER, 9), b"hello"));
    uplink.wait(&["udp"]);
    bed.send_out(&c2, "c2", &Packet::udp(at(C2, 4000), at(SERVER, 9), b"hello"));
    let second = uplink.line(&["> 198.51.100.5:9 udp 5 ttl 63"]);
    note!(seen, "c2's port on the uplink is 4000: {}", second.contains(":4000 >"));
    note!(seen, "c2 hears: {}", c2.line(&["icmp"]));
    bed.send_out(&c1, "c1", &Packet::echo_request(C1, SERVER, 7, 1));
    c1.wait(&["echo-reply"]);
    bed.send_out(&c2, "c2", &Packet::echo_request(C2, SERVER, 7, 1).ttl(2));
    note!(seen, "c2 hears: {}", c2.line(&["icmp"]));

    let never = Packet::udp(at(UP, 4999), at(SERVER, 9), b"never").bytes();
    c1.lines(&[]);
    bed.s.injector().send(&Packet::error(SERVER, UP, (3, 3), [0; 4], &never));
    note!(seen, "about a flow that never was: {}", who_heard(&[("c1", &c1), ("c2", &c2)], &["icmp"]));
    seen
}

fn smaller_link(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (c1, c2) = (bed.wire("c1"), bed.wire("c2"));
    bed.x.ip("link set s0 mtu 1280");
    let (client, server) = (bed.c1().udp(at(C1, 4000)), bed.s.udp(at(SERVER, 7)));
    let text = "x".repeat(1372);
    client.send(&text, at(SERVER, 7)).expect("c1 knows of no smaller MTU yet");
    let heard = c1.wait(&["icmp"]);
    note!(seen, "c1 hears: {}", heard.as_ref().map_or("silence", |heard| &heard.line));
    note!(seen, "in bytes: {}", heard.map_or(0, |heard| heard.bytes.len() - 14));
    let others = c2.lines(&["icmp"]);
    note!(seen, "c2 hears: {}", if others.is_empty() { "nothing".to_owned() } else { others.join("; ") });
    let route = bed.c1().run("ip", &["route", "get", &SERVER.to_string()], "");
    let mtu = route.split_whitespace().skip_while(|word| *word != "mtu").nth(1).unwrap_or("unknown").to_owned();
    note!(seen, "c1 believes: mtu {mtu}");
    client.send(&text, at(SERVER, 7)).expect("c1 may cut it now");
    note!(seen, "c1 sends again: {} bytes arrive", told(server.recv().map(|(text, _)| text.len())));
    seen
}

fn black_hole(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let wire = bed.wire("c1");
    bed.x.ip("link set s0 mtu 1280");
    bed.x.nft("table ip silent {\nchain out {\ntype filter hook output priority 0\nip protocol icmp drop\n}\n}");
    bed.c1().sysctl("ipv4.tcp_mtu_probing", "2");
    let listener = bed.s.listen(at(SERVER, 80));
    let client = bed.c1().connect(at(C1, 0), at(SERVER, 80), SOON).expect("a connection");
    let (server, _) = listener.accept().expect("the connection");
    let text = "x".repeat(100_000);
    let arrived = std::thread::scope(|scope| {
        scope.spawn(|| std::io::Write::write_all(&mut &client, text.as_bytes()));
        let mut heard = vec![0; text.len()];
        std::io::Read::read_exact(&mut &server, &mut heard).map(|()| heard.len())
    });
    note!(seen, "{} bytes arrive", told(arrived));
    let errors = wire.lines(&["icmp"]);
    note!(seen, "told of it: {}", if errors.is_empty() { "nothing".to_owned() } else { errors.join("; ") });
    seen
}

fn from_inside(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.publish(Publish { container: "c2", host: 2024, port: 80, protocol: Protocol::Udp });
    let uplink = bed.uplink();
    // Made by hand, so that the quoted checksum is a whole one.
    bed.x.injector().send(&Packet::udp(at(LAN_HOST, 5000), at(UP, 2024), b"hello"));
    seen.note(uplink.line(&["icmp"]));
    seen
}

fn survives(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (client, server) = (bed.c1().udp(at(C1, 4000)), bed.s.udp(at(SERVER, 7)));
    let round = || {
        client.send("hello", at(SERVER, 7)).expect("a route");
        let from = server.echo()?;
        client.recv().map(|_| from)
    };
    note!(seen, "before: {}", told(round()));
    let wire = bed.wire("c1");
    let quoted = Packet::udp(at(UP, 4000), at(SERVER, 7), b"hello").bytes();
    for (netns, from, (kind, code)) in
        [(&bed.s, SERVER, (3, 1)), (&bed.s, SERVER, (3, 3)), (&bed.x, ROUTER, (3, 0)), (&bed.x, ROUTER, (11, 0))]
    {
        netns.injector().send(&Packet::error(from, UP, (kind, code), [0; 4], &quoted));
        assert!(
            wire.wait(&[&format!("icmp {kind}/{code} about (172.17.0.2:4000")]).is_some(),
            "the container hears of {kind}/{code}"
        );
        note!(seen, "{from} says {kind}/{code}, then: {}", told(round()));
    }
    seen
}
