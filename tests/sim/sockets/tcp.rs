//! Connections of a container: how they open, carry data both ways and end, and what it is told when they fail.

use pontoon::core::socket::{Close, Failure};

use super::conn::Conn;
use super::lab::{SERVER, end, lab, told};
use crate::net::{Host, Net};
use crate::packet::{ACK, FIN, PSH, RST, SYN, Seen, tcp, tcp_with, too_big};

#[test]
fn connection_reaches_the_host_and_data_crosses_both_ways() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    for _ in 0..3 {
        conn.talk(&mut net, SERVER);
    }
}

#[test]
fn half_closed_connection_carries_data_until_the_other_end_finishes() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    let (id, _) = net.host().stream(end(SERVER));
    net.host().end_from(end(SERVER));
    net.pump();
    assert_eq!((conn.heard(&mut net), conn.ended), (vec![], true));
    conn.say(&mut net, b"half-closed is not closed");
    assert_eq!(net.host().take(end(SERVER)), b"half-closed is not closed");
    conn.finish(&mut net);
    let stream = &net.host().streams[&id];
    assert_eq!((stream.finished, stream.closed), (true, Some(Close::Orderly)));
    assert_eq!(net.host().open(), 0);
    net.secs(60);
    assert_eq!(net.flows(), []);
}

#[test]
fn host_that_breaks_off_is_a_reset_and_never_an_end() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    conn.talk(&mut net, SERVER);
    net.host().break_off(end(SERVER), Failure::Reset);
    net.pump();
    let last = net.got_one(&a);
    assert_eq!(last.flags() & (RST | FIN), RST, "{last:?}");
    assert_eq!((net.host().open(), net.flows()), (0, vec![]));
}

#[test]
fn host_that_does_not_read_closes_the_window_and_loses_nothing() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    let data: Vec<u8> = (0..900_000u32).map(|n| (n % 251) as u8).collect();
    let (mut said, mut got, mut window, mut closed) = (0, Vec::new(), 1400, 0);
    while said < data.len() {
        let len = 1400.min(data.len() - said);
        if window < len {
            closed += 1;
            net.secs(5);
            assert_eq!(net.got(&a), [], "nothing opens it but the host");
            got.extend(net.host().take(end(SERVER)));
            net.pump();
        } else {
            conn.send(&mut net, ACK | PSH, &data[said..said + len]);
            (said, conn.seq) = (said + len, conn.seq.wrapping_add(len as u32));
        }
        let last = net.got(&a).pop().expect("an acknowledgement");
        assert_eq!(last.ack(), conn.seq);
        window = usize::from(last.word(14));
    }
    while got.len() < data.len() {
        got.extend(net.host().take(end(SERVER)));
        net.pump();
    }
    assert!(got == data && closed > 1, "{closed} times closed");
}

#[test]
fn tcp_super_frames_cross_whole() {
    let mut net = lab();
    let a = net.attach();
    let mut conn = Conn::open(&mut net, &a, 40_000, SERVER);
    let data: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
    let large = tcp_with(&conn.inside, SERVER, ACK | PSH, conn.seq, conn.ack, &[], &data).partial();
    net.route_offloaded(&a, &large, 1460);
    net.pump();
    assert!(net.host().take(end(SERVER)) == data);
    assert_eq!(net.got_one(&a).ack(), conn.seq + 20_000);
    net.host().send_from(end(SERVER), &data);
    conn.seq += 20_000;
    net.pump();
    let out = net.received(a.port);
    assert_eq!((out.len(), out[0].vnet.gso_size), (1, 1460));
    assert!(out[0].ip().data() == data);
}

/// A connection of the container's, and a segment of 1400 bytes to it that waits to be acknowledged: the IP packet.
#[track_caller]
fn long_segment(net: &mut Net, host: &Host) -> Vec<u8> {
    let mut conn = Conn::open(net, host, 40_000, SERVER);
    conn.talk(net, SERVER);
    net.host().send_from(end(SERVER), &[7; 400]);
    net.host().send_from(end(SERVER), &[7; 1000]);
    net.pump();
    let sent = net.received(host.port);
    let long = sent.iter().map(|out| (&out.bytes[14..], out.ip())).find(|(_, s)| s.data().len() > 400);
    let (bytes, seen) = long.expect("a segment that is too long behind the container");
    assert_eq!(seen.seq(), conn.ack);
    bytes.to_vec()
}

#[test]
fn too_big_about_what_was_not_sent_is_unrelated() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    let bytes = long_segment(&mut net, &a);
    let mut wrong = bytes.clone();
    let seq = Seen::read(&bytes).seq().wrapping_sub(9);
    wrong[24..28].copy_from_slice(&seq.to_be_bytes());
    for quoted in [&wrong[..], &bytes[..20]] {
        net.route(&a, &too_big("172.17.0.2", "198.51.100.5", 576, quoted));
    }
    // What a neighbour was sent.
    net.route(&b, &too_big("172.17.0.3", "198.51.100.6", 576, &bytes));
    net.pump();
    assert_eq!(net.got(&a), []);
    assert_eq!((net.dropped(a.port, "icmp-unrelated"), net.dropped(b.port, "icmp-unrelated")), (2, 1));
}

#[test]
fn router_behind_a_container_makes_segments_fit_its_mtu() {
    let mut net = lab();
    let a = net.attach();
    let bytes = long_segment(&mut net, &a);
    net.route(&a, &too_big("172.17.0.2", "198.51.100.5", 576, &bytes));
    net.pump();
    let again = net.received(a.port);
    assert!(!again.is_empty(), "sent again");
    for out in &again {
        let header = out.bytes.len() - 14 - out.ip().data().len();
        let segment = if out.vnet.gso_size > 0 { usize::from(out.vnet.gso_size) } else { out.ip().data().len() };
        assert!(header + segment <= 576, "{header} and {segment}");
    }
    assert_eq!(again.iter().map(|out| out.ip().data().len()).sum::<usize>(), 1400);
}

#[test]
fn refused_connection_is_reset_and_an_unreachable_one_gets_its_icmp_error() {
    let mut net = lab();
    let a = net.attach();
    let outcomes = [
        (Failure::Refused, None),
        (Failure::HostUnreachable, Some((3, 1))),
        (Failure::NetUnreachable, Some((3, 0))),
        (Failure::Prohibited, Some((3, 13))),
    ];
    for (port, (failure, error)) in (7001..).zip(outcomes) {
        let to = format!("198.51.100.5:{port}");
        net.host().refusals.insert(end(&to), failure);
        net.route(&a, &tcp_with("172.17.0.2:40000", &to, SYN, 7, 0, &[], &[]));
        net.pump();
        match error {
            Some(error) => assert_eq!(told(&mut net, &a), error, "{failure:?}"),
            None => {
                let reset = net.got_one(&a);
                assert_eq!((reset.flags(), reset.ack(), reset.from()), (RST | ACK, 8, to));
            }
        }
        assert_eq!((net.host().open(), net.flows()), (0, vec![]), "{failure:?}");
        net.secs(1);
    }
}

#[test]
fn connection_that_is_never_answered_gets_no_word() {
    let mut net = lab();
    let a = net.attach();
    net.host().refusals.insert(end(SERVER), Failure::TimedOut);
    net.route(&a, &tcp("172.17.0.2:40000", SERVER, SYN));
    net.pump();
    assert_eq!(net.got(&a), [], "silence is silence");
    assert_eq!((net.dropped(a.port, "connect-timeout"), net.host().open()), (1, 0));
}

#[test]
fn connections_of_equal_ports_do_not_mix() {
    let mut net = lab();
    let (a, b) = (net.attach(), net.attach());
    let mut conns = [Conn::open(&mut net, &a, 40_000, SERVER), Conn::open(&mut net, &b, 40_000, "198.51.100.5:81")];
    let peers = [SERVER, "198.51.100.5:81"];
    for (conn, peer) in conns.iter_mut().zip(peers) {
        conn.talk(&mut net, peer);
    }
    for peer in peers {
        net.host().send_from(end(peer), peer.as_bytes());
    }
    net.pump();
    for (conn, peer) in conns.iter_mut().zip(peers) {
        assert_eq!(conn.heard(&mut net), peer.as_bytes());
    }
}
