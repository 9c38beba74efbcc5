//! The switch: who hears a frame.

use crate::Row;
use crate::bed::{C2, C3, Dut, GATEWAY, Outcome, Settings, at, note};
use crate::ns::told;
use crate::packet::{BROADCAST, Mac, Packet, QINQ, VLAN, arp, frame, tagged};
use crate::wire::{Wire, who_heard, who_heard_each};

pub const ROWS: &[Row] = &[
    Row {
        claim: "unknown_unicast_reaches_every_port_but_the_ingress",
        ids: "B01 B04 B27",
        settings: Settings::DEFAULT,
        run: unknown_unicast,
        expect: &[
            "unknown, from c1: c2 c3",
            "known at c3, from c1: c3",
            "known at c3, from c2: c3",
            "known at c1, from c2: c1",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "moved_mac_follows_its_new_port",
        ids: "B03",
        settings: Settings::DEFAULT,
        run: station_move,
        expect: &["seen at c2: c2", "moved to c3: c3", "moved back: c2"],
        pontoon_instead: None,
    },
    Row {
        claim: "broadcast_and_multicast_reach_every_port_and_the_gateway",
        ids: "B05 B25",
        settings: Settings::DEFAULT,
        run: flooded,
        expect: &[
            "to ff:ff:ff:ff:ff:ff: c2 c3",
            "to 01:00:5e:00:00:01: c2 c3",
            "to 01:00:5e:00:00:fb: c2 c3",
            "to 01:00:5e:7f:01:02: c2 c3",
            "to 33:33:00:00:00:fb: c2 c3",
            "to 33:33:ff:00:00:02: c2 c3",
            "the gateway: gw > c1 arp 172.17.0.1 is-at gw",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "nothing_goes_back_out_of_the_port_it_came_in_by",
        ids: "B06 B07",
        settings: Settings::DEFAULT,
        run: never_back,
        expect: &["broadcast from c1: c2 c3", "to a MAC behind the same port: nobody"],
        pontoon_instead: None,
    },
    Row {
        claim: "reserved_addresses_stay_on_their_link_but_the_bpdu_of_a_bridge_without_stp",
        ids: "B09",
        settings: Settings::DEFAULT,
        run: reserved,
        expect: &[
            "to 01:80:c2:00:00:00: c2 c3",
            "to 01:80:c2:00:00:01: nobody",
            "to 01:80:c2:00:00:02: nobody",
            "to 01:80:c2:00:00:03: nobody",
            "to 01:80:c2:00:00:04: nobody",
            "to 01:80:c2:00:00:05: nobody",
            "to 01:80:c2:00:00:06: nobody",
            "to 01:80:c2:00:00:07: nobody",
            "to 01:80:c2:00:00:08: nobody",
            "to 01:80:c2:00:00:09: nobody",
            "to 01:80:c2:00:00:0a: nobody",
            "to 01:80:c2:00:00:0b: nobody",
            "to 01:80:c2:00:00:0c: nobody",
            "to 01:80:c2:00:00:0d: nobody",
            "to 01:80:c2:00:00:0e: nobody",
            "to 01:80:c2:00:00:0f: nobody",
            "to 01:80:c2:00:00:10: c2 c3",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_source_that_is_no_station_is_dropped_and_not_learned",
        ids: "B10",
        settings: Settings::DEFAULT,
        run: no_station,
        expect: &[
            "from 01:00:5e:00:00:01: nobody",
            "from ff:ff:ff:ff:ff:ff: nobody",
            "from 00:00:00:00:00:00: nobody",
            "to 00:00:00:00:00:00, from c2: c1 c3",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_frame_to_the_gateway_is_heard_by_nobody_else",
        ids: "B12",
        settings: Settings::DEFAULT,
        run: to_the_gateway,
        expect: &["to gw, from c1: nobody"],
        pontoon_instead: None,
    },
    Row {
        claim: "vlan_tags_cross_untouched_and_do_not_part_the_learned",
        ids: "B13",
        settings: Settings::DEFAULT,
        run: vlans,
        expect: &[
            "802.1Q: c1 > c2 0x8100 vlan 10 type 0x88b5 \"tagged\"",
            "802.1Q with priority: c1 > c2 0x8100 vlan 40970 type 0x88b5 \"tagged\"",
            "priority only: c1 > c2 0x8100 vlan 40960 type 0x88b5 \"tagged\"",
            "QinQ: c1 > c2 0x88a8 vlan 20 0x8100 vlan 10 type 0x88b5 \"tagged\"",
            "learned with a tag, reached without: c3",
            "reached with another: c3",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "any_ethertype_and_length_frames_pass",
        ids: "B14",
        settings: Settings::DEFAULT,
        run: ethertypes,
        expect: &[
            "this is 0x0026: c2",
            "this is 0x05dc: c2",
            "this is 0x0842: c2",
            "this is 0x8847: c2",
            "this is 0x88f7: c2",
            "this is 0xffff: c2",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "nobody_becomes_the_gateway_by_taking_its_mac",
        ids: "B11",
        settings: Settings::DEFAULT,
        run: gateway_impostor,
        expect: &[
            "c2 pings the gateway: gw > c2 172.17.0.1 > 172.17.0.3 echo-reply id 1 seq 1 ttl 64",
            "c1 hears of it: nothing",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_frame_longer_than_the_next_link_takes_is_dropped",
        ids: "B15",
        settings: Settings::DEFAULT,
        run: too_long,
        expect: &["1514 bytes: c2", "1518 bytes: c2", "1519 bytes: nobody", "4000 bytes: nobody", "told of it: nobody"],
        pontoon_instead: None,
    },
    Row {
        claim: "arp_is_asked_of_all_and_answered_to_one",
        ids: "S63 S65 B23",
        settings: Settings::DEFAULT,
        run: resolution,
        expect: &[
            "c1 hears: c2 > all arp who-has 172.17.0.4 tell 172.17.0.3",
            "c3 hears: c2 > all arp who-has 172.17.0.4 tell 172.17.0.3",
            "c2 hears: c3 > c2 arp 172.17.0.4 is-at c3",
            "then c3 hears: c2 > c3 172.17.0.3:4000 > 172.17.0.4:7 udp 5 df ttl 64",
            "the reply is heard by: nobody else",
            "who-has the gateway is heard by: c1 c3",
        ],
        pontoon_instead: None,
    },
];

/// Local experimental EtherType 1 (IEEE 802): nobody's stack speaks it.
const ODD: u16 = 0x88b5;
/// Stations that belong to no container.
const STRANGER: Mac = [2, 0, 0, 0, 0, 0x99];
const OTHER: Mac = [2, 0, 0, 0, 0, 0x98];

struct Three {
    c1: Wire,
    c2: Wire,
    c3: Wire,
}

impl Three {
    fn new(dut: &dyn Dut) -> Self {
        let bed = dut.bed();
        Self { c1: bed.wire("c1"), c2: bed.wire("c2"), c3: bed.wire("c3") }
    }

    /// Who hears a frame with this text, the sender included.
    fn heard(&self, text: &str) -> String {
        who_heard(&self.named(), &[text])
    }

    /// Notes for each text who heard its frame, in one listening.
    fn note_each(&self, seen: &mut Outcome, texts: &[String]) {
        let words: Vec<[&str; 1]> = texts.iter().map(|text| [text.as_str()]).collect();
        let frames: Vec<&[&str]> = words.iter().map(<[&str; 1]>::as_slice).collect();
        for (text, who) in texts.iter().zip(who_heard_each(&self.named(), &frames)) {
            note!(seen, "{text}: {who}");
        }
    }

    fn named(&self) -> [(&str, &Wire); 3] {
        [("c1", &self.c1), ("c2", &self.c2), ("c3", &self.c3)]
    }
}

fn odd(from: Mac, to: Mac, text: &str) -> Vec<u8> {
    frame(from, to, ODD, text.as_bytes())
}

fn colons(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn unknown_unicast(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    wires.c1.send(&odd(OTHER, STRANGER, "one"));
    note!(seen, "unknown, from c1: {}", wires.heard("one"));
    wires.c3.send(&odd(STRANGER, bed.mac("c1"), "here I am"));
    wires.c1.wait(&["here I am"]);
    wires.c1.send(&odd(OTHER, STRANGER, "two"));
    note!(seen, "known at c3, from c1: {}", wires.heard("two"));
    wires.c2.send(&odd(bed.mac("c2"), STRANGER, "three"));
    note!(seen, "known at c3, from c2: {}", wires.heard("three"));
    wires.c2.send(&odd(bed.mac("c2"), OTHER, "four"));
    note!(seen, "known at c1, from c2: {}", wires.heard("four"));
    seen
}

fn station_move(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    let steps =
        [("seen at c2", &wires.c2, "first"), ("moved to c3", &wires.c3, "second"), ("moved back", &wires.c2, "third")];
    for (step, wire, text) in steps {
        wire.send(&odd(STRANGER, bed.mac("c1"), &format!("hello {text}")));
        wires.c1.wait(&[&format!("hello {text}")]);
        wires.c1.send(&odd(bed.mac("c1"), STRANGER, &format!("welcome {text}")));
        note!(seen, "{step}: {}", wires.heard(&format!("welcome {text}")));
    }
    seen
}

fn flooded(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    let groups = [
        BROADCAST,
        [1, 0, 0x5e, 0, 0, 1],
        [1, 0, 0x5e, 0, 0, 0xfb],
        [1, 0, 0x5e, 0x7f, 1, 2],
        [0x33, 0x33, 0, 0, 0, 0xfb],
        [0x33, 0x33, 0xff, 0, 0, 2],
    ];
    for group in groups {
        wires.c1.send(&odd(bed.mac("c1"), group, &format!("to {}", colons(group))));
    }
    wires.note_each(&mut seen, &groups.map(|group| format!("to {}", colons(group))));
    wires.c1.send(&frame(
        bed.mac("c1"),
        BROADCAST,
        0x0806,
        &arp(1, (bed.mac("c1"), crate::bed::C1), ([0; 6], GATEWAY)),
    ));
    note!(seen, "the gateway: {}", wires.c1.line(&["is-at"]));
    seen
}

fn never_back(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    wires.c1.send(&odd(bed.mac("c1"), BROADCAST, "to all"));
    note!(seen, "broadcast from c1: {}", wires.heard("to all"));
    // Two stations behind one port, as when a container bridges.
    wires.c1.send(&odd(STRANGER, bed.mac("c2"), "here I am"));
    wires.c2.wait(&["here I am"]);
    wires.c1.send(&odd(bed.mac("c1"), STRANGER, "to a neighbour"));
    note!(seen, "to a MAC behind the same port: {}", wires.heard("to a neighbour"));
    seen
}

fn reserved(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    let texts: Vec<String> = (0..=0x10).map(|last| format!("to {}", colons([1, 0x80, 0xc2, 0, 0, last]))).collect();
    for (last, text) in (0..=0x10).zip(&texts) {
        let group = [1, 0x80, 0xc2, 0, 0, last];
        // A length field and the LLC header of a BPDU, as such frames have.
        let mut payload = vec![0x42, 0x42, 3];
        payload.extend_from_slice(text.as_bytes());
        wires.c1.send(&frame(bed.mac("c1"), group, u16::try_from(payload.len()).expect("short"), &payload));
    }
    wires.note_each(&mut seen, &texts);
    seen
}

fn no_station(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    let sources = [[1, 0, 0x5e, 0, 0, 1], BROADCAST, [0; 6]];
    for source in sources {
        wires.c1.send(&odd(source, bed.mac("c2"), &format!("from {}", colons(source))));
    }
    wires.note_each(&mut seen, &sources.map(|source| format!("from {}", colons(source))));
    wires.c2.send(&odd(bed.mac("c2"), [0; 6], "to zero"));
    note!(seen, "to 00:00:00:00:00:00, from c2: {}", wires.heard("to zero"));
    seen
}

fn to_the_gateway(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    wires.c1.send(&odd(bed.mac("c1"), bed.gateway_mac(), "to the gateway"));
    note!(seen, "to gw, from c1: {}", wires.heard("to the gateway"));
    seen
}

fn vlans(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    let plain = odd(bed.mac("c1"), bed.mac("c2"), "tagged");
    let kinds: [(&str, &[(u16, u16)]); 4] = [
        ("802.1Q", &[(VLAN, 10)]),
        ("802.1Q with priority", &[(VLAN, 5 << 13 | 10)]),
        ("priority only", &[(VLAN, 5 << 13)]),
        ("QinQ", &[(QINQ, 20), (VLAN, 10)]),
    ];
    for (kind, tags) in kinds {
        wires.c1.send(&tagged(&plain, tags));
        note!(seen, "{kind}: {}", wires.c2.line(&["tagged"]));
    }
    wires.c3.send(&tagged(&odd(STRANGER, bed.mac("c1"), "hello"), &[(VLAN, 10)]));
    wires.c1.wait(&["hello"]);
    wires.c1.send(&odd(bed.mac("c1"), STRANGER, "untagged answer"));
    note!(seen, "learned with a tag, reached without: {}", wires.heard("untagged answer"));
    wires.c1.send(&tagged(&odd(bed.mac("c1"), STRANGER, "other answer"), &[(VLAN, 11)]));
    note!(seen, "reached with another: {}", wires.heard("other answer"));
    seen
}

fn ethertypes(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    wires.c2.send(&odd(bed.mac("c2"), bed.mac("c1"), "here I am"));
    wires.c1.wait(&["here I am"]);
    // Two lengths of 802.3, Wake-on-LAN, MPLS, PTP, and the last of them all.
    let ethertypes = [0x0026, 0x05dc, 0x0842, 0x8847, 0x88f7, 0xffff];
    for ethertype in ethertypes {
        wires.c1.send(&frame(bed.mac("c1"), bed.mac("c2"), ethertype, format!("this is {ethertype:#06x}").as_bytes()));
    }
    wires.note_each(&mut seen, &ethertypes.map(|ethertype| format!("this is {ethertype:#06x}")));
    seen
}

fn gateway_impostor(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    wires.c1.send(&odd(bed.gateway_mac(), bed.mac("c3"), "I am the gateway"));
    wires.c1.lines(&[]);
    bed.send_out(&wires.c2, "c2", &Packet::echo_request(C2, GATEWAY, 1, 1));
    note!(seen, "c2 pings the gateway: {}", wires.c2.line(&["echo-reply"]));
    let stolen = wires.c1.lines(&["echo"]);
    note!(seen, "c1 hears of it: {}", if stolen.is_empty() { "nothing".to_owned() } else { stolen.join("; ") });
    seen
}

fn too_long(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    bed.c1().ip("link set eth0 mtu 9000");
    wires.c2.send(&odd(bed.mac("c2"), bed.mac("c1"), "here I am"));
    wires.c1.wait(&["here I am"]);
    // An MTU of 1500 is 1514 bytes on the wire, and 1518 with the room that is always left for a VLAN tag.
    let lengths = [1514, 1518, 1519, 4000];
    for length in lengths {
        let text = format!("{length} bytes");
        // Where the frame is refused is not the point: a veth does it when it is sent, a switch when it has read it.
        let _ =
            wires.c1.offer(&odd(bed.mac("c1"), bed.mac("c2"), &(text.clone() + &".".repeat(length - 14 - text.len()))));
    }
    let mut texts: Vec<String> = lengths.iter().map(|length| format!("{length} bytes")).collect();
    texts.push("icmp".to_owned());
    wires.note_each(&mut seen, &texts);
    // A switch is silent about it.
    seen.0.last_mut().expect("noted").replace_range(..4, "told of it");
    seen
}

fn resolution(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let (bed, wires) = (dut.bed(), Three::new(dut));
    let socket = bed.c2().udp(at(C2, 4000));
    let _server = bed.c3().udp(at(C3, 7));
    note!(seen, "c1 hears: {}", {
        socket.send("hello", at(C3, 7)).expect("an on-link route");
        wires.c1.line(&["who-has 172.17.0.4"])
    });
    note!(seen, "c3 hears: {}", wires.c3.line(&["who-has 172.17.0.4"]));
    note!(seen, "c2 hears: {}", wires.c2.line(&["is-at"]));
    note!(seen, "then c3 hears: {}", wires.c3.line(&["udp"]));
    let others = who_heard(&[("c1", &wires.c1), ("c3", &wires.c3)], &["172.17.0.4 is-at"]);
    note!(seen, "the reply is heard by: {others} else");
    note!(seen, "who-has the gateway is heard by: {}", {
        told(socket.send("hello", at(crate::bed::SERVER, 9)));
        who_heard(&[("c1", &wires.c1), ("c3", &wires.c3)], &["who-has 172.17.0.1 tell 172.17.0.3"])
    });
    seen
}
