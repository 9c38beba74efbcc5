//! How ports and switches live and die.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use pontoon::io::netcfg;
use pontoon::io::sys::msg;
use pontoon::io::sys::tuntap::{Device, Header, Kind};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use super::bed::{Case, PEER, Pair, SERVER, Switch, answer, devices, dial, soon, within};
use super::ns::{Netns, kill_group, say};
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    a_dead_process_frees_its_port_and_its_address_at_once needs "sleep",
    an_unpinned_namespace_frees_its_port,
    a_deleted_device_frees_its_port,
    a_killed_switch_is_followed_by_one_that_adopts,
    a_signal_ends_it_clean,
    the_end_of_exit_fd_ends_it_clean,
    a_call_ends_it_clean,
    it_says_when_it_is_ready,
    a_link_that_is_down_is_counted_and_works_again,
    a_namespace_has_several_ports_and_networks_are_apart,
    a_second_name_in_a_namespace_leaves_the_default_route_where_it_is,
    a_tap_of_somebody_else_is_as_it_was_when_it_is_detached,
    a_brought_tap_lives_as_long_as_its_connection,
    the_command_that_brings_a_tap_keeps_it,
    the_command_that_brings_a_tap_ends_with_its_port,
    an_inherited_tun_is_the_uplink,
    detach_leaves_only_lo,
];

const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
const C3: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 4);
/// What is promised of a dead namespace.
const FREED: Duration = Duration::from_secs(2);

/// A process in a namespace, killed with its value.
struct Sleeper(Child);

impl Sleeper {
    fn new(netns: &Netns) -> Self {
        Self(netns.command("sleep").arg("60").spawn().expect("sleep"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        kill_group(&mut self.0);
    }
}

/// S70, Q06.
fn a_dead_process_frees_its_port_and_its_address_at_once() {
    let case = Case::new();
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    let sleeper = Sleeper::new(&c1);
    let at = C1.to_string();
    switch.tell(&["attach", "c1", "--pid", &sleeper.pid(), "--ip", &at, "-p", "8080:80"]);
    switch.attach("c2", &c2, &["--ip", &C2.to_string()]);
    switch.attach("c3", &c3, &["--ip", &C3.to_string()]);
    let others = Pair::new((&c2, C2), (&c3, C3));
    others.ask();

    drop(sleeper);
    within(FREED, "the port is free", || {
        others.ask();
        switch.containers() == ["c2", "c3"]
    });
    // The same name, address and published port, by somebody else.
    let heir = case.netns("heir");
    switch.attach("c1", &heir, &["--ip", &at, "-p", "8080:80"]);
    Pair::new((&c2, C2), (&heir, C1)).ask();
    assert_eq!(devices(&c1), ["lo"], "the device of the dead is gone");
}

fn an_unpinned_namespace_frees_its_port() {
    let case = Case::new();
    let [c1, c2, c3, c4] = ["c1", "c2", "c3", "c4"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    for (name, netns) in [("c1", &c1), ("c2", &c2), ("c3", &c3), ("c4", &c4)] {
        switch.attach(name, netns, &[]);
    }
    let others = Pair::new((&c3, C3), (&c4, Ipv4Addr::new(172, 17, 0, 5)));
    // As `ip netns del` does, and as a runtime that leaves the file behind.
    drop(c1);
    unmount(c2.path(), UnmountFlags::DETACH).expect("ours");
    within(FREED, "both ports are free", || {
        others.ask();
        switch.containers() == ["c3", "c4"]
    });
    let heir = case.netns("c1");
    switch.attach("c1", &heir, &["--ip", &C1.to_string()]);
    Pair::new((&c3, C3), (&heir, C1)).ask();
}

fn a_deleted_device_frees_its_port() {
    let case = Case::new();
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    for (name, netns) in [("c1", &c1), ("c2", &c2), ("c3", &c3)] {
        switch.attach(name, netns, &[]);
    }
    let others = Pair::new((&c2, C2), (&c3, C3));
    c1.ip("link del eth0");
    within(FREED, "the port is free", || {
        others.ask();
        switch.containers() == ["c2", "c3"]
    });
    switch.attach("c1", &c1, &["--ip", &C1.to_string()]);
    Pair::new((&c2, C2), (&c1, C1)).ask();
}

/// B30: an established connection does not notice.
fn a_killed_switch_is_followed_by_one_that_adopts() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let attach = |switch: &Switch| {
        switch.attach("c1", &c1, &["--ip", &C1.to_string()]);
        switch.attach("c2", &c2, &["--ip", &C2.to_string()]);
    };
    let first = case.switch(&[]);
    attach(&first);
    let listener = c2.listen(SocketAddrV4::new(C2, 80));
    let near = c1.connect(SocketAddrV4::new(C1, 0), SocketAddrV4::new(C2, 80), FREED).expect("connected");
    let (far, _) = listener.accept().expect("connected");
    say(&near, &far, "before").expect("heard");

    first.signal(Signal::KILL);
    assert_eq!(first.ended(), -1);
    let helpers_end = Instant::now() + FREED;
    while !first.helpers().is_empty() {
        assert!(Instant::now() < helpers_end, "the helper outlives a killed switch");
    }
    assert_eq!(devices(&c1), ["eth0", "lo"]);
    assert!(c1.run("ip", &["addr", "show", "eth0"], "").contains("172.17.0.2/16"));

    let second = case.switch(&[]);
    attach(&second);
    say(&near, &far, "after").expect("heard: same device, same addresses");
    say(&far, &near, "and back").expect("heard");
    let out = Pair::new((&c1, C1), (&case.world, SERVER));
    out.ask();
    second.signal(Signal::TERM);
    assert_eq!(second.ended(), 0);
    assert_eq!((devices(&c1), devices(&case.world)), (vec!["lo".to_owned()], vec!["lo".to_owned()]));
}

fn a_signal_ends_it_clean() {
    for signal in [Signal::TERM, Signal::INT] {
        let (case, containers, switch) = two_and_a_switch();
        switch.signal(signal);
        assert_eq!(switch.ended(), 0, "{signal:?}");
        nothing_is_left(&case, &containers);
    }
}

fn the_end_of_exit_fd_ends_it_clean() {
    let case = Case::new();
    let c1 = case.netns("c1");
    let (read, write) = pipe().expect("a pipe");
    let mut command = case.handing();
    command.arg("switch").arg("--control").arg(case.control()).args(["--exit-fd", "3", "--uplink", "none"]).stdin(read);
    let switch = case.started(command);
    switch.attach("c1", &c1, &[]);
    (&write).write_all(b"a word means nothing").expect("written");
    switch.tell(&["stats"]);
    assert!(switch.is_running());
    drop(write);
    assert_eq!(switch.ended(), 0);
    nothing_is_left(&case, &[c1]);
}

fn a_call_ends_it_clean() {
    let (case, containers, switch) = two_and_a_switch();
    switch.tell(&["shutdown"]);
    assert_eq!(switch.ended(), 0);
    nothing_is_left(&case, &containers);
}

fn two_and_a_switch() -> (Case, [Netns; 2], Switch) {
    let case = Case::new();
    let containers = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c1", &containers[0], &["-p", "8080:80"]);
    switch.attach("c2", &containers[1], &[]);
    (case, containers, switch)
}

fn nothing_is_left(case: &Case, containers: &[Netns]) {
    for netns in containers.iter().chain([&case.host, &case.world]) {
        assert_eq!(devices(netns), ["lo"], "{}", netns.name());
    }
    let files: Vec<_> = std::fs::read_dir(&case.directory).expect("ours").flatten().map(|e| e.file_name()).collect();
    assert!(files.is_empty(), "left behind: {files:?}");
}

/// Fifty milliseconds are asked for; how long a busy machine and a build without optimisation take is told.
fn it_says_when_it_is_ready() {
    let case = Case::new();
    let (mut read, write) = pipe().expect("a pipe");
    let mut command = case.handing();
    command
        .arg("switch")
        .arg("--control")
        .arg(case.control())
        .args(["--ready-fd", "4", "--uplink", "none"])
        .stdout(write);
    let began = Instant::now();
    let switch = case.started(command);
    let mut said = String::new();
    read.read_to_string(&mut said).expect("read to the end: it is closed");
    let took = began.elapsed();
    assert_eq!(said, "1\n");
    eprintln!("process: ready in {took:?}");
    switch.tell(&["stats"]);
}

fn a_link_that_is_down_is_counted_and_works_again() {
    let case = Case::new();
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    for (name, netns) in [("c1", &c1), ("c2", &c2), ("c3", &c3)] {
        switch.attach(name, netns, &[]);
    }
    let pair = Pair::new((&c1, C1), (&c2, C2));
    let others = Pair::new((&c1, C1), (&c3, C3));
    pair.ask();
    c2.ip("link set eth0 down");
    // c1 still knows c2's MAC, so it goes on sending.
    for _ in 0..3 {
        assert!(!pair.reaches(Duration::from_millis(50)));
    }
    others.ask();
    soon("the drop is counted", || switch.drops("*", "link-down") > 0);
    assert_eq!(switch.containers(), ["c1", "c2", "c3"], "the port is kept");
    c2.ip("link set eth0 up");
    soon("it works again", || pair.reaches(Duration::from_millis(200)));
    // And with the gateway, whose neighbour it is.
    c2.ip("route replace default via 172.17.0.1");
    Pair::new((&c2, C2), (&case.world, SERVER)).ask();
}

/// S52, D24.
fn a_namespace_has_several_ports_and_networks_are_apart() {
    let case = Case::new();
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.tell(&["network", "add", "back", "--subnet", "172.18.0.0/16"]);
    switch.attach("c1", &c1, &[]);
    switch.attach("c1", &c1, &["--ifname", "eth1", "--net", "back"]);
    switch.attach("c2", &c2, &[]);
    switch.attach("c3", &c3, &["--net", "back"]);
    let (back1, back3) = (Ipv4Addr::new(172, 18, 0, 2), Ipv4Addr::new(172, 18, 0, 3));
    Pair::new((&c1, C1), (&c2, C2)).ask();
    Pair::new((&c1, back1), (&c3, back3)).ask();
    assert!(!Pair::new((&c2, C2), (&c3, back3)).reaches(Duration::from_millis(200)), "networks are apart");
    Pair::new((&c3, back3), (&case.world, SERVER)).ask();
    switch.tell(&["detach", "c1", "--ifname", "eth1"]);
    assert_eq!(devices(&c1), ["eth0", "lo"]);
    Pair::new((&c1, C1), (&c2, C2)).ask();
}

fn tap_in(netns: &Netns, address: &str) -> OwnedFd {
    let device = netns.enter(|| Device::open(Kind::Tap, "tap0", Header::Vnet)).expect("a TAP");
    netns.ip(&format!("addr add {address}/16 dev tap0\nlink set tap0 up"));
    device.as_fd().try_clone_to_owned().expect("a descriptor more")
}

fn a_second_name_in_a_namespace_leaves_the_default_route_where_it_is() {
    let case = Case::new();
    let c1 = case.netns("c1");
    let switch = case.switch(&[]);
    switch.tell(&["network", "add", "back", "--subnet", "10.1.0.0/24"]);
    switch.attach("front", &c1, &[]);
    switch.attach("back", &c1, &["--net", "back", "--ifname", "eth1"]);
    let default = || c1.run("ip", &["route", "show", "default"], "").trim().to_owned();
    assert_eq!(default(), "default via 172.17.0.1 dev eth0 proto static");
    Pair::new((&c1, C1), (&case.world, SERVER)).ask();
    switch.tell(&["detach", "back"]);
    assert_eq!(default(), "default via 172.17.0.1 dev eth0 proto static");
    // Where there is none, the first port brings one.
    switch.tell(&["detach", "front"]);
    switch.attach("back", &c1, &["--net", "back", "--ifname", "eth1"]);
    assert_eq!(default(), "default via 10.1.0.1 dev eth1 proto static");
}

fn a_tap_of_somebody_else_is_as_it_was_when_it_is_detached() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    c1.ip("tuntap add dev eth0 mode tap\nlink set dev eth0 mtu 1400\naddr add 203.0.113.9/24 dev eth0");
    let look = || c1.enter(|| netcfg::link("eth0").expect("it is there"));
    let before = look();
    assert!(!before.up && before.addresses.len() == 1, "{before:?}");
    let switch = case.switch(&[]);
    switch.attach("c2", &c2, &["--ip", &C2.to_string()]);
    let attach = || {
        switch.attach("c1", &c1, &["--ip", &C1.to_string()]);
        Pair::new((&c1, C1), (&c2, C2)).ask();
        assert!(look().up);
    };
    attach();
    switch.tell(&["detach", "c1"]);
    assert_eq!(look(), before);
    assert_eq!(c1.run("ip", &["route"], ""), "");
    // And when the switch ends.
    attach();
    switch.signal(Signal::TERM);
    assert_eq!(switch.ended(), 0);
    assert_eq!(look(), before);
}

fn a_brought_tap_lives_as_long_as_its_connection() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c2", &c2, &[]);
    let at = Ipv4Addr::new(172, 17, 0, 9);
    let tap = tap_in(&c1, &at.to_string());
    let bring = |tap: &OwnedFd| -> UnixStream {
        let stream = dial(&switch.control);
        let line =
            r#"{"execute":"attach","arguments":{"name":"c1","tap_fd":true,"ip":"172.17.0.9"}}"#.to_owned() + "\n";
        assert_eq!(msg::send(&stream, line.as_bytes(), &[tap.as_fd()]).expect("sent"), line.len());
        let answer = answer(&stream).expect("an answer");
        assert_eq!(answer["return"]["ip"], "172.17.0.9/16", "{answer}");
        stream
    };
    let stream = bring(&tap);
    let pair = Pair::new((&c2, C1), (&c1, at));
    pair.ask();
    drop(stream);
    within(FREED, "the port is free", || switch.containers() == ["c2"]);
    assert!(!pair.reaches(Duration::from_millis(100)));
    // The device is the owner's still, and may be brought again.
    let _stream = bring(&tap);
    soon("it works again", || pair.reaches(Duration::from_millis(200)));
}

fn the_command_that_brings_a_tap_keeps_it() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c2", &c2, &[]);
    let at = Ipv4Addr::new(172, 17, 0, 9);
    let mut command = case.handing();
    command.args(switch.words(&["attach", "c1", "--tap-fd", "3", "--ip", "172.17.0.9"]));
    command.stdin(tap_in(&c1, &at.to_string()));
    let mut child = command.spawn().expect("sh");
    drop(command);
    soon("it is attached", || switch.containers() == ["c1", "c2"]);
    Pair::new((&c2, C1), (&c1, at)).ask();
    kill_group(&mut child);
    within(FREED, "the port is free", || switch.containers() == ["c2"]);
    assert_eq!(devices(&c1), ["lo"], "nobody holds the TAP any more");
}

fn the_command_that_brings_a_tap_ends_with_its_port() {
    let case = Case::new();
    let c1 = case.netns("c1");
    let switch = case.switch_without_uplink(&[]);
    let ends: [&dyn Fn(); 2] = [
        &|| {
            switch.tell(&["detach", "c1"]);
        },
        &|| c1.ip("link del tap0"),
    ];
    for end in ends {
        let mut command = case.handing();
        command.args(switch.words(&["attach", "c1", "--tap-fd", "3"]));
        command.stdin(tap_in(&c1, "172.17.0.9")).stderr(Stdio::piped());
        let child = command.spawn().expect("sh");
        drop(command);
        soon("it is attached", || switch.containers() == ["c1"]);
        end();
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("pontoon: attach: c1: its port is gone"), "{said}");
    }
}

fn an_inherited_tun_is_the_uplink() {
    let case = Case::new();
    let c1 = case.netns("c1");
    let tun = case.world.enter(|| Device::open(Kind::Tun, "up0", Header::Vnet)).expect("a TUN");
    case.world.ip(&format!("addr add {PEER}/24 dev up0\nlink set up0 up"));
    let mut command = case.handing();
    command.arg("switch").arg("--control").arg(case.control()).args(["--uplink", "tun:address=192.0.2.10,fd=3"]);
    command.stdin(File::from(tun.as_fd().try_clone_to_owned().expect("a descriptor more")));
    let switch = case.started(command);
    switch.attach("c1", &c1, &[]);
    Pair::new((&c1, C1), (&case.world, SERVER)).ask();
}

fn detach_leaves_only_lo() {
    let (case, [c1, c2], switch) = two_and_a_switch();
    switch.tell(&["detach", "c1"]);
    assert_eq!((devices(&c1), devices(&c2)), (vec!["lo".to_owned()], vec!["eth0".to_owned(), "lo".to_owned()]));
    assert_eq!(switch.list("published"), [] as [serde_json::Value; 0]);
    switch.attach("c1", &c1, &["-p", "8080:80"]);
    Pair::new((&c1, C1), (&case.world, SERVER)).ask();
    Pair::new((&c1, C1), (&c2, C2)).ask();
}
