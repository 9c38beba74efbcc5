//! TCP sockets: made, connected, accepted and closed so that cut data never looks like a clean end.
//!
//! # Theory of operation
//! From birth a socket has SO_LINGER {1, 0}: whatever closes it, be it the kernel after a SIGKILL, sends an RST. Only
//! after [`super::HostSockets`] was told that the data ended (`finish`) is it cleared. TCP_NODELAY, because the container
//! has batched what it wants batched; SO_OOBINLINE, because an urgent byte out of line would be lost. SO_SNDBUF and
//! SO_RCVBUF are never set: that would end the kernel's own tuning of both. TCP_MAXSEG is what the container's link takes
//! (`docs/decisions/segments-as-long-as-the-link.md`).

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, SocketAddrAny, SocketFlags, SocketType, ipproto, sockopt};

use super::ports::Windows;
use super::{Outbound, endpoint_of, socket_address};
use crate::core::socket::{Accepted, Endpoint, Mark};
use crate::io::sys::sockets::{set_option, set_option_bytes};

/// Connections that wait to be accepted; the host's net.core.somaxconn may allow fewer.
const BACKLOG: i32 = 4096;
/// How much unread data an orderly close throws away, in pieces of [`DISCARD`] bytes, before it gives up being orderly.
const DISCARDS: usize = 1024;
const DISCARD: usize = 4096;
/// Linux 6.3; not in libc.
const IP_LOCAL_PORT_RANGE: i32 = 51;

/// The longest segments that can be asked for (Linux `MAX_TCP_WINDOW`, tcp.h); beyond, they are as the host likes.
const LONGEST_MSS: u16 = 32_767;

fn open(family: AddressFamily, mss: u16) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    set_up(&fd)?;
    if mss <= LONGEST_MSS {
        set_option(&fd, libc::IPPROTO_TCP, libc::TCP_MAXSEG, mss.into())?;
    }
    Ok(fd)
}

fn set_up(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_linger(fd, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_oobinline(fd, true)
}

/// A socket whose connection is under way, or came about already.
///
/// `leaves`: by the chosen interface.
pub fn connect(
    to: Endpoint,
    marked: Mark,
    mss: u16,
    outbound: &Outbound,
    leaves: bool,
    windows: &mut Windows,
) -> Result<OwnedFd, Errno> {
    let fd = open(family_of(to), mss)?;
    if let Err(error) = mark(&fd, to.addr.is_v4(), marked) {
        log::debug!("a connection to {} is not marked as its container marks it: {error}", to.addr);
    }
    if let Some(interface) = outbound.interface().filter(|_| leaves) {
        set_option_bytes(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_bytes())?;
    }
    if let Some(from) = outbound.address_for(to.addr) {
        // Without it bind() would take a port for this address alone, whatever the destination.
        set_option(&fd, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        rustix::net::bind(&fd, &socket_address(Endpoint { addr: from, port: 0 }))?;
    }
    let address = socket_address(to);
    for (low, high) in windows.tries() {
        let range = i32::from_ne_bytes((u32::from(high) << 16 | u32::from(low)).to_ne_bytes());
        // An older kernel has no such option, and only the whole range.
        let limited = set_option(&fd, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, range).is_ok();
        match rustix::net::connect(&fd, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => return Ok(fd),
            Err(Errno::ADDRNOTAVAIL) if limited => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::ADDRNOTAVAIL)
}

/// Is it connected? EAGAIN: not decided yet.
pub fn outcome(fd: &OwnedFd) -> Result<(), Errno> {
    match rustix::net::getpeername(fd) {
        Ok(_) => Ok(()),
        Err(Errno::NOTCONN) => {
            sockopt::socket_error(fd)??;
            Err(Errno::AGAIN)
        }
        Err(error) => Err(error),
    }
}

/// SO_REUSEADDR stays set: what is accepted inherits it, and bind(2) and listen(2) alike take a port that has connections,
/// in TIME_WAIT or alive, only where all of them have it. One that somebody listens on they never take.
pub fn listen(at: Endpoint, mss: u16) -> Result<OwnedFd, Errno> {
    let fd = open(family_of(at), mss)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::bind(&fd, &socket_address(at))?;
    rustix::net::listen(&fd, BACKLOG)?;
    Ok(fd)
}

/// No client any more, but the port stays bound; while nobody listens, SO_REUSEADDR would let another program have it.
pub fn refuse(listener: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(listener, false)?;
    match rustix::net::shutdown(listener, Shutdown::Read) {
        Err(Errno::NOTCONN) => Ok(()), // refused before
        done => done,
    }
}

pub fn admit(listener: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(listener, true)?;
    let listening = rustix::net::listen(listener, BACKLOG);
    if listening.is_err() {
        sockopt::set_socket_reuseaddr(listener, false)?;
    }
    listening
}

pub fn accept(listener: &OwnedFd) -> Result<(OwnedFd, Accepted), Errno> {
    let (fd, peer) =
        rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(|error| {
            match error {
                // accept(2): errors that wait on the new connection. That client is gone, the next is another matter.
                Errno::PROTO
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::NETDOWN
                | Errno::PERM
                | Errno::TIMEDOUT
                | Errno::INTR => Errno::CONNABORTED,
                error => error,
            }
        })?;
    set_up(&fd).map_err(|_| Errno::CONNABORTED)?;
    let peer = peer.and_then(|peer: SocketAddrAny| endpoint_of(peer));
    let local = rustix::net::getsockname(&fd).ok().and_then(endpoint_of);
    match (peer, local) {
        (Some(peer), Some(local)) => Ok((fd, Accepted { peer, local })),
        _ => Err(Errno::CONNABORTED),
    }
}

/// No more data follows, and from now on a close is orderly.
pub fn finish(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::net::shutdown(fd, Shutdown::Write)?;
    sockopt::set_socket_linger(fd, None)
}

/// Closes with a FIN, which is sent already if it is `finished`. Data of the peer that nobody has read would make the kernel send an RST and drop what is still to
/// be sent (RFC 2525 2.17), so it is read first.
pub fn close_orderly(fd: OwnedFd, finished: bool) {
    if !finished && finish(&fd).is_err() {
        return; // not connected any more, or not yet
    }
    let mut discarded = [0; DISCARD];
    for _ in 0..DISCARDS {
        match rustix::net::recv(&fd, &mut discarded[..], RecvFlags::DONTWAIT) {
            Ok((_, 1..)) => {}
            Ok((_, 0)) | Err(_) => return,
        }
    }
}

/// Closes with an RST.
pub fn close_reset(fd: OwnedFd) {
    // It can only fail on what is no socket.
    let _ = sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
}

pub fn mark(fd: &OwnedFd, v4: bool, Mark { ttl, tos }: Mark) -> Result<(), Errno> {
    if v4 {
        sockopt::set_ip_tos(fd, tos)?;
        sockopt::set_ip_ttl(fd, ttl.max(1).into())
    } else {
        sockopt::set_ipv6_tclass(fd, tos.into())?;
        sockopt::set_ipv6_unicast_hops(fd, Some(ttl.max(1)))
    }
}

fn family_of(endpoint: Endpoint) -> AddressFamily {
    if endpoint.addr.is_v4() { AddressFamily::INET } else { AddressFamily::INET6 }
}
