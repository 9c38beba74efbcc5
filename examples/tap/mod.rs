//! A TAP in a network namespace: what the measuring sticks stand on.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The size of `struct virtio_net_hdr` without num_buffers, which every frame of a TAP with IFF_VNET_HDR begins with.
pub const VNET_HEADER: usize = 10;

/// Makes TAP eth0 in a namespace: a name as `ip netns` has it, or a path. It comes up down and without an address.
///
/// The TAP is made in the namespace where /dev/net/tun is *opened*; only the open and TUNSETIFF need to be there.
pub fn open(netns: &str, vnet: bool) -> Result<OwnedFd, String> {
    let path = if netns.contains('/') { PathBuf::from(netns) } else { PathBuf::from("/run/netns").join(netns) };
    let at = |what: &str, why: &dyn std::fmt::Display| format!("{what} for {}: {why}", path.display());
    let home = File::open("/proc/self/ns/net").map_err(|why| at("opening our own namespace", &why))?;
    let there = File::open(&path).map_err(|why| at("opening the namespace", &why))?;
    enter(there.as_fd()).map_err(|why| at("setns", &why))?;
    let tap = attach(vnet).map_err(|why| at("making TAP eth0", &why));
    enter(home.as_fd()).map_err(|why| at("setns back", &why))?;
    tap
}

fn enter(netns: BorrowedFd<'_>) -> Result<(), Errno> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
}

#[allow(unsafe_code, reason = "TUNSETIFF and its kin have no safe wrapper")]
fn attach(vnet: bool) -> Result<OwnedFd, Errno> {
    let tap = rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | if vnet { libc::IFF_VNET_HDR } else { 0 };
    // SAFETY: `ifreq` is plain old data of C, for which all zeroes is a value (an empty name, no flags).
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"eth0") {
        *to = from.cast_signed();
    }
    // The flags all lie below 0x8000, IFF_VNET_HDR = 0x4000 being the highest.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads one `ifreq`, which is what is passed.
    unsafe { rustix::ioctl::ioctl(&tap, Setter::<{ libc::TUNSETIFF as Opcode }, libc::ifreq>::new(request))? };
    if vnet {
        let header = VNET_HEADER as libc::c_int;
        let offload = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        // SAFETY: TUNSETVNETHDRSZ reads one int, TUNSETOFFLOAD takes its mask as the argument itself.
        unsafe {
            rustix::ioctl::ioctl(&tap, Setter::<{ libc::TUNSETVNETHDRSZ as Opcode }, libc::c_int>::new(header))?;
            rustix::ioctl::ioctl(
                &tap,
                IntegerSetter::<{ libc::TUNSETOFFLOAD as Opcode }>::new_usize(offload as usize),
            )?;
        }
    }
    Ok(tap)
}
