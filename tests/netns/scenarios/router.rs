//! The gateway and the router: what is forwarded, what is refused, and how.

use std::time::Duration;

use crate::Row;
use crate::bed::{C1, C2, Dut, GATEWAY, LAN_HOST, Outcome, SERVER, Settings, at, note};
use crate::ns::told;
use crate::packet::{BROADCAST, Packet, fragments};
use crate::wire::{VNET_HEADER, needs_checksum, who_heard};

pub const ROWS: &[Row] = &[
    Row {
        claim: "the_gateway_has_one_mac",
        ids: "S06 R08",
        settings: Settings::DEFAULT,
        run: one_mac,
        expect: &[
            "c2 asks: gw > c2 arp 172.17.0.1 is-at gw",
            "c2 pings the gateway: gw > c2 172.17.0.1 > 172.17.0.3 echo-reply id 3 seq 1 ttl 64",
            "c2 pings the server: gw > c2 198.51.100.5 > 172.17.0.3 echo-reply id 4 seq 1 ttl 62",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "ttl_one_expires_at_the_gateway_and_ttl_two_behind_it",
        ids: "R02 R03",
        settings: Settings::DEFAULT,
        run: traceroute,
        expect: &[
            "udp 1: gw > c1 172.17.0.1 > 172.17.0.2 icmp 11/0 about (172.17.0.2:4000 > 198.51.100.5:33434 udp 4 ttl 1) tos 0xc0 ttl 64",
            "udp 2: gw > c1 192.168.2.1 > 172.17.0.2 icmp 11/0 about (172.17.0.2:4000 > 198.51.100.5:33434 udp 4 ttl 1) tos 0xc0 ttl 63",
            "tcp 1: gw > c1 172.17.0.1 > 172.17.0.2 icmp 11/0 about (172.17.0.2:4000 > 198.51.100.5:80 tcp S ttl 1) tos 0xc0 ttl 64",
            "tcp 2: gw > c1 192.168.2.1 > 172.17.0.2 icmp 11/0 about (172.17.0.2:4000 > 198.51.100.5:80 tcp S ttl 1) tos 0xc0 ttl 63",
            "icmp 1: gw > c1 172.17.0.1 > 172.17.0.2 icmp 11/0 about (172.17.0.2 > 198.51.100.5 echo-request id 9 seq 1 ttl 1) tos 0xc0 ttl 64",
            "icmp 2: gw > c1 192.168.2.1 > 172.17.0.2 icmp 11/0 about (172.17.0.2 > 198.51.100.5 echo-request id 9 seq 1 ttl 1) tos 0xc0 ttl 63",
            "a long packet is quoted up to 576 bytes in all",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "no_route_is_told_at_once",
        ids: "R04",
        settings: Settings { uplink: false, ..Settings::DEFAULT },
        run: no_route,
        expect: &[
            "gw > c1 172.17.0.1 > 172.17.0.2 icmp 3/0 about (172.17.0.2:4000 > 198.51.100.5:7 udp 5 ttl 64) tos 0xc0 ttl 64",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_host_that_does_not_answer_arp_is_told_unreachable",
        ids: "R04",
        settings: Settings::DEFAULT,
        run: host_dead,
        expect: &[
            "c2 hears who-has 3 times",
            "gw > c1 172.17.0.1 > 172.17.0.2 icmp 3/1 about (172.17.0.2:4000 > 172.17.9.9:7 udp 5 ttl 63) tos 0xc0 ttl 64",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "the_gateway_refuses_what_it_does_not_serve",
        ids: "R05",
        settings: Settings::DEFAULT,
        run: refusals,
        expect: &[
            "udp: gw > c1 172.17.0.1 > 172.17.0.2 icmp 3/3 about (172.17.0.2:4000 > 172.17.0.1:9 udp 5 ttl 64) tos 0xc0 ttl 64",
            "tcp: gw > c1 172.17.0.1:9 > 172.17.0.2:4000 tcp RA df ttl 64",
            "protocol 253: gw > c1 172.17.0.1 > 172.17.0.2 icmp 3/2 about (172.17.0.2 > 172.17.0.1 protocol 253 5 ttl 64) tos 0xc0 ttl 64",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "errors_are_not_answered_with_errors",
        ids: "R06",
        settings: Settings::DEFAULT,
        run: no_error_about,
        expect: &[
            "about an ICMP error: silence",
            "about a later fragment: silence",
            "about a link broadcast: silence",
            "about an address broadcast: silence",
            "about an echo to broadcast: silence",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_header_that_lies_is_dropped_and_padding_is_not_carried_on",
        ids: "R09",
        settings: Settings::DEFAULT,
        run: headers,
        expect: &[
            "on the uplink: nothing",
            "c1 is told: nothing",
            "a padded frame: 192.168.2.112:4000 > 198.51.100.5:7 udp 4 ttl 63 in 32 bytes",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "martians_are_not_forwarded",
        ids: "R10",
        settings: Settings::DEFAULT,
        run: martians,
        expect: &[
            "on the uplink: nothing",
            "c1 is told: nothing",
            "the next one: 192.168.2.112:4000 > 198.51.100.5:7 udp 4 ttl 63",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "broadcasts_are_not_routed",
        ids: "R12",
        settings: Settings::DEFAULT,
        run: broadcasts,
        expect: &["to 172.17.255.255 from the LAN: nobody", "to the server in a link broadcast: silence"],
        pontoon_instead: None,
    },
    Row {
        claim: "a_detour_is_forwarded_and_told",
        ids: "R14",
        settings: Settings::DEFAULT,
        run: redirect,
        expect: &[
            "c2 hears: gw > c2 172.17.0.2:4000 > 172.17.0.3:7 udp 5 ttl 63",
            "c1 hears: gw > c1 172.17.0.1 > 172.17.0.2 icmp 5/1 to 172.17.0.3 about (172.17.0.2:4000 > 172.17.0.3:7 udp 5 ttl 63) tos 0xc0 ttl 64",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "dscp_and_ecn_cross_the_router",
        ids: "R15",
        settings: Settings::DEFAULT,
        run: type_of_service,
        expect: &[
            "192.168.2.112:4000 > 198.51.100.5:7 udp 4 tos 0xb8 ttl 63",
            "192.168.2.112:4000 > 198.51.100.5:7 udp 4 tos 0x01 ttl 63",
            "192.168.2.112:4000 > 198.51.100.5:7 udp 4 tos 0x02 ttl 63",
            "192.168.2.112:4000 > 198.51.100.5:7 udp 4 tos 0x03 ttl 63",
            "192.168.2.112:4000 > 198.51.100.5:7 udp 4 tos 0xff ttl 63",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "udp_checksums_keep_their_kind",
        ids: "R17",
        settings: Settings::DEFAULT,
        run: udp_checksums,
        expect: &[
            "none computed: 192.168.2.112:4000 > 198.51.100.5:7 udp 5 ttl 63, field zero: true",
            "left to the hardware: 192.168.2.112:4000 > 198.51.100.5:7 udp 5 ttl 63, field zero: false",
            "the server reads: \"left!\"",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "too_long_for_the_uplink_is_cut_when_it_may_be",
        ids: "R18 U13",
        settings: Settings { uplink_mtu: 1400, ..Settings::DEFAULT },
        run: cut,
        expect: &[
            "192.168.2.112:4000 > 198.51.100.5:7 udp 1464 id 0x5150 bytes 0..1376+ options [94, 04, 00, 00] ttl 63",
            "192.168.2.112 > 198.51.100.5 protocol 17 id 0x5150 bytes 1376..1472 options [94, 04, 00, 00] ttl 63",
            "8000 bytes in fragments: 8000 bytes from 192.168.2.112:4001",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "too_long_for_the_uplink_is_refused_with_the_mtu_when_it_may_not_be_cut",
        ids: "R19",
        settings: Settings { uplink_mtu: 1400, ..Settings::DEFAULT },
        run: path_mtu,
        expect: &[
            "c1 hears: gw > c1 172.17.0.1 > 172.17.0.2 icmp 3/4 mtu 1400 about (172.17.0.2:4000 > 198.51.100.5:7 udp 1422 df ttl 64) tos 0xc0 ttl 64",
            "the uplink: silence",
            "c1 believes: mtu 1400",
            "c1 sends again: 1422 bytes arrive",
        ],
        pontoon_instead: None,
    },
];

fn or_nothing(lines: Vec<String>) -> String {
    if lines.is_empty() { "nothing".to_owned() } else { lines.join("; ") }
}

fn one_mac(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let wire = bed.wire("c2");
    let question = crate::packet::arp(1, (bed.mac("c2"), C2), ([0; 6], GATEWAY));
    wire.send(&crate::packet::frame(bed.mac("c2"), BROADCAST, 0x0806, &question));
    note!(seen, "c2 asks: {}", wire.line(&["is-at"]));
    bed.send_out(&wire, "c2", &Packet::echo_request(C2, GATEWAY, 3, 1));
    note!(seen, "c2 pings the gateway: {}", wire.line(&["echo-reply"]));
    bed.send_out(&wire, "c2", &Packet::echo_request(C2, SERVER, 4, 1));
    note!(seen, "c2 pings the server: {}", wire.line(&["echo-reply"]));
    seen
}

fn traceroute(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let wire = bed.wire("c1");
    let probes = [
        ("udp", Packet::udp(at(C1, 4000), at(SERVER, 33434), b"here")),
        ("tcp", Packet::syn(at(C1, 4000), at(SERVER, 80))),
        ("icmp", Packet::echo_request(C1, SERVER, 9, 1)),
    ];
    for (mode, probe) in probes {
        for ttl in [1, 2] {
            bed.send_out(&wire, "c1", &probe.clone().ttl(ttl));
            note!(seen, "{mode} {ttl}: {}", wire.line(&["icmp 11/0"]));
        }
    }
    bed.send_out(&wire, "c1", &Packet::udp(at(C1, 4000), at(SERVER, 33435), &[0; 1000]).ttl(1));
    let length = wire.wait(&["icmp 11/0"]).map_or(0, |heard| heard.bytes.len() - 14);
    note!(seen, "a long packet is quoted up to {length} bytes in all");
    seen
}

fn no_route(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let wire = bed.wire("c1");
    bed.send_out(&wire, "c1", &Packet::udp(at(C1, 4000), at(SERVER, 7), b"hello"));
    seen.note(wire.line(&["icmp 3/"]));
    seen
}

fn host_dead(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, witness) = (bed.wire("c1"), bed.wire("c2"));
    bed.send_out(&wire, "c1", &Packet::udp(at(C1, 4000), at([172, 17, 9, 9].into(), 7), b"hello"));
    // Three questions, a second apart, and then the verdict.
    let verdict =
        wire.wait_for(Duration::from_secs(8), &["icmp 3/"]).map_or_else(|| "silence".to_owned(), |heard| heard.line);
    note!(seen, "c2 hears who-has {} times", witness.lines(&["gw > all arp who-has 172.17.9.9 tell 172.17.0.1"]).len());
    seen.note(verdict);
    seen
}

fn refusals(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let wire = bed.wire("c1");
    bed.send_out(&wire, "c1", &Packet::udp(at(C1, 4000), at(GATEWAY, 9), b"hello"));
    note!(seen, "udp: {}", wire.line(&["icmp"]));
    bed.send_out(&wire, "c1", &Packet::syn(at(C1, 4000), at(GATEWAY, 9)));
    note!(seen, "tcp: {}", wire.line(&["tcp"]));
    // 253: for experiments (RFC 3692).
    bed.send_out(&wire, "c1", &Packet::new(C1, GATEWAY, 253, b"hello".to_vec()));
    note!(seen, "protocol 253: {}", wire.line(&["icmp"]));
    seen
}

fn no_error_about(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let wire = bed.wire("c1");
    let quiet = |lines: Vec<String>| if lines.is_empty() { "silence".to_owned() } else { lines.join("; ") };

    let inner = Packet::udp(at(SERVER, 7), at(C1, 4000), b"hello").bytes();
    bed.send_out(&wire, "c1", &Packet::error(C1, SERVER, (3, 3), [0; 4], &inner).ttl(1));
    note!(seen, "about an ICMP error: {}", quiet(wire.lines(&["icmp"])));
    let long = Packet::udp(at(C1, 4000), at(SERVER, 7), &[0; 2000]).ttl(1);
    bed.send_out(&wire, "c1", &fragments(&long, 1500)[1]);
    note!(seen, "about a later fragment: {}", quiet(wire.lines(&["icmp"])));
    wire.send(&Packet::udp(at(C1, 4000), at(GATEWAY, 9), b"hello").frame(bed.mac("c1"), BROADCAST));
    note!(seen, "about a link broadcast: {}", quiet(wire.lines(&["icmp"])));
    wire.send(&Packet::udp(at(C1, 4000), at([172, 17, 255, 255].into(), 9), b"hello").frame(bed.mac("c1"), BROADCAST));
    note!(seen, "about an address broadcast: {}", quiet(wire.lines(&["gw > c1", "icmp"])));
    wire.send(&Packet::echo_request(C1, [172, 17, 255, 255].into(), 5, 1).frame(bed.mac("c1"), BROADCAST));
    note!(seen, "about an echo to broadcast: {}", quiet(wire.lines(&["gw > c1"])));
    seen
}

fn headers(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink, _server) = (bed.wire("c1"), bed.uplink(), bed.s.udp(at(SERVER, 7)));
    let good = Packet::udp(at(C1, 4000), at(SERVER, 7), b"true").frame(bed.mac("c1"), bed.gateway_mac());
    // Offsets in the frame, behind 14 bytes of Ethernet: a wrong checksum; version 5; a header of 16 bytes; of 60, longer than the packet;
    // a total length longer than the frame; one shorter than the header.
    let lies: [&[(usize, u8)]; 6] =
        [&[(24, 0xff)], &[(14, 0x55)], &[(14, 0x44)], &[(14, 0x4f)], &[(16, 0x05)], &[(17, 0x10)]];
    for lie in lies {
        let mut frame = good.clone();
        for (at, byte) in lie {
            frame[*at] = *byte;
        }
        if lie[0].0 != 24 {
            // The checksum holds, so that it is the lie that is found out.
            frame[24..26].fill(0);
            let header = 14 + usize::from(frame[14] & 15) * 4;
            let end = header.min(frame.len());
            let sum = etherparse::checksum::u32_16bit_word::ones_complement(
                etherparse::checksum::u32_16bit_word::add_slice(0, &frame[14..end]),
            );
            frame[24..26].copy_from_slice(&sum.to_ne_bytes());
        }
        wire.send(&frame);
    }
    // Cut in the middle of the header.
    wire.send(&good[..14 + 12]);
    note!(seen, "on the uplink: {}", or_nothing(uplink.lines(&[])));
    note!(seen, "c1 is told: {}", or_nothing(wire.lines(&["icmp"])));
    let mut padded = good;
    padded.resize(60, 0xee);
    wire.send(&padded);
    let heard = uplink.wait(&["udp"]);
    note!(
        seen,
        "a padded frame: {}",
        heard.map_or_else(|| "silence".to_owned(), |heard| format!("{} in {} bytes", heard.line, heard.bytes.len()))
    );
    seen
}

fn martians(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink) = (bed.wire("c1"), bed.uplink());
    let pairs = [
        ([127, 0, 0, 1], SERVER.octets()),
        ([0, 0, 0, 0], SERVER.octets()),
        ([224, 0, 0, 1], SERVER.octets()),
        ([255; 4], SERVER.octets()),
        (C1.octets(), [127, 0, 0, 1]),
        // The rest of 0/8 is unicast to Linux since 5.3, and forwarded.
        (C1.octets(), [0; 4]),
        (C1.octets(), [239, 1, 1, 1]),
    ];
    for (source, destination) in pairs {
        let packet = Packet::udp(at(source.into(), 4000), at(destination.into(), 7), b"mars");
        bed.send_out(&wire, "c1", &packet);
    }
    note!(seen, "on the uplink: {}", or_nothing(uplink.lines(&[])));
    note!(seen, "c1 is told: {}", or_nothing(wire.lines(&["icmp"])));
    bed.send_out(&wire, "c1", &Packet::udp(at(C1, 4000), at(SERVER, 7), b"home"));
    note!(seen, "the next one: {}", uplink.line(&["udp"]));
    seen
}

fn broadcasts(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (c1, c2, uplink) = (bed.wire("c1"), bed.wire("c2"), bed.uplink());
    bed.x.injector().send(&Packet::udp(at(LAN_HOST, 4000), at([172, 17, 255, 255].into(), 7), b"hello"));
    note!(seen, "to 172.17.255.255 from the LAN: {}", who_heard(&[("c1", &c1), ("c2", &c2)], &["udp"]));
    c1.send(&Packet::udp(at(C1, 4000), at(SERVER, 7), b"hello").frame(bed.mac("c1"), BROADCAST));
    let lines = uplink.lines(&["198.51.100.5:7"]);
    note!(
        seen,
        "to the server in a link broadcast: {}",
        if lines.is_empty() { "silence".to_owned() } else { lines.join("; ") }
    );
    seen
}

fn redirect(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (c1, c2, _server) = (bed.wire("c1"), bed.wire("c2"), bed.c2().udp(at(C2, 7)));
    let detour = Packet::udp(at(C1, 4000), at(C2, 7), b"hello");
    bed.send_out(&c1, "c1", &detour);
    note!(seen, "c2 hears: {}", c2.line(&["udp"]));
    // Linux tells of the second packet only: a redirect about a flow whose NAT is not yet settled is dropped by its own connection tracking
    // (nf_nat_icmp_reply_translation), and the next one is sent no sooner than 40 ms later (ip_rt_send_redirect).
    std::thread::sleep(Duration::from_millis(150));
    bed.send_out(&c1, "c1", &detour);
    note!(seen, "c1 hears: {}", c1.line(&["icmp 5/"]));
    seen
}

fn type_of_service(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink, _server) = (bed.wire("c1"), bed.uplink(), bed.s.udp(at(SERVER, 7)));
    // Expedited forwarding; ECT(1), ECT(0), CE; everything.
    for tos in [0xb8, 1, 2, 3, 0xff] {
        bed.send_out(&wire, "c1", &Packet::udp(at(C1, 4000), at(SERVER, 7), b"mark").tos(tos));
        seen.note(uplink.line(&["udp"]));
    }
    seen
}

fn udp_checksums(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink) = (bed.wire("c1"), bed.uplink());
    let server = bed.s.udp(at(SERVER, 7));
    let mut uplink_says = |what: &str| {
        let heard = uplink.wait(&["udp"]).expect("it is forwarded");
        note!(seen, "{what}: {}, field zero: {}", heard.line, heard.bytes[26..28] == [0, 0]);
    };
    bed.send_out(&wire, "c1", &Packet::udp(at(C1, 4000), at(SERVER, 7), b"none!").without_udp_checksum());
    uplink_says("none computed");
    server.recv().expect("the server hears it");
    let wire = bed.wire("c1").with_vnet_header();
    let frame =
        Packet::udp(at(C1, 4000), at(SERVER, 7), b"left!").leave_udp_checksum().frame(bed.mac("c1"), bed.gateway_mac());
    let mut with_header: Vec<u8> = Vec::with_capacity(VNET_HEADER + frame.len());
    with_header.extend_from_slice(&needs_checksum(14 + 20, 6));
    with_header.extend_from_slice(&frame);
    wire.send(&with_header);
    uplink_says("left to the hardware");
    note!(seen, "the server reads: {:?}", told(server.recv().map(|(text, _)| text)));
    seen
}

fn cut(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink) = (bed.wire("c1"), bed.uplink());
    // Router alert: an option that every fragment carries.
    let packet = Packet::udp(at(C1, 4000), at(SERVER, 7), &[7; 1464]).options(&[0x94, 4, 0, 0]);
    bed.send_out(&wire, "c1", &packet);
    seen.note(uplink.line(&["bytes"]));
    seen.note(uplink.line(&["bytes"]));

    let server = bed.s.udp(at(SERVER, 8));
    let long = Packet::udp(at(C1, 4001), at(SERVER, 8), &[b'8'; 8000]).id(0x1234);
    for fragment in fragments(&long, 1500) {
        bed.send_out(&wire, "c1", &fragment);
    }
    let whole = server.recv().map(|(text, from)| format!("{} bytes from {from}", text.len()));
    note!(seen, "8000 bytes in fragments: {}", told(whole));
    seen
}

fn path_mtu(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink) = (bed.wire("c1"), bed.uplink());
    let (client, server) = (bed.c1().udp(at(C1, 4000)), bed.s.udp(at(SERVER, 7)));
    let text = "x".repeat(1422);
    client.send(&text, at(SERVER, 7)).expect("c1 knows of no smaller MTU yet");
    note!(seen, "c1 hears: {}", wire.line(&["icmp"]));
    let lines = uplink.lines(&["198.51.100.5"]);
    note!(seen, "the uplink: {}", if lines.is_empty() { "silence".to_owned() } else { lines.join("; ") });
    let route = bed.c1().run("ip", &["route", "get", &SERVER.to_string()], "");
    let mtu = route.split_whitespace().skip_while(|word| *word != "mtu").nth(1).unwrap_or("unknown").to_owned();
    note!(seen, "c1 believes: mtu {mtu}");
    client.send(&text, at(SERVER, 7)).expect("c1 may cut it now");
    note!(seen, "c1 sends again: {} bytes arrive", told(server.recv().map(|(text, _)| text.len())));
    seen
}
