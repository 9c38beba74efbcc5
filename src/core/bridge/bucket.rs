//! A token bucket, counted in whole events.

use crate::core::time::Instant;

/// Allows `rate` events a second with a burst of `burst`.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: u32,
    burst: u32,
    /// Millionths of an event: each microsecond adds `rate` of them.
    credit: u64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket. `rate`: events a second, at least 1.
    pub fn new(rate: u32, burst: u32, now: Instant) -> Bucket {
        Bucket { rate, burst, credit: u64::from(burst) * 1_000_000, filled: now }
    }

    /// May one more event happen now? Takes its token if so.
    #[inline]
    pub fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.micros().saturating_sub(self.filled.micros());
        let full = u64::from(self.burst) * 1_000_000;
        self.credit = self.credit.saturating_add(elapsed.saturating_mul(u64::from(self.rate))).min(full);
        self.filled = now;
        let allowed = self.credit >= 1_000_000;
        if allowed {
            self.credit -= 1_000_000;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn burst_then_rate() {
        let mut now = Instant::from_secs(5);
        let mut bucket = Bucket::new(10, 3, now);
        assert_eq!((0..10).filter(|_| bucket.take(now)).count(), 3);
        now = now + Duration::from_millis(99);
        assert!(!bucket.take(now));
        now = now + Duration::from_millis(1);
        assert!(bucket.take(now));
        now = now + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| bucket.take(now)).count(), 3);
    }
}
