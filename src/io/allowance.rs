//! What a container may spend of the event loop's time on frames that come to nothing.
//!
//! # Theory of operation
//! Deficit round robin gives each busy port the same share of the loop, whatever it sends; and while anybody is busy the loop
//! never sleeps. So a container that sends garbage as fast as it can would take half of the loop from one that works, and a
//! CPU from both. Therefore useless frames ([`Worth`]) are paid for out of an allowance of time: a twentieth of a CPU
//! ([`SHARE`]), and a tenth of a second at once ([`BURST`]). A port that has none left is not read until it has some again:
//! its frames wait in its own device, and what is too much is dropped there, by the container's kernel.
//!
//! Beginning a connection over a host socket is dear, and worth nothing until the container completes it. It is paid for in
//! advance, and given back then, so connections that come about cost nothing however many they are, and a scan of some
//! thousand ports is not noticed.
//!
//! The allowance is one point in time: when all that was spent will have been earned. It lies in the past while nothing is
//! owed.

use std::time::Duration;

use crate::core::time::Instant;
use crate::core::worth::Worth;

/// One part of so many of a CPU is earned.
const SHARE: u32 = 20;
/// What may be spent at once, time of the loop.
const BURST: Duration = Duration::from_millis(100);
/// What is earned before a port that had nothing left is read again: less would have the loop wake up for a few frames.
const STEP: Duration = Duration::from_micros(100);
/// The most that one frame is taken to have cost: when it took longer, the CPU was somebody else's.
const DEAREST: Duration = Duration::from_micros(200);

/// One port's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    /// When all that was spent will have been earned.
    even: Instant,
    /// What beginning a connection costs, about.
    attempt: Duration,
}

/// What a few frames came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    frames: u32,
    useless: u32,
    completed: u32,
    /// The last one began a connection.
    attempt: bool,
}

impl Tally {
    /// One more frame.
    #[inline]
    pub fn add(&mut self, worth: Worth) {
        self.frames += 1;
        match worth {
            Worth::Something => {}
            Worth::Nothing => self.useless += 1,
            Worth::Attempt => (self.useless, self.attempt) = (self.useless + 1, true),
            Worth::Completion => self.completed += 1,
        }
    }

    /// Is there nothing to be paid for, and nothing to be given back?
    #[inline]
    pub fn is_clean(&self) -> bool {
        self.useless == 0 && self.completed == 0
    }
}

impl Allowance {
    /// Is all of it there? What a frame costs is looked at more closely while it is not.
    #[inline]
    pub fn is_whole(&self, now: Instant) -> bool {
        self.even <= now
    }

    /// Frames took `time` together, and `tally` is what they came to.
    pub fn settle(&mut self, tally: Tally, time: Duration, now: Instant) {
        if tally.useless > 0 {
            let each = (time / tally.frames).min(DEAREST);
            if tally.attempt {
                self.attempt = if self.attempt.is_zero() { each } else { (self.attempt * 7 + each) / 8 };
            }
            self.even = self.even.max(now) + each * tally.useless * SHARE;
        }
        self.even = self.even - self.attempt * tally.completed * SHARE;
    }

    /// When the port may be read again; `None`: now.
    #[inline]
    pub fn resumes(&self, now: Instant) -> Option<Instant> {
        let most = now + BURST * SHARE;
        (self.even > most).then(|| self.even - (BURST - STEP) * SHARE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop with a clock that stands still but for what frames cost.
    struct Loop {
        now: Instant,
        allowance: Allowance,
    }

    impl Loop {
        fn new() -> Loop {
            Loop { now: Instant::from_secs(10), allowance: Allowance::default() }
        }

        fn pass(&mut self, time: Duration) {
            self.now = self.now + time;
        }

        fn frame(&mut self, worth: Worth, cost: Duration) {
            self.pass(cost);
            let mut tally = Tally::default();
            tally.add(worth);
            self.allowance.settle(tally, cost, self.now);
        }

        fn is_held(&self) -> bool {
            self.allowance.resumes(self.now).is_some()
        }

        /// How long of `time` a port takes that always has another frame, of so much worth and cost.
        fn taken(&mut self, worth: Worth, cost: Duration, time: Duration) -> Duration {
            let end = self.now + time;
            let mut taken = Duration::ZERO;
            while self.now < end {
                match self.allowance.resumes(self.now) {
                    Some(at) => self.now = at.min(end),
                    None => {
                        self.frame(worth, cost);
                        taken += cost;
                    }
                }
            }
            taken
        }
    }

    const MICRO: Duration = Duration::from_micros(1);
    const SYN: Duration = Duration::from_micros(30);

    #[test]
    fn a_port_that_sends_garbage_leaves_the_others_their_time() {
        for (worth, cost) in [(Worth::Nothing, MICRO), (Worth::Nothing, MICRO * 7), (Worth::Attempt, SYN)] {
            let mut port = Loop::new();
            let first = port.taken(worth, cost, Duration::from_secs(1));
            assert!(first <= BURST + Duration::from_millis(51), "{first:?}");
            let later = port.taken(worth, cost, Duration::from_secs(10));
            let fair = Duration::from_secs(10) / SHARE;
            assert!(later <= fair + STEP && later + STEP + cost >= fair, "{later:?}");
        }
    }

    #[test]
    fn a_port_that_is_held_is_read_again_in_steps_that_are_worth_it() {
        let mut port = Loop::new();
        port.taken(Worth::Nothing, MICRO, Duration::from_secs(1));
        while !port.is_held() {
            port.frame(Worth::Nothing, MICRO);
        }
        let at = port.allowance.resumes(port.now).unwrap();
        let wait = at.since(port.now);
        assert!(wait >= Duration::from_millis(1) && wait <= Duration::from_millis(3), "{wait:?}");
        port.now = at;
        assert!(!port.is_held());
        let count = (0..1000).take_while(|_| (!port.is_held()).then(|| port.frame(Worth::Nothing, MICRO)).is_some());
        assert!(count.count() >= 100);
    }

    #[test]
    fn a_port_scan_is_not_slowed() {
        let mut port = Loop::new();
        // nmap's thousand ports at once, all refused; and ten at a time from then on.
        (0..1000).for_each(|_| port.frame(Worth::Attempt, SYN));
        assert!(!port.is_held());
        for _ in 0..1000 {
            port.pass(Duration::from_millis(10));
            (0..10).for_each(|_| port.frame(Worth::Attempt, SYN));
            assert!(!port.is_held());
        }
    }

    #[test]
    fn handshakes_that_complete_cost_no_credit() {
        let mut port = Loop::new();
        for n in 0..1_000_000_u64 {
            // Some cost twice what others do, and some are thrown off the CPU in the middle.
            let cost = if n % 1000 == 7 { Duration::from_millis(4) } else { SYN + MICRO * (n % 31) as u32 };
            port.frame(Worth::Attempt, cost);
            port.frame(Worth::Completion, MICRO);
            port.frame(Worth::Something, MICRO * 3);
            assert!(!port.is_held(), "{n}");
        }
        // As many under way as may be half-open.
        for _ in 0..100 {
            (0..512).for_each(|_| port.frame(Worth::Attempt, SYN));
            assert!(!port.is_held());
            (0..512).for_each(|_| port.frame(Worth::Completion, MICRO));
        }
    }

    #[test]
    fn what_was_given_back_is_no_credit_for_more() {
        let mut port = Loop::new();
        (0..10_000).for_each(|_| port.frame(Worth::Attempt, SYN));
        (0..100_000).for_each(|_| port.frame(Worth::Completion, MICRO));
        let taken = port.taken(Worth::Nothing, MICRO, Duration::from_secs(1));
        assert!(taken <= BURST + Duration::from_millis(51), "{taken:?}");
    }

    #[test]
    fn losses_of_a_bad_wire_are_not_noticed() {
        let mut port = Loop::new();
        // One of twenty frames is a duplicate, as fast as the loop can go.
        for n in 0..1_000_000 {
            port.frame(if n % 20 == 0 { Worth::Nothing } else { Worth::Something }, MICRO * 2);
            assert!(!port.is_held(), "{n}");
        }
    }
}
