//! What travels: bytes, the offsets found once at the door, and the offloads that ride along.
//!
//! # Theory of operation
//! A [`Frame`] borrows a buffer with headroom. Before the packet's first byte there are always at least [`HEADROOM`]
//! bytes: room for an Ethernet header that may be pushed and for the virtio header that every transmission carries.
//! [`Frame::parse`] is the door: it finds every offset, checks every length, and settles the virtio header; behind it
//! accessors cannot fail. What is wrong with a *network* header is kept as [`L3::Malformed`] instead of an error,
//! because a bridge passes what a router must drop (B14, R09).
//!
//! A container chooses its own virtio header (`AF_PACKET` with `PACKET_VNET_HDR`), so nothing in it is believed:
//!
//! - a partial checksum is kept as such only where it covers exactly the TCP or UDP header we found; anything else is
//!   completed in software before the frame is parsed, or refused if its offsets leave the frame;
//! - segmentation needs a partial checksum, the right protocol and family, a segment size, and at most
//!   [`MAX_SEGMENTS`] segments, since the receiver's kernel allocates one buffer for each;
//! - `hdr_len` is ignored on the way in and always set on the way out.
//!
//! # References
//! linux/virtio_net.h, Linux include/linux/virtio_net.h (`virtio_net_hdr_to_skb`), drivers/net/tun.c.

pub mod follow;
pub mod fragment;
pub mod join;
mod layout;
pub mod segment;
#[cfg(test)]
mod tests;

pub use layout::{Fragment, L3, L4, Layout, Malformed};

use std::num::NonZeroU16;

use crate::wire::addr::Addr;
use crate::wire::ip::{ETH_LEN, ethertype, ipv4, proto, tcp, udp};
use crate::wire::mac::Mac;
use crate::wire::vnet::{self, VnetHeader, gso};
use crate::wire::{checksum, get16, put16};

/// Bytes that stand free before the first byte of a packet: an Ethernet header and a virtio header, rounded up.
pub const HEADROOM: usize = 64;

/// The longest packet that crosses: 64 KiB of IP, an Ethernet header and two VLAN tags, bytes.
pub const MAX_LEN: usize = 65_535 + ETH_LEN + 8;

/// The size of a buffer that any packet fits into, with headroom and a byte by which an oversized one is known.
pub const BUFFER_LEN: usize = HEADROOM + MAX_LEN + 1;

/// The most segments one super-frame may ask for. Containers' devices are told so (`gso_max_segs`); measured: without
/// a bound, a segment size of 1 passes and costs the receiver 64,000 allocations inside our write.
pub const MAX_SEGMENTS: usize = 128;

/// What a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet frames: a TAP.
    Ethernet,
    /// Bare IP packets: a TUN.
    Ip,
}

/// What a port takes without our help, fixed when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Frames carry a virtio header: partial checksums and TCP segmentation are taken.
    pub vnet: bool,
    /// UDP segmentation is taken (`TUN_F_USO4`, `TUN_F_USO6`).
    pub uso: bool,
}

impl Caps {
    /// Takes everything.
    pub const FULL: Caps = Caps { vnet: true, uso: true };
    /// Takes nothing: whole frames with whole checksums.
    pub const PLAIN: Caps = Caps { vnet: false, uso: false };
}

/// What is known of the transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4Checksum {
    /// We computed it ourselves.
    Verified,
    /// In the packet, not looked at.
    Unverified,
    /// The field holds the pseudo-header's uncomplemented sum; the receiver, or segmentation, completes it.
    Partial,
}

/// Segmentation that is still to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// One frame is one packet.
    None,
    /// TCP, every `mss` bytes of payload; `ecn`: CWR on the first segment only.
    Tcp { mss: NonZeroU16, ecn: bool },
    /// UDP datagrams of `size` bytes each.
    Udp { size: NonZeroU16 },
}

/// Why a frame was refused at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Shorter than its link header.
    Runt,
    /// Longer than [`MAX_LEN`].
    TooLong,
    /// A checksum offset outside of the frame.
    ChecksumOffset,
    /// Segmentation that does not fit the packet: kind, family, no partial checksum, a fragment, or no size.
    Segmentation,
    /// Segmentation into more than [`MAX_SEGMENTS`].
    TooManySegments,
}

/// A frame or packet in a buffer, validated.
pub struct Frame<'a> {
    buf: &'a mut [u8],
    /// First byte: of the Ethernet header, or of the IP header when there is none.
    start: usize,
    end: usize,
    layout: Layout,
    checksum: L4Checksum,
    gso: Gso,
}

impl<'a> Frame<'a> {
    /// Validates `buf[start..end]`, whose virtio header lies in the [`vnet::LEN`] bytes before `start`.
    ///
    /// `start` is at least [`HEADROOM`] for packets that may be forwarded.
    pub fn parse(buf: &'a mut [u8], start: usize, end: usize, link: Link) -> Result<Frame<'a>, Refused> {
        debug_assert!(start >= HEADROOM && end <= buf.len() && start <= end);
        if end - start > MAX_LEN {
            return Err(Refused::TooLong);
        }
        let vnet = VnetHeader::read(&buf[start - vnet::LEN..]);
        let mut layout = Layout::parse(buf, start, end, link).ok_or(Refused::Runt)?;
        let mut checksum = L4Checksum::Unverified;
        if vnet.flags & vnet::NEEDS_CSUM != 0 {
            if covers_transport(&layout, buf, start, end, &vnet) {
                checksum = L4Checksum::Partial;
            } else if vnet.gso_type & !gso::ECN != gso::NONE {
                return Err(Refused::Segmentation);
            } else {
                complete_checksum(&mut buf[start..end], &vnet)?;
                layout = Layout::parse(buf, start, end, link).ok_or(Refused::Runt)?;
            }
        }
        let gso = settle_gso(&layout, checksum, &vnet)?;
        Ok(Frame { buf, start, end, layout, checksum, gso })
    }

    /// Where things lie.
    #[inline]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What is known of the transport checksum.
    #[inline]
    pub fn checksum(&self) -> L4Checksum {
        self.checksum
    }

    /// Segmentation still to be done.
    #[inline]
    pub fn gso(&self) -> Gso {
        self.gso
    }

    /// Length from the first to the last byte as it would be transmitted now, without the virtio header.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// All bytes from the link header on, as they would be transmitted now.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Destination of the Ethernet header. Only for frames that have one.
    #[inline]
    pub fn eth_dst(&self) -> Mac {
        Mac::read(&self.buf[self.start..])
    }

    /// Source of the Ethernet header. Only for frames that have one.
    #[inline]
    pub fn eth_src(&self) -> Mac {
        Mac::read(&self.buf[self.start + 6..])
    }

    /// The network packet: header and data, without link header or padding.
    #[inline]
    pub fn l3(&self) -> &[u8] {
        &self.buf[self.layout.l3..self.layout.l3_end]
    }

    /// The same, to be changed.
    #[inline]
    pub fn l3_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.layout.l3..self.layout.l3_end]
    }

    /// The transport header and what follows; for a later fragment just data.
    #[inline]
    pub fn l4(&self) -> &[u8] {
        &self.buf[self.layout.l4..self.layout.l3_end]
    }

    /// The same, to be changed.
    #[inline]
    pub fn l4_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.layout.l4..self.layout.l3_end]
    }

    /// What follows the transport header.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.buf[self.layout.payload..self.layout.l3_end]
    }

    /// Source and destination of the network header, if it is a sound IPv4 or IPv6 one.
    #[inline]
    pub fn addrs(&self) -> Option<(Addr, Addr)> {
        let l3 = &self.buf[self.layout.l3..];
        match self.layout.kind {
            L3::V4 => Some((Addr::read4(l3, ipv4::SRC), Addr::read4(l3, ipv4::DST))),
            L3::V6 => Some((Addr::read6(l3, 8)?, Addr::read6(l3, 24)?)),
            L3::Arp | L3::Other | L3::Malformed(_) => None,
        }
    }

    /// The length of the longest IP packet that leaves when this one is segmented, bytes: what an MTU is compared to.
    /// Never the length of the super-frame.
    #[inline]
    pub fn segment_len(&self) -> usize {
        let headers = self.layout.payload - self.layout.l3;
        match self.gso {
            Gso::None => self.layout.l3_end - self.layout.l3,
            Gso::Tcp { mss: size, .. } | Gso::Udp { size } => headers + usize::from(size.get()),
        }
    }

    /// How many packets this frame stands for.
    pub fn segments(&self) -> usize {
        match self.gso {
            Gso::None => 1,
            Gso::Tcp { mss: size, .. } | Gso::Udp { size } => {
                (self.layout.l3_end - self.layout.payload).div_ceil(usize::from(size.get())).max(1)
            }
        }
    }

    /// Checks the transport checksum of a whole packet, unless it is partial (nothing to check yet), a fragment, or
    /// not of TCP, UDP or ICMP. `false`: it is wrong. A sound one is remembered.
    pub fn verify_checksum(&mut self) -> bool {
        if self.checksum != L4Checksum::Unverified || self.layout.fragment != Fragment::None {
            return true;
        }
        let Some((src, dst)) = self.addrs() else {
            return true;
        };
        let l4 = self.l4();
        let pseudo = |proto: u8| checksum::pseudo_header(src, dst, proto, l4.len() as u32); // at most 65,535
        let sound = match self.layout.l4_kind {
            L4::Tcp => checksum::add(pseudo(proto::TCP), checksum::sum(l4)) == 0xffff,
            L4::Udp => {
                let data = &l4[..usize::from(get16(l4, udp::LENGTH))];
                get16(l4, udp::CHECKSUM) == 0
                    || checksum::add(
                        checksum::pseudo_header(src, dst, proto::UDP, data.len() as u32),
                        checksum::sum(data),
                    ) == 0xffff
            }
            L4::IcmpQuery | L4::IcmpError | L4::IcmpOther => checksum::sum(l4) == 0xffff,
            L4::Other | L4::None | L4::Malformed => return true,
        };
        if sound {
            self.checksum = L4Checksum::Verified;
        }
        sound
    }

    /// Takes the Ethernet header and any padding off: the frame becomes a bare IP packet.
    pub fn strip_link(&mut self) {
        self.start = self.layout.l3;
        self.end = self.layout.l3_end;
        self.layout.tagged = false;
    }

    /// Puts an Ethernet header (in the place of one that may be there) before the network header, and drops padding.
    pub fn push_link(&mut self, dst: Mac, src: Mac) {
        self.start = self.layout.l3 - ETH_LEN;
        self.end = self.layout.l3_end;
        self.layout.tagged = false;
        let kind = if self.layout.kind == L3::V6 { ethertype::IPV6 } else { ethertype::IPV4 };
        let header = &mut self.buf[self.start..];
        header[..6].copy_from_slice(&dst.0);
        header[6..12].copy_from_slice(&src.0);
        put16(header, 12, kind);
    }

    /// The frame as it goes out: with a virtio header that says what is still to be done.
    pub fn out(&mut self) -> FrameOut<'_> {
        let header = self.vnet();
        let from = self.start - vnet::LEN;
        header.write(&mut self.buf[from..]);
        FrameOut { bytes: &self.buf[from..self.end] }
    }

    fn vnet(&self) -> VnetHeader {
        let mut header = VnetHeader::default();
        let layout = &self.layout;
        if layout.has_transport() {
            header.hdr_len = (layout.payload - self.start) as u16; // eight IPv6 extensions end within 17 KiB
        }
        if self.checksum == L4Checksum::Partial {
            header.flags = vnet::NEEDS_CSUM;
            header.csum_start = (layout.l4 - self.start) as u16;
            header.csum_offset = checksum_offset(layout.l4_kind).unwrap_or(0) as u16;
        }
        match self.gso {
            Gso::None => {}
            Gso::Tcp { mss, ecn } => {
                header.gso_type = if layout.kind == L3::V6 { gso::TCPV6 } else { gso::TCPV4 };
                header.gso_type |= if ecn { gso::ECN } else { 0 };
                header.gso_size = mss.get();
            }
            Gso::Udp { size } => {
                header.gso_type = gso::UDP_L4;
                header.gso_size = size.get();
            }
        }
        header
    }
}

/// A frame on its way out: a virtio header and the frame's bytes, contiguous, so that one write(2) takes both.
#[derive(Clone, Copy)]
pub struct FrameOut<'a> {
    bytes: &'a [u8],
}

impl<'a> FrameOut<'a> {
    /// `bytes` begins with a virtio header. Panics if it is shorter than one.
    pub fn from_bytes(bytes: &'a [u8]) -> FrameOut<'a> {
        assert!(bytes.len() >= vnet::LEN, "a virtio header comes first");
        FrameOut { bytes }
    }

    /// The virtio header as values.
    pub fn vnet(&self) -> VnetHeader {
        VnetHeader::read(self.bytes)
    }

    /// For a port with virtio headers: header and frame.
    #[inline]
    pub fn with_vnet(&self) -> &'a [u8] {
        self.bytes
    }

    /// For a plain port: the frame alone.
    #[inline]
    pub fn packet(&self) -> &'a [u8] {
        &self.bytes[vnet::LEN..]
    }
}

/// Where the checksum lies in the header of a transport that offloads it.
#[inline]
fn checksum_offset(kind: L4) -> Option<usize> {
    match kind {
        L4::Tcp => Some(tcp::CHECKSUM),
        L4::Udp => Some(udp::CHECKSUM),
        L4::IcmpQuery | L4::IcmpError | L4::IcmpOther | L4::Other | L4::None | L4::Malformed => None,
    }
}

/// Is what the virtio header wants summed the transport header that we found and its data, with the field in the right
/// place? The sum runs to the end of the frame, so with padding, or behind a UDP length that says less, it would change
/// when the packet is trimmed. A fragment's checksum covers bytes that are not here, so it is never taken as partial.
fn covers_transport(layout: &Layout, buf: &[u8], start: usize, end: usize, vnet: &VnetHeader) -> bool {
    layout.fragment == Fragment::None
        && layout.l3_end == end
        && start + usize::from(vnet.csum_start) == layout.l4
        && checksum_offset(layout.l4_kind) == Some(usize::from(vnet.csum_offset))
        && (layout.l4_kind != L4::Udp || usize::from(get16(buf, layout.l4 + udp::LENGTH)) == end - layout.l4)
}

/// Does what a network card would: sums from `csum_start` to the end and stores the complement (`skb_checksum_help`).
fn complete_checksum(frame: &mut [u8], vnet: &VnetHeader) -> Result<(), Refused> {
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    if field + 2 > frame.len() {
        return Err(Refused::ChecksumOffset);
    }
    let sum = match !checksum::sum(&frame[start..]) {
        0 => 0xffff,
        sum => sum,
    };
    put16(frame, field, sum);
    Ok(())
}

fn settle_gso(layout: &Layout, checksum: L4Checksum, vnet: &VnetHeader) -> Result<Gso, Refused> {
    let kind = vnet.gso_type & !gso::ECN;
    if kind == gso::NONE {
        return Ok(Gso::None);
    }
    let size = NonZeroU16::new(vnet.gso_size).ok_or(Refused::Segmentation)?;
    let settled = match (kind, layout.kind, layout.l4_kind) {
        (gso::TCPV4, L3::V4, L4::Tcp) | (gso::TCPV6, L3::V6, L4::Tcp) => {
            Gso::Tcp { mss: size, ecn: vnet.gso_type & gso::ECN != 0 }
        }
        (gso::UDP_L4, L3::V4 | L3::V6, L4::Udp) => Gso::Udp { size },
        _ => return Err(Refused::Segmentation),
    };
    if checksum != L4Checksum::Partial {
        return Err(Refused::Segmentation);
    }
    let payload = layout.l3_end - layout.payload;
    if payload.div_ceil(usize::from(size.get())) > MAX_SEGMENTS {
        return Err(Refused::TooManySegments);
    }
    Ok(if payload <= usize::from(size.get()) { Gso::None } else { settled })
}
