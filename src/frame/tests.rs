//! The door: what comes in, what is refused, and what goes out again.

mod agree;
mod captured;
mod cut;

use etherparse::{Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, PacketBuilder, TcpHeader, ip_number};

use super::*;
use crate::wire::ip::ipv6;

const DST: Mac = Mac([0x02, 0x42, 172, 17, 0, 3]);
const SRC: Mac = Mac([0x02, 0x42, 172, 17, 0, 2]);
const SRC4: [u8; 4] = [192, 0, 2, 1];
const DST4: [u8; 4] = [198, 51, 100, 2];
/// 2001:db8::1
const SRC6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// 2001:db8::2
const DST6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

// What a container may write before its frame (design: "A container chooses its own virtio header").

#[test]
fn partial_checksum_of_the_transport_we_found_stays_partial() {
    for shape in Shape::all() {
        let mut packet = Packet::partial(shape, 100);
        let frame = packet.parse().unwrap();
        assert_eq!(frame.checksum(), L4Checksum::Partial, "{shape:?}");
        assert_eq!(frame.gso(), Gso::None, "{shape:?}");
    }
}

#[test]
fn tagged_partial_tcp_stays_partial_and_goes_out_as_it_came() {
    for tags in [1, 2] {
        let shape = Shape { tags, ..TCP4 };
        let mut packet = Packet::partial(shape, 100);
        let asked = packet.vnet;
        let bytes = packet.bytes().to_vec();
        let mut frame = packet.parse().unwrap();
        assert!(frame.layout().tagged);
        assert_eq!(frame.checksum(), L4Checksum::Partial);
        let out = frame.out();
        assert_eq!(out.packet(), bytes);
        assert_eq!(out.vnet().csum_start, asked.csum_start);
        assert_eq!(usize::from(asked.csum_start), 14 + 4 * tags + 20);
    }
}

#[test]
fn checksum_over_the_source_address_is_completed_before_anything_reads_it() {
    // Summing from the source address on and storing into it: 12 bytes into the IP header, offset 0.
    let mut packet = Packet::whole(UDP4, 100);
    packet.vnet = needs_csum(14 + 12, 0);
    let before = packet.bytes().to_vec();
    let frame = packet.parse().unwrap();
    // The header checksum no longer holds: the packet is bridged at most, and nobody takes the address for good.
    assert_eq!(frame.layout().kind, L3::Malformed(Malformed::Checksum));
    assert_eq!(frame.checksum(), L4Checksum::Unverified);
    assert_eq!(frame.addrs(), None);
    let want = match !checksum::sum(&before[26..]) {
        0 => 0xffff,
        sum => sum,
    };
    assert_eq!(get16(packet.bytes(), 26), want);
    assert_eq!(packet.bytes()[28..], before[28..]);
}

#[test]
fn checksum_that_a_container_completes_into_an_address_is_read_as_completed() {
    // The same, aimed so that the header still adds up: the address that is filtered is the one that travels.
    let mut packet = Packet::whole(UDP4, 100);
    packet.vnet = needs_csum(14 + 12, 0);
    let mut probe = packet.clone();
    let _ = probe.parse();
    let completed = get16(probe.bytes(), 26);
    let header_sum = get16(packet.bytes(), 14 + ipv4::CHECKSUM);
    let repaired = !checksum::add(!header_sum, checksum::add(!get16(packet.bytes(), 26), completed));
    put16(packet.bytes_mut(), 14 + ipv4::CHECKSUM, repaired);
    let frame = packet.parse().unwrap();
    let (src, _) = frame.addrs().expect("a sound header");
    assert_eq!(src.wire_bytes()[..2], completed.to_be_bytes());
    assert_eq!(frame.checksum(), L4Checksum::Unverified);
    let mut frame = packet.parse().unwrap();
    assert_eq!(frame.out().vnet().flags, 0, "nobody completes it again");
}

#[test]
fn right_start_with_the_wrong_field_is_completed_in_software() {
    let mut packet = Packet::whole(TCP4, 100);
    packet.vnet = needs_csum(34, 6); // where UDP has its checksum
    let before = packet.bytes().to_vec();
    let mut frame = packet.parse().unwrap();
    assert_eq!(frame.checksum(), L4Checksum::Unverified);
    assert!(!frame.verify_checksum(), "it wrote into the sequence number");
    assert_eq!(frame.out().vnet().flags, 0);
    assert_ne!(packet.bytes(), before);
}

#[test]
fn checksum_offsets_past_the_end_are_refused() {
    for shape in [TCP4, UDP6] {
        let len = Packet::whole(shape, 10).bytes().len() as u16;
        for (start, offset) in
            [(len - 1, 0), (len, 0), (0, len - 1), (34, len), (0xffff, 0), (34, 0xffff), (0xffff, 0xffff)]
        {
            let mut packet = Packet::whole(shape, 10);
            packet.vnet = needs_csum(start, offset);
            let refused = packet.parse().map(|_| ());
            assert_eq!(refused, Err(Refused::ChecksumOffset), "{start} {offset}");
        }
        let mut packet = Packet::whole(shape, 10);
        packet.vnet = needs_csum(len - 2, 0);
        assert!(packet.parse().is_ok(), "the last two bytes");
    }
}

#[test]
fn partial_checksum_with_padding_behind_it_is_completed() {
    let mut packet = Packet::partial(UDP4, 4);
    packet.append(&[0; 14]);
    let mut frame = packet.parse().unwrap();
    assert_eq!(frame.checksum(), L4Checksum::Unverified);
    assert!(frame.verify_checksum());
}

#[test]
fn partial_checksum_over_more_than_the_udp_length_is_completed() {
    let mut packet = Packet::partial(UDP4, 100);
    put16(packet.bytes_mut(), 34 + udp::LENGTH, 50);
    let frame = packet.parse().unwrap();
    assert_eq!(frame.layout().l4_kind, L4::Udp);
    assert_eq!(frame.checksum(), L4Checksum::Unverified);
}

#[test]
fn partial_checksum_of_a_fragment_is_completed_over_what_is_there() {
    for fragment in [ipv4::MF, 1, ipv4::MF | 1] {
        let mut packet = Packet::partial(UDP4, 96);
        put16(packet.bytes_mut(), 14 + ipv4::FRAGMENT, fragment);
        packet.fix_header();
        let pseudo = get16(packet.bytes(), 34 + udp::CHECKSUM);
        let frame = packet.parse().unwrap();
        assert_eq!(frame.checksum(), L4Checksum::Unverified);
        let sum = checksum::sum(&packet.bytes()[34..]);
        assert_eq!(checksum::add(pseudo, sum), 0xffff);
    }
}

#[test]
fn segmentation_without_partial_checksum_is_refused() {
    for shape in Shape::all() {
        let mut packet = Packet::gso(shape, 5000, 1000);
        packet.vnet.flags = 0;
        assert_eq!(packet.refused(), Some(Refused::Segmentation), "{shape:?}");
    }
}

#[test]
fn segmentation_with_the_checksum_elsewhere_is_refused() {
    let mut packet = Packet::gso(TCP4, 5000, 1000);
    packet.vnet.csum_start -= 8;
    assert_eq!(packet.refused(), Some(Refused::Segmentation));
    let mut packet = Packet::gso(TCP4, 5000, 1000);
    packet.vnet.csum_offset = 6;
    assert_eq!(packet.refused(), Some(Refused::Segmentation));
}

#[test]
fn segmentation_of_the_wrong_kind_or_family_is_refused() {
    const UFO: u8 = 3;
    for (shape, right) in [(TCP4, gso::TCPV4), (TCP6, gso::TCPV6), (UDP4, gso::UDP_L4), (UDP6, gso::UDP_L4)] {
        for kind in (0..=0x7f).chain([UFO, gso::TCPV4 | 0x20, gso::TCPV4 | 0x40]) {
            let mut packet = Packet::gso(shape, 5000, 1000);
            packet.vnet.gso_type = kind;
            let want = if kind == right || kind == gso::NONE { None } else { Some(Refused::Segmentation) };
            assert_eq!(packet.refused(), want, "{shape:?} kind {kind:#x}");
        }
    }
}

#[test]
fn udp_fragmentation_offload_is_refused() {
    let mut packet = Packet::gso(UDP4, 5000, 1480);
    packet.vnet.gso_type = 3; // VIRTIO_NET_HDR_GSO_UDP
    assert_eq!(packet.refused(), Some(Refused::Segmentation));
}

#[test]
fn segment_size_zero_is_refused() {
    for shape in Shape::all() {
        let mut packet = Packet::gso(shape, 5000, 0);
        assert_eq!(packet.refused(), Some(Refused::Segmentation));
    }
}

// R25
#[test]
fn more_than_128_segments_are_refused() {
    for shape in Shape::all() {
        for (payload, size, want) in [
            (60_000, 1, Some(Refused::TooManySegments)),
            (129, 1, Some(Refused::TooManySegments)),
            (128, 1, None),
            (12_801, 100, Some(Refused::TooManySegments)),
            (12_800, 100, None),
        ] {
            let mut packet = Packet::gso(shape, payload, size);
            assert_eq!(packet.refused(), want, "{shape:?} {payload} by {size}");
        }
    }
}

#[test]
fn segment_size_of_the_whole_payload_is_no_segmentation() {
    for (payload, size) in [(1000, 1000), (999, 1000), (1, 0xffff), (0, 1)] {
        let mut packet = Packet::gso(TCP4, payload, size);
        let frame = packet.parse().unwrap();
        assert_eq!(frame.gso(), Gso::None);
        assert_eq!(frame.segments(), 1);
        assert_eq!(frame.segment_len(), 40 + payload);
    }
}

#[test]
fn segmentation_of_a_fragment_is_refused() {
    for fragment in [ipv4::MF, 1] {
        let mut packet = Packet::gso(TCP4, 5000, 1000);
        put16(packet.bytes_mut(), 14 + ipv4::FRAGMENT, fragment);
        packet.fix_header();
        assert_eq!(packet.refused(), Some(Refused::Segmentation));
    }
}

#[test]
fn segmentation_with_padding_is_refused() {
    let mut packet = Packet::gso(TCP4, 5000, 1000);
    packet.append(&[0; 100]);
    assert_eq!(packet.refused(), Some(Refused::Segmentation));
}

#[test]
fn segmentation_of_what_is_no_ip_is_refused() {
    let mut packet = Packet::new(&arp(), Link::Ethernet);
    packet.vnet = VnetHeader { gso_type: gso::TCPV4, gso_size: 10, ..needs_csum(34, 16) };
    assert!(packet.refused().is_some());
}

// R25
#[test]
fn segment_length_is_what_an_mtu_is_compared_to() {
    let mut packet = Packet::gso(TCP4, 60_000, 1448);
    let frame = packet.parse().unwrap();
    assert_eq!(frame.segment_len(), 20 + 20 + 1448);
    assert_eq!(frame.segments(), 42);
    assert_eq!(frame.len(), 14 + 40 + 60_000);
}

#[test]
fn header_length_of_a_read_is_not_believed_and_is_set_on_a_write() {
    for lie in [0, 1, 13, 0xffff] {
        let mut packet = Packet::gso(TCP4, 5000, 1000);
        packet.vnet.hdr_len = lie;
        let mut frame = packet.parse().unwrap();
        assert_eq!(frame.out().vnet().hdr_len, 14 + 20 + 20);
    }
    let mut packet = Packet::whole(UDP6, 10);
    packet.vnet.hdr_len = 0xffff;
    assert_eq!(packet.parse().unwrap().out().vnet().hdr_len, 14 + 40 + 8);
}

#[test]
fn unknown_flags_and_values_do_not_travel() {
    let mut packet = Packet::whole(TCP4, 10);
    packet.vnet = VnetHeader { flags: 0xfe, gso_size: 1, csum_start: 7, csum_offset: 9, ..VnetHeader::default() };
    let mut frame = packet.parse().unwrap();
    let want = VnetHeader { hdr_len: 54, ..VnetHeader::default() };
    assert_eq!(frame.out().vnet(), want);
}

#[test]
fn stripping_the_ethernet_header_moves_offsets_by_14_and_pushing_moves_them_back() {
    for shape in Shape::all() {
        let mut packet = Packet::gso(shape, 5000, 1000);
        let bytes = packet.bytes().to_vec();
        let mut frame = packet.parse().unwrap();
        let with = frame.out().vnet();

        frame.strip_link();
        let bare = frame.out();
        assert_eq!(bare.packet(), &bytes[14..]);
        assert_eq!(bare.vnet().csum_start + 14, with.csum_start, "{shape:?}");
        assert_eq!(bare.vnet().hdr_len + 14, with.hdr_len, "{shape:?}");
        assert_eq!(bare.vnet().csum_offset, with.csum_offset);

        frame.push_link(DST, SRC);
        let again = frame.out();
        assert_eq!(again.packet(), bytes);
        assert_eq!(again.vnet(), with, "{shape:?}");
    }
}

#[test]
fn pushing_a_header_over_a_tagged_one_leaves_no_tag() {
    let mut packet = Packet::whole(Shape { tags: 2, ..TCP4 }, 10);
    let mut frame = packet.parse().unwrap();
    frame.push_link(DST, SRC);
    assert!(!frame.layout().tagged);
    let plain = Packet::whole(TCP4, 10);
    assert_eq!(frame.out().packet(), plain.bytes());
}

#[test]
fn packet_of_a_tun_has_room_for_an_ethernet_header() {
    let bare = Packet::whole(Shape { link: Link::Ip, ..UDP4 }, 10);
    let mut packet = bare.clone();
    let mut frame = packet.parse().unwrap();
    frame.push_link(DST, SRC);
    assert_eq!((frame.eth_dst(), frame.eth_src()), (DST, SRC));
    assert_eq!(frame.out().packet(), Packet::whole(UDP4, 10).bytes());
}

// Network headers.

// R09
#[test]
fn each_fault_of_an_ipv4_header_has_its_name() {
    type Spoil = fn(&mut Packet);
    let cases: [(&str, Malformed, Spoil); 9] = [
        ("19 bytes", Malformed::Truncated, |p| p.truncate(14 + 19)),
        ("version 6", Malformed::Version, |p| p.bytes_mut()[14] = 0x65),
        ("header of 16", Malformed::HeaderLength, |p| {
            p.bytes_mut()[14] = 0x44;
        }),
        ("header of 60 in 40 bytes", Malformed::HeaderLength, |p| {
            p.truncate(14 + 40);
            p.bytes_mut()[14] = 0x4f;
        }),
        ("total under the header", Malformed::TotalLength, |p| {
            put16(p.bytes_mut(), 16, 19);
        }),
        ("total over the frame", Malformed::TotalLength, |p| {
            put16(p.bytes_mut(), 16, 129);
        }),
        ("total zero", Malformed::TotalLength, |p| {
            put16(p.bytes_mut(), 16, 0);
        }),
        ("truncated payload", Malformed::TotalLength, |p| {
            p.truncate(14 + 127);
        }),
        ("checksum", Malformed::Checksum, |p| p.bytes_mut()[24] ^= 1),
    ];
    for (name, want, spoil) in cases {
        let mut packet = Packet::whole(UDP4, 100);
        spoil(&mut packet);
        let frame = packet.parse().unwrap();
        let layout = frame.layout();
        assert_eq!(layout.kind, L3::Malformed(want), "{name}");
        assert_eq!((layout.l4_kind, layout.proto), (L4::None, 0), "{name}");
        assert_eq!(frame.addrs(), None, "{name}");
        assert!(frame.l4().is_empty() && frame.payload().is_empty(), "{name}");
    }
}

#[test]
fn each_fault_of_an_ipv6_header_has_its_name() {
    type Spoil = fn(&mut Packet);
    let cases: [(&str, Malformed, Spoil); 3] = [
        ("39 bytes", Malformed::Truncated, |p| p.truncate(14 + 39)),
        ("version 4", Malformed::Version, |p| p.bytes_mut()[14] = 0x45),
        ("length over the frame", Malformed::TotalLength, |p| {
            put16(p.bytes_mut(), 18, 109);
        }),
    ];
    for (name, want, spoil) in cases {
        let mut packet = Packet::whole(UDP6, 100);
        spoil(&mut packet);
        let frame = packet.parse().unwrap();
        assert_eq!(frame.layout().kind, L3::Malformed(want), "{name}");
    }
}

#[test]
fn bare_packet_is_4_or_6_or_malformed() {
    for first in 0..=0xff_u8 {
        let mut packet = Packet::new(&[first; 60], Link::Ip);
        let frame = packet.parse().unwrap();
        assert!(matches!(frame.layout().kind, L3::Malformed(_)) || first >> 4 == 6);
        let is_version = frame.layout().kind == L3::Malformed(Malformed::Version);
        assert_eq!(is_version, !matches!(first >> 4, 4 | 6), "{first:#x}");
    }
}

#[test]
fn runts_are_refused() {
    assert_eq!(Packet::new(&[], Link::Ip).refused(), Some(Refused::Runt));
    for len in 0..14 {
        let mut packet = Packet::new(&[0; 13][..len.min(13)], Link::Ethernet);
        assert_eq!(packet.refused(), Some(Refused::Runt), "{len}");
    }
}

#[test]
fn longest_frame_passes_and_one_byte_more_is_refused() {
    let mut packet = Packet::new(&vec![0; MAX_LEN], Link::Ethernet);
    assert_eq!(packet.refused(), None);
    let mut packet = Packet::new(&vec![0; MAX_LEN + 1], Link::Ethernet);
    assert_eq!(packet.refused(), Some(Refused::TooLong));
}

// R09
#[test]
fn padding_is_no_part_of_the_packet() {
    for shape in Shape::all() {
        let mut packet = Packet::whole(shape, 1);
        let l3 = packet.bytes()[14 + 4 * shape.tags..].to_vec();
        packet.append(&[0xaa; 30]);
        let mut frame = packet.parse().unwrap();
        assert_eq!(frame.l3(), l3, "{shape:?}");
        assert_eq!(frame.payload().len(), 1);
        assert!(frame.verify_checksum(), "{shape:?}");
        assert_eq!(frame.out().packet().len(), 14 + 4 * shape.tags + l3.len() + 30);
        frame.push_link(DST, SRC);
        assert_eq!(frame.out().packet().len(), 14 + l3.len());
        frame.strip_link();
        assert_eq!(frame.out().packet(), l3);
    }
}

#[test]
fn ipv4_address_in_ipv6_clothes_is_no_address() {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
    for (at, address) in [(ipv6::SRC, mapped), (ipv6::DST, mapped), (ipv6::SRC, [0; 16])] {
        let mut packet = Packet::whole(UDP6, 10);
        packet.bytes_mut()[14 + at..14 + at + 16].copy_from_slice(&address);
        let frame = packet.parse().unwrap();
        assert_eq!(frame.layout().kind, L3::V6, "a bridge passes it");
        assert_eq!(frame.addrs(), None, "nobody routes it");
    }
}

#[test]
fn frames_that_are_no_ip_are_a_bridges_business() {
    let mut packet = Packet::new(&arp(), Link::Ethernet);
    assert_eq!(packet.parse().unwrap().layout().kind, L3::Arp);
    // LLC length, MPLS, PTP, 802.1X, a third VLAN tag (B14)
    for kind in [0x0026_u16, 0x8847, 0x88f7, 0x888e, 0x0000, 0xffff] {
        let mut bytes = [0; 60];
        put16(&mut bytes, 12, kind);
        let mut packet = Packet::new(&bytes, Link::Ethernet);
        let frame = packet.parse().unwrap();
        assert_eq!(frame.layout().kind, L3::Other, "{kind:#x}");
        assert_eq!(frame.layout().ethertype, kind);
    }
}

#[test]
fn tag_cut_off_at_the_end_is_left_alone() {
    for len in 14..18 {
        let mut bytes = vec![0; len];
        put16(&mut bytes, 12, ethertype::VLAN);
        let mut packet = Packet::new(&bytes, Link::Ethernet);
        let frame = packet.parse().unwrap();
        assert!(!frame.layout().tagged);
        assert_eq!(frame.layout().kind, L3::Other);
    }
}

#[test]
fn transport_shorter_than_its_header_is_malformed() {
    for (shape, header) in [(TCP4, 20), (UDP4, 8), (TCP6, 20), (UDP6, 8), (ICMP4, 8)] {
        for left in 0..header {
            let mut packet = Packet::whole(shape, 0);
            packet.set_l4_len(left);
            let frame = packet.parse().unwrap();
            assert_eq!(frame.layout().l4_kind, L4::Malformed, "{shape:?} {left}");
            assert_eq!(frame.payload().len(), left);
        }
    }
}

#[test]
fn tcp_header_length_is_checked() {
    for (words, sound) in [(0, false), (4, false), (5, true), (8, true), (9, false)] {
        let mut packet = Packet::whole(TCP4, 12);
        packet.bytes_mut()[34 + tcp::DATA_OFFSET] = words << 4;
        let frame = packet.parse().unwrap();
        let want = if sound { L4::Tcp } else { L4::Malformed };
        assert_eq!(frame.layout().l4_kind, want, "{words} words");
    }
}

#[test]
fn udp_length_is_checked_but_for_a_first_fragment() {
    for (length, whole, first) in [
        (0, L4::Malformed, L4::Malformed),
        (7, L4::Malformed, L4::Malformed),
        (8, L4::Udp, L4::Udp),
        (24, L4::Udp, L4::Udp),
        (25, L4::Malformed, L4::Udp),
        (0xffff, L4::Malformed, L4::Udp),
    ] {
        let mut packet = Packet::whole(UDP4, 16);
        put16(packet.bytes_mut(), 34 + udp::LENGTH, length);
        assert_eq!(packet.parse().unwrap().layout().l4_kind, whole, "{length}");
        put16(packet.bytes_mut(), 14 + ipv4::FRAGMENT, ipv4::MF);
        packet.fix_header();
        assert_eq!(packet.parse().unwrap().layout().l4_kind, first, "{length}");
    }
}

#[test]
fn later_fragment_of_ipv6_is_data_whatever_it_looks_like() {
    // Behind the fragment header stands what would be read as destination options, or as a second fragment header
    // that says "not fragmented".
    for next in [60, 44] {
        let mut payload = vec![next, 0, 0, 8, 0, 0, 0, 1]; // offset 8, last
        payload.extend([17, 0, 0, 0, 0, 0, 0, 0]);
        payload.extend([0; 16]);
        let mut packet = Packet::ipv6(44, &payload);
        let frame = packet.parse().unwrap();
        let layout = frame.layout();
        assert_eq!(layout.fragment, Fragment::Later);
        assert_eq!((layout.proto, layout.l4_kind), (next, L4::None));
        assert_eq!(frame.l4().len(), 24);
    }
}

#[test]
fn second_fragment_header_does_not_undo_the_first() {
    let mut payload = vec![44, 0, 0, 1, 0, 0, 0, 1]; // offset 0, more to come
    payload.extend([17, 0, 0, 0, 0, 0, 0, 1]); // "not fragmented"
    payload.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let mut packet = Packet::ipv6(44, &payload);
    let frame = packet.parse().unwrap();
    assert_eq!(frame.layout().fragment, Fragment::First);
    assert_eq!(frame.layout().l4_kind, L4::Other);
}

#[test]
fn atomic_fragment_of_ipv6_is_whole() {
    let mut payload = vec![17, 0, 0, 0, 0, 0, 0, 1];
    payload.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let mut packet = Packet::ipv6(44, &payload);
    let frame = packet.parse().unwrap();
    assert_eq!(frame.layout().fragment, Fragment::None);
    assert_eq!(frame.layout().l4_kind, L4::Udp);
}

#[test]
fn extension_headers_are_walked_up_to_eight() {
    for count in 0..=9 {
        let mut payload = Vec::new();
        for i in 1..=count {
            payload.extend([if i == count { 17 } else { 60 }, 0, 0, 0, 0, 0, 0, 0]);
        }
        payload.extend([0, 1, 0, 2, 0, 8, 0, 0]);
        let mut packet = Packet::ipv6(if count == 0 { 17 } else { 60 }, &payload);
        let frame = packet.parse().unwrap();
        let want = if count <= 8 { L4::Udp } else { L4::Other };
        assert_eq!(frame.layout().l4_kind, want, "{count}");
    }
}

// Checksums.

#[test]
fn wrong_checksum_is_seen_and_right_one_remembered() {
    for shape in Shape::all().into_iter().chain([ICMP4]) {
        let mut packet = Packet::whole(shape, 33);
        let mut frame = packet.parse().unwrap();
        assert!(frame.verify_checksum(), "{shape:?}");
        assert_eq!(frame.checksum(), L4Checksum::Verified);
        let last = packet.bytes().len() - 1;
        packet.bytes_mut()[last] ^= 1;
        let mut frame = packet.parse().unwrap();
        assert!(!frame.verify_checksum(), "{shape:?}");
        assert_eq!(frame.checksum(), L4Checksum::Unverified);
    }
}

#[test]
fn udp_without_checksum_is_sound() {
    let mut packet = Packet::whole(UDP4, 33);
    put16(packet.bytes_mut(), 34 + udp::CHECKSUM, 0);
    assert!(packet.parse().unwrap().verify_checksum());
}

#[test]
fn checksums_of_fragments_and_unknown_protocols_are_not_judged() {
    let mut packet = Packet::whole(UDP4, 32);
    packet.bytes_mut()[50] ^= 1;
    put16(packet.bytes_mut(), 14 + ipv4::FRAGMENT, ipv4::MF);
    packet.fix_header();
    assert!(packet.parse().unwrap().verify_checksum());

    let mut packet = Packet::whole(UDP4, 32);
    packet.bytes_mut()[14 + ipv4::PROTO] = 132;
    packet.fix_header();
    assert!(packet.parse().unwrap().verify_checksum());
}

#[test]
fn filled_partial_checksum_verifies() {
    for shape in Shape::all() {
        for len in [0, 1, 2, 1000, 1001] {
            let mut packet = Packet::partial(shape, len);
            let mut frame = packet.parse().unwrap();
            frame.fill_checksum();
            assert_eq!(frame.checksum(), L4Checksum::Unverified);
            assert!(frame.verify_checksum(), "{shape:?} {len}");
            assert_eq!(frame.out().vnet().flags, 0);
        }
    }
}

// Builders.

/// A packet of a kind.
#[derive(Clone, Copy, Debug)]
struct Shape {
    link: Link,
    tags: usize,
    v6: bool,
    proto: u8,
    /// Of IPv4, bytes.
    options: usize,
}

const TCP4: Shape = Shape { link: Link::Ethernet, tags: 0, v6: false, proto: proto::TCP, options: 0 };
const UDP4: Shape = Shape { proto: proto::UDP, ..TCP4 };
const ICMP4: Shape = Shape { proto: proto::ICMP, ..TCP4 };
const TCP6: Shape = Shape { v6: true, ..TCP4 };
const UDP6: Shape = Shape { v6: true, ..UDP4 };

impl Shape {
    /// TCP and UDP over both families.
    fn all() -> [Shape; 4] {
        [TCP4, UDP4, TCP6, UDP6]
    }

    /// Bytes with right checksums: made by etherparse, so that nothing here agrees with itself only.
    fn build(self, payload: &[u8]) -> Vec<u8> {
        let kind = if self.v6 { ethertype::IPV6 } else { ethertype::IPV4 };
        let mut bytes = Vec::new();
        if self.link == Link::Ethernet {
            bytes.extend(DST.0);
            bytes.extend(SRC.0);
            for tag in 0..self.tags {
                let tpid = if tag + 1 < self.tags { ethertype::QINQ } else { ethertype::VLAN };
                bytes.extend(tpid.to_be_bytes());
                bytes.extend([0, 100 + tag as u8]);
            }
            bytes.extend(kind.to_be_bytes());
        }
        let ip = if self.v6 {
            let header = Ipv6Header { source: SRC6, destination: DST6, hop_limit: 64, ..Ipv6Header::default() };
            etherparse::IpHeaders::Ipv6(header, Ipv6Extensions::default())
        } else {
            let mut header = Ipv4Header::new(0, 64, ip_number::UDP, SRC4, DST4).expect("an empty payload fits");
            header.identification = 0xfffe;
            header.dont_fragment = false;
            header.options = vec![1; self.options][..].try_into().expect("up to 40 bytes");
            etherparse::IpHeaders::Ipv4(header, Ipv4Extensions::default())
        };
        let builder = PacketBuilder::ip(ip);
        let written = match self.proto {
            proto::TCP => {
                let mut header = TcpHeader::new(40_000, 80, 0xffff_f000, 65_000);
                header.acknowledgment_number = 77;
                (header.ack, header.psh, header.fin, header.cwr) = (true, true, true, true);
                builder.tcp_header(header).write(&mut bytes, payload)
            }
            proto::UDP => builder.udp(40_000, 53).write(&mut bytes, payload),
            _ => builder.icmpv4_echo_request(1, 2).write(&mut bytes, payload),
        };
        written.expect("a packet of at most 64 KiB");
        bytes
    }
}

/// Bytes as they are read from a port, and the virtio header before them.
#[derive(Clone, Debug)]
struct Packet {
    buf: Vec<u8>,
    link: Link,
    vnet: VnetHeader,
}

impl Packet {
    fn new(bytes: &[u8], link: Link) -> Packet {
        let mut buf = vec![0xee; HEADROOM];
        buf.extend_from_slice(bytes);
        Packet { buf, link, vnet: VnetHeader::default() }
    }

    /// With a whole checksum.
    fn whole(shape: Shape, payload: usize) -> Packet {
        Packet::new(&shape.build(&data(payload)), shape.link)
    }

    /// With the checksum still to be done.
    fn partial(shape: Shape, payload: usize) -> Packet {
        let mut packet = Packet::whole(shape, payload);
        let layout = packet.layout();
        let field = checksum_offset(layout.l4_kind).expect("TCP or UDP");
        let l3 = &packet.buf[layout.l3..];
        let (src, dst) = if shape.v6 {
            (Addr::read6(l3, 8).unwrap(), Addr::read6(l3, 24).unwrap())
        } else {
            (Addr::read4(l3, 12), Addr::read4(l3, 16))
        };
        let len = layout.l3_end - layout.l4;
        let pseudo = checksum::pseudo_header(src, dst, shape.proto, len as u32);
        put16(&mut packet.buf, layout.l4 + field, pseudo);
        packet.vnet = needs_csum((layout.l4 - HEADROOM) as u16, field as u16);
        packet
    }

    /// A super-frame.
    fn gso(shape: Shape, payload: usize, size: u16) -> Packet {
        let mut packet = Packet::partial(shape, payload);
        packet.vnet.gso_size = size;
        packet.vnet.gso_type = match (shape.proto, shape.v6) {
            (proto::TCP, false) => gso::TCPV4,
            (proto::TCP, true) => gso::TCPV6,
            _ => gso::UDP_L4,
        };
        packet
    }

    /// An Ethernet frame with an IPv6 packet of `next` and `payload`.
    fn ipv6(next: u8, payload: &[u8]) -> Packet {
        let mut packet = Packet::whole(UDP6, 0);
        packet.buf.truncate(HEADROOM + 14 + ipv6::LEN);
        packet.append(payload);
        let l3 = &mut packet.bytes_mut()[14..];
        l3[ipv6::NEXT_HEADER] = next;
        put16(l3, ipv6::PAYLOAD_LEN, payload.len() as u16);
        packet
    }

    fn bytes(&self) -> &[u8] {
        &self.buf[HEADROOM..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[HEADROOM..]
    }

    fn append(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    fn truncate(&mut self, len: usize) {
        self.buf.truncate(HEADROOM + len);
    }

    fn layout(&self) -> Layout {
        Layout::parse(&self.buf, HEADROOM, self.buf.len(), self.link).expect("no runt")
    }

    /// Makes the IPv4 header's checksum right again.
    fn fix_header(&mut self) {
        let l3 = match self.link {
            Link::Ethernet => self.layout().l3,
            Link::Ip => HEADROOM,
        };
        let ip = &mut self.buf[l3..];
        let header = usize::from(ip[0] & 0xf) * 4;
        if ip.len() >= header && header >= 20 {
            put16(ip, ipv4::CHECKSUM, 0);
            let sum = !checksum::sum(&ip[..header]);
            put16(ip, ipv4::CHECKSUM, sum);
        }
    }

    /// Cuts the packet to `len` bytes behind the IP header, which then says so.
    fn set_l4_len(&mut self, len: usize) {
        let layout = self.layout();
        self.buf.truncate(layout.l4 + len);
        let total = (layout.l4 - layout.l3 + len) as u16;
        if layout.kind == L3::V6 {
            put16(&mut self.buf, layout.l3 + ipv6::PAYLOAD_LEN, total - 40);
        } else {
            put16(&mut self.buf, layout.l3 + ipv4::TOTAL_LEN, total);
            self.fix_header();
        }
    }

    fn parse(&mut self) -> Result<Frame<'_>, Refused> {
        self.vnet.write(&mut self.buf[HEADROOM - vnet::LEN..]);
        let end = self.buf.len();
        Frame::parse(&mut self.buf, HEADROOM, end, self.link)
    }

    fn refused(&mut self) -> Option<Refused> {
        self.parse().err()
    }
}

fn needs_csum(start: u16, offset: u16) -> VnetHeader {
    VnetHeader { flags: vnet::NEEDS_CSUM, csum_start: start, csum_offset: offset, ..VnetHeader::default() }
}

/// Bytes that tell their place.
fn data(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256 * 13) as u8).collect()
}

fn arp() -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(SRC.0);
    bytes.extend(ethertype::ARP.to_be_bytes());
    bytes.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.extend([0; 20]);
    bytes
}
