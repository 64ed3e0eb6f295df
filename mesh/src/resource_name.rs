//! Names of xDS resources (a contract: docs/ARCHITECTURE.md, "Names of xDS resources"), as values instead of texts.

use std::fmt::{self, Write};
use std::net::SocketAddr;
use std::str::FromStr;

use crate::ingest::Cidr;
use crate::view::ServicePort;

/// Parts of the longest name.
const MOST_PARTS: usize = 5;

/// The name of a cluster, a load assignment, a listener or a route configuration. One name may be that of resources of
/// several types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceName {
    /// `inbound`: the inbound listener, and the cluster of the application (HTTP/1.1 or bytes).
    Inbound,
    /// `inbound-h2`: the cluster of the application, HTTP/2.
    InboundHttp2,
    /// `in|<target port>`: the routes of a port of the pod.
    Port(u16),
    /// `in|<target port>|plaintext`: those for callers without TLS, where they are others.
    PortPlaintext(u16),
    /// `outbound`: the listener of everything that no other listener is for.
    Outbound,
    /// `passthrough`: the cluster of whatever was dialed, untouched.
    Passthrough,
    /// `meshpassthrough`: the cluster of whatever was dialed, if a member of the mesh is there.
    MeshPassthrough,
    /// `out|<namespace>|<service>|<port>`: a port of a service.
    Service(ServicePort),
    /// `out|<namespace>|<service>|<port>|<address>:<target port>`: the listener of a pod of a headless service.
    Pod(ServicePort, SocketAddr),
    /// `out|<namespace>|<service>|<port>|dialed`: the cluster of the pod of a headless service that was dialed.
    Dialed(ServicePort),
    /// `egress|<port>`: what leaves the mesh by a port, as it was dialed.
    Egress(u16),
    /// `egress|<port>|<range>`: the routes of what leaves by a port to a range of addresses.
    EgressRange(u16, Cidr),
    /// `egress|<host>|<port>`: the cluster of a host outside the mesh.
    EgressHost(String, u16),
}

/// What a text is that names no resource of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a resource of the mesh")]
pub struct NotAName;

impl ResourceName {
    /// The port of a service that a resource is about, if it is about one.
    #[must_use]
    pub fn service(&self) -> Option<&ServicePort> {
        match self {
            Self::Service(port) | Self::Pod(port, _) | Self::Dialed(port) => Some(port),
            Self::Inbound
            | Self::InboundHttp2
            | Self::Port(_)
            | Self::PortPlaintext(_)
            | Self::Outbound
            | Self::Passthrough
            | Self::MeshPassthrough
            | Self::Egress(_)
            | Self::EgressRange(..)
            | Self::EgressHost(..) => None,
        }
    }
}

/// Whether a text, if it is a name, is that of a port of a service, as [`ResourceName::service`] says, without reading it:
/// every new content of every resource is asked.
#[must_use]
pub fn is_of_a_service(name: &str) -> bool {
    name.starts_with("out|")
}

/// Whether a name is that of a cluster of the application: [`ResourceName::Inbound`] or [`ResourceName::InboundHttp2`].
#[must_use]
pub fn is_of_the_application(name: &str) -> bool {
    matches!(name, "inbound" | "inbound-h2")
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound => f.write_str("inbound"),
            Self::InboundHttp2 => f.write_str("inbound-h2"),
            Self::Port(port) => write!(f, "in|{port}"),
            Self::PortPlaintext(port) => write!(f, "in|{port}|plaintext"),
            Self::Outbound => f.write_str("outbound"),
            Self::Passthrough => f.write_str("passthrough"),
            Self::MeshPassthrough => f.write_str("meshpassthrough"),
            Self::Service(port) => write!(f, "{port}"),
            Self::Pod(port, address) => write!(f, "{port}|{address}"),
            Self::Dialed(port) => write!(f, "{port}|dialed"),
            Self::Egress(port) => write!(f, "egress|{port}"),
            Self::EgressRange(port, range) => write!(f, "egress|{port}|{range}"),
            Self::EgressHost(host, port) => write!(f, "egress|{host}|{port}"),
        }
    }
}

impl FromStr for ResourceName {
    type Err = NotAName;

    /// Reads a name. Only what [`fmt::Display`] writes is one, so that equal names are equal texts.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        let mut parts = [""; MOST_PARTS];
        let mut count = 0;
        for part in text.split('|') {
            *parts.get_mut(count).ok_or(NotAName)? = part;
            count += 1;
        }
        let name = match &parts[..count] {
            ["inbound"] => Self::Inbound,
            ["inbound-h2"] => Self::InboundHttp2,
            ["outbound"] => Self::Outbound,
            ["passthrough"] => Self::Passthrough,
            ["meshpassthrough"] => Self::MeshPassthrough,
            ["in", number] => Self::Port(port(number)?),
            ["in", number, "plaintext"] => Self::PortPlaintext(port(number)?),
            ["out", namespace, service, number, rest @ ..] => {
                called(service_port(namespace, service, number)?, rest)?
            }
            ["egress", number] => Self::Egress(port(number)?),
            // A range has a slash, which a port has not.
            ["egress", number, range] if range.contains('/') => {
                Self::EgressRange(port(number)?, Cidr::parse(range).ok_or(NotAName)?)
            }
            ["egress", host, number] if !host.is_empty() => {
                Self::EgressHost((*host).to_owned(), port(number)?)
            }
            _ => return Err(NotAName),
        };
        let mut rest = Rest(text);
        if write!(rest, "{name}").is_ok() && rest.0.is_empty() { Ok(name) } else { Err(NotAName) }
    }
}

/// What of a text has not been written: compares without writing.
struct Rest<'a>(&'a str);

impl Write for Rest<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        self.0 = self.0.strip_prefix(part).ok_or(fmt::Error)?;
        Ok(())
    }
}

fn called(port: ServicePort, rest: &[&str]) -> Result<ResourceName, NotAName> {
    match rest {
        [] => Ok(ResourceName::Service(port)),
        ["dialed"] => Ok(ResourceName::Dialed(port)),
        [address] => Ok(ResourceName::Pod(port, address.parse().map_err(|_| NotAName)?)),
        _ => Err(NotAName),
    }
}

fn port(text: &str) -> Result<u16, NotAName> {
    text.parse().map_err(|_| NotAName)
}

fn service_port(namespace: &str, service: &str, number: &str) -> Result<ServicePort, NotAName> {
    if namespace.is_empty() || service.is_empty() {
        return Err(NotAName);
    }
    Ok(ServicePort { namespace: namespace.to_owned(), service: service.to_owned(), port: port(number)? })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn service() -> impl Strategy<Value = ServicePort> {
        ("[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", "[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?", any::<u16>())
            .prop_map(|(namespace, service, port)| ServicePort { namespace, service, port })
    }

    fn name() -> impl Strategy<Value = ResourceName> {
        let range = (any::<IpAddr>(), 0..=128_u8).prop_filter_map("no such range", |(address, prefix)| {
            Cidr::parse(&format!("{address}/{prefix}"))
        });
        prop_oneof![
            Just(ResourceName::Inbound),
            Just(ResourceName::InboundHttp2),
            Just(ResourceName::Outbound),
            Just(ResourceName::Passthrough),
            Just(ResourceName::MeshPassthrough),
            any::<u16>().prop_map(ResourceName::Port),
            any::<u16>().prop_map(ResourceName::PortPlaintext),
            service().prop_map(ResourceName::Service),
            (service(), any::<IpAddr>(), any::<u16>()).prop_map(
                |(service, address, port)| ResourceName::Pod(service, SocketAddr::new(address, port))
            ),
            service().prop_map(ResourceName::Dialed),
            any::<u16>().prop_map(ResourceName::Egress),
            (any::<u16>(), range).prop_map(|(port, range)| ResourceName::EgressRange(port, range)),
            ("[*]?[a-z0-9][-.a-z0-9]{0,20}|[0-9]{1,5}", any::<u16>())
                .prop_map(|(host, port)| ResourceName::EgressHost(host, port)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name in name()) {
            let text = name.to_string();
            prop_assert_eq!(is_of_a_service(&text), name.service().is_some());
            let application = matches!(name, ResourceName::Inbound | ResourceName::InboundHttp2);
            prop_assert_eq!(is_of_the_application(&text), application);
            prop_assert_eq!(text.parse(), Ok(name));
        }

        #[test]
        fn what_is_read_is_written(text in "(in|out|egress|inbound|[a-z0-9./:]{0,6})(\\|(80|080|dialed|plaintext|10\\.0\\.0\\.0/8|10\\.1\\.1\\.1/8|[a-z0-9./:]{0,9})){0,5}") {
            if let Ok(name) = text.parse::<ResourceName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_nearly_a_name_is_none() {
        let all = [
            "",
            "in",
            "in|",
            "in|080",
            "in|+80",
            "in|70000",
            "in|80|plain",
            "out|shop|store",
            "out||store|80",
        ];
        let more = [
            "out|shop|store|80|dialled",
            "egress|80|10.1.2.3/8",
            "egress||80",
            "inbound|80",
            "out|a|b|1|2|3",
        ];
        for text in all.into_iter().chain(more) {
            assert_eq!(text.parse::<ResourceName>(), Err(NotAName), "{text}");
        }
    }
}
