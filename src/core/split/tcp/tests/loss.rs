//! What a link lost, told and sent again.

use super::bed::{ACK, Bed, FIN, NET, RST};
use super::peer::{ISN, Peer, ramp};
use crate::core::conntrack::FiveTuple;
use crate::core::split::tcp::Config;
use crate::core::split::tcp::segment::later;

#[test]
fn hole_is_told_by_sack_and_filled() {
    let mut peer = Peer::new(Config::default());
    peer.stray(1000, ACK, &ramp(2500)[1000..2000]).unwrap();
    let ack = peer.one();
    assert_eq!((ack.ack, ack.sacks()), (peer.seq, vec![(peer.seq.wrapping_add(1000), peer.seq.wrapping_add(2000))]));
    peer.send(ACK, &ramp(1000));
    let ack = peer.one();
    assert_eq!((ack.ack, ack.sacks()), (peer.seq.wrapping_add(1000), vec![]));
    assert_eq!(peer.got(), &ramp(2000)[..]);
}

#[test]
fn what_came_last_is_told_first() {
    let mut peer = Peer::new(Config::default());
    for n in 1..=32 {
        peer.stray(n * 20, ACK, b"piece").unwrap();
        let at = peer.seq.wrapping_add_signed(n * 20);
        assert_eq!(peer.one().sacks()[0], (at, at.wrapping_add(5)));
    }
}

#[test]
fn lost_super_frame_is_sent_again_as_one() {
    let mut peer = Peer::new(Config::default());
    let data = ramp(192_720);
    let first = peer.host_sends(&data);
    assert!(first.iter().all(|s| s.gso == 1460), "{:?}", first.iter().map(|s| s.data.len()).collect::<Vec<_>>());
    let (lost, next) = (&first[1], &first[2]);
    peer.sack(lost.seq, &[(next.seq, next.seq.wrapping_add(next.data.len() as u32))]);
    let again = peer.bed.sent();
    assert_eq!(again[0].seq, lost.seq);
    assert!(again[0].data == lost.data);
    peer.acknowledge(peer.ack.wrapping_add(data.len() as u32 - lost.seq.wrapping_sub(first[0].seq)));
    assert_eq!(peer.bed.tcp.memory(), (0, 0));
    assert_eq!(peer.bed.tcp.stats().retransmits, 1);
}

#[test]
fn lost_tail_is_asked_about_by_its_last_packet_long_before_the_timeout() {
    let mut peer = Peer::new(Config::default());
    let frame = peer.host_sends(&ramp(14_600)).remove(0);
    let end = frame.seq.wrapping_add(14_600);
    // A kernel whose reader stands still delays its acknowledgement by 40 ms and more, of any number of packets.
    assert_eq!(peer.pass(99), []);
    let probe = peer.pass(1).remove(0);
    assert_eq!((probe.seq, probe.data == ramp(14_600)[13_140..]), (end.wrapping_sub(1460), true));
    // All but the probe is missing: told by its answer, sent again at once.
    peer.sack(frame.seq, &[(probe.seq, end)]);
    let again = peer.one();
    assert_eq!((again.seq, again.data.len()), (frame.seq, 13_140));
    peer.acknowledge(end);
    assert_eq!((peer.bed.tcp.stats().retransmits, peer.bed.tcp.stats().losses), (2, 1));
    assert_eq!(peer.bed.tcp.memory(), (0, 0));
    // What follows is not taken for a second loss.
    let more = peer.host_sends(&ramp(14_600)).remove(0);
    peer.acknowledge(more.seq.wrapping_add(more.data.len() as u32));
    assert_eq!(peer.bed.tcp.stats().losses, 1);
}

#[test]
fn probe_that_mends_a_loss_counts_as_one_and_a_needless_one_does_not() {
    for needless in [false, true] {
        let mut peer = Peer::new(Config::default());
        let frame = peer.host_sends(&ramp(14_600)).remove(0);
        let end = frame.seq.wrapping_add(14_600);
        let probe = peer.pass(100).remove(0);
        if needless {
            peer.acknowledge(end);
            peer.sack(end, &[(probe.seq, end)]);
        } else {
            peer.acknowledge(end);
        }
        let cwnd = peer.bed.rows()[0].cwnd;
        let more = peer.host_sends(&ramp(29_200)).remove(0);
        peer.acknowledge(more.seq.wrapping_add(more.data.len() as u32));
        assert_eq!(peer.bed.tcp.stats().losses, u64::from(!needless));
        assert_eq!(peer.bed.rows()[0].cwnd < cwnd, !needless);
    }
}

#[test]
fn unanswered_probe_leaves_the_timeout_where_it_was() {
    let mut peer = Peer::new(Config::default());
    let frame = peer.host_sends(&ramp(14_600)).remove(0);
    assert_eq!(peer.pass(100).len(), 1);
    assert_eq!(peer.pass(199), []);
    let again = peer.pass(1).remove(0);
    assert_eq!((again.seq, again.data.len()), (frame.seq, 14_600));
    assert_eq!(peer.pass(599), [], "one probe, then the timeout doubles");
}

#[test]
fn single_packet_whose_answer_may_be_delayed_waits_for_the_timeout() {
    let mut peer = Peer::new(Config::default());
    peer.host_sends(&ramp(1000));
    assert_eq!(peer.pass(299), []);
    assert_eq!(peer.pass(1).len(), 1);
}

#[test]
fn nothing_is_sent_again_while_a_reader_that_stands_may_delay_its_acknowledgement() {
    let mut peer = Peer::new(Config::default());
    let frame = peer.host_sends(&ramp(29_200)).remove(0);
    // Half of it has come, and nobody has read it: the right edge stays where it was.
    peer.window -= 14_600 >> 7;
    peer.acknowledge(frame.seq.wrapping_add(14_600));
    assert_eq!(peer.pass(299), []);
    assert_eq!(peer.pass(1).len(), 1, "the timeout");
}

#[test]
fn end_behind_lost_data_is_asked_about_too() {
    let mut peer = Peer::new(Config::default());
    let frame = peer.host_sends(&ramp(14_600)).remove(0);
    let fin = peer.host_ends().remove(0);
    let probe = peer.pass(100).remove(0);
    assert_eq!((probe.seq, probe.flags), (fin.seq, ACK | FIN));
    peer.sack(frame.seq, &[(fin.seq, fin.seq.wrapping_add(1))]);
    assert_eq!(peer.one().data.len(), 14_600);
}

#[test]
fn timeout_sends_one_super_frame_and_doubles() {
    // Without SACK nothing is asked before.
    let mut peer = Peer::with(Config::default(), &[2, 4, 5, 180, 1, 3, 3, 7]);
    let first = peer.host_sends(&ramp(262_144));
    let mut waits = Vec::new();
    let mut last = peer.bed.now;
    for _ in 0..7 {
        let at = peer.bed.tcp.next_timeout().unwrap();
        peer.bed.pass(at.since(peer.bed.now));
        for again in peer.bed.sent() {
            assert_eq!((again.seq, again.data.len()), (first[0].seq, first[0].data.len()));
            waits.push(peer.bed.now.since(last).as_millis());
            last = peer.bed.now;
        }
    }
    assert_eq!(waits, [300, 600, 1200, 2400, 4800, 9600, 19_200]);
    assert!(peer.pass(40_000).last().unwrap().has(RST));
    peer.bed.assert_empty();
}

#[test]
fn loss_without_sack_is_found_by_duplicate_acknowledgements() {
    for key in 0..16 {
        lose_without_sack(Bed::with_key(Config::default(), key));
    }
}

/// One loss from sequence numbers on that the bed's key decides.
fn lose_without_sack(bed: Bed) {
    let mut peer = Peer::from(bed, &[2, 4, 5, 180, 1, 3, 3, 7]);
    peer.bed.decide(peer.id, Ok(()));
    peer.seq = ISN.wrapping_add(1);
    peer.ack = peer.one().seq.wrapping_add(1);
    peer.send(ACK, b"");
    let first = peer.host_sends(&ramp(262_144));
    assert!(first.len() > 4);
    let lost = first[0].seq;
    for _ in 0..2 {
        peer.acknowledge(lost);
        assert_eq!(peer.bed.sent(), []);
    }
    peer.acknowledge(lost);
    let again = peer.one();
    assert_eq!((again.seq, again.data.len()), (lost, first[0].data.len()), "the super-frame");
    // A second one was lost, too (RFC 6582): it is sent again at once.
    peer.acknowledge(first[1].seq);
    assert_eq!(peer.bed.sent()[0].seq, first[1].seq);
    let all: u32 = first.iter().map(|s| s.data.len() as u32).sum();
    peer.acknowledge(lost.wrapping_add(all));
    assert_eq!(peer.bed.tcp.stats().losses, 1);
    let row = peer.bed.rows().remove(0);
    assert_eq!(row.cwnd, all / 2, "halved");
}

#[test]
fn duplicates_of_a_recovery_that_is_over_are_no_second_loss() {
    let mut peer = Peer::with(Config::default(), &[2, 4, 5, 180, 1, 3, 3, 7]);
    let first = peer.host_sends(&[1; 150_000]);
    let len: u32 = first.iter().map(|s| s.data.len() as u32).sum();
    for _ in 0..3 {
        peer.acknowledge(first[0].seq);
    }
    assert_eq!(peer.one().seq, first[0].seq, "sent again");
    let end = first[0].seq.wrapping_add(len);
    peer.acknowledge(end);
    assert!(!peer.host_sends(&[2; 10_000]).is_empty());
    // What was sent again in vain is acknowledged once more for each of its packets (RFC 6582 3.2).
    for _ in 0..5 {
        peer.acknowledge(end);
        assert_eq!(peer.bed.sent(), []);
    }
    assert_eq!(peer.bed.tcp.stats().losses, 1);
}

#[test]
fn small_writes_share_chunks_and_are_sent_again_exactly() {
    let mut peer = Peer::new(Config::default());
    let data = ramp(9000);
    let mut seen = Vec::new();
    for piece in data.chunks(90) {
        for seg in peer.host_sends(piece) {
            seen.push((seg.seq, seg.data));
        }
    }
    assert!(peer.bed.tcp.memory().1 <= 16_384, "{:?}", peer.bed.tcp.memory());
    let start = seen[0].0;
    // All but the pieces in the middle arrived: they lie within a chunk whose other bytes are still needed.
    for n in 0..4 {
        peer.sack(start.wrapping_add(90), &[(start.wrapping_add(180), start.wrapping_add(1170 + n))]);
    }
    let hole = peer.bed.sent();
    assert_eq!((hole[0].seq, &hole[0].data[..]), (start.wrapping_add(90), &data[90..180]));
    // Then nothing of it is heard of any more, and all comes again after a timeout.
    let mut stream = vec![0; 9000];
    for _ in 0..20 {
        for seg in peer.pass(500) {
            let at = seg.seq.wrapping_sub(start) as usize;
            stream[at..at + seg.data.len()].copy_from_slice(&seg.data);
            peer.ack = later(peer.ack, seg.seq.wrapping_add(seg.data.len() as u32));
        }
        peer.acknowledge(peer.ack);
        for seg in peer.bed.sent() {
            let at = seg.seq.wrapping_sub(start) as usize;
            stream[at..at + seg.data.len()].copy_from_slice(&seg.data);
            peer.ack = later(peer.ack, seg.seq.wrapping_add(seg.data.len() as u32));
        }
    }
    assert!(stream[90..] == data[90..]);
    assert_eq!(peer.bed.tcp.memory(), (0, 0));
}

#[test]
fn path_mtu_of_the_container_is_obeyed() {
    let mut peer = Peer::new(Config::default());
    let sent = peer.host_sends(&ramp(20_000));
    let tuple =
        FiveTuple { src: peer.far.addr, dst: peer.me.addr, sport: peer.far.port, dport: peer.me.port, proto: 6 };
    let bed = &mut peer.bed;
    let tell = |bed: &mut Bed, seq: u32| bed.tcp.icmp_error(&tuple, NET, seq, Some(1400), bed.now, &mut bed.world);
    assert!(!tell(bed, sent[0].seq.wrapping_sub(1)), "quotes nothing that is in flight");
    assert!(tell(bed, sent[0].seq));
    let again = bed.sent();
    assert!(again.iter().all(|s| s.gso == 1360), "{again:?}");
    assert_eq!(again.iter().map(|s| s.data.len()).sum::<usize>(), 20_000);
}
