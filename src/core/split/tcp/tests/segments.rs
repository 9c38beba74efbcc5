//! What a segment says besides its data, and what it may not say.

use super::bed::{ACK, PSH, RST, SYN, Seg, URG};
use super::peer::{OPTIONS, Peer, ramp};
use crate::core::counters::DropReason;
use crate::core::socket::Mark;
use crate::core::split::tcp::Config;
use crate::wire::get32;

#[test]
fn urgent_byte_stays_urgent_and_in_its_place() {
    let mut peer = Peer::new(Config::default());
    let urgent = Seg { urgent: 3, flags: ACK | PSH | 0x20, ..peer.seg(ACK, b"abcdef") };
    peer.bed.input(&urgent).unwrap();
    assert_eq!(peer.got(), b"abcdef");
    assert_eq!(peer.bed.world.sockets[&peer.id].urgent, [2]);
}

#[test]
fn urgent_byte_of_the_host_is_marked_in_a_segment_of_its_own_and_when_it_is_sent_again() {
    let mut peer = Peer::new(Config::default());
    peer.bed.world.sockets.get_mut(&peer.id).unwrap().mark = Some(2);
    let sent = peer.host_sends(b"abcdef");
    let told: Vec<_> = sent.iter().map(|s| (&s.data[..], s.has(URG), s.urgent)).collect();
    assert_eq!(told, [(&b"ab"[..], false, 0), (b"c", true, 1), (b"def", false, 0)]);
    let again = peer.pass(300).remove(0);
    assert_eq!((&again.data[..], again.has(URG), again.urgent), (&b"abcdef"[..], true, 3));
    peer.acknowledge(peer.ack.wrapping_add(6));
    let later = peer.host_sends(b"ghi").remove(0);
    assert_eq!((later.has(URG), later.urgent), (false, 0));
}

#[test]
fn type_of_service_is_followed_and_the_time_to_live_of_the_syn_stays() {
    let mut peer = Peer::new(Config::default());
    let cs1 = Seg { tos: 0x20, ..peer.seg(ACK | PSH, b"hello") };
    peer.bed.input(&cs1).unwrap();
    assert_eq!(peer.bed.socket().1.marks, [Mark { ttl: 64, tos: 0 }, Mark { ttl: 64, tos: 0x20 }]);
}

#[test]
fn smallest_mss_makes_frames_of_at_most_128_segments() {
    let mut options = OPTIONS;
    options[2..4].copy_from_slice(&50_u16.to_be_bytes());
    let mut peer = Peer::with(Config::default(), &options);
    let sent = peer.host_sends(&ramp(100_000));
    assert!(sent.len() >= 8 && sent.iter().all(|s| s.data.len() <= 128 * 88));
    assert_eq!(sent[0].gso, 88);
}

#[test]
fn old_timestamps_are_dropped_and_new_ones_echoed() {
    let stamps = |value: u32| [&[1, 1, 8, 10][..], &value.to_be_bytes(), &[0; 4]].concat();
    let options = [&OPTIONS[..], &stamps(1000)].concat();
    let mut peer = Peer::received(Config::default(), &options);
    let send = |peer: &mut Peer, value: u32, data: &[u8]| {
        let seg = Seg { options: stamps(value), ..peer.seg(ACK, data) };
        let result = peer.bed.input(&seg);
        if result.is_ok() {
            peer.seq = peer.seq.wrapping_add(data.len() as u32);
        }
        result
    };
    send(&mut peer, 1001, b"one").unwrap();
    let ack = peer.one();
    assert_eq!(ack.options[8..12], 1001_u32.to_be_bytes());
    let ours = get32(&ack.options, 4);
    assert_eq!(send(&mut peer, 1000, b"old"), Err(DropReason::InvalidState));
    assert_eq!(peer.one().ack, peer.seq, "and acknowledged (RFC 7323 5.3)");
    peer.pass(1234);
    send(&mut peer, 1002, b"two").unwrap();
    assert_eq!(get32(&peer.one().options, 4), ours.wrapping_add(1234), "milliseconds");
    assert_eq!(peer.got(), b"onetwo");
    let sent = peer.host_sends(&ramp(5000));
    assert_eq!(sent[0].gso, 1448, "the option is part of the segment");
}

#[test]
fn challenge_answers_what_an_attacker_could_send() {
    let mut peer = Peer::new(Config::default());
    for (offset, flags) in [(1, RST), (5000, RST | ACK), (0, SYN), (5000, SYN)] {
        assert_eq!(peer.stray(offset, flags, b""), Err(DropReason::InvalidState));
        let challenge = peer.one();
        assert_eq!((challenge.flags, challenge.seq, challenge.ack), (ACK, peer.ack, peer.seq));
        assert_eq!(peer.stray(offset, flags, b""), Err(DropReason::InvalidState));
        assert_eq!(peer.bed.sent(), [], "not twice at once");
        peer.pass(100);
    }
    assert_eq!(peer.stray(-5000, RST, b""), Err(DropReason::InvalidState));
    assert_eq!(peer.bed.sent(), []);
    assert_eq!(peer.bed.states(), ["ESTABLISHED"]);
}

#[test]
fn acknowledgement_from_long_ago_is_challenged() {
    let mut peer = Peer::new(Config::default());
    let old = Seg { ack: peer.ack.wrapping_sub(1 << 30), ..peer.seg(ACK, b"forged") };
    assert_eq!(peer.bed.input(&old), Err(DropReason::InvalidState));
    assert_eq!(peer.one().ack, peer.seq);
    assert_eq!(peer.got(), b"");
}
