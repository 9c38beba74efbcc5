//! What programs make of an uplink over the host's sockets.

use std::collections::HashSet;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::bed::{Case, GATEWAY, HOST, PEER, PROGRAM, SERVER, Switch, soon, within};
use super::ns::{Listener, Netns, SOON, Udp, kill_group, readable, say, told};
use super::programs::{burst, iperf3, program, run};
use super::refusals::refused;
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    iperf3_crosses_host_sockets_every_way needs "iperf3",
    a_page_of_twenty_megabytes_arrives_byte_for_byte needs "curl" "python3",
    a_published_port_is_reached_from_loopback_the_host_and_beyond needs "curl",
    a_client_by_ipv6_reaches_a_container_of_ipv4,
    a_published_udp_port_answers_from_the_address_that_was_asked,
    a_container_that_comes_back_is_soon_heard_again,
    ping_crosses_small_and_large needs "ping",
    without_ping_sockets_a_ping_is_refused needs "ping",
    traceroute_sees_the_gateway_and_then_the_hosts_route needs "traceroute",
    a_connection_is_marked_from_its_first_packet needs "nc" "nft",
    a_killed_switch_ends_connections_by_an_error,
    a_container_that_goes_ends_its_connections_by_an_error,
    data_that_a_server_left_unread_is_a_reset_inside,
    what_cannot_be_reached_is_told_as_the_host_was_told,
    a_datagram_of_every_size_crosses,
    datagrams_in_bursts_cross_host_sockets_one_by_one,
    a_port_whose_container_refuses_opens_again_when_it_listens,
    a_request_that_ends_first_gets_its_whole_answer needs "nc",
    the_hosts_loopback_is_reached_by_its_own_address_alone,
    a_port_below_1024_without_the_right_is_refused_in_a_line needs "setpriv",
    a_port_of_another_program_refuses_the_whole,
    a_port_above_65535_is_a_wrong_command_line,
    a_port_twice_or_published_already_refuses_the_whole,
    a_foreign_address_refuses_the_whole,
    what_was_refused_can_be_had_afterwards,
    a_range_beyond_the_descriptors_is_refused_in_a_line,
    five_thousand_ports_are_published_at_once_and_all_lead_inside,
    a_port_that_is_not_named_is_chosen_among_the_hosts_free_ones_and_told,
    of_a_range_for_one_port_the_lowest_free_one_is_told,
    a_chosen_port_leads_inside_and_is_withdrawn_by_what_was_asked_or_told,
    a_chosen_port_is_told_by_attach_and_inspect,
    one_port_is_published_on_distinct_loopback_addresses,
    flows_name_the_peer,
    flows_tell_all_that_is_known_of_a_connection,
    a_reset_that_waits_for_its_container_is_told_by_flows,
    an_urgent_byte_is_marked_inside,
    what_a_host_says_at_its_own_rate_is_told_at_that_rate,
    where_nobody_limits_errors_none_is_lost_on_the_way needs "nft",
    a_changed_route_is_taken_by_new_connections_and_next_datagrams,
    where_no_way_is_left_that_is_told_at_once,
    three_thousand_connections_leave_no_descriptor,
];

const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
/// Another one of the host's.
const HOST2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 113);
const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
const CONNECTS: Duration = Duration::from_secs(2);

fn at(address: Ipv4Addr, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address, port)
}

/// A connected host, a switch over its sockets, and a container.
pub(super) fn one(options: &[&str]) -> (Case, Netns, Switch) {
    let case = Case::new();
    case.connect_host();
    let c1 = case.netns("c1");
    let switch = case.switch_over_sockets(options);
    switch.attach("c1", &c1, &[]);
    (case, c1, switch)
}

/// A connection from a container to `server`, and its other end.
fn connected(c1: &Netns, server: (&Netns, Ipv4Addr), port: u16) -> (TcpStream, TcpStream) {
    let listener = server.0.listen(at(server.1, port));
    let near = c1.connect(ANY, at(server.1, port), CONNECTS).expect("connected");
    let far = listener.accept().expect("connected").0;
    for stream in [&near, &far] {
        stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    }
    (near, far)
}

/// Bytes of which no two places look alike.
pub(super) fn pattern(megabytes: u32) -> Vec<u8> {
    (0..megabytes * 262_144).flat_map(u32::to_le_bytes).collect()
}

pub(super) fn is_cut(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn iperf3_crosses_host_sockets_every_way() {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "5202:5201"]);
    let mut told = Vec::new();
    let ways = [
        ("out", &c1, &case.world, SERVER, "5201", &[][..]),
        ("out, reversed", &c1, &case.world, SERVER, "5201", &["-R"]),
        ("out, eight streams", &c1, &case.world, SERVER, "5201", &["-P", "8"]),
        ("out, reversed, eight streams", &c1, &case.world, SERVER, "5201", &["-R", "-P", "8"]),
        ("in", &case.world, &c1, HOST, "5202", &[]),
        ("in, reversed", &case.world, &c1, HOST, "5202", &["-R"]),
        // The server answers by a socket that it connects to the client, so from the address next to it.
        ("UDP out", &c1, &case.world, PEER, "5201", &["-u", "-b", "50M"]),
        ("UDP out, reversed", &c1, &case.world, PEER, "5201", &["-u", "-R", "-b", "50M"]),
    ];
    for (way, client, server, to, port, more) in ways {
        let rate = iperf3(client, server, to, port, more);
        assert!(rate > 20e6, "{way}: {rate} bit/s");
        told.push(format!("{way} {:.2}", rate / 1e9));
    }
    eprintln!("process: Gbit/s over sockets of a debug build: {}", told.join(", "));
}

fn a_page_of_twenty_megabytes_arrives_byte_for_byte() {
    let (case, c1, _switch) = one(&[]);
    let directory = case.directory.join("www");
    fs::create_dir(&directory).expect("ours");
    let page = pattern(20);
    fs::write(directory.join("page"), &page).expect("ours");
    let copy = case.directory.join("copy");
    for (netns, address) in [(&case.host, HOST), (&case.world, SERVER)] {
        let words = ["-m", "http.server", "8000", "-d", directory.to_str().expect("ASCII")];
        let mut server = program(netns, "python3", &words);
        let mut server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3");
        soon("it listens", || netns.run("ss", &["-tln"], "").contains(":8000"));
        let url = format!("http://{address}:8000/page");
        run(&c1, "curl", &["-sS", "--max-time", "15", "-o", copy.to_str().expect("ASCII"), &url]);
        assert!(fs::read(&copy).expect("fetched") == page, "from {address}: not the same bytes");
        kill_group(&mut server);
    }
}

// D15, S18, S25
fn a_published_port_is_reached_from_loopback_the_host_and_beyond() {
    let (case, c1, switch) = one(&[]);
    let listener = c1.listen(at(C1, 80));
    switch.tell(&["publish", "c1", "8080:80"]);
    for (client, asked, seen) in [
        (&case.host, Ipv4Addr::LOCALHOST, GATEWAY),
        // The host itself is shown as the gateway, by whichever of its addresses it comes.
        (&case.host, HOST, GATEWAY),
        (&case.world, HOST, PEER),
    ] {
        let url = format!("http://{asked}:8080/");
        let mut curl = program(client, "curl", &["-sS", "--max-time", "5", &url]);
        let curl = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl");
        let (mut stream, from) = listener.accept().unwrap_or_else(|error| panic!("{asked}: {error}"));
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a request");
            request.push(byte[0]);
        }
        assert!(request.starts_with(b"GET / HTTP/1.1\r\n"), "{}", String::from_utf8_lossy(&request));
        let body = format!("you are {}", from.ip());
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
            .expect("answered");
        drop(stream);
        let output = curl.wait_with_output().expect("it ends");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            (String::from_utf8_lossy(&output.stdout).as_ref(), complaint.as_str()),
            (format!("you are {seen}").as_str(), ""),
            "{asked} from {}",
            client.name()
        );
    }
}

// S27
fn a_client_by_ipv6_reaches_a_container_of_ipv4() {
    let (case, c1, switch) = one(&[]);
    for (netns, device) in [(&case.host, "lo"), (&case.host, "out0"), (&case.world, "in0")] {
        netns.sysctl(&format!("ipv6.conf.{device}.disable_ipv6"), "0");
    }
    case.host.ip("addr add 2001:db8::112/64 dev out0 nodad");
    case.host.ip("addr add fe80::112/64 dev out0 nodad");
    case.world.ip("addr add 2001:db8::1/64 dev in0 nodad");
    case.world.ip("addr add fe80::1/64 dev in0 nodad");
    let link = case.world.run("ip", &["-o", "link", "show", "in0"], "");
    let of_link = format!("[fe80::112%{}]", link.split(':').next().expect("its index"));
    let (tcp, udp) = (c1.listen(at(C1, 80)), c1.udp(at(C1, 7)));
    // On all addresses, and on that of loopback alone.
    switch.tell(&["publish", "c1", "8080:80", "[::1]:8081:80", "7000:7/udp", "[::1]:7001:7/udp"]);
    for (client, asked) in [
        (&case.host, "[::1]:8080"),
        (&case.host, "[::1]:8081"),
        (&case.host, "[2001:db8::112]:8080"),
        (&case.world, "[2001:db8::112]:8080"),
        (&case.world, &format!("{of_link}:8080")),
    ] {
        let asked: SocketAddr = asked.parse().expect("an address");
        let near = client.enter(|| TcpStream::connect_timeout(&asked, CONNECTS));
        let near = near.unwrap_or_else(|error| panic!("{asked}: {error}"));
        near.set_read_timeout(Some(SOON)).expect("a socket");
        let (far, from) = tcp.accept().unwrap_or_else(|error| panic!("{asked}: {error}"));
        assert_eq!(from.ip(), IpAddr::V4(GATEWAY), "{asked}: whom no address of IPv4 names is shown as the gateway");
        say(&near, &far, "hello").expect("heard");
        say(&far, &near, "hello to you").expect("heard");
    }
    for (client, asked) in [
        (&case.host, "[::1]:7000"),
        (&case.host, "[::1]:7001"),
        (&case.world, "[2001:db8::112]:7000"),
        (&case.world, &format!("{of_link}:7000")),
    ] {
        let asker = client.enter(|| UdpSocket::bind("[::]:0")).expect("a port");
        asker.set_read_timeout(Some(SOON)).expect("a socket");
        asker.connect(asked).expect("a route");
        asker.send(b"are you there").expect("sent");
        let from = udp.echo().unwrap_or_else(|error| panic!("{asked}: {error}"));
        assert_eq!(from.ip(), IpAddr::V4(GATEWAY), "{asked}");
        let mut heard = [0; 32];
        let length = asker.recv(&mut heard).unwrap_or_else(|error| panic!("{asked}: {error}"));
        assert_eq!(&heard[..length], b"are you there");
    }
    // And not beyond: there [::1] is another's.
    let beyond = case.world.enter(|| {
        TcpStream::connect_timeout(&SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x112], 8081)), CONNECTS)
    });
    assert_eq!(told(beyond.map(|_| "connected")), "refused");
}

// S18, S25
fn a_published_udp_port_answers_from_the_address_that_was_asked() {
    let (case, c1, switch) = one(&[]);
    case.host.ip(&format!("addr add {HOST2}/24 dev out0"));
    let echo = c1.udp(at(C1, 7));
    switch.tell(&["publish", "c1", "7000:7/udp"]);
    for (client, asked, seen) in [
        (&case.world, HOST, PEER),
        (&case.world, HOST2, PEER),
        (&case.host, HOST2, GATEWAY),
        (&case.host, Ipv4Addr::LOCALHOST, GATEWAY),
    ] {
        // Connected, it hears from the address that it asked and from no other.
        let asker = client.udp(ANY);
        asker.connect(at(asked, 7000));
        asker.send("are you there", at(asked, 7000)).expect("sent");
        let from = echo.echo().unwrap_or_else(|error| panic!("{asked}: {error}"));
        assert_eq!(from.ip(), IpAddr::V4(seen), "{asked}");
        let (text, from) = asker.recv().unwrap_or_else(|error| panic!("{asked}: {error}"));
        assert_eq!((text.as_str(), from), ("are you there", SocketAddr::V4(at(asked, 7000))));
    }
}

/// Asks until there is an answer. A flow that nobody uses is kept for longer than that may take.
fn until_answered(what: &str, asker: &Udp, echo: &Udp, to: SocketAddrV4) {
    within(SOON, what, || {
        // An error here was told of an earlier question.
        let _ = asker.send("are you back", to);
        let brief = Duration::from_millis(50);
        echo.recv_within(brief).is_ok_and(|(_, from)| {
            let SocketAddr::V4(from) = from else { return false };
            echo.send("yes", from).is_ok()
        }) && asker.recv_within(brief).is_ok()
    });
}

fn a_container_that_comes_back_is_soon_heard_again() {
    let case = Case::new();
    case.connect_host();
    let switch = case.switch_over_sockets(&[]);
    let client = case.world.udp(at(PEER, 4000));
    let server = case.world.udp(at(SERVER, 53));
    for life in 0..3 {
        let c1 = case.netns(&format!("c1-{life}"));
        switch.attach("c1", &c1, &["--ip", "172.17.0.2", "-p", "7000:7/udp"]);
        // The same four numbers in each life, both ways.
        until_answered(&format!("in, life {life}"), &client, &c1.udp(at(C1, 7)), at(HOST, 7000));
        until_answered(&format!("out, life {life}"), &c1.udp(at(C1, 5000)), &server, at(SERVER, 53));
        switch.tell(&["detach", "c1"]);
        let _ = client.send("while nobody is there", at(HOST, 7000));
    }
}

fn ping_crosses_small_and_large() {
    let case = Case::new();
    case.connect_host();
    case.host.sysctl("ipv4.ping_group_range", "0 0");
    let c1 = case.netns("c1");
    let switch = case.switch_over_sockets(&[]);
    switch.attach("c1", &c1, &[]);
    for size in ["0", "56", "1472", "1473", "8000"] {
        for to in [GATEWAY, SERVER] {
            // The interval is also how long ping waits for the last reply, once it has had one.
            let out = run(&c1, "ping", &["-c", "2", "-i", "0.2", "-s", size, &to.to_string()]);
            assert!(out.contains(" 0% packet loss"), "{out}");
        }
    }
}

/// A new namespace lets no group have ping sockets.
fn without_ping_sockets_a_ping_is_refused() {
    let case = Case::new();
    case.connect_host();
    let c1 = case.netns("c1");
    let switch = case.switch_over_sockets(&[]);
    switch.attach("c1", &c1, &[]);
    let said = super::bed::Said::by(program(&c1, "ping", &["-c", "1", "-W", "2", &SERVER.to_string()]));
    assert_eq!(said.status, Some(1), "{}{}", said.out, said.err);
    assert!(said.out.contains(&format!("From {GATEWAY} ")) && said.out.contains("Packet filtered"), "{}", said.out);
}

fn traceroute_sees_the_gateway_and_then_the_hosts_route() {
    let case = Case::new();
    case.connect_host();
    case.host.sysctl("ipv4.ping_group_range", "0 0");
    let c1 = case.netns("c1");
    let switch = case.switch_over_sockets(&[]);
    switch.attach("c1", &c1, &[]);
    // A router between the host and a server further away.
    let further = case.netns("further");
    let server = Ipv4Addr::new(203, 0, 113, 5);
    case.world.ip(&format!(
        "link add in1 type veth peer name up0 netns {}\naddr add 203.0.113.1/24 dev in1\nlink set in1 up",
        further.name()
    ));
    case.world.sysctl("ipv4.ip_forward", "1");
    further.ip(&format!("addr add {server}/24 dev up0\nlink set up0 up\nroute add default via 203.0.113.1"));
    for (to, hops) in [(SERVER, vec![GATEWAY, SERVER]), (server, vec![GATEWAY, PEER, server])] {
        let hops: Vec<_> = hops.iter().map(ToString::to_string).collect();
        // Not ten times as long as the hop before took: beside other tests that is too short.
        const HOW: [&str; 7] = ["-n", "-q", "1", "-w", "2,0,0", "-N", "1"];
        for how in [&HOW[..], &[&HOW[..], &["-I"]].concat()] {
            let out = run(&c1, "traceroute", &[how, &[&to.to_string()]].concat());
            let seen: Vec<_> = out.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
            assert_eq!(seen, hops, "{how:?}: {out}");
        }
    }
}

/// The gateway is a hop: what leaves the container with a time to live of 9 leaves the host with 8.
fn a_connection_is_marked_from_its_first_packet() {
    let (case, c1, _switch) = one(&[]);
    case.world.nft(
        "table ip look { counter syns {}; chain in { type filter hook input priority 0; \
         tcp flags & (syn|ack) == syn ip ttl 8 ip dscp ef counter name syns\n}\n}",
    );
    let _listener = case.world.listen(at(SERVER, 80));
    run(&c1, "nc", &["-z", "-w", "2", "-M", "9", "-T", "ef", &SERVER.to_string(), "80"]);
    let counted = case.world.run("nft", &["list", "counter", "ip", "look", "syns"], "");
    assert!(counted.contains("packets 1 "), "{counted}");
}

fn a_killed_switch_ends_connections_by_an_error() {
    let (case, c1, first) = one(&[]);
    let (near, far) = connected(&c1, (&case.world, SERVER), 80);
    let page = vec![7; 65_536];
    thread::scope(|scope| {
        // A server in the middle of a long answer.
        let server = scope.spawn(|| {
            loop {
                if let Err(error) = (&far).write_all(&page) {
                    return error;
                }
            }
        });
        let mut start = vec![0; 1_000_000];
        (&near).read_exact(&mut start).expect("the beginning of it");
        first.signal(Signal::KILL);
        assert_eq!(first.ended(), -1);
        let error = server.join().expect("no panic");
        assert!(is_cut(&error), "at the server: {error}");
        soon("the helper ends too", || first.helpers().is_empty());
        // The container cannot be told by a dead process; the next one tells.
        let second = case.switch_over_sockets(&[]);
        second.attach("c1", &c1, &[]);
        let mut rest = Vec::new();
        let end = (&near).write_all(b"more").and_then(|()| (&near).read_to_end(&mut rest));
        let error = end.expect_err("a connection that was cut has no end");
        assert!(is_cut(&error), "in the container: {error}");
    });
}

fn a_container_that_goes_ends_its_connections_by_an_error() {
    let case = Case::new();
    case.connect_host();
    let switch = case.switch_over_sockets(&[]);
    // By its own end, and by that of the switch.
    for way in ["detach", "shutdown"] {
        let c1 = case.netns(way);
        switch.attach("c1", &c1, &["-p", "8080:80", "--ip", "172.17.0.2"]);
        let inside = c1.listen(at(C1, 80));
        let out = connected(&c1, (&case.world, SERVER), 80);
        let client = case.world.connect(ANY, at(HOST, 8080), CONNECTS).expect("connected");
        let accepted = inside.accept().expect("connected").0;
        let connections = [(out.0, out.1), (accepted, client)];
        for (near, far) in &connections {
            say(near, far, "hello").expect("heard");
            // More than fits, so that it is cut in the middle.
            near.set_write_timeout(Some(Duration::from_millis(300))).expect("a socket");
            let error = (&mut &*near).write_all(&pattern(32)).expect_err("nobody reads");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        match way {
            "detach" => drop(switch.tell(&["detach", "c1"])),
            _ => {
                switch.tell(&["shutdown"]);
                assert_eq!(switch.ended(), 0);
            }
        }
        for (_, mut far) in connections {
            let end = far.read_to_end(&mut Vec::new());
            assert!(end.as_ref().is_err_and(is_cut), "{way}: {end:?}");
        }
    }
}

fn what_cannot_be_reached_is_told_as_the_host_was_told() {
    let (case, c1, _switch) = one(&[]);
    case.world.sysctl("ipv4.ip_forward", "1");
    case.world.ip(
        "route add unreachable 203.0.113.1/32\nroute add prohibit 203.0.113.2/32\nroute add blackhole 203.0.113.3/32",
    );
    let mut wrong = Vec::new();
    // The host's own table says that there is no way.
    case.host.ip("route add unreachable 203.0.113.4/32");
    // A UDP socket hears of what will not pass by itself alone (ip(7)). Routers limit what they say
    // of it, so each is asked for once.
    for (address, port, tcp, udp) in [
        ([198, 51, 100, 5], 81, "refused", "refused"),
        ([203, 0, 113, 1], 80, "host unreachable", ""),
        ([203, 0, 113, 2], 80, "host unreachable", ""),
        ([203, 0, 113, 3], 80, "silence", ""),
        ([203, 0, 113, 4], 80, "network unreachable", ""),
        ([169, 254, 169, 254], 80, "host unreachable", "host unreachable"),
        ([255, 255, 255, 254], 80, "host unreachable", "host unreachable"),
    ] {
        let to = at(address.into(), port);
        let patience = if tcp == "silence" { Duration::from_millis(600) } else { CONNECTS };
        let near = told(c1.connect(ANY, to, patience).map(|_| "connected"));
        if near != tcp {
            wrong.push((to, "TCP", near));
        }
        if !udp.is_empty() {
            let asker = c1.udp(ANY);
            asker.connect(to);
            asker.send("hello", to).expect("sent");
            let heard = told(asker.recv().map(|(text, _)| text));
            if heard != udp {
                wrong.push((to, "UDP", heard));
            }
        }
    }
    assert_eq!(wrong, []);
}

/// They are sent together, received together, and written together.
fn datagrams_in_bursts_cross_host_sockets_one_by_one() {
    let (case, c1, switch) = one(&[]);
    burst(&c1, &case.world, at(SERVER, 5300), at(SERVER, 5300));
    switch.tell(&["publish", "c1", "5300:5300/udp"]);
    burst(&case.world, &c1, at(HOST, 5300), at(C1, 5300));
}

fn a_datagram_of_every_size_crosses() {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "7000:7/udp"]);
    let pairs = [
        (c1.udp(ANY), case.world.udp(at(SERVER, 53)), at(SERVER, 53)),
        (case.world.udp(ANY), c1.udp(at(C1, 7)), at(HOST, 7000)),
    ];
    for size in [0, 1, 1471, 1472, 1473, 9000, 65_507] {
        let text = "d".repeat(size);
        for (asker, server, to) in &pairs {
            asker.send(&text, *to).expect("sent");
            server.echo().unwrap_or_else(|error| panic!("{size} to {to}: {error}"));
            let (heard, from) = asker.recv().unwrap_or_else(|error| panic!("{size} from {to}: {error}"));
            assert_eq!((heard.len(), from), (size, SocketAddr::V4(*to)));
        }
    }
}

fn a_port_whose_container_refuses_opens_again_when_it_listens() {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "8080:80"]);
    let dial = || case.world.connect(ANY, at(HOST, 8080), CONNECTS);
    // The kernel completes the first connection before anybody knows.
    let end = dial().and_then(|mut client| client.read(&mut [0]));
    assert!(end.as_ref().is_err_and(is_cut), "{end:?}");
    soon("the next are refused", || told(dial().map(|_| "connected")) == "refused");
    let inside = c1.listen(at(C1, 80));
    let mut client = None;
    within(Duration::from_secs(5), "the port opens again", || {
        client = dial().ok();
        client.is_some()
    });
    let client = client.expect("just so");
    // The switch may have asked whether anybody listens: those came from no client and said nothing.
    let own = client.local_addr().expect("connected");
    let accepted = loop {
        let (stream, from) = inside.accept().expect("connected");
        if from == own {
            break stream;
        }
    };
    say(&client, &accepted, "hello").expect("heard");
    say(&accepted, &client, "hello to you").expect("heard");
}

fn data_that_a_server_left_unread_is_a_reset_inside() {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "8080:80"]);
    // Out, and in: whoever leaves data unread, the other end is told.
    let out = connected(&c1, (&case.world, SERVER), 80);
    let inside = c1.listen(at(C1, 80));
    let client = case.world.connect(ANY, at(HOST, 8080), CONNECTS).expect("connected");
    let accepted = inside.accept().expect("connected").0;
    for (who, mut stays, leaves) in [("container", out.0, out.1), ("client", client, accepted)] {
        stays.write_all(&vec![1; 100_000]).expect("taken");
        soon("it arrives", || {
            let mut one = [0];
            leaves.peek(&mut one).is_ok_and(|count| count == 1)
        });
        // Some of an answer, and then the end without having read.
        (&leaves).write_all(b"goodbye").expect("taken");
        drop(leaves);
        let mut heard = Vec::new();
        let end = stays.read_to_end(&mut heard);
        assert!(end.as_ref().is_err_and(is_cut), "{who}: {end:?} after {} bytes", heard.len());
    }
}

fn a_request_that_ends_first_gets_its_whole_answer() {
    let (case, c1, _switch) = one(&[]);
    let listener = case.world.listen(at(SERVER, 80));
    let question = pattern(3);
    let asks = case.directory.join("question");
    fs::write(&asks, &question).expect("ours");
    let mut nc = program(&c1, "nc", &["-N", &SERVER.to_string(), "80"]);
    nc.stdin(fs::File::open(&asks).expect("ours")).stdout(Stdio::piped());
    let nc = nc.spawn().expect("nc");
    let (stream, _) = listener.accept().expect("connected");
    let server = thread::spawn(move || {
        let mut heard = Vec::new();
        (&stream).read_to_end(&mut heard).expect("the whole question and its end");
        // Only now an answer, long after nc said that it has no more to say.
        thread::sleep(Duration::from_millis(300));
        let answer: Vec<u8> = heard.iter().rev().copied().collect();
        (&stream).write_all(&answer).expect("taken");
        heard
    });
    let output = nc.wait_with_output().expect("it ends");
    assert!(server.join().expect("no panic") == question, "the question is not the same");
    assert!(output.status.success());
    let answer: Vec<u8> = question.iter().rev().copied().collect();
    assert!(output.stdout == answer, "{} bytes of an answer of {}", output.stdout.len(), answer.len());
}

fn the_hosts_loopback_is_reached_by_its_own_address_alone() {
    let stands_for_it = "192.0.2.254";
    for (options, reached) in [
        (&[][..], [false, false]),
        (&["--host-loopback", stands_for_it], [true, false]),
        (&["--host-loopback", "172.17.0.1"], [false, true]),
    ] {
        let (case, c1, _switch) = one(options);
        let tcp = case.host.listen(at(Ipv4Addr::LOCALHOST, 80));
        let udp = case.host.udp(at(Ipv4Addr::LOCALHOST, 53));
        for (address, reached) in [stands_for_it.parse().expect("an address"), GATEWAY].into_iter().zip(reached) {
            let near = c1.connect(ANY, at(address, 80), Duration::from_secs(1));
            assert_eq!(near.is_ok(), reached, "{options:?} {address}: {near:?}");
            if let Ok(near) = near {
                let (far, from) = tcp.accept().expect("connected");
                assert!(from.ip().is_loopback(), "{from}");
                say(&near, &far, "hello").expect("heard");
                say(&far, &near, "hello to you").expect("heard");
            }
            let asker = c1.udp(ANY);
            asker.send("hello", at(address, 53)).expect("sent");
            let patience = if reached { SOON } else { Duration::from_millis(300) };
            let heard = udp.recv_within(patience);
            assert_eq!(heard.is_ok(), reached, "{options:?} {address}: {}", told(heard.map(|(text, _)| text)));
        }
        // Not by the host's own address either: there nobody listens.
        let near = c1.connect(ANY, at(HOST, 80), Duration::from_secs(1));
        assert_eq!(told(near.map(|_| "connected")), "refused", "{options:?}");
    }
}

/// Nothing of a refused request is left: `ports` of the host are free, and nothing is listed.
fn nothing_published(case: &Case, switch: &Switch, ports: &[u16]) {
    assert_eq!(switch.list("published"), [] as [serde_json::Value; 0]);
    for &port in ports {
        drop(case.host.listen(at(Ipv4Addr::UNSPECIFIED, port)));
    }
}

fn a_port_below_1024_without_the_right_is_refused_in_a_line() {
    let case = Case::new();
    case.connect_host();
    let c1 = case.netns("c1");
    let mut command = case.host.command("setpriv");
    command.args(["--bounding-set", "-net_bind_service", PROGRAM, "switch", "--uplink", "sockets", "--control"]);
    command.arg(case.control()).stdin(Stdio::null());
    let switch = case.started(command);
    switch.attach("c1", &c1, &[]);
    for words in
        [&["publish", "c1", "8080:80", "80:80", "8081:80"][..], &["publish", "c1", "8080:80", "53:53/udp", "8081:80"]]
    {
        refused(words, &switch.say(words), 1, &["permission denied", "ip_unprivileged_port_start"]);
        nothing_published(&case, &switch, &[8080, 8081, 80]);
    }
    let c2 = case.netns("c2");
    let path = c2.path().display().to_string();
    let words = ["attach", "c2", "--netns", &path, "-p", "8080:80", "-p", "80:80"];
    refused(&words, &switch.say(&words), 1, &["permission denied", "ip_unprivileged_port_start"]);
    assert_eq!(switch.containers(), ["c1"]);
    nothing_published(&case, &switch, &[8080]);
}

// D16, S60
fn a_port_of_another_program_refuses_the_whole() {
    let (case, _c1, switch) = one(&[]);
    let _taken = (case.host.listen(at(Ipv4Addr::UNSPECIFIED, 8081)), case.host.udp(at(HOST, 8082)));
    let _in_the_middle = case.host.listen(at(Ipv4Addr::UNSPECIFIED, 8105));
    for (ports, which) in [
        (&["8080:80", "8081:80"][..], ":8081/tcp"),
        (&["8080:80", "8082:80/udp"], ":8082/udp"),
        (&["8080:80", "8100-8110:80-90"], ":8105/tcp"),
    ] {
        let words = [&["publish", "c1"], ports].concat();
        refused(&words, &switch.say(&words), 1, &["another program of the host has this port", which]);
        nothing_published(&case, &switch, &[8080, 8100, 8104, 8106, 8110]);
    }
}

fn a_port_above_65535_is_a_wrong_command_line() {
    let (_case, _c1, switch) = one(&[]);
    for ports in ["65530-65536:80-86", "65530-65535:65531-65536"] {
        let words = ["publish", "c1", ports];
        refused(&words, &switch.say(&words), 2, &["'65536' is not a port; write a number from 1 to 65535"]);
    }
}

// D16, S60
fn a_port_twice_or_published_already_refuses_the_whole() {
    let (case, _c1, switch) = one(&[]);
    for (ports, port) in
        [(&["8100-8110:80-90", "8110-8111:80-81"][..], "8110"), (&["8080:80", "8083:80", "8080:81"], "8080")]
    {
        let words = [&["publish", "c1"], ports].concat();
        refused(&words, &switch.say(&words), 1, &[&format!("host port {port} is there twice")]);
        nothing_published(&case, &switch, &[8080, 8083, 8100, 8110, 8111]);
    }
    switch.tell(&["publish", "c1", "8104-8106:80-82"]);
    let words = ["publish", "c1", "8100-8110:80-90"];
    refused(&words, &switch.say(&words), 1, &[":8104/tcp", "already allocated by 'c1'"]);
    assert_eq!(switch.list("published").len(), 3, "what was published is");
    switch.tell(&["unpublish", "c1", "8104-8106:80-82"]);
    nothing_published(&case, &switch, &[8100, 8104, 8106, 8110]);
}

// D16
fn a_foreign_address_refuses_the_whole() {
    let (case, _c1, switch) = one(&[]);
    let words = ["publish", "c1", "8080:80", "203.0.113.77:8083:80"];
    refused(&words, &switch.say(&words), 1, &["203.0.113.77", "none of ours"]);
    nothing_published(&case, &switch, &[8080, 8083]);
}

fn what_was_refused_can_be_had_afterwards() {
    let (case, c1, switch) = one(&[]);
    let taken = case.host.listen(at(Ipv4Addr::UNSPECIFIED, 8081));
    let words = ["publish", "c1", "8080:80", "8081:80"];
    refused(&words, &switch.say(&words), 1, &["another program of the host has this port"]);
    drop(taken);
    // Between its fork and its exec, a child of another claim holds a copy of that listener.
    soon("it can be had", || switch.say(&words).status == Some(0));
    let inside = c1.listen(at(C1, 80));
    for port in [8080, 8081] {
        let near = case.world.connect(ANY, at(HOST, port), CONNECTS).expect("connected");
        say(&near, &inside.accept().expect("connected").0, "hello").expect("heard");
    }
}

fn a_range_beyond_the_descriptors_is_refused_in_a_line() {
    let case = Case::new();
    case.connect_host();
    let c1 = case.netns("c1");
    let mut command = case.host.command("sh");
    command.args(["-c", r#"ulimit -n 600 && exec "$0" "$@""#, PROGRAM, "switch", "--uplink", "sockets", "--control"]);
    command.arg(case.control()).stdin(Stdio::null());
    let switch = case.started(command);
    switch.attach("c1", &c1, &[]);
    for (ports, why) in [
        ("8000-8999:1000-1999", "the request needs 2002 descriptors"),
        ("8000-8999:1000-1999/udp", "the request needs 2002 descriptors"),
        // There would be enough, but for what is kept free for clients.
        ("8000-8199:1000-1199", "no descriptor is left"),
    ] {
        let words = ["publish", "c1", "7000:70", ports];
        refused(&words, &switch.say(&words), 1, &[why, "RLIMIT_NOFILE"]);
        nothing_published(&case, &switch, &[7000, 8000, 8199]);
    }
    switch.tell(&["publish", "c1", "8000-8009:1000-1009"]);
    assert_eq!(switch.list("published").len(), 10);
}

fn five_thousand_ports_are_published_at_once_and_all_lead_inside() {
    let (case, c1, switch) = one(&[]);
    let resident = switch.resident();
    let began = Instant::now();
    switch.tell(&["publish", "c1", "20000-24999:10000-14999"]);
    let took = began.elapsed();
    let grown = switch.resident().saturating_sub(resident);
    eprintln!("process: 5,000 ports in {took:?}, {grown} KiB more resident");
    assert!(grown < 24 * 1024, "{grown} KiB for 5,000 ports");
    assert_eq!(switch.list("published").len(), 5000);
    soon("there is one socket for each family", || (10_000..10_100).contains(&descriptors(&switch)));
    for inner in [10_000, 12_345, 14_999] {
        let inside = c1.listen(at(C1, inner));
        for (client, to) in [(&case.world, HOST), (&case.host, Ipv4Addr::LOCALHOST)] {
            let near = client.connect(ANY, at(to, inner + 10_000), CONNECTS).expect("connected");
            say(&near, &inside.accept().expect("connected").0, "hello").expect("heard");
        }
    }
    let began = Instant::now();
    switch.tell(&["unpublish", "c1", "20000-24999:10000-14999"]);
    eprintln!("process: and withdrawn in {:?}", began.elapsed());
    // Not those that had connections, which go on to their end.
    nothing_published(&case, &switch, &[20_001, 24_998]);
    soon("nothing of them is open", || descriptors(&switch) < 100);
}

/// As [`one`], of a host that has two ports to give, the second for TCP on all of its addresses and the first for UDP; and what
/// holds the others.
fn with_two_ports_to_give() -> (Case, Netns, Switch, (Listener, Udp)) {
    let case = Case::new();
    case.connect_host();
    // The switch looks at it when it starts.
    case.host.sysctl("ipv4.ip_local_port_range", "40000 40001");
    let taken = (case.host.listen(at(HOST, 40_000)), case.host.udp(at(HOST, 40_001)));
    let c1 = case.netns("c1");
    let switch = case.switch_over_sockets(&[]);
    switch.attach("c1", &c1, &[]);
    (case, c1, switch, taken)
}

// D14
fn a_port_that_is_not_named_is_chosen_among_the_hosts_free_ones_and_told() {
    let (case, _c1, switch, _taken) = with_two_ports_to_give();
    assert_eq!(switch.tell(&["publish", "c1", "80"]), "80/tcp -> 0.0.0.0:40001\n");
    assert_eq!(switch.tell(&["publish", "c1", "80/udp"]), "80/udp -> 0.0.0.0:40000\n");
    let words = ["publish", "c1", "8080:80", "81"];
    refused(&words, &switch.say(&words), 1, &["0.0.0.0:40000-40001/tcp", "all ports are allocated"]);
    drop(case.host.listen(at(Ipv4Addr::UNSPECIFIED, 8080)));
    assert_eq!(switch.tell(&["publish", "c1", "127.0.0.1::81"]), "81/tcp -> 127.0.0.1:40000\n", "there it is free");
}

// D14
fn of_a_range_for_one_port_the_lowest_free_one_is_told() {
    let (case, _c1, switch) = one(&[]);
    let _lowest = case.host.listen(at(Ipv4Addr::UNSPECIFIED, 7000));
    assert_eq!(switch.tell(&["publish", "c1", "7000-7009:80", "8080:80"]), "80/tcp -> 0.0.0.0:7001\n");
}

// D14
fn a_chosen_port_leads_inside_and_is_withdrawn_by_what_was_asked_or_told() {
    let (case, c1, switch, _taken) = with_two_ports_to_give();
    switch.tell(&["publish", "c1", "80", "80/udp", "127.0.0.1::81", "7000-7009:80"]);
    let inside = (c1.listen(at(C1, 80)), c1.listen(at(C1, 81)));
    for (client, to, listener) in
        [(&case.world, at(HOST, 7000), &inside.0), (&case.host, at(Ipv4Addr::LOCALHOST, 40_000), &inside.1)]
    {
        // By a port of its own: the host has none left to give.
        let near = client
            .connect(at(Ipv4Addr::UNSPECIFIED, 5555), to, CONNECTS)
            .unwrap_or_else(|error| panic!("{to}: {error}"));
        say(&near, &listener.accept().expect("connected").0, "hello").expect("heard");
    }
    switch.tell(&["unpublish", "c1", "80/udp", "127.0.0.1:40000:81/tcp", "7000-7009:80", "40001:80"]);
    // The ports that a connection came by may take a moment.
    nothing_published(&case, &switch, &[40_001]);
}

// D14
fn a_chosen_port_is_told_by_attach_and_inspect() {
    let (case, _c1, switch, _taken) = with_two_ports_to_give();
    let c2 = case.netns("c2");
    let path = c2.path().display().to_string();
    let told = switch.tell(&["attach", "c2", "--netns", &path, "-p", "80", "-p", "8081:81"]);
    assert_eq!(told.lines().skip(1).collect::<Vec<_>>(), ["80/tcp -> 0.0.0.0:40001"]);
    let inspected = switch.request(r#"{"execute":"inspect","arguments":{"name":"c2"}}"#);
    assert_eq!(inspected["return"]["published"][0]["host_port"], 8081, "{inspected}");
    assert_eq!(inspected["return"]["published"][1]["host_port"], 40_001, "{inspected}");
}

// D14
fn one_port_is_published_on_distinct_loopback_addresses() {
    let (case, c1, switch) = one(&[]);
    let addresses = [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)];
    for (address, port) in addresses.into_iter().zip([80, 81]) {
        switch.tell(&["publish", "c1", &format!("{address}:8080:{port}")]);
    }
    for (address, port) in addresses.into_iter().zip([80, 81]) {
        let listener = c1.listen(at(C1, port));
        let near = case.host.connect(ANY, at(address, 8080), CONNECTS).expect("connected");
        say(&near, &listener.accept().expect("connected").0, "hello").expect("heard");
    }
    let words = ["publish", "c1", "8080:82"];
    refused(&words, &switch.say(&words), 1, &["0.0.0.0:8080/tcp", "already allocated"]);
    switch.tell(&["publish", "c1", &format!("{HOST}:8080:82")]);
}

/// The lines of TCP connections, those that wait for stragglers left out.
fn live(switch: &Switch) -> Vec<String> {
    let told = switch.tell(&["flows"]);
    told.lines().filter(|line| line.starts_with("tcp ") && !line.contains("TIME_WAIT")).map(str::to_owned).collect()
}

fn flows_name_the_peer() {
    let (case, c1, switch) = one(&[]);
    let (near, far) = connected(&c1, (&case.world, SERVER), 80);
    say(&near, &far, "hello").expect("heard");
    let lines = live(&switch);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let own = near.local_addr().expect("connected").port();
    let words: HashSet<_> = line.split_whitespace().collect();
    for word in ["src=172.17.0.2", "dst=198.51.100.5", "dport=80", &format!("sport={own}"), "peer=198.51.100.5:80"] {
        assert!(words.contains(word), "no {word}: {line}");
    }
    drop((near, far));
    soon("it ends with its ends", || live(&switch).is_empty());
}

fn flows_tell_all_that_is_known_of_a_connection() {
    let (case, c1, switch) = one(&[]);
    let (near, far) = connected(&c1, (&case.world, SERVER), 80);
    say(&near, &far, "hello").expect("heard");
    say(&far, &near, "and hello").expect("heard");
    soon("it is acknowledged", || switch.list("flows")[0]["reply"]["bytes"] == 9);
    let flows = switch.list("flows");
    let [flow] = &flows[..] else { panic!("{flows:?}") };
    assert_eq!((&flow["state"], &flow["name"]), (&"ESTABLISHED".into(), &"c1".into()));
    assert_eq!((&flow["original"]["bytes"], &flow["reply"]["bytes"]), (&5.into(), &9.into()));
    let socket = &flow["socket"];
    assert_eq!((&socket["peer"], &socket["peer_port"]), (&"198.51.100.5".into(), &80.into()));
    assert!(socket["age_seconds"].is_u64() && socket["error"].is_null(), "{socket}");
    assert_eq!((&socket["window"], &socket["retransmits"]), (&262_144.into(), &0.into()));
}

fn a_reset_that_waits_for_its_container_is_told_by_flows() {
    let (case, c1, switch) = one(&[]);
    let (near, mut far) = connected(&c1, (&case.world, SERVER), 80);
    // The container reads nothing, so what came before the far side's reset waits, and the reset with it.
    far.set_nonblocking(true).expect("a socket");
    let block = [7; 65_536];
    within(SOON, "all buffers are full", || {
        while far.write(&block).is_ok() {}
        thread::sleep(Duration::from_millis(100));
        far.write(&block).is_err()
    });
    rustix::net::sockopt::set_socket_linger(&far, Some(Duration::ZERO)).expect("a socket");
    drop(far);
    soon("the error is latched", || switch.list("flows")[0]["socket"]["error"] == "Reset");
    drop(near);
    soon("it ends with its ends", || live(&switch).is_empty());
}

fn an_urgent_byte_is_marked_inside() {
    let (case, c1, _switch) = one(&[]);
    let (mut near, far) = connected(&c1, (&case.world, SERVER), 80);
    say(&far, &near, "before").expect("heard");
    rustix::net::send(&far, b"ab", rustix::net::SendFlags::empty()).expect("sent");
    // It comes with what makes the switch look, not into the middle of its reading.
    soon("that was read", || readable(&near, Duration::from_millis(10)));
    rustix::net::send(&far, b"!", rustix::net::SendFlags::OOB).expect("sent");
    rustix::net::send(&far, b"cd", rustix::net::SendFlags::empty()).expect("sent");
    // Out of line: the byte is found by its mark, and the rest has no trace of it.
    let mut byte = [0; 9];
    soon("the mark has come", || {
        rustix::net::recv(&near, &mut byte[..], rustix::net::RecvFlags::OOB).is_ok_and(|(_, len)| len == 1)
    });
    assert_eq!(byte[0], b'!');
    let mut rest = [0; 4];
    near.read_exact(&mut rest).expect("received");
    assert_eq!(&rest, b"abcd");
}

/// How many of `rounds` datagrams to a port where nobody listens are refused, each from a socket of its own.
fn refusals(c1: &Netns, rounds: usize, patience: Duration) -> usize {
    let answers = (0..rounds).map(|_| {
        let asker = c1.udp(ANY);
        asker.connect(at(SERVER, 81));
        asker.send("hello", at(SERVER, 81)).expect("sent");
        told(asker.recv_within(patience).map(|(text, _)| text))
    });
    answers.filter(|heard| heard == "refused").count()
}

/// Linux says six things to a host at once, and then one a second (net.ipv4.icmp_ratelimit).
fn what_a_host_says_at_its_own_rate_is_told_at_that_rate() {
    let (_case, c1, _switch) = one(&[]);
    let began = Instant::now();
    assert_eq!(refusals(&c1, 6, SOON), 6, "at once");
    let heard = refusals(&c1, 4, Duration::from_millis(100));
    let seconds = began.elapsed().as_secs() as usize;
    assert!(heard <= seconds + 1, "{heard} more in {seconds} s and a part of one");
}

fn where_nobody_limits_errors_none_is_lost_on_the_way() {
    let (case, c1, _switch) = one(&[]);
    case.world.sysctl("ipv4.icmp_ratelimit", "0");
    assert_eq!(refusals(&c1, 30, SOON), 30, "datagrams");
    case.world.sysctl("ipv4.ip_forward", "1");
    // A rule, and no unreachable route: that tells five things at once and then one a second, whatever the sysctl above
    // says (net.ipv4.route.error_burst and error_cost, which no namespace has).
    case.world.ip("route add 203.0.113.1/32 dev lo");
    case.world.nft(
        "table ip way {\nchain on {\ntype filter hook forward priority 0;\n\
         ip daddr 203.0.113.1 reject with icmp type host-unreachable\n}\n}",
    );
    let answers: Vec<_> = (0..20)
        .map(|_| c1.connect(ANY, at([203, 0, 113, 1].into(), 80), CONNECTS).map(|_| "connected"))
        .map(told)
        .collect();
    assert_eq!(answers, ["host unreachable"; 20]);
}

/// A VPN comes up, or a laptop moves: the host has another way out, and another address on it.
fn a_changed_route_is_taken_by_new_connections_and_next_datagrams() {
    let (case, c1, _switch) = one(&[]);
    let (old, vpn) = (Ipv4Addr::new(192, 0, 2, 112), Ipv4Addr::new(192, 0, 2, 130));
    let beyond = case.netns("beyond");
    case.host.ip(&format!("link add vpn0 type veth peer name in0 netns {}", beyond.name()));
    beyond.ip(&format!("addr add {SERVER}/32 dev lo\naddr add 192.0.2.129/25 dev in0\nlink set in0 up"));
    let from = |udp: &Udp| udp.recv_within(SOON).expect("asked").1.ip();

    let asker = c1.udp(ANY);
    let servers = [case.world.udp(at(SERVER, 53)), beyond.udp(at(SERVER, 53))];
    asker.send("one", at(SERVER, 53)).expect("sent");
    assert_eq!(from(&servers[0]), IpAddr::V4(old));
    let (near, far) = connected(&c1, (&case.world, SERVER), 80);
    say(&near, &far, "hello").expect("heard");

    case.host.ip(&format!("addr add {vpn}/25 dev vpn0\nlink set vpn0 up\nroute add {SERVER}/32 via 192.0.2.129"));
    asker.send("two", at(SERVER, 53)).expect("sent");
    assert_eq!(from(&servers[1]), IpAddr::V4(vpn), "the same socket inside, and the same flow");
    let (later, its) = connected(&c1, (&beyond, SERVER), 80);
    assert_eq!(its.peer_addr().expect("connected").ip(), IpAddr::V4(vpn));
    say(&later, &its, "hello").expect("heard");

    case.host.ip("link del vpn0");
    asker.send("three", at(SERVER, 53)).expect("sent");
    assert_eq!(from(&servers[0]), IpAddr::V4(old));
    say(&near, &far, "still here").expect("what was connected by the old way goes on by it");
}

fn where_no_way_is_left_that_is_told_at_once() {
    let (case, c1, switch) = one(&[]);
    let (asker, server) = (c1.udp(ANY), case.world.udp(at(SERVER, 53)));
    asker.send("one", at(SERVER, 53)).expect("sent");
    server.recv().expect("asked");
    case.host.ip("route del default");
    let to = at(SERVER, 80);
    assert_eq!(told(c1.connect(ANY, to, CONNECTS).map(|_| "connected")), "network unreachable");
    // Also what goes by a flow that there is.
    asker.send("two", at(SERVER, 53)).expect("sent");
    soon("it is counted", || switch.drops("c1", "no-route") >= 2);
}

pub(super) fn descriptors(switch: &Switch) -> usize {
    fs::read_dir(format!("/proc/{}/fd", switch.pid().as_raw_nonzero())).expect("it runs").count()
}

fn three_thousand_connections_leave_no_descriptor() {
    let (case, c1, switch) = one(&[]);
    switch.tell(&["publish", "c1", "8080:80"]);
    // Whatever is made once, is made.
    drop(connected(&c1, (&case.world, SERVER), 81));
    soon("it is over", || live(&switch).is_empty());
    let before = descriptors(&switch);
    for (client, server, listens, asked) in
        [(&c1, &case.world, at(SERVER, 80), at(SERVER, 80)), (&case.world, &c1, at(C1, 80), at(HOST, 8080))]
    {
        let listener = server.listen(listens);
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                for number in 0..1500 {
                    let (mut stream, _) = listener.accept().unwrap_or_else(|error| panic!("{number}: {error}"));
                    let mut heard = [0; 5];
                    stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("{number}: {error}"));
                    // Each end is the first to go in turn.
                    if number % 2 == 0 {
                        stream.write_all(&heard).expect("taken");
                    } else {
                        stream.write_all(&heard).expect("taken");
                        let _ = stream.read(&mut heard);
                    }
                }
            });
            client.enter(|| {
                for number in 0..1500 {
                    let mut stream = TcpStream::connect_timeout(&asked.into(), CONNECTS)
                        .unwrap_or_else(|error| panic!("{number}: {error}"));
                    stream.set_read_timeout(Some(SOON)).expect("a socket");
                    stream.write_all(b"hello").expect("taken");
                    let mut heard = [0; 5];
                    stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("{number}: {error}"));
                    assert_eq!(&heard, b"hello");
                    if number % 2 == 0 {
                        assert_eq!(stream.read(&mut heard).expect("the end"), 0);
                    } else {
                        stream.shutdown(Shutdown::Both).expect("connected");
                    }
                }
            });
            server.join().expect("no panic");
        });
    }
    within(Duration::from_secs(5), "all descriptors are closed", || descriptors(&switch) <= before);
}
