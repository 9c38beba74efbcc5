//! The API socket: requests become commands of the core.
//!
//! - [`protocol`]: the calls and their arguments, as JSON; [`portspec`]: how a published port is written.
//! - [`socket`]: where it listens and who may come in.
//! - [`server`]: the control thread: clients, lifetimes of attachments, notices of the event loop.
//! - [`calls`]: what each call does; [`plumber`]: devices, opened and given up.
//! - [`client`]: the other end.

#![forbid(unsafe_code)]

pub mod calls;
pub mod client;
pub mod plumber;
pub mod portspec;
pub mod protocol;
pub mod server;
pub mod socket;
