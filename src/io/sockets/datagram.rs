//! UDP and ping sockets: unconnected, with everything that a datagram's header says as control data.
//!
//! # Theory of operation
//! One socket talks to many peers. So the source address, type of service, time to live and the length of segments go
//! with each datagram (cmsg), and come with it; only "never fragment" is an option of the socket, set when it changes.
//!
//! IP_RECVERR queues what ICMP says about earlier datagrams, and makes the *next* call fail with it, whomever that call
//! is for. So when a call fails the queue is emptied into one of ours, and the call is tried again, once. What fails then
//! is this datagram's own.
//!
//! # Limits
//! [`ERRORS`] errors wait to be asked for; the oldest go first.

use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::{Outbound, endpoint_of, failure_of, socket_address};
use crate::core::socket::{DatagramError, Datagrams, Endpoint, Failure, Received, SendHow, most_together};
use crate::io::sys::sockets::{receive_message, send_message, set_option};
use crate::wire::addr::Addr;

/// ICMP errors that wait.
const ERRORS: usize = 16;
/// A `struct sockaddr_in6`, the longest name.
const NAME_LEN: usize = 28;
/// Room for every cmsg that can come: packet info, type of service, time to live, segment length, and an error with its
/// offender.
const CONTROL_LEN: usize = 256;

/// A UDP or ping socket.
#[derive(Debug)]
pub struct Datagram {
    fd: OwnedFd,
    kind: Datagrams,
    v4: bool,
    /// The host chose its port.
    chosen: bool,
    /// As set; `None`: not yet.
    dont_fragment: Option<bool>,
    /// Where datagrams leave from whose sender did not say.
    outbound: Option<Addr>,
    errors: VecDeque<DatagramError>,
}

impl Datagram {
    /// Opens and binds one; where it is bound.
    pub fn open(kind: Datagrams, at: Endpoint, outbound: &Outbound) -> Result<(Datagram, Endpoint), Errno> {
        let v4 = at.addr.is_v4();
        let (family, protocol) = match (kind, v4) {
            (Datagrams::Udp, true) => (AddressFamily::INET, ipproto::UDP),
            (Datagrams::Udp, false) => (AddressFamily::INET6, ipproto::UDP),
            (Datagrams::Ping, true) => (AddressFamily::INET, ipproto::ICMP),
            (Datagrams::Ping, false) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
        let options: &[(i32, i32)] = if v4 {
            &[
                (libc::IPPROTO_IP, libc::IP_PKTINFO),
                (libc::IPPROTO_IP, libc::IP_RECVERR),
                (libc::IPPROTO_IP, libc::IP_RECVTOS),
                (libc::IPPROTO_IP, libc::IP_RECVTTL),
            ]
        } else {
            sockopt::set_ipv6_v6only(&fd, true)?;
            &[
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
            ]
        };
        for &(level, name) in options {
            set_option(&fd, level, name, 1)?;
        }
        match kind {
            // Linux 5.0; without it each datagram comes by itself.
            Datagrams::Udp => drop(set_option(&fd, libc::SOL_UDP, libc::UDP_GRO, 1)),
            // Ping sockets have it by default (INET_PROTOSW_REUSE): two then share an identifier, one gets all replies.
            Datagrams::Ping => sockopt::set_socket_reuseaddr(&fd, false)?,
        }
        let bound = match (rustix::net::bind(&fd, &socket_address(at)), kind) {
            // The identifier is somebody else's; any other does, the caller maps it.
            (Err(Errno::ADDRINUSE), Datagrams::Ping) => {
                rustix::net::bind(&fd, &socket_address(Endpoint { addr: at.addr, port: 0 }))
            }
            (done, _) => done,
        };
        bound?;
        let chosen = at.port == 0;
        let at = endpoint_of(rustix::net::getsockname(&fd)?).ok_or(Errno::AFNOSUPPORT)?;
        let outbound = outbound.address(v4);
        let errors = VecDeque::new();
        Ok((Datagram { fd, kind, v4, chosen, dont_fragment: None, outbound, errors }, at))
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Does an error wait to be asked for?
    pub fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// `interface`: the index of the only one it may leave by; 0: as `how` says.
    pub fn send_to(&mut self, to: Endpoint, payload: &[u8], how: &SendHow, interface: u32) -> Result<(), Failure> {
        if to.addr.is_v4() != self.v4 {
            return Err(Failure::Other(libc::EAFNOSUPPORT));
        }
        self.set_dont_fragment(how.dont_fragment).map_err(failure_of)?;
        let Some(segment) = how.segment.map(|len| usize::from(len.get())).filter(|&len| len < payload.len()) else {
            return self.send_one(to, payload, None, how, interface);
        };
        let burst = (most_together(segment) / segment).max(1) * segment;
        for burst in payload.chunks(burst) {
            match self.send_one(to, burst, how.segment.filter(|_| burst.len() > segment), how, interface) {
                // The device cannot, the kernel is too old, or a segment needs fragments: one by one, then.
                Err(Failure::TooLong | Failure::Other(libc::EINVAL | libc::EIO | libc::ENOPROTOOPT)) => {
                    for datagram in burst.chunks(segment) {
                        self.send_one(to, datagram, None, how, interface)?;
                    }
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn send_one(
        &mut self,
        to: Endpoint,
        payload: &[u8],
        segment: Option<NonZeroU16>,
        how: &SendHow,
        interface: u32,
    ) -> Result<(), Failure> {
        let mut name = [0; NAME_LEN];
        let name = write_name(to, &mut name);
        let mut control = Control::new();
        self.describe(&mut control, to.addr, segment, how, interface);
        let mut again = true;
        loop {
            match send_message(&self.fd, name, payload, control.bytes()) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => return Err(Failure::WouldBlock),
                // With IP_RECVERR a full queue of the device is told, and this datagram is lost: as on any wire.
                Err(Errno::NOBUFS) => return Err(Failure::NoMemory),
                Err(error) => {
                    let ours = self.collect_errors(Some(to));
                    if !again || (error == Errno::MSGSIZE && ours) {
                        return Err(failure_of(error));
                    }
                    again = false;
                }
            }
        }
    }

    /// Writes what the header of a datagram is to say.
    fn describe(&self, control: &mut Control, to: Addr, segment: Option<NonZeroU16>, how: &SendHow, interface: u32) {
        let (tos, ttl) = (i32::from(how.tos), i32::from(how.ttl.max(1)));
        let interface = if interface == 0 { how.scope } else { interface };
        let from = how.from.or(self.outbound.filter(|_| !is_loopback(to)));
        if self.v4 {
            control.push(libc::IPPROTO_IP, libc::IP_TOS, &tos.to_ne_bytes());
            control.push(libc::IPPROTO_IP, libc::IP_TTL, &ttl.to_ne_bytes());
            if from.is_some() || interface != 0 {
                // struct in_pktinfo: interface, source, and the header's destination, which is not for sending.
                let mut info = [0; 12];
                info[..4].copy_from_slice(&interface.to_ne_bytes());
                info[4..8].copy_from_slice(&from.and_then(Addr::as_v4).unwrap_or_default());
                control.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
        } else {
            control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos.to_ne_bytes());
            control.push(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &ttl.to_ne_bytes());
            if from.is_some() || interface != 0 {
                // struct in6_pktinfo: source, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&from.map_or([0; 16], |from| *from.octets()));
                info[16..].copy_from_slice(&interface.to_ne_bytes());
                control.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.get().to_ne_bytes());
        }
    }

    fn set_dont_fragment(&mut self, dont: bool) -> Result<(), Errno> {
        if self.dont_fragment == Some(dont) {
            return Ok(());
        }
        if self.v4 {
            let value = if dont { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
            set_option(&self.fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value)?;
        } else {
            let value = if dont { libc::IPV6_PMTUDISC_DO } else { libc::IPV6_PMTUDISC_DONT };
            set_option(&self.fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, value)?;
        }
        self.dont_fragment = Some(dont);
        Ok(())
    }

    pub fn recv_from(&mut self, into: &mut [u8]) -> Result<Received, Failure> {
        let mut name = [0; NAME_LEN];
        let mut control = [0; CONTROL_LEN];
        let mut again = true;
        let message = loop {
            match receive_message(&self.fd, &mut name, into, &mut control, false) {
                Ok(message) => break message,
                Err(Errno::AGAIN) => return Err(Failure::WouldBlock),
                Err(error) => {
                    // An error of the host's own is met once, so this ends in EAGAIN or a datagram.
                    self.collect_errors(None);
                    if !again {
                        return Err(failure_of(error));
                    }
                    again = false;
                }
            }
        };
        let mut received = Received {
            len: message.len.min(into.len()),
            truncated: message.flags & libc::MSG_TRUNC != 0,
            from: read_name(&name[..message.name_len])
                .unwrap_or(Endpoint { addr: Addr::unspecified(self.v4), port: 0 }),
            scope: if self.v4 { 0 } else { int(&name[24..message.name_len.max(24)]).cast_unsigned() },
            to: None,
            segment: None,
            tos: 0,
            ttl: 0,
        };
        for (level, kind, data) in Cmsgs::new(&control[..message.control_len]) {
            match (level, kind) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    received.to = packet_info(level, kind, data);
                    if received.scope == 0 && received.to.is_some_and(is_of_link) {
                        received.scope = int(&data[16..]).cast_unsigned();
                    }
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => received.tos = data.first().copied().unwrap_or(0),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => received.tos = int(data) as u8, // 0 to 255
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    received.ttl = int(data) as u8; // 0 to 255
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = u16::try_from(int(data)).ok().and_then(NonZeroU16::new);
                    received.segment = segment.filter(|len| usize::from(len.get()) < received.len);
                }
                _ => {}
            }
        }
        Ok(received)
    }

    pub fn next_error(&mut self) -> Option<DatagramError> {
        if self.errors.is_empty() {
            self.collect_errors(None);
        }
        self.errors.pop_front()
    }

    /// Empties the kernel's error queue into ours; did the host itself say that a datagram to `about` was too long?
    fn collect_errors(&mut self, about: Option<Endpoint>) -> bool {
        let mut ours = false;
        // The kernel's queue is bounded by the receive buffer; each entry charges some hundred bytes.
        for _ in 0..1024 {
            let mut name = [0; NAME_LEN];
            let mut control = [0; CONTROL_LEN];
            // Of a ping socket what the error quotes begins with the echo request.
            let mut quoted = [0; 8];
            let Ok(message) = receive_message(&self.fd, &mut name, &mut quoted, &mut control, true) else { break };
            let Some(to) = read_name(&name[..message.name_len]) else { continue };
            let (mut parsed, mut from) = (None, None);
            for (level, kind, data) in Cmsgs::new(&control[..message.control_len]) {
                match (level, kind) {
                    (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
                        parsed = parse_error(to, data);
                    }
                    // Where the ICMP error was sent is where the datagram came from.
                    _ => from = from.or(packet_info(level, kind, data)),
                }
            }
            let Some(mut error) = parsed else { continue };
            error.from = from.filter(|_| error.icmp.is_ok());
            if self.kind == Datagrams::Ping && message.len >= quoted.len() {
                error.sequence = Some(u16::from_be_bytes([quoted[6], quoted[7]]));
            }
            if let Some(about) = about
                && matches!(error.icmp, Err(Failure::TooLong))
                && error.to.addr == about.addr
                && (error.to.port == about.port || error.to.port == 0)
            {
                error.to = about; // of an unconnected IPv4 socket the kernel tells the address only
                ours = true;
            }
            if self.errors.len() == ERRORS {
                self.errors.pop_front();
            }
            self.errors.push_back(error);
        }
        ours
    }

    /// Does it use up one of the ports that UDP sockets of the host are given?
    pub fn uses_local_port(&self) -> bool {
        self.kind == Datagrams::Udp && self.chosen
    }
}

/// The destination in a `struct in_pktinfo` or `in6_pktinfo`, if that is what it is.
fn packet_info(level: i32, kind: i32, data: &[u8]) -> Option<Addr> {
    match (level, kind) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) if data.len() >= 12 => Some(Addr::read4(data, 8)),
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            data.first_chunk::<16>().map(|octets| std::net::IpAddr::from(*octets).into())
        }
        _ => None,
    }
}

/// Reads a `struct sock_extended_err` and the `sockaddr` of the offender behind it.
fn parse_error(to: Endpoint, data: &[u8]) -> Option<DatagramError> {
    let fixed = data.first_chunk::<16>()?;
    let [e0, e1, e2, e3, origin, kind, code, _, i0, i1, i2, i3, ..] = *fixed;
    let errno = i32::from_ne_bytes([e0, e1, e2, e3]);
    let info = u32::from_ne_bytes([i0, i1, i2, i3]);
    let from_icmp = matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
    if !from_icmp && origin != libc::SO_EE_ORIGIN_LOCAL {
        return None; // a time stamp or zero copy notice, that nobody asked for
    }
    Some(DatagramError {
        to,
        from: None,
        icmp: if from_icmp { Ok((kind, code)) } else { Err(failure_of(Errno::from_raw_os_error(errno))) },
        mtu: if errno == libc::EMSGSIZE { info } else { 0 },
        sequence: None,
        offender: if from_icmp { read_name(&data[16..]).map(|offender| offender.addr) } else { None },
    })
}

/// May this process send echo requests (net.ipv4.ping_group_range)?
pub fn may_ping() -> bool {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::ICMP)).is_ok()
}

fn is_loopback(addr: Addr) -> bool {
    std::net::IpAddr::from(addr).is_loopback()
}

/// Is it an address of one link alone?
fn is_of_link(addr: Addr) -> bool {
    matches!(std::net::IpAddr::from(addr), std::net::IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Writes a `struct sockaddr_in` or `sockaddr_in6`.
fn write_name(endpoint: Endpoint, into: &mut [u8; NAME_LEN]) -> &[u8] {
    let (family, len, at) = if endpoint.addr.is_v4() { (libc::AF_INET, 16, 4) } else { (libc::AF_INET6, NAME_LEN, 8) };
    into[..2].copy_from_slice(&(family as u16).to_ne_bytes()); // 2 or 10
    into[2..4].copy_from_slice(&endpoint.port.to_be_bytes());
    let bytes = endpoint.addr.wire_bytes();
    into[at..at + bytes.len()].copy_from_slice(bytes);
    &into[..len]
}

/// Reads one.
fn read_name(name: &[u8]) -> Option<Endpoint> {
    let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
    let port = |name: &[u8]| u16::from_be_bytes([name[2], name[3]]);
    match family {
        libc::AF_INET if name.len() >= 8 => Some(Endpoint { addr: Addr::read4(name, 4), port: port(name) }),
        libc::AF_INET6 if name.len() >= 24 => {
            let octets: [u8; 16] = *name[8..].first_chunk()?;
            Some(Endpoint { addr: std::net::IpAddr::from(octets).into(), port: port(name) })
        }
        _ => None,
    }
}

/// The bytes of a `struct cmsghdr`: length (with itself), level, type.
const CMSG_HEADER: usize = size_of::<usize>() + 8;

fn aligned(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

fn int(data: &[u8]) -> i32 {
    data.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

/// Control data to send.
struct Control {
    bytes: [u8; CONTROL_LEN],
    len: usize,
}

impl Control {
    fn new() -> Control {
        Control { bytes: [0; CONTROL_LEN], len: 0 }
    }

    /// Appends one cmsg; there is room for the few that there are.
    fn push(&mut self, level: i32, kind: i32, data: &[u8]) {
        let len = CMSG_HEADER + data.len();
        let place = &mut self.bytes[self.len..self.len + aligned(len)];
        place[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        place[size_of::<usize>()..size_of::<usize>() + 4].copy_from_slice(&level.to_ne_bytes());
        place[size_of::<usize>() + 4..CMSG_HEADER].copy_from_slice(&kind.to_ne_bytes());
        place[CMSG_HEADER..len].copy_from_slice(data);
        self.len += aligned(len);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Control data that came: level, type and data of each cmsg.
struct Cmsgs<'a> {
    rest: &'a [u8],
}

impl<'a> Cmsgs<'a> {
    fn new(bytes: &'a [u8]) -> Cmsgs<'a> {
        Cmsgs { rest: bytes }
    }
}

impl<'a> Iterator for Cmsgs<'a> {
    type Item = (i32, i32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.rest.split_first_chunk::<CMSG_HEADER>()?;
        let (len, kinds) = header.split_first_chunk::<{ size_of::<usize>() }>()?;
        let (level, kind) = kinds.split_first_chunk::<4>()?;
        let len = usize::from_ne_bytes(*len);
        let data = self.rest.get(CMSG_HEADER..len)?;
        self.rest = self.rest.get(aligned(len)..).unwrap_or_default();
        Some((i32::from_ne_bytes(*level), int(kind), data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_control_data_read_back_as_written() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            let endpoint = Endpoint { addr: text.parse().expect("an address"), port: 4711 };
            assert_eq!(read_name(write_name(endpoint, &mut [0; NAME_LEN])), Some(endpoint));
        }
        let mut control = Control::new();
        control.push(1, 2, &[3]);
        control.push(4, 5, &[6; 20]);
        let read: Vec<_> = Cmsgs::new(control.bytes()).collect();
        assert_eq!(read, [(1, 2, &[3][..]), (4, 5, &[6; 20][..])]);
    }

    #[test]
    fn the_longest_control_data_fits() {
        let mut control = Control::new();
        control.push(0, 0, &[0; 4]);
        control.push(0, 0, &[0; 4]);
        control.push(0, 0, &[0; 20]);
        control.push(0, 0, &[0; 2]);
        assert!(control.bytes().len() <= CONTROL_LEN);
    }

    #[test]
    fn control_data_that_lies_about_its_length_ends_the_reading() {
        let mut bytes = [0; CMSG_HEADER];
        for len in [0, 1, CMSG_HEADER - 1, CMSG_HEADER + 1, usize::MAX] {
            bytes[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(Cmsgs::new(&bytes).count(), 0, "{len}");
        }
    }
}
