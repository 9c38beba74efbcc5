//! How many instructions the core executes for a frame, on each of its journeys: counted by callgrind, and compared with
//! the figures that the repository keeps. A clock on a shared machine drifts by a third; this does not.
//!
//! ```text
//! cargo bench --bench instructions                      count, compare, fail if a case has grown by more than 5 %
//! PONTOON_WRITE=1 cargo bench --bench instructions      accept: write benches/instructions.toml anew
//! cargo test --bench instructions                       go through each case once without counting
//! ```
//!
//! # Theory of operation
//! The program runs itself under valgrind, once for each case. A case prepares what it needs, packets too, and passes
//! each frame to [`counted_section`]: callgrind collects in that function alone (`--toggle-collect`). Its total, divided
//! by the number of frames, is the figure. About ten of them are the section's own.
//!
//! # What makes two runs equal
//! - Seeds, hash keys, addresses, times and orders are fixed (`common`), and no table grows while a section is counted.
//! - The C library chooses its `memcpy` by what the CPU can do. [`TUNABLES`] takes that choice away: the variant for any
//!   x86-64.
//! - The environment is empty, and the program is named relative to its directory, so that the stack begins at the same
//!   place. valgrind places the rest.
//! - This crate is compiled as one unit (`profile.bench` in Cargo.toml): among several, a change of one function decides
//!   what is inlined in another.
//!
//! # What differs all the same
//! Another compiler makes other instructions. The file names the one that its figures are from; with another, a case
//! fails only beyond [`OTHER_COMPILER`]. Figures of another architecture are not compared, which is said.

mod common;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use common::{Bed, PUBLISHED, Packet, Sum, UPLINK, shuffled};
use pontoon::core::command::{Answer, Query};
use pontoon::core::conntrack::FiveTuple;
use pontoon::core::nat::rewrite;
use pontoon::core::port::PortId;
use pontoon::core::time::Instant;
use pontoon::frame::{BUFFER_LEN, Caps, Frame, FrameOut, HEADROOM, Link, segment};
use pontoon::wire::addr::Addr;
use pontoon::wire::ip::{proto, tcp};
use pontoon::wire::mac::Mac;
use pontoon::wire::vnet;
use serde::Deserialize;

/// The figures that are kept.
const KEPT: &str = "benches/instructions.toml";
/// How to accept what was counted.
const ACCEPT: &str = "PONTOON_WRITE=1 cargo bench --bench instructions";
/// Growth that fails, per cent.
const LIMIT: f64 = 5.0;
/// Growth that fails when the kept figures are from another compiler, per cent.
const OTHER_COMPILER: f64 = 25.0;
/// The C library is to see a CPU with nothing beyond x86-64 (glibc: "Hardware Capability Tunables"); what it does not know
/// it ignores.
const TUNABLES: &str = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX2_Usable,-AVX,-AVX_Fast_Unaligned_Load,-SSSE3,\
                        -Fast_Copy_Backward,-ERMS,-FSRM";
/// Frames of which a figure is the mean.
const FRAMES: u32 = 256;
/// Flows in the table before anything is counted: with [`FRAMES`] more it does not grow.
const FLOWS: u32 = 600;
const CONTAINERS: u32 = 10;

/// Every case and how many frames it passes to the section.
const CASES: [(&str, u32, fn()); 12] = [
    ("parse", FRAMES, parse),
    ("bridged_frame", FRAMES, bridged_frame),
    ("flooded_frame_to_9_ports", FRAMES, flooded_frame),
    ("masqueraded_frame_out", FRAMES, masqueraded_frame_out),
    ("reply_in", FRAMES, reply_in),
    ("new_flow", FRAMES, new_flow),
    ("published_new", FRAMES, published_new),
    ("rewrite_full_checksum", FRAMES, || rewritten(Sum::Full)),
    ("rewrite_partial_checksum", FRAMES, || rewritten(Sum::Partial)),
    ("rewrite_no_checksum", FRAMES, || rewritten(Sum::Absent)),
    ("segmentation_tcp_64_kib", 1, || segmented(proto::TCP)),
    ("segmentation_udp_64_kib", 1, || segmented(proto::UDP)),
];

/// What callgrind counts: it knows this function by its name.
#[inline(never)]
fn counted_section(run: &mut dyn FnMut()) {
    run();
    black_box(()); // so that `run` is called and returns, instead of being jumped to
}

/// When everything that is counted happens: three seconds after the switch began.
const NOW: Instant = Instant::from_secs(4);

fn parse() {
    let (a, b) = ((Addr::v4([172, 17, 0, 2]), 40_000), (Addr::v4([172, 17, 0, 3]), 5000));
    let packet = Packet { payload: 18, ..Packet::udp(a, b) };
    let mut buf = vec![0; BUFFER_LEN];
    let end = HEADROOM + packet.between(Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])).write(&mut buf);
    for _ in 0..FRAMES {
        counted_section(&mut || {
            let frame = Frame::parse(black_box(&mut buf), HEADROOM, end, Link::Ethernet).expect("a sound frame");
            black_box(*frame.layout());
        });
    }
}

/// Container to container, whose addresses are known.
fn bridged_frame() {
    let mut bed = Bed::new(CONTAINERS, FLOWS);
    for n in 0..FRAMES {
        let (from, to) = (bed.containers[(n % CONTAINERS) as usize], bed.containers[((n + 1) % CONTAINERS) as usize]);
        let packet = Packet::udp((from.ip, 40_000), (to.ip, 5000)).between(from.mac, to.mac);
        counted_input(&mut bed, from.port, &packet, to.port, 1);
    }
}

/// To a station that nobody knows: to every port but the one it came by.
fn flooded_frame() {
    let mut bed = Bed::new(CONTAINERS, FLOWS);
    let (from, last) = (bed.containers[0], bed.containers[CONTAINERS as usize - 1]);
    let packet = Packet::udp((from.ip, 40_000), (last.ip, 5000)).between(from.mac, Mac([2, 0, 0, 0, 0, 1]));
    for _ in 0..FRAMES {
        counted_input(&mut bed, from.port, &packet, last.port, u64::from(CONTAINERS) - 1);
    }
}

/// A segment of an established connection to the world.
fn masqueraded_frame_out() {
    let mut bed = established();
    let flows = flows(&mut bed);
    for n in shuffled(FLOWS).into_iter().take(FRAMES as usize) {
        let (port, packet) = bed.nth(n, proto::TCP, tcp::ACK | tcp::PSH);
        let uplink = bed.uplink;
        counted_input(&mut bed, port, &Packet { seq: 1, ack: 1, payload: 1000, ..packet }, uplink, 1);
    }
    assert_eq!(self::flows(&mut bed), flows);
}

/// What the world answers to an established connection.
fn reply_in() {
    let mut bed = established();
    let flows = flows(&mut bed);
    for n in shuffled(FLOWS).into_iter().take(FRAMES as usize) {
        let (port, reply) = reply(&bed, n, tcp::ACK | tcp::PSH);
        let uplink = bed.uplink;
        counted_input(&mut bed, uplink, &Packet { seq: 1, ack: 1, payload: 1000, ..reply }, port, 1);
    }
    assert_eq!(self::flows(&mut bed), flows);
}

/// The first segment of a connection to the world.
fn new_flow() {
    let mut bed = established();
    let flows = flows(&mut bed);
    for n in FLOWS..FLOWS + FRAMES {
        let (port, packet) = bed.nth(n, proto::TCP, tcp::SYN);
        let uplink = bed.uplink;
        counted_input(&mut bed, port, &packet, uplink, 1);
    }
    assert_eq!(self::flows(&mut bed), flows + FRAMES);
}

/// The first segment of a connection from the world to a published port.
fn published_new() {
    let mut bed = established();
    let flows = flows(&mut bed);
    let (uplink, to) = (bed.uplink, bed.containers[0].port);
    for n in 0..FRAMES {
        let client = (Addr::v4([203, 0, 113, n as u8]), 50_000 + n as u16);
        counted_input(&mut bed, uplink, &Packet::tcp(client, (UPLINK, PUBLISHED), tcp::SYN), to, 1);
    }
    assert_eq!(self::flows(&mut bed), flows + FRAMES);
}

/// Source address and port of a datagram, there and back by turns.
fn rewritten(sum: Sum) {
    let packet = Packet {
        payload: 18,
        sum,
        ..Packet::udp((Addr::v4([172, 17, 0, 2]), 40_000), (Addr::v4([198, 51, 100, 1]), 443))
    };
    let mut buf = vec![0; BUFFER_LEN];
    let end = HEADROOM + packet.write(&mut buf);
    let mut frame = Frame::parse(&mut buf, HEADROOM, end, Link::Ip).expect("a sound packet");
    let mut from = FiveTuple {
        src: packet.src.0,
        dst: packet.dst.0,
        sport: packet.src.1,
        dport: packet.dst.1,
        proto: packet.protocol,
    };
    let mut to = FiveTuple { src: UPLINK, sport: 61_000, ..from };
    for _ in 0..FRAMES {
        counted_section(&mut || rewrite::translate(&mut frame, black_box(&from), black_box(&to)));
        std::mem::swap(&mut from, &mut to);
    }
}

/// A frame of 64 KiB, cut for a port that takes neither segmentation nor partial checksums.
fn segmented(protocol: u8) {
    let (a, b) = ((Addr::v4([172, 17, 0, 2]), 40_000), (Addr::v4([172, 17, 0, 3]), 5000));
    let packet = Packet { protocol, flags: tcp::ACK, payload: 64_000, segment: 1448, ..Packet::udp(a, b) };
    let mut buf = vec![0; BUFFER_LEN];
    let end = HEADROOM + packet.between(Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])).write(&mut buf);
    let whole = FrameOut::from_bytes(&buf[HEADROOM - vnet::LEN..end]);
    let mut scratch = Vec::with_capacity(4096);
    let mut count = 0;
    counted_section(&mut || {
        count = segment::for_each(black_box(whole), Link::Ethernet, Caps::PLAIN, &mut scratch, &mut |out| {
            black_box(out.packet());
        });
    });
    assert_eq!(count, 45);
}

/// Passes a packet to the switch, counted; it is transmitted so many times, at last by `to`.
fn counted_input(bed: &mut Bed, from: PortId, packet: &Packet, to: PortId, times: u64) {
    let len = bed.write(packet);
    let before = bed.world.sent;
    counted_section(&mut || bed.input(from, len, NOW));
    assert_eq!((bed.world.sent - before, bed.world.last), (times, Some(to)), "the frame took another way");
}

/// A switch with as many established connections to the world.
fn established() -> Bed {
    let mut bed = Bed::new(CONTAINERS, 2 * (FLOWS + FRAMES));
    let now = NOW - Duration::from_secs(2);
    for n in 0..FLOWS {
        bed.send(n, proto::TCP, tcp::SYN, now);
        let (_, answer) = reply(&bed, n, tcp::SYN | tcp::ACK);
        let (uplink, len) = (bed.uplink, bed.write(&Packet { ack: 1, ..answer }));
        bed.input(uplink, len, now);
        let (port, packet) = bed.nth(n, proto::TCP, tcp::ACK);
        let len = bed.write(&Packet { seq: 1, ack: 1, ..packet });
        bed.input(port, len, now);
    }
    assert_eq!((bed.world.sent, flows(&mut bed)), (3 * u64::from(FLOWS), FLOWS));
    bed
}

/// What the server of the nth flow answers, as it comes by the uplink, and the port that it is for.
fn reply(bed: &Bed, n: u32, flags: u8) -> (PortId, Packet) {
    let (port, packet) = bed.nth(n, proto::TCP, flags);
    (port, Packet { eth: None, src: packet.dst, dst: (UPLINK, packet.src.1), ..packet })
}

fn flows(bed: &mut Bed) -> u32 {
    match bed.datapath.query(&Query::Stats, NOW) {
        Answer::Stats(stats) => stats.flows as u32, // at most LIMIT_MAX
        _ => unreachable!("figures were asked for"),
    }
}

/// benches/instructions.toml.
#[derive(Deserialize)]
struct Kept {
    compiler: String,
    target: String,
    valgrind: String,
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == "--case"
    {
        let (_, _, run) = CASES.iter().find(|(case, ..)| case == name).expect("one of the cases");
        run();
        return ExitCode::SUCCESS;
    }
    if !arguments.iter().any(|a| a == "--bench") {
        for (name, _, run) in CASES {
            run();
            println!("{name}: gone through, not counted (cargo bench counts)");
        }
        return ExitCode::SUCCESS;
    }
    match count_and_compare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn count_and_compare() -> Result<(), String> {
    // Where cargo runs it, which is not where it was built when a clone was moved with its target directory.
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    let path = Path::new(&package).join(KEPT);
    let valgrind = find_valgrind()?;
    let version = output(Command::new(&valgrind).arg("--version"))?;
    let rustc = output(Command::new(env::var_os("RUSTC").unwrap_or("rustc".into())).arg("-vV"))?;
    let compiler = rustc.lines().next().unwrap_or_default();
    let target = rustc.lines().find_map(|l| l.strip_prefix("host: ")).unwrap_or_default();
    let mut counted = Vec::new();
    for (name, frames, _) in CASES {
        counted.push((name, count(&valgrind, name)?.div_ceil(u64::from(frames))));
    }
    if env::var_os("PONTOON_WRITE").is_some() {
        let mut text = format!(
            "# Instructions for a frame, counted by callgrind. Taken anew by: {ACCEPT}\n\
             compiler = {compiler:?}\ntarget = {target:?}\nvalgrind = {version:?}\n\n[instructions]\n"
        );
        for (name, count) in &counted {
            let _ = writeln!(text, "{name} = {count}"); // into a string
        }
        fs::write(&path, text).map_err(|e| format!("{KEPT}: {e}"))?;
        println!("{} figures written to {KEPT}", counted.len());
        return Ok(());
    }
    let text = fs::read_to_string(&path).map_err(|e| format!("{KEPT}: {e}; to make it: {ACCEPT}"))?;
    let kept: Kept = toml::from_str(&text).map_err(|e| format!("{KEPT}: {e}"))?;
    println!("{compiler}, {target}, {version}; kept: {}, {}, {}", kept.compiler, kept.target, kept.valgrind);
    compare(&kept, &counted, compiler, target)
}

/// Prints every figure beside the kept one. The error names all that have grown too much.
fn compare(kept: &Kept, counted: &[(&str, u64)], compiler: &str, target: &str) -> Result<(), String> {
    let comparable = kept.target == target;
    let limit = if kept.compiler == compiler { LIMIT } else { OTHER_COMPILER };
    let mut failed = String::new();
    println!("{:<28}{:>10}{:>10}{:>9}", "instructions for a frame", "kept", "now", "change");
    for &(name, now) in counted {
        let Some(&old) = kept.instructions.get(name) else {
            println!("{name:<28}{:>10}{now:>10}", "-");
            let _ = writeln!(failed, "{name}: {now} instructions, and no figure is kept"); // into a string
            continue;
        };
        let change = (now as f64 / old as f64 - 1.0) * 100.0; // far below 2^53
        println!("{name:<28}{old:>10}{now:>10}{change:>+8.1}%");
        if comparable && change > limit {
            let _ = writeln!(failed, "{name}: {old} -> {now} instructions, {change:+.1} %: more than {limit} %");
        } else if comparable && change < -LIMIT {
            println!("  {name} has become cheaper: accept the new figure, so that the gain is kept ({ACCEPT})");
        }
    }
    for name in kept.instructions.keys().filter(|name| counted.iter().all(|(case, _)| case != name)) {
        let _ = writeln!(failed, "{name}: a figure is kept, but there is no such case");
    }
    if !comparable {
        println!("NOT CHECKED: growth, the kept figures are of {}", kept.target);
    } else if kept.compiler != compiler {
        println!("NOT CHECKED: growth below {limit} %, the kept figures are of another compiler ({ACCEPT})");
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("{failed}If that is meant, accept it and say why in the commit: {ACCEPT}"))
}

/// What one case costs in all.
fn count(valgrind: &Path, name: &str) -> Result<u64, String> {
    let program = env::current_exe().map_err(|e| format!("where this program lies: {e}"))?;
    let (Some(directory), Some(file)) = (program.parent(), program.file_name()) else {
        return Err(format!("{} has no directory", program.display()));
    };
    let profiles = directory.parent().unwrap_or(directory).join("callgrind"); // target/release/callgrind
    fs::create_dir_all(&profiles).map_err(|e| format!("{}: {e}", profiles.display()))?;
    let out = profiles.join(format!("{name}.out"));
    let _ = fs::remove_file(&out); // so that no earlier run is read; it need not be there
    let mut to_out = std::ffi::OsString::from("--callgrind-out-file=");
    to_out.push(&out);
    output(
        Command::new(valgrind)
            .args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*counted_section*"])
            .arg(to_out)
            .arg(Path::new(".").join(file))
            .args(["--case", name])
            .current_dir(directory)
            .env_clear()
            .env("GLIBC_TUNABLES", TUNABLES),
    )?;
    let profile = fs::read_to_string(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    match profile.lines().find_map(|l| l.strip_prefix("totals: ")).and_then(|n| n.trim().parse().ok()) {
        None | Some(0) => Err(format!("{name}: callgrind has counted nothing, see {}", out.display())),
        Some(total) => Ok(total),
    }
}

fn find_valgrind() -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join("valgrind"))
        .find(|program| program.is_file())
        .ok_or_else(|| "MISSING: valgrind (Debian, Ubuntu: apt-get install valgrind); nothing was counted".to_owned())
}

/// What a program prints. The error has what it said if it failed.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let done = command.output().map_err(|e| format!("{name}: {e}"))?;
    if !done.status.success() {
        return Err(format!("{name}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}
