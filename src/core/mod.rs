//! The product: switch, router and NAT as a deterministic function of state, input and time.
//!
//! Begin with [`datapath`]: the journeys of a frame. The rest by what it knows: [`bridge`] (stations, guard, flooding),
//! [`neigh`], [`route`], [`conntrack`] and [`nat`] (flows and their translation), [`icmp`] and `local` (what the gateway
//! says), `frag` (which flow a fragment is of), [`command`] (what the world may ask; `manage`, `publish` and [`flush`] do it).

pub mod bridge;
pub mod command;
pub mod conntrack;
pub mod counters;
pub mod datapath;
pub mod flush;
mod forward;
pub mod frag;
pub mod hash;
pub mod icmp;
mod local;
mod manage;
pub mod nat;
pub mod neigh;
pub mod network;
mod options;
pub mod port;
mod publish;
pub mod route;
pub mod socket;
mod socket_uplink;
pub mod split;
pub mod time;
pub mod world;
pub mod worth;
