//! The long tier: what takes minutes. `PONTOON_LONG=1 cargo test --test process long`, and docs/long-tier.md keeps what it last said.
//!
//! A row tells its figures in a line; with `PONTOON_WRITE=1` the line is written into the page as well.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::bed::{Case, HOST, SERVER, Switch, status, within};
use super::ns::Netns;
use super::packet::Packet;
use super::relay::Faults;
use super::scale::two_thousand_ports;
use super::siege::{SILENT, Siege, Silent, accepting, never_acknowledging, numbered};
use super::sockets::{descriptors, is_cut};
use super::transfers::{ANY, C1, Opens, behind, exchange, open, pour, stand_still};
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![the_page_has_a_line_for_every_row];

pub const ROWS: &[Claim] = claims![
    a_gigabyte_crosses_a_good_wire,
    a_gigabyte_crosses_one_percent_of_faults,
    a_gigabyte_crosses_five_percent_of_faults,
    readers_that_stand_still_ten_minutes_cost_no_retransmission,
    an_ssh_session_idle_for_ten_minutes_goes_on needs "ssh" "sshd" "ssh-keygen" "unshare",
    a_million_connections_leave_nothing,
    ten_minutes_of_transfers_and_cuts_leave_nothing,
    ten_thousand_connections_that_acknowledge_nothing_are_bounded_and_end needs "python3",
    others_keep_what_a_cpu_burner_would_leave_them needs "python3" "prlimit",
    two_thousand_ports,
];

/// No row takes longer.
pub const PATIENCE: Duration = Duration::from_secs(3600);

const PAGE: &str = "docs/long-tier.md";

fn page() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE)
}

fn the_page_has_a_line_for_every_row() {
    let text = fs::read_to_string(page()).expect("the page");
    let without: Vec<_> = ROWS.iter().filter(|Claim(name, ..)| !text.contains(&format!("| {name} |"))).collect();
    let names: Vec<_> = without.iter().map(|Claim(name, ..)| name).collect();
    assert!(names.is_empty(), "{PAGE} has no line for {names:?}");
}

/// Tells what a row found, and writes it where it is kept if that is asked for.
pub(super) fn record(row: &str, figures: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock();
    let output = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).output().expect("of every system");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let release = output(&["uname", "-r"]);
    // Of the version alone: what a distribution calls its build says nothing here.
    let kernel = release.split('-').next().unwrap_or_default();
    let line = format!("| {row} | {} | {kernel} | {figures} |", output(&["date", "-u", "+%F"]));
    eprintln!("long: {line}");
    if std::env::var_os("PONTOON_WRITE").is_some() {
        let text = fs::read_to_string(page()).expect("the page");
        let lines = text.lines().map(|old| if old.starts_with(&format!("| {row} |")) { line.as_str() } else { old });
        fs::write(page(), lines.collect::<Vec<_>>().join("\n") + "\n").expect("the page can be written");
    }
}

const GIGABYTE: u64 = 1_000_000_000;
/// Timeouts in a row, at the worst.
const SILENCE: Duration = Duration::from_secs(120);

fn gigabyte(row: &str, faults: Faults) {
    let (case, switch, c1, relay) = behind(faults);
    let mut figures = Vec::new();
    for (way, out, back) in [("out", GIGABYTE, 0), ("back", 0, GIGABYTE), ("both at once", GIGABYTE, GIGABYTE)] {
        let (near, far) = open(&case, &c1, Opens::Container, 80, SILENCE);
        let began = Instant::now();
        exchange(&near, &far, out, back);
        figures.push(format!("{way} {:.1} s", began.elapsed().as_secs_f64()));
        assert!(switch.is_running());
        // So that a run that is ended has told something.
        record(row, &format!("{}; {}", figures.join(", "), relay.told()));
    }
}

fn a_gigabyte_crosses_a_good_wire() {
    gigabyte("a_gigabyte_crosses_a_good_wire", Faults::of(0));
}

fn a_gigabyte_crosses_one_percent_of_faults() {
    gigabyte("a_gigabyte_crosses_one_percent_of_faults", Faults::of(1));
}

fn a_gigabyte_crosses_five_percent_of_faults() {
    gigabyte("a_gigabyte_crosses_five_percent_of_faults", Faults::of(5));
}

fn readers_that_stand_still_ten_minutes_cost_no_retransmission() {
    let told = stand_still(Duration::from_secs(600));
    record("readers_that_stand_still_ten_minutes_cost_no_retransmission", &told);
}

fn an_ssh_session_idle_for_ten_minutes_goes_on() {
    super::apps::idle_session(Duration::from_secs(600));
    record(
        "an_ssh_session_idle_for_ten_minutes_goes_on",
        "two sessions, out and by a published port, go on and end well",
    );
}

/// What a switch holds.
#[derive(Debug)]
struct Held {
    descriptors: usize,
    flows: usize,
    resident: u64,
}

impl Held {
    /// When the last TIME_WAIT is over.
    fn at_rest(switch: &Switch) -> Held {
        within(Duration::from_secs(60), "no flow is left", || switch.list("flows").is_empty());
        // One is that of the client who asked just now, for a moment.
        let descriptors = (0..20)
            .map(|_| {
                thread::sleep(Duration::from_millis(20));
                descriptors(switch)
            })
            .min();
        Held { descriptors: descriptors.unwrap_or(0), flows: 0, resident: status(switch.pid(), "VmRSS:") }
    }
}

const PAIRS: u16 = 8;
const PORTS_EACH: u16 = 8;

/// Connections one after the other, `each` by each of eight clients with eight ports, every second pair by published ports.
fn short_connections(case: &Case, c1: &Netns, each: u32) {
    thread::scope(|scope| {
        for pair in 0..PAIRS {
            let (server, client, listens, asks) =
                if pair % 2 == 0 { (&case.world, c1, SERVER, SERVER) } else { (c1, &case.world, C1, HOST) };
            let ports = (8000 + pair * PORTS_EACH..).take(usize::from(PORTS_EACH));
            let listeners: Vec<_> = ports.map(|port| server.listen(SocketAddrV4::new(listens, port))).collect();
            scope.spawn(move || {
                for number in 0..each {
                    let listener = &listeners[number as usize % listeners.len()];
                    let (mut stream, _) =
                        listener.accept_within(SILENCE).unwrap_or_else(|error| panic!("{pair}, {number}: {error}"));
                    let mut heard = [0; 5];
                    stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("{pair}, {number}: {error}"));
                    stream.write_all(&heard).expect("taken");
                    // Each end is the first to go in turn.
                    if number / 8 % 2 == 1 {
                        let _ = stream.read(&mut heard);
                    }
                }
            });
            scope.spawn(move || {
                client.enter(|| {
                    for number in 0..each {
                        let port = 8000 + pair * PORTS_EACH + (number % u32::from(PORTS_EACH)) as u16;
                        let to = SocketAddrV4::new(asks, port).into();
                        let mut stream = TcpStream::connect_timeout(&to, SILENCE)
                            .unwrap_or_else(|error| panic!("{pair}, {number}: {error}"));
                        stream.set_read_timeout(Some(SILENCE)).expect("a socket");
                        stream.write_all(b"hello").expect("taken");
                        let mut heard = [0; 5];
                        stream.read_exact(&mut heard).unwrap_or_else(|error| panic!("{pair}, {number}: {error}"));
                        assert_eq!(&heard, b"hello");
                        if number / 8 % 2 == 0 {
                            assert_eq!(stream.read(&mut heard).expect("the end"), 0);
                        } else {
                            stream.shutdown(Shutdown::Both).expect("connected");
                        }
                    }
                });
            });
        }
    });
}

fn a_million_connections_leave_nothing() {
    let case = Case::new();
    case.connect_host();
    let c1 = case.netns("c1");
    let switch = case.switch_over_sockets(&[]);
    switch.attach("c1", &c1, &["-p", "8000-8063:8000-8063"]);
    // All that is made once, and tables as large as they will be.
    short_connections(&case, &c1, 12_500);
    let before = Held::at_rest(&switch);
    let began = Instant::now();
    short_connections(&case, &c1, 125_000);
    let took = began.elapsed();
    let after = Held::at_rest(&switch);
    assert!(after.descriptors <= before.descriptors, "{before:?} {after:?}");
    // Eight bytes a connection would be seen.
    assert!(after.resident <= before.resident + 8 * 1024, "{before:?} {after:?}");
    record(
        "a_million_connections_leave_nothing",
        &format!(
            "1,000,000 in {:.0} s, half of them by published ports; before: {} descriptors, {} flows, {} KiB; after: {}, {}, {} KiB",
            took.as_secs_f64(),
            before.descriptors,
            before.flows,
            before.resident,
            after.descriptors,
            after.flows,
            after.resident
        ),
    );
}

/// Random sizes over a wire with one percent of faults, every fourth connection cut in the middle; and beside it containers that
/// come and go, and ports that are published and withdrawn.
fn ten_minutes_of_transfers_and_cuts_leave_nothing() {
    let (case, switch, c1, relay) = behind(Faults::of(1));
    let at_first = descriptors(&switch);
    let [done, cut, bytes] = [(); 3].map(|()| AtomicU64::new(0));
    let mut changes = 0;
    let began = Instant::now();
    let last = Duration::from_secs(600);
    let mut before = None;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..6_u16)
            .map(|worker| {
                let (case, c1, done, cut, bytes) = (&case, &c1, &done, &cut, &bytes);
                scope.spawn(move || {
                    let mut dice = 0x1234_5678_9abc_def1_u64 ^ u64::from(worker);
                    let mut roll = |limit: u64| {
                        dice ^= dice << 13;
                        dice ^= dice >> 7;
                        dice ^= dice << 17;
                        (dice >> 8) % limit
                    };
                    while began.elapsed() < last {
                        let who = if roll(2) == 0 { Opens::Container } else { Opens::World };
                        let (near, far) = open(case, c1, who, 8000 + worker, SILENCE);
                        let largest = [roll(24), roll(24)];
                        let [out, back] = largest.map(|bits| 1 + roll(1 << bits));
                        if roll(4) == 0 {
                            let (stays, goes) = if roll(2) == 0 { (&near, far) } else { (&far, near) };
                            cut_in_the_middle(stays, goes);
                            cut.fetch_add(1, Ordering::Relaxed);
                        } else {
                            exchange(&near, &far, out, back);
                            bytes.fetch_add(out + back, Ordering::Relaxed);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        // On this thread, as the switch is its alone.
        for life in 0.. {
            if began.elapsed() > last || workers.iter().any(thread::ScopedJoinHandle::is_finished) {
                break;
            }
            let c2 = case.netns(&format!("c2-{life}"));
            switch.attach("c2", &c2, &["--ip", "172.17.0.3", "-p", "9000-9100:9000-9100"]);
            let echo = c2.udp(SocketAddrV4::new(Ipv4Addr::new(172, 17, 0, 3), 7));
            switch.tell(&["publish", "c2", "7000:7/udp"]);
            let asker = case.world.udp(ANY);
            asker.send("hello", SocketAddrV4::new(HOST, 7000)).expect("sent");
            echo.echo().expect("heard");
            switch.tell(&["detach", "c2"]);
            changes += 1;
            // A minute in, all tables are as large as they will be.
            if before.is_none() && began.elapsed() > Duration::from_secs(60) {
                before = Some(status(switch.pid(), "VmRSS:"));
            }
            thread::sleep(Duration::from_millis(200));
        }
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    let after = Held::at_rest(&switch);
    let [done, cut, bytes] = [done, cut, bytes].map(AtomicU64::into_inner);
    let before = before.expect("it lasted longer than a minute");
    assert!(after.descriptors <= at_first, "{at_first} descriptors, and then {after:?}");
    assert!(after.resident <= before + 16 * 1024, "{before} KiB, and then {after:?}");
    record(
        "ten_minutes_of_transfers_and_cuts_leave_nothing",
        &format!(
            "{done} transfers of {:.2} GB, {cut} cut, {changes} containers came and went; after a minute {before} KiB, at rest {} KiB; {at_first} descriptors, and then {}; {}",
            bytes as f64 / 1e9,
            after.resident,
            after.descriptors,
            relay.told()
        ),
    );
}

/// One end is aborted while the other sends to it: that is an error there, never an end.
fn cut_in_the_middle(stays: &TcpStream, goes: TcpStream) {
    thread::scope(|scope| {
        let sending = scope.spawn(|| pour(stays, 1 << 30));
        let mut start = [0; 10_000];
        (&mut &goes).read_exact(&mut start).expect("the beginning of it");
        sockopt::set_socket_linger(&goes, Some(Duration::ZERO)).expect("a socket");
        drop(goes);
        let error: io::Error = sending.join().expect("no panic").expect_err("it was cut");
        assert!(is_cut(&error) || error.kind() == ErrorKind::NotConnected, "{error}");
    });
}

fn ten_thousand_connections_that_acknowledge_nothing_are_bounded_and_end() {
    let siege = Siege::lay(&["env"]);
    let before = descriptors(&siege.switch);
    let (silent, grown) = never_acknowledging(&siege, 10_000);
    let began = Instant::now();
    let open = || siege.switch.tell(&["flows"]).lines().filter(|line| line.contains("dport=900")).count();
    within(Duration::from_secs(240), "they are given up", || open() == 0);
    let took = began.elapsed();
    within(Duration::from_secs(20), "descriptors are free", || descriptors(&siege.switch) <= before);
    siege.others_go_on();
    drop(silent);
    record(
        "ten_thousand_connections_that_acknowledge_nothing_are_bounded_and_end",
        &format!("{grown} KiB more while 300 kB wait for each; all given up after {:.0} s", took.as_secs_f64()),
    );
}

/// Runs `attack` again and again on a thread, while `measure` is done.
fn beside<R>(attack: impl Fn() + Sync, measure: impl FnOnce() -> R) -> R {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                attack();
            }
        });
        // It is under way.
        thread::sleep(Duration::from_millis(200));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(measure));
        over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn burn() {
    for round in 0..10_000_u64 {
        std::hint::black_box(round.wrapping_mul(round));
    }
}

/// What others keep beside attacks, as parts of what they have beside a thread that burns a CPU.
struct Kept {
    least: f64,
    figures: Vec<String>,
}

impl Kept {
    /// Many short ones: what else runs on the machine changes by the second.
    const PAIRS: usize = 15;
    const EACH: Duration = Duration::from_millis(350);

    /// Medians over pairs of what they have beside the burner, and beside the attack.
    fn add(&mut self, what: &str, pairs: &[[[f64; 2]; 2]]) {
        let median = |at: usize| {
            let mut ratios: Vec<_> = pairs.iter().map(|[burner, attack]| attack[at] / burner[at]).collect();
            ratios.sort_by(f64::total_cmp);
            ratios[ratios.len() / 2]
        };
        let (bulk, connections) = (median(0), median(1));
        self.least = self.least.min(bulk).min(connections);
        self.figures.push(format!("{what}: bulk {bulk:.2}, connections {connections:.2}"));
        eprintln!("long: {}", self.figures.join("; "));
    }

    /// An attack by one thread, in turns with the burner.
    fn beside(&mut self, siege: &Siege, what: &str, attack: impl Fn() + Sync) {
        let both = || {
            [
                beside(burn, || siege.what_the_other_has(Kept::EACH)),
                beside(&attack, || siege.what_the_other_has(Kept::EACH)),
            ]
        };
        let pairs: Vec<_> = (0..Kept::PAIRS).map(|_| both()).collect();
        self.add(what, &pairs);
    }
}

/// Sends these packets from the hostile container as fast as it can, one after the other, 64 a call.
fn flood(siege: &Siege, packets: Vec<Packet>) -> impl Fn() + Sync {
    let (injector, next) = (siege.hostile.injector(), AtomicU64::new(0));
    move || {
        for _ in 0..64 {
            let number = next.fetch_add(1, Ordering::Relaxed) as usize;
            injector.send(&packets[number % packets.len()]);
        }
    }
}

/// The hostile container's kernel knows nothing of what is sent by hand, and must not refuse the answers.
const MUTE: &str = "table ip mute {\n chain out {\n type filter hook output priority 0;\n tcp flags rst drop\n }\n}\n";

fn others_keep_what_a_cpu_burner_would_leave_them() {
    let packets = |make: &dyn Fn(u32) -> Packet| (0..20_000).map(make).collect::<Vec<_>>();
    let from = |number: u32| SocketAddrV4::new(C1, 20_000 + (number % 20_000) as u16);
    let mut kept = Kept { least: f64::INFINITY, figures: Vec::new() };

    let siege = Siege::lay(&["env"]);
    let listener = siege.case.world.listen(SocketAddrV4::new(SERVER, 81));
    let ((near, far), own, to, (seq, ack)) = numbered(&siege);
    siege.hostile.nft(MUTE);
    let syns = |to| packets(&|n| Packet::syn(from(n), to));
    kept.beside(&siege, "SYNs to nobody", flood(&siege, syns(SocketAddrV4::new(SILENT, 80))));
    // The flood that is never completed has to be accepted.
    accepting(&listener, || {
        kept.beside(&siege, "SYNs never completed", flood(&siege, syns(SocketAddrV4::new(SERVER, 81))));
    });
    let acknowledgements = packets(&|_| Packet::syn(own, to).numbered(seq, ack).with_tcp_flags(16));
    kept.beside(&siege, "acknowledgements", flood(&siege, acknowledgements));
    let outside = |n: u32| seq.wrapping_add((4 << 20) + n * 50_000);
    let garbage = packets(&|n| Packet::syn(own, to).numbered(outside(n), ack).with_tcp_flags(24));
    kept.beside(&siege, "garbage outside of the window", flood(&siege, garbage));
    drop((near, far, siege));

    // It has all the descriptors that one may have, and asks for more.
    let siege = Siege::lay(&["prlimit", "--nofile=512:512"]);
    let held = siege.all_that_one_may_have();
    siege.hostile.nft(MUTE);
    kept.beside(&siege, "SYNs without a descriptor", flood(&siege, syns(SocketAddrV4::new(SERVER, 84))));
    drop((held, siege));

    // They need no thread: the burner is beside both. That the kernel holds 30,000 sockets full of data is no switch's doing, so
    // what it costs is on both sides as well: the other side is a switch without them.
    let [calm, siege] = [(); 2].map(|()| Siege::lay(&["env"]));
    let silent = Silent::receive(&siege, 10_000);
    let both = || [&calm, &siege].map(|siege| beside(burn, || siege.what_the_other_has(Kept::EACH)));
    let pairs: Vec<_> = (0..Kept::PAIRS).map(|_| both()).collect();
    kept.add("10,000 connections that acknowledge nothing", &pairs);
    drop(silent);

    let Kept { least, figures } = kept;
    assert!(least >= 0.85, "asked for: 0.85; {}", figures.join("; "));
    record(
        "others_keep_what_a_cpu_burner_would_leave_them",
        &format!(
            "least {least:.2} of 0.85 asked; medians of {} pairs, one thread each: {}",
            Kept::PAIRS,
            figures.join("; ")
        ),
    );
}
