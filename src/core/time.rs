//! Time as a value: the core never asks a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time: microseconds since an arbitrary zero that the caller chose. Any point can be made up, so every
/// timer can be tested and every capture replayed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant {
    micros: u64,
}

impl Instant {
    /// The caller's zero.
    pub const ZERO: Instant = Instant { micros: 0 };

    /// `micros` microseconds after zero.
    pub const fn from_micros(micros: u64) -> Instant {
        Instant { micros }
    }

    /// `secs` seconds after zero.
    pub const fn from_secs(secs: u64) -> Instant {
        Instant { micros: secs * 1_000_000 }
    }

    /// Microseconds after zero.
    pub const fn micros(self) -> u64 {
        self.micros
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(earlier.micros))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, d: Duration) -> Instant {
        Instant { micros: self.micros.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)) }
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, d: Duration) -> Instant {
        Instant { micros: self.micros.saturating_sub(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)) }
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.micros / 1_000_000, self.micros % 1_000_000)
    }
}
