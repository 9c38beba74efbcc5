//! Segmentation and fragmentation: what is cut is the same data, and every piece is a sound packet.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::frame::join::join;
use crate::frame::{fragment, segment};

/// A port with a virtio header whose kernel knows no UDP segmentation.
const NO_USO: Caps = Caps { vnet: true, uso: false };

#[test]
fn frame_that_a_port_takes_goes_by_untouched() {
    let whole = Packet::whole(TCP4, 100);
    let partial = Packet::partial(TCP4, 100);
    let tcp = Packet::gso(TCP6, 5000, 1000);
    let udp = Packet::gso(UDP4, 5000, 1000);
    for (mut packet, caps) in [
        (whole.clone(), Caps::PLAIN),
        (whole, Caps::FULL),
        (partial.clone(), Caps::FULL),
        (partial, NO_USO),
        (tcp.clone(), Caps::FULL),
        (tcp, NO_USO),
        (udp, Caps::FULL),
    ] {
        let mut frame = packet.parse().unwrap();
        let out = frame.out();
        let mut scratch = Vec::new();
        let mut seen = 0;
        let count = segment::for_each(out, Link::Ethernet, caps, &mut scratch, &mut |same| {
            assert!(std::ptr::eq(same.with_vnet(), out.with_vnet()));
            seen += 1;
        });
        assert_eq!((count, seen, scratch.capacity()), (1, 1, 0));
    }
}

/// Frames with their virtio headers, joined as far as they go together; and how many there were in each.
fn joined(frames: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    let mut bytes = frames.concat();
    let ends: Vec<usize> = (1..=frames.len()).map(|count| frames[..count].concat().len()).collect();
    let mut all = Vec::new();
    let (mut at, mut start) = (0, 0);
    while at < frames.len() {
        let (count, end) = join(&mut bytes, start, ends[at..].iter().copied());
        all.push((count, bytes[start..end].to_vec()));
        at += count;
        start = ends[at - 1];
    }
    all
}

/// The datagrams that a super-frame stands for, with their virtio headers.
fn datagrams(shape: Shape, len: usize, size: u16) -> Vec<Vec<u8>> {
    let pieces = segments(&mut Packet::gso(shape, len, size), NO_USO);
    let with_header = |(vnet, bytes): (VnetHeader, Vec<u8>)| {
        let mut frame = vec![0; vnet::LEN];
        vnet.write(&mut frame);
        frame.extend(bytes);
        frame
    };
    pieces.into_iter().map(with_header).collect()
}

#[test]
fn datagrams_that_are_not_alike_stay_apart() {
    let alike = || datagrams(UDP4, 300, 100);
    assert_eq!(joined(&alike()).iter().map(|(count, _)| *count).collect::<Vec<_>>(), [3]);
    const IP: usize = vnet::LEN + 14;
    // What of the second one is changed.
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 11] = [
        ("destination MAC", |f| f[vnet::LEN] ^= 2),
        ("type of service", |f| f[IP + 1] ^= 4),
        ("identification", |f| f[IP + 5] ^= 64),
        ("a fragment", |f| f[IP + 6] |= 0x20),
        ("time to live", |f| f[IP + 8] -= 1),
        ("source", |f| f[IP + 15] ^= 1),
        ("port", |f| f[IP + 23] ^= 1),
        ("checksum", |f| f[IP + 27] ^= 1),
        ("a whole checksum", |f| VnetHeader::default().write(f)),
        ("padding", |f| f.push(0)),
        ("TCP", |f| f[IP + 9] = proto::TCP),
    ];
    for (what, change) in changes {
        let mut frames = alike();
        change(&mut frames[1]);
        let result = joined(&frames);
        assert!(result.iter().map(|(_, frame)| frame).eq(&frames), "{what}: three, as they came");
    }
    // A shorter one is the last, a longer one begins anew, and one without data goes alone.
    let short = datagrams(UDP4, 250, 100);
    let lens: Vec<_> = joined(&[&short[..], &short].concat()).iter().map(|(count, _)| *count).collect();
    assert_eq!(lens, [3, 3]);
    let empty = datagrams(UDP4, 0, 100);
    assert_eq!(joined(&[empty.clone(), empty].concat()).len(), 2);
}

#[test]
fn flags_belong_to_the_first_and_the_last_segment() {
    for ecn in [0, gso::ECN] {
        let mut packet = Packet::gso(TCP4, 2500, 1000);
        packet.vnet.gso_type |= ecn;
        let flags: Vec<_> =
            segments(&mut packet, Caps::PLAIN).iter().map(|(_, bytes)| bytes[34 + tcp::FLAGS]).collect();
        let (first, last) = (tcp::CWR, tcp::FIN | tcp::PSH);
        assert_eq!(flags, [tcp::ACK | first, tcp::ACK, tcp::ACK | last]);
    }
}

#[test]
fn sequence_numbers_and_identifications_wrap() {
    let mut packet = Packet::gso(TCP4, 8192, 2048);
    let numbers: Vec<_> = segments(&mut packet, Caps::PLAIN)
        .iter()
        .map(|(_, b)| (crate::wire::get32(b, 34 + tcp::SEQ), get16(b, 14 + ipv4::ID)))
        .collect();
    assert_eq!(numbers, [(0xffff_f000, 0xfffe), (0xffff_f800, 0xffff), (0, 0), (0x800, 1)]);
}

#[test]
fn port_without_udp_segmentation_still_gets_partial_checksums() {
    for shape in [UDP4, UDP6, Shape { tags: 1, ..UDP4 }] {
        let mut packet = Packet::gso(shape, 2500, 1000);
        let start = packet.vnet.csum_start;
        let pieces = segments(&mut packet, NO_USO);
        assert_eq!(pieces.len(), 3);
        for (vnet, bytes) in pieces {
            let want = VnetHeader { hdr_len: start + 8, ..needs_csum(start, 6) };
            assert_eq!(vnet, want);
            // The receiver's door takes it, and what it completes is right.
            let mut again = Packet::new(&bytes, Link::Ethernet);
            again.vnet = vnet;
            let mut frame = again.parse().unwrap();
            assert_eq!(frame.checksum(), L4Checksum::Partial);
            frame.fill_checksum();
            assert!(frame.verify_checksum());
            assert_sums(again.bytes(), Link::Ethernet);
        }
    }
}

#[test]
fn checksum_behind_a_routing_header_is_the_final_destinations() {
    // The pseudo-header of RFC 8200 8.1 has the last address of the routing header: segmentation must not look at
    // the IP header's.
    let udp_len = 8 + 2500_u16;
    let mut payload = vec![17, 2, 0, 1, 0, 0, 0, 0];
    let mut last = DST6;
    last[15] = 9;
    payload.extend(last);
    payload.extend([0, 1, 0, 2]);
    payload.extend(udp_len.to_be_bytes());
    let (src, last) = (Addr::read6(&SRC6, 0).unwrap(), Addr::read6(&last, 0).unwrap());
    let pseudo = |len: usize| checksum::pseudo_header(src, last, proto::UDP, len as u32);
    payload.extend(pseudo(udp_len.into()).to_be_bytes());
    payload.extend(data(2500));
    let mut packet = Packet::ipv6(43, &payload);
    packet.vnet = VnetHeader { gso_type: gso::UDP_L4, gso_size: 1000, ..needs_csum(14 + 40 + 24, 6) };
    let pieces = segments(&mut packet, Caps::PLAIN);
    assert_eq!(pieces.len(), 3);
    for (_, bytes) in pieces {
        let l4 = &bytes[14 + 40 + 24..];
        assert_eq!(checksum::add(pseudo(l4.len()), checksum::sum(l4)), 0xffff);
    }
}

// R17
#[test]
fn udp_checksum_that_comes_out_zero_is_sent_as_ffff() {
    // R17. The last two bytes of the payload are what is missing to 0xffff.
    for shape in [UDP4, UDP6] {
        let mut packet = Packet::partial(shape, 100);
        let layout = packet.layout();
        let missing = checksum::add(!checksum::sum(&packet.buf[layout.l4..]), get16(&packet.buf, layout.l3_end - 2));
        put16(&mut packet.buf, layout.l3_end - 2, missing);
        let (_, bytes) = segments(&mut packet, Caps::PLAIN).remove(0);
        assert_eq!(get16(&bytes, layout.l4 - HEADROOM + udp::CHECKSUM), 0xffff);
        assert_sums(&bytes, Link::Ethernet);
        let mut frame = packet.parse().unwrap();
        frame.fill_checksum();
        assert_eq!(get16(frame.l4(), udp::CHECKSUM), 0xffff);
    }
}

#[test]
fn padding_is_not_summed_into_a_completed_checksum() {
    // The door completes such a frame itself; a rewritten one may still get there.
    let mut packet = Packet::partial(UDP4, 5);
    packet.append(&[0xaa; 9]);
    packet.vnet.write(&mut packet.buf[HEADROOM - vnet::LEN..]);
    let out = FrameOut::from_bytes(&packet.buf[HEADROOM - vnet::LEN..]);
    let mut scratch = Vec::new();
    let count = segment::for_each(out, Link::Ethernet, Caps::PLAIN, &mut scratch, &mut |done| {
        assert_eq!(done.vnet(), VnetHeader::default());
        assert_sums(done.packet(), Link::Ethernet);
    });
    assert_eq!(count, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn datagrams_that_are_joined_are_the_super_frame_that_they_were_cut_from(len in 1_usize..20_000, size in 200_u16..2000) {
        let frames = datagrams(UDP4, len, size);
        let mut packet = Packet::gso(UDP4, len, size);
        let out = packet.parse().unwrap().out().with_vnet().to_vec();
        let whole = joined(&frames);
        prop_assert_eq!(whole.len(), 1);
        prop_assert_eq!(whole[0].0, frames.len());
        if frames.len() > 1 {
            prop_assert_eq!(&whole[0].1, &out);
        } else {
            prop_assert_eq!(&whole[0].1, &frames[0]);
        }
    }

    #[test]
    fn joining_never_panics(mut frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 10..90), 1..5), of in 0_usize..3) {
        // Any bytes, and a sound one among them.
        frames.extend(datagrams(UDP4, 300, 100).into_iter().take(of));
        prop_assert_eq!(joined(&frames).iter().map(|(count, _)| count).sum::<usize>(), frames.len());
    }

    // B29
    #[test]
    fn segments_are_the_super_frame(
        shape in shapes(),
        len in 1_usize..20_000,
        size in 200_u16..3000,
        vnet in any::<bool>(),
    ) {
        let caps = Caps { vnet, uso: false };
        let mut packet = Packet::gso(shape, len, size);
        let (count, headers) = {
            let frame = packet.parse().unwrap();
            (frame.segments(), frame.layout().payload - HEADROOM)
        };
        let cuts = !vnet || shape.proto == proto::UDP && len > usize::from(size);
        let pieces = segments(&mut packet, caps);
        if !cuts {
            prop_assert_eq!(pieces.len(), 1);
            return Ok(());
        }
        prop_assert_eq!(pieces.len(), count);
        let mut payload = Vec::new();
        for (i, (vnet, bytes)) in pieces.iter().enumerate() {
            let mut again = Packet::new(bytes, shape.link);
            again.vnet = *vnet;
            let mut frame = again.parse().unwrap();
            prop_assert_eq!(frame.gso(), Gso::None);
            prop_assert_eq!(frame.len(), headers + frame.payload().len());
            prop_assert!(frame.payload().len() == usize::from(size) || i + 1 == count);
            payload.extend_from_slice(frame.payload());
            frame.fill_checksum();
            prop_assert!(frame.verify_checksum());
            assert_sums(again.bytes(), shape.link);
        }
        prop_assert_eq!(payload, data(len));
    }

    #[test]
    fn any_virtio_header_on_any_bytes_segments_without_panic(
        shape in shapes(),
        len in 0_usize..400,
        vnet in any::<[u8; 10]>(),
        caps in prop_oneof![Just(Caps::PLAIN), Just(NO_USO), Just(Caps::FULL)],
        link in prop_oneof![Just(Link::Ip), Just(Link::Ethernet)],
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = vnet.to_vec();
        bytes.extend(shape.build(&data(len)));
        bytes.truncate(vnet::LEN + cut.index(bytes.len() - vnet::LEN + 1));
        let mut seen = 0;
        let count = segment::for_each(
            FrameOut::from_bytes(&bytes),
            link,
            caps,
            &mut Vec::new(),
            &mut |_| seen += 1,
        );
        prop_assert_eq!(count, seen);
    }
}

// R18
#[test]
fn fragments_are_cut_as_rfc_791_says() {
    // ping -s 8000 over an MTU of 1400: 1376 bytes each, the last is short.
    let mut packet = Packet::whole(ICMP4, 8000);
    let pieces = fragments(&mut packet, 1400);
    let seen: Vec<_> = pieces.iter().map(|b| (b.len(), get16(b, ipv4::FRAGMENT), get16(b, ipv4::ID))).collect();
    let mut want: Vec<_> = (0..5).map(|i| (20 + 1376, ipv4::MF | (i * 172), 0xfffe)).collect();
    want.push((20 + 8008 - 5 * 1376, 5 * 172, 0xfffe));
    assert_eq!(seen, want);
}

#[test]
fn packet_that_fits_stays_whole() {
    let mut packet = Packet::whole(UDP4, 1472);
    let whole = packet.bytes()[14..].to_vec();
    assert_eq!(fragments(&mut packet, 1500), [whole]);
}

// R18
#[test]
fn options_are_copied_by_their_copy_bit() {
    // NOP, record route (not copied), loose source route (copied), timestamp (not copied), end.
    let mut options = vec![1, 7, 7, 4, 0, 0, 0, 0];
    options.extend([131, 7, 4, 192, 0, 2, 9]);
    options.extend([68, 4, 5, 0, 0]);
    let mut packet = Packet::whole(Shape { options: 20, ..UDP4 }, 2000);
    packet.bytes_mut()[34..54].copy_from_slice(&options);
    packet.fix_header();
    let pieces = fragments(&mut packet, 1000);
    assert_eq!(pieces[0][0], 0x4a);
    assert_eq!(pieces[0][20..40], options);
    for later in &pieces[1..] {
        assert_eq!(later[0], 0x47, "20 bytes and two words");
        assert_eq!(later[20..28], [131, 7, 4, 192, 0, 2, 9, 0]);
    }
    assert_eq!(reassemble(&pieces), packet.bytes()[54..]);
}

#[test]
fn unreadable_options_end_the_list_of_what_is_copied() {
    for bad in [[148, 0], [148, 1], [148, 41]] {
        let mut packet = Packet::whole(Shape { options: 8, ..UDP4 }, 2000);
        packet.bytes_mut()[34..42].copy_from_slice(&[148, 4, 0, 0, bad[0], bad[1], 0, 0]);
        packet.fix_header();
        let pieces = fragments(&mut packet, 1000);
        assert_eq!(pieces[1][0], 0x46);
        assert_eq!(pieces[1][20..24], [148, 4, 0, 0]);
    }
}

#[test]
fn fragment_of_a_fragment_counts_on() {
    for (word, last) in [(ipv4::MF | 185, ipv4::MF), (185, 0), (ipv4::MF, ipv4::MF)] {
        let mut packet = Packet::whole(UDP4, 1472);
        put16(packet.bytes_mut(), 14 + ipv4::FRAGMENT, word);
        packet.fix_header();
        let words: Vec<_> = fragments(&mut packet, 576).iter().map(|b| get16(b, ipv4::FRAGMENT)).collect();
        let base = word & ipv4::OFFSET_MASK;
        assert_eq!(words, [base | ipv4::MF, (base + 69) | ipv4::MF, (base + 138) | last]);
    }
}

#[test]
fn fragment_past_the_end_of_any_datagram_is_not_cut() {
    let mut packet = Packet::whole(UDP4, 1472);
    put16(packet.bytes_mut(), 14 + ipv4::FRAGMENT, ipv4::OFFSET_MASK);
    packet.fix_header();
    assert_eq!(fragments(&mut packet, 576), Vec::<Vec<u8>>::new());
}

#[test]
fn mtu_without_room_for_data_gives_nothing() {
    for mtu in [0, 20, 27] {
        let mut packet = Packet::whole(UDP4, 100);
        assert_eq!(fragments(&mut packet, mtu), Vec::<Vec<u8>>::new());
    }
    assert_eq!(fragments(&mut Packet::whole(UDP4, 92), 28).len(), 13);
}

#[test]
fn what_is_no_ipv4_is_not_cut() {
    assert!(fragments(&mut Packet::whole(UDP6, 2000), 1280).is_empty());
    assert!(fragments(&mut Packet::new(&arp(), Link::Ethernet), 1280).is_empty());
}

#[test]
fn partial_checksum_is_completed_before_the_cut() {
    for shape in [TCP4, UDP4] {
        let whole = Packet::whole(shape, 3000);
        let mut packet = Packet::partial(shape, 3000);
        let pieces = fragments(&mut packet, 1500);
        assert_eq!(reassemble(&pieces), whole.bytes()[34..]);
    }
}

#[test]
fn super_frame_is_segmented_before_the_cut() {
    let mut packet = Packet::gso(UDP4, 5000, 2000);
    let pieces = fragments(&mut packet, 1500);
    let ids: Vec<_> = pieces.iter().map(|b| get16(b, ipv4::ID)).collect();
    assert_eq!(ids, [0xfffe, 0xfffe, 0xffff, 0xffff, 0]);
    let mut payload = Vec::new();
    for pieces in [&pieces[..2], &pieces[2..4]] {
        payload.extend_from_slice(&reassemble(pieces)[8..]);
    }
    payload.extend_from_slice(&pieces[4][28..]);
    assert_eq!(payload, data(5000));
    assert_sums(&pieces[4], Link::Ip);
}

#[test]
fn ethernet_header_can_be_pushed_before_a_fragment() {
    let mut packet = Packet::whole(UDP4, 3000);
    let mut frame = packet.parse().unwrap();
    let mut scratch = vec![0xee; BUFFER_LEN];
    let mut lengths = Vec::new();
    fragment::fragment(&mut frame, 1500, &mut scratch, &mut |mut piece| {
        piece.push_link(DST, SRC);
        let out = piece.out();
        assert_eq!((out.vnet().flags, out.vnet().gso_type), (0, 0));
        assert_eq!(Mac::read(out.packet()), DST);
        lengths.push(out.packet().len());
    });
    assert_eq!(lengths, [1514, 1514, 14 + 20 + 48]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fragments_make_the_packet_again(
        len in 0_usize..20_000,
        mtu in 68_usize..2000,
        options in 0_usize..=10,
        kind in prop_oneof![Just(TCP4), Just(UDP4), Just(ICMP4)],
        tags in 0_usize..=2,
    ) {
        let shape = Shape { options: options * 4, tags, ..kind };
        let mut packet = Packet::whole(shape, len);
        let layout = packet.layout();
        let l4 = packet.buf[layout.l4..].to_vec();
        let pieces = fragments(&mut packet, mtu);
        for piece in &pieces {
            prop_assert!(piece.len() <= mtu);
        }
        if pieces.len() > 1 {
            prop_assert_eq!(&reassemble(&pieces), &l4);
            prop_assert_eq!(&pool(&pieces), &l4);
        } else {
            prop_assert_eq!(&pieces[0][layout.l4 - layout.l3..], &l4[..]);
        }
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    (any::<bool>(), any::<bool>(), 0_usize..=2, 0_usize..=10, any::<bool>()).prop_map(|(v6, tcp, tags, words, bare)| {
        Shape {
            link: if bare { Link::Ip } else { Link::Ethernet },
            tags,
            v6,
            proto: if tcp { proto::TCP } else { proto::UDP },
            options: words * 4,
        }
    })
}

/// What a port with `caps` gets of `packet`: virtio headers and frames.
fn segments(packet: &mut Packet, caps: Caps) -> Vec<(VnetHeader, Vec<u8>)> {
    let link = packet.link;
    let mut frame = packet.parse().unwrap();
    let mut pieces = Vec::new();
    let count = segment::for_each(frame.out(), link, caps, &mut Vec::new(), &mut |piece| {
        pieces.push((piece.vnet(), piece.packet().to_vec()));
    });
    assert_eq!(count, pieces.len());
    pieces
}

/// The bare packets that `packet` is cut into.
fn fragments(packet: &mut Packet, mtu: usize) -> Vec<Vec<u8>> {
    let mut frame = packet.parse().unwrap();
    let mut pieces = Vec::new();
    let mut scratch = vec![0xee; BUFFER_LEN];
    let count = fragment::fragment(&mut frame, mtu, &mut scratch, &mut |piece| {
        assert_eq!(piece.layout().kind, L3::V4);
        pieces.push(piece.l3().to_vec());
    });
    assert_eq!(count, pieces.len());
    pieces
}

/// The data of a datagram, put together by hand from fragments in order.
fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for (i, piece) in pieces.iter().enumerate() {
        let word = get16(piece, ipv4::FRAGMENT);
        assert_eq!(usize::from(word & ipv4::OFFSET_MASK) * 8, data.len());
        assert_eq!(word & ipv4::MF != 0, i + 1 < pieces.len());
        data.extend_from_slice(&piece[usize::from(piece[0] & 0xf) * 4..]);
    }
    data
}

/// The same by etherparse.
fn pool(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut pool = etherparse::defrag::IpDefragPool::<(), ()>::new();
    let mut done = None;
    for piece in pieces {
        assert!(done.is_none());
        let sliced = SlicedPacket::from_ip(piece).unwrap();
        done = pool.process_sliced_packet(&sliced, (), ()).unwrap();
    }
    done.expect("the last fragment completes it").payload
}

/// etherparse finds all checksums right; the two zeros of one's complement are the same.
fn assert_sums(bytes: &[u8], link: Link) {
    let sliced = match link {
        Link::Ethernet => SlicedPacket::from_ethernet(bytes),
        Link::Ip => SlicedPacket::from_ip(bytes),
    }
    .expect("a sound packet");
    let same = |a: u16, b: u16| a % 0xffff == b % 0xffff;
    let transport = sliced.transport.expect("a transport");
    match sliced.net.expect("a network header") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            let (src, dst) = (header.source(), header.destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    assert!(same(tcp.checksum(), tcp.calc_checksum_ipv4(src, dst).unwrap()));
                }
                TransportSlice::Udp(udp) => {
                    let sum = udp.to_header().calc_checksum_ipv4_raw(src, dst, udp.payload());
                    assert!(same(udp.checksum(), sum.unwrap()) && udp.checksum() != 0);
                }
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Ipv6(ip) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            match transport {
                TransportSlice::Tcp(tcp) => {
                    assert!(same(tcp.checksum(), tcp.calc_checksum_ipv6(src, dst).unwrap()));
                }
                TransportSlice::Udp(udp) => {
                    let sum = udp.to_header().calc_checksum_ipv6_raw(src, dst, udp.payload());
                    assert!(same(udp.checksum(), sum.unwrap()) && udp.checksum() != 0);
                }
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Arp(arp) => panic!("{arp:?}"),
    }
}
