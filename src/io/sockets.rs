//! The host's sockets: [`Sockets`] by system calls, in the event loop.
//!
//! # Theory of operation
//! A slab holds the sockets by the slot of their [`SocketId`]; the whole id is compared, so an event or a call that comes
//! late meets nobody. Each is registered with the loop's epoll instance, edge-triggered; what an event says is *latched*
//! here: a socket is in the queue of its container once, and [`HostSockets::next_ready`] hands out one of each container that
//! has any in turn, each container's in the order in which they became ready.
//!
//! A stream is read until a read leaves its buffer partly empty, which says as much as EAGAIN (epoll(7)): no other is made until
//! an event tells of more. What epoll tells once, the peer's end or an error, is read up to in any case.
//!
//! Two things raise a readiness of which epoll knows nothing: an ICMP error that another call has met and put aside; and a
//! socket whose engine stopped early, by the event loop.
//!
//! `stream` has what is TCP's, `datagram` UDP's and ping's, `ports` chooses local ports, `routes` asks the kernel about
//! addresses. errno becomes [`Failure`] in [`failure_of`], and nowhere else.
//!
//! # Invariants
//! - No call blocks, and every descriptor is close-on-exec.
//! - A connection is closed with an RST unless its end was said ([`Sockets::finish`], [`Close::Orderly`]).
//! - The first error of a connection is kept: after it, the end of the data is an error, whoever was told of it first.
//!
//! # Limits
//! Descriptors: RLIMIT_NOFILE, less what the rest of the process needs and [`BACKLOG_RESERVE`] for each listener, at most
//! [`RESERVE_MAX`], out of which connections are accepted when containers' own connections have used up the rest. UDP
//! sockets at ports that the host chooses: a quarter of its local ports, so that the host itself can still ask its DNS
//! server.

pub use self::datagram::may_ping;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};
use rustix::process::Resource;

use crate::core::port::PortId;
use crate::core::socket::{
    Accepted, Close, DatagramError, Datagrams, Endpoint, Failure, Mark, Ready, Received, RouteKind, SendHow, SocketId,
    Sockets,
};
use crate::io::sys::sockets::at_mark;
use crate::wire::addr::Addr;

mod datagram;
pub mod ports;
mod routes;
mod stream;
mod turns;

use datagram::Datagram;
use ports::Windows;
use routes::Routes;
use turns::Turns;

/// Descriptors that are kept free for each listener.
pub const BACKLOG_RESERVE: usize = 16;
/// Descriptors that are kept free for all listeners together: thousands of published ports are not all busy at once, and
/// with 16 for each of 10,000 sockets no usual RLIMIT_NOFILE would allow them.
pub const RESERVE_MAX: usize = 1024;
/// Descriptors of the rest of the process, beside those open at start: clients of the API, captures, passing ones. At most
/// a quarter of all.
const OTHERS: usize = 128;
/// With fewer than so many descriptors the operator is told what follows.
const FEW: usize = 512;
/// The bit of a token that says that it is a socket's; ports' tokens are numbers of 32 bits.
const SOCKET: usize = 1 << 32;
/// The token of the notices about routes.
const ROUTES: Token = Token(1 << 33);

/// How containers' connections leave the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The source of IPv4 connections and datagrams, one of the host's own; `None`: as the host chooses.
    pub outbound_v4: Option<Addr>,
    /// The only interface by which they leave (SO_BINDTODEVICE).
    pub outbound_interface: Option<String>,
}

/// What of [`Options`] the host does not have.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error("outbound interface: there is no network interface {name} here; see: ip link")]
    NoInterface { name: String },
    #[error("outbound address: {addr} is not an address of this host; see: ip addr")]
    NotOurs { addr: Addr },
    #[error("outbound address: cannot use {addr}: {reason}")]
    Unusable { addr: Addr, reason: Errno },
}

impl Options {
    /// Asks the host, in the calling thread's network namespace, whether it has all of it.
    pub fn check(&self) -> Result<(), OptionsError> {
        let Options { outbound_v4, outbound_interface } = self;
        if let Some(name) = outbound_interface
            && index_of(name) == 0
        {
            return Err(OptionsError::NoInterface { name: name.clone() });
        }
        if let Some(addr) = *outbound_v4 {
            match Datagram::open(Datagrams::Udp, Endpoint { addr, port: 0 }, &Outbound::default()) {
                Ok(_) => {}
                Err(Errno::ADDRNOTAVAIL) => return Err(OptionsError::NotOurs { addr }),
                Err(reason) => return Err(OptionsError::Unusable { addr, reason }),
            }
        }
        Ok(())
    }
}

/// [`Options`], as asked by the sockets. What goes to the host itself goes by its loopback device, whatever was chosen.
#[derive(Debug, Default)]
struct Outbound(Options);

impl Outbound {
    fn address(&self, v4: bool) -> Option<Addr> {
        self.0.outbound_v4.filter(|_| v4)
    }

    fn address_for(&self, to: Addr) -> Option<Addr> {
        self.address(to.is_v4()).filter(|_| !IpAddr::from(to).is_loopback())
    }

    fn interface(&self) -> Option<&str> {
        self.0.outbound_interface.as_deref()
    }

    /// 0: none was chosen, or there is none of its name now.
    fn interface_index(&self) -> u32 {
        self.interface().map_or(0, index_of)
    }
}

/// 0: there is none of this name.
fn index_of(name: &str) -> u32 {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .and_then(|any| netdevice::name_to_index(&any, name))
        .unwrap_or(0)
}

/// The one place that knows what an errno means.
fn failure_of(errno: Errno) -> Failure {
    match errno {
        Errno::AGAIN => Failure::WouldBlock,
        Errno::CONNREFUSED => Failure::Refused,
        Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE => Failure::Reset,
        Errno::TIMEDOUT => Failure::TimedOut,
        Errno::HOSTUNREACH | Errno::HOSTDOWN => Failure::HostUnreachable,
        Errno::NETUNREACH | Errno::NETDOWN => Failure::NetUnreachable,
        Errno::PERM | Errno::ACCESS => Failure::Prohibited,
        Errno::ADDRNOTAVAIL => Failure::NoAddress,
        Errno::ADDRINUSE => Failure::InUse,
        Errno::MFILE | Errno::NFILE => Failure::NoFiles,
        Errno::NOBUFS | Errno::NOMEM => Failure::NoMemory,
        Errno::MSGSIZE => Failure::TooLong,
        other => Failure::Other(other.raw_os_error()),
    }
}

const NOT_OPEN: Failure = Failure::Other(libc::EBADF);
/// A call that this kind of socket has not.
const WRONG_KIND: Failure = Failure::Other(libc::EOPNOTSUPP);

fn socket_address(endpoint: Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port)
}

fn endpoint_of(address: SocketAddrAny) -> Option<Endpoint> {
    let address = SocketAddr::try_from(address).ok()?;
    Some(Endpoint { addr: address.ip().into(), port: address.port() })
}

#[derive(Debug)]
enum Kind {
    Stream(Stream),
    Listener { fd: OwnedFd, admits: bool },
    Datagram(Box<Datagram>),
}

#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    v4: bool,
    /// Came by a listener, and uses up its reserve.
    accepted: bool,
    /// Our end was said.
    finished: bool,
    /// Urgent data came, and where it begins was not passed yet.
    urgent: bool,
    /// The peer's end or an error was told: what is left is read to the end, for which no other event may come.
    ending: bool,
    /// A read left nothing and no event came since: there is nothing to read. Reading on would be a call for nothing, and
    /// could pass an urgent byte of which the event is still to come.
    dry: bool,
    /// The first error that a call met.
    error: Option<Failure>,
}

impl Stream {
    fn new(fd: OwnedFd, v4: bool, accepted: bool) -> Stream {
        Stream { fd, v4, accepted, finished: false, urgent: false, ending: false, dry: false, error: None }
    }

    /// Keeps the first error that ends the connection.
    fn failed(&mut self, errno: Errno) -> Failure {
        let failure = failure_of(errno);
        let ends = matches!(
            failure,
            Failure::Refused
                | Failure::Reset
                | Failure::TimedOut
                | Failure::HostUnreachable
                | Failure::NetUnreachable
                | Failure::Prohibited
                | Failure::Other(_)
        );
        // Sending after our own end is the caller's mistake, and no news of the peer.
        if ends && !(errno == Errno::PIPE && self.finished) {
            self.error.get_or_insert(failure);
            self.ending = true;
        }
        self.dry &= failure == Failure::WouldBlock;
        failure
    }
}

#[derive(Debug)]
struct Entry {
    id: SocketId,
    kind: Kind,
    /// Latched, and not handed out yet.
    ready: Ready,
    /// Whose it is.
    port: PortId,
    /// In its container's queue.
    queued: bool,
    /// Asks epoll for room to send, beside what it always asks for.
    wants_room: bool,
}

impl Entry {
    fn raw_fd(&self) -> i32 {
        match &self.kind {
            Kind::Stream(stream) => stream.fd.as_raw_fd(),
            Kind::Listener { fd, .. } => fd.as_raw_fd(),
            Kind::Datagram(datagram) => datagram.fd().as_raw_fd(),
        }
    }
}

/// All sockets of an event loop.
#[derive(Debug)]
pub struct HostSockets {
    entries: Vec<Option<Entry>>,
    turns: Turns,
    registry: Registry,
    outbound: Outbound,
    /// The index of the interface that was chosen; 0: none was, or there is none of its name now.
    interface: u32,
    windows: Windows,
    routes: Routes,
    limit: usize,
    /// Descriptors of the rest of the process.
    others: usize,
    open: usize,
    listeners: usize,
    accepted: usize,
    /// UDP sockets at ports that the host chose.
    udp: usize,
}

impl HostSockets {
    /// Of the calling thread's network namespace, in the event loop of `registry`.
    pub fn new(registry: &Registry, options: Options) -> io::Result<HostSockets> {
        let routes = Routes::open()?;
        let registry = registry.try_clone()?;
        registry.register(&mut SourceFd(&routes.fd()), ROUTES, Interest::READABLE)?;
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // Nobody has /proc, and nothing else tells: then what a switch starts with.
        let at_start = std::fs::read_dir("/proc/self/fd").map_or(32, Iterator::count);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let others = at_start + OTHERS.min(limit / 4);
        if limit < FEW {
            let left = limit.saturating_sub(others);
            log::warn!("RLIMIT_NOFILE is {limit}: containers can have {left} connections; raise it ('ulimit -n')");
        }
        let outbound = Outbound(options);
        Ok(HostSockets {
            entries: Vec::new(),
            turns: Turns::default(),
            registry,
            interface: outbound.interface_index(),
            outbound,
            windows: Windows::of_host(),
            routes,
            limit,
            others,
            open: 0,
            listeners: 0,
            accepted: 0,
            udp: 0,
        })
    }

    /// Is the event one of ours? Latches what it says.
    pub fn event(&mut self, event: &mio::event::Event) -> bool {
        let token = event.token();
        if token == ROUTES {
            self.routes.changed();
            self.interface = self.outbound.interface_index();
            return true;
        }
        if token.0 & !(u32::MAX as usize) != SOCKET {
            return false;
        }
        let ready = Ready {
            readable: event.is_readable() || event.is_read_closed(),
            writable: event.is_writable() || event.is_write_closed(),
            error: event.is_error(),
        };
        let id = SocketId(token.0 as u32); // the low 32 bits
        if let Ok(stream) = self.stream(id) {
            stream.urgent |= event.is_priority();
            stream.ending |= event.is_read_closed() || ready.error;
            stream.dry &= !(ready.readable || ready.error);
        }
        self.latch(id, ready);
        true
    }

    /// Puts a socket into its container's queue, if it is not there, and adds to what it is ready for.
    pub fn latch(&mut self, id: SocketId, ready: Ready) {
        let Some(entry) = entry_of(&mut self.entries, id) else { return };
        entry.ready.readable |= ready.readable;
        entry.ready.writable |= ready.writable;
        entry.ready.error |= ready.error;
        if !entry.queued {
            entry.queued = true;
            self.turns.push(id, entry.port);
        }
    }

    /// The socket whose turn it is, and for what it is ready: nothing, if it only has to go on.
    pub fn next_ready(&mut self) -> Option<(SocketId, Ready)> {
        loop {
            let id = self.turns.pop()?;
            let Some(entry) = entry_of(&mut self.entries, id) else { continue };
            entry.queued = false;
            let ready = std::mem::take(&mut entry.ready);
            if ready.writable && entry.wants_room {
                entry.wants_room = false;
                let fd = entry.raw_fd();
                watch_again(&self.registry, id, fd, Interest::READABLE);
            }
            return Some((id, ready));
        }
    }

    /// How many wait for their turn, those that were closed meanwhile included.
    pub fn waiting(&self) -> usize {
        self.turns.len()
    }

    /// Somebody else has taken (positive) or given back descriptors.
    pub fn others_changed(&mut self, by: isize) {
        self.others = self.others.saturating_add_signed(by);
    }

    fn entry(&mut self, id: SocketId) -> Result<&mut Entry, Failure> {
        entry_of(&mut self.entries, id).ok_or(NOT_OPEN)
    }

    fn stream(&mut self, id: SocketId) -> Result<&mut Stream, Failure> {
        match &mut self.entry(id)?.kind {
            Kind::Stream(stream) => Ok(stream),
            Kind::Listener { .. } | Kind::Datagram(_) => Err(WRONG_KIND),
        }
    }

    fn datagram(&mut self, id: SocketId) -> Result<&mut Datagram, Failure> {
        match &mut self.entry(id)?.kind {
            Kind::Datagram(datagram) => Ok(datagram),
            Kind::Stream(_) | Kind::Listener { .. } => Err(WRONG_KIND),
        }
    }

    /// May a socket be made under this id? `spare`: descriptors that must be left.
    fn may_open(&self, id: SocketId, spare: usize) -> Result<(), Failure> {
        if self.entries.get(id.slot()).is_some_and(Option::is_some) {
            return Err(Failure::Other(libc::EEXIST));
        }
        if self.others + self.open + spare >= self.limit { Err(Failure::NoFiles) } else { Ok(()) }
    }

    /// Does what goes to `to` leave by the interface that was chosen, if one was?
    fn leaves(&mut self, to: Addr) -> bool {
        self.outbound.interface().is_some() && self.routes.kind(to) != RouteKind::Local
    }

    /// What listeners keep for connections still to be accepted.
    fn reserved(&self) -> usize {
        reserve(self.listeners).saturating_sub(self.accepted)
    }

    /// Takes a socket in and has epoll watch it.
    fn insert(&mut self, id: SocketId, kind: Kind) -> Result<(), Failure> {
        let both = matches!(kind, Kind::Stream(_));
        let entry = Entry { id, kind, ready: Ready::default(), port: PortId(0), queued: false, wants_room: false };
        let interest =
            if both { Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY } else { Interest::READABLE };
        let fd = entry.raw_fd();
        self.registry
            .register(&mut SourceFd(&fd), token_of(id), interest)
            .map_err(|error| failure_of(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        self.open += 1;
        match &entry.kind {
            Kind::Stream(stream) => self.accepted += usize::from(stream.accepted),
            Kind::Listener { .. } => self.listeners += 1,
            Kind::Datagram(datagram) => self.udp += usize::from(datagram.uses_local_port()),
        }
        if self.entries.len() <= id.slot() {
            self.entries.resize_with(id.slot() + 1, || None);
        }
        self.entries[id.slot()] = Some(entry);
        Ok(())
    }

    fn remove(&mut self, id: SocketId) -> Option<Kind> {
        let place = self.entries.get_mut(id.slot())?;
        if place.as_ref()?.id != id {
            return None;
        }
        // Closing it, which follows, takes it out of epoll: nobody else has this descriptor.
        let entry = place.take()?;
        self.open -= 1;
        match &entry.kind {
            Kind::Stream(stream) => self.accepted -= usize::from(stream.accepted),
            Kind::Listener { .. } => self.listeners -= 1,
            Kind::Datagram(datagram) => self.udp -= usize::from(datagram.uses_local_port()),
        }
        Some(entry.kind)
    }
}

/// What so many listeners keep free.
fn reserve(listeners: usize) -> usize {
    (listeners * BACKLOG_RESERVE).min(RESERVE_MAX)
}

#[inline]
fn entry_of(entries: &mut [Option<Entry>], id: SocketId) -> Option<&mut Entry> {
    entries.get_mut(id.slot())?.as_mut().filter(|entry| entry.id == id)
}

fn token_of(id: SocketId) -> Token {
    Token(SOCKET | id.0 as usize)
}

fn watch_again(registry: &Registry, id: SocketId, fd: i32, interest: Interest) {
    if let Err(error) = registry.reregister(&mut SourceFd(&fd), token_of(id), interest) {
        log::warn!("cannot watch socket {:x} for another kind of event: {error}", id.0);
    }
}

impl Sockets for HostSockets {
    fn connect(&mut self, id: SocketId, to: Endpoint, mark: Mark, mss: u16) -> Result<(), Failure> {
        self.may_open(id, self.reserved())?;
        let beyond = self.leaves(to.addr);
        let fd = stream::connect(to, mark, mss, &self.outbound, beyond, &mut self.windows).map_err(failure_of)?;
        self.insert(id, Kind::Stream(Stream::new(fd, to.addr.is_v4(), false)))
    }

    fn outcome(&mut self, id: SocketId) -> Result<(), Failure> {
        let stream = self.stream(id)?;
        if let Some(error) = stream.error {
            return Err(error);
        }
        stream::outcome(&stream.fd).map_err(|errno| stream.failed(errno))
    }

    fn listen(&mut self, id: SocketId, at: Endpoint, mss: u16) -> Result<(), Failure> {
        self.may_open(id, reserve(self.listeners + 1).saturating_sub(self.accepted))?;
        let fd = stream::listen(at, mss).map_err(failure_of)?;
        self.insert(id, Kind::Listener { fd, admits: true })
    }

    fn accept(&mut self, listener: SocketId, id: SocketId) -> Result<Accepted, Failure> {
        let may = self.may_open(id, 0);
        let Kind::Listener { fd, admits } = &self.entry(listener)?.kind else { return Err(WRONG_KIND) };
        if !admits {
            return Err(Failure::WouldBlock);
        }
        may?;
        let (fd, accepted) = stream::accept(fd).map_err(failure_of)?;
        self.insert(id, Kind::Stream(Stream::new(fd, accepted.peer.addr.is_v4(), true)))?;
        Ok(accepted)
    }

    fn admit(&mut self, listener: SocketId, admit: bool) -> Result<(), Failure> {
        let Kind::Listener { fd, admits } = &mut self.entry(listener)?.kind else { return Err(WRONG_KIND) };
        if *admits == admit {
            return Ok(());
        }
        if let Err(error) = if admit { stream::admit(fd) } else { stream::refuse(fd) } {
            let verb = if admit { "open" } else { "close" };
            log::warn!("cannot {verb} a published port to clients: {error}");
            return Err(failure_of(error));
        }
        *admits = admit;
        Ok(())
    }

    #[inline]
    fn send(&mut self, id: SocketId, bytes: &[u8]) -> Result<usize, Failure> {
        let stream = self.stream(id)?;
        rustix::net::send(&stream.fd, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
            .map_err(|errno| stream.failed(errno))
    }

    fn send_urgent(&mut self, id: SocketId, byte: u8) -> Result<(), Failure> {
        let stream = self.stream(id)?;
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT | SendFlags::OOB;
        rustix::net::send(&stream.fd, &[byte], flags).map_err(|errno| stream.failed(errno)).map(drop)
    }

    #[inline]
    fn at_mark(&mut self, id: SocketId) -> bool {
        let Ok(stream) = self.stream(id) else { return false };
        if !stream.urgent {
            return false;
        }
        let is_there = at_mark(&stream.fd).unwrap_or(false);
        stream.urgent &= !is_there;
        is_there
    }

    #[inline]
    fn recv(&mut self, id: SocketId, into: &mut [u8]) -> Result<usize, Failure> {
        let Entry { kind: Kind::Stream(stream), ready, .. } = self.entry(id)? else { return Err(WRONG_KIND) };
        if stream.dry {
            return Err(Failure::WouldBlock);
        }
        let room = into.len();
        let received = rustix::net::recv(&stream.fd, into, RecvFlags::DONTWAIT);
        let left_nothing = match received {
            Ok((_, len)) => len < room,
            Err(errno) => errno == Errno::AGAIN,
        };
        if left_nothing && !stream.urgent && !stream.ending {
            stream.dry = true;
            ready.readable = false; // what was told of is read
        }
        match received {
            // After an error that another call was told of, the kernel says "end"; it is not the peer's.
            Ok((_, 0)) => stream.error.map_or(Ok(0), Err),
            Ok((_, len)) => Ok(len),
            Err(errno) => Err(stream.failed(errno)),
        }
    }

    fn finish(&mut self, id: SocketId) -> Result<(), Failure> {
        let stream = self.stream(id)?;
        stream::finish(&stream.fd).map_err(|errno| stream.failed(errno))?;
        stream.finished = true;
        Ok(())
    }

    fn mark(&mut self, id: SocketId, mark: Mark) {
        if let Ok(stream) = self.stream(id)
            && let Err(error) = stream::mark(&stream.fd, stream.v4, mark)
        {
            log::debug!("socket {:x} keeps its time to live and type of service: {error}", id.0);
        }
    }

    fn keepalive(&mut self, id: SocketId) {
        if let Ok(stream) = self.stream(id)
            && let Err(error) = rustix::net::sockopt::set_socket_keepalive(&stream.fd, true)
        {
            log::debug!("socket {:x} sends no keepalives: {error}", id.0);
        }
    }

    fn open(&mut self, id: SocketId, kind: Datagrams, at: Endpoint) -> Result<Endpoint, Failure> {
        self.may_open(id, self.reserved())?;
        if kind == Datagrams::Udp && at.port == 0 && self.udp >= self.windows.range_len() / 4 {
            return Err(Failure::NoAddress);
        }
        let (datagram, at) = Datagram::open(kind, at, &self.outbound).map_err(failure_of)?;
        self.insert(id, Kind::Datagram(Box::new(datagram)))?;
        Ok(at)
    }

    fn send_to(&mut self, id: SocketId, to: Endpoint, payload: &[u8], how: &SendHow) -> Result<(), Failure> {
        let interface = if how.from.is_none() && self.leaves(to.addr) { Some(self.interface) } else { None };
        if interface == Some(0) {
            return Err(Failure::NetUnreachable); // as connections are told: it leaves by no other
        }
        let datagram = self.datagram(id)?;
        let sent = datagram.send_to(to, payload, how, interface.unwrap_or(0));
        let errors = datagram.has_errors();
        if errors {
            self.latch(id, Ready { error: true, ..Ready::default() });
        }
        if sent == Err(Failure::WouldBlock)
            && let Some(entry) = entry_of(&mut self.entries, id)
            && !entry.wants_room
        {
            entry.wants_room = true;
            let fd = entry.raw_fd();
            watch_again(&self.registry, id, fd, Interest::READABLE | Interest::WRITABLE);
        }
        sent
    }

    fn recv_from(&mut self, id: SocketId, into: &mut [u8]) -> Result<Received, Failure> {
        let datagram = self.datagram(id)?;
        let received = datagram.recv_from(into);
        if datagram.has_errors() {
            self.latch(id, Ready { error: true, ..Ready::default() });
        }
        received
    }

    fn next_error(&mut self, id: SocketId) -> Option<DatagramError> {
        self.datagram(id).ok()?.next_error()
    }

    fn assign(&mut self, id: SocketId, port: PortId) {
        if let Ok(entry) = self.entry(id) {
            entry.port = port;
        }
    }

    fn close(&mut self, id: SocketId, how: Close) {
        match (self.remove(id), how) {
            (None, _) => {}
            (Some(Kind::Stream(stream)), Close::Orderly) => stream::close_orderly(stream.fd, stream.finished),
            (Some(Kind::Stream(stream)), Close::Reset) => stream::close_reset(stream.fd),
            (Some(Kind::Listener { .. } | Kind::Datagram(_)), _) => {}
        }
    }

    fn route_kind(&mut self, addr: Addr) -> RouteKind {
        self.routes.kind(addr)
    }

    fn room(&self) -> usize {
        self.limit.saturating_sub(self.others + self.open + self.reserved())
    }

    fn room_for_clients(&self) -> usize {
        self.limit.saturating_sub(self.others + self.open)
    }
}
