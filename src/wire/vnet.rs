//! The virtio-net header that precedes each frame on a TAP or TUN with `IFF_VNET_HDR` (`struct virtio_net_hdr`,
//! linux/virtio_net.h): checksum and segmentation offloads as data.
//!
//! Ten bytes, native endian (the tun driver's default without `TUNSETVNETLE`):
//!
//! ```text
//! 0 flags  1 gso_type  2..4 hdr_len  4..6 gso_size  6..8 csum_start  8..10 csum_offset
//! ```

/// Length of the header, bytes; what `TUNSETVNETHDRSZ` is set to.
pub const LEN: usize = 10;

/// The checksum field holds only the pseudo-header's sum; the rest is to be summed from `csum_start`.
pub const NEEDS_CSUM: u8 = 1;

/// `gso_type` without the ECN bit.
pub mod gso {
    /// One frame, one packet.
    pub const NONE: u8 = 0;
    /// TCP over IPv4, to be cut every `gso_size` bytes of payload.
    pub const TCPV4: u8 = 1;
    /// TCP over IPv6.
    pub const TCPV6: u8 = 4;
    /// UDP datagrams of `gso_size` each (Linux 6.2: `TUN_F_USO4`, `TUN_F_USO6`).
    pub const UDP_L4: u8 = 5;
    /// Bit: the first segment alone keeps CWR (RFC 3168).
    pub const ECN: u8 = 0x80;
}

/// The header as values. Nothing in it can be trusted when it was read from a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`] and others.
    pub flags: u8,
    /// One of [`gso`], maybe with [`gso::ECN`].
    pub gso_type: u8,
    /// Bytes of all headers, counted from the start of the frame.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where summing begins, from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum field lies, from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads the first [`LEN`] bytes. Panics if there are fewer.
    #[inline]
    pub fn read(bytes: &[u8]) -> VnetHeader {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        VnetHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    /// Writes the header into the first [`LEN`] bytes. Panics if there are fewer.
    #[inline]
    pub fn write(&self, bytes: &mut [u8]) {
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        bytes[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.csum_offset.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_write_are_inverse() {
        let bytes = [1, 0x81, 54, 0, 0xb4, 5, 34, 0, 16, 0];
        let mut again = [0; LEN];
        VnetHeader::read(&bytes).write(&mut again);
        assert_eq!(bytes, again);
    }
}
