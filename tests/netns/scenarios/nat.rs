//! Masquerade and connection tracking.

use std::collections::BTreeSet;
use std::time::Duration;

use super::flows;
use crate::Row;
use crate::bed::{
    C1, C2, Dut, GATEWAY, LAN_HOST, NOBODY, Outcome, Protocol, Publish, SERVER, SERVER2, Settings, UP, at, note,
};
use crate::ns::{QUIET, SOON, Udp, say, told};
use crate::packet::{Packet, fragments};

pub const ROWS: &[Row] = &[
    Row {
        claim: "a_ping_crosses_gateway_and_uplink_and_comes_back",
        ids: "S05 S06 S07 R01",
        settings: Settings::DEFAULT,
        run: ping,
        expect: &[
            "c1 sends: 172.17.0.2 > 198.51.100.5 echo-request id 2 seq 1 ttl 64",
            "uplink: 192.168.2.112 > 198.51.100.5 echo-request id 2 seq 1 ttl 63",
            "uplink: 198.51.100.5 > 192.168.2.112 echo-reply id 2 seq 1 ttl 63",
            "c1 hears: gw > c1 198.51.100.5 > 172.17.0.2 echo-reply id 2 seq 1 ttl 62",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "an_echo_id_that_is_taken_is_translated",
        ids: "S07",
        settings: Settings::DEFAULT,
        run: echo_ids,
        expect: &[
            "c1's id on the uplink: 7",
            "c2's id is the same: false",
            "c1 is answered: id 7",
            "c2 is answered: id 7",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "an_echo_id_is_kept_towards_every_server",
        ids: "I1",
        settings: Settings::DEFAULT,
        run: one_id_two_servers,
        expect: &[
            "192.168.2.112 > 198.51.100.5 echo-request id 7 seq 1 ttl 63",
            "192.168.2.112 > 198.51.100.6 echo-request id 7 seq 2 ttl 63",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "only_what_leaves_by_the_uplink_is_masqueraded",
        ids: "S10 U1",
        settings: Settings::DEFAULT,
        run: masquerade,
        expect: &[
            "the server sees: 192.168.2.112:4000",
            "the other server sees: 192.168.2.112:4000",
            "c1 is answered by: 198.51.100.5:7",
            "the LAN host sees: 192.168.2.112:4000",
            "c2 sees: 172.17.0.2:4000",
            "the gateway answers: gw > c1 172.17.0.1 > 172.17.0.2 echo-reply id 1 seq 1 ttl 64",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_translated_port_stays_in_its_class",
        ids: "U3a",
        settings: Settings::DEFAULT,
        run: port_classes,
        expect: &[
            "500: c1 keeps it, c2 gets another of 1..=511",
            "900: c1 keeps it, c2 gets another of 600..=1023",
            "5000: c1 keeps it, c2 gets another of 1024..=65535",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "ports_given_for_taken_ones_have_no_pattern",
        ids: "V11 U4 V10 X16",
        settings: Settings::DEFAULT,
        run: unguessable,
        expect: &[
            "c1 keeps 32 of 32",
            "c2 gets 32 different ones",
            "in sequence: false",
            "with the parity they had: false",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_mapping_lets_in_only_whom_it_was_made_for",
        ids: "U8",
        settings: Settings::DEFAULT,
        run: filtering,
        expect: &[
            "from where it sent to: 198.51.100.5:7",
            "from another port: silence",
            "from another server: silence",
            "again from where it sent to: 198.51.100.5:7",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "no_container_address_leaves_by_the_uplink",
        ids: "R27 X01 X11 I11",
        settings: Settings::DEFAULT,
        run: leaks,
        // Linux: what its connection tracking finds invalid is forwarded as it is.
        expect: &[
            "tcp without flags: 172.17.0.2:4000 > 198.51.100.5:80 tcp  ttl 63",
            "tcp with SYN and FIN: 172.17.0.2:4001 > 198.51.100.5:80 tcp SF ttl 63",
            "an echo reply nobody asked for: 172.17.0.2 > 198.51.100.5 echo-reply id 5 seq 1 ttl 63",
            "icmp type 40: 172.17.0.2 > 198.51.100.5 icmp 40/0 ttl 63",
            "an error about nothing: 172.17.0.2 > 198.51.100.5 icmp 3/3 about (198.51.100.5:7 > 172.17.0.2:4000 udp 5 ttl 64) ttl 63",
            "udp with a wrong checksum: 172.17.0.2:4002 > 198.51.100.5:7 udp 5 ttl 63 BAD L4 CHECKSUM",
        ],
        // An intended difference: a private source tells the world about the inside and provokes resets from whoever has that address.
        pontoon_instead: Some(&[
            "tcp without flags: silence",
            "tcp with SYN and FIN: silence",
            "an echo reply nobody asked for: silence",
            "icmp type 40: silence",
            "an error about nothing: silence",
            "udp with a wrong checksum: silence",
        ]),
    },
    Row {
        claim: "other_protocols_are_masqueraded_by_address",
        ids: "R26",
        settings: Settings::DEFAULT,
        run: other_protocols,
        expect: &[
            "out: 192.168.2.112 > 198.51.100.5 protocol 253 5 ttl 63",
            "back: gw > c1 198.51.100.5 > 172.17.0.2 protocol 253 6 ttl 62",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "fragments_in_any_order_arrive_as_one_datagram",
        ids: "U14 R20",
        settings: Settings::DEFAULT,
        run: fragment_orders,
        expect: &[
            "out 0 1 2: 4000 bytes from 192.168.2.112:4000, in 0 1 2: 4000 bytes from 192.168.2.5:5000",
            "out 0 2 1: 4000 bytes from 192.168.2.112:4000, in 0 2 1: 4000 bytes from 192.168.2.5:5000",
            "out 1 0 2: 4000 bytes from 192.168.2.112:4000, in 1 0 2: 4000 bytes from 192.168.2.5:5000",
            "out 1 2 0: 4000 bytes from 192.168.2.112:4000, in 1 2 0: 4000 bytes from 192.168.2.5:5000",
            "out 2 0 1: 4000 bytes from 192.168.2.112:4000, in 2 0 1: 4000 bytes from 192.168.2.5:5000",
            "out 2 1 0: 4000 bytes from 192.168.2.112:4000, in 2 1 0: 4000 bytes from 192.168.2.5:5000",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "flows_are_listed_as_conntrack_lists_them",
        ids: "S14 X18",
        settings: Settings::DEFAULT,
        run: listing,
        expect: &[
            "icmp     1 <=30 src=172.17.0.2 dst=198.51.100.99 type=8 code=0 id=1 [UNREPLIED] src=198.51.100.99 dst=192.168.2.112 type=0 code=0 id=1 mark=0 use=N",
            "icmp     1 <=30 src=172.17.0.2 dst=198.51.100.5 type=8 code=0 id=2 src=198.51.100.5 dst=192.168.2.112 type=0 code=0 id=2 mark=0 use=N",
            "udp      17 <=30 src=172.17.0.2 dst=198.51.100.99 sport=4000 dport=7 [UNREPLIED] src=198.51.100.99 dst=192.168.2.112 sport=7 dport=4000 mark=0 use=N",
            "udp      17 <=30 src=172.17.0.2 dst=198.51.100.5 sport=4000 dport=7 src=198.51.100.5 dst=192.168.2.112 sport=7 dport=4000 mark=0 use=N",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_connection_passes_through_the_states_of_the_kernel",
        ids: "X18 X02",
        settings: Settings::DEFAULT,
        run: states,
        expect: &[
            "tcp      6 <=120 SYN_SENT src=172.17.0.2 dst=198.51.100.99 sport=40001 dport=7 [UNREPLIED] src=198.51.100.99 dst=192.168.2.112 sport=7 dport=40001 mark=0 use=N",
            "tcp      6 <=432000 ESTABLISHED src=172.17.0.2 dst=198.51.100.5 sport=40000 dport=7 src=198.51.100.5 dst=192.168.2.112 sport=7 dport=40000 [ASSURED] mark=0 use=N",
            "half closed: CLOSE_WAIT <=60",
            "data still flows: ok",
            "closed: TIME_WAIT <=120",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_new_syn_restarts_a_finished_connection",
        ids: "X07",
        settings: Settings::DEFAULT,
        run: restarted,
        expect: &[
            "closed: TIME_WAIT <=120",
            "again: ESTABLISHED <=432000",
            "reset: CLOSE <=10",
            "once more: ESTABLISHED <=432000",
        ],
        pontoon_instead: None,
    },
    Row {
        claim: "a_reset_as_the_only_reply_forgets_the_flow",
        ids: "X09",
        settings: Settings::DEFAULT,
        run: refused,
        expect: &["connecting: refused", "flows: 0"],
        pontoon_instead: None,
    },
];

fn ping(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink) = (bed.wire("c1"), bed.uplink());
    let request = Packet::echo_request(C1, SERVER, 2, 1);
    note!(seen, "c1 sends: {}", request.told());
    bed.send_out(&wire, "c1", &request);
    note!(seen, "uplink: {}", uplink.line(&["echo-"]));
    note!(seen, "uplink: {}", uplink.line(&["echo-"]));
    note!(seen, "c1 hears: {}", wire.line(&["echo-"]));
    seen
}

fn echo_ids(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (c1, c2, uplink) = (bed.wire("c1"), bed.wire("c2"), bed.uplink());
    let id =
        |line: String| line.split_whitespace().skip_while(|word| *word != "id").nth(1).unwrap_or("silence").to_owned();
    bed.send_out(&c1, "c1", &Packet::echo_request(C1, SERVER, 7, 1));
    let first = id(uplink.line(&["echo-request"]));
    bed.send_out(&c2, "c2", &Packet::echo_request(C2, SERVER, 7, 1));
    let second = id(uplink.line(&["echo-request"]));
    note!(seen, "c1's id on the uplink: {first}");
    note!(seen, "c2's id is the same: {}", first == second);
    note!(seen, "c1 is answered: id {}", id(c1.line(&["198.51.100.5 > 172.17.0.2 echo-reply"])));
    note!(seen, "c2 is answered: id {}", id(c2.line(&["198.51.100.5 > 172.17.0.3 echo-reply"])));
    seen
}

fn one_id_two_servers(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (c1, uplink) = (bed.wire("c1"), bed.uplink());
    for (seq, server) in [(1, SERVER), (2, SERVER2)] {
        bed.send_out(&c1, "c1", &Packet::echo_request(C1, server, 7, seq));
        seen.note(uplink.line(&["echo-request"]));
    }
    seen
}

fn masquerade(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let client = bed.c1().udp(at(C1, 4000));
    let mut ask = |who: &str, server: &Udp, address| {
        client.send("hello", address).expect("a route");
        note!(seen, "{who} sees: {}", told(server.echo()));
        client.recv()
    };
    let server = bed.s.udp(at(SERVER, 7));
    let answered = ask("the server", &server, at(SERVER, 7));
    let _ = ask("the other server", &bed.s.udp(at(SERVER2, 7)), at(SERVER2, 7));
    note!(seen, "c1 is answered by: {}", told(answered.map(|(_, from)| from)));
    let mut ask = |who: &str, server: &Udp, address| {
        client.send("hello", address).expect("a route");
        note!(seen, "{who} sees: {}", told(server.echo()));
    };
    ask("the LAN host", &bed.x.udp(at(LAN_HOST, 7)), at(LAN_HOST, 7));
    ask("c2", &bed.c2().udp(at(C2, 7)), at(C2, 7));
    let wire = bed.wire("c1");
    bed.send_out(&wire, "c1", &Packet::echo_request(C1, GATEWAY, 1, 1));
    note!(seen, "the gateway answers: {}", wire.line(&["echo-reply"]));
    seen
}

fn port_classes(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let server = bed.s.udp(at(SERVER, 7));
    for (port, class) in [(500, 1..=511), (900, 600..=1023), (5000, 1024..=65535)] {
        let outside = |container, address| {
            let socket = bed.container(container).udp(at(address, port));
            socket.send("hello", at(SERVER, 7)).expect("a route");
            server.echo().map_or(0, |from| from.port())
        };
        let (first, second) = (outside("c1", C1), outside("c2", C2));
        let kept = if first == port { "keeps it".to_owned() } else { format!("gets {first}") };
        let other = if second != port && class.contains(&second) {
            format!("another of {class:?}")
        } else {
            second.to_string()
        };
        note!(seen, "{port}: c1 {kept}, c2 gets {other}");
    }
    seen
}

fn unguessable(dut: &dyn Dut) -> Outcome {
    const COUNT: u16 = 32;
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let server = bed.s.udp(at(SERVER, 7));
    let outside = |container, address| {
        let ports = (5000..5000 + COUNT).map(|port| {
            bed.container(container).udp(at(address, port)).send("hello", at(SERVER, 7)).expect("a route");
            server.recv().expect("it is masqueraded").1.port()
        });
        ports.collect::<Vec<u16>>()
    };
    let (first, second) = (outside("c1", C1), outside("c2", C2));
    note!(seen, "c1 keeps {} of {COUNT}", first.iter().zip(5000..).filter(|(port, own)| **port == *own).count());
    let different: BTreeSet<u16> = second.iter().filter(|port| !first.contains(port)).copied().collect();
    note!(seen, "c2 gets {} different ones", different.len());
    // Steps of less than 64, as a counter would make, a quarter of the time or more: by chance once in 10^18.
    let small = second.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 64).count();
    note!(seen, "in sequence: {}", small >= usize::from(COUNT / 4));
    // By chance once in 2^32.
    note!(seen, "with the parity they had: {}", second.iter().zip(5000..).all(|(port, own)| port % 2 == own % 2));
    seen
}

fn filtering(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let client = bed.c1().udp(at(C1, 4000));
    let server = bed.s.udp(at(SERVER, 7));
    client.send("hello", at(SERVER, 7)).expect("a route");
    let outside = match server.echo() {
        Ok(std::net::SocketAddr::V4(outside)) => outside,
        other => panic!("the server saw {other:?}"),
    };
    let from = |patience: Duration| told(client.recv_within(patience).map(|(_, from)| from));
    note!(seen, "from where it sent to: {}", from(SOON));
    bed.s.udp(at(SERVER, 8)).send("knock", outside).expect("a route");
    note!(seen, "from another port: {}", from(QUIET));
    bed.s.udp(at(SERVER2, 7)).send("knock", outside).expect("a route");
    note!(seen, "from another server: {}", from(QUIET));
    server.send("again", outside).expect("a route");
    note!(seen, "again from where it sent to: {}", from(SOON));
    seen
}

fn leaks(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink) = (bed.wire("c1"), bed.uplink());
    let tcp = |port, flags| Packet::syn(at(C1, port), at(SERVER, 80)).with_tcp_flags(flags);
    let unasked = Packet::udp(at(SERVER, 7), at(C1, 4000), b"hello").bytes();
    let probes = [
        ("tcp without flags", tcp(4000, 0)),
        ("tcp with SYN and FIN", tcp(4001, 3)),
        ("an echo reply nobody asked for", Packet::query(C1, SERVER, 0, 5, 1)),
        ("icmp type 40", Packet::query(C1, SERVER, 40, 6, 1)),
        ("an error about nothing", Packet::error(C1, SERVER, (3, 3), [0; 4], &unasked)),
        ("udp with a wrong checksum", Packet::udp(at(C1, 4002), at(SERVER, 7), b"wrong").with_wrong_udp_checksum()),
    ];
    for (what, probe) in probes {
        bed.send_out(&wire, "c1", &probe);
        let first =
            uplink.wait_for(QUIET, &["> 198.51.100.5"]).map_or_else(|| "silence".to_owned(), |heard| heard.line);
        note!(seen, "{what}: {first}");
    }
    seen
}

fn other_protocols(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, uplink) = (bed.wire("c1"), bed.uplink());
    bed.send_out(&wire, "c1", &Packet::new(C1, SERVER, 253, b"hello".to_vec()));
    note!(seen, "out: {}", uplink.line(&["> 198.51.100.5 protocol"]));
    bed.s.injector().send(&Packet::new(SERVER, UP, 253, b"answer".to_vec()));
    note!(seen, "back: {}", wire.line(&["172.17.0.2 protocol"]));
    seen
}

fn fragment_orders(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    dut.publish(Publish { container: "c2", host: 2024, port: 80, protocol: Protocol::Udp });
    let (wire, injector) = (bed.wire("c1"), bed.x.injector());
    let (server, inside) = (bed.s.udp(at(SERVER, 7)), bed.c2().udp(at(C2, 80)));
    let whole = |socket: &Udp| told(socket.recv().map(|(text, from)| format!("{} bytes from {from}", text.len())));
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (id, order) in (1..).zip(orders) {
        let out = fragments(&Packet::udp(at(C1, 4000), at(SERVER, 7), &[b'o'; 4000]).id(id), 1500);
        let back = fragments(&Packet::udp(at(LAN_HOST, 5000), at(UP, 2024), &[b'i'; 4000]).id(id), 1500);
        for piece in order {
            bed.send_out(&wire, "c1", &out[piece]);
            injector.send(&back[piece]);
        }
        let [a, b, c] = order;
        note!(seen, "out {a} {b} {c}: {}, in {a} {b} {c}: {}", whole(&server), whole(&inside));
    }
    seen
}

fn listing(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let (wire, client, server) = (bed.wire("c1"), bed.c1().udp(at(C1, 4000)), bed.s.udp(at(SERVER, 7)));
    bed.send_out(&wire, "c1", &Packet::echo_request(C1, NOBODY, 1, 1));
    bed.send_out(&wire, "c1", &Packet::echo_request(C1, SERVER, 2, 1));
    wire.wait(&["echo-reply"]);
    client.send("hello", at(NOBODY, 7)).expect("a route");
    client.send("hello", at(SERVER, 7)).expect("a route");
    server.echo().expect("the server hears it");
    client.recv().expect("an answer");
    for protocol in ["icmp ", "udp "] {
        for destination in ["dst=198.51.100.99", "dst=198.51.100.5 "] {
            flows(dut, &[protocol, destination, "src=172.17.0.2"]).into_iter().for_each(|line| seen.note(line));
        }
    }
    seen
}

/// State and timeout of the one TCP flow from c1 to the server.
fn state(dut: &dyn Dut) -> String {
    let lines = flows(dut, &["tcp ", "src=172.17.0.2 dst=198.51.100.5 "]);
    match lines.as_slice() {
        [line] => {
            let fields: Vec<&str> = line.split_whitespace().collect();
            format!("{} {}", fields[3], fields[2])
        }
        lines => format!("{lines:?}"),
    }
}

fn states(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    // Nobody answers: the SYN stays alone.
    let _ = bed.c1().connect(at(C1, 40_001), at(NOBODY, 7), Duration::from_millis(20));
    flows(dut, &["tcp ", "dst=198.51.100.99"]).into_iter().for_each(|line| seen.note(line));

    let listener = bed.s.listen(at(SERVER, 7));
    let client = bed.c1().connect(at(C1, 40_000), at(SERVER, 7), SOON).expect("a connection");
    let (server, _) = listener.accept().expect("a connection");
    say(&client, &server, "hello").expect("data");
    flows(dut, &["tcp ", "dst=198.51.100.5 "]).into_iter().for_each(|line| seen.note(line));
    client.shutdown(std::net::Shutdown::Write).expect("connected");
    assert_eq!(std::io::Read::read(&mut &server, &mut [0]).expect("the end"), 0, "the server reads the end");
    settle(dut, "CLOSE_WAIT");
    note!(seen, "half closed: {}", state(dut));
    note!(seen, "data still flows: {}", told(say(&server, &client, "and still").map(|()| "ok")));
    drop(server);
    settle(dut, "TIME_WAIT");
    note!(seen, "closed: {}", state(dut));
    seen
}

/// Waits until the flow to the server is in `wanted`, or long enough that it will not be: the last ACK of a close is nobody's to wait for.
fn settle(dut: &dyn Dut, wanted: &str) {
    let deadline = std::time::Instant::now() + SOON;
    while !state(dut).starts_with(wanted) && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn restarted(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let listener = bed.s.listen(at(SERVER, 7));
    let connect = || {
        let client = bed.c1().connect(at(C1, 40_000), at(SERVER, 7), SOON).expect("a connection from the same port");
        let (server, _) = listener.accept().expect("the connection");
        say(&client, &server, "hello").expect("data");
        (client, server)
    };
    let (mut client, server) = connect();
    // The server closes first, so that the wait is on its side and the client may use its port again.
    drop(server);
    assert_eq!(std::io::Read::read(&mut client, &mut [0]).expect("the end"), 0, "the client reads the end");
    drop(client);
    settle(dut, "TIME_WAIT");
    note!(seen, "closed: {}", state(dut));

    let (client, server) = connect();
    note!(seen, "again: {}", state(dut));
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("a socket");
    drop(client);
    drop(server);
    settle(dut, "CLOSE ");
    note!(seen, "reset: {}", state(dut));

    let (_client, _server) = connect();
    note!(seen, "once more: {}", state(dut));
    seen
}

fn refused(dut: &dyn Dut) -> Outcome {
    let mut seen = Outcome::default();
    let bed = dut.bed();
    let result = bed.c1().connect(at(C1, 40_000), at(SERVER, 9), SOON).map(|_| "accepted");
    note!(seen, "connecting: {}", told(result));
    note!(seen, "flows: {}", flows(dut, &["tcp "]).len());
    seen
}
