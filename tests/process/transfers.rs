//! Bytes over host sockets, counted and compared: over wires that lose, repeat and reorder, to readers that are slow or stand still,
//! by links that are narrow or long.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::bed::{Case, HOST, SERVER, Switch, soon};
use super::ns::Netns;
use super::relay::{Faults, Relay};
use super::{Claim, claims};

pub const CLAIMS: &[Claim] = claims![
    every_size_crosses_a_good_wire,
    one_percent_of_faults_changes_no_byte,
    one_percent_of_faults_in_small_frames_changes_no_byte,
    five_percent_of_faults_change_no_byte,
    five_percent_of_faults_in_small_frames_change_no_byte,
    a_wire_of_a_hundred_milliseconds_is_crossed,
    tiny_windows_are_crossed,
    segments_of_88_bytes_are_crossed,
    what_the_way_beyond_the_host_loses_changes_no_byte needs "nft",
    a_narrow_link_behind_the_host_costs_no_retransmission needs "tc",
    a_narrow_link_behind_the_container_starves_neither_of_two needs "tc",
    readers_that_are_slow_or_stand_still_cost_no_retransmission,
];

pub(super) const C1: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
pub(super) const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// A counting ramp. Its period is prime, so that no piece of a power of two, nor of a segment's size, fits where another belongs.
const PERIOD: u64 = 251;
static RAMP: LazyLock<Vec<u8>> = LazyLock::new(|| (0..262_144 + PERIOD).map(|place| (place % PERIOD) as u8).collect());

/// Writes the ramp from its beginning, and then the end.
pub(super) fn pour(stream: &TcpStream, total: u64) -> io::Result<()> {
    begin(stream, total)?;
    stream.shutdown(Shutdown::Write)
}

/// Writes the ramp from its beginning, after which there is no end yet.
fn begin(mut stream: &TcpStream, total: u64) -> io::Result<()> {
    let mut done = 0;
    while done < total {
        let start = (done % PERIOD) as usize;
        let piece = (total - done).min(262_144) as usize;
        done += stream.write(&RAMP[start..start + piece])? as u64;
    }
    Ok(())
}

/// Reads the ramp to its end; how long it was. Panics at the first byte that is another.
fn drain(stream: &TcpStream) -> io::Result<u64> {
    read_ramp(stream, 0, u64::MAX)
}

/// Reads the ramp from a place of it until another or its end; where that was.
fn read_ramp(mut stream: &TcpStream, from: u64, until: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 262_144];
    let mut done = from;
    while done < until {
        let room = (until - done).min(262_144) as usize;
        let length = stream.read(&mut buffer[..room])?;
        if length == 0 {
            break;
        }
        let start = (done % PERIOD) as usize;
        assert!(buffer[..length] == RAMP[start..start + length], "another byte after {done}, within {length}");
        done += length as u64;
    }
    Ok(done)
}

/// Sends so many bytes each way at once, and compares them.
pub(super) fn exchange(near: &TcpStream, far: &TcpStream, out: u64, back: u64) {
    thread::scope(|scope| {
        let ways = [("out", near, far, out), ("back", far, near, back)].map(|(way, from, to, total)| {
            let pouring = scope.spawn(move || pour(from, total));
            let draining = scope.spawn(move || drain(to));
            (way, total, pouring, draining)
        });
        for (way, total, pouring, draining) in ways {
            pouring.join().expect("no panic").unwrap_or_else(|error| panic!("{way}, sending {total}: {error}"));
            let heard = draining.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert_eq!(heard.unwrap_or_else(|error| panic!("{way}, receiving {total}: {error}")), total, "{way}");
        }
    });
}

/// Whoever opens the connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Opens {
    Container,
    World,
}

/// A connection: the container's end and the world's.
pub(super) fn open(case: &Case, c1: &Netns, who: Opens, port: u16, patience: Duration) -> (TcpStream, TcpStream) {
    let at = SocketAddrV4::new;
    let (listening, listens, asking, asked) = match who {
        Opens::Container => (&case.world, at(SERVER, port), c1, at(SERVER, port)),
        Opens::World => (c1, at(C1, port), &case.world, at(HOST, port)),
    };
    let listener = listening.listen(listens);
    let asking = asking.connect(ANY, asked, patience).unwrap_or_else(|error| panic!("{who:?} {port}: {error}"));
    let accepted = listener.accept_within(patience).unwrap_or_else(|error| panic!("{who:?} {port}: {error}")).0;
    for stream in [&asking, &accepted] {
        stream.set_read_timeout(Some(patience)).expect("a socket");
        stream.set_write_timeout(Some(patience)).expect("a socket");
    }
    match who {
        Opens::Container => (asking, accepted),
        Opens::World => (accepted, asking),
    }
}

/// A switch over sockets and a container behind a wire, its ports 8000 to 8009 published.
pub(super) fn behind(faults: Faults) -> (Case, Switch, Netns, Relay) {
    let case = Case::new();
    case.connect_host();
    let switch = case.switch_over_sockets(&[]);
    let (c1, relay) = Relay::attach(&case, &switch, "c1", C1, faults);
    switch.tell(&["publish", "c1", "8000-8009:8000-8009"]);
    (case, switch, c1, relay)
}

/// How long a connection over a bad wire may be silent: some timeouts in a row, each twice the last.
const SILENCE: Duration = Duration::from_secs(20);

/// Each of `sizes` out, back and both, by connections of either side.
fn sizes_cross(faults: Faults, sizes: &[u64]) {
    let (case, _switch, c1, relay) = behind(faults);
    let began = Instant::now();
    for &size in sizes {
        for who in [Opens::Container, Opens::World] {
            for (out, back) in [(size, 0), (0, size), (size, size)] {
                let (near, far) = open(&case, &c1, who, 8000, SILENCE);
                exchange(&near, &far, out, back);
            }
        }
    }
    eprintln!("process: {} % of faults, {:?}: {}", faults.percent, began.elapsed(), relay.told());
    assert!(faults.percent == 0 || relay.faults() > 0, "the wire was a good one: {}", relay.told());
}

fn every_size_crosses_a_good_wire() {
    sizes_cross(Faults::of(0), &[0, 1, 2, 250, 251, 1447, 1448, 1449, 65_535, 65_536, 1_000_003, 8 << 20]);
}

fn one_percent_of_faults_changes_no_byte() {
    sizes_cross(Faults::of(1), &[1, 65_537, 8 << 20]);
}

fn one_percent_of_faults_in_small_frames_changes_no_byte() {
    sizes_cross(Faults::of(1).plain(), &[1, 65_537, 1 << 20]);
}

fn five_percent_of_faults_change_no_byte() {
    sizes_cross(Faults::of(5), &[1, 65_537, 2 << 20]);
}

fn five_percent_of_faults_in_small_frames_change_no_byte() {
    sizes_cross(Faults::of(5).plain(), &[1, 65_537, 256 << 10]);
}

fn a_wire_of_a_hundred_milliseconds_is_crossed() {
    let there = Duration::from_millis(50);
    sizes_cross(Faults::of(0).delayed(there), &[1, 1 << 20]);
}

/// A connection whose ends have receive buffers of the least size that the kernel gives.
fn tiny_windows_are_crossed() {
    let (case, _switch, c1, _relay) = behind(Faults::of(0));
    let listener = case.world.listen(SocketAddrV4::new(SERVER, 80));
    let near = c1
        .enter(|| rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None))
        .expect("a socket");
    sockopt::set_socket_recv_buffer_size(&near, 1).expect("clamped");
    rustix::net::connect(&near, &SocketAddr::from((SERVER, 80))).expect("connected");
    let near = TcpStream::from(near);
    let far = listener.accept().expect("connected").0;
    sockopt::set_socket_recv_buffer_size(&far, 1).expect("clamped");
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(SILENCE)).expect("a socket");
        stream.set_write_timeout(Some(SILENCE)).expect("a socket");
    }
    exchange(&near, &far, 200_003, 200_003);
}

fn segments_of_88_bytes_are_crossed() {
    let (case, _switch, c1, _relay) = behind(Faults::of(0));
    c1.ip(&format!("route replace default via {} advmss 88", super::bed::GATEWAY));
    for who in [Opens::Container, Opens::World] {
        let (near, far) = open(&case, &c1, who, 8000, SILENCE);
        let told = c1.run("ss", &["-tin"], "");
        // Less the twelve bytes of timestamps.
        assert!(told.contains("advmss:76"), "{told}");
        exchange(&near, &far, 1_000_003, 1_000_003);
    }
}

/// Each way one frame of a hundred: the host's own TCP sends it again, and neither end hears of it.
fn what_the_way_beyond_the_host_loses_changes_no_byte() {
    let (case, _switch, c1, relay) = behind(Faults::of(0));
    let ends = [(&case.host, "out0"), (&case.world, "in0")];
    for (netns, device) in ends {
        // Frames of the MTU, so that there are many to lose.
        netns.ip(&format!("link set {device} gso_max_segs 1"));
        netns.nft(&format!(
            "table inet lossy {{\ncounter lost {{}}\nchain in {{\ntype filter hook input priority 0;\n\
             iifname {device} meta l4proto tcp numgen random mod 100 < 1 counter name lost drop\n}}\n}}\n"
        ));
    }
    for who in [Opens::Container, Opens::World] {
        let (near, far) = open(&case, &c1, who, 8000, SILENCE);
        exchange(&near, &far, 4 << 20, 4 << 20);
    }
    for (netns, device) in ends {
        let told = netns.run("nft", &["list", "counter", "inet", "lossy", "lost"], "");
        let lost = told.split_whitespace().skip_while(|word| *word != "packets").nth(1);
        let lost: u64 = lost.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{told}"));
        eprintln!("process: {lost} frames lost on the way to {device}; {}", relay.told());
        assert!(lost > 0, "nothing was lost on the way to {device}");
    }
}

/// 50 Mbit/s, and room for a hundred packets before it.
fn narrow(netns: &Netns, device: &str) {
    let limit = ["tbf", "rate", "50mbit", "burst", "16kb", "limit", "150000"];
    netns.run("tc", &[&["qdisc", "add", "dev", device, "root"][..], &limit].concat(), "");
}

/// Segments that a kernel sent again. Not those of its tail-loss probes: that timer is two round trips, and a machine that is busy
/// elsewhere is enough for it.
pub(super) fn retransmitted(netns: &Netns) -> u64 {
    let count = |file: &str, prefix: &str, wanted: &str| {
        let text = netns.enter(|| fs::read_to_string(file)).expect("/proc");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == wanted);
        found.and_then(|(_, value)| value.parse::<u64>().ok()).expect("a number")
    };
    count("/proc/thread-self/net/snmp", "Tcp: ", "RetransSegs").saturating_sub(count(
        "/proc/thread-self/net/netstat",
        "TcpExt: ",
        "TCPLossProbes",
    ))
}

/// What the switch sent again over its connections, all of which must be open: it forgets the count with the connection.
fn resent(switch: &Switch, connections: usize) -> u64 {
    let told = switch.tell(&["flows"]);
    let open: Vec<_> = told.lines().filter(|line| line.contains(" ESTABLISHED ")).collect();
    assert_eq!(open.len(), connections, "{told}");
    let words = open.iter().flat_map(|line| line.split_whitespace());
    let counts: Vec<_> = words.filter_map(|word| word.strip_prefix("retransmits=")).collect();
    assert_eq!(counts.len(), connections, "{told}");
    counts.iter().map(|count| count.parse::<u64>().expect("a number")).sum()
}

/// The host's socket meets the queue; the container is held back by its window alone.
fn a_narrow_link_behind_the_host_costs_no_retransmission() {
    let (case, switch, c1, _relay) = behind(Faults::of(0));
    narrow(&case.host, "out0");
    narrow(&case.world, "in0");
    for who in [Opens::Container, Opens::World] {
        let (near, far) = open(&case, &c1, who, 8000, SILENCE);
        thread::scope(|scope| {
            let draining = [&near, &far].map(|end| scope.spawn(move || read_ramp(end, 0, 4 << 20)));
            let pouring = [&near, &far].map(|end| scope.spawn(move || begin(end, 4 << 20)));
            for end in pouring {
                end.join().expect("no panic").expect("sent");
            }
            for end in draining {
                assert_eq!(end.join().expect("no panic").expect("received"), 4 << 20);
            }
        });
        // Before either says its end.
        assert_eq!((retransmitted(&c1), resent(&switch, 1)), (0, 0), "{who:?}: by the container, by the switch");
        drop((near, far));
        soon("it ends with its ends", || !switch.tell(&["flows"]).contains(" ESTABLISHED "));
    }
}

/// What the switch sends meets the queue: its own congestion control has to find the rate.
fn a_narrow_link_behind_the_container_starves_neither_of_two() {
    let (case, _switch, c1, relay) = behind(Faults::of(0).delayed(Duration::from_millis(10)));
    let inner = case.netns("inner");
    c1.ip(&format!(
        "link add down0 type veth peer name eth0 netns {}\naddr add 10.9.0.1/24 dev down0\nlink set down0 up",
        inner.name()
    ));
    inner.ip("addr add 10.9.0.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.9.0.1");
    c1.sysctl("ipv4.ip_forward", "1");
    c1.nft(
        "table ip nat {\n chain post {\n type nat hook postrouting priority 100;\n oifname \"eth0\" masquerade\n }\n}\n",
    );
    narrow(&c1, "down0");
    narrow(&inner, "eth0");
    let listener = case.world.listen(SocketAddrV4::new(SERVER, 80));
    let streams: Vec<_> = (0..2)
        .map(|_| {
            let near = inner.connect(ANY, SocketAddrV4::new(SERVER, 80), SILENCE).expect("connected");
            let far = listener.accept().expect("connected").0;
            for stream in [&near, &far] {
                stream.set_read_timeout(Some(SILENCE)).expect("a socket");
                stream.set_write_timeout(Some(SILENCE)).expect("a socket");
            }
            (near, far)
        })
        .collect();
    const BACK: u64 = 8 << 20;
    let heard = [const { AtomicU64::new(0) }; 2];
    // What the other one had when the first had all of it.
    let others = OnceLock::new();
    thread::scope(|scope| {
        for (own, (near, far)) in streams.iter().enumerate() {
            scope.spawn(|| pour(near, 2 << 20).expect("sent"));
            scope.spawn(|| pour(far, BACK).expect("sent"));
            scope.spawn(|| assert_eq!(drain(far).expect("received"), 2 << 20));
            let (heard, others) = (&heard, &others);
            scope.spawn(move || {
                let mut done = 0;
                while done < BACK {
                    let until = done + 65_536;
                    done = read_ramp(near, done, until).expect("received");
                    assert_eq!(done, until, "an early end");
                    heard[own].store(done, Ordering::Relaxed);
                }
                others.get_or_init(|| heard[1 - own].load(Ordering::Relaxed));
            });
        }
    });
    let others = *others.get().expect("both ended");
    eprintln!(
        "process: when one of two had its 8 MiB through 50 Mbit/s, the other had {others} bytes: {}",
        relay.told()
    );
    // They need not have the same, but each has its part.
    assert!(others > BACK / 16, "{others} bytes");
}

fn readers_that_are_slow_or_stand_still_cost_no_retransmission() {
    eprintln!("process: {}", stand_still(Duration::from_secs(8)));
}

/// Fills all buffers on the way to four readers, out and back, and lets them stand; then they begin slowly. What that cost, in words.
pub(super) fn stand_still(how_long: Duration) -> String {
    let (case, switch, c1, _relay) = behind(Faults::of(0));
    let patience = how_long + Duration::from_secs(60);
    let connections =
        [(Opens::Container, 8000), (Opens::World, 8001)].map(|(who, port)| open(&case, &c1, who, port, patience));
    const TOTAL: u64 = 24 << 20;
    let ways: Vec<_> = connections.iter().flat_map(|(near, far)| [(near, far), (far, near)]).collect();
    thread::scope(|scope| {
        for &(from, to) in &ways {
            scope.spawn(move || begin(from, TOTAL).expect("sent"));
            scope.spawn(move || {
                thread::sleep(how_long);
                // What comes first is taken slowly.
                for place in (0..1 << 20).step_by(16_384) {
                    thread::sleep(Duration::from_millis(5));
                    assert_eq!(read_ramp(to, place, place + 16_384).expect("received"), place + 16_384);
                }
                assert_eq!(read_ramp(to, 1 << 20, TOTAL).expect("received"), TOTAL);
            });
        }
        // While they stand.
        thread::sleep(how_long - Duration::from_millis(500));
        assert_eq!(
            (retransmitted(&c1), resent(&switch, 2)),
            (0, 0),
            "by the container, by the switch, while readers stand"
        );
    });
    // Before any of them says its end.
    let (by_container, by_switch, by_world) = (retransmitted(&c1), resent(&switch, 2), retransmitted(&case.world));
    assert_eq!(by_container, 0, "by the container, until the end");
    for (from, _) in &ways {
        from.shutdown(Shutdown::Write).expect("connected");
    }
    for (_, to) in &ways {
        assert_eq!(read_ramp(to, TOTAL, u64::MAX).expect("the end"), TOTAL);
    }
    format!(
        "four readers, {} s: sent again by the container {by_container}, by the switch {by_switch}, by the world {by_world}",
        how_long.as_secs()
    )
}
