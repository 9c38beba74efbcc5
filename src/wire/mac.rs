//! Ethernet addresses.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An Ethernet (MAC) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Mac = Mac([0xff; 6]);
    /// 00:00:00:00:00:00; never a station.
    pub const ZERO: Mac = Mac([0; 6]);

    /// The first six bytes of `bytes`. Panics if there are fewer.
    #[inline]
    pub fn read(bytes: &[u8]) -> Mac {
        Mac([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
    }

    /// Is this a group address (multicast or broadcast)?
    #[inline]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// May this be the source of a frame? Linux drops group and zero sources (`is_valid_ether_addr`, B10).
    #[inline]
    pub fn is_station(self) -> bool {
        !self.is_group() && self != Mac::ZERO
    }

    /// Docker's old rule: `02:42` followed by the IPv4 address (S33).
    pub fn from_ipv4(ip: Ipv4Addr) -> Mac {
        let [a, b, c, d] = ip.octets();
        Mac([0x02, 0x42, a, b, c, d])
    }

    /// A locally administered unicast address from 64 random bits.
    pub fn from_random(bits: u64) -> Mac {
        let b = bits.to_be_bytes();
        Mac([(b[0] & 0xfc) | 0x02, b[1], b[2], b[3], b[4], b[5]])
    }
}

/// One write of eight bytes; the derived form writes a length and then six.
impl Hash for Mac {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, g] = self.0;
        state.write_u64(u64::from_ne_bytes([a, b, c, d, e, g, 0, 0]));
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseMacError;

impl fmt::Display for ParseMacError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a MAC address: six hexadecimal bytes with colons are wanted, as 02:42:ac:11:00:02")
    }
}

impl std::error::Error for ParseMacError {}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Mac, ParseMacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or(ParseMacError)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(Mac(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_rejects_what_is_no_mac() {
        let mac = Mac([0x02, 0x42, 0xac, 0x11, 0, 2]);
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in ["", "02:42", "02:42:ac:11:00:02:03", "2:42:ac:11:00:02", "zz:42:ac:11:00:02", "+2:42:ac:11:00:02"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    // S33
    #[test]
    fn docker_rule_gives_02_42_and_the_address() {
        assert_eq!(Mac::from_ipv4(Ipv4Addr::new(172, 17, 0, 2)).to_string(), "02:42:ac:11:00:02");
    }

    #[test]
    fn random_address_is_a_local_station() {
        for bits in [0, u64::MAX, 0x0123_4567_89ab_cdef] {
            let mac = Mac::from_random(bits);
            assert!(mac.is_station() && mac.0[0] & 2 == 2, "{mac}");
        }
    }
}
