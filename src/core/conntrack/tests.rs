//! What the table promises, under a virtual clock.

use super::*;
use crate::core::time::Instant;

#[test]
fn a_flow_is_found_under_both_tuples() {
    let mut table = Table::new(Config::default(), [7; 16]);
    let now = Instant::from_secs(1);
    let original = FiveTuple {
        src: "10.1.0.2".parse().unwrap(),
        dst: "192.0.2.1".parse().unwrap(),
        sport: 40_000,
        dport: 53,
        proto: tuple::UDP,
    };
    let id = table.commit(Tentative::new(original, OwnerId(1)), L4::Udp, 60, now).unwrap();
    assert_eq!(table.lookup(&original, now), Some((id, Direction::Original)));
    assert_eq!(table.lookup(&original.inverse(), now), Some((id, Direction::Reply)));
}
