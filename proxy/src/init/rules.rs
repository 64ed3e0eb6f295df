//! The redirect as text for `iptables-restore --noflush`. Pure; the tests hold its output as a golden file.
//!
//! ```text
//!  from outside ─▶ PREROUTING ─▶ MESHWRIGHT_INBOUND ──(not 15020, 15090, excluded)──▶ 15003
//!  application  ─▶ OUTPUT ─────▶ MESHWRIGHT_OUTBOUND ─(not loopback, excluded)──────▶ 15001
//!  Envoy        ─▶ OUTPUT ─────▶   to the network: as it is
//!                                  over lo, from 127.0.0.6: delivery to the application, as it is
//!                                  over lo, from elsewhere: the pod calls its own service ─▶ MESHWRIGHT_INBOUND
//! ```

use std::collections::BTreeSet;
use std::fmt::{self, Write};

use ipnet::IpNet;

use crate::constants::{
    DELIVERY_SOURCE_V4, DELIVERY_SOURCE_V6, INBOUND_PORT, OUTBOUND_PORT, PROMETHEUS_PORT, PROXY_GID,
    PROXY_PORT, PROXY_USERS,
};

/// Address family of a rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Traffic that the sidecar shall not see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Ports of other machines that the application calls directly.
    pub outbound_ports: BTreeSet<u16>,
    /// Networks that the application calls directly.
    pub outbound_networks: BTreeSet<IpNet>,
    /// Ports of the application that are reached directly.
    pub inbound_ports: BTreeSet<u16>,
}

/// Whose traffic is the sidecar's own. Always with the group [`PROXY_GID`] too: an image decides by its /etc/passwd
/// which group a user has, so the group alone would be its choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SidecarUser {
    /// This one, which the injector gave the sidecar of this pod.
    This(u32),
    /// Any of [`PROXY_USERS`]: an injector of a release before this one does not say which.
    AnyOfRange,
}

impl SidecarUser {
    /// The sidecar's own traffic, as matches of iptables.
    fn matches(self) -> String {
        match self {
            Self::This(user) => format!("-m owner --uid-owner {user} --gid-owner {PROXY_GID}"),
            Self::AnyOfRange => {
                let (first, last) = (PROXY_USERS.start(), PROXY_USERS.end());
                format!("-m owner --uid-owner {first}-{last} --gid-owner {PROXY_GID}")
            }
        }
    }
}

/// Which jumps from the built-in chains exist already. A jump can't be added conditionally in
/// `iptables-restore`, and adding it twice would be untidy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Jumps {
    /// PREROUTING jumps to us.
    pub prerouting: bool,
    /// OUTPUT jumps to us.
    pub output: bool,
}

const JUMP_INBOUND: &str = "-A PREROUTING -p tcp -j MESHWRIGHT_INBOUND";
const JUMP_OUTBOUND: &str = "-A OUTPUT -p tcp -j MESHWRIGHT_OUTBOUND";

impl Jumps {
    /// Reads the output of `iptables-save -t nat`.
    #[must_use]
    pub fn found_in(saved: &str) -> Self {
        let has = |rule: &str| saved.lines().any(|line| line.trim() == rule);
        Self { prerouting: has(JUMP_INBOUND), output: has(JUMP_OUTBOUND) }
    }
}

/// Whether `/proc/net/if_inet6` lists an address on an interface other than loopback. A link-local address counts:
/// neighbours on the node's bridge could reach the application through it, past the sidecar.
#[must_use]
pub fn has_ipv6(if_inet6: &str) -> bool {
    if_inet6.lines().filter_map(|line| line.split_whitespace().last()).any(|device| device != "lo")
}

/// The input of `iptables-restore --noflush` (or `ip6tables-restore`).
#[must_use]
pub fn render(family: Family, exclusions: &Exclusions, user: SidecarUser, existing: Jumps) -> String {
    // Declaring a chain of our own empties it, which is what makes a second run safe.
    let mut rules = vec![
        "*nat".to_owned(),
        ":MESHWRIGHT_INBOUND - [0:0]".to_owned(),
        ":MESHWRIGHT_OUTBOUND - [0:0]".to_owned(),
    ];
    rules.extend(inbound(exclusions));
    rules.extend(outbound(family, exclusions, user));
    if !existing.prerouting {
        rules.push(JUMP_INBOUND.to_owned());
    }
    if !existing.output {
        rules.push(JUMP_OUTBOUND.to_owned());
    }
    rules.push("COMMIT".to_owned());
    rules.iter().fold(String::new(), |mut text, rule| {
        // Writing to a String can't fail.
        let _ = writeln!(text, "{rule}");
        text
    })
}

fn inbound(exclusions: &Exclusions) -> Vec<String> {
    // One rule per port: a multiport match holds no more than 15.
    BTreeSet::from([PROXY_PORT, PROMETHEUS_PORT])
        .union(&exclusions.inbound_ports)
        .map(|port| format!("-A MESHWRIGHT_INBOUND -p tcp -m tcp --dport {port} -j RETURN"))
        .chain([format!("-A MESHWRIGHT_INBOUND -p tcp -j REDIRECT --to-ports {INBOUND_PORT}")])
        .collect()
}

fn outbound(family: Family, exclusions: &Exclusions, user: SidecarUser) -> Vec<String> {
    let (delivery, loopback) = match family {
        Family::V4 => (format!("{DELIVERY_SOURCE_V4}/32"), "127.0.0.0/8"),
        Family::V6 => (format!("{DELIVERY_SOURCE_V6}/128"), "::1/128"),
    };
    let sidecar = user.matches();
    let mut rules = vec![
        format!("-s {delivery} -o lo {sidecar} -j RETURN"),
        format!("! -d {loopback} -o lo -p tcp {sidecar} -j MESHWRIGHT_INBOUND"),
        format!("{sidecar} -j RETURN"),
        "-o lo -j RETURN".to_owned(),
        format!("-d {loopback} -j RETURN"),
    ];
    let same_family = |network: &&IpNet| {
        matches!((family, network), (Family::V4, IpNet::V4(_)) | (Family::V6, IpNet::V6(_)))
    };
    rules.extend(
        exclusions
            .outbound_networks
            .iter()
            .filter(same_family)
            .map(|network| format!("-d {} -j RETURN", network.trunc())),
    );
    rules.extend(
        exclusions.outbound_ports.iter().map(|port| format!("-p tcp -m tcp --dport {port} -j RETURN")),
    );
    rules.push(format!("-p tcp -j REDIRECT --to-ports {OUTBOUND_PORT}"));
    rules.into_iter().map(|rule| format!("-A MESHWRIGHT_OUTBOUND {rule}")).collect()
}
