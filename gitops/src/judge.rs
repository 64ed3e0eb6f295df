//! What is well-formed and still can never be right, whatever else the mesh holds.
//!
//! References to objects that aren't there are not judged: they may come later (the controllers report them).

use std::collections::BTreeSet;

use crds::smi::TypedReference;
use crds::{
    EgressSpec, HTTPRouteGroupSpec, IngressBackendSpec, PolicyKind, RetrySpec, TCPRouteSpec,
    TrafficSplitSpec, TrafficTargetSpec,
};

use crate::policy::{Key, PolicySpec};

/// The first thing that can never be right, as the key to look for and a message.
pub fn never_right(key: &Key, spec: &PolicySpec) -> Option<(&'static str, String)> {
    match spec {
        PolicySpec::TrafficTarget(spec) => traffic_target(key, spec),
        PolicySpec::HTTPRouteGroup(spec) => route_group(spec),
        PolicySpec::TCPRoute(spec) => tcp_route(spec),
        PolicySpec::TrafficSplit(spec) => traffic_split(spec),
        PolicySpec::Egress(spec) => egress(key, spec),
        PolicySpec::IngressBackend(spec) => ingress_backend(spec),
        PolicySpec::Retry(spec) => retry(key, spec),
        // `meshwright validate` and the admission webhook judge what is in them.
        PolicySpec::MeshPolicy(_) | PolicySpec::UpstreamTrafficSetting(_) => None,
    }
}

fn traffic_target(key: &Key, spec: &TrafficTargetSpec) -> Option<(&'static str, String)> {
    let destination = spec.destination.namespace.as_deref().unwrap_or(&key.namespace);
    if destination != key.namespace {
        let message = format!(
            "the destination is in namespace {destination}, but a TrafficTarget only opens service accounts of its \
             own namespace (SMI); move it to namespace {destination}"
        );
        return Some(("destination", message));
    }
    if let Some(subject) =
        std::iter::once(&spec.destination).chain(&spec.sources).find(|s| s.kind != "ServiceAccount")
    {
        return Some(("kind", format!("{:?} is no identity; only ServiceAccount is", subject.kind)));
    }
    let routes = [Some(PolicyKind::HTTPRouteGroup), Some(PolicyKind::TCPRoute)];
    let rule = spec.rules.iter().find(|rule| !routes.contains(&PolicyKind::from_name(&rule.kind)))?;
    Some(("rules", format!("a rule's kind is HTTPRouteGroup or TCPRoute, not {:?}", rule.kind)))
}

/// A service account of another namespace: nobody decides for another team's workloads.
fn foreign(key: &Key, name: &str, namespace: Option<&str>) -> Option<String> {
    let namespace = namespace.filter(|namespace| !namespace.is_empty() && *namespace != key.namespace)?;
    Some(format!(
        "service account {name} is in namespace {namespace}, but {} only speaks for service accounts of its own \
         namespace {}; move it to namespace {namespace}",
        key.kind, key.namespace
    ))
}

fn egress(key: &Key, spec: &EgressSpec) -> Option<(&'static str, String)> {
    if let Some(source) = spec.sources.iter().find(|source| source.kind != "ServiceAccount") {
        return Some(("kind", format!("{:?} is no identity; only ServiceAccount is", source.kind)));
    }
    let mut sources = spec.sources.iter();
    if let Some(message) = sources.find_map(|one| foreign(key, &one.name, one.namespace.as_deref())) {
        return Some(("sources", message));
    }
    let port = spec.ports.iter().find(|port| !(1..=65535).contains(&port.number))?;
    Some(("ports", format!("{} is not a port; ports are 1 to 65535", port.number)))
}

fn ingress_backend(spec: &IngressBackendSpec) -> Option<(&'static str, String)> {
    let known = ["Service", "IPRange", "AuthenticatedPrincipal"];
    if let Some(source) = spec.sources.iter().find(|source| !known.contains(&source.kind.as_str())) {
        let kinds = known.join(", ");
        return Some(("sources", format!("a source's kind is one of {kinds}, not {:?}", source.kind)));
    }
    let backend = spec.backends.iter().find(|backend| !(1..=65535).contains(&backend.port.number))?;
    Some(("backends", format!("{} is not a port; ports are 1 to 65535", backend.port.number)))
}

fn retry(key: &Key, spec: &RetrySpec) -> Option<(&'static str, String)> {
    if spec.source.kind != "ServiceAccount" {
        return Some(("source", format!("a source's kind is ServiceAccount, not {:?}", spec.source.kind)));
    }
    if let Some(message) = foreign(key, &spec.source.name, spec.source.namespace.as_deref()) {
        return Some(("source", message));
    }
    let other = spec.destinations.iter().find(|destination| destination.kind != "Service")?;
    Some(("destinations", format!("a destination's kind is Service, not {:?}", other.kind)))
}

fn route_group(spec: &HTTPRouteGroupSpec) -> Option<(&'static str, String)> {
    let mut seen = BTreeSet::new();
    let twice = spec.matches.iter().find(|each| !each.name.is_empty() && !seen.insert(&each.name))?;
    Some(("matches", format!("two matches are named {:?}; give each its own name", twice.name)))
}

fn tcp_route(spec: &TCPRouteSpec) -> Option<(&'static str, String)> {
    let port = spec.matches.ports.iter().find(|port| !(1..=65535).contains(*port))?;
    Some(("ports", format!("{port} is not a port; ports are 1 to 65535")))
}

fn traffic_split(spec: &TrafficSplitSpec) -> Option<(&'static str, String)> {
    if spec.backends.is_empty() {
        return Some(("backends", "there is no backend; name at least one".to_owned()));
    }
    if let Some(backend) = spec.backends.iter().find(|backend| backend.weight < 0) {
        return Some(("weight", format!("the weight of {} is negative", backend.service)));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = spec.backends.iter().find(|backend| !seen.insert(&backend.service)) {
        return Some(("backends", format!("backend {} is named twice; add the weights up", twice.service)));
    }
    let kind = |one: &TypedReference| PolicyKind::referred(one.api_group.as_deref(), &one.kind);
    let routes = Some(PolicyKind::HTTPRouteGroup);
    let other = spec.matches.iter().flatten().find(|reference| kind(reference) != routes)?;
    let group = other.api_group.as_deref().map(|group| format!(" of {group:?}")).unwrap_or_default();
    let (kind, of) = (PolicyKind::HTTPRouteGroup, PolicyKind::HTTPRouteGroup.group());
    Some(("matches", format!("a match's kind is {kind} of {of}, not {:?}{group}", other.kind)))
}
