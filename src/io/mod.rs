//! The world: every file descriptor, clock and thread.
mod allowance;
pub mod clock;
mod devices;
pub mod enter;
pub mod lifetime;
pub mod netcfg;
mod outbox;
mod patience;
pub mod pcap;
pub mod reactor;
pub mod sockets;
pub mod spool;
pub mod switch;
pub mod sys;
pub mod tap;
pub mod uplink;
