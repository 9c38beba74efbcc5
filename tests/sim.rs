//! The core in a network made of memory: every frame in, every frame out, and a clock that goes when it is told to.
//!
//! Each test names the row of the conformance table that it claims, directly above its `fn`.

#[path = "sim/bridging.rs"]
mod bridging;
#[path = "sim/nat.rs"]
mod nat;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/packet.rs"]
mod packet;
#[path = "sim/routing.rs"]
mod routing;
