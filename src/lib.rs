//! pontoon: an Ethernet switch, a router and a NAT for rootless containers, in one unprivileged process.
//!
//! # The map
//! Layers, arrows point down only (a test keeps it so):
//!
//! ```text
//! main -> cli -> control -> io -> core -> frame -> wire
//! ```
//!
//! - [`wire`]: bytes and their meaning, stateless: addresses, checksums, the virtio-net header.
//! - [`frame`]: what travels: bytes, the offsets found once at the door, and the offloads that ride along.
//! - [`core`]: the product, sans-IO and deterministic: bridge, neighbours, routes, conntrack, NAT, ICMP. Begin with `core::datapath`.
//! - [`io`]: every file descriptor, clock and thread; the only layer with `unsafe` (in `io::sys`).
//! - [`control`]: the API socket: requests become commands of the core.
//! - [`cli`]: one file per subcommand, the configuration file.

#![deny(clippy::disallowed_methods)]

#[allow(clippy::disallowed_methods, reason = "a command waits for processes and measures what it shows")]
pub mod cli;
pub mod control;
pub mod core;
pub mod frame;
#[allow(clippy::disallowed_methods, reason = "the one layer that reads the clock and starts threads")]
pub mod io;
pub mod wire;
