//! How a connection opens, and how it does not.

use std::time::Duration;

use super::bed::{ACK, Bed, FIN, PORT, PSH, RST, SYN, Seg, addr_of, end};
use super::peer::{ISN, OPTIONS, Peer, ramp};
use crate::core::counters::DropReason;
use crate::core::socket::{Close, Failure, Mark, Ready};
use crate::core::split::tcp::Config;
use crate::wire::addr::Addr;
use crate::wire::{checksum, get32};

#[test]
fn what_the_host_decides_at_once_is_told_at_once() {
    for (outcome, flags) in [(Ok(()), SYN | ACK), (Err(Failure::Refused), RST | ACK)] {
        let mut bed = Bed::new(Config::default());
        bed.world.outcome = Some(outcome);
        let mut peer = Peer { bed, me: end("172.17.0.2", 40_000), ..Peer::connecting(Config::default(), &OPTIONS) };
        let syn = Seg { options: OPTIONS.to_vec(), ..peer.seg(SYN, b"") };
        peer.bed.input(&syn).unwrap();
        assert_eq!(peer.one().flags, flags);
    }
}

#[test]
fn what_a_host_says_before_the_container_knows_of_it_is_not_lost() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    let sock = peer.bed.world.sockets.get_mut(&peer.id).unwrap();
    sock.outcome = Some(Ok(()));
    sock.inbox.extend(b"hello");
    let both = Ready { readable: true, writable: true, error: false };
    peer.bed.tcp.socket_ready(peer.id, both, peer.bed.now, &mut peer.bed.world);
    let answer = peer.one();
    peer.ack = answer.seq.wrapping_add(1);
    peer.seq = peer.seq.wrapping_add(1);
    peer.bed.input(&peer.seg(ACK, b"")).unwrap();
    assert_eq!(peer.bed.sent()[0].data, b"hello");
}

#[test]
fn syn_is_answered_only_when_the_host_is_connected() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    assert_eq!((peer.bed.socket().1.to, peer.bed.socket().1.mss), (Some(peer.far), 1460));
    assert_eq!(peer.bed.socket().1.marks, [Mark { ttl: 64, tos: 0 }]);
    // It comes again, and changes nothing.
    let syn = Seg { options: OPTIONS.to_vec(), ..peer.seg(SYN, b"") };
    peer.bed.input(&syn).unwrap();
    assert_eq!(peer.bed.world.sockets.len(), 1);
    peer.bed.decide(peer.id, Ok(()));
    let answer = peer.one();
    assert_eq!((answer.flags, answer.window), (SYN | ACK, 0xffff));
    assert_eq!(answer.options, [2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 4]);
    peer.seq = ISN.wrapping_add(1);
    peer.ack = answer.seq.wrapping_add(1);
    peer.send(ACK | PSH, b"hello");
    let ack = peer.one();
    assert_eq!((ack.flags, ack.ack), (ACK, peer.seq));
    assert_eq!(u32::from(ack.window) << 4, 256 << 10, "the window from the first acknowledgement on");
    assert_eq!(peer.got(), b"hello");
}

#[test]
fn failed_connects_are_told_as_what_they_are() {
    for (why, flags, icmp, counted) in [
        (Failure::Refused, Some(RST | ACK), None, None),
        (Failure::Reset, Some(RST | ACK), None, None),
        (Failure::HostUnreachable, None, Some(1), None),
        (Failure::NetUnreachable, None, Some(0), None),
        (Failure::Prohibited, None, Some(13), None),
        (Failure::TimedOut, None, None, Some(DropReason::ConnectTimeout)),
        (Failure::NoAddress, None, None, Some(DropReason::PortsExhausted)),
    ] {
        let mut peer = Peer::connecting(Config::default(), &OPTIONS);
        peer.bed.decide(peer.id, Err(why));
        if let Some(flags) = flags {
            let rst = peer.one();
            assert_eq!((rst.flags, rst.seq, rst.ack), (flags, 0, ISN.wrapping_add(1)));
        } else if let Some(code) = icmp {
            let packet = peer.bed.packets().remove(0);
            assert_eq!((packet[9], packet[20], packet[21]), (1, 3, code), "{why:?}");
            assert_eq!(packet[12..16], [172, 17, 0, 1]);
            assert_eq!(get32(&packet, 28 + 24), ISN, "the SYN is quoted");
            assert_eq!(checksum::sum(&packet[20..]), 0xffff);
        }
        assert!(peer.bed.world.out.is_empty());
        assert_eq!(peer.bed.world.counted.pop(), counted);
        peer.bed.assert_empty();
        // The same when connect itself says so.
        let mut bed = Bed::new(Config::default());
        bed.world.connect = Err(why);
        let syn = peer.seg(SYN, b"");
        let result = bed.input(&syn);
        assert_eq!(result.err(), (why == Failure::NoAddress).then_some(DropReason::PortsExhausted));
        assert_eq!(bed.world.out.len(), usize::from(flags.is_some() || icmp.is_some()));
        bed.world.sockets.clear();
        bed.assert_empty();
    }
}

#[test]
fn unreachable_ipv6_host_is_told_by_icmpv6() {
    let mut peer = connecting_by_ipv6();
    peer.bed.decide(peer.id, Err(Failure::HostUnreachable));
    let error = peer.bed.packets().remove(0);
    assert_eq!((error[6], error[40], error[41]), (58, 1, 3));
    let (us, them) = (Addr::read6(&error, 8).unwrap(), Addr::read6(&error, 24).unwrap());
    assert_eq!((us, them), (addr_of("2001:db8:17::1"), peer.me.addr));
    let pseudo = checksum::pseudo_header(us, them, 58, (error.len() - 40) as u32);
    assert_eq!(checksum::add(pseudo, checksum::sum(&error[40..])), 0xffff);
    peer.bed.assert_empty();
}

/// An IPv6 container that has sent its SYN.
fn connecting_by_ipv6() -> Peer {
    let mut bed = Bed::new(Config::default());
    bed.world.gateway = Some(addr_of("2001:db8:17::1"));
    Peer::between(bed, end("2001:db8:17::2", 40_000), end("2001:db8::5", 80), &OPTIONS)
}

#[test]
fn ipv6_is_the_same() {
    let mut peer = connecting_by_ipv6();
    peer.bed.decide(peer.id, Ok(()));
    let answer = peer.one();
    assert_eq!(answer.options[..4], [2, 4, 5, 160], "1440");
    peer.seq = peer.seq.wrapping_add(1);
    peer.ack = answer.seq.wrapping_add(1);
    peer.send(ACK, b"six");
    assert_eq!(peer.got(), b"six");
    peer.bed.sent();
    let sent = peer.host_sends(&ramp(100_000));
    assert!(sent[0].gso == 1440 && sent[0].data.len() == 1440 * 45, "{} {}", sent[0].gso, sent[0].data.len());
}

#[test]
fn data_on_a_syn_is_not_lost() {
    let mut bed = Bed::new(Config::default());
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    let syn = Seg { options: OPTIONS.to_vec(), ..peer.seg(SYN, b"early") };
    bed.input(&syn).unwrap();
    let id = bed.socket().0;
    bed.decide(id, Ok(()));
    let answer = bed.sent().remove(0);
    assert_eq!(answer.ack, ISN.wrapping_add(1), "the SYN alone is acknowledged");
    (peer.seq, peer.ack) = (ISN.wrapping_add(1), answer.seq.wrapping_add(1));
    let again = peer.seg(ACK, b"early");
    bed.input(&again).unwrap();
    assert_eq!(bed.world.sockets[&id].outbox, b"early");
}

#[test]
fn lost_syn_ack_does_not_slow_the_data_down() {
    let mut peer = Peer::received(Config::default(), &OPTIONS);
    assert_eq!(peer.pass(1000).len(), 1, "the SYN-ACK again");
    assert_eq!(peer.pass(2000).len(), 1, "and again");
    peer.send(ACK, b"");
    assert_eq!(peer.host_sends(b"x").len(), 1);
    // RFC 6298 5.7: three seconds, and not what the timeout had grown to.
    assert_eq!(peer.pass(2900).len(), 0);
    assert_eq!(peer.pass(200).len(), 1);
}

#[test]
fn second_syn_of_a_container_that_began_anew_replaces_the_first() {
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    let syn = Seg { seq: 42, ..peer.seg(SYN, b"") };
    peer.bed.input(&syn).unwrap();
    assert_eq!(peer.bed.world.sockets[&peer.id].closed, Some(Close::Reset));
    let id = peer.bed.socket().0;
    peer.bed.decide(id, Ok(()));
    assert_eq!(peer.one().ack, 43);
    // The old socket's event comes late.
    let ready = Ready { writable: true, readable: true, error: true };
    assert!(!peer.bed.tcp.socket_ready(peer.id, ready, peer.bed.now, &mut peer.bed.world));
}

#[test]
fn syn_flood_is_bounded_and_the_oldest_gives_way() {
    let config = Config { half_open_per_port: 10, ..Config::default() };
    let mut bed = Bed::new(config);
    let peer = Peer::connecting(Config::default(), &OPTIONS);
    for port in 1000..2000 {
        let syn = Seg { from: end("172.17.0.2", port), ..peer.seg(SYN, b"") };
        bed.input(&syn).unwrap();
        let open: Vec<u16> = bed.rows().iter().map(|r| r.tuple.sport).collect();
        assert!(open.len() <= 10 && open.contains(&port) && open.iter().all(|p| *p + 10 > port));
    }
    assert_eq!(bed.world.counted.len(), 990);
    assert_eq!(bed.world.sockets.values().filter(|s| s.closed.is_none()).count(), 10);
    bed.pass(Duration::from_secs(200));
    bed.assert_empty();
}

#[test]
fn limits_refuse_new_connections_and_keep_old_ones() {
    for (config, room, why) in [
        (Config { flows_max: 1, ..Config::default() }, 10, DropReason::FlowTableFull),
        (Config { flows_per_port: 1, ..Config::default() }, 10, DropReason::FlowQuota),
        (Config::default(), 0, DropReason::NoSocket),
    ] {
        let mut peer = Peer::new(config);
        peer.bed.world.room = room;
        let syn = Seg { from: end("172.17.0.2", 1), ..peer.seg(SYN, b"") };
        assert_eq!(peer.bed.input(&syn), Err(why));
        assert_eq!(peer.bed.sent(), []);
        peer.send(ACK, b"still here");
        assert_eq!(peer.got(), b"still here");
        peer.bed.tcp.detach(PORT, peer.bed.now, &mut peer.bed.world);
        peer.bed.assert_empty();
    }
}

#[test]
fn segment_of_no_connection_is_refused() {
    let mut bed = Bed::new(Config::default());
    let mut peer = Peer::connecting(Config::default(), &OPTIONS);
    peer.ack = 77;
    assert_eq!(bed.input(&peer.seg(ACK, b"data")), Err(DropReason::Untracked));
    let rst = bed.sent().remove(0);
    assert_eq!((rst.flags, rst.seq, rst.from, rst.to), (RST, 77, peer.far, peer.me));
    assert_eq!(bed.input(&peer.seg(FIN, b"data")), Err(DropReason::Untracked));
    let rst = bed.sent().remove(0);
    assert_eq!((rst.flags, rst.ack), (RST | ACK, peer.seq.wrapping_add(5)));
    assert_eq!(bed.input(&peer.seg(RST, b"")), Err(DropReason::Untracked));
    assert_eq!(bed.sent(), []);
    assert_eq!(bed.input(&peer.seg(SYN | FIN, b"")), Err(DropReason::InvalidState));
    bed.assert_empty();
}
