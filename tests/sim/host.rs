//! A host in memory: sockets of the uplink, and the far ends that they lead to.

use std::collections::{HashMap, HashSet, VecDeque};

use pontoon::core::socket::{
    Accepted, Close, DatagramError, Datagrams, Endpoint, Failure, Mark, Ready, Received, RouteKind, SendHow, SocketId,
    Sockets,
};
use pontoon::wire::addr::Addr;

/// Bytes that a stream holds in each direction.
const ROOM: usize = 256 * 1024;

/// The two directions of a connection, and how each ended.
#[derive(Default)]
pub struct Stream {
    /// Where the core connected to, or whom it accepted.
    pub peer: Option<Endpoint>,
    /// What the core sent.
    pub sent: VecDeque<u8>,
    /// What the peer sent and the core has not read.
    pub coming: VecDeque<u8>,
    /// The peer sends no more.
    pub peer_ended: bool,
    /// The core sends no more.
    pub finished: bool,
    /// How the core closed it.
    pub closed: Option<Close>,
    /// The connection failed like this.
    pub failure: Option<Failure>,
    connected: bool,
    /// Who was told to wait for room.
    blocked: bool,
}

/// A datagram that the core sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub id: SocketId,
    pub to: Endpoint,
    pub payload: Vec<u8>,
    pub how: SendHow,
}

struct DatagramSocket {
    bound: Endpoint,
    coming: VecDeque<(Endpoint, Option<Addr>, Vec<u8>)>,
    errors: VecDeque<DatagramError>,
}

#[derive(Default)]
pub struct Host {
    pub streams: HashMap<SocketId, Stream>,
    pub listeners: HashMap<SocketId, (Endpoint, VecDeque<Accepted>)>,
    datagrams: HashMap<SocketId, DatagramSocket>,
    /// Datagrams that left.
    pub sent: Vec<Sent>,
    /// What connecting there comes to; anything else is connected at once.
    pub refusals: HashMap<Endpoint, Failure>,
    /// Ports of the host that other programs have.
    pub taken: HashSet<u16>,
    /// Addresses of the host.
    pub own: HashSet<Addr>,
    /// Addresses that the host knows no way to.
    pub unreachable: HashSet<Addr>,
    /// Addresses that stand for all hosts of a link.
    pub broadcast: HashSet<Addr>,
    /// Echo requests are forbidden.
    pub no_ping: bool,
    /// No socket has room for a datagram.
    pub busy: bool,
    /// No descriptor is left.
    pub full: bool,
    /// There is no IPv6.
    pub no_ipv6: bool,
    next_port: u16,
    ready: VecDeque<(SocketId, Ready)>,
}

const READABLE: Ready = Ready { readable: true, writable: false, error: false };
const WRITABLE: Ready = Ready { readable: false, writable: true, error: false };

impl Host {
    /// What became ready since the last question.
    pub fn next_ready(&mut self) -> Option<(SocketId, Ready)> {
        self.ready.pop_front()
    }

    /// The one connection to, or from, `peer`.
    #[track_caller]
    pub fn stream(&mut self, peer: Endpoint) -> (SocketId, &mut Stream) {
        let of_peer = |(_, s): &(&SocketId, &mut Stream)| s.peer == Some(peer) && s.closed.is_none();
        let (id, stream) = self.streams.iter_mut().find(of_peer).expect("a connection");
        (*id, stream)
    }

    /// The peer sends.
    pub fn send_from(&mut self, peer: Endpoint, bytes: &[u8]) {
        let (id, stream) = self.stream(peer);
        stream.coming.extend(bytes);
        self.ready.push_back((id, READABLE));
    }

    /// The peer sends no more.
    pub fn end_from(&mut self, peer: Endpoint) {
        let (id, stream) = self.stream(peer);
        stream.peer_ended = true;
        self.ready.push_back((id, READABLE));
    }

    /// The connection breaks.
    pub fn break_off(&mut self, peer: Endpoint, failure: Failure) {
        let (id, stream) = self.stream(peer);
        stream.failure = Some(failure);
        self.ready.push_back((id, Ready { readable: true, writable: true, error: true }));
    }

    /// What the peer takes of what was sent.
    pub fn take(&mut self, peer: Endpoint) -> Vec<u8> {
        let (id, stream) = self.stream(peer);
        let taken = stream.sent.drain(..).collect();
        if std::mem::take(&mut stream.blocked) {
            self.ready.push_back((id, WRITABLE));
        }
        taken
    }

    /// A client connects to a published port.
    #[track_caller]
    pub fn knock(&mut self, at: Endpoint, client: Endpoint) {
        let found = self.listeners.iter_mut().find(|(_, (bound, _))| hears(*bound, at));
        let (id, (_, queue)) = found.expect("a listener");
        queue.push_back(Accepted { peer: client, local: at });
        self.ready.push_back((*id, READABLE));
    }

    /// A datagram comes for the socket that is bound there.
    #[track_caller]
    pub fn datagram(&mut self, from: Endpoint, at: Endpoint, payload: &[u8]) {
        let found = self.datagrams.iter_mut().find(|(_, s)| hears(s.bound, at));
        let (id, socket) = found.expect("a socket");
        socket.coming.push_back((from, Some(at.addr), payload.to_vec()));
        self.ready.push_back((*id, READABLE));
    }

    /// The port that a datagram left by.
    pub fn bound(&self, id: SocketId) -> Endpoint {
        self.datagrams[&id].bound
    }

    /// An ICMP error about what socket `id` sent.
    pub fn complain(&mut self, id: SocketId, error: DatagramError) {
        self.datagrams.get_mut(&id).expect("a socket").errors.push_back(error);
        self.ready.push_back((id, Ready { readable: false, writable: false, error: true }));
    }

    /// Sockets that are open.
    pub fn open(&self) -> usize {
        let streams = self.streams.values().filter(|s| s.closed.is_none()).count();
        streams + self.listeners.len() + self.datagrams.len()
    }

    fn may_bind(&self, at: Endpoint) -> Result<(), Failure> {
        match at.port {
            0 => Ok(()),
            port if self.taken.contains(&port) => Err(Failure::InUse),
            1..1024 => Err(Failure::Prohibited),
            _ if self.no_ipv6 && !at.addr.is_v4() => Err(Failure::Other(97)), // EAFNOSUPPORT
            _ => Ok(()),
        }
    }

    fn alive(&mut self, id: SocketId) -> Result<&mut Stream, Failure> {
        let stream = self.streams.get_mut(&id).filter(|s| s.closed.is_none()).ok_or(Failure::Other(9))?;
        match stream.failure {
            Some(failure) if stream.coming.is_empty() => Err(failure),
            _ => Ok(stream),
        }
    }
}

/// Does a socket that is bound to one place hear what comes to another?
fn hears(bound: Endpoint, at: Endpoint) -> bool {
    let all = [Addr::V4_UNSPECIFIED, Addr::V6_UNSPECIFIED].contains(&bound.addr);
    bound.port == at.port && (bound.addr == at.addr || all && bound.addr.is_v4() == at.addr.is_v4())
}

impl Sockets for Host {
    fn connect(&mut self, id: SocketId, to: Endpoint, _mark: Mark, _mss: u16) -> Result<(), Failure> {
        let failure = self.refusals.get(&to).copied();
        let connected = failure.is_none();
        self.streams.insert(id, Stream { peer: Some(to), failure, connected, ..Stream::default() });
        self.ready.push_back((id, WRITABLE));
        Ok(())
    }

    fn outcome(&mut self, id: SocketId) -> Result<(), Failure> {
        let stream = self.alive(id)?;
        if stream.connected { Ok(()) } else { Err(Failure::WouldBlock) }
    }

    fn listen(&mut self, id: SocketId, at: Endpoint, _mss: u16) -> Result<(), Failure> {
        self.may_bind(at)?;
        self.listeners.insert(id, (at, VecDeque::new()));
        Ok(())
    }

    fn accept(&mut self, listener: SocketId, id: SocketId) -> Result<Accepted, Failure> {
        let (_, queue) = self.listeners.get_mut(&listener).ok_or(Failure::Other(9))?;
        let accepted = queue.pop_front().ok_or(Failure::WouldBlock)?;
        self.streams.insert(id, Stream { peer: Some(accepted.peer), connected: true, ..Stream::default() });
        Ok(accepted)
    }

    fn admit(&mut self, _listener: SocketId, _admit: bool) -> Result<(), Failure> {
        Ok(())
    }

    fn send(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, Failure> {
        let stream = self.alive(id)?;
        let room = ROOM - stream.sent.len();
        if room == 0 {
            stream.blocked = true;
            return Err(Failure::WouldBlock);
        }
        let taken = room.min(bytes.len());
        stream.sent.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn send_urgent(&mut self, id: SocketId, byte: u8) -> Result<(), Failure> {
        self.send(id, &[byte]).map(|_| ())
    }

    fn at_mark(&mut self, _id: SocketId) -> bool {
        false
    }

    fn recv(&mut self, id: SocketId, into: &mut [u8]) -> Result<usize, Failure> {
        let stream = self.alive(id)?;
        if stream.coming.is_empty() {
            return if stream.peer_ended { Ok(0) } else { Err(Failure::WouldBlock) };
        }
        let len = into.len().min(stream.coming.len());
        for (to, byte) in into.iter_mut().zip(stream.coming.drain(..len)) {
            *to = byte;
        }
        Ok(len)
    }

    fn finish(&mut self, id: SocketId) -> Result<(), Failure> {
        self.alive(id)?.finished = true;
        Ok(())
    }

    fn mark(&mut self, _id: SocketId, _mark: Mark) {}

    fn keepalive(&mut self, _id: SocketId) {}

    fn open(&mut self, id: SocketId, kind: Datagrams, at: Endpoint) -> Result<Endpoint, Failure> {
        if kind == Datagrams::Ping && self.no_ping {
            return Err(Failure::Prohibited);
        }
        if kind == Datagrams::Udp {
            self.may_bind(at)?;
        }
        self.next_port = self.next_port.max(40_000) + 1;
        let port = if at.port == 0 || self.taken.contains(&at.port) { self.next_port } else { at.port };
        let bound = Endpoint { addr: at.addr, port };
        self.datagrams.insert(id, DatagramSocket { bound, coming: VecDeque::new(), errors: VecDeque::new() });
        Ok(bound)
    }

    fn send_to(&mut self, id: SocketId, to: Endpoint, payload: &[u8], how: &SendHow) -> Result<(), Failure> {
        if self.busy {
            return Err(Failure::WouldBlock);
        }
        self.sent.push(Sent { id, to, payload: payload.to_vec(), how: *how });
        Ok(())
    }

    fn recv_from(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, Failure> {
        let socket = self.datagrams.get_mut(&id).ok_or(Failure::Other(9))?;
        let (from, to, payload) = socket.coming.pop_front().ok_or(Failure::WouldBlock)?;
        let len = payload.len().min(into.len());
        into[..len].copy_from_slice(&payload[..len]);
        Ok(Received { len, truncated: len < payload.len(), from, scope: 0, to, segment: None, tos: 0, ttl: 60 })
    }

    fn next_error(&mut self, id: SocketId) -> Option<DatagramError> {
        self.datagrams.get_mut(&id)?.errors.pop_front()
    }

    fn close(&mut self, id: SocketId, how: Close) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|s| s.closed.is_none()) {
            stream.closed = Some(how);
            return;
        }
        let others = self.listeners.remove(&id).is_some() || self.datagrams.remove(&id).is_some();
        assert!(others, "{id:?} is open, and closed once");
    }

    fn route_kind(&mut self, addr: Addr) -> RouteKind {
        match addr {
            _ if self.own.contains(&addr) => RouteKind::Local,
            _ if self.broadcast.contains(&addr) => RouteKind::Broadcast,
            _ if self.unreachable.contains(&addr) => RouteKind::Unreachable,
            _ => RouteKind::Unicast,
        }
    }

    fn room(&self) -> usize {
        if self.full { 0 } else { 10_000 }
    }
}
