//! The engine over scripted sockets: what a container and the host's peers and clients see of each other.

mod bed;
mod crossing;
mod errors;
mod flows;
mod hostile;
mod limits;
mod published;
mod trains;
