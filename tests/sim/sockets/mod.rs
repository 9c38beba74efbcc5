//! The uplink over host sockets: which packets of a container end in a socket, what they become there, and what comes back.

mod conn;
mod ends;
mod hostile;
mod lab;
mod limits;
mod listing;
mod mapped;
mod ping;
mod policy;
mod ports;
mod published;
mod tcp;
mod udp;
mod uplink;
