//! Joining: datagrams that are written to one port one after the other become one super-frame.
//!
//! # Theory of operation
//! Each write into a TAP runs the receiver's stack and wakes whoever waits there, which costs many times what a short datagram does.
//! The kernel joins what comes from a network card for the same reason (GRO, `udp_gro_receive`). [`join`] does it for short
//! frames that wait in one buffer, and undoes nothing that [`super::segment`] or the receiver's kernel (`__udp_gso_segment`)
//! could not bring back byte by byte: same addresses, ports, type of service and time to live, one length but for the last, IPv4
//! identifications that follow each other or mean nothing (RFC 6864), and a checksum that is still to be computed, so that none is
//! made right that was wrong.
//!
//! # Limits
//! UDP over IPv4 without options, in untagged Ethernet frames; datagrams without data stay alone.

use crate::wire::ip::{ETH_LEN, ethertype, ipv4, proto, udp};
use crate::wire::vnet::{self, VnetHeader, gso};
use crate::wire::{checksum, get16, put16};

pub(super) const L3: usize = vnet::LEN + ETH_LEN;
pub(super) const L4: usize = L3 + ipv4::MIN_LEN;
pub(super) const DATA: usize = L4 + udp::LEN;

/// Joins the frame at `start`, up to the first of `ends`, with as many of those behind it, up to the next of `ends` each, as go
/// together: how many frames that is, and where the one that they are now ends.
///
/// # Panics
/// Without any of `ends`.
pub fn join(bytes: &mut [u8], start: usize, mut ends: impl Iterator<Item = usize>) -> (usize, usize) {
    let mut end = ends.next().expect("the end of the first");
    let mut count = 1;
    let Some(mut joint) = Joint::of(bytes, start, end) else { return (count, end) };
    for next in ends {
        if !joint.join(bytes, end, next) {
            break;
        }
        (count, end) = (count + 1, next);
    }
    (count, joint.finish(bytes))
}

/// Frames that are becoming one, in the buffer in which they lie one behind the other.
#[derive(Debug)]
struct Joint {
    start: usize,
    end: usize,
    /// Data of each datagram but the last, bytes.
    size: usize,
    /// Of the last one so far.
    last: usize,
    /// Identification of the last one.
    id: u16,
}

impl Joint {
    /// Of the frame, with its virtio header, at `start` to `end`, if others may join it.
    fn of(bytes: &[u8], start: usize, end: usize) -> Option<Joint> {
        let frame = &bytes[start..end];
        let size = data_of(frame)?;
        Some(Joint { start, end, size, last: size, id: get16(frame, L3 + ipv4::ID) })
    }

    /// Moves the data of the frame at `start` to `end` behind what is joined, if it is of the same kind; `false`: it stays.
    fn join(&mut self, bytes: &mut [u8], start: usize, end: usize) -> bool {
        let (first, next) = (&bytes[self.start..], &bytes[start..end]);
        let Some(len) = data_of(next) else { return false };
        let id = get16(next, L3 + ipv4::ID);
        let dont_fragment = get16(next, L3 + ipv4::FRAGMENT) & ipv4::DF != 0;
        let partial = checksum::add(get16(first, L4 + udp::CHECKSUM), !(self.size as u16)); // of a short frame
        let joins = self.last == self.size
            && len <= self.size
            && self.end - self.start + len <= usize::from(u16::MAX)
            && (dont_fragment || id == self.id.wrapping_add(1))
            && have_same_headers(first, next)
            && checksum::add(partial, len as u16) == checksum::add(get16(next, L4 + udp::CHECKSUM), 0);
        if joins {
            bytes.copy_within(start + DATA..end, self.end);
            self.end += len;
            (self.last, self.id) = (len, id);
        }
        joins
    }

    /// Writes the headers of the whole, which ends there.
    fn finish(self, bytes: &mut [u8]) -> usize {
        let frame = &mut bytes[self.start..self.end];
        let len = (frame.len() - L4) as u16; // UDP's, within an IP packet
        if usize::from(len) > udp::LEN + self.size {
            let vnet = VnetHeader {
                flags: vnet::NEEDS_CSUM,
                gso_type: gso::UDP_L4,
                hdr_len: (DATA - vnet::LEN) as u16,
                gso_size: self.size as u16, // of a short frame
                csum_start: (L4 - vnet::LEN) as u16,
                csum_offset: udp::CHECKSUM as u16,
            };
            vnet.write(frame);
            let was = get16(frame, L4 + udp::LENGTH);
            let partial = checksum::add(checksum::add(get16(frame, L4 + udp::CHECKSUM), !was), len);
            put16(frame, L4 + udp::CHECKSUM, partial);
            put16(frame, L4 + udp::LENGTH, len);
            put16(frame, L3 + ipv4::TOTAL_LEN, len + ipv4::MIN_LEN as u16);
            put16(frame, L3 + ipv4::CHECKSUM, 0);
            let sum = !checksum::sum(&frame[L3..L4]);
            put16(frame, L3 + ipv4::CHECKSUM, sum);
        }
        self.end
    }
}

/// How many bytes of data the frame has, if it is one that may be joined.
pub(super) fn data_of(frame: &[u8]) -> Option<usize> {
    if frame.len() <= DATA {
        return None;
    }
    let vnet = VnetHeader::read(frame);
    let whole = frame.len() - L3;
    let is_plain = vnet.flags == vnet::NEEDS_CSUM
        && vnet.gso_type == gso::NONE
        && usize::from(vnet.csum_start) == L4 - vnet::LEN
        && usize::from(vnet.csum_offset) == udp::CHECKSUM
        && get16(frame, L3 - 2) == ethertype::IPV4
        && frame[L3 + ipv4::VERSION_IHL] == 0x45
        && usize::from(get16(frame, L3 + ipv4::TOTAL_LEN)) == whole
        && get16(frame, L3 + ipv4::FRAGMENT) & !ipv4::DF == 0
        && frame[L3 + ipv4::PROTO] == proto::UDP
        && usize::from(get16(frame, L4 + udp::LENGTH)) == whole - ipv4::MIN_LEN;
    is_plain.then_some(frame.len() - DATA)
}

/// Of two frames with data: are they of one flow, with equal headers but for lengths, identification and checksums?
pub(super) fn have_same_headers(first: &[u8], next: &[u8]) -> bool {
    let alike = |range: std::ops::Range<usize>| first[range.clone()] == next[range];
    alike(vnet::LEN..L3 + ipv4::TOTAL_LEN)
        && alike(L3 + ipv4::FRAGMENT..L3 + ipv4::CHECKSUM)
        && alike(L3 + ipv4::SRC..L4 + udp::LENGTH)
}
