//! What a routed and masqueraded packet costs in the core, all of it: parse, guard, learn, route, track, translate,
//! hand over. The world does nothing.
//!
//! ```text
//! cargo bench --bench path -- --measurement-time 2
//! ```
//!
//! Only ratios within one run count: to `bare`, the same look-up and touch as in the bench `core`.

mod common;

use common::{Bed, shuffled};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pontoon::core::conntrack::{FiveTuple, Flow};
use pontoon::core::hash::Keyed;
use pontoon::core::time::Instant;
use pontoon::wire::addr::Addr;
use pontoon::wire::ip::{proto, tcp};

const CONTAINERS: u32 = 100;

fn path(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    for n in [100_000, 1_000_000] {
        let order = shuffled(n);
        let mut map = hashbrown::HashMap::with_capacity_and_hasher(n as usize, Keyed::new([7; 16]));
        let tuple = |i: u32| FiveTuple {
            src: Addr::v4(i.to_be_bytes()),
            dst: Addr::v4([198, 51, 100, 1]),
            sport: i as u16,
            dport: 443,
            proto: proto::TCP,
        };
        for i in &order {
            map.insert(tuple(*i), [0_u8; size_of::<Flow>()]);
        }
        let mut at = order.iter().cycle();
        group.bench_function(BenchmarkId::new("bare", n), |b| {
            b.iter(|| {
                if let Some(entry) = map.get_mut(&tuple(*at.next().expect("a cycle"))) {
                    entry[80] += 1;
                }
            });
        });
        drop(map);
        // New ones fill the other half; then the oldest unanswered ones make room.
        let mut bed = Bed::new(CONTAINERS, n * 2);
        let now = Instant::from_secs(2);
        for i in 0..n {
            bed.send(i, proto::UDP, 0, now);
        }
        let mut at = order.iter().cycle();
        group.bench_function(BenchmarkId::new("established", n), |b| {
            b.iter(|| bed.send(*at.next().expect("a cycle"), proto::UDP, 0, now));
        });
        let mut fresh = n;
        group.bench_function(BenchmarkId::new("new", n), |b| {
            b.iter(|| {
                bed.send(fresh, proto::TCP, tcp::SYN, now);
                fresh += 1;
            });
        });
    }
    group.finish();
}

criterion_group!(benches, path);
criterion_main!(benches);
