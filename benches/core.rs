//! What the parts of the core cost: the door, the bridge, connection tracking, translation, segmentation.
//!
//! ```text
//! cargo bench --bench core -- --measurement-time 2             all of it
//! cargo bench --bench core -- --measurement-time 2 bridge      one group: parse, bridge, conntrack, rewrite, segmentation
//! ```
//!
//! Only ratios within one run count. Tracking is measured against `bare`, a hash table with entries of the same size and
//! the same keyed hash: `hit_tcp` and `hit_udp` at most 3 times that, `new` at most 10. What a part costs without a
//! clock's noise is counted by the bench `instructions`.

mod common;

use std::hash::BuildHasher;
use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use common::{Bed, Packet, Sum, shuffled};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pontoon::core::conntrack::{
    Config, Direction, FiveTuple, Flow, L4, OwnerId, Segment, Table, Tentative, Timeouts, segment as flags, tuple,
};
use pontoon::core::nat::rewrite;
use pontoon::core::time::Instant;
use pontoon::frame::{BUFFER_LEN, Caps, Frame, FrameOut, HEADROOM, Link, segment};
use pontoon::wire::addr::Addr;
use pontoon::wire::mac::Mac;
use pontoon::wire::vnet;
use siphasher::sip::SipHasher13;

const KEY: [u8; 16] = *b"not a secret key";
/// Flows made and removed at a time where a benchmark makes flows.
const BATCH: u32 = 10_000;
/// How long a flow of such a batch lives.
const SYN_SENT: Duration = Duration::from_millis(1);
/// Flows in the table.
const FLOWS: [u32; 3] = [1000, 100_000, 1_000_000];

#[derive(Clone)]
struct Sip;

impl BuildHasher for Sip {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&KEY)
    }
}

/// The nth flow: any container, any server, any port.
fn nth(n: u32, proto: u8) -> FiveTuple {
    let [a, b, c, d] = n.to_be_bytes();
    FiveTuple {
        src: Addr::v4([172, 17, c, d]),
        dst: Addr::v4([198, 51, 100, b]),
        sport: 1024 + u16::from_be_bytes([c, d]) / 2,
        dport: 443 + u16::from(a),
        proto,
    }
}

fn tcp_segment(flags: u8, seq: u32, ack: u32, payload_len: u32) -> Segment {
    Segment { flags, seq, ack, window: 60_000, payload_len, sack: ack, ..Segment::default() }
}

fn tentative(n: u32, proto: u8) -> Tentative {
    let original = nth(n, proto);
    let mut tentative = Tentative::new(original, OwnerId(n % 100));
    tentative.reply.dst = Addr::v4([192, 0, 2, 10]);
    // Masquerade keeps the port where it can; here the server tells the flows of one port apart.
    tentative.reply.src =
        Addr::v4([203, original.src.octets()[14], original.src.octets()[15], original.dst.octets()[15]]);
    tentative
}

/// A table of n established flows, with room for a batch more.
fn table_of(n: u32, proto: u8) -> Table {
    let limit = n + BATCH;
    // Short, so that the batches of `new` and `expiry` never wait so long that what is established goes with them.
    let timeouts = Timeouts { tcp_timeout_syn_sent: SYN_SENT, ..Timeouts::default() };
    let config = Config { limit, quota: Some(limit), timeouts, ..Config::default() };
    let mut table = Table::new(config, KEY);
    let now = Instant::from_secs(1);
    let later = Instant::from_secs(4);
    for i in 0..n {
        let syn = tcp_segment(flags::SYN, 0, 0, 0);
        let l4 = if proto == tuple::TCP { L4::Tcp(&syn) } else { L4::Udp };
        let id = table.commit(tentative(i, proto), l4, 60, now).expect("room");
        for (dir, s) in [
            (Direction::Reply, tcp_segment(flags::SYN | flags::ACK, 0, 1, 0)),
            (Direction::Original, tcp_segment(flags::ACK, 1, 1, 0)),
        ] {
            let l4 = if proto == tuple::TCP { L4::Tcp(&s) } else { L4::Udp };
            let _ = table.track(id, dir, l4, 60, later);
        }
    }
    assert_eq!(table.stats().flows, n);
    table
}

fn bare(group: &mut BenchmarkGroup<'_, WallTime>, n: u32, order: &[FiveTuple]) {
    let mut map =
        hashbrown::HashMap::<FiveTuple, [u8; size_of::<Flow>()], Sip>::with_capacity_and_hasher(n as usize, Sip);
    for tuple in order {
        map.insert(*tuple, [0; size_of::<Flow>()]);
    }
    let mut at = order.iter().cycle();
    let mut clock = 0_u64;
    group.bench_function(BenchmarkId::new("bare", n), |b| {
        b.iter(|| {
            clock += 1;
            if let Some(entry) = map.get_mut(at.next().expect("a cycle")) {
                entry[80..88].copy_from_slice(&clock.to_ne_bytes());
            }
        });
    });
}

fn established(group: &mut BenchmarkGroup<'_, WallTime>, n: u32, order: &[FiveTuple], proto: u8) {
    let mut table = table_of(n, proto);
    let mut at = order.iter().cycle();
    let now = Instant::from_secs(5);
    let data = tcp_segment(flags::ACK | flags::PSH, 1, 1, 1000);
    let mut header = [0_u8; 12];
    let name = if proto == tuple::TCP { "hit_tcp" } else { "hit_udp" };
    group.bench_function(BenchmarkId::new(name, n), |b| {
        b.iter(|| {
            let tuple = at.next().expect("a cycle");
            let (id, dir) = table.lookup(tuple, now).expect("the flow is there");
            let l4 = if proto == tuple::TCP { L4::Tcp(&data) } else { L4::Udp };
            let verdict = table.track(id, dir, l4, 1040, now);
            let to = table[id].tuple(dir.opposite());
            header[..4].copy_from_slice(&to.dst.octets()[12..]);
            header[4..8].copy_from_slice(&to.src.octets()[12..]);
            header[8..10].copy_from_slice(&to.dport.to_be_bytes());
            header[10..].copy_from_slice(&to.sport.to_be_bytes());
            let _ = black_box((verdict, &header));
        });
    });
}

fn coming_and_going(group: &mut BenchmarkGroup<'_, WallTime>, n: u32) {
    let mut table = table_of(n, tuple::TCP);
    let now = Instant::from_secs(5);
    let mut at = shuffled(n).into_iter().cycle();
    group.bench_function(BenchmarkId::new("miss", n), |b| {
        b.iter(|| {
            let mut absent = nth(at.next().expect("a cycle"), tuple::TCP);
            absent.dport = 7;
            black_box(table.lookup(&absent, now))
        });
    });
    // The first packet as the caller sees it: a lookup that misses, the check that it may begin a flow, the commit.
    let syn = tcp_segment(flags::SYN, 0, 0, 0);
    let fill = |table: &mut Table, count: u32, now: Instant| {
        for i in 0..count {
            let t = tentative(n + i, tuple::TCP);
            let l4 = L4::Tcp(&syn);
            if table.lookup(&t.original, now).is_none() && table.admit(&t.original, l4).is_ok() {
                let _ = black_box(table.commit(t, l4, 60, now));
            }
        }
    };
    let mut now = Instant::from_secs(10);
    for timed in ["new", "expiry"] {
        group.bench_function(BenchmarkId::new(timed, n), |b| {
            b.iter_custom(|iterations| {
                let (mut left, mut making, mut expiring) = (iterations, Duration::ZERO, Duration::ZERO);
                while left > 0 {
                    let count = left.min(u64::from(BATCH)) as u32;
                    let began = Clock::now();
                    fill(&mut table, count, now);
                    making += began.elapsed();
                    now = now + SYN_SENT;
                    let began = Clock::now();
                    while table.next_timeout().is_some_and(|t| t <= now) {
                        table.expire(now, 256);
                    }
                    expiring += began.elapsed();
                    left -= u64::from(count);
                }
                if timed == "new" { making } else { expiring }
            });
        });
    }
}

fn conntrack(c: &mut Criterion) {
    let mut group = c.benchmark_group("conntrack");
    for n in FLOWS {
        for proto in [tuple::TCP, tuple::UDP] {
            let order: Vec<FiveTuple> = shuffled(n).into_iter().map(|i| nth(i, proto)).collect();
            if proto == tuple::TCP {
                bare(&mut group, n, &order);
            }
            established(&mut group, n, &order, proto);
        }
        coming_and_going(&mut group, n);
    }
    group.finish();
}

const C1: (Addr, u16) = (Addr::v4([172, 17, 0, 2]), 40_000);
const C2: (Addr, u16) = (Addr::v4([172, 17, 0, 3]), 5000);
const MACS: (Mac, Mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));

/// The door: every offset found, every length checked, the virtio header settled.
fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let tcp = Packet::tcp(C1, C2, flags::ACK).between(MACS.0, MACS.1);
    let udp = Packet { payload: 18, ..Packet::udp(C1, C2).between(MACS.0, MACS.1) };
    for (name, packet) in [
        ("tcp_64_kib", Packet { payload: 64_000, segment: 1448, ..tcp }),
        ("tcp_ack", tcp),
        ("udp_60_bytes", udp),
        ("udp_60_bytes_full_checksum", Packet { sum: Sum::Full, ..udp }),
    ] {
        let mut buf = vec![0; BUFFER_LEN];
        let end = HEADROOM + packet.write(&mut buf);
        group.bench_function(name, |b| {
            b.iter(|| {
                let frame = Frame::parse(black_box(&mut buf), HEADROOM, end, Link::Ethernet).expect("a sound frame");
                black_box(*frame.layout());
            });
        });
    }
    group.finish();
}

/// A frame from one container to another: guard, learn, look up, hand over; and one to a station that nobody knows,
/// which is handed to every other port.
fn bridge(c: &mut Criterion) {
    let mut group = c.benchmark_group("bridge");
    let now = Instant::from_secs(2);
    for containers in [2, 100] {
        let mut bed = Bed::new(containers, 1000);
        let [c1, c2] = [bed.containers[0], bed.containers[1]];
        for (name, to, sent) in [("hit", c2.mac, 1), ("miss", MACS.1, u64::from(containers) - 1)] {
            let len = bed.write(&Packet::udp((c1.ip, C1.1), (c2.ip, C2.1)).between(c1.mac, to));
            let before = bed.world.sent;
            bed.input(c1.port, len, now);
            assert_eq!(bed.world.sent - before, sent, "{name} among {containers}");
            let mut micros = now.micros();
            group.bench_function(BenchmarkId::new(name, format!("{containers}_ports")), |b| {
                b.iter(|| {
                    micros += 1; // what a port may flood comes back with time
                    bed.input(c1.port, len, Instant::from_micros(micros));
                });
            });
        }
    }
    group.finish();
}

/// New addresses and ports in place, with all checksums that cover them: there, and back.
fn rewrite(c: &mut Criterion) {
    let mut group = c.benchmark_group("rewrite");
    let of = |packet: &Packet| FiveTuple {
        src: packet.src.0,
        dst: packet.dst.0,
        sport: packet.src.1,
        dport: packet.dst.1,
        proto: packet.protocol,
    };
    let udp = Packet { payload: 18, ..Packet::udp(C1, (Addr::v4([198, 51, 100, 1]), 443)) };
    let tcp = Packet { payload: 0, ..Packet::tcp(udp.src, udp.dst, flags::ACK) };
    for (name, packet) in [
        ("udp_full_checksum", Packet { sum: Sum::Full, ..udp }),
        ("udp_partial_checksum", udp),
        ("udp_no_checksum", Packet { sum: Sum::Absent, ..udp }),
        ("tcp_full_checksum", Packet { sum: Sum::Full, ..tcp }),
        ("tcp_partial_checksum", tcp),
    ] {
        let mut buf = vec![0; BUFFER_LEN];
        let end = HEADROOM + packet.write(&mut buf);
        let mut frame = Frame::parse(&mut buf, HEADROOM, end, Link::Ip).expect("a sound packet");
        let inside = of(&packet);
        let outside = FiveTuple { src: common::UPLINK, sport: 61_000, ..inside };
        group.bench_function(name, |b| {
            b.iter(|| {
                rewrite::translate(&mut frame, black_box(&inside), black_box(&outside));
                rewrite::translate(&mut frame, black_box(&outside), black_box(&inside));
            });
        });
    }
    group.finish();
}

/// A frame of 64 KiB cut for a port that takes no super-frames.
fn segmentation(c: &mut Criterion) {
    const PAYLOAD: usize = 64_000;
    const SEGMENT: usize = 1448;
    let mut group = c.benchmark_group("segmentation");
    group.throughput(Throughput::Bytes(PAYLOAD as u64));
    let tcp = Packet { payload: PAYLOAD, segment: SEGMENT as u16, ..Packet::tcp(C1, C2, flags::ACK) };
    let udp = Packet { payload: PAYLOAD, segment: SEGMENT as u16, ..Packet::udp(C1, C2) };
    let without_uso = Caps { vnet: true, uso: false };
    for (name, packet, caps) in [
        ("tcp_64_kib_to_plain_port", tcp, Caps::PLAIN),
        ("udp_64_kib_to_plain_port", udp, Caps::PLAIN),
        ("udp_64_kib_to_port_without_uso", udp, without_uso),
    ] {
        let mut buf = vec![0; BUFFER_LEN];
        let end = HEADROOM + packet.between(MACS.0, MACS.1).write(&mut buf);
        let whole = FrameOut::from_bytes(&buf[HEADROOM - vnet::LEN..end]);
        let mut scratch = Vec::new();
        let mut cut = || {
            segment::for_each(black_box(whole), Link::Ethernet, caps, &mut scratch, &mut |out| {
                black_box(out.with_vnet());
            })
        };
        assert_eq!(cut(), PAYLOAD.div_ceil(SEGMENT), "{name}");
        group.bench_function(name, |b| b.iter(&mut cut));
    }
    group.finish();
}

criterion_group!(benches, parse, bridge, conntrack, rewrite, segmentation);
criterion_main!(benches);
