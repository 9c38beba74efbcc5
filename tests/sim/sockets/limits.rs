//! A host with no descriptor left: what it has goes on, and the rest is refused, counted or taken later.

use pontoon::core::command::{CommandError, Transport};
use pontoon::core::socket::Failure;

use super::conn::Conn;
use super::lab::{CLIENT, RESOLVER, SERVER, end, lab, publish, told};
use crate::net::publication;
use crate::packet::{SYN, tcp, udp};

#[test]
fn host_without_descriptors_is_counted_and_keeps_what_it_has() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    net.host().full = true;
    net.route(&a, &tcp("172.17.0.2:40001", SERVER, SYN));
    net.pump();
    assert_eq!((net.got(&a), net.dropped(a.port, "no-socket")), (vec![], 1));
    net.route(&a, &udp("172.17.0.2:1", RESOLVER));
    assert_eq!((told(&mut net, &a), net.dropped(a.port, "no-socket")), ((3, 13), 2));
    conn.talk(&mut net, SERVER);
    net.host().full = false;
    Conn::open(&mut net, &a, 40_001, "198.51.100.5:81").talk(&mut net, "198.51.100.5:81");
}

#[test]
fn client_that_waits_for_a_descriptor_leaves_the_loop_asleep_and_is_taken_when_there_is_one() {
    let mut net = lab();
    let a = net.attach();
    net.publish("c1", Transport::Tcp, 8080, 80);
    net.host().full = true;
    net.host().knock(end("192.0.2.10:8080"), end(CLIENT));
    net.pump();
    assert_eq!(net.dropped(a.port, "no-socket"), 1);
    net.secs(60); // which fails if a timer is always due
    assert_eq!(net.got(&a), vec![]);
    net.host().full = false;
    net.secs(1);
    Conn::accept(&mut net, &a).talk(&mut net, CLIENT);
}

#[test]
fn range_beyond_the_hosts_descriptors_is_refused_before_any_is_opened() {
    let mut net = lab();
    net.attach();
    let room = u16::try_from(pontoon::core::socket::Sockets::room(net.host())).unwrap();
    let range = |count: u16| (0..count).map(|n| publication(Transport::Tcp, 2000 + n, 80)).collect::<Vec<_>>();
    // Each has a socket of either family.
    let refused = publish(&mut net, "c1", range(room / 2 + 1)).unwrap_err();
    let words = refused.to_string();
    assert!(matches!(refused, CommandError::Bind { failure: Failure::NoFiles, .. }), "{words}");
    for part in [&format!(":{}/tcp", 2000 + room / 2), "10002 descriptors", "10000 are left", "RLIMIT_NOFILE"] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(net.host().open(), 0);
    publish(&mut net, "c1", range(room / 2)).unwrap();
    assert_eq!(net.host().open(), usize::from(room));
}
