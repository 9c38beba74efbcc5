//! A process that stands still for a while, a client that does not read, a helper that is gone.

use std::fs::{self, File};
use std::io::{Write, pipe};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use super::bed::{Case, Pair, SERVER, Said, dial, soon, status};
use super::ns::say;
use super::refusals::refused;
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    connections_survive_a_stopped_switch,
    frames_that_waited_arrive_in_their_order,
    a_client_that_reads_nothing_delays_nobody,
    a_standard_error_that_nobody_reads_stops_nothing,
    a_start_that_fails_ends_though_nobody_reads_why,
    a_crowd_of_clients_is_told_once,
    a_ready_fd_that_nobody_reads_ends_it_with_a_line,
    without_its_helper_an_attach_says_so_and_traffic_goes_on,
    at_rest_nobody_wakes_up needs "sleep",
];

const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);

// S26
fn connections_survive_a_stopped_switch() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c1", &c1, &[]);
    switch.attach("c2", &c2, &[]);
    let mut pairs = Vec::new();
    for (netns, address) in [(&c2, C2), (&case.world, SERVER)] {
        let listener = netns.listen(SocketAddrV4::new(address, 80));
        let near = c1.connect(SocketAddrV4::new(C1, 0), SocketAddrV4::new(address, 80), Duration::from_secs(2));
        let near = near.expect("connected");
        pairs.push((near, listener.accept().expect("connected").0));
    }
    switch.signal(Signal::STOP);
    for (near, _) in &pairs {
        (&mut &*near).write_all(b"while it stands still").expect("taken by the socket");
    }
    thread::sleep(Duration::from_secs(2));
    switch.signal(Signal::CONT);
    for (near, far) in &pairs {
        let mut heard = [0; 21];
        far.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        std::io::Read::read_exact(&mut &*far, &mut heard).expect("it arrives after all");
        say(far, near, "and back").expect("heard");
    }
}

/// Short frames are written together and long ones at once; none may overtake another.
fn frames_that_waited_arrive_in_their_order() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&["--mtu", "9000"]);
    switch.attach("c1", &c1, &[]);
    switch.attach("c2", &c2, &[]);
    let from = c1.udp(SocketAddrV4::new(C1, 0));
    let to = c2.udp(SocketAddrV4::new(C2, 4000));
    let there = SocketAddrV4::new(C2, 4000);
    from.send("so that neighbours are known", there).expect("sent");
    to.recv().expect("it arrives");
    switch.signal(Signal::STOP);
    let text = |number: usize| format!("{number:0len$}", len = if number.is_multiple_of(3) { 5000 } else { 5 });
    for number in 0..40 {
        from.send(&text(number), there).expect("sent");
    }
    switch.signal(Signal::CONT);
    for number in 0..40 {
        assert_eq!(to.recv().expect("it arrives after all").0, text(number));
    }
}

fn a_client_that_reads_nothing_delays_nobody() {
    let case = Case::new();
    let [c1, c2] = ["c1", "c2"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c1", &c1, &[]);
    switch.attach("c2", &c2, &[]);
    // Some thousand flows, so that their listing is longer than any socket's buffer.
    let sender = c1.udp(SocketAddrV4::new(C1, 4000));
    for port in 10_000..16_000 {
        let _ = sender.send("a flow", SocketAddrV4::new(SERVER, port));
        if port % 200 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    soon("the flows are there", || switch.list("flows").len() > 4000);
    let before = status(switch.pid(), "VmRSS:");
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let mut stream = dial(&switch.control);
        let requests = b"{\"execute\":\"flows\"}\n".repeat(500);
        stream.set_nonblocking(true).expect("a socket");
        // As many as are taken.
        let _ = stream.write_all(&requests);
        deaf.push(stream);
    }
    let pair = Pair::new((&c1, C1), (&c2, C2));
    for _ in 0..20 {
        pair.ask();
        switch.tell(&["stats"]);
    }
    let grown = status(switch.pid(), "VmRSS:").saturating_sub(before);
    assert!(grown < 16 * 1024, "ten deaf clients cost {grown} KiB");
}

/// Leaves no room in a pipe for as much as a byte.
fn fill(writer: impl AsFd) {
    let flags = rustix::fs::fcntl_getfl(&writer).expect("a pipe");
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).expect("a pipe");
    for len in [4096, 1] {
        while rustix::io::write(&writer, &vec![b'.'; len]).is_ok() {}
    }
    rustix::fs::fcntl_setfl(&writer, flags).expect("a pipe");
}

fn a_standard_error_that_nobody_reads_stops_nothing() {
    let case = Case::new();
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
    let (reader, writer) = pipe().expect("a pipe");
    fill(&writer);
    let mut command = case.switch_command(&[]);
    command.stderr(Stdio::from(writer));
    let switch = case.started(command);
    for (name, netns) in [("c1", &c1), ("c2", &c2), ("c3", &c3)] {
        switch.attach(name, netns, &[]);
    }
    let pair = Pair::new((&c1, C1), (&c2, C2));
    pair.ask();
    c3.ip("link del eth0");
    soon("the port is gone", || switch.containers() == ["c1", "c2"]);
    pair.ask();
    Pair::new((&c1, C1), (&case.world, SERVER)).ask();
    for _ in 0..300 {
        drop(dial(&switch.control));
    }
    pair.ask();
    switch.tell(&["detach", "c2"]);
    switch.signal(Signal::TERM);
    assert_eq!(switch.ended(), 0);
    drop(reader);
}

fn a_start_that_fails_ends_though_nobody_reads_why() {
    let case = Case::new();
    let (reader, writer) = pipe().expect("a pipe");
    fill(&writer);
    for options in [&["--config", "/run/none.toml"][..], &["--uplink", "carrier-pigeon"], &["--subnet", "224.0.0.0/8"]]
    {
        let mut command = case.switch_command(&[]);
        command.args(options).stderr(writer.try_clone().expect("a copy"));
        let switch = case.failing(command);
        assert_ne!(switch.ended(), 0, "{options:?}");
    }
    drop(reader);
}

fn a_crowd_of_clients_is_told_once() {
    let case = Case::new();
    let path = case.directory.join("stderr");
    let mut command = case.switch_command(&[]);
    command.stderr(Stdio::from(File::create(&path).expect("ours")));
    let switch = case.started(command);
    let crowd: Vec<_> = (0..200).map(|_| dial(&switch.control)).collect();
    switch.tell(&["stats"]);
    switch.signal(Signal::TERM);
    assert_eq!(switch.ended(), 0);
    drop(crowd);
    let said = fs::read_to_string(&path).expect("ours");
    let told = said.lines().filter(|line| line.contains("silent for longest")).count();
    assert_eq!(told, 1, "{said}");
    assert!(said.contains("a signal asks for the end"), "what was said last is written before the end: {said}");
}

fn a_ready_fd_that_nobody_reads_ends_it_with_a_line() {
    let case = Case::new();
    let (reader, writer) = pipe().expect("a pipe");
    fill(&writer);
    let mut command = case.handing();
    let control = case.control();
    command.args(["switch", "--uplink", "none", "--ready-fd", "4", "--control"]).arg(&control);
    command.stdin(Stdio::null()).stdout(Stdio::from(writer));
    let said = Said::by(command);
    refused(&["--ready-fd 4"], &said, 1, &["--ready-fd", "full"]);
    assert!(!control.exists());
    drop(reader);
}

fn without_its_helper_an_attach_says_so_and_traffic_goes_on() {
    let case = Case::new();
    let [c1, c2, c3] = ["c1", "c2", "c3"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("c1", &c1, &[]);
    switch.attach("c2", &c2, &[]);
    let helpers = switch.helpers();
    assert_eq!(helpers.len(), 1);
    kill_process(helpers[0], Signal::KILL).expect("ours");
    let p3 = c3.path().display().to_string();
    for _ in 0..2 {
        let said = switch.say(&["attach", "c3", "--netns", &p3]);
        assert_eq!(said.status, Some(1));
        assert!(said.err.contains("helper") && said.err.contains("restart"), "{}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    }
    assert_eq!(switch.containers(), ["c1", "c2"]);
    Pair::new((&c1, C1), (&c2, C2)).ask();
    Pair::new((&c1, C1), (&case.world, SERVER)).ask();
    switch.tell(&["detach", "c2"]);
    switch.tell(&["inspect", "c1"]);
    switch.signal(Signal::TERM);
    assert_eq!(switch.ended(), 0);
    assert_eq!(super::bed::devices(&c1), ["lo"]);
}

fn at_rest_nobody_wakes_up() {
    let case = Case::new();
    let [c1, c2, by_path] = ["c1", "c2", "by-path"].map(|name| case.netns(name));
    let switch = case.switch(&[]);
    switch.attach("by-path", &by_path, &["--ip", "172.17.0.9"]);
    let mut sleepers = Vec::new();
    for (name, netns) in [("c1", &c1), ("c2", &c2)] {
        let sleeper = netns.command("sleep").arg("60").spawn().expect("sleep");
        switch.tell(&["attach", name, "--pid", &sleeper.id().to_string()]);
        sleepers.push(sleeper);
    }
    Pair::new((&c1, C1), (&c2, C2)).ask();
    let switches = || -> Vec<u64> {
        let mut all = Vec::new();
        for pid in switch.processes() {
            let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).expect("it runs");
            for task in tasks.flatten() {
                let text = fs::read_to_string(task.path().join("status")).expect("it runs");
                let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                all.push(line.and_then(|line| line.trim().parse().ok()).expect("a number"));
            }
        }
        all
    };
    // What is in the air comes down: ARP checks of the kernels (five seconds after a first use), announcements.
    thread::sleep(Duration::from_secs(7));
    let before = switches();
    assert!(before.len() >= 3, "datapath, control and helper: {before:?}");
    thread::sleep(Duration::from_secs(3));
    assert_eq!(switches(), before, "voluntary context switches of each thread over three seconds");
    for mut sleeper in sleepers {
        super::ns::kill_group(&mut sleeper);
    }
}
