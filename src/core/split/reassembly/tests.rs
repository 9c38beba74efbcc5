use proptest::prelude::*;

use super::*;
use crate::core::split::udp::fake::{Packet, at, container};

const NOW: Instant = Instant::from_secs(100);

#[test]
fn fragments_become_the_packet_that_was_cut() {
    let mut table = Reassembly::new([1; 16]);
    let packet = packet(3000);
    let pieces = cut(&packet, 1480);
    assert_eq!(pieces.len(), 3);
    assert_eq!(put(&mut table, 2, &pieces[1]), Ok(None));
    assert_eq!(put(&mut table, 2, &pieces[2]), Ok(None));
    assert_eq!(put(&mut table, 2, &pieces[0]).map(|p| p.map(|p| p.l4)), Ok(Some(packet.l4)));
    assert_empty(&table);
}

#[test]
fn longest_datagram_is_put_together() {
    let mut table = Reassembly::new([1; 16]);
    let packet = packet(65_507);
    let pieces = cut(&packet, 1480);
    let (last, rest) = pieces.split_last().unwrap();
    for piece in rest {
        assert_eq!(put(&mut table, 2, piece), Ok(None));
    }
    assert_eq!(put(&mut table, 2, last).unwrap().unwrap().l4, packet.l4);
}

#[test]
fn datagram_longer_than_any_packet_is_dropped() {
    let mut table = Reassembly::new([1; 16]);
    let mut huge = packet(8);
    huge.l4.resize(65_528, 7); // with its header more than 65,535
    let results: Vec<_> = cut(&huge, 1480).iter().map(|p| put(&mut table, 2, p)).collect();
    assert!(results.iter().all(|r| !matches!(r, Ok(Some(_)))));
    assert_eq!(results.last(), Some(&Err(DropReason::FragmentTiny)));
}

#[test]
fn missing_first_fragment_makes_nothing_and_is_counted() {
    let mut table = Reassembly::new([1; 16]);
    for piece in &cut(&packet(3000), 1480)[1..] {
        assert_eq!(put(&mut table, 2, piece), Ok(None));
    }
    assert_eq!(table.next_timeout(), Some(NOW + TIMEOUT));
    table.handle_timeout(NOW + TIMEOUT);
    assert_empty(&table);
    assert_eq!(table.take_given_up(), BTreeMap::from([((PortId(2), GivenUp::TimedOut), 2)]));
}

#[test]
fn fragments_of_two_containers_do_not_mix() {
    let mut table = Reassembly::new([1; 16]);
    let pieces = cut(&packet(2000), 1480);
    assert_eq!(put(&mut table, 2, &pieces[0]), Ok(None));
    assert_eq!(put(&mut table, 3, &pieces[1]), Ok(None));
    table.detach(PortId(2));
    table.detach(PortId(3));
    assert_empty(&table);
}

#[test]
fn congestion_that_a_fragment_met_the_datagram_has_met() {
    for (marks, want) in [
        ([2, 2], Some(2)),
        ([2, 3], Some(3)),
        ([3, 2], Some(3)),
        ([1, 3], Some(3)),
        ([0, 0], Some(0)),
        ([0, 3], None),
        ([2, 0], None),
    ] {
        let mut table = Reassembly::new([1; 16]);
        let mut pieces = cut(&packet(2000), 1480);
        for (piece, mark) in pieces.iter_mut().zip(marks) {
            piece.tos |= mark;
        }
        put(&mut table, 2, &pieces[0]).unwrap();
        let tos = put(&mut table, 2, &pieces[1]).ok().flatten().map(|p| p.tos);
        assert_eq!(tos, want.map(|mark| 0x28 | mark), "{marks:?}");
        assert_empty(&table);
    }
}

#[test]
fn length_that_the_last_fragment_does_not_agree_with_ends_the_datagram() {
    let pieces = cut(&packet(4000), 1480);
    let short_end = Packet { fragment: pieces[1].fragment & !ipv4::MF, ..pieces[1].clone() };
    let mut table = Reassembly::new([1; 16]);
    put(&mut table, 2, &pieces[2]).unwrap();
    assert_eq!(put(&mut table, 2, &short_end), Err(DropReason::FragmentOverlap));
    // A last fragment that goes on.
    let mut table = Reassembly::new([1; 16]);
    put(&mut table, 2, &short_end).unwrap();
    assert_eq!(put(&mut table, 2, &pieces[1]), Err(DropReason::FragmentOverlap));
    assert_eq!(put(&mut table, 2, &pieces[0]), Err(DropReason::FragmentOverlap), "nothing of it comes any more");
}

// U14
#[test]
fn flood_of_one_container_leaves_anothers_datagram_alone() {
    let mut table = Reassembly::new([1; 16]);
    let mine = cut(&packet(3000), 1480);
    put(&mut table, 9, &mine[0]).unwrap();
    for id in 0..5_000 {
        let piece = Packet { id, ..cut(&packet(3000), 1480)[1].clone() };
        for flooder in 2..8 {
            let _ = put(&mut table, flooder, &piece);
            assert!(table.account.used(PortId(flooder.into())) <= SHARE);
        }
        assert!(table.account.total() <= TOTAL);
    }
    put(&mut table, 9, &mine[1]).unwrap();
    assert!(put(&mut table, 9, &mine[2]).unwrap().is_some());
    assert!(table.take_given_up().keys().all(|(owner, why)| *why == GivenUp::Evicted && *owner != PortId(9)));
    table.handle_timeout(NOW + TIMEOUT);
    assert_empty(&table);
}

#[test]
fn datagram_has_at_most_so_many_fragments() {
    let mut table = Reassembly::new([1; 16]);
    let pieces = cut(&packet(4000), 8);
    let results: Vec<_> = pieces.iter().map(|p| put(&mut table, 2, p)).collect();
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), MAX_HELD);
    assert!(results[MAX_HELD..].iter().all(|r| *r == Err(DropReason::FragmentLimit)));
}

proptest! {
    // U14
    #[test]
    fn any_order_with_duplicates_gives_the_same_datagram(
        len in 600usize..20_000,
        size in 32usize..200,
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..200),
        shuffle in any::<u64>(),
    ) {
        let packet = packet(len);
        let mut pieces = cut(&packet, size * 8);
        prop_assume!((2..=MAX_HELD).contains(&pieces.len()));
        // Some twice, all at least once, in any order.
        let again: Vec<_> = order.iter().map(|i| i.get(&pieces).clone()).collect();
        pieces.extend(again);
        let mut key = shuffle;
        pieces.sort_by_cached_key(|_| { key = key.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1); key >> 33 });
        let mut table = Reassembly::new([1; 16]);
        let mut whole = Vec::new();
        for piece in &pieces {
            match put(&mut table, 2, piece) {
                Ok(Some(packet)) => whole.push(packet.l4),
                Ok(None) => {}
                Err(why) => prop_assert_eq!(why, DropReason::FragmentOverlap),
            }
        }
        // With enough duplicates a second one may come about; each is the same.
        prop_assert!(!whole.is_empty());
        prop_assert!(whole.iter().all(|l4| *l4 == packet.l4));
        table.handle_timeout(NOW + TIMEOUT);
        assert_empty(&table);
    }

    #[test]
    fn overlapping_fragments_never_become_data(
        len in 600usize..6_000,
        size in 16usize..100,
        at in any::<prop::sample::Index>(),
        shift in 1u16..16,
        early in any::<bool>(),
        replaces in any::<bool>(),
    ) {
        let packet = packet(len);
        let pieces = cut(&packet, size * 8);
        prop_assume!(pieces.len() >= 3);
        // One fragment that begins within another and ends elsewhere.
        let i = at.index(pieces.len() - 2);
        let mut bad = pieces[i].clone();
        bad.fragment += shift.min(size as u16 - 1);
        bad.l4.fill(0xee);
        let mut table = Reassembly::new([1; 16]);
        let mut all: Vec<&Packet> = pieces.iter().collect();
        if replaces {
            all.remove(i); // so that there are as many bytes as there should be
        }
        // Before its datagram is whole.
        all.insert(if early { 0 } else { all.len() - 1 }, &bad);
        for piece in all {
            prop_assert!(!matches!(put(&mut table, 2, piece), Ok(Some(_))));
        }
    }

    #[test]
    fn no_fragment_panics(fragments in proptest::collection::vec((0u16..=0x3fff, 0usize..64, 0u16..3, 0u8..4), 1..200)) {
        let mut table = Reassembly::new([1; 16]);
        for (fragment, len, id, tos) in fragments {
            let piece = Packet { fragment: fragment & (ipv4::MF | 0x1f), l4: vec![1; len], id, tos, ..packet(8) };
            if piece.fragment != 0 {
                let _ = put(&mut table, 2, &piece);
            }
        }
        table.handle_timeout(NOW + TIMEOUT);
        assert_empty(&table);
    }
}

/// A UDP packet with so much data.
fn packet(len: usize) -> Packet {
    let data: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
    Packet { tos: 0x28, ..Packet::udp(at("172.17.0.2:4000"), at("198.51.100.5:5000"), &data) }
}

/// Cut into pieces with `size` bytes of data, a multiple of eight.
fn cut(packet: &Packet, size: usize) -> Vec<Packet> {
    let count = packet.l4.len().div_ceil(size);
    let piece = |(i, data): (usize, &[u8])| {
        let more = if i + 1 < count { ipv4::MF } else { 0 };
        Packet { fragment: (i * size / 8) as u16 | more, l4: data.to_vec(), ..packet.clone() }
    };
    packet.l4.chunks(size).enumerate().map(piece).collect()
}

/// Puts a fragment of container `n` in; the packet that it completes, whose checksum is right.
fn put(table: &mut Reassembly, n: u8, piece: &Packet) -> Result<Option<Seen>, DropReason> {
    let mut buf = piece.buffer();
    let end = buf.len();
    let frame = Frame::parse(&mut buf, HEADROOM, end, Link::Ip).unwrap();
    let whole = table.input(container(n).0, &frame, NOW)?;
    Ok(whole.map(|mut whole| {
        let frame = whole.frame().unwrap();
        Seen { tos: frame.l3()[ipv4::TOS], l4: frame.l4().to_vec() }
    }))
}

#[derive(Debug, PartialEq)]
struct Seen {
    tos: u8,
    l4: Vec<u8>,
}

fn assert_empty(table: &Reassembly) {
    assert!(table.datagrams.is_empty() && table.by_age.is_empty() && table.by_owner.is_empty());
    assert_eq!(table.account.total(), 0);
}
