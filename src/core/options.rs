//! IPv4 and TCP options that a router touches: source routes are refused, routes and times recorded (RFC 791 3.1, R16),
//! and, where the operator wants it, the MSS of new connections lowered (R23).

use std::ops::Range;

use super::time::Instant;
use crate::frame::{Frame, L4, L4Checksum};
use crate::wire::addr::Addr;
use crate::wire::checksum::Delta;
use crate::wire::ip::{ipv4, tcp};
use crate::wire::{checksum, get16, put16, put32};

const END: u8 = 0;
const NOP: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
const TCP_MSS: u8 = 2;

/// Walks options in `bytes`: kind and range of each, until the end or the first broken one.
fn walk(bytes: &[u8], from: usize) -> impl Iterator<Item = (u8, Range<usize>)> {
    let mut at = from;
    std::iter::from_fn(move || {
        while bytes.get(at) == Some(&NOP) {
            at += 1;
        }
        let kind = *bytes.get(at).filter(|k| **k != END)?;
        let len = usize::from(*bytes.get(at + 1)?);
        if len < 2 || at + len > bytes.len() {
            return None;
        }
        let range = at..at + len;
        at += len;
        Some((kind, range))
    })
}

fn header_len(l3: &[u8]) -> usize {
    usize::from(l3[ipv4::VERSION_IHL] & 0xf) * 4
}

/// Does the header ask for a route of its own? Such packets are refused, as Linux does by default.
pub fn has_source_route(l3: &[u8]) -> bool {
    let header = header_len(l3);
    header > ipv4::MIN_LEN
        && walk(&l3[..header], ipv4::MIN_LEN).any(|(k, _)| k == LOOSE_SOURCE_ROUTE || k == STRICT_SOURCE_ROUTE)
}

/// Records `address`, and the time, where the options have room for it (RFC 791 3.1), and sums the header again.
pub fn record(l3: &mut [u8], address: Addr, now: Instant) {
    let header = header_len(l3);
    let options: Vec<_> = walk(&l3[..header], ipv4::MIN_LEN).collect();
    for (kind, range) in options {
        let option = &mut l3[range];
        match kind {
            RECORD_ROUTE if option.len() >= 3 => {
                write_at_pointer(option, 4, |room| room.copy_from_slice(address.wire_bytes()));
            }
            TIMESTAMP if option.len() >= 4 => stamp(option, address, now),
            _ => {}
        }
    }
    put16(l3, ipv4::CHECKSUM, 0);
    let sum = !checksum::sum(&l3[..header]);
    put16(l3, ipv4::CHECKSUM, sum);
}

/// Fills the next free place of an option whose third byte is a pointer, counted from one; `false`: no room.
fn write_at_pointer(option: &mut [u8], size: usize, fill: impl FnOnce(&mut [u8])) -> bool {
    let pointer = usize::from(option[2]);
    if pointer < 4 || pointer - 1 + size > option.len() {
        return false;
    }
    fill(&mut option[pointer - 1..pointer - 1 + size]);
    option[2] += size as u8; // an option is at most 40 bytes
    true
}

/// The timestamp option: times alone (flag 0), or addresses and times (flag 1). Times are not since midnight but since
/// an arbitrary point, which the highest bit says.
fn stamp(option: &mut [u8], address: Addr, now: Instant) {
    let time = (now.micros() / 1000) as u32 | 1 << 31;
    let recorded = match option[3] & 0xf {
        0 => write_at_pointer(option, 4, |room| put32(room, 0, time)),
        1 => write_at_pointer(option, 8, |room| {
            room[..4].copy_from_slice(address.wire_bytes());
            put32(room, 4, time);
        }),
        _ => return,
    };
    if !recorded && option[3] >> 4 < 15 {
        option[3] += 0x10; // counts those that found no room
    }
}

/// Lowers the MSS option of a SYN to what fits `mtu`; never raises it.
pub fn clamp_mss(frame: &mut Frame<'_>, mtu: usize) {
    let layout = *frame.layout();
    let partial = frame.checksum() == L4Checksum::Partial;
    if layout.l4_kind != L4::Tcp || frame.l4()[tcp::FLAGS] & tcp::SYN == 0 {
        return;
    }
    let fits = mtu.saturating_sub(ipv4::MIN_LEN + tcp::MIN_LEN) as u16; // MTUs are at most 65,535
    let header = layout.payload - layout.l4;
    let l4 = frame.l4_mut();
    let Some((_, range)) = walk(&l4[..header], tcp::MIN_LEN).find(|(kind, r)| *kind == TCP_MSS && r.len() == 4) else {
        return;
    };
    let at = range.start + 2;
    let old = get16(l4, at);
    if old <= fits {
        return;
    }
    put16(l4, at, fits);
    if !partial {
        // At an odd offset the value straddles two words of the sum, which swaps its bytes.
        let swap = |v: u16| if at % 2 == 1 { v.swap_bytes() } else { v };
        let sum = Delta::word(swap(old), swap(fits)).apply(get16(l4, tcp::CHECKSUM));
        put16(l4, tcp::CHECKSUM, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_options(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0; 20];
        header.extend_from_slice(options);
        header.resize(20 + options.len().next_multiple_of(4), 0);
        header[0] = 0x40 | (header.len() / 4) as u8;
        header
    }

    // R16
    #[test]
    fn source_routes_are_seen_behind_other_options() {
        assert!(has_source_route(&with_options(&[NOP, RECORD_ROUTE, 3, 4, LOOSE_SOURCE_ROUTE, 7, 4, 1, 2, 3, 4])));
        assert!(!has_source_route(&with_options(&[RECORD_ROUTE, 3, 4])));
        assert!(!has_source_route(&with_options(&[END, LOOSE_SOURCE_ROUTE, 7, 4])));
    }

    // R16
    #[test]
    fn route_is_recorded_until_there_is_no_room() {
        let mut l3 = with_options(&[NOP, RECORD_ROUTE, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        let gateway = Addr::v4([172, 17, 0, 1]);
        for _ in 0..3 {
            record(&mut l3, gateway, Instant::ZERO);
            assert_eq!(checksum::sum(&l3), 0xffff);
        }
        assert_eq!(l3[21..32], [RECORD_ROUTE, 11, 12, 172, 17, 0, 1, 172, 17, 0, 1]);
    }

    #[test]
    fn timestamps_that_find_no_room_are_counted() {
        let mut l3 = with_options(&[TIMESTAMP, 8, 5, 0, 0, 0, 0, 0]);
        record(&mut l3, Addr::v4([172, 17, 0, 1]), Instant::from_secs(1));
        record(&mut l3, Addr::v4([172, 17, 0, 1]), Instant::from_secs(1));
        assert_eq!(l3[20..28], [TIMESTAMP, 8, 9, 0x10, 0x80, 0, 0x03, 0xe8]);
    }

    proptest! {
        #[test]
        fn any_options_are_survived(options in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut l3 = with_options(&options);
            has_source_route(&l3);
            record(&mut l3, Addr::v4([172, 17, 0, 1]), Instant::ZERO);
        }
    }
}
