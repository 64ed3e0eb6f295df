//! Address ranges and host names as OSM's kinds hold them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use super::{About, is_name};
use crate::problem::{Problem, Reason};

/// A range of addresses (CIDR), its host bits zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// First address.
    pub address: IpAddr,
    /// Leading bits that are fixed.
    pub prefix: u8,
}

impl Cidr {
    /// Reads `10.0.0.0/8`, `fd00::/64`, or a single address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => {
                let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
                (address.parse().ok()?, Some(prefix.parse::<u8>().ok().filter(|_| digits)?))
            }
            None => (text.parse().ok()?, None),
        };
        let most = bits(address);
        let prefix = prefix.unwrap_or(most);
        (prefix <= most).then(|| Self { address: masked(address, prefix), prefix })
    }

    /// The range of one address.
    #[must_use]
    pub fn single(address: IpAddr) -> Self {
        Self { address, prefix: bits(address) }
    }

    /// Whether all of another range lies in this one.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.prefix <= other.prefix
            && masked(other.address, self.prefix) == self.address
    }

    /// Whether an address lies in the range. An IPv4 address that is written as IPv6 is an IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.covers(&Self::single(address.to_canonical()))
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl About<'_> {
    pub(super) fn range(self, field: &str, text: &str) -> Result<Cidr, Problem> {
        Cidr::parse(text).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            let message = format!("{shown:?} is no address range; write it as in 10.0.0.0/8");
            self.problem(field, Reason::BadAddress, message)
        })
    }

    /// A host name in lower case; `*.` may stand before it.
    pub(super) fn host(self, field: &str, text: &str) -> Result<String, Problem> {
        let lower = text.to_ascii_lowercase();
        let bare = lower.strip_prefix("*.").unwrap_or(&lower);
        if is_name(bare, 253) && !bare.starts_with('.') && !bare.ends_with('.') && !bare.contains("..") {
            return Ok(lower);
        }
        let shown: String = text.chars().take(64).collect();
        let message = format!("{shown:?} is no host name; write it as in example.com or *.example.com");
        Err(self.problem(field, Reason::BadAddress, message))
    }
}

/// Whether a host name is `name`, or below it when that begins with `*.`.
#[must_use]
pub fn host_fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(tail) => host.len() > tail.len() && host.ends_with(tail),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_masked_and_compared() {
        let cidr = |text| Cidr::parse(text).unwrap();
        assert_eq!(cidr("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(cidr("10.1.2.3").to_string(), "10.1.2.3/32");
        assert_eq!(cidr("fd00::1/16").to_string(), "fd00::/16");
        assert_eq!(cidr("1.2.3.4/0").to_string(), "0.0.0.0/0");
        assert!(cidr("0.0.0.0/0").contains("9.9.9.9".parse().unwrap()));
        assert!(!cidr("0.0.0.0/0").contains("fd00::1".parse().unwrap()));
        assert!(cidr("10.0.0.0/8").contains("::ffff:10.1.1.1".parse().unwrap()));
        assert!(
            cidr("10.0.0.0/8").covers(&cidr("10.2.0.0/16"))
                && !cidr("10.2.0.0/16").covers(&cidr("10.0.0.0/8"))
        );
        for text in
            ["", "/8", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/", "999.1.1.1/8", "::/129", "a/1"]
        {
            assert_eq!(Cidr::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_star_is_every_name_below() {
        assert!(host_fits("*.example.com", "a.example.com") && host_fits("*.example.com", "a.b.example.com"));
        assert!(!host_fits("*.example.com", "example.com") && !host_fits("*.example.com", "xexample.com"));
        assert!(host_fits("a.b", "a.b") && !host_fits("a.b", "x.a.b"));
    }
}
