//! System calls, one family per file; the only place with `unsafe`.
pub mod msg;
pub mod netns;
pub mod process;
pub mod tuntap;
