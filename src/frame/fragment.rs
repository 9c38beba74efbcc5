//! IPv4 fragmentation (RFC 791 3.2) of a packet that may be cut and does not fit.
//!
//! # Theory of operation
//! Fragments leave in order, with the same identification, cut at multiples of eight bytes. The first keeps the whole
//! header; later ones keep the options whose copy bit is set, and are shorter by the rest. The packet may be a fragment
//! itself: offsets count on from its own, and the last piece has "more fragments" if the packet had it. The transport
//! checksum covers the whole datagram, so a partial one is completed first; a super-frame is segmented first, as
//! `ip_finish_output_gso` does.

use super::{BUFFER_LEN, Caps, Frame, Gso, HEADROOM, L3, Link, segment};
use crate::wire::ip::ipv4;
use crate::wire::vnet::{self, VnetHeader};
use crate::wire::{checksum, get16, put16};

/// In an option's type: copied into all fragments (RFC 791 3.1).
const OPTION_COPIED: u8 = 0x80;
/// Option type without length: end of the list.
const OPTION_END: u8 = 0;
/// Option type without length: padding.
const OPTION_NOP: u8 = 1;

/// The longest IPv4 header, bytes.
const MAX_HEADER: usize = 60;

/// Emits `frame`, an IPv4 packet, as bare IP packets of at most `mtu` bytes, in order; returns how many there were.
///
/// Each lies in `scratch` with [`HEADROOM`] before it, so that a link header can be pushed. The caller has decided that
/// the packet may be cut (DF). Nothing is emitted for what is no IPv4 packet, for an `mtu` that leaves no room for eight
/// bytes of data, and for a fragment that reaches past the end of any datagram.
///
/// Panics if `scratch` is shorter than [`BUFFER_LEN`].
pub fn fragment(frame: &mut Frame<'_>, mtu: usize, scratch: &mut [u8], emit: &mut dyn FnMut(Frame<'_>)) -> usize {
    assert!(scratch.len() >= BUFFER_LEN, "scratch holds any packet");
    if frame.layout.kind != L3::V4 {
        return 0;
    }
    if frame.gso == Gso::None {
        frame.fill_checksum();
        return cut(frame.l3(), mtu, scratch, emit);
    }
    // A super-frame with DF clear whose segments do not fit is too rare to keep a second buffer for.
    let mut buffer = Vec::new();
    let mut count = 0;
    frame.strip_link();
    segment::for_each(frame.out(), Link::Ip, Caps::PLAIN, &mut buffer, &mut |packet| {
        count += cut(packet.packet(), mtu, scratch, emit)
    });
    count
}

/// Cuts one sound IPv4 packet with a whole checksum.
fn cut(packet: &[u8], mtu: usize, scratch: &mut [u8], emit: &mut dyn FnMut(Frame<'_>)) -> usize {
    if packet.len() <= mtu {
        emit_packet(packet, &[], scratch, emit);
        return 1;
    }
    let (header, data) = packet.split_at(usize::from(packet[ipv4::VERSION_IHL] & 0xf) * 4);
    let (later_header, later_len) = later_header(header);
    let later_header = &later_header[..later_len];

    let word = get16(header, ipv4::FRAGMENT);
    let base = usize::from(word & ipv4::OFFSET_MASK) * 8;
    let first_room = mtu.saturating_sub(header.len()) & !7;
    let later_room = mtu.saturating_sub(later_header.len()) & !7;
    if first_room == 0 || base + data.len() > usize::from(u16::MAX) {
        return 0;
    }

    let (mut at, mut count) = (0, 0);
    while at < data.len() {
        let (header, room) = match at {
            0 => (header, first_room),
            _ => (later_header, later_room),
        };
        let end = (at + room).min(data.len());
        let mut own = [0; MAX_HEADER];
        let own = &mut own[..header.len()];
        own.copy_from_slice(header);
        let more = if end < data.len() { ipv4::MF } else { 0 };
        let offset = ((base + at) / 8) as u16; // at most 65,535 / 8
        let total = (own.len() + end - at) as u16; // shorter than the packet
        put16(own, ipv4::TOTAL_LEN, total);
        put16(own, ipv4::FRAGMENT, word & !ipv4::OFFSET_MASK | more | offset);
        put16(own, ipv4::CHECKSUM, 0);
        let sum = !checksum::sum(own);
        put16(own, ipv4::CHECKSUM, sum);
        emit_packet(own, &data[at..end], scratch, emit);
        at = end;
        count += 1;
    }
    count
}

/// The header of all fragments but the first, and its length: only the options that are copied, padded to four bytes.
fn later_header(header: &[u8]) -> ([u8; MAX_HEADER], usize) {
    let mut later = [0; MAX_HEADER];
    later[..ipv4::MIN_LEN].copy_from_slice(&header[..ipv4::MIN_LEN]);
    let mut len = ipv4::MIN_LEN;
    let mut options = &header[ipv4::MIN_LEN..];
    while let Some(&kind) = options.first() {
        let size = match (kind, options.get(1)) {
            (OPTION_END, _) => break,
            (OPTION_NOP, _) => 1,
            (_, Some(&size)) if size >= 2 && usize::from(size) <= options.len() => usize::from(size),
            _ => break, // a list that cannot be read ends here
        };
        if kind & OPTION_COPIED != 0 {
            later[len..len + size].copy_from_slice(&options[..size]);
            len += size;
        }
        options = &options[size..];
    }
    len = len.next_multiple_of(4); // what is padded is OPTION_END already
    later[ipv4::VERSION_IHL] = 0x40 | (len / 4) as u8; // 5 to 15
    (later, len)
}

fn emit_packet(header: &[u8], data: &[u8], scratch: &mut [u8], emit: &mut dyn FnMut(Frame<'_>)) {
    let split = HEADROOM + header.len();
    let end = split + data.len();
    scratch[HEADROOM..split].copy_from_slice(header);
    scratch[split..end].copy_from_slice(data);
    VnetHeader::default().write(&mut scratch[HEADROOM - vnet::LEN..]);
    let frame = Frame::parse(scratch, HEADROOM, end, Link::Ip)
        .expect("a packet that asks for no offload and is no longer than 64 KiB is not refused");
    emit(frame);
}
