//! A bad wire: between a container's device and the switch's port, frames are lost, repeated, overtaken and delayed.
//!
//! ```text
//!   container        this thread        wire (a namespace)            switch
//!   eth0 (TAP) ════ dice and clock ════ eth0 (TAP) ─ br0 ─ p0 (TAP) ════
//! ```
//!
//! # Theory of operation
//! The switch makes its port `p0` in the namespace `wire`, where it loses its address and becomes a port of a bridge of the
//! kernel. What comes out of the bridge's other port is read here, and what the container sends too; each frame of IPv4 is diced
//! for, and written on the other side when it is due. A direction has dice of its own (xorshift), so that its n-th frame has
//! the same fate in every run. Super-frames cross as one frame, or as many where [`Faults::whole`] says so. ARP is not diced for:
//! a lost question costs a second and shows nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::bed::{Case, GATEWAY, Switch};
use super::ns::Netns;
use super::tap;

/// What the wire does to frames, in each direction alike.
#[derive(Clone, Copy)]
pub struct Faults {
    /// Of a hundred frames so many are lost, so many come twice, and so many are overtaken by others.
    pub percent: u64,
    /// How long every frame takes.
    pub delay: Duration,
    /// Super-frames cross whole; otherwise the device takes no offloads, and each is a frame of the MTU.
    pub whole: bool,
    pub seed: u64,
}

impl Faults {
    pub fn of(percent: u64) -> Self {
        Self { percent, delay: Duration::ZERO, whole: true, seed: 0x9e37_79b9_7f4a_7c15 ^ percent }
    }

    pub fn plain(self) -> Self {
        Self { whole: false, ..self }
    }

    pub fn delayed(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// What happened to the frames of one direction.
#[derive(Default)]
pub struct Counts {
    pub frames: AtomicU64,
    pub lost: AtomicU64,
    pub repeated: AtomicU64,
    pub overtaken: AtomicU64,
}

/// A running wire; it ends with its value.
pub struct Relay {
    stop: Arc<AtomicBool>,
    /// From the container, and to it.
    counts: Arc<[Counts; 2]>,
    thread: Option<JoinHandle<()>>,
    _wire: Netns,
}

impl Relay {
    /// A container behind such a wire.
    pub fn attach(case: &Case, switch: &Switch, name: &str, address: Ipv4Addr, faults: Faults) -> (Netns, Relay) {
        let (container, wire) = (case.netns(name), case.netns(&format!("wire-{name}")));
        let mac = format!("02:42:ac:11:00:{:02x}", address.octets()[3]);
        switch.attach(name, &wire, &["--ifname", "p0", "--mac", &mac, "--ip", &address.to_string()]);
        let open = |netns: &Netns| tap::open(netns.path().to_str().expect("ASCII"), faults.whole).expect("a TAP");
        let ends = [open(&container), open(&wire)];
        wire.ip(
            "addr flush dev p0\nlink set p0 address 02:00:00:00:00:01\nlink add br0 type bridge\nlink set p0 master br0\n\
             link set eth0 master br0\nlink set eth0 up\nlink set br0 up",
        );
        container.ip(&format!(
            "link set eth0 address {mac}\naddr add {address}/16 dev eth0\nlink set eth0 up\nroute add default via {GATEWAY}"
        ));
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(<[Counts; 2]>::default());
        let carrier = Carrier {
            ends,
            faults,
            dice: [faults.seed, faults.seed.rotate_left(32)],
            waiting: BinaryHeap::new(),
            number: 0,
            stop: Arc::clone(&stop),
            counts: Arc::clone(&counts),
        };
        let thread = Some(thread::spawn(move || carrier.run()));
        (container, Relay { stop, counts, thread, _wire: wire })
    }

    /// `12345 frames, 123 lost, 120 twice, 130 late`, from the container and to it.
    pub fn told(&self) -> String {
        let way = |counts: &Counts| {
            let Counts { frames, lost, repeated, overtaken } = counts;
            let [frames, lost, twice, late] =
                [frames, lost, repeated, overtaken].map(|count| count.load(Ordering::Relaxed));
            format!("{frames} frames, {lost} lost, {twice} twice, {late} late")
        };
        format!("from the container {}; to it {}", way(&self.counts[0]), way(&self.counts[1]))
    }

    /// Frames that were lost, repeated or overtaken, in the direction where there were fewer.
    pub fn faults(&self) -> u64 {
        let sum =
            |counts: &Counts| [&counts.lost, &counts.repeated, &counts.overtaken].map(|n| n.load(Ordering::Relaxed));
        self.counts.iter().map(|counts| sum(counts).iter().sum()).min().unwrap_or(0)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// By when it is due, then by when it came; the end that it goes to, and its bytes.
type Waiting = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Carrier {
    ends: [OwnedFd; 2],
    faults: Faults,
    dice: [u64; 2],
    waiting: BinaryHeap<Waiting>,
    number: u64,
    stop: Arc<AtomicBool>,
    counts: Arc<[Counts; 2]>,
}

impl Carrier {
    fn run(mut self) {
        let mut buffer = vec![0; 70_000];
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            while self.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                let Some(Reverse((_, _, to, frame))) = self.waiting.pop() else { break };
                self.write(to, &frame);
            }
            let next = self.waiting.peek().map_or(Duration::from_millis(50), |Reverse((due, ..))| *due - now);
            let patience = Timespec::try_from(next.min(Duration::from_millis(50))).expect("short");
            let ready = {
                let mut fds = [&self.ends[0], &self.ends[1]].map(|end| PollFd::new(end, PollFlags::IN));
                let _ = poll(&mut fds, Some(&patience));
                fds.map(|fd| fd.revents().contains(PollFlags::IN))
            };
            for (from, ready) in ready.into_iter().enumerate() {
                for _ in 0..if ready { 64 } else { 0 } {
                    match rustix::io::read(&self.ends[from], &mut buffer) {
                        Ok(length) => self.dice_for(from, &buffer[..length]),
                        Err(_) => break,
                    }
                }
            }
        }
    }

    fn dice_for(&mut self, from: usize, frame: &[u8]) {
        let to = 1 - from;
        let ethertype = if self.faults.whole { tap::VNET_HEADER + 12 } else { 12 };
        let is_ip = frame.get(ethertype..ethertype + 2) == Some(&[8, 0]);
        let percent = if is_ip { self.faults.percent } else { 0 };
        let [lost, twice, late] = [(); 3].map(|()| self.roll(from) % 100 < percent);
        let counts = &self.counts[from];
        counts.frames.fetch_add(1, Ordering::Relaxed);
        if lost {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        counts.repeated.fetch_add(u64::from(twice), Ordering::Relaxed);
        counts.overtaken.fetch_add(u64::from(late), Ordering::Relaxed);
        // Late by so much that some of what follows comes first.
        let late = if late { Duration::from_micros(200 + self.roll(from) % 1800) } else { Duration::ZERO };
        for _ in 0..1 + usize::from(twice) {
            if self.faults.delay + late == Duration::ZERO {
                self.write(to, frame);
            } else {
                self.number += 1;
                let due = Instant::now() + self.faults.delay + late;
                self.waiting.push(Reverse((due, self.number, to, frame.to_vec())));
            }
        }
    }

    /// A device that is down takes nothing: that is a loss like another.
    fn write(&self, to: usize, frame: &[u8]) {
        let _ = rustix::io::write(self.ends[to].as_fd(), frame);
    }

    fn roll(&mut self, from: usize) -> u64 {
        let dice = &mut self.dice[from];
        *dice ^= *dice << 13;
        *dice ^= *dice >> 7;
        *dice ^= *dice << 17;
        *dice >> 8
    }
}
