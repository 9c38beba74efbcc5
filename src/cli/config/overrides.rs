//! The options of the command line.

use std::path::PathBuf;

use clap::Args;

use super::UplinkChoice;
use crate::control::protocol::{Gateway, Level};
use crate::wire::addr::{Addr, Cidr};

/// What the command line says; the rest is the file's. The options that `switch` and `run` share.
#[derive(Clone, Debug, Default, Args)]
pub struct Overrides {
    /// Each command has it with its own meaning.
    #[arg(skip)]
    pub control: Option<PathBuf>,
    /// The same.
    #[arg(skip)]
    pub log: Option<Level>,
    /// Subnet of the network 'default' [default: 172.17.0.0/16]
    #[arg(long)]
    pub subnet: Option<Cidr>,
    /// Its gateway's address, or none [default: the first of the subnet]
    #[arg(long, value_name = "ADDR|none")]
    pub gateway: Option<Gateway>,
    /// Bytes of an IP packet in it [default: 1500]
    #[arg(long)]
    pub mtu: Option<u16>,
    /// The way to the world: sockets, tun:name=up0,address=A[,peer=B/24][,netns=PATH][,mtu=N][,mss_clamp=on][,fd=N], or
    /// none [default: sockets]
    #[arg(long)]
    pub uplink: Option<UplinkChoice>,
    /// With --uplink sockets: source of connections, an address of this host; once for each family
    #[arg(long, value_name = "ADDR", value_parser = Addr::parse)]
    pub outbound_address: Vec<Addr>,
    /// With --uplink sockets: the only interface by which connections leave
    #[arg(long, value_name = "IF")]
    pub outbound_interface: Option<String>,
    /// With --uplink sockets: containers find the host's loopback under this address; once for each family
    #[arg(long, value_name = "ADDR", value_parser = Addr::parse)]
    pub host_loopback: Vec<Addr>,
    /// With --uplink sockets: containers reach the metadata services of clouds
    #[arg(long)]
    pub allow_metadata: bool,
    /// With --uplink sockets: containers do not reach the host's own addresses
    #[arg(long)]
    pub no_host_addresses: bool,
    /// Write every frame to this pcapng file
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Flows at most [default: 262144]
    #[arg(long, value_name = "N")]
    pub flow_limit: Option<u32>,
    /// Flows at most of one container [default: a quarter of the limit]
    #[arg(long, value_name = "N")]
    pub flow_quota: Option<u32>,
}
