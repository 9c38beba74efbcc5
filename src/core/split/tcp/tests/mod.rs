//! The engine against a host in memory: segment by segment, and with whole stacks over links that lose frames.

mod bed;
mod closing;
mod hostile;
mod loss;
mod opening;
mod peer;
mod published;
mod segments;
mod silence;
mod stacks;
mod states;
mod windows;
