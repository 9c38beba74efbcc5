//! A host of scripted sockets, and a network that keeps what it is sent.

use std::collections::{BTreeMap, VecDeque};

use crate::core::counters::DropReason;
use crate::core::network::NetworkId;
use crate::core::port::PortId;
use crate::core::socket::{
    Accepted, Close, DatagramError, Datagrams, Endpoint, Failure, Mark, Received, RouteKind, SendHow, SocketId, Sockets,
};
use crate::core::split::ids::Ids;
use crate::core::split::{Lower, Origin};
use crate::core::worth::Worth;
use crate::frame::{Caps, Frame, HEADROOM, Link, segment};
use crate::wire::addr::{Addr, Cidr};
use crate::wire::checksum;
use crate::wire::ip::{ipv4, proto};
use crate::wire::put16;
use crate::wire::vnet::{self, VnetHeader};

/// What was sent from a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::core::split) struct Sent {
    pub to: Endpoint,
    pub data: Vec<u8>,
    pub how: SendHow,
}

pub(in crate::core::split) struct FakeSocket {
    pub kind: Datagrams,
    pub bound: Endpoint,
    pub inbox: VecDeque<Result<(Received, Vec<u8>), Failure>>,
    pub errors: VecDeque<DatagramError>,
    /// What the next calls meet; none: nothing.
    pub refusals: VecDeque<Option<Failure>>,
    pub sent: Vec<Sent>,
}

/// The host's side.
pub(in crate::core::split) struct Host {
    pub open: BTreeMap<SocketId, FakeSocket>,
    pub refuse_open: VecDeque<Failure>,
    pub local: Vec<Addr>,
    pub room: usize,
    pub opened: usize,
    next_port: u16,
}

/// The engines' surroundings.
pub(in crate::core::split) struct Around {
    pub host: Host,
    pub ids: Ids,
    /// Packets as they go out, with their virtio header.
    pub delivered: Vec<Vec<u8>>,
    pub mtu: usize,
    pub dropped: Vec<(PortId, DropReason)>,
    /// What the last packet came to.
    pub worth: Worth,
    random: u64,
}

pub(in crate::core::split) const HOST: Addr = Addr::v4([192, 0, 2, 10]);
pub(in crate::core::split) const GATEWAY: Addr = Addr::v4([172, 17, 0, 1]);

/// Container number `n`, from 2 on.
pub(in crate::core::split) fn container(n: u8) -> (Origin, Addr) {
    (Origin { port: PortId(n.into()), network: NetworkId(0) }, Addr::v4([172, 17, 0, n]))
}

/// `192.0.2.1:53` as an endpoint.
pub(in crate::core::split) fn at(text: &str) -> Endpoint {
    let (addr, port) = text.rsplit_once(':').unwrap();
    Endpoint { addr: addr.parse().unwrap(), port: port.parse().unwrap() }
}

impl Around {
    pub fn new() -> Around {
        let host = Host {
            open: BTreeMap::new(),
            refuse_open: VecDeque::new(),
            local: vec![HOST],
            room: usize::MAX,
            opened: 0,
            next_port: 32_768,
        };
        let worth = Worth::Something;
        Around { host, ids: Ids::default(), delivered: Vec::new(), mtu: 1500, dropped: Vec::new(), worth, random: 1 }
    }

    /// The only socket.
    pub fn only(&mut self) -> (SocketId, &mut FakeSocket) {
        assert_eq!(self.host.open.len(), 1, "one socket is open");
        let (id, socket) = self.host.open.iter_mut().next().unwrap();
        (*id, socket)
    }

    /// All that was sent from any socket, and forgets it.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        self.host.open.values_mut().flat_map(|s| std::mem::take(&mut s.sent)).collect()
    }

    /// What the container's kernel would receive, each as a bare IP packet with whole checksums; and forgets it.
    pub fn take_packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for frame in std::mem::take(&mut self.delivered) {
            let out = crate::frame::FrameOut::from_bytes(&frame);
            segment::for_each(out, Link::Ip, Caps::PLAIN, &mut Vec::new(), &mut |packet| {
                packets.push(packet.packet().to_vec());
            });
        }
        for packet in &packets {
            assert_eq!(checksum::sum(&packet[..20]), 0xffff, "header checksum");
        }
        packets
    }
}

impl FakeSocket {
    /// A datagram comes.
    pub fn put(&mut self, from: Endpoint, data: &[u8]) {
        self.put_as(from, None, None, data);
    }

    pub fn put_as(&mut self, from: Endpoint, to: Option<Addr>, segment: Option<u16>, data: &[u8]) {
        let segment = segment.and_then(std::num::NonZeroU16::new);
        let received = Received { len: data.len(), truncated: false, from, scope: 0, to, segment, tos: 0, ttl: 60 };
        self.inbox.push_back(Ok((received, data.to_vec())));
    }
}

impl Lower for Around {
    fn sockets(&mut self) -> &mut dyn Sockets {
        &mut self.host
    }

    fn ids(&mut self) -> &mut Ids {
        &mut self.ids
    }

    fn deliver(&mut self, _: NetworkId, frame: &mut Frame<'_>) {
        self.delivered.push(frame.out().with_vnet().to_vec());
    }

    fn mtu(&self, _: NetworkId) -> usize {
        self.mtu
    }

    fn gateway(&self, _: NetworkId) -> Option<Addr> {
        Some(GATEWAY)
    }

    fn on_link(&self, _: NetworkId, addr: Addr) -> bool {
        Cidr::new(GATEWAY, 16).is_some_and(|subnet| subnet.contains(addr))
    }

    fn count(&mut self, port: PortId, why: DropReason) {
        self.dropped.push((port, why));
    }

    fn came_to(&mut self, worth: Worth) {
        self.worth = worth;
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 16
    }
}

const BAD: Failure = Failure::Other(9);

impl Sockets for Host {
    fn connect(&mut self, _: SocketId, _: Endpoint, _: Mark, _: u16) -> Result<(), Failure> {
        Err(BAD)
    }

    fn outcome(&mut self, _: SocketId) -> Result<(), Failure> {
        Err(BAD)
    }

    fn at_mark(&mut self, _: SocketId) -> bool {
        false
    }

    fn listen(&mut self, _: SocketId, _: Endpoint, _: u16) -> Result<(), Failure> {
        Err(BAD)
    }

    fn accept(&mut self, _: SocketId, _: SocketId) -> Result<Accepted, Failure> {
        Err(BAD)
    }

    fn admit(&mut self, _: SocketId, _: bool) -> Result<(), Failure> {
        Err(BAD)
    }

    fn send(&mut self, _: SocketId, _: &[u8]) -> Result<usize, Failure> {
        Err(BAD)
    }

    fn send_urgent(&mut self, _: SocketId, _: u8) -> Result<(), Failure> {
        Err(BAD)
    }

    fn recv(&mut self, _: SocketId, _: &mut [u8]) -> Result<usize, Failure> {
        Err(BAD)
    }

    fn finish(&mut self, _: SocketId) -> Result<(), Failure> {
        Err(BAD)
    }

    fn mark(&mut self, _: SocketId, _: Mark) {}

    fn keepalive(&mut self, _: SocketId) {}

    fn open(&mut self, id: SocketId, kind: Datagrams, at: Endpoint) -> Result<Endpoint, Failure> {
        if let Some(why) = self.refuse_open.pop_front() {
            return Err(why);
        }
        let taken = at.port != 0 && self.open.values().any(|s| s.kind == kind && s.bound.port == at.port);
        if taken && kind == Datagrams::Udp {
            return Err(Failure::InUse);
        }
        let mut bound = Endpoint { port: if taken { 0 } else { at.port }, ..at };
        if bound.port == 0 {
            self.next_port = self.next_port.checked_add(1).unwrap_or(32_768);
            bound.port = self.next_port;
        }
        let socket = FakeSocket {
            kind,
            bound,
            inbox: VecDeque::new(),
            errors: VecDeque::new(),
            refusals: VecDeque::new(),
            sent: Vec::new(),
        };
        assert!(self.open.insert(id, socket).is_none(), "a name is used once");
        self.opened += 1;
        Ok(bound)
    }

    fn send_to(&mut self, id: SocketId, to: Endpoint, payload: &[u8], how: &SendHow) -> Result<(), Failure> {
        let socket = self.open.get_mut(&id).ok_or(BAD)?;
        if let Some(Some(why)) = socket.refusals.pop_front() {
            return Err(why);
        }
        socket.sent.push(Sent { to, data: payload.to_vec(), how: *how });
        Ok(())
    }

    fn recv_from(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, Failure> {
        let socket = self.open.get_mut(&id).ok_or(BAD)?;
        let (mut received, data) = socket.inbox.pop_front().ok_or(Failure::WouldBlock)??;
        received.len = data.len().min(into.len());
        received.truncated |= data.len() > into.len();
        into[..received.len].copy_from_slice(&data[..received.len]);
        Ok(received)
    }

    fn next_error(&mut self, id: SocketId) -> Option<DatagramError> {
        self.open.get_mut(&id)?.errors.pop_front()
    }

    fn close(&mut self, id: SocketId, _: Close) {
        assert!(self.open.remove(&id).is_some(), "a socket is closed once");
    }

    fn route_kind(&mut self, addr: Addr) -> RouteKind {
        match addr.as_v4() {
            Some([127, ..]) => RouteKind::Local,
            Some([192, 0, 2, 255]) => RouteKind::Broadcast,
            _ if self.local.contains(&addr) => RouteKind::Local,
            _ => RouteKind::Unicast,
        }
    }

    fn room(&self) -> usize {
        self.room.saturating_sub(self.open.len())
    }
}

/// A packet that a container sends.
#[derive(Clone, Debug)]
pub(in crate::core::split) struct Packet {
    pub src: Addr,
    pub dst: Addr,
    pub proto: u8,
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    /// Flags and offset.
    pub fragment: u16,
    pub l4: Vec<u8>,
}

impl Packet {
    pub fn udp(from: Endpoint, to: Endpoint, data: &[u8]) -> Packet {
        let mut l4 = vec![0; 8 + data.len()];
        put16(&mut l4, 0, from.port);
        put16(&mut l4, 2, to.port);
        let len = l4.len() as u16;
        put16(&mut l4, 4, len);
        l4[8..].copy_from_slice(data);
        let pseudo = checksum::pseudo_header(from.addr, to.addr, proto::UDP, l4.len() as u32);
        let sum = match !checksum::add(pseudo, checksum::sum(&l4)) {
            0 => 0xffff,
            sum => sum,
        };
        put16(&mut l4, 6, sum);
        let (src, dst) = (from.addr, to.addr);
        Packet { src, dst, proto: proto::UDP, tos: 0, ttl: 64, id: 77, fragment: 0, l4 }
    }

    pub fn echo(src: Addr, dst: Addr, ident: u16, sequence: u16, data: &[u8]) -> Packet {
        let mut l4 = vec![8, 0, 0, 0, 0, 0, 0, 0];
        put16(&mut l4, 4, ident);
        put16(&mut l4, 6, sequence);
        l4.extend_from_slice(data);
        let sum = !checksum::sum(&l4);
        put16(&mut l4, 2, sum);
        Packet { src, dst, proto: proto::ICMP, tos: 0, ttl: 64, id: 77, fragment: ipv4::DF, l4 }
    }

    /// The packet's bytes behind [`HEADROOM`].
    pub fn buffer(&self) -> Vec<u8> {
        let mut buf = vec![0; HEADROOM + 20];
        buf.extend_from_slice(&self.l4);
        let total = (20 + self.l4.len()) as u16;
        let header = &mut buf[HEADROOM..HEADROOM + 20];
        header[0] = 0x45;
        header[ipv4::TOS] = self.tos;
        put16(header, ipv4::TOTAL_LEN, total);
        put16(header, ipv4::ID, self.id);
        put16(header, ipv4::FRAGMENT, self.fragment);
        header[ipv4::TTL] = self.ttl;
        header[ipv4::PROTO] = self.proto;
        header[ipv4::SRC..ipv4::SRC + 4].copy_from_slice(self.src.wire_bytes());
        header[ipv4::DST..ipv4::DST + 4].copy_from_slice(self.dst.wire_bytes());
        let sum = !checksum::sum(header);
        put16(header, ipv4::CHECKSUM, sum);
        buf
    }

    /// Hands the packet to `go` as a frame with a verified checksum.
    pub fn frame<T>(&self, go: impl FnOnce(&Frame<'_>) -> T) -> T {
        let mut buf = self.buffer();
        let end = buf.len();
        let mut frame = Frame::parse(&mut buf, HEADROOM, end, Link::Ip).unwrap();
        assert!(frame.verify_checksum());
        go(&frame)
    }

    /// The same as a super-frame of datagrams of `size`.
    pub fn super_frame<T>(&self, size: u16, go: impl FnOnce(&Frame<'_>) -> T) -> T {
        let mut buf = self.buffer();
        let vnet = VnetHeader {
            flags: vnet::NEEDS_CSUM,
            gso_type: vnet::gso::UDP_L4,
            hdr_len: 28,
            gso_size: size,
            csum_start: 20,
            csum_offset: 6,
        };
        vnet.write(&mut buf[HEADROOM - vnet::LEN..]);
        let end = buf.len();
        go(&Frame::parse(&mut buf, HEADROOM, end, Link::Ip).unwrap())
    }
}
