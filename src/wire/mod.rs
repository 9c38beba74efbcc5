//! Bytes and their meaning: stateless formats, addresses and checksums.
//!
//! Views read and write single fields of bytes whose length the caller has checked ([`crate::frame`] does so once, at
//! the door); they judge nothing. Formats that are rare on the path of a frame (ARP, NDP) come from `smoltcp::wire`.

pub mod addr;
pub mod checksum;
pub mod ip;
pub mod mac;
pub mod vnet;

/// Reads a big-endian `u16` at `at`. Panics when out of bounds: only for offsets the door has checked.
#[inline]
pub fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Reads a big-endian `u32` at `at`. Panics when out of bounds: only for offsets the door has checked.
#[inline]
pub fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a big-endian `u16` at `at`.
#[inline]
pub fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Writes a big-endian `u32` at `at`.
#[inline]
pub fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
