//! Which addresses a repository may have. Pure but for [`resolve`].
//!
//! Private networks are allowed: Git servers live there. Refused is what is never a Git server and answers to nobody
//! but the machine itself: loopback, link-local (the metadata service of clouds), and the like. A host is resolved
//! once, and connected to is what was checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::git::FetchError;

/// A range of addresses, as in `127.0.0.0/8` or `::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    network: IpAddr,
    bits: u8,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of addresses; write it as in 127.0.0.0/8");
        let (network, bits) =
            text.split_once('/').map_or((text, None), |(network, bits)| (network, Some(bits)));
        let network: IpAddr = network.parse().map_err(|_| wrong())?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).ok().filter(|bits| *bits <= most).ok_or_else(wrong)?;
        Ok(Self { network, bits })
    }
}

impl Range {
    fn holds(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// What may be connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Allowed although of a kind that is refused otherwise.
    pub allowed: Vec<Range>,
    /// Refused although of a kind that is allowed otherwise: the API server.
    pub refused: Vec<Range>,
}

impl Addresses {
    /// Why an address is not connected to, if so.
    fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        if self.allowed.iter().any(|range| range.holds(address)) {
            return None;
        }
        if self.refused.iter().any(|range| range.holds(plain(address))) {
            return Some("the API server's own");
        }
        class(address)
    }
}

/// The IPv4 address that an IPv6 one stands for, if so: the same machine by another name.
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        // Mapped, compatible (but for :: and ::1), and both translation prefixes (RFC 4291, 6052, 8215).
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 1, _, _, _, high, low] => embedded(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => embedded(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => embedded(high, low),
        _ => address,
    }
}

fn class(address: IpAddr) -> Option<&'static str> {
    match plain(address) {
        IpAddr::V4(v4) => class4(v4),
        IpAddr::V6(v6) => class6(v6),
    }
}

fn class4(v4: Ipv4Addr) -> Option<&'static str> {
    match v4.octets() {
        [0, ..] => Some("unspecified"),
        [127, ..] => Some("loopback"),
        [169, 254, ..] => Some("link-local"),
        // Of clouds that keep their metadata service outside the link-local range.
        [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => Some("a metadata service's"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

fn class6(v6: Ipv6Addr) -> Option<&'static str> {
    match v6.segments() {
        _ if v6.is_unspecified() => Some("unspecified"),
        _ if v6.is_loopback() => Some("loopback"),
        [first, ..] if first & 0xffc0 == 0xfe80 => Some("link-local"),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some("a metadata service's"),
        [first, ..] if first & 0xff00 == 0xff00 => Some("multicast"),
        _ => None,
    }
}

/// The addresses of a host that may be connected to.
pub fn resolve(
    addresses: &Addresses,
    host: &str,
    port: u16,
    deadline: Instant,
) -> Result<Vec<SocketAddr>, FetchError> {
    // The resolver cannot be told a deadline: it is left to itself when it is late, and ends by its own.
    let (sender, receiver) = channel();
    let name = (host.to_owned(), port);
    std::thread::spawn(move || {
        // The caller may have left.
        let _ = sender.send(name.to_socket_addrs().map(Iterator::collect::<Vec<_>>));
    });
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let found = match receiver.recv_timeout(left) {
        Ok(found) => found.unwrap_or_default(),
        Err(_) => return Err(FetchError::Timeout),
    };
    if found.is_empty() {
        let message = "its name has no address".to_owned();
        return Err(FetchError::Unreachable { place: format!("{host}:{port}"), message });
    }
    let mut refused = "";
    let allowed: Vec<_> = found
        .into_iter()
        .filter(|address| match addresses.refusal(address.ip()) {
            Some(class) => {
                refused = class;
                false
            }
            None => true,
        })
        .collect();
    if allowed.is_empty() {
        return Err(FetchError::ForbiddenAddress { host: host.to_owned(), class: refused });
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(addresses: &Addresses, address: &str) -> bool {
        addresses.refusal(address.parse().unwrap()).is_some()
    }

    #[test]
    fn what_is_never_a_git_server_is_refused_by_every_name() {
        let plain = Addresses::default();
        for bad in [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
        ] {
            assert!(refused(&plain, bad), "{bad}");
        }
        for good in
            ["10.0.0.7", "192.168.1.1", "172.16.0.1", "140.82.112.3", "fd12::1", "2a00::1", "100.64.0.1"]
        {
            assert!(!refused(&plain, good), "{good}");
        }
    }

    #[test]
    fn an_administrator_may_allow_and_refuse() {
        let some = Addresses {
            allowed: vec!["127.0.0.0/8".parse().unwrap(), "::1".parse().unwrap()],
            refused: vec!["10.96.0.1".parse().unwrap()],
        };
        assert!(!refused(&some, "127.0.0.1") && !refused(&some, "::1"));
        assert!(
            refused(&some, "10.96.0.1") && refused(&some, "::ffff:10.96.0.1") && !refused(&some, "10.96.0.2")
        );
        assert!(refused(&some, "169.254.169.254"));
        assert!(Range { network: "0.0.0.0".parse().unwrap(), bits: 0 }.holds("9.9.9.9".parse().unwrap()));
        for bad in ["", "x", "1.2.3.4/33", "::/129", "1.2.3.4/-1", "1.2.3.4/"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }
}
