//! The product: switch, router and NAT as a deterministic function of state, input and time.

pub mod command;
pub mod conntrack;
pub mod frag;
pub mod port;
pub mod time;
