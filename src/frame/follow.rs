//! Following: of which flow a datagram is, known by the headers of the one before it.
//!
//! # Theory of operation
//! A sender of datagrams sends many that differ in length, identification and data alone. What [`Frame::parse`] and all behind
//! it found of the first holds for the others, so the first is kept as a [`Leader`], and whoever sends datagrams together
//! needs a comparison of 32 bytes for each that follows. What could be wrong in a follower is looked at as ever: its lengths
//! and the checksum of its IPv4 header. Its UDP checksum is still to be computed, so it is not wrong.
//!
//! # Limits
//! As [`super::join`]: UDP over IPv4 without options, in untagged Ethernet frames with a partial checksum.

use super::Frame;
use super::join::{DATA, L3, L4, data_of, have_same_headers};
use crate::wire::ip::ipv4;
use crate::wire::{checksum, get16, vnet};

/// The headers of a datagram.
pub struct Leader([u8; DATA]);

/// A datagram that a [`Leader`] leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower<'a> {
    /// IPv4 identification.
    pub id: u16,
    /// Behind the UDP header; at least one byte.
    pub data: &'a [u8],
}

impl Leader {
    /// Of a frame that is as it was read, virtio header included; `None`: it leads no other.
    pub fn of(frame: &Frame<'_>) -> Option<Leader> {
        let bytes = &frame.buf[frame.start - vnet::LEN..frame.end];
        data_of(bytes)?;
        bytes.first_chunk().map(|head| Leader(*head))
    }

    /// Is the frame in `bytes`, its virtio header first, one that goes wherever this one went?
    #[inline]
    pub fn leads<'a>(&self, bytes: &'a [u8]) -> Option<Follower<'a>> {
        let len = data_of(bytes)?;
        let sound = have_same_headers(&self.0, bytes) && checksum::sum(&bytes[L3..L4]) == 0xffff;
        let follower = Follower { id: get16(bytes, L3 + ipv4::ID), data: &bytes[DATA..DATA + len] };
        sound.then_some(follower)
    }
}
