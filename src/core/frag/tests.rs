use proptest::prelude::*;

use super::*;

const A: PortId = PortId(1);
const B: PortId = PortId(2);
const PORTS: (u16, u16) = (40_000, 53);
const NOW: Instant = Instant::from_secs(100);

#[test]
fn later_fragments_have_the_ports_of_the_first() {
    let mut table = table();
    assert_eq!(first(&mut table, A, 1, 0..1480), PASS);
    assert_eq!(later(&mut table, A, 1, 1480..2960, true), KNOWN);
    assert_eq!(later(&mut table, A, 1, 2960..3000, false), KNOWN);
}

// U14
#[test]
fn three_fragments_pass_in_all_six_orders() {
    let pieces = [(0, 1480), (1480, 2960), (2960, 3000)];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut table = table();
        let mut passed = Vec::new();
        let mut waiting = Vec::new();
        for i in order {
            let (start, end) = pieces[i];
            if i == 0 {
                let held = !waiting.is_empty();
                assert_eq!(first(&mut table, A, 1, 0..end), First::Pass { held });
                passed.push(0);
                for frame in table.take_held(key(1), A) {
                    let i = usize::from(frame[0]);
                    let (start, end) = pieces[i];
                    assert_eq!(later(&mut table, A, 1, start..end, i < 2), KNOWN);
                    passed.push(i);
                }
                continue;
            }
            match table.later(key(1), extent(start..end, i < 2), A, &[i as u8], NOW) {
                Later::Known(PORTS) => passed.push(i),
                Later::Held => waiting.push(i),
                other => panic!("{order:?}: fragment {i}: {other:?}"),
            }
        }
        // The first leads, then those that waited as they came, then the rest.
        let mut want = vec![0];
        want.extend(order.into_iter().filter(|i| *i != 0));
        assert_eq!(passed, want, "{order:?}");
        assert_empty(&table);
    }
}

#[test]
fn whole_datagram_is_forgotten_at_once_and_its_id_can_come_again() {
    let mut table = table();
    for _ in 0..3 {
        assert_eq!(first(&mut table, A, 7, 0..1480), PASS);
        assert_eq!(later(&mut table, A, 7, 1480..2000, false), KNOWN);
        assert_empty(&table);
    }
}

#[test]
fn duplicate_is_dropped_alone() {
    let mut table = table();
    first(&mut table, A, 1, 0..1480);
    assert_eq!(first(&mut table, A, 1, 0..1480), First::Drop(Why::Duplicate));
    later(&mut table, A, 1, 1480..2960, true);
    assert_eq!(later(&mut table, A, 1, 1480..2960, true), Later::Drop(Why::Duplicate));
    assert_eq!(later(&mut table, A, 1, 2960..3000, false), KNOWN);
}

#[test]
fn second_first_fragment_cannot_change_the_ports() {
    let mut table = table();
    first(&mut table, A, 1, 0..1480);
    let other = table.first(key(1), (1, 2), extent(0..1480, true), A, NOW);
    assert_eq!(other, First::Drop(Why::Duplicate));
    assert_eq!(later(&mut table, A, 1, 1480..1500, false), KNOWN);
}

// R20
#[test]
fn overlap_ends_the_datagram_and_what_is_still_to_come() {
    for (start, end, more) in [(1472, 1488, true), (1472, 2000, false), (8, 1488, true)] {
        let mut table = table();
        first(&mut table, A, 1, 0..1480);
        assert_eq!(later(&mut table, A, 1, start..end, more), OVERLAP);
        assert_eq!(later(&mut table, A, 1, 1480..2960, true), OVERLAP);
        assert_eq!(first(&mut table, A, 1, 0..1480), First::Drop(Why::Overlap));
        assert_eq!(first(&mut table, A, 2, 0..1480), PASS, "another datagram");
    }
}

#[test]
fn fragments_held_by_an_overlapped_datagram_are_dropped_and_counted() {
    let mut table = table();
    assert_eq!(later(&mut table, A, 1, 1480..2960, true), Later::Held);
    assert_eq!(later(&mut table, A, 1, 4440..5920, true), Later::Held);
    assert_eq!(later(&mut table, A, 1, 2952..4440, true), OVERLAP);
    assert_eq!(first(&mut table, A, 1, 0..1480), First::Drop(Why::Overlap));
    assert_eq!(table.take_held(key(1), A), Vec::<Held>::new());
    assert_eq!(table.take_given_up().into_iter().collect::<Vec<_>>(), [((A, GivenUp::Overlapped), 2)]);
    assert_eq!(table.total, DATAGRAM_PRICE);
}

#[test]
fn two_ends_contradict_each_other() {
    let mut table = table();
    first(&mut table, A, 1, 0..1480);
    later(&mut table, A, 1, 2960..3000, false);
    assert_eq!(later(&mut table, A, 1, 3000..3008, true), OVERLAP);

    let mut table = self::table();
    first(&mut table, A, 1, 0..1480);
    later(&mut table, A, 1, 4000..4800, true);
    assert_eq!(later(&mut table, A, 1, 1480..1600, false), OVERLAP);
}

#[test]
fn impossible_extents_are_refused() {
    for (start, end, more) in [
        (1480, 1480, false),
        (1480, 1479, false),
        (1480, 1487, true),
        (1481, 1489, true),
        (65_528, 65_536, true),
        (65_528, 66_000, false),
        (0, 8, true),
    ] {
        let answer = later(&mut table(), A, 1, start..end, more);
        assert_eq!(answer, Later::Drop(Why::Malformed), "{start}..{end}");
    }
    let whole = table().first(key(1), PORTS, extent(0..800, false), A, NOW);
    assert_eq!(whole, First::Drop(Why::Malformed));
    let end = later(&mut table(), A, 1, 65_528..65_535, false);
    assert_eq!(end, Later::Held, "the very end of the longest datagram");
}

#[test]
fn tcp_header_spread_over_fragments_is_refused() {
    let tcp = Key { proto: proto::TCP, ..key(1) };
    let mut table = table();
    for end in [8, 16] {
        let tiny = table.first(tcp, PORTS, extent(0..end, true), A, NOW);
        assert_eq!(tiny, First::Drop(Why::Tiny));
        let second = table.later(tcp, extent(end..end + 80, false), A, &[], NOW);
        assert_eq!(second, Later::Drop(Why::Tiny));
    }
    assert_empty(&table);
    assert_eq!(table.first(tcp, PORTS, extent(0..24, true), A, NOW), PASS);
}

// R20
#[test]
fn fragments_wait_30_seconds_exactly() {
    let mut table = table();
    later(&mut table, A, 1, 1480..2960, true);
    let deadline = NOW + TIMEOUT;
    assert_eq!(table.next_timeout(), Some(deadline));
    let before = deadline - Duration::from_micros(1);
    table.expire(before);
    assert_eq!(table.first(key(1), PORTS, extent(0..1480, true), A, before), First::Pass { held: true });
    // The clock began with the first arrival, whichever that was.
    table.expire(deadline);
    assert_empty(&table);
    assert_eq!(table.next_timeout(), None);
    assert_eq!(table.take_given_up().into_iter().collect::<Vec<_>>(), [((A, GivenUp::TimedOut), 1)]);
}

#[test]
fn late_fragment_does_not_meet_an_expired_datagram_that_nobody_has_cleared() {
    let mut table = table();
    first(&mut table, A, 1, 0..1480);
    let answer = table.later(key(1), extent(1480..1500, false), A, &[], NOW + TIMEOUT);
    assert_eq!(answer, Later::Held);
}

#[test]
fn same_id_in_another_zone_protocol_or_port_is_another_datagram() {
    let mut table = table();
    first(&mut table, A, 1, 0..1480);
    let zone = Key { zone: 9, ..key(1) };
    let proto = Key { proto: proto::ICMP, ..key(1) };
    for (key, owner) in [(zone, A), (proto, A), (key(1), B)] {
        let answer = table.later(key, extent(1480..1500, false), owner, &[], NOW);
        assert_eq!(answer, Later::Held, "{key:?} {owner}");
    }
}

// U14
#[test]
fn orphans_of_one_container_evict_nobody_elses() {
    let mut table = table();
    assert_eq!(later(&mut table, B, 1, 1480..2960, true), Later::Held);
    first(&mut table, B, 2, 0..1480);
    for id in 0..100_000 {
        assert_eq!(later(&mut table, A, id, 1480..2960, true), Later::Held);
        assert!(table.used[&A] <= SHARE && table.total <= TOTAL);
    }
    assert_eq!(first(&mut table, B, 1, 0..1480), First::Pass { held: true });
    assert_eq!(later(&mut table, B, 2, 1480..2960, true), KNOWN);
    assert_eq!(table.take_held(key(1), B).len(), 1);
    let gone: Vec<_> = table.take_given_up().into_iter().collect();
    assert!(matches!(gone[..], [((A, GivenUp::Evicted), n)] if n > 90_000), "{gone:?}");
    // The newest orphans are those that are left.
    assert_eq!(first(&mut table, A, 99_999, 0..1480), First::Pass { held: true });
}

#[test]
fn full_table_takes_from_who_uses_most() {
    let mut table = table();
    for hog in 10..15 {
        for id in 0..2_000 {
            later(&mut table, PortId(hog), id, 1480..2960, true);
        }
    }
    assert!(table.total > TOTAL - 4096, "full: {}", table.total);
    table.take_given_up();
    // A modest owner gets its fragments through while all of them go on.
    for id in 0..20 {
        for i in (1..=44).rev() {
            let (start, end) = (i * 1480, (i + 1) * 1480);
            let answer = table.later(key(id), extent(start..end.min(65_000), i < 43), B, &[0; 1500], NOW);
            let dead = i == 44; // 65,120 on: past the end
            assert_eq!(answer, if dead { Later::Drop(Why::Malformed) } else { Later::Held });
            later(&mut table, PortId(10), 5_000 + id * 100 + i, 1480..2960, true);
        }
        assert_eq!(first(&mut table, B, id, 0..1480), First::Pass { held: true });
        assert_eq!(table.take_held(key(id), B).len(), 43);
    }
    assert!(!table.take_given_up().contains_key(&(B, GivenUp::Evicted)));
}

#[test]
fn one_datagram_holds_no_more_than_its_fragments() {
    let mut table = table();
    for i in 1..=MAX_HELD as u32 {
        let start = i * 8;
        assert_eq!(later(&mut table, A, 1, start..start + 8, true), Later::Held);
    }
    let start = (MAX_HELD as u32 + 1) * 8;
    assert_eq!(later(&mut table, A, 1, start..start + 8, true), Later::Drop(Why::TooMany));
}

#[test]
fn one_datagram_has_no_more_gaps_than_we_count() {
    let mut table = table();
    first(&mut table, A, 1, 0..8);
    for i in 1..MAX_RUNS as u32 {
        assert_eq!(later(&mut table, A, 1, i * 16..i * 16 + 8, true), KNOWN);
    }
    let start = MAX_RUNS as u32 * 16;
    assert_eq!(later(&mut table, A, 1, start..start + 8, true), Later::Drop(Why::TooMany));
    assert_eq!(later(&mut table, A, 1, 8..16, true), KNOWN, "closes a gap");
}

#[test]
fn what_belongs_to_a_removed_port_is_forgotten() {
    let mut table = table();
    for id in 0..10 {
        later(&mut table, A, id, 1480..2960, true);
        first(&mut table, B, id, 0..1480);
    }
    table.forget(A);
    assert_eq!(table.datagrams.len(), 10);
    table.forget(B);
    assert_empty(&table);
}

#[test]
fn fragment_is_read_off_its_header() {
    let mut buf = vec![0; crate::frame::BUFFER_LEN];
    let at = crate::frame::HEADROOM;
    buf[at..at + 20]
        .copy_from_slice(&[0x45, 0, 0, 28, 0x12, 0x34, 0x20, 0xb9, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
    let sum = !crate::wire::checksum::sum(&buf[at..at + 20]);
    buf[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
    let frame = Frame::parse(&mut buf, at, at + 28, crate::frame::Link::Ip).unwrap();
    assert_eq!(
        read(&frame, 3),
        Some((
            Key { src: Addr::v4([192, 0, 2, 1]), dst: Addr::v4([198, 51, 100, 1]), id: 0x1234, proto: 17, zone: 3 },
            extent(0xb9 * 8..0xb9 * 8 + 8, true)
        ))
    );
}

proptest! {
    /// A naive model: which bytes have come.
    #[test]
    fn runs_agree_with_a_map_of_bytes(
        pieces in proptest::collection::vec((1_u32..40, 1_u32..6), 1..40)
    ) {
        let mut table = table();
        first(&mut table, A, 1, 0..8);
        let mut bytes = [false; 64];
        bytes[0] = true;
        let mut refused = false;
        for (from, units) in pieces {
            let answer = later(&mut table, A, 1, from * 8..(from + units) * 8, true);
            let span = &mut bytes[from as usize..(from + units) as usize];
            let there = span.iter().filter(|b| **b).count();
            let want = if refused || there > 0 && there < span.len() {
                refused = true;
                OVERLAP
            } else if there > 0 {
                Later::Drop(Why::Duplicate)
            } else {
                span.fill(true);
                KNOWN
            };
            prop_assert_eq!(answer, want);
        }
    }

    /// Whatever comes, the accounts are right and the bounds hold.
    #[test]
    fn accounts_are_exact_and_bounded(
        steps in proptest::collection::vec((0_u32..3, 0_u32..6, 0_u32..5, 1_u32..200, any::<bool>(), 0_u64..4), 1..200)
    ) {
        let mut table = table();
        let mut now = NOW;
        for (owner, id, at, len, more, secs) in steps {
            now = now + Duration::from_secs(secs);
            let owner = PortId(owner);
            let extent = extent(at * 800..at * 800 + len * 8, more);
            if at == 0 {
                if table.first(key(id), PORTS, extent, owner, now) == (First::Pass { held: true }) {
                    for frame in table.take_held(key(id), owner) {
                        prop_assert_eq!(frame.len(), 300);
                    }
                }
            } else {
                table.later(key(id), extent, owner, &[0; 300], now);
            }
            table.expire(now);
            let price: usize = table.datagrams.values().map(|d| d.price).sum();
            prop_assert_eq!(price, table.total);
            prop_assert_eq!(table.used.values().sum::<usize>(), table.total);
            prop_assert_eq!(table.by_use.len(), table.used.len());
            prop_assert_eq!(table.by_age.len(), table.datagrams.len());
            prop_assert_eq!(table.by_owner.len(), table.datagrams.len());
            prop_assert!(table.next_timeout().is_none_or(|t| t > now));
        }
        table.expire(now + TIMEOUT);
        assert_empty(&table);
    }
}

const PASS: First = First::Pass { held: false };
const KNOWN: Later = Later::Known(PORTS);
const OVERLAP: Later = Later::Drop(Why::Overlap);

fn table() -> Table {
    Table::new([7; 16])
}

fn key(id: u32) -> Key {
    Key { src: Addr::v4([172, 17, 0, 2]), dst: Addr::v4([192, 0, 2, 1]), id, proto: proto::UDP, zone: 0 }
}

fn extent(range: std::ops::Range<u32>, more: bool) -> Extent {
    Extent { start: range.start, end: range.end, more }
}

fn first(table: &mut Table, owner: PortId, id: u32, range: std::ops::Range<u32>) -> First {
    table.first(key(id), PORTS, extent(range, true), owner, NOW)
}

fn later(table: &mut Table, owner: PortId, id: u32, range: std::ops::Range<u32>, more: bool) -> Later {
    table.later(key(id), extent(range, more), owner, &[0; 100], NOW)
}

fn assert_empty(table: &Table) {
    assert_eq!((table.datagrams.len(), table.by_age.len(), table.by_owner.len()), (0, 0, 0));
    assert_eq!((table.used.len(), table.by_use.len(), table.total), (0, 0, 0));
}
