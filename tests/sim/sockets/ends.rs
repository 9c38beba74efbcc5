//! What ends with a container, a flush or the uplink: its own sockets and flows, and no one else's.

use std::collections::HashSet;

use pontoon::core::command::{Applied, Command};
use pontoon::core::flush::Progress;
use pontoon::core::socket::Close;

use super::conn::Conn;
use super::lab::{BUSY, RESOLVER, SERVER, ask, busy, detach, end, lab};
use crate::net::Net;
use crate::packet::{RST, TCP, UDP, udp_with};

#[test]
fn what_a_container_had_said_to_the_end_is_delivered_after_its_detach() {
    let mut net = lab();
    let a = net.attach();
    let mut said = Conn::open(&mut net, &a, 40_000, SERVER);
    let mut cut = Conn::open(&mut net, &a, 40_001, "198.51.100.6:80");
    cut.say(&mut net, b"half of");
    said.say(&mut net, b"all of it");
    said.finish(&mut net);
    detach(&mut net, &a);
    let closed =
        |net: &mut Net, peer| net.host().streams.values().find(|s| s.peer == Some(end(peer))).and_then(|s| s.closed);
    assert_eq!(closed(&mut net, SERVER), Some(Close::Orderly));
    assert_eq!(closed(&mut net, "198.51.100.6:80"), Some(Close::Reset));
}

#[test]
fn detached_container_takes_its_sockets_with_it_and_no_others() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    let conn = busy(&mut net, "c1", &a, 8001);
    let mut kept = busy(&mut net, "c2", &b, 8002);
    assert_eq!((net.host().open(), net.flows().len()), (2 * BUSY, 8));
    let (id, _) = net.host().stream(end(&conn.outside));
    // The first half of a datagram that will not come.
    net.route(&a, &udp_with("172.17.0.2:1", RESOLVER, &[1; 3000]).fragments(1480)[0]);

    detach(&mut net, &a);
    assert_eq!(net.host().streams[&id].closed, Some(Close::Reset));
    assert_eq!(net.host().open(), BUSY);
    assert!(net.flows().iter().all(|f| f.name == "c2"));
    kept.talk(&mut net, "198.51.100.5:8002");
    detach(&mut net, &b);
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn successor_with_the_same_address_inherits_nothing() {
    let mut net = lab();
    let a = net.attach();
    // One that is over, of which segments may still be about, and one that is not.
    let mut over = Conn::open(&mut net, &a, 40_000, SERVER);
    net.host().end_from(end(SERVER));
    net.pump();
    over.heard(&mut net);
    over.finish(&mut net);
    assert_eq!(net.got_one(&a).ack(), over.seq);
    Conn::open(&mut net, &a, 40_001, "198.51.100.5:81");
    let at = ask(&mut net, &a, 5000, RESOLVER, b"question");
    detach(&mut net, &a);
    assert_eq!(net.host().open(), 0);

    let b = net.attach();
    assert_eq!(b.ip, a.ip);
    assert_ne!(ask(&mut net, &b, 5000, "198.51.100.54:53", b"question"), at);
    for (port, to) in [(40_000, SERVER), (40_001, "198.51.100.5:81")] {
        Conn::open(&mut net, &b, port, to).talk(&mut net, to);
    }
    assert!(net.flows().iter().all(|f| f.name == "c2"), "{:?}", net.flows());
}

#[test]
fn flush_of_many_flows_over_host_sockets_takes_steps() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    for port in 1..=150 {
        ask(&mut net, &a, 5000, &format!("198.51.100.53:{port}"), b"question");
        Conn::open(&mut net, &a, 40_000 + port, &format!("198.51.100.5:{port}"));
    }
    let mut kept = Conn::open(&mut net, &b, 40_000, "198.51.100.5:8002");
    let mut progress = net.start(Command::FlushFlows { name: Some("c1".to_owned()) });
    let mut steps = 1;
    let flushed = loop {
        match progress {
            Progress::Done(applied) => break applied,
            Progress::More(unfinished) => {
                assert!(net.flows().len() <= 301 - 64 * steps.min(4), "{steps}");
                kept.talk(&mut net, "198.51.100.5:8002");
                progress = net.proceed(unfinished);
                steps += 1;
            }
        }
    };
    assert_eq!((flushed, steps >= 5), (Applied::Flushed(300), true));
    assert_eq!((net.host().open(), net.flows().len()), (1, 1));
}

#[test]
fn flushed_container_keeps_its_published_ports() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    busy(&mut net, "c1", &a, 8001);
    busy(&mut net, "c2", &b, 8002);
    net.quiet_now();
    let flushed = net.apply(Command::FlushFlows { name: Some("c1".to_owned()) });
    assert_eq!(flushed, Applied::Flushed(4), "two connections, a datagram's flow and a ping's");
    assert_eq!(net.host().open(), BUSY + 4, "the four sockets of published ports");
    let resets = net.got(&a).iter().filter(|s| s.proto == TCP && s.flags() & RST != 0).count();
    assert_eq!(resets, 2, "both connections end");
    net.host().knock(end("192.0.2.10:8001"), end("203.0.113.7:9999"));
    net.host().datagram(end("203.0.113.7:9999"), end("192.0.2.10:8001"), b"question");
    net.pump();
    let got = net.got(&a);
    assert_eq!(
        got.iter().map(|s| (s.proto, s.from())).collect::<HashSet<_>>(),
        [(TCP, "203.0.113.7:9999".to_owned()), (UDP, "203.0.113.7:9999".to_owned())].into()
    );
    assert_eq!(net.apply(Command::FlushFlows { name: None }), Applied::Flushed(6));
    assert_eq!((net.host().open(), net.flows()), (8, vec![]));
}

#[test]
fn uplink_that_is_taken_away_leaves_nothing_open() {
    let mut net = lab();
    let a = net.attach();
    busy(&mut net, "c1", &a, 8001);
    let port = net.uplink.unwrap();
    net.apply(Command::Detach { port });
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}
