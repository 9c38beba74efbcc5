//! The switch: learning, flooding, filtering, isolation, and what passes untouched.

use std::time::Duration;

use pontoon::core::bridge::fdb::STATIONS_PER_PORT;
use pontoon::core::command::{Answer, Command, CommandError, Guard, MacChoice, NetworkConfig, Query};
use pontoon::core::datapath::Config;
use pontoon::core::world::Sent;
use pontoon::frame::Caps;
use pontoon::wire::mac::Mac;
use pontoon::wire::vnet::VnetHeader;

use crate::net::{Host, Net, addr, network};
use crate::packet::{arp, frame, offload, other, ping, tcp, udp, udp_with};

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
/// An EtherType for local experiments (IEEE 802, clause 9.2.3).
const LOCAL: u16 = 0x88b5;

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 1, last])
}

fn three() -> (Net, Host, Host, Host) {
    let mut net = Net::new();
    let (a, b, c) = (net.attach(), net.attach(), net.attach());
    net.quiet();
    (net, a, b, c)
}

/// How many frames each got.
fn counts(net: &mut Net, hosts: &[Host]) -> Vec<usize> {
    hosts.iter().map(|h| net.received(h.port).len()).collect()
}

// B01
#[test]
fn one_frame_teaches_where_its_source_is() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(Mac::BROADCAST, mac(1), LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b, c]), [0, 1, 1]);
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b, c]), [1, 0, 0]);
}

// B01
#[test]
fn attachment_is_known_before_its_first_frame() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(c.mac, a.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b, c]), [0, 0, 1]);
}

// B02
#[test]
fn learned_station_is_flooded_again_after_300_s_of_its_own_silence() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(b.mac, mac(1), LOCAL, b"hello"));
    net.quiet();
    net.secs(296); // 299 in all
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"to it does not count"));
    assert_eq!(counts(&mut net, &[a, b]), [1, 0]);
    net.secs(2);
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b]), [1, 1]);
}

// B02
#[test]
fn ageing_time_is_the_operators() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { ageing: Duration::from_secs(15), ..network("short", "172.18.0.0/24") });
    let (a, b, c) = (net.attach_to("short"), net.attach_to("short"), net.attach_to("short"));
    net.quiet();
    net.send(&a, &frame(b.mac, mac(1), LOCAL, b"hello"));
    net.quiet();
    net.secs(13);
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b]), [1, 1]);
}

// B03
#[test]
fn moved_station_follows_its_new_port() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(c.mac, mac(1), LOCAL, b"hello"));
    net.send(&b, &frame(c.mac, mac(1), LOCAL, b"hello"));
    net.quiet();
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b]), [0, 1]);
}

// B04
#[test]
fn unknown_unicast_goes_to_all_others_and_known_to_one() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(mac(9), a.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b, c]), [0, 1, 1]);
    net.send(&a, &frame(b.mac, a.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b, c]), [0, 1, 0]);
}

// B05, B06, B17
#[test]
fn groups_go_to_all_but_their_sender_unchanged_and_once() {
    let (mut net, a, b, c) = three();
    for dst in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "33:33:00:00:00:01"] {
        let bytes = frame(dst.parse().unwrap(), a.mac, LOCAL, b"to all");
        net.send(&a, &bytes);
        let (b, c) = (net.received(b.port), net.received(c.port));
        assert!(b.len() == 1 && b[0].bytes == bytes && b == c, "{dst}");
        assert!(net.received(a.port).is_empty(), "{dst}");
    }
}

// B05, S63
#[test]
fn arp_for_the_gateway_is_seen_by_all_and_answered_by_the_gateway_alone() {
    let (mut net, a, b, c) = three();
    let gateway = net.gateway_mac();
    let question = frame(Mac::BROADCAST, a.mac, ARP, &arp(1, (a.mac, "172.17.0.2"), (Mac::ZERO, "172.17.0.1")));
    net.send(&a, &question);
    let answer = net.received(a.port);
    assert_eq!(answer.len(), 1);
    assert_eq!(answer[0].arp(), (2, "172.17.0.1".to_owned(), "172.17.0.2".to_owned()));
    assert_eq!((answer[0].src(), answer[0].dst()), (gateway, a.mac));
    assert_eq!(counts(&mut net, &[b, c]), [1, 1]);
}

// B07
#[test]
fn frame_to_a_station_of_its_own_port_is_filtered() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(b.mac, mac(1), LOCAL, b"hello"));
    net.quiet();
    net.send(&a, &frame(mac(1), a.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b, c]), [0, 0, 0]);
    assert_eq!(net.dropped(a.port, "same-port"), 1);
}

// B08
#[test]
fn no_frame_is_reflected_to_its_sender() {
    let (mut net, a, _, _) = three();
    net.send(&a, &frame(a.mac, a.mac, LOCAL, b"to myself"));
    net.send(&a, &frame("01:00:5e:00:00:fb".parse().unwrap(), a.mac, LOCAL, b"soliloquy"));
    assert!(net.received(a.port).is_empty());
}

// B09, B21
#[test]
fn bpdus_pass_and_other_link_local_groups_stay_on_their_link() {
    let (mut net, a, b, c) = three();
    for last in 0..=0x10u8 {
        net.send(&a, &frame(Mac([0x01, 0x80, 0xc2, 0, 0, last]), a.mac, 0x0026, &[0x42; 38]));
        let want = usize::from(last == 0 || last == 0x10);
        assert_eq!(counts(&mut net, &[b, c]), [want, want], "01:80:c2:00:00:{last:02x}");
    }
    assert_eq!(net.dropped(a.port, "reserved-group"), 15);
}

// B10
#[test]
fn group_or_zero_source_is_dropped_and_not_learned() {
    let (mut net, a, b, c) = three();
    for src in [Mac::ZERO, Mac::BROADCAST, Mac([1, 0, 0, 0, 0, 1])] {
        net.send(&a, &frame(b.mac, src, LOCAL, b"hello"));
    }
    assert_eq!(counts(&mut net, &[a, b, c]), [0, 0, 0]);
    assert_eq!(net.dropped(a.port, "bad-source-mac"), 3);
    let Answer::Fdb(page) = net.query(Query::Fdb { cursor: 0, max: 100 }) else { unreachable!() };
    assert_eq!(page.rows.len(), 3);
}

#[test]
fn listing_in_pages_tells_every_station_once() {
    let mut net = Net::new();
    net.add_network(network("other", "10.1.0.0/24"));
    let gone = net.attach();
    let mut hosts: Vec<_> = (0..4).map(|_| net.attach()).collect();
    // A port in a slot that was another's before.
    net.apply(Command::Detach { port: gone.port });
    hosts.extend([net.attach(), net.attach_to("other")]);
    for (at, host) in (0u8..).zip(&hosts) {
        for n in 0..11 {
            net.send(host, &frame(Mac::BROADCAST, Mac([0x06, 0, 0, 0, at, n]), LOCAL, b"hello"));
        }
    }
    for max in [1, 7, 12, 100] {
        let (mut told, mut cursor) = (Vec::new(), Some(0));
        while let Some(from) = cursor {
            let Answer::Fdb(page) = net.query(Query::Fdb { cursor: from, max }) else { unreachable!() };
            assert!(page.rows.len() < max + 12, "one port's more at most");
            told.extend(page.rows.iter().map(|row| (row.port, row.mac)));
            cursor = page.next;
        }
        let all: std::collections::BTreeSet<_> = told.iter().collect();
        assert_eq!((told.len(), all.len()), (6 * 12, 6 * 12), "of {max}");
    }
}

// B11
#[test]
fn nobody_takes_the_gateways_mac() {
    for guard in [Guard::Default, Guard::Off] {
        let mut net = Net::bare(Config::default());
        net.add_network(NetworkConfig { guard, ..network("default", "172.17.0.0/16") });
        let (a, b) = (net.attach(), net.attach());
        let gateway = net.gateway_mac();
        net.send(&a, &frame(b.mac, gateway, LOCAL, b"I am the gateway"));
        net.quiet();
        net.route(&b, &ping("172.17.0.3", "172.17.0.1", 1));
        assert_eq!(net.got_one(&b).icmp(), (0, 0), "{guard:?}");
        assert!(net.received(a.port).is_empty());
    }
}

// B12
#[test]
fn frame_to_the_gateway_goes_to_nobody_else() {
    let (mut net, a, b, c) = three();
    net.route(&a, &ping("172.17.0.2", "172.17.0.1", 1));
    assert_eq!(counts(&mut net, &[a, b, c]), [1, 0, 0]);
}

// B13
#[test]
fn vlan_tags_pass_unchanged() {
    let (mut net, a, b, _) = three();
    let inner = ping("10.0.10.1", "10.0.10.2", 1).bytes();
    for tags in [&[0x00, 0x0a, 0x08, 0x00][..], &[0x00, 0x0a, 0x81, 0x00, 0x00, 0x0b, 0x08, 0x00]] {
        let kind = if tags.len() == 4 { 0x8100 } else { 0x88a8 };
        let bytes = frame(b.mac, a.mac, kind, &[tags, &inner].concat());
        net.send(&a, &bytes);
        let got = net.received(b.port);
        assert!(got.len() == 1 && got[0].bytes == bytes);
    }
}

// B14, B26
#[test]
fn any_ethertype_passes() {
    let (mut net, a, b, _) = three();
    for kind in [0x0026, 0x05dc, 0x0600, 0x0842, 0x8847, 0x88cc, 0x88f7, 0x8863, 0xffff] {
        let bytes = frame(b.mac, a.mac, kind, &[0xa5; 46]);
        net.send(&a, &bytes);
        let got = net.received(b.port);
        assert!(got.len() == 1 && got[0].bytes == bytes, "{kind:04x}");
    }
}

// B14
#[test]
fn broken_ip_is_bridged_as_it_is() {
    let (mut net, a, b, _) = three();
    let bytes = frame(b.mac, a.mac, IPV4, &[0x4f, 0, 0, 1, 9, 9]);
    net.send(&a, &bytes);
    assert_eq!(net.received(b.port)[0].bytes, bytes);
}

// B15
#[test]
fn frame_over_the_mtu_is_dropped_in_silence_unless_it_is_to_be_segmented() {
    let (mut net, a, b, _) = three();
    for (len, passes) in [(1500, true), (1504, true), (1505, false), (9000, false)] {
        net.send(&a, &frame(b.mac, a.mac, LOCAL, &vec![0; len]));
        assert_eq!(net.received(b.port).len(), usize::from(passes), "{len}");
    }
    assert_eq!(net.dropped(a.port, "exceeds-port-mtu"), 2);
    assert!(net.received(a.port).is_empty());
    let big = crate::packet::tcp_with("172.17.0.2:1", "172.17.0.3:2", 16, 1, 1, &[], &[7; 30_000]).partial();
    net.input(a.port, offload(6, 34, 1448), &frame(b.mac, a.mac, IPV4, &big.bytes()));
    let got = net.received(b.port);
    assert_eq!((got.len(), got[0].vnet.gso_size, got[0].bytes.len()), (1, 1448, 14 + 40 + 30_000));
}

// B16
#[test]
fn jumbo_network_carries_jumbo_frames() {
    for mtu in [9000u16, 65_521] {
        let mut net = Net::bare(Config::default());
        net.add_network(NetworkConfig { mtu, ..network("default", "172.17.0.0/16") });
        let (a, b) = (net.attach(), net.attach());
        let packet = udp_with("172.17.0.2:1", "172.17.0.3:2", &vec![1; usize::from(mtu) - 28]).df();
        net.send_to(&a, b.mac, &packet);
        assert_eq!(net.got_one(&b).body.len(), usize::from(mtu) - 20);
    }
}

// B17
#[test]
fn frames_keep_their_order() {
    let (mut net, a, b, _) = three();
    for n in 0..1000u32 {
        net.send(&a, &frame(b.mac, a.mac, LOCAL, &n.to_be_bytes()));
    }
    let got: Vec<_> = net.received(b.port).iter().map(|o| o.bytes[14..18].to_vec()).collect();
    assert_eq!(got, (0..1000u32).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
}

// B18
#[test]
fn mac_flood_moves_nobody_and_is_bounded() {
    let (mut net, a, b, c) = three();
    net.send(&b, &frame(c.mac, mac(1), LOCAL, b"an active station"));
    for n in 0..20_000u32 {
        let [_, x, y, z] = n.to_be_bytes();
        net.send(&a, &frame(c.mac, Mac([2, 1, 0, x, y, z]), LOCAL, b"flood"));
    }
    net.quiet();
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[a, b]), [0, 1]);
    let Answer::Networks(all) = net.query(Query::Networks) else { unreachable!() };
    assert!(all[0].stations <= 3 + 1 + STATIONS_PER_PORT, "{}", all[0].stations);
}

// B19
#[test]
fn isolated_ports_reach_the_gateway_and_others_but_not_each_other() {
    let mut net = Net::new();
    let hosts: Vec<Host> = [true, true, false]
        .map(|isolated| {
            let request = pontoon::core::command::EndpointRequest { isolated, ..net.request("default") };
            net.attach_as(request, Caps::FULL)
        })
        .to_vec();
    net.quiet();
    let (a, b, open) = (hosts[0], hosts[1], hosts[2]);
    net.send(&a, &frame(b.mac, a.mac, LOCAL, b"hello"));
    net.send(&a, &frame(Mac::BROADCAST, a.mac, LOCAL, b"hello"));
    net.send(&a, &frame(open.mac, a.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &hosts), [0, 0, 2]);
    assert_eq!(net.dropped(a.port, "isolated"), 1);
    net.send(&open, &frame(Mac::BROADCAST, open.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &hosts), [1, 1, 0]);
    net.route(&a, &ping("172.17.0.2", "172.17.0.1", 1));
    assert_eq!(net.got_one(&a).icmp(), (0, 0));
}

// B19
#[test]
fn isolated_ports_do_not_reach_each_other_by_way_of_the_gateway() {
    let mut net = Net::new();
    let hosts: Vec<Host> = [true, true, false]
        .map(|isolated| {
            let request = pontoon::core::command::EndpointRequest { isolated, ..net.request("default") };
            net.attach_as(request, Caps::FULL)
        })
        .to_vec();
    net.quiet();
    net.route(&hosts[0], &udp("172.17.0.2:4000", "172.17.0.3:5000"));
    assert_eq!(counts(&mut net, &hosts), [0, 0, 0]);
    assert_eq!(net.dropped(hosts[0].port, "isolated"), 1);
    // An address that nobody was given may be behind an isolated port.
    net.route(&hosts[0], &udp("172.17.0.2:4000", "172.17.0.99:5000"));
    assert_eq!(counts(&mut net, &hosts), [0, 0, 0]);
    assert_eq!(net.dropped(hosts[0].port, "isolated"), 2);
    net.route(&hosts[0], &udp("172.17.0.2:4000", "172.17.0.4:5000"));
    net.got_one(&hosts[2]);
}

// B20
#[test]
fn link_down_flushes_what_its_port_taught_and_disturbs_nobody() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(c.mac, mac(1), LOCAL, b"hello"));
    net.quiet();
    net.world.answers.insert(a.port, Sent::Down);
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"the device says EIO"));
    assert_eq!(net.dropped(c.port, "link-down"), 1);
    net.send(&c, &frame(b.mac, c.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[b]), [1]);
    net.world.answers.clear();
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"unknown again"));
    assert_eq!(counts(&mut net, &[a, b]), [1, 1]);
    let Answer::Ports(ports) = net.query(Query::Ports) else { unreachable!() };
    assert!(ports.iter().all(|p| p.state == "up"), "a frame that was taken says that the link is up");
}

// X18, B20
#[test]
fn frames_written_together_are_each_booked_where_they_came_from() {
    let (mut net, a, b, c) = three();
    let before: Vec<_> = [a.port, b.port, c.port].iter().map(|p| net.port(*p).tx.frames).collect();
    net.batch();
    net.send(&a, &frame(b.mac, a.mac, LOCAL, b"one"));
    net.send(&c, &frame(a.mac, c.mac, LOCAL, b"two"));
    net.send(&b, &frame(c.mac, b.mac, LOCAL, b"three"));
    net.world.answers.insert(a.port, Sent::Down);
    net.world.answers.insert(c.port, Sent::Refused);
    net.write_deferred();
    assert_eq!((net.dropped(c.port, "link-down"), net.dropped(b.port, "offload-refused")), (1, 1));
    assert_eq!(net.port(a.port).drops, [], "its frame arrived");
    assert_eq!(counts(&mut net, &[a, b, c]), [0, 1, 0]);
    let after: Vec<_> = [a.port, b.port, c.port].iter().map(|p| net.port(*p).tx.frames).collect();
    assert_eq!(after, [before[0], before[1] + 1, before[2]]);
    assert_eq!(net.port(a.port).state, "down");
}

// X18
#[test]
fn totals_keep_what_was_dropped_of_ports_that_are_gone() {
    let (mut net, a, b, _) = three();
    net.send(&a, &frame(b.mac, b.mac, LOCAL, b"not mine"));
    let before = net.stats().drops;
    assert_eq!(before, [("spoofed-mac", 1)]);
    net.apply(Command::Detach { port: a.port });
    assert_eq!(net.stats().drops, before);
}

// B20
#[test]
fn detached_port_takes_its_stations_with_it() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(c.mac, mac(1), LOCAL, b"hello"));
    net.apply(Command::Detach { port: a.port });
    net.quiet();
    net.send(&c, &frame(mac(1), c.mac, LOCAL, b"hello"));
    net.send(&c, &frame(a.mac, c.mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &[b]), [2]);
    net.send(&a, &frame(c.mac, a.mac, LOCAL, b"a late event"));
    assert_eq!(counts(&mut net, &[c]), [0]);
}

// B21
#[test]
fn storm_is_bounded_and_frames_to_known_stations_pass_in_it() {
    let mut net = Net::new();
    net.add_network(NetworkConfig { flood_rate: 100, ..network("small", "172.18.0.0/24") });
    let (a, b) = (net.attach_to("small"), net.attach_to("small"));
    net.quiet();
    for _ in 0..1000 {
        net.send(&a, &frame(Mac::BROADCAST, a.mac, LOCAL, b"storm"));
        net.send(&a, &frame(b.mac, a.mac, LOCAL, b"work"));
    }
    assert_eq!(counts(&mut net, &[b]), [1100]);
    assert_eq!(net.dropped(a.port, "flood-rate"), 900);
    net.secs(1);
    net.send(&b, &frame(Mac::BROADCAST, b.mac, LOCAL, b"my own share"));
    net.send(&a, &frame(Mac::BROADCAST, a.mac, LOCAL, b"again"));
    assert_eq!(counts(&mut net, &[a, b]), [1, 1]);
}

// B21
#[test]
fn storm_by_way_of_the_gateway_is_bounded_too() {
    let mut net = Net::new();
    net.add_network(NetworkConfig { flood_rate: 100, ..network("small", "172.18.0.0/24") });
    let (a, b) = (net.attach_to("small"), net.attach_to("small"));
    net.quiet();
    let gateway = net.gateway_mac_of("small");
    // A neighbour whose station nobody has heard: what is routed to it goes to all ports.
    let claim = arp(1, (mac(77), "172.18.0.99"), (Mac::ZERO, "172.18.0.1"));
    net.send(&a, &frame(gateway, a.mac, ARP, &claim));
    net.quiet();
    for _ in 0..1000 {
        net.send_to(&a, gateway, &udp("172.18.0.2:4000", "172.18.0.99:5000"));
    }
    assert_eq!(counts(&mut net, &[b]), [100]);
    assert_eq!(net.dropped(a.port, "flood-rate"), 900);
}

// B22, D18
#[test]
fn hundreds_of_new_attachments_are_announced_in_turns() {
    let mut net = Net::new();
    let hosts: Vec<Host> = (0..100).map(|_| net.attach_to("default")).collect();
    net.dp.handle_timeout(net.now, &mut net.world);
    let at_once = net.dp.take_work();
    assert!((1..2000).contains(&at_once), "{at_once} writes before the next frame is read");
    net.secs(10);
    assert_eq!(counts(&mut net, &hosts), vec![99 * 3; 100]);
}

// B21
#[test]
fn flood_is_charged_with_all_of_its_copies() {
    let (mut net, a, b, _) = three();
    net.dp.take_work();
    net.send(&a, &frame(Mac::BROADCAST, a.mac, LOCAL, b"to two"));
    assert_eq!(net.dp.take_work(), 2);
    net.send(&a, &frame(b.mac, a.mac, LOCAL, b"to one"));
    assert_eq!(net.dp.take_work(), 1);
}

// B28, S61
#[test]
fn switch_of_2000_ports_floods_to_all_and_forwards_to_one() {
    const PORTS: usize = 2_000;
    let mut net = Net::new();
    let hosts: Vec<Host> = (0..PORTS).map(|_| net.attach_to("default")).collect();
    // The clock stands: four million announcements are not what this is about.
    net.dp.take_work();
    net.send(&hosts[0], &frame(Mac::BROADCAST, hosts[0].mac, LOCAL, b"to all"));
    let heard = counts(&mut net, &hosts);
    assert!(heard[0] == 0 && heard[1..].iter().all(|copies| *copies == 1));
    assert_eq!(net.dp.take_work() as usize, PORTS - 1, "the sender is charged with every copy");
    net.send(&hosts[0], &frame(hosts[PORTS - 1].mac, hosts[0].mac, LOCAL, b"to the last"));
    assert_eq!(net.dp.take_work(), 1);
    assert_eq!(net.received(hosts[PORTS - 1].port).len(), 1);
}

// B23, S65
#[test]
fn arp_between_containers_is_nobodys_business() {
    let (mut net, a, b, c) = three();
    let ask = |from: &Host, sender: &str, target: &str| {
        frame(Mac::BROADCAST, from.mac, ARP, &arp(1, (from.mac, sender), (Mac::ZERO, target)))
    };
    for (what, bytes) in [
        ("question", ask(&a, "172.17.0.2", "172.17.0.3")),
        ("gratuitous", ask(&a, "172.17.0.2", "172.17.0.2")),
        ("probe", ask(&a, "0.0.0.0", "172.17.0.3")),
        ("for nobody", ask(&a, "172.17.0.2", "172.17.9.9")),
    ] {
        net.send(&a, &bytes);
        assert_eq!(net.received(b.port)[0].bytes, bytes, "{what}");
        assert_eq!(net.received(c.port)[0].bytes, bytes, "{what}");
        assert!(net.received(a.port).is_empty(), "{what}: no proxy ARP");
    }
}

// B23
#[test]
fn gateway_answers_a_probe_for_its_own_address() {
    let (mut net, a, ..) = three();
    let probe = arp(1, (a.mac, "0.0.0.0"), (Mac::ZERO, "172.17.0.1"));
    net.send(&a, &frame(Mac::BROADCAST, a.mac, ARP, &probe));
    assert_eq!(net.received(a.port)[0].arp(), (2, "172.17.0.1".to_owned(), "0.0.0.0".to_owned()));
}

// B24, D17
#[test]
fn second_attachment_with_the_same_address_is_refused() {
    let (mut net, a, ..) = three();
    let with_ip = pontoon::core::command::EndpointRequest { ip: a.ip, ..net.request("default") };
    assert!(matches!(net.try_apply(Command::Reserve(with_ip)), Err(CommandError::Invalid { field: "ip", .. })));
    let mac = MacChoice::Given(a.mac);
    let with_mac = pontoon::core::command::EndpointRequest { mac, ..net.request("default") };
    assert!(matches!(net.try_apply(Command::Reserve(with_mac)), Err(CommandError::Invalid { field: "mac", .. })));
}

// B24, R11
#[test]
fn neighbours_address_cannot_be_claimed() {
    let (mut net, a, b, c) = three();
    net.send(&a, &frame(c.mac, b.mac, LOCAL, b"its MAC"));
    assert_eq!(net.dropped(a.port, "spoofed-mac"), 1);
    for (what, bytes) in [
        ("IP", frame(c.mac, a.mac, IPV4, &udp("172.17.0.3:1", "172.17.0.4:2").bytes())),
        ("the gateway's IP", frame(c.mac, a.mac, IPV4, &udp("172.17.0.1:1", "172.17.0.4:2").bytes())),
        ("ARP", frame(Mac::BROADCAST, a.mac, ARP, &arp(2, (a.mac, "172.17.0.3"), (Mac::ZERO, "172.17.0.4")))),
        (
            "ARP of the gateway",
            frame(Mac::BROADCAST, a.mac, ARP, &arp(2, (a.mac, "172.17.0.1"), (c.mac, "172.17.0.4"))),
        ),
    ] {
        net.send(&a, &bytes);
        assert!(net.received(c.port).is_empty(), "{what}");
    }
    assert_eq!(net.dropped(a.port, "spoofed-address"), 4);
    // Its own IP address at another's MAC would send others' packets there.
    for owned in [b.mac, net.gateway_mac()] {
        let told = arp(2, (owned, "172.17.0.99"), (Mac::ZERO, "172.17.0.4"));
        net.send(&a, &frame(Mac::BROADCAST, a.mac, ARP, &told));
    }
    assert!(net.received(c.port).is_empty());
    assert_eq!(net.dropped(a.port, "spoofed-mac"), 3);
}

// B24
#[test]
fn without_a_guard_the_last_mover_wins() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { guard: Guard::Off, ..NetworkConfig::named("lan") });
    let hosts = [net.attach_to("lan"), net.attach_to("lan"), net.attach_to("lan")];
    for from in [0, 1] {
        net.send(&hosts[from], &frame(hosts[2].mac, mac(7), LOCAL, b"mine"));
    }
    net.quiet();
    net.send(&hosts[2], &frame(mac(7), hosts[2].mac, LOCAL, b"hello"));
    assert_eq!(counts(&mut net, &hosts), [0, 1, 0]);
}

// R11
#[test]
fn strict_guard_lets_only_a_containers_own_addresses_out() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { guard: Guard::Strict, ..network("default", "172.17.0.0/16") });
    let (a, b) = (net.attach(), net.attach());
    for (bytes, passes) in [
        (frame(b.mac, a.mac, IPV4, &udp("172.17.0.2:1", "172.17.0.3:2").bytes()), true),
        (frame(b.mac, a.mac, IPV4, &udp("172.17.0.99:1", "172.17.0.3:2").bytes()), false),
        (frame(b.mac, a.mac, IPV4, &udp("203.0.113.8:1", "172.17.0.3:2").bytes()), false),
        (frame(b.mac, mac(1), LOCAL, b"another station"), false),
        (frame(b.mac, a.mac, LOCAL, b"its own"), true),
    ] {
        net.send(&a, &bytes);
        assert_eq!(net.received(b.port).len(), usize::from(passes), "{bytes:02x?}");
    }
}

/// A neighbour advertisement or another ICMPv6 message, without a checksum: nobody here looks at it.
fn icmpv6(src: [u8; 16], kind: u8, target: [u8; 16]) -> Vec<u8> {
    let mut out = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    out.extend_from_slice(&src);
    out.extend_from_slice(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&target);
    out
}

// B25
#[test]
fn ipv6_neighbours_and_routers_pass_and_leave_the_gateway_cold() {
    let mut link_local = [0; 16];
    (link_local[0], link_local[1], link_local[15]) = (0xfe, 0x80, 2);
    for guard in [Guard::Default, Guard::Strict] {
        let mut net = Net::bare(Config::default());
        net.add_network(NetworkConfig { guard, ..network("default", "172.17.0.0/16") });
        let (a, b) = (net.attach(), net.attach());
        for kind in [133, 134, 135, 136, 143] {
            let dst = Mac([0x33, 0x33, 0, 0, 0, 1]);
            net.send(&a, &frame(dst, a.mac, 0x86dd, &icmpv6(link_local, kind, link_local)));
            assert_eq!(net.received(b.port).len(), 1, "{kind} with guard {guard:?}");
            assert!(net.received(a.port).is_empty());
        }
    }
}

// D01
#[test]
fn icc_off_keeps_containers_apart_on_the_ip_level_only() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { icc: false, ..network("default", "172.17.0.0/16") });
    net.connect(1500, false);
    let (a, b) = (net.attach(), net.attach());
    net.send_to(&a, b.mac, &ping("172.17.0.2", "172.17.0.3", 1));
    net.send_to(&a, Mac::BROADCAST, &udp("172.17.0.2:1", "172.17.255.255:2"));
    assert!(net.received(b.port).is_empty());
    assert_eq!(net.dropped(a.port, "icc-off"), 2);
    net.send(&a, &frame(Mac::BROADCAST, a.mac, ARP, &arp(1, (a.mac, "172.17.0.2"), (Mac::ZERO, "172.17.0.3"))));
    net.send(&b, &frame(a.mac, b.mac, ARP, &arp(2, (b.mac, "172.17.0.3"), (a.mac, "172.17.0.2"))));
    assert_eq!(counts(&mut net, &[a, b]), [1, 1]);
    net.route(&a, &ping("172.17.0.2", "172.17.0.1", 1));
    assert_eq!(net.got_one(&a).icmp(), (0, 0));
    net.route(&a, &ping("172.17.0.2", "172.17.0.3", 1));
    assert!(net.got(&b).is_empty(), "not by the gateway either");
    net.route(&a, &ping("172.17.0.2", "198.51.100.5", 1));
    net.left_one();
}

// D11
#[test]
fn network_without_a_gateway_is_a_switch_and_nothing_more() {
    let mut net = Net::bare(Config::default());
    net.add_network(NetworkConfig { gateway: None, ..network("default", "172.17.0.0/16") });
    net.connect(1500, false);
    let (a, b) = (net.attach(), net.attach());
    assert_eq!(a.ip, Some(addr("172.17.0.1")), "the first address is nobody's");
    net.route(&a, &ping("172.17.0.1", "198.51.100.5", 1));
    assert_eq!(net.dropped(a.port, "no-gateway"), 1);
    let who_has = arp(1, (a.mac, "172.17.0.1"), (Mac::ZERO, "172.17.0.9"));
    net.send(&a, &frame(Mac::BROADCAST, a.mac, ARP, &who_has));
    net.send_to(&a, b.mac, &ping("172.17.0.1", "172.17.0.2", 1));
    assert_eq!(counts(&mut net, &[a, b]), [0, 2]);
    assert!(net.left().is_empty());
}

// D18
#[test]
fn attachment_is_announced_three_times_a_second_apart_and_no_more_once_detached() {
    let mut net = Net::new();
    let c = net.attach();
    let a = net.attach_to("default");
    for second in 0..5 {
        net.advance(Duration::ZERO);
        let want = usize::from(second < 3);
        let got = net.received(c.port);
        assert_eq!(got.len(), want, "second {second}");
        if let Some(out) = got.first() {
            assert_eq!((out.src(), out.dst()), (a.mac, Mac::BROADCAST));
            assert_eq!(out.arp(), (1, "172.17.0.3".to_owned(), "172.17.0.3".to_owned()));
        }
        net.secs(1);
    }
    let b = net.attach_to("default");
    net.advance(Duration::ZERO);
    assert_eq!(counts(&mut net, &[c]), [1]);
    net.apply(Command::Detach { port: b.port });
    net.secs(5);
    assert_eq!(counts(&mut net, &[c]), [0]);
}

#[test]
fn lowest_free_address_is_given_whatever_came_and_went() {
    let mut net = Net::new();
    let fixed = pontoon::core::command::EndpointRequest { ip: "172.17.0.4".parse().ok(), ..net.request("default") };
    net.attach_as(fixed, Caps::FULL);
    let hosts: Vec<Host> = (0..4).map(|_| net.attach_to("default")).collect();
    let given = |hosts: &[Host]| hosts.iter().map(|h| h.ip.unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(given(&hosts), ["172.17.0.2", "172.17.0.3", "172.17.0.5", "172.17.0.6"]);
    for gone in [&hosts[2], &hosts[1]] {
        net.apply(Command::Detach { port: gone.port });
    }
    let again: Vec<Host> = (0..3).map(|_| net.attach_to("default")).collect();
    assert_eq!(given(&again), ["172.17.0.3", "172.17.0.5", "172.17.0.7"]);
}

// S33
#[test]
fn mac_is_made_from_the_address_given_or_random() {
    let mut net = Net::new();
    let from_ip = pontoon::core::command::EndpointRequest { mac: MacChoice::FromIp, ..net.request("default") };
    assert_eq!(net.attach_as(from_ip, Caps::FULL).mac.to_string(), "02:42:ac:11:00:02");
    let given = MacChoice::Given(mac(5));
    let given = pontoon::core::command::EndpointRequest { mac: given, ..net.request("default") };
    assert_eq!(net.attach_as(given, Caps::FULL).mac, mac(5));
    let (a, b) = (net.attach(), net.attach());
    assert!(a.mac != b.mac && a.mac.0[0] & 3 == 2, "{} {}", a.mac, b.mac);
}

// S64, X17
#[test]
fn switch_changes_no_bit_of_a_frame() {
    let (mut net, a, b, _) = three();
    let options = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let syn = crate::packet::tcp_with("172.17.0.2:40000", "172.17.0.3:80", 2, 0xfeed_beef, 0, &options, &[]);
    let bytes = frame(b.mac, a.mac, IPV4, &syn.bytes());
    net.send(&a, &bytes);
    let got = net.received(b.port);
    assert_eq!(got[0].bytes, bytes);
    assert_eq!(VnetHeader { hdr_len: 0, ..got[0].vnet }, VnetHeader::default());
}

// S67
#[test]
fn container_may_route_for_others() {
    // c1 sends c2 a packet that is for neither of them: the switch looks at MAC addresses alone.
    let (mut net, a, b, c) = three();
    net.send_to(&a, b.mac, &udp("172.17.0.2:1", "203.0.113.9:2"));
    assert_eq!(counts(&mut net, &[a, b, c]), [0, 1, 0]);
    // And what it routes has sources that nobody owns.
    net.send_to(&b, a.mac, &other("203.0.113.9", "172.17.0.2", 132, b"sctp"));
    assert_eq!(counts(&mut net, &[a, b, c]), [1, 0, 0]);
}

// S10
#[test]
fn bridged_and_local_traffic_is_not_translated() {
    let (mut net, a, b, _) = three();
    net.send_to(&a, b.mac, &tcp("172.17.0.2:40000", "172.17.0.3:80", 2));
    assert_eq!(net.got_one(&b).from(), "172.17.0.2:40000");
    net.route(&a, &ping("172.17.0.2", "172.17.0.1", 3));
    assert_eq!(net.got_one(&a).src.to_string(), "172.17.0.1");
    assert!(net.flows().is_empty());
}
