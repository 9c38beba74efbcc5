//! The measuring stick: the least a user-space switch can do, and so the ceiling of pontoon's speed on a machine.
//!
//! One TAP in each of two namespaces, and per frame one read(2) and one write(2), nothing else: no learning, no checks,
//! no rewriting. What pontoon adds per frame is what it loses against this, see `benches/network`.
//!
//! ```text
//! forward vnet|plain NETNS NETNS      NETNS: a name as `ip netns` has it, or a path
//! ```
//!
//! `vnet` is IFF_VNET_HDR with checksum and segmentation offload, so TCP crosses in frames of up to 64 KiB; `plain` is a
//! TAP without it, so every segment is a frame. Both TAPs are named eth0 and come up down and without an address.
//! Prints `ready` when frames are forwarded; runs until it is killed.

mod tap;

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::event::epoll;
use rustix::io::Errno;

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
    match tap::open(first, vnet).and_then(|a| Ok([a, tap::open(second, vnet)?])).and_then(|taps| forward(&taps)) {
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
