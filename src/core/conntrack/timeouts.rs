//! How long a silent flow is kept: Linux' defaults under Linux' names, all configurable.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::tcp::State;

/// Durations as whole seconds, as in `/proc/sys/net/netfilter`, but not 0, with which a flow is gone before its answer.
mod seconds {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(d: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(d.as_secs())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        match u32::deserialize(deserializer)? {
            0 => Err(D::Error::custom("0 seconds would end each flow as it begins; give 1 or more, or leave it out")),
            secs => Ok(Duration::from_secs(secs.into())),
        }
    }
}

macro_rules! timeouts {
    ($($(#[$doc:meta])* $class:ident $field:ident = $secs:literal,)*) => {
        /// One duration for each timeout class, named as the sysctls are without their `nf_conntrack_`.
        ///
        /// In a configuration they are whole seconds, at least 1; a name that is left out keeps Linux' default.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Timeouts {
            $($(#[$doc])* #[serde(with = "seconds")] pub $field: Duration,)*
        }

        /// Defaults of Linux 6.18.
        impl Default for Timeouts {
            fn default() -> Timeouts {
                Timeouts { $($field: Duration::from_secs($secs),)* }
            }
        }

        /// Which of the timeouts a flow runs on.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub(super) enum Class {
            $($class,)*
            /// Over: expired at the moment it entered this class. The flow is still there for the packet that ended
            /// it, and for nobody after.
            Dead,
        }

        impl Class {
            /// How many classes there are.
            pub(super) const COUNT: usize = Class::Dead as usize + 1;
        }

        impl Timeouts {
            /// Microseconds by class.
            pub(super) fn micros(&self) -> [u64; Class::COUNT] {
                let mut all = [0; Class::COUNT];
                $(all[Class::$class as usize] = u64::try_from(self.$field.as_micros()).unwrap_or(u64::MAX / 4);)*
                all
            }
        }
    };
}

timeouts! {
    /// SYN seen, nothing back. A retransmitted SYN does not begin it anew (X08).
    SynSent tcp_timeout_syn_sent = 120,
    /// SYN and SYN-ACK seen.
    SynRecv tcp_timeout_syn_recv = 60,
    /// Both sides talk and everything is acknowledged. RFC 5382 REQ-5: at least 2 h 4 min.
    Established tcp_timeout_established = 432_000,
    /// One FIN seen.
    FinWait tcp_timeout_fin_wait = 120,
    /// One FIN seen and acknowledged.
    CloseWait tcp_timeout_close_wait = 60,
    /// Both FINs seen.
    LastAck tcp_timeout_last_ack = 30,
    /// Both FINs acknowledged.
    TimeWait tcp_timeout_time_wait = 120,
    /// After any RST that was accepted.
    Close tcp_timeout_close = 10,
    /// Simultaneous open: a SYN each way.
    SynSent2 tcp_timeout_syn_sent2 = 120,
    /// The same segment three times in a row, or a closed window.
    MaxRetrans tcp_timeout_max_retrans = 300,
    /// Data sent and not acknowledged yet.
    Unacknowledged tcp_timeout_unacknowledged = 300,
    /// UDP, one direction only or younger than two seconds. Below what RFC 4787 REQ-5 asks for (2 min).
    Udp udp_timeout = 30,
    /// UDP both ways, and older than two seconds.
    UdpStream udp_timeout_stream = 120,
    /// ICMP queries.
    Icmp icmp_timeout = 30,
    /// ICMPv6 queries.
    Icmpv6 icmpv6_timeout = 30,
    /// Every other protocol.
    Generic generic_timeout = 600,
    /// GRE, one direction only.
    Gre gre_timeout = 30,
    /// GRE both ways.
    GreStream gre_timeout_stream = 180,
}

impl Class {
    /// The class that a TCP state runs on when nothing shortens it.
    pub(super) fn of(state: State) -> Class {
        match state {
            // A flow leaves NONE with its first packet.
            State::None | State::SynSent => Class::SynSent,
            State::SynRecv => Class::SynRecv,
            State::Established => Class::Established,
            State::FinWait => Class::FinWait,
            State::CloseWait => Class::CloseWait,
            State::LastAck => Class::LastAck,
            State::TimeWait => Class::TimeWait,
            State::Close => Class::Close,
            State::SynSent2 => Class::SynSent2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // U5, T5, I2, V2
    #[test]
    fn a_configuration_names_seconds_and_the_rest_keeps_linux_defaults() {
        let t: Timeouts = toml::from_str("udp_timeout = 300").unwrap();
        assert_eq!(t.udp_timeout, Duration::from_secs(300));
        assert_eq!(t.tcp_timeout_established, Duration::from_secs(432_000));
    }

    #[test]
    fn an_unknown_timeout_is_refused_by_name() {
        let e = toml::from_str::<Timeouts>("udp_timeuot = 300").unwrap_err();
        assert!(e.to_string().contains("udp_timeuot"), "{e}");
    }

    #[test]
    fn a_timeout_of_no_time_is_refused() {
        let e = toml::from_str::<Timeouts>("icmp_timeout = 1\nudp_timeout = 0").unwrap_err();
        assert!(e.to_string().contains("line 2") && e.to_string().contains("0 seconds would end"), "{e}");
    }

    #[test]
    fn timeouts_survive_being_written_and_read() {
        let text = serde_json::to_string(&Timeouts::default()).unwrap();
        assert!(text.contains("\"gre_timeout_stream\":180"), "{text}");
        assert_eq!(serde_json::from_str::<Timeouts>(&text).unwrap(), Timeouts::default());
    }
}
