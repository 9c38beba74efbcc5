//! What a routed and masqueraded packet costs in the core, all of it: parse, guard, learn, route, track, translate,
//! hand over. The world does nothing.
//!
//! ```text
//! cargo bench --bench path -- --measurement-time 2
//! ```
//!
//! Only ratios within one run count: to `bare`, the same look-up and touch as in the bench `core`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pontoon::core::command::{Applied, Command, EndpointRequest, MacChoice, NetworkConfig, UplinkConfig};
use pontoon::core::conntrack::{self, FiveTuple, Flow};
use pontoon::core::datapath::{Config, Datapath};
use pontoon::core::hash::Keyed;
use pontoon::core::port::PortId;
use pontoon::core::time::Instant;
use pontoon::core::world::{Sent, World};
use pontoon::frame::{BUFFER_LEN, Caps, FrameOut, HEADROOM};
use pontoon::wire::addr::Addr;
use pontoon::wire::ip::{ETH_LEN, ethertype, ipv4, proto, tcp, udp};
use pontoon::wire::mac::Mac;
use pontoon::wire::vnet::{self, VnetHeader};
use pontoon::wire::{checksum, put16};

const CONTAINERS: u32 = 100;
/// Takes every frame and keeps none.
struct Nothing;

impl World for Nothing {
    fn transmit(&mut self, _: PortId, frame: FrameOut<'_>) -> Sent {
        black_box(frame.with_vnet());
        Sent::Ok
    }
}

struct Bed {
    datapath: Datapath,
    containers: Vec<(PortId, Mac, Addr)>,
    gateway: Mac,
    buf: Vec<u8>,
}

impl Bed {
    fn new(flows: u32) -> Bed {
        // New ones fill the other half; then the oldest unanswered ones make room.
        let limit = flows * 2;
        let config = Config {
            conntrack: conntrack::Config { limit, quota: Some(limit), ..conntrack::Config::default() },
            ..Config::default()
        };
        let now = Instant::from_secs(1);
        let mut datapath = Datapath::new(config, [7; 32], now);
        let mut network = NetworkConfig::named("default");
        network.subnet = "172.17.0.0/16".parse().ok();
        network.gateway = Some(Addr::v4([172, 17, 0, 1]));
        let mut apply = |command| datapath.apply(command, now, &mut Nothing).expect("a sound command");
        apply(Command::AddNetwork(network));
        let address = Addr::v4([192, 0, 2, 2]);
        let Applied::Uplink(port) = apply(Command::SetUplink(UplinkConfig { address, mtu: 1500, mss_clamp: false }))
        else {
            unreachable!("the first uplink is given a port")
        };
        apply(Command::Open { port, caps: Caps::FULL });
        let containers = (0..CONTAINERS)
            .map(|n| {
                let request = EndpointRequest {
                    name: format!("c{n}"),
                    network: "default".to_owned(),
                    ifname: "eth0".to_owned(),
                    ip: None,
                    mac: MacChoice::FromIp,
                    isolated: false,
                };
                let Applied::Reserved(endpoint) = apply(Command::Reserve(request)) else { unreachable!("reserved") };
                apply(Command::Open { port: endpoint.port, caps: Caps::FULL });
                (endpoint.port, endpoint.mac, endpoint.ip.expect("a subnet has addresses").addr())
            })
            .collect();
        let pontoon::core::command::Answer::Networks(networks) =
            datapath.query(&pontoon::core::command::Query::Networks, now)
        else {
            unreachable!("networks were asked for")
        };
        Bed { datapath, containers, gateway: networks[0].gateway_mac, buf: vec![0; BUFFER_LEN] }
    }

    /// Sends the packet of the nth flow.
    fn send(&mut self, n: u32, protocol: u8, flags: u8, now: Instant) {
        let (port, mac, ip) = self.containers[(n % CONTAINERS) as usize];
        let nth = n / CONTAINERS;
        let [_, b, c, d] = (nth / 50_000).to_be_bytes();
        let dst = Addr::v4([198, 18 | b, c, d]);
        let sport = 1024 + (nth % 50_000) as u16 + ((n % CONTAINERS) as u16 * 7) % 13_000;
        let l4_len = if protocol == proto::TCP { tcp::MIN_LEN } else { udp::LEN };
        let frame = &mut self.buf[HEADROOM..];
        frame[..6].copy_from_slice(&self.gateway.0);
        frame[6..12].copy_from_slice(&mac.0);
        put16(frame, 12, ethertype::IPV4);
        let l3 = &mut frame[ETH_LEN..];
        l3[..ipv4::MIN_LEN].fill(0);
        l3[ipv4::VERSION_IHL] = 0x45;
        put16(l3, ipv4::TOTAL_LEN, (ipv4::MIN_LEN + l4_len) as u16);
        l3[ipv4::TTL] = 64;
        l3[ipv4::PROTO] = protocol;
        l3[ipv4::SRC..ipv4::SRC + 4].copy_from_slice(ip.wire_bytes());
        l3[ipv4::DST..ipv4::DST + 4].copy_from_slice(dst.wire_bytes());
        let sum = !checksum::sum(&l3[..ipv4::MIN_LEN]);
        put16(l3, ipv4::CHECKSUM, sum);
        let l4 = &mut l3[ipv4::MIN_LEN..];
        l4[..l4_len].fill(0);
        put16(l4, 0, sport);
        // Every container has a range of destination ports of its own, so that source ports need not change.
        put16(l4, 2, 5000 + (n % CONTAINERS) as u16);
        if protocol == proto::TCP {
            l4[tcp::DATA_OFFSET] = 5 << 4;
            l4[tcp::FLAGS] = flags;
            l4[15] = 0xff;
        } else {
            put16(l4, udp::LENGTH, udp::LEN as u16);
        }
        let header = VnetHeader {
            flags: vnet::NEEDS_CSUM,
            csum_start: (ETH_LEN + ipv4::MIN_LEN) as u16,
            csum_offset: if protocol == proto::TCP { tcp::CHECKSUM } else { udp::CHECKSUM } as u16,
            ..VnetHeader::default()
        };
        header.write(&mut self.buf[HEADROOM - vnet::LEN..]);
        let len = ETH_LEN + ipv4::MIN_LEN + l4_len;
        self.datapath.input(port, &mut self.buf, len, now, &mut Nothing);
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
        let mut bed = Bed::new(n);
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
