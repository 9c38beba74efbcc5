//! The only `unsafe` of these tests: the calls that neither std nor rustix has, each behind a safe function.

#![allow(unsafe_code, reason = "system calls that no safe crate offers; denied everywhere else")]

use std::io::{self, IoSliceMut};
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::UnshareFlags;

/// Leaves the namespaces named by `flags` for new ones; the calling thread only, but for `NEWUSER`, which needs a process of one thread.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(!flags.contains(UnshareFlags::FILES), "unsharing the descriptor table is what makes this call unsafe");
    // SAFETY: the function is unsafe for CLONE_FILES alone (a descriptor could close under its owner), and that is refused above.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Makes the child of `command` run in the network namespace `netns`, and die with the thread that started it.
///
/// `netns` must stay open until the child is spawned.
pub fn place(command: &mut Command, netns: BorrowedFd<'_>) {
    let netns: RawFd = netns.as_raw_fd();
    let enter = move || {
        // SAFETY: plain system calls on integers; both are async-signal-safe, which is what the time between fork and exec demands.
        unsafe {
            if libc::setns(netns, libc::CLONE_NEWNET) != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `enter` allocates nothing, takes no lock and calls only async-signal-safe functions.
    unsafe { command.pre_exec(enter) };
}

/// Binds an AF_PACKET socket to one interface and to every protocol: only then is it shown what the interface sends.
pub fn bind_packet(socket: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    let address = link_address(ifindex)?;
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a live sockaddr_ll and `length` its size.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
}

fn link_address(ifindex: u32) -> io::Result<libc::sockaddr_ll> {
    // SAFETY: sockaddr_ll is made of integers and an array of integers; all zeroes is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    Ok(address)
}

/// An option of level SOL_PACKET that is a yes or no.
#[derive(Clone, Copy)]
pub enum PacketOption {
    /// Ancillary data with each frame: the VLAN tag that the kernel took out of it, and whether its checksum is still to be filled in.
    AuxData,
    /// A virtio-net header before each frame, both ways.
    VnetHeader,
    /// Only what comes in, not what the machine itself sends.
    IgnoreOutgoing,
}

pub fn set_packet_option(socket: BorrowedFd<'_>, option: PacketOption) -> io::Result<()> {
    let name = match option {
        PacketOption::AuxData => libc::PACKET_AUXDATA,
        PacketOption::VnetHeader => libc::PACKET_VNET_HDR,
        PacketOption::IgnoreOutgoing => libc::PACKET_IGNORE_OUTGOING,
    };
    let on: libc::c_int = 1;
    let length = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: `on` is a live int and `length` its size, as every option listed here takes.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, name, (&raw const on).cast(), length) })
        .map(drop)
}

/// What the kernel tells of a received frame beside its bytes.
pub struct Received {
    pub length: usize,
    pub ethertype: u16,
    /// TPID and TCI of the outer VLAN tag, which the kernel takes out of every frame it receives.
    pub vlan: Option<(u16, u16)>,
    /// The L4 checksum is a partial one, left for the hardware (or nobody) to fill.
    pub checksum_pending: bool,
}

pub fn receive_packet(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0u64; 16];
    let mut part = IoSliceMut::new(buffer);
    // SAFETY: both are C structures of integers and pointers; all zeroes is a value of them.
    let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = mem::size_of_val(&from) as libc::socklen_t;
    // IoSliceMut is guaranteed to have the layout of an iovec.
    message.msg_iov = (&raw mut part).cast();
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    // SAFETY: every pointer in `message` is to a live local with the length beside it; `control` is aligned for a cmsghdr.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;

    let mut received =
        Received { length, ethertype: u16::from_be(from.sll_protocol), vlan: None, checksum_pending: false };
    // SAFETY: `message` was filled by recvmsg; the CMSG macros walk within msg_controllen, and the data of a PACKET_AUXDATA message is a
    // tpacket_auxdata, read unaligned.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_PACKET && (*header).cmsg_type == libc::PACKET_AUXDATA {
                let aux: libc::tpacket_auxdata =
                    libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                received.checksum_pending = aux.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0;
                if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                    received.vlan = Some((aux.tp_vlan_tpid, aux.tp_vlan_tci));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(received)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
