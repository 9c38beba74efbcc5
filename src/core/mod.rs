//! The product: switch, router and NAT as a deterministic function of state, input and time.

pub mod time;
