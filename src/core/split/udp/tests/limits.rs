//! Who makes room when sockets, flows or descriptors run out: no conversation, and no container within its share.

use std::time::Duration;

use super::bed::{NOW, READABLE, engine, message, publish, say, say_at, small_engine, socket};
use crate::core::counters::DropReason;
use crate::core::port::PortId;
use crate::core::socket::Endpoint;
use crate::core::split::udp::fake::{Around, GATEWAY, at};
use crate::core::split::udp::{Config, Limits, Udp};
use crate::core::worth::Worth;

#[test]
fn flood_of_clients_takes_nothing_from_the_containers_own_flows() {
    let (mut udp, mut around) = small_engine();
    let id = publish(&mut udp, &mut around, 1, 2);
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
    for port in 1..2_000 {
        socket(&mut around, id).put(Endpoint { port, ..at("198.51.100.7:0") }, b"x");
        udp.socket_ready(id, READABLE, NOW, &mut around);
        assert!(udp.table.flows_of(PortId(2)) <= 16);
    }
    udp.table.audit();
    assert_eq!(around.host.open.len(), 2);
    let own = around.host.open.iter().find(|(i, _)| **i != id).map(|(i, _)| *i).unwrap();
    around.delivered.clear();
    socket(&mut around, own).put(at("198.51.100.5:5000"), b"y");
    udp.socket_ready(own, READABLE, NOW, &mut around);
    assert_eq!(around.delivered.len(), 1);
}

#[test]
fn container_that_opens_many_sockets_takes_none_of_anothers() {
    let (mut udp, mut around) = small_engine();
    say(&mut udp, &mut around, "172.17.0.9:1", "198.51.100.5:5000", b"x").unwrap();
    for port in 1..500u16 {
        for flooder in 2..6 {
            say(&mut udp, &mut around, &format!("172.17.0.{flooder}:{port}"), "198.51.100.5:5000", b"x").unwrap();
            assert!(udp.table.sockets_of(PortId(flooder)) <= 4);
        }
        assert!(around.host.open.len() <= 10, "all containers together");
    }
    assert_eq!(udp.table.sockets_of(PortId(9)), 1);
    say(&mut udp, &mut around, "172.17.0.9:2", "198.51.100.5:5000", b"x").unwrap();
    assert_eq!(udp.table.sockets_of(PortId(9)), 2);
}

#[test]
fn conversation_is_never_evicted_and_the_container_is_told() {
    let (mut udp, mut around) = small_engine();
    let to = "198.51.100.5:5000";
    for port in 1..=4 {
        let from = format!("172.17.0.2:{port}");
        say(&mut udp, &mut around, &from, to, b"x").unwrap();
        let ids: Vec<_> = around.host.open.keys().copied().collect();
        for id in ids {
            socket(&mut around, id).put(at(to), b"y");
            udp.socket_ready(id, READABLE, NOW, &mut around);
        }
    }
    let later = NOW + Duration::from_secs(3);
    for port in 1..=4 {
        say_at(&mut udp, &mut around, &format!("172.17.0.2:{port}"), to, b"x", later).unwrap();
    }
    around.delivered.clear();
    assert_eq!(say_at(&mut udp, &mut around, "172.17.0.2:5", to, b"x", later), Err(DropReason::FlowQuota));
    let packets = around.take_packets();
    let (src, error) = message(&packets[0]);
    assert_eq!((packets.len(), src, &error[..2]), (1, GATEWAY, &[3, 13][..]));
    assert_eq!(around.host.open.len(), 4);
}

#[test]
fn containers_that_fill_the_host_with_conversations_leave_another_its_share() {
    let limits = Limits { sockets: 10, sockets_each: 5, flows: 10, flows_each: 5 };
    let mut udp = Udp::new(Config { limits, ..Config::for_ports(1..=1) }, [7; 16], NOW);
    let mut around = Around::new();
    let to = "198.51.100.5:5000";
    let all: Vec<_> = (2..4).flat_map(|n| (1..6).map(move |port| format!("172.17.0.{n}:{port}"))).collect();
    for from in &all {
        say(&mut udp, &mut around, from, to, b"x").unwrap();
    }
    let ids: Vec<_> = around.host.open.keys().copied().collect();
    for id in ids {
        socket(&mut around, id).put(at(to), b"y");
        udp.socket_ready(id, READABLE, NOW, &mut around);
    }
    let later = NOW + Duration::from_secs(3);
    for from in &all {
        say_at(&mut udp, &mut around, from, to, b"x", later).unwrap();
    }
    assert!(udp.flows(0, 20, later).0.iter().all(|row| row.assured));
    for port in 1..5 {
        say_at(&mut udp, &mut around, &format!("172.17.0.9:{port}"), to, b"x", later).unwrap();
    }
    let used = [2, 3, 9].map(|n| udp.table.sockets_of(PortId(n)));
    assert_eq!((used.iter().sum::<usize>(), used.iter().max(), used.iter().min()), (10, Some(&4), Some(&3)));
}

#[test]
fn least_recently_used_peer_makes_room_for_a_new_one() {
    let (mut udp, mut around) = small_engine();
    let from = "172.17.0.2:1";
    for n in 0..16u64 {
        say_at(&mut udp, &mut around, from, &format!("198.51.100.5:{}", 100 + n), b"x", NOW + Duration::from_millis(n))
            .unwrap();
    }
    // The oldest is used again, so the second goes.
    let now = NOW + Duration::from_secs(1);
    say_at(&mut udp, &mut around, from, "198.51.100.5:100", b"x", now).unwrap();
    say_at(&mut udp, &mut around, from, "198.51.100.5:200", b"x", now).unwrap();
    let ports: Vec<_> = udp.flows(0, 100, now).0.iter().map(|row| row.original.dport).collect();
    assert_eq!(ports.len(), 16);
    assert!(ports.contains(&100) && ports.contains(&200) && !ports.contains(&101));
}

#[test]
fn without_descriptors_a_containers_own_oldest_socket_makes_room() {
    let (mut udp, mut around) = engine();
    let to = "198.51.100.5:5000";
    say(&mut udp, &mut around, "172.17.0.2:1", to, b"x").unwrap();
    around.host.room = 1;
    say(&mut udp, &mut around, "172.17.0.2:2", to, b"x").unwrap();
    assert_eq!((around.host.open.len(), around.host.opened), (1, 2));
    assert_eq!(say(&mut udp, &mut around, "172.17.0.3:1", to, b"x"), Err(DropReason::NoSocket));
    assert_eq!((around.host.open.len(), around.ids.len()), (1, 1));
}

#[test]
fn a_socket_that_another_of_the_same_container_gave_way_to_is_worth_nothing() {
    let (mut udp, mut around) = engine();
    let mut worth = |around: &mut Around, from: &str| {
        around.worth = Worth::Something;
        say(&mut udp, around, from, "198.51.100.5:5000", b"x").unwrap();
        around.worth
    };
    around.host.room = 10;
    for port in 1..=8 {
        assert_eq!(worth(&mut around, &format!("172.17.0.2:{port}")), Worth::Something);
    }
    assert_eq!(worth(&mut around, "172.17.0.2:9"), Worth::Nothing);
    assert_eq!(worth(&mut around, "172.17.0.2:9"), Worth::Something, "it is there now");
    assert_eq!(worth(&mut around, "172.17.0.3:1"), Worth::Something);
}

#[test]
fn a_container_that_opens_sockets_without_end_leaves_others_a_fifth_of_the_descriptors() {
    let (mut udp, mut around) = engine();
    around.host.room = 100;
    let to = "198.51.100.5:5000";
    for port in 1..500 {
        say(&mut udp, &mut around, &format!("172.17.0.2:{port}"), to, b"x").unwrap();
    }
    assert_eq!(around.host.open.len(), 80, "its own oldest made room for the others");
    for port in 1..10 {
        say(&mut udp, &mut around, &format!("172.17.0.3:{port}"), to, b"x").unwrap();
    }
    assert_eq!(around.host.open.len(), 89);
}
