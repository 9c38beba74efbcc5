//! Host sockets as the core sees them: the other half of [`super::world::World`], for an uplink that needs no privilege.
//!
//! # Theory of operation
//! The core names every socket by a [`SocketId`] that it chose itself, and asks the world to make, use and close it. No
//! call blocks. Readiness comes back as [`Ready`], by edge: after a call answered [`Failure::WouldBlock`] the world says
//! when it is worth trying again, once. Who stops earlier must remember that there is more.
//!
//! A container's sockets are assigned to it ([`Sockets::assign`]), so that thousands of one do not stand before another's one.
//!
//! What a host refuses comes as a [`Failure`], in the few kinds that a container can be told (an RST, an ICMP error,
//! silence); the world maps errno to them in one place.

use std::num::NonZeroU16;

use super::port::PortId;
use crate::wire::addr::Addr;

/// A socket, by a number that the core chose: the low 20 bits are a slot, the others count how often it was used, so that
/// a late event for a socket that is gone meets nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

impl SocketId {
    /// Sockets that can exist at once.
    pub const MAX: usize = 1 << 20;

    /// Its place in a table.
    #[inline]
    pub fn slot(self) -> usize {
        self.0 as usize & (SocketId::MAX - 1)
    }
}

/// An address and a port; of an ICMP socket the port is the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    pub addr: Addr,
    pub port: u16,
}

/// What became possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Data, an end, a connection to accept.
    pub readable: bool,
    /// Room to send, or a connection came about.
    pub writable: bool,
    /// Something failed: the next call, or the error queue, says what.
    pub error: bool,
}

/// Why the host did not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Not now (EAGAIN); [`Ready`] tells when.
    WouldBlock,
    /// ECONNREFUSED.
    Refused,
    /// ECONNRESET, ECONNABORTED, EPIPE.
    Reset,
    /// ETIMEDOUT.
    TimedOut,
    /// EHOSTUNREACH, EHOSTDOWN.
    HostUnreachable,
    /// ENETUNREACH, ENETDOWN.
    NetUnreachable,
    /// EPERM, EACCES: a packet filter of the host, or a privileged port.
    Prohibited,
    /// EADDRNOTAVAIL: no local port is left, or the address is not the host's.
    NoAddress,
    /// EADDRINUSE.
    InUse,
    /// EMFILE, ENFILE: no descriptor is left.
    NoFiles,
    /// ENOBUFS, ENOMEM.
    NoMemory,
    /// EMSGSIZE.
    TooLong,
    /// Any other errno.
    Other(i32),
}

/// How a connection's packets are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mark {
    /// Time to live; 0 counts as 1.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
}

/// How a socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The peer is told that the data ended here: a FIN, after what is still to be sent.
    Orderly,
    /// The peer is told that something went wrong: an RST.
    Reset,
}

/// A connection that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The client.
    pub peer: Endpoint,
    /// The address that it asked for.
    pub local: Endpoint,
}

/// Of which protocol a datagram socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Datagrams {
    /// UDP.
    Udp,
    /// ICMP echo requests, without privilege (net.ipv4.ping_group_range).
    Ping,
}

/// How a datagram is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendHow {
    /// The payload is several datagrams of this length, the last may be shorter (UDP_SEGMENT).
    pub segment: Option<NonZeroU16>,
    /// Never fragment: too long a datagram is [`Failure::TooLong`].
    pub dont_fragment: bool,
    /// DSCP and ECN.
    pub tos: u8,
    /// Time to live, 1 to 255.
    pub ttl: u8,
    /// The source address, one of the host's own; `None`: as the host chooses.
    pub from: Option<Addr>,
    /// The index of the interface that it must leave by, for one of its addresses is of that link alone; 0: as the host
    /// routes.
    pub scope: u32,
}

/// A datagram that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer. 0 is a datagram, and no end.
    pub len: usize,
    /// There was more than the buffer holds.
    pub truncated: bool,
    /// Who sent it.
    pub from: Endpoint,
    /// The index of the interface that `from` or `to` is an address of, if one is of a link alone (RFC 4007); 0: neither is.
    pub scope: u32,
    /// The address it was sent to (IP_PKTINFO), if the host said so.
    pub to: Option<Addr>,
    /// The bytes are several datagrams of this length, the last may be shorter (UDP_GRO).
    pub segment: Option<NonZeroU16>,
    /// DSCP and ECN.
    pub tos: u8,
    /// Time to live as it came; of an echo reply too.
    pub ttl: u8,
}

/// An ICMP error that a datagram of ours met (IP_RECVERR).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramError {
    /// Where the datagram was sent; of a ping socket the port is 0.
    pub to: Endpoint,
    /// The host's address that it left from, if the error tells.
    pub from: Option<Addr>,
    /// Type and code of the ICMP error; `None`: the host itself refused it, for this reason.
    pub icmp: Result<(u8, u8), Failure>,
    /// The MTU it tells, bytes; 0 if it tells none.
    pub mtu: u32,
    /// Who sent the error, if a router or host did.
    pub offender: Option<Addr>,
    /// Of an echo request: its sequence number, if the error quotes it.
    pub sequence: Option<u16>,
}

/// What kind of destination the host takes an address for (its local and main routing tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Another host.
    Unicast,
    /// The host itself (RTN_LOCAL).
    Local,
    /// A broadcast address of a link of the host (RTN_BROADCAST).
    Broadcast,
    /// The host refuses to go there, or knows no way.
    Unreachable,
}

/// The host's sockets. Every `id` was made by the core, and is the caller's to close; a call with one that is not open
/// answers `Failure::Other(EBADF)`.
pub trait Sockets {
    /// Begins a TCP connection, its first packet marked already. It is under way when this is `Ok`: [`Sockets::outcome`]
    /// tells how it is decided, perhaps at once, and [`Ready::writable`] that it is worth asking. The socket is set up so
    /// that whatever ends it before [`Sockets::finish`] resets it, sends without delay, and keeps urgent data in line. No packet of
    /// it, either way, carries more than `mss` bytes, with TCP's options.
    fn connect(&mut self, id: SocketId, to: Endpoint, mark: Mark, mss: u16) -> Result<(), Failure>;

    /// Is it connected, and without an error since? `WouldBlock`: not decided yet.
    fn outcome(&mut self, id: SocketId) -> Result<(), Failure>;

    /// Listens for TCP connections. No packet of theirs carries more than `mss` bytes, as with [`Sockets::connect`].
    fn listen(&mut self, id: SocketId, at: Endpoint, mss: u16) -> Result<(), Failure>;

    /// Takes a connection off a listener and names it `id`; it is set up as by [`Sockets::connect`]. `Reset`: that client
    /// is gone already, there may be others. `NoFiles`, `NoMemory`: they wait, and no readiness tells when it is worth
    /// trying again.
    fn accept(&mut self, listener: SocketId, id: SocketId) -> Result<Accepted, Failure>;

    /// Refuses clients from now on (`false`), keeping the port; or takes them again (`true`).
    fn admit(&mut self, listener: SocketId, admit: bool) -> Result<(), Failure>;

    /// Sends stream data; how many bytes were taken, at least 1.
    fn send(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, Failure>;

    /// Sends one byte of urgent data (MSG_OOB).
    fn send_urgent(&mut self, id: SocketId, byte: u8) -> Result<(), Failure>;

    /// Is the next byte that [`Sockets::recv`] would give urgent, as far as the host has told? A call of that never goes past
    /// an urgent byte that has come unless it begins with it.
    fn at_mark(&mut self, id: SocketId) -> bool;

    /// Receives stream data; 0 is the peer's end. After a call that left nothing, there is nothing until that is told.
    fn recv(&mut self, id: SocketId, into: &mut [u8]) -> Result<usize, Failure>;

    /// No more data follows (`shutdown(SHUT_WR)`); from now on a close is orderly.
    fn finish(&mut self, id: SocketId) -> Result<(), Failure>;

    /// Sets how a connection's packets are marked; the host may ignore it.
    fn mark(&mut self, id: SocketId, mark: Mark);

    /// Asks the host to probe an idle peer (SO_KEEPALIVE).
    fn keepalive(&mut self, id: SocketId);

    /// Opens a datagram socket at an address and port; port 0: any, address unspecified: all. Where it is bound: a ping
    /// socket perhaps with another identifier, if the host uses that one. `Prohibited`: this user may not ping.
    fn open(&mut self, id: SocketId, kind: Datagrams, at: Endpoint) -> Result<Endpoint, Failure>;

    /// Sends one datagram, or several of one length, together where the host can; of a ping socket an ICMP echo request from
    /// its type on, whose identifier and checksum the host sets itself. After [`Failure::TooLong`] [`Sockets::next_error`]
    /// tells the MTU. An ICMP error about another datagram is no failure of this one.
    fn send_to(&mut self, id: SocketId, to: Endpoint, payload: &[u8], how: &SendHow) -> Result<(), Failure>;

    /// Receives one datagram, or several of one length from one peer; of a ping socket an ICMP echo reply from its type
    /// on.
    fn recv_from(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, Failure>;

    /// The next ICMP error, if there is one. The payload of the datagram it is about is not given.
    fn next_error(&mut self, id: SocketId) -> Option<DatagramError>;

    /// Says which container's a socket is, right after it was made: ready sockets of containers take turns. A world that
    /// serves all in one order needs not know.
    fn assign(&mut self, _id: SocketId, _port: PortId) {}

    /// Ends a socket, at once and for good.
    fn close(&mut self, id: SocketId, how: Close);

    /// What the host takes `addr` for.
    fn route_kind(&mut self, addr: Addr) -> RouteKind;

    /// How many sockets more the process may have (RLIMIT_NOFILE less what is open and what is reserved).
    fn room(&self) -> usize;

    /// The same of connections that are accepted, for which some are reserved.
    fn room_for_clients(&self) -> usize {
        self.room()
    }
}

/// The most bytes of datagrams of `len` bytes each that [`Sockets::send_to`] sends together: those of an IP packet less its
/// longest headers, and of 64 datagrams (UDP_MAX_SEGMENTS), the headers of IPv6 and UDP included: Linux counted them until 5.16.
#[inline]
pub fn most_together(len: usize) -> usize {
    (65_535 - 60 - 8).min((64 * len).saturating_sub(40 + 8))
}

/// May who holds so many sockets have one more of what is left? A fifth stays for others, whoever takes all he can get:
/// four times what is left, at most (dynamic thresholds; Choudhury and Hahne, 1998).
#[inline]
pub fn leaves_some(left: usize, held: usize) -> bool {
    left > held / 4
}
