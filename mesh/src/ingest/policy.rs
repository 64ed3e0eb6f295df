//! SMI's objects and ours.

use std::collections::{BTreeMap, BTreeSet};

use crds::smi::{HTTPMatch, IdentitySubject, TrafficTargetRule};
use crds::{
    HTTPRouteGroupSpec, MeshPolicySpec, PolicyKind, PolicySource, TCPRouteSpec, TrafficSplitSpec,
    TrafficTargetSpec,
};

use super::About;
use super::part::{
    HttpMatch, ModePart, RoutesPart, RuleRef, ServiceAccount, SourcePart, SplitPart, TargetPart,
};
use super::pattern::Pattern;
use crate::object::{Kind, ObjectRef};
use crate::problem::{Problem, Reason};

/// More than any team writes; less than what would fill a sidecar.
const MOST_SOURCES: usize = 1024;
const MOST_RULES: usize = 128;
const MOST_MATCHES: usize = 512;
const MOST_PORTS: usize = 1024;
const MOST_BACKENDS: usize = 64;
const MOST_HEADERS: usize = 32;
const MOST_GROUPS: usize = 64;

/// Kind of a service account in SMI.
pub(super) const SERVICE_ACCOUNT: &str = "ServiceAccount";

pub(super) fn target(about: About<'_>, spec: &TrafficTargetSpec) -> Result<TargetPart, Problem> {
    about.at_most("spec.sources", MOST_SOURCES, spec.sources.len())?;
    about.at_most("spec.rules", MOST_RULES, spec.rules.len())?;
    let destination = subject(about, "spec.destination", &spec.destination)?;
    if destination.namespace != about.0.namespace {
        let message = format!(
            "the destination is in namespace {}, but a TrafficTarget opens only service accounts of its own \
             namespace {}; move it to {0}",
            destination.namespace, about.0.namespace
        );
        return Err(about.problem("spec.destination.namespace", Reason::ForeignNamespace, message));
    }
    let sources = spec.sources.iter().enumerate();
    let sources = sources.map(|(index, source)| subject(about, &format!("spec.sources[{index}]"), source));
    let rules = spec.rules.iter().enumerate();
    let rules = rules.map(|(index, rule)| self::rule(about, &format!("spec.rules[{index}]"), rule));
    Ok(TargetPart {
        destination,
        sources: sources.collect::<Result<_, _>>()?,
        rules: rules.collect::<Result<_, _>>()?,
    })
}

fn subject(about: About<'_>, field: &str, subject: &IdentitySubject) -> Result<ServiceAccount, Problem> {
    if subject.kind != SERVICE_ACCOUNT {
        return Err(unknown_kind(about, &format!("{field}.kind"), &subject.kind, SERVICE_ACCOUNT));
    }
    let namespace = subject.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    Ok(ServiceAccount {
        namespace: about.name(&format!("{field}.namespace"), namespace.unwrap_or(&about.0.namespace))?,
        name: about.name(&format!("{field}.name"), &subject.name)?,
    })
}

fn rule(about: About<'_>, field: &str, rule: &TrafficTargetRule) -> Result<RuleRef, Problem> {
    let name = about.name(&format!("{field}.name"), &rule.name)?;
    match PolicyKind::from_name(&rule.kind) {
        Some(PolicyKind::HTTPRouteGroup) => {
            // Omitted means all (SMI traffic access); so does an empty list, which Go's SMI clients cannot tell from it.
            let matches = rule.matches.as_ref().filter(|matches| !matches.is_empty());
            about.at_most(&format!("{field}.matches"), MOST_MATCHES, matches.map_or(0, Vec::len))?;
            Ok(RuleRef::Http { name, matches: matches.map(|matches| matches.iter().cloned().collect()) })
        }
        Some(PolicyKind::TCPRoute) => Ok(RuleRef::Tcp { name }),
        _ => Err(unknown_kind(about, &format!("{field}.kind"), &rule.kind, "HTTPRouteGroup or TCPRoute")),
    }
}

impl About<'_> {
    /// The kind that a reference means: one of those that are possible there, and ours by its group.
    pub(super) fn refers(
        self,
        field: &str,
        api_group: Option<&str>,
        kind: &str,
        possible: &[PolicyKind],
    ) -> Result<PolicyKind, Problem> {
        let Some(named) = possible.iter().copied().find(|possible| possible.name() == kind) else {
            let names: Vec<_> = possible.iter().map(|possible| possible.name()).collect();
            return Err(unknown_kind(self, &format!("{field}.kind"), kind, &names.join(" or ")));
        };
        PolicyKind::referred(api_group, kind).ok_or_else(|| {
            let group = api_group.unwrap_or_default();
            unknown_kind(self, &format!("{field}.apiGroup"), group, &named.group())
        })
    }
}

pub(super) fn unknown_kind(about: About<'_>, field: &str, kind: &str, allowed: &str) -> Problem {
    let shown: String = kind.chars().take(64).collect();
    about.problem(field, Reason::UnknownKind, format!("{shown:?} is not allowed here; write {allowed}"))
}

pub(super) fn group(about: About<'_>, spec: &HTTPRouteGroupSpec) -> Result<RoutesPart, Problem> {
    about.at_most("spec.matches", MOST_MATCHES, spec.matches.len())?;
    let matches = spec.matches.iter().enumerate();
    let matches = matches.map(|(index, one)| {
        Ok((one.name.clone(), http_match(about, &format!("spec.matches[{index}]"), one)?))
    });
    matches.collect::<Result<_, _>>().map(RoutesPart::Http)
}

fn http_match(about: About<'_>, field: &str, one: &HTTPMatch) -> Result<HttpMatch, Problem> {
    let path = one.path_regex.as_deref();
    let path = path.map(|text| pattern(about, &format!("{field}.pathRegex"), text)).transpose()?;
    let mut methods = BTreeSet::new();
    for method in one.methods.iter().flatten() {
        let valid =
            (1..=32).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        if method != "*" && !valid {
            let message = "methods are upper case, as in GET; * is any";
            return Err(about.problem(&format!("{field}.methods"), Reason::BadHttp, message));
        }
        methods.insert(method.clone());
    }
    if methods.contains("*") {
        methods.clear();
    }
    let pairs = one.headers.as_ref().map(crds::smi::Headers::pairs).unwrap_or_default();
    about.at_most(&format!("{field}.headers"), MOST_HEADERS, pairs.len())?;
    let headers =
        pairs.into_iter().map(|(name, text)| header(about, &format!("{field}.headers"), name, text));
    Ok(HttpMatch { path, methods, headers: headers.collect::<Result<_, _>>()? })
}

/// A header name in lower case and its expression. `host` is what HTTP/2 calls `:authority`.
fn header(about: About<'_>, field: &str, name: &str, text: &str) -> Result<(String, String), Problem> {
    let name = match name.to_ascii_lowercase().as_str() {
        "host" => ":authority".to_owned(),
        other => other.to_owned(),
    };
    if name != ":authority" && !is_token(&name) {
        let message = "a header name has letters, digits and - only; write host for the authority";
        return Err(about.problem(field, Reason::BadHttp, message));
    }
    let text = pattern(about, &format!("{field}[{name}]"), text)?;
    Ok((name, text))
}

/// Whether a text can be the name of a header or a cookie (RFC 9110, token).
pub(super) fn is_token(name: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (1..=256).contains(&name.len()) && name.bytes().all(token)
}

pub(super) fn pattern(about: About<'_>, field: &str, text: &str) -> Result<String, Problem> {
    match Pattern::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(about.problem(field, Reason::BadRegex, error.to_string())),
    }
}

pub(super) fn tcp(about: About<'_>, spec: &TCPRouteSpec) -> Result<RoutesPart, Problem> {
    about.at_most("spec.matches.ports", MOST_PORTS, spec.matches.ports.len())?;
    let ports = spec.matches.ports.iter().map(|port| about.port("spec.matches.ports", *port));
    ports.collect::<Result<_, _>>().map(RoutesPart::Tcp)
}

pub(super) fn split(about: About<'_>, spec: &TrafficSplitSpec) -> Result<SplitPart, Problem> {
    about.at_most("spec.backends", MOST_BACKENDS, spec.backends.len())?;
    let root = about.name("spec.service", local_service(&spec.service, &about.0.namespace))?;
    let mut backends: BTreeMap<String, u32> = BTreeMap::new();
    for (index, backend) in spec.backends.iter().enumerate() {
        let field = format!("spec.backends[{index}]");
        let name = local_service(&backend.service, &about.0.namespace);
        let name = about.name(&format!("{field}.service"), name)?;
        let bad = || about.problem(&format!("{field}.weight"), Reason::BadWeight, "a weight is 0 or more");
        let weight = u32::try_from(backend.weight).map_err(|_| bad())?;
        let sum = backends.entry(name).or_default();
        *sum = sum.checked_add(weight).ok_or_else(bad)?;
    }
    // Envoy adds the weights of a route up in 32 bits and refuses more, and 0.
    let total: u64 = backends.values().map(|weight| u64::from(*weight)).sum();
    if total == 0 || total > u64::from(u32::MAX) {
        let message = format!("the weights add up to {total}; the sum must be 1 to {}", u32::MAX);
        return Err(about.problem("spec.backends", Reason::BadWeight, message));
    }
    about.at_most("spec.matches", MOST_GROUPS, spec.matches.as_ref().map_or(0, Vec::len))?;
    let mut groups = BTreeSet::new();
    for (index, one) in spec.matches.iter().flatten().enumerate() {
        let field = format!("spec.matches[{index}]");
        about.refers(&field, one.api_group.as_deref(), &one.kind, &[PolicyKind::HTTPRouteGroup])?;
        groups.insert(about.name(&format!("{field}.name"), &one.name)?);
    }
    Ok(SplitPart { root, backends, matches: Some(groups).filter(|groups| !groups.is_empty()) })
}

/// The name of a service that may be written `name`, `name.namespace`, `name.namespace.svc` or in full. A name with
/// another namespace stays as it is and will not be found.
pub(super) fn local_service<'a>(text: &'a str, namespace: &str) -> &'a str {
    let Some((name, rest)) = text.split_once('.') else { return text };
    match rest.strip_prefix(namespace) {
        Some("" | ".svc") => name,
        Some(tail) if tail.starts_with(".svc.") => name,
        _ => text,
    }
}

pub(super) fn mode(about: About<'_>, spec: &MeshPolicySpec) -> Result<ModePart, Problem> {
    for one in spec.selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten()) {
        let values = one.values.as_ref().is_some_and(|values| !values.is_empty());
        let valid = match one.operator.as_str() {
            "In" | "NotIn" => values,
            "Exists" | "DoesNotExist" => !values,
            _ => false,
        };
        if !valid {
            let message = "write In or NotIn with values, or Exists or DoesNotExist without";
            return Err(about.problem("spec.selector.matchExpressions", Reason::BadSelector, message));
        }
    }
    let selector = spec.selector.clone().filter(|selector| *selector != Default::default());
    Ok(ModePart { selector, mtls: spec.mtls, authorization: spec.authorization })
}

/// Entries of a kind that is not sealed, or of a group that is not ours, are left out; there are none unless somebody edits the status by hand.
pub(super) fn source(object: &PolicySource) -> SourcePart {
    let sealed = object.status.as_ref().filter(|status| status.applied.is_some());
    let inventory = sealed.map(|status| {
        let entries = status.inventory.iter();
        entries
            .filter_map(|entry| {
                let kind = Kind::from(entry.policy_kind()?);
                Some((ObjectRef::new(kind, &entry.namespace, &entry.name), entry.hash.clone()))
            })
            .collect()
    });
    SourcePart { inventory }
}
