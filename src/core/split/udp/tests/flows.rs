//! How long a flow lives, what becomes of its socket then, and how flows are listed.

use std::time::Duration;

use super::bed::{NOW, answer, engine, heard, say, say_at};
use crate::core::split::udp::{DNS_LINGER, Udp};
use crate::core::time::Instant;

// U5
#[test]
fn flow_lives_30_s_and_120_s_once_it_is_a_conversation() {
    let (mut udp, mut around) = engine();
    let (from, to) = ("172.17.0.2:4000", "198.51.100.5:5000");
    say(&mut udp, &mut around, from, to, b"x").unwrap();
    assert_eq!(timeout(&udp, NOW), 30);
    answer(&mut udp, &mut around, to, NOW + Duration::from_secs(1));
    let later = NOW + Duration::from_secs(3);
    assert_eq!(udp.flows(0, 1, later).0[0].timeout, Duration::from_secs(28));
    assert!(!udp.flows(0, 1, later).0[0].assured);
    say_at(&mut udp, &mut around, from, to, b"x", later).unwrap();
    let (rows, _) = udp.flows(0, 10, later);
    assert!(rows[0].assured && rows[0].replied);
    assert_eq!(rows[0].timeout, Duration::from_secs(120));
    udp.handle_timeout(later + Duration::from_secs(119), &mut around);
    assert_eq!(around.host.open.len(), 1);
    udp.handle_timeout(later + Duration::from_secs(120), &mut around);
    assert!(around.host.open.is_empty() && around.ids.is_empty());
    assert_eq!((udp.table.len(), udp.next_timeout()), ((0, 0), None));
}

#[test]
fn peer_of_a_flow_that_is_over_is_a_stranger_even_before_the_timer_ran() {
    let (mut udp, mut around) = engine();
    say(&mut udp, &mut around, "172.17.0.2:4000", "198.51.100.5:5000", b"x").unwrap();
    answer(&mut udp, &mut around, "198.51.100.5:5000", NOW + Duration::from_secs(30));
    assert!(around.delivered.is_empty() && around.host.open.is_empty());
}

#[test]
fn question_to_a_resolver_frees_its_socket_soon_after_the_last_answer() {
    let (mut udp, mut around) = engine();
    let (from, to) = ("172.17.0.2:4000", "198.51.100.53:53");
    say(&mut udp, &mut around, from, to, b"A").unwrap();
    say(&mut udp, &mut around, from, to, b"AAAA").unwrap();
    answer(&mut udp, &mut around, to, NOW);
    assert_eq!(timeout(&udp, NOW), 30, "one answer is still to come");
    answer(&mut udp, &mut around, to, NOW);
    assert_eq!(timeout(&udp, NOW), 2);
    assert_eq!(udp.next_timeout(), Some(NOW + DNS_LINGER));
    udp.handle_timeout(NOW + DNS_LINGER, &mut around);
    assert!(around.host.open.is_empty());
    assert_eq!(heard(&mut around).len(), 2);
}

#[test]
fn flows_are_listed_in_pages() {
    let (mut udp, mut around) = engine();
    for n in 0..25 {
        say(&mut udp, &mut around, "172.17.0.2:1", &format!("198.51.100.5:{}", 100 + n), b"x").unwrap();
    }
    let (mut cursor, mut seen) = (Some(0), Vec::new());
    while let Some(from) = cursor {
        let (rows, next) = udp.flows(from, 10, NOW);
        assert!(rows.len() <= 10);
        seen.extend(rows.into_iter().map(|row| row.original.dport));
        cursor = next;
    }
    assert_eq!(seen, (100..125).collect::<Vec<_>>());
}

/// Seconds until the only flow ends.
fn timeout(udp: &Udp, now: Instant) -> u64 {
    let (rows, _) = udp.flows(0, 10, now);
    assert_eq!(rows.len(), 1);
    rows[0].timeout.as_secs()
}
