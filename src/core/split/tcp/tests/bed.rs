//! A host in memory, a container that sends single segments, and one that is a whole stack.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::core::counters::DropReason;
use crate::core::network::NetworkId;
use crate::core::port::PortId;
pub use crate::core::socket::Endpoint;
use crate::core::socket::{
    Accepted, Close, DatagramError, Datagrams, Failure, Mark, Ready, Received, RouteKind, SendHow, SocketId, Sockets,
};
use crate::core::split::ids::Ids;
use crate::core::split::tcp::{Config, Tcp, View};
use crate::core::split::{Lower, Origin};
use crate::core::time::Instant;
use crate::core::worth::Worth;
use crate::frame::{Caps, Frame, FrameOut, HEADROOM, Link, segment};
use crate::wire::addr::Addr;
use crate::wire::ip::{ipv4, ipv6, proto, tcp};
use crate::wire::vnet::{self, VnetHeader, gso};
use crate::wire::{checksum, get16, get32, put16, put32};

pub const NET: NetworkId = NetworkId(1);
pub const PORT: PortId = PortId(7);

/// A host socket in memory.
#[derive(Debug, Default)]
pub struct Sock {
    pub to: Option<Endpoint>,
    pub mss: u16,
    /// Of a connect: how it ended.
    pub outcome: Option<Result<(), Failure>>,
    /// What the peer sent.
    pub inbox: VecDeque<u8>,
    pub eof: bool,
    pub recv_error: Option<Failure>,
    /// Where in the inbox the urgent byte is.
    pub mark: Option<usize>,
    /// What the peer got.
    pub outbox: Vec<u8>,
    pub urgent: Vec<usize>,
    /// How much more the socket takes.
    pub room: usize,
    pub send_error: Option<Failure>,
    pub finished: bool,
    pub marks: Vec<Mark>,
    pub keepalive: bool,
    pub closed: Option<Close>,
    /// Of a listener.
    pub clients: VecDeque<Result<Accepted, Failure>>,
    pub admits: Option<bool>,
    /// An edge is wanted.
    wants_read: bool,
    wants_write: bool,
}

/// The host, and the network below.
pub struct World {
    pub sockets: BTreeMap<SocketId, Sock>,
    ids: Ids,
    /// Packets to the container: virtio header and IP packet.
    pub out: VecDeque<Vec<u8>>,
    pub counted: Vec<DropReason>,
    /// What the last segment came to.
    pub worth: Worth,
    pub mtu: usize,
    pub gateway: Option<Addr>,
    pub room: usize,
    /// How connects end at once.
    pub connect: Result<(), Failure>,
    /// What is known of a new connection at once.
    pub outcome: Option<Result<(), Failure>>,
    /// What a new connection's socket takes.
    pub sock_room: usize,
    random: u64,
    /// The right edge that each end was last told, and the scale.
    edges: BTreeMap<(Endpoint, Endpoint), (Option<u32>, u8)>,
}

impl World {
    fn sock(&mut self, id: SocketId) -> Result<&mut Sock, Failure> {
        self.sockets.get_mut(&id).filter(|s| s.closed.is_none()).ok_or(Failure::Other(9))
    }
}

impl World {
    /// The right edge of a window never moves left (RFC 9293 3.8.6.2.1).
    fn check_edge(&mut self, seg: &Seg) {
        let key = (seg.from, seg.to);
        if seg.has(SYN) {
            let scale = seg.options.windows(3).find(|o| o[..2] == [3, 3]).map_or(0, |o| o[2]);
            let edge = seg.has(ACK).then(|| seg.ack.wrapping_add(u32::from(seg.window)));
            self.edges.insert(key, (edge, scale));
        } else if seg.has(ACK) && !seg.has(RST) {
            let (last, scale) = self.edges[&key];
            let edge = seg.ack.wrapping_add(u32::from(seg.window) << scale);
            let moved = edge.wrapping_sub(last.unwrap_or(edge)) as i32;
            assert!(moved >= 0, "the right edge moved by {moved}");
            self.edges.insert(key, (Some(edge), scale));
        }
    }
}

impl Lower for World {
    fn sockets(&mut self) -> &mut dyn Sockets {
        self
    }

    fn ids(&mut self) -> &mut Ids {
        &mut self.ids
    }

    fn deliver(&mut self, network: NetworkId, frame: &mut Frame<'_>) {
        assert_eq!(network, NET);
        assert!(frame.segment_len() <= self.mtu, "{} bytes", frame.segment_len());
        // The headroom is the network's to write to.
        let len = frame.len();
        frame.push_link(crate::wire::mac::Mac([0xee; 6]), crate::wire::mac::Mac([0xdd; 6]));
        assert_eq!(frame.len(), len + 14);
        frame.strip_link();
        let bytes = frame.out().with_vnet().to_vec();
        if frame.layout().l4_kind == crate::frame::L4::Tcp {
            self.check_edge(&Seg::read(&bytes));
        }
        self.out.push_back(bytes);
    }

    fn mtu(&self, _: NetworkId) -> usize {
        self.mtu
    }

    fn gateway(&self, _: NetworkId) -> Option<Addr> {
        self.gateway
    }

    fn on_link(&self, _: NetworkId, addr: Addr) -> bool {
        addr.as_v4().is_some_and(|v4| v4[..2] == [172, 17])
    }

    fn count(&mut self, port: PortId, why: DropReason) {
        assert_eq!(port, PORT);
        self.counted.push(why);
    }

    fn came_to(&mut self, worth: Worth) {
        self.worth = worth;
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 16
    }
}

impl Sockets for World {
    fn connect(&mut self, id: SocketId, to: Endpoint, mark: Mark, mss: u16) -> Result<(), Failure> {
        self.connect?;
        let (outcome, room) = (self.outcome, self.sock_room);
        let sock = Sock { to: Some(to), mss, outcome, room, marks: vec![mark], wants_read: true, ..Sock::default() };
        assert!(self.sockets.insert(id, sock).is_none_or(|s| s.closed.is_some()));
        Ok(())
    }

    fn outcome(&mut self, id: SocketId) -> Result<(), Failure> {
        let sock = self.sock(id)?;
        sock.recv_error.or(sock.send_error).map_or(sock.outcome.unwrap_or(Err(Failure::WouldBlock)), Err)
    }

    fn listen(&mut self, id: SocketId, at: Endpoint, mss: u16) -> Result<(), Failure> {
        self.sockets.insert(id, Sock { to: Some(at), mss, ..Sock::default() });
        Ok(())
    }

    fn accept(&mut self, listener: SocketId, id: SocketId) -> Result<Accepted, Failure> {
        let room = self.sock_room;
        if self.room == 0 {
            return Err(Failure::NoFiles);
        }
        let accepted = self.sock(listener)?.clients.pop_front().unwrap_or(Err(Failure::WouldBlock))?;
        self.sockets.insert(id, Sock { to: Some(accepted.peer), room, wants_read: true, ..Sock::default() });
        Ok(accepted)
    }

    fn admit(&mut self, listener: SocketId, admit: bool) -> Result<(), Failure> {
        self.sock(listener)?.admits = Some(admit);
        Ok(())
    }

    fn send(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, Failure> {
        let sock = self.sock(id)?;
        assert!(!bytes.is_empty() && !sock.finished);
        if let Some(why) = sock.send_error {
            return Err(why);
        }
        let len = bytes.len().min(sock.room);
        if len == 0 {
            sock.wants_write = true;
            return Err(Failure::WouldBlock);
        }
        sock.room -= len;
        sock.outbox.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn send_urgent(&mut self, id: SocketId, byte: u8) -> Result<(), Failure> {
        let sock = self.sock(id)?;
        sock.urgent.push(sock.outbox.len());
        sock.outbox.push(byte);
        Ok(())
    }

    fn at_mark(&mut self, id: SocketId) -> bool {
        self.sock(id).is_ok_and(|sock| sock.mark == Some(0))
    }

    fn recv(&mut self, id: SocketId, into: &mut [u8]) -> Result<usize, Failure> {
        let sock = self.sock(id)?;
        assert!(!into.is_empty());
        if sock.inbox.is_empty() {
            if let Some(why) = sock.recv_error {
                return Err(why);
            }
            if sock.eof {
                return Ok(0);
            }
            sock.wants_read = true;
            return Err(Failure::WouldBlock);
        }
        let mut len = into.len().min(sock.inbox.len());
        match sock.mark {
            Some(0) => sock.mark = None,
            Some(ahead) => {
                len = len.min(ahead);
                sock.mark = Some(ahead - len);
            }
            None => {}
        }
        for (to, from) in into.iter_mut().zip(sock.inbox.drain(..len)) {
            *to = from;
        }
        Ok(len)
    }

    fn finish(&mut self, id: SocketId) -> Result<(), Failure> {
        let sock = self.sock(id)?;
        if let Some(why) = sock.send_error {
            return Err(why);
        }
        sock.finished = true;
        Ok(())
    }

    fn mark(&mut self, id: SocketId, mark: Mark) {
        if let Ok(sock) = self.sock(id) {
            sock.marks.push(mark);
        }
    }

    fn keepalive(&mut self, id: SocketId) {
        if let Ok(sock) = self.sock(id) {
            sock.keepalive = true;
        }
    }

    fn open(&mut self, _: SocketId, _: Datagrams, _: Endpoint) -> Result<Endpoint, Failure> {
        Err(Failure::Prohibited)
    }

    fn send_to(&mut self, _: SocketId, _: Endpoint, _: &[u8], _: &SendHow) -> Result<(), Failure> {
        Err(Failure::Prohibited)
    }

    fn recv_from(&mut self, _: SocketId, _: &mut [u8]) -> Result<Received, Failure> {
        Err(Failure::Prohibited)
    }

    fn next_error(&mut self, _: SocketId) -> Option<DatagramError> {
        None
    }

    fn close(&mut self, id: SocketId, how: Close) {
        let sock = self.sock(id).expect("closed once");
        sock.closed = Some(how);
    }

    fn route_kind(&mut self, addr: Addr) -> RouteKind {
        if addr == addr_of("192.0.2.10") { RouteKind::Local } else { RouteKind::Unicast }
    }

    fn room(&self) -> usize {
        self.room
    }
}

pub fn addr_of(text: &str) -> Addr {
    text.parse().unwrap()
}

pub fn end(text: &str, port: u16) -> Endpoint {
    Endpoint { addr: addr_of(text), port }
}

/// A segment as a test writes and reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seg {
    pub from: Endpoint,
    pub to: Endpoint,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub urgent: u16,
    pub tos: u8,
    /// As they stand in the header, padded.
    pub options: Vec<u8>,
    pub data: Vec<u8>,
    /// Segment size of a super-frame; 0 if it is none.
    pub gso: u16,
}

pub const FIN: u8 = tcp::FIN;
pub const SYN: u8 = tcp::SYN;
pub const RST: u8 = tcp::RST;
pub const ACK: u8 = tcp::ACK;
pub const PSH: u8 = tcp::PSH;
pub const URG: u8 = 0x20;

impl Seg {
    pub fn packet(&self) -> Vec<u8> {
        let tcp_len = 20 + self.options.len() + self.data.len();
        let v4 = self.from.addr.is_v4();
        let ip_len = if v4 { 20 } else { 40 };
        let mut p = vec![0; ip_len + tcp_len];
        if v4 {
            p[0] = 0x45;
            p[ipv4::TOS] = self.tos;
            put16(&mut p, ipv4::TOTAL_LEN, (ip_len + tcp_len) as u16);
            p[ipv4::TTL] = 64;
            p[ipv4::PROTO] = proto::TCP;
            p[ipv4::SRC..ipv4::SRC + 4].copy_from_slice(self.from.addr.wire_bytes());
            p[ipv4::DST..ipv4::DST + 4].copy_from_slice(self.to.addr.wire_bytes());
            let sum = !checksum::sum(&p[..20]);
            put16(&mut p, ipv4::CHECKSUM, sum);
        } else {
            p[0] = 0x60 | self.tos >> 4;
            p[1] = self.tos << 4;
            put16(&mut p, ipv6::PAYLOAD_LEN, tcp_len as u16);
            p[ipv6::NEXT_HEADER] = proto::TCP;
            p[7] = 64;
            p[ipv6::SRC..ipv6::SRC + 16].copy_from_slice(self.from.addr.octets());
            p[ipv6::DST..ipv6::DST + 16].copy_from_slice(self.to.addr.octets());
        }
        let t = &mut p[ip_len..];
        put16(t, 0, self.from.port);
        put16(t, 2, self.to.port);
        put32(t, tcp::SEQ, self.seq);
        put32(t, 8, self.ack);
        t[tcp::DATA_OFFSET] = ((20 + self.options.len()) as u8 / 4) << 4;
        t[tcp::FLAGS] = self.flags;
        put16(t, 14, self.window);
        put16(t, 18, self.urgent);
        t[20..20 + self.options.len()].copy_from_slice(&self.options);
        t[20 + self.options.len()..].copy_from_slice(&self.data);
        let pseudo = checksum::pseudo_header(self.from.addr, self.to.addr, proto::TCP, tcp_len as u32);
        let sum = !checksum::add(pseudo, checksum::sum(t));
        put16(t, tcp::CHECKSUM, sum);
        p
    }

    /// Reads a packet of ours; checks sums and offloads.
    pub fn read(bytes: &[u8]) -> Seg {
        let offload = VnetHeader::read(bytes);
        let p = &bytes[vnet::LEN..];
        let v4 = p[0] >> 4 == 4;
        let ip_len = if v4 { 20 } else { 40 };
        let (from, to) = if v4 {
            assert_eq!(checksum::sum(&p[..20]), 0xffff);
            assert_eq!(usize::from(get16(p, ipv4::TOTAL_LEN)), p.len());
            (Addr::read4(p, ipv4::SRC), Addr::read4(p, ipv4::DST))
        } else {
            assert_eq!(usize::from(get16(p, ipv6::PAYLOAD_LEN)) + 40, p.len());
            (Addr::read6(p, ipv6::SRC).unwrap(), Addr::read6(p, ipv6::DST).unwrap())
        };
        let t = &p[ip_len..];
        let header = usize::from(t[tcp::DATA_OFFSET] >> 4) * 4;
        assert_eq!(offload.flags, vnet::NEEDS_CSUM);
        assert_eq!(
            get16(t, tcp::CHECKSUM),
            checksum::pseudo_header(from, to, proto::TCP, t.len() as u32),
            "partial checksum"
        );
        if offload.gso_type != gso::NONE {
            assert!((t.len() - header).div_ceil(usize::from(offload.gso_size)) <= crate::frame::MAX_SEGMENTS);
        }
        Seg {
            from: Endpoint { addr: from, port: get16(t, 0) },
            to: Endpoint { addr: to, port: get16(t, 2) },
            seq: get32(t, tcp::SEQ),
            ack: get32(t, 8),
            flags: t[tcp::FLAGS],
            window: get16(t, 14),
            urgent: get16(t, 18),
            tos: 0,
            options: t[20..header].to_vec(),
            data: t[header..].to_vec(),
            gso: offload.gso_size,
        }
    }

    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// SACK blocks.
    pub fn sacks(&self) -> Vec<(u32, u32)> {
        let mut rest = &self.options[..];
        while let [kind, tail @ ..] = rest {
            match kind {
                1 => rest = tail,
                5 => {
                    let len = usize::from(tail[0]);
                    return rest[2..len].chunks(8).map(|b| (get32(b, 0), get32(b, 4))).collect();
                }
                _ => rest = &rest[usize::from(tail[0])..],
            }
        }
        Vec::new()
    }
}

/// An engine in a world, and the clock.
pub struct Bed {
    pub tcp: Tcp,
    pub world: World,
    pub now: Instant,
    again: Vec<SocketId>,
}

impl Bed {
    pub fn new(config: Config) -> Bed {
        Bed::with_key(config, 9)
    }

    /// `key` decides all sequence numbers.
    pub fn with_key(config: Config, key: u8) -> Bed {
        Bed {
            tcp: Tcp::new(config, [key; 16]),
            world: World {
                sockets: BTreeMap::new(),
                ids: Ids::default(),
                out: VecDeque::new(),
                counted: Vec::new(),
                worth: Worth::Something,
                mtu: 1500,
                gateway: Some(addr_of("172.17.0.1")),
                room: 1_000_000,
                connect: Ok(()),
                outcome: None,
                sock_room: usize::MAX,
                random: 1,
                edges: BTreeMap::new(),
            },
            now: Instant::from_secs(1000),
            again: Vec::new(),
        }
    }

    /// A packet from the container.
    pub fn packet(&mut self, packet: &[u8]) -> Result<(), DropReason> {
        let mut buf = vec![0; HEADROOM + packet.len()];
        buf[HEADROOM..].copy_from_slice(packet);
        let len = buf.len();
        let mut frame = Frame::parse(&mut buf, HEADROOM, len, Link::Ip).unwrap();
        assert!(frame.verify_checksum());
        let (_, dst) = frame.addrs().unwrap();
        let dial = Endpoint { addr: dst, port: get16(frame.l4(), 2) };
        let origin = Origin { port: PORT, network: NET };
        self.tcp.input(origin, &frame, dial, self.now, &mut self.world)
    }

    pub fn input(&mut self, seg: &Seg) -> Result<(), DropReason> {
        let result = self.packet(&seg.packet());
        self.tcp.flush(self.now, &mut self.world);
        result
    }

    /// What was sent to the container since the last call.
    pub fn sent(&mut self) -> Vec<Seg> {
        self.world.out.drain(..).map(|bytes| Seg::read(&bytes)).collect()
    }

    /// The same as packets of the link, cut and summed.
    pub fn packets(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut scratch = Vec::new();
        for bytes in self.world.out.drain(..) {
            segment::for_each(FrameOut::from_bytes(&bytes), Link::Ip, Caps::PLAIN, &mut scratch, &mut |packet| {
                packets.push(packet.packet().to_vec());
            });
        }
        packets
    }

    /// Tells the engine what became possible with its sockets, until nothing is.
    pub fn events(&mut self) {
        for _ in 0..10_000 {
            let mut ready: Vec<(SocketId, Ready)> =
                self.again.drain(..).map(|id| (id, Ready { readable: true, ..Ready::default() })).collect();
            for (id, sock) in &mut self.world.sockets {
                if sock.closed.is_some() {
                    continue;
                }
                let failed = sock.recv_error.is_some() || sock.send_error.is_some();
                let mut what = Ready::default();
                if sock.wants_read && (!sock.inbox.is_empty() || sock.eof || failed) {
                    (sock.wants_read, what.readable, what.error) = (false, true, failed);
                }
                if sock.wants_write && (sock.room > 0 || sock.send_error.is_some()) {
                    (sock.wants_write, what.writable, what.error) = (false, true, failed);
                }
                if what != Ready::default() {
                    ready.push((*id, what));
                }
            }
            if ready.is_empty() {
                self.tcp.flush(self.now, &mut self.world);
                if self.tcp.next_timeout().is_none_or(|at| at > self.now) {
                    return;
                }
                self.tcp.handle_timeout(self.now, &mut self.world);
                continue;
            }
            for (id, ready) in ready {
                if self.tcp.socket_ready(id, ready, self.now, &mut self.world) {
                    self.again.push(id);
                }
            }
            self.tcp.flush(self.now, &mut self.world);
        }
        panic!("the engine spins");
    }

    /// Decides a connect.
    pub fn decide(&mut self, id: SocketId, outcome: Result<(), Failure>) {
        self.world.sockets.get_mut(&id).unwrap().outcome = Some(outcome);
        let ready = Ready { writable: true, error: outcome.is_err(), readable: false };
        self.tcp.socket_ready(id, ready, self.now, &mut self.world);
        self.tcp.flush(self.now, &mut self.world);
    }

    /// The only socket that is open.
    pub fn socket(&mut self) -> (SocketId, &mut Sock) {
        let mut open = self.world.sockets.iter_mut().filter(|(_, s)| s.closed.is_none());
        let (id, sock) = open.next().expect("a socket is open");
        assert!(open.next().is_none(), "one socket");
        (*id, sock)
    }

    /// The socket that was made last, open or not.
    pub fn last_socket(&self) -> &Sock {
        self.world.sockets.values().last().unwrap()
    }

    /// Lets time pass, timers and all.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            match self.tcp.next_timeout() {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.tcp.handle_timeout(self.now, &mut self.world);
                    self.tcp.flush(self.now, &mut self.world);
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the engine wakes up all the time");
    }

    pub fn rows(&self) -> Vec<View> {
        self.tcp.flows(0, 1000, self.now).0
    }

    pub fn states(&self) -> Vec<&'static str> {
        self.rows().iter().map(|r| r.state).collect()
    }

    /// Nothing is left: no flow, memory, name, timer.
    pub fn assert_empty(&mut self) {
        assert!(self.tcp.is_empty(), "{:?}", self.rows());
        assert_eq!(self.tcp.memory(), (0, 0));
        let open = self.world.sockets.values().filter(|s| s.closed.is_none() && s.admits.is_none()).count();
        assert_eq!(open, 0, "open sockets");
        self.pass(Duration::from_secs(11));
        assert_eq!(self.tcp.next_timeout(), None);
        assert!(self.states().is_empty());
    }
}
