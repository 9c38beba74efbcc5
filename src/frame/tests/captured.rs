//! What Linux sends, as it was captured: fixtures/README.md says how.

use pcap_file::pcap::PcapReader;

use super::agree::agree;
use super::*;

/// Every frame of the fixture.
fn kernel() -> Vec<Packet> {
    let mut reader = PcapReader::new(&include_bytes!("../../../fixtures/kernel.pcap")[..]).expect("a capture");
    let mut frames = Vec::new();
    while let Some(record) = reader.next_packet() {
        frames.push(Packet::new(&record.expect("a record").data, Link::Ethernet));
    }
    frames
}

#[test]
fn frames_of_linux_are_read_as_a_second_reader_reads_them() {
    for mut packet in kernel() {
        agree(&mut packet);
    }
}

#[test]
fn frames_of_linux_are_sound_and_leave_as_they_came() {
    let mut kinds = std::collections::BTreeMap::<String, usize>::new();
    for mut packet in kernel() {
        let bytes = packet.bytes().to_vec();
        let mut frame = packet.parse().unwrap();
        let Layout { kind, l4_kind, fragment, .. } = *frame.layout();
        assert!(!matches!(kind, L3::Malformed(_) | L3::Other), "{kind:?}: {bytes:02x?}");
        assert_ne!(l4_kind, L4::Malformed, "{bytes:02x?}");
        *kinds.entry(format!("{kind:?} {l4_kind:?} {fragment:?}")).or_default() += 1;
        assert!(frame.verify_checksum(), "{bytes:02x?}");
        assert_eq!(frame.out().packet(), bytes);
    }
    for wanted in ["Arp", "V4 Tcp None", "V4 Udp None", "V4 Udp First", "V4 IcmpError None", "V4 IcmpQuery First"] {
        assert!(kinds.keys().any(|kind| kind.starts_with(wanted)), "{wanted} in {kinds:?}");
    }
    for wanted in ["V6 Tcp None", "V6 Udp None", "V6 Udp First", "V6 None Later"] {
        assert!(kinds.keys().any(|kind| kind.starts_with(wanted)), "{wanted} in {kinds:?}");
    }
}

#[test]
fn spoiled_byte_of_a_whole_transport_is_noticed() {
    let mut noticed = 0;
    for packet in kernel() {
        let Layout { l4_kind, fragment, payload, l3_end, .. } = packet.layout();
        let summed = matches!(l4_kind, L4::Tcp | L4::Udp | L4::IcmpQuery) && fragment == Fragment::None;
        for at in (payload..l3_end).step_by(97).filter(|_| summed) {
            let mut spoiled = packet.clone();
            spoiled.buf[at] ^= 0x10;
            assert!(!spoiled.parse().unwrap().verify_checksum(), "byte {at}");
            noticed += 1;
        }
    }
    assert!(noticed >= 80, "{noticed}");
}
