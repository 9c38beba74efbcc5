//! The clock: the only place that asks what time it is on behalf of the core.

use crate::core::time::Instant;

/// Counts from the moment it was made, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: std::time::Instant,
}

impl Clock {
    /// Starts at [`Instant::ZERO`].
    #[expect(clippy::new_without_default, reason = "a clock that starts by default would hide when it did")]
    pub fn new() -> Clock {
        Clock { zero: std::time::Instant::now() }
    }

    /// Now.
    #[inline]
    pub fn now(&self) -> Instant {
        let elapsed = self.zero.elapsed();
        Instant::from_micros(elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros()))
    }
}
