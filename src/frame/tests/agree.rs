//! etherparse and our parser read the same in the same bytes, well-formed or not.
//!
//! Where they differ by design, and only there, [`agree`] says why. In words: what etherparse accepts we accept, but
//! for a wrong IPv4 header checksum (etherparse does not look), a UDP length of zero and an IPv6 payload length of zero
//! (etherparse guesses). What etherparse refuses has no whole transport for us, but for two kinds of packet that are
//! sound to a router: ICMP timestamps of unusual length, and extension headers that etherparse judges.

use etherparse::checksum::Sum16BitWords;
use etherparse::err::packet::SliceError;
use etherparse::{NetSlice, SlicedPacket, TransportSlice, ip_number};
use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn well_formed_packets_are_read_alike(shape in shapes(), len in 0_usize..200, padding in 0_usize..40) {
        let mut packet = Packet::whole(shape, len);
        if shape.link == Link::Ethernet {
            packet.append(&vec![0; padding]);
        }
        let frame = packet.parse().unwrap();
        prop_assert!(frame.layout().has_transport());
        prop_assert_eq!(frame.payload(), data(len));
        agree(&mut packet);
    }

    #[test]
    fn spoiled_packets_are_read_alike(
        shape in shapes(),
        len in 0_usize..100,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        repair in any::<bool>(),
    ) {
        let mut packet = Packet::whole(shape, len);
        for (at, value, header) in changes {
            let range = if header { packet.bytes().len().min(70) } else { packet.bytes().len() };
            packet.bytes_mut()[at.index(range)] = value;
        }
        if let Some(cut) = cut {
            packet.truncate(cut.index(packet.bytes().len()) + 1);
        }
        if repair && packet.bytes().len() > 34 {
            packet.fix_header();
        }
        agree(&mut packet);
    }

    #[test]
    fn chains_of_ipv6_extensions_are_read_alike(
        chain in proptest::collection::vec((0_usize..6, 0_u8..3, any::<[u8; 6]>()), 0..10),
        last in 0_usize..6,
        noise in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        const NEXT: [u8; 6] = [0, 43, 44, 60, 6, 17];
        let first = chain.first().map_or(NEXT[last], |link| NEXT[link.0]);
        let mut payload = Vec::new();
        for (i, (kind, len, body)) in chain.iter().enumerate() {
            let next = chain.get(i + 1).map_or(NEXT[last], |link| NEXT[link.0]);
            payload.push(next);
            payload.push(if NEXT[*kind] == 44 { 0 } else { *len });
            payload.extend(body);
            if NEXT[*kind] != 44 {
                payload.extend(vec![0; usize::from(*len) * 8]);
            }
        }
        payload.extend(noise);
        agree(&mut Packet::ipv6(first, &payload));
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        vnet in any::<[u8; 10]>(),
        ethernet in any::<bool>(),
        kind in proptest::option::of(prop_oneof![Just(0x0800_u16), Just(0x86dd), Just(0x8100), Just(0x88a8), Just(0x0806)]),
    ) {
        let link = if ethernet { Link::Ethernet } else { Link::Ip };
        let mut packet = Packet::new(&bytes, link);
        if let Some(kind) = kind && bytes.len() >= 14 {
            put16(packet.bytes_mut(), 12, kind);
        }
        packet.vnet = VnetHeader::read(&vnet);
        use_everything(&mut packet);
    }

    #[test]
    fn spoiled_packets_with_any_virtio_header_never_panic(
        shape in shapes(),
        len in 0_usize..100,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        flags in 0_u8..4,
        kind in 0_u8..7,
        words in any::<[u16; 4]>(),
        near in any::<bool>(),
        repair in any::<bool>(),
    ) {
        let mut packet = if shape.proto == proto::ICMP {
            Packet::whole(shape, len)
        } else {
            Packet::partial(shape, len)
        };
        for (at, value) in changes {
            let at = at.index(packet.bytes().len());
            packet.bytes_mut()[at] = value;
        }
        if repair && packet.bytes().len() > 34 {
            packet.fix_header();
        }
        if !near {
            packet.vnet.csum_start = words[0] % 200;
            packet.vnet.csum_offset = words[1] % 200;
        }
        packet.vnet.flags = flags;
        packet.vnet.gso_type = kind;
        packet.vnet.hdr_len = words[2];
        packet.vnet.gso_size = words[3] % 64;
        use_everything(&mut packet);
    }
}

/// Calls all that can be called on a frame.
fn use_everything(packet: &mut Packet) {
    let length = packet.bytes().len();
    let link = packet.link;
    let Ok(mut frame) = packet.parse() else {
        return;
    };
    assert_eq!(frame.len(), length);
    let layout = *frame.layout();
    assert!(HEADROOM <= layout.l3 && layout.l3 <= layout.l4);
    assert!(layout.l4 <= layout.payload && layout.payload <= layout.l3_end);
    if link == Link::Ethernet {
        let _ = (frame.eth_dst(), frame.eth_src());
    }
    let _ = (frame.l3_mut().len(), frame.l4_mut().len());
    let _ = (frame.payload().len(), frame.addrs(), frame.segment_len());
    assert!(frame.segments() <= MAX_SEGMENTS);
    assert!(frame.gso() == Gso::None || frame.checksum() == L4Checksum::Partial);
    frame.verify_checksum();
    let out = frame.out();
    assert_eq!(out.packet().len(), length);
    let vnet = out.vnet();
    assert!(usize::from(vnet.hdr_len) <= length);
    if vnet.flags & vnet::NEEDS_CSUM != 0 {
        assert!(usize::from(vnet.csum_start) + usize::from(vnet.csum_offset) + 2 <= length);
    }
    if matches!(layout.kind, L3::V4 | L3::V6) {
        frame.strip_link();
        let l3 = frame.l3().to_vec();
        assert_eq!(frame.out().packet(), l3);
        frame.push_link(DST, SRC);
        assert_eq!(frame.len(), 14 + frame.l3().len());
        frame.out();
    }
    frame.fill_checksum();
    frame.out();
}

/// Asserts that etherparse reads `packet` as we do.
pub(super) fn agree(packet: &mut Packet) {
    let bytes = packet.bytes().to_vec();
    let link = packet.link;
    let theirs = match link {
        Link::Ethernet => SlicedPacket::from_ethernet(&bytes),
        Link::Ip => SlicedPacket::from_ip(&bytes),
    };
    let frame = match packet.parse() {
        Ok(frame) => frame,
        Err(refused) => {
            assert_eq!(refused, Refused::Runt);
            assert!(theirs.is_err());
            return;
        }
    };
    let ours = frame.layout();
    let theirs = match theirs {
        Ok(theirs) => theirs,
        Err(error) => {
            let judges = matches!(error, SliceError::Ipv4Exts(_) | SliceError::Ipv6Exts(_));
            let timestamp = ours.l4_kind == L4::IcmpQuery && matches!(frame.l4()[0], 13 | 14);
            assert!(
                !ours.has_transport() || ours.fragment == Fragment::First || judges || timestamp,
                "{error:?}: {ours:?}"
            );
            return;
        }
    };
    // Tags that are none to us (a third, 0x9100) and MACsec: etherparse looks behind them.
    if ours.kind == L3::Other && link == Link::Ethernet {
        assert!(theirs.net.is_none() || theirs.link_exts.len() > 2 || matches!(ours.ethertype, 0x9100 | 0x88e5));
        return;
    }
    let at = |slice: &[u8]| slice.as_ptr() as usize - bytes.as_ptr() as usize + HEADROOM;
    match theirs.net {
        None => panic!("etherparse sees no network header: {ours:?}"),
        Some(NetSlice::Arp(_)) => assert_eq!(ours.kind, L3::Arp),
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            // Over the bytes: etherparse's own check forgets the reserved bit of the flags.
            let sum = Sum16BitWords::new().add_slice(header.slice());
            if sum.ones_complement() != 0 {
                assert_eq!(ours.kind, L3::Malformed(Malformed::Checksum));
                return;
            }
            assert_eq!(ours.kind, L3::V4);
            assert_eq!(ours.l3, at(header.slice()));
            assert_eq!(ours.l4, ours.l3 + header.slice().len());
            assert_eq!(ours.l3_end, ours.l3 + usize::from(header.total_len()));
            assert_eq!(ours.proto, header.protocol().0);
            assert_eq!(ours.fragment != Fragment::None, ip.is_payload_fragmented());
            assert_eq!(ours.fragment == Fragment::Later, header.fragments_offset().value() != 0);
            let (src, dst) = frame.addrs().expect("IPv4 has addresses");
            assert_eq!(src.wire_bytes(), header.source());
            assert_eq!(dst.wire_bytes(), header.destination());
            if header.protocol() == ip_number::AUTH {
                assert!(matches!(ours.l4_kind, L4::Other | L4::None));
                return; // we leave what is authenticated alone
            }
            agree_transport(&frame, theirs.transport.as_ref());
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            assert_eq!(ours.kind, L3::V6);
            assert_eq!(ours.l3, at(header.slice()));
            if header.payload_length() == 0 {
                return; // etherparse takes it for a jumbogram of unknown length
            }
            assert_eq!(ours.l3_end, ours.l3 + 40 + usize::from(header.payload_length()));
            let fragments = ip
                .extensions()
                .clone()
                .into_iter()
                .filter(|e| matches!(e, etherparse::Ipv6ExtensionSlice::Fragment(_)))
                .count();
            let count = ip.extensions().clone().into_iter().count();
            let authenticated = ip
                .extensions()
                .clone()
                .into_iter()
                .any(|e| matches!(e, etherparse::Ipv6ExtensionSlice::Authentication(_)));
            // We stop at a second fragment header, in a later fragment, at authentication, and after eight.
            if fragments > 1 || ours.fragment == Fragment::Later || authenticated || count > 8 {
                assert!(!ours.has_transport() || ours.fragment == Fragment::First);
                return;
            }
            assert_eq!(ours.proto, ip.payload().ip_number.0);
            assert_eq!(ours.l4, at(ip.payload().payload));
            assert_eq!(ours.fragment != Fragment::None, ip.is_payload_fragmented());
            agree_transport(&frame, theirs.transport.as_ref());
        }
    }
}

fn agree_transport(frame: &Frame<'_>, theirs: Option<&TransportSlice<'_>>) {
    let ours = frame.layout();
    if ours.fragment != Fragment::None {
        assert!(theirs.is_none(), "etherparse reads no transport of a fragment");
        return;
    }
    match theirs {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(ours.l4_kind, L4::Tcp);
            assert_eq!(frame.payload(), tcp.payload());
        }
        Some(TransportSlice::Udp(udp)) if udp.length() == 0 => {
            assert_eq!(ours.l4_kind, L4::Malformed); // etherparse guesses
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(ours.l4_kind, L4::Udp);
            assert_eq!(&frame.payload()[..udp.payload().len()], udp.payload());
        }
        Some(TransportSlice::Icmpv4(_)) if ours.kind == L3::V4 => {
            let icmp = matches!(ours.l4_kind, L4::IcmpQuery | L4::IcmpError | L4::IcmpOther);
            assert!(icmp, "{ours:?}");
        }
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_) | TransportSlice::Igmp(_)) | None => {
            assert_eq!(ours.l4_kind, L4::Other)
        }
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let kinds = prop_oneof![Just(TCP4), Just(UDP4), Just(ICMP4), Just(TCP6), Just(UDP6)];
    (kinds, 0_usize..=2, 0_usize..=10, any::<bool>()).prop_map(|(kind, tags, words, bare)| Shape {
        link: if bare { Link::Ip } else { Link::Ethernet },
        tags,
        options: words * 4,
        ..kind
    })
}
