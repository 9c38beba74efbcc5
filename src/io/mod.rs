//! The world: every file descriptor, clock and thread.
pub mod enter;
pub mod lifetime;
pub mod netcfg;
pub mod sys;
pub mod tap;
pub mod uplink;
