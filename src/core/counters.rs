//! What is counted: traffic per port, and every drop by its reason.

use super::command::Traffic;
use super::frag;
use crate::frame::{Malformed, Refused};

/// Declares the reasons once: variant, name in listings, meaning.
macro_rules! drop_reasons {
    ($($variant:ident $name:literal $doc:literal)*) => {
        /// Why a frame was dropped. Each is counted at the port the frame came in by.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason { $(#[doc = $doc] $variant,)* }

        impl DropReason {
            /// All of them, in order.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant),*];

            /// The name in listings.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name),* }
            }

            /// One line for the reader of a listing.
            pub const fn meaning(self) -> &'static str {
                match self { $(DropReason::$variant => $doc),* }
            }
        }
    };
}

drop_reasons! {
    Runt "runt" "shorter than its link header"
    TooLong "too-long" "longer than any packet can be"
    Unreadable "unreadable" "the kernel could not describe the frame's offload, and dropped it"
    BadChecksumOffset "bad-checksum-offset" "virtio header asks for a checksum outside of the frame"
    BadSegmentation "bad-segmentation" "virtio header asks for segmentation that does not fit the packet"
    TooManySegments "too-many-segments" "virtio header asks for more than 128 segments"
    BadSourceMac "bad-source-mac" "source MAC is a group address or zero (B10)"
    SpoofedMac "spoofed-mac" "source MAC belongs to the gateway or another attachment"
    SpoofedAddress "spoofed-address" "source address (IP, ARP or NDP) belongs to the gateway or another attachment"
    ReservedGroup "reserved-group" "link-local group address that a bridge keeps to itself (B09)"
    SamePort "same-port" "destination is behind the port the frame came from (B07)"
    FloodRate "flood-rate" "more broadcast, multicast and unknown unicast than the port may send"
    Isolated "isolated" "both ports are isolated (B19)"
    IccOff "icc-off" "containers of this network may not reach each other (D01)"
    ExceedsPortMtu "exceeds-port-mtu" "bridged frame is longer than the network's MTU (B15)"
    NoGateway "no-gateway" "by way of the gateway, into or out of a network without one (D11)"
    TaggedToGateway "tagged-to-gateway" "VLAN-tagged frame to the gateway"
    NotIp "not-ip" "to the gateway, and neither ARP nor IPv4"
    Truncated "ip-truncated" "IP packet shorter than its header"
    BadVersion "ip-version" "IP version is not what the link says"
    BadHeaderLength "ip-header-length" "IP header length is impossible"
    BadTotalLength "ip-total-length" "IP total length is impossible"
    BadHeaderChecksum "ip-header-checksum" "IP header checksum is wrong"
    BadChecksum "l4-checksum" "TCP, UDP or ICMP checksum is wrong (X11)"
    BadTransport "l4-truncated" "transport header is cut short or impossible"
    SourceRoute "source-route" "IP source route option (R16)"
    Martian "martian" "source or destination address that no router takes (R10)"
    WrongNetwork "wrong-network" "source address does not belong to where the packet came from"
    Broadcast "broadcast" "broadcast or multicast is not routed (R12, R13)"
    TtlExceeded "ttl-exceeded" "time to live ran out (R02)"
    NeedsFragmentation "needs-fragmentation" "longer than the next link's MTU, and may not be fragmented (R19)"
    NoRoute "no-route" "no route to the destination (R04)"
    Internal "internal" "an internal network has no way out (D10)"
    NetworkIsolation "network-isolation" "networks do not reach each other (D24)"
    NotPublished "not-published" "new flow from the uplink to a container, not by a published port (S47)"
    Untracked "untracked" "belongs to no flow and may not begin one"
    InvalidState "invalid-state" "does not fit its flow's state (X01-X05)"
    IcmpUnrelated "icmp-unrelated" "ICMP error about no flow of ours"
    IcmpType "icmp-type" "ICMP type that is not translated (I11)"
    FlowTableFull "flow-table-full" "the flow table is at its limit (X12)"
    FlowQuota "flow-quota" "the container is at its quota of flows (C4)"
    PortsExhausted "ports-exhausted" "no free source port toward this destination (X16)"
    HalfOpenLimit "half-open-limit" "half-open connection that gave way to newer ones of its container"
    ConnectTimeout "connect-timeout" "host's connection was not answered"
    NoSocket "no-socket" "no host socket can be had: descriptors or memory are used up"
    SplitMemory "split-memory" "data for a host socket found no memory, and is not acknowledged"
    FragmentOverlap "fragment-overlap" "fragments overlap or repeat (R20)"
    FragmentTiny "fragment-tiny" "fragment that is empty, ill-sized, or splits the transport header"
    FragmentLimit "fragment-limit" "too many fragments wait for their first"
    FragmentTimeout "fragment-timeout" "first fragment never came"
    NeighbourFailed "neighbour-failed" "destination did not answer ARP (R04)"
    NeighbourQueue "neighbour-queue" "too many packets wait for an ARP answer (R30)"
    Refused "refused" "to the gateway itself, where nothing listens (R05)"
    LocalIgnored "local-ignored" "to the gateway itself, and of no use there"
    LinkDown "link-down" "the receiving device is down"
    PortGone "port-gone" "the receiving device is gone"
    OffloadRefused "offload-refused" "the receiving kernel refused the virtio header"
    WriteFailed "write-failed" "the receiving device failed in another way"
    NotAllowed "not-allowed" "to an address that containers may not reach by the host's sockets"
    HostBusy "host-busy" "the host's socket had no room for it"
    HostRefused "host-refused" "the host would not send it"
    Unsolicited "unsolicited" "to a host socket, from a peer that its container did not ask (U8)"
    NoSocketFor "no-socket-for" "of a protocol that the host has no unprivileged sockets for"
    ForwardingOff "forwarding-off" "forwarding is turned off (S37)"
    NoUplink "no-uplink" "there is no uplink"
}

impl DropReason {
    /// Did something run full that an operator might make larger, or whose user might be asked?
    pub const fn is_limit(self) -> bool {
        use DropReason::*;
        matches!(
            self,
            FloodRate
                | FlowTableFull
                | FlowQuota
                | PortsExhausted
                | HalfOpenLimit
                | NoSocket
                | SplitMemory
                | FragmentLimit
                | NeighbourQueue
        )
    }
}

impl DropReason {
    /// Was there only no room just then, as on any busy link? The sender has done nothing wrong.
    pub const fn is_congestion(self) -> bool {
        matches!(self, DropReason::HostBusy | DropReason::SplitMemory)
    }
}

impl From<Refused> for DropReason {
    fn from(why: Refused) -> DropReason {
        match why {
            Refused::Runt => DropReason::Runt,
            Refused::TooLong => DropReason::TooLong,
            Refused::ChecksumOffset => DropReason::BadChecksumOffset,
            Refused::Segmentation => DropReason::BadSegmentation,
            Refused::TooManySegments => DropReason::TooManySegments,
        }
    }
}

impl From<Malformed> for DropReason {
    fn from(why: Malformed) -> DropReason {
        match why {
            Malformed::Truncated => DropReason::Truncated,
            Malformed::Version => DropReason::BadVersion,
            Malformed::HeaderLength => DropReason::BadHeaderLength,
            Malformed::TotalLength => DropReason::BadTotalLength,
            Malformed::Checksum => DropReason::BadHeaderChecksum,
        }
    }
}

impl From<frag::Why> for DropReason {
    fn from(why: frag::Why) -> DropReason {
        match why {
            frag::Why::Malformed | frag::Why::Tiny => DropReason::FragmentTiny,
            frag::Why::Duplicate | frag::Why::Overlap => DropReason::FragmentOverlap,
            frag::Why::TooMany | frag::Why::Full => DropReason::FragmentLimit,
        }
    }
}

impl From<frag::GivenUp> for DropReason {
    fn from(why: frag::GivenUp) -> DropReason {
        match why {
            frag::GivenUp::TimedOut => DropReason::FragmentTimeout,
            frag::GivenUp::Evicted => DropReason::FragmentLimit,
            frag::GivenUp::Overlapped => DropReason::FragmentOverlap,
        }
    }
}

/// Counters of a port.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Frames that came from the port.
    pub rx: Traffic,
    /// Frames written to the port.
    pub tx: Traffic,
    drops: [u64; DropReason::ALL.len()],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { rx: Traffic::default(), tx: Traffic::default(), drops: [0; DropReason::ALL.len()] }
    }
}

impl Counters {
    /// Counts drops.
    pub fn drop(&mut self, why: DropReason, count: u64) {
        self.drops[why as usize] += count;
    }

    /// How often frames were dropped for `why`.
    pub fn dropped(&self, why: DropReason) -> u64 {
        self.drops[why as usize]
    }

    /// Every reason that happened, with its count.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        DropReason::ALL.iter().map(|why| (why.name(), self.dropped(*why))).filter(|(_, count)| *count > 0)
    }

    /// Adds another port's drops, for totals.
    pub fn absorb(&mut self, other: &Counters) {
        for (total, count) in self.drops.iter_mut().zip(other.drops) {
            *total += count;
        }
    }
}

impl Traffic {
    /// Counts a frame of `bytes`.
    #[inline]
    pub fn count(&mut self, bytes: usize) {
        self.frames += 1;
        self.bytes += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_names() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
