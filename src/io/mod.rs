//! The world: every file descriptor, clock and thread.
pub mod sys;
