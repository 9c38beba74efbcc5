//! The measuring stick: the least a user-space switch can do, and so the ceiling of pontoon's speed on a machine.
//!
//! One TAP in each of two namespaces, and per frame one read(2) and one write(2), nothing else: no learning, no checks,
//! no rewriting. What pontoon adds per frame is what it loses against this, see `benches/limit.sh`.
//!
//! ```text
//! forward vnet|plain NETNS NETNS      NETNS: a name as `ip netns` has it, or a path
//! ```
//!
//! `vnet` is IFF_VNET_HDR with checksum and segmentation offload, so TCP crosses in frames of up to 64 KiB; `plain` is a
//! TAP without it, so every segment is a frame. Both TAPs are named eth0 and come up down and without an address.
//! Prints `ready` when frames are forwarded; runs until it is killed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A super-frame is at most 64 KiB, its Ethernet and virtio headers come on top.
const FRAME: usize = 1 << 17;

/// Frames moved from one TAP before the other has its turn.
const BUDGET: usize = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, first, second] = arguments.as_slice() else {
        return usage();
    };
    let vnet = match mode.as_str() {
        "vnet" => true,
        "plain" => false,
        _ => return usage(),
    };
    match open_tap(first, vnet).and_then(|a| Ok([a, open_tap(second, vnet)?])).and_then(|taps| forward(&taps)) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("forward: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: forward vnet|plain NETNS NETNS");
    ExitCode::from(2)
}

/// Level-triggered, so that a spent budget needs no bookkeeping: the next wait reports the TAP again.
fn forward(taps: &[OwnedFd; 2]) -> Result<std::convert::Infallible, String> {
    let failed = |errno: Errno| format!("epoll: {errno}");
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
    for (index, tap) in (0u64..).zip(taps) {
        epoll::add(&poll, tap, epoll::EventData::new_u64(index), epoll::EventFlags::IN).map_err(failed)?;
    }
    println!("ready");
    let mut frame = vec![0; FRAME];
    let mut ready = Vec::with_capacity(taps.len());
    loop {
        ready.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut ready), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        for event in &ready {
            let [from, to] = if event.data.u64() == 0 { [&taps[0], &taps[1]] } else { [&taps[1], &taps[0]] };
            for _ in 0..BUDGET {
                // An error is the end of this turn: EAGAIN when drained, EIO while the other link is still down.
                let Ok(length) = rustix::io::read(from, &mut frame) else {
                    break;
                };
                if rustix::io::write(to, &frame[..length]).is_err() {
                    break;
                }
            }
        }
    }
}

/// The TAP is made in the namespace where /dev/net/tun is *opened*; only the open and TUNSETIFF need to be there.
fn open_tap(netns: &str, vnet: bool) -> Result<OwnedFd, String> {
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
        // The size of `struct virtio_net_hdr` without num_buffers.
        let header: libc::c_int = 10;
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
