//! OSM's Egress, IngressBackend and Retry.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::egress::{EgressSource, PolicyReference, PortSpec};
use crds::ingress_backend::{Backend, IngressSource};
use crds::retry::RetryPeer;
use crds::{EgressSpec, IngressBackendSpec, PolicyKind, RetrySpec};

use super::About;
use super::osm_part::{
    BackendPart, EgressPart, EgressProtocol, IngressPart, Origins, Principal, RetryPart, RetryRules, Speaks,
};
use super::part::ServiceAccount;
use super::policy::{SERVICE_ACCOUNT, unknown_kind};
use crate::problem::{Problem, Reason};

const ROUTES: PolicyKind = PolicyKind::HTTPRouteGroup;
const SETTINGS: PolicyKind = PolicyKind::UpstreamTrafficSetting;

/// More than any team writes; less than what would fill a sidecar.
const MOST_SOURCES: usize = 1024;
const MOST_HOSTS: usize = 256;
const MOST_RANGES: usize = 256;
const MOST_PORTS: usize = 64;
const MOST_BACKENDS: usize = 256;
const MOST_REFERENCES: usize = 64;
const MOST_DESTINATIONS: usize = 256;

/// Ports that the sidecar itself listens at: a listener for them would take them from it.
const OWN_PORTS: [u16; 5] = [
    crds::labels::ENVOY_ADMIN_PORT,
    crds::labels::OUTBOUND_PORT,
    crds::labels::INBOUND_PORT,
    crds::labels::PROXY_PORT,
    crds::labels::PROMETHEUS_PORT,
];

/// Longest pause or timeout: a longer one is a mistake.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Most retries of a call.
const MOST_RETRIES: u32 = 100;

/// Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on` (router filter).
const RETRY_ON: [&str; 15] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

pub(super) fn egress(about: About<'_>, spec: &EgressSpec) -> Result<EgressPart, Problem> {
    let hosts = spec.hosts.as_deref().unwrap_or_default();
    let ranges = spec.ip_addresses.as_deref().unwrap_or_default();
    about.at_most("spec.sources", MOST_SOURCES, spec.sources.len())?;
    about.at_most("spec.hosts", MOST_HOSTS, hosts.len())?;
    about.at_most("spec.ipAddresses", MOST_RANGES, ranges.len())?;
    about.at_most("spec.ports", MOST_PORTS, spec.ports.len())?;
    let sources = spec.sources.iter().enumerate();
    let sources = sources.map(|(index, one)| egress_source(about, &format!("spec.sources[{index}]"), one));
    let ports = spec.ports.iter().enumerate();
    let ports = ports.map(|(index, one)| egress_port(about, &format!("spec.ports[{index}]"), one));
    let hosts = hosts.iter().enumerate();
    let hosts = hosts.map(|(index, host)| about.host(&format!("spec.hosts[{index}]"), host));
    let ranges = ranges.iter().enumerate();
    let ranges = ranges.map(|(index, range)| about.range(&format!("spec.ipAddresses[{index}]"), range));
    let (groups, settings) =
        references(about, spec.matches.as_deref().unwrap_or_default(), &[ROUTES, SETTINGS])?;
    Ok(EgressPart {
        sources: sources.collect::<Result<_, _>>()?,
        hosts: hosts.collect::<Result<_, _>>()?,
        ranges: ranges.collect::<Result<_, _>>()?,
        ports: ports.collect::<Result<_, _>>()?,
        groups,
        settings,
    })
}

fn egress_source(about: About<'_>, field: &str, one: &EgressSource) -> Result<ServiceAccount, Problem> {
    own_account(about, field, &one.kind, &one.name, one.namespace.as_deref(), "opens destinations for")
}

/// A service account of the object's own namespace: nobody decides for another team's workloads.
fn own_account(
    about: About<'_>,
    field: &str,
    kind: &str,
    name: &str,
    namespace: Option<&str>,
    does: &str,
) -> Result<ServiceAccount, Problem> {
    if kind != SERVICE_ACCOUNT {
        return Err(unknown_kind(about, &format!("{field}.kind"), kind, SERVICE_ACCOUNT));
    }
    let own = &about.0.namespace;
    let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or(own);
    let namespace = about.name(&format!("{field}.namespace"), namespace)?;
    if namespace != *own {
        let message = format!(
            "the service account is in namespace {namespace}, but this kind only {does} service accounts of its own \
             namespace {own}; move it to {namespace}"
        );
        return Err(about.problem(&format!("{field}.namespace"), Reason::ForeignNamespace, message));
    }
    Ok(ServiceAccount { namespace, name: about.name(&format!("{field}.name"), name)? })
}

fn egress_port(about: About<'_>, field: &str, port: &PortSpec) -> Result<(u16, EgressProtocol), Problem> {
    let number = about.port(&format!("{field}.number"), port.number)?;
    if OWN_PORTS.contains(&number) {
        let message = format!("{number} is a port of the sidecar itself and cannot be called through it");
        return Err(about.problem(&format!("{field}.number"), Reason::BadPort, message));
    }
    let protocol = match port.protocol.to_ascii_lowercase().as_str() {
        "http" => EgressProtocol::Http,
        "https" => EgressProtocol::Https,
        "tcp" | "tcp-server-first" => EgressProtocol::Tcp,
        other => {
            let expected = "http, https, tcp or tcp-server-first";
            return Err(unknown_kind(about, &format!("{field}.protocol"), other, expected));
        }
    };
    Ok((number, protocol))
}

/// The HTTPRouteGroups and the UpstreamTrafficSetting that an object refers to. The group may carry its version, as
/// OSM has it.
fn references(
    about: About<'_>,
    matches: &[PolicyReference],
    possible: &[PolicyKind],
) -> Result<(Option<BTreeSet<String>>, Option<String>), Problem> {
    about.at_most("spec.matches", MOST_REFERENCES, matches.len())?;
    let mut groups = BTreeSet::new();
    let mut settings: Option<String> = None;
    for (index, one) in matches.iter().enumerate() {
        let field = format!("spec.matches[{index}]");
        let name = about.name(&format!("{field}.name"), &one.name)?;
        let kind = about.refers(&field, one.api_group.as_deref(), &one.kind, possible)?;
        if kind == ROUTES {
            groups.insert(name);
        } else if settings.as_ref().is_some_and(|other| *other != name) {
            let message = "only one UpstreamTrafficSetting can count; keep one of them";
            return Err(about.problem(&field, Reason::Conflict, message));
        } else {
            settings = Some(name);
        }
    }
    Ok((Some(groups).filter(|groups| !groups.is_empty()), settings))
}

pub(super) fn ingress(about: About<'_>, spec: &IngressBackendSpec) -> Result<IngressPart, Problem> {
    about.at_most("spec.backends", MOST_BACKENDS, spec.backends.len())?;
    about.at_most("spec.sources", MOST_SOURCES, spec.sources.len())?;
    let backends = spec.backends.iter().enumerate();
    let backends = backends.map(|(index, one)| backend(about, &format!("spec.backends[{index}]"), one));
    let mut part = IngressPart {
        backends: backends.collect::<Result<_, _>>()?,
        from: Origins::default(),
        principals: BTreeSet::new(),
        groups: references(about, spec.matches.as_deref().unwrap_or_default(), &[ROUTES])?.0,
    };
    for (index, one) in spec.sources.iter().enumerate() {
        ingress_source(about, &format!("spec.sources[{index}]"), one, &mut part)?;
    }
    // Without a place to come from and without a certificate it would be open to everybody: that must be said.
    let nameless = |one: &BackendPart| match &one.speaks {
        Speaks::Plaintext => true,
        Speaks::Tls { certificate, .. } => !certificate || part.principals.is_empty(),
    };
    if part.from.anywhere() && part.backends.iter().any(nameless) {
        let message = "nothing says who may call: plaintext callers and callers whose certificate is not asked for \
                       have no name; add an IPRange (0.0.0.0/0 is everybody) or a Service, or ask for certificates \
                       over https and name an AuthenticatedPrincipal";
        return Err(about.problem("spec.sources", Reason::OpensNothing, message));
    }
    Ok(part)
}

fn backend(about: About<'_>, field: &str, one: &Backend) -> Result<BackendPart, Problem> {
    let speaks = match one.port.protocol.to_ascii_lowercase().as_str() {
        "http" | "grpc" | "tcp" => Speaks::Plaintext,
        "https" => {
            let hosts = one.tls.iter().flat_map(|tls| tls.sni_hosts.iter().flatten());
            let hosts: Vec<_> = hosts.collect();
            about.at_most(&format!("{field}.tls.sniHosts"), MOST_HOSTS, hosts.len())?;
            let names = hosts.into_iter().map(|host| about.host(&format!("{field}.tls.sniHosts"), host));
            Speaks::Tls {
                certificate: !one.tls.as_ref().is_some_and(|tls| tls.skip_client_cert_validation),
                server_names: names.collect::<Result<_, _>>()?,
            }
        }
        other => {
            let field = format!("{field}.port.protocol");
            return Err(unknown_kind(about, &field, other, "http, https, grpc or tcp"));
        }
    };
    Ok(BackendPart {
        service: about.name(&format!("{field}.name"), &one.name)?,
        port: about.port(&format!("{field}.port.number"), one.port.number)?,
        speaks,
    })
}

fn ingress_source(
    about: About<'_>,
    field: &str,
    one: &IngressSource,
    part: &mut IngressPart,
) -> Result<(), Problem> {
    match one.kind.as_str() {
        "IPRange" => {
            part.from.ranges.insert(about.range(&format!("{field}.name"), &one.name)?);
        }
        "Service" => {
            let own = &about.0.namespace;
            let namespace = one.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(own);
            let namespace = about.name(&format!("{field}.namespace"), namespace)?;
            part.from.services.insert((namespace, about.name(&format!("{field}.name"), &one.name)?));
        }
        "AuthenticatedPrincipal" if one.name == "*" => {
            part.principals.insert(Principal::Any);
        }
        "AuthenticatedPrincipal" => {
            let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'*');
            if one.name.is_empty() || one.name.len() > 512 || !one.name.bytes().all(fits) {
                let message =
                    "write the name in the certificate, as in gateway.ingress.cluster.local, or * for any";
                return Err(about.problem(&format!("{field}.name"), Reason::Incomplete, message));
            }
            part.principals.insert(Principal::Named(one.name.clone()));
        }
        other => {
            let expected = "Service, IPRange or AuthenticatedPrincipal";
            return Err(unknown_kind(about, &format!("{field}.kind"), other, expected));
        }
    }
    Ok(())
}

pub(super) fn retry(about: About<'_>, spec: &RetrySpec) -> Result<RetryPart, Problem> {
    let RetryPeer { kind, name, namespace } = &spec.source;
    let does = "has calls tried again of";
    let source = own_account(about, "spec.source", kind, name, namespace.as_deref(), does)?;
    about.at_most("spec.destinations", MOST_DESTINATIONS, spec.destinations.len())?;
    let mut destinations = BTreeSet::new();
    for (index, one) in spec.destinations.iter().enumerate() {
        let field = format!("spec.destinations[{index}]");
        if one.kind != "Service" {
            return Err(unknown_kind(about, &format!("{field}.kind"), &one.kind, "Service"));
        }
        let namespace = one.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let namespace = namespace.unwrap_or(&about.0.namespace);
        let namespace = about.name(&format!("{field}.namespace"), namespace)?;
        destinations.insert((namespace, about.name(&format!("{field}.name"), &one.name)?));
    }
    let policy = &spec.retry_policy;
    let field = "spec.retryPolicy";
    let conditions = policy.retry_on.split(',').map(str::trim).filter(|one| !one.is_empty());
    let on: BTreeSet<String> = conditions.map(str::to_ascii_lowercase).collect();
    if let Some(other) = on.iter().find(|one| !RETRY_ON.contains(&one.as_str())) {
        let shown: String = other.chars().take(64).collect();
        let message = format!("{shown:?} is no condition; write some of {}", RETRY_ON.join(","));
        return Err(about.problem(&format!("{field}.retryOn"), Reason::BadSetting, message));
    }
    let retries = policy.num_retries.unwrap_or(1);
    if on.is_empty() || retries > MOST_RETRIES {
        let message = format!("write at least one condition in retryOn, and at most {MOST_RETRIES} retries");
        return Err(about.problem(field, Reason::BadSetting, message));
    }
    let pause = policy.retry_backoff_base_interval.as_deref();
    let rules = RetryRules {
        on,
        retries,
        per_try: about.duration(&format!("{field}.perTryTimeout"), policy.per_try_timeout.as_deref())?,
        backoff: about.duration(&format!("{field}.retryBackoffBaseInterval"), pause)?,
    };
    Ok(RetryPart { source, destinations, rules })
}

impl About<'_> {
    /// A duration; none when it is 0. Envoy takes nothing finer than a millisecond.
    pub(super) fn duration(self, field: &str, text: Option<&str>) -> Result<Option<Duration>, Problem> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
        let bad = |message: String| self.problem(field, Reason::BadSetting, message);
        let duration = crds::duration::parse_go(text).map_err(|error| bad(error.to_string()))?;
        if duration > LONGEST || (!duration.is_zero() && duration < Duration::from_millis(1)) {
            return Err(bad(format!("{text} is too short or too long; write 1ms to 24h")));
        }
        Ok(Some(duration).filter(|duration| !duration.is_zero()))
    }
}
