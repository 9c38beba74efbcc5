//! The core in a network made of memory: every frame in, every frame out, and a clock that goes when it is told to.
//!
//! Each test names the rows of the conformance table that it claims, directly above its `fn`.

#[path = "sim/bridging.rs"]
mod bridging;
#[path = "sim/host.rs"]
mod host;
#[path = "sim/nat.rs"]
mod nat;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/nic.rs"]
mod nic;
#[path = "sim/offload.rs"]
mod offload;
#[path = "sim/packet.rs"]
mod packet;
#[path = "sim/random.rs"]
mod random;
#[path = "sim/routing.rs"]
mod routing;
#[path = "sim/sockets/mod.rs"]
mod sockets;
#[path = "sim/stacks.rs"]
mod stacks;
#[path = "sim/tracking.rs"]
mod tracking;
#[path = "sim/trains.rs"]
mod trains;
