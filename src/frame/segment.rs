//! Segmentation and checksums in software, for a port that takes less than a frame asks for.
//!
//! # Theory of operation
//! Frames keep their offloads as long as they can: a port with a virtio header takes them as they are. A plain port
//! takes whole packets with whole checksums, and an older kernel takes TCP super-frames but no UDP ones.
//! [`for_each`] stands before such a port and does what the network card or the kernel would:
//!
//! - each segment gets the headers and the next piece of the payload; lengths, IPv4 identification and header
//!   checksum, TCP sequence number and flags follow (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment`);
//! - the transport checksum grows out of the partial one: the field holds the pseudo-header's sum with the
//!   super-frame's length, which is exchanged for the segment's. Addresses are never read, so that a checksum whose
//!   pseudo-header is not the IP header's (an IPv6 routing header, RFC 8200 8.1) comes out right too.
//!
//! Segments are made one at a time in one scratch buffer.

use super::{Caps, Frame, FrameOut, Gso, L3, L4, L4Checksum, Layout, Link, checksum_offset};
use crate::wire::ip::{ipv4, ipv6, tcp, udp};
use crate::wire::vnet::{self, VnetHeader, gso};
use crate::wire::{checksum, get16, get32, put16, put32};

/// Emits `frame` as packets that a port with `caps` takes, in order, and returns how many there were.
///
/// `link` is what the frame's bytes begin with. `scratch` needs no content and grows to one packet. None is emitted
/// only when the frame's virtio header contradicts its bytes, which no [`Frame::out`] does.
pub fn for_each(
    frame: FrameOut<'_>,
    link: Link,
    caps: Caps,
    scratch: &mut Vec<u8>,
    emit: &mut dyn FnMut(FrameOut<'_>),
) -> usize {
    let asked = frame.vnet();
    if takes(caps, &asked) {
        emit(frame);
        return 1;
    }
    let Some(layout) = Layout::parse(frame.bytes, vnet::LEN, frame.bytes.len(), link) else {
        return 0;
    };
    let Some(field) = checksum_offset(layout.l4_kind) else {
        return 0;
    };
    if asked.gso_type & !gso::ECN != gso::NONE {
        return cut(frame, &asked, &layout, field, caps, scratch, emit);
    }
    scratch.clear();
    scratch.extend_from_slice(frame.bytes);
    complete(&mut scratch[layout.l4..layout.l3_end], field);
    VnetHeader::default().write(scratch);
    emit(FrameOut::from_bytes(scratch));
    1
}

/// Does a port with `caps` take a frame that asks for this?
#[inline]
fn takes(caps: Caps, asked: &VnetHeader) -> bool {
    if caps.vnet {
        caps.uso || asked.gso_type & !gso::ECN != gso::UDP_L4
    } else {
        asked.flags & vnet::NEEDS_CSUM == 0 && asked.gso_type & !gso::ECN == gso::NONE
    }
}

fn cut(
    frame: FrameOut<'_>,
    asked: &VnetHeader,
    layout: &Layout,
    field: usize,
    caps: Caps,
    scratch: &mut Vec<u8>,
    emit: &mut dyn FnMut(FrameOut<'_>),
) -> usize {
    let size = usize::from(asked.gso_size);
    if size == 0 {
        return 0;
    }
    let headers = &frame.bytes[..layout.payload];
    let data = &frame.bytes[layout.payload..layout.l3_end];
    // Of TCP and UDP; nothing else has a checksum field here.
    let is_udp = layout.l4_kind == L4::Udp;
    let whole_len = (layout.l3_end - layout.l4) as u16; // within an IP packet: at most 65,535
    let count = data.len().div_ceil(size);
    for (i, piece) in data.chunks(size).enumerate() {
        scratch.clear();
        scratch.extend_from_slice(headers);
        scratch.extend_from_slice(piece);
        write_network(&mut scratch[layout.l3..], layout, i);
        let l4 = &mut scratch[layout.l4..];
        let len = l4.len() as u16; // shorter than the super-frame's
        if is_udp {
            put16(l4, udp::LENGTH, len);
        } else {
            write_tcp(l4, i * size, i == 0, i + 1 == count);
        }
        let partial = checksum::add(checksum::add(get16(l4, field), !whole_len), len);
        put16(l4, field, partial);
        let left = if caps.vnet {
            VnetHeader { gso_type: gso::NONE, gso_size: 0, ..*asked }
        } else {
            complete(l4, field);
            VnetHeader::default()
        };
        left.write(scratch);
        emit(FrameOut::from_bytes(scratch));
    }
    count
}

/// Length, identification and header checksum of segment number `i`, which `packet` holds from its IP header on.
fn write_network(packet: &mut [u8], layout: &Layout, i: usize) {
    let len = packet.len();
    if layout.kind == L3::V6 {
        put16(packet, ipv6::PAYLOAD_LEN, (len - ipv6::LEN) as u16);
        return;
    }
    let header = &mut packet[..layout.l4 - layout.l3];
    put16(header, ipv4::TOTAL_LEN, len as u16);
    let id = get16(header, ipv4::ID).wrapping_add(i as u16); // both wrap at 16 bits
    put16(header, ipv4::ID, id);
    put16(header, ipv4::CHECKSUM, 0);
    let sum = !checksum::sum(header);
    put16(header, ipv4::CHECKSUM, sum);
}

/// Sequence number and flags of the segment that begins `at` bytes into the payload. FIN and PSH belong to the last;
/// CWR to the first, whether or not the header said ECN (`tcp_gso_segment` clears it without asking).
fn write_tcp(header: &mut [u8], at: usize, first: bool, last: bool) {
    let seq = get32(header, tcp::SEQ).wrapping_add(at as u32);
    put32(header, tcp::SEQ, seq);
    if !last {
        header[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
    }
    if !first {
        header[tcp::FLAGS] &= !tcp::CWR;
    }
}

/// Turns the partial checksum in `field` into a whole one. A zero is written as 0xffff, which means the same and is
/// not "none" to UDP (`skb_checksum_help`).
fn complete(l4: &mut [u8], field: usize) {
    let sum = match !checksum::sum(l4) {
        0 => 0xffff,
        sum => sum,
    };
    put16(l4, field, sum);
}

impl Frame<'_> {
    /// Completes a partial checksum in place, for whoever needs the packet's real bytes. A super-frame is left as it
    /// is: its checksums come into being with its segments.
    pub fn fill_checksum(&mut self) {
        if self.checksum != L4Checksum::Partial || self.gso != Gso::None {
            return;
        }
        if let Some(field) = checksum_offset(self.layout.l4_kind) {
            complete(self.l4_mut(), field);
            self.checksum = L4Checksum::Unverified;
        }
    }
}
