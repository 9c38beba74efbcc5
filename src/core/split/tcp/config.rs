//! Every limit and time of the TCP engine.

use std::time::Duration;

/// Limits and times. Bytes are of payload unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Connections at once, without those in TIME_WAIT; 1 to 1,000,000.
    pub flows_max: usize,
    /// Connections of one container; at least 1.
    pub flows_per_port: usize,
    /// Half-open connections of one container, the oldest gives way; at least 1.
    pub half_open_per_port: usize,
    /// Clients of one published port that wait for the container; more wait in the kernel. At least 1.
    pub half_open_per_listener: usize,
    /// Connections in TIME_WAIT, the oldest gives way; 1 to 1,000,000.
    pub time_wait_max: usize,
    /// How long a TIME_WAIT lasts; at most 10 s.
    pub time_wait: Duration,
    /// First receive window of a flow, bytes, and of one that begins while its container uses half of the memory toward
    /// the host that it may use: at least 64 KiB, which a SYN can tell.
    pub window_initial: u32,
    /// See there.
    pub window_floor: u32,
    /// The largest receive window, bytes; at most 1 GiB (RFC 7323 2.3).
    pub window_max: u32,
    /// First congestion window toward a container, bytes.
    pub flight_initial: u32,
    /// The most in flight toward a container in one flow, bytes; at least 64 KiB.
    pub flight_max: u32,
    /// In flight toward one container in all of its flows, bytes of chunks, beyond which a flow may have `flight_shared` at
    /// most: what is kept outside of the CPU's caches is copied at half of the speed.
    pub flight_together: usize,
    /// See there; at least 64 KiB.
    pub flight_shared: u32,
    /// Memory of each direction, bytes of chunks.
    pub pool: usize,
    /// What one container may use of each, bytes of chunks.
    pub pool_per_port: usize,
    /// Retransmission timeout before a round trip was measured; RFC 6298 2.1.
    pub rto_initial: Duration,
    /// The same where our SYN or SYN-ACK was sent more than once; RFC 6298 5.7.
    pub rto_after_lost_syn: Duration,
    /// The shortest. Longer than a receiver may delay an acknowledgement (Linux `TCP_DELACK_MAX`: 200 ms) on a busy machine.
    pub rto_min: Duration,
    /// The shortest wait before the last packet in flight is sent again as a probe. Longer than a receiver in the midst of
    /// data delays its acknowledgement (Linux `TCP_DELACK_MIN`: 40 ms) on a busy machine.
    pub probe_min: Duration,
    /// The longest; at least 60 s (RFC 6298 2.4), and that of probes for a closed window.
    pub rto_max: Duration,
    /// Timeouts without progress after which a flow is reset.
    pub retries: u32,
    /// The same for a SYN or SYN-ACK; Linux `tcp_synack_retries`.
    pub syn_retries: u32,
    /// A host's connect that has not ended by then is given up; longer than the kernel's own (about 130 s).
    pub connect_timeout: Duration,
    /// Silence after which a container is asked whether it still has a half-closed connection.
    pub probe_half_closed: Duration,
    /// The same for an open one; Linux `tcp_keepalive_time`.
    pub probe_idle: Duration,
    /// Between questions; Linux `tcp_keepalive_intvl`.
    pub probe_interval: Duration,
    /// Questions without an answer after which a flow is reset; Linux `tcp_keepalive_probes`.
    pub probes: u32,
    /// After a container refused a client: how soon it is asked whether it listens again; the time doubles.
    pub listen_probe_first: Duration,
    /// The longest between such questions.
    pub listen_probe_max: Duration,
    /// How long a listener waits that found no descriptor, unless one is freed before.
    pub accept_retry: Duration,
    /// What one call does at most, bytes.
    pub turn: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            flows_max: 131_072,
            flows_per_port: 65_536,
            half_open_per_port: 512,
            half_open_per_listener: 256,
            time_wait_max: 65_536,
            time_wait: Duration::from_secs(10),
            window_initial: 256 << 10,
            window_floor: 64 << 10,
            window_max: 1 << 20,
            flight_initial: 256 << 10,
            flight_max: 1 << 20,
            flight_together: 4 << 20,
            flight_shared: 128 << 10,
            pool: 256 << 20,
            pool_per_port: 64 << 20,
            rto_initial: Duration::from_secs(1),
            rto_after_lost_syn: Duration::from_secs(3),
            rto_min: Duration::from_millis(300),
            probe_min: Duration::from_millis(100),
            rto_max: Duration::from_secs(60),
            retries: 7,
            syn_retries: 5,
            connect_timeout: Duration::from_secs(150),
            probe_half_closed: Duration::from_secs(60),
            probe_idle: Duration::from_secs(7200),
            probe_interval: Duration::from_secs(75),
            probes: 9,
            listen_probe_first: Duration::from_millis(200),
            listen_probe_max: Duration::from_secs(5),
            accept_retry: Duration::from_secs(1),
            turn: 256 << 10,
        }
    }
}

impl Config {
    /// The window scale that we ask for: enough for the largest window, and at least 1, since a scale of 0 means "none" here.
    pub(super) fn scale(&self) -> u8 {
        (1..14).find(|s| 1 << (16 + s) >= self.window_max).unwrap_or(14)
    }
}
