//! What tracking costs, against a bare hash table with entries of the same size and the same keyed hash.
//!
//! ```text
//! cargo bench --bench core -- --measurement-time 2
//! ```
//!
//! Only ratios within one run count: `tcp` and `udp` to `bare` (at most 3), `new` to `bare` (at most 10).

use std::hash::BuildHasher;
use std::hint::black_box;
use std::time::{Duration, Instant as Clock};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use pontoon::core::conntrack::{
    Config, Direction, FiveTuple, Flow, L4, OwnerId, Segment, Table, Tentative, segment, tuple,
};
use pontoon::core::time::Instant;
use pontoon::wire::addr::Addr;
use siphasher::sip::SipHasher13;

const KEY: [u8; 16] = *b"not a secret key";
/// Flows made and removed at a time where a benchmark makes flows.
const BATCH: u32 = 10_000;

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

/// 0..n in an order that no prefetcher follows.
fn shuffled(n: u32) -> Vec<u32> {
    let mut all: Vec<u32> = (0..n).collect();
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..all.len()).rev() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        all.swap(i, (x % (i as u64 + 1)) as usize);
    }
    all
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
    let config = Config { limit, quota: Some(limit), ..Config::default() };
    let mut table = Table::new(config, KEY);
    let now = Instant::from_secs(1);
    let later = Instant::from_secs(4);
    for i in 0..n {
        let syn = tcp_segment(segment::SYN, 0, 0, 0);
        let l4 = if proto == tuple::TCP { L4::Tcp(&syn) } else { L4::Udp };
        let id = table.commit(tentative(i, proto), l4, 60, now).expect("room");
        for (dir, s) in [
            (Direction::Reply, tcp_segment(segment::SYN | segment::ACK, 0, 1, 0)),
            (Direction::Original, tcp_segment(segment::ACK, 1, 1, 0)),
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
    let data = tcp_segment(segment::ACK | segment::PSH, 1, 1, 1000);
    let mut header = [0_u8; 12];
    let name = if proto == tuple::TCP { "tcp" } else { "udp" };
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
    let syn = tcp_segment(segment::SYN, 0, 0, 0);
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
    for timed in ["new", "expire"] {
        group.bench_function(BenchmarkId::new(timed, n), |b| {
            b.iter_custom(|iterations| {
                let (mut left, mut making, mut expiring) = (iterations, Duration::ZERO, Duration::ZERO);
                while left > 0 {
                    let count = left.min(u64::from(BATCH)) as u32;
                    let began = Clock::now();
                    fill(&mut table, count, now);
                    making += began.elapsed();
                    now = now + Duration::from_secs(121);
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
    for n in [100_000, 1_000_000] {
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

criterion_group!(benches, conntrack);
criterion_main!(benches);
