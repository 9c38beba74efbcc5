//! Field offsets and small readers for Ethernet, IPv4, TCP, UDP and ICMP headers.
//!
//! All offsets count from the start of the header named; callers have checked lengths.

/// Ethernet header without tags, bytes.
pub const ETH_LEN: usize = 14;

/// EtherTypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
}

/// IP protocol numbers.
pub mod proto {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
}

/// Offsets in an IPv4 header.
pub mod ipv4 {
    /// Version and header length.
    pub const VERSION_IHL: usize = 0;
    /// DSCP and ECN.
    pub const TOS: usize = 1;
    /// Total length, header and data.
    pub const TOTAL_LEN: usize = 2;
    /// Identification.
    pub const ID: usize = 4;
    /// Flags and fragment offset.
    pub const FRAGMENT: usize = 6;
    /// Time to live.
    pub const TTL: usize = 8;
    /// Protocol.
    pub const PROTO: usize = 9;
    /// Header checksum.
    pub const CHECKSUM: usize = 10;
    /// Source address.
    pub const SRC: usize = 12;
    /// Destination address.
    pub const DST: usize = 16;
    /// Header without options, bytes.
    pub const MIN_LEN: usize = 20;
    /// In [`FRAGMENT`]: don't fragment.
    pub const DF: u16 = 0x4000;
    /// In [`FRAGMENT`]: more fragments.
    pub const MF: u16 = 0x2000;
    /// In [`FRAGMENT`]: offset, units of 8 bytes.
    pub const OFFSET_MASK: u16 = 0x1fff;
}

/// Offsets in an IPv6 header.
pub mod ipv6 {
    /// Length of what follows the header.
    pub const PAYLOAD_LEN: usize = 4;
    /// Protocol of what follows the header.
    pub const NEXT_HEADER: usize = 6;
    /// Source address.
    pub const SRC: usize = 8;
    /// Destination address.
    pub const DST: usize = 24;
    /// Header, bytes.
    pub const LEN: usize = 40;
}

/// Offsets in a TCP header.
pub mod tcp {
    /// Sequence number.
    pub const SEQ: usize = 4;
    /// Where the checksum lies: what virtio's `csum_offset` must say.
    pub const CHECKSUM: usize = 16;
    /// Header without options, bytes.
    pub const MIN_LEN: usize = 20;
    /// Data offset, upper four bits.
    pub const DATA_OFFSET: usize = 12;
    /// Flags.
    pub const FLAGS: usize = 13;
    /// FIN flag.
    pub const FIN: u8 = 0x01;
    /// SYN flag.
    pub const SYN: u8 = 0x02;
    /// RST flag.
    pub const RST: u8 = 0x04;
    /// PSH flag.
    pub const PSH: u8 = 0x08;
    /// ACK flag.
    pub const ACK: u8 = 0x10;
    /// CWR flag (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// Offsets in a UDP header.
pub mod udp {
    /// Length, header and data.
    pub const LENGTH: usize = 4;
    /// Where the checksum lies: what virtio's `csum_offset` must say.
    pub const CHECKSUM: usize = 6;
    /// Header, bytes.
    pub const LEN: usize = 8;
}

/// Offsets and types of ICMP (RFC 792).
pub mod icmp {
    /// Type.
    pub const TYPE: usize = 0;
    /// Code.
    pub const CODE: usize = 1;
    /// Checksum.
    pub const CHECKSUM: usize = 2;
    /// Identifier of a query.
    pub const ID: usize = 4;
    /// Next-hop MTU of a "fragmentation needed" (RFC 1191).
    pub const MTU: usize = 6;
    /// Header, bytes.
    pub const LEN: usize = 8;

    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench (deprecated, RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER: u8 = 12;

    /// Is this a message about another packet, which it quotes (RFC 1122 3.2.2)?
    #[inline]
    pub fn is_error(kind: u8) -> bool {
        matches!(kind, UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER)
    }

    /// The request type that a query message belongs to, and whether the message is the reply: echo 8/0, timestamp
    /// 13/14, information 15/16, address mask 17/18.
    #[inline]
    pub fn query(kind: u8) -> Option<(u8, bool)> {
        match kind {
            8 | 13 | 15 | 17 => Some((kind, false)),
            0 => Some((8, true)),
            14 | 16 | 18 => Some((kind - 1, true)),
            _ => None,
        }
    }
}
