//! The engine against a host in memory: segment by segment, and with whole stacks over links that lose frames.

mod bed;
mod container;
mod hostile;
mod published;
mod stacks;
mod states;
mod windows;
