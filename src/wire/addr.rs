//! One address type for both families, and prefixes.
//!
//! An [`Addr`] is 16 bytes; IPv4 lives in the IPv4-mapped range `::ffff:0:0/96`. Nothing aliases, because the door
//! rejects IPv6 packets that carry such addresses (see [`Addr::read6`]). One type means one code path, one tuple and
//! one table for both families.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IPv4 or IPv6 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addr([u8; 16]);

const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Addr {
    /// 0.0.0.0.
    pub const V4_UNSPECIFIED: Addr = Addr::v4([0, 0, 0, 0]);
    /// `::`.
    pub const V6_UNSPECIFIED: Addr = Addr([0; 16]);
    /// 255.255.255.255.
    pub const V4_BROADCAST: Addr = Addr::v4([255, 255, 255, 255]);

    /// An IPv4 address.
    #[inline]
    pub const fn v4(octets: [u8; 4]) -> Addr {
        let [a, b, c, d] = octets;
        Addr([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }

    /// The unspecified address of IPv4, or of IPv6.
    #[inline]
    pub const fn unspecified(v4: bool) -> Addr {
        if v4 { Addr::V4_UNSPECIFIED } else { Addr::V6_UNSPECIFIED }
    }

    /// Reads four bytes at `at`. Panics when out of bounds.
    #[inline]
    pub fn read4(bytes: &[u8], at: usize) -> Addr {
        Addr::v4([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    /// Reads sixteen bytes at `at` as an IPv6 address; `None` for IPv4-mapped, IPv4-compatible, unspecified and
    /// loopback addresses (`::/96` and `::ffff:0:0/96`), which no packet on a wire may carry for us: they would alias
    /// IPv4 flows. Panics when out of bounds.
    #[inline]
    pub fn read6(bytes: &[u8], at: usize) -> Option<Addr> {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[at..at + 16]);
        let aliases = octets[..10] == [0; 10] && (octets[10..12] == [0, 0] || octets[10..12] == [0xff, 0xff]);
        (!aliases).then_some(Addr(octets))
    }

    /// The four octets of an IPv4 address.
    #[inline]
    pub fn as_v4(self) -> Option<[u8; 4]> {
        self.is_v4().then(|| [self.0[12], self.0[13], self.0[14], self.0[15]])
    }

    /// Is this an IPv4 address?
    #[inline]
    pub fn is_v4(self) -> bool {
        self.0[..12] == V4_PREFIX
    }

    /// All sixteen bytes, IPv4 as IPv4-mapped.
    #[inline]
    pub fn octets(&self) -> &[u8; 16] {
        &self.0
    }

    /// The bytes as they stand in a header: 4 for IPv4, 16 for IPv6.
    #[inline]
    pub fn wire_bytes(&self) -> &[u8] {
        if self.is_v4() { &self.0[12..] } else { &self.0 }
    }

    /// Is this a multicast address (224/4, ff00::/8)?
    #[inline]
    pub fn is_multicast(self) -> bool {
        match self.as_v4() {
            Some(v4) => v4[0] & 0xf0 == 0xe0,
            None => self.0[0] == 0xff,
        }
    }

    /// May this be a packet's source when it is routed? No martian: not 0/8, 127/8, multicast, or the limited
    /// broadcast (`ip_route_input_slow`, R10). Class E is allowed, as in Linux.
    pub fn is_routable_source(self) -> bool {
        match self.as_v4() {
            Some(v4) => v4[0] != 0 && v4[0] != 127 && v4[0] & 0xf0 != 0xe0 && self != Addr::V4_BROADCAST,
            None => self.0[0] != 0xff,
        }
    }

    /// The low 32 bits as a number; for IPv4 the address itself.
    pub fn low32(self) -> u32 {
        u32::from_be_bytes([self.0[12], self.0[13], self.0[14], self.0[15]])
    }
}

/// One write of sixteen bytes; the derived form writes a length first.
impl Hash for Addr {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from_ne_bytes(self.0));
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Addr {
        Addr::v4(ip.octets())
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => Addr(v6.octets()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> IpAddr {
        match addr.as_v4() {
            Some(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
            None => IpAddr::V6(Ipv6Addr::from(addr.0)),
        }
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Addr {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Addr, Self::Err> {
        text.parse::<IpAddr>().map(Addr::from)
    }
}

/// A prefix: an address and how many of its leading bits count. `bits` is 0..=32 for IPv4, 0..=128 for IPv6.
///
/// The address may carry host bits (`172.17.0.1/16` is an interface's address and its network at once);
/// [`Cidr::network`] clears them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    addr: Addr,
    bits: u8,
}

impl Cidr {
    /// `None` when `bits` is longer than the address.
    pub fn new(addr: Addr, bits: u8) -> Option<Cidr> {
        (bits <= if addr.is_v4() { 32 } else { 128 }).then_some(Cidr { addr, bits })
    }

    /// The prefix that holds this one address.
    pub fn host(addr: Addr) -> Cidr {
        Cidr { addr, bits: if addr.is_v4() { 32 } else { 128 } }
    }

    /// The address as given, host bits and all.
    pub fn addr(&self) -> Addr {
        self.addr
    }

    /// The prefix length in bits.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The same prefix with its host bits cleared.
    pub fn network(&self) -> Cidr {
        Cidr { addr: self.masked(self.addr), bits: self.bits }
    }

    /// Does the prefix hold `addr`?
    #[inline]
    pub fn contains(&self, addr: Addr) -> bool {
        self.addr.is_v4() == addr.is_v4() && self.masked(self.addr) == self.masked(addr)
    }

    /// Do the two prefixes share an address?
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.addr) && self.bits <= other.bits || other.contains(self.addr) && other.bits <= self.bits
    }

    /// The directed broadcast address of an IPv4 prefix of at most 30 bits (a /31 and a /32 have none, RFC 3021).
    pub fn broadcast(&self) -> Option<Addr> {
        let v4 = u32::from_be_bytes(self.addr.as_v4()?);
        let host = u32::MAX.checked_shr(u32::from(self.bits)).unwrap_or(0);
        (self.bits <= 30).then(|| Addr::v4((v4 | host).to_be_bytes()))
    }

    /// Bits that count in the 128-bit form.
    #[inline]
    fn mask(&self) -> u128 {
        let bits = u32::from(self.bits) + if self.addr.is_v4() { 96 } else { 0 };
        u128::MAX.checked_shl(128 - bits).unwrap_or(0)
    }

    #[inline]
    fn masked(&self, addr: Addr) -> Addr {
        Addr((u128::from_be_bytes(addr.0) & self.mask()).to_be_bytes())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.bits)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseCidrError;

impl fmt::Display for ParseCidrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a prefix: an address, a slash and a length are wanted, as 172.17.0.0/16")
    }
}

impl std::error::Error for ParseCidrError {}

impl FromStr for Cidr {
    type Err = ParseCidrError;

    fn from_str(text: &str) -> Result<Cidr, ParseCidrError> {
        let (addr, bits) = text.split_once('/').ok_or(ParseCidrError)?;
        let addr = addr.parse().map_err(|_| ParseCidrError)?;
        let bits = bits.parse().map_err(|_| ParseCidrError)?;
        Cidr::new(addr, bits).ok_or(ParseCidrError)
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(|e| serde::de::Error::custom(format_args!("'{text}' is {e}")))
            }
        }
    };
}

impl Addr {
    /// Parses an address; the error says what is wanted, in words that fit after "is".
    pub fn parse(text: &str) -> Result<Addr, ParseAddrError> {
        text.parse().map_err(|_| ParseAddrError)
    }
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseAddrError;

impl fmt::Display for ParseAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an IP address, as 172.17.0.2")
    }
}

impl std::error::Error for ParseAddrError {}

serde_as_text!(Cidr);
serde_as_text!(super::mac::Mac);
serde_as_text!(Addr);

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn families_never_alias() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1];
        assert_eq!(Addr::read6(&mapped, 0), None);
        assert_eq!(Addr::read6(&[0; 16], 0), None);
        let mut loopback = [0; 16];
        loopback[15] = 1;
        assert_eq!(Addr::read6(&loopback, 0), None);
        let mut global = [0; 16];
        global[0] = 0x20;
        assert!(Addr::read6(&global, 0).is_some_and(|a| !a.is_v4()));
    }

    #[test]
    fn prefix_holds_its_own_and_nothing_else() {
        assert!(cidr("172.17.0.1/16").contains(addr("172.17.255.255")));
        assert!(!cidr("172.17.0.1/16").contains(addr("172.18.0.0")));
        assert!(cidr("0.0.0.0/0").contains(addr("203.0.113.1")));
        assert!(!cidr("0.0.0.0/0").contains(addr("2001:db8::1")));
        assert!(cidr("::/0").contains(addr("2001:db8::1")));
        assert!(!cidr("::/0").contains(addr("10.0.0.1")));
        assert_eq!(cidr("172.17.0.1/16").network().to_string(), "172.17.0.0/16");
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        for (a, b, want) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "192.0.2.0/24", true),
        ] {
            assert_eq!(cidr(a).overlaps(&cidr(b)), want);
            assert_eq!(cidr(b).overlaps(&cidr(a)), want);
        }
    }

    #[test]
    fn broadcast_exists_up_to_30_bits() {
        assert_eq!(cidr("172.17.0.0/16").broadcast(), Some(addr("172.17.255.255")));
        assert_eq!(cidr("192.0.2.4/30").broadcast(), Some(addr("192.0.2.7")));
        assert_eq!(cidr("192.0.2.4/31").broadcast(), None);
        assert_eq!(cidr("0.0.0.0/0").broadcast(), Some(Addr::V4_BROADCAST));
    }

    #[test]
    fn prefix_text_is_refused_when_it_is_none() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/-1", "2001:db8::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
