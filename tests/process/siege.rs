//! A hostile container on an uplink over sockets: floods, silence and garbage. The others go on, what is held has a bound, each
//! loss has a reason at the port of its cause, and the log has a line for it, once.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::apps::script_path;
use super::bed::{Case, HOST, PROGRAM, SERVER, Switch, received, soon, status, within};
use super::ns::{Listener, Netns, kill_group, say};
use super::packet::{Names, Packet};
use super::programs::program;
use super::sockets::descriptors;
use super::transfers::exchange;
use super::wire::{View, Wire};
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    a_flood_of_syns_to_nobody_gives_way_to_itself,
    a_flood_of_syns_that_are_never_completed_gives_way_to_itself,
    a_thousand_connections_that_acknowledge_nothing_are_bounded needs "python3",
    a_storm_of_acknowledgements_is_not_amplified,
    garbage_outside_of_the_window_changes_nothing,
    one_container_does_not_take_the_last_descriptor needs "prlimit",
];

pub(super) const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
pub(super) const C2: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 3);
/// Beyond, where nobody answers.
pub(super) const SILENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);
const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
const PATIENCE: Duration = Duration::from_secs(10);

/// A hostile container, and another one that has a published port.
pub(super) struct Siege {
    pub case: Case,
    pub switch: Switch,
    pub hostile: Netns,
    pub other: Netns,
    /// What the other one calls, and where the world's calls to it end.
    beyond: Listener,
    inside: Listener,
}

impl Siege {
    /// The switch is started by `words` and what follows.
    pub fn lay(words: &[&str]) -> Siege {
        let case = Case::new();
        case.connect_host();
        case.world.sysctl("ipv4.ip_forward", "1");
        case.world.ip(&format!("route add blackhole {SILENT}/32"));
        let [hostile, other] = ["hostile", "other"].map(|name| case.netns(name));
        let mut words = words.to_vec();
        words.extend([PROGRAM, "switch", "--uplink", "sockets", "--control"]);
        let mut command = case.host.command(super::sandbox::find(words[0]).unwrap_or_else(|| words[0].into()));
        command.args(&words[1..]).arg(case.control()).stdin(Stdio::null());
        command.stderr(fs::File::create(case.directory.join("log")).expect("ours"));
        let switch = case.started(command);
        switch.attach("hostile", &hostile, &["--ip", &C1.to_string()]);
        switch.attach("other", &other, &["--ip", &C2.to_string(), "-p", "8080:80"]);
        let beyond = case.world.listen(SocketAddrV4::new(SERVER, 80));
        let inside = other.listen(SocketAddrV4::new(C2, 80));
        Siege { case, switch, hostile, other, beyond, inside }
    }

    /// Bytes a second of the other container's to the world in one stream, and connections a second with a byte there and back.
    pub fn what_the_other_has(&self, during: Duration) -> [f64; 2] {
        let to = SocketAddrV4::new(SERVER, 80);
        let dial = || {
            let near = self.other.connect(ANY, to, PATIENCE).expect("connected");
            (near, self.beyond.accept_within(PATIENCE).expect("connected").0)
        };
        let (near, mut far) = dial();
        far.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let bulk = thread::scope(|scope| {
            scope.spawn(move || {
                let (page, began) = (vec![7; 262_144], Instant::now());
                while began.elapsed() < during && (&mut &near).write(&page).is_ok() {}
            });
            let (mut buffer, mut total, began) = (vec![0; 262_144], 0, Instant::now());
            loop {
                match far.read(&mut buffer).expect("received") {
                    0 => break total as f64 / began.elapsed().as_secs_f64(),
                    length => total += length,
                }
            }
        });
        let (began, mut count, beyond) = (Instant::now(), 0, &self.beyond);
        self.other.enter(|| {
            while began.elapsed() < during {
                let mut near = TcpStream::connect(to).expect("connected");
                near.set_read_timeout(Some(PATIENCE)).expect("a socket");
                near.write_all(b"?").expect("taken");
                let mut far = beyond.accept_within(PATIENCE).expect("connected").0;
                far.read_exact(&mut [0]).expect("received");
                far.write_all(b"!").expect("taken");
                near.read_exact(&mut [0]).expect("received");
                // Ended by a reset: thousands in TIME_WAIT would leave the kernels no ports, whatever the switch does.
                sockopt::set_socket_linger(&far, Some(Duration::ZERO)).expect("a socket");
                drop(far);
                count += 1;
            }
        });
        [bulk, f64::from(count) / began.elapsed().as_secs_f64()]
    }

    /// New connections of the other container, both ways, carry data.
    pub fn others_go_on(&self) {
        for (client, listener, to) in [
            (&self.other, &self.beyond, SocketAddrV4::new(SERVER, 80)),
            (&self.case.world, &self.inside, SocketAddrV4::new(HOST, 8080)),
        ] {
            let near = client.connect(ANY, to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"));
            let far = listener.accept_within(PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}")).0;
            for stream in [&near, &far] {
                stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
                stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
            }
            exchange(&near, &far, 500_000, 500_000);
        }
    }

    /// What was dropped for `reason` was the hostile one's, and the log has one line for it.
    fn counted_and_told_once(&self, reason: &str) {
        soon(reason, || self.switch.drops("hostile", reason) > 0);
        assert_eq!(self.switch.drops("other", reason), 0, "{reason} at the other");
        let log = fs::read_to_string(self.case.directory.join("log")).expect("ours");
        let lines: Vec<_> = log.lines().filter(|line| line.contains(reason)).collect();
        assert_eq!(lines.len(), 1, "{reason}: {lines:#?}");
    }

    /// Connections of the hostile container until it is refused more, with a small RLIMIT_NOFILE; and who listens for them.
    pub fn all_that_one_may_have(&self) -> (Listener, Vec<(TcpStream, TcpStream)>) {
        let to = SocketAddrV4::new(SERVER, 84);
        let listener = self.case.world.listen(to);
        let mut held = Vec::new();
        while self.switch.drops("hostile", "no-socket") < 3 {
            // A SYN that is refused is silence, which only the switch can tell from one that is slow.
            if let Ok(stream) = self.hostile.connect(ANY, to, Duration::from_millis(300)) {
                held.push((stream, listener.accept().expect("connected").0));
            }
            assert!(held.len() < 512, "more than there are descriptors");
        }
        (listener, held)
    }

    /// A connection of the hostile container, and its other end.
    fn connection(&self, port: u16) -> (TcpStream, TcpStream) {
        let listener = self.case.world.listen(SocketAddrV4::new(SERVER, port));
        let near = self.hostile.connect(ANY, SocketAddrV4::new(SERVER, port), PATIENCE).expect("connected");
        (near, listener.accept_within(PATIENCE).expect("connected").0)
    }
}

/// A SYN flood from the hostile container, from more ports than may be half-open at once.
pub(super) fn syns(siege: &Siege, to: SocketAddrV4, count: u32) {
    let flood = siege.hostile.injector();
    for number in 0..count {
        flood.send(&Packet::syn(SocketAddrV4::new(C1, 1024 + (number % 60_000) as u16), to));
        if number % 500 == 0 {
            // What the switch does not read in time is lost at the device's queue, and would not be an attack.
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Accepts whatever comes, on a thread, while `action` is done.
pub(super) fn accepting(listener: &Listener, action: impl FnOnce()) {
    /// Also when `action` panics.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = listener.accept_within(Duration::from_millis(100));
            }
        });
        let _over = Over(&over);
        action();
    });
}

/// Connections that wait for a host that does not answer.
fn a_flood_of_syns_to_nobody_gives_way_to_itself() {
    flooded(SocketAddrV4::new(SILENT, 80));
}

/// Connections of which the container says nothing more once they are answered.
fn a_flood_of_syns_that_are_never_completed_gives_way_to_itself() {
    flooded(SocketAddrV4::new(SERVER, 81));
}

fn flooded(to: SocketAddrV4) {
    let siege = Siege::lay(&["env"]);
    // Somebody listens, and accepts: a full backlog would make it the other flood.
    let listener = siege.case.world.listen(SocketAddrV4::new(SERVER, 81));
    siege.others_go_on();
    // Its kernel knows nothing of what is sent by hand, and must not refuse the answers.
    let mute = "table ip mute {\n chain out {\n type filter hook output priority 0;\n tcp flags rst drop\n }\n}\n";
    siege.hostile.nft(mute);
    let (before, memory) = (descriptors(&siege.switch), status(siege.switch.pid(), "VmRSS:"));
    accepting(&listener, || {
        for _ in 0..4 {
            syns(&siege, to, 5000);
            siege.others_go_on();
        }
    });
    siege.counted_and_told_once("half-open-limit");
    let (after, grown) = (descriptors(&siege.switch), status(siege.switch.pid(), "VmRSS:").saturating_sub(memory));
    // Half-open connections of a container are 512 at most.
    assert!(after <= before + 512 + 64, "{before} descriptors, and then {after}");
    assert!(grown < 16 * 1024, "{grown} KiB more");
    siege.others_go_on();
}

fn a_thousand_connections_that_acknowledge_nothing_are_bounded() {
    let siege = Siege::lay(&["env"]);
    let (_silent, grown) = never_acknowledging(&siege, 1000);
    eprintln!("process: a thousand connections that acknowledge nothing cost {grown} KiB");
}

/// So many connections, all of which are answered with more than is ever acknowledged.
pub(super) struct Silent {
    near: Vec<TcpStream>,
    world: Child,
}

impl Silent {
    pub fn receive(siege: &Siege, count: usize) -> Silent {
        let script = script_path("pour.py");
        let words = [script.to_str().expect("UTF-8"), "9000", "4", "300000"];
        let mut world = program(&siege.case.world, "python3", &words);
        let mut world = world.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        within(PATIENCE, "it listens", || siege.case.world.run("ss", &["-tln"], "").contains(":9003"));
        let near = (0..count)
            .map(|number| {
                let to = SocketAddrV4::new(SERVER, 9000 + (number % 4) as u16);
                siege.hostile.connect(ANY, to, PATIENCE).unwrap_or_else(|error| panic!("{number}: {error}"))
            })
            .collect();
        let deaf =
            "table ip deaf {\n chain out {\n type filter hook output priority 0;\n ip protocol tcp drop\n }\n}\n";
        siege.hostile.nft(deaf);
        world.stdin.as_mut().expect("piped").write_all(b"now\n").expect("it runs");
        let mut told = String::new();
        BufReader::new(world.stdout.as_mut().expect("piped")).read_line(&mut told).expect("it tells");
        // The last ones may still wait to be accepted: they are silent as well.
        assert!(told.trim().parse::<usize>().expect("a number") + 64 > count, "{told} of {count}");
        Silent { near, world }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.near.clear();
        kill_group(&mut self.world);
    }
}

/// What so many of them cost at the most, KiB.
pub(super) fn never_acknowledging(siege: &Siege, count: usize) -> (Silent, u64) {
    siege.others_go_on();
    let memory = status(siege.switch.pid(), "VmRSS:");
    let silent = Silent::receive(siege, count);
    let mut grown = 0;
    for _ in 0..4 {
        siege.others_go_on();
        grown = grown.max(status(siege.switch.pid(), "VmRSS:").saturating_sub(memory));
        thread::sleep(Duration::from_millis(400));
    }
    // 64 MiB a container for data to it and what its allocator makes of them, and what a flow is by itself.
    assert!(grown < 80 * 1024 + count as u64 * 4, "{grown} KiB more for {count}");
    (silent, grown)
}

/// A connection of which both sides' numbers are known: the next of the container, and the next of the switch.
pub(super) fn numbered(siege: &Siege) -> ((TcpStream, TcpStream), SocketAddrV4, SocketAddrV4, (u32, u32)) {
    let wire = Wire::open(&siege.hostile, "eth0", View::Incoming, Names::default());
    let (near, far) = siege.connection(82);
    let answer = wire.wait(&["tcp"]).expect("a SYN-ACK");
    let word = |at: usize| u32::from_be_bytes(answer.bytes[at..at + 4].try_into().expect("four bytes"));
    let numbers = (word(42), word(38).wrapping_add(1));
    let std::net::SocketAddr::V4(own) = near.local_addr().expect("connected") else { panic!("not IPv4") };
    ((near, far), own, SocketAddrV4::new(SERVER, 82), numbers)
}

fn a_storm_of_acknowledgements_is_not_amplified() {
    let siege = Siege::lay(&["env"]);
    let ((near, far), own, to, (seq, ack)) = numbered(&siege);
    let flood = siege.hostile.injector();
    const COUNT: u64 = 20_000;
    let before = received(&siege.hostile);
    for number in 0..COUNT as u32 {
        // The same again and again; and every fourth of something that was never sent.
        let ack = if number % 4 == 0 { ack.wrapping_add(1_000_000 + number) } else { ack };
        flood.send(&Packet::syn(own, to).numbered(seq, ack).with_tcp_flags(16));
        if number % 5000 == 0 {
            siege.others_go_on();
        }
    }
    siege.others_go_on();
    let answers = received(&siege.hostile) - before;
    eprintln!("process: {COUNT} acknowledgements were answered by {answers} frames");
    // RFC 5961 5.2: those of what was never sent are answered, and no others.
    assert!(answers <= COUNT / 4 + 100, "{answers} answers");
    say(&near, &far, "still here").expect("heard");
    say(&far, &near, "and back").expect("heard");
}

fn garbage_outside_of_the_window_changes_nothing() {
    let siege = Siege::lay(&["env"]);
    let ((near, far), own, to, (seq, ack)) = numbered(&siege);
    let flood = siege.hostile.injector();
    let mut dice = 0x1234_5678_9abc_def1_u64;
    let mut roll = || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice >> 16) as u32
    };
    for number in 0..20_000 {
        // Beyond any window, or long before it; any flags but those of a SYN, whose answer is the same.
        let outside = seq.wrapping_add((4 << 20) + roll() % (1 << 31));
        let flags = [16, 17, 4, 20, 24, 1, 0, 18][roll() as usize % 8];
        flood.send(&Packet::syn(own, to).numbered(outside, ack).with_tcp_flags(flags));
        if number % 5000 == 0 {
            siege.others_go_on();
        }
    }
    siege.others_go_on();
    soon("it is counted", || siege.switch.drops("hostile", "invalid-state") > 0);
    assert_eq!(siege.switch.drops("other", "invalid-state"), 0);
    say(&near, &far, "still here").expect("heard");
    say(&far, &near, "and back").expect("heard");
}

/// Small RLIMIT_NOFILE.
fn one_container_does_not_take_the_last_descriptor() {
    let siege = Siege::lay(&["prlimit", "--nofile=512:512"]);
    siege.others_go_on();
    let (near, far) = siege.connection(83);
    let (_listener, held) = siege.all_that_one_may_have();
    assert!(held.len() > 100, "{} connections of 512 descriptors", held.len());
    siege.counted_and_told_once("no-socket");
    // Old ones go on, and new ones of others begin.
    say(&near, &far, "still here").expect("heard");
    for _ in 0..5 {
        siege.others_go_on();
    }
    drop(held);
    // The hostile container cannot say that they ended; the world could.
    within(PATIENCE, "descriptors are free again", || {
        siege.hostile.connect(ANY, SocketAddrV4::new(SERVER, 84), Duration::from_millis(300)).is_ok()
    });
}
