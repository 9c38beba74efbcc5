//! Names of ports.

use std::fmt;

use serde::Serialize;

/// A port of the switch, or the uplink. Never reused while the process lives, so a late event cannot meet a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PortId(pub u32);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}", self.0)
    }
}
