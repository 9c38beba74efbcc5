//! System calls, one family per file; the only place with `unsafe`.
#![allow(unsafe_code, reason = "system calls that no safe crate offers; denied everywhere else")]

pub mod hwaddr;
pub mod inherit;
pub mod msg;
pub mod netns;
pub mod process;
pub mod signal;
pub mod sockets;
pub mod tuntap;
