//! What ordinary programs make of it.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::bed::{Case, Pair, SERVER, Said, Switch, UP, soon};
use super::ns::{Netns, kill_group};
use super::sandbox::find;
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    iperf3_runs_every_way needs "iperf3",
    networks_of_large_packets_carry_them needs "iperf3" "ping",
    every_combination_of_offloads_carries_tcp needs "iperf3" "ethtool",
    ping_of_every_size_and_fast needs "ping",
    datagrams_in_bursts_arrive_one_by_one_as_they_were_sent,
    traceroute_sees_the_gateway_first needs "traceroute",
    arping_finds_an_address_that_is_taken needs "arping",
    netcat_talks_udp_through_the_masquerade needs "nc",
    curl_fetches_from_a_published_port needs "curl" "python3",
];

const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);

fn two(options: &[&str], network: Option<&[&str]>) -> (Case, [Netns; 2], Switch) {
    let case = Case::new();
    let containers = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(options);
    if let Some(network) = network {
        switch.tell(network);
    }
    let net = network.map_or("default", |words| words[2]);
    for (name, netns) in ["c1", "c2"].into_iter().zip(&containers) {
        switch.attach(name, netns, &["--net", net]);
    }
    (case, containers, switch)
}

pub(super) fn program(netns: &Netns, name: &str, words: &[&str]) -> Command {
    let mut command = netns.command(find(name).expect("asked for by the claim"));
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs a program that may take a while; its output if it succeeds.
pub(super) fn run(netns: &Netns, name: &str, words: &[&str]) -> String {
    let said = Said::by(program(netns, name, words));
    assert_eq!(said.status, Some(0), "{}: {name} {words:?}: {}{}", netns.name(), said.out, said.err);
    said.out
}

/// Bits per second at the receiver.
pub(super) fn iperf3(client: &Netns, server: &Netns, to: Ipv4Addr, port: &str, more: &[&str]) -> f64 {
    let mut listening = program(server, "iperf3", &["-s", "-1"]).stdout(Stdio::null()).spawn().expect("iperf3");
    // It says nothing when it is ready; until then connections are refused.
    soon("iperf3 listens", || server.run("ss", &["-tln"], "").contains(":5201"));
    let to = to.to_string();
    let out = run(client, "iperf3", &[&["-c", &to, "-p", port, "-t", "1", "-J"], more].concat());
    kill_group(&mut listening);
    let report: Value = serde_json::from_str(&out).expect("iperf3 speaks JSON");
    let rate =
        report["end"]["sum_received"]["bits_per_second"].as_f64().or(report["end"]["sum"]["bits_per_second"].as_f64());
    rate.unwrap_or_else(|| panic!("{more:?}: no rate: {out}"))
}

fn iperf3_runs_every_way() {
    let (case, [c1, c2], switch) = two(&[], None);
    switch.tell(&["publish", "c2", "5202:5201"]);
    let mut told = Vec::new();
    let ways = [
        ("direct", &c1, &c2, C2, "5201", &[][..]),
        ("direct, eight streams", &c1, &c2, C2, "5201", &["-P", "8"]),
        ("out", &c1, &case.world, SERVER, "5201", &[]),
        ("out, reversed, eight streams", &c1, &case.world, SERVER, "5201", &["-R", "-P", "8"]),
        ("in", &case.world, &c2, UP, "5202", &[]),
        ("hairpin", &c1, &c2, UP, "5202", &[]),
        ("UDP direct", &c1, &c2, C2, "5201", &["-u", "-b", "50M"]),
    ];
    for (way, client, server, to, port, more) in ways {
        let rate = iperf3(client, server, to, port, more);
        assert!(rate > 20e6, "{way}: {rate} bit/s");
        told.push(format!("{way} {:.2}", rate / 1e9));
    }
    eprintln!("process: Gbit/s of a debug build: {}", told.join(", "));
}

/// B16.
fn networks_of_large_packets_carry_them() {
    for mtu in ["9000", "65521"] {
        let (case, [c1, c2], _switch) =
            two(&[], Some(&["network", "add", "large", "--subnet", "172.20.0.0/16", "--mtu", mtu]));
        assert!(c1.run("ip", &["link", "show", "eth0"], "").contains(&format!("mtu {mtu} ")));
        let to = Ipv4Addr::new(172, 20, 0, 3);
        let largest = (mtu.parse::<u32>().expect("a number") - 28).min(65_507).to_string();
        run(&c1, "ping", &["-c", "1", "-W", "2", "-M", "do", "-s", &largest, &to.to_string()]);
        run(&c1, "ping", &["-c", "1", "-W", "2", "-M", "do", "-s", &largest, "172.20.0.1"]);
        assert!(iperf3(&c1, &c2, to, "5201", &[]) > 20e6);
        // Out by a link of 1500: TCP finds its way down.
        assert!(iperf3(&c1, &case.world, SERVER, "5201", &[]) > 1e6);
    }
}

/// B29: whoever leaves checksums to the device talks with whoever does not.
fn every_combination_of_offloads_carries_tcp() {
    let (case, [c1, c2], _switch) = two(&[], None);
    for (first, second) in [("off", "off"), ("off", "on"), ("on", "off"), ("on", "on")] {
        for (netns, tx) in [(&c1, first), (&c2, second)] {
            netns.run("ethtool", &["-K", "eth0", "tx", tx], "");
        }
        Pair::new((&c1, C1), (&c2, C2)).ask();
        assert!(iperf3(&c1, &c2, C2, "5201", &[]) > 5e6, "{first} {second}");
        Pair::new((&c1, C1), (&case.world, SERVER)).ask();
    }
}

fn ping_of_every_size_and_fast() {
    let (_case, [c1, _c2], _switch) = two(&[], None);
    for size in ["0", "1", "56", "1472", "1473", "9000", "65507"] {
        run(&c1, "ping", &["-c", "1", "-W", "2", "-s", size, "172.17.0.1"]);
        run(&c1, "ping", &["-c", "1", "-W", "2", "-s", size, &C2.to_string()]);
    }
    // Ping sends one more whenever an answer takes longer than 10 ms, which on a busy machine one may.
    let out = run(&c1, "ping", &["-f", "-c", "5000", "-w", "10", "-q", &C2.to_string()]);
    let sent = out.split(" packets transmitted").next().and_then(|before| before.lines().last()?.parse().ok());
    assert!(sent.is_some_and(|sent: u32| sent < 5050) && out.contains(" 5000 received"), "{out}");
    let out = run(&c1, "ping", &["-c", "3", "-i", "0.2", "-q", &SERVER.to_string()]);
    assert!(out.contains(" 0% packet loss"), "{out}");
}

/// What is joined on the way to be written at once comes apart again.
fn datagrams_in_bursts_arrive_one_by_one_as_they_were_sent() {
    let (case, [c1, c2], _switch) = two(&[], None);
    burst(&c1, &c2, SocketAddrV4::new(C2, 5300), SocketAddrV4::new(C2, 5300));
    burst(&c1, &case.world, SocketAddrV4::new(SERVER, 5300), SocketAddrV4::new(SERVER, 5300));
}

/// Datagrams of several lengths, as fast as they can be sent, to `target`, which leads to `at`.
pub(super) fn burst(from: &Netns, to: &Netns, target: SocketAddrV4, at: SocketAddrV4) {
    let to = to.enter(|| UdpSocket::bind(at)).expect("a socket");
    to.set_read_timeout(Some(Duration::from_secs(5))).expect("an option");
    let from = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("a socket");
    let datagram = |number: usize| vec![number as u8; [40, 40, 40, 40, 40, 7, 1472, 1472, 900, 1][number % 10]];
    let mut buffer = [0; 2000];
    // Neighbours are asked for, which holds back no more than some of a burst.
    from.send_to(b"first", target).expect("sent");
    assert_eq!(to.recv(&mut buffer).expect("it came"), 5);
    for _ in 0..5 {
        for number in 0..100 {
            from.send_to(&datagram(number), target).expect("sent");
        }
        for number in 0..100 {
            let len = to.recv(&mut buffer).expect("it came");
            assert!(buffer[..len] == datagram(number), "number {number} to {target}: {len} bytes of {}", buffer[0]);
        }
    }
}

/// R02.
fn traceroute_sees_the_gateway_first() {
    let (_case, [c1, _c2], _switch) = two(&[], None);
    // It waits ten times as long as the hop before took, unless it is told not to: beside other tests that is too short.
    const WAIT: &str = "2,0,0";
    for how in [&["-n", "-q", "1", "-w", WAIT][..], &["-n", "-q", "1", "-w", WAIT, "-I"]] {
        let to = SERVER.to_string();
        let out = run(&c1, "traceroute", &[how, &[&to]].concat());
        let hops: Vec<_> = out.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(hops, ["172.17.0.1", &to], "{out}");
    }
}

fn arping_finds_an_address_that_is_taken() {
    let (_case, [c1, _c2], _switch) = two(&[], None);
    for (address, taken) in [(C2, true), (super::bed::GATEWAY, true), (Ipv4Addr::new(172, 17, 9, 9), false)] {
        let said = Said::by(program(&c1, "arping", &["-D", "-c", "1", "-w", "1", "-I", "eth0", &address.to_string()]));
        // Of iputils: 1 says that somebody answered.
        assert_eq!(said.status == Some(0), !taken, "{address}: {}{}", said.out, said.err);
    }
}

fn netcat_talks_udp_through_the_masquerade() {
    let (case, [c1, _c2], _switch) = two(&[], None);
    let echo = case.world.udp(SocketAddrV4::new(SERVER, 7));
    let to = SERVER.to_string();
    let mut client = program(&c1, "nc", &["-u", "-w", "2", &to, "7"]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = client.spawn().expect("nc");
    std::io::Write::write_all(child.stdin.as_mut().expect("piped"), b"hello by nc\n").expect("written");
    let from = echo.echo().expect("it arrives, and is answered");
    assert_eq!(from.ip(), UP);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello by nc\n");
}

fn curl_fetches_from_a_published_port() {
    let (case, [c1, c2], switch) = two(&[], None);
    let directory = case.directory.join("www");
    std::fs::create_dir(&directory).expect("ours");
    let page: String = "pontoon ".repeat(100_000);
    std::fs::write(directory.join("page"), &page).expect("ours");
    switch.tell(&["publish", "c2", "8080:80"]);
    let mut server = program(&c2, "python3", &["-m", "http.server", "80", "-d", directory.to_str().expect("ASCII")]);
    let mut server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("python3");
    soon("it listens", || c2.run("ss", &["-tln"], "").contains(":80"));
    for (who, url) in [
        (&case.world, format!("http://{UP}:8080/page")),
        (&c1, format!("http://{UP}:8080/page")),
        (&c2, format!("http://{UP}:8080/page")),
    ] {
        assert_eq!(run(who, "curl", &["-sS", "--max-time", "5", &url]), page, "{}", who.name());
    }
    kill_group(&mut server);
}
