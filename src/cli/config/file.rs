//! The file as written.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::UplinkChoice;
use crate::control::protocol::{Level, NetworkSpec, Route, Rule};
use crate::core::conntrack::Timeouts;
use crate::wire::addr::Addr;

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub switch: SwitchSection,
    pub timeouts: Timeouts,
    pub network: Vec<Spanned<NetworkSpec>>,
    pub rule: Vec<Spanned<Rule>>,
    pub route: Vec<Spanned<Route>>,
}

/// `[switch]`: each key is the option of that name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SwitchSection {
    pub control: Option<Spanned<PathBuf>>,
    pub log: Option<Level>,
    pub pcap: Option<Spanned<PathBuf>>,
    pub flow_limit: Option<Spanned<u32>>,
    pub flow_quota: Option<Spanned<u32>>,
    /// TCP outside the window passes (`nf_conntrack_tcp_be_liberal`).
    pub tcp_liberal: Option<bool>,
    /// An ACK may begin a flow (`nf_conntrack_tcp_loose`).
    pub tcp_loose: Option<bool>,
    /// Forward between networks and the uplink (`ip_forward`).
    pub forward: Option<bool>,
    pub uplink: Option<Spanned<UplinkChoice>>,
    /// Of an uplink over sockets.
    pub sockets: SocketsSection,
}

/// `[switch.sockets]`: each key is the option of that name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketsSection {
    pub outbound_address: Vec<Spanned<Addr>>,
    pub outbound_interface: Option<Spanned<String>>,
    pub host_loopback: Vec<Spanned<Addr>>,
    pub allow_metadata: Option<bool>,
    pub host_addresses: Option<bool>,
}
